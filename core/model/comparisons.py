"""What a comparison with a venue is made of: orders and trades as the venue has them, differences, and the report.

Always true here: amounts are exact decimals, ids are the venue's own. Times of the report are UTC milliseconds.
"""

from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any, Literal, Protocol

import msgspec

from .exact import plain
from .records import Side, TimeInForce

Reason = Literal["start", "reconnect", "timer", "asked", "balances", "report"]
DifferenceKind = Literal["missing_fill", "missing_order", "adopted", "external", "balance", "contradiction"]
Question = Literal["open orders", "trades"]


class VenueOrder(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An order as its venue has it."""

    pair: str  # the venue's symbol where it is not traded here
    traded_here: bool
    venue_order_id: str
    client_id: str  # that it was sent with, as far as the venue tells
    side: Side
    type: str  # an OrderType where it is one, else the venue's word
    quantity: Decimal
    filled: Decimal
    price: Decimal | None  # None: at the market
    stop_price: Decimal | None = None
    tif: TimeInForce = "GTC"
    post_only: bool = False
    list_id: str = ""  # of the orders of which one cancels the others
    is_open: bool
    created_ns: int  # by our clock, as far as the venue's can be compared with it


class VenueTrade(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A trade of our account as its venue has it; it does not say which client id its order has."""

    pair: str
    trade_id: int  # rises within a pair
    venue_order_id: str
    side: Side
    price_ticks: int
    qty_lots: int
    fee: Decimal
    fee_currency: str
    timestamp_ns: int


class TradePage(msgspec.Struct, frozen=True):
    """Some trades of a pair, the oldest first."""

    trades: Sequence[VenueTrade]
    last: bool  # there were none behind them when it was asked for


class Found(msgspec.Struct, frozen=True):
    """What a venue answered about one order: None, there is none; `reports` tell all that became of it, as messages,
    where it was sent by this node."""

    order: VenueOrder | None
    reports: Sequence[Any] = ()


class Surveyor(Protocol):
    """The part of a live venue that comparisons ask. Every `done` is called once; None: it could not be asked."""

    def list_open(self, done: Callable[[Sequence[VenueOrder] | None], None]) -> None:
        """Every open order of the account."""
        ...

    def list_trades(self, pair: str, from_id: int | None, done: Callable[[TradePage | None], None]) -> None:
        """A page of trades from that id on; with None only the latest one. A page that is not the last has some."""
        ...

    def find(self, pair: str, venue_order_id: str, known_as: str, done: Callable[[Found | None], None]) -> None:
        """One order, open or over. `known_as`: the client id that we know it by, else empty."""
        ...

    def cancel(self, pair: str, venue_order_id: str, done: Callable[[str | None], None]) -> None:
        """Cancel an order that is not of this service: "" when it is done, else why not; None: not known."""
        ...

    def room(self, question: Question) -> bool:
        """Whether a question that can wait may be asked now, within the share of the weight that is meant for it."""
        ...


class Difference(msgspec.Struct, rename="camel"):
    """Something that was not the same here and there."""

    kind: DifferenceKind
    subject: str  # an order, a trade of a pair, a currency
    here: str
    there: str
    repair: str  # what was done about it, or why nothing
    settled: bool = True


class Compared(msgspec.Struct, rename="camel"):
    """How much was compared."""

    open_orders: int = 0
    trades: int = 0
    currencies: int = 0


class Reconciled(msgspec.Struct, rename="camel"):
    """One comparison with a venue; also the data of the event `Reconciled`."""

    venue: str
    reason: Reason
    started: int
    ended: int
    compared: Compared
    differences: list[Difference]
    more: int  # differences beyond those that are listed
    left: list[str]  # what the next one has to ask for: this one had used its share of the weight
    open: list[str]  # what is not repaired
    settled: bool


class ExternalOrder(msgspec.Struct, frozen=True, rename="camel"):
    """An open order on our account that is not of this service."""

    exchange: str
    pair: str
    venue_order_id: str
    client_order_id: str
    side: Side
    type: str
    quantity: Decimal
    filled: Decimal
    price: Decimal | None
    seen_at: int  # ms, in the last list

    def __str__(self) -> str:
        price = f" at {plain(self.price)}" if self.price is not None else ""
        return f"{self.side} {plain(self.quantity)} {self.pair}{price} ({self.client_order_id or self.venue_order_id})"
