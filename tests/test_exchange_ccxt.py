"""ccxt trades on the local exchange: the plain client, the asynchronous one, and ccxt.pro over its sockets."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import ccxt
import ccxt.async_support
import ccxt.pro
import pytest

from .exchange_clients import Venue, a_venue, rsa_pair, within
from .redis_fixtures import in_loop, until

pytestmark = pytest.mark.exchanges

PAIR = "BTC/USDT"


@pytest.fixture
def venue() -> Iterator[Venue]:
    with a_venue() as venue:
        yield venue


def settings(venue: Venue, **keys: Any) -> dict[str, Any]:
    """What makes any of ccxt's binance classes use the local exchange; the HMAC key pair unless others are given."""
    rest = venue.url_rest + "/api/v3"
    return {
        "apiKey": venue.hmac_key,
        "secret": venue.hmac_secret,
        "enableRateLimit": False,
        "timeout": 5000,
        "urls": {
            "api": {
                "public": rest,
                "private": rest,
                "v1": rest,
                "ws": {
                    "spot": venue.url_stream + "/ws",
                    "ws-api": {"spot": venue.url_ws_api},
                },
            }
        },
        "options": {"fetchMarkets": {"types": ["spot"]}, "fetchCurrencies": False, "fetchMargins": False},
    } | keys


@pytest.fixture
def client(venue: Venue) -> Iterator[Any]:
    exchange = ccxt.binance(settings(venue))
    yield exchange
    exchange.session.close()


@asynccontextmanager
async def opened(kind: Any, venue: Venue, **keys: Any) -> AsyncIterator[Any]:
    exchange = kind(settings(venue, **keys))
    try:
        yield exchange
    finally:
        await exchange.close()


# --- the plain client: market data


def test_markets_are_what_the_exchange_lists(client: Any) -> None:
    market = client.load_markets()[PAIR]
    assert (market["id"], market["active"], market["spot"]) == ("BTCUSDT", True, True)
    assert (market["precision"]["price"], market["precision"]["amount"]) == (0.01, 0.00001)
    assert market["limits"]["cost"]["min"] > 0
    assert client.fetch_time() > 1_700_000_000_000


def test_the_book_trades_candles_and_tickers(venue: Venue, client: Any) -> None:
    venue.trade("BUY", "60010", "0.25")
    book = client.fetch_order_book(PAIR, 5)
    assert (book["bids"][0], book["asks"][0]) == ([59990.0, 2.0], [60010.0, 0.75])
    trade = client.fetch_trades(PAIR)[-1]
    assert (trade["price"], trade["amount"], trade["side"]) == (60010.0, 0.25, "buy")
    assert client.fetch_trades(PAIR, params={"fetchTradesMethod": "publicGetTrades"})[-1]["price"] == 60010.0
    assert client.fetch_ohlcv(PAIR, "1d")[-1][4] == 60010.0
    ticker = client.fetch_ticker(PAIR)
    assert (ticker["last"], ticker["bid"], ticker["ask"], ticker["askVolume"]) == (60010.0, 59990.0, 60010.0, 0.75)
    assert {PAIR, "ETH/USDT"} <= set(client.fetch_tickers())
    assert set(client.fetch_tickers([PAIR, "ETH/USDT"])) == {PAIR, "ETH/USDT"}
    assert client.fetch_bids_asks([PAIR])[PAIR]["bidVolume"] == 2.0
    assert client.fetch_last_prices([PAIR])[PAIR]["price"] == 60010.0


# --- the plain client: orders


def test_a_limit_order_from_placing_to_cancelling(client: Any) -> None:
    order = client.create_order(PAIR, "limit", "buy", 0.01, 50000, {"clientOrderId": "mine"})
    assert (order["status"], order["clientOrderId"], order["remaining"]) == ("open", "mine", 0.01)
    assert client.fetch_order(order["id"], PAIR)["status"] == "open"
    assert [entry["id"] for entry in client.fetch_open_orders(PAIR)] == [order["id"]]
    assert client.fetch_balance()["USDT"]["used"] == 500.0
    assert client.cancel_order(order["id"], PAIR)["status"] == "canceled"
    assert client.fetch_open_orders(PAIR) == []
    assert [entry["status"] for entry in client.fetch_orders(PAIR)] == ["canceled"]
    assert client.fetch_balance()["USDT"]["used"] == 0.0


def test_market_orders_by_amount_and_by_cost(client: Any) -> None:
    before = client.fetch_balance()["BTC"]["free"]
    order = client.create_order(PAIR, "market", "buy", 1.5)
    assert (order["status"], order["filled"], order["cost"]) == ("closed", 1.5, 90020.0)
    assert [(fee["cost"], fee["currency"]) for fee in order["fees"]] == [(0.0015, "BTC")]
    by_cost = client.create_market_buy_order_with_cost(PAIR, 6002)
    assert (by_cost["filled"], by_cost["cost"]) == (0.1, 6002.0)
    assert client.fetch_balance()["BTC"]["free"] == pytest.approx(before + 1.6 * 0.999)
    trades = client.fetch_my_trades(PAIR)
    assert [(trade["price"], trade["takerOrMaker"]) for trade in trades[:2]] == [(60010.0, "taker"), (60020.0, "taker")]
    assert len(client.fetch_order_trades(order["id"], PAIR)) == 2
    assert [entry["id"] for entry in client.fetch_closed_orders(PAIR)] == [order["id"], by_cost["id"]]


KINDS = {
    "stop-loss limit": ("limit", {"stopLossPrice": 58000}, 57900, "STOP_LOSS_LIMIT"),
    "take-profit limit": ("limit", {"takeProfitPrice": 62000}, 62000, "TAKE_PROFIT_LIMIT"),
    "stop at the market": ("market", {"stopLossPrice": 58000}, None, "STOP_LOSS"),
    "trailing": ("limit", {"trailingPercent": 2, "stopLossOrTakeProfit": "stopLoss"}, 57900, "STOP_LOSS_LIMIT"),
    "post only": ("limit", {"postOnly": True}, 62000, "LIMIT_MAKER"),
    "iceberg": ("limit", {"icebergAmount": 0.002}, 62000, "LIMIT"),
}


@pytest.mark.parametrize(("kind", "params", "price", "at_binance"), KINDS.values(), ids=KINDS)
def test_other_kinds_of_orders(
    client: Any, kind: str, params: dict[str, Any], price: float | None, at_binance: str
) -> None:
    order = client.create_order(PAIR, kind, "sell", 0.01, price, params)
    found = client.fetch_order(order["id"], PAIR)
    assert (found["info"]["type"], found["status"]) == (at_binance, "open")
    client.cancel_all_orders(PAIR)
    assert client.fetch_open_orders(PAIR) == []


def test_an_order_is_edited_by_cancel_and_replace(client: Any) -> None:
    order = client.create_order(PAIR, "limit", "buy", 0.01, 50000)
    changed = client.edit_order(order["id"], PAIR, "limit", "buy", 0.02, 51000)
    assert (changed["price"], changed["amount"], changed["status"]) == (51000.0, 0.02, "open")
    assert client.fetch_order(order["id"], PAIR)["status"] == "canceled"
    with pytest.raises(ccxt.ExchangeError, match="Order cancel-replace failed"):
        client.edit_order("999999", PAIR, "limit", "buy", 0.02, 51000)


def test_a_trial_run_places_nothing(client: Any) -> None:
    client.create_order(PAIR, "limit", "buy", 0.01, 50000, {"test": True})
    assert client.fetch_open_orders(PAIR) == []


def test_lists_by_binances_own_names(client: Any) -> None:
    client.load_markets()
    stop = {"belowType": "STOP_LOSS_LIMIT", "belowStopPrice": "55000", "belowPrice": "54900", "belowTimeInForce": "GTC"}
    legs = {"aboveType": "LIMIT_MAKER", "abovePrice": "65000", **stop}
    pair = client.private_post_orderlist_oco({"symbol": "BTCUSDT", "side": "SELL", "quantity": "0.01", **legs})
    assert len(pair["orders"]) == 2
    entry = {"workingType": "LIMIT", "workingSide": "BUY", "workingTimeInForce": "GTC", "workingPrice": "50000"}
    entry |= {"symbol": "BTCUSDT", "workingQuantity": "0.01", "pendingSide": "SELL", "pendingQuantity": "0.009"}
    client.private_post_orderlist_oto({**entry, "pendingType": "LIMIT_MAKER", "pendingPrice": "64000"})
    client.private_post_orderlist_otoco(
        {**entry, **{"pending" + key[0].upper() + key[1:]: value for key, value in legs.items()}}
    )
    assert len(client.private_get_openorderlist()) == 3
    found = client.private_get_orderlist({"orderListId": pair["orderListId"]})
    assert found["listOrderStatus"] == "EXECUTING"
    client.private_delete_orderlist({"symbol": "BTCUSDT", "orderListId": pair["orderListId"]})
    client.cancel_all_orders(PAIR)
    assert {entry["listOrderStatus"] for entry in client.private_get_allorderlist()} == {"ALL_DONE"}


def test_commission_and_order_counts(client: Any) -> None:
    client.create_order(PAIR, "limit", "buy", 0.01, 50000)
    assert float(client.private_get_account_commission({"symbol": "BTCUSDT"})["standardCommission"]["taker"]) == 0.001
    assert {limit["count"] for limit in client.private_get_ratelimit_order()} == {1}


# --- the plain client: keys and refusals


def test_ed25519_and_rsa_keys(venue: Venue) -> None:
    pem, public = rsa_pair()
    pairs = ((venue.ed25519_key, venue.ed25519_pem), (venue.register_rsa(public), pem))
    for api_key, secret in pairs:
        exchange = ccxt.binance(settings(venue, apiKey=api_key, secret=secret))
        assert exchange.create_order(PAIR, "limit", "buy", 0.01, 50000)["status"] == "open"
        exchange.session.close()


REFUSALS = {
    "not enough money": (("limit", "buy", 100, 50000), {}, ccxt.InsufficientFunds),
    "would take": (("limit", "buy", 0.01, 60010), {"postOnly": True}, ccxt.OrderImmediatelyFillable),
    "too small": (("limit", "buy", 0.00001, 50000), {}, ccxt.BadRequest),
    "too far away": (("limit", "buy", 100, 1), {}, ccxt.InvalidOrder),
    "a time in force nobody knows": (("limit", "buy", 0.01, 50000), {"timeInForce": "NOW"}, ccxt.BadRequest),
}


@pytest.mark.parametrize(("order", "params", "error"), REFUSALS.values(), ids=REFUSALS)
def test_refusals_are_the_errors_ccxt_knows(client: Any, order: Any, params: dict[str, Any], error: Any) -> None:
    with pytest.raises(error):
        client.create_order(PAIR, *order, params)
    assert client.fetch_open_orders(PAIR) == []


def test_keys_clocks_and_orders_that_are_wrong(venue: Venue, client: Any) -> None:
    with pytest.raises(ccxt.OrderNotFound):
        client.fetch_order("4711", PAIR)
    with pytest.raises(ccxt.OrderNotFound):
        client.cancel_order("4711", PAIR)
    with pytest.raises(ccxt.BadSymbol):
        client.public_get_depth({"symbol": "NOSUCH"})
    client.secret = "wrong"
    with pytest.raises(ccxt.AuthenticationError):
        client.fetch_balance()
    client.secret, client.apiKey = venue.hmac_secret, "x" * 64
    with pytest.raises(ccxt.AuthenticationError):
        client.fetch_open_orders(PAIR)
    client.apiKey = venue.hmac_key
    venue.skew(-20_000)
    with pytest.raises(ccxt.InvalidNonce):
        client.fetch_balance()


def test_limits_and_bans(venue: Venue, client: Any) -> None:
    client.load_markets()
    venue.fault("limit429:s=30")
    with pytest.raises(ccxt.DDoSProtection, match="429"):
        client.fetch_tickers()
    venue.fault("ban418:s=120")
    with pytest.raises(ccxt.DDoSProtection, match="418"):
        client.fetch_time()


# --- the asynchronous client


@in_loop
async def test_the_asynchronous_client_trades_at_once(venue: Venue) -> None:
    async with opened(ccxt.async_support.binance, venue) as client:
        await client.load_markets()
        prices = [50000 + step for step in range(5)]
        orders = await within(
            asyncio.gather(*[client.create_order(PAIR, "limit", "buy", 0.01, price) for price in prices])
        )
        assert sorted(order["price"] for order in orders) == prices
        assert len(await client.fetch_open_orders(PAIR)) == 5
        assert len(await client.cancel_all_orders(PAIR)) == 5
        assert (await client.create_order(PAIR, "market", "sell", 0.5))["average"] == 59990.0
        with pytest.raises(ccxt.InsufficientFunds):
            await client.create_order(PAIR, "limit", "buy", 100, 50000)


# --- ccxt.pro: orders over the WebSocket API


@in_loop
async def test_orders_over_the_websocket_api(venue: Venue) -> None:
    async with opened(ccxt.pro.binance, venue) as client:
        await client.load_markets()
        order = await within(client.create_order_ws(PAIR, "limit", "buy", 0.01, 50000, {"newClientOrderId": "mine"}))
        assert (order["status"], order["clientOrderId"]) == ("open", "mine")
        assert (await within(client.fetch_order_ws(order["id"], PAIR)))["status"] == "open"
        assert len(await within(client.fetch_open_orders_ws(PAIR))) == 1
        changed = await within(client.edit_order_ws(order["id"], PAIR, "limit", "buy", 0.02, 51000))
        assert (changed["price"], changed["status"]) == (51000.0, "open")
        assert (await within(client.cancel_order_ws(changed["id"], PAIR)))["status"] == "canceled"
        await within(client.create_order_ws(PAIR, "market", "buy", 0.5))
        assert [trade["price"] for trade in await within(client.fetch_my_trades_ws(PAIR))] == [60010.0]
        assert (await within(client.fetch_trades_ws(PAIR)))[-1]["amount"] == 0.5
        assert [entry["status"] for entry in await within(client.fetch_orders_ws(PAIR))] == [
            "canceled",
            "canceled",
            "closed",
        ]
        account = (await within(client.fetch_balance_ws()))["info"]  # its parser of this one forgets spot accounts
        assert {entry["asset"]: entry["locked"] for entry in account["balances"]}["USDT"] == "0.00000000"
        assert len(await within(client.fetch_ohlcv_ws(PAIR, "1d"))) >= 1
        with pytest.raises(ccxt.InsufficientFunds):
            await within(client.create_order_ws(PAIR, "limit", "buy", 100, 50000))


@in_loop
async def test_the_keys_of_all_kinds_sign_over_the_websocket_api(venue: Venue) -> None:
    keys = {"apiKey": venue.ed25519_key, "secret": venue.ed25519_pem}
    async with opened(ccxt.pro.binance, venue, **keys) as client:
        assert (await within(client.create_order_ws(PAIR, "limit", "buy", 0.01, 50000)))["status"] == "open"
        assert len(await within(client.cancel_all_orders_ws(PAIR))) == 1


@pytest.mark.parametrize(("fault", "taken"), [("drop_before", False), ("drop_after", True)])
@in_loop
async def test_a_connection_that_drops_in_the_middle_of_an_order(venue: Venue, fault: str, taken: bool) -> None:
    async with opened(ccxt.pro.binance, venue) as client:
        await client.load_markets()
        await within(client.fetch_open_orders_ws(PAIR))
        venue.fault(f"{fault}:n=1")
        with pytest.raises(ccxt.NetworkError):
            await within(client.create_order_ws(PAIR, "limit", "buy", 0.01, 50000, {"newClientOrderId": "mine"}))
        found = await client.fetch_open_orders(PAIR)
        assert [order["clientOrderId"] for order in found] == (["mine"] if taken else [])
        assert await within(client.fetch_open_orders_ws(PAIR)) == found  # over a new connection


@in_loop
async def test_orders_trades_and_balances_are_watched(venue: Venue) -> None:
    async with opened(ccxt.pro.binance, venue) as client:
        await client.load_markets()
        await within(client.authenticate({"type": "spot"}))
        watches = client.watch_orders(PAIR), client.watch_my_trades(PAIR), client.watch_balance()
        orders, trades, balance = (asyncio.ensure_future(watch) for watch in watches)
        socket = client.urls["api"]["ws"]["ws-api"]["spot"]
        waiting = {f"orders:{PAIR}", f"myTrades:{PAIR}", "spot:balance"}
        await until(lambda: waiting <= set(client.clients[socket].futures), "the watches")
        placed = await within(client.create_order_ws(PAIR, "limit", "buy", 0.02, 60005))
        (seen,) = await within(orders)
        assert (seen["id"], seen["status"], seen["filled"]) == (placed["id"], "open", 0.0)
        assert (await within(balance))["USDT"]["used"] == 1200.1
        venue.trade("SELL", "60005", "0.01")
        (trade,) = await within(trades)
        assert (trade["order"], trade["price"], trade["amount"], trade["takerOrMaker"]) == (
            placed["id"],
            60005.0,
            0.01,
            "maker",
        )
        assert trade["fee"] == {"cost": 0.00001, "currency": "BTC"}


# --- ccxt.pro: market streams


@in_loop
async def test_the_book_is_followed_from_its_snapshot(venue: Venue) -> None:
    async with opened(ccxt.pro.binance, venue) as client:
        await client.load_markets()
        book = await within(client.watch_order_book(PAIR))
        assert (book["bids"][0], book["asks"][0]) == ([59990.0, 2.0], [60010.0, 1.0])
        for step in range(1, 4):
            venue.level("BUY", f"5999{step}", "0.5")
            while book["bids"][0] != [59990.0 + step, 0.5]:
                book = await within(client.watch_order_book(PAIR))
        await within(client.un_watch_order_book(PAIR))


@in_loop
async def test_a_book_that_moves_a_lot_stays_the_exchanges(venue: Venue) -> None:
    rng = random.Random(7)
    async with opened(ccxt.pro.binance, venue) as client:
        await client.load_markets()
        await within(client.watch_order_book(PAIR))
        for _ in range(8):
            for _ in range(50):
                side, away = rng.choice([("BUY", -1), ("SELL", 1)])
                venue.level(side, str(60_000 + away * rng.randint(10, 60)), str(rng.randint(0, 3)))
            book = await within(client.watch_order_book(PAIR))  # raises where one frame does not follow the last
        truth = await client.fetch_order_book(PAIR, 100)
        while book["nonce"] < truth["nonce"]:
            book = await within(client.watch_order_book(PAIR))
        assert (book["bids"], book["asks"]) == (truth["bids"], truth["asks"])


@in_loop
async def test_two_accounts_trade_with_each_other(venue: Venue) -> None:
    other = {"apiKey": venue.accounts[1].hmac_api_key, "secret": venue.accounts[1].hmac_secret_key}
    async with opened(ccxt.pro.binance, venue) as maker, opened(ccxt.pro.binance, venue, **other) as taker:
        before = [await client.fetch_balance() for client in (maker, taker)]
        await within(maker.create_order_ws(PAIR, "limit", "buy", 0.5, 60005))
        sold = await within(taker.create_order_ws(PAIR, "limit", "sell", 0.5, 60000))
        assert (sold["status"], sold["average"]) == ("closed", 60005.0)
        after = [await client.fetch_balance() for client in (maker, taker)]
        gained = [
            {asset: new[asset]["total"] - old[asset]["total"] for asset in ("BTC", "USDT")}
            for old, new in zip(before, after, strict=True)
        ]
        cost = 0.5 * 60005
        assert gained[0] == pytest.approx({"BTC": 0.5 * 0.999, "USDT": -cost})
        assert gained[1] == pytest.approx({"BTC": -0.5, "USDT": cost * 0.999})


@in_loop
async def test_trades_candles_and_tickers_are_watched(venue: Venue) -> None:
    async with opened(ccxt.pro.binance, venue) as client:
        await client.load_markets()
        watches = [
            client.watch_trades(PAIR),
            client.watch_ohlcv(PAIR, "1m"),
            client.watch_ticker(PAIR),
            client.watch_tickers([PAIR]),
            client.watch_bids_asks([PAIR]),
        ]
        running = [asyncio.ensure_future(watch) for watch in watches]
        while not all(watch.done() for watch in running):  # it does not say when its subscriptions are taken
            venue.trade("BUY", "60010", "0.001")
            await asyncio.wait(running, timeout=0.05)
        trades, candles, ticker, tickers, tops = [watch.result() for watch in running]
        assert (trades[-1]["price"], trades[-1]["amount"], trades[-1]["side"]) == (60010.0, 0.001, "buy")
        assert candles[-1][4] == 60010.0
        assert ticker["last"] == 60010.0
        assert tickers[PAIR]["last"] == 60010.0
        assert (tops[PAIR]["bid"], tops[PAIR]["ask"]) == (59990.0, 60010.0)
