"""Budgets: what we counted, what the venue counted, and the windows both are aligned with."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tbx.core.kernel.clock import MS_NS, SECOND_NS, ManualClock
from tbx.venues.limits import (
    DAY_NS,
    MINUTE_NS,
    Budget,
    Budgets,
    ConnectBudget,
    LimitSeen,
    binance_budgets,
    read_headers,
    retry_after_ns,
    stop_of,
)

from .live_network import ProcessClock, Stepped

NOON_NS = 1_704_110_400 * SECOND_NS  # a whole minute, and a whole day's half


def test_a_budget_passes_its_limit_less_the_reserve_and_then_names_the_wait() -> None:
    budget = Budget("ORDERS", 100, 10 * SECOND_NS)
    assert [budget.take(1, NOON_NS) for _ in range(98)] == [0] * 98
    assert budget.take(1, NOON_NS + 3 * SECOND_NS) == 7 * SECOND_NS
    assert budget.remaining(NOON_NS) == 2  # the reserve, for others behind the same address
    assert budget.take(1, NOON_NS + 10 * SECOND_NS) == 0


def test_windows_are_aligned_with_the_clock_and_not_with_the_first_request() -> None:
    budget = Budget("REQUEST_WEIGHT", 10, MINUTE_NS)
    assert budget.take(10, NOON_NS - MS_NS) == 0
    assert budget.take(10, NOON_NS) == 0
    assert budget.reset_ns(NOON_NS) == NOON_NS + MINUTE_NS


def test_a_clock_a_little_behind_does_not_empty_a_window_and_one_set_back_begins_anew() -> None:
    budget = Budget("ORDERS", 100, 10 * SECOND_NS)
    assert budget.take(98, NOON_NS) == 0
    assert budget.take(1, NOON_NS - MS_NS) > 0
    assert budget.take(1, NOON_NS + MS_NS) > 0
    assert budget.take(98, NOON_NS - 3_600 * SECOND_NS) == 0


def test_the_venues_count_replaces_ours_and_keeps_what_it_cannot_have_seen() -> None:
    budget = Budget("REQUEST_WEIGHT", 100, MINUTE_NS)
    for _ in range(3):
        budget.take(10, NOON_NS)
    budget.settle(10)
    budget.observe(25, 0, NOON_NS)  # another process took 15
    assert budget.remaining(NOON_NS) == 100 - 25 - 20
    budget.settle(10)
    budget.settle(10)
    budget.observe(5, 50, NOON_NS)  # orders that filled do not count any more, and the limit was changed
    assert budget.remaining(NOON_NS) == 45


def test_nothing_passes_before_the_end_of_a_ban() -> None:
    budget, clock = Budget("REQUEST_WEIGHT", 100, MINUTE_NS), ManualClock(NOON_NS)
    budget.stop.begin(clock, 150 * SECOND_NS)
    budget.stop.begin(clock, 30 * SECOND_NS)  # one that ends earlier changes nothing
    assert budget.take(1, NOON_NS) == 150 * SECOND_NS
    assert budget.remaining(NOON_NS) == 0
    assert budget.reset_ns(NOON_NS) == NOON_NS + 150 * SECOND_NS
    clock.advance(149 * SECOND_NS)
    assert budget.take(1, clock.now_ns()) == SECOND_NS
    clock.advance(SECOND_NS)
    assert budget.take(1, clock.now_ns()) == 0


@pytest.mark.parametrize("jump_s", [-3_600, -5, 5, 3_600])
def test_a_ban_lasts_as_long_as_it_was_told_to_whatever_the_clock_is_set_to(jump_s: int) -> None:
    world = Stepped()
    clock = ProcessClock(world)
    budgets = binance_budgets()
    budgets.stop(clock, 150 * SECOND_NS)
    clock.skew_ns = jump_s * SECOND_NS
    for _ in range(149):
        wait_ns = budgets.take("REQUEST_WEIGHT", 1, clock.now_ns())
        assert 0 < wait_ns <= 160 * SECOND_NS
        world.advance(SECOND_NS)
    world.advance(SECOND_NS)
    assert budgets.take("REQUEST_WEIGHT", 1, clock.now_ns()) == 0


@pytest.mark.parametrize(
    ("status", "asked_s", "stop_s"),
    [
        (429, 9, 9),
        (418, 3 * 86_400, 3 * 86_400),
        (418, 3 * 86_400 + 1, 120),
        (429, 10**12, 60),
        (429, 0, 60),
        (418, -5, 120),
        (418, None, 120),
        (503, 60, 0),
        (200, None, 0),
    ],
)
def test_a_stop_is_as_long_as_the_venue_says_within_what_it_documents(
    status: int, asked_s: int | None, stop_s: int
) -> None:
    assert stop_of(status, None if asked_s is None else asked_s * SECOND_NS) == stop_s * SECOND_NS


@pytest.mark.parametrize(
    ("text", "seconds"), [("33", 33), ("0", 0), ("", None), ("soon", None), ("-1", None), ("٣", None), ("9" * 40, None)]
)
def test_retry_after_is_read_as_seconds_or_not_at_all(text: str, seconds: int | None) -> None:
    assert retry_after_ns(text) == (None if seconds is None else seconds * SECOND_NS)


def test_limits_that_the_exchange_publishes_take_the_place_of_the_documented_ones() -> None:
    budgets = binance_budgets()
    budgets.allow("REQUEST_WEIGHT", MINUTE_NS, 1_200)
    budgets.allow("RAW_REQUESTS", 5 * MINUTE_NS, 61_000)
    budgets.allow("ORDERS", 10 * SECOND_NS, 0)  # no limit: nothing is changed
    assert budgets.remaining("REQUEST_WEIGHT", NOON_NS) == 1_200
    assert budgets.remaining("RAW_REQUESTS", NOON_NS) == 61_000
    assert budgets.remaining("ORDERS", NOON_NS) == 100


def test_a_weight_above_the_whole_budget_may_begin_a_window() -> None:
    budget = Budget("REQUEST_WEIGHT", 10, MINUTE_NS)
    assert budget.take(250, NOON_NS) == 0
    assert budget.take(1, NOON_NS) == MINUTE_NS


def test_a_group_takes_from_every_window_of_a_kind_or_from_none() -> None:
    day = Budget("ORDERS", 3, DAY_NS)
    budgets = Budgets([Budget("ORDERS", 2, 10 * SECOND_NS), day, Budget("REQUEST_WEIGHT", 1, MINUTE_NS)])
    assert budgets.take("ORDERS", 1, NOON_NS) == 0
    assert budgets.take("ORDERS", 1, NOON_NS) == 0
    assert budgets.take("ORDERS", 1, NOON_NS) == 10 * SECOND_NS
    assert day.remaining(NOON_NS) == 1
    assert budgets.take("ORDERS", 1, NOON_NS + 10 * SECOND_NS) == 0
    assert budgets.take("ORDERS", 1, NOON_NS + 20 * SECOND_NS) == DAY_NS // 2 - 20 * SECOND_NS
    assert budgets.remaining("ORDERS", NOON_NS + 20 * SECOND_NS) == 0
    assert budgets.reset_ns("ORDERS", NOON_NS + 20 * SECOND_NS) == NOON_NS + DAY_NS // 2
    assert budgets.take("CONNECTIONS", 1, NOON_NS) == 0  # nobody limits it


def test_a_window_that_the_venue_reports_is_known_from_then_on() -> None:
    budgets = binance_budgets()
    budgets.observe("RAW_REQUESTS", 5 * MINUTE_NS, 61_000, 61_000, NOON_NS)
    assert budgets.take("RAW_REQUESTS", 1, NOON_NS) == 5 * MINUTE_NS
    budgets.observe("SOMETHING", MINUTE_NS, 5, 0, NOON_NS)  # no limit is known: nothing to hold to
    assert budgets.take("SOMETHING", 1, NOON_NS) == 0


def test_a_stop_may_be_of_one_kind() -> None:
    budgets = binance_budgets()
    budgets.stop(ManualClock(NOON_NS), SECOND_NS, "ORDERS")
    assert budgets.take("ORDERS", 1, NOON_NS) == SECOND_NS
    assert budgets.take("REQUEST_WEIGHT", 1, NOON_NS) == 0


@pytest.mark.parametrize(
    ("headers", "seen"),
    [
        pytest.param({"X-MBX-USED-WEIGHT-1M": "12"}, [LimitSeen("REQUEST_WEIGHT", MINUTE_NS, 12)], id="weight"),
        pytest.param({"x-mbx-order-count-10s": "3"}, [LimitSeen("ORDERS", 10 * SECOND_NS, 3)], id="orders"),
        pytest.param({"X-MBX-ORDER-COUNT-1D": "7"}, [LimitSeen("ORDERS", DAY_NS, 7)], id="orders of the day"),
        pytest.param({"X-MBX-USED-WEIGHT": "12", "Date": "today"}, [], id="without an interval"),
        pytest.param({"X-MBX-USED-WEIGHT-1X": "12"}, [], id="unknown unit"),
        pytest.param({"X-MBX-USED-WEIGHT-1M": "many"}, [], id="no number"),
        pytest.param({"X-MBX-USED-WEIGHT-0M": "1", "X-MBX-USED-WEIGHT-": "1"}, [], id="no interval"),
        pytest.param({"X-MBX-USED-WEIGHT-1M": "9" * 40}, [], id="too long"),
    ],
)
def test_headers_tell_the_counts(headers: dict[str, str], seen: list[LimitSeen]) -> None:
    assert read_headers(headers) == seen


@pytest.mark.parametrize(("limit", "interval_ns"), [(0, SECOND_NS), (1, 0), (-1, SECOND_NS)])
def test_a_budget_of_nothing_is_refused(limit: int, interval_ns: int) -> None:
    with pytest.raises(ValueError, match="both must be positive"):
        Budget("ORDERS", limit, interval_ns)


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 5 * SECOND_NS)), max_size=60))
def test_no_window_ever_passes_more_than_its_limit(requests: list[tuple[int, int]]) -> None:
    budget, now_ns, taken = Budget("REQUEST_WEIGHT", 100, 10 * SECOND_NS), NOON_NS, dict[int, int]()
    for weight, pause_ns in requests:
        now_ns += pause_ns
        wait_ns = budget.take(weight, now_ns)
        if wait_ns:  # what was refused fits when the wait is over, as nobody else asks
            now_ns += wait_ns
            assert budget.take(weight, now_ns) == 0
        window = now_ns // (10 * SECOND_NS)
        taken[window] = taken.get(window, 0) + weight
    assert all(weight <= 100 for weight in taken.values())


def test_connects_are_three_hundred_in_five_minutes() -> None:
    connects = ConnectBudget()
    waits = [connects.take(1, NOON_NS) for _ in range(300)]
    assert waits.count(0) == 294 and waits[-1] == 5 * MINUTE_NS
