"""A market maker: quotes both sides around the mid price of one pair, and leans against what it holds.

    tbx serve --strategy 'tbx.strategies_bridge.examples.market_maker:MarketMaker?pairs=BTC_USDT&size=500&most=2000'

The reservation price is what a coin is worth to somebody who holds `q` of them and wants `most / 2` (Avellaneda and
Stoikov, linear in the inventory):

    r = mid x (1 - skew x (q - most/2) / (most/2))        bid = r x (1 - spread/2)        ask = r x (1 + spread/2)

With too much it quotes lower, sells sooner and buys later; with too little the other way round. Both quotes are
post-only: they earn the spread, less the maker fee of both sides, or do not trade. On spot it can offer only what it
holds, so it begins by buying. With the default spread the fees of most exchanges are more than it earns.
"""

from decimal import Decimal
from typing import Final

from ..strategy import BookView, OwnOrder, Parameters, ParameterWrong, Strategy

SIDES: Final = ("buy", "sell")
SECOND_NS: Final = 1_000_000_000
PAUSE_NS: Final = 5 * SECOND_NS  # after a refusal: what a limit does not let through now, it will not at once


class MarketMaker(Strategy):
    """One order a side. A quote that is too far from where it should be is cancelled, and replaced once that is so."""

    name = "market_maker"
    pairs = ("BTC_USDT",)
    exchange = "binance"
    cancel_on_stop = True  # quotes must not rest unattended

    def __init__(self, parameters: Parameters) -> None:
        super().__init__(parameters)
        if len(self.pairs) != 1 or self.exchange is None:
            raise ParameterWrong("pairs, exchange: expected one pair at one exchange")
        self.size = parameters.decimal("size", "500", least="0.00000001")  # of a quote, worth in quote currency
        self.most = parameters.decimal("most", self.size * 4, least=self.size)  # to hold, worth in quote currency
        self.spread = parameters.decimal("spread", "0.0004", least="0.00001", most="0.5")  # between bid and ask
        self.skew = parameters.decimal("skew", "0.0002", least=0, most="0.5")  # of r, when it holds all or nothing
        self.tolerance = parameters.decimal("tolerance", "0.0001", least=0, most="0.5")  # a quote may be off by it
        self.interval_ns = int(parameters.decimal("interval", "0.25", least=0, most=3600) * SECOND_NS)
        self.quotes: dict[str, tuple[str, Decimal]] = {}  # side -> client id and price of what rests
        self.cancelling: dict[str, int] = {}  # client id -> when it was asked for
        self.quoted_ns = 0
        self.paused_ns = dict.fromkeys(SIDES, 0)  # until when a side is not quoted

    def on_book(self, book: BookView) -> None:
        if self.now_ns - self.quoted_ns < self.interval_ns:
            return
        self.quoted_ns = self.now_ns
        held = self.position().quantity
        size, half = self.size / book.mid, self.most / book.mid / 2
        worth = book.mid * (1 - self.skew * (held - half) / half)
        self._quote("buy", self._bid(book, worth), min(size, 2 * half - held), size)
        self._quote("sell", self._ask(book, worth), min(size, held), size)

    def _bid(self, book: BookView, worth: Decimal) -> Decimal:
        """Never so high that it would trade at once."""
        return min(self.round_price(worth * (1 - self.spread / 2)), book.ask - book.tick)

    def _ask(self, book: BookView, worth: Decimal) -> Decimal:
        return max(self.round_price(worth * (1 + self.spread / 2), up=True), book.bid + book.tick)

    def _quote(self, side: str, price: Decimal, quantity: Decimal, size: Decimal) -> None:
        """Make the order of a side what it should be, one step at a time."""
        wanted = quantity >= size / 2  # less is not worth an order
        resting = self.quotes.get(side)
        if resting is None:
            if wanted and self.now_ns >= self.paused_ns[side]:
                client_id = self.submit(
                    side="buy" if side == "buy" else "sell",
                    type="limit",
                    quantity=self.round_quantity(quantity),
                    price=price,
                    post_only=True,
                )
                self.quotes[side] = client_id, price
            return
        client_id, at = resting
        off = abs(price - at) > at * self.tolerance
        if (off or not wanted) and self.now_ns - self.cancelling.get(client_id, -PAUSE_NS) >= PAUSE_NS:
            self.cancelling[client_id] = self.now_ns  # asked again where the exchange refused, or never answered
            self.cancel(client_id)

    def on_order(self, order: OwnOrder) -> None:
        """A quote has ended: filled, cancelled, or refused (the market had moved). The next book makes a new one."""
        self.cancelling.pop(order.client_id, None)
        for side in SIDES:
            if self.quotes.get(side, ("",))[0] == order.client_id:
                del self.quotes[side]
        if order.status in ("refused", "rejected") and order.code != "POST_ONLY_WOULD_TAKE":
            self.paused_ns[order.side] = self.now_ns + PAUSE_NS
            self.log(f"{order.side} {order.quantity} at {order.price}: {order.status}", code=order.code)
