"""Binance's public market data: diff depth, trades and best prices of many pairs into the books.

Always true here:
- Each frame is handed on as the venue sent it; nothing in it is read on the way but the stream's name and, of a trade,
  its id: a trade is handed on once, though two connections overlap.
- A pair's book is fed by one shard: a session with at most `STREAMS_MAX` streams. When a shard has no connection its
  books are lost, and no snapshot that was asked for before counts.
- A renewed connection takes over when all its subscriptions are confirmed; the former one is read for `DRAIN_NS` more.

    wire bytes -> Shard.on_link_frame -> MarketData.frame        gap -> MarketData asks -> resync -> Snapshots -> frame

A frame of a combined stream, as it comes ("WebSocket Streams" in binance-spot-api-docs):

    {"stream":"ethusdt@depth@100ms","data":{"e":"depthUpdate","E":1723161255508,"s":"ETHUSDT","U":35346513513,...}}
"""

import re
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Protocol

import msgspec

from ...core.kernel.clock import MS_NS, SECOND_NS, Clock, Timer
from ...core.market.troubles import Troubles
from ...core.model.errors import Nonsense, Refused, Unreachable
from ...core.model.instruments import Instrument
from ..client import VenueStatus
from ..limits import Budgets, ConnectBudget, binance_budgets
from ..rest import WEIGHT, Get, Rest
from ..session import Connect, Link, Session
from .codec import NotOurs, ServerShutdown, StreamReply, decode_stream_control
from .endpoints import Endpoints
from .listing_watch import EXCHANGE_INFO_WEIGHT, INVALID_SYMBOL, ListingWatch, exchange_info_path
from .snapshots import Snapshots, snapshot_levels

EXCHANGE: Final = "binance"
STREAMS: Final = ("depth@100ms", "trade", "bookTicker")  # of each pair
STREAMS_MAX: Final = 1_024  # of a connection
SUBSCRIBED_AT_ONCE: Final = 100  # streams named in one message
SUBSCRIBE_INTERVAL_NS: Final = 250 * MS_NS  # the venue hangs up at more than 5 messages a second, pongs included
LEVELS_MAX: Final = 1_000  # of a snapshot's side; paper orders deeper than that are rare
LOOK_NS: Final = 500 * MS_NS  # between looks at what is alive
QUIET_NS: Final = SECOND_NS  # a connection without a frame for so long is asked for a sign of life, once as often
ENVELOPE_MAX: Final = 120  # bytes before the data; the longest stream name is far shorter
LATENCIES_KEPT: Final = 128

_TRADE_ID: Final = b'"t":'
_EVENT_MS: Final = re.compile(rb'"E":(\d{13})\b')


class Books(Protocol):
    """What is fed: `core/market/data.py`."""

    def frame(self, exchange: str, pair: str, raw: bytes, local_ns: int) -> None: ...

    def lost(self, exchange: str, pairs: Iterable[str] | None = None) -> None: ...

    def alive(self, exchange: str, local_ns: int, pairs: Iterable[str] | None = None) -> None: ...


class Route:
    """Where the frames of one stream go."""

    __slots__ = ("last_trade_id", "pair", "trades")

    def __init__(self, pair: str, stream: str) -> None:
        self.pair = pair
        self.trades = stream == "trade"
        self.last_trade_id = -1


class Subscribing:
    """How far the subscriptions of one link are."""

    __slots__ = ("awaited", "messages", "snapshots", "timer")

    def __init__(self, messages: Iterable[tuple[int, bytes]], snapshots: int) -> None:
        self.messages = deque(messages)  # not sent yet: (id, frame)
        self.awaited: set[int] = {number for number, _ in self.messages}  # not confirmed yet
        self.timer: Timer | None = None
        self.snapshots = snapshots  # how many were asked for before


class Shard:
    """Some pairs over one session."""

    def __init__(self, market: "BinanceMarket", number: int, symbols: Mapping[str, str], session: "SessionOf") -> None:
        self.market = market
        self.pairs = tuple(symbols)
        self.measure = False  # take the next diff's latency
        self._clock = market.clock
        self._frame = market.books.frame
        self._open_links = 0
        self._by_name = {
            f"{symbol.lower()}@{stream}": Route(pair, stream)
            for pair, symbol in symbols.items()
            for stream in market.streams
        }
        self._route = {f'{{"stream":"{name}","data":'.encode(): route for name, route in self._by_name.items()}.get
        self.session = session(self, f"{EXCHANGE} market data {number}")

    @property
    def fed(self) -> bool:
        """Whether any connection is open."""
        return self._open_links > 0

    # --- the session's owner

    def on_link_open(self, link: Link) -> None:
        self._open_links += 1
        names = list(self._by_name)
        batches = [names[i : i + SUBSCRIBED_AT_ONCE] for i in range(0, len(names), SUBSCRIBED_AT_ONCE)]
        messages = (
            (number, msgspec.json.encode({"method": "SUBSCRIBE", "params": batch, "id": number}))
            for number, batch in enumerate(batches, 1)
        )
        link.data = Subscribing(messages, self.market.snapshots.requests)
        self._subscribe(link)

    def on_link_frame(self, link: Link, raw: bytes) -> None:
        # The envelope up to the data's brace is the key: one look-up says that it is as it should be, and whose it is.
        route = self._route(raw[: raw.find(b"{", 11, ENVELOPE_MAX)])
        if route is None:
            self._other(link, raw)
            return
        if route.trades:
            if self._repeated(route, raw):
                return
        elif self.measure:
            self._measure(link, raw)
        self._frame(EXCHANGE, route.pair, raw, link.last_frame_ns)

    def on_link_down(self, link: Link, reason: str) -> None:  # noqa: ARG002  (the session says why)
        self._open_links -= 1
        if isinstance(link.data, Subscribing) and link.data.timer is not None:
            link.data.timer.cancel()
        if self.session.link is None:
            for route in self._by_name.values():
                route.last_trade_id = -1  # whoever answers next may count anew
            self.market.lost(self)

    # --- frames

    def _repeated(self, route: Route, raw: bytes) -> bool:
        """Whether this trade was handed on before. What has no readable id is handed on, to be refused there."""
        begin = raw.find(_TRADE_ID) + len(_TRADE_ID)
        digits = raw[begin : raw.find(b",", begin)]
        if begin < len(_TRADE_ID) or not digits.isdigit() or len(digits) > 18:
            return False
        trade_id = int(digits)
        if trade_id <= route.last_trade_id:
            self.market.repeated_trades += 1
            return True
        route.last_trade_id = trade_id
        return False

    def _other(self, link: Link, raw: bytes) -> None:
        try:
            message = decode_stream_control(raw)
        except Nonsense as error:
            self.market.nonsense(str(error))
            return
        if isinstance(message, StreamReply):
            self._replied(link, message)
        elif isinstance(message, ServerShutdown):
            if link is self.session.link:
                self.session.renew("the server shuts down")
            else:
                link.close("the server shuts down")
        else:
            self._unexpected(raw, message)

    def _unexpected(self, raw: bytes, message: NotOurs) -> None:
        """A stream's frame that is none of ours, or one of ours in another spelling than Binance's."""
        route = self._by_name.get(message.name)
        if route is None:
            self.market.nonsense(f"a frame of a stream that nobody subscribed to: {message.name}")
        elif not (route.trades and self._repeated(route, raw)):
            self._frame(EXCHANGE, route.pair, raw, self._clock.now_ns())

    def _measure(self, link: Link, raw: bytes) -> None:
        event = _EVENT_MS.search(raw, 0, 2 * ENVELOPE_MAX)
        if event is not None:  # best prices carry no time
            self.measure = False
            self.market.latencies.append(link.last_frame_ns - int(event[1]) * MS_NS)

    # --- subscriptions

    def _subscribe(self, link: Link) -> None:
        """The next message, and a timer for the one after it."""
        subscribing = link.data
        if not isinstance(subscribing, Subscribing) or not link.is_open:
            return
        subscribing.timer = None
        _, frame = subscribing.messages.popleft()
        if subscribing.messages:
            subscribing.timer = self._clock.call_in(SUBSCRIBE_INTERVAL_NS, self._subscribe, link)
        link.send(frame)

    def _replied(self, link: Link, reply: StreamReply) -> None:
        subscribing = link.data
        if reply.error is not None:
            link.close(f"subscription refused: {reply.error.code} {reply.error.msg}")
        elif not isinstance(subscribing, Subscribing) or reply.id not in subscribing.awaited:
            self.market.nonsense(f"an answer to request {reply.id!r}, which nobody made")
        else:
            subscribing.awaited.discard(reply.id)
            if not subscribing.awaited:
                first = self.session.link is None
                self.session.promote(link)
                if first:
                    self._ask_for_the_rest(subscribing.snapshots)

    def _ask_for_the_rest(self, asked_before: int) -> None:
        """Snapshots of the pairs on which nothing happened yet: for the others, the first diff made the book ask."""
        snapshots = self.market.snapshots
        for pair in self.pairs:
            if not snapshots.asked_since(pair, asked_before):
                snapshots.want(pair)


SessionOf = Callable[[Shard, str], Session]


class BinanceMarket:
    """Feeds `books` with the pairs of `instruments`; a MarketSource."""

    def __init__(
        self,
        clock: Clock,
        books: Books,
        instruments: Iterable[Instrument],
        endpoints: Endpoints,
        *,
        connect: Connect,
        get: Get,
        jitter: Callable[[], float],
        on_trouble: Callable[[str], None],
        budgets: Budgets | None = None,
        connects: ConnectBudget | None = None,
        now_ns: Callable[[], int] | None = None,
        on_trading: Callable[[str, bool], None] | None = None,
        streams: Sequence[str] = STREAMS,
        levels_max: int = LEVELS_MAX,
        max_age_ns: int | None = None,
    ) -> None:
        """`get` asks the REST host (`Rest.get`); budgets are those of the address, shared with the order side, and
        count by `now_ns`, the venue's time (`clock`'s where nobody knows better). `on_trading` hears of pairs whose
        trading stops or goes on; without it nobody looks.
        """
        self.clock = clock
        self.now_ns = now_ns if now_ns is not None else clock.now_ns
        self.books = books
        self.streams = tuple(streams)
        self.on_trouble = on_trouble
        self.budgets = budgets if budgets is not None else binance_budgets()
        self.repeated_trades = 0
        self.troubles: Troubles[str] = Troubles()
        self._connects = connects if connects is not None else ConnectBudget()
        self._connect = connect
        self._jitter = jitter
        self._url = endpoints.stream + "/stream"
        self._session_options = {} if max_age_ns is None else {"max_age_ns": max_age_ns}
        self.latencies: deque[int] = deque(maxlen=LATENCIES_KEPT)  # one of each shard at each look
        self._timer: Timer | None = None
        followed = [i for i in instruments if i.exchange == EXCHANGE]
        symbols = {i.pair: i.symbol for i in followed}
        self.snapshots = Snapshots(
            clock,
            get,
            self.budgets,
            symbols,
            levels=snapshot_levels(len(symbols), levels_max),
            deliver=self._deliver,
            jitter=jitter,
            on_trouble=self._tell,
            now_ns=self.now_ns,
        )
        told: dict[str, Any] = {"on_trading": on_trading, "on_trouble": self._tell, "now_ns": self.now_ns}
        self.listing = ListingWatch(clock, get, self.budgets, followed, **told) if on_trading is not None else None
        self.shards = self._shards(symbols)
        self._shard_of = {pair: shard for shard in self.shards for pair in shard.pairs}

    def _tell(self, what: str) -> None:
        self.on_trouble(f"{EXCHANGE}: {what}")

    def _shards(self, symbols: Mapping[str, str]) -> list[Shard]:
        """As few as the limit allows, of even size."""
        pairs = list(symbols)
        count = -(-len(pairs) * len(self.streams) // (STREAMS_MAX - STREAMS_MAX % len(self.streams)))
        parts = [pairs[i::count] for i in range(count)]
        return [
            Shard(self, i, {pair: symbols[pair] for pair in part}, self._session) for i, part in enumerate(parts, 1)
        ]

    def _session(self, shard: Shard, name: str) -> Session:
        return Session(
            self.clock,
            self._connect,
            shard,
            name=name,
            url=self._url,
            jitter=self._jitter,
            budget=self._connects,
            on_trouble=self.on_trouble,
            **self._session_options,
        )

    # --- MarketSource

    def start(self) -> None:
        for shard in self.shards:
            shard.session.start()
        self._timer = self.clock.call_in(LOOK_NS, self._look)
        if self.listing is not None:
            self.listing.start()

    def stop(self) -> None:
        if self.listing is not None:
            self.listing.stop()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.snapshots.stop()
        for shard in self.shards:
            shard.session.stop()

    def resync(self, exchange: str, pair: str) -> None:  # noqa: ARG002  (there is one)
        """A snapshot soon; while the pair's connection is down, as soon as it is back."""
        shard = self._shard_of.get(pair)
        if shard is not None and shard.fed:
            self.snapshots.want(pair)

    # --- for health

    def status(self) -> VenueStatus:
        statuses = [shard.session.status() for shard in self.shards]
        up = sum(status.connected for status in statuses)
        now_ns, latency_ns = self.now_ns(), self.latency_ns
        return VenueStatus(
            status="connected" if up == len(statuses) else "stale" if up else "disconnected",
            last_ping_ms=max((status.last_sign_ns for status in statuses), default=0) // MS_NS or None,
            rate_limit_remaining=self.budgets.remaining(WEIGHT, now_ns),
            rate_limit_reset_ms=self.budgets.reset_ns(WEIGHT, now_ns) // MS_NS,
            reason=next((status.reason for status in statuses if not status.connected), ""),
            latency_ms=None if latency_ns is None else latency_ns / MS_NS,
        )

    @property
    def latency_ns(self) -> int | None:
        """Median of late from the event to its frame here; None before the first.

        Includes what the estimate of the venue's clock is off by: it may be negative.
        """
        if not self.latencies:
            return None
        return sorted(self.latencies)[len(self.latencies) // 2] + self.now_ns() - self.clock.now_ns()

    # --- for the shards

    def lost(self, shard: Shard) -> None:
        self.snapshots.drop(shard.pairs)
        self.books.lost(EXCHANGE, shard.pairs)

    def nonsense(self, what: str) -> None:
        self.troubles.note(what.partition(":")[0], f"{EXCHANGE} market data: {what}", self.on_trouble)

    def _deliver(self, pair: str, body: bytes) -> None:
        self.books.frame(EXCHANGE, pair, body, self.clock.now_ns())

    def _look(self) -> None:
        """A few times a second: which connections live, and how late their frames are."""
        self._timer = self.clock.call_in(LOOK_NS, self._look)
        now_ns = self.clock.now_ns()
        for shard in self.shards:
            link = shard.session.link
            if link is None:
                continue
            if not 0 <= now_ns - link.last_sign_ns <= QUIET_NS:  # below 0: the clock was set back
                link.ping()
            self.books.alive(EXCHANGE, link.last_sign_ns, shard.pairs)
            shard.measure = True


async def fetch_exchange_info(rest: Rest, symbols: Iterable[str] | None = None) -> bytes:
    """`GET /api/v3/exchangeInfo` of some symbols, or of all. Raises Unreachable, Refused, Nonsense.

    Binance refuses the whole request when it does not know one of the symbols, without saying which: then all are asked
    for, and the caller sees which are missing.
    """
    names = sorted(symbols) if symbols is not None else []
    rest.budgets.take(WEIGHT, EXCHANGE_INFO_WEIGHT, rest.now_ns())
    try:
        return await rest.fetch(exchange_info_path(names), EXCHANGE_INFO_WEIGHT)
    except Refused as error:
        if names and INVALID_SYMBOL in str(error):
            return await fetch_exchange_info(rest)
        raise
    except Unreachable as error:
        raise Unreachable(f"the instruments of Binance cannot be read: {error}") from error
