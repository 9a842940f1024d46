"""What venues say about orders: accepted, filled, ended, amended, refused; in any order, and more than once.

Always true here: a trade id counts once; a report about an earlier attempt moves nothing but money that was really
traded; what a venue says was traded is accounted for even where it should not have been possible, and is then reported
as a fault.
"""

from collections.abc import Callable

import msgspec

from ..kernel.actor import Actor
from ..kernel.bus import Handler
from ..kernel.clock import SECOND_NS
from ..kernel.kernel import Kernel
from ..model.exact import ZERO
from ..model.messages import (
    ExitUnsold,
    OrderFilled,
    Refusal,
    ReportMissing,
    VenueAccepted,
    VenueAmended,
    VenueEnded,
    VenueFilled,
    VenueRejected,
    VenueRequestFailed,
)
from ..model.records import Fill, Order, State
from .lifecycle import Step, advance
from .manager import OrderManager, Request

# The manual's retryable errors: tried again only because the venue has proven that it did not take the order.
# The paper venue's word for a book that is not up to date is of the same kind.
RETRYABLE = frozenset({"NETWORK_ERROR", "TIMEOUT", "RATE_LIMIT_EXCEEDED", "TEMPORARY_UNAVAILABLE", "MARKET_DATA_STALE"})
ATTEMPTS_MAX = 3
RETRY_BASE_NS = 1 * SECOND_NS
RETRY_JITTER = 0.5  # up to this share is added


# Finds the venue's trade ids of an order in the archive, away from the event loop, and calls back on it.
ArchivedTrades = Callable[[str, Callable[[frozenset[str]], None]], None]


class OddReport(msgspec.Struct, frozen=True):
    """A venue said something that fits no order here."""

    detail: str


class Reports(Actor):
    """Moves orders as their venues report. `jitter()` gives 0..1 and is seeded."""

    def __init__(
        self, kernel: Kernel, manager: OrderManager, jitter: Callable[[], float], archived: ArchivedTrades
    ) -> None:
        super().__init__(kernel)
        self.archived = archived
        self.manager = manager
        self.orders = manager.orders
        self.engine = manager.engine
        self.jitter = jitter

    def handles(self) -> dict[type, Handler]:
        return {
            VenueAccepted: self.on_accepted,
            VenueRejected: self.on_rejected,
            VenueFilled: self.on_filled,
            VenueEnded: self.on_ended,
            VenueAmended: self.on_amended,
            VenueRequestFailed: self.on_request_failed,
        }

    def _find(self, client_id: str, what: str) -> Order | None:
        order = self.orders.of_venue_client_id(client_id)
        if order is None:
            self._note(f"{what} for {client_id!r}, which is not an order held here")
        return order

    def _note(self, text: str) -> None:
        """A report that cannot be matched, told in the journal, the feed's health channel and the log."""
        self.outbox.event("health", "OddReport", OddReport(text))

    def _impossible(self, text: str) -> None:
        """What a venue did against its own rules: money moved that nobody can explain. Trading is halted."""
        self._note(text)
        self.kernel.fault(self._apply, None, RuntimeError(text))

    def _answered(self, order: Order) -> None:
        """The first answer to an attempt: how fast the venue was."""
        if order.state is State.SENT and order.sent_ns is not None:
            self.engine.stats[order.exchange].success(self.clock.now_ns() - order.sent_ns)

    # --- accepted, rejected

    def on_accepted(self, message: VenueAccepted) -> None:
        order = self._find(message.client_id, "an acceptance")
        if order is None or order.venue_client_id != message.client_id or order.waiting:
            return
        state = advance(order.state, Step.ACCEPT)
        if state is None:  # its fill or its end overtook this
            return
        self._answered(order)
        first = order.state in (State.SENT, State.UNKNOWN)
        order.venue_order_id = message.venue_order_id
        order.state = state
        if first:
            now_ns = self.clock.now_ns()
            self.manager.accepted(order, now_ns)
            self.orders.changed(order, "OrderAccepted", now_ns)
        if order.amend_requested is None:  # of an amended order that has come back to the venue's book
            self.manager.answer_waiting(order, request="amend")
        if order.cancel_requested is not None or _being_replaced(order):
            self.engine.cancel(order)  # it may have come before the order did, or was lost

    def on_rejected(self, message: VenueRejected) -> None:
        order = self._find(message.client_id, "a rejection")
        if order is None or order.venue_client_id != message.client_id or order.waiting:
            return
        self._answered(order)
        now_ns = self.clock.now_ns()
        sent = order.state in (State.SENT, State.UNKNOWN)
        if self._goes_on(order):
            order.reason = f"attempt {order.attempt}: {message.code}: {message.reason}"
            return
        if message.code in RETRYABLE and order.attempt < ATTEMPTS_MAX and sent and order.cancel_requested is None:
            self.engine.stats[order.exchange].failure()
            delay = RETRY_BASE_NS << (order.attempt - 1)
            order.reason, order.waiting = f"attempt {order.attempt}: {message.code}: {message.reason}", True
            self.orders.changed(order, "OrderRetried", now_ns)
            self.clock.call_in(int(delay * (1 + RETRY_JITTER * self.jitter())), self.kernel.run, self._resend, order)
            return
        self.manager.refuse(order, message.reason, message.code, now_ns)

    def _resend(self, order: Order) -> None:
        if order.state in (State.SENT, State.UNKNOWN) and order.waiting:
            self.manager.send(order, self.clock.now_ns())

    # --- fills

    def on_filled(self, message: VenueFilled) -> None:
        order = self.orders.of_venue_client_id(message.client_id)
        if order is None:
            self._stranger(message)
            return
        if any(f.trade_id == message.trade_id for f in self.orders.fills_of(order.order_id)):
            return
        self._answered(order)
        fill = Fill(
            fill_id=self.orders.ids.fill(),
            order_id=order.order_id,
            trade_id=message.trade_id,
            exchange=order.exchange,
            pair=order.pair,
            wallet=order.wallet,
            side=order.side,
            tick=order.tick,
            lot=order.lot,
            price_ticks=message.price_ticks,
            qty_lots=message.qty_lots,
            fee=message.fee,
            fee_currency=message.fee_currency,
            maker=message.maker,
            timestamp_ns=message.timestamp_ns,
        )
        self._apply(order, fill, message.venue_order_id)

    def _stranger(self, message: VenueFilled) -> None:
        """A fill of an order that is not held here: somebody else's, or one of ours that has left for the archive."""
        text = f"a fill of {message.qty_lots} lots (trade {message.trade_id}) for {message.client_id!r}"
        order_id = self.orders.ids.order_of(message.client_id)
        if order_id is None:
            self._note(f"{text}, which is not an order of this node")
            return

        def found(trade_ids: frozenset[str]) -> None:
            if message.trade_id not in trade_ids:  # else it is told once more, which changes nothing
                self.kernel.run(self._impossible, f"{text}, which ended long ago: it is not accounted for")

        self.archived(order_id, found)

    def _apply(self, order: Order, fill: Fill, venue_order_id: str) -> None:
        now_ns = self.clock.now_ns()
        order.filled_lots += fill.qty_lots
        order.cost += fill.price_ticks * fill.qty_lots
        order.fees = {**order.fees, fill.fee_currency: order.fees.get(fill.fee_currency, ZERO) + fill.fee}
        order.fill_ns = fill.timestamp_ns
        order.venue_order_id = venue_order_id
        state = advance(order.state, Step.COMPLETE if order.filled_lots >= order.qty_lots else Step.PARTIAL)
        if state is None:
            self._impossible(f"a fill of {order.order_id}, which was {order.state.value}; the money is accounted for")
        else:
            order.state = state
        if order.filled_lots > order.qty_lots:
            self._impossible(f"{order.order_id} was filled over its quantity; the money is accounted for")
        before = order.reserved
        order.reserved = ZERO if order.ended else min(before, self.manager.reservation_now(order))
        self.orders.note_reserved(order, order.reserved - before)
        self.orders.add_fill(fill)
        self.bus.publish(OrderFilled(order, fill, order.reserved - before))
        self.orders.changed(order, "OrderFilled" if order.state is State.FILLED else "OrderPartiallyFilled", now_ns)
        if order.ended:
            self.manager.answer_waiting(order)
        elif order.filled_lots >= order.attempt_until and not order.waiting:
            self._attempt_traded(order, now_ns)

    def _attempt_traded(self, order: Order, now_ns: int) -> None:
        """All that was sent has traded, but the order grew meanwhile: nothing of the rest is at the venue."""
        if not self._goes_on(order):
            reason = order.cancel_requested or "what was sent has traded"
            self.manager.end(order, Step.CANCEL, reason, "CANCELLED", now_ns)

    # --- ends

    def on_ended(self, message: VenueEnded) -> None:
        order = self._find(message.client_id, f"the end ({message.kind})")
        if order is None or order.venue_client_id != message.client_id or order.waiting:
            return
        self._answered(order)
        if message.filled_lots is not None and order.attempt_from + message.filled_lots > order.filled_lots:
            # Money moved that is not known here yet; the end counts when it is.
            self.bus.publish(ReportMissing(order, "the venue has ended it, and not all of its fills are known"))
            return
        if message.kind == "expired" and self._goes_on(order):
            return
        if message.kind == "cancelled" and order.cancel_requested is None and _being_replaced(order):
            self._replace(order)
            return
        reason = order.cancel_requested or message.reason
        timed_out = order.expires_ns is not None and order.tif == "GTD" and order.expires_ns <= self.clock.now_ns()
        expired = message.kind == "expired" or timed_out
        step, code = (Step.EXPIRE, "EXPIRED") if expired else (Step.CANCEL, "CANCELLED")
        self.manager.end(order, step, reason, code, self.clock.now_ns())

    def _replace(self, order: Order) -> None:
        """It is proven off the venue's book, and how much of it traded is known: send what is asked for anew."""
        asked, now_ns = order.amend_requested, self.clock.now_ns()
        assert asked is not None
        order.qty_lots = order.qty_lots if asked.qty_lots is None else asked.qty_lots
        order.price_ticks = order.price_ticks if asked.price_ticks is None else asked.price_ticks
        self.manager.settle_amend(order)
        if order.left_lots <= 0:
            self.manager.end(order, Step.CANCEL, "amended to what was filled", "CANCELLED", now_ns)
            return
        self.orders.changed(order, "OrderAmended", now_ns)
        self.manager.send(order, now_ns)

    def _goes_on(self, order: Order) -> bool:
        """Whether this is a reached sale at the market, which ends only when it is sold or taken back."""
        if not order.market_exit or order.ended or order.cancel_requested is not None:
            return False
        order.waiting = True
        self.bus.publish(ExitUnsold(order))
        return True

    # --- amends

    def on_amended(self, message: VenueAmended) -> None:
        order = self._find(message.client_id, "an amendment")
        if order is None or order.ended or order.venue_client_id != message.client_id:
            return
        asked, qty_lots = order.amend_requested, order.attempt_from + message.qty_lots
        wanted = asked is not None and not asked.replace and qty_lots == (asked.qty_lots or order.qty_lots)
        if not wanted:
            if qty_lots == order.attempt_until and message.price_ticks in (None, order.price_ticks):
                return  # told once more
            self._note(f"{order.order_id} was amended to {qty_lots} lots, which nobody here asked for")
        order.qty_lots = order.attempt_until = qty_lots
        order.price_ticks = message.price_ticks if message.price_ticks is not None else order.price_ticks
        if wanted:
            self.manager.settle_amend(order)
        else:  # by hand at the venue, or by another program: the venue's word is what can trade
            self.manager.reserve(order, min(ZERO, self.manager.reservation_now(order) - order.reserved))
        if not order.ended and order.left_lots <= 0:  # cut to what had been filled meanwhile
            self.manager.end(order, Step.CANCEL, "amended to what was filled", "CANCELLED", self.clock.now_ns())
            return
        self.orders.changed(order, "OrderAmended", self.clock.now_ns())
        self.manager.answer_waiting(order, request="amend")

    def on_request_failed(self, message: VenueRequestFailed) -> None:
        order = self._find(message.client_id, f"a refused {message.request}")
        if order is None or order.ended or order.venue_client_id != message.client_id:
            return
        if message.request == "cancel":
            if order.state in (State.SENT, State.UNKNOWN):  # it overtook the order; sent again when that is accepted
                return
            if message.code == "UNKNOWN_ORDER":  # it has ended there, or never was: what became of it?
                self.bus.publish(ReportMissing(order, "the venue does not know the order that it was to cancel"))
            order.cancel_requested = None
            if _being_replaced(order):
                self.manager.settle_amend(order)
                self._tell_refused(order, message, "amend")
        elif order.amend_requested is None:
            return
        else:
            self.manager.settle_amend(order)
        self._tell_refused(order, message, message.request)

    def _tell_refused(self, order: Order, message: VenueRequestFailed, request: Request) -> None:
        self.orders.changed(order, f"Order{request.capitalize()}Refused", self.clock.now_ns())
        detail = f"the venue refused to {request} {order.order_id}: {message.reason}"
        refusal = Refusal(code=message.code, detail=detail, status=409, order=order)
        self.manager.answer_waiting(order, refusal, request)


def _being_replaced(order: Order) -> bool:
    """Whether the venue is asked to take it off its book, so that it comes back as amended."""
    return order.amend_requested is not None and order.amend_requested.replace
