"""A venue's order book of one pair: a thin owner of the arrays that the kernels edit.

Always true here: prices are ticks and quantities lots of this venue's instrument; `best_*`, `update_id` and `synced`
are those of the last frame that changed the book; a frame that is refused (negative status) changed nothing. Statuses
are the plain integers of `kernels_text`; `status_name` has their words.

    frame bytes -> update (kernels_book) -> decode (kernels_frame) -> scratch rows -> edit both sides -> best_*
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from ..kernel_cache import warms_up
from .kernels_book import HEADER, TABLE, clear, update
from .kernels_frame import (
    ASK_COUNT,
    BID_COUNT,
    DIFF,
    KIND,
    PRICE_GRID,
    QTY_GRID,
    SNAPSHOT,
    SNAPSHOT_ID,
    STATE_CELLS,
    SYNCED,
    TICKER,
    TIME,
    TRADE,
    UNKNOWN_KIND,
    read,
)
from .kernels_text import (
    APPLIED,
    CROSSED,
    DEPLETED,
    GAP,
    NONSENSE,
    NOT_DECIMAL,
    NOT_JSON,
    OFF_GRID,
    OTHER,
    OUT_OF_RANGE,
    STALE,
    TOO_LONG,
    TRUNCATED,
    UNITS_MAX,
    UNSYNCED,
    Ints,
)

__all__ = [
    "APPLIED",
    "BUY",
    "CROSSED",
    "DEPLETED",
    "DIFF",
    "GAP",
    "NONSENSE",
    "NOT_DECIMAL",
    "NOT_JSON",
    "OFF_GRID",
    "OTHER",
    "OUT_OF_RANGE",
    "SELL",
    "SNAPSHOT",
    "STALE",
    "TICKER",
    "TOO_LONG",
    "TRADE",
    "TRUNCATED",
    "UNKNOWN_KIND",
    "UNSYNCED",
    "Book",
    "peek",
    "status_name",
]

BUY: Final = 1
SELL: Final = -1

DEPTH_MAX: Final = 5_000  # levels a side: the longest snapshot that Binance gives
FRAME_BYTES_MAX: Final = 4 << 20  # a snapshot of 5,000 levels a side takes 0.4 MB; beyond this a frame is TOO_LONG
LEVEL_BYTES_MIN: Final = 10  # ["1","0"], is the shortest level there is

_NAMES: Final = {
    APPLIED: "applied",
    STALE: "stale",
    GAP: "gap",
    UNSYNCED: "unsynced",
    CROSSED: "crossed",
    DEPLETED: "depleted",
    OTHER: "another kind of frame",
    TRUNCATED: "truncated",
    NOT_JSON: "not JSON",
    NONSENSE: "fields missing, doubled, of the wrong type or contradictory",
    NOT_DECIMAL: "a price or quantity is not digits[.digits]",
    OFF_GRID: "a price or quantity is not a multiple of the tick or lot",
    OUT_OF_RANGE: "a price or quantity is out of range",
    TOO_LONG: f"longer than {FRAME_BYTES_MAX} bytes",
}


def status_name(status: int) -> str:
    """The words for a status, for a log line or an error."""
    return _NAMES.get(status, f"status {status}")


class Book:
    """One side sorted down, one sorted up, kept by the venue's frames. Not for two threads at a time."""

    __slots__ = (
        "_asks",
        "_bids",
        "_frame_bytes_max",
        "_scratch",
        "_sides",
        "_state",
        "best_ask_lots",
        "best_ask_ticks",
        "best_bid_lots",
        "best_bid_ticks",
        "crossed",
        "depth_max",
        "event_ns",
        "exchange",
        "local_ns",
        "pair",
        "synced",
        "update_id",
    )

    def __init__(
        self,
        exchange: str,
        pair: str,
        *,
        price_decimals: int,
        tick_units: int = 1,
        qty_decimals: int,
        lot_units: int = 1,
        depth_max: int = DEPTH_MAX,
    ) -> None:
        """A tick is `tick_units * 10**-price_decimals`, a lot `lot_units * 10**-qty_decimals`.

        A side holds `depth_max` levels; what is beyond falls off the far end (see `kernels_book`).
        Raises ValueError for a grid that integers cannot hold.
        """
        if depth_max < 1:
            raise ValueError(f"depth_max is {depth_max}: a book holds at least one level a side")
        self.exchange = exchange
        self.pair = pair
        self.depth_max = depth_max
        self._state = np.zeros(STATE_CELLS, np.int64)
        self._state[PRICE_GRID : PRICE_GRID + 5] = _grid("tick", price_decimals, tick_units)
        self._state[QTY_GRID : QTY_GRID + 5] = _grid("lot", qty_decimals, lot_units)
        self._sides = np.zeros((2, 2, HEADER + 2 * depth_max), np.int64)
        self._bids, self._asks = self._sides
        self._bids[1, 1], self._asks[1, 1] = -1, 1
        clear(self._bids)
        clear(self._asks)
        # Kept by the last frame that changed the book:
        self.synced = False
        self.crossed = False
        self.update_id = 0
        self.event_ns = 0  # the venue's clock
        self.local_ns = 0  # ours, as handed in with the frame
        self.best_bid_ticks = self.best_bid_lots = 0  # 0 lots: the side is empty
        self.best_ask_ticks = self.best_ask_lots = 0
        self._reserve(LEVEL_BYTES_MIN * (depth_max + 2))

    def apply(self, frame: bytes | memoryview, local_ns: int = 0, *, kind: int = DIFF) -> int:
        """A diff frame: APPLIED, CROSSED, STALE, GAP, UNSYNCED, DEPLETED, OTHER, or a refusal (negative)."""
        if type(frame) is not bytes:
            frame = bytes(frame)  # one type of frame is one set of machine code; the copy costs 0.1 us
        if len(frame) > self._frame_bytes_max and not self._reserve(len(frame)):
            return TOO_LONG
        status, synced, update_id, event_ns, bid, bid_lots, ask, ask_lots = update(
            frame, kind, self._state, self._sides, self._scratch
        )
        self.synced = synced == 1
        if status == APPLIED or status == CROSSED or status == DEPLETED:  # noqa: SIM109 (cheaper)
            self.crossed = status == CROSSED
            self.update_id = update_id
            self.event_ns = event_ns
            self.local_ns = local_ns
            self.best_bid_ticks = bid
            self.best_bid_lots = bid_lots
            self.best_ask_ticks = ask
            self.best_ask_lots = ask_lots
        return status

    def load_snapshot(self, frame: bytes | memoryview, local_ns: int = 0) -> int:
        """A snapshot frame replaces the book and makes it synced: APPLIED, STALE, OTHER, or a refusal (negative)."""
        return self.apply(frame, local_ns, kind=SNAPSHOT)

    def set_levels(
        self,
        bids: Sequence[tuple[int, int]] | Ints,
        asks: Sequence[tuple[int, int]] | Ints,
        update_id: int,
        *,
        event_ns: int = 0,
        local_ns: int = 0,
    ) -> int:
        """The book from (ticks, lots) pairs, in any order, as a snapshot would: APPLIED, or NONSENSE where they cross.

        Always taken, however old its id: who calls this knows the whole book.
        """
        self._reserve(LEVEL_BYTES_MIN * max(len(bids), len(asks)))
        for row, cell, levels in ((0, BID_COUNT, bids), (2, ASK_COUNT, asks)):
            table = np.asarray(levels, np.int64).reshape(-1, 2)
            if len(table) and (table[:, 0].min() < 1 or table.min() < 0 or table.max() > UNITS_MAX):
                return NONSENSE
            self._scratch[row : row + 2, : len(table)] = table.T
            self._state[cell] = len(table)
        self._state[SNAPSHOT_ID], self._state[TIME] = update_id, 0
        before, self._state[SYNCED] = self._state[SYNCED], 0
        status = self.apply(b"", local_ns, kind=TABLE)
        if status < 0:
            self._state[SYNCED] = before
            self.synced = bool(before)
        else:
            self.event_ns = event_ns
        return status

    def unsync(self) -> None:
        """The feed is known to be broken (a lost connection): no diff counts until the next snapshot."""
        self._state[SYNCED] = 0
        self.synced = False

    def ticker(self, frame: bytes | memoryview) -> tuple[int, int, int, int, int, int]:
        """A bookTicker frame: (status, update id, bid ticks, bid lots, ask ticks, ask lots); the book is left alone."""
        status, kind, update_id, bid, bid_lots, ask, ask_lots = self._read(frame)
        return (status if kind == TICKER else status or OTHER), update_id, bid, bid_lots, ask, ask_lots

    def trade(self, frame: bytes | memoryview) -> tuple[int, int, int, int, int, bool]:
        """A trade frame: (status, trade id, ticks, lots, time as sent, whether the buyer was the maker)."""
        status, kind, trade_id, price, lots, time, maker = self._read(frame)
        return (status if kind == TRADE else status or OTHER), trade_id, price, lots, time, maker == 1

    @property
    def bids(self) -> Ints:
        """A view of shape (2, levels): ticks and lots, best first; valid until the next frame."""
        first, count = self._bids[:, 0]
        return self._bids[:, first : first + count]

    @property
    def asks(self) -> Ints:
        """A view of shape (2, levels): ticks and lots, best first; valid until the next frame."""
        first, count = self._asks[:, 0]
        return self._asks[:, first : first + count]

    def resting(self, side: int) -> Ints:
        """The kernel's array of a side's resting orders: BUY the bids, SELL the asks (layout in `kernels_book`)."""
        return self._bids if side == BUY else self._asks

    def levels(self, side: int, n: int) -> list[tuple[int, int]]:
        """The best `n` (ticks, lots) of the bids (BUY) or asks (SELL), best first."""
        view = self.bids if side == BUY else self.asks
        ticks, lots = view[:, : max(n, 0)].tolist()
        return list(zip(ticks, lots, strict=True))

    @property
    def frame_kind(self) -> int:
        """What the last frame was: DIFF, SNAPSHOT, TICKER, TRADE; UNKNOWN_KIND where it could not be told."""
        return int(self._state[KIND])

    @property
    def frame_levels(self) -> int:
        """How many levels the last depth frame held, both sides."""
        return int(self._state[BID_COUNT]) + int(self._state[ASK_COUNT])

    def _read(self, frame: bytes | memoryview) -> tuple[int, int, int, int, int, int, int]:
        if type(frame) is not bytes:
            frame = bytes(frame)
        if len(frame) > self._frame_bytes_max and not self._reserve(len(frame)):
            return TOO_LONG, UNKNOWN_KIND, 0, 0, 0, 0, 0
        return read(frame, self._state, self._scratch, False)

    def _reserve(self, frame_bytes: int) -> bool:
        """Scratch rows for every level that a frame of this length can hold; False when it is too long."""
        if frame_bytes > FRAME_BYTES_MAX:
            return False
        columns = max(frame_bytes // LEVEL_BYTES_MIN + 1, self.depth_max + 1)
        self._scratch = np.zeros((6, columns), np.int64)
        self._frame_bytes_max = (columns - 1) * LEVEL_BYTES_MIN
        return True


def peek(frame: bytes | memoryview) -> tuple[int, int, bytes, bytes]:
    """Which book a frame is for, without reading its levels: (status, kind, symbol, stream name), empty when absent.

    Only what is read is checked: a frame that is refused later may look good here.
    """
    if type(frame) is not bytes:
        frame = bytes(frame)
    status, kind, symbol, symbol_end, stream, stream_end, _ = read(frame, _PEEK_STATE, _PEEK_SCRATCH, True)
    return status, kind, frame[symbol:symbol_end], frame[stream:stream_end]


def _grid(name: str, decimals: int, step: int) -> Ints:
    """The five cells that `number` reads; the inverse serves exact division of what has eight decimals."""
    if not 0 <= decimals <= 18:
        raise ValueError(f"the {name} has {decimals} decimals: 0 to 18 can be held")
    if not 1 <= step <= UNITS_MAX:
        raise ValueError(f"the {name} is {step} units of 10**-{decimals}: 1 to {UNITS_MAX} can be held")
    divisor = step * 10 ** (8 - decimals) if decimals <= 8 else 0
    if not 1 <= divisor < 2**63:
        return np.array([decimals, step, 0, 0, 0], np.int64)  # no fast path
    shift = (divisor & -divisor).bit_length() - 1
    inverse = pow(divisor >> shift, -1, 2**64)
    greatest = min((2**64 - 1) // divisor, 2**63 - 1)
    return np.array([decimals, step, inverse - (inverse >> 63 << 64), shift, greatest], np.int64)


_PEEK_STATE = np.zeros(STATE_CELLS, np.int64)
_PEEK_STATE[PRICE_GRID : PRICE_GRID + 5] = _PEEK_STATE[QTY_GRID : QTY_GRID + 5] = _grid("tick", 8, 1)
_PEEK_SCRATCH = np.zeros((6, 1), np.int64)


@warms_up("market books")
def warm_up_books() -> None:
    """Calls each kernel of this module once."""
    book = Book("", "", price_decimals=2, qty_decimals=2, depth_max=4)
    book.load_snapshot(b'{"lastUpdateId":1,"bids":[["1.00","1.00"]],"asks":[["2.00","1.00"]]}')
    book.apply(b'{"e":"depthUpdate","E":1,"s":"S","U":2,"u":2,"b":[["1.01","1.00"]],"a":[]}')
    book.ticker(b'{"u":2,"s":"S","b":"1.01","B":"1.00","a":"2.00","A":"1.00"}')
    peek(b'{"e":"trade","s":"S"}')
