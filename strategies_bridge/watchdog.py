"""Stops a hook that does not come back.

Always true here: an exception is raised only inside an author's code, never inside the core that it called, and never
when the call that was too long is over. A thread looks; the signal that it sends makes the interpreter's main thread
look at its own stack, between two of its instructions, and raise there.

What it cannot stop: a call that stays inside compiled code (a numba kernel, a regular expression without end). Then the
whole process stands still, loses its lease, and a standby takes over.
"""

import signal
import threading
from collections.abc import Callable
from time import perf_counter_ns
from types import CodeType, FrameType
from typing import Final

SIGNAL: Final = signal.SIGUSR2
AGAIN_S: Final = 0.01  # between signals, where one came while the core was at work


class StrategyStuck(BaseException):
    """A hook took longer than STRATEGY_TIME_LIMIT. Not an Exception: an author's `except Exception` must not eat it."""


class Call:
    """The call of a hook that runs now, or the last one; written by the main thread only."""

    __slots__ = ("began_ns", "number", "running")

    def __init__(self) -> None:
        self.number = 0
        self.began_ns = 0
        self.running = False

    def begin(self, now_ns: int) -> None:
        self.number += 1
        self.began_ns = now_ns
        self.running = True


class Watchdog:
    """Looks after the calls of one runner. `close` when that is over."""

    def __init__(self, call: Call, limit_ns: int, caller: CodeType, ours: Callable[[FrameType], bool]) -> None:
        """`caller`: the code that calls hooks; what runs inside it and is not `ours` is an author's. Only in the main
        thread, which must be the one that runs the hooks."""
        self.call = call
        self.limit_ns = limit_ns
        self._caller, self._ours = caller, ours
        self._suspect = 0  # number of the call that is too long
        self._ended = threading.Event()
        self._main = threading.get_ident()
        self._before = signal.signal(SIGNAL, self._look)
        self._thread = threading.Thread(target=self._watch, name="strategy-watchdog", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._ended.set()
        self._thread.join()
        signal.signal(SIGNAL, self._before)

    # --- its thread

    def _watch(self) -> None:
        period_s = self.limit_ns / 4e9
        wait_s = period_s
        while not self._ended.wait(wait_s):
            call = self.call
            number, began_ns = call.number, call.began_ns
            late = call.running and perf_counter_ns() - began_ns > self.limit_ns
            if late and number == call.number:
                self._suspect = number
                signal.pthread_kill(self._main, SIGNAL)
            wait_s = AGAIN_S if late else period_s

    # --- the main thread, between two instructions

    def _look(self, _number: int, frame: FrameType | None) -> None:
        call = self.call
        if not call.running or call.number != self._suspect:
            return
        here = frame
        while here is not None:
            if here.f_code is self._caller:
                if here is not frame:
                    raise StrategyStuck(f"it took longer than {self.limit_ns // 1_000_000} ms and was interrupted")
                return
            if self._ours(here):
                return  # in the middle of our own work; the next signal is not far
            here = here.f_back
