"""Walks of one book and of several: the laws, against slow models and plain Python twins."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tbx.core.market.book import BUY, SELL, Book
from tbx.core.market.slippage import Venue, walk_book, walk_venues

from .reference import UNITS_MAX, ModelVenue, twin, walked, walked_together

laws = settings(max_examples=150, deadline=None, derandomize=True, database=None)

SIDE = st.dictionaries(st.integers(1, 60), st.integers(1, 9), max_size=12)
HUGE = st.dictionaries(st.integers(UNITS_MAX // 2, UNITS_MAX), st.integers(1, UNITS_MAX // 8), max_size=5)


def book_of(bids: dict[int, int], asks: dict[int, int]) -> Book:
    book = Book("binance", "X", price_decimals=0, qty_decimals=0, depth_max=100)
    assert book.set_levels(list(bids.items()), list(asks.items()), 1) == 0
    return book


def one_sided(levels: dict[int, int], side: int) -> Book:
    return book_of({}, levels) if side == BUY else book_of(levels, {})


def test_a_buy_walks_up_the_asks() -> None:
    walk = walk_book(book_of({99: 5}, {101: 2, 103: 4, 110: 10}), BUY, 5)
    assert (walk.filled_lots, walk.left_lots, walk.cost) == (5, 0, 2 * 101 + 3 * 103)
    assert (walk.worst_ticks, walk.levels) == (103, 2)
    assert walk.average_ticks == Fraction(511, 5)
    assert walk.slippage_best_bps == pytest.approx((102.2 - 101) / 101 * 1e4)
    assert walk.slippage_mid_bps == pytest.approx((102.2 - 100) / 100 * 1e4)


def test_a_sell_walks_down_the_bids() -> None:
    walk = walk_book(book_of({99: 5, 95: 5}, {101: 2}), SELL, 20)
    assert (walk.filled_lots, walk.left_lots, walk.cost, walk.worst_ticks, walk.levels) == (10, 10, 970, 95, 2)
    assert walk.slippage_best_bps == pytest.approx((99 - 97) / 99 * 1e4)
    assert walk.slippage_mid_bps == pytest.approx((100 - 97) / 100 * 1e4)


# name: (side, limit, filled, worst)
LIMITS = {
    "buy at the best": (BUY, 101, 2, 101),
    "buy between levels": (BUY, 109, 6, 103),
    "buy below the best": (BUY, 100, 0, 0),
    "buy beyond all": (BUY, 10**30, 16, 110),
    "sell at the second": (SELL, 95, 10, 95),
    "sell above the best": (SELL, 100, 0, 0),
    "sell at anything": (SELL, 0, 10, 95),
}


@pytest.mark.parametrize(("side", "limit", "filled", "worst"), LIMITS.values(), ids=LIMITS)
def test_a_limit_is_inclusive(side: int, limit: int, filled: int, worst: int) -> None:
    walk = walk_book(book_of({99: 5, 95: 5}, {101: 2, 103: 4, 110: 10}), side, 1000, limit)
    assert (walk.filled_lots, walk.worst_ticks) == (filled, worst)


def test_an_empty_side_fills_nothing_and_slips_nothing() -> None:
    walk = walk_book(book_of({99: 5}, {}), BUY, 5)
    assert (walk.filled_lots, walk.left_lots, walk.cost, walk.best_ticks, walk.other_ticks) == (0, 5, 0, 0, 99)
    assert walk.average_ticks is None
    assert (walk.slippage_best_bps, walk.slippage_mid_bps) == (0.0, 0.0)


def test_without_a_mid_slippage_is_against_the_best() -> None:
    walk = walk_book(book_of({}, {100: 1, 102: 1}), BUY, 2)
    assert walk.slippage_mid_bps == walk.slippage_best_bps == pytest.approx(100.0)


@pytest.mark.parametrize("lots", [-1, UNITS_MAX + 1])
def test_lots_out_of_range_are_refused(lots: int) -> None:
    book = book_of({}, {1: 1})
    with pytest.raises(ValueError, match="cannot be walked"):
        walk_book(book, BUY, lots)
    with pytest.raises(ValueError, match="cannot be walked"):
        walk_venues([Venue(book)], BUY, lots)


@laws
@given(st.one_of(SIDE, HUGE), st.sampled_from([BUY, SELL]), st.integers(0, UNITS_MAX), st.booleans(), st.data())
def test_a_walk_is_what_the_model_says(
    levels: dict[int, int], side: int, want: int, modest: bool, data: st.DataObject
) -> None:
    want = want % 120 if modest else want
    limit = data.draw(st.one_of(st.none(), st.integers(0, 70), st.integers(0, UNITS_MAX)))
    book = one_sided(levels, side)
    walk = walk_book(book, side, want, limit)
    found = (walk.filled_lots, walk.cost, walk.worst_ticks, walk.levels)
    assert found == walked(list(levels.items()), side, want, limit)
    assert walk.filled_lots + walk.left_lots == want
    if walk.filled_lots:
        low, high = sorted((walk.best_ticks, walk.worst_ticks))
        assert low * walk.filled_lots <= walk.cost <= high * walk.filled_lots
        assert walk.slippage_best_bps >= 0
    with np.errstate(over="ignore"):
        plain = twin("core.market.kernels_walk").walk(
            book.resting(-side), want, limit if limit is not None else (UNITS_MAX if side == BUY else 0)
        )
    assert (plain[0], int(plain[1]) << 64 | int(plain[2])) == (walk.filled_lots, walk.cost)
    assert (plain[3], plain[4]) == (walk.worst_ticks, walk.levels)


@laws
@given(SIDE, st.sampled_from([BUY, SELL]), st.integers(0, 100), st.integers(0, 100))
def test_wanting_more_never_makes_it_better(levels: dict[int, int], side: int, want: int, more: int) -> None:
    book = one_sided(levels, side)
    small, large = walk_book(book, side, want), walk_book(book, side, want + more)
    assert large.filled_lots >= small.filled_lots
    assert large.cost >= small.cost
    if small.filled_lots:
        assert side * large.worst_ticks >= side * small.worst_ticks
        assert large.slippage_best_bps >= small.slippage_best_bps - 1e-9


VENUES = st.lists(
    st.builds(
        ModelVenue,
        levels=SIDE.map(lambda side: list(side.items())),
        fee_ppm=st.integers(-500, 5000) | st.sampled_from([0, 1000, 999_999]),
        price_scale=st.sampled_from([1, 2, 5, 10]),
        lot_scale=st.sampled_from([1, 2, 5]),
    ),
    max_size=16,
)


@laws
@given(VENUES, st.sampled_from([BUY, SELL]), st.integers(0, 400), st.one_of(st.none(), st.integers(0, 400)))
def test_a_consolidated_walk_is_the_brute_force_one(
    models: list[ModelVenue], side: int, want: int, limit: int | None
) -> None:
    venues = [Venue(one_sided(dict(m.levels), side), m.fee_ppm, m.price_scale, m.lot_scale) for m in models]
    walk = walk_venues(venues, side, want, limit)
    left, taken = walked_together(models, side, want, limit)
    assert walk.left_lots == left
    assert {leg.venue: (leg.filled_lots, leg.cost) for leg in walk.legs} == taken
    assert walk.filled_lots + walk.left_lots == want
    assert walk.filled_lots == sum(leg.filled_lots * models[leg.venue].lot_scale for leg in walk.legs)
    scaled = [(models[v], filled, cost) for v, (filled, cost) in taken.items()]
    assert walk.cost == sum(cost * model.price_scale * model.lot_scale for model, _, cost in scaled)
    assert walk.fee_millionths == sum(c * m.price_scale * m.lot_scale * m.fee_ppm for m, _, c in scaled)
    worst = [side * leg.worst_ticks * models[leg.venue].price_scale for leg in walk.legs]
    assert walk.worst_price == (side * max(worst) if worst else 0)


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(st.lists(st.tuples(HUGE, st.integers(0, 5000)), min_size=1, max_size=4), st.integers(0, UNITS_MAX))
def test_costs_beyond_64_bits_stay_exact(rows: list[tuple[dict[int, int], int]], want: int) -> None:
    models = [ModelVenue(list(levels.items()), fee, 1, 1) for levels, fee in rows]
    walk = walk_venues([Venue(one_sided(levels, BUY), fee) for levels, fee in rows], BUY, want)
    left, taken = walked_together(models, BUY, want, None)
    assert (walk.left_lots, {leg.venue: (leg.filled_lots, leg.cost) for leg in walk.legs}) == (left, taken)


def test_the_fee_decides_between_equal_prices() -> None:
    dear, cheap = book_of({}, {100: 5}), book_of({}, {100: 5, 101: 5})
    walk = walk_venues([Venue(dear, fee_ppm=2000), Venue(cheap, fee_ppm=1000)], BUY, 7)
    assert [(leg.venue, leg.filled_lots, leg.worst_ticks) for leg in walk.legs] == [(0, 2, 100), (1, 5, 100)]
    assert walk.fee_millionths == 2 * 100 * 2000 + 5 * 100 * 1000


def test_a_rebate_can_make_the_worse_price_the_better_one() -> None:
    walk = walk_venues([Venue(book_of({100: 5}, {}), 20_000), Venue(book_of({99: 5}, {}), -1000)], SELL, 5)
    assert [leg.venue for leg in walk.legs] == [1]


def test_what_is_less_than_a_venues_lot_goes_elsewhere() -> None:
    coarse, fine = book_of({}, {100: 5}), book_of({}, {120: 50})
    walk = walk_venues([Venue(coarse, lot_scale=10), Venue(fine)], BUY, 25)
    assert [(leg.venue, leg.filled_lots) for leg in walk.legs] == [(0, 2), (1, 5)]


# name: (venues, text of the error)
REFUSED = {
    "too many": ([Venue(book_of({}, {1: 1}))] * 17, "17 venues"),
    "fee of 100 %": ([Venue(book_of({}, {1: 1}), fee_ppm=1_000_000)], "fee 1000000 ppm"),
    "no scale": ([Venue(book_of({}, {1: 1}), price_scale=0)], "positive"),
    "scale too large": ([Venue(book_of({}, {1: 1, UNITS_MAX: 1}), price_scale=2)], "exceeds"),
}


@pytest.mark.parametrize(("venues", "text"), REFUSED.values(), ids=REFUSED)
def test_venues_that_cannot_be_compared_are_refused(venues: list[Venue], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        walk_venues(venues, BUY, 1)


def test_the_books_stay_as_they_were() -> None:
    book = book_of({99: 5}, {101: 2})
    walk_book(book, BUY, 2)
    walk_venues([Venue(book)], SELL, 5)
    assert (book.levels(BUY, 9), book.levels(SELL, 9)) == ([(99, 5)], [(101, 2)])
