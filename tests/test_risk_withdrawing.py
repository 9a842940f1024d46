"""Open buys leave the books where trading is limited for good; everything else stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tbx.core.model.messages import SetTradingState
from tbx.core.model.records import Order, SignalData, State
from tbx.core.risk.guard import TradingState

from .desk import RVN, Desk


def set_state(desk: Desk, state: str, scope: str = "", reason: str = "for this test") -> Any:
    answers: list[Any] = []
    desk.node.kernel.input(
        SetTradingState(state=state, scope=scope, reason=reason, by="me", reply=answers.append)  # type: ignore[arg-type]
    )
    desk.wait()
    return answers[0]


def orders(desk: Desk) -> dict[str, Order]:
    """A position with its stop, a resting sale of other coins, and buys of four kinds."""
    mine = SignalData(strategy="mine")
    return {
        "bought": desk.order("buy", "5000", stop_loss="0.0230"),
        "sale": desk.order("sell", "1000", type="limit", price="0.0300"),
        "resting": desk.order("buy", "1000", type="limit", price="0.0240"),
        "pending": desk.order("buy", "1000", type="stop_loss", stop_price="0.0260"),
        "mine": desk.order("buy", "1000", type="limit", price="0.0240", signal_data=mine),
        "elsewhere": desk.order("buy", "1000", type="limit", price="0.0240", exchange="binance"),
    }


def is_open(desk: Desk, found: dict[str, Order]) -> set[str]:
    return {name for name, order in found.items() if not desk.get(order.order_id).ended}


@pytest.mark.parametrize("state", ["REDUCING", "HALTED"])
def test_open_buys_are_cancelled_and_what_reduces_or_protects_stays(tmp_path: Path, state: str) -> None:
    desk = Desk(tmp_path)
    found = orders(desk)
    assert is_open(desk, found) == set(found) - {"bought"}
    set_state(desk, state)
    assert is_open(desk, found) == {"sale"}
    assert desk.get(found["resting"].order_id).reason == f"{state}: for this test"
    assert desk.node.triggers.armed(found["bought"].stop_loss_id or "")
    desk.check()


@pytest.mark.parametrize(
    ("scope", "left"),
    [
        ("exchange:binance", {"sale", "resting", "pending", "mine"}),
        ("strategy:mine", {"sale", "resting", "pending", "elsewhere"}),
        (f"pair:{RVN}", {"sale"}),
        ("pair:BTC_USDT", {"sale", "resting", "pending", "mine", "elsewhere"}),
    ],
)
def test_only_those_of_the_scope(tmp_path: Path, scope: str, left: set[str]) -> None:
    desk = Desk(tmp_path)
    found = orders(desk)
    set_state(desk, "HALTED", scope)
    assert is_open(desk, found) == left


def test_a_loss_takes_them_off_too_and_a_store_that_is_away_does_not(tmp_path: Path) -> None:
    desk = Desk(tmp_path, MAX_DAILY_LOSS="0.001")
    desk.order("buy", "40000")
    resting = desk.order("buy", "1000", type="limit", price="0.0150")
    desk.store.down = True
    desk.node.guard.limit("store", TradingState.REDUCING, "away")
    desk.wait(1_500)
    assert desk.get(resting.order_id).state is State.LIVE
    desk.store.down = False
    desk.node.guard.lift("", "store")
    desk.wait(200)
    desk.price("0.0200", "0.0201", "90000")
    desk.wait(2_000)
    assert desk.node.guard.find("", "dailyLoss") is not None
    assert desk.get(resting.order_id).state is State.CANCELLED
    desk.check()


def test_a_restart_before_the_cancel_goes_on_with_it(tmp_path: Path) -> None:
    desk = Desk(tmp_path, PAPER_LATENCY_MS="1000")
    resting = desk.order("buy", "1000", type="limit", price="0.0240", wait_ms=3_000)
    answers: list[Any] = []
    desk.node.kernel.input(
        SetTradingState(state="HALTED", scope="", reason="for this test", by="me", reply=answers.append)
    )
    desk.clock.settle()
    assert answers and desk.get(resting.order_id).state is State.LIVE
    desk.restart()
    desk.wait(5_000)
    assert desk.get(resting.order_id).state is State.CANCELLED
    desk.check()
