"""`make sim SEEDS=n`: n seeds on all cores. `make sim SEED=123`: one of them, with what it told.

Ends with 1 where a seed failed, and prints for each the command that repeats it.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from .walk import STEPS, Result, simulate

PROGRESS = 100  # seeds between two lines of progress
SHOWN_MAX = 5  # failures that are told in full


def one(seed: int, *, folder: str, steps: int, durability: str) -> Result:
    """In a worker."""
    return simulate(Path(folder), seed, steps, DURABILITY=durability)


def run(seeds: range, jobs: int, steps: int, durability: str) -> Iterator[Result]:
    with tempfile.TemporaryDirectory() as folder:
        work = partial(one, folder=folder, steps=steps, durability=durability)
        if jobs == 1:
            yield from map(work, seeds)
        else:
            with ProcessPoolExecutor(jobs) as pool:
                yield from pool.map(work, seeds, chunksize=4)


def report(result: Result, *, full: bool) -> None:
    print(f"seed {result.seed}: {result.failure}")
    print(f"    again: make sim SEED={result.seed}")
    if full:
        for line in (*result.told, *result.trace):
            print(f"    {line}")
    sys.stdout.flush()


class Summary:
    """Of all seeds so far."""

    def __init__(self) -> None:
        self.begun_s = time.perf_counter()
        self.sums: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.failed: list[int] = []

    def add(self, result: Result) -> None:
        for name in ("orders", "fills", "commits", "steps", "restarts", "takeovers", "virtual_ns"):
            self.sums[name] += getattr(result, name)
        self.sums["seeds"] += 1
        self.faults.update(result.faults)
        if result.failure:
            self.failed.append(result.seed)

    @property
    def rate(self) -> float:
        return self.sums["orders"] / (time.perf_counter() - self.begun_s)

    def show(self) -> None:
        sums, wall_s = self.sums, time.perf_counter() - self.begun_s
        virtual_h = sums["virtual_ns"] / 3.6e12
        print(f"{'seeds':>12} {sums['seeds']:>10,}   failed {len(self.failed)} {self.failed or ''}")
        print(f"{'orders':>12} {sums['orders']:>10,}   at the exchange; {sums['fills']:,} fills")
        print(f"{'commits':>12} {sums['commits']:>10,}   {sums['steps']:,} callbacks, {virtual_h:,.1f} virtual hours")
        print(f"{'processes':>12} {sums['restarts']:>10,}   killed; {sums['takeovers']:,} taken over")
        print(f"{'faults':>12} {sum(self.faults.values()):>10,}   " + self._faults())
        print(f"{'wall time':>12} {wall_s:>9.1f}s   {self.rate:,.0f} simulated orders a second")

    def _faults(self) -> str:
        return ", ".join(f"{name} {count:,}" for name, count in sorted(self.faults.items()))


def main() -> int:
    parser = argparse.ArgumentParser(prog="make sim", description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=200, help="how many (200)")
    parser.add_argument("--first", type=int, default=0, help="the first of them (0)")
    parser.add_argument("--seed", type=int, help="only this one, and all that it told")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"actions of a walk ({STEPS})")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (one a core)")
    parser.add_argument("--durability", choices=("ahead", "behind"), default="ahead")
    given = parser.parse_args()
    seeds = range(given.first, given.first + given.seeds)
    if given.seed is not None:
        seeds = range(given.seed, given.seed + 1)
    jobs = min(given.jobs, len(seeds)) or 1
    summary = Summary()
    for result in run(seeds, jobs, given.steps, given.durability):
        summary.add(result)
        if result.failure:
            report(result, full=len(summary.failed) <= SHOWN_MAX)
        if given.seed is not None:
            print(f"digest {result.digest}")
        elif summary.sums["seeds"] % PROGRESS == 0:
            print(f"{summary.sums['seeds']:>6} seeds, {summary.rate:,.0f} orders/s", file=sys.stderr, flush=True)
    summary.show()
    return 1 if summary.failed else 0


if __name__ == "__main__":
    sys.exit(main())
