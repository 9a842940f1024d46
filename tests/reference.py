"""Slow, independent models of the fast parts: dicts, Decimals and json, and no shared code.

`twin()` gives a second copy of the package whose kernels are the plain Python functions, for a comparison of the same
source with and without the compiler.
"""

from __future__ import annotations

import importlib
import itertools
import json
import math
import re
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal, localcontext
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import numba

UNITS_MAX = 2**62 - 1
DECIMAL_TEXT = re.compile(r"[0-9]+(\.[0-9]+)?\Z")
KINDS = {"depthUpdate": "diff", "trade": "trade", "bookTicker": "ticker"}
NEEDS = {
    "diff": ({"U", "u", "b[]", "a[]"}, {"U", "u", "b", "a"}),
    "snapshot": ({"lastUpdateId", "bids[]", "asks[]"}, {"lastUpdateId", "bids", "asks"}),
    "ticker": ({"u", "s", "b", "a", "B", "A"}, {"u", "s", "b", "a", "B", "A"}),
    "trade": ({"p", "q", "t", "T", "m"}, {"p", "q", "t", "T", "m"}),
}


def twin(module: str) -> ModuleType:
    """`tbx.<module>` imported a second time as `twin.<module>`, with nothing compiled."""
    source = sys.modules["tbx.core"].__path__[0]
    root = str(Path(source).parent)
    if "twin" not in sys.modules:
        package = ModuleType("twin")
        package.__path__ = [root]
        sys.modules["twin"] = package
    disabled, numba.config.DISABLE_JIT = numba.config.DISABLE_JIT, 1
    try:
        return importlib.import_module(f"twin.{module}")
    finally:
        numba.config.DISABLE_JIT = disabled


class Refused(Exception):
    """The model would not take this frame."""


class _Pairs(list[tuple[str, Any]]):
    """A JSON object as it was written, doubled keys included."""


def steps(text: Any, decimals: int, step: int) -> int:
    """Decimal text in steps of step x 10^-decimals. Raises Refused for what is not exactly that."""
    if not isinstance(text, str) or not DECIMAL_TEXT.match(text):
        raise Refused(f"{text!r} is not a decimal")
    with localcontext() as context:
        context.prec = 500
        units = Decimal(text).scaleb(decimals)
        if units != int(units) or int(units) % step or units > UNITS_MAX:
            raise Refused(f"{text} is off the grid or out of range")
        return int(units) // step


@dataclass
class Grid:
    """What a book knows about its instrument."""

    price_decimals: int = 2
    tick_units: int = 1
    qty_decimals: int = 3
    lot_units: int = 1

    def price(self, text: Any) -> int:
        return steps(text, self.price_decimals, self.tick_units)

    def qty(self, text: Any) -> int:
        return steps(text, self.qty_decimals, self.lot_units)

    def levels(self, rows: Any) -> list[tuple[int, int]]:
        if not isinstance(rows, list):
            raise Refused("levels are a list")
        result = []
        for row in rows:
            if isinstance(row, _Pairs) or not isinstance(row, list) or len(row) != 2:
                raise Refused("a level is a pair")
            price, qty = self.price(row[0]), self.qty(row[1])
            if price == 0:
                raise Refused("a price is not zero")
            result.append((price, qty))
        return result


def frame_fields(frame: bytes, grid: Grid) -> tuple[str, dict[str, Any]]:
    """(kind, fields) of a frame, kind "" for a frame that is none of ours. Raises Refused."""
    try:
        root = json.loads(
            frame.decode("latin-1"),
            object_pairs_hook=_Pairs,
            parse_int=lambda text: -1 if text.startswith("-") else int(text),
            parse_constant=_refuse_constant,
        )
    except ValueError as error:
        raise Refused(str(error)) from error
    if not isinstance(root, _Pairs):
        raise Refused("not an object")
    good: dict[str, Any] = {}
    odd: set[str] = set()
    nested = 0
    for key, value in root:
        if key in ("data", "result") and isinstance(value, _Pairs):
            nested += 1
            for inner, inner_value in value:
                _member(inner, inner_value, good, odd, grid)
        else:
            _member(key, value, good, odd, grid)
    kind = ""
    if "e" in good:
        kind = KINDS.get(good["e"], "")
    elif "e" not in odd:
        seen = {name.removesuffix("[]") for name in good} | odd
        if "lastUpdateId" in seen:
            kind = "snapshot"
        elif {"u", "s", "B", "A"} <= seen and not {"b[]", "a[]"} & set(good) and {"b", "a"} <= seen:
            kind = "ticker"
    if kind:
        need, of_need = NEEDS[kind]
        if not need <= set(good) or odd & (of_need | {"E", "s", "e"}) or nested > 1:
            raise Refused(f"a {kind} lacks what it needs")
    return kind, good


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _member(key: str, value: Any, good: dict[str, Any], odd: set[str], grid: Grid) -> None:
    if key not in set("eEsUubaBApqtTm") | {"stream", "lastUpdateId", "bids", "asks"}:
        return
    if key in odd or key in good or key + "[]" in good:
        odd.add(key)
        return
    try:
        if key in ("bids", "asks") or (key in ("b", "a") and type(value) is list):
            other = {"bids": "b[]", "b": "bids[]", "asks": "a[]", "a": "asks[]"}[key]
            if other in good:
                raise Refused("two lists for one side")
            good[key + "[]"] = grid.levels(value)
        elif key in ("b", "a", "p"):
            good[key] = grid.price(value)
        elif key in ("B", "A", "q"):
            good[key] = grid.qty(value)
        elif key in ("e", "s", "stream"):
            if not isinstance(value, str):
                raise Refused("not text")
            good[key] = value
        elif key == "m":
            if not isinstance(value, bool):
                raise Refused("not a truth")
            good[key] = value
        else:
            if type(value) is not int or not 0 <= value // 10 <= (UNITS_MAX - 9) // 10 or value < 0:
                raise Refused("not a plain number")
            good[key] = value
    except Refused:
        odd.add(key)


@dataclass
class ModelBook:
    """Two dicts and the sync rules."""

    grid: Grid = field(default_factory=Grid)
    bids: dict[int, int] = field(default_factory=dict)
    asks: dict[int, int] = field(default_factory=dict)
    update_id: int = 0
    synced: bool = False

    def apply(self, frame: bytes) -> str:
        """A diff: applied, crossed, stale, gap, unsynced, other or refused."""
        try:
            kind, fields = frame_fields(frame, self.grid)
        except Refused:
            return "refused"
        if kind != "diff":
            return "other"
        first, last = fields["U"], fields["u"]
        if first > last:
            return "refused"
        if not self.synced:
            return "unsynced"
        if last <= self.update_id:
            return "stale"
        if first > self.update_id + 1:
            self.synced = False
            return "gap"
        _put(self.bids, fields["b[]"])
        _put(self.asks, fields["a[]"])
        self.update_id = last
        return "crossed" if self.bids and self.asks and max(self.bids) >= min(self.asks) else "applied"

    def load_snapshot(self, frame: bytes) -> str:
        """A snapshot: applied, stale, other or refused."""
        try:
            kind, fields = frame_fields(frame, self.grid)
        except Refused:
            return "refused"
        if kind != "snapshot":
            return "other"
        if self.synced and fields["lastUpdateId"] < self.update_id:
            return "stale"
        # A best price counts even when a later row of the same frame takes it out: such a frame contradicts itself.
        bids = [price for price, qty in fields["bids[]"] if qty]
        asks = [price for price, qty in fields["asks[]"] if qty]
        if bids and asks and max(bids) >= min(asks):
            return "refused"
        self.bids, self.asks = {}, {}
        _put(self.bids, fields["bids[]"])
        _put(self.asks, fields["asks[]"])
        self.update_id, self.synced = fields["lastUpdateId"], True
        return "applied"

    def sides(self) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """Bids and asks, best first."""
        return sorted(self.bids.items(), reverse=True), sorted(self.asks.items())


def _put(side: dict[int, int], levels: Sequence[tuple[int, int]]) -> None:
    for price, qty in levels:
        if qty:
            side[price] = qty
        else:
            side.pop(price, None)


def walked(levels: Sequence[tuple[int, int]], sign: int, want: int, limit: int | None) -> tuple[int, int, int, int]:
    """(filled, cost, worst, levels used) of taking `want` from (price, lots) levels, one lot size, best first."""
    filled = cost = worst = used = 0
    for price, lots in sorted(levels, key=lambda level: sign * level[0]):
        take = min(lots, want - filled)
        if take == 0 or (limit is not None and sign * price > sign * limit):
            break
        filled, cost, worst, used = filled + take, cost + take * price, price, used + 1
    return filled, cost, worst, used


@dataclass
class ModelVenue:
    """One venue of a consolidated walk."""

    levels: list[tuple[int, int]]
    fee_ppm: int
    price_scale: int
    lot_scale: int


def walked_together(
    venues: Sequence[ModelVenue], sign: int, want: int, limit: int | None
) -> tuple[int, dict[int, tuple[int, int]]]:
    """(left, venue -> (filled lots, cost)): every level of every venue in one list, sorted by exact net price."""
    rows = []
    for index, venue in enumerate(venues):
        for price, lots in venue.levels:
            common = price * venue.price_scale
            net = Fraction(common) * (1_000_000 + sign * venue.fee_ppm) / 1_000_000
            if limit is None or sign * common <= sign * limit:
                rows.append((sign * net, index, sign * price, price, lots))
    left, taken = want, dict[int, tuple[int, int]]()
    for _, index, _, price, lots in sorted(rows):
        take = min(lots, left // venues[index].lot_scale)
        if take:
            filled, cost = taken.get(index, (0, 0))
            taken[index] = (filled + take, cost + take * price)
            left -= take * venues[index].lot_scale
    return left, taken


# --- sizing and statistics -----------------------------------------------------------------------------------------


def kelly_by_search(p: float, b: float) -> float:
    """The stake (share of all there is) at which the expected logarithm of wealth is greatest, found by trying."""
    low, high = 0.0, 1.0 - 1e-12

    def growth(stake: float) -> float:
        return p * math.log1p(b * stake) + (1 - p) * math.log1p(-stake)

    for _ in range(200):
        one, two = low + (high - low) / 3, high - (high - low) / 3
        if growth(one) < growth(two):
            low = one
        else:
            high = two
    return (low + high) / 2


def wilson_by_hand(won: int, closed: int) -> float:
    """Lower end of the 95 % Wilson interval, as the textbook has it."""
    z = 1.959963984540054
    share = won / closed
    middle = share + z * z / (2 * closed)
    spread = z * math.sqrt(share * (1 - share) / closed + z * z / (4 * closed * closed))
    return (middle - spread) / (1 + z * z / closed)


def volatility_of(mids: Sequence[float | None], interval_s: float, decay: float = 0.94) -> float | None:
    """A year's volatility from mids at a fixed interval, None for a gap; weights written out one by one."""
    returns = [
        math.log(after / before)
        for before, after in itertools.pairwise(mids)
        if before is not None and after is not None
    ]
    if len(returns) < 12:
        return None
    weights = [decay**age for age in range(len(returns))]
    mean = sum(w * r * r for w, r in zip(weights, reversed(returns), strict=True)) / sum(weights)
    return math.sqrt(mean * 365 * 86_400 / interval_s)


def correlation_of(one: Sequence[float | None], other: Sequence[float | None], least: int) -> float | None:
    """Pearson's, over the steps that both have; None where they are too few, or one of the two never moves."""
    both = [(a, b) for a, b in zip(one, other, strict=True) if a is not None and b is not None]
    if len(both) < least or len({a for a, _ in both}) < 2 or len({b for _, b in both}) < 2:
        return None
    return statistics.correlation([a for a, _ in both], [b for _, b in both])


def connected(count: int, edges: set[tuple[int, int]]) -> set[frozenset[int]]:
    """Union-find by relabelling."""
    label = list(range(count))
    for one, other in edges:
        old, new = label[one], label[other]
        label = [new if mine == old else mine for mine in label]
    return {frozenset(i for i in range(count) if label[i] == name) for name in set(label)}
