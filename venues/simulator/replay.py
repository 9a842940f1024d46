"""Recorded market data: frames out of a capture file, and books kept from them and checked against themselves.

A capture is a text file, gzipped or not, with a frame a line: the local clock in nanoseconds, a space, the frame as the
venue sent it:

    1723161254024619568 {"stream":"ethusdt@bookTicker","data":{"u":35346513501,"s":"ETHUSDT","b":"2683.80000000",...}}

A REST snapshot in it does not say its symbol: in a capture of one symbol it is that symbol's.

Always true here: a book follows Binance's sync rules (diffs wait for a snapshot that reaches the first of them, then
each continues the one before), and what the venue itself said was its best bid and ask (bookTicker) decides whether the
book is right. The venue's statement holds at an update id: after a depth event with last id `u` the top of the book
equals the bookTicker with that very `u` (an exact check), and, as a bookTicker is sent whenever the top changes, also
the last bookTicker before `u` (a carried check; counted apart, as it leans on the capture not having lost a frame).
"""

from __future__ import annotations

import gzip
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import IO, Literal

import msgspec

from ...core.kernel_cache import warm_up
from ...core.market.book import (
    APPLIED,
    CROSSED,
    DEPLETED,
    DIFF,
    FRAME_BYTES_MAX,
    GAP,
    NOT_JSON,
    SNAPSHOT,
    STALE,
    TICKER,
    TRADE,
    TRUNCATED,
    Book,
    peek,
    status_name,
)
from ...core.model.errors import TbxError

Top = tuple[int, int, int, int, int]  # update id, bid ticks, bid lots, ask ticks, ask lots

LINE_BYTES_MAX = FRAME_BYTES_MAX + 32
BATCH_FRAMES = 512  # read ahead of the books, so that reading and keeping books can be timed apart
WAITING_MAX = 10_000  # diffs and tickers kept while a book waits for its snapshot; the oldest goes first
GZIP_MAGIC = b"\x1f\x8b"


class CaptureError(TbxError):
    """A capture file cannot be used: which file, which line (0: the file as a whole), and why."""

    def __init__(self, path: Path, line: int, reason: str) -> None:
        self.path, self.line, self.reason = path, line, reason
        super().__init__(f"{path}{f', line {line}' if line else ''}: {reason}")


class ReplayReport(msgspec.Struct, kw_only=True):
    """What a replay found. Counts; times in seconds."""

    path: str
    symbols: list[str] = []
    frames: int = 0
    snapshots: int = 0
    depth_events: int = 0  # diffs applied to a book
    levels: int = 0  # in those diffs and snapshots
    tickers: int = 0
    trades: int = 0
    others: int = 0  # frames of kinds that are not read here
    stale: int = 0  # diffs older than the book, as expected around a snapshot
    unsynced: int = 0  # diffs that no snapshot ever reached
    gaps: int = 0
    crossed: int = 0
    depleted: int = 0
    refused: int = 0  # frames that the decoder refused
    first_refusal: str = ""
    checked: int = 0  # tops compared with the bookTicker of the same update id
    mismatches: int = 0
    carried_checked: int = 0  # tops compared with the last bookTicker before
    carried_mismatches: int = 0
    first_mismatch: str = ""
    capture_seconds: float = 0.0
    reading_seconds: float = 0.0  # decompressing and splitting into frames
    keeping_seconds: float = 0.0  # from frames to books, with the checks
    frames_per_second: float = 0.0  # keeping only
    frames_per_second_with_reading: float = 0.0

    @property
    def good(self) -> bool:
        """No gap, no crossed book, no frame refused, and every top checked agrees."""
        return not (self.gaps or self.crossed or self.depleted or self.refused or self.unsynced or self.mismatches)

    def text(self) -> str:
        """For a terminal."""
        rows = (
            ("frames", self.frames, f"{self.tickers:,} bookTickers, {self.trades:,} trades, {self.others:,} others"),
            ("depth events", self.depth_events, f"{self.levels:,} levels, {self.snapshots:,} snapshots"),
            ("gaps", self.gaps, f"{self.stale:,} stale, {self.unsynced:,} unsynced, {self.refused:,} refused"),
            ("crossed", self.crossed, f"{self.depleted:,} depleted"),
            ("mismatches", self.mismatches, f"of {self.checked:,} with a bookTicker of the same update id"),
            ("carried", self.carried_mismatches, f"of {self.carried_checked:,} against the last bookTicker before"),
            ("frames/s", self.frames_per_second, f"{self.frames_per_second_with_reading:,.0f} with reading the file"),
        )
        lines = [f"{self.path}: {', '.join(self.symbols)}, {self.capture_seconds:.1f} s of market"]
        lines += [f"  {name:<13}{count:>11,.0f}   {more}" for name, count, more in rows]
        lines += [f"  {problem}" for problem in (self.first_refusal, self.first_mismatch) if problem]
        return "\n".join([*lines, "  good" if self.good else "  NOT GOOD"])


class _Symbol:
    """One symbol's book, and what waits to be applied or compared."""

    __slots__ = ("book", "name", "tickers", "waiting")

    def __init__(self, name: str, price_decimals: int, qty_decimals: int) -> None:
        self.name = name
        self.book = Book("binance", name, price_decimals=price_decimals, qty_decimals=qty_decimals)
        self.waiting: deque[tuple[int, bytes]] = deque(maxlen=WAITING_MAX)
        self.tickers: deque[Top] = deque(maxlen=WAITING_MAX)


class Replay:
    """Books of all symbols of a capture, fed frame by frame; `report` counts along."""

    def __init__(self, path: Path, price_decimals: int, qty_decimals: int) -> None:
        self.path = path
        self.report = ReplayReport(path=str(path))
        self._decimals = (price_decimals, qty_decimals)
        self._symbols: dict[bytes, _Symbol] = {}
        self._orphan: tuple[int, bytes] | None = None  # a snapshot that came before any symbol was named

    def frame(self, local_ns: int, frame: bytes) -> None:
        """One frame, in the order of the capture. Raises CaptureError for what is not JSON."""
        report = self.report
        report.frames += 1
        status, kind, name, stream = peek(frame)
        if status < 0:
            self._refuse(status)
        elif kind == DIFF:
            self._diff(self._symbol(name, stream), local_ns, frame)
        elif kind == TICKER:
            self._ticker(self._symbol(name, stream), frame)
        elif kind == SNAPSHOT:
            self._snapshot(name, stream, local_ns, frame)
        elif kind == TRADE:
            report.trades += 1
        else:
            report.others += 1

    def finish(self) -> None:
        """Nothing more comes: what still waits will wait for ever."""
        if self._orphan is not None:
            raise CaptureError(self.path, 0, "holds a snapshot, and no frame that names a symbol")
        if not self.report.snapshots:
            raise CaptureError(self.path, 0, "holds no snapshot: no book can be built from diffs alone")
        self.report.unsynced = sum(len(symbol.waiting) for symbol in self._symbols.values())
        self.report.symbols = sorted(symbol.name for symbol in self._symbols.values())

    def book(self, symbol: str) -> Book:
        """The book of a symbol as it is now."""
        return self._symbols[symbol.encode()].book

    def _symbol(self, name: bytes, stream: bytes) -> _Symbol:
        key = name or stream.partition(b"@")[0].upper()
        symbol = self._symbols.get(key)
        if symbol is None:
            self._symbols[key] = symbol = _Symbol(key.decode("utf-8", "replace"), *self._decimals)
            if self._orphan is not None:
                orphan, self._orphan = self._orphan, None
                self._load(symbol, *orphan)
        return symbol

    def _diff(self, symbol: _Symbol, local_ns: int, frame: bytes) -> None:
        status = symbol.book.apply(frame, local_ns)
        if status == APPLIED:
            self._applied(symbol)
        elif status == STALE:
            self.report.stale += 1
        elif status < 0:
            self._refuse(status)
        else:
            self._unusual(symbol, status, local_ns, frame)

    def _unusual(self, symbol: _Symbol, status: int, local_ns: int, frame: bytes) -> None:
        if status == CROSSED:
            self.report.crossed += 1
            self._applied(symbol)
        elif status == DEPLETED:
            self.report.depleted += 1
        else:  # GAP or UNSYNCED
            self.report.gaps += status == GAP
            symbol.waiting.append((local_ns, frame))

    def _snapshot(self, name: bytes, stream: bytes, local_ns: int, frame: bytes) -> None:
        self.report.snapshots += 1
        if name or stream:
            self._load(self._symbol(name, stream), local_ns, frame)
        elif len(self._symbols) == 1:
            self._load(next(iter(self._symbols.values())), local_ns, frame)
        elif not self._symbols:
            self._orphan = (local_ns, frame)
        else:
            raise CaptureError(
                self.path,
                self.report.frames,
                f"a snapshot without a symbol in a capture of {len(self._symbols)}: one symbol a file, please",
            )

    def _load(self, symbol: _Symbol, local_ns: int, frame: bytes) -> None:
        book = symbol.book
        status = book.load_snapshot(frame, local_ns)
        if status < 0:
            self._refuse(status)
            return
        if status == STALE:
            return
        self.report.levels += book.frame_levels
        waiting, symbol.waiting = symbol.waiting, deque(maxlen=WAITING_MAX)
        started = False
        while waiting:
            local_ns, frame = waiting.popleft()
            if book.synced:
                first = not started
                status = book.apply(frame, local_ns)
                started |= status != STALE
                if status == GAP and first:
                    # The snapshot does not reach the first diff that waited: it is too old, the next one may do.
                    symbol.waiting.append((local_ns, frame))
                elif status == APPLIED:
                    self._applied(symbol)
                elif status == STALE:
                    self.report.stale += 1
                elif status < 0:
                    self._refuse(status)
                else:
                    self._unusual(symbol, status, local_ns, frame)
            else:
                symbol.waiting.append((local_ns, frame))

    def _applied(self, symbol: _Symbol) -> None:
        report, book, tickers = self.report, symbol.book, symbol.tickers
        report.depth_events += 1
        report.levels += book.frame_levels
        update_id = book.update_id
        while len(tickers) > 1 and tickers[1][0] <= update_id:
            tickers.popleft()
        if tickers and tickers[0][0] <= update_id:
            self._check(symbol, tickers[0])

    def _ticker(self, symbol: _Symbol, frame: bytes) -> None:
        status, *top = symbol.book.ticker(frame)
        if status < 0:
            self._refuse(status)
            return
        self.report.tickers += 1
        ticker: Top = (top[0], top[1], top[2], top[3], top[4])
        if symbol.book.synced and ticker[0] == symbol.book.update_id:
            self._check(symbol, ticker)  # the depth event overtook it on the wire
        symbol.tickers.append(ticker)

    def _check(self, symbol: _Symbol, ticker: Top) -> None:
        report, book = self.report, symbol.book
        top = (book.best_bid_ticks, book.best_bid_lots, book.best_ask_ticks, book.best_ask_lots)
        agrees = top == ticker[1:]
        if ticker[0] == book.update_id:
            report.checked += 1
            report.mismatches += not agrees
        else:
            report.carried_checked += 1
            report.carried_mismatches += not agrees
        if not agrees and not report.first_mismatch:
            report.first_mismatch = (
                f"{symbol.name} after update {book.update_id}: bid, ask (ticks, lots) {top}, "
                f"bookTicker {ticker[0]} says {ticker[1:]}"
            )

    def _refuse(self, status: int) -> None:
        line = self.report.frames
        if status in (NOT_JSON, TRUNCATED):
            raise CaptureError(self.path, line, f"the frame is {status_name(status)}")
        self.report.refused += 1
        if not self.report.first_refusal:
            self.report.first_refusal = f"frame {line} refused: {status_name(status)}"


def frames(path: str | Path) -> Iterator[tuple[int, bytes]]:
    """(local ns, frame) for each line of a capture, as a stream: a file of any size takes a line's memory.

    Raises CaptureError for a file that cannot be read and for a line that is not `<local_ns> <frame>`.
    """
    path = Path(path)
    number = 0
    try:
        with _opened(path) as file:
            while line := file.readline(LINE_BYTES_MAX):
                number += 1
                stamp, space, frame = line.partition(b" ")
                if not (space and stamp.isdigit() and len(stamp) <= 19):
                    raise CaptureError(path, number, "is not `<local time in ns> <frame>`")
                yield int(stamp), frame.rstrip()
    except (OSError, EOFError, zlib.error) as error:
        raise CaptureError(path, number, _why(error)) from error


def replay(
    path: str | Path,
    *,
    speed: Literal["max", "1x"] = "max",
    sink: Callable[[int, bytes], None] | None = None,
    price_decimals: int = 8,
    qty_decimals: int = 8,
    wait_ns: Callable[[int], None] | None = None,
    say: Callable[[str], None] | None = None,
) -> ReplayReport:
    """Keeps the books of a capture and says how well they agree with the capture's own bookTickers.

    `speed` "1x" waits between frames as long as the capture did (`wait_ns` sleeps, by default); `sink` gets each frame
    after the books have taken it; `say` gets a line for each kernel that has to be compiled first.
    Decimals are those of the venue's texts: Binance prints eight. Raises CaptureError.
    """
    warm_up(say or (lambda _: None))
    path = Path(path)
    keeper = Replay(path, price_decimals, qty_decimals)
    report = keeper.report
    wait = None if speed == "max" else (wait_ns or (lambda ns: time.sleep(ns / 1e9)))
    source = frames(path)
    first_ns = last_ns = reading_ns = keeping_ns = 0
    while True:
        began = time.perf_counter_ns()
        batch = list(islice(source, BATCH_FRAMES))
        read = time.perf_counter_ns()
        reading_ns += read - began
        if not batch:
            break
        waited_ns = 0
        for local_ns, frame in batch:
            if wait is not None and local_ns > last_ns > 0:
                wait(local_ns - last_ns)
                waited_ns += local_ns - last_ns
            first_ns, last_ns = first_ns or local_ns, local_ns
            keeper.frame(local_ns, frame)
            if sink is not None:
                sink(local_ns, frame)
        keeping_ns += max(time.perf_counter_ns() - read - waited_ns, 0)
    keeper.finish()
    report.capture_seconds = (last_ns - first_ns) / 1e9
    report.reading_seconds, report.keeping_seconds = reading_ns / 1e9, keeping_ns / 1e9
    report.frames_per_second = report.frames * 1e9 / max(keeping_ns, 1)
    report.frames_per_second_with_reading = report.frames * 1e9 / max(keeping_ns + reading_ns, 1)
    return report


def _opened(path: Path) -> IO[bytes]:
    with path.open("rb") as file:
        packed = file.read(2) == GZIP_MAGIC
    return gzip.open(path, "rb") if packed else path.open("rb")  # type: ignore[return-value]


def _why(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, IsADirectoryError):
        return "is a folder, not a capture"
    if isinstance(error, EOFError):
        return "the gzip file ends too early"
    if isinstance(error, (zlib.error, gzip.BadGzipFile)):
        return f"the gzip file is damaged ({error})"
    return f"cannot be read ({getattr(error, 'strerror', None) or error})"
