"""The text of frames: JSON that is checked while it is skipped, and decimals that become integers exactly.

Always true here: nothing is rounded (`text = steps * step * 10**-decimals`, or a negative status), nothing is read
beyond the frame's end, and no input raises. `text * 10**decimals` must stay below 2**62 (UNITS_MAX); more is
OUT_OF_RANGE. Bytes inside strings are not checked to be UTF-8: nobody reads them.
"""

# ruff: noqa: ARG001, SIM109, SIM110  (numba's signatures; and loops compile to less than `in` and generators)

from __future__ import annotations

from typing import Any, Final

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload
from numpy.typing import NDArray

from ..kernel_cache import compiled, inlined

Ints = NDArray[np.int64]

# What became of a frame. Negative: refused, and the book is as it was.
APPLIED: Final = 0
STALE: Final = 1  # older than the book: nothing to do
GAP: Final = 2  # an update is missing in between: the book is unsynced, a snapshot is needed
UNSYNCED: Final = 3  # a good diff, and no snapshot to apply it to yet
CROSSED: Final = 4  # applied, and now best bid >= best ask: the feed contradicts itself
DEPLETED: Final = 5  # applied, and a side ran empty beyond which levels had been dropped: a snapshot is needed
OTHER: Final = 6  # well-formed JSON, but not the kind of frame asked for
TRUNCATED: Final = -1
NOT_JSON: Final = -2
NONSENSE: Final = -3  # JSON whose fields are missing, doubled, of the wrong type or contradict each other
NOT_DECIMAL: Final = -4  # a price or quantity that is not digits[.digits]
OFF_GRID: Final = -5  # not a multiple of the tick or lot
OUT_OF_RANGE: Final = -6
TOO_LONG: Final = -7  # longer than the owner's FRAME_BYTES_MAX

UNITS_MAX: Final = 2**62 - 1
NESTED_MAX: Final = 60  # objects and arrays inside a value that is skipped; more is NOT_JSON

QUOTE, COMMA, DOT, COLON, BACKSLASH, ZERO = 34, 44, 46, 58, 92, 48
LIST, LIST_END, OBJECT, OBJECT_END = 91, 93, 123, 125
_TRUE, _FALSE, _NULL = (np.frombuffer(word, np.uint8) for word in (b"true", b"false", b"null"))


# --- eight bytes at a time -------------------------------------------------------------------------------------------


def load8(frame: bytes, i: Any) -> Any:
    """Eight bytes of a frame as a little-endian uint64; the caller has checked that they are there."""
    return np.uint64(int.from_bytes(frame[i : i + 8], "little"))


def trailing_zeros(word: Any) -> Any:
    """Zero bits below the lowest one bit; 64 for zero."""
    number = int(word)
    return np.uint64((number & -number).bit_length() - 1 if number else 64)


@intrinsic
def _load8(typing_context: Any, frame: Any, i: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        at = builder.gep(builder.bitcast(array.data, ir.IntType(8).as_pointer()), [arguments[1]])
        return builder.load(builder.bitcast(at, ir.IntType(64).as_pointer()), align=1)

    return types.uint64(frame, types.int64), generate


@intrinsic
def _trailing_zeros(typing_context: Any, word: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 0))

    return types.uint64(types.uint64), generate


@overload(load8)
def _compiled_load8(frame: Any, i: Any) -> Any:
    def load(frame: Any, i: Any) -> Any:
        return _load8(frame, i)  # type: ignore[call-arg]

    return load


@overload(trailing_zeros)
def _compiled_trailing_zeros(word: Any) -> Any:
    def count(word: Any) -> Any:
        return _trailing_zeros(word)  # type: ignore[call-arg]

    return count


_ZEROS = np.uint64(0x3030303030303030)
_DOTS = np.uint64(0x1E1E1E1E1E1E1E1E)  # '.' once the digits' 0x30 is taken out
_ONES = np.uint64(0x0101010101010101)
_HIGHS = np.uint64(0x8080808080808080)
_SIXES = np.uint64(0x0606060606060606)
_NIBBLES = np.uint64(0xF0F0F0F0F0F0F0F0)
_PAIRS = np.uint64(0x000000FF000000FF)
_PAIRS_HIGH = np.uint64(0x000F424000000064)
_PAIRS_LOW = np.uint64(0x0000271000000001)
_TEN, _E8 = np.uint64(10), np.uint64(10**8)
_N1, _N3, _N8, _N16, _N32, _N63, _N64 = (np.uint64(n) for n in (1, 3, 8, 16, 32, 63, 64))


@inlined
def eight_digits(word: Any) -> Any:
    """Eight digits, 0..9 a byte, first one lowest, as a number: pairs, then fours, then all, in three products."""
    word = word * _TEN + (word >> _N8)
    return (((word & _PAIRS) * _PAIRS_HIGH) + (((word >> _N16) & _PAIRS) * _PAIRS_LOW)) >> _N32


@inlined
def number(frame: bytes, i: Any, n: int, state: Ints, grid: int) -> tuple[Any, Any]:
    """The decimal that starts at `i`, up to its closing quote, in steps of the grid: (steps or status, where).

    Seven digits, a dot, eight digits is what Binance sends: read eight bytes at a time and divided by a product with
    the step's inverse modulo 2**64, which also tells whether the division is exact (Granlund and Montgomery, "Division
    by invariant integers using multiplication", 1994, section 9). All else goes the slow way.
    """
    if state[grid + 4] > 0 and i + 18 <= n:
        word = load8(frame, i) ^ _ZEROS
        dots = word ^ _DOTS
        dots = (dots - _ONES) & ~dots & _HIGHS
        bits = trailing_zeros(dots) & ~np.uint64(7)
        if bits > 0 and bits < _N64:
            dot = i + np.int64(bits >> _N3)
            whole = word << (_N64 - bits)
            if dot + 10 <= n and frame[dot + 9] == QUOTE:
                part = load8(frame, dot + 1) ^ _ZEROS
                if ((whole + _SIXES) | whole | (part + _SIXES) | part) & _NIBBLES == 0:
                    product = (eight_digits(whole) * _E8 + eight_digits(part)) * np.uint64(state[grid + 2])
                    shift = np.uint64(state[grid + 3])
                    steps = (product >> shift) | (product << ((_N64 - shift) & _N63))
                    if steps <= np.uint64(state[grid + 4]):
                        return np.int64(steps), dot + 9
    return number_slowly(frame, i, n, state[grid], state[grid + 1])


@compiled
def number_slowly(frame: bytes, i: int, n: int, decimals: int, step: int) -> tuple[int, int]:
    """Digit by digit, for any number of digits and decimals; the same law as `number`."""
    units: Any = 0
    places, whole, status = -1, 0, 0
    while i < n and frame[i] != QUOTE:
        digit: Any = np.int64(frame[i]) - ZERO
        if frame[i] == DOT and places < 0 and whole > 0:
            places = 0
        elif digit < 0 or digit > 9:
            return NOT_DECIMAL, i
        elif places >= decimals:
            places += 1
            if digit != 0 and status == 0:
                status = OFF_GRID
        else:
            whole += 1
            if places >= 0:
                places += 1
            if units > (UNITS_MAX - digit) // 10:
                status = OUT_OF_RANGE
            else:
                units = units * 10 + digit
        i += 1
    if i >= n:
        return TRUNCATED, i
    if whole == 0 or places == 0:
        return NOT_DECIMAL, i
    for _ in range(max(places, 0), decimals):
        if units > UNITS_MAX // 10:
            status = OUT_OF_RANGE
        else:
            units *= 10
    if status == 0 and units % step != 0:
        status = OFF_GRID
    return (units // step if status == 0 else status), i


# --- JSON ------------------------------------------------------------------------------------------------------------


@inlined
def space(frame: bytes, i: int, n: int) -> int:
    """The first index at or after `i` that is not white space; `n` at the end."""
    while i < n and (frame[i] == 32 or frame[i] == 10 or frame[i] == 13 or frame[i] == 9):
        i += 1
    return i


@inlined
def expect(frame: bytes, i: int, n: int, char: int) -> int:
    """The index after `char`, which must come next but for white space; or a status. A status given is passed on."""
    if i < 0:
        return i
    if i < n and frame[i] == char:
        return i + 1
    i = space(frame, i, n)
    if i >= n:
        return TRUNCATED
    return i + 1 if frame[i] == char else NOT_JSON


@compiled
def same(frame: bytes, i: int, end: int, word: Any) -> bool:
    """Whether frame[i:end] is this word."""
    if end - i != len(word):
        return False
    for k in range(len(word)):
        if frame[i + k] != word[k]:
            return False
    return True


@compiled
def string_end(frame: bytes, i: int, n: int) -> int:
    """The index after the closing quote of the string whose opening quote is at `i`; or a status."""
    i += 1
    while i < n:
        c = frame[i]
        if c == QUOTE:
            return i + 1
        if c < 32:
            return NOT_JSON
        if c == BACKSLASH:
            i += 1
            if i >= n:
                return TRUNCATED
            c = frame[i]
            if c == 117:  # u and four hexadecimal digits
                for _ in range(4):
                    i += 1
                    if i >= n:
                        return TRUNCATED
                    c = frame[i] | 32
                    if not (48 <= frame[i] <= 57 or 97 <= c <= 102):
                        return NOT_JSON
            elif not (c == 34 or c == 92 or c == 47 or c == 98 or c == 102 or c == 110 or c == 114 or c == 116):
                return NOT_JSON
        i += 1
    return TRUNCATED


@compiled
def digits_end(frame: bytes, i: int, n: int) -> int:
    """The index after one or more digits; or a status."""
    if i >= n:
        return TRUNCATED
    if not 48 <= frame[i] <= 57:
        return NOT_JSON
    while i < n and 48 <= frame[i] <= 57:
        i += 1
    return i


@compiled
def scalar_end(frame: bytes, i: int, n: int) -> int:
    """The index after the string, number or word at `i`; or a status."""
    c = frame[i]
    if c == QUOTE:
        return string_end(frame, i, n)
    if c == 116 or c == 102 or c == 110:
        word = _TRUE if c == 116 else (_FALSE if c == 102 else _NULL)
        for k in range(len(word)):
            if i + k >= n:
                return TRUNCATED
            if frame[i + k] != word[k]:
                return NOT_JSON
        return i + len(word)
    if c == 45:
        i += 1
    if i < n and frame[i] == ZERO:
        i += 1  # no digit may follow a leading zero; what follows a value refuses it
    else:
        i = digits_end(frame, i, n)
    if i >= 0 and i < n and frame[i] == DOT:
        i = digits_end(frame, i + 1, n)
    if i >= 0 and i < n and frame[i] | 32 == 101:
        i += 1
        if i < n and (frame[i] == 43 or frame[i] == 45):
            i += 1
        i = digits_end(frame, i, n)
    return i


@compiled
def value_end(frame: bytes, i: int, n: int) -> int:
    """The index after the JSON value at `i`, whatever it is, checked as JSON; or a status. Nesting is a bit each."""
    objects, depth = 0, 0  # bit k of objects: level k is an object
    while True:
        i = space(frame, i, n)
        if i >= n:
            return TRUNCATED
        c = frame[i]
        opened = c == OBJECT or c == LIST
        if opened:
            if depth == NESTED_MAX:
                return NOT_JSON
            objects = objects << 1 | (1 if c == OBJECT else 0)
            depth += 1
            i = space(frame, i + 1, n)
        else:
            i = scalar_end(frame, i, n)
            if i < 0:
                return i
        # Behind a value, or at the start of an opened one: close what closes.
        while depth > 0:
            if not opened:
                i = space(frame, i, n)
            if i >= n:
                return TRUNCATED
            if frame[i] != (OBJECT_END if objects & 1 else LIST_END):
                break
            objects >>= 1
            depth -= 1
            opened = False
            i += 1
        if depth == 0:
            return i
        if not opened:
            i = expect(frame, i, n, COMMA)
            if i < 0:
                return i
        if objects & 1:
            i = space(frame, i, n)
            if i >= n:
                return TRUNCATED
            if frame[i] != QUOTE:
                return NOT_JSON
            i = string_end(frame, i, n)
            i = expect(frame, i, n, COLON)
            if i < 0:
                return i
