"""`make crash ROUNDS=20`: rounds of kills with several services at once; exit code 1 where anything was found."""

from __future__ import annotations

import argparse
import secrets
import statistics
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

import tbx.core.market.slippage  # noqa: F401  # whose kernels are warmed up, and those that it uses
from tbx.core.kernel_cache import warm_up

from .faults import KINDS
from .rounds import IN_FLIGHT_LEAST, Result, run_rounds, say

ROUNDS_OF_ONE = 10  # with one service and one exchange; then new ones, so that reading the books stays quick


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make crash", description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--jobs", type=int, default=4, help="services at once; most of a round is waiting")
    parser.add_argument("--seed", default=secrets.token_hex(3), help="of what strikes, and when")
    parser.add_argument("--first", type=int, default=0, help="the number of the first round")
    parser.add_argument("--kinds", default=",".join(KINDS), help=f"of {', '.join(KINDS)}; they take turns")
    asked = parser.parse_args(words)
    kinds = asked.kinds.split(",")
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or asked.rounds < 1 or asked.jobs < 1:
        parser.error(f"--kinds {','.join(unknown)}: there are {', '.join(KINDS)}; --rounds and --jobs are at least 1")
    numbers = range(asked.first, asked.first + asked.rounds)
    size = min(ROUNDS_OF_ONE, -(-len(numbers) // asked.jobs))
    parts = [numbers[at : at + size] for at in range(0, len(numbers), size)]
    begun = time.monotonic()
    print(f"crash: {asked.rounds} rounds, SEED={asked.seed}", flush=True)
    warm_up(say)  # once for all, where each would compile the same
    with ProcessPoolExecutor(asked.jobs, get_context("spawn")) as pool:
        work = partial(run_rounds, asked.seed, kinds=kinds, say=say)
        results = [result for part in pool.map(work, parts) for result in part]
    print(summary(results, time.monotonic() - begun))
    complete = len(results) == asked.rounds
    return 0 if complete and not any(result.findings for result in results) else 1


def summary(results: Sequence[Result], took_s: float) -> str:
    """The table at the end; only rounds that count."""
    kills = Counter(result.kind for result in results)
    found = Counter(finding.kind for result in results for finding in result.findings)
    flights = [result.in_flight for result in results] or [0]
    slowest = max((result.recovery_s for result in results), default=0.0)
    flight = f"least {min(flights)}, median {statistics.median(flights):g} (at least {IN_FLIGHT_LEAST} to count)"
    rows = {
        "rounds": f"{len(results)} in {took_s / 60:.1f} min",
        "struck": ", ".join(f"{kind} {kills[kind]}" for kind in KINDS if kills[kind]),
        "orders": sum(result.orders for result in results),
        "fills": sum(result.fills for result in results),
        "in flight": flight,
        "made again": sum(result.tries - 1 for result in results),
        "lost": found["lost"],
        "doubled": found["doubled"],
        "differences": found["differs"],
        "slowest recovery": f"{slowest:.1f} s until orders were taken again",
    }
    return "\n".join(f"{name:<18}{value}" for name, value in rows.items())


if __name__ == "__main__":
    sys.exit(main())
