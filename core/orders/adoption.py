"""Orders that a venue has and that are not known here, or not so: each is asked about, and then put right.

    known here                its reports are told once more: what was missing is booked, an end that was missed ends it
    a later attempt of one    taken up, for the commit that told of it was lost; adopted where the order has ended here
    of this node, not known   adopted: put on record as an order of this node, with its fills
    of somebody else          left alone; its trades that were not told are booked as somebody else's

Always true here: nothing is booked but what the venue lists as traded, and nothing twice: what a mark covers
(`core/portfolio/marks.py`) is in the ledger already, so that a fill of an adopted order which it covers moves the
position and no money.
"""

from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal

import msgspec

from ..kernel.clock import SECOND_NS
from ..kernel.kernel import Kernel
from ..model.comparisons import Difference, Found, Surveyor, VenueOrder, VenueTrade
from ..model.exact import ZERO, plain
from ..model.instruments import Instrument, OffGrid
from ..model.messages import ForeignFilled, ReportMissing, VenueFilled
from ..model.records import Order, OrderType, State
from ..portfolio.marks import Marks
from .lifecycle import Step, advance
from .manager import PAST_IDS_MAX, OrderManager
from .recovery import Contradiction
from .reports import ArchivedTrades

CLOCKS_NS = SECOND_NS  # by which the venue's clock and ours may be taken for apart; no process starts as fast
AT_ONCE = 50  # orders that a venue is asked about at a time; the others wait
ADOPTABLE: Mapping[str, OrderType] = {
    "market": "market",
    "limit": "limit",
    "stop_loss": "stop_loss",
    "take_profit": "take_profit",
}


class Inspection(msgspec.Struct):
    """An order that its venue is asked about."""

    wallet: str
    pair: str
    venue_order_id: str
    order_id: str = ""  # of ours that it is an attempt of
    trades: list[VenueTrade] = []  # of it, that are not known here
    asked: bool = False
    done: bool = False

    @property
    def key(self) -> tuple[str, str, str]:
        return self.wallet, self.pair, self.venue_order_id


class Adoption:
    """Asks about orders and puts them right."""

    AGAIN_NS = 2 * SECOND_NS  # until a venue is asked once more, where it could not be

    def __init__(
        self,
        kernel: Kernel,
        manager: OrderManager,
        marks: Marks,
        archived: ArchivedTrades,
        *,
        differs: Callable[[str, Difference], None],
        over: Callable[[str], None],
        counted: Callable[[str, VenueFilled], None],
    ) -> None:
        """`differs` is told what was not the same, and its wallet; `over` that one of a wallet is dealt with; `counted`
        takes back the money of a fill that the ledger had already."""
        self.kernel = kernel
        self.manager = manager
        self.orders = manager.orders
        self.marks = marks
        self.archived = archived
        self.differs = differs
        self.over = over
        self.counted = counted
        self.venues: dict[str, Surveyor] = {}
        self.contradicted: dict[tuple[str, str, str], str] = {}  # open there and ended here -> in words
        self._inspections: dict[tuple[str, str, str], Inspection] = {}
        self._counts: Counter[tuple[str, str]] = Counter()  # of them, by wallet and pair
        self._queue: deque[Inspection] = deque()  # of them, those that were not asked about yet
        self._asked = 0
        self._lists: dict[tuple[str, str], str] = {}  # list at the venue -> our order that reserves for all of it
        self._short: set[str] = set()  # adopted orders whose funds were not there in full

    def under_way(self, wallet: str, pair: str | None = None) -> int:
        """How many orders of a wallet are being asked about."""
        if pair is not None:
            return self._counts[wallet, pair]
        return sum(count for (name, _), count in self._counts.items() if name == wallet)

    def drop(self, wallet: str) -> None:
        """The venue is away: the next comparison finds them again."""
        for key in [key for key in self._inspections if key[0] == wallet]:
            self._forget(self._inspections[key])

    def inspect(self, inspection: Inspection) -> None:
        """Ask about an order, once at a time."""
        known = self._inspections.get(inspection.key)
        if known is None:
            self._inspections[inspection.key] = inspection
            self._counts[inspection.wallet, inspection.pair] += 1
            self._queue.append(inspection)
            self._next()
            return
        listed = {(t.trade_id, t.side) for t in known.trades}
        known.trades += [t for t in inspection.trades if (t.trade_id, t.side) not in listed]

    # --- asking

    def _next(self) -> None:
        while self._queue and self._asked < AT_ONCE:
            inspection = self._queue.popleft()
            if not inspection.done:
                self._ask(inspection)

    def _ask(self, inspection: Inspection) -> None:
        inspection.asked = True
        self._asked += 1
        order = self.orders.get(inspection.order_id)
        known_as = ""
        if order is not None and order.venue_order_id == inspection.venue_order_id:
            known_as = order.venue_client_id

        def done(found: Found | None) -> None:
            self.kernel.run(self._answered, inspection, found)

        self.venues[inspection.wallet].find(inspection.pair, inspection.venue_order_id, known_as, done)

    def _answered(self, inspection: Inspection, found: Found | None) -> None:
        if inspection.done:
            return
        if found is None:
            self.kernel.clock.call_in(self.AGAIN_NS, self.kernel.run, self._again, inspection)
            return
        order = found.order
        known = self._known(inspection, order)
        if order is None:
            self._nowhere(inspection, known)
        elif known is not None:
            self._repair(inspection, known, found)
        elif self.orders.ids.order_of(order.client_id) is None:
            self._foreign(inspection, order)
        elif self._look_in_archive(inspection, order, found):
            return
        self._done(inspection)

    def _again(self, inspection: Inspection) -> None:
        if not inspection.done:
            self._asked -= 1
            self._ask(inspection)

    def _done(self, inspection: Inspection) -> None:
        self._forget(inspection)
        self._next()
        self.over(inspection.wallet)

    def _forget(self, inspection: Inspection) -> None:
        inspection.done = True
        self._asked -= inspection.asked
        del self._inspections[inspection.key]
        self._counts[inspection.wallet, inspection.pair] -= 1

    def _known(self, inspection: Inspection, order: VenueOrder | None) -> Order | None:
        known = self.orders.get(inspection.order_id)
        if known is None and order is not None:
            known = self.orders.of_venue_client_id(order.client_id) or self._of_lost_attempt(order)
        return known

    def _of_lost_attempt(self, theirs: VenueOrder) -> Order | None:
        """The order that a later attempt stands there of than is known here: the commit that told of it was lost. Which
        process had sent it is not known then."""
        order = self.orders.open.get(self.orders.ids.order_of(theirs.client_id) or "")
        if order is None:
            return None
        # What was made before ours is the order of a lost process, with a number that was given once more.
        since = order.created_ns <= theirs.created_ns + CLOCKS_NS
        same = order.pair == theirs.pair and order.side == theirs.side and since
        return order if same and self.orders.ids.attempt_of(theirs.client_id) > order.attempt else None

    # --- what it is

    def _nowhere(self, inspection: Inspection, known: Order | None) -> None:
        """The venue has listed it, or it was there before, and now it does not know it."""
        if known is not None and not known.ended:
            self.kernel.bus.publish(ReportMissing(known, "it is not in the venue's list of open orders"))
        elif inspection.trades:
            self._book_foreign(inspection, "")

    def _repair(self, inspection: Inspection, known: Order, found: Found) -> None:
        order = found.order
        assert order is not None
        filled, state, over = known.filled_lots, known.state, known.ended
        if not over:
            self._take_up(known, order)
        for report in found.reports:
            self.kernel.bus.publish(report)
        name, lot = known.order_id, known.lot
        if known.filled_lots > filled:
            here, there = f"filled {plain(filled * lot)}", f"filled {plain(known.filled_lots * lot)}"
            repair = "its fills were booked from the venue's trades"
            self.differs(inspection.wallet, Difference("missing_fill", name, here, there, repair))
        elif known.ended and not over:
            here, there = state.value.lower(), known.state.value.lower()
            self.differs(inspection.wallet, Difference("missing_order", name, here, there, "ended as the venue says"))
        if order.is_open and known.ended and order.venue_order_id == known.venue_order_id:
            self._contradict(inspection, known)
        else:
            self.contradicted.pop(inspection.key, None)

    def _take_up(self, known: Order, theirs: VenueOrder) -> None:
        """Go on with an attempt that was sent, and whose commit was lost: here it would be sent once more."""
        ids, now_ns = self.orders.ids, self.kernel.clock.now_ns()
        attempt, state = ids.attempt_of(theirs.client_id), advance(known.state, Step.SEND)
        if attempt <= known.attempt or state is None:
            return
        self.manager.triggers.disarm(known.order_id)
        instrument = self.manager.engine.instruments[known.exchange, known.pair]
        if known.amend_requested is not None:
            self.manager.settle_amend(known)
        if known.venue_order_id is not None:
            known.past_ids = (*known.past_ids[1 - PAST_IDS_MAX :], known.venue_order_id)
        known.attempt, known.venue_client_id, known.venue_order_id = attempt, theirs.client_id, None
        known.tags = ids.tagged(known.tags, theirs.client_id)
        known.sent_ns, known.waiting, known.state = None, False, state
        known.attempt_from = known.filled_lots
        known.attempt_until = known.filled_lots + instrument.qty_lots(theirs.quantity)
        known.qty_lots = max(known.qty_lots, known.attempt_until)
        known.listed = bool(theirs.list_id)
        if known.stop_ticks is not None and not known.listed:
            known.triggered_ns = known.triggered_ns or theirs.created_ns
        if theirs.price is not None and known.price_ticks is not None:
            known.price_ticks = instrument.price_ticks(theirs.price)  # amended in between
        elif theirs.price is not None and known.side == "buy":
            known.guard_ticks = instrument.price_ticks(theirs.price)
        if known.listed:
            self.manager.note_listed(known)
        self.orders.changed(known, "OrderSubmitted", now_ns)
        self._reserve(known, theirs.list_id)

    def _contradict(self, inspection: Inspection, known: Order) -> None:
        """It has ended here and is open there: a person has to look, and can cancel it as one of somebody else's."""
        here = f"{known.state.value.lower()} ({known.reason})"
        detail = f"{known.order_id} is open at {known.exchange}, and here it is {here}"
        if inspection.key not in self.contradicted:
            told = Contradiction(known.order_id, known.exchange, detail)
            self.kernel.outbox.event("health", "VenueContradiction", told)
        self.contradicted[inspection.key] = detail
        repair = "none: cancel it with DELETE /api/orders/external"
        difference = Difference("contradiction", known.order_id, here, "open", repair, settled=False)
        self.differs(inspection.wallet, difference)

    def _foreign(self, inspection: Inspection, order: VenueOrder) -> None:
        self._book_foreign(inspection, order.client_id)

    def _book_foreign(self, inspection: Inspection, client_id: str) -> None:
        wallet, pair = inspection.wallet, inspection.pair
        for trade in inspection.trades:
            if self.marks.booked(wallet, pair, str(trade.trade_id), trade.side):
                continue  # its report came meanwhile
            filled = ForeignFilled(
                venue=wallet,
                pair=pair,
                client_id=client_id,
                trade_id=str(trade.trade_id),
                side=trade.side,
                price_ticks=trade.price_ticks,
                qty_lots=trade.qty_lots,
                fee=trade.fee,
                fee_currency=trade.fee_currency,
                timestamp_ns=trade.timestamp_ns,
            )
            self.kernel.bus.publish(filled)
            there = f"{trade.side} of {trade.qty_lots} lots, of somebody else's order {client_id}".rstrip()
            difference = Difference(
                "missing_fill", f"{pair} trade {trade.trade_id}", "not known", there, "booked as somebody else's"
            )
            self.differs(wallet, difference)

    # --- adopting

    def _look_in_archive(self, inspection: Inspection, order: VenueOrder, found: Found) -> bool:
        """Whether it is one of ours that nobody knows, and may have left for the archive: that answers later."""
        if not order.is_open and not any(type(report) is VenueFilled for report in found.reports):
            return False  # it never traded and is over: there is nothing to account for

        def read(trade_ids: frozenset[str]) -> None:
            self.kernel.run(self._adopt_unless, inspection, found, trade_ids)

        self.archived(order.client_id, read)
        return True

    def _adopt_unless(self, inspection: Inspection, found: Found, archived: frozenset[str]) -> None:
        order = found.order
        if inspection.done or order is None:
            return
        known = self._known(inspection, order)
        fills = [report for report in found.reports if type(report) is VenueFilled]
        if known is not None:
            self._repair(inspection, known, found)
        elif archived.isdisjoint(fill.trade_id for fill in fills):
            self._adopt(inspection, order, found.reports)
        else:  # what it traded after it had left is money that moved; its other fills are in the ledger
            inspection.trades = [trade for trade in inspection.trades if str(trade.trade_id) not in archived]
            self._book_foreign(inspection, order.client_id)
        self._done(inspection)

    def _adopt(self, inspection: Inspection, theirs: VenueOrder, reports: Sequence[object]) -> None:
        instrument = self.manager.engine.instruments[inspection.wallet, inspection.pair]
        order = self._order(inspection.wallet, theirs, instrument)
        if isinstance(order, str):
            self._book_foreign(inspection, theirs.client_id)
            detail = f"{theirs.type} {theirs.side} of {plain(theirs.quantity)}"
            difference = Difference(
                "missing_order", theirs.client_id, "not known", detail, f"cannot be adopted: {order}", settled=False
            )
            self.differs(inspection.wallet, difference)
            return
        self.orders.add(order, "OrderAdopted")
        for report in reports:
            if type(report) is not VenueFilled:
                self.kernel.bus.publish(report)
                continue
            covered = self.marks.covers(order.wallet, order.pair, report.trade_id, report.side)
            new = not self.orders.has_trade(order.order_id, report.trade_id)
            self.kernel.bus.publish(report)
            if covered and new and self.orders.has_trade(order.order_id, report.trade_id):
                self.counted(order.wallet, report)
        there = f"{order.side} {plain(theirs.quantity)} {order.pair}, filled {plain(theirs.filled)}"
        repair = f"adopted as {order.order_id}"
        self.differs(inspection.wallet, Difference("adopted", theirs.client_id, "not known", there, repair))
        if not order.ended:
            self._reserve(order, theirs.list_id)
            # A report that came before it was known here was not heard.
            self.kernel.bus.publish(ReportMissing(order, "it was adopted just now"))

    def _order(self, wallet: str, theirs: VenueOrder, instrument: Instrument) -> Order | str:
        """As it is on record from now on, before anything happened to it; or why it cannot be one of ours."""
        kind = ADOPTABLE.get(theirs.type)
        if kind is None or (theirs.price is None and theirs.side == "buy"):
            return f"this service sends no {theirs.side} of the type {theirs.type}"
        try:
            lots = instrument.qty_lots(theirs.quantity)
            price = None if theirs.price is None else instrument.price_ticks(theirs.price)
            stop = None if theirs.stop_price is None else instrument.price_ticks(theirs.stop_price)
        except OffGrid as error:
            return str(error)
        now_ns, ids = self.kernel.clock.now_ns(), self.orders.ids
        return Order(
            order_id=ids.order(now_ns),
            client_order_id=theirs.client_id,
            adopted_as=theirs.client_id,
            tags=ids.tagged(()),  # else a lost order with the number that this one gets would be taken for it
            exchange=instrument.exchange,
            pair=instrument.pair,
            wallet=wallet,
            side=theirs.side,
            type=kind,
            tick=instrument.tick,
            lot=instrument.lot,
            quote=instrument.quote,
            base=instrument.base,
            submit_ns=min(theirs.created_ns, now_ns),
            created_ns=now_ns,
            updated_ns=now_ns,
            warnings=("it was found at the exchange, and nothing here knew of it: it was adopted",),
            qty_lots=lots,
            price_ticks=price,
            stop_ticks=stop,
            tif=theirs.tif,
            post_only=theirs.post_only,
            state=State.SENT,
            venue_client_id=theirs.client_id,
            attempt=1,
            attempt_until=lots,
        )

    def _reserve(self, order: Order, list_id: str) -> None:
        """As much as its venue locks; for orders of which one cancels the others once, on the first of them."""
        if list_id and self.orders.get(self._lists.setdefault((order.wallet, list_id), order.order_id)) is not order:
            return
        self._short.add(order.order_id)
        self.fund()

    def fund(self) -> None:
        """Set aside what adopted orders need, as far as it is there."""
        for order_id in list(self._short):
            order = self.orders.open.get(order_id)
            missing = self.manager.reservation_now(order) - order.reserved if order is not None else ZERO
            if order is None or missing <= 0:
                self._short.discard(order_id)
                continue
            there = self.manager.ledger.available(order.wallet, order.quote if order.side == "buy" else order.base)
            part = min(missing, max(Decimal(0), there))
            if part:
                self.manager.reserve(order, part)
                self.kernel.outbox.put("orders", order.order_id, order)
