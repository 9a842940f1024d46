"""A world: a live node, its exchange, its store and the ways between them, in virtual time and under one seed.

`World` is a LiveDesk whose store can fail, whose process can be paused and be taken over by another one, and in which
`Safety` looks at every frame, commit, answer and execution. What happened goes into a running hash: the same seed gives
the same one, in any process.
"""

from __future__ import annotations

import hashlib
import heapq
import json
from collections import deque
from collections.abc import Callable
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from tbx.core.kernel.clock import MS_NS, ManualTimer
from tbx.core.kernel.kernel import CommitStore
from tbx.core.model.errors import StoreError
from tbx.core.model.messages import Faulted
from tbx.core.model.records import Fill, Order
from tbx.core.risk.advice import RiskAnswer, RiskQuestion
from tbx.core.state.batch import Batch
from tbx.core.state.store import Loaded

from ..desk import loaded_from
from ..live_desk import Answer, LiveDesk
from ..live_network import ProcessClock, Stepped
from .memory import FaultyStore
from .safety import Safety
from .store import SimStore

LOOK_STEPS = 400  # callbacks between two looks at everything
TAKEOVER_MS = 3_000  # a writer that is silent for so long can be taken over
TOLD_MAX = 60


class Heap(Stepped):
    """`Stepped` on a heap of tuples, which orders itself in C; counts callbacks and calls `look` every so often."""

    def __init__(self, now_ns: int = 1_704_067_200_000_000_000) -> None:
        super().__init__(now_ns)
        self._queue: list[tuple[int, int, ManualTimer]] = []
        self.steps = 0
        self.look: Callable[[], object] = lambda: None
        self._next_look = LOOK_STEPS

    def call_in(self, delay_ns: int, callback: Callable[..., object], *args: Any) -> ManualTimer:
        self._sequence = sequence = self._sequence + 1
        due_ns = self._now_ns + delay_ns if delay_ns > 0 else self._now_ns
        timer = ManualTimer(due_ns, sequence, callback, args)
        heapq.heappush(self._queue, (due_ns, sequence, timer))
        return timer

    def step(self) -> None:
        while self._queue:
            if self._run(heapq.heappop(self._queue)):
                return

    def _run(self, entry: tuple[int, int, ManualTimer]) -> bool:
        due_ns, _, timer = entry
        callback = timer.callback
        if callback is None:
            return False
        if due_ns > self._now_ns:
            self._now_ns = due_ns
        callback(*timer.args)
        self.steps += 1
        if self.steps >= self._next_look:
            self._next_look = self.steps + LOOK_STEPS
            self.look()
        return True

    def _run_until(self, end_ns: int) -> None:
        queue, run, pop = self._queue, self._run, heapq.heappop
        while queue and queue[0][0] <= end_ns:
            run(pop(queue))
        self._now_ns = end_ns


class Trace:
    """A running hash of what happened, and the last of it in words."""

    def __init__(self, clock: Stepped) -> None:
        self.clock = clock
        self.last: deque[tuple[int, str, bytes]] = deque(maxlen=TOLD_MAX)
        self._hash = hashlib.blake2b(digest_size=16)

    def note(self, kind: str, what: bytes) -> None:
        now_ns = self.clock.now_ns()
        self._hash.update(b"%d %b %b\n" % (now_ns, kind.encode(), what))
        self.last.append((now_ns, kind, what))

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()

    def words(self, most: int = 25) -> list[str]:
        begun_ns = self.last[0][0] if self.last else 0
        return [
            f"{(at_ns - begun_ns) / MS_NS:10.3f} ms {kind}: {what.decode(errors='replace')[:220]}"
            for at_ns, kind, what in list(self.last)[-most:]
        ]


class Noted:
    """A process' way to the store. A batch with everything is ahead of its own events: it notes the rest of them."""

    def __init__(self, world: World, store: CommitStore) -> None:
        self.world = world
        self.store = store
        self.commit, self.beat = store.commit, store.beat

    def commit_whole(self, batch: Batch, done: Callable[[StoreError | None], None]) -> None:
        waiting = [event.frame for event in self.world.node.kernel.outbox._events]
        self.world.waiting[self.world.clock.epoch, batch.number] = waiting
        self.store.commit_whole(batch, done)


class World(LiveDesk):
    """One node at a time that may write, and those that have not heard yet that they may not."""

    world_type = Heap
    world: Heap
    store: FaultyStore | SimStore  # type: ignore[assignment]

    def __init__(
        self, folder: Path, *, seed: int = 1, store: str = "redis", risk_service: bool = False, **options: Any
    ) -> None:
        """`store`: `redis` with the real protocol, or `memory`, which is quicker."""
        self.risk_service = risk_service
        self.store_kind = store
        self.restarts = self.takeovers = 0
        # Every event that was ever committed, once: a commit that a power cut took back comes again.
        self.journal: dict[bytes, None] = {}
        self.waiting: dict[tuple[int, int], list[bytes]] = {}  # by epoch and number of a batch with everything
        self.safety = Safety(self, ahead=options.get("DURABILITY", "ahead") == "ahead")
        super().__init__(folder, seed=seed, **options)

    # --- the process

    def _new_store(self) -> Any:
        self.trace = Trace(self.world)
        store: FaultyStore | SimStore = FaultyStore(self.world)
        if self.store_kind == "redis":
            store = SimStore(self.world, seed=self.rng.randrange(2**32))
        store.on_written = self._written
        self.network.on_sent = self._sent
        self.local.on_execution = self.safety.executed
        self.world.look = self.safety.look
        return store

    def _open_store(self) -> tuple[CommitStore, Loaded, int]:
        if isinstance(self.store, FaultyStore):
            epoch = self.store.acquire()
            return Noted(self, self.store.process(self.clock, epoch)), loaded_from(self.store), epoch
        # Nobody shows books to a process that has not begun, and the world goes on while it begins.
        clock, self.clock = self.clock, ProcessClock(self.world)
        self.clock.alive = False
        try:
            started = self.store.start(clock)
        finally:
            self.clock = clock
        return Noted(self, started.store), started.loaded, started.epoch

    def _start(self) -> None:
        super()._start()
        if self.risk_service:
            self.node.advising.ask = partial(self._advise, self.clock)
            self.node.advising.relied_on = lambda: True
        self.began_ns = self.world.now_ns()
        self.node.kernel.feed.append(self.safety.told)

    def _advise(self, clock: ProcessClock, question: RiskQuestion, done: Callable[[RiskAnswer], None]) -> None:
        """The risk service: all of it, half of it or nothing, within the client's time limit."""
        share = self.rng.choice((1, 1, Decimal("0.5"), None))
        answer = RiskAnswer(failure="silent") if share is None else RiskAnswer(recommended=question.quantity * share)
        clock.call_in(self.rng.randrange(1, 500) * MS_NS, done, answer)

    def restart(self, away_ms: int = 1_000) -> None:
        self.restarts += 1
        super().restart(away_ms)

    def _archive(self, orders: Any, trades: Any, done: Callable[[StoreError | None], None]) -> None:
        self.safety.archived(
            [msgspec.json.decode(row.json, type=Order) for row in orders],
            [msgspec.json.decode(row.json, type=Fill) for row in trades],
        )
        super()._archive(orders, trades, done)

    def _fault(self, clock: ProcessClock, fault: Faulted, error: Exception) -> None:
        """One that is not the writer any more hears of orders that it does not know, until it hears of its end."""
        if clock.epoch == self.store.epoch:
            super()._fault(clock, fault, error)

    def pause(self) -> ProcessClock:
        """SIGSTOP: it does nothing until it wakes; what reaches its machine waits there."""
        self.clock.paused = True
        return self.clock

    def take_over(self) -> None:
        """Another process has seen no sign of the writer's life for long enough."""
        self.takeovers += 1
        self._start()

    # --- what is watched

    def _written(self, batch: Batch, epoch: int, whole: bool) -> None:
        early = self.waiting.pop((epoch, batch.number), ()) if whole else ()
        events = [raw for raw in (*batch.events, *early) if raw not in self.journal]
        self.journal.update(dict.fromkeys(events))
        self.trace.note("commit", b"%d by %d: %b" % (batch.number, epoch, b" ".join(batch.events)))
        self.safety.written(batch, events, epoch, whole)

    def _sent(self, owner: ProcessClock, raw: bytes) -> None:
        self.trace.note("frame", raw)
        self.safety.sent(owner, raw)

    def events(self, channel: str = "orders") -> list[tuple[str, dict[str, Any]]]:
        """As LiveDesk's; also those that a store which came back older has lost."""
        marked = b'"channel":"%b"' % channel.encode()
        found = [json.loads(raw, parse_float=Decimal, parse_int=Decimal) for raw in self.journal if marked in raw]
        return [(event["type"], event["data"]) for event in found]

    def command(self, make: Callable[[Callable[[Any], None]], Any]) -> Answer:
        answer = Answer(self.process)
        self.answers.append(answer)

        def answered(value: Any) -> None:
            answer.values.append(value)
            self.trace.note("answer", type(value).__name__.encode())
            self.safety.answered(message, value)

        message = make(answered)
        self.node.kernel.input(message)
        return answer
