"""What Redis holds and how it answers: hashes, streams and strings, each command a function from arguments to bytes.

Always true here: a reply is byte for byte what redis-server 6.2 writes, errors included; a command changes nothing
unless it succeeds. Time is an attribute that the server sets (`now_ms`).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable

OK = b"+OK\r\n"
NIL = b"$-1\r\n"
EMPTY = b"*0\r\n"
WRONGTYPE = b"WRONGTYPE Operation against a key holding the wrong kind of value"
OOM = b"OOM command not allowed when used memory > 'maxmemory'."
READONLY = b"READONLY You can't write against a read only replica."
MISCONF = (
    b"MISCONF Redis is configured to save RDB snapshots, but it is currently not able to persist on disk. Commands "
    b"that may modify the data set are disabled, because this instance is configured to report errors during writes "
    b"if RDB snapshotting fails (stop-writes-on-bgsave-error option). Please check the Redis logs for details about "
    b"the RDB error."
)
ID_SMALLER = b"ERR The ID specified in XADD is equal or smaller than the target stream top item"
ID_MAX = 2**64 - 1

NODE_ENTRIES_MAX = 100  # stream-node-max-entries
NODE_BYTES_MAX = 16_384
TRIM_NODES_MAX = 100  # nodes that one XADD with MAXLEN ~ removes at most
SCANS_MAX = 64  # unfinished HSCANs whose rest is remembered

Entry = tuple[tuple[int, int], list[bytes]]  # id; names and values


class Refused(Exception):
    """The error reply, without its minus sign."""

    def __init__(self, text: bytes) -> None:
        super().__init__(text)
        self.text = text


class Stream:
    """Entries, oldest first, and how they are spread over nodes, of which trimming removes whole ones."""

    __slots__ = ("entries", "last", "node_bytes", "nodes")

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.last = (0, 0)
        self.nodes: deque[int] = deque()  # entries in each
        self.node_bytes = 0  # of the last one, nearly

    def copy(self) -> Stream:
        other = Stream()
        other.entries, other.last = list(self.entries), self.last
        other.nodes, other.node_bytes = deque(self.nodes), self.node_bytes
        return other

    def add(self, entry_id: tuple[int, int], fields: list[bytes]) -> None:
        self.entries.append((entry_id, fields))
        self.last = entry_id
        nodes = self.nodes
        if not nodes or self.node_bytes >= NODE_BYTES_MAX or nodes[-1] >= NODE_ENTRIES_MAX:
            nodes.append(1)
            self.node_bytes = 20
        else:
            nodes[-1] += 1
        self.node_bytes += 12
        for value in fields[1::2]:
            self.node_bytes += len(value)

    def remove(self, gone: set[tuple[int, int]]) -> int:
        """How many of these entries were there."""
        kept, nodes, at = [], deque[int](), 0
        for size in self.nodes:
            node = [entry for entry in self.entries[at : at + size] if entry[0] not in gone]
            kept += node
            at += size
            if node:
                nodes.append(len(node))
        removed = len(self.entries) - len(kept)
        self.entries, self.nodes = kept, nodes
        return removed

    def trim(self, maxlen: int) -> None:
        """Remove whole nodes while at least `maxlen` entries stay."""
        length = len(self.entries)
        if length <= maxlen:
            return
        removed, entries_max, nodes = 0, TRIM_NODES_MAX * NODE_ENTRIES_MAX, self.nodes
        while length - removed > maxlen and nodes:
            size = nodes[0]
            if removed + size > entries_max or length - removed - size < maxlen:
                break
            removed += size
            nodes.popleft()
        del self.entries[:removed]


Value = bytes | Stream | dict[bytes, bytes]
TYPES = {bytes: b"string", Stream: b"stream", dict: b"hash"}


def bulk(value: bytes | None) -> bytes:
    return NIL if value is None else b"$%d\r\n%b\r\n" % (len(value), value)


def array(parts: list[bytes]) -> bytes:
    """Of replies."""
    return b"*%d\r\n%b" % (len(parts), b"".join(parts))


def bulks(values: list[bytes]) -> bytes:
    return array([b"$%d\r\n%b\r\n" % (len(value), value) for value in values])


def number(value: int) -> bytes:
    return b":%d\r\n" % value


def error(text: bytes) -> bytes:
    return b"-%b\r\n" % text


class Database:
    """Keys and their values; `run` answers one command. `now_ms` is what XADD * takes for its ids."""

    def __init__(self) -> None:
        self.data: dict[bytes, Value] = {}
        self.now_ms = 0
        # Why a write is refused now: as redis-server decides it, see `refuse`.
        self.readonly = self.disk_error = self.out_of_memory = False
        self._scans: dict[int, list[bytes]] = {}
        self._scan = 0

    def copy(self) -> Database:
        other = Database()
        for key, value in self.data.items():
            other.data[key] = value if isinstance(value, bytes) else value.copy()
        return other

    @property
    def troubled(self) -> bool:
        return self.readonly or self.disk_error or self.out_of_memory

    def refuse(self, name: bytes, *, written: bool = False) -> None:
        """Raise Refused where this write is not allowed now; `written`: it is not the first of its script."""
        if self.readonly:
            raise Refused(READONLY)
        if self.disk_error:
            raise Refused(MISCONF)
        if self.out_of_memory and not written and name in GROWING:
            raise Refused(OOM)

    def run(self, arguments: list[bytes]) -> bytes:
        """The reply to one command; raises Refused."""
        name = arguments[0].upper()
        command = COMMANDS.get(name)
        if command is None:
            shown = b"".join(b"`%b`, " % argument[:128] for argument in arguments[1:])
            raise Refused(b"ERR unknown command `%b`, with args beginning with: %b" % (arguments[0], shown))
        least, function = command
        if len(arguments) - 1 < least:
            raise Refused(b"ERR wrong number of arguments for '%b' command" % name.lower())
        return function(self, arguments)

    # --- values

    def hash(self, key: bytes) -> dict[bytes, bytes] | None:
        value = self.data.get(key)
        if value is not None and type(value) is not dict:
            raise Refused(WRONGTYPE)
        return value

    def string(self, key: bytes) -> bytes | None:
        value = self.data.get(key)
        if value is not None and type(value) is not bytes:
            raise Refused(WRONGTYPE)
        return value

    def stream(self, key: bytes) -> Stream | None:
        value = self.data.get(key)
        if value is not None and type(value) is not Stream:
            raise Refused(WRONGTYPE)
        return value

    # --- commands

    def hset(self, arguments: list[bytes]) -> bytes:
        if len(arguments) % 2:
            raise Refused(b"ERR wrong number of arguments for 'hset' command")
        key = arguments[1]
        table = self.hash(key)
        if table is None:
            table = self.data[key] = {}
        before = len(table)
        table.update(zip(arguments[2::2], arguments[3::2], strict=True))
        return number(len(table) - before)

    def hdel(self, arguments: list[bytes]) -> bytes:
        key = arguments[1]
        table = self.hash(key)
        if table is None:
            return number(0)
        before = len(table)
        for field in arguments[2:]:
            table.pop(field, None)
        if not table:
            del self.data[key]
        return number(before - len(table))

    def hsetnx(self, arguments: list[bytes]) -> bytes:
        table = self.hash(arguments[1])
        return number(0) if table is not None and arguments[2] in table else self.hset(arguments)

    def hincrby(self, arguments: list[bytes]) -> bytes:
        _, key, field, by = arguments
        table = self.hash(key)
        value = _whole((table or {}).get(field, b"0"), b"ERR hash value is not an integer")
        if table is None:
            table = self.data[key] = {}
        value += _whole(by, b"ERR value is not an integer or out of range")
        table[field] = b"%d" % value
        return number(value)

    def incr(self, arguments: list[bytes]) -> bytes:
        value = _whole(self.string(arguments[1]) or b"0", b"ERR value is not an integer or out of range") + 1
        self.data[arguments[1]] = b"%d" % value
        return number(value)

    def set(self, arguments: list[bytes]) -> bytes:
        if len(arguments) > 3:
            raise Refused(b"ERR syntax error")
        self.data[arguments[1]] = arguments[2]
        return OK

    def unlink(self, arguments: list[bytes]) -> bytes:
        return number(sum(self.data.pop(key, None) is not None for key in arguments[1:]))

    def xadd(self, arguments: list[bytes]) -> bytes:
        """XADD key [MAXLEN ~ n] id field value ..."""
        key, at, maxlen = arguments[1], 2, -1
        if arguments[2].upper() == b"MAXLEN":
            if arguments[3] != b"~":
                raise Refused(b"ERR syntax error")
            maxlen, at = int(arguments[4]), 5
        fields = arguments[at + 1 :]
        if not fields or len(fields) % 2:
            raise Refused(b"ERR wrong number of arguments for 'xadd' command")
        stream = self.stream(key)
        last = (0, 0) if stream is None else stream.last
        entry_id = self._next_id(last) if arguments[at] == b"*" else _id(arguments[at], 0)
        if entry_id == (0, 0):
            raise Refused(b"ERR The ID specified in XADD must be greater than 0-0")
        if entry_id <= last:
            raise Refused(ID_SMALLER)
        if stream is None:
            stream = self.data[key] = Stream()
        stream.add(entry_id, fields)
        if maxlen >= 0:
            stream.trim(maxlen)
        return bulk(b"%d-%d" % entry_id)

    def xdel(self, arguments: list[bytes]) -> bytes:
        stream = self.stream(arguments[1])
        gone = {_id(text, 0) for text in arguments[2:]}
        return number(0 if stream is None else stream.remove(gone))

    def _next_id(self, last: tuple[int, int]) -> tuple[int, int]:
        return (self.now_ms, 0) if self.now_ms > last[0] else (last[0], last[1] + 1)

    def get(self, arguments: list[bytes]) -> bytes:
        return bulk(self.string(arguments[1]))

    def type(self, arguments: list[bytes]) -> bytes:
        value = self.data.get(arguments[1])
        return b"+%b\r\n" % (b"none" if value is None else TYPES[type(value)])

    def exists(self, arguments: list[bytes]) -> bytes:
        return number(sum(key in self.data for key in arguments[1:]))

    def hget(self, arguments: list[bytes]) -> bytes:
        return bulk((self.hash(arguments[1]) or {}).get(arguments[2]))

    def hmget(self, arguments: list[bytes]) -> bytes:
        table = self.hash(arguments[1]) or {}
        return array([bulk(table.get(field)) for field in arguments[2:]])

    def hgetall(self, arguments: list[bytes]) -> bytes:
        return bulks([part for pair in (self.hash(arguments[1]) or {}).items() for part in pair])

    def hlen(self, arguments: list[bytes]) -> bytes:
        return number(len(self.hash(arguments[1]) or {}))

    def xlen(self, arguments: list[bytes]) -> bytes:
        stream = self.stream(arguments[1])
        return number(0 if stream is None else len(stream.entries))

    def hscan(self, arguments: list[bytes]) -> bytes:
        """HSCAN key cursor [COUNT n]; a page is of the fields that were there when the scan began and still are."""
        key, cursor = arguments[1], int(arguments[2])
        count = int(arguments[4]) if len(arguments) > 4 else 10
        table = self.hash(key) or {}
        fields = self._scans.pop(cursor, []) if cursor else list(table)
        page, rest = fields[:count], fields[count:]
        after = 0
        if rest:
            self._scan += 1
            after = self._scan
            self._scans[after] = rest
            if len(self._scans) > SCANS_MAX:
                del self._scans[next(iter(self._scans))]
        rows = [part for field in page if field in table for part in (field, table[field])]
        return b"*2\r\n%b%b" % (bulk(b"%d" % after), bulks(rows))

    def xrange(self, arguments: list[bytes]) -> bytes:
        return self._xrange(arguments, arguments[2], arguments[3], newest_first=False)

    def xrevrange(self, arguments: list[bytes]) -> bytes:
        return self._xrange(arguments, arguments[3], arguments[2], newest_first=True)

    def _xrange(self, arguments: list[bytes], start: bytes, end: bytes, *, newest_first: bool) -> bytes:
        if start[:1] == b"(" and _id(start[1:], 0) == (ID_MAX, ID_MAX):
            raise Refused(b"ERR invalid start ID for the interval")
        if end[:1] == b"(" and _id(end[1:], ID_MAX) == (0, 0):
            raise Refused(b"ERR invalid end ID for the interval")
        stream = self.stream(arguments[1])
        if stream is None:
            return EMPTY
        entries = stream.entries
        first = 0 if start == b"-" else _edge(entries, start, bisect_right, bisect_left, 0)
        stop = len(entries) if end == b"+" else _edge(entries, end, bisect_left, bisect_right, ID_MAX)
        count = int(arguments[5]) if len(arguments) > 5 else stop
        found = (
            entries[max(first, stop - count) : stop][::-1]
            if newest_first
            else entries[first : min(stop, first + count)]
        )
        return array([b"*2\r\n%b%b" % (bulk(b"%d-%d" % entry_id), bulks(fields)) for entry_id, fields in found])

    def flushall(self, _: list[bytes]) -> bytes:
        self.data.clear()
        return OK

    def dbsize(self, _: list[bytes]) -> bytes:
        return number(len(self.data))

    def ping(self, arguments: list[bytes]) -> bytes:
        return bulk(arguments[1]) if len(arguments) > 1 else b"+PONG\r\n"


def _whole(text: bytes, complaint: bytes) -> int:
    try:
        return int(text)
    except ValueError:
        raise Refused(complaint) from None


def _id(text: bytes, sequence: int) -> tuple[int, int]:
    """`ms-seq`, or `ms` with the sequence that the place asks for."""
    whole, dash, part = text.partition(b"-")
    try:
        return int(whole), (int(part) if dash else sequence)
    except ValueError:
        raise Refused(b"ERR Invalid stream ID specified as stream command argument") from None


Bisect = Callable[[list[Entry], tuple[tuple[int, int], list[bytes]]], int]


def _edge(entries: list[Entry], text: bytes, beyond: Callable[..., int], at: Callable[..., int], sequence: int) -> int:
    """Where a range begins or ends; `(` leaves the entry itself out."""
    if text[:1] == b"(":
        return beyond(entries, _id(text[1:], sequence), key=lambda entry: entry[0])
    return at(entries, _id(text, sequence), key=lambda entry: entry[0])


Command = Callable[[Database, list[bytes]], bytes]
# Name -> arguments at least, and what does it.
READS: dict[bytes, tuple[int, Command]] = {
    b"DBSIZE": (0, Database.dbsize),
    b"EXISTS": (1, Database.exists),
    b"GET": (1, Database.get),
    b"HGET": (2, Database.hget),
    b"HGETALL": (1, Database.hgetall),
    b"HLEN": (1, Database.hlen),
    b"HMGET": (2, Database.hmget),
    b"HSCAN": (2, Database.hscan),
    b"PING": (0, Database.ping),
    b"TYPE": (1, Database.type),
    b"XLEN": (1, Database.xlen),
    b"XRANGE": (3, Database.xrange),
    b"XREVRANGE": (3, Database.xrevrange),
}
WRITES: dict[bytes, tuple[int, Command]] = {
    b"DEL": (1, Database.unlink),
    b"FLUSHALL": (0, Database.flushall),
    b"HDEL": (2, Database.hdel),
    b"HINCRBY": (3, Database.hincrby),
    b"HSET": (3, Database.hset),
    b"HSETNX": (3, Database.hsetnx),
    b"INCR": (1, Database.incr),
    b"SET": (2, Database.set),
    b"UNLINK": (1, Database.unlink),
    b"XADD": (4, Database.xadd),
    b"XDEL": (2, Database.xdel),
}
COMMANDS = READS | WRITES
GROWING = frozenset({b"HINCRBY", b"HSET", b"HSETNX", b"INCR", b"SET", b"XADD"})  # what an OOM refuses
