"""FLATTEN where exits wait at the exchange: they come back, their coins are sold, through a break and a kill -9 too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tbx.core.model.messages import RunDrill, SetTradingState
from tbx.core.model.records import SignalData, State

from .native_desk import NativeDesk

pytestmark = [pytest.mark.orders, pytest.mark.exchanges]


@pytest.fixture
def desk(tmp_path: Path) -> NativeDesk:
    return NativeDesk(tmp_path)


def flatten(desk: NativeDesk, scope: str = "") -> None:
    def command(reply: Any) -> SetTradingState:
        return SetTradingState(state="FLATTEN", scope=scope, reason="enough", by="desk", reply=reply)

    desk._ask(command, 0)


def flat(desk: NativeDesk, scope: str = "") -> bool:
    return desk.node.guard.scope_state(scope).value == "HALTED"


def nothing_left(desk: NativeDesk) -> None:
    """At most dust, which the exchange would not take."""
    assert not desk.node.orders.open
    for position in desk.node.portfolio.open_positions(paper=False):
        instrument = desk.node.instruments[position.exchange, position.pair]
        assert instrument.floor_lots(position.quantity) * instrument.lot * 60_000 < instrument.min_notional
    desk.heal()
    desk.settled_check()


@pytest.mark.parametrize("scope", ["", "exchange:binance", "pair:BTC_USDT"])
def test_exits_at_the_exchange_come_back_and_everything_is_sold(desk: NativeDesk, scope: str) -> None:
    _, stop, target = desk.bracket()
    resting = desk.order("buy", "0.01", type="limit", price="50000", tif="GTC")
    flatten(desk, scope)
    desk.until(lambda: flat(desk, scope), "it is flat", 30)
    assert desk.get(resting).state is State.CANCELLED and desk.get(stop).ended and desk.get(target).ended
    nothing_left(desk)


def test_a_connection_that_breaks_delays_it_and_no_more(desk: NativeDesk) -> None:
    desk.bracket()
    flatten(desk)
    desk.cut()
    desk.until(lambda: flat(desk), "it is flat", 120)
    nothing_left(desk)


@pytest.mark.parametrize("after_ms", [0, 5, 40, 200])
def test_a_kill_9_in_the_middle_goes_on_and_sells_nothing_twice(desk: NativeDesk, after_ms: int) -> None:
    desk.bracket()
    flatten(desk)
    if after_ms:
        desk.wait(after_ms)
    desk.restart()
    desk.until(lambda: flat(desk), "it is flat", 120)
    nothing_left(desk)


def test_a_drill_leaves_alone_what_trades_for_real_under_its_name(desk: NativeDesk) -> None:
    desk.order("buy", "0.01", signal_data=SignalData(strategy="drill"))
    answer = desk._ask(lambda reply: RunDrill(reply=reply), 100)
    assert answer.code == "DRILL_NAME_TAKEN"
    desk.restart()
    desk.wait(3_000)
    assert not desk.node.guard.restricted
    assert [position.pair for position in desk.node.portfolio.open_positions(paper=False)] == ["BTC_USDT"]
