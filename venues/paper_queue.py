"""Paper orders that rest: their place in the queue at their price, and what moves it.

Always true here:
- An order joins behind everything that is displayed at its price. `ahead_lots` are the public lots before it and
  never exceed what is displayed.
- A trade at the price eats the lots ahead; what it holds beyond them fills the order. A trade through the price fills
  it whole. Several paper orders at one price share a trade in the order in which they joined.
- Displayed lots that go without a trade were cancelled; each was ahead of the order with probability ahead/displayed.
  The expected share is taken off, its fraction rounded by chance, so that the mean is exact.
- A price behind the last one that the book shows is out of sight: nothing is learned there, and an order that joined
  there takes its place, behind everything, when the price comes into sight.
"""

import random
from collections.abc import Callable, Sequence

import msgspec

from ..core.model.messages import PlaceAtVenue

UNSEEN = -1  # `ahead_lots` of an order whose price was never in sight


class PaperOrder(msgspec.Struct, kw_only=True):
    """An order on the paper venue's own book."""

    request: PlaceAtVenue
    venue_order_id: str
    qty_lots: int  # of the whole order
    filled_lots: int
    price_ticks: int
    ahead_lots: int = UNSEEN

    @property
    def left_lots(self) -> int:
        return self.qty_lots - self.filled_lots


class PriceLevel(msgspec.Struct):
    """The paper orders at one price, first joined first."""

    orders: list[PaperOrder]
    shown_lots: int = 0  # public lots when last looked at
    traded_lots: int = 0  # printed at this price since the displayed quantity last changed


FillOrder = Callable[[PaperOrder, int], None]  # told of each fill; it counts them and removes orders that are complete


class Queue:
    """The paper orders of one side of one pair. `sign` is +1 for buys, -1 for sells."""

    def __init__(self, sign: int, rng: random.Random, cancel_share: float) -> None:
        self._sign = sign
        self._rng = rng
        self._cancel_share = cancel_share  # 1: cancels hit the queue evenly; 0: only trades move it
        self.levels: dict[int, PriceLevel] = {}
        self._best: int | None = None

    def __len__(self) -> int:
        return sum(len(level.orders) for level in self.levels.values())

    @property
    def best_ticks(self) -> int | None:
        """The paper price that would trade first."""
        if self._best is None and self.levels:
            self._best = max(self.levels) if self._sign > 0 else min(self.levels)
        return self._best

    def join(self, order: PaperOrder, shown_lots: int | None) -> None:
        """Take the last place at the order's price, where so much is displayed; None when it is out of sight."""
        level = self.levels.get(order.price_ticks)
        if level is None:
            level = self.levels[order.price_ticks] = PriceLevel([])
            self._best = None
            level.shown_lots = shown_lots or 0
        order.ahead_lots = UNSEEN if shown_lots is None else shown_lots
        level.orders.append(order)

    def leave(self, order: PaperOrder) -> None:
        level = self.levels[order.price_ticks]
        level.orders.remove(order)
        if not level.orders:
            del self.levels[order.price_ticks]
            self._best = None

    def through(self, price_ticks: int) -> list[PaperOrder]:
        """Orders with a better price than this one, best first: a trade at it went through them."""
        sign = self._sign
        best = self.best_ticks
        if best is None or (best - price_ticks) * sign <= 0:
            return []
        passed = sorted((p for p in self.levels if (p - price_ticks) * sign > 0), key=lambda p: -p * sign)
        return [order for price in passed for order in self.levels[price].orders]

    def trade(self, price_ticks: int, qty_lots: int, fill: FillOrder) -> None:
        """Somebody's market order met this side."""
        for order in self.through(price_ticks):
            fill(order, order.left_lots)
        level = self.levels.get(price_ticks)
        if level is None:
            return
        level.traded_lots += qty_lots
        reach = qty_lots  # how far into the public queue the trade goes, less what paper orders before took
        for order in tuple(level.orders):
            if order.ahead_lots == UNSEEN:
                continue
            lots = min(order.left_lots, max(0, reach - order.ahead_lots))
            order.ahead_lots = max(0, order.ahead_lots - reach)
            if lots:
                reach -= lots
                fill(order, lots)

    def look(self, shown: Callable[[Sequence[int]], Sequence[int]], last_ticks: int | None) -> None:
        """The book was updated; `last_ticks` is the last price that it shows on this side, None for an empty side."""
        if not self.levels or last_ticks is None:
            return
        sign = self._sign
        prices = list(self.levels)
        for price, lots in zip(prices, shown(prices), strict=True):
            level = self.levels[price]
            if lots != level.shown_lots:
                if (price - last_ticks) * sign >= 0:
                    self._changed(level, lots)
            elif level.orders[-1].ahead_lots == UNSEEN and (price - last_ticks) * sign >= 0:
                self._changed(level, lots)

    def _changed(self, level: PriceLevel, lots: int) -> None:
        """Another quantity is displayed at a price."""
        before = level.shown_lots - min(level.traded_lots, level.shown_lots)  # had there been only the trades
        cancelled = max(0, before - lots)
        for order in level.orders:
            ahead = order.ahead_lots
            if ahead == UNSEEN:
                order.ahead_lots = lots
                continue
            if cancelled and ahead:
                share = self._cancel_share * cancelled * min(ahead, before) / before
                whole = int(share)
                ahead -= whole + (self._rng.random() < share - whole)
            order.ahead_lots = max(0, min(ahead, lots))
        level.shown_lots = lots
        level.traded_lots = 0
