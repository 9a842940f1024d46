"""A day's loss makes it REDUCING, a fall from the peak HALTED; only a person lifts them, and then they count anew."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tbx.core.kernel.clock import ManualClock
from tbx.core.model.messages import Refusal
from tbx.core.risk.guard import TradingState

from .desk import Desk, refused
from .desk_events import events_of, limits_on_record, set_state

ACTIVE, REDUCING, HALTED, _ = TradingState
DAY_NS = 86_400 * 1_000_000_000


def a_desk(tmp_path: Path, *, minutes_left: int = 0, **settings: str) -> Desk:
    """About 980 of 50,000 in RVN at xeggex; `minutes_left` of the UTC day, or all of it."""
    desk = Desk(tmp_path, **({"MAX_DAILY_LOSS": "0.005", "MAX_DRAWDOWN": "1"} | settings))
    desk.wait(1_000)
    if minutes_left:
        today_ns = desk.clock.now_ns() // DAY_NS * DAY_NS
        desk.clock = ManualClock(today_ns + DAY_NS - minutes_left * 60_000_000_000)
        desk.restart()
        desk.wait(1_000)
    assert desk.order(quantity="40000").filled_lots == 40_000 * 100
    desk.wait(1_000)
    assert desk.node.guard.state is ACTIVE
    return desk


def move(desk: Desk, bid: str, ask: str) -> None:
    """Everywhere, and time for a look."""
    for exchange in ("xeggex", "binance"):
        desk.book([(bid, "80000")], [(ask, "80000")], exchange=exchange)
    desk.wait(2_000)


def test_a_days_loss_reduces_and_says_how_much(tmp_path: Path) -> None:
    desk = a_desk(tmp_path)
    move(desk, "0.0200", "0.0201")  # 180 lost, the limit is 249
    assert desk.node.guard.state is ACTIVE
    move(desk, "0.0179", "0.0180")
    assert desk.node.guard.state is REDUCING
    assert "today's loss of 26" in desk.node.guard.why and "MAX_DAILY_LOSS=0.005" in desk.node.guard.why
    assert refused(desk.submit()) == "TRADING_LIMITED"
    assert desk.order("sell", "100").filled_lots
    (told,) = events_of(desk, "TradingStateChanged")
    assert (told["name"], told["state"], told["by"]) == ("dailyLoss", "REDUCING", "")


def test_it_stays_over_midnight_a_recovery_and_a_restart_until_a_person_lifts_it(tmp_path: Path) -> None:
    desk = a_desk(tmp_path, minutes_left=2)
    move(desk, "0.0179", "0.0180")
    move(desk, "0.0244", "0.0245")
    assert desk.node.guard.state is REDUCING
    desk.restart()
    assert desk.node.guard.state is REDUCING
    desk.clock.advance(3 * 60_000_000_000)
    move(desk, "0.0244", "0.0245")
    assert desk.node.guard.state is REDUCING
    assert set_state(desk, "ACTIVE") is ACTIVE
    desk.wait(2_000)
    assert desk.node.guard.state is ACTIVE and limits_on_record(desk) == {}


def test_once_lifted_the_same_loss_does_not_bring_it_back_and_as_much_again_does(tmp_path: Path) -> None:
    desk = a_desk(tmp_path)
    move(desk, "0.0179", "0.0180")
    assert set_state(desk, "ACTIVE") is ACTIVE
    base = desk.node.loss_limits.day_loss_base()
    assert Decimal(250) < base < Decimal(280)
    for _ in range(3):
        move(desk, "0.0179", "0.0180")
        assert desk.node.guard.state is ACTIVE
    assert desk.order(quantity="100").filled_lots  # the check of orders counts from there too
    desk.restart()
    assert desk.node.loss_limits.day_loss_base() == base
    move(desk, "0.0150", "0.0151")  # 120 more
    assert desk.node.guard.state is ACTIVE
    move(desk, "0.0112", "0.0113")
    assert desk.node.guard.state is REDUCING and f"{base:.0f}" in desk.node.guard.why


def test_the_next_day_begins_without_what_was_lifted(tmp_path: Path) -> None:
    desk = a_desk(tmp_path, minutes_left=2)
    move(desk, "0.0179", "0.0180")
    set_state(desk, "ACTIVE")
    assert desk.node.loss_limits.day_loss_base() > 250
    desk.clock.advance(3 * 60_000_000_000)
    move(desk, "0.0179", "0.0180")
    assert desk.node.loss_limits.day_loss_base() == 0 and desk.node.guard.state is ACTIVE


def test_a_fall_from_the_peak_halts_and_counts_from_where_it_was_lifted(tmp_path: Path) -> None:
    desk = a_desk(tmp_path, MAX_DAILY_LOSS="1", MAX_DRAWDOWN="0.005")
    move(desk, "0.0179", "0.0180")
    assert desk.node.guard.state is HALTED and "MAX_DRAWDOWN=0.005" in desk.node.guard.why
    assert refused(desk.submit("sell", "100")) == "TRADING_LIMITED"
    assert set_state(desk, "ACTIVE") is ACTIVE
    move(desk, "0.0178", "0.0179")
    assert desk.node.guard.state is ACTIVE
    move(desk, "0.0220", "0.0221")  # a new peak since then
    desk.clock.advance(61_000_000_000)
    move(desk, "0.0220", "0.0221")
    before = desk.node.loss_limits.drawdown()
    desk.restart()
    move(desk, "0.0220", "0.0221")
    assert desk.node.loss_limits.drawdown() == pytest.approx(before, abs=1e-9)
    move(desk, "0.0165", "0.0166")  # 220 below it
    assert desk.node.guard.state is ACTIVE
    move(desk, "0.0154", "0.0155")
    assert desk.node.guard.state is HALTED and "since the limit was lifted" in desk.node.guard.why


def test_a_withdrawal_is_no_loss(tmp_path: Path) -> None:
    desk = a_desk(tmp_path, MAX_DRAWDOWN="0.005")
    desk.node.kernel.run(desk.node.portfolio.deposit, "paper.xeggex", "USDT", Decimal(-10_000))
    desk.wait(3_000)
    assert desk.node.guard.state is ACTIVE
    desk.node.kernel.run(desk.node.portfolio.deposit, "paper.xeggex", "USDT", Decimal(20_000))
    move(desk, "0.0200", "0.0201")
    assert desk.node.guard.state is ACTIVE
    move(desk, "0.0160", "0.0161")
    assert desk.node.guard.state is HALTED


class Closed(Desk):
    """A desk whose market may still be closed after a start."""

    closed = False

    def book(self, *levels: Any, **where: str) -> None:
        if not self.closed:
            super().book(*levels, **where)


def test_nothing_is_judged_while_a_balance_waits_for_its_price(tmp_path: Path) -> None:
    desk = Closed(tmp_path, MAX_DAILY_LOSS="0.01", MAX_DRAWDOWN="0.01")
    desk.wait(1_000)
    desk.order(quantity="40000")
    desk.wait(1_000)
    desk.closed = True
    desk.restart()
    desk.clock.advance(5_000_000_000)
    portfolio = desk.node.portfolio
    assert not portfolio.complete(True) and portfolio.equity(True) < 49_100  # the coins count nothing yet
    assert desk.node.guard.state is ACTIVE
    desk.closed = False
    move(desk, "0.02449", "0.02451")
    assert portfolio.complete(True) and desk.node.guard.state is ACTIVE
    move(desk, "0.0100", "0.0101")
    assert desk.node.guard.state is HALTED


def test_a_fill_is_looked_at_at_once(tmp_path: Path) -> None:
    desk = a_desk(tmp_path)
    desk.book([("0.0160", "80000")], [("0.0161", "80000")])
    desk.book([("0.0160", "80000")], [("0.0161", "80000")], exchange="binance")
    desk.clock.advance(150_000_000)
    assert desk.node.guard.state is ACTIVE
    desk.order("sell", "100", wait_ms=60)
    assert desk.node.guard.state is REDUCING


def test_without_risk_checks_nobody_judges(tmp_path: Path) -> None:
    desk = a_desk(tmp_path, ENABLE_RISK_CHECKS="false", MAX_DRAWDOWN="0.001")
    move(desk, "0.0100", "0.0101")
    assert desk.node.guard.state is ACTIVE
    assert not isinstance(desk.submit(), Refusal)


def test_what_is_lifted_while_a_balance_waits_for_its_price_counts_from_when_it_has_one(tmp_path: Path) -> None:
    desk = Closed(tmp_path, MAX_DAILY_LOSS="0.005", MAX_DRAWDOWN="0.005")
    desk.wait(1_000)
    desk.order(quantity="40000")
    desk.wait(1_000)
    move(desk, "0.0179", "0.0180")  # 260 lost
    desk.closed = True
    desk.restart()
    assert desk.node.portfolio.day_pnl() < -900, "the coins count nothing yet"
    assert set_state(desk, "ACTIVE") is ACTIVE
    assert desk.node.loss_limits.day_loss_base() == 0
    desk.closed = False
    move(desk, "0.0179", "0.0180")
    assert desk.node.guard.state is ACTIVE and 250 < desk.node.loss_limits.day_loss_base() < 280
    move(desk, "0.0112", "0.0113")
    assert desk.node.guard.find("", "dailyLoss") and desk.node.guard.find("", "drawdown")
