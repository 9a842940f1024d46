"""Market data: raw frames in, consistent books and prices out.

Always true here:
- `BookUpdated` is published only for a book that is in step with the venue and not crossed: when a depth frame changed
  it, or when a ticker, which comes earlier, says that its best prices are others.
- A gap makes the book unsynced and asks the venue for a snapshot; diffs that come meanwhile are kept, within a bound,
  and applied on top of it.
- A frame that cannot be understood changes nothing, is counted by what was wrong with it, and said once per power of
  ten.

The way of a frame: `frame` -> `Book.apply` (numba, from the bytes) -> `BookUpdated` or `TradePrinted` on the bus.

A ticker lies over its book for as long as its update id is above the book's: prices (`quote`, `mid`) are the ticker's,
levels stay the book's. Nothing has to be undone when the depth frame with that update comes.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal

import msgspec
import numpy as np

from ..kernel.actor import Actor
from ..kernel.bus import Handler
from ..kernel.clock import MS_NS, SECOND_NS, Timer
from ..kernel.kernel import Kernel
from ..model.instruments import Instrument
from ..model.messages import BookUpdated, TradePrinted
from .book import (
    APPLIED,
    BUY,
    CROSSED,
    DEPLETED,
    GAP,
    OTHER,
    SELL,
    SNAPSHOT,
    STALE,
    TICKER,
    TRADE,
    UNSYNCED,
    Book,
    status_name,
)
from .grid import Grid
from .troubles import Troubles

Key = tuple[str, str]  # (exchange, pair)
Resync = Callable[[str, str], None]  # ask the venue for a snapshot of (exchange, pair)
Trouble = Callable[[str], None]  # a line for the log


class StoredBook(msgspec.Struct, frozen=True, kw_only=True):
    """The top of a book as Redis keeps it, for people, and for the simulated market to go on from."""

    exchange: str
    pair: str
    bids: list[tuple[str, str]]  # (price, quantity), best first
    asks: list[tuple[str, str]]
    update_id: int
    timestamp_ns: int


class StoreBooks(msgspec.Struct, frozen=True):
    """It is time to write the tops of the books that changed."""


class Feed:
    """One book and what is known around it."""

    STALE_NS = 2 * SECOND_NS  # without a sign of life for longer, a book does not count
    AHEAD_NS = 100 * MS_NS  # a sign of life from farther ahead is from before the clock was set back: it says nothing

    __slots__ = (
        "ahead_ns",
        "alive_ns",
        "ask_ticks",
        "asked_ns",
        "bid_ticks",
        "book",
        "half_tick",
        "key",
        "last_ticks",
        "price_grid",
        "qty_grid",
        "ticker_id",
        "unsynced_frames",
    )

    def __init__(self, instrument: Instrument, depth_max: int) -> None:
        # for the process
        self.key: Key = (instrument.exchange, instrument.pair)
        self.price_grid, self.qty_grid = Grid.of(instrument.tick), Grid.of(instrument.lot)
        self.book = Book(
            instrument.exchange,
            instrument.pair,
            price_decimals=self.price_grid.decimals,
            tick_units=self.price_grid.units,
            qty_decimals=self.qty_grid.decimals,
            lot_units=self.qty_grid.units,
            depth_max=depth_max,
        )
        self.half_tick = instrument.tick / 2
        self.last_ticks: int | None = None  # of the last trade
        # for a connection
        self.asked_ns = 0  # when a snapshot was last asked for; 0 when none is awaited
        self.unsynced_frames: list[bytes] = []  # diffs that wait for it
        self.alive_ns = 0  # the last sign of life but depth frames: a ticker, anything on the connection
        # for as long as its update id is above the book's: the last ticker, 0 ticks for an empty side
        self.ticker_id = self.bid_ticks = self.ask_ticks = 0
        self.ahead_ns = 0  # when the ticker left the book behind

    @property
    def top(self) -> tuple[int, int]:
        """(best bid, best ask) in ticks as they were told last, 0 for an empty side."""
        book = self.book
        if self.ticker_id > book.update_id:
            return self.bid_ticks, self.ask_ticks
        return book.best_bid_ticks, book.best_ask_ticks

    @property
    def twice_average(self) -> int:
        """Twice the market's price in ticks: of the mid, or where a side is empty of the last trade, or 0."""
        bid, ask = self.top
        return bid + ask if bid and ask else 2 * (self.last_ticks or 0)

    def fresh(self, now_ns: int) -> bool:
        """Whether the book may be traded on: in step with the venue, not crossed, and its connection alive.

        A venue sends no depth frame while nothing changes, so silence of the pair alone proves nothing; a ticker that
        the depth frames do not catch up with does.
        """
        book = self.book
        if not book.synced or book.crossed:
            return False
        ahead_ns, stale_ns = -self.AHEAD_NS, self.STALE_NS
        if not (ahead_ns <= now_ns - book.local_ns <= stale_ns or ahead_ns <= now_ns - self.alive_ns <= stale_ns):
            return False
        return self.ticker_id <= book.update_id or ahead_ns <= now_ns - self.ahead_ns <= stale_ns

    def lost(self) -> None:
        """The connection broke: what was missed cannot be told."""
        self.book.unsync()
        self.unsynced_frames.clear()
        self.asked_ns = self.alive_ns = 0


class MarketData(Actor):
    """Owns every book."""

    RESYNC_RETRY_NS = 5 * SECOND_NS  # until a snapshot that did not come is asked for again
    UNSYNCED_FRAMES_MAX = 2_000  # diffs kept for a book without a snapshot; beyond it the older half is dropped
    STORED_LEVELS = 10
    STORED_AT_ONCE = 8  # books
    STORE_STEP_NS = 10 * MS_NS  # until the next few

    def __init__(
        self,
        kernel: Kernel,
        instruments: Iterable[Instrument],
        *,
        depth_max: int = 1_000,
        store_interval_ns: int = 500 * MS_NS,
        on_trouble: Trouble | None = None,
    ) -> None:
        super().__init__(kernel)
        self.instruments: dict[Key, Instrument] = {(i.exchange, i.pair): i for i in instruments}
        self.resync: dict[str, Resync] = {}  # by exchange; set by whoever feeds it
        self.troubles: Troubles[tuple[str, str, str]] = Troubles()  # (exchange, pair, what): how often
        self.on_trouble = on_trouble
        self.frame_count = 0
        self._feeds = {key: Feed(instrument, depth_max) for key, instrument in self.instruments.items()}
        self._by_exchange: dict[str, list[Feed]] = {}
        for (exchange, _), feed in self._feeds.items():
            self._by_exchange.setdefault(exchange, []).append(feed)
        self._store_interval_ns = store_interval_ns
        self._changed: set[Key] = set()
        self._to_store: deque[Key] = deque()  # the rest of the round that is being written
        self._timer: Timer | None = None

    # --- actor

    def handles(self) -> dict[type, Handler]:
        return {StoreBooks: self._store}

    def start(self) -> None:
        self._timer = self.clock.call_in(self._store_interval_ns, self._store_due)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # --- what others read

    def book(self, exchange: str, pair: str) -> Book:
        """Raises KeyError for a pair that the exchange does not list."""
        return self._feeds[exchange, pair].book

    def feed(self, exchange: str, pair: str) -> Feed:
        """What is known of a market, for the life of the process. Raises KeyError as `book` does."""
        return self._feeds[exchange, pair]

    def quote(self, exchange: str, pair: str) -> tuple[int, int] | None:
        """(best bid, best ask) in ticks, as told last; None when there is no such book, or a side of it is empty."""
        feed = self._feeds.get((exchange, pair))
        if feed is None:
            return None
        top = feed.top
        return top if top[0] and top[1] else None

    def mid(self, exchange: str, pair: str) -> Decimal | None:
        """Half way between the best prices, however old; None when there is no such book, or a side of it is empty."""
        feed = self._feeds.get((exchange, pair))
        if feed is None:
            return None
        bid, ask = feed.top
        return (bid + ask) * feed.half_tick if bid and ask else None

    def last(self, exchange: str, pair: str) -> int | None:
        """Ticks of the last trade."""
        feed = self._feeds.get((exchange, pair))
        return feed.last_ticks if feed is not None else None

    def updated_ns(self, exchange: str, pair: str) -> int:
        """When the book last changed, by our clock; 0 for never."""
        return self._feeds[exchange, pair].book.local_ns

    def fresh(self, exchange: str, pair: str, now_ns: int) -> bool:
        """Whether the book may be traded on: in step with the venue, not crossed, with a sign of life in 2 s."""
        feed = self._feeds.get((exchange, pair))
        return feed is not None and feed.fresh(now_ns)

    def stored(self, exchange: str, pair: str) -> StoredBook:
        """The top of a book in decimal text."""
        feed = self._feeds[exchange, pair]
        price, quantity, book = feed.price_grid.text, feed.qty_grid.text, feed.book
        return StoredBook(
            exchange=exchange,
            pair=pair,
            bids=[(price(ticks), quantity(lots)) for ticks, lots in book.levels(BUY, self.STORED_LEVELS)],
            asks=[(price(ticks), quantity(lots)) for ticks, lots in book.levels(SELL, self.STORED_LEVELS)],
            update_id=book.update_id,
            timestamp_ns=book.local_ns,
        )

    # --- frames

    def frame(self, exchange: str, pair: str, raw: bytes, local_ns: int) -> None:
        """A raw frame of the pair: a depth diff, a snapshot, a ticker or a trade, plain or in a stream's envelope."""
        self.frame_count += 1
        feed = self._feeds[exchange, pair]
        status = feed.book.apply(raw, local_ns)  # as a diff, which most are; it finds out what any other is
        if status == APPLIED:
            self._changed.add(feed.key)
            self.kernel.input(BookUpdated(exchange, pair, local_ns))
        elif status == OTHER or status < 0:
            self._other(feed, status, raw, local_ns)
        elif status != STALE:
            self._unusual(feed, status, raw, local_ns)

    def lost(self, exchange: str, pairs: Iterable[str] | None = None) -> None:
        """A connection to an exchange broke: none of its books (of these pairs) counts before its next snapshot."""
        for feed in self._feeds_of(exchange, pairs):
            feed.lost()

    def alive(self, exchange: str, local_ns: int, pairs: Iterable[str] | None = None) -> None:
        """The connection that brings the exchange's books (of these pairs) gave a sign of life: any frame, a ping.

        A book in step with the venue is fresh on it though nothing changes. A few calls a second are enough.
        """
        for feed in self._feeds_of(exchange, pairs):
            feed.alive_ns = local_ns

    def _feeds_of(self, exchange: str, pairs: Iterable[str] | None) -> Iterable[Feed]:
        """Raises KeyError for a pair that the exchange does not list."""
        if pairs is None:
            return self._by_exchange.get(exchange, ())
        return [self._feeds[exchange, pair] for pair in pairs]

    def _other(self, feed: Feed, status: int, raw: bytes, local_ns: int) -> None:
        """A frame that is no diff, or one that could not be read."""
        kind = feed.book.frame_kind
        if kind == TICKER:
            self._ticker(feed, raw, local_ns)
        elif kind == TRADE:
            self._trade(feed, raw, local_ns)
        elif kind == SNAPSHOT:
            self._snapshot(feed, raw, local_ns)
        elif status < 0:
            self._trouble(feed.book, status_name(status))
        else:
            self._trouble(feed.book, "an unknown kind of frame")

    def _unusual(self, feed: Feed, status: int, raw: bytes, local_ns: int) -> None:
        """A diff that was not simply applied."""
        if status in (UNSYNCED, GAP):
            frames = feed.unsynced_frames
            frames.append(raw)
            if len(frames) > self.UNSYNCED_FRAMES_MAX:
                del frames[: self.UNSYNCED_FRAMES_MAX // 2]
                self._trouble(feed.book, "diffs dropped while waiting for a snapshot")
        if status != UNSYNCED:
            self._trouble(feed.book, status_name(status))
        if status in (UNSYNCED, GAP, CROSSED, DEPLETED):
            self._ask(feed, local_ns)

    def _snapshot(self, feed: Feed, raw: bytes, local_ns: int) -> None:
        book = feed.book
        status = book.load_snapshot(raw, local_ns)
        if status == STALE:
            return
        feed.asked_ns = 0
        if status == APPLIED:
            feed.ticker_id = 0  # ids may begin anew with it; the next ticker is not far
        else:
            self._trouble(book, f"snapshot: {status_name(status)}")
            return
        waiting, feed.unsynced_frames = feed.unsynced_frames, []
        for i, diff in enumerate(waiting):
            status = book.apply(diff, local_ns)
            if status not in (APPLIED, STALE):
                self._unusual(feed, status, diff, local_ns)
                if not book.synced:
                    feed.unsynced_frames += waiting[i + 1 :]
                    return
        if not book.crossed:
            self._updated(feed, local_ns)

    def _trade(self, feed: Feed, raw: bytes, local_ns: int) -> None:
        book = feed.book
        status, _, price_ticks, qty_lots, _, buyer_is_maker = book.trade(raw)
        if status != APPLIED:
            self._trouble(book, f"trade: {status_name(status)}")
            return
        feed.last_ticks = price_ticks
        self.kernel.input(TradePrinted(book.exchange, book.pair, price_ticks, qty_lots, buyer_is_maker, local_ns))

    def _ticker(self, feed: Feed, raw: bytes, local_ns: int) -> None:
        """The best prices as they are now; the depth frame that has them too comes up to 100 ms later."""
        book = feed.book
        status, update_id, bid, bid_lots, ask, ask_lots = book.ticker(raw)
        bid, ask = bid if bid_lots else 0, ask if ask_lots else 0
        if status != APPLIED or (ask and bid >= ask):
            self._trouble(book, f"ticker: {status_name(status) if status != APPLIED else 'crossed'}")
            return
        if not book.synced:
            return
        feed.alive_ns = local_ns
        if update_id <= book.update_id or update_id <= feed.ticker_id:
            return
        before = feed.top
        if feed.ticker_id <= book.update_id:
            feed.ahead_ns = local_ns
        elif not -feed.AHEAD_NS <= local_ns - feed.ahead_ns <= feed.STALE_NS:
            self._trouble(book, "tickers without the depth frames that belong to them")
            self._ask(feed, local_ns)
        feed.ticker_id, feed.bid_ticks, feed.ask_ticks = update_id, bid, ask
        if before != (bid, ask) and not book.crossed:
            self.kernel.input(BookUpdated(book.exchange, book.pair, local_ns))

    def _updated(self, feed: Feed, local_ns: int) -> None:
        self._changed.add(feed.key)
        self.kernel.input(BookUpdated(feed.book.exchange, feed.book.pair, local_ns))

    def _ask(self, feed: Feed, now_ns: int) -> None:
        """Ask for a snapshot, unless one is on its way."""
        resync = self.resync.get(feed.book.exchange)
        if resync is not None and not 0 <= now_ns - feed.asked_ns <= self.RESYNC_RETRY_NS:
            feed.asked_ns = now_ns
            resync(feed.book.exchange, feed.book.pair)

    def _trouble(self, book: Book, what: str) -> None:
        key = (book.exchange, book.pair, what)
        self.troubles.note(key, f"{book.exchange} {book.pair}: {what}", self.on_trouble)

    # --- the tops of the books in Redis

    def _store_due(self) -> None:
        if not self._to_store:
            self._to_store.extend(self._changed)
            self._changed.clear()
        if self._to_store:
            self.kernel.input(StoreBooks())
        wait_ns = self.STORE_STEP_NS if self._to_store else self._store_interval_ns
        self._timer = self.clock.call_in(wait_ns, self._store_due)

    def _store(self, _: StoreBooks) -> None:
        """Write the next few books of this round: hundreds at once would keep a frame waiting for milliseconds."""
        for _turn in range(min(len(self._to_store), self.STORED_AT_ONCE)):
            exchange, pair = self._to_store.popleft()
            self.outbox.put("books", f"{exchange}:{pair}", self.stored(exchange, pair))


def lots_at(book: Book, side: int, prices: Sequence[int]) -> list[int]:
    """Lots that the bids (BUY) or asks (SELL) of a book show at each of the prices, in ticks."""
    view = book.bids if side == BUY else book.asks
    if not view.shape[1]:
        return [0] * len(prices)
    shown, wanted = -side * view[0], -side * np.asarray(prices, np.int64)  # both rising
    at = np.minimum(np.searchsorted(shown, wanted), len(shown) - 1)
    lots: list[int] = np.where(shown[at] == wanted, view[1][at], 0).tolist()
    return lots


def last_ticks(book: Book, side: int) -> int | None:
    """The price farthest from the top that a side shows; None for an empty side."""
    view = book.bids if side == BUY else book.asks
    return int(view[0, -1]) if view.shape[1] else None
