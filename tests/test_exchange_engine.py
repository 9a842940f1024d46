"""The matching engine: orders, times in force, fees, locks, filters, cancels, amendments, self-trade prevention."""

from __future__ import annotations

import random

import pytest

from tbx.venues.simulator.exchange import CancelReplaceError, Exchange, ExchangeError
from tbx.venues.simulator.exchange.records import (
    EXPIRY_FOK,
    EXPIRY_IOC,
    EXPIRY_LIQUIDITY,
    BalanceMoved,
    BalancesChanged,
    Cancelled,
    Execution,
    PublicTrade,
)

from .exchange_engine import Pit, S, order, replace, symbol, text, to_units

INSUFFICIENT = "Account has insufficient balance for requested action."


# --- limit orders


def test_a_limit_order_rests_locks_its_funds_and_shows_in_the_depth() -> None:
    pit = Pit()
    placed = pit.limit("ann", "BUY", "2", "60000")
    assert (placed.status, placed.is_working, placed.working_ms) == ("NEW", True, pit.now)
    assert (pit.free("ann", "USDT"), pit.locked("ann", "USDT")) == ("9880000", "120000")
    assert pit.depth() == ([("60000", "2")], [])


def test_new_comes_first_then_trades_then_balances() -> None:
    pit = Pit()
    maker = pit.limit("ann", "SELL", "1", "60000")
    pit.now += 5
    taker = pit.limit("bob", "BUY", "3", "60001")
    assert pit.kinds("bob") == [f"NEW NEW {taker.order_id}", f"TRADE PARTIALLY_FILLED {taker.order_id}"]
    assert pit.kinds("ann") == [f"TRADE FILLED {maker.order_id}"]
    assert [type(event) for event in pit.events[-3:]] == [PublicTrade, BalancesChanged, BalancesChanged]
    assert pit.depth() == ([("60001", "2")], [])


def test_the_maker_sets_the_price_and_the_taker_gets_the_difference_back() -> None:
    pit = Pit()
    pit.limit("ann", "SELL", "1", "60000")
    taker = pit.limit("bob", "BUY", "1", "61000")
    assert (taker.status, text(taker.executed_quote)) == ("FILLED", "60000")
    assert (pit.free("bob", "USDT"), pit.locked("bob", "USDT")) == ("9940000", "0")


def test_commissions_are_taken_in_what_is_received() -> None:
    pit = Pit()
    pit.limit("ann", "SELL", "1", "60000")
    pit.limit("bob", "BUY", "1", "60000")
    assert pit.free("bob", "BTC") == "1000.999"
    assert pit.free("ann", "USDT") == "10059940"
    assert {asset: text(units) for asset, units in pit.ex.fees.items()} == {"BTC": "0.001", "USDT": "60"}


def test_better_prices_trade_first_and_at_a_price_the_first_that_came() -> None:
    pit = Pit()
    late, early = pit.limit("ann", "SELL", "1", "60001"), pit.limit("ann", "SELL", "1", "60000")
    second = pit.limit("ann", "SELL", "1", "60000")
    trades = pit.place("bob", "BUY", "LIMIT", "2.5", "60001").trades
    assert [trade.trade.seller_order_id for trade in trades] == [early.order_id, second.order_id, late.order_id]
    assert [text(trade.trade.qty) for trade in trades] == ["1", "1", "0.5"]


def test_a_limit_maker_never_takes() -> None:
    pit = Pit()
    pit.limit("ann", "SELL", "1", "60000")
    pit.refused(-2010, "Order would immediately match and take.", "bob", "BUY", "LIMIT_MAKER", "1", "60000")
    assert pit.place("bob", "BUY", "LIMIT_MAKER", "1", "59999.99").order.status == "NEW"


@pytest.mark.parametrize(
    ("tif", "qty", "status", "executed", "reason"),
    [
        ("IOC", "3", "EXPIRED", "2", EXPIRY_IOC),
        ("IOC", "2", "FILLED", "2", None),
        ("FOK", "3", "EXPIRED", "0", EXPIRY_FOK),
        ("FOK", "2", "FILLED", "2", None),
    ],
)
def test_ioc_takes_what_there_is_and_fok_takes_all_or_nothing(
    tif: str, qty: str, status: str, executed: str, reason: int | None
) -> None:
    pit = Pit()
    pit.limit("ann", "SELL", "1", "60000")
    pit.limit("ann", "SELL", "1", "60001")
    pit.limit("ann", "SELL", "1", "60002")
    taker = pit.limit("bob", "BUY", qty, "60001", tif=tif)
    assert (taker.status, text(taker.executed), taker.expiry_reason) == (status, executed, reason)
    assert pit.locked("bob", "USDT") == "0"


def test_ioc_and_fok_that_meet_nothing_expire_without_resting() -> None:
    pit = Pit()
    for tif in ("IOC", "FOK"):
        assert pit.limit("bob", "BUY", "1", "60000", tif=tif).status == "EXPIRED"
    assert pit.depth() == ([], [])


# --- market orders


def test_a_market_order_walks_the_book_and_what_is_left_expires() -> None:
    pit = Pit()
    pit.limit("ann", "SELL", "1", "60000")
    pit.limit("ann", "SELL", "1", "60010")
    placed = pit.place("bob", "BUY", "MARKET", "3").order
    assert (placed.status, text(placed.executed), placed.expiry_reason) == ("EXPIRED", "2", EXPIRY_LIQUIDITY)
    assert pit.kinds("bob")[-1] == f"EXPIRED EXPIRED {placed.order_id}"


def test_a_market_buy_needs_what_the_book_asks_and_not_more() -> None:
    pit = Pit()
    pit.ex.add_account("eve", {"USDT": to_units("60005")})
    pit.limit("ann", "SELL", "1", "60000")
    pit.limit("ann", "SELL", "1", "70000")
    pit.refused(-2010, INSUFFICIENT, "eve", "BUY", "MARKET", "1.001")
    assert pit.place("eve", "BUY", "MARKET", "1").order.status == "FILLED"
    assert pit.free("eve", "USDT") == "5"


def test_a_market_sell_has_to_be_owned_whole() -> None:
    pit = Pit()
    pit.ex.add_account("eve", {"BTC": to_units("1")})
    pit.limit("ann", "BUY", "1", "60000")
    pit.refused(-2010, INSUFFICIENT, "eve", "SELL", "MARKET", "1.5")
    assert pit.place("eve", "SELL", "MARKET", "1").order.status == "FILLED"


def test_a_quote_quantity_buys_as_many_steps_as_it_pays_for() -> None:
    pit = Pit()
    pit.limit("ann", "SELL", "0.1", "60000")
    pit.limit("ann", "SELL", "1", "60010")
    placed = pit.place("bob", "BUY", "MARKET", quote_order_qty="6100").order
    assert (placed.status, text(placed.executed), text(placed.quantity)) == ("FILLED", "0.10166", "0.10166")
    assert text(placed.executed_quote) == "6099.6166"
    assert text(placed.quote_order_qty) == "6100"


def test_a_quote_quantity_sells_for_about_that_much() -> None:
    pit = Pit()
    pit.limit("ann", "BUY", "1", "50000")
    placed = pit.place("bob", "SELL", "MARKET", quote_order_qty="123.45").order
    assert (placed.status, text(placed.executed_quote)) == ("FILLED", "123")


def test_a_quote_quantity_that_outlasts_the_book_expires() -> None:
    pit = Pit()
    pit.limit("ann", "SELL", "0.1", "60000")
    placed = pit.place("bob", "BUY", "MARKET", quote_order_qty="7000").order
    assert (placed.status, text(placed.executed)) == ("EXPIRED", "0.1")
    message = "Order book liquidity is less than symbol minimum quantity."
    pit.refused(-2010, message, "bob", "BUY", "MARKET", quote_order_qty="7000")


# --- icebergs


def test_an_iceberg_shows_a_part_and_refills_at_the_back() -> None:
    pit = Pit()
    iceberg = pit.limit("ann", "SELL", "5", "60000", iceberg_qty="2")
    plain = pit.limit("ann", "SELL", "1", "60000")
    assert pit.depth()[1] == [("60000", "3")]
    trades = pit.place("bob", "BUY", "LIMIT", "4", "60000").trades
    assert [(t.trade.seller_order_id, text(t.trade.qty)) for t in trades] == [
        (iceberg.order_id, "2"),
        (plain.order_id, "1"),
        (iceberg.order_id, "1"),
    ]
    assert pit.depth()[1] == [("60000", "1")]
    assert text(pit.place("bob", "BUY", "LIMIT", "2", "60000").order.executed) == "2"


def test_fill_or_kill_counts_what_icebergs_hide() -> None:
    pit = Pit()
    pit.limit("ann", "SELL", "5", "60000", iceberg_qty="1")
    assert pit.limit("bob", "BUY", "5", "60000", tif="FOK").status == "FILLED"


# --- refusals


@pytest.mark.parametrize(
    ("args", "more", "code", "msg"),
    [
        (("BUY", "LIMIT", "1", "60000.001"), {}, -1013, "Filter failure: PRICE_FILTER"),
        (("BUY", "LIMIT", "0.000001", "60000"), {}, -1013, "Filter failure: LOT_SIZE"),
        (("BUY", "LIMIT", "1.000005", "60000"), {}, -1013, "Filter failure: LOT_SIZE"),
        (("BUY", "MARKET", "101"), {}, -1013, "Filter failure: MARKET_LOT_SIZE"),
        (("BUY", "LIMIT", "0.00001", "60000"), {}, -1013, "Filter failure: NOTIONAL"),
        (("BUY", "LIMIT", "200", "60000"), {}, -1013, "Filter failure: NOTIONAL"),
        (("BUY", "MARKET", "0.00001"), {}, -1013, "Filter failure: NOTIONAL"),
        (("BUY", "LIMIT", "0.001", "300000.01"), {}, -1013, "Filter failure: PERCENT_PRICE_BY_SIDE"),
        (("SELL", "LIMIT", "0.001", "11999.99"), {}, -1013, "Filter failure: PERCENT_PRICE_BY_SIDE"),
        (("BUY", "LIMIT", "1", "60000"), {"iceberg_qty": "0.09"}, -1013, "Filter failure: ICEBERG_PARTS"),
        (("BUY", "LIMIT", "1", "60000"), {"iceberg_qty": "1.1"}, -2010, "IcebergQty exceeds QTY."),
        (("BUY", "LIMIT", "1", "60000"), {"iceberg_qty": "0.5", "tif": "IOC"}, -1014, "Unsupported order combination."),
        (("SELL", "STOP_LOSS", "1"), {"trailing_delta": 5}, -1013, "Filter failure: TRAILING_DELTA"),
        (("BUY", "LIMIT", "200", "50000"), {}, -1013, "Filter failure: NOTIONAL"),
        (("BUY", "LIMIT", "150", "60000"), {"stp_mode": "TRANSFER"}, -1013, "This symbol does not allow the specified"),
        (("SELL", "LIMIT", "1001", "5000"), {}, -1013, "Filter failure: PERCENT_PRICE_BY_SIDE"),
        (("BUY", "LIMIT", "1"), {}, -1102, "Mandatory parameter 'price' was not sent, was empty/null, or malformed."),
        (("BUY", "MARKET", "1", "60000"), {}, -1106, "Parameter 'price' sent when not required."),
        (
            ("BUY", "LIMIT_MAKER", "1", "60000"),
            {"tif": "GTC"},
            -1106,
            "Parameter 'timeInForce' sent when not required.",
        ),
        (("BUY", "LIMIT", "1", "6"), {"tif": "GTX"}, -1115, "Invalid timeInForce."),
        (("BUY", "PEGGED", "1", "6"), {}, -1116, "Invalid orderType."),
        (("HOLD", "LIMIT", "1", "6"), {}, -1117, "Invalid side."),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_filters_and_malformed_orders(args: tuple[str, ...], more: dict[str, object], code: int, msg: str) -> None:
    pit = Pit()
    pit.print_trade("60000")
    full = "This symbol does not allow the specified self-trade prevention mode."
    pit.refused(code, full if msg.startswith("This symbol") else msg, "ann", *args, **more)


def test_funds_that_are_not_there_are_refused() -> None:
    pit = Pit()
    pit.ex.deposit("ann", "USDT", -to_units("9999000"))
    pit.refused(-2010, INSUFFICIENT, "ann", "BUY", "LIMIT", "1", "60000")
    pit.limit("ann", "SELL", "600", "10000")
    pit.refused(-2010, INSUFFICIENT, "ann", "SELL", "LIMIT", "401", "10000")


def test_as_many_orders_as_allowed_and_not_one_more() -> None:
    pit = Pit(max_orders=3, max_algo_orders=1)
    pit.print_trade("60000")
    first = pit.limit("ann", "BUY", "1", "50000")
    pit.place("ann", "SELL", "STOP_LOSS", "1", stop_price="50000")
    more = {"stop_price": "50000"}
    pit.refused(-1013, "Filter failure: MAX_NUM_ALGO_ORDERS", "ann", "SELL", "STOP_LOSS", "1", **more)
    pit.limit("ann", "BUY", "1", "50000")
    pit.refused(-1013, "Filter failure: MAX_NUM_ORDERS", "ann", "BUY", "LIMIT", "1", "50000")
    pit.ex.cancel("ann", S, first.order_id)
    assert pit.limit("ann", "BUY", "1", "50000").status == "NEW"


def test_the_position_filter_counts_what_is_owned_and_what_is_being_bought() -> None:
    pit = Pit(max_position=to_units("1002"))
    pit.limit("ann", "BUY", "1", "50000")
    pit.refused(-1013, "Filter failure: MAX_POSITION", "ann", "BUY", "LIMIT", "1.5", "50000")
    assert pit.limit("ann", "BUY", "1", "50000").status == "NEW"


def test_a_client_id_is_unique_among_open_orders_only() -> None:
    pit = Pit()
    first = pit.limit("ann", "BUY", "1", "50000", client_order_id="mine")
    pit.refused(-2010, "Duplicate order sent.", "ann", "BUY", "LIMIT", "1", "50000", client_order_id="mine")
    assert pit.limit("bob", "BUY", "1", "50000", client_order_id="mine").status == "NEW"
    pit.ex.cancel("ann", S, client_id="mine")
    again = pit.limit("ann", "BUY", "1", "50000", client_order_id="mine")
    assert pit.ex.order("ann", S, client_id="mine").order_id == again.order_id != first.order_id
    assert pit.ex.order("ann", S, first.order_id).status == "CANCELED"


def test_a_symbol_that_does_not_trade_or_does_not_exist_takes_no_order() -> None:
    pit = Pit()
    mine = pit.limit("ann", "BUY", "1", "50000")
    pit.ex.set_status(S, "HALT")
    pit.refused(-1013, "Market is closed.", "ann", "BUY", "LIMIT", "1", "50000")
    assert isinstance(pit.ex.cancel("ann", S, mine.order_id), Cancelled)
    with pytest.raises(ExchangeError, match="-1121: Invalid symbol"):
        pit.ex.place("ann", replace(order("BUY", "MARKET", "1"), symbol="NOPE"))


def test_a_grid_whose_amounts_are_not_exact_is_not_listed() -> None:
    with pytest.raises(ValueError, match="tick 1 times step 1000"):
        Exchange([symbol(tick=1)], lambda: 0, random.Random(0), print)


# --- cancel, replace, amend


def test_a_cancel_frees_the_funds_and_names_both_ids() -> None:
    pit = Pit()
    mine = pit.limit("ann", "BUY", "2", "60000", client_order_id="mine")
    pit.limit("bob", "SELL", "0.5", "60000")
    pit.mark()
    done = pit.ex.cancel("ann", S, client_id="mine", new_client_id="stop it")
    assert isinstance(done, Cancelled)
    assert (done.order.status, done.order.client_order_id, done.cancel_client_id) == ("CANCELED", "mine", "stop it")
    event = pit.events[0]
    assert isinstance(event, Execution) and event.cancel_client_id == "stop it"
    assert pit.locked("ann", "USDT") == "0" and pit.depth() == ([], [])
    with pytest.raises(ExchangeError, match="-2011: Unknown order sent."):
        pit.ex.cancel("ann", S, mine.order_id)


@pytest.mark.parametrize(("restrictions", "filled", "works"), [("ONLY_NEW", False, True), ("ONLY_NEW", True, False)])
def test_a_cancel_may_ask_for_a_status(restrictions: str, filled: bool, works: bool) -> None:
    pit = Pit()
    mine = pit.limit("ann", "BUY", "2", "60000")
    if filled:
        pit.limit("bob", "SELL", "0.5", "60000")
    if works:
        pit.ex.cancel("ann", S, mine.order_id, restrictions=restrictions)
    else:
        with pytest.raises(ExchangeError, match="-2011: Order was not canceled due to cancel restrictions."):
            pit.ex.cancel("ann", S, mine.order_id, restrictions=restrictions)
    with pytest.raises(ExchangeError, match="-1145: Invalid cancelRestrictions"):
        pit.ex.cancel("ann", S, mine.order_id, restrictions="ONLY_ONE")


def test_an_id_and_a_client_id_must_agree() -> None:
    pit = Pit()
    mine = pit.limit("ann", "BUY", "1", "50000", client_order_id="mine")
    with pytest.raises(ExchangeError, match="-2011"):
        pit.ex.cancel("ann", S, mine.order_id, "other")
    with pytest.raises(ExchangeError, match="-2013: Order does not exist."):
        pit.ex.order("ann", S, mine.order_id, "other")
    assert pit.ex.order("ann", S, mine.order_id, "mine").status == "NEW"


def test_cancel_all_ends_everything_at_a_symbol() -> None:
    pit = Pit()
    pit.print_trade("60000")
    pit.limit("ann", "BUY", "1", "50000")
    pit.limit("bob", "BUY", "1", "50000")
    pit.oco("ann", order("SELL", "LIMIT_MAKER", "1", "70000"), order("SELL", "STOP_LOSS", "1", stop_price="50000"))
    assert len(pit.ex.cancel_all("ann", S)) == 2
    assert pit.ex.open_orders("ann") == [] and len(pit.ex.open_orders("bob")) == 1
    assert pit.locked("ann", "BTC") == pit.locked("ann", "USDT") == "0"
    with pytest.raises(ExchangeError, match="-2011"):
        pit.ex.cancel_all("ann", S)


def test_cancel_replace_uses_the_funds_that_the_cancel_frees() -> None:
    pit = Pit()
    pit.ex.add_account("eve", {"USDT": to_units("60000")})
    mine = pit.limit("eve", "BUY", "1", "60000")
    done = pit.ex.cancel_replace("eve", order("BUY", "LIMIT", "1.2", "50000"), "STOP_ON_FAILURE", mine.order_id)
    assert isinstance(done.cancelled, Cancelled) and done.placed.order.status == "NEW"
    assert pit.locked("eve", "USDT") == "60000"


@pytest.mark.parametrize(
    ("mode", "known", "qty", "code", "cancelled", "placed"),
    [
        ("STOP_ON_FAILURE", False, "1", -2022, False, None),
        ("ALLOW_FAILURE", False, "1", -2021, False, True),
        ("ALLOW_FAILURE", False, "900", -2022, False, False),
        ("STOP_ON_FAILURE", True, "900", -2021, True, False),
        ("ALLOW_FAILURE", True, "900", -2021, True, False),
    ],
)
def test_cancel_replace_says_which_half_failed(
    mode: str, known: bool, qty: str, code: int, cancelled: bool, placed: bool | None
) -> None:
    pit = Pit()
    mine = pit.limit("ann", "BUY", "1", "60000")
    new = order("BUY", "LIMIT", qty, "9900")
    pit.ex.deposit("ann", "USDT", -to_units("5000000"))
    pit.mark()
    with pytest.raises(CancelReplaceError) as caught:
        pit.ex.cancel_replace("ann", new, mode, mine.order_id if known else 99)
    error = caught.value
    assert error.code == code
    assert isinstance(error.cancelled, ExchangeError) is not cancelled
    assert (None if error.placed is None else not isinstance(error.placed, ExchangeError)) is placed
    if cancelled:
        assert pit.kinds() == ["CANCELED CANCELED 1", "REJECTED REJECTED 2"]
        rejected = pit.events[1]
        assert isinstance(rejected, Execution) and rejected.reject_reason == "INSUFFICIENT_BALANCES"


def test_a_filter_stops_cancel_replace_before_it_cancels() -> None:
    pit = Pit()
    mine = pit.limit("ann", "BUY", "1", "60000")
    with pytest.raises(ExchangeError, match="LOT_SIZE"):
        pit.ex.cancel_replace("ann", order("BUY", "LIMIT", "0.000001", "60000"), "STOP_ON_FAILURE", mine.order_id)
    assert pit.get("ann", mine.order_id).status == "NEW"


def test_an_amended_order_keeps_its_place() -> None:
    pit = Pit()
    mine = pit.limit("ann", "SELL", "5", "60000", client_order_id="mine")
    pit.limit("ann", "SELL", "5", "60000")
    pit.mark()
    done = pit.ex.amend("ann", S, to_units("2"), client_id="mine", new_client_id="mine")
    assert (text(done.order.quantity), done.order.client_order_id, done.list) == ("2", "mine", None)
    event = pit.events[0]
    assert isinstance(event, Execution) and (event.kind, event.amended_from) == ("REPLACED", "mine")
    assert pit.locked("ann", "BTC") == "7" and pit.depth()[1] == [("60000", "7")]
    assert pit.place("bob", "BUY", "LIMIT", "1", "60000").trades[0].trade.seller_order_id == mine.order_id
    change = pit.ex.amendments("ann", S, mine.order_id)[0]
    assert (text(change.old_quantity), text(change.new_quantity)) == ("5", "2")
    assert change.execution_id == done.execution_id


def test_an_amendment_gives_a_new_client_id_unless_told() -> None:
    pit = Pit()
    mine = pit.limit("ann", "SELL", "5", "60000", client_order_id="mine")
    renamed = pit.ex.amend("ann", S, to_units("4"), mine.order_id).order.client_order_id
    assert renamed != "mine" and pit.ex.order("ann", S, client_id=renamed).order_id == mine.order_id
    assert pit.limit("ann", "SELL", "1", "60000", client_order_id="mine").status == "NEW"


def test_an_iceberg_shows_less_only_when_less_than_a_part_is_left() -> None:
    pit = Pit()
    mine = pit.limit("ann", "SELL", "5", "60000", iceberg_qty="2")
    pit.ex.amend("ann", S, to_units("3"), mine.order_id)
    assert pit.depth()[1] == [("60000", "2")]
    pit.ex.amend("ann", S, to_units("1"), mine.order_id)
    assert pit.depth()[1] == [("60000", "1")]


@pytest.mark.parametrize(
    ("qty", "msg"),
    [
        ("6", "-2038: Order amend .quantity increase. is not supported."),
        ("5", "-2038: The requested action would change no state; rejecting."),
        ("1", "-2038: The order has executed"),
        ("2.000001", "-1013: Filter failure: LOT_SIZE"),
    ],
)
def test_an_amendment_only_reduces_to_more_than_was_executed(qty: str, msg: str) -> None:
    pit = Pit()
    mine = pit.limit("ann", "SELL", "5", "60000")
    pit.limit("bob", "BUY", "1", "60000")
    with pytest.raises(ExchangeError, match=msg):
        pit.ex.amend("ann", S, to_units(qty), mine.order_id)


def test_an_order_is_amended_only_so_often() -> None:
    pit = Pit(max_amends=2)
    mine = pit.limit("ann", "SELL", "5", "60000")
    for qty in ("4", "3"):
        pit.ex.amend("ann", S, to_units(qty), mine.order_id)
    with pytest.raises(ExchangeError, match="-2038: Filter failure: MAX_NUM_ORDER_AMENDS"):
        pit.ex.amend("ann", S, to_units("2"), mine.order_id)


# --- self-trade prevention


@pytest.mark.parametrize(
    ("mode", "taker", "maker", "depth"),
    [
        ("NONE", ("FILLED", "0"), ("PARTIALLY_FILLED", "0"), ([], [("60000", "2")])),
        ("EXPIRE_TAKER", ("EXPIRED_IN_MATCH", "1"), ("NEW", "0"), ([], [("60000", "3")])),
        ("EXPIRE_MAKER", ("NEW", "0"), ("EXPIRED_IN_MATCH", "3"), ([("60000", "1")], [])),
        ("EXPIRE_BOTH", ("EXPIRED_IN_MATCH", "1"), ("EXPIRED_IN_MATCH", "3"), ([], [])),
        ("DECREMENT", ("EXPIRED_IN_MATCH", "1"), ("NEW", "1"), ([], [("60000", "2")])),
    ],
)
def test_the_takers_mode_decides_what_a_self_trade_becomes(
    mode: str, taker: tuple[str, str], maker: tuple[str, str], depth: object
) -> None:
    pit = Pit()
    resting = pit.limit("ann", "SELL", "3", "60000")
    placed = pit.place("ann", "BUY", "LIMIT", "1", "60000", stp_mode=mode)
    rested = pit.get("ann", resting.order_id)
    assert (placed.order.status, text(placed.order.prevented_quantity)) == taker
    assert (rested.status, text(rested.prevented_quantity)) == maker
    assert pit.depth() == depth
    if mode == "NONE":
        return
    match = pit.ex.prevented_matches("ann", S)[0]
    assert placed.prevented == [match]
    assert (match.taker_order_id, match.maker_order_id) == (placed.order.order_id, resting.order_id)
    assert {event.kind for event in pit.events if isinstance(event, Execution)} == {"NEW", "TRADE_PREVENTION"}
    prevented = next(e for e in pit.events if isinstance(e, Execution) and e.kind == "TRADE_PREVENTION")
    assert (text(prevented.prevented_price), text(prevented.prevented_trade_qty)) == ("60000", "1")
    assert pit.ex.tape(S).trade_id == 0


def test_others_at_the_price_trade_while_ones_own_orders_step_aside() -> None:
    pit = Pit()
    pit.limit("ann", "SELL", "1", "60000")
    pit.limit("bob", "SELL", "1", "60000")
    placed = pit.limit("ann", "BUY", "1", "60000", stp_mode="EXPIRE_MAKER")
    assert placed.status == "FILLED"
    assert pit.locked("ann", "BTC") == "0"


def test_fill_or_kill_does_not_count_what_would_be_prevented() -> None:
    pit = Pit()
    pit.limit("bob", "SELL", "1", "60000")
    mine = pit.limit("ann", "SELL", "1", "60000")
    pit.limit("bob", "SELL", "1", "60000")
    for mode in ("EXPIRE_TAKER", "DECREMENT", "EXPIRE_BOTH"):
        assert pit.limit("ann", "BUY", "2", "60000", tif="FOK", stp_mode=mode).expiry_reason == EXPIRY_FOK
    assert pit.get("ann", mine.order_id).status == "NEW"
    assert pit.limit("ann", "BUY", "2", "60000", tif="FOK", stp_mode="EXPIRE_MAKER").status == "FILLED"


def test_an_order_of_which_some_was_prevented_and_the_rest_traded_has_expired_in_match() -> None:
    pit = Pit()
    pit.limit("ann", "SELL", "1", "60000")
    pit.limit("bob", "SELL", "1", "60000")
    placed = pit.limit("ann", "BUY", "2", "60000", stp_mode="DECREMENT")
    assert (placed.status, text(placed.executed), text(placed.prevented_quantity)) == ("EXPIRED_IN_MATCH", "1", "1")
    assert pit.locked("ann", "USDT") == pit.locked("ann", "BTC") == "0"


# --- questions


def test_orders_and_trades_are_found_by_id_and_by_time() -> None:
    pit = Pit()
    placed = []
    for i in range(5):
        pit.now += 1000
        placed.append(pit.limit("ann", "SELL", "1", str(60000 + i)))
    pit.place("bob", "BUY", "MARKET", "3")
    ids = [each.order_id for each in placed]
    all_orders = pit.ex.all_orders
    assert [each.order_id for each in all_orders("ann", S)] == ids
    assert [each.order_id for each in all_orders("ann", S, limit=2)] == ids[-2:]
    assert [each.order_id for each in all_orders("ann", S, from_id=ids[1], limit=2)] == ids[1:3]
    assert [each.order_id for each in all_orders("ann", S, start_ms=placed[3].created_ms)] == ids[3:]
    assert [each.trade.trade_id for each in pit.ex.trades("ann", S, limit=2)] == [2, 3]
    assert [each.trade.trade_id for each in pit.ex.trades("bob", S, from_id=2)] == [2, 3]
    assert [each.trade.trade_id for each in pit.ex.trades("ann", S, order_id=ids[0])] == [1]


def test_answers_are_copies() -> None:
    pit = Pit()
    mine = pit.limit("ann", "SELL", "1", "60000")
    mine.status = "FILLED"
    pit.ex.open_orders("ann")[0].quantity = 7
    assert pit.get("ann", mine.order_id).status == "NEW"
    assert text(pit.get("ann", mine.order_id).quantity) == "1"


def test_a_deposit_moves_a_balance_and_says_so() -> None:
    pit = Pit()
    pit.mark()
    pit.ex.deposit("ann", "BNB", to_units("3"))
    assert pit.events[0] == BalanceMoved("ann", "BNB", to_units("3"), pit.now)
    assert pit.free("ann", "BNB") == "3"
    with pytest.raises(ValueError, match="has 300000000 free of BNB, less than 400000000"):
        pit.ex.deposit("ann", "BNB", -to_units("4"))


def test_the_tape_knows_averages_and_the_last_day() -> None:
    pit = Pit()
    pit.print_trade("60000", "1")
    pit.now += 61_000
    pit.print_trade("61000", "3")
    tape = pit.ex.tape(S)
    assert text(tape.avg_price(5, pit.now)[0]) == "60750"
    assert text(tape.avg_price(1, pit.now)[0]) == "61000"
    stats = tape.stats(pit.now)
    assert [text(x) for x in (stats.open, stats.high, stats.low, stats.last, stats.volume)] == [
        "60000", "61000", "60000", "61000", "4",
    ]  # fmt: skip
    pit.print_trade("59000", "1")
    stats = tape.stats(pit.now)
    assert [text(x) for x in (stats.low, stats.last, stats.volume, stats.prev_close)] == [
        "59000",
        "59000",
        "5",
        "60000",
    ]
    alone = tape.stats(pit.now, minutes=1)
    assert [text(x) for x in (alone.open, alone.volume, alone.prev_close)] == ["61000", "4", "60000"]
    pit.now += 10 * 60_000
    assert text(tape.reference_price(pit.now)) == "59000"
    assert [text(bar.volume) for bar in tape.bars] == ["1", "4"]
