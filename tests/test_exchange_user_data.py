"""User data events of the local exchange: their fields, their order, and who gets them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tbx.venues.simulator.binance.server import LocalExchange
from tbx.venues.simulator.binance.user_data import execution_report
from tbx.venues.simulator.exchange.records import Execution, Order

from .exchange_fixtures import ApiClient, an_api_client, an_exchange, fill_book, rest, signed_query
from .redis_fixtures import in_loop

CONDITIONAL = {"d", "D", "j", "J", "v", "A", "B", "u", "U", "Cs", "pl", "pL", "pY", "W", "eR"}


def documented(fixtures: Path) -> dict[str, dict[str, Any]]:
    """Event name -> example of the official documentation."""
    text = (fixtures / "binance" / "docs_examples" / "user-data-stream.jsonl").read_text()
    events = [json.loads(line)["payload"]["event"] for line in text.splitlines()]
    return {event["e"]: event for event in events}


def same_fields(event: dict[str, Any], example: dict[str, Any]) -> None:
    """Every field that is not conditional, with the type of the documentation."""
    assert set(event) - CONDITIONAL == set(example) - CONDITIONAL
    for name, value in event.items():
        if name in example and example[name] is not None and value is not None:
            assert type(value) is type(example[name]), name


def test_events_have_the_fields_and_types_of_the_documentation(fixtures: Path) -> None:
    examples = documented(fixtures)

    @in_loop
    async def attempt() -> None:
        async with an_exchange() as exchange, an_api_client(exchange) as client:
            fill_book(exchange)
            await client.order()
            same_fields(await client.event("executionReport", x="NEW"), examples["executionReport"])
            same_fields(await client.event("outboundAccountPosition"), examples["outboundAccountPosition"])
            exchange.deposit("first", "ETH", "1.5")
            same_fields(await client.event("balanceUpdate"), examples["balanceUpdate"])
            await an_oco(client, exchange)
            event = await client.event("listStatus")
            same_fields(event, examples["listStatus"])
            assert all(set(order) == {"s", "i", "c"} for order in event["O"])
            await client.ask("userDataStream.unsubscribe")
            same_fields(await client.event("eventStreamTerminated"), examples["eventStreamTerminated"])

    attempt()


async def an_oco(client: ApiClient, exchange: LocalExchange) -> dict[str, Any]:
    reply = await client.ask(
        "orderList.place.oco",
        symbol="BTCUSDT",
        side="SELL",
        quantity="0.5",
        aboveType="LIMIT_MAKER",
        abovePrice="61000.00",
        belowType="STOP_LOSS",
        belowStopPrice="59000.00",
        timestamp=exchange.now_ms(),
    )
    assert reply["status"] == 200, reply
    result: dict[str, Any] = reply["result"]
    return result


@in_loop
async def test_the_reply_comes_first_then_the_reports_then_the_balances() -> None:
    async with an_exchange() as exchange, an_api_client(exchange) as client:
        fill_book(exchange)
        number = await client.send("order.place", **client.an_order(price="60020.00", quantity="1.5"))
        before = len(client.frames)
        await client.event("outboundAccountPosition")
        kinds = [
            "reply" if frame.get("id") == number else f"{frame['event']['e']} {frame['event'].get('x', '')}".strip()
            for frame in client.frames[before:]
        ]
        trades = ["executionReport TRADE", "executionReport TRADE"]
        assert kinds == ["reply", "executionReport NEW", *trades, "outboundAccountPosition"]


@in_loop
async def test_a_fill_is_reported_with_its_price_fee_and_sums() -> None:
    async with an_exchange() as exchange, an_api_client(exchange) as client:
        fill_book(exchange)
        await client.order(price="60020.00", quantity="1.5", newClientOrderId="mine-1")
        first = await client.event("executionReport", x="TRADE", X="PARTIALLY_FILLED")
        assert (first["l"], first["L"], first["Y"]) == ("1.00000000", "60010.00000000", "60010.00000000")
        assert (first["n"], first["N"], first["m"], first["w"]) == ("0.00100000", "BTC", False, True)
        last = await client.event("executionReport", x="TRADE", X="FILLED")
        assert (last["l"], last["z"], last["Z"]) == ("0.50000000", "1.50000000", "90020.00000000")
        assert last["t"] == first["t"] + 1 and last["I"] > first["I"] and last["w"] is False
        assert {first["c"], last["c"]} == {"mine-1"} and first["C"] == ""


@in_loop
async def test_a_resting_order_that_others_fill_is_reported_as_maker() -> None:
    async with an_exchange() as exchange, an_api_client(exchange) as client:
        fill_book(exchange)
        await client.order(price="60000.00", quantity="0.2")
        exchange.deal("BTCUSDT", "SELL", 60_000, "0.05")
        fill = await client.event("executionReport", x="TRADE")
        assert (fill["m"], fill["l"], fill["X"], fill["W"]) == (True, "0.05000000", "PARTIALLY_FILLED", fill["O"])


@in_loop
async def test_a_cancel_has_its_own_id_and_names_the_order_s() -> None:
    async with an_exchange() as exchange, an_api_client(exchange) as client:
        await client.order(newClientOrderId="the-order")
        words = {"symbol": "BTCUSDT", "origClientOrderId": "the-order", "newClientOrderId": "the-cancel"}
        await client.ask("order.cancel", **words, timestamp=exchange.now_ms())
        report = await client.event("executionReport", x="CANCELED")
        assert (report["c"], report["C"], report["X"], report["w"]) == ("the-cancel", "the-order", "CANCELED", False)
        released = (await client.receive())["event"]
        assert released["e"] == "outboundAccountPosition"
        assert {row["a"]: row["l"] for row in released["B"]}["USDT"] == "0.00000000"


@in_loop
async def test_an_amendment_is_a_replacement_with_the_id_before() -> None:
    async with an_exchange() as exchange, an_api_client(exchange) as client:
        placed = await client.order(newClientOrderId="old", quantity="0.05")
        reply = await client.ask(
            "order.amend.keepPriority",
            symbol="BTCUSDT",
            orderId=placed["result"]["orderId"],
            newQty="0.03",
            newClientOrderId="new",
            timestamp=exchange.now_ms(),
        )
        assert reply["status"] == 200, reply
        report = await client.event("executionReport", x="REPLACED")
        assert (report["c"], report["C"], report["q"], report["X"]) == ("new", "old", "0.03000000", "NEW")


@pytest.mark.parametrize(
    ("order", "reason"),
    [
        pytest.param({"timeInForce": "IOC"}, "UNFILLED_IOC_QUANTITY_EXPIRED", id="IOC"),
        pytest.param({"timeInForce": "FOK", "quantity": "5"}, "UNFILLED_FOK_ORDER_EXPIRED", id="FOK"),
        pytest.param(
            {"type": "MARKET", "timeInForce": None, "price": None, "quantity": "9"},
            "INSUFFICIENT_LIQUIDITY",
            id="MARKET",
        ),
    ],
)
def test_an_order_that_expires_says_why(order: dict[str, Any], reason: str) -> None:
    @in_loop
    async def attempt() -> None:
        async with an_exchange() as exchange, an_api_client(exchange) as client:
            fill_book(exchange)
            await client.order(**order)
            report = await client.event("executionReport", x="EXPIRED")
            assert (report["X"], report["eR"]) == ("EXPIRED", reason)

    attempt()


@in_loop
async def test_one_leg_of_a_pair_that_trades_expires_the_other() -> None:
    async with an_exchange() as exchange, an_api_client(exchange) as client:
        fill_book(exchange)
        await an_oco(client, exchange)
        started = await client.event("listStatus", l="EXEC_STARTED")
        exchange.deal("BTCUSDT", "BUY", 61_000, "5")
        expired = await client.event("executionReport", x="EXPIRED")
        assert (expired["eR"], expired["g"], expired["o"]) == ("OCO_TRIGGER", started["g"], "STOP_LOSS")
        done = await client.event("listStatus", l="ALL_DONE")
        assert (done["g"], done["L"], done["C"]) == (started["g"], "ALL_DONE", started["C"])


@in_loop
async def test_what_self_trade_prevention_did_is_in_the_report() -> None:
    async with an_exchange() as exchange, an_api_client(exchange) as client:
        resting = await client.order(side="SELL", price="60000.00", quantity="0.3")
        await client.order(price="60000.00", quantity="0.1", selfTradePreventionMode="EXPIRE_TAKER")
        report = await client.event("executionReport", x="TRADE_PREVENTION")
        assert (report["X"], report["A"], report["B"]) == ("EXPIRED_IN_MATCH", "0.10000000", "0.10000000")
        assert (report["U"], report["Cs"]) == (resting["result"]["orderId"], "BTCUSDT")
        assert (report["pL"], report["pl"], report["pY"]) == ("60000.00000000", "0.10000000", "6000.00000000")
        assert report["v"] >= 0 and "eR" not in report


def test_conditional_fields_are_there_when_their_condition_holds_and_only_then() -> None:
    order = Order(1, "c", "first", "BTCUSDT", "SELL", "STOP_LOSS", "GTC", 100_000_000, created_ms=5)
    plain = json.loads(
        execution_report(Execution(account="first", kind="NEW", order=order, execution_id=1, time_ms=5), 6, 1)
    )
    assert not CONDITIONAL & plain.keys() and plain["w"] is False
    order.trailing_delta, order.trailing_time, order.strategy_id, order.strategy_type = 100, 7, 3, 1_000_001
    order.working_ms, order.is_working = 8, True
    event = Execution(account="first", kind="NEW", order=order, execution_id=1, time_ms=5)
    full = json.loads(execution_report(event, 6, 1000))
    assert {name: full[name] for name in ("d", "D", "j", "J", "W")} == {
        "d": 100,
        "D": 7000,
        "j": 3,
        "J": 1_000_001,
        "W": 8000,
    }
    assert (full["E"], full["T"], full["O"], full["w"]) == (6000, 5000, 5000, True)


@in_loop
async def test_each_subscriber_gets_the_events_of_its_own_account() -> None:
    async with (
        an_exchange() as exchange,
        an_api_client(exchange, 0) as one,
        an_api_client(exchange, 0) as another,
        an_api_client(exchange, 1) as stranger,
        an_api_client(exchange, 0, subscribe=False) as deaf,
    ):
        await one.order()
        assert (await one.event("executionReport"))["i"] == (await another.event("executionReport"))["i"]
        for client in (stranger, deaf):
            await client.ask("ping")
            assert client.events == []


@in_loop
async def test_times_are_in_microseconds_for_a_connection_that_asks() -> None:
    async with an_exchange() as exchange:
        async with an_api_client(exchange, query="?timeUnit=MICROSECOND") as fine, an_api_client(exchange) as coarse:
            await coarse.order()
            precise, plain = await fine.event("executionReport"), await coarse.event("executionReport")
            assert precise["T"] == plain["T"] * 1000 and precise["O"] == plain["O"] * 1000


@in_loop
async def test_subscriptions_end_with_a_notice_by_unsubscribe_and_logout() -> None:
    async with an_exchange() as exchange, an_api_client(exchange) as client:
        assert await client.subscribe() == 0  # the one there is
        assert (await client.ask("userDataStream.unsubscribe", subscriptionId=0))["status"] == 200
        await client.event("eventStreamTerminated")
        assert client.frames[-1]["subscriptionId"] == 0
        assert await client.subscribe() == 1
        await client.ask("session.logout")
        while client.frames[-1].get("subscriptionId") != 1:
            await client.receive()
        assert client.events[-1]["e"] == "eventStreamTerminated"
        exchange.deposit("first", "BTC", 1)
        await client.ask("ping")
        assert client.events[-1]["e"] == "eventStreamTerminated"


@in_loop
async def test_a_connection_that_ends_takes_its_subscriptions_along() -> None:
    async with an_exchange() as exchange:
        async with an_api_client(exchange):
            pass
        sent = exchange.user_data.sent
        exchange.deposit("first", "BTC", 1)
        assert exchange.user_data.sent == sent


@in_loop
async def test_a_request_over_rest_is_reported_over_the_websocket() -> None:
    async with an_exchange() as exchange, an_api_client(exchange) as client, rest(exchange) as http:
        account = exchange.accounts[0]
        query = signed_query(
            account,
            exchange.now_ms(),
            symbol="BTCUSDT",
            side="BUY",
            type="LIMIT",
            timeInForce="GTC",
            price="50000",
            quantity="0.01",
        )
        answer = await http.post(f"/api/v3/order?{query}", headers={"X-MBX-APIKEY": account.hmac_api_key})
        assert answer.status_code == 200, answer.text
        assert (await client.event("executionReport"))["i"] == answer.json()["orderId"]
