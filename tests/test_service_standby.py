"""A second process of the node waits, takes over when the first one dies, and only then; real processes, real Redis."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from .live_processes import wait_for
from .service_process import STOP_S, ServiceProcess
from .standby_processes import Pair, RedisProcess, a_pair, a_redis_process, await_standby, is_ready, role, twin

TAKEOVER_S = 5.0  # what is promised, after which this machine's other work may still delay what it measures
SLACK_S = 5.0


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[RedisProcess]:
    with a_redis_process(tmp_path / "redis") as server:
        yield server


@pytest.fixture
def pair(shared: RedisProcess, tmp_path: Path) -> Iterator[Pair]:
    folder = tmp_path / "first"
    folder.mkdir()
    with a_pair(ServiceProcess(folder, REDIS_URL=shared.url), tmp_path / "second") as both:
        yield both


def resting(service: ServiceProcess, count: int) -> set[str]:
    """Ids of orders that stay open."""
    price = {"type": "limit", "price": 0.001, "quantity": 1000, "exchange": "xeggex"}
    placed = [service.order(**price).json()["orderId"] for _ in range(count)]
    for order_id in placed:
        service.order_when(order_id, "open")
    return set(placed)


def held(service: ServiceProcess) -> set[str]:
    return {order["orderId"] for order in service.http.get("/api/orders?limit=500").json()["orders"]}


def seconds_until_ready(service: ServiceProcess) -> float:
    begun = time.monotonic()
    wait_for(lambda: is_ready(service), "ready")
    return time.monotonic() - begun


def test_a_standby_says_what_it_is_and_takes_nothing(pair: Pair) -> None:
    second = pair.second
    assert second.http.get("/livez").status_code == 200
    ready = second.http.get("/readyz")
    assert ready.status_code == 503 and ready.json()["reason"].startswith("standby: another process is the writer")
    health = second.http.get("/api/health").json()
    assert (health["role"], health["status"], health["readiness"]["ready"]) == ("standby", "standby", False)
    refused = second.order(quantity=1000)
    assert refused.status_code == 503 and refused.json()["code"] == "STANDBY"
    assert refused.headers["retry-after"] == "1" and "problem+json" in refused.headers["content-type"]
    assert role(pair.first) == "writer" and is_ready(pair.first)
    assert "waiting as standby" in second.stderr()


def test_the_standby_goes_on_where_a_killed_writer_was(pair: Pair) -> None:
    orders = resting(pair.first, 20)
    pair.kill()
    assert seconds_until_ready(pair.second) < TAKEOVER_S + SLACK_S
    assert role(pair.second) == "writer"
    assert held(pair.second) == orders
    assert pair.second.order(quantity=1000).status_code == 201
    assert pair.second.stop() == 0


def test_a_clean_stop_hands_over_at_once_and_the_other_can_come_back(pair: Pair) -> None:
    orders = resting(pair.first, 3)
    assert pair.first.stop() == 0
    assert seconds_until_ready(pair.second) < TAKEOVER_S + SLACK_S
    assert "has stopped" in pair.second.stderr()
    pair.first.spawn()
    await_standby(pair.first)
    assert held(pair.second) == orders


def test_a_writer_that_hangs_is_succeeded_and_ends_when_it_wakes(pair: Pair) -> None:
    orders = resting(pair.first, 3)
    pair.send(signal.SIGSTOP)
    assert seconds_until_ready(pair.second) < TAKEOVER_S + SLACK_S
    more = resting(pair.second, 1)
    pair.send(signal.SIGCONT)
    assert pair.ended() == 3
    assert "another process has become the writer" in pair.first.stderr()
    assert held(pair.second) == orders | more


def test_a_redis_that_pauses_makes_nobody_take_over(pair: Pair, shared: RedisProcess) -> None:
    lease = shared.client.get("tbx:main:lease")
    shared.send(signal.SIGSTOP)
    pause_until = time.monotonic() + 5.0
    wait_for(lambda: time.monotonic() > pause_until, "five seconds")
    shared.send(signal.SIGCONT)
    beats = int(shared.client.get("tbx:main:heartbeat") or 0)  # type: ignore[arg-type]
    # For as long as a standby waits for a dead one, and more.
    wait_for(lambda: int(shared.client.get("tbx:main:heartbeat") or 0) > beats + 8, "beats")  # type: ignore[arg-type]
    assert shared.client.get("tbx:main:lease") == lease
    assert role(pair.second) == "standby"
    wait_for(lambda: is_ready(pair.first), "ready again")


def test_a_standby_does_not_go_on_with_nothing_when_redis_is_emptied(pair: Pair, shared: RedisProcess) -> None:
    resting(pair.first, 1)
    shared.client.flushall()
    assert pair.ended() == 3
    wait_for(lambda: "was deleted or replaced" in pair.second.stderr(), "what it found")
    assert "was deleted or replaced" in pair.second.http.get("/readyz").json()["reason"]
    assert shared.client.keys("*") == [], "nothing was begun anew"
    assert pair.second.stop() == 0


def test_a_standby_stops_when_it_is_told(pair: Pair) -> None:
    assert pair.second.stop() == 0
    assert is_ready(pair.first)


def test_a_service_that_may_not_wait_refuses_to_start_beside_another(pair: Pair, tmp_path: Path) -> None:
    third = twin(pair.first, tmp_path / "third", STANDBY="false")
    process = third.spawn()
    assert process.wait(STOP_S) == 2
    assert "another process is the writer" in third.stderr() and "STANDBY=true" in third.stderr()
    third.close()
    assert is_ready(pair.first)


def test_on_one_machine_a_killed_service_starts_again_without_waiting(shared: RedisProcess, tmp_path: Path) -> None:
    service = ServiceProcess(tmp_path, REDIS_URL=shared.url)
    try:
        service.start()
        orders = resting(service, 2)
        service.kill()
        service.start()
        assert held(service) == orders
        assert "standby" not in service.stderr()
    finally:
        service.close()


def test_with_the_embedded_redis_the_standby_waits_for_the_data_folder(tmp_path: Path) -> None:
    folder = tmp_path / "first"
    folder.mkdir()
    first = ServiceProcess(folder)
    with a_pair(first, tmp_path / "second", DATA_DIR=str(folder / "data")) as both:
        orders = resting(first, 5)
        assert "uses DATA_DIR" in both.second.http.get("/readyz").json()["reason"]
        both.kill()
        assert seconds_until_ready(both.second) < TAKEOVER_S + SLACK_S
        assert held(both.second) == orders
        assert both.second.stop() == 0
