"""How much the local exchange lets an address and an account ask for, and what follows when they go on."""

from __future__ import annotations

import pytest

from tbx.venues.simulator.binance.errors import RateLimited
from tbx.venues.simulator.binance.limits import VIOLATIONS_BEFORE_BAN, Limits, Rates

from .exchange_desk import LIMIT_BUY, ExchangeDesk

SECOND_NS = 1_000_000_000
OTHER = "10.0.0.2"


def used(desk: ExchangeDesk, ip: str = "127.0.0.1") -> int:
    return desk.limits.address(ip).weight.at(desk.now_ms)


@pytest.mark.parametrize(
    ("method", "sent", "weight"),
    [
        ("ping", {}, 1),
        ("exchangeInfo", {}, 20),
        ("depth", {"symbol": "BTCUSDT"}, 5),
        ("depth", {"symbol": "BTCUSDT", "limit": 100}, 5),
        ("depth", {"symbol": "BTCUSDT", "limit": 500}, 25),
        ("depth", {"symbol": "BTCUSDT", "limit": 1000}, 50),
        ("depth", {"symbol": "BTCUSDT", "limit": 5000}, 250),
        ("ticker.24hr", {"symbol": "BTCUSDT"}, 2),
        ("ticker.24hr", {}, 80),
        ("ticker.price", {}, 4),
        ("ticker.book", {"symbol": "BTCUSDT"}, 2),
        ("account.status", {}, 20),
        ("account.rateLimits.orders", {}, 40),
        ("openOrders.status", {"symbol": "BTCUSDT"}, 6),
        ("openOrders.status", {}, 80),
        ("myTrades", {"symbol": "BTCUSDT"}, 20),
        ("myTrades", {"symbol": "BTCUSDT", "orderId": 1}, 5),
        ("order.test", LIMIT_BUY, 1),
        ("order.test", LIMIT_BUY | {"computeCommissionRates": True}, 20),
        ("order.place", LIMIT_BUY, 0),
        ("order.place", LIMIT_BUY | {"side": "UP"}, 1),
        ("order.cancel", {"symbol": "BTCUSDT", "orderId": 99}, 1),
        ("order.amend.keepPriority", {"symbol": "BTCUSDT", "orderId": 99, "newQty": "1"}, 4),
        ("no.such.method", {}, 1),
    ],
)
def test_a_request_costs_its_weight_and_a_successful_order_nothing(
    method: str, sent: dict[str, object], weight: int
) -> None:
    desk = ExchangeDesk()
    client = desk.session(account=desk.first)
    before = used(desk)
    public = method in ("ping", "exchangeInfo", "depth") or method.startswith("ticker")
    (client.ask if public else client.call)(method, sent)
    assert used(desk) - before == weight


def test_a_connection_costs_two() -> None:
    desk = ExchangeDesk()
    desk.session()
    assert used(desk) == 2


def test_too_much_weight_is_refused_until_the_minute_is_over() -> None:
    desk = ExchangeDesk(Rates(weight=43))
    client = desk.session()
    to_the_minute_ms = 60_000 - desk.now_ms % 60_000
    assert client.ask("exchangeInfo")["status"] == client.ask("exchangeInfo")["status"] == 200
    reply = client.ask("exchangeInfo")
    assert (reply["status"], reply["error"]["code"]) == (429, -1003)
    assert reply["error"]["msg"].startswith("Too much request weight used; current limit is 43 request weight per 1")
    assert reply["error"]["data"] == {"serverTime": desk.now_ms, "retryAfter": desk.now_ms + to_the_minute_ms}
    status, headers, document = desk.http("GET", "/exchangeInfo")
    assert (status, document["code"], set(document)) == (429, -1003, {"code", "msg"})
    assert int(headers["retry-after"]) == -(-to_the_minute_ms // 1000)
    assert desk.session(ip=OTHER).ask("exchangeInfo")["status"] == 200, "each address for itself"
    assert client.ask("ping")["status"] == 200, "what just fits is carried out"
    desk.clock.advance(to_the_minute_ms * 1_000_000)
    assert client.ask("exchangeInfo")["status"] == 200


def test_who_goes_on_is_banned_and_longer_each_time() -> None:
    desk = ExchangeDesk(Rates(weight=3))
    client = desk.session()
    for ban_minutes in (2, 4):
        desk.clock.advance((60_000 - desk.now_ms % 60_000) * 1_000_000)
        statuses = [client.ask("exchangeInfo")["status"] for _ in range(VIOLATIONS_BEFORE_BAN + 1)]
        assert statuses == [429] * VIOLATIONS_BEFORE_BAN + [418]
        reply = client.ask("ping")
        until_ms = desk.now_ms + ban_minutes * 60_000
        assert (reply["status"], reply["error"]["code"]) == (418, -1003)
        assert f"IP banned until {until_ms}" in reply["error"]["msg"]
        assert reply["error"]["data"]["retryAfter"] == until_ms
        assert desk.http("GET", "/ping")[0] == 418
        desk.clock.advance(ban_minutes * 60 * SECOND_NS)
        assert client.ask("ping")["status"] == 200


def test_a_ban_can_be_put_and_lifted() -> None:
    desk = ExchangeDesk()
    client = desk.session()
    desk.limits.ban("127.0.0.1", desk.now_ms + 5_000)
    assert client.ask("ping")["status"] == 418
    desk.limits.lift("127.0.0.1")
    assert client.ask("ping")["status"] == 200


def test_orders_are_counted_for_the_account_and_its_ten_seconds() -> None:
    desk = ExchangeDesk(Rates(orders_10s=3))
    client = desk.session(account=desk.first)
    assert [client.call("order.place", LIMIT_BUY)["status"] for _ in range(3)] == [200] * 3
    reply = client.call("order.place", LIMIT_BUY)
    assert (reply["status"], reply["error"]["code"]) == (429, -1015)
    assert reply["error"]["msg"] == "Too many new orders; current limit is 3 orders per 10 SECOND."
    status, headers, _ = desk.http("POST", "/order", LIMIT_BUY, account=desk.first)
    assert (status, headers["retry-after"]) == (429, "10")
    assert desk.session(account=desk.second).call("order.place", LIMIT_BUY)["status"] == 200
    counts = client.call("account.rateLimits.orders")["result"]
    assert [(row["interval"], row["count"]) for row in counts] == [("SECOND", 3), ("DAY", 3)]
    desk.clock.advance(10 * SECOND_NS)
    assert client.call("order.place", LIMIT_BUY)["status"] == 200


def test_what_a_filter_refuses_does_not_count_what_the_engine_refuses_does() -> None:
    desk = ExchangeDesk()
    client = desk.session(account=desk.first)
    client.call("order.place", LIMIT_BUY | {"quantity": "0.00001"})
    client.call("order.place", LIMIT_BUY | {"price": "x"})
    assert client.call("account.rateLimits.orders")["result"][0]["count"] == 0
    client.call("order.place", LIMIT_BUY | {"side": "SELL", "quantity": "140"})
    assert client.call("account.rateLimits.orders")["result"][0]["count"] == 1


@pytest.mark.parametrize(
    ("mode", "exists", "status", "code", "left"),
    [
        pytest.param(None, True, 429, -1015, 1, id="nothing is done"),
        pytest.param("CANCEL_ONLY", True, 409, -2021, 0, id="the cancel is done"),
        pytest.param("CANCEL_ONLY", False, 400, -2022, 1, id="not even the cancel"),
    ],
)
def test_a_replacement_beyond_the_limit(mode: str | None, exists: bool, status: int, code: int, left: int) -> None:
    desk = ExchangeDesk(Rates(orders_10s=1))
    client = desk.session(account=desk.first)
    client.call("order.place", LIMIT_BUY | {"newClientOrderId": "old"})
    sent = LIMIT_BUY | {"cancelReplaceMode": "STOP_ON_FAILURE"}
    sent["cancelOrigClientOrderId"] = "old" if exists else "older"
    if mode is not None:
        sent["orderRateLimitExceededMode"] = mode
    reply = client.call("order.cancelReplace", sent)
    assert (reply["status"], reply["error"]["code"]) == (status, code)
    if code == -2021:
        assert reply["error"]["data"]["newOrderResponse"]["code"] == -1015
    assert len(desk.exchange.open_orders("first")) == left


def test_three_hundred_connections_in_five_minutes_and_no_more() -> None:
    limits = Limits()
    start_ms = 300_000 * 7
    for _ in range(300):
        limits.connect("a", start_ms)
    with pytest.raises(RateLimited) as raised:
        limits.connect("a", start_ms + 299_999)
    assert raised.value.status == 429
    limits.connect("b", start_ms)
    limits.connect("a", start_ms + 300_000)


def test_raw_requests_have_a_limit_of_their_own() -> None:
    desk = ExchangeDesk(Rates(raw_requests=3))
    client = desk.session()
    assert [client.ask("ping")["status"] for _ in range(4)] == [200, 200, 200, 429]
