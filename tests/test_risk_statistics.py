"""Volatility and correlations from real books in virtual time, against slow models that are written out by hand."""

from __future__ import annotations

import itertools
import json
import math
import random
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tbx.core.kernel.clock import SECOND_NS, ManualClock
from tbx.core.kernel.kernel import Kernel
from tbx.core.market.data import MarketData
from tbx.core.model.instruments import Instrument
from tbx.core.risk.correlations import WINDOW, Returns, components, correlations
from tbx.core.risk.groups import DOLLARS, TABLE, Groups
from tbx.core.risk.statistics import KEPT_AGE_MAX_NS, KeptStatistics, Statistics, kept_fault
from tbx.core.state.memory import MemoryStore

from .desk import RVN, Desk
from .reference import connected, correlation_of, volatility_of

SAMPLE_NS = 5 * SECOND_NS


def listed(exchange: str, pair: str) -> Instrument:
    base, _, quote = pair.partition("_")
    cent = Decimal("0.01")
    return Instrument(exchange=exchange, pair=pair, symbol=pair, base=base, quote=quote, tick=cent, lot=Decimal(1))


class Rig:
    """Statistics over real books; time goes on by one sample at a time."""

    def __init__(self, *markets: tuple[str, str], step: int = 1, common: int = 10, base: str = "USDT") -> None:
        self.clock = ManualClock()
        self.store = MemoryStore(self.clock.call_soon)
        self.faults: list[str] = []
        self.kernel = Kernel(self.clock, self.store, on_fault=lambda fault, _: self.faults.append(fault.error))
        self.market = MarketData(self.kernel, [listed(*market) for market in markets], depth_max=10)
        self.groups = Groups(base)
        self.statistics = Statistics(
            self.kernel, self.market, self.groups, base, samples_a_step=step, returns_in_common_min=common
        )
        self.kernel.add(self.statistics)
        self.update_id = 0
        self.kernel.start()

    def sample(self, mids: dict[tuple[str, str], float | None], wait_ns: int = SAMPLE_NS) -> None:
        """Show these mids (None: the connection is gone) right before the next sample, and let that be taken."""
        self.clock.advance(wait_ns - SECOND_NS)
        for (exchange, pair), mid in mids.items():
            if mid is None:
                self.market.lost(exchange, [pair])
                continue
            self.show((exchange, pair), mid)
        self.clock.advance(SECOND_NS)
        assert self.faults == []

    def show(self, market: tuple[str, str], mid: float) -> None:
        self.update_id += 1
        bids, asks = [[f"{mid - 0.01:.2f}", "5"]], [[f"{mid + 0.01:.2f}", "5"]]
        frame = {"lastUpdateId": self.update_id, "bids": bids, "asks": asks}
        self.market.frame(*market, json.dumps(frame).encode(), self.clock.now_ns())

    def run(self, series: dict[tuple[str, str], list[float | None]]) -> None:
        for row in zip(*series.values(), strict=True):
            self.sample(dict(zip(series, row, strict=True)))


def walk(seed: int, count: int, sigma: float = 0.002, gaps: float = 0.0) -> list[float | None]:
    """Mids on the grid of a cent; None for a gap."""
    rng, price, mids = random.Random(seed), 500.0, list[float | None]()
    for _ in range(count):
        price *= math.exp(rng.gauss(0, sigma))
        mids.append(None if rng.random() < gaps else round(price, 2))
    return mids


BTC, ETH, RVN_M, XMR = ("a", "BTC_USDT"), ("a", "ETH_USDT"), ("a", "RVN_USDT"), ("a", "XMR_USDT")
ZEC = ("a", "ZEC_USDT")


# --- volatility ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gaps", [0.0, 0.2])
def test_volatility_is_the_weighted_root_mean_square_of_returns_a_year(gaps: float) -> None:
    rig, mids = Rig(BTC), walk(1, 80, gaps=gaps)
    rig.run({BTC: mids})
    found = rig.statistics.volatility(*BTC)
    assert found == pytest.approx(volatility_of(mids, 5), rel=1e-9)


def test_volatility_is_not_known_before_twelve_returns() -> None:
    rig, mids = Rig(BTC), walk(2, 13)
    rig.run({BTC: mids[:12]})
    assert (rig.statistics.volatility(*BTC), rig.statistics.samples(*BTC)) == (None, 11)
    rig.run({BTC: mids[12:]})
    assert rig.statistics.samples(*BTC) == 12
    assert rig.statistics.volatility(*BTC) is not None
    assert rig.statistics.volatility("a", "NEVER_USDT") is None
    assert rig.statistics.samples("a", "NEVER_USDT") == 0


def test_a_gap_makes_no_return_over_it() -> None:
    rig = Rig(BTC)
    rig.run({BTC: [100.0] * 14 + [None] + [200.0] * 3})
    assert rig.statistics.samples(*BTC) == 15
    assert rig.statistics.volatility(*BTC) == 0


def test_a_process_that_stood_still_makes_no_return_over_that_time() -> None:
    rig = Rig(BTC)
    rig.run({BTC: [100.0] * 14})
    rig.clock._now_ns += 600 * SECOND_NS  # nothing ran meanwhile
    rig.show(BTC, 200.0)
    rig.clock.settle()
    assert rig.statistics.volatility(*BTC) == 0
    rig.sample({BTC: 200.0})
    assert rig.statistics.samples(*BTC) == 14


def test_a_sample_that_comes_late_counts_for_the_time_that_it_took() -> None:
    punctual, late = Rig(BTC), Rig(BTC)
    for rig in (punctual, late):
        rig.run({BTC: [100.0] * 14})
    punctual.sample({BTC: 110.0})
    late.show(BTC, 110.0)
    late.clock._now_ns += SAMPLE_NS * 3 // 2
    late.market.alive("a", late.clock.now_ns())
    late.clock.settle()
    one, other = punctual.statistics.volatility(*BTC), late.statistics.volatility(*BTC)
    assert one is not None
    assert other is not None
    assert one / other == pytest.approx(math.sqrt(1.5))


# --- correlation ---------------------------------------------------------------------------------------------------


def test_correlations_are_pearsons_over_the_steps_that_both_have() -> None:
    rig = Rig(BTC, ETH, common=10)
    one, noise = walk(3, 90, gaps=0.1), walk(4, 90, gaps=0.1)
    other = [None if a is None or b is None else round(a * 0.5 + b * 0.5, 2) for a, b in zip(one, noise, strict=True)]
    rig.run({BTC: one, ETH: other})

    def returns(mids: list[float | None]) -> list[float | None]:
        return [None if a is None or b is None else math.log(b / a) for a, b in itertools.pairwise(mids)]

    wanted = correlation_of(returns(one), returns(other), 10)
    assert wanted is not None
    assert rig.statistics.correlation("BTC", "ETH") == pytest.approx(wanted, abs=1e-9)
    assert rig.statistics.correlation("ETH", "BTC") == pytest.approx(wanted, abs=1e-9)
    assert rig.statistics.correlation("ETH", "NEVER") is None


def test_currencies_that_move_together_become_a_group_and_those_that_do_not_leave_it() -> None:
    rig = Rig(BTC, ETH, RVN_M, XMR, ZEC)
    groups = rig.groups
    assert groups.of("BTC") == groups.of("ETH") == TABLE["majors"]
    btc, eth = walk(5, 40), walk(6, 40)
    rig.run({BTC: btc, ETH: eth, RVN_M: btc, XMR: [100.0] * 40, ZEC: eth})
    rig.clock.advance(SECOND_NS)
    assert groups.of("BTC") == {"BTC", "RVN"}
    # It has not moved, so it stays with what it was with, and follows that.
    assert groups.of("XMR") == {"XMR", "ZEC", "ETH"}
    assert groups.of("LTC") == TABLE["majors"] - {"BTC", "ETH"}, "nobody trades it: it stays with the rest"
    assert groups.of("RVN") is groups.of("BTC")


def test_too_few_returns_in_common_change_no_group() -> None:
    rig = Rig(BTC, RVN_M, common=30)
    mids = walk(7, 25)
    rig.run({BTC: mids, RVN_M: mids})
    rig.clock.advance(SECOND_NS)
    assert rig.groups.of("BTC") != rig.groups.of("RVN")
    assert rig.statistics.correlation("BTC", "RVN") is None


def test_a_currencys_return_is_of_the_venue_that_was_seen_most() -> None:
    here, there = ("a", "BTC_USDT"), ("b", "BTC_USDT")
    rig = Rig(here, there, ETH, common=10)
    btc, other = walk(8, 60), walk(9, 60)
    seldom = [mid if number % 10 < 5 else None for number, mid in enumerate(other)]
    rig.run({here: btc, there: seldom, ETH: btc})
    assert rig.statistics.correlation("BTC", "ETH") == pytest.approx(1)


def test_steps_are_of_several_samples() -> None:
    rig = Rig(BTC, ETH, step=3, common=5)
    btc = walk(10, 61)
    rig.run({BTC: btc, ETH: btc})
    assert rig.statistics.correlation("BTC", "ETH") == pytest.approx(1)
    few = Rig(BTC, ETH, step=20, common=5)
    few.run({BTC: btc, ETH: btc})
    assert few.statistics.correlation("BTC", "ETH") is None


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 9))
def test_the_kernel_agrees_with_pearson_on_any_window_with_holes(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    window = rng.normal(0, 1e-3, (WINDOW, count)) + rng.normal(0, 1e-3, (WINDOW, 1))
    window[rng.random(window.shape) < rng.random()] = np.nan
    window[:, 0] = np.where(np.isnan(window[:, 0]), np.nan, 0.0)  # one that never moves
    found = correlations(Returns(window), 0, count, 30)
    columns = [[None if math.isnan(x) else x for x in column] for column in window.T.tolist()]
    for i in range(count):
        for j in range(count):
            wanted = correlation_of(columns[i], columns[j], 30)
            assert math.isnan(found[i, j]) if wanted is None else found[i, j] == pytest.approx(wanted, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.data())
def test_parts_are_those_of_a_union_find(count: int, data: st.DataObject) -> None:
    node = st.integers(0, count - 1)
    edges = data.draw(st.sets(st.tuples(node, node), max_size=40))
    together = np.eye(count, dtype=np.bool_)
    for one, other in edges:
        together[one, other] = together[other, one] = True
    assert {frozenset(part) for part in components(together)} == connected(count, edges)


# --- groups --------------------------------------------------------------------------------------------------------


def test_the_table_names_each_currency_once_and_no_dollar() -> None:
    named = [currency for group in TABLE.values() for currency in group]
    assert len(named) == len(set(named))
    assert not DOLLARS & set(named)


def test_stable_coins_are_exposed_to_nothing_unless_the_base_currency_is_none_of_them() -> None:
    dollars, bitcoin = Groups("USDT"), Groups("BTC")
    assert dollars.of("USDC") == frozenset() == dollars.of("USDT")
    assert not dollars.exposed("DAI")
    assert bitcoin.of("BTC") == frozenset()
    assert {"USDC", "USDT"} <= bitcoin.of("USDC")
    assert "BTC" not in bitcoin.of("ETH")
    assert dollars.of("QQQ") == {"QQQ"}


@settings(max_examples=80, deadline=None)
@given(st.lists(st.sets(st.sampled_from(["BTC", "ETH", "LTC", "RVN", "XMR", "AAA", "BBB"]), min_size=1), max_size=4))
def test_groups_are_disjoint_and_hold_every_currency_after_any_update(drawn: list[set[str]]) -> None:
    groups, seen, found = Groups("USDT"), set[str](), []
    for group in drawn:
        rest = group - seen
        seen |= rest
        if rest:
            found.append(frozenset(rest))
    groups.update(found)
    for currency in ["BTC", "ETH", "LTC", "BCH", "RVN", "XMR", "AAA", "BBB", "CCC"]:
        group = groups.of(currency)
        assert currency in group
        for other in group:
            assert groups.of(other) == group
    for group in found:
        assert groups.of(min(group)) == group


# --- across a restart ----------------------------------------------------------------------------------------------


def kept_of(rig: Rig) -> KeptStatistics:
    (_, _, kept), *more = rig.statistics.records()
    assert not more
    return kept


def test_a_restart_goes_on_from_what_was_known() -> None:
    markets = (BTC, ETH, RVN_M)
    before, after = Rig(*markets), Rig(*markets)
    mids = walk(11, 40)
    before.run({BTC: mids, ETH: walk(12, 40), RVN_M: mids})
    before.clock.advance(SECOND_NS)
    after.clock._now_ns = before.clock.now_ns()
    after.statistics.restore(kept_of(before))
    assert after.statistics.volatility(*BTC) == before.statistics.volatility(*BTC)
    assert after.groups.of("RVN") == {"BTC", "RVN"}
    assert after.groups.of("ETH") == {"ETH"}
    after.run({BTC: [100.0, 101.0], ETH: [1.0, 1.0], RVN_M: [1.0, 1.0]})
    assert after.statistics.samples(*BTC) == 40
    assert after.groups.of("RVN") == {"BTC", "RVN"}, "one return says nothing against it"


@pytest.mark.parametrize("age_ns", [KEPT_AGE_MAX_NS + 1, -1])
def test_what_is_old_or_of_the_future_is_not_taken_over(age_ns: int) -> None:
    before, after = Rig(BTC), Rig(BTC)
    before.run({BTC: walk(13, 30)})
    after.clock._now_ns = before.clock.now_ns() + age_ns
    after.statistics.restore(kept_of(before))
    assert after.statistics.volatility(*BTC) is None


def test_a_record_that_makes_no_sense_is_not_taken_over() -> None:
    rig = Rig(BTC)
    for squares in ((-1.0, 20), (math.inf, 20), (math.nan, 20), (0.1, 0), (0.1, 2**63)):
        kept = KeptStatistics(
            at_ns=rig.clock.now_ns(), sample_ns=SAMPLE_NS, squares={"a:BTC_USDT": squares}, groups=(("BTC", "RVN"),)
        )
        assert "a:BTC_USDT" in kept_fault(kept)
        rig.statistics.restore(kept)
        assert rig.statistics.volatility(*BTC) is None
        assert rig.groups.of("RVN") == TABLE["mined"]
    twice = KeptStatistics(at_ns=1, sample_ns=SAMPLE_NS, squares={}, groups=(("BTC", "RVN"), ("RVN",)))
    assert kept_fault(twice) == "a currency is in two groups"


def test_it_is_kept_once_a_step_and_at_the_end() -> None:
    rig = Rig(BTC, step=12)
    rig.run({BTC: walk(14, 26)})
    assert rig.store.tables["risk"].keys() == {"statistics"}
    first = rig.store.tables["risk"]["statistics"]
    rig.run({BTC: walk(15, 3)})
    assert rig.store.tables["risk"]["statistics"] == first
    rig.kernel.stop()
    rig.clock.settle()
    assert json.loads(rig.store.tables["risk"]["statistics"])["squares"]["a:BTC_USDT"][1] == 28


def test_a_node_knows_volatility_and_still_does_after_it_died(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    for number in range(80):
        desk.price(f"0.0244{number % 5}", f"0.0246{number % 3}")
        desk.wait(1_000)
    before = desk.node.statistics.volatility("xeggex", RVN)
    assert before is not None
    assert before > 0
    desk.restart()
    after = desk.node.statistics.volatility("xeggex", RVN)
    assert after == pytest.approx(before, rel=0.5), "the last record is at most a minute older"
    desk.check()
