"""A live node without sockets: the real core and Binance client, against the local exchange's own code, in one process.

Always true here: time stands still, and what is due runs when `settle` is called. A frame that the exchange sends
reaches the client as the same bytes that a socket would bring, except what is timed: depth frames and reports of trades
wait in `frames` and `reports`. Commits go to memory, and are acknowledged one turn of the clock later.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from tbx.core.kernel.clock import Clock, ManualClock
from tbx.core.market.data import MarketData, StoredBook
from tbx.core.model.instruments import Instrument
from tbx.core.model.messages import SubmitOrder
from tbx.core.settings import load_settings
from tbx.core.state.memory import MemoryStore
from tbx.core.state.store import Loaded
from tbx.http.composition import Node
from tbx.http.exchanges import Core, LiveVenue, Trouble
from tbx.http.feed import Client, Feed
from tbx.venues.binance.client import BinanceVenue
from tbx.venues.binance.instruments import read_exchange_info
from tbx.venues.binance.signing import Ed25519Signer
from tbx.venues.client import VenueStatus
from tbx.venues.session import Cancel, Link
from tbx.venues.simulator.binance.server import LocalExchange
from tbx.venues.simulator.binance.streams import Topic

PAIR, SYMBOL = "BTC_USDT", "BTCUSDT"
MARKET = ("binance", PAIR)
MIDDLE = 60_000  # USDT
LEVELS = 10  # a side of the book, and of each depth frame
OUR_PRICE = Decimal(MIDDLE - 1)  # nobody else is there
FILLS = 10  # of an order; the last one completes it
FILL_QUANTITY = Decimal("0.001")
SETTINGS = {
    "MARKET": "binance",
    "PAPER_TRADING": "false",
    "LIVE_TRADING": "true",
    "BINANCE_API_KEY": "k" * 64,
    "BINANCE_API_SECRET": "s" * 64,
    "API_KEYS": f"bench:{'0' * 64}:read+trade",
    "MAX_POSITION_SIZE": "1",
    "ORDER_RATE_LIMIT": "0",
    "STOP_LOSS_ENABLED": "false",
    "MAX_RISK_PER_TRADE": "1",
    "MAX_DAILY_RISK": "1",
    "MAX_CORRELATED_EXPOSURE": "1",
    "RISK_SERVICE_URL": "none",
}


class TurnClock(ManualClock):
    """Time that stands still; what is due soon waits in a queue, as it does in an event loop, and not in a heap."""

    def __init__(self) -> None:
        super().__init__()
        self._soon: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()

    def call_soon(self, callback: Callable[..., object], *args: Any) -> None:  # type: ignore[override]
        self._soon.append((callback, args))

    def settle(self) -> None:
        soon = self._soon
        while soon:
            callback, args = soon.popleft()
            callback(*args)
            if not soon:
                super().settle()


class Wire:
    """A connection to the WebSocket API, without the socket in between."""

    scale = 1

    def __init__(self, exchange: LocalExchange, link: Link, reports: deque[bytes]) -> None:
        self.exchange = exchange
        self.link = link
        self.reports = reports
        self.sent = 0
        self.session = exchange.new_session("127.0.0.1", "")
        exchange.user_data.open(self.session, self)

    def send(self, raw: bytes) -> None:
        self.sent += 1
        self.exchange.clock.call_soon(self._arrived, raw)

    def _arrived(self, raw: bytes) -> None:
        for reply in self.session.receive(raw):
            self.link.take(reply)
        self.exchange.settle()

    def send_event(self, frame: bytes) -> None:
        if b'"x":"TRADE"' in frame:
            self.reports.append(frame)
        else:
            self.link.take(frame)

    def ping(self) -> None:
        self.link.sign()

    def close(self) -> None:
        self.exchange.user_data.close(self.session)


class Stream:
    """Who listens to the depth of the book."""

    scale, combined = 1, True

    def __init__(self, frames: deque[bytes]) -> None:
        self.topics: dict[str, Topic] = {}
        self.send = frames.append


class InProcess:
    """The exchanges of the node: one, with an account and a book that stands still. Also what feeds that book."""

    depth_max = 1_000
    warnings: Sequence[str] = ()
    shown = account = "binance in this process"

    def __init__(self, clock: Clock, local: LocalExchange, reports: deque[bytes]) -> None:
        self.clock = clock
        self.local = local
        self.reports = reports
        _, _, info = local.rest.handle("GET", "/api/v3/exchangeInfo", b"symbol=" + SYMBOL.encode(), b"", {})
        self.instruments: Sequence[Instrument] = read_exchange_info(info).instruments
        key = load_pem_private_key(local.accounts[0].ed25519_pem.encode(), None)
        assert isinstance(key, Ed25519PrivateKey)
        self.signer = Ed25519Signer(local.accounts[0].ed25519_api_key, key)
        self.link: Link | None = None
        self.wire: Wire | None = None

    def connect(self, _: str, link: Link) -> Cancel:
        self.link, self.wire = link, Wire(self.local, link, self.reports)
        self.clock.call_soon(link.opened, self.wire)
        return str

    def live_venues(self, core: Core, /) -> list[LiveVenue]:
        venue = BinanceVenue(
            core.kernel,
            self.clock,
            self.connect,
            "",
            self.signer,
            self.instruments,
            ours=lambda client_id: core.ids.order_of(client_id) is not None,
            jitter=core.jitter,
            on_trouble=core.trouble,
        )
        return [venue]

    def market_status(self) -> Mapping[str, VenueStatus]:
        return {}

    def source(self, _clock: Clock, market: MarketData, _: Iterable[StoredBook], _trouble: Trouble) -> InProcess:
        self.books = market
        return self

    def start(self) -> None:
        _, _, body = self.local.rest.handle("GET", "/api/v3/depth", b"symbol=" + SYMBOL.encode(), b"", {})
        self.books.frame(*MARKET, body, self.clock.now_ns())

    def stop(self) -> None:
        """Nothing runs."""

    def resync(self, *_: str) -> None:
        self.start()


class LiveNode:
    """The node, signed on, and one client of its feed that listens to every event."""

    def __init__(self, folder: Path, **settings: str) -> None:
        loop = asyncio.new_event_loop()  # nobody runs it
        self.clock = TurnClock()
        self.store = MemoryStore(self.clock.call_soon)
        self.reports: deque[bytes] = deque()
        self.local = LocalExchange(loop, self.clock, limited=False)
        self.frames: deque[bytes] = deque()
        self.local.streams.subscribe(Stream(self.frames), [f"{SYMBOL.lower()}@depth@100ms"])
        self.quote(1)
        self.troubles: list[str] = []
        self.exchanges = InProcess(self.clock, self.local, self.reports)
        epoch = self.store.acquire()
        self.node = Node(
            load_settings(SETTINGS | settings, folder),
            self.clock,
            self.store.writer(epoch),
            Loaded(meta={}, tables={}, seq=0, number=0, equity=[]),
            self._archive,
            lambda _, found: found(frozenset()),
            epoch=epoch,
            exchanges=self.exchanges,
            on_fault=lambda fault, error: self.troubles.append(f"{fault.where}: {fault.error}"),
            on_trouble=self.troubles.append,
        )
        feed = Feed(self.node.kernel, loop, None, "", pairs=[PAIR], snapshot=str)  # type: ignore[arg-type]
        self.client = Client(frozenset({"read"}), "bench")
        feed.clients.add(self.client)
        for channel in ("orders", "trades", "positions"):
            feed._listen(self.client, channel)
        self.node.kernel.feed.append(feed.committed)
        self.node.start()
        self.settle = self.clock.settle
        self.settle()
        assert self.exchanges.link is not None
        assert self.exchanges.wire is not None
        self.link, self.wire = self.exchanges.link, self.exchanges.wire
        self.check()

    def _archive(self, _orders: Any, _trades: Any, done: Callable[[None], None]) -> None:
        self.clock.call_soon(done, None)

    def check(self) -> None:
        """Raises RuntimeError where the node would not trade as it should."""
        waiting = self.node.venues["binance"].status().reason or self.node.accounts.pending("binance")
        if self.troubles or waiting:
            raise RuntimeError(f"the node is not as it should be: {waiting}; {self.troubles}")

    def buy(self) -> None:
        """An order that rests, and FILLS trades of it that nobody has been told yet."""
        answers: list[Any] = []
        quantity = FILLS * FILL_QUANTITY
        self.node.kernel.input(
            SubmitOrder(
                exchange=MARKET[0],
                pair=PAIR,
                side="buy",
                type="limit",
                quantity=quantity,
                price=OUR_PRICE,
                tif="GTC",
                reply=answers.append,
            )
        )
        self.settle()
        for _ in range(FILLS):
            self.local.deal(SYMBOL, "SELL", OUR_PRICE, FILL_QUANTITY)
        self.settle()
        if len(self.reports) != FILLS:
            raise RuntimeError(f"{len(self.reports)} reports of {FILLS} trades; {answers}; {self.troubles}")

    def take(self, report: bytes) -> None:
        """What is timed: from the report's bytes to the events in the queue of the client."""
        self.link.take(report)
        self.settle()

    def quote(self, quantity: int) -> None:
        """Another quantity at each level of the book, and the frame that tells it."""
        for level in range(1, LEVELS + 1):
            self.local.quote(SYMBOL, "BUY", MIDDLE - 10 * level, quantity)
            self.local.quote(SYMBOL, "SELL", MIDDLE + 10 * level, quantity)
        self.local.streams.publish(SYMBOL)

    def tick(self, frame: bytes) -> None:
        """What is timed: from a depth frame's bytes to whatever is sent because of it with DURABILITY=behind."""
        self.node.market.frame(*MARKET, frame, self.clock.now_ns())
