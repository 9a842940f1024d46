"""What the loop holds and what protects it: missing stops come back, and none outlives its coins."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tbx.core.model.messages import Submitted
from tbx.core.model.records import Order, SignalData, State
from tbx.strategies_bridge.holdings import Holdings, Unprotected

from .desk import RVN, Desk

OWN = SignalData(source="automated_trading_bot", strategy="ours")
OTHER = SignalData(source="somebody", strategy="theirs")


def holdings(desk: Desk) -> Holdings:
    node = desk.node
    return Holdings(
        node.kernel,
        node.orders,
        node.market,
        node.subledgers.quantity,
        "ours",
        paper=True,
        stop_loss_percent=desk.settings.stop_loss_percent,
    )


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def protect(desk: Desk, held: Holdings, bare: Unprotected, name: str = "guard.x.1") -> Order:
    answers: list[Any] = []
    assert held.protect(bare, name, answers.append) == ""
    desk.clock.settle()
    assert len(answers) == 1 and isinstance(answers[0], Submitted), answers
    return answers[0].order


def test_only_the_strategys_own_coins_are_held_and_all_without_a_stop_are_unprotected(desk: Desk) -> None:
    held = holdings(desk)
    assert not held.holds(RVN) and list(held.unprotected()) == []
    desk.order("buy", "1000", signal_data=OTHER)
    assert not held.holds(RVN)
    desk.order("buy", "700", signal_data=OWN)
    assert held.holds(RVN)
    (bare,) = held.unprotected()
    assert bare.instrument.quantity(bare.lots) == 700 and bare.wallet == "paper.xeggex"


def test_a_bracket_protects_and_what_its_stop_leaves_is_protected_again(desk: Desk) -> None:
    held = holdings(desk)
    entry = desk.order("buy", "1000", stop_loss="0.02", take_profit="0.03", signal_data=OWN)
    assert list(held.unprotected()) == []
    desk.cancel(desk.get(entry.stop_loss_id))
    (bare,) = held.unprotected()
    stop = protect(desk, held, bare)
    assert (stop.type, stop.role, stop.side, stop.state) == ("stop_loss", "stop_loss", "sell", State.HELD)
    assert stop.stop_ticks == int(Decimal("0.02449") * Decimal("0.95") / stop.tick)
    assert list(held.unprotected()) == []
    desk.check()


def test_the_stop_sells_when_the_market_falls_to_it(desk: Desk) -> None:
    held = holdings(desk)
    desk.order("buy", "1000", signal_data=OWN)
    stop = protect(desk, held, next(held.unprotected()))
    desk.price("0.02300", "0.02302")
    desk.wait()
    assert desk.get(stop.order_id).state is State.FILLED
    assert not held.holds(RVN) and desk.total("RVN") == 0
    desk.check()


def test_a_stop_goes_in_the_same_commit_as_the_coins_and_never_sells_anothers(desk: Desk) -> None:
    held = holdings(desk)
    desk.order("buy", "1000", signal_data=OWN)
    desk.order("buy", "500", signal_data=OTHER)
    stop = protect(desk, held, next(held.unprotected()))
    desk.order("sell", "1000", signal_data=OWN)
    assert desk.get(stop.order_id).state is State.CANCELLED
    desk.price("0.02000", "0.02002")
    desk.wait()
    assert desk.total("RVN") == 500
    desk.check()


def test_a_stop_for_more_than_is_left_is_replaced_by_a_smaller_one(desk: Desk) -> None:
    held = holdings(desk)
    desk.order("buy", "1000", signal_data=OWN)
    first = protect(desk, held, next(held.unprotected()))
    desk.order("sell", "400", signal_data=OWN)
    assert desk.get(first.order_id).state is State.CANCELLED
    (bare,) = held.unprotected()
    assert bare.instrument.quantity(bare.lots) == 600


def test_a_restart_knows_the_stops_again(desk: Desk) -> None:
    held = holdings(desk)
    desk.order("buy", "1000", signal_data=OWN)
    stop = protect(desk, held, next(held.unprotected()))
    desk.restart()
    again = holdings(desk)
    assert list(again.unprotected()) == []
    desk.order("sell", "1000", signal_data=OWN)
    assert desk.get(stop.order_id).state is State.CANCELLED


def test_what_was_sold_while_the_loop_was_off_is_found_by_the_next_review(desk: Desk) -> None:
    desk.order("buy", "1000", signal_data=OWN)
    held = holdings(desk)
    stop = protect(desk, held, next(held.unprotected()))
    desk.restart()
    desk.order("sell", "1000", signal_data=OWN)
    assert desk.get(stop.order_id).state is State.HELD
    holdings(desk).trim()
    desk.clock.settle()
    assert desk.get(stop.order_id).state is State.CANCELLED


def test_an_entry_that_is_under_way_keeps_the_pair_busy(desk: Desk) -> None:
    held = holdings(desk)
    entry = desk.order("buy", "1000", type="limit", price="0.02", stop_loss="0.019", signal_data=OWN)
    assert entry.order_id in held.busy(RVN)
    assert list(held.unprotected()) == []
    desk.cancel(entry)
    assert held.busy(RVN) == ""


def test_without_a_current_book_a_stop_is_not_guessed(desk: Desk) -> None:
    held = holdings(desk)
    desk.order("buy", "1000", signal_data=OWN)
    (bare,) = held.unprotected()
    desk.clock.advance(10_000_000_000)
    assert "no current order book" in held.protect(bare, "guard.x.1", lambda _: None)


def test_dust_is_neither_held_nor_unprotected(desk: Desk) -> None:
    held = holdings(desk)
    desk.order("buy", "1000", signal_data=OWN)
    desk.order("sell", "999", signal_data=OWN)
    left = desk.node.subledgers.quantity("ours", "paper.xeggex", RVN)
    instrument = desk.node.instruments["xeggex", RVN]
    assert 0 < left * Decimal("0.0245") < instrument.min_notional
    assert not held.holds(RVN) and list(held.unprotected()) == []


def test_the_exits_of_an_entry_that_has_not_filled_protect_nothing(desk: Desk) -> None:
    held = holdings(desk)
    desk.order("buy", "1000", signal_data=OWN)
    desk.order("buy", "1000", type="limit", price="0.02", stop_loss="0.019", signal_data=OWN)
    (bare,) = held.unprotected()
    assert bare.instrument.quantity(bare.lots) == 1000
