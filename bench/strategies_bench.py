"""50 strategies in the process on 8 pairs, while 1,000 books a second change: how late the event loop is.

The node is the service's own, with its Redis, on uvloop; only the exchange is a timer that hands it depth frames. Every
strategy sees every book, so that is 50,000 calls of a hook a second, and each submits an order and takes one back about
every two seconds. The lag is how much later than asked a timer of a millisecond comes.

Always true here: the floor is the same node with the same books and without strategies, in turn, round by round. A
round in which a strategy was stopped, or books were late by more than what a round may lose, is no measurement.
Time is read from the machine: uvloop's own goes by milliseconds, and stands still while callbacks run.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from pathlib import Path

import uvloop
from table import Figure, Target, percentile

from tbx.core.kernel.clock import Clock, SystemClock
from tbx.core.kernel_cache import warm_up
from tbx.core.market.data import MarketData
from tbx.core.settings import load_settings
from tbx.core.state.server import EmbeddedRedis
from tbx.core.state.store import Store
from tbx.http.composition import Node

STRATEGIES = 50
PAIRS = ("BTC_USDT", "ETH_USDT", "XMR_USDT", "RVN_USDT", "BEL_USDT", "DOGE_USDT", "KAS_USDT", "SAL_USDT")
RATE = 1_000  # books a second, of all pairs
STEP_S = 0.001  # of the timer that is looked at
LEVELS = 10  # a side
SETTLE_S = 1.0  # of a round that is not counted
LOST_MAX = 0.05  # of the books of a round
PRICES = (62_000, 3_000, 160, 0.0245, 0.564, 0.38, 0.12, 0.3)


class Ticks:
    """The exchange: a depth frame a millisecond, of each pair in turn."""

    def __init__(self, clock: Clock, market: MarketData) -> None:
        self.clock = clock
        self.market = market
        self.sent = 0
        self._loop = asyncio.get_running_loop()
        self._begun = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._ticks = [
            max(4 * LEVELS, round(price / float(market.instruments["binance", pair].tick)))
            for pair, price in zip(PAIRS, PRICES, strict=True)
        ]

    def start(self) -> None:
        for pair, middle in zip(PAIRS, self._ticks, strict=True):
            grid = self.market.feed("binance", pair).price_grid.text
            bids = [[grid(middle - 1 - i), "1000"] for i in range(LEVELS)]
            asks = [[grid(middle + 1 + i), "1000"] for i in range(LEVELS)]
            frame = f'{{"lastUpdateId":1,"bids":{bids},"asks":{asks}}}'.replace("'", '"')
            self.market.frame("binance", pair, frame.encode(), self.clock.now_ns())
        self._begun = time.perf_counter()
        self._turn()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def resync(self, exchange: str, pair: str) -> None: ...

    def _turn(self) -> None:
        """Send what is due; a loop that was busy gets it all at once, as from a socket."""
        self._timer = self._loop.call_later(STEP_S, self._turn)
        due = int((time.perf_counter() - self._begun) * RATE)
        while self.sent < due:
            self._send(self.sent)
            self.sent += 1

    def _send(self, number: int) -> None:
        index, turn = number % len(PAIRS), number // len(PAIRS)
        pair, middle, update = PAIRS[index], self._ticks[index], turn + 2
        text = self.market.feed("binance", pair).price_grid.text
        bids = ",".join(f'["{text(middle - 1 - i)}","{1_000 + (turn + i) % 97}"]' for i in range(3))
        asks = ",".join(f'["{text(middle + 1 + i)}","{1_000 + (turn + i) % 89}"]' for i in range(3))
        frame = f'{{"e":"depthUpdate","E":1,"s":"S","U":{update},"u":{update},"b":[{bids}],"a":[{asks}]}}'
        self.market.frame("binance", pair, frame.encode(), self.clock.now_ns())


class Lag:
    """How much later than asked a timer comes, in seconds."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._loop = asyncio.get_running_loop()
        self._due = time.perf_counter() + STEP_S
        self._timer = self._loop.call_later(STEP_S, self._turn)

    def _turn(self) -> None:
        now = time.perf_counter()
        self.seconds.append(max(0.0, now - self._due))
        self._due = now + STEP_S
        self._timer = self._loop.call_later(STEP_S, self._turn)

    def stop(self) -> None:
        self._timer.cancel()


async def round_of(count: int, seconds: float) -> tuple[list[float], Node]:
    """One node with so many strategies: the lags of its loop, and what it came to."""
    loop = asyncio.get_running_loop()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        specs = ";".join(
            f"busy_strategy:Busy?name=busy-{i}&pairs={','.join(PAIRS)}&phase={i * 40}" for i in range(count)
        )
        settings = load_settings({"STRATEGIES": specs, "RISK_SERVICE_URL": "none"}, folder)
        redis = EmbeddedRedis(loop, folder, appendfsync="everysec")
        await redis.start()
        store = Store(loop, redis.address, "bench", journal_id="bench")
        await store.open()
        await store.acquire(0)
        node = Node(
            settings,
            SystemClock(loop, time.time_ns),
            store,
            await store.load(),
            lambda _orders, _trades, done: done(None),
            lambda _, found: found(frozenset()),
            epoch=store.epoch,
            market_source=Ticks,
        )
        node.start()
        await asyncio.sleep(SETTLE_S)
        lag = Lag()
        await asyncio.sleep(seconds)
        lag.stop()
        node.stop()
        node.kernel.heart.stop()
        idle = asyncio.Event()
        node.kernel.when_idle(idle.set)
        await asyncio.wait_for(idle.wait(), 10)
        await store.close()
        await redis.stop()
        return lag.seconds, node


def strategies(*, quick: bool) -> list[Figure]:
    """The figure; the service's thread has the process to itself, as it does in `tbx serve`."""
    sys.path.insert(0, str(Path(__file__).parent))
    warm_up(lambda line: print(f"  {line}", file=sys.stderr))
    rounds, seconds = (1, 3.0) if quick else (3, 10.0)
    ours: list[float] = []
    bare: list[float] = []
    calls = orders = 0
    worst_ms = 0.0
    for _ in range(rounds):
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            bare += runner.run(round_of(0, seconds))[0]
            lags, node = runner.run(round_of(STRATEGIES, seconds))
        ours += lags
        views = node.strategies.views().values()
        stopped = [f"{view.name}: {view.error}" for view in views if view.status != "running"]
        sent = node.source.sent  # type: ignore[attr-defined]
        if stopped or node.kernel.faults or sent < RATE * (seconds + SETTLE_S) * (1 - LOST_MAX):
            raise RuntimeError(f"no measurement: {stopped or node.kernel.faults or f'{sent} books'}")
        calls += sum(view.calls for view in views)
        orders += sum(view.orders_sent for view in views)
        worst_ms = max(worst_ms, *(view.worst_ms for view in views))
    ours_ms, bare_ms = (sorted(lag * 1e3 for lag in lags) for lags in (ours, bare))
    note = f"{calls:,} calls of hooks, {orders:,} orders; the longest call {worst_ms:.2f} ms"
    return [
        _figure(f"lag of the loop, {STRATEGIES} strategies, {RATE:,} books/s", ours_ms, bare_ms, note, target=True),
        _figure("lag of the loop, no strategies, the same books", bare_ms, None, "", target=False),
    ]


def _figure(name: str, ordered: list[float], floor: list[float] | None, note: str, *, target: bool) -> Figure:
    return Figure(
        name,
        "ms",
        p50=percentile(ordered, 0.5),
        p99=percentile(ordered, 0.99),
        max=ordered[-1],
        floor=None if floor is None else percentile(floor, 0.5),
        target=Target("p99", "<=", 5) if target else None,
        note=note,
    )
