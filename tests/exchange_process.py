"""The local exchange as people run it: `tbx exchange` in a process of its own, on a port that was free."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).resolve().parent.parent
STOP_S = 15.0


class ExchangeProcess:
    """`tbx exchange --json`; `described` is the line that it printed. A context manager."""

    def __init__(self, *options: str, market: str = "none") -> None:
        kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG", "TMPDIR")}
        words = ["--json", "--port", "0", "--market", market, *options]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tbx.venues.simulator.binance.command", *words],
            env={**kept, "PYTHONPATH": str(ROOT / ".src")},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert self.process.stdout is not None and self.process.stderr is not None
        line = self.process.stdout.readline()
        if not line:
            raise AssertionError(f"no line of JSON: {self.process.stderr.read().decode()}")
        self.described: dict[str, Any] = json.loads(line)
        self.url_rest: str = self.described["rest"]
        self.url_ws_api: str = self.described["wsApi"]
        self.url_stream: str = self.described["stream"]
        self.accounts: list[dict[str, Any]] = self.described["accounts"]
        self.http = httpx.Client(base_url=self.url_rest, timeout=10, trust_env=False)

    def control(self, command: str = "", **body: Any) -> dict[str, Any]:
        """POST /control/command; without a command the state."""
        path = f"/control/{command}" if command else "/control"
        answer = self.http.post(path, json=body) if command else self.http.get(path)
        assert answer.status_code == 200, answer.text
        document: dict[str, Any] = answer.json()
        return document

    def stop(self) -> int:
        """As a person does it; returns the exit code."""
        self.http.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait(STOP_S)
        finally:
            for pipe in (self.process.stdout, self.process.stderr):
                if pipe is not None:
                    pipe.close()

    def __enter__(self) -> ExchangeProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
