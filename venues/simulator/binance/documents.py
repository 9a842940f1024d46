"""Every JSON document of the request side, as the objects that are encoded.

Always true here: money is printed with 8 decimals ("0.00000000" where there is none); times are milliseconds times
`scale`, which is 1, or 1000 for a client that asked for microseconds; -1 stays -1. Fields that Binance calls
conditional are absent unless their condition holds. Names and order of fields are those of the official examples.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from typing import Any

from ..exchange.records import (
    EXPIRY_EXCHANGE,
    EXPIRY_FOK,
    EXPIRY_IOC,
    EXPIRY_LIQUIDITY,
    EXPIRY_OCO,
    EXPIRY_OTO,
    EXPIRY_REJECTED,
    UNIT,
    AccountTrade,
    Amended,
    Amendment,
    Cancelled,
    Filters,
    ListReport,
    Order,
    OrderList,
    Placed,
    PreventedMatch,
    Symbol,
    Trade,
)

Document = dict[str, Any]

ZERO = "0.00000000"
STOP_TYPES = frozenset({"STOP_LOSS", "STOP_LOSS_LIMIT", "TAKE_PROFIT", "TAKE_PROFIT_LIMIT"})
PRECISION = 8
# Why an order expired, by the engine's number for it: Binance's names (the expiryReason enumeration of its SBE schema).
EXPIRY_REASONS = {
    EXPIRY_REJECTED: "REJECTED",
    EXPIRY_EXCHANGE: "EXCHANGE_CANCELED",
    EXPIRY_OCO: "OCO_TRIGGER",
    EXPIRY_OTO: "OTO_PHASE_ONE_EXPIRED",
    EXPIRY_IOC: "UNFILLED_IOC_QUANTITY_EXPIRED",
    EXPIRY_FOK: "UNFILLED_FOK_ORDER_EXPIRED",
    EXPIRY_LIQUIDITY: "INSUFFICIENT_LIQUIDITY",
}
# What the account and every symbol of the exchange are permitted for.
PERMISSION = "SPOT"


def fixed(units: int) -> str:
    """Units of 1e-8 as Binance prints them: 1050000000 -> "10.50000000"."""
    if units >= 0:
        return f"{units // UNIT}.{units % UNIT:08d}"
    return f"-{-units // UNIT}.{-units % UNIT:08d}"


def rate(value: Decimal) -> str:
    """A rate with 8 decimals."""
    return f"{value:.8f}"


def at(time_ms: int, scale: int) -> int:
    """A time in the client's unit; -1 for what has not happened."""
    return time_ms * scale if time_ms >= 0 else time_ms


# --- orders


def acknowledged(order: Order, scale: int) -> Document:
    """newOrderRespType ACK."""
    return {
        "symbol": order.symbol,
        "orderId": order.order_id,
        "orderListId": order.order_list_id,
        "clientOrderId": order.client_order_id,
        "transactTime": order.updated_ms * scale,
    }


def _standing(order: Order) -> Document:
    """What every answer that changes an order tells of it, in this order."""
    return {
        "price": fixed(order.price),
        "origQty": fixed(order.quantity),
        "executedQty": fixed(order.executed),
        "origQuoteOrderQty": fixed(order.quote_order_qty),
        "cummulativeQuoteQty": fixed(order.executed_quote),
        "status": order.status,
        "timeInForce": order.time_in_force,
        "type": order.type,
        "side": order.side,
    }


def resulted(order: Order, scale: int) -> Document:
    """newOrderRespType RESULT: how the order stands after all that it did at once."""
    document = {
        "symbol": order.symbol,
        "orderId": order.order_id,
        "orderListId": order.order_list_id,
        "clientOrderId": order.client_order_id,
        "transactTime": order.updated_ms * scale,
        **_standing(order),
        "workingTime": at(order.working_ms, scale),
        "selfTradePreventionMode": order.stp_mode,
    }
    _add_conditional(document, order, scale)
    return document


def placed(answer: Placed, response_type: str, scale: int) -> Document:
    """The answer to a new order, by newOrderRespType."""
    order = answer.order
    if response_type == "ACK":
        return acknowledged(order, scale)
    document = resulted(order, scale)
    if answer.prevented:
        document["preventedQuantity"] = fixed(order.prevented_quantity)
        document["preventedMatches"] = [_prevented_while_placing(match) for match in answer.prevented]
    if response_type == "FULL":
        document["fills"] = [_fill(trade) for trade in answer.trades]
    return document


def cancelled(order: Order, cancel_client_id: str, scale: int) -> Document:
    """An order that was cancelled: `clientOrderId` is the cancel's, the order's own is `origClientOrderId`."""
    document = {
        "symbol": order.symbol,
        "origClientOrderId": order.client_order_id,
        "orderId": order.order_id,
        "orderListId": order.order_list_id,
        "clientOrderId": cancel_client_id,
        "transactTime": order.updated_ms * scale,
        **_standing(order),
        "selfTradePreventionMode": order.stp_mode,
    }
    _add_conditional(document, order, scale)
    return document


def cancel(answer: Cancelled | ListReport, scale: int) -> Document:
    """The answer to a cancel: of a single order, or of the whole list that the order was part of."""
    if isinstance(answer, Cancelled):
        return cancelled(answer.order, answer.cancel_client_id, scale)
    return list_report(answer, "RESULT", scale)


def queried(order: Order, scale: int) -> Document:
    """An order as order.status, openOrders.status and allOrders tell it."""
    document = {
        "symbol": order.symbol,
        "orderId": order.order_id,
        "orderListId": order.order_list_id,
        "clientOrderId": order.client_order_id,
        "price": fixed(order.price),
        "origQty": fixed(order.quantity),
        "executedQty": fixed(order.executed),
        "cummulativeQuoteQty": fixed(order.executed_quote),
        "status": order.status,
        "timeInForce": order.time_in_force,
        "type": order.type,
        "side": order.side,
        "stopPrice": fixed(order.stop_price),
        "icebergQty": fixed(order.iceberg_qty),
        "time": order.created_ms * scale,
        "updateTime": order.updated_ms * scale,
        "isWorking": order.is_working,
        "workingTime": at(order.working_ms, scale),
        "origQuoteOrderQty": fixed(order.quote_order_qty),
        "selfTradePreventionMode": order.stp_mode,
    }
    _add_conditional(document, order, scale)
    return document


def amended(answer: Amended, old_client_id: str, scale: int) -> Document:
    """The answer to order.amend.keepPriority."""
    order = answer.order
    amended_order = {
        "symbol": order.symbol,
        "orderId": order.order_id,
        "orderListId": order.order_list_id,
        "origClientOrderId": old_client_id,
        "clientOrderId": order.client_order_id,
        "price": fixed(order.price),
        "qty": fixed(order.quantity),
        "executedQty": fixed(order.executed),
        "preventedQty": fixed(order.prevented_quantity),
        "quoteOrderQty": fixed(order.quote_order_qty),
        "cumulativeQuoteQty": fixed(order.executed_quote),
        "status": order.status,
        "timeInForce": order.time_in_force,
        "type": order.type,
        "side": order.side,
        "workingTime": at(order.working_ms, scale),
        "selfTradePreventionMode": order.stp_mode,
    }
    _add_conditional(amended_order, order, scale)
    document: Document = {
        "transactTime": answer.time_ms * scale,
        "executionId": answer.execution_id,
        "amendedOrder": amended_order,
    }
    if answer.list is not None:
        document["listStatus"] = {
            "orderListId": answer.list.list_id,
            "contingencyType": answer.list.contingency,
            "listOrderStatus": answer.list.order_status,
            "listClientOrderId": answer.list.client_list_id,
            "symbol": answer.list.symbol,
            "orders": _names(answer.list),
        }
    return document


def amendment(change: Amendment, scale: int) -> Document:
    """One row of order.amendments."""
    return {
        "symbol": change.symbol,
        "orderId": change.order_id,
        "executionId": change.execution_id,
        "origClientOrderId": change.old_client_id,
        "newClientOrderId": change.new_client_id,
        "origQty": fixed(change.old_quantity),
        "newQty": fixed(change.new_quantity),
        "time": change.time_ms * scale,
    }


def _add_conditional(document: Document, order: Order, scale: int) -> None:
    """The fields that are there only for some orders."""
    if order.type in STOP_TYPES:
        document["stopPrice"] = fixed(order.stop_price)
    if order.trailing_delta:
        document["trailingDelta"] = order.trailing_delta
        document["trailingTime"] = at(order.trailing_time, scale)
    if order.iceberg_qty:
        document["icebergQty"] = fixed(order.iceberg_qty)
    if order.strategy_id is not None:
        document["strategyId"] = order.strategy_id
    if order.strategy_type is not None:
        document["strategyType"] = order.strategy_type
    if order.prevented_match_id >= 0:
        document["preventedMatchId"] = order.prevented_match_id
        document["preventedQuantity"] = fixed(order.prevented_quantity)
    if order.expiry_reason is not None:
        document["expiryReason"] = EXPIRY_REASONS[order.expiry_reason]


def _fill(trade: AccountTrade) -> Document:
    return {
        "price": fixed(trade.trade.price),
        "qty": fixed(trade.trade.qty),
        "commission": fixed(trade.commission),
        "commissionAsset": trade.commission_asset,
        "tradeId": trade.trade.trade_id,
    }


def _prevented_while_placing(match: PreventedMatch) -> Document:
    document: Document = {
        "preventedMatchId": match.prevented_match_id,
        "makerOrderId": match.maker_order_id,
        "price": fixed(match.price),
    }
    if match.taker_prevented_quantity:
        document["takerPreventedQuantity"] = fixed(match.taker_prevented_quantity)
    if match.maker_prevented_quantity:
        document["makerPreventedQuantity"] = fixed(match.maker_prevented_quantity)
    return document


# --- order lists


def order_list(found: OrderList, scale: int) -> Document:
    """A list without its orders' reports."""
    return {
        "orderListId": found.list_id,
        "contingencyType": found.contingency,
        "listStatusType": found.status,
        "listOrderStatus": found.order_status,
        "listClientOrderId": found.client_list_id,
        "transactionTime": found.time_ms * scale,
        "symbol": found.symbol,
        "orders": _names(found),
    }


def list_report(report: ListReport, response_type: str, scale: int) -> Document:
    """A list that was placed or cancelled, with a report of each of its orders."""
    document = order_list(report.list, scale)
    if report.cancel_client_id:
        reports = [cancelled(order, report.cancel_client_id, scale) for order in report.orders]
    elif response_type == "ACK":
        reports = [acknowledged(order, scale) for order in report.orders]
    else:
        reports = [resulted(order, scale) for order in report.orders]
    document["orderReports"] = reports
    return document


def _names(found: OrderList) -> list[Document]:
    return [
        {"symbol": order.symbol, "orderId": order.order_id, "clientOrderId": order.client_order_id}
        for order in found.orders
    ]


# --- account


def account(
    balances: dict[str, tuple[int, int]],
    maker: Decimal,
    taker: Decimal,
    can_trade: bool,
    updated_ms: int,
    uid: int,
    omit_zero: bool,
    scale: int,
) -> Document:
    """account.status. Commissions of the old form are in basis points."""
    return {
        "makerCommission": int(maker * 10_000),
        "takerCommission": int(taker * 10_000),
        "buyerCommission": 0,
        "sellerCommission": 0,
        "commissionRates": {"maker": rate(maker), "taker": rate(taker), "buyer": ZERO, "seller": ZERO},
        "canTrade": can_trade,
        "canWithdraw": True,
        "canDeposit": True,
        "brokered": False,
        "requireSelfTradePrevention": False,
        "preventSor": False,
        "updateTime": updated_ms * scale,
        "accountType": PERMISSION,
        "balances": [
            {"asset": asset, "free": fixed(free), "locked": fixed(locked)}
            for asset, (free, locked) in sorted(balances.items())
            if free or locked or not omit_zero
        ],
        "permissions": [PERMISSION],
        "uid": uid,
    }


def commission(symbol: Symbol) -> Document:
    """account.commission: there is neither a special nor a tax commission here, nor a discount."""
    return {
        "symbol": symbol.name,
        "standardCommission": _rates(symbol.maker_rate, symbol.taker_rate),
        "specialCommission": _rates(Decimal(0), Decimal(0)),
        "taxCommission": _rates(Decimal(0), Decimal(0)),
        "discount": _discount(),
    }


def commission_of_test(symbol: Symbol) -> Document:
    """order.test with computeCommissionRates."""
    nothing = {"maker": ZERO, "taker": ZERO}
    return {
        "standardCommissionForOrder": {"maker": rate(symbol.maker_rate), "taker": rate(symbol.taker_rate)},
        "specialCommissionForOrder": nothing,
        "taxCommissionForOrder": nothing,
        "discount": _discount(),
    }


def _rates(maker: Decimal, taker: Decimal) -> Document:
    return {"maker": rate(maker), "taker": rate(taker), "buyer": ZERO, "seller": ZERO}


def _discount() -> Document:
    return {"enabledForAccount": False, "enabledForSymbol": False, "discountAsset": "BNB", "discount": ZERO}


def my_trade(trade: AccountTrade, scale: int) -> Document:
    """One row of myTrades."""
    public = trade.trade
    return {
        "symbol": public.symbol,
        "id": public.trade_id,
        "orderId": trade.order_id,
        "orderListId": trade.order_list_id,
        "price": fixed(public.price),
        "qty": fixed(public.qty),
        "quoteQty": fixed(public.quote_qty),
        "commission": fixed(trade.commission),
        "commissionAsset": trade.commission_asset,
        "time": public.time_ms * scale,
        "isBuyer": trade.is_buyer,
        "isMaker": trade.is_maker,
        "isBestMatch": True,
    }


def prevented_match(match: PreventedMatch, scale: int) -> Document:
    """One row of myPreventedMatches."""
    document: Document = {
        "symbol": match.symbol,
        "preventedMatchId": match.prevented_match_id,
        "takerOrderId": match.taker_order_id,
        "makerSymbol": match.maker_symbol,
        "makerOrderId": match.maker_order_id,
        "tradeGroupId": match.trade_group_id,
        "selfTradePreventionMode": match.stp_mode,
        "price": fixed(match.price),
    }
    if match.taker_prevented_quantity:
        document["takerPreventedQuantity"] = fixed(match.taker_prevented_quantity)
    if match.maker_prevented_quantity:
        document["makerPreventedQuantity"] = fixed(match.maker_prevented_quantity)
    document["transactTime"] = match.time_ms * scale
    return document


# --- market data


def public_trade(trade: Trade, scale: int) -> Document:
    """One row of trades.recent and trades.historical."""
    return {
        "id": trade.trade_id,
        "price": fixed(trade.price),
        "qty": fixed(trade.qty),
        "quoteQty": fixed(trade.quote_qty),
        "time": trade.time_ms * scale,
        "isBuyerMaker": trade.buyer_is_maker,
        "isBestMatch": True,
    }


def depth(update_id: int, bids: Iterable[tuple[int, int]], asks: Iterable[tuple[int, int]]) -> Document:
    """The order book, best prices first."""
    return {
        "lastUpdateId": update_id,
        "bids": [(fixed(price), fixed(qty)) for price, qty in bids],
        "asks": [(fixed(price), fixed(qty)) for price, qty in asks],
    }


# --- symbols


def symbol(found: Symbol, show_permission_sets: bool = True) -> Document:
    """One entry of exchangeInfo."""
    return {
        "symbol": found.name,
        "status": found.status,
        "baseAsset": found.base,
        "baseAssetPrecision": PRECISION,
        "quoteAsset": found.quote,
        "quotePrecision": PRECISION,
        "quoteAssetPrecision": PRECISION,
        "baseCommissionPrecision": PRECISION,
        "quoteCommissionPrecision": PRECISION,
        "orderTypes": list(found.order_types),
        "icebergAllowed": found.iceberg_allowed,
        "ocoAllowed": found.oco_allowed,
        "otoAllowed": found.oto_allowed,
        "opoAllowed": False,
        "quoteOrderQtyMarketAllowed": found.quote_order_qty_allowed,
        "allowTrailingStop": found.trailing_stop_allowed,
        "cancelReplaceAllowed": found.cancel_replace_allowed,
        "amendAllowed": found.amend_allowed,
        "pegInstructionsAllowed": False,
        "isSpotTradingAllowed": True,
        "isMarginTradingAllowed": False,
        "filters": filters(found.filters),
        "permissions": [],
        "permissionSets": [[PERMISSION]] if show_permission_sets else [],
        "defaultSelfTradePreventionMode": found.default_stp,
        "allowedSelfTradePreventionModes": list(found.allowed_stp),
    }


def filters(found: Filters) -> list[Document]:
    """The filters of a symbol, in the order in which the live exchange lists them."""
    documents: list[Document] = [
        {
            "filterType": "PRICE_FILTER",
            "minPrice": fixed(found.min_price),
            "maxPrice": fixed(found.max_price),
            "tickSize": fixed(found.tick),
        },
        _lot("LOT_SIZE", found.min_qty, found.max_qty, found.step),
        {"filterType": "ICEBERG_PARTS", "limit": found.iceberg_parts},
        _lot("MARKET_LOT_SIZE", found.market_min_qty, found.market_max_qty, found.market_step),
        {
            "filterType": "TRAILING_DELTA",
            "minTrailingAboveDelta": found.min_trailing_above,
            "maxTrailingAboveDelta": found.max_trailing_above,
            "minTrailingBelowDelta": found.min_trailing_below,
            "maxTrailingBelowDelta": found.max_trailing_below,
        },
        {
            "filterType": "PERCENT_PRICE_BY_SIDE",
            "bidMultiplierUp": str(found.bid_multiplier_up),
            "bidMultiplierDown": str(found.bid_multiplier_down),
            "askMultiplierUp": str(found.ask_multiplier_up),
            "askMultiplierDown": str(found.ask_multiplier_down),
            "avgPriceMins": found.avg_price_mins,
        },
        {
            "filterType": "NOTIONAL",
            "minNotional": fixed(found.min_notional),
            "applyMinToMarket": found.apply_min_to_market,
            "maxNotional": fixed(found.max_notional),
            "applyMaxToMarket": found.apply_max_to_market,
            "avgPriceMins": found.avg_price_mins,
        },
        {"filterType": "MAX_NUM_ORDERS", "maxNumOrders": found.max_orders},
        {"filterType": "MAX_NUM_ORDER_LISTS", "maxNumOrderLists": found.max_order_lists},
        {"filterType": "MAX_NUM_ALGO_ORDERS", "maxNumAlgoOrders": found.max_algo_orders},
        {"filterType": "MAX_NUM_ORDER_AMENDS", "maxNumOrderAmends": found.max_amends},
    ]
    if found.max_position is not None:
        documents.append({"filterType": "MAX_POSITION", "maxPosition": fixed(found.max_position)})
    return documents


def _lot(name: str, least: int, most: int, step: int) -> Document:
    return {"filterType": name, "minQty": fixed(least), "maxQty": fixed(most), "stepSize": fixed(step)}
