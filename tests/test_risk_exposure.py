"""Exposure by group: after any sequence of events the same as adding everything up anew."""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tbx.core.risk.exposure import Exposure
from tbx.core.risk.groups import Groups

from .desk import RVN, Desk

D = Decimal
EIGHTEEN = D("1E-18")
WALLET = "paper.xeggex"
# Where this test trades, with the mid that each begins at.
PAIRS = {
    ("xeggex", RVN): D("0.0245"),
    ("binance", "BTC_USDT"): D("40000"),
    ("binance", "ETH_USDT"): D("2000"),
    ("xeggex", "XMR_USDT"): D("160"),
}


def groups_of(desk: Desk) -> Groups:
    return desk.node.exposure._groups


def show(desk: Desk, exchange: str, pair: str, mid: Decimal) -> None:
    """A book with enough in it, a step around this mid."""
    instrument = desk.node.instruments[exchange, pair]
    low = mid // instrument.tick * instrument.tick
    size = instrument.lot * int(D(20_000) / mid / instrument.lot)
    desk.book(
        [(str(low - instrument.tick), str(size))],
        [(str(low + instrument.tick), str(size))],
        exchange=exchange,
        pair=pair,
    )
    desk.clock.settle()


def summed(desk: Desk, currency: str, paper: bool = True) -> Decimal:
    """Every position and open buy of the group, one by one, as the portfolio and the orders have them."""
    node, whole = desk.node, D(0)
    group = groups_of(desk).of(currency)
    for exchange, pair in node.instruments:
        base, _, quote = pair.partition("_")
        wallet = f"paper.{exchange}" if paper else exchange
        if base in group:
            rate = node.portfolio.rates.rate(exchange, quote).value
            assert rate is not None
            buying = sum(
                (o.reserved for o in node.orders.open.values() if (o.wallet, o.pair, o.side) == (wallet, pair, "buy")),
                D(0),
            )
            whole += node.portfolio.position_value(wallet, pair).quantize(EIGHTEEN, ROUND_HALF_EVEN)
            whole += (buying * rate).quantize(EIGHTEEN, ROUND_HALF_EVEN)
    return whole


def agree(desk: Desk) -> None:
    """The running sums, those of a process that begins now, and the slow ones."""
    node = desk.node
    anew = Exposure(node.kernel, node.portfolio, node.orders, groups_of(desk))
    node.orders.reserved_hooks.pop()
    anew.restore()
    for currency in ("BTC", "ETH", "RVN", "XMR", "LTC"):
        actual, group = node.exposure.room_actual(WALLET, currency)
        assert currency in group
        assert actual == summed(desk, currency)
        assert anew.room_actual(WALLET, currency) == (actual, group)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return a_desk(tmp_path)


def a_desk(folder: Path) -> Desk:
    desk = Desk(folder, INITIAL_BALANCE="200000", MAX_POSITION_SIZE="1")
    for (exchange, pair), mid in PAIRS.items():
        show(desk, exchange, pair, mid)
    return desk


def test_what_is_held_counts_at_the_mid_and_what_is_being_bought_as_it_is_reserved(desk: Desk) -> None:
    assert desk.node.exposure.room_actual(WALLET, "RVN") == (0, groups_of(desk).of("RVN"))
    desk.order("buy", "1000")
    assert desk.node.exposure.room_actual(WALLET, "RVN")[0] == 1000 * D("0.0245")
    open_buy = desk.order("buy", "1000", type="limit", price="0.02")
    actual, _ = desk.node.exposure.room_actual(WALLET, "RVN")
    assert actual == 1000 * D("0.0245") + open_buy.reserved
    agree(desk)
    desk.cancel(open_buy)
    assert desk.node.exposure.room_actual(WALLET, "RVN")[0] == 1000 * D("0.0245")
    desk.check()


def test_all_of_a_group_counts_and_nothing_else_and_each_side_for_itself(desk: Desk) -> None:
    # Fees of 0.1 % are taken in coins there.
    desk.order("buy", "0.1", pair="BTC_USDT", exchange="binance")
    desk.order("buy", "1", pair="ETH_USDT", exchange="binance")
    desk.order("buy", "1000")
    exposure = desk.node.exposure
    assert exposure.room_actual(WALLET, "BTC")[0] == exposure.room_actual(WALLET, "ETH")[0] == 3_996 + 1_998
    assert exposure.room_actual(WALLET, "RVN")[0] == 1000 * D("0.0245")
    assert exposure.room_actual("binance", "BTC")[0] == 0
    assert exposure.room_actual(WALLET, "USDT") == exposure.room_actual(WALLET, "USDC") == (0, frozenset())


def test_prices_count_with_a_delay_of_a_tenth_of_a_second_and_fills_at_once(desk: Desk) -> None:
    desk.order("buy", "1000")
    exposure = desk.node.exposure
    assert exposure.room_actual(WALLET, "RVN")[0] == D("24.5")
    show(desk, "xeggex", RVN, D("0.03"))
    assert exposure.room_actual(WALLET, "RVN")[0] == D("24.5")
    desk.clock.advance(desk.node.portfolio.REVALUE_NS)
    assert exposure.room_actual(WALLET, "RVN")[0] == D("30")
    agree(desk)


def test_new_groups_move_every_sum(desk: Desk) -> None:
    desk.order("buy", "0.1", pair="BTC_USDT", exchange="binance")
    desk.order("buy", "1000")
    groups_of(desk).update([frozenset(("BTC", "RVN")), frozenset(("ETH",))])
    exposure = desk.node.exposure
    assert exposure.room_actual(WALLET, "RVN") == (3_996 + D("24.5"), {"BTC", "RVN"})
    assert exposure.room_actual(WALLET, "ETH") == (0, {"ETH"})
    agree(desk)


def test_a_restart_counts_the_same(desk: Desk) -> None:
    desk.order("buy", "0.1", pair="BTC_USDT", exchange="binance")
    desk.order("buy", "1000", type="limit", price="0.02")
    before = [desk.node.exposure.room_actual(WALLET, currency) for currency in ("BTC", "RVN")]
    desk.clock.settle()
    desk.restart()
    for (exchange, pair), mid in PAIRS.items():
        show(desk, exchange, pair, mid)
    desk.node.portfolio.revalue()
    assert [desk.node.exposure.room_actual(WALLET, currency) for currency in ("BTC", "RVN")] == before
    agree(desk)


def test_the_view_tells_of_every_group_that_something_is_held_of(desk: Desk) -> None:
    desk.order("buy", "0.1", pair="BTC_USDT", exchange="binance")
    desk.order("buy", "1", pair="ETH_USDT", exchange="binance")
    desk.order("buy", "1000")
    majors, mined = desk.node.exposure.view(True, D(80_000))
    assert (majors.group, majors.currencies, majors.exposure, majors.limit) == ("majors", ("BTC", "ETH"), 5_994, 80_000)
    assert (mined.group, mined.currencies, mined.exposure) == ("mined", ("RVN",), D("24.5"))
    assert desk.node.exposure.view(False, D(0)) == []


STEP = st.one_of(
    st.tuples(st.just("buy"), st.sampled_from(sorted(PAIRS)), st.integers(1, 40)),
    st.tuples(st.just("sell"), st.sampled_from(sorted(PAIRS)), st.integers(1, 40)),
    st.tuples(st.just("rest"), st.sampled_from(sorted(PAIRS)), st.integers(1, 40)),
    st.tuples(st.just("cancel"), st.none(), st.integers(0, 5)),
    st.tuples(st.just("amend"), st.none(), st.integers(0, 5)),
    st.tuples(st.just("price"), st.sampled_from(sorted(PAIRS)), st.integers(-30, 30)),
    st.tuples(st.just("wait"), st.none(), st.integers(1, 300)),
    st.tuples(st.just("group"), st.none(), st.integers(0, 14)),
    st.tuples(st.just("ask"), st.none(), st.just(0)),
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(STEP, min_size=1, max_size=25))
def test_the_running_sums_are_those_of_adding_everything_up(tmp_path: Path, steps: list[tuple[Any, ...]]) -> None:
    desk = a_desk(tmp_path)
    for what, market, number in steps:
        step(desk, what, market, number)
        assert desk.node.exposure.room_actual(WALLET, "BTC")[0] == summed(desk, "BTC")
    agree(desk)
    desk.check()


def step(desk: Desk, what: str, market: tuple[str, str] | None, number: int) -> None:
    """One thing that happens; refusals are as good as orders."""
    if market is not None:
        exchange, pair = market
        instrument, mid = desk.node.instruments[market], PAIRS[market]
        quantity = str(instrument.lot * max(instrument.min_lots, int(D(50 * number) / mid / instrument.lot)))
        if what == "price":
            show(desk, exchange, pair, mid * (100 + number) / 100)
        elif what == "rest":
            price = mid * (100 - number) / 100 // instrument.tick * instrument.tick
            desk.submit("buy", quantity, pair=pair, exchange=exchange, type="limit", price=str(price), wait_ms=number)
        else:
            desk.submit(what, quantity, pair=pair, exchange=exchange, wait_ms=number)
    elif what == "wait":
        desk.wait(number)
    elif what == "group":
        names = ["BTC", "ETH", "RVN", "XMR"]
        together = frozenset(name for bit, name in enumerate(names) if number >> bit & 1)
        groups_of(desk).update([together, *(frozenset((n,)) for n in names if n not in together)] if together else [])
    else:
        resting = [order for order in desk.node.orders.open.values() if order.side == "buy"]
        if resting:
            order = resting[number % len(resting)]
            if what == "cancel":
                desk.cancel(order)
            elif what == "amend":
                desk.amend(order, quantity=str((order.qty_lots + 5) * order.lot))
