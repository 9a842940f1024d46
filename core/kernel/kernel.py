"""Builds on bus, clock, outbox and store: runs inputs to completion and commits what they leave behind.

    input -> actors (sync, in memory) -> outbox [records | effects] -> store commit -> effects leave

One commit is in flight at a time; inputs that come meanwhile share the next one. A commit that fails because the store
is away stays first in line until it succeeds, so effects keep their order and are never lost or released early.
"""

from collections.abc import Callable, Iterable
from typing import Any, Protocol

from ..model.errors import StoreCorrupt, StoreError, StoreFenced
from ..model.messages import Faulted, StoreStateChanged
from ..state.batch import Batch
from .actor import Actor
from .bus import Bus, Handler
from .clock import MS_NS, Clock
from .conditions import Conditions
from .outbox import Effect, Event, Outbox, Parcel, encode_record


class CommitStore(Protocol):
    """The part of the store that the kernel needs."""

    def commit(self, batch: Batch, done: Callable[[StoreError | None], None]) -> None: ...

    def commit_whole(self, batch: Batch, done: Callable[[StoreError | None], None]) -> None: ...


FeedListener = Callable[[list[Event]], None]
Record = tuple[str, str, Any]  # table, key, record


class Kernel:
    """The synchronous core: `input` is the only way in, the outbox the only way out.

    `on_fatal(error)` is called when this process must stop writing: a newer writer has taken over.
    """

    RETRY_NS = 50 * MS_NS  # between tries of a commit that the store refused

    def __init__(
        self,
        clock: Clock,
        store: CommitStore,
        *,
        outbox: Outbox | None = None,
        on_fatal: Callable[[StoreError], None] | None = None,
        on_fault: Callable[[Faulted, Exception], None] | None = None,
    ) -> None:
        self.clock = clock
        self.store = store
        self.outbox = outbox or Outbox()
        self.outbox.release = self._release
        self.bus = Bus(self.fault)
        self.conditions = Conditions(clock, self.outbox)
        self.actors: list[Actor] = []
        self.feed: list[FeedListener] = []
        self.on_fatal = on_fatal
        self.on_fault = on_fault
        # Everything that is kept, for a store that came back with less than it had acknowledged.
        self.everything: Callable[[], Iterable[Record]] = tuple
        self.rewrite_count = 0
        self.faults: list[Faulted] = []
        self.fault_count = 0
        self.store_up = True
        self.store_why = ""
        self.committed_seq = self.outbox.seq
        self.commit_count = 0
        self._parcel: Parcel | None = None
        self._scheduled = False
        self._fenced = False
        self._idle: list[Callable[[], None]] = []

    # --- building

    def add(self, actor: Actor) -> None:
        """Subscribe an actor; the order of adding is the order in which they see a message."""
        self.actors.append(actor)
        for message_type, handler in actor.handles().items():
            self.bus.subscribe(message_type, handler)

    def start(self) -> None:
        for actor in self.actors:
            actor.start()
        self.flush_soon()

    def stop(self) -> None:
        """End timers. What is pending still commits; `when_idle` tells when it has."""
        for actor in reversed(self.actors):
            actor.stop()
        self.flush_soon()

    def when_idle(self, action: Callable[[], None]) -> None:
        """Call once nothing waits for a commit; at once if that is so now."""
        if self._parcel is None and not self.outbox.pending:
            action()
        else:
            self._idle.append(action)
            self.flush_soon()

    # --- the way in

    def input(self, message: Any) -> None:
        """Run one command or venue message to completion."""
        self.bus.publish(message)
        # Most inputs are frames, and leave nothing behind.
        if not self._scheduled and self._parcel is None and self.outbox.pending:
            self.flush_soon()

    def run(self, action: Callable[..., object], *args: Any) -> None:
        """Run a timer's action as an input."""
        self._call(action, *args)
        self.flush_soon()

    def flush_soon(self) -> None:
        """Commit after the inputs that this turn of the loop brings, so that they share one commit."""
        if not self._scheduled and self._parcel is None:
            self._scheduled = True
            self.clock.call_soon(self._flush)

    # --- the way out

    def _flush(self) -> None:
        self._scheduled = False
        if self._parcel is None and self.outbox.pending and not self._fenced:
            self._parcel = self.outbox.take()
            self.store.commit(self._parcel.batch, self._committed)

    def _committed(self, error: StoreError | None) -> None:
        if error is not None:
            self._refused(error)
            return
        parcel, self._parcel = self._parcel, None
        assert parcel is not None
        self.commit_count += 1
        self.committed_seq = parcel.batch.seq
        if not self.store_up:
            self._store_state(True, "")
        if parcel.events:
            for listener in self.feed:
                self._call(listener, parcel.events)
        self._release(parcel.effects)
        if self.outbox.pending:
            self.flush_soon()
        elif self._idle and not self._scheduled:
            idle, self._idle = self._idle, []
            for action in idle:
                action()

    def _refused(self, error: StoreError) -> None:
        if isinstance(error, StoreFenced):
            self._fenced = True
            self._store_state(False, str(error))
            if self.on_fatal is not None:
                self.on_fatal(error)
            return
        if self.store_up:
            self._store_state(False, str(error))
        self.clock.call_in(self.RETRY_NS, self._retry, isinstance(error, StoreCorrupt))

    def _retry(self, lost_data: bool) -> None:
        parcel = self._parcel
        if parcel is None:
            return
        if not lost_data:
            self.store.commit(parcel.batch, self._committed)
            return
        # Redis has less than it acknowledged (a power cut under everysec). This process, still the writer, has it all.
        self.rewrite_count += 1
        batch = parcel.batch
        batch.puts = [(table, key, encode_record(record)) for table, key, record in self.everything()]
        batch.deletes = []
        self.store.commit_whole(batch, self._written_whole)

    def _written_whole(self, error: StoreError | None) -> None:
        """Even the whole state was refused: what is in Redis is not ours any more (flushed, or another's)."""
        if isinstance(error, StoreCorrupt):
            error = StoreFenced(f"Redis no longer holds this service's state: {error}; restart the service")
        self._committed(error)

    def _store_state(self, up: bool, why: str) -> None:
        self.store_up, self.store_why = up, why
        self.bus.publish(StoreStateChanged(up, why))

    def _release(self, effects: list[Effect]) -> None:
        for action, args in effects:
            try:
                action(*args)
            except Exception as error:  # an effect is the edge: its failure must not keep back the others
                self.fault(action, None, error)

    def _call(self, action: Callable[..., object], *args: Any) -> None:
        try:
            action(*args)
        except Exception as error:
            self.fault(action, None, error)

    # --- supervision

    FAULTS_KEPT = 100

    def fault(self, handler: Handler | Callable[..., object], message: Any, error: Exception) -> None:
        """Count a bug, log it, and tell the bus, which halts trading."""
        where = getattr(handler, "__qualname__", repr(handler))
        fault = Faulted(f"{where}({type(message).__name__})" if message is not None else where, repr(error))
        self.fault_count += 1
        if len(self.faults) < self.FAULTS_KEPT:
            self.faults.append(fault)
        if self.on_fault is not None:
            self.on_fault(fault, error)
        if not isinstance(message, Faulted):  # a fault in handling a fault is logged and counted, no more
            self.bus.publish(fault)
