"""The matching engine: order lists."""

from __future__ import annotations

from typing import Any

import pytest

from tbx.venues.simulator.exchange import ExchangeError
from tbx.venues.simulator.exchange.records import (
    EXPIRY_OCO,
    EXPIRY_OTO,
    EXPIRY_REJECTED,
    ListReport,
    NewList,
    NewOrder,
)

from .exchange_engine import Pit, S, order, text, to_units


def pit_at(price: str = "60000", **filters: Any) -> Pit:
    pit = Pit(**filters)
    pit.print_trade(price)
    pit.mark()
    return pit


def sell_oco(qty: str = "1") -> tuple[NewOrder, NewOrder]:
    """Take 62000, or get out below 58000."""
    return (
        order("SELL", "LIMIT_MAKER", qty, "62000"),
        order("SELL", "STOP_LOSS_LIMIT", qty, "57000", stop_price="58000"),
    )


def buy_oco(qty: str = "1") -> tuple[NewOrder, NewOrder]:
    return (
        order("BUY", "STOP_LOSS_LIMIT", qty, "63000", stop_price="62000"),
        order("BUY", "LIMIT_MAKER", qty, "58000"),
    )


def ids(report: ListReport) -> list[int]:
    return [each.order_id for each in report.orders]


# --- OCO


def test_an_oco_locks_its_funds_once() -> None:
    pit = pit_at()
    report = pit.oco("ann", *sell_oco("3"))
    above, below = report.orders
    assert (above.is_working, below.is_working, above.order_list_id) == (True, False, report.list.list_id)
    assert pit.locked("ann", "BTC") == "3"
    assert pit.kinds() == [f"NEW NEW {above.order_id}", f"NEW NEW {below.order_id}"]
    assert pit.lists_said() == ["EXEC_STARTED"]
    pit.oco("bob", *buy_oco("2"))
    assert pit.locked("bob", "USDT") == "126000"  # the dearer of the two


def test_a_trade_of_one_order_even_in_part_expires_the_other() -> None:
    pit = pit_at()
    report = pit.oco("ann", *sell_oco("3"))
    above, below = ids(report)
    pit.limit("bob", "BUY", "1", "62000")
    assert pit.kinds("ann") == [f"EXPIRED EXPIRED {below}", f"TRADE PARTIALLY_FILLED {above}"]
    assert pit.get("ann", below).expiry_reason == EXPIRY_OCO
    assert pit.locked("ann", "BTC") == "2"
    assert pit.lists_said() == []
    pit.limit("bob", "BUY", "2", "62000")
    assert pit.lists_said() == ["ALL_DONE"]
    assert pit.ex.order_list("ann", report.list.list_id).order_status == "ALL_DONE"
    pit.print_trade("57500")
    assert pit.get("ann", below).executed == 0


def test_a_trigger_of_one_order_expires_the_other() -> None:
    pit = pit_at()
    above, below = ids(pit.oco("ann", *sell_oco("3")))
    pit.mark()
    pit.print_trade("58000")
    assert pit.kinds("ann") == [f"EXPIRED EXPIRED {above}", f"NEW NEW {below}"]
    assert pit.depth()[1] == [("57000", "3")]
    assert pit.locked("ann", "BTC") == "3"


def test_a_buy_oco_keeps_only_what_the_order_that_trades_needs() -> None:
    pit = pit_at()
    pit.oco("ann", *buy_oco("2"))
    pit.limit("bob", "SELL", "0.5", "58000")
    assert pit.locked("ann", "USDT") == "87000"  # 1.5 left at 58000


@pytest.mark.parametrize(
    ("above", "below"),
    [("TAKE_PROFIT", "STOP_LOSS"), ("TAKE_PROFIT_LIMIT", "STOP_LOSS_LIMIT"), ("TAKE_PROFIT", "STOP_LOSS_LIMIT")],
)
def test_both_orders_of_an_oco_may_wait_for_a_price(above: str, below: str) -> None:
    for side, first, second in (("SELL", above, below), ("BUY", below, above)):
        for price, hit in (("62000", 0), ("58000", 1)):
            pit = pit_at()
            prices = [
                None if not kind.endswith("LIMIT") else stop for kind, stop in ((first, "62000"), (second, "58000"))
            ]
            high = order(side, first, "1", prices[0], stop_price="62000")
            low = order(side, second, "1", prices[1], stop_price="58000")
            both = ids(pit.oco("ann", high, low))
            pit.house.set_level("BUY" if side == "SELL" else "SELL", to_units("60000"), to_units("9"))
            pit.house.set_level("BUY" if side == "SELL" else "SELL", to_units("60000"), 0)
            pit.print_trade(price)
            assert pit.get("ann", both[hit]).is_working, (side, price)
            assert pit.get("ann", both[1 - hit]).expiry_reason == EXPIRY_OCO


def test_cancelling_one_order_cancels_the_list() -> None:
    pit = pit_at()
    report = pit.oco("ann", *sell_oco(), client_list_id="pair")
    pit.mark()
    done = pit.ex.cancel("ann", S, report.orders[0].order_id)
    assert isinstance(done, ListReport)
    assert [each.status for each in done.orders] == ["CANCELED", "CANCELED"]
    assert done.list.status == "ALL_DONE" and pit.lists_said() == ["ALL_DONE"]
    assert pit.locked("ann", "BTC") == "0"
    with pytest.raises(ExchangeError, match="-2011: Unknown order list sent."):
        pit.ex.cancel_list("ann", S, client_list_id="pair")


def test_a_list_is_cancelled_by_its_id_or_client_id() -> None:
    pit = pit_at()
    pit.oco("ann", *sell_oco(), client_list_id="pair")
    with pytest.raises(ExchangeError, match="-2010: Duplicate order sent."):
        pit.oco("ann", *sell_oco(), client_list_id="pair")
    done = pit.ex.cancel_list("ann", S, client_list_id="pair", new_client_id="stop it")
    assert done.cancel_client_id == "stop it"
    again = pit.oco("ann", *sell_oco(), client_list_id="pair")
    assert pit.ex.order_list("ann", client_list_id="pair").list_id == again.list.list_id
    assert [each.list_id for each in pit.ex.open_lists("ann")] == [again.list.list_id]
    assert [each.list_id for each in pit.ex.all_lists("ann")] == [1, 2]


def test_amending_one_order_of_a_pair_amends_both() -> None:
    pit = pit_at()
    report = pit.oco("ann", *sell_oco("3"))
    above, below = ids(report)
    pit.mark()
    done = pit.ex.amend("ann", S, to_units("2"), below, new_client_id="smaller")
    assert done.list is not None and done.list.orders[1].client_order_id == "smaller"
    assert [text(pit.get("ann", each).quantity) for each in (above, below)] == ["2", "2"]
    assert pit.locked("ann", "BTC") == "2" and pit.depth()[1] == [("62000", "2")]
    assert pit.kinds() == [f"REPLACED NEW {above}", f"REPLACED NEW {below}"]
    assert pit.lists_said() == ["UPDATED"]


def test_a_pair_whose_maker_is_prevented_ends() -> None:
    pit = pit_at()
    above, below = ids(pit.oco("ann", *sell_oco("3")))
    taker = pit.limit("ann", "BUY", "1", "62000", stp_mode="EXPIRE_MAKER")
    assert (taker.status, pit.get("ann", above).status, pit.get("ann", below).status) == (
        "NEW",
        "EXPIRED_IN_MATCH",
        "EXPIRED",
    )
    assert pit.locked("ann", "BTC") == "0" and pit.ex.open_lists("ann") == []


@pytest.mark.parametrize(
    ("above", "below", "code"),
    [
        (order("SELL", "LIMIT", "1", "62000"), sell_oco()[1], -1158),
        (sell_oco()[0], order("SELL", "LIMIT_MAKER", "1", "57000"), -1168),
        (buy_oco()[1], buy_oco()[1], -1168),
        (order("BUY", "LIMIT_MAKER", "1", "59000"), order("BUY", "TAKE_PROFIT", "1", stop_price="58000"), -1165),
        (order("SELL", "TAKE_PROFIT", "1", stop_price="62000"), order("SELL", "LIMIT_MAKER", "1", "61000"), -1166),
        (buy_oco()[0], order("BUY", "STOP_LOSS", "1", stop_price="58000"), -1196),
        (order("SELL", "STOP_LOSS", "1", stop_price="62000"), sell_oco()[1], -1197),
        (order("BUY", "TAKE_PROFIT", "1", stop_price="62000"), buy_oco()[1], -1198),
        (sell_oco()[0], order("SELL", "TAKE_PROFIT", "1", stop_price="58000"), -1199),
        (order("SELL", "LIMIT_MAKER", "1", "59000"), sell_oco()[1], -2010),
        (sell_oco()[0], order("SELL", "STOP_LOSS", "1", stop_price="60500"), -2010),
        (order("SELL", "LIMIT_MAKER", "2", "62000"), sell_oco()[1], -1014),
    ],
    ids=str,
)
def test_pairs_that_make_no_sense_are_refused(above: NewOrder, below: NewOrder, code: int) -> None:
    pit = pit_at()
    before = pit.state()
    with pytest.raises(ExchangeError) as caught:
        pit.oco("ann", above, below)
    assert caught.value.code == code and pit.state() == before


def test_only_so_many_lists() -> None:
    pit = pit_at(max_order_lists=1)
    report = pit.oco("ann", *sell_oco())
    with pytest.raises(ExchangeError, match="MAX_NUM_ORDER_LISTS"):
        pit.oco("ann", *sell_oco())
    pit.ex.cancel_list("ann", S, report.list.list_id)
    pit.oco("ann", *sell_oco())


# --- OTO, OTOCO


def test_a_pending_order_goes_live_when_the_working_order_is_filled_whole() -> None:
    pit = pit_at()
    report = pit.oto("ann", order("BUY", "LIMIT", "2", "59000"), order("SELL", "LIMIT", "2", "61000"))
    working, pending = ids(report)
    assert [each.status for each in report.orders] == ["NEW", "PENDING_NEW"]
    assert pit.kinds() == [f"NEW NEW {working}", f"NEW PENDING_NEW {pending}"]
    assert (pit.locked("ann", "USDT"), pit.locked("ann", "BTC")) == ("118000", "0")
    pit.limit("bob", "SELL", "1", "59000")
    assert pit.get("ann", pending).status == "PENDING_NEW"
    pit.limit("bob", "SELL", "1", "59000")
    assert pit.kinds("ann") == [f"TRADE FILLED {working}", f"NEW NEW {pending}"]
    assert pit.locked("ann", "BTC") == "2" and pit.depth()[1] == [("61000", "2")]


def test_a_working_order_that_takes_at_once_starts_the_pending_one_in_the_same_call() -> None:
    pit = pit_at()
    pit.limit("bob", "SELL", "1", "60000")
    report = pit.oto("ann", order("BUY", "LIMIT", "1", "60000"), order("SELL", "MARKET", "0.5"))
    assert [each.status for each in report.orders] == ["FILLED", "EXPIRED"]  # nobody buys
    assert len(report.trades) == 1 and report.list.status == "ALL_DONE"
    assert pit.lists_said() == ["EXEC_STARTED", "ALL_DONE"]


def test_pending_orders_expire_when_the_working_order_ends_otherwise() -> None:
    pit = pit_at()
    report = pit.oto("ann", order("BUY", "LIMIT", "1", "59000", tif="IOC"), *sell_oco())
    assert [each.status for each in report.orders] == ["EXPIRED"] * 3
    assert report.orders[1].expiry_reason == EXPIRY_OTO
    assert pit.ex.open_lists("ann") == []


def test_cancelling_the_working_order_cancels_what_waits_for_it() -> None:
    pit = pit_at()
    report = pit.oto("ann", order("BUY", "LIMIT", "1", "59000"), order("SELL", "LIMIT", "1", "61000"))
    done = pit.ex.cancel("ann", S, report.orders[0].order_id)
    assert isinstance(done, ListReport) and [each.status for each in done.orders] == ["CANCELED", "CANCELED"]
    assert pit.locked("ann", "USDT") == "0"


def test_a_filled_working_order_starts_a_pair_that_locks_once() -> None:
    pit = pit_at()
    report = pit.oto("ann", order("BUY", "LIMIT", "2", "59000"), *sell_oco("2"))
    assert (report.list.contingency, len(report.list.orders)) == ("OTO", 3)
    working, above, below = ids(report)
    pit.limit("bob", "SELL", "2", "59000")
    assert pit.locked("ann", "BTC") == "2"
    pit.print_trade("58000")
    assert pit.get("ann", above).status == "EXPIRED" and pit.get("ann", below).is_working
    pit.limit("bob", "BUY", "2", "57000")
    assert pit.get("ann", below).status == "FILLED" and pit.get("ann", working).status == "FILLED"
    assert pit.ex.order_list("ann", report.list.list_id).status == "ALL_DONE"


def test_a_pair_that_cannot_be_placed_when_its_time_comes_expires() -> None:
    pit = pit_at()
    report = pit.oto("ann", order("BUY", "LIMIT", "1", "57500"), *sell_oco())
    pit.limit("bob", "SELL", "1", "57500")  # the stop price, 58000, is met already
    _, above, below = ids(report)
    for each in (above, below):
        assert (pit.get("ann", each).status, pit.get("ann", each).expiry_reason) == ("EXPIRED", EXPIRY_REJECTED)
    assert pit.locked("ann", "BTC") == "0" and pit.ex.open_lists("ann") == []


def test_a_pending_order_that_its_account_cannot_pay_expires() -> None:
    pit = pit_at()
    pit.ex.add_account("eve", {"USDT": to_units("59000")})
    report = pit.oto("eve", order("BUY", "LIMIT", "1", "59000"), order("BUY", "LIMIT", "1", "50000"))
    pit.limit("bob", "SELL", "1", "59000")
    assert pit.get("eve", ids(report)[1]).expiry_reason == EXPIRY_REJECTED


def test_the_pending_orders_of_a_list_are_amended_by_themselves() -> None:
    pit = pit_at()
    working, above, below = ids(pit.oto("ann", order("BUY", "LIMIT", "2", "59000"), *sell_oco("2")))
    pit.ex.amend("ann", S, to_units("1.5"), above)
    assert [text(pit.get("ann", each).quantity) for each in (working, above, below)] == ["2", "1.5", "1.5"]
    pit.limit("bob", "SELL", "2", "59000")
    assert pit.locked("ann", "BTC") == "1.5"


@pytest.mark.parametrize(
    ("kind", "working", "pending"),
    [
        ("OTO", order("BUY", "MARKET", "1"), (order("SELL", "LIMIT", "1", "61000"),)),
        ("OTO", order("BUY", "LIMIT", "1", "59000"), (order("SELL", "MARKET", quote_order_qty="100"),)),
        ("OTO", None, (order("SELL", "LIMIT", "1", "61000"),)),
        ("OCO", order("BUY", "LIMIT", "1", "59000"), sell_oco()),
        ("OTOCO", order("BUY", "LIMIT", "1", "59000"), sell_oco()[:1]),
    ],
)
def test_compositions_that_are_no_list_are_refused(
    kind: str, working: NewOrder | None, pending: tuple[NewOrder, ...]
) -> None:
    pit = pit_at()
    with pytest.raises(ExchangeError, match="-1014: Unsupported order combination."):
        pit.ex.place_list("ann", NewList(kind=kind, symbol=S, working=working, pending=pending))


def test_a_list_whose_second_order_is_refused_leaves_nothing_behind() -> None:
    pit = pit_at()
    pit.ex.deposit("ann", "BTC", -to_units("950"))
    before = pit.state()
    with pytest.raises(ExchangeError, match="LOT_SIZE"):
        pit.oto("ann", order("BUY", "LIMIT", "1", "59000"), order("SELL", "LIMIT", "0.000001", "61000"))
    both = {"client_order_id": "same"}
    with pytest.raises(ExchangeError, match="Duplicate order sent"):
        pit.oto("ann", order("BUY", "LIMIT", "1", "59000", **both), order("SELL", "LIMIT", "1", "61000", **both))
    with pytest.raises(ExchangeError, match="insufficient balance"):
        pit.oco("ann", *sell_oco("51"))
    assert pit.state() == before
