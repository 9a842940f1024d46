"""Books and walks: a frame from its bytes to the changed book, and walks of books; the call from Python is included.

    python -m pytest bench/bench_market.py        (PYTHONPATH=.src from the checkout, or with tbx installed)

Frames are made up, in Binance's layout and with its eight decimals, around a book of 1,000 levels a side: six of ten
levels change a quantity, two are new and two go, each frame has other levels and continues the one before. Floors: a
diff without levels (call, envelope, ids) and a peer that only parses (`msgspec` with a typed schema, no book).
`extra_info` holds the bound of each row that has one, in microseconds. The capture is a recorded one where it is found.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tbx.core import kernel_cache
from tbx.core.market.book import APPLIED, BUY, Book, peek
from tbx.core.market.slippage import Venue, walk_book, walk_venues
from tbx.venues.simulator.replay import replay

CAPTURES = Path(__file__).resolve().parents[2] / "shared/fixtures/binance/hftbacktest_spot_2024-08"
DEPTH = 1_000
MIDDLE = 6_183_763


class DepthUpdate(msgspec.Struct):
    """The peer's schema."""

    U: int
    u: int
    b: list[tuple[str, str]]
    a: list[tuple[str, str]]


@pytest.fixture(scope="module", autouse=True)
def warm() -> None:
    kernel_cache.warm_up(print)


def level(ticks: int, lots: int) -> list[str]:
    return [f"{ticks // 100}.{ticks % 100:02}000000", f"{lots // 100_000}.{lots % 100_000:05}000"]


def a_book() -> Book:
    book = Book("binance", "BTC_USDT", price_decimals=2, qty_decimals=5)
    sides = [[level(MIDDLE - s * 7 * i, 10_000 + 37 * i) for i in range(DEPTH)] for s in (1, -1)]
    frame = msgspec.json.encode({"lastUpdateId": 1, "bids": sides[0], "asks": sides[1][1:]})
    assert book.load_snapshot(frame) == APPLIED
    return book


def diffs(count: int, levels: int) -> Iterator[bytes]:
    """Frames of `levels` levels, half of them bids, near the top where they fit there."""
    chance = random.Random(7)
    held = {1: {7 * i for i in range(1, DEPTH)}, -1: {7 * i for i in range(1, DEPTH)}}
    for update_id in range(2, count + 2):
        sides = []
        for sign in (1, -1):
            within = min(7 * DEPTH, 28 * levels)
            near = sorted(d for d in held[sign] if d < within)
            wanted = levels // 2
            gone = chance.sample(near, wanted // 5)
            changed = chance.sample([d for d in near if d not in gone], wanted - 2 * (wanted // 5))
            new: set[int] = set()
            while len(new) < wanted // 5:
                distance = chance.randrange(2, within)
                if distance not in held[sign]:
                    new.add(distance)
            held[sign] = (held[sign] - set(gone)) | new
            amounts = dict.fromkeys(gone, 0) | {d: chance.randrange(1, 10**8) for d in (*changed, *new)}
            sides.append([level(MIDDLE - sign * d, lots) for d, lots in sorted(amounts.items())])
        fields = {"e": "depthUpdate", "E": 1723161255508, "s": "BTCUSDT", "U": update_id, "u": update_id}
        yield msgspec.json.encode({"stream": "btcusdt@depth@100ms", "data": fields | {"b": sides[0], "a": sides[1]}})


# levels of a frame: (iterations a round, rounds, bound in us)
FRAMES = {20: (500, 20, 3.0), 100: (200, 20, None), 2_000: (10, 20, 60.0)}


@pytest.mark.parametrize("levels", FRAMES)
def test_diff_frame_to_book(benchmark: Any, levels: int) -> None:
    iterations, rounds, bound = FRAMES[levels]
    book, frames = a_book(), list(diffs(iterations * rounds + 1, levels))
    following = iter(frames).__next__
    benchmark.extra_info.update(bound_us=bound, frame_bytes=len(frames[0]))
    benchmark.pedantic(lambda: book.apply(following()), rounds=rounds, iterations=iterations)
    assert book.update_id == len(frames) + 1
    assert not book.crossed


def test_floor_diff_without_levels(benchmark: Any) -> None:
    book, frames = a_book(), list(diffs(20_001, 0))
    following = iter(frames).__next__
    benchmark.pedantic(lambda: book.apply(following()), rounds=20, iterations=1_000)


@pytest.mark.parametrize("levels", FRAMES)
def test_peer_only_parses(benchmark: Any, levels: int) -> None:
    frames = itertools.cycle(list(diffs(50, levels)))
    decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
    parse = msgspec.json.Decoder(DepthUpdate).decode
    benchmark.pedantic(lambda: parse(decode(next(frames))["data"]), rounds=20, iterations=50)


def test_snapshot_of_2000_levels(benchmark: Any) -> None:
    book = a_book()
    sides = [[level(MIDDLE - s * 7 * i, 10_000 + 37 * i) for i in range(1, DEPTH + 1)] for s in (1, -1)]
    frame = msgspec.json.encode({"lastUpdateId": 5, "bids": sides[0], "asks": sides[1]})
    benchmark.extra_info.update(bound_us=60.0, frame_bytes=len(frame))
    benchmark.pedantic(lambda: book.load_snapshot(frame), rounds=20, iterations=20)
    assert book.update_id == 5


def test_peek(benchmark: Any) -> None:
    frame = next(diffs(1, 20))
    benchmark.pedantic(lambda: peek(frame), rounds=20, iterations=1_000)


# levels walked: bound in us
WALKS = {1: None, 20: None, 1_000: 3.0}


@pytest.mark.parametrize("levels", WALKS)
def test_walk(benchmark: Any, levels: int) -> None:
    book = Book("binance", "BTC_USDT", price_decimals=2, qty_decimals=5)
    book.set_levels([(MIDDLE, 1)], [(MIDDLE + 1 + i, 100 + i % 7) for i in range(1_000)], 1)
    want = int(book.asks[1][:levels].sum())
    benchmark.extra_info["bound_us"] = WALKS[levels]
    benchmark.pedantic(lambda: walk_book(book, BUY, want), rounds=20, iterations=1_000)
    assert walk_book(book, BUY, want).levels == levels


@pytest.mark.parametrize("venues", [2, 16])
def test_consolidated_walk_of_1000_levels(benchmark: Any, venues: int) -> None:
    each = 1_000 // venues
    books = [Book(f"venue{v}", "X", price_decimals=2, qty_decimals=5) for v in range(venues)]
    for v, book in enumerate(books):
        book.set_levels([], [(MIDDLE + v + venues * i, 100 + i % 7) for i in range(each)], 1)
    table = [Venue(book, fee_ppm=1000) for book in books]
    want = sum(int(book.asks[1].sum()) for book in books)
    benchmark.pedantic(lambda: walk_venues(table, BUY, want), rounds=20, iterations=100)
    assert walk_venues(table, BUY, want).left_lots == 0


@pytest.mark.parametrize("name", ["btcusdt_20240808.gz", "ethusdt_20240808.gz"])
def test_capture(benchmark: Any, name: str) -> None:
    if not (CAPTURES / name).is_file():
        pytest.skip(f"no recorded capture {CAPTURES / name}")
    report = benchmark.pedantic(lambda: replay(CAPTURES / name), rounds=5, iterations=1)
    benchmark.extra_info.update(
        frames=report.frames,
        frames_per_second=round(report.frames_per_second),
        frames_per_second_with_reading=round(report.frames_per_second_with_reading),
        bound_frames_per_second=100_000,
    )
    assert report.good
