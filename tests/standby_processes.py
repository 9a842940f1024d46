"""Two processes of one node on one Redis, each with its own folder and port, as two machines would run them."""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import redis

from tbx.core.state.server import find_binary

from .live_processes import wait_for
from .service_process import STOP_S, ServiceProcess


class RedisProcess:
    """A redis-server that no service has started, on a socket in a folder."""

    def __init__(self, folder: Path) -> None:
        self.socket = folder / "r.sock"
        self.url = f"unix://{self.socket}"
        self.client = redis.Redis(unix_socket_path=str(self.socket))
        options = ("--port", "0", "--unixsocket", str(self.socket), "--save", "", "--dir", str(folder))
        self.process = subprocess.Popen([find_binary(), *options], stdout=subprocess.DEVNULL)
        wait_for(self.answers, "Redis answers")

    def answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except redis.ConnectionError:
            return False

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def close(self) -> None:
        self.client.close()
        self.process.kill()
        self.process.wait(STOP_S)


@contextmanager
def a_redis_process(folder: Path) -> Iterator[RedisProcess]:
    folder.mkdir(parents=True, exist_ok=True)
    server = RedisProcess(folder)
    try:
        yield server
    finally:
        server.close()


class Pair:
    """The writer and its standby, both started."""

    def __init__(self, first: ServiceProcess, second: ServiceProcess) -> None:
        self.first, self.second = first, second

    def kill(self) -> None:
        """kill -9 of the writer."""
        self.first.kill()

    def send(self, number: signal.Signals) -> None:
        assert self.first.process is not None
        self.first.process.send_signal(number)

    def ended(self) -> int:
        """The exit code of the writer."""
        assert self.first.process is not None
        return self.first.process.wait(STOP_S)


def twin(service: ServiceProcess, folder: Path, **settings: str) -> ServiceProcess:
    """Another process of the same node, in a folder of its own."""
    folder.mkdir()
    given = {name: value for name, value in service.settings.items() if name != "PORT"}
    other = ServiceProcess(folder, **{**given, **settings})
    other.http.headers.update(service.http.headers)
    return other


def await_standby(service: ServiceProcess) -> dict[str, Any]:
    """Wait until it says so; its health."""

    def standby() -> bool:
        assert service.process is not None and service.process.poll() is None, service.stderr()
        try:
            return role(service) == "standby"
        except httpx.TransportError:
            return False

    wait_for(standby, "a standby")
    document: dict[str, Any] = service.http.get("/api/health").json()
    return document


def role(service: ServiceProcess) -> str:
    return str(service.http.get("/api/health").json()["role"])


def is_ready(service: ServiceProcess) -> bool:
    return service.http.get("/readyz").status_code == 200


@contextmanager
def a_pair(first: ServiceProcess, folder: Path, **settings: str) -> Iterator[Pair]:
    """The writer ready, then its standby waiting. `folder` is the standby's."""
    second = twin(first, folder, **settings)
    try:
        first.start()
        second.spawn()
        await_standby(second)
        yield Pair(first, second)
    finally:
        for service in (first, second):
            if service.process is not None and service.process.poll() is None:
                service.process.send_signal(signal.SIGCONT)
            service.close()
        shutil.rmtree(folder, ignore_errors=True)
