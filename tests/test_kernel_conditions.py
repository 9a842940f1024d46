"""Degraded modes: what holds, since when, and how it is told."""

from __future__ import annotations

import msgspec
import pytest

from tbx.core.kernel.clock import SECOND_NS, ManualClock
from tbx.core.kernel.conditions import Conditions
from tbx.core.kernel.outbox import Outbox


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(5 * SECOND_NS)


@pytest.fixture
def outbox() -> Outbox:
    return Outbox()


def told(outbox: Outbox) -> list[tuple[str, str]]:
    events = outbox.take().events
    assert all(event.channel == "health" for event in events)
    return [(event.kind, msgspec.json.decode(event.data)["why"]) for event in events]


def test_a_condition_is_told_when_it_begins_when_its_reason_changes_and_when_it_ends(
    clock: ManualClock, outbox: Outbox
) -> None:
    conditions = Conditions(clock, outbox)
    conditions.begin("store_away", "paused")
    conditions.begin("store_away", "paused")
    clock.advance(SECOND_NS)
    conditions.begin("store_away", "killed")
    assert [(c.why, c.since) for c in conditions.held] == [("killed", 5_000)]
    conditions.end("store_away")
    conditions.end("store_away")
    assert told(outbox) == [("ConditionBegan", "paused"), ("ConditionChanged", "killed"), ("ConditionEnded", "killed")]
    assert conditions.held == [] and conditions.counts["store_away"] == 1


def test_each_subject_has_its_own_condition(clock: ManualClock, outbox: Outbox) -> None:
    conditions = Conditions(clock, outbox)
    conditions.begin("venue_away", "cut", "binance")
    conditions.begin("venue_away", "cut", "nonkyc")
    conditions.end("venue_away", "binance")
    assert not conditions.holds("venue_away", "binance") and conditions.holds("venue_away", "nonkyc")
    assert conditions.counts["venue_away"] == 2


def test_a_name_that_nobody_knows_is_a_bug(clock: ManualClock, outbox: Outbox) -> None:
    with pytest.raises(KeyError):
        Conditions(clock, outbox).begin("tired", "late")
