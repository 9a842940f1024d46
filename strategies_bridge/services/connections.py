"""HTTP/1.1 requests to one address over connections that are kept: bytes out, a status and a body back.

Always true here: a connection carries one request at a time; after anything but a whole answer (a failure, bytes that
nobody asked for, a call that was called off) it is closed and never used again. No more than ANSWER_BYTES_MAX of an
answer are held. A request goes out twice only where a kept connection ended before the first byte of an answer: the
service had given it up.

The parser is httptools, which the server has loaded anyway. A general client costs a millisecond a request, and an
entry waits for it.
"""

import asyncio
import ssl
from typing import Any, Final
from urllib.parse import urlsplit

import httptools

ANSWER_BYTES_MAX: Final = 1 << 20
HEAD_BYTES_MAX: Final = 1 << 16
CONNECTIONS_MAX: Final = 32
# Servers close idle connections after 5 s (Node, uvicorn): this side does it before, so that few close under a call.
IDLE_S: Final = 4.0


class Unconnected(Exception):
    """No connection could be made."""


class Broken(Exception):
    """A connection, and no whole answer on it."""


class Unusable(ValueError):
    """An answer that is not taken, whatever it says."""


class Connection(asyncio.Protocol):
    """One connection."""

    def __init__(self) -> None:
        # for the connection
        self.transport: Any = None  # uvloop's are no asyncio.Transport
        self.open = False
        self.idle_since = 0.0
        # for a request
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None
        self._parser: Any = None
        self._parts: list[bytes] = []
        self._received = 0
        self._size = 0
        self._status = 0
        self._ends_with_connection = True  # an answer without length is as long as the connection

    def ask(self, request: bytes) -> "asyncio.Future[tuple[int, bytes]]":
        """Send; the future is the answer, or fails with Broken or Unusable."""
        self._parser = httptools.HttpResponseParser(self)
        self._begin()
        self._received = 0
        self._answer = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return self._answer

    @property
    def answering(self) -> bool:
        """Whether any byte of an answer has come."""
        return self._received > 0

    def close(self) -> None:
        self.open = False
        if self.transport is not None:
            self.transport.abort()

    # --- the transport

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.open = True

    def data_received(self, data: bytes) -> None:
        if self._answer is None or self._answer.done():
            self.close()
            return
        self._received += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError as error:
            self._fail(error.__context__ or error)
        except httptools.HttpParserError as error:
            self._fail(Broken(f"it says what is no HTTP ({error})"))
        else:
            if self._received > ANSWER_BYTES_MAX + HEAD_BYTES_MAX:
                self._fail(Unusable(f"it has more than {ANSWER_BYTES_MAX} bytes"))

    def connection_lost(self, error: Exception | None) -> None:
        self.open = False
        if self._answer is None or self._answer.done():
            return
        if error is None and self._status >= 200 and self._ends_with_connection:
            self._answer.set_result((self._status, b"".join(self._parts)))
        else:
            self._fail(Broken(f"the connection ended before the answer{' did' if self._received else ' began'}"))

    # --- the parser

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name in (b"content-length", b"transfer-encoding"):
            self._ends_with_connection = False
        elif name == b"content-encoding" and value.lower() != b"identity":
            shown = value[:20].decode("latin-1")
            raise Unusable(f"it is compressed ({shown}), which was not asked for")

    def on_headers_complete(self) -> None:
        self._status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        self._size += len(body)
        if self._size > ANSWER_BYTES_MAX:
            raise Unusable(f"it has more than {ANSWER_BYTES_MAX} bytes")
        self._parts.append(body)

    def on_message_complete(self) -> None:
        if self._status < 200:  # 100 Continue and the like: the answer is still to come
            self._begin()
        elif self._answer is not None and not self._answer.done():
            if not self._parser.should_keep_alive():
                self.open = False
            self._answer.set_result((self._status, b"".join(self._parts)))
        else:
            self.open = False

    def _begin(self) -> None:
        self._parts, self._size, self._status, self._ends_with_connection = [], 0, 0, True

    def _fail(self, error: BaseException) -> None:
        self.close()
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)


class Connections:
    """Those to one address; at most CONNECTIONS_MAX at a time, further requests wait for one."""

    def __init__(self, url: str) -> None:
        """`url` is http or https, with a path before all others or without."""
        parts = urlsplit(url)
        self._tls = parts.scheme == "https"
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if self._tls else 80)
        self._prefix = parts.path.rstrip("/")
        self._head = (
            f"host: {parts.netloc}\r\naccept: application/json\r\naccept-encoding: identity\r\nuser-agent: tbx\r\n"
        )
        self._idle: list[Connection] = []
        self._room = asyncio.Semaphore(CONNECTIONS_MAX)
        self._context: ssl.SSLContext | None = None

    async def request(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        """Status and body. `path` is ASCII and quoted, `body` JSON. Raises Unconnected, Broken and Unusable."""
        head = f"{method} {self._prefix}{path} HTTP/1.1\r\n{self._head}"
        if body is not None:
            head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
        sent = head.encode("ascii") + b"\r\n" + (body or b"")
        async with self._room:
            while (kept := self._kept()) is not None:
                try:
                    return await self._on(kept, sent)
                except Broken:
                    if kept.answering:
                        raise
            return await self._on(await self._connect(), sent)

    def close(self) -> None:
        """Those that are not in use; later requests make new ones."""
        for connection in self._idle:
            connection.close()
        self._idle.clear()

    def _kept(self) -> Connection | None:
        """The one that was used last, as long as it is young enough."""
        oldest = asyncio.get_running_loop().time() - IDLE_S
        while self._idle:
            connection = self._idle.pop()
            if connection.open and connection.idle_since > oldest:
                return connection
            connection.close()
        return None

    async def _on(self, connection: Connection, sent: bytes) -> tuple[int, bytes]:
        try:
            answer = await connection.ask(sent)
        except BaseException:
            connection.close()
            raise
        if connection.open:
            connection.idle_since = asyncio.get_running_loop().time()
            self._idle.append(connection)
        else:
            connection.close()
        return answer

    async def _connect(self) -> Connection:
        if self._tls and self._context is None:
            self._context = ssl.create_default_context()
        loop = asyncio.get_running_loop()
        try:
            _, connection = await loop.create_connection(Connection, self._host, self._port, ssl=self._context)
        except (OSError, UnicodeError) as error:  # a name that is none, a refusal, a certificate
            raise Unconnected(str(error) or type(error).__name__) from error
        return connection
