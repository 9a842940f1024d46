"""The local exchange's REST API: where parameters may stand, headers, statuses, the life of an order."""

from __future__ import annotations

import base64
import json
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tbx.venues.simulator.binance.errors import ApiError
from tbx.venues.simulator.binance.methods_table import BY_PATH
from tbx.venues.simulator.binance.rest import parameters

from .exchange_desk import LIMIT_BUY, ExchangeDesk, hmac_of, private_key


@pytest.mark.parametrize("body", [False, True], ids=["query", "body"])
def test_an_order_may_stand_in_the_query_or_in_the_body(body: bool) -> None:
    desk = ExchangeDesk()
    status, headers, order = desk.http("POST", "/order", LIMIT_BUY, account=desk.first, body=body)
    assert (status, order["status"]) == (200, "NEW")
    assert headers["content-type"] == "application/json;charset=UTF-8"
    assert (headers["x-mbx-order-count-10s"], headers["x-mbx-order-count-1d"]) == ("1", "1")


def test_an_order_may_stand_partly_in_both() -> None:
    desk = ExchangeDesk()
    query = "symbol=BTCUSDT&side=BUY&type=LIMIT&timeInForce=GTC"
    body = f"quantity=0.01&price=60000&timestamp={desk.now_ms}"
    body += "&signature=" + hmac_of(desk.first, query + body)
    headers = {"x-mbx-apikey": desk.first.hmac_api_key}
    status, _, _ = desk.rest.handle("POST", "/api/v3/order", query.encode(), body.encode(), headers)
    assert status == 200


@pytest.mark.parametrize("nested", [b"[" * 20_000, b'{"a":' * 5_000, b"[" * 900 + b"]" * 900])
def test_json_nested_beyond_all_reason_is_refused_wherever_it_stands(nested: bytes) -> None:
    desk = ExchangeDesk()
    headers = {"x-mbx-apikey": desk.first.hmac_api_key, "content-type": "application/json"}
    for method, path, query, body in (
        ("POST", "/api/v3/order", b"", nested),
        ("POST", "/api/v3/order", b"", b"symbol=" + nested),
        ("GET", "/api/v3/exchangeInfo", b"symbols=" + nested, b""),
        ("GET", "/api/v3/ticker/24hr", b"", b"symbols=" + nested),
    ):
        status, _, answer = desk.rest.handle(method, path, query, body, headers)
        assert status == 400 and json.loads(answer)["code"] < 0, path


def test_a_base64_signature_may_be_percent_encoded_or_not() -> None:
    desk = ExchangeDesk()
    for encode in (quote, str):
        for moment in range(8):  # so that some signature has a plus and a slash
            text = f"timestamp={desk.now_ms - moment}"
            signature = base64.b64encode(private_key(desk.first).sign(text.encode())).decode()
            query = f"{text}&signature={encode(signature)}".encode()
            headers = {"x-mbx-apikey": desk.first.ed25519_api_key}
            assert desk.rest.handle("GET", "/api/v3/account", query, b"", headers)[0] == 200


def test_what_is_signed_is_what_was_sent_percent_encoded() -> None:
    desk = ExchangeDesk()
    headers = {"x-mbx-apikey": desk.first.hmac_api_key}
    for signed, code in (("symbol=%EF%BC%91", -1121), ("symbol=１", -1022)):
        text = f"{signed}&timestamp={desk.now_ms}"
        sent = f"symbol=%EF%BC%91&timestamp={desk.now_ms}&signature={hmac_of(desk.first, text)}"
        status, _, raw = desk.rest.handle("GET", "/api/v3/openOrders", sent.encode(), b"", headers)
        assert (status, f'"code":{code}'.encode() in raw) == (400, True), raw


@pytest.mark.parametrize(
    ("verb", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("GET", "/ticker/nothing", 404),
        ("PATCH", "/order", 405),
        ("POST", "/ping", 405),
        ("POST", "/userDataStream", 410),
        ("GET", "/ping", 200),
    ],
)
def test_paths_and_verbs_that_are_not_there(verb: str, path: str, status: int) -> None:
    found, headers, _ = ExchangeDesk().http(verb, path)
    assert found == status
    assert status != 405 or headers["allow"] in ("DELETE, GET, POST", "GET")


@pytest.mark.parametrize(
    ("params", "headers", "status", "code"),
    [
        pytest.param({}, {}, 401, -2014, id="no key"),
        pytest.param({}, {"x-mbx-apikey": "x"}, 401, -2014, id="no name of a key"),
        pytest.param({}, {"x-mbx-apikey": "B" * 64}, 400, -1102, id="no timestamp"),
        pytest.param({"timestamp": 1}, {"x-mbx-apikey": "B" * 64}, 400, -1102, id="no signature"),
        pytest.param({"timestamp": 1, "signature": "x"}, {"x-mbx-apikey": "B" * 64}, 401, -2015, id="unknown key"),
    ],
)
def test_who_does_not_show_a_key_is_told_why(
    params: dict[str, Any], headers: dict[str, str], status: int, code: int
) -> None:
    found, _, document = ExchangeDesk().http("GET", "/account", params, headers=headers)
    assert (found, document["code"]) == (status, code)
    assert set(document) == {"code", "msg"}


def test_a_wrong_signature_is_refused() -> None:
    desk = ExchangeDesk()
    headers = {"x-mbx-apikey": desk.second.hmac_api_key}
    assert desk.http("GET", "/account", account=desk.first, headers=headers)[2]["code"] == -1022


def test_the_key_is_no_parameter_here() -> None:
    desk = ExchangeDesk()
    found = desk.http("GET", "/account", {"apiKey": "x"}, account=desk.first)[2]
    assert found["code"] == -1104


def test_times_come_in_microseconds_where_the_header_asks_for_them() -> None:
    desk = ExchangeDesk()
    for header, scale in ((None, 1), ("MILLISECOND", 1), ("MICROSECOND", 1000), ("microsecond", 1000)):
        headers = {} if header is None else {"x-mbx-time-unit": header}
        assert desk.http("GET", "/time", headers=headers)[2]["serverTime"] == desk.now_ms * scale
    assert desk.http("GET", "/time", headers={"x-mbx-time-unit": "HOUR"})[2]["code"] == -1194


def test_the_weight_that_was_used_stands_in_the_headers() -> None:
    desk = ExchangeDesk(rates=None)
    used = [desk.http("GET", path)[1]["x-mbx-used-weight-1m"] for path in ("/ping", "/exchangeInfo", "/time")]
    assert used == ["1", "21", "22"]


def test_arrays_are_json_in_a_parameter() -> None:
    rows = ExchangeDesk().http("GET", "/ticker/price", {"symbols": '["ETHUSDT","BTCUSDT"]'})[2]
    assert [row["symbol"] for row in rows] == ["ETHUSDT", "BTCUSDT"]


def test_a_parameter_sent_twice_is_refused() -> None:
    assert parameters(b"a=1&b=%2B+%20", b"c=3") == {"a": "1", "b": "+  ", "c": "3"}
    with pytest.raises(ApiError, match="Duplicate values"):
        parameters(b"a=1&a=1", b"")


def test_half_a_replacement_is_a_conflict_with_both_halves() -> None:
    desk = ExchangeDesk()
    sent = LIMIT_BUY | {"cancelReplaceMode": "ALLOW_FAILURE", "cancelOrderId": 99}
    status, headers, document = desk.http("POST", "/order/cancelReplace", sent, account=desk.first)
    assert (status, document["code"], document["data"]["newOrderResult"]) == (409, -2021, "SUCCESS")
    assert headers["x-mbx-order-count-10s"] == "1"


def test_rest_names_its_own_limits() -> None:
    desk = ExchangeDesk(rates=None)
    kinds = [row["rateLimitType"] for row in desk.http("GET", "/exchangeInfo")[2]["rateLimits"]]
    assert kinds == ["REQUEST_WEIGHT", "ORDERS", "ORDERS", "RAW_REQUESTS"]
    ws = desk.session().ask("exchangeInfo")["result"]["rateLimits"]
    assert [row["rateLimitType"] for row in ws] == ["REQUEST_WEIGHT", "ORDERS", "ORDERS", "CONNECTIONS"]


def test_the_life_of_an_order_over_rest() -> None:
    desk = ExchangeDesk()
    desk.trade_at("60000")
    mine = {"symbol": "BTCUSDT", "origClientOrderId": "mine"}
    placed = desk.http("POST", "/order", LIMIT_BUY | {"newClientOrderId": "mine"}, account=desk.first)[2]
    assert desk.http("GET", "/order", mine, account=desk.first)[2]["orderId"] == placed["orderId"]
    assert len(desk.http("GET", "/openOrders", account=desk.first)[2]) == 1
    smaller = {"symbol": "BTCUSDT", "orderId": placed["orderId"], "newQty": "0.005", "newClientOrderId": "mine"}
    amended = desk.http("PUT", "/order/amend/keepPriority", smaller, account=desk.first, body=True)[2]
    assert amended["amendedOrder"]["qty"] == "0.00500000"
    cancelled = desk.http("DELETE", "/order", mine, account=desk.first)[2]
    assert (cancelled["status"], cancelled["origClientOrderId"]) == ("CANCELED", "mine")
    again = desk.http("DELETE", "/order", mine, account=desk.first)
    assert (again[0], again[2]) == (400, {"code": -2011, "msg": "Unknown order sent."})
    rows = desk.http("GET", "/allOrders", {"symbol": "BTCUSDT"}, account=desk.first)[2]
    assert [row["status"] for row in rows] == ["FILLED", "CANCELED"]
    assert len(desk.http("GET", "/myTrades", {"symbol": "BTCUSDT"}, account=desk.first)[2]) == 1
    balances = {row["asset"]: row for row in desk.http("GET", "/account", account=desk.first)[2]["balances"]}
    assert balances["BTC"]["free"] == "99.99900000" and balances["USDT"]["locked"] == "0.00000000"


PATHS = sorted((verb, path) for path, methods in BY_PATH.items() for verb in methods)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(PATHS), st.binary(max_size=40), st.binary(max_size=40), st.text(max_size=64))
def test_whatever_is_sent_there_is_an_answer(where: tuple[str, str], query: bytes, body: bytes, api_key: str) -> None:
    verb, path = where
    status, _, raw = DESK.rest.handle(verb, path, query, body, {"x-mbx-apikey": api_key})
    assert status in (200, 400, 401) and raw.startswith((b"{", b"["))


DESK = ExchangeDesk()
