"""The local exchange inside the test's own loop, and a plain client of its WebSocket API to ask it with.

`in_loop` (redis_fixtures) runs a test on the kind of loop that the exchange runs on in earnest. The clients here are
other people's (websockets, httpx): what they accept, a real client accepts.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from websockets.asyncio.client import ClientConnection, connect

from tbx.core.kernel.clock import SystemClock
from tbx.venues.simulator.binance.accounts_keys import TestAccount
from tbx.venues.simulator.binance.server import LocalExchange

ANSWER_S = 5.0


@asynccontextmanager
async def an_exchange(**options: Any) -> AsyncIterator[LocalExchange]:
    """A LocalExchange that listens on a free port; `options` are its own."""
    loop = asyncio.get_running_loop()
    exchange = LocalExchange(loop, SystemClock(loop, time.time_ns), **options)
    await exchange.start()
    try:
        yield exchange
    finally:
        await exchange.stop()


def fill_book(exchange: LocalExchange, symbol: str = "BTCUSDT") -> None:
    """Three levels a side around 60,000."""
    for distance in (10, 20, 30):
        exchange.quote(symbol, "BUY", 60_000 - distance, 1)
        exchange.quote(symbol, "SELL", 60_000 + distance, 1)


def rest(exchange: LocalExchange) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=exchange.url_rest, timeout=ANSWER_S, trust_env=False)


def signed_query(account: TestAccount, now_ms: int, **params: Any) -> str:
    """REST parameters with an HMAC signature."""
    text = "&".join(f"{name}={value}" for name, value in {**params, "timestamp": now_ms}.items())
    return f"{text}&signature={hmac.new(account.hmac_secret_key.encode(), text.encode(), hashlib.sha256).hexdigest()}"


class ApiClient:
    """A connection to the WebSocket API. Replies and events are kept apart; `frames` holds both in order."""

    def __init__(self, socket: ClientConnection, account: TestAccount, exchange: LocalExchange) -> None:
        self.socket = socket
        self.account = account
        self.exchange = exchange
        self.frames: list[dict[str, Any]] = []
        self.events: list[dict[str, Any]] = []  # of the account, out of their envelope
        self._numbers = 0

    async def receive(self) -> dict[str, Any]:
        """The next frame, whatever it is."""
        async with asyncio.timeout(ANSWER_S):
            frame: dict[str, Any] = json.loads(await self.socket.recv())
        self.frames.append(frame)
        if "event" in frame:
            self.events.append(frame["event"])
        return frame

    async def send(self, method: str, **params: Any) -> int:
        """A request; returns its id."""
        self._numbers += 1
        await self.socket.send(json.dumps({"id": self._numbers, "method": method, "params": params}))
        return self._numbers

    async def reply(self, number: int) -> dict[str, Any]:
        """The reply to that request; events that come before are kept."""
        for frame in self.frames:
            if frame.get("id") == number and "status" in frame:
                return frame
        while True:
            frame = await self.receive()
            if frame.get("id") == number and "status" in frame:
                return frame

    async def ask(self, method: str, **params: Any) -> dict[str, Any]:
        return await self.reply(await self.send(method, **params))

    async def order(self, **params: Any) -> dict[str, Any]:
        """order.place: a limit order to buy 0.01 BTCUSDT at 50,000 unless `params` say otherwise."""
        return await self.ask("order.place", **self.an_order(**params))

    def an_order(self, **params: Any) -> dict[str, Any]:
        order = {"symbol": "BTCUSDT", "side": "BUY", "type": "LIMIT", "timeInForce": "GTC"}
        order |= {"price": "50000.00", "quantity": "0.01", "timestamp": self.exchange.now_ms(), **params}
        return {name: value for name, value in order.items() if value is not None}

    async def event(self, kind: str, **fields: Any) -> dict[str, Any]:
        """The first event of the kind with these fields, waited for if it has not come."""
        seen = 0
        while True:
            for event in self.events[seen:]:
                if event["e"] == kind and all(event.get(name) == value for name, value in fields.items()):
                    return event
            seen = len(self.events)
            await self.receive()

    async def log_on(self) -> dict[str, Any]:
        """session.logon with the account's Ed25519 key."""
        key = load_pem_private_key(self.account.ed25519_pem.encode(), None)
        assert isinstance(key, Ed25519PrivateKey)
        now_ms = self.exchange.now_ms()
        signature = key.sign(f"apiKey={self.account.ed25519_api_key}&timestamp={now_ms}".encode())
        reply = await self.ask(
            "session.logon",
            apiKey=self.account.ed25519_api_key,
            timestamp=now_ms,
            signature=base64.b64encode(signature).decode(),
        )
        assert reply["status"] == 200, reply
        return reply

    async def subscribe(self) -> int:
        """userDataStream.subscribe; returns the subscription's number."""
        reply = await self.ask("userDataStream.subscribe")
        assert reply["status"] == 200, reply
        return int(reply["result"]["subscriptionId"])


@asynccontextmanager
async def an_api_client(
    exchange: LocalExchange, account: int = 0, *, log_on: bool = True, subscribe: bool = True, query: str = ""
) -> AsyncIterator[ApiClient]:
    """A client of the WebSocket API, logged on and listening to its account unless told otherwise."""
    async with connect(exchange.url_ws_api + query) as socket:
        client = ApiClient(socket, exchange.accounts[account], exchange)
        if log_on:
            await client.log_on()
        if log_on and subscribe:
            await client.subscribe()
        yield client


class StreamClient:
    """A market stream connection."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.frames: list[Any] = []
        self._numbers = 0

    async def receive(self) -> Any:
        async with asyncio.timeout(ANSWER_S):
            frame = json.loads(await self.socket.recv())
        self.frames.append(frame)
        return frame

    async def ask(self, method: str, *params: Any) -> Any:
        """SUBSCRIBE and its kind; the reply."""
        self._numbers += 1
        await self.socket.send(json.dumps({"method": method, "params": list(params), "id": self._numbers}))
        return await self.frame(lambda frame: isinstance(frame, dict) and frame.get("id") == self._numbers)

    async def frame(self, wanted: Callable[[Any], bool]) -> Any:
        """The next frame that is wanted; those before are passed over."""
        while True:
            frame = await self.receive()
            if wanted(frame):
                return frame


@asynccontextmanager
async def a_stream_client(exchange: LocalExchange, path: str) -> AsyncIterator[StreamClient]:
    async with connect(exchange.url_stream + path) as socket:
        yield StreamClient(socket)
