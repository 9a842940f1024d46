"""One symbol's book: price levels, and in each the orders in the order in which they came.

Always true here:
- `Level.qty` is the sum of what its orders show; an iceberg shows a part, and joins the back with its next part.
- The side's `ranks` hold exactly the prices of its levels, the best last: prices of bids, negated prices of asks.
- `update_id` rises by one at every change of a level's quantity, and `take_changes` names each level that changed.

Costs: best price O(1), adding to and taking from a level O(1), a new or vanishing level O(log n) comparisons and one
move of the 8-byte ranks behind it (from the front of the book none).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator


class Level:
    """One price: its orders as a doubly linked list, first to trade first."""

    __slots__ = ("first", "house", "last", "price", "qty")

    def __init__(self, price: int) -> None:
        self.price = price
        self.qty = 0  # shown
        self.house = 0  # of it, the house's
        self.first: Entry | None = None
        self.last: Entry | None = None

    def __iter__(self) -> Iterator[Entry]:
        entry = self.first
        while entry is not None:
            yield entry
            entry = entry.behind


class Entry:
    """An order's place in a book. `Live` (orders.py) adds who it belongs to; a bare entry is the house's."""

    __slots__ = ("ahead", "behind", "house", "is_buy", "left", "level", "order_id", "part", "price", "shown")

    def __init__(self, order_id: int, is_buy: bool, price: int, left: int, part: int = 0, house: bool = True) -> None:
        self.order_id = order_id
        self.is_buy = is_buy
        self.price = price  # 0: any (a market order)
        self.left = left  # still to be traded
        self.part = part  # what an iceberg shows at a time, 0 for all
        self.shown = 0
        self.house = house
        self.level: Level | None = None  # while it rests
        self.ahead: Entry | None = None
        self.behind: Entry | None = None


class BookSide:
    """The levels of one side."""

    __slots__ = ("changed", "is_buy", "levels", "ranks")

    def __init__(self, is_buy: bool) -> None:
        self.is_buy = is_buy
        self.levels: dict[int, Level] = {}
        self.ranks: list[int] = []
        self.changed: set[int] = set()

    def best(self) -> Level | None:
        ranks = self.ranks
        if not ranks:
            return None
        return self.levels[ranks[-1] if self.is_buy else -ranks[-1]]

    def best_price(self) -> int:
        """0 where the side is empty."""
        ranks = self.ranks
        if not ranks:
            return 0
        return ranks[-1] if self.is_buy else -ranks[-1]

    def level(self, price: int) -> Level:
        """The level of a price, made where there is none."""
        level = self.levels.get(price)
        if level is None:
            self.levels[price] = level = Level(price)
            insort(self.ranks, price if self.is_buy else -price)
        return level

    def drop(self, price: int) -> None:
        """Forget an empty level."""
        del self.levels[price]
        ranks = self.ranks
        rank = price if self.is_buy else -price
        if ranks[-1] == rank:
            ranks.pop()
        else:
            del ranks[bisect_left(ranks, rank)]

    def from_best(self) -> Iterator[Level]:
        """Levels, best first; the side must not change meanwhile."""
        levels, buy = self.levels, self.is_buy
        for rank in reversed(self.ranks):
            yield levels[rank if buy else -rank]


class Book:
    """Both sides of a symbol."""

    __slots__ = ("asks", "bids", "taken_id", "update_id")

    def __init__(self) -> None:
        self.bids = BookSide(True)
        self.asks = BookSide(False)
        self.update_id = 0
        self.taken_id = 0  # update_id at the last take_changes

    # --- what is there

    @property
    def best_bid(self) -> tuple[int, int]:
        """Price and shown quantity, (0, 0) where there is none."""
        level = self.bids.best()
        return (0, 0) if level is None else (level.price, level.qty)

    @property
    def best_ask(self) -> tuple[int, int]:
        """Price and shown quantity, (0, 0) where there is none."""
        level = self.asks.best()
        return (0, 0) if level is None else (level.price, level.qty)

    def depth(self, limit: int = 5000) -> tuple[int, list[tuple[int, int]], list[tuple[int, int]]]:
        """(update id, bids, asks): (price, shown quantity) best first, at most `limit` a side."""
        bids, asks = self.bids.levels, self.asks.levels
        return (
            self.update_id,
            [(rank, bids[rank].qty) for rank in self.bids.ranks[: -limit - 1 : -1]],
            [(-rank, asks[-rank].qty) for rank in self.asks.ranks[: -limit - 1 : -1]],
        )

    def take_changes(self) -> tuple[int, int, dict[int, int], dict[int, int]] | None:
        """(first update id, last, bids, asks) since the last call: the new quantity of each changed price, 0 is gone.

        None where nothing changed. One taker per book: what is taken is forgotten.
        """
        if self.update_id == self.taken_id:
            return None
        first, self.taken_id = self.taken_id + 1, self.update_id
        bids, asks = self._changes(self.bids), self._changes(self.asks)
        return first, self.update_id, bids, asks

    @staticmethod
    def _changes(side: BookSide) -> dict[int, int]:
        levels, changed = side.levels, side.changed
        quantities = {price: levels[price].qty if price in levels else 0 for price in changed}
        changed.clear()
        return quantities

    def side(self, is_buy: bool) -> BookSide:
        return self.bids if is_buy else self.asks

    def crosses(self, is_buy: bool, price: int) -> bool:
        """Whether an order at this price (0: any) would trade at once."""
        ranks = (self.asks if is_buy else self.bids).ranks
        if not ranks:
            return False
        return price == 0 or (-ranks[-1] <= price if is_buy else ranks[-1] >= price)

    # --- changes

    def add(self, entry: Entry) -> None:
        """Rest at the back of its price."""
        side = self.bids if entry.is_buy else self.asks
        level = side.level(entry.price)
        left, part = entry.left, entry.part
        entry.shown = shown = left if not part or left < part else part
        self._append(level, entry)
        level.qty += shown
        if entry.house:
            level.house += shown
        self.update_id += 1
        side.changed.add(level.price)

    def remove(self, entry: Entry) -> None:
        """Take an order off the book."""
        level = entry.level
        assert level is not None
        side = self.bids if entry.is_buy else self.asks
        level.qty -= entry.shown
        if entry.house:
            level.house -= entry.shown
        entry.shown = 0
        self._unlink(level, entry)
        if level.first is None:
            side.drop(level.price)
        self.update_id += 1
        side.changed.add(level.price)

    def take(self, entry: Entry, qty: int) -> None:
        """A resting order trades (or is prevented from trading) `qty`, at most what it has left.

        An iceberg whose part is gone shows the next one at the back of the queue.
        """
        level = entry.level
        assert level is not None
        side = self.bids if entry.is_buy else self.asks
        entry.left -= qty
        was, left = entry.shown, entry.left
        if qty < was:
            entry.shown = was - qty
        else:
            self._unlink(level, entry)
            if left:
                entry.shown = min(left, entry.part)
                self._append(level, entry)
            else:
                entry.shown = 0
        change = entry.shown - was
        level.qty += change
        if entry.house:
            level.house += change
        if level.first is None:
            side.drop(level.price)
        if change:
            self.update_id += 1
            side.changed.add(level.price)

    def shrink(self, entry: Entry, left: int) -> None:
        """An order keeps its place with less; an iceberg shows less only where less than a part is left."""
        level = entry.level
        assert level is not None
        entry.left = left
        change = min(entry.shown, left) - entry.shown
        if change:
            side = self.bids if entry.is_buy else self.asks
            entry.shown += change
            level.qty += change
            if entry.house:
                level.house += change
            self.update_id += 1
            side.changed.add(level.price)

    def set_house(self, is_buy: bool, price: int, qty: int, next_id: list[int]) -> None:
        """Make the house show `qty` at a price: more joins at the back, less leaves from the back.

        `next_id` is the symbol's order id counter, in a list of one.
        """
        side = self.bids if is_buy else self.asks
        level = side.levels.get(price)
        had = 0 if level is None else level.house
        more = qty - had
        if more == 0:
            return
        if more < 0:
            assert level is not None
            self._house_less(level, -more)
            if level.first is None:
                side.drop(price)
        else:
            if level is None:
                level = side.level(price)
            last = level.last
            if last is not None and last.house:
                last.left += more
                last.shown += more
            else:
                entry = Entry(next_id[0], is_buy, price, more)
                next_id[0] += 1
                entry.shown = more
                self._append(level, entry)
        level.qty += more
        level.house = qty
        self.update_id += 1
        side.changed.add(price)

    def _house_less(self, level: Level, less: int) -> None:
        entry = level.last
        while less:
            assert entry is not None
            ahead = entry.ahead
            if entry.house:
                if entry.left > less:
                    entry.left -= less
                    entry.shown -= less
                    return
                less -= entry.left
                entry.left = entry.shown = 0
                self._unlink(level, entry)
            entry = ahead

    @staticmethod
    def _append(level: Level, entry: Entry) -> None:
        last = level.last
        entry.level, entry.ahead, entry.behind = level, last, None
        if last is None:
            level.first = entry
        else:
            last.behind = entry
        level.last = entry

    @staticmethod
    def _unlink(level: Level, entry: Entry) -> None:
        ahead, behind = entry.ahead, entry.behind
        if ahead is None:
            level.first = behind
        else:
            ahead.behind = behind
        if behind is None:
            level.last = ahead
        else:
            behind.ahead = ahead
        entry.level = entry.ahead = entry.behind = None
