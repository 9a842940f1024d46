"""Returns, drawdown, Sharpe ratio and day P&L from equity samples.

Always true here: deposits and withdrawals earn nothing. The index is the growth of one unit of money: from sample
to sample it is multiplied by (equity - flow) / equity before, as the flow came in right before its sample (the
manager takes a sample at each deposit). What is kept is bounded: one point a minute for 25 hours, one an hour for
32 days, one a day for ten years, each the last of its slot. Index, peak, drawdown and the Sharpe sums are running
figures, so thinning out loses none of them.

    total    index now - 1, since the first sample
    day      since the last sample before 00:00 UTC
    week     since the last kept sample at or before 7 x 24 hours ago, month 30 x 24 hours; since the first sample
             where there is none so old
    Sharpe   mean / sample deviation x sqrt(365) of one return for each UTC day that has samples, today's so far
             included, against the last sample before the day; risk-free 0; null under two days or without deviation
"""

import math
from bisect import bisect_right
from decimal import Decimal

from ..model.exact import ZERO
from ..model.records import EquitySample
from ..model.views import PERCENT, PerformanceView, percent, shown

MINUTE_NS = 60 * 1_000_000_000
HOUR_NS = 60 * MINUTE_NS
DAY_NS = 24 * HOUR_NS
LEVELS = ((MINUTE_NS, 25 * 60), (HOUR_NS, 32 * 24), (DAY_NS, 3_660))  # slot, how many are kept
DAYS_A_YEAR = 365
DEVIATION_MIN = 1e-12  # of daily returns; below it there is only the noise of floating point


class Points:
    """(time, index), the last of each slot; the oldest leave at the bound."""

    def __init__(self, slot_ns: int, points_max: int) -> None:
        self.slot_ns = slot_ns
        self.points_max = points_max
        self.times: list[int] = []
        self.values: list[float] = []

    def add(self, time_ns: int, value: float) -> None:
        if self.times and self.times[-1] // self.slot_ns == time_ns // self.slot_ns:
            self.times[-1], self.values[-1] = time_ns, value
            return
        self.times.append(time_ns)
        self.values.append(value)
        if len(self.times) > 2 * self.points_max:  # half at a time, so that it costs nothing on average
            del self.times[: self.points_max]
            del self.values[: self.points_max]

    def at(self, time_ns: int) -> float | None:
        """The last value at or before a time, if one is kept."""
        found = bisect_right(self.times, time_ns)
        return self.values[found - 1] if found else None


class Performance:
    """Fed with every sample in order; answers from running figures."""

    def __init__(self) -> None:
        self._levels = [Points(slot, most) for slot, most in LEVELS]
        self.last: EquitySample | None = None
        self._first_index = 1.0
        self._index = 1.0  # at the last sample
        self._peak = 1.0
        self._drawdown = 0.0  # the greatest so far, as a fraction
        # of the day of the last sample
        self._day = 0
        self._day_equity = ZERO  # of the last sample before that day, or of the first one
        self._day_flow = ZERO  # since then
        self._day_index = 1.0
        # of the daily returns before that day: count, mean, sum of squared deviations (Welford)
        self._days = 0
        self._mean = 0.0
        self._squares = 0.0

    def __len__(self) -> int:
        return sum(len(level.times) for level in self._levels)

    def add(self, sample: EquitySample) -> None:
        """Take the next sample; one that is older than the last is not possible and left out."""
        time_ns, last = sample.timestamp_ns, self.last
        if last is None:
            self._day, self._day_equity = time_ns // DAY_NS, sample.equity
        else:
            if time_ns < last.timestamp_ns:
                return
            self._roll(time_ns // DAY_NS, last)
            self._day_flow += sample.flow
            self._index = self._index_at(sample.equity, sample.flow)
        self._drawdown = max(self._drawdown, _fall(self._peak, self._index))
        self._peak = max(self._peak, self._index)
        self.last = sample
        for level in self._levels:
            level.add(time_ns, self._index)

    def _roll(self, day: int, last: EquitySample) -> None:
        """Close the day of the last sample when the next one is of a later day."""
        if day == self._day:
            return
        self._days, self._mean, self._squares = self._with_today(self._index)
        self._day, self._day_equity, self._day_flow, self._day_index = day, last.equity, ZERO, self._index

    def _index_at(self, equity: Decimal, flow: Decimal) -> float:
        last = self.last
        if last is None or last.equity <= 0:
            return self._index
        return self._index * max(0.0, float((equity - flow) / last.equity))

    def _with_today(self, index: float) -> tuple[int, float, float]:
        today = index / self._day_index - 1 if self._day_index > 0 else 0.0
        days = self._days + 1
        delta = today - self._mean
        mean = self._mean + delta / days
        return days, mean, self._squares + delta * (today - mean)

    def day_pnl(self, equity: Decimal, flow: Decimal, now_ns: int) -> Decimal:
        """Earned since the last sample before 00:00 UTC; `flow` came in since the last sample. Exact, O(1)."""
        last = self.last
        if last is None:
            return ZERO
        if now_ns // DAY_NS > self._day:
            return equity - flow - last.equity
        return equity - flow - self._day_flow - self._day_equity

    @property
    def index(self) -> float:
        """At the last sample."""
        return self._index

    def growth(self, equity: Decimal, flow: Decimal) -> tuple[float, float]:
        """The index with the present equity as if it were a sample, and its highest so far."""
        index = self._index_at(equity, flow)
        return index, max(self._peak, index)

    def view(self, equity: Decimal, flow: Decimal, now_ns: int, closed: int, won: int) -> PerformanceView:
        """The block of the API, with the present equity as if it were a sample."""
        win_rate = percent(Decimal(won), Decimal(closed)) if closed else None
        if self.last is None:
            return PerformanceView(win_rate=win_rate)
        index = self._index_at(equity, flow)
        today = now_ns // DAY_NS
        day_index = self._index if today > self._day else self._day_index
        return PerformanceView(
            total_return=_percent(index, 1.0),
            day_return=_percent(index, day_index),
            week_return=_percent(index, self._before(now_ns - 7 * DAY_NS)),
            month_return=_percent(index, self._before(now_ns - 30 * DAY_NS)),
            max_drawdown=_rounded(100 * max(self._drawdown, _fall(self._peak, index))),
            sharpe_ratio=self._sharpe(index, today),
            win_rate=win_rate,
        )

    def _before(self, time_ns: int) -> float:
        for level in self._levels:
            value = level.at(time_ns)
            if value is not None:
                return value
        return self._first_index

    def _sharpe(self, index: float, today: int) -> Decimal | None:
        days, mean, squares = self._with_today(self._index if today > self._day else index)
        if today > self._day:
            change = index / self._index - 1 if self._index > 0 else 0.0
            days += 1
            delta = change - mean
            mean += delta / days
            squares += delta * (change - mean)
        if days < 2 or squares / (days - 1) < DEVIATION_MIN**2:
            return None
        return _rounded(mean / math.sqrt(squares / (days - 1)) * math.sqrt(DAYS_A_YEAR))


def _fall(peak: float, index: float) -> float:
    return 1 - index / peak if peak > 0 else 0.0


def _percent(index: float, before: float) -> Decimal:
    return _rounded(100 * (index / before - 1)) if before > 0 else ZERO


def _rounded(value: float) -> Decimal:
    return shown(Decimal(value), PERCENT)
