"""What a venue lets us ask of it: windows of weight that all connections of an account share, and a bound on connects.

Always true here: nothing is counted twice and nothing is guessed: what we send is counted when it is sent, and a count
that the venue reports replaces what we counted, plus what it cannot have seen yet. A wait is a number of nanoseconds
until the thing may be tried again; 0 says that it is taken. Time is an argument, and is the venue's, of one and the
same estimate for all who share a budget: windows are aligned with its clock. A stop (429, 418) lasts as long as it was
told to, whatever the machine's clock is set to meanwhile.

Binance: windows are clock-aligned, the counts of a reply (`rateLimits`) or of REST headers hold for the window in which
the reply was made, 429 says "no more in this window", 418 is a ban; both name the time at which they end.
"""

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from ..core.kernel.clock import MS_NS, SECOND_NS, Clock, Timer

MINUTE_NS: Final = 60 * SECOND_NS
DAY_NS: Final = 86_400 * SECOND_NS

UNIT_NS: Final = {"S": SECOND_NS, "M": MINUTE_NS, "H": 60 * MINUTE_NS, "D": DAY_NS}  # of X-MBX-USED-WEIGHT-1M

# How long nothing is asked after such an answer that does not say it: a window; the shortest ban.
STOP_NS: Final = {429: 60 * SECOND_NS, 418: 120 * SECOND_NS}
STOP_MAX_NS: Final = 3 * DAY_NS  # the longest ban: "LIMITS" of rest-api.md in binance-spot-api-docs
STOP_STEP_NS: Final = 10 * SECOND_NS  # between two looks at what is left of a stop

# What the venue counted may include other processes behind the same address, so the last bit is left to them.
RESERVE_SHARE: Final = 50  # one part in fifty of each limit is never used
KEPT_SHARE: Final = 4  # a quarter of each limit is left to orders and cancels by questions, which can wait


class LimitSeen(msgspec.Struct, frozen=True):
    """One row of a reply's `rateLimits`, or of REST headers (then without a limit)."""

    kind: str  # REQUEST_WEIGHT, ORDERS, ...
    interval_ns: int
    count: int
    limit: int = 0  # 0: not said


def stop_of(status: int, asked_ns: int | None) -> int:
    """How long to ask nothing after an HTTP answer: 0 where its status bars nothing.

    As long as it asks for; a time that is over or longer than the longest ban is none, and then it is `STOP_NS`.
    """
    if status not in STOP_NS:
        return 0
    return asked_ns if asked_ns is not None and 0 < asked_ns <= STOP_MAX_NS else STOP_NS[status]


def retry_after_ns(text: str) -> int | None:
    """A Retry-After header, in seconds; None where it is absent or something else."""
    return int(text) * SECOND_NS if text.isdecimal() and text.isascii() and len(text) < 16 else None


# Who is told to wait asks again after at least so long, also where the clock has jumped past the end.
LOOK_AGAIN_NS: Final = MS_NS // 2


class Stop:
    """A time in which nothing passes. It ends by timers, so that no jump of the clock lifts or prolongs it."""

    __slots__ = ("_clock", "_left_ns", "_looked_ns", "_timer")

    def __init__(self) -> None:
        self._clock: Clock | None = None
        self._timer: Timer | None = None  # None: nothing is stopped
        self._left_ns = 0  # when last looked
        self._looked_ns = 0

    def begin(self, clock: Clock, wait_ns: int) -> None:
        """From now on for `wait_ns`; one that lasts longer stays."""
        if wait_ns > self.left_ns:
            if self._timer is not None:
                self._timer.cancel()
            self._clock, self._left_ns = clock, wait_ns
            self._step(clock)

    @property
    def left_ns(self) -> int:
        """How long it lasts; 0: nothing is stopped. Off by up to `STOP_STEP_NS` while the clock jumps."""
        if self._timer is None or self._clock is None:
            return 0
        since_ns = self._clock.now_ns() - self._looked_ns
        return max(LOOK_AGAIN_NS, self._left_ns - min(max(since_ns, 0), STOP_STEP_NS))

    def _step(self, clock: Clock) -> None:
        self._looked_ns = clock.now_ns()
        self._timer = clock.call_in(min(self._left_ns, STOP_STEP_NS), self._look, clock)

    def _look(self, clock: Clock) -> None:
        self._timer = None
        self._left_ns -= STOP_STEP_NS
        if self._left_ns > 0:
            self._step(clock)


class Budget:
    """One limit: so much in each clock-aligned window of `interval_ns`."""

    __slots__ = ("_pending", "_used", "_window", "interval_ns", "kind", "limit", "stop")

    def __init__(self, kind: str, limit: int, interval_ns: int) -> None:
        if limit < 1 or interval_ns < 1:
            raise ValueError(f"budget {kind}: limit {limit} in {interval_ns} ns; both must be positive")
        self.kind = kind
        self.limit = limit
        self.interval_ns = interval_ns
        self._window = 0  # number of the window that the counts are of
        self._used = 0  # as the venue counted last
        self._pending = 0  # taken, and not in any count of the venue's yet
        self.stop = Stop()

    def take(self, weight: int, now_ns: int) -> int:
        """0: taken. Else how many ns until it may fit; then nothing was taken."""
        wait_ns = self.wait_ns(weight, now_ns)
        if not wait_ns:
            self._pending += weight
        return wait_ns

    def wait_ns(self, weight: int, now_ns: int) -> int:
        """How long until `weight` fits; 0 for now."""
        self._roll(now_ns)
        if stopped_ns := self.stop.left_ns:
            return stopped_ns
        # A weight above the whole budget would never fit: it may go at the beginning of a window.
        if self._used + self._pending + weight <= self.usable or not (self._used or self._pending):
            return 0
        return self.reset_ns(now_ns) - now_ns

    def wait_spare_ns(self, weight: int, now_ns: int) -> int:
        """How long until `weight` leaves the kept part of the limit free; 0 for now."""
        self._roll(now_ns)
        used = self._used + self._pending
        return self.reset_ns(now_ns) - now_ns if used and used + weight > self.limit - self.limit // KEPT_SHARE else 0

    def settle(self, weight: int) -> None:
        """A taken weight is answered, so it is in the venue's count or cost nothing; to be called before `observe`."""
        self._pending = max(0, self._pending - weight)

    def observe(self, count: int, limit: int, now_ns: int) -> None:
        """The venue's own count in the window of `now_ns`; limit 0 leaves the limit as it is."""
        self._roll(now_ns)
        self._used = max(0, count)
        if limit > 0:
            self.limit = limit

    @property
    def usable(self) -> int:
        """The limit less the reserve."""
        return self.limit - self.limit // RESERVE_SHARE

    def remaining(self, now_ns: int) -> int:
        """What is left of this window; 0 while stopped."""
        self._roll(now_ns)
        return 0 if self.stop.left_ns else max(0, self.limit - self._used - self._pending)

    def reset_ns(self, now_ns: int) -> int:
        """When it is refilled, UTC ns: the end of the window, or of a stop that lasts longer."""
        return max((now_ns // self.interval_ns + 1) * self.interval_ns, now_ns + self.stop.left_ns)

    def _roll(self, now_ns: int) -> None:
        window = now_ns // self.interval_ns
        # Callers' clocks differ a little, and one that is still in the window before must not empty this one. A clock
        # that was set back further begins anew.
        if window > self._window or window < self._window - 1:
            # What is pending over the edge of a window may count in either; the venue's next count says.
            self._window, self._used, self._pending = window, 0, 0


class Budgets:
    """All limits of one account and address; `kind` is the venue's name for what is counted."""

    def __init__(self, budgets: Iterable[Budget] = ()) -> None:
        self._budgets: dict[tuple[str, int], Budget] = {(b.kind, b.interval_ns): b for b in budgets}
        self._by_kind: dict[str, tuple[Budget, ...]] = {}
        for budget in self._budgets.values():
            self._by_kind[budget.kind] = (*self._by_kind.get(budget.kind, ()), budget)

    def take(self, kind: str, weight: int, now_ns: int) -> int:
        """Takes from every window of the kind, or from none: 0, or the ns to wait. A kind without a budget is free."""
        budgets = self._by_kind.get(kind, ())
        wait_ns = 0
        for budget in budgets:
            wait_ns = max(wait_ns, budget.wait_ns(weight, now_ns))
        if not wait_ns:
            for budget in budgets:
                budget._pending += weight
        return wait_ns

    def take_spare(self, kind: str, weight: int, now_ns: int) -> int:
        """As `take`, for what can wait: a part of each window is left to what cannot, such as cancels."""
        budgets = self._by_kind.get(kind, ())
        wait_ns = max((b.wait_spare_ns(weight, now_ns) for b in budgets), default=0)
        return wait_ns or self.take(kind, weight, now_ns)

    def settle(self, kind: str, weight: int) -> None:
        """As `Budget.settle`, for every window of the kind."""
        for budget in self._by_kind.get(kind, ()):
            budget.settle(weight)

    def observe(self, kind: str, interval_ns: int, count: int, limit: int, now_ns: int) -> None:
        """A count that the venue reported. A window that we did not know is known from now on."""
        budget = self._budgets.get((kind, interval_ns))
        if budget is None:
            if limit < 1 or interval_ns < 1:
                return  # a header without a limit for a window that exchangeInfo does not name
            budget = self._add(kind, interval_ns, limit)
        budget.observe(count, limit, now_ns)

    def allow(self, kind: str, interval_ns: int, limit: int) -> None:
        """A limit as the venue publishes it (exchangeInfo); what cannot be one changes nothing."""
        if limit < 1 or interval_ns < 1:
            return
        budget = self._budgets.get((kind, interval_ns))
        if budget is None:
            self._add(kind, interval_ns, limit)
        else:
            budget.limit = limit

    def _add(self, kind: str, interval_ns: int, limit: int) -> Budget:
        budget = self._budgets[kind, interval_ns] = Budget(kind, limit, interval_ns)
        self._by_kind[kind] = (*self._by_kind.get(kind, ()), budget)
        return budget

    def observe_all(self, seen: Iterable[LimitSeen], now_ns: int) -> None:
        for row in seen:
            self.observe(row.kind, row.interval_ns, row.count, row.limit, now_ns)

    def stop(self, clock: Clock, wait_ns: int, kind: str | None = None) -> None:
        """Nothing (or nothing of a kind) passes from now on for `wait_ns`: 429, 418."""
        for budget in self._budgets.values():
            if kind is None or budget.kind == kind:
                budget.stop.begin(clock, wait_ns)

    @property
    def stopped_ns(self) -> int:
        """How long the longest of the stops lasts; 0: nothing is stopped."""
        return max((budget.stop.left_ns for budget in self._budgets.values()), default=0)

    def limit(self, kind: str) -> int:
        """What the shortest window of the kind holds; 0 for a kind without a budget."""
        budgets = self._by_kind.get(kind, ())
        return min(budgets, key=lambda b: b.interval_ns).limit if budgets else 0

    def remaining(self, kind: str, now_ns: int) -> int:
        """The least that is left in a window of the kind; 0 for a kind without a budget."""
        return min((b.remaining(now_ns) for b in self._by_kind.get(kind, ())), default=0)

    def reset_ns(self, kind: str, now_ns: int) -> int:
        """When the window with the least left is refilled, UTC ns."""
        budgets = self._by_kind.get(kind, ())
        return min(budgets, key=lambda b: b.remaining(now_ns)).reset_ns(now_ns) if budgets else now_ns


class ConnectBudget(Budget):
    """Connects from one address, shared by every session: Binance allows 300 in 5 minutes."""

    __slots__ = ()

    def __init__(self, limit: int = 300, interval_ns: int = 5 * MINUTE_NS) -> None:
        super().__init__("CONNECTIONS", limit, interval_ns)


def binance_budgets() -> Budgets:
    """The documented limits of Binance spot; `allow` takes those of exchangeInfo, and each reply corrects them."""
    return Budgets(
        (
            Budget("REQUEST_WEIGHT", 6_000, MINUTE_NS),
            Budget("ORDERS", 100, 10 * SECOND_NS),
            Budget("ORDERS", 200_000, DAY_NS),
        )
    )


def read_headers(headers: Mapping[str, str]) -> list[LimitSeen]:
    """The counts of Binance's REST headers, names in any case: `X-MBX-USED-WEIGHT-1M: 12`, `X-MBX-ORDER-COUNT-10S: 3`.

    What does not read as one is left out: a header is no reason to refuse an answer.
    """
    seen = []
    for name, text in headers.items():
        for prefix, kind in (("x-mbx-used-weight-", "REQUEST_WEIGHT"), ("x-mbx-order-count-", "ORDERS")):
            if name.lower().startswith(prefix):
                number, unit = name[len(prefix) : -1], name[-1:].upper()
                if number.isdecimal() and int(number) and unit in UNIT_NS and text.isdecimal() and len(text) < 16:
                    seen.append(LimitSeen(kind, int(number) * UNIT_NS[unit], int(text)))
    return seen
