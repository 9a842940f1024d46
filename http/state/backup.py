"""`tbx backup` and `tbx restore`: a node's state to a file, while the service runs or not, and back while it does not.

Always true here: a backup is of one moment. A restore checks all of the file first, and replaces the state in one step,
which is refused where a service has started meanwhile: until then the old state and its archive are whole, and while
the archive is being exchanged a start is refused. What comes back has a journal of its own, so that no feed goes on in
it by mistake, and counters that are ahead of every id that may have been given since the backup.
"""

import asyncio
import datetime
import os
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from ...core.kernel.clock import MS_NS
from ...core.kernel.outbox import encode_record
from ...core.model.errors import SettingsError, StoreCorrupt, StoreFenced
from ...core.model.ids import Counters
from ...core.model.records import ENDED, Order
from ...core.settings import Settings
from ...core.state import backup as file
from ...core.state.address import Address, parse_address
from ...core.state.lease import POLL_S, Finding, Seen, Watch, proven_dead
from ...core.state.quarantine import shown
from ...core.state.resp import Argument, Connection
from ...core.state.server import EmbeddedRedis, FolderBusy, socket_path
from ...core.state.snapshot import HASHES, Snapshot, take
from ...core.state.store import KINDS, RESTORING
from .loading import LIMIT

# Ids that may have been given since the backup was made: so many are passed over, of each kind.
IDS_PASSED = 1_000_000
ROWS_A_COMMAND = 500
APPEND_ONLY = ("appendonly.aof", "appendonlydir", "dump.rdb")

Say = Callable[[str], None]


# --- where the state is


@asynccontextmanager
async def redis_of(settings: Settings, *, alone: bool) -> AsyncIterator[tuple[Connection, Address, bool]]:
    """A connection to the Redis of the node, its address, and whether a service may be using it.

    An embedded Redis that does not run is started for as long; `alone`: raises FolderBusy where it runs.
    """
    loop = asyncio.get_running_loop()
    server: EmbeddedRedis | None = None
    if settings.redis_url is not None:
        address, running = parse_address(settings.redis_url.reveal()), True
    else:
        server = EmbeddedRedis(loop, settings.data_dir, appendfsync="always")
        try:
            await server.start()
            address, running = server.address, False
        except FolderBusy:
            if alone:
                raise
            server, running = None, True
            address = Address(path=str(socket_path(settings.data_dir.absolute())))
    connection = Connection(loop, address)
    try:
        await connection.open()
        yield connection, address, running
    finally:
        connection.close()
        if server is not None:
            await server.stop()


def check_there(settings: Settings) -> None:
    """Raises SettingsError where an embedded Redis has never had a state."""
    if settings.redis_url is None and not any((settings.data_dir / name).exists() for name in APPEND_ONLY):
        raise SettingsError(
            f"there is no state in DATA_DIR {settings.data_dir}: set DATA_DIR to where the service keeps it"
        )


async def state_of(connection: Connection, address: Address, settings: Settings) -> Snapshot:
    snapshot = await take(connection, address, settings.node_id)
    if snapshot is None:
        raise SettingsError(
            f"{address} holds no state of node {settings.node_id!r}: set NODE_ID to the one that it has"
        )
    return snapshot


def archive_of(settings: Settings) -> Path:
    return settings.data_dir / "archive.sqlite3"


# --- backup


async def backup(settings: Settings, path: Path, *, force: bool, version: str) -> file.Manifest:
    """Write the state of this moment to a new file. Raises SettingsError, StoreError."""
    if path.exists() and not force:
        raise SettingsError(f"{path} exists: name another file, or say --force to replace it")
    if not path.absolute().parent.is_dir():
        raise SettingsError(f"{path.absolute().parent} is no folder: make it, or name another file")
    check_there(settings)
    async with redis_of(settings, alone=False) as (connection, address, _):
        return await _written(settings, path, await state_of(connection, address, settings), version)


async def _written(settings: Settings, path: Path, snapshot: Snapshot, version: str) -> file.Manifest:
    """The archive is copied after the tables were read: what had left them by then is in it."""
    with tempfile.TemporaryDirectory(dir=path.absolute().parent, prefix=".tbx-backup-") as folder:
        copy = Path(folder) / file.ARCHIVE
        archived = file.copy_archive(archive_of(settings), copy, snapshot)
        now_ms = time.time_ns() // MS_NS
        return file.write(path, snapshot, copy if archived else None, version=version, now_ms=now_ms)


# --- restore


async def restore(
    settings: Settings, path: Path, *, replace: bool, node: str | None, version: str, say: Say
) -> file.Manifest:
    """Bring a backup back. Raises SettingsError, StoreError; then nothing of the state has changed."""
    if not path.is_file():
        raise SettingsError(f"{path} is no file: name a backup")
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=settings.data_dir, prefix=".tbx-restore-") as folder:
        unpacked = Path(folder) / file.ARCHIVE
        manifest, snapshot = file.read(path, unpacked)
        _check_node(path, manifest, snapshot, settings, node)
        stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
        await _set_damaged_aside(settings, replace, stamp, say)
        async with redis_of(settings, alone=True) as (connection, address, shared):
            await connection.call("WATCH", f"tbx:{settings.node_id}:lease")
            if shared:
                await _check_unused(connection, settings)
            there = await take(connection, address, settings.node_id)
            half = await connection.call("EXISTS", f"tbx:{settings.node_id}:{RESTORING}")
            if there is not None or half or archive_of(settings).exists():
                if not replace:
                    raise SettingsError(
                        f"{address} holds a state of node {settings.node_id!r}: say --replace to put the backup in its "
                        "place; the state is backed up before that"
                    )
                if there is not None and not half:
                    kept = settings.data_dir / f"replaced-{stamp}.zip"
                    await _written(settings, kept, there, version)
                    say(f"the state that was there is kept in {kept}")
                    _say_limits(there, snapshot, say)
            _move_on(snapshot)
            await replace_state(connection, settings, snapshot, unpacked, str(path))
    return manifest


def _check_node(path: Path, manifest: file.Manifest, snapshot: Snapshot, settings: Settings, node: str | None) -> None:
    if manifest.node != (node or settings.node_id):
        raise SettingsError(
            f"{path} is of node {manifest.node!r}, not {node or settings.node_id!r}: set NODE_ID={manifest.node}, or "
            f"say --node {manifest.node} to make it the state of node {settings.node_id!r}"
        )
    if manifest.node == settings.node_id:
        return
    for field, raw in snapshot.tables["orders"].items():
        try:
            order = msgspec.json.decode(raw, type=Order)
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue  # the start names it
        if order.state not in ENDED and not order.paper:
            raise SettingsError(
                f"{path} has the open live order {field}: its exchange knows it by the name of node {manifest.node!r}; "
                f"set NODE_ID={manifest.node}"
            )


async def _set_damaged_aside(settings: Settings, replace: bool, stamp: str, say: Say) -> None:
    """A Redis file that cannot be loaded must not be in the way of what replaces it; it is renamed, not deleted."""
    if settings.redis_url is not None:
        return
    server = EmbeddedRedis(asyncio.get_running_loop(), settings.data_dir)
    try:
        await server.start()
    except StoreCorrupt as error:
        if not replace:
            raise StoreCorrupt(
                error.key, f"{error.reason}; or say --replace: it is renamed, and not deleted"
            ) from error
        for name in APPEND_ONLY:
            there = settings.data_dir / name
            if there.exists():
                there.rename(there.with_name(f"{name}.damaged-{stamp}"))
                say(f"{there} cannot be read, and is now {name}.damaged-{stamp}")
    finally:
        await server.stop()


async def _check_unused(connection: Connection, settings: Settings) -> None:
    """Raises StoreFenced while a service works on the state; one that was killed is waited for."""
    keys = (f"tbx:{settings.node_id}:lease", f"tbx:{settings.node_id}:heartbeat")
    watch = Watch(proven_dead)
    while True:
        replies = await connection.pipeline(
            [("GET", keys[0]), ("GET", keys[1]), ("HMGET", f"tbx:{settings.node_id}:meta", "number", "holder")]
        )
        finding = watch.answered(Seen(replies[0] or b"", replies[1] or b"", replies[2][0] or b"", replies[2][1] or b""))
        if finding in (Finding.FREE, Finding.DEAD):
            return
        if watch.moved or finding is Finding.GONE:
            raise StoreFenced(f"a service of node {settings.node_id!r} is running on that Redis: stop it first")
        await asyncio.sleep(POLL_S)


def _say_limits(before: Snapshot, after: Snapshot, say: Say) -> None:
    """Whoever had halted trading must know that the backup does not."""
    gone = sorted(field for field in before.tables["risk"].keys() - after.tables["risk"].keys() if _limits(field))
    if gone:
        say(f"limits on trading that held are not in the backup, and hold no more: {', '.join(map(shown, gone))}")


def _limits(field: str) -> bool:
    return field.startswith(LIMIT) or field == "deadman"


def _move_on(snapshot: Snapshot) -> None:
    """A journal of its own, nobody's lease, and counters ahead of what was given since the backup, today included."""
    meta = snapshot.meta
    meta["journal_id"] = os.urandom(8).hex().encode()
    meta.pop("holder", None)
    try:
        ids = msgspec.json.decode(meta.get("ids", b"{}"), type=Counters)
    except msgspec.DecodeError:
        return  # the start names it; set aside, they are made from what is kept
    today = int(datetime.datetime.now(datetime.UTC).strftime("%Y%m%d"))
    if today > ids.day:
        ids.day, ids.order, ids.signal = today, 0, 0
    ids.order += IDS_PASSED
    ids.signal += IDS_PASSED
    ids.fill += IDS_PASSED
    ids.position += IDS_PASSED
    meta["ids"] = encode_record(ids)


async def replace_state(
    connection: Connection, settings: Settings, snapshot: Snapshot, archive: Path, source: str
) -> None:
    """The new state beside the old one, then all keys in one transaction, with the mark; then the archive.

    `connection` watches the lease. Raises StoreFenced where that has changed since; then nothing else has.
    """
    prefix = f"tbx:{settings.node_id}:"
    names = (*HASHES, "journal", "equity")
    await connection.call("UNLINK", *(f"{prefix}{RESTORING}:{name}" for name in names))
    for name in HASHES:
        await _stage_rows(connection, f"{prefix}{RESTORING}:{name}", snapshot.tables[name])
    for name, entries in (("journal", snapshot.journal), ("equity", snapshot.equity)):
        key = f"{prefix}{RESTORING}:{name}"
        for start in range(0, len(entries), ROWS_A_COMMAND):
            some = entries[start : start + ROWS_A_COMMAND]
            await connection.pipeline([("XADD", key, entry_id, *flat) for entry_id, flat in some])
    there = [name for name in names if await connection.call("EXISTS", f"{prefix}{RESTORING}:{name}")]
    # Who has connected already does not see the mark: the lease makes it wait.
    marks = {RESTORING: source, "lease": f"{RESTORING}:0", "heartbeat": RESTORING}
    *_, done = await connection.pipeline(
        [
            ("MULTI",),
            ("UNLINK", *(f"{prefix}{name}" for name in KINDS)),
            *(("RENAME", f"{prefix}{RESTORING}:{name}", f"{prefix}{name}") for name in there),
            *(("SET", f"{prefix}{name}", value) for name, value in marks.items()),
            ("EXEC",),
        ]
    )
    if done is None:
        await connection.call("UNLINK", *(f"{prefix}{RESTORING}:{name}" for name in names))
        raise StoreFenced(
            f"a service of node {settings.node_id!r} has started meanwhile: nothing was replaced; stop it"
        )
    _place_archive(archive, archive_of(settings))
    await connection.call("UNLINK", *(f"{prefix}{name}" for name in marks))


async def _stage_rows(connection: Connection, key: str, rows: dict[str, bytes]) -> None:
    flat: list[Argument] = [
        part for field, value in rows.items() for part in (field.encode(errors="surrogateescape"), value)
    ]
    step = 2 * ROWS_A_COMMAND
    for start in range(0, len(flat), step):
        await connection.call("HSET", key, *flat[start : start + step])


def _place_archive(new: Path, place: Path) -> None:
    """Exchange the archive's file; what SQLite keeps beside it belongs to the old one."""
    for suffix in ("-wal", "-shm"):
        place.with_name(place.name + suffix).unlink(missing_ok=True)
    if new.exists():
        new.replace(place)
    else:
        place.unlink(missing_ok=True)
    file.sync_folder(place.parent)
