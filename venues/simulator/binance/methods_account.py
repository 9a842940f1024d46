"""Methods about the account that asks: balances, orders, lists, trades, what was prevented and amended, limits."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from . import documents, errors, params
from .methods import USER_DATA, Call, Method, named
from .methods_orders import which
from .params import Params

DAY_HOURS = 24


def status(call: Call) -> Any:
    """account.status"""
    omit_zero = params.boolean(call.params, "omitZeroBalances") is True
    exchange = call.api.exchange
    rates = [(symbol.maker_rate, symbol.taker_rate) for symbol in exchange.symbols.values()]
    maker, taker = max(rates, default=(Decimal(0), Decimal(0)))
    return documents.account(
        exchange.balances(call.account),
        maker,
        taker,
        call.key is not None and call.key.trade,
        call.now_ms,
        call.api.keys.uid(call.account),
        omit_zero,
        call.scale,
    )


def commission(call: Call) -> Any:
    """account.commission"""
    return documents.commission(call.listed(params.symbol(call.params)))


def order_counts(call: Call) -> Any:
    """account.rateLimits.orders"""
    return call.api.limits.order_counts(call.account, call.now_ms)


def order(call: Call) -> Any:
    """order.status"""
    symbol = params.symbol(call.params)
    order_id, client_id = which(call.params)
    call.listed(symbol)
    found = call.api.exchange.order(call.account, symbol, order_id=order_id, client_id=client_id)
    return documents.queried(found, call.scale)


def open_orders(call: Call) -> Any:
    """openOrders.status, of a symbol or of all"""
    symbol = params.symbol(call.params) if "symbol" in call.params else None
    if symbol is not None:
        call.listed(symbol)
    return [documents.queried(found, call.scale) for found in call.api.exchange.open_orders(call.account, symbol)]


def all_orders(call: Call) -> Any:
    """allOrders: from an id on, or in a span of at most a day, or the latest."""
    sent = call.params
    symbol = call.listed(params.symbol(sent)).name
    from_id = params.integer(sent, "orderId")
    start_ms, end_ms = params.span_ms(sent, DAY_HOURS)
    found = call.api.exchange.all_orders(
        call.account, symbol, from_id=from_id, start_ms=start_ms, end_ms=end_ms, limit=params.limit(sent)
    )
    return [documents.queried(one, call.scale) for one in found]


def order_list(call: Call) -> Any:
    """orderList.status: by its id, or by the id its client gave it (which is called origClientOrderId here)."""
    list_id = params.integer(call.params, "orderListId")
    client_list_id = params.client_id(call.params, "origClientOrderId")
    if list_id is None and client_list_id is None:
        raise errors.either("origClientOrderId", "orderListId")
    found = call.api.exchange.order_list(call.account, list_id=list_id, client_list_id=client_list_id)
    return documents.order_list(found, call.scale)


def open_lists(call: Call) -> Any:
    """openOrderLists.status"""
    return [documents.order_list(found, call.scale) for found in call.api.exchange.open_lists(call.account)]


def all_lists(call: Call) -> Any:
    """allOrderLists"""
    sent = call.params
    from_id = params.integer(sent, "fromId")
    start_ms, end_ms = params.span_ms(sent, DAY_HOURS)
    if from_id is not None and (start_ms is not None or end_ms is not None):
        raise errors.bad_combination()
    found = call.api.exchange.all_lists(
        call.account, from_id=from_id, start_ms=start_ms, end_ms=end_ms, limit=params.limit(sent)
    )
    return [documents.order_list(one, call.scale) for one in found]


def my_trades(call: Call) -> Any:
    """myTrades, in the combinations that Binance supports."""
    sent = call.params
    symbol = call.listed(params.symbol(sent)).name
    order_id, from_id = params.integer(sent, "orderId"), params.integer(sent, "fromId")
    start_ms, end_ms = params.span_ms(sent, DAY_HOURS)
    if (start_ms is not None or end_ms is not None) and (order_id is not None or from_id is not None):
        raise errors.bad_combination()
    found = call.api.exchange.trades(
        call.account,
        symbol,
        order_id=order_id,
        from_id=from_id,
        start_ms=start_ms,
        end_ms=end_ms,
        limit=params.limit(sent),
    )
    return [documents.my_trade(trade, call.scale) for trade in found]


def prevented_matches(call: Call) -> Any:
    """myPreventedMatches: by its own id, or by an order's."""
    sent = call.params
    symbol = call.listed(params.symbol(sent)).name
    match_id, order_id = params.integer(sent, "preventedMatchId"), params.integer(sent, "orderId")
    from_id = params.integer(sent, "fromPreventedMatchId")
    limit = params.limit(sent)
    if (match_id is None) == (order_id is None):
        raise errors.bad_combination() if order_id is not None else errors.either("preventedMatchId", "orderId")
    found = call.api.exchange.prevented_matches(
        call.account, symbol, prevented_match_id=match_id, order_id=order_id, from_id=from_id, limit=limit
    )
    return [documents.prevented_match(match, call.scale) for match in found]


def allocations(call: Call) -> Any:
    """myAllocations: none, because nothing is routed here."""
    call.listed(params.symbol(call.params))
    return []


def amendments(call: Call) -> Any:
    """order.amendments"""
    sent = call.params
    symbol = call.listed(params.symbol(sent)).name
    order_id = params.must_integer(sent, "orderId")
    changes = call.api.exchange.amendments(
        call.account,
        symbol,
        order_id,
        from_execution_id=params.integer(sent, "fromExecutionId"),
        limit=params.limit(sent),
    )
    return [documents.amendment(change, call.scale) for change in changes]


def filters(call: Call) -> Any:
    """myFilters: those of the symbol; neither the exchange nor an asset has any."""
    found = call.listed(params.symbol(call.params))
    return {"exchangeFilters": [], "symbolFilters": documents.filters(found.filters), "assetFilters": []}


def _open_weight(sent: Params) -> int:
    return 6 if "symbol" in sent else 80


def _trades_weight(sent: Params) -> int:
    return 5 if "orderId" in sent else 20


def _prevented_weight(sent: Params) -> int:
    return 2 if "preventedMatchId" in sent else 20


def _account(name: str, path: str, run: Any, weight: Any, *names: str) -> Method:
    return Method(name=name, http=(("GET", path),), run=run, weight=weight, security=USER_DATA, params=named(*names))


SPAN = ("startTime", "endTime", "limit")

METHODS = (
    _account("account.status", "/account", status, 20, "omitZeroBalances"),
    _account("account.commission", "/account/commission", commission, 20, "symbol"),
    _account("account.rateLimits.orders", "/rateLimit/order", order_counts, 40),
    _account("order.status", "/order", order, 4, "symbol", "orderId", "origClientOrderId"),
    _account("openOrders.status", "/openOrders", open_orders, _open_weight, "symbol"),
    _account("allOrders", "/allOrders", all_orders, 20, "symbol", "orderId", *SPAN),
    _account("orderList.status", "/orderList", order_list, 4, "orderListId", "origClientOrderId"),
    _account("openOrderLists.status", "/openOrderList", open_lists, 6),
    _account("allOrderLists", "/allOrderList", all_lists, 20, "fromId", *SPAN),
    _account("myTrades", "/myTrades", my_trades, _trades_weight, "symbol", "orderId", "fromId", *SPAN),
    _account(
        "myPreventedMatches",
        "/myPreventedMatches",
        prevented_matches,
        _prevented_weight,
        "symbol",
        "preventedMatchId",
        "orderId",
        "fromPreventedMatchId",
        "limit",
    ),
    _account(
        "myAllocations",
        "/myAllocations",
        allocations,
        20,
        "symbol",
        "orderId",
        "fromAllocationId",
        *SPAN,
    ),
    _account("order.amendments", "/order/amendments", amendments, 4, "symbol", "orderId", "fromExecutionId", "limit"),
    _account("myFilters", "/myFilters", filters, 40, "symbol"),
)
