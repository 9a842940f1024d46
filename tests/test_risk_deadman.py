"""The dead-man timer: renewed in time nothing happens; else entries are cancelled, exits stay, and it is REDUCING."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tbx.core.model.records import DeadMan, Order, State
from tbx.core.risk.guard import TradingState

from .desk import Desk, refused
from .desk_events import dead_man, events_of, limits_on_record, set_clock, set_state


def state(desk: Desk) -> TradingState:
    return desk.node.guard.state


def record(desk: Desk) -> dict[str, Any] | None:
    raw = desk.store.tables.get("risk", {}).get("deadman")
    return None if raw is None else json.loads(raw)


def resting(desk: Desk, side: str = "buy", **more: Any) -> Order:
    fields = {"type": "limit", "price": "0.02" if side == "buy" else "0.03", "timeout_ns": 0}
    return desk.order(side, "500", **(fields | more))


def test_what_is_not_renewed_in_time_cancels_entries_and_keeps_what_protects(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    bracket = desk.order(quantity="2000", stop_loss="0.02", take_profit="0.03")
    buy, sale = resting(desk), resting(desk, "sell")
    stop = resting(desk, "sell", type="stop_loss", price=None, stop_price=Decimal("0.02"))
    waiting = resting(desk, type="stop_loss", price=None, stop_price=Decimal("0.03"))
    assert isinstance(dead_man(desk, 5), DeadMan)
    desk.wait(4_000)
    assert state(desk) is TradingState.ACTIVE and desk.get(buy.order_id).state is State.LIVE
    desk.wait(1_000)
    assert state(desk) is TradingState.REDUCING and "the dead-man timer of 5 s was not renewed" in desk.node.guard.why
    desk.wait(100)
    for order in (buy, sale, waiting):
        assert desk.get(order.order_id).state is State.CANCELLED
    for order_id in (stop.order_id, bracket.stop_loss_id, bracket.take_profit_id):
        assert desk.get(order_id).state is State.HELD
    assert refused(desk.submit()) == "TRADING_LIMITED" and desk.order("sell", "100").filled_lots
    assert [len(events_of(desk, kind)) for kind in ("DeadManArmed", "DeadManFired")] == [1, 1]
    assert record(desk) is None and list(limits_on_record(desk)) == ["limit::deadman"]
    kept = resting(desk, "sell")
    desk.wait(3_000)
    assert desk.get(kept.order_id).state is State.LIVE  # what a person places since then stays
    desk.check()


def test_renewed_in_time_it_never_fires_and_makes_an_event_only_where_its_timeout_changes(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    for _ in range(20):
        dead_man(desk, 2)
        desk.clock.advance(1_500_000_000)
    dead_man(desk, 3)
    desk.clock.advance(2_900_000_000)
    assert state(desk) is TradingState.ACTIVE
    assert [event["timeout"] for event in events_of(desk, "DeadManArmed")] == [2.0, 3.0]
    desk.clock.advance(100_000_000)
    assert state(desk) is TradingState.REDUCING


def test_renewals_are_committed_at_most_each_second(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    dead_man(desk, 10)
    deadlines = set()
    for _ in range(100):
        desk.clock.advance(100_000_000)
        timer = dead_man(desk, 10)
        kept = record(desk)
        assert kept is not None and 0 <= timer.deadline_ns - kept["deadline_ns"] < 1_000_000_000
        deadlines.add(kept["deadline_ns"])
    assert len(deadlines) == 11


def test_zero_disarms_it(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    dead_man(desk, 1)
    assert dead_man(desk, 0) is None and dead_man(desk, 0) is None
    desk.clock.advance(5_000_000_000)
    assert state(desk) is TradingState.ACTIVE and record(desk) is None
    assert len(events_of(desk, "DeadManDisarmed")) == 1


@pytest.mark.parametrize("seconds", [-1, 0.5, 86_401])
def test_a_timeout_out_of_range_is_refused_and_the_timer_is_as_it_was(tmp_path: Path, seconds: float) -> None:
    desk = Desk(tmp_path)
    before = dead_man(desk, 60)
    answer = dead_man(desk, seconds)
    assert refused(answer) == "OUT_OF_RANGE" and "1 to 86400 seconds" in answer.detail
    assert desk.node.dead_man.armed == before


def test_a_restart_keeps_the_deadline(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    buy = resting(desk)
    timer = dead_man(desk, 5)
    desk.restart()
    assert desk.node.dead_man.armed == timer
    left = timer.deadline_ns - desk.clock.now_ns()
    desk.clock.advance(left - 1)
    assert state(desk) is TradingState.ACTIVE
    desk.clock.advance(1)
    assert state(desk) is TradingState.REDUCING
    desk.wait(1_000)
    assert desk.get(buy.order_id).ended
    desk.check()


def test_a_deadline_that_passed_while_nobody_ran_fires_at_the_start(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    buy = resting(desk)
    dead_man(desk, 1)
    desk.restart()  # takes a second
    assert state(desk) is TradingState.REDUCING
    desk.wait(1_000)
    assert desk.get(buy.order_id).ended
    desk.restart()
    assert state(desk) is TradingState.REDUCING and desk.node.dead_man.armed is None
    assert set_state(desk, "ACTIVE") is TradingState.ACTIVE
    desk.check()


def test_a_restart_right_after_it_fired_goes_on_cancelling(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    buys = [resting(desk) for _ in range(3)]
    dead_man(desk, 1)
    desk.clock.advance(1_000_000_000)  # the cancels are on their way
    assert any(not desk.get(buy.order_id).ended for buy in buys)
    desk.restart()
    desk.wait(2_000)
    assert all(desk.get(buy.order_id).ended for buy in buys) and state(desk) is TradingState.REDUCING
    desk.check()


def test_a_clock_that_was_set_back_leaves_no_order_of_before_open(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    buys = [resting(desk) for _ in range(2)]
    dead_man(desk, 5)
    set_clock(desk, -3_600)
    desk.wait(6_000)
    assert state(desk) is TradingState.REDUCING
    assert all(desk.get(buy.order_id).state is State.CANCELLED for buy in buys)
    desk.check()


def test_one_that_fires_again_before_it_was_lifted_cancels_what_was_placed_in_between(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.order(quantity="2000")
    dead_man(desk, 1)
    desk.wait(2_000)
    sale = resting(desk, "sell")
    dead_man(desk, 1)
    desk.wait(2_000)
    assert desk.get(sale.order_id).state is State.CANCELLED
    desk.check()
