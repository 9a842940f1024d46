"""Our frames, taken by the local exchange, and its answers, read by our codec; no sockets in between."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from msgspec import Raw

from tbx.core.model.messages import (
    AmendAtVenue,
    CancelAtVenue,
    PlaceAtVenue,
    VenueAccepted,
    VenueAmended,
    VenueEnded,
    VenueFilled,
)
from tbx.core.model.records import Amend
from tbx.venues.binance import codec, codec_replies, codec_reports, errors
from tbx.venues.binance.codec_requests import Leg, PlaceList, ReplaceOrder, Requests, Terms
from tbx.venues.binance.instruments import read_exchange_info, with_fees
from tbx.venues.binance.signing import Ed25519Signer, HmacSigner, Signer
from tbx.venues.simulator.binance.ws_api import WsApiSession

from .exchange_desk import ExchangeDesk


class Line:
    """One connection to the local exchange, spoken with our codec alone."""

    def __init__(self, desk: ExchangeDesk, signer: Signer) -> None:
        self.desk = desk
        self.requests = Requests(signer)
        self.session = WsApiSession(desk.api, "", "127.0.0.1")
        self.numbers = itertools.count(1)
        asked = b'{"id":%d,"method":"exchangeInfo","params":{"symbols":["BTCUSDT"],"showPermissionSets":false}}'
        listing = read_exchange_info(self.result(lambda n: asked % n))
        assert listing.warnings == []
        (self.btc,) = listing.instruments
        self.terms = Terms(self.btc)
        if self.requests.session:
            answer = codec_replies.read_session(self.result(lambda n: self.requests.logon(n, desk.now_ms)))
            assert answer.api_key == signer.api_key

    def ask(self, encode: Callable[[int], bytes]) -> codec.Reply:
        number = next(self.numbers)
        (raw,) = self.session.receive(encode(number))
        reply = codec.decode(raw)
        assert isinstance(reply, codec.Reply) and reply.id == number
        return reply

    def result(self, encode: Callable[[int], bytes]) -> Raw:
        reply = self.ask(encode)
        assert reply.error is None, reply.error
        return reply.result

    def place(self, client_id: str, **changes: Any) -> list[Any]:
        order = order_of(client_id, **changes)
        result = self.result(lambda n: self.requests.place(n, order, self.terms, self.desk.now_ms))
        return list(codec_reports.placed(codec_replies.read_placed(result), self.btc, "binance"))

    def known(self, client_id: str) -> list[Any]:
        """What a query tells: the order, and its trades where it has some."""
        now_ms = self.desk.now_ms
        order = codec_replies.read_order(
            self.result(lambda n: self.requests.order_status(n, client_id, self.terms, now_ms))
        )
        trades = codec_replies.read_trades(
            self.result(lambda n: self.requests.my_trades(n, order.order_id, self.terms, now_ms))
        )
        return list(codec_reports.known(order, trades, self.btc, "binance", client_id))


def order_of(client_id: str, **changes: Any) -> PlaceAtVenue:
    fields: dict[str, Any] = {"pair": "BTC_USDT", "side": "buy", "type": "limit", "qty_lots": 1_000, "tif": "GTC"}
    return PlaceAtVenue(client_id=client_id, **{**fields, "price_ticks": 6_000_000, **changes})


def signer_of(desk: ExchangeDesk, kind: str) -> Signer:
    account = desk.first
    if kind == "hmac":
        return HmacSigner(account.hmac_api_key, account.hmac_secret_key)
    key = load_pem_private_key(account.ed25519_pem.encode(), password=None)
    assert isinstance(key, Ed25519PrivateKey)
    return Ed25519Signer(account.ed25519_api_key, key)


@pytest.fixture(params=["session", "hmac"])
def line(request: pytest.FixtureRequest) -> Line:
    desk = ExchangeDesk()
    return Line(desk, signer_of(desk, request.param))


def kinds(messages: list[Any]) -> list[type[Any]]:
    return [type(message) for message in messages]


def counterparty(line: Line, side: str, price: str, quantity: str) -> None:
    """The other account rests an order."""
    sent = {"symbol": "BTCUSDT", "side": side, "type": "LIMIT", "timeInForce": "GTC", "price": price}
    other = line.desk.session(account=line.desk.second)
    assert other.call("order.place", {**sent, "quantity": quantity})["status"] == 200


def test_an_order_rests_is_known_and_is_cancelled(line: Line) -> None:
    (accepted,) = line.place("tbx-1")
    assert isinstance(accepted, VenueAccepted) and accepted.client_id == "tbx-1"
    assert kinds(line.known("tbx-1")) == [VenueAccepted, VenueAmended]
    cancel = CancelAtVenue(client_id="tbx-1", pair="BTC_USDT", venue_order_id=accepted.venue_order_id)
    result = line.result(lambda n: line.requests.cancel(n, cancel, line.terms, line.desk.now_ms))
    (ended,) = codec_reports.cancelled(codec_replies.read_cancelled(result), line.btc, "binance")
    assert isinstance(ended, VenueEnded) and (ended.client_id, ended.kind) == ("tbx-1", "cancelled")
    assert kinds(line.known("tbx-1")) == [VenueAccepted, VenueAmended, VenueEnded]
    again = line.ask(lambda n: line.requests.cancel(n, cancel, line.terms, line.desk.now_ms))
    assert again.error is not None
    assert isinstance(errors.classify_fault(again.status, again.error, "cancel"), errors.NotThere)


def test_a_market_order_takes_to_its_guard_price_and_the_rest_expires(line: Line) -> None:
    counterparty(line, "SELL", "60000.00", "0.004")
    counterparty(line, "SELL", "60001.00", "0.004")
    told = line.place("tbx-2", type="market", tif="IOC", price_ticks=6_000_000)
    assert kinds(told) == [VenueAccepted, VenueFilled, VenueEnded]
    assert (told[1].price_ticks, told[1].qty_lots, told[1].fee_currency) == (6_000_000, 400, "BTC")
    assert told[2].kind == "expired" and "no liquidity left at its price" in told[2].reason
    assert [(m.trade_id, m.fee) for m in line.known("tbx-2")[2:3]] == [(told[1].trade_id, told[1].fee)]


def test_an_exit_at_the_market_trades_whole(line: Line) -> None:
    counterparty(line, "BUY", "59000.00", "0.02")
    told = line.place("tbx-3", side="sell", type="market", tif="IOC", price_ticks=None)
    assert kinds(told) == [VenueAccepted, VenueFilled]
    assert told[1].fee_currency == "USDT"


def test_an_amended_order_keeps_its_id(line: Line) -> None:
    line.place("tbx-4")
    amend = AmendAtVenue(client_id="tbx-4", pair="BTC_USDT", amend=Amend(qty_lots=400))
    result = line.result(lambda n: line.requests.amend(n, amend, line.terms, line.desk.now_ms))
    (amended,) = codec_reports.amended(codec_replies.read_amended(result), line.btc, "binance")
    assert isinstance(amended, VenueAmended)
    assert (amended.client_id, amended.qty_lots, amended.price_ticks) == ("tbx-4", 400, 6_000_000)
    assert [m.qty_lots for m in line.known("tbx-4")[1:]] == [400]


def test_a_replacement_and_its_failure_are_read_by_halves(line: Line) -> None:
    line.place("tbx-5")
    wanted = ReplaceOrder(
        cancel=CancelAtVenue(client_id="tbx-5", pair="BTC_USDT"), order=order_of("tbx-6", price_ticks=5_900_000)
    )
    now_ms = line.desk.now_ms
    reply = line.ask(lambda n: line.requests.replace(n, wanted, line.terms, now_ms))
    done = codec_replies.read_replaced(reply.result, reply.error)
    assert done is not None and isinstance(done.cancel, codec_replies.CancelledOrder)
    assert isinstance(done.order, codec_replies.PlacedOrder) and done.order.client_order_id == "tbx-6"
    reply = line.ask(lambda n: line.requests.replace(n, wanted, line.terms, now_ms))
    failed = codec_replies.read_replaced(reply.result, reply.error)
    assert failed is not None and isinstance(failed.cancel, codec.ApiFault) and failed.order is None


def test_order_lists_are_placed_and_cancelled_whole(line: Line) -> None:
    line.desk.trade_at("60000.00")
    above = Leg(client_id="tbx-a", side="sell", type="LIMIT_MAKER", qty_lots=500, price_ticks=6_200_000)
    below = Leg(client_id="tbx-b", side="sell", type="STOP_LOSS", qty_lots=500, stop_ticks=5_800_000)
    working = Leg(client_id="tbx-w", side="buy", type="LIMIT", qty_lots=500, price_ticks=5_900_000)
    lists = (
        PlaceList(kind="oco", client_id="list-1", pair="BTC_USDT", above=above, below=below),
        PlaceList(kind="otoco", client_id="list-2", pair="BTC_USDT", working=working, above=above, below=below),
        PlaceList(kind="oto", client_id="list-3", pair="BTC_USDT", working=working, pending=above),
    )
    now_ms = line.desk.now_ms
    for wanted in lists:
        result = line.result(lambda n, w=wanted: line.requests.place_list(n, w, line.terms, now_ms))
        told = codec_reports.placed_list(codec_replies.read_placed_list(result), line.btc, "binance")
        ids = {leg.client_id for leg in wanted.legs}
        assert {m.client_id for m in told} == ids and set(kinds(list(told))) == {VenueAccepted}
        result = line.result(lambda n, w=wanted: line.requests.cancel_list(n, None, w.client_id, line.terms, now_ms))
        gone = codec_reports.cancelled(codec_replies.read_cancelled_list(result), line.btc, "binance")
        assert {m.client_id for m in gone} == ids and set(kinds(list(gone))) == {VenueEnded}


def test_account_fees_time_and_budgets_are_read(line: Line) -> None:
    now_ms = line.desk.now_ms
    account = codec_replies.read_account(line.result(lambda n: line.requests.account(n, now_ms)))
    report = codec_reports.balances(account, "binance", 1)
    assert account.can_trade and report.balances["BTC"] == (100, 0)
    fees = codec_replies.read_commission(line.result(lambda n: line.requests.commission(n, line.terms, now_ms)))
    assert with_fees(line.btc, fees).taker_fee > 0
    assert codec_replies.read_time(line.result(line.requests.time)) == now_ms
    assert codec_replies.read_subscription(line.result(lambda n: line.requests.subscribe(n, now_ms))) == 0
    assert codec_replies.read_orders(line.result(lambda n: line.requests.open_orders(n, now_ms))) == ()
    assert line.ask(line.requests.time).status == 200


def refused_as(line: Line, order: PlaceAtVenue, timestamp_ms: int | None = None) -> errors.Verdict:
    at_ms = line.desk.now_ms if timestamp_ms is None else timestamp_ms
    reply = line.ask(lambda n: line.requests.place(n, order, line.terms, at_ms))
    assert reply.error is not None
    return errors.classify_fault(reply.status, reply.error, "place")


def test_refusals_are_told_apart(line: Line) -> None:
    line.desk.trade_at("60000.00")
    counterparty(line, "SELL", "60000.00", "0.01")
    refused = {
        "INSUFFICIENT_BALANCE": order_of("tbx-7", side="sell", qty_lots=14_000_000, price_ticks=6_000_000),
        "POST_ONLY_WOULD_TAKE": order_of("tbx-8", post_only=True),
        "FILTER_NOTIONAL": order_of("tbx-9", qty_lots=1),
    }
    for code, order in refused.items():
        verdict = refused_as(line, order)
        assert isinstance(verdict, errors.Refused) and verdict.code == code
    late = refused_as(line, order_of("tbx-10"), line.desk.now_ms - 60_000)
    assert isinstance(late, errors.ClockOff)
    line.place("tbx-11", price_ticks=5_900_000)
    assert isinstance(refused_as(line, order_of("tbx-11", price_ticks=5_900_000)), errors.Unknown)
