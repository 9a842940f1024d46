"""A circuit breaker: a service that fails again and again is left alone for a while, and then tried with one call.

Always true here: of the calls that were admitted before the last change of state, none changes it any more; while the
breaker is half open, exactly one call is on its way.

    closed --FAILURES in a row--> open --OPEN_NS later, with the next call--> half-open --it succeeds--> closed
                                   ^----------------------it fails------------------'
"""

from collections.abc import Callable
from typing import Final, Literal

from ...core.kernel.clock import SECOND_NS

FAILURES: Final = 3  # in a row
OPEN_NS: Final = 5 * SECOND_NS

State = Literal["closed", "open", "half-open"]


class Breaker:
    """Of one service. Each call that `admit` lets through ends with `passed`, `failed` or `dropped`."""

    def __init__(self, now_ns: Callable[[], int], *, failures: int = FAILURES, open_ns: int = OPEN_NS) -> None:
        self._now_ns = now_ns
        self._failures_max = failures
        self._open_ns = open_ns
        self._opened_ns = 0
        self._round = 1  # rises with each change of state; a call belongs to the one in which it was admitted
        self._state: State = "closed"
        self._trial_is_out = False
        self.failures = 0  # in a row
        self.opened = 0  # how often

    @property
    def state(self) -> State:
        """`open` until a call has come in after its time: nothing happens here by itself."""
        return self._state

    def admit(self) -> int | None:
        """A ticket for one call, or None: do not ask now."""
        if self._state == "open":
            elapsed_ns = self._now_ns() - self._opened_ns
            # A clock that was set back must not keep the service shut out for longer.
            if 0 <= elapsed_ns < self._open_ns:
                return None
            self._enter("half-open")
        if self._state == "half-open":
            if self._trial_is_out:
                return None
            self._trial_is_out = True
        return self._round

    def passed(self, ticket: int) -> None:
        """The service has answered."""
        if ticket == self._round:
            self.failures = 0
            if self._state != "closed":
                self._enter("closed")

    def failed(self, ticket: int) -> None:
        """No answer, or none that can be used."""
        if ticket != self._round:
            return
        self.failures += 1
        if self._state == "half-open" or self.failures >= self._failures_max:
            self._opened_ns = self._now_ns()
            self.opened += 1
            self._enter("open")

    def dropped(self, ticket: int) -> None:
        """The call was called off: it says nothing about the service, and another one may be the trial."""
        if ticket == self._round:
            self._trial_is_out = False

    def _enter(self, state: State) -> None:
        self._state = state
        self._round += 1
        self._trial_is_out = False
