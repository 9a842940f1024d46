"""The dead-man timer: who trades from outside renews it; when nobody does in time, no new risk is taken.

When it fires, every order that could open or change a position is cancelled, and everything is REDUCING until a person
lifts that. Exits stay, and so do sales that wait for a stop price: whoever is gone has positions still, and without
them nothing would protect those.

Always true here: the deadline that is on record is at most KEEP_NS behind the one that counts, and never ahead of it,
so that after a restart it fires no later than it would have; a deadline that passed meanwhile fires at the start.
"""

from typing import Any, Final

import msgspec

from ..kernel.actor import Actor
from ..kernel.bus import Handler
from ..kernel.clock import MS_NS, SECOND_NS, Timer
from ..kernel.kernel import Kernel
from ..model.messages import LimitChanged, Refusal, SetDeadMan
from ..model.records import DeadMan, Order
from ..orders.manager import OrderManager
from .flatten import cancel, is_exit
from .guard import EVERYTHING, Guard, TradingState

NAME: Final = "deadman"  # of its limit, and of its record in table `risk`
TIMEOUT_MIN_NS: Final = 1 * SECOND_NS
TIMEOUT_MAX_NS: Final = 86_400 * SECOND_NS
KEEP_NS: Final = 1 * SECOND_NS  # between records of renewals
AGAIN_NS: Final = 1 * SECOND_NS  # between looks at orders whose cancel was refused


class DeadManView(msgspec.Struct, frozen=True, rename="camel"):
    """The timer as it is shown, and the data of its events."""

    timeout: float  # seconds
    deadline: int  # ms
    by: str


def shown(timer: DeadMan) -> DeadManView:
    return DeadManView(timer.timeout_ns / SECOND_NS, timer.deadline_ns // MS_NS, timer.by)


def protects(order: Order) -> bool:
    """Whether an order can only make a position safer: an exit, a closing sale, or a sale at a stop."""
    return is_exit(order) or order.role == "close" or (order.side == "sell" and order.stop_ticks is not None)


class DeadManTimer(Actor):
    """Holds the timer."""

    def __init__(self, kernel: Kernel, guard: Guard, manager: OrderManager) -> None:
        super().__init__(kernel)
        self.guard = guard
        self.manager = manager
        self.armed: DeadMan | None = None
        self._kept_ns = 0  # the deadline on record
        self._timer: Timer | None = None
        self._sweeper: Timer | None = None
        self._left: set[str] = set()  # orders that were open when it fired, until they have ended

    def handles(self) -> dict[type, Handler]:
        return {SetDeadMan: self.on_set, LimitChanged: self.on_limit}

    def restore(self, timer: DeadMan | None) -> None:
        self.armed = timer
        self._kept_ns = timer.deadline_ns if timer is not None else 0

    def start(self) -> None:
        if self.armed is not None:
            left_ns = self.armed.deadline_ns - self.clock.now_ns()
            self._wait(max(0, min(left_ns, self.armed.timeout_ns)))  # a clock that was set back adds nothing
        limit = self.guard.find(EVERYTHING, NAME)
        if limit is not None:
            self._begin(limit.since_ns)
            self._sweeper = self.clock.call_in(0, self.kernel.run, self._sweep)

    def stop(self) -> None:
        for timer in (self._timer, self._sweeper):
            if timer is not None:
                timer.cancel()

    def records(self) -> list[tuple[str, DeadMan]]:
        return [] if self.armed is None else [(NAME, self.armed)]

    def view(self) -> DeadManView | None:
        return None if self.armed is None else shown(self.armed)

    # --- arming

    def on_set(self, request: SetDeadMan) -> None:
        timeout_ns = request.timeout_ns
        if not timeout_ns:
            self._disarm(request)
        elif TIMEOUT_MIN_NS <= timeout_ns <= TIMEOUT_MAX_NS:
            self._arm(request)
        else:
            least, most = TIMEOUT_MIN_NS // SECOND_NS, TIMEOUT_MAX_NS // SECOND_NS
            detail = f"expected {least} to {most} seconds, or 0 to disarm"
            error: dict[str, Any] = {"field": "timeout", "code": "OUT_OF_RANGE", "detail": detail}
            request.reply(Refusal(code="OUT_OF_RANGE", detail=f"timeout: {detail}", errors=(error,)))

    def _arm(self, request: SetDeadMan) -> None:
        before, timeout_ns = self.armed, request.timeout_ns
        timer = self.armed = DeadMan(deadline_ns=self.clock.now_ns() + timeout_ns, timeout_ns=timeout_ns, by=request.by)
        self._wait(timeout_ns)
        changed = before is None or before.timeout_ns != timeout_ns
        if not changed and 0 <= timer.deadline_ns - self._kept_ns < KEEP_NS:
            request.reply(timer)  # nothing is new but a fraction of a second: no commit is made for it
            return
        self._kept_ns = timer.deadline_ns
        self.outbox.put("risk", NAME, timer)
        if changed:
            self.outbox.event("risk", "DeadManArmed", shown(timer))
        self.outbox.effect(request.reply, timer)

    def _disarm(self, request: SetDeadMan) -> None:
        if self.armed is not None:
            self._forget("DeadManDisarmed", msgspec.structs.replace(self.armed, by=request.by))
        self.outbox.effect(request.reply, None)

    def _forget(self, kind: str, timer: DeadMan) -> None:
        self.armed, self._kept_ns = None, 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.outbox.delete("risk", NAME)
        self.outbox.event("risk", kind, shown(timer))

    def _wait(self, delay_ns: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.clock.call_in(delay_ns, self.kernel.run, self._fire)

    # --- firing

    def _fire(self) -> None:
        timer = self.armed
        if timer is None:
            return
        self._forget("DeadManFired", timer)
        who = f" by {timer.by}" if timer.by else ""
        why = f"the dead-man timer of {timer.timeout_ns / SECOND_NS:g} s was not renewed{who}"
        self.guard.limit(NAME, TradingState.REDUCING, why, kept=True)
        self._begin(None)
        self._sweep()

    def _begin(self, since_ns: int | None) -> None:
        """Note what is to be cancelled: all that is open now, or of that what a process before had open then."""
        for order in self.manager.orders.open.values():
            if not protects(order) and (since_ns is None or order.created_ns <= since_ns):
                self._left.add(order.order_id)

    def _sweep(self) -> None:
        """Cancel what was open when it fired, until all of that has ended; what is placed since then stays."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        limit = self.guard.find(EVERYTHING, NAME)
        if limit is None:
            return
        is_open = self.manager.orders.open
        for order_id in sorted(self._left & is_open.keys()):
            order = is_open.get(order_id)
            if order is not None:
                cancel(self.manager, order, limit.why)
        self._left &= is_open.keys()
        if self._left:
            self._sweeper = self.clock.call_in(AGAIN_NS, self.kernel.run, self._sweep)

    def on_limit(self, message: LimitChanged) -> None:
        """Lifted: what is still open stays."""
        if message.lifted and message.limit.name == NAME and not message.limit.scope:
            self._left.clear()
            if self._sweeper is not None:
                self._sweeper.cancel()
                self._sweeper = None
