"""OrderManager: takes commands, makes orders of them, and sees each one through.

Always true here: a command is answered exactly once, after the commit that made its outcome durable; the same request
twice is one order; an intent is committed under a venue client id of its own before it can leave.
"""

import heapq
from collections.abc import Callable, Iterable
from copy import copy
from decimal import Decimal
from typing import Any, Literal

import msgspec

from ..execution.engine import ExecutionEngine, Plan
from ..kernel.actor import Actor
from ..kernel.bus import Handler
from ..kernel.clock import MS_NS, SECOND_NS, Timer
from ..kernel.kernel import Kernel
from ..model.exact import ZERO, plain
from ..model.ids import Ids
from ..model.instruments import Instrument
from ..model.messages import (
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
from ..risk.advice import Advising
from ..risk.checks import Checks, source_of
from .lifecycle import Step, advance
from .registry import EVENT_OF_STATE, Orders
from .triggers import Triggers

# What an order shares with another one that is made like it.
KEPT_AGAIN = (
    *("exchange", "pair", "wallet", "side", "type", "role", "tick", "lot", "quote", "base", "parent_id"),
    *("signal_data", "signal_id", "stop_ticks", "trigger", "arrival_mid"),
)
Request = Literal["cancel", "amend"]
PAST_IDS_MAX = 4
WAITING_MAX = 100  # requests that may wait for the venue's word on one order
DEADLINES_SPARE = 1_000  # deadlines of ended orders that are kept before they are swept out
CANCEL_AGAIN_NS = 5 * SECOND_NS  # until a deadline whose cancel was refused is looked at again


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
    return instrument.with_fee(price * left * order.tick * order.lot)


def amended(order: Order, amend: Amend) -> Order:
    """A copy of the order as it would be."""
    copy = msgspec.structs.replace(order)
    copy.qty_lots = amend.qty_lots or order.qty_lots
    copy.price_ticks = amend.price_ticks or order.price_ticks
    return copy


def _go_on(_exits: Iterable[Order], _reason: str, then: Callable[[], None]) -> None:
    """No exit is at a venue."""
    then()


def _note_nothing(_: Order) -> None:
    """Nobody sends exits to a venue."""


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
        advising: Advising,
        settings: OrderSettings,
    ) -> None:
        super().__init__(kernel)
        self.orders = orders
        self.ids: Ids = orders.ids
        self.engine = engine
        self.checks = checks
        self.ledger = ledger
        self.triggers = triggers
        self.advising = advising
        self.settings = settings
        # Answers that wait for the venue's word on a cancel or an amend.
        self.waiting: dict[str, list[tuple[Request, Reply]]] = {}
        self._deadlines: list[tuple[int, str]] = []
        engine.too_late, engine.open_count, engine.holding = self.expire_late, orders.open_count, self.holding
        engine.available = ledger.available
        # Takes exits back from their venue, and then goes on; set by who sends them there.
        self.recall: Callable[[Iterable[Order], str, Callable[[], None]], None] = _go_on
        self.note_listed: Callable[[Order], None] = _note_nothing  # an exit is found to be at its venue; the same
        self._sweeper: Timer | None = None

    def handles(self) -> dict[type, Handler]:
        return {
            SubmitOrder: self.submit,
            CancelOrder: self.cancel,
            CancelOrders: self.cancel_many,
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
            self._decided(request, repeat)
            request.reply(repeat)
            return
        now_ns = self.clock.now_ns()
        refusal = self._too_early(request, now_ns)
        plan = self.engine.plan(request, now_ns) if refusal is None else refusal
        if isinstance(plan, Refusal):
            self._decided(request, plan)
            request.reply(plan)
            return
        need = plan.need(request.side)
        risk, refused = self.checks.run(request, plan, need)
        if refused is None and self.advising.wanted(request):
            self.advising.submit(request, plan)
            return
        order = self._order_of(request, plan, now_ns)
        order.risk = risk
        if refused is not None:
            self._reject(order, refused, request)
            return
        if plan.unfillable is not None:
            order.state, order.reason, order.code = State.EXPIRED, plan.unfillable, "FOK_UNFILLABLE"
            self.orders.add(order)
        else:
            self._open(order, plan, need)
        self._decided(request, order)
        # A copy: until this is committed and told the order may have gone on, and a crash would take that back.
        self.answer(request.reply, Submitted(copy(order), False, plan.estimated_cost, plan.estimated_fees))

    def _too_early(self, request: SubmitOrder, now_ns: int) -> Refusal | None:
        """Why a request is not even planned; nothing of it goes on record."""
        if not self.kernel.store_up:
            detail = f"orders cannot be made durable now: {self.kernel.store_why}"
            return Refusal(code="STORE_UNAVAILABLE", detail=detail, status=503, retry_after_s=1)
        pending = self.advising.pending(request)
        if pending is not None or request.role != "entry" or request.advice is not None:
            return pending
        rate = self.checks.rate
        wait_ns = rate.take(source_of(request), now_ns)
        if not wait_ns:
            return None
        who = f"strategy {source_of(request)!r}" if source_of(request) else "orders without a strategy"
        detail = (
            f"{who}: {rate.limit} orders a second are allowed (ORDER_RATE_LIMIT); again in {-(-wait_ns // MS_NS)} ms"
        )
        return Refusal(code="ORDER_RATE", detail=detail, status=429, retry_after_s=1)

    @staticmethod
    def _decided(request: SubmitOrder, outcome: Order | Refusal | Submitted) -> None:
        if request.on_decided is not None:
            request.on_decided(outcome.order if isinstance(outcome, Submitted) else outcome)

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

    def _reject(self, order: Order, code: str, request: SubmitOrder) -> None:
        assert order.risk is not None
        order.state, order.code, order.reason = State.REJECTED, code, order.risk.refusal
        self.orders.add(order)
        refusal = Refusal(code=code, detail=order.reason, order=order)
        self._decided(request, refusal)
        self.answer(request.reply, refusal)

    def _open(self, order: Order, plan: Plan, need: Decimal) -> None:
        legs = self._legs(order, plan)
        if order.stop_ticks is not None:
            self.orders.add(order)
            for leg in legs:
                self.orders.add(leg)
            self.triggers.arm(order)
            self._watch_deadline(order)
            return
        order.state = State.SENT
        self.stamp(order, order.qty_lots)
        self._place(order)  # first: with DURABILITY=behind it leaves now, and the rest does not keep it waiting
        self.orders.add(order)
        self.reserve(order, need)
        for leg in legs:
            self.orders.add(leg)

    def _legs(self, entry: Order, plan: Plan) -> list[Order]:
        """The exits of a bracket: pending from the start, armed and sized by the entry's fills."""
        legs = []
        for role, ticks in (("stop_loss", plan.exit_stop_ticks), ("take_profit", plan.exit_target_ticks)):
            if ticks is None:
                continue
            leg = self.again(
                entry,
                entry.qty_lots,
                entry.created_ns,
                side="sell" if entry.side == "buy" else "buy",
                type=role,
                role=role,
                stop_ticks=ticks,
                trigger=entry.trigger,
                parent_id=entry.order_id,
            )
            if role == "stop_loss":
                entry.stop_loss_id = leg.order_id
            else:
                entry.take_profit_id = leg.order_id
            legs.append(leg)
        return legs

    def again(self, order: Order, lots: int, now_ns: int, **other: Any) -> Order:
        """A held order of its own like another one, with nothing of what happened to that."""
        order_id = self.ids.order(now_ns)
        fields: dict[str, Any] = {
            "order_id": order_id,
            "client_order_id": f"CLIENT_{order_id[4:]}",
            "submit_ns": now_ns,
            "created_ns": now_ns,
            "qty_lots": lots,
        }
        return Order(**{name: getattr(order, name) for name in KEPT_AGAIN} | fields | other)

    # --- funds

    def holding(self, wallet: str, pair: str) -> Decimal:
        """Base currency that the wallet has or is buying, as a venue's limit on positions counts it."""
        base = pair.partition("_")[0]
        return self.ledger.total(wallet, base) + self.orders.quantity_bought(wallet, pair)

    def reserve(self, order: Order, change: Decimal) -> None:
        """Set aside for an order (positive), or free (negative)."""
        self.ledger.reserve(order.wallet, order.quote if order.side == "buy" else order.base, change)
        order.reserved += change
        self.orders.note_reserved(order, change)

    def reservation_now(self, order: Order) -> Decimal:
        """What the rest of an order needs, and of one whose amend is not answered the larger of both."""
        instrument = self.engine.instruments[order.exchange, order.pair]
        need = reservation(order, instrument)
        if order.amend_requested is not None:
            need = max(need, reservation(amended(order, order.amend_requested), instrument))
        return need

    def more_refusal(self, order: Order, more: Decimal) -> Refusal | None:
        """Why an order may not reserve more: trading is limited, the wallet does not hold it, or a limit stops the
        position from growing."""
        limited = self.limited(order)
        if limited is not None:
            return limited
        currency = order.quote if order.side == "buy" else order.base
        there = self.ledger.available(order.wallet, currency)
        if more > there:
            detail = f"needs {plain(more)} {currency} more, available are {plain(there)} {currency}"
            return Refusal(code="INSUFFICIENT_BALANCE", detail=detail)
        too_large = self.checks.growth_refusal(order, more) if order.side == "buy" else None
        return Refusal(code="RISK_POSITION_SIZE", detail=too_large) if too_large is not None else None

    def limited(self, order: Order, *, grows: bool = True) -> Refusal | None:
        """Why an order may not buy as trading is limited now."""
        why = self.checks.state_refusal(order, grows=grows)
        return None if why is None else Refusal(code="TRADING_LIMITED", detail=why)

    def settle_amend(self, order: Order) -> None:
        """The amend is decided: set free what it does not need."""
        order.amend_requested = None
        if not order.ended:
            self.free_surplus(order)

    def free_surplus(self, order: Order) -> None:
        """Set free what an order has reserved beyond what it needs now."""
        self.reserve(order, min(ZERO, self.reservation_now(order) - order.reserved))

    # --- sending

    def sendable(self, order: Order) -> int:
        """How much of the rest one order can carry; 0 where what is left is dust that the venue would refuse."""
        left = order.left_lots
        if order.price_ticks is not None or order.guard_ticks is not None:
            return left
        terms = self.engine.terms[order.exchange, order.pair]
        lots = terms.instrument.market_lots(left)
        bid = terms.feed.book.best_bid_ticks
        return lots if not bid or bid * lots >= terms.market_cost[0] else 0

    def stamp(self, order: Order, lots: int) -> None:
        """Give the order's next attempt its quantity and its venue client id; it is sent when that is committed."""
        order.attempt += 1
        order.listed, order.recalled = False, None
        if order.venue_order_id is not None:
            order.past_ids = (*order.past_ids[1 - PAST_IDS_MAX :], order.venue_order_id)
        order.venue_order_id, order.amends = None, 0
        order.attempt_from, order.attempt_until = order.filled_lots, order.filled_lots + lots
        order.venue_client_id = self.ids.venue_client_id(order.order_id, order.attempt)
        order.tags = self.ids.tagged(order.tags)
        order.sent_ns = None

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
            qty_lots=order.attempt_until - order.attempt_from,
            price_ticks=order.guard_ticks if market else order.price_ticks,
            tif=tif,
            post_only=order.post_only,
        )
        self.engine.place(order, message)

    def send(self, order: Order, now_ns: int) -> bool:
        """Send a held order, or the next attempt of one that was proven not taken; its funds are reserved here.

        Returns False, with the order rejected, where the funds are not there any more, or trading is limited by now.
        """
        instrument = self.engine.instruments[order.exchange, order.pair]
        if order.side == "buy" and order.price_ticks is None and order.guard_ticks is None:
            order.guard_ticks = self._guard_price(order)
        need = reservation(order, instrument) - order.reserved
        refused = self.more_refusal(order, need) if need > 0 else self.limited(order, grows=False)
        if refused is not None:
            self.refuse(order, refused.detail, refused.code, now_ns)
            return False
        state = advance(order.state, Step.SEND)
        assert state is not None, f"{order.order_id} cannot be sent from {order.state}"
        first = order.state is State.HELD
        self.reserve(order, need)
        order.state, order.waiting = state, False
        if first:
            order.submit_ns = now_ns
        self.stamp(order, self.sendable(order))
        self.orders.changed(order, "OrderSubmitted", now_ns)
        self._place(order)
        return True

    def _guard_price(self, order: Order) -> int:
        """Of a triggered market buy: the slippage guard around the price as it is now."""
        quote = self.engine.market.quote(order.exchange, order.pair)
        at = quote[1] if quote is not None else order.stop_ticks
        assert at is not None, "a triggered order has a stop price"
        guard = max(at, int(at * (1 + self.engine.limits.max_slippage)))
        terms = self.engine.terms[order.exchange, order.pair]
        return guard if terms.bands is None else min(guard, terms.band(order.side, terms.feed.twice_average)[1])

    # --- ending

    def end(self, order: Order, step: Step, reason: str, code: str, now_ns: int) -> None:
        """End an order as the grid says and set its funds free; nothing where the grid refuses."""
        state = advance(order.state, step)
        if state is None:
            return
        order.state, order.reason, order.code, order.waiting = state, reason, code, False
        self.triggers.disarm(order.order_id)
        self._free(order)
        self.orders.changed(order, EVENT_OF_STATE[state], now_ns)
        self.answer_waiting(order)

    def refuse(self, order: Order, reason: str, code: str, now_ns: int) -> None:
        """End an order whose attempt was refused: REJECTED, or EXPIRED where the venue had taken one before."""
        step = Step.EXPIRE if order.state in (State.LIVE, State.PART) else Step.REJECT
        self.end(order, step, reason, code, now_ns)

    def _free(self, order: Order) -> None:
        if order.reserved:
            self.reserve(order, -order.reserved)

    def expire_late(self, order: Order) -> None:
        """A market order whose commit took so long that it was not sent."""
        now_ns = self.clock.now_ns()
        reason = "it waited too long to be sent, and the moment that it was meant for has passed"
        self.kernel.run(self.end, order, Step.EXPIRE, reason, "NOT_SENT", now_ns)

    def answer_waiting(self, order: Order, value: object | None = None, request: Request | None = None) -> None:
        """Answer those that waited for the venue's word: on one kind of request, or all of them at the order's end."""
        asked = self.waiting.pop(order.order_id, [])
        rest = [entry for entry in asked if request is not None and entry[0] != request]
        if rest:
            self.waiting[order.order_id] = rest
        for kind, reply in asked:
            if request is None or kind == request:
                self.answer(reply, order if value is None else value)

    def wait_for_venue(self, order: Order, request: Request, reply: Reply) -> None:
        waiting = self.waiting.setdefault(order.order_id, [])
        if len(waiting) >= WAITING_MAX:
            detail = f"{WAITING_MAX} requests about {order.order_id} wait for the venue's word already"
            reply(Refusal(code="ORDER_IN_FLIGHT", detail=detail, status=409, retry_after_s=1))
            return
        waiting.append((request, reply))

    # --- cancel

    def cancel(self, request: CancelOrder) -> None:
        order = self.open_order(request.order_id)
        if not isinstance(order, Refusal):
            order = self._needed_stop(order) or order
        if isinstance(order, Refusal):
            request.reply(order)
            return
        self.wait_for_venue(order, "cancel", request.reply)
        self.request_cancel(order, request.reason)

    def open_order(self, order_id: str) -> Order | Refusal:
        """The order that a request is about; a refusal where there is none, or it has ended."""
        order = self.orders.get(order_id)
        if order is None:
            return Refusal(code="ORDER_NOT_FOUND", detail=f"there is no order {order_id}", status=404)
        if order.ended:
            detail = f"{order.order_id} has ended: {order.state.value.lower()}"
            return Refusal(code="ORDER_ENDED", detail=detail, status=409, order=order)
        return order

    def _needed_stop(self, order: Order) -> Refusal | None:
        """Why a stop is not cancelled alone: its entry would be left without one, where entries need one."""
        entry = self.orders.get(order.parent_id) if order.parent_id is not None else None
        if self.engine.limits.stop_distance is None or order.role != "stop_loss" or entry is None:
            return None
        if entry.ended and not entry.protected:
            return None
        instead = "close the position" if entry.ended else "cancel the entry"
        detail = f"{entry.order_id} needs its stop (STOP_LOSS_ENABLED): amend the stopPrice, or {instead}"
        return Refusal(code="STOP_REQUIRED", detail=detail, status=409, order=order)

    def cancel_many(self, request: CancelOrders) -> None:
        chosen = [
            order
            for order in list(self.orders.open.values())
            if (request.pair is None or order.pair == request.pair)
            and (request.exchange is None or order.exchange == request.exchange)
            and self._needed_stop(order) is None
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
            self.wait_for_venue(order, "cancel", one_done)
            self.request_cancel(order, request.reason)

    def request_cancel(self, order: Order, reason: str) -> None:
        """Cancel at once what is only here; ask the venue for the rest."""
        now_ns = self.clock.now_ns()
        if order.state is State.HELD or order.waiting:
            self.end(order, Step.CANCEL, reason, "CANCELLED", now_ns)
            return
        if order.cancel_requested is None:
            order.cancel_requested = reason
            self.orders.changed(order, "OrderCancelRequested", now_ns)
        self.engine.cancel(order)

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
        if len(deadlines) > 2 * len(self.orders.open) + DEADLINES_SPARE:
            is_open = self.orders.open
            deadlines[:] = [entry for entry in deadlines if entry[1] in is_open]
            heapq.heapify(deadlines)
        again: list[tuple[int, str]] = []
        while deadlines and deadlines[0][0] <= now_ns:
            _, order_id = heapq.heappop(deadlines)
            order = self.orders.open.get(order_id)
            if order is None or order.expires_ns is None or order.expires_ns > now_ns:
                continue
            if order.cancel_requested and not order.waiting:  # if it is refused, the order is looked at again
                again.append((now_ns + CANCEL_AGAIN_NS, order_id))
                continue
            reason = "its expireTime came" if order.tif == "GTD" else "open longer than its timeout"
            if order.state is State.HELD or order.waiting:
                self.end(order, Step.EXPIRE, reason, "EXPIRED", now_ns)
            else:
                self.request_cancel(order, reason)
                again.append((now_ns + CANCEL_AGAIN_NS, order_id))
        for entry in again:
            heapq.heappush(deadlines, entry)
        self._sweeper = self.clock.call_in(self.SWEEP_NS, self.kernel.run, self._sweep)
