"""Binance's official SDK trades over the WebSocket API on the local exchange, logged on or signing, and hears of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import pytest
from binance_common.configuration import ConfigurationWebSocketAPI
from binance_common.constants import TimeUnit, WebsocketMode
from binance_common.websocket import WebSocketCommon
from binance_sdk_spot.websocket_api import SpotWebSocketAPI

from .exchange_clients import Heard, Venue, a_venue, agreeing, rsa_pair, within
from .redis_fixtures import in_loop

pytestmark = [
    pytest.mark.exchanges,
    pytest.mark.filterwarnings("ignore:parameter 'timeout' of type 'float' is deprecated:DeprecationWarning"),  # theirs
]

BUY = {"symbol": "BTCUSDT", "side": "BUY", "type": "LIMIT", "time_in_force": "GTC"}
SELL = BUY | {"side": "SELL"}
FAR = BUY | {"price": 50000.0, "quantity": 0.01}  # rests below every level of the book


@pytest.fixture
def venue() -> Iterator[Venue]:
    with a_venue() as venue, agreeing():
        yield venue


@asynccontextmanager
async def connected(venue: Venue, **settings: Any) -> AsyncIterator[SpotWebSocketAPI]:
    """A connection that is open; the HMAC key pair unless others are given."""
    keys = {"api_key": venue.hmac_key, "api_secret": venue.hmac_secret}
    keys = settings if "api_key" in settings else keys | settings
    api = SpotWebSocketAPI(ConfigurationWebSocketAPI(stream_url=venue.url_ws_api, **keys))
    await api.create_connection()
    try:
        yield api
    finally:
        await api.close_connection()


@asynccontextmanager
async def logged_on(venue: Venue, **settings: Any) -> AsyncIterator[SpotWebSocketAPI]:
    """A connection with a session of the Ed25519 key: no request is signed after its logon."""
    keys = {"api_key": venue.ed25519_key, "private_key": venue.ed25519_pem}
    async with connected(venue, **keys | settings) as api:
        answer = await within(api.session_logon())
        assert answer.data().result.api_key == venue.ed25519_key
        yield api


async def result(call: Any) -> Any:
    """The result of a request that went well, parsed."""
    data = (await within(call)).data()
    assert not isinstance(data, dict), data
    assert data.status == 200
    return data.result


async def refused(call: Any) -> tuple[int, str]:
    """Code and text of a request that did not."""
    data = (await within(call)).data()
    assert isinstance(data, dict), data
    return data["error"]["code"], data["error"]["msg"]


# --- sessions


@in_loop
async def test_a_session_logs_on_and_out(venue: Venue) -> None:
    async with logged_on(venue) as api:
        status = await result(api.session_status())
        assert (status.api_key, status.user_data_stream) == (venue.ed25519_key, False)
        await result(api.order_place(**FAR))
        gone = await result(api.session_logout())
        assert gone.api_key is None
        assert (await result(api.session_status())).api_key is None
        assert (await result(api.account_status())).can_trade is True  # signed again by itself


@in_loop
async def test_a_session_is_for_ed25519_keys_only(venue: Venue) -> None:
    async with connected(venue) as api:
        code, text = await refused(api.session_logon())
        assert (code, text) == (-4056, "HMAC_SHA256 API key is not supported.")


@in_loop
async def test_ed25519_and_rsa_keys_may_sign_each_request_instead(venue: Venue) -> None:
    private, public = rsa_pair()
    for api_key, pem in ((venue.ed25519_key, venue.ed25519_pem), (venue.register_rsa(public), private)):
        async with connected(venue, api_key=api_key, private_key=pem) as api:
            assert (await result(api.order_place(**FAR))).status == "NEW"


@in_loop
async def test_rate_limits_come_with_each_answer_unless_they_are_not_wanted(venue: Venue) -> None:
    async with logged_on(venue) as api:
        answer = await within(api.order_place(**FAR))
        counts = {(limit.rateLimitType, limit.interval): (limit.limit, limit.count) for limit in answer.rate_limits}
        assert counts["ORDERS", "SECOND"] == (100, 1)
        assert counts["ORDERS", "DAY"] == (200_000, 1)
        assert counts["REQUEST_WEIGHT", "MINUTE"][0] == 6000
    async with logged_on(venue, return_rate_limits=False) as api:
        assert (await within(api.time())).data().rate_limits is None


@in_loop
async def test_several_connections_take_turns(venue: Venue) -> None:
    async with connected(venue, mode=WebsocketMode.POOL, pool_size=3) as api:
        assert len(api.connections) == 3
        numbers = [(await result(api.order_place(**FAR))).order_id for _ in range(3)]
        assert sorted(order.order_id for order in await result(api.open_orders_status())) == numbers


@in_loop
async def test_microseconds_on_request(venue: Venue) -> None:
    async with logged_on(venue, time_unit=TimeUnit.MICROSECOND) as api, heard(api) as events:
        assert (await result(api.order_place(**FAR))).transact_time > 1_700_000_000_000_000
        assert (await events.until(report("NEW"))).T > 1_700_000_000_000_000


@in_loop
async def test_ids_are_returned_as_they_came(venue: Venue) -> None:
    async with connected(venue) as api:
        assert (await within(api.time(id="mine"))).data().id == "mine"
        (connection,) = api.connections
        # Below the SDK's requests, which have ids of text only.
        reply = await WebSocketCommon.send_message(api, {"id": 17, "method": "ping", "params": {}}, connection)
        assert (await within(reply))["id"] == 17


# --- what needs no key


@in_loop
async def test_market_data(venue: Venue) -> None:
    venue.trade("BUY", "60010", "0.25")
    async with connected(venue) as api:
        await result(api.ping())
        assert (await result(api.time())).server_time > 1_700_000_000_000
        book = await result(api.depth(symbol="BTCUSDT", limit=1))
        assert (book.bids, book.asks) == ([["59990.00000000", "2.00000000"]], [["60010.00000000", "0.75000000"]])
        (trade,) = await result(api.trades_recent(symbol="BTCUSDT", limit=1))
        assert (trade.price, trade.qty) == ("60010.00000000", "0.25000000")
        assert (await result(api.trades_historical(symbol="BTCUSDT", from_id=trade.id, limit=1)))[0].id == trade.id
        assert (await result(api.trades_aggregate(symbol="BTCUSDT")))[-1].q == "0.25000000"
        for candles in (api.klines, api.ui_klines):
            assert (await result(candles(symbol="BTCUSDT", interval="1d")))[-1][4] is not None
        assert (await result(api.avg_price(symbol="BTCUSDT"))).mins == 5


@in_loop
async def test_exchange_info_and_tickers(venue: Venue) -> None:
    venue.trade("BUY", "60010", "0.25")
    async with connected(venue) as api:
        two = await within(api.exchange_info(symbols=["BTCUSDT", "ETHUSDT"]))
        # The SDK's model is that of REST, without the envelope.
        listed = two.data().additional_properties["result"]["symbols"]
        assert {symbol["symbol"] for symbol in listed} == {"BTCUSDT", "ETHUSDT"}
        one = await within(api.ticker24hr(symbol="BTCUSDT"))
        assert one.data().actual_instance.result.last_price == "60010.00000000"
        price = await within(api.ticker_price(symbol="BTCUSDT"))
        assert price.data().actual_instance.result.price == "60010.00000000"
        tops = await within(api.ticker_book(symbols=["BTCUSDT", "ETHUSDT"]))
        assert {top.symbol for top in tops.data().actual_instance.result} == {"BTCUSDT", "ETHUSDT"}
        rolling = await within(api.ticker(symbol="BTCUSDT", window_size="1h"))
        assert rolling.data().actual_instance.result.last_price == "60010.00000000"


# --- orders, by either kind of connection

WAYS = {"logged on": logged_on, "each request signed by HMAC": connected}
either_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


@either_way
@in_loop
async def test_an_order_lives_and_ends(venue: Venue, way: Any) -> None:
    async with way(venue) as api:
        placed = await result(api.order_place(**FAR, new_client_order_id="mine", new_order_resp_type="FULL"))
        assert (placed.status, placed.client_order_id, placed.fills) == ("NEW", "mine", [])
        found = await result(api.order_status(symbol="BTCUSDT", orig_client_order_id="mine"))
        assert (found.order_id, found.is_working) == (placed.order_id, True)
        assert len(await result(api.open_orders_status(symbol="BTCUSDT"))) == 1
        gone = await result(api.order_cancel(symbol="BTCUSDT", order_id=placed.order_id))
        assert (gone.status, gone.orig_client_order_id) == ("CANCELED", "mine")
        assert [order.status for order in await result(api.all_orders(symbol="BTCUSDT"))] == ["CANCELED"]


@either_way
@in_loop
async def test_a_market_order_fills_at_the_books_prices(venue: Venue, way: Any) -> None:
    market = {"symbol": "BTCUSDT", "side": "BUY", "type": "MARKET", "new_order_resp_type": "FULL"}
    async with way(venue) as api:
        filled = await result(api.order_place(**market, quantity=1.5))
        assert (filled.status, filled.cummulative_quote_qty) == ("FILLED", "90020.00000000")
        assert [(fill.price, fill.commission) for fill in filled.fills] == [
            ("60010.00000000", "0.00100000"),
            ("60020.00000000", "0.00050000"),
        ]
        by_quote = await result(api.order_place(**market, quote_order_qty=6002.0))
        assert (by_quote.executed_qty, by_quote.orig_quote_order_qty) == ("0.10000000", "6002.00000000")
        trades = await result(api.my_trades(symbol="BTCUSDT", order_id=filled.order_id))
        assert [trade.price for trade in trades] == ["60010.00000000", "60020.00000000"]


CONDITIONAL = {
    "stop-loss limit": {"type": "STOP_LOSS_LIMIT", "stop_price": 58000.0, "price": 57900.0},
    "take-profit limit": {"type": "TAKE_PROFIT_LIMIT", "stop_price": 62000.0, "price": 62000.0},
    "trailing stop": {"type": "STOP_LOSS_LIMIT", "trailing_delta": 200, "price": 57900.0},
    "iceberg": {"type": "LIMIT", "price": 62000.0, "iceberg_qty": 0.002},
}


@pytest.mark.parametrize("order", CONDITIONAL.values(), ids=CONDITIONAL)
@in_loop
async def test_other_kinds_of_orders_are_taken(venue: Venue, order: dict[str, Any]) -> None:
    async with logged_on(venue) as api:
        placed = await result(api.order_place(**SELL | order, quantity=0.01, new_order_resp_type="RESULT"))
        found = await result(api.order_status(symbol="BTCUSDT", order_id=placed.order_id))
        assert (found.status, found.type, found.is_working) == ("NEW", order["type"], order["type"] == "LIMIT")


@in_loop
async def test_post_only_and_the_trial_run(venue: Venue) -> None:
    async with logged_on(venue) as api:
        maker = {"symbol": "BTCUSDT", "side": "BUY", "type": "LIMIT_MAKER", "quantity": 0.01}
        taking = api.order_place(**maker, price=60010.0)
        assert await refused(taking) == (-2010, "Order would immediately match and take.")
        await result(api.order_test(**maker, price=59000.0))
        rates = await result(api.order_test(**maker, price=59000.0, compute_commission_rates=True))
        assert Decimal(rates.standard_commission_for_order.maker) == Decimal("0.001")
        assert await result(api.open_orders_status()) == []


@either_way
@in_loop
async def test_cancel_and_replace(venue: Venue, way: Any) -> None:
    async with way(venue) as api:
        first = await result(api.order_place(**FAR))

        def replace(order_id: int, mode: str, **changes: Any) -> Any:
            return api.order_cancel_replace(**FAR | changes, cancel_replace_mode=mode, cancel_order_id=order_id)

        done = await result(replace(first.order_id, "STOP_ON_FAILURE", price=51000.0))
        assert (done.cancel_result, done.new_order_result) == ("SUCCESS", "SUCCESS")
        assert await refused(replace(999_999, "STOP_ON_FAILURE")) == (-2022, "Order cancel-replace failed.")
        second = done.new_order_response.order_id
        half = (await within(replace(second, "ALLOW_FAILURE", quantity=100.0))).data()["error"]
        assert (half["code"], half["msg"]) == (-2021, "Order cancel-replace partially failed.")
        assert (half["data"]["cancelResult"], half["data"]["newOrderResult"]) == ("SUCCESS", "FAILURE")
        assert half["data"]["newOrderResponse"]["code"] == -2010


@in_loop
async def test_amend_keeps_priority(venue: Venue) -> None:
    async with logged_on(venue) as api:
        first = await result(api.order_place(**FAR, new_client_order_id="whole"))
        smaller = {"symbol": "BTCUSDT", "order_id": first.order_id, "new_qty": 0.004, "new_client_order_id": "whole"}
        amended = (await result(api.order_amend_keep_priority(**smaller))).amended_order
        assert (amended.qty, amended.client_order_id) == ("0.00400000", "whole")
        (change,) = await result(api.order_amendments(symbol="BTCUSDT", order_id=first.order_id))
        assert change.new_qty == "0.00400000"


STOP = {"below_type": "STOP_LOSS_LIMIT", "below_stop_price": 55000.0, "below_price": 54900.0}
OCO = {"above_type": "LIMIT_MAKER", "above_price": 65000.0, **STOP, "below_time_in_force": "GTC"}


@in_loop
async def test_lists_are_placed_found_and_cancelled(venue: Venue) -> None:
    async with logged_on(venue) as api:
        pair = await result(api.order_list_place_oco(symbol="BTCUSDT", side="SELL", quantity=0.01, **OCO))
        assert (pair.contingency_type, len(pair.order_reports)) == ("OCO", 2)
        entry = {"working_type": "LIMIT", "working_side": "BUY", "working_quantity": 0.01, "working_price": 50000.0}
        entry |= {"working_time_in_force": "GTC", "pending_side": "SELL", "pending_quantity": 0.009}
        after = await result(
            api.order_list_place_oto(symbol="BTCUSDT", **entry, pending_type="LIMIT_MAKER", pending_price=64000.0)
        )
        bracket = await result(
            api.order_list_place_otoco(symbol="BTCUSDT", **entry, **{f"pending_{key}": OCO[key] for key in OCO})
        )
        assert [len(placed.orders) for placed in (after, bracket)] == [2, 3]
        assert len(await result(api.open_order_lists_status())) == 3
        found = await result(api.order_list_status(order_list_id=bracket.order_list_id))
        assert found.list_order_status == "EXECUTING"
        gone = await result(api.order_list_cancel(symbol="BTCUSDT", order_list_id=pair.order_list_id))
        assert gone.list_order_status == "ALL_DONE"
        await within(api.open_orders_cancel_all(symbol="BTCUSDT"))
        assert await result(api.open_orders_status()) == []
        assert {entry.list_order_status for entry in await result(api.all_order_lists())} == {"ALL_DONE"}


@in_loop
async def test_the_account(venue: Venue) -> None:
    async with logged_on(venue) as api:
        await result(api.order_place(**FAR))
        account = await result(api.account_status(omit_zero_balances=True))
        assert {entry.asset: entry.locked for entry in account.balances}["USDT"] == "500.00000000"
        commission = await result(api.account_commission(symbol="BTCUSDT"))
        assert Decimal(commission.standard_commission.taker) == Decimal("0.001")
        limits = await result(api.account_rate_limits_orders())
        assert {(limit.interval, limit.count) for limit in limits} == {("SECOND", 1), ("DAY", 1)}
        assert await result(api.my_prevented_matches(symbol="BTCUSDT", order_id=1)) == []
        assert await result(api.my_allocations(symbol="BTCUSDT")) == []


# --- refusals

REFUSALS = {
    "unknown symbol": ({"symbol": "NOSUCH"}, -1121, "Invalid symbol."),
    "off the lot grid": ({"quantity": 0.0100001}, -1013, "Filter failure: LOT_SIZE"),
    "off the price grid": ({"price": 50000.001}, -1013, "Filter failure: PRICE_FILTER"),
    "too small": ({"quantity": "0.00001"}, -1013, "Filter failure: NOTIONAL"),
    "not enough money": ({"quantity": 100.0}, -2010, "Account has insufficient balance for requested action."),
    "an iceberg of too many parts": ({"iceberg_qty": "0.00005"}, -1013, "Filter failure: ICEBERG_PARTS"),
    "no price": ({"price": None}, -1102, "Mandatory parameter 'price' was not sent, was empty/null, or malformed."),
    "a side nobody knows": ({"side": "HOLD"}, -1117, "Invalid side."),
}


@in_loop
async def test_what_an_order_is_refused_for(venue: Venue) -> None:
    async with logged_on(venue) as api:
        for changes, code, text in REFUSALS.values():
            assert await refused(api.order_place(**FAR | changes)) == (code, text)
        assert await refused(api.order_status(symbol="BTCUSDT", order_id=1)) == (-2013, "Order does not exist.")
        assert await refused(api.order_cancel(symbol="BTCUSDT", order_id=1)) == (-2011, "Unknown order sent.")
        await result(api.order_place(**FAR, new_client_order_id="twice"))
        twice = api.order_place(**FAR, new_client_order_id="twice")
        assert await refused(twice) == (-2010, "Duplicate order sent.")


@in_loop
async def test_wrong_keys_are_refused(venue: Venue) -> None:
    for keys, code in (
        ({"api_key": venue.hmac_key, "api_secret": "wrong"}, -1022),
        ({"api_key": "x" * 64, "api_secret": "wrong"}, -2015),
        ({"api_key": "short", "api_secret": "wrong"}, -2014),
    ):
        async with connected(venue, **keys) as api:
            assert (await refused(api.account_status()))[0] == code
    async with connected(venue, api_key=venue.hmac_key, private_key=venue.ed25519_pem) as api:
        assert (await refused(api.session_logon()))[0] in (-1022, -4056)


@in_loop
async def test_a_clock_that_is_off_is_refused(venue: Venue) -> None:
    venue.skew(-20_000)
    async with connected(venue) as api:
        assert (await refused(api.order_place(**FAR)))[0] == -1021
        venue.skew(+20_000)
        assert (await refused(api.order_place(**FAR)))[0] == -1021
        venue.skew(0)
        assert (await result(api.order_place(**FAR, new_order_resp_type="RESULT"))).status == "NEW"


@in_loop
async def test_limits_and_bans_say_until_when(venue: Venue) -> None:
    async with connected(venue) as api:
        for fault in ("limit429:s=30", "ban418:s=30"):
            venue.fault(fault)
            error = (await within(api.exchange_info())).data()["error"]
            assert error["code"] == -1003
            assert error["data"]["retryAfter"] > error["data"]["serverTime"]
    async with connected(venue) as banned:
        assert banned.connections == []  # refused at the door


@in_loop
async def test_an_answer_that_says_nothing_leaves_the_truth_to_a_query(venue: Venue) -> None:
    async with logged_on(venue) as api:
        for fault, taken in (("unknown1007_after", True), ("unknown1006_before", False), ("http5xx_after", True)):
            venue.fault(f"{fault}:n=1")
            code, _ = await refused(api.order_place(**FAR, new_client_order_id=fault))
            assert code in (-1000, -1006, -1007)
            found = (await within(api.order_status(symbol="BTCUSDT", orig_client_order_id=fault))).data()
            assert isinstance(found, dict) is not taken


# --- user data


@asynccontextmanager
async def heard(api: SpotWebSocketAPI, signed: bool = False) -> AsyncIterator[Heard]:
    """The account's events, as the SDK parses them."""
    heard = Heard()
    subscribe = api.user_data_stream_subscribe_signature if signed else api.user_data_stream_subscribe
    opened = await within(subscribe())
    opened.stream.on("message", lambda event: heard(event.actual_instance))
    yield heard
    number = opened.response.data().result.subscription_id
    await within(api.user_data_stream_unsubscribe(subscription_id=number))
    await heard.until(lambda event: type(event).__name__ == "EventStreamTerminated")


def report(kind: str, **fields: Any) -> Any:
    """Whether an event is an executionReport of that kind with these fields."""
    return lambda event: (
        getattr(event, "x", None) == kind and all(getattr(event, name) == value for name, value in fields.items())
    )


@pytest.mark.parametrize("signed", [False, True], ids=["in a session", "by signature"])
@in_loop
async def test_an_account_hears_of_its_orders(venue: Venue, signed: bool) -> None:
    async with (connected if signed else logged_on)(venue) as api, heard(api, signed) as events:
        rest = await result(api.order_place(**BUY, price=60005.0, quantity=0.02, new_client_order_id="rest"))
        new = await events.until(report("NEW"))
        assert (new.c, new.i, new.S, new.o, new.f, new.q, new.p, new.X, new.w, new.g) == (
            "rest",
            rest.order_id,
            "BUY",
            "LIMIT",
            "GTC",
            "0.02000000",
            "60005.00000000",
            "NEW",
            True,
            -1,
        )
        position = await events.until(lambda event: hasattr(event, "B") and isinstance(event.B, list))
        assert {entry.a: entry.l for entry in position.B}["USDT"] == "1200.10000000"
        venue.trade("SELL", "60005", "0.01")
        fill = await events.until(report("TRADE"))
        assert (fill.X, fill.l, fill.L, fill.z, fill.Z, fill.n, fill.N, fill.m) == (
            "PARTIALLY_FILLED",
            "0.01000000",
            "60005.00000000",
            "0.01000000",
            "600.05000000",
            "0.00001000",
            "BTC",
            True,
        )
        cancel = api.order_cancel(symbol="BTCUSDT", order_id=rest.order_id, new_client_order_id="away")
        await result(cancel)
        gone = await events.until(report("CANCELED"))
        assert (gone.c, gone.C, gone.X, gone.z) == ("away", "rest", "CANCELED", "0.01000000")


@pytest.mark.parametrize("fault", ["reorder_reports", "late_reports:ms=30"])
@in_loop
async def test_reports_may_come_before_the_reply_or_long_after(venue: Venue, fault: str) -> None:
    async with logged_on(venue) as api, heard(api) as events:
        venue.fault(fault)
        filled = await result(api.order_place(**BUY, price=60010.0, quantity=0.5, new_client_order_id="mine"))
        assert filled.status == "FILLED"
        if fault == "reorder_reports":
            assert not events.queue.empty()
        told = {(await events.until(lambda event: getattr(event, "c", None) == "mine")).x for _ in range(2)}
        assert told == {"NEW", "TRADE"}


@in_loop
async def test_reports_of_amends_expiries_and_lists(venue: Venue) -> None:
    async with logged_on(venue) as api, heard(api) as events:
        first = await result(api.order_place(**FAR))
        await result(api.order_amend_keep_priority(symbol="BTCUSDT", order_id=first.order_id, new_qty=0.004))
        amended = await events.until(report("REPLACED"))
        assert (amended.i, amended.q) == (first.order_id, "0.00400000")
        await result(api.order_place(**BUY | {"time_in_force": "FOK"}, price=60010.0, quantity=5.0))
        assert (await events.until(report("EXPIRED"))).eR == "UNFILLED_FOK_ORDER_EXPIRED"
        pair = await result(api.order_list_place_oco(symbol="BTCUSDT", side="SELL", quantity=0.01, **OCO))
        begun = await events.until(lambda event: hasattr(event, "O") and isinstance(event.O, list))
        assert (begun.c, begun.l, begun.L, len(begun.O)) == ("OCO", "EXEC_STARTED", "EXECUTING", 2)
        await result(api.order_list_cancel(symbol="BTCUSDT", order_list_id=pair.order_list_id))
        done = await events.until(lambda event: hasattr(event, "O") and isinstance(event.O, list))
        assert (done.l, done.L) == ("ALL_DONE", "ALL_DONE")


@in_loop
async def test_a_pair_of_which_one_fills_is_told_to_its_end(venue: Venue) -> None:
    async with logged_on(venue) as api, heard(api) as events:
        venue.level("SELL", "60010", "0")
        legs = OCO | {"above_price": 60012.0, "above_client_order_id": "up", "below_client_order_id": "down"}
        await result(api.order_list_place_oco(symbol="BTCUSDT", side="SELL", quantity=0.01, **legs))
        venue.trade("BUY", "60012", "0.01")
        told: dict[str, Any] = {}
        while "ALL_DONE" not in told:
            event = await events.until()
            told[getattr(event, "x", None) or getattr(event, "l", None) or ""] = event
        assert (told["TRADE"].c, told["TRADE"].X, told["TRADE"].m) == ("up", "FILLED", True)
        assert (told["EXPIRED"].c, told["EXPIRED"].eR) == ("down", "OCO_TRIGGER")
        assert told["ALL_DONE"].L == "ALL_DONE"


@in_loop
async def test_an_account_that_would_trade_with_itself_hears_of_the_prevention(venue: Venue) -> None:
    async with logged_on(venue) as api, heard(api) as events:
        await result(api.order_place(**SELL, price=60005.0, quantity=0.01, new_client_order_id="maker"))
        mode = {"self_trade_prevention_mode": "DECREMENT", "new_client_order_id": "taker"}
        await within(api.order_place(**BUY, price=60005.0, quantity=0.03, **mode))
        prevented = await events.until(report("TRADE_PREVENTION", c="taker"))
        assert (prevented.pl, prevented.pL, prevented.A) == ("0.01000000", "60005.00000000", "0.01000000")
        assert (prevented.X, prevented.U) != ("EXPIRED_IN_MATCH", None)


@in_loop
async def test_a_deposit_is_heard_of(venue: Venue) -> None:
    async with logged_on(venue) as api, heard(api) as events:
        venue.deposit("USDT", "12.5")
        moved = await events.until(lambda event: getattr(event, "d", None) is not None)
        assert (moved.a, moved.d) == ("USDT", "12.50000000")


@in_loop
async def test_an_account_hears_nothing_of_another(venue: Venue) -> None:
    other = {"api_key": venue.accounts[1].hmac_api_key, "api_secret": venue.accounts[1].hmac_secret_key}
    async with logged_on(venue) as api, heard(api) as events, connected(venue, **other) as stranger:
        await result(stranger.order_place(**FAR, new_client_order_id="theirs"))
        await result(api.order_place(**FAR, new_client_order_id="ours"))
        assert (await events.until(report("NEW"))).c == "ours"
        assert len(await result(api.session_subscriptions())) == 1
