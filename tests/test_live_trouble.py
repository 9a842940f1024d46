"""A live node on the local exchange while replies, reports, connections and clocks go wrong: always the truth in the
end, and nothing twice; in virtual time."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest

from tbx.core.model.messages import Refusal
from tbx.core.model.records import Order

from .live_desk import BTC, LiveDesk, refused

pytestmark = [pytest.mark.orders, pytest.mark.exchanges]

ENDINGS = ("drop", "mute", "http5xx", "unknown1006", "unknown1007")
WHEN = ("before", "after")
REPORTS = {
    "reports at once": "",
    "reports before the reply": "reorder_reports",
    "reports late": "late_reports:ms=700",
    "some reports later than others": "late_reports:ms=700,p=0.5",
    "reports very late": "late_reports:ms=15000",
}


@pytest.fixture
def desk(tmp_path: Path) -> LiveDesk:
    return LiveDesk(tmp_path)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("live")


def done(desk: LiveDesk) -> None:
    desk.heal()
    desk.check()


def resting(desk: LiveDesk) -> Order:
    return desk.order("buy", "0.3", price=59_990)


def place_limit(desk: LiveDesk, _: Order) -> None:
    desk.command(desk.submission("sell", "0.3", price=60_010))


def place_market(desk: LiveDesk, _: Order) -> None:
    desk.command(desk.submission("sell", "1.5"))


def cancel(desk: LiveDesk, order: Order) -> None:
    desk.ask_cancel(order)


def amend_down(desk: LiveDesk, order: Order) -> None:
    desk.ask_amend(order, quantity="0.2")


def amend_price(desk: LiveDesk, order: Order) -> None:
    desk.ask_amend(order, price=59_970)


def amend_up(desk: LiveDesk, order: Order) -> None:
    desk.ask_amend(order, quantity="0.7")


DOINGS: dict[str, tuple[str, Callable[[LiveDesk, Order], None]]] = {
    "limit": ("order.place", place_limit),
    "market": ("order.place", place_market),
    "cancel": ("order.cancel", cancel),
    "amend down": ("order.amend.keepPriority", amend_down),
    "amend price, its cancel": ("order.cancel", amend_price),
    "amend price, its order": ("order.place", amend_price),
    "amend up, its order": ("order.place", amend_up),
}


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("doing", DOINGS)
def test_a_request_that_goes_wrong_ends_in_the_truth(doing: str, ending: str, base: Path) -> None:
    method, act = DOINGS[doing]
    for when in WHEN:
        for reports, spec in REPORTS.items():
            desk = LiveDesk(base)
            order = resting(desk)
            desk.local.switch(f"{ending}_{when}:n=1,on={method};{spec}")
            act(desk, order)
            desk.wait(3)
            desk.deal(BTC, "SELL", 59_990, "0.1")
            desk.wait(20_000)
            fault = desk.local.faults.get(f"{ending}_{when}")
            assert fault is not None and fault.fired == 1, "the fault has met its request"
            desk.heal()
            try:
                desk.check()
            except AssertionError as error:
                raise AssertionError(f"{when}, {reports}: {error}") from error


@pytest.mark.parametrize("reports", REPORTS)
@pytest.mark.parametrize("doing", ["cancel", "amend down", "amend price, its cancel", "amend up, its order"])
def test_replies_and_reports_come_in_any_order_beside_a_fill(doing: str, reports: str, base: Path) -> None:
    for part in ("0.1", "0.2", "0.3"):
        for first in (True, False):
            desk = LiveDesk(base)
            order = resting(desk)
            if REPORTS[reports]:
                desk.local.switch(REPORTS[reports])
            if first:
                desk.deal(BTC, "SELL", 59_990, part)
            DOINGS[doing][1](desk, order)
            if not first:
                desk.deal(BTC, "SELL", 59_990, part)
            done(desk)


# --- requests that are lost


def test_a_cancel_that_was_lost_is_sent_again(desk: LiveDesk) -> None:
    order = resting(desk)
    desk.local.switch("mute_before:n=2,on=order.cancel")
    answer = desk.ask_cancel(order)
    desk.wait(40_000)
    assert desk.state(order) == "CANCELLED" and answer.values
    done(desk)


def test_an_amendment_that_was_lost_is_told_and_the_order_is_as_it_was(desk: LiveDesk) -> None:
    order = resting(desk)
    desk.local.switch("mute_before:n=1,on=order.amend.keepPriority")
    answer = desk.ask_amend(order, quantity="0.2")
    desk.wait(20_000)
    assert refused(answer.values[0]) == "AMEND_LOST"
    assert desk.get(order).qty_lots * order.lot == Decimal("0.3")
    assert not isinstance(desk.amend(order, quantity="0.2"), Refusal)
    done(desk)


def test_an_amendment_whose_answer_was_lost_is_found_to_be_done(desk: LiveDesk) -> None:
    order = resting(desk)
    desk.local.switch("drop_after:n=1,on=order.amend.keepPriority")
    answer = desk.ask_amend(order, quantity="0.2")
    desk.wait(20_000)
    assert desk.one(order).quantity == 20_000_000
    assert desk.get(order).qty_lots * order.lot == Decimal("0.2")
    assert not isinstance(answer.values[0], Refusal)
    done(desk)


# --- the connection


def test_while_the_exchange_is_away_orders_are_refused_and_say_why(desk: LiveDesk) -> None:
    desk.network.silent = True
    desk.cut()
    answer = desk.submit("buy", price=59_000)
    assert refused(answer) == "VENUE_UNAVAILABLE" and answer.status == 503
    assert "not connected" in answer.detail
    desk.wait(60_000)
    desk.network.silent = False
    desk.until(lambda: not desk.node.engine.unavailable("binance"), "it is back")
    assert desk.state(desk.order("buy", price=59_000)) == "LIVE"
    done(desk)


def test_until_balances_were_compared_after_a_reconnect_orders_are_refused(desk: LiveDesk) -> None:
    desk.local.switch("http5xx_before:on=account.status,n=4")
    desk.cut()
    desk.until(lambda: desk.venue.unavailable == "" or desk.world.now_ns() < 0, "signed on", 200)
    assert refused(desk.submit("buy", price=59_000)) == "VENUE_UNAVAILABLE"
    done(desk)


def test_an_order_that_was_accepted_for_sending_as_the_connection_broke_is_sent_once(desk: LiveDesk) -> None:
    answer = desk.command(desk.submission("buy", "0.1", price=59_990))
    desk.cut()  # before its commit
    desk.wait(10_000)
    (order,) = desk.node.orders.open.values()
    assert answer.values and desk.state(order) == "LIVE" and len(desk.theirs(order)) == 1
    done(desk)


def test_an_announced_shutdown_loses_nothing(desk: LiveDesk) -> None:
    order = resting(desk)
    desk.local.shut_down(1_000)
    for number in range(40):
        desk.command(desk.submission("buy", "0.01", price=59_900 + number))
        desk.deal(BTC, "SELL", 59_990, "0.005")
        desk.wait(50)
    assert len(desk.network.open_sockets) == 1
    assert desk.state(order) == "PART" and desk.corrections() == []
    assert not any(kind == "VenueDisconnected" for kind, _ in desk.events("health"))
    done(desk)


def test_a_burst_through_a_bad_connection_is_there_once_each(desk: LiveDesk) -> None:
    spec = "drop_before:p=0.02;drop_after:p=0.02;mute_after:p=0.03;unknown1007_after:p=0.05;unknown1007_before:p=0.05"
    desk.local.switch(f"{spec};late_reports:p=0.3,ms=300;reorder_reports:p=0.3")
    desk.network.spread_ns = 5_000_000
    for number in range(300):
        desk.until(lambda: not desk.node.engine.unavailable("binance"), "orders can be sent")
        desk.command(desk.submission("buy" if number % 2 else "sell", "0.01", price=60_000 + number % 40 - 20))
        desk.wait(2)
    done(desk)
    assert len(desk.theirs()) > 250


# --- clocks and limits


@pytest.mark.parametrize("skew_ms", [-30_000, -1_500, 1_500, 30_000])
def test_a_clock_that_goes_wrong_meanwhile_is_measured_and_nothing_is_sent_twice(desk: LiveDesk, skew_ms: int) -> None:
    order = resting(desk)
    desk.local.switch(f"skew:ms={skew_ms}")
    placed = [desk.sent("buy", price=59_000 + number) for number in range(5)]
    desk.ask_amend(order, quantity="0.2")
    desk.wait(5_000)
    assert [desk.state(o) for o in placed] == ["LIVE"] * 5
    assert desk.one(order).quantity == 20_000_000
    desk.local.faults.clear()
    done(desk)


def test_a_ban_is_waited_for_and_orders_say_so(desk: LiveDesk) -> None:
    order = resting(desk)
    desk.local.switch("ban418:s=20")
    desk.submit("buy", price=59_000)
    desk.wait(100)
    answer = desk.submit("buy", price=59_001)
    assert refused(answer) == "VENUE_UNAVAILABLE" and "bars this address" in answer.detail
    desk.ask_cancel(order)
    desk.wait(30_000)
    done(desk)


def test_garbage_between_the_frames_changes_nothing(desk: LiveDesk) -> None:
    desk.local.switch("nonsense:p=0.3")
    for number in range(60):
        desk.command(desk.submission("buy" if number % 2 else "sell", "0.02", price=60_000 + number % 9 * 20 - 80))
        if number % 5 == 0:
            desk.command(desk.submission("buy", "0.1"))
        desk.wait(20)
    done(desk)


def test_an_amendment_below_what_trades_meanwhile_leaves_what_has_traded(desk: LiveDesk) -> None:
    order = resting(desk)
    asked = desk.ask_amend(order, quantity="0.05", price="59980")
    desk.deal(BTC, "SELL", 59_990, "0.1")
    desk.wait(2_000)
    order = desk.get(order)
    assert order.ended
    assert order.left_lots == 0
    assert order.qty_lots * order.lot == Decimal("0.1")
    assert len(asked.values) == 1
    done(desk)


def test_an_amendment_of_an_exit_between_two_attempts_is_answered(desk: LiveDesk) -> None:
    stop = desk.order("sell", "2", type="stop_loss", stop_price=59_500)
    desk.move(BTC, 59_300, "0.1")
    desk.wait(200)
    desk.local.switch("mute_before:n=1,on=order.amend.keepPriority")
    asked = desk.ask_amend(stop, quantity="1.5")
    desk.wait(60_000)
    assert len(asked.values) == 1
    assert refused(asked.values[0]) in ("ORDER_IN_FLIGHT", "AMEND_LOST")
    done(desk)


def test_a_report_that_is_lost_while_another_connection_takes_over_is_asked_for(desk: LiveDesk) -> None:
    order = resting(desk)
    desk.local.switch("late_reports:ms=60000")  # as good as never
    desk.local.exchange.cancel_all("first", "BTCUSDT")
    desk.wait(200)
    assert desk.state(order) == "LIVE"
    desk.venue.connection.session.renew("it is old")
    desk.wait(3_000)
    assert desk.state(order) == "CANCELLED"
