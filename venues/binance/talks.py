"""Talks with the venue: scripts of one question after another, such as signing on or asking what became of an order.

A script is a generator: it yields an `Ask`, gets the venue's `Reply`, and returns what it found out. It raises a
VenueError where the venue said no (`Declined`) or cannot be understood (`Nonsense`); where no reply comes,
`Unreachable` is raised in it.

Always true here: every talk ends, and tells its end once; what it asks is within the weight that the venue allows; at
most AT_ONCE talks run and QUEUED_MAX wait, more end at once as Unreachable.
"""

from collections import deque
from collections.abc import Callable, Generator
from typing import Any, Final, Generic, Protocol, TypeVar

import msgspec

from ...core.kernel.clock import MS_NS
from ...core.model.errors import Refused, Unreachable, VenueError
from .codec import Reply
from .errors import Asked, Verdict, classify_fault

T = TypeVar("T")
AT_ONCE: Final = 8
QUEUED_MAX: Final = 2_000
WAIT_MIN_NS: Final = 50 * MS_NS  # for a budget, whatever it says: a wait that is always a moment would never rest


class Ask(msgspec.Struct, frozen=True):
    """One question. `encode(number, timestamp_ms)` gives its frame."""

    encode: Callable[[int, int], bytes]
    weight: int


class Declined(Refused):
    """The venue said no to a question; `verdict` tells why."""

    def __init__(self, verdict: Verdict) -> None:
        self.verdict = verdict
        super().__init__(verdict.reason)


Script = Generator[Ask, Reply, T]
Ended = Callable[[T | None, VenueError | None], None]


def granted(reply: Reply, asked: Asked) -> msgspec.Raw | None:
    """The result of a reply; raises Declined where it is an error."""
    if reply.error is not None:
        raise Declined(classify_fault(reply.status, reply.error, asked))
    return reply.result


class Line(Protocol):
    """What carries the questions of one link, or of the link that is in use."""

    def ask(self, ask: Ask, done: Callable[[Reply | None, str], None]) -> int:
        """Sends it and calls `done` once, with the reply or with why there is none; or returns the ns after which the
        budget has room for it."""
        ...

    def later(self, delay_ns: int, action: Callable[[], None]) -> object: ...


class Talk(Generic[T]):
    """One script that is being run."""

    def __init__(self, line: Line, script: Script[T], ended: Ended[T]) -> None:
        self.line = line
        self.script = script
        self.ended = ended

    def begin(self) -> None:
        self._step(lambda: next(self.script))

    def _step(self, step: Callable[[], Ask]) -> None:
        try:
            ask = step()
        except StopIteration as end:
            self.ended(end.value, None)
        except VenueError as error:
            self.ended(None, error)
        else:
            self._ask(ask)

    def _ask(self, ask: Ask) -> None:
        wait_ns = self.line.ask(ask, self._replied)
        if wait_ns:
            self.line.later(max(wait_ns, WAIT_MIN_NS), lambda: self._ask(ask))

    def _replied(self, reply: Reply | None, reason: str) -> None:
        if reply is not None:
            self._step(lambda: self.script.send(reply))
        else:
            self._step(lambda: self.script.throw(Unreachable(reason)))


class Talks:
    """A few talks at a time; the rest wait their turn, first come first served."""

    def __init__(self, line: Line) -> None:
        self.line = line
        self._running = 0
        self._starting = False
        self._queue: deque[Talk[Any]] = deque()

    def __len__(self) -> int:
        return self._running + len(self._queue)

    def begin(self, script: Script[T], ended: Ended[T]) -> None:
        if len(self._queue) >= QUEUED_MAX:
            script.close()
            ended(None, Unreachable(f"more than {QUEUED_MAX} questions wait for their turn"))
            return

        def over(value: T | None, error: VenueError | None) -> None:
            self._running -= 1
            ended(value, error)
            self._next()

        self._queue.append(Talk(self.line, script, over))
        self._next()

    def _next(self) -> None:
        if self._starting:  # a talk that ended at once: the loop below goes on with the next
            return
        self._starting = True
        while self._queue and self._running < AT_ONCE:
            self._running += 1
            self._queue.popleft().begin()
        self._starting = False
