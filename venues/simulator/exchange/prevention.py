"""Self-trade prevention: what happens where two orders of one account would trade with each other.

Always true here: the mode of the taker decides.
Source: Binance's self-trade prevention FAQ.
"""

from __future__ import annotations

from typing import NamedTuple


class Prevention(NamedTuple):
    """Quantities that are prevented. An order of which nothing is left ends as EXPIRED_IN_MATCH."""

    taker: int
    maker: int


def prevent(mode: str, taker_left: int, maker_left: int) -> Prevention | None:
    """What the mode makes of a match; None where it lets the orders trade."""
    if mode == "EXPIRE_MAKER":
        return Prevention(0, maker_left)
    if mode == "EXPIRE_TAKER":
        return Prevention(taker_left, 0)
    if mode == "EXPIRE_BOTH":
        return Prevention(taker_left, maker_left)
    if mode == "DECREMENT":
        both = min(taker_left, maker_left)
        return Prevention(both, both)
    return None
