"""Candlesticks from what was traded: minute bars put together, or single trades for seconds.

Always true here: a candle begins at a multiple of its length (weeks on Monday, months on the first), a candle without
trades is flat at the close before it, and there is none before the first trade.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from msgspec import Struct

from ..exchange.records import Trade
from ..exchange.tape import Bar, Tape

SECOND_MS = 1000
MINUTE_MS = 60_000
HOUR_MS = 3_600_000
DAY_MS = 86_400_000
WEEK_MS = 7 * DAY_MS
MONTH = "1M"
MONDAY_MS = 4 * DAY_MS  # 1970-01-05

INTERVALS = {
    "1s": SECOND_MS,
    "1m": MINUTE_MS,
    "3m": 3 * MINUTE_MS,
    "5m": 5 * MINUTE_MS,
    "15m": 15 * MINUTE_MS,
    "30m": 30 * MINUTE_MS,
    "1h": HOUR_MS,
    "2h": 2 * HOUR_MS,
    "4h": 4 * HOUR_MS,
    "6h": 6 * HOUR_MS,
    "8h": 8 * HOUR_MS,
    "12h": 12 * HOUR_MS,
    "1d": DAY_MS,
    "3d": 3 * DAY_MS,
    "1w": WEEK_MS,
    MONTH: 0,  # by the calendar
}


class Kline(Struct):
    """One candle. `close_ms` is its last millisecond."""

    open_ms: int
    close_ms: int
    open: int
    high: int
    low: int
    close: int
    volume: int = 0
    quote_volume: int = 0
    count: int = 0
    taker_buy_volume: int = 0
    taker_buy_quote_volume: int = 0
    first_trade_id: int = -1
    last_trade_id: int = -1


def begins(time_ms: int, interval: str, offset_ms: int = 0) -> int:
    """When the candle that `time_ms` lies in began; `offset_ms` is the client's time zone, east positive."""
    local_ms = time_ms + offset_ms
    if interval == MONTH:
        day = datetime.fromtimestamp(local_ms // 1000, UTC)
        return _month_ms(day.year, day.month) - offset_ms
    length_ms = INTERVALS[interval]
    shift_ms = MONDAY_MS if length_ms == WEEK_MS else 0
    return (local_ms - shift_ms) // length_ms * length_ms + shift_ms - offset_ms


def follows(open_ms: int, interval: str, offset_ms: int = 0) -> int:
    """When the candle after the one that begins at `open_ms` begins."""
    if interval != MONTH:
        return open_ms + INTERVALS[interval]
    day = datetime.fromtimestamp((open_ms + offset_ms) // 1000, UTC)
    return _month_ms(day.year + day.month // 12, day.month % 12 + 1) - offset_ms


def klines(
    tape: Tape,
    interval: str,
    now_ms: int,
    start_ms: int | None = None,
    end_ms: int | None = None,
    limit: int = 500,
    offset_ms: int = 0,
) -> list[Kline]:
    """At most `limit` candles that begin from `start_ms` to `end_ms`: the first of them with a start, else the last."""
    end_ms = now_ms if end_ms is None else min(end_ms, now_ms)
    candles: list[Kline] = []
    for part in _parts(tape, interval):
        open_ms = begins(part.open_ms, interval, offset_ms)
        while candles and candles[-1].close_ms + 1 < open_ms:
            _append_flat(candles, interval, offset_ms)
        if candles and candles[-1].open_ms == open_ms:
            _add(candles[-1], part)
        else:
            part.open_ms = open_ms
            part.close_ms = follows(open_ms, interval, offset_ms) - 1
            candles.append(part)
    while candles and candles[-1].close_ms < now_ms:
        _append_flat(candles, interval, offset_ms)
    chosen = [candle for candle in candles if (start_ms or 0) <= candle.open_ms <= end_ms]
    return chosen[:limit] if start_ms is not None else chosen[-limit:]


def _parts(tape: Tape, interval: str) -> Iterable[Kline]:
    """What candles are made of, in order of time, each free to be changed."""
    return map(_of_trade, tape.trades) if interval == "1s" else map(_of_bar, tape.bars)


def _of_bar(bar: Bar) -> Kline:
    return Kline(
        bar.open_ms,
        bar.open_ms,
        bar.open,
        bar.high,
        bar.low,
        bar.close,
        bar.volume,
        bar.quote_volume,
        bar.count,
        bar.taker_buy_volume,
        bar.taker_buy_quote_volume,
        bar.first_trade_id,
        bar.last_trade_id,
    )


def _of_trade(trade: Trade) -> Kline:
    price, taken = trade.price, not trade.buyer_is_maker
    return Kline(
        trade.time_ms,
        trade.time_ms,
        price,
        price,
        price,
        price,
        trade.qty,
        trade.quote_qty,
        1,
        trade.qty if taken else 0,
        trade.quote_qty if taken else 0,
        trade.trade_id,
        trade.trade_id,
    )


def _add(candle: Kline, part: Kline) -> None:
    candle.high = max(candle.high, part.high)
    candle.low = min(candle.low, part.low)
    candle.close = part.close
    candle.volume += part.volume
    candle.quote_volume += part.quote_volume
    candle.count += part.count
    candle.taker_buy_volume += part.taker_buy_volume
    candle.taker_buy_quote_volume += part.taker_buy_quote_volume
    if candle.first_trade_id < 0:
        candle.first_trade_id = part.first_trade_id
    candle.last_trade_id = part.last_trade_id


def _append_flat(candles: list[Kline], interval: str, offset_ms: int) -> None:
    last = candles[-1]
    open_ms = last.close_ms + 1
    price = last.close
    candles.append(Kline(open_ms, follows(open_ms, interval, offset_ms) - 1, price, price, price, price))


def _month_ms(year: int, month: int) -> int:
    return int(datetime(year, month, 1, tzinfo=UTC).timestamp()) * 1000
