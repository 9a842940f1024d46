"""The other services in health and metrics; and the way from an order to the risk service, with a real process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from msgspec import UNSET

from tbx.core.kernel.clock import SystemClock
from tbx.core.kernel.kernel import Kernel
from tbx.core.settings import load_settings
from tbx.core.state.memory import MemoryStore
from tbx.strategies_bridge.services.health import PROBE_TIMEOUT_S, Services, status_of

from .redis_fixtures import in_loop
from .service_peers import POSITION_SIZE, Peers, peers
from .service_process import ServiceProcess

NAMES = ("core", "risk", "ml", "backtest", "dashboard")
BUY = {"pair": "RVN_USDT", "side": "buy", "type": "market", "quantity": 1000, "exchange": "xeggex"}


def services(tmp_path: Path, environment: dict[str, str]) -> Services:
    loop = asyncio.get_running_loop()
    store = MemoryStore(loop.call_soon)
    kernel = Kernel(SystemClock(loop, time.time_ns), store.writer(store.acquire()))
    return Services(load_settings(environment, tmp_path), kernel, tell=pytest.fail)


@in_loop
async def test_each_service_is_seen_as_it_is_and_one_that_hangs_delays_no_other(tmp_path: Path) -> None:
    with peers() as p:
        p.core.answer("/api/health", {"status": "degraded"})
        p.ml.fault("hang")
        p.backtest.fault("500")
        p.dashboard.away()
        found = services(tmp_path, p.environment)
        begun = time.monotonic()
        await found.look()
        assert time.monotonic() - begun < PROBE_TIMEOUT_S + 0.5
        seen = found.statuses()
        assert tuple(seen) == NAMES
        assert {name: status.status for name, status in seen.items()} == {
            "core": "degraded",
            "risk": "healthy",
            "ml": "unreachable",
            "backtest": "answers 500",
            "dashboard": "unreachable",
        }
        assert seen["ml"].detail == "no answer within 1000 ms"
        assert [name for name in NAMES if seen[name].answers] == ["core", "risk"]
        assert all(abs((status.last_check or 0) - time.time() * 1_000) < 5_000 for status in seen.values())
        await found.aclose()


@in_loop
async def test_a_service_that_is_set_to_none_is_not_there(tmp_path: Path) -> None:
    found = services(tmp_path, dict.fromkeys((f"{name.upper()}_SERVICE_URL" for name in NAMES), "none"))
    assert found.statuses() == {}
    assert (found.core, found.risk, found.ml, found.backtest, found.dashboard) == (None,) * 5
    await found.look()
    await found.stop()
    await found.aclose()


@in_loop
async def test_a_breaker_that_is_open_is_shown(tmp_path: Path) -> None:
    with peers() as p:
        found = services(tmp_path, p.environment)
        assert found.ml is not None
        p.ml.fault("500", path="/api/predictions")
        for _ in range(3):
            await found.ml.prediction("RVN_USDT")
        await found.look()
        assert (found.statuses()["ml"].status, found.statuses()["ml"].breaker) == ("healthy", "open")
        await found.aclose()


@in_loop
async def test_a_service_whose_health_answers_and_whose_last_call_failed_says_why(tmp_path: Path) -> None:
    with peers() as p:
        found = services(tmp_path, p.environment)
        assert found.core is not None
        p.core.fault("500", path="/api/data")
        await found.core.pairs()
        await found.look()
        shown = found.statuses()["core"]
        assert (shown.status, shown.detail, shown.answers) == ("healthy", "its last call failed: HTTP 500", True)
        p.core.fault("")
        await found.core.pairs()
        assert found.statuses()["core"].detail is UNSET
        p.core.away()
        await found.core.pairs()
        await found.look()
        assert str(found.statuses()["core"].detail).startswith("cannot be reached")
        await found.aclose()


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"status": "healthy"}', "healthy"),
        (b'{"status": "odd"}', "odd"),
        (b"OK", "healthy"),
        (b"", "healthy"),
        (b'{"status": 7}', "healthy"),
        (b'["status"]', "healthy"),
        (b'{"status": "' + b"x" * 500 + b'"}', "x" * 40),
    ],
)
def test_what_a_service_says_of_itself_is_taken_as_it_says_it(body: bytes, status: str) -> None:
    assert status_of(body) == status


# --- the whole service


@pytest.fixture
def others() -> Iterator[Peers]:
    with peers() as found:
        yield found


@pytest.fixture
def service(tmp_path: Path, others: Peers) -> Iterator[ServiceProcess]:
    process = ServiceProcess(tmp_path, **others.environment, DASHBOARD_PUSH="true")
    try:
        yield process.start()
    finally:
        process.close()


def when(service: ServiceProcess, path: str, met: Any) -> Any:
    """The answer to GET path once it is as it should be."""
    end = time.monotonic() + 10
    while True:
        answer: httpx.Response = service.http.get(path)
        said = answer.json() if path.startswith("/api") else answer.text
        if met(said):
            return said
        assert time.monotonic() < end, f"{path} stays {said}"
        time.sleep(0.02)


def test_health_and_metrics_show_the_other_services(service: ServiceProcess, others: Peers) -> None:
    shown = when(service, "/api/health", lambda said: said["services"]["risk"]["lastCheck"])["services"]
    assert tuple(shown) == NAMES
    assert shown["core"]["status"] == "healthy"
    assert isinstance(shown["core"]["lastCheck"], int)
    assert 'tbx_service_up{service="risk"} 1.0' in when(service, "/metrics", lambda text: "tbx_service_up" in text)
    service.http.post("/api/orders", json=BUY)
    assert "tbx_risk_service_seconds_count 1.0" in service.http.get("/metrics").text


def test_a_risk_service_that_is_away_halves_entries_and_shows_as_a_condition(
    service: ServiceProcess, others: Peers
) -> None:
    assert service.http.post("/api/orders", json=BUY).json()["quantity"] == 1000
    others.risk.away()
    order = service.http.post("/api/orders", json=BUY).json()
    assert order["quantity"] == 500
    assert order["riskValidation"]["fallback"] is True
    held = service.http.get("/api/health").json()
    assert [condition["name"] for condition in held["conditions"]] == ["risk_service_away"]
    assert held["readiness"]["ready"]
    others.risk.back()
    assert service.http.post("/api/orders", json=BUY).json()["quantity"] == 1000
    assert service.http.get("/api/health").json()["conditions"] == []


def test_the_dashboard_gets_every_event_up_to_the_last_commit(service: ServiceProcess, others: Peers) -> None:
    order_id = service.http.post("/api/orders", json=BUY).json()["orderId"]
    service.order_when(order_id, "filled")
    assert service.stop() == 0
    seqs = [event["seq"] for event in others.dashboard.events]
    assert seqs == list(range(1, len(seqs) + 1))
    kinds = {event["type"] for event in others.dashboard.events}
    assert {"OrderFilled", "TradeExecuted", "PositionOpened"} <= kinds


def test_the_service_ends_soon_while_every_other_one_hangs(service: ServiceProcess, others: Peers) -> None:
    for peer in others.all:
        peer.fault("hang")
    others.risk.fault("hang", path=POSITION_SIZE)
    begun = time.monotonic()
    assert service.http.post("/api/orders", json=BUY).json()["quantity"] == 500
    assert time.monotonic() - begun < 1.5
    begun = time.monotonic()
    assert service.stop() == 0
    assert time.monotonic() - begun < 6
