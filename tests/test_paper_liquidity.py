"""The same displayed lot never fills two orders."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tbx.venues.paper_liquidity import Liquidity

from .paper_desk import Desk

pytestmark = pytest.mark.paper_trading


def test_the_same_displayed_lot_never_fills_two_orders() -> None:
    desk = Desk()
    desk.place("c1", lots=8)
    desk.place("c2", lots=8)
    assert desk.fills("c1") == [(102, 8)]
    assert desk.fills("c2") == [(102, 2), (103, 6)]


def test_only_what_is_newly_displayed_can_be_taken_again() -> None:
    desk = Desk()
    desk.place("c1", lots=10)
    desk.diff(asks={104: 31})
    desk.place("c2", lots=1)
    assert desk.fills("c2") == [(103, 1)], "an update elsewhere refills nothing"
    desk.diff(asks={102: 13})
    desk.place("c3", lots=4)
    assert desk.fills("c3") == [(102, 3), (103, 1)], "three lots were added"


def test_a_level_that_goes_and_comes_back_is_new() -> None:
    desk = Desk()
    desk.place("c1", lots=10)
    desk.diff(asks={102: 0})
    desk.diff(asks={102: 7})
    desk.place("c2", lots=10)
    assert desk.fills("c2") == [(102, 7), (103, 3)]


@given(st.lists(st.tuples(st.integers(0, 30), st.lists(st.integers(1, 20), max_size=4)), min_size=1, max_size=20))
def test_lots_taken_at_a_price_never_exceed_what_was_displayed_there(steps: list[tuple[int, list[int]]]) -> None:
    """Against a model in which each displayed lot is a thing of its own."""
    shown = 0
    free, used = 0, 0  # of the lots that are displayed
    liquidity = Liquidity(lambda n: [(100, shown)] if shown else [], lambda prices: [shown for _ in prices], +1)
    ever, taken = 0, 0
    for lots, orders in steps:
        ever += max(0, lots - shown)
        for _ in range(lots, shown):
            if free:
                free -= 1
            else:
                used -= 1
        free += max(0, lots - shown)
        shown = lots
        liquidity.moved()
        for want in orders:
            assert liquidity.offers(want, None) == (free >= want)
            got = sum(n for _, n in liquidity.take(want, None))
            assert got == min(want, free)
            free, used, taken = free - got, used + got, taken + got
    assert taken <= ever
    assert free + used == shown
