"""From a signal to its orders committed: sized, checked, one entry and two exits, and the answer that Redis said yes.

A real node in this process, its books set by hand, on a real Redis (everysec). One signal at a time, a few
milliseconds apart, as decisions come. The floor is a PING on the same socket kind in the same run.

Always true here: every signal that is counted was executed with three orders.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from decimal import Decimal
from pathlib import Path

import uvloop
from children import SERVICE_SETTINGS
from many_pairs import EMPTY, LIMITS, ByHand, pair
from table import Figure, Target, of_seconds

from tbx.core.kernel.clock import SystemClock
from tbx.core.model.messages import ExecuteSignal, Signalled
from tbx.core.settings import load_settings
from tbx.core.state.resp import Connection
from tbx.core.state.server import EmbeddedRedis
from tbx.core.state.store import Store
from tbx.http.composition import Node

SIGNALS = 1_500
WARM_UP = 100
PAUSE_S = 0.003
PAIRS = 50
PING = b"*1\r\n$4\r\nPING\r\n"
NAME = "signal to orders committed"
# So many entries are to be open together; what a day may risk is not what is measured here.
ROOM = {"MAX_DAILY_RISK": "1", "MAX_POSITION_SIZE": "1", "MAX_CORRELATED_EXPOSURE": "1"}


def signal(bench: ByHand, number: int, reply: asyncio.Future[object]) -> ExecuteSignal:
    place = number % PAIRS
    price = Decimal(100 + place)
    return ExecuteSignal(
        pair=pair(place),
        action="BUY",
        confidence=Decimal("0.62"),
        source="bench",
        strategy="ensemble",
        entry_price=price,
        stop_loss=price - 2,
        take_profit=price + 5,
        method="kelly_criterion",
        max_risk=Decimal("0.0000001"),
        client_signal_id=f"S{number}",
        fingerprint=str(number),
        reply=lambda outcome: reply.set_result(outcome),
    )


async def _timed(folder: Path, count: int) -> tuple[list[float], list[float]]:
    """Seconds of each signal, and of each PING."""
    loop = asyncio.get_running_loop()
    settings = load_settings(SERVICE_SETTINGS | LIMITS | ROOM, folder)
    server = EmbeddedRedis(loop, folder / "data", appendfsync="everysec")
    await server.start()
    store = Store(loop, server.address, "bench", journal_id="bench")
    await store.open()
    await store.acquire(0)
    market = ByHand(settings, PAIRS)
    node = Node(
        settings,
        SystemClock(loop, time.time_ns),
        store,
        EMPTY,
        lambda _, __, done: done(None),
        lambda _, found: found(frozenset()),
        epoch=1,
        exchanges=market,
    )
    node.start()
    bare = Connection(loop, server.address)
    await bare.open()
    taken: list[float] = []
    floor: list[float] = []
    try:
        for number in range(WARM_UP + count):
            market.book(number % PAIRS)
            await asyncio.sleep(PAUSE_S)
            answered: asyncio.Future[object] = loop.create_future()
            begun = time.perf_counter()
            node.kernel.input(signal(market, number, answered))
            outcome = await answered
            took = time.perf_counter() - begun
            if not isinstance(outcome, Signalled) or len(outcome.orders) != 3:
                raise RuntimeError(f"a signal was not executed: {outcome}")
            begun = time.perf_counter()
            pinged: asyncio.Future[object] = loop.create_future()
            bare.send(PING, pinged.set_result)
            await pinged
            if number >= WARM_UP:
                taken.append(took)
                floor.append(time.perf_counter() - begun)
    finally:
        node.stop()
        bare.close()
        await store.close()
        await server.stop()
    return taken, floor


def signals(*, quick: bool) -> list[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "data").mkdir()
        taken, floor = uvloop.run(_timed(Path(folder), SIGNALS // 10 if quick else SIGNALS))
    beside = statistics.median(floor) * 1e6
    return [of_seconds(NAME, taken, "us", floor=beside, target=Target("p50", "<=", 1_000))]
