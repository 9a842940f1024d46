"""OrderManager: takes commands, makes orders of them, and sees each one through.

Always true here: a command is answered exactly once, after the commit that made its outcome durable; the same request
twice is one order; an intent is committed under a venue client id of its own before it can leave.
"""

import heapq
from collections.abc import Callable
from decimal import Decimal

import msgspec

from ..execution.engine import ExecutionEngine, Plan
from ..kernel.actor import Actor
from ..kernel.bus import Handler
from ..kernel.clock import MS_NS, Timer
from ..kernel.kernel import Kernel
from ..model.exact import ZERO, plain
from ..model.ids import Ids
from ..model.instruments import Instrument, OffGrid
from ..model.messages import (
    AmendOrder,
    CancelOrder,
    CancelOrders,
    PlaceAtVenue,
    Refusal,
    Reply,
    SubmitOrder,
    Submitted,
)
from ..model.records import Amend, Order, State, TimeInForce
from ..portfolio.ledger import Ledger
from ..risk.checks import Checks
from .lifecycle import Step, advance
from .registry import EVENT_OF_STATE, Orders
from .triggers import Triggers


class OrderSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of the order manager."""

    timeout_ns: int  # an order open longer is cancelled
    default_tif: TimeInForce


def reservation(order: Order, instrument: Instrument) -> Decimal:
    """What the rest of an order may cost: quote and its fee for a buy, base for a sell."""
    left = order.left_lots
    if left <= 0:
        return ZERO
    if order.side == "sell":
        return left * order.lot
    price = order.price_ticks if order.price_ticks is not None else order.guard_ticks
    assert price is not None, "a buy is reserved at its limit or guard price"
    cost = price * left * order.tick * order.lot
    return cost + cost * instrument.taker_fee if instrument.fee_in == "quote" else cost


class OrderManager(Actor):
    """Commands in, orders out. What venues say comes in through `reports.Reports`, links live in
    `brackets.Brackets`."""

    SWEEP_NS = 250 * MS_NS  # how often timeouts are looked at

    def __init__(
        self,
        kernel: Kernel,
        orders: Orders,
        engine: ExecutionEngine,
        checks: Checks,
        ledger: Ledger,
        triggers: Triggers,
        settings: OrderSettings,
    ) -> None:
        super().__init__(kernel)
        self.orders = orders
        self.ids: Ids = orders.ids
        self.engine = engine
        self.checks = checks
        self.ledger = ledger
        self.triggers = triggers
        self.settings = settings
        self.waiting: dict[str, list[Reply]] = {}  # answers that wait for the venue's word on a cancel or an amend
        self._deadlines: list[tuple[int, str]] = []
        self._sweeper: Timer | None = None

    def handles(self) -> dict[type, Handler]:
        return {
            SubmitOrder: self.submit,
            CancelOrder: self.cancel,
            CancelOrders: self.cancel_many,
            AmendOrder: self.amend,
        }

    def start(self) -> None:
        for order in self.orders.open.values():
            if order.expires_ns is not None:
                heapq.heappush(self._deadlines, (order.expires_ns, order.order_id))
        self._sweeper = self.clock.call_in(self.SWEEP_NS, self.kernel.run, self._sweep)

    def stop(self) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()

    def answer(self, reply: Reply, value: object) -> None:
        """Let the caller know once all that happened until now is committed."""
        self.outbox.effect(reply, value)

    # --- submit

    def submit(self, request: SubmitOrder) -> None:
        repeat = self._repeat(request)
        if repeat is not None:
            request.reply(repeat)
            return
        if not self.kernel.store_up:
            detail = f"orders cannot be made durable now: {self.kernel.store_why}"
            request.reply(Refusal(code="STORE_UNAVAILABLE", detail=detail, status=503, retry_after_s=1))
            return
        now_ns = self.clock.now_ns()
        plan = self.engine.plan(request, now_ns)
        if isinstance(plan, Refusal):
            request.reply(plan)
            return
        order = self._order_of(request, plan, now_ns)
        need = self._need(order, plan)
        order.risk, refused = self.checks.run(request, plan, need)
        if refused is not None:
            self._reject(order, refused, request.reply)
            return
        if plan.unfillable is not None:
            order.state, order.reason, order.code = State.EXPIRED, plan.unfillable, "FOK_UNFILLABLE"
            self.orders.add(order)
        else:
            self._open(order, plan, need)
        self.answer(request.reply, Submitted(order, False, plan.estimated_cost, plan.estimated_fees))

    def _repeat(self, request: SubmitOrder) -> Submitted | Refusal | None:
        """The answer to a request whose id was used before."""
        if request.client_order_id is None:
            return None
        order = self.orders.by_client_id(request.client_order_id)
        if order is None:
            return None
        name = request.client_order_id
        if order.fingerprint != request.fingerprint:
            detail = f"{name!r} was used for another order ({order.order_id}); use a new id for a new order"
            return Refusal(code="IDEMPOTENCY_MISMATCH", detail=detail)
        if not self.orders.committed(order):
            detail = f"the first request with {name!r} is still in progress"
            return Refusal(code="IDEMPOTENCY_IN_PROGRESS", detail=detail, status=409, retry_after_s=1)
        if order.state is State.REJECTED and order.risk is not None and not order.risk.passed:
            return Refusal(code=order.code or "REJECTED", detail=order.reason or "", order=order)
        return Submitted(order, True)

    def _order_of(self, request: SubmitOrder, plan: Plan, now_ns: int) -> Order:
        order_id = self.ids.order(now_ns)
        instrument = plan.instrument
        timeout_ns = self.settings.timeout_ns if request.timeout_ns is None else request.timeout_ns
        return Order(
            order_id=order_id,
            client_order_id=request.client_order_id or f"CLIENT_{order_id[4:]}",
            fingerprint=request.fingerprint,
            exchange=instrument.exchange,
            pair=instrument.pair,
            wallet=plan.wallet,
            side=request.side,
            type=request.type,
            role=request.role,
            tick=instrument.tick,
            lot=instrument.lot,
            quote=instrument.quote,
            base=instrument.base,
            submit_ns=now_ns,
            created_ns=now_ns,
            updated_ns=now_ns,
            signal_data=request.signal_data,
            signal_id=request.signal_id,
            warnings=plan.warnings,
            qty_lots=plan.qty_lots,
            price_ticks=plan.price_ticks,
            stop_ticks=plan.stop_ticks,
            guard_ticks=plan.guard_ticks,
            tif=request.tif or self.settings.default_tif,
            post_only=request.post_only,
            trigger=request.trigger,
            expires_ns=request.expires_ns,
            timeout_ns=timeout_ns,
            arrival_mid=plan.arrival_mid,
        )

    def _need(self, order: Order, plan: Plan) -> Decimal:
        """What the order will reserve; of a held one, what it would at its stop price (it reserves when it is sent)."""
        if order.side == "buy" and order.price_ticks is None and order.guard_ticks is None:
            return (plan.estimated_cost or ZERO) + (plan.estimated_fees or ZERO)
        return reservation(order, plan.instrument)

    def _reject(self, order: Order, code: str, reply: Reply) -> None:
        assert order.risk is not None
        failed = next(check for check in order.risk.checks if not check.passed)
        order.state, order.code = State.REJECTED, code
        order.reason = failed.detail or f"{failed.name}: {failed.actual} is over {failed.limit}"
        self.orders.add(order)
        self.answer(reply, Refusal(code=code, detail=order.reason, order=order))

    def _open(self, order: Order, plan: Plan, need: Decimal) -> None:
        if order.stop_ticks is not None:
            self.orders.add(order)
            self.triggers.arm(order)
            self._watch_deadline(order)
            return
        legs = self._legs(order, plan)
        order.reserved = need
        self.ledger.reserve(order.wallet, order.quote if order.side == "buy" else order.base, need)
        order.state = State.SENT
        self._stamp(order)
        self.orders.add(order)
        for leg in legs:
            self.orders.add(leg)
        self._place(order)

    def _legs(self, entry: Order, plan: Plan) -> list[Order]:
        """The exits of a bracket: pending from the start, armed and sized by the entry's fills."""
        legs = []
        for role, ticks in (("stop_loss", plan.exit_stop_ticks), ("take_profit", plan.exit_target_ticks)):
            if ticks is None:
                continue
            order_id = self.ids.order(entry.created_ns)
            leg = msgspec.structs.replace(
                entry,
                order_id=order_id,
                client_order_id=f"CLIENT_{order_id[4:]}",
                fingerprint="",
                side="sell" if entry.side == "buy" else "buy",
                type=role,
                role=role,
                stop_ticks=ticks,
                price_ticks=None,
                guard_ticks=None,
                tif="GTC",
                post_only=False,
                timeout_ns=0,
                expires_ns=None,
                parent_id=entry.order_id,
                warnings=(),
                risk=None,
                fees={},
                state=State.HELD,
                stop_loss_id=None,
                take_profit_id=None,
            )
            if role == "stop_loss":
                entry.stop_loss_id = order_id
            else:
                entry.take_profit_id = order_id
            legs.append(leg)
        return legs

    # --- sending

    def _stamp(self, order: Order) -> None:
        """Give the order's next attempt its venue client id."""
        order.attempt += 1
        order.venue_client_id = self.ids.venue_client_id(order.order_id, order.attempt)
        order.sent_ns = self.clock.now_ns()

    def _place(self, order: Order) -> None:
        market = order.price_ticks is None
        tif: TimeInForce = order.tif
        if market and tif != "FOK":
            tif = "IOC"
        message = PlaceAtVenue(
            client_id=order.venue_client_id,
            pair=order.pair,
            side=order.side,
            type="market" if market else "limit",
            qty_lots=order.left_lots,
            price_ticks=order.guard_ticks if market else order.price_ticks,
            tif=tif,
            post_only=order.post_only,
        )
        self.engine.place(order, message)

    def send(self, order: Order, now_ns: int) -> bool:
        """Send a held order, or the next attempt of one that was proven not taken; its funds are reserved here.

        Returns False, with the order rejected, where the funds are not there any more.
        """
        instrument = self.engine.instruments[order.exchange, order.pair]
        if order.side == "buy" and order.price_ticks is None and order.guard_ticks is None:
            order.guard_ticks = self._guard_price(order)
        need = reservation(order, instrument) - order.reserved
        currency = order.quote if order.side == "buy" else order.base
        if need > self.ledger.available(order.wallet, currency):
            there = plain(self.ledger.available(order.wallet, currency))
            self.end(
                order,
                Step.REJECT,
                f"needs {plain(need)} {currency}, available are {there}",
                "INSUFFICIENT_BALANCE",
                now_ns,
            )
            return False
        state = advance(order.state, Step.SEND)
        assert state is not None, f"{order.order_id} cannot be sent from {order.state}"
        first = order.state is State.HELD
        self.ledger.reserve(order.wallet, currency, need)
        order.reserved += need
        order.state = state
        if first:
            order.submit_ns = now_ns
        self._stamp(order)
        self.orders.changed(order, "OrderSubmitted", now_ns)
        self._place(order)
        return True

    def _guard_price(self, order: Order) -> int:
        """Of a triggered market buy: the slippage guard around the price as it is now."""
        quote = self.engine.market.quote(order.exchange, order.pair)
        at = quote[1] if quote is not None else order.stop_ticks
        assert at is not None, "a triggered order has a stop price"
        return max(at, int(at * (1 + self.engine.limits.max_slippage)))

    # --- ending

    def end(self, order: Order, step: Step, reason: str, code: str, now_ns: int) -> None:
        """End an order as the grid says and set its funds free; nothing where the grid refuses."""
        state = advance(order.state, step)
        if state is None:
            return
        order.state, order.reason, order.code = state, reason, code
        self.triggers.disarm(order.order_id)
        self._free(order)
        self.orders.changed(order, EVENT_OF_STATE[state], now_ns)
        self.answer_waiting(order)

    def _free(self, order: Order) -> None:
        if order.reserved:
            currency = order.quote if order.side == "buy" else order.base
            self.ledger.reserve(order.wallet, currency, -order.reserved)
            order.reserved = ZERO

    def answer_waiting(self, order: Order, value: object | None = None) -> None:
        """Answer the cancels and amends that waited for the venue's word."""
        for reply in self.waiting.pop(order.order_id, ()):
            self.answer(reply, order if value is None else value)

    # --- cancel

    def cancel(self, request: CancelOrder) -> None:
        order = self.orders.get(request.order_id)
        if order is None:
            request.reply(_unknown(request.order_id))
            return
        if order.ended:
            request.reply(_ended(order))
            return
        self.waiting.setdefault(order.order_id, []).append(request.reply)
        self.request_cancel(order, request.reason)

    def cancel_many(self, request: CancelOrders) -> None:
        chosen = [
            order
            for order in list(self.orders.open.values())
            if (request.pair is None or order.pair == request.pair)
            and (request.exchange is None or order.exchange == request.exchange)
        ]
        left = len(chosen)
        if not left:
            request.reply([])
            return

        def one_done(_: object) -> None:
            nonlocal left
            left -= 1
            if not left:
                request.reply(chosen)

        for order in chosen:
            if order.ended:  # cancelling its entry has ended this exit already
                self.answer(one_done, order)
                continue
            self.waiting.setdefault(order.order_id, []).append(one_done)
            self.request_cancel(order, request.reason)

    def request_cancel(self, order: Order, reason: str) -> None:
        """Cancel at once what is held here; ask the venue for the rest."""
        now_ns = self.clock.now_ns()
        if order.state is State.HELD:
            self.end(order, Step.CANCEL, reason, "CANCELLED", now_ns)
            return
        if order.cancel_requested is None:
            order.cancel_requested = reason
            self.orders.changed(order, "OrderCancelRequested", now_ns)
        self.engine.cancel(order)

    # --- amend

    def amend(self, request: AmendOrder) -> None:
        order = self.orders.get(request.order_id)
        if order is None:
            request.reply(_unknown(request.order_id))
            return
        if order.ended:
            request.reply(_ended(order))
            return
        change = self._amendment(order, request)
        if isinstance(change, Refusal):
            request.reply(change)
        elif order.state is State.HELD:
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
        self.answer(request.reply, order)

    def _amend_live(self, order: Order, request: AmendOrder, change: "_Change") -> None:
        if order.state not in (State.LIVE, State.PART) or order.amend_requested is not None or order.cancel_requested:
            detail = f"{order.order_id} has a request in flight; try again when the venue has answered"
            request.reply(Refusal(code="ORDER_IN_FLIGHT", detail=detail, status=409, retry_after_s=1))
            return
        instrument = self.engine.instruments[order.exchange, order.pair]
        wanted = msgspec.structs.replace(order)
        wanted.qty_lots = change.qty_lots or order.qty_lots
        wanted.price_ticks = change.price_ticks or order.price_ticks
        more = reservation(wanted, instrument) - order.reserved
        if more > 0:  # what it may cost more is set aside before the venue hears of it
            currency = order.quote if order.side == "buy" else order.base
            there = self.ledger.available(order.wallet, currency)
            if more > there:
                detail = f"needs {plain(more)} {currency} more, available are {plain(there)} {currency}"
                request.reply(Refusal(code="INSUFFICIENT_BALANCE", detail=detail))
                return
            self.ledger.reserve(order.wallet, currency, more)
            order.reserved += more
        order.amend_requested = Amend(change.qty_lots, change.price_ticks)
        self.waiting.setdefault(order.order_id, []).append(request.reply)
        self.orders.changed(order, "OrderAmendRequested", self.clock.now_ns())
        self.engine.amend(order)

    # --- time

    def accepted(self, order: Order, now_ns: int) -> None:
        """The venue has the order: its timeout begins."""
        if order.expires_ns is None and order.timeout_ns:
            order.expires_ns = now_ns + order.timeout_ns
        self._watch_deadline(order)

    def _watch_deadline(self, order: Order) -> None:
        if order.expires_ns is not None:
            heapq.heappush(self._deadlines, (order.expires_ns, order.order_id))

    def _sweep(self) -> None:
        now_ns = self.clock.now_ns()
        deadlines = self._deadlines
        while deadlines and deadlines[0][0] <= now_ns:
            _, order_id = heapq.heappop(deadlines)
            order = self.orders.open.get(order_id)
            if order is None or order.expires_ns is None or order.expires_ns > now_ns or order.cancel_requested:
                continue
            reason = "its expireTime came" if order.tif == "GTD" else "open longer than its timeout"
            if order.state is State.HELD:
                self.end(order, Step.EXPIRE, reason, "EXPIRED", now_ns)
            else:
                self.request_cancel(order, reason)
        self._sweeper = self.clock.call_in(self.SWEEP_NS, self.kernel.run, self._sweep)


class _Change(msgspec.Struct, frozen=True):
    """An amendment on the instrument's grid."""

    qty_lots: int | None
    price_ticks: int | None
    stop_ticks: int | None


def _unknown(order_id: str) -> Refusal:
    return Refusal(code="ORDER_NOT_FOUND", detail=f"there is no order {order_id}", status=404)


def _ended(order: Order) -> Refusal:
    detail = f"{order.order_id} has ended: {order.state.value.lower()}"
    return Refusal(code="ORDER_ENDED", detail=detail, status=409, order=order)
