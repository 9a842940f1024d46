"""Binance's official SDK trades over REST on the local exchange: every answer is what its own strict models declare."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from binance_common.errors import ClientError
from binance_sdk_spot.rest_api import SpotRestAPI

from .exchange_clients import Venue, a_venue, agreeing, known, refused, rest_client

pytestmark = pytest.mark.exchanges

BUY = {"symbol": "BTCUSDT", "side": "BUY", "type": "LIMIT", "time_in_force": "GTC"}
SELL = BUY | {"side": "SELL"}
FAR = BUY | {"price": 50000.0, "quantity": 0.01}  # rests below every level of the book


@pytest.fixture
def venue() -> Iterator[Venue]:
    with a_venue() as venue, agreeing():
        yield venue


@pytest.fixture
def sdk(venue: Venue) -> Iterator[SpotRestAPI]:
    with rest_client(venue) as sdk:
        yield sdk


def only(sdk: SpotRestAPI, **order: Any) -> Any:
    return known(sdk.new_order(**order))


# --- what needs no key


def test_connectivity_and_the_clock(sdk: SpotRestAPI) -> None:
    assert sdk.ping().status == 200
    answer = sdk.time()
    assert answer.data().server_time > 1_700_000_000_000
    assert [(limit.rateLimitType, limit.interval, limit.intervalNum) for limit in answer.rate_limits] == [
        ("REQUEST_WEIGHT", "MINUTE", 1)
    ]


def test_a_client_may_close_after_each_answer(venue: Venue) -> None:
    with rest_client(venue, keep_alive=False) as sdk:
        for _ in range(3):
            assert sdk.ping().headers["Connection"] == "close"


def test_exchange_info_with_every_filter(sdk: SpotRestAPI) -> None:
    whole = known(sdk.exchange_info())
    assert {"BTCUSDT", "ETHUSDT"} <= {symbol.symbol for symbol in whole.symbols}
    assert {limit.rate_limit_type for limit in whole.rate_limits} >= {"REQUEST_WEIGHT", "ORDERS", "RAW_REQUESTS"}
    (bitcoin,) = known(sdk.exchange_info(symbol="BTCUSDT")).symbols
    assert (bitcoin.base_asset, bitcoin.quote_asset, bitcoin.status) == ("BTC", "USDT", "TRADING")
    kinds = {rule.actual_instance.filter_type for rule in bitcoin.filters}
    assert {
        "PRICE_FILTER",
        "LOT_SIZE",
        "MARKET_LOT_SIZE",
        "NOTIONAL",
        "PERCENT_PRICE_BY_SIDE",
        "TRAILING_DELTA",
    } <= kinds
    two = known(sdk.exchange_info(symbols=["ETHUSDT", "BTCUSDT"], show_permission_sets=False))
    assert {symbol.symbol for symbol in two.symbols} == {"BTCUSDT", "ETHUSDT"}
    assert known(sdk.exchange_info(permissions="SPOT")).symbols
    assert refused(sdk.exchange_info, symbol="NOSUCH") == (-1121, "Invalid symbol.")


def test_depth_is_the_book(venue: Venue, sdk: SpotRestAPI) -> None:
    book = known(sdk.depth(symbol="BTCUSDT", limit=2))
    assert book.bids == [["59990.00000000", "2.00000000"], ["59980.00000000", "3.00000000"]]
    assert book.asks == [["60010.00000000", "1.00000000"], ["60020.00000000", "2.00000000"]]
    venue.level("SELL", "60015", "0.5")
    later = known(sdk.depth(symbol="BTCUSDT"))
    assert later.asks[1] == ["60015.00000000", "0.50000000"]
    assert later.last_update_id > book.last_update_id


def test_trades_and_candles(venue: Venue, sdk: SpotRestAPI) -> None:
    venue.trade("BUY", "60010", "0.25")
    last = known(sdk.get_trades(symbol="BTCUSDT", limit=1))[-1]
    assert (last.price, last.qty, last.quote_qty, last.is_buyer_maker) == (
        "60010.00000000",
        "0.25000000",
        "15002.50000000",
        False,
    )
    assert [trade.id for trade in known(sdk.historical_trades(symbol="BTCUSDT", from_id=last.id))] == [last.id]
    aggregate = known(sdk.agg_trades(symbol="BTCUSDT"))[-1]
    assert (aggregate.p, aggregate.q, aggregate.l) == ("60010.00000000", "0.25000000", last.id)
    for candles in (sdk.klines, sdk.ui_klines):
        (candle,) = candles(symbol="BTCUSDT", interval="1d", limit=1).data()
        assert candle[4] == "60010.00000000"
        assert len(candle) == 12


def test_tickers(venue: Venue, sdk: SpotRestAPI) -> None:
    venue.trade("BUY", "60010", "0.25")
    assert known(sdk.avg_price(symbol="BTCUSDT")).mins == 5
    day = known(sdk.ticker24hr(symbol="BTCUSDT")).actual_instance
    assert (day.symbol, day.last_price, day.bid_price, day.ask_qty) == (
        "BTCUSDT",
        "60010.00000000",
        "59990.00000000",
        "0.75000000",
    )
    every = known(sdk.ticker24hr(symbols=["BTCUSDT", "ETHUSDT"], type="MINI")).actual_instance
    assert {ticker.symbol for ticker in every} == {"BTCUSDT", "ETHUSDT"}
    assert known(sdk.ticker_price(symbol="BTCUSDT")).actual_instance.price == "60010.00000000"
    assert len(known(sdk.ticker_price()).actual_instance) > 1
    top = known(sdk.ticker_book_ticker(symbol="BTCUSDT")).actual_instance
    assert (top.bid_price, top.bid_qty, top.ask_price) == ("59990.00000000", "2.00000000", "60010.00000000")
    assert known(sdk.ticker(symbol="BTCUSDT", window_size="1h")).actual_instance.last_price == "60010.00000000"
    assert known(sdk.ticker_trading_day(symbol="BTCUSDT")).actual_instance.last_price == "60010.00000000"


# --- orders


def test_a_limit_order_rests_is_found_and_is_cancelled(sdk: SpotRestAPI) -> None:
    answer = sdk.new_order(**FAR, new_client_order_id="mine-1", new_order_resp_type="FULL")
    counts = {(limit.rateLimitType, limit.interval): limit.count for limit in answer.rate_limits}
    assert counts == {("REQUEST_WEIGHT", "MINUTE"): 0, ("ORDERS", "SECOND"): 1, ("ORDERS", "DAY"): 1}
    placed = known(answer)
    assert (placed.status, placed.client_order_id, placed.orig_qty, placed.fills) == ("NEW", "mine-1", "0.01000000", [])
    found = known(sdk.get_order(symbol="BTCUSDT", orig_client_order_id="mine-1"))
    assert (found.order_id, found.status, found.is_working, found.price) == (
        placed.order_id,
        "NEW",
        True,
        "50000.00000000",
    )
    assert [order.order_id for order in known(sdk.get_open_orders(symbol="BTCUSDT"))] == [placed.order_id]
    gone = known(sdk.delete_order(symbol="BTCUSDT", order_id=placed.order_id, new_client_order_id="away-1"))
    assert (gone.status, gone.client_order_id, gone.orig_client_order_id) == ("CANCELED", "away-1", "mine-1")
    assert known(sdk.get_open_orders()) == []
    assert [order.status for order in known(sdk.all_orders(symbol="BTCUSDT"))] == ["CANCELED"]


def test_a_market_order_takes_the_book_and_pays_the_fee(sdk: SpotRestAPI) -> None:
    before = balances(sdk)
    filled = only(sdk, symbol="BTCUSDT", side="BUY", type="MARKET", quantity=1.5, new_order_resp_type="FULL")
    assert (filled.status, filled.executed_qty, filled.cummulative_quote_qty) == (
        "FILLED",
        "1.50000000",
        "90020.00000000",
    )
    assert [(fill.price, fill.qty, fill.commission, fill.commission_asset) for fill in filled.fills] == [
        ("60010.00000000", "1.00000000", "0.00100000", "BTC"),
        ("60020.00000000", "0.50000000", "0.00050000", "BTC"),
    ]
    after = balances(sdk)
    assert after["USDT"][0] - before["USDT"][0] == Decimal("-90020")
    assert after["BTC"][0] - before["BTC"][0] == Decimal("1.4985")
    trades = known(sdk.my_trades(symbol="BTCUSDT", order_id=filled.order_id))
    assert [(trade.id, trade.price, trade.is_buyer, trade.is_maker) for trade in trades] == [
        (fill.trade_id, fill.price, True, False) for fill in filled.fills
    ]


def test_a_market_order_by_quote_quantity(sdk: SpotRestAPI) -> None:
    filled = only(sdk, symbol="BTCUSDT", side="BUY", type="MARKET", quote_order_qty=30005.0, new_order_resp_type="FULL")
    assert (filled.status, filled.executed_qty, filled.orig_quote_order_qty) == (
        "FILLED",
        "0.50000000",
        "30005.00000000",
    )


@pytest.mark.parametrize(
    ("kind", "fields", "has"),
    [
        ("ACK", {"order_id", "client_order_id", "transact_time"}, False),
        ("RESULT", {"status", "executed_qty"}, True),
        ("FULL", {"status", "fills"}, True),
    ],
)
def test_how_much_an_order_answers(sdk: SpotRestAPI, kind: str, fields: set[str], has: bool) -> None:
    placed = only(sdk, **FAR, new_order_resp_type=kind)
    assert all(getattr(placed, name) is not None for name in fields)
    assert (placed.status is not None) is has
    assert (placed.fills is not None) is (kind == "FULL")


CONDITIONAL = {
    "stop-loss limit": {"type": "STOP_LOSS_LIMIT", "side": "SELL", "stop_price": 58000.0, "price": 57900.0},
    "take-profit limit": {"type": "TAKE_PROFIT_LIMIT", "side": "SELL", "stop_price": 62000.0, "price": 62000.0},
    "trailing stop": {"type": "STOP_LOSS_LIMIT", "side": "SELL", "trailing_delta": 200, "price": 57900.0},
    "stop with an iceberg": {
        "type": "STOP_LOSS_LIMIT",
        "side": "SELL",
        "stop_price": 58000.0,
        "price": 57900.0,
        "iceberg_qty": 0.002,
    },
}


@pytest.mark.parametrize("order", CONDITIONAL.values(), ids=CONDITIONAL)
def test_a_conditional_order_waits(sdk: SpotRestAPI, order: dict[str, Any]) -> None:
    placed = sdk.new_order(symbol="BTCUSDT", quantity=0.01, time_in_force="GTC", strategy_id=7, **order).data()
    found = known(sdk.get_order(symbol="BTCUSDT", order_id=placed.order_id))
    assert (found.status, found.is_working, found.type, found.strategy_id) == ("NEW", False, order["type"], 7)
    if "stop_price" in order:
        assert Decimal(found.stop_price) == Decimal(order["stop_price"])
    assert found.trailing_delta == order.get("trailing_delta")
    assert Decimal(found.iceberg_qty) == Decimal(str(order.get("iceberg_qty", 0)))


def test_a_stop_goes_live_when_the_market_trades_through_it(venue: Venue, sdk: SpotRestAPI) -> None:
    stop = CONDITIONAL["stop-loss limit"]
    placed = sdk.new_order(symbol="BTCUSDT", quantity=0.01, time_in_force="GTC", **stop).data()
    venue.level("BUY", "57950", "1")
    for price in ("59990", "59980", "59970"):
        venue.level("BUY", price, "0")
    venue.trade("SELL", "57950", "0.1")
    assert known(sdk.get_order(symbol="BTCUSDT", order_id=placed.order_id)).status == "FILLED"


def test_post_only_and_iceberg(sdk: SpotRestAPI) -> None:
    maker = {"symbol": "BTCUSDT", "side": "BUY", "type": "LIMIT_MAKER", "quantity": 0.01}
    assert only(sdk, **maker, price=59995.0, new_order_resp_type="RESULT").status == "NEW"
    assert refused(sdk.new_order, **maker, price=60010.0) == (
        -2010,
        "Order would immediately match and take.",
    )
    sdk.new_order(**BUY, price=59000.0, quantity=1.0, iceberg_qty=0.2)
    book = known(sdk.depth(symbol="BTCUSDT"))
    assert ["59000.00000000", "0.20000000"] in book.bids


@pytest.mark.parametrize(
    ("time_in_force", "quantity", "status", "executed"),
    [
        ("IOC", 1.5, "EXPIRED", "1.00000000"),
        ("FOK", 1.5, "EXPIRED", "0.00000000"),
        ("FOK", 0.5, "FILLED", "0.50000000"),
    ],
)
def test_immediate_orders(sdk: SpotRestAPI, time_in_force: str, quantity: float, status: str, executed: str) -> None:
    order = BUY | {"time_in_force": time_in_force, "price": 60010.0, "quantity": quantity}
    placed = sdk.new_order(**order, new_order_resp_type="FULL").data()
    assert (placed.status, placed.executed_qty) == (status, executed)
    found = known(sdk.get_order(symbol="BTCUSDT", order_id=placed.order_id))
    reasons = {"IOC": "UNFILLED_IOC_QUANTITY_EXPIRED", "FOK": "UNFILLED_FOK_ORDER_EXPIRED"}
    assert found.expiry_reason == (reasons[time_in_force] if status == "EXPIRED" else None)


def test_an_order_is_tested_without_being_placed(sdk: SpotRestAPI) -> None:
    known(sdk.order_test(**FAR))
    rates = sdk.order_test(**FAR, compute_commission_rates=True).data()
    assert Decimal(rates.standard_commission_for_order.taker) == Decimal("0.001")
    assert known(sdk.get_open_orders()) == []


def test_all_orders_of_a_symbol_are_cancelled_lists_too(sdk: SpotRestAPI) -> None:
    sdk.new_order(**FAR)
    place_oco(sdk)
    gone = sdk.delete_open_orders(symbol="BTCUSDT").data()
    assert len(gone) == 2
    assert known(sdk.get_open_orders(symbol="BTCUSDT")) == []
    assert known(sdk.open_order_list()) == []
    assert refused(sdk.delete_open_orders, symbol="BTCUSDT") == (-2011, "Unknown order sent.")


# --- changing orders


def replace(sdk: SpotRestAPI, order_id: int, mode: str, **changes: Any) -> Any:
    return sdk.order_cancel_replace(
        **FAR | changes, cancel_replace_mode=mode, cancel_order_id=order_id, new_order_resp_type="FULL"
    )


def test_cancel_and_replace(sdk: SpotRestAPI) -> None:
    first = only(sdk, **FAR)
    answer = known(replace(sdk, first.order_id, "STOP_ON_FAILURE", price=51000.0))
    assert (answer.cancel_result, answer.new_order_result) == ("SUCCESS", "SUCCESS")
    assert answer.cancel_response.order_id == first.order_id
    assert answer.new_order_response.price == "51000.00000000"
    assert [order.price for order in known(sdk.get_open_orders())] == ["51000.00000000"]


def test_replace_that_fails_whole(sdk: SpotRestAPI) -> None:
    assert refused(replace, sdk, 999_999, "STOP_ON_FAILURE") == (-2022, "Order cancel-replace failed.")
    assert known(sdk.get_open_orders()) == []


def test_replace_that_fails_in_part(sdk: SpotRestAPI) -> None:
    first = only(sdk, **FAR)
    half = refused(replace, sdk, first.order_id, "ALLOW_FAILURE", kind=ClientError, quantity=100.0)
    assert half[1] == "Order cancel-replace partially failed."
    assert known(sdk.get_order(symbol="BTCUSDT", order_id=first.order_id)).status == "CANCELED"
    half = refused(replace, sdk, first.order_id, "ALLOW_FAILURE", kind=ClientError)
    assert half[1] == "Order cancel-replace partially failed."
    assert len(known(sdk.get_open_orders())) == 1


def test_amend_keeps_the_place_in_the_queue(sdk: SpotRestAPI) -> None:
    first = only(sdk, **FAR, new_client_order_id="whole")
    answer = known(sdk.order_amend_keep_priority(symbol="BTCUSDT", order_id=first.order_id, new_qty=0.004))
    assert (answer.amended_order.order_id, answer.amended_order.qty) == (first.order_id, "0.00400000")
    assert answer.amended_order.orig_client_order_id == "whole"
    (change,) = known(sdk.order_amendments(symbol="BTCUSDT", order_id=first.order_id))
    assert (change.orig_qty, change.new_qty) == ("0.01000000", "0.00400000")
    code, _ = refused(sdk.order_amend_keep_priority, symbol="BTCUSDT", order_id=first.order_id, new_qty=0.5)
    assert code == -2038


# --- order lists


def place_oco(sdk: SpotRestAPI, **more: Any) -> Any:
    legs = {"above_type": "LIMIT_MAKER", "above_price": 65000.0, "below_type": "STOP_LOSS_LIMIT"}
    stop = {"below_stop_price": 55000.0, "below_price": 54900.0, "below_time_in_force": "GTC"}
    return sdk.order_list_oco(symbol="BTCUSDT", side="SELL", quantity=0.01, **legs, **stop, **more).data()


def test_one_cancels_the_other(venue: Venue, sdk: SpotRestAPI) -> None:
    placed = place_oco(sdk, list_client_order_id="pair", above_client_order_id="up", below_client_order_id="down")
    assert (placed.contingency_type, placed.list_order_status) == ("OCO", "EXECUTING")
    assert {order.client_order_id for order in placed.orders} == {"up", "down"}
    assert len(placed.order_reports) == 2
    found = known(sdk.get_order_list(orig_client_order_id="pair"))
    assert found.order_list_id == placed.order_list_id
    assert [entry.order_list_id for entry in known(sdk.open_order_list())] == [placed.order_list_id]
    for price in ("60010", "60020", "60030"):
        venue.level("SELL", price, "0")
    venue.trade("BUY", "65000", "0.01")
    ends = {order.client_order_id: order.status for order in known(sdk.all_orders(symbol="BTCUSDT"))}
    assert ends == {"up": "FILLED", "down": "EXPIRED"}
    assert known(sdk.all_order_list())[0].list_order_status == "ALL_DONE"


def test_one_triggers_the_other(sdk: SpotRestAPI) -> None:
    working = {"working_type": "LIMIT", "working_side": "BUY", "working_time_in_force": "GTC", "working_quantity": 0.01}
    pending = {
        "pending_type": "LIMIT_MAKER",
        "pending_side": "SELL",
        "pending_quantity": 0.009,
        "pending_price": 64000.0,
    }
    placed = sdk.order_list_oto(symbol="BTCUSDT", working_price=50000.0, **working, **pending).data()
    assert sorted(order.status for order in known(sdk.get_open_orders())) == ["NEW", "PENDING_NEW"]
    gone = sdk.delete_order_list(symbol="BTCUSDT", order_list_id=placed.order_list_id).data()
    assert gone.list_order_status == "ALL_DONE"
    assert known(sdk.get_open_orders()) == []


def test_a_bracket_goes_live_when_its_entry_fills(sdk: SpotRestAPI) -> None:
    entry = {"working_type": "LIMIT", "working_side": "BUY", "working_time_in_force": "GTC", "working_quantity": 0.1}
    above = {"pending_above_type": "LIMIT_MAKER", "pending_above_price": 65000.0}
    below = {
        "pending_below_type": "STOP_LOSS_LIMIT",
        "pending_below_stop_price": 55000.0,
        "pending_below_price": 54900.0,
    }
    placed = sdk.order_list_otoco(
        symbol="BTCUSDT",
        working_price=60010.0,
        pending_side="SELL",
        pending_quantity=0.09,
        pending_below_time_in_force="GTC",
        **entry,
        **above,
        **below,
    ).data()
    assert len(placed.orders) == 3
    by_id = {order.order_id: order for order in known(sdk.all_orders(symbol="BTCUSDT"))}
    assert sorted(by_id[order.order_id].status for order in placed.orders) == ["FILLED", "NEW", "NEW"]


def test_the_old_way_to_place_a_pair(sdk: SpotRestAPI) -> None:
    placed = sdk.order_oco(
        symbol="BTCUSDT",
        side="SELL",
        quantity=0.01,
        price=65000.0,
        stop_price=55000.0,
        stop_limit_price=54900.0,
        stop_limit_time_in_force="GTC",
    ).data()
    assert (placed.contingency_type, len(placed.orders)) == ("OCO", 2)


# --- the account


def balances(sdk: SpotRestAPI) -> dict[str, tuple[Decimal, Decimal]]:
    account = known(sdk.get_account(omit_zero_balances=True))
    return {entry.asset: (Decimal(entry.free), Decimal(entry.locked)) for entry in account.balances}


def test_the_account_locks_what_an_order_needs(sdk: SpotRestAPI) -> None:
    account = known(sdk.get_account())
    assert (account.can_trade, account.account_type) == (True, "SPOT")
    before = balances(sdk)
    sdk.new_order(**FAR)
    free, locked = balances(sdk)["USDT"]
    assert (before["USDT"][0] - free, locked) == (Decimal(500), Decimal(500))


def test_commission_limits_and_filters(sdk: SpotRestAPI) -> None:
    commission = known(sdk.account_commission(symbol="BTCUSDT"))
    assert Decimal(commission.standard_commission.maker) == Decimal("0.001")
    sdk.new_order(**FAR)
    limits = known(sdk.rate_limit_order())
    assert {(limit.interval, limit.interval_num, limit.count) for limit in limits} == {("SECOND", 10, 1), ("DAY", 1, 1)}
    known(sdk.my_filters(symbol="BTCUSDT"))
    assert known(sdk.my_allocations(symbol="BTCUSDT")) == []


def test_an_account_does_not_trade_with_itself(venue: Venue, sdk: SpotRestAPI) -> None:
    resting = only(sdk, **SELL, price=60005.0, quantity=0.01)
    taker = BUY | {"price": 60005.0, "quantity": 0.01, "self_trade_prevention_mode": "EXPIRE_TAKER"}
    assert sdk.new_order(**taker, new_order_resp_type="RESULT").data().status == "EXPIRED_IN_MATCH"
    assert known(sdk.get_order(symbol="BTCUSDT", order_id=resting.order_id)).status == "NEW"
    (match,) = known(sdk.my_prevented_matches(symbol="BTCUSDT", order_id=resting.order_id))
    assert (match.maker_order_id, match.self_trade_prevention_mode) == (resting.order_id, "EXPIRE_TAKER")


def test_who_goes_on_from_where_a_page_ended(venue: Venue, sdk: SpotRestAPI) -> None:
    for _ in range(3):
        sdk.new_order(symbol="BTCUSDT", side="BUY", type="MARKET", quantity=0.1)
    orders = [order.order_id for order in known(sdk.all_orders(symbol="BTCUSDT"))]
    assert [order.order_id for order in known(sdk.all_orders(symbol="BTCUSDT", order_id=orders[1]))] == orders[1:]
    trades = [trade.id for trade in known(sdk.my_trades(symbol="BTCUSDT"))]
    assert [trade.id for trade in known(sdk.my_trades(symbol="BTCUSDT", from_id=trades[1], limit=1))] == trades[1:2]
    now = sdk.time().data().server_time
    assert len(known(sdk.my_trades(symbol="BTCUSDT", start_time=now - 60_000, end_time=now))) == 3
    assert known(sdk.my_trades(symbol="BTCUSDT", start_time=now + 60_000)) == []
    page = known(sdk.agg_trades(symbol="BTCUSDT", from_id=1, limit=2))
    assert [aggregate.a for aggregate in page] == [1, 2]
