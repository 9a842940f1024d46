"""A symbol with everything that belongs to it: book, trades, waiting orders, counters, seats.

Always true here: a tick times a step is a whole number of quote units, so every amount of a trade is exact.
"""

from __future__ import annotations

from .accounts import Account, Seat
from .matching import Book
from .records import UNIT, Symbol
from .stops import Stops
from .tape import Tape


class Market:
    """One symbol. Raises ValueError where amounts of its grid would not be exact."""

    def __init__(self, symbol: Symbol) -> None:
        filters = symbol.filters
        if filters.tick <= 0 or filters.step <= 0 or filters.tick * filters.step % UNIT:
            raise ValueError(
                f"{symbol.name}: tick {filters.tick} times step {filters.step} (both in 1e-8) is no multiple of "
                f"1e-8 of the quote asset; choose a coarser tick or step"
            )
        self.symbol = symbol
        self.name = symbol.name
        self.base = symbol.base
        self.quote = symbol.quote
        self.book = Book()
        self.tape = Tape(filters.avg_price_mins)
        self.stops = Stops()
        self.prices: list[int] = []  # traded since the waiting orders were last fed
        self.seats: dict[str, Seat] = {}
        self.next_order_id = [1]  # in a list, so that the book can count too
        self.execution_id = 0
        self.prevented_match_id = -1
        self.maker_rate = int(symbol.maker_rate * UNIT)
        self.taker_rate = int(symbol.taker_rate * UNIT)
        self._bands = tuple(
            int(multiplier * UNIT)
            for multiplier in (
                filters.bid_multiplier_down,
                filters.bid_multiplier_up,
                filters.ask_multiplier_down,
                filters.ask_multiplier_up,
            )
        )

    def seat(self, account: Account) -> Seat:
        """The account's place here; it gets one, and balances of both assets, when it first asks."""
        seat = self.seats.get(account.name)
        if seat is None:
            account.know(self.base)
            account.know(self.quote)
            self.seats[account.name] = seat = Seat(account)
        return seat

    def order_id(self) -> int:
        order_id = self.next_order_id[0]
        self.next_order_id[0] = order_id + 1
        return order_id

    def in_percent_band(self, is_buy: bool, price: int, reference: int) -> bool:
        """PERCENT_PRICE_BY_SIDE."""
        low, high = self._bands[:2] if is_buy else self._bands[2:]
        return low * reference <= price * UNIT <= high * reference
