"""How long something takes, as counts within bounds: what a histogram of Prometheus is made of.

Always true here: `add` costs a search among a handful of bounds and keeps nothing; the counts only ever rise.
"""

from bisect import bisect_left
from typing import Final

from .clock import MS_NS

# Of a commit: a local Redis answers in a tenth of a millisecond, and is given up after seconds.
COMMIT_BOUNDS_NS: Final = tuple(
    int(bound_ms * MS_NS)
    for bound_ms in (0.1, 0.2, 0.3, 0.5, 1, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000)
)


class Latency:
    """Durations, counted. `counts[i]` are those of at most `bounds_ns[i]` and over the bound before it."""

    __slots__ = ("bounds_ns", "counts", "sum_ns")

    def __init__(self, bounds_ns: tuple[int, ...] = COMMIT_BOUNDS_NS) -> None:
        self.bounds_ns = bounds_ns
        self.counts = [0] * (len(bounds_ns) + 1)  # the last one: over every bound
        self.sum_ns = 0

    def add(self, duration_ns: int) -> None:
        """One more; a clock that was set back in between makes it nothing."""
        if duration_ns < 0:
            duration_ns = 0
        self.counts[bisect_left(self.bounds_ns, duration_ns)] += 1
        self.sum_ns += duration_ns
