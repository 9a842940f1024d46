"""Looks after losses: a day's loss at MAX_DAILY_LOSS makes everything REDUCING, a fall from the peak of MAX_DRAWDOWN
makes it HALTED. Both stay until a person lifts them, also over midnight and a restart.

Always true here: nothing is judged, and no loss is taken as lifted, while a balance waits for its price, which would
look like a loss; deposits and withdrawals are none. After a person has lifted a limit the next loss is counted from
there, so that it holds again only after as much once more.
"""

from collections.abc import Iterator
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Final

from ..kernel.actor import Actor
from ..kernel.bus import Handler
from ..kernel.clock import MS_NS, SECOND_NS, Timer
from ..kernel.kernel import Kernel
from ..model.exact import ZERO, plain, tidy
from ..model.messages import LimitChanged, OrderFilled
from ..model.records import Rebase
from ..portfolio.manager import PortfolioManager, SampleDue
from ..portfolio.performance import DAY_NS
from .guard import EVERYTHING, Guard, TradingState

BURST_NS: Final = 100 * MS_NS
LOOK_NS: Final = 1 * SECOND_NS
DAILY_LOSS: Final = "dailyLoss"
DRAWDOWN: Final = "drawdown"
REBASE: Final = "rebase"  # the record in table `risk`
CENT: Final = Decimal("0.01")


class LossLimits(Actor):
    """Judges the side that equity samples are taken of. Added behind the portfolio: it reads equity after a fill."""

    def __init__(
        self,
        kernel: Kernel,
        guard: Guard,
        portfolio: PortfolioManager,
        *,
        max_daily_loss: Decimal,
        max_drawdown: Decimal,
        enabled: bool = True,
    ) -> None:
        """Shares of equity; not `enabled`: nothing is judged."""
        super().__init__(kernel)
        self.guard = guard
        self.portfolio = portfolio
        self.max_daily_loss = max_daily_loss
        self.max_drawdown = max_drawdown
        self._max_fall = float(max_drawdown)
        self.enabled = enabled
        self._day = 0  # that `_day_base` is of
        self._day_base = ZERO  # the loss of that day when a person lifted the limit
        self._peak: float | None = None  # the highest index since a person lifted the drawdown; None: never
        self._lifted: set[str] = set()  # limits whose loss is to be taken as accepted, once it can be told
        self._kept: Rebase | None = None
        self._timer: Timer | None = None
        self._judged_ns = 0  # after a fill

    def handles(self) -> dict[type, Handler]:
        return {OrderFilled: self.on_filled, SampleDue: self.on_sample, LimitChanged: self.on_limit}

    def restore(self, rebase: Rebase | None) -> None:
        """Take back what was committed; the portfolio has its samples already."""
        self._kept = rebase
        if rebase is None:
            return
        self._day, self._day_base = rebase.day, rebase.day_loss
        if rebase.left is not None and rebase.left > 0:
            self._peak = self.portfolio.performance.index / rebase.left

    def start(self) -> None:
        self._timer = self.clock.call_in(LOOK_NS, self.kernel.run, self._look)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def records(self) -> Iterator[tuple[str, Rebase]]:
        if self._kept is not None:
            yield REBASE, self._kept

    # --- figures

    def day_loss_base(self) -> Decimal:
        """The loss of today that a person has lifted, in base currency; zero where none was."""
        return self._day_base if self._day_base and self._day == self._today() else ZERO

    def day_loss(self) -> Decimal:
        """Today's loss beyond that; below zero where the day has earned."""
        return -self.portfolio.day_pnl() - self.day_loss_base()

    def drawdown(self) -> float:
        """The fall from the peak, or from the peak since a person lifted the limit: 0.1 is 10 %."""
        index, peak = self.portfolio.growth()
        if self._peak is not None:
            peak = self._peak = max(self._peak, index)
        return 1 - index / peak if peak > 0 else 0.0

    def _today(self) -> int:
        return self.clock.now_ns() // DAY_NS

    # --- judging

    def on_filled(self, _: OrderFilled) -> None:
        """A burst of fills is judged as often as prices are looked at, and no later than the next look."""
        now_ns = self.clock.now_ns()
        if not 0 <= now_ns - self._judged_ns < BURST_NS:
            self._judged_ns = now_ns
            self.judge()

    def _look(self) -> None:
        self.judge()
        self._timer = self.clock.call_in(LOOK_NS, self.kernel.run, self._look)

    def judge(self) -> None:
        portfolio = self.portfolio
        if not self.enabled or not portfolio.complete(portfolio.paper):
            return
        if self._lifted:
            self._accept()
        limit = portfolio.equity(portfolio.paper) * self.max_daily_loss
        loss = self.day_loss()
        if loss > 0 and loss >= limit and self.guard.find(EVERYTHING, DAILY_LOSS) is None:
            share = f"MAX_DAILY_LOSS={plain(self.max_daily_loss)}"
            lifted = self.day_loss_base()
            after = f" after {_money(lifted)} that were lifted" if lifted else ""
            why = f"today's loss of {_money(loss)}{after} has reached {_money(limit)} ({share})"
            self.guard.limit(DAILY_LOSS, TradingState.REDUCING, why, kept=True)
        fall = self.drawdown()
        if fall >= self._max_fall and self.guard.find(EVERYTHING, DRAWDOWN) is None:
            share = f"MAX_DRAWDOWN={plain(self.max_drawdown)}"
            since = "the last peak" if self._peak is None else "the peak since the limit was lifted"
            self.guard.limit(DRAWDOWN, TradingState.HALTED, f"{fall:.2%} below {since} ({share})", kept=True)

    # --- a person lifts

    def on_limit(self, message: LimitChanged) -> None:
        """What was lost is accepted: count from here."""
        limit = message.limit
        if message.lifted and not limit.scope and limit.name in (DAILY_LOSS, DRAWDOWN):
            self._lifted.add(limit.name)
            if self.portfolio.complete(self.portfolio.paper):
                self._accept()

    def _accept(self) -> None:
        if DAILY_LOSS in self._lifted:
            self._day, self._day_base = self._today(), max(ZERO, -self.portfolio.day_pnl())
        if DRAWDOWN in self._lifted:
            self._peak = self.portfolio.growth()[0]
        self._lifted.clear()
        self._keep()

    def on_sample(self, _: SampleDue) -> None:
        """The peak moves on: kept with the sample that a restart begins from."""
        if self._peak is not None:
            self.drawdown()
            self._keep()

    def _keep(self) -> None:
        left = None
        if self._peak is not None:
            left = self.portfolio.performance.index / self._peak if self._peak > 0 else 0.0
        rebase = Rebase(day=self._day, day_loss=tidy(self._day_base), left=left)
        if rebase != self._kept:
            self._kept = rebase
            self.outbox.put("risk", REBASE, rebase)


def _money(amount: Decimal) -> str:
    return plain(amount.quantize(CENT, ROUND_HALF_EVEN))
