"""A callback at an even pace.

Always true here: beats are due at multiples of the interval from the start, so that late timers do not add up; beats
that are more than CATCH_UP_NS_MAX late are left out rather than made up for.
"""

from __future__ import annotations

from collections.abc import Callable

from ....core.kernel.clock import Clock, Timer

CATCH_UP_NS_MAX = 500_000_000


class Beat:
    """Calls `callback` every `interval_ns` until `stop`. The first time is one interval from now."""

    def __init__(self, clock: Clock, interval_ns: int, callback: Callable[[], object]) -> None:
        self._clock = clock
        self._interval_ns = interval_ns
        self._callback = callback
        self._due_ns = clock.now_ns() + interval_ns
        self._timer: Timer | None = clock.call_in(interval_ns, self._beat)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _beat(self) -> None:
        now_ns = self._clock.now_ns()
        self._due_ns += self._interval_ns
        wait_ns = self._due_ns - now_ns
        if not -CATCH_UP_NS_MAX <= wait_ns <= 2 * self._interval_ns:  # far too late, or the clock was set
            self._due_ns = now_ns + self._interval_ns
            wait_ns = self._interval_ns
        self._timer = self._clock.call_in(max(0, wait_ns), self._beat)
        self._callback()
