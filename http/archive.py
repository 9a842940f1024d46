"""The archive as the API reads it: every call in the archive's one thread, every row decoded into its record."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec

from ..core.model.errors import StoreCorrupt
from ..core.model.order_views import STATUS
from ..core.model.records import ENDED, Fill, Order
from ..core.orders.queries import MS_NS, Cursor, OrderFilter, OrderWithFills
from ..core.state.archive import PAGE_MAX, Archive, Filters

T = TypeVar("T")
# `run(work)` does the work in the archive's thread: functools.partial(loop.run_in_executor, executor) is one.
Run = Callable[[Callable[[], T]], Awaitable[T]]

_order = msgspec.json.Decoder(Order).decode
_fill = msgspec.json.Decoder(Fill).decode


class ArchivedHistory:
    """Reads one archive; `OrderQueries` merges it with what is in memory."""

    def __init__(self, archive: Archive, run: Callable[[Callable[[], Any]], Awaitable[Any]]) -> None:
        self.archive = archive
        self.run = run

    async def order(self, order_id: str) -> OrderWithFills | None:
        return await self._one(lambda: self.archive.order(order_id))  # type: ignore[no-any-return]

    async def order_by_client_id(self, client_order_id: str) -> OrderWithFills | None:
        return await self._one(lambda: self.archive.order_by_client_id(client_order_id))  # type: ignore[no-any-return]

    async def orders(self, wanted: OrderFilter, limit: int) -> tuple[list[OrderWithFills], int]:
        """Rows newest first, and how many there are. With `top_level` the count has the archived exits in it."""
        return await self.run(lambda: self._orders(wanted, limit))  # type: ignore[no-any-return]

    async def fills(self, wanted: OrderFilter, limit: int) -> tuple[list[Fill], int]:
        return await self.run(lambda: self._fills(wanted, limit))  # type: ignore[no-any-return]

    # --- in the archive's thread

    async def _one(self, read: Callable[[], bytes | None]) -> Any:
        def find() -> OrderWithFills | None:
            raw = read()
            return None if raw is None else self._with_fills(self._decoded(raw))

        return await self.run(find)

    def _decoded(self, raw: bytes) -> Order:
        try:
            return _order(raw)
        except msgspec.DecodeError as error:
            raise StoreCorrupt(str(self.archive.path), f"an order cannot be read: {error}") from error

    def _with_fills(self, order: Order) -> OrderWithFills:
        if not order.filled_lots:
            return order, []
        filters = Filters(order_id=order.order_id)
        raws = _pages(lambda before, n: self.archive.trades(filters, before, n), _fill_row, order.filled_lots)
        return order, sorted(map(_fill, raws), key=lambda fill: fill.timestamp_ns)

    def _orders(self, wanted: OrderFilter, limit: int) -> tuple[list[OrderWithFills], int]:
        found: list[Order] = []
        total = 0
        for status in _statuses(wanted):
            filters = _filters(wanted, status=status)
            total += self.archive.count(filters)
            found += self._matching(filters, wanted, limit)
        found.sort(key=lambda order: order.created_ns, reverse=True)
        return [self._with_fills(order) for order in found[:limit]], total

    def _matching(self, filters: Filters, wanted: OrderFilter, limit: int) -> list[Order]:
        """Up to `limit` orders of one status, without exits where only entries are wanted."""
        found: list[Order] = []
        before = _before(wanted.before)
        while len(found) < limit:
            raws = self.archive.orders(filters, before, PAGE_MAX)
            orders = [self._decoded(raw) for raw in raws]
            found += [order for order in orders if not (wanted.top_level and order.parent_id is not None)]
            if len(raws) < PAGE_MAX:
                break
            before = (orders[-1].created_ns // MS_NS, orders[-1].order_id)
        return found[:limit]

    def _fills(self, wanted: OrderFilter, limit: int) -> tuple[list[Fill], int]:
        filters = _filters(wanted, order_id=wanted.order_id)
        behind = _before(wanted.before)
        raws = _pages(lambda before, n: self.archive.trades(filters, before, n), _fill_row, limit, behind)
        return [_fill(raw) for raw in raws], self.archive.count(filters, "trades")


def _pages(
    read: Callable[[tuple[int, str] | None, int], list[bytes]],
    row: Callable[[bytes], tuple[int, str]],
    limit: int,
    before: tuple[int, str] | None = None,
) -> list[bytes]:
    """Rows of as many pages as it takes."""
    rows: list[bytes] = []
    while len(rows) < limit:
        page = read(before, min(PAGE_MAX, limit - len(rows)))
        rows += page
        if len(page) < PAGE_MAX:
            break
        before = row(page[-1])
    return rows


def _fill_row(raw: bytes) -> tuple[int, str]:
    fill = _fill(raw)
    return fill.timestamp_ns // MS_NS, fill.fill_id


def _before(cursor: Cursor | None) -> tuple[int, str] | None:
    return None if cursor is None else (cursor.time_ms, cursor.item_id)


def _statuses(wanted: OrderFilter) -> list[str | None]:
    """The archive is asked for one status at a time, or for all: it holds ended orders only."""
    if wanted.states is None or set(wanted.states) >= ENDED:
        return [None]
    return [STATUS[state] for state in dict.fromkeys(wanted.states) if state in ENDED]


def _filters(wanted: OrderFilter, *, status: str | None = None, order_id: str | None = None) -> Filters:
    return Filters(
        status=status,
        order_id=order_id,
        pair=wanted.pair,
        exchange=wanted.exchange,
        side=wanted.side,
        since_ms=None if wanted.since_ns is None else -(-wanted.since_ns // MS_NS),
        until_ms=None if wanted.until_ns is None else -(-wanted.until_ns // MS_NS),
    )
