"""Strategies in this process: which hook sees which message, and what happens to one that fails.

Always true here: a hook runs inside the input that it is about and its exception goes no further than here. The
strategy is stopped then: its entries are cancelled, what protects its coins stays, new orders in its name may only
reduce, and everybody else goes on. What hooks ask for goes to the bus behind the message that is being handled, so that
no hook runs inside another part of the core, and no other part inside a hook.

    BookUpdated, TradePrinted, OrderFilled, OrderEnded -> hook -> commands -> bus -> orders/manager, signals
"""

import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from time import perf_counter_ns
from typing import Any, Final, Literal

import msgspec

from ..core.kernel.actor import Actor
from ..core.kernel.bus import Handler
from ..core.kernel.clock import MS_NS, Timer
from ..core.model.errors import SettingsError
from ..core.model.messages import (
    BookUpdated,
    OrderEnded,
    OrderFilled,
    Refusal,
    Reply,
    Signalled,
    SubmitOrder,
    TradePrinted,
)
from ..core.model.records import Order, State
from .loading import CONSTRUCTION_NS, Planned, listed_problems
from .running import Answered, CancelOwn, Command, KeptState, Running, SellOwn, Surroundings, TimerDue
from .strategy import Strategy
from .texts import LINES_MAX, error_text, shown, shown_lines
from .views import BookView, SignalAnswer, fill_of, order_of, order_of_request, trade_of
from .watchdog import Call, Watchdog

COMMANDS_AT_ONCE_MAX: Final = 5_000  # of all strategies, in one turn of the loop
LOOK_NS: Final = 20 * MS_NS  # between looks whether the core is ready, before the strategies start


class RunningView(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A strategy in this process, as the API shows it."""

    name: str
    status: Literal["starting", "running", "stopped"]
    error: str | None = None  # why it was stopped, where it was a fault of its own
    since: int  # ms; in this status
    pairs: list[str]
    exchange: str | None = None
    parameters: dict[str, str]
    calls: int  # of its hooks
    p99_ms: float  # of a call
    worst_ms: float
    orders_sent: int
    refused: int  # of those, how many left nothing on record


class StrategyChanged(msgspec.Struct, frozen=True, rename="camel"):
    """The data of StrategyStarted and StrategyStopped."""

    strategy: str
    why: str
    error: str | None = None


class BeginStrategies(msgspec.Struct, frozen=True):
    """The core is ready: start those that wait for it."""


class StartStrategy(msgspec.Struct, frozen=True):
    """Start a strategy that was stopped; answered with a RunningView or a Refusal."""

    name: str
    reply: Reply


class StopStrategy(msgspec.Struct, frozen=True):
    """Stop a strategy: on_stop, and its entries are cancelled; answered with a RunningView or a Refusal."""

    name: str
    reply: Reply
    why: str = "asked for"


class WindDown(msgspec.Struct, frozen=True):
    """The service ends: stop all; `done` is called when the orders that must not stay have ended."""

    done: Callable[[], None]


class AwaitEnds(msgspec.Struct, frozen=True):
    """All are stopped, and what they leave behind is being cancelled."""

    done: Callable[[], None]


Restrict = Callable[[str, str], object]  # strategy, why
Book = tuple[str, str]  # exchange, pair


def _nothing(*_: object) -> None:
    """Nobody wants to know."""


class Strategies(Actor):
    """Runs strategies. It has to be the last actor: what a hook reads is settled then."""

    def __init__(
        self,
        around: Surroundings,
        planned: Sequence[Planned],
        *,
        ready: Callable[[], bool] = lambda: True,
        restrict: Restrict = _nothing,
        release: Callable[[str], object] = _nothing,
        elapsed_ns: Callable[[], int] = perf_counter_ns,
    ) -> None:
        """`restrict` lets orders in the name of a strategy only reduce, until `release`. Raises SettingsError where a
        strategy names a pair or an exchange that is not there."""
        super().__init__(around.kernel)
        problems = [line for plan in planned for line in listed_problems(plan, around.market.instruments)]
        if problems:
            raise SettingsError(problems)
        self.around = around
        self._ready, self._restrict, self._release = ready, restrict, release
        self._elapsed_ns = elapsed_ns
        self._kept: dict[str, bytes] = {}  # of strategies that do not run stays as it is
        self._planned = {plan.name: plan for plan in planned}
        self._views: dict[Book, BookView] = {}
        self._running: dict[str, Running] = {}
        self._books: dict[Book, tuple[tuple[Running, Callable[[BookView], None]], ...]] = {}
        self._trades: dict[Book, tuple[tuple[Running, Callable[[Any], None]], ...]] = {}
        self._timer: Timer | None = None
        # for a turn of the loop: commands that the bus was given, and those that it was not
        self._done_now = 0
        self._later: deque[Command] = deque()
        # at the end: orders that must not stay, and whom to tell when they have ended
        self._leaving: set[str] = set()
        self._left: Callable[[], None] = _nothing
        self.call = Call()  # the one that runs now, for the watchdog
        for plan in planned:
            self._running[plan.name] = self._host(plan.first)

    def _host(self, strategy: Strategy) -> Running:
        for key, instrument in self.around.market.instruments.items():
            if key[1] in strategy.pairs and key not in self._views:
                self._views[key] = BookView(instrument, self.around.market.feed(*key))
        running = Running(self.around, strategy, self._views)
        strategy.attach(running)
        return running

    # --- actor

    def handles(self) -> dict[type, Handler]:
        """Nothing where there are no strategies: a frame then costs nothing here."""
        if not self._planned:
            return {
                WindDown: self._wind_down,
                AwaitEnds: self._await_ends,
                StartStrategy: self._start,
                StopStrategy: self._stop,
            }
        return {
            BookUpdated: self._on_book,
            TradePrinted: self._on_trade,
            OrderFilled: self._on_filled,
            OrderEnded: self._on_ended,
            TimerDue: self._on_timer,
            Answered: self._on_answer,
            CancelOwn: self._cancel,
            SellOwn: self._sell,
            BeginStrategies: self._begin,
            StartStrategy: self._start,
            StopStrategy: self._stop,
            WindDown: self._wind_down,
            AwaitEnds: self._await_ends,
        }

    def restore(self, kept: Mapping[str, bytes]) -> None:
        """`kept`: name -> the JSON of its KeptState."""
        self._kept = dict(kept)

    def start(self) -> None:
        if self._planned:
            self._timer = self.clock.call_in(0, self._look)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for running in self._running.values():
            running.cancel_timers()

    def _look(self) -> None:
        if self._ready():
            self._timer = None
            self.kernel.input(BeginStrategies())
        else:
            self._timer = self.clock.call_in(LOOK_NS, self._look)

    # --- what others read

    def views(self) -> dict[str, RunningView]:
        """Each strategy by its name, also those that were stopped."""
        return {name: self._view(running) for name, running in self._running.items()}

    def records(self) -> Iterator[tuple[str, KeptState | msgspec.Raw]]:
        """Key in table `strategies`, and what is kept under it."""
        for name, kept in self._kept.items():
            if name not in self._running:
                yield f"state:{name}", msgspec.Raw(kept)
        for name, running in self._running.items():
            record = running.record()
            if record is not None:
                yield f"state:{name}", record
            elif name in self._kept:  # it could not be read, or is not restored yet
                yield f"state:{name}", msgspec.Raw(self._kept[name])

    def _view(self, running: Running) -> RunningView:
        return RunningView(
            name=running.name,
            status=running.status,
            error=running.error or None,
            since=running.since_ns // MS_NS,
            pairs=list(running.listed),
            exchange=running.exchange,
            parameters={shown(key): shown(value) for key, value in self._planned[running.name].parameters.items()},
            calls=running.calls,
            p99_ms=running.p99_ns() / MS_NS,
            worst_ms=running.worst_ns / MS_NS,
            orders_sent=running.orders_sent,
            refused=running.refused,
        )

    # --- calling

    def watchdog(self, limit_ns: int) -> Watchdog:
        """Stops a hook that takes longer. Only in the main thread of a process; the caller closes it."""
        return Watchdog(self.call, limit_ns, Strategies._call.__code__)

    def _call(self, running: Running, hook: Callable[..., None], *args: Any, keep: bool = False) -> None:
        """Run a hook to its end, and then what it asked for. `keep`: and keep the state where it changed."""
        call, began_ns = self.call, self._elapsed_ns()
        call.begin(began_ns)
        try:
            hook(*args)
            call.check(self._elapsed_ns())
            if keep or running.keeping:
                running.look_at_state()
            call.running = False
        except BaseException as error:  # whatever it is: an author's sys.exit() ends the strategy, not the service
            call.running = False
            self._fail(running, getattr(hook, "__name__", "a hook"), error)
            return
        running.calls += 1
        running.took(self._elapsed_ns() - began_ns)
        if running.commands:
            self._do(running.take())

    def _do(self, commands: list[Command]) -> None:
        """The bus takes them up behind the message that is being handled; what is too much for one input comes after
        it, so that strategies together cannot make a cascade that the bus refuses."""
        if not self._done_now:
            self.clock.call_soon(self._next_turn)
        if self._later or self._done_now + len(commands) > COMMANDS_AT_ONCE_MAX:
            self._later += commands
            return
        self._done_now += len(commands)
        for action, args in commands:
            action(*args)

    def _next_turn(self) -> None:
        self._done_now = 0
        later, self._later = self._later, deque()
        if later:
            self.kernel.run(self._rest, later)

    def _rest(self, commands: deque[Command]) -> None:
        """Each an input of its own."""
        for action, args in commands:
            action(*args)

    def _on_book(self, message: BookUpdated) -> None:
        key = (message.exchange, message.pair)
        hooks = self._books.get(key)
        if hooks is None:
            return
        view = self._views[key]
        if not view.refresh(self.clock.now_ns()):
            return
        for running, hook in hooks:
            if running.status == "running":  # a hook before this one may have stopped it
                self._call(running, hook, view)

    def _on_trade(self, message: TradePrinted) -> None:
        key = (message.exchange, message.pair)
        hooks = self._trades.get(key)
        if hooks is None:
            return
        trade = trade_of(message, self.around.market.instruments[key])
        for running, hook in hooks:
            if running.status == "running":
                self._call(running, hook, trade)

    def _of(self, order: Order) -> Running | None:
        data = order.signal_data
        return None if data is None or data.strategy is None else self._running.get(data.strategy)

    def _on_filled(self, message: OrderFilled) -> None:
        running = self._of(message.order)
        if running is not None and running.status == "running":
            self._call(running, running.strategy.on_fill, fill_of(message.fill), order_of(message.order), keep=True)

    def _on_ended(self, message: OrderEnded) -> None:
        order = message.order
        running = self._of(order)
        if running is None:
            return
        running.forget(order.client_order_id)
        if order.order_id in self._leaving:
            self._leaving.discard(order.order_id)
            if not self._leaving:
                self.outbox.effect(self._left)
        if running.status == "running" and (order.state is not State.REJECTED or self._bearable(running, order.reason)):
            self._call(running, running.strategy.on_order, order_of(order), keep=True)

    def _on_timer(self, message: TimerDue) -> None:
        running: Running = message.running
        if running.status == "running":
            self._call(running, running.strategy.on_timer, message.name, keep=True)

    def _on_answer(self, message: Answered) -> None:
        running: Running = message.running
        running = self._running.get(running.name, running)  # it may have been started anew
        request, answer = message.request, message.answer
        if isinstance(request, SubmitOrder):
            self._on_submitted(running, request, answer)
        elif running.status == "running":
            told = _signal_answer(request.client_signal_id, request.pair, answer)
            if told.code is None or self._bearable(running, told.reason):
                self._call(running, running.strategy.on_signal, told)

    def _on_submitted(self, running: Running, request: SubmitOrder, answer: object) -> None:
        client_id = request.client_order_id or ""
        if not isinstance(answer, Refusal):
            if running.noted(client_id):
                self._cancel(CancelOwn(running, (client_id,)))
            return
        running.forget(client_id)
        if answer.order is not None:
            return  # on record as rejected: OrderEnded has told of it
        running.refused += 1
        if running.status == "running" and self._bearable(running, answer.detail):
            self._call(running, running.strategy.on_order, order_of_request(request, answer), keep=True)

    def _bearable(self, running: Running, why: str | None) -> bool:
        """Count a refusal; False where it was one too many, and has stopped the strategy."""
        if running.refusal():
            return True
        many = f"more than {running.REFUSALS_MAX:,} refusals in a second, the last: {why}"
        self._stop_by_fault(running, many, many)
        return False

    def _cancel(self, message: CancelOwn) -> None:
        running: Running = message.running
        for command in running.take_back(message, f"strategy {running.name} took it back"):
            self.bus.publish(command)

    def _sell(self, message: SellOwn) -> None:
        """Checked and carried out in one go: nothing can take the coins in between."""
        running: Running = message.running
        sale = running.sale_of(message.request)
        if isinstance(sale, Refusal):
            message.request.reply(sale)
        else:
            self.around.submit(sale)

    # --- start and stop

    def _begin(self, _: BeginStrategies) -> None:
        for running in list(self._running.values()):
            if running.status == "starting":
                self._run(running)

    def _run(self, running: Running) -> None:
        strategy = running.strategy
        if not running.restored:
            try:
                running.restore(self._kept.get(running.name))
            except msgspec.DecodeError as error:
                self._fail(running, "state", ValueError(f"what was kept of it cannot be read: {error}"))
                return
            running.adopt()
        running.status, running.since_ns = "running", self.clock.now_ns()
        if running.cancel_on_stop and running.requests:  # of a process that did not end as it should have
            self._cancel(CancelOwn(running, (), every=True))
        self.outbox.event("signals", "StrategyStarted", StrategyChanged(running.name, "started"))
        for hooks, name in ((self._books, "on_book"), (self._trades, "on_trade")):
            hook = getattr(strategy, name)
            if getattr(hook, "__func__", hook) is not getattr(Strategy, name):
                for pair, instruments in running.listed.items():
                    for instrument in instruments:
                        key = (instrument.exchange, pair)
                        hooks[key] = (*hooks.get(key, ()), (running, hook))
        self._call(running, strategy.on_start, keep=True)

    def _start(self, message: StartStrategy) -> None:
        before = self._running.get(message.name)
        if before is None or before.status != "stopped":
            self._refuse(message.reply, message.name, before)
            return
        try:
            strategy = self._planned[message.name].make(self.call.limit_ns or CONSTRUCTION_NS)
        except SettingsError as error:
            detail = shown(str(error), LINES_MAX)
            self.outbox.effect(message.reply, Refusal(code="STRATEGY_NOT_STARTED", detail=detail, status=409))
            return
        running = self._running[message.name] = self._host(strategy)
        if before.restored:
            running.go_on(before)
        self._release(running.name)
        self.kernel.conditions.end("strategy_stopped", running.name)
        self._run(running)
        self.outbox.effect(message.reply, self._view(running))

    def _stop(self, message: StopStrategy) -> None:
        running = self._running.get(message.name)
        if running is None or running.status == "stopped":
            self._refuse(message.reply, message.name, running)
            return
        self._call_off(running, message.why)
        self.outbox.effect(message.reply, self._view(running))

    def _refuse(self, reply: Reply, name: str, running: Running | None) -> None:
        if running is None:
            known = ", ".join(self._running) or "none"
            refusal = Refusal(
                code="STRATEGY_NOT_FOUND", detail=f"no strategy {name!r} runs here; there are: {known}", status=404
            )
        else:
            refusal = Refusal(code="STRATEGY_STATE", detail=f"{name} is {running.status}", status=409)
        self.outbox.effect(reply, refusal)

    def _call_off(self, running: Running, why: str) -> None:
        """Stop one that did nothing wrong; what on_stop sells is not taken back with its entries."""
        before = tuple(running.requests)
        if running.status == "running":
            running.leaving = True
            self._call(running, running.strategy.on_stop, keep=True)
        if running.status != "stopped":  # on_stop may have failed
            self._end(running, why, entries=before)

    def _wind_down(self, message: WindDown) -> None:
        for running in self._running.values():
            if running.status != "stopped":
                self._call_off(running, "the service ends")
        self.bus.publish(AwaitEnds(message.done))  # behind the cancels

    def _await_ends(self, message: AwaitEnds) -> None:
        self._leaving = {order.order_id for order in self.around.orders.open.values() if self._goes(order)}
        self._left = message.done
        if not self._leaving:
            message.done()

    def _goes(self, order: Order) -> bool:
        """Whether an order must not stay when the service ends."""
        running = self._of(order)
        if running is None:
            return False
        sold_at_stop = running.leaving and order.type == "market" and order.role == "entry" and order.side == "sell"
        return sold_at_stop or (running.cancel_on_stop and order.cancel_requested is not None)

    def _fail(self, running: Running, where: str, error: BaseException) -> None:
        """A hook raised: log it once with its trace, and stop the strategy."""
        text = f"{where}: {error_text(error)}"
        self._stop_by_fault(running, f"a fault in {text}", text, "".join(traceback.format_exception(error)))

    def _stop_by_fault(self, running: Running, why: str, error: str, trace: str = "") -> None:
        why, error = shown(why, LINES_MAX), shown(error, LINES_MAX)
        self.around.log.failed(running.name, error, shown_lines(trace))
        self._end(running, why, error)

    def _end(self, running: Running, why: str, error: str = "", entries: tuple[str, ...] | None = None) -> None:
        """No hook is called any more. Its entries are cancelled: those on record and the requests named by `entries`
        (None: all); by a fault (`error`) whatever it says."""
        running.drop()
        running.cancel_timers()
        running.status, running.error, running.since_ns = "stopped", error, self.clock.now_ns()
        for hooks in (self._books, self._trades):
            for key in list(hooks):
                hooks[key] = tuple(entry for entry in hooks[key] if entry[0] is not running)
                if not hooks[key]:
                    del hooks[key]
        if error or running.cancel_on_stop:
            self._cancel(CancelOwn(running, tuple(running.requests) if entries is None else entries, every=True))
        if error:
            self._restrict(running.name, why)
            self.kernel.conditions.begin("strategy_stopped", why, running.name)
        self.outbox.event("signals", "StrategyStopped", StrategyChanged(running.name, why, error or None))


def _signal_answer(client_id: str | None, pair: str, answer: Any) -> SignalAnswer:
    if isinstance(answer, Signalled):
        signal = answer.signal
        return SignalAnswer(
            client_id=client_id or "",
            signal_id=signal.signal_id,
            pair=pair,
            status=signal.status,
            code=signal.code,
            reason=signal.reason,
            order_ids=signal.order_ids,
        )
    code, detail = (answer.code, answer.detail) if isinstance(answer, Refusal) else ("UNKNOWN", repr(answer))
    return SignalAnswer(client_id=client_id or "", pair=pair, status="refused", code=code, reason=detail)
