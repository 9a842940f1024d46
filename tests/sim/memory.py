"""A store in memory that fails as Redis can: away, slow, its answer lost, or back with less than it acknowledged.

It is another process: what has been sent to it arrives, and is applied, whatever became of the sender. So a process can
die between the moment when its commit was applied and the one when it would have heard of it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from tbx.core.kernel.clock import MS_NS
from tbx.core.model.errors import StoreError, StoreUnavailable
from tbx.core.state.batch import Batch
from tbx.core.state.memory import MemoryStore

if TYPE_CHECKING:
    from ..live_network import ProcessClock, Stepped

Done = Callable[[StoreError | None], None]

HALF_NS = 100_000  # one way, and the work
UNDO_MAX = 50  # commits that can be taken back


class FaultyStore(MemoryStore):
    """A MemoryStore across a wire. Attributes may be changed at any time; `on_written` hears of what was applied."""

    def __init__(self, world: Stepped) -> None:
        super().__init__(world.call_soon)
        self.world = world
        self.lose_replies = 0  # so many more commits are applied, and their answer is lost
        self.slow_ns = 0  # added to each commit
        self.behind = False  # it came back older, and has not been written anew yet
        self.commits = 0
        self.on_written: Callable[[Batch, int, bool], object] = lambda *_: None
        self._undo: list[tuple[int, Callable[[], None]]] = []  # when each commit was, and what takes it back
        self._writing = 0  # the epoch that writes
        self._whole = False  # everything is written anew

    def process(self, clock: ProcessClock, epoch: int) -> FaultyWriter:
        return FaultyWriter(self, clock, epoch)

    def commit_whole_as(self, epoch: int, batch: Batch, done: Done) -> None:
        self._whole = True
        super().commit_whole_as(epoch, batch, done)
        self._whole = False

    def _refusal(self, epoch: int) -> StoreError | None:
        self._writing = epoch
        return super()._refusal(epoch)

    def _write(self, batch: Batch) -> None:
        whole, self._whole = self._whole, False
        if whole:
            self._undo.clear()
            self.behind = False
        else:
            self._undo.append((self.world.now_ns(), self._inverse(batch)))
            del self._undo[:-UNDO_MAX]
        super()._write(batch)
        self.commits += 1
        self.on_written(batch, self._writing, whole)

    def _inverse(self, batch: Batch) -> Callable[[], None]:
        number, seq, entries = self.number, self.seq, len(self.journal)
        fields = [(table, field) for table, field, _ in batch.puts] + batch.deletes
        before = [(table, field, self.tables.get(table, {}).get(field)) for table, field in fields]
        streams = {stream: len(self.streams.get(stream, ())) for stream, _ in batch.appends}

        def undo() -> None:
            self.number, self.seq = number, seq
            del self.journal[entries:]
            for table, field, value in before:
                if value is None:
                    self.tables[table].pop(field, None)
                else:
                    self.tables[table][field] = value
            for stream, length in streams.items():
                del self.streams[stream][length:]

        return undo

    def power_cut(self, lost_ns: int, away_ns: int = 0) -> int:
        """It comes back without what it has acknowledged in the last `lost_ns`; how many commits that were."""
        since_ns, lost = self.world.now_ns() - lost_ns, 0
        while self._undo and self._undo[-1][0] > since_ns:
            self._undo.pop()[1]()
            lost += 1
        self.behind = self.behind or lost > 0
        if away_ns:
            self.down = True
            self.world.call_in(away_ns, setattr, self, "down", False)
        return lost


class FaultyWriter:
    """One process' way to the store."""

    def __init__(self, store: FaultyStore, clock: ProcessClock, epoch: int) -> None:
        self.store = store
        self.clock = clock
        self.epoch = epoch

    def commit(self, batch: Batch, done: Done) -> None:
        self._send(partial(self.store.commit_as, self.epoch, batch), done)

    def commit_whole(self, batch: Batch, done: Done) -> None:
        self._send(partial(self.store.commit_whole_as, self.epoch, batch), done)

    def beat(self, done: Done) -> None:
        self._send(partial(self.store.beat_as, self.epoch), done)

    def _send(self, apply: Callable[[Done], None], done: Done) -> None:
        self.store.world.call_in(HALF_NS + self.store.slow_ns, self._arrive, apply, done)

    def _arrive(self, apply: Callable[[Done], None], done: Done) -> None:
        store = self.store
        answers: list[StoreError | None] = []
        store._call_soon = lambda _, error: answers.append(error)
        apply(done)
        (answer,) = answers
        if answer is None and store.lose_replies:
            store.lose_replies -= 1
            self.clock.call_in(20 * MS_NS, done, StoreUnavailable("the connection broke before the answer came"))
        else:
            self.clock.call_in(HALF_NS, done, answer)
