"""One strategy while it runs: what it asks for is collected here, and done when its hook has returned.

Always true here:
- A client id is never given twice: numbers are reserved ahead, in the commit of the first order that uses one of them.
- What a hook that fails has asked for is dropped, and the state that it left is not kept.
- It sells its own coins alone: a sale is checked against its sub-ledger in the moment in which it is carried out.
"""

from collections.abc import Callable, Mapping
from decimal import Decimal
from functools import partial
from typing import Any, Literal, Protocol

import msgspec

from ..core.kernel.clock import MS_NS, SECOND_NS, Timer
from ..core.kernel.kernel import Kernel
from ..core.kernel.latency import Latency
from ..core.market.data import MarketData
from ..core.model.exact import ZERO, plain
from ..core.model.ids import wallet_of
from ..core.model.instruments import Instrument
from ..core.model.messages import CancelOrder, ExecuteSignal, Refusal, SubmitOrder
from ..core.model.records import Order, Position
from ..core.orders.registry import Orders
from .requests import on_grid, order_request, signal_request
from .strategy import Rough, Strategy
from .texts import TEXT_MAX, shown
from .views import NOTHING_HELD, BookView, Holding, OwnOrder, order_of, order_of_request

Status = Literal["starting", "running", "stopped"]
# Of a call; what takes less is counted as that.
CALL_BOUNDS_NS = tuple(int(bound * MS_NS) for bound in (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000))
QUICK_NS = CALL_BOUNDS_NS[0]


Command = tuple[Callable[..., object], tuple[Any, ...]]


class TooManyCommands(Exception):
    """One call of a hook asked for more than COMMANDS_MAX things."""


class StateWrong(Exception):
    """The state of a strategy cannot be kept."""


class KeptState(msgspec.Struct, frozen=True):
    """What is kept of a strategy in table `strategies`, under `state:{name}`."""

    next_id: int  # of its client ids; those below may have been used
    state: msgspec.Raw = msgspec.Raw(b"{}")


class TimerDue(msgspec.Struct, frozen=True):
    """A timer of a strategy is due."""

    running: Any
    name: str


class Answered(msgspec.Struct, frozen=True):
    """What the core said to something that a strategy asked for."""

    running: Any
    request: SubmitOrder | ExecuteSignal
    answer: Any


class CancelOwn(msgspec.Struct, frozen=True):
    """A strategy takes orders back: those with these client ids, and with `every` all that protects nothing."""

    running: Any
    client_ids: tuple[str, ...]
    every: bool = False
    pair: str | None = None


class SellOwn(msgspec.Struct, frozen=True):
    """A strategy sells what it holds itself."""

    running: Any
    request: SubmitOrder


class SubLedgerSource(Protocol):
    """What strategies hold."""

    def of(self, wallet: str, pair: str) -> Mapping[str, Position]:
        """Each strategy's share of a position, by its name."""
        ...


class StrategyLog:
    """Where the lines of strategies, and their faults, go: nowhere, unless the service has log files."""

    def line(self, strategy: str, text: str, facts: msgspec.Raw) -> None:
        """A line that a strategy wrote; `facts` are a JSON object."""

    def failed(self, strategy: str, error: str, trace: str) -> None:
        """A strategy was stopped by a fault of its own."""


class Surroundings(msgspec.Struct, frozen=True, kw_only=True):
    """What strategies need of the core, the same for all."""

    kernel: Kernel
    market: MarketData
    orders: Orders
    equity: Callable[[], Decimal]
    ledgers: SubLedgerSource
    paper: bool
    log: StrategyLog
    submit: Callable[[SubmitOrder], None]  # carries an order out at once, inside the input that runs


class Running:
    """The host of one strategy. `strategies` decides when its hooks are called."""

    COMMANDS_MAX = 1_000  # of one call of a hook
    TIMERS_MAX = 100
    TIMER_MIN_S, TIMER_MAX_S = 0.001, 366 * 86_400.0
    STATE_BYTES_MAX = 64 << 10
    LINE_BYTES_MAX = 4 << 10  # of the log
    IDS_AHEAD = 1_000
    REFUSALS_MAX = 1_000  # in a second: a hook that submits again what was refused would go on for ever

    def __init__(self, around: Surroundings, strategy: Strategy, views: Mapping[tuple[str, str], BookView]) -> None:
        # for the process
        self.around = around
        self.strategy = strategy
        self.name = strategy.name
        self.exchange, self.cancel_on_stop = strategy.exchange, strategy.cancel_on_stop
        self.views = views
        self.listed: dict[str, list[Instrument]] = {}
        for (exchange, pair), instrument in around.market.instruments.items():
            if pair in strategy.pairs and self.exchange in (None, exchange):
                self.listed.setdefault(pair, []).append(instrument)
        # what is kept
        self.state: dict[str, Any] = {}
        self.keeping = False  # the hook that runs wants it kept
        self._next_id = self._ids_until = 1
        self._kept = b"{}"
        # while it runs
        self.status: Status = "starting"
        self.error = ""
        self.restored = False
        self.leaving = False  # on_stop runs, or has run: nothing is opened any more
        self.since_ns = around.kernel.clock.now_ns()
        self.requests: dict[str, SubmitOrder | None] = {}  # by client id, until the order's end; None: on record
        self._unwanted: set[str] = set()  # client ids of requests that were taken back before they were on record
        self.commands: list[Command] = []
        self._timers: dict[str, Timer] = {}
        # counted
        self.calls = 0
        self.worst_ns = 0
        self.slow = Latency(CALL_BOUNDS_NS)  # calls over QUICK_NS
        self.orders_sent = 0
        self.refused = 0
        self._refusals: tuple[int, int] = (0, 0)  # in which second, and how many

    # --- what is kept

    def restore(self, kept: bytes | None) -> None:
        """Go on from what was kept; raises msgspec.DecodeError for what no version has written."""
        if kept is None:
            self.restored = True
            return
        record = msgspec.json.decode(kept, type=KeptState)
        self.state = msgspec.json.decode(record.state, type=dict[str, Any])
        self._kept = bytes(record.state)
        self._next_id = self._ids_until = record.next_id
        self.restored = True

    def go_on(self, before: "Running") -> None:
        """Take over from the instance that ran before in this process."""
        self._next_id, self._ids_until, self._kept = before._next_id, before._ids_until, before._kept
        self.state = msgspec.json.decode(self._kept, type=dict[str, Any])
        self.requests, self._unwanted, self.restored = before.requests, before._unwanted, True

    def record(self) -> KeptState | None:
        """What is on record; None where nothing ever was."""
        if self._ids_until == 1 and self._kept == b"{}":
            return None
        return KeptState(self._ids_until, msgspec.Raw(self._kept))

    def look_at_state(self) -> None:
        """Keep the state where it changed; raises StateWrong for what cannot be kept."""
        self.keeping = False
        if not self.state and self._kept == b"{}":
            return
        try:
            text = msgspec.json.encode(self.state)
        except (TypeError, ValueError, RecursionError) as error:
            raise StateWrong(f"state cannot be kept: {error}; JSON holds text, numbers, lists and dicts") from error
        if text == self._kept:
            return
        if len(text) > self.STATE_BYTES_MAX:
            raise StateWrong(f"state takes {len(text):,} bytes; at most {self.STATE_BYTES_MAX:,} are kept")
        self._kept = text
        self._put()

    def _put(self) -> None:
        self.around.kernel.outbox.put("strategies", f"state:{self.name}", self.record())

    def _new_id(self) -> str:
        number = self._next_id
        self._next_id = number + 1
        return f"{self.name}:{number}"

    # --- collecting and doing

    def _ask(self, action: Callable[..., object], *args: Any) -> None:
        if len(self.commands) >= self.COMMANDS_MAX:
            raise TooManyCommands(f"more than {self.COMMANDS_MAX:,} orders, cancels and log lines in one call")
        self.commands.append((action, args))

    def take(self) -> list[Command]:
        """What was asked for, to be done now."""
        if self._next_id > self._ids_until:
            self._ids_until = self._next_id + self.IDS_AHEAD
            self._put()
        commands, self.commands = self.commands, []
        return commands

    def drop(self) -> None:
        """Forget what was asked for."""
        self.keeping = False
        for _, args in self.commands:
            if isinstance(args[0], SubmitOrder):
                self.requests.pop(args[0].client_order_id or "", None)
        self.commands = []

    # --- Host: doing

    def submit(self, **given: Any) -> str:
        instrument = self._instrument(given["pair"], given["exchange"])
        if given["exchange"] is None:
            given["exchange"] = self.exchange
        client_id = self._new_id()
        request = order_request(instrument, client_id, self.name, _unset, given)
        if self.leaving and request.side == "buy":
            self._leave_out(client_id, "buy", instrument.pair)
            return client_id
        request = msgspec.structs.replace(request, reply=partial(self._answered, request))
        self._ask(self._send, request)
        self.requests[client_id] = request
        return client_id

    def _send(self, request: SubmitOrder) -> None:
        self.orders_sent += 1
        self.around.kernel.bus.publish(SellOwn(self, request) if request.side == "sell" else request)

    def _leave_out(self, client_id: str, what: str, pair: str) -> None:
        """A stopped strategy opens nothing, and has no hook left to be told so."""
        facts = {"code": "STRATEGY_STOPPED", "clientId": client_id, "pair": pair}
        self.log(f"a {what} that on_stop asked for is left out: nothing is opened by a strategy that stops", facts)

    def signal(self, **given: Any) -> str:
        instrument = self._instrument(given["pair"], given["exchange"])
        if given["exchange"] is None:
            given["exchange"] = self.exchange
        client_id = self._new_id()
        request = signal_request(instrument.pair, client_id, self.name, _unset, given)
        if self.leaving and request.action == "BUY":
            self._leave_out(client_id, "BUY signal", instrument.pair)
            return client_id
        request = msgspec.structs.replace(request, reply=partial(self._answered, request))
        self._ask(self.around.kernel.bus.publish, request)
        return client_id

    def _answered(self, request: SubmitOrder | ExecuteSignal, answer: object) -> None:
        self.around.kernel.input(Answered(self, request, answer))

    def cancel(self, client_id: str) -> None:
        if client_id not in self.requests:
            order = self.around.orders.by_client_id(client_id)
            if order is None and client_id.startswith(f"{self.name}:"):
                return  # ended, and left for the archive
            if order is None or not self.owns(order):
                raise ValueError(f"there is no order {client_id!r} of {self.name}")
        self._ask(self.around.kernel.bus.publish, CancelOwn(self, (client_id,)))

    def cancel_all(self, pair: str | None) -> None:
        if pair is not None:
            self._instrument(pair, None)
        # Those that it submits after this call are not meant.
        self._ask(self.around.kernel.bus.publish, CancelOwn(self, tuple(self.requests), True, pair))

    def log(self, text: str, facts: Mapping[str, object]) -> None:
        try:
            line = msgspec.Raw(msgspec.json.encode(facts))  # now: what is in it may change
        except (TypeError, ValueError, RecursionError) as error:
            raise TypeError(f"{text!r} cannot be logged with these facts: {error}") from error
        if len(line) > self.LINE_BYTES_MAX:
            raise ValueError(f"{text!r}: its facts take {len(line):,} bytes, at most {self.LINE_BYTES_MAX:,}")
        self._ask(self.around.kernel.outbox.effect, self.around.log.line, self.name, shown(str(text), TEXT_MAX), line)

    def keep(self) -> None:
        self.keeping = True

    def timer(self, name: str, every_s: float | None, after_s: float | None) -> None:
        seconds = every_s if after_s is None else after_s
        if seconds is None or (every_s is not None and after_s is not None):
            raise ValueError(f"timer {name!r}: expected every or after, one of them")
        least = self.TIMER_MIN_S if after_s is None else 0
        if not least <= seconds <= self.TIMER_MAX_S:
            raise ValueError(f"timer {name!r}: {seconds} seconds, expected {least:g} to {self.TIMER_MAX_S:g}")
        self.cancel_timer(name)
        if len(self._timers) >= self.TIMERS_MAX:
            raise ValueError(f"timer {name!r}: there are {self.TIMERS_MAX} already; cancel one of them")
        self._wind(name, int(seconds * SECOND_NS), after_s is None, self.now_ns)

    def _wind(self, name: str, period_ns: int, again: bool, from_ns: int) -> None:
        """A timer that comes late is not made up for, and a clock that was set back keeps none waiting: the next one is
        a whole period behind now at most."""
        clock, now_ns = self.around.kernel.clock, self.now_ns
        due_ns = from_ns + period_ns
        if not now_ns < due_ns <= now_ns + period_ns:
            due_ns = now_ns + period_ns
        self._timers[name] = clock.call_in(due_ns - now_ns, self._due, name, period_ns, again, due_ns)

    def _due(self, name: str, period_ns: int, again: bool, due_ns: int) -> None:
        if again:
            self._wind(name, period_ns, again, due_ns)
        else:
            del self._timers[name]
        self.around.kernel.input(TimerDue(self, name))

    def cancel_timer(self, name: str) -> None:
        known = self._timers.pop(name, None)
        if known is not None:
            known.cancel()

    def cancel_timers(self) -> None:
        for name in tuple(self._timers):
            self.cancel_timer(name)

    # --- Host: looking

    @property
    def now_ns(self) -> int:
        return self.around.kernel.clock.now_ns()

    @property
    def equity(self) -> Decimal:
        return self.around.equity()

    @property
    def open_orders(self) -> list[OwnOrder]:
        found = []
        for client_id, request in self.requests.items():
            order = self.around.orders.by_client_id(client_id)
            if order is not None and not order.ended:
                found.append(order_of(order))
            elif order is None and request is not None:
                found.append(order_of_request(request))
        return found

    def book(self, pair: str | None, exchange: str | None) -> BookView | None:
        now_ns = self.now_ns
        for instrument in self._instruments(pair, exchange):
            view = self.views[instrument.exchange, instrument.pair]
            if view.refresh(now_ns):
                return view
        return None

    def position(self, pair: str | None, exchange: str | None) -> Holding:
        around = self.around
        quantity = cost = sellable = ZERO
        for instrument in self._instruments(pair, exchange):
            share = around.ledgers.of(wallet_of(instrument, paper=around.paper), instrument.pair).get(self.name)
            if share is not None:
                quantity += share.quantity
                cost += share.cost
                sellable += self._sellable(instrument, share.quantity)
        return Holding(quantity, cost / quantity, sellable) if quantity else NOTHING_HELD

    def _sellable(self, instrument: Instrument, quantity: Decimal) -> Decimal:
        lots = instrument.market_lots(instrument.floor_lots(quantity))
        if lots and instrument.min_notional:
            quote = self.around.market.quote(instrument.exchange, instrument.pair)
            if quote is not None and instrument.amount(quote[0] * lots) < instrument.min_notional:
                return ZERO
        return instrument.quantity(lots)

    def round_price(self, pair: str | None, value: Rough, up: bool, exchange: str | None) -> Decimal:
        return on_grid(value, max(i.tick for i in self._instruments(pair, exchange)), up=up)

    def round_quantity(self, pair: str | None, value: Rough, exchange: str | None) -> Decimal:
        return on_grid(value, max(i.lot for i in self._instruments(pair, exchange)), up=False)

    def _instruments(self, pair: str | None, exchange: str | None) -> list[Instrument]:
        """Where a pair is traded, raises ValueError for one that is not the strategy's."""
        if pair is None:
            if len(self.listed) != 1:
                raise ValueError(f"pair is missing: {self.name} has {', '.join(self.listed)}")
            pair = next(iter(self.listed))
        found = self.listed.get(pair)
        if found is None:
            raise ValueError(f"pair {pair!r} is none of those of {self.name}: {', '.join(self.listed)}")
        if exchange is None:
            return found
        named = [instrument for instrument in found if instrument.exchange == exchange]
        if not named:
            there = ", ".join(instrument.exchange for instrument in found)
            raise ValueError(f"exchange {exchange!r}: {self.name} trades {pair} at {there}")
        return named

    def _instrument(self, pair: str | None, exchange: str | None) -> Instrument:
        return self._instruments(pair, exchange)[0]

    # --- selling

    def sale_of(self, request: SubmitOrder) -> SubmitOrder | Refusal:
        """The sale as it may be carried out now, at an exchange where the strategy holds that much and does not offer
        it already; or why it may not."""
        listed = self._instruments(request.pair, request.exchange)
        shares = [self._own(instrument) for instrument in listed]
        enough = [i for i, (held, offered) in zip(listed, shares, strict=True) if request.quantity <= held - offered]
        if len(enough) == len(listed):
            return request
        if enough:
            return msgspec.structs.replace(request, exchange=max(enough, key=self._bid).exchange)
        base = listed[0].base
        held_offered = [
            f"{plain(held)} {base} at {i.exchange}"
            + (f", of which its open sells offer {plain(offered)}" * bool(offered))
            for i, (held, offered) in zip(listed, shares, strict=True)
        ]
        detail = (
            f"sells {plain(request.quantity)} {base}; strategy {self.name!r} itself holds {'; '.join(held_offered)}, "
            f"and what others hold is not its to sell"
        )
        return Refusal(code="INSUFFICIENT_BALANCE", detail=detail)

    def _own(self, instrument: Instrument) -> tuple[Decimal, Decimal]:
        """What its sub-ledger holds, and how much of that its open sells offer; exits follow what is left by
        themselves, and offer nothing."""
        wallet, pair = wallet_of(instrument, paper=self.around.paper), instrument.pair
        share = self.around.ledgers.of(wallet, pair).get(self.name)
        if share is None or not share.quantity:
            return ZERO, ZERO
        offered = ZERO
        for order in self.around.orders.open.values():
            if (
                order.side == "sell"
                and order.role in ("entry", "close")
                and (order.wallet, order.pair) == (wallet, pair)
            ):
                offered += order.left_lots * order.lot if self.owns(order) else ZERO
        return share.quantity, offered

    def _bid(self, instrument: Instrument) -> Decimal:
        quote = self.around.market.quote(instrument.exchange, instrument.pair)
        return ZERO if quote is None else quote[0] * instrument.tick

    # --- its orders

    def owns(self, order: Order) -> bool:
        return order.signal_data is not None and order.signal_data.strategy == self.name

    def adopt(self) -> None:
        """Find the orders that an earlier process submitted."""
        mine = f"{self.name}:"
        for order in self.around.orders.open.values():
            if order.client_order_id.startswith(mine) and self.owns(order):
                self.requests[order.client_order_id] = None

    def take_back(self, message: CancelOwn, reason: str) -> list[CancelOrder]:
        """What cancels the orders that are meant; those that are not on record yet are taken back when they are."""
        orders = self.around.orders
        chosen: dict[str, Order] = {}
        for client_id in message.client_ids:
            order = orders.by_client_id(client_id)
            if order is None:
                request = self.requests.get(client_id)
                if request is not None and message.pair in (None, request.pair):
                    self._unwanted.add(client_id)
            elif message.pair in (None, order.pair) and not (message.every and protects(order)):
                chosen[order.order_id] = order
        if message.every:  # also what signals and the API have submitted in its name
            for order in orders.open.values():
                if self.owns(order) and message.pair in (None, order.pair) and not protects(order):
                    chosen[order.order_id] = order
        asked = [order for order in chosen.values() if not order.ended and order.cancel_requested is None]
        return [CancelOrder(order_id=order.order_id, reply=_ignored, reason=reason) for order in asked]

    def noted(self, client_id: str) -> bool:
        """The order is on record; whether it was taken back before that."""
        if client_id in self.requests:
            self.requests[client_id] = None
        unwanted = client_id in self._unwanted
        self._unwanted.discard(client_id)
        return unwanted

    def forget(self, client_id: str) -> None:
        """The order has ended, or was refused."""
        self.requests.pop(client_id, None)
        self._unwanted.discard(client_id)

    def refusal(self) -> bool:
        """Count something that was refused; False where it is one too many in this second."""
        second = self.now_ns // SECOND_NS
        count = self._refusals[1] + 1 if self._refusals[0] == second else 1
        self._refusals = (second, count)
        return count <= self.REFUSALS_MAX

    # --- figures

    def took(self, duration_ns: int) -> None:
        """A call took so long."""
        if duration_ns > QUICK_NS:
            self.slow.add(duration_ns)
        if duration_ns > self.worst_ns:
            self.worst_ns = duration_ns

    def p99_ns(self) -> int:
        """What 99 of 100 calls did not exceed: the bound above it."""
        over = self.calls // 100  # so many calls may be longer
        for bound_ns, count in zip(reversed((*CALL_BOUNDS_NS, self.worst_ns)), reversed(self.slow.counts), strict=True):
            over -= count
            if over < 0:
                return min(bound_ns, self.worst_ns)
        return min(QUICK_NS, self.worst_ns)


def protects(order: Order) -> bool:
    """Whether an order guards what is held: an exit, or a sale that waits for its stop. It stays when others go."""
    return order.role != "entry" or (order.side == "sell" and order.stop_ticks is not None)


def _ignored(_: object) -> None:
    """What becomes of a cancel is told by the order's end."""


def _unset(_: object) -> None:
    """Replaced before the request leaves."""
