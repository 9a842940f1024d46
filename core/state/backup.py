"""A backup: one zip with the state of a moment, its archive, and a manifest that says what must be in it.

    manifest.json      node, schema, number and seq of the last commit, time, versions, counts, SHA-256 of each part
    {table}.jsonl      [field, value] a line; value as in `quarantine.py`
    {stream}.jsonl     [id, [field, value, field, value, ..]] a line, oldest first
    archive.sqlite3    what had left Redis before that moment

Always true here: a file under its final name is whole and on disk; nothing of a file is used before all of it was
checked.
"""

import base64
import hashlib
import json
import os
import sqlite3
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import IO, Any

import msgspec

from ..model.errors import SettingsError, StoreCorrupt, StoreError
from .archive import VARIABLES_MAX
from .journal import Entry
from .quarantine import STREAMS, Raw, as_text
from .snapshot import HASHES, Snapshot
from .store import SCHEMA

# 2: with table `strategies`, which a version that reads format 1 would leave out.
FORMAT = 2
NOT_IN = {1: {"strategies"}}  # tables that came after a format
MANIFEST = "manifest.json"
ARCHIVE = "archive.sqlite3"
COPY_BYTES = 1 << 20
PAGES_A_STEP = 2_000  # of the archive, copied at a time


class Manifest(msgspec.Struct, frozen=True, rename="camel"):
    """What a backup is of."""

    format: int
    node: str
    schema: int
    seq: int
    number: int
    journal_id: str
    time: int  # ms
    version: str  # of tbx
    counts: dict[str, int]  # lines of each part; bytes of the archive
    sha256: dict[str, str]  # of each part, unpacked


def write(path: Path, snapshot: Snapshot, archive: Path | None, *, version: str, now_ms: int) -> Manifest:
    """Write the file: under another name, forced to disk, then renamed. `archive`: a copy that nobody changes."""
    part = path.with_name(path.name + ".part")
    counts: dict[str, int] = {}
    sums: dict[str, str] = {}
    try:
        with part.open("wb") as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as packed:
                for name, lines in _parts(snapshot):
                    counts[name], sums[name] = _write_lines(packed, name, lines)
                if archive is not None:
                    counts[ARCHIVE], sums[ARCHIVE] = _write_file(packed, archive)
                manifest = Manifest(
                    FORMAT,
                    snapshot.node,
                    snapshot.number_of("schema"),
                    snapshot.seq,
                    snapshot.number_of("number"),
                    snapshot.meta.get("journal_id", b"").decode(),
                    now_ms,
                    version,
                    counts,
                    sums,
                )
                packed.writestr(MANIFEST, msgspec.json.format(msgspec.json.encode(manifest)))
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise SettingsError(f"{path} cannot be written ({error.strerror or error}): name another file") from error
    finally:
        part.unlink(missing_ok=True)  # there only where it was not renamed
    return manifest


def _parts(snapshot: Snapshot) -> Iterator[tuple[str, Iterable[object]]]:
    for table in HASHES:
        yield f"{table}.jsonl", ([as_text(_field(f)), as_text(value)] for f, value in snapshot.tables[table].items())
    for stream, entries in (("journal", snapshot.journal), ("equity", snapshot.equity)):
        yield f"{stream}.jsonl", ([entry_id.decode(), [as_text(v) for v in flat]] for entry_id, flat in entries)


def _field(text: str) -> bytes:
    return text.encode(errors="surrogateescape")


def _write_lines(packed: zipfile.ZipFile, name: str, lines: Iterable[object]) -> tuple[int, str]:
    count, digest = 0, hashlib.sha256()
    with packed.open(name, "w", force_zip64=True) as part:
        for line in lines:
            raw = msgspec.json.encode(line) + b"\n"
            digest.update(raw)
            part.write(raw)
            count += 1
    return count, digest.hexdigest()


def _write_file(packed: zipfile.ZipFile, path: Path) -> tuple[int, str]:
    digest = hashlib.sha256()
    with packed.open(ARCHIVE, "w", force_zip64=True) as part, path.open("rb") as file:
        while raw := file.read(COPY_BYTES):
            digest.update(raw)
            part.write(raw)
    return path.stat().st_size, digest.hexdigest()


# --- the archive


def copy_archive(source: Path, target: Path, snapshot: Snapshot) -> bool:
    """Copy the archive file, which may be written to meanwhile, and take out of the copy what came after the moment of
    the snapshot, or is in its tables: those are the truth. False where there is no archive."""
    if not source.is_file():
        return False
    try:
        with (
            closing(sqlite3.connect(f"file:{source}?mode=ro", uri=True)) as here,
            closing(sqlite3.connect(target)) as copy,
        ):
            here.backup(copy, pages=PAGES_A_STEP)
            copy.execute("PRAGMA journal_mode = DELETE")
            _take_out(copy, snapshot)
    except sqlite3.Error as error:
        raise StoreError(f"the archive {source} cannot be copied: {error}") from error
    return True


def _take_out(copy: sqlite3.Connection, snapshot: Snapshot) -> None:
    counters = _counters(snapshot.meta.get("ids", b"{}"))
    with copy:
        copy.execute(
            "DELETE FROM orders WHERE CAST(substr(order_id, 5, 8) AS INTEGER) * 1000000000 "
            "+ CAST(substr(order_id, 14) AS INTEGER) > ?",
            (counters.day * 1_000_000_000 + counters.order,),
        )
        copy.execute("DELETE FROM trades WHERE CAST(substr(trade_id, 6) AS INTEGER) > ?", (counters.fill,))
        for kind, key in (("orders", "order_id"), ("trades", "trade_id")):
            ids = list(snapshot.tables[kind])
            for start in range(0, len(ids), VARIABLES_MAX):
                some = ids[start : start + VARIABLES_MAX]
                copy.execute(f"DELETE FROM {kind} WHERE {key} IN ({','.join('?' * len(some))})", some)


class _Given(msgspec.Struct):
    day: int = 0
    order: int = 0
    fill: int = 0


def _counters(raw: bytes) -> _Given:
    try:
        return msgspec.json.decode(raw, type=_Given)
    except msgspec.DecodeError:
        return _Given(99_999_999, 999_999_999, 10**15)  # not known: nothing is taken out


# --- reading


def read(path: Path, unpacked: Path) -> tuple[Manifest, Snapshot]:
    """Check the whole file, and take it apart; its archive goes to `unpacked`. Raises StoreCorrupt, StoreError."""
    try:
        with zipfile.ZipFile(path) as packed:
            manifest = _manifest(path, packed)
            for name, wanted in manifest.sha256.items():
                _check(path, packed, name, wanted, unpacked)
            return manifest, _snapshot(path, packed, manifest)
    except (zipfile.BadZipFile, EOFError, zlib.error, NotImplementedError, RuntimeError) as error:
        # The last two: damage made a part seem packed by another method, or encrypted.
        raise StoreCorrupt(str(path), f"is no whole backup ({error}): it was cut short or damaged") from error
    except KeyError as error:
        raise StoreCorrupt(str(path), f"is no whole backup: {error}") from error
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror or error}") from error


def _manifest(path: Path, packed: zipfile.ZipFile) -> Manifest:
    try:
        manifest = msgspec.json.decode(packed.read(MANIFEST), type=Manifest)
    except msgspec.DecodeError as error:
        raise StoreCorrupt(str(path), f"its manifest cannot be read: {error}") from error
    if manifest.format > FORMAT or manifest.schema > SCHEMA:
        raise StoreError(
            f"{path} was written by tbx {manifest.version} (format {manifest.format}, schema {manifest.schema}); this "
            f"version reads up to format {FORMAT}, schema {SCHEMA}: run the newer one"
        )
    wanted = {*HASHES, *STREAMS} - NOT_IN.get(manifest.format, set())
    missing = {f"{name}.jsonl" for name in wanted} - manifest.sha256.keys()
    if missing:
        raise StoreCorrupt(str(path), f"its manifest does not name {', '.join(sorted(missing))}")
    return manifest


def _check(path: Path, packed: zipfile.ZipFile, name: str, wanted: str, unpacked: Path) -> None:
    digest = hashlib.sha256()
    kept: IO[bytes] | None = unpacked.open("wb") if name == ARCHIVE else None
    with packed.open(name) as part:
        while raw := part.read(COPY_BYTES):
            digest.update(raw)
            if kept is not None:
                kept.write(raw)
    if kept is not None:
        kept.flush()
        os.fsync(kept.fileno())
        kept.close()
    if digest.hexdigest() != wanted:
        raise StoreCorrupt(str(path), f"{name} is not as it was written: its checksum differs")


def _snapshot(path: Path, packed: zipfile.ZipFile, manifest: Manifest) -> Snapshot:
    tables: dict[str, dict[str, bytes]] = {}
    streams: dict[str, list[Entry]] = {}
    for table in HASHES:
        if table in NOT_IN.get(manifest.format, set()):
            tables[table] = {}
            continue
        rows = _lines(path, packed, f"{table}.jsonl", manifest)
        tables[table] = {_bytes(field).decode(errors="surrogateescape"): _bytes(value) for field, value in rows}
    for stream in STREAMS:
        rows = _lines(path, packed, f"{stream}.jsonl", manifest)
        streams[stream] = [(_bytes(entry_id), [_bytes(value) for value in flat]) for entry_id, flat in rows]
    return Snapshot(manifest.node, tables, streams["journal"], streams["equity"])


def _lines(path: Path, packed: zipfile.ZipFile, name: str, manifest: Manifest) -> Iterator[list[Any]]:
    count = 0
    with packed.open(name) as part:
        for line in part:
            count += 1
            yield json.loads(line)
    if count != manifest.counts.get(name):
        raise StoreCorrupt(str(path), f"{name} has {count} lines, its manifest says {manifest.counts.get(name)}")


def _bytes(raw: Raw) -> bytes:
    return raw.encode() if isinstance(raw, str) else base64.b64decode(raw["base64"])


def sync_folder(folder: Path) -> None:
    """Force a rename in it to disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
