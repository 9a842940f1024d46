"""The exchange's one port: HTTP/1.1 requests are read here, WebSocket upgrades are handed to picows.

Always true here:
- The path of a request's first line decides, also on a connection that has served HTTP, and nothing is read twice: what
  has arrived by then goes to picows as it is.
- Every wait and every buffer has a bound: a request that does not arrive in time, is too long or is not HTTP ends the
  connection, with 400, 408, 413 or 431 where there is somebody to tell.
- Requests of a connection are answered in the order in which they came; the next is read when the last is answered.
- A refusal is the last answer of a connection: of what came with it or after it nothing is carried out.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterable
from http import HTTPStatus
from typing import Protocol, cast

import httptools
from picows import WSListener, WSUpgradeRequest, WSUpgradeResponseWithListener
from picows.picows import WSAutoPingStrategy, WSProtocol  # type: ignore[attr-defined]

from ....core.kernel.clock import SECOND_NS, Clock, Timer

WEBSOCKET_PATHS = (b"/ws-api/", b"/ws-api ", b"/ws/", b"/ws ", b"/ws?", b"/stream/", b"/stream ", b"/stream?")
FIRST_BYTES_MAX = 15 * 1024  # of a first line, which may name many streams; what picows takes of an upgrade is 16 KiB
HEAD_BYTES_MAX = 32 * 1024
HEADERS_MAX = 100
BODY_BYTES_MAX = 1024 * 1024
REQUEST_NS_MAX = 10 * SECOND_NS  # from its first byte to its last
IDLE_NS_MAX = 120 * SECOND_NS  # between requests
PIPELINED_MAX = 32  # requests that wait for the answer to the one before
FRAME_BYTES_MAX = 1024 * 1024
WRITE_BUFFER_BYTES_MAX = 4 * 1024 * 1024  # a WebSocket client that reads slower than this is dropped
HANDSHAKE_S_MAX = 5.0

LOGGER = logging.getLogger("tbx.exchange.websocket")
LOGGER.setLevel(logging.ERROR)  # picows tells of each connection, which nobody asked for

STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}


class HttpRequest:
    """One HTTP request as it came. `headers` are by lower-case name; the last of a name counts."""

    __slots__ = ("body", "headers", "ip", "keep_alive", "method", "path", "query")

    def __init__(
        self,
        method: str,
        path: str,
        query: bytes,
        headers: dict[str, str],
        body: bytes,
        ip: str,
        *,
        keep_alive: bool,
    ) -> None:
        self.method = method
        self.path = path
        self.query = query
        self.headers = headers
        self.body = body
        self.ip = ip
        self.keep_alive = keep_alive


class Site(Protocol):
    """Who answers."""

    clock: Clock

    def on_front_open(self, front: Front) -> None: ...

    def on_front_closed(self, front: Front) -> None: ...

    def on_request(self, front: Front, request: HttpRequest) -> None:
        """Answers with `front.reply`, at once or later, or never."""
        ...

    def on_upgrade(self, ip: str, request: WSUpgradeRequest) -> WSListener | WSUpgradeResponseWithListener: ...


class Front(asyncio.Protocol):
    """A connection from its acceptance on."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.ip = ""
        self.transport: asyncio.Transport | None = None
        self.muted = False
        self._sniffed: bytearray | None = bytearray()  # of a first line; None while it is known to be HTTP
        self._parser = httptools.HttpRequestParser(self)
        self._timer: Timer | None = None
        self._waiting: deque[HttpRequest] = deque()
        self._answering: HttpRequest | None = None
        self._begin()

    def _begin(self) -> None:
        """A new request may come."""
        self._url = b""
        self._headers: dict[str, str] = {}
        self._header_count = 0
        self._head_bytes = 0
        self._body = bytearray()
        self._began = False

    # --- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's derives from nothing of asyncio's
        peer = transport.get_extra_info("peername")
        self.ip = str(peer[0]) if peer else ""
        self.site.on_front_open(self)
        self._wait(REQUEST_NS_MAX)

    def connection_lost(self, _exc: Exception | None) -> None:
        self._no_wait()
        self.transport = None
        self.site.on_front_closed(self)

    def data_received(self, data: bytes) -> None:
        if self.muted:
            return
        if self._sniffed is None:
            self._feed(data)
            return
        if not self._sniffed:
            self._wait(REQUEST_NS_MAX)
        self._sniffed += data
        end = self._sniffed.find(b"\r\n")
        if end < 0:
            if len(self._sniffed) > FIRST_BYTES_MAX:
                self.refuse(431)
            return
        received, self._sniffed = bytes(self._sniffed), None
        path = received[:end].partition(b" ")[2]
        if path.startswith(WEBSOCKET_PATHS):
            if len(received) > FIRST_BYTES_MAX:
                self.refuse(431)
            else:
                self._hand_over(received)
        else:
            self._feed(received)

    def close(self) -> None:
        if self.transport is not None:
            self.transport.close()

    def abort(self) -> None:
        """Gone without a word."""
        if self.transport is not None:
            self.transport.abort()

    def _wait(self, ns: int) -> None:
        self._no_wait()
        self._timer = self.site.clock.call_in(ns, self._too_late)

    def _no_wait(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_late(self) -> None:
        self._timer = None
        if self._began or self._sniffed:
            self.refuse(408)
        else:
            self.close()

    def mute(self) -> None:
        """The reply never comes, and nothing more is read; the connection stays for a while."""
        self.muted = True
        self._wait(IDLE_NS_MAX)

    def pause_writing(self) -> None:
        """A client that does not read its answers is not read from either."""
        if self.transport is not None:
            self.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.transport is not None:
            self.transport.resume_reading()

    # --- a WebSocket

    def _hand_over(self, received: bytes) -> None:
        """From here on picows owns the transport; this object hears no more of it."""
        transport, self.transport = self.transport, None
        assert transport is not None
        self._no_wait()
        self.site.on_front_closed(self)
        protocol = websocket_protocol(lambda request: self.site.on_upgrade(self.ip, request))
        transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES_MAX)
        # uvloop chooses how it reads when reading starts: plain and buffered protocols do not mix without a pause.
        transport.pause_reading()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        buffer = protocol.get_buffer(len(received))
        buffer[: len(received)] = received
        protocol.buffer_updated(len(received))
        if not transport.is_closing():
            transport.resume_reading()

    # --- HTTP

    def _feed(self, data: bytes) -> None:
        if self.transport is None:
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self.refuse(400)
        except httptools.HttpParserError:
            self.refuse(400)

    def on_message_begin(self) -> None:
        self._begin()
        self._began, self._sniffed = True, None
        self._wait(REQUEST_NS_MAX)

    def on_url(self, url: bytes) -> None:
        self._url += url
        self._count_head(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._header_count += 1
        self._count_head(len(name) + len(value))
        if self._header_count <= HEADERS_MAX:
            self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        if len(self._body) + len(body) > BODY_BYTES_MAX:
            self.refuse(413)
        else:
            self._body += body

    def on_message_complete(self) -> None:
        if self.transport is None or self.transport.is_closing():  # refused on the way, or the last was to be the last
            return
        path, _, query = self._url.partition(b"?")
        request = HttpRequest(
            self._parser.get_method().decode("ascii"),
            path.decode("latin-1"),
            query.partition(b"#")[0],
            self._headers,
            bytes(self._body),
            self.ip,
            keep_alive=self._parser.should_keep_alive(),
        )
        self._began = False
        self._no_wait()
        if len(self._waiting) >= PIPELINED_MAX:
            self.abort()
            return
        self._waiting.append(request)
        if self._answering is None:
            self._next()

    def _count_head(self, count: int) -> None:
        self._head_bytes += count
        if self._head_bytes > HEAD_BYTES_MAX or self._header_count > HEADERS_MAX:
            self.refuse(431)

    def _next(self) -> None:
        self._answering = self._waiting.popleft()
        self.site.on_request(self, self._answering)

    def reply(self, status: int, headers: Iterable[tuple[str, str]], body: bytes) -> None:
        """The answer to the request that came first of those unanswered. Headers without Content-Length."""
        request, self._answering = self._answering, None
        if self.transport is None or request is None or self.transport.is_closing():
            return
        lines = "".join([f"{name}: {value}\r\n" for name, value in headers])
        keep = "" if request.keep_alive else "Connection: close\r\n"
        self.transport.write(
            b"%b%bContent-Length: %d\r\n\r\n%b"
            % (STATUS_LINES[status], f"{lines}{keep}".encode("latin-1"), len(body), b"" if _bodiless(request) else body)
        )
        if not request.keep_alive:
            self.close()
        elif self._waiting:
            self._next()
        else:
            self._wait(IDLE_NS_MAX)
            if not self._began:
                self._sniffed = bytearray()  # the next request may be an upgrade: clients share their connections

    def refuse(self, status: int) -> None:
        """An answer to what is no proper request, and the end of the connection."""
        if self.transport is not None and not self.transport.is_closing():
            self._waiting.clear()
            self.transport.write(STATUS_LINES[status] + b"Connection: close\r\nContent-Length: 0\r\n\r\n")
            self.transport.close()


def _bodiless(request: HttpRequest) -> bool:
    return request.method == "HEAD"


def websocket_protocol(upgraded: object) -> WSProtocol:
    """picows' server side of a WebSocket on a transport that is already there.

    `WSProtocol` is what `picows.ws_create_server` puts on each accepted socket. It is not public, and picows offers no
    other way to share a port with plain HTTP: its constructor is used here as in picows 2.3 (pyproject.toml keeps it
    below 3), and nowhere else. permessage-deflate offers are declined by not answering them.
    """
    return WSProtocol(
        None,  # host and port: the client's side only
        None,  # path: the client's side only
        False,  # is_client_side
        upgraded,
        LOGGER,
        True,  # disconnect_on_exception
        HANDSHAKE_S_MAX,
        False,  # enable_auto_ping: pings are ours, with a payload
        20,
        20,
        WSAutoPingStrategy.PING_WHEN_IDLE,
        False,  # enable_auto_pong: pings count as messages
        FRAME_BYTES_MAX,
        None,  # extra_headers
        16 * 1024,
    )


async def listen(loop: asyncio.AbstractEventLoop, site: Site, host: str, port: int) -> asyncio.Server:
    """A server on the address. Raises OSError where the address cannot be had."""
    return await loop.create_server(lambda: Front(site), host, port, backlog=1024)
