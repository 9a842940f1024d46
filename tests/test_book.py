"""Books: decoding, sync rules, and the laws that hold for any feed."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tbx.core import kernel_cache
from tbx.core.market import book as books
from tbx.core.market.book import BUY, SELL, Book, peek, status_name
from tbx.core.market.kernels_text import number_slowly

from .reference import UNITS_MAX, Grid, ModelBook, Refused, frame_fields, steps, twin

laws = settings(max_examples=150, deadline=None, derandomize=True, database=None)
few = settings(max_examples=120, deadline=None, derandomize=True, database=None)

WORDS = {
    books.APPLIED: "applied",
    books.CROSSED: "crossed",
    books.STALE: "stale",
    books.GAP: "gap",
    books.UNSYNCED: "unsynced",
    books.OTHER: "other",
}


def word(status: int) -> str:
    return "refused" if status < 0 else WORDS[status]


def dumps(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def snapshot(update_id: int, bids: list[list[str]], asks: list[list[str]]) -> bytes:
    return dumps({"lastUpdateId": update_id, "bids": bids, "asks": asks})


def diff(first: int, last: int, bids: list[list[str]], asks: list[list[str]], **more: Any) -> bytes:
    fields = {"e": "depthUpdate", "E": 1723161255508, "s": "ETHUSDT", "U": first, "u": last, "b": bids, "a": asks}
    return dumps(fields | more)


def small_book(**options: Any) -> Book:
    book = Book("binance", "ETH_USDT", **{"price_decimals": 2, "qty_decimals": 3} | options)
    bids, asks = [["10.00", "1.000"], ["9.99", "2.000"]], [["10.01", "3.000"], ["10.05", "4.000"]]
    assert book.load_snapshot(snapshot(100, bids, asks)) == books.APPLIED
    return book


def contents(book: Book) -> tuple[Any, ...]:
    best = (book.best_bid_ticks, book.best_bid_lots, book.best_ask_ticks, book.best_ask_lots)
    return book.levels(BUY, 10_000), book.levels(SELL, 10_000), book.update_id, book.synced, best


def assert_ordered(book: Book) -> None:
    assert (np.diff(book.bids[0]) < 0).all()
    assert (np.diff(book.asks[0]) > 0).all()
    assert (book.bids[1] > 0).all()
    assert (book.asks[1] > 0).all()
    bids, asks = book.levels(BUY, 1), book.levels(SELL, 1)
    assert (book.best_bid_ticks, book.best_bid_lots) == (bids[0] if bids else (0, 0))
    assert (book.best_ask_ticks, book.best_ask_lots) == (asks[0] if asks else (0, 0))


# --- one frame at a time


def test_a_snapshot_becomes_the_book() -> None:
    book = small_book()
    assert book.synced
    assert book.update_id == 100
    assert book.levels(BUY, 5) == [(1000, 1000), (999, 2000)]
    assert book.levels(SELL, 1) == [(1001, 3000)]
    assert book.bids.tolist() == [[1000, 999], [1000, 2000]]
    assert (book.best_bid_ticks, book.best_bid_lots) == (1000, 1000)
    assert (book.best_ask_ticks, book.best_ask_lots) == (1001, 3000)


def test_a_diff_replaces_adds_and_deletes() -> None:
    book = small_book()
    frame = diff(101, 103, [["9.99", "0.500"], ["10.00", "0"]], [["10.03", "7"], ["10.01", "0.000"], ["12", "1.5"]])
    assert book.apply(frame, local_ns=77) == books.APPLIED
    assert book.levels(BUY, 9) == [(999, 500)]
    assert book.levels(SELL, 9) == [(1003, 7000), (1005, 4000), (1200, 1500)]
    assert (book.update_id, book.event_ns, book.local_ns) == (103, 1723161255508_000_000, 77)


def test_microsecond_event_times_are_understood() -> None:
    book = small_book()
    assert book.apply(diff(101, 101, [], [], E=1723161255508123)) == books.APPLIED
    assert book.event_ns == 1723161255508123_000


def test_frames_may_come_as_memory_views() -> None:
    book = small_book()
    assert book.apply(memoryview(bytearray(diff(101, 101, [["10.00", "5"]], [])))) == books.APPLIED
    assert book.best_bid_lots == 5000


# name: (frame, status)
SYNC = {
    "continues": (diff(101, 105, [], []), books.APPLIED),
    "overlaps": (diff(90, 101, [], []), books.APPLIED),
    "older": (diff(90, 99, [], []), books.STALE),
    "the same id": (diff(99, 100, [], []), books.STALE),
    "one missing": (diff(102, 105, [], []), books.GAP),
    "ids the wrong way round": (diff(105, 101, [], []), books.NONSENSE),
    "crosses": (diff(101, 101, [["10.01", "1"]], []), books.CROSSED),
    "a snapshot": (snapshot(101, [], []), books.OTHER),
    "an answer to a subscription": (b'{"result":null,"id":1}', books.OTHER),
    "another event": (dumps({"e": "kline", "E": 1, "s": "X", "k": {"b": [1, {"x": []}]}}), books.OTHER),
}


@pytest.mark.parametrize(("frame", "status"), SYNC.values(), ids=SYNC)
def test_diffs_follow_the_sync_rules(frame: bytes, status: int) -> None:
    book = small_book()
    before = contents(book)
    assert book.apply(frame) == status
    assert book.synced == (status != books.GAP)
    assert book.crossed == (status == books.CROSSED)
    if status not in (books.APPLIED, books.CROSSED):
        assert contents(book)[:3] == before[:3]


def test_after_a_gap_only_a_snapshot_helps() -> None:
    book = small_book()
    assert book.apply(diff(105, 106, [], [])) == books.GAP
    assert book.apply(diff(107, 107, [], [])) == books.UNSYNCED
    assert book.load_snapshot(snapshot(90, [["1", "1"]], [])) == books.APPLIED
    assert book.apply(diff(91, 91, [["2", "1"]], [])) == books.APPLIED
    assert book.levels(BUY, 9) == [(200, 1000), (100, 1000)]


def test_a_lost_connection_needs_a_snapshot_too() -> None:
    book = small_book()
    book.unsync()
    assert book.apply(diff(101, 101, [], [])) == books.UNSYNCED
    assert not book.synced


def test_a_snapshot_older_than_the_book_is_stale() -> None:
    book = small_book()
    before = contents(book)
    assert book.load_snapshot(snapshot(99, [], [])) == books.STALE
    assert contents(book) == before


# name: (level as JSON, status)
LEVELS = {
    "price off the grid": ('["10.005","1"]', books.OFF_GRID),
    "price off the grid, eight decimals": ('["10.00500000","1.00000000"]', books.OFF_GRID),
    "quantity off the grid": ('["10.00","1.0001"]', books.OFF_GRID),
    "letters": ('["10.x0","1"]', books.NOT_DECIMAL),
    "letters, eight decimals": ('["10.0000000a","1.00000000"]', books.NOT_DECIMAL),
    "negative": ('["-10.00","1"]', books.NOT_DECIMAL),
    "plus": ('["+10.00","1"]', books.NOT_DECIMAL),
    "exponent": ('["1e3","1"]', books.NOT_DECIMAL),
    "empty": ('["","1"]', books.NOT_DECIMAL),
    "no whole part": ('[".50","1"]', books.NOT_DECIMAL),
    "no part after the dot": ('["5.","1"]', books.NOT_DECIMAL),
    "two dots": ('["1.2.3","1"]', books.NOT_DECIMAL),
    "escape": ('["1\\u0030","1"]', books.NOT_DECIMAL),
    "huge price": ('["99999999999999999999","1"]', books.OUT_OF_RANGE),
    "just too large": (f'["{(2**62) // 100}.{(2**62) % 100:02}","1"]', books.OUT_OF_RANGE),
    "zero price": ('["0.00","1"]', books.NONSENSE),
    "numbers, not texts": ("[10.00,1]", books.NONSENSE),
    "one column": ('["10.00"]', books.NONSENSE),
    "three columns": ('["10.00","1","2"]', books.NONSENSE),
    "not a list": ('"10.00"', books.NONSENSE),
    "no comma between": ('["9.00","1"]["9.01","1"]', books.NOT_JSON),
    "cut": ('["10.00","1', books.TRUNCATED),
}


@pytest.mark.parametrize(("level", "status"), LEVELS.values(), ids=LEVELS)
def test_a_bad_level_refuses_the_whole_frame(level: str, status: int) -> None:
    book = small_book()
    before = contents(book)
    head = '{"e":"depthUpdate","E":1,"s":"X","U":101,"u":101,"b":[["9.98000000","1.00000000"],'
    frame = head + level + ("" if status == books.TRUNCATED else '],"a":[]}')
    assert status_name(book.apply(frame.encode())) == status_name(status)
    assert contents(book) == before


# name: (frame, status)
BROKEN = {
    "empty": (b"", books.TRUNCATED),
    "white space": (b"  \n", books.TRUNCATED),
    "a list": (b"[]", books.NOT_JSON),
    "a word": (b"nonsense", books.NOT_JSON),
    "two frames": (diff(101, 101, [], []) * 2, books.NOT_JSON),
    "a comma too many": (b'{"e":"depthUpdate",}', books.NOT_JSON),
    "no comma": (b'{"e":"x" "s":"y"}', books.NOT_JSON),
    "control character": (b'{"x":"\x01"}', books.NOT_JSON),
    "bad escape": (b'{"x":"\\q"}', books.NOT_JSON),
    "bad number": (b'{"x":01}', books.NOT_JSON),
    "nested too deep": (b'{"x":' + b"[" * 100 + b"]" * 100 + b"}", books.NOT_JSON),
    "no update ids": (b'{"e":"depthUpdate","b":[],"a":[]}', books.NONSENSE),
    "id is text": (diff(101, 101, [], []).replace(b'"U":101', b'"U":"101"'), books.NONSENSE),
    "id is a fraction": (diff(101, 101, [], []).replace(b'"U":101', b'"U":101.0'), books.NONSENSE),
    "id is huge": (diff(101, 10**30, [], []), books.NONSENSE),
    "an id twice": (diff(101, 101, [], []).replace(b'"U":101', b'"U":101,"U":101'), books.NONSENSE),
    "two envelopes": (b'{"data":{"e":"depthUpdate","U":101,"u":101},"result":{"b":[],"a":[]}}', books.NONSENSE),
    "too long": (b" " * (books.FRAME_BYTES_MAX + 1), books.TOO_LONG),
}


@pytest.mark.parametrize(("frame", "status"), BROKEN.values(), ids=BROKEN)
def test_a_broken_frame_says_what_is_wrong(frame: bytes, status: int) -> None:
    book = small_book()
    before = contents(book)
    assert status_name(book.apply(frame)) == status_name(status)
    assert contents(book) == before


def test_a_snapshot_that_crosses_is_refused() -> None:
    book = small_book()
    before = contents(book)
    assert book.load_snapshot(snapshot(200, [["10.00", "1"]], [["10.00", "1"]])) == books.NONSENSE
    assert contents(book) == before


def test_unknown_keys_escapes_and_white_space_are_skipped() -> None:
    book = small_book()
    frame = rb""" { "stream" : "ethusdt@depth" , "x\"y" : [ { "u" : 9 , "b" : [ ] } , "\\\u00e9\"}" , -1.5e+3 , null ] ,
        "data" : { "a" : [ [ "10.02" , "1" ] ] , "u" : 102 , "pu" : true , "U" : 101 ,
        "b" : [ ] , "s" : "ETHUSDT" , "e" : "depthUpdate" } , "z" : false } """
    assert book.apply(frame) == books.APPLIED
    assert book.levels(SELL, 2) == [(1001, 3000), (1002, 1000)]


def test_snapshots_come_in_three_envelopes() -> None:
    inner = {"lastUpdateId": 7, "bids": [["1.00", "1.000"]], "asks": [["2.00", "1.000"]]}
    for frame in (inner, {"id": "x", "status": 200, "result": inner}, {"stream": "x@depth5", "data": inner}):
        book = Book("binance", "X", price_decimals=2, qty_decimals=3)
        assert book.load_snapshot(dumps(frame)) == books.APPLIED
        assert (book.update_id, book.levels(BUY, 1)) == (7, [(100, 1000)])


def test_book_tickers_and_trades_are_read_as_integers() -> None:
    book = small_book()
    before = contents(book)
    ticker = {"u": 5, "s": "X", "b": "25.35190000", "B": "31.21000000", "a": "25.36520000", "A": "40.66000000"}
    assert book.ticker(dumps(ticker))[0] == books.OFF_GRID
    exact = Book("binance", "X", price_decimals=4, qty_decimals=2)
    assert exact.ticker(dumps(ticker)) == (books.APPLIED, 5, 253519, 3121, 253652, 4066)
    assert exact.ticker(dumps({"stream": "x@bookTicker", "data": ticker}))[0] == books.APPLIED
    trade = {"e": "trade", "E": 1, "s": "X", "t": 12345, "p": "0.001", "q": "100", "T": 1672515782136, "m": True}
    assert exact.trade(dumps(trade)) == (books.APPLIED, 12345, 10, 10000, 1672515782136, True)
    assert exact.trade(dumps(ticker))[0] == books.OTHER
    assert exact.ticker(dumps(trade))[0] == books.OTHER
    assert exact.trade(dumps(trade | {"m": 1}))[0] == books.NONSENSE
    assert contents(book) == before


def test_peek_names_the_book_of_a_frame() -> None:
    assert peek(diff(1, 2, [["x", "y"]], [])) == (books.APPLIED, books.DIFF, b"ETHUSDT", b"")
    assert peek(snapshot(1, [["1", "1"]], [])) == (books.APPLIED, books.SNAPSHOT, b"", b"")
    partial = dumps({"stream": "ethusdt@depth5", "data": {"lastUpdateId": 1, "bids": [], "asks": []}})
    assert peek(partial) == (books.APPLIED, books.SNAPSHOT, b"", b"ethusdt@depth5")
    ticker = dumps({"u": 1, "s": "X", "b": "1", "B": "1", "a": "1", "A": "1"})
    assert peek(ticker) == (books.APPLIED, books.TICKER, b"X", b"")
    assert peek(b'{"result":null,"id":1}') == (books.APPLIED, books.UNKNOWN_KIND, b"", b"")
    assert peek(b"{")[0] == books.TRUNCATED


# --- depth


def test_levels_beyond_the_depth_fall_off_and_never_come_back_out_of_turn() -> None:
    book = small_book(depth_max=3)
    assert book.apply(diff(101, 101, [], [["10.06", "1"], ["10.07", "1"]])) == books.APPLIED
    assert [ticks for ticks, _ in book.levels(SELL, 9)] == [1001, 1005, 1006]  # 10.07 is the horizon now
    assert book.apply(diff(102, 102, [], [["10.01", "0"], ["10.08", "1"], ["10.07", "2"]])) == books.APPLIED
    assert [ticks for ticks, _ in book.levels(SELL, 9)] == [1005, 1006]  # a hole at 10.07 would be a lie
    assert book.apply(diff(103, 103, [], [["10.05", "0"], ["10.06", "0"]])) == books.DEPLETED
    assert not book.synced
    assert book.apply(diff(104, 104, [], [])) == books.UNSYNCED
    assert book.load_snapshot(snapshot(104, [["10.00", "1"]], [["10.07", "2"]])) == books.APPLIED
    assert book.levels(SELL, 9) == [(1007, 2000)]


def test_a_side_may_be_empty_when_nothing_was_dropped() -> None:
    book = small_book()
    assert book.apply(diff(101, 101, [["10.00", "0"], ["9.99", "0"]], [])) == books.APPLIED
    assert (book.best_bid_ticks, book.best_bid_lots, book.levels(BUY, 3)) == (0, 0, [])
    assert book.synced


def test_a_snapshot_deeper_than_the_book_keeps_the_top() -> None:
    book = Book("binance", "X", price_decimals=2, qty_decimals=0, depth_max=5)
    asks = [[f"{10 + i}.00", "1"] for i in range(40)]
    assert book.load_snapshot(snapshot(1, [], asks)) == books.APPLIED
    assert [ticks for ticks, _ in book.levels(SELL, 99)] == [1000, 1100, 1200, 1300, 1400]


LEVEL = st.tuples(st.integers(1, 60), st.integers(0, 4))
MESSY = st.lists(LEVEL, max_size=12)  # any order, doubled prices: edited one by one
TIDY = st.lists(LEVEL, min_size=17, max_size=60, unique_by=lambda level: level[0]).map(sorted)  # many: merged


@few
@given(
    st.lists(st.one_of(MESSY, TIDY), max_size=25),
    st.integers(1, 30),
    st.booleans(),
)
def test_a_shallow_book_is_a_prefix_of_the_deep_one(rounds: list[list[tuple[int, int]]], depth: int, buy: bool) -> None:
    deep = Book("binance", "X", price_decimals=0, qty_decimals=0)
    shallow = Book("binance", "X", price_decimals=0, qty_decimals=0, depth_max=depth)
    for book in (deep, shallow):
        book.load_snapshot(snapshot(0, [], []))
    for update_id, edits in enumerate(rounds, 1):
        rows = [[str(price), str(qty)] for price, qty in (edits[::-1] if buy else edits)]
        frame = diff(update_id, update_id, rows if buy else [], [] if buy else rows)
        deep.apply(frame)
        if shallow.apply(frame) == books.DEPLETED:
            assert deep.levels(BUY if buy else SELL, 1)  # said only when there is more that it cannot know
            return
        side = BUY if buy else SELL
        held = shallow.levels(side, 99)
        assert held == deep.levels(side, len(held))
        assert len(held) <= depth
        assert held or not deep.levels(side, 1)
        assert_ordered(shallow)


# --- laws


BIDS = st.one_of(MESSY, TIDY.map(lambda levels: levels[::-1]))
ASKS = st.one_of(MESSY, TIDY)


@few
@given(BIDS, ASKS, st.lists(st.tuples(BIDS, ASKS, st.integers(-3, 1), st.integers(0, 3)), max_size=12))
def test_snapshot_and_diffs_rebuild_what_the_model_holds(
    bids: list[tuple[int, int]],
    asks: list[tuple[int, int]],
    diffs: list[tuple[list[tuple[int, int]], list[tuple[int, int]], int, int]],
) -> None:
    grid = Grid(price_decimals=2, tick_units=5, qty_decimals=3, lot_units=2)
    model = ModelBook(grid)
    book = Book("binance", "X", price_decimals=2, tick_units=5, qty_decimals=3, lot_units=2)
    plain = twin("core.market.book")
    twin_book = plain.Book("binance", "X", price_decimals=2, tick_units=5, qty_decimals=3, lot_units=2)

    def rows(levels: list[tuple[int, int]]) -> list[list[str]]:
        texts = [(Decimal(price * 5).scaleb(-2), Decimal(lots * 2).scaleb(-3)) for price, lots in levels]
        return [[f"{price:.8f}", f"{qty:.3f}" if price % 2 else f"{qty:.8f}"] for price, qty in texts]

    def agree(method: str, frame: bytes) -> None:
        expected = getattr(model, method)(frame)
        assert word(getattr(book, method)(frame)) == expected
        with np.errstate(over="ignore"):
            assert word(getattr(twin_book, method)(frame)) == expected
        assert (book.levels(BUY, 99), book.levels(SELL, 99)) == model.sides()
        assert contents(book) == contents(twin_book)
        assert (book.update_id, book.synced) == (model.update_id, model.synced)
        assert_ordered(book)

    agree("load_snapshot", snapshot(10, rows(bids), rows([(price + 60, lots) for price, lots in asks])))
    for more_bids, more_asks, offset, length in diffs:
        first = model.update_id + 1 + offset
        frame = diff(max(first, 0), max(first, 0) + length, rows(more_bids), rows(more_asks))
        agree("apply", frame)


@few
@given(st.data())
def test_a_consistent_feed_never_crosses(data: st.DataObject) -> None:
    book = Book("binance", "X", price_decimals=1, qty_decimals=0)
    middle, held = 50, dict[int, int]()
    book.load_snapshot(snapshot(0, [], []))
    for update_id in range(1, 15):
        # The venue's book: below the middle bids, above asks; what changes sides is taken out in the same event.
        middle = data.draw(st.integers(max(middle - 5, 2), min(middle + 5, 98)))
        changed = data.draw(st.dictionaries(st.integers(1, 99), st.integers(0, 5), max_size=12))
        bids, asks = dict[int, int](), dict[int, int]()
        for price, lots in held.items():
            if (lots > 0) != (price <= middle):
                (bids if lots > 0 else asks)[price] = 0
        held = {p: q for p, q in held.items() if p not in bids and p not in asks}
        for price, lots in changed.items():
            (bids if price <= middle else asks)[price] = lots
            held[price] = lots if price <= middle else -lots
            if not lots:
                del held[price]
        rows = [[[f"{p / 10:.1f}", str(q)] for p, q in side.items()] for side in (bids, asks)]
        assert book.apply(diff(update_id, update_id, *rows)) == books.APPLIED
        assert not (book.best_bid_lots and book.best_ask_lots) or book.best_bid_ticks < book.best_ask_ticks
        assert dict(book.levels(BUY, 99)) == {p: q for p, q in held.items() if q > 0}
        assert dict(book.levels(SELL, 99)) == {p: -q for p, q in held.items() if q < 0}


TEXTS = st.one_of(
    st.from_regex(r"[0-9]{1,12}(\.[0-9]{1,10})?", fullmatch=True),
    st.from_regex(r"[0-9]{1,9}\.[0-9]{0,4}0{4,8}", fullmatch=True),
    st.from_regex(r"[0-9]{0,22}\.?[0-9+e.x-]{0,9}", fullmatch=True),
)


@laws
@given(TEXTS, st.integers(0, 18), st.sampled_from([1, 2, 5, 10, 25, 1000, 3, 10**9]))
def test_text_becomes_exactly_its_steps(text: str, decimals: int, step: int) -> None:
    plain = twin("core.market.kernels_text")
    state = np.zeros(5, np.int64)
    state[:] = books._grid("tick", decimals, step)
    try:
        expected = steps(text, decimals, step)
    except Refused:
        expected = -1
    for tail in (b'"', b'","1.00000000"]]}'):
        frame = text.encode() + tail
        with np.errstate(over="ignore"):
            value, end = plain.number(frame, 0, len(frame), state, 0)
        slow, _ = number_slowly(frame, 0, len(frame), decimals, step)
        assert max(value, -1) == max(slow, -1) == expected
        assert value < 0 or end == len(text)


@laws
@given(TEXTS, st.integers(0, 12), st.sampled_from([1, 2, 5, 10, 25, 1000, 3]))
def test_a_compiled_book_reads_the_same_steps(text: str, decimals: int, step: int) -> None:
    book = Book("binance", "X", price_decimals=decimals, tick_units=step, qty_decimals=0)
    status = book.load_snapshot(snapshot(1, [], [[text, "1.00000000"]]))
    try:
        expected = steps(text, decimals, step)
    except Refused:
        expected = 0
    assert book.best_ask_ticks == expected
    assert (status == books.APPLIED) == (expected > 0)


SEEDS = [
    diff(101, 103, [["10.00000000", "2.00000000"], ["9.98", "0"]], [["10.05", "0.000"]]),
    dumps({"stream": "x@depth", "data": json.loads(diff(101, 102, [["9.00000000", "1.50000000"]], []))}),
    snapshot(150, [["9.00", "1"], ["8.00000000", "2.00000000"]], [["11.00", "1"]]),
    b' { "id" : 1 , "status" : 200 , "result" : ' + snapshot(160, [["9.00", "1"]], [["11.00", "1"]]) + b"}",
    dumps({"u": 5, "s": "X", "b": "25.35000000", "B": "31.21000000", "a": "25.36000000", "A": "40.66000000"}),
    dumps({"e": "trade", "E": 1, "s": "X", "t": 12, "p": "0.01", "q": "100", "T": 16725, "m": True, "x": ['\\"', 1]}),
]
BYTES = st.sampled_from(list(b'{}[]",:.0123456789eEubaAU \\-tn\x00\xff'))
EDITS = st.lists(st.tuples(st.integers(0, 400), BYTES, st.integers(0, 2)), max_size=3)  # (where, what, how)


@laws
@given(st.sampled_from(SEEDS), EDITS, st.data())
def test_a_mutated_frame_does_what_the_model_says(
    seed: bytes, edits: list[tuple[int, int, int]], data: st.DataObject
) -> None:
    frame = bytearray(seed)
    for at, byte, how in edits:
        at %= len(frame) + 1
        if how == 0:
            frame[at : at + 1] = bytes([byte])
        elif how == 1:
            frame[at:at] = bytes([byte])
        else:
            del frame[at : at + 1]
    text = bytes(frame[: data.draw(st.integers(0, len(frame)))]) if data.draw(st.booleans()) else bytes(frame)
    for method in ("apply", "load_snapshot"):
        book, model = small_book(), ModelBook(Grid())
        model.load_snapshot(snapshot(100, [["10", "1"], ["9.99", "2"]], [["10.01", "3"], ["10.05", "4"]]))
        assert word(getattr(book, method)(text)) == getattr(model, method)(text)
        assert (book.levels(BUY, 99), book.levels(SELL, 99)) == model.sides()
    assert_reads_as_the_model(text)


def assert_reads_as_the_model(frame: bytes) -> None:
    book, grid = Book("binance", "X", price_decimals=2, qty_decimals=3), Grid()
    try:
        kind, fields = frame_fields(frame, grid)
    except Refused:
        assert book.ticker(frame)[0] < 0
        assert book.trade(frame)[0] < 0
        return
    ticker, trade = book.ticker(frame), book.trade(frame)
    assert (ticker[0] == books.APPLIED) == (kind == "ticker")
    assert (trade[0] == books.APPLIED) == (kind == "trade")
    if kind == "ticker":
        assert ticker[1:] == tuple(fields[key] for key in "ubBaA")
    if kind == "trade":
        assert trade[1:] == tuple(fields[key] for key in "tpqTm")


@pytest.mark.parametrize("seed", SEEDS, ids=range(len(SEEDS)))
def test_every_truncation_is_refused(seed: bytes) -> None:
    book = small_book()
    before = contents(book)
    for length in range(len(seed)):
        assert book.apply(seed[:length]) < 0
        assert book.load_snapshot(seed[:length]) < 0
        assert book.ticker(seed[:length])[0] < 0
    assert contents(book) == before


def test_documented_examples_are_understood_or_passed_over(fixtures: Path) -> None:
    kinds = set()
    for line in (fixtures / "binance/docs_examples/web-socket-streams.jsonl").read_text().splitlines():
        payload = json.loads(line)["payload"]
        frame = payload.encode() if isinstance(payload, str) else dumps(payload)
        book = Book("binance", "X", price_decimals=8, qty_decimals=8)
        try:
            kind, _ = frame_fields(frame, Grid(8, 1, 8, 1))
        except Refused:
            kind = "refused"
        found = {books.DIFF: "diff", books.SNAPSHOT: "snapshot", books.TICKER: "ticker", books.TRADE: "trade"}
        assert kind == found.get(peek(frame)[1], "") or kind == "refused"
        assert word(book.apply(frame)) == {"diff": "unsynced", "refused": "refused"}.get(kind, "other")
        kinds.add(kind)
    assert {"diff", "snapshot", "ticker", "trade"} <= kinds


def test_recorded_frames_give_the_models_book(fixtures: Path) -> None:
    path = fixtures / "binance/hftbacktest_spot_2024-08/ethusdt_20240808.gz"
    with gzip.open(path) as file:
        rows = [next(file).split(b" ", 1)[1] for _ in range(4000)]
    book, model = Book("binance", "ETH_USDT", price_decimals=8, qty_decimals=8), ModelBook(Grid(8, 1, 8, 1))
    for frame in rows:
        if b"lastUpdateId" in frame:
            assert word(book.load_snapshot(frame)) == model.load_snapshot(frame) == "applied"
        elif b"depthUpdate" in frame:
            assert word(book.apply(frame)) == model.apply(frame)
    assert model.synced
    assert (book.levels(BUY, 9999), book.levels(SELL, 9999)) == model.sides()


# --- set_levels, grids, kernels


def test_set_levels_takes_pairs_in_any_order() -> None:
    book = small_book()
    bids, asks = [(5, 1), (7, 2), (6, 0)], np.array([[9, 3], [8, 4]])
    assert book.set_levels(bids, asks, 3, event_ns=1, local_ns=2) == books.APPLIED
    assert (book.levels(BUY, 9), book.levels(SELL, 9)) == ([(7, 2), (5, 1)], [(8, 4), (9, 3)])
    assert (book.update_id, book.event_ns, book.local_ns, book.synced) == (3, 1, 2, True)
    before = contents(book)
    assert book.set_levels([(8, 1)], [(8, 1)], 4) == books.NONSENSE
    assert book.set_levels([(0, 1)], [], 4) == books.NONSENSE
    assert book.set_levels([(1, -1)], [], 4) == books.NONSENSE
    assert contents(book) == before
    assert book.set_levels([], [], 5) == books.APPLIED
    assert book.levels(BUY, 9) == book.levels(SELL, 9) == []


@pytest.mark.parametrize(
    "options",
    [{"price_decimals": 19}, {"price_decimals": -1}, {"tick_units": 0}, {"lot_units": UNITS_MAX + 1}, {"depth_max": 0}],
)
def test_an_impossible_grid_is_refused(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"can be held|at least one"):
        Book("binance", "X", **{"price_decimals": 2, "qty_decimals": 2} | options)  # type: ignore[arg-type]


def test_warming_up_twice_compiles_nothing_and_says_nothing() -> None:
    kernel_cache.warm_up(lambda _: None)
    said: list[str] = []
    assert kernel_cache.warm_up(said.append) == 0
    assert said == []


def test_a_new_kernel_is_announced_before_it_is_compiled() -> None:
    @kernel_cache.inlined
    def doubled(x: int) -> int:
        return 2 * x

    calls: list[Callable[[], None]] = []
    kernel_cache.warms_up("a test")(lambda: calls.append(lambda: None) if doubled(2) == 4 else None)
    said: list[str] = []
    try:
        assert kernel_cache.warm_up(said.append) == 1
    finally:
        kernel_cache._warm_ups.pop("a test")
    assert len(calls) == 1
    assert "test_book.doubled" in said[0]
