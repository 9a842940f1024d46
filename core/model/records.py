"""What is kept: one struct for each JSON value in Redis.

Prices and quantities are whole ticks and lots; `tick` and `lot` stand beside them so that a record can be read alone
(price = price_ticks x tick) and stays true when a venue changes its grid. Money is Decimal text. Times are UTC
nanoseconds.

None of these can be part of a reference cycle, so the garbage collector does not follow them (`gc=False`): tens of
thousands are held for the life of the process.
"""

from decimal import Decimal
from enum import Enum
from typing import Literal

import msgspec

from .exact import ZERO

Side = Literal["buy", "sell"]
OrderType = Literal["market", "limit", "stop_loss", "take_profit"]
TimeInForce = Literal["GTC", "IOC", "FOK", "GTD"]
Role = Literal["entry", "stop_loss", "take_profit", "close"]
TriggerSource = Literal["bid_ask", "last"]
OnSlippage = Literal["refuse", "reduce"]
CheckName = Literal[
    "tradingState",
    "instrumentRules",
    "balance",
    "positionSize",
    "riskPerTrade",
    "riskPerDay",
    "dailyLoss",
    "correlatedExposure",
    "orderRate",
    "priceCollar",
    "riskService",
]
CheckResult = Literal["approved", "rejected", "adjusted", "skipped"]
SignalAction = Literal["BUY", "SELL", "HOLD", "CLOSE"]
SizingMethod = Literal["fixed_fraction", "volatility_adjusted", "kelly_criterion", "position"]
SignalStatus = Literal["pending", "executed", "held", "rejected"]


class State(Enum):
    """Where an order is in its life; `core/orders/lifecycle.py` holds the grid."""

    HELD = "HELD"
    SENT = "SENT"
    UNKNOWN = "UNKNOWN"
    LIVE = "LIVE"
    PART = "PART"
    FILLED = "FILLED"
    CANCELLED = "CANCELLED"
    REJECTED = "REJECTED"
    EXPIRED = "EXPIRED"

    # A member is its own only copy; Enum's hash, a Python function, would be half the cost of every lookup.
    __hash__ = object.__hash__


class Check(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """One pre-trade check: what was allowed and what it would have been."""

    name: CheckName
    passed: bool
    limit: Decimal | None = None
    actual: Decimal | None = None
    detail: str | None = None  # in words, always where it did not pass

    @property
    def explanation(self) -> str:
        return self.detail or f"{self.name}: {self.actual} is over {self.limit}"


class RiskValidation(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True, gc=False):
    """The manual's `riskValidation`, with every check that was made."""

    passed: bool
    position_size_check: CheckResult
    portfolio_risk_check: CheckResult
    recommended_size: Decimal
    max_risk: Decimal  # in quote: the whole cost, which is what a gap through every stop would lose
    checks: tuple[Check, ...] = ()
    fallback: bool = False  # the risk service did not answer: half of what was asked for was let through
    adjusted_order: "AdjustedOrder | None" = None  # what the risk service made of it

    @property
    def refusal(self) -> str:
        """Why the first check that did not pass refuses; only of a report that did not pass."""
        return next(check for check in self.checks if not check.passed).explanation


class AdjustedOrder(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """What an order was cut to before it was sent, and from what."""

    quantity: Decimal
    requested_quantity: Decimal
    reason: str


class SignalData(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """Who wanted the order, as given."""

    source: str | None = None
    confidence: Decimal | None = None
    strategy: str | None = None


class Evidence(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True, gc=False):
    """What was asked about an order in doubt, and what was answered; the same again right after is counted."""

    asked_ns: int  # the first time
    last_ns: int  # the last time
    question: str  # in the venue's words; of what an operator did: what, and who
    answer: str
    count: int = 1


class Order(msgspec.Struct, kw_only=True, omit_defaults=True, gc=False):
    """An order through its whole life. Only `core/orders` changes one."""

    # for the life of the order
    order_id: str
    client_order_id: str
    fingerprint: str = ""  # of the request, so that a repeat can be told from another request with the same id
    exchange: str
    pair: str
    wallet: str  # whose balances: the exchange, or "paper.<exchange>"
    side: Side
    type: OrderType
    role: Role = "entry"
    tick: Decimal
    lot: Decimal
    quote: str
    base: str
    submit_ns: int
    created_ns: int  # when the request came in; a held order is submitted later
    parent_id: str | None = None  # of an exit: the entry that it protects
    adopted_as: str = ""  # the client id under which it was found at its venue, where nobody here knew of it
    tags: tuple[str, ...] = ()  # of the processes that have sent its attempts; () before they were kept
    signal_data: SignalData | None = None
    signal_id: str | None = None
    risk: RiskValidation | None = None
    warnings: tuple[str, ...] = ()

    # what is asked for; amend changes these
    qty_lots: int
    price_ticks: int | None = None
    stop_ticks: int | None = None
    tif: TimeInForce = "GTC"
    post_only: bool = False
    trigger: TriggerSource = "bid_ask"
    expires_ns: int | None = None  # GTD, or the order timeout
    timeout_ns: int = 0  # armed when the venue has the order; 0 never
    guard_ticks: int | None = None  # the worst price a market order may take

    # where it is
    state: State = State.HELD
    venue_client_id: str = ""
    venue_order_id: str | None = None
    attempt: int = 0
    tries: int = 0  # of the same quantity in a row that the venue turned away for a reason of its own
    amends: int = 0  # of the present attempt, in place
    past_ids: tuple[str, ...] = ()  # the venue's ids of the last attempts that are over
    sent_ns: int | None = None
    updated_ns: int = 0
    end_ns: int | None = None
    fill_ns: int | None = None  # of the last fill
    triggered_ns: int | None = None
    listed: bool = False  # an exit that its venue watches together with the other one, or is being asked to
    recalled: str | None = None  # why the venue is asked to give a listed exit back
    held_here: bool = False  # an exit that its venue would not watch
    attempt_from: int = 0  # filled lots when the present attempt was sent: the venue counts from here
    attempt_until: int = 0  # filled lots at which all of the present attempt has traded
    waiting: bool = False  # between two attempts: nothing of it is at the venue or on the way there
    cancel_requested: str | None = None  # why, once a cancel was sent
    amend_requested: "Amend | None" = None
    reason: str | None = None  # why it ended as it did
    code: str | None = None  # the same for programs

    # what has happened to it
    filled_lots: int = 0
    cost: int = 0  # ticks x lots
    fees: dict[str, Decimal] = {}  # by currency, positive is paid
    reserved: Decimal = ZERO  # what is set aside for the rest, in quote for a buy and base for a sell
    protected: Decimal = ZERO  # quantity that held exits cover
    arrival_mid: Decimal | None = None
    stop_loss_id: str | None = None
    take_profit_id: str | None = None
    evidence: tuple[Evidence, ...] = ()  # of doubts about its outcome; `core/orders/evidence.py` bounds it

    @property
    def sign(self) -> int:
        return 1 if self.side == "buy" else -1

    @property
    def left_lots(self) -> int:
        return self.qty_lots - self.filled_lots

    @property
    def adopted(self) -> bool:
        """It was found at its venue, and is managed since as one of our own."""
        return bool(self.adopted_as)

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    @property
    def market_exit(self) -> bool:
        """A reached sale at the market: it goes on until it is sold or taken back."""
        return self.triggered_ns is not None and self.price_ticks is None and self.side == "sell"

    @property
    def at_venue(self) -> bool:
        """An exit that waits for its price at the venue, as far as is known."""
        return self.listed and self.triggered_ns is None and self.state not in ENDED

    @property
    def average_price(self) -> Decimal | None:
        return self.cost * self.tick / self.filled_lots if self.filled_lots else None

    @property
    def total_cost(self) -> Decimal:
        return self.cost * self.tick * self.lot

    @property
    def paper(self) -> bool:
        return self.wallet.startswith("paper.")


def strategy_of(order: Order) -> str:
    """Whose an order is; empty: no strategy's."""
    signal = order.signal_data
    return signal.strategy or "" if signal is not None else ""


ENDED = frozenset({State.FILLED, State.CANCELLED, State.REJECTED, State.EXPIRED})


class Amend(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """New values that the venue was asked for; None leaves a value as it is."""

    qty_lots: int | None = None
    price_ticks: int | None = None
    replace: bool = False  # the venue cannot do it in place: a cancel, and a new attempt when that is proven


class Fill(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Part or all of an order traded at a venue."""

    fill_id: str
    order_id: str
    trade_id: str  # the venue's; applying the same one twice changes nothing
    exchange: str
    pair: str
    wallet: str
    side: Side
    tick: Decimal
    lot: Decimal
    price_ticks: int
    qty_lots: int
    fee: Decimal  # in fee_currency, positive is paid
    fee_currency: str
    # What a fee in a third currency (neither base nor quote) was worth in quote when it was paid, on 18 decimals; None
    # where nothing priced it, and for other fees.
    fee_value: Decimal | None = None
    maker: bool = False
    timestamp_ns: int
    strategy: str = ""  # of its order; empty: none

    @property
    def price(self) -> Decimal:
        return self.price_ticks * self.tick

    @property
    def quantity(self) -> Decimal:
        return self.qty_lots * self.lot

    @property
    def cost(self) -> Decimal:
        return self.price_ticks * self.qty_lots * self.tick * self.lot


class Sizing(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True, gc=False):
    """How the quantity of a signal was found: the manual's `positionSizing`. Amounts are in base currency."""

    recommended_size: Decimal  # what is ordered: on the instrument's grid
    risk_amount: Decimal  # what the order loses at its stop, fees included
    method: SizingMethod
    risk_percent: Decimal  # that, as a share of equity: 0.019 is 1.9 %
    raw_size: Decimal  # as the method gives it, before caps and rounding
    cap: str | None = None  # which limit bound it, by its name; None: none
    equity: Decimal
    entry_price: Decimal  # that it was sized with, in quote
    stop_price: Decimal | None = None
    target_price: Decimal | None = None
    volatility: float | None = None  # a year; of volatility_adjusted
    kelly_fraction: Decimal | None = None  # f, before KELLY_FRACTION
    win_probability: Decimal | None = None  # p that f was worked out with
    detail: str | None = None  # in words, what is worth knowing


class Signal(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A trading decision that came in, and what became of it; kept in table `signals`."""

    signal_id: str
    client_signal_id: str | None = None  # the caller's
    fingerprint: str = ""  # of the request, so that a repeat can be told from another one with the same id
    pair: str
    action: SignalAction
    exchange: str | None = None
    confidence: Decimal | None = None
    source: str | None = None
    strategy: str | None = None
    entry_price: Decimal | None = None
    stop_loss: Decimal | None = None
    take_profit: Decimal | None = None
    method: SizingMethod | None = None
    max_risk: Decimal | None = None  # share of equity
    metadata: str = ""  # JSON, as given
    created_ns: int
    updated_ns: int = 0
    status: SignalStatus = "pending"
    code: str | None = None  # why it was rejected
    reason: str | None = None
    order_ids: tuple[str, ...] = ()  # entry first, then its exits
    sizing: Sizing | None = None
    warnings: tuple[str, ...] = ()


class TradingLimit(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why trading is limited, and where; kept in table `risk` where it survives a restart."""

    name: str  # of the reason: operator, dailyLoss, drawdown, deadman, ...
    scope: str = ""  # everything; or exchange:binance, pair:BTC_USDT, strategy:ma
    state: Literal["REDUCING", "HALTED", "FLATTEN"]
    why: str
    by: str = ""  # who did it: the name of an API key, or empty for the service itself
    since_ns: int


class CommandMark(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A command of the stream that has entered the core; kept in table `strategies` for those that no other record
    tells of."""

    command_id: str  # the sender's
    asked: str  # type and body, so that a repeat can be told from another command with the same id
    order_ids: tuple[str, ...] = ()  # that it was about
    entered_ns: int
    status: int = 0  # where it was refused after it had entered: how
    code: str = ""
    detail: str = ""


class DeadMan(msgspec.Struct, frozen=True, kw_only=True):
    """An armed dead-man timer: not renewed before its deadline, it stops trading; kept in table `risk`."""

    deadline_ns: int
    timeout_ns: int
    by: str = ""  # who armed it: the name of an API key


class Rebase(msgspec.Struct, frozen=True, kw_only=True):
    """What losses were when a person lifted a loss limit: the next is counted from here; kept in table `risk`."""

    day: int  # of `day_loss`: since 1970, UTC
    day_loss: Decimal  # of that day, in base currency, when `dailyLoss` was last lifted
    # What was left of the highest growth since `drawdown` was last lifted, at the last equity sample: 0.9 is 10 % down.
    # A share, as the index that growth is counted in begins anew with the oldest sample that is kept. None: never was.
    left: float | None = None


class FaultMark(msgspec.Struct, frozen=True, rename="camel"):
    """A fault of ours may have left the books half changed; kept until they were found, or made, to agree."""

    where: str
    error: str
    at_ns: int


class Balance(msgspec.Struct, kw_only=True):
    """What one wallet holds of one currency."""

    wallet: str
    currency: str
    total: Decimal = ZERO
    locked: Decimal = ZERO  # reserved by open orders; recomputed from them on load
    flows: Decimal = ZERO  # of `total`, what came from outside less what went there; the rest is what fills moved

    @property
    def available(self) -> Decimal:
        return self.total - self.locked


class Position(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One pair at one exchange, average cost method, exact."""

    position_id: str
    wallet: str
    exchange: str
    pair: str
    quantity: Decimal = ZERO
    cost: Decimal = ZERO  # in quote, of the quantity that is held
    realised: Decimal = ZERO  # in quote, after quote fees
    fees: dict[str, Decimal] = {}  # as paid
    open_ns: int = 0
    updated_ns: int = 0
    closed_count: int = 0  # round trips ended
    won_count: int = 0  # of those, with a profit
    trip_realised: Decimal = ZERO  # realised since the position was last opened


class SubPosition(Position, kw_only=True, omit_defaults=True):
    """What of a position is a strategy's: its own coins at its own average cost; kept in table `strategies`."""

    position_id: str = ""  # has none
    strategy: str = ""  # empty: the coins of no strategy


class EquitySample(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """The portfolio's worth at a moment, in base currency."""

    timestamp_ns: int
    equity: Decimal
    flow: Decimal = ZERO  # deposits less withdrawals since the sample before
