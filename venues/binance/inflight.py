"""Requests that were sent and have no answer yet.

Always true here: each request is answered, lost with its link, or overdue: exactly one of them, once. The wait for a
reply is the same for all, so that the oldest is always the first to be overdue, and one timer watches them. It counts
its own ticks: a machine's clock that is set neither ends a wait nor makes it last.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Literal

import msgspec

from ...core.kernel.clock import SECOND_NS, Clock, Timer
from .codec import Reply
from .codec_requests import Terms
from .errors import Asked

REPLY_MAX_TICKS = 10  # of a second: the venue's own time limit of an order is as long, later replies are not expected
TICK_NS = SECOND_NS

Kind = Literal["place", "cancel", "amend"]
Part = tuple[Kind, str]  # what happens to the order with this client id
Encode = Callable[[int, Any, Any, int], bytes]  # number, what it is about, terms, timestamp_ms


class Errand(msgspec.Struct):
    """A request and its parts. `read` makes messages of the reply, or None where the reply is an error like any other;
    it raises Nonsense."""

    asked: Asked
    parts: tuple[Part, ...]
    about: Any
    terms: Terms
    encode: Encode
    read: Callable[["Errand", Reply], Sequence[Any] | None]
    weight: int = 1
    orders: int = 0
    repeated: bool = False  # it was turned away for our clock, and goes out again


class Request(msgspec.Struct):
    """One frame on its way. `done(request, reply, reason)` is called once: with the reply, or with None and why there
    will be none."""

    number: int  # the frame's id
    link: int  # the number of the connection that it went out on
    sent_ns: int
    timestamp_ms: int  # of the frame: the venue refuses it when it comes later than the receive window after this
    weight: int
    orders: int  # how many of the order budget it takes
    done: Callable[["Request", Reply | None, str], None]
    errand: Errand | None = None  # what it carries, where it changes something
    tick: int = 0  # of InFlight, when it was sent
    # client ids of orders whose reports have told the outcome already: a reply that stays away is no loss
    settled: set[str] | None = None


class InFlight:
    """The requests of one venue, oldest first."""

    def __init__(self, clock: Clock, reply_max_ticks: int = REPLY_MAX_TICKS) -> None:
        self.clock = clock
        self.reply_max_ticks = reply_max_ticks
        self.round_trips = RoundTrips()
        self.overdue_count = 0
        self.late_count = 0  # replies to nothing that is waited for: overdue ones that came after all
        self._requests: dict[int, Request] = {}
        self._tick = 0
        self._timer: Timer | None = None

    def __len__(self) -> int:
        return len(self._requests)

    def add(self, request: Request) -> None:
        request.tick = self._tick
        self._requests[request.number] = request
        if self._timer is None:
            self._timer = self.clock.call_in(TICK_NS, self._look)

    def take(self, number: int) -> Request | None:
        """The request that a reply answers; None, and counted, where nobody waits for it any more."""
        request = self._requests.pop(number, None)
        if request is None:
            self.late_count += 1
            return None
        self.round_trips.add(self.clock.now_ns() - request.sent_ns)
        return request

    def holds(self, number: int) -> bool:
        """Whether its reply is still waited for."""
        return number in self._requests

    def forget(self, number: int) -> None:
        """The request did not leave."""
        self._requests.pop(number, None)

    def lose(self, number: int, reason: str) -> None:
        """The reply to this request came, and cannot be understood."""
        request = self._requests.pop(number, None)
        if request is not None:
            request.done(request, None, reason)

    def link_down(self, link: int, reason: str) -> None:
        """No more replies come from this connection."""
        lost = [request for request in self._requests.values() if request.link == link]
        for request in lost:  # all of them leave before anybody hears of it: who hears may send anew
            del self._requests[request.number]
        for request in lost:
            request.done(request, None, reason)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._tick += 1
        last_tick = self._tick - self.reply_max_ticks
        overdue = []
        for request in self._requests.values():
            if request.tick >= last_tick:
                break
            overdue.append(request)
        for request in overdue:
            del self._requests[request.number]
        self._timer = self.clock.call_in(TICK_NS, self._look) if self._requests else None
        self.overdue_count += len(overdue)
        reason = f"no reply came within {self.reply_max_ticks} s"
        for request in overdue:
            request.done(request, None, reason)


class RoundTrips:
    """How long replies take: the median of the last ones, exact over its window."""

    WINDOW = 256

    def __init__(self) -> None:
        self._last: deque[int] = deque(maxlen=self.WINDOW)
        self.add = self._last.append  # one call less on the way of every reply

    def p50_ns(self) -> int | None:
        """None before the first reply."""
        if not self._last:
            return None
        return sorted(self._last)[len(self._last) // 2]
