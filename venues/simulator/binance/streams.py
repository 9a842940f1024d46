"""Market streams: who listens to what, and what is sent when.

Always true here:
- A payload is encoded once for a stream (and time unit) and sent to all who listen to it, raw or in the envelope
  `{"stream":"<name>","data":<payload>}` as each connection asked.
- There is one taker of a book's changes: all depth streams of a symbol are fed from the same take, so that their update
  ids follow on each other without a gap.
- Symbols take turns: each is due every TICK_MS, spread over that time, so that many symbols make no burst.
- Streams of unknown symbols or names are accepted and silent, as Binance does; they count towards the limit.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from ....core.kernel.clock import MS_NS, Clock
from ..exchange.records import PublicTrade, Trade
from ..exchange.tape import Tape
from . import stream_events
from .beat import Beat
from .errors import NOT_JSON
from .stream_events import Aggregate, Changes, LevelTexts
from .stream_klines import candle, kline, kline_stream, running

if TYPE_CHECKING:
    from ..exchange.exchange import Exchange
    from ..exchange.matching import Book

STREAMS_MAX = 1024  # of a connection
TICK_MS = 100
SLOW_TICKS = 10  # streams of 1000 ms
TURNS_MAX = 20  # symbols are spread over at most so many turns of a tick
ID_TEXT = re.compile(r"^[A-Za-z0-9_-]{1,36}$")
# name -> (levels, whether it comes every tick)
PARTIAL_DEPTHS = {
    f"depth{levels}{speed}": (levels, speed == "@100ms")
    for levels in (5, 10, 20)
    for speed in ("", "@100ms", "@1000ms")
}
WINDOWS = {"ticker_1h": ("1h", 60), "ticker_4h": ("4h", 240), "ticker_1d": ("1d", 1440)}
ALL_MARKETS = {f"!{kind}@arr": kind for kind in ("miniTicker", "ticker", *WINDOWS)}
AVERAGE_MINS = 5
METHODS = ("SUBSCRIBE", "UNSUBSCRIBE", "LIST_SUBSCRIPTIONS", "SET_PROPERTY", "GET_PROPERTY")


class Listener(Protocol):
    """A connection that streams go to."""

    scale: int  # 1: milliseconds, 1000: microseconds
    combined: bool  # in the envelope
    topics: dict[str, Topic]  # what it listens to, by name

    def send(self, frame: bytes) -> None: ...


class Topic:
    """One stream in one time unit, and who listens to it."""

    __slots__ = ("combined", "kind", "last_id", "name", "prefix", "raw", "scale")

    def __init__(self, name: str, kind: str, scale: int) -> None:
        self.name = name
        self.kind = kind
        self.scale = scale
        self.prefix = b'{"stream":%b,"data":' % json.dumps(name).encode()
        self.raw: dict[Listener, None] = {}
        self.combined: dict[Listener, None] = {}
        self.last_id = -1  # update id of the last partial book sent, or when the last candle sent began

    def publish(self, payload: bytes) -> None:
        if self.raw:
            for listener in tuple(self.raw):
                listener.send(payload)
        if self.combined:
            frame = self.prefix + payload + b"}"
            for listener in tuple(self.combined):
                listener.send(frame)

    def add(self, listener: Listener) -> None:
        (self.combined if listener.combined else self.raw)[listener] = None

    def remove(self, listener: Listener) -> None:
        self.raw.pop(listener, None)
        self.combined.pop(listener, None)

    @property
    def empty(self) -> bool:
        return not self.raw and not self.combined


class SymbolStreams:
    """What is listened to of one symbol. A kind is the stream's name after the @."""

    def __init__(self, symbol: str) -> None:
        self.symbol = symbol
        self.texts = LevelTexts()
        self.topics: dict[str, list[Topic]] = {}  # kind -> the stream in each time unit that is wanted
        self.slow: Changes | None = None  # changes since the last 1000 ms diff
        self.top: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), (0, 0))
        self.ticks = 0
        self.taker_order_id = 0
        self.aggregate: Aggregate | None = None  # trades of the order that is trading now
        self.last_traded_id = 0  # at the last ticker of all markets

    @property
    def diffs(self) -> bool:
        kinds = self.topics.keys()
        return "depth@100ms" in kinds or "depth" in kinds or "depth@1000ms" in kinds


class Streams:
    """All market streams of the exchange."""

    def __init__(self, clock: Clock, now_ms: Callable[[], int], exchange: Exchange) -> None:
        self._clock = clock
        self._now_ms = now_ms
        self._exchange = exchange
        self._symbols = {name: SymbolStreams(name) for name in exchange.symbols}
        self._by_stream = {name.lower(): streams for name, streams in self._symbols.items()}
        self._topics: dict[tuple[str, int], Topic] = {}
        self._touched: dict[str, None] = {}  # symbols whose top of book may have changed
        self._turns: list[list[SymbolStreams]] = []
        self._turn = 0
        self._beat: Beat | None = None
        self._all_ticks = 0

    # --- running

    def start(self) -> None:
        turns = max(1, min(TURNS_MAX, len(self._symbols)))
        symbols = list(self._symbols.values())
        self._turns = [symbols[turn::turns] for turn in range(turns)]
        self._beat = Beat(self._clock, TICK_MS * MS_NS // turns, self._tick)

    def stop(self) -> None:
        if self._beat is not None:
            self._beat.stop()
            self._beat = None

    def _tick(self) -> None:
        for streams in self._turns[self._turn]:
            self.publish(streams.symbol)
        self._turn = (self._turn + 1) % len(self._turns)
        if self._turn == 0:
            self._all_ticks += 1
            if self._all_ticks % SLOW_TICKS == 0:
                self._publish_all_markets()

    # --- what happened

    def traded(self, event: PublicTrade) -> None:
        """A public trade; its frames leave with `flush`, except the trade's own."""
        trade = event.trade
        streams = self._symbols[trade.symbol]
        self._touched[trade.symbol] = None
        topics = streams.topics
        if "trade" in topics:
            now_ms = self._now_ms()
            for topic in topics["trade"]:
                topic.publish(stream_events.trade(trade, now_ms, topic.scale))
        self._aggregate(streams, trade)

    def touched(self, symbol: str) -> None:
        """The book of the symbol may have changed."""
        self._touched[symbol] = None

    def flush(self) -> None:
        """Sends what the last call to the exchange caused: aggregated trades and tops of books."""
        touched, self._touched = self._touched, {}
        for symbol in touched:
            streams = self._symbols[symbol]
            if streams.aggregate is not None:
                self._end_aggregate(streams)
            if "bookTicker" in streams.topics:
                self._publish_top(streams)

    def _aggregate(self, streams: SymbolStreams, trade: Trade) -> None:
        taker = trade.seller_order_id if trade.buyer_is_maker else trade.buyer_order_id
        running = streams.aggregate
        if running is not None and streams.taker_order_id == taker and running.price == trade.price:
            running.qty += trade.qty
            running.last_id = trade.trade_id
            return
        if running is not None:
            self._end_aggregate(streams)
        streams.taker_order_id = taker
        streams.aggregate = Aggregate(
            trade.trade_id,
            trade.symbol,
            trade.price,
            trade.qty,
            trade.trade_id,
            trade.trade_id,
            trade.time_ms,
            trade.buyer_is_maker,
        )

    def _end_aggregate(self, streams: SymbolStreams) -> None:
        deal, streams.aggregate = streams.aggregate, None
        if deal is not None and "aggTrade" in streams.topics:
            now_ms = self._now_ms()
            for topic in streams.topics["aggTrade"]:
                topic.publish(stream_events.agg_trade(deal, now_ms, topic.scale))

    def _publish_top(self, streams: SymbolStreams) -> None:
        book = self._exchange.book(streams.symbol)
        top = (book.best_bid, book.best_ask)
        if top != streams.top:
            streams.top = top
            payload = stream_events.book_ticker(streams.symbol, book.update_id, *top)
            for topic in streams.topics["bookTicker"]:
                topic.publish(payload)

    def _publish_first_top(self, streams: SymbolStreams) -> None:
        """What is there when the first begins to listen: a quiet book would leave them without any price."""
        if "bookTicker" in streams.topics:
            self._publish_top(streams)

    # --- what is due

    def publish(self, symbol: str) -> None:
        """One tick of a symbol's timed streams, now. `start` calls it every TICK_MS; tests may."""
        streams = self._symbols[symbol]
        streams.ticks += 1
        slow = streams.ticks % SLOW_TICKS == 0
        topics = streams.topics
        if streams.diffs or slow:
            self._publish_diffs(streams, slow=slow)
        if not topics:
            return
        if "bookTicker" in topics:
            self._publish_top(streams)
        for kind, (levels, fast) in PARTIAL_DEPTHS.items():
            if kind in topics and (fast or slow):
                self._publish_partial(streams, kind, levels)
        if slow:
            self._publish_statistics(streams)

    def _publish_diffs(self, streams: SymbolStreams, *, slow: bool) -> None:
        taken = self._exchange.book(streams.symbol).take_changes()
        topics = streams.topics
        now_ms = self._now_ms()
        if taken is not None:
            changes = Changes(*taken)
            for topic in topics.get("depth@100ms", ()):
                topic.publish(stream_events.depth_update(streams.symbol, changes, streams.texts, now_ms, topic.scale))
            if "depth" in topics or "depth@1000ms" in topics:
                if streams.slow is None:
                    streams.slow = changes
                else:
                    streams.slow.add(changes)
        if slow and streams.slow is not None:
            changes, streams.slow = streams.slow, None
            for topic in (*topics.get("depth", ()), *topics.get("depth@1000ms", ())):
                topic.publish(stream_events.depth_update(streams.symbol, changes, streams.texts, now_ms, topic.scale))

    def _publish_partial(self, streams: SymbolStreams, kind: str, levels: int) -> None:
        book = self._exchange.book(streams.symbol)
        for topic in streams.topics[kind]:
            if topic.last_id != book.update_id:
                topic.last_id = book.update_id
                topic.publish(stream_events.partial_depth(*book.depth(levels), streams.texts))

    def _publish_statistics(self, streams: SymbolStreams) -> None:
        """Tickers, averages and candles: what comes once a second."""
        now_ms, symbol = self._now_ms(), streams.symbol
        tape, book = self._exchange.tape(symbol), self._exchange.book(symbol)
        for kind, topics in streams.topics.items():
            for topic in topics:
                payload = _statistic(kind, symbol, tape, book, now_ms, topic.scale)
                if payload is not None:
                    topic.publish(payload)
                elif kind.startswith("kline_"):
                    self._publish_candles(topic, symbol, tape, now_ms)

    def _publish_candles(self, topic: Topic, symbol: str, tape: Tape, now_ms: int) -> None:
        stream = kline_stream(topic.kind)
        if stream is None:
            return
        interval, offset_ms = stream
        open_ms = running(interval, now_ms, offset_ms)
        for begun_ms in sorted({topic.last_id, open_ms} - {-1}):  # the one before once more, closed
            found = candle(tape, interval, begun_ms, offset_ms)
            if found is not None:
                topic.publish(kline(symbol, interval, found, now_ms, topic.scale))
        topic.last_id = open_ms

    def _publish_all_markets(self) -> None:
        """!miniTicker@arr, !ticker@arr, !ticker_1h@arr and its kind: the symbols that traded since the last time."""
        arrays = [topic for topic in self._topics.values() if topic.kind in ALL_MARKETS]
        changed = []
        for streams in self._symbols.values() if arrays else ():
            tape = self._exchange.tape(streams.symbol)
            if tape.trade_id != streams.last_traded_id:
                streams.last_traded_id = tape.trade_id
                changed.append((streams.symbol, tape, self._exchange.book(streams.symbol)))
        now_ms = self._now_ms()
        for topic in arrays if changed else ():
            kind = ALL_MARKETS[topic.kind]
            rows = [_statistic(kind, symbol, tape, book, now_ms, topic.scale) for symbol, tape, book in changed]
            topic.publish(b"[%b]" % b",".join(row for row in rows if row is not None))

    # --- subscriptions

    def subscribe(self, listener: Listener, names: Iterable[str]) -> bool:
        """Adds streams; False, and nothing added, where the connection would have more than STREAMS_MAX."""
        new = [name for name in dict.fromkeys(names) if name not in listener.topics]
        if len(listener.topics) + len(new) > STREAMS_MAX:
            return False
        for name in new:
            topic = self._topics.get((name, listener.scale)) or self._open(name, listener.scale)
            listener.topics[name] = topic
            topic.add(listener)
        return True

    def unsubscribe(self, listener: Listener, names: Iterable[str]) -> None:
        for name in names:
            topic = listener.topics.pop(name, None)
            if topic is not None:
                topic.remove(listener)
                if topic.empty:
                    self._close(topic)

    def forget(self, listener: Listener) -> None:
        """The connection is gone."""
        self.unsubscribe(listener, tuple(listener.topics))

    def _open(self, name: str, scale: int) -> Topic:
        symbol, at, kind = name.partition("@")
        streams = self._by_stream.get(symbol) if at else None
        topic = Topic(name, kind if streams is not None else name, scale)
        self._topics[(name, scale)] = topic
        if streams is not None:
            if kind.startswith("depth") and kind not in PARTIAL_DEPTHS and not streams.diffs:
                self._exchange.book(streams.symbol).take_changes()  # what nobody listened to
            if kind == "bookTicker" and kind not in streams.topics:
                streams.top = ((0, 0), (0, 0))
                self._clock.call_soon(self._publish_first_top, streams)
            streams.topics.setdefault(kind, []).append(topic)
        return topic

    def _close(self, topic: Topic) -> None:
        del self._topics[(topic.name, topic.scale)]
        streams = self._by_stream.get(topic.name.partition("@")[0])
        if streams is None or topic.kind not in streams.topics:
            return
        streams.topics[topic.kind].remove(topic)
        if not streams.topics[topic.kind]:
            del streams.topics[topic.kind]
            if topic.kind in ("depth", "depth@1000ms"):
                streams.slow = None

    @property
    def count(self) -> int:
        """Streams that somebody listens to."""
        return len(self._topics)

    # --- requests over the connection

    def request(self, listener: Listener, raw: bytes) -> bytes:
        """Carries out SUBSCRIBE and its kind; returns the reply."""
        try:
            message = msgspec.json.decode(raw)
        except NOT_JSON:
            return _error(None, 3, f"Invalid JSON: {_where(raw)}")
        problem, method, params, number = _read(message, raw)
        if problem:
            return _error(number, 2, f"Invalid request: {problem}")
        if method == "LIST_SUBSCRIPTIONS":
            return _result(number, list(listener.topics))
        if method == "SET_PROPERTY":
            return self._set_property(listener, params, number)
        if method == "GET_PROPERTY":
            if params[0] != "combined":
                return _error(number, 0, "Unknown property")
            return _result(number, listener.combined)
        if method == "UNSUBSCRIBE":
            self.unsubscribe(listener, params)
        elif not self.subscribe(listener, params):
            return _error(number, 4, "Too many subscriptions")
        return _result(number, None)

    def _set_property(self, listener: Listener, params: list[Any], number: Any) -> bytes:
        name, value = params
        if name != "combined":
            return _error(number, 0, "Unknown property")
        if not isinstance(value, bool):
            return _error(number, 1, "Invalid value type: expected Boolean")
        for topic in listener.topics.values():
            topic.remove(listener)
        listener.combined = value
        for topic in listener.topics.values():
            topic.add(listener)
        return _result(number, None)


def _statistic(kind: str, symbol: str, tape: Tape, book: Book, now_ms: int, scale: int) -> bytes | None:
    """A ticker or an average as it stands; None for another kind of stream."""
    if kind == "miniTicker":
        return stream_events.mini_ticker(symbol, tape.stats(now_ms), now_ms, scale)
    if kind == "ticker":
        return stream_events.ticker(symbol, tape.stats(now_ms), book.best_bid, book.best_ask, now_ms, scale)
    if kind in WINDOWS:
        window, minutes = WINDOWS[kind]
        return stream_events.rolling_ticker(symbol, window, tape.stats(now_ms, minutes), now_ms, scale)
    if kind == "avgPrice":
        price, last_ms = tape.avg_price(AVERAGE_MINS, now_ms)
        return stream_events.avg_price(symbol, AVERAGE_MINS, price, last_ms, now_ms, scale)
    return None


def _result(number: Any, result: Any) -> bytes:
    return msgspec.json.encode({"result": result, "id": number})


def _error(number: Any, code: int, msg: str) -> bytes:
    return msgspec.json.encode({"error": {"code": code, "msg": msg}, "id": number})


def _where(raw: bytes) -> str:
    """Where the JSON breaks off, in the words of the server."""
    try:
        json.loads(raw)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        line, column = getattr(error, "lineno", 1), getattr(error, "colno", 1)
        return f"expected value at line {line} column {column}"
    return "expected value at line 1 column 1"


def _read(message: Any, raw: bytes) -> tuple[str, str, list[Any], Any]:
    """(what is wrong or "", method, params, id) of a request."""
    end = f"at line 1 column {len(raw)}"
    if not isinstance(message, dict):
        return f"invalid type: expected struct Request {end}", "", [], None
    number = message.get("id")
    if not _is_id(number) or "id" not in message:
        return "request ID must be an unsigned integer", "", [], None
    method, params = message.get("method"), message.get("params")
    if method is None:
        return f"missing field `method` {end}", "", [], number
    if not isinstance(method, str):
        return f"invalid type: expected a string as `method` {end}", "", [], number
    if method not in METHODS:
        names = ", ".join(f"`{name}`" for name in METHODS)
        return f"unknown variant `{method}`, expected one of {names} {end}", "", [], number
    params = [] if params is None else params
    if not isinstance(params, list):
        return f"invalid type: expected a sequence {end}", "", [], number
    return _check_params(method, params), method, params, number


def _check_params(method: str, params: list[Any]) -> str:
    if method == "LIST_SUBSCRIPTIONS":
        return "too many parameters" if params else ""
    if method in ("SET_PROPERTY", "GET_PROPERTY"):
        most = 2 if method == "SET_PROPERTY" else 1
        if len(params) > most:
            return "too many parameters"
        if not params or not isinstance(params[0], str):
            return "property name must be a string"
        return "" if len(params) == most else "property value must be a boolean"
    if not params or not all(isinstance(name, str) and name for name in params):
        return "stream names must be strings, at least one"
    return ""


def _is_id(number: Any) -> bool:
    if isinstance(number, str):
        return ID_TEXT.match(number) is not None
    return number is None or (isinstance(number, int) and not isinstance(number, bool) and -(2**63) <= number < 2**63)
