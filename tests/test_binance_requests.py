"""Requests to Binance: an order's frame holds exactly what was meant; and where it is sent."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from tbx.core.model.errors import SettingsError
from tbx.core.model.instruments import Instrument
from tbx.core.model.messages import AmendAtVenue, CancelAtVenue, PlaceAtVenue
from tbx.core.model.records import Amend
from tbx.venues.binance.codec_requests import Leg, PlaceList, ReplaceOrder, Requests, Terms, cancel_id
from tbx.venues.binance.endpoints import PUBLIC, resolve
from tbx.venues.binance.signing import Ed25519Signer, HmacSigner, ws_payload

from .binance_examples import BTC, ID, NOW_MS, ours

laws = settings(max_examples=200, deadline=None, derandomize=True, database=None)

SESSION = Requests(Ed25519Signer("the-api-key", Ed25519PrivateKey.from_private_bytes(b"\x07" * 32)))
HMAC = Requests(HmacSigner("the-api-key", "the-secret"))


def order(**changes: Any) -> PlaceAtVenue:
    fields: dict[str, Any] = {"client_id": ID, "pair": "BTC_USDT", "side": "buy", "type": "limit", "qty_lots": 1_234}
    return PlaceAtVenue(**{**fields, "price_ticks": 5_200_000, "tif": "GTC", **changes})


def params_of(frame: bytes, method: str) -> dict[str, Any]:
    sent = json.loads(frame)
    assert (sent["id"], sent["method"]) == (7, method)
    params: dict[str, Any] = sent.get("params", {})
    return params


# --- orders, lists, questions ---------------------------------------------------------------------------------------

PLACED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "limit": ({}, {"type": "LIMIT", "timeInForce": "GTC", "price": "52000.00"}),
    "sell": ({"side": "sell"}, {"type": "LIMIT", "timeInForce": "GTC", "price": "52000.00", "side": "SELL"}),
    "until a time rests until it is cancelled": (
        {"tif": "GTD"},
        {"type": "LIMIT", "timeInForce": "GTC", "price": "52000.00"},
    ),
    "fill or kill": ({"tif": "FOK"}, {"type": "LIMIT", "timeInForce": "FOK", "price": "52000.00"}),
    "post only": ({"post_only": True}, {"type": "LIMIT_MAKER", "price": "52000.00"}),
    "market within a guard price": (
        {"type": "market", "tif": "IOC"},
        {"type": "LIMIT", "timeInForce": "IOC", "price": "52000.00"},
    ),
    "market, all or nothing, within a guard price": (
        {"type": "market", "tif": "FOK"},
        {"type": "LIMIT", "timeInForce": "FOK", "price": "52000.00"},
    ),
    "an exit that must trade": ({"type": "market", "tif": "IOC", "price_ticks": None}, {"type": "MARKET"}),
}


@pytest.mark.parametrize("case", PLACED)
@pytest.mark.parametrize("requests", [SESSION, HMAC], ids=["session", "hmac"])
def test_an_order_is_sent_as_what_it_is(case: str, requests: Requests) -> None:
    changes, expected = PLACED[case]
    params = params_of(requests.place(7, order(**changes), Terms(BTC), NOW_MS), "order.place")
    common = {"symbol": "BTCUSDT", "side": "BUY", "quantity": "0.01234", "newClientOrderId": ID}
    common |= {"newOrderRespType": "FULL", "recvWindow": 5000, "timestamp": NOW_MS}
    if requests is HMAC:
        signature = params.pop("signature")
        assert signature == HMAC.signer.sign(ws_payload(params))
        common["apiKey"] = "the-api-key"
    assert params == {**common, **expected}


@laws
@given(
    ticks=st.integers(1, 10**15),
    lots=st.integers(1, 10**15),
    tick=st.sampled_from(["0.01", "0.00000001", "1", "5", "0.0005", "100"]),
    lot=st.sampled_from(["0.00001", "1", "10", "0.1", "0.00000001"]),
    signed=st.booleans(),
)
def test_prices_and_quantities_arrive_as_they_were_meant(
    ticks: int, lots: int, tick: str, lot: str, signed: bool
) -> None:
    instrument = Instrument(
        exchange="binance", pair="币_U", symbol="币%U", base="币", quote="U", tick=Decimal(tick), lot=Decimal(lot)
    )
    requests = HMAC if signed else SESSION
    frame = requests.place(7, order(price_ticks=ticks, qty_lots=lots), Terms(instrument), NOW_MS)
    params = params_of(frame, "order.place")
    assert Decimal(params["price"]) == ticks * Decimal(tick)
    assert Decimal(params["quantity"]) == lots * Decimal(lot)
    assert params["symbol"] == "币%U"
    if signed:
        assert params.pop("signature") == requests.signer.sign(ws_payload(params))


@pytest.mark.parametrize("client_id", ["", "x" * 37, 'a"b', "a b", "é", "a\n"])
def test_a_client_id_that_the_exchange_would_not_take_is_our_fault(client_id: str) -> None:
    with pytest.raises(ValueError, match="cannot be a client id"):
        SESSION.place(7, order(client_id=client_id), Terms(BTC), NOW_MS)
    with pytest.raises(ValueError, match="cannot be a client id"):
        SESSION.order_status(7, client_id, Terms(BTC), NOW_MS)


def test_a_limit_order_without_a_price_is_our_fault() -> None:
    with pytest.raises(ValueError, match="needs a price"):
        SESSION.place(7, order(price_ticks=None), Terms(BTC), NOW_MS)


def test_a_cancel_names_the_order_by_the_venues_id_where_it_is_known() -> None:
    known = CancelAtVenue(client_id=ID, pair="BTC_USDT", venue_order_id="12510053279")
    params = params_of(SESSION.cancel(7, known, Terms(BTC), NOW_MS), "order.cancel")
    own = cancel_id(ID)
    assert params == {
        "symbol": "BTCUSDT",
        "orderId": 12510053279,
        "newClientOrderId": own,
        "recvWindow": 5000,
        "timestamp": NOW_MS,
    }
    unknown = CancelAtVenue(client_id=ID, pair="BTC_USDT")
    params = params_of(SESSION.cancel(7, unknown, Terms(BTC), NOW_MS), "order.cancel")
    assert params["origClientOrderId"] == ID and "orderId" not in params


def test_the_id_of_a_cancel_is_always_the_same_and_not_an_order_of_ours() -> None:
    assert cancel_id(ID) == cancel_id(ID) == "can-node1-250101000123-1"
    assert not ours(cancel_id(ID))
    assert len(cancel_id("tbx" + "x" * 33)) == 36
    assert cancel_id("ab") == "can-ab"


def test_an_amendment_keeps_the_client_id_and_changes_the_quantity_only() -> None:
    wanted = AmendAtVenue(client_id=ID, pair="BTC_USDT", amend=Amend(qty_lots=1_000), venue_order_id="5")
    params = params_of(SESSION.amend(7, wanted, Terms(BTC), NOW_MS), "order.amend.keepPriority")
    assert params == {
        "symbol": "BTCUSDT",
        "orderId": 5,
        "newClientOrderId": ID,
        "newQty": "0.01000",
        "recvWindow": 5000,
        "timestamp": NOW_MS,
    }
    for amend in (Amend(price_ticks=5), Amend(qty_lots=5, price_ticks=5), Amend()):
        with pytest.raises(ValueError, match="nothing else"):
            SESSION.amend(7, AmendAtVenue(client_id=ID, pair="BTC_USDT", amend=amend), Terms(BTC), NOW_MS)


def test_a_replacement_cancels_one_order_and_places_another() -> None:
    wanted = ReplaceOrder(
        cancel=CancelAtVenue(client_id=ID, pair="BTC_USDT", venue_order_id="5"), order=order(client_id=f"{ID[:-1]}2")
    )
    params = params_of(SESSION.replace(7, wanted, Terms(BTC), NOW_MS), "order.cancelReplace")
    assert params["cancelReplaceMode"] == "STOP_ON_FAILURE"
    assert (params["cancelOrderId"], params["cancelNewClientOrderId"]) == (5, cancel_id(ID))
    assert (params["newClientOrderId"], params["price"], params["quantity"]) == (f"{ID[:-1]}2", "52000.00", "0.01234")


def leg(kind: Any, client_id: str, price: int | None = None, stop: int | None = None, **changes: Any) -> Leg:
    fields: dict[str, Any] = {"side": "sell", "qty_lots": 500, **changes}
    return Leg(client_id=client_id, type=kind, price_ticks=price, stop_ticks=stop, **fields)


ABOVE = leg("LIMIT_MAKER", "a", 5_300_000)
BELOW = leg("STOP_LOSS_LIMIT", "b", 5_000_000, 5_010_000)
WORKING = leg("LIMIT", "w", 5_200_000, side="buy")


def test_an_oco_names_both_legs() -> None:
    wanted = PlaceList(kind="oco", client_id="list-1", pair="BTC_USDT", above=ABOVE, below=BELOW)
    params = params_of(SESSION.place_list(7, wanted, Terms(BTC), NOW_MS), "orderList.place.oco")
    assert params == {
        "symbol": "BTCUSDT",
        "listClientOrderId": "list-1",
        "newOrderRespType": "FULL",
        "side": "SELL",
        "quantity": "0.00500",
        "aboveType": "LIMIT_MAKER",
        "aboveClientOrderId": "a",
        "abovePrice": "53000.00",
        "belowType": "STOP_LOSS_LIMIT",
        "belowClientOrderId": "b",
        "belowPrice": "50000.00",
        "belowStopPrice": "50100.00",
        "belowTimeInForce": "GTC",
        "recvWindow": 5000,
        "timestamp": NOW_MS,
    }


def test_an_otoco_has_a_working_leg_and_a_pending_pair() -> None:
    wanted = PlaceList(
        kind="otoco",
        client_id="list-1",
        pair="BTC_USDT",
        working=WORKING,
        above=ABOVE,
        below=leg("STOP_LOSS", "b", None, 9),
    )
    params = params_of(HMAC.place_list(7, wanted, Terms(BTC), NOW_MS), "orderList.place.otoco")
    assert params.pop("signature") == HMAC.signer.sign(ws_payload(params))
    assert {name: params[name] for name in params if name.startswith("working")} == {
        "workingSide": "BUY",
        "workingQuantity": "0.00500",
        "workingType": "LIMIT",
        "workingClientOrderId": "w",
        "workingPrice": "52000.00",
        "workingTimeInForce": "GTC",
    }
    assert {name: params[name] for name in params if name.startswith("pending")} == {
        "pendingSide": "SELL",
        "pendingQuantity": "0.00500",
        "pendingAboveType": "LIMIT_MAKER",
        "pendingAboveClientOrderId": "a",
        "pendingAbovePrice": "53000.00",
        "pendingBelowType": "STOP_LOSS",
        "pendingBelowClientOrderId": "b",
        "pendingBelowStopPrice": "0.09",
    }


def test_an_oto_has_a_working_and_a_pending_leg() -> None:
    wanted = PlaceList(kind="oto", client_id="l", pair="BTC_USDT", working=WORKING, pending=leg("MARKET", "p"))
    params = params_of(SESSION.place_list(7, wanted, Terms(BTC), NOW_MS), "orderList.place.oto")
    assert (params["pendingType"], params["pendingSide"], params["pendingQuantity"]) == ("MARKET", "SELL", "0.00500")
    assert "pendingTimeInForce" not in params


BAD_LISTS: dict[str, tuple[PlaceList, str]] = {
    "no below leg": (PlaceList(kind="oco", client_id="l", pair="p", above=ABOVE), "needs a below leg"),
    "no working leg": (PlaceList(kind="oto", client_id="l", pair="p", pending=ABOVE), "needs a working leg"),
    "a leg too many": (
        PlaceList(kind="oco", client_id="l", pair="p", above=ABOVE, below=BELOW, pending=ABOVE),
        "no place for",
    ),
    "two quantities": (
        PlaceList(kind="oco", client_id="l", pair="p", above=leg("LIMIT_MAKER", "a", 5, qty_lots=1), below=BELOW),
        "same side and quantity",
    ),
    "a stop without its price": (
        PlaceList(kind="oco", client_id="l", pair="p", above=ABOVE, below=leg("STOP_LOSS_LIMIT", "b", 5)),
        "a price and a stop price",
    ),
    "a market leg with a price": (
        PlaceList(kind="oto", client_id="l", pair="p", working=WORKING, pending=leg("MARKET", "b", 5)),
        "needs no price",
    ),
}


@pytest.mark.parametrize("case", BAD_LISTS)
def test_an_order_list_whose_legs_do_not_fit_is_our_fault(case: str) -> None:
    wanted, reason = BAD_LISTS[case]
    with pytest.raises(ValueError, match=reason):
        SESSION.place_list(7, wanted, Terms(BTC), NOW_MS)


QUESTIONS: dict[str, tuple[Callable[[Requests], bytes], dict[str, Any]]] = {
    "order.status": (
        lambda r: r.order_status(7, ID, Terms(BTC), NOW_MS),
        {"symbol": "BTCUSDT", "origClientOrderId": ID},
    ),
    "order.status by the venue's id": (
        lambda r: r.order_status_by_id(7, 5, Terms(BTC), NOW_MS),
        {"symbol": "BTCUSDT", "orderId": 5},
    ),
    "openOrders.status": (lambda r: r.open_orders(7, NOW_MS), {}),
    "openOrders.status of a symbol": (lambda r: r.open_orders(7, NOW_MS, Terms(BTC)), {"symbol": "BTCUSDT"}),
    "myTrades": (
        lambda r: r.my_trades(7, 5, Terms(BTC), NOW_MS, from_id=9),
        {"symbol": "BTCUSDT", "orderId": 5, "limit": 1000, "fromId": 9},
    ),
    "account.status": (lambda r: r.account(7, NOW_MS, omit_zero=True), {"omitZeroBalances": True}),
    "account.commission": (lambda r: r.commission(7, Terms(BTC), NOW_MS), {"symbol": "BTCUSDT"}),
    "orderList.cancel": (
        lambda r: r.cancel_list(7, 12, "list-1", Terms(BTC), NOW_MS),
        {"symbol": "BTCUSDT", "orderListId": 12, "newClientOrderId": "cant-1"},
    ),
}


@pytest.mark.parametrize("method", QUESTIONS)
def test_a_question_carries_a_timestamp_and_with_hmac_a_signature(method: str) -> None:
    ask, expected = QUESTIONS[method]
    timed = {**expected, "recvWindow": 5000, "timestamp": NOW_MS}
    method = method.partition(" ")[0]
    assert params_of(ask(SESSION), method) == timed
    params = params_of(ask(HMAC), method)
    assert params.pop("signature") == HMAC.signer.sign(ws_payload(params))
    assert params == {**timed, "apiKey": "the-api-key"}


def test_a_logon_signs_the_key_and_the_time_and_nothing_else() -> None:
    params = params_of(SESSION.logon(7, NOW_MS), "session.logon")
    payload = f"apiKey=the-api-key&timestamp={NOW_MS}".encode()
    assert params == {"apiKey": "the-api-key", "timestamp": NOW_MS, "signature": SESSION.signer.sign(payload)}
    with pytest.raises(ValueError, match="Ed25519 keys only"):
        HMAC.logon(7, NOW_MS)


def test_reports_are_asked_for_by_session_or_by_signature() -> None:
    assert params_of(SESSION.subscribe(7, NOW_MS), "userDataStream.subscribe") == {}
    params = params_of(HMAC.subscribe(7, NOW_MS), "userDataStream.subscribe.signature")
    payload = f"apiKey=the-api-key&timestamp={NOW_MS}".encode()
    assert params == {"apiKey": "the-api-key", "timestamp": NOW_MS, "signature": HMAC.signer.sign(payload)}


def test_the_time_needs_no_key() -> None:
    assert json.loads(SESSION.time(2)) == {"id": 2, "method": "time"}


# --- endpoints -----------------------------------------------------------------------------------------------------


def test_each_environment_has_its_addresses() -> None:
    assert resolve("live").ws_api == "wss://ws-api.binance.com:443/ws-api/v3"
    assert resolve("testnet").rest == "https://testnet.binance.vision"
    assert resolve("demo").stream == "wss://demo-stream.binance.com"
    assert resolve("live", public=True) == PUBLIC
    assert resolve("testnet", public=True) == resolve("testnet")


def test_an_address_may_be_replaced() -> None:
    local = resolve("live", "http://127.0.0.1:9443/", "ws://127.0.0.1:9443/ws-api/v3", "ws://[::1]:9443/")
    assert local.rest == "http://127.0.0.1:9443"
    assert (local.ws_api, local.stream) == ("ws://127.0.0.1:9443/ws-api/v3", "ws://[::1]:9443")
    assert resolve("live", rest="", ws_api=None) == resolve("live")


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"env": "prod"}, "live, testnet, demo"),
        ({"env": "live", "rest": "ws://x"}, "BINANCE_REST_URL"),
        ({"env": "live", "ws_api": "https://x"}, "BINANCE_WS_API_URL"),
        ({"env": "live", "stream": "x:9443"}, "BINANCE_STREAM_URL"),
        ({"env": "live", "stream": "ws://"}, "BINANCE_STREAM_URL"),
        ({"env": "live", "stream": "ws://x:port"}, "BINANCE_STREAM_URL"),
        ({"env": "live", "rest": "http://user:pass@x"}, "no password"),
        ({"env": "live", "rest": "http://x?a=b"}, "must end"),
    ],
)
def test_what_is_no_address_is_refused(given: dict[str, str], reason: str) -> None:
    with pytest.raises(SettingsError, match=reason) as caught:
        resolve(**given)  # type: ignore[arg-type]
    assert "user:pass" not in str(caught.value)
