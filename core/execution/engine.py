"""ExecutionEngine: makes a plan of a request, and hands committed intents to the venues.

Always true here: a plan changes nothing; what cannot be carried out is a Refusal that names every wrong field at once.
"""

from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Protocol

import msgspec

from ..kernel.clock import SECOND_NS
from ..kernel.kernel import Kernel
from ..market.book import BUY, SELL, Book
from ..market.data import MarketData
from ..market.slippage import Walk, walk_book
from ..model.exact import ONE, ZERO, plain
from ..model.ids import wallet_of
from ..model.instruments import Instrument, OffGrid
from ..model.messages import AmendAtVenue, CancelAtVenue, PlaceAtVenue, Refusal, SubmitOrder
from ..model.records import Order, Side
from ..orders.triggers import reached, trigger_price
from .routing import VenueScore, VenueStats, score

# A market order is meant for the market of its moment. One whose commit takes longer (Redis was away) is not sent.
MARKET_WAIT_MAX_NS = 2 * SECOND_NS


def _keep(_: Order) -> None:
    """Nobody manages orders yet."""


class Venue(Protocol):
    """The part of a venue client that sends."""

    def place(self, order: PlaceAtVenue) -> None: ...

    def cancel(self, order: CancelAtVenue) -> None: ...

    def amend(self, order: AmendAtVenue) -> None: ...


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of the execution engine."""

    max_slippage: Decimal  # fraction of the arrival mid
    paper: bool  # every order is paper


class Plan(msgspec.Struct, kw_only=True):
    """How a request would be carried out now."""

    instrument: Instrument
    wallet: str
    qty_lots: int
    price_ticks: int | None = None
    stop_ticks: int | None = None
    guard_ticks: int | None = None
    exit_stop_ticks: int | None = None
    exit_target_ticks: int | None = None
    arrival_mid: Decimal | None = None
    walk: Walk | None = None
    estimated_cost: Decimal | None = None
    estimated_fees: Decimal | None = None
    unfillable: str | None = None  # why a fill-or-kill order is not even sent
    warnings: tuple[str, ...] = ()
    scores: tuple[VenueScore, ...] = ()

    def need(self, side: Side) -> Decimal:
        """What the order would reserve: quote and its fee for a buy at its limit or guard price, base for a sell.

        Of a held one without a price, what it would cost at its stop; it reserves when it is sent.
        """
        if side == "sell":
            return self.instrument.quantity(self.qty_lots)
        ticks = self.price_ticks if self.price_ticks is not None else self.guard_ticks
        if ticks is None:
            return (self.estimated_cost or ZERO) + (self.estimated_fees or ZERO)
        return self.instrument.with_fee(self.instrument.amount(ticks * self.qty_lots))

    @property
    def reference_price(self) -> Decimal | None:
        """What a unit is expected to cost: the limit price, else the walk, else the stop, else the mid."""
        if self.price_ticks is not None:
            return self.instrument.price(self.price_ticks)
        if self.walk is not None and self.walk.filled_lots:
            return self.walk.cost * self.instrument.tick / self.walk.filled_lots
        if self.stop_ticks is not None:
            return self.instrument.price(self.stop_ticks)
        return self.arrival_mid


class _Terms:
    """What plans need of an instrument, worked out once."""

    __slots__ = ("book", "half_tick", "instrument", "taker_fee", "unit")

    def __init__(self, instrument: Instrument, book: Book) -> None:
        self.instrument = instrument
        self.book = book
        self.half_tick = instrument.tick / 2
        self.unit = instrument.tick * instrument.lot  # quote currency of one tick x lot
        self.taker_fee = instrument.taker_fee


class _Wrong:
    """Collects what is wrong with a request."""

    def __init__(self) -> None:
        self.errors: list[dict[str, str]] = []

    def add(self, field: str, code: str, detail: str) -> None:
        self.errors.append({"field": field, "code": code, "detail": detail})

    def refusal(self) -> Refusal:
        first = self.errors[0]
        return Refusal(code=first["code"], detail=first["detail"], errors=tuple(self.errors))


class ExecutionEngine:
    """Plans against the books of the healthy venues, and sends."""

    def __init__(
        self,
        kernel: Kernel,
        market: MarketData,
        instruments: Mapping[tuple[str, str], Instrument],
        limits: Limits,
    ) -> None:
        self.kernel = kernel
        self.market = market
        self.instruments = instruments
        self.limits = limits
        # The guard price in whole ticks: mid x (1 +- max_slippage) as a ratio of integers.
        part, whole = limits.max_slippage.as_integer_ratio()
        self._guard_buy, self._guard_sell, self._guard_whole = whole + part, max(0, whole - part), 2 * whole
        self._terms = {key: _Terms(i, market.book(*key)) for key, i in instruments.items()}
        self.too_late: Callable[[Order], None] = _keep  # told of an order that was not sent; set by its manager
        self.venues: dict[str, Venue] = {}  # by wallet: a paper venue and the real one of the same exchange differ
        self.stats: dict[str, VenueStats] = {}
        self.by_pair: dict[str, list[Instrument]] = {}
        for instrument in instruments.values():
            self.by_pair.setdefault(instrument.pair, []).append(instrument)
            self.stats.setdefault(instrument.exchange, VenueStats())

    # --- venues

    def attach(self, wallet: str, venue: Venue) -> None:
        self.venues[wallet] = venue

    # --- planning

    def plan(self, request: SubmitOrder, now_ns: int) -> Plan | Refusal:
        """Choose a venue and check the request against its rules and its book."""
        candidates = self._candidates(request)
        if isinstance(candidates, Refusal):
            return candidates
        plans: list[Plan] = []
        refusals: list[Refusal] = []
        for instrument in candidates:
            plan = self._plan_at(instrument, request, now_ns)
            if isinstance(plan, Refusal):
                refusals.append(plan)
            else:
                plans.append(plan)
        if not plans:
            return refusals[0]
        return plans[0] if len(plans) == 1 else self._best(plans)

    def _candidates(self, request: SubmitOrder) -> Sequence[Instrument] | Refusal:
        listed = self.by_pair.get(request.pair)
        if not listed:
            known = ", ".join(sorted(self.by_pair))
            detail = f"{request.pair} is not traded here; known pairs: {known}"
            return Refusal(
                code="INVALID_PAIR",
                detail=detail,
                errors=({"field": "pair", "code": "INVALID_PAIR", "detail": detail},),
            )
        if request.exchange is not None:
            listed = [i for i in listed if i.exchange == request.exchange]
            if not listed:
                names = ", ".join(sorted(i.exchange for i in self.by_pair[request.pair]))
                detail = f"{request.pair} is not traded at {request.exchange!r}; it is at: {names}"
                error = {"field": "exchange", "code": "INVALID_EXCHANGE", "detail": detail}
                return Refusal(code="INVALID_EXCHANGE", detail=detail, errors=(error,))
        return listed

    def _best(self, plans: list[Plan]) -> Plan:
        """The plan at the venue with the highest score; every plan's score is kept in it."""
        worst_fee = max(p.instrument.taker_fee for p in plans)
        scored = []
        for plan in plans:
            liquidity = 1.0
            if plan.walk is not None:
                liquidity = plan.walk.filled_lots / plan.qty_lots
            name = plan.instrument.exchange
            scored.append(score(name, liquidity, plan.instrument.taker_fee, worst_fee, self.stats[name]))
        ranked = sorted(
            zip(scored, plans, strict=True),
            key=lambda pair: (-pair[0].score, pair[0].exchange),
        )
        best = ranked[0][1]
        best.scores = tuple(s for s, _ in ranked)
        return best

    def _plan_at(self, instrument: Instrument, request: SubmitOrder, now_ns: int) -> Plan | Refusal:
        wrong = _Wrong()
        if not instrument.trading:
            wrong.add("pair", "MARKET_CLOSED", f"{instrument.pair} is not open for trading at {instrument.exchange}")
            return wrong.refusal()
        plan = Plan(
            instrument=instrument,
            wallet=wallet_of(instrument, self.limits.paper or bool(request.paper)),
            qty_lots=self._lots(instrument, request, wrong),
        )
        if request.paper is False and self.limits.paper:
            plan.warnings = ("paperTrade: false was ignored: this service runs in paper mode (PAPER_TRADING=true)",)
        held = request.type in ("stop_loss", "take_profit")
        if request.type != "market" and request.price is not None:
            plan.price_ticks = self._ticks(instrument, "price", request.price, wrong)
        if held and request.stop_price is not None:
            plan.stop_ticks = self._ticks(instrument, "stopPrice", request.stop_price, wrong)
        if request.stop_loss is not None:
            plan.exit_stop_ticks = self._ticks(instrument, "stopLoss", request.stop_loss, wrong)
        if request.take_profit is not None:
            plan.exit_target_ticks = self._ticks(instrument, "takeProfit", request.take_profit, wrong)
        if wrong.errors:
            return wrong.refusal()
        if not self.market.fresh(instrument.exchange, instrument.pair, now_ns):
            detail = f"there is no current order book of {instrument.pair} at {instrument.exchange}"
            return Refusal(code="NO_MARKET_DATA", detail=detail, status=503, retry_after_s=1)
        self._price(plan, request, wrong)
        if not wrong.errors:
            self._check_against_market(plan, request, wrong)
        return wrong.refusal() if wrong.errors else plan

    @staticmethod
    def _lots(instrument: Instrument, request: SubmitOrder, wrong: _Wrong) -> int:
        try:
            lots = instrument.qty_lots(request.quantity)
        except OffGrid as error:
            wrong.add("quantity", "QUANTITY_STEP", str(error))
            return 1
        if lots < instrument.min_lots:
            least = plain(instrument.quantity(instrument.min_lots))
            wrong.add("quantity", "BELOW_MIN_QUANTITY", f"the least quantity of {instrument.pair} is {least}")
        elif lots > instrument.max_lots:
            most = plain(instrument.quantity(instrument.max_lots))
            wrong.add("quantity", "ABOVE_MAX_QUANTITY", f"the greatest quantity of {instrument.pair} is {most}")
        return lots

    @staticmethod
    def _ticks(instrument: Instrument, field: str, price: Decimal, wrong: _Wrong) -> int:
        try:
            return instrument.price_ticks(price)
        except OffGrid as error:
            wrong.add(field, "PRICE_STEP", str(error))
            return 1

    def _price(self, plan: Plan, request: SubmitOrder, wrong: _Wrong) -> None:
        """Walk the book: guard price, expected fill, costs, and whether fill-or-kill can be."""
        instrument = plan.instrument
        terms = self._terms[instrument.exchange, instrument.pair]
        book = terms.book
        bid, ask = book.best_bid_ticks, book.best_ask_ticks
        plan.arrival_mid = (bid + ask) * terms.half_tick
        if plan.stop_ticks is not None:  # the walk will be made when it is triggered
            self._estimate(plan, plan.qty_lots * (plan.price_ticks or plan.stop_ticks) * terms.unit, terms.taker_fee)
            return
        if request.type == "market":
            if request.side == "buy":
                plan.guard_ticks = (bid + ask) * self._guard_buy // self._guard_whole
            else:
                plan.guard_ticks = max(1, -(-(bid + ask) * self._guard_sell // self._guard_whole))
        limit_ticks = plan.guard_ticks if plan.price_ticks is None else plan.price_ticks
        plan.walk = walk = walk_book(book, BUY if request.side == "buy" else SELL, plan.qty_lots, limit_ticks)
        if request.type == "market" and request.role == "entry" and walk.filled_lots < plan.qty_lots:
            self._too_thin(plan, request, walk, wrong)
        if request.tif == "FOK" and walk.filled_lots < plan.qty_lots:
            there = plain(instrument.quantity(walk.filled_lots))
            plan.unfillable = f"fill or kill: the book holds {there} within the price at this moment"
        taken = walk.cost
        rests = plan.qty_lots - walk.filled_lots
        price_of_rest = plan.price_ticks if plan.price_ticks is not None else walk.worst_ticks or ask
        taker = instrument.taker_fee if taken else instrument.maker_fee
        self._estimate(plan, (taken + rests * price_of_rest) * terms.unit, taker)

    def _too_thin(self, plan: Plan, request: SubmitOrder, walk: Walk, wrong: _Wrong) -> None:
        """A market order that the guard price would cut: refused, or cut where the caller said so."""
        instrument = plan.instrument
        fits = instrument.quantity(walk.filled_lots)
        percent = plain(self.limits.max_slippage * 100)
        if request.on_slippage == "reduce" and walk.filled_lots >= instrument.min_lots:
            cut = f"from {plain(request.quantity)} to {plain(fits)}: more would slip over {percent} %"
            plan.warnings = (*plan.warnings, f"quantity was reduced {cut}")
            plan.qty_lots = walk.filled_lots
            return
        wrong.add(
            "quantity",
            "SLIPPAGE_TOO_HIGH",
            f"{plain(request.quantity)} {instrument.base} would slip more than {percent} % from the mid price; "
            f"{plain(fits)} fits now (onSlippage: reduce takes that)",
        )

    @staticmethod
    def _estimate(plan: Plan, cost: Decimal, fee_rate: Decimal) -> None:
        plan.estimated_cost = cost
        plan.estimated_fees = cost * fee_rate

    def _check_against_market(self, plan: Plan, request: SubmitOrder, wrong: _Wrong) -> None:
        instrument = plan.instrument
        cost = plan.estimated_cost or ZERO
        if cost < instrument.min_notional:
            price = plan.reference_price or ONE
            least = instrument.quantity(-(-instrument.min_notional // (price * instrument.lot)).__int__())
            wrong.add(
                "quantity",
                "BELOW_MIN_NOTIONAL",
                f"{plain(cost)} {instrument.quote} is below the least order value of {plain(instrument.min_notional)}; "
                f"the least quantity is about {plain(least)}",
            )
        if instrument.max_notional is not None and cost > instrument.max_notional:
            most = plain(instrument.max_notional)
            detail = f"{plain(cost)} {instrument.quote} is above the greatest order value of {most}"
            wrong.add("quantity", "ABOVE_MAX_NOTIONAL", detail)
        self._check_exits(plan, request, wrong)
        self._check_trigger(plan, request, wrong)

    def _check_exits(self, plan: Plan, request: SubmitOrder, wrong: _Wrong) -> None:
        if request.stop_loss is None and request.take_profit is None:
            return
        if request.side == "sell":
            field = "stopLoss" if request.stop_loss is not None else "takeProfit"
            wrong.add(
                field, "EXITS_ON_SELL", "exits protect a position; a spot sell opens none: use side buy, or drop it"
            )
            return
        reference = plan.reference_price
        assert reference is not None
        price = plain(reference)
        if request.stop_loss is not None and request.stop_loss >= reference:
            wrong.add("stopLoss", "INVALID_STOP", f"the stop of a buy must be below its price of about {price}")
        if request.take_profit is not None and request.take_profit <= reference:
            wrong.add(
                "takeProfit", "INVALID_TAKE_PROFIT", f"the target of a buy must be above its price of about {price}"
            )

    def _check_trigger(self, plan: Plan, request: SubmitOrder, wrong: _Wrong) -> None:
        """A held order that the market has already reached would not wait: say so instead of trading at once."""
        if plan.stop_ticks is None:
            return
        instrument = plan.instrument
        price = trigger_price(self.market, instrument.exchange, instrument.pair, request.side, request.trigger)
        if price is not None and reached(request.side, request.type, price, plan.stop_ticks):
            now = plain(instrument.price(price))
            wrong.add("stopPrice", "STOP_WOULD_TRIGGER", f"the market is at {now} already: the order would not wait")

    # --- sending (effects)

    def place(self, order: Order, message: PlaceAtVenue) -> None:
        self.kernel.outbox.send(self._place, order, message, self.kernel.clock.now_ns())

    def _place(self, order: Order, message: PlaceAtVenue, intended_ns: int) -> None:
        """Its intent is committed now. What has ended meanwhile, or has another attempt, does not leave any more; nor
        does a market order that waited too long."""
        if order.ended or order.venue_client_id != message.client_id:
            return
        now_ns = self.kernel.clock.now_ns()
        late = now_ns - intended_ns > MARKET_WAIT_MAX_NS
        if late and message.type == "market" and order.triggered_ns is None:
            self.too_late(order)
            return
        order.sent_ns = now_ns
        self.venues[order.wallet].place(message)

    def cancel(self, order: Order) -> None:
        message = CancelAtVenue(client_id=order.venue_client_id, pair=order.pair, venue_order_id=order.venue_order_id)
        self.kernel.outbox.send(self.venues[order.wallet].cancel, message)

    def amend(self, order: Order) -> None:
        assert order.amend_requested is not None
        message = AmendAtVenue(
            client_id=order.venue_client_id,
            pair=order.pair,
            amend=order.amend_requested,
            venue_order_id=order.venue_order_id,
        )
        self.kernel.outbox.send(self.venues[order.wallet].amend, message)
