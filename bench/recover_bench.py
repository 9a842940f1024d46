"""Start to ready of a live service with 10,000 open orders and 50,000 trades, all of them at a local exchange.

Always true here: the exchange is the local one on real sockets, with its limits, and what it holds agrees with what the
service holds. A start counts as ready when /readyz says so: state loaded, every order asked about, open orders, trades
and balances compared. The floor is the same start with nothing held and nothing open, against an exchange just so.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from children import BENCH, Server, environment, scratch, service
from service_bench import Spoilt, compile_kernels, say
from table import Figure, Target, of_seconds
from tick_bench import KEY, LIVE, Child

STARTS = 3
STOP_TIMEOUT_S = 10.0


@contextmanager
def exchange(folder: Path, *arguments: str) -> Iterator[dict[str, Any]]:
    """`recover_exchange.py` as a child: what it says of itself."""
    said = folder / "exchange.err"
    with said.open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, str(BENCH / "recover_exchange.py"), str(folder / "made"), *arguments],
            env=environment({}),
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
        )
    child = Child(process, said)
    try:
        yield child.read()
    finally:
        child.input.close()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        child.output.close()


def starts(*arguments: str, count: int) -> list[float]:
    """Seconds from a process's start to ready, each from the same state."""
    seconds = []
    with scratch() as folder, exchange(folder, *arguments) as made:
        for number in range(count):
            home = folder / str(number)
            shutil.copytree(folder / "made", home / "data")
            with service(home, **LIVE | made["settings"]) as server:
                _check(server, made)
                seconds.append(server.ready_s)
    return seconds


def _check(server: Server, made: dict[str, Any]) -> None:
    """That the service holds what was made, and that the exchange agreed with it."""
    key = {"Authorization": f"Bearer {KEY}"}
    for path, wanted in (("/api/orders?limit=1", made["orders"]), ("/api/trades?limit=1", made["trades"])):
        status, body = server.ask("GET", path, **key)
        found = msgspec.json.decode(body)["pagination"]["total"] if status == 200 else status
        if found != wanted:
            raise Spoilt(f"GET {path}: {wanted} were made, the service says {found}")


def recover(*, quick: bool) -> list[Figure]:
    """Ready with much open, beside the same start with nothing."""
    compile_kernels()
    count = 1 if quick else STARTS
    full, empty = starts(count=count), starts("--empty", count=count)
    floor_s = statistics.median(empty)
    figure = of_seconds("start to ready, live, 10,000 open orders, 50,000 trades", full, "s", floor=floor_s)
    figure.p99, figure.target = None, Target("p50", "<=", 3)
    say(f"recovery: {', '.join(f'{s:.2f}' for s in full)} s; with nothing held {floor_s:.2f} s")
    return [figure]
