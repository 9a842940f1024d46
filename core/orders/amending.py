"""Amending: new values for an order that is pending here or open at its venue.

Always true here: an amendment is checked as a new order would be; what it may cost more is set aside before the venue
hears of it, and what it does not need is freed when the venue has answered (`OrderManager.settle_amend`).
"""

from collections.abc import Callable
from decimal import Decimal

import msgspec

from ..kernel.actor import Actor
from ..kernel.bus import Handler
from ..kernel.kernel import Kernel
from ..model.exact import plain
from ..model.instruments import Instrument, OffGrid
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

    def amend(self, request: AmendOrder) -> None:
        order = self.manager.open_order(request.order_id)
        if isinstance(order, Refusal):
            request.reply(order)
            return
        change = self._amendment(order, request)
        if isinstance(change, Refusal):
            request.reply(change)
        elif order.state is State.HELD:
            refused = self._held_refusal(order, change)
            if refused is not None:
                request.reply(refused)
            else:
                self._amend_held(order, request, change)
        else:
            self._amend_live(order, request, change)

    def _amendment(self, order: Order, request: AmendOrder) -> "_Change | Refusal":
        """The new values on the instrument's grid, or what is wrong with them."""
        instrument = self.engine.instruments[order.exchange, order.pair]
        errors: list[dict[str, str]] = []

        def convert(field: str, value: Decimal | None, by: Callable[[Decimal], int]) -> int | None:
            if value is None:
                return None
            try:
                return by(value)
            except OffGrid as error:
                code = "QUANTITY_STEP" if field == "quantity" else "PRICE_STEP"
                errors.append({"field": field, "code": code, "detail": str(error)})
                return None

        change = _Change(
            convert("quantity", request.quantity, instrument.qty_lots),
            convert("price", request.price, instrument.price_ticks),
            convert("stopPrice", request.stop_price, instrument.price_ticks),
        )
        self._check_amendment(order, change, instrument, errors)
        if errors:
            return Refusal(code=errors[0]["code"], detail=errors[0]["detail"], errors=tuple(errors))
        return change

    @staticmethod
    def _check_amendment(order: Order, change: "_Change", instrument: Instrument, errors: list[dict[str, str]]) -> None:
        def wrong(field: str, code: str, detail: str) -> None:
            errors.append({"field": field, "code": code, "detail": detail})

        lots = change.qty_lots
        if lots is not None and lots <= order.filled_lots:
            filled = plain(order.filled_lots * order.lot)
            wrong(
                "quantity", "QUANTITY_FILLED", f"{filled} is filled already; the quantity must be above it, or cancel"
            )
        elif lots is not None and not instrument.min_lots <= lots <= instrument.max_lots:
            least, most = instrument.quantity(instrument.min_lots), instrument.quantity(instrument.max_lots)
            wrong("quantity", "QUANTITY_RANGE", f"the quantity must be from {plain(least)} to {plain(most)}")
        if lots is not None and order.parent_id is not None:
            wrong("quantity", "EXIT_QUANTITY", "an exit's quantity follows the fills of its entry")
        if change.price_ticks is not None and order.price_ticks is None:
            wrong("price", "NO_PRICE", f"a {order.type} order without a limit price has none to amend")
        if change.stop_ticks is not None and (order.stop_ticks is None or order.state is not State.HELD):
            wrong("stopPrice", "NO_STOP_PRICE", "only a pending stop or target has a stop price to amend")
        price = change.price_ticks if change.price_ticks is not None else order.price_ticks
        rest = (lots if lots is not None else order.qty_lots) - order.filled_lots
        if price is not None and not errors and instrument.amount(price * rest) < instrument.min_notional:
            lower = plain(instrument.min_notional)
            wrong("quantity", "BELOW_MIN_NOTIONAL", f"the rest would be worth less than {lower} {order.quote}")

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
        if order.state not in (State.LIVE, State.PART) or order.amend_requested is not None or order.cancel_requested:
            detail = f"{order.order_id} has a request in flight; try again when the venue has answered"
            request.reply(Refusal(code="ORDER_IN_FLIGHT", detail=detail, status=409, retry_after_s=1))
            return
        instrument = self.engine.instruments[order.exchange, order.pair]
        amend = Amend(change.qty_lots, change.price_ticks)
        more = reservation(amended(order, amend), instrument) - order.reserved
        if more > 0:  # what it may cost more is set aside before the venue hears of it
            refused = self.manager.more_refusal(order, more)
            if refused is not None:
                request.reply(refused)
                return
            self.manager.reserve(order, more)
        order.amend_requested = amend
        self.manager.wait_for_venue(order, "amend", request.reply)
        self.orders.changed(order, "OrderAmendRequested", self.clock.now_ns())
        self.engine.amend(order)


class _Change(msgspec.Struct, frozen=True):
    """An amendment on the instrument's grid."""

    qty_lots: int | None
    price_ticks: int | None
    stop_ticks: int | None
