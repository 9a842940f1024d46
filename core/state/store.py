"""The committed state in Redis: one atomic script a commit, loading, and the journal.

Always true here: a batch is applied whole or not at all, each number once, in order, and only by the process that took
the lease last. Redis runs a script that writes as one transaction, in memory and in its append-only file, and refuses
it before its first write (out of memory, disk error, replica) or not at all; `open` finds keys of a wrong type.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import msgspec

from ..model.errors import StoreBehind, StoreCorrupt, StoreError, StoreFenced, StoreUnavailable
from .address import Address, parse_address
from .batch import Batch
from .journal import VERSION as JOURNAL_VERSION
from .journal import Entry
from .lease import BEAT, RELEASED, Seen
from .resp import Argument, Connection, Loop, Reply, ReplyError, Task, pack, pause, refusal, within
from .scripts import ACQUIRE, COMMIT, COMMIT_SHA, MEND

__all__ = ["Batch", "Loaded", "Store"]

# 2: journal entries say their version, balances what flowed in and out (`migrations.py`).
SCHEMA = 2
REDIS_VERSION_MIN = (6, 2)

TABLES = ("orders", "trades", "positions", "balances", "algos", "signals", "risk", "strategies", "books")
# What was set aside (`quarantine.py`) is no part of the state, and stays.
KINDS = dict.fromkeys((*TABLES, "meta", "quarantine"), b"hash") | {"journal": b"stream", "equity": b"stream"}
KINDS |= {"lease": b"string", "heartbeat": b"string"}
# Of strategies elsewhere: no part of the state, and there before it where a sender was quicker than the first start.
EXCHANGED = ("commands", "answers")
KINDS |= dict.fromkeys(EXCHANGED, b"stream")

# There while a restore replaces the state: which file it is of.
RESTORING = "restoring"

# Journal entries (one a commit) and equity samples that are kept; Redis trims to whole nodes, so a few more stay.
JOURNAL_MAX = 100_000
EQUITY_MAX = 200_000
# Fields one HSET takes: Lua's unpack puts them on a stack of 8,000.
FIELDS_MAX = 1_000
# Rows and stream entries asked for at a time while loading.
SCAN_COUNT = 2_000

BACKOFF_FIRST_S = 0.05
BACKOFF_MAX_S = 2.0
CLOSE_TIMEOUT_S = 5.0

Done = Callable[[StoreError | None], None]


class Loaded(msgspec.Struct):
    """The committed state as it was left."""

    meta: dict[str, bytes]
    tables: dict[str, dict[str, bytes]]
    seq: int  # of the last committed event
    number: int  # of the last commit
    equity: list[bytes]  # samples, oldest first
    equity_ids: list[str] = []  # of the samples, in the same order
    quarantine: dict[str, bytes] = {}  # what earlier starts set aside: table:field -> JSON
    schema: int = SCHEMA  # of the version that wrote it


class Store:
    """The only writer of `tbx:{node}:*`; commits are pipelined on one connection, which is made again when lost.

    `on_state(up, why)` is called whenever the connection comes or goes after `open`. Batches that were in flight when
    it went have failed with StoreUnavailable; the caller commits the very same batches again, in order, which is safe
    whether or not Redis had taken them.
    """

    def __init__(
        self,
        loop: Loop,
        url: str | Address,
        node: str,
        *,
        journal_id: str,
        on_state: Callable[[bool, str], None] | None = None,
        journal_max: int = JOURNAL_MAX,
        equity_max: int = EQUITY_MAX,
    ) -> None:
        self._loop = loop
        self.address = url if isinstance(url, Address) else parse_address(url)
        self.node = node
        self.journal_id = journal_id  # for a journal that does not exist yet; after `acquire` the one that does
        self.epoch = 0
        self.redis_version = ""
        self._on_state = on_state
        self._journal_max = journal_max
        self._stream_max = {"equity": equity_max}
        self._keys = {table: self.key(table) for table in (*TABLES, "meta")}
        self._acknowledged = 0  # the highest number that Redis has said yes to
        self._closed = False
        self._token = ""  # what the lease holds in this epoch
        self._head: tuple[Argument, ...] = ()  # what every commit of this epoch begins with
        self._away = "not opened"  # why there is no connection
        # For one connection:
        self._connection: Connection | None = None
        self._reconnecting: Task | None = None

    def key(self, name: str) -> str:
        """The Redis key of a table or stream."""
        return f"tbx:{self.node}:{name}"

    @property
    def up(self) -> bool:
        return self._connection is not None

    @property
    def acknowledged(self) -> int:
        """The number of the last commit that Redis has said yes to."""
        return self._acknowledged

    @property
    def pending(self) -> int:
        """Commits and other commands that Redis has not answered yet."""
        return self._connection.pending if self._connection else 0

    async def open(self) -> None:
        """Connect, check what is there, load the script.

        Raises StoreUnavailable (not reachable, still loading), StoreCorrupt (a key of another type), or StoreError
        (password, TLS, a server that is too old or may evict keys, a schema newer than ours); each says what to do.
        """
        connection = await self._connect()
        try:
            await self._check_server(connection)
            await self._check_keys(connection)
        except ReplyError as error:
            connection.abort()
            raise refusal(self.address, error) from error
        except StoreError:
            connection.abort()
            raise
        self._connection = connection

    async def look(self) -> Seen:
        """Who the writer is and whether it lives, for a standby; raises as `ping`."""
        if self._connection is None:
            raise StoreUnavailable(f"Redis at {self.address} is not connected")
        lease, heartbeat, meta = ("GET", self.key("lease")), ("GET", self.key("heartbeat")), self.key("meta")
        try:
            replies = await self._connection.pipeline([lease, heartbeat, ("HMGET", meta, "number", "holder")])
        except ReplyError as error:
            raise refusal(self.address, error) from error
        return Seen(replies[0] or b"", replies[1] or b"", replies[2][0] or b"", replies[2][1] or b"")

    async def acquire(self, started_ms: int, *, holder: bytes = b"", seen: Seen | None = None) -> int:
        """Become the writer: every earlier one is refused from now on. Creates the state where there is none.

        Returns the epoch; 0, and nothing has changed, where anything of what was `seen` has moved since.
        """
        arguments: list[Argument] = [SCHEMA, self.journal_id, started_ms, holder]
        if seen is not None:
            arguments += (seen.lease, seen.heartbeat, seen.number)
        keys = self.key("lease"), self.key("meta"), self.key("heartbeat")
        reply = await self._ask("EVAL", ACQUIRE, 3, *keys, *arguments)
        if reply is None:
            return 0
        self.epoch, self.journal_id = int(reply[0]), reply[1].decode()
        self._token = f"{self.journal_id}:{self.epoch}"
        self._head = (2, self.key("lease"), self.key("meta"), self._token)
        return self.epoch

    def beat(self, done: Done) -> None:
        """Show the standbys that the writer lives. `done` as of `commit`; None says that this process was it still, and
        that Redis holds all that it has acknowledged."""
        if self._connection is None:
            self._loop.call_soon(done, StoreUnavailable(f"Redis at {self.address} is not connected"))
            return
        self._connection.send(pack(*self._beat("")), partial(self._beaten, done))

    async def release(self) -> None:
        """The writer ends as it should: the next one need not wait. Raises StoreError."""
        await self._ask(*self._beat(RELEASED))

    def _beat(self, becomes: str | bytes) -> tuple[Argument, ...]:
        keys = self.key("lease"), self.key("heartbeat"), self.key("meta")
        return "EVAL", BEAT, 3, *keys, self._token, becomes, self._acknowledged

    async def load(self) -> Loaded:
        """Everything that is committed. Call it after `acquire`, when nobody else can write any more.

        Raises StoreCorrupt (a number in `meta` is none), or StoreError where a newer version has written since `open`.
        """
        meta = _pairs(await self._ask("HGETALL", self.key("meta")))
        schema = self._known_schema(meta.get("schema"))
        tables = {table: await self._load_table(table) for table in TABLES}
        number = _integer(self.key("meta"), meta, "number")
        self._acknowledged = number
        equity_ids, equity = await self._load_stream("equity")
        return Loaded(
            meta=meta,
            tables=tables,
            seq=_integer(self.key("meta"), meta, "seq"),
            number=number,
            equity=equity,
            equity_ids=equity_ids,
            quarantine=await self._load_table("quarantine"),
            schema=schema,
        )

    async def rows(self, table: str, fields: Sequence[Argument]) -> list[bytes | None]:
        """The values of some fields of a table."""
        return list(await self._ask("HMGET", self.key(table), *fields)) if fields else []

    async def entry(self, stream: str, entry_id: str) -> Sequence[bytes]:
        """Field, value, field, value, ... of one entry of a stream; empty where it is not there."""
        found = await self._ask("XRANGE", self.key(stream), entry_id, entry_id)
        return list(found[0][1]) if found else []

    async def journal_before(self, entry_id: str, limit: int) -> list[Entry]:
        """Up to `limit` entries of the journal, newest first, before one ("+": the newest of all) as they are."""
        start = entry_id if entry_id == "+" else f"({entry_id}"
        return [
            (i, fields) for i, fields in await self._ask("XREVRANGE", self.key("journal"), start, "-", "COUNT", limit)
        ]

    async def mend(self, commands: Iterable[tuple[str, str, Sequence[Argument]]]) -> None:
        """Carry out (command, key, arguments) all together or not at all, as the writer, between `load` and the first
        commit: at most FIELDS_MAX fields with their values a command. Raises StoreFenced."""
        out: list[Argument] = []
        for command, key, arguments in commands:
            out += (command, key, len(arguments), *arguments)
        lease, _, token = self._head[1:]
        if not await self._ask("EVAL", MEND, 1, lease, token, *out):
            raise StoreFenced(f"another process has become the writer of {self.key('*')}")

    def commit(self, batch: Batch, done: Done) -> None:
        """Apply the batch in one round trip; `done` is called from the loop with None, or with what went wrong.

        StoreUnavailable: not applied, or not known to be; commit the same batch again. StoreFenced: never again.
        StoreCorrupt: Redis no longer holds what it acknowledged (see `commit_whole`). StoreError: a fault of ours.
        """
        self._send(_Commit(self, batch, done, whole=False))

    def commit_whole(self, batch: Batch, done: Done) -> None:
        """Replace every table by what `batch` puts, whatever number Redis is at; the journal starts anew.

        For a Redis that came back with less than it had acknowledged (a power cut under `appendfsync everysec`, a
        restored backup) while this process, which still holds the lease, has it all in memory.
        """
        self._send(_Commit(self, batch, done, whole=True))

    async def journal_since(self, seq: int, limit: int) -> list[tuple[int, bytes]] | None:
        """Up to `limit` entries after `seq`, as (seq of the last event in it, JSON array of events).

        The first entry may begin with events up to `seq`; the caller leaves them out. None where not every event after
        `seq` is held any more (trimmed, dropped), or `seq` lies in the future.
        """
        key = self.key("journal")
        rows = await self._ask("XRANGE", key, f"({seq}-0", "+", "COUNT", limit)
        if not rows:
            newest = await self._ask("HGET", self.key("meta"), "seq")
            return [] if newest is not None and int(newest) == seq else None
        entries: list[tuple[int, bytes]] = []
        expected = seq
        for entry_id, fields in rows:
            last = int(entry_id.split(b"-")[0])
            events = dict(zip(fields[::2], fields[1::2], strict=True)).get(b"events", b"")
            try:
                first = last - len(_split_array(events)) + 1
            except msgspec.DecodeError as error:
                raise StoreCorrupt(key, f"entry {last}-0 is not a JSON array: {error}") from error
            if first > expected + 1:
                return None
            entries.append((last, events))
            expected = last
        return entries

    async def ping(self) -> float:
        """Seconds that Redis takes to answer; raises StoreUnavailable."""
        begun = self._loop.time()
        await self._ask("PING")
        return self._loop.time() - begun

    async def close(self) -> None:
        """Wait a bounded time for answers that are due, then hang up."""
        self._closed = True
        if self._reconnecting is not None:
            self._reconnecting.cancel()
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if connection.pending:
            try:
                await within(self._loop, CLOSE_TIMEOUT_S, connection.call("PING"))
            except (TimeoutError, StoreUnavailable):
                pass  # those who wait are told by the connection's loss
        connection.close()

    # Inside.

    async def _ask(self, *arguments: Argument) -> Reply:
        if self._connection is None:
            raise StoreUnavailable(f"Redis at {self.address} is not connected")
        try:
            return await self._connection.call(*arguments)
        except ReplyError as error:
            raise refusal(self.address, error) from error

    async def _connect(self) -> Connection:
        connection = Connection(self._loop, self.address, self._lost)
        await connection.open()
        try:
            await connection.call("SCRIPT", "LOAD", COMMIT)
        except ReplyError as error:
            connection.abort()
            raise refusal(self.address, error) from error
        return connection

    async def _check_server(self, connection: Connection) -> None:
        text = (await connection.call("INFO")).decode()
        facts = dict(line.split(":", 1) for line in text.split("\r\n") if ":" in line)
        self.redis_version = facts.get("redis_version", "unknown")
        if _version(self.redis_version) < REDIS_VERSION_MIN:
            least = ".".join(map(str, REDIS_VERSION_MIN))
            raise StoreError(f"Redis at {self.address} is version {self.redis_version}; {least} or newer is needed")
        if facts.get("cluster_enabled") == "1":
            raise StoreError(f"Redis at {self.address} is a cluster; a commit needs all its keys in one server")
        policy = facts.get("maxmemory_policy", "noeviction")
        if facts.get("maxmemory", "0") != "0" and policy.startswith("allkeys"):
            raise StoreError(
                f"Redis at {self.address} may throw orders away (maxmemory-policy {policy}): set it to noeviction"
            )

    async def _check_keys(self, connection: Connection) -> None:
        types = await connection.pipeline([("TYPE", self.key(name)) for name in KINDS])
        found = dict(zip(KINDS, types, strict=True))
        for name, kind in KINDS.items():
            if found[name] not in (kind, b"none"):
                is_and_must = f"is a {found[name].decode()}, must be a {kind.decode()}"
                raise StoreCorrupt(self.key(name), f"{is_and_must}; something else uses it: set another NODE_ID")
        unfinished = await connection.call("GET", self.key(RESTORING))
        if unfinished is not None:
            reason = f"a restore of {unfinished.decode(errors='replace')} was not finished: run `tbx restore` once more"
            raise StoreCorrupt(self.key(RESTORING), f"{reason}, with --replace")
        if found["meta"] == b"none":
            before = ("lease", "heartbeat", *EXCHANGED)
            others = [self.key(name) for name, kind in found.items() if kind != b"none" and name not in before]
            if others:
                raise StoreCorrupt(self.key("meta"), f"is missing, yet {others[0]} exists; restore both or delete both")
            return
        self._known_schema(await connection.call("HGET", self.key("meta"), "schema"))

    def _known_schema(self, schema: bytes | None) -> int:
        if schema is None or not schema.isdigit() or not int(schema):
            raise StoreCorrupt(self.key("meta"), f"field schema is {schema!r}, must be a number from 1 on")
        if int(schema) > SCHEMA:
            raise StoreError(
                f"Redis at {self.address} holds state of schema {int(schema)}, this version knows up to {SCHEMA}: "
                "run the newer version, or set another NODE_ID"
            )
        return int(schema)

    async def _load_table(self, table: str) -> dict[str, bytes]:
        rows: dict[str, bytes] = {}
        cursor = b"0"
        while True:
            cursor, page = await self._ask("HSCAN", self.key(table), cursor, "COUNT", SCAN_COUNT)
            rows.update(_pairs(page))
            if cursor == b"0":
                return rows

    async def _load_stream(self, stream: str) -> tuple[list[str], list[bytes]]:
        """Ids and samples, oldest first; an entry without a sample has an empty one, which cannot be read."""
        ids: list[str] = []
        samples: list[bytes] = []
        start = "-"
        while True:
            rows = await self._ask("XRANGE", self.key(stream), start, "+", "COUNT", SCAN_COUNT)
            ids.extend(entry_id.decode() for entry_id, _ in rows)
            samples.extend(fields[1] if fields[0] == b"sample" else b"" for _, fields in rows)
            if len(rows) < SCAN_COUNT:
                return ids, samples
            start = f"({ids[-1]}"

    def _send(self, commit: "_Commit") -> None:
        if self._connection is None:
            why = StoreUnavailable(f"Redis at {self.address} is not connected: {self._away}")
            self._loop.call_soon(commit.done, why)
            return
        self._connection.send(commit.packed(), commit)

    def _beaten(self, done: Done, reply: Reply) -> None:
        if isinstance(reply, ReplyError):
            done(self._not_ours(str(reply)) or self._behind(str(reply)) or refusal(self.address, reply))
        else:
            done(reply if isinstance(reply, StoreError) else None)

    def _not_ours(self, text: str) -> StoreError | None:
        """What a script's refusal says of the lease; None where it is about something else."""
        word, _, rest = text.partition(" ")
        if word not in ("FENCED", "LOST"):
            return None
        journal_id, _, epoch = rest.partition(":")
        if journal_id == self.journal_id:
            who = f"another process has become the writer of {self.key('*')}"
            return StoreFenced(f"{who} (epoch {epoch}, ours is {self.epoch})")
        reason = "is of another state" if word == "FENCED" else "is gone"
        return StoreCorrupt(self.key("lease"), f"{reason}: the data in Redis was deleted or replaced under us")

    def _behind(self, text: str) -> StoreError | None:
        """What a script's refusal says of the commits that Redis holds; None where it is about something else, or where
        those before this one have failed as well."""
        word, _, number = text.partition(" ")
        if word != "GAP" or int(number) >= self._acknowledged:
            return None
        reason = f"Redis is at commit {number} and had acknowledged {self._acknowledged}"
        return StoreBehind(self.key("meta"), f"{reason}: it came back with older data")

    def _lost(self, connection: Connection, reason: str) -> None:
        if connection is not self._connection:
            return  # whoever is opening it has the error already
        self._connection = None
        self._reconnecting = self._loop.create_task(self._reconnect())
        self._tell(False, reason)

    async def _reconnect(self) -> None:
        delay_s, told = BACKOFF_FIRST_S, ""
        while self._connection is None:
            try:
                self._connection = await self._connect()
            except StoreError as error:
                if str(error) != told:
                    told = str(error)
                    self._tell(False, told)
                await pause(self._loop, delay_s)
                delay_s = min(delay_s * 2, BACKOFF_MAX_S)
        self._reconnecting = None
        self._tell(True, "connected")

    def _tell(self, up: bool, why: str) -> None:
        self._away = why
        if self._on_state is not None:
            self._on_state(up, why)


class _Commit:
    """A batch on its way: sent again at most once, answered once."""

    __slots__ = ("_again", "_batch", "_store", "arguments", "done")

    def __init__(self, store: Store, batch: Batch, done: Done, *, whole: bool) -> None:
        assert store._head, "acquire before the first commit"
        self._store = store
        self._batch = batch
        self._again = False
        self.done = done
        self.arguments = _arguments(store, batch, whole)

    def packed(self, *, in_full: bool = False) -> bytes:
        """The command, with the script by its hash or in full."""
        script = ("EVAL", COMMIT) if in_full else ("EVALSHA", COMMIT_SHA)
        return pack(*script, *self.arguments)

    def __call__(self, reply: Reply) -> None:
        store = self._store
        if isinstance(reply, int):
            store._acknowledged = max(store._acknowledged, self._batch.number)
            self.done(None)
            return
        if isinstance(reply, ReplyError) and not self._again and self._send_again(str(reply)):
            return
        self.done(reply if isinstance(reply, StoreError) else self._explain(str(reply), reply))

    def _send_again(self, text: str) -> bool:
        """A server that has forgotten the script gets it once more; so do the batches right behind that one."""
        connection = self._store._connection
        if connection is None or not text.startswith(("NOSCRIPT", "GAP")):
            return False
        self._again = True
        connection.send(self.packed(in_full=text.startswith("NOSCRIPT")), self)
        return True

    def _explain(self, text: str, error: Exception) -> StoreError:
        store, number = self._store, self._batch.number
        lost = store._not_ours(text) or store._behind(text)
        if lost is not None:
            return lost
        word, _, rest = text.partition(" ")
        if word == "GAP":
            return StoreUnavailable(f"commit {number} must wait: Redis is at {rest}, those between have failed")
        if word == "SEQ":
            return StoreError(f"commit {number} reuses event numbers: ends at {self._batch.seq}, Redis is at {rest}")
        if "WRONGTYPE" in text:
            return StoreCorrupt(store.key("*"), f"a key changed its type under us ({text})")
        return refusal(store.address, error)


def _arguments(store: Store, batch: Batch, whole: bool) -> list[Argument]:
    """What the commit script is called with, from its number of keys on."""
    out: list[Argument] = [*store._head, batch.number, batch.seq, -1 if whole else len(batch.events)]
    if whole:
        for table in (*TABLES, "journal"):
            out += ("UNLINK", store.key(table), 0)
    rows: dict[str, list[Argument]] = {}
    for table, field, value in batch.puts:
        rows.setdefault(table, []).extend((field, value))
    _add_rows(out, "HSET", store._keys, rows, 2 * FIELDS_MAX)
    rows = {}
    for table, field in batch.deletes:
        rows.setdefault(table, []).append(field)
    _add_rows(out, "HDEL", store._keys, rows, FIELDS_MAX)
    for stream, sample in batch.appends:
        out += ("XADD", store.key(stream), 6, "MAXLEN", "~", store._stream_max[stream], "*", "sample", sample)
    if batch.events:
        out += ("XADD", store.key("journal"), 10, "MAXLEN", "~", store._journal_max, f"{batch.seq}-0")
        out += ("seq", batch.seq, "events", b"[%b]" % b",".join(batch.events), "v", JOURNAL_VERSION)
    return out


def _add_rows(
    out: list[Argument], command: str, keys: dict[str, str], rows: dict[str, list[Argument]], most: int
) -> None:
    """Append a command for each table, or several of at most `most` arguments."""
    for table, values in rows.items():
        key = keys[table]
        for start in range(0, len(values), most):
            some = values[start : start + most]
            out += (command, key, len(some))
            out += some


def _pairs(flat: list[bytes]) -> dict[str, bytes]:
    """Field -> value; a field that is no text is kept as `quarantine.field_bytes` reads it."""
    fields = (field.decode(errors="surrogateescape") for field in flat[::2])
    return dict(zip(fields, flat[1::2], strict=True))


def _integer(key: str, meta: dict[str, bytes], field: str) -> int:
    text = meta.get(field)
    if text is None or not text.isdigit():
        raise StoreCorrupt(key, f"field {field} is {text!r}, must be a number; call acquire before load")
    return int(text)


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdigit())


_split_array = msgspec.json.Decoder(list[msgspec.Raw]).decode
