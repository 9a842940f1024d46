"""The manual's automated loop: pairs and strategies from the core service, predictions from the ML service, a weighted
decision for each pair, and the signal that carries it out; then the portfolio is looked over.

Always true here: cycles never overlap; a pair has at most one signal a cycle, whose id is made of the pair and of when
the cycle began by the clock's grid, so that a restart in the middle repeats no trade; every decision, to hold too, is
an event that says why. A service that is away ends a cycle early, never the loop; as long as it gives nothing to decide
with, the condition `loop_failing` holds. Two tries never begin at the same moment of the same interval.

    cycle:  pairs -> (strategies | prediction)*, 8 at a time -> decision -> ExecuteSignal -> ... -> review
    review: what no stop protects gets one again; figures of the day into the log
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from decimal import Decimal
from typing import Any, Protocol

import msgspec

from ..core.kernel.clock import MS_NS, SECOND_NS
from ..core.kernel.kernel import Kernel
from ..core.model.exact import ZERO
from ..core.model.messages import ExecuteSignal, Refusal, Signalled, Submitted
from ..core.portfolio.manager import PortfolioManager
from ..core.risk.guard import Guard, TradingState
from ..core.settings import Settings
from .decisions import Choice, Decision, Opinion, Scores, Standing, choose, confidence_of, scores
from .holdings import STOP_PREFIX, Holdings, Unprotected
from .services.client import ServiceUnavailable

SOURCE = "automated_trading_bot"
STRATEGY = "technical_ml_ensemble"
MAX_RISK = Decimal("0.02")  # share of equity, as the manual's loop asks for
REWARD = 2  # the target is so many times as far away as the stop

AT_ONCE = 8  # pairs that are asked about at the same time
ANSWER_S = 30.0  # how long the outcome of a signal is waited for
FIRST_RETRY_NS = 1 * SECOND_NS  # after a cycle that could not begin; doubles up to the interval
FAILING = "loop_failing"
CORE, ML = "core", "ml"  # its subjects; empty: this service itself
UNKNOWN_NAMED_MAX = 1_000  # pairs that are not traded here and were named


class CoreSource(Protocol):
    """The core service; each call has its own time limit and raises nothing."""

    def pairs(self) -> Awaitable[Sequence[str] | ServiceUnavailable]: ...

    def pair(self, pair: str) -> Awaitable[Sequence[Opinion] | ServiceUnavailable]: ...


class MlSource(Protocol):
    """The prediction service; the same."""

    def prediction(self, pair: str) -> Awaitable[Opinion | ServiceUnavailable]: ...


class LoopLog(Protocol):
    """Where lines of the execution log go."""

    def execution(self, level: str, text: str, **fields: object) -> None: ...


class Heard(msgspec.Struct, frozen=True):
    """What the services said of a pair, and what could not be asked."""

    strategies: Sequence[Opinion]
    prediction: Opinion | None
    missing: tuple[ServiceUnavailable, ...]


class LoopView(msgspec.Struct, frozen=True, rename="camel"):
    """`tradingLoop` in GET /api/health."""

    running: bool
    cycles: int  # that reached their pairs
    skipped: int  # intervals that passed while a cycle was still under way
    failed: int  # cycles that did not reach their pairs
    last_cycle: int | None  # when it began, ms
    last_decisions: int
    last_signals: int  # of those, to buy or sell
    last_error: str | None  # why the last cycle failed; null where it did not


class TradingLoop:
    """One loop. `ready()` is empty where signals can be carried out, else says what is missing."""

    def __init__(
        self,
        kernel: Kernel,
        settings: Settings,
        core: CoreSource,
        ml: MlSource | None,
        holdings: Holdings,
        portfolio: PortfolioManager,
        guard: Guard,
        log: LoopLog,
        *,
        ready: Callable[[], str],
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        # for the process
        self.kernel = kernel
        self.core = core
        self.ml = ml
        self.holdings = holdings
        self.portfolio = portfolio
        self.guard = guard
        self.log = log
        self.ready = ready
        self.sleep = sleep
        self.interval_ns = settings.trading_loop_interval_ns
        self.threshold = float(settings.trading_loop_threshold)
        self.technical_weight = float(settings.trading_loop_technical_weight)
        self.stop_loss_percent = settings.stop_loss_percent
        # so far
        self.running = False
        self.cycles = self.skipped = self.failed = 0
        self.last_error: str | None = None
        self._unknown: set[str] = set()
        self._barred_said = ""
        # of the last cycle
        self.last_cycle_ns: int | None = None
        self.decisions: list[Decision] = []

    # --- the loop

    async def run(self) -> None:
        """Until cancelled."""
        self.running = True
        failures, due = 0, self.slot_now()
        try:
            while True:
                slot = max(due, self.slot_now())  # a timer that is early by a hair does not repeat a cycle
                done = await self.cycle(slot)
                begun, now_ns = max(slot, self.slot_now()), self.kernel.clock.now_ns()
                due, due_ns = begun + 1, (begun + 1) * self.interval_ns
                if done:
                    failures = 0
                    self.skipped += begun - slot
                else:
                    failures += 1
                    again_ns = now_ns + (FIRST_RETRY_NS << min(failures - 1, 20))
                    if again_ns < due_ns:
                        due, due_ns = begun, again_ns
                # At most two intervals, should the clock be set back.
                await self.sleep(min(max(0, due_ns - now_ns), 2 * self.interval_ns) / SECOND_NS)
        finally:
            self.running = False

    def slot_now(self) -> int:
        """Which interval since 1970 it is."""
        return self.kernel.clock.now_ns() // self.interval_ns

    def view(self) -> LoopView:
        return LoopView(
            running=self.running,
            cycles=self.cycles,
            skipped=self.skipped,
            failed=self.failed,
            last_cycle=None if self.last_cycle_ns is None else self.last_cycle_ns // MS_NS,
            last_decisions=len(self.decisions),
            last_signals=sum(decision.signal_id is not None for decision in self.decisions),
            last_error=self.last_error,
        )

    # --- a cycle

    async def cycle(self, slot: int) -> bool:
        """Every pair once, then the review; False where it did not come to the pairs."""
        self.last_cycle_ns, self.decisions = self.kernel.clock.now_ns(), []
        why = self.ready()
        if why:
            self._wants("", why)
            return self._failed(why)
        self._wants("", "")
        self._say_barred()
        listed = await self.core.pairs()
        if isinstance(listed, ServiceUnavailable):
            self._wants_of(CORE, [listed])
            self._failed(f"{listed.service}: {listed.why}")
        else:
            heard = await self._trade(self._known(listed), slot)
            for service in (CORE, ML):
                self._wants_of(service, [_missing(one, service) for one in heard])
            self.cycles, self.last_error = self.cycles + 1, None
        self._review(slot)
        return self.last_error is None

    def _failed(self, why: str) -> bool:
        self.failed += 1
        if why != self.last_error:
            self.log.execution("warn", "CYCLE_FAILED", detail=why)
        self.last_error = why
        return False

    def _wants_of(self, service: str, missing: Sequence[ServiceUnavailable | None]) -> None:
        """Of one cycle, for each question what came instead of an answer, None where nothing did. While a service
        answers, it is no fault of it that it does not know some pair, nor that it was asked with care after one."""
        answers = None in missing
        wants = [
            one for one in missing if one is not None and not (answers and (one.refused or one.kind == "not-asked"))
        ]
        # That it was not asked says less than why, and counts on.
        first = next((one for one in wants if one.kind != "not-asked"), None)
        if wants and first is None and self.kernel.conditions.holds(FAILING, service):
            return
        first = first or (wants[0] if wants else None)
        self._wants(service, "" if first is None else f"{service}: {first.why}")

    def _wants(self, subject: str, why: str) -> None:
        """What the last cycle lacked to decide with; an empty `why`: nothing."""
        conditions = self.kernel.conditions
        if why:
            conditions.begin(FAILING, why, subject)
        elif conditions.holds(FAILING, subject):
            conditions.end(FAILING, subject)
        else:
            return
        self.kernel.flush_soon()

    def _known(self, listed: Iterable[str]) -> list[str]:
        """Those that are traded here, each once; the others are named when they are first seen."""
        known = []
        for pair in dict.fromkeys(listed):
            if pair in self.holdings.by_pair:
                known.append(pair)
            elif pair not in self._unknown and len(self._unknown) < UNKNOWN_NAMED_MAX:
                self._unknown.add(pair)
                self.log.execution("warn", "PAIR_UNKNOWN", pair=pair[:100], detail="the core service lists it")
        return known

    async def _trade(self, pairs: Sequence[str], slot: int) -> Sequence[Heard]:
        """In the order of the core service, so that who comes first is not chance; asked ahead, AT_ONCE at a time."""
        gate = asyncio.Semaphore(AT_ONCE)
        async with asyncio.TaskGroup() as group:
            asked = [(pair, group.create_task(self._ask(pair, gate))) for pair in pairs]
            for pair, heard in asked:
                await self._decide(pair, await heard, slot)
        return [heard.result() for _, heard in asked]

    async def _ask(self, pair: str, gate: asyncio.Semaphore) -> Heard:
        async with gate:
            said, predicted = await asyncio.gather(self.core.pair(pair), self._predicted(pair))
        return Heard(
            () if isinstance(said, ServiceUnavailable) else said,
            None if isinstance(predicted, ServiceUnavailable) else predicted,
            tuple(missing for missing in (said, predicted) if isinstance(missing, ServiceUnavailable)),
        )

    async def _predicted(self, pair: str) -> Opinion | ServiceUnavailable | None:
        return None if self.ml is None else await self.ml.prediction(pair)

    async def _decide(self, pair: str, heard: Heard, slot: int) -> None:
        found = scores(heard.strategies, heard.prediction, self.technical_weight)
        choice = choose(found, self.threshold, self._standing(pair))
        signal: ExecuteSignal | None = None
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if choice.action != "hold":
            made = self._signal(pair, choice, found, slot, answer)
            signal, choice = (made, choice) if isinstance(made, ExecuteSignal) else (None, made)
        decision = self._decision(pair, heard, found, choice, signal, slot)
        self.decisions.append(decision)
        self.kernel.run(self.kernel.outbox.event, "signals", "DecisionMade", decision)
        if signal is not None:
            self.kernel.input(signal)  # in one commit with the decision, as a rule
            await self._outcome(decision, answer)

    def _decision(
        self, pair: str, heard: Heard, found: Scores, choice: Choice, signal: ExecuteSignal | None, slot: int
    ) -> Decision:
        return Decision(
            pair=pair,
            action=choice.action,
            technical_score=found.technical,
            ml_score=found.ml,
            combined_score=found.combined,
            technical_weight=self.technical_weight,
            ml_weight=round(1 - self.technical_weight, 6),
            threshold=self.threshold,
            confidence=confidence_of(found),
            reason=choice.reason,
            strategies=len(heard.strategies),
            missing=tuple(f"{missing.service}: {missing.why}" for missing in heard.missing),
            signal_id=None if signal is None else signal.client_signal_id,
            cycle=slot * self.interval_ns // MS_NS,
            timestamp=self.kernel.clock.now_ns() // MS_NS,
        )

    def _standing(self, pair: str) -> Standing:
        holdings = self.holdings
        return Standing(held=holdings.holds(pair), busy=holdings.busy(pair), barred=self._barred(pair))

    def _barred(self, pair: str) -> str:
        """Why nothing may be bought of a pair at any exchange; empty where something may."""
        guard = self.guard
        if not guard.restricted:
            return ""
        exchanges = [instrument.exchange for instrument in self.holdings.by_pair[pair]]
        states = [guard.state_of(exchange, pair, STRATEGY) for exchange in exchanges]
        return "" if TradingState.ACTIVE in states else guard.why_of(exchanges[0], pair, STRATEGY)

    def _say_barred(self) -> None:
        """Once when trading is limited as a whole, and once when it is not any more."""
        why = "" if self.guard.state is TradingState.ACTIVE else self.guard.why
        if why != self._barred_said:
            self._barred_said = why
            self.log.execution("warn" if why else "info", "LOOP_BUYS_NOTHING" if why else "LOOP_BUYS_AGAIN", detail=why)

    # --- what a decision does

    def _signal(
        self, pair: str, choice: Choice, found: Scores, slot: int, answer: "asyncio.Future[Any]"
    ) -> ExecuteSignal | Choice:
        """The signal; or to hold after all, where there is no price to make a stop from."""
        stop = target = None
        if choice.action == "buy":
            price = self.holdings.price(pair)
            if price is None:
                return Choice("hold", f"{choice.reason}, but there is no current order book of {pair}")
            distance = price * self.stop_loss_percent / 100
            stop, target = (self.holdings.on_grid(pair, p) for p in (price - distance, price + REWARD * distance))
            if stop <= ZERO:
                return Choice("hold", f"{choice.reason}, but no stop fits between the price and zero")
        # The same again after a restart, whatever the services say by then: one decision for a pair and a cycle.
        signal_id = f"loop.{pair}.{slot * self.interval_ns // MS_NS}"
        kept = {"technicalScore": found.technical, "mlScore": found.ml, "combinedScore": found.combined}
        return ExecuteSignal(
            pair=pair,
            action="BUY" if choice.action == "buy" else "SELL",
            reply=lambda value: None if answer.done() else answer.set_result(value),
            confidence=Decimal(f"{confidence_of(found):.6f}"),
            source=SOURCE,
            strategy=STRATEGY,
            stop_loss=stop,
            take_profit=target,
            method="kelly_criterion",
            max_risk=MAX_RISK,
            timestamp_ns=self.kernel.clock.now_ns(),
            client_signal_id=signal_id,
            fingerprint=signal_id,
            metadata=msgspec.json.encode(kept).decode(),
        )

    async def _outcome(self, decision: Decision, answer: "asyncio.Future[Any]") -> None:
        """The next pair is decided on when this one's signal has become orders, or has not."""
        facts: dict[str, object] = {"pair": decision.pair, "action": decision.action, "signalId": decision.signal_id}
        try:
            value = await asyncio.wait_for(answer, ANSWER_S)
        except TimeoutError:
            self.log.execution("warn", "SIGNAL_UNANSWERED", detail=f"no outcome within {ANSWER_S:g} s", **facts)
            return
        if isinstance(value, Refusal):
            self.log.execution("warn", "SIGNAL_REFUSED", code=value.code, detail=value.detail, **facts)
        elif isinstance(value, Signalled):
            orders = [order.order_id for order in value.orders]
            self.log.execution("info", "SIGNAL_DONE", orders=orders, repeated=value.repeated, **facts)

    # --- the review

    def _review(self, slot: int) -> None:
        """After the pairs: what no stop protects gets one again, and how things stand is written down."""
        self.holdings.trim()
        for bare in list(self.holdings.unprotected()):
            self._protect(bare, slot)
        portfolio, now_ns = self.portfolio, self.kernel.clock.now_ns()
        summary = portfolio.summary(self.holdings.paper, now_ns)
        performance = portfolio.performance_view(self.holdings.paper, now_ns)
        exposure = summary.total_positions / summary.total_value if summary.total_value else ZERO
        self.log.execution(
            "info",
            "CYCLE",
            cycle=slot * self.interval_ns // MS_NS,
            milliseconds=(now_ns - (self.last_cycle_ns or now_ns)) // MS_NS,
            decisions=len(self.decisions),
            signals=self.view().last_signals,
            equity=str(summary.total_value),
            dayPnL=str(summary.day_pnl),
            maxDrawdownPercent=str(performance.max_drawdown),
            exposure=f"{exposure:.4f}",
            tradingState=self.guard.state.value,
        )

    def _protect(self, bare: Unprotected, slot: int) -> None:
        exchange, pair = bare.instrument.exchange, bare.instrument.pair
        facts: dict[str, object] = {
            "exchange": exchange,
            "pair": pair,
            "quantity": str(bare.instrument.quantity(bare.lots)),
        }

        def told(value: object) -> None:
            if isinstance(value, Refusal):
                self.log.execution("error", "UNPROTECTED", code=value.code, detail=value.detail, **facts)
            elif isinstance(value, Submitted) and value.order.ended:  # a cycle that failed and was tried again
                detail = "the stop of this interval has ended; the next interval puts another"
                self.log.execution("error", "UNPROTECTED", detail=detail, **facts)
            else:
                self.log.execution("warn", "PROTECTED_AGAIN", detail="no stop covered it any more", **facts)

        client_order_id = f"{STOP_PREFIX}.{exchange}.{pair}.{slot * self.interval_ns // MS_NS}"
        why = self.holdings.protect(bare, client_order_id, told)
        if why:
            self.log.execution("error", "UNPROTECTED", detail=why, **facts)


def _missing(heard: Heard, service: str) -> ServiceUnavailable | None:
    return next((missing for missing in heard.missing if missing.service == service), None)
