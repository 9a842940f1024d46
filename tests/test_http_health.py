"""Health for people and for machines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tbx.http.exchanges import Shown
from tbx.http.health import duration, uptime
from tbx.venues.client import VenueStatus

from .redis_fixtures import in_loop, until
from .service_fixtures import a_service

pytestmark = pytest.mark.connectivity


@in_loop
async def test_health_has_the_manuals_shape(tmp_path: Path) -> None:
    async with a_service(tmp_path) as service:
        await service.order()
        await until(lambda: len(service.node.orders.fills) > 0, "a fill")
        health = (await service.http.get("/api/health")).json()
        assert (health["status"], health["service"]) == ("healthy", "trading-bot-execution")
        assert health["uptime"].startswith("00:00:")
        for exchange in ("xeggex", "binance"):
            assert health["exchanges"][exchange].keys() >= {"status", "lastPing", "rateLimit"}
            assert health["exchanges"][exchange]["rateLimit"].keys() == {"remaining", "resetTime"}
        engine = health["executionEngine"]
        assert engine.keys() == {"status", "ordersProcessed", "successRate", "averageExecutionTime"}
        assert (engine["status"], engine["ordersProcessed"], engine["successRate"]) == ("operational", 1, 100.0)


@in_loop
async def test_without_a_store_the_service_is_alive_and_not_ready(tmp_path: Path) -> None:
    async with a_service(tmp_path) as service:
        assert (await service.http.get("/readyz")).json()["ready"] is True
        service.store.down = True
        await service.order()
        assert (await service.http.get("/livez")).status_code == 200
        ready = await service.http.get("/readyz")
        assert (ready.status_code, ready.json()["checks"]["store"]) == (503, False)
        health = await service.http.get("/api/health")
        assert (health.status_code, health.json()["status"]) == (200, "unhealthy")
        assert health.json()["executionEngine"]["status"] == "reducing"
        service.store.down = False
        await until(lambda: service.node.kernel.store_up, "the store")
        assert (await service.http.get("/readyz")).status_code == 200


@in_loop
async def test_rejected_orders_lower_the_success_rate(tmp_path: Path) -> None:
    async with a_service(tmp_path) as service:
        await service.order(side="sell")
        await service.order()
        await until(lambda: len(service.node.orders.fills) > 0, "a fill")
        engine = (await service.http.get("/api/health")).json()["executionEngine"]
        assert (engine["ordersProcessed"], engine["successRate"]) == (2, 50.0)


def venue_status(**fields: Any) -> VenueStatus:
    usual = {"status": "connected", "last_ping_ms": 1, "rate_limit_remaining": 5, "rate_limit_reset_ms": 6}
    return VenueStatus(**(usual | fields))


@in_loop
async def test_the_latency_of_prices_is_shown_where_it_is_measured(tmp_path: Path) -> None:
    orders, prices = venue_status(), venue_status(latency_ms=1.26)
    shown = Shown("binance", lambda: orders, lambda: {"binance": prices}, lambda: "", lambda: True)
    async with a_service(tmp_path) as service:
        api = service.app.api
        api.venues = [shown, Shown("xeggex", lambda: orders, dict, lambda: "", lambda: True)]
        health = (await service.http.get("/api/health")).json()["exchanges"]
        assert health["binance"]["latencyMs"] == 1.3 and "latencyMs" not in health["xeggex"]
        orders = venue_status(status="disconnected", reason="no key")
        health = (await service.http.get("/api/health")).json()["exchanges"]
        assert (health["binance"]["reason"], health["binance"]["latencyMs"]) == ("no key", 1.3)


def test_times_are_written_as_in_the_manual() -> None:
    assert uptime(11_742_000_000_000) == "03:15:42"
    assert uptime(100 * 3_600_000_000_000) == "100:00:00"
    assert duration(1_200_000_000) == "1.2s"
    assert duration(4_500_000) == "4.5ms"
