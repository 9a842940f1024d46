"""Orders that wait for a price: stop loss, take profit, trailing.

Always true here: only trade prices count, each in its turn. An order with a stop price and no trailing delta is
triggered by the first price at or beyond it; a trailing order follows the best price since its stop price was
reached (since it was placed, where it has none) and is triggered by the first price its delta away from that.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush

from .orders import Live

BIPS = 10_000
GONE_MAX = 64  # orders that a heap still names though they wait no longer, beyond twice those that wait


def triggers_above(live: Live) -> bool:
    """Whether the stop price is met by prices at or above it (else at or below)."""
    return live.is_buy == live.order.type.startswith("STOP_LOSS")


def is_met(live: Live, price: int) -> bool:
    """Whether a price satisfies the stop price; without a stop price any does."""
    stop = live.order.stop_price
    return price >= stop if triggers_above(live) else (not stop or price <= stop)


class Stops:
    """The orders of a symbol that wait. `feed` each trade price in turn."""

    __slots__ = ("_above", "_below", "_trailing", "_waiting")

    def __init__(self) -> None:
        self._waiting: set[int] = set()
        # Heaps of (stop price, order id, order); those that were removed stay until they come up.
        self._above: list[tuple[int, int, Live]] = []
        self._below: list[tuple[int, int, Live]] = []
        self._trailing: dict[int, Live] = {}

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, live: Live, last_price: int, now_ms: int) -> None:
        order_id = live.order_id
        self._waiting.add(order_id)
        if live.order.trailing_delta:
            self._trailing[order_id] = live
            if last_price:
                self._begin(live, last_price, now_ms)
        elif triggers_above(live):
            heappush(self._above, (live.order.stop_price, order_id, live))
        else:
            heappush(self._below, (-live.order.stop_price, order_id, live))

    def remove(self, live: Live) -> None:
        waiting = self._waiting
        waiting.discard(live.order_id)
        self._trailing.pop(live.order_id, None)
        for heap in (self._above, self._below):
            if len(heap) > GONE_MAX + 2 * len(waiting):
                heap[:] = [item for item in heap if item[1] in waiting]
                heapify(heap)

    def feed(self, price: int, now_ms: int) -> list[Live]:
        """The orders that a trade at this price triggers, first placed first; they wait no longer."""
        found: list[Live] = []
        waiting, above, below = self._waiting, self._above, self._below
        while above and above[0][0] <= price:
            live = heappop(above)[2]
            if live.order_id in waiting:
                found.append(live)
        while below and -below[0][0] >= price:
            live = heappop(below)[2]
            if live.order_id in waiting:
                found.append(live)
        if self._trailing:
            found += [live for live in self._trailing.values() if self._follow(live, price, now_ms)]
        for live in found:
            self.remove(live)
        if len(found) > 1:
            found.sort(key=_by_id)
        return found

    def _begin(self, live: Live, price: int, now_ms: int) -> bool:
        if is_met(live, price):
            live.extreme = price
            live.order.trailing_time = now_ms
            return True
        return False

    def _follow(self, live: Live, price: int, now_ms: int) -> bool:
        """Take a price into account; True where it triggers the order."""
        if not live.extreme:
            self._begin(live, price, now_ms)
            return False
        delta = live.order.trailing_delta
        if live.is_buy:
            live.extreme = min(live.extreme, price)
            return price * BIPS >= live.extreme * (BIPS + delta)
        live.extreme = max(live.extreme, price)
        return price * BIPS <= live.extreme * (BIPS - delta)


def _by_id(live: Live) -> int:
    return live.order_id
