"""Held orders that wait for a price: stops and targets, kept here and, as orders, in Redis.

    fires when   stop_loss      take_profit
    sell         price <= stop  price >= stop       price: the bid, or the last trade
    buy          price >= stop  price <= stop       price: the ask, or the last trade

Always true here: a book update that reaches no trigger costs two comparisons, however many wait.
"""

from collections.abc import Callable

from ..kernel.actor import Actor
from ..kernel.bus import Handler
from ..kernel.kernel import Kernel
from ..market.data import MarketData
from ..model.messages import BookUpdated, TradePrinted, TriggerReached
from ..model.records import Order, Side, TriggerSource

_NEVER_BELOW = -1
_NEVER_ABOVE = 1 << 62


def falls(side: Side, order_type: str) -> bool:
    """Whether the trigger fires when the price falls to the stop; otherwise it fires when the price rises to it."""
    return (side == "sell") == (order_type == "stop_loss")


def reached(side: Side, order_type: str, price_ticks: int, stop_ticks: int) -> bool:
    return price_ticks <= stop_ticks if falls(side, order_type) else price_ticks >= stop_ticks


def trigger_price(market: MarketData, exchange: str, pair: str, side: Side, source: TriggerSource) -> int | None:
    """The price in ticks that a trigger of this side and source looks at; None while there is none."""
    if source == "last":
        return market.last(exchange, pair)
    quote = market.quote(exchange, pair)
    return None if quote is None else quote[0] if side == "sell" else quote[1]


class _Watch:
    """The triggers that look at one price of one market."""

    __slots__ = ("above", "below", "falling", "rising")

    def __init__(self) -> None:
        self.falling: dict[str, int] = {}  # order id -> stop, fires at or below
        self.rising: dict[str, int] = {}  # fires at or above
        self.below = _NEVER_BELOW  # the highest of falling
        self.above = _NEVER_ABOVE  # the lowest of rising

    def add(self, order_id: str, stop: int, falling: bool) -> None:
        if falling:
            self.falling[order_id] = stop
            self.below = max(self.below, stop)
        else:
            self.rising[order_id] = stop
            self.above = min(self.above, stop)

    def remove(self, order_id: str, falling: bool) -> None:
        if falling:
            if self.falling.pop(order_id) == self.below:
                self.below = max(self.falling.values(), default=_NEVER_BELOW)
        elif self.rising.pop(order_id) == self.above:
            self.above = min(self.rising.values(), default=_NEVER_ABOVE)

    def fired(self, price: int) -> list[str]:
        hits = [order_id for order_id, stop in self.falling.items() if price <= stop]
        hits += [order_id for order_id, stop in self.rising.items() if price >= stop]
        return hits


class Triggers(Actor):
    """Watches books and trades, publishes TriggerReached once for each armed order that is reached."""

    def __init__(self, kernel: Kernel, market: MarketData) -> None:
        super().__init__(kernel)
        self.market = market
        self._bid: dict[tuple[str, str], _Watch] = {}
        self._ask: dict[tuple[str, str], _Watch] = {}
        self._last: dict[tuple[str, str], _Watch] = {}
        self._where: dict[str, tuple[_Watch, bool]] = {}
        # Whether an order (by its id) may have been sent by a process before this one, and that is not compared yet:
        # one that is reached meanwhile waits for `release`. Set by who compares.
        self.not_yet: Callable[[str], bool] = lambda _: False
        self._held_back: dict[str, int] = {}  # order id -> the price that reached it first

    def handles(self) -> dict[type, Handler]:
        return {BookUpdated: self.on_book, TradePrinted: self.on_trade}

    def armed(self, order_id: str) -> bool:
        return order_id in self._where

    def arm(self, order: Order) -> None:
        """Watch for the order's stop price, or for its new one. One that was held back stays so: it may be resized
        by what was found out meanwhile, and the market need not move again."""
        held_back = self._held_back.get(order.order_id)
        self.disarm(order.order_id)
        assert order.stop_ticks is not None
        side = self._last if order.trigger == "last" else self._bid if order.side == "sell" else self._ask
        watch = side.setdefault((order.exchange, order.pair), _Watch())
        falling = falls(order.side, order.type)
        watch.add(order.order_id, order.stop_ticks, falling)
        self._where[order.order_id] = (watch, falling)
        if held_back is not None and reached(order.side, order.type, held_back, order.stop_ticks):
            self._held_back[order.order_id] = held_back

    def disarm(self, order_id: str) -> None:
        self._held_back.pop(order_id, None)
        found = self._where.pop(order_id, None)
        if found is not None:
            watch, falling = found
            watch.remove(order_id, falling)

    def on_book(self, message: BookUpdated) -> None:
        key = (message.exchange, message.pair)
        bids, asks = self._bid.get(key), self._ask.get(key)
        if bids is None and asks is None:
            return
        quote = self.market.quote(message.exchange, message.pair)
        if quote is None:
            return
        bid, ask = quote
        if bids is not None and (bid <= bids.below or bid >= bids.above):
            self._fire(bids, bid, message.timestamp_ns)
        if asks is not None and (ask <= asks.below or ask >= asks.above):
            self._fire(asks, ask, message.timestamp_ns)

    def on_trade(self, message: TradePrinted) -> None:
        watch = self._last.get((message.exchange, message.pair))
        if watch is None:
            return
        price = message.price_ticks
        if price <= watch.below or price >= watch.above:
            self._fire(watch, price, message.timestamp_ns)

    def _fire(self, watch: _Watch, price: int, timestamp_ns: int) -> None:
        for order_id in watch.fired(price):
            if self.not_yet(order_id):
                self._held_back.setdefault(order_id, price)
                continue
            self.disarm(order_id)
            self.bus.publish(TriggerReached(order_id, price, timestamp_ns))

    def release(self) -> None:
        """What was reached and held back sells now, where it still waits."""
        for order_id, price in list(self._held_back.items()):
            if self.not_yet(order_id):
                continue
            del self._held_back[order_id]
            if self.armed(order_id):
                self.disarm(order_id)
                self.bus.publish(TriggerReached(order_id, price, self.clock.now_ns()))
