"""The committed state in Redis: one atomic script a commit, loading, and the journal.

Always true here: a batch is applied whole or not at all, each number once, in order, and only by the process that took
the lease last. Redis runs a script that writes as one transaction, in memory and in its append-only file, and refuses
it before its first write (out of memory, disk error, replica) or not at all; `open` finds keys of a wrong type.
"""

import hashlib
from collections.abc import Callable

import msgspec

from ..model.errors import StoreCorrupt, StoreError, StoreFenced, StoreUnavailable
from .address import Address, parse_address
from .batch import Batch
from .resp import Argument, Connection, Loop, Reply, ReplyError, Task, pack, pause, refusal, within

__all__ = ["Batch", "Loaded", "Store"]

SCHEMA = 1
REDIS_VERSION_MIN = (6, 2)

TABLES = ("orders", "trades", "positions", "balances", "algos", "signals", "risk", "books")
KINDS = dict.fromkeys((*TABLES, "meta"), b"hash") | {"journal": b"stream", "equity": b"stream", "lease": b"string"}

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

# KEYS: lease, meta. ARGV: token, number, seq, events here (-1: the whole state is written anew, so a gap is no fault),
# then any number of (command, key, n, n arguments).
COMMIT = b"""
local held = redis.call('GET', KEYS[1])
if held ~= ARGV[1] then
  if not held then return redis.error_reply('LOST the lease') end
  return redis.error_reply('FENCED ' .. held)
end
local meta = redis.call('HMGET', KEYS[2], 'number', 'seq')
local number, applied, fresh = tonumber(ARGV[2]), tonumber(meta[1]), tonumber(ARGV[4])
if number <= applied then return 0 end
if fresh >= 0 then
  if number > applied + 1 then return redis.error_reply('GAP ' .. meta[1]) end
  if tonumber(ARGV[3]) < meta[2] + fresh then return redis.error_reply('SEQ ' .. meta[2]) end
end
local i, last = 5, #ARGV
while i < last do
  local stop = i + 2 + ARGV[i + 2]
  redis.call(ARGV[i], ARGV[i + 1], unpack(ARGV, i + 3, stop))
  i = stop + 1
end
redis.call('HSET', KEYS[2], 'number', ARGV[2], 'seq', ARGV[3])
return 1
"""

COMMIT_SHA = hashlib.sha1(COMMIT, usedforsecurity=False).hexdigest()

# KEYS: lease, meta. ARGV: schema, journal id, started.
ACQUIRE = b"""
redis.call('HSETNX', KEYS[2], 'schema', ARGV[1])
redis.call('HSETNX', KEYS[2], 'journal_id', ARGV[2])
redis.call('HSETNX', KEYS[2], 'number', '0')
redis.call('HSETNX', KEYS[2], 'seq', '0')
local epoch = redis.call('HINCRBY', KEYS[2], 'epoch', 1)
redis.call('HSET', KEYS[2], 'started', ARGV[3])
local journal_id = redis.call('HGET', KEYS[2], 'journal_id')
redis.call('SET', KEYS[1], journal_id .. ':' .. epoch)
return {epoch, journal_id}
"""

Done = Callable[[StoreError | None], None]


class Loaded(msgspec.Struct):
    """The committed state as it was left."""

    meta: dict[str, bytes]
    tables: dict[str, dict[str, bytes]]
    seq: int  # of the last committed event
    number: int  # of the last commit
    equity: list[bytes]  # samples, oldest first


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
        self._head: tuple[Argument, ...] = ()  # what every commit of this epoch begins with
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

    async def acquire(self, started_ms: int) -> int:
        """Become the writer: every earlier one is refused from now on. Creates the state where there is none."""
        arguments = (SCHEMA, self.journal_id, started_ms)
        reply = await self._ask("EVAL", ACQUIRE, 2, self.key("lease"), self.key("meta"), *arguments)
        self.epoch, self.journal_id = int(reply[0]), reply[1].decode()
        self._head = (2, self.key("lease"), self.key("meta"), f"{self.journal_id}:{self.epoch}")
        return self.epoch

    async def load(self) -> Loaded:
        """Everything that is committed. Call it after `acquire`, when nobody else can write any more."""
        meta = _pairs(await self._ask("HGETALL", self.key("meta")))
        tables = {table: await self._load_table(table) for table in TABLES}
        number = _integer(self.key("meta"), meta, "number")
        self._acknowledged = number
        return Loaded(
            meta=meta,
            tables=tables,
            seq=_integer(self.key("meta"), meta, "seq"),
            number=number,
            equity=await self._load_stream("equity"),
        )

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
            last, events = int(entry_id.split(b"-")[0]), fields[3]
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

    async def _ask(self, *arguments: str | bytes | int) -> Reply:
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
        if found["meta"] == b"none":
            others = [self.key(name) for name, kind in found.items() if kind != b"none" and name != "lease"]
            if others:
                raise StoreCorrupt(self.key("meta"), f"is missing, yet {others[0]} exists; restore both or delete both")
            return
        schema = await connection.call("HGET", self.key("meta"), "schema")
        if schema is None or not schema.isdigit():
            raise StoreCorrupt(self.key("meta"), f"field schema is {schema!r}, must be a number")
        if int(schema) > SCHEMA:
            raise StoreError(
                f"Redis at {self.address} holds state of schema {int(schema)}, this version knows up to {SCHEMA}: "
                "run the newer version, or set another NODE_ID"
            )

    async def _load_table(self, table: str) -> dict[str, bytes]:
        rows: dict[str, bytes] = {}
        cursor = b"0"
        while True:
            cursor, page = await self._ask("HSCAN", self.key(table), cursor, "COUNT", SCAN_COUNT)
            rows.update(_pairs(page))
            if cursor == b"0":
                return rows

    async def _load_stream(self, stream: str) -> list[bytes]:
        samples: list[bytes] = []
        start = "-"
        while True:
            rows = await self._ask("XRANGE", self.key(stream), start, "+", "COUNT", SCAN_COUNT)
            samples.extend(fields[1] for _, fields in rows)
            if len(rows) < SCAN_COUNT:
                return samples
            start = f"({rows[-1][0].decode()}"

    def _send(self, commit: "_Commit") -> None:
        if self._connection is None:
            self._loop.call_soon(commit.done, StoreUnavailable(f"Redis at {self.address} is not connected"))
            return
        self._connection.send(commit.packed(), commit)

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
        word, _, rest = text.partition(" ")
        if word in ("FENCED", "LOST"):
            journal_id, _, epoch = rest.partition(":")
            if journal_id == store.journal_id:
                who = f"another process has become the writer of {store.key('*')}"
                return StoreFenced(f"{who} (epoch {epoch}, ours is {store.epoch})")
            reason = "is of another state" if word == "FENCED" else "is gone"
            return StoreCorrupt(store.key("lease"), f"{reason}: the data in Redis was deleted or replaced under us")
        if word == "GAP" and int(rest) < store._acknowledged:
            reason = f"Redis is at commit {rest} and had acknowledged {store._acknowledged}"
            return StoreCorrupt(store.key("meta"), f"{reason}: it came back with older data")
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
        out += ("XADD", store.key("journal"), 8, "MAXLEN", "~", store._journal_max, f"{batch.seq}-0")
        out += ("seq", batch.seq, "events", b"[%b]" % b",".join(batch.events))
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
    return dict(zip(map(bytes.decode, flat[::2]), flat[1::2], strict=True))


def _integer(key: str, meta: dict[str, bytes], field: str) -> int:
    text = meta.get(field)
    if text is None or not text.isdigit():
        raise StoreCorrupt(key, f"field {field} is {text!r}, must be a number; call acquire before load")
    return int(text)


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdigit())


_split_array = msgspec.json.Decoder(list[msgspec.Raw]).decode
