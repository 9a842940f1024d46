"""How many orders a second one source may submit: the generic cell rate algorithm, in whole nanoseconds.

Always true here: within any second a source gets at most twice the limit through, its burst of one second and what
the second itself brings; sources do not touch each other's share, but all of them together have IN_ALL of them: names
of sources are the callers' own, and a new one for each order would else be no limit at all.
"""

from ..kernel.clock import SECOND_NS

IN_ALL = 50  # shares
SOURCES_MAX = 10_000  # that are remembered; beyond it those that have been quiet are forgotten


class OrderRate:
    """`limit` orders a second for each source; 0: none."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._step_ns = SECOND_NS // limit if limit else 0
        self._next_ns: dict[str, int] = {}  # by source: when its share would be whole again
        self._all_next_ns = 0  # the same of all together

    def used(self, source: str, now_ns: int) -> int:
        """Orders of the present burst, of `limit`."""
        if not self.limit:
            return 0
        ahead_ns = min(self._next_ns.get(source, 0) - now_ns, SECOND_NS)  # a clock that was set back: no more than that
        return max(0, -(-ahead_ns // self._step_ns))

    def busiest(self, now_ns: int) -> tuple[str, int]:
        """The source with most orders of the present burst, and how many; looks at every source."""
        used = {source: self.used(source, now_ns) for source in self._next_ns}
        source = max(used, key=lambda name: used[name], default="")
        return source, used.get(source, 0)

    def take(self, source: str, now_ns: int) -> int:
        """Count one order; returns 0, or the nanoseconds after which one would get through, and then counts nothing."""
        if not self.limit:
            return 0
        if len(self._next_ns) >= SOURCES_MAX and source not in self._next_ns:
            self._next_ns = {name: due for name, due in self._next_ns.items() if due > now_ns}
        # A share is whole from now on at the earliest, and after a second at the latest: the clock may be set back.
        next_ns = min(max(self._next_ns.get(source, 0), now_ns), now_ns + SECOND_NS)
        self._all_next_ns = min(max(self._all_next_ns, now_ns), now_ns + SECOND_NS)
        self._next_ns[source] = next_ns
        step_ns = max(1, self._step_ns // IN_ALL)
        wait_ns = max(next_ns + self._step_ns, self._all_next_ns + step_ns) - now_ns - SECOND_NS
        if wait_ns > 0:
            return wait_ns
        self._next_ns[source] = next_ns + self._step_ns
        self._all_next_ns += step_ns
        return 0
