"""Time as something that is handed in: `now_ns`, and callbacks that come due.

`SystemClock` runs on the event loop; `ManualClock` stands still until it is advanced, and then runs what came due in
order.
"""

import heapq
from collections.abc import Callable
from typing import Any, Protocol

SECOND_NS = 1_000_000_000
MS_NS = 1_000_000


class Timer(Protocol):
    """A callback that can still be called off."""

    def cancel(self) -> None: ...


class Clock(Protocol):
    """Where time comes from."""

    def now_ns(self) -> int:
        """UTC nanoseconds since 1970; may jump when the machine's clock is set."""
        ...

    def call_in(self, delay_ns: int, callback: Callable[..., object], *args: Any) -> Timer:
        """Run `callback(*args)` once, `delay_ns` from now, unaffected by jumps of the clock."""
        ...

    def call_soon(self, callback: Callable[..., object], *args: Any) -> object:
        """Run `callback(*args)` after everything that is already due."""
        ...


class Loop(Protocol):
    """What `SystemClock` needs of an event loop."""

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> Timer: ...

    def call_soon(self, callback: Callable[..., object], *args: Any) -> object: ...


class SystemClock:
    """The machine's clock and the event loop's timers; `time_ns` is injected so that only the entry point reads it."""

    def __init__(self, loop: Loop, time_ns: Callable[[], int]) -> None:
        self._loop = loop
        self.now_ns = time_ns
        self.call_soon = loop.call_soon

    def call_in(self, delay_ns: int, callback: Callable[..., object], *args: Any) -> Timer:
        return self._loop.call_later(max(0, delay_ns) / SECOND_NS, callback, *args)

    # `now_ns` and `call_soon` are set in __init__ as the very functions, one call less in the hot path.
    now_ns: Callable[[], int]
    call_soon: Callable[..., object]


class ManualTimer:
    """A timer of ManualClock."""

    __slots__ = ("args", "callback", "due_ns", "sequence")

    def __init__(self, due_ns: int, sequence: int, callback: Callable[..., object], args: tuple[Any, ...]) -> None:
        self.due_ns = due_ns
        self.sequence = sequence
        self.callback: Callable[..., object] | None = callback
        self.args = args

    def cancel(self) -> None:
        self.callback = None

    def __lt__(self, other: "ManualTimer") -> bool:
        return (self.due_ns, self.sequence) < (other.due_ns, other.sequence)


class ManualClock:
    """Virtual time for tests and simulation: deterministic, never waits."""

    def __init__(self, now_ns: int = 1_704_067_200_000_000_000) -> None:
        self._now_ns = now_ns
        self._heap: list[ManualTimer] = []
        self._sequence = 0

    def now_ns(self) -> int:
        return self._now_ns

    def call_in(self, delay_ns: int, callback: Callable[..., object], *args: Any) -> ManualTimer:
        self._sequence += 1
        timer = ManualTimer(self._now_ns + max(0, delay_ns), self._sequence, callback, args)
        heapq.heappush(self._heap, timer)
        return timer

    def call_soon(self, callback: Callable[..., object], *args: Any) -> ManualTimer:
        return self.call_in(0, callback, *args)

    def advance(self, delta_ns: int) -> None:
        """Move time forward and run everything that comes due on the way, in order."""
        self._run_until(self._now_ns + delta_ns)

    def settle(self) -> None:
        """Run what is due now, and what that makes due now."""
        self._run_until(self._now_ns)

    def _run_until(self, end_ns: int) -> None:
        while self._heap and self._heap[0].due_ns <= end_ns:
            timer = heapq.heappop(self._heap)
            self._now_ns = max(self._now_ns, timer.due_ns)
            if timer.callback is not None:
                timer.callback(*timer.args)
        self._now_ns = end_ns
