"""Methods that place and cancel order lists: OCO, OTO, OTOCO.

Always true here: the legs of an OCO go to the exchange as above and below, the former `orderList.place` too; a list
whose types cannot lie where they are said to is refused before it reaches the exchange.
"""

from __future__ import annotations

from typing import Any

from ..exchange.records import ORDER_TYPES, STP_MODES, TIMES_IN_FORCE, ExchangeError, NewList, NewOrder
from . import documents, errors, order_params, params
from .methods import TRADE, Call, Method, named
from .params import Params

LIMIT_TYPES = ("LIMIT", "LIMIT_MAKER")
OCO_TYPES = tuple(kind for kind in ORDER_TYPES if kind not in ("LIMIT", "MARKET"))

ABOVE = order_params.prefixed("above")
BELOW = order_params.prefixed("below")
WORKING = order_params.prefixed("working")
PENDING = order_params.prefixed("pending")
PENDING_ABOVE = order_params.prefixed("pendingAbove")
PENDING_BELOW = order_params.prefixed("pendingBelow")

SHARED_PARAMS = named("symbol", "listClientOrderId", "newOrderRespType", "selfTradePreventionMode")

FORMER_PARAMS = SHARED_PARAMS | {
    "side",
    "quantity",
    "price",
    "limitClientOrderId",
    "limitIcebergQty",
    "limitStrategyId",
    "limitStrategyType",
    "stopPrice",
    "trailingDelta",
    "stopClientOrderId",
    "stopLimitPrice",
    "stopLimitTimeInForce",
    "stopIcebergQty",
    "stopStrategyId",
    "stopStrategyType",
}


def place_oco(call: Call) -> Any:
    """orderList.place.oco"""
    sent = call.params
    symbol = params.symbol(sent)
    side = params.must_choice(sent, "side", params.SIDES)
    quantity = params.must_decimal(sent, "quantity")
    legs = _oco(sent, symbol, side, quantity, ABOVE, BELOW)
    return _placed(call, NewList(kind="OCO", symbol=symbol, pending=legs), count=2)


def place_former_oco(call: Call) -> Any:
    """orderList.place, deprecated: a limit maker and a stop, whose places follow from the side."""
    sent = call.params
    symbol = params.symbol(sent)
    side = params.must_choice(sent, "side", params.SIDES)
    quantity = params.must_decimal(sent, "quantity")
    maker = NewOrder(symbol, side, "LIMIT_MAKER", quantity=quantity, price=params.must_decimal(sent, "price"))
    maker.iceberg_qty = params.decimal(sent, "limitIcebergQty")
    maker.client_order_id = params.client_id(sent, "limitClientOrderId")
    maker.strategy_id = params.integer(sent, "limitStrategyId")
    maker.strategy_type = params.strategy_type(sent, "limitStrategyType")
    stop = NewOrder(symbol, side, "STOP_LOSS", quantity=quantity)
    stop.stop_price = params.decimal(sent, "stopPrice")
    stop.trailing_delta = params.integer(sent, "trailingDelta")
    if stop.stop_price is None and stop.trailing_delta is None:
        raise errors.either("stopPrice", "trailingDelta")
    if "stopLimitPrice" in sent:
        stop.type = "STOP_LOSS_LIMIT"
        stop.price = params.must_decimal(sent, "stopLimitPrice")
        stop.time_in_force = params.must_choice(sent, "stopLimitTimeInForce", TIMES_IN_FORCE)
    elif "stopLimitTimeInForce" in sent:
        raise errors.not_required("stopLimitTimeInForce")
    stop.iceberg_qty = params.decimal(sent, "stopIcebergQty")
    stop.client_order_id = params.client_id(sent, "stopClientOrderId")
    stop.strategy_id = params.integer(sent, "stopStrategyId")
    stop.strategy_type = params.strategy_type(sent, "stopStrategyType")
    legs = (maker, stop) if side == "SELL" else (stop, maker)
    return _placed(call, NewList(kind="OCO", symbol=symbol, pending=legs), count=1)


def place_oto(call: Call) -> Any:
    """orderList.place.oto"""
    sent = call.params
    symbol = params.symbol(sent)
    working = _working(sent, symbol)
    side = params.must_choice(sent, "pendingSide", params.SIDES)
    pending = order_params.leg(sent, PENDING, symbol, side, params.must_decimal(sent, "pendingQuantity"))
    return _placed(call, NewList(kind="OTO", symbol=symbol, working=working, pending=(pending,)), count=2)


def place_otoco(call: Call) -> Any:
    """orderList.place.otoco"""
    sent = call.params
    symbol = params.symbol(sent)
    working = _working(sent, symbol)
    side = params.must_choice(sent, "pendingSide", params.SIDES)
    quantity = params.must_decimal(sent, "pendingQuantity")
    pending = _oco(sent, symbol, side, quantity, PENDING_ABOVE, PENDING_BELOW)
    return _placed(call, NewList(kind="OTOCO", symbol=symbol, working=working, pending=pending), count=3)


def cancel_list(call: Call) -> Any:
    """orderList.cancel"""
    sent = call.params
    symbol = params.symbol(sent)
    list_id = params.integer(sent, "orderListId")
    client_list_id = params.client_id(sent, "listClientOrderId")
    if list_id is None and client_list_id is None:
        raise errors.either("orderListId", "listClientOrderId")
    new_client_id = params.client_id(sent, "newClientOrderId")
    call.listed(symbol)
    report = call.api.exchange.cancel_list(
        call.account, symbol, list_id=list_id, client_list_id=client_list_id, new_client_id=new_client_id
    )
    return documents.list_report(report, "RESULT", call.scale)


def unsupported(_call: Call) -> Any:
    """Smart order routing and OPO lists: the exchange has neither."""
    raise errors.not_supported()


def _working(sent: Params, symbol: str) -> NewOrder:
    side = params.must_choice(sent, "workingSide", params.SIDES)
    params.must_choice(sent, "workingType", LIMIT_TYPES)
    return order_params.leg(sent, WORKING, symbol, side, params.must_decimal(sent, "workingQuantity"))


def _oco(
    sent: Params,
    symbol: str,
    side: str,
    quantity: int,
    above_names: order_params.Names,
    below_names: order_params.Names,
) -> tuple[NewOrder, NewOrder]:
    """The two legs of an OCO, above then below."""
    for names in (above_names, below_names):
        if params.must_choice(sent, names.type, ORDER_TYPES) not in OCO_TYPES:
            raise errors.ApiError(400, -1158, "Order type not supported in OCO.")
    above = order_params.leg(sent, above_names, symbol, side, quantity)
    below = order_params.leg(sent, below_names, symbol, side, quantity)
    for order, names in ((above, above_names), (below, below_names)):
        if order.iceberg_qty is not None and order.time_in_force not in (None, "GTC"):
            msg = f"Parameter '{names.iceberg_qty}' is not supported if {names.time_in_force} is not GTC."
            raise errors.ApiError(400, -1160, msg)
    _check_sides(side, above.type, below.type)
    return above, below


def _check_sides(side: str, above: str, below: str) -> None:
    """A leg that takes profit lies on the good side of the price, a stop on the other."""
    if above == below == "LIMIT_MAKER":
        raise errors.ApiError(400, -1168, "At least one OCO order must be contingent.")
    if side == "BUY":
        if above == "LIMIT_MAKER":
            raise errors.ApiError(400, -1165, "A limit order in a buy OCO must be below.")
        if below.startswith("STOP_LOSS"):
            raise errors.ApiError(400, -1196, "A stop loss order in a buy OCO must be above.")
        if above.startswith("TAKE_PROFIT"):
            raise errors.ApiError(400, -1198, "A take profit order in a buy OCO must be below.")
    else:
        if below == "LIMIT_MAKER":
            raise errors.ApiError(400, -1166, "A limit order in a sell OCO must be above.")
        if above.startswith("STOP_LOSS"):
            raise errors.ApiError(400, -1197, "A stop loss order in a sell OCO must be below.")
        if below.startswith("TAKE_PROFIT"):
            raise errors.ApiError(400, -1199, "A take profit order in a sell OCO must be above.")


def _placed(call: Call, wanted: NewList, count: int) -> Any:
    sent, api = call.params, call.api
    wanted.client_list_id = params.client_id(sent, "listClientOrderId")
    response_type = params.choice(sent, "newOrderRespType", params.RESPONSE_TYPES) or "RESULT"
    stp_mode = params.choice(sent, "selfTradePreventionMode", STP_MODES)
    for order in (*wanted.pending, *((wanted.working,) if wanted.working is not None else ())):
        order.stp_mode = stp_mode
    call.listed(wanted.symbol)
    api.limits.check_orders(call.account, count, call.now_ms)
    try:
        report = api.exchange.place_list(call.account, wanted)
    except ExchangeError as error:
        if error.code == -2010:
            api.limits.count_orders(call.account, count, call.now_ms)
        raise
    api.limits.count_orders(call.account, count, call.now_ms)
    return documents.list_report(report, response_type, call.scale)


def _placing(name: str, path: str, run: Any, names: frozenset[str]) -> Method:
    return Method(name=name, http=(("POST", path),), run=run, security=TRADE, params=names, orders=True, free=True)


OTO_PARAMS = SHARED_PARAMS | WORKING.all() | {"workingSide", "workingQuantity", "pendingSide", "pendingQuantity"}

METHODS = (
    _placing(
        "orderList.place.oco",
        "/orderList/oco",
        place_oco,
        SHARED_PARAMS | ABOVE.all() | BELOW.all() | {"side", "quantity"},
    ),
    _placing("orderList.place.oto", "/orderList/oto", place_oto, OTO_PARAMS | PENDING.all()),
    _placing(
        "orderList.place.otoco",
        "/orderList/otoco",
        place_otoco,
        OTO_PARAMS | PENDING_ABOVE.all() | PENDING_BELOW.all(),
    ),
    _placing("orderList.place", "/order/oco", place_former_oco, FORMER_PARAMS),
    Method(
        name="orderList.cancel",
        http=(("DELETE", "/orderList"),),
        run=cancel_list,
        security=TRADE,
        params=named("symbol", "orderListId", "listClientOrderId", "newClientOrderId"),
        free=True,
    ),
    *(
        Method(
            name=name,
            http=(("POST", path),),
            run=unsupported,
            security=TRADE,
            params=order_params.SINGLE_PARAMS | OTO_PARAMS | PENDING.all() | PENDING_ABOVE.all() | PENDING_BELOW.all(),
        )
        for name, path in (
            ("orderList.place.opo", "/orderList/opo"),
            ("orderList.place.opoco", "/orderList/opoco"),
            ("sor.order.place", "/sor/order"),
            ("sor.order.test", "/sor/order/test"),
        )
    ),
)
