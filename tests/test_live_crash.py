"""Two rounds of `make crash`, and that its comparison of the books finds what is wrong in one of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from .crash.books import There, exchange_book, redis_client
from .crash.rounds import IN_FLIGHT_LEAST, Arena, arena

pytestmark = [pytest.mark.orders, pytest.mark.exchanges, pytest.mark.connectivity]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    with arena(tmp_path_factory.mktemp("crash")) as place:
        yield place


def test_a_killed_redis_with_orders_in_flight_loses_and_doubles_nothing(place: Arena) -> None:
    result = place.round("suite", 1, "redis", ["well"])
    assert result.findings == [] and result.in_flight >= IN_FLIGHT_LEAST, result.line()


def test_service_and_redis_killed_at_once_with_orders_in_flight_lose_and_double_nothing(place: Arena) -> None:
    result = place.round("suite", 2, "both", ["well"])
    assert result.findings == [] and result.in_flight >= IN_FLIGHT_LEAST, result.line()


@pytest.fixture(scope="module")
def there(place: Arena) -> There:
    """The exchange's book after a round."""
    if not place.acknowledged:
        assert place.round("suite", 1, "redis", ["well"]).findings == []
    return exchange_book(place.live)


def more_filled(order: dict[str, Any]) -> None:
    order["filled_lots"] = order.get("filled_lots", 0) + 1


def another_name(order: dict[str, Any]) -> None:
    order["client_order_id"] = "nobody's"


def reserved_for_nothing(order: dict[str, Any]) -> None:
    order["reserved"] = "1"


def another_fee(fill: dict[str, Any]) -> None:
    fill["fee"] = "0.5"


def another_trade(fill: dict[str, Any]) -> None:
    fill["trade_id"] = "99999999"


def more_money(balance: dict[str, Any]) -> None:
    balance["total"] += "1"


def a_round_trip_more(position: dict[str, Any]) -> None:
    position["realised"] = "12345"


PLANTED: dict[str, tuple[str, Callable[[dict[str, Any]], None], str]] = {
    "an order that is filled further": ("orders", more_filled, "differs"),
    "an order that nobody was told of": ("orders", another_name, "doubled"),
    "a reservation of an order that has ended": ("orders", reserved_for_nothing, "differs"),
    "a fee": ("trades", another_fee, "differs"),
    "a trade that the exchange does not know": ("trades", another_trade, "lost"),
    "a balance": ("balances", more_money, "differs"),
    "a position": ("positions", a_round_trip_more, "differs"),
}


@pytest.mark.parametrize("wrong", PLANTED)
def test_the_comparison_finds(wrong: str, place: Arena, there: There) -> None:
    table, change, kind = PLANTED[wrong]
    with redis_client(place.faults.socket) as client:
        key = f"tbx:{place.faults.node}:{table}"
        field, row = chosen(client, key)
        document = json.loads(row)
        change(document)
        client.hset(key, field, json.dumps(document))
        try:
            found = place.compare(there)
        finally:
            client.hset(key, field, row)
    assert kind in {finding.kind for finding in found}, found


def chosen(client: redis.Redis, key: str) -> tuple[bytes, bytes]:
    """A row: of the orders an entry that has ended, of the balances one that is traded."""
    rows: Any = client.hgetall(key)
    for field, row in sorted(rows.items()):
        document = json.loads(row)
        entry = document.get("role", "entry") == "entry" and document.get("state") in ("FILLED", "CANCELLED")
        if (entry or not key.endswith("orders")) and document.get("currency", "BTC") == "BTC":
            return field, row
    raise AssertionError(f"nothing to change in {key}")


def test_the_comparison_finds_an_acknowledged_request_that_is_no_order(place: Arena, there: There) -> None:
    place.acknowledged["never arrived"] = "ORD_20250101_000001"
    try:
        found = place.compare(there)
    finally:
        del place.acknowledged["never arrived"]
    assert {finding.kind for finding in found} == {"lost"}


def test_the_comparison_finds_nothing_where_nothing_is_wrong(place: Arena, there: There) -> None:
    assert place.compare(there) == []
