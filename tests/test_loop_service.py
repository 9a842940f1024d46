"""The trading loop in a process of its own: it trades by itself, shows itself, and survives what is done to it."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .risk_off import OLD_RISK_LIMITS
from .service_peers import Peers, peers
from .service_process import ServiceProcess

BUY = {"ma": {"signal": "buy", "confidence": 0.9}}
SELL = {"ma": {"signal": "sell", "confidence": 0.9}}
PAIRS = ("RVN_USDT", "XMR_USDT")
DEADLINE_S = 20.0
STATUS = {"running", "cycles", "skipped", "failed", "lastCycle", "lastDecisions", "lastSignals", "lastError"}


@pytest.fixture
def neighbours() -> Iterator[Peers]:
    with peers() as running:
        yield running


@pytest.fixture
def service(tmp_path: Path, neighbours: Peers) -> Iterator[ServiceProcess]:
    """With the limits that everybody has who sets none."""
    environment = {**neighbours.environment, "TRADING_LOOP": "true", "TRADING_LOOP_INTERVAL": "1000"}
    process = ServiceProcess(tmp_path, **environment)
    for name in OLD_RISK_LIMITS.keys() - environment.keys():
        del process.settings[name]
    yield process
    process.close()


def until(met: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + DEADLINE_S
    while not (found := met()):
        assert time.monotonic() < deadline, f"waited in vain for: {what}"
        time.sleep(0.02)
    return found


def opine(neighbours: Peers, strategies: dict[str, Any], prediction: str) -> None:
    for pair in PAIRS:
        neighbours.ml.predict(pair, {"prediction": prediction, "confidence": 0.9})
    neighbours.core.offer(dict.fromkeys(PAIRS, strategies))


def loop_of(service: ServiceProcess) -> dict[str, Any]:
    found: dict[str, Any] = service.http.get("/api/health").json()["tradingLoop"]
    return found


def positions(service: ServiceProcess) -> list[str]:
    return sorted(position["pair"] for position in service.http.get("/api/portfolio").json()["positions"])


def executed(service: ServiceProcess, side: str) -> list[dict[str, Any]]:
    orders = service.http.get("/api/orders?limit=200").json()["orders"]
    return [order for order in orders if order["side"] == side and order["type"] == "market"]


def log(service: ServiceProcess) -> list[str]:
    return (service.folder / "logs" / "execution.log").read_text().splitlines()


def test_the_loop_buys_survives_a_kill_without_buying_twice_sells_and_the_books_agree(
    service: ServiceProcess, neighbours: Peers
) -> None:
    opine(neighbours, BUY, "up")
    service.start()
    until(lambda: len(positions(service)) == 2, "both pairs bought")
    service.kill()
    service.start()
    until(lambda: loop_of(service)["cycles"] >= 2, "two cycles after the kill")
    assert loop_of(service).keys() == STATUS
    assert len(executed(service, "buy")) == 2

    neighbours.core.away()
    until(lambda: (loop_of(service)["lastError"] or "").startswith("core: "), "a cycle that says so")
    assert service.http.get("/readyz").status_code == 200
    opine(neighbours, SELL, "down")
    neighbours.core.back()
    until(lambda: positions(service) == [], "both pairs sold")
    assert service.stop() == 0
    missing = {"DECISION", "CYCLE", "CYCLE_FAILED", "SIGNAL_DONE"} - {line.split()[2] for line in log(service)}
    assert not missing, log(service)[-20:]
    command = [sys.executable, "-m", "tbx.http", "verify"]
    environment = service.environment()
    done = subprocess.run(command, cwd=service.folder, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "all agrees" in done.stdout, done.stdout + done.stderr


def test_services_that_hang_hold_up_neither_the_loop_nor_orders(service: ServiceProcess, neighbours: Peers) -> None:
    opine(neighbours, BUY, "up")
    neighbours.core.fault("hang", path="/api/pair")
    neighbours.ml.fault("drip-head", path="/api/predictions")
    service.start()
    until(lambda: loop_of(service)["cycles"] >= 1, "a cycle")
    began = time.monotonic()
    assert service.order(quantity=1000, riskCheck=False).status_code == 201
    assert time.monotonic() - began < 0.5
    assert executed(service, "buy")[0]["quantity"] == 1000 and len(executed(service, "buy")) == 1
    for peer in neighbours.all:
        peer.fault("")
    until(lambda: len(executed(service, "buy")) == 3, "both pairs bought once they answer")


def test_a_loop_that_nobody_can_name_pairs_for_is_refused_at_the_start(service: ServiceProcess) -> None:
    service.settings["CORE_SERVICE_URL"] = "none"
    process = service.spawn()
    assert process.wait(60) == 2
    assert "TRADING_LOOP=true needs CORE_SERVICE_URL" in service.stderr()


def test_without_the_setting_there_is_no_loop(service: ServiceProcess, neighbours: Peers) -> None:
    del service.settings["TRADING_LOOP"]
    service.start()
    assert "tradingLoop" not in service.http.get("/api/health").json()
    assert neighbours.core.asked("/api/data") == []
