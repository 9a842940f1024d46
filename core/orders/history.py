"""Bounded history: ended orders and their fills leave memory and Redis for the archive, the oldest first.

Always true here: an order leaves only after the archive has it on disk, with all its fills; open orders never leave. A
crash between the archive's write and the delete leaves an order in both places, and the next round moves it again.
"""

from collections.abc import Callable, Sequence

import msgspec

from ..kernel.actor import Actor
from ..kernel.clock import MS_NS, SECOND_NS, Timer
from ..kernel.kernel import Kernel
from ..kernel.outbox import encode_record
from ..model.errors import StoreError
from ..model.order_views import STATUS
from ..model.records import Fill, Order
from ..state.archive import ArchivedOrder, ArchivedTrade
from .registry import Orders

# Writes to the archive away from the event loop and calls back on it, with the error if it failed.
ArchiveWrite = Callable[[Sequence[ArchivedOrder], Sequence[ArchivedTrade], Callable[[StoreError | None], None]], None]


class HistoryLimits(msgspec.Struct, frozen=True):
    """The manual's bounds."""

    orders_max: int = 10_000
    trades_max: int = 50_000
    leave_share: float = 0.2  # of a bound: what leaves when it is passed


class History(Actor):
    """Looks every few seconds whether something must leave."""

    LOOK_NS = 2 * SECOND_NS
    ROUND_MAX = 1_000  # orders that leave at a time, so that nothing else waits long; the next round follows at once

    def __init__(self, kernel: Kernel, orders: Orders, write: ArchiveWrite, limits: HistoryLimits) -> None:
        super().__init__(kernel)
        self.orders = orders
        self.write = write
        self.limits = limits
        self.archived = 0  # orders that left since the start
        self.archived_fills = 0  # with so many fills
        self.error: str | None = None  # why the last round failed
        self._moving = False
        self._draining = False  # from the moment that a bound is passed until the share has left
        self._timer: Timer | None = None

    def start(self) -> None:
        self._timer = self.clock.call_in(self.LOOK_NS, self.kernel.run, self._look)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        self._timer = self.clock.call_in(self.LOOK_NS, self.kernel.run, self._look)
        self.trim()

    def trim(self) -> None:
        """Begin to move what is too much; nothing while a move is under way."""
        limits, orders = self.limits, self.orders
        if len(orders.orders) > limits.orders_max or len(orders.fills) > limits.trades_max:
            self._draining = True
        if self._moving or not self._draining:
            return
        leaving = self._oldest_ended()
        if not leaving:
            self._draining = False
            return
        self._moving = True
        fills = [fill for order in leaving for fill in orders.fills_of(order.order_id)]
        written = {order.order_id: order.updated_ns for order in leaving}

        def done(error: StoreError | None) -> None:
            self.kernel.run(self._moved, written, error)

        # As it is now and when that is committed: a process that is not the writer any more must not write there, and
        # what its own commit has not made true (the id of a fill) may become something else.
        rows = [_archived(order) for order in leaving], [_archived_fill(fill) for fill in fills]
        self.outbox.effect(self.write, *rows, done)

    def _oldest_ended(self) -> list[Order]:
        limits, orders = self.limits, self.orders
        keep = 1 - limits.leave_share
        orders_over = len(orders.orders) - int(limits.orders_max * keep)
        fills_over = len(orders.fills) - int(limits.trades_max * keep)
        leaving: list[Order] = []
        for order in orders.orders.values():
            if (orders_over <= 0 and fills_over <= 0) or len(leaving) == self.ROUND_MAX:
                break
            if not order.ended or not orders.committed(order) or self._needed(order):
                continue
            leaving.append(order)
            orders_over -= 1
            fills_over -= len(orders.fills_of(order.order_id))
        return leaving

    def _needed(self, order: Order) -> bool:
        """Whether it belongs to an entry or to exits that are still open."""
        open_orders = self.orders.open
        return not open_orders.keys().isdisjoint((order.parent_id, order.stop_loss_id, order.take_profit_id))

    def _moved(self, written: dict[str, int], error: StoreError | None) -> None:
        self._moving = False
        self.error = str(error) if error else None
        if error is None:
            self.kernel.conditions.end("archive_failing")
            orders = self.orders.orders
            leaving = [i for i, at_ns in written.items() if orders[i].updated_ns == at_ns]  # not what changed since
            self.archived_fills += sum(len(self.orders.fills_of(order_id)) for order_id in leaving)
            self.orders.forget(leaving)
            self.archived += len(leaving)
            self.trim()
        else:
            self.kernel.conditions.begin("archive_failing", str(error))
            self._draining = False  # tried again at the next look


def _archived(order: Order) -> ArchivedOrder:
    return ArchivedOrder(
        order_id=order.order_id,
        client_id=order.client_order_id,
        pair=order.pair,
        exchange=order.exchange,
        side=order.side,
        status=STATUS[order.state],
        submit_ms=order.created_ns // MS_NS,  # what cursors and filters go by
        json=encode_record(order),
    )


def _archived_fill(fill: Fill) -> ArchivedTrade:
    return ArchivedTrade(
        trade_id=fill.fill_id,
        order_id=fill.order_id,
        pair=fill.pair,
        exchange=fill.exchange,
        side=fill.side,
        time_ms=fill.timestamp_ns // MS_NS,
        json=encode_record(fill),
    )
