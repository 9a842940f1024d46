"""What the hooks of a strategy are given: books, trades, fills, orders and holdings, in decimals of quote and base.

Always true here: everything but a `BookView` is a value of its own, made at one moment. There is one `BookView` for
each market, which every strategy shares and which is always the book as it is now: what is to be kept is copied.
"""

from decimal import Decimal
from typing import Literal

import msgspec

from ..core.market.book import BUY, SELL
from ..core.market.data import Feed
from ..core.model.exact import ZERO
from ..core.model.instruments import Instrument
from ..core.model.messages import Refusal, SubmitOrder, TradePrinted
from ..core.model.order_views import STATUS
from ..core.model.records import Fill, Order, OrderType, Role, Side

OwnStatus = Literal[
    "waiting",  # not on record yet: the risk service is being asked, or the hook that submitted it has not returned
    "refused",  # and not on record
    "pending",
    "submitted",
    "unknown",
    "open",
    "partial",
    "filled",
    "cancelled",
    "rejected",
    "expired",
]
ENDED = frozenset(("refused", "filled", "cancelled", "rejected", "expired"))


class BookView:
    """A market's book, whose both sides have a price. The decimals are made when they are read; ticks cost nothing."""

    __slots__ = ("_feed", "ask_ticks", "bid_ticks", "exchange", "lot", "pair", "tick", "updated_ns")

    def __init__(self, instrument: Instrument, feed: Feed) -> None:
        # for the process
        self.exchange = instrument.exchange
        self.pair = instrument.pair
        self.tick = instrument.tick
        self.lot = instrument.lot
        self._feed = feed
        # as of the last update: the best prices in ticks, 0 for an empty side, and when that was, by our clock
        self.bid_ticks = self.ask_ticks = 0
        self.updated_ns = 0

    def refresh(self, now_ns: int) -> bool:
        """Read the best prices; False where the book may not be traded on: stale, crossed, or a side is empty."""
        feed = self._feed
        if not feed.fresh(now_ns):
            return False
        self.bid_ticks, self.ask_ticks = feed.top
        self.updated_ns = feed.book.local_ns
        return self.bid_ticks > 0 and self.ask_ticks > 0

    @property
    def bid(self) -> Decimal:
        """The best price that somebody buys at."""
        return self.bid_ticks * self.tick

    @property
    def ask(self) -> Decimal:
        """The best price that somebody sells at."""
        return self.ask_ticks * self.tick

    @property
    def mid(self) -> Decimal:
        return (self.bid_ticks + self.ask_ticks) * self.tick / 2

    def levels(self, side: Literal["bids", "asks"], n: int) -> list[tuple[Decimal, Decimal]]:
        """The best `n` (price, quantity) of a side, best first; raises ValueError for another side."""
        if side not in ("bids", "asks"):
            raise ValueError(f"side {side!r} of a book: expected bids or asks")
        tick, lot = self.tick, self.lot
        return [(t * tick, q * lot) for t, q in self._feed.book.levels(BUY if side == "bids" else SELL, n)]

    def __repr__(self) -> str:
        return f"<book of {self.pair} at {self.exchange}: {self.bid} / {self.ask}>"


class TradeView(msgspec.Struct, frozen=True, gc=False):
    """Somebody traded."""

    exchange: str
    pair: str
    price: Decimal
    quantity: Decimal
    taker: Side  # of the one who did not wait
    timestamp_ns: int


class OwnOrder(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An order of the strategy, as it was at this moment."""

    client_id: str  # as `submit` returned it; the exits of a bracket have one that was made for them
    order_id: str | None = None  # None before it is on record, and where it was refused
    exchange: str | None
    pair: str
    side: Side
    type: OrderType
    role: Role = "entry"
    quantity: Decimal
    filled: Decimal = ZERO
    price: Decimal | None = None
    stop_price: Decimal | None = None
    average_price: Decimal | None = None  # of what is filled
    status: OwnStatus
    code: str | None = None  # why it ended, for programs: INSUFFICIENT_BALANCE, ORDER_RATE, CANCELLED, ...
    reason: str | None = None  # the same in words

    @property
    def ended(self) -> bool:
        return self.status in ENDED

    @property
    def left(self) -> Decimal:
        return self.quantity - self.filled


class OwnFill(msgspec.Struct, frozen=True, gc=False):
    """Part or all of an order of the strategy traded."""

    exchange: str
    pair: str
    side: Side
    price: Decimal
    quantity: Decimal
    fee: Decimal  # in fee_currency, positive is paid
    fee_currency: str
    maker: bool
    trade_id: str
    timestamp_ns: int


class Holding(msgspec.Struct, frozen=True, gc=False):
    """What the strategy holds of a pair, by its own sub-ledger."""

    quantity: Decimal  # of the base currency
    average_price: Decimal | None  # paid for it; None where it holds nothing
    sellable: Decimal  # of the quantity, what one order at the market can sell now; less than one takes is dust

    def __bool__(self) -> bool:
        """Whether it holds more than dust."""
        return self.sellable > 0


class SignalAnswer(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What became of a signal of the strategy."""

    client_id: str  # as `signal` returned it
    signal_id: str | None = None  # None where it is not on record
    pair: str
    status: str  # executed, held, rejected, refused
    code: str | None = None
    reason: str | None = None
    order_ids: tuple[str, ...] = ()  # the entry first


NOTHING_HELD = Holding(ZERO, None, ZERO)


def trade_of(message: TradePrinted, instrument: Instrument) -> TradeView:
    return TradeView(
        message.exchange,
        message.pair,
        message.price_ticks * instrument.tick,
        message.qty_lots * instrument.lot,
        "sell" if message.buyer_is_maker else "buy",
        message.timestamp_ns,
    )


def order_of(order: Order) -> OwnOrder:
    return OwnOrder(
        client_id=order.client_order_id,
        order_id=order.order_id,
        exchange=order.exchange,
        pair=order.pair,
        side=order.side,
        type=order.type,
        role=order.role,
        quantity=order.qty_lots * order.lot,
        filled=order.filled_lots * order.lot,
        price=None if order.price_ticks is None else order.price_ticks * order.tick,
        stop_price=None if order.stop_ticks is None else order.stop_ticks * order.tick,
        average_price=order.average_price,
        status=STATUS[order.state],
        code=order.code,
        reason=order.reason,
    )


def order_of_request(request: SubmitOrder, refusal: Refusal | None = None) -> OwnOrder:
    """Of an order that is not on record: it waits, or was refused."""
    return OwnOrder(
        client_id=request.client_order_id or "",
        exchange=request.exchange,
        pair=request.pair,
        side=request.side,
        type=request.type,
        quantity=request.quantity,
        price=request.price,
        stop_price=request.stop_price,
        status="waiting" if refusal is None else "refused",
        code=None if refusal is None else refusal.code,
        reason=None if refusal is None else refusal.detail,
    )


def fill_of(fill: Fill) -> OwnFill:
    return OwnFill(
        fill.exchange,
        fill.pair,
        fill.side,
        fill.price,
        fill.quantity,
        fill.fee,
        fill.fee_currency,
        fill.maker,
        fill.trade_id,
        fill.timestamp_ns,
    )
