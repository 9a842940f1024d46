"""A symbol's trades: the last price, averages, the last day in numbers, minute bars.

Always true here: trades come in the order of their time; sums are exact; what is kept is bounded (TRADES_KEPT,
BARS_KEPT).
"""

from __future__ import annotations

from collections import deque
from itertools import islice

from msgspec import Struct

from .records import UNIT, Trade

TRADES_KEPT = 100_000
BARS_KEPT = 3 * 1440  # minutes
MINUTE_MS = 60_000
DAY_MINUTES = 1440
SUMS_KEPT = 32  # windows whose earlier bars are summed up already


class Bar(Struct):
    """A minute with trades. Minutes without trades have no bar."""

    open_ms: int
    open: int
    high: int
    low: int
    close: int
    volume: int  # base
    quote_volume: int
    count: int
    taker_buy_volume: int
    taker_buy_quote_volume: int
    first_trade_id: int
    last_trade_id: int


class DayStats(Struct, frozen=True):
    """The trades of a rolling window. Prices are 0 and trade ids -1 where there were none."""

    open_ms: int
    close_ms: int
    open: int = 0
    high: int = 0
    low: int = 0
    last: int = 0
    last_qty: int = 0
    prev_close: int = 0  # the last price before the window
    volume: int = 0
    quote_volume: int = 0
    count: int = 0
    first_trade_id: int = -1
    last_trade_id: int = -1

    @property
    def weighted_average(self) -> int:
        return self.quote_volume * UNIT // self.volume if self.volume else 0


class Tape:
    """What was traded. `average_mins` is the window that filters ask for on every order."""

    def __init__(self, average_mins: int) -> None:
        self.trades: deque[Trade] = deque(maxlen=TRADES_KEPT)
        self.bars: deque[Bar] = deque(maxlen=BARS_KEPT)
        self.last_price = 0
        self.trade_id = 0
        self._window_ms = average_mins * MINUTE_MS
        self._window: deque[tuple[int, int, int]] = deque()  # time, quantity, quote
        self._qty = 0
        self._quote = 0
        self._sums: dict[int, tuple[Bar, tuple[Bar, int, int, int, int, int, int]]] = {}

    def add(self, trade: Trade) -> None:
        price, qty, quote, time_ms = trade.price, trade.qty, trade.quote_qty, trade.time_ms
        self.last_price = price
        self.trades.append(trade)
        self._window.append((time_ms, qty, quote))
        self._qty += qty
        self._quote += quote
        self._forget(time_ms)
        bars = self.bars
        bar = bars[-1] if bars else None
        if bar is None or time_ms >= bar.open_ms + MINUTE_MS:
            open_ms = time_ms - time_ms % MINUTE_MS
            bar = Bar(open_ms, price, price, price, price, 0, 0, 0, 0, 0, trade.trade_id, 0)
            bars.append(bar)
        if price > bar.high:
            bar.high = price
        elif price < bar.low:
            bar.low = price
        bar.close = price
        bar.volume += qty
        bar.quote_volume += quote
        bar.count += 1
        bar.last_trade_id = trade.trade_id
        if not trade.buyer_is_maker:
            bar.taker_buy_volume += qty
            bar.taker_buy_quote_volume += quote

    def reference_price(self, now_ms: int) -> int:
        """What filters measure prices against: the average, the last price where there is none, 0 before any trade."""
        self._forget(now_ms)
        return self._quote * UNIT // self._qty if self._qty else self.last_price

    def avg_price(self, mins: int, now_ms: int) -> tuple[int, int]:
        """(average price weighted by quantity, time of the last trade) over the last minutes; else the last price."""
        last_ms = self.trades[-1].time_ms if self.trades else 0
        if mins * MINUTE_MS == self._window_ms:
            return self.reference_price(now_ms), last_ms
        since = now_ms - mins * MINUTE_MS
        qty = quote = 0
        for trade in reversed(self.trades):
            if trade.time_ms <= since:
                break
            qty += trade.qty
            quote += trade.quote_qty
        return (quote * UNIT // qty if qty else self.last_price), last_ms

    def stats(self, now_ms: int, minutes: int = DAY_MINUTES) -> DayStats:
        """The rolling window of whole minutes that ends with the current one."""
        since = now_ms - now_ms % MINUTE_MS - (minutes - 1) * MINUTE_MS
        current = self.bars[-1] if self.bars else None
        if current is None or current.open_ms < since:
            return DayStats(since, now_ms, last=self.last_price, prev_close=self.last_price)
        first, high, low, volume, quote_volume, count, before = self._earlier(since, current)
        return DayStats(
            open_ms=since,
            close_ms=now_ms,
            open=first.open,
            high=max(high, current.high),
            low=min(low, current.low) if low else current.low,
            last=current.close,
            last_qty=self.trades[-1].qty,
            prev_close=before or first.open,
            volume=volume + current.volume,
            quote_volume=quote_volume + current.quote_volume,
            count=count + current.count,
            first_trade_id=first.first_trade_id,
            last_trade_id=current.last_trade_id,
        )

    def _earlier(self, since: int, current: Bar) -> tuple[Bar, int, int, int, int, int, int]:
        """The window's bars before the current one: first, high, low, volume, quote volume, count, close before it.

        They change once a minute, tickers are asked for much more often: the last answer of each window is kept.
        """
        kept = self._sums.get(current.open_ms - since)
        if kept is not None and kept[0] is current:
            return kept[1]
        first, before = current, 0
        window: list[Bar] = []
        for bar in islice(reversed(self.bars), 1, None):
            if bar.open_ms < since:
                before = bar.close
                break
            window.append(bar)
            first = bar
        sums = (
            first,
            max((bar.high for bar in window), default=0),
            min((bar.low for bar in window), default=0),
            sum(bar.volume for bar in window),
            sum(bar.quote_volume for bar in window),
            sum(bar.count for bar in window),
            before,
        )
        if len(self._sums) >= SUMS_KEPT:
            self._sums.clear()
        self._sums[current.open_ms - since] = (current, sums)
        return sums

    def _forget(self, now_ms: int) -> None:
        window, since = self._window, now_ms - self._window_ms
        while window and window[0][0] <= since:
            _, qty, quote = window.popleft()
            self._qty -= qty
            self._quote -= quote
