"""The paper venue: takes orders like an exchange and fills them against a live, simulated or replayed book.

Always true here:
- A request arrives after the latency and never overtakes an earlier one. What an order meets is the book at its
  arrival.
- The same displayed lot never fills two orders (paper_liquidity.py); resting orders wait in the public queue
  (paper_queue.py).
- Paper orders do not see each other: one never fills another, and nothing of them is printed into the public market.
- A client id is taken once. A repeat of a known one is answered with the messages that the first one got.
- Everything random comes from the generator that is handed in.

Fees are price x quantity x rate in quote, or quantity x rate in base, as the instrument says, rounded down to the
currency's decimals, for each fill.
"""

import random
from collections import deque
from collections.abc import Callable, Sequence
from decimal import ROUND_DOWN, Decimal
from functools import partial
from typing import Any

import msgspec

from ..core.kernel.actor import Actor
from ..core.kernel.bus import Handler
from ..core.kernel.clock import MS_NS, SECOND_NS
from ..core.kernel.kernel import Kernel
from ..core.market.book import BUY, SELL
from ..core.market.data import MarketData, last_ticks, lots_at
from ..core.model.exact import tidy
from ..core.model.instruments import Instrument
from ..core.model.messages import (
    AmendAtVenue,
    AskAtVenue,
    BookUpdated,
    CancelAtVenue,
    PlaceAtVenue,
    PlaceExitsAtVenue,
    TradePrinted,
    VenueAccepted,
    VenueAmended,
    VenueEnded,
    VenueFilled,
    VenueRejected,
    VenueRequestFailed,
)
from .client import Capabilities, QueryAnswer, VenueStatus
from .paper_liquidity import Liquidity
from .paper_queue import PaperOrder, Queue

MINUTE_NS = 60 * SECOND_NS


class RequestArrived(msgspec.Struct, frozen=True):
    """The oldest request on its way to a paper venue is there."""

    venue: str


class PaperMarket:
    """What the venue keeps for one pair."""

    def __init__(self, instrument: Instrument, market: MarketData, rng: random.Random, cancel_share: float) -> None:
        self.instrument = instrument
        self.book = book = market.book(instrument.exchange, instrument.pair)
        self.bids = Queue(+1, rng, cancel_share)
        self.asks = Queue(-1, rng, cancel_share)
        self.for_buys = Liquidity(lambda n: book.levels(SELL, n), lambda prices: lots_at(book, SELL, prices), +1)
        self.for_sells = Liquidity(lambda n: book.levels(BUY, n), lambda prices: lots_at(book, BUY, prices), -1)
        self._quote_rates = [rate * instrument.tick * instrument.lot for rate in self._rates]
        self._base_rates = [rate * instrument.lot for rate in self._rates]
        self._quote_unit = Decimal(1).scaleb(-instrument.quote_decimals)
        self._base_unit = Decimal(1).scaleb(-instrument.base_decimals)

    @property
    def _rates(self) -> tuple[Decimal, Decimal]:
        return self.instrument.taker_fee, self.instrument.maker_fee

    def queue(self, order: PaperOrder) -> Queue:
        return self.bids if order.request.side == "buy" else self.asks

    def fee(self, side: str, price_ticks: int, qty_lots: int, maker: bool) -> tuple[Decimal, str]:
        """The fee of a fill and its currency."""
        currency = self.instrument.fee_currency(side)
        if currency == self.instrument.quote:
            fee, unit = price_ticks * qty_lots * self._quote_rates[maker], self._quote_unit
        else:
            fee, unit = qty_lots * self._base_rates[maker], self._base_unit
        return tidy(fee.quantize(unit, ROUND_DOWN)), currency


class PaperVenue(Actor):
    """One exchange, on paper. A VenueClient, and an actor that follows the exchange's books and trades.

    `run` tells this process from every earlier one of the same node, so that its trade ids are new.
    """

    INBOX_MAX = 100_000  # requests on their way; more are rejected
    OPEN_MAX = 100_000  # resting orders; more are rejected
    ENDED_KEPT = 10_000  # ended orders whose messages are kept for repeats and queries

    capabilities = Capabilities(
        tifs=frozenset({"GTC", "IOC", "FOK", "GTD"}),  # GTD rests like GTC: the service cancels it in time
        post_only=True,
        amend=True,
        amend_up=True,
        amend_price=True,
        amend_keeps_queue=True,
        linked_orders=False,
        market_guard=True,
    )

    def __init__(
        self,
        kernel: Kernel,
        exchange: str,
        market: MarketData,
        *,
        rng: random.Random,
        run: str,
        latency_ns: int = 5 * MS_NS,
        jitter_ns: int = 0,
        cancel_share: float = 1.0,
        rate_limit: int = 1_200,
    ) -> None:
        super().__init__(kernel)
        self.name = exchange
        self.market = market
        self.latency_ns = latency_ns
        self.jitter_ns = jitter_ns  # at most; even between 0 and this
        self.rate_limit = rate_limit  # requests a minute, shown in health; paper enforces none
        self.filled_count = 0
        self._rng = rng
        self._run = run
        self._number = 0  # of the last venue order or trade
        self._running = False
        self._instruments = [i for i in market.instruments.values() if i.exchange == exchange]
        self._markets = {i.pair: PaperMarket(i, market, rng, cancel_share) for i in self._instruments}
        self._inbox: deque[tuple[Callable[[Any], None], Any]] = deque()
        self._arrived = RequestArrived(exchange)
        self._open: dict[str, PaperOrder] = {}
        self._messages: dict[str, list[Any]] = {}  # client id -> what was answered
        self._ended: deque[str] = deque()

    # --- the client's side: called as effects

    def instruments(self) -> Sequence[Instrument]:
        return self._instruments

    def place(self, request: PlaceAtVenue) -> None:
        if len(self._inbox) >= self.INBOX_MAX:
            reason = f"more than {self.INBOX_MAX} requests are on their way to {self.name}"
            self.kernel.input(self._rejected(request.client_id, "RATE_LIMIT_EXCEEDED", reason))
            return
        self._send(self._place, request)

    def place_exits(self, request: PlaceExitsAtVenue) -> None:
        for client_id in (request.stop_client_id, request.target_client_id):
            reason = "exits on paper are watched by the service"
            self.kernel.input(self._rejected(client_id, "NOT_SUPPORTED", reason))

    def cancel(self, request: CancelAtVenue) -> None:
        self._send(self._cancel, request)

    def amend(self, request: AmendAtVenue) -> None:
        self._send(self._amend, request)

    @property
    def unavailable(self) -> str:
        """A book that is not fresh refuses by itself."""
        return ""

    def query(self, asked: AskAtVenue, answer: QueryAnswer) -> None:
        if self._running:
            self._send(self._query, (asked.client_id, answer))
        else:
            answer(None)

    def status(self) -> VenueStatus:
        now_ns = self.clock.now_ns()
        last_ns = max((self.market.updated_ns(self.name, i.pair) for i in self._instruments), default=0)
        fresh = self._running and any(self.market.fresh(self.name, i.pair, now_ns) for i in self._instruments)
        return VenueStatus(
            status="connected" if fresh else "stale" if self._running else "disconnected",
            last_ping_ms=last_ns // MS_NS or None,
            rate_limit_remaining=self.rate_limit,
            rate_limit_reset_ms=(now_ns // MINUTE_NS + 1) * MINUTE_NS // MS_NS,
            reason="" if fresh else "no book was updated in the last 2 s" if self._running else "not started",
        )

    @property
    def open_count(self) -> int:
        return len(self._open)

    def seed_order(self, request: PlaceAtVenue, venue_order_id: str, filled_lots: int, timestamp_ns: int) -> None:
        """Take a resting order over from before a restart; it joins the back of the queue."""
        assert request.price_ticks is not None, "only limit orders rest"
        order = PaperOrder(
            request=request,
            venue_order_id=venue_order_id,
            qty_lots=request.qty_lots,
            filled_lots=filled_lots,
            price_ticks=request.price_ticks,
        )
        accepted = VenueAccepted(
            venue=self.name, client_id=request.client_id, venue_order_id=venue_order_id, timestamp_ns=timestamp_ns
        )
        self._messages[request.client_id] = [accepted]
        self._open[request.client_id] = order
        self._join(order)

    # --- the actor's side

    def handles(self) -> dict[type, Handler]:
        return {RequestArrived: self._next, BookUpdated: self._book_updated, TradePrinted: self._trade_printed}

    def start(self) -> None:
        self._running = True

    def stop(self) -> None:
        """What is still on its way is lost, as on a line that breaks; `query` tells after the next start."""
        self._running = False
        self._inbox.clear()

    def _send(self, action: Callable[[Any], None], request: Any) -> None:
        if not self._running:
            return
        self._inbox.append((action, request))
        delay_ns = self.latency_ns
        if self.jitter_ns:
            delay_ns += int(self._rng.random() * self.jitter_ns)
        if delay_ns:
            self.clock.call_in(delay_ns, self.kernel.input, self._arrived)
        else:
            self.clock.call_soon(self.kernel.input, self._arrived)

    def _next(self, message: RequestArrived) -> None:
        if message.venue == self.name and self._inbox:
            action, request = self._inbox.popleft()
            action(request)

    def _trade_printed(self, trade: TradePrinted) -> None:
        if trade.exchange != self.name:
            return
        market = self._markets[trade.pair]
        queue = market.bids if trade.buyer_is_maker else market.asks
        if queue.levels:
            queue.trade(trade.price_ticks, trade.qty_lots, self._fill_resting)

    def _book_updated(self, update: BookUpdated) -> None:
        if update.exchange != self.name:
            return
        market = self._markets[update.pair]
        market.for_buys.moved()
        market.for_sells.moved()
        if market.bids.levels or market.asks.levels:
            self._look(market)

    # --- orders arrive

    def _place(self, request: PlaceAtVenue) -> None:
        known = self._messages.get(request.client_id)
        if known is not None:
            self._repeat(known)
            return
        self._messages[request.client_id] = []
        market = self._markets.get(request.pair)
        refused = self._refusal(request, market)
        if refused is not None or market is None:
            code, reason = refused or ("INVALID_PAIR", f"{self.name} does not list {request.pair}")
            self._reject(request.client_id, code, reason)
        elif request.type == "market":
            self._place_market(request, market)
        else:
            self._place_limit(request, market)

    def _refusal(self, request: PlaceAtVenue, market: PaperMarket | None) -> tuple[str, str] | None:
        """Why this order cannot be taken, if it cannot: (code, reason)."""
        if market is None:
            return "INVALID_PAIR", f"{self.name} does not list {request.pair}"
        if request.qty_lots <= 0 or (request.type == "limit" and not request.price_ticks):
            return "INVALID_ORDER", "an order needs a positive quantity, a limit order a price"
        if not market.instrument.trading:
            return "MARKET_CLOSED", f"{request.pair} is not trading at {self.name}"
        if not self.market.fresh(self.name, request.pair, self.clock.now_ns()):
            return "MARKET_DATA_STALE", f"the book of {request.pair} at {self.name} is not up to date"
        if len(self._open) >= self.OPEN_MAX:
            return "TOO_MANY_ORDERS", f"{self.OPEN_MAX} orders are open at {self.name}"
        if request.post_only and request.price_ticks and _crosses(_side(request), request.price_ticks, market):
            return "POST_ONLY_WOULD_TAKE", "the order would trade at once"
        return None

    def _place_market(self, request: PlaceAtVenue, market: PaperMarket) -> None:
        left = self._take(request, self._next_id("O"), market, request.qty_lots, request.price_ticks)
        if left:
            reason = "no liquidity left" if request.price_ticks is None else "no liquidity left within the guard price"
            self._end(request.client_id, "expired", reason)
        else:
            self._remember_ended(request.client_id)

    def _place_limit(self, request: PlaceAtVenue, market: PaperMarket) -> None:
        assert request.price_ticks is not None
        venue_order_id = self._next_id("O")
        self._accept(request.client_id, venue_order_id)
        left = self._take(request, venue_order_id, market, request.qty_lots, request.price_ticks)
        if not left:
            self._remember_ended(request.client_id)
        elif request.tif in ("IOC", "FOK"):
            self._end(request.client_id, "expired", f"{request.tif}: no liquidity left at the limit price")
        else:
            order = PaperOrder(
                request=request,
                venue_order_id=venue_order_id,
                qty_lots=request.qty_lots,
                filled_lots=request.qty_lots - left,
                price_ticks=request.price_ticks,
            )
            self._open[request.client_id] = order
            self._join(order)

    def _take(
        self, request: PlaceAtVenue, venue_order_id: str, market: PaperMarket, lots: int, limit_ticks: int | None
    ) -> int:
        """Trade against what is displayed; returns what is left."""
        liquidity = market.for_buys if request.side == "buy" else market.for_sells
        if request.tif == "FOK" and not liquidity.offers(lots, limit_ticks):
            return lots
        for price_ticks, taken in liquidity.take(lots, limit_ticks):
            lots -= taken
            self._fill(request, venue_order_id, market, price_ticks, taken, False)
        return lots

    def _cancel(self, request: CancelAtVenue) -> None:
        order = self._open.get(request.client_id)
        if order is None:
            self._fail(request.client_id, "cancel", "UNKNOWN_ORDER", "no such order is open")
            return
        self._leave(order)
        self._end(request.client_id, "cancelled", "cancelled on request")

    def _amend(self, request: AmendAtVenue) -> None:
        order = self._open.get(request.client_id)
        if order is None:
            self._fail(request.client_id, "amend", "UNKNOWN_ORDER", "no such order is open")
            return
        amend = request.amend
        qty_lots = order.qty_lots if amend.qty_lots is None else amend.qty_lots
        price_ticks = order.price_ticks if amend.price_ticks is None else amend.price_ticks
        market = self._markets[order.request.pair]
        if qty_lots <= order.filled_lots or price_ticks <= 0:
            reason = f"the quantity must be more than the {order.filled_lots} lots that are filled, the price positive"
            self._fail(request.client_id, "amend", "INVALID_AMEND", reason)
        elif price_ticks == order.price_ticks and qty_lots <= order.qty_lots:
            order.qty_lots = qty_lots  # it keeps its place
            self._amended(order)
        elif order.request.post_only and _crosses(_side(order.request), price_ticks, market):
            self._fail(request.client_id, "amend", "POST_ONLY_WOULD_TAKE", "at that price it would trade at once")
        else:
            self._replace(order, market, qty_lots, price_ticks)

    def _replace(self, order: PaperOrder, market: PaperMarket, qty_lots: int, price_ticks: int) -> None:
        """More quantity or another price: the order arrives anew, behind everybody."""
        market.queue(order).leave(order)
        order.qty_lots, order.price_ticks = qty_lots, price_ticks
        self._amended(order)
        if self.market.fresh(self.name, order.request.pair, self.clock.now_ns()):
            left = self._take(order.request, order.venue_order_id, market, order.left_lots, price_ticks)
            order.filled_lots = qty_lots - left
        if order.left_lots:
            self._join(order)
        else:
            del self._open[order.request.client_id]
            self._remember_ended(order.request.client_id)

    def _query(self, question: tuple[str, QueryAnswer]) -> None:
        client_id, answer = question
        known = self._messages.get(client_id)
        if known is not None:
            self._repeat(known)
        answer(known is not None)

    # --- orders rest

    def _join(self, order: PaperOrder) -> None:
        market = self._markets[order.request.pair]
        market.queue(order).join(order, self._in_sight(market, order))

    def _in_sight(self, market: PaperMarket, order: PaperOrder) -> int | None:
        """Lots displayed at the order's price on its own side; None where the book does not reach so far."""
        side = _side(order.request)
        last = last_ticks(market.book, side)
        if last is None or (order.price_ticks - last) * side < 0:
            return None
        return lots_at(market.book, side, [order.price_ticks])[0]

    def _leave(self, order: PaperOrder) -> None:
        self._markets[order.request.pair].queue(order).leave(order)
        del self._open[order.request.client_id]

    def _look(self, market: PaperMarket) -> None:
        """The book moved: places in the queues change, and prices that it crossed trade."""
        book = market.book
        for side, queue, liquidity in ((BUY, market.bids, market.for_buys), (SELL, market.asks, market.for_sells)):
            if queue.levels:
                queue.look(partial(lots_at, book, side), last_ticks(book, side))
                self._cross(market, side, queue, liquidity)

    def _cross(self, market: PaperMarket, side: int, queue: Queue, liquidity: Liquidity) -> None:
        """The other side reached resting orders: who came is taken from what is displayed now, at the order's price."""
        best = queue.best_ticks
        while best is not None and _crosses(side, best, market):
            order = queue.levels[best].orders[0]
            lots = sum(taken for _, taken in liquidity.take(order.left_lots, best))
            if lots:
                self._fill_resting(order, lots)
            if order.left_lots:
                return
            best = queue.best_ticks

    def _fill_resting(self, order: PaperOrder, lots: int) -> None:
        order.filled_lots += lots
        market = self._markets[order.request.pair]
        self._fill(order.request, order.venue_order_id, market, order.price_ticks, lots, True)
        if not order.left_lots:
            self._leave(order)
            self._remember_ended(order.request.client_id)

    # --- answers

    def _next_id(self, kind: str) -> str:
        self._number += 1
        return f"P{self._run}-{kind}{self._number}"

    def _answer(self, client_id: str, message: Any) -> None:
        self._messages[client_id].append(message)
        self.bus.publish(message)

    def _repeat(self, messages: list[Any]) -> None:
        for message in tuple(messages):
            self.bus.publish(message)

    def _remember_ended(self, client_id: str) -> None:
        """Keep the answers of an ended order for a while."""
        self._ended.append(client_id)
        if len(self._ended) > self.ENDED_KEPT:
            self._messages.pop(self._ended.popleft(), None)

    def _accept(self, client_id: str, venue_order_id: str) -> None:
        now_ns = self.clock.now_ns()
        self._answer(
            client_id,
            VenueAccepted(venue=self.name, client_id=client_id, venue_order_id=venue_order_id, timestamp_ns=now_ns),
        )

    def _fill(
        self, request: PlaceAtVenue, venue_order_id: str, market: PaperMarket, price_ticks: int, lots: int, maker: bool
    ) -> None:
        fee, currency = market.fee(request.side, price_ticks, lots, maker)
        self.filled_count += 1
        self._answer(
            request.client_id,
            VenueFilled(
                venue=self.name,
                client_id=request.client_id,
                venue_order_id=venue_order_id,
                trade_id=self._next_id("T"),
                price_ticks=price_ticks,
                qty_lots=lots,
                fee=fee,
                fee_currency=currency,
                maker=maker,
                timestamp_ns=self.clock.now_ns(),
            ),
        )

    def _end(self, client_id: str, kind: Any, reason: str) -> None:
        now_ns = self.clock.now_ns()
        ended = VenueEnded(venue=self.name, client_id=client_id, kind=kind, reason=reason, timestamp_ns=now_ns)
        self._answer(client_id, ended)
        self._remember_ended(client_id)

    def _reject(self, client_id: str, code: str, reason: str) -> None:
        self._answer(client_id, self._rejected(client_id, code, reason))
        self._remember_ended(client_id)

    def _rejected(self, client_id: str, code: str, reason: str) -> VenueRejected:
        now_ns = self.clock.now_ns()
        return VenueRejected(venue=self.name, client_id=client_id, code=code, reason=reason, timestamp_ns=now_ns)

    def _amended(self, order: PaperOrder) -> None:
        self._answer(
            order.request.client_id,
            VenueAmended(
                venue=self.name,
                client_id=order.request.client_id,
                qty_lots=order.qty_lots,
                price_ticks=order.price_ticks,
                timestamp_ns=self.clock.now_ns(),
            ),
        )

    def _fail(self, client_id: str, request: Any, code: str, reason: str) -> None:
        now_ns = self.clock.now_ns()
        self.bus.publish(
            VenueRequestFailed(
                venue=self.name, client_id=client_id, request=request, code=code, reason=reason, timestamp_ns=now_ns
            )
        )


def _side(request: PlaceAtVenue) -> int:
    return BUY if request.side == "buy" else SELL


def _crosses(side: int, price_ticks: int, market: PaperMarket) -> bool:
    """Whether the best displayed price of the other side would trade with an order at this price."""
    book = market.book
    if side == BUY:
        return bool(book.best_ask_lots) and price_ticks >= book.best_ask_ticks
    return bool(book.best_bid_lots) and price_ticks <= book.best_bid_ticks
