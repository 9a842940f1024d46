"""Our Binance venue against the local exchange, both on the test's loop, with all that the venue says to the core.

Time may run faster than it does (`speed`): exchange and venue share a clock, so that ten seconds without a reply take
half a second at a speed of 20.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from tbx.core.kernel.clock import SECOND_NS, SystemClock, Timer
from tbx.core.kernel.kernel import Kernel
from tbx.core.model.messages import (
    AmendAtVenue,
    AskAtVenue,
    BalanceMoved,
    BalancesReported,
    CancelAtVenue,
    ForeignFilled,
    PlaceAtVenue,
    VenueAccepted,
    VenueAmended,
    VenueContradicted,
    VenueEnded,
    VenueFilled,
    VenueRejected,
    VenueRequestFailed,
    VenueStateChanged,
    VenueUnknown,
)
from tbx.core.model.records import Amend
from tbx.core.state.memory import MemoryStore
from tbx.venues.binance.client import BinanceVenue
from tbx.venues.binance.instruments import read_exchange_info
from tbx.venues.binance.signing import Ed25519Signer, HmacSigner, Signer
from tbx.venues.picows_link import picows_connect
from tbx.venues.simulator.binance.accounts_keys import TestAccount
from tbx.venues.simulator.binance.server import LocalExchange

from .exchange_fixtures import fill_book
from .redis_fixtures import until

SAID = (
    VenueAccepted,
    VenueAmended,
    VenueContradicted,
    VenueEnded,
    VenueFilled,
    VenueRejected,
    VenueRequestFailed,
    VenueStateChanged,
    VenueUnknown,
    ForeignFilled,
    BalanceMoved,
    BalancesReported,
)
BTC = "BTC_USDT"
TICKS = 100  # of BTCUSDT, in one USDT
LOTS = 100_000  # of BTCUSDT, in one BTC


class QuickClock:
    """The loop's time, `speed` times as fast. A Clock."""

    def __init__(self, loop: asyncio.AbstractEventLoop, speed: int) -> None:
        self.loop = loop
        self.speed = speed
        self.began_ns, self.began_s = time.time_ns(), loop.time()
        self.call_soon = loop.call_soon

    def now_ns(self) -> int:
        return self.began_ns + int((self.loop.time() - self.began_s) * SECOND_NS) * self.speed

    def call_in(self, delay_ns: int, callback: Callable[..., object], *args: Any) -> Timer:
        return self.loop.call_later(max(0, delay_ns) / SECOND_NS / self.speed, callback, *args)


def ed25519(account: TestAccount) -> Signer:
    key = load_pem_private_key(account.ed25519_pem.encode(), None)
    assert isinstance(key, Ed25519PrivateKey)
    return Ed25519Signer(account.ed25519_api_key, key)


def hmac_keys(account: TestAccount) -> Signer:
    return HmacSigner(account.hmac_api_key, account.hmac_secret_key)


class Desk:
    """One venue on one exchange. `said` is all that the core was told, in order."""

    def __init__(self, exchange: LocalExchange, venue: BinanceVenue, kernel: Kernel, troubles: list[str]) -> None:
        self.exchange = exchange
        self.venue = venue
        self.kernel = kernel
        self.troubles = troubles
        self.said: list[Any] = []
        self.answers: dict[str, list[bool | None]] = {}
        for kind in SAID:
            kernel.bus.subscribe(kind, self.said.append)

    # --- what is asked

    def place(
        self, client_id: str, side: str = "buy", lots: int = 1_000, price: int | None = 50_000, **more: Any
    ) -> None:
        """A limit order of 0.01 BTC at a whole price in USDT; without one, at the market."""
        ticks = None if price is None else price * TICKS
        kind = more.pop("type", "market" if price is None else "limit")
        self.venue.place(
            PlaceAtVenue(
                client_id=client_id,
                pair=BTC,
                side=side,  # type: ignore[arg-type]
                type=kind,
                qty_lots=lots,
                price_ticks=ticks,
                tif=more.pop("tif", "IOC" if kind == "market" else "GTC"),
                **more,
            )
        )

    def cancel(self, client_id: str, venue_order_id: str | None = None) -> None:
        self.venue.cancel(CancelAtVenue(client_id=client_id, pair=BTC, venue_order_id=venue_order_id))

    def amend(self, client_id: str, lots: int | None = None, ticks: int | None = None) -> None:
        amend = Amend(qty_lots=lots, price_ticks=ticks)
        self.venue.amend(AmendAtVenue(client_id=client_id, pair=BTC, amend=amend))

    @staticmethod
    def question(client_id: str, **what: Any) -> AskAtVenue:
        """About an order as `place` sends it, whatever its price and quantity."""
        fields: dict[str, Any] = {"pair": BTC, "side": "buy", "qty_lots": 10_000_000, **what}
        return AskAtVenue(client_id=client_id, **fields)

    async def query(self, client_id: str, **what: Any) -> bool | None:
        """Ask once."""
        answers: list[bool | None] = []
        self.venue.query(self.question(client_id, **what), answers.append)
        await until(lambda: bool(answers), f"an answer about {client_id}")
        return answers[0]

    async def truth(self, client_id: str) -> bool:
        """Ask as the core does, until the venue knows."""
        while (taken := await self.query(client_id)) is None:
            await asyncio.sleep(0.01)
        return taken

    # --- what is said

    def of(self, client_id: str, *kinds: type) -> list[Any]:
        chosen = kinds or SAID
        return [m for m in self.said if getattr(m, "client_id", "") == client_id and isinstance(m, chosen)]

    async def hear(self, client_id: str, kind: type, count: int = 1) -> Any:
        """The message of a kind about an order, waited for."""
        await until(lambda: len(self.of(client_id, kind)) >= count, f"{kind.__name__} of {client_id}")
        return self.of(client_id, kind)[count - 1]

    async def hear_state(self, *, up: bool, count: int = 1) -> VenueStateChanged:
        def told() -> list[VenueStateChanged]:
            return [m for m in self.said if isinstance(m, VenueStateChanged) and m.up == up]

        await until(lambda: len(told()) >= count, f"up={up}")
        return told()[count - 1]

    def filled(self, client_id: str) -> int:
        """Lots, each trade once."""
        return sum({m.trade_id: m.qty_lots for m in self.of(client_id, VenueFilled)}.values())

    def at_exchange(self, client_id: str) -> list[Any]:
        """Every order there that was ever placed with this client id."""
        name = self.exchange.accounts[0].name
        return [o for o in self.exchange.exchange.all_orders(name, "BTCUSDT") if o.client_order_id == client_id]

    def faults(self, spec: str) -> None:
        self.exchange.faults.clear()
        self.exchange.switch(spec)


@asynccontextmanager
async def a_desk(
    *,
    speed: int = 1,
    signer: Callable[[TestAccount], Signer] = ed25519,
    connected: bool = True,
    exchange_options: dict[str, Any] | None = None,
    **session: int,
) -> AsyncIterator[Desk]:
    """A venue that is signed on to an exchange with a book around 60,000; `session` are times of its session."""
    loop = asyncio.get_running_loop()
    clock = SystemClock(loop, time.time_ns) if speed == 1 else QuickClock(loop, speed)
    exchange = LocalExchange(loop, clock, **(exchange_options or {}))
    await exchange.start()
    fill_book(exchange)
    async with httpx.AsyncClient(base_url=exchange.url_rest, trust_env=False) as client:
        listing = read_exchange_info((await client.get("/api/v3/exchangeInfo")).content)
    kernel = Kernel(clock, MemoryStore(clock.call_soon))
    troubles: list[str] = []
    venue = BinanceVenue(
        kernel,
        clock,
        picows_connect(loop),
        exchange.url_ws_api,
        signer(exchange.accounts[0]),
        listing.instruments,
        ours=lambda client_id: client_id.startswith("tbx-"),
        jitter=lambda: 0.5,
        on_trouble=troubles.append,
        **session,
    )
    desk = Desk(exchange, venue, kernel, troubles)
    try:
        venue.start()
        if connected:
            await desk.hear_state(up=True)
        yield desk
        assert kernel.faults == []
    finally:
        venue.stop()
        await exchange.stop()


def price_of(message: VenueFilled) -> Decimal:
    """Of BTCUSDT, in USDT."""
    return Decimal(message.price_ticks) / TICKS
