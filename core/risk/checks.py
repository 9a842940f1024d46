"""Pre-trade checks of an order that fits its instrument: each explains itself, all are reported, one failure refuses.

Orders that only reduce a position pass the limits that exist to stop growing it. Every amount is exact; limits are
shares of the equity of the wallet's side.
"""

from collections.abc import Callable
from decimal import ROUND_HALF_EVEN, Decimal
from typing import NamedTuple

import msgspec

from ..execution.engine import Plan
from ..model.exact import ONE, ZERO, plain, tidy
from ..model.messages import SubmitOrder
from ..model.records import AdjustedOrder, Check, CheckName, CheckResult, Order, RiskValidation
from .guard import Guard, TradingState
from .order_rate import OrderRate


class RiskLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of the checks; shares of equity where not said otherwise."""

    enabled: bool
    max_position_size: Decimal
    max_daily_loss: Decimal
    max_risk_per_trade: Decimal = ONE
    max_daily_risk: Decimal = ONE
    max_correlated: Decimal = ONE
    price_collar: Decimal = ONE  # fraction of the mid


class Figures(NamedTuple):
    """Where the checks take their figures from: exact amounts, in base currency where not said otherwise."""

    available: Callable[[str, str], Decimal]  # (wallet, currency), in that currency
    equity: Callable[[str], Decimal]  # of the wallet's side
    position_value: Callable[[str, str], Decimal]  # (wallet, pair)
    buying: Callable[[str, str], Decimal]  # (wallet, pair): what open buys have reserved, in quote
    day_pnl: Callable[[str], Decimal | None]  # of the wallet's side; None where nobody samples that
    to_base: Callable[[str, str], Decimal | None]  # (currency, exchange): its price, None where there is none
    lost_today: Callable[[str], Decimal]  # of the wallet's side, realised, 0 or above
    open_risk: Callable[[str], Decimal]  # of the wallet's side: what open entries lose at their stops
    entry_risk: Callable[[Order, int | None], Decimal]  # what one of them does, or would with its stop at these ticks
    # (wallet, currency): what is held and being bought of all that moves together with it; and that group.
    exposure: Callable[[str, str], tuple[Decimal, frozenset[str]]]
    day_loss_base: Callable[[], Decimal]  # of today's loss, what a person has looked at and set aside
    now_ns: Callable[[], int]


def _nothing(_wallet: str, _currency: str) -> str:
    return ""


class Checks:
    """Runs the checks in their order."""

    def __init__(self, limits: RiskLimits, guard: Guard, figures: Figures, rate: OrderRate) -> None:
        self.limits = limits
        self.guard = guard
        self.figures = figures
        self.rate = rate
        # In words, what of a wallet's currency is set aside and could be had back; set by who sets it aside.
        self.set_aside: Callable[[str, str], str] = _nothing
        self._amounts: dict[str, Amounts] = {}  # by wallet
        self._loss = self._shown_loss = ZERO  # the day's, as it was last seen and shown
        self._above, self._below = ONE + limits.price_collar, ONE - limits.price_collar

    def run(self, request: SubmitOrder, plan: Plan, need: Decimal) -> tuple[RiskValidation, str | None]:
        """The report, and the code of the first check that refuses; `need` is what the order would reserve."""
        growing = request.side == "buy"  # on spot a sell can only reduce
        checks = [
            self._limited(request, plan) if self.guard.restricted else TRADING,
            self._rules(plan),
            self._balance(request, plan, need),
        ]
        if self.limits.enabled:
            if growing:
                self._growth(checks, plan, self.amounts(plan.wallet))
            else:
                checks += REDUCES
        checks.append(self._order_rate(request))
        checks.append(self._collar(plan, growing) if plan.price_ticks is not None else UNPRICED)
        if request.advice is not None:
            checks.append(self._advised(request, plan))
        refused = None
        for check in checks:
            if not check.passed:
                refused = CODES[check.name]
                break
        return self._report(request, plan, tuple(checks), refused), refused

    # --- what holds for every order

    def _limited(self, request: SubmitOrder, plan: Plan) -> Check:
        instrument = plan.instrument
        place = instrument.exchange, instrument.pair, strategy_of(request)
        state = self.guard.state_of(*place)
        if state is TradingState.ACTIVE:
            return TRADING
        passed = request.side == "sell" and state is TradingState.REDUCING
        passed = passed or (request.role == "close" and state is TradingState.FLATTEN)
        # A stop that is put under a position protects it, whatever else is halted.
        passed = passed or (request.side == "sell" and request.type == "stop_loss" and state is TradingState.HALTED)
        return Check("tradingState", passed, detail=self.guard.why_of(*place))

    @staticmethod
    def _rules(plan: Plan) -> Check:
        """The plan was refused where it does not fit its instrument; told is the least and the present cost."""
        cost = plan.estimated_cost
        return Check("instrumentRules", True, plan.instrument.min_notional, None if cost is None else _cents(cost))

    def _balance(self, request: SubmitOrder, plan: Plan, need: Decimal) -> Check:
        instrument = plan.instrument
        currency = instrument.quote if request.side == "buy" else instrument.base
        there = self.figures.available(plan.wallet, currency)
        if need <= there:
            return Check("balance", True, tidy(there), tidy(need))
        detail = f"needs {plain(need)} {currency}, available are {plain(there)} {currency} at {instrument.exchange}"
        detail += self.set_aside(plan.wallet, currency)
        return Check("balance", False, tidy(there), tidy(need), detail)

    def _order_rate(self, request: SubmitOrder) -> Check:
        """A report only: who submits too fast is turned away before this."""
        rate = self.rate
        if not rate.limit:
            return UNLIMITED
        used = rate.used(source_of(request), self.figures.now_ns())
        return Check("orderRate", True, Decimal(rate.limit), Decimal(used))

    def _collar(self, plan: Plan, growing: bool) -> Check:
        """How far beyond the mid a price may lie: one that is worse than the market by more is a slip of the finger."""
        mid, ticks, stop_ticks = plan.arrival_mid, plan.price_ticks, plan.stop_ticks
        instrument = plan.instrument
        if stop_ticks is not None:
            mid = instrument.price(stop_ticks)  # it will be sent when the market is there
        if mid is None or ticks is None:
            return NO_MID
        price, bound = ticks * instrument.tick, mid * (self._above if growing else self._below)
        detail = self.collar_refusal(price, mid, growing=growing)
        return Check("priceCollar", detail is None, _cents(bound), price, detail)

    def collar_refusal(self, price: Decimal, mid: Decimal, *, growing: bool) -> str | None:
        """Why an order may not have a price at this mid; None where it may."""
        if price <= mid * self._above if growing else price >= mid * self._below:
            return None
        away = "above" if growing else "below"
        return f"{plain(price)} is more than {plain(self.limits.price_collar * 100)} % {away} the mid of {plain(mid)}"

    # --- what stops a position from growing

    def _growth(self, checks: list[Check], plan: Plan, limits: "Amounts") -> None:
        instrument, figures = plan.instrument, self.figures
        to_base = figures.to_base(instrument.quote, instrument.exchange)
        if to_base is None:
            # Nothing of it could be compared with any limit: a size that cannot be told is none that is small enough.
            detail = f"nothing prices {instrument.quote} in base currency now, so no limit can be held against it"
            checks.append(Check("positionSize", False, limits.shown_position, None, detail))
            checks += [
                self._day_loss(plan.wallet, limits) if name == "dailyLoss" else Check(name, True, detail=detail)
                for name in GROWTH[1:]
            ]
            return
        cost = plan.estimated_cost or ZERO
        if to_base is not ONE:
            cost = cost * to_base
        checks.append(self._position_size(plan, limits, to_base, cost))
        risk = self.risk_at_stop(plan, to_base)
        if risk is None:
            checks += NO_STOP
        else:
            checks.append(self._risk_per_trade(limits, risk))
            checks.append(self._risk_per_day(plan.wallet, limits, risk))
        checks.append(self._day_loss(plan.wallet, limits))
        checks.append(self._correlated(plan, limits, cost))

    def _position_size(self, plan: Plan, limits: "Amounts", to_base: Decimal, cost: Decimal) -> Check:
        """The position after the order, against the share of equity that one position may be."""
        after = self._exposure(plan.wallet, plan.instrument.pair, to_base) + cost
        if after <= limits.position:
            return Check("positionSize", True, limits.shown_position, _cents(after))
        detail = f"the position would be {plain(_cents(after))}, at most {plain(limits.shown_position)} are allowed"
        return Check("positionSize", False, limits.shown_position, _cents(after), detail)

    @staticmethod
    def risk_at_stop(plan: Plan, to_base: Decimal) -> Decimal | None:
        """What the order loses when all of it is bought as expected and sold at its stop, fees included, in base
        currency; None where it has no stop."""
        stop_ticks, cost = plan.exit_stop_ticks, plan.estimated_cost
        if stop_ticks is None or cost is None:
            return None
        instrument = plan.instrument
        left = stop_ticks * plan.qty_lots * instrument.tick * instrument.lot
        risk = cost - left + (cost + left) * instrument.taker_fee
        return risk if to_base is ONE else risk * to_base

    @staticmethod
    def _risk_per_trade(limits: "Amounts", risk: Decimal) -> Check:
        if risk <= limits.trade:
            return Check("riskPerTrade", True, limits.shown_trade, _cents(risk))
        detail = f"{plain(_cents(risk))} would be lost at the stop, at most {plain(limits.shown_trade)} may be"
        return Check("riskPerTrade", False, limits.shown_trade, _cents(risk), detail)

    def _risk_per_day(self, wallet: str, limits: "Amounts", risk: Decimal, before: Decimal = ZERO) -> Check:
        """Today's realised loss, and all open entries at their stops, this one with them; `before` is what of those
        it takes the place of."""
        lost, at_stops = self.figures.lost_today(wallet), self.figures.open_risk(wallet) - before
        whole = lost + at_stops + risk
        if whole <= limits.risk_day:
            return Check("riskPerDay", True, limits.shown_risk_day, _cents(whole))
        detail = (
            f"today's loss of {plain(_cents(lost))}, {plain(_cents(at_stops))} at the stops of open entries and "
            f"{plain(_cents(risk))} at this one's come to more than {plain(limits.shown_risk_day)}"
        )
        return Check("riskPerDay", False, limits.shown_risk_day, _cents(whole), detail)

    def _day_loss(self, wallet: str, limits: "Amounts") -> Check:
        loss = self.figures.day_pnl(wallet)
        if loss is None:
            return UNSAMPLED
        if loss != self._loss:
            self._loss, self._shown_loss = loss, _cents(loss)
        least, shown = limits.day, limits.shown_day
        base = self.figures.day_loss_base()
        if base:
            least -= base
            shown = _cents(least)
        if loss >= least:
            return Check("dailyLoss", True, shown, self._shown_loss)
        detail = f"today's loss of {plain(_cents(-loss))} is over {plain(-shown)}"
        return Check("dailyLoss", False, shown, self._shown_loss, detail)

    def _correlated(self, plan: Plan, limits: "Amounts", cost: Decimal) -> Check:
        held, group = self.figures.exposure(plan.wallet, plan.instrument.base)
        after = held + cost
        if after <= limits.correlated:
            return Check("correlatedExposure", True, limits.shown_correlated, _cents(after))
        names = ", ".join(sorted(group)[:NAMES_MAX]) + (", ..." if len(group) > NAMES_MAX else "")
        detail = (
            f"{plain(_cents(after))} would be held in what moves together ({names}), "
            f"at most {plain(limits.shown_correlated)} may be"
        )
        return Check("correlatedExposure", False, limits.shown_correlated, _cents(after), detail)

    def growth_refusal(self, order: Order, more: Decimal) -> str | None:
        """Why an open buy may not reserve so much more quote currency; None where it may."""
        to_base = self.figures.to_base(order.quote, order.exchange)
        if not self.limits.enabled:
            return None
        if to_base is None:
            return f"nothing prices {order.quote} in base currency now, so no limit can be held against it"
        limits, more = self.amounts(order.wallet), more * to_base
        after = self._exposure(order.wallet, order.pair, to_base) + more
        if after > limits.position:
            return (
                f"the position could become {plain(_cents(after))}, at most {plain(limits.shown_position)} are allowed"
            )
        held, _ = self.figures.exposure(order.wallet, order.base)
        if held + more <= limits.correlated:
            return None
        after = _cents(held + more)
        return f"what moves together could become {plain(after)}, at most {plain(limits.shown_correlated)} are allowed"

    def risk_refusal(self, entry: Order, wanted: Order, stop_ticks: int | None = None) -> tuple[str, str] | None:
        """Why an entry may not become what it is amended to, or its stop be moved there: code and words."""
        figures, wallet = self.figures, entry.wallet
        before, after = figures.entry_risk(entry, None), figures.entry_risk(wanted, stop_ticks)
        if not self.limits.enabled or after <= before:
            return None
        limits = self.amounts(wallet)
        for check in (self._risk_per_trade(limits, after), self._risk_per_day(wallet, limits, after, before)):
            if not check.passed:
                return CODES[check.name], check.explanation
        return None

    def state_refusal(self, order: Order, *, grows: bool = True) -> str | None:
        """Why an order that waited here may not buy now; None where it may. One that does not grow (what had been let
        through is sent once more) is refused only where nothing new may be bought at all."""
        if not self.guard.restricted or order.side == "sell":
            return None
        place = order.exchange, order.pair, order.signal_data.strategy if order.signal_data is not None else None
        state = self.guard.state_of(*place)
        if state is TradingState.ACTIVE or (state is TradingState.REDUCING and not grows):
            return None
        return self.guard.why_of(*place)

    def _exposure(self, wallet: str, pair: str, to_base: Decimal) -> Decimal:
        """What the position is worth, and what open buys may still add to it, in base currency."""
        return self.figures.position_value(wallet, pair) + self.figures.buying(wallet, pair) * to_base

    def amounts(self, wallet: str) -> "Amounts":
        """The limits as amounts, worked out again only when the equity has changed."""
        equity = self.figures.equity(wallet)
        known = self._amounts.get(wallet)
        if known is None or known.equity is not equity:
            known = self._amounts[wallet] = Amounts(equity, self.limits)
        return known

    # --- the report

    @staticmethod
    def _advised(request: SubmitOrder, plan: Plan) -> Check:
        advice = request.advice
        assert advice is not None
        quantity = tidy(plan.instrument.quantity(plan.qty_lots))
        return Check("riskService", advice.outcome != "refused", advice.recommended, quantity, advice.reason or None)

    def _report(
        self, request: SubmitOrder, plan: Plan, checks: tuple[Check, ...], refused: str | None
    ) -> RiskValidation:
        enabled, advice = self.limits.enabled, request.advice
        quantity = tidy(plan.qty_lots * plan.instrument.lot)
        size: CheckResult = "approved" if enabled else "skipped"
        portfolio: CheckResult = size
        recommended, adjusted = quantity, None
        if advice is not None and advice.outcome in ("adjusted", "unavailable"):
            size = "adjusted"
            adjusted = AdjustedOrder(quantity, tidy(advice.requested), advice.reason)
        if refused is not None:
            failed = {check.name for check in checks if not check.passed}
            recommended = ZERO
            if failed & SIZES:
                size = "rejected"
                if failed <= SIZES and plan.reference_price is not None:
                    recommended = tidy(self._recommended(plan))
                    if advice is not None and advice.recommended is not None:
                        lots = max(0, plan.instrument.floor_lots(advice.recommended))
                        recommended = min(recommended, tidy(plan.instrument.quantity(lots)))
            if failed - SIZES:
                portfolio = "rejected"
        return RiskValidation(
            refused is None,
            size,
            portfolio,
            recommended,
            _cents(plan.estimated_cost or ZERO),
            checks,
            advice is not None and advice.outcome == "unavailable",
            adjusted,
        )

    def _recommended(self, plan: Plan) -> Decimal:
        """The greatest quantity that the limits on size still allow."""
        instrument, price = plan.instrument, plan.reference_price
        to_base = self.figures.to_base(instrument.quote, instrument.exchange)
        if not to_base or not price:
            return ZERO
        limits = self.amounts(plan.wallet)
        held, _ = self.figures.exposure(plan.wallet, instrument.base)
        room = min(limits.position - self._exposure(plan.wallet, instrument.pair, to_base), limits.correlated - held)
        lots = instrument.floor_lots(room / (price * to_base)) if room > 0 else 0
        risk = self.risk_at_stop(plan, to_base)
        if risk is not None and risk > 0:
            lost = self.figures.lost_today(plan.wallet) + self.figures.open_risk(plan.wallet)
            part = max(ZERO, min(limits.trade, limits.risk_day - lost)) / risk
            lots = min(lots, int(plan.qty_lots * part))
        return max(ZERO, instrument.quantity(lots))


def strategy_of(request: SubmitOrder) -> str | None:
    """Whose order it is."""
    return request.signal_data.strategy if request.signal_data is not None else None


def source_of(request: SubmitOrder) -> str:
    """Whose share of the order rate it takes; all without a strategy have one together."""
    return strategy_of(request) or ""


CODES: dict[CheckName, str] = {
    "tradingState": "TRADING_LIMITED",
    "instrumentRules": "INSTRUMENT_RULES",
    "balance": "INSUFFICIENT_BALANCE",
    "positionSize": "RISK_POSITION_SIZE",
    "riskPerTrade": "RISK_PER_TRADE",
    "riskPerDay": "RISK_PER_DAY",
    "dailyLoss": "RISK_DAILY_LOSS",
    "correlatedExposure": "RISK_CORRELATED_EXPOSURE",
    "orderRate": "ORDER_RATE",
    "priceCollar": "PRICE_COLLAR",
    "riskService": "RISK_SERVICE_REFUSED",
}
GROWTH: tuple[CheckName, ...] = ("positionSize", "riskPerTrade", "riskPerDay", "dailyLoss", "correlatedExposure")
SIZES = frozenset(("positionSize", "riskPerTrade", "riskPerDay", "correlatedExposure", "riskService"))
NAMES_MAX = 8  # currencies of a group that a refusal names

# What most orders are told; shared, as they never change.
TRADING = Check("tradingState", True)
REDUCES = tuple(Check(name, True, detail="the order reduces") for name in GROWTH)
NO_STOP = (
    Check("riskPerTrade", True, detail="no stop: only its size limits what it may lose"),
    Check("riskPerDay", True, detail="no stop: only its size limits what it may lose"),
)
UNLIMITED = Check("orderRate", True, detail="no limit is set")
UNPRICED = Check("priceCollar", True, detail="no price of its own: the slippage guard bounds what it may take")
UNSAMPLED = Check("dailyLoss", True, detail="paper money in a live service: its days are not kept")
NO_MID = Check("priceCollar", True, detail="no mid price to compare with")


class Amounts:
    """The limits of a wallet in base currency, at one equity."""

    __slots__ = (
        "correlated",
        "day",
        "equity",
        "position",
        "risk_day",
        "shown_correlated",
        "shown_day",
        "shown_position",
        "shown_risk_day",
        "shown_trade",
        "trade",
    )

    def __init__(self, equity: Decimal, limits: RiskLimits) -> None:
        self.equity = equity
        self.position = equity * limits.max_position_size
        self.trade = equity * limits.max_risk_per_trade
        self.risk_day = equity * limits.max_daily_risk
        self.day = -equity * limits.max_daily_loss
        self.correlated = equity * limits.max_correlated
        self.shown_position = _cents(self.position)
        self.shown_trade = _cents(self.trade)
        self.shown_risk_day = _cents(self.risk_day)
        self.shown_day = _cents(self.day)
        self.shown_correlated = _cents(self.correlated)


_CENT = ONE / 10**8


def _cents(value: Decimal) -> Decimal:
    return value.quantize(_CENT, ROUND_HALF_EVEN).normalize() + ZERO  # as `tidy` does
