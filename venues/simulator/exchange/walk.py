"""What an order would trade now, without trading: for funds, for quote quantities, for fill or kill.

Always true here: a walk meets the orders that `Floor.match` would meet, in the same order, icebergs and self-trade
prevention included; so its cost is what the trades will cost, to the unit.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from .matching import Entry, Level
from .orders import Live
from .records import UNIT


class Way(NamedTuple):
    """How far an order gets. `qty` includes what would be prevented by DECREMENT, `cost` is of trades only."""

    qty: int
    cost: int
    exhausted: bool  # the book, or the price, ended before the quantity


def walk(live: Live, *, qty: int = 0, quote: int = 0, step: int = 1, whole: bool = False) -> Way:
    """The way of an order for `qty`, or for what `quote` buys (or yields) in multiples of `step`.

    With `whole` (fill or kill) the way ends where prevention would keep the order from trading all of it.
    """
    opposite = live.market.book.side(not live.is_buy)
    limit, by_quote = live.price, quote > 0
    done = cost = 0
    for level in opposite.from_best():
        price = level.price
        if limit and (price > limit if live.is_buy else price < limit):
            break
        left = quote * UNIT // price // step * step if by_quote else qty
        if left <= 0:
            return Way(done, cost, False)
        taken, prevented, stopped = _level(live, level, left, whole)
        done += taken + prevented
        cost += price * taken // UNIT
        qty -= taken + prevented
        quote -= price * (taken + prevented) // UNIT
        if stopped:
            return Way(done, cost, whole)
        if taken + prevented == left:
            return Way(done, cost, False)
    return Way(done, cost, True)


def _level(live: Live, level: Level, left: int, whole: bool) -> tuple[int, int, bool]:
    """(traded, prevented, whether prevention ends the order) at one price."""
    mode = live.order.stp_mode
    if mode == "NONE" or not any(_own(live, entry) for entry in level):
        return min(left, sum([entry.left for entry in level])), 0, False
    queue = deque((entry, entry.shown, entry.left) for entry in level)
    taken = prevented = 0
    while queue and left:
        entry, shown, rest = queue.popleft()
        if _own(live, entry):
            if mode == "EXPIRE_MAKER":
                continue
            if mode != "DECREMENT" or whole:
                return taken, prevented, True
            both = min(left, rest)
            prevented += both
            left -= both
            continue
        now = min(left, shown)
        taken += now
        left -= now
        rest -= now
        if now == shown and rest:
            queue.append((entry, min(entry.part, rest), rest))
    return taken, prevented, False


def _own(live: Live, entry: Entry) -> bool:
    return isinstance(entry, Live) and entry.account is live.account
