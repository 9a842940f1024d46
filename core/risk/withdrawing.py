"""Takes open buys off the books where trading is REDUCING or HALTED for a reason that is kept.

What rests would fill and grow a position after all, at the very moment when that was to be stopped. Exits, sales and
buys elsewhere stay. Limits that end by themselves (Redis is away, a fault) leave everything as it is: nobody has
decided anything, and a cancel could not be made durable, or may be wrong.

Always true here: once a limit holds, every buy that was open in its scope is being cancelled, again each second until
it has ended, also over a restart.
"""

from typing import Final

from ..kernel.actor import Actor
from ..kernel.bus import Handler
from ..kernel.clock import SECOND_NS, Timer
from ..kernel.kernel import Kernel
from ..model.messages import LimitChanged
from ..model.records import TradingLimit
from ..orders.manager import OrderManager
from .flatten import cancel, is_exit, orders_in
from .guard import Guard, TradingState

AGAIN_NS: Final = SECOND_NS
STATES: Final = frozenset((TradingState.REDUCING.value, TradingState.HALTED.value))


class Withdrawing(Actor):
    """Cancels entries under the limits that a person, a loss or the dead-man timer has set."""

    def __init__(self, kernel: Kernel, guard: Guard, manager: OrderManager) -> None:
        super().__init__(kernel)
        self.guard = guard
        self.manager = manager
        self._timer: Timer | None = None

    def handles(self) -> dict[type, Handler]:
        return {LimitChanged: self.on_limit}

    def start(self) -> None:
        """Go on with what was under way."""
        if any(self._counts(limit) for limit in self.guard.limits()):
            self._timer = self.clock.call_in(0, self.kernel.run, self._look)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def on_limit(self, message: LimitChanged) -> None:
        if not message.lifted and self._counts(message.limit):
            self._look()

    def _counts(self, limit: TradingLimit) -> bool:
        return limit.state in STATES and self.guard.is_kept(limit)

    def _look(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        left = False
        for limit in self.guard.limits():
            if not self._counts(limit):
                continue
            for order in orders_in(self.manager, limit.scope):
                if order.side == "buy" and not order.ended and not is_exit(order):
                    cancel(self.manager, order, f"{limit.state}: {limit.why}")
                    left = left or not order.ended
        if left:
            self._timer = self.clock.call_in(AGAIN_NS, self.kernel.run, self._look)
