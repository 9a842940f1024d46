"""Keeps the writer's lease: shows the standbys that this process lives, and knows whether what is committed may leave.

Always true here: from `start` on something may leave only where a command of this writer that moved something in the
store was sent less than SURE_NS ago. A process that was stopped, or cut off, sends nothing when it wakes until it has
asked. While the store does not answer, nobody can tell, and `lease_unsure` holds.
"""

from collections.abc import Callable
from functools import partial
from typing import Final, Protocol

from ..model.errors import StoreBehind, StoreCorrupt, StoreError, StoreFenced
from ..state.lease import BEAT_NS, SURE_NS, Lease
from .clock import MS_NS, SECOND_NS, Clock, Timer
from .conditions import Conditions

RETRY_NS: Final = 50 * MS_NS  # between questions while something waits to be sent
# Looks at a lease that is not sure before it is told: the first of them asks, and most often that settles it.
UNSURE_LOOKS_MAX: Final = 2


class BeatStore(Protocol):
    """The part of the store that beats."""

    def beat(self, done: Callable[[StoreError | None], None]) -> None: ...


class Heart:
    """`on_sure` is called when what had to wait may leave; `on_lost(error)` when another process is the writer;
    `on_behind(error)` when the store holds less than it has acknowledged."""

    def __init__(
        self,
        clock: Clock,
        store: BeatStore,
        conditions: Conditions,
        lease: Lease,
        *,
        on_sure: Callable[[], None],
        on_lost: Callable[[StoreError], None],
        on_behind: Callable[[StoreError], None],
    ) -> None:
        self.clock = clock
        self.store = store
        self.conditions = conditions
        self.lease = lease
        self._on_sure = on_sure
        self._on_lost = on_lost
        self._on_behind = on_behind
        self._started = False
        self._stopped = False
        self._shown = False  # whether the standbys have seen a beat
        self._beating = False  # one is on its way
        self._doubted = False  # something waits
        self._unsure_looks = 0
        self._why = ""  # of the last beat that failed
        self._timer: Timer | None = None

    def start(self) -> None:
        """Beat from now on. Before it there is nothing to keep, and no doubt."""
        self._started = True
        self._look()

    def stop(self) -> None:
        """No beat leaves any more: the lease is about to be given up."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()

    def sure(self) -> bool:
        """Whether what is committed may leave now; where not, `on_sure` is called when it may."""
        if self.lease.sure() or not self._started:
            return True
        self._doubted = True
        self._beat()
        return False

    def confirm(self, sent_ns: int) -> None:
        """The store has taken what was sent then, by the lease's clock, and was moved by it."""
        self.lease.confirm(sent_ns)
        if (self._doubted or self._unsure_looks) and self.lease.sure():
            self._doubted, self._unsure_looks = False, 0
            self.conditions.end("lease_unsure")
            self.clock.call_soon(self._on_sure)

    def _look(self) -> None:
        self._timer = self.clock.call_in(BEAT_NS, self._look)
        # A commit shows as well as a beat that the writer lives.
        if not self._shown or self.lease.age_ns >= BEAT_NS // 2:
            self._beat()
        if self.lease.sure():
            return
        self._unsure_looks += 1
        if self._unsure_looks >= UNSURE_LOOKS_MAX:
            why = self._why or "the store does not answer"
            self.conditions.begin("lease_unsure", f"not confirmed for {SURE_NS // SECOND_NS} s: {why}")

    def _beat(self) -> None:
        if not self._beating and not self._stopped:
            self._beating = True
            self.store.beat(partial(self._beaten, self.lease.now_ns()))

    def _beaten(self, sent_ns: int, error: StoreError | None) -> None:
        self._beating = False
        if isinstance(error, StoreBehind):
            self._on_behind(error)
        elif isinstance(error, StoreCorrupt):
            error = StoreFenced(f"Redis no longer holds this service's state: {error}; restart the service")
        if isinstance(error, StoreFenced):
            self.stop()
            self._on_lost(error)
            return
        if error is None:
            self._shown, self._why = True, ""
            self.confirm(sent_ns)
        else:
            self._why = str(error)
        if self._doubted:  # it failed, or took so long that it proves nothing any more
            self.clock.call_in(RETRY_NS, self._beat)
