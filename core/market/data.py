"""Market data: raw frames in, consistent books and prices out.

Always true here:
- `BookUpdated` is published only for a book that is in step with the venue and not crossed.
- A gap makes the book unsynced and asks the venue for a snapshot; diffs that come meanwhile are kept, within a bound,
  and applied on top of it.
- A frame that cannot be understood changes nothing, is counted by what was wrong with it, and said once per power of
  ten.

The way of a frame: `frame` -> `Book.apply` (numba, from the bytes) -> `BookUpdated` or `TradePrinted` on the bus.
"""

from collections import Counter
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
    DIFF,
    GAP,
    SELL,
    SNAPSHOT,
    STALE,
    TICKER,
    TRADE,
    UNSYNCED,
    Book,
    peek,
    status_name,
)
from .grid import Grid

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

    __slots__ = ("asked_ns", "book", "half_tick", "last_ticks", "price_grid", "qty_grid", "unsynced_frames")

    def __init__(self, instrument: Instrument, depth_max: int) -> None:
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
        self.asked_ns = 0  # when a snapshot was last asked for; 0 when none is awaited
        self.unsynced_frames: list[bytes] = []  # diffs that wait for it


class MarketData(Actor):
    """Owns every book."""

    STALE_NS = 2 * SECOND_NS  # a book without an update for longer does not count
    RESYNC_RETRY_NS = 5 * SECOND_NS  # until a snapshot that did not come is asked for again
    UNSYNCED_FRAMES_MAX = 2_000  # diffs kept for a book without a snapshot; beyond it the older half is dropped
    STORED_LEVELS = 10

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
        self.troubles: Counter[tuple[str, str, str]] = Counter()  # (exchange, pair, what): how often
        self.on_trouble = on_trouble
        self.frame_count = 0
        self._feeds = {key: Feed(instrument, depth_max) for key, instrument in self.instruments.items()}
        self._store_interval_ns = store_interval_ns
        self._changed: set[Key] = set()
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

    def quote(self, exchange: str, pair: str) -> tuple[int, int] | None:
        """(best bid, best ask) in ticks; None when there is no such book, or a side of it is empty."""
        feed = self._feeds.get((exchange, pair))
        if feed is None or not feed.book.best_bid_lots or not feed.book.best_ask_lots:
            return None
        return feed.book.best_bid_ticks, feed.book.best_ask_ticks

    def mid(self, exchange: str, pair: str) -> Decimal | None:
        """Half way between the best prices, however old; None when there is no such book, or a side of it is empty."""
        feed = self._feeds.get((exchange, pair))
        if feed is None or not feed.book.best_bid_lots or not feed.book.best_ask_lots:
            return None
        return (feed.book.best_bid_ticks + feed.book.best_ask_ticks) * feed.half_tick

    def last(self, exchange: str, pair: str) -> int | None:
        """Ticks of the last trade."""
        feed = self._feeds.get((exchange, pair))
        return feed.last_ticks if feed is not None else None

    def updated_ns(self, exchange: str, pair: str) -> int:
        """When the book last changed, by our clock; 0 for never."""
        return self._feeds[exchange, pair].book.local_ns

    def age_ns(self, exchange: str, pair: str, now_ns: int) -> int | None:
        """Since the book's last change; None for never."""
        updated_ns = self._feeds[exchange, pair].book.local_ns
        return now_ns - updated_ns if updated_ns else None

    def fresh(self, exchange: str, pair: str, now_ns: int) -> bool:
        """Whether the book may be traded on: in step with the venue, not crossed, and updated within STALE_NS."""
        feed = self._feeds.get((exchange, pair))
        if feed is None:
            return False
        book = feed.book
        return book.synced and not book.crossed and now_ns - book.local_ns <= self.STALE_NS

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
        """A raw frame of the pair: a depth diff, a snapshot, or a trade; other kinds are ignored."""
        self.frame_count += 1
        feed = self._feeds[exchange, pair]
        if raw.startswith(b'{"e":"depthUpdate"'):  # most frames, and `apply` checks the rest of it
            self._diff(feed, raw, local_ns)
            return
        status, kind, _, _ = peek(raw)  # whoever reads the kind checks the frame
        if kind == DIFF:
            self._diff(feed, raw, local_ns)
        elif kind == TRADE:
            self._trade(feed, raw, local_ns)
        elif kind == SNAPSHOT:
            self._snapshot(feed, raw, local_ns)
        elif kind != TICKER:
            self._trouble(feed.book, status_name(status) if status < 0 else "an unknown kind of frame")

    def lost(self, exchange: str) -> None:
        """The connection to an exchange broke: none of its books counts before its next snapshot."""
        for (name, _), feed in self._feeds.items():
            if name == exchange:
                feed.book.unsync()
                feed.unsynced_frames.clear()
                feed.asked_ns = 0

    def _diff(self, feed: Feed, raw: bytes, local_ns: int) -> None:
        status = feed.book.apply(raw, local_ns)
        if status == APPLIED:
            self._updated(feed.book, local_ns)
        elif status != STALE:
            self._unusual(feed, status, raw, local_ns)

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
        if status != APPLIED:
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
            self._updated(book, local_ns)

    def _trade(self, feed: Feed, raw: bytes, local_ns: int) -> None:
        book = feed.book
        status, _, price_ticks, qty_lots, _, buyer_is_maker = book.trade(raw)
        if status != APPLIED:
            self._trouble(book, f"trade: {status_name(status)}")
            return
        feed.last_ticks = price_ticks
        self.kernel.input(TradePrinted(book.exchange, book.pair, price_ticks, qty_lots, buyer_is_maker, local_ns))

    def _updated(self, book: Book, local_ns: int) -> None:
        self._changed.add((book.exchange, book.pair))
        self.kernel.input(BookUpdated(book.exchange, book.pair, local_ns))

    def _ask(self, feed: Feed, now_ns: int) -> None:
        """Ask for a snapshot, unless one is on its way."""
        resync = self.resync.get(feed.book.exchange)
        if resync is not None and (not feed.asked_ns or now_ns - feed.asked_ns > self.RESYNC_RETRY_NS):
            feed.asked_ns = now_ns
            resync(feed.book.exchange, feed.book.pair)

    def _trouble(self, book: Book, what: str) -> None:
        """Count it, and say so the 1st, 10th, 100th, ... time."""
        key = (book.exchange, book.pair, what)
        self.troubles[key] = count = self.troubles[key] + 1
        if self.on_trouble is not None and str(count).strip("0") == "1":
            times = "" if count == 1 else f" ({count} times)"
            self.on_trouble(f"{book.exchange} {book.pair}: {what}{times}")

    # --- the tops of the books in Redis

    def _store_due(self) -> None:
        self._timer = self.clock.call_in(self._store_interval_ns, self._store_due)
        if self._changed:
            self.kernel.input(StoreBooks())

    def _store(self, _: StoreBooks) -> None:
        for exchange, pair in self._changed:
            self.outbox.put("books", f"{exchange}:{pair}", self.stored(exchange, pair))
        self._changed.clear()


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
