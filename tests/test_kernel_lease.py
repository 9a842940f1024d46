"""What was committed leaves only while nobody else can be the writer; and what a standby makes of what it sees."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from tbx.core.kernel.clock import MS_NS, SECOND_NS, ManualClock
from tbx.core.kernel.kernel import Kernel
from tbx.core.kernel.outbox import Outbox
from tbx.core.model.errors import StoreError
from tbx.core.state.lease import (
    POLL_S,
    RELEASED,
    STILL_POLLS,
    STILL_POLLS_AFTER_OUTAGE,
    STILL_POLLS_LOADING,
    SURE_NS,
    Finding,
    Holder,
    Lease,
    Seen,
    Watch,
    proven_dead,
    shown,
    this_process,
)
from tbx.core.state.memory import MemoryStore

ROOT = Path(__file__).resolve().parent.parent


class Note(msgspec.Struct):
    text: str


class Bench:
    """A kernel that keeps its lease, in virtual time. `sleep` is SIGSTOP: time goes on, and nothing here runs."""

    def __init__(self, *, release_at_once: bool = False, answer_ns: int = MS_NS) -> None:
        self.clock = ManualClock()
        self.slept_ns = 0
        self.store = MemoryStore(lambda done, *args: self.clock.call_in(answer_ns, done, *args))
        self.store.acquire()
        self.fatal: list[StoreError] = []
        outbox = Outbox(release_at_once=release_at_once)
        lease = Lease(lambda: self.clock.now_ns() + self.slept_ns)
        self.kernel = Kernel(self.clock, self.store.writer(1), outbox=outbox, lease=lease, on_fatal=self.fatal.append)
        self.left: list[str] = []
        self.kernel.bus.subscribe(Note, self.on_note)
        self.kernel.start()
        self.clock.advance(100 * MS_NS)

    def on_note(self, note: Note) -> None:
        self.kernel.outbox.put("orders", note.text, note)
        self.kernel.outbox.event("orders", "Noted", note)
        self.kernel.outbox.send(self.left.append, note.text)

    def note(self, text: str) -> None:
        self.kernel.input(Note(text))

    def sleep(self, duration_ns: int) -> None:
        """The lease's clock goes on; timers and answers come late, all of them after this."""
        self.slept_ns += duration_ns

    @property
    def doubtful(self) -> bool:
        return self.kernel.conditions.holds("lease_unsure")


def test_an_answer_that_was_read_too_late_sets_nothing_free_when_another_has_taken_over() -> None:
    bench = Bench()
    bench.note("a")
    bench.clock.settle()  # Redis has it, its answer is on the way
    bench.sleep(SURE_NS)
    bench.store.acquire()
    bench.clock.advance(SECOND_NS)
    assert "a" in bench.store.tables["orders"] and bench.left == []
    assert len(bench.fatal) == 1


def test_an_answer_that_was_read_too_late_sets_all_free_once_the_lease_is_confirmed() -> None:
    bench = Bench()
    fed: list[int] = []
    bench.kernel.feed.append(lambda events: fed.extend(event.seq for event in events))
    bench.note("a")
    bench.clock.settle()
    bench.sleep(SURE_NS)
    bench.clock.advance(MS_NS)
    assert bench.left == [] and fed == []
    bench.note("b")
    bench.clock.advance(10 * MS_NS)
    assert bench.left == ["a", "b"] and fed == [1, 2] and not bench.fatal
    assert bench.kernel.conditions.counts["lease_unsure"] == 0, "one question settled it"


def test_a_stop_between_two_frames_keeps_back_those_after_it() -> None:
    bench = Bench()
    for name in "abc":
        bench.note(name)
    bench.kernel.bus.subscribe(Note, lambda note: None)
    append = bench.left.append

    def first(text: str) -> None:
        append(text)
        if text == "b":
            bench.sleep(SURE_NS)

    bench.kernel.outbox._effects = [(first, args) for _, args in bench.kernel.outbox._effects]
    bench.clock.settle()
    bench.store.acquire()
    bench.clock.advance(SECOND_NS)
    assert bench.left == ["a", "b"]
    assert len(bench.fatal) == 1


def test_with_durability_behind_frames_wait_for_a_commit_while_the_lease_is_unsure() -> None:
    bench = Bench(release_at_once=True)
    bench.note("a")
    assert bench.left == ["a"]
    bench.clock.advance(SECOND_NS)
    bench.sleep(SURE_NS)
    bench.note("b")
    bench.note("c")
    assert bench.left == ["a"]
    bench.clock.advance(10 * MS_NS)
    assert bench.left == ["a", "b", "c"]
    bench.note("d")
    assert bench.left[-1] == "d", "at once again"


def test_with_durability_behind_a_later_frame_never_overtakes_one_that_waits() -> None:
    bench = Bench(release_at_once=True)
    bench.sleep(SURE_NS)
    bench.note("a")
    bench.kernel.lease.confirm(bench.kernel.lease.now_ns())  # as a beat does while the commit is under way
    bench.note("b")
    assert bench.left == []
    bench.clock.advance(10 * MS_NS)
    assert bench.left == ["a", "b"]


def test_with_durability_behind_a_fenced_process_sends_nothing() -> None:
    bench = Bench(release_at_once=True)
    bench.store.acquire()
    bench.clock.advance(SECOND_NS)
    assert len(bench.fatal) == 1, "a beat tells, without any commit"
    bench.note("a")
    bench.clock.advance(10 * SECOND_NS)
    assert bench.left == [] and len(bench.fatal) == 1


def test_a_commit_that_was_tried_again_confirms_nothing() -> None:
    """The store may have taken the first try long ago, and have shown nothing new to a standby since."""
    bench = Bench()
    ages_ns: list[int] = []
    bench.kernel.feed.append(lambda _: ages_ns.append(bench.kernel.lease.age_ns))
    bench.kernel.heart.stop()
    bench.store.down = True
    bench.note("a")
    bench.clock.advance(SECOND_NS)
    bench.store.down = False
    bench.clock.advance(60 * MS_NS)
    assert bench.left == ["a"] and ages_ns[0] >= SECOND_NS


def test_a_store_that_is_away_makes_the_lease_unsure_and_says_so_until_it_is_back() -> None:
    bench = Bench()
    bench.store.down = True
    bench.clock.advance(SURE_NS)
    assert not bench.doubtful
    bench.clock.advance(2 * SECOND_NS)
    assert bench.doubtful
    bench.store.down = False
    bench.clock.advance(SECOND_NS)
    assert not bench.doubtful and bench.kernel.sure()


def test_a_store_that_answers_too_slowly_for_the_lease_sets_nothing_free() -> None:
    bench = Bench(answer_ns=SURE_NS + MS_NS)
    bench.note("a")
    bench.clock.advance(60 * SECOND_NS)
    assert bench.left == [] and bench.doubtful


def test_an_idle_writer_beats_and_one_that_commits_need_not() -> None:
    bench = Bench()
    beats: list[int] = []
    beat_as = bench.store.beat_as

    def count(epoch: int, done: Callable[[StoreError | None], None]) -> None:
        beats.append(epoch)
        beat_as(epoch, done)

    bench.store.beat_as = count  # type: ignore[method-assign]
    bench.clock.advance(10 * SECOND_NS)
    assert len(beats) == 20
    for _ in range(100):
        bench.note("a")
        bench.clock.advance(100 * MS_NS)
    assert len(beats) == 20


def test_a_kernel_that_has_not_started_has_no_doubt() -> None:
    clock = ManualClock()
    kernel = Kernel(clock, MemoryStore(clock.call_soon))
    clock.advance(3_600 * SECOND_NS)
    assert kernel.sure()


# --- the standby


ALIVE = Seen(b"j:4", b"17", b"90", b"")


def seen(**change: bytes) -> Seen:
    return msgspec.structs.replace(ALIVE, **change)


def answers_until_dead(watch: Watch, what: Seen, most: int = 1_000) -> int:
    """How many answers after the first one that shows this state."""
    assert watch.answered(what) is Finding.ALIVE
    return next(count for count in range(1, most) if watch.answered(what) is Finding.DEAD)


def nobody(_: bytes) -> bool:
    return False


def test_a_writer_counts_as_dead_only_after_longer_than_it_trusts_its_lease() -> None:
    assert STILL_POLLS * POLL_S * SECOND_NS >= SURE_NS + SECOND_NS
    assert answers_until_dead(Watch(nobody), ALIVE) == STILL_POLLS


@pytest.mark.parametrize("moved", [{"heartbeat": b"18"}, {"number": b"91"}, {"lease": b"j:5"}])
def test_whatever_moves_shows_that_the_writer_lives(moved: dict[str, bytes]) -> None:
    watch = Watch(nobody)
    for _ in range(STILL_POLLS):
        assert watch.answered(ALIVE) is Finding.ALIVE
    assert answers_until_dead(watch, seen(**moved)) == STILL_POLLS


def test_answers_that_stay_away_prove_nothing_and_the_count_begins_anew() -> None:
    watch = Watch(nobody)
    for _ in range(STILL_POLLS):
        watch.answered(ALIVE)
    for _ in range(100):
        watch.unanswered()
    assert answers_until_dead(watch, ALIVE) == STILL_POLLS_AFTER_OUTAGE
    watch.unanswered()
    watch.answered(ALIVE)
    assert answers_until_dead(watch, seen(number=b"91")) == STILL_POLLS, "it was heard since"


def test_a_writer_that_loads_is_given_longer() -> None:
    assert answers_until_dead(Watch(nobody), seen(heartbeat=b"0")) == STILL_POLLS_LOADING


@pytest.mark.parametrize(
    "state",
    [Seen(b"", b"", b"", b""), seen(heartbeat=RELEASED), seen(heartbeat=b"")],
    ids=["nothing yet", "given up", "of a version that did not beat"],
)
def test_where_nobody_is_the_writer_nobody_waits(state: Seen) -> None:
    assert Watch(nobody).answered(state) is Finding.FREE


def test_a_writer_that_is_proven_dead_is_not_waited_for() -> None:
    watch = Watch(lambda holder: holder == b"dead")
    assert watch.answered(ALIVE) is Finding.ALIVE
    assert watch.answered(seen(holder=b"dead")) is Finding.DEAD


@pytest.mark.parametrize("state", [Seen(b"", b"", b"", b""), seen(lease=b"k:1", heartbeat=RELEASED)])
def test_a_state_that_was_deleted_or_replaced_is_never_taken_over(state: Seen) -> None:
    watch = Watch(nobody)
    watch.answered(ALIVE)
    assert [watch.answered(state) for _ in range(200)] == [Finding.GONE] * 200
    assert watch.answered(ALIVE) is Finding.ALIVE, "it was brought back"


# --- the holder


needs_proc = pytest.mark.skipif(not os.path.exists("/proc/self/ns/pid"), reason="Linux tells which process is which")


@needs_proc
def test_a_process_is_proven_dead_when_it_has_ended_and_not_before() -> None:
    code = "from tbx.core.state.lease import this_process as me; print(me().decode(), flush=True); input()"
    child = subprocess.Popen(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(ROOT / ".src")},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert child.stdout is not None and child.stdin is not None
    holder = child.stdout.readline().strip()
    assert f"process {child.pid} on" in shown(holder)
    assert not proven_dead(holder)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert proven_dead(holder), "though nobody has asked for its exit code"
    child.wait()
    assert proven_dead(holder)
    child.stdin.close()
    child.stdout.close()


@needs_proc
@pytest.mark.parametrize(
    ("change", "dead"),
    [({"born": 1}, True), ({"boot": "another"}, False), ({"space": "pid:[1]"}, False), ({"host": "renamed"}, False)],
)
def test_what_proves_that_a_process_is_dead(change: dict[str, object], dead: bool) -> None:
    me = msgspec.json.decode(this_process(), type=Holder)
    assert proven_dead(msgspec.json.encode(msgspec.structs.replace(me, **change))) is dead


@pytest.mark.parametrize("raw", [b"", b"{}", b"x", b"[1]"])
def test_a_holder_that_cannot_be_read_proves_nothing(raw: bytes) -> None:
    assert not proven_dead(raw)
    assert shown(raw) == "another process"
