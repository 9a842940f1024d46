"""What venues say about orders: accepted, filled, ended, amended, refused; in any order, and more than once.

Always true here: a trade id counts once; a report about an earlier attempt moves nothing but money that was really
traded; what a venue says was traded is accounted for even where it should not have been possible, and is then reported
as a fault.
"""

from collections import deque
from collections.abc import Callable

import msgspec

from ..kernel.actor import Actor
from ..kernel.bus import Handler
from ..kernel.clock import SECOND_NS
from ..kernel.kernel import Kernel
from ..model.exact import ZERO
from ..model.messages import (
    ExitReturned,
    ExitUnsold,
    OrderFilled,
    Refusal,
    ReportMissing,
    VenueAccepted,
    VenueAmended,
    VenueContradicted,
    VenueEnded,
    VenueFilled,
    VenueRejected,
    VenueRequestFailed,
)
from ..model.records import Fill, Order, Side, State, strategy_of
from .lifecycle import Step, advance
from .manager import OrderManager, Request
from .native_exits import sells_at_venue

# The manual's retryable errors: tried again only because the venue has proven that it did not take the order.
# The paper venue's word for a book that is not up to date is of the same kind.
RETRYABLE = frozenset({"NETWORK_ERROR", "TIMEOUT", "RATE_LIMIT_EXCEEDED", "TEMPORARY_UNAVAILABLE", "MARKET_DATA_STALE"})
ATTEMPTS_MAX = 3
REMEMBERED_MAX = 1_000  # odd client ids
RETRY_BASE_NS = 1 * SECOND_NS
RETRY_JITTER = 0.5  # up to this share is added


# Finds the venue's trade ids of the archived order that was sent, or adopted, under a client id of this node, away from
# the event loop, and calls back on it.
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
        # client ids, the oldest forgotten
        self._taken_back: deque[str] = deque(maxlen=REMEMBERED_MAX)
        self._contradicted: deque[str] = deque(maxlen=REMEMBERED_MAX)
        self._odd_fills: deque[str] = deque(maxlen=REMEMBERED_MAX)  # and their trade ids
        # Asks about an order of this node that is not known here, by one of its fills, or by its acceptance: whether
        # anybody does. Set by who adopts orders.
        self.adopt: Callable[[VenueFilled], bool] = lambda _: False
        self.unknown_accepted: Callable[[str], None] = lambda _: None
        self._not_there: deque[str] = deque(maxlen=REMEMBERED_MAX)  # what the venue did not know when it was to cancel

    def handles(self) -> dict[type, Handler]:
        return {
            VenueAccepted: self.on_accepted,
            VenueRejected: self.on_rejected,
            VenueFilled: self.on_filled,
            VenueEnded: self.on_ended,
            VenueAmended: self.on_amended,
            VenueContradicted: self.on_contradicted,
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
        if order is None and self.orders.ids.order_of(message.client_id) is not None:
            self.unknown_accepted(message.venue)
        if order is None or self._is_not_ours(order, message.side, "an acceptance"):
            return
        if _is_past(order, message.client_id):
            self._take_back(order, message)
            return
        state = advance(order.state, Step.ACCEPT)
        if state is None:  # its fill or its end overtook this
            return
        self._answered(order)
        first = order.state in (State.SENT, State.UNKNOWN)
        order.venue_order_id = message.venue_order_id
        order.state, order.tries = state, 0
        if first:
            now_ns = self.clock.now_ns()
            self.manager.accepted(order, now_ns)
            self.orders.changed(order, "OrderAccepted", now_ns)
        if order.amend_requested is None:  # of an amended order that has come back to the venue's book
            self.manager.answer_waiting(order, request="amend")
        if _being_replaced(order) and self.engine.unavailable(order.wallet):
            self.manager.settle_amend(order)  # what would replace it could not be sent: it stays
            self._tell_refused(order, "NOT_CONNECTED", self.engine.unavailable(order.wallet), "amend")
        if order.cancel_requested is not None or _being_replaced(order):
            self.engine.cancel(order)  # it may have come before the order did, or was lost

    def _take_back(self, order: Order, message: VenueAccepted) -> None:
        """An attempt that was given up stands at the venue after all: nobody waits for it any more."""
        if message.client_id in self._taken_back or message.client_id == order.venue_client_id:
            return
        if message.venue_order_id in order.past_ids:  # told once more: it was there, and has ended
            return
        self._taken_back.append(message.client_id)
        self._note(f"{message.client_id}, an attempt of {order.order_id} that was given up, was taken: it is cancelled")
        self.engine.cancel_stray(order, message.client_id, message.venue_order_id)

    def _is_not_ours(self, order: Order, side: Side | None, what: str) -> bool:
        """Whether the venue speaks of somebody else's order under our client id."""
        if side is None or side == order.side:
            return False
        self._impossible(f"{what} of a {side} for {order.order_id}, a {order.side}: not ours, and nothing was booked")
        return True

    def on_contradicted(self, message: VenueContradicted) -> None:
        """Ours may stand there too, under an id that the venue gives to the other one: a person has to look."""
        if message.client_id not in self._contradicted:
            self._contradicted.append(message.client_id)
            self._impossible(f"{message.client_id} at {message.venue} is not the order that was sent: {message.reason}")

    def on_rejected(self, message: VenueRejected) -> None:
        order = self._find(message.client_id, "a rejection")
        if order is None or _is_past(order, message.client_id):
            return
        self._answered(order)
        if order.listed and order.filled_lots == order.attempt_from:
            refused = message.code not in RETRYABLE
            self.bus.publish(ExitReturned(order, f"{message.code}: {message.reason}", refused))
            return
        now_ns = self.clock.now_ns()
        if self._goes_on(order):
            order.reason = f"attempt {order.attempt}: {message.code}: {message.reason}"
            return
        again = message.code in RETRYABLE and order.tries + 1 < ATTEMPTS_MAX and _on_its_way(order)
        if again and order.cancel_requested is None:
            self.engine.stats[order.exchange].failure()
            delay = RETRY_BASE_NS << order.tries
            order.tries += 1
            order.reason, order.waiting = f"attempt {order.attempt}: {message.code}: {message.reason}", True
            self.orders.changed(order, "OrderRetried", now_ns)
            self.clock.call_in(int(delay * (1 + RETRY_JITTER * self.jitter())), self.kernel.run, self._resend, order)
            return
        self.manager.refuse(order, message.reason, message.code, now_ns)

    def _resend(self, order: Order) -> None:
        if order.waiting and not order.ended:
            self.manager.send(order, self.clock.now_ns())

    # --- fills

    def on_filled(self, message: VenueFilled) -> None:
        order = self.orders.of_venue_client_id(message.client_id)
        if order is None:
            self._stranger(message)
            return
        if self.orders.has_trade(order.order_id, message.trade_id):
            return
        if self._is_not_ours(order, message.side, f"a fill (trade {message.trade_id})"):
            return
        unrecorded = self._unrecorded(order, message)
        odd = "" if unrecorded else _implausible(order, message)
        if odd and self._is_first(order, message, odd):
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
            strategy=strategy_of(order),
        )
        if unrecorded:
            self.orders.unrecorded[order.order_id] -= fill.qty_lots
            self.orders.add_fill(fill)
            self._note(f"trade {fill.trade_id} of {order.order_id} is on record again; its money was booked before")
            return
        if order.at_venue:
            sells_at_venue(self.manager, order)
        present = message.client_id == order.venue_client_id
        self._apply(order, fill, message.venue_order_id if present else order.venue_order_id)

    def _unrecorded(self, order: Order, message: VenueFilled) -> bool:
        """Whether this is a fill that the order has counted, and whose record was lost: it moves nothing again."""
        missing = self.orders.unrecorded.get(order.order_id, 0)
        counted = order.fill_ns is not None and message.timestamp_ns <= order.fill_ns
        return 0 < message.qty_lots <= missing and counted and message.pair in (None, order.pair)

    def _is_first(self, order: Order, message: VenueFilled, odd: str) -> bool:
        """Whether an odd fill is told for the first time: then its venue is asked for the order's trades. What it says
        once more has happened, and is booked; a fill of another pair never is."""
        key = f"{message.client_id} {message.trade_id}"
        known = key in self._odd_fills
        if not known:
            self._odd_fills.append(key)
            self._note(f"trade {message.trade_id} of {order.order_id} is {odd}: the venue is asked about it")
            self.bus.publish(ReportMissing(order, f"a fill {odd}"))
        elif message.pair in (None, order.pair):
            self._impossible(f"trade {message.trade_id} of {order.order_id} is {odd}; the money is accounted for")
            return False
        return True

    def _stranger(self, message: VenueFilled) -> None:
        """A fill of an order that is not held here: somebody else's, one of ours that has left for the archive, or one
        that nobody knows, which is adopted."""
        text = f"a fill of {message.qty_lots} lots (trade {message.trade_id}) for {message.client_id!r}"
        if self.orders.ids.order_of(message.client_id) is None:
            self._note(f"{text}, which is not an order of this node")
            return

        def found(trade_ids: frozenset[str]) -> None:
            if message.trade_id in trade_ids:
                return  # it is told once more, which changes nothing
            if trade_ids or not self.adopt(message):
                self.kernel.run(self._impossible, f"{text}, which ended long ago: it is not accounted for")

        self.archived(message.client_id, found)

    def _apply(self, order: Order, fill: Fill, venue_order_id: str | None) -> None:
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
        if order is None or _is_past(order, message.client_id):
            return
        self._answered(order)
        if message.filled_lots is not None and order.attempt_from + message.filled_lots > order.filled_lots:
            # Money moved that is not known here yet; the end counts when it is.
            self.bus.publish(ReportMissing(order, "the venue has ended it, and not all of its fills are known"))
            return
        if _returns(order, message.kind):
            self.bus.publish(ExitReturned(order, order.recalled or message.reason))
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
        wanted = order.qty_lots if asked.qty_lots is None else asked.qty_lots
        order.qty_lots = max(wanted, order.filled_lots)  # more may have traded before it was off the book
        order.price_ticks = order.price_ticks if asked.price_ticks is None else asked.price_ticks
        self.manager.settle_amend(order)
        if self._is_amended(order, now_ns):
            self.manager.send(order, now_ns)

    def _is_amended(self, order: Order, now_ns: int) -> bool:
        """Tell that it has its new values; False where they leave nothing to trade, and it has ended."""
        if order.left_lots <= 0:  # cut to what had been filled meanwhile
            self.manager.end(order, Step.CANCEL, "amended to what was filled", "CANCELLED", now_ns)
            return False
        self.orders.changed(order, "OrderAmended", now_ns)
        return True

    def _goes_on(self, order: Order) -> bool:
        """Whether this is a reached sale at the market, which ends only when it is sold or taken back."""
        if not order.market_exit or order.ended or order.cancel_requested is not None:
            return False
        if order.amend_requested is not None:  # of an attempt that is over: nobody will answer it
            self.manager.settle_amend(order)
            self._tell_refused(order, "AMEND_LOST", "the attempt that it was for is over", "amend")
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
        order.amends += 1
        order.price_ticks = message.price_ticks if message.price_ticks is not None else order.price_ticks
        if wanted:
            self.manager.settle_amend(order)
        else:  # by hand at the venue, or by another program: the venue's word is what can trade
            self.manager.free_surplus(order)
        if self._is_amended(order, self.clock.now_ns()):
            self.manager.answer_waiting(order, request="amend")

    def on_request_failed(self, message: VenueRequestFailed) -> None:
        order = self._find(message.client_id, f"a refused {message.request}")
        if order is None or order.ended or order.venue_client_id != message.client_id:
            return
        if message.request == "cancel":
            if order.state in (State.SENT, State.UNKNOWN):  # it overtook the order; sent again when that is accepted
                return
            if message.code == "UNKNOWN_ORDER" and message.client_id not in self._not_there:
                # It has ended there, or is gone: the answer to the question decides, and answers who asked.
                self._not_there.append(message.client_id)
                self.bus.publish(ReportMissing(order, "the venue does not know the order that it was to cancel"))
                return
            if order.cancel_requested is None and order.recalled is not None:
                return  # it is asked for again until that is decided
            order.cancel_requested = None
            if _being_replaced(order):
                self.manager.settle_amend(order)
                self._tell_refused(order, message.code, message.reason, "amend")
        elif order.amend_requested is None:
            return
        else:
            if message.code == "UNKNOWN_ORDER":
                self.bus.publish(ReportMissing(order, "the venue does not know the order that it was to amend"))
            self.manager.settle_amend(order)
        self._tell_refused(order, message.code, message.reason, message.request)

    def _tell_refused(self, order: Order, code: str, reason: str, request: Request) -> None:
        self.orders.changed(order, f"Order{request.capitalize()}Refused", self.clock.now_ns())
        detail = f"the venue refused to {request} {order.order_id}: {reason}"
        refusal = Refusal(code=code, detail=detail, status=409, order=order)
        self.manager.answer_waiting(order, refusal, request)


def _implausible(order: Order, message: VenueFilled) -> str:
    """What no venue does to an order: why a fill cannot be believed at first sight; empty where it can."""
    if message.pair not in (None, order.pair):
        return f"of {message.pair}"
    if order.ended or message.client_id != order.venue_client_id:
        return ""  # late, and there is no attempt to hold it against
    if order.filled_lots + message.qty_lots > order.attempt_until:
        return "of more than was sent"
    limit = order.price_ticks if order.price_ticks is not None else order.guard_ticks
    if limit is not None and (message.price_ticks - limit) * order.sign > 0:
        return "at a worse price than its limit"
    return ""


def _on_its_way(order: Order) -> bool:
    """Whether the venue has not accepted the present attempt."""
    return order.state in (State.SENT, State.UNKNOWN) or (order.state is State.PART and order.venue_order_id is None)


def _is_past(order: Order, client_id: str) -> bool:
    """Whether a report is about an attempt that is over: nothing of the order is at the venue under this id."""
    return order.venue_client_id != client_id or order.waiting or order.state is State.HELD


def _returns(order: Order, kind: str) -> bool:
    """Whether an exit that its venue watched, and that is off the book there, waits here again. One that somebody has
    cancelled ends."""
    if not order.listed or order.cancel_requested is not None or order.filled_lots > order.attempt_from:
        return False
    return kind == "expired" or order.recalled is not None


def _being_replaced(order: Order) -> bool:
    """Whether the venue is asked to take it off its book, so that it comes back as amended."""
    return order.amend_requested is not None and order.amend_requested.replace
