"""A live node dies, or loses its connection, in the middle of each thing that it does; in virtual time.

Each test goes through a third of the moments: it lets so many callbacks run after the command, then ends the process
or the connection, lets all settle, and compares the exchange's books with the node's.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tbx.core.model.records import Order

from .live_desk import BTC, ETH, LiveDesk

pytestmark = [pytest.mark.orders, pytest.mark.exchanges]

MOMENTS = 26  # callbacks: by then the command is answered and its reports have been heard


def resting(desk: LiveDesk) -> Order:
    return desk.order("buy", "0.3", price=59_990)


def no_order(desk: LiveDesk) -> None:
    return None


def place_limit(desk: LiveDesk, _: Order | None) -> None:
    desk.command(desk.submission("buy", "0.3", price=59_990))


def place_market(desk: LiveDesk, _: Order | None) -> None:
    desk.command(desk.submission("buy", "1.5"))


def place_bracket(desk: LiveDesk, _: Order | None) -> None:
    desk.command(desk.submission("buy", "0.5", stop_loss=59_000, take_profit=61_000))


def place_post_only(desk: LiveDesk, _: Order | None) -> None:
    desk.command(desk.submission("sell", "0.5", price=60_010, post_only=True))


def cancel(desk: LiveDesk, order: Order | None) -> None:
    assert order is not None
    desk.ask_cancel(order)


def amend_down(desk: LiveDesk, order: Order | None) -> None:
    assert order is not None
    desk.ask_amend(order, quantity="0.2")


def amend_price(desk: LiveDesk, order: Order | None) -> None:
    assert order is not None
    desk.ask_amend(order, price=59_980)


def amend_to_trade(desk: LiveDesk, order: Order | None) -> None:
    assert order is not None
    desk.ask_amend(order, price=60_120, quantity="1.4")


def traded_while_amended(desk: LiveDesk, order: Order | None) -> None:
    assert order is not None
    desk.ask_amend(order, price=59_980)
    desk.deal(BTC, "SELL", 59_990, "0.1")


def traded_while_cancelled(desk: LiveDesk, order: Order | None) -> None:
    assert order is not None
    desk.ask_cancel(order)
    desk.deal(BTC, "SELL", 59_990, "0.1")


def exit_reached(desk: LiveDesk, order: Order | None) -> None:
    desk.move(BTC, 59_000)


DOINGS: dict[str, tuple[Callable[[LiveDesk], Order | None], Callable[[LiveDesk, Order | None], None]]] = {
    "a limit order": (no_order, place_limit),
    "a market order": (no_order, place_market),
    "a bracket": (no_order, place_bracket),
    "a post-only order": (no_order, place_post_only),
    "a cancel": (resting, cancel),
    "an amendment down": (resting, amend_down),
    "an amendment of the price": (resting, amend_price),
    "an amendment that trades": (resting, amend_to_trade),
    "an amendment beside a fill": (resting, traded_while_amended),
    "a cancel beside a fill": (resting, traded_while_cancelled),
    "an exit that is reached": (lambda desk: desk.order("buy", "0.5", stop_loss=59_500), exit_reached),
}
ENDS: dict[str, Callable[[LiveDesk], object]] = {
    "the process dies": lambda desk: desk.restart(10),
    "the process dies for long": lambda desk: desk.restart(60_000),
    "a cut loses what is on its way": lambda desk: desk.cut(lost=True),
    "a cut, and what was sent still arrives": lambda desk: desk.cut(lost=False),
    "the exchange closes": lambda desk: desk.local.close_connections(),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("live")


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("doing", DOINGS)
def test_nothing_is_lost_or_doubled_when(doing: str, end: str, base: Path) -> None:
    prepare, act = DOINGS[doing]
    for moment in range((len(doing) + len(end)) % 3, MOMENTS, 3):
        desk = LiveDesk(base)
        order = prepare(desk)
        act(desk, order)
        for _ in range(moment):
            desk.world.step()
        ENDS[end](desk)
        desk.heal()
        try:
            desk.check()
        except AssertionError as error:
            raise AssertionError(f"after {moment} callbacks: {error}") from error


# --- what becomes of what was on its way


@pytest.fixture
def desk(tmp_path: Path) -> LiveDesk:
    return LiveDesk(tmp_path)


def step(desk: LiveDesk, until: Callable[[], object]) -> None:
    desk.until(until, "the moment", 5)


def test_a_limit_order_that_never_left_is_sent_after_the_restart(desk: LiveDesk) -> None:
    order = desk.sent("buy", price=59_000)
    desk.network.cut()
    desk.restart()
    desk.heal()
    assert desk.state(order) == "LIVE" and desk.attempts(order) == [2]
    desk.check()


def test_a_market_order_that_never_left_expires(desk: LiveDesk) -> None:
    order = desk.sent("buy")
    desk.network.cut()
    desk.restart()
    desk.heal()
    assert (desk.state(order), desk.get(order).code) == ("EXPIRED", "NOT_TAKEN") and desk.theirs(order) == []
    desk.check()


def test_an_order_that_was_taken_while_the_process_died_is_found(desk: LiveDesk) -> None:
    order = desk.sent("buy", "0.5")
    step(desk, lambda: desk.theirs(order))
    desk.restart()
    desk.heal()
    assert desk.state(order) == "FILLED" and len(desk.theirs(order)) == 1
    desk.check()


def test_what_traded_while_the_process_was_away_is_accounted_for(desk: LiveDesk) -> None:
    order = desk.order("buy", "0.3", price=59_990)
    eth = desk.order("sell", "5", pair=ETH, price="3001")
    desk.kill()
    desk.deal(BTC, "SELL", 59_990, "0.1")
    desk.deal(BTC, "SELL", 59_990, "0.1")
    desk.deal(ETH, "BUY", 3_001, "5")
    desk.restart(30_000)
    desk.heal()
    assert desk.state(order) == "PART" and desk.state(eth) == "FILLED"
    assert desk.get(order).filled_lots * order.lot == Decimal("0.2")
    assert desk.corrections() == []
    desk.check()


def test_a_frame_that_arrives_late_after_its_process_died_is_not_sent_a_second_time(desk: LiveDesk) -> None:
    desk.network.more_ns["up"] = 4_000_000_000  # the order is 4 s on its way, and within the receive window
    order = desk.sent("buy", price=59_990)
    desk.wait(10)
    assert desk.theirs(order) == []
    desk.kill()
    desk.network.more_ns["up"] = 0
    desk._start()
    desk.heal()
    assert desk.attempts(order) == [1]
    assert desk.state(order) == "LIVE"
    desk.check()


def test_a_frame_that_was_too_old_when_it_arrived_is_sent_anew_only_then(desk: LiveDesk) -> None:
    desk.network.more_ns["up"] = 20_000_000_000
    order = desk.sent("buy", price=59_990)
    desk.wait(10)
    desk.cut(lost=False)
    desk.network.more_ns["up"] = 0
    desk.wait(5_000)
    assert desk.state(order) == "UNKNOWN" and desk.theirs(order) == []
    desk.heal()
    assert desk.attempts(order) == [2]
    desk.check()


def test_an_exit_that_was_reached_while_the_process_was_away_sells_after_the_start(desk: LiveDesk) -> None:
    entry = desk.order("buy", "0.5", stop_loss=59_500, take_profit=60_600)
    desk.kill()
    desk.move(BTC, 59_300)
    desk.restart(20_000)
    desk.heal()
    assert desk.state(entry.stop_loss_id) == "FILLED" and desk.state(entry.take_profit_id) == "CANCELLED"
    assert desk.total("BTC") == 100
    desk.check()


@pytest.mark.parametrize("moment", range(4))
def test_dying_again_while_the_orders_are_asked_about_changes_nothing(desk: LiveDesk, moment: int) -> None:
    orders = [desk.sent("buy", "0.01", price=59_900 + i) for i in range(5)]
    desk.restart(5)
    desk.wait(2 + 3 * moment)
    desk.restart(5)
    desk.wait(3 + 4 * moment)
    desk.cut()
    desk.heal()
    assert [desk.state(order) for order in orders] == ["LIVE"] * 5
    desk.check()


def test_the_same_request_after_a_restart_is_the_same_order(desk: LiveDesk) -> None:
    more: dict[str, Any] = {"client_order_id": "mine", "fingerprint": "f", "price": 59_990}
    order = desk.order("buy", "0.1", **more)
    desk.restart()
    again = desk.submit("buy", "0.1", **more)
    assert again.repeated and again.order.order_id == order.order_id
    desk.heal()
    assert len(desk.theirs()) == 1
    desk.check()
