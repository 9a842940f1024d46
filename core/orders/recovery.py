"""After a restart, a lost connection or a lost answer: what became of every order that was on its way to a venue, or
there.

Its venue is asked about each such order. What it says comes as the usual reports; then:

    taken                     the reports have moved the order
    proven not taken          an exit is sent again, so is a limit order that may rest, after a start when the first run
                              of `Reconciliation` is through; an order that was meant for the market as it was then has
                              missed it and expires
    could not be asked        UNKNOWN: its funds stay reserved, and it is asked again

After a start, and when its venue has come up, all orders of a wallet are asked about at one moment, which a venue
answers from lists. Whoever is not answered by that waits for a turn (`turns.py`), each time for longer, and never
longer than AGAIN_MAX_NS and the line before it.

A venue that does not know an order which it had accepted contradicts itself. That is told and ends nothing.
"""

from collections.abc import Callable
from typing import Final

import msgspec

from ..kernel.actor import Actor
from ..kernel.bus import Handler
from ..kernel.clock import SECOND_NS, Timer
from ..kernel.kernel import Kernel
from ..model.messages import (
    ExitReturned,
    ExitUnsold,
    OrderEnded,
    Refusal,
    ReportMissing,
    VenueAsked,
    VenueStateChanged,
    VenueTookOver,
    VenueUnknown,
)
from ..model.records import Amend, Order, State
from .evidence import note
from .lifecycle import Step, advance
from .manager import OrderManager
from .turns import TICK_NS, Turns, ticks

# Asks a wallet's venue about an order: answer(True) taken, answer(False) proven not taken, answer(None) not known. The
# flag: the order is doubted, and what is asked is wanted as VenueAsked.
Ask = Callable[[Order, bool, Callable[[bool | None], None]], None]

PASS_FROM: Final = 20  # orders that wait for their turn: more are asked about at one moment
PASS_TICKS: Final = 20  # between two such moments
PASSES_MAX: Final = 3  # at which it is asked about; after that only in its turn


class VenueConnected(msgspec.Struct, frozen=True):
    """The events `VenueConnected` and `VenueDisconnected` of the health channel."""

    exchange: str
    reason: str


class Contradiction(msgspec.Struct, frozen=True, rename="camel"):
    """The event `VenueContradiction`: a venue does not know an order that it had accepted."""

    order_id: str
    exchange: str
    detail: str


class Doubt(msgspec.Struct):
    """An order whose outcome is asked for, until it is known."""

    wait_ns: int  # before its next turn, where the venue does not say when
    noted: bool = False  # it is no routine: what is asked and answered stays on the order
    passes: int = 0  # how often it was asked about with all others that wait
    # of the question that is under way
    client_id: str = ""  # empty: none is
    asked_ns: int = 0
    answers: list[VenueAsked] = []
    again: bool = False  # doubted anew meanwhile: the answer may be older
    again_with_all: bool = False  # the same, by who asked about all orders of the wallet


class Recovery(Actor):
    """Asks until every order's outcome is known; `unsettled` are the ids of those that it waits for."""

    AGAIN_NS = 2 * SECOND_NS
    AGAIN_MAX_NS = 30 * SECOND_NS
    ANSWER_MAX_NS = 10 * SECOND_NS  # a sent order without any answer for so long is UNKNOWN
    SWEEP_TICKS = 4  # between looks at all open orders

    def __init__(self, kernel: Kernel, manager: OrderManager, ask: Ask) -> None:
        super().__init__(kernel)
        self.manager = manager
        self.orders = manager.orders
        self.conditions = kernel.conditions
        self.ask = ask
        self.unsettled: set[str] = set()
        # Hears each answer before anything is done about it; True: it has dealt with the order. Set by `Resolving`.
        self.decide: Callable[[Order, bool | None], bool] = lambda _order, _taken: False
        self._doubts: dict[str, Doubt] = {}
        self._turns: dict[str, Turns] = {}  # by wallet
        self._lost_amends: dict[str, Amend] = {}  # on their way when a process or a connection ended
        self._contradicted: set[str] = set()  # open orders whose venue's contradiction was told
        self._unknown: dict[str, dict[str, None]] = {}  # wallet -> ids of orders that are UNKNOWN, the oldest first
        self._tick = 0
        self._passed: dict[str, int] = {}  # wallet -> tick at which the line was last asked about at one moment
        self._timer: Timer | None = None

    def handles(self) -> dict[type, Handler]:
        return {
            VenueUnknown: self.on_unknown,
            VenueAsked: self.on_asked,
            VenueStateChanged: self.on_venue,
            VenueTookOver: self.on_took_over,
            ReportMissing: self.on_report_missing,
            OrderEnded: self.on_order_ended,
        }

    def start(self) -> None:
        for order in list(self.orders.open.values()):
            if _asked_about(order):
                if order.state is State.UNKNOWN:
                    self._unknown.setdefault(order.wallet, {})[order.order_id] = None
                self._doubt(order, with_all=True)
        self._tell_unknown()
        self._timer = self.clock.call_in(TICK_NS, self.kernel.run, self._look)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    @property
    def settled(self) -> bool:
        return not self.unsettled

    def settled_at(self, wallet: str) -> bool:
        """Whether the outcome of every order of a wallet is known."""
        return not any((order := self.orders.get(i)) is not None and order.wallet == wallet for i in self.unsettled)

    def contradicted(self, order: Order) -> bool:
        """Whether its venue has said that it does not know the order, though it had accepted it."""
        return order.order_id in self._contradicted

    # --- what raises a doubt

    def on_unknown(self, message: VenueUnknown) -> None:
        order = self.orders.of_venue_client_id(message.client_id)
        if order is None or order.ended or order.waiting or order.venue_client_id != message.client_id:
            return
        if message.request != "place" and order.state in (State.SENT, State.UNKNOWN):
            return  # it is asked about already, or its own answer will tell
        now_ns = self.clock.now_ns()
        if not self._lose(order, message.reason, now_ns):
            self._note(order, f"{message.request} {message.client_id}", message.reason, now_ns)
        self._doubt(order)

    def on_venue(self, message: VenueStateChanged) -> None:
        """Nothing is known of what happened at the venue while it was away."""
        kind = "VenueConnected" if message.up else "VenueDisconnected"
        self.outbox.event("health", kind, VenueConnected(message.venue, message.reason))
        if message.up:
            self.doubt_all(message.venue)

    def on_took_over(self, message: VenueTookOver) -> None:
        self.doubt_all(message.venue)

    def doubt_all(self, wallet: str) -> None:
        """Ask about every order that is at a wallet's venue, or on its way there."""
        for order in list(self.orders.open.values()):
            if order.wallet == wallet and _asked_about(order):
                self._doubt(order, with_all=True)

    def on_report_missing(self, message: ReportMissing) -> None:
        if not message.order.ended:
            self._doubt(message.order)

    def ask_now(self, order: Order) -> None:
        """Ask about an order before all others; `decide` hears the answer to a question that is asked from now on."""
        self._doubt(order, with_all=True)
        self._doubts[order.order_id].noted = True

    def on_order_ended(self, message: OrderEnded) -> None:
        order = message.order
        if order.order_id in self._contradicted:
            self._contradicted.discard(order.order_id)
            self.conditions.end("venue_contradicts", order.order_id)
        unknown = self._unknown.get(order.wallet)
        if unknown and unknown.pop(order.order_id, order) is None and not unknown:
            self._tell_unknown()

    # --- asking

    def _doubt(self, order: Order, *, with_all: bool = False) -> None:
        """What is known of an order may not be all: ask, at once or when its turn comes."""
        order_id = order.order_id
        self.unsettled.add(order_id)
        doubt = self._doubts.get(order_id)
        if doubt is None:
            doubt = self._doubts[order_id] = Doubt(self.AGAIN_NS)
        doubt.wait_ns, doubt.passes = self.AGAIN_NS, 0
        if order.amend_requested is not None and not order.amend_requested.replace:
            self._lost_amends[order_id] = order.amend_requested
        if doubt.client_id:
            doubt.again = True
            doubt.again_with_all |= with_all
        elif with_all:
            self._ask(order, doubt)
        else:
            self._wait(order, 0)

    def _line(self, wallet: str) -> Turns:
        line = self._turns.get(wallet)
        if line is None:
            line = self._turns[wallet] = Turns()
        return line

    def _wait(self, order: Order, wait_ns: int) -> None:
        """Its turn comes after that time; now, where a turn is left."""
        self._line(order.wallet).wait(order.order_id, ticks(wait_ns))
        if not wait_ns:
            self._take_turns(order.wallet)

    def _take_turns(self, wallet: str) -> None:
        line = self._line(wallet)
        while (order_id := line.take()) is not None:
            order, doubt = self.orders.open.get(order_id), self._doubts.get(order_id)
            if order is None or doubt is None or doubt.client_id:
                line.over(order_id)
            elif _asked_about(order):
                self._ask(order, doubt)
            else:  # it came back while it waited for its turn: nothing of it is at the venue
                line.over(order_id)
                self.decide(order, True)
                self._settle(order)

    def _ask(self, order: Order, doubt: Doubt) -> None:
        """Ask about the order's present attempt; an answer says nothing of a later one."""
        client_id = doubt.client_id = order.venue_client_id
        doubt.asked_ns, doubt.answers = self.clock.now_ns(), []
        doubt.noted |= order.state is State.UNKNOWN
        self._line(order.wallet).leave(order.order_id)

        def answer(taken: bool | None) -> None:
            self.kernel.run(self._heard, order, doubt, client_id, taken)

        self.ask(order, doubt.noted or _in_doubt(order), answer)

    def on_asked(self, message: VenueAsked) -> None:
        """A part of an answer, in words; the answer itself comes next."""
        order = self.orders.of_venue_client_id(message.client_id)
        doubt = self._doubts.get(order.order_id) if order is not None else None
        if doubt is not None and doubt.client_id == message.client_id:
            doubt.answers.append(message)

    # --- answers

    def _heard(self, order: Order, doubt: Doubt, client_id: str, taken: bool | None) -> None:
        self._answered(order, doubt, client_id, taken)
        self._take_turns(order.wallet)  # somebody else may be asked about now

    def _answered(self, order: Order, doubt: Doubt, client_id: str, taken: bool | None) -> None:
        self._line(order.wallet).over(order.order_id)
        again, with_all = doubt.again, doubt.again_with_all
        doubt.client_id, doubt.again, doubt.again_with_all = "", False, False
        if self.orders.get(order.order_id) is not order:
            # It has ended, and left for the archive: put on record again it would come back without its fills.
            self._lost_amends.pop(order.order_id, None)
            self.decide(order, True)
            self._settle(order)
            return
        if again or order.venue_client_id != client_id:
            self._ask_anew(order, doubt, with_all)
            return
        now_ns, doubted = self.clock.now_ns(), doubt.noted
        if doubted:
            self._note_answers(order, doubt, taken)
        if self.decide(order, taken):
            self._settle(order)
        elif taken is None:
            lost = self._lose(order, _why_not_known(doubt.answers), now_ns)
            if not doubted and (lost or any(asked.again_ns for asked in doubt.answers)):
                self._note_answers(order, doubt, taken)
            self._wait_again(order, doubt)
        else:
            if not doubted and not taken:
                self._note_answers(order, doubt, taken)
            self._settle(order)
            self._act(order, taken, now_ns)

    def _ask_anew(self, order: Order, doubt: Doubt, with_all: bool) -> None:
        """What has just been answered is older than a doubt, or of an attempt that is over."""
        if order.ended or not _asked_about(order):
            self.decide(order, True)
            self._settle(order)
        elif with_all:
            self._ask(order, doubt)
        else:
            self._wait(order, 0)

    def _wait_again(self, order: Order, doubt: Doubt) -> None:
        self.unsettled.add(order.order_id)
        again_ns = doubt.answers[-1].again_ns if doubt.answers else None
        if again_ns == 0:  # it was not asked about by itself
            self._wait(order, TICK_NS)
            return
        wait_ns = doubt.wait_ns if again_ns is None else min(doubt.wait_ns, again_ns)
        doubt.wait_ns = min(2 * doubt.wait_ns, self.AGAIN_MAX_NS)
        self._wait(order, wait_ns)

    def _settle(self, order: Order) -> None:
        """Its outcome is known, or it is somebody else's business now."""
        self.unsettled.discard(order.order_id)
        self._doubts.pop(order.order_id, None)
        self._line(order.wallet).leave(order.order_id)
        unknown = self._unknown.get(order.wallet)
        if unknown and order.state is not State.UNKNOWN and unknown.pop(order.order_id, order) is None and not unknown:
            self._tell_unknown()

    def _act(self, order: Order, taken: bool, now_ns: int) -> None:
        """The outcome is proven."""
        lost = self._lost_amends.pop(order.order_id, None)
        if taken and lost is not None and order.amend_requested is lost:  # else the venue's repeat has settled it
            self.manager.settle_amend(order)
            self.orders.changed(order, "OrderAmendRefused", now_ns)
            detail = f"the amendment of {order.order_id} was lost on its way: the order is as it was"
            self.manager.answer_waiting(order, Refusal(code="AMEND_LOST", detail=detail, status=409), "amend")
        if taken and order.order_id in self._contradicted:
            self._contradicted.discard(order.order_id)
            self.conditions.end("venue_contradicts", order.order_id)
        if taken or order.ended or order.waiting or order.state is State.HELD:
            return
        if order.state is State.LIVE or was_taken(order):
            self._contradict(order)
            if order.cancel_requested is not None:  # the venue has said twice that there is nothing to cancel
                reason = f"{order.cancel_requested}; the venue does not know it any more"
                self.manager.end(order, Step.CANCEL, reason, "NOT_THERE", now_ns)
            return
        exit_or_rests = order.triggered_ns is not None or (
            order.price_ticks is not None and order.tif in ("GTC", "GTD") and not order.post_only
        )
        if order.cancel_requested is not None:
            self.manager.end(order, Step.CANCEL, order.cancel_requested, "CANCELLED", now_ns)
        elif order.listed:
            self.bus.publish(ExitReturned(order, "the venue had not taken it"))
        elif order.market_exit or (exit_or_rests and self.manager.triggers.not_yet(order.order_id)):
            order.waiting = True  # an attempt whose commit was lost with its process may be there
            self.bus.publish(ExitUnsold(order))
        elif exit_or_rests:
            self.manager.send(order, now_ns)
        else:
            reason = "the venue had not taken it, and the moment that it was meant for has passed"
            self.manager.end(order, Step.EXPIRE, reason, "NOT_TAKEN", now_ns)

    def _contradict(self, order: Order) -> None:
        if order.order_id not in self._contradicted:
            self._contradicted.add(order.order_id)
            detail = f"{order.exchange} does not know {order.venue_client_id}, which it had accepted"
            contradiction = Contradiction(order.order_id, order.exchange, detail)
            self.outbox.event("health", "VenueContradiction", contradiction)
            self.conditions.begin("venue_contradicts", detail, order.order_id)
            order.reason = detail
            self.orders.changed(order, "OrderContradicted", self.clock.now_ns())

    # --- what is known and what is not

    def _lose(self, order: Order, reason: str, now_ns: int) -> bool:
        """Whether it has become UNKNOWN by this; its evidence begins with why."""
        state = advance(order.state, Step.LOSE)
        if state is None or order.state is State.UNKNOWN:
            return False
        order.state, order.reason = state, reason
        self._note(order, f"place {order.venue_client_id}", reason, now_ns)
        self.orders.changed(order, "OrderUnknown", now_ns)
        first = not self._unknown.get(order.wallet)
        self._unknown.setdefault(order.wallet, {})[order.order_id] = None
        if first:
            self._tell_unknown()
        return True

    def _note(self, order: Order, question: str, answer: str, now_ns: int) -> None:
        note(order, question, answer, now_ns)
        self.outbox.put("orders", order.order_id, order)
        doubt = self._doubts.get(order.order_id)
        if doubt is None:
            doubt = self._doubts[order.order_id] = Doubt(self.AGAIN_NS)
        doubt.noted = True

    def _note_answers(self, order: Order, doubt: Doubt, taken: bool | None) -> None:
        for message in doubt.answers:
            self._note(order, message.question, message.answer, doubt.asked_ns)
        if not doubt.answers:  # a venue that does not say what it asked
            answer = {True: "it has the order", False: "it never took the order", None: "no answer"}[taken]
            self._note(order, f"asked for {order.venue_client_id}", answer, doubt.asked_ns)

    def _tell_unknown(self) -> None:
        """Begin, change or end the condition of each wallet with orders that are UNKNOWN."""
        for wallet, unknown in self._unknown.items():
            for order_id in [i for i in unknown if not self._is_unknown(i)]:
                del unknown[order_id]
            if unknown:
                oldest = self.orders.open[next(iter(unknown))]
                sent_ns = oldest.submit_ns if oldest.sent_ns is None else oldest.sent_ns
                detail = f"{len(unknown)}, the oldest of them {oldest.order_id}, sent at {sent_ns // 1_000_000}"
                self.conditions.begin("orders_unknown", detail, wallet)
            else:
                self.conditions.end("orders_unknown", wallet)

    def _is_unknown(self, order_id: str) -> bool:
        order = self.orders.open.get(order_id)
        return order is not None and order.state is State.UNKNOWN

    # --- time

    def _look(self) -> None:
        """Turns of this tick; now and then, what was sent and never answered, and what nobody asks about."""
        self._timer = self.clock.call_in(TICK_NS, self.kernel.run, self._look)
        self._tick += 1
        if self._tick % self.SWEEP_TICKS == 0:
            self._sweep()
        for wallet, line in self._turns.items():
            line.next_tick()
            if len(line) > PASS_FROM:
                self._pass(wallet, line)
            self._take_turns(wallet)

    def _pass(self, wallet: str, line: Turns) -> None:
        """Many wait: ask about them at one moment, which their venue can answer from lists; not too often, for it asks
        about few of them singly."""
        if self._tick - self._passed.get(wallet, -PASS_TICKS) < PASS_TICKS:
            return
        waiting = [
            (order, doubt)
            for order_id in line.due()
            if (doubt := self._doubts.get(order_id)) is not None
            and doubt.passes < PASSES_MAX
            and not doubt.client_id
            and (order := self.orders.open.get(order_id)) is not None
            and _asked_about(order)
        ]
        if len(waiting) <= PASS_FROM:
            return
        self._passed[wallet] = self._tick
        for order, doubt in waiting:
            doubt.passes += 1
            self._ask(order, doubt)

    def _sweep(self) -> None:
        now_ns = self.clock.now_ns()
        is_open = self.orders.open
        for order_id in self.unsettled - is_open.keys():
            self.unsettled.discard(order_id)
            if (doubt := self._doubts.get(order_id)) is not None and not doubt.client_id:
                del self._doubts[order_id]
        for order in list(is_open.values()):
            if order.state is State.UNKNOWN:
                if order.order_id not in self._doubts and _asked_about(order):
                    self._doubt(order)
            elif self._overdue(order, now_ns) and order.order_id not in self.unsettled:
                self._lose(order, "the venue has not answered", now_ns)
                self._doubt(order)
        self._tell_unknown()

    def _overdue(self, order: Order, now_ns: int) -> bool:
        """Whether an order that has left waits too long for an answer; not one that waits for its commit, or for its
        next attempt."""
        under_way = order.state is State.SENT or (order.state is State.PART and order.venue_order_id is None)
        if not under_way or order.waiting or order.sent_ns is None:
            return False
        return now_ns - order.sent_ns > self.ANSWER_MAX_NS


def _asked_about(order: Order) -> bool:
    """Whether an open order is at its venue, or may be."""
    return order.state is not State.HELD and not order.waiting


def was_taken(order: Order) -> bool:
    """Whether its venue is known to have taken the present attempt."""
    return order.filled_lots > order.attempt_from or order.venue_order_id is not None


def _in_doubt(order: Order) -> bool:
    """Whether nothing is known of the present attempt but that it was sent."""
    return order.state in (State.SENT, State.UNKNOWN) or (order.state is State.PART and order.venue_order_id is None)


def _why_not_known(answers: list[VenueAsked]) -> str:
    if not answers:
        return "its outcome is not known: the venue could not be asked"
    return f"its outcome is not known: {answers[-1].question}: {answers[-1].answer}"
