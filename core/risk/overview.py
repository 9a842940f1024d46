"""What GET /api/risk tells: what limits trading, how much of each limit is used, and what stands ready.

Always true here: everything is read when it is asked for; nothing is kept for it.
"""

from collections.abc import Callable
from decimal import Decimal

import msgspec

from ..kernel.clock import MS_NS
from ..model.exact import ZERO
from ..model.views import shown
from ..portfolio.manager import PortfolioManager
from .deadman import DeadManTimer, DeadManView
from .drill import Drill, DrillReport
from .exposure import ExposureView
from .flatten import Flatten, FlattenView
from .guard import Guard
from .loss_limits import LossLimits

FRACTION = Decimal("1E-6")


class LimitView(msgspec.Struct, frozen=True):
    """One reason why trading is limited, and where."""

    scope: str  # empty: everything
    name: str
    state: str
    why: str
    by: str  # the API key of who did it; empty for the service itself
    since: int  # ms
    kept: bool  # survives a restart, and a person lifts it; the others end by themselves


class UseView(msgspec.Struct, frozen=True):
    """One limit of the settings, and how much of it is used. Amounts are in base currency, shares of equity."""

    name: str
    setting: str
    share: Decimal | None  # of equity; None: no share
    limit: Decimal | None
    actual: Decimal | None  # None: nothing to compare
    detail: str = ""


class RiskServiceView(msgspec.Struct, frozen=True, rename="camel"):
    """Whether the risk service answers."""

    status: str
    last_check: int | None = None  # ms


class RiskView(msgspec.Struct, frozen=True, rename="camel"):
    """The answer to GET /api/risk."""

    timestamp: int
    state: str  # of everything: ACTIVE, REDUCING, HALTED or FLATTEN
    why: str
    limits: tuple[LimitView, ...]  # in force
    flattening: tuple[FlattenView, ...]
    use: tuple[UseView, ...]
    exposure: tuple[ExposureView, ...]
    dead_man: DeadManView | None  # None: not armed
    drill: DrillReport | None  # the last one of this process
    risk_service: RiskServiceView | None = None


class Shares(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of the settings: shares of equity, and the order rate."""

    position_size: Decimal
    risk_per_trade: Decimal
    daily_risk: Decimal
    daily_loss: Decimal
    drawdown: Decimal
    correlated: Decimal
    order_rate: int


class Overview:
    """Reads all parts of the risk management of the side that is shown."""

    def __init__(
        self,
        shares: Shares,
        *,
        guard: Guard,
        losses: LossLimits,
        flatten: Flatten,
        dead_man: DeadManTimer,
        drill: Drill,
        portfolio: PortfolioManager,
        open_risk: Callable[[bool], Decimal],
        exposure: Callable[[bool, Decimal], list[ExposureView]],
        busiest: Callable[[int], tuple[str, int]],
    ) -> None:
        """`open_risk(paper)`: what open entries would lose at their stops; `exposure(paper, limit)`: by group;
        `busiest(now_ns)`: who submits most orders now, and how many a second."""
        self.shares = shares
        self.guard = guard
        self.losses = losses
        self.flatten = flatten
        self.dead_man = dead_man
        self.drill = drill
        self.portfolio = portfolio
        self.open_risk = open_risk
        self.exposure = exposure
        self.busiest = busiest

    def view(self) -> RiskView:
        guard, portfolio = self.guard, self.portfolio
        equity = portfolio.equity(portfolio.paper)
        groups = self.exposure(portfolio.paper, equity * self.shares.correlated)
        return RiskView(
            timestamp=guard.clock.now_ns() // MS_NS,
            state=guard.state.value,
            why=guard.why,
            limits=tuple(
                LimitView(
                    limit.scope,
                    limit.name,
                    limit.state,
                    limit.why,
                    limit.by,
                    limit.since_ns // MS_NS,
                    guard.is_kept(limit),
                )
                for limit in guard.limits()
            ),
            flattening=tuple(self.flatten.views()),
            use=tuple(self._use(equity, groups)),
            exposure=tuple(groups),
            dead_man=self.dead_man.view(),
            drill=self.drill.last,
        )

    def _use(self, equity: Decimal, groups: list[ExposureView]) -> list[UseView]:
        shares, portfolio, losses = self.shares, self.portfolio, self.losses
        paper = portfolio.paper
        largest, where = self._largest(paper)
        at_stops = self.open_risk(paper)
        at_risk = portfolio.lost_today(paper) + at_stops
        base = losses.day_loss_base()
        group = groups[0] if groups else None
        source, rate = self.busiest(self.guard.clock.now_ns())
        fall = Decimal(losses.drawdown()).quantize(FRACTION)
        return [
            _share("positionSize", "MAX_POSITION_SIZE", shares.position_size, equity, largest, where),
            _share("riskPerTrade", "MAX_RISK_PER_TRADE", shares.risk_per_trade, equity, None, "of each entry"),
            _share(
                "riskPerDay",
                "MAX_DAILY_RISK",
                shares.daily_risk,
                equity,
                at_risk,
                f"of this, {shown(at_stops)} are open entries at their stops",
            ),
            _share(
                "dailyLoss",
                "MAX_DAILY_LOSS",
                shares.daily_loss,
                equity,
                max(ZERO, losses.day_loss()),
                f"after {shown(base)} that a person lifted" if base else "",
            ),
            UseView("drawdown", "MAX_DRAWDOWN", None, shares.drawdown, fall, "a share of the peak"),
            _share(
                "correlatedExposure",
                "MAX_CORRELATED_EXPOSURE",
                shares.correlated,
                equity,
                group.exposure if group is not None else ZERO,
                group.group if group is not None else "",
            ),
            UseView(
                "orderRate",
                "ORDER_RATE_LIMIT",
                None,
                Decimal(shares.order_rate) if shares.order_rate else None,
                Decimal(rate),
                source,
            ),
        ]

    def _largest(self, paper: bool) -> tuple[Decimal, str]:
        """The greatest position, and which it is."""
        largest, where = ZERO, ""
        for position in self.portfolio.open_positions(paper):
            value = self.portfolio.position_value(position.wallet, position.pair)
            if value > largest:
                largest, where = value, f"{position.exchange} {position.pair}"
        return largest, where


def _share(
    name: str, setting: str, share: Decimal, equity: Decimal, actual: Decimal | None, detail: str = ""
) -> UseView:
    return UseView(name, setting, share, shown(equity * share), None if actual is None else shown(actual), detail)
