"""What the trading loop makes of opinions: arithmetic, thresholds, and reasons."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tbx.strategies_bridge.decisions import Standing, choose, confidence_of, scores


class Said:
    """An opinion."""

    def __init__(self, value: float, confidence: float) -> None:
        self.value = value
        self.confidence = confidence


opinions = st.builds(Said, st.floats(-1, 1), st.floats(0, 1))
FREE = Standing()
HELD = Standing(held=True)


def test_strategies_are_averaged_by_confidence_and_added_to_the_prediction_by_weight() -> None:
    found = scores([Said(1, 0.8), Said(-1, 0.2)], Said(0.5, 0.6), 0.6)
    assert found.technical == pytest.approx(0.3)
    assert found.ml == pytest.approx(0.3)
    assert found.combined == pytest.approx(0.6 * 0.3 + 0.4 * 0.3)


def test_one_unsure_strategy_alone_is_no_strong_opinion() -> None:
    assert scores([Said(1, 0.1)], None, 1.0).combined == pytest.approx(0.1)


def test_what_is_missing_leaves_the_other_with_its_own_weight() -> None:
    both = scores([Said(1, 1)], Said(1, 1), 0.6)
    only_technical, only_ml = scores([Said(1, 1)], None, 0.6), scores([], Said(1, 1), 0.6)
    assert (both.combined, only_technical.combined, only_ml.combined) == (1.0, 0.6, 0.4)
    assert only_technical.ml is None and only_ml.technical is None


@given(st.lists(opinions, max_size=8), st.none() | opinions, st.floats(0, 1))
def test_scores_stay_between_a_certain_sell_and_a_certain_buy(
    strategies: list[Said], prediction: Said | None, weight: float
) -> None:
    found = scores(strategies, prediction, weight)
    assert -1 - 1e-9 <= found.combined <= 1 + 1e-9 and math.isfinite(found.combined)
    assert 0 <= confidence_of(found) <= 1


@given(st.lists(opinions, max_size=8), opinions, st.floats(0, 1))
def test_losing_a_prediction_never_makes_a_trade_of_what_the_strategies_alone_would_not(
    strategies: list[Said], prediction: Said, weight: float
) -> None:
    without = scores(strategies, None, weight)
    assert abs(without.combined) <= weight * abs(without.technical or 0) + 1e-5


CASES = {
    # name: (technical, standing, action, a word of the reason)
    "strong and free": (0.9, FREE, "buy", "reaches"),
    "at the threshold": (0.5, FREE, "buy", "reaches"),
    "weak": (0.4, FREE, "hold", "nearer to nothing"),
    "nothing either way": (0.0, FREE, "hold", "nearer to nothing"),
    "strong, and held": (0.9, HELD, "hold", "open already"),
    "strong, and an order is under way": (0.9, Standing(busy="ORD_1 is under way"), "hold", "ORD_1"),
    "strong, and nothing may be bought": (0.9, Standing(barred="HALTED: a fault"), "hold", "HALTED: a fault"),
    "against, and held": (-0.9, HELD, "sell", "against what is held"),
    "against, and held, and nothing may be bought": (-0.9, Standing(held=True, barred="REDUCING"), "sell", "against"),
    "against, and not held": (-0.9, FREE, "hold", "nothing to sell"),
    "against, and being closed": (-0.9, Standing(held=True, busy="ORD_2 is under way"), "hold", "ORD_2"),
}


@pytest.mark.parametrize("name", CASES)
def test_each_case_has_its_action_and_says_why(name: str) -> None:
    technical, standing, action, word = CASES[name]
    choice = choose(scores([Said(technical, 1)], None, 1.0), 0.5, standing)
    assert choice.action == action and word in choice.reason


def test_with_a_threshold_of_zero_a_score_of_zero_is_still_to_hold() -> None:
    assert choose(scores([Said(0, 1)], None, 1.0), 0.0, FREE).action == "hold"


def test_without_any_opinion_it_says_so() -> None:
    choice = choose(scores([], None, 0.6), 0.3, FREE)
    assert choice.action == "hold" and "neither" in choice.reason
