"""A local exchange without sockets: its clock stands still, its two accounts are rich, its requests are signed."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from random import Random
from typing import Any
from urllib.parse import quote, urlencode

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from tbx.core.kernel.clock import ManualClock
from tbx.venues.simulator.binance.accounts_keys import KeyRing, TestAccount
from tbx.venues.simulator.binance.limits import Limits, Rates
from tbx.venues.simulator.binance.methods import Api
from tbx.venues.simulator.binance.rest import RestApi
from tbx.venues.simulator.binance.ws_api import WsApiSession
from tbx.venues.simulator.exchange.exchange import Exchange
from tbx.venues.simulator.exchange.records import UNIT, Event, Filters, Symbol

FILTERS = Filters(
    min_price=UNIT // 100,
    max_price=1_000_000 * UNIT,
    tick=UNIT // 100,
    min_qty=UNIT // 100_000,
    max_qty=9_000 * UNIT,
    step=UNIT // 100_000,
    min_notional=5 * UNIT,
    max_notional=9_000_000 * UNIT,
)
SYMBOLS = (
    Symbol(name="BTCUSDT", base="BTC", quote="USDT", filters=FILTERS),
    Symbol(name="ETHUSDT", base="ETH", quote="USDT", filters=FILTERS),
)
BALANCES = {"BTC": 100 * UNIT, "ETH": 1_000 * UNIT, "USDT": 10_000_000 * UNIT}
RICH_RATES = Rates(orders_10s=10**9, orders_day=10**9, weight=10**9, raw_requests=10**9)

LIMIT_BUY = {
    "symbol": "BTCUSDT",
    "side": "BUY",
    "type": "LIMIT",
    "timeInForce": "GTC",
    "price": "60000.00",
    "quantity": "0.01",
}


class Streams:
    """Subscriptions that are only remembered."""

    def __init__(self) -> None:
        self.open: dict[int, dict[int, str]] = {}

    def subscribe(self, account: str, session: object) -> int:
        mine = self.open.setdefault(id(session), {})
        number = max(mine, default=-1) + 1
        mine[number] = account
        return number

    def unsubscribe(self, session: object, subscription_id: int | None) -> bool:
        mine = self.open.get(id(session), {})
        if subscription_id is None:
            mine.clear()
            return True
        return mine.pop(subscription_id, None) is not None

    def subscriptions(self, session: object) -> list[int]:
        return sorted(self.open.get(id(session), {}))


class ExchangeDesk:
    """The API over a fresh exchange. Prices stand at `price` once `trade_at` was called."""

    def __init__(self, rates: Rates | None = RICH_RATES) -> None:
        self.clock = ManualClock(1_790_000_000_000_000_000)
        self.events: list[Event] = []
        self.exchange = Exchange(SYMBOLS, lambda: self.clock.now_ns() // 1_000_000, Random(1), self.events.append)
        self.keys = KeyRing(Random(2))
        for account in self.keys.accounts:
            self.exchange.add_account(account.name, BALANCES)
        self.limits = Limits(rates)
        self.streams = Streams()
        self.api = Api(self.exchange, self.keys, self.limits, self.clock.now_ns, self.streams)
        self.rest = RestApi(self.api)
        self.first, self.second = self.keys.accounts

    @property
    def now_ms(self) -> int:
        return self.clock.now_ns() // 1_000_000

    def session(self, query: str = "", *, account: TestAccount | None = None, ip: str = "127.0.0.1") -> Client:
        """A connection of the WebSocket API, logged on as `account` unless None."""
        client = Client(self, WsApiSession(self.api, query, ip))
        if account is not None:
            assert client.logon(account)["status"] == 200
        return client

    def trade_at(self, price: str, quantity: str = "0.001") -> None:
        """One trade between the accounts, so that there is a last price."""
        for account, side in ((self.first, "SELL"), (self.second, "BUY")):
            sent = LIMIT_BUY | {"side": side, "price": price, "quantity": quantity}
            assert self.session(account=account).call("order.place", sent)["status"] == 200

    def http(
        self,
        verb: str,
        path: str,
        params: Mapping[str, Any] | None = None,
        *,
        account: TestAccount | None = None,
        body: bool = False,
        headers: Mapping[str, str] | None = None,
        ip: str = "127.0.0.1",
    ) -> tuple[int, dict[str, str], Any]:
        """A REST request, signed by the account's HMAC key unless None; (status, headers, decoded body)."""
        sent = dict(params or {})
        all_headers = dict(headers or {})
        if account is not None:
            sent.setdefault("timestamp", self.now_ms)
            all_headers.setdefault("x-mbx-apikey", account.hmac_api_key)
        text = urlencode(sent, quote_via=quote)
        if account is not None:
            text += "&signature=" + hmac_of(account, text)
        query, form = (b"", text.encode()) if body else (text.encode(), b"")
        status, pairs, raw = self.rest.handle(verb, f"/api/v3{path}", query, form, all_headers, ip)
        return status, dict(pairs), json.loads(raw) if raw.startswith((b"{", b"[")) else raw


class Client:
    """Requests over one connection, one reply each."""

    def __init__(self, desk: ExchangeDesk, session: WsApiSession) -> None:
        self.desk = desk
        self.session = session

    def send(self, frame: Any) -> Any:
        """The decoded reply to a frame: bytes as they are, anything else as JSON."""
        raw = frame if isinstance(frame, bytes) else json.dumps(frame).encode()
        (reply,) = self.session.receive(raw)
        return json.loads(reply)

    def call(self, method: str, params: Mapping[str, Any] | None = None, **more: Any) -> Any:
        """A request with a timestamp where it goes without a signature of its own."""
        sent = {**(params or {}), **more}
        if self.session.key is not None:
            sent.setdefault("timestamp", self.desk.now_ms)
        return self.send({"id": 1, "method": method, "params": sent})

    def ask(self, method: str, params: Mapping[str, Any] | None = None) -> Any:
        """A request that needs no key."""
        return self.send({"id": 1, "method": method, "params": dict(params or {})})

    def signed(self, method: str, params: Mapping[str, Any], account: TestAccount) -> Any:
        """A request signed by the account's HMAC key."""
        sent = {"apiKey": account.hmac_api_key, "timestamp": self.desk.now_ms, **params}
        sent["signature"] = hmac_of(account, joined(sent))
        return self.send({"id": 1, "method": method, "params": sent})

    def logon(self, account: TestAccount) -> Any:
        sent: dict[str, Any] = {"apiKey": account.ed25519_api_key, "timestamp": self.desk.now_ms}
        sent["signature"] = base64.b64encode(private_key(account).sign(joined(sent).encode())).decode()
        return self.send({"id": 1, "method": "session.logon", "params": sent})


def joined(params: Mapping[str, Any]) -> str:
    """What the WebSocket API signs, written down independently of the exchange."""
    shown = {True: "true", False: "false"}
    return "&".join(f"{k}={shown[v] if isinstance(v, bool) else v}" for k, v in sorted(params.items()))


def hmac_of(account: TestAccount, payload: str) -> str:
    return hmac.new(account.hmac_secret_key.encode(), payload.encode(), hashlib.sha256).hexdigest()


def private_key(account: TestAccount) -> Ed25519PrivateKey:
    key = load_pem_private_key(account.ed25519_pem.encode(), password=None)
    assert isinstance(key, Ed25519PrivateKey)
    return key
