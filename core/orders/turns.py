"""Whose turn it is to be asked about: orders of one wallet that wait for a question, at a bounded rate. Pure.

Always true here: each tick gives PER_TICK_MAX turns, of which up to SAVED_MAX can be saved; at most AT_ONCE_MAX orders
are under question at a time, and the one that has been due longest is the next, so that everybody's turn comes. Ticks
are counted by who owns this; no clock that is set makes an order wait or hurry.
"""

import heapq
from typing import Final

from ..kernel.clock import MS_NS

TICK_NS: Final = 500 * MS_NS
PER_TICK_MAX: Final = 5
# The orders of one burst that a connection lost are mostly fewer, and no new one is taken before all of them are known.
SAVED_MAX: Final = 60
PER_SECOND_MAX: Final = SAVED_MAX + 3 * PER_TICK_MAX  # in any second: it touches three ticks; ten on average
AT_ONCE_MAX: Final = 10
SPARE_MAX: Final = 1_000  # entries of orders that wait for another tick by now; beyond it they are swept out


def ticks(wait_ns: int) -> int:
    """The first tick at or behind that time."""
    return -(-wait_ns // TICK_NS)


class Turns:
    """The line of one wallet."""

    def __init__(self) -> None:
        self._tick = 0
        self._left = SAVED_MAX
        self._number = 0
        self._due: dict[str, tuple[int, int]] = {}  # order id -> tick, and which comes first of a tick
        self._heap: list[tuple[int, int, str]] = []
        self._under: set[str] = set()

    def __len__(self) -> int:
        return len(self._due)

    def wait(self, order_id: str, for_ticks: int) -> None:
        """Its turn comes after so many ticks, or later; whatever was said before."""
        self._number += 1
        tick = self._tick + for_ticks
        self._due[order_id] = tick, self._number
        heapq.heappush(self._heap, (tick, self._number, order_id))
        if len(self._heap) > 2 * len(self._due) + SPARE_MAX:
            self._heap = [(tick, number, name) for name, (tick, number) in self._due.items()]
            heapq.heapify(self._heap)

    def next_tick(self) -> None:
        self._tick += 1
        self._left = min(self._left + PER_TICK_MAX, SAVED_MAX)

    def take(self) -> str | None:
        """The next order, which is under question until `over`; None where no turn is left, or nobody is due."""
        while self._heap and self._left and len(self._under) < AT_ONCE_MAX:
            tick, number, order_id = self._heap[0]
            current = self._due.get(order_id) == (tick, number)
            if current and tick > self._tick:
                return None
            heapq.heappop(self._heap)
            if current:
                del self._due[order_id]
                self._under.add(order_id)
                self._left -= 1
                return order_id
        return None

    def due(self) -> list[str]:
        """Everybody whose turn has come, the one that waits longest first."""
        waiting = [(tick, number, order_id) for order_id, (tick, number) in self._due.items() if tick <= self._tick]
        return [order_id for _, _, order_id in sorted(waiting)]

    def over(self, order_id: str) -> None:
        """The question about it has been answered."""
        self._under.discard(order_id)

    def leave(self, order_id: str) -> None:
        """It need not be asked about any more."""
        self._due.pop(order_id, None)
