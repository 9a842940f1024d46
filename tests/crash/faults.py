"""What breaks in a round: real signals to real processes, and the exchange's connections.

Always true here: a fault counts the orders in flight when it strikes, from what Redis holds at that moment: its live
tables, or where it was killed or ends, its files. Then the processes are told to go on; whether they do is seen
elsewhere.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import redis

from tbx.core.model.records import Order
from tbx.core.state.server import find_binary, socket_path

from ..live_processes import Live, wait_for
from ..service_process import STOP_S, ServiceProcess
from ..standby_processes import await_standby, role
from .books import in_flight, redis_client

STOPPED_S = (0.5, 9.0)  # how long a service stands still
FROZEN_S = 4.0  # how long the exchange stands still at most
EXIT_FENCED = 3  # of a service that is not the writer any more

# What the exchange does wrong while a round lasts. `_before` loses the request, `_after` its answer.
SPOILED = (
    "mute_after:p=0.05",
    "mute_before:p=0.03",
    "drop_after:n=2; late_reports:p=0.3,ms=700",
    "unknown1007_after:p=0.05; unknown1006_before:p=0.05",
    "late_taken:p=0.05,ms=1500",
    "late_reports:p=0.5,ms=600; reorder_reports:p=0.5",
    "http5xx_after:p=0.04; http5xx_before:p=0.04",
    "nonsense:p=0.02",
)


class Struck(msgspec.Struct):
    """What was in flight when a fault struck; `since` on the monotonic clock is when its mending began."""

    in_flight: list[Order]
    since: float
    later: list[int] = []  # in flight at the next kills of the same round


class Faults:
    """The faults of one service and its exchange."""

    def __init__(self, live: Live) -> None:
        self.live = live
        self.folder = live.service.folder / "data"
        self.node = live.service.settings["NODE_ID"]

    @property
    def socket(self) -> Path:
        """Of Redis."""
        return socket_path(self.folder)

    @property
    def services(self) -> list[ServiceProcess]:
        """Every process that may answer."""
        return [self.live.service]

    # --- kinds

    def on_service(self, rng: random.Random) -> Struck:
        """kill -9 of the service; Redis hears of it and saves."""
        self.live.service.kill()
        return self._begin(self._of_files(), rng)

    def on_redis(self, _: random.Random) -> Struck:
        """kill -9 of the redis-server; the service starts another."""
        self._kill_redis()
        return Struck(self._of_files(), time.monotonic())

    def on_both(self, rng: random.Random) -> Struck:
        """kill -9 of the service and its redis-server, at once."""
        process = self.live.service.process
        assert process is not None
        pid = self._redis_pid()
        first, second = (process.pid, pid) if rng.random() < 0.5 else (pid, process.pid)
        os.kill(first, signal.SIGKILL)
        os.kill(second, signal.SIGKILL)
        self.live.service.kill()
        return self._begin(self._of_files(), rng)

    def on_cut(self, rng: random.Random) -> Struck:
        """Every connection for orders ends, or every connection at all."""
        orders = self._of_tables()
        self.live.exchange.control("close", kind=rng.choice(("ws-api", "ws-api", "")))
        return Struck(orders, time.monotonic())

    def on_pause(self, rng: random.Random) -> Struck:
        """The service stands still for a while, and goes on."""
        process = self.live.service.process
        assert process is not None
        process.send_signal(signal.SIGSTOP)
        try:
            orders = self._of_tables()
            time.sleep(rng.uniform(*STOPPED_S))
        finally:
            process.send_signal(signal.SIGCONT)
        return Struck(orders, time.monotonic())

    def on_recovery(self, rng: random.Random) -> Struck:
        """kill -9 of the service, and once or twice more while it recovers from that."""
        self.live.service.kill()
        struck = Struck(self._of_files(), time.monotonic())
        for _ in range(rng.randint(1, 2)):
            self.live.service.spawn()
            wait_for(self._listens, "a Redis of the new process", every_s=0.02)
            time.sleep(rng.uniform(0, 1.5))
            self.live.service.kill()
            struck.later.append(len(self._of_files()))
        self.live.service.spawn()
        return struck

    # --- what the exchange does meanwhile

    @contextmanager
    def frozen(self, rng: random.Random) -> Iterator[None]:
        """The exchange stands still; what is sent waits in its sockets, and is taken after the sender has died."""
        process = self.live.exchange.process
        process.send_signal(signal.SIGSTOP)
        again = threading.Timer(rng.uniform(0.5, FROZEN_S), process.send_signal, (signal.SIGCONT,))
        again.start()
        try:
            time.sleep(rng.uniform(0.1, 0.4))
            yield
        finally:
            again.join()

    @contextmanager
    def deaf(self, rng: random.Random) -> Iterator[None]:
        """Most of what is sent from now on is lost; it takes 22 s to prove that none of it was taken."""
        with self.spoiled(f"mute_before:p={rng.choice((0.5, 1))}"):
            time.sleep(rng.uniform(0.2, 0.5))
            yield

    @contextmanager
    def spoiled(self, spec: str) -> Iterator[None]:
        self.live.exchange.control("faults", spec=spec)
        try:
            yield
        finally:
            self.live.exchange.control("faults", clear=True)

    # --- inside

    def _begin(self, orders: list[Order], rng: random.Random) -> Struck:
        """Another service begins; sometimes after a while in which the market goes on."""
        time.sleep(rng.choice((0.0, 0.0, rng.uniform(0, 3))))
        self.live.service.spawn()
        return Struck(orders, time.monotonic())

    def _listens(self) -> bool:
        try:
            with redis_client(self.socket) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False

    def _redis_pid(self) -> int:
        with redis_client(self.socket) as client:
            return int(client.info("server")["process_id"])

    def _kill_redis(self) -> None:
        os.kill(self._redis_pid(), signal.SIGKILL)

    def _of_tables(self) -> list[Order]:
        with redis_client(self.socket) as client:
            return self._of(client)

    def _of(self, client: redis.Redis) -> list[Order]:
        rows = client.hvals(f"tbx:{self.node}:orders")
        assert isinstance(rows, list)
        return in_flight(msgspec.json.decode(row, type=Order) for row in rows)

    def _of_files(self) -> list[Order]:
        """From a copy of the files as they are, in a redis-server of our own; the next service's is not disturbed."""
        with tempfile.TemporaryDirectory(prefix="tbx-copy-") as name:
            copy = Path(name)
            for path in self.folder.glob("appendonly*"):
                (shutil.copytree if path.is_dir() else shutil.copy)(path, copy / path.name)
            socket = copy / "redis.sock"
            options = {"port": "0", "unixsocket": str(socket), "dir": name, "appendonly": "yes", "save": ""}
            command = [str(find_binary())]
            for option, value in options.items():
                command += [f"--{option}", value]
            server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            try:
                with redis_client(socket) as client:
                    wait_for(lambda: socket.exists() and _answers(client), "the copy of Redis")
                    return self._of(client)
            finally:
                server.kill()
                server.wait(STOP_S)


class StandbyFaults(Faults):
    """The faults of a service with a standby, on a Redis that is neither's. `live.service` is always the writer."""

    def __init__(self, live: Live, other: ServiceProcess, socket: Path) -> None:
        super().__init__(live)
        self.other = other
        self._socket = socket

    @property
    def socket(self) -> Path:
        return self._socket

    @property
    def services(self) -> list[ServiceProcess]:
        return [self.live.service, self.other]

    def on_standby(self, _: random.Random) -> Struck:
        """kill -9 of the writer while a standby waits."""
        await_standby(self.other)
        begun = time.monotonic()
        self.live.service.kill()
        struck = Struck(self._of_tables(), begun)
        wait_for(lambda: role(self.other) == "writer", "a takeover")  # else the one that is started anew may be faster
        self._exchange_roles()
        self.other.spawn()
        return struck

    def on_sleeper(self, rng: random.Random) -> Struck:
        """The writer stands still until its standby has taken over, and wakes in the middle of that one's work."""
        await_standby(self.other)
        sleeper, begun = self.live.service.process, time.monotonic()
        assert sleeper is not None
        sleeper.send_signal(signal.SIGSTOP)
        try:
            struck = Struck(self._of_tables(), begun)
            wait_for(lambda: role(self.other) == "writer", "a takeover")
            time.sleep(rng.uniform(0, 2))
        finally:
            sleeper.send_signal(signal.SIGCONT)
        code = sleeper.wait(STOP_S)
        assert code == EXIT_FENCED, f"the writer that slept ended with {code}: {self.live.service.stderr()[-500:]}"
        self._exchange_roles()
        self.other.spawn()
        return struck

    def _exchange_roles(self) -> None:
        self.live.service, self.other = self.other, self.live.service


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False  # it loads


KINDS: dict[str, Callable[[Any, random.Random], Struck]] = {
    "service": Faults.on_service,
    "redis": Faults.on_redis,
    "cut": Faults.on_cut,
    "both": Faults.on_both,
    "pause": Faults.on_pause,
    "recovery": Faults.on_recovery,
    "standby": StandbyFaults.on_standby,
    "sleeper": StandbyFaults.on_sleeper,
}
WITH_STANDBY = ("standby", "sleeper")
CANNOT_FREEZE = ("cut",)  # a frozen exchange cannot be told to
