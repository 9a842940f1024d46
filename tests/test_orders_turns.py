"""Whose turn it is to be asked about, and what is kept of the answers: laws, on random lines."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tbx.core.kernel.outbox import encode_record
from tbx.core.orders.evidence import LAST_MAX, TEXT_MAX, note
from tbx.core.orders.turns import AT_ONCE_MAX, PER_TICK_MAX, SAVED_MAX, TICK_NS, Turns, ticks

from .desk import Desk


@pytest.mark.parametrize("seed", range(20))
def test_everybodys_turn_comes_in_time_and_no_tick_has_too_many(seed: int) -> None:
    rng = random.Random(seed)
    line, due, under, turns = Turns(), {}, [], []
    count = rng.randrange(1, 60)
    for number in range(count):
        due[str(number)] = rng.randrange(5)
        line.wait(str(number), due[str(number)])
    for tick in range(200):
        taken = 0
        while (name := line.take()) is not None:
            taken += 1
            assert due[name] <= tick, "nobody before his time"
            assert tick - due[name] <= count / PER_TICK_MAX + 1, "nobody waits for more than the line before him"
            del due[name]
            under.append(name)
        turns.append(taken)
        assert len(under) <= AT_ONCE_MAX
        for ticks_back in range(1, len(turns) + 1):
            assert sum(turns[-ticks_back:]) <= SAVED_MAX + (ticks_back - 1) * PER_TICK_MAX
        for name in under:
            line.over(name)
            due[name] = tick + rng.randrange(1, 20)
            line.wait(name, due[name] - tick)
        under.clear()
        line.next_tick()


def test_no_more_are_under_question_at_a_time_than_may_be() -> None:
    line = Turns()
    for number in range(50):
        line.wait(str(number), 0)
    taken = []
    for _ in range(10):
        while (name := line.take()) is not None:
            taken.append(name)
        line.next_tick()
    assert taken == [str(number) for number in range(AT_ONCE_MAX)]
    line.over("3")
    assert line.take() == str(AT_ONCE_MAX) and line.take() is None


def test_the_last_word_on_when_somebodys_turn_comes_counts() -> None:
    line = Turns()
    line.wait("a", 5)
    line.wait("b", 0)
    line.wait("a", 0)
    line.wait("c", 0)
    line.leave("c")
    assert line.due() == ["b", "a"] and [line.take(), line.take(), line.take()] == ["b", "a", None]
    for number in range(10_000):
        line.wait("a", number % 50)
    assert len(line) == 1 and len(line._heap) < 2_000
    assert ticks(0) == 0 and ticks(1) == 1 and ticks(TICK_NS) == 1 and ticks(TICK_NS + 1) == 2


def test_evidence_keeps_how_it_began_and_the_last_of_it(tmp_path: Path) -> None:
    order = Desk(tmp_path).order("buy", "1000")
    assert b"evidence" not in encode_record(order)
    for number in range(100):
        for repeat in range(3):
            note(order, f"question {number}", "x" * 1_000, number * 10 + repeat)
    lines = order.evidence
    assert len(lines) == 1 + LAST_MAX
    assert [line.question for line in lines] == ["question 0", *(f"question {n}" for n in range(80, 100))]
    assert all((line.count, line.last_ns - line.asked_ns) == (3, 2) for line in lines)
    assert all(len(line.answer) == TEXT_MAX for line in lines)
