"""After a restart, a lost connection or a lost answer: what became of every order that was on its way to a venue, or
there.

Its venue is asked about each such order. What it says comes as the usual reports; then:

    taken                     the reports have moved the order
    proven not taken          an exit is sent again, so is a limit order that may rest; an order that was meant for the
                              market as it was then has missed it and expires
    could not be asked        UNKNOWN: its funds stay reserved, and it is asked again

A venue that does not know an order which it had accepted contradicts itself. That is told and ends nothing.
"""

from collections.abc import Callable

import msgspec

from ..kernel.actor import Actor
from ..kernel.bus import Handler
from ..kernel.clock import SECOND_NS, Timer
from ..kernel.kernel import Kernel
from ..model.messages import (
    ExitReturned,
    ExitUnsold,
    Refusal,
    ReportMissing,
    VenueStateChanged,
    VenueTookOver,
    VenueUnknown,
)
from ..model.records import Amend, Order, State
from .lifecycle import Step, advance
from .manager import OrderManager

# Asks a wallet's venue about an order: answer(True) taken, answer(False) proven not taken, answer(None) not known.
Ask = Callable[[Order, Callable[[bool | None], None]], None]


class VenueConnected(msgspec.Struct, frozen=True):
    """The events `VenueConnected` and `VenueDisconnected` of the health channel."""

    exchange: str
    reason: str


class Contradiction(msgspec.Struct, frozen=True, rename="camel"):
    """The event `VenueContradiction`: a venue does not know an order that it had accepted."""

    order_id: str
    exchange: str
    detail: str


class Recovery(Actor):
    """Asks until every order's outcome is known; `unsettled` counts those that it waits for."""

    AGAIN_NS = 2 * SECOND_NS
    ANSWER_MAX_NS = 10 * SECOND_NS  # a sent order without any answer for so long is UNKNOWN

    def __init__(self, kernel: Kernel, manager: OrderManager, ask: Ask) -> None:
        super().__init__(kernel)
        self.manager = manager
        self.orders = manager.orders
        self.ask = ask
        self.unsettled: set[str] = set()
        self._asking: set[str] = set()  # one question at a time for each order
        self._lost_amends: dict[str, Amend] = {}  # on their way when a process or a connection ended
        self._again: set[str] = set()  # doubted anew while a question was under way: its answer may be older
        self._contradicted: set[str] = set()  # orders whose venue's contradiction was told
        self._timer: Timer | None = None

    def handles(self) -> dict[type, Handler]:
        return {
            VenueUnknown: self.on_unknown,
            VenueStateChanged: self.on_venue,
            VenueTookOver: self.on_took_over,
            ReportMissing: self.on_report_missing,
        }

    def start(self) -> None:
        for order in list(self.orders.open.values()):
            if order.state is not State.HELD and not order.waiting:
                self._doubt(order)
        self._timer = self.clock.call_in(self.AGAIN_NS, self.kernel.run, self._look)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    @property
    def settled(self) -> bool:
        return not self.unsettled

    def settled_at(self, wallet: str) -> bool:
        """Whether the outcome of every order of a wallet is known."""
        return not any((order := self.orders.get(i)) is not None and order.wallet == wallet for i in self.unsettled)

    def on_unknown(self, message: VenueUnknown) -> None:
        order = self.orders.of_venue_client_id(message.client_id)
        if order is None or order.ended or order.waiting or order.venue_client_id != message.client_id:
            return
        if message.request != "place" and order.state in (State.SENT, State.UNKNOWN):
            return  # it is asked about already, or its own answer will tell
        self._lose(order, message.reason, self.clock.now_ns())
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
            if order.wallet == wallet and order.state is not State.HELD and not order.waiting:
                self._doubt(order)

    def on_report_missing(self, message: ReportMissing) -> None:
        if not message.order.ended:
            self._doubt(message.order)

    def _doubt(self, order: Order) -> None:
        """What is known of an order may not be all: ask."""
        self.unsettled.add(order.order_id)
        if order.order_id in self._asking:
            self._again.add(order.order_id)
        if order.amend_requested is not None and not order.amend_requested.replace:
            self._lost_amends[order.order_id] = order.amend_requested
        self._ask(order)

    def _ask(self, order: Order) -> None:
        """Ask about the order's present attempt; an answer says nothing of a later one."""
        if order.order_id in self._asking:
            return
        self._asking.add(order.order_id)
        client_id = order.venue_client_id

        def answer(taken: bool | None) -> None:
            self.kernel.run(self._answered, order, client_id, taken)

        self.ask(order, answer)

    def _answered(self, order: Order, client_id: str, taken: bool | None) -> None:
        self._asking.discard(order.order_id)
        if order.venue_client_id != client_id:
            return
        now_ns = self.clock.now_ns()
        if order.order_id in self._again:
            self._again.discard(order.order_id)
            self._ask(order)
            return
        if taken is None:
            self._lose(order, "its outcome is not known: the venue could not be asked", now_ns)
            return
        self.unsettled.discard(order.order_id)
        lost = self._lost_amends.pop(order.order_id, None)
        if taken and lost is not None and order.amend_requested is lost:  # else the venue's repeat has settled it
            self.manager.settle_amend(order)
            self.orders.changed(order, "OrderAmendRefused", now_ns)
            detail = f"the amendment of {order.order_id} was lost on its way: the order is as it was"
            self.manager.answer_waiting(order, Refusal(code="AMEND_LOST", detail=detail, status=409), "amend")
        if taken or order.ended or order.waiting or order.state is State.HELD:
            return
        if order.state is State.LIVE or order.filled_lots > order.attempt_from or order.venue_order_id is not None:
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
        elif order.market_exit:
            order.waiting = True
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
            order.reason = detail
            self.orders.changed(order, "OrderContradicted", self.clock.now_ns())

    def _lose(self, order: Order, reason: str, now_ns: int) -> None:
        state = advance(order.state, Step.LOSE)
        if state is not None and order.state is not State.UNKNOWN:
            order.state, order.reason = state, reason
            self.orders.changed(order, "OrderUnknown", now_ns)
        self.unsettled.add(order.order_id)

    def _look(self) -> None:
        """Ask again about what is not known, and about what was sent and never answered."""
        self._timer = self.clock.call_in(self.AGAIN_NS, self.kernel.run, self._look)
        now_ns = self.clock.now_ns()
        self.unsettled &= self.orders.open.keys()
        for order in list(self.orders.open.values()):
            if order.state is State.UNKNOWN or order.order_id in self.unsettled:
                self._ask(order)
            elif self._overdue(order, now_ns):
                self._lose(order, "the venue has not answered", now_ns)
                self._ask(order)

    def _overdue(self, order: Order, now_ns: int) -> bool:
        """Whether an order that has left waits too long for an answer; not one that waits for its commit, or for its
        next attempt."""
        under_way = order.state is State.SENT or (order.state is State.PART and order.venue_order_id is None)
        if not under_way or order.waiting or order.sent_ns is None:
            return False
        return now_ns - order.sent_ns > self.ANSWER_MAX_NS
