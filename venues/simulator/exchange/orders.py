"""An order inside the exchange, and how one is made of what an account asks for.

Always true here: `left` = quantity - executed - prevented while an order is open; what it has locked is
`lock_price x left`, where `lock_price` is the price for a buy, 1 for a sell, the stop price (else the last price) for a
buy that will become a market order, and 0 for what pays from the free balance as it trades.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .accounts import Account, Seat
from .matching import Entry
from .records import TIMES_IN_FORCE, UNIT, AccountTrade, ExchangeError, NewOrder, Order, PreventedMatch, Symbol

if TYPE_CHECKING:
    from .lists import Group
    from .market import Market

LIMITED = frozenset({"LIMIT", "LIMIT_MAKER", "STOP_LOSS_LIMIT", "TAKE_PROFIT_LIMIT"})
STOPS = frozenset({"STOP_LOSS", "STOP_LOSS_LIMIT", "TAKE_PROFIT", "TAKE_PROFIT_LIMIT"})
TIMED = frozenset({"LIMIT", "STOP_LOSS_LIMIT", "TAKE_PROFIT_LIMIT"})  # a time in force has to be given
NOT_SUPPORTED = {
    "LIMIT": "Limit orders are not supported for this symbol.",
    "LIMIT_MAKER": "Limit maker orders are not supported for this symbol.",
    "MARKET": "Market orders are not supported for this symbol.",
    "STOP_LOSS": "Stop loss orders are not supported for this symbol.",
    "STOP_LOSS_LIMIT": "Stop loss limit orders are not supported for this symbol.",
    "TAKE_PROFIT": "Take profit orders are not supported for this symbol.",
    "TAKE_PROFIT_LIMIT": "Take profit limit orders are not supported for this symbol.",
}


class Live(Entry):
    """An order of an account, from its validation to its end."""

    __slots__ = (
        "account",
        "algo",
        "budgeted",
        "exhausted",
        "extreme",
        "fills",
        "group",
        "lock_asset",
        "lock_price",
        "locked",
        "market",
        "order",
        "prevented",
        "seat",
        "stopped",
    )

    def __init__(self, order: Order, account: Account, seat: Seat, market: Market) -> None:
        is_buy = order.side == "BUY"
        qty, part = order.quantity, order.iceberg_qty
        super().__init__(order.order_id, is_buy, order.price, qty, part if part < qty else qty, False)
        self.order = order
        self.account = account
        self.seat = seat
        self.market = market
        self.lock_asset = market.quote if is_buy else market.base
        self.lock_price = 0
        self.locked = 0  # by this order itself; an order pair locks together (lists.py)
        self.group: Group | None = None  # the order list that it is part of
        self.algo = 1 if order.type in STOPS else 0
        self.stopped = self.algo == 1  # has not been triggered yet
        self.extreme = 0  # the best price since a trailing order began to follow, 0 before
        self.exhausted = False  # a market order by quote quantity that the whole book could not serve
        self.budgeted = False  # a market order that was triggered: it buys for what is free
        self.fills: list[AccountTrade] | None = []  # during the call that places it
        self.prevented: list[PreventedMatch] = []


def check_composition(symbol: Symbol, new: NewOrder) -> None:
    """Refuse what is no order: a type, side or time in force that does not exist, parameters that miss or contradict.

    Raises ExchangeError -1116, -1117, -1115, -1102, -1106, -1014, -1013.
    """
    kind = new.type
    if kind not in NOT_SUPPORTED:
        raise ExchangeError(-1116, "Invalid orderType.")
    if new.side not in ("BUY", "SELL"):
        raise ExchangeError(-1117, "Invalid side.")
    if symbol.status != "TRADING":
        raise ExchangeError(-1013, "Market is closed.")
    if kind not in symbol.order_types:
        raise ExchangeError(-1013, NOT_SUPPORTED[kind])
    tif = new.time_in_force
    if tif is not None and tif not in TIMES_IN_FORCE:
        raise ExchangeError(-1115, "Invalid timeInForce.")
    if kind in TIMED:
        _need(tif, "timeInForce")
    elif tif is not None:
        _refuse("timeInForce")
    if kind in LIMITED:
        _need(new.price, "price")
    elif new.price is not None:
        _refuse("price")
    if kind == "MARKET":
        _check_market(symbol, new)
    else:
        _need(new.quantity, "quantity")
        if new.quote_order_qty is not None:
            _refuse("quoteOrderQty")
    if kind in STOPS:
        if new.stop_price is None and new.trailing_delta is None:
            raise ExchangeError(-1102, "Param 'stopPrice' or 'trailingDelta' must be sent, but both were empty/null!")
        if new.trailing_delta is not None and not symbol.trailing_stop_allowed:
            raise ExchangeError(-1013, "Trailing stop orders are not supported for this symbol.")
    else:
        if new.stop_price is not None:
            _refuse("stopPrice")
        if new.trailing_delta is not None:
            _refuse("trailingDelta")
    if new.iceberg_qty:
        if not symbol.iceberg_allowed:
            raise ExchangeError(-1013, "Iceberg orders are not supported for this symbol.")
        if kind not in LIMITED or (kind != "LIMIT_MAKER" and tif != "GTC"):
            raise ExchangeError(-1014, "Unsupported order combination.")
    if new.stp_mode is not None and new.stp_mode not in symbol.allowed_stp:
        raise ExchangeError(-1013, "This symbol does not allow the specified self-trade prevention mode.")


def _check_market(symbol: Symbol, new: NewOrder) -> None:
    if (new.quantity is None) == (new.quote_order_qty is None):
        if new.quantity is None:
            raise ExchangeError(-1102, "Param 'quantity' or 'quoteOrderQty' must be sent, but both were empty/null!")
        raise ExchangeError(-1106, "Parameter 'quoteOrderQty' sent when not required.")
    if new.quote_order_qty is not None and not symbol.quote_order_qty_allowed:
        raise ExchangeError(-1013, "Quote order qty market orders are not support for this symbol.")


def _need(value: object, name: str) -> None:
    if value is None:
        raise ExchangeError(-1102, f"Mandatory parameter '{name}' was not sent, was empty/null, or malformed.")


def _refuse(name: str) -> None:
    raise ExchangeError(-1106, f"Parameter '{name}' sent when not required.")


def draft(market: Market, seat: Seat, new: NewOrder, client_id: str, now_ms: int) -> Live:
    """An order that passed its checks, not yet known to the exchange: it has no id and holds no funds."""
    symbol = market.symbol
    # The rare parts are set where they were sent: naming all thirty in one call costs as much as matching.
    tif, qty, price = new.time_in_force or "GTC", new.quantity or 0, new.price or 0
    order = Order(0, client_id, seat.account.name, symbol.name, new.side, new.type, tif, qty, price)
    order.created_ms = order.updated_ms = now_ms
    order.stp_mode = new.stp_mode or symbol.default_stp
    if new.quote_order_qty:
        order.quote_order_qty = new.quote_order_qty
    if new.stop_price:
        order.stop_price = new.stop_price
    if new.trailing_delta:
        order.trailing_delta = new.trailing_delta
    if new.iceberg_qty:
        order.iceberg_qty = new.iceberg_qty
    order.strategy_id, order.strategy_type = new.strategy_id, new.strategy_type
    live = Live(order, seat.account, seat, market)
    kind = new.type
    if kind == "MARKET":
        live.lock_price = 0
    elif not live.is_buy:
        live.lock_price = UNIT
    elif kind in LIMITED:
        live.lock_price = order.price
    else:
        live.lock_price = order.stop_price or market.tape.last_price
    return live
