"""The composition root: settings -> Redis -> kernel -> actors -> venues -> server; and the way down again.

    up     port, kernels, Redis, state, actors, market, recovery, HTTP
    down   no new requests, feed says so, market stops, last commit, Redis, logs

What can go wrong on the way up ends in one line and exit code 2, with nothing left running.
"""

import asyncio
import contextlib
import ctypes
import functools
import gc
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import uvicorn
import uvloop

from ..core.kernel.clock import MS_NS, SystemClock
from ..core.kernel_cache import warm_up
from ..core.model.errors import SettingsError, StoreError
from ..core.model.messages import Faulted, StoreStateChanged
from ..core.orders.queries import OrderQueries
from ..core.risk.guard import TradingState
from ..core.settings import Settings
from ..core.state.archive import Archive, ArchivedOrder, ArchivedTrade
from ..core.state.server import EmbeddedRedis
from ..core.state.store import Store
from ..venues.background import watch
from .app import App, server_options
from .archive import ArchivedHistory
from .composition import Node
from .context import Api, Readiness
from .eventlog import EventLog
from .exchanges import Exchanges, Simulated
from .logfiles import LogFiles
from .neighbours import Neighbours
from .preview import Previewer

EXIT_FENCED = 3  # another process is the writer, or Redis holds another state
LOG_FLUSH_S = 0.1
WATCH_REDIS_S = 0.5
READY_TIMEOUT_S = 30.0
SHUTDOWN_TIMEOUT_S = 10.0
RECONCILE_TIMEOUT_S = 5.0
CONNECTIONS_MAX = 10_000
# What is kept makes no reference cycles, so the collector finds little; by default it would look every 700 objects.
GC_THRESHOLDS = (10_000, 10, 10)


def serve(settings: Settings) -> int:
    """Serve until SIGINT or SIGTERM; returns the exit code."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(Service(settings).run())


class Server(uvicorn.Server):
    """Uvicorn without its signal handlers: the service decides when and in which order things end."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Service:
    """One process. Attributes are for its life."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.stopping = asyncio.Event()
        self.exit_code = 0
        self.folder_lost = False
        self.readers: set[asyncio.Task[None]] = set()  # of the archive, on their way
        self.archive_thread = ThreadPoolExecutor(1, "archive")

    # --- the whole

    async def run(self) -> int:
        self.loop = asyncio.get_running_loop()
        self.clock = SystemClock(self.loop, time.time_ns)
        listener = bind(self.settings)
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(listener.close)
            stack.callback(self.archive_thread.shutdown)
            await self._start_state(stack)
            await self._start_node(stack)
            await self._serve(listener, stack)
        return self.exit_code

    def say(self, text: str) -> None:
        """A line for the person who started the service."""
        sys.stderr.write(f"tbx: {text}\n")
        sys.stderr.flush()

    # --- up

    async def _start_state(self, stack: contextlib.AsyncExitStack) -> None:
        settings = self.settings
        make_folder("DATA_DIR", settings.data_dir)
        make_folder("LOG_DIR", settings.log_dir)
        self.logs = LogFiles.open(settings, self.clock)
        stack.callback(self.logs.close)
        self.redis = EmbeddedRedis(self.loop, settings.data_dir, appendfsync=settings.appendfsync)
        if settings.redis_url is None:
            await self.redis.start()
            stack.push_async_callback(self.redis.stop)
            for warning in self.redis.warnings:
                self.say(f"redis: {warning}")
                self.logs.execution("warn", "REDIS_REPAIRED", detail=warning)
        self.store = Store(
            self.loop,
            settings.redis_url.reveal() if settings.redis_url is not None else self.redis.address,
            settings.node_id,
            journal_id=os.urandom(8).hex(),
            on_state=self._store_state,
        )
        await self.store.open()
        stack.push_async_callback(self.store.close)
        self.epoch = await self.store.acquire(time.time_ns() // MS_NS)
        self.archive = await self.loop.run_in_executor(
            self.archive_thread, Archive, settings.data_dir / "archive.sqlite3"
        )
        stack.callback(self.archive_thread.submit, self.archive.close)
        self.archived_before = await self.loop.run_in_executor(self.archive_thread, self.archive.count) > 0
        in_thread = functools.partial(self.loop.run_in_executor, self.archive_thread)
        self.archived = ArchivedHistory(self.archive, in_thread)

    async def _start_node(self, stack: contextlib.AsyncExitStack) -> None:
        compiled = warm_up(lambda line: self.say(f"first start: {line}"))
        if compiled:
            self.say(f"first start: {compiled} kernels are compiled and kept for the next one")
        exchanges = await self._exchanges()
        stack.push_async_callback(exchanges.close)
        for warning in exchanges.warnings:
            self.say(f"warning: {warning}")
            self.logs.exchange("LEFT_OUT", {"detail": warning}, "warn")
        self.node = Node(
            self.settings,
            self.clock,
            self.store,
            await self.store.load(),
            self._archive_write,
            self._archived_trades,
            epoch=self.epoch,
            run=os.urandom(8).hex(),
            exchanges=exchanges,
            on_fatal=self._fatal,
            on_fault=self._fault,
            on_trouble=self._trouble,
        )
        self.node.kernel.feed.append(EventLog(self.logs).committed)
        self.node.kernel.bus.subscribe(StoreStateChanged, self._store_changed)
        self.node.start()
        stack.push_async_callback(self._settle)

    async def _exchanges(self) -> Exchanges:
        """What MARKET names. What it takes to connect is loaded only where something is connected to: 20 MB."""
        if not self.settings.market.live:
            return Simulated(self.settings)
        from .live import connected

        return await connected(self.settings, self.clock, self._trouble)

    async def _serve(self, listener: socket.socket, stack: contextlib.AsyncExitStack) -> None:
        neighbours = Neighbours(
            {
                "core": self.settings.core_service_url,
                "risk": self.settings.risk_service_url,
                "ml": self.settings.ml_service_url,
            },
            lambda: time.time_ns() // MS_NS,
        )
        app = App(self._api(neighbours))
        server = Server(server_config(app.asgi))
        for coroutine, what in (
            (neighbours.run(), "looking after the other services"),
            (self._flush_logs(), "writing the logs"),
            (self._watch(), "looking after Redis"),
        ):
            task = self.loop.create_task(coroutine)
            watch(task, what, self._broken)
            stack.callback(task.cancel)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            self.loop.add_signal_handler(number, self.stopping.set)
        serving = self.loop.create_task(server.serve(sockets=[listener]))
        await self._until_ready()
        # What the start made stays for good: collections need not look at it again.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        give_back_memory()
        self._announce(listener)
        stopping = self.loop.create_task(self.stopping.wait())
        await asyncio.wait((serving, stopping), return_when=asyncio.FIRST_COMPLETED)
        self.say("stopping")
        self.logs.execution("info", "STOPPING")
        await app.close()
        server.should_exit = True
        await serving

    def _api(self, neighbours: Neighbours) -> Api:
        node = self.node
        return Api(
            kernel=node.kernel,
            settings=self.settings,
            loop=self.loop,
            queries=OrderQueries(node.orders, self.archived),
            portfolio=node.portfolio,
            market=node.market,
            journal=self.store,
            epoch=self.store.journal_id,
            instruments=node.instruments,
            venues=node.shown_venues(),
            readiness=self.readiness,
            trading_state=lambda: node.guard.state.value,
            trading_why=lambda: node.guard.why,
            preview=Previewer(node.engine, node.checks, self.clock),
            refresh=self._refresh,
            log=self.logs,
            started_ns=time.time_ns(),
            services=neighbours.read,
            archive_used=lambda: self.archived_before or node.history.archived > 0,
        )

    async def _until_ready(self) -> None:
        """Recovered, and every venue has a book; gives up after a bound, and then says what is missing."""
        deadline = self.loop.time() + READY_TIMEOUT_S
        while not self.readiness().ready and not self.stopping.is_set() and self.loop.time() < deadline:
            await asyncio.sleep(0.01)

    def _announce(self, listener: socket.socket) -> None:
        settings = self.settings
        host, port = listener.getsockname()[:2]
        mode = "live" if settings.live else "paper"
        market = self.node.exchanges.shown
        ready = self.readiness()
        state = "ready" if ready.ready else f"not ready ({ready.reason})"
        self.say(f"{state} on http://{host if ':' not in host else f'[{host}]'}:{port} ({mode}, {market})")
        facts = {"host": host, "port": port, "mode": mode, "market": market, "epoch": self.epoch}
        self.logs.execution("info", "STARTED", environment=settings.node_env, redis=self.store.redis_version, **facts)

    # --- down

    async def _settle(self) -> None:
        """Stop what makes inputs and wait until the last of them is committed."""
        self.node.stop()
        if self.exit_code == EXIT_FENCED:
            return  # nothing more may be written
        idle = asyncio.Event()
        self.node.kernel.when_idle(idle.set)
        try:
            await asyncio.wait_for(idle.wait(), SHUTDOWN_TIMEOUT_S)
        except TimeoutError:
            self.say(f"the last changes could not be committed: {self.node.kernel.store_why}")
            self.exit_code = 1

    def _fatal(self, error: StoreError) -> None:
        self.say(f"stopping: {error}")
        self.logs.execution("error", "FENCED", detail=str(error))
        self.exit_code = EXIT_FENCED
        self.stopping.set()

    # --- while it runs

    def readiness(self) -> Readiness:
        node = self.node
        checks = {
            "store": node.kernel.store_up and not self.folder_lost,
            "recovered": True,
            "reconciled": node.recovery.settled,
            "venue": any(venue.status().status == "connected" for venue in node.shown_venues()),
        }
        missing = [name for name, passed in checks.items() if not passed]
        return Readiness(not missing, checks, ", ".join(missing))

    async def _refresh(self) -> None:
        """Ask live venues for their orders and balances, recompute everything, and wait for the commit.

        A venue that does not answer in time is left to the comparison that goes on by itself.
        """
        compared, committed = asyncio.Event(), asyncio.Event()
        self.node.kernel.run(self.node.accounts.check, compared.set)
        try:
            await asyncio.wait_for(compared.wait(), RECONCILE_TIMEOUT_S)
        except TimeoutError:
            self.logs.execution("warn", "RECONCILE_LATE", detail=f"no answer within {RECONCILE_TIMEOUT_S:.0f} s")
        self.node.portfolio.revalue()
        self.node.kernel.outbox.effect(committed.set)
        self.node.kernel.flush_soon()
        await committed.wait()

    def _trouble(self, text: str) -> None:
        """Something odd at an exchange."""
        self.logs.exchange("TROUBLE", {"detail": text}, "warn")

    def _fault(self, fault: Faulted, error: Exception) -> None:
        trace = traceback.format_exception(error)
        self.logs.execution("error", "FAULT", where=fault.where, error=fault.error, traceback="".join(trace))
        self.say(f"a fault in {fault.where}: {fault.error}; trading is {TradingState.HALTED.value}")

    def _broken(self, what: str) -> None:
        """A task that nobody waits for ended by a bug."""
        self.logs.execution("error", "TASK_BROKEN", detail=what)
        self.say(f"a fault of the service: {what}")

    def _store_state(self, up: bool, why: str) -> None:
        """The connection to Redis came or went."""
        self.logs.execution("info" if up else "error", "REDIS_CONNECTED" if up else "REDIS_LOST", detail=why)

    def _store_changed(self, message: StoreStateChanged) -> None:
        """Commits fail, or succeed again."""
        if message.up:
            self.logs.execution("info", "STORE_UP", state_rewritten=self.node.kernel.rewrite_count)
        else:
            self.logs.execution("error", "STORE_DOWN", detail=message.reason)
            self.say(f"commits fail, so no orders are taken: {message.reason}")

    def _archive_write(
        self,
        orders: Sequence[ArchivedOrder],
        trades: Sequence[ArchivedTrade],
        done: Callable[[StoreError | None], None],
    ) -> None:
        """Write in the archive's thread; call back on the loop."""

        def write() -> None:
            error: StoreError | None = None
            try:
                self.archive.add(orders, trades)
            except StoreError as failed:
                error = failed
            self.loop.call_soon_threadsafe(done, error)

        self.archive_thread.submit(write)

    def _archived_trades(self, order_id: str, found: Callable[[frozenset[str]], None]) -> None:
        """Read the venue's trade ids of an archived order; call back on the loop."""

        async def read() -> None:
            order = await self.archived.order(order_id)
            found(frozenset(fill.trade_id for fill in order[1]) if order is not None else frozenset())

        self.readers.add(task := self.loop.create_task(read()))
        task.add_done_callback(self.readers.discard)
        watch(task, f"reading {order_id} from the archive", self._broken)

    def _folder_lost(self) -> None:
        """Redis writes into files that nobody will find again: take no more orders and say so."""
        why = f"DATA_DIR {self.settings.data_dir} was removed while the service runs; what comes now would be lost"
        self.folder_lost = True
        self.node.guard.limit("folder", TradingState.HALTED, why)
        self.logs.execution("error", "DATA_DIR_LOST", detail=why)
        self.say(f"{why}; trading is HALTED")

    async def _flush_logs(self) -> None:
        while True:
            await asyncio.sleep(LOG_FLUSH_S)
            self.logs.flush()

    async def _watch(self) -> None:
        """Start the embedded Redis again when it dies (the store connects again by itself); look after its folder."""
        while self.settings.redis_url is None:
            await asyncio.sleep(WATCH_REDIS_S)
            if not (self.settings.data_dir / "redis.sock").exists() and self.redis.alive():
                self._folder_lost()
                return
            if not self.redis.alive() and not self.stopping.is_set():
                self.logs.execution("error", "REDIS_DIED")
                try:
                    await self.redis.start()
                except (StoreError, SettingsError) as error:
                    self.logs.execution("error", "REDIS_NOT_STARTED", detail=str(error))


def bind(settings: Settings) -> socket.socket:
    """The listening socket; raises SettingsError where it cannot be had."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        mend = "stop what uses it, or set PORT to another" if error.errno in (48, 98) else "set HOST and PORT"
        raise SettingsError(f"cannot listen on {settings.host}:{settings.port}: {error.strerror}; {mend}") from error
    listener.setblocking(False)
    return listener


def give_back_memory() -> None:
    """Return what loading freed to the system; the C library would keep it. Does nothing where it cannot."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):  # not glibc
        return


def make_folder(name: str, folder: os.PathLike[str]) -> None:
    try:
        os.makedirs(folder, exist_ok=True)
        writable = os.access(folder, os.W_OK | os.X_OK)
    except OSError as error:
        raise SettingsError(f"{name}={folder}: {error.strerror}; set it to a folder that can be written") from error
    if not writable:
        raise SettingsError(f"{name}={folder}: not writable; set it to a folder that can be written")


def server_config(app: Any) -> uvicorn.Config:
    """Uvicorn as the service and the benchmark's floor use it."""
    return uvicorn.Config(
        app, loop="none", timeout_graceful_shutdown=5, limit_concurrency=CONNECTIONS_MAX, **server_options()
    )
