"""`tbx serve` trades live on `tbx exchange` through its REST API while the official SDK trades beside it: real
processes, real sockets, kill -9 and broken connections. In the end the exchange's orders, trades and balances are the
API's: none lost, none doubled."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .exchange_process import ExchangeProcess
from .live_processes import Live, an_exchange, live, new_order, wait_for

pytestmark = [pytest.mark.orders, pytest.mark.exchanges, pytest.mark.connectivity]


@pytest.fixture(scope="module")
def exchange() -> Iterator[ExchangeProcess]:
    with an_exchange() as process:
        yield process


@pytest.fixture(scope="module")
def both(exchange: ExchangeProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with live(exchange, tmp_path_factory.mktemp("live")) as process:
        yield process


def test_orders_through_the_api_are_the_exchanges(both: Live) -> None:
    market = both.placed("buy", "0.5")
    both.service.order_when(market, "filled")
    resting = both.placed("buy", "0.3", price=59_900)
    both.service.order_when(resting, "open")
    answer = both.http.patch(f"/api/orders/{resting}", json={"quantity": 0.2})
    assert (answer.status_code, answer.json()["quantity"]) == (200, 0.2), answer.text
    answer = both.http.patch(f"/api/orders/{resting}", json={"price": 59_910, "quantity": 0.4})
    assert answer.status_code == 200, answer.text
    both.service.order_when(resting, "open")
    bracket = both.placed("buy", "1", stopLoss=59_000, takeProfit=61_000)
    assert both.service.order_when(bracket, "filled")["protectedQuantity"] == 0.999
    cancelled = both.placed("sell", "1", pair="ETH_USDT", price=3_100)
    both.service.order_when(cancelled, "open")
    assert both.http.delete(f"/api/orders/{cancelled}").json()["status"] == "cancelled"
    refused = both.placed("buy", "0.1", price=60_060, postOnly=True)
    assert both.service.order_when(refused, "rejected")["code"] == "POST_ONLY_WOULD_TAKE"
    said = both.agree()
    assert len(said["orders"]) == 4 and len(said["trades"]) == 2


def test_the_official_sdk_trades_with_our_orders_from_the_other_account(both: Live) -> None:
    selling = both.placed("sell", "0.2", price=60_010)
    both.service.order_when(selling, "open")
    taken = new_order(both.second, "BUY", 0.15, 60_010.0)
    assert taken.status == "FILLED"
    order = both.service.order_when(selling, "partial")
    assert order["filledQuantity"] == 0.15 and order["fills"][0]["maker"] is True
    both.http.delete(f"/api/orders/{selling}")
    both.agree()


def test_the_official_sdk_trades_on_the_same_account_and_the_balances_follow(both: Live) -> None:
    held = {b["currency"]: b["total"] for b in both.get("/api/portfolio")["balances"]}
    orders = both.get("/api/orders")["pagination"]["total"]
    new_order(both.first, "BUY", 2.0, 3_003.0, symbol="ETHUSDT")
    resting = new_order(both.first, "SELL", 0.5, 60_020.0, time_in_force="GTC")
    new_order(both.second, "BUY", 0.1, 60_020.0)
    both.first.delete_order(symbol="BTCUSDT", order_id=resting.order_id)
    both.exchange.control("deposit", account="first", asset="USDT", amount="123.45")
    said = both.agree()
    assert said["balances"]["ETH"] > held["ETH"] and said["balances"]["BTC"] < held["BTC"]
    assert both.get("/api/orders")["pagination"]["total"] == orders


def test_connections_that_break_in_a_burst_of_orders_lose_and_double_nothing(both: Live) -> None:
    def trouble() -> None:
        both.exchange.control("faults", spec="drop_after:n=1; mute_after:n=1; unknown1007_after:n=1")
        both.exchange.control("close", kind="ws-api")
        faults = both.exchange.control()["faults"]
        wait_for(lambda: all(f["fired"] == 1 for f in both.exchange.control()["faults"]), f"all of {faults}")
        both.exchange.control("faults", clear=True)

    orders = both.burst(trouble)
    assert len(set(orders)) == len(orders)
    both.agree()
    both.http.delete("/api/orders")
    said = both.agree()
    assert not any(is_open for _, is_open in said["orders"].values())


def test_a_service_that_is_killed_in_a_burst_of_orders_loses_and_doubles_nothing(
    exchange: ExchangeProcess, tmp_path: Path
) -> None:
    with live(exchange, tmp_path, hmac=True) as both:

        def kill() -> None:
            both.service.kill()
            both.service.start()

        orders = both.burst(kill)
        assert len(set(orders)) == len(orders)
        assert both.get("/api/orders")["pagination"]["total"] == len(orders)
        both.agree()
