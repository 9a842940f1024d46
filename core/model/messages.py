"""Every message on the bus: commands in the imperative, events in the participle.

Commands carry a `reply`: it is called once, as an effect, after the commit that made the outcome durable.
"""

from collections.abc import Callable
from decimal import Decimal
from typing import Any, Literal

import msgspec

from .records import (
    Amend,
    Fill,
    OnSlippage,
    Order,
    OrderType,
    RiskValidation,
    Role,
    Side,
    Signal,
    SignalAction,
    SignalData,
    SizingMethod,
    TimeInForce,
    TradingLimit,
    TriggerSource,
)

Reply = Callable[[Any], None]


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """Why a command was not carried out; nothing was changed, unless `order` is the rejected order on record."""

    code: str
    detail: str
    status: int = 422
    errors: tuple[dict[str, str], ...] = ()
    order: Order | None = None
    retry_after_s: int | None = None
    risk: RiskValidation | None = None  # of an order that is not even on record
    signal_id: str | None = None  # of the rejected signal on record


# --- commands ------------------------------------------------------------------------------------------------------


class SubmitOrder(msgspec.Struct, frozen=True, kw_only=True):
    """A new order, validated for shape but not against an instrument."""

    pair: str
    side: Side
    type: OrderType
    quantity: Decimal
    reply: Reply
    price: Decimal | None = None
    stop_price: Decimal | None = None
    stop_loss: Decimal | None = None
    take_profit: Decimal | None = None
    tif: TimeInForce | None = None  # None: the configured default
    post_only: bool = False
    exchange: str | None = None
    paper: bool | None = None
    risk_check: bool = True
    client_order_id: str | None = None
    fingerprint: str = ""
    trigger: TriggerSource = "bid_ask"
    on_slippage: OnSlippage = "refuse"
    timeout_ns: int | None = None  # None: the configured default; 0: never
    expires_ns: int | None = None
    signal_data: SignalData | None = None
    signal_id: str | None = None
    role: Role = "entry"
    advice: "Advice | None" = None  # of the risk service, once it was asked; the quantity is cut to it already
    # Called within the same input when the order is on record, or is refused: what belongs to it can share its commit.
    on_decided: "Callable[[Order | Refusal], None] | None" = None
    # Called after the wait for the risk service: the most that may be ordered now, as the market may have moved.
    refit: "Callable[[], Decimal] | None" = None


class Submitted(msgspec.Struct, frozen=True):
    """The answer to SubmitOrder."""

    order: Order
    repeated: bool = False  # the same request was answered before
    estimated_cost: Decimal | None = None
    estimated_fees: Decimal | None = None


class Advice(msgspec.Struct, frozen=True, kw_only=True):
    """What the risk service said of an order, or that it said nothing."""

    outcome: Literal["approved", "adjusted", "refused", "unavailable"]
    requested: Decimal  # the quantity before it was cut
    recommended: Decimal | None = None  # the largest quantity that it lets through; None where it said none
    reason: str = ""


class ExecuteSignal(msgspec.Struct, frozen=True, kw_only=True):
    """A trading decision, validated for shape but not against the market; answered with a `Signalled` or a Refusal."""

    pair: str
    action: SignalAction
    reply: Reply
    confidence: Decimal | None = None  # 0..1
    source: str | None = None
    strategy: str | None = None
    entry_price: Decimal | None = None
    stop_loss: Decimal | None = None
    take_profit: Decimal | None = None
    method: SizingMethod | None = None  # None: fixed_fraction
    max_risk: Decimal | None = None  # share of equity; None: MAX_RISK_PER_TRADE
    exchange: str | None = None
    paper: bool | None = None
    timestamp_ns: int | None = None  # when it was decided
    expires_ns: int | None = None
    client_signal_id: str | None = None
    fingerprint: str = ""
    metadata: str = ""  # JSON


class Signalled(msgspec.Struct, frozen=True):
    """The answer to ExecuteSignal: the signal as it is on record, and its orders, the entry first."""

    signal: Signal
    orders: tuple[Order, ...] = ()
    repeated: bool = False


class CancelOrder(msgspec.Struct, frozen=True, kw_only=True):
    order_id: str
    reply: Reply
    reason: str = "asked for"


class CancelOrders(msgspec.Struct, frozen=True, kw_only=True):
    """Cancel every open order, or those of a pair."""

    reply: Reply
    pair: str | None = None
    exchange: str | None = None
    reason: str = "asked for"


class AmendOrder(msgspec.Struct, frozen=True, kw_only=True):
    order_id: str
    reply: Reply
    quantity: Decimal | None = None
    price: Decimal | None = None
    stop_price: Decimal | None = None


class ResolveOrder(msgspec.Struct, frozen=True, kw_only=True):
    """An operator's word on an order whose outcome is in doubt; `ask` only has its venue asked now."""

    order_id: str
    outcome: Literal["not_taken", "cancelled", "ask"]
    by: str  # the operator: the name of the API key
    reply: Reply
    reason: str = ""


class CancelExternal(msgspec.Struct, frozen=True, kw_only=True):
    """Cancel an open order on our account that is not of this service."""

    exchange: str
    pair: str
    venue_order_id: str
    reply: Reply


class ClosePosition(msgspec.Struct, frozen=True, kw_only=True):
    position_id: str
    reply: Reply
    quantity: Decimal | None = None  # None: all of it
    client_order_id: str | None = None
    fingerprint: str = ""
    signal_data: SignalData | None = None  # who closes: a strategy's sale takes its own coins first
    signal_id: str | None = None
    on_decided: "Callable[[Order | Refusal], None] | None" = None  # as of SubmitOrder


class SetTradingState(msgspec.Struct, frozen=True, kw_only=True):
    """An operator's word on what may be traded; answered with the `TradingState` of the scope, or a Refusal."""

    state: Literal["ACTIVE", "REDUCING", "HALTED", "FLATTEN"]
    reply: Reply
    scope: str = ""  # everything; or exchange:binance, pair:BTC_USDT, strategy:ma
    reason: str = ""  # of every state but ACTIVE
    by: str = ""  # the operator: the name of the API key


class SetDeadMan(msgspec.Struct, frozen=True, kw_only=True):
    """Arm the dead-man timer, or renew it; answered with the `DeadMan`, None once disarmed, or a Refusal."""

    timeout_ns: int  # 0 disarms
    reply: Reply
    by: str = ""


class RunDrill(msgspec.Struct, frozen=True, kw_only=True):
    """Prove on paper that FLATTEN works; answered with a `DrillReport` or a Refusal."""

    reply: Reply
    pair: str | None = None  # None: the first with a fresh book
    by: str = ""


# --- to a venue (effects) and back ---------------------------------------------------------------------------------


class PlaceAtVenue(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a venue needs in order to take an order; its intent is committed before this leaves."""

    client_id: str  # unique for node, order and attempt
    pair: str
    side: Side
    type: Literal["market", "limit"]
    qty_lots: int
    price_ticks: int | None  # of a market order: the guard price, or None for an exit that must trade
    tif: TimeInForce
    post_only: bool = False


class PlaceExitsAtVenue(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A stop and a target for the same coins, of which one cancels the other; each sells at the market once the last
    trade price reaches it. The intents of both are committed before this leaves."""

    pair: str
    qty_lots: int
    stop_client_id: str
    stop_ticks: int
    target_client_id: str
    target_ticks: int


class CancelAtVenue(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    client_id: str
    pair: str
    venue_order_id: str | None = None


class AmendAtVenue(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """New values of an order as it was placed: of its present attempt, the filled part included."""

    client_id: str
    pair: str
    amend: Amend
    venue_order_id: str | None = None


class AskAtVenue(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Which order a venue is asked about, and what it must be to be ours."""

    client_id: str
    pair: str
    side: Side
    qty_lots: int  # as placed, or amended since; the venue's may be less where an amendment's answer was lost
    price_ticks: int | None = None  # of a limit order; None is not compared
    venue_order_id: str | None = None  # asked by it where it is known: nobody can change it
    filled_lots: int | None = None  # what is known to have traded; a venue need not tell the trades of just so much
    doubted: bool = False  # VenueAsked is wanted for each question, also where the answer is as usual


class VenueAccepted(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    venue: str
    client_id: str
    venue_order_id: str
    timestamp_ns: int
    side: Side | None = None  # where the venue says it: one that is not the order's is somebody else's order


class VenueContradicted(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An order stands at the venue under our client id that is not the one that we placed under it."""

    venue: str
    client_id: str
    reason: str
    timestamp_ns: int


class VenueRejected(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The venue refused the order: it is proven not taken."""

    venue: str
    client_id: str
    code: str
    reason: str
    timestamp_ns: int


class VenueFilled(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    venue: str
    client_id: str
    venue_order_id: str
    trade_id: str
    price_ticks: int
    qty_lots: int
    fee: Decimal
    fee_currency: str
    maker: bool
    timestamp_ns: int
    side: Side | None = None  # as of VenueAccepted
    pair: str | None = None  # where the venue says it


class VenueEnded(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The order is off the venue's book: cancelled, or expired by its time in force."""

    venue: str
    client_id: str
    kind: Literal["cancelled", "expired"]
    reason: str
    timestamp_ns: int
    filled_lots: int | None = None  # all that it traded, where the venue says so: a fill may still be on its way


class VenueAmended(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What the order is now, as it was placed or last amended; an order that is already so is left as it is."""

    venue: str
    client_id: str
    qty_lots: int
    price_ticks: int | None
    timestamp_ns: int


class VenueRequestFailed(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A cancel or an amend was refused; the order itself is as it was."""

    venue: str
    client_id: str
    request: Literal["cancel", "amend"]
    code: str
    reason: str
    timestamp_ns: int


class VenueUnknown(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A request left, and what became of it cannot be told: the venue must be asked before anything is sent again."""

    venue: str
    client_id: str
    request: Literal["place", "cancel", "amend"]
    reason: str
    timestamp_ns: int


class VenueAsked(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What was asked about an order and what was answered, before the answer to the query itself: for each question
    about an order that is doubted, and wherever the venue does not know the order or was not heard."""

    venue: str
    client_id: str
    question: str  # in the venue's words: order.status origClientOrderId=..
    answer: str  # in the venue's words: NEW executed 0 of 1; -2013 Order does not exist.
    timestamp_ns: int
    again_ns: int | None = None  # when asking again may tell more; 0: it was not asked about by itself, in its turn


class VenueStateChanged(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The connection for orders came (`up`: signed on, its reports are heard) or went. What happened at the venue
    meanwhile is not known yet: each order there has to be asked about."""

    venue: str
    up: bool
    reason: str
    timestamp_ns: int


class VenueTookOver(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Another connection for orders has taken over from one that was up. A report that was on its way on that may be
    lost: each order there has to be asked about, while orders go on."""

    venue: str
    timestamp_ns: int


class ForeignFilled(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Somebody else's order traded on our account at the venue: by hand, or by another program."""

    venue: str
    pair: str
    client_id: str
    trade_id: str
    side: Side
    price_ticks: int
    qty_lots: int
    fee: Decimal
    fee_currency: str
    timestamp_ns: int


class BalanceMoved(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Money came to or left our account at the venue without a trade: a deposit, a withdrawal, a transfer."""

    venue: str
    currency: str
    change: Decimal  # positive came
    reason: str
    timestamp_ns: int


class BalancesReported(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """All that the venue says our account holds, as an answer to `report_balances`: currency -> (free, locked)."""

    venue: str
    balances: dict[str, tuple[Decimal, Decimal]]
    timestamp_ns: int


# --- market data ---------------------------------------------------------------------------------------------------


class BookUpdated(msgspec.Struct, frozen=True, gc=False):
    """A book changed and is consistent; read it from `MarketData.book(exchange, pair)`."""

    exchange: str
    pair: str
    timestamp_ns: int


class TradePrinted(msgspec.Struct, frozen=True, gc=False):
    """Somebody traded."""

    exchange: str
    pair: str
    price_ticks: int
    qty_lots: int
    buyer_is_maker: bool  # true: a sell hit the bid
    timestamp_ns: int


# --- inside --------------------------------------------------------------------------------------------------------


class OrderFilled(msgspec.Struct, frozen=True, gc=False):
    """A fill was applied to its order; the portfolio follows."""

    order: Order
    fill: Fill
    reserved_change: Decimal  # of the order's reservation, negative when funds are set free


class OrderEnded(msgspec.Struct, frozen=True, gc=False):
    """An order has ended, or an ended one took a late fill; `type` is the name of the API event."""

    order: Order
    type: str


class TriggerReached(msgspec.Struct, frozen=True, gc=False):
    """The market reached a held order's stop price."""

    order_id: str
    price_ticks: int
    timestamp_ns: int


class ExitUnsold(msgspec.Struct, frozen=True, gc=False):
    """An attempt of an order is over at the venue and some of it is not traded: another one is due, in a while."""

    order: Order


class ExitReturned(msgspec.Struct, frozen=True, gc=False):
    """An exit that its venue was to watch is proven not to be there any more, or never to have been, and has sold
    nothing."""

    order: Order
    reason: str
    refused: bool = False  # the venue would refuse it again


class ReportMissing(msgspec.Struct, frozen=True, gc=False):
    """What is known of an order here cannot be all: its venue has to be asked."""

    order: Order
    reason: str


class StoreStateChanged(msgspec.Struct, frozen=True, gc=False):
    up: bool
    reason: str


class LimitChanged(msgspec.Struct, frozen=True):
    """A limit of trading was set or changed; or it was lifted, and this is how it was."""

    limit: TradingLimit
    by: str
    lifted: bool = False


class Faulted(msgspec.Struct, frozen=True, gc=False):
    """An actor raised: a bug. The trading state is HALTED by it."""

    where: str
    error: str
