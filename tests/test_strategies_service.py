"""Strategies in the service as people run it: a process under uvloop, its Redis, its signals."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .service_process import ROOT, ServiceProcess

SAMPLES = "tests.strategy_samples"
LIMIT_MS = 200


class Process(ServiceProcess):
    """The service with strategies of `tests/strategy_samples.py`."""

    def environment(self) -> dict[str, str]:
        environment = dict(super().environment())
        environment["PYTHONPATH"] += f":{ROOT}"
        return environment

    def strategies(self) -> dict[str, dict[str, Any]]:
        answer = self.http.get("/api/strategies").json()["strategies"]
        return {row["name"]: row["running"] for row in answer if row["running"] is not None}

    def until(self, condition: Callable[[], object], what: str, seconds: float = 15.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}; {self.strategies()}"
            time.sleep(0.02)

    def log(self, word: str) -> list[dict[str, Any]]:
        """The facts of the lines of the execution log with this word."""
        lines = (self.folder / "logs" / "execution.log").read_text().splitlines()
        return [json.loads(line[line.index("{") :]) for line in lines if f" {word} " in line]


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Process]:
    service = Process(tmp_path, STRATEGY_TIME_LIMIT=str(LIMIT_MS), PAPER_LATENCY_MS="5")
    yield service
    service.close()


@pytest.mark.parametrize("how", ["python", "core", "sleep", "json", "expression"])
def test_a_strategy_that_does_not_come_back_is_interrupted_and_the_others_go_on(process: Process, how: str) -> None:
    process.arguments = (
        *("--strategy", f"{SAMPLES}:Looping?how={how}"),
        *("--strategy", f"{SAMPLES}:Counting"),
    )
    process.start()
    process.until(lambda: process.strategies()["looping"]["status"] == "stopped", "interrupted")
    running = process.strategies()
    assert "StrategyStuck" in running["looping"]["error"]
    calls = running["counting"]["calls"]
    process.until(lambda: process.strategies()["counting"]["calls"] > calls + 10, "the other goes on")
    process.until(lambda: process.http.get("/api/orders?status=open").json()["orders"] == [], "its order is cancelled")
    health = process.http.get("/api/health").json()
    assert [c["name"] for c in health["conditions"] if c["subject"] == "looping"] == ["strategy_stopped"]
    assert process.http.get("/readyz").status_code == 200
    assert process.order(quantity=1000).status_code == 201
    assert process.stop() == 0
    assert len(process.log("STRATEGY_FAILED")) == 1


@pytest.mark.parametrize("how", ["interrupt", "surrogate"])
def test_whatever_a_hook_raises_ends_the_strategy_alone_and_health_tells_of_it(process: Process, how: str) -> None:
    process.arguments = ("--strategy", f"{SAMPLES}:Raising?how={how}", "--strategy", f"{SAMPLES}:Counting")
    process.start()
    process.until(lambda: process.strategies()["raising"]["status"] == "stopped", "stopped")
    health = process.http.get("/api/health")
    assert health.status_code == 200
    assert [c["name"] for c in health.json()["conditions"] if c["subject"] == "raising"] == ["strategy_stopped"]
    assert process.http.get("/readyz").status_code == 200
    assert process.order(quantity=1000).status_code == 201
    assert process.stop() == 0
    [line] = [line for line in process.stderr().splitlines() if "fault of its own" in line]
    assert line.startswith("tbx: strategy raising is stopped by a fault of its own: on_start: ")


def test_ctrl_c_ends_the_service_as_it_should_be_ended_while_strategies_run(process: Process) -> None:
    process.arguments = ("--strategy", f"{SAMPLES}:Resting", "--strategy", f"{SAMPLES}:Counting")
    process.start()
    process.until(lambda: process.http.get("/api/orders?status=open").json()["orders"], "its order rests")
    assert process.process is not None
    process.process.send_signal(signal.SIGINT)
    assert process.process.wait(15) == 0
    process.arguments = ()
    process.start()
    assert process.http.get("/api/orders?status=open").json()["orders"] == []  # on_stop came, and its entry went


def test_code_that_is_compiled_is_left_to_end_and_nobody_else_is_blamed(process: Process) -> None:
    process.arguments = ("--strategy", f"{SAMPLES}:Compiled", "--strategy", f"{SAMPLES}:Counting")
    process.start()
    process.until(
        lambda: process.strategies()["compiled"]["calls"] > 0 or process.strategies()["compiled"]["error"], ""
    )
    assert process.strategies()["counting"]["status"] == "running"
    assert process.stop() == 0


def test_sys_exit_ends_the_strategy_and_not_the_service(process: Process) -> None:
    process.arguments = ("--strategy", f"{SAMPLES}:Leaving")
    process.start()
    process.until(lambda: process.strategies()["leaving"]["status"] == "stopped", "stopped")
    assert process.strategies()["leaving"]["error"].startswith("on_start: SystemExit: 7 (strategy_samples.py:")
    assert process.http.get("/readyz").status_code == 200


def test_state_and_client_ids_survive_kill_and_what_was_resting_is_taken_back(process: Process) -> None:
    process.arguments = ("--strategy", f"{SAMPLES}:Resting")
    process.start()
    process.until(lambda: process.http.get("/api/orders?status=open").json()["orders"], "its order rests")
    [first] = process.http.get("/api/orders?status=open").json()["orders"]
    process.kill()
    process.start()
    process.order_when(first["orderId"], "cancelled")
    process.until(lambda: process.http.get("/api/orders?status=open").json()["orders"], "the next one rests")
    [second] = process.http.get("/api/orders?status=open").json()["orders"]
    assert first["signalData"] == second["signalData"] == {"source": "strategy", "strategy": "resting"}
    assert first["clientOrderId"] != second["clientOrderId"]
    assert process.stop() == 0
    assert process.log("STRATEGY")[-1]["facts"] == {"starts": 2}  # lines of the last moment may be lost by a kill
    process.arguments = ()
    process.start()
    assert process.http.get("/api/orders?status=open").json()["orders"] == []  # it was cancelled at the end


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("nowhere:Strategy", "strategy nowhere:Strategy: cannot import nowhere: ModuleNotFoundError"),
        (f"{SAMPLES}:Restign", "has no Restign; did you mean Resting?"),
        (f"{SAMPLES}:NOT_A_STRATEGY", "is no class derived from"),
        (f"{SAMPLES}:Resting?pairs=RVN_USDC", "pair RVN_USDC is not traded at xeggex; did you mean RVN_USDT?"),
        (f"{SAMPLES}:Looping?hwo=core", "there is no parameter hwo; did you mean how?"),
        (f"{SAMPLES}:Unready", "RuntimeError: a strategy can ask and act from on_start on, not in __init__"),
        ("no_such_entry", "no entry point 'no_such_entry' in group tbx.strategies"),
    ],
)
def test_a_strategy_that_cannot_be_started_ends_the_start_with_code_2(process: Process, spec: str, said: str) -> None:
    process.arguments = ("--strategy", spec)
    assert process.spawn().wait(60) == 2
    assert said in process.stderr()


def test_a_strategy_is_stopped_and_started_over_http(process: Process) -> None:
    process.arguments = ("--strategy", f"{SAMPLES}:Resting")
    process.start()
    process.until(lambda: process.http.get("/api/orders?status=open").json()["orders"], "its order rests")
    answer = process.http.post("/api/strategies/resting/stop")
    assert (answer.status_code, answer.json()["status"], answer.json()["error"]) == (200, "stopped", None)
    process.until(lambda: process.http.get("/api/orders?status=open").json()["orders"] == [], "cancelled")
    assert process.http.post("/api/strategies/resting/stop").json()["code"] == "STRATEGY_STATE"
    assert process.http.post("/api/strategies/resting/start").json()["status"] == "running"
    process.until(lambda: process.http.get("/api/orders?status=open").json()["orders"], "it rests anew")
    missing = process.http.post("/api/strategies/none/start")
    assert (missing.status_code, missing.json()["code"]) == (404, "STRATEGY_NOT_FOUND")
