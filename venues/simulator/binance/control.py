"""The control endpoint: what a test or a person changes while the exchange runs, by POST with a JSON body.

Always true here: only a client on this machine is listened to (any other gets 404), and no page in a browser (requests
with an Origin are refused). Everything that can be done here can be done on `LocalExchange` as well, without the checks
of this file. What is refused has changed nothing, and its answer says what was wrong and what would be right:

    400 {"error":"price 50000.001 is off the grid: prices of BTCUSDT are multiples of 0.01, such as 50000"}

    curl -d '{"spec":"drop_after:n=1"}' localhost:9443/control/faults

| POST /control/.. | body | does |
|---|---|---|
| faults | spec; clear: true, or names | switches faults on, or off |
| deposit | account, asset, amount | funds in, negative: out |
| price | symbol, price | moves the market there |
| quote | symbol, side, price, qty | the house shows qty at price, 0: nothing |
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
from collections.abc import Callable, Iterable
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import msgspec

from ....core.model.errors import SettingsError
from ..exchange.records import UNIT, UNITS_MOST, ExchangeError, Symbol, units
from .errors import NOT_JSON
from .faults import ANY, DAY_MS, FAULTS, SECONDS_MAX, SKEW_MS_MAX, near, parse
from .front import HttpRequest
from .params import SIDES

if TYPE_CHECKING:
    from .server import LocalExchange

PREFIX = "/control"
KINDS = ("", "ws-api", "stream")  # of connections; "" is all
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
            body = _decode(request.body or b"{}")
        except NOT_JSON as error:
            fields = ", ".join(Body.__struct_fields__)
            return _answer(400, {"error": f"the body is no JSON object of known fields: {error}; known are {fields}"})
        try:
            return _answer(200, command(body))
        except (SettingsError, ExchangeError, ValueError) as error:
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
        parse(body.spec)
        _known("fault", body.names, FAULTS)
        if body.clear or body.names:
            self._server.faults.clear(*body.names)
        if body.spec:
            self._server.switch(body.spec)
        return {"faults": self._told()}

    def _deposit(self, body: Body) -> dict[str, Any]:
        exchange = self._server.exchange
        _known("account", [body.account], [account.name for account in self._server.accounts])
        assets = {asset: None for symbol in exchange.symbols.values() for asset in (symbol.base, symbol.quote)}
        _known("asset", [body.asset], assets)
        change = units(body.amount)
        free, locked = exchange.balances(body.account).get(body.asset, (0, 0))
        if not change:
            raise ValueError("amount is 0: more brings funds in, less takes them out")
        if free + change < 0:
            raise ValueError(f"amount {body.amount} takes out more than the {_text(free)} {body.asset} that are free")
        if free + locked + change > UNITS_MOST:
            raise ValueError(f"amount {body.amount} makes more {body.asset} than an account holds, {_text(UNITS_MOST)}")
        self._server.deposit(body.account, body.asset, body.amount)
        return {}

    def _price(self, body: Body) -> dict[str, Any]:
        _price(self._listed(body), body)
        self._server.move(body.symbol, body.price)
        return {}

    def _quote(self, body: Body) -> dict[str, Any]:
        symbol, side = self._listed(body), _side(body)
        _price(symbol, body)
        _qty(symbol, body, least=0)
        self._server.quote(body.symbol, side, body.price, body.qty)
        return {}

    def _deal(self, body: Body) -> dict[str, Any]:
        symbol, side = self._listed(body), _side(body)
        _price(symbol, body)
        _qty(symbol, body, least=symbol.step)
        self._server.deal(body.symbol, side, body.price, body.qty)
        return {}

    def _listed(self, body: Body) -> Symbol:
        symbols = self._server.exchange.symbols
        _known("symbol", [body.symbol], symbols)
        return symbols[body.symbol]

    def _close(self, body: Body) -> dict[str, Any]:
        if body.kind not in KINDS:
            raise ValueError(f"kind {body.kind!r} is none of connections: ws-api, stream, or nothing for both")
        return {"closed": self._server.close_connections(body.kind, politely=body.politely)}

    def _market(self, body: Body) -> dict[str, Any]:
        self._server.run_market(running=body.running)
        return {"marketRunning": self._server.market.running}

    def _clock(self, body: Body) -> dict[str, Any]:
        _within("skew_ms", body.skew_ms, -SKEW_MS_MAX, SKEW_MS_MAX)
        self._server.switch(f"skew:ms={body.skew_ms}")
        return {"skewMs": self._server.faults.skew_ms}

    def _ban(self, body: Body) -> dict[str, Any]:
        _within("seconds", body.seconds, 0, SECONDS_MAX)
        self._server.switch(f"ban418:s={body.seconds}")
        return {}

    def _limit(self, body: Body) -> dict[str, Any]:
        _within("seconds", body.seconds, 0, SECONDS_MAX)
        self._server.switch(f"limit429:s={body.seconds}")
        return {}

    def _key(self, body: Body) -> dict[str, Any]:
        accounts = {account.name: account for account in self._server.accounts}
        _known("account", [body.account], accounts)
        for ip in body.ips or ():
            ipaddress.ip_address(ip)  # ValueError says what it is not
        account = accounts[body.account]
        for name in (account.hmac_api_key, account.ed25519_api_key):
            key = self._server.keys.find(name)
            assert key is not None
            key.trade = key.trade if body.trade is None else body.trade
            key.ips = key.ips if body.ips is None else frozenset(body.ips) or None
            key.revoked = key.revoked if body.revoked is None else body.revoked
        return {}

    def _shutdown(self, body: Body) -> dict[str, Any]:
        _within("grace_ms", body.grace_ms, 0, DAY_MS)
        self._server.shut_down(body.grace_ms)
        return {}


# --- what can be wrong with a body: each raises ValueError that says what would be right


def _known(what: str, named: Iterable[str], known: Iterable[str]) -> None:
    known = list(known)
    for name in named:
        if name not in known:
            raise ValueError(f"{what} {name!r} is unknown: {near(name, known)}")


def _side(body: Body) -> str:
    _known("side", [body.side], SIDES)
    return body.side


def _within(what: str, value: float, least: int, most: int) -> None:
    if not least <= value <= most:
        raise ValueError(f"{what} {value} is out of bounds: {least} to {most}")


def _price(symbol: Symbol, body: Body) -> None:
    filters = symbol.filters
    _on_grid("price", f"prices of {symbol.name}", body.price, symbol.tick, symbol.tick, filters.max_price)


def _qty(symbol: Symbol, body: Body, least: int) -> None:
    _on_grid("qty", f"quantities of {symbol.name}", body.qty, symbol.step, least, symbol.filters.max_qty)


def _on_grid(what: str, whose: str, value: Decimal, step: int, least: int, most: int) -> None:
    """A multiple of `step` from `least` to `most`, all in units of 1e-8; `most` 0 is no bound but the units' own."""
    most = most or UNITS_MOST - UNITS_MOST % step
    if not value.is_finite() or not Decimal(least) / UNIT <= value <= Decimal(most) / UNIT:
        raise ValueError(f"{what} {value} is out of bounds: {whose} are {_text(least)} to {_text(most)}")
    below = int(value * UNIT) // step * step
    if Decimal(below) / UNIT != value:
        near_by = below if below >= max(least, step) else step
        grid = f"{whose} are multiples of {_text(step)}, such as {_text(near_by)}"
        raise ValueError(f"{what} {value} is off the grid: {grid}")


def _text(number: int) -> str:
    """Units as a decimal number without zeros that say nothing."""
    text = f"{Decimal(number) / UNIT:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _is_here(ip: str) -> bool:
    try:
        return ipaddress.ip_address(ip).is_loopback
    except ValueError:
        return False


def _answer(status: int, document: dict[str, Any]) -> Answer:
    return status, HEADERS, msgspec.json.encode(document)
