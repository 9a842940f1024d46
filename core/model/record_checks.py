"""What must be true of a record by itself, whoever wrote it: its key is its own, amounts are numbers from zero on.

Each function takes the field that the record stands under and says what is wrong, in words that follow the key; empty
where nothing is.
"""

import re
from decimal import Decimal

from .instruments import decimal_of
from .records import Balance, CommandMark, Fill, Order, Position, Signal, SubPosition, TradingLimit

ORDER_ID = re.compile(r"ORD_[0-9]{8}_[0-9]+")
FILL_ID = re.compile(r"FILL_[0-9]+")
SIGNAL_ID = re.compile(r"SIG_[0-9]{8}_[0-9]+")


def order_fault(field: str, order: Order) -> str:
    if field != order.order_id:
        return f"holds the order {order.order_id!r}"
    if order.qty_lots < 0 or order.filled_lots < 0 or order.cost < 0:
        return f"a quantity is below zero: {order.qty_lots} lots, {order.filled_lots} filled, cost {order.cost}"
    return (
        _id_fault(field, ORDER_ID, "ORD_20250101_000001")
        or _grid_fault(order.tick, order.lot)
        or _amount_fault("reserved", order.reserved)
        or next((fault for fee in order.fees.values() if (fault := _number_fault("fees", fee))), "")
    )


def fill_fault(field: str, fill: Fill) -> str:
    if field != fill.fill_id:
        return f"holds the fill {fill.fill_id!r}"
    if fill.qty_lots <= 0:
        return f"qty_lots is {fill.qty_lots}, must be above zero"
    if fill.price_ticks < 0:
        return f"price_ticks is {fill.price_ticks}, must not be below zero"
    return (
        _id_fault(field, FILL_ID, "FILL_000001") or _grid_fault(fill.tick, fill.lot) or _number_fault("fee", fill.fee)
    )


def balance_fault(field: str, balance: Balance) -> str:
    if field != f"{balance.wallet}:{balance.currency}":
        return f"holds the balance {balance.wallet}:{balance.currency}"
    return _amount_fault("total", balance.total) or _number_fault("flows", balance.flows)


def position_fault(field: str, position: Position) -> str:
    if field != f"{position.wallet}:{position.pair}":
        return f"holds the position {position.wallet}:{position.pair}"
    return (
        _amount_fault("quantity", position.quantity)
        or _number_fault("cost", position.cost)
        or _number_fault("realised", position.realised)
    )


def sub_position_key(sub: SubPosition) -> str:
    """Read from its end: a strategy's name may hold a colon, wallets and pairs do not."""
    return f"position:{sub.strategy}:{sub.wallet}:{sub.pair}"


def sub_position_fault(field: str, sub: SubPosition) -> str:
    if field != sub_position_key(sub):
        return f"holds the sub-position {sub_position_key(sub)}"
    return (
        _number_fault("quantity", sub.quantity)
        or _number_fault("cost", sub.cost)
        or _number_fault("realised", sub.realised)
    )


def command_fault(field: str, mark: CommandMark) -> str:
    return "" if field == f"command:{mark.command_id}" else f"holds the command {mark.command_id!r}"


def limit_key(scope: str, name: str) -> str:
    """Read from its end: a scope may hold a colon, a limit's name does not."""
    return f"limit:{scope}:{name}"


def limit_fault(field: str, limit: TradingLimit) -> str:
    if field != limit_key(limit.scope, limit.name):
        return f"holds the limit {limit_key(limit.scope, limit.name)}"
    return ""


def signal_fault(field: str, signal: Signal) -> str:
    if field != signal.signal_id:
        return f"holds the signal {signal.signal_id!r}"
    return _id_fault(field, SIGNAL_ID, "SIG_20250101_001")


def book_fault(field: str, exchange: str, pair: str, levels: list[tuple[str, str]]) -> str:
    if field != f"{exchange}:{pair}":
        return f"holds the book {exchange}:{pair}"
    for price, quantity in levels:
        try:
            if decimal_of(price) <= 0 or decimal_of(quantity) < 0:
                return f"level {price} x {quantity} is below zero"
        except ValueError as error:
            return f"a level cannot be read: {error}"
    return ""


def _id_fault(text: str, of: re.Pattern[str], form: str) -> str:
    return "" if of.fullmatch(text) else f"its id is not of the form {form}"


def _grid_fault(tick: Decimal, lot: Decimal) -> str:
    if tick.is_finite() and lot.is_finite() and tick > 0 and lot > 0:
        return ""
    return f"tick is {tick} and lot {lot}, both must be above zero"


def _amount_fault(name: str, value: Decimal) -> str:
    return _number_fault(name, value) or (f"{name} is {value}, must not be below zero" if value < 0 else "")


def _number_fault(name: str, value: Decimal) -> str:
    return "" if value.is_finite() else f"{name} is {value}, must be a number"
