"""Linked orders: the exits of an entry, one cancels the other, sized to what was really bought.

Theory of operation. The exits of an entry exist from the start, pending and not armed. Each fill of the entry adds what
it brought in, net of fees taken in the base asset, to what they cover, and arms them. The first exit that the market
reaches disarms the other, takes back what is still open of the entry, and sells what it covers at the market, with new
attempts until all of it is sold or only dust is left; then the other is cancelled. Coins that another resting sale has
set aside are asked back first. When coins leave the wallet in another way the exits shrink with it. An entry that
fills after its exits have ended (a fill that overtook a cancel) gets new ones. Where the venue can watch both exits by
itself, they go there once the entry has ended: `native_exits.py` says how.

Always true here: within the commit of a fill its lots are covered (`protected` of the entry says how much); exits never
cover more than the wallet holds; one ends only when it has sold, was taken back, or nothing is left to sell.
"""

from collections.abc import Callable, Mapping

from ..kernel.actor import Actor
from ..kernel.bus import Handler
from ..kernel.clock import MS_NS, SECOND_NS
from ..kernel.kernel import Kernel
from ..model.exact import ZERO
from ..model.instruments import Instrument
from ..model.messages import ExitReturned, ExitUnsold, OrderEnded, OrderFilled, ReportMissing, TriggerReached
from ..model.records import Fill, Order, State, SubPosition, strategy_of
from .lifecycle import Step
from .manager import OrderManager
from .native_exits import NativeExits, sibling

NEXT_ATTEMPT_NS = 1 * SECOND_NS  # between the attempts of an exit that the book could not take whole
COINS_WAIT_NS = 100 * MS_NS  # until an exit looks again for coins that it has asked back from other sales


class Brackets(Actor):
    """Keeps exits true to their entries. Added to the kernel behind the portfolio: it reads balances after a fill."""

    def __init__(self, kernel: Kernel, manager: OrderManager) -> None:
        super().__init__(kernel)
        self.manager = manager
        self.orders = manager.orders
        self.triggers = manager.triggers
        self.ledger = manager.ledger
        self.native = NativeExits(manager, self._arm_again)
        # Whose the coins of a position are: (wallet, pair) -> by strategy; set by who keeps them.
        self.shares: Callable[[str, str], Mapping[str, SubPosition]] | None = None

    def handles(self) -> dict[type, Handler]:
        return {
            TriggerReached: self.on_trigger,
            ExitUnsold: self.on_unsold,
            ExitReturned: self.native.on_returned,
            OrderFilled: self.on_filled,
            OrderEnded: self.on_ended,
        }

    def start(self) -> None:
        """Arm again what was pending, and go on with exits that were under way."""
        for order in list(self.orders.open.values()):
            if order.waiting and order.triggered_ns is None and order.price_ticks is None:
                self.manager.expire_late(order)
                continue
            if order.waiting:
                self._soon(order, NEXT_ATTEMPT_NS)
            if order.state is not State.HELD or order.stop_ticks is None or order.waiting:
                continue
            if order.parent_id is None or (self._covers(order) and not self._other_is_selling(order)):
                self.triggers.arm(order)
        self.native.start()

    def stop(self) -> None:
        self.native.stop()

    # --- links

    def exits_of(self, entry: Order) -> list[Order]:
        """The exits of an entry that have not ended."""
        ids = (entry.stop_loss_id, entry.take_profit_id)
        return [order for i in ids if i is not None and (order := self.orders.open.get(i)) is not None]

    def _entry_of(self, exit_order: Order) -> Order | None:
        return self.orders.get(exit_order.parent_id) if exit_order.parent_id is not None else None

    def _other_is_selling(self, exit_order: Order) -> bool:
        entry = self._entry_of(exit_order)
        return entry is not None and any(
            o is not exit_order and (o.state is not State.HELD or o.waiting) for o in self.exits_of(entry)
        )

    def _covers(self, exit_order: Order) -> bool:
        entry = self._entry_of(exit_order)
        return entry is None or entry.filled_lots > 0

    def _instrument(self, order: Order) -> Instrument:
        return self.manager.engine.instruments[order.exchange, order.pair]

    def _in_wallet(self, order: Order) -> int:
        """Whole lots of the base that the wallet holds, reserved or not."""
        return max(0, self._instrument(order).floor_lots(self.ledger.total(order.wallet, order.base)))

    def _protect(self, entry: Order, lots: int) -> None:
        entry.protected = lots * entry.lot
        self.outbox.put("orders", entry.order_id, entry)
        self.orders.on_protection(entry)

    # --- the entry trades

    def on_filled(self, message: OrderFilled) -> None:
        order = message.order
        if order.stop_loss_id is not None or order.take_profit_id is not None:
            self._grow(order, message.fill)
        if order.side == "sell":
            self._follow(order)
            self._shrink_to_wallet(order)
            self.native.settle_recalls()

    def _grow(self, entry: Order, fill: Fill) -> None:
        """Cover what this fill brought in: fees in the base asset are not there to be sold."""
        floor = self._instrument(entry).floor_lots
        net = entry.filled_lots * entry.lot - entry.fees.get(entry.base, ZERO)
        before = net - fill.quantity + (fill.fee if fill.fee_currency == entry.base else ZERO)
        more = floor(net) - floor(before)
        exits = self.exits_of(entry)
        if not exits:
            self._renew(entry, min(more, self._in_wallet(entry)))
            return
        now_ns = self.clock.now_ns()
        lots = int(entry.protected / entry.lot) + more
        if any(leg.state is not State.HELD or leg.waiting for leg in exits):
            for leg in exits:  # the one that sells takes what came in late in its next attempt; the other follows it
                leg.qty_lots += more
                self.orders.changed(leg, "OrderSized", now_ns)
            if any(leg.at_venue for leg in exits):  # covered when they are here again, with all of it
                self.manager.recall(exits, f"{entry.order_id} was filled once more", _nothing)
            else:
                self._protect(entry, lots)
            return
        lots = min(lots, self._in_wallet(entry))
        if lots > 0:
            for leg in exits:
                leg.qty_lots = lots
                self.triggers.arm(leg)
                self.orders.changed(leg, "OrderSized", now_ns)
        self._protect(entry, lots)

    def _renew(self, entry: Order, lots: int) -> None:
        """The exits had ended before this fill came: new ones in their place."""
        if lots < self._instrument(entry).min_lots:
            return
        now_ns = self.clock.now_ns()
        for name in ("stop_loss_id", "take_profit_id"):
            old = self.orders.get(getattr(entry, name) or "")
            if old is not None:
                leg = self.manager.again(old, lots, now_ns)
                setattr(entry, name, leg.order_id)
                self.orders.add(leg)
                self.triggers.arm(leg)
        self._protect(entry, lots if self.exits_of(entry) else 0)

    # --- coins leave the wallet

    def _follow(self, sold: Order) -> None:
        """An exit has sold part: the other one and the entry's protection cover what is left."""
        entry = self._entry_of(sold)
        if entry is None or sold.left_lots <= 0:
            return
        self._protect(entry, sold.left_lots)
        for other in self.exits_of(entry):
            if other is not sold and other.state is State.HELD and other.qty_lots != sold.left_lots:
                other.qty_lots = sold.left_lots
                self.orders.changed(other, "OrderSized", self.clock.now_ns())

    def _shrink_to_wallet(self, sold: Order) -> None:
        """Shrink pending exits of this wallet and pair to the coins that are left, the newest first to go: those of a
        strategy to what is still its own, lest they sell somebody else's coins."""
        exits = [
            order
            for order in self.orders.open.values()
            if order.parent_id is not None
            and order.state is State.HELD
            and order.wallet == sold.wallet
            and order.pair == sold.pair
            and order.parent_id != sold.parent_id
            and self._covers(order)
        ]
        if not exits:
            return
        there, own = self._uncovered(sold)
        now_ns = self.clock.now_ns()
        covered: dict[str, int] = {}  # by entry: its two exits cover the same lots
        for leg in exits:
            assert leg.parent_id is not None
            if leg.parent_id not in covered:
                name = strategy_of(leg)
                name = name if name in own else ""
                lots = covered[leg.parent_id] = max(0, min(leg.qty_lots, there, own[name]))
                there, own[name] = there - lots, own[name] - lots
            self._shrink(leg, covered[leg.parent_id], now_ns)

    def _uncovered(self, sold: Order) -> tuple[int, dict[str, int]]:
        """Lots that the wallet holds, and how many of them are each strategy's ("": nobody's, deposited ones too), less
        what exits at the venue have set aside and what is left of the sale."""
        floor = self._instrument(sold).floor_lots
        there = self._in_wallet(sold)
        own = {"": there}
        if self.shares is not None:
            for name, share in self.shares(sold.wallet, sold.pair).items():
                if name:
                    own[name] = floor(share.quantity)
                    own[""] -= own[name]
        taken = [
            (strategy_of(order), int(order.reserved / order.lot))
            for order in self.native.listed(sold.wallet, sold.pair)
        ]
        if sold.parent_id is not None and not sold.ended:
            taken.append((strategy_of(sold), sold.left_lots))
        for name, lots in taken:
            there -= lots
            own[name if name in own else ""] -= lots
        return there, own

    def _shrink(self, leg: Order, lots: int, now_ns: int) -> None:
        if lots >= leg.qty_lots:
            return
        entry = self._entry_of(leg)
        if entry is not None and entry.protected > lots * leg.lot:
            self._protect(entry, lots)
        if lots == 0:
            self.manager.end(leg, Step.CANCEL, "what it protected was sold", "NOTHING_TO_PROTECT", now_ns)
        else:
            leg.qty_lots = lots
            self.orders.changed(leg, "OrderSized", now_ns)

    # --- the market reaches an exit, or any held order

    def on_trigger(self, message: TriggerReached) -> None:
        order = self.orders.open.get(message.order_id)
        if order is None or order.state is not State.HELD or order.waiting:
            return
        now_ns = self.clock.now_ns()
        order.triggered_ns = now_ns
        entry = self._entry_of(order)
        if entry is not None:
            for other in self.exits_of(entry):
                self.triggers.disarm(other.order_id)
            if not entry.ended and entry.cancel_requested is None:
                self.manager.request_cancel(entry, f"its exit {order.order_id} was reached")
        self.orders.changed(order, "OrderTriggered", now_ns)
        self._sell(order, now_ns)

    def _sell(self, order: Order, now_ns: int) -> None:
        """Send it: a sale for what the wallet holds, at most for what it covers."""
        other = sibling(self.manager, order)
        if other is not None and other.at_venue:  # it may be what sells: that it is off the book there is not proven
            self.bus.publish(ReportMissing(other, f"{order.order_id} has more to sell"))
            order.waiting = True
            self.outbox.put("orders", order.order_id, order)
            self._soon(order, NEXT_ATTEMPT_NS)
            return
        if order.side == "sell":
            there = self._in_wallet(order)
            if there < order.left_lots:
                order.qty_lots = order.filled_lots + there
                self._follow(order)
            if order.left_lots < self._instrument(order).min_lots or not self.manager.sendable(order):
                self._dust(order, now_ns)
                return
            free = self.ledger.available(order.wallet, order.base) + order.reserved
            if free < order.left_lots * order.lot:
                self._ask_back(order)
                return
        self.manager.send(order, now_ns)

    def _ask_back(self, order: Order) -> None:
        """Other sales have set the coins aside. A reached exit comes before a sale that rests: take those back."""
        for other in list(self.orders.open.values()):
            if (
                other.wallet == order.wallet
                and other.pair == order.pair
                and other.side == "sell"
                and other.reserved
                and not other.market_exit
                and not other.listed
                and other.cancel_requested is None
            ):
                self.manager.request_cancel(other, f"{order.order_id} needs its coins")
        listed = self.native.listed(order.wallet, order.pair)
        if listed:
            self.manager.recall(listed, f"{order.order_id} needs their coins", _nothing)
        order.waiting = True
        if order.reserved:  # of an attempt that is over: other exits that lack coins must not wait for these
            self.manager.reserve(order, -order.reserved)
        self.outbox.put("orders", order.order_id, order)
        self._soon(order, COINS_WAIT_NS)

    def on_unsold(self, message: ExitUnsold) -> None:
        """An attempt of a triggered exit is over and something is left: try again, for as long as it takes."""
        self.outbox.put("orders", message.order.order_id, message.order)
        self._soon(message.order, NEXT_ATTEMPT_NS)

    def _soon(self, order: Order, delay_ns: int) -> None:
        self.clock.call_in(delay_ns, self.kernel.run, self._again, order, order.attempt)

    def _again(self, order: Order, attempt: int) -> None:
        if order.ended or not order.waiting or order.attempt != attempt:
            return
        if self.triggers.not_yet(order.order_id):
            self._soon(order, NEXT_ATTEMPT_NS)
        elif order.triggered_ns is None:  # an entry between two tries, whose timer went with the process before
            self.manager.send(order, self.clock.now_ns())
        else:
            self._sell(order, self.clock.now_ns())

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
            self.native.offer(entry)
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
            self._protect(entry, 0)
        now_ns = self.clock.now_ns()
        for other in others:
            if other.at_venue:
                if sold_out:
                    self.native.expect_end(other)
                else:
                    self.native.cover(other)
            elif sold_out:
                self.manager.request_cancel(other, f"one cancels the other: {order.order_id} has ended")
            elif other.state is State.HELD and order.triggered_ns is not None:
                self._guard_again(entry, other, order.left_lots, now_ns)
            elif order.listed and other.state is State.HELD and other.triggered_ns is None:
                self.native.left_alone(entry, other, order, now_ns)  # it had come back and waited for this one
        self.native.settle_recalls()

    def _arm_again(self, entry: Order, legs: list[Order]) -> None:
        """Exits that were at the venue wait here again, for what they still cover and the wallet holds."""
        now_ns = self.clock.now_ns()
        there = self._in_wallet(entry) - int(self.native.locked(entry.wallet, entry.base) / entry.lot)
        lots = max(0, min(there, *(leg.left_lots for leg in legs)))
        self._protect(entry, lots)
        for leg in legs:
            if not lots:
                self._dust(leg, now_ns)
            elif not leg.ended:
                leg.qty_lots = leg.filled_lots + lots
                self.triggers.arm(leg)
                self.orders.changed(leg, "OrderSized", now_ns)

    def _guard_again(self, entry: Order, leg: Order, lots: int, now_ns: int) -> None:
        """The other exit was reached but taken back before it could sell all: this one covers the rest."""
        lots = min(lots, self._in_wallet(leg))
        self._protect(entry, lots)
        if lots <= 0:
            self._dust(leg, now_ns)
            return
        leg.qty_lots = lots
        self.triggers.arm(leg)
        self.orders.changed(leg, "OrderSized", now_ns)


def _nothing() -> None:
    """Nobody waits for the exits: they go on by themselves."""
