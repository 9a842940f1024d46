"""The log files: one line a line, no forging, rotation, and a disk that fails without stopping the service."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tbx.core.kernel.clock import ManualClock
from tbx.core.setting_values import Secret
from tbx.core.settings import load_settings
from tbx.http.logfiles import BUFFERED_BYTES_MAX, LogFiles

NAMES = ("execution", "execution-error", "trades", "orders", "portfolio", "exchange")
START = "2024-01-01T00:00:00.000Z"


class Filled(msgspec.Struct, rename="camel"):
    order_id: str
    price: Decimal


def opened(
    folder: Path, complaints: list[str] | None = None, *, level: str = "info", json_lines: bool = False, **bounds: int
) -> LogFiles:
    paths = {name: folder / f"{name}.log" for name in NAMES}
    told = [] if complaints is None else complaints
    return LogFiles(paths, ManualClock(), level=level, json_lines=json_lines, complain=told.append, **bounds)


def lines(path: Path) -> list[str]:
    return path.read_bytes().decode("ascii").splitlines() if path.exists() else []


def test_each_kind_of_line_goes_to_the_file_of_the_manual(tmp_path: Path) -> None:
    logs = opened(tmp_path)
    logs.orders("SUBMITTED", {"orderId": "ORD_1"})
    logs.trades("EXECUTED", {"orderId": "ORD_1"})
    logs.portfolio("VALUED", {"equity": Decimal("50000.10")})
    logs.exchange("CONNECTED", {"exchange": "xeggex"})
    logs.execution("info", "ready to trade", port=3004)
    logs.error("ORDER_FAILED", {"orderId": "ORD_2"})
    logs.close()
    assert lines(tmp_path / "orders.log") == [f'{START} INFO SUBMITTED {{"orderId":"ORD_1"}}']
    assert lines(tmp_path / "trades.log") == [f'{START} INFO EXECUTED {{"orderId":"ORD_1"}}']
    assert lines(tmp_path / "portfolio.log") == [f'{START} INFO VALUED {{"equity":"50000.10"}}']
    assert lines(tmp_path / "exchange.log") == [f'{START} INFO CONNECTED {{"exchange":"xeggex"}}']
    failed = f'{START} ERROR ORDER_FAILED {{"orderId":"ORD_2"}}'
    assert lines(tmp_path / "execution-error.log") == [failed]
    assert lines(tmp_path / "execution.log") == [f'{START} INFO ready to trade {{"port":3004}}', failed]


def test_lines_as_json_are_objects_with_time_level_word_and_fields(tmp_path: Path) -> None:
    logs = opened(tmp_path, json_lines=True)
    logs.trades("FILLED", Filled("ORD_1", Decimal("0.0245")))
    logs.trades("FILLED", {})
    logs.close()
    first, second = map(json.loads, lines(tmp_path / "trades.log"))
    assert first == {"time": START, "level": "info", "word": "FILLED", "orderId": "ORD_1", "price": "0.0245"}
    assert second == {"time": START, "level": "info", "word": "FILLED"}


def test_settings_name_the_files_the_level_and_the_format(tmp_path: Path) -> None:
    environ = {"LOG_DIR": "l", "TRADE_LOG_FILE": "t/trades.txt", "LOG_LEVEL": "error", "LOG_FORMAT": "json"}
    logs = LogFiles.open(load_settings(environ, tmp_path), ManualClock())
    logs.trades("FILLED", {"a": 1})
    logs.execution("warn", "not shown")
    logs.execution("error", "shown")
    logs.close()
    assert json.loads(lines(tmp_path / "t/trades.txt")[0])["a"] == 1
    assert len(lines(tmp_path / "l/execution.log")) == 1
    assert len(lines(tmp_path / "l/execution-error.log")) == 1


def test_the_level_holds_back_all_but_the_records_of_orders_and_trades(tmp_path: Path) -> None:
    logs = opened(tmp_path, level="warn")
    logs.execution("info", "no")
    logs.portfolio("VALUED", {})
    logs.exchange("CONNECTED", {})
    logs.exchange("LOST", {}, level="warn")
    logs.orders("SUBMITTED", {})
    logs.close()
    assert lines(tmp_path / "execution.log") == lines(tmp_path / "portfolio.log") == []
    assert lines(tmp_path / "exchange.log") == [f"{START} WARN LOST"]
    assert len(lines(tmp_path / "orders.log")) == 1


def test_the_time_of_a_line_is_the_injected_clocks_in_utc_with_milliseconds(tmp_path: Path) -> None:
    clock = ManualClock(1_704_067_199_999_999_999)
    logs = LogFiles({name: tmp_path / name for name in NAMES}, clock)
    for step_ns in (1, 1_999_999, 0, 86_400_000_000_000):
        logs.orders("X", {})
        clock.advance(step_ns)
    logs.close()
    assert [line.split()[0] for line in lines(tmp_path / "orders")] == [
        "2023-12-31T23:59:59.999Z",
        "2024-01-01T00:00:00.000Z",
        "2024-01-01T00:00:00.001Z",
        "2024-01-01T00:00:00.001Z",
    ]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.decimals() | st.binary(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@pytest.mark.parametrize("json_lines", [False, True])
@given(word=st.text(), fields=st.dictionaries(st.text(), VALUES, max_size=4))
def test_any_values_are_one_line_of_printable_ascii(
    tmp_path_factory: pytest.TempPathFactory, json_lines: bool, word: str, fields: dict[str, object]
) -> None:
    folder = tmp_path_factory.mktemp("l")
    logs = opened(folder, json_lines=json_lines)
    logs.orders(word, fields)
    logs.close()
    written = (folder / "orders.log").read_bytes()
    assert re.fullmatch(rb"[ -~]+\n", written)
    if json_lines:
        assert json.loads(written)["time"] == START


@pytest.mark.parametrize(
    "value", ["\ud800", "a\nb", "\x1b[2J", "\x9b", "\x7f", 10**400, float("nan"), {1, 2}, {(1, 2): 3}, object]
)
def test_awkward_values_are_escaped_or_shown_as_text(value: object, tmp_path: Path) -> None:
    logs = opened(tmp_path)
    logs.orders("ODD", {"value": value})
    logs.close()
    assert re.fullmatch(rb"[ -~]+\n", (tmp_path / "orders.log").read_bytes())


def test_a_secret_shows_its_mask(tmp_path: Path) -> None:
    logs = opened(tmp_path)
    logs.execution("info", "settings", key=Secret("hunter2"))
    logs.close()
    assert lines(tmp_path / "execution.log") == [f'{START} INFO settings {{"key":"********"}}']


def test_nothing_is_written_before_a_flush_or_the_bound(tmp_path: Path) -> None:
    logs = opened(tmp_path)
    logs.orders("SUBMITTED", {})
    assert not (tmp_path / "orders.log").exists()
    logs.flush()
    assert len(lines(tmp_path / "orders.log")) == 1
    logs.orders("BIG", {"text": "x" * BUFFERED_BYTES_MAX})
    assert len(lines(tmp_path / "orders.log")) == 2


def test_a_file_over_its_bound_is_rotated_and_the_oldest_leave(tmp_path: Path) -> None:
    logs = opened(tmp_path, bytes_max=100, files_kept=2)
    for number in range(8):
        logs.orders("N", {"number": number, "pad": "x" * 30})
        logs.flush()
    logs.close()
    numbers = [
        [json.loads(line.split(" ", 3)[3])["number"] for line in lines(tmp_path / name)]
        for name in ("orders.log.2", "orders.log.1", "orders.log")
    ]
    assert numbers == [[5], [6], [7]]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["orders.log", "orders.log.1", "orders.log.2"]


def test_a_file_that_was_moved_away_is_made_anew(tmp_path: Path) -> None:
    logs = opened(tmp_path)
    logs.orders("ONE", {})
    logs.flush()
    (tmp_path / "orders.log").rename(tmp_path / "moved")
    logs.orders("TWO", {})
    logs.flush()
    (tmp_path / "orders.log").unlink()
    logs.orders("THREE", {})
    logs.close()
    assert lines(tmp_path / "moved") == [f"{START} INFO ONE"]
    assert lines(tmp_path / "orders.log") == [f"{START} INFO THREE"]


def test_lines_after_a_close_and_of_a_second_start_are_appended(tmp_path: Path) -> None:
    for word in ("ONE", "TWO"):
        logs = opened(tmp_path)
        logs.orders(word, {})
        logs.close()
        logs.orders("AFTER", {})
        logs.close()
    assert [line.split()[-1] for line in lines(tmp_path / "orders.log")] == ["ONE", "AFTER", "TWO", "AFTER"]


def test_two_names_of_one_file_share_it(tmp_path: Path) -> None:
    logs = LogFiles(dict.fromkeys(NAMES, tmp_path / "all.log"), ManualClock())
    logs.orders("ONE", {})
    logs.error("TWO", {})
    logs.close()
    assert [line.split()[-1] for line in lines(tmp_path / "all.log")] == ["ONE", "TWO"]


def test_a_folder_that_cannot_be_made_is_told_once_and_its_lines_are_counted(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file where the folder should be")
    complaints: list[str] = []
    logs = opened(tmp_path / "logs", complaints)
    for _ in range(3):
        logs.orders("LOST", {})
        logs.flush()
    assert len(complaints) == 1
    assert "orders.log cannot be written (" in complaints[0]
    assert logs.dropped == 3
    (tmp_path / "logs").unlink()
    logs.orders("KEPT", {})
    logs.close()
    assert lines(tmp_path / "logs/orders.log") == [f"{START} INFO KEPT"]
    assert complaints[1].endswith("is written again; 3 lines were dropped")


def test_a_full_disk_leaves_no_torn_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    complaints: list[str] = []
    logs = opened(tmp_path, complaints)
    logs.orders("BEFORE", {})
    logs.flush()
    room = len(f"{START} INFO FITS\n") + 7
    write = __import__("os").write

    def write_until_full(fd: int, data: bytes) -> int:
        nonlocal room
        if room == 0:
            raise OSError(28, "No space left on device")
        taken = write(fd, data[:room])
        room -= taken
        return int(taken)

    monkeypatch.setattr("os.write", write_until_full)
    for word in ("FITS", "TORN", "LOST"):
        logs.orders(word, {})
    logs.flush()
    monkeypatch.undo()
    logs.orders("AFTER", {})
    logs.close()
    assert lines(tmp_path / "orders.log") == [f"{START} INFO {word}" for word in ("BEFORE", "FITS", "AFTER")]
    assert logs.dropped == 2
    assert [re.sub(".*orders.log ", "", line) for line in complaints] == [
        "cannot be written (No space left on device); its lines are dropped until it can",
        "is written again; 2 lines were dropped",
    ]


def test_a_device_is_written_to_and_neither_rotated_nor_cut(tmp_path: Path) -> None:
    complaints: list[str] = []
    paths = {name: tmp_path / name for name in NAMES} | {"orders": Path("/dev/null")}
    logs = LogFiles(paths, ManualClock(), complain=complaints.append, bytes_max=10)
    for _ in range(3):
        logs.orders("GONE", {})
        logs.flush()
    logs.close()
    assert complaints == []
    assert Path("/dev/null").is_char_device()


def test_a_full_device_is_told(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    complaints: list[str] = []
    paths = {name: tmp_path / name for name in NAMES} | {"orders": Path("/dev/full")}
    logs = LogFiles(paths, ManualClock(), complain=complaints.append)
    logs.orders("LOST", {})
    logs.flush()
    assert len(complaints) == 1
    assert logs.dropped == 1
