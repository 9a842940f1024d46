"""Faults of the local exchange: what a client sees, and what the exchange holds all the same."""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tbx.core.model.errors import SettingsError
from tbx.venues.simulator.binance.faults import FAULTS, NONSENSE, ORDER_ENTRY, REQUEST_FAULTS, Faults, parse
from tbx.venues.simulator.binance.methods_table import BY_NAME
from tbx.venues.simulator.binance.server import LocalExchange

from .exchange_fixtures import a_stream_client, an_api_client, an_exchange, fill_book, rest, signed_query
from .redis_fixtures import in_loop, until

SHORT_S = 0.15  # how long a test waits for what must not come


def open_orders(exchange: LocalExchange) -> int:
    return len(exchange.exchange.open_orders("first"))


async def place_over_rest(exchange: LocalExchange, http: httpx.AsyncClient) -> httpx.Response:
    account = exchange.accounts[0]
    order = {"symbol": "BTCUSDT", "side": "BUY", "type": "LIMIT", "timeInForce": "GTC"}
    query = signed_query(account, exchange.now_ms(), **order, price="50000", quantity="0.01")
    return await http.post(f"/api/v3/order?{query}", headers={"X-MBX-APIKEY": account.hmac_api_key})


# --- what can be asked for


def test_a_spec_names_faults_with_their_settings() -> None:
    first, second, third = parse("drop_after:p=0.25,n=3,on=order.cancel+order.place; skew:ms=-200 ;shutdown:s=2,ms=5;")
    assert (first.name, first.probability, first.count) == ("drop_after", 0.25, 3)
    assert first.on == {"order.cancel", "order.place"}
    assert (second.name, second.ms) == ("skew", -200)
    assert (third.name, third.seconds, third.ms) == ("shutdown", 2.0, 5)
    assert parse("mute_before")[0].on == ORDER_ENTRY and parse(" ; ") == []


@pytest.mark.parametrize(
    "spec",
    [
        "drop",
        "drop_after:p=2",
        "drop_after:p=x",
        "drop_after:n=0",
        "late_reports:ms=-5",
        "ban418:s=-1",
        "drop_after:color=red",
        "drop_after:on=",
        "drop_before:on=order.bogus",
        "drop_before:on=order.place+order.bogus",
        "late_taken:on=time",
        "late_reports:on=order.place",
        "shutdown:n=1",
        "skew:ms=99999999999999999",
        "late_reports:ms=86400001",
        "ban418:s=nan",
        "DROP_AFTER",
    ],
)
def test_a_spec_that_is_wrong_says_what_would_be_right(spec: str) -> None:
    with pytest.raises(SettingsError) as refused:
        parse(spec)
    assert spec.split(":")[0] in str(refused.value) and "probability" in str(refused.value)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("drop_before:on=ordr.place", "no method 'ordr.place' to strike: did you mean order.place"),
        ("drop_before:on=order.plaec", "did you mean order.place"),
        ("drop_before:on=zzzzzzzz", "there are account.commission"),
        ("late_taken:on=order.status", "no method 'order.status' to strike"),
        ("reorder_reports:ms=5", "reorder_reports reads p, n"),
    ],
)
def test_a_fault_that_could_never_strike_is_refused_and_says_what_could(spec: str, said: str) -> None:
    with pytest.raises(SettingsError) as refused:
        parse(spec)
    assert said in str(refused.value)


def test_each_method_may_be_named_also_with_its_version() -> None:
    assert all(parse(f"drop_before:on={name}")[0].on for name in BY_NAME)
    assert parse("drop_before:on=v3/order.place")[0].on == {"order.place"}


@in_loop
async def test_a_fault_strikes_a_method_also_when_the_client_names_its_version() -> None:
    async with an_exchange(faults="unknown1007_before:on=order.place") as exchange, an_api_client(exchange) as client:
        reply = await client.ask("v3/order.place", **client.an_order())
        assert reply["error"]["code"] == -1007 and not open_orders(exchange)


def test_every_method_that_faults_strike_by_default_exists() -> None:
    assert set(BY_NAME) >= ORDER_ENTRY
    assert set(FAULTS) > set(REQUEST_FAULTS)


def test_the_same_seed_strikes_the_same_requests() -> None:
    def struck(seed: int) -> list[bool]:
        faults = Faults(random.Random(seed), lambda: 0)
        faults.set("mute_after:p=0.5")
        return [faults.verdict("order.place") is not None for _ in range(50)]

    assert struck(1) == struck(1) != struck(2)
    assert 10 < sum(struck(1)) < 40


def test_a_fault_strikes_as_often_and_where_it_was_asked_to() -> None:
    faults = Faults(random.Random(1), lambda: 0)
    faults.set("drop_before:n=2,on=order.cancel")
    assert faults.verdict("order.place") is None
    assert [faults.verdict("order.cancel") is not None for _ in range(3)] == [True, True, False]
    faults.set("drop_before:on=any")
    assert faults.verdict("time") is not None
    faults.clear()
    assert faults.verdict("time") is None and not faults.requests_armed


# --- requests


@pytest.mark.parametrize("taken", [False, True])
def test_a_dropped_connection_leaves_the_order_taken_or_not(taken: bool) -> None:
    @in_loop
    async def attempt() -> None:
        async with an_exchange(faults=f"drop_{'after' if taken else 'before'}:n=1") as exchange:
            async with an_api_client(exchange, 0) as witness:
                async with an_api_client(exchange) as client:
                    with pytest.raises(ConnectionClosed):
                        await client.order()
                assert open_orders(exchange) == taken
                if taken:
                    assert (await witness.event("executionReport"))["x"] == "NEW"
                assert (await witness.order())["status"] == 200  # it was the only one

            async with rest(exchange) as http:
                exchange.switch(f"drop_{'after' if taken else 'before'}:n=1")
                with pytest.raises(httpx.RemoteProtocolError):
                    await place_over_rest(exchange, http)
                assert open_orders(exchange) == 1 + 2 * taken

    attempt()


@pytest.mark.parametrize("taken", [False, True])
def test_a_reply_that_never_comes_leaves_the_order_taken_or_not(taken: bool) -> None:
    @in_loop
    async def attempt() -> None:
        spec = f"mute_{'after' if taken else 'before'}:n=1"
        async with an_exchange(faults=spec) as exchange, an_api_client(exchange) as client:
            muted = await client.send("order.place", **client.an_order())
            assert (await client.ask("ping"))["status"] == 200  # the connection goes on
            assert not [frame for frame in client.frames if frame.get("id") == muted]
            assert open_orders(exchange) == taken
            if taken:
                assert (await client.event("executionReport"))["x"] == "NEW"

            exchange.switch(spec)
            async with rest(exchange) as http:
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(place_over_rest(exchange, http), SHORT_S)
            assert open_orders(exchange) == 2 * taken

    attempt()


@pytest.mark.parametrize("taken", [False, True])
@pytest.mark.parametrize("kind", ["http5xx", "unknown1006", "unknown1007"])
def test_an_answer_that_says_nothing_leaves_the_order_taken_or_not(kind: str, taken: bool) -> None:
    @in_loop
    async def attempt() -> None:
        spec = f"{kind}_{'after' if taken else 'before'}:n=1"
        async with an_exchange(faults=spec) as exchange, an_api_client(exchange) as client:
            reply = await client.order()
            assert 500 <= reply["status"] <= 504
            expected = {"http5xx": -1000, "unknown1006": -1006, "unknown1007": -1007}[kind]
            assert reply["error"]["code"] == expected and "result" not in reply
            assert open_orders(exchange) == taken

            exchange.switch(spec)
            async with rest(exchange) as http:
                answer = await place_over_rest(exchange, http)
                assert 500 <= answer.status_code <= 504
                if kind == "http5xx":
                    assert answer.headers["content-type"] == "text/html" and answer.text.startswith("<html>")
                else:
                    assert answer.json()["code"] == expected
                assert (await place_over_rest(exchange, http)).status_code == 200
            assert open_orders(exchange) == 1 + 2 * taken

    attempt()


@in_loop
async def test_requests_that_are_no_order_entry_go_through_unless_named() -> None:
    async with an_exchange(faults="unknown1007_before") as exchange, an_api_client(exchange) as client:
        assert (await client.ask("time"))["status"] == 200
        assert (await client.order())["error"]["code"] == -1007
        exchange.faults.clear()
        exchange.switch("unknown1007_before:on=time")
        assert (await client.ask("time"))["error"]["code"] == -1007
        assert (await client.order())["status"] == 200
        async with rest(exchange) as http:
            assert (await http.get("/api/v3/time")).json()["code"] == -1007
            assert (await http.get("/api/v3/ping")).status_code == 200


@in_loop
async def test_a_frame_that_is_no_request_is_nothing_for_a_fault() -> None:
    async with an_exchange(faults="mute_before:on=any") as exchange, connect(exchange.url_ws_api) as socket:
        await socket.send("no request")
        assert json.loads(await socket.recv())["status"] == 400


# --- orders that are taken later than their answer


@in_loop
async def test_an_order_taken_late_does_not_exist_until_it_is_there() -> None:
    async with an_exchange(faults="late_taken:ms=120,n=1") as exchange, an_api_client(exchange) as client:
        sent_ms = exchange.now_ms()
        reply = await client.order(newClientOrderId="late")
        assert (reply["status"], reply["error"]["code"]) == (504, -1007)
        question = {"symbol": "BTCUSDT", "origClientOrderId": "late"}
        asked = await client.ask("order.status", **question, timestamp=exchange.now_ms())
        assert asked["error"]["code"] == -2013 and not open_orders(exchange)
        assert (await client.order())["status"] == 200  # it was the only one
        report = await client.event("executionReport", c="late")
        assert report["x"] == "NEW" and report["T"] >= sent_ms + 119
        asked = await client.ask("order.status", **question, timestamp=exchange.now_ms())
        assert asked["result"]["status"] == "NEW" and open_orders(exchange) == 2


@in_loop
async def test_an_order_taken_late_over_rest_outlives_its_connection_and_its_window() -> None:
    async with an_exchange(faults="late_taken:ms=90") as exchange:
        async with rest(exchange) as http:
            account = exchange.accounts[0]
            order = {"symbol": "BTCUSDT", "side": "BUY", "type": "LIMIT", "timeInForce": "GTC", "recvWindow": 60}
            query = signed_query(account, exchange.now_ms(), **order, price="50000", quantity="0.01")
            answer = await http.post(f"/api/v3/order?{query}", headers={"X-MBX-APIKEY": account.hmac_api_key})
            assert (answer.status_code, answer.json()["code"]) == (504, -1007) and not open_orders(exchange)
        await until(lambda: open_orders(exchange) == 1, "the order")


@in_loop
async def test_an_order_taken_late_outlives_its_websocket_and_other_requests_are_not_delayed() -> None:
    async with an_exchange(faults="late_taken:ms=60") as exchange:
        async with an_api_client(exchange) as client:
            assert (await client.order())["error"]["code"] == -1007
            assert (await client.ask("order.test", **client.an_order()))["status"] == 200
            cancel = await client.ask("openOrders.cancelAll", symbol="BTCUSDT", timestamp=exchange.now_ms())
            assert cancel["error"]["code"] == -2011
        await until(lambda: open_orders(exchange) == 1, "the order")


@in_loop
async def test_an_order_taken_late_that_the_exchange_would_refuse_is_refused_in_silence() -> None:
    async with an_exchange(faults="late_taken:ms=10,on=any") as exchange, an_api_client(exchange) as client:
        assert (await client.order(quantity="0.0000001"))["error"]["code"] == -1007
        assert (await client.order(price="50001"))["error"]["code"] == -1007
        await until(lambda: open_orders(exchange) == 1, "the order that is right")
        assert (await client.ask("ping"))["status"] == 200


@in_loop
async def test_json_nested_beyond_all_reason_is_nothing_for_a_fault() -> None:
    async with an_exchange(faults="mute_before:on=any") as exchange, connect(exchange.url_ws_api) as socket:
        for frame in ("[" * 20_000, '{"method":"ping","id":' + "[" * 20_000, '{"method":"ping","x":' + "[" * 20_000):
            await socket.send(frame)
            reply = json.loads(await socket.recv())
            assert (reply["status"], reply["error"]["code"]) == (400, -1135)


# --- limits, bans, clock


@in_loop
async def test_too_many_requests_are_answered_with_429_until_their_time() -> None:
    async with an_exchange() as exchange, an_api_client(exchange) as client, rest(exchange) as http:
        exchange.switch("limit429:s=0.3")
        reply = await client.ask("time")
        assert (reply["status"], reply["error"]["code"]) == (429, -1003)
        assert exchange.now_ms() < reply["error"]["data"]["retryAfter"] <= exchange.now_ms() + 300
        answer = await http.get("/api/v3/time")
        assert (answer.status_code, answer.headers["Retry-After"]) == (429, "1")
        await until(lambda: exchange.now_ms() > reply["error"]["data"]["retryAfter"], "the end of the limit")
        assert (await client.ask("time"))["status"] == 200


@in_loop
async def test_a_ban_refuses_requests_and_new_connections_with_418() -> None:
    async with an_exchange() as exchange, an_api_client(exchange) as client, rest(exchange) as http:
        exchange.switch("ban418:s=60")
        reply = await client.order()
        assert reply["status"] == 418 and "banned until" in reply["error"]["msg"]
        answer = await http.get("/api/v3/time")
        assert answer.status_code == 418 and 58 <= int(answer.headers["Retry-After"]) <= 60
        with pytest.raises(InvalidStatus) as refused:
            await connect(exchange.url_ws_api).__aenter__()
        assert refused.value.response.status_code == 418
        exchange.faults.clear("ban418")
        assert (await client.order())["status"] == 200


@in_loop
async def test_a_clock_that_is_ahead_refuses_honest_timestamps() -> None:
    async with an_exchange(faults="skew:ms=10000") as exchange, rest(exchange) as http:
        clock_ms = exchange.clock.now_ns() // 1_000_000
        assert abs((await http.get("/api/v3/time")).json()["serverTime"] - clock_ms - 10_000) < 1_000
        async with an_api_client(exchange) as client:
            stale = await client.ask("account.status", timestamp=exchange.clock.now_ns() // 1_000_000)
            assert stale["error"]["code"] == -1021
            assert (await client.ask("account.status", timestamp=exchange.now_ms()))["status"] == 200


# --- events


@in_loop
async def test_late_reports_come_after_later_replies() -> None:
    async with an_exchange(faults="late_reports:ms=60") as exchange, an_api_client(exchange) as client:
        number = await client.send("order.place", **client.an_order())
        later = await client.ask("ping")
        await client.event("executionReport", x="NEW")
        order = [frame.get("id") for frame in client.frames[-4:]]
        assert order.index(number) < order.index(later["id"]) < order.index(None)


@in_loop
async def test_reports_may_come_before_the_reply_and_in_another_order() -> None:
    async with an_exchange(faults="reorder_reports") as exchange, an_api_client(exchange) as client:
        fill_book(exchange)
        number = await client.send("order.place", **client.an_order(price="60010.00", quantity="1"))
        await client.reply(number)
        seen = [frame["event"].get("x") for frame in client.frames if "event" in frame]
        assert seen[:2] == ["TRADE", "NEW"] and client.frames[-1]["id"] == number


@in_loop
async def test_nonsense_comes_before_frames_and_the_frames_come_all_the_same() -> None:
    async with an_exchange() as exchange:
        fill_book(exchange)
        async with connect(exchange.url_ws_api) as socket, a_stream_client(exchange, "/ws/btcusdt@trade") as stream:
            exchange.switch("nonsense")
            await socket.send('{"id":5,"method":"ping"}')
            assert str(await socket.recv()).encode() in NONSENSE
            assert json.loads(await socket.recv())["id"] == 5
            exchange.deal("BTCUSDT", "BUY", 60_010, "0.1")
            assert str(await stream.socket.recv()).encode() in NONSENSE
            assert json.loads(await stream.socket.recv())["e"] == "trade"


@in_loop
async def test_a_shutdown_is_announced_on_every_kind_of_connection_and_then_happens() -> None:
    async with an_exchange() as exchange:
        async with (
            connect(exchange.url_ws_api) as api,
            connect(f"{exchange.url_stream}/ws") as raw,
            connect(f"{exchange.url_stream}/stream") as combined,
        ):
            exchange.switch("shutdown:ms=30")
            told = [json.loads(await socket.recv()) for socket in (api, raw, combined)]
            for event in (told[0]["event"], told[1], told[2]["data"]):
                assert event["e"] == "serverShutdown" and isinstance(event["E"], int)
            assert told[2]["stream"] == "!serverShutdown"
            for socket in (api, raw, combined):
                with pytest.raises(ConnectionClosed):
                    await socket.recv()
            async with connect(exchange.url_ws_api) as anew:
                await anew.send('{"id":1,"method":"ping"}')
                assert json.loads(await anew.recv())["status"] == 200


# --- all of it at once


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_whatever_goes_wrong_each_order_that_the_exchange_took_is_there_once(seed: int) -> None:
    """A client that resends nothing: the exchange holds exactly the orders of requests that were carried out."""
    spec = "; ".join(f"{name}:p=0.1" for name in REQUEST_FAULTS if not name.startswith("drop"))

    @in_loop
    async def attempt() -> None:
        async with an_exchange(seed=seed) as exchange, an_api_client(exchange) as client:
            exchange.switch(spec)
            for number in range(60):
                await client.send("order.place", **client.an_order(newClientOrderId=f"n{number}"))
            await client.ask("ping")
            fired: dict[str, Any] = {fault.name: fault.fired for fault in exchange.faults}
            lost = sum(count for name, count in fired.items() if name.endswith("_before"))
            assert lost and open_orders(exchange) == 60 - lost

    attempt()
