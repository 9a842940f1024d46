"""The drill: proves on paper that FLATTEN works, and how long it takes, also where real orders are traded.

    buy the least quantity -> rest an order far below the market -> FLATTEN -> cancelled, sold, flat -> no new order

Always true here: only the paper wallet and the scope of the strategy `drill` are touched, and where a strategy of that
name trades for real nothing is; one drill runs at a time; one that fails, or that a restart cut off, is cleaned up:
what it holds is sold, and then its limit is lifted.
"""

from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from functools import partial
from typing import Any, Final

import msgspec

from ..kernel.actor import Actor
from ..kernel.bus import Handler
from ..kernel.clock import MS_NS, SECOND_NS, Timer
from ..kernel.kernel import Kernel
from ..model.exact import ONE, ZERO
from ..model.instruments import Instrument
from ..model.messages import LimitChanged, OrderEnded, Refusal, Reply, RunDrill, SetTradingState, SubmitOrder
from ..model.records import Order, SignalData, State, strategy_of
from ..orders.manager import OrderManager
from .flatten import Flatten, orders_in
from .guard import Guard, TradingState

STRATEGY: Final = "drill"
SCOPE: Final = f"strategy:{STRATEGY}"
REASON: Final = "a drill"
TIMEOUT_NS: Final = 10 * SECOND_NS
LOOK_NS: Final = 5 * MS_NS  # while it waits for the venue to take and fill its orders
RESTS_AT: Final = Decimal("0.95")  # of the best bid
ROOM: Final = Decimal("1.1")  # above the least quantity, so that what fees leave of it can be sold again
WHO: Final = SignalData(source=STRATEGY, strategy=STRATEGY)


class DrillStep(msgspec.Struct, frozen=True):
    """One thing that was proven, or not; milliseconds from the command that set FLATTEN, of the first two from the
    beginning."""

    name: str  # bought, resting, cancelled, sold, flat, refused, lifted
    passed: bool
    milliseconds: float | None
    detail: str = ""


class DrillReport(msgspec.Struct, frozen=True):
    """The answer to RunDrill, and the data of the event `DrillDone`."""

    passed: bool
    pair: str
    exchange: str
    by: str
    timestamp: int  # ms, of the beginning
    milliseconds: float  # in all
    steps: tuple[DrillStep, ...]


class Run:
    """One drill under way."""

    __slots__ = ("began_ns", "by", "flatten_ns", "ids", "instrument", "lots", "reply", "steps", "timer")

    def __init__(self, instrument: Instrument, lots: int, by: str, reply: Reply, now_ns: int) -> None:
        self.instrument = instrument
        self.lots = lots
        self.by = by
        self.reply = reply
        self.began_ns = now_ns
        self.flatten_ns: int | None = None
        self.ids: dict[str, str] = {}  # order -> the step that it is for
        self.steps: list[DrillStep] = []
        self.timer: Timer | None = None


class Drill(Actor):
    """Runs drills on the paper wallets."""

    def __init__(self, kernel: Kernel, guard: Guard, manager: OrderManager, flatten: Flatten) -> None:
        super().__init__(kernel)
        self.guard = guard
        self.manager = manager
        self.flatten = flatten
        self.last: DrillReport | None = None
        self._run: Run | None = None
        self._cleaning = False

    def handles(self) -> dict[type, Handler]:
        return {RunDrill: self.on_run, OrderEnded: self.on_ended, LimitChanged: self.on_limit}

    def start(self) -> None:
        """Clean up after one that the end of the process cut off."""
        limits = [limit for limit in self.guard.limits(SCOPE) if limit.why.endswith(REASON)]
        if (limits or self._holds()) and not self._trades_for_real():
            self._cleaning = True
            self.clock.call_soon(self.kernel.run, self._clean_up)

    def stop(self) -> None:
        if self._run is not None and self._run.timer is not None:
            self._run.timer.cancel()

    # --- the beginning

    def on_run(self, request: RunDrill) -> None:
        instrument = self._instrument(request.pair)
        if self._run is not None or self._cleaning:
            which = "a drill runs already" if self._run is not None else "the last drill is still being cleaned up"
            request.reply(Refusal(code="DRILL_RUNNING", detail=f"{which}; ask again", status=409, retry_after_s=1))
            return
        if isinstance(instrument, Refusal):
            request.reply(instrument)
            return
        if self._trades_for_real():
            detail = f"a strategy called {STRATEGY!r} trades for real, and a drill would sell what it holds: rename it"
            request.reply(Refusal(code="DRILL_NAME_TAKEN", detail=detail, status=409))
            return
        place = instrument.exchange, instrument.pair, STRATEGY
        if self.guard.state_of(*place) is not TradingState.ACTIVE:
            detail = f"a drill has to buy, and may not: {self.guard.why_of(*place)}"
            request.reply(Refusal(code="TRADING_LIMITED", detail=detail, status=409))
            return
        run = self._run = Run(instrument, self._lots(instrument), request.by, request.reply, self.clock.now_ns())
        self._look_in(run)
        self._submit(run, "bought", type="market")

    def _instrument(self, pair: str | None) -> Instrument | Refusal:
        engine, now_ns = self.manager.engine, self.clock.now_ns()
        listed = [instrument for instrument in engine.instruments.values() if pair in (None, instrument.pair)]
        if not listed:
            known = ", ".join(sorted(engine.by_pair))
            return Refusal(code="INVALID_PAIR", detail=f"pair: {pair} is not traded here; known pairs: {known}")
        for instrument in listed:
            quote = engine.market.quote(instrument.exchange, instrument.pair)
            fresh = engine.market.fresh(instrument.exchange, instrument.pair, now_ns)
            if fresh and quote is not None and all(quote):
                return instrument
        detail = f"there is no current order book of {pair or 'any pair'}"
        return Refusal(code="NO_MARKET_DATA", detail=detail, status=503, retry_after_s=1)

    def _lots(self, instrument: Instrument) -> int:
        """The least that can be bought, rested and, at an attached stop, sold again."""
        engine = self.manager.engine
        quote = engine.market.quote(instrument.exchange, instrument.pair)
        assert quote is not None, "the book is fresh"
        lowest = instrument.price(quote[0]) * RESTS_AT * (ONE - (engine.limits.stop_distance or ZERO))
        least = max(Decimal(instrument.market_range[0]), instrument.min_notional / (lowest * instrument.lot))
        step = instrument.market_step_lots
        return int((least * ROOM / step).to_integral_value(ROUND_CEILING) + 1) * step

    def _submit(self, run: Run, step: str, **order: Any) -> None:
        """From outside of the bus: each order is an input of its own."""
        instrument = run.instrument
        request = SubmitOrder(
            pair=instrument.pair,
            exchange=instrument.exchange,
            side="buy",
            quantity=instrument.quantity(run.lots),
            paper=True,
            risk_check=False,
            signal_data=WHO,
            reply=partial(self._answered, run, step),
            **order,
        )
        self.clock.call_soon(self.kernel.input, request)

    def _answered(self, run: Run, step: str, answer: Any) -> None:
        if run is not self._run:
            return
        if step == "refused":
            self._refused(run, answer)
        elif isinstance(answer, Refusal):
            self._fail(run, step, answer.detail)
        else:
            run.ids[answer.order.order_id] = step
            if step == "bought":
                price = run.instrument.price(self._rests_at(run.instrument))
                self._submit(run, "resting", type="limit", price=price, tif="GTC", timeout_ns=0)

    def _rests_at(self, instrument: Instrument) -> int:
        quote = self.manager.engine.market.quote(instrument.exchange, instrument.pair)
        bid = quote[0] if quote is not None else 0
        return max(1, instrument.min_price_ticks, int((bid * RESTS_AT).to_integral_value(ROUND_FLOOR)))

    # --- waiting for the venue

    def _look_in(self, run: Run) -> None:
        run.timer = self.clock.call_in(LOOK_NS, self.kernel.run, self._look, run)

    def _look(self, run: Run) -> None:
        if run is not self._run:
            return
        if self.clock.now_ns() - run.began_ns >= TIMEOUT_NS:
            self._fail(run, self._next(run), f"not within {TIMEOUT_NS // SECOND_NS} s")
            return
        if run.flatten_ns is None:
            self._ready(run)
        if run is self._run:
            self._look_in(run)

    @staticmethod
    def _next(run: Run) -> str:
        done = {step.name for step in run.steps}
        return next(name for name in STEPS if name not in done)

    def _ready(self, run: Run) -> None:
        orders = {step: self.manager.orders.orders[order_id] for order_id, step in run.ids.items()}
        bought, resting = orders.get("bought"), orders.get("resting")
        for order in (bought, resting):
            if order is not None and order.ended and order.state is not State.FILLED:
                self._fail(run, run.ids[order.order_id], order.reason or order.state.value)
                return
        if bought is None or resting is None or not bought.ended or resting.state is State.SENT:
            return
        self._step(run, "bought", since_ns=run.began_ns)
        self._step(run, "resting", since_ns=run.began_ns)
        run.flatten_ns = self.clock.now_ns()
        self._set("FLATTEN", run.by, _heard)

    def _set(self, state: Any, by: str, reply: Reply) -> None:
        self.kernel.input(SetTradingState(state=state, scope=SCOPE, reason=REASON, by=by, reply=reply))

    # --- what comes of FLATTEN

    def on_ended(self, message: OrderEnded) -> None:
        run, order = self._run, message.order
        if run is None or run.flatten_ns is None or strategy_of(order) != STRATEGY:
            return
        if run.ids.get(order.order_id) == "resting":
            self._step(run, "cancelled", passed=order.state is State.CANCELLED, detail=order.state.value)
        elif _sold(order):
            self._step(run, "sold", detail=order.order_id)

    def on_limit(self, message: LimitChanged) -> None:
        limit = message.limit
        if limit.scope != SCOPE or message.lifted or limit.state != TradingState.HALTED.value:
            return
        run = self._run
        if run is not None and run.flatten_ns is not None:
            self._step(run, "flat")
            self._submit(run, "refused", type="market")
        elif self._cleaning:
            self.clock.call_soon(self.kernel.run, self._clean_up)

    def _refused(self, run: Run, answer: Any) -> None:
        """Nothing may be bought in a scope that was flattened."""
        if not isinstance(answer, Refusal) or answer.code != "TRADING_LIMITED":
            self._fail(run, "refused", "an order was let through, or refused for another reason")
            return
        self._step(run, "refused", detail=answer.code)
        self.clock.call_soon(self._set, "ACTIVE", run.by, partial(self._lifted, run))

    def _lifted(self, run: Run, answer: Any) -> None:
        if isinstance(answer, Refusal) or answer is not TradingState.ACTIVE:
            self._fail(run, "lifted", getattr(answer, "detail", str(answer)))
        elif run is self._run:
            self._step(run, "lifted")
            self._done(run)

    # --- the end

    def _step(self, run: Run, name: str, *, passed: bool = True, detail: str = "", since_ns: int | None = None) -> None:
        if any(step.name == name for step in run.steps):
            return  # sold in more than one part: the first says that it works, `flat` when it was over
        since_ns = since_ns if since_ns is not None else run.flatten_ns
        took = None if since_ns is None else (self.clock.now_ns() - since_ns) / MS_NS
        run.steps.append(DrillStep(name, passed, took, detail))

    def _fail(self, run: Run, name: str, detail: str) -> None:
        if run is not self._run:
            return
        self._step(run, name, passed=False, detail=detail)
        self._cleaning = True
        self._done(run)
        self.clock.call_soon(self.kernel.run, self._clean_up)

    def _done(self, run: Run) -> None:
        self._run = None
        if run.timer is not None:
            run.timer.cancel()
        took_ns = self.clock.now_ns() - run.began_ns
        self.last = DrillReport(
            passed={step.name for step in run.steps if step.passed} == set(STEPS),
            pair=run.instrument.pair,
            exchange=run.instrument.exchange,
            by=run.by,
            timestamp=run.began_ns // MS_NS,
            milliseconds=took_ns / MS_NS,
            steps=tuple(run.steps),
        )
        self.outbox.event("risk", "DrillDone", self.last)
        self.outbox.effect(run.reply, self.last)
        self.kernel.flush_soon()

    def _clean_up(self) -> None:
        """Sell what is left, and lift the limit once that is done."""
        state = self.guard.scope_state(SCOPE)
        if state is TradingState.HALTED or not self._holds():
            self._cleaning = False
            self._set("ACTIVE", STRATEGY, _heard)
        elif state is not TradingState.FLATTEN:
            self._set("FLATTEN", STRATEGY, _heard)

    def _holds(self) -> bool:
        return bool(orders_in(self.manager, SCOPE)) or self.flatten.holds(SCOPE)

    def _trades_for_real(self) -> bool:
        """Whether somebody else uses the name, for real orders: FLATTEN would sell what these have bought."""
        orders = orders_in(self.manager, SCOPE)
        return any(not order.paper for order in orders) or self.flatten.holds(SCOPE, live=True)


STEPS: Final = ("bought", "resting", "cancelled", "sold", "flat", "refused", "lifted")


def _sold(order: Order) -> bool:
    return order.role == "close" and order.filled_lots > 0


def _heard(_: Any) -> None:
    """What comes of the command is seen by what it changes."""
