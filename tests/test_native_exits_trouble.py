"""Pairs of exits at the exchange while reports, connections and processes go wrong: sold once, and never unwatched."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from tbx.core.model.records import State

from .native_desk import NativeDesk, done, exits_walk, is_at_exchange

pytestmark = [pytest.mark.orders, pytest.mark.exchanges]


@pytest.fixture
def desk(tmp_path: Path) -> NativeDesk:
    return NativeDesk(tmp_path)


REPORTS = {
    "at once": "",
    "in another order": "reorder_reports",
    "late": "late_reports:ms=700",
    "some later than others": "late_reports:ms=700,p=0.5",
    "some much later than others": "late_reports:ms=5000,p=0.5",
    "the first one last": "late_reports:ms=8000,n=1",
    "later than the book's next moves": "late_reports:ms=15000",
}


@pytest.mark.parametrize("spec", REPORTS.values(), ids=REPORTS)
@pytest.mark.parametrize("price", [58_900, 62_200], ids=["stop", "target"])
def test_reports_may_come_in_any_order(desk: NativeDesk, spec: str, price: int) -> None:
    _, stop, target = desk.bracket("0.5")
    if spec:
        desk.local.switch(spec)
    desk.go_to(price, "0.1")  # the book takes a part of it at each of three prices
    for _ in range(30):
        desk.wait(100)
        desk.check_now()
        if stop.triggered_ns is not None and target.state is State.HELD:
            assert stop.left_lots == target.left_lots
    desk.go_to(price)
    done(desk)
    assert desk.cancels() == 0
    assert {stop.state, target.state} == {State.FILLED, State.CANCELLED}


def test_what_the_exchange_did_not_sell_of_a_reached_exit_is_sold_here(desk: NativeDesk) -> None:
    entry, stop, target = desk.bracket("0.5")
    desk.go_to(58_900, "0.1")
    desk.wait(50)
    assert stop.state is State.PART and stop.waiting and entry.protected == stop.left_lots * stop.lot
    assert stop.reserved == entry.protected == desk.locked("BTC")
    desk.go_to(58_900, "1")
    desk.wait(2_000)
    assert stop.state is State.FILLED and target.state is State.CANCELLED
    assert desk.kinds(stop) == ["STOP_LOSS", "MARKET"]
    done(desk)


def test_an_exit_that_found_no_book_at_all_goes_on_here(desk: NativeDesk) -> None:
    _, stop, target = desk.bracket("0.5")
    desk.empty_book(last=58_900)
    desk.wait(50)
    assert not stop.ended and not target.ended and stop.filled_lots == 0
    desk.go_to(58_900)
    desk.wait(3_000)
    assert stop.state is State.FILLED and target.state is State.CANCELLED
    done(desk)


def test_the_fee_in_base_is_never_sold(desk: NativeDesk) -> None:
    entry, stop, _ = desk.bracket("0.01234", type="limit", price=60_100)
    assert entry.fees["BTC"] == Decimal("0.00001234")
    assert stop.qty_lots * stop.lot == Decimal("0.01232") == entry.protected
    done(desk)


# --- a process dies, a connection breaks


@pytest.mark.parametrize("steps", range(0, 16, 3))
@pytest.mark.parametrize("price", [60_000, 58_900, 62_200], ids=["calm", "stop", "target"])
@pytest.mark.parametrize("how", ["restart", "cut", "cut, frames arrive"])
def test_at_any_moment_it_may_break(desk: NativeDesk, how: str, price: int, steps: int) -> None:
    entry, stop, target = desk.bracket("0.5", wait_ms=0)
    for _ in range(steps):
        desk.world.step()
    if how == "restart":
        desk.kill()
        desk.wait(20)
        desk.go_to(price)
        desk.restart()
    else:
        desk.cut(lost=how == "cut")
        desk.go_to(price)
    desk.wait(5_000)
    desk.go_to(price)  # one more trade, as there always is
    done(desk)
    entry, stop, target = (desk.get(order) for order in (entry, stop, target))
    if not entry.filled_lots:
        assert stop.state is target.state is State.CANCELLED  # the entry was lost, or came too late
    elif price == 60_000:
        assert is_at_exchange(desk, stop, target)
    else:
        assert entry.protected == 0 and desk.total("BTC") < entry.lot


@pytest.mark.parametrize("price", [58_900, 62_200], ids=["stop", "target"])
def test_the_exchange_sells_while_nobody_is_here(desk: NativeDesk, price: int) -> None:
    entry, stop, target = desk.bracket("0.5")
    desk.kill()
    desk.go_to(price)
    desk.restart()
    done(desk)
    assert {desk.state(stop), desk.state(target)} == {"FILLED", "CANCELLED"}
    assert desk.get(entry).protected == 0


def test_a_part_that_was_sold_while_nobody_was_here_is_followed_by_the_rest(desk: NativeDesk) -> None:
    _, stop, target = desk.bracket("0.5")
    desk.kill()
    desk.go_to(58_900, "0.1")
    desk.restart()
    desk.go_to(58_900, "1")
    done(desk)
    assert desk.state(stop) == "FILLED" and desk.state(target) == "CANCELLED"


def test_a_pair_that_was_cancelled_while_nobody_was_here_has_ended(desk: NativeDesk) -> None:
    entry, stop, target = desk.bracket()
    desk.kill()
    desk.exchange.cancel(desk.me, "BTCUSDT", client_id=stop.venue_client_id)
    desk.restart()
    done(desk)
    assert desk.state(stop) == desk.state(target) == "CANCELLED" and desk.get(entry).protected == 0


@pytest.mark.parametrize("seed", range(12))
def test_whatever_happens_coins_are_sold_once_and_protected_is_true(tmp_path: Path, seed: int) -> None:
    exits_walk(tmp_path, seed, 150)
