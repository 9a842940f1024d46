"""Clients that others wrote (Binance's official SDK, ccxt) beside a local exchange in a thread of its own.

The SDK's REST client and ccxt's plain one block, so the exchange may not live on the test's thread: it runs on an event
loop in another one, and a test reaches into it (levels of the book, trades of the house, deposits) by `call`.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import pytest
import uvloop
from binance_common.configuration import ConfigurationRestAPI
from binance_common.errors import BadRequestError, Error
from binance_sdk_spot.rest_api import SpotRestAPI
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from pydantic import BaseModel

from tbx.core.kernel.clock import SystemClock
from tbx.venues.simulator.binance.server import LocalExchange

T = TypeVar("T")
PATIENCE_S = 10.0

# What the SDK logs when an answer or an event is not what its own models declare.
DISAGREEMENTS = ("did not match the declared types", "Failed to parse", "Unknown user data event", "Error in callback")


class Venue:
    """A local exchange that runs beside the test. BTCUSDT has a book of three levels a side, and traded at 60,010."""

    def __init__(self, loop: asyncio.AbstractEventLoop, exchange: LocalExchange) -> None:
        self.loop = loop
        self.exchange = exchange
        self.url_rest, self.url_ws_api, self.url_stream = exchange.url_rest, exchange.url_ws_api, exchange.url_stream
        self.accounts = exchange.accounts
        first = self.accounts[0]
        self.hmac_key, self.hmac_secret = first.hmac_api_key, first.hmac_secret_key
        self.ed25519_key, self.ed25519_pem = first.ed25519_api_key, first.ed25519_pem

    def call(self, what: Callable[..., T], *words: Any) -> T:
        """Call into the exchange on its own loop, and wait for the answer."""

        async def on_loop() -> T:
            return what(*words)

        return asyncio.run_coroutine_threadsafe(on_loop(), self.loop).result(PATIENCE_S)

    def level(self, side: str, price: str, qty: str, symbol: str = "BTCUSDT") -> None:
        """What the house shows at a price; "0" is nothing."""
        self.call(self.exchange.quote, symbol, side, price, qty)

    def trade(self, side: str, price: str, qty: str, symbol: str = "BTCUSDT") -> None:
        """The house buys up to a price, or sells down to it."""
        self.call(self.exchange.deal, symbol, side, price, qty)

    def deposit(self, asset: str, amount: str) -> None:
        self.call(self.exchange.deposit, self.accounts[0].name, asset, amount)

    def register_rsa(self, public_pem: str) -> str:
        """The api key of the first account for an RSA key that a client brings."""
        return self.call(self.exchange.keys.register_rsa, self.accounts[0].name, public_pem).api_key

    def fault(self, spec: str) -> None:
        self.call(self.exchange.switch, spec)

    def skew(self, ms: int) -> None:
        """How far the exchange's clock is ahead."""
        self.fault(f"skew:ms={ms}")

    def drop_connections(self) -> None:
        self.call(self.exchange.close_connections)


BOOK = (
    ("BUY", (("59990", "2"), ("59980", "3"), ("59970", "5"))),
    ("SELL", (("60010", "1"), ("60020", "2"), ("60030", "5"))),
)


@contextmanager
def a_venue(**options: Any) -> Iterator[Venue]:
    """A local exchange in a thread of its own, for as long as the block lasts. `options` are LocalExchange's."""
    loop = uvloop.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="local exchange", daemon=True)
    thread.start()

    async def started() -> LocalExchange:
        exchange = LocalExchange(loop, SystemClock(loop, time.time_ns), **options)
        await exchange.start()
        return exchange

    try:
        exchange = asyncio.run_coroutine_threadsafe(started(), loop).result(PATIENCE_S)
        venue = Venue(loop, exchange)
        try:
            venue.level("SELL", "60010", "0.001")
            venue.trade("BUY", "60010", "0.001")
            for side, levels in BOOK:
                for price, qty in levels:
                    venue.level(side, price, qty)
            yield venue
        finally:
            asyncio.run_coroutine_threadsafe(exchange.stop(), loop).result(PATIENCE_S)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(PATIENCE_S)
        loop.close()


def rsa_pair() -> tuple[str, str]:
    """A private and its public key, both as PEM."""
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    public = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(), public.decode()


def unknown_fields(document: object, path: str = "") -> list[str]:
    """Every field of a parsed answer that the SDK's models do not know."""
    if isinstance(document, list):
        return [name for number, item in enumerate(document) for name in unknown_fields(item, f"{path}[{number}]")]
    if not isinstance(document, BaseModel):
        return []
    inner = getattr(document, "actual_instance", None)
    found = [f"{path}.{name}" for name in getattr(document, "additional_properties", {})]
    for name in type(document).model_fields:
        if name not in ("additional_properties", "one_of_schemas") and not name.endswith("_validator"):
            found += unknown_fields(getattr(document, name, None), f"{path}.{name}")
    return found if inner is None else found + unknown_fields(inner, path)


@contextmanager
def agreeing() -> Iterator[None]:
    """Fails when the SDK logs that an answer or an event is not of the types that it declares."""
    said: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if any(words in record.getMessage() for words in DISAGREEMENTS):
                said.append(record.getMessage())

    listener = Listener(logging.WARNING)
    logging.getLogger().addHandler(listener)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(listener)
    assert not said, said


async def within(what: Awaitable[T]) -> T:
    return await asyncio.wait_for(what, PATIENCE_S)


class Heard:
    """What a stream delivered, in order; `until` waits for the first that fits."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[Any] = asyncio.Queue()

    def __call__(self, message: Any) -> None:
        self.queue.put_nowait(message)

    async def until(self, fits: Callable[[Any], bool] = lambda message: True) -> Any:
        while not fits(message := await within(self.queue.get())):
            pass
        return message


@contextmanager
def rest_client(venue: Venue, **settings: Any) -> Iterator[SpotRestAPI]:
    """The SDK with the HMAC key pair, unless others are given."""
    keys = {"api_key": venue.hmac_key, "api_secret": venue.hmac_secret}
    settings = settings if "api_key" in settings else keys | settings
    patience = {"timeout": 5000, "retries": 0, "backoff": 1}
    api = SpotRestAPI(ConfigurationRestAPI(**patience | settings, base_path=venue.url_rest))
    try:
        yield api
    finally:
        api._session.close()


def known(response: Any) -> Any:
    """The parsed answer, once nothing in it is foreign to the SDK's models."""
    data = response.data()
    assert unknown_fields(data) == []
    return data


def refused(
    call: Callable[..., Any], *words: Any, kind: type[Error] = BadRequestError, **order: Any
) -> tuple[int | None, str]:
    """Code and text of what the SDK raises."""
    with pytest.raises(kind) as caught:
        call(*words, **order)
    return getattr(caught.value, "status_code", None), getattr(caught.value, "error_message", "")
