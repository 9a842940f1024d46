"""ExecutionEngine: makes a plan of a request, and hands committed intents to the venues.

Always true here: a plan changes nothing; what cannot be carried out is a Refusal that names every wrong field at once.
"""

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Protocol

import msgspec

from ..kernel.clock import SECOND_NS
from ..kernel.kernel import Kernel
from ..market.book import BUY, SELL
from ..market.data import MarketData
from ..market.slippage import Walk, walk_book
from ..model.exact import ZERO, plain
from ..model.ids import wallet_of
from ..model.instruments import Instrument
from ..model.messages import AmendAtVenue, CancelAtVenue, PlaceAtVenue, PlaceExitsAtVenue, Refusal, SubmitOrder
from ..model.records import Amend, Order, Side
from ..orders.triggers import reached, trigger_price
from .filters import Terms, Wrong
from .routing import VenueScore, VenueStats, score

# A market order is meant for the market of its moment. One whose commit takes longer (Redis was away) is not sent.
MARKET_WAIT_MAX_NS = 2 * SECOND_NS


def _keep(_: Order) -> None:
    """Nobody manages orders yet."""


def _no_orders(_wallet: str, _pair: str) -> int:
    return 0


def _no_coins(_wallet: str, _pair: str) -> Decimal:
    return ZERO


def _nothing(_: str) -> str:
    """Wallets that no venue reports on, such as those of paper venues, are always ready."""
    return ""


class Able(Protocol):
    """What a venue does by itself: what it cannot change of an order that rests there is a cancel and a new order."""

    @property
    def amend(self) -> bool: ...  # the quantity down

    @property
    def amend_up(self) -> bool: ...

    @property
    def amend_price(self) -> bool: ...

    @property
    def linked_orders(self) -> bool: ...  # takes `place_exits`


class Venue(Protocol):
    """The part of a venue client that sends, and what it says of itself."""

    @property
    def capabilities(self) -> Able: ...

    @property
    def unavailable(self) -> str:
        """Why no order can be sent now; empty where one can."""
        ...

    def place(self, order: PlaceAtVenue) -> None: ...

    def place_exits(self, exits: PlaceExitsAtVenue) -> None: ...

    def cancel(self, order: CancelAtVenue) -> None: ...

    def amend(self, order: AmendAtVenue) -> None: ...


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of the execution engine."""

    max_slippage: Decimal  # fraction of the arrival mid
    paper: bool  # every order is paper
    stop_distance: Decimal | None = None  # of the stop that an entry without one gets, as a fraction; None: none


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
        self._below = None if limits.stop_distance is None else 1 - limits.stop_distance
        self.terms = {
            key: Terms(i, market.feed(*key), wallet_of(i, paper=False), wallet_of(i, paper=True))
            for key, i in instruments.items()
        }
        # What the filters that count need to know of an account; set by whoever keeps it.
        self.open_count: Callable[[str, str], int] = _no_orders  # orders of (wallet, pair) at the venue or on their way
        self.holding: Callable[[str, str], Decimal] = _no_coins  # base of (wallet, pair) held and being bought
        self.available: Callable[[str, str], Decimal] = _no_coins  # of (wallet, currency), neither spent nor set aside
        self.too_late: Callable[[Order], None] = _keep  # told of an order that was not sent; set by its manager
        self.pending: Callable[[str], str] = _nothing  # why a wallet is not ready yet; set by who compares balances
        self.venues: dict[str, Venue] = {}  # by wallet: a paper venue and the real one of the same exchange differ
        self.stats: dict[str, VenueStats] = {}
        self.by_pair: dict[str, list[Instrument]] = {}
        for instrument in instruments.values():
            self.by_pair.setdefault(instrument.pair, []).append(instrument)
            self.stats.setdefault(instrument.exchange, VenueStats())

    # --- venues

    def attach(self, wallet: str, venue: Venue) -> None:
        self.venues[wallet] = venue

    def unavailable(self, wallet: str) -> str:
        """Why no order can be sent to a wallet's venue now; empty where one can."""
        venue = self.venues.get(wallet)
        if venue is None:
            return "it is not connected in this mode"
        return venue.unavailable or self.pending(wallet)

    def set_fees(self, exchange: str, pair: str, maker: Decimal, taker: Decimal) -> None:
        """What the account is charged, for estimates from now on; fills say what was charged."""
        terms = self.terms.get((exchange, pair))
        if terms is not None:
            terms.maker_fee, terms.taker_fee = maker, taker

    def set_trading(self, exchange: str, pair: str, trading: bool) -> None:
        """Whether the exchange takes orders of a pair now: where it does not, they are refused before they are sent."""
        terms = self.terms.get((exchange, pair))
        if terms is not None:
            terms.trading = trading

    def amends_in_place(self, order: Order, amend: Amend) -> bool:
        """Whether the venue can do it without taking the order off its book."""
        able = self.venues[order.wallet].capabilities
        if amend.price_ticks is not None and amend.price_ticks != order.price_ticks and not able.amend_price:
            return False
        more = amend.qty_lots is not None and amend.qty_lots > order.qty_lots
        return able.amend_up if more else able.amend

    # --- planning

    def plan(self, request: SubmitOrder, now_ns: int) -> Plan | Refusal:
        """Choose a venue and check the request against its rules and its book."""
        if request.exchange is not None:
            terms = self.terms.get((request.exchange, request.pair))
            return self._not_listed(request) if terms is None else self._plan_at(terms, request, now_ns)
        plans: list[Plan] = []
        refusals: list[Refusal] = []
        for instrument in self.by_pair.get(request.pair, ()):
            plan = self._plan_at(self.terms[instrument.exchange, instrument.pair], request, now_ns)
            if isinstance(plan, Refusal):
                refusals.append(plan)
            else:
                plans.append(plan)
        if not plans:
            return refusals[0] if refusals else self._not_listed(request)
        if len(plans) > 1:  # where the money or the coins are; if they are nowhere, the refusal says so
            plans = [p for p in plans if self._can_pay(p, request.side)] or plans
        return plans[0] if len(plans) == 1 else self._best(plans)

    def _can_pay(self, plan: Plan, side: Side) -> bool:
        currency = plan.instrument.quote if side == "buy" else plan.instrument.base
        return plan.need(side) <= self.available(plan.wallet, currency)

    def _not_listed(self, request: SubmitOrder) -> Refusal:
        wrong = Wrong()
        listed = self.by_pair.get(request.pair)
        if not listed:
            known = ", ".join(sorted(self.by_pair))
            wrong.add("pair", "INVALID_PAIR", f"{request.pair} is not traded here; known pairs: {known}")
        else:
            names = ", ".join(sorted(i.exchange for i in listed))
            detail = f"{request.pair} is not traded at {request.exchange!r}; it is at: {names}"
            wrong.add("exchange", "INVALID_EXCHANGE", detail)
        return wrong.refusal()

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

    def _plan_at(self, terms: Terms, request: SubmitOrder, now_ns: int) -> Plan | Refusal:
        instrument, feed, wrong = terms.instrument, terms.feed, Wrong()
        if not terms.trading:
            wrong.add("pair", "MARKET_CLOSED", f"{instrument.pair} is not open for trading at {instrument.exchange}")
            return wrong.refusal()
        paper = self.limits.paper or request.paper is True
        plan = Plan(
            instrument=instrument,
            wallet=terms.paper_wallet if paper else terms.wallet,
            qty_lots=terms.lots(request.quantity, wrong),
        )
        if request.paper is False and self.limits.paper:
            plan.warnings = ("paperTrade: false was ignored: this service runs in paper mode (PAPER_TRADING=true)",)
        if request.price is not None and request.type != "market":
            plan.price_ticks = terms.ticks("price", request.price, wrong)
        if request.stop_price is not None and request.type in ("stop_loss", "take_profit"):
            plan.stop_ticks = terms.ticks("stopPrice", request.stop_price, wrong)
        if request.stop_loss is not None:
            plan.exit_stop_ticks = terms.ticks("stopLoss", request.stop_loss, wrong)
        if request.take_profit is not None:
            plan.exit_target_ticks = terms.ticks("takeProfit", request.take_profit, wrong)
        away = self.unavailable(plan.wallet)
        fresh = not away and feed.fresh(now_ns)
        bid, ask = feed.top
        if fresh and bid and ask:
            twice_mid = bid + ask
            plan.arrival_mid = twice_mid * terms.half_tick
        else:
            twice_mid = feed.twice_average if fresh else 0
        self._check_filters(terms, plan, request.side, twice_mid, wrong)
        if wrong:
            return wrong.refusal()
        if not fresh:
            return self._not_now(instrument, away)
        self._price(terms, plan, request, twice_mid or 2 * (bid or ask), wrong)
        if self._below is not None and plan.exit_stop_ticks is None and request.side == "buy" and not wrong:
            self._attach_stop(terms, plan, wrong)
        if not wrong:
            self._check_against_market(terms, plan, request, wrong)
        return wrong.refusal() if wrong else plan

    def attached_stop(self, terms: Terms, price: Decimal) -> int:
        """Ticks of the stop that an entry at this price gets where it has none; 0 where none fits below it."""
        assert self._below is not None, "stops are attached"
        return int(price * self._below / terms.tick)

    def _attach_stop(self, terms: Terms, plan: Plan, wrong: Wrong) -> None:
        """An entry does not go out without a stop. One that could not be sold there is refused, not left bare."""
        price = plan.reference_price
        if price is None:
            return
        ticks = self.attached_stop(terms, price)
        if ticks < terms.min_ticks:
            wrong.add(
                "stopLoss", "STOP_REQUIRED", "an entry needs a stop, and none fits below its price: give stopLoss"
            )
            return
        if plan.stop_ticks is None and plan.exit_target_ticks is None:  # else it was looked at before
            terms.check_market_lots("quantity", plan.qty_lots, wrong, steps_too=False)
        plan.exit_stop_ticks = ticks
        shown = plain(plan.instrument.price(ticks))
        plan.warnings = (
            *plan.warnings,
            f"a stop at {shown} was attached: give stopLoss, or set STOP_LOSS_ENABLED=false",
        )

    @staticmethod
    def away_refusal(exchange: str, away: str) -> Refusal:
        """Why nothing can be sent to an exchange now; `away` as `unavailable` says it."""
        detail = f"{exchange} takes no orders now: {away}"
        return Refusal(code="VENUE_UNAVAILABLE", detail=detail, status=503, retry_after_s=1)

    def _not_now(self, instrument: Instrument, away: str) -> Refusal:
        if away:
            return self.away_refusal(instrument.exchange, away)
        detail = f"there is no current order book of {instrument.pair} at {instrument.exchange}"
        return Refusal(code="NO_MARKET_DATA", detail=detail, status=503, retry_after_s=1)

    def _check_filters(self, terms: Terms, plan: Plan, side: Side, twice_mid: int, wrong: Wrong) -> None:
        """What the venue compares with more than the figure itself; figures that are wrong already are 0 here."""
        lots, stop_ticks = plan.qty_lots, plan.stop_ticks
        if terms.bands is not None and plan.price_ticks:
            # A held order is sent when the market is at its stop, so that is what its limit will be compared with.
            average = twice_mid if stop_ticks is None else 2 * stop_ticks
            terms.check_band("price", plan.price_ticks, side, average, wrong)
        if terms.max_open_orders and stop_ticks is None:
            terms.check_count(self.open_count(plan.wallet, plan.instrument.pair), wrong)
        if terms.max_position is not None and side == "buy" and lots:
            terms.check_position(lots, self.holding(plan.wallet, plan.instrument.pair), wrong)
        if stop_ticks is not None:
            if lots and side == "sell" and plan.price_ticks is None:
                terms.check_market_lots("quantity", lots, wrong)
        elif lots and (plan.exit_stop_ticks is not None or plan.exit_target_ticks is not None):
            terms.check_market_lots("quantity", lots, wrong, steps_too=False)

    def _price(self, terms: Terms, plan: Plan, request: SubmitOrder, twice_mid: int, wrong: Wrong) -> None:
        """Walk the book: guard price, expected fill, costs, and whether fill-or-kill can be."""
        lots, price_ticks = plan.qty_lots, plan.price_ticks
        if plan.stop_ticks is not None:  # the walk will be made when it is triggered
            cost = plan.estimated_cost = lots * (price_ticks or plan.stop_ticks) * terms.unit
            plan.estimated_fees = cost * terms.taker_fee
            return
        buy = request.side == "buy"
        if request.type == "market":
            plan.guard_ticks = self._guard(terms, request.side, twice_mid)
        limit_ticks = plan.guard_ticks if price_ticks is None else price_ticks
        plan.walk = walk = walk_book(terms.feed.book, BUY if buy else SELL, lots, limit_ticks)
        filled = walk.filled_lots
        if filled < lots:
            if request.type == "market" and request.role == "entry":
                self._too_thin(terms, plan, request, walk, twice_mid, wrong)
                lots = plan.qty_lots
            if request.tif == "FOK" and filled < lots:
                there = plain(plan.instrument.quantity(filled))
                plan.unfillable = f"fill or kill: the book holds {there} within the price at this moment"
        cost_units = walk.cost
        if filled < lots:
            cost_units += (lots - filled) * (price_ticks or walk.worst_ticks or terms.feed.book.best_ask_ticks)
        cost = plan.estimated_cost = cost_units * terms.unit
        plan.estimated_fees = cost * (terms.taker_fee if filled else terms.maker_fee)

    def _guard(self, terms: Terms, side: Side, twice_mid: int) -> int:
        """The worst price of a market order: the slippage guard around the mid, as far as the venue takes it."""
        least, most = (terms.min_ticks, terms.max_ticks) if terms.bands is None else terms.band(side, twice_mid)
        if side == "buy":
            return min(twice_mid * self._guard_buy // self._guard_whole, most)
        return max(-(-twice_mid * self._guard_sell // self._guard_whole), least)

    def _too_thin(
        self, terms: Terms, plan: Plan, request: SubmitOrder, walk: Walk, twice_mid: int, wrong: Wrong
    ) -> None:
        """A market order that the guard price would cut: refused, or cut where the caller said so."""
        instrument, guard = plan.instrument, plan.guard_ticks
        assert guard is not None
        fits = instrument.quantity(walk.filled_lots)
        why = f"slip more than {plain(self.limits.max_slippage * 100)} % from the mid price"
        if guard in terms.band(request.side, twice_mid):
            why = f"need a price beyond {plain(instrument.price(guard))}, which {instrument.exchange} does not take now"
        if request.on_slippage == "reduce" and walk.filled_lots >= instrument.min_lots:
            cut = f"from {plain(request.quantity)} to {plain(fits)}: more would {why}"
            plan.warnings = (*plan.warnings, f"quantity was reduced {cut}")
            plan.qty_lots = walk.filled_lots
            return
        wrong.add(
            "quantity",
            "SLIPPAGE_TOO_HIGH",
            f"{plain(request.quantity)} {instrument.base} would {why}; "
            f"{plain(fits)} fits now (onSlippage: reduce takes that)",
        )

    def _check_against_market(self, terms: Terms, plan: Plan, request: SubmitOrder, wrong: Wrong) -> None:
        ticks, stop_ticks = plan.price_ticks or plan.guard_ticks or plan.stop_ticks, plan.stop_ticks
        assert ticks is not None, "every order has a limit, a guard or a stop"
        at_market = stop_ticks is not None and plan.price_ticks is None and request.side == "sell"
        terms.check_cost("quantity", ticks, plan.qty_lots, wrong, at_market=at_market)
        if plan.exit_stop_ticks is not None or plan.exit_target_ticks is not None:
            self._check_exits(terms, plan, request, wrong)
        if stop_ticks is not None:
            self._check_trigger(plan, request, stop_ticks, wrong)

    @staticmethod
    def _check_exits(terms: Terms, plan: Plan, request: SubmitOrder, wrong: Wrong) -> None:
        stop, target = plan.exit_stop_ticks, plan.exit_target_ticks
        if request.side == "sell":
            field = "stopLoss" if stop is not None else "takeProfit"
            wrong.add(
                field, "EXITS_ON_SELL", "exits protect a position; a spot sell opens none: use side buy, or drop it"
            )
            return
        reference = plan.reference_price
        assert reference is not None
        price = plain(reference)
        if stop is not None and stop * terms.tick >= reference:
            wrong.add("stopLoss", "INVALID_STOP", f"the stop of a buy must be below its price of about {price}")
        elif stop is not None:
            field = "quantity" if request.stop_loss is None else "stopLoss"  # attached: what can be changed is the size
            terms.check_cost(field, stop, plan.qty_lots, wrong, at_market=True)
        if target is not None and target * terms.tick <= reference:
            wrong.add(
                "takeProfit", "INVALID_TAKE_PROFIT", f"the target of a buy must be above its price of about {price}"
            )
        elif target is not None:
            terms.check_cost("takeProfit", target, plan.qty_lots, wrong, at_market=True)

    def _check_trigger(self, plan: Plan, request: SubmitOrder, stop_ticks: int, wrong: Wrong) -> None:
        """A held order that the market has already reached would not wait: say so instead of trading at once."""
        instrument = plan.instrument
        price = trigger_price(self.market, instrument.exchange, instrument.pair, request.side, request.trigger)
        if price is not None and reached(request.side, request.type, price, stop_ticks):
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

    def place_exits(self, stop: Order, target: Order) -> None:
        """Hand both exits of an entry to the venue, as their present attempts."""
        low, high = stop.stop_ticks, target.stop_ticks
        assert low is not None, "a stop has its price"
        assert high is not None, "a target has its price"
        message = PlaceExitsAtVenue(
            pair=stop.pair,
            qty_lots=stop.attempt_until - stop.attempt_from,
            stop_client_id=stop.venue_client_id,
            stop_ticks=low,
            target_client_id=target.venue_client_id,
            target_ticks=high,
        )
        self.kernel.outbox.send(self._place_exits, stop, target, message)

    def _place_exits(self, stop: Order, target: Order, message: PlaceExitsAtVenue) -> None:
        stop.sent_ns = target.sent_ns = self.kernel.clock.now_ns()
        self.venues[stop.wallet].place_exits(message)

    def cancel(self, order: Order) -> None:
        message = CancelAtVenue(client_id=order.venue_client_id, pair=order.pair, venue_order_id=order.venue_order_id)
        self.kernel.outbox.send(self.venues[order.wallet].cancel, message)

    def cancel_stray(self, order: Order, client_id: str, venue_order_id: str) -> None:
        """Take back what stands at the venue under another attempt's id than the order's present one."""
        message = CancelAtVenue(client_id=client_id, pair=order.pair, venue_order_id=venue_order_id)
        self.kernel.outbox.send(self.venues[order.wallet].cancel, message)

    def amend(self, order: Order) -> None:
        asked = order.amend_requested
        assert asked is not None
        if order.attempt_from and asked.qty_lots is not None:
            asked = msgspec.structs.replace(asked, qty_lots=asked.qty_lots - order.attempt_from)
        message = AmendAtVenue(
            client_id=order.venue_client_id, pair=order.pair, amend=asked, venue_order_id=order.venue_order_id
        )
        self.kernel.outbox.send(self.venues[order.wallet].amend, message)
