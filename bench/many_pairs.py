"""A node on paper with as many pairs as are asked for, whose books are set by hand, and a position in each."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from decimal import Decimal
from pathlib import Path

from children import SERVICE_SETTINGS

from tbx.core.kernel.clock import Clock, ManualClock
from tbx.core.market.data import MarketData, StoredBook
from tbx.core.model.instruments import Instrument
from tbx.core.settings import load_settings
from tbx.core.state.memory import MemoryStore
from tbx.core.state.store import Loaded
from tbx.http.composition import Node
from tbx.http.exchanges import Simulated, Trouble

EXCHANGE = "xeggex"
WALLET = f"paper.{EXCHANGE}"
# What a service that nobody configured checks; the rest is as in the other benchmarks.
LIMITS = {
    "MAX_POSITION_SIZE": "0.25",
    "MAX_RISK_PER_TRADE": "0.02",
    "MAX_DAILY_RISK": "0.06",
    "MAX_CORRELATED_EXPOSURE": "0.4",
    "ORDER_RATE_LIMIT": "1000000",
    "STOP_LOSS_ENABLED": "true",
}
EMPTY = Loaded(meta={}, tables={}, seq=0, number=0, equity=[])


def pair(number: int) -> str:
    return f"C{number}_USDT"


class ByHand(Simulated):
    """`count` pairs at one exchange, and what feeds their books: whoever calls `book`."""

    def __init__(self, settings: object, count: int) -> None:
        self.instruments: Sequence[Instrument] = [
            Instrument(
                exchange=EXCHANGE,
                pair=pair(i),
                symbol=pair(i),
                base=f"C{i}",
                quote="USDT",
                tick=Decimal("0.0001"),
                lot=Decimal("0.001"),
                min_notional=Decimal(1),
                maker_fee=Decimal("0.001"),
                taker_fee=Decimal("0.002"),
            )
            for i in range(count)
        ]
        self.shown, self.depth_max, self.update_id = "by hand", 1_000, 0

    def source(self, clock: Clock, market: MarketData, _: Iterable[StoredBook], _trouble: Trouble) -> ByHand:
        self.clock, self.market = clock, market
        return self

    def start(self) -> None:
        for number in range(len(self.instruments)):
            self.book(number)

    def stop(self) -> None:
        """Nothing runs."""

    def resync(self, exchange: str, pair: str) -> None:
        """Every book is whole."""

    def book(self, number: int, shift: int = 0) -> None:
        """A snapshot: 20 levels a side around 100 + number, moved by so many ticks."""
        self.update_id += 10
        middle = Decimal(100 + number) + shift * Decimal("0.0001")
        levels = [Decimal("0.01") * i for i in range(1, 21)]
        frame = {
            "lastUpdateId": self.update_id,
            "bids": [[str(middle - away), "1000"] for away in levels],
            "asks": [[str(middle + away), "1000"] for away in levels],
        }
        self.market.frame(EXCHANGE, pair(number), json.dumps(frame).encode(), self.clock.now_ns())


class ManyPairs:
    """The node in virtual time; `positions` opens one in each pair."""

    def __init__(self, folder: Path, count: int, **more: str) -> None:
        settings = load_settings(SERVICE_SETTINGS | LIMITS | more, folder)
        self.clock = ManualClock()
        self.store = MemoryStore(self.clock.call_soon)
        self.market = ByHand(settings, count)
        epoch = self.store.acquire()
        self.node = Node(
            settings,
            self.clock,
            self.store.writer(epoch),
            EMPTY,
            lambda _, __, done: done(None),
            lambda _, found: found(frozenset()),
            epoch=epoch,
            exchanges=self.market,
        )
        self.node.start()
        self.clock.settle()
