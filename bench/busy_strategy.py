"""A strategy for the benchmark: follows the mid of each pair, and every so often rests an order and takes it back."""

from __future__ import annotations

from tbx.strategies_bridge.strategy import BookView, OwnOrder, Parameters, Strategy

ORDER_EVERY = 2_000  # books


class Busy(Strategy):
    """What most strategies do with most books: a little arithmetic, and nothing."""

    exchange = "binance"

    def __init__(self, parameters: Parameters) -> None:
        super().__init__(parameters)
        self.seen = parameters.whole("phase", 0)  # so that they do not all submit at the same book
        self.averages = dict.fromkeys(self.pairs, 0.0)
        self.ended = 0

    def on_book(self, book: BookView) -> None:
        twice_mid = book.bid_ticks + book.ask_ticks
        average = self.averages[book.pair]
        self.averages[book.pair] = average + (twice_mid - average) * 0.05
        self.seen += 1
        if self.seen % ORDER_EVERY == 0:
            price = self.round_price(book.bid * 95 / 100, book.pair)
            quantity = self.round_quantity(20 / book.mid, book.pair)
            self.cancel_all()
            self.submit(pair=book.pair, side="buy", type="limit", quantity=quantity, price=price, post_only=True)

    def on_order(self, order: OwnOrder) -> None:
        self.ended += order.status == "cancelled"
