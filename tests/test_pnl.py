"""The position kernel: exact in 128 bits, its twin and plain integers agree, nothing wraps silently."""

from decimal import ROUND_HALF_EVEN, Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tbx.core.portfolio import pnl
from tbx.core.portfolio.pnl import ASK, OK, UNPRICED, WIDE, Columns

pytestmark = pytest.mark.portfolio

D = Decimal
INT64_MAX = 2**63 - 1
LIMIT = 2**126 - 1


def half_even(value: int, step: int) -> int:
    return int((D(value) / step).quantize(D(1), ROUND_HALF_EVEN))


def half_even_ratio(part: int, whole: int) -> int:
    return round(Fraction(part, whole))


def columns(rows: list[tuple[int, int, int, int, int]]) -> Columns:
    """Rows of (group, quantity, mark, cost, day) in the kernel's units."""
    made = Columns(1)
    for group, quantity, mark, cost, day in rows:
        row = made.take_row()
        assert made.put(row, group, D(quantity).scaleb(-8), D(cost).scaleb(-18), D(day).scaleb(-18))
        assert made.put_mark(row, D(mark).scaleb(-10))
    return made


whole = st.one_of(st.integers(0, INT64_MAX), st.integers(0, 10**12))
costs = st.one_of(st.integers(-LIMIT, LIMIT), st.integers(-(10**20), 10**24))
rows_of = st.lists(st.tuples(st.integers(0, 2), whole, whole, costs, costs), max_size=12)


@settings(deadline=None, max_examples=200)
@given(rows_of)
def test_figures_and_sums_are_those_of_unbounded_integers(rows):
    made = columns(rows)
    expected = dict.fromkeys(range(6), 0)
    for group, quantity, mark, cost, _ in rows:
        expected[2 * group] += quantity * mark
        expected[2 * group + 1] += cost
    fits = made.value(3)
    if all(-(2**127) <= total < 2**127 for total in expected.values()):
        assert fits or any(abs(total) >= 2**126 for total in expected.values())  # an early sum may leave the range
    else:
        assert not fits
    if fits:
        assert [made.sum(at).scaleb(18) for at in range(6)] == list(expected.values())
    for row, (_, quantity, mark, cost, day) in enumerate(rows):
        exact = [half_even(quantity * mark - part, 10**10) for part in (0, cost, day)]
        if made.status[row] == OK:
            assert made.figures[row].tolist()[:3] == exact
            for at, part, of in ((3, exact[1] * 10**10, cost), (4, exact[2], exact[0] - exact[2])):
                share = half_even_ratio(part * 10**6, of) if of else 0
                assert made.figures[row, at] in (share, ASK)
                if abs(share) > 10**8:
                    assert made.figures[row, at] == ASK
        else:
            assert made.status[row] == WIDE
            assert max(map(abs, exact)) > 8.9e18


@settings(deadline=None, max_examples=200)
@given(rows_of)
def test_the_compiled_kernel_and_its_plain_twin_agree(rows):
    made, twin = columns(rows), columns(rows)
    fits = made.value(3)
    with pytest.MonkeyPatch.context() as patch, np.errstate(over="ignore"):
        for name in ("multiply", "subtract", "round_to_1e8", "as_float", "percentage", "add_to", "value_positions"):
            patch.setattr(pnl, name, getattr(pnl, name).py_func)
        assert twin.value(3) == fits
    assert twin.status.tolist() == made.status.tolist()
    assert twin.figures[made.status == OK].tolist() == made.figures[made.status == OK].tolist()
    if fits:
        assert twin.sums_high.tolist() == made.sums_high.tolist()
        assert twin.sums_low.tolist() == made.sums_low.tolist()


@pytest.mark.parametrize(
    ("name", "value", "rounded"),
    [
        ("half above an even figure stays", 2 * 10**10 + 5 * 10**9, 2),
        ("half above an odd figure goes up", 3 * 10**10 + 5 * 10**9, 4),
        ("a hair under half goes down", 3 * 10**10 + 5 * 10**9 - 1, 3),
        ("a loss rounds like a gain", -(3 * 10**10 + 5 * 10**9), -4),
        ("the largest that is taken", 9 * 10**28 - 10**13, 9 * 10**18 - 10**3),
    ],
)
def test_rounding_is_half_to_even(name, value, rounded):
    made = columns([(0, 0, 0, -value, 0)])
    made.value(1)
    assert made.figures[0, 1] == rounded


def test_a_percentage_next_to_a_tie_is_left_to_exact_arithmetic():
    made = columns([(0, 10**8, 10**10 + 125, 10**18, 10**18), (0, 10**8, 11 * 10**9, 10**18, 10**18)])
    made.value(1)
    assert made.figures[:, 3].tolist() == [0, 100_000]
    made = columns([(0, 10**8, 10**10 + 5_000, 10**18, 0)])  # 0.00005 %
    made.value(1)
    assert made.figures[0, 3] == ASK


def test_a_sum_that_leaves_128_bits_is_reported():
    most = INT64_MAX
    assert columns([(0, most, most, 0, 0)]).value(1)
    assert not columns([(0, most, most, 0, 0)] * 3).value(1)


def test_a_row_without_a_price_counts_nothing_and_a_freed_row_is_used_again():
    made = columns([(0, 10**8, 10**10, 10**18, 0)])
    row = made.take_row()
    made.put(row, 0, D(1), D(1), D(0))
    made.value(1)
    assert made.status[row] == UNPRICED
    assert made.sum(0) == 1
    made.give_back(0)
    made.value(1)
    assert made.sum(0) == 0
    assert made.take_row() == 0


@pytest.mark.parametrize(
    ("name", "quantity", "cost"),
    [
        ("a quantity between the units", "0.000000001", "1"),
        ("a quantity beyond 63 bits", "92233720368.54775808", "1"),
        ("a cost between the units", "1", "1E-19"),
        ("a cost beyond 126 bits", "1", "1E+20"),
    ],
)
def test_what_the_units_cannot_hold_is_refused_not_rounded(name, quantity, cost):
    made = Columns()
    row = made.take_row()
    assert not made.put(row, 0, D(quantity), D(cost), D(0))
    assert made.group[row] == -1


def test_a_price_that_the_units_cannot_hold_frees_the_row():
    made = Columns()
    row = made.take_row()
    assert made.put(row, 0, D(1), D(1), D(0))
    assert not made.put_mark(row, D("1E-11"))
    made.value(1)
    assert made.sum(1) == 0
