"""The trading state: ACTIVE takes orders, REDUCING only those that reduce a position, HALTED none.

Always true here: cancels, venue reports and exits that are already held flow in every state.
"""

from enum import Enum

from ..kernel.actor import Actor
from ..kernel.bus import Handler
from ..kernel.kernel import Kernel
from ..model.messages import Faulted, StoreStateChanged


class TradingState(Enum):
    ACTIVE = "ACTIVE"
    REDUCING = "REDUCING"
    HALTED = "HALTED"


class Guard(Actor):
    """Holds why trading is limited; the strictest reason decides."""

    def __init__(self, kernel: Kernel) -> None:
        super().__init__(kernel)
        self.state = TradingState.ACTIVE
        self.why = TradingState.ACTIVE.value  # the reasons in words
        self._reasons: dict[str, tuple[TradingState, str]] = {}

    def handles(self) -> dict[type, Handler]:
        return {Faulted: self.on_fault, StoreStateChanged: self.on_store}

    def on_fault(self, message: Faulted) -> None:
        self.limit("fault", TradingState.HALTED, f"a fault in {message.where}: {message.error}")

    def on_store(self, message: StoreStateChanged) -> None:
        if message.up:
            self._lift("store")
        else:
            self.limit("store", TradingState.REDUCING, f"the store is away: {message.reason}")

    def limit(self, name: str, state: TradingState, why: str) -> None:
        """Limit trading for a reason of this name, in place of an earlier one."""
        self._reasons[name] = (state, why)
        self._decide()

    def _lift(self, name: str) -> None:
        self._reasons.pop(name, None)
        self._decide()

    def _decide(self) -> None:
        states = {state for state, _ in self._reasons.values()}
        self.state = next((s for s in (TradingState.HALTED, TradingState.REDUCING) if s in states), TradingState.ACTIVE)
        self.why = "; ".join(f"{s.value}: {why}" for s, why in self._reasons.values()) or self.state.value
        if self.state is TradingState.ACTIVE:
            self.kernel.conditions.end("trading_limited")
        else:
            self.kernel.conditions.begin("trading_limited", self.why)
