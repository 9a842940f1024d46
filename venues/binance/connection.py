"""The connection for orders: links that sign on, requests that go out on them, replies that come back.

Always true here: `link` is signed on and hears the account's reports, or is None, and then `reason` says why in words.
A request that was posted is answered, or told why not, exactly once; `NotSent` means that nothing of it left. While a
link takes the place of another, both hear the reports.

    Session.on_link_open -> sign_on (scripts.py) -> promote -> Listener.came -> requests, replies, events
    trouble on the way   -> the link is closed with its reason, and the session tries again with its backoff
"""

import re
from collections.abc import Callable
from typing import Any, Final, Protocol

from ...core.kernel.clock import MS_NS, SECOND_NS, Clock, Timer
from ...core.model.errors import Nonsense, VenueError
from ..limits import STOP_NS, Budgets, ConnectBudget, binance_budgets, stop_of
from ..session import Connect, Link, Session
from .codec import NotOurs, Reply, ServerShutdown, StreamTerminated, decode, one_line
from .codec_replies import Account
from .codec_requests import Requests
from .errors import RATE_LIMIT_EXCEEDED, TEMPORARY_UNAVAILABLE, KeyTrouble
from .inflight import Errand, InFlight, Request
from .scripts import ServerClock, measure_clock, sign_on
from .talks import Ask, Declined, Talk, Talks

CLOCK_EVERY_NS: Final = 180 * SECOND_NS  # how often the venue's clock is measured
NONSENSE_TOLD_MAX: Final = 20  # lines a minute
REPLY_ID: Final = re.compile(rb'\s*\{\s*"id"\s*:\s*([0-9]{1,18})\s*,')

# What the documents say about refused keys: the venue's own text names all causes at once.
KEY_HINTS: Final = {
    -1022: "the secret or private key does not belong to this API key",
    -2014: "the API key is not one of Binance's form",
    -2015: "no such API key, or not from this IP address, or without the permission",
}

Done = Callable[[Request, Reply | None, str], None]


class NotSent(Exception):
    """Nothing left: `code` is ours, `reason` in words."""

    def __init__(self, code: str, reason: str) -> None:
        self.code = code
        self.reason = reason
        super().__init__(reason)


class Listener(Protocol):
    """Who uses the connection."""

    def refuses(self, account: Account) -> str:
        """Why this account is none to be used, when it has signed on; empty where it may be."""
        ...

    def came(self) -> None:
        """A link is signed on: the first, or one that was gone meanwhile; not one that takes over without a gap."""
        ...

    def holds(self, account: Account) -> None:
        """What the account is now, before `came`, and when a link takes over."""
        ...

    def took_over(self) -> None:
        """Another link is signed on and hears all from now on; what the one before it had still to tell may be lost."""
        ...

    def went(self, reason: str) -> None:
        """No link is signed on any more, or one could not sign on."""
        ...

    def heard(self, link: Link, event: Any) -> None:
        """An event of the account."""
        ...

    def garbled(self, link: Link, raw: bytes) -> None:
        """A frame that cannot be understood, and is no reply."""
        ...

    def barred(self, reason: str) -> None:
        """The venue takes nothing from this address for a while; "" when that is over."""
        ...


class Connection:
    """Links to the WebSocket API, as owner of their session."""

    def __init__(
        self,
        clock: Clock,
        connect: Connect,
        url: str,
        requests: Requests,
        listener: Listener,
        *,
        jitter: Callable[[], float],
        on_trouble: Callable[[str], None],
        budgets: Budgets | None = None,
        connects: ConnectBudget | None = None,
        **session: int,
    ) -> None:
        """`budgets` and `connects` are those of the account and the address, shared with its other connections;
        `session` changes the times of `Session`."""
        self.clock = clock
        self.requests = requests
        self.listener = listener
        self.on_trouble = on_trouble
        self.budgets = budgets if budgets is not None else binance_budgets()
        self.server = ServerClock(clock)
        self.inflight = InFlight(clock)
        self.session = Session(
            clock,
            connect,
            self,
            name="binance orders",
            url=url,
            jitter=jitter,
            budget=connects if connects is not None else ConnectBudget(),
            on_trouble=on_trouble,
            **session,
        )
        self.link: Link | None = None
        self.reason = "not started"
        self.opened_ms = 0  # the venue's time when `link` was signed on
        self.links_open = 0
        self._admitted = False  # whose events come is known, and a key's account stays: before, none is told on
        self.nonsense_count = 0
        self._nonsense_minute = 0
        self._nonsense_told = 0  # in this minute
        self.talks = Talks(_Line(self, None, patient=True))
        self._numbers = 0
        self._measuring: list[Callable[[], None]] | None = None  # what waits for the measurement that is under way
        self._clock_timer: Timer | None = None
        self._bar_timer: Timer | None = None

    # --- the user

    def start(self) -> None:
        self.reason = "connecting"
        self.session.start()
        self._clock_timer = self.clock.call_in(CLOCK_EVERY_NS, self._measure_again)

    def stop(self) -> None:
        for timer in (self._clock_timer, self._bar_timer):
            if timer is not None:
                timer.cancel()
        self._clock_timer = self._bar_timer = None
        self.session.stop()
        self.inflight.stop()

    def post(self, errand: Errand, done: Done) -> Request:
        """Sends a request; `done` is told its reply, perhaps before this returns. Raises NotSent."""
        link = self.link
        if link is None:
            raise NotSent(TEMPORARY_UNAVAILABLE, f"not sent: {self.reason}")
        now_ns = self.clock.now_ns()
        server_ns = now_ns + self.server.offset_ns
        budgets = self.budgets
        weight, orders = errand.weight, errand.orders
        wait_ns = budgets.take("REQUEST_WEIGHT", weight, server_ns)
        if not wait_ns and orders:
            wait_ns = budgets.take("ORDERS", orders, server_ns)
            if wait_ns:
                budgets.settle("REQUEST_WEIGHT", weight)
        if wait_ns:
            raise NotSent(
                RATE_LIMIT_EXCEEDED,
                f"not sent: the venue's request limit is used up for {-(-wait_ns // SECOND_NS)} s",
            )
        self._numbers += 1
        number = self._numbers
        timestamp_ms = server_ns // MS_NS
        try:
            raw = errand.encode(number, errand.about, errand.terms, timestamp_ms)
        except ValueError as error:
            raise NotSent("INVALID_ORDER", f"not sent: {error}") from None
        request = Request(number, link.number, now_ns, timestamp_ms, weight, orders, done, errand)
        self.inflight.add(request)  # before it leaves: the link may break in `send`
        try:
            link.send(raw)
        except ConnectionError as error:
            self.inflight.forget(number)
            raise NotSent(TEMPORARY_UNAVAILABLE, f"not sent: {error}") from None
        return request

    def measure(self, then: Callable[[], None]) -> None:
        """Measure the venue's clock anew, and then go on, whether that succeeded or not."""
        if self._measuring is not None:
            self._measuring.append(then)
            return
        self._measuring = [then]

        def ended(_: None, error: VenueError | None) -> None:
            waiting, self._measuring = self._measuring or [], None
            if error is not None:
                self.on_trouble(f"binance orders: the venue's clock could not be measured: {error}")
            for action in waiting:
                action()

        Talk(_Line(self, None), measure_clock(self.requests, self.server), ended).begin()

    # --- the session

    def on_link_open(self, link: Link) -> None:
        self.links_open += 1
        self._sign_on(link)

    def on_link_down(self, link: Link, reason: str) -> None:
        self.links_open -= 1
        in_use = link is self.link
        if in_use:
            self.link, self.reason = None, reason
        self.inflight.link_down(link.number, reason)
        if in_use:
            self.listener.went(reason)

    def on_link_frame(self, link: Link, raw: bytes) -> None:
        try:
            message = decode(raw)
        except Nonsense as error:
            self._nonsense(link, raw, str(error))
            return
        kind = type(message)
        if kind is Reply:
            self._replied(link, message)  # type: ignore[arg-type]
        elif kind is ServerShutdown:
            if link is self.link:
                self.session.renew("the venue shuts this connection down")
        elif kind is StreamTerminated:
            self._sign_on_again(link, "the venue ended the account's event stream")
        elif kind is not NotOurs and self._admitted:
            self.listener.heard(link, message)

    # --- signing on

    def _sign_on(self, link: Link) -> None:
        def ended(account: Account | None, error: VenueError | None) -> None:
            if link.down:
                return
            if account is None:
                link.close(self._sign_on_trouble(error))
            elif refused := self.listener.refuses(account):
                link.close(self._not_signed_on(refused))
            else:
                self._admitted = True
                self._signed_on(link, account)

        Talk(_Line(self, link), sign_on(self.requests, self.server), ended).begin()

    def _signed_on(self, link: Link, account: Account) -> None:
        gap = self.link is None
        link.data = self
        self.session.promote(link)
        self.link, self.reason = link, ""
        self.opened_ms = self.server.now_ns() // MS_NS
        self.listener.holds(account)
        if gap:
            self.listener.came()
        else:
            self.listener.took_over()

    def _sign_on_again(self, link: Link, reason: str) -> None:
        """The link is there, but reports are not heard on it any more."""
        if link is not self.link:
            if link.data is not self:  # it was about to sign on; else it has been replaced
                link.close(reason)
            return
        self.on_trouble(f"binance orders: {reason}")
        self.link, self.reason = None, reason
        self.listener.went(reason)
        self._sign_on(link)

    def _sign_on_trouble(self, error: VenueError | None) -> str:
        """In words, and what follows from it."""
        reason = f"signing on failed: {error}"
        if isinstance(error, Declined) and isinstance(error.verdict, KeyTrouble):
            reason = key_words(error.verdict)
        return self._not_signed_on(reason)

    def _not_signed_on(self, reason: str) -> str:
        if self.link is None:
            self.reason = reason
            self.listener.went(reason)
        return reason

    # --- replies

    def _replied(self, link: Link, reply: Reply) -> None:
        number = reply.id
        request = self.inflight.take(number) if type(number) is int else None
        server_ns = self.server.now_ns()
        budgets = self.budgets
        if request is not None:
            budgets.settle("REQUEST_WEIGHT", request.weight)
            if request.orders:
                budgets.settle("ORDERS", request.orders)
        for limit in reply.limits:
            budgets.observe(limit.rate_limit_type, limit.interval_ns, limit.count, limit.limit, server_ns)
        if reply.error is not None:
            self._obey(reply, server_ns)
        if request is not None:
            request.done(request, reply, "")
        elif number is None and reply.error is not None:
            said = f"{one_line(reply.error.msg)} ({reply.error.code})"
            self._sign_on_again(link, f"the venue ended the session: {said}")

    def _obey(self, reply: Reply, server_ns: int) -> None:
        """429 and 418: nothing more before their time."""
        fault = reply.error
        assert fault is not None
        if reply.status not in STOP_NS:
            return
        kind = "ORDERS" if fault.code == -1015 else "REQUEST_WEIGHT"
        after_ms = fault.retry_after_ms
        asked_ns = None if after_ms is None else after_ms * MS_NS - server_ns
        wait_ns = stop_of(reply.status, asked_ns)
        if asked_ns is None and reply.status == 429:
            wait_ns = self.budgets.reset_ns(kind, server_ns) - server_ns
        elif asked_ns is not None and wait_ns != asked_ns:
            said = f"a {reply.status} asks for nothing before {after_ms} ms, which is over or too far away"
            self.note_nonsense(f"{said}: {wait_ns // SECOND_NS} s are waited instead")
        self.budgets.stop(self.clock, wait_ns, kind)
        if reply.status == 418:
            self.session.hold_for(wait_ns)
            if self._bar_timer is not None:
                self._bar_timer.cancel()
            self._bar_timer = self.clock.call_in(wait_ns, self._bar_over)
            self.listener.barred(f"the venue bars this address for {-(-wait_ns // SECOND_NS)} s: {one_line(fault.msg)}")

    def _bar_over(self) -> None:
        left_ns = self.budgets.stopped_ns  # its timers may be a little later than this one
        self._bar_timer = self.clock.call_in(left_ns, self._bar_over) if left_ns else None
        if not left_ns:
            self.listener.barred("")

    def _nonsense(self, link: Link, raw: bytes, reason: str) -> None:
        found = REPLY_ID.match(raw)
        if found is not None:
            self.note_nonsense(f"a reply cannot be understood: {reason}")
            self.inflight.lose(int(found[1]), f"its reply cannot be understood: {reason}")
        else:
            self.note_nonsense(f"a frame cannot be understood: {reason}")
            self.listener.garbled(link, raw)

    def note_nonsense(self, what: str) -> None:
        """Counts what the venue said and nobody can understand, and tells it, a bounded number of times a minute."""
        self.nonsense_count += 1
        minute = self.clock.now_ns() // (60 * SECOND_NS)
        if minute != self._nonsense_minute:
            self._nonsense_minute, self._nonsense_told = minute, 0
        self._nonsense_told += 1
        if self._nonsense_told <= NONSENSE_TOLD_MAX:
            last = "; more this minute is only counted" if self._nonsense_told == NONSENSE_TOLD_MAX else ""
            self.on_trouble(f"binance orders: {what}{last}")

    # --- talks

    def ask(
        self, ask: Ask, only: Link | None, done: Callable[[Reply | None, str], None], *, patient: bool = False
    ) -> int:
        """As `talks.Line`. A `patient` question leaves weight for what is not: orders, cancels, signing on."""
        link = only if only is not None else self.link
        if link is None or link.down:
            done(None, f"not connected: {self.reason}")
            return 0
        now_ns = self.clock.now_ns()
        server_ns = now_ns + self.server.offset_ns
        take = self.budgets.take_spare if patient else self.budgets.take
        wait_ns = take("REQUEST_WEIGHT", ask.weight, server_ns)
        if wait_ns:
            return wait_ns
        self._numbers += 1
        timestamp_ms = server_ns // MS_NS
        request = Request(
            self._numbers,
            link.number,
            now_ns,
            timestamp_ms,
            ask.weight,
            0,
            lambda _, reply, reason: done(reply, reason),
        )
        self.inflight.add(request)
        try:
            link.send(ask.encode(request.number, timestamp_ms))
        except ConnectionError as error:
            self.inflight.forget(request.number)
            done(None, str(error))
        return 0

    def _measure_again(self) -> None:
        self._clock_timer = self.clock.call_in(CLOCK_EVERY_NS, self._measure_again)
        if self.link is not None:
            self.measure(_nothing)


class _Line:
    """`talks.Line` of one link, or of the one in use."""

    def __init__(self, connection: Connection, link: Link | None, *, patient: bool = False) -> None:
        self._connection = connection
        self._link = link
        self._patient = patient

    def ask(self, ask: Ask, done: Callable[[Reply | None, str], None]) -> int:
        return self._connection.ask(ask, self._link, done, patient=self._patient)

    def later(self, delay_ns: int, action: Callable[[], None]) -> Timer:
        return self._connection.clock.call_in(delay_ns, action)


def key_words(verdict: KeyTrouble) -> str:
    """Why a key was refused, with what the error code usually means."""
    for code, hint in KEY_HINTS.items():
        if f"({code})" in verdict.reason:
            return f"the API key was refused: {hint} [{verdict.reason}]"
    return f"the API key was refused: {verdict.reason}"


def _nothing() -> None:
    """Nobody waits for this measurement."""
