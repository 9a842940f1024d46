"""An amendment passes no limit that a new order would not pass: risk at stops, price collar, exits, trading state."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tbx.core.model.messages import Submitted, VenueEnded
from tbx.core.model.records import Amend, Order, State
from tbx.core.risk.guard import TradingState

from .desk import Desk, refused

# 50,000: at most 20 lost at a stop, and 50 a day.
RISK = {"MAX_RISK_PER_TRADE": "0.0004", "MAX_DAILY_RISK": "0.001"}


def resting(desk: Desk, quantity: str = "10000", price: str = "0.0244", stop: str = "0.0235", **more: Any) -> Order:
    """Loses about 9.5 at its stop."""
    return desk.order("buy", quantity, type="limit", price=price, stop_loss=stop, timeout_ns=0, **more)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"quantity": "30000"}, "RISK_PER_TRADE"),
        ({"quantity": "19000"}, "LIVE"),
        ({"price": "0.0260"}, "RISK_PER_TRADE"),
    ],
)
def test_an_entry_is_amended_within_what_it_may_lose_at_its_stop(
    tmp_path: Path, change: dict[str, str], code: str
) -> None:
    desk = Desk(tmp_path, **RISK)
    order = resting(desk)
    answer = desk.amend(order, **change)
    assert code == (order.state.value if answer is order else refused(answer))
    desk.check()


def test_an_entry_that_waits_for_its_price_is_held_to_the_same(tmp_path: Path) -> None:
    desk = Desk(tmp_path, **RISK)
    order = desk.order("buy", "10000", type="stop_loss", stop_price="0.0250", stop_loss="0.0240")
    assert refused(desk.amend(order, quantity="30000")) == "RISK_PER_TRADE"
    assert refused(desk.amend(order, stop_price="0.0270")) == "RISK_PER_TRADE"
    assert desk.amend(order, stop_price="0.0251") is order
    desk.check()


def test_amendments_of_many_entries_stay_within_the_risk_of_the_day_though_none_is_answered_yet(
    tmp_path: Path,
) -> None:
    desk = Desk(tmp_path, **RISK)
    orders = [resting(desk) for _ in range(3)]
    answers: list[Any] = []
    for order in orders:
        desk.node.kernel.input(
            desk.amend_command(order, answers.append, quantity="18000"),
        )
    assert [refused(answer) for answer in answers] == ["RISK_PER_DAY"]  # before any of the others is answered
    desk.wait(200)
    assert [order.qty_lots * order.lot for order in orders] == [18_000, 18_000, 10_000]
    desk.check()


def test_a_stop_moves_away_only_as_far_as_its_entry_may_lose(tmp_path: Path) -> None:
    desk = Desk(tmp_path, **RISK)
    entry = desk.order("buy", "10000", stop_loss="0.0235")
    stop = desk.get(entry.stop_loss_id)
    assert refused(desk.amend(stop, stop_price="0.0200")) == "RISK_PER_TRADE"
    assert desk.amend(stop, stop_price="0.0240") is stop and desk.amend(stop, stop_price="0.0230") is stop
    desk.check()


def test_a_stop_that_is_beyond_its_limit_already_may_still_come_nearer(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    entry = desk.order("buy", "10000", stop_loss="0.0200")
    desk.settings = Desk(tmp_path / "other", **RISK).settings
    desk.restart()
    desk.wait(1_000)
    stop = desk.get(entry.stop_loss_id)
    assert desk.amend(stop, stop_price="0.0210") is stop
    assert refused(desk.amend(stop, stop_price="0.0205")) == "RISK_PER_TRADE"


def test_an_amended_price_stays_within_the_collar(tmp_path: Path) -> None:
    desk = Desk(tmp_path, PRICE_COLLAR_PERCENT="10")
    desk.order("buy", "5000")
    buy = desk.order("buy", type="limit", price="0.0100", timeout_ns=0)
    sale = desk.order("sell", type="limit", price="0.0900", timeout_ns=0)
    assert refused(desk.amend(buy, price="0.0300")) == refused(desk.amend(sale, price="0.0200")) == "PRICE_COLLAR"
    assert desk.amend(buy, price="0.0240") is buy and desk.amend(sale, price="0.0250") is sale
    held = desk.order("buy", "1000", type="stop_loss", price="0.0255", stop_price=Decimal("0.0250"))
    assert refused(desk.amend(held, price="0.0300")) == "PRICE_COLLAR"
    assert desk.amend(held, price="0.0299", stop_price="0.0280") is held
    desk.check()


def test_an_entry_is_not_amended_to_where_one_of_its_exits_would_sell_it_at_once(tmp_path: Path) -> None:
    desk = Desk(tmp_path, STOP_LOSS_ENABLED="true")  # the stop is attached: 5 % below
    order = desk.order("buy", type="limit", price="0.0240", take_profit="0.0250", timeout_ns=0)
    answer = desk.amend(order, price="0.0220")
    assert refused(answer) == "INVALID_STOP" and str(order.stop_loss_id) in answer.detail
    assert refused(desk.amend(order, price="0.0250")) == "INVALID_TAKE_PROFIT"
    desk.amend(desk.get(order.stop_loss_id), stop_price="0.0200")
    assert desk.amend(order, price="0.0220") is order
    desk.check()


@pytest.mark.parametrize("state", [TradingState.REDUCING, TradingState.HALTED])
def test_nothing_grows_by_an_amendment_while_trading_is_limited(tmp_path: Path, state: TradingState) -> None:
    desk = Desk(tmp_path)
    order = desk.order("buy", "1000", type="limit", price="0.0220", timeout_ns=0)
    desk.node.guard.limit("test", state, "for this test")
    for change in ({"quantity": "1100", "price": "0.0200"}, {"quantity": "500", "price": "0.0245"}):
        assert refused(desk.amend(order, **change)) == "TRADING_LIMITED"
    assert desk.amend(order, quantity="900", price="0.0210") is order
    desk.check()


@pytest.mark.parametrize(
    ("state", "ends"),
    [(TradingState.REDUCING, State.SENT), (TradingState.HALTED, State.REJECTED)],
    ids=["reducing", "halted"],
)
def test_what_was_let_through_before_is_sent_again_unless_all_is_halted(
    tmp_path: Path, state: TradingState, ends: State
) -> None:
    desk = Desk(tmp_path)
    answer = desk.submit("buy", type="limit", price="0.0240", timeout_ns=0)
    assert isinstance(answer, Submitted)
    order = desk.now(answer)
    order.waiting = True  # between two tries
    desk.node.guard.limit("test", state, "for this test")
    assert desk.node.manager.send(order, desk.clock.now_ns()) is (ends is State.SENT)
    assert order.state is ends


def test_an_order_that_is_off_the_book_to_be_replaced_ends_where_all_is_halted_by_then(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    order = desk.order("buy", type="limit", price="0.0240", timeout_ns=0)
    order.amend_requested = Amend(None, 23_900, replace=True)
    desk.node.guard.limit("test", TradingState.HALTED, "for this test")
    told = {"kind": "cancelled", "reason": "", "timestamp_ns": desk.clock.now_ns(), "filled_lots": 0}
    ended = VenueEnded(venue="xeggex", client_id=order.venue_client_id, **told)
    desk.node.kernel.input(ended)
    desk.wait(50)
    assert (order.state, order.code, order.reserved) == (State.EXPIRED, "TRADING_LIMITED", 0)
    assert not desk.node.orders.open and desk.locked("USDT") == 0
