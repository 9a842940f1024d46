"""A WebSocket connection that stays up: it reconnects, notices silence, and is renewed without a gap.

Always true here:
- A link is opened, taken frames from, and down, in this order; its owner hears `on_link_open` and `on_link_down` once
  each. After `on_link_down` nothing more comes from it, and nothing can be sent on it.
- At most one link is primary (`Session.link`): the last one that the owner promoted and that is not down. At most one
  other is on its way to become it. A link that was replaced is closed after `DRAIN_NS`: what was asked on it may still
  be answered on it, and a feed overlaps with the new link's.
- No connection is tried before the budget of connects, the backoff and a venue's Retry-After allow it.

    start -> (opening) -> on_link_open -> the owner logs on, subscribes -> promote -> primary
    primary down -> backoff -> (opening) ...
    renew, age   -> (opening) beside the primary -> promote -> the former primary drains, then closes

The transport is handed in (`Connect`): `picows_link.picows_connect` for sockets, anything that speaks to a `Link` for a
simulated network. Time and jitter are handed in too.
"""

from collections.abc import Callable
from typing import Final, Protocol

import msgspec

from ..core.kernel.clock import SECOND_NS, Clock, Timer
from .limits import STOP_NS, ConnectBudget, Stop, stop_of

MAX_AGE_NS: Final = 84_600 * SECOND_NS  # 23.5 h; venues end a connection at 24 h
AGE_SPREAD: Final = 0.02  # sessions started together are not renewed together: up to 28 minutes earlier
OPEN_TIMEOUT_NS: Final = 10 * SECOND_NS  # from the first packet to the end of the handshake
READY_TIMEOUT_NS: Final = 60 * SECOND_NS  # from the handshake to `promote`
SILENT_NS: Final = 60 * SECOND_NS  # Binance pings every 20 s
SILENT_LOOKS: Final = 6  # in a row without a sign of life end a link: no clock is asked how long that took
DRAIN_NS: Final = 5 * SECOND_NS  # a replaced link stays open for so long
BACKOFF_MIN_NS: Final = SECOND_NS // 4
BACKOFF_MAX_NS: Final = 30 * SECOND_NS
STABLE_NS: Final = 60 * SECOND_NS  # a link that lived as long was not part of a series of failures

Cancel = Callable[[], object]
Trouble = Callable[[str], None]


class Wire(Protocol):
    """An open WebSocket, as `Link` uses it."""

    def send(self, raw: bytes) -> None:
        """One text frame."""
        ...

    def ping(self) -> None:
        """One ping frame; its pong is told with `Link.sign`."""
        ...

    def close(self) -> None:
        """Says goodbye and ends, within a bound of its own; nothing is told about it."""
        ...


class ConnectFailed(msgspec.Struct, frozen=True):
    """Why no connection came about."""

    reason: str
    status: int = 0  # of a handshake that was answered with something else than 101
    retry_after_ns: int | None = None  # as that answer said


class Link:
    """One connection. The owner reads, sends and closes; the transport calls what is marked as its own."""

    __slots__ = (
        "_now_ns",
        "_on_frame",
        "_session",
        "_wire",
        "cancel",
        "data",
        "down",
        "last_frame_ns",
        "last_sign_ns",
        "limit_timer",
        "number",
        "opened_ns",
        "seen_ns",
        "silent_looks",
        "watch_timer",
    )

    def __init__(self, session: "Session", number: int) -> None:
        self.number = number  # 1 for the session's first
        self.opened_ns = 0  # 0: not yet
        self.last_frame_ns = 0  # when the last text frame came: inside on_link_frame, when this one did
        self.last_sign_ns = 0  # when anything came last: a frame, a ping, a pong; ahead of a clock that was set back
        self.down = False
        self.data: object = None  # the owner's own
        self.cancel: Cancel | None = None  # ends an attempt that is on its way
        self.limit_timer: Timer | None = None  # of the stage that it is in: opening, getting ready, aging, draining
        self.watch_timer: Timer | None = None  # for silence
        self.seen_ns = 0  # the last sign of life as that timer saw it
        self.silent_looks = 0  # in a row that saw no other
        self._session = session
        self._now_ns = session.clock.now_ns
        self._on_frame = session.owner.on_link_frame
        self._wire: Wire | None = None

    # --- the owner

    @property
    def is_open(self) -> bool:
        return self._wire is not None and not self.down

    def send(self, raw: bytes) -> None:
        """One text frame, at once. Raises ConnectionError when the link is not open; then nothing was sent."""
        if self._wire is None or self.down:
            raise ConnectionError(f"{self._session.name} link {self.number} is {'down' if self.down else 'not open'}")
        self._wire.send(raw)

    def ping(self) -> None:
        """Ask for a sign of life; nothing when the link is not open."""
        if self._wire is not None and not self.down:
            self._wire.ping()

    def close(self, reason: str) -> None:
        """Ends it; `on_link_down` is called before this returns, unless it was called before."""
        self._session.end(self, reason)

    # --- the transport

    def opened(self, wire: Wire) -> None:
        """The handshake is done. A link that nobody waits for any more closes the wire."""
        if self.down:
            wire.close()
            return
        self._wire = wire
        self._session.link_opened(self)

    def failed(self, failure: ConnectFailed) -> None:
        """The handshake will not be done."""
        self._session.link_failed(self, failure)

    def take(self, raw: bytes) -> None:
        """A whole text message."""
        if self.down:
            return
        self.last_frame_ns = self.last_sign_ns = self._now_ns()
        try:
            self._on_frame(self, raw)
        except Exception as error:  # a bug of the owner's: what it knew of this link may be half done
            self._session.broken(self, error)

    def sign(self) -> None:
        """A ping or a pong."""
        self.last_sign_ns = self._now_ns()

    def trouble(self, what: str) -> None:
        """Something that the protocol does not allow, and that was left out."""
        self._session.tell(f"link {self.number}: {what}")

    def closed(self, reason: str) -> None:
        """The connection ended; `reason` in words."""
        self._session.end(self, reason)

    def let_go(self) -> None:
        """Close the wire, or call off the attempt (by the session, when the link is down)."""
        wire, self._wire = self._wire, None
        cancel, self.cancel = self.cancel, None
        if wire is not None:
            wire.close()
        elif cancel is not None:
            cancel()


# Begins to connect to a URL: tells the link `opened` or `failed`, once, then frames, then `closed`, once. Returns what
# calls the attempt off. May tell before it returns.
Connect = Callable[[str, Link], Cancel]


class Owner(Protocol):
    """Who speaks the venue's protocol over the session's links."""

    def on_link_open(self, link: Link) -> None: ...

    def on_link_frame(self, link: Link, raw: bytes) -> None:
        """One text message, whole; `link.last_frame_ns` is when it came."""
        ...

    def on_link_down(self, link: Link, reason: str) -> None:
        """Once for each link that was opened; `link` of the session is already None if it was the primary."""
        ...


class SessionStatus(msgspec.Struct, frozen=True, kw_only=True):
    """For health."""

    connected: bool  # a link is primary
    last_sign_ns: int  # of any link, 0 for never
    connects: int  # attempts
    reconnects: int  # links that went down without being replaced
    reason: str  # why it is not connected; "" when it is


class Session:
    """Keeps one usable connection to `url`."""

    def __init__(
        self,
        clock: Clock,
        connect: Connect,
        owner: Owner,
        *,
        name: str,
        url: str,
        jitter: Callable[[], float],
        budget: ConnectBudget,
        on_trouble: Trouble,
        max_age_ns: int = MAX_AGE_NS,
        open_timeout_ns: int = OPEN_TIMEOUT_NS,
        ready_timeout_ns: int = READY_TIMEOUT_NS,
        silent_ns: int = SILENT_NS,
        drain_ns: int = DRAIN_NS,
    ) -> None:
        """`jitter` gives numbers from 0 up to 1; `on_trouble` gets a line for the log for each connection lost."""
        self.clock = clock
        self.owner = owner
        self.name = name
        self.url = url  # of the next connection
        self.connects = 0
        self.reconnects = 0
        self.reason = "not started"  # of not being connected
        self._connect = connect
        self._jitter = jitter
        self._budget = budget
        self._on_trouble = on_trouble
        self._max_age_ns = int(max_age_ns)
        self._open_timeout_ns = open_timeout_ns
        self._ready_timeout_ns = ready_timeout_ns
        self._silent_ns = silent_ns
        self._drain_ns = drain_ns
        self._running = False
        self._numbers = 0
        self._failures = 0  # in a row
        self._hold = Stop()
        self._last_sign_ns = 0
        self._primary: Link | None = None
        self._candidate: Link | None = None  # opening, or open and not promoted yet
        self._draining: list[Link] = []
        self._renewing = False
        self._retry: Timer | None = None
        self._next_ns = 0  # when the next attempt is due, while one is planned

    # --- the owner

    @property
    def link(self) -> Link | None:
        """The primary."""
        return self._primary

    def start(self) -> None:
        if not self._running:
            self._running = True
            self.reason = "connecting"
            self._want(0)

    def stop(self) -> None:
        """Closes every link; `on_link_down` is called for each that was open."""
        self._running = self._renewing = False
        self._call_off_retry()
        for link in [self._candidate, self._primary, *self._draining]:
            if link is not None:
                self.end(link, "stopped")
        self.reason = "stopped"

    def promote(self, link: Link) -> None:
        """The owner can work with this link: it becomes the primary, the former one is closed after the drain time."""
        if link.down or link is self._primary or link in self._draining:
            return
        former, self._primary, self.reason = self._primary, link, ""
        if link is self._candidate:
            self._candidate, self._renewing = None, False
            self._call_off_retry()
        opened_ns = min(max(self.clock.now_ns() - link.opened_ns, 0), self._ready_timeout_ns)
        age_ns = int(self._max_age_ns * (1 - AGE_SPREAD * self._jitter())) - opened_ns
        self._limit(link, age_ns, self._aged, link)
        if former is not None:
            self._draining.append(former)
            self._limit(former, self._drain_ns, self.end, former, "replaced")

    def renew(self, reason: str) -> None:
        """A second connection now; the primary stays until the owner promotes the other one."""
        if self._running and not self._renewing and self._primary is not None:
            self.tell(f"renewed: {reason}")
            self._renewing = True
            self._want(0)

    def hold_for(self, wait_ns: int) -> None:
        """No connection is tried for so long."""
        self._hold.begin(self.clock, wait_ns)

    def status(self) -> SessionStatus:
        wait_s = (self._next_ns - self.clock.now_ns()) // SECOND_NS if self._retry is not None else 0
        links = (self._primary, self._candidate)
        signs = [link.last_sign_ns for link in links if link is not None and link.opened_ns]
        return SessionStatus(
            connected=self._primary is not None,
            last_sign_ns=max(signs) if signs else self._last_sign_ns,
            connects=self.connects,
            reconnects=self.reconnects,
            reason=f"{self.reason}; next attempt in {wait_s} s" if self.reason and wait_s > 0 else self.reason,
        )

    # --- links

    def link_opened(self, link: Link) -> None:
        link.opened_ns = link.last_frame_ns = link.last_sign_ns = self.clock.now_ns()
        self._limit(link, self._ready_timeout_ns, self._not_ready, link)
        self._watch(link)
        try:
            self.owner.on_link_open(link)
        except Exception as error:  # as in Link.take
            self.broken(link, error)

    def link_failed(self, link: Link, failure: ConnectFailed) -> None:
        if link.down:
            return
        if failure.status in STOP_NS:
            hold_ns = stop_of(failure.status, failure.retry_after_ns)
            self.hold_for(hold_ns)
            self._budget.stop.begin(self.clock, hold_ns)  # it is about the address: for every session
        self._gone(link, failure.reason)

    def end(self, link: Link, reason: str) -> None:
        """The link is down, by whatever cause."""
        if not link.down:
            self._gone(link, reason)

    def broken(self, link: Link, error: Exception) -> None:
        """A bug: said, and the link ends, so that everything about it begins anew."""
        self.tell(f"link {link.number}: a frame broke the service's own code: {error!r}")
        self.end(link, f"{type(error).__name__} in the service")

    def tell(self, what: str) -> None:
        self._on_trouble(f"{self.name}: {what}")

    def _gone(self, link: Link, reason: str) -> None:
        opened, wanted = link.opened_ns > 0, link in (self._primary, self._candidate)
        link.down = True
        self._cancel_timers(link)
        self._last_sign_ns = link.last_sign_ns or self._last_sign_ns
        if link is self._primary:
            self._primary = None
        elif link is self._candidate:
            self._candidate = None
        else:
            self._draining.remove(link)
        if self._primary is None and wanted:
            self.reason = reason
        link.let_go()
        if wanted and self._running:
            lived_ns = self.clock.now_ns() - link.opened_ns if opened else 0
            self._failures = 0 if lived_ns >= STABLE_NS else self._failures + 1
            self.reconnects += opened
            self.tell(f"link {link.number} {'down' if opened else 'not opened'}: {reason}")
        if opened:
            try:
                self.owner.on_link_down(link, reason)
            except Exception as error:  # a bug there must not keep the session from connecting again
                self.tell(f"link {link.number}: its end broke the service's own code: {error!r}")
        if wanted and self._running and (self._primary is None or self._renewing):
            self._want(self._backoff_ns())

    # --- connecting

    def _backoff_ns(self) -> int:
        """Full jitter: anything from nothing to a bound that doubles with each failure."""
        bound_ns = min(BACKOFF_MAX_NS, BACKOFF_MIN_NS << min(max(self._failures - 1, 0), 16))
        return int(self._jitter() * bound_ns)

    def _want(self, delay_ns: int) -> None:
        """Try to connect in `delay_ns`, unless that is already on its way."""
        if self._candidate is None and self._retry is None:
            delay_ns = max(delay_ns, self._hold.left_ns)
            if delay_ns > 0:
                self._plan(delay_ns)
            else:
                self._open()

    def _plan(self, delay_ns: int) -> None:
        self._next_ns = self.clock.now_ns() + delay_ns
        self._retry = self.clock.call_in(delay_ns, self._open)

    def _open(self) -> None:
        self._retry = None
        if not self._running or self._candidate is not None:
            return
        wait_ns = self._hold.left_ns or self._budget.take(1, self.clock.now_ns())
        if wait_ns > 0:
            self._plan(wait_ns)
            return
        self._numbers += 1
        self.connects += 1
        self._candidate = link = Link(self, self._numbers)
        self._limit(link, self._open_timeout_ns, self._too_slow, link)
        cancel = self._connect(self.url, link)
        if not link.down and not link.is_open:
            link.cancel = cancel

    def _call_off_retry(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None

    # --- timers of a link

    def _limit(self, link: Link, delay_ns: int, callback: Callable[..., object], *args: object) -> None:
        """What ends the stage that the link is in; takes the place of the stage before."""
        if link.limit_timer is not None:
            link.limit_timer.cancel()
        link.limit_timer = self.clock.call_in(max(delay_ns, 0), callback, *args)

    def _cancel_timers(self, link: Link) -> None:
        for timer in (link.limit_timer, link.watch_timer):
            if timer is not None:
                timer.cancel()
        link.limit_timer = link.watch_timer = None

    def _too_slow(self, link: Link) -> None:
        self.link_failed(link, ConnectFailed(f"no handshake within {self._open_timeout_ns / SECOND_NS:g} s"))

    def _not_ready(self, link: Link) -> None:
        self.end(link, f"not usable within {self._ready_timeout_ns / SECOND_NS:g} s")

    def _aged(self, link: Link) -> None:
        if link is self._primary:
            self.renew(f"the connection is {(self.clock.now_ns() - link.opened_ns) / 3600 / SECOND_NS:.1f} h old")

    def _watch(self, link: Link) -> None:
        """Ends a link on which nothing came for `silent_ns`, however the machine's clock was set meanwhile."""
        if link.down:
            return
        look_ns = self._silent_ns // SILENT_LOOKS
        sign_ns = link.last_sign_ns
        if sign_ns != link.seen_ns:
            link.seen_ns, link.silent_looks = sign_ns, 0
            # The looks are counted from the sign on. A time that cannot be is that of a clock that was set meanwhile.
            since_ns = self.clock.now_ns() - sign_ns
            if 0 <= since_ns <= look_ns:
                look_ns -= since_ns
        else:
            link.silent_looks += 1
        if link.silent_looks >= SILENT_LOOKS:
            self.end(link, f"nothing received for {self._silent_ns / SECOND_NS:.0f} s")
        else:
            link.watch_timer = self.clock.call_in(look_ns, self._watch, link)
