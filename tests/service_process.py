"""The service as people run it: a process of its own with its own folder, port and Redis."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

from .risk_off import OLD_RISK_LIMITS

ROOT = Path(__file__).resolve().parent.parent
START_S = 60.0  # the first start on a machine compiles the kernels
STOP_S = 15.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class ServiceProcess:
    """`tbx serve` in `folder`; start it again after `kill` or `stop` and it goes on where it was."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.folder = folder
        self.port = free_port()
        self.settings = {"PORT": str(self.port), "CORE_SERVICE_URL": "none", **OLD_RISK_LIMITS}
        self.settings |= {"ML_SERVICE_URL": "none", "BACKTEST_SERVICE_URL": "none", "DASHBOARD_SERVICE_URL": "none"}
        self.settings |= settings
        self.arguments: tuple[str, ...] = ()  # of `serve`
        self.process: subprocess.Popen[bytes] | None = None
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=30, trust_env=False)

    def environment(self) -> Mapping[str, str]:
        kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG", "TMPDIR")}
        return {**kept, "PYTHONPATH": str(ROOT / ".src"), **self.settings}

    def spawn(self) -> subprocess.Popen[bytes]:
        with open(self.folder / "stderr.txt", "ab") as stderr:
            command = [sys.executable, "-m", "tbx.http", "serve", *self.arguments]
            self.process = subprocess.Popen(command, cwd=self.folder, env=self.environment(), stderr=stderr)
        return self.process

    def start(self) -> ServiceProcess:
        """Start and wait until it is ready."""
        process = self.spawn()
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise AssertionError(f"ended with {process.returncode}: {self.stderr()}")
            try:
                if self.http.get("/readyz").status_code == 200:
                    return self
            except httpx.TransportError:
                pass
            time.sleep(0.02)
        raise AssertionError(f"not ready within {START_S:g} s: {self.stderr()}")

    def stderr(self) -> str:
        return (self.folder / "stderr.txt").read_text()

    def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(STOP_S)

    def stop(self) -> int:
        """As a person does it; returns the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(STOP_S)

    def close(self) -> None:
        self.http.close()
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.kill()

    # --- asking

    def order(self, **body: Any) -> httpx.Response:
        return self.http.post("/api/orders", json={"pair": "RVN_USDT", "side": "buy", "type": "market", **body})

    def order_when(self, order_id: str, *statuses: str) -> dict[str, Any]:
        """The order, once its status is one of these."""
        deadline = time.monotonic() + 10
        while True:
            order: dict[str, Any] = self.http.get(f"/api/orders/{order_id}").json()
            if order.get("status") in statuses:
                return order
            assert time.monotonic() < deadline, f"still {order}"
            time.sleep(0.005)
