"""Methods about the market: book, trades, candles, tickers. Anybody may ask.

Always true here: what is told comes from the exchange's own trades and book; a ticker of several symbols is an array in
the order in which they were asked for, of one symbol an object.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from ..exchange.matching import Book
from ..exchange.records import Symbol, Trade
from ..exchange.tape import DayStats, Tape
from . import errors, klines, params
from .documents import Document, depth, fixed, public_trade
from .methods import Call, Method, named
from .params import Params

DEPTH_DEFAULT = 100
DEPTH_MOST = 5000
DAY_MINUTES = 1440
AVERAGE_MINUTES = 5
WINDOW = re.compile(r"([1-9][0-9]?)([mhd])")
WINDOW_MOST = {"m": 59, "h": 23, "d": 7}
WINDOW_MINUTES = {"m": 1, "h": 60, "d": DAY_MINUTES}
TIME_ZONE = re.compile(r"([+-]?)([0-9]{1,2})(?::([0-9]{2}))?")
TICKER_TYPES = ("FULL", "MINI")
SYMBOL_STATUSES = ("TRADING", "HALT", "BREAK")
SYMBOLS_MOST = 100


def order_book(call: Call) -> Any:
    """depth"""
    found = call.listed(params.symbol(call.params))
    _check_status(found, params.choice(call.params, "symbolStatus", SYMBOL_STATUSES))
    wanted = params.integer(call.params, "limit")
    limit = DEPTH_DEFAULT if wanted is None else min(wanted, DEPTH_MOST)
    if limit < 1:
        raise errors.invalid("limit")
    return depth(*_book(call, found.name).depth(limit))


def recent_trades(call: Call) -> Any:
    """trades.recent"""
    found = call.listed(params.symbol(call.params))
    limit = params.limit(call.params)
    return [public_trade(trade, call.scale) for trade in _last(_tape(call, found.name), limit)]


def historical_trades(call: Call) -> Any:
    """trades.historical"""
    found = call.listed(params.symbol(call.params))
    limit = params.limit(call.params)
    from_id = params.integer(call.params, "fromId")
    tape = _tape(call, found.name)
    trades = _last(tape, limit) if from_id is None else _from(tape, from_id)[:limit]
    return [public_trade(trade, call.scale) for trade in trades]


def aggregate_trades(call: Call) -> Any:
    """trades.aggregate: what one order took at one price at one time. The id is that of the first trade in it."""
    sent = call.params
    found = call.listed(params.symbol(sent))
    limit = params.limit(sent)
    from_id = params.integer(sent, "fromId")
    start_ms, end_ms = params.time_ms(sent, "startTime"), params.time_ms(sent, "endTime")
    if from_id is not None and (start_ms is not None or end_ms is not None):
        raise errors.bad_combination()
    groups = [
        group
        for group in _together(_tape(call, found.name).trades)
        if group[0].trade_id >= (from_id or 0) and (start_ms or 0) <= group[0].time_ms <= (end_ms or group[0].time_ms)
    ]
    from_start = from_id is not None or start_ms is not None
    chosen = groups[:limit] if from_start else groups[-limit:]
    return [_aggregate(group, call.scale) for group in chosen]


def candles(call: Call) -> Any:
    """klines, uiKlines"""
    sent = call.params
    found = call.listed(params.symbol(sent))
    interval = sent.get("interval")
    if not interval:
        raise errors.missing("interval")
    if interval not in klines.INTERVALS:
        raise errors.bad_interval()
    chosen = klines.klines(
        _tape(call, found.name),
        interval,
        call.now_ms,
        params.time_ms(sent, "startTime"),
        params.time_ms(sent, "endTime"),
        params.limit(sent),
        _offset_ms(sent),
    )
    return [_candle(candle, call.scale) for candle in chosen]


def average_price(call: Call) -> Any:
    """avgPrice"""
    found = call.listed(params.symbol(call.params))
    price, time_ms = _tape(call, found.name).avg_price(AVERAGE_MINUTES, call.now_ms)
    return {"mins": AVERAGE_MINUTES, "price": fixed(price), "closeTime": time_ms * call.scale}


def day_ticker(call: Call) -> Any:
    """ticker.24hr"""
    mini = _mini(call.params)

    def one(found: Symbol) -> Document:
        stats = _tape(call, found.name).stats(call.now_ms)
        if mini:
            return _mini_ticker(found.name, stats, call.scale)
        ticker = _ticker(found.name, stats, call.scale)
        bid, ask = _best(_book(call, found.name))
        ticker["prevClosePrice"] = fixed(stats.prev_close)
        ticker["lastQty"] = fixed(stats.last_qty)
        ticker.update(bidPrice=bid[0], bidQty=bid[1], askPrice=ask[0], askQty=ask[1])
        return ticker

    return _for_symbols(call, one, everything=True)


def trading_day_ticker(call: Call) -> Any:
    """ticker.tradingDay: since midnight of the client's time zone."""
    offset_ms = _offset_ms(call.params)
    mini = _mini(call.params)
    midnight_ms = klines.begins(call.now_ms, "1d", offset_ms)
    minutes = (call.now_ms - midnight_ms) // klines.MINUTE_MS + 1

    def one(found: Symbol) -> Document:
        stats = _tape(call, found.name).stats(call.now_ms, minutes)
        ticker = (_mini_ticker if mini else _ticker)(found.name, stats, call.scale)
        ticker["openTime"] = midnight_ms * call.scale
        ticker["closeTime"] = (midnight_ms + klines.DAY_MS - 1) * call.scale
        return ticker

    return _for_symbols(call, one, everything=False)


def rolling_ticker(call: Call) -> Any:
    """ticker: a rolling window of whole minutes."""
    size = call.params.get("windowSize", "1d")
    match = WINDOW.fullmatch(size)
    if match is None or int(match[1]) > WINDOW_MOST[match[2]]:
        raise errors.invalid("windowSize")
    minutes = int(match[1]) * WINDOW_MINUTES[match[2]]
    make = _mini_ticker if _mini(call.params) else _ticker
    return _for_symbols(
        call,
        lambda found: make(found.name, _tape(call, found.name).stats(call.now_ms, minutes), call.scale),
        everything=False,
    )


def price_ticker(call: Call) -> Any:
    """ticker.price"""
    return _for_symbols(
        call,
        lambda found: {"symbol": found.name, "price": fixed(_tape(call, found.name).last_price)},
        everything=True,
    )


def book_ticker(call: Call) -> Any:
    """ticker.book"""

    def one(found: Symbol) -> Document:
        bid, ask = _best(_book(call, found.name))
        return {"symbol": found.name, "bidPrice": bid[0], "bidQty": bid[1], "askPrice": ask[0], "askQty": ask[1]}

    return _for_symbols(call, one, everything=True)


def reference_price(call: Call) -> Any:
    """referencePrice, referencePrice.calculation: no symbol has one here."""
    call.listed(params.symbol(call.params))
    raise errors.ApiError(400, -2043, "This symbol doesn't have a reference price.")


# --- what they share


def _book(call: Call, name: str) -> Book:
    return call.api.exchange.book(name)


def _tape(call: Call, name: str) -> Tape:
    return call.api.exchange.tape(name)


def _last(tape: Tape, count: int) -> list[Trade]:
    trades = tape.trades
    return [trades[place] for place in range(max(0, len(trades) - count), len(trades))]


def _from(tape: Tape, trade_id: int) -> list[Trade]:
    return [trade for trade in tape.trades if trade.trade_id >= trade_id]


def _together(trades: Iterable[Trade]) -> list[list[Trade]]:
    """Trades in runs of one taker, price and time."""
    groups: list[list[Trade]] = []
    key: tuple[int, int, int] | None = None
    for trade in trades:
        taker = trade.seller_order_id if trade.buyer_is_maker else trade.buyer_order_id
        own = (taker, trade.price, trade.time_ms)
        if own == key:
            groups[-1].append(trade)
        else:
            groups.append([trade])
            key = own
    return groups


def _aggregate(group: list[Trade], scale: int) -> Document:
    first = group[0]
    return {
        "a": first.trade_id,
        "p": fixed(first.price),
        "q": fixed(sum(trade.qty for trade in group)),
        "f": first.trade_id,
        "l": group[-1].trade_id,
        "T": first.time_ms * scale,
        "m": first.buyer_is_maker,
        "M": True,
    }


def _candle(candle: klines.Kline, scale: int) -> list[Any]:
    # The last instant of a candle is one unit of time before the next one begins.
    close = (candle.close_ms + 1) * scale - 1
    return [
        candle.open_ms * scale,
        fixed(candle.open),
        fixed(candle.high),
        fixed(candle.low),
        fixed(candle.close),
        fixed(candle.volume),
        close,
        fixed(candle.quote_volume),
        candle.count,
        fixed(candle.taker_buy_volume),
        fixed(candle.taker_buy_quote_volume),
        "0",
    ]


def _best(book: Book) -> tuple[tuple[str, str], tuple[str, str]]:
    (bid, bid_qty), (ask, ask_qty) = book.best_bid, book.best_ask
    return (fixed(bid), fixed(bid_qty)), (fixed(ask), fixed(ask_qty))


def _ticker(name: str, stats: DayStats, scale: int) -> Document:
    change = stats.last - stats.open if stats.count else 0
    thousandths = change * 100_000 // stats.open if stats.open else 0
    sign = "-" if thousandths < 0 else ""
    return {
        "symbol": name,
        "priceChange": fixed(change),
        "priceChangePercent": f"{sign}{abs(thousandths) // 1000}.{abs(thousandths) % 1000:03d}",
        "weightedAvgPrice": fixed(stats.weighted_average),
        "openPrice": fixed(stats.open),
        "highPrice": fixed(stats.high),
        "lowPrice": fixed(stats.low),
        "lastPrice": fixed(stats.last),
        "volume": fixed(stats.volume),
        "quoteVolume": fixed(stats.quote_volume),
        "openTime": stats.open_ms * scale,
        "closeTime": stats.close_ms * scale,
        "firstId": stats.first_trade_id,
        "lastId": stats.last_trade_id,
        "count": stats.count,
    }


def _mini_ticker(name: str, stats: DayStats, scale: int) -> Document:
    ticker = _ticker(name, stats, scale)
    for left_out in ("priceChange", "priceChangePercent", "weightedAvgPrice"):
        del ticker[left_out]
    return ticker


def _mini(sent: Params) -> bool:
    kind = sent.get("type")
    if kind is not None and kind not in TICKER_TYPES:
        raise errors.bad_ticker_type()
    return kind == "MINI"


def _offset_ms(sent: Params) -> int:
    """timeZone: hours, or hours and minutes, from -12:00 to +14:00."""
    text = sent.get("timeZone", "0")
    match = TIME_ZONE.fullmatch(text)
    if match is None:
        raise errors.invalid("timeZone")
    minutes = int(match[2]) * 60 + int(match[3] or 0)
    minutes = -minutes if match[1] == "-" else minutes
    if not -12 * 60 <= minutes <= 14 * 60:
        raise errors.invalid("timeZone")
    return minutes * klines.MINUTE_MS


def _check_status(found: Symbol, status: str | None) -> None:
    if status is not None and found.status != status:
        raise errors.other_status()


def _for_symbols(call: Call, one: Callable[[Symbol], Document], everything: bool) -> Any:
    """`one` for the symbol, or each of the symbols, that are asked for; for all, where that is allowed."""
    sent = call.params
    status = params.choice(sent, "symbolStatus", SYMBOL_STATUSES)
    if "symbol" in sent and "symbols" in sent:
        raise errors.bad_combination()
    if "symbol" in sent:
        found = call.listed(params.symbol(sent))
        _check_status(found, status)
        return one(found)
    names = params.words(sent, "symbols")
    if names is None:
        if not everything:
            raise errors.either("symbol", "symbols")
        chosen = list(call.api.exchange.symbols.values())
    else:
        if len(names) > len(set(names)):
            raise errors.duplicate_symbols()
        if not names or (not everything and len(names) > SYMBOLS_MOST):
            raise errors.invalid("symbols")
        chosen = [call.listed(name) for name in names]
    return [one(found) for found in chosen if status is None or found.status == status]


def _count(sent: Params) -> int:
    """How many symbols are asked for; 0 for all of them."""
    if "symbol" in sent:
        return 1
    text = sent.get("symbols")
    return 0 if text is None else text.count(",") + 1


def _depth_weight(sent: Params) -> int:
    text = sent.get("limit", "")
    limit = int(text) if text.isascii() and text.isdigit() and len(text) < 20 else DEPTH_DEFAULT
    return 5 if limit <= 100 else 25 if limit <= 500 else 50 if limit <= 1000 else 250


def _day_weight(sent: Params) -> int:
    count = _count(sent)
    return 80 if count == 0 or count > 100 else 2 if count <= 20 else 40


def _window_weight(sent: Params) -> int:
    return min(4 * max(1, _count(sent)), 200)


def _price_weight(sent: Params) -> int:
    return 2 if "symbol" in sent else 4


CANDLE_PARAMS = named("symbol", "interval", "startTime", "endTime", "timeZone", "limit")
TICKER_PARAMS = named("symbol", "symbols", "symbolStatus")


def _market(
    name: str, path: str, run: Callable[[Call], Any], weight: int | Callable[[Params], int], *names: str
) -> Method:
    return Method(name=name, http=(("GET", path),), run=run, weight=weight, params=frozenset(names))


METHODS = (
    _market("depth", "/depth", order_book, _depth_weight, "symbol", "limit", "symbolStatus"),
    _market("trades.recent", "/trades", recent_trades, 25, "symbol", "limit"),
    _market("trades.historical", "/historicalTrades", historical_trades, 25, "symbol", "limit", "fromId"),
    _market(
        "trades.aggregate",
        "/aggTrades",
        aggregate_trades,
        4,
        "symbol",
        "fromId",
        "startTime",
        "endTime",
        "limit",
    ),
    _market("klines", "/klines", candles, 2, *CANDLE_PARAMS),
    _market("uiKlines", "/uiKlines", candles, 2, *CANDLE_PARAMS),
    _market("avgPrice", "/avgPrice", average_price, 2, "symbol"),
    _market("ticker.24hr", "/ticker/24hr", day_ticker, _day_weight, *TICKER_PARAMS, "type"),
    _market(
        "ticker.tradingDay",
        "/ticker/tradingDay",
        trading_day_ticker,
        _window_weight,
        *TICKER_PARAMS,
        "type",
        "timeZone",
    ),
    _market("ticker", "/ticker", rolling_ticker, _window_weight, *TICKER_PARAMS, "type", "windowSize"),
    _market("ticker.price", "/ticker/price", price_ticker, _price_weight, *TICKER_PARAMS),
    _market("ticker.book", "/ticker/bookTicker", book_ticker, _price_weight, *TICKER_PARAMS),
    _market("referencePrice", "/referencePrice", reference_price, 2, "symbol"),
    _market("referencePrice.calculation", "/referencePrice/calculation", reference_price, 2, "symbol"),
)
