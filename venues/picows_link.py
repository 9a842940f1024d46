"""A session's links over real sockets: picows, straight from the socket's callback.

Always true here: each attempt tells its link exactly once how it went, and an open link exactly once that it closed.
Text messages arrive whole; fragments are put together, within `MESSAGE_BYTES_MAX`. Pings are answered here and not by
picows, as a ping is a sign of life that the session wants to hear of.
"""

import asyncio
import logging
import ssl
from collections.abc import Callable
from functools import cache, partial
from typing import Final

from picows import (
    WSCloseCode,
    WSError,
    WSFrame,
    WSHandshakeError,
    WSInvalidURL,
    WSListener,
    WSMsgType,
    WSTransport,
    ws_connect,
)

from ..core.kernel.clock import SECOND_NS
from .background import watch
from .limits import retry_after_ns
from .session import OPEN_TIMEOUT_NS, Cancel, Connect, ConnectFailed, Link

# A frame, and what fragments may add up to; beyond it the link is closed. A list of 10,000 open orders is 5 MB.
MESSAGE_BYTES_MAX: Final = 32 << 20
SEND_BUFFER_MAX: Final = 1 << 20  # bytes that the venue did not read yet; beyond it the link is closed
GOODBYE_S: Final = 2.0  # for the last bytes to leave, then the connection is cut

TEXT, BINARY, CONTINUATION = WSMsgType.TEXT, WSMsgType.BINARY, WSMsgType.CONTINUATION
PING, PONG, CLOSE = WSMsgType.PING, WSMsgType.PONG, WSMsgType.CLOSE

# What picows has to say is said by the session, once and in its own words.
_QUIET = logging.Logger("picows", logging.CRITICAL + 1)


class PicowsWire(WSListener):
    """One connection: picows' callbacks on one side, the link on the other."""

    def __init__(self, loop: asyncio.AbstractEventLoop, link: Link) -> None:
        self.link = link
        self.opened = False
        self._loop = loop
        self._take = link.take
        self._transport: WSTransport | None = None
        self._parts: list[bytes] = []  # of a message that is not whole yet
        self._parts_bytes = 0
        self._begun = False  # a message of which the last part did not come yet
        self._left_out = False  # its parts are those of a binary message

    # --- picows

    def on_ws_connected(self, transport: WSTransport) -> None:
        self._transport, self.opened = transport, True
        transport.underlying_transport.set_write_buffer_limits(high=SEND_BUFFER_MAX)
        self.link.opened(self)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == TEXT and frame.fin:
            self._take(frame.get_payload_as_bytes())
        else:
            self._other(transport, frame)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self.link.closed(_closed_reason(transport))

    def pause_writing(self) -> None:
        self.link.closed(f"the venue does not read: {SEND_BUFFER_MAX} bytes wait to be sent")

    def resume_writing(self) -> None:
        """The link was closed at the pause."""

    def _other(self, transport: WSTransport, frame: WSFrame) -> None:
        kind = frame.msg_type
        if kind == PING:
            self.link.sign()
            transport.send_pong(frame.get_payload_as_bytes())
        elif kind == PONG:
            self.link.sign()
        elif kind == CLOSE:
            transport.send_close(frame.get_close_code())
            transport.disconnect()
        else:
            self._fragment(kind, frame)

    def _fragment(self, kind: WSMsgType, frame: WSFrame) -> None:
        """A binary message, or a part of a message."""
        size = frame.payload_size
        if kind == CONTINUATION and not self._begun:
            self.link.trouble(f"a continuation of {size} bytes without a beginning left out")
            return
        if kind != CONTINUATION:
            if self._begun:
                self.link.trouble(f"a message of {self._parts_bytes} bytes without its end left out")
            self._parts, self._parts_bytes, self._left_out = [], 0, kind == BINARY
        self._begun = not frame.fin
        self._parts_bytes += size
        if self._left_out:
            if frame.fin:
                self.link.trouble(f"a binary message of {self._parts_bytes} bytes left out")
            return
        self._parts.append(frame.get_payload_as_bytes())
        if self._parts_bytes > MESSAGE_BYTES_MAX:
            self.link.closed(f"a message of more than {MESSAGE_BYTES_MAX} bytes")
        elif frame.fin:
            whole, self._parts = b"".join(self._parts), []
            self._take(whole)

    # --- the link (`Wire`)

    def send(self, raw: bytes) -> None:
        assert self._transport is not None
        self._transport.send(TEXT, raw)

    def ping(self) -> None:
        assert self._transport is not None
        self._transport.send_ping()

    def close(self) -> None:
        transport = self._transport
        if transport is not None and not transport.is_disconnected:
            transport.send_close(WSCloseCode.OK)
            transport.disconnect()
            # A peer that does not read would keep the goodbye, and the socket with it, for minutes.
            self._loop.call_later(GOODBYE_S, transport.underlying_transport.abort)


def picows_connect(
    loop: asyncio.AbstractEventLoop,
    *,
    open_timeout_ns: int = OPEN_TIMEOUT_NS,
    tls: Callable[[], ssl.SSLContext] = ssl.create_default_context,
) -> Connect:
    """Real connections on the running `loop`; `tls` makes the context of wss URLs, once, when it is needed."""
    context = cache(tls)
    tasks: set[asyncio.Task[None]] = set()

    def connect(url: str, link: Link) -> Cancel:
        wire = PicowsWire(loop, link)
        task = loop.create_task(_connect(wire, url, context, open_timeout_ns / SECOND_NS))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        watch(task, "connecting", partial(_broken, link))
        return task.cancel

    return connect


def _broken(link: Link, what: str) -> None:
    link.trouble(what)
    link.failed(ConnectFailed(f"{what}, in the service"))


async def _connect(wire: PicowsWire, url: str, context: Callable[[], ssl.SSLContext], timeout_s: float) -> None:
    try:
        transport, _ = await ws_connect(
            lambda: wire,
            url,
            ssl_context=context() if url.startswith("wss:") else None,
            websocket_handshake_timeout=timeout_s,
            logger_name=_QUIET,
            enable_auto_pong=False,
            max_frame_size=MESSAGE_BYTES_MAX,
            max_redirects=0,
        )
    except WSHandshakeError as error:
        wire.link.failed(_refused(error))
    except (TimeoutError, WSError, WSInvalidURL, OSError, UnicodeError) as error:
        wire.link.failed(ConnectFailed(_why(error)))
    else:
        if not wire.opened:  # picows returns normally when the peer hangs up before it has answered
            wire.link.failed(ConnectFailed("closed before the handshake was answered"))
            return
        try:
            await transport.wait_disconnected()
        except WSError as error:  # the venue broke the protocol; the link is told before that it is over
            wire.link.trouble(str(error))


def _refused(error: WSHandshakeError) -> ConnectFailed:
    """A handshake that was answered with something else; 429 and 418 say with Retry-After, in seconds, when to try."""
    answer = error.response
    if answer is None:
        return ConnectFailed(f"the handshake failed: {error}")
    body = (error.raw_body or b"")[:200].decode("utf-8", "replace").strip()
    said = f": {body}" if body.isprintable() and body else ""
    return ConnectFailed(
        f"HTTP {int(answer.status)} instead of a WebSocket{said}",
        status=int(answer.status),
        retry_after_ns=retry_after_ns(answer.headers.get("Retry-After", "")),
    )


def _why(error: Exception) -> str:
    if isinstance(error, TimeoutError) and not str(error):
        return "no answer in time"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"  # its own text is a number and an address
    return str(error) or type(error).__name__


def _closed_reason(transport: WSTransport) -> str:
    said = transport.close_handshake
    if said is None or said.recv is None:
        return "the connection was cut"
    text = f" ({said.recv.reason})" if said.recv.reason else ""
    return f"closed by the venue with code {said.recv.code:d}{text}"
