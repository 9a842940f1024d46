"""Values all positions in one call: numba over int64 columns, exact or refused.

Units: quantities 1E-8, prices 1E-10, so their product is in 1E-18, the grid of costs. Products and sums are 128
bits wide as two limbs (signed high, unsigned low: value = high x 2^64 + low). Bounds that are relied on: a quantity
and a price are below 2^63 units each, so a product is below 2^126; a cost is kept below 2^126 by `Columns`; so
product - cost never overflows 128 bits. A sum that would overflow and a rounded figure that does not fit int64 are
reported, never wrapped.

`value_positions.py_func` is the slow twin. What does not fit the units (an 18-decimal quantity, say) is valued with
Decimals.
"""

from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt

from ..kernel_cache import compiled, inlined, warms_up
from ..model.exact import ZERO

QUANTITY_UNITS = 10**8  # that make one
PRICE_UNITS = 10**10
COST_UNITS = 10**18  # of products, costs and sums

# Columns of the result: market value, unrealised P&L, day P&L, each in 1E-8, and the two P&Ls in 1E-4 percent: of the
# cost, and of what the value would be without the day's P&L.
FIGURES = 5
ASK = -(2**63)  # in place of a percentage: it is too near a tie, or too great, to be rounded from floating point
OK, UNPRICED, WIDE = 0, 1, 2  # what a row's status says

Int64s = npt.NDArray[np.int64]
UInt64s = npt.NDArray[np.uint64]

_TO_1E8 = 10_000_000_000  # 1E-18 -> 1E-8
_HALF = _TO_1E8 // 2
_ROUNDED_MAX = 9.0e28  # of |figure| in 1E-18; rounded to 1E-8 it is below 2^63 = 9.22e18
_LIMIT = 1 << 126
_MASK32 = np.uint64(0xFFFF_FFFF)
_S32 = np.uint64(32)
_TWO64 = 18446744073709551616.0


@inlined
def multiply(a: int, b: int) -> tuple[Any, Any]:
    """a x b of two int64 that are not negative, as (high, low)."""
    x, y = np.uint64(a), np.uint64(b)
    x0, x1 = x & _MASK32, x >> _S32
    y0, y1 = y & _MASK32, y >> _S32
    low = x0 * y0
    middle = x1 * y0 + (low >> _S32)
    carry = x0 * y1 + (middle & _MASK32)
    high = x1 * y1 + (middle >> _S32) + (carry >> _S32)
    return np.int64(high), (carry << _S32) | (low & _MASK32)


@inlined
def subtract(a_high: int, a_low: Any, b_high: int, b_low: Any) -> tuple[Any, Any]:
    """a - b in two's complement; both below 2^126, so that it fits."""
    borrow = np.int64(1) if a_low < b_low else np.int64(0)
    return np.int64(a_high - b_high - borrow), np.uint64(a_low - b_low)


@inlined
def round_to_1e8(high: int, low: Any) -> tuple[Any, bool]:
    """(figure in 1E-18 rounded half to even to 1E-8, True), or (0, False) when that is no int64.

    The quotient is guessed in floating point, off by at most a few thousand; the remainder of the guess is then exact
    in wrapping int64 arithmetic, and corrects it.
    """
    about = np.float64(high) * _TWO64 + np.float64(low)
    if about > _ROUNDED_MAX or about < -_ROUNDED_MAX:
        return np.int64(0), False
    guess = np.int64(about / _TO_1E8)
    rest = np.int64(low - np.uint64(guess) * np.uint64(_TO_1E8))
    quotient = guess + rest // _TO_1E8
    rest = rest % _TO_1E8
    if rest > _HALF or (rest == _HALF and quotient & 1):
        quotient += 1
    return quotient, True


@inlined
def as_float(high: int, low: Any) -> Any:
    """The nearest double but for two roundings; of a negative one by its magnitude, so that small ones stay exact."""
    if high >= 0:
        return np.float64(high) * _TWO64 + np.float64(low)
    minus_low = np.uint64(np.uint64(0) - low)
    minus_high = -high - 1 if minus_low != np.uint64(0) else -high
    return -(np.float64(minus_high) * _TWO64 + np.float64(minus_low))


@inlined
def percentage(part: float, whole: float) -> Any:
    """100 part / whole rounded to 1E-4, as a whole number of them, or ASK; 0 of nothing.

    Three roundings of double precision are wrong by less than 1e-7 where the result is below 1e8, so away from a tie
    the rounded result is the exact one.
    """
    if whole == 0.0:
        return np.int64(0)
    exact = part / whole * 1e6
    if not -1e8 < exact < 1e8:
        return np.int64(ASK)
    below = np.floor(exact)
    over = exact - below
    if 0.499999 < over < 0.500001:
        return np.int64(ASK)
    return np.int64(below) + (1 if over > 0.5 else 0)


@inlined
def add_to(high: Int64s, low: UInt64s, at: int, x_high: int, x_low: Any) -> bool:
    """Add to sum number `at`; False, and nothing changed, when it would leave 128 bits."""
    new_low = np.uint64(low[at] + x_low)
    carry = np.int64(1) if new_low < x_low else np.int64(0)
    new_high = np.int64(high[at] + x_high + carry)
    # Overflow: both terms have one sign and the sum the other.
    if ((high[at] ^ new_high) & (x_high ^ new_high)) < 0:
        return False
    high[at] = new_high
    low[at] = new_low
    return True


@compiled
def value_positions(
    count: int,
    quantity: Int64s,
    mark: Int64s,
    cost_high: Int64s,
    cost_low: UInt64s,
    day_high: Int64s,
    day_low: UInt64s,
    group: Int64s,
    figures: Int64s,
    status: npt.NDArray[np.uint8],
    sums_high: Int64s,
    sums_low: UInt64s,
) -> bool:
    """Value rows 0..count-1; False when a sum left 128 bits (then the sums mean nothing).

    Row: quantity x mark is its value; value - cost its unrealised P&L; value - day its day P&L (day: what the value
    would be if the day had earned nothing). A row with group < 0 is free, one with mark < 0 has no price.
    figures: (rows, FIGURES). status: (rows,). sums: value of group g at 2g, its cost at 2g + 1, in 1E-18.
    """
    for at in range(len(sums_high)):
        sums_high[at] = 0
        sums_low[at] = 0
    fits = True
    for row in range(count):
        if group[row] < 0:
            continue
        if mark[row] < 0:
            status[row] = UNPRICED
            continue
        value_high, value_low = multiply(quantity[row], mark[row])
        pnl_high, pnl_low = subtract(value_high, value_low, cost_high[row], cost_low[row])
        today_high, today_low = subtract(value_high, value_low, day_high[row], day_low[row])
        figures[row, 0], first = round_to_1e8(value_high, value_low)
        figures[row, 1], second = round_to_1e8(pnl_high, pnl_low)
        figures[row, 2], third = round_to_1e8(today_high, today_low)
        cost = as_float(cost_high[row], cost_low[row])
        earned = np.float64(figures[row, 2])
        figures[row, 3] = percentage(np.float64(figures[row, 1]) * _TO_1E8, cost)
        figures[row, 4] = percentage(earned, np.float64(figures[row, 0] - figures[row, 2]))
        status[row] = OK if first and second and third else WIDE
        value_sum = 2 * group[row]
        fits &= add_to(sums_high, sums_low, value_sum, value_high, value_low)
        fits &= add_to(sums_high, sums_low, value_sum + 1, cost_high[row], cost_low[row])
    return fits


def units(value: Decimal, a_one: int) -> int | None:
    """The value as a whole number of units, `a_one` of which make 1; None when it is not one."""
    scaled = value * a_one
    whole = int(scaled)
    return whole if whole == scaled else None


class Columns:
    """The rows of `value_positions`, and room for its results.

    A row that cannot be held in the units is marked free and left to the caller, who is told by `put` and `put_mark`.
    """

    def __init__(self, rows: int = 64) -> None:
        self._free: list[int] = []
        self.count = 0
        self.quantity: Int64s = np.zeros(rows, np.int64)
        self.mark: Int64s = np.full(rows, -1, np.int64)
        self.cost_high: Int64s = np.zeros(rows, np.int64)
        self.cost_low: UInt64s = np.zeros(rows, np.uint64)
        self.day_high: Int64s = np.zeros(rows, np.int64)
        self.day_low: UInt64s = np.zeros(rows, np.uint64)
        self.group: Int64s = np.full(rows, -1, np.int64)
        self.figures: Int64s = np.zeros((rows, FIGURES), np.int64)
        self.status: npt.NDArray[np.uint8] = np.zeros(rows, np.uint8)
        self.sums_high: Int64s = np.zeros(0, np.int64)
        self.sums_low: UInt64s = np.zeros(0, np.uint64)

    COLUMNS = ("quantity", "mark", "cost_high", "cost_low", "day_high", "day_low", "group", "figures", "status")

    def take_row(self) -> int:
        """A row of one's own, free and without a price."""
        if self._free:
            return self._free.pop()
        if self.count == len(self.group):
            for name in self.COLUMNS:
                column = getattr(self, name)
                grown = np.full(
                    (2 * self.count, *column.shape[1:]), -1 if name in ("mark", "group") else 0, column.dtype
                )
                grown[: self.count] = column
                setattr(self, name, grown)
        self.count += 1
        return self.count - 1

    def give_back(self, row: int) -> None:
        self.group[row] = -1
        self.mark[row] = -1
        self._free.append(row)

    def put(self, row: int, group: int, quantity: Decimal, cost: Decimal, day: Decimal) -> bool:
        """Set a row's holding; False when it does not fit, and then the row is free."""
        whole = units(quantity, QUANTITY_UNITS)
        costs, days = units(cost, COST_UNITS), units(day, COST_UNITS)
        if whole is None or costs is None or days is None or not 0 <= whole < 1 << 63:
            self.group[row] = -1
            return False
        if not -_LIMIT < costs < _LIMIT or not -_LIMIT < days < _LIMIT:
            self.group[row] = -1
            return False
        self.quantity[row] = whole
        self.cost_high[row], self.cost_low[row] = costs >> 64, costs & (1 << 64) - 1
        self.day_high[row], self.day_low[row] = days >> 64, days & (1 << 64) - 1
        self.group[row] = group
        return True

    def put_mark(self, row: int, price: Decimal) -> bool:
        """Set a row's price; False when it does not fit, and then the row is free."""
        whole = units(price, PRICE_UNITS)
        if whole is None or not 0 <= whole < 1 << 63:
            self.group[row] = -1
            return False
        self.mark[row] = whole
        return True

    def value(self, groups: int) -> bool:
        """Fill `figures`, `status` and the sums; False when a sum did not fit 128 bits."""
        if 2 * groups > len(self.sums_high):
            self.sums_high = np.zeros(2 * groups, np.int64)
            self.sums_low = np.zeros(2 * groups, np.uint64)
        return value_positions(
            self.count,
            self.quantity,
            self.mark,
            self.cost_high,
            self.cost_low,
            self.day_high,
            self.day_low,
            self.group,
            self.figures,
            self.status,
            self.sums_high,
            self.sums_low,
        )

    def sum(self, at: int) -> Decimal:
        """Sum number `at` of the last `value()`, exact."""
        whole = (int(self.sums_high[at]) << 64) + int(self.sums_low[at])
        return Decimal(whole).scaleb(-18) if whole else ZERO


@warms_up("position values")
def _warm_up() -> None:
    columns = Columns(1)
    columns.put(columns.take_row(), 0, Decimal(1), ZERO, ZERO)
    columns.put_mark(0, Decimal(1))
    columns.value(1)
