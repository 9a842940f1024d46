"""`tbx exchange` and `tbx serve` live against it, both as people run them, and the official SDK beside them.

`agree` asks the exchange through the SDK for every order, trade and balance of the account, and the service through
its API, until both say the same.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
from binance_common.configuration import ConfigurationRestAPI
from binance_sdk_spot.rest_api import SpotRestAPI

from tbx.core.setting_values import key_digest

from .exchange_process import ExchangeProcess
from .live_desk import order_id_of
from .risk_off import NO_RISK_LIMITS
from .service_process import ServiceProcess

API_KEY = "tbx_a_key_of_the_tests"
SYMBOLS = {"BTC_USDT": "BTCUSDT", "ETH_USDT": "ETHUSDT"}
AGREE_S = 90.0  # an order that was lost on its way is proven not taken after 16 s; more where the machine is busy
CLIENTS, BURST_LEAST = 6, 20  # of a burst, and how many orders each makes at least
PAGE = 500


class Live:
    """An exchange with one service on its first account. `first` and `second` are SDK clients of both accounts."""

    def __init__(self, exchange: ExchangeProcess, folder: Path, *, hmac: bool = False) -> None:
        self.exchange = exchange
        self.first, self.second = (sdk_of(exchange, number) for number in (0, 1))
        self.seen = set(self._ours())  # orders of a service before this one
        digest = key_digest(API_KEY).hex()
        settings = {
            "MARKET": "binance",
            "PAPER_TRADING": "false",
            "LIVE_TRADING": "true",
            "BINANCE_REST_URL": exchange.url_rest,
            "BINANCE_WS_API_URL": exchange.url_ws_api,
            "BINANCE_STREAM_URL": exchange.url_stream,
            "BINANCE_PAIRS": ",".join(SYMBOLS),
            "API_KEYS": f"tests:{digest}:read+trade+admin",
            "RATE_LIMIT": "0",
            **NO_RISK_LIMITS,
            "NODE_ID": "hmac" if hmac else "main",
        }
        keys = exchange.accounts[0]["hmac" if hmac else "ed25519"]
        if hmac:
            settings["BINANCE_API_SECRET"] = keys["secretKey"]
        else:
            pem = folder / "key.pem"
            pem.touch(mode=0o600)
            pem.write_text(keys["privateKeyPem"])
            settings["BINANCE_PRIVATE_KEY_FILE"] = str(pem)
        self.service = ServiceProcess(folder, BINANCE_API_KEY=keys["apiKey"], **settings)
        self.service.http.headers["authorization"] = f"Bearer {API_KEY}"

    @property
    def http(self) -> httpx.Client:
        return self.service.http

    # --- orders through the API

    def order(self, side: str = "buy", quantity: str = "0.01", **more: Any) -> httpx.Response:
        """At the market, or with `price` a limit order, of BTC_USDT unless another pair is named."""
        body = {"pair": "BTC_USDT", "exchange": "binance", "side": side, "quantity": quantity, **more}
        body.setdefault("type", "limit" if "price" in body else "market")
        return self.http.post("/api/orders", json=body)

    def placed(self, side: str = "buy", quantity: str = "0.01", **more: Any) -> str:
        """The id of an order that was taken."""
        answer = self.order(side, quantity, **more)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["orderId"])

    def burst(self, meanwhile: Callable[[], object]) -> list[str]:
        """Orders from a few clients at once, each sent again under its own id until it is taken, until `meanwhile` has
        happened in the middle of it. Returns the ids of the orders."""
        name, over = f"burst{time.monotonic_ns()}", threading.Event()
        taken: list[str] = []

        def client(number: int) -> None:
            count = 0
            while not over.is_set() or count < BURST_LEAST:
                count += 1
                side, away = ("buy", 0) if count % 2 else ("sell", 40)
                price = 59_980 + away + count % 3 * 10 - 10 if count % 4 < 2 else 59_000 + away * 50
                taken.append(self._persist(side, price, f"{name}-{number}-{count}"))
                over.wait(0.01)  # a hundred a second from each

        with ThreadPoolExecutor(CLIENTS) as pool:
            clients = [pool.submit(client, number) for number in range(CLIENTS)]
            try:
                wait_for(lambda: len(taken) >= CLIENTS * BURST_LEAST // 2, "the beginning of the burst")
                meanwhile()
            finally:
                over.set()
            for done in clients:
                done.result()
        return taken

    def _persist(self, side: str, price: int, client_order_id: str) -> str:
        """The id of an order that is taken, however often it has to be sent."""
        deadline = time.monotonic() + AGREE_S
        while True:
            try:
                answer = self.order(side, "0.002", price=price, clientOrderId=client_order_id)
                if answer.status_code in (200, 201):
                    return str(answer.json()["orderId"])
                assert answer.status_code in (409, 503), answer.text
            except httpx.TransportError:
                pass  # the service is gone; another one will come
            assert time.monotonic() < deadline, "never taken"
            time.sleep(0.05)  # as a client does that was told to come again

    # --- what both say

    def _all(self, what: Callable[..., Any], id_name: str, symbol: str) -> Iterator[Any]:
        """Every page."""
        start = 0
        while True:
            page = what(symbol=symbol, limit=PAGE, **{id_name: start}).data()
            yield from page
            if len(page) < PAGE:
                return
            start = (page[-1].order_id if id_name == "order_id" else page[-1].id) + 1

    def _ours(self) -> dict[tuple[str, int], Any]:
        orders = ((s, o) for s in SYMBOLS.values() for o in self._all(self.first.all_orders, "order_id", s))
        return {(s, o.order_id): o for s, o in orders if o.client_order_id.startswith("tbx-")}

    def there(self) -> dict[str, Any]:
        """At the exchange: how much each order of this service has traded and whether it is open, by our
        order id; trades; balances."""
        orders: dict[str, tuple[Decimal, bool]] = {}
        ids, ours = [], {key: order for key, order in self._ours().items() if key not in self.seen}
        for order in ours.values():
            name = order_id_of(order.client_order_id, self.service.settings["NODE_ID"])
            traded, is_open = orders.get(name, (Decimal(0), False))
            still = order.status in ("NEW", "PARTIALLY_FILLED")
            assert not (is_open and still), f"{name} is there twice"
            orders[name] = (traded + Decimal(order.executed_qty), is_open or still)
            ids.append(order.client_order_id)
        assert len(set(ids)) == len(ids), "a client id was used twice"
        trades = {
            (symbol, str(t.id)): (Decimal(t.price), Decimal(t.qty), Decimal(t.commission), t.commission_asset)
            for symbol in SYMBOLS.values()
            for t in self._all(self.first.my_trades, "from_id", symbol)
            if (symbol, t.order_id) in ours
        }
        held = self.first.get_account(omit_zero_balances=True).data().balances or []
        balances = {str(b.asset): Decimal(b.free or 0) + Decimal(b.locked or 0) for b in held}
        return {"orders": orders, "trades": trades, "balances": balances}

    def here(self) -> dict[str, Any]:
        """The same as the service's API tells it, with all that it holds or that ended without having been there."""
        orders: dict[str, tuple[Decimal, bool]] = {}
        for order in self._pages("orders"):
            assert order["status"] != "unknown"
            orders[order["orderId"]] = (
                Decimal(order["filledQuantity"]),
                order["status"] in ("submitted", "open", "partial"),
            )
        trades = {
            (SYMBOLS[t["pair"]], t["tradeId"]): (t["price"], t["quantity"], t["fee"], t["feeCurrency"])
            for t in self._pages("trades")
        }
        balances = {b["currency"]: b["total"] for b in self.get("/api/portfolio")["balances"] if b["total"]}
        return {"orders": orders, "trades": trades, "balances": balances}

    def get(self, path: str) -> Any:
        answer = self.http.get(path)
        assert answer.status_code == 200, answer.text
        return json.loads(answer.text, parse_float=Decimal, parse_int=Decimal)

    def _pages(self, what: str) -> Iterator[dict[str, Any]]:
        page = 1
        while True:
            found = self.get(f"/api/{what}?limit={PAGE}&page={page}")[what]
            yield from found
            if len(found) < PAGE:
                return
            page += 1

    def agree(self) -> dict[str, Any]:
        """Wait until both say the same; returns it."""
        wait_for(lambda: self.http.get("/readyz").status_code == 200, "ready")
        both: list[Any] = [None, None]

        def same() -> bool:
            try:
                both[:] = [self.there(), self.here()]
            except AssertionError as error:
                both[:] = [str(error), None]
                return False
            for name in [name for name in both[1]["orders"] if name not in both[0]["orders"]]:
                if both[1]["orders"][name] == (0, False):  # both say that nothing came of it
                    del both[1]["orders"][name]
            return bool(both[0] == both[1])

        try:
            wait_for(same, "agreement", every_s=0.2)
        except AssertionError:
            raise AssertionError(difference(*both)) from None
        return dict(both[0])


def difference(there: Any, here: Any) -> str:
    if here is None:
        return str(there)
    lines = []
    for what in there:
        for key in there[what].keys() | here[what].keys():
            ours, theirs = here[what].get(key), there[what].get(key)
            if ours != theirs:
                lines.append(f"{what} {key}: the exchange says {theirs}, the service {ours}")
    return "\n".join(lines)


def wait_for(condition: Callable[[], object], what: str, every_s: float = 0.01) -> None:
    """Two processes and no event that tells of both: look again, within a bound."""
    deadline = time.monotonic() + AGREE_S
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(every_s)


def sdk_of(exchange: ExchangeProcess, number: int) -> SpotRestAPI:
    keys = exchange.accounts[number]["hmac"]
    return SpotRestAPI(
        ConfigurationRestAPI(
            api_key=keys["apiKey"],
            api_secret=keys["secretKey"],
            base_path=exchange.url_rest,
            timeout=5_000,
            retries=0,
            backoff=1,
        )
    )


def new_order(sdk: SpotRestAPI, side: str, quantity: float, price: float, **more: Any) -> Any:
    """A limit order of BTCUSDT that does not rest, by the SDK; its answer."""
    order = {"symbol": "BTCUSDT", "type": "LIMIT", "time_in_force": "IOC", **more}
    return sdk.new_order(side=side, quantity=quantity, price=price, **order).data()  # type: ignore[arg-type]


@contextmanager
def an_exchange() -> Iterator[ExchangeProcess]:
    """With books around 60,000 and 3,000 USDT."""
    with ExchangeProcess("--no-limits") as exchange:
        for symbol, mid in (("BTCUSDT", 60_000), ("ETHUSDT", 3_000)):
            for step in (1, 2, 3):
                distance = mid * step // 1_000
                exchange.control("quote", symbol=symbol, side="BUY", price=str(mid - distance), qty="5")
                exchange.control("quote", symbol=symbol, side="SELL", price=str(mid + distance), qty="5")
        yield exchange


@contextmanager
def live(exchange: ExchangeProcess, folder: Path, *, hmac: bool = False) -> Iterator[Live]:
    """The service, ready."""
    both = Live(exchange, folder, hmac=hmac)
    try:
        both.service.start()
        yield both
    finally:
        both.service.close()
        for sdk in (both.first, both.second):
            sdk._session.close()
