"""Strategies of this process, wired to a node."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..core.risk.guard import TradingState
from ..strategies_bridge.loading import Planned, plan
from ..strategies_bridge.runner import Strategies
from ..strategies_bridge.running import StrategyLog, Surroundings

if TYPE_CHECKING:
    from .composition import Node


def strategies_of(node: "Node", planned: Sequence[Planned] | None, log: StrategyLog | None) -> Strategies:
    """The actor that runs them; without `planned`, those of the settings. Raises SettingsError for one that cannot."""
    around = Surroundings(
        kernel=node.kernel,
        market=node.market,
        orders=node.orders,
        equity=lambda: node.portfolio.equity(node.portfolio.paper),
        ledgers=node.subledgers,
        paper=not node.settings.live,
        log=log or StrategyLog(),
        submit=node.manager.submit,
    )

    def ready() -> bool:
        """Whether everything is recovered, and what is submitted now can be sent."""
        recovered = node.kernel.store_up and node.recovery.settled
        return recovered and not any(node.engine.pending(venue.name) for venue in node.live_venues)

    return Strategies(
        around,
        plan(node.settings.strategies) if planned is None else planned,
        ready=ready,
        restrict=lambda name, why: node.guard.limit("strategy", TradingState.REDUCING, why, f"strategy:{name}"),
        release=lambda name: node.guard.lift(f"strategy:{name}", "strategy"),
    )
