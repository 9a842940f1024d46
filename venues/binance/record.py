"""`tbx record PAIR...`: Binance's public market data into a capture that `tbx replay` reads.

Always true here: a line of the capture is the local clock and a frame as it came; depth snapshots, which come over REST
and name no symbol, stand in a stream's envelope of their own. A snapshot is written only where the diffs around it
continue it, so that a replay finds no gap but those that the connection had. Every line is written whole, and a line
that was told as written is in the file, also when the recording is interrupted.

    1723161255555619568 {"stream":"btcusdt@depth@100ms","data":{"e":"depthUpdate","E":1723161255508,"s":"BTCUSDT",...}}
    1723161255731004112 {"stream":"btcusdt@depthSnapshot","data":{"lastUpdateId":35346513514,"bids":[...],"asks":[...]}}
"""

import argparse
import asyncio
import gzip
import random
import re
import signal
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final, Protocol

import msgspec
import uvloop

from ...core.kernel.clock import SECOND_NS, SystemClock
from ...core.model.errors import SettingsError
from ...core.model.instruments import Instrument
from ...core.settings import load_settings
from ..limits import binance_budgets
from ..picows_link import picows_connect
from ..rest import Rest
from .endpoints import Endpoints, of_settings
from .instruments import read_exchange_info
from .market import BinanceMarket, fetch_exchange_info

FLUSH_S: Final = 1.0  # what is older is in the file, whatever happens to the process
COMPRESSION: Final = 3  # beyond it gzip costs more than the whole rest
LEVELS_MAX: Final = 5_000
EXIT_INCOMPLETE: Final = 1  # a pair without a snapshot: its book cannot be replayed

PAIR = re.compile(r"[A-Z0-9]{1,20}_[A-Z0-9]{1,20}")
DIFF_IDS = re.compile(rb'"U":(\d{1,18}),"u":(\d{1,18})[,}]')
SNAPSHOT_ID = re.compile(rb'"lastUpdateId":(\d{1,18})[,}]')
KINDS = (("depth events", b'"e":"depthUpdate"'), ("trades", b'"e":"trade"'), ("best prices", b"@bookTicker"))

_whole: Callable[[bytes], msgspec.Raw] = msgspec.json.Decoder(msgspec.Raw).decode


class Capture(Protocol):
    """An open file."""

    def write(self, line: bytes, /) -> int: ...

    def flush(self) -> None: ...

    def close(self) -> None: ...


class Thread:
    """How far the diffs of one pair go, and whether a snapshot in the capture reaches them."""

    __slots__ = ("first_id", "held", "held_id", "last_id", "synced")

    def __init__(self) -> None:
        self.first_id: int | None = None  # of the diffs that no snapshot reaches yet
        self.last_id = 0
        self.synced = False
        self.held: tuple[int, bytes] | None = None  # a snapshot that came before any diff
        self.held_id = 0


class Recorder:
    """Writes what the market source hands on; stands where the books would."""

    def __init__(
        self,
        file: Capture,
        symbols: Mapping[str, str],
        resync: Callable[[str], None],
        on_trouble: Callable[[str], None],
    ) -> None:
        """`resync` asks for a snapshot of a pair. Raises nothing later on: a file that fails is told by `failure`."""
        self.counts = dict.fromkeys((*(name for name, _ in KINDS), "snapshots", "left out", "gaps"), 0)
        self.losses = 0
        self.failure = ""  # why nothing can be written any more
        self.first_ns = self.last_ns = 0
        self.closed = False  # what comes now comes too late
        self._file = file
        self._symbols = symbols
        self._resync = resync
        self._on_trouble = on_trouble
        self._threads = {pair: Thread() for pair in symbols}

    # --- what a market source feeds (`Books`)

    def frame(self, exchange: str, pair: str, raw: bytes, local_ns: int) -> None:  # noqa: ARG002
        if self.closed:
            return
        try:
            _whole(raw)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            self.counts["left out"] += 1
            self._on_trouble(f"{pair}: a frame is left out: {error}")
            return
        if raw.startswith(b'{"lastUpdateId":'):
            self._snapshot(pair, raw, local_ns)
            return
        kind = next((name for name, mark in KINDS if raw.find(mark, 0, 200) >= 0), "left out")
        if kind == "depth events":
            self._diff(pair, raw)
        self.counts[kind] += 1
        self._write(raw, local_ns)

    def lost(self, exchange: str, pairs: Iterable[str] | None = None) -> None:  # noqa: ARG002
        if not self.closed:
            self.losses += 1
            for pair in pairs or self._symbols:
                self._threads[pair] = Thread()

    def alive(self, exchange: str, local_ns: int, pairs: Iterable[str] | None = None) -> None:
        """Nothing here goes stale."""

    # --- snapshots

    def _diff(self, pair: str, raw: bytes) -> None:
        thread, ids = self._threads[pair], DIFF_IDS.search(raw)
        if ids is None:
            return
        first_id, last_id = int(ids[1]), int(ids[2])
        gap = first_id > thread.last_id + 1
        if thread.held is not None:
            local_ns, snapshot = thread.held
            thread.held = None
            if first_id <= thread.held_id + 1:
                thread.synced, thread.last_id = True, max(thread.held_id, last_id)
                self._write(snapshot, local_ns)
                return
        elif thread.synced and gap:
            self.counts["gaps"] += 1
            thread.synced = False
        elif thread.synced or (thread.first_id is not None and not gap):
            thread.last_id = max(thread.last_id, last_id)
            return
        thread.first_id, thread.last_id = first_id, last_id
        self._resync(pair)

    def _snapshot(self, pair: str, body: bytes, local_ns: int) -> None:
        thread, found = self._threads[pair], SNAPSHOT_ID.search(body)
        if thread.synced or found is None:
            return
        snapshot_id = int(found[1])
        framed = b'{"stream":"%s@depthSnapshot","data":%s}' % (self._symbols[pair].lower().encode(), body.strip())
        if thread.first_id is None:
            thread.held, thread.held_id = (local_ns, framed), snapshot_id
        elif snapshot_id >= thread.first_id - 1:
            thread.synced, thread.last_id = True, max(thread.last_id, snapshot_id)
            self._write(framed, local_ns)
        else:
            self._resync(pair)  # older than the first diff

    # --- the file

    def _write(self, frame: bytes, local_ns: int) -> None:
        if self.failure:
            return
        self.first_ns = self.first_ns or local_ns
        self.last_ns = max(self.last_ns, local_ns)
        self.counts["snapshots"] += b'@depthSnapshot"' in frame[:100]
        try:
            self._file.write(b"%d %s\n" % (local_ns, frame.replace(b"\n", b" ")))
        except OSError as error:
            self._fail(error)

    def flush(self) -> None:
        try:
            self._file.flush()
        except OSError as error:
            self._fail(error)

    def close(self) -> None:
        """Snapshots of pairs on which nothing happened since are good: they are written too."""
        for thread in self._threads.values():
            if thread.held is not None:
                thread.synced = True
                self._write(thread.held[1], thread.held[0])
        self.closed = True
        try:
            self._file.close()
        except OSError as error:
            self._fail(error)

    def _fail(self, error: OSError) -> None:
        self.failure = self.failure or f"cannot be written: {error.strerror or error}"

    @property
    def missing(self) -> list[str]:
        """Pairs whose diffs no snapshot reaches."""
        return [pair for pair, thread in self._threads.items() if not thread.synced]


# --- the command --------------------------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("pairs", nargs="+", metavar="PAIR", help="such as BTC_USDT")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="gzipped where it ends in .gz; named by itself if absent"
    )
    parser.add_argument("--seconds", type=_seconds, metavar="N", help="how long; until Ctrl-C if absent")


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 1e9:
        raise argparse.ArgumentTypeError("expected a number of seconds above 0")
    return seconds


def run(arguments: argparse.Namespace) -> int:
    """Records until the time is over or SIGINT or SIGTERM came. Raises TbxError for what cannot begin."""
    pairs = list(dict.fromkeys(arguments.pairs))
    wrong = [pair for pair in pairs if PAIR.fullmatch(pair) is None]
    if wrong:
        raise SettingsError([f"{pair}: expected a pair such as BTC_USDT" for pair in wrong])
    out = arguments.out or Path(f"{pairs[0]}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}.gz")
    endpoints = of_settings(load_settings(), public=True)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(record(pairs, out, endpoints, arguments.seconds, _say))


async def record(
    pairs: list[str], out: Path, endpoints: Endpoints, seconds: float | None, say: Callable[[str], None]
) -> int:
    """The exit code. Raises Unreachable, Refused, Nonsense (no instruments) and SettingsError (the pairs, the file)."""
    loop = asyncio.get_running_loop()
    clock = SystemClock(loop, time.time_ns)
    rest = Rest(clock, endpoints.rest, binance_budgets(), on_trouble=say)
    try:
        instruments = await _instruments(rest, pairs)
        recorder = Recorder(
            _create(out), {i.pair: i.symbol for i in instruments}, lambda pair: market.resync("binance", pair), say
        )
        market = BinanceMarket(
            clock,
            recorder,
            instruments,
            endpoints,
            connect=picows_connect(loop),
            get=rest.get,
            jitter=random.random,
            on_trouble=say,
            budgets=rest.budgets,
            levels_max=LEVELS_MAX,
        )
        say(f"recording {', '.join(pairs)} to {out}; Ctrl-C ends it")
        market.start()
        await _until_stopped(recorder, seconds)
        recorder.close()
        market.stop()
    finally:
        await rest.aclose()
    return _report(recorder, out, say)


async def _instruments(rest: Rest, pairs: list[str]) -> list[Instrument]:
    listing = read_exchange_info(await fetch_exchange_info(rest, [pair.replace("_", "") for pair in pairs]))
    found = {instrument.pair: instrument for instrument in listing.instruments}
    missing = [pair for pair in pairs if pair not in found]
    if missing:
        raise SettingsError([f"{pair}: Binance lists no such pair" for pair in missing])
    return [found[pair] for pair in pairs]


def _create(out: Path) -> Capture:
    try:
        if out.suffix == ".gz":
            return gzip.open(out, "xb", compresslevel=COMPRESSION)
        return out.open("xb")
    except FileExistsError as error:
        raise SettingsError(f"{out} exists; give another --out") from error
    except OSError as error:
        raise SettingsError(f"{out} cannot be written: {error.strerror or error}") from error


async def _until_stopped(recorder: Recorder, seconds: float | None) -> None:
    loop, stopped = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    end = loop.time() + seconds if seconds is not None else None
    try:
        while not stopped.is_set() and not recorder.failure:
            left = FLUSH_S if end is None else min(FLUSH_S, end - loop.time())
            if left <= 0:
                break
            try:
                await asyncio.wait_for(stopped.wait(), left)
            except TimeoutError:
                recorder.flush()
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


def _report(recorder: Recorder, out: Path, say: Callable[[str], None]) -> int:
    if not recorder.first_ns and not recorder.failure:
        out.unlink(missing_ok=True)
        say("nothing was received; nothing is recorded")
        return EXIT_INCOMPLETE
    counts = ", ".join(f"{count:,} {name}" for name, count in recorder.counts.items())
    seconds = (recorder.last_ns - recorder.first_ns) / SECOND_NS
    size = out.stat().st_size / 1e6
    say(f"{out}: {seconds:.1f} s, {size:.2f} MB: {counts}; {recorder.losses} connections lost")
    if recorder.failure:
        say(f"{out} {recorder.failure}; what came after that is missing")
    if recorder.missing:
        say(f"no snapshot reaches the diffs of {', '.join(recorder.missing)}: they cannot be replayed")
    return EXIT_INCOMPLETE if recorder.failure or recorder.missing else 0


def _say(line: str) -> None:
    sys.stderr.write(f"tbx: {line}\n")


__all__ = ["Recorder", "add_arguments", "record", "run"]
