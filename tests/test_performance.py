"""Performance: returns without flows, drawdown, Sharpe, day P&L, against a slow model that keeps everything."""

import itertools
import math
import statistics
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tbx.core.model.records import EquitySample
from tbx.core.portfolio.performance import DAY_NS, HOUR_NS, LEVELS, MINUTE_NS, Performance

pytestmark = pytest.mark.portfolio

D = Decimal
START = 19_723 * DAY_NS  # 2024-01-01


def sample(at_ns: int, equity: object, flow: object = 0) -> EquitySample:
    return EquitySample(timestamp_ns=START + at_ns, equity=D(str(equity)), flow=D(str(flow)))


def fed(*samples: EquitySample) -> Performance:
    performance = Performance()
    for one in samples:
        performance.add(one)
    return performance


def test_without_samples_all_is_zero_or_not_known():
    view = Performance().view(D(100), D(0), START, 0, 0)
    assert (view.total_return, view.max_drawdown, view.sharpe_ratio, view.win_rate) == (0, 0, None, None)
    assert Performance().day_pnl(D(100), D(0), START) == 0


def test_returns_are_in_percent_of_the_manual():
    performance = fed(sample(0, 50_000))
    assert performance.view(D("51220"), D(0), START + HOUR_NS, 0, 0).total_return == D("2.44")


def test_a_deposit_and_a_withdrawal_earn_nothing():
    performance = fed(sample(0, 1000), sample(1, 3000, 2000), sample(2, 500, -2500))
    view = performance.view(D(500), D(0), START + 3, 0, 0)
    assert view.total_return == 0
    assert view.max_drawdown == 0
    assert performance.view(D(1500), D(1000), START + 3, 0, 0).total_return == 0, "one that no sample has seen yet too"


def test_growth_is_linked_over_a_flow_not_divided_by_it():
    performance = fed(sample(0, 100), sample(1, 110), sample(2, 1010, 900))  # +10 %, then 900 come in
    assert performance.view(D(1111), D(0), START + 3, 0, 0).total_return == D(21)  # and +10 % again


def test_day_pnl_is_against_the_last_sample_before_midnight_without_deposits_since():
    performance = fed(sample(0, 100), sample(DAY_NS - 1, 120), sample(DAY_NS, 125), sample(DAY_NS + 5, 325, 200))
    assert performance.day_pnl(D(331), D(0), START + DAY_NS + 6) == 11
    assert performance.day_pnl(D(341), D(10), START + DAY_NS + 6) == 11
    assert performance.day_pnl(D(331), D(0), START + 2 * DAY_NS) == 6, "a new day that no sample has seen yet"


def test_day_pnl_of_the_first_day_is_since_the_first_sample():
    performance = fed(sample(HOUR_NS, 100, 100), sample(2 * HOUR_NS, 105))
    assert performance.day_pnl(D(107), D(0), START + 3 * HOUR_NS) == 7


def test_sharpe_needs_two_days_and_some_deviation():
    first = fed(sample(0, 100), sample(HOUR_NS, 101))
    assert first.view(D(101), D(0), START + 2 * HOUR_NS, 0, 0).sharpe_ratio is None
    flat = fed(*[sample(day * DAY_NS, 100) for day in range(5)])
    assert flat.view(D(100), D(0), START + 5 * DAY_NS, 0, 0).sharpe_ratio is None
    two = fed(sample(0, 100), sample(HOUR_NS, 101), sample(DAY_NS, 104.03))
    expected = statistics.mean([0.01, 0.03]) / statistics.stdev([0.01, 0.03]) * math.sqrt(365)
    assert float(two.view(D("104.03"), D(0), START + DAY_NS, 0, 0).sharpe_ratio) == pytest.approx(expected, abs=1e-4)


def test_win_rate_is_of_closed_positions():
    assert Performance().view(D(0), D(0), START, 200, 137).win_rate == D("68.5")


def test_a_total_loss_stays_one():
    performance = fed(sample(0, 100), sample(1, 0), sample(2, 50, 50))
    view = performance.view(D(60), D(0), START + 3, 0, 0)
    assert (view.total_return, view.max_drawdown) == (-100, 100)


def test_memory_is_bounded_and_old_extremes_are_not_forgotten():
    performance = fed(sample(0, 100), sample(MINUTE_NS, 200), sample(2 * MINUTE_NS, 50))
    for minute in range(3, 60 * 24 * 4):
        performance.add(sample(minute * MINUTE_NS, 100))
    assert len(performance) <= 2 * sum(most for _, most in LEVELS)
    assert len(performance) < 60 * 24 * 3
    view = performance.view(D(100), D(0), START + 4 * DAY_NS, 0, 0)
    assert (view.max_drawdown, view.total_return) == (75, 0)


class SlowModel:
    """Keeps every sample and works each figure out from all of them."""

    def __init__(self, samples: list[EquitySample], equity: Decimal, flow: Decimal, now_ns: int) -> None:
        self.points = [(samples[0].timestamp_ns, 1.0)]
        present = EquitySample(timestamp_ns=now_ns, equity=equity, flow=flow)
        for before, after in itertools.pairwise([*samples, present]):
            growth = float(after.equity - after.flow) / float(before.equity)
            self.points.append((after.timestamp_ns, self.points[-1][1] * growth))
        self.now_ns = now_ns
        self.samples = samples

    def since(self, at_ns: int) -> float:
        earlier = [index for time_ns, index in self.points[:-1] if time_ns <= at_ns]
        return 100 * (self.points[-1][1] / (earlier[-1] if earlier else 1.0) - 1)

    def drawdown(self) -> float:
        peaks = itertools.accumulate((index for _, index in self.points), max)
        return 100 * max(1 - index / peak for peak, (_, index) in zip(peaks, self.points, strict=True))

    def sharpe(self) -> float | None:
        closes: dict[int, float] = {}
        for time_ns, index in self.points:
            closes[time_ns // DAY_NS] = index
        indexes = [1.0, *closes.values()]
        returns = [after / before - 1 for before, after in itertools.pairwise(indexes)]
        if len(returns) < 2 or statistics.stdev(returns) < 1e-9:
            return None
        return statistics.mean(returns) / statistics.stdev(returns) * math.sqrt(365)


moves = st.lists(
    st.tuples(st.integers(1, 30), st.integers(90, 111), st.sampled_from([0, 0, 0, 500, -50])), min_size=1, max_size=60
)


@settings(max_examples=60, deadline=None)
@given(moves, st.integers(0, 50), st.integers(95, 105))
def test_all_figures_are_those_of_a_model_that_keeps_every_sample(moves, later_hours, move):
    """On samples a whole number of hours apart, where thinning out keeps each cutoff of a month."""
    samples = [sample(0, 1000)]
    hours = 0
    for step, growth, flow in moves:
        hours += step
        samples.append(sample(hours * HOUR_NS, samples[-1].equity * growth / 100 + flow, flow))
    performance = fed(*samples)
    now_ns = samples[-1].timestamp_ns + later_hours * HOUR_NS
    equity = samples[-1].equity * move / 100
    model = SlowModel(samples, equity, D(0), now_ns)
    view = performance.view(equity, D(0), now_ns, 0, 0)
    near = lambda value: pytest.approx(value, rel=1e-7, abs=2e-4)  # noqa: E731
    assert float(view.total_return) == near(model.since(-1))
    assert float(view.day_return) == near(model.since(now_ns // DAY_NS * DAY_NS - 1))
    assert float(view.week_return) == near(model.since(now_ns - 7 * DAY_NS))
    assert float(view.month_return) == near(model.since(now_ns - 30 * DAY_NS))
    assert float(view.max_drawdown) == near(model.drawdown())
    sharpe = model.sharpe()
    assert (view.sharpe_ratio is None) == (sharpe is None)
    if sharpe is not None:
        assert float(view.sharpe_ratio) == near(sharpe)
