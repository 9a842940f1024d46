"""The house: liquidity from outside, as ordinary orders in the same queues, from an account with endless funds.

Always true here:
- What the house shows at a price is what it was last told to show, less what was traded since. More joins the queue at
  its back, less leaves from its back.
- A house level that reaches orders of accounts trades with them; one that reaches the house's own other side makes that
  give way. A house trade takes what is there, the house's own included, and is public.
- Only trades make events: PublicTrade for everybody, and the accounts' own.

Frames are Binance's, e.g. (quantity "0" takes a level away):

    {"e":"depthUpdate","E":1704067200000,"s":"BTCUSDT","U":1001,"u":1003,"b":[["61999.50","0.31"]],"a":[]}
    {"e":"trade","E":1704067200000,"s":"BTCUSDT","t":7,"p":"62000.01","q":"0.002","T":1704067200000,"m":true,"M":true}
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import msgspec

from .exchange import Exchange
from .matching import BookSide, Entry

DIGITS = 8
ZEROS = tuple("0" * (DIGITS - digits) for digits in range(DIGITS + 1))
PRICES_KEPT = 65_536  # price texts whose units are remembered: frames name the same ones again and again
Pair = tuple[str, str]


class Frame(msgspec.Struct):
    """What may stand in a depth, trade or snapshot frame, alone or wrapped with its stream's name."""

    event: str = msgspec.field(name="e", default="")
    symbol: str = msgspec.field(name="s", default="")
    price: str = msgspec.field(name="p", default="")
    qty: str = msgspec.field(name="q", default="")
    buyer_is_maker: bool = msgspec.field(name="m", default=False)
    bid_changes: list[Pair] | str | int | None = msgspec.field(name="b", default=None)  # trades have order ids here
    ask_changes: list[Pair] | str | int | None = msgspec.field(name="a", default=None)
    bids: list[Pair] | None = None
    asks: list[Pair] | None = None
    data: msgspec.Raw = msgspec.Raw()


_frame = msgspec.json.Decoder(Frame)


def to_units(text: str) -> int:
    """Decimal text to units of 1e-8. Raises ValueError for what is no plain decimal or has more digits than that."""
    whole, _, fraction = text.partition(".")
    if len(fraction) > DIGITS:
        if fraction[DIGITS:].strip("0"):
            raise ValueError(f"{text} has more than {DIGITS} digits after the point")
        fraction = fraction[:DIGITS]
    digits = whole + fraction + ZEROS[len(fraction)]
    if not digits.isdigit():
        raise ValueError(f"{text} is no decimal number")
    return int(digits)


_price = lru_cache(PRICES_KEPT)(to_units)


class House:
    """The house's orders at one symbol."""

    def __init__(self, exchange: Exchange, symbol: str) -> None:
        self.market = exchange.market(symbol)
        self._floor = exchange.floor
        self._book = self.market.book
        self._tick = self.market.symbol.tick
        self._step = self.market.symbol.step

    def set_level(self, side: str, price: int, qty: int) -> None:
        """Show `qty` at a price, 0 for nothing. Quantities are rounded down to the step.

        What trades with accounts on the way is not shown any more. Raises ValueError for a price off the tick.
        """
        if price % self._tick or price <= 0:
            raise ValueError(f"{self.market.name}: {price} (in 1e-8) is no multiple of the tick {self._tick}")
        qty -= qty % self._step
        is_buy = side == "BUY"
        book = self._book
        if qty and book.crosses(is_buy, price):
            self._cross(is_buy, price, qty)
        else:
            book.set_house(is_buy, price, qty, self.market.next_order_id)

    def trade(self, side: str, price: int, qty: int) -> int:
        """The house takes up to `qty` at `price` or better, at once; returns how much it got."""
        qty -= qty % self._step
        is_buy = side == "BUY"
        floor, market, book = self._floor, self.market, self._book
        if not qty or not book.crosses(is_buy, price):
            return 0
        floor.begin()
        taker = Entry(market.order_id(), is_buy, price, qty)
        opposite = book.side(not is_buy)
        while taker.left and book.crosses(is_buy, price):
            level = opposite.best()
            assert level is not None
            maker = level.first
            assert maker is not None
            floor.trade(market, taker, maker, level.price, min(taker.left, maker.shown))
        floor.drain(market)
        floor.end()
        return qty - taker.left

    def apply_frame(self, raw: bytes) -> None:
        """A depth diff, a depth snapshot or a trade of this symbol, as the venue sends them; other kinds do nothing.

        Raises msgspec.DecodeError for what is not such JSON, ValueError for another symbol or numbers that cannot be.
        """
        frame = _frame.decode(raw)
        if len(bytes(frame.data)) > 0:
            frame = _frame.decode(frame.data)
        if frame.symbol and frame.symbol != self.market.name:
            raise ValueError(f"a frame of {frame.symbol} for the house of {self.market.name}")
        if frame.event == "depthUpdate":
            self._change(_levels(frame.bid_changes), _levels(frame.ask_changes))
        elif frame.event in ("trade", "aggTrade"):
            self.trade("SELL" if frame.buyer_is_maker else "BUY", to_units(frame.price), to_units(frame.qty))
        elif frame.bids is not None and frame.asks is not None:
            bids, asks = _levels(frame.bids), _levels(frame.asks)
            self._change(self._gone(self._book.bids, bids) + bids, self._gone(self._book.asks, asks) + asks)

    def _change(self, bids: list[tuple[int, int]], asks: list[tuple[int, int]]) -> None:
        """What goes, goes first: a book that has moved is not crossed on the way."""
        for side, levels in (("BUY", bids), ("SELL", asks)):
            for price, qty in levels:
                if not qty:
                    self.set_level(side, price, 0)
        for side, levels in (("BUY", bids), ("SELL", asks)):
            for price, qty in levels:
                if qty:
                    self.set_level(side, price, qty)

    @staticmethod
    def _gone(side: BookSide, levels: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """The house's prices that a snapshot does not have, with nothing."""
        named = {price for price, _ in levels}
        return [(price, 0) for price, level in side.levels.items() if level.house and price not in named]

    def _cross(self, is_buy: bool, price: int, qty: int) -> None:
        """Trade with the accounts' orders that a new level reaches, and show what is left of it."""
        floor, market, book = self._floor, self.market, self._book
        floor.begin()
        taker = Entry(market.order_id(), is_buy, price, qty)
        opposite = book.side(not is_buy)
        while taker.left and book.crosses(is_buy, price):
            level = opposite.best()
            assert level is not None
            maker = level.first
            assert maker is not None
            if maker.house:
                book.set_house(not is_buy, level.price, 0, market.next_order_id)
            else:
                floor.trade(market, taker, maker, level.price, min(taker.left, maker.shown))
        # Before anything that these trades triggered: that has to meet this level.
        book.set_house(is_buy, price, taker.left, market.next_order_id)
        floor.drain(market)
        floor.end()


def _levels(changes: Any) -> list[tuple[int, int]]:
    if not isinstance(changes, list):
        raise ValueError(f"levels expected, a list of [price, quantity], not {changes!r}")
    return [(_price(price), to_units(qty)) for price, qty in changes]
