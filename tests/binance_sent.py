"""What is sent to Binance, one frame a method, beside what its documents show; and what is not sent, and why."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tbx.core.model.instruments import Instrument
from tbx.core.model.messages import AmendAtVenue, CancelAtVenue, PlaceAtVenue
from tbx.core.model.records import Amend
from tbx.venues.binance.codec_requests import Leg, PlaceList, ReplaceOrder, Requests, Terms
from tbx.venues.binance.signing import Ed25519Signer, HmacSigner


def instrument_of(symbol: str) -> Instrument:
    """An instrument as fine as any, so that example prices lie on its grid."""
    fine = Decimal("0.00000001")
    return Instrument(exchange="binance", pair="B_Q", symbol=symbol, base="B", quote="Q", tick=fine, lot=fine)


SESSION = Requests(Ed25519Signer("key", Ed25519PrivateKey.from_private_bytes(b"\x07" * 32)))
HMAC = Requests(HmacSigner("key", "secret"))
TERMS = Terms(instrument_of("BTCUSDT"))
ORDER = PlaceAtVenue(
    client_id="tbx-1", pair="B_Q", side="sell", type="limit", qty_lots=5, price_ticks=7, tif="GTC", post_only=False
)
CANCEL = CancelAtVenue(client_id="tbx-1", pair="B_Q")


def leg(kind: Any, client_id: str, price: int | None, stop: int | None = None) -> Leg:
    return Leg(client_id=client_id, side="sell", type=kind, qty_lots=5, price_ticks=price, stop_ticks=stop)


WORKING, MARKET = leg("LIMIT", "w", 5), leg("MARKET", "p", None)
MAKER, STOP_LIMIT, STOP = leg("LIMIT_MAKER", "m", 9), leg("STOP_LOSS_LIMIT", "s", 4, 5), leg("STOP_LOSS", "s", None, 5)
LISTS = {
    "oco": PlaceList(kind="oco", client_id="l", pair="B_Q", above=STOP_LIMIT, below=MAKER),
    "oto": PlaceList(kind="oto", client_id="l", pair="B_Q", working=WORKING, pending=MARKET),
    "otoco": PlaceList(kind="otoco", client_id="l", pair="B_Q", working=WORKING, above=STOP, below=MAKER),
}
AMEND = AmendAtVenue(client_id="tbx-1", pair="B_Q", amend=Amend(qty_lots=3))

SENT: dict[str, bytes] = {
    "order.place": HMAC.place(1, ORDER, Terms(instrument_of("BTCUSDT")), 1),
    "order.cancel": HMAC.cancel(1, CANCEL, TERMS, 1),
    "order.cancelReplace": HMAC.replace(1, ReplaceOrder(cancel=CANCEL, order=ORDER), TERMS, 1),
    "order.amend.keepPriority": HMAC.amend(1, AMEND, TERMS, 1),
    "orderList.place.oco": HMAC.place_list(1, LISTS["oco"], TERMS, 1),
    "orderList.place.oto": HMAC.place_list(1, LISTS["oto"], TERMS, 1),
    "orderList.place.otoco": HMAC.place_list(1, LISTS["otoco"], TERMS, 1),
    "orderList.cancel": HMAC.cancel_list(1, 5, "l", TERMS, 1),
    "order.status": HMAC.order_status_by_id(1, 5, TERMS, 1),
    "openOrders.status": HMAC.open_orders(1, 1, TERMS),
    "myTrades": HMAC.my_trades(1, 5, TERMS, 1),
    "account.status": HMAC.account(1, 1),
    "account.commission": HMAC.commission(1, TERMS, 1),
    "time": HMAC.time(1),
    "session.logon": SESSION.logon(1, 1),
    "userDataStream.subscribe": SESSION.subscribe(1, 1),
    "userDataStream.subscribe.signature": HMAC.subscribe(1, 1),
}
# Names in an example that stand for a choice which is made otherwise here.
OTHERWISE = {
    "returnRateLimits",  # budgets are wanted with each reply
    "startTime",  # trades are asked for by order
    "endTime",
    "cancelOrigClientOrderId",
}

NOT_SENT = {
    "ping": "the time is asked for instead, and connections have pings of their own",
    "exchangeInfo": "asked for over REST, before there is a connection",
    "account.rateLimits.orders": "each reply tells the counts",
    "order.test": "orders are sent, not tried",
    "openOrders.cancelAll": "each order is cancelled by itself, so that each has an answer of its own",
    "orderList.place": "deprecated; .oco took its place",
    "orderList.place.opo": "exits are sized by fills here, and held by the service where the venue does not hold them",
    "orderList.place.opoco": "the same",
    "sor.order.place": "routing is the service's own work",
    "sor.order.test": "the same",
    "allOrders": "orders are asked about one by one, by their client id",
    "orderList.status": "the orders of a list are asked about one by one",
    "openOrderLists.status": "the same",
    "allOrderLists": "the same",
    "myPreventedMatches": "what was prevented comes with the order's reports",
    "myAllocations": "only SOR orders have allocations",
    "order.amendments": "the order itself tells its quantity",
    "myFilters": "exchangeInfo tells the filters",
    "session.status": "a session is known by its replies",
    "session.logout": "a connection is closed instead",
    "session.subscriptions": "there is one",
    "userDataStream.unsubscribe": "a connection is closed instead",
    "executionRules": "price range rules are the exchange's check",
    "referencePrice": "the same",
    "referencePrice.calculation": "the same",
    "depth": "snapshots come over REST, whose weight is counted apart from orders",
    "SUBSCRIBE": "sent by the market data connection, with another encoder",
    "UNSUBSCRIBE": "the same",
    "LIST_SUBSCRIPTIONS": "what was subscribed is known",
    "SET_PROPERTY": "combined streams are asked for by the address",
    "GET_PROPERTY": "the same",
    **dict.fromkeys(
        (
            "trades.recent",
            "trades.historical",
            "trades.aggregate",
            "blockTrades.historical",
            "klines",
            "uiKlines",
            "avgPrice",
            "ticker",
            "ticker.24hr",
            "ticker.book",
            "ticker.price",
            "ticker.tradingDay",
        ),
        "public market data comes by streams",
    ),
}


def request(payload: Any) -> None:
    """A request: ours names the same method, with every parameter that the example has."""
    method = payload["method"]
    if method in NOT_SENT:
        return
    sent = json.loads(SENT[method])
    assert sent["method"] == method
    missing = set(payload.get("params", ())) - set(sent.get("params", ())) - OTHERWISE
    assert missing == set(), f"{method} is sent without {missing}"
