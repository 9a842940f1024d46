"""An operator's word on an order whose outcome is in doubt.

Always true here: the order's venue is asked once more before the word counts, and it counts only where the venue does
not have the order, or could not be asked; what the venue has becomes what the venue says, and the operator is told. A
word is given under a name and a reason, both stay on the order. What the venue does to an order after its end was given
so is accounted for and told; what it still has open is cancelled there.
"""

from functools import partial
from typing import Final, Literal

import msgspec

from ..kernel.actor import Actor
from ..kernel.bus import Handler
from ..kernel.clock import SECOND_NS
from ..kernel.kernel import Kernel
from ..model.exact import plain
from ..model.messages import OrderFilled, Refusal, Reply, ResolveOrder, VenueAccepted
from ..model.order_views import STATUS, order_update
from ..model.records import Order, State
from .evidence import note
from .lifecycle import Step
from .manager import OrderManager
from .recovery import Recovery, was_taken

RESOLVED: Final = "RESOLVED"
STUCK_NS: Final = 10 * SECOND_NS  # a cancel without the venue's word for so long is in doubt
REPLIES_MAX: Final = 100  # who may wait for one order's answer
Outcome = Literal["not_taken", "cancelled", "ask"]


class ResolvedMoved(msgspec.Struct, frozen=True, rename="camel"):
    """The event `ResolvedOrderMoved`: its venue had the order after all."""

    order_id: str
    exchange: str
    detail: str


class Pending(msgspec.Struct):
    """A word that waits for the venue's answer."""

    outcome: Outcome
    by: str
    reason: str
    replies: list[Reply]


class Resolving(Actor):
    """Takes ResolveOrder; hears the answers to what `Recovery` asks."""

    def __init__(self, kernel: Kernel, manager: OrderManager, recovery: Recovery) -> None:
        super().__init__(kernel)
        self.manager = manager
        self.orders = manager.orders
        self.recovery = recovery
        self._pending: dict[str, Pending] = {}
        self._resolved: dict[str, str] = {}  # venue client id -> order id, of orders that were ended by a word
        recovery.decide = self.decide

    def handles(self) -> dict[type, Handler]:
        return {ResolveOrder: self.resolve, VenueAccepted: self.on_accepted, OrderFilled: self.on_filled}

    def start(self) -> None:
        for order in self.orders.orders.values():
            if order.code == RESOLVED:
                self._resolved[order.venue_client_id] = order.order_id

    # --- the word

    def resolve(self, request: ResolveOrder) -> None:
        order = self.orders.get(request.order_id)
        refusal = self._refusal(order, request)
        if refusal is not None:
            request.reply(refusal)
            return
        assert order is not None, "else it is refused"
        if order.ended:  # by the same word
            self.manager.answer(request.reply, order)
            return
        pending = self._pending.get(order.order_id)
        if pending is None:
            pending = Pending(request.outcome, request.by, request.reason, [])
            self._pending[order.order_id] = pending
        elif pending.outcome == "ask":
            pending.outcome, pending.by, pending.reason = request.outcome, request.by, request.reason
        pending.replies.append(request.reply)
        self.recovery.ask_now(order)

    def _refusal(self, order: Order | None, request: ResolveOrder) -> Refusal | None:
        """Why the word is not taken."""
        if order is None:
            return Refusal(code="ORDER_NOT_FOUND", detail=f"there is no order {request.order_id}", status=404)
        conflict = partial(Refusal, status=409, order=order)
        if order.ended:
            if order.code == RESOLVED and _word(request.outcome, "") in (order.reason or ""):
                return None
            detail = f"{order.order_id} has ended, {STATUS[order.state]}: {order.reason or 'as it should'}"
            return conflict(code="ORDER_ENDED", detail=detail)
        if not self._in_doubt(order):
            detail = (
                f"the outcome of {order.order_id} is not in doubt: it is {STATUS[order.state]}; to end it, cancel it "
                f"(DELETE /api/orders/{order.order_id})"
            )
            return conflict(code="NOT_IN_DOUBT", detail=detail)
        if request.outcome == "not_taken" and was_taken(order):
            detail = f"{order.exchange} had taken {order.order_id}: it can be resolved as cancelled, not as not_taken"
            return conflict(code="WAS_TAKEN", detail=detail)
        pending = self._pending.get(order.order_id)
        if pending is None:
            return None
        if len(pending.replies) >= REPLIES_MAX or not {pending.outcome, request.outcome} <= {"ask", pending.outcome}:
            detail = (
                f"{order.order_id} is being resolved as {pending.outcome} by {pending.by}: wait for what comes of it"
            )
            return conflict(code="ORDER_IN_FLIGHT", detail=detail, retry_after_s=1)
        return None

    def _in_doubt(self, order: Order) -> bool:
        """UNKNOWN, contradicted by its venue, or asked to be cancelled for long; and the rest of an order in parts,
        sent and not answered."""
        if order.state is State.HELD or order.waiting:
            return False
        if order.state is State.UNKNOWN or self.recovery.contradicted(order):
            return True
        if order.cancel_requested is not None and self.clock.now_ns() - order.updated_ns >= STUCK_NS:
            return True
        return order.state is State.PART and not was_taken(order) and order.order_id in self.recovery.unsettled

    # --- the venue's answer

    def decide(self, order: Order, taken: bool | None) -> bool:
        """As `Recovery.decide`: its messages have moved the order already."""
        pending = self._pending.pop(order.order_id, None)
        if pending is None:
            return False
        if pending.outcome == "ask":
            self._answer(pending, order)
            return False
        if taken or order.ended or order.waiting or order.state is State.HELD:
            agreed = pending.outcome == "cancelled" and order.state is State.CANCELLED
            self._answer(pending, order if agreed else self._has_it(order, pending))
            return False
        self._end(order, pending)
        self._answer(pending, order)
        return True

    def _has_it(self, order: Order, pending: Pending) -> Refusal:
        ends = "" if order.ended else f"; to end it, cancel it (DELETE /api/orders/{order.order_id})"
        filled = f"{plain(order.filled_lots * order.lot)} of {plain(order.qty_lots * order.lot)} filled"
        detail = (
            f"{order.exchange} was asked once more and knows {order.order_id}: it is {STATUS[order.state]}, {filled}. "
            f"It is what the exchange says, and was not resolved as {pending.outcome}{ends}"
        )
        return Refusal(code="VENUE_HAS_IT", detail=detail, status=409, order=order)

    def _end(self, order: Order, pending: Pending) -> None:
        now_ns = self.clock.now_ns()
        word = _word(pending.outcome, pending.by)
        note(order, word, pending.reason, now_ns)
        self._resolved[order.venue_client_id] = order.order_id
        if order.amend_requested is not None:
            self.manager.settle_amend(order)
        self.manager.end(order, Step.CANCEL, f"{word}: {pending.reason}", RESOLVED, now_ns)
        self.outbox.event("orders", "OrderResolved", order_update(order))

    def _answer(self, pending: Pending, value: object) -> None:
        for reply in pending.replies:
            self.manager.answer(reply, value)

    # --- the venue had it after all

    def on_accepted(self, message: VenueAccepted) -> None:
        """An order that was ended by a word stands at its venue: nobody waits for it any more."""
        order = self._moved(message.client_id) if self._resolved else None
        if order is not None and order.venue_order_id is None:
            order.venue_order_id = message.venue_order_id
            self._tell(order, f"accepted it as {message.venue_order_id}: it is cancelled there")
            self.manager.engine.cancel(order)

    def on_filled(self, message: OrderFilled) -> None:
        order, fill = message.order, message.fill
        if order.code == RESOLVED:
            traded = f"traded {plain(fill.quantity)} of it (trade {fill.trade_id})"
            self._tell(order, f"{traded}: the money is accounted for")

    def _moved(self, client_id: str) -> Order | None:
        order = self.orders.get(self._resolved.get(client_id, ""))
        return order if order is not None and order.venue_client_id == client_id else None

    def _tell(self, order: Order, what: str) -> None:
        detail = f"{order.exchange} {what}, after {order.order_id} was {order.reason}"
        note(order, "heard unasked", what, self.clock.now_ns())
        self.outbox.put("orders", order.order_id, order)
        self.outbox.event("health", "ResolvedOrderMoved", ResolvedMoved(order.order_id, order.exchange, detail))
        self.kernel.conditions.count("venue_contradicts")


def _word(outcome: Outcome, by: str) -> str:
    return f"resolved as {outcome} by {by}"
