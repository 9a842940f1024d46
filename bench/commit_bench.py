"""How long a commit takes while 2,000 orders a second come in, with appendfsync everysec and always, beside a PING.

An order here is what a market order that fills at once leaves behind: four rows and three events, about 3 kB. It is put
into the real kernel at a moment that a seeded schedule sets, and its time ends when its effects leave: the wait for the
commit before it, and sharing one with others, are part of it. The schedule is followed whatever the answers do, so a
slow commit delays nothing that would have been counted. The event loop's timers go by milliseconds: orders come in
groups of two on average, which is kept out of nothing.

Always true here: both policies and their floor run in turn, round by round; a ratio is the median of the ratios of
neighbouring rounds.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import uvloop
from bench_store import BALANCE, EVENT, FILL, ORDER, POSITION
from table import Figure, Target, of_seconds

from tbx.core.kernel.clock import SystemClock
from tbx.core.kernel.kernel import Kernel
from tbx.core.state.resp import Connection
from tbx.core.state.server import EmbeddedRedis, Fsync
from tbx.core.state.store import Store

RATE = 2_000  # orders a second
ROUND_S = 5.0
ROUNDS = 4
WARM_UP = 500  # orders at the beginning of each round that are not counted

ROWS = {name: msgspec.Raw(row) for name, row in (("orders", ORDER), ("trades", FILL))}
SHARED = (("positions", "binance:RVN_USDT", POSITION), ("balances", "binance:USDT", BALANCE))
ORDER_EVENT = msgspec.Raw(EVENT[len(b'{"channel":"orders","seq":1,"type":"OrderFilled","data":') : -1])


class Desk:
    """One Redis with one policy, and the kernel that commits to it."""

    def __init__(self, folder: Path, appendfsync: Fsync) -> None:
        loop = asyncio.get_running_loop()
        self.server = EmbeddedRedis(loop, folder, appendfsync=appendfsync)
        self.store = Store(loop, self.server.address, "bench", journal_id="bench")
        self.kernel = Kernel(SystemClock(loop, time.time_ns), self.store)
        self.bare = Connection(loop, self.server.address)
        self.orders = 0

    async def start(self) -> None:
        await self.server.start()
        await self.store.open()
        await self.store.acquire(0)
        await self.bare.open()

    async def stop(self) -> None:
        await self.store.close()
        self.bare.close()
        await self.server.stop()

    def order(self, done: Callable[[], object]) -> None:
        self.kernel.run(self._order, done)

    def _order(self, done: Callable[[], object]) -> None:
        self.orders += 1
        outbox = self.kernel.outbox
        for table, row in ROWS.items():
            outbox.put(table, f"{table}_{self.orders:08}", row)
        for table, field, row in SHARED:
            outbox.put(table, field, msgspec.Raw(row))
        for _ in range(3):
            outbox.event("orders", "OrderFilled", ORDER_EVENT)
        outbox.effect(done)

    def ping(self, done: Callable[[], object]) -> None:
        self.bare.send(PING, lambda _: done())


PING = b"*1\r\n$4\r\nPING\r\n"


async def paced(seed: int, send: Callable[[Callable[[], object]], None]) -> list[float]:
    """Seconds from each order's coming in to its end, in the order in which they came."""
    rng, count = random.Random(seed), int(RATE * ROUND_S)
    seconds = [0.0] * count
    due = begun = time.perf_counter()
    left, sent = count, 0
    ended = asyncio.get_running_loop().create_future()

    def one(number: int) -> None:
        came = time.perf_counter()

        def done() -> None:
            nonlocal left
            seconds[number] = time.perf_counter() - came
            left -= 1
            if not left:
                ended.set_result(None)

        send(done)

    while sent < count:
        now = time.perf_counter()
        while sent < count and due <= now:
            one(sent)
            sent += 1
            due += rng.expovariate(RATE)
        await asyncio.sleep(0.001)
    await ended
    assert time.perf_counter() - begun < 2 * ROUND_S, "the schedule could not be kept"
    return seconds[WARM_UP:]


async def _measure(rounds: int) -> dict[str, list[list[float]]]:
    found: dict[str, list[list[float]]] = {"everysec": [], "always": [], "floor": []}
    with tempfile.TemporaryDirectory() as folder:
        policies: tuple[Fsync, Fsync] = ("everysec", "always")
        desks = {policy: Desk(Path(folder) / policy, policy) for policy in policies}
        for desk in desks.values():
            await desk.start()
        for number in range(rounds):
            for policy, desk in desks.items():
                found[policy].append(await paced(number, desk.order))
            found["floor"].append(await paced(number, desks["everysec"].ping))
        for desk in desks.values():
            await desk.stop()
    return found


def commit(*, quick: bool) -> list[Figure]:
    """A figure for each policy, and the ratio of the two."""
    found = uvloop.run(_measure(1 if quick else ROUNDS))
    floor_us = statistics.median(s for some in found["floor"] for s in some) * 1e6
    figures = []
    for policy in ("everysec", "always"):
        name = f"commit at {RATE:,} orders/s, fsync {policy}"
        figures.append(of_seconds(name, (s for some in found[policy] for s in some), "us", floor=floor_us))
    figures[0].target = Target("p99", "<=", 2_000)
    pairs = list(zip(found["always"], found["everysec"], strict=True))
    ratio = statistics.median(statistics.median(a) / statistics.median(e) for a, e in pairs)
    ratio_p99 = statistics.median(_p99(a) / _p99(e) for a, e in pairs)
    figures.append(
        Figure(
            f"commit at {RATE:,} orders/s, always to everysec",
            "x",
            p50=ratio,
            p99=ratio_p99,
            note="how many times as long a commit takes with fsync always: of the medians, and of the p99",
        )
    )
    return figures


def _p99(seconds: list[float]) -> float:
    return sorted(seconds)[int(len(seconds) * 0.99)]
