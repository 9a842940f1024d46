"""The exchange's side of a WebSocket: frames in and out, pings, age, and the end of a client that does not keep up.

Always true here:
- A frame leaves straight from the event that caused it, or `delay_ns` later in the same order.
- A ping with a payload goes out every PING_S; a client whose pong with that payload does not come is closed. A client
  that has more than WRITE_BUFFER_BYTES_MAX waiting is dropped: the exchange never waits for a reader.
- A connection is forgotten once, whoever ended it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from picows import WSCloseCode, WSFrame, WSListener, WSMsgType, WSTransport

from ....core.kernel.clock import MS_NS, SECOND_NS, Timer
from . import stream_events
from .streams import Topic

if TYPE_CHECKING:
    from .server import LocalExchange

STREAM_MESSAGES_A_SECOND = 5  # incoming, pings and pongs included
MESSAGE_BYTES_MAX = 1024 * 1024  # of a message in fragments
CLOSE_NS_MAX = 2 * SECOND_NS  # how long a client has to answer a close frame
HEADER_ROOM = 14  # bytes that picows wants before a payload, for the longest header there is
WHOLE_BYTES_FROM = 4096  # payloads from here on leave with their header in one buffer of their own


class Connection(WSListener):
    """What all WebSockets have in common."""

    kind = ""

    def __init__(self, server: LocalExchange, ip: str, scale: int) -> None:
        super().__init__()
        self.server = server
        self.ip = ip
        self.scale = scale
        self.opened_ns = 0
        self.received = 0
        self._transport: WSTransport | None = None
        self._timers: dict[str, Timer] = {}
        self._pings: deque[tuple[bytes, int]] = deque()  # payload and time of those unanswered
        self._parts = bytearray()
        self._closing = False
        self._delay_ns = server.delay_ns

    # --- picows

    def on_ws_connected(self, transport: WSTransport) -> None:
        self._transport = transport
        self.opened_ns = self.server.clock.now_ns()
        self.server.connections[self] = None
        self._later("ping", self.server.ping_ns, self._ping)
        self._later("age", self.server.age_ns, self._expire)
        self.on_open()

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        kind = frame.msg_type
        if kind == WSMsgType.TEXT and frame.fin and not self._parts:
            self.received += 1
            self.on_message(frame.get_payload_as_bytes())
        elif kind in (WSMsgType.TEXT, WSMsgType.CONTINUATION):
            self._part(frame)
        elif kind == WSMsgType.PING:
            self.on_control()
            transport.send_pong(frame.get_payload_as_bytes())
        elif kind == WSMsgType.PONG:
            self.on_control()
            self._ponged(frame.get_payload_as_bytes())
        elif kind == WSMsgType.CLOSE:
            code = frame.get_close_code()
            transport.send_close(WSCloseCode.OK if code == WSCloseCode.NO_INFO else code)
            transport.disconnect()
        else:
            self.close(WSCloseCode.UNSUPPORTED_DATA, "text frames only")

    def on_ws_disconnected(self, _transport: WSTransport) -> None:
        self._transport = None
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self.server.connections.pop(self, None)
        self.on_gone()

    def pause_writing(self) -> None:
        """More waits than a client may leave unread."""
        self.server.counts["slow_readers"] += 1
        self.abort()

    def resume_writing(self) -> None:
        """Only after a pause, and then the connection is gone."""

    def _part(self, frame: WSFrame) -> None:
        """A message that comes in fragments."""
        self._parts += frame.get_payload_as_bytes()
        if len(self._parts) > MESSAGE_BYTES_MAX:
            self.close(WSCloseCode.MESSAGE_TOO_BIG, "message too big")
        elif frame.fin:
            message, self._parts = bytes(self._parts), bytearray()
            self.received += 1
            self.on_message(message)

    # --- what kinds of connections do differently

    def on_open(self) -> None:
        """The handshake is done. Nothing may be kept for a connection before: an upgrade can still fail."""
        raise NotImplementedError

    def on_message(self, raw: bytes) -> None:
        raise NotImplementedError

    def on_control(self) -> None:
        """A ping or a pong came."""

    def on_gone(self) -> None:
        raise NotImplementedError

    def shutdown_frame(self) -> bytes:
        """What it is told when the server is about to stop."""
        raise NotImplementedError

    # --- sending

    def send(self, frame: bytes) -> None:
        """A text frame, now or after the exchange's latency; nothing where the connection is gone."""
        if self._delay_ns:
            self.server.clock.call_in(self._delay_ns, self._write, frame)
        else:
            self._write(frame)

    def _write(self, frame: bytes) -> None:
        transport = self._transport
        if transport is None:
            return
        if self.server.faults.frames_armed:
            garbage = self.server.faults.nonsense()
            if garbage is not None:
                _put(transport, garbage)
        _put(transport, frame)

    def close(self, code: WSCloseCode, reason: str) -> None:
        """A close frame, and the end when it is answered or CLOSE_NS_MAX are over."""
        if self._transport is not None and not self._closing:
            self._closing = True
            self._transport.send_close(code, reason.encode())
            self._later("close", CLOSE_NS_MAX, self.abort)

    def abort(self) -> None:
        """Gone without a word."""
        if self._transport is not None:
            self._transport.disconnect(graceful=False)

    # --- time

    def _later(self, name: str, delay_ns: int, callback: Any) -> None:
        self._timers[name] = self.server.clock.call_in(delay_ns, callback)

    def _expire(self) -> None:
        self.close(WSCloseCode.GOING_AWAY, "connection age limit")

    def _ping(self) -> None:
        now_ns = self.server.clock.now_ns()
        if self._pings and now_ns - self._pings[0][1] >= self.server.pong_ns:
            self.server.counts["pongs_missed"] += 1
            self.close(WSCloseCode.POLICY_VIOLATION, "Pong timeout")
            return
        if self._transport is not None:
            payload = str(now_ns // MS_NS).encode()
            self._pings.append((payload, now_ns))
            self._transport.send_ping(payload)
        self._later("ping", self.server.ping_ns, self._ping)

    def _ponged(self, payload: bytes) -> None:
        """A pong answers the ping that it echoes and all before; another's payload answers nothing."""
        if any(sent == payload for sent, _ in self._pings):
            while self._pings.popleft()[0] != payload:
                pass


def _put(transport: WSTransport, frame: bytes) -> None:
    """A text frame on its way; the only place where one leaves.

    `send` of picows 2.3 gives the transport a view of a header buffer that all frames share, and the payload apart, as
    soon as a payload is over 8 KiB. Its own transport copies both at once; uvloop's, which is ours (front.py), keeps
    the view until the end of the loop's turn, by when the next frame has written its own length there. With the room
    for the header before the payload they are one buffer, which picows copies where it cannot send it at once.
    """
    if len(frame) < WHOLE_BYTES_FROM:
        transport.send(WSMsgType.TEXT, frame)
    else:
        transport.send_reuse_external_bytearray(WSMsgType.TEXT, bytearray(HEADER_ROOM) + frame, HEADER_ROOM)


class ApiConnection(Connection):
    """A WebSocket API connection: requests, replies, user data."""

    kind = "ws-api"

    def __init__(self, server: LocalExchange, ip: str, scale: int, query: str) -> None:
        super().__init__(server, ip, scale)
        self.session = server.new_session(ip, query)

    def on_open(self) -> None:
        self.server.user_data.open(self.session, self)

    def on_message(self, raw: bytes) -> None:
        self.server.on_api_message(self, raw)

    def on_gone(self) -> None:
        self.server.user_data.close(self.session)

    def send_event(self, frame: bytes) -> None:
        self.send(frame)

    def shutdown_frame(self) -> bytes:
        return b'{"event":' + stream_events.server_shutdown(self.server.now_ms(), self.scale) + b"}"


class StreamConnection(Connection):
    """A market stream connection."""

    kind = "stream"

    def __init__(self, server: LocalExchange, ip: str, scale: int, names: Sequence[str], *, combined: bool) -> None:
        super().__init__(server, ip, scale)
        self.combined = combined
        self.topics: dict[str, Topic] = {}
        self._names = names  # of the URL
        self._second = 0  # which second `_messages` counts
        self._messages = 0

    def on_open(self) -> None:
        self.server.streams.subscribe(self, self._names)

    def on_message(self, raw: bytes) -> None:
        if self._admitted():
            self.send(self.server.streams.request(self, raw))

    def on_control(self) -> None:
        self._admitted()

    def on_gone(self) -> None:
        self.server.streams.forget(self)

    def shutdown_frame(self) -> bytes:
        event = stream_events.server_shutdown(self.server.now_ms(), self.scale)
        return b'{"stream":"!serverShutdown","data":' + event + b"}" if self.combined else event

    def _admitted(self) -> bool:
        """At most STREAM_MESSAGES_A_SECOND; one more, and the connection is closed."""
        if not self.server.limited:
            return True
        second = self.server.clock.now_ns() // SECOND_NS
        if second != self._second:
            self._second, self._messages = second, 0
        self._messages += 1
        if self._messages <= STREAM_MESSAGES_A_SECOND:
            return True
        self.close(WSCloseCode.POLICY_VIOLATION, "Too many requests")
        return False
