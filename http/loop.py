"""The automated trading loop of this service, where it is switched on."""

from ..core.model.errors import SettingsError
from ..core.settings import Settings
from ..strategies_bridge.holdings import Holdings
from ..strategies_bridge.services.health import Services
from ..strategies_bridge.trading_loop import STRATEGY, LoopLog, TradingLoop
from .composition import Node


def loop_of(node: Node, settings: Settings, services: Services, log: LoopLog) -> TradingLoop | None:
    """Made when everything is restored, behind every actor; None where TRADING_LOOP is false.

    Raises SettingsError where there is nobody to name the pairs.
    """
    if not settings.trading_loop:
        return None
    if services.core is None:
        raise SettingsError("TRADING_LOOP=true needs CORE_SERVICE_URL: the core service names the pairs to trade")
    holdings = Holdings(
        node.kernel,
        node.orders,
        node.market,
        node.subledgers.quantity,
        STRATEGY,
        paper=not settings.live,
        stop_loss_percent=settings.stop_loss_percent,
    )

    def ready() -> str:
        if not node.kernel.store_up:
            return f"the store is away: {node.kernel.store_why}"
        return "" if node.recovery.settled else "the outcome of some orders is not known yet"

    return TradingLoop(
        node.kernel, settings, services.core, services.ml, holdings, node.portfolio, node.guard, log, ready=ready
    )
