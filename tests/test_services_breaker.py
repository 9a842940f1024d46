"""The circuit breaker: it opens after failures in a row, stays shut for its time, and lets one call through then."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tbx.strategies_bridge.services.breaker import FAILURES, OPEN_NS, Breaker


class Time:
    def __init__(self) -> None:
        self.ns = 1_000

    def now(self) -> int:
        return self.ns


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def breaker(time: Time) -> Breaker:
    return Breaker(time.now)


def admitted(breaker: Breaker) -> int:
    ticket = breaker.admit()
    assert ticket is not None
    return ticket


def fail(breaker: Breaker, times: int = FAILURES) -> None:
    for _ in range(times):
        breaker.failed(admitted(breaker))


def test_it_opens_after_three_failures_in_a_row_and_not_before(breaker: Breaker) -> None:
    fail(breaker, FAILURES - 1)
    breaker.passed(admitted(breaker))
    fail(breaker, FAILURES - 1)
    assert breaker.state == "closed"
    fail(breaker, 1)
    assert breaker.state == "open"
    assert breaker.admit() is None


def test_after_its_time_one_call_goes_through_and_its_success_closes_it(breaker: Breaker, time: Time) -> None:
    fail(breaker)
    time.ns += OPEN_NS - 1
    assert breaker.admit() is None
    time.ns += 1
    trial = admitted(breaker)
    assert breaker.state == "half-open"
    assert breaker.admit() is None
    breaker.passed(trial)
    assert breaker.state == "closed"
    assert breaker.opened == 1


def test_the_failure_of_the_one_call_opens_it_for_the_whole_time_again(breaker: Breaker, time: Time) -> None:
    fail(breaker)
    time.ns += OPEN_NS
    breaker.failed(admitted(breaker))
    assert breaker.state == "open"
    time.ns += OPEN_NS - 1
    assert breaker.admit() is None
    time.ns += 1
    assert breaker.admit() is not None


def test_a_trial_that_was_called_off_leaves_room_for_another(breaker: Breaker, time: Time) -> None:
    fail(breaker)
    time.ns += OPEN_NS
    breaker.dropped(admitted(breaker))
    assert breaker.admit() is not None


def test_late_answers_from_before_it_opened_change_nothing(breaker: Breaker, time: Time) -> None:
    early, late = admitted(breaker), admitted(breaker)
    fail(breaker)
    breaker.passed(early)
    assert breaker.state == "open"
    time.ns += OPEN_NS
    trial = admitted(breaker)
    breaker.failed(late)
    assert breaker.state == "half-open"
    breaker.passed(trial)
    assert breaker.state == "closed"


def test_a_clock_that_is_set_back_does_not_keep_it_open(breaker: Breaker, time: Time) -> None:
    fail(breaker)
    time.ns -= 3_600 * OPEN_NS
    assert breaker.admit() is not None


STEP = st.sampled_from(("admit", "passed", "failed", "dropped", "wait a little", "wait"))


@given(st.lists(st.tuples(STEP, st.integers(0, 9)), max_size=80))
def test_whatever_happens_it_is_a_breaker(steps: list[tuple[str, int]]) -> None:
    """Never more than one trial; no call within the time after opening; a success of the trial closes; and whatever
    came before, waiting and one success bring it back."""
    time = Time()
    breaker = Breaker(time.now)
    out: list[int] = []
    trials: set[int] = set()  # tickets that were given while half open and are not back
    opened_ns = -1
    for step, which in steps:
        if step.startswith("wait"):
            time.ns += OPEN_NS if step == "wait" else OPEN_NS // 7
        elif step == "admit":
            ticket = breaker.admit()
            if ticket is not None:
                out.append(ticket)
                assert opened_ns < 0 or time.ns - opened_ns >= OPEN_NS
            if breaker.state == "half-open" and ticket is not None:
                assert not trials, "a second trial"
                trials = {ticket}
        elif out:
            ticket = out.pop(which % len(out))
            before = breaker.state
            getattr(breaker, step)(ticket)
            if ticket in trials:
                trials = set()
                assert breaker.state == {"passed": "closed", "failed": "open", "dropped": "half-open"}[step]
            elif before != "closed":
                assert breaker.state == before, "an old call changed it"
            if before != "open" and breaker.state == "open":
                opened_ns = time.ns
            if breaker.state == "closed":
                opened_ns = -1
                assert breaker.failures < FAILURES
    time.ns += OPEN_NS
    for ticket in out:
        breaker.dropped(ticket)
    breaker.passed(admitted(breaker))
    assert breaker.state == "closed"
