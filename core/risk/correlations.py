"""Rolling correlations of many currencies, and the groups that they make.

Always true here: two currencies move together where their correlation over the returns that both have is at least
CORRELATION_MIN; where it cannot be told (too few returns in common, or one of the two has not moved) they do where they
did to begin with. Groups are what is connected by that, so they are disjoint, and two that each follow a third are in
one.

A round compares all with all, a few rows a turn: 1,000 currencies at once would keep a frame waiting for milliseconds.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from .groups import Groups

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

CORRELATION_MIN = 0.7  # from which on two currencies move together
RETURNS_IN_COMMON_MIN = 30
WINDOW = 120  # returns that are looked back on
# Currencies that one turn compares, times all. From 2^18 multiplications on (WINDOW times this stays under it) numpy's
# OpenBLAS takes a second thread to a product of matrices, and waits for it as long as another process has its core.
PAIRS_AT_ONCE = 2_000
# A sum of squares that has lost so much of itself by taking the mean's out is rounding, not movement.
NOISE = 1e-12


class Correlations:
    """The last WINDOW returns of each currency; `groups` follows what they say once a round is over."""

    def __init__(
        self, groups: Groups, currencies: Sequence[str], returns_in_common_min: int = RETURNS_IN_COMMON_MIN
    ) -> None:
        # for the process
        self._groups = groups
        self._currencies = tuple(currencies)
        self._index = {currency: number for number, currency in enumerate(currencies)}
        self._common_min = returns_in_common_min
        self._window = np.full((WINDOW, len(currencies)), np.nan)
        self._next_row = 0
        # for a round; `_row` is the next one to compare, all of them: no round is under way
        self._row = len(currencies)
        self._rows_a_turn = max(1, PAIRS_AT_ONCE // max(1, len(currencies)))
        self._returns = Returns(self._window)
        self._labels = np.zeros(len(currencies), np.int64)  # of the group that each was in to begin with
        self._together: Flags = np.zeros((len(currencies), len(currencies)), np.bool_)

    @property
    def under_way(self) -> bool:
        """Whether a round has begun and is not over: `turn` is due."""
        return self._row < len(self._currencies)

    def add(self, returns: Floats) -> None:
        """One return of each currency, NaN where there is none. Begins a round if none is under way."""
        self._window[self._next_row] = returns
        self._next_row = (self._next_row + 1) % WINDOW
        if not self.under_way:
            names: dict[str, int] = {}
            starts = [self._groups.start_of(currency) for currency in self._currencies]
            self._labels[:] = [names.setdefault(name, len(names)) for name in starts]
            self._row, self._returns = 0, Returns(self._window)

    def turn(self) -> None:
        """The next rows of the round, and after the last of them the groups."""
        first, labels = self._row, self._labels
        self._row = end = min(first + self._rows_a_turn, len(labels))
        found = correlations(self._returns, first, end, self._common_min)
        as_before = np.isnan(found) & (labels[first:end, None] == labels[None, :])
        with np.errstate(invalid="ignore"):
            self._together[first:end] = (found >= CORRELATION_MIN) | as_before
        if not self.under_way:
            names = self._currencies
            self._groups.update(frozenset(names[number] for number in part) for part in components(self._together))

    def of(self, one: str, other: str) -> float | None:
        """The correlation of two currencies; None where it cannot be told."""
        first, second = self._index.get(one), self._index.get(other)
        if first is None or second is None:
            return None
        found = correlations(Returns(self._window[:, [first, second]]), 0, 1, self._common_min)[0, 1]
        return None if np.isnan(found) else float(found)


class Returns:
    """Returns by step and currency with zero where there is none, their squares, and where there is one."""

    __slots__ = ("known", "squares", "values")

    def __init__(self, window: Floats) -> None:
        known = ~np.isnan(window)
        self.known = known.astype(np.float64)
        self.values = np.where(known, window, 0.0)
        self.squares = self.values * self.values


def correlations(returns: Returns, first: int, end: int, common_min: int) -> Floats:
    """Of currencies first..end with all: (end - first, currencies), each over the steps that both have.

    NaN where those are fewer than `common_min`, or one of the two did not move in them.
    """
    known, values, squares = returns.known, returns.values, returns.squares
    mine, theirs = known[:, first:end].T, values[:, first:end].T
    count = mine @ known
    sum_one, sum_other = theirs @ known, mine @ values
    square_one, square_other = squares[:, first:end].T @ known, mine @ squares
    move_one = count * square_one - sum_one * sum_one
    move_other = count * square_other - sum_other * sum_other
    moved = (move_one > NOISE * count * square_one) & (move_other > NOISE * count * square_other)
    told = moved & (count >= max(2, common_min))
    with np.errstate(invalid="ignore", divide="ignore"):
        found = (count * (theirs @ values) - sum_one * sum_other) / np.sqrt(move_one * move_other)
    return np.where(told, found, np.nan)


def components(together: Flags) -> Iterator[list[int]]:
    """The connected parts of a graph, as rising numbers; `together` is symmetric.

    Rows as whole numbers of one bit a currency: a step of the search is one `or`, however many there are.
    """
    rows = [int.from_bytes(row.tobytes(), "little") for row in np.packbits(together, axis=1, bitorder="little")]
    left = (1 << len(rows)) - 1
    while left:
        part = frontier = left & -left
        while frontier:
            bit = frontier & -frontier
            new = rows[bit.bit_length() - 1] & ~part
            part |= new
            frontier = (frontier ^ bit) | new
        left &= ~part
        yield list(_bits(part))


def _bits(number: int) -> Iterator[int]:
    """Which bits are set, rising."""
    while number:
        bit = number & -number
        yield bit.bit_length() - 1
        number ^= bit
