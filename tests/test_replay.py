"""Captures: reading them, keeping books from them, and what the report says of good and bad ones."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tbx.core.model.errors import TbxError
from tbx.venues.simulator.replay import CaptureError, ReplayReport, frames, replay

CAPTURES = ["btcusdt_20240808.gz", "ethusdt_20240808.gz"]
START_NS = 1_723_161_254_000_000_000


def line(value: Any, at: int = 0) -> bytes:
    return b"%d %s\n" % (START_NS + at, json.dumps(value).encode())


def snapshot(update_id: int, bid: str = "10.00", ask: str = "11.00") -> dict[str, Any]:
    return {"lastUpdateId": update_id, "bids": [[bid, "1"]], "asks": [[ask, "1"]]}


def diff(first: int, last: int, bid: str = "", qty: str = "1", symbol: str = "XUSDT") -> dict[str, Any]:
    bids = [[bid, qty]] if bid else []
    data = {"e": "depthUpdate", "E": 1, "s": symbol, "U": first, "u": last, "b": bids, "a": []}
    return {"stream": f"{symbol.lower()}@depth", "data": data}


def ticker(update_id: int, bid: str = "10.00", ask: str = "11.00", symbol: str = "XUSDT") -> dict[str, Any]:
    data = {"u": update_id, "s": symbol, "b": bid, "B": "1", "a": ask, "A": "1"}
    return {"stream": f"{symbol.lower()}@bookTicker", "data": data}


@pytest.fixture
def capture(tmp_path: Path) -> Callable[..., Path]:
    def write(*values: Any) -> Path:
        path = tmp_path / "capture"
        path.write_bytes(b"".join(line(value, at) for at, value in enumerate(values)))
        return path

    return write


@pytest.mark.parametrize("name", CAPTURES)
def test_recorded_captures_agree_with_themselves(fixtures: Path, name: str) -> None:
    report = replay(fixtures / "binance/hftbacktest_spot_2024-08" / name)
    assert report.good
    assert (report.gaps, report.crossed, report.refused, report.unsynced) == (0, 0, 0, 0)
    assert (report.mismatches, report.carried_mismatches) == (0, 0)
    assert report.checked > 500
    assert report.checked + report.carried_checked == report.depth_events > 3_000
    assert report.frames == report.snapshots + report.depth_events + report.stale + report.tickers + report.trades
    assert report.levels > 100_000
    assert report.symbols == [name.partition("_")[0].upper()]
    assert "good" in report.text()


def test_plain_and_packed_captures_give_the_same_frames(capture: Callable[..., Path], tmp_path: Path) -> None:
    plain, packed = capture(diff(1, 2), snapshot(2)), tmp_path / "packed"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert (
        list(frames(packed))
        == list(frames(plain))
        == [
            (START_NS, json.dumps(diff(1, 2)).encode()),
            (START_NS + 1, json.dumps(snapshot(2)).encode()),
        ]
    )


def test_diffs_wait_for_the_snapshot(capture: Callable[..., Path]) -> None:
    report = replay(capture(diff(1, 4), diff(5, 6, "10.50"), snapshot(5), ticker(6, "10.50")))
    assert (report.depth_events, report.stale, report.gaps, report.unsynced) == (1, 1, 0, 0)
    assert (report.checked, report.mismatches) == (1, 0)


def test_a_snapshot_that_is_too_old_is_followed_by_a_newer_one(capture: Callable[..., Path]) -> None:
    report = replay(capture(diff(8, 9), diff(10, 10, "10.50"), snapshot(5), snapshot(9), ticker(10, "10.50")))
    assert (report.snapshots, report.depth_events, report.gaps, report.unsynced) == (2, 1, 0, 0)
    assert (report.stale, report.checked, report.mismatches) == (1, 1, 0)


def test_a_snapshot_may_come_before_any_symbol_is_named(capture: Callable[..., Path]) -> None:
    report = replay(capture(snapshot(5), diff(6, 6, "10.50"), ticker(6, "10.50")))
    assert (report.depth_events, report.checked, report.mismatches) == (1, 1, 0)


def test_a_gap_is_counted_once_and_healed_by_a_snapshot(capture: Callable[..., Path]) -> None:
    path = capture(diff(1, 1), snapshot(1), diff(2, 2), diff(4, 4), diff(5, 5), snapshot(4), diff(6, 6))
    report = replay(path)
    assert (report.gaps, report.depth_events, report.unsynced, report.good) == (1, 3, 0, False)
    assert "NOT GOOD" in report.text()


def test_a_gap_that_nothing_heals_leaves_diffs_unsynced(capture: Callable[..., Path]) -> None:
    report = replay(capture(diff(1, 1), snapshot(1), diff(3, 3), diff(4, 4)))
    assert (report.gaps, report.unsynced, report.good) == (1, 2, False)


def test_a_crossed_book_is_counted(capture: Callable[..., Path]) -> None:
    report = replay(capture(diff(1, 1), snapshot(1), diff(2, 2, "11.00")))
    assert (report.crossed, report.good) == (1, False)


def test_a_wrong_top_is_a_mismatch_whichever_frame_came_first(capture: Callable[..., Path]) -> None:
    wrong = ticker(2, "10.20")
    for values in ([wrong, diff(2, 2, "10.10")], [diff(2, 2, "10.10"), wrong]):
        report = replay(capture(diff(1, 1), snapshot(1), *values))
        assert (report.checked, report.mismatches, report.good) == (1, 1, False)
        assert "XUSDT after update 2" in report.text()


def test_only_the_bookticker_of_the_update_or_before_is_compared(capture: Callable[..., Path]) -> None:
    values = [ticker(2), ticker(3, "9.00"), diff(2, 2), ticker(9, "10.40"), diff(3, 5, "10.40")]
    report = replay(capture(diff(1, 1), snapshot(1), *values))
    assert (report.checked, report.mismatches) == (1, 0)
    assert (report.carried_checked, report.carried_mismatches) == (1, 1)


def test_symbols_have_their_own_books(capture: Callable[..., Path]) -> None:
    bids = {"x": "10.00", "y": "9.00"}
    named = [{"stream": f"{symbol}@depth5", "data": snapshot(1, bid)} for symbol, bid in bids.items()]
    values = [diff(2, 2, symbol="X"), diff(2, 2, symbol="Y"), ticker(2, symbol="X"), ticker(2, "9.00", symbol="Y")]
    report = replay(capture(*named, *values))
    assert (report.symbols, report.checked, report.mismatches) == (["X", "Y"], 2, 0)


def test_a_frame_with_bad_numbers_is_counted_and_the_first_named(capture: Callable[..., Path]) -> None:
    report = replay(capture(diff(1, 1), snapshot(1), diff(2, 2, "ten"), diff(2, 2, "1e1")))
    assert (report.refused, report.good) == (2, False)
    assert "frame 3 refused: a price or quantity is not digits" in report.text()


def test_frames_reach_the_sink_and_keep_their_pace(capture: Callable[..., Path]) -> None:
    waits: list[int] = []
    seen: list[tuple[int, bytes]] = []
    path = capture(diff(1, 1), snapshot(1), diff(2, 2))
    report = replay(path, speed="1x", wait_ns=waits.append, sink=lambda ns, frame: seen.append((ns, frame)))
    assert waits == [1, 1]
    assert seen == list(frames(path))
    assert report.frames == 3


def test_the_report_is_json_and_back(capture: Callable[..., Path]) -> None:
    report = replay(capture(diff(1, 1), snapshot(1)))
    assert msgspec.json.decode(msgspec.json.encode(report), type=ReplayReport) == report
    assert report.frames_per_second >= report.frames_per_second_with_reading > 0


# name: (bytes of the file, text of the error)
BAD_FILES = {
    "empty": (b"", "holds no snapshot"),
    "no snapshot": (line(diff(1, 1)), "holds no snapshot"),
    "snapshot of nobody": (line(snapshot(1)), "no frame that names a symbol"),
    "no time": (b'{"e":"trade"}\n', "line 1: is not `<local time in ns> <frame>`"),
    "time in words": (line(diff(1, 1)) + b"noon {}\n", "line 2: is not `<local time in ns> <frame>`"),
    "a blank line": (line(diff(1, 1)) + b"\n", "line 2: is not `<local time in ns> <frame>`"),
    "not JSON": (line(diff(1, 1)) + b"1 {nonsense}\n", "line 2: the frame is not JSON"),
    "cut frame": (line(diff(1, 1))[:-9], "line 1: the frame is truncated"),
    "cut gzip": (gzip.compress(line(snapshot(1)) * 99)[:-12], "ends too early"),
    "damaged gzip": (gzip.compress(line(snapshot(1)) * 99)[:20] + b"x" * 99, "damaged"),
    "whose snapshot": (
        line(diff(1, 1, symbol="X")) + line(diff(1, 1, symbol="Y")) + line(snapshot(1)),
        "line 3: a snapshot without a symbol in a capture of 2",
    ),
}


@pytest.mark.parametrize(("content", "text"), BAD_FILES.values(), ids=BAD_FILES)
def test_a_bad_capture_says_where_and_why(tmp_path: Path, content: bytes, text: str) -> None:
    path = tmp_path / "bad"
    path.write_bytes(content)
    with pytest.raises(CaptureError) as caught:
        replay(path)
    assert isinstance(caught.value, TbxError)
    assert text in str(caught.value)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_missing_capture_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match="there is no such file"):
        replay(tmp_path / "missing")
    with pytest.raises(CaptureError, match="is a folder"):
        replay(tmp_path)
