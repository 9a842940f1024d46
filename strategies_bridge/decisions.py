"""What the trading loop makes of opinions: technical and predicted score, their weighted sum, and what to do about it.

Always true here: nothing but arithmetic; scores lie in -1..1, where 1 is a buy that is certain; what is missing counts
as no opinion, so it can only make a decision weaker. Scores are statistics, hence floats.

    technical   mean over the strategies of score x confidence: the confidence-weighted mean, times how confident they
                are on average
    ml          score x confidence of the prediction
    combined    weight x technical + (1 - weight) x ml; without one of them the other keeps its own weight
"""

from collections.abc import Sequence
from typing import Literal, Protocol

import msgspec

DIGITS = 6  # of a score: 0.6 x 0.5 reaches a threshold of 0.3

Action = Literal["buy", "sell", "hold"]


class Opinion(Protocol):
    """What one strategy, or a model, says of a pair."""

    @property
    def value(self) -> float: ...  # -1 sell .. 1 buy

    @property
    def confidence(self) -> float: ...  # 0..1


class Scores(msgspec.Struct, frozen=True):
    """What was said of a pair; None where nothing was."""

    technical: float | None
    ml: float | None
    combined: float

    @property
    def none(self) -> bool:
        return self.technical is None and self.ml is None


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """How things are with a pair before the decision."""

    held: bool = False  # the loop holds something of it that can be sold
    busy: str = ""  # an order of the loop that is under way: wait for it
    barred: str = ""  # why nothing may be bought now


class Choice(msgspec.Struct, frozen=True):
    """What to do, and why in words."""

    action: Action
    reason: str


class Decision(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One decision, explained: the event `DecisionMade` of the channel `signals`."""

    pair: str
    action: Action
    technical_score: float | None  # null where no strategy said anything
    ml_score: float | None
    combined_score: float
    technical_weight: float
    ml_weight: float
    threshold: float
    confidence: float
    reason: str
    strategies: int  # how many had an opinion
    missing: tuple[str, ...]  # what could not be asked, and why
    signal_id: str | None  # the caller's id of the signal that carries it out; null where nothing is done
    cycle: int  # when the cycle began by the clock's grid, ms
    timestamp: int  # ms


def scores(strategies: Sequence[Opinion], prediction: Opinion | None, technical_weight: float) -> Scores:
    """The scores of a pair; `technical_weight` in 0..1."""
    technical = ml = None
    combined = 0.0
    if strategies:
        technical = sum(opinion.value * opinion.confidence for opinion in strategies) / len(strategies)
        combined += technical_weight * technical
    if prediction is not None:
        ml = prediction.value * prediction.confidence
        combined += (1 - technical_weight) * ml
    return Scores(_rounded(technical), _rounded(ml), round(combined, DIGITS))


def _rounded(score: float | None) -> float | None:
    return None if score is None else round(score, DIGITS)


def confidence_of(found: Scores) -> float:
    """0..1: how far the combined score is from nothing."""
    return min(1.0, abs(found.combined))


def choose(found: Scores, threshold: float, standing: Standing) -> Choice:
    """What to do about a pair. On spot nothing is sold that is not held, and nothing is bought on top."""
    if found.none:
        return Choice("hold", "neither a strategy nor the prediction says anything")
    combined, shown = found.combined, f"{found.combined:+.3f}"
    if abs(combined) < threshold or combined == 0:
        return Choice("hold", f"the combined score {shown} is nearer to nothing than {threshold:g}")
    said = f"the combined score {shown} reaches {threshold:g}"
    if standing.busy:
        return Choice("hold", f"{said}, but {standing.busy}")
    if combined < 0:
        if standing.held:
            return Choice("sell", f"{said} against what is held")
        return Choice("hold", f"{said}, but there is nothing to sell")
    if standing.held:
        return Choice("hold", f"{said}, but a position is open already")
    if standing.barred:
        return Choice("hold", f"{said}, but nothing may be bought: {standing.barred}")
    return Choice("buy", said)
