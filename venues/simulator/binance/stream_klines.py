"""Candles as they are streamed: the one that runs, once a second, and each once more when it is closed.

Always true here: a candle is put together from the newest trades backwards, so that its cost is that of its own length
and not of everything that was ever traded. Where candles begin and end is `klines.py`'s business, as for REST.
"""

from __future__ import annotations

import re
from itertools import takewhile

from ..exchange.tape import Tape
from .documents import fixed
from .klines import INTERVALS, Kline, begins, follows

# kline_1m, or kline_1d@+08:00 for candles of another time zone
STREAM = re.compile(r"^kline_([0-9]+[smhdwM])(?:@([+-])(\d\d):(\d\d))?$")


def kline_stream(kind: str) -> tuple[str, int] | None:
    """(interval, time zone in ms) of a stream's name after the symbol; None for another kind of stream."""
    match = STREAM.match(kind)
    if match is None or match[1] not in INTERVALS:
        return None
    offset_ms = (int(match[3]) * 60 + int(match[4])) * 60_000 if match[2] else 0
    return match[1], -offset_ms if match[2] == "-" else offset_ms


def candle(tape: Tape, interval: str, open_ms: int, offset_ms: int = 0) -> Kline | None:
    """The candle that begins at `open_ms`; flat at the last price where it has no trades, None before any trade."""
    end_ms = follows(open_ms, interval, offset_ms)
    found = Kline(open_ms, end_ms - 1, 0, 0, 0, 0)
    if interval == "1s":
        for trade in takewhile(lambda trade: trade.time_ms >= open_ms, reversed(tape.trades)):
            if trade.time_ms < end_ms:
                taken = not trade.buyer_is_maker
                _before(found, trade.price, trade.price, trade.price, trade.price, trade.trade_id, trade.trade_id)
                _count(found, trade.qty, trade.quote_qty, 1, trade.qty * taken, trade.quote_qty * taken)
    else:
        for bar in takewhile(lambda bar: bar.open_ms >= open_ms, reversed(tape.bars)):
            if bar.open_ms < end_ms:
                _before(found, bar.open, bar.high, bar.low, bar.close, bar.first_trade_id, bar.last_trade_id)
                buys = (bar.taker_buy_volume, bar.taker_buy_quote_volume)
                _count(found, bar.volume, bar.quote_volume, bar.count, *buys)
    if not found.count:
        if not tape.last_price:
            return None
        found.open = found.high = found.low = found.close = tape.last_price
    return found


def _before(found: Kline, first: int, high: int, low: int, last: int, first_id: int, last_id: int) -> None:
    """Takes in what was traded before all that the candle holds."""
    if not found.count:
        found.close, found.high, found.low, found.last_trade_id = last, high, low, last_id
    found.open, found.first_trade_id = first, first_id
    found.high, found.low = max(found.high, high), min(found.low, low)


def _count(found: Kline, volume: int, quote: int, count: int, bought: int, bought_quote: int) -> None:
    found.volume += volume
    found.quote_volume += quote
    found.count += count
    found.taker_buy_volume += bought
    found.taker_buy_quote_volume += bought_quote


def running(interval: str, now_ms: int, offset_ms: int = 0) -> int:
    """When the candle of this moment began."""
    return begins(now_ms, interval, offset_ms)


def kline(symbol: str, interval: str, found: Kline, now_ms: int, scale: int) -> bytes:
    closed = "true" if found.close_ms < now_ms else "false"
    close = (found.close_ms + 1) * scale - 1
    return (
        f'{{"e":"kline","E":{now_ms * scale},"s":"{symbol}","k":{{"t":{found.open_ms * scale},"T":{close},'
        f'"s":"{symbol}","i":"{interval}","f":{found.first_trade_id},"L":{found.last_trade_id},'
        f'"o":"{fixed(found.open)}","c":"{fixed(found.close)}","h":"{fixed(found.high)}","l":"{fixed(found.low)}",'
        f'"v":"{fixed(found.volume)}","n":{found.count},"x":{closed},"q":"{fixed(found.quote_volume)}",'
        f'"V":"{fixed(found.taker_buy_volume)}","Q":"{fixed(found.taker_buy_quote_volume)}","B":"0"}}}}'
    ).encode()
