"""Depth, bookTicker and trade frames into integers, without a Python object per level.

Always true here: a frame is decoded wholly into the cells of `state` and the rows of `scratch`, or a negative status
says why not; no book is touched. Keys may come in any order, unknown ones are skipped, a key that comes twice or holds
what does not fit it makes the frame NONSENSE if its kind needs that key. A key spelt with escapes is an unknown key.

A depth frame, as it came (Binance spot, combined stream):

    {"stream":"ethusdt@depth@100ms","data":{"e":"depthUpdate","E":1723161255508,"s":"ETHUSDT","U":35346513513,
    "u":35346513514,"b":[["2676.78000000","4.24540000"],["2676.77000000","3.07340000"]],"a":[]}}
"""

# ruff: noqa: SIM109  (a chain of == compiles to less than a membership test, a loop to less than a generator)

from __future__ import annotations

from typing import Any, Final

import numpy as np

from ..kernel_cache import compiled
from .kernels_text import (
    APPLIED,
    COLON,
    COMMA,
    DOT,
    LIST,
    LIST_END,
    NONSENSE,
    NOT_JSON,
    OBJECT,
    OBJECT_END,
    QUOTE,
    TOO_LONG,
    TRUNCATED,
    UNITS_MAX,
    ZERO,
    Ints,
    expect,
    load8,
    number,
    same,
    scalar_end,
    space,
    string_end,
    value_end,
)

# Kinds of frames.
UNKNOWN_KIND: Final = 0
DIFF: Final = 1
SNAPSHOT: Final = 2
TICKER: Final = 3
TRADE: Final = 4

# Keys of frames are slots: a bit in the masks, and a cell of the state for the value.
NAME, TIME, SYMBOL, FIRST_ID, LAST_ID, B, A, B_LOTS, A_LOTS, PRICE, QTY, TRADE_ID, TRADE_TIME, MAKER = range(14)
STREAM, SNAPSHOT_ID, BIDS, ASKS, NEST, UNKNOWN_KEY, B_PRICE, A_PRICE = range(14, 22)

# Cells of a book's state, after the 22 slots. Spans are byte offsets into the frame.
MASK, ODD, TROUBLE, KIND, BID_COUNT, ASK_COUNT, SYMBOL_END, STREAM_END = range(22, 30)
SYNCED, UPDATE_ID, EVENT_NS = range(30, 33)
PRICE_GRID: Final = 33  # five cells each: decimals, step, then inverse, shift and greatest quotient of the fast path
QTY_GRID: Final = 38
STATE_CELLS: Final = 43

_SLOT_OF = np.full(128, UNKNOWN_KEY, np.int64)
for _key, _slot in zip("eEsUubaBApqtTm", range(14), strict=True):
    _SLOT_OF[ord(_key)] = _slot
_DATA, _RESULT, _STREAM, _BIDS, _ASKS, _SNAPSHOT_ID, _DEPTH_UPDATE, _TRADE, _BOOK_TICKER = (
    np.frombuffer(word, np.uint8)
    for word in b"data result stream bids asks lastUpdateId depthUpdate trade bookTicker".split()
)


_TO_QTY = np.uint64(int.from_bytes(b'","', "little"))
_TO_QTY_MASK = np.uint64(2**24 - 1)
_TO_LEVEL = np.uint64(int.from_bytes(b'"],["', "little"))
_TO_LEVEL_MASK = np.uint64(2**40 - 1)


@compiled
def levels(frame: bytes, i: int, n: int, state: Ints, scratch: Ints, row: int) -> tuple[int, int]:
    """[["price","quantity"], ...] at `i` into two scratch rows: (index after it or a status, how many).

    What stands between the numbers is compared in one go where it is written without white space.
    """
    count = 0
    i = space(frame, i + 1, n)
    if i < n and frame[i] == LIST_END:
        return i + 1, 0
    i = expect(frame, expect(frame, i, n, LIST), n, QUOTE)
    while i >= 0:
        price, i = number(frame, i, n, state, PRICE_GRID)
        if price <= 0:
            return (price if price < 0 else NONSENSE), count
        if i + 8 <= n and load8(frame, i) & _TO_QTY_MASK == _TO_QTY:
            i += 3
        else:
            i = expect(frame, expect(frame, i + 1, n, COMMA), n, QUOTE)
            if i < 0:
                break
        lots, i = number(frame, i, n, state, QTY_GRID)
        if lots < 0:
            return lots, count
        if count >= scratch.shape[1]:
            return TOO_LONG, count
        scratch[row, count] = price
        scratch[row + 1, count] = lots
        count += 1
        if i + 8 <= n and load8(frame, i) & _TO_LEVEL_MASK == _TO_LEVEL:
            i += 5
            continue
        i = expect(frame, i + 1, n, LIST_END)
        if i < 0:
            break
        i = space(frame, i, n)
        if i < n and frame[i] == LIST_END:
            return i + 1, count
        i = expect(frame, expect(frame, expect(frame, i, n, COMMA), n, LIST), n, QUOTE)
    return NONSENSE, count


@compiled
def slot_of(frame: bytes, i: int, end: int) -> int:
    """Which key of ours frame[i:end] is."""
    length = end - i
    if length == 1:
        return _SLOT_OF[frame[i]] if frame[i] < 128 else UNKNOWN_KEY
    if length == 4:
        if same(frame, i, end, _DATA):
            return NEST
        if same(frame, i, end, _BIDS):
            return BIDS
        if same(frame, i, end, _ASKS):
            return ASKS
    elif length == 6:
        if same(frame, i, end, _STREAM):
            return STREAM
        if same(frame, i, end, _RESULT):
            return NEST
    elif same(frame, i, end, _SNAPSHOT_ID):
        return SNAPSHOT_ID
    return UNKNOWN_KEY


@compiled
def integer(frame: bytes, i: int, n: int) -> tuple[int, int]:
    """A plain JSON integer from 0 to UNITS_MAX: (value, index after it); value -1 for any other value."""
    start = i
    value: Any = 0
    while i < n and 48 <= frame[i] <= 57:
        if value > (UNITS_MAX - 9) // 10:
            return -1, i
        value = value * 10 + (np.int64(frame[i]) - ZERO)
        i += 1
    if i == start or (i < n and (frame[i] == DOT or frame[i] | 32 == 101)):
        return -1, i
    if frame[start] == ZERO and i > start + 1:
        return -1, i
    return value, i


@compiled
def member(frame: bytes, i: int, n: int, slot: int, state: Ints, scratch: Ints) -> int:
    """Reads the value at `i` into the cells of its key: the index after it, or a status when it is not JSON.

    A value that does not fit its key is skipped and its bit set in ODD: only a frame that needs it is refused for it.
    """
    c, end, found, value, trouble = frame[i], -1, slot, 0, 0
    if slot == BIDS or slot == ASKS or ((slot == B or slot == A) and c == LIST):
        asks = slot == ASKS or slot == A
        other = (A if slot == ASKS else ASKS) if asks else (B if slot == BIDS else BIDS)
        if c == LIST and not state[MASK] >> other & 1:
            end, value = levels(frame, i, n, state, scratch, 2 if asks else 0)
            state[ASK_COUNT if asks else BID_COUNT] = value
    elif (B <= slot <= A_LOTS) or slot == PRICE or slot == QTY:
        if c == QUOTE:
            found = B_PRICE if slot == B else (A_PRICE if slot == A else slot)
            lots = slot == B_LOTS or slot == A_LOTS or slot == QTY
            value, end = number(frame, i + 1, n, state, QTY_GRID if lots else PRICE_GRID)
            end = end + 1 if value >= 0 else value
    elif slot == NAME or slot == SYMBOL or slot == STREAM:
        if c == QUOTE:
            value, end = i + 1, string_end(frame, i, n)
            if slot == NAME and end > 0:
                value = DIFF if same(frame, i + 1, end - 1, _DEPTH_UPDATE) else UNKNOWN_KIND
                value = TRADE if same(frame, i + 1, end - 1, _TRADE) else value
                value = TICKER if same(frame, i + 1, end - 1, _BOOK_TICKER) else value
            elif end > 0:
                state[SYMBOL_END if slot == SYMBOL else STREAM_END] = end - 1
    elif slot == MAKER:
        value = 1 if c == 116 else 0
        end = scalar_end(frame, i, n) if c == 116 or c == 102 else -1
    else:
        value, end = integer(frame, i, n)
        end = end if value >= 0 else -1
    if end < 0:
        if end < NONSENSE:
            trouble = end
        end = value_end(frame, i, n)
        state[ODD] |= 1 << slot | 1 << found
        state[TROUBLE] = trouble if state[TROUBLE] == 0 else state[TROUBLE]
        return end
    state[found] = value
    state[MASK] |= 1 << found
    return end


@compiled
def judge(state: Ints) -> int:
    """What kind of frame the members make, and whether it has all that its kind needs: APPLIED or a status."""
    mask, odd = state[MASK], state[ODD]
    kind = state[NAME] if mask >> NAME & 1 else UNKNOWN_KIND
    ticker = 1 << LAST_ID | 1 << SYMBOL | 1 << B_PRICE | 1 << A_PRICE | 1 << B_LOTS | 1 << A_LOTS
    if not (mask | odd) >> NAME & 1:
        if (mask | odd) >> SNAPSHOT_ID & 1:
            kind = SNAPSHOT
        elif (mask | odd) & ticker == ticker:
            kind = TICKER
    state[KIND] = kind
    need, may = 0, 1 << TIME | 1 << SYMBOL | 1 << NAME
    if kind == DIFF:
        need = 1 << FIRST_ID | 1 << LAST_ID | 1 << B | 1 << A
    elif kind == SNAPSHOT:
        need = 1 << SNAPSHOT_ID | 1 << BIDS | 1 << ASKS
    elif kind == TICKER:
        need = ticker
    elif kind == TRADE:
        need = 1 << PRICE | 1 << QTY | 1 << TRADE_ID | 1 << TRADE_TIME | 1 << MAKER
    else:
        return APPLIED
    if need & ~mask or odd & (need | may):
        return state[TROUBLE] if state[TROUBLE] < 0 else NONSENSE
    return APPLIED


@compiled
def decode(frame: bytes, state: Ints, scratch: Ints, peek: bool) -> int:
    """A frame into cells and scratch rows: APPLIED with its kind in state[KIND], or a status.

    A frame that is not ours is APPLIED too, with UNKNOWN_KIND. With `peek` lists are skipped, and reading stops as soon
    as the kind and the symbol are known.
    """
    n, depth, fresh = len(frame), 1, True
    state[:SYNCED] = 0
    i = expect(frame, 0, n, OBJECT)
    if i < 0:
        return i
    while depth > 0:
        i = space(frame, i, n)
        if i >= n:
            return TRUNCATED
        if frame[i] == OBJECT_END:
            depth, fresh, i = depth - 1, False, i + 1
            continue
        if not fresh:
            i = space(frame, expect(frame, i, n, COMMA), n)
            if i < 0:
                return i
            if i >= n:
                return TRUNCATED
        if frame[i] != QUOTE:
            return NOT_JSON
        end = string_end(frame, i, n)
        slot = slot_of(frame, i + 1, end - 1) if end > 0 else UNKNOWN_KEY
        i = expect(frame, end, n, COLON)
        if i < 0:
            return i
        i = space(frame, i, n)
        if i >= n:
            return TRUNCATED
        fresh = False
        if slot == NEST and depth == 1 and frame[i] == OBJECT:
            # The envelope of a combined stream or of an answer; two of them in one frame contradict each other.
            state[ODD] = -1 if state[MASK] >> NEST & 1 else state[ODD]
            state[MASK] |= 1 << NEST
            depth, fresh, i = 2, True, i + 1
            continue
        if slot >= NEST or (peek and frame[i] == LIST):
            i = value_end(frame, i, n)
        elif (state[MASK] | state[ODD]) >> slot & 1 or (state[MASK] >> (slot - B + B_PRICE) & 1 and B <= slot <= A):
            state[ODD] |= 1 << slot | (1 << (slot - B + B_PRICE) if B <= slot <= A else 0)
            i = value_end(frame, i, n)
        else:
            i = member(frame, i, n, slot, state, scratch)
        if i < 0:
            return i
        if peek and state[MASK] >> NAME & state[MASK] >> SYMBOL & 1:
            state[KIND] = state[NAME]
            return APPLIED
    if space(frame, i, n) != n:
        return NOT_JSON
    status = judge(state)
    return APPLIED if peek else status


@compiled
def read(frame: bytes, state: Ints, scratch: Ints, peek: bool) -> tuple[int, int, int, int, int, int, int]:
    """A frame as plain integers: (status, kind, then five that depend on the kind).

    TICKER: update id, bid, its lots, ask, its lots. TRADE: id, price, lots, time as sent, 1: the buyer was the maker.
    With `peek`: begin and end of the symbol, then of the stream's name (0 and 0 when absent).
    """
    status = decode(frame, state, scratch, peek)
    kind = state[KIND]
    if peek:
        return status, kind, state[SYMBOL], state[SYMBOL_END], state[STREAM], state[STREAM_END], 0
    if kind == TICKER:
        return status, kind, state[LAST_ID], state[B_PRICE], state[B_LOTS], state[A_PRICE], state[A_LOTS]
    if kind == TRADE:
        return status, kind, state[TRADE_ID], state[PRICE], state[QTY], state[TRADE_TIME], state[MAKER]
    return status, kind, state[LAST_ID], 0, 0, 0, 0
