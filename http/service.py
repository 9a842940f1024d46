"""The composition root: settings -> Redis -> kernel -> actors -> venues -> server; and the way down again.

    up     port, Redis, kernels, the lease (a standby waits here), state, actors, market, recovery, HTTP
    down   no new requests, feed says so, market stops, last commit, the lease, Redis, logs

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
from ..strategies_bridge.loading import plan
from ..strategies_bridge.runner import WindDown
from ..strategies_bridge.services.health import Services
from ..venues.background import watch
from .app import App, server_options
from .archive import ArchivedHistory
from .composition import Node
from .context import Api, Readiness, no_loop, readiness_of
from .eventlog import EventLog
from .exchanges import Exchanges, Simulated
from .logfiles import LogFiles
from .loop import loop_of
from .preview import Previewer
from .standby import Standby
from .state.takeover import TakeOver
from .state.watermark import Watermark
from .strategy_control import StrategyLines
from .stream_commands import stream_of
from .writer import Succession, start_redis

EXIT_FENCED = 3  # another process is the writer, or Redis holds another state
LOG_FLUSH_S = 0.1
WATCH_REDIS_S = 0.5
READY_TIMEOUT_S = 30.0
SHUTDOWN_TIMEOUT_S = 10.0
STRATEGIES_TIMEOUT_S = 5.0  # for their orders to be cancelled
RECONCILE_TIMEOUT_S = 5.0
CONNECTIONS_MAX = 10_000
# What is kept makes no reference cycles, so the collector finds little; by default it would look every 700 objects.
GC_THRESHOLDS = (10_000, 10, 10)


def serve(settings: Settings, *, quarantine: bool = False) -> int:
    """Serve until SIGINT or SIGTERM; returns the exit code. `quarantine`: set aside what cannot be taken over."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(Service(settings, quarantine=quarantine).run())


class Server(uvicorn.Server):
    """Uvicorn without its signal handlers: the service decides when and in which order things end."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Service:
    """One process. Attributes are for its life."""

    def __init__(self, settings: Settings, *, quarantine: bool = False) -> None:
        self.settings = settings
        self.quarantine = quarantine
        self.stopping = asyncio.Event()
        self.exit_code = 0
        self.serving: asyncio.Task[None] | None = None
        self.prepared = False
        self.readers: set[asyncio.Task[None]] = set()  # of the archive, on their way
        self.archive_thread = ThreadPoolExecutor(1, "archive")

    # --- the whole

    async def run(self) -> int:
        self.strategies = plan(self.settings.strategies)  # first: what is wrong with one is told before anything starts
        self.loop = asyncio.get_running_loop()
        self.clock = SystemClock(self.loop, time.time_ns)
        self.listener = bind(self.settings)
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(self.listener.close)
            stack.callback(self.archive_thread.shutdown)
            stack.push_async_callback(self._hang_up)
            self._open_logs(stack)
            if await self._start_store(stack) and await self._take_lease(stack):
                await self._open_archive(stack)
                await self._start_node(stack)
                await self._serve(stack)
            else:
                self.say("stopping")
        return self.exit_code

    def say(self, text: str) -> None:
        """A line for the person who started the service."""
        sys.stderr.write(f"tbx: {text}\n")
        sys.stderr.flush()

    # --- up

    def _open_logs(self, stack: contextlib.AsyncExitStack) -> None:
        settings = self.settings
        make_folder("DATA_DIR", settings.data_dir)
        make_folder("LOG_DIR", settings.log_dir)
        self.logs = LogFiles.open(settings, self.clock)
        stack.callback(self.logs.close)
        self.standby = Standby(settings, self.loop, self.stopping, self.logs, serve=self._answer, say=self.say)

    async def _start_store(self, stack: contextlib.AsyncExitStack) -> bool:
        """Redis, connected; False when told to stop before that."""
        settings = self.settings
        self.redis = EmbeddedRedis(self.loop, settings.data_dir, appendfsync=settings.appendfsync)
        if settings.redis_url is None:
            if not await start_redis(self.redis, settings, self.standby, self._prepare):
                return False
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
        return True

    async def _take_lease(self, stack: contextlib.AsyncExitStack) -> bool:
        """Become the writer; False when told to stop before that."""
        self._prepare()
        taken = await Succession(self.store, self.settings, self.standby, self._exchanges, self.say).take()
        if taken is None:
            return False
        self.lease, self.exchanges = taken
        stack.push_async_callback(self._release)
        stack.push_async_callback(self.exchanges.close)
        if self.standby.waited:
            self.logs.execution("info", "TAKEOVER", epoch=self.store.epoch)
        return True

    def _prepare(self) -> None:
        """What takes long, and must not when another process has died."""
        if self.prepared:
            return
        self.prepared = True
        compiled = warm_up(lambda line: self.say(f"first start: {line}"))
        if compiled:
            self.say(f"first start: {compiled} kernels are compiled and kept for the next one")
        if self.settings.market.live:
            from . import live  # noqa: F401  # 20 MB, which only who connects needs

    async def _open_archive(self, stack: contextlib.AsyncExitStack) -> None:
        settings = self.settings
        self.archive = await self.loop.run_in_executor(
            self.archive_thread, Archive, settings.data_dir / "archive.sqlite3"
        )
        stack.callback(self.archive_thread.submit, self.archive.close)
        self.archived_before = await self.loop.run_in_executor(self.archive_thread, self.archive.count) > 0
        in_thread = functools.partial(self.loop.run_in_executor, self.archive_thread)
        self.archived = ArchivedHistory(self.archive, in_thread)

    async def _start_node(self, stack: contextlib.AsyncExitStack) -> None:
        for warning in self.exchanges.warnings:
            self.say(f"warning: {warning}")
            self.logs.exchange("LEFT_OUT", {"detail": warning}, "warn")
        self.mark = Watermark(self.settings.data_dir, self.store)
        self.takeover = TakeOver(
            self.store,
            self.archive,
            self.archived.run,
            self._of_state,
            listed={f"{i.exchange}:{i.pair}" for i in self.exchanges.instruments},
            account=self.exchanges.account,
            quarantine=self.quarantine,
            now_ms=time.time_ns() // MS_NS,
            mark=self.mark,
        )
        taken = await self.takeover.run()
        self.trades_aside = self.takeover.trades_aside(taken)
        self.node = Node(
            self.settings,
            self.clock,
            self.store,
            taken.loaded,
            self._archive_write,
            self._archived_trades,
            epoch=self.store.epoch,
            lease=self.lease,
            run=os.urandom(8).hex(),
            exchanges=self.exchanges,
            held=taken.held,
            on_fatal=self._fatal,
            on_fault=self._fault,
            on_trouble=self._trouble,
            strategies=self.strategies,
            on_strategy=StrategyLines(self.logs, self.say),
        )
        self.node.kernel.feed.append(EventLog(self.logs).committed)
        self.node.kernel.bus.subscribe(StoreStateChanged, self._store_changed)
        self.takeover.tell(taken, self.node.kernel)
        if taken.wrong:
            self.node.guard.limit("books", TradingState.HALTED, taken.wrong)
        self.services = Services(self.settings, self.node.kernel, tell=self._broken)
        self.services.advise(self.node.advising)
        self.trading_loop = loop_of(self.node, self.settings, self.services, self.logs)
        if self.strategies:
            stack.callback(self.node.strategies.watchdog(self.settings.strategy_time_limit_ns).close)
        self.node.start()
        stack.callback(self.node.kernel.heart.stop)
        stack.push_async_callback(self.services.aclose)
        stack.push_async_callback(self._settle)

    async def _exchanges(self) -> Exchanges:
        """What MARKET names. What it takes to connect is loaded only where something is connected to: 20 MB."""
        if not self.settings.market.live:
            return Simulated(self.settings)
        from .live import connected

        return await connected(self.settings, self.clock, self._trouble)

    def _answer(self, app: Any) -> None:
        """Begin to answer on the port; from here on a signal ends the service as it should be ended."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            self.loop.add_signal_handler(number, self.stopping.set)
        self.server = Server(server_config(app))
        self.serving = self.loop.create_task(self.server.serve(sockets=[self.listener]))

    async def _hang_up(self) -> None:
        if self.serving is not None:
            self.server.should_exit = True
            await self.serving

    async def _serve(self, stack: contextlib.AsyncExitStack) -> None:
        app = App(self._api())
        stack.push_async_callback(self.services.stop)
        for coroutine, what in (
            (self.services.run(), "looking after the other services"),
            (self._flush_logs(), "writing the logs"),
            (self._watch(), "looking after Redis"),
            (self.mark.keep(lambda: self.node.kernel.committed_seq), "keeping how far commits are acknowledged"),
        ):
            task = self.loop.create_task(coroutine)
            watch(task, what, self._broken)
            stack.callback(task.cancel)
        if self.standby.waited:
            self.standby.become(app.asgi)
        else:
            self._answer(app.asgi)
        assert self.serving is not None
        await self._until_ready()
        # What the start made stays for good: collections need not look at it again.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        give_back_memory()
        self._announce()
        self._read_commands(app.api, stack)
        if self.trading_loop is not None:
            trading = self.loop.create_task(self.trading_loop.run())
            watch(trading, "the trading loop", self._broken)
            stack.callback(trading.cancel)
        rest = self.loop.create_task(self.takeover.rest_of_journal(self.node.kernel))
        watch(rest, "looking at the journal", self._broken)
        stack.callback(rest.cancel)
        stopping = self.loop.create_task(self.stopping.wait())
        await asyncio.wait((self.serving, stopping), return_when=asyncio.FIRST_COMPLETED)
        self.say("stopping")
        self.logs.execution("info", "STOPPING")
        await self._end_strategies()
        await app.close()
        await self._hang_up()

    def _api(self) -> Api:
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
            preview=Previewer(node.engine, node.checks, node.advising, self.clock),
            refresh=self._refresh,
            log=self.logs,
            started_ns=time.time_ns(),
            services=self.services.statuses,
            trading_loop=self.trading_loop.view if self.trading_loop is not None else no_loop,
            risk_latency=self.services.risk.latency if self.services.risk is not None else None,
            archive_used=lambda: self.archived_before or node.history.archived > 0,
            open_orders=node.orders.open.values,
            history=node.history,
            subledgers=node.subledgers,
            signals=node.signals,
            strategies=node.strategies.views,
            risk=node.overview,
            comparisons=node.reconciliation,
            figures=lambda: {venue.name: venue.counters() for venue in node.live_venues},
        )

    def _read_commands(self, api: Api, stack: contextlib.AsyncExitStack) -> None:
        stream = stream_of(api, self.node.command_marks, self.store, self.logs.execution)
        if stream is not None and not self.stopping.is_set():
            task = self.loop.create_task(stream.run())
            watch(task, "reading commands", self._broken)
            stack.callback(task.cancel)
            stack.push_async_callback(stream.stop)

    async def _until_ready(self) -> None:
        """Recovered, and every venue has a book; gives up after a bound, and then says what is missing."""
        deadline = self.loop.time() + READY_TIMEOUT_S
        while not self.readiness().ready and not self.stopping.is_set() and self.loop.time() < deadline:
            await asyncio.sleep(0.01)

    def _announce(self) -> None:
        settings = self.settings
        host, port = self.listener.getsockname()[:2]
        mode = "live" if settings.live else "paper"
        market = self.node.exchanges.shown
        ready = self.readiness()
        state = "ready" if ready.ready else f"not ready ({ready.reason})"
        self.say(f"{state} on http://{host if ':' not in host else f'[{host}]'}:{port} ({mode}, {market})")
        facts = {"host": host, "port": port, "mode": mode, "market": market, "epoch": self.store.epoch}
        self.logs.execution("info", "STARTED", environment=settings.node_env, redis=self.store.redis_version, **facts)

    # --- down

    async def _end_strategies(self) -> None:
        """While exchanges still answer: what strategies leave on their books must not rest there unattended."""
        if not self.strategies or self.exit_code == EXIT_FENCED:
            return
        ended = asyncio.Event()
        self.node.kernel.input(WindDown(ended.set))
        try:
            await asyncio.wait_for(ended.wait(), STRATEGIES_TIMEOUT_S)
        except TimeoutError:
            self.say("an exchange has not answered every cancel of the strategies' orders; look there")
            self.logs.execution("warn", "STRATEGY_ORDERS_LEFT", seconds=STRATEGIES_TIMEOUT_S)

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
        self.mark.write(self.node.kernel.committed_seq)

    async def _release(self) -> None:
        """Give up the lease, so that a standby, or the next start, need not wait. From here on nothing may leave."""
        self.lease.lose()
        if self.exit_code == EXIT_FENCED:
            return
        try:
            await self.store.release()
        except StoreError as error:
            self.logs.execution("warn", "LEASE_NOT_RELEASED", detail=str(error))

    def _fatal(self, error: StoreError) -> None:
        self.say(f"stopping: {error}")
        self.logs.execution("error", "FENCED", detail=str(error))
        self.exit_code = EXIT_FENCED
        self.stopping.set()

    # --- while it runs

    def readiness(self) -> Readiness:
        node = self.node
        venue = any(venue.status().status == "connected" for venue in node.shown_venues())
        return readiness_of(node.kernel, reconciled=node.recovery.settled, venue=venue)

    async def _refresh(self) -> None:
        """Ask live venues for their orders and balances, recompute everything, and wait for the commit.

        A venue that does not answer in time is left to the comparison that goes on by itself.
        """
        compared, committed = asyncio.Event(), asyncio.Event()
        self.node.kernel.run(self.node.reconciliation.refresh, compared.set)
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

    def _of_state(self, text: str) -> None:
        """What the start found in the state, or did to it."""
        self.logs.execution("warn", "STATE", detail=text)
        self.say(text)

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

    def _archived_trades(self, client_id: str, found: Callable[[frozenset[str]], None]) -> None:
        """Read the venue's trade ids of the archived order that was sent or adopted so; call back on the loop."""

        async def read() -> None:
            orders, archived = self.node.orders, self.archived
            # What is set aside is in the books, as what is archived: an order of which it is must not be adopted anew.
            trade_ids = set(self.trades_aside.get(orders.ids.order_of(client_id) or "", ()))
            # One that was adopted has a number of its own, and keeps the venue's id as that of its client.
            by_number = await archived.order(orders.ids.order_of(client_id) or "")
            for row in (by_number, await archived.order_by_client_id(client_id)):
                if row is not None and orders.sent_as(row[0], client_id):
                    trade_ids.update(fill.trade_id for fill in row[1])
            found(frozenset(trade_ids))

        self.readers.add(task := self.loop.create_task(read()))
        task.add_done_callback(self.readers.discard)
        watch(task, f"reading {client_id} from the archive", self._broken)

    def _folder_lost(self) -> None:
        """Redis writes into files that nobody will find again: take no more orders and say so."""
        why = f"DATA_DIR {self.settings.data_dir} was removed while the service runs; what comes now would be lost"
        self.node.kernel.conditions.begin("folder_lost", why)
        self.node.guard.limit("folder", TradingState.HALTED, why)
        self.node.kernel.flush_soon()
        self.logs.execution("error", "DATA_DIR_LOST", detail=why)
        self.say(f"{why}; trading is HALTED")

    async def _flush_logs(self) -> None:
        while True:
            await asyncio.sleep(LOG_FLUSH_S)
            self.logs.flush()

    async def _watch(self) -> None:
        """Start the embedded Redis again when it dies (the store connects again by itself); look after its folder."""
        kernel = self.node.kernel
        while self.settings.redis_url is None:
            await asyncio.sleep(WATCH_REDIS_S)
            if not (self.settings.data_dir / "lock").exists() and self.redis.alive():
                self._folder_lost()
                return
            if not self.redis.alive() and not self.stopping.is_set():
                if not kernel.store_cause:
                    self.logs.execution("error", "REDIS_DIED")
                try:
                    await self.redis.start()
                    kernel.store_cause = ""
                except (StoreError, SettingsError) as error:
                    if kernel.store_cause != str(error):
                        kernel.store_cause = str(error)
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
