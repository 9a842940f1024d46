"""The servers that are measured: real processes, each in a temporary folder of its own, and what they cost.

Always true here: a child that was started is stopped when its `with` ends, whatever ends it, and its folder goes with
it. Ctrl-C reaches only this process (children have a session of their own), which then ends them in order.
"""

from __future__ import annotations

import http.client
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tbx.core.settings import SETTINGS

BENCH = Path(__file__).resolve().parent
ROOT = BENCH.parent
HOST = "127.0.0.1"
SERVE = ("-m", "tbx.http", "serve")
READY_TIMEOUT_S = 120.0  # a first start compiles the kernels
STOP_TIMEOUT_S = 30.0
POLL_S = 0.005

# The settings of the figures; whatever the caller's environment says of the others does not count.
SERVICE_SETTINGS = {
    "HOST": HOST,
    "MARKET": "simulated",
    "MARKET_SEED": "1",
    "INITIAL_BALANCE": "1000000000",
    "MAX_POSITION_SIZE": "1",
    "DURABILITY": "ahead",
    "APPENDFSYNC": "everysec",
    "REDIS_URL": "embedded",
    "CORE_SERVICE_URL": "none",
    "RISK_SERVICE_URL": "none",
    "ML_SERVICE_URL": "none",
    "BACKTEST_SERVICE_URL": "none",
    "DASHBOARD_SERVICE_URL": "none",
    # One order is one order, as in the rounds before there were these: risk_bench.py measures what they cost.
    "ORDER_RATE_LIMIT": "0",
    "STOP_LOSS_ENABLED": "false",
    "MAX_RISK_PER_TRADE": "1",
    "MAX_DAILY_RISK": "1",
    "MAX_CORRELATED_EXPOSURE": "1",
}


class NotReady(RuntimeError):
    """A server did not start; the text holds the last lines that it wrote."""


class Server:
    """A running child that answers on `port`."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, folder: Path, begun: float) -> None:
        self.process = process
        self.port = port
        self.folder = folder
        self.ready_s = 0.0  # from the start of the process to the first 200 of /readyz
        self._begun = begun

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def redis_pid(self) -> int | None:
        """Of the service's embedded Redis."""
        path = self.folder / "data" / "redis.pid"
        return int(path.read_text()) if path.is_file() else None

    def get(self, path: str) -> tuple[int, bytes]:
        return self.ask("GET", path)

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
        """One request on a connection of its own."""
        connection = http.client.HTTPConnection(HOST, self.port, timeout=35)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json", **headers})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def wait_ready(self) -> None:
        end = self._begun + READY_TIMEOUT_S
        while True:
            if self.process.poll() is not None:
                raise NotReady(f"the server ended with code {self.process.returncode}: {self.said}")
            try:
                status, _ = self.get("/readyz")
            except OSError:
                status = 0  # not listening yet
            now = time.perf_counter()
            if status == 200:
                self.ready_s = now - self._begun
                return
            if now > end:
                raise NotReady(f"the server was not ready within {READY_TIMEOUT_S:.0f} s: {self.said}")
            time.sleep(POLL_S)

    @property
    def compiled(self) -> bool:
        """Whether this start had kernels to compile: then it was no warm start, and its memory holds the compiler's."""
        return "compiling" in (self.folder / "output").read_text(errors="replace")

    @property
    def said(self) -> str:
        """The last lines that it wrote."""
        lines = (self.folder / "output").read_text(errors="replace").strip().splitlines()
        return " | ".join(lines[-3:]) or "it wrote nothing"

    def stop(self) -> None:
        """SIGTERM, and after a while SIGKILL; the embedded Redis goes with the service either way."""
        if self.process.poll() is None:
            end(self.process, STOP_TIMEOUT_S)


def end(process: subprocess.Popen[Any], timeout_s: float) -> None:
    """SIGTERM, and after a while SIGKILL; its pipes are closed."""
    process.terminate()
    try:
        process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def environment(extra: Mapping[str, str]) -> dict[str, str]:
    """This process's environment without any setting of the service, then `extra`; `tbx` comes from the checkout."""
    clean = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    links = ROOT / ".src"
    if (links / "tbx").is_dir():
        clean["PYTHONPATH"] = str(links)
    return {**clean, **extra}


@contextmanager
def scratch() -> Iterator[Path]:
    """A temporary folder that is gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="tbx-bench-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def service(folder: Path, program: Sequence[str] = SERVE, **settings: str) -> Iterator[Server]:
    """`tbx serve`, or a program that serves like it, with its data in `folder`/data, ready."""
    port = free_port()
    values = SERVICE_SETTINGS | {"PORT": str(port), "DATA_DIR": str(folder / "data"), "LOG_DIR": str(folder / "logs")}
    command = [sys.executable, *program]
    with _running(command, environment(values | settings), port, folder) as server:
        yield server


@contextmanager
def floor(answer_bytes: int) -> Iterator[Server]:
    """The bare handler, ready."""
    port = free_port()
    command = [sys.executable, str(BENCH / "floor.py"), str(port), str(answer_bytes)]
    with scratch() as folder, _running(command, environment({}), port, folder) as server:
        yield server


@contextmanager
def _running(command: list[str], env: dict[str, str], port: int, folder: Path) -> Iterator[Server]:
    # Its working directory is the folder, so that no .env of the caller is read.
    with (folder / "output").open("ab") as output:
        begun = time.perf_counter()
        process = subprocess.Popen(
            command,
            env=env,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    server = Server(process, port, folder, begun)
    try:
        server.wait_ready()
        yield server
    finally:
        server.stop()


# --- what a process costs ----------------------------------------------------------------------------------------


def cpu_seconds(pid: int | None) -> float | None:
    """User and system time so far; None where /proc does not tell."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mb(pid: int | None) -> float | None:
    """Resident memory in units of 1,000,000 bytes; None where /proc does not tell."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    for line in text.splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / 1e6
    return None
