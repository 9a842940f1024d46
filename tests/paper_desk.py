"""A paper venue in virtual time, on a book that the test moves by hand."""

import json
import random
from decimal import Decimal
from typing import Any

from tbx.core.kernel.clock import ManualClock
from tbx.core.kernel.kernel import Kernel
from tbx.core.market.data import MarketData
from tbx.core.model.instruments import Instrument
from tbx.core.model.messages import (
    AmendAtVenue,
    CancelAtVenue,
    PlaceAtVenue,
    VenueAccepted,
    VenueAmended,
    VenueEnded,
    VenueFilled,
    VenueRejected,
    VenueRequestFailed,
)
from tbx.core.model.records import Amend
from tbx.core.state.memory import MemoryStore
from tbx.venues.paper import PaperVenue

COIN = Instrument(
    exchange="xeggex",
    pair="RVN_USDT",
    symbol="RVN/USDT",
    base="RVN",
    quote="USDT",
    tick=Decimal("0.01"),
    lot=Decimal(1),
    maker_fee=Decimal("0.001"),
    taker_fee=Decimal("0.002"),
    fee_in="received",
    quote_decimals=4,
)
ANSWERS = (VenueAccepted, VenueFilled, VenueEnded, VenueRejected, VenueAmended, VenueRequestFailed)
BIDS = {100: 10, 99: 20, 98: 30}
ASKS = {102: 10, 103: 20, 104: 30}


class Desk:
    """A paper venue in virtual time, on a book of one pair that the test moves by hand."""

    def __init__(self, seed: int = 1, latency_ns: int = 0, instrument: Instrument = COIN, **options: Any) -> None:
        self.clock = ManualClock()
        self.kernel = Kernel(self.clock, MemoryStore(self.clock.call_soon))
        self.data = MarketData(self.kernel, [instrument])
        self.rng = random.Random(seed)
        self.venue = PaperVenue(
            self.kernel, "xeggex", self.data, rng=self.rng, run="7", latency_ns=latency_ns, **options
        )
        self.kernel.add(self.data)
        self.kernel.add(self.venue)
        self.answers: list[Any] = []
        for kind in ANSWERS:
            self.kernel.bus.subscribe(kind, self.answers.append)
        self.kernel.start()
        self.update_id = 1
        self.snapshot(BIDS, ASKS)

    def snapshot(self, bids: dict[int, int], asks: dict[int, int]) -> None:
        self.update_id += 1
        frame = {"lastUpdateId": self.update_id, "bids": texts(bids), "asks": texts(asks)}
        self._frame(frame)

    def diff(self, bids: dict[int, int] = {}, asks: dict[int, int] = {}) -> None:  # noqa: B006
        self.update_id += 1
        self._frame(
            {
                "e": "depthUpdate",
                "E": 1,
                "s": "RVN",
                "U": self.update_id,
                "u": self.update_id,
                "b": texts(bids),
                "a": texts(asks),
            }
        )

    def trade(self, price: int, lots: int, buyer_is_maker: bool) -> None:
        p, q = texts({price: lots})[0]
        self._frame({"e": "trade", "E": 1, "s": "RVN", "t": 1, "p": p, "q": q, "T": 1, "m": buyer_is_maker, "M": True})

    def _frame(self, frame: dict[str, Any]) -> None:
        raw = json.dumps(frame, separators=(",", ":")).encode()
        self.data.frame("xeggex", "RVN_USDT", raw, self.clock.now_ns())
        assert not self.data.troubles

    def place(
        self, client_id: str = "c1", side: str = "buy", lots: int = 5, price: int | None = None, **more: Any
    ) -> list[Any]:
        kind = more.pop("type", "market" if price is None else "limit")
        tif = more.pop("tif", "IOC" if kind == "market" else "GTC")
        request = PlaceAtVenue(
            client_id=client_id,
            pair=more.pop("pair", "RVN_USDT"),
            side=side,  # type: ignore[arg-type]
            type=kind,
            qty_lots=lots,
            price_ticks=price,
            tif=tif,
            **more,
        )
        return self.ask(self.venue.place, request)

    def cancel(self, client_id: str = "c1") -> Any:
        return self.ask(self.venue.cancel, CancelAtVenue(client_id=client_id, pair="RVN_USDT"))

    def amend(self, client_id: str = "c1", lots: int | None = None, price: int | None = None) -> Any:
        amend = Amend(qty_lots=lots, price_ticks=price)
        return self.ask(self.venue.amend, AmendAtVenue(client_id=client_id, pair="RVN_USDT", amend=amend))

    def ask(self, action: Any, request: Any) -> list[Any]:
        """What the venue says to a request within its latency."""
        before = len(self.answers)
        action(request)
        self.clock.advance(self.venue.latency_ns)
        return self.answers[before:]

    def fills(self, client_id: str = "c1") -> list[tuple[int, int]]:
        return [(m.price_ticks, m.qty_lots) for m in self.answers if fill_of(m, client_id)]


def fill_of(message: Any, client_id: str) -> bool:
    return isinstance(message, VenueFilled) and message.client_id == client_id


def texts(levels: dict[int, int]) -> list[list[str]]:
    return [[f"{price // 100}.{price % 100:02d}", str(lots)] for price, lots in levels.items()]


def kinds(answers: list[Any]) -> list[str]:
    return [type(a).__name__ for a in answers]
