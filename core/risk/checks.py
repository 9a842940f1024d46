"""Pre-trade checks of an order that fits its instrument: each explains itself, all are reported, one failure refuses.

Orders that only reduce a position pass the limits that exist to stop growing it.
"""

from collections.abc import Callable
from decimal import Decimal

import msgspec

from ..execution.engine import Plan
from ..model.exact import ONE, ZERO, plain, tidy
from ..model.messages import SubmitOrder
from ..model.records import Check, RiskValidation
from .guard import Guard, TradingState


class RiskLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of the checks; shares of equity."""

    enabled: bool
    max_position_size: Decimal
    max_daily_loss: Decimal


class Checks:
    """Runs the checks in their order.

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
        day_pnl: Callable[[], Decimal],
        to_base: Callable[[str, str], Decimal | None],
    ) -> None:
        self.limits = limits
        self.guard = guard
        self.available = available
        self.equity = equity
        self.position_value = position_value
        self.day_pnl = day_pnl
        self.to_base = to_base

    def run(self, request: SubmitOrder, plan: Plan, need: Decimal) -> tuple[RiskValidation, str | None]:
        """The report, and the code of the first check that refuses; `need` is what the order would reserve."""
        reducing = request.side == "sell"  # on spot a sell can only reduce
        checks = [self._trading_state(reducing), self._balance(request, plan, need)]
        advisory: list[Check] = []
        if self.limits.enabled and request.risk_check:
            advisory.append(self._day_loss(plan, reducing))
        size = self._position_size(plan, reducing) if self.limits.enabled else None
        if size is not None:
            checks.append(size)
        checks += advisory
        code = next((CODES[check.name] for check in checks if not check.passed), None)
        return self._report(request, plan, tuple(checks), size, code), code

    def _trading_state(self, reducing: bool) -> Check:
        state = self.guard.state
        passed = state is TradingState.ACTIVE or (reducing and state is TradingState.REDUCING)
        return Check("tradingState", passed, detail="; ".join(self.guard.reasons) or state.value)

    def _balance(self, request: SubmitOrder, plan: Plan, need: Decimal) -> Check:
        instrument = plan.instrument
        currency = instrument.quote if request.side == "buy" else instrument.base
        there = self.available(plan.wallet, currency)
        if need <= there:
            return Check("balance", True, tidy(there), tidy(need))
        detail = f"needs {plain(need)} {currency}, available are {plain(there)} {currency} at {instrument.exchange}"
        return Check("balance", False, tidy(there), tidy(need), detail)

    def _position_size(self, plan: Plan, reducing: bool) -> Check:
        """The position after the order, against the share of equity that one position may be."""
        if reducing:
            return Check("positionSize", True, detail="the order reduces")
        limit, price = self._room(plan)
        if price is None:
            return Check("positionSize", True, detail=f"no price of {plan.instrument.quote} in base currency")
        held = self.position_value(plan.wallet, plan.instrument.pair)
        after = held + (plan.estimated_cost or ZERO) * price
        detail = None
        if after > limit:
            detail = f"the position would be {plain(_cents(after))}, at most {plain(_cents(limit))} are allowed"
        return Check("positionSize", after <= limit, _cents(limit), _cents(after), detail)

    def _room(self, plan: Plan) -> tuple[Decimal, Decimal | None]:
        limit = self.equity(plan.wallet) * self.limits.max_position_size
        return limit, self.to_base(plan.instrument.quote, plan.instrument.exchange)

    def _day_loss(self, plan: Plan, reducing: bool) -> Check:
        limit = -self.equity(plan.wallet) * self.limits.max_daily_loss
        loss = self.day_pnl()
        passed = reducing or loss >= limit
        detail = None if passed else f"today's loss of {plain(_cents(-loss))} is over {plain(_cents(-limit))}"
        return Check("dailyLoss", passed, _cents(limit), _cents(loss), detail)

    def _report(
        self, request: SubmitOrder, plan: Plan, checks: tuple[Check, ...], size: Check | None, code: str | None
    ) -> RiskValidation:
        failed = {check.name for check in checks if not check.passed}
        quantity = plan.instrument.quantity(plan.qty_lots)
        recommended = quantity
        if "positionSize" in failed:
            recommended = self._recommended(plan)
        elif failed:
            recommended = ZERO
        skipped = "skipped" if not (self.limits.enabled and request.risk_check) else "approved"
        return RiskValidation(
            passed=code is None,
            position_size_check="rejected" if "positionSize" in failed else "approved" if size else "skipped",
            portfolio_risk_check="rejected" if failed - {"positionSize"} else skipped,
            recommended_size=tidy(recommended),
            max_risk=tidy(_cents(plan.estimated_cost or ZERO)),
            checks=checks,
        )

    def _recommended(self, plan: Plan) -> Decimal:
        """The greatest quantity that the position limit still allows."""
        limit, to_base = self._room(plan)
        price = plan.reference_price
        if not to_base or not price:
            return ZERO
        room = limit - self.position_value(plan.wallet, plan.instrument.pair)
        return max(ZERO, plan.instrument.quantity(plan.instrument.floor_lots(room / (price * to_base))))


CODES = {
    "tradingState": "TRADING_LIMITED",
    "balance": "INSUFFICIENT_BALANCE",
    "positionSize": "RISK_POSITION_SIZE",
    "dailyLoss": "RISK_DAILY_LOSS",
}

_CENT = ONE / 10**8


def _cents(value: Decimal) -> Decimal:
    return tidy(value.quantize(_CENT))
