"""Degraded modes in the four places where they show, and GET /metrics."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from websockets.asyncio.client import ClientConnection, connect

from tbx.core.kernel.conditions import KINDS, NOTICES, REFUSE_ORDERS
from tbx.core.kernel.latency import Latency
from tbx.core.model.errors import StoreUnavailable
from tbx.core.orders.history import History, HistoryLimits

from .conftest import ROOT
from .redis_fixtures import in_loop, until
from .service_fixtures import Served, a_service

Samples = dict[tuple[str, tuple[str, ...]], float]


async def scrape(service: Served) -> Samples:
    """(name, values of the labels in the order of their names) -> value, as a Prometheus reads it."""
    answer = await service.http.get("/metrics")
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/plain; version=")
    return {
        (sample.name, tuple(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


async def next_health(socket: ClientConnection) -> dict[str, Any]:
    """The next picture of health."""
    while True:
        message: dict[str, Any] = json.loads(await socket.recv())
        if message.get("channel") == "health" and message["type"] == "Snapshot":
            return dict(message["data"])


def held(health: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [(c["name"], c["subject"], c["why"]) for c in health["conditions"]]


@pytest.mark.parametrize("name", KINDS)
@in_loop
async def test_every_condition_shows_in_health_readiness_the_feed_and_the_metrics(tmp_path: Path, name: str) -> None:
    async with a_service(tmp_path) as service, connect(service.ws) as socket:
        conditions = service.node.kernel.conditions
        await socket.send(json.dumps({"op": "subscribe", "channels": ["health"]}))
        assert (await next_health(socket))["conditions"] == []

        service.node.kernel.run(conditions.begin, name, "the reason", "it")
        shown = [(name, "it", "the reason")]
        assert held(await next_health(socket)) == shown, "the feed shows it at once"
        health = (await service.http.get("/api/health")).json()
        assert held(health) == shown and health["conditions"][0]["since"] > 1_600_000_000_000
        refuses = name in REFUSE_ORDERS
        assert health["status"] == ("unhealthy" if refuses else "healthy" if name in NOTICES else "degraded")
        ready = await service.http.get("/readyz")
        assert ready.status_code == (503 if refuses else 200)
        assert ("the reason" in ready.json()["reason"]) is refuses
        samples = await scrape(service)
        assert samples["tbx_condition", (name, "it")] == samples["tbx_condition_begun_total", (name,)] == 1
        assert samples["tbx_ready", ()] == (0 if refuses else 1)

        async with connect(service.ws) as late:
            await late.send(json.dumps({"op": "subscribe", "channels": ["health"]}))
            assert held(await next_health(late)) == shown, "who comes later is shown what holds"

        service.node.kernel.run(conditions.end, name, "it")
        assert (await next_health(socket))["conditions"] == []
        assert (await service.http.get("/api/health")).json()["status"] == "healthy"
        assert (await service.http.get("/readyz")).status_code == 200
        samples = await scrape(service)
        assert samples["tbx_condition", (name, "")] == 0 and samples["tbx_condition_begun_total", (name,)] == 1


def test_the_readme_tells_of_every_condition_and_of_no_other() -> None:
    section = (ROOT / "http" / "README.md").read_text().partition("## What can be wrong, and where it shows")[2]
    rows = re.findall(
        r"^\| `(\w+)` \| ([^|]+) \| (not ready|degraded|healthy) \|$", section.partition("\n## ")[0], re.MULTILINE
    )
    assert {name: text.strip() for name, text, _ in rows} == dict(KINDS)
    assert {name for name, _, status in rows if status == "not ready"} == REFUSE_ORDERS
    assert {name for name, _, status in rows if status == "healthy"} == NOTICES


@in_loop
async def test_metrics_tell_what_has_happened(tmp_path: Path) -> None:
    async with a_service(tmp_path) as service:
        await service.order(side="sell")  # of what is not there
        await service.order()
        await until(lambda: len(service.node.orders.fills) > 0, "a fill")
        resting = await service.resting()
        await until(lambda: len(service.node.orders.open) == 1, "only the resting one is open")
        await service.http.get(f"/api/orders/{resting['orderId']}")
        samples = await scrape(service)
        kernel = service.node.kernel
        assert samples["tbx_orders_taken_total", ()] == 3
        assert samples["tbx_orders_ended_total", ("filled",)] == samples["tbx_orders_ended_total", ("rejected",)] == 1
        assert sum(samples["tbx_orders_open", (state,)] for state in ("sent", "live", "part", "held", "unknown")) == 1
        assert samples["tbx_fills_total", ()] == len(service.node.orders.fills)
        assert 0 < samples["tbx_commits_total", ()] <= kernel.commit_count
        assert samples["tbx_commit_seconds_count", ()] == samples["tbx_commits_total", ()]
        assert samples["tbx_commit_seconds_bucket", ("+Inf",)] == samples["tbx_commit_seconds_count", ()]
        assert samples["tbx_trading_state", ("ACTIVE",)] == 1 == samples["tbx_store_up", ()]
        assert samples["tbx_venue_up", ("xeggex",)] == 1
        assert samples["tbx_faults_total", ()] == 0 and samples["process_resident_memory_bytes", ()] > 0


@in_loop
async def test_metrics_need_a_key_that_reads(tmp_path: Path) -> None:
    keys = {"API_KEYS": f"trader:{'0' * 64}:trade"}
    async with a_service(tmp_path, keys) as service:
        assert (await service.http.get("/metrics")).status_code == 401


def test_durations_are_counted_within_their_bounds() -> None:
    latency = Latency((10, 20))
    for duration_ns in (-5, 10, 11, 20, 21):
        latency.add(duration_ns)
    assert (latency.counts, latency.sum_ns) == ([2, 2, 1], 62)


@in_loop
async def test_a_fault_is_shown_and_stays(tmp_path: Path) -> None:
    """nautilus 5039: exceptions in callbacks were swallowed."""
    async with a_service(tmp_path) as service:

        def broken() -> None:
            raise ZeroDivisionError("a bug")

        service.node.kernel.run(broken)
        health = (await service.http.get("/api/health")).json()
        names = [c["name"] for c in health["conditions"]]
        assert names == ["fault", "trading_limited"] and "a bug" in health["conditions"][0]["why"]
        assert health["status"] == "unhealthy" and (await service.http.get("/readyz")).status_code == 503
        assert (await service.order()).json()["code"] == "TRADING_LIMITED"
        samples = await scrape(service)
        assert samples["tbx_faults_total", ()] == 1 and samples["tbx_trading_state", ("HALTED",)] == 1


@in_loop
async def test_an_archive_that_fails_is_shown_until_it_works_again(tmp_path: Path) -> None:
    async with a_service(tmp_path) as service:
        node, failing = service.node, [StoreUnavailable("the disk is full"), None]
        limits = HistoryLimits(orders_max=0, trades_max=0)
        history = History(node.kernel, node.orders, lambda _, __, done: done(failing.pop(0)), limits)
        await service.order()
        await until(lambda: not node.orders.open, "it is filled")
        await until(lambda: all(map(node.orders.committed, node.orders.orders.values())), "and committed")
        node.kernel.run(history.trim)
        health = (await service.http.get("/api/health")).json()
        assert held(health) == [("archive_failing", "", "the disk is full")] and health["status"] == "degraded"
        node.kernel.run(history.trim)
        assert (await service.http.get("/api/health")).json()["conditions"] == []
        assert history.archived == 1 and history.archived_fills > 0


@in_loop
async def test_a_book_that_stands_still_is_shown_for_its_exchange(tmp_path: Path) -> None:
    async with a_service(tmp_path) as service:
        service.node.source.stop()
        conditions = service.node.kernel.conditions
        await until(lambda: conditions.holds("market_stale", "xeggex"), "a look that finds no fresh book")
        assert not conditions.holds("venue_away", "xeggex")
        service.node.source.start()
        await until(lambda: not conditions.holds("market_stale", "xeggex"), "the book again")


@in_loop
async def test_events_that_were_dropped_are_told_to_who_listens(tmp_path: Path) -> None:
    """Without it a client would see a higher seq and take it for all there is."""
    async with a_service(tmp_path) as service, connect(service.ws) as socket:
        kernel = service.node.kernel
        await socket.send(json.dumps({"op": "subscribe", "channels": ["orders"]}))
        await until(lambda: bool(service.app.feed.clients), "the client")
        assert json.loads(await socket.recv())["op"] == "subscribed"
        kernel.outbox.EVENTS_MAX = 20  # room for what tells that the store is back
        service.store.down = True
        await service.order()
        await until(lambda: not kernel.store_up, "the store is away")
        for number in range(27):
            kernel.outbox.event("orders", "Noted", {"orderId": str(number)})
        assert kernel.conditions.holds("events_dropped")
        assert (await scrape(service))["tbx_events_dropped_total", ()] >= 10
        service.store.down = False
        while (message := json.loads(await socket.recv())).get("op") != "gap":
            assert message.get("type") != "Noted", "a later event came before the gap was told"
        while (message := json.loads(await socket.recv())).get("type") != "Snapshot":
            assert message.get("op") == "heartbeat"
        assert not kernel.conditions.holds("events_dropped") and kernel.conditions.counts["events_dropped"] == 1
