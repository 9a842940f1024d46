"""Methods that place, cancel, replace and amend single orders.

Always true here: an order counts towards the account's limit when the engine took it or refused it itself (-2010), not
when a parameter or a filter was against it.
"""

from __future__ import annotations

from typing import Any

from ..exchange.records import CancelReplaceError, ExchangeError, NewOrder, Placed
from . import documents, errors, order_params, params
from .methods import TRADE, Call, Method, named
from .params import Params

REPLACE_MODES = ("STOP_ON_FAILURE", "ALLOW_FAILURE")
RATE_LIMIT_MODES = ("DO_NOTHING", "CANCEL_ONLY")
PARTLY_FAILED = (-2021, "Order cancel-replace partially failed.")
FAILED = (-2022, "Order cancel-replace failed.")


def place(call: Call) -> Any:
    """order.place"""
    order = order_params.single(call.params)
    response_type = order_params.response_type(call.params, order.type)
    return documents.placed(_placed(call, order), response_type, call.scale)


def test(call: Call) -> Any:
    """order.test: everything but the order."""
    order = order_params.single(call.params)
    order_params.response_type(call.params, order.type)
    with_rates = params.boolean(call.params, "computeCommissionRates")
    symbol = call.listed(order.symbol)
    call.api.exchange.test(call.account, order)
    return documents.commission_of_test(symbol) if with_rates else {}


def cancel(call: Call) -> Any:
    """order.cancel; an order of a list takes its list with it."""
    sent = call.params
    symbol = params.symbol(sent)
    order_id, client_id = which(sent)
    new_client_id = params.client_id(sent, "newClientOrderId")
    restrictions = params.choice(sent, "cancelRestrictions", params.CANCEL_RESTRICTIONS)
    call.listed(symbol)
    answer = call.api.exchange.cancel(
        call.account,
        symbol,
        order_id=order_id,
        client_id=client_id,
        new_client_id=new_client_id,
        restrictions=restrictions,
    )
    return documents.cancel(answer, call.scale)


def cancel_all(call: Call) -> Any:
    """openOrders.cancelAll"""
    symbol = params.symbol(call.params)
    call.listed(symbol)
    return [documents.cancel(answer, call.scale) for answer in call.api.exchange.cancel_all(call.account, symbol)]


def amend(call: Call) -> Any:
    """order.amend.keepPriority"""
    sent = call.params
    symbol = params.symbol(sent)
    order_id, client_id = which(sent)
    quantity = params.must_decimal(sent, "newQty")
    new_client_id = params.client_id(sent, "newClientOrderId")
    call.listed(symbol)
    exchange = call.api.exchange
    answer = exchange.amend(
        call.account,
        symbol,
        order_id=order_id,
        client_id=client_id,
        new_quantity=quantity,
        new_client_id=new_client_id,
    )
    change = exchange.amendments(call.account, symbol, answer.order.order_id)[-1]
    return documents.amended(answer, change.old_client_id, call.scale)


def cancel_replace(call: Call) -> Any:
    """order.cancelReplace: 409 where one half was done, 400 where none was."""
    sent = call.params
    order = order_params.single(sent)
    mode = params.must_choice(sent, "cancelReplaceMode", REPLACE_MODES)
    order_id, client_id = which(sent, "cancelOrderId", "cancelOrigClientOrderId")
    new_client_id = params.client_id(sent, "cancelNewClientOrderId")
    restrictions = params.choice(sent, "cancelRestrictions", params.CANCEL_RESTRICTIONS)
    response_type = order_params.response_type(sent, order.type)
    rate_limit_mode = params.choice(sent, "orderRateLimitExceededMode", RATE_LIMIT_MODES)
    call.listed(order.symbol)
    limits, exchange = call.api.limits, call.api.exchange
    try:
        limits.check_orders(call.account, 1, call.now_ms)
    except errors.RateLimited as limited:
        if rate_limit_mode != "CANCEL_ONLY":
            raise
        raise _cancelled_only(call, order.symbol, order_id, client_id, new_client_id, restrictions, limited) from None
    limits.count_orders(call.account, 1, call.now_ms)
    try:
        answer = exchange.cancel_replace(
            call.account,
            order,
            mode=mode,
            order_id=order_id,
            client_id=client_id,
            new_client_id=new_client_id,
            restrictions=restrictions,
        )
    except CancelReplaceError as error:
        raise _half_done(error, response_type, call.scale) from None
    return {
        "cancelResult": "SUCCESS",
        "newOrderResult": "SUCCESS",
        "cancelResponse": documents.cancel(answer.cancelled, call.scale),
        "newOrderResponse": documents.placed(answer.placed, response_type, call.scale),
    }


def which(
    sent: Params, id_name: str = "orderId", client_name: str = "origClientOrderId"
) -> tuple[int | None, str | None]:
    """The order that is meant, by its id, its client's id, or both."""
    order_id = params.integer(sent, id_name)
    client_id = params.client_id(sent, client_name) if client_name in sent else None
    if order_id is None and client_id is None:
        raise errors.either(client_name, id_name)
    return order_id, client_id


def _placed(call: Call, order: NewOrder) -> Placed:
    api, now_ms = call.api, call.now_us // 1000
    if order.symbol not in api.exchange.symbols:
        raise errors.bad_symbol()
    api.limits.check_orders(call.account, 1, now_ms)
    answer = None
    try:
        answer = api.exchange.place(call.account, order)
    except ExchangeError as error:
        if error.code == -2010:  # the engine's own; what a filter refuses never reached it
            api.limits.count_orders(call.account, 1, now_ms)
        raise
    api.limits.count_orders(call.account, 1, now_ms)
    return answer


def _cancelled_only(
    call: Call,
    symbol: str,
    order_id: int | None,
    client_id: str | None,
    new_client_id: str | None,
    restrictions: str | None,
    limited: errors.RateLimited,
) -> errors.ApiError:
    """What a replacement comes to when only its cancel may be carried out."""
    try:
        answer = call.api.exchange.cancel(
            call.account,
            symbol,
            order_id=order_id,
            client_id=client_id,
            new_client_id=new_client_id,
            restrictions=restrictions,
        )
    except ExchangeError as error:
        return _composite(*FAILED, _failure(error), None)
    cancelled = documents.cancel(answer, call.scale)
    return _composite(*PARTLY_FAILED, cancelled, {"code": limited.code, "msg": limited.msg})


def _half_done(error: CancelReplaceError, response_type: str, scale: int) -> errors.ApiError:
    cancelled, placed = error.cancelled, error.placed
    first = second = None
    if isinstance(cancelled, ExchangeError):
        first = _failure(cancelled)
    elif cancelled is not None:
        first = documents.cancel(cancelled, scale)
    if isinstance(placed, ExchangeError):
        second = _failure(placed)
    elif placed is not None:
        second = documents.placed(placed, response_type, scale)
    return _composite(error.code, error.msg, first, second)


def _composite(code: int, msg: str, cancelled: Any, placed: Any) -> errors.ApiError:
    status = errors.CONFLICT if code == PARTLY_FAILED[0] else 400
    data = {
        "cancelResult": _result(cancelled),
        "newOrderResult": _result(placed),
        "cancelResponse": cancelled,
        "newOrderResponse": placed,
    }
    return errors.ApiError(status, code, msg, data)


def _result(half: Any) -> str:
    if half is None:
        return "NOT_ATTEMPTED"
    return "FAILURE" if "code" in half else "SUCCESS"


def _failure(error: ExchangeError) -> dict[str, Any]:
    return {"code": error.code, "msg": error.msg}


def _test_weight(sent: Params) -> int:
    return 20 if sent.get("computeCommissionRates") == "true" else 1


METHODS = (
    Method(
        name="order.place",
        http=(("POST", "/order"),),
        run=place,
        security=TRADE,
        params=order_params.SINGLE_PARAMS,
        orders=True,
        free=True,
    ),
    Method(
        name="order.test",
        http=(("POST", "/order/test"),),
        run=test,
        weight=_test_weight,
        security=TRADE,
        params=order_params.SINGLE_PARAMS | {"computeCommissionRates"},
    ),
    Method(
        name="order.cancel",
        http=(("DELETE", "/order"),),
        run=cancel,
        security=TRADE,
        params=named("symbol", "orderId", "origClientOrderId", "newClientOrderId", "cancelRestrictions"),
        free=True,
    ),
    Method(
        name="order.cancelReplace",
        http=(("POST", "/order/cancelReplace"),),
        run=cancel_replace,
        security=TRADE,
        params=order_params.SINGLE_PARAMS
        | {
            "cancelReplaceMode",
            "cancelOrderId",
            "cancelOrigClientOrderId",
            "cancelNewClientOrderId",
            "cancelRestrictions",
            "orderRateLimitExceededMode",
        },
        orders=True,
        free=True,
    ),
    Method(
        name="order.amend.keepPriority",
        http=(("PUT", "/order/amend/keepPriority"),),
        run=amend,
        weight=4,
        security=TRADE,
        params=named("symbol", "orderId", "origClientOrderId", "newClientOrderId", "newQty"),
        free=True,
    ),
    Method(
        name="openOrders.cancelAll",
        http=(("DELETE", "/openOrders"),),
        run=cancel_all,
        security=TRADE,
        params=named("symbol"),
        free=True,
    ),
)
