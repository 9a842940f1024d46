"""The control endpoint: what a test or a person changes while the exchange runs, by POST with a JSON body.

Always true here: only a client on this machine is listened to (any other gets 404), and no page in a browser (requests
with an Origin are refused). Everything that can be done here can be done on `LocalExchange` as well.

    curl -d '{"spec":"drop_after:n=1"}' localhost:9443/control/faults

| POST /control/.. | body | does |
|---|---|---|
| faults | spec; clear: true, or names | switches faults on, or off |
| deposit | account, asset, amount | funds in, negative: out |
| price | symbol, price | moves the market there |
| quote | symbol, side, price, qty | the house shows qty at price |
| deal | symbol, side, price, qty | the house buys or sells at once |
| close | kind: ws-api, stream or "", politely | ends connections |
| market | running | stops or starts the market |
| clock | skew_ms | puts the exchange's clock ahead |
| ban, limit | seconds | 418, 429 for so long |
| key | account, trade, ips, revoked | what the account's keys may do |
| shutdown | grace_ms | serverShutdown, then the end of all connections |
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import msgspec

from ....core.model.errors import SettingsError
from ..exchange.records import ExchangeError
from .faults import ANY
from .front import HttpRequest

if TYPE_CHECKING:
    from .server import LocalExchange

PREFIX = "/control"
HEADERS = (("Content-Type", "application/json"),)
Answer = tuple[int, tuple[tuple[str, str], ...], bytes]


class Body(msgspec.Struct, forbid_unknown_fields=True):
    """What may be said; each command reads its own part. Amounts are numbers as text."""

    spec: str = ""
    clear: bool = False
    names: list[str] = []
    account: str = ""
    asset: str = ""
    amount: Decimal = Decimal(0)
    symbol: str = ""
    side: str = ""
    price: Decimal = Decimal(0)
    qty: Decimal = Decimal(0)
    kind: str = ""
    politely: bool = False
    running: bool = True
    skew_ms: int = 0
    seconds: float = 60.0
    grace_ms: int = 1000
    trade: bool | None = None
    ips: list[str] | None = None
    revoked: bool | None = None


_decode = msgspec.json.Decoder(Body).decode


class Control:
    """Answers requests below /control."""

    def __init__(self, server: LocalExchange) -> None:
        self._server = server
        self._commands: dict[str, Callable[[Body], dict[str, Any]]] = {
            "faults": self._faults,
            "deposit": self._deposit,
            "price": self._price,
            "quote": self._quote,
            "deal": self._deal,
            "close": self._close,
            "market": self._market,
            "clock": self._clock,
            "ban": self._ban,
            "limit": self._limit,
            "key": self._key,
            "shutdown": self._shutdown,
        }

    def handle(self, request: HttpRequest) -> Answer:
        """GET tells the state, POST carries a command out: 200 with what it did, 400 with what was wrong."""
        if not _is_here(request.ip) or "origin" in request.headers:
            return _answer(404, {"error": "not found"})
        name = request.path.removeprefix(PREFIX).strip("/")
        if request.method == "GET":
            return _answer(200, self.state()) if not name else _answer(404, {"error": "GET /control"})
        command = self._commands.get(name)
        if request.method != "POST" or command is None:
            return _answer(404, {"error": f"no such command; POST {PREFIX}/{{{','.join(self._commands)}}}"})
        try:
            return _answer(200, command(_decode(request.body or b"{}")))
        except (msgspec.DecodeError, SettingsError, ExchangeError, ValueError, KeyError) as error:
            return _answer(400, {"error": str(error)})

    def state(self) -> dict[str, Any]:
        """What goes on: connections, streams, counts, faults and how often each fired."""
        server = self._server
        return {
            "nowMs": server.now_ms(),
            "skewMs": server.faults.skew_ms,
            "connections": {
                kind: sum(connection.kind == kind for connection in server.connections) for kind in ("ws-api", "stream")
            },
            "streams": server.streams.count,
            "counts": dict(server.counts),
            "marketRunning": server.market.running,
            "symbols": list(server.exchange.symbols),
            "faults": self._told(),
        }

    def _told(self) -> list[dict[str, Any]]:
        return [
            {
                "name": fault.name,
                "p": fault.probability,
                "n": fault.count,
                "ms": fault.ms,
                "s": fault.seconds,
                "on": ANY if ANY in fault.on else sorted(fault.on),
                "fired": fault.fired,
            }
            for fault in self._server.faults
        ]

    # --- commands

    def _faults(self, body: Body) -> dict[str, Any]:
        if body.clear or body.names:
            self._server.faults.clear(*body.names)
        if body.spec:
            self._server.switch(body.spec)
        return {"faults": self._told()}

    def _deposit(self, body: Body) -> dict[str, Any]:
        self._server.deposit(body.account, body.asset, body.amount)
        return {}

    def _price(self, body: Body) -> dict[str, Any]:
        if body.price <= 0:
            raise ValueError("price must be above 0")
        self._server.move(body.symbol, body.price)
        return {}

    def _quote(self, body: Body) -> dict[str, Any]:
        self._server.quote(body.symbol, _side(body), body.price, body.qty)
        return {}

    def _deal(self, body: Body) -> dict[str, Any]:
        self._server.deal(body.symbol, _side(body), body.price, body.qty)
        return {}

    def _close(self, body: Body) -> dict[str, Any]:
        return {"closed": self._server.close_connections(body.kind, politely=body.politely)}

    def _market(self, body: Body) -> dict[str, Any]:
        self._server.run_market(running=body.running)
        return {"marketRunning": self._server.market.running}

    def _clock(self, body: Body) -> dict[str, Any]:
        self._server.switch(f"skew:ms={body.skew_ms}")
        return {"skewMs": self._server.faults.skew_ms}

    def _ban(self, body: Body) -> dict[str, Any]:
        self._server.switch(f"ban418:s={body.seconds}")
        return {}

    def _limit(self, body: Body) -> dict[str, Any]:
        self._server.switch(f"limit429:s={body.seconds}")
        return {}

    def _key(self, body: Body) -> dict[str, Any]:
        account = {account.name: account for account in self._server.accounts}[body.account]
        for name in (account.hmac_api_key, account.ed25519_api_key):
            key = self._server.keys.find(name)
            assert key is not None
            key.trade = key.trade if body.trade is None else body.trade
            key.ips = key.ips if body.ips is None else frozenset(body.ips) or None
            key.revoked = key.revoked if body.revoked is None else body.revoked
        return {}

    def _shutdown(self, body: Body) -> dict[str, Any]:
        self._server.shut_down(body.grace_ms)
        return {}


def _side(body: Body) -> str:
    if body.side not in ("BUY", "SELL"):
        raise ValueError("side must be BUY or SELL")
    return body.side


def _is_here(ip: str) -> bool:
    try:
        return ipaddress.ip_address(ip).is_loopback
    except ValueError:
        return False


def _answer(status: int, document: dict[str, Any]) -> Answer:
    return status, HEADERS, msgspec.json.encode(document)
