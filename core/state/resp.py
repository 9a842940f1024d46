"""One raw connection to Redis: packed commands out, replies in, in order, each reply handed to its own callback.

Always true here: every command that was sent gets exactly one answer, the reply or the StoreUnavailable that took its
place. The event loop is an argument; nothing here blocks.
"""

import ssl
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar

import hiredis

from ..model.errors import StoreError, StoreUnavailable
from .address import Address

T = TypeVar("T")
Argument = str | bytes | int
Reply = Any  # what hiredis makes of a reply: bytes, int, None, list or ReplyError
ReplyError = hiredis.ReplyError

CONNECT_TIMEOUT_S = 5.0
# A server that is silent for so long with commands waiting is given up, and connected to again.
ANSWER_TIMEOUT_S = 10.0
WATCH_PERIOD_S = 1.0
# Unanswered commands and their bytes; beyond either, a further command is refused with StoreUnavailable.
PENDING_MAX = 8_192
PENDING_BYTES_MAX = 256 * 1024 * 1024


class Timer(Protocol):
    def cancel(self) -> None: ...


class Task(Protocol):
    def cancel(self) -> object: ...


class Transport(Protocol):
    def write(self, data: bytes, /) -> None: ...
    def close(self) -> None: ...
    def abort(self) -> None: ...


class Loop(Protocol):
    """What the store needs of an event loop."""

    def time(self) -> float: ...
    def call_soon(self, callback: Callable[..., object], /, *args: Any) -> Any: ...
    def call_later(self, delay: float, callback: Callable[..., object], /, *args: Any) -> Timer: ...
    def call_exception_handler(self, context: dict[str, Any], /) -> None: ...
    def create_future(self) -> Any: ...
    def create_task(self, coro: Coroutine[Any, Any, Any], /) -> Any: ...
    async def create_connection(self, protocol_factory: Any, host: Any, port: Any, /, *, ssl: Any) -> Any: ...
    async def create_unix_connection(self, protocol_factory: Any, path: Any, /) -> Any: ...


async def pause(loop: Loop, seconds: float) -> None:
    """Let `seconds` of the loop's time go by."""
    future = loop.create_future()
    timer = loop.call_later(seconds, _settle, future)
    try:
        await future
    finally:
        timer.cancel()


async def within(loop: Loop, seconds: float, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, or TimeoutError after `seconds`."""
    task = loop.create_task(work)
    ended = loop.create_future()
    task.add_done_callback(lambda _: _settle(ended))
    timer = loop.call_later(seconds, _settle, ended)
    try:
        await ended
        if not task.done():
            raise TimeoutError(f"no answer within {seconds:g} s")
        result: T = task.result()
        return result
    finally:
        timer.cancel()
        task.cancel()


def _settle(future: Any) -> None:
    if not future.done():
        future.set_result(None)


def pack(*arguments: Argument) -> bytes:
    """A command as the bytes of the Redis protocol."""
    packed: bytes = hiredis.pack_command(arguments)  # type: ignore[arg-type]  # its stub says a tuple of one
    return packed


class Connection:
    """A connection from open to loss; it is not opened a second time."""

    def __init__(self, loop: Loop, address: Address, on_lost: "OnLost | None" = None) -> None:
        self._loop = loop
        self._address = address
        self._on_lost = on_lost
        self._reader = hiredis.Reader()
        self._transport: Transport | None = None
        # (bytes of the command, who wants the reply), oldest first
        self._waiting: deque[tuple[int, Callable[[Reply], None]]] = deque()
        self._waiting_bytes = 0
        self._watch: Timer | None = None
        self.entered = False  # connected, and let in
        self._answered_at = 0.0  # when the last reply came, or the first command after a pause was sent
        self._reason = ""  # why we gave the connection up, where it was us

    async def open(self) -> None:
        """Connect and enter (AUTH, SELECT); raises StoreUnavailable or StoreError with what to do."""
        try:
            await within(self._loop, CONNECT_TIMEOUT_S, self._connect())
        except ssl.SSLError as error:
            why = error.reason or error
            raise StoreError(f"Redis at {self._address}: TLS failed ({why}); {_TLS_ADVICE}") from error
        except OSError as error:
            raise StoreUnavailable(
                f"Redis at {self._address} cannot be reached ({error.strerror or error}); is it running?"
            ) from error
        self._watch = self._loop.call_later(WATCH_PERIOD_S, self._watch_answers)
        try:
            await self._enter()
        except ReplyError as error:
            raise refusal(self._address, error) from error
        finally:
            if not self.entered:
                self.abort()

    async def _connect(self) -> None:
        if self._address.path:
            await self._loop.create_unix_connection(lambda: self, self._address.path)
        else:
            await self._loop.create_connection(
                lambda: self, self._address.host, self._address.port, ssl=self._address.tls
            )

    async def _enter(self) -> None:
        address = self._address
        if address.password:
            await self.call("AUTH", *([address.username] if address.username else []), address.password)
        if address.database:
            await self.call("SELECT", address.database)
        await self.call("PING")
        self.entered = True

    @property
    def pending(self) -> int:
        """Commands without an answer yet."""
        return len(self._waiting)

    def send(self, packed: bytes, on_reply: Callable[[Reply], None]) -> None:
        """Write one packed command; `on_reply` gets its reply, a ReplyError, or StoreUnavailable, later and once."""
        waiting = self._waiting
        if self._transport is None:
            self._loop.call_soon(on_reply, StoreUnavailable(f"Redis at {self._address} is not connected"))
            return
        if len(waiting) >= PENDING_MAX or self._waiting_bytes + len(packed) > PENDING_BYTES_MAX:
            text = f"{len(waiting)} commands ({self._waiting_bytes:,} bytes) wait for Redis, which is the bound"
            self._loop.call_soon(on_reply, StoreUnavailable(text))
            return
        if not waiting:
            self._answered_at = self._loop.time()
        waiting.append((len(packed), on_reply))
        self._waiting_bytes += len(packed)
        self._transport.write(packed)

    async def call(self, *arguments: Argument) -> Reply:
        """Send a command and wait for its reply; raises ReplyError and StoreUnavailable."""
        return (await self.pipeline([arguments]))[0]

    async def pipeline(self, commands: list[tuple[Argument, ...]]) -> list[Reply]:
        """Send commands together; their replies in order; raises the first that is an error."""
        replies: list[Reply] = []
        ended = self._loop.create_future()

        def take(reply: Reply) -> None:
            replies.append(reply)
            if len(replies) == len(commands):
                _settle(ended)

        for command in commands:
            self.send(pack(*command), take)
        await ended
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        return replies

    def close(self) -> None:
        """Hang up after what was written has left; nobody is told."""
        self._on_lost = None
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Hang up at once; nobody is told."""
        self._on_lost = None
        if self._transport is not None:
            self._transport.abort()

    # Called by the transport.

    def connection_made(self, transport: Transport) -> None:
        self._transport = transport
        self._answered_at = self._loop.time()

    def data_received(self, data: bytes) -> None:
        reader, waiting = self._reader, self._waiting
        try:
            reader.feed(data)
            reply = reader.gets()
            while reply is not False:
                if not waiting:
                    raise hiredis.ProtocolError("a reply that nobody asked for")
                size, on_reply = waiting.popleft()
                self._waiting_bytes -= size
                self._hand_over(on_reply, reply)
                reply = reader.gets()
        except hiredis.ProtocolError as error:
            self._give_up(f"what answers is not Redis ({error})")
        self._answered_at = self._loop.time()

    def eof_received(self) -> bool:
        return False  # let the transport close itself

    def pause_writing(self) -> None:
        """The bounds in `send` hold instead."""

    def resume_writing(self) -> None:
        """The bounds in `send` hold instead."""

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        if self._watch is not None:
            self._watch.cancel()
        reason = self._reason or (str(error) if error else "it closed the connection")
        lost = StoreUnavailable(f"Redis at {self._address} was lost: {reason}")
        while self._waiting:
            _, on_reply = self._waiting.popleft()
            self._hand_over(on_reply, lost)
        self._waiting_bytes = 0
        if self._on_lost is not None:
            self._on_lost(self, reason)

    def _hand_over(self, on_reply: Callable[[Reply], None], reply: Reply) -> None:
        # A fault in one receiver must not cost the others their replies.
        try:
            on_reply(reply)
        except Exception as error:
            self._loop.call_exception_handler({"message": "a receiver of a Redis reply failed", "exception": error})

    def _watch_answers(self) -> None:
        if self._waiting and self._loop.time() - self._answered_at > ANSWER_TIMEOUT_S:
            self._give_up(f"no answer for {ANSWER_TIMEOUT_S:g} s")
            return
        self._watch = self._loop.call_later(WATCH_PERIOD_S, self._watch_answers)

    def _give_up(self, reason: str) -> None:
        self._reason = reason
        if self._transport is not None:
            self._transport.abort()


OnLost = Callable[[Connection, str], None]

_TLS_ADVICE = "write redis:// for a server without TLS, and give ssl_ca_certs= for a certificate of your own authority"

_ADVICE = {
    "NOAUTH": "asks for a password: write it into REDIS_URL as redis://:password@host:port/0",
    "WRONGPASS": "refused the user name or password in REDIS_URL",
    "NOPERM": "does not let this user run the command: give it ~tbx:* and +@all -@admin",
    "LOADING": "is still loading its data; try again in a moment",
    "READONLY": "is a replica, which takes no writes: point REDIS_URL at the master",
    "MASTERDOWN": "is a replica that has lost its master",
    "OOM": "is out of memory: raise its maxmemory",
    "MISCONF": "cannot write to its disk: make room, or see its log",
    "BUSY": "is busy with another script",
    "CLUSTERDOWN": "is a cluster that is down",
    "NOREPLICAS": "has fewer replicas than it was told to wait for",
}
_FOR_GOOD = ("NOAUTH", "WRONGPASS", "NOPERM")


def refusal(address: Address, error: Exception) -> StoreError:
    """What an error reply means for us: StoreUnavailable where trying again can help, else StoreError."""
    text = str(error)
    for code, advice in _ADVICE.items():
        # An error inside a script comes wrapped: "ERR Error running script (...): @user_script:9: -OOM command ..."
        if code in text:
            kind = StoreError if code in _FOR_GOOD else StoreUnavailable
            return kind(f"Redis at {address} {advice} ({text})")
    if "without any password configured" in text:
        return StoreError(f"Redis at {address} has no password set: take it out of REDIS_URL")
    return StoreError(f"Redis at {address} answered: {text}")
