"""A matching engine in memory: accounts, filters, books, order lists, with the rules of Binance spot.

Nothing here reads a clock, draws chance by itself or does I/O: the same calls with the same times and seed give the
same events.
"""

from .exchange import Exchange
from .house import House
from .records import CancelReplaceError, ExchangeError

__all__ = ["CancelReplaceError", "Exchange", "ExchangeError", "House"]
