"""What the local exchange says to parameters that are wrong, and what it does with those that are right."""

from __future__ import annotations

from typing import Any

import pytest

from tbx.venues.simulator.binance import params
from tbx.venues.simulator.binance.errors import ApiError
from tbx.venues.simulator.binance.methods_table import METHODS

from .exchange_desk import LIMIT_BUY, ExchangeDesk

GONE = ...  # the parameter is not sent; says the same in the name of a test in every process


def changed(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in (base | change).items() if value is not GONE}


def error_of(method: str, sent: dict[str, Any], desk: ExchangeDesk | None = None) -> tuple[int, str]:
    desk = desk or ExchangeDesk()
    reply = desk.session(account=desk.first).call(method, sent)
    assert "error" in reply, reply
    return reply["error"]["code"], reply["error"]["msg"]


@pytest.mark.parametrize(
    ("change", "code", "msg"),
    [
        ({"symbol": GONE}, -1102, "Mandatory parameter 'symbol' was not sent, was empty/null, or malformed."),
        ({"symbol": ""}, -1102, "Mandatory parameter 'symbol' was not sent, was empty/null, or malformed."),
        ({"symbol": None}, -1102, "Mandatory parameter 'symbol' was not sent, was empty/null, or malformed."),
        (
            {"symbol": "btcusdt"},
            -1100,
            r"Illegal characters found in parameter 'symbol'; legal range is '^[\w\-._&&[^a-z]]{1,50}$'.",
        ),
        ({"symbol": "NOSUCH"}, -1121, "Invalid symbol."),
        ({"symbol": "１２３４５６"}, -1121, "Invalid symbol."),
        ({"side": "HOLD"}, -1117, "Invalid side."),
        ({"side": GONE}, -1102, "Mandatory parameter 'side' was not sent, was empty/null, or malformed."),
        ({"type": "PEGGED"}, -1116, "Invalid orderType."),
        ({"timeInForce": "GTX"}, -1115, "Invalid timeInForce."),
        ({"timeInForce": GONE}, -1102, "Mandatory parameter 'timeInForce' was not sent, was empty/null, or malformed."),
        ({"price": GONE}, -1102, "Mandatory parameter 'price' was not sent, was empty/null, or malformed."),
        (
            {"price": "-1"},
            -1100,
            r"Illegal characters found in parameter 'price'; legal range is '^([0-9]{1,20})(\.[0-9]{1,20})?$'.",
        ),
        (
            {"price": "1e5"},
            -1100,
            r"Illegal characters found in parameter 'price'; legal range is '^([0-9]{1,20})(\.[0-9]{1,20})?$'.",
        ),
        ({"price": "1.123456789"}, -1111, "Parameter 'price' has too much precision."),
        ({"price": "99999999999999999999"}, -1108, "Parameter 'price' overflowed."),
        ({"quantity": GONE}, -1102, "Mandatory parameter 'quantity' was not sent, was empty/null, or malformed."),
        ({"quantity": ""}, -1105, "Parameter 'quantity' was empty."),
        ({"stopPrice": "1"}, -1106, "Parameter 'stopPrice' sent when not required."),
        ({"trailingDelta": "10"}, -1106, "Parameter 'trailingDelta' sent when not required."),
        ({"quoteOrderQty": "10"}, -1106, "Parameter 'quoteOrderQty' sent when not required."),
        ({"type": "MARKET"}, -1106, "Parameter 'timeInForce' sent when not required."),
        ({"type": "MARKET", "timeInForce": GONE}, -1106, "Parameter 'price' sent when not required."),
        (
            {"type": "MARKET", "timeInForce": GONE, "price": GONE, "quantity": GONE},
            -1102,
            "Param 'quantity' or 'quoteOrderQty' must be sent, but both were empty/null!",
        ),
        (
            {"type": "STOP_LOSS", "timeInForce": GONE, "price": GONE},
            -1102,
            "Param 'stopPrice' or 'trailingDelta' must be sent, but both were empty/null!",
        ),
        ({"type": "LIMIT_MAKER"}, -1106, "Parameter 'timeInForce' sent when not required."),
        ({"newOrderRespType": "ALL"}, -1136, "Invalid newOrderRespType."),
        (
            {"selfTradePreventionMode": "SOME"},
            -1130,
            "Data sent for parameter 'selfTradePreventionMode' is not valid.",
        ),
        ({"strategyType": 999_999}, -1134, "strategyType was less than 1000000."),
        (
            {"newClientOrderId": "a b"},
            -1100,
            "Illegal characters found in parameter 'newClientOrderId'; legal range is '^[a-zA-Z0-9-_]{1,36}$'.",
        ),
        ({"newClientOrderId": ""}, -1105, "Parameter 'newClientOrderId' was empty."),
        ({"colour": "red"}, -1104, "Not all sent parameters were read; read '6' parameter(s) but was sent '7'."),
        ({"price": "60000.001"}, -1013, "Filter failure: PRICE_FILTER"),
        ({"quantity": "0.000001"}, -1013, "Filter failure: LOT_SIZE"),
        ({"quantity": "0.00001"}, -1013, "Filter failure: NOTIONAL"),
        ({"side": "SELL", "quantity": "149"}, -2010, "Account has insufficient balance for requested action."),
    ],
    ids=str,
)
def test_an_order_that_is_wrong_is_refused_with_binances_code_and_text(
    change: dict[str, Any], code: int, msg: str
) -> None:
    desk = ExchangeDesk()
    assert error_of("order.place", changed(LIMIT_BUY, change), desk) == (code, msg)
    assert error_of("order.test", changed(LIMIT_BUY, change), desk) == (code, msg)
    assert not desk.exchange.open_orders("first")
    assert not [event for event in desk.events if type(event).__name__ == "Execution"]


@pytest.mark.parametrize(
    ("method", "sent", "code"),
    [
        ("order.cancel", {"symbol": "BTCUSDT"}, -1102),
        ("order.cancel", {"symbol": "BTCUSDT", "orderId": "x"}, -1100),
        ("order.cancel", {"symbol": "BTCUSDT", "orderId": 77}, -2011),
        ("order.cancel", {"symbol": "BTCUSDT", "orderId": 77, "cancelRestrictions": "ONLY_OLD"}, -1145),
        ("order.status", {"symbol": "BTCUSDT", "origClientOrderId": "nobody"}, -2013),
        ("order.status", {"symbol": "BTCUSDT"}, -1102),
        ("order.amend.keepPriority", {"symbol": "BTCUSDT", "orderId": 77, "newQty": "1"}, -2038),
        ("order.amend.keepPriority", {"symbol": "BTCUSDT", "orderId": 77}, -1102),
        ("openOrders.cancelAll", {"symbol": "BTCUSDT"}, -2011),
        ("orderList.status", {"orderListId": 5}, -2018),
        ("orderList.status", {}, -1102),
        ("orderList.cancel", {"symbol": "BTCUSDT", "orderListId": 5}, -2011),
        ("order.cancelReplace", LIMIT_BUY | {"cancelOrderId": 1}, -1102),
        ("order.cancelReplace", LIMIT_BUY | {"cancelOrderId": 1, "cancelReplaceMode": "TRY"}, -1130),
        ("sor.order.place", LIMIT_BUY, -1020),
        ("myTrades", {"symbol": "BTCUSDT", "fromId": 1, "startTime": 1}, -1128),
        ("myTrades", {"symbol": "BTCUSDT", "startTime": 1, "endTime": 86_400_002}, -1127),
        ("allOrders", {"symbol": "BTCUSDT", "startTime": 1, "endTime": 86_400_002}, -1127),
        ("allOrders", {"symbol": "BTCUSDT", "startTime": 2, "endTime": 1}, -1128),
        ("allOrders", {"symbol": "BTCUSDT", "limit": 1001}, -1130),
        ("myPreventedMatches", {"symbol": "BTCUSDT"}, -1102),
        ("order.amendments", {"symbol": "BTCUSDT"}, -1102),
        ("account.status", {"omitZeroBalances": "maybe"}, -1130),
    ],
)
def test_every_other_signed_method_names_what_is_wrong(method: str, sent: dict[str, Any], code: int) -> None:
    assert error_of(method, sent)[0] == code


@pytest.mark.parametrize(
    ("method", "sent", "code"),
    [
        ("ping", {"x": 1}, -1101),
        ("ticker.24hr", {"limit": 1}, -1104),
        ("depth", {}, -1102),
        ("depth", {"symbol": "BTCUSDT", "limit": 0}, -1130),
        ("trades.recent", {"symbol": "NOSUCH"}, -1121),
        ("trades.recent", {"symbol": "BTCUSDT", "limit": 1001}, -1130),
        ("trades.aggregate", {"symbol": "BTCUSDT", "fromId": 1, "startTime": 1}, -1128),
        ("klines", {"symbol": "BTCUSDT"}, -1102),
        ("klines", {"symbol": "BTCUSDT", "interval": "7m"}, -1120),
        ("klines", {"symbol": "BTCUSDT", "interval": "1m", "timeZone": "15:00"}, -1130),
        ("ticker", {"symbol": "BTCUSDT", "windowSize": "60m"}, -1130),
        ("ticker", {}, -1102),
        ("ticker.24hr", {"symbol": "BTCUSDT", "symbols": ["BTCUSDT"]}, -1128),
        ("ticker.24hr", {"symbol": "BTCUSDT", "type": "HUGE"}, -1139),
        ("ticker.24hr", {"symbol": "BTCUSDT", "symbolStatus": "BREAK"}, -1220),
        ("depth", {"symbol": "BTCUSDT", "symbolStatus": "BREAK"}, -1220),
        ("ticker.price", {"symbols": ["BTCUSDT", "BTCUSDT"]}, -1151),
        ("ticker.price", {"symbols": "[BTCUSDT"}, -1135),
        ("exchangeInfo", {"symbol": "BTCUSDT", "permissions": "SPOT"}, -1128),
        ("exchangeInfo", {"symbol": "BTCUSDT", "symbolStatus": "TRADING"}, -1128),
        ("exchangeInfo", {"symbolStatus": "ASLEEP"}, -1122),
        ("referencePrice", {"symbol": "BTCUSDT"}, -2043),
        ("userDataStream.subscribe", {}, -1002),
        ("no.such.method", {}, -1020),
    ],
)
def test_every_public_method_names_what_is_wrong(method: str, sent: dict[str, Any], code: int) -> None:
    reply = ExchangeDesk().session().ask(method, sent)
    assert reply["error"]["code"] == code


OCO = {
    "symbol": "BTCUSDT",
    "side": "SELL",
    "quantity": "0.01",
    "aboveType": "LIMIT_MAKER",
    "abovePrice": "61000",
    "belowType": "STOP_LOSS_LIMIT",
    "belowPrice": "58900",
    "belowStopPrice": "59000",
    "belowTimeInForce": "GTC",
}


@pytest.mark.parametrize(
    ("change", "code"),
    [
        pytest.param({"aboveType": "LIMIT", "aboveTimeInForce": "GTC"}, -1158, id="a limit order that may take"),
        pytest.param({"belowType": "MARKET"}, -1158, id="a market order"),
        pytest.param({"side": "BUY"}, -1165, id="buy: limit above"),
        pytest.param(
            {"belowType": "LIMIT_MAKER", "belowStopPrice": GONE, "belowTimeInForce": GONE}, -1168, id="two limits"
        ),
        pytest.param(
            {"aboveType": "STOP_LOSS", "abovePrice": GONE, "aboveStopPrice": "61000"}, -1197, id="sell: stop above"
        ),
        pytest.param(
            {"belowType": "TAKE_PROFIT", "belowPrice": GONE, "belowTimeInForce": GONE}, -1199, id="sell: profit below"
        ),
        pytest.param({"belowTimeInForce": "IOC", "belowIcebergQty": "0.001"}, -1160, id="iceberg without GTC"),
        pytest.param({"belowTimeInForce": GONE}, -1102, id="stop limit without time in force"),
        pytest.param({"belowTimeInForce": "NOW"}, -1115, id="no such time in force"),
        pytest.param({"aboveStopPrice": "61000"}, -1106, id="a stop price for a limit maker"),
        pytest.param({"belowStopPrice": GONE}, -1102, id="a stop without its price"),
        pytest.param({"quantity": GONE}, -1102, id="no quantity"),
    ],
)
def test_legs_that_cannot_stand_where_they_are_put_are_refused(change: dict[str, Any], code: int) -> None:
    desk = ExchangeDesk()
    desk.trade_at("60000")
    assert error_of("orderList.place.oco", changed(OCO, change), desk)[0] == code


def test_the_former_oco_puts_its_legs_where_the_side_wants_them() -> None:
    for side, price, stop in (("SELL", "61000", "59000"), ("BUY", "59000", "61000")):
        desk = ExchangeDesk()
        desk.trade_at("60000")
        sent = {"symbol": "BTCUSDT", "side": side, "quantity": "0.01", "price": price, "stopPrice": stop}
        sent |= {"stopLimitPrice": stop, "stopLimitTimeInForce": "GTC", "limitClientOrderId": "lim"}
        result = desk.session(account=desk.first).call("orderList.place", sent)["result"]
        kinds = {report["type"]: report for report in result["orderReports"]}
        assert set(kinds) == {"LIMIT_MAKER", "STOP_LOSS_LIMIT"}
        assert kinds["LIMIT_MAKER"]["clientOrderId"] == "lim"
        assert (kinds["LIMIT_MAKER"]["workingTime"] > 0, kinds["STOP_LOSS_LIMIT"]["workingTime"]) == (True, -1)


@pytest.mark.parametrize(
    ("text", "units"),
    [("0", 0), ("1", 10**8), ("1.5", 150_000_000), ("0.00000001", 1), ("007.10", 710_000_000), ("0.00000000", 0)],
)
def test_decimals_are_read_exactly(text: str, units: int) -> None:
    assert params.units(text, "price") == units


@pytest.mark.parametrize("text", [".5", "5.", "+1", "1,5", "١", "0x1", "1.2.3", " 1", "1 ", "NaN", "²"])
def test_what_is_no_decimal_is_refused(text: str) -> None:
    with pytest.raises(ApiError) as raised:
        params.units(text, "price")
    assert raised.value.code == -1100


def test_method_names_and_paths_are_unique() -> None:
    names = [method.name for method in METHODS]
    paths = [path for method in METHODS for path in method.http]
    assert len(set(names)) == len(names) and len(set(paths)) == len(paths)
