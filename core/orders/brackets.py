"""Linked orders: the exits of an entry, one cancels the other, sized to what was really bought.

Theory of operation. The exits of an entry exist from the start, pending and not armed. After each fill of the entry
they are sized to the filled quantity net of fees taken in the base asset, rounded down to lots, and armed. The first
exit that the market reaches disarms the other, sells what it covers at the market, and goes on with new attempts until
all of it is sold or only dust is left; then the other is cancelled. When the base was sold in another way the exits
shrink with it.

Always true here: within the commit of a fill the exits cover the entry's filled quantity (`protected` of the entry says
how much); an exit never sells more than the wallet holds.
"""

from ..kernel.actor import Actor
from ..kernel.bus import Handler
from ..kernel.clock import SECOND_NS
from ..kernel.kernel import Kernel
from ..model.exact import ZERO
from ..model.messages import ExitUnsold, OrderEnded, OrderFilled, TriggerReached
from ..model.records import Order, State
from .lifecycle import Step
from .manager import OrderManager

NEXT_ATTEMPT_NS = 1 * SECOND_NS  # between the attempts of an exit that the book could not take whole


class Brackets(Actor):
    """Keeps exits true to their entries. Added to the kernel behind the portfolio: it reads balances after a fill."""

    def __init__(self, kernel: Kernel, manager: OrderManager) -> None:
        super().__init__(kernel)
        self.manager = manager
        self.orders = manager.orders
        self.triggers = manager.triggers
        self.ledger = manager.ledger

    def handles(self) -> dict[type, Handler]:
        return {
            TriggerReached: self.on_trigger,
            ExitUnsold: self.on_unsold,
            OrderFilled: self.on_filled,
            OrderEnded: self.on_ended,
        }

    def start(self) -> None:
        """Arm again what was pending, and go on with exits that were under way."""
        for order in list(self.orders.open.values()):
            if order.state is not State.HELD or order.stop_ticks is None:
                continue
            if order.parent_id is None or (self._covers(order) and not self._other_is_selling(order)):
                self.triggers.arm(order)

    # --- links

    def exits_of(self, entry: Order) -> list[Order]:
        """The exits of an entry that have not ended."""
        ids = (entry.stop_loss_id, entry.take_profit_id)
        return [order for i in ids if i is not None and (order := self.orders.open.get(i)) is not None]

    def _entry_of(self, exit_order: Order) -> Order | None:
        return self.orders.get(exit_order.parent_id) if exit_order.parent_id is not None else None

    def _other_is_selling(self, exit_order: Order) -> bool:
        entry = self._entry_of(exit_order)
        return entry is not None and any(o.state is not State.HELD for o in self.exits_of(entry))

    def _covers(self, exit_order: Order) -> bool:
        entry = self._entry_of(exit_order)
        return entry is None or entry.filled_lots > 0

    # --- the entry trades

    def on_filled(self, message: OrderFilled) -> None:
        order = message.order
        if order.stop_loss_id is not None or order.take_profit_id is not None:
            self._size(order)
        if order.side == "sell":
            self._sold(order)

    def _net_lots(self, entry: Order) -> int:
        """What the entry really brought in: fees in the base asset are not there to be sold."""
        instrument = self.manager.engine.instruments[entry.exchange, entry.pair]
        return instrument.floor_lots(entry.filled_lots * entry.lot - entry.fees.get(entry.base, ZERO))

    def _size(self, entry: Order) -> None:
        lots = self._net_lots(entry)
        now_ns = self.clock.now_ns()
        exits = self.exits_of(entry)
        for leg in exits:
            if leg.state is State.HELD and lots > 0:
                leg.qty_lots = lots
                if not self._other_is_selling(leg):
                    self.triggers.arm(leg)
                self.orders.changed(leg, "OrderSized", now_ns)
            elif leg.state is not State.HELD and lots > leg.qty_lots:
                leg.qty_lots = lots  # it is selling; its next attempt takes what came in late
        entry.protected = lots * entry.lot if exits else ZERO
        self.outbox.put("orders", entry.order_id, entry)

    def _sold(self, sold: Order) -> None:
        """Base went out: shrink the other exits of this wallet and pair to what is left, the newest first to go."""
        exits = [
            order
            for order in self.orders.open.values()
            if order.parent_id is not None
            and order.state is State.HELD
            and order.wallet == sold.wallet
            and order.pair == sold.pair
            and order.parent_id != sold.parent_id
        ]
        if not exits:
            return
        instrument = self.manager.engine.instruments[sold.exchange, sold.pair]
        there = instrument.floor_lots(self.ledger.total(sold.wallet, sold.base))
        now_ns = self.clock.now_ns()
        claimed: dict[str, int] = {}  # by entry: its two exits cover the same lots
        for leg in exits:
            assert leg.parent_id is not None
            if leg.parent_id not in claimed:
                claimed[leg.parent_id] = min(leg.qty_lots, max(0, there)) if self._covers(leg) else 0
                there -= claimed[leg.parent_id]
            self._shrink(leg, claimed[leg.parent_id], now_ns)

    def _shrink(self, leg: Order, lots: int, now_ns: int) -> None:
        if not self._covers(leg) or lots >= leg.qty_lots:
            return
        entry = self._entry_of(leg)
        if entry is not None and entry.protected > lots * leg.lot:
            entry.protected = lots * leg.lot
            self.outbox.put("orders", entry.order_id, entry)
        if lots == 0:
            self.manager.end(leg, Step.CANCEL, "what it protected was sold", "NOTHING_TO_PROTECT", now_ns)
        else:
            leg.qty_lots = lots
            self.orders.changed(leg, "OrderSized", now_ns)

    # --- the market reaches an exit

    def on_trigger(self, message: TriggerReached) -> None:
        order = self.orders.open.get(message.order_id)
        if order is None or order.state is not State.HELD:
            return
        now_ns = self.clock.now_ns()
        order.triggered_ns = now_ns
        for other in self._siblings(order):
            self.triggers.disarm(other.order_id)
        self.orders.changed(order, "OrderTriggered", now_ns)
        self._sell(order, now_ns)

    def on_unsold(self, message: ExitUnsold) -> None:
        """An attempt of a triggered exit has ended and something is left: try again shortly, for as long as it
        takes."""
        self.clock.call_in(NEXT_ATTEMPT_NS, self.kernel.run, self._again, message.order)

    def _again(self, order: Order) -> None:
        if order.state in (State.SENT, State.PART) and order.cancel_requested is None:
            self._sell(order, self.clock.now_ns())

    def _siblings(self, order: Order) -> list[Order]:
        entry = self._entry_of(order)
        return [] if entry is None else [o for o in self.exits_of(entry) if o is not order]

    def _sell(self, order: Order, now_ns: int) -> None:
        """Send an exit for what the wallet holds, at most for what it covers."""
        if order.side == "sell":
            instrument = self.manager.engine.instruments[order.exchange, order.pair]
            there = instrument.floor_lots(self.ledger.available(order.wallet, order.base) + order.reserved)
            if there < order.left_lots:
                order.qty_lots = order.filled_lots + max(0, there)
            if order.left_lots < instrument.min_lots:
                self._dust(order, now_ns)
                return
        self.manager.send(order, now_ns)

    def _dust(self, order: Order, now_ns: int) -> None:
        """Nothing that the venue would take is left."""
        reason = "what is left is below the least quantity" if order.filled_lots else "nothing is left to sell"
        self.manager.end(order, Step.CANCEL, reason, "NOTHING_TO_PROTECT", now_ns)

    # --- an order ends

    def on_ended(self, message: OrderEnded) -> None:
        order = message.order
        if order.parent_id is not None:
            self._exit_ended(order)
        elif order.stop_loss_id is not None or order.take_profit_id is not None:
            self._entry_ended(order)

    def _entry_ended(self, entry: Order) -> None:
        if entry.filled_lots:
            return
        for leg in self.exits_of(entry):
            if leg.state is State.HELD:
                reason = f"its entry {entry.order_id} ended without a fill"
                self.manager.end(leg, Step.CANCEL, reason, "ENTRY_ENDED", self.clock.now_ns())

    def _exit_ended(self, order: Order) -> None:
        entry = self._entry_of(order)
        if entry is None:
            return
        others = self.exits_of(entry)
        sold_out = order.state is State.FILLED or order.code == "NOTHING_TO_PROTECT"
        if sold_out or not others:
            entry.protected = ZERO
            self.outbox.put("orders", entry.order_id, entry)
        now_ns = self.clock.now_ns()
        for other in others:
            if sold_out:
                self.manager.request_cancel(other, f"one cancels the other: {order.order_id} has ended")
            elif other.state is State.HELD and order.triggered_ns is not None:
                self._guard_again(other, self._net_lots(entry) - order.filled_lots, now_ns)

    def _guard_again(self, leg: Order, lots: int, now_ns: int) -> None:
        """The other exit was reached but taken back before it could sell all: this one covers the rest."""
        if lots <= 0:
            self._dust(leg, now_ns)
            return
        leg.qty_lots = min(leg.qty_lots, lots)
        self.triggers.arm(leg)
        self.orders.changed(leg, "OrderSized", now_ns)
