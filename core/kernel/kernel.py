"""Builds on bus, clock, outbox and store: runs inputs to completion and commits what they leave behind.

    input -> actors (sync, in memory) -> outbox [records | effects] -> store commit -> effects leave

One commit is in flight at a time; inputs that come meanwhile share the next one. A commit that fails because the store
is away stays first in line until it succeeds, so effects keep their order and are never lost or released early. Nor are
they released late: when a commit's answer was read long after it came, another process may be the writer by then.
"""

from collections.abc import Callable, Iterable
from typing import Any, Protocol

from ..model.errors import StoreCorrupt, StoreError, StoreFenced
from ..model.messages import Faulted, StoreStateChanged
from ..model.records import FaultMark
from ..state.batch import Batch
from ..state.lease import Lease
from .actor import Actor
from .bus import Bus, Handler
from .clock import MS_NS, SECOND_NS, Clock, Timer
from .conditions import Conditions
from .heart import Heart
from .latency import Latency
from .outbox import Effect, Event, Outbox, Parcel, encode_record


class CommitStore(Protocol):
    """The part of the store that the kernel needs."""

    def commit(self, batch: Batch, done: Callable[[StoreError | None], None]) -> None: ...

    def commit_whole(self, batch: Batch, done: Callable[[StoreError | None], None]) -> None: ...

    def beat(self, done: Callable[[StoreError | None], None]) -> None: ...


def _nothing() -> None:
    """What leaves with a commit that is made for its own sake."""


FeedListener = Callable[[list[Event]], None]
Record = tuple[str, str, Any]  # table, key, record


class Kernel:
    """The synchronous core: `input` is the only way in, the outbox the only way out.

    `on_fatal(error)` is called when this process must stop writing: a newer writer has taken over.
    """

    RETRY_NS = 50 * MS_NS  # between tries of a commit that the store refused
    # A store that has not answered a commit for so many looks is told as one that is away: a Redis that is stopped
    # refuses nothing. Looks are counted, so that a loop which did not turn for a while is not taken for that.
    LOOK_NS = 250 * MS_NS
    LOOKS_MAX = 4
    REWRITTEN_NS = 600 * SECOND_NS  # for how long health shows that the store was written anew

    def __init__(
        self,
        clock: Clock,
        store: CommitStore,
        *,
        outbox: Outbox | None = None,
        lease: Lease | None = None,
        on_fatal: Callable[[StoreError], None] | None = None,
        on_fault: Callable[[Faulted, Exception], None] | None = None,
    ) -> None:
        self.clock = clock
        self.store = store
        self.outbox = outbox or Outbox()
        self.outbox.release = self._release
        self.bus = Bus(self.fault)
        self.conditions = Conditions(clock, self.outbox)
        self.outbox.on_dropped = self._dropped
        self.lease = lease if lease is not None else Lease(clock.now_ns)
        self.heart = Heart(
            clock,
            store,
            self.conditions,
            self.lease,
            on_sure=self._let_go,
            on_lost=self._refused,
            on_behind=self._behind,
        )
        self.sure = self.outbox.sure = self.heart.sure
        self.actors: list[Actor] = []
        self.feed: list[FeedListener] = []
        self.on_fatal = on_fatal
        self.on_fault = on_fault
        # Everything that is kept, for a store that came back with less than it had acknowledged.
        self.everything: Callable[[], Iterable[Record]] = tuple
        self.rewrite_count = 0
        self.faults: list[Faulted] = []
        self.fault_mark: FaultMark | None = None  # of the first of them, or of an earlier process's; in the store too
        self.fault_count = 0
        self.store_up = True
        self.store_why = ""
        self.store_cause = ""  # what stands behind that, where whoever looks after the store knows it
        self.committed_seq = self.outbox.seq
        self.commit_count = 0
        self.commit_latency = Latency()  # from the first send to the store's yes, with all tries in between
        self._sent_ns = 0
        self._look_timer: Timer | None = None
        self._looked = (0, 0)  # number of the commit that was under way at the last look, and for how many looks
        self._rewritten: Timer | None = None  # when that is over
        self._parcel: Parcel | None = None
        self._parcel_committed = False  # and waits only for the lease
        self._confirms_ns = 0  # when it was sent by the lease's clock; 0 where its answer confirms nothing
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
        self.heart.start()
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
            self._sent_ns = self.clock.now_ns()
            if self._look_timer is None:
                self._look_timer = self.clock.call_in(self.LOOK_NS, self._look)
            self._confirms_ns = self.lease.now_ns()
            self.store.commit(self._parcel.batch, self._committed)

    def _committed(self, error: StoreError | None) -> None:
        if error is not None:
            self._refused(error)
            return
        parcel = self._parcel
        assert parcel is not None
        self._parcel_committed = True
        self.heart.confirm(self._confirms_ns)
        self.commit_count += 1
        self.commit_latency.add(self.clock.now_ns() - self._sent_ns)
        self.committed_seq = parcel.batch.seq
        if not self.store_up:
            self._store_state(True, "")
        self._let_go()

    def _let_go(self) -> None:
        """Set free what the committed parcel holds, as long as nobody else can have become the writer."""
        parcel = self._parcel
        if parcel is None or not self._parcel_committed or not self.sure():
            return
        self._parcel, self._parcel_committed = None, False
        if parcel.events:
            for listener in self.feed:
                self._call(listener, parcel.events)
        effects = parcel.effects
        for count, (action, args) in enumerate(effects):
            if count and not self.sure():  # this process was stopped between two of them
                self._parcel, self._parcel_committed = Parcel(parcel.batch, [], effects[count:]), True
                return
            self._perform(action, args)
        if self.outbox.pending:
            self.flush_soon()
        elif self._idle and not self._scheduled:
            idle, self._idle = self._idle, []
            for action in idle:
                action()

    def _refused(self, error: StoreError) -> None:
        if isinstance(error, StoreFenced):
            if self._fenced:
                return  # by a beat and by a commit
            self._fenced = True
            self.lease.lose()
            self.heart.stop()
            self._store_state(False, str(error))
            if self.on_fatal is not None:
                self.on_fatal(error)
            return
        why = f"{self.store_cause} ({error})" if self.store_cause else str(error)
        if self.store_up or self.store_why != why:
            self._store_state(False, why)
        self.clock.call_in(self.RETRY_NS, self._retry, isinstance(error, StoreCorrupt), str(error))

    def _behind(self, error: StoreError) -> None:
        """An idle writer hears from a beat that the store came back older: the commit that this makes finds it so, and
        is followed by all that was lost. A parcel that only waited for the lease is lost too, and committed again."""
        if self._parcel is None:
            self.outbox.effect(_nothing)
            self.flush_soon()
        elif self._parcel_committed:
            self._parcel_committed = False
            self._refused(error)

    def _look(self) -> None:
        """Tell of a commit that waits too long. There is no look while none is under way, or the store is away."""
        self._look_timer = None
        if self._parcel is None or self._parcel_committed or not self.store_up:
            return
        number, looks = self._parcel.batch.number, self._looked[1] + 1
        self._looked = (number, looks if number == self._looked[0] else 1)
        if self._looked[1] >= self.LOOKS_MAX:
            waited_ms = self.LOOK_NS * self.LOOKS_MAX // MS_NS
            self._store_state(False, f"the store has not answered a commit for {waited_ms} ms")
        else:
            self._look_timer = self.clock.call_in(self.LOOK_NS, self._look)

    def _retry(self, lost_data: bool, why: str) -> None:
        parcel = self._parcel
        if parcel is None or self._fenced:
            return
        self._confirms_ns = 0  # the try before may be what the store has taken, then this one moves nothing
        if not lost_data:
            self.store.commit(parcel.batch, self._committed)
            return
        # Redis has less than it acknowledged (a power cut under everysec). This process, still the writer, has it all.
        self._rewriting(why)
        batch = parcel.batch
        batch.puts = [(table, key, encode_record(record)) for table, key, record in self.everything()]
        batch.deletes = []
        self.store.commit_whole(batch, self._written_whole)

    def _rewriting(self, why: str) -> None:
        """Health shows it for a while: what else relied on that Redis may have lost something too."""
        self.rewrite_count += 1
        self.conditions.begin("store_rewritten", why)
        if self._rewritten is not None:
            self._rewritten.cancel()
        self._rewritten = self.clock.call_in(self.REWRITTEN_NS, self.run, self.conditions.end, "store_rewritten")

    def _written_whole(self, error: StoreError | None) -> None:
        """Even the whole state was refused: what is in Redis is not ours any more (flushed, or another's)."""
        if isinstance(error, StoreCorrupt):
            error = StoreFenced(f"Redis no longer holds this service's state: {error}; restart the service")
        self._committed(error)

    def _store_state(self, up: bool, why: str) -> None:
        self.store_up, self.store_why = up, why
        if up:
            self.conditions.end("store_away")
            self.conditions.end("events_dropped")
        else:
            self.conditions.begin("store_away", why)
        self.bus.publish(StoreStateChanged(up, why))

    def _dropped(self, count: int) -> None:
        self.conditions.begin("events_dropped", f"{count} events so far, the oldest of those that wait for the store")

    def _release(self, effects: list[Effect]) -> None:
        for action, args in effects:
            self._perform(action, args)

    def _perform(self, action: Callable[..., object], args: tuple[Any, ...]) -> None:
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
        if not self.conditions.holds("fault"):  # the first one: those after it may be its consequences
            self.conditions.begin("fault", f"in {fault.where}: {fault.error}")
            self.fault_mark = FaultMark(fault.where, fault.error, self.clock.now_ns())
            self.outbox.put("meta", "fault", self.fault_mark)
        if self.on_fault is not None:
            self.on_fault(fault, error)
        if not isinstance(message, Faulted):  # a fault in handling a fault is logged and counted, no more
            self.bus.publish(fault)
