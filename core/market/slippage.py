"""What an order would get: walks of one book, and of several venues' books as one.

Always true here: filled + left = wanted; costs are exact Python integers in ticks x lots; only slippage in basis
points, a statistic, is a float. A buy takes asks, a sell takes bids. Nothing is consumed: the books stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import msgspec
import numpy as np

from ..kernel_cache import warms_up
from .book import BUY, Book
from .kernels_text import UNITS_MAX
from .kernels_walk import (
    COST_HIGH,
    COST_LOW,
    FEE_PPM,
    FILLED,
    LOT_SCALE,
    NO_SIDE,
    ONE_MILLION,
    PRICE_SCALE,
    USED,
    VENUES_MAX,
    WORST,
    consolidated,
    walk,
)


class Walk(msgspec.Struct, frozen=True, gc=False):
    """What one book gives. Ticks and lots are the book's."""

    side: int  # BUY or SELL: what the taker does
    filled_lots: int
    left_lots: int
    cost: int  # sum of ticks x lots, exact
    worst_ticks: int  # the last level touched; 0 when nothing was filled
    levels: int  # how many were touched
    best_ticks: int  # of the side taken, before the walk; 0 when that side is empty
    other_ticks: int  # best of the opposite side; 0 when that is empty

    @property
    def average_ticks(self) -> Fraction | None:
        """Exact average price in ticks; None when nothing was filled."""
        return Fraction(self.cost, self.filled_lots) if self.filled_lots else None

    @property
    def slippage_best_bps(self) -> float:
        """s (average - best) / best x 10,000: what depth cost. 0.0 when nothing was filled."""
        return self._bps(2 * self.best_ticks)

    @property
    def slippage_mid_bps(self) -> float:
        """s (average - mid) / mid x 10,000: what depth and half the spread cost; against best where no mid exists."""
        return self._bps(self.best_ticks + self.other_ticks if self.other_ticks else 2 * self.best_ticks)

    def _bps(self, reference: int) -> float:
        # `reference` is twice the price; the difference is taken in integers, so that a small one is not rounded away.
        if not self.filled_lots:
            return 0.0
        base = reference * self.filled_lots
        return self.side * (2 * self.cost - base) * 10_000 / base


class Leg(msgspec.Struct, frozen=True, gc=False):
    """One venue's share of a consolidated walk, in that venue's ticks and lots."""

    venue: int  # index into the venues handed in
    filled_lots: int
    cost: int  # sum of ticks x lots, exact
    worst_ticks: int
    levels: int


class Venue(msgspec.Struct, frozen=True):
    """A book, and what makes it comparable: a tick is `price_scale` common units, a lot `lot_scale` common lots."""

    book: Book
    fee_ppm: int = 0  # taker fee in millionths of the notional; negative is a rebate
    price_scale: int = 1
    lot_scale: int = 1


class ConsolidatedWalk(msgspec.Struct, frozen=True):
    """What several venues give together, best net price first. Lots, prices and costs are in common units."""

    side: int
    filled_lots: int
    left_lots: int
    cost: int  # sum of price x lots, exact, without fees
    fee_millionths: int  # sum of cost x fee_ppm, exact: fees are this / 1,000,000
    worst_price: int  # gross; 0 when nothing was filled
    legs: tuple[Leg, ...]  # venues that give something, in the order they were handed in


def walk_book(book: Book, side: int, lots: int, limit_ticks: int | None = None) -> Walk:
    """Takes `lots` at prices no worse than `limit_ticks` (inclusive), best first. Lots from 0 to UNITS_MAX."""
    if not 0 <= lots <= UNITS_MAX:
        raise ValueError(f"{lots} lots cannot be walked: 0 to {UNITS_MAX} can")
    if side == BUY:
        limit = UNITS_MAX if limit_ticks is None or limit_ticks > UNITS_MAX else limit_ticks
        filled, high, low, worst, levels = walk(book._asks, lots, limit)
        best, other = book.best_ask_ticks, book.best_bid_ticks
    else:
        filled, high, low, worst, levels = walk(book._bids, lots, 0 if limit_ticks is None else limit_ticks)
        best, other = book.best_bid_ticks, book.best_ask_ticks
    return Walk(side, filled, lots - filled, int(high) << 64 | int(low), worst, levels, best, other)


def walk_venues(venues: Sequence[Venue], side: int, lots: int, limit_price: int | None = None) -> ConsolidatedWalk:
    """Takes `lots` (common) from all venues as from one book, best price net of taker fee first.

    A venue gives whole lots of its own only. Equal net prices go to the venue that comes first. `limit_price` is gross,
    inclusive, in common units. Raises ValueError for more than VENUES_MAX venues, or scales beyond what integers hold.
    """
    table, sides = _table(venues, side, lots)
    heads = np.empty((VENUES_MAX, 3), np.int64)
    limit = limit_price if limit_price is not None and limit_price <= UNITS_MAX else (UNITS_MAX if side == BUY else 0)
    left, worst = consolidated(tuple(sides), table, heads, lots, limit, side)
    cost = fees = 0
    legs = []
    for index, (venue, row) in enumerate(zip(venues, table.tolist(), strict=False)):
        if row[FILLED]:
            leg_cost = row[COST_HIGH] << 64 | row[COST_LOW] & (1 << 64) - 1
            legs.append(Leg(index, row[FILLED], leg_cost, row[WORST], row[USED]))
            common = leg_cost * venue.price_scale * venue.lot_scale
            cost += common
            fees += common * venue.fee_ppm
    return ConsolidatedWalk(side, lots - left, left, cost, fees, worst, tuple(legs))


def _table(venues: Sequence[Venue], side: int, lots: int) -> tuple[np.ndarray, list[np.ndarray]]:
    if len(venues) > VENUES_MAX:
        raise ValueError(f"{len(venues)} venues cannot be walked at once: {VENUES_MAX} can")
    if not 0 <= lots <= UNITS_MAX:
        raise ValueError(f"{lots} lots cannot be walked: 0 to {UNITS_MAX} can")
    table = np.zeros((VENUES_MAX, 8), np.int64)
    sides = [NO_SIDE] * VENUES_MAX
    for index, venue in enumerate(venues):
        resting = venue.book.resting(-side)
        first, count = resting[:, 0].tolist()
        dearest = max(int(resting[0, first]), int(resting[0, first + count - 1])) if count else 0
        if not (-ONE_MILLION < venue.fee_ppm < ONE_MILLION and venue.price_scale > 0 and venue.lot_scale > 0):
            raise ValueError(
                f"venue {index}: fee {venue.fee_ppm} ppm and scales {venue.price_scale}, {venue.lot_scale} make no "
                f"sense: a fee is under 100 %, a scale is positive"
            )
        if dearest * venue.price_scale > UNITS_MAX:
            raise ValueError(f"venue {index}: a price of {dearest} ticks x {venue.price_scale} exceeds {UNITS_MAX}")
        table[index, FEE_PPM], table[index, PRICE_SCALE] = venue.fee_ppm, venue.price_scale
        table[index, LOT_SCALE] = venue.lot_scale
        sides[index] = resting
    return table, sides


@warms_up("book walks")
def _warm_up() -> None:
    book = Book("", "", price_decimals=2, qty_decimals=2, depth_max=1)
    book.set_levels([(1, 1)], [(2, 1)], 1)
    walk_book(book, BUY, 1)
    walk_venues([Venue(book)], BUY, 1)
