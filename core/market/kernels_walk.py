"""Walks: what an order would get from a book, level by level, exactly.

Always true here: filled + left = wanted; a level never gives more than it shows; costs are exact. Prices and lots are
below 2**62 (the books see to that), so a product fits 124 bits and a cost is carried as two 64-bit limbs,
`high * 2**64 + low`; where the dearest price times the wanted lots fits one limb, which is nearly always, one is used.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from ..kernel_cache import compiled, inlined
from .kernels_book import HEADER
from .kernels_text import Ints

VENUES_MAX: Final = 16
ONE_MILLION: Final = 1_000_000

# Columns of a consolidated walk's venue table, in and out.
FEE_PPM, PRICE_SCALE, LOT_SCALE, FILLED, COST_HIGH, COST_LOW, WORST, USED = range(8)

_LOW32 = np.uint64(0xFFFFFFFF)
_N32 = np.uint64(32)


@inlined
def add_product(high: Any, low: Any, price: int, lots: int) -> tuple[Any, Any]:
    """(high, low) + price * lots in 128 bits, from four products of 32 bits."""
    a, b = np.uint64(price), np.uint64(lots)
    a_low, a_high, b_low, b_high = a & _LOW32, a >> _N32, b & _LOW32, b >> _N32
    middle = a_low * b_high + ((a_low * b_low) >> _N32)
    other = a_high * b_low + (middle & _LOW32)
    total = low + a * b
    carry = np.uint64(1) if total < low else np.uint64(0)
    return high + a_high * b_high + (middle >> _N32) + (other >> _N32) + carry, total


@compiled
def walk(side: Ints, want: int, limit: int) -> tuple[int, Any, Any, int, int]:
    """Takes `want` lots from a side, no worse than `limit`: (filled, cost high, cost low, worst price, levels used).

    `side` has the layout of `kernels_book`; limit is inclusive. Worst price 0 when nothing was filled.
    """
    first, count, sign = side[0, 0], side[1, 0], side[1, 1]
    if count == 0 or want <= 0:
        return 0, np.uint64(0), np.uint64(0), 0, 0
    dearest = max(side[0, first], side[0, first + count - 1])
    left, i, end, edge = want, first, first + count, sign * limit
    if dearest <= (2**63 - 1) // want:
        cost = 0
        while i < end and left > 0 and sign * side[0, i] <= edge:
            lots = min(side[1, i], left)
            cost += side[0, i] * lots
            left -= lots
            i += 1
        high, low = np.uint64(0), np.uint64(cost)
    else:
        high, low = np.uint64(0), np.uint64(0)
        while i < end and left > 0 and sign * side[0, i] <= edge:
            lots = min(side[1, i], left)
            high, low = add_product(high, low, side[0, i], lots)
            left -= lots
            i += 1
    return want - left, high, low, side[0, i - 1] if i > first else 0, i - first


@inlined
def net_price(price: int, scale: int, sign: int, fee_ppm: int) -> tuple[int, int]:
    """price * scale * (1,000,000 +- fee) as two digits of base 2**31: compares exactly, never overflows."""
    common, factor = price * scale, ONE_MILLION + sign * fee_ppm
    low = (common & (2**31 - 1)) * factor
    return (common >> 31) * factor + (low >> 31), low & (2**31 - 1)


@compiled
def consolidated(
    sides: tuple[Ints, ...], venues: Ints, heads: Ints, want: int, limit: int, sign: int
) -> tuple[int, int]:
    """Takes `want` common lots from up to VENUES_MAX sides, best net price first: (left, worst price, both common).

    `sides` holds exactly VENUES_MAX arrays (empty ones for no venue), `venues` a row for each with fee and scales
    filled in; the other columns come back filled. One tick of venue v is PRICE_SCALE common units, one lot LOT_SCALE
    common lots; price * PRICE_SCALE stays below 2**62. `limit` is a gross price in common units. A venue whose lot is
    larger than what is left gives nothing more. Equal net prices: the first venue of the table.
    """
    left, worst, going = want, 0, 0
    for v in range(VENUES_MAX):
        venues[v, FILLED:] = 0
        heads[v, 0] = -1
        if sides[v][1, 0] > 0:
            going += point(sides[v], venues, heads, v, sides[v][0, 0], limit, sign)
    while going > 0 and left > 0:
        best = -1
        for v in range(VENUES_MAX):
            if heads[v, 0] >= 0 and (
                best < 0
                or sign * heads[v, 1] < sign * heads[best, 1]
                or (heads[v, 1] == heads[best, 1] and sign * heads[v, 2] < sign * heads[best, 2])
            ):
                best = v
        side, at = sides[best], heads[best, 0]
        lots = min(side[1, at], left // venues[best, LOT_SCALE])
        if lots == 0:
            heads[best, 0] = -1
            going -= 1
            continue
        high, low = add_product(
            np.uint64(venues[best, COST_HIGH]), np.uint64(venues[best, COST_LOW]), side[0, at], lots
        )
        venues[best, COST_HIGH], venues[best, COST_LOW] = np.int64(high), np.int64(low)
        venues[best, FILLED] += lots
        venues[best, WORST] = side[0, at]
        venues[best, USED] += 1
        left -= lots * venues[best, LOT_SCALE]
        price = side[0, at] * venues[best, PRICE_SCALE]
        worst = price if worst == 0 or sign * price > sign * worst else worst
        going += point(side, venues, heads, best, at + 1, limit, sign) - 1
    return left, worst


@inlined
def point(side: Ints, venues: Ints, heads: Ints, v: int, at: int, limit: int, sign: int) -> int:
    """Venue v's next level is in column `at`, with its net price; 0 when there is none within the limit."""
    heads[v, 0] = -1
    if at >= side[0, 0] + side[1, 0] or sign * side[0, at] * venues[v, PRICE_SCALE] > sign * limit:
        return 0
    high, low = net_price(side[0, at], venues[v, PRICE_SCALE], sign, venues[v, FEE_PPM])
    heads[v, 0], heads[v, 1], heads[v, 2] = at, high, low
    return 1


NO_SIDE = np.zeros((2, HEADER), np.int64)
