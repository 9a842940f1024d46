"""`tbx record`: what is written while the local exchange's market runs is read again by `tbx replay`, without a gap."""

from __future__ import annotations

import argparse
import asyncio
import gzip
import io
import os
import re
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import uvloop

from tbx.core.kernel.clock import SystemClock
from tbx.core.model.errors import SettingsError, TbxError, Unreachable
from tbx.venues.binance.endpoints import Endpoints
from tbx.venues.binance.record import Recorder, add_arguments, record, run
from tbx.venues.simulator.binance.server import LocalExchange
from tbx.venues.simulator.replay import frames, replay

PAIRS = ["BTC_USDT", "ETH_USDT", "RVN_USDT"]
WAIT_S = 20.0


def with_exchange(scenario: Callable[[LocalExchange, Endpoints], Awaitable[None]]) -> None:
    """Runs the scenario beside a local exchange whose market moves."""

    async def body() -> None:
        loop = asyncio.get_running_loop()
        exchange = LocalExchange(loop, SystemClock(loop, time.time_ns), market="simulated")
        await exchange.start("127.0.0.1", 0)
        try:
            urls = Endpoints(rest=exchange.url_rest, ws_api=exchange.url_ws_api, stream=exchange.url_stream)
            await scenario(exchange, urls)
        finally:
            await exchange.stop()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(body())


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("name", ["capture.gz", "capture.txt"])
def test_a_recording_of_several_pairs_replays_without_a_gap(tmp_path: Path, name: str) -> None:
    lines: list[str] = []

    async def scenario(exchange: LocalExchange, urls: Endpoints) -> None:
        assert await record(PAIRS, tmp_path / name, urls, 1.5, lines.append) == 0

    with_exchange(scenario)
    report = replay(tmp_path / name)
    assert report.good and report.symbols == ["BTCUSDT", "ETHUSDT", "RVNUSDT"]
    assert report.snapshots == 3 and report.depth_events > 10 and report.trades > 0 and report.checked > 0
    assert lines[0].startswith("recording BTC_USDT, ETH_USDT, RVN_USDT to ")
    found = re.search(r"([\d,]+) depth events, ([\d,]+) trades.* 0 gaps; 0 connections lost", lines[-1])
    assert found is not None and len(lines) == 2
    assert int(found[2].replace(",", "")) == report.trades


def test_a_recording_goes_on_after_its_connection_was_cut(tmp_path: Path) -> None:
    lines: list[str] = []
    out = tmp_path / "capture.txt"

    async def scenario(exchange: LocalExchange, urls: Endpoints) -> None:
        recording = asyncio.create_task(record(["BTC_USDT"], out, urls, 4.0, lines.append))
        await until(lambda: out.exists() and b"@depthSnapshot" in out.read_bytes())
        for connection in list(exchange.connections):
            connection.abort()
        assert await recording == 0

    with_exchange(scenario)
    assert "1 connections lost" in lines[-1]
    report = replay(out)
    assert report.snapshots == 2 and report.gaps <= 1 and not (report.mismatches or report.crossed or report.refused)


def test_interrupting_the_command_loses_nothing(tmp_path: Path) -> None:
    out = tmp_path / "capture.gz"

    async def scenario(exchange: LocalExchange, urls: Endpoints) -> None:
        given = {"BINANCE_REST_URL": urls.rest, "BINANCE_STREAM_URL": urls.stream}
        environment = os.environ | given | {"BINANCE_WS_API_URL": exchange.url_ws_api}
        program = (
            "import argparse, sys\n"
            "from tbx.venues.binance.record import add_arguments, run\n"
            "parser = argparse.ArgumentParser()\n"
            "add_arguments(parser)\n"
            "sys.exit(run(parser.parse_args(sys.argv[1:])))\n"
        )
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-c", program, "BTC_USDT", "ETH_USDT", "--out", str(out)),
            env=environment | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            cwd=tmp_path,
            stderr=asyncio.subprocess.PIPE,
        )
        await until(lambda: out.exists() and _lines(out) > 20)
        process.send_signal(signal.SIGINT)
        _, errors = await asyncio.wait_for(process.communicate(), WAIT_S)
        assert process.returncode == 0, errors.decode()
        said = re.search(rb"([\d,]+) depth events, ([\d,]+) trades, ([\d,]+) best prices, ([\d,]+) snap", errors)
        assert said is not None, errors.decode()
        assert sum(int(number.replace(b",", b"")) for number in said.groups()) == _lines(out)

    with_exchange(scenario)
    assert replay(out).good


def _lines(path: Path) -> int:
    """Whole lines that can be read so far."""
    count = 0
    try:
        with gzip.open(path) as file:
            for line in file:
                count += line.endswith(b"\n")
    except EOFError:
        return count  # it is still being written
    return count


# --- what cannot begin


def begin(pairs: list[str], out: Path, urls: Endpoints | None = None) -> None:
    async def scenario(exchange: LocalExchange, own: Endpoints) -> None:
        await record(pairs, out, urls or own, 0.1, lambda _: None)

    with_exchange(scenario)


def test_a_pair_that_is_not_listed_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="^NOSUCH_USDT: Binance lists no such pair$"):
        begin(["BTC_USDT", "NOSUCH_USDT"], tmp_path / "x.gz")
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "x.gz").write_bytes(b"precious")
    with pytest.raises(SettingsError, match="exists; give another --out"):
        begin(["BTC_USDT"], tmp_path / "x.gz")
    assert (tmp_path / "x.gz").read_bytes() == b"precious"


def test_a_file_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be written: No such file or directory"):
        begin(["BTC_USDT"], tmp_path / "nowhere" / "x.gz")


def test_an_exchange_that_does_not_answer_is_told(tmp_path: Path) -> None:
    nowhere = Endpoints(rest="http://127.0.0.1:1", ws_api="", stream="ws://127.0.0.1:1")
    with pytest.raises(Unreachable, match="the instruments of Binance cannot be read"):
        begin(["BTC_USDT"], tmp_path / "x.gz", nowhere)


@pytest.mark.parametrize("pair", ["BTCUSDT", "btc_usdt", "BTC_", "../BTC_USDT", ""])
def test_what_is_no_pair_is_refused(pair: str) -> None:
    with pytest.raises(TbxError, match="expected a pair such as BTC_USDT"):
        run(parse(["BTC_USDT", pair]))


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "soon"])
def test_a_time_that_is_none_is_refused(seconds: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["BTC_USDT", "--seconds", seconds])
    assert "expected a number of seconds above 0" in capsys.readouterr().err


def parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(words)


# --- the recorder


class Tape:
    """A recorder of BTC_USDT and what it wrote and asked for."""

    def __init__(self) -> None:
        self.file = io.BytesIO()
        self.asked: list[str] = []
        self.troubles: list[str] = []
        self.recorder = Recorder(self.file, {"BTC_USDT": "BTCUSDT"}, self.asked.append, self.troubles.append)
        self.now_ns = 1_000

    def frame(self, raw: bytes) -> None:
        self.now_ns += 1
        self.recorder.frame("binance", "BTC_USDT", raw, self.now_ns)

    def diff(self, first: int, last: int) -> None:
        self.frame(
            b'{"stream":"btcusdt@depth@100ms","data":{"e":"depthUpdate","E":1,"s":"BTCUSDT",'
            b'"U":%d,"u":%d,"b":[["1.00","1.00"]],"a":[["2.00","1.00"]]}}' % (first, last)
        )

    def snapshot(self, last: int) -> None:
        self.frame(b'{"lastUpdateId":%d,"bids":[["1.00","2.00"]],"asks":[["2.00","2.00"]]}' % last)

    @property
    def kinds(self) -> str:
        """d for a diff, s for a snapshot, in the order of the capture."""
        return "".join("s" if b"depthSnapshot" in line else "d" for line in self.file.getvalue().splitlines())


def test_a_snapshot_that_reaches_the_first_diff_is_written_after_it() -> None:
    tape = Tape()
    tape.diff(11, 13)
    tape.diff(14, 15)
    tape.snapshot(14)
    tape.diff(16, 16)
    assert tape.kinds == "ddsd" and tape.recorder.missing == [] and tape.recorder.counts["gaps"] == 0
    assert b'\n1003 {"stream":"btcusdt@depthSnapshot","data":{"lastUpdateId":14,' in tape.file.getvalue()


def test_a_snapshot_older_than_the_first_diff_is_asked_for_again() -> None:
    tape = Tape()
    tape.diff(11, 13)
    tape.snapshot(9)
    assert tape.kinds == "d" and tape.asked == ["BTC_USDT", "BTC_USDT"]
    tape.snapshot(10)  # the one before the first diff reaches it
    assert tape.kinds == "ds"


def test_a_snapshot_before_any_diff_waits_for_the_diff_that_continues_it() -> None:
    tape = Tape()
    tape.snapshot(10)
    assert tape.kinds == ""
    tape.diff(11, 12)
    assert tape.kinds == "sd" and tape.asked == []
    other = Tape()
    other.snapshot(10)
    other.diff(12, 13)
    assert other.kinds == "d" and other.asked == ["BTC_USDT"]


def test_a_snapshot_of_a_pair_on_which_nothing_happens_is_written_at_the_end() -> None:
    tape = Tape()
    tape.file.close = lambda: None  # type: ignore[method-assign]  # what is in it is read below
    tape.snapshot(10)
    tape.recorder.close()
    assert tape.kinds == "s" and tape.recorder.missing == []


def test_a_gap_asks_for_a_snapshot_that_reaches_beyond_it() -> None:
    tape = Tape()
    tape.snapshot(10)
    tape.diff(11, 12)
    tape.diff(14, 15)
    assert tape.recorder.counts["gaps"] == 1 and tape.recorder.missing == ["BTC_USDT"]
    tape.diff(17, 18)  # and another while it waits: the diffs before do not count any more
    tape.snapshot(15)
    assert tape.kinds == "sddd" and tape.asked == ["BTC_USDT"] * 3
    tape.snapshot(18)
    tape.diff(19, 19)
    assert tape.kinds == "sdddsd" and tape.recorder.missing == [] and tape.recorder.counts["gaps"] == 1


def test_repeated_diffs_of_two_connections_are_no_gap() -> None:
    tape = Tape()
    tape.snapshot(10)
    for _ in range(2):
        tape.diff(11, 12)
        tape.diff(13, 14)
    tape.diff(15, 15)
    assert tape.recorder.counts["gaps"] == 0 and tape.asked == []


def test_what_is_not_json_is_left_out_and_told() -> None:
    tape = Tape()
    tape.frame(b'{"stream":"btcusdt@depth@100ms","data":{"e":"depthUpdate"')
    tape.frame(b"\xff")
    assert tape.file.getvalue() == b"" and tape.recorder.counts["left out"] == 2 and len(tape.troubles) == 2


def test_every_frame_is_one_line() -> None:
    tape = Tape()
    tape.frame(b'{"stream":"btcusdt@trade",\n"data":\n{"e":"trade","t":1}}\n')
    assert tape.file.getvalue() == b'1001 {"stream":"btcusdt@trade", "data": {"e":"trade","t":1}} \n'


def test_a_full_disk_ends_the_recording_and_says_so(tmp_path: Path) -> None:
    class Full(io.BytesIO):
        def write(self, line: object, /) -> int:
            raise OSError(28, "No space left on device")

    recorder = Recorder(Full(), {"BTC_USDT": "BTCUSDT"}, lambda _: None, lambda _: None)
    recorder.frame("binance", "BTC_USDT", b'{"stream":"btcusdt@trade","data":{"e":"trade","t":1}}', 1)
    recorder.flush()
    recorder.close()
    assert recorder.failure == "cannot be written: No space left on device"


def test_the_file_is_what_replay_calls_a_capture(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    with path.open("wb") as file:
        recorder = Recorder(file, {"BTC_USDT": "BTCUSDT"}, lambda _: None, lambda _: None)
        recorder.frame("binance", "BTC_USDT", b'{"stream":"btcusdt@trade","data":{"e":"trade","t":1}}', 7)
        recorder.close()
    assert list(frames(path)) == [(7, b'{"stream":"btcusdt@trade","data":{"e":"trade","t":1}}')]
