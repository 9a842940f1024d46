"""`make bench`: measures everything, prints one table, appends to history.jsonl.

    python bench/run.py [--quick] [--only NAME ...] [--list] [--no-history]

Always true here: a missed target is said in the table and leaves the exit code 0; a benchmark that could not run is
said too and makes it 1. Children and temporary folders are gone when this ends, also after Ctrl-C (130).
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

BENCH = Path(__file__).resolve().parent
ROOT = BENCH.parent
if (ROOT / ".src" / "tbx").is_dir():
    sys.path.insert(1, str(ROOT / ".src"))  # the checkout, before a tbx that is installed

import commit_bench  # noqa: E402 - after the path
import follow_bench  # noqa: E402
import micro  # noqa: E402
import recover_bench  # noqa: E402
import replay_bench  # noqa: E402
import risk_service_bench  # noqa: E402
import service_bench  # noqa: E402
import signal_bench  # noqa: E402
import store_rows  # noqa: E402
import strategies_bench  # noqa: E402
import tick_bench  # noqa: E402
from table import Figure, append_history, circumstances, render, summary  # noqa: E402

HISTORY = BENCH / "history.jsonl"
EXIT_FAILED = 1
EXIT_INTERRUPTED = 130

Measurement = Callable[..., list[Figure]]


def measurements() -> dict[str, tuple[str, Measurement]]:
    """Name -> (what it measures, how). The whole service first, while the machine is coolest and memory untouched."""
    found: dict[str, tuple[str, Measurement]] = {
        "orders": ("POST /api/orders beside a bare handler: rate and latency", service_bench.orders),
        "start": ("start to ready, empty", service_bench.start),
        "held": ("start, reads and memory with 10,000 orders, 50,000 trades, 1,000 positions", service_bench.held),
        "commit": ("commits while 2,000 orders a second come in, fsync everysec and always", commit_bench.commit),
        "recover": ("start to ready of a live service with 10,000 open orders, 50,000 trades", recover_bench.recover),
        "tick": ("a depth frame to an order frame over real sockets, beside an echo", tick_bench.tick),
        "follow": ("200 symbols of diff depth, from the exchange's clock to the books", follow_bench.follow),
        "signal": ("a signal to its orders committed, on a real Redis", signal_bench.signals),
        "risk-service": ("a local risk service asked about an entry", risk_service_bench.risk_service),
        "strategies": ("50 strategies in the process, 1,000 books a second", strategies_bench.strategies),
        "replay": ("recorded frames to books", replay_bench.replay),
    }
    for path in sorted(BENCH.glob("bench_*.py")):
        name = path.stem.removeprefix("bench_")
        about = micro.first_line(path)
        if store_rows.has_rows(path):
            found[name] = (about, partial(store_rows.measure, path))
        else:
            found[name] = (about, partial(micro.measure, path))
    return found


def main(argv: Sequence[str] | None = None) -> int:
    known = measurements()
    arguments = _parser(known).parse_args(argv)
    if arguments.list:
        for name, (about, _) in known.items():
            print(f"{name:12} {about}")
        return 0
    wanted = arguments.only or list(known)
    signal.signal(signal.SIGTERM, _interrupt)  # so that `with` and `finally` get their turn
    figures: list[Figure] = []
    code = 0
    try:
        for name in wanted:
            figures += measured(name, known[name], quick=arguments.quick)
    except KeyboardInterrupt:
        print("interrupted; what was measured until then:", file=sys.stderr)
        code = EXIT_INTERRUPTED
    if figures:
        print(render(figures))
        print(f"\n{summary(figures)}")
    if not arguments.no_history and not code:
        lines = append_history(HISTORY, figures, circumstances(ROOT, quick=arguments.quick))
        print(f"{lines} lines appended to {HISTORY.relative_to(ROOT)}")
    return code or (EXIT_FAILED if any(figure.failed for figure in figures) else 0)


def measured(name: str, measurement: tuple[str, Measurement], *, quick: bool) -> list[Figure]:
    """The figures, or the reason why there are none."""
    about, measure = measurement
    print(f"{name}: {about}", file=sys.stderr, flush=True)
    begun = time.perf_counter()
    try:
        return measure(quick=quick)
    except Exception as error:  # one benchmark that fails must not cost the others
        print(f"  {name} failed after {time.perf_counter() - begun:.0f} s: {error}", file=sys.stderr, flush=True)
        return [Figure(name, "", skipped=f"{type(error).__name__}: {error}", failed=True)]


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _parser(known: dict[str, Any]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench/run.py", description="Measure, print a table, keep the history.")
    parser.add_argument("--quick", action="store_true", help="shorter rounds: a look, not a measurement")
    parser.add_argument(
        "--only", action="append", choices=list(known), metavar="NAME", help="this one; may be repeated"
    )
    parser.add_argument("--list", action="store_true", help="name what there is")
    parser.add_argument("--no-history", action="store_true", help="append nothing to bench/history.jsonl")
    return parser


if __name__ == "__main__":
    sys.exit(main())
