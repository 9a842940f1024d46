"""Exits that wait at the venue: as a pair of which one cancels the other, so that they sell even while nobody is here.

Theory of operation. When an entry has ended and its exits cover all of it, both leave together and reserve its coins
once, on one of them; from then on no trigger here looks at them. Each keeps its own record and client id, and the venue
reports on each:

    one trades          the reservation is its own from then on; a rest that the venue did not sell goes on here, at the
                        market, as after a trigger here
    one is off the      it is HELD again and waits without a trigger for what becomes of the other: that one sells all
    book, nothing sold  and this ends, or it comes back too, and then both are armed here again
    one was cancelled   both end: the venue cancels the other, and nothing protects the coins any more

Always true here: an exit of a pair sells here only when the other one is proven to be off the venue's book; while the
venue may have the pair, its coins are reserved once; whoever needs those coins takes the pair back first (`recall`).
"""

from collections.abc import Callable, Iterable
from decimal import Decimal
from typing import Final

from ..execution.filters import Terms
from ..kernel.clock import SECOND_NS, Timer
from ..model.exact import ZERO, plain
from ..model.messages import ExitReturned, ReportMissing, TriggerReached
from ..model.records import Order, State
from .lifecycle import Step, advance
from .manager import OrderManager
from .triggers import reached

LOOK_NS: Final = 1 * SECOND_NS  # between looks at exits that could not leave yet, and at pairs that are called back
RECALL_MAX_NS: Final = 5 * SECOND_NS  # whoever waits for a pair to come back goes on without it
OTHER_MAX_NS: Final = 2 * SECOND_NS  # after one has sold all, until the venue is asked about the other
ATTEMPTS_MAX: Final = 3  # a pair that is lost on its way at this attempt, or at a later one, stays here


def sibling(manager: OrderManager, exit_order: Order) -> Order | None:
    """The other exit of its entry; None where there is none, or it has left for the archive."""
    entry = manager.orders.get(exit_order.parent_id or "")
    if entry is None:
        return None
    stop = entry.stop_loss_id
    return manager.orders.get((entry.take_profit_id if stop == exit_order.order_id else stop) or "")


def sells_at_venue(manager: OrderManager, exit_order: Order) -> None:
    """Its first fill has come, before that is booked: the venue has triggered it, and the coins are its own."""
    exit_order.triggered_ns = manager.clock.now_ns()
    other = sibling(manager, exit_order)
    if other is not None:
        _hand_over(manager, other, exit_order)
    manager.orders.changed(exit_order, "OrderTriggered", exit_order.triggered_ns)


def _hand_over(manager: OrderManager, from_order: Order, to_order: Order) -> None:
    """The reservation of a pair: the ledger's sum stays as it is."""
    if from_order.reserved:
        to_order.reserved, from_order.reserved = to_order.reserved + from_order.reserved, ZERO
        for order in (from_order, to_order):
            manager.outbox.put("orders", order.order_id, order)


class NativeExits:
    """Sends pairs of exits to venues that take them, and takes them back. Part of `Brackets`, whose word on sizes it
    asks for with `arm`: both exits of an entry are here again."""

    def __init__(self, manager: OrderManager, arm: Callable[[Order, list[Order]], None]) -> None:
        self.manager = manager
        self.orders = manager.orders
        self.engine = manager.engine
        self.clock = manager.clock
        self.arm = arm
        self._wanted: dict[str, None] = {}  # entries whose exits could not leave yet
        self._listed: dict[str, dict[str, Order]] = {}  # exits at a venue by wallet; those that came back go at a look
        self._waiting: list[_Recall] = []
        self._timer: Timer | None = None
        manager.recall, manager.note_listed = self.recall, self.note_listed
        manager.checks.set_aside = self.words

    def start(self) -> None:
        for order in self.orders.open.values():
            if order.listed:
                self._listed.setdefault(order.wallet, {})[order.order_id] = order
            elif order.role == "stop_loss" and order.state is State.HELD and order.parent_id is not None:
                entry = self.orders.get(order.parent_id)
                if entry is not None and entry.ended:
                    self._want(entry)
        self._look_soon()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    # --- what is at venues

    def listed(self, wallet: str, pair: str | None = None) -> list[Order]:
        """Exits of a wallet that a venue may have."""
        known = self._listed.get(wallet)
        if not known:
            return []
        for order_id in [i for i, order in known.items() if not order.listed or order.ended]:
            del known[order_id]
        return [order for order in known.values() if pair is None or order.pair == pair]

    def locked(self, wallet: str, base: str) -> Decimal:
        """Coins that pairs at the venue have set aside."""
        return sum((order.reserved for order in self.listed(wallet) if order.base == base), ZERO)

    def note_listed(self, order: Order) -> None:
        """A venue has this exit, which nobody here knew."""
        self._listed.setdefault(order.wallet, {})[order.order_id] = order

    def words(self, wallet: str, currency: str) -> str:
        """For a sale that is refused: why some coins are not available."""
        locked = self.locked(wallet, currency)
        if not locked:
            return ""
        return f"; {plain(locked)} {currency} are held by exits at the venue: close the position, or cancel its exits"

    # --- leaving

    def offer(self, entry: Order) -> None:
        """Hand the entry's exits to its venue, now or when that can be."""
        exits = self._pair(entry)
        if exits is None:
            self._wanted.pop(entry.order_id, None)
        elif self._not_now(entry, *exits):
            self._want(entry)
        else:
            self._wanted.pop(entry.order_id, None)
            self._send(entry, *exits)

    def _want(self, entry: Order) -> None:
        self._wanted[entry.order_id] = None
        self._look_soon()

    def _pair(self, entry: Order) -> tuple[Order, Order] | None:
        """Stop and target where they may ever wait at the venue."""
        stop, target = self.orders.get(entry.stop_loss_id or ""), self.orders.get(entry.take_profit_id or "")
        if stop is None or target is None or not entry.ended or not entry.filled_lots:
            return None
        for leg in (stop, target):
            here = leg.state is State.HELD and leg.triggered_ns is None
            if not here or leg.held_here or leg.trigger != "last" or leg.price_ticks is not None:
                return None
        venue = self.engine.venues.get(entry.wallet)
        able = venue is not None and venue.capabilities.linked_orders
        return (stop, target) if able and self._terms(entry).instrument.linked_exits else None

    def _terms(self, order: Order) -> Terms:
        return self.engine.terms[order.exchange, order.pair]

    def _not_now(self, entry: Order, stop: Order, target: Order) -> bool:
        """Whether something keeps the pair here that may pass: the connection, room at the venue, a sale under way, a
        quantity or a value that the venue would refuse."""
        if self.engine.unavailable(entry.wallet) or not self.manager.kernel.store_up:
            return True
        lots, instrument = stop.qty_lots, self._terms(entry).instrument
        armed = self.manager.triggers.armed
        if target.qty_lots != lots or not armed(stop.order_id) or not armed(target.order_id):
            return True
        if self.manager.ledger.available(entry.wallet, entry.base) < lots * entry.lot:
            return True
        if instrument.market_lots(lots) != lots:
            return True
        least, most = self._terms(entry).market_cost
        low, high = stop.stop_ticks or 0, target.stop_ticks or 0
        if not least <= low * lots <= high * lots <= most:
            return True
        last = self.engine.market.last(entry.exchange, entry.pair)
        if last is not None and not low < last < high:
            return True
        return self._full(entry)

    def _full(self, entry: Order) -> bool:
        """Whether the venue takes no other pair now, as far as ours go."""
        instrument = self._terms(entry).instrument
        listed = len(self.listed(entry.wallet, entry.pair))
        opened = self.orders.open_count(entry.wallet, entry.pair)
        return (
            listed + 2 > instrument.max_stop_orders > 0
            or listed // 2 + 1 > instrument.max_order_lists > 0
            or opened + 2 > instrument.max_open_orders > 0
        )

    def _send(self, entry: Order, stop: Order, target: Order) -> None:
        now_ns, manager = self.clock.now_ns(), self.manager
        manager.reserve(stop, stop.left_lots * stop.lot)
        listed = self._listed.setdefault(entry.wallet, {})
        for leg in (stop, target):
            manager.triggers.disarm(leg.order_id)
            leg.state, leg.submit_ns, leg.reason = State.SENT, now_ns, None
            manager.stamp(leg, leg.left_lots)
            leg.listed = True
            listed[leg.order_id] = leg
            self.orders.changed(leg, "OrderSubmitted", now_ns)
        self.engine.place_exits(stop, target)

    # --- coming back

    def on_returned(self, message: ExitReturned) -> None:
        """An exit is off the venue's book with nothing sold: it is held here again."""
        leg, now_ns = message.order, self.clock.now_ns()
        state = advance(leg.state, Step.HOLD)
        if state is None:
            return
        if leg.cancel_requested is not None:  # it never was a pair: this one alone is cancelled
            self.manager.end(leg, Step.CANCEL, leg.cancel_requested, "CANCELLED", now_ns)
            return
        lost = leg.state is State.UNKNOWN
        leg.state, leg.listed, leg.recalled = state, False, None
        leg.held_here |= message.refused or (lost and leg.attempt >= ATTEMPTS_MAX)
        entry, other = self.orders.get(leg.parent_id or ""), sibling(self.manager, leg)
        assert entry is not None, "an entry is kept as long as its exits"
        if other is not None and not other.ended and other.state is not State.HELD:
            _hand_over(self.manager, leg, other)
            if other.triggered_ns is not None:
                leg.qty_lots = leg.filled_lots + other.left_lots
        else:
            self.manager.reserve(leg, -leg.reserved)
        leg.reason = message.reason
        self.orders.changed(leg, "OrderPending", now_ns)
        if other is None or other.ended:
            self.left_alone(entry, leg, other, now_ns)
        elif other.state is State.HELD:
            self._both_back(entry, leg, other)
        self.settle_recalls()

    def left_alone(self, entry: Order, leg: Order, other: Order | None, now_ns: int) -> None:
        """An exit is here again, and the other one has ended."""
        if other is not None and (other.state is State.FILLED or other.code == "NOTHING_TO_PROTECT"):
            reason = f"one cancels the other: {other.order_id} has ended"
            self.manager.end(leg, Step.CANCEL, reason, "CANCELLED", now_ns)
        else:
            if other is not None and other.triggered_ns is not None:  # taken back before it had sold all
                leg.qty_lots = leg.filled_lots + other.left_lots
            self.arm(entry, [leg])
            self._sell_if_reached(leg)

    def _both_back(self, entry: Order, leg: Order, other: Order) -> None:
        leg.held_here = other.held_here = leg.held_here or other.held_here
        self.arm(entry, [leg, other])
        self._want(entry)
        for order in (leg, other):
            self._sell_if_reached(order)

    def _sell_if_reached(self, leg: Order) -> None:
        """The market may have been there while nobody here looked."""
        last = self.engine.market.last(leg.exchange, leg.pair)
        if last is None or leg.stop_ticks is None or not self.manager.triggers.armed(leg.order_id):
            return
        if reached(leg.side, leg.type, last, leg.stop_ticks):
            self.manager.triggers.disarm(leg.order_id)
            self.manager.bus.publish(TriggerReached(leg.order_id, last, self.clock.now_ns()))

    # --- taking back

    def recall(self, exits: Iterable[Order], reason: str, then: Callable[[], None]) -> None:
        """Take pairs back from the venue, and call `then` when it is proven that they are not there any more, or have
        begun to sell; or after RECALL_MAX_NS, whatever is known then."""
        waits = _Recall({leg.order_id for leg in exits if leg.at_venue}, then)
        for leg in [self.orders.open[order_id] for order_id in sorted(waits.exits)]:
            other = sibling(self.manager, leg)
            for order in (leg, other):
                if order is not None and order.at_venue and order.recalled is None:
                    order.recalled = reason
                    waits.exits.add(order.order_id)
                    self.orders.changed(order, "OrderCancelRequested", self.clock.now_ns())
                    if order is leg:
                        self.engine.cancel(leg)  # the venue cancels the other with it
        if not waits.exits:
            then()
            return
        self._waiting.append(waits)
        self.clock.call_in(RECALL_MAX_NS, self.manager.kernel.run, self._give_up, waits)
        self._look_soon()

    def settle_recalls(self) -> None:
        """Look whom the last change lets go on."""
        is_open = self.orders.open
        for waits in list(self._waiting):
            if not any((leg := is_open.get(i)) is not None and leg.at_venue for i in waits.exits):
                self._give_up(waits)

    def _give_up(self, waits: "_Recall") -> None:
        if waits in self._waiting:
            self._waiting.remove(waits)
            waits.then()

    # --- one has sold, or was cancelled

    def expect_end(self, leg: Order) -> None:
        """The venue ends it by itself, as the other one has sold; if nothing is heard of that, it is asked."""
        self.clock.call_in(OTHER_MAX_NS, self.manager.kernel.run, self._ask_about, leg, leg.attempt)

    def _ask_about(self, leg: Order, attempt: int) -> None:
        if leg.at_venue and leg.attempt == attempt:
            self.manager.bus.publish(ReportMissing(leg, "the other exit has ended, and nothing is heard of this one"))

    def cover(self, leg: Order) -> None:
        """The other one has ended with the reservation of the pair; this one may still be at the venue."""
        need = leg.left_lots * leg.lot - leg.reserved
        there = self.manager.ledger.available(leg.wallet, leg.base)
        self.manager.reserve(leg, max(ZERO, min(need, there)))
        self.manager.outbox.put("orders", leg.order_id, leg)

    # --- time

    def _look_soon(self) -> None:
        if self._timer is None and (self._wanted or self._recalled()):
            self._timer = self.clock.call_in(LOOK_NS, self.manager.kernel.run, self._look)

    def _recalled(self) -> list[Order]:
        """Of each pair that is called back, the exit whose cancel takes both back."""
        found: dict[str | None, Order] = {}
        for wallet in self._listed:
            for leg in self.listed(wallet):
                if leg.recalled is not None and leg.at_venue:
                    found.setdefault(leg.parent_id, leg)
        return list(found.values())

    def _look(self) -> None:
        """Send what could not leave, and call back once more what has not come."""
        self._timer = None
        for leg in self._recalled():
            self.engine.cancel(leg)
        for entry_id in list(self._wanted):
            entry = self.orders.get(entry_id)
            if entry is None:
                del self._wanted[entry_id]
            else:
                self.offer(entry)
        self._look_soon()


class _Recall:
    """Who waits for which exits to be back."""

    def __init__(self, exits: set[str], then: Callable[[], None]) -> None:
        self.exits = exits
        self.then = then
