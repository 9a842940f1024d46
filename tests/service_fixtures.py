"""The service's surface over real sockets: a whole node with the simulated market, behind uvicorn on a free port.

The store is in memory (`a_service`) or a real Redis (`a_service(store=...)`); everything else is what `tbx serve` runs.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from tbx.core.kernel.clock import SystemClock
from tbx.core.orders.queries import OrderQueries
from tbx.core.settings import Settings, load_settings
from tbx.core.state.memory import MemoryStore
from tbx.core.state.store import Loaded, Store
from tbx.http.app import App, server_options
from tbx.http.composition import Node
from tbx.http.context import Api, readiness_of
from tbx.http.preview import Previewer
from tbx.strategies_bridge.services.health import Services, ServiceStatus

from .redis_fixtures import until
from .risk_off import OLD_RISK_LIMITS

EMPTY = Loaded(meta={}, tables={}, seq=0, number=0, equity=[])


class MemoryJournal:
    """The journal of a MemoryStore, read as the store of Redis is."""

    def __init__(self, store: MemoryStore) -> None:
        self.store = store

    async def journal_since(self, seq: int, limit: int) -> list[tuple[int, bytes]] | None:
        return [entry for entry in self.store.journal if entry[0] > seq][:limit]


class Acknowledgements:
    """How the store in memory says that a commit is done: at once, or when the test lets it."""

    def __init__(self, call_soon: Any) -> None:
        self.call_soon = call_soon
        self.held: list[tuple[Any, ...]] | None = None

    def __call__(self, *call: Any) -> None:
        if self.held is None:
            self.call_soon(*call)
        else:
            self.held.append(call)

    def hold(self) -> None:
        self.held = []

    def release(self) -> None:
        held, self.held = self.held or [], None
        for call in held:
            self.call_soon(*call)


class Lines:
    """A log that keeps its lines."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, dict[str, object]]] = []

    def execution(self, level: str, text: str, **fields: object) -> None:
        self.lines.append((level, text, fields))

    def error(self, word: str, fields: Mapping[str, object]) -> None:
        self.lines.append(("error", word, dict(fields)))


class Served:
    """A running service, and how to reach it."""

    def __init__(self, app: App, node: Node, store: Any, port: int, log: Lines, commits: Acknowledgements) -> None:
        self.app = app
        self.node = node
        self.store = store
        self.port = port
        self.log = log
        self.commits = commits
        self.url = f"http://127.0.0.1:{port}"
        self.ws = f"ws://127.0.0.1:{port}/ws"
        self.http = httpx.AsyncClient(base_url=self.url, timeout=10)

    async def order(self, **fields: Any) -> httpx.Response:
        """A market buy of 1,000 RVN at xeggex, changed by `fields`; a field that is None is left out."""
        body = {"pair": "RVN_USDT", "side": "buy", "type": "market", "quantity": 1000, "exchange": "xeggex"} | fields
        return await self.http.post("/api/orders", json={k: v for k, v in body.items() if v is not None})

    async def resting(self, **fields: Any) -> dict[str, Any]:
        """A limit buy far below the market, on the book."""
        answer = await self.order(**({"type": "limit", "price": "0.02", "timeout": 0} | fields))
        assert answer.status_code == 201, answer.text
        return answer.json()


class Others:
    """The other services of the bot, asked only where the test says where one of them is."""

    def __init__(self, environment: Mapping[str, str], settings: Settings, node: Node, log: Lines) -> None:
        self.services: Services | None = None
        if any(name.endswith("_SERVICE_URL") for name in environment):
            self.services = Services(settings, node.kernel, tell=lambda text: log.execution("error", text))
            self.services.advise(node.advising)
            self.looking = asyncio.ensure_future(self.services.run())

    def statuses(self) -> Mapping[str, ServiceStatus]:
        return self.services.statuses() if self.services is not None else {}

    async def close(self) -> None:
        if self.services is not None:
            self.looking.cancel()
            await self.services.stop()
            await self.services.aclose()


async def answering(app: App, listener: socket.socket) -> uvicorn.Server:
    """What `serve` does, without its main loop, which looks ten times a second whether it shall end."""
    config = uvicorn.Config(app.asgi, **server_options())
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup(sockets=[listener])
    return server


@asynccontextmanager
async def a_service(
    folder: Path, environment: dict[str, str] | None = None, *, store: Store | None = None
) -> AsyncIterator[Served]:
    loop = asyncio.get_running_loop()
    settings = load_settings({**OLD_RISK_LIMITS, "PAPER_LATENCY_MS": "0", **(environment or {})}, folder)
    clock = SystemClock(loop, time.time_ns)
    commits = Acknowledgements(loop.call_soon)
    memory = MemoryStore(commits)
    memory.acquire()
    loaded = EMPTY if store is None else await store.load()
    no_archive = (lambda _, __, done: done(None), lambda _, found: found(frozenset()))
    node = Node(settings, clock, store or memory, loaded, *no_archive, epoch=1)
    log = Lines()
    journal = store or MemoryJournal(memory)

    async def refresh() -> None:
        node.portfolio.revalue()

    others = Others(environment or {}, settings, node, log)
    node.start()
    api = Api(
        kernel=node.kernel,
        settings=settings,
        loop=loop,
        queries=OrderQueries(node.orders),
        portfolio=node.portfolio,
        subledgers=node.subledgers,
        signals=node.signals,
        risk=node.overview,
        market=node.market,
        journal=journal,
        epoch="j1",
        instruments=node.instruments,
        venues=list(node.paper_venues.values()),
        readiness=lambda: readiness_of(node.kernel, reconciled=node.recovery.settled, venue=True),
        trading_state=lambda: node.guard.state.value,
        trading_why=lambda: node.guard.why,
        preview=Previewer(node.engine, node.checks, node.advising, clock),
        refresh=refresh,
        log=log,
        started_ns=time.time_ns(),
        open_orders=node.orders.open.values,
        history=node.history,
        services=others.statuses,
    )
    app = App(api)
    listener = socket.create_server(("127.0.0.1", 0))
    server = await answering(app, listener)
    served = Served(app, node, store or memory, listener.getsockname()[1], log, commits)
    await until(lambda: node.market.fresh("xeggex", "RVN_USDT", time.time_ns()), "a book")
    try:
        yield served
    finally:
        await served.http.aclose()
        await app.close()
        await server.shutdown(sockets=[listener])
        await others.close()
        node.stop()
