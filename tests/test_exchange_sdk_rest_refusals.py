"""What the local exchange refuses, as Binance's SDK sees it over REST: keys, clocks, orders, limits, faults."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from binance_common.configuration import ConfigurationRestAPI
from binance_common.errors import (
    NotFoundError,
    RateLimitBanError,
    ServerError,
    TooManyRequestsError,
    UnauthorizedError,
)
from binance_common.utils import send_request
from binance_sdk_spot.rest_api import SpotRestAPI

from tbx.venues.simulator.binance.limits import Rates

from .exchange_clients import Venue, a_venue, agreeing, known, refused, rest_client, rsa_pair
from .exchange_process import ExchangeProcess

pytestmark = pytest.mark.exchanges

BUY = {"symbol": "BTCUSDT", "side": "BUY", "type": "LIMIT", "time_in_force": "GTC"}
FAR = BUY | {"price": 50000.0, "quantity": 0.01}  # rests below every level of the book


@pytest.fixture
def venue() -> Iterator[Venue]:
    with a_venue() as venue, agreeing():
        yield venue


@pytest.fixture
def sdk(venue: Venue) -> Iterator[SpotRestAPI]:
    with rest_client(venue) as sdk:
        yield sdk


# --- keys


def test_an_ed25519_key_signs_orders(venue: Venue) -> None:
    with rest_client(venue, api_key=venue.ed25519_key, private_key=venue.ed25519_pem) as sdk:
        assert known(sdk.new_order(**FAR, new_order_resp_type="RESULT")).status == "NEW"


def test_an_rsa_key_signs_orders(venue: Venue) -> None:
    private, public = rsa_pair()
    with rest_client(venue, api_key=venue.register_rsa(public), private_key=private) as sdk:
        assert known(sdk.new_order(**FAR, new_order_resp_type="RESULT")).status == "NEW"


def test_wrong_keys_are_refused(venue: Venue) -> None:
    unknown = {"api_key": "x" * 64, "api_secret": venue.hmac_secret}
    with rest_client(venue, **unknown) as sdk:
        text = "Invalid API-key, IP, or permissions for action."
        assert refused(sdk.get_account, kind=UnauthorizedError) == (-2015, text)
    with rest_client(venue, api_key="short", api_secret="x") as sdk:
        assert refused(sdk.get_account, kind=UnauthorizedError) == (-2014, "API-key format invalid.")
    with rest_client(venue, api_key=venue.hmac_key, api_secret="wrong") as sdk:
        assert refused(sdk.new_order, **FAR) == (-1022, "Signature for this request is not valid.")


def test_a_clock_that_is_off_is_refused(venue: Venue, sdk: SpotRestAPI) -> None:
    for ahead, text in (
        (+20_000, "Timestamp for this request is outside of the recvWindow."),
        (-20_000, "Timestamp for this request was 1000ms ahead of the server's time."),
    ):
        venue.skew(ahead)
        assert refused(sdk.get_account) == (-1021, text)
    venue.skew(+20_000)
    assert sdk.get_account(recv_window=60000).status == 200


# --- refusals

REFUSALS = {
    "unknown symbol": ({"symbol": "NOSUCH"}, -1121, "Invalid symbol."),
    "off the lot grid": ({"quantity": 0.0100001}, -1013, "Filter failure: LOT_SIZE"),
    "off the price grid": ({"price": 50000.001}, -1013, "Filter failure: PRICE_FILTER"),
    "too small": ({"quantity": "0.00001"}, -1013, "Filter failure: NOTIONAL"),
    "too far away": ({"price": 1.0, "quantity": 100.0}, -1013, "Filter failure: PERCENT_PRICE_BY_SIDE"),
    "not enough money": ({"quantity": 100.0}, -2010, "Account has insufficient balance for requested action."),
    "an iceberg of too many parts": ({"iceberg_qty": "0.00005"}, -1013, "Filter failure: ICEBERG_PARTS"),
    "a trail too short": (
        {"type": "STOP_LOSS_LIMIT", "side": "SELL", "trailing_delta": 1},
        -1013,
        "Filter failure: TRAILING_DELTA",
    ),
    "a stop that is past": (
        {"type": "STOP_LOSS_LIMIT", "side": "SELL", "stop_price": 61000.0},
        -2010,
        "Stop price would trigger immediately.",
    ),
    "no price": ({"price": None}, -1102, "Mandatory parameter 'price' was not sent, was empty/null, or malformed."),
    "a side nobody knows": ({"side": "HOLD"}, -1117, "Invalid side."),
    "a type nobody knows": ({"type": "PEGGED"}, -1116, "Invalid orderType."),
    "a time in force nobody knows": ({"time_in_force": "GTX"}, -1115, "Invalid timeInForce."),
    "too many digits": ({"price": "50000.000000001"}, -1111, "Parameter 'price' has too much precision."),
    "stop without a stop": ({"stop_price": 40000.0}, -1106, "Parameter 'stopPrice' sent when not required."),
    "scientific notation": (
        {"quantity": 1e-05},
        -1100,
        "Illegal characters found in parameter 'quantity'; legal range is '^([0-9]{1,20})(\\.[0-9]{1,20})?$'.",
    ),
}


@pytest.mark.parametrize(("changes", "code", "text"), REFUSALS.values(), ids=REFUSALS)
def test_what_an_order_is_refused_for(sdk: SpotRestAPI, changes: dict[str, Any], code: int, text: str) -> None:
    assert refused(sdk.new_order, **FAR | changes) == (code, text)
    assert known(sdk.get_open_orders()) == []


def test_a_client_id_is_taken_once_while_it_is_open(sdk: SpotRestAPI) -> None:
    sdk.new_order(**FAR, new_client_order_id="twice")
    assert refused(sdk.new_order, **FAR, new_client_order_id="twice") == (-2010, "Duplicate order sent.")
    sdk.delete_order(symbol="BTCUSDT", orig_client_order_id="twice")
    assert known(sdk.new_order(**FAR, new_client_order_id="twice", new_order_resp_type="RESULT")).status == "NEW"


def test_so_many_stops_and_no_more(sdk: SpotRestAPI) -> None:
    stop = FAR | {"type": "STOP_LOSS_LIMIT", "side": "SELL", "stop_price": 55000.0}
    for _ in range(5):
        sdk.new_order(**stop)
    assert refused(sdk.new_order, **stop) == (-1013, "Filter failure: MAX_NUM_ALGO_ORDERS")
    assert sdk.new_order(**FAR).status == 200


def test_a_cancel_for_untouched_orders_only(venue: Venue, sdk: SpotRestAPI) -> None:
    order = known(sdk.new_order(**BUY, price=60005.0, quantity=0.02, new_order_resp_type="RESULT"))
    venue.trade("SELL", "60005", "0.01")
    cancel = {"symbol": "BTCUSDT", "order_id": order.order_id}
    code, text = refused(sdk.delete_order, **cancel, cancel_restrictions="ONLY_NEW")
    assert (code, text) == (-2011, "Order was not canceled due to cancel restrictions.")
    assert sdk.delete_order(**cancel, cancel_restrictions="ONLY_PARTIALLY_FILLED").data().executed_qty == "0.01000000"


def test_orders_nobody_placed(sdk: SpotRestAPI) -> None:
    assert refused(sdk.get_order, symbol="BTCUSDT", order_id=4711) == (-2013, "Order does not exist.")
    assert refused(sdk.delete_order, symbol="BTCUSDT", order_id=4711) == (-2011, "Unknown order sent.")
    assert refused(sdk.get_order, symbol="BTCUSDT")[0] == -1102


def test_a_path_nobody_serves(sdk: SpotRestAPI) -> None:
    words = {"session": sdk._session, "configuration": sdk.configuration, "path": "/api/v3/nothing"}
    refused(send_request, kind=NotFoundError, method="GET", **words)


# --- limits and faults


def asked_on(call: Callable[[], object], most: int) -> None:
    """Ask so often that it must be refused, also when a new window of the limit begins in between."""
    for _ in range(most):
        call()


def test_too_much_weight_is_refused_and_going_on_is_banned() -> None:
    with a_venue(rates=Rates(weight=50)) as venue, rest_client(venue) as sdk:
        with pytest.raises(TooManyRequestsError) as caught:
            asked_on(sdk.exchange_info, 6)  # each weighs 20
        assert (caught.value.status_code, 1 <= caught.value.retry_after <= 60) == (-1003, True)

        def stubborn() -> None:
            with suppress(TooManyRequestsError):
                sdk.exchange_info()

        with pytest.raises(RateLimitBanError) as banned:
            asked_on(stubborn, 40)
        assert (banned.value.status_code, 110 <= banned.value.retry_after <= 120) == (-1003, True)


def test_too_many_orders_are_refused() -> None:
    with a_venue(rates=Rates(orders_10s=2)) as venue, rest_client(venue) as sdk:
        with pytest.raises(TooManyRequestsError) as caught:
            asked_on(lambda: sdk.new_order(**FAR), 5)
        assert (caught.value.status_code, 1 <= caught.value.retry_after <= 10) == (-1015, True)
        sdk.delete_open_orders(symbol="BTCUSDT")  # cancels are not counted


def test_a_ban_holds_for_everything(venue: Venue, sdk: SpotRestAPI) -> None:
    venue.fault("ban418:s=120")
    with pytest.raises(RateLimitBanError) as caught:
        sdk.ping()
    assert (caught.value.status_code, caught.value.retry_after) == (-1003, 120)


def test_microseconds_on_request(venue: Venue) -> None:
    with rest_client(venue, time_unit="MICROSECOND") as sdk:
        assert sdk.time().data().server_time > 1_700_000_000_000_000
        assert known(sdk.new_order(**FAR)).transact_time > 1_700_000_000_000_000


def test_a_failing_server_is_asked_again_for_reads_only(venue: Venue) -> None:
    with rest_client(venue, retries=2) as sdk:
        venue.fault("http5xx_before:n=1,on=any")
        assert sdk.get_account().status == 200
        venue.fault("http5xx_before:n=1,on=any")
        refused(sdk.new_order, kind=ServerError, **FAR)


# --- the process


def test_the_keys_that_the_command_prints_trade_at_its_simulated_market() -> None:
    with ExchangeProcess(market="simulated") as process:
        keys = process.accounts[1]["ed25519"]
        settings = {"api_key": keys["apiKey"], "private_key": keys["privateKeyPem"], "timeout": 5000}
        sdk = SpotRestAPI(ConfigurationRestAPI(**settings, base_path=process.url_rest))
        filled = known(
            sdk.new_order(symbol="BTCUSDT", side="SELL", type="MARKET", quantity=0.01, new_order_resp_type="FULL")
        )
        assert (filled.status, filled.fills[0].commission_asset) == ("FILLED", "USDT")
        sdk._session.close()
