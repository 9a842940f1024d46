"""The order's grid: total, and its laws."""

from __future__ import annotations

from pathlib import Path

import pytest

from tbx.core.model.order_views import STATUS
from tbx.core.model.records import ENDED, State
from tbx.core.orders.lifecycle import GRID, Step, advance, picture
from tbx.core.orders.registry import EVENT_OF_STATE

CELLS = [(state, step) for state in State for step in Step]


def test_the_grid_has_a_cell_for_every_state_and_step() -> None:
    assert set(GRID) == set(State)
    assert all(len(row) == len(Step) for row in GRID.values())


@pytest.mark.parametrize(("state", "step"), CELLS, ids=[f"{s.name}-{t.name}" for s, t in CELLS])
def test_an_ended_order_never_opens_again_and_only_fills_touch_it(state: State, step: Step) -> None:
    after = advance(state, step)
    if state in ENDED and after is not None:
        assert step in (Step.PARTIAL, Step.COMPLETE)
        assert after in (state, State.FILLED)


@pytest.mark.parametrize("state", [s for s in State if s is not State.HELD and s not in ENDED])
def test_an_order_that_a_venue_may_have_can_always_be_filled_and_ended(state: State) -> None:
    assert advance(state, Step.COMPLETE) is State.FILLED
    assert advance(state, Step.PARTIAL) is State.PART
    assert advance(state, Step.CANCEL) is State.CANCELLED
    assert advance(state, Step.EXPIRE) is State.EXPIRED


def test_a_held_order_cannot_be_filled_before_it_was_sent() -> None:
    assert advance(State.HELD, Step.PARTIAL) is None and advance(State.HELD, Step.COMPLETE) is None


def test_a_fill_that_overtakes_a_cancel_counts() -> None:
    assert advance(State.CANCELLED, Step.PARTIAL) is State.CANCELLED
    assert advance(State.CANCELLED, Step.COMPLETE) is State.FILLED


def test_an_unknown_outcome_is_ended_only_by_what_the_venue_says() -> None:
    assert advance(State.SENT, Step.LOSE) is State.UNKNOWN
    assert advance(State.UNKNOWN, Step.LOSE) is State.UNKNOWN
    assert advance(State.LIVE, Step.LOSE) is None


def test_every_state_has_an_api_status_and_an_event() -> None:
    assert set(STATUS) == set(State) == set(EVENT_OF_STATE)


def test_the_readme_shows_the_grid_as_it_is(root: Path) -> None:
    assert picture() in (root / "core/orders/README.md").read_text()
