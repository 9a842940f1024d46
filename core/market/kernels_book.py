"""The book itself: two sorted sides, edited in place.

Always true here:
- A side is one int64 array of shape (2, HEADER + room): row 0 prices, row 1 lots, best level first, in columns first
  .. first + count. Column 0 holds `first` and `count`, column 1 the horizon and the sign (-1 bids, +1 asks).
- The room is twice the depth, so both ends can move: an edit near the top moves the few levels above it, no others.
- What a side holds is a prefix of the venue's side: once levels fell off the far end, nothing at or beyond the best
  price that fell off (the horizon) is taken in again until the next snapshot. So the top is never wrong: when all that
  is held has gone, the book says DEPLETED and asks for a snapshot.
- A refused frame (negative status) leaves the book as it was.
"""

# ruff: noqa: ARG001  (numba's signatures; and loops compile to less than `in` and generators)

from __future__ import annotations

from typing import Any, Final

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, overload

from ..kernel_cache import compiled, inlined
from .kernels_frame import (
    ASK_COUNT,
    BID_COUNT,
    DIFF,
    EVENT_NS,
    FIRST_ID,
    KIND,
    LAST_ID,
    SNAPSHOT_ID,
    SYNCED,
    TIME,
    UPDATE_ID,
    decode,
)
from .kernels_text import APPLIED, CROSSED, DEPLETED, GAP, NONSENSE, OTHER, STALE, UNSYNCED, Ints

NO_HORIZON: Final = 2**63 - 1
TABLE: Final = -1  # as a kind of frame: none, the levels are in scratch already
HEADER: Final = 2  # columns of a side before its levels


@compiled
def clear(side: Ints) -> None:
    """No levels, no horizon; the first column leaves equal room at both ends."""
    side[0, 0] = HEADER + (side.shape[1] - HEADER) // 2
    side[1, 0] = 0
    side[0, 1] = NO_HORIZON


raw_memmove: Any = cgutils.raw_memmove  # untyped


def move(side: Ints, start: int, count: int, by: int) -> None:
    """Moves `count` levels from column `start` by some columns; the two places may overlap."""
    side[:, start + by : start + by + count] = side[:, start : start + count].copy()


@intrinsic
def _move(_: Any, side: Any, start: Any, count: Any, by: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        columns = builder.extract_value(array.shape, 1)
        size = builder.mul(arguments[2], ir.Constant(ir.IntType(64), 8))
        for row in range(2):
            at = builder.add(arguments[1], builder.mul(columns, ir.Constant(ir.IntType(64), row)))
            source = builder.gep(array.data, [at])
            raw_memmove(builder, builder.gep(source, [arguments[3]]), source, size, 1, align=8)
        return context.get_dummy_value()

    return types.none(side, types.int64, types.int64, types.int64), generate


@overload(move)
def _compiled_move(side: Any, start: Any, count: Any, by: Any) -> Any:
    def run(side: Any, start: Any, count: Any, by: Any) -> Any:
        _move(side, start, count, by)  # type: ignore[call-arg]

    return run


@compiled
def recentre(side: Ints) -> None:
    """Moves the levels to the middle, when one end has run out of room; seldom, as the room is twice the depth."""
    first, count = side[0, 0], side[1, 0]
    to = HEADER + (side.shape[1] - HEADER - count) // 2
    move(side, first, count, to - first)
    side[0, 0] = to


@compiled
def find(side: Ints, key: int, rank: int) -> int:
    """The rank of the first level not better than `key` (price times sign), known to be at `rank` or after it.

    Steps double first: most edits are near the top, and near the edit before.
    """
    first, count, sign = side[0, 0], side[1, 0], side[1, 1]
    step, low = 1, rank
    while rank < count and sign * side[0, first + rank] < key:
        low, rank, step = rank + 1, rank + step, step * 2
    # The rest is the binary search that compiles to selections, not jumps: which way it goes cannot be predicted.
    length = min(rank, count) - low
    while length > 0:
        half = length >> 1
        worse = sign * side[0, first + low + half] >= key
        low = low if worse else low + half + 1
        length = half if worse else length - half - 1
    return low


@compiled
def remove(side: Ints, rank: int) -> None:
    """Takes a level out; the shorter end moves."""
    first, count = side[0, 0], side[1, 0]
    if rank < count - 1 - rank:
        move(side, first, rank, 1)
        side[0, 0] = first + 1
    else:
        move(side, first + rank + 1, count - 1 - rank, -1)
    side[1, 0] = count - 1


@compiled
def insert(side: Ints, rank: int, price: int, lots: int) -> None:
    """Puts a level in; the shorter end moves. What the depth cannot hold falls off the far end and sets the horizon."""
    count = side[1, 0]
    if count == (side.shape[1] - HEADER) // 2:
        if rank == count:
            side[0, 1] = side[1, 1] * price
            return
        side[0, 1] = side[1, 1] * side[0, side[0, 0] + count - 1]
        count -= 1
        side[1, 0] = count
    upper = rank < count - rank
    if side[0, 0] == HEADER if upper else side[0, 0] + count == side.shape[1]:
        recentre(side)
    first = side[0, 0]
    if upper:
        move(side, first, rank, -1)
        first -= 1
        side[0, 0] = first
    else:
        move(side, first + rank, count - rank, 1)
    side[0, first + rank], side[1, first + rank] = price, lots
    side[1, 0] = count + 1


@compiled
def edit(side: Ints, scratch: Ints, row: int, n: int) -> None:
    """Applies `n` (price, lots) pairs of two scratch rows in their order; lots 0 deletes."""
    sign, rank, before = side[1, 1], 0, -NO_HORIZON
    ordered = True
    for k in range(1, n):
        ordered &= sign * scratch[row, k - 1] < sign * scratch[row, k]
    if ordered and n > 16 and n * 8 > side[1, 0]:
        merge(side, scratch, row, n)
        return
    for k in range(n):
        price, lots = scratch[row, k], scratch[row + 1, k]
        key = sign * price
        if key >= side[0, 1]:
            continue
        rank = find(side, key, rank if key > before else 0)
        before = key
        at = side[0, 0] + rank
        held = rank < side[1, 0] and side[0, at] == price
        if lots == 0:
            if held:
                remove(side, rank)
        elif held:
            side[1, at] = lots
        else:
            insert(side, rank, price, lots)


@compiled
def merge(side: Ints, scratch: Ints, row: int, n: int) -> None:
    """`edit` for many pairs in order, best first: both lists once through, by way of scratch rows 4 and 5.

    Before each new level comes the run of old ones that are better; the last turn has no new level, only a run.
    """
    first, count, horizon, sign = side[0, 0], side[1, 0], side[0, 1], side[1, 1]
    depth = (side.shape[1] - HEADER) // 2
    i, end, o = first, first + count, 0
    for k in range(n + 1):
        key = min(sign * scratch[row, k], horizon) if k < n else horizon
        run_end = min(end, i + depth - o)
        while i < run_end and sign * side[0, i] < key:
            scratch[4, o], scratch[5, o] = side[0, i], side[1, i]
            i += 1
            o += 1
        if i < end and o == depth and sign * side[0, i] < key:
            horizon = sign * side[0, i]
            break
        if key == horizon:
            break
        if i < end and sign * side[0, i] == key:
            i += 1
        if scratch[row + 1, k] > 0:
            if o == depth:
                horizon = key
                break
            scratch[4, o], scratch[5, o] = scratch[row, k], scratch[row + 1, k]
            o += 1
    first = HEADER + (side.shape[1] - HEADER - o) // 2
    for j in range(o):
        side[0, first + j] = scratch[4, j]
    for j in range(o):
        side[1, first + j] = scratch[5, j]
    side[0, 0], side[1, 0], side[0, 1] = first, o, horizon


@compiled
def settle(state: Ints, bids: Ints, asks: Ints) -> int:
    """After an edit: APPLIED, CROSSED or DEPLETED."""
    if (bids[1, 0] == 0 and bids[0, 1] != NO_HORIZON) or (asks[1, 0] == 0 and asks[0, 1] != NO_HORIZON):
        state[SYNCED] = 0
        return DEPLETED
    if bids[1, 0] > 0 and asks[1, 0] > 0 and bids[0, bids[0, 0]] >= asks[0, asks[0, 0]]:
        return CROSSED
    return APPLIED


@inlined
def time_ns(time: int) -> int:
    """Binance's event time in ns: milliseconds, or microseconds where the connection asked for them; 0 for nonsense."""
    if time < 10**13:
        return time * 1_000_000 if time < 9 * 10**12 else 0
    return time * 1_000 if time < 9 * 10**15 else 0


@inlined
def take_diff(state: Ints, bids: Ints, asks: Ints, scratch: Ints) -> int:
    """A decoded diff into the book by Binance's rules: ignore what is older, notice what is missing."""
    first, last = state[FIRST_ID], state[LAST_ID]
    if first > last:
        return NONSENSE
    if state[SYNCED] == 0:
        return UNSYNCED
    if last <= state[UPDATE_ID]:
        return STALE
    if first > state[UPDATE_ID] + 1:
        state[SYNCED] = 0
        return GAP
    edit(bids, scratch, 0, state[BID_COUNT])
    edit(asks, scratch, 2, state[ASK_COUNT])
    state[UPDATE_ID] = last
    state[EVENT_NS] = time_ns(state[TIME])
    return settle(state, bids, asks)


@inlined
def take_snapshot(state: Ints, bids: Ints, asks: Ints, scratch: Ints) -> int:
    """The scratch rows become the book, unless they cross or a synced book is newer already."""
    if state[SYNCED] == 1 and state[SNAPSHOT_ID] < state[UPDATE_ID]:
        return STALE
    best_bid, best_ask = 0, NO_HORIZON
    for k in range(state[BID_COUNT]):
        if scratch[1, k] > 0:
            best_bid = max(best_bid, scratch[0, k])
    for k in range(state[ASK_COUNT]):
        if scratch[3, k] > 0:
            best_ask = min(best_ask, scratch[2, k])
    if best_bid >= best_ask:
        return NONSENSE
    clear(bids)
    clear(asks)
    edit(bids, scratch, 0, state[BID_COUNT])
    edit(asks, scratch, 2, state[ASK_COUNT])
    state[UPDATE_ID] = state[SNAPSHOT_ID]
    state[EVENT_NS] = time_ns(state[TIME])
    state[SYNCED] = 1
    return APPLIED


@compiled
def update(
    frame: bytes, kind: int, state: Ints, sides: Ints, scratch: Ints
) -> tuple[int, int, int, int, int, int, int, int]:
    """A DIFF or SNAPSHOT frame into the book: (status, synced, update id, event ns, best bid, lots, best ask, lots).

    With kind TABLE there is no frame: the levels, counts and id are what the owner has put into scratch and state.
    """
    status = APPLIED
    bids, asks = sides[0], sides[1]
    if kind != TABLE:
        status = decode(frame, state, scratch, False)
        if status == APPLIED and state[KIND] != kind:
            status = OTHER
    if status == APPLIED:
        status = take_diff(state, bids, asks, scratch) if kind == DIFF else take_snapshot(state, bids, asks, scratch)
    bid, bid_lots, ask, ask_lots = 0, 0, 0, 0
    if bids[1, 0] > 0:
        bid, bid_lots = bids[0, bids[0, 0]], bids[1, bids[0, 0]]
    if asks[1, 0] > 0:
        ask, ask_lots = asks[0, asks[0, 0]], asks[1, asks[0, 0]]
    return status, state[SYNCED], state[UPDATE_ID], state[EVENT_NS], bid, bid_lots, ask, ask_lots
