"""A Redis that is not there: bytes in, bytes out, in the world's time, with every way in which a real one fails.

Always true here: commands are carried out one after the other, when they arrive; a reply leaves later. What was carried
out is in memory at once and on disk within a second (`appendfsync everysec`), so a killed server comes back as it was,
and one that lost its power older. Bytes of one connection keep their order in each direction.

    client -> wire_ns -> carried out -> process_ns -> reply -> wire_ns -> client
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

import hiredis

from tbx.core.kernel.clock import MS_NS, SECOND_NS
from tbx.core.state.resp import pack

from ..live_network import Stepped
from .loop import VirtualLoop
from .redis_data import MISCONF, OK, WRITES, Database, Refused, array, bulk, error
from .redis_scripts import Script, script_of

VERSION = "6.2.14"
COMMIT_NS = 90_000  # from the write to the reply, measured on a unix socket
WIRE_NS = 20_000  # of it, each way
FSYNC_NS = SECOND_NS  # a power cut takes at most what was written in so long
UNSAVED_MAX = 4_096  # commands that the disk lacks before memory is copied to it

NOSCRIPT = b"NOSCRIPT No matching script. Please use EVAL."
LOADING = b"LOADING Redis is loading the dataset in memory"
NO_KEYS = b"ERR value is not an integer or out of range"


class Transport:
    """One connection: the client's end is this object's methods, the server's is `gone`."""

    def __init__(self, server: SimRedis, loop: VirtualLoop, protocol: Any) -> None:
        self.server = server
        self.loop = loop
        self.protocol = protocol
        self.reader = hiredis.Reader()
        self.queued: list[list[bytes]] | None = None  # after MULTI
        self.closed = False  # the client hears nothing more
        self.gone = False  # the server reads nothing more
        self._due_ns = [0, 0]  # up, down: what follows arrives no earlier

    # The client's end, as asyncio has it.

    def write(self, data: bytes) -> None:
        if not self.closed and not self.gone:
            self.server.world.call_in(self._takes_ns(0), self._arrive, bytes(data))

    def close(self) -> None:
        self._end(None)

    def abort(self) -> None:
        """What was written still arrives."""
        self._end(None)

    def is_closing(self) -> bool:
        return self.closed

    def _end(self, problem: Exception | None) -> None:
        if not self.closed:
            self.closed = True
            self.loop.call_soon(self.protocol.connection_lost, problem)

    # On the way.

    def _takes_ns(self, direction: int, after_ns: int = 0) -> int:
        server = self.server
        now_ns = server.world.now_ns()
        due_ns = max(self._due_ns[direction], now_ns + server.wire_ns + server.slow_ns + after_ns)
        self._due_ns[direction] = due_ns
        return due_ns - now_ns

    def _arrive(self, data: bytes) -> None:
        if not self.gone:
            self.server.arrived(self, data)

    def reply(self, data: bytes, after_ns: int) -> None:
        # The process reads it when it comes to it: later where it is paused, never where it is dead.
        self.loop.clock.call_in(self._takes_ns(1, after_ns), self._hear, data)

    def _hear(self, data: bytes) -> None:
        if not self.closed:
            self.protocol.data_received(data)

    # The server's end.

    def cut(self, *, lost: bool = False) -> None:
        """The server, or what is in between, ends it; `lost`: also replies that are on their way."""
        self.gone = True
        if lost:
            self.loop.clock.run(self._lost)
        else:
            self.loop.clock.call_in(self._takes_ns(1), self._lost)

    def _lost(self) -> None:
        self._end(ConnectionResetError(104, "Connection reset by peer"))


class SimRedis:
    """The server. Attributes and methods of "Faults" may be used at any time; `heal` ends all of them."""

    def __init__(self, world: Stepped, *, commit_ns: int = COMMIT_NS) -> None:
        self.world = world
        self.wire_ns = min(WIRE_NS, commit_ns // 2)
        self.process_ns = commit_ns - 2 * self.wire_ns
        self.database = Database()
        self.connections: list[Transport] = []
        self.scripts: dict[bytes, Script] = {}
        self.free_ns = 0  # when the server has done what it was given
        self.command_count = 0
        # Told of each run of a script: its text, arguments and reply.
        self.on_script: Callable[[bytes, list[bytes], bytes], object] | None = None
        self._disk = Database()
        self._unsaved: deque[tuple[int, list[bytes]]] = deque()  # what it lacks: when, command
        self._copy: Database | None = None  # of memory, which becomes the disk's state when it is old enough
        self._copied = (0, 0)  # when, and how many of the unsaved commands are in it
        self._waiting: list[tuple[Transport, bytes]] = []  # arrived while it stood still
        self._paused_ns = self._away_ns = self._loading_ns = 0  # until when
        # Faults:
        self.slow_ns = 0  # more on the way, each way
        self.unreachable = False  # connections are tried in vain, without a word
        self.commands_to_lose = 0  # the connection breaks before so many of the next commands arrive
        self.replies_to_lose = 0  # ... after so many of the next commands were carried out, before their replies

    # --- faults

    def cut(self, *, lost: bool = False) -> None:
        """Every connection breaks now; what is on its way to the server is lost, and replies too where `lost`."""
        for connection in self.connections:
            if not connection.gone:
                connection.cut(lost=lost)
        self.connections.clear()
        self._waiting.clear()

    def pause(self, for_ns: int) -> None:
        """Stands still, as if stopped by a signal; connections stay, and what arrives is done afterwards."""
        until_ns = self.world.now_ns() + for_ns
        if until_ns > self._paused_ns:
            self._paused_ns = until_ns
            self.world.call_in(for_ns, self._go_on)

    def kill(self, away_ns: int, loading_ns: int = 0) -> None:
        """kill -9, and a start `away_ns` later that reads its file for `loading_ns`: as it was, without its scripts."""
        now_ns = self.world.now_ns()
        self.cut()
        self.scripts.clear()
        self._paused_ns = 0
        self._away_ns = now_ns + away_ns
        self._loading_ns = self._away_ns + loading_ns

    def power_cut(self, lost_ns: int, away_ns: int, loading_ns: int = 0) -> int:
        """As `kill`, and what was written in the last `lost_ns` (a second at most) is lost: how many commands."""
        assert 0 <= lost_ns <= FSYNC_NS
        self._save(self.world.now_ns() - lost_ns)
        lost = len(self._unsaved)
        self._unsaved.clear()
        self._copy = None
        troubles = self.database
        self.database = self._disk.copy()
        self.database.readonly, self.database.disk_error = troubles.readonly, troubles.disk_error
        self.database.out_of_memory = troubles.out_of_memory
        self.kill(away_ns, loading_ns)
        return lost

    def forget_scripts(self) -> None:
        self.scripts.clear()

    def flush(self) -> None:
        """Somebody deletes everything."""
        self.ask("FLUSHALL")

    def heal(self) -> None:
        """No faults, as of now; what was lost stays lost."""
        database = self.database
        database.readonly = database.disk_error = database.out_of_memory = False
        self.slow_ns, self.unreachable = 0, False
        self.commands_to_lose = self.replies_to_lose = 0
        self._away_ns = self._loading_ns = 0
        self._paused_ns = 0
        self._go_on()

    @property
    def away(self) -> bool:
        """No process is there."""
        return self._away_ns > self.world.now_ns()

    # --- connections

    def connect(self, loop: VirtualLoop, protocol: Any) -> asyncio.Future[Any]:
        done = loop.create_future()
        if not self.unreachable:
            loop.clock.call_in(2 * self.wire_ns + self.slow_ns, self._connected, loop, protocol, done)
        return done

    def _connected(self, loop: VirtualLoop, protocol: Any, done: asyncio.Future[Any]) -> None:
        if done.done():
            return
        if self.away:
            done.set_exception(ConnectionRefusedError(111, "Connection refused"))
            return
        connection = Transport(self, loop, protocol)
        self.connections = [other for other in self.connections if not other.gone and other.loop.alive]
        self.connections.append(connection)
        protocol.connection_made(connection)
        done.set_result(connection)

    def arrived(self, connection: Transport, data: bytes) -> None:
        """Bytes of a client."""
        if self._paused_ns > self.world.now_ns():
            self._waiting.append((connection, data))
            return
        connection.reader.feed(data)
        replies: list[bytes] = []
        while (arguments := connection.reader.gets()) is not False:
            if self.commands_to_lose:
                self.commands_to_lose -= 1
                connection.cut()
                break
            replies.append(self._answer(connection, arguments))
            if self.replies_to_lose:
                self.replies_to_lose -= 1
                connection.cut(lost=True)
                return
        if replies:
            now_ns = self.world.now_ns()
            self.free_ns = max(self.free_ns, now_ns) + self.process_ns * len(replies)
            connection.reply(b"".join(replies), self.free_ns - now_ns)

    def _go_on(self) -> None:
        if self._paused_ns > self.world.now_ns():
            return
        waiting, self._waiting = self._waiting, []
        for connection, data in waiting:
            if not connection.gone:
                self.arrived(connection, data)

    # --- commands

    def ask(self, *arguments: str | bytes | int) -> Any:
        """What somebody else's client gets for a command, at once."""
        reader = hiredis.Reader()
        reader.feed(pack(*arguments))
        packed = reader.gets()
        reader.feed(self.run(packed))
        return reader.gets()

    def _answer(self, connection: Transport, arguments: list[bytes]) -> bytes:
        name = arguments[0].upper()
        if name == b"MULTI":
            connection.queued = []
            return OK
        if connection.queued is None:
            return self.run(arguments)
        if name == b"EXEC":
            queued, connection.queued = connection.queued, None
            return array([self.run(one) for one in queued])
        if name == b"DISCARD":
            connection.queued = None
            return OK
        connection.queued.append(arguments)
        return b"+QUEUED\r\n"

    def run(self, arguments: list[bytes]) -> bytes:
        """The reply to one command, which is carried out now."""
        self.command_count += 1
        name = arguments[0]
        if self._loading_ns > self.world.now_ns() and name not in (b"AUTH", b"SELECT", b"INFO"):
            return error(LOADING)
        try:
            if name == b"EVALSHA" or name == b"EVAL":
                return self._eval(name, arguments)
            if name in SERVER:
                return SERVER[name](self, arguments)
            if name in WRITES:
                self.database.refuse(name)
            elif name == b"PING" and self.database.disk_error:
                return error(MISCONF)
            reply = self.database.run(arguments)
        except Refused as refused:
            return error(refused.text)
        if name in WRITES:
            self._written(arguments)
        return reply

    def _eval(self, name: bytes, arguments: list[bytes]) -> bytes:
        if name == b"EVAL":
            script = script_of(arguments[1])
            self.scripts[script.sha] = script
        else:
            found = self.scripts.get(arguments[1])
            if found is None:
                return error(NOSCRIPT)
            script = found
        if not arguments[2].isdigit():
            raise Refused(NO_KEYS)
        keys = 3 + int(arguments[2])
        database = self.database
        database.now_ms = self.world.now_ns() // MS_NS
        reply = script.run(database, arguments[3:keys], arguments[keys:])
        # What an error reply tells of a refusal has changed nothing; one in the middle of a script may have.
        if reply[:1] != b"-" or not database.troubled:
            self._written([b"EVAL", script.text, *arguments[2:]])
        if self.on_script is not None:
            self.on_script(script.text, arguments[keys:], reply)
        return reply

    def _script(self, arguments: list[bytes]) -> bytes:
        if arguments[1].upper() == b"LOAD":
            script = script_of(arguments[2])
            self.scripts[script.sha] = script
            return bulk(script.sha)
        self.scripts.clear()
        return OK

    def _info(self, _: list[bytes]) -> bytes:
        lines = (
            "# Server",
            f"redis_version:{VERSION}",
            "",
            "# Memory",
            "maxmemory:0",
            "maxmemory_policy:noeviction",
            "",
        )
        return bulk("\r\n".join(lines).encode())

    def _config(self, arguments: list[bytes]) -> bytes:
        """CONFIG SET maxmemory: any bound is too small."""
        if [word.lower() for word in arguments[1:3]] != [b"set", b"maxmemory"]:
            raise Refused(b"ERR Unsupported CONFIG parameter: %b" % b" ".join(arguments[2:3]))
        self.database.out_of_memory = arguments[3] != b"0"
        return OK

    def _replicaof(self, arguments: list[bytes]) -> bytes:
        self.database.readonly = arguments[1].upper() != b"NO"
        return OK

    def _enter(self, _: list[bytes]) -> bytes:
        return OK

    # --- disk

    def _written(self, arguments: list[bytes]) -> None:
        now_ns = self.world.now_ns()
        self._unsaved.append((now_ns, arguments))
        if len(self._unsaved) <= UNSAVED_MAX or now_ns < self._copied[0] + FSYNC_NS:
            return
        if self._copy is not None:
            self._disk = self._copy
            for _ in range(self._copied[1]):
                self._unsaved.popleft()
        self._copy, self._copied = self.database.copy(), (now_ns, len(self._unsaved))

    def _save(self, until_ns: int) -> None:
        """Bring the disk up to what was written until then."""
        unsaved, disk = self._unsaved, self._disk
        while unsaved and unsaved[0][0] <= until_ns:
            at_ns, arguments = unsaved.popleft()
            disk.now_ms = at_ns // MS_NS
            if arguments[0] == b"EVAL":
                keys = 3 + int(arguments[2])
                script_of(arguments[1]).run(disk, arguments[3:keys], arguments[keys:])
            else:
                try:
                    disk.run(arguments)
                except Refused:
                    continue  # as it was in memory


SERVER: dict[bytes, Callable[[SimRedis, list[bytes]], bytes]] = {
    b"AUTH": SimRedis._enter,
    b"CONFIG": SimRedis._config,
    b"INFO": SimRedis._info,
    b"REPLICAOF": SimRedis._replicaof,
    b"SCRIPT": SimRedis._script,
    b"SELECT": SimRedis._enter,
}
