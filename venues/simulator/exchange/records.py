"""What goes into the exchange and what comes out: symbols, orders, trades, order lists, events, refusals.

Always true here:
- Money is `int` in units of 1e-8 (UNIT of them make one): prices in quote, quantities in base, amounts in quote.
  `amount(price, qty)` is exact, because a symbol is only listed where its tick times its step is a whole unit.
- Texts of enumerations (sides, types, statuses, modes, kinds) are Binance's own, so that a protocol prints them as is.
- Times are milliseconds since 1970; -1 where something has not happened.
- What an event or an answer carries is a copy that never changes later, but for `Order.trades`, which all copies share.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Literal

from msgspec import Struct, field

UNIT = 100_000_000
UNITS_MOST = 2**63 - 1

Side = Literal["BUY", "SELL"]
OrderType = Literal[
    "LIMIT", "LIMIT_MAKER", "MARKET", "STOP_LOSS", "STOP_LOSS_LIMIT", "TAKE_PROFIT", "TAKE_PROFIT_LIMIT"
]
ORDER_TYPES: tuple[str, ...] = (
    "LIMIT",
    "LIMIT_MAKER",
    "MARKET",
    "STOP_LOSS",
    "STOP_LOSS_LIMIT",
    "TAKE_PROFIT",
    "TAKE_PROFIT_LIMIT",
)
TIMES_IN_FORCE: tuple[str, ...] = ("GTC", "IOC", "FOK")
STP_MODES: tuple[str, ...] = ("NONE", "EXPIRE_TAKER", "EXPIRE_MAKER", "EXPIRE_BOTH", "DECREMENT")
OPEN_STATUSES = frozenset({"NEW", "PENDING_NEW", "PARTIALLY_FILLED"})

# `Order.expiry_reason`, the executionReport's "eR".
EXPIRY_REJECTED = 1  # waited in a list, and could not be placed when its time came
EXPIRY_EXCHANGE = 2  # cancelled by the exchange
EXPIRY_OCO = 3  # the other order of the pair traded or was triggered
EXPIRY_OTO = 4  # the working order of the list ended without being filled whole
EXPIRY_IOC = 5  # what an IOC order could not trade at once
EXPIRY_FOK = 6  # a FOK order that could not be filled whole
EXPIRY_LIQUIDITY = 7  # nothing left that a market order could take


def amount(price: int, qty: int) -> int:
    """What `qty` costs at `price`, in units of the quote asset."""
    return price * qty // UNIT


EIGHT_DECIMALS = Decimal(1) / UNIT


def units(number: Decimal | str | int) -> int:
    """A decimal amount in units of 1e-8. Raises ValueError where that is not exact, or more than 64 bits hold."""
    number = Decimal(number)
    if not number.is_finite() or abs(number) > UNITS_MOST // UNIT:
        raise ValueError(f"{number} is no amount: a number of at most {UNITS_MOST // UNIT} either way")
    rounded = number.quantize(EIGHT_DECIMALS)
    if rounded != number:
        raise ValueError(f"{number} has more than eight decimals")
    return int(rounded.scaleb(8))


class Filters(Struct, frozen=True, kw_only=True):
    """The filters of a symbol; 0 turns a bound off, None a filter."""

    min_price: int
    max_price: int
    tick: int
    min_qty: int
    max_qty: int
    step: int
    market_min_qty: int = 0
    market_max_qty: int = 0
    market_step: int = 0
    bid_multiplier_up: Decimal = Decimal("5")
    bid_multiplier_down: Decimal = Decimal("0.2")
    ask_multiplier_up: Decimal = Decimal("5")
    ask_multiplier_down: Decimal = Decimal("0.2")
    avg_price_mins: int = 5
    min_notional: int = 0
    apply_min_to_market: bool = True
    max_notional: int = 0
    apply_max_to_market: bool = False
    min_trailing_above: int = 10  # basis points
    max_trailing_above: int = 2000
    min_trailing_below: int = 10
    max_trailing_below: int = 2000
    iceberg_parts: int = 10
    max_orders: int = 200
    max_algo_orders: int = 5
    max_order_lists: int = 20
    max_amends: int = 10
    max_position: int | None = None


class Symbol(Struct, frozen=True, kw_only=True):
    """What is traded against what, and by which rules."""

    name: str
    base: str
    quote: str
    filters: Filters
    status: str = "TRADING"  # anything else takes no orders
    order_types: tuple[str, ...] = ORDER_TYPES
    iceberg_allowed: bool = True
    oco_allowed: bool = True
    oto_allowed: bool = True
    quote_order_qty_allowed: bool = True
    trailing_stop_allowed: bool = True
    cancel_replace_allowed: bool = True
    amend_allowed: bool = True
    maker_rate: Decimal = Decimal("0.001")
    taker_rate: Decimal = Decimal("0.001")
    default_stp: str = "EXPIRE_MAKER"
    allowed_stp: tuple[str, ...] = ("NONE", "EXPIRE_TAKER", "EXPIRE_MAKER", "EXPIRE_BOTH", "DECREMENT")

    @property
    def tick(self) -> int:
        return self.filters.tick

    @property
    def step(self) -> int:
        return self.filters.step


class NewOrder(Struct):
    """What an account asks for. None is "not sent"."""

    symbol: str
    side: str
    type: str
    time_in_force: str | None = None
    quantity: int | None = None
    quote_order_qty: int | None = None
    price: int | None = None
    stop_price: int | None = None
    trailing_delta: int | None = None  # basis points
    iceberg_qty: int | None = None
    client_order_id: str | None = None  # made by the exchange where None
    stp_mode: str | None = None
    strategy_id: int | None = None
    strategy_type: int | None = None


class Order(Struct):
    """An order as the exchange knows it. 0 in a price or quantity is Binance's "0.00000000": there is none."""

    order_id: int
    client_order_id: str
    account: str
    symbol: str
    side: str
    type: str
    time_in_force: str
    quantity: int
    price: int = 0
    order_list_id: int = -1
    quote_order_qty: int = 0
    stop_price: int = 0
    trailing_delta: int = 0
    trailing_time: int = -1  # when a trailing order began to follow the price
    iceberg_qty: int = 0
    executed: int = 0
    executed_quote: int = 0
    status: str = "NEW"
    is_working: bool = False  # on the book, or was; False while a stop or a pending order waits
    created_ms: int = -1
    updated_ms: int = -1
    working_ms: int = -1
    stp_mode: str = "NONE"
    prevented_quantity: int = 0
    prevented_match_id: int = -1
    expiry_reason: int | None = None
    amend_count: int = 0
    strategy_id: int | None = None
    strategy_type: int | None = None
    trades: list[int] = field(default_factory=list)  # trade ids; shared by the copies of an order

    @property
    def open(self) -> bool:
        return self.status in OPEN_STATUSES


# A copy of an order as it is now, without the detour of copy.copy; `trades` is shared.
snapshot: Callable[[Order], Order] = Order.__copy__  # type: ignore[attr-defined]


class Trade(Struct, frozen=True):
    """Two orders met. Trade ids rise by one per symbol."""

    trade_id: int
    symbol: str
    price: int
    qty: int
    quote_qty: int
    time_ms: int
    buyer_is_maker: bool
    buyer_order_id: int
    seller_order_id: int


class AccountTrade(Struct, frozen=True):
    """A trade as one of its accounts sees it."""

    trade: Trade
    order_id: int
    order_list_id: int
    account: str
    is_buyer: bool
    is_maker: bool
    commission: int
    commission_asset: str


class ListedOrder(Struct, frozen=True):
    """An order's names in its list."""

    symbol: str
    order_id: int
    client_order_id: str


class OrderList(Struct):
    """Orders that depend on each other. OTOCO has contingency "OTO"."""

    list_id: int
    symbol: str
    contingency: str  # OCO, OTO
    account: str
    client_list_id: str
    status: str  # listStatusType: EXEC_STARTED, UPDATED, ALL_DONE, RESPONSE
    order_status: str  # listOrderStatus: EXECUTING, ALL_DONE, REJECT
    orders: tuple[ListedOrder, ...]
    time_ms: int


class NewList(Struct, kw_only=True):
    """A list to place. OCO: `pending` are its two legs, above then below, and `working` is None.

    OTO: `working` and one pending order; OTOCO: `working` and two pending ones, above then below.
    """

    kind: str  # OCO, OTO, OTOCO
    symbol: str
    pending: tuple[NewOrder, ...]
    working: NewOrder | None = None
    client_list_id: str | None = None


class PreventedMatch(Struct, frozen=True):
    """Two orders of one account that would have traded with each other."""

    symbol: str
    prevented_match_id: int
    taker_order_id: int
    maker_symbol: str
    maker_order_id: int
    trade_group_id: int
    stp_mode: str
    price: int
    taker_prevented_quantity: int
    maker_prevented_quantity: int
    time_ms: int
    account: str = ""


class Amendment(Struct, frozen=True):
    """One change of an order's quantity that kept its place in the queue."""

    symbol: str
    order_id: int
    execution_id: int
    old_client_id: str
    new_client_id: str
    old_quantity: int
    new_quantity: int
    time_ms: int


# --- events


class Execution(Struct, kw_only=True):
    """Something happened to an order: Binance's executionReport."""

    account: str
    kind: str  # NEW CANCELED REPLACED REJECTED TRADE EXPIRED TRADE_PREVENTION
    order: Order  # after it; client_order_id is the order's own, also when it was cancelled
    execution_id: int
    time_ms: int
    trade: AccountTrade | None = None
    cancel_client_id: str = ""  # on CANCELED: the id of the cancel
    amended_from: str = ""  # on REPLACED: the client id before
    reject_reason: str = "NONE"
    prevented_quantity: int = 0  # by this prevention
    prevented_price: int = 0
    prevented_trade_qty: int = 0  # what would have been traded
    counter_order_id: int = -1
    counter_symbol: str = ""
    trade_group_id: int = -1


class BalancesChanged(Struct, frozen=True):
    """Free and locked of the assets that one call changed, after it."""

    account: str
    balances: dict[str, tuple[int, int]]
    time_ms: int


class BalanceMoved(Struct, frozen=True):
    """A deposit, or with a negative delta a withdrawal."""

    account: str
    asset: str
    delta: int
    time_ms: int


class ListChanged(Struct, frozen=True):
    """An order list began, went on or ended."""

    account: str
    list: OrderList


class PublicTrade(Struct, frozen=True):
    """A trade for everybody to see."""

    trade: Trade


Event = Execution | BalancesChanged | BalanceMoved | ListChanged | PublicTrade

# --- answers

Orders = list[Order]
AccountTrades = list[AccountTrade]


class Placed(Struct, frozen=True):
    """A new order after all that it did at once; `trades` are the account's own side."""

    order: Order
    trades: list[AccountTrade]
    prevented: list[PreventedMatch] = field(default_factory=list)


class Cancelled(Struct, frozen=True):
    """An order that was cancelled, and the id of the cancel."""

    order: Order
    cancel_client_id: str


class ListReport(Struct, frozen=True):
    """A list and its orders, after placing or cancelling; `cancel_client_id` is empty where nothing was cancelled."""

    list: OrderList
    orders: Orders
    cancel_client_id: str = ""
    trades: AccountTrades = []  # of its orders, made by the same call


class Replaced(Struct, frozen=True):
    """A cancel and a new order; one of them is an error where only half was done (ALLOW_FAILURE)."""

    cancelled: Cancelled | ListReport
    placed: Placed


class Amended(Struct, frozen=True):
    """An order with its new quantity; `list` where it is part of one."""

    order: Order
    execution_id: int
    time_ms: int
    list: OrderList | None = None


# --- refusals


class ExchangeError(Exception):
    """A request that the exchange refuses, with Binance's code and text; the exchange is as it was before."""

    def __init__(self, code: int, msg: str) -> None:
        super().__init__(f"{code}: {msg}")
        self.code = code
        self.msg = msg


class CancelReplaceError(ExchangeError):
    """cancelReplace that failed: -2022 both halves (or the second was not tried), -2021 one of them.

    Each half is its answer, its error, or None where it was not attempted.
    """

    def __init__(
        self,
        code: int,
        msg: str,
        cancelled: Cancelled | ListReport | ExchangeError | None,
        placed: Placed | ExchangeError | None,
    ) -> None:
        super().__init__(code, msg)
        self.cancelled = cancelled
        self.placed = placed
