"""Orders and fills as the API shows them: the manual's field names, exact decimals as JSON numbers, milliseconds.

Always true here: a view is a value of its own, made at one moment; later changes of the order do not reach it.
"""

from collections.abc import Sequence
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Literal

import msgspec

from .exact import ZERO, tidy
from .messages import Submitted
from .records import Evidence, Fill, Order, OrderType, RiskValidation, Role, Side, SignalData, State, TimeInForce

Status = Literal["pending", "submitted", "unknown", "open", "partial", "filled", "cancelled", "rejected", "expired"]

STATUS: dict[State, Status] = {
    State.HELD: "pending",
    State.SENT: "submitted",
    State.UNKNOWN: "unknown",
    State.LIVE: "open",
    State.PART: "partial",
    State.FILLED: "filled",
    State.CANCELLED: "cancelled",
    State.REJECTED: "rejected",
    State.EXPIRED: "expired",
}

# An average of fills need not end; it is shown to this many decimals, rounded half to even.
AVERAGE_STEP = Decimal("1e-12")
MS_NS = 1_000_000


class FillView(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """A fill, alone or inside its order."""

    fill_id: str
    order_id: str
    trade_id: str  # the venue's
    pair: str
    side: Side
    quantity: Decimal
    price: Decimal
    cost: Decimal  # in quote, without the fee
    fee: Decimal  # positive is paid
    fee_currency: str
    maker: bool
    exchange: str
    paper_trade: bool
    timestamp: int  # ms


class OrderFillView(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """A fill inside its order, which says the rest."""

    fill_id: str
    trade_id: str
    quantity: Decimal
    price: Decimal
    timestamp: int  # ms
    fee: Decimal
    fee_currency: str
    maker: bool


class EvidenceView(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """What was asked about an order in doubt, and what was answered."""

    asked_at: int  # ms, the first time
    last_asked_at: int  # ms; the same answer came `count` times in a row
    question: str  # in the exchange's words
    answer: str
    count: int


class LinkedOrders(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """The exits of an entry; null where there is none."""

    stop_loss: str | None = None
    take_profit: str | None = None


class OrderUpdate(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """What an event on the channel `orders` says of its order."""

    order_id: str
    client_order_id: str
    status: Status
    pair: str
    side: Side
    type: OrderType
    role: Role
    exchange: str
    paper_trade: bool
    quantity: Decimal
    price: Decimal | None
    stop_price: Decimal | None
    filled_quantity: Decimal
    average_price: Decimal | None
    parent_order_id: str | None
    reason: str | None
    code: str | None
    timestamp: int  # ms, of the change


class OrderPlaced(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """The answer to POST /api/orders."""

    order_id: str
    client_order_id: str
    status: Status
    pair: str
    side: Side
    type: OrderType
    quantity: Decimal
    price: Decimal | None  # null for a market order, whose price is a reference
    stop_price: Decimal | None
    filled_quantity: Decimal
    average_price: Decimal | None
    exchange: str
    timestamp: int  # ms
    time_in_force: TimeInForce
    paper_trade: bool
    risk_validation: RiskValidation | None
    estimated_cost: Decimal | None  # in quote
    estimated_fees: Decimal | None
    linked_orders: LinkedOrders
    warnings: tuple[str, ...]


class OrderView(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """An order as GET /api/orders lists it."""

    order_id: str
    client_order_id: str
    status: Status
    pair: str
    side: Side
    type: OrderType
    role: Role
    quantity: Decimal
    price: Decimal | None
    stop_price: Decimal | None
    time_in_force: TimeInForce
    filled_quantity: Decimal
    remaining_quantity: Decimal
    average_price: Decimal | None
    total_cost: Decimal  # in quote, without fees
    fees: Decimal  # in quote; what was paid in base is converted at the price of its fill
    fees_by_currency: dict[str, Decimal]
    exchange: str
    paper_trade: bool
    submit_time: int  # ms, as are all times
    fill_time: int | None  # of the last fill
    end_time: int | None
    update_time: int
    expire_time: int | None
    execution_time: int | None  # ms from submission to the last fill
    post_only: bool
    parent_order_id: str | None
    linked_orders: LinkedOrders
    protected_quantity: Decimal
    held_by: Literal["venue", "service"] | None  # who watches the price that it waits for; null where it waits for none
    reserved: Decimal
    cancel_requested: str | None
    reason: str | None
    code: str | None
    signal_data: SignalData | None
    signal_id: str | None
    warnings: tuple[str, ...]
    fills: list[OrderFillView]
    legs: list["OrderView"] | msgspec.UnsetType = msgspec.UNSET  # with nested=true
    # of a single order only; slippage is against the mid on arrival, positive is a cost
    risk_validation: RiskValidation | msgspec.UnsetType | None = msgspec.UNSET
    arrival_slippage_bps: float | msgspec.UnsetType | None = msgspec.UNSET
    evidence: list[EvidenceView] | msgspec.UnsetType = msgspec.UNSET  # empty where its outcome never was in doubt
    adopted: bool | msgspec.UnsetType = msgspec.UNSET  # true: found at the exchange, where nothing here knew of it


class Slice(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """A part of an expected fill at one price of one venue."""

    exchange: str
    price: Decimal
    quantity: Decimal


class ExpectedFill(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """What the books would give an order now."""

    quantity: Decimal
    average_price: Decimal | None
    worst_price: Decimal | None
    slippage_bps: float | None  # against mid; positive is a cost
    slices: tuple[Slice, ...] = ()


class VenueScoreView(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """A venue's score for the order, each part 0..1."""

    exchange: str
    score: float
    liquidity: float
    fee: float
    reliability: float
    speed: float


class OrderPreview(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """The answer to POST /api/orders/preview: what would happen; nothing was sent and nothing is on record."""

    accepted: bool
    pair: str
    side: Side
    type: OrderType
    exchange: str | None
    quantity: Decimal
    risk_validation: RiskValidation | None
    code: str | None = None  # of the refusal
    detail: str | None = None
    expected_fill: ExpectedFill | None = None
    estimated_cost: Decimal | None = None
    estimated_fees: Decimal | None = None
    venues: tuple[VenueScoreView, ...] = ()
    warnings: tuple[str, ...] = ()


def number(steps: int, step: Decimal) -> Decimal:
    """`steps x step` without trailing zeros: 5000, not 5000.0."""
    return (steps * step).normalize() + ZERO


def average_price(order: Order) -> Decimal | None:
    """Cost over quantity, exact where it ends, else to AVERAGE_STEP."""
    filled = order.filled_lots
    if not filled:
        return None
    ticks, rest = divmod(order.cost, filled)
    if not rest:
        return number(ticks, order.tick)
    return tidy((order.cost * order.tick / filled).quantize(AVERAGE_STEP, ROUND_HALF_EVEN))


def linked_orders(order: Order) -> LinkedOrders:
    """The exits of an entry; an exit has none of its own."""
    if order.parent_id is not None:
        return LinkedOrders()
    return LinkedOrders(order.stop_loss_id, order.take_profit_id)


def order_update(order: Order) -> OrderUpdate:
    """The compact form for events; made for every change of every order, so it calls as little as it can."""
    tick, lot, price, stop, filled = order.tick, order.lot, order.price_ticks, order.stop_ticks, order.filled_lots
    quantity = (order.qty_lots * lot).normalize() + ZERO
    return OrderUpdate(
        order.order_id,
        order.client_order_id,
        STATUS[order.state],
        order.pair,
        order.side,
        order.type,
        order.role,
        order.exchange,
        order.wallet.startswith("paper."),
        quantity,
        None if price is None else number(price, tick),
        None if stop is None else number(stop, tick),
        ZERO if not filled else quantity if filled == order.qty_lots else number(filled, lot),
        average_price(order) if filled else None,
        order.parent_id,
        order.reason,
        order.code,
        order.updated_ns // MS_NS,
    )


def fill_view(fill: Fill) -> FillView:
    """A fill as the API and the channel `trades` show it."""
    quantity, price = fill.qty_lots * fill.lot, fill.price_ticks * fill.tick
    return FillView(
        fill.fill_id,
        fill.order_id,
        fill.trade_id,
        fill.pair,
        fill.side,
        quantity.normalize() + ZERO,
        price.normalize() + ZERO,
        (quantity * price).normalize() + ZERO,
        fill.fee.normalize() + ZERO,
        fill.fee_currency,
        fill.maker,
        fill.exchange,
        fill.wallet.startswith("paper."),
        fill.timestamp_ns // MS_NS,
    )


def order_placed(submitted: Submitted) -> OrderPlaced:
    """The answer to a new order, or to a repeat of it."""
    order = submitted.order
    price, stop, cost, fees = order.price_ticks, order.stop_ticks, submitted.estimated_cost, submitted.estimated_fees
    return OrderPlaced(
        order.order_id,
        order.client_order_id,
        STATUS[order.state],
        order.pair,
        order.side,
        order.type,
        number(order.qty_lots, order.lot),
        None if price is None or order.type == "market" else number(price, order.tick),
        None if stop is None else number(stop, order.tick),
        number(order.filled_lots, order.lot),
        average_price(order),
        order.exchange,
        order.created_ns // MS_NS,
        order.tif,
        order.paper,
        order.risk,
        None if cost is None else tidy(cost),
        None if fees is None else tidy(fees),
        linked_orders(order),
        order.warnings,
    )


def order_fill_view(fill: Fill) -> OrderFillView:
    """A fill as its order shows it."""
    return OrderFillView(
        fill.fill_id,
        fill.trade_id,
        number(fill.qty_lots, fill.lot),
        number(fill.price_ticks, fill.tick),
        fill.timestamp_ns // MS_NS,
        fill.fee,
        fill.fee_currency,
        fill.maker,
    )


def order_view(order: Order, fills: Sequence[Fill] = (), legs: list[OrderView] | None = None) -> OrderView:
    """The order without its risk report; `legs` are its exits where they are to stand inside it."""
    tick, lot, price, stop, filled = order.tick, order.lot, order.price_ticks, order.stop_ticks, order.filled_lots
    quantity = number(order.qty_lots, lot)
    average = average_price(order) if filled else None
    filled_ms = None if order.fill_ns is None else order.fill_ns // MS_NS
    submit_ms = order.submit_ns // MS_NS
    # By position, in the order of the fields: half the cost of naming two dozen of them, for every order of a list.
    return OrderView(
        order.order_id,
        order.client_order_id,
        STATUS[order.state],
        order.pair,
        order.side,
        order.type,
        order.role,
        quantity,
        None if price is None or order.type == "market" else number(price, tick),
        None if stop is None else number(stop, tick),
        order.tif,
        quantity if filled == order.qty_lots else number(filled, lot),
        ZERO if order.ended else number(order.qty_lots - filled, lot),
        average,
        number(order.cost, tick * lot) if filled else ZERO,
        fees_in_quote(order, fills, average) if order.fees else ZERO,
        order.fees,
        order.exchange,
        order.paper,
        submit_ms,
        filled_ms,
        None if order.end_ns is None else order.end_ns // MS_NS,
        order.updated_ns // MS_NS,
        None if order.expires_ns is None else order.expires_ns // MS_NS,
        None if filled_ms is None else filled_ms - submit_ms,
        order.post_only,
        order.parent_id,
        linked_orders(order),
        tidy(order.protected),
        "venue" if order.at_venue else "service" if order.stop_ticks and order.state is State.HELD else None,
        tidy(order.reserved),
        order.cancel_requested,
        order.reason,
        order.code,
        order.signal_data,
        order.signal_id,
        order.warnings,
        [order_fill_view(fill) for fill in fills],
        msgspec.UNSET if legs is None else legs,
        adopted=True if order.adopted_as else msgspec.UNSET,
    )


def order_detail(order: Order, fills: Sequence[Fill] = ()) -> OrderView:
    """The order with its risk report, what it cost against the market, and what was asked about it."""
    return msgspec.structs.replace(
        order_view(order, fills),
        risk_validation=order.risk,
        arrival_slippage_bps=arrival_slippage_bps(order, average_price(order)),
        evidence=[evidence_view(line) for line in order.evidence],
    )


def evidence_view(line: Evidence) -> EvidenceView:
    return EvidenceView(line.asked_ns // MS_NS, line.last_ns // MS_NS, line.question, line.answer, line.count)


def fees_in_quote(order: Order, fills: Sequence[Fill], average: Decimal | None) -> Decimal:
    """Fees as one figure; what was paid in a third currency is only in `feesByCurrency`."""
    total = order.fees.get(order.quote, ZERO)
    in_base = order.fees.get(order.base)
    if not in_base:
        return total
    if fills:
        total += sum((f.fee * f.price for f in fills if f.fee_currency == order.base), ZERO)
    elif average is not None:
        total += in_base * average
    return tidy(total)


def arrival_slippage_bps(order: Order, average: Decimal | None) -> float | None:
    """s (average - mid)/mid x 10,000 against the mid when the order came in; None before the first fill."""
    mid = order.arrival_mid
    if average is None or not mid:
        return None
    return round(order.sign * (float(average) / float(mid) - 1) * 10_000, 4)
