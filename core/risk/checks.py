"""Pre-trade checks of an order that fits its instrument: each explains itself, all are reported, one failure refuses.

Orders that only reduce a position pass the limits that exist to stop growing it.
"""

from collections.abc import Callable
from decimal import ROUND_HALF_EVEN, Decimal

import msgspec

from ..execution.engine import Plan
from ..model.exact import ONE, ZERO, plain, tidy
from ..model.messages import SubmitOrder
from ..model.records import Check, CheckName, CheckResult, Order, RiskValidation
from .guard import Guard, TradingState


class RiskLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of the checks; shares of equity."""

    enabled: bool
    max_position_size: Decimal
    max_daily_loss: Decimal


def _nothing(_wallet: str, _currency: str) -> str:
    return ""


class Checks:
    """Runs the checks in their order.

    `buying(wallet, pair)` is what open buys have reserved, in quote.
    `available(wallet, currency)`, `equity(wallet)`, `position_value(wallet, pair)` and `day_pnl()` are exact
    amounts; the last three are in base currency. `to_base(currency, exchange)` is a price or None where there is none.
    """

    def __init__(
        self,
        limits: RiskLimits,
        guard: Guard,
        *,
        available: Callable[[str, str], Decimal],
        equity: Callable[[str], Decimal],
        position_value: Callable[[str, str], Decimal],
        buying: Callable[[str, str], Decimal],
        day_pnl: Callable[[], Decimal],
        to_base: Callable[[str, str], Decimal | None],
    ) -> None:
        self.limits = limits
        self.guard = guard
        self.available = available
        self.equity = equity
        self.position_value = position_value
        self.buying = buying
        self.day_pnl = day_pnl
        self.to_base = to_base
        # In words, what of a wallet's currency is set aside and could be had back; set by who sets it aside.
        self.set_aside: Callable[[str, str], str] = _nothing
        self._amounts: dict[str, _Amounts] = {}  # by wallet
        self._loss = self._shown_loss = ZERO  # the day's, as it was last seen and shown

    def run(self, request: SubmitOrder, plan: Plan, need: Decimal) -> tuple[RiskValidation, str | None]:
        """The report, and the code of the first check that refuses; `need` is what the order would reserve."""
        reducing = request.side == "sell"  # on spot a sell can only reduce
        active = self.guard.state is TradingState.ACTIVE
        checks = [TRADING if active else self._limited(reducing), self._balance(request, plan, need)]
        if self.limits.enabled:
            limits = self._limits_of(plan.wallet)
            checks.append(REDUCES if reducing else self._position_size(plan, limits))
            checks.append(self._day_loss(limits, reducing))
        refused = None
        for check in checks:
            if not check.passed:
                refused = CODES[check.name]
                break
        return self._report(plan, tuple(checks), refused), refused

    def _limited(self, reducing: bool) -> Check:
        passed = reducing and self.guard.state is TradingState.REDUCING
        return Check("tradingState", passed, detail=self.guard.why)

    def _balance(self, request: SubmitOrder, plan: Plan, need: Decimal) -> Check:
        instrument = plan.instrument
        currency = instrument.quote if request.side == "buy" else instrument.base
        there = self.available(plan.wallet, currency)
        if need <= there:
            return Check("balance", True, tidy(there), tidy(need))
        detail = f"needs {plain(need)} {currency}, available are {plain(there)} {currency} at {instrument.exchange}"
        detail += self.set_aside(plan.wallet, currency)
        return Check("balance", False, tidy(there), tidy(need), detail)

    def _position_size(self, plan: Plan, limits: "_Amounts") -> Check:
        """The position after the order, against the share of equity that one position may be."""
        instrument, limit = plan.instrument, limits.position
        price = self.to_base(instrument.quote, instrument.exchange)
        if price is None:
            return Check("positionSize", True, detail=f"no price of {instrument.quote} in base currency")
        after = self._exposure(plan.wallet, instrument.pair, price) + (plan.estimated_cost or ZERO) * price
        if after <= limit:
            return Check("positionSize", True, limits.shown_position, _cents(after))
        detail = f"the position would be {plain(_cents(after))}, at most {plain(_cents(limit))} are allowed"
        return Check("positionSize", False, limits.shown_position, _cents(after), detail)

    def growth_refusal(self, order: Order, more: Decimal) -> str | None:
        """Why an open buy may not reserve so much more quote currency; None where it may."""
        to_base = self.to_base(order.quote, order.exchange)
        if not self.limits.enabled or to_base is None:
            return None
        limit = self._limits_of(order.wallet).position
        after = self._exposure(order.wallet, order.pair, to_base) + more * to_base
        if after <= limit:
            return None
        return f"the position could become {plain(_cents(after))}, at most {plain(_cents(limit))} are allowed"

    def _exposure(self, wallet: str, pair: str, to_base: Decimal) -> Decimal:
        """What the position is worth, and what open buys may still add to it, in base currency."""
        return self.position_value(wallet, pair) + self.buying(wallet, pair) * to_base

    def _limits_of(self, wallet: str) -> "_Amounts":
        """The limits as amounts, worked out again only when the equity has changed."""
        equity = self.equity(wallet)
        known = self._amounts.get(wallet)
        if known is None or known.equity is not equity:
            known = self._amounts[wallet] = _Amounts(equity, self.limits)
        return known

    def _day_loss(self, limits: "_Amounts", reducing: bool) -> Check:
        loss = self.day_pnl()
        if loss != self._loss:
            self._loss, self._shown_loss = loss, _cents(loss)
        if reducing or loss >= limits.day:
            return Check("dailyLoss", True, limits.shown_day, self._shown_loss)
        detail = f"today's loss of {plain(_cents(-loss))} is over {plain(-limits.shown_day)}"
        return Check("dailyLoss", False, limits.shown_day, self._shown_loss, detail)

    def _report(self, plan: Plan, checks: tuple[Check, ...], refused: str | None) -> RiskValidation:
        enabled = self.limits.enabled
        max_risk = _cents(plan.estimated_cost or ZERO)
        if refused is None:
            recommended = tidy(plan.qty_lots * plan.instrument.lot)
            size: CheckResult = "approved" if enabled else "skipped"
            portfolio: CheckResult = "approved" if len(checks) == len(CODES) else "skipped"
            return RiskValidation(True, size, portfolio, recommended, max_risk, checks)
        failed = {check.name for check in checks if not check.passed}
        size, recommended = "approved", ZERO
        if "positionSize" in failed:
            size, recommended = "rejected", tidy(self._recommended(plan))
        portfolio = "approved" if len(checks) == len(CODES) else "skipped"
        if failed - {"positionSize"}:
            portfolio = "rejected"
        return RiskValidation(False, size if enabled else "skipped", portfolio, recommended, max_risk, checks)

    def _recommended(self, plan: Plan) -> Decimal:
        """The greatest quantity that the position limit still allows."""
        limit = self._limits_of(plan.wallet).position
        to_base = self.to_base(plan.instrument.quote, plan.instrument.exchange)
        price = plan.reference_price
        if not to_base or not price:
            return ZERO
        room = limit - self._exposure(plan.wallet, plan.instrument.pair, to_base)
        return max(ZERO, plan.instrument.quantity(plan.instrument.floor_lots(room / (price * to_base))))


CODES: dict[CheckName, str] = {
    "tradingState": "TRADING_LIMITED",
    "balance": "INSUFFICIENT_BALANCE",
    "positionSize": "RISK_POSITION_SIZE",
    "dailyLoss": "RISK_DAILY_LOSS",
}


# What most orders are told; shared, as they never change.
TRADING = Check("tradingState", True)
REDUCES = Check("positionSize", True, detail="the order reduces")


class _Amounts:
    """The limits of a wallet in base currency, at one equity."""

    __slots__ = ("day", "equity", "position", "shown_day", "shown_position")

    def __init__(self, equity: Decimal, limits: RiskLimits) -> None:
        self.equity = equity
        self.position = equity * limits.max_position_size
        self.day = -equity * limits.max_daily_loss
        self.shown_position = _cents(self.position)
        self.shown_day = _cents(self.day)


_CENT = ONE / 10**8


def _cents(value: Decimal) -> Decimal:
    return value.quantize(_CENT, ROUND_HALF_EVEN).normalize() + ZERO  # as `tidy` does
