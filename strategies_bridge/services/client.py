"""HTTP to one of the other services: what was asked for, or `ServiceUnavailable`, and never an exception.

Always true here: a call ends within its time limit, however the service fails: names that do not resolve, connections
that are taken and left alone, answers a byte at a time. Redirects are not followed; proxies of the environment are left
alone, as the services are the operator's own.
"""

import asyncio
from collections.abc import Callable
from typing import Final, Literal, TypeVar

import msgspec

from ...core.kernel.clock import MS_NS, Clock
from .breaker import Breaker
from .connections import Connections, Unconnected

SHOWN_MAX: Final = 200  # characters of an error

T = TypeVar("T")
Read = Callable[[bytes], T]  # the body of a 2xx -> what it says; raises ValueError with what is wrong with it


class ServiceUnavailable(msgspec.Struct, frozen=True):
    """A service gave no answer that can be used."""

    service: str
    why: str  # in words
    # no connection; one, but no whole answer in time; another status than 2xx; an answer that cannot be used; and none
    # because of the breaker
    kind: Literal["unreachable", "broken", "answers", "nonsense", "not-asked"] = "broken"
    http_status: int | None = None  # of an answer

    @property
    def refused(self) -> bool:
        """It understood, and said no: the call is at fault, not the service."""
        return self.http_status is not None and 400 <= self.http_status < 500 and self.http_status not in (408, 429)


class ServiceClient:
    """One address. The counts are for the life of the process."""

    def __init__(self, name: str, url: str, clock: Clock, *, timeout_s: float, breaker: Breaker | None = None) -> None:
        self.name = name
        self.url = url.rstrip("/")
        self.clock = clock
        self.timeout_s = timeout_s
        self.breaker = breaker if breaker is not None else Breaker(clock.now_ns)
        self.answered = 0
        self.failed = 0
        self.not_asked = 0  # because of the breaker
        self.latency_ms: float | None = None  # of the last answer
        self.last_error = ""
        self.call_error = ""  # why the last call, looks at its health left aside, had no answer; empty where it had
        self.last_check_ms: int | None = None  # when the last call ended, UTC
        self._connections = Connections(self.url)

    async def get(self, path: str, read: Read[T]) -> T | ServiceUnavailable:
        return await self.call("GET", path, read)

    async def post(self, path: str, body: bytes, read: Read[T]) -> T | ServiceUnavailable:
        return await self.call("POST", path, read, body=body)

    async def call(
        self, method: str, path: str, read: Read[T], *, body: bytes | None = None, timeout_s: float | None = None
    ) -> T | ServiceUnavailable:
        """Ask, unless the breaker is open. `body` is JSON."""
        ticket = self.breaker.admit()
        if ticket is None:
            self.not_asked += 1
            return ServiceUnavailable(
                self.name, f"{self.breaker.failures} failures in a row, the last: {self.last_error}", "not-asked"
            )
        try:
            outcome = await self.probe(method, path, read, body=body, timeout_s=timeout_s)
        except asyncio.CancelledError:
            self.breaker.dropped(ticket)
            raise
        self.call_error = outcome.why if isinstance(outcome, ServiceUnavailable) else ""
        if isinstance(outcome, ServiceUnavailable) and not outcome.refused:
            self.breaker.failed(ticket)
        else:
            self.breaker.passed(ticket)
        return outcome

    async def probe(
        self, method: str, path: str, read: Read[T], *, body: bytes | None = None, timeout_s: float | None = None
    ) -> T | ServiceUnavailable:
        """As `call`, whatever the breaker says, and without telling it."""
        limit_s = self.timeout_s if timeout_s is None else timeout_s
        time = asyncio.get_running_loop().time
        begun = time()
        outcome: T | ServiceUnavailable
        try:
            async with asyncio.timeout(limit_s):
                status, data = await self._connections.request(method, path, body)
            outcome = read(data) if 200 <= status < 300 else self._other(status)
        except TimeoutError:
            outcome = ServiceUnavailable(self.name, f"no answer within {limit_s * 1_000:.0f} ms")
        except (ValueError, msgspec.MsgspecError, RecursionError) as error:
            outcome = ServiceUnavailable(self.name, f"an answer that cannot be used: {_short(error)}", "nonsense")
        except Unconnected as error:
            outcome = ServiceUnavailable(self.name, f"cannot be reached at {self.url}: {_short(error)}", "unreachable")
        except Exception as error:  # whatever is raised about the network, the caller gets a result
            outcome = ServiceUnavailable(self.name, f"broke off at {self.url}: {_short(error)}")
        self.last_check_ms = self.clock.now_ns() // MS_NS
        if isinstance(outcome, ServiceUnavailable):
            self.failed += 1
            self.last_error = outcome.why
        else:
            self.answered += 1
            self.latency_ms = (time() - begun) * 1_000
        return outcome

    def close(self) -> None:
        """Close the connections; a later call makes new ones."""
        self._connections.close()

    def _other(self, status: int) -> ServiceUnavailable:
        why = f"it redirects (HTTP {status}), which is not followed" if 300 <= status < 400 else f"HTTP {status}"
        return ServiceUnavailable(self.name, why, "answers", status)


def _short(error: BaseException) -> str:
    return (str(error) or type(error).__name__)[:SHOWN_MAX]
