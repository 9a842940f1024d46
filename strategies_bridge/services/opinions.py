"""What another service says of a pair, in one form: a score in -1..1 (sell .. buy) and a confidence in 0..1.

The manual shows neither what a strategy of the core service nor what a prediction of the ML service looks like. Taken
are, and nothing else:

    a word                                     buy, long, up, bullish, strong_buy: 1; sell, short, down, bearish,
                                               strong_sell: -1; hold, neutral, none, flat, wait: 0. Any case.
    {"signal": word, "confidence": 0.8}        the word under signal, action, direction, prediction or recommendation;
                                               the confidence under confidence, strength or probability, else the
                                               size of score; 0.5 where there is none
    {"score": -0.4, "confidence": 0.8}         the score itself; its confidence is 1 where there is none
    {"prediction": {...}}                      one of the two before

Other fields are left alone. A number under another name than score is refused: it may be a price. So are a score and a
word that contradict each other, and percents. Scores are statistics, hence floats.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

UNSURE: Final = 0.5  # as in the manual: `confidence || 0.5`
WORD_FIELDS: Final = ("signal", "action", "direction", "prediction", "recommendation")
CONFIDENCE_FIELDS: Final = ("confidence", "strength", "probability")
WORDS: Final[Mapping[str, float]] = {
    **dict.fromkeys(("buy", "long", "up", "bullish", "strong_buy"), 1.0),
    **dict.fromkeys(("sell", "short", "down", "bearish", "strong_sell"), -1.0),
    **dict.fromkeys(("hold", "neutral", "none", "flat", "wait"), 0.0),
}
SHOWN_MAX: Final = 60  # characters of what is refused


class Score(msgspec.Struct, frozen=True):
    """One opinion about a pair."""

    value: float  # -1 sell .. 1 buy
    confidence: float  # 0..1
    name: str = ""  # of the strategy


def score_of(said: Any, where: str, name: str = "") -> Score:
    """Of decoded JSON; `where` is its place in the answer. Raises ValueError with what is wrong and what would be
    right."""
    if isinstance(said, str):
        return Score(_word(said, where), UNSURE, name)
    if not isinstance(said, dict):
        raise ValueError(f"{where}: expected a word or an object, not {_shown(said)}")
    for field in WORD_FIELDS:
        word = said.get(field)
        if word is None:
            continue
        if isinstance(word, dict) and field == "prediction":
            return score_of(word, f"{where}.prediction", name)
        if not isinstance(word, str):
            raise ValueError(f"{where}.{field}: expected a word such as buy, sell or hold, not {_shown(word)}")
        return _of_word(_word(word, f"{where}.{field}"), said, where, name)
    if said.get("score") is None:
        raise ValueError(f"{where}: none of {', '.join(WORD_FIELDS)} and score in {_shown(said)}")
    value = _number(said["score"], f"{where}.score", -1.0)
    confidence = _confidence(said, where)
    return Score(value, 1.0 if confidence is None else confidence, name)


def _of_word(value: float, said: Mapping[str, Any], where: str, name: str) -> Score:
    confidence = _confidence(said, where)
    if confidence is None and said.get("score") is not None:
        score = _number(said["score"], f"{where}.score", -1.0)
        if score * value < 0:
            raise ValueError(f"{where}: the score of {score} contradicts the word beside it")
        confidence = abs(score)
    return Score(value, UNSURE if confidence is None else confidence, name)


def _confidence(said: Mapping[str, Any], where: str) -> float | None:
    for field in CONFIDENCE_FIELDS:
        if said.get(field) is not None:
            return _number(said[field], f"{where}.{field}", 0.0)
    return None


def _word(word: str, where: str) -> float:
    value = WORDS.get(word.strip().lower().replace(" ", "_"))
    if value is None:
        raise ValueError(f"{where}: {_shown(word)} is none of {', '.join(WORDS)}")
    return value


def _number(number: Any, where: str, least: float) -> float:
    if isinstance(number, bool) or not isinstance(number, int | float) or not least <= number <= 1:
        raise ValueError(f"{where}: expected a number from {least:.0f} to 1, not {_shown(number)}")
    return float(number)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN_MAX else text[:SHOWN_MAX] + "..."
