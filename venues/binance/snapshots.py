"""Depth snapshots over REST, for books that have none: queued, few at once, within the weight budget.

Always true here: a pair is asked for once at a time, and never again sooner than its pause allows; an answer that was
asked for before `drop` is thrown away, as it may be older than the gap that made somebody ask. Source: `GET
/api/v3/depth` in rest-api.md of binance-spot-api-docs; its weight depends on `limit`.

    {"lastUpdateId":1027024,"bids":[["4.00000000","431.00000000"]],"asks":[["4.00000200","12.00000000"]]}
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Final
from urllib.parse import quote

from ...core.kernel.clock import MS_NS, SECOND_NS, Clock, Timer
from ...core.model.errors import Refused, VenueError
from ..limits import Budgets
from ..rest import WEIGHT, Get

DEPTH_WEIGHTS: Final = {100: 5, 500: 25, 1000: 50, 5000: 250}  # levels a side -> weight
RESYNC_SHARE: Final = 2  # snapshots of all pairs take at most this part of a minute's weight: a half
AT_ONCE: Final = 8
PAUSE_MIN_NS: Final = 250 * MS_NS  # between two requests for the same pair, doubled with each one in a row
PAUSE_MAX_NS: Final = 30 * SECOND_NS
REFUSED_PAUSE_NS: Final = 300 * SECOND_NS  # the venue says no: asking again will hardly help
CALM_NS: Final = 60 * SECOND_NS  # a pair that was left alone for so long begins with the shortest pause again


def snapshot_levels(pairs: int, levels_max: int, weight_limit: int = 6_000) -> int:
    """The most levels that a snapshot of each pair may have: all of them together fit in half a minute's weight."""
    fitting = [n for n, w in DEPTH_WEIGHTS.items() if n <= levels_max and w * pairs * RESYNC_SHARE <= weight_limit]
    return max(fitting, default=min(DEPTH_WEIGHTS))


class Asked:
    """What is known of the requests for one pair."""

    __slots__ = ("flying", "generation", "last_ns", "number", "pause_ns", "timer", "waiting")

    def __init__(self) -> None:
        self.waiting = False  # in the queue
        self.flying = False
        self.generation = 0  # answers to earlier ones do not count
        self.number = 0  # of the last request, among all
        self.last_ns = 0  # when that was made
        self.pause_ns = 0
        self.timer: Timer | None = None  # until it may join the queue


class Snapshots:
    """The queue. `deliver(pair, body)` gets each snapshot as it came."""

    def __init__(
        self,
        clock: Clock,
        get: Get,
        budgets: Budgets,
        symbols: Mapping[str, str],
        *,
        levels: int,
        deliver: Callable[[str, bytes], None],
        jitter: Callable[[], float],
        on_trouble: Callable[[str], None],
        now_ns: Callable[[], int],
    ) -> None:
        """`symbols` names the venue's symbol of each pair; `levels` is a key of DEPTH_WEIGHTS; `now_ns` is the venue's
        time, by which the budgets count."""
        self.clock = clock
        self.levels = levels
        self.requests = 0
        self.failures = 0
        self._get = get
        self._budgets = budgets
        self._symbols = symbols
        self._deliver = deliver
        self._jitter = jitter
        self._on_trouble = on_trouble
        self._now_ns = now_ns
        self._asked: dict[str, Asked] = {}
        self._queue: dict[str, Asked] = {}  # in the order of asking
        self._flying = 0
        self._timer: Timer | None = None  # until the budget has room

    def want(self, pair: str) -> None:
        """A snapshot of the pair, soon; nothing when one is on its way."""
        asked = self._asked.setdefault(pair, Asked())
        if asked.flying or asked.waiting or asked.timer is not None:
            return
        since_ns = max(0, self.clock.now_ns() - asked.last_ns)  # a clock that was set back prolongs no pause
        if since_ns > CALM_NS + asked.pause_ns:
            asked.pause_ns = 0
        wait_ns = asked.pause_ns - since_ns
        if wait_ns > 0:
            asked.timer = self.clock.call_in(wait_ns, self._queue_up, pair, asked)
        else:
            self._queue_up(pair, asked)

    def asked_since(self, pair: str, requests: int) -> bool:
        """Whether a request was made, or waits to be, after so many of all; one that failed is made again by itself."""
        asked = self._asked.get(pair)
        return asked is not None and (asked.waiting or asked.timer is not None or asked.number > requests)

    def drop(self, pairs: Iterable[str]) -> None:
        """Nobody waits for these any more, and what is on its way does not count."""
        for pair in pairs:
            asked = self._asked.get(pair)
            if asked is None:
                continue
            asked.generation += 1
            asked.waiting = asked.flying = False
            asked.pause_ns = 0
            self._queue.pop(pair, None)
            if asked.timer is not None:
                asked.timer.cancel()
                asked.timer = None

    def stop(self) -> None:
        self.drop(self._symbols)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _queue_up(self, pair: str, asked: Asked) -> None:
        asked.timer = None
        asked.waiting = True
        self._queue[pair] = asked
        self._pump()

    def _pump(self) -> None:
        weight = DEPTH_WEIGHTS[self.levels]
        while self._queue and self._flying < AT_ONCE and self._timer is None:
            wait_ns = self._budgets.take(WEIGHT, weight, self._now_ns())
            if wait_ns:
                self._timer = self.clock.call_in(wait_ns, self._go_on)
                return
            pair = next(iter(self._queue))
            self._ask(pair, self._queue.pop(pair), weight)

    def _go_on(self) -> None:
        self._timer = None
        self._pump()

    def _ask(self, pair: str, asked: Asked, weight: int) -> None:
        asked.waiting, asked.flying = False, True
        asked.last_ns = self.clock.now_ns()
        asked.pause_ns = min(PAUSE_MAX_NS, 2 * asked.pause_ns or PAUSE_MIN_NS)
        self._flying += 1
        self.requests += 1
        asked.number = self.requests
        generation = asked.generation
        path = f"/api/v3/depth?symbol={quote(self._symbols[pair])}&limit={self.levels}"
        self._get(path, weight, lambda answer: self._answered(pair, asked, generation, answer))

    def _answered(self, pair: str, asked: Asked, generation: int, answer: bytes | VenueError) -> None:
        self._flying -= 1
        try:
            if generation == asked.generation:
                asked.flying = False
                if isinstance(answer, bytes):
                    self._deliver(pair, answer)
                else:
                    self._failed(pair, asked, answer)
        finally:  # one book that breaks must not keep the others waiting
            self._pump()

    def _failed(self, pair: str, asked: Asked, error: VenueError) -> None:
        """Asked again by itself, after the pause, more or less."""
        self.failures += 1
        if isinstance(error, Refused):
            asked.pause_ns = REFUSED_PAUSE_NS
        wait_ns = int(asked.pause_ns * (0.5 + self._jitter()))
        self._on_trouble(f"no snapshot of {pair}, next attempt in {wait_ns / SECOND_NS:.1f} s: {error}")
        asked.timer = self.clock.call_in(wait_ns, self._queue_up, pair, asked)
