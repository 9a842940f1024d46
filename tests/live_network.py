"""The way between a node and the local exchange in memory: the exchange's own connections without their sockets.

Each `Socket` is one WebSocket: at the near end the `Wire` of a session's link, at the far end the exchange's own
`ApiConnection`. Frames arrive in order in each direction, after a delay that chance varies. What a cut does to frames
that are on their way is told with it.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from typing import Any

from tbx.core.kernel.clock import MS_NS, ManualClock, ManualTimer
from tbx.venues.session import Connect, ConnectFailed, Link
from tbx.venues.simulator.binance.connection import ApiConnection
from tbx.venues.simulator.binance.server import LocalExchange

from .memory_network import ClientWire, Connection, Network


class Stepped(ManualClock):
    """Virtual time that can also be gone through one callback at a time."""

    def step(self) -> None:
        """Run the next callback, whenever it is due."""
        if self._heap:
            timer = heapq.heappop(self._heap)
            self._now_ns = max(self._now_ns, timer.due_ns)
            if timer.callback is not None:
                timer.callback(*timer.args)


class ProcessTimer:
    """Something that a process has planned, or that waits to be read by it."""

    __slots__ = ("args", "callback", "clock", "timer")

    def __init__(self, clock: ProcessClock, callback: Callable[..., object], args: tuple[Any, ...]) -> None:
        self.clock = clock
        self.callback: Callable[..., object] | None = callback
        self.args = args
        self.timer: ManualTimer | None = None

    def fire(self) -> None:
        clock, callback = self.clock, self.callback
        if callback is None or not clock.alive:
            return
        if clock.paused:
            clock.backlog.append(self)
        else:
            self.callback = None
            callback(*self.args)

    def cancel(self) -> None:
        self.callback = None
        if self.timer is not None:
            self.timer.cancel()


class ProcessClock:
    """The clock of one process on the world's: what it has planned dies with it. `skew_ns` is how wrong it goes.

    A paused process (SIGSTOP) does nothing; what came due meanwhile it does when it wakes, in order.
    """

    def __init__(self, world: Stepped, skew_ns: int = 0) -> None:
        self.world = world
        self.skew_ns = skew_ns
        self.alive = True
        self.paused = False
        self.backlog: list[ProcessTimer] = []
        self.epoch = 0  # what it has acquired

    def now_ns(self) -> int:
        return self.world.now_ns() + self.skew_ns

    def call_in(self, delay_ns: int, callback: Callable[..., object], *args: Any) -> ProcessTimer:
        planned = ProcessTimer(self, callback, args)
        planned.timer = self.world.call_in(delay_ns, planned.fire)
        return planned

    def call_soon(self, callback: Callable[..., object], *args: Any) -> ProcessTimer:
        return self.call_in(0, callback, *args)

    def run(self, callback: Callable[..., object], *args: Any) -> None:
        """Now, or when it wakes; never when it is dead."""
        ProcessTimer(self, callback, args).fire()

    def wake(self) -> None:
        self.paused = False
        backlog, self.backlog = self.backlog, []
        for planned in backlog:
            planned.timer = self.world.call_soon(planned.fire)


class Transport:
    """What the exchange's end of a socket sends with, as its `ApiConnection` uses it."""

    def __init__(self, socket: Socket) -> None:
        self.socket = socket
        self.closed = False

    def send(self, _kind: object, frame: bytes) -> None:
        if not self.closed:
            self.socket.send(bytes(frame))

    def send_reuse_external_bytearray(self, kind: object, room: bytearray, offset: int) -> None:
        """What picows has for large frames: `room` begins with space for the frame's head."""
        self.send(kind, bytes(room[offset:]))

    def send_ping(self, payload: bytes) -> None:
        if not self.closed:
            self.socket.down(self.socket.pinged, payload)

    def send_close(self, code: int, reason: bytes = b"") -> None:
        """The client's answer to it is the end of both."""
        self.disconnect()

    def disconnect(self, *, graceful: bool = True) -> None:
        if not self.closed:
            self.closed = True
            self.socket.far_end_closes()


class Wire(ClientWire):
    """The client's end."""

    connection: Socket

    def send(self, raw: bytes) -> None:
        socket = self.connection
        socket.sent.append(raw)
        if socket.network.on_sent is not None:
            socket.network.on_sent(socket.owner, raw)
        socket.up(socket.arrive, raw)

    def ping(self) -> None:
        self.connection.up(self.connection.ponged)

    def close(self) -> None:
        """What was sent before still arrives; what comes is read by nobody."""
        self.connection.ended = True
        self.connection.up(self.connection.far_end_hears)


class Socket(Connection):
    """One WebSocket to the exchange."""

    network: LiveNetwork

    def __init__(self, network: LiveNetwork, owner: ProcessClock, url: str, link: Link) -> None:
        super().__init__(network, url, link)
        self.owner = owner
        self.sent: list[bytes] = []  # by the client
        self.far: ApiConnection | None = None
        self._due = {"up": 0, "down": 0}

    # --- on the way

    def _takes_ns(self, direction: str) -> int:
        network = self.network
        now_ns = network.clock.now_ns()
        due_ns = max(self._due[direction], now_ns + network.takes_ns(direction))
        self._due[direction] = due_ns
        return due_ns - now_ns

    def up(self, action: Callable[..., object], *args: object) -> None:
        self.network.clock.call_in(self._takes_ns("up"), action, *args)

    def down(self, action: Callable[..., object], *args: object) -> None:
        """Something that the process reads from its socket, when it comes to it."""
        self.owner.call_in(self._takes_ns("down"), action, *args)

    def _later(self, action: Callable[..., None], *args: object) -> None:
        self.down(action, *args)

    # --- the far end

    def begin(self) -> None:
        """The handshake is done."""
        self.open = True
        self.far = ApiConnection(self.network.exchange, "127.0.0.1", 1, "")
        self.far.on_ws_connected(Transport(self))  # type: ignore[arg-type]
        self.link.opened(Wire(self))

    def arrive(self, raw: bytes) -> None:
        """A frame reaches the exchange."""
        far = self.far
        if far is not None and far._transport is not None and not far._transport.closed:  # type: ignore[attr-defined]
            self.network.arrived += 1
            far.on_message(raw)

    def ponged(self) -> None:
        self.down(self._ping_client)

    def pinged(self, payload: bytes) -> None:
        """The exchange's ping reaches the client, and its pong goes back."""
        self._ping_client()
        if not self.ended:
            self.up(self._pong, payload)

    def _pong(self, payload: bytes) -> None:
        if self.far is not None:
            self.far._ponged(payload)

    def far_end_hears(self) -> None:
        """The client is gone."""
        far, self.far = self.far, None
        if far is not None:
            far._transport.closed = True  # type: ignore[union-attr]
            far.on_ws_disconnected(far._transport)  # type: ignore[arg-type]

    def far_end_closes(self) -> None:
        """The exchange ends it: nothing more is read there; the client hears of it behind what was sent before."""
        self.down(self._client_closed, "the connection was reset")
        self.network.clock.call_soon(self.far_end_hears)

    # --- trouble

    def cut(self, *, lost: bool = True) -> None:
        """At once, and both ends know; what is on its way is lost, or else still reaches the exchange."""
        if lost:
            self.far_end_hears()
        else:
            self.up(self.far_end_hears)
        self.owner.run(self._client_closed, "the connection was cut")


class LiveNetwork(Network):
    """What its `connector` gives leads to the exchange. Attributes may be changed at any time."""

    clock: Stepped

    def __init__(self, clock: Stepped, exchange: LocalExchange, rng: random.Random, delay_ns: int = MS_NS) -> None:
        super().__init__(clock, delay_ns)
        self.exchange = exchange
        self.rng = rng
        self.spread_ns = 0  # chance adds up to so much to each frame's delay
        self.more_ns = {"up": 0, "down": 0}  # a direction that is slow now
        self.arrived = 0  # frames that the exchange got
        self.sockets: list[Socket] = []
        self.on_sent: Callable[[ProcessClock, bytes], object] | None = None  # told of each frame of a process

    def takes_ns(self, direction: str) -> int:
        spread_ns = self.rng.randrange(self.spread_ns) if self.spread_ns else 0
        return self.delay_ns + self.more_ns[direction] + spread_ns

    def connector(self, owner: ProcessClock) -> Connect:
        """The way of one process to the exchange."""

        def connect(url: str, link: Link) -> Callable[[], None]:
            return self._connect(owner, url, link)

        return connect

    def _connect(self, owner: ProcessClock, url: str, link: Link) -> Callable[[], None]:
        socket = Socket(self, owner, url, link)
        self.sockets.append(socket)
        self.connections.append(socket)
        self.attempts_ns.append(self.clock.now_ns())
        timer = owner.call_in(2 * self.delay_ns, self._answer, socket)

        def called_off() -> None:
            timer.cancel()
            socket.ended = True

        return called_off

    def _answer(self, connection: Connection) -> None:
        assert isinstance(connection, Socket)
        if self.silent or connection.ended:
            return
        status, until_ms = self.exchange.faults.refused_until_ms(connecting=True)
        if status:
            wait_ns = max(0, until_ms * MS_NS - self.exchange.now_ns())
            connection.link.failed(ConnectFailed(f"the handshake was answered with {status}", status, wait_ns))
        elif self.refusal is not None:
            connection.link.failed(self.refusal)
        else:
            connection.begin()

    @property
    def open_sockets(self) -> list[Socket]:
        return [socket for socket in self.sockets if socket.open and not socket.ended]

    def cut(self, *, lost: bool = True) -> None:
        """Every connection, at once."""
        for socket in self.open_sockets:
            socket.cut(lost=lost)

    def process_died(self, owner: ProcessClock) -> None:
        """The client's machine says goodbye for it: what was sent arrives, then the end."""
        for socket in self.sockets:
            if socket.owner is owner and not socket.ended:
                socket.ended = True
                if socket.open:
                    socket.up(socket.far_end_hears)
