"""The real store on the simulated Redis, in virtual time, through every fault; and whole nodes on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tbx.core.kernel.clock import MS_NS, SECOND_NS
from tbx.core.model.errors import StoreCorrupt, StoreError, StoreFenced, StoreUnavailable
from tbx.core.state.batch import Batch

from .live_desk import ed25519, hmac
from .live_network import ProcessClock, Stepped
from .live_walk import Walk, last_steps
from .redis_fixtures import batch
from .sim.redis import UNSAVED_MAX
from .sim.store import RedisDesk, SimStore, Started

UP_WITHIN_NS = 30 * SECOND_NS


class Bench:
    """One store and the process that writes to it."""

    def __init__(self) -> None:
        self.world = Stepped()
        self.sim = SimStore(self.world)
        self.redis = self.sim.redis
        self.begin()

    def begin(self) -> Started:
        """The next process."""
        self.clock = ProcessClock(self.world)
        self.started = self.sim.start(self.clock)
        return self.started

    def commit(self, one: Batch, *, whole: bool = False) -> StoreError | None:
        answers: list[StoreError | None] = []
        store = self.started.store
        (store.commit_whole if whole else store.commit)(one, answers.append)
        while not answers:
            self.world.step()
        self.world.advance(MS_NS)
        assert len(answers) == 1
        return answers[0]

    def until_up(self) -> None:
        end_ns = self.world.now_ns() + UP_WITHIN_NS
        while not self.started.store.store.up:
            self.world.step()
            assert self.world.now_ns() < end_ns


def one(number: int, **more: Any) -> Batch:
    return batch(number, number, events=[b'{"seq":%d}' % number], puts=[("orders", f"o{number}", b"{}")], **more)


def test_a_commit_takes_as_long_as_it_was_told_to_in_virtual_time() -> None:
    world = Stepped()
    store = SimStore(world, commit_ns=2_000_000).start(ProcessClock(world)).store
    begun_ns = world.now_ns()
    answered_ns: list[int] = []
    store.commit(one(1), lambda _: answered_ns.append(world.now_ns()))
    world.advance(SECOND_NS)
    assert answered_ns == [begun_ns + 2_000_000]


def test_a_reply_that_is_lost_leaves_the_commit_applied_once() -> None:
    bench = Bench()
    bench.redis.replies_to_lose = 1
    assert isinstance(bench.commit(one(1)), StoreUnavailable)
    assert bench.sim.number == 1
    bench.until_up()
    assert bench.commit(one(1)) is None
    assert [seq for seq, _ in bench.sim.journal] == [1]
    assert bench.sim.commits == 1


def test_a_command_that_is_lost_leaves_nothing() -> None:
    bench = Bench()
    bench.redis.commands_to_lose = 1
    assert isinstance(bench.commit(one(1)), StoreUnavailable)
    assert bench.sim.number == 0
    bench.until_up()
    assert bench.commit(one(1)) is None


def test_a_server_that_stands_still_too_long_is_given_up_and_does_what_it_had_received_afterwards() -> None:
    bench = Bench()
    bench.redis.pause(15 * SECOND_NS)
    error = bench.commit(one(1))
    assert isinstance(error, StoreUnavailable)
    assert "no answer for 10 s" in str(error)
    assert bench.sim.number == 0
    bench.until_up()
    assert bench.sim.number == 1
    assert bench.commit(one(1)) is None
    assert bench.commit(one(2)) is None


def test_a_short_pause_is_only_slow() -> None:
    bench = Bench()
    begun_ns = bench.world.now_ns()
    bench.redis.pause(3 * SECOND_NS)
    assert bench.commit(one(1)) is None
    assert bench.world.now_ns() - begun_ns > 3 * SECOND_NS


def test_a_server_that_was_killed_comes_back_as_it_was_without_its_scripts() -> None:
    bench = Bench()
    assert bench.commit(one(1)) is None
    bench.redis.kill(2 * SECOND_NS, loading_ns=SECOND_NS)
    error = bench.commit(one(2))
    assert isinstance(error, StoreUnavailable)
    bench.until_up()
    assert bench.sim.number == 1
    assert bench.commit(one(2)) is None
    bench.redis.forget_scripts()
    before = bench.redis.command_count
    assert bench.commit(one(3)) is None
    assert bench.redis.command_count == before + 2  # by its hash, then in full


def test_a_power_cut_takes_what_was_written_in_the_last_second_and_the_store_says_so() -> None:
    bench = Bench()
    assert bench.commit(one(1)) is None
    bench.world.advance(2 * SECOND_NS)
    assert [bench.commit(one(number)) for number in (2, 3)] == [None, None]
    assert bench.sim.power_cut(SECOND_NS, away_ns=SECOND_NS) == 2
    assert (bench.sim.number, bench.sim.behind) == (1, True)
    bench.world.advance(SECOND_NS)
    bench.until_up()
    error = bench.commit(one(4))
    assert isinstance(error, StoreCorrupt)
    assert "had acknowledged 3" in str(error)
    assert bench.commit(one(4), whole=True) is None
    assert (bench.sim.number, bench.sim.behind) == (4, False)
    assert set(bench.sim.tables["orders"]) == {"o4"}
    # What was cut off once is not cut off a second time, and what came after can be.
    bench.world.advance(2 * SECOND_NS)
    assert bench.sim.power_cut(SECOND_NS) == 0
    assert set(bench.sim.tables["orders"]) == {"o4"}


def test_a_power_cut_after_very_many_commits_takes_the_last_ones_only() -> None:
    bench = Bench()
    answers: list[StoreError | None] = []
    for number in range(1, 3 * UNSAVED_MAX):
        bench.started.store.commit(batch(number, number, puts=[("orders", "o", b"%d" % number)]), answers.append)
        bench.world.advance(MS_NS)
    assert answers.count(None) == 3 * UNSAVED_MAX - 1
    assert bench.sim.power_cut(SECOND_NS // 10) == 100
    assert bench.sim.tables["orders"] == {"o": b"%d" % (3 * UNSAVED_MAX - 101)}


@pytest.mark.parametrize("trouble", ["out_of_memory", "disk_error", "readonly"])
def test_a_server_in_trouble_refuses_whole_commits_until_it_is_over(trouble: str) -> None:
    bench = Bench()
    assert bench.commit(one(1)) is None
    setattr(bench.redis.database, trouble, True)
    assert isinstance(bench.commit(one(2)), StoreUnavailable)
    assert set(bench.sim.tables["orders"]) == {"o1"}
    bench.redis.heal()
    assert bench.commit(one(2)) is None


def test_a_flushed_server_is_noticed() -> None:
    bench = Bench()
    assert bench.commit(one(1)) is None
    bench.redis.flush()
    error = bench.commit(one(2))
    assert isinstance(error, StoreCorrupt)
    assert "is gone" in str(error)


def test_a_second_writer_fences_the_first() -> None:
    bench = Bench()
    first = bench.started
    assert bench.commit(one(1)) is None
    second = bench.begin()
    assert (second.epoch, second.loaded.number) == (2, 1)
    bench.started = first
    assert isinstance(bench.commit(one(2)), StoreFenced)
    bench.started = second
    assert bench.commit(one(2)) is None


def test_what_a_process_wrote_before_it_died_arrives_and_it_hears_of_nothing() -> None:
    bench = Bench()
    answers: list[StoreError | None] = []
    bench.started.store.commit(one(1), answers.append)
    bench.clock.alive = False
    bench.world.advance(SECOND_NS)
    assert bench.sim.number == 1
    assert answers == []
    assert bench.begin().loaded.tables["orders"] == {"o1": b"{}"}


def test_a_paused_process_hears_the_answer_when_it_wakes() -> None:
    bench = Bench()
    answers: list[StoreError | None] = []
    bench.started.store.commit(one(1), answers.append)
    bench.clock.paused = True
    bench.world.advance(5 * SECOND_NS)
    assert bench.sim.number == 1
    assert answers == []
    bench.clock.wake()
    bench.world.advance(MS_NS)
    assert answers == [None]


def test_a_process_that_starts_while_the_server_is_away_begins_when_it_is_back() -> None:
    bench = Bench()
    begun_ns = bench.world.now_ns()
    bench.redis.kill(7 * SECOND_NS)
    assert bench.begin().epoch == 2
    assert bench.world.now_ns() - begun_ns > 7 * SECOND_NS


# --- whole nodes


class RedisWalk(Walk):
    """Faults of the server are as frequent as those of the exchange."""

    desk: RedisDesk

    def __init__(self, desk: RedisDesk, seed: int) -> None:
        super().__init__(desk, seed)
        self.weights[self.names.index("store_away")] += 10

    def store_away(self) -> str:
        return self.desk.store.faults.one()


def walk(folder: Path, seed: int, steps: int = 200) -> RedisWalk:
    desk = RedisDesk(folder, seed=seed, signer=hmac if seed % 4 == 0 else ed25519)
    walked = RedisWalk(desk, seed)
    with last_steps(walked, seed):
        walked.go(steps)
        desk.store.faults.heal()
        desk.heal()
        desk.check()
    return walked


@pytest.mark.parametrize("first", range(100, 130, 5))
def test_a_walk_with_a_faulty_server_ends_with_the_same_books_here_and_there(first: int, tmp_path: Path) -> None:
    for seed in range(first, first + 5):
        walk(tmp_path, seed)


def test_the_same_seed_gives_the_same_walk_and_the_same_commits(tmp_path: Path) -> None:
    first, second = walk(tmp_path, 9), walk(tmp_path, 9)
    assert first.told == second.told
    assert first.desk.store.journal == second.desk.store.journal
    assert first.desk.store.faults.counts == second.desk.store.faults.counts


def test_a_node_writes_a_server_anew_that_came_back_older(tmp_path: Path) -> None:
    desk = RedisDesk(tmp_path)
    order = desk.order(price=59_000)
    desk.wait(2_000)
    filled = desk.order("sell", wait_ms=200)
    assert desk.store.power_cut(SECOND_NS, away_ns=SECOND_NS) > 0
    later = desk.submit(price=59_100, wait_ms=3_000)
    assert not desk.store.behind
    assert desk.node.kernel.rewrite_count == 1
    desk.restart()
    desk.heal()
    assert {desk.state(order), desk.state(filled)} == {"LIVE", "FILLED"}
    assert later is not None
    desk.check()


def test_an_idle_process_notices_an_older_redis_by_its_beat_and_writes_it_anew(tmp_path: Path) -> None:
    """It waits for no order: a crash before the next commit would lose what clients were told."""
    desk = RedisDesk(tmp_path)
    desk.wait(5_000)
    order = desk.order("buy", "0.01", price=59_000)
    kernel = desk.node.kernel
    assert desk.store.power_cut(SECOND_NS) > 0
    assert order.order_id not in desk.store.tables.get("orders", {})
    desk.wait(800)  # the tops of books are written next after that, which would find it too
    assert kernel.rewrite_count == 1
    assert order.order_id in desk.store.tables["orders"] and not desk.store.behind
