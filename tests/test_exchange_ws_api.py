"""Connections of the local exchange's WebSocket API: envelopes, ids, options of the URL, sessions, replacements."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tbx.venues.simulator.binance.errors import ApiError
from tbx.venues.simulator.binance.methods_table import METHODS
from tbx.venues.simulator.binance.ws_api import WsApiSession

from .exchange_desk import LIMIT_BUY, ExchangeDesk

UUID = "e2a85d9f-07a5-4f94-8d5f-789dc3deb097"


@pytest.mark.parametrize("request_id", [1, 0, -5, 2**53, UUID, "", "ü", None])
def test_an_id_comes_back_as_it_was_sent(request_id: Any) -> None:
    reply = ExchangeDesk().session().send({"id": request_id, "method": "ping"})
    assert (reply["id"], reply["status"], reply["result"]) == (request_id, 200, {})


@pytest.mark.parametrize(
    ("frame", "request_id", "code"),
    [
        (b"", None, -1135),
        (b"hello", None, -1135),
        (b'{"id":1,"method":"ping"', None, -1135),
        (b"[1,2]", None, -1135),
        (b"\xff\xfe", None, -1135),
        (b'{"id":7}', 7, -1102),
        (b'{"id":7,"method":5}', 7, -1102),
        (b'{"id":7,"method":"ping","params":[1]}', 7, -1130),
        (b'{"id":1.5,"method":"ping"}', None, -1130),
        (b'{"id":{"a":1},"method":"ping"}', None, -1130),
        (b'{"id":true,"method":"ping"}', None, -1130),
        (b'{"id":"x","method":"order.plaice"}', "x", -1020),
    ],
)
def test_what_is_no_request_is_answered_and_ends_nothing(frame: bytes, request_id: Any, code: int) -> None:
    client = ExchangeDesk().session()
    reply = client.send(frame)
    assert (reply["id"], reply["status"], reply["error"]["code"]) == (request_id, 400, code)
    assert client.ask("ping")["status"] == 200


NESTED = b"[" * 20_000


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(NESTED, id="nothing but brackets"),
        pytest.param(b'{"a":' * 20_000, id="objects"),
        pytest.param(NESTED + b"]" * 20_000, id="brackets that close"),
        pytest.param(b'{"id":1,"method":"ping","params":{"a":' + NESTED, id="a parameter"),
        pytest.param(b'{"id":1,"method":"ping","params":{"a":' + NESTED + b"]" * 20_000 + b"}}", id="a whole request"),
        pytest.param(b'{"id":' + NESTED, id="an id"),
        pytest.param(b'{"id":1,"method":' + NESTED, id="a method"),
        pytest.param(b'{"id":1,"method":"ping","more":' + NESTED, id="a member that nobody reads"),
    ],
)
def test_json_nested_beyond_all_reason_is_invalid_json_and_ends_nothing(frame: bytes) -> None:
    client = ExchangeDesk().session()
    reply = client.send(frame)
    assert (reply["status"], reply["error"]["code"], reply["error"]["msg"]) == (400, -1135, "Invalid JSON Request")
    assert client.ask("ping")["status"] == 200


def test_at_every_depth_of_nesting_there_is_one_reply() -> None:
    client = ExchangeDesk().session()
    for depth in (*range(1, 1_100, 7), *range(880, 1_020)):
        value = b"[" * depth + b"]" * depth
        for frame in (value, b'{"id":1,"method":"ping","params":{"a":%b}}' % value, b'{"id":1,"method":%b}' % value):
            assert client.send(frame)["status"] == 400


def test_a_method_may_name_its_version_and_go_without_params() -> None:
    client = ExchangeDesk().session()
    assert client.send({"id": 1, "method": "v3/time"})["result"] == {"serverTime": client.desk.now_ms}
    assert client.send({"id": 1, "method": "time", "params": None})["status"] == 200


def test_rate_limits_are_shown_unless_they_are_not_wanted() -> None:
    desk = ExchangeDesk(rates=None)
    shown, hidden = desk.session(), desk.session("returnRateLimits=false")
    assert [row["rateLimitType"] for row in shown.ask("ping")["rateLimits"]] == ["REQUEST_WEIGHT"]
    assert "rateLimits" not in shown.ask("ping", {"returnRateLimits": False})
    assert "rateLimits" not in hidden.ask("ping")
    assert "rateLimits" in hidden.ask("ping", {"returnRateLimits": True})
    assert hidden.ask("session.status")["result"]["returnRateLimits"] is False
    trader = desk.session(account=desk.first)
    rows = trader.call("order.place", LIMIT_BUY)["rateLimits"]
    assert [(row["rateLimitType"], row["interval"], row["intervalNum"], row["limit"]) for row in rows] == [
        ("ORDERS", "SECOND", 10, 100),
        ("ORDERS", "DAY", 1, 200_000),
        ("REQUEST_WEIGHT", "MINUTE", 1, 6_000),
    ]
    assert [row["count"] for row in rows[:2]] == [1, 1]


def test_times_come_in_microseconds_where_the_url_asks_for_them() -> None:
    desk = ExchangeDesk()
    desk.clock.advance(123_456_000)
    client = desk.session("timeUnit=MICROSECOND", account=desk.first)
    assert client.ask("time")["result"]["serverTime"] == desk.clock.now_ns() // 1000
    placed = client.call("order.place", LIMIT_BUY)["result"]
    assert placed["transactTime"] == placed["workingTime"] == desk.now_ms * 1000
    stop = {"symbol": "BTCUSDT", "side": "SELL", "type": "STOP_LOSS", "quantity": "0.01", "stopPrice": "50000"}
    desk.trade_at("60000")
    waiting = client.call("order.place", stop | {"newOrderRespType": "RESULT"})["result"]
    assert waiting["workingTime"] == -1, "what has not happened stays -1"
    with pytest.raises(ApiError, match="expected either MICROSECOND or MILLISECOND"):
        WsApiSession(desk.api, "timeUnit=NANOSECOND")


def test_a_session_tells_since_when_it_is_there() -> None:
    desk = ExchangeDesk()
    client = desk.session()
    desk.clock.advance(2_000_000_000)
    logged_on = client.logon(desk.first)["result"]
    assert logged_on["authorizedSince"] - logged_on["connectedSince"] == 2_000
    assert logged_on["userDataStream"] is False
    client.ask("userDataStream.subscribe")
    assert client.ask("session.status")["result"]["userDataStream"] is True


def test_subscriptions_are_the_connections_own_and_end_with_the_logout() -> None:
    desk = ExchangeDesk()
    client = desk.session(account=desk.first)
    assert client.ask("userDataStream.subscribe")["result"] == {"subscriptionId": 0}
    second = client.signed("userDataStream.subscribe.signature", {}, desk.second)["result"]
    assert second == {"subscriptionId": 1}
    assert desk.streams.open[id(client.session)] == {0: "first", 1: "second"}
    listed = client.ask("session.subscriptions")["result"]
    assert listed == [{"subscriptionId": 0}, {"subscriptionId": 1}]
    assert client.ask("userDataStream.unsubscribe", {"subscriptionId": 1})["result"] == {}
    assert client.ask("userDataStream.unsubscribe", {"subscriptionId": 1})["error"]["code"] == -1130
    client.ask("session.logout")
    assert client.ask("session.subscriptions")["result"] == []


@pytest.mark.parametrize(
    ("kind", "given_type", "fields"),
    [
        pytest.param("LIMIT", None, "fills", id="a limit order answers FULL"),
        pytest.param("MARKET", None, "fills", id="a market order answers FULL"),
        pytest.param("LIMIT_MAKER", None, "ACK", id="others answer ACK"),
        pytest.param("LIMIT", "ACK", "ACK", id="ACK if asked for"),
        pytest.param("LIMIT", "RESULT", "status", id="RESULT if asked for"),
    ],
)
def test_the_answer_is_as_long_as_it_was_asked_for(kind: str, given_type: str | None, fields: str) -> None:
    desk = ExchangeDesk()
    desk.trade_at("60000")
    desk.session(account=desk.second).call("order.place", LIMIT_BUY | {"side": "SELL", "price": "60100"})
    sent: dict[str, Any] = {"symbol": "BTCUSDT", "side": "BUY", "type": kind, "quantity": "0.005"}
    if kind != "MARKET":
        sent["price"] = "59000"
    if kind == "LIMIT":
        sent["timeInForce"] = "GTC"
    if given_type:
        sent["newOrderRespType"] = given_type
    result = desk.session(account=desk.first).call("order.place", sent)["result"]
    if fields == "ACK":
        assert set(result) == {"symbol", "orderId", "orderListId", "clientOrderId", "transactTime"}
    else:
        assert fields in result and ("fills" in result) == (fields == "fills")


def test_fills_tell_price_quantity_and_commission() -> None:
    desk = ExchangeDesk()
    desk.trade_at("60000")
    desk.session(account=desk.second).call("order.place", LIMIT_BUY | {"side": "SELL", "price": "60100"})
    market = {"symbol": "BTCUSDT", "side": "BUY", "type": "MARKET", "quoteOrderQty": "300.50"}
    result = desk.session(account=desk.first).call("order.place", market)["result"]
    assert (result["status"], result["origQuoteOrderQty"]) == ("FILLED", "300.50000000")
    assert result["cummulativeQuoteQty"] == "300.50000000" and result["executedQty"] == "0.00500000"
    (fill,) = result["fills"]
    assert fill == {
        "price": "60100.00000000",
        "qty": "0.00500000",
        "commission": "0.00000500",
        "commissionAsset": "BTC",
        "tradeId": fill["tradeId"],
    }


REPLACE = LIMIT_BUY | {"price": "59000", "newClientOrderId": "new", "newOrderRespType": "RESULT"}


@pytest.mark.parametrize(
    ("mode", "cancels", "places", "status", "code", "results"),
    [
        ("STOP_ON_FAILURE", True, True, 200, None, ("SUCCESS", "SUCCESS")),
        ("STOP_ON_FAILURE", False, True, 400, -2022, ("FAILURE", "NOT_ATTEMPTED")),
        ("STOP_ON_FAILURE", True, False, 409, -2021, ("SUCCESS", "FAILURE")),
        ("ALLOW_FAILURE", True, True, 200, None, ("SUCCESS", "SUCCESS")),
        ("ALLOW_FAILURE", False, True, 409, -2021, ("FAILURE", "SUCCESS")),
        ("ALLOW_FAILURE", True, False, 409, -2021, ("SUCCESS", "FAILURE")),
        ("ALLOW_FAILURE", False, False, 400, -2022, ("FAILURE", "FAILURE")),
    ],
)
def test_a_replacement_says_which_half_was_done(
    mode: str, cancels: bool, places: bool, status: int, code: int | None, results: tuple[str, str]
) -> None:
    desk = ExchangeDesk()
    desk.trade_at("60000")
    client = desk.session(account=desk.first)
    client.call("order.place", LIMIT_BUY | {"price": "58000", "newClientOrderId": "old"})
    sent = REPLACE | {"cancelReplaceMode": mode, "cancelOrigClientOrderId": "old" if cancels else "older"}
    if not places:
        sent |= {"side": "SELL", "quantity": "120"}  # more than it has
    reply = client.call("order.cancelReplace", sent)
    assert reply["status"] == status
    answer = reply["result"] if code is None else reply["error"]["data"]
    assert reply.get("error", {}).get("code") == code
    assert (answer["cancelResult"], answer["newOrderResult"]) == results
    for half, result in (("cancelResponse", results[0]), ("newOrderResponse", results[1])):
        assert (answer[half] is None) == (result == "NOT_ATTEMPTED")
        assert result == "NOT_ATTEMPTED" or ("code" in answer[half]) == (result == "FAILURE")
    left = {order.client_order_id for order in desk.exchange.open_orders("first")}
    assert left == ({"new"} if results[1] == "SUCCESS" else set()) | (set() if cancels else {"old"})


def test_cancelling_an_order_of_a_list_answers_with_the_list() -> None:
    desk = ExchangeDesk()
    desk.trade_at("60000")
    client = desk.session(account=desk.first)
    sent = {
        "symbol": "BTCUSDT",
        "side": "SELL",
        "quantity": "0.01",
        "aboveType": "LIMIT_MAKER",
        "abovePrice": "61000",
        "aboveClientOrderId": "up",
        "belowType": "STOP_LOSS",
        "belowStopPrice": "59000",
        "belowClientOrderId": "down",
    }
    placed = client.call("orderList.place.oco", sent)["result"]
    assert [order["clientOrderId"] for order in placed["orders"]] == ["up", "down"]
    cancelled = client.call("order.cancel", {"symbol": "BTCUSDT", "origClientOrderId": "up"})["result"]
    assert (cancelled["listOrderStatus"], cancelled["listStatusType"]) == ("ALL_DONE", "ALL_DONE")
    assert {report["status"] for report in cancelled["orderReports"]} == {"CANCELED"}
    assert {report["origClientOrderId"] for report in cancelled["orderReports"]} == {"up", "down"}


def test_an_amendment_tells_both_names_of_the_order() -> None:
    desk = ExchangeDesk()
    client = desk.session(account=desk.first)
    client.call("order.place", LIMIT_BUY | {"newClientOrderId": "old"})
    named = {"symbol": "BTCUSDT", "origClientOrderId": "old", "newQty": "0.005", "newClientOrderId": "new"}
    amended = client.call("order.amend.keepPriority", named)["result"]["amendedOrder"]
    assert (amended["origClientOrderId"], amended["clientOrderId"], amended["qty"]) == ("old", "new", "0.00500000")
    rows = client.call("order.amendments", {"symbol": "BTCUSDT", "orderId": amended["orderId"]})["result"]
    assert [(row["origQty"], row["newQty"]) for row in rows] == [("0.01000000", "0.00500000")]


def test_market_data_tells_what_the_exchange_holds() -> None:
    desk = ExchangeDesk()
    desk.trade_at("60000", "0.5")
    desk.clock.advance(60_000_000_000)
    desk.trade_at("61200", "0.25")
    client = desk.session(account=desk.first)
    client.call("order.place", LIMIT_BUY | {"price": "60900"})
    client.call("order.place", LIMIT_BUY | {"price": "60950"})
    book = client.ask("depth", {"symbol": "BTCUSDT", "limit": 1})["result"]
    assert book["bids"] == [["60950.00000000", "0.01000000"]] and book["asks"] == []
    ticker = client.ask("ticker.24hr", {"symbol": "BTCUSDT"})["result"]
    assert (ticker["priceChange"], ticker["priceChangePercent"]) == ("1200.00000000", "2.000")
    assert (ticker["volume"], ticker["quoteVolume"]) == ("0.75000000", "45300.00000000")
    assert (ticker["bidPrice"], ticker["askPrice"], ticker["count"]) == ("60950.00000000", "0.00000000", 2)
    assert ticker["weightedAvgPrice"] == "60400.00000000"
    trades = client.ask("trades.recent", {"symbol": "BTCUSDT"})["result"]
    assert [trade["price"] for trade in trades] == ["60000.00000000", "61200.00000000"]
    older = client.ask("trades.historical", {"symbol": "BTCUSDT", "fromId": trades[0]["id"], "limit": 1})["result"]
    assert older == trades[:1]
    assert client.ask("avgPrice", {"symbol": "BTCUSDT"})["result"]["price"] == "60400.00000000"
    assert len(client.ask("ticker.price")["result"]) == 2


def test_trades_of_one_taker_at_one_price_are_aggregated() -> None:
    desk = ExchangeDesk()
    seller, buyer = desk.session(account=desk.first), desk.session(account=desk.second)
    for price in ("60000", "60000", "60001"):
        seller.call("order.place", LIMIT_BUY | {"side": "SELL", "price": price})
    buyer.call("order.place", LIMIT_BUY | {"price": "60001", "quantity": "0.03"})
    rows = buyer.ask("trades.aggregate", {"symbol": "BTCUSDT"})["result"]
    assert [(row["p"], row["q"], row["l"] - row["f"], row["m"]) for row in rows] == [
        ("60000.00000000", "0.02000000", 1, False),
        ("60001.00000000", "0.01000000", 0, False),
    ]
    assert buyer.ask("trades.aggregate", {"symbol": "BTCUSDT", "fromId": rows[1]["a"]})["result"] == rows[1:]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
NAMES = sorted(
    {name for method in METHODS for name in method.params} | {"timestamp", "apiKey", "signature", "recvWindow"}
)
VALUES = JSON | st.sampled_from(
    ["BTCUSDT", "BUY", "SELL", "LIMIT", "MARKET", "GTC", "60000", "0.01", 1_790_000_000_000]
)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from([method.name for method in METHODS]),
    st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=9),
    JSON,
    st.booleans(),
)
def test_whatever_is_sent_there_is_one_reply(method: str, sent: dict[str, Any], request_id: Any, log_on: bool) -> None:
    desk = DESKS[log_on]
    raw = json.dumps({"id": request_id, "method": method, "params": sent}).encode()
    (reply,) = SESSIONS[log_on].receive(raw)
    decoded = json.loads(reply)
    assert {"id", "status"} <= decoded.keys() and ("result" in decoded) != ("error" in decoded)
    if desk.now_ms and "error" in decoded:
        assert set(decoded["error"]) <= {"code", "msg", "data"} and decoded["error"]["code"] < 0


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60))
def test_whatever_bytes_are_sent_there_is_one_reply(raw: bytes) -> None:
    (reply,) = SESSIONS[False].receive(raw)
    assert json.loads(reply)["status"] == 400


DESKS = {log_on: ExchangeDesk() for log_on in (False, True)}
SESSIONS = {log_on: desk.session(account=desk.first if log_on else None).session for log_on, desk in DESKS.items()}
