"""What the core and the prediction service say of a pair: each accepted form, and everything else refused in words."""

from __future__ import annotations

import asyncio
import math
import time
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tbx.core.kernel.clock import SystemClock
from tbx.strategies_bridge.services.client import ServiceUnavailable
from tbx.strategies_bridge.services.core import CoreClient, opinions
from tbx.strategies_bridge.services.ml import MlClient
from tbx.strategies_bridge.services.opinions import WORDS, Score, score_of

from .redis_fixtures import in_loop
from .service_peers import peers


def clock() -> SystemClock:
    return SystemClock(asyncio.get_running_loop(), time.time_ns)


FORMS: dict[str, tuple[Any, float, float]] = {
    "a word": ("Buy", 1, 0.5),
    "a word of two": ("strong sell", -1, 0.5),
    "signal and confidence": ({"signal": "BUY", "confidence": 0.8}, 1, 0.8),
    "action and strength": ({"action": "sell", "strength": 1}, -1, 1),
    "direction alone": ({"direction": "up"}, 1, 0.5),
    "a prediction": ({"prediction": "down", "probability": 0.6, "horizon": "1h"}, -1, 0.6),
    "a hold": ({"signal": "hold", "confidence": 0.9}, 0, 0.9),
    "a score": ({"score": -0.25}, -0.25, 1),
    "a score with confidence": ({"score": 0.5, "confidence": 0.2}, 0.5, 0.2),
    "a word whose strength is the score": ({"signal": "sell", "score": -0.4}, -1, 0.4),
    "a nested prediction": ({"pair": "RVN_USDT", "prediction": {"direction": "up", "confidence": 0.7}}, 1, 0.7),
    "no confidence at the moment": ({"signal": "buy", "confidence": None}, 1, 0.5),
}


@pytest.mark.parametrize("form", FORMS)
def test_each_form_becomes_a_score(form: str) -> None:
    said, value, confidence = FORMS[form]
    assert score_of(said, "ma") == Score(value, confidence)


REFUSED: dict[str, tuple[Any, str]] = {
    "a percentage": ({"signal": "buy", "confidence": 80}, "ma.confidence: expected a number from 0 to 1, not 80"),
    "an unknown word": ({"signal": "moon"}, "ma.signal: 'moon' is none of buy"),
    "a price": ({"prediction": 0.0245}, "ma.prediction: expected a word"),
    "a bare number": (0.4, "ma: expected a word or an object, not 0.4"),
    "a truth": ({"score": True}, "ma.score: expected a number from -1 to 1, not True"),
    "a score beyond": ({"score": 1.5}, "ma.score"),
    "a contradiction": ({"signal": "buy", "score": -0.4}, "contradicts"),
    "nothing of use": ({"rsi": 31}, "none of signal"),
    "a list": ([], "expected a word or an object"),
    "a number in a word's place": ({"signal": 1}, "ma.signal: expected a word"),
    "a negative confidence": ({"signal": "buy", "confidence": -0.1}, "ma.confidence"),
}


@pytest.mark.parametrize("form", REFUSED)
def test_everything_else_is_refused_with_its_place(form: str) -> None:
    said, words = REFUSED[form]
    with pytest.raises(ValueError, match="^ma") as refused:
        score_of(said, "ma")
    assert words in str(refused.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(sorted(WORDS)) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(("signal", "score", "confidence", "prediction", "x")), inner, max_size=4)
    ),
    max_leaves=8,
)


@given(JSON)
def test_whatever_is_said_it_is_a_score_within_bounds_or_refused(said: Any) -> None:
    try:
        score = score_of(said, "ma")
    except ValueError:
        return
    assert math.isfinite(score.value) and -1 <= score.value <= 1
    assert 0 <= score.confidence <= 1


@given(st.binary(max_size=60) | JSON.map(lambda said: msgspec.json.encode({"strategies": said})))
def test_whatever_the_core_service_sends_is_opinions_or_refused(body: bytes) -> None:
    try:
        found = opinions(body)
    except (ValueError, msgspec.MsgspecError):
        return
    assert all(isinstance(score, Score) for score in found)


@in_loop
async def test_pairs_and_what_the_strategies_say_come_from_the_core_service() -> None:
    with peers() as p:
        core = CoreClient(p.core.url, clock())
        p.core.offer(
            {
                "RVN_USDT": {"ma": {"signal": "buy", "confidence": 0.8}, "rsi": None, "macd": "sell"},
                "XMR_USDT": [{"name": "ma", "action": "hold"}, {"name": "rsi", "score": 0.3}],
                "A/B?C": {},
            }
        )
        assert await core.pairs() == ["RVN_USDT", "XMR_USDT", "A/B?C"]
        assert await core.pair("RVN_USDT") == [Score(1, 0.8, "ma"), Score(-1, 0.5, "macd")]
        assert await core.pair("XMR_USDT") == [Score(0, 0.5, "ma"), Score(0.3, 1, "rsi")]
        assert isinstance(await core.pair("A/B?C"), ServiceUnavailable)
        assert p.core.requests[-1].path == "/api/pair/A%2FB%3FC"
        core.http.close()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"data": {"pairs": ["RVN_USDT"]}}, "pairs"),
        ({"pairs": {"RVN_USDT": 1}}, "pairs"),
        ({"pairs": ["RVN_USDT", 7]}, "pairs"),
        ({"pairs": ["x" * 65]}, "pairs"),
        ({"pairs": None}, "pairs"),
    ],
)
@in_loop
async def test_pairs_of_another_shape_are_refused(body: Any, words: str) -> None:
    with peers() as p:
        core = CoreClient(p.core.url, clock())
        p.core.answer("/api/data", body)
        outcome = await core.pairs()
        assert isinstance(outcome, ServiceUnavailable)
        assert words in outcome.why
        core.http.close()


@in_loop
async def test_one_opinion_that_cannot_be_read_refuses_the_answer_and_is_named() -> None:
    with peers() as p:
        core = CoreClient(p.core.url, clock())
        p.core.offer({"RVN_USDT": {"ma": "buy", "rsi": {"signal": "buy", "confidence": 80}}, "XMR_USDT": ["buy"]})
        outcome = await core.pair("RVN_USDT")
        assert isinstance(outcome, ServiceUnavailable)
        assert "strategies.rsi.confidence: expected a number from 0 to 1, not 80" in outcome.why
        unnamed = await core.pair("XMR_USDT")
        assert isinstance(unnamed, ServiceUnavailable)
        assert "strategies[0]: expected an object with a name" in unnamed.why
        core.http.close()


@in_loop
async def test_a_prediction_comes_from_the_prediction_service() -> None:
    with peers() as p:
        ml = MlClient(p.ml.url, clock())
        p.ml.predict("RVN_USDT", {"prediction": "up", "confidence": 0.7})
        assert await ml.prediction("RVN_USDT") == Score(1, 0.7, "ml")
        p.ml.predict("RVN_USDT", {"prediction": 0.0245})
        outcome = await ml.prediction("RVN_USDT")
        assert isinstance(outcome, ServiceUnavailable)
        assert "prediction" in outcome.why
        ml.http.close()
