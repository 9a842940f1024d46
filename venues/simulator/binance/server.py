"""The local exchange as one object: the engine, what speaks Binance's protocol around it, and the one port of both.

Always true here:
- Everything happens on one event loop, in the order in which it arrives; a request is carried out whole, then its reply
  leaves, then what it caused: reports to the accounts, trades and tops of books to everybody.
- Time is the clock's plus the skew that a fault asks for. Chance comes from the seed.
- Without faults nothing here answers for the API: a reply is what RestApi or a WsApiSession made.

    socket -> Front -> on_request  -> RestApi          -> reply -> settle
                    -> on_upgrade  -> ApiConnection    -> WsApiSession -> reply -> settle
                                   -> StreamConnection -> Streams.request -> reply
    engine -> sink -> UserData, Streams -> settle
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from functools import partial
from urllib.parse import parse_qs, unquote

import msgspec
from picows import WSCloseCode, WSListener, WSUpgradeRequest, WSUpgradeResponse, WSUpgradeResponseWithListener

from ....core.kernel.clock import MS_NS, SECOND_NS, Clock
from ..exchange.exchange import Exchange
from ..exchange.house import House
from ..exchange.records import UNIT, Event, Execution, PublicTrade, Symbol
from ..exchange.records import units as units
from . import errors
from .accounts_keys import KeyRing, TestAccount
from .connection import ApiConnection, Connection, StreamConnection
from .control import Control
from .faults import Faults, Verdict
from .front import Front, HttpRequest, listen
from .limits import Limits, Rates
from .market_feed import feed_of, ladder
from .methods import Api
from .methods_table import BY_NAME, BY_PATH
from .rest import RestApi
from .streams import STREAMS_MAX, Streams
from .user_data import UserData
from .ws_api import WsApiSession

AGE_NS = 24 * 3600 * SECOND_NS
PING_NS = 20 * SECOND_NS
PONG_NS = 60 * SECOND_NS
STOP_S_MAX = 2.0
JSON_HEADERS = (("Content-Type", "application/json;charset=UTF-8"),)
HTML_HEADERS = (("Content-Type", "text/html"),)
# What each test account begins with, in whole units, of every asset that is listed; quote assets get more.
FUNDS = 10_000
QUOTE_FUNDS = 1_000_000
DEAR_FUNDS = {"BTC": 100, "ETH": 1_000}


class Envelope(msgspec.Struct):
    """What a fault has to know of a WebSocket API request."""

    method: str
    id: msgspec.Raw = msgspec.Raw(b"null")


ENVELOPE = msgspec.json.Decoder(Envelope)


class LocalExchange:
    """A Binance spot exchange of one's own. `await start()`, then `url_rest`, `url_ws_api`, `url_stream`.

    `market` is `none` (books are made by hand with `quote` and `deal`), `simulated`, or `replay:FILE`. `limited` False
    lifts rate limits, which load runs need. `rates` are other limits than Binance's. Raises SettingsError for a wrong
    `faults` or `market`.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        clock: Clock,
        *,
        seed: int = 1,
        symbols: Sequence[Symbol] | None = None,
        extra_symbols: int = 0,
        market: str = "none",
        latency_ms: int = 0,
        faults: str = "",
        limited: bool = True,
        rates: Rates | None = None,
        funds: Mapping[str, Decimal] | None = None,
        age_ns: int = AGE_NS,
        ping_ns: int = PING_NS,
        pong_ns: int = PONG_NS,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.loop, self.clock, self.say, self.seed = loop, clock, say, seed
        self.limited = limited
        self.delay_ns = latency_ms * MS_NS
        self.age_ns, self.ping_ns, self.pong_ns = age_ns, ping_ns, pong_ns
        self.counts: Counter[str] = Counter()
        self.connections: dict[Connection, None] = {}
        self.fronts: set[Front] = set()
        self.faults = Faults(random.Random(f"{seed}:faults"), lambda: clock.now_ns() // MS_NS)
        self.market, listed = feed_of(market, clock, seed, symbols, extra_symbols, say)
        self.exchange = Exchange(listed, self.now_ms, random.Random(f"{seed}:exchange"), self._sink)
        self.houses = {symbol.name: House(self.exchange, symbol.name) for symbol in listed}
        self.keys = KeyRing(random.Random(f"{seed}:keys"))
        self.accounts: tuple[TestAccount, ...] = self.keys.accounts
        for account in self.accounts:
            self.exchange.add_account(account.name, self._funds(listed, funds))
        self.limits = Limits(rates if limited else _boundless())
        self.user_data = UserData(clock, self.now_ms, self.faults)
        self.streams = Streams(clock, self.now_ms, self.exchange)
        self.api = Api(self.exchange, self.keys, self.limits, self.now_ns, self.user_data)
        self.rest = RestApi(self.api)
        self.control = Control(self)
        self._server: asyncio.Server | None = None
        self._busy = False  # a request is being carried out: `settle` follows
        self._settling = False
        self.host, self.port = "", 0
        if faults:
            self.switch(faults)

    @staticmethod
    def _funds(listed: Iterable[Symbol], funds: Mapping[str, Decimal] | None) -> dict[str, int]:
        if funds is not None:
            return {asset: units(amount) for asset, amount in funds.items()}
        quotes = {symbol.quote for symbol in listed}
        assets = quotes | {symbol.base for symbol in listed}
        return {
            asset: (QUOTE_FUNDS if asset in quotes else DEAR_FUNDS.get(asset, FUNDS)) * UNIT for asset in sorted(assets)
        }

    # --- running

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> None:
        """Listens, and lets the market run. Raises OSError where the port cannot be had."""
        self._server = await listen(self.loop, self, host, port)
        self.host, self.port = host, int(self._server.sockets[0].getsockname()[1])
        self.market.start(self.houses, self._fed)
        self.settle()
        self.streams.start()

    async def stop(self) -> None:
        """Closes every connection and the port."""
        self.market.stop()
        self.streams.stop()
        if self._server is not None:
            self._server.close()
        for connection in tuple(self.connections):
            connection.close(WSCloseCode.GOING_AWAY, "the exchange stops")
        for front in tuple(self.fronts):
            front.close()
        deadline = self.loop.time() + STOP_S_MAX
        while (self.connections or self.fronts) and self.loop.time() < deadline:
            await asyncio.sleep(0.005)
        for connection in tuple(self.connections):
            connection.abort()
        for front in tuple(self.fronts):
            front.abort()

    @property
    def authority(self) -> str:
        host = "127.0.0.1" if self.host in ("0.0.0.0", "", "::") else self.host
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"

    @property
    def url_rest(self) -> str:
        return f"http://{self.authority}"

    @property
    def url_ws_api(self) -> str:
        return f"ws://{self.authority}/ws-api/v3"

    @property
    def url_stream(self) -> str:
        return f"ws://{self.authority}"

    def now_ns(self) -> int:
        """The exchange's time."""
        return self.clock.now_ns() + self.faults.skew_ms * MS_NS

    def now_ms(self) -> int:
        return self.clock.now_ns() // MS_NS + self.faults.skew_ms

    # --- the market by hand

    def quote(self, symbol: str, side: str, price: Decimal | str | int, qty: Decimal | str | int) -> None:
        """The house shows `qty` at `price` (BUY or SELL), 0 is nothing; users' orders that it crosses trade."""
        self.houses[symbol].set_level(side, units(price), units(qty))
        self._fed(symbol)

    def deal(self, symbol: str, side: str, price: Decimal | str | int, qty: Decimal | str | int) -> None:
        """The house buys or sells up to `qty` down to or up to `price`, at once."""
        self.houses[symbol].trade(side, units(price), units(qty))
        self._fed(symbol)

    def move(self, symbol: str, price: Decimal | str | int) -> None:
        """The market of the symbol goes to a price: the house quotes around it, users' orders in between trade."""
        house = self.houses[symbol]
        if not self.market.move(house, units(price)):
            ladder(house, units(price))
        self._fed(symbol)

    def run_market(self, *, running: bool) -> None:
        """Lets the market stand still, or go on."""
        if running:
            self.market.start(self.houses, self._fed)
        else:
            self.market.stop()

    def deposit(self, account: str, asset: str, amount: Decimal | str | int) -> None:
        """Funds come in, or with a negative amount go out."""
        self.exchange.deposit(account, asset, units(amount))
        self.settle()

    def _fed(self, symbol: str) -> None:
        """The house moved the symbol's book."""
        self.streams.touched(symbol)
        self.settle()

    # --- events of the engine

    def _sink(self, event: Event) -> None:
        if type(event) is PublicTrade:
            self.streams.traded(event)
        else:
            self.user_data.event(event)
            if type(event) is Execution:
                self.streams.touched(event.order.symbol)
        if not self._busy and not self._settling:
            self._settling = True
            self.clock.call_soon(self.settle)

    def settle(self) -> None:
        """Sends what the engine said since the last time."""
        self._settling = False
        self.user_data.flush()
        self.streams.flush()

    # --- requests

    def new_session(self, ip: str, query: str) -> WsApiSession:
        return WsApiSession(self.api, query, ip)

    def on_api_message(self, connection: ApiConnection, raw: bytes) -> None:
        """A request over the WebSocket API."""
        self.counts["requests"] += 1
        if self.faults.requests_armed and self._spoil_message(connection, raw):
            return
        for reply in self._carry_out(connection, raw):
            connection.send(reply)
        self.settle()

    def _carry_out(self, connection: ApiConnection, raw: bytes, came_us: int | None = None) -> Sequence[bytes]:
        self._busy = True
        try:
            return connection.session.receive(raw, came_us)
        finally:
            self._busy = False
            self._reports_first()

    def _reports_first(self) -> None:
        if self.user_data.waiting and self.faults.reorders():
            self.user_data.flush(swapped=True)

    def _spoil_message(self, connection: ApiConnection, raw: bytes) -> bool:
        """Lets a fault have the request; False where none wants it."""
        try:
            request = ENVELOPE.decode(raw)
        except errors.NOT_JSON:
            return False
        status, until_ms = self.faults.refused_until_ms()
        if status:
            connection.send(_answer(request.id, self._refusal(status, until_ms)))
            return True
        method = BY_NAME.get(request.method)
        verdict = self.faults.verdict(method.name if method is not None else request.method)
        if verdict is None:
            return False
        if verdict.ending == "drop":
            connection.abort()
        if verdict.taken:
            self._carry_out(connection, raw)
        elif verdict.late_ms is not None:
            self._later(verdict.late_ms, partial(self._carry_out, connection, raw))
        if verdict.ending not in ("drop", "mute"):
            spoilt = self.faults.spoilt(verdict.ending)
            connection.send(_answer(request.id, errors.ApiError(spoilt.status, spoilt.code, spoilt.msg)))
        self.settle()
        return True

    def _later(self, ms: int, carry_out: Callable[[int], object]) -> None:
        """A request that the exchange takes late, whatever became of the connection; it is as fresh as it came."""
        self.clock.call_in(ms * MS_NS, self._taken_late, carry_out, self.now_ns() // 1000)

    def _taken_late(self, carry_out: Callable[[int], object], came_us: int) -> None:
        carry_out(came_us)
        self.settle()

    def _refusal(self, status: int, until_ms: int) -> errors.RateLimited:
        make = errors.banned if status == errors.BANNED else errors.too_many_requests
        return make(self.now_ms(), until_ms)

    # --- HTTP

    def on_front_open(self, front: Front) -> None:
        self.fronts.add(front)

    def on_front_closed(self, front: Front) -> None:
        self.fronts.discard(front)

    def on_request(self, front: Front, request: HttpRequest) -> None:
        if request.path.startswith("/control"):
            self._reply(front, *self.control.handle(request))
            return
        self.counts["requests"] += 1
        if self.faults.requests_armed and self._spoil_request(front, request):
            return
        answer = self._carry_out_rest(request)
        self._reply(front, *answer)
        self.settle()

    def _carry_out_rest(
        self, request: HttpRequest, came_us: int | None = None
    ) -> tuple[int, Iterable[tuple[str, str]], bytes]:
        self._busy = True
        try:
            return self.rest.handle(
                request.method, request.path, request.query, request.body, request.headers, request.ip, came_us
            )
        finally:
            self._busy = False
            self._reports_first()

    def _reply(self, front: Front, status: int, headers: Iterable[tuple[str, str]], body: bytes) -> None:
        if self.delay_ns:
            self.clock.call_in(self.delay_ns, front.reply, status, headers, body)
        else:
            front.reply(status, headers, body)

    def _spoil_request(self, front: Front, request: HttpRequest) -> bool:
        status, until_ms = self.faults.refused_until_ms()
        if status:
            refusal = self._refusal(status, until_ms)
            headers = (*JSON_HEADERS, ("Retry-After", str(refusal.retry_after_s)))
            self._reply(front, status, headers, msgspec.json.encode(refusal.document()))
            return True
        method = BY_PATH.get(request.path, {}).get(request.method)
        verdict = self.faults.verdict(method.name or "" if method is not None else "")
        if verdict is None:
            return False
        self._spoil(front, request, verdict)
        self.settle()
        return True

    def _spoil(self, front: Front, request: HttpRequest, verdict: Verdict) -> None:
        if verdict.ending == "drop":
            front.abort()
        if verdict.taken:
            self._carry_out_rest(request)
        elif verdict.late_ms is not None:
            self._later(verdict.late_ms, partial(self._carry_out_rest, request))
        if verdict.ending == "mute":
            front.mute()
        elif verdict.ending != "drop":
            spoilt = self.faults.spoilt(verdict.ending)
            if spoilt.page:
                self._reply(front, spoilt.status, HTML_HEADERS, spoilt.page)
            else:
                body = msgspec.json.encode({"code": spoilt.code, "msg": spoilt.msg})
                self._reply(front, spoilt.status, JSON_HEADERS, body)

    # --- WebSockets

    def on_upgrade(self, ip: str, request: WSUpgradeRequest) -> WSListener | WSUpgradeResponseWithListener:
        """The connection for a path, or the HTTP answer that refuses it."""
        path, _, query = request.path.partition(b"?")
        api = path == b"/ws-api/v3"
        combined = path in (b"/stream", b"/stream/")
        if not api and not combined and path != b"/ws" and not path.startswith(b"/ws/"):
            return _refused(404, b"")
        refusal = self._connection_refusal(ip)
        if refusal is not None:
            return refusal
        self.counts["connections"] += 1
        options = parse_qs(query.decode("latin-1"))
        unit = (options.get("timeUnit") or ["MILLISECOND"])[-1].upper()
        if unit not in ("MILLISECOND", "MICROSECOND"):
            return _refused(400, msgspec.json.encode(errors.bad_time_unit().document()))
        scale = 1000 if unit == "MICROSECOND" else 1
        if api:
            return ApiConnection(self, ip, scale, query.decode("latin-1"))
        named = (options.get("streams") or [""])[-1] if combined else unquote(path[3:].decode("latin-1"))
        # A number is no stream: clients that subscribe later put one into the path to tell their connections apart.
        names = [name for name in named.split("/") if name and not name.isdigit()]
        if len(set(names)) > STREAMS_MAX:
            return _refused(400, b'{"code":4,"msg":"Too many subscriptions"}')
        return StreamConnection(self, ip, scale, names, combined=combined)

    def _connection_refusal(self, ip: str) -> WSUpgradeResponseWithListener | None:
        status, until_ms = self.faults.refused_until_ms(connecting=True)
        refusal = self._refusal(status, until_ms) if status else None
        if refusal is None:
            try:
                self.limits.connect(ip, self.now_ms())
            except errors.RateLimited as error:
                refusal = error
        if refusal is None:
            return None
        headers = {"Retry-After": str(refusal.retry_after_s)}
        return _refused(refusal.status, msgspec.json.encode(refusal.document()), headers)

    def close_connections(self, kind: str = "", *, politely: bool = False) -> int:
        """Ends WebSockets of a kind (ws-api, stream), or all; returns how many there were."""
        closed = [connection for connection in self.connections if kind in ("", connection.kind)]
        for connection in closed:
            if politely:
                connection.close(WSCloseCode.GOING_AWAY, "")
            else:
                connection.abort()
        return len(closed)

    # --- faults

    def switch(self, spec: str) -> None:
        """Switches faults on; raises SettingsError for a wrong `spec`."""
        for fault in self.faults.set(spec):
            if fault.name == "shutdown":
                self.clock.call_in(round(fault.seconds * SECOND_NS), self.shut_down, fault.ms)

    def shut_down(self, grace_ms: int) -> None:
        """Tells every WebSocket serverShutdown, and closes it `grace_ms` later; new ones are welcome."""
        told = tuple(self.connections)
        for connection in told:
            connection.send(connection.shutdown_frame())
        self.clock.call_in(grace_ms * MS_NS, self._close_all, told)

    @staticmethod
    def _close_all(told: Iterable[Connection]) -> None:
        for connection in told:
            connection.close(WSCloseCode.GOING_AWAY, "server shutdown")


def _answer(request_id: msgspec.Raw, error: errors.ApiError) -> bytes:
    """A WebSocket API reply that refuses."""
    body = msgspec.json.encode(error.document())
    return b'{"id":%b,"status":%d,"error":%b,"rateLimits":[]}' % (bytes(request_id), error.status, body)


def _refused(status: int, body: bytes, headers: Mapping[str, str] | None = None) -> WSUpgradeResponseWithListener:
    """An HTTP answer in place of an upgrade."""
    more = {"Content-Type": "application/json;charset=UTF-8", **(headers or {})}
    return WSUpgradeResponseWithListener(WSUpgradeResponse.create_error_response(status, body, more), None)


def _boundless() -> Rates:
    """Limits that a load run does not meet."""
    most = 10**12
    return Rates(weight=most, raw_requests=most, connections=most, orders_10s=most, orders_day=most)
