"""Amending: new values for an order that is pending here or open at its venue.

Always true here: an amendment is checked as a new order would be: against its venue's rules, its exits, the price
collar and, where it grows, the limits on size and risk. What it may cost more is set aside before the venue hears of
it, and what it does not need is freed when the venue has answered (`OrderManager.settle_amend`).
"""

from functools import partial

import msgspec

from ..execution.filters import Terms, Wrong
from ..kernel.actor import Actor
from ..kernel.bus import Handler
from ..kernel.kernel import Kernel
from ..model.exact import plain
from ..model.messages import AmendOrder, Refusal
from ..model.records import Amend, Order, State
from .manager import OrderManager, amended, reservation
from .triggers import reached, trigger_price


class Amending(Actor):
    """Takes AmendOrder."""

    def __init__(self, kernel: Kernel, manager: OrderManager) -> None:
        super().__init__(kernel)
        self.manager = manager
        self.orders = manager.orders
        self.engine = manager.engine
        self.triggers = manager.triggers

    def handles(self) -> dict[type, Handler]:
        return {AmendOrder: self.amend}

    def amend(self, request: AmendOrder, *, back: bool = False) -> None:
        """`back`: what its venue watched was asked back for this."""
        order = self.manager.open_order(request.order_id)
        if isinstance(order, Refusal):
            request.reply(order)
            return
        change = self._amendment(order, request)
        if isinstance(change, Refusal):
            request.reply(change)
            return
        risky = self._risk_refusal(order, change)
        if risky is not None:
            request.reply(risky)
        elif _waits(order):
            refused = self._held_refusal(order, change)
            if refused is not None:
                request.reply(refused)
            elif order.at_venue:
                self._amend_listed(order, request, back)
            else:
                self._amend_held(order, request, change)
        else:
            self._amend_live(order, request, change)

    def _amendment(self, order: Order, request: AmendOrder) -> "_Change | Refusal":
        """The new values on the instrument's grid, or what is wrong with them."""
        terms, wrong = self.engine.terms[order.exchange, order.pair], Wrong()
        change = _Change(
            None if request.quantity is None else terms.lots(request.quantity, wrong),
            None if request.price is None else terms.ticks("price", request.price, wrong),
            None if request.stop_price is None else terms.ticks("stopPrice", request.stop_price, wrong),
        )
        self._check_order(order, change, wrong)
        self._check_filters(order, change, terms, wrong)
        if not wrong:
            self._check_collar(order, change, terms, wrong)
            self._check_exits(order, change, wrong)
        return wrong.refusal() if wrong else change

    @staticmethod
    def _check_order(order: Order, change: "_Change", wrong: Wrong) -> None:
        """Whether an order of this kind has such a value to amend; figures that are wrong already are 0 here."""
        if change.qty_lots and change.qty_lots <= order.filled_lots:
            filled = plain(order.filled_lots * order.lot)
            detail = f"{filled} is filled already; the quantity must be above it, or cancel"
            wrong.add("quantity", "QUANTITY_FILLED", detail)
        if change.qty_lots is not None and order.parent_id is not None:
            wrong.add("quantity", "EXIT_QUANTITY", "an exit's quantity follows the fills of its entry")
        if change.price_ticks is not None and order.price_ticks is None:
            wrong.add("price", "NO_PRICE", f"a {order.type} order without a limit price has none to amend")
        if change.stop_ticks is not None and (order.stop_ticks is None or not _waits(order)):
            wrong.add("stopPrice", "NO_STOP_PRICE", "only a pending stop or target has a stop price to amend")

    def _check_filters(self, order: Order, change: "_Change", terms: Terms, wrong: Wrong) -> None:
        """The order as it would be, against what its venue takes."""
        price = order.price_ticks if change.price_ticks is None else change.price_ticks
        stop = order.stop_ticks if change.stop_ticks is None else change.stop_ticks
        lots = order.qty_lots if change.qty_lots is None else change.qty_lots
        held = _waits(order)
        field = "quantity" if change.qty_lots else "price" if change.price_ticks else "stopPrice"
        if price and terms.bands is not None and (change.price_ticks or (held and change.stop_ticks)):
            average = 2 * stop if held and stop else terms.feed.twice_average
            terms.check_band("price" if change.price_ticks else "stopPrice", price, order.side, average, wrong)
        if not held:
            self._check_in_place(order, Amend(change.qty_lots, change.price_ticks), terms, wrong)
        at_market = price is None and order.side == "sell"
        if at_market and change.qty_lots and order.parent_id is None:
            terms.check_market_lots("quantity", lots, wrong)
        more = lots if held else lots - order.qty_lots
        if change.qty_lots and order.side == "buy" and more > 0 and terms.max_position is not None:
            terms.check_position(more, self.manager.holding(order.wallet, order.pair), wrong)
        ticks = stop if price is None else price
        if ticks and lots and not wrong and order.parent_id is None:
            terms.check_cost(field, ticks, lots, wrong, filled=order.filled_lots, at_market=at_market)

    def _check_in_place(self, order: Order, amend: Amend, terms: Terms, wrong: Wrong) -> None:
        instrument, lots = terms.instrument, amend.qty_lots
        if not self.engine.amends_in_place(order, amend):  # the rest will be an order of its own
            least = order.filled_lots + terms.min_lots
            if lots and order.filled_lots < lots < least:
                detail = f"the rest is below the least quantity; the least quantity now is {plain(least * order.lot)}"
                wrong.add("quantity", "BELOW_MIN_QUANTITY", detail)
            return
        count = order.amends
        if count >= instrument.max_amends > 0:
            detail = (
                f"{order.order_id} was amended {count} times, which is all that {instrument.exchange} takes: "
                f"cancel it and place another one"
            )
            wrong.add("quantity" if lots is not None else "price", "TOO_MANY_AMENDS", detail)

    def _check_collar(self, order: Order, change: "_Change", terms: Terms, wrong: Wrong) -> None:
        """How far beyond the mid it would be priced; of a held order the mid is expected at its stop."""
        price = order.price_ticks if change.price_ticks is None else change.price_ticks
        if price is None or (change.price_ticks is None and change.stop_ticks is None):
            return
        (bid, ask), stop = terms.feed.top, change.stop_ticks or order.stop_ticks
        twice_mid = 2 * stop if stop is not None and _waits(order) else bid + ask if bid and ask else 0
        if not twice_mid:
            return
        mid, growing = twice_mid * terms.half_tick, order.side == "buy"
        detail = self.manager.checks.collar_refusal(price * terms.tick, mid, growing=growing)
        if detail is not None:
            wrong.add("stopPrice" if change.price_ticks is None else "price", "PRICE_COLLAR", detail)

    def _check_exits(self, order: Order, change: "_Change", wrong: Wrong) -> None:
        """An entry stays between its stop and its target: bought beyond one of them it would be sold again at once."""
        field = "stopPrice" if change.price_ticks is None else "price"
        ticks = (change.price_ticks or order.price_ticks) or change.stop_ticks
        if order.parent_id is not None or not ticks or (change.price_ticks is None and change.stop_ticks is None):
            return
        stop, target = (self.orders.open.get(leg or "") for leg in (order.stop_loss_id, order.take_profit_id))
        for leg, code, side in ((stop, "INVALID_STOP", "above"), (target, "INVALID_TAKE_PROFIT", "below")):
            if leg is None or leg.stop_ticks is None:
                continue
            if ticks <= leg.stop_ticks if leg is stop else ticks >= leg.stop_ticks:
                at = plain(leg.stop_ticks * leg.tick)
                wrong.add(field, code, f"a buy must stay {side} its exit {leg.order_id} at {at}: amend that one first")

    def _risk_refusal(self, order: Order, change: "_Change") -> Refusal | None:
        """Why an entry may not lose so much more at its stop; the same of an entry whose stop moves away."""
        if order.parent_id is not None and order.role == "stop_loss" and change.stop_ticks is not None:
            entry = self.orders.get(order.parent_id)
            refused = None
            if entry is not None and entry.stop_loss_id == order.order_id:
                refused = self.manager.checks.risk_refusal(entry, entry, change.stop_ticks)
        elif order.side == "buy" and order.stop_loss_id is not None:
            wanted = amended(order, Amend(change.qty_lots, change.price_ticks))
            wanted.stop_ticks = wanted.stop_ticks if change.stop_ticks is None else change.stop_ticks
            refused = self.manager.checks.risk_refusal(order, wanted)
        else:
            return None
        return None if refused is None else Refusal(code=refused[0], detail=refused[1])

    def _held_refusal(self, order: Order, change: "_Change") -> Refusal | None:
        """What a new order like this would be refused for."""
        stop = change.stop_ticks
        if stop is not None:
            price = trigger_price(self.engine.market, order.exchange, order.pair, order.side, order.trigger)
            if price is not None and reached(order.side, order.type, price, stop):
                detail = f"the market is at {plain(price * order.tick)} already: the order would not wait"
                error = {"field": "stopPrice", "code": "STOP_WOULD_TRIGGER", "detail": detail}
                return Refusal(code="STOP_WOULD_TRIGGER", detail=detail, errors=(error,))
        if change.qty_lots is None:
            return None
        wanted = amended(order, Amend(change.qty_lots, change.price_ticks))
        wanted.price_ticks = wanted.price_ticks or stop or order.stop_ticks
        return self.manager.more_refusal(
            order, reservation(wanted, self.engine.instruments[order.exchange, order.pair])
        )

    def _amend_listed(self, order: Order, request: AmendOrder, back: bool) -> None:
        """Its venue watches it: it comes back with the other exit first, and leaves again with its new price."""
        if back:
            detail = f"{order.exchange} has not given {order.order_id} back yet; try again when it has"
            request.reply(Refusal(code="ORDER_IN_FLIGHT", detail=detail, status=409, retry_after_s=1))
            return
        self.manager.recall([order], f"{order.order_id} is to be amended", partial(self.amend, request, back=True))

    def _amend_held(self, order: Order, request: AmendOrder, change: "_Change") -> None:
        if change.qty_lots is not None:
            order.qty_lots = change.qty_lots
        if change.price_ticks is not None:
            order.price_ticks = change.price_ticks
        if change.stop_ticks is not None:
            order.stop_ticks = change.stop_ticks
            if self.triggers.armed(order.order_id):
                self.triggers.arm(order)
        self.orders.changed(order, "OrderAmended", self.clock.now_ns())
        self.manager.answer(request.reply, order)

    def _amend_live(self, order: Order, request: AmendOrder, change: "_Change") -> None:
        going = order.state in (State.LIVE, State.PART) and not order.waiting
        if not going or order.amend_requested is not None or order.cancel_requested:
            detail = f"{order.order_id} has a request in flight; try again when the venue has answered"
            request.reply(Refusal(code="ORDER_IN_FLIGHT", detail=detail, status=409, retry_after_s=1))
            return
        away = self.engine.unavailable(order.wallet)
        if away:
            request.reply(self.engine.away_refusal(order.exchange, away))
            return
        instrument = self.engine.instruments[order.exchange, order.pair]
        amend = Amend(change.qty_lots, change.price_ticks)
        if not self.engine.amends_in_place(order, amend):
            amend = msgspec.structs.replace(amend, replace=True)
        wanted = amended(order, amend)
        more = reservation(wanted, instrument) - order.reserved
        grows = wanted.qty_lots > order.qty_lots or (wanted.price_ticks or 0) > (order.price_ticks or 0)
        refused = self.manager.more_refusal(order, more) if more > 0 else None
        if refused is None and grows:  # more of it for less, or less for more: nothing new where trading is limited
            refused = self.manager.limited(order)
        if refused is not None:
            request.reply(refused)
            return
        if more > 0:  # what it may cost more is set aside before the venue hears of it
            self.manager.reserve(order, more)
        order.amend_requested = amend
        self.manager.wait_for_venue(order, "amend", request.reply)
        self.orders.changed(order, "OrderAmendRequested", self.clock.now_ns())
        if amend.replace:
            self.engine.cancel(order)
        else:
            self.engine.amend(order)


class _Change(msgspec.Struct, frozen=True):
    """An amendment on the instrument's grid."""

    qty_lots: int | None
    price_ticks: int | None
    stop_ticks: int | None


def _waits(order: Order) -> bool:
    """Whether it waits for its price, here or at its venue."""
    return order.state is State.HELD or order.at_venue
