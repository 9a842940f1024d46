"""The log files: execution, execution-error, trades, orders, portfolio and exchange, in LOG_DIR.

    2026-01-05T10:00:00.123Z INFO FILLED {"orderId":"ORD_20260105_000001","pair":"RVN_USDT","quantity":1000}
    {"time":"2026-01-05T10:00:00.123Z","level":"info","word":"FILLED","orderId":"ORD_20260105_000001",...}

Always true here: a line is one line of printable ASCII, whatever a value holds; writing a line never raises, and does
no I/O until `flush`, or until BUFFERED_BYTES_MAX have come together. Trades and orders are records, written at every
LOG_LEVEL; the others honour it. A file that cannot be written is told once on standard error, its lines are counted in
`dropped`, and each flush tries it again. One thread uses it.
"""

import json
import os
import re
import stat
import sys
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, Protocol

import msgspec

from ..core.settings import Settings

FILE_BYTES_MAX = 100_000_000  # then it becomes NAME.1, NAME.1 becomes NAME.2, ...
FILES_KEPT = 30  # the oldest beyond these is removed
BUFFERED_BYTES_MAX = 1 << 20  # flushed at once when so much has come together
LEVELS = ("debug", "info", "warn", "error")

Fields = Mapping[str, object] | msgspec.Struct | bytes  # bytes: a JSON object that is encoded already

# Decimals are JSON strings, exact for every reader, NaN included; what msgspec has no form for is shown by str(): a
# Secret as its mask, a Path as its text.
_encode = msgspec.json.Encoder(enc_hook=str).encode
_NOT_PLAIN = re.compile(r"[^\x20-\x7e]")


class Clock(Protocol):
    def now_ns(self) -> int: ...


class LogFile:
    """One file: lines that wait, and how they get onto the disk."""

    def __init__(self, path: Path, complain: Callable[[str], None], *, bytes_max: int, files_kept: int) -> None:
        self.path = path
        self.lines: list[bytes] = []
        self.dropped = 0
        self._complain = complain
        self._bytes_max = bytes_max
        self._files_kept = files_kept
        self._fd = -1
        self._inode = (0, 0)
        self._size = 0
        self._regular = True
        self._dropped_told = -1  # `dropped` when the trouble began; -1: no trouble

    def flush(self) -> None:
        """Write what waits. What cannot be written is dropped and counted."""
        if not self.lines:
            return
        lines, self.lines = self.lines, []
        chunk = b"".join(lines)
        written = 0
        try:
            self._ready(len(chunk))
            while written < len(chunk):
                written += os.write(self._fd, chunk[written:])
            self._size += written
        except OSError as error:
            kept = self._cut_torn_line(chunk, written)
            self._close()
            if self._dropped_told < 0:
                self._dropped_told = self.dropped
                self._complain(f"{self.path} cannot be written ({error.strerror}); its lines are dropped until it can")
            self.dropped += chunk.count(b"\n", kept)
            return
        if self._dropped_told >= 0:
            self._complain(f"{self.path} is written again; {self.dropped - self._dropped_told} lines were dropped")
            self._dropped_told = -1

    def close(self) -> None:
        self.flush()
        self._close()

    def _ready(self, more: int) -> None:
        """Open, or open anew after somebody else moved or removed the file, or rotate."""
        if self._fd >= 0 and self._regular:
            try:
                found = os.stat(self.path)
                here = (found.st_dev, found.st_ino)
            except FileNotFoundError:
                here = (0, 0)
            if here != self._inode:
                self._close()
        if self._fd < 0:
            self._open()
        if self._regular and self._size and self._size + more > self._bytes_max:
            self._rotate()
            self._open()

    def _open(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        found = os.fstat(self._fd)
        self._inode = (found.st_dev, found.st_ino)
        self._size = found.st_size
        self._regular = stat.S_ISREG(found.st_mode)  # /dev/stdout is neither rotated nor cut

    def _close(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def _rotate(self) -> None:
        self._close()
        for number in range(self._files_kept - 1, 0, -1):
            older = Path(f"{self.path}.{number}")
            if older.exists():
                older.replace(f"{self.path}.{number + 1}")
        self.path.replace(f"{self.path}.1")

    def _cut_torn_line(self, chunk: bytes, written: int) -> int:
        """A full disk takes half a line: cut the file after the last whole one. Returns the bytes that stay."""
        kept = chunk.rfind(b"\n", 0, written) + 1
        if self._fd >= 0 and self._regular:
            self._size += kept
            if kept < written:
                try:
                    os.ftruncate(self._fd, self._size)
                except OSError as error:
                    self._complain(f"{self.path} ends in the middle of a line: {error.strerror}")
        return kept


class Route(NamedTuple):
    """A line is before, time, after, and the body without its first `skip` bytes."""

    file: LogFile
    before: bytes
    after: bytes
    skip: int


class LogFiles:
    """All log files of a process. `LogFiles.open(settings, clock)`; `flush()` every 100 ms is its owner's."""

    def __init__(
        self,
        paths: Mapping[str, Path],
        clock: Clock,
        *,
        level: str = "info",
        json_lines: bool = False,
        complain: Callable[[str], None] | None = None,
        bytes_max: int = FILE_BYTES_MAX,
        files_kept: int = FILES_KEPT,
    ) -> None:
        by_path: dict[Path, LogFile] = {}
        for path in paths.values():
            if path not in by_path:
                by_path[path] = LogFile(path, complain or _to_stderr, bytes_max=bytes_max, files_kept=files_kept)
        self.files = list(by_path.values())
        self._orders = by_path[paths["orders"]]
        self._trades = by_path[paths["trades"]]
        self._execution = by_path[paths["execution"]]
        self._errors = by_path[paths["execution-error"]]
        self._portfolio = by_path[paths["portfolio"]]
        self._exchange = by_path[paths["exchange"]]
        self._now_ns = clock.now_ns
        self._rank = LEVELS.index(level)
        self._line = _json_line if json_lines else _text_line
        self._buffered_bytes = 0
        self._second = -1
        self._second_text = ""
        self._millisecond = -1
        self._time_text = ""

    @classmethod
    def open(cls, settings: Settings, clock: Clock) -> "LogFiles":
        """The files that the settings name. Nothing is opened before the first line is flushed."""
        names = ("execution", "execution-error", "trades", "orders", "portfolio", "exchange")
        paths = {name: settings.log_dir / f"{name}.log" for name in names}
        paths["execution"] = settings.execution_log_file
        paths["trades"] = settings.trade_log_file
        return cls(paths, clock, level=settings.log_level, json_lines=settings.log_format == "json")

    @property
    def dropped(self) -> int:
        """Lines that could not be written since the start."""
        return sum(file.dropped for file in self.files)

    def orders(self, word: str, fields: Fields) -> None:
        """The life of an order: SUBMITTED, FILLED, CANCELLED, ..."""
        self._put(self._orders, "info", word, fields)

    def trades(self, word: str, fields: Fields) -> None:
        """EXECUTED for each fill, FILLED for an order that is complete."""
        self._put(self._trades, "info", word, fields)

    def error(self, word: str, fields: Fields) -> None:
        """ORDER_FAILED and the like: in execution-error.log, and in execution.log among the rest."""
        self._put(self._errors, "error", word, fields)
        if self._execution is not self._errors:
            self._put(self._execution, "error", word, fields)

    def execution(self, level: str, text: str, **fields: object) -> None:
        """What the service does. Errors stand in execution-error.log too."""
        rank = LEVELS.index(level)
        if rank >= self._rank:
            self._put(self._execution, level, text, fields)
        if level == "error" and self._execution is not self._errors:
            self._put(self._errors, level, text, fields)

    def portfolio(self, word: str, fields: Fields, level: str = "info") -> None:
        if LEVELS.index(level) >= self._rank:
            self._put(self._portfolio, level, word, fields)

    def exchange(self, word: str, fields: Fields, level: str = "info") -> None:
        if LEVELS.index(level) >= self._rank:
            self._put(self._exchange, level, word, fields)

    def route(self, name: str, word: str, level: str = "info") -> "Route":
        """Where lines of committed events go and how they begin, worked out once; `append` writes them."""
        file: LogFile = getattr(self, f"_{name}")
        if self._line is _json_line:
            return Route(file, b'{"time":"', b'","level":"%b","word":%b,' % (level.encode(), _json(word)), 1)
        return Route(file, b"", _start(level, word) + b" ", 0)

    def append(self, lines: Iterable[tuple[Iterable["Route"], bytes]]) -> None:
        """One line on each route for each JSON object, which is encoded already and not empty; all of this moment."""
        time, buffered = self._time().encode(), 0
        for routes, body in lines:
            if not body.isascii() or b"\x7f" in body:
                body = _NOT_PLAIN.sub(_escaped, body.decode()).encode()
            for file, before, after, skip in routes:
                file.lines.append(b"%b%b%b%b\n" % (before, time, after, body[skip:] if skip else body))
                buffered += len(body)
        self._buffered_bytes += buffered
        if self._buffered_bytes > BUFFERED_BYTES_MAX:
            self.flush()

    def flush(self) -> None:
        self._buffered_bytes = 0
        for file in self.files:
            file.flush()

    def close(self) -> None:
        """Write what waits and close the files. A later line opens them again."""
        for file in self.files:
            file.close()

    def _put(self, file: LogFile, level: str, word: str, fields: Fields) -> None:
        line = self._line(self._time(), level, word, fields)
        file.lines.append(line)
        self._buffered_bytes += len(line)
        if self._buffered_bytes > BUFFERED_BYTES_MAX:
            self.flush()

    def _time(self) -> str:
        millisecond = self._now_ns() // 1_000_000
        if millisecond != self._millisecond:
            second, rest = divmod(millisecond, 1000)
            if second != self._second:
                self._second = second
                self._second_text = datetime.fromtimestamp(second, tz=UTC).strftime("%Y-%m-%dT%H:%M:%S")
            self._millisecond = millisecond
            self._time_text = f"{self._second_text}.{rest:03d}Z"
        return self._time_text


def _to_stderr(line: str) -> None:
    sys.stderr.write(f"tbx: {line}\n")


def _json_line(time: str, level: str, word: str, fields: Fields) -> bytes:
    body = _json(fields)
    start = b'{"time":"%b","level":"%b","word":%b' % (time.encode(), level.encode(), _json(word))
    return b"%b,%b\n" % (start, body[1:]) if len(body) > 2 else start + b"}\n"


def _text_line(time: str, level: str, word: str, fields: Fields) -> bytes:
    body = _json(fields)
    known = _starts.get((level, word))
    if known is None:
        known = _start(level, word)
    start = time.encode() + known
    return b"%b %b\n" % (start, body) if len(body) > 2 else start + b"\n"


STARTS_KEPT = 256  # words are few; a caller that makes them up does not fill the memory
_starts: dict[tuple[str, str], bytes] = {}


def _start(level: str, word: str) -> bytes:
    """What stands between time and fields, made once for each word."""
    text = f" {level.upper()} {word}"
    if not (text.isascii() and text.isprintable()):
        text = _NOT_PLAIN.sub(_escaped, text)
    start = text.encode()
    if len(_starts) < STARTS_KEPT:
        _starts[level, word] = start
    return start


def _json(value: object) -> bytes:
    """The value as ASCII JSON; one that JSON cannot hold is told as the text that Python shows for it."""
    try:
        body = value if value.__class__ is bytes else _encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError):
        body = json.dumps(_shown(value)).encode()
    if body.isascii() and body.find(b"\x7f") < 0:
        return body
    return _NOT_PLAIN.sub(_escaped, body.decode()).encode()


def _shown(value: object) -> object:
    if isinstance(value, msgspec.Struct):
        return {name: _text(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, Mapping):
        return {_text(name): _text(item) for name, item in value.items()}
    return _text(value)


def _text(value: object) -> str:
    return str(value).encode("utf-8", "backslashreplace").decode()


def _escaped(match: re.Match[str]) -> str:
    return json.dumps(match[0])[1:-1] if match[0] != "\x7f" else "\\u007f"
