"""A live node on the local exchange: orders from submission to their end, amended, cancelled, bracketed."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tbx.core.kernel.clock import SECOND_NS
from tbx.core.model.messages import Refusal

from .live_desk import BTC, LiveDesk, hmac, refused

pytestmark = [pytest.mark.orders, pytest.mark.exchanges]


@pytest.fixture
def desk(tmp_path: Path) -> LiveDesk:
    return LiveDesk(tmp_path)


def done(desk: LiveDesk) -> None:
    desk.heal()
    desk.check()


# --- kinds of orders


def test_a_market_order_trades_and_its_fee_is_taken_from_what_it_bought(desk: LiveDesk) -> None:
    order = desk.order("buy", "0.5")
    assert desk.state(order) == "FILLED"
    (fill,) = desk.node.orders.fills_of(order.order_id)
    assert (fill.price, fill.fee, fill.fee_currency, fill.maker) == (Decimal(60_060), Decimal("0.0005"), "BTC", False)
    assert desk.total("BTC") == desk.held("BTC") == Decimal("100.4995")
    assert desk.one(order).time_in_force == "IOC" and desk.one(order).type == "LIMIT"  # the guard is the venue's too
    done(desk)


def test_a_market_order_that_walks_the_book_has_a_fill_for_each_level(desk: LiveDesk) -> None:
    order = desk.order("buy", "2.5")
    prices = [f.price for f in desk.node.orders.fills_of(order.order_id)]
    assert prices == [60_060, 60_120, 60_180] and desk.state(order) == "FILLED"
    done(desk)


def test_a_limit_order_rests_and_fills_in_parts(desk: LiveDesk) -> None:
    order = desk.order("buy", "0.3", price=59_990)
    assert desk.state(order) == "LIVE"
    desk.deal(BTC, "SELL", 59_990, "0.1")
    desk.wait()
    assert desk.state(order) == "PART"
    assert desk.get(order).filled_lots * order.lot == Decimal("0.1")
    desk.deal(BTC, "SELL", 59_990, "0.2")
    desk.wait()
    assert desk.state(order) == "FILLED"
    assert [f.maker for f in desk.node.orders.fills_of(order.order_id)] == [True, True]
    done(desk)


def test_a_limit_order_that_crosses_trades_and_rests_with_the_rest(desk: LiveDesk) -> None:
    order = desk.order("sell", "1.5", price=59_940)
    assert desk.state(order) == "PART" and desk.one(order).open
    done(desk)


def test_a_post_only_order_that_would_take_is_rejected(desk: LiveDesk) -> None:
    order = desk.order("buy", price=60_060, post_only=True)
    assert (desk.state(order), desk.get(order).code) == ("REJECTED", "POST_ONLY_WOULD_TAKE")
    assert desk.theirs(order) == []
    order = desk.order("buy", price=60_000, post_only=True)
    assert desk.state(order) == "LIVE" and desk.one(order).type == "LIMIT_MAKER"
    done(desk)


@pytest.mark.parametrize(
    ("tif", "quantity", "state", "filled"),
    [("IOC", "1.5", "EXPIRED", 1), ("IOC", "0.5", "FILLED", "0.5"), ("FOK", "0.5", "FILLED", "0.5")],
)
def test_what_does_not_rest_ends_at_once(desk: LiveDesk, tif: str, quantity: str, state: str, filled: object) -> None:
    order = desk.order("buy", quantity, price=60_060, tif=tif)
    assert desk.state(order) == state
    assert desk.get(order).filled_lots * order.lot == Decimal(str(filled))
    done(desk)


def test_fill_or_kill_that_only_the_exchange_knows_to_be_unfillable_is_killed_there(desk: LiveDesk) -> None:
    desk.quote(BTC, "SELL", 60_060, "0.1", show=False)
    order = desk.order("buy", "0.5", price=60_060, tif="FOK")
    assert desk.state(order) == "EXPIRED" and desk.get(order).filled_lots == 0
    assert desk.one(order).status == "EXPIRED"
    done(desk)


def test_good_till_date_is_cancelled_at_its_time_and_expires(desk: LiveDesk) -> None:
    order = desk.order("buy", price=59_000, tif="GTD", expires_ns=desk.world.now_ns() + 5 * SECOND_NS)
    assert desk.one(order).time_in_force == "GTC"
    desk.wait(6_000)
    assert desk.state(order) == "EXPIRED" and desk.one(order).status == "CANCELED"
    done(desk)


def test_hmac_keys_trade_too(tmp_path: Path) -> None:
    desk = LiveDesk(tmp_path, signer=hmac)
    order = desk.order("buy", price=59_000)
    desk.amend(order, quantity="0.005")
    desk.cancel(order)
    assert desk.state(order) == "CANCELLED"
    done(desk)


def test_orders_that_would_trade_with_each_other_end_as_the_exchange_says(desk: LiveDesk) -> None:
    resting = desk.order("buy", "0.1", price=60_000)
    taking = desk.order("sell", "0.1", price=60_000)
    assert (desk.state(resting), desk.state(taking)) == ("EXPIRED", "LIVE")
    assert "self-trade" in (desk.get(resting).reason or "")
    done(desk)


def test_what_the_exchange_refuses_is_rejected_with_its_reason(desk: LiveDesk) -> None:
    desk.deposit("USDT", -900_000)  # and the node has not heard of it
    desk.cut()
    desk.until(lambda: not desk.node.engine.unavailable("binance"), "it is back")
    answer = desk.submit("buy", "10", price=59_000)
    assert refused(answer) == "INSUFFICIENT_BALANCE"  # the ledger knows by now
    assert desk.total("USDT") == 100_000
    done(desk)


# --- amend


def test_less_is_amended_in_place(desk: LiveDesk) -> None:
    order = desk.order("buy", "0.3", price=59_990)
    desk.deal(BTC, "SELL", 59_990, "0.1")
    answer = desk.amend(order, quantity="0.2")
    assert answer.order_id == order.order_id
    there = desk.one(order)
    assert (there.quantity, there.amend_count, there.status) == (20_000_000, 1, "PARTIALLY_FILLED")
    assert desk.locked("USDT") < 6_100
    desk.deal(BTC, "SELL", 59_990, "0.1")
    desk.wait()
    assert desk.state(order) == "FILLED"
    done(desk)


@pytest.mark.parametrize("change", [{"quantity": "0.5"}, {"price": 59_500}, {"quantity": "0.2", "price": 59_500}])
def test_what_is_not_in_place_is_a_cancel_and_a_new_attempt(desk: LiveDesk, change: dict[str, Any]) -> None:
    order = desk.order("buy", "0.3", price=59_990)
    desk.deal(BTC, "SELL", 59_990, "0.1")
    desk.wait()
    answer = desk.amend(order, **change)
    assert not isinstance(answer, Refusal), answer
    first, second = desk.theirs(order)
    assert (first.status, second.status) == ("CANCELED", "NEW")
    wanted = Decimal(str(change.get("quantity", "0.3"))) - Decimal("0.1")
    assert Decimal(second.quantity) / 10**8 == wanted
    assert desk.state(order) == "PART" and desk.get(order).attempt == 2
    desk.move(BTC, 59_000)
    desk.wait()
    assert desk.state(order) == "FILLED"
    done(desk)


def test_an_amended_order_that_now_crosses_trades(desk: LiveDesk) -> None:
    order = desk.order("buy", "0.3", price=59_990)
    desk.amend(order, price=60_060)
    assert desk.state(order) == "FILLED"
    done(desk)


RACED: dict[str, dict[str, Any]] = {
    "amended down in place": {"quantity": "0.2"},
    "amended down to less than what traded": {"quantity": "0.05"},
    "at another price": {"price": 59_500},
    "amended up": {"quantity": "0.6"},
}


@pytest.mark.parametrize("part", ["0.1", "0.3"])
@pytest.mark.parametrize("case", RACED)
def test_an_amendment_that_a_fill_overtakes_ends_in_the_truth(desk: LiveDesk, case: str, part: str) -> None:
    order = desk.order("buy", "0.3", price=59_990)
    answer = desk.ask_amend(order, **RACED[case])
    desk.deal(BTC, "SELL", 59_990, part)
    desk.until(lambda: answer.values, "an answer")
    done(desk)
    assert desk.get(order).filled_lots * order.lot == Decimal(part)
    if part == "0.3" and case != "amended up":
        assert desk.state(order) == "FILLED"


# --- cancel


def test_a_cancel_that_a_fill_overtakes_leaves_the_order_filled(desk: LiveDesk) -> None:
    order = desk.order("buy", "0.3", price=59_990)
    answer = desk.ask_cancel(order)
    desk.deal(BTC, "SELL", 59_990, "0.3")
    desk.until(lambda: answer.values, "an answer")
    assert desk.state(order) == "FILLED"
    done(desk)


def test_a_cancel_of_a_part_filled_order_keeps_the_part(desk: LiveDesk) -> None:
    order = desk.order("sell", "0.3", price=60_010)
    answer = desk.ask_cancel(order)
    desk.deal(BTC, "BUY", 60_010, "0.1")
    desk.until(lambda: answer.values, "an answer")
    desk.wait()
    assert desk.state(order) == "CANCELLED" and desk.get(order).filled_lots * order.lot == Decimal("0.1")
    done(desk)


def test_a_cancel_right_behind_its_order_ends_it(desk: LiveDesk) -> None:
    order = desk.sent("buy", price=59_000)
    answer = desk.ask_cancel(order)
    desk.until(lambda: answer.values, "an answer")
    assert desk.state(order) == "CANCELLED"
    done(desk)


def test_a_cancel_while_there_is_no_connection_goes_out_when_there_is(desk: LiveDesk) -> None:
    order = desk.order("buy", price=59_000)
    desk.network.silent = True
    desk.cut()
    answer = desk.ask_cancel(order)
    desk.wait(5_000)
    assert desk.one(order).open and not answer.values
    desk.network.silent = False
    desk.until(lambda: answer.values, "an answer")
    assert desk.state(order) == "CANCELLED"
    done(desk)


# --- brackets


def bracket(desk: LiveDesk, quantity: str = "0.5", **more: Any) -> tuple[str, str, str]:
    entry = desk.order("buy", quantity, stop_loss=59_500, take_profit=60_600, **more)
    assert entry.stop_loss_id and entry.take_profit_id
    return entry.order_id, entry.stop_loss_id, entry.take_profit_id


def test_exits_cover_what_was_bought_less_the_fee_in_base(desk: LiveDesk) -> None:
    entry, stop, target = bracket(desk)
    assert desk.get(entry).protected == Decimal("0.4995")
    assert desk.get(stop).qty_lots * desk.get(stop).lot == Decimal("0.4995")
    desk.move(BTC, 60_800)
    desk.wait(2_000)
    assert (desk.state(target), desk.state(stop)) == ("FILLED", "CANCELLED")
    assert desk.total("BTC") == 100
    done(desk)


def test_an_exit_that_is_reached_while_there_is_no_connection_sells_when_there_is(desk: LiveDesk) -> None:
    _, stop, target = bracket(desk)
    desk.network.silent = True
    desk.cut()
    for price in (59_940, 59_880, 59_820):
        desk.quote(BTC, "BUY", price, 0)
    desk.quote(BTC, "BUY", 59_400, 3)
    desk.wait(8_000)
    assert desk.state(stop) == "SENT" and desk.theirs(desk.get(stop)) == []
    desk.network.silent = False
    desk.until(lambda: desk.state(stop) == "FILLED", "sold")
    assert desk.state(target) == "CANCELLED" and desk.total("BTC") == 100
    assert len(desk.theirs(desk.get(stop))) == 1
    done(desk)


@pytest.mark.parametrize(
    "fault", ["drop_after", "drop_before", "mute_after", "unknown1007_after", "unknown1007_before"]
)
def test_a_reached_exit_whose_order_was_lost_sells_once(desk: LiveDesk, fault: str) -> None:
    _, _, target = bracket(desk)
    desk.local.switch(f"{fault}:n=1,on=order.place; late_reports:ms=3000")
    desk.move(BTC, 60_800)
    desk.wait(40_000)
    assert desk.state(target) == "FILLED" and desk.total("BTC") == 100
    done(desk)


def test_an_exit_that_the_book_cannot_take_whole_goes_on_until_it_is_sold(desk: LiveDesk) -> None:
    entry, stop, _ = bracket(desk, "2")
    for price in (59_940, 59_880, 59_820):
        desk.quote(BTC, "BUY", price, 0)
    desk.quote(BTC, "BUY", 59_400, "0.7")
    desk.wait(2_500)
    assert desk.state(stop) == "PART" and desk.get(entry).protected == Decimal("1.298")
    desk.quote(BTC, "BUY", 59_300, 2)
    desk.wait(2_500)
    assert desk.state(stop) == "FILLED" and desk.get(entry).protected == 0
    done(desk)
