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
        self._reasons: dict[str, tuple[TradingState, str]] = {}

    def handles(self) -> dict[type, Handler]:
        return {Faulted: self.on_fault, StoreStateChanged: self.on_store}

    @property
    def state(self) -> TradingState:
        states = {state for state, _ in self._reasons.values()}
        if TradingState.HALTED in states:
            return TradingState.HALTED
        return TradingState.REDUCING if states else TradingState.ACTIVE

    @property
    def reasons(self) -> list[str]:
        return [f"{state.value}: {why}" for state, why in self._reasons.values()]

    def on_fault(self, message: Faulted) -> None:
        self._reasons["fault"] = (TradingState.HALTED, f"a fault in {message.where}: {message.error}")

    def on_store(self, message: StoreStateChanged) -> None:
        if message.up:
            self._reasons.pop("store", None)
        else:
            self._reasons["store"] = (TradingState.REDUCING, f"the store is away: {message.reason}")
