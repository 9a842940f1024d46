"""The simulated Redis says and holds what a real one does: the same seeded operations to both, compared to the byte."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tbx.core.state.address import Address
from tbx.core.state.lease import BEAT
from tbx.core.state.resp import Connection
from tbx.core.state.store import ACQUIRE, COMMIT, MEND, TABLES, Store

from .live_network import ProcessClock, Stepped
from .redis_fixtures import a_client, a_redis, batch, in_loop, until
from .sim.loop import VirtualLoop, run
from .sim.lua import LuaError, line_of, translate
from .sim.redis import SimRedis

STEPS = 120

# --- the same as a real one


class Tapped:
    """An event loop whose connections are listened to: each command beside the bytes of its reply."""

    def __init__(self, loop: Any) -> None:
        self.loop = loop
        self.taps: list[Tap] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loop, name)

    async def create_unix_connection(self, protocol_factory: Any, path: Any) -> Any:
        tap = Tap(protocol_factory())
        self.taps.append(tap)
        return await self.loop.create_unix_connection(lambda: tap, path)


class Tap:
    """Between a connection and its transport."""

    def __init__(self, protocol: Any) -> None:
        self.protocol = protocol
        self.sent = b""
        self.heard = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.protocol, name)

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.protocol.connection_made(self)

    def data_received(self, data: bytes) -> None:
        self.heard += data
        self.protocol.data_received(data)

    def write(self, data: bytes) -> None:
        self.sent += data
        self.transport.write(data)

    def close(self) -> None:
        self.transport.close()

    def abort(self) -> None:
        self.transport.abort()


def split(stream: bytes) -> Iterator[bytes]:
    """The replies, or the commands, that a stream of bytes consists of."""
    at = 0
    while at < len(stream):
        begun, left = at, 1
        while left:
            end = stream.index(b"\r\n", at)
            kind, count = stream[at : at + 1], stream[at + 1 : end]
            at = end + 2
            left -= 1
            if kind == b"*":
                left += max(0, int(count))
            elif kind == b"$" and int(count) >= 0:
                at += int(count) + 2
        yield stream[begun:at]


def told(tap: Tap) -> list[tuple[bytes, bytes]]:
    """Each command with its reply, but for what cannot be the same: the server's facts, and ids made of its time."""
    pairs = []
    for command, reply in zip(split(tap.sent), split(tap.heard), strict=True):
        if b"\r\nINFO\r\n" in command:
            continue
        if b"HSCAN" in command or b"HGETALL" in command:  # rows in no order
            reply = b"".join(sorted(split(reply.split(b"\r\n", 1)[1]))) if b"HGETALL" in command else rows_of(reply)
        if b":equity" in command:
            reply = re.sub(rb"\$\d+\r\n\d{13,}-\d+", b"(id)", reply)
        pairs.append((command, reply))
    return pairs


def rows_of(page: bytes) -> bytes:
    cursor, table = split(page.split(b"\r\n", 1)[1])
    parts = list(split(table.split(b"\r\n", 1)[1]))
    return cursor + b"".join(sorted(a + b for a, b in zip(parts[::2], parts[1::2], strict=True)))


class Player:
    """Plays seeded operations of two writers, and of somebody with redis-cli, on any loop and server."""

    def __init__(self, loop: Any, address: Address, seed: int) -> None:
        self.loop = Tapped(loop)
        self.address = address
        self.rng = random.Random(seed)
        self.heard: list[str] = []  # what the stores made of it
        self.number = self.seq = 0

    async def play(self, steps: int) -> None:
        self.cli = Connection(self.loop, self.address)
        await self.cli.open()
        self.stores = [await self._store(name) for name in ("first", "second")]
        for _ in range(steps):
            name = self.rng.choices(list(OPERATIONS), list(OPERATIONS.values()))[0]
            await getattr(self, name)()
        await self.look()
        for store in self.stores:
            await store.close()
        self.cli.close()

    async def _store(self, name: str) -> Store:
        store = Store(self.loop, self.address, "main", journal_id=name, journal_max=5, equity_max=5)
        await store.open()
        await self._hear(store.acquire(5))
        return store

    async def _hear(self, asked: Any) -> None:
        try:
            answer = await asked
        except Exception as error:  # whatever it is, it is the same there and here
            answer = error
        self.heard.append(repr(answer).replace(str(self.address), "redis"))

    async def _call(self, *command: Any) -> None:
        try:
            await self.cli.call(*command)
        except Exception as error:  # an error reply is what both are compared by
            self.heard.append(repr(error))

    async def _commit(self, store: Store, one: Any, *, whole: bool = False) -> None:
        answer = self.loop.create_future()
        (store.commit_whole if whole else store.commit)(one, answer.set_result)
        await self._hear(answer)

    def _batch(self, number: int, seq: int) -> Any:
        rng = self.rng
        events = [b'{"e":%d}' % rng.randrange(10**6) for _ in range(rng.randrange(4))]
        places = {(rng.choice(TABLES), f"f{rng.randrange(3)}") for _ in range(rng.randrange(6))}
        deletes = [place for place in sorted(places) if rng.random() < 0.5]
        puts = [(*place, b"%d" % rng.randrange(10**50)) for place in sorted(places) if place not in deletes]
        appends = [("equity", b"{}")] * (rng.random() < 0.2)
        return batch(number, seq + len(events), events=events, puts=puts, deletes=deletes, appends=appends)

    # Operations.

    async def commit(self) -> None:
        one = self._batch(self.number + 1, self.seq)
        self.number, self.seq = one.number, one.seq
        await self._commit(self.stores[-1], one)

    async def pipelined(self) -> None:
        """Several at once."""
        answers: list[Any] = []
        for _ in range(self.rng.choice((2, 10, 150))):
            one = self._batch(self.number + 1, self.seq)
            self.number, self.seq = one.number, one.seq
            answer = self.loop.create_future()
            answers.append(answer)
            self.stores[-1].commit(one, answer.set_result)
        for answer in answers:
            await self._hear(answer)

    async def wrong_number(self) -> None:
        """Old ones, gaps, events that were numbered before."""
        rng = self.rng
        one = self._batch(max(1, self.number + rng.randrange(-3, 5)), max(0, self.seq + rng.randrange(-5, 5)))
        await self._commit(rng.choice(self.stores), one)
        await self.find()

    async def commit_whole(self) -> None:
        one = self._batch(self.number + self.rng.randrange(1, 4), self.seq + self.rng.randrange(3))
        self.number, self.seq = one.number, one.seq
        await self._commit(self.stores[-1], one, whole=True)

    async def find(self) -> None:
        """Where the store is."""
        try:
            number, seq = await self.cli.call("HMGET", "tbx:main:meta", "number", "seq")
            self.number, self.seq = int(number), int(seq)
        except Exception as error:
            self.heard.append(repr(error))

    async def take_over(self) -> None:
        await self._hear(self.stores[0].acquire(self.rng.randrange(100), holder=b"h"))
        self.stores.reverse()

    async def take_over_if_still(self) -> None:
        store = self.stores[0]
        try:
            seen = await store.look()
        except Exception as error:
            self.heard.append(type(error).__name__)
            return
        if self.rng.random() < 0.5:
            await self.beat()
        await self._hear(store.acquire(7, holder=b"h", seen=seen))

    async def beat(self) -> None:
        answer = self.loop.create_future()
        self.rng.choice(self.stores).beat(answer.set_result)
        await self._hear(answer)

    async def release(self) -> None:
        await self._hear(self.rng.choice(self.stores).release())

    async def mend(self) -> None:
        commands = [("HSET", "tbx:main:quarantine", ("orders:o", "{}")), ("HDEL", "tbx:main:orders", ("f1",))]
        await self._hear(self.rng.choice(self.stores).mend(commands))

    async def read(self) -> None:
        store = self.stores[-1]
        seq = max(0, self.seq - self.rng.randrange(-2, 30))
        await self._hear(store.journal_since(seq, self.rng.randrange(1, 50)))
        await self._hear(store.journal_before(self.rng.choice(("+", f"{seq}-0")), self.rng.randrange(1, 20)))

    async def look(self) -> None:
        """Everything."""
        try:
            loaded = await self.stores[-1].load()
            self.heard.append(repr((sorted(loaded.meta.items()), loaded.seq, loaded.number, loaded.equity)))
        except Exception as error:
            self.heard.append(type(error).__name__)
        for table in (*TABLES, "meta"):
            await self._call("HGETALL", f"tbx:main:{table}")
        await self._call("XRANGE", "tbx:main:journal", "-", "+")
        for name in ("lease", "heartbeat"):
            await self._call("GET", f"tbx:main:{name}")
        await self._call("DBSIZE")

    async def forget_scripts(self) -> None:
        await self._call("SCRIPT", "FLUSH")

    async def wrong_type(self) -> None:
        name = self.rng.choice((*TABLES, "meta", "journal", "lease", "heartbeat"))
        key = f"tbx:main:{name}"
        kept = await self.cli.call("TYPE", key)
        await self._call("UNLINK", key)
        await self._call(*self.rng.choice((("SET", key, "x"), ("HSET", key, "a", "b"), ("XADD", key, "1-0", "a", "b"))))
        await self.commit()
        await self.beat()
        if self.rng.random() < 0.3:
            await self.take_over()
        await self._call("UNLINK", key)
        self.heard.append(kept.decode())
        if name in ("meta", "lease"):
            await self.commit()
            await self.take_over()
        await self.find()

    async def spoilt_meta(self) -> None:
        field = self.rng.choice(("number", "seq", "epoch", "schema"))
        change = self.rng.choice((("HSET", "tbx:main:meta", field, "many"), ("HDEL", "tbx:main:meta", field)))
        await self._call(*change)
        await self.commit()
        await self.read()
        await self.take_over()
        await self._call("HSET", "tbx:main:meta", field, self.number)
        await self.find()

    async def older(self) -> None:
        await self._call("HSET", "tbx:main:meta", "number", max(0, self.number - 2))
        await self.commit()
        await self.commit_whole()

    async def flush(self) -> None:
        await self._call("FLUSHALL")
        await self.commit()
        await self.beat()
        await self.take_over()
        await self.find()

    async def replica(self) -> None:
        await self._in_trouble(("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE"))

    async def out_of_memory(self) -> None:
        await self._in_trouble(("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0"))

    async def _in_trouble(self, begin: tuple[str, ...], end: tuple[str, ...]) -> None:
        await self._call(*begin)
        for _ in range(3):
            await self.commit()
        for act in (self.beat, self.read, self.mend):
            await act()
        await self._call("HSET", "other", "a", "b")
        if self.rng.random() < 0.5:
            await self.take_over()
        await self._call(*end)
        await self.find()

    async def others(self) -> None:
        """What somebody else may ask."""
        await self._call("HGET", "tbx:main:meta")
        await self._call("NONSENSE", "a", "b")
        await self._call("XADD", "tbx:main:journal", "1-0", "a", "b")
        await self._call("XADD", "tbx:main:journal", "0-0", "a", "b")
        await self._call("EVALSHA", "0" * 40, 0)
        await self._call("EVAL", "return redis.call('NONSENSE')", 0)
        await self._call("EVAL", "return {1, 'a', false, {redis.call('HLEN', KEYS[1])}, nil, 2}", 1, "tbx:main:meta")
        await self._call("UNLINK", "trimmed")
        for n in range(1, 131):
            await self._call("XADD", "trimmed", "MAXLEN", "~", 5, f"{n}-0", "a", "b")
            await self._call("XLEN", "trimmed")
        await self._call("MULTI")
        await self._call("HLEN", "tbx:main:meta")
        await self._call("XLEN", "tbx:main:journal")
        await self._call("EXEC")


OPERATIONS = {
    "commit": 30,
    "pipelined": 6,
    "wrong_number": 6,
    "commit_whole": 2,
    "take_over": 2,
    "take_over_if_still": 2,
    "beat": 3,
    "release": 1,
    "mend": 2,
    "read": 4,
    "look": 3,
    "forget_scripts": 2,
    "wrong_type": 4,
    "spoilt_meta": 2,
    "older": 2,
    "flush": 1,
    "replica": 1,
    "out_of_memory": 1,
    "others": 2,
}


def play_simulated(seed: int) -> Player:
    world = Stepped()
    loop = VirtualLoop(ProcessClock(world), SimRedis(world))
    player = Player(loop, Address(path="memory"), seed)
    run(world, loop, player.play(STEPS))
    return player


@pytest.mark.parametrize("seed", range(8))
def test_every_reply_and_all_that_is_kept_is_as_with_a_real_server(seed: int, tmp_path: Path) -> None:
    players: list[Player] = []

    @in_loop
    async def play_real() -> None:
        async with a_redis(tmp_path) as server:
            player = Player(asyncio.get_running_loop(), server.address, seed)
            await player.play(STEPS)
            players.append(player)

    play_real()
    real, simulated = players[0], play_simulated(seed)
    for there, here in zip(real.loop.taps, simulated.loop.taps, strict=True):
        for one, other in zip(told(there), told(here), strict=True):
            assert one == other
    assert real.heard == simulated.heard


async def in_disk_trouble(loop: Any, address: Address, begin: Any) -> list[Any]:
    """What a store and a client hear of a server that cannot write to its disk."""
    player = Player(loop, address, 1)
    await player.play(0)
    player.cli = Connection(player.loop, address)
    await player.cli.open()
    player.stores = [await player._store("first")]
    await player.commit()
    await begin(player.cli)
    for act in (player.commit, player.beat, player.take_over, player.read, player.find):
        await act()
    await player._call("HSET", "other", "a", "b")
    await player._call("PING")
    return [*player.heard, *(pair for tap in player.loop.taps for pair in told(tap) if b"CONFIG" not in pair[0])]


def test_a_server_that_cannot_write_to_its_disk_refuses_as_a_real_one(tmp_path: Path) -> None:
    found: list[Any] = []

    @in_loop
    async def real() -> None:
        async def begin(client: Connection) -> None:
            (tmp_path / "dump.rdb" / "in_the_way").mkdir(parents=True)
            await setup.call("CONFIG", "SET", "save", "3600 1")
            await setup.call("BGSAVE")
            states: list[bytes] = []

            def failed() -> bool:
                setup.send(b"*2\r\n$4\r\nINFO\r\n$11\r\npersistence\r\n", states.append)
                return any(b"rdb_last_bgsave_status:err" in state for state in states)

            await until(failed, "the failure of saving")

        async with a_redis(tmp_path) as server, a_client(server.address) as setup:
            found.extend(await in_disk_trouble(asyncio.get_running_loop(), server.address, begin))
            await setup.call("CONFIG", "SET", "save", "")  # else it does not stop before it has saved

    real()
    world = Stepped()
    server = SimRedis(world)
    loop = VirtualLoop(ProcessClock(world), server)

    async def begin(client: Connection) -> None:
        server.database.disk_error = True

    assert run(world, loop, in_disk_trouble(loop, Address(path="memory"), begin)) == found
    assert str(found).count("MISCONF") >= 10


# --- scripts


def test_each_script_of_the_store_can_be_translated() -> None:
    for script in (COMMIT, ACQUIRE, BEAT, MEND):
        assert callable(translate(script))


@pytest.mark.parametrize(
    ("script", "arguments", "result"),
    [
        (b"return 1 + 2 * 3 .. ''", (), b"7"),
        (b"local a, b = ARGV[1], #ARGV\nreturn a .. ':' .. b", (b"x", b"y"), b"x:2"),
        (b"if ARGV[1] == 'a' then return 1 elseif ARGV[1] then return 2 else return 3 end", (b"b",), 2),
        (b"if not ARGV[1] then return 'none' end return 'some'", (), b"none"),
        (b"local n = 0 while n < 5 do n = n + 2 end return n", (), 6),
        (b"return ARGV[1] + 1", (b"41",), 42),
        (b"return ARGV[3] or 'that'", (b"this",), b"that"),
        (b"local t = {ARGV[1], 2}\nreturn t[2]", (b"x",), 2),
        (b"return tonumber('x') == nil and 0 ~= false", (), True),
        (b"-- says nothing\nreturn", (), None),
    ],
)
def test_a_script_gives_what_lua_gives(script: bytes, arguments: tuple[bytes, ...], result: object) -> None:
    assert translate(script)(lambda _: None, [], list(arguments)) == result


def test_an_error_in_a_script_names_its_line() -> None:
    with pytest.raises(LuaError, match="attempt to compare number with nil") as caught:
        translate(b"local a = 1\n\nif a < tonumber(ARGV[1]) then\n  return 1\nend")(lambda _: None, [], [b"x"])
    assert line_of(caught.value) == 3


@pytest.mark.parametrize(
    "script",
    [
        b"for i = 1, 2 do end",
        b"return function() end",
        b"x = 1",
        b"return redis.pcall('GET')",
        b"return 'a\\n'",
        b"end",
    ],
)
def test_what_is_not_translated_is_refused_when_it_is_loaded(script: bytes) -> None:
    with pytest.raises(SyntaxError):
        translate(script)
