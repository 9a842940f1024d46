"""FLATTEN: everything in the scope is cancelled and sold, nothing else is, and a restart goes on where it was."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tbx.core.kernel.clock import MS_NS
from tbx.core.model.messages import RunDrill
from tbx.core.model.records import Order, SignalData, State
from tbx.core.risk import flatten
from tbx.core.risk.guard import TradingState

from .desk import BOOK, RVN, Desk, refused
from .desk_events import drill, events_of, limits_on_record, set_clock, set_state

MA, MM = SignalData(strategy="ma"), SignalData(strategy="mm")


def held(desk: Desk, exchange: str = "xeggex") -> Decimal:
    position = desk.node.portfolio.position(f"paper.{exchange}", RVN)
    return Decimal(0) if position is None else position.quantity


def resting(desk: Desk, **more: Any) -> Order:
    return desk.order(type="limit", price="0.02", timeout_ns=0, **more)


def state(desk: Desk, scope: str = "") -> str:
    return desk.node.guard.scope_state(scope).value


def test_everything_is_cancelled_and_sold_with_its_exits_and_then_it_is_halted(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    bracket = desk.order(quantity="2000", stop_loss="0.02", take_profit="0.03")
    desk.order(quantity="500", exchange="binance")
    buy, sale = resting(desk), desk.order("sell", "300", type="limit", price="0.03", timeout_ns=0)
    stop = desk.order("sell", "100", type="stop_loss", stop_price=Decimal("0.02"), timeout_ns=0)
    assert set_state(desk, "FLATTEN", "", "enough") is TradingState.FLATTEN
    desk.wait(2_000)
    assert held(desk) == held(desk, "binance") == 0
    for order in (buy, sale, stop, desk.get(bracket.stop_loss_id), desk.get(bracket.take_profit_id)):
        assert desk.get(order.order_id).state is State.CANCELLED
    assert not desk.node.orders.open
    assert state(desk) == "HALTED" and desk.node.guard.why == "HALTED: flattened: enough"
    assert refused(desk.submit()) == "TRADING_LIMITED"
    assert [event["state"] for event in events_of(desk, "TradingStateChanged")] == ["FLATTEN", "HALTED"]
    desk.check()


def test_while_it_goes_on_nothing_but_closing_sales_is_taken(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.order(quantity="2000")
    desk.book([], [("0.02451", "40000")])  # nobody buys
    set_state(desk, "FLATTEN", "", "enough")
    desk.wait(1_500)
    assert state(desk) == "FLATTEN"
    assert refused(desk.submit("sell", "100", type="limit", price="0.03")) == "TRADING_LIMITED"
    assert refused(desk.submit(exchange="binance")) == "TRADING_LIMITED"
    desk.check()


def test_a_thin_book_is_sold_into_again_each_second_and_why_is_shown(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.order(quantity="20000")
    desk.price("0.02449", "0.02451", "8000")
    set_state(desk, "FLATTEN", "pair:RVN_USDT", "enough")
    desk.wait(500)
    assert held(desk) == 12_000
    desk.price("0.02447", "0.02449", "8000")
    desk.wait(1_000)
    assert held(desk) == 4_000 and state(desk, "pair:RVN_USDT") == "FLATTEN"
    feed = desk.node.market.feed("xeggex", RVN)
    feed.lost()
    desk.clock.advance(2_000_000_000)
    (view,) = desk.node.flatten.views()
    assert (view.scope, view.orders_open, view.positions_open) == ("pair:RVN_USDT", 0, 1)
    assert view.reasons == ("there is no current order book of RVN_USDT at xeggex",)
    desk.book()
    desk.wait(1_500)
    assert held(desk) == 0 and state(desk, "pair:RVN_USDT") == "HALTED" and desk.node.flatten.views() == []
    desk.check()


def test_what_the_exchange_would_not_take_counts_as_flat(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.order(quantity="1000")
    instrument = desk.node.instruments["xeggex", RVN]
    least = instrument.quantity(instrument.min_lots)
    keep = least / 2
    position = desk.node.portfolio.position("paper.xeggex", RVN)
    assert position is not None
    position.quantity = keep  # as fees in coins leave it
    set_state(desk, "FLATTEN", "", "enough")
    desk.wait(500)
    assert state(desk) == "HALTED"
    assert not any(order.role == "close" for order in desk.node.orders.orders.values())


@pytest.mark.parametrize("scope", ["exchange:xeggex", "pair:RVN_USDT"])
def test_a_part_is_flattened_and_the_rest_stays(tmp_path: Path, scope: str) -> None:
    desk = Desk(tmp_path)
    desk.order(quantity="1000")
    desk.order(quantity="1000", exchange="binance")
    there = resting(desk, exchange="binance")
    set_state(desk, "FLATTEN", scope, "enough")
    desk.wait(1_500)
    assert held(desk) == 0 and state(desk, scope) == "HALTED" and state(desk) == "ACTIVE"
    kept = scope.startswith("exchange")
    assert held(desk, "binance") == (999 if kept else 0)
    assert (desk.get(there.order_id).state is State.LIVE) is kept
    desk.check()


def test_a_strategy_sells_its_own_coins_and_leaves_those_of_others_and_their_exits(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    first = desk.order(quantity="1000", signal_data=MA, stop_loss="0.02")
    second = desk.order(quantity="700", signal_data=MM, stop_loss="0.02")
    third = desk.order(quantity="300", stop_loss="0.02")
    mine, theirs = resting(desk, signal_data=MA), resting(desk, signal_data=MM)
    set_state(desk, "FLATTEN", "strategy:ma", "enough")
    desk.wait(1_500)
    assert state(desk, "strategy:ma") == "HALTED" and held(desk) == 1_000
    assert desk.node.subledgers.quantity("ma", "paper.xeggex", RVN) == 0
    assert desk.node.subledgers.quantity("mm", "paper.xeggex", RVN) == 700
    assert desk.get(mine.order_id).state is State.CANCELLED and desk.get(theirs.order_id).state is State.LIVE
    assert desk.get(first.stop_loss_id).ended
    for order, quantity in ((second, 700), (third, 300)):
        stop = desk.get(order.stop_loss_id)
        assert stop.state is State.HELD and stop.left_lots * stop.lot == quantity
        assert desk.get(order.order_id).protected == quantity
    desk.check()


def test_a_strategys_exits_leave_with_its_coins_where_others_hold_coins_without_exits(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    entry = desk.order(quantity="1000", signal_data=MA, stop_loss="0.02")
    desk.order(quantity="5000", signal_data=MM)
    set_state(desk, "FLATTEN", "strategy:ma", "enough")
    desk.wait(1_500)
    assert desk.get(entry.stop_loss_id).ended and state(desk, "strategy:ma") == "HALTED"
    assert held(desk) == 5_000
    desk.price("0.01", "0.0101")
    desk.wait(500)
    assert held(desk) == 5_000  # nothing sold what is another's
    desk.check()


def test_coins_that_came_from_outside_stay_and_no_exit_is_left_to_sell_them(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.node.kernel.run(desk.node.portfolio.deposit, "paper.xeggex", "RVN", Decimal(9_000))
    entry = desk.order(quantity="1000", stop_loss="0.02", take_profit="0.03")
    set_state(desk, "FLATTEN", "", "enough")
    desk.wait(1_500)
    assert state(desk) == "HALTED" and held(desk) == 0 and desk.total("RVN") == 9_000
    assert desk.get(entry.stop_loss_id).ended and desk.get(entry.take_profit_id).ended
    desk.check()


def test_coins_that_another_sale_has_set_aside_are_not_taken_from_it(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.order(quantity="1000", signal_data=MA)
    theirs = desk.order("sell", "1000", type="limit", price="0.03", timeout_ns=0, signal_data=MM)
    set_state(desk, "FLATTEN", "strategy:ma", "enough")
    desk.wait(2_500)
    (view,) = desk.node.flatten.views()
    assert view.reasons == ("1000 RVN are set aside for other orders",)
    assert not any(order.state is State.REJECTED for order in desk.node.orders.orders.values())
    desk.cancel(theirs)
    desk.wait(1_000)
    assert held(desk) == 0 and state(desk, "strategy:ma") == "HALTED"
    desk.check()


def test_a_part_that_is_too_little_to_be_sold_does_not_make_the_rest_dust(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    entry = desk.order(quantity="1000", signal_data=MA, stop_loss="0.02")
    theirs = desk.order("sell", "980", type="limit", price="0.03", timeout_ns=0, signal_data=MM)
    set_state(desk, "FLATTEN", "strategy:ma", "enough")
    desk.wait(2_500)
    (view,) = desk.node.flatten.views()
    assert view.positions_open == 1 and "below the least order value" in view.reasons[0]
    assert desk.get(entry.stop_loss_id).state is State.HELD  # what is still held is still protected
    desk.cancel(theirs)
    desk.wait(2_000)
    assert held(desk) == 0 and state(desk, "strategy:ma") == "HALTED"
    desk.check()


def test_a_position_that_its_wallet_does_not_hold_whole_ends_with_what_is_there(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.order(quantity="1000")
    desk.node.kernel.run(desk.node.ledger.settle, "paper.xeggex", "RVN", Decimal(-100))  # as fees of other pairs do
    set_state(desk, "FLATTEN", "", "enough")
    desk.wait(2_500)
    assert desk.total("RVN") == 0 and state(desk) == "HALTED"


def test_a_clock_that_is_set_back_does_not_keep_it_from_selling(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.order(quantity="20000")
    desk.price("0.02449", "0.02451", "8000")
    set_state(desk, "FLATTEN", "", "enough")
    desk.wait(500)
    assert held(desk) == 12_000
    set_clock(desk, -3_600)
    for _ in range(4):
        desk.wait(1_000)
        desk.book()
    assert held(desk) == 0 and state(desk) == "HALTED"
    desk.check()


def test_orders_that_end_one_by_one_share_their_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk(tmp_path)
    for _ in range(200):
        desk.submit(type="limit", price="0.02", timeout_ns=0)
    desk.wait(100)
    looks: list[str] = []
    orders_in = flatten.orders_in
    monkeypatch.setattr(flatten, "orders_in", lambda manager, scope: looks.append(scope) or orders_in(manager, scope))
    began_ns = desk.clock.now_ns()
    set_state(desk, "FLATTEN", "", "enough")
    while state(desk) == "FLATTEN":
        desk.clock.advance(MS_NS)
    took_ns = desk.clock.now_ns() - began_ns
    assert not desk.node.orders.open and len(looks) <= 2 + took_ns // flatten.SOON_NS


def test_lifting_it_half_way_stops_it_and_what_is_left_stays(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.order(quantity="20000")
    desk.price("0.02449", "0.02451", "8000")
    set_state(desk, "FLATTEN", "", "enough")
    desk.wait(500)
    assert set_state(desk, "ACTIVE") is TradingState.ACTIVE
    desk.book()
    desk.wait(3_000)
    assert held(desk) == 12_000 and desk.node.flatten.views() == [] and limits_on_record(desk) == {}
    desk.check()


@pytest.mark.parametrize("after_ms", [0, 1, 60, 500, 1_200])
def test_a_restart_in_the_middle_goes_on_until_it_is_flat(tmp_path: Path, after_ms: int) -> None:
    desk = Desk(tmp_path)
    desk.order(quantity="20000", stop_loss="0.02")
    buy = resting(desk)
    desk.price("0.02449", "0.02451", "8000")
    set_state(desk, "FLATTEN", "", "enough")
    if after_ms:
        desk.clock.advance(after_ms * 1_000_000)
    desk.restart()
    assert state(desk) in ("FLATTEN", "HALTED")
    for _ in range(20):
        desk.book(*BOOK)
        desk.wait(1_000)
    assert held(desk) == 0 and desk.get(buy.order_id).ended and not desk.node.orders.open
    assert state(desk) == "HALTED"
    (limit,) = limits_on_record(desk).values()
    assert limit["state"] == "HALTED"
    desk.restart()
    assert state(desk) == "HALTED" and desk.node.guard.why == "HALTED: flattened: enough"
    desk.check()


def test_two_scopes_that_share_a_position_are_both_flat_in_the_end(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.order(quantity="1000", signal_data=MA)
    desk.order(quantity="500")
    set_state(desk, "FLATTEN", "strategy:ma", "enough")
    set_state(desk, "FLATTEN", "pair:RVN_USDT", "enough")
    desk.wait(4_000)
    assert held(desk) == 0 and state(desk, "strategy:ma") == state(desk, "pair:RVN_USDT") == "HALTED"
    desk.check()


# --- the drill


def test_a_drill_proves_that_it_works_and_leaves_nothing_behind(tmp_path: Path) -> None:
    desk = Desk(tmp_path, STOP_LOSS_ENABLED="true")
    before = desk.order(quantity="1000")
    report = drill(desk, RVN)
    assert report.passed, report
    assert [step.name for step in sorted(report.steps, key=lambda s: s.name)] == sorted(
        ("bought", "resting", "cancelled", "sold", "flat", "refused", "lifted")
    )
    took = {step.name: step.milliseconds for step in report.steps}
    assert 0 < took["cancelled"] < 1_000 and 0 < took["sold"] <= took["flat"] < 2_000
    assert held(desk, report.exchange) == (1_000 if report.exchange == "xeggex" else 0)
    assert not desk.node.guard.restricted and limits_on_record(desk) == {}
    assert [order.order_id for order in desk.node.orders.open.values()] == [before.stop_loss_id]
    (told,) = events_of(desk, "DrillDone")
    assert told["passed"] and told["by"] == "desk"
    desk.check()


def test_one_drill_at_a_time(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    answers: list[Any] = []
    for _ in range(2):
        desk.node.kernel.input(RunDrill(pair=RVN, reply=answers.append))
    desk.wait(3_000)
    assert refused(answers[0]) == "DRILL_RUNNING" and answers[0].status == 409 and answers[1].passed


@pytest.mark.parametrize(
    ("scope", "words"), [("", "REDUCING: a look"), ("strategy:drill", "REDUCING (strategy:drill): a look")]
)
def test_a_drill_that_may_not_buy_is_refused_with_why(tmp_path: Path, scope: str, words: str) -> None:
    desk = Desk(tmp_path)
    set_state(desk, "REDUCING", scope, "a look")
    answer = drill(desk, wait_ms=0)
    assert refused(answer) == "TRADING_LIMITED" and words in answer.detail
    assert not desk.node.orders.orders


def test_a_drill_that_nobody_buys_from_fails_and_is_cleaned_up_later(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    answers: list[Any] = []
    desk.node.kernel.input(RunDrill(pair=RVN, reply=answers.append))
    desk.clock.advance(1_000_000)
    for exchange in ("xeggex", "binance"):
        desk.book([("0.02449", "1")], [("0.02451", "40000")], exchange=exchange)
    for _ in range(11):
        desk.wait(1_000)
    (report,) = answers
    assert not report.passed and report.steps[-1].detail == "not within 10 s"
    assert refused(drill(desk, RVN, 0)) == "DRILL_RUNNING"
    for exchange in ("xeggex", "binance"):
        desk.book(exchange=exchange)
    desk.wait(3_000)
    assert held(desk) == held(desk, "binance") == 0 and not desk.node.guard.restricted
    assert drill(desk, RVN).passed
    desk.check()


@pytest.mark.parametrize("after_ms", [1, 30, 60, 90, 150, 300])
def test_a_drill_that_a_restart_cuts_off_is_cleaned_up(tmp_path: Path, after_ms: int) -> None:
    desk = Desk(tmp_path)
    desk.node.kernel.input(RunDrill(pair=RVN, reply=lambda _: None))
    desk.clock.advance(after_ms * 1_000_000)
    desk.restart()
    desk.wait(4_000)
    assert held(desk) == held(desk, "binance") == 0 and not desk.node.orders.open
    assert not desk.node.guard.restricted and limits_on_record(desk) == {}
    assert drill(desk, RVN).passed
    desk.check()
