"""From parameters to the orders that are asked for: which parameters each type needs, and which it does not take.

Always true here: what comes out names a type, side and numbers that exist; whether the price lies on the tick, the
funds suffice or the symbol allows it is the exchange's to say. Orders of lists have the same parameters behind a
prefix (workingPrice, pendingAboveStopPrice, belowTimeInForce).
"""

from __future__ import annotations

from msgspec import Struct

from ..exchange.records import ORDER_TYPES, STP_MODES, TIMES_IN_FORCE, NewOrder
from . import errors, params
from .params import Params


class Needs(Struct, frozen=True):
    """What an order type does with the parameters that not every type takes."""

    time_in_force: bool
    price: bool
    stop: bool  # stopPrice, trailingDelta, or both
    iceberg: bool


# fmt: off
#                            timeInForce price  stop   iceberg
NEEDS = {
    "LIMIT":             Needs(True,     True,  False, True),
    "LIMIT_MAKER":       Needs(False,    True,  False, True),
    "MARKET":            Needs(False,    False, False, False),
    "STOP_LOSS":         Needs(False,    False, True,  False),
    "STOP_LOSS_LIMIT":   Needs(True,     True,  True,  True),
    "TAKE_PROFIT":       Needs(False,    False, True,  False),
    "TAKE_PROFIT_LIMIT": Needs(True,     True,  True,  True),
}
# fmt: on


class Names(Struct, frozen=True):
    """How the parameters of one order of a request are called."""

    type: str
    time_in_force: str
    price: str
    stop_price: str
    trailing_delta: str
    iceberg_qty: str
    client_order_id: str
    strategy_id: str
    strategy_type: str

    def all(self) -> frozenset[str]:
        return frozenset(getattr(self, name) for name in self.__struct_fields__)


def prefixed(prefix: str) -> Names:
    """The names of an order of a list."""
    return Names(
        f"{prefix}Type",
        f"{prefix}TimeInForce",
        f"{prefix}Price",
        f"{prefix}StopPrice",
        f"{prefix}TrailingDelta",
        f"{prefix}IcebergQty",
        f"{prefix}ClientOrderId",
        f"{prefix}StrategyId",
        f"{prefix}StrategyType",
    )


SINGLE = Names(
    "type",
    "timeInForce",
    "price",
    "stopPrice",
    "trailingDelta",
    "icebergQty",
    "newClientOrderId",
    "strategyId",
    "strategyType",
)
# What order.place takes.
SINGLE_PARAMS = SINGLE.all() | {
    "symbol",
    "side",
    "quantity",
    "quoteOrderQty",
    "newOrderRespType",
    "selfTradePreventionMode",
}


def single(sent: Params) -> NewOrder:
    """The order of order.place, order.test and order.cancelReplace."""
    symbol = params.symbol(sent)
    side = params.must_choice(sent, "side", params.SIDES)
    order = leg(sent, SINGLE, symbol, side, params.decimal(sent, "quantity"))
    quote = params.decimal(sent, "quoteOrderQty")
    if quote is not None:
        if order.type != "MARKET" or order.quantity is not None:
            raise errors.not_required("quoteOrderQty")
        order.quote_order_qty = quote
    elif order.quantity is None:
        if order.type == "MARKET":
            raise errors.either("quantity", "quoteOrderQty")
        raise errors.missing("quantity")
    order.stp_mode = params.choice(sent, "selfTradePreventionMode", STP_MODES)
    return order


def leg(sent: Params, names: Names, symbol: str, side: str, quantity: int | None) -> NewOrder:
    """One order of a request; its side and quantity are read by the caller, because lists share them."""
    kind = params.must_choice(sent, names.type, ORDER_TYPES)
    needs = NEEDS[kind]
    order = NewOrder(symbol, side, kind, quantity=quantity)
    if needs.time_in_force:
        order.time_in_force = params.must_choice(sent, names.time_in_force, TIMES_IN_FORCE)
    elif names.time_in_force in sent:
        raise errors.not_required(names.time_in_force)
    if needs.price:
        order.price = params.must_decimal(sent, names.price)
    elif names.price in sent:
        raise errors.not_required(names.price)
    if needs.stop:
        order.stop_price = params.decimal(sent, names.stop_price)
        order.trailing_delta = params.integer(sent, names.trailing_delta)
        if order.stop_price is None and order.trailing_delta is None:
            raise errors.either(names.stop_price, names.trailing_delta)
    elif names.stop_price in sent:
        raise errors.not_required(names.stop_price)
    elif names.trailing_delta in sent:
        raise errors.not_required(names.trailing_delta)
    if names.iceberg_qty in sent:
        if not needs.iceberg:
            raise errors.not_required(names.iceberg_qty)
        order.iceberg_qty = params.decimal(sent, names.iceberg_qty)
    if names.client_order_id in sent:
        order.client_order_id = params.client_id(sent, names.client_order_id)
    if names.strategy_id in sent:
        order.strategy_id = params.integer(sent, names.strategy_id)
    if names.strategy_type in sent:
        order.strategy_type = params.strategy_type(sent, names.strategy_type)
    return order


def response_type(sent: Params, kind: str) -> str:
    """newOrderRespType: FULL where a market or limit order does not say, else ACK."""
    found = params.choice(sent, "newOrderRespType", params.RESPONSE_TYPES)
    if found is not None:
        return found
    return "FULL" if kind in ("MARKET", "LIMIT") else "ACK"
