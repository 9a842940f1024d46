"""Output commit: nothing leaves before it is committed, commits are shared, a store that is away loses nothing."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from tbx.core.kernel.clock import ManualClock
from tbx.core.kernel.kernel import Kernel
from tbx.core.kernel.outbox import Outbox
from tbx.core.model.errors import StoreError
from tbx.core.model.messages import Faulted, StoreStateChanged
from tbx.core.state.memory import MemoryStore


class Note(msgspec.Struct):
    text: str


class Bench:
    """A kernel in virtual time on a store in memory, with one handler that leaves something behind."""

    def __init__(self, *, release_at_once: bool = False) -> None:
        self.clock = ManualClock()
        self.store = MemoryStore(self.clock.call_soon)
        self.store.acquire()
        self.fatal: list[StoreError] = []
        self.kernel = Kernel(
            self.clock,
            self.store.writer(1),
            outbox=Outbox(release_at_once=release_at_once),
            on_fatal=self.fatal.append,
        )
        self.left: list[str] = []
        self.kernel.bus.subscribe(Note, self.on_note)

    def on_note(self, note: Note) -> None:
        self.kernel.outbox.put("orders", note.text, note)
        self.kernel.outbox.event("orders", "Noted", note)
        self.kernel.outbox.effect(self.left.append, note.text)
        self.kernel.outbox.send(self.left.append, f"frame {note.text}")


def test_an_effect_leaves_only_after_its_records_are_committed() -> None:
    bench = Bench()
    bench.kernel.input(Note("a"))
    assert bench.left == [] and bench.store.tables == {}
    bench.clock.settle()
    assert json.loads(bench.store.tables["orders"]["a"]) == {"text": "a"}
    assert bench.left == ["a", "frame a"]


def test_with_durability_behind_only_venue_frames_leave_before_the_commit() -> None:
    bench = Bench(release_at_once=True)
    bench.kernel.input(Note("a"))
    assert bench.left == ["frame a"]
    bench.clock.settle()
    assert bench.left == ["frame a", "a"]


def test_inputs_of_one_turn_share_a_commit_and_later_ones_share_the_next() -> None:
    bench = Bench()
    for name in "abc":
        bench.kernel.input(Note(name))
    bench.clock.settle()
    assert bench.kernel.commit_count == 1
    assert [event["seq"] for event in json.loads(bench.store.journal[0][1])] == [1, 2, 3]


def test_a_record_that_is_put_twice_is_written_once_as_it_then_is() -> None:
    bench = Bench()
    note = Note("draft")
    bench.kernel.outbox.put("orders", "x", note)
    note.text = "final"
    bench.kernel.outbox.put("orders", "x", note)
    bench.kernel.flush_soon()
    bench.clock.settle()
    assert json.loads(bench.store.tables["orders"]["x"]) == {"text": "final"}


def test_a_deleted_record_is_deleted_in_the_store() -> None:
    bench = Bench()
    bench.kernel.input(Note("a"))
    bench.clock.settle()
    bench.kernel.outbox.delete("orders", "a")
    bench.kernel.flush_soon()
    bench.clock.settle()
    assert bench.store.tables["orders"] == {}


def test_while_the_store_is_away_nothing_leaves_and_afterwards_everything_does_in_order() -> None:
    bench = Bench()
    states: list[bool] = []
    bench.kernel.bus.subscribe(StoreStateChanged, lambda message: states.append(message.up))
    bench.store.down = True
    bench.kernel.input(Note("a"))
    bench.clock.advance(1_000_000_000)
    bench.kernel.input(Note("b"))
    bench.clock.advance(1_000_000_000)
    assert bench.left == [] and not bench.kernel.store_up and states == [False]
    bench.store.down = False
    bench.clock.advance(1_000_000_000)
    assert bench.left == ["a", "frame a", "b", "frame b"]
    assert bench.kernel.store_up and states == [False, True]
    assert [seq for seq, _ in bench.store.journal] == [1, 4]  # the second tells of the time without a store as well


def test_a_writer_whose_epoch_is_over_writes_nothing_sends_nothing_and_says_so() -> None:
    bench = Bench()
    bench.store.acquire()  # another process takes over
    bench.kernel.input(Note("a"))
    bench.clock.advance(5_000_000_000)
    assert bench.left == [] and bench.store.tables == {}
    assert len(bench.fatal) == 1


def test_events_reach_the_feed_after_the_commit_with_rising_seq() -> None:
    bench = Bench()
    fed: list[tuple[int, str, Any]] = []
    bench.kernel.feed.append(
        lambda events: fed.extend((event.seq, event.channel, json.loads(event.frame)) for event in events)
    )
    bench.kernel.input(Note("a"))
    bench.kernel.input(Note("b"))
    assert fed == []
    bench.clock.settle()
    assert fed == [
        (1, "orders", {"channel": "orders", "seq": 1, "type": "Noted", "data": {"text": "a"}}),
        (2, "orders", {"channel": "orders", "seq": 2, "type": "Noted", "data": {"text": "b"}}),
    ]


def test_an_effect_that_raises_does_not_keep_back_the_others_and_is_told_on_the_bus() -> None:
    bench = Bench()
    faults: list[Faulted] = []
    bench.kernel.bus.subscribe(Faulted, faults.append)

    def broken() -> None:
        raise OSError("socket gone")

    bench.kernel.outbox.effect(broken)
    bench.kernel.input(Note("a"))
    bench.clock.settle()
    assert bench.left == ["a", "frame a"]
    assert "socket gone" in faults[0].error


def test_a_fault_in_the_handling_of_faults_ends_there() -> None:
    bench = Bench()

    def broken(_: object) -> None:
        raise RuntimeError("again")

    bench.kernel.bus.subscribe(Faulted, broken)
    bench.kernel.bus.subscribe(Note, broken)
    bench.kernel.input(Note("a"))
    bench.clock.settle()
    assert bench.kernel.fault_count == 2
    assert bench.left == ["a", "frame a"]


def test_when_idle_is_called_after_the_last_commit() -> None:
    bench = Bench()
    bench.kernel.input(Note("a"))
    bench.kernel.when_idle(lambda: bench.left.append("idle"))
    bench.clock.settle()
    assert bench.left[-1] == "idle" and len(bench.left) == 3


@pytest.mark.parametrize("count", [10, 11])
def test_events_that_wait_for_a_store_are_bounded_and_what_is_dropped_is_counted(count: int) -> None:
    outbox = Outbox()
    outbox.EVENTS_MAX = 10  # type: ignore[misc]
    for _ in range(count):
        outbox.event("orders", "Noted", Note("a"))
    assert outbox.events_dropped == (0 if count == 10 else 5)
    assert outbox.take().events[-1].seq == count


def test_manual_time_runs_what_is_due_in_order_and_nothing_that_was_cancelled() -> None:
    clock = ManualClock(0)
    seen: list[tuple[str, int]] = []

    def note(name: str) -> None:
        seen.append((name, clock.now_ns()))

    clock.call_in(20, note, "late")
    clock.call_in(10, note, "early")
    clock.call_in(10, note, "second")
    clock.call_in(15, note, "never").cancel()
    clock.advance(19)
    assert seen == [("early", 10), ("second", 10)] and clock.now_ns() == 19
    clock.advance(1)
    assert seen[-1] == ("late", 20)
