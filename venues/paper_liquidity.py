"""What of a displayed book side paper orders may still take.

Always true here: of one displayed lot no more is ever taken than one lot. Exactly, at each price:

- `taken` is how many of the lots that are displayed now were taken by paper orders; what an order finds is `displayed
  - taken`.
- Lots that appear are new and can be taken. Of lots that disappear, those nobody took go first, so `taken` falls only
  where less than `taken` is displayed: `taken = min(taken, displayed)` after every update of the book.

So the sum taken at a price, over all time, is at most what was displayed there first plus every increase since. This
is the careful choice: a level that only loses lots never gives paper orders more than it showed once.
"""

from collections.abc import Callable, Sequence

ReadLevels = Callable[[int], Sequence[tuple[int, int]]]  # the best n levels: (price_ticks, lots)
ReadShown = Callable[[Sequence[int]], Sequence[int]]  # lots displayed at each of the prices


class Liquidity:
    """One side of one book. `sign` is +1 for the asks (a buyer pays more going on), -1 for the bids."""

    LEVELS_FIRST = 32  # read from the book at first; doubled whenever an order needs more

    def __init__(self, levels: ReadLevels, shown: ReadShown, sign: int) -> None:
        self._read_levels = levels
        self._read_shown = shown
        self._sign = sign
        self.taken: dict[int, int] = {}  # price -> lots, of what is displayed
        # A copy of the book's best levels less what was taken, until the book moves.
        self._prices: list[int] = []
        self._left: list[int] = []
        self._first = 0  # everything before it is taken
        self._whole = False  # the copy reaches the end of the book
        self._moved = True

    def moved(self) -> None:
        """The book was updated: forget the copy, and what was taken of lots that are gone."""
        self._moved = True
        if self.taken:
            prices = list(self.taken)
            for price, lots in zip(prices, self._read_shown(prices), strict=True):
                if lots < self.taken[price]:
                    if lots:
                        self.taken[price] = lots
                    else:
                        del self.taken[price]

    def take(self, want_lots: int, limit_ticks: int | None) -> list[tuple[int, int]]:
        """Take up to so many lots, best price first, none worse than the limit: [(price_ticks, lots)]."""
        if self._moved:
            self._copy(self.LEVELS_FIRST)
        sign, taken = self._sign, self.taken
        bound = None if limit_ticks is None else limit_ticks * sign
        fills: list[tuple[int, int]] = []
        i = self._first
        while want_lots and self._reach(i):
            price, lots = self._prices[i], self._left[i]
            if bound is not None and price * sign > bound:
                break
            if lots > want_lots:
                self._left[i] = lots - want_lots
                lots = want_lots
            else:
                self._left[i] = 0
                i += 1
            if lots:
                want_lots -= lots
                taken[price] = taken.get(price, 0) + lots
                fills.append((price, lots))
        self._first = i
        return fills

    def offers(self, want_lots: int, limit_ticks: int | None) -> bool:
        """Whether so many lots could be taken now."""
        if self._moved:
            self._copy(self.LEVELS_FIRST)
        sign = self._sign
        i = self._first
        while self._reach(i):
            if limit_ticks is not None and self._prices[i] * sign > limit_ticks * sign:
                return False
            want_lots -= self._left[i]
            if want_lots <= 0:
                return True
            i += 1
        return False

    def _reach(self, i: int) -> bool:
        """Whether there is an i-th level, reading more of the book where the copy is too short."""
        while i >= len(self._prices):
            if self._whole:
                return False
            first = self._first
            self._copy(2 * len(self._prices))
            self._first = first
        return True

    def _copy(self, n: int) -> None:
        levels = self._read_levels(n)
        taken = self.taken
        self._prices = [price for price, _ in levels]
        self._left = [max(0, lots - taken.get(price, 0)) for price, lots in levels]
        self._whole = len(levels) < n
        self._first = 0
        self._moved = False
