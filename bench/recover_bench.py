"""Start to ready of a live service with 10,000 open orders and 50,000 trades, all of them at a local exchange.

Always true here: the exchange is the local one on real sockets, with its limits, and what it holds agrees with what the
service holds. A start counts as ready when /readyz says so: state loaded, every order asked about, open orders, trades
and balances compared. The floor is the same start with nothing held and nothing open, against an exchange just so.
"""

from __future__ import annotations

import shutil
import statistics
from typing import Any

import msgspec
from children import Server, scratch, service
from service_bench import Spoilt, compile_kernels, say
from table import Figure, Target, of_seconds
from tick_bench import KEY, LIVE, child

STARTS = 3


def starts(*arguments: str, count: int) -> list[float]:
    """Seconds from a process's start to ready, each from the same state."""
    seconds = []
    with scratch() as folder, child(folder, "recover_exchange.py", str(folder / "made"), *arguments) as exchange:
        made = exchange.read()
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
