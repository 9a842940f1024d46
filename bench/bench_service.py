"""The manual's budgets against a running service: order status update < 100 ms, portfolio valuation < 200 ms.

The floor of each is the least that the same connection can do: a request that is answered with a constant.
"""

from __future__ import annotations

import http.client
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

sys.path.insert(0, str(Path(__file__).parent))  # this folder is no package

from children import HOST, Server, scratch, service

ROUNDS = 60
UPDATE_TIMEOUT_S = 5.0
RESTING = b'{"pair":"ETH_USDT","side":"buy","type":"limit","quantity":0.01,"price":2400,"exchange":"binance"}'
MARKET = b'{"pair":"BTC_USDT","side":"buy","type":"market","quantity":0.0002,"exchange":"binance"}'


class Client:
    """One connection that stays open."""

    def __init__(self, server: Server) -> None:
        self.connection = http.client.HTTPConnection(HOST, server.port, timeout=UPDATE_TIMEOUT_S)

    def ask(self, method: str, path: str, body: bytes | None = None, expected: int = 200) -> Any:
        self.connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
        answer = self.connection.getresponse()
        content = answer.read()
        assert answer.status == expected, f"{method} {path}: {answer.status} {content[:300]!r}"
        return msgspec.json.decode(content)

    def place(self, body: bytes, status: str) -> str:
        """A new order that has come to a status; its id."""
        order_id: str = self.ask("POST", "/api/orders", body, expected=201)["orderId"]
        self.until(order_id, "status", status)
        return order_id

    def until(self, order_id: str, field: str, value: object) -> None:
        """Ask for the order until it shows the value."""
        end = time.perf_counter() + UPDATE_TIMEOUT_S
        while (found := self.ask("GET", f"/api/orders/{order_id}")[field]) != value:
            assert time.perf_counter() < end, f"{order_id} still has {field} {found}, not {value}"


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with scratch() as folder, service(folder) as server:
        yield Client(server)


def test_order_status_update_by_cancel(benchmark: Any, client: Client) -> None:
    """From DELETE to a GET that shows `cancelled`."""

    def cancel(order_id: str) -> None:
        client.ask("DELETE", f"/api/orders/{order_id}")
        client.until(order_id, "status", "cancelled")

    def setup() -> tuple[tuple[str], dict[str, object]]:
        return (client.place(RESTING, "open"),), {}

    benchmark.pedantic(cancel, setup=setup, rounds=ROUNDS, warmup_rounds=3)


def test_order_status_update_by_amend(benchmark: Any, client: Client) -> None:
    """From PATCH to a GET that shows the new price."""
    order_id = client.place(RESTING, "open")
    prices = iter(range(2_300, 2_300 + 2 * ROUNDS))

    def amend(price: int) -> None:
        client.ask("PATCH", f"/api/orders/{order_id}", b'{"price":%d}' % price)
        client.until(order_id, "price", price)

    def setup() -> tuple[tuple[int], dict[str, object]]:
        return (next(prices),), {}

    benchmark.pedantic(amend, setup=setup, rounds=ROUNDS, warmup_rounds=3)


def test_order_status_update_by_fill(benchmark: Any, client: Client) -> None:
    """From POST of a market order to a GET that shows `filled`, with the 5 ms that the paper venue waits."""
    benchmark.pedantic(lambda: client.place(MARKET, "filled"), rounds=ROUNDS, warmup_rounds=3)


def test_portfolio_valuation(benchmark: Any, client: Client) -> None:
    """POST /api/portfolio/refresh: everything recomputed and committed."""
    client.place(MARKET, "filled")
    benchmark.pedantic(lambda: client.ask("POST", "/api/portfolio/refresh"), rounds=ROUNDS, warmup_rounds=3)


@pytest.mark.parametrize("work", ["order_status_update", "portfolio_valuation"])
def test_service_request_floor(benchmark: Any, client: Client, work: str) -> None:
    """A request whose answer is a constant."""
    benchmark.pedantic(lambda: client.ask("GET", "/livez"), rounds=5 * ROUNDS, warmup_rounds=10)
