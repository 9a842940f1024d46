"""Filters, pages and cursors over orders in memory and in the archive."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tbx.core.kernel.outbox import encode_record
from tbx.core.model.ids import id_key
from tbx.core.model.order_views import STATUS
from tbx.core.model.records import Fill, Order, State
from tbx.core.orders.queries import Cursor, OrderFilter, OrderQueries, Page
from tbx.core.state.archive import Archive, ArchivedOrder, ArchivedTrade
from tbx.http.archive import ArchivedHistory

pytestmark = pytest.mark.orders
MS = 1_000_000
TICK, LOT = Decimal("0.0001"), Decimal("0.1")


class Held:
    """Orders and fills in memory."""

    def __init__(self) -> None:
        self.orders: dict[str, Order] = {}
        self.fills: dict[str, Fill] = {}

    def by_client_id(self, client_order_id: str) -> Order | None:
        return next((o for o in self.orders.values() if o.client_order_id == client_order_id), None)

    def fills_of(self, order_id: str) -> list[Fill]:
        return [fill for fill in self.fills.values() if fill.order_id == order_id]


def an_order(number: int, **changes: Any) -> Order:
    fields: dict[str, Any] = {
        "order_id": f"ORD_20250101_{number:06d}",
        "client_order_id": f"C{number}",
        "exchange": "xeggex" if number % 2 else "binance",
        "pair": "RVN_USDT" if number % 3 else "XMR_USDT",
        "wallet": "paper.xeggex",
        "side": "buy" if number % 4 else "sell",
        "type": "market",
        "tick": TICK,
        "lot": LOT,
        "quote": "USDT",
        "base": "RVN",
        "submit_ns": number * MS,
        "created_ns": number * MS,
        "qty_lots": 10,
        "filled_lots": 10,
        "state": State.FILLED,
    }
    return Order(**(fields | changes))


def a_fill(order: Order, number: int) -> Fill:
    return Fill(
        fill_id=f"FILL_{number:06d}",
        order_id=order.order_id,
        trade_id=f"T{number}",
        exchange=order.exchange,
        pair=order.pair,
        wallet=order.wallet,
        side=order.side,
        tick=TICK,
        lot=LOT,
        price_ticks=1,
        qty_lots=10,
        fee=Decimal(0),
        fee_currency="USDT",
        timestamp_ns=order.created_ns,
    )


def held(numbers: range, **changes: Any) -> Held:
    source = Held()
    for number in numbers:
        order = an_order(number, **changes)
        source.orders[order.order_id] = order
        source.fills[f"FILL_{number:06d}"] = a_fill(order, number)
    return source


def archived(folder: Path, numbers: range) -> ArchivedHistory:
    archive = Archive(folder / "archive.sqlite3")
    orders = [an_order(number) for number in numbers]
    archive.add(
        [
            ArchivedOrder(
                o.order_id,
                o.client_order_id,
                o.pair,
                o.exchange,
                o.side,
                STATUS[o.state],
                o.created_ns // MS,
                encode_record(o),
            )
            for o in orders
        ],
        [
            ArchivedTrade(f"FILL_{n:06d}", o.order_id, o.pair, o.exchange, o.side, n, encode_record(a_fill(o, n)))
            for n, o in zip(numbers, orders, strict=True)
        ],
    )

    async def at_once(work: Any) -> Any:
        return work()

    return ArchivedHistory(archive, at_once)


def select(queries: OrderQueries, **wanted: Any) -> Page[Any]:
    return asyncio.run(queries.select(OrderFilter(**wanted)))


def numbers(page: Page[Any]) -> list[int]:
    return [id_key(order.order_id)[1] for order, _ in page.items]


def walk(queries: OrderQueries, **wanted: Any) -> list[int]:
    """Every order, page after page by cursor."""
    found: list[int] = []
    before: Cursor | None = None
    while True:
        page = select(queries, before=before, **wanted)
        found += numbers(page)
        if page.next_cursor is None:
            return found
        before = Cursor.parse(str(page.next_cursor))


def test_orders_come_newest_first_in_pages_that_say_whether_there_is_more() -> None:
    queries = OrderQueries(held(range(1, 8)))
    first, last = select(queries, limit=3), select(queries, limit=3, offset=6)
    assert (numbers(first), first.total) == ([7, 6, 5], 7)
    assert first.next_cursor is not None
    assert (numbers(last), last.next_cursor) == ([1], None)
    assert select(queries, limit=7).next_cursor is None
    assert numbers(select(queries, limit=3, offset=99)) == []


def test_cursors_visit_every_order_once_also_when_new_ones_come_and_old_ones_go() -> None:
    source = held(range(1, 8))
    queries = OrderQueries(source)
    assert walk(queries, limit=2) == [7, 6, 5, 4, 3, 2, 1]
    cursor = select(queries, limit=3).next_cursor
    source.orders["ORD_20250101_000008"] = an_order(8)
    del source.orders["ORD_20250101_000005"]
    assert numbers(select(queries, limit=9, before=cursor)) == [4, 3, 2, 1]


def test_an_id_that_outgrew_its_padding_is_still_the_newer_one() -> None:
    assert id_key("ORD_20250101_1000000") > id_key("ORD_20250101_999999")
    assert id_key("ORD_20250102_000001") > id_key("ORD_20250101_1000000")
    for wrong in ("", "ORD", "ORD_x_1", "FILL_"):
        with pytest.raises(ValueError, match="invalid literal"):
            id_key(wrong)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({"pair": "XMR_USDT"}, [6, 3]),
        ({"exchange": "binance"}, [6, 4, 2]),
        ({"side": "sell"}, [4]),
        ({"since_ns": 5 * MS}, [7, 6, 5]),
        ({"until_ns": 3 * MS}, [2, 1]),
        ({"states": (State.LIVE,)}, []),
        ({"states": (State.FILLED,), "pair": "XMR_USDT", "exchange": "xeggex"}, [3]),
    ],
)
def test_each_filter_holds_in_memory_and_across_the_archive(
    tmp_path: Path, wanted: dict[str, Any], expected: list[int]
) -> None:
    for queries in (
        OrderQueries(held(range(1, 8))),
        OrderQueries(held(range(5, 8)), archived(tmp_path, range(1, 5))),
    ):
        page = select(queries, **wanted)
        assert (numbers(page), page.total) == (expected, len(expected))


def test_memory_and_archive_are_one_list_and_what_is_in_both_counts_once(tmp_path: Path) -> None:
    queries = OrderQueries(held(range(4, 8)), archived(tmp_path, range(1, 6)))
    page = select(queries, limit=50)
    assert (numbers(page), page.total) == ([7, 6, 5, 4, 3, 2, 1], 7)
    assert all(len(fills) == 1 for _, fills in page.items)
    assert walk(queries, limit=2) == [7, 6, 5, 4, 3, 2, 1]
    assert numbers(select(queries, limit=2, offset=5)) == [2, 1]


def test_an_archived_order_is_found_by_either_id_with_its_fills(tmp_path: Path) -> None:
    queries = OrderQueries(held(range(4, 8)), archived(tmp_path, range(1, 4)))

    async def look() -> None:
        found = await queries.order("ORD_20250101_000002")
        assert found is not None
        assert (found[0].client_order_id, [fill.trade_id for fill in found[1]]) == ("C2", ["T2"])
        assert await queries.order_by_client_id("C2") == found
        assert (await queries.order("ORD_20250101_000006")) is not None
        assert (await queries.order_by_client_id("C6")) is not None
        assert await queries.order("ORD_20250101_000099") is None
        assert await queries.order_by_client_id("C99") is None

    asyncio.run(look())


def test_fills_are_listed_newest_first_of_all_orders_or_of_one(tmp_path: Path) -> None:
    queries = OrderQueries(held(range(4, 8)), archived(tmp_path, range(1, 4)))

    def fills(**wanted: Any) -> list[str]:
        return [fill.trade_id for fill in asyncio.run(queries.select_fills(OrderFilter(**wanted))).items]

    assert fills() == ["T7", "T6", "T5", "T4", "T3", "T2", "T1"]
    assert fills(limit=2, offset=3) == ["T4", "T3"]
    assert fills(order_id="ORD_20250101_000002") == ["T2"]
    assert fills(order_id="ORD_20250101_000005") == ["T5"]
    assert fills(pair="XMR_USDT", until_ns=6 * MS) == ["T3"]


def test_exits_are_left_out_where_only_entries_are_wanted() -> None:
    source = held(range(1, 4))
    source.orders["ORD_20250101_000002"].parent_id = "ORD_20250101_000001"
    assert numbers(select(OrderQueries(source), top_level=True)) == [3, 1]
