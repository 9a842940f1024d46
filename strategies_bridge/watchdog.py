"""Stops an author's code that does not come back.

Always true here: an exception is raised only inside an author's code, never inside the core that it called, and never
when the call that was too long is over. A timer of the operating system signals the process; the interpreter's main
thread then looks at its own stack, between two of its instructions, and raises there. A thread could not do it: it
needs the interpreter's lock, which a regular expression without end does not give away.

What it cannot stop: a call that stays inside compiled code which never looks at signals (a numba kernel, some numeric
libraries; Python's own `re`, `json`, `time.sleep` and sockets do look), and code that swallows every interruption in a
loop of its own. Then the whole process stands still, loses its lease, and a standby takes over.
"""

import signal
import threading
from collections.abc import Callable
from time import perf_counter_ns
from types import CodeType, FrameType
from typing import Any, Final, TypeVar

T = TypeVar("T")

SIGNAL: Final = signal.SIGALRM
TIMER: Final = signal.ITIMER_REAL
AGAIN_S: Final = 0.01  # between signals, where one came while the core was at work

_ROOT = __name__.removesuffix(".strategies_bridge.watchdog")
OWN_PACKAGES = (f"{_ROOT}.core.", f"{_ROOT}.strategies_bridge.")
EXAMPLES = f"{_ROOT}.strategies_bridge.examples."


class StrategyStuck(BaseException):
    """A call took longer than it may. Not an Exception: an author's `except Exception` must not eat it."""


def ours(frame: FrameType) -> bool:
    """Whether code that a hook called is of this service: nothing may be interrupted there."""
    module = str(frame.f_globals.get("__name__", ""))
    return module.startswith(OWN_PACKAGES) and not module.startswith(EXAMPLES)


class Call:
    """The call of a hook that runs now, or the last one."""

    __slots__ = ("began_ns", "interrupted", "limit_ns", "running")

    def __init__(self) -> None:
        self.began_ns = 0
        self.limit_ns = 0  # 0: nobody looks after it
        self.running = False
        self.interrupted = False

    def begin(self, now_ns: int) -> None:
        self.began_ns = now_ns
        self.interrupted = False
        self.running = True

    def check(self, now_ns: int) -> None:
        """Raise StrategyStuck where a call that came back was interrupted, and has swallowed that, or was too long."""
        if self.limit_ns and (self.interrupted or now_ns - self.began_ns > self.limit_ns):
            how = "was interrupted and went on" if self.interrupted else "could not be interrupted"
            took_ms = (now_ns - self.began_ns) // 1_000_000
            raise StrategyStuck(f"it took {took_ms} ms, longer than {self.limit_ns // 1_000_000} ms, and {how}")


class Watchdog:
    """Looks after the calls of one runner. `close` when that is over: what was there before goes on then."""

    def __init__(self, call: Call, limit_ns: int, caller: CodeType) -> None:
        """`caller`: the code that calls hooks; what runs inside it and is not ours is an author's. Only in the main
        thread, which must be the one that runs the hooks."""
        self.call = call
        self._caller = caller
        self._period_s = limit_ns / 4e9
        call.limit_ns = limit_ns
        self._before = signal.signal(SIGNAL, self._look)
        self._timer_before = signal.setitimer(TIMER, self._period_s, self._period_s)

    def close(self) -> None:
        signal.setitimer(TIMER, 0)
        signal.signal(SIGNAL, self._before)
        signal.setitimer(TIMER, *self._timer_before)
        self.call.limit_ns = 0

    def _look(self, _number: int, frame: FrameType | None) -> None:
        """In the main thread, between two instructions of whatever runs there."""
        call = self.call
        if not call.running or perf_counter_ns() - call.began_ns <= call.limit_ns:
            return
        signal.setitimer(TIMER, AGAIN_S, self._period_s)
        here = frame
        while here is not None:
            if here.f_code is self._caller:
                if here is not frame:
                    call.interrupted = True
                    raise StrategyStuck(f"it took longer than {call.limit_ns // 1_000_000} ms and was interrupted")
                return
            if ours(here):
                return  # in the middle of our own work; the next signal is not far
            here = here.f_back


def call_within(limit_ns: int, action: Callable[..., T], *args: Any) -> T:
    """What an author's `action` returns; raises StrategyStuck where it takes longer. Not limited in other threads than
    the main one, which have no signals."""
    if threading.current_thread() is not threading.main_thread():
        return action(*args)
    call = Call()
    watchdog = Watchdog(call, limit_ns, call_within.__code__)
    try:
        call.begin(perf_counter_ns())
        made = action(*args)
        call.check(perf_counter_ns())
        return made
    finally:
        call.running = False
        watchdog.close()
