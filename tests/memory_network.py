"""A network in memory for `tbx.venues.session`: two ends, virtual time, delays, refusals, cuts. Nothing is mocked.

What one end sends arrives at the other `delay_ns` later, in order. A cut loses what is on its way; a close does not.
"""

from __future__ import annotations

from collections.abc import Callable

from tbx.core.kernel.clock import MS_NS, ManualClock
from tbx.venues.session import ConnectFailed, Link


class Connection:
    """One connection: the server's end, and the `Wire` that the client's link holds."""

    def __init__(self, network: Network, url: str, link: Link) -> None:
        self.network = network
        self.url = url
        self.link = link
        self.received: list[bytes] = []  # by the server
        self.pings = 0  # that the server got
        self.open = False
        self.ended = False
        self.on_message: Callable[[Connection, bytes], None] | None = None

    # --- the server

    def send(self, raw: bytes) -> None:
        self._later(self._to_client, raw)

    def ping(self) -> None:
        self._later(self._ping_client)

    def close(self, reason: str = "closed by the venue with code 1001") -> None:
        """After all that was sent before."""
        self._later(self._client_closed, reason)

    def cut(self) -> None:
        """At once; what is on its way is lost."""
        self._client_closed("the connection was cut")

    # --- on the way

    def _later(self, action: Callable[..., None], *args: object) -> None:
        self.network.clock.call_in(self.network.delay_ns, action, *args)

    def _to_client(self, raw: bytes) -> None:
        if not self.ended:
            self.link.take(raw)

    def _ping_client(self) -> None:
        if not self.ended:
            self.link.sign()

    def _client_closed(self, reason: str) -> None:
        if self.open and not self.ended:
            self.ended = True
            self.link.closed(reason)


class ClientWire:
    """What a link sends with."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def send(self, raw: bytes) -> None:
        self.connection._later(self._to_server, raw)

    def ping(self) -> None:
        self.connection._later(self._ping_server)

    def close(self) -> None:
        self.connection.ended = True

    def _to_server(self, raw: bytes) -> None:
        connection = self.connection
        if not connection.ended:
            connection.received.append(raw)
            if connection.on_message is not None:
                connection.on_message(connection, raw)

    def _ping_server(self) -> None:
        if not self.connection.ended:
            self.connection.pings += 1
            self.connection.ping()  # the pong is as good a sign


class Network:
    """Its `connect` is a `Connect` of sessions; `connections` holds every attempt, the last one last."""

    def __init__(self, clock: ManualClock, delay_ns: int = MS_NS) -> None:
        self.clock = clock
        self.delay_ns = delay_ns
        self.connections: list[Connection] = []
        self.attempts_ns: list[int] = []
        self.refusal: ConnectFailed | None = None  # the answer to every handshake, while it is set
        self.silent = False  # handshakes are not answered
        self.on_open: Callable[[Connection], None] | None = None
        self.on_message: Callable[[Connection, bytes], None] | None = None

    def connect(self, url: str, link: Link) -> Callable[[], None]:
        connection = Connection(self, url, link)
        self.connections.append(connection)
        self.attempts_ns.append(self.clock.now_ns())
        timer = self.clock.call_in(2 * self.delay_ns, self._answer, connection)
        return timer.cancel

    def _answer(self, connection: Connection) -> None:
        if self.silent:
            return
        if self.refusal is not None:
            connection.link.failed(self.refusal)
            return
        connection.open = True
        connection.on_message = self.on_message
        connection.link.opened(ClientWire(connection))
        if self.on_open is not None:
            self.on_open(connection)

    @property
    def live(self) -> list[Connection]:
        return [c for c in self.connections if c.open and not c.ended]
