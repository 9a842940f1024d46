"""How long a comparison of many pairs keeps a venue from being used, over a slow network; in virtual time."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tbx.core.kernel.clock import MS_NS, SECOND_NS
from tbx.core.orders.reconciliation import PAIRS_AT_ONCE

from . import live_desk
from .live_desk import BTC, ETH, LiveDesk

pytestmark = [pytest.mark.orders, pytest.mark.portfolio, pytest.mark.exchanges]

MORE = 38
ONE_WAY_NS = 100 * MS_NS


@pytest.fixture
def pairs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the pairs of desks that are made with it: 40 at an exchange."""
    more = [f"SYM{number:03d}_USDT" for number in range(1, MORE + 1)]
    for pair in more:
        monkeypatch.setitem(live_desk.SYMBOLS, pair, pair.replace("_", ""))
        monkeypatch.setitem(live_desk.PRICES, pair, 100)
    monkeypatch.setattr(live_desk, "Watched", partial(live_desk.Watched, extra_symbols=MORE))
    return [BTC, ETH, *more]


def slow(desk: LiveDesk) -> None:
    desk.network.more_ns = {"up": ONE_WAY_NS, "down": ONE_WAY_NS}


def ready_ns(desk: LiveDesk) -> int:
    """How long it takes until orders can be sent."""
    began_ns = desk.world.now_ns()
    desk.until(lambda: not desk.node.engine.unavailable("binance"), "orders can be sent")
    return desk.world.now_ns() - began_ns


def asked_at_once(desk: LiveDesk, act: Callable[[], object]) -> int:
    """The most pairs whose trades were under question at a time while that went on."""
    wallet, most = desk.node.reconciliation._wallets["binance"], 0

    def sent(_: object, raw: bytes) -> None:
        nonlocal most
        if b"myTrades" in raw and wallet.run is not None:
            most = max(most, len(wallet.run.listings))

    desk.network.on_sent = sent
    act()
    desk.network.on_sent = None
    return most


def test_trades_of_many_pairs_are_asked_for_several_at_a_time_before_orders_can_be_sent(
    tmp_path: Path, pairs: list[str]
) -> None:
    desk = LiveDesk(tmp_path, BINANCE_PAIRS=",".join(pairs))
    for pair in pairs:
        desk.order("buy", "0.1", pair=pair)
    slow(desk)
    desk.kill()
    for pair in pairs:
        assert desk.foreign_order(pair, "BUY", live_desk.PRICES[pair] * 101 // 100, "0.1").executed
    desk._start()
    took_ns: list[int] = []
    assert asked_at_once(desk, lambda: took_ns.append(ready_ns(desk))) == PAIRS_AT_ONCE
    assert took_ns[0] < 6 * SECOND_NS, "40 pairs, each two questions of 200 ms"
    assert desk.node.reconciliation.runs[0].compared.trades == 2 * len(pairs)
    assert desk.corrections() == []
    desk.heal()
    desk.check()


def test_the_first_start_asks_for_the_latest_trades_of_several_pairs_at_a_time(
    tmp_path: Path, pairs: list[str]
) -> None:
    desk = LiveDesk(tmp_path, BINANCE_PAIRS=",".join(pairs), ready=False)
    slow(desk)
    assert ready_ns(desk) < 5 * SECOND_NS, "40 pairs, each a question of 200 ms"
    marks = desk.node.accounts.marks
    assert all(marks.get("binance", pair) is not None for pair in pairs)


def test_a_run_by_the_timer_asks_for_one_pair_after_the_other_and_within_its_share(
    tmp_path: Path, pairs: list[str]
) -> None:
    desk = LiveDesk(tmp_path, BINANCE_PAIRS=",".join(pairs), limited=True)
    for pair in pairs:
        desk.order("buy", "0.1", pair=pair)
    slow(desk)
    reconciliation = desk.node.reconciliation
    desk.wait(60_000)  # the share of a new minute
    wallet = reconciliation._wallets["binance"]

    def run() -> None:
        desk.node.kernel.run(reconciliation.begin, wallet, "timer")
        desk.until(lambda: wallet.run is None, "the run")

    assert asked_at_once(desk, run) == 1
    assert desk.venue.survey._used <= 600
    report = reconciliation.runs[0]
    assert report.compared.trades + len(report.left) == len(pairs) and report.left


@pytest.mark.parametrize("fault", ["mute_before:n=5", "http5xx_after:n=12"])
def test_pairs_whose_trades_are_not_told_at_once_are_asked_for_again(
    tmp_path: Path, pairs: list[str], fault: str
) -> None:
    desk = LiveDesk(tmp_path, BINANCE_PAIRS=",".join(pairs))
    for pair in pairs:
        desk.order("buy", "0.1", pair=pair)
    desk.kill()
    for pair in pairs:
        desk.foreign_order(pair, "BUY", live_desk.PRICES[pair] * 101 // 100, "0.1")
    desk.local.switch(f"{fault},on=myTrades")
    desk._start()
    ready_ns(desk)
    assert desk.node.reconciliation.runs[0].compared.trades == 2 * len(pairs) and desk.corrections() == []
