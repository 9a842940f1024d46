"""Reading orders and fills: filters, pages and cursors, over what is in memory and what has left for the archive.

Always true here: newest first, by order id (ids rise with time and are never given twice), so that a cursor stays good
while orders come in and while old ones leave for the archive. Nothing here changes an order.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Generic, Protocol, TypeVar

import msgspec

from ..model.ids import id_key
from ..model.records import ENDED, Fill, Order, Side, State

MS_NS = 1_000_000
Item = TypeVar("Item")
OrderWithFills = tuple[Order, Sequence[Fill]]

# Tuples: a member of a small tuple is found by identity, without hashing an Enum for each of thousands of orders.
ENDED_STATES = tuple(state for state in State if state in ENDED)
ACTIVE_STATES = tuple(state for state in State if state not in ENDED)


class Cursor(msgspec.Struct, frozen=True):
    """The last item of a page: memory goes on behind its id, the archive behind its time and id."""

    item_id: str
    time_ms: int

    def __str__(self) -> str:
        return f"{self.item_id}.{self.time_ms}"

    @classmethod
    def parse(cls, text: str) -> "Cursor":
        """Raises ValueError."""
        item_id, _, time_ms = text.partition(".")
        id_key(item_id)
        return cls(item_id, int(time_ms))


class OrderFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which orders or fills, and which part of them; what is None does not restrict."""

    states: tuple[State, ...] | None = None
    pair: str | None = None
    exchange: str | None = None
    side: Side | None = None
    order_id: str | None = None  # fills of this order
    since_ns: int | None = None  # created, or filled, at this time or later
    until_ns: int | None = None  # before this time
    top_level: bool = False  # leave out exits that belong to an entry, which shows them itself
    limit: int = 50
    offset: int = 0
    before: Cursor | None = None  # only what is older


class Page(msgspec.Struct, Generic[Item], frozen=True):
    """One page, newest first; `next_cursor` is the `before` of the next page, None on the last one."""

    items: list[Item]
    total: int  # of everything that passes the filter, whatever the page
    next_cursor: Cursor | None


class Source(Protocol):
    """What the registry of orders offers: everything in memory, oldest first."""

    orders: dict[str, Order]
    fills: dict[str, Fill]

    def by_client_id(self, client_order_id: str) -> Order | None: ...

    def fills_of(self, order_id: str) -> list[Fill]: ...


class ArchiveReader(Protocol):
    """What has left memory. Each call runs elsewhere and is awaited; rows come newest first, with the count of all."""

    async def order(self, order_id: str) -> OrderWithFills | None: ...

    async def order_by_client_id(self, client_order_id: str) -> OrderWithFills | None: ...

    async def orders(self, wanted: OrderFilter, limit: int) -> tuple[list[OrderWithFills], int]: ...

    async def fills(self, wanted: OrderFilter, limit: int) -> tuple[list[Fill], int]: ...


class OrderQueries:
    """Answers the API's questions about orders and fills."""

    def __init__(self, source: Source, archive: ArchiveReader | None = None) -> None:
        self.source = source
        self.archive = archive

    async def order(self, order_id: str) -> OrderWithFills | None:
        """An order with its fills, wherever it is kept."""
        order = self.source.orders.get(order_id)
        if order is not None:
            return order, self.source.fills_of(order_id)
        return await self.archive.order(order_id) if self.archive is not None else None

    async def order_by_client_id(self, client_order_id: str) -> OrderWithFills | None:
        order = self.source.by_client_id(client_order_id)
        if order is not None:
            return order, self.source.fills_of(order.order_id)
        return await self.archive.order_by_client_id(client_order_id) if self.archive is not None else None

    async def select(self, wanted: OrderFilter) -> Page[OrderWithFills]:
        """A page of orders, each with its fills."""
        held = select_orders(self.source.orders.values(), wanted)
        if self.archive is None:
            page = page_of(held, len(held), wanted, _order_cursor)
            return Page([(o, self.source.fills_of(o.order_id)) for o in page.items], page.total, page.next_cursor)
        rows, count = await self.archive.orders(wanted, wanted.offset + wanted.limit + 1)
        archived_fills = {order.order_id: fills for order, fills in rows}
        merged, twice = merge(held, [order for order, _ in rows], _order_cursor)
        page = page_of(merged, len(held) + count - twice, wanted, _order_cursor)
        items = [(o, self.source.fills_of(o.order_id) or archived_fills.get(o.order_id, ())) for o in page.items]
        return Page(items, page.total, page.next_cursor)

    async def select_fills(self, wanted: OrderFilter) -> Page[Fill]:
        """A page of fills."""
        source = self.source
        of_order = wanted.order_id if wanted.order_id in source.orders else None
        held = select_fills(source.fills.values() if of_order is None else source.fills_of(of_order), wanted)
        if self.archive is None:
            return page_of(held, len(held), wanted, _fill_cursor)
        rows, count = await self.archive.fills(wanted, wanted.offset + wanted.limit + 1)
        merged, twice = merge(held, rows, _fill_cursor)
        return page_of(merged, len(held) + count - twice, wanted, _fill_cursor)


def select_orders(oldest_first: Iterable[Order], wanted: OrderFilter) -> list[Order]:
    """Those that pass, newest first. One pass for each criterion that is set: far fewer steps than one long test."""
    found = list(oldest_first)
    found.reverse()
    if wanted.states is not None:
        states = wanted.states
        found = [o for o in found if o.state in states]
    if wanted.pair is not None:
        found = [o for o in found if o.pair == wanted.pair]
    if wanted.exchange is not None:
        found = [o for o in found if o.exchange == wanted.exchange]
    if wanted.side is not None:
        found = [o for o in found if o.side == wanted.side]
    if wanted.since_ns is not None:
        since_ns = wanted.since_ns
        found = [o for o in found if o.created_ns >= since_ns]
    if wanted.until_ns is not None:
        until_ns = wanted.until_ns
        found = [o for o in found if o.created_ns < until_ns]
    if wanted.top_level:
        found = [o for o in found if o.parent_id is None]
    return found


def select_fills(oldest_first: Iterable[Fill], wanted: OrderFilter) -> list[Fill]:
    """Those that pass, newest first."""
    found = list(oldest_first)
    found.reverse()
    if wanted.order_id is not None:
        found = [f for f in found if f.order_id == wanted.order_id]
    if wanted.pair is not None:
        found = [f for f in found if f.pair == wanted.pair]
    if wanted.exchange is not None:
        found = [f for f in found if f.exchange == wanted.exchange]
    if wanted.side is not None:
        found = [f for f in found if f.side == wanted.side]
    if wanted.since_ns is not None:
        since_ns = wanted.since_ns
        found = [f for f in found if f.timestamp_ns >= since_ns]
    if wanted.until_ns is not None:
        until_ns = wanted.until_ns
        found = [f for f in found if f.timestamp_ns < until_ns]
    return found


def page_of(items: Sequence[Item], total: int, wanted: OrderFilter, cursor: Callable[[Item], Cursor]) -> Page[Item]:
    """Cut one page out of items that are newest first."""
    start = wanted.offset + (0 if wanted.before is None else first_older(items, wanted.before, cursor))
    end = start + wanted.limit
    cut = list(items[start:end])
    return Page(cut, total, cursor(cut[-1]) if cut and len(items) > end else None)


def first_older(items: Sequence[Item], before: Cursor, cursor: Callable[[Item], Cursor]) -> int:
    """Index of the first item, newest first, that is older than `before`."""
    rank = id_key(before.item_id)
    low, high = 0, len(items)
    while low < high:
        middle = (low + high) // 2
        if id_key(cursor(items[middle]).item_id) < rank:
            high = middle
        else:
            low = middle + 1
    return low


def merge(held: list[Item], archived: Sequence[Item], cursor: Callable[[Item], Cursor]) -> tuple[list[Item], int]:
    """Both, newest first, and how many were in both: a crash while one moves leaves it in memory and archive."""
    known = {cursor(item).item_id for item in held} if archived else set()
    fresh = [item for item in archived if cursor(item).item_id not in known]
    if not fresh:
        return held, len(archived)
    merged = sorted([*held, *fresh], key=lambda item: id_key(cursor(item).item_id), reverse=True)
    return merged, len(archived) - len(fresh)


def _order_cursor(order: Order) -> Cursor:
    return Cursor(order.order_id, order.created_ns // MS_NS)


def _fill_cursor(fill: Fill) -> Cursor:
    return Cursor(fill.fill_id, fill.timestamp_ns // MS_NS)
