"""A store without Redis, with the same rules: for simulation and for tests of the core in virtual time.

Always true here: like the commit script it applies each number once, refuses a gap, and a writer whose epoch is over.
"""

from collections.abc import Callable

from ..model.errors import StoreCorrupt, StoreError, StoreFenced, StoreUnavailable
from .batch import Batch


class MemoryStore:
    """Tables, journal and streams in dictionaries; `down` makes it refuse as a lost Redis does."""

    def __init__(self, call_soon: Callable[..., object]) -> None:
        self.tables: dict[str, dict[str, bytes]] = {}
        self.journal: list[tuple[int, bytes]] = []
        self.streams: dict[str, list[bytes]] = {}
        self.number = 0
        self.seq = 0
        self.epoch = 0
        self.down = False
        self._call_soon = call_soon

    def acquire(self) -> int:
        self.epoch += 1
        return self.epoch

    def writer(self, epoch: int) -> "MemoryWriter":
        return MemoryWriter(self, epoch)

    def commit(self, batch: Batch, done: Callable[[StoreError | None], None]) -> None:
        """Commit as the writer of the current epoch."""
        self.commit_as(self.epoch, batch, done)

    def commit_as(self, epoch: int, batch: Batch, done: Callable[[StoreError | None], None]) -> None:
        self._call_soon(done, self._apply(epoch, batch))

    def commit_whole_as(self, epoch: int, batch: Batch, done: Callable[[StoreError | None], None]) -> None:
        """Write everything anew, whatever number came last."""
        refusal = self._refusal(epoch)
        if refusal is None:
            self.tables.clear()
            self.journal.clear()
            self._write(batch)
        self._call_soon(done, refusal)

    def beat(self, done: Callable[[StoreError | None], None]) -> None:
        """Beat as the writer of the current epoch."""
        self.beat_as(self.epoch, done)

    def beat_as(self, epoch: int, done: Callable[[StoreError | None], None]) -> None:
        """Show that the writer lives."""
        self._call_soon(done, self._refusal(epoch))

    def _refusal(self, epoch: int) -> StoreError | None:
        if self.down:
            return StoreUnavailable("the store is down")
        if epoch != self.epoch:
            return StoreFenced(f"epoch {epoch} is over; the writer is {self.epoch}")
        return None

    def _apply(self, epoch: int, batch: Batch) -> StoreError | None:
        refusal = self._refusal(epoch)
        if refusal is not None or batch.number <= self.number:
            return refusal
        if batch.number != self.number + 1:
            return StoreCorrupt("number", f"commit {batch.number} came after {self.number}: the store has lost some")
        self._write(batch)
        return None

    def _write(self, batch: Batch) -> None:
        self.number, self.seq = batch.number, batch.seq
        if batch.events:
            self.journal.append((batch.seq, b"[" + b",".join(batch.events) + b"]"))
        for table, field, value in batch.puts:
            self.tables.setdefault(table, {})[field] = value
        for table, field in batch.deletes:
            self.tables.get(table, {}).pop(field, None)
        for stream, value in batch.appends:
            self.streams.setdefault(stream, []).append(value)


class MemoryWriter:
    """One process' view of a MemoryStore, with the epoch that it acquired."""

    def __init__(self, store: MemoryStore, epoch: int) -> None:
        self.store = store
        self.epoch = epoch

    def commit(self, batch: Batch, done: Callable[[StoreError | None], None]) -> None:
        self.store.commit_as(self.epoch, batch, done)

    def commit_whole(self, batch: Batch, done: Callable[[StoreError | None], None]) -> None:
        self.store.commit_whole_as(self.epoch, batch, done)

    def beat(self, done: Callable[[StoreError | None], None]) -> None:
        self.store.beat_as(self.epoch, done)
