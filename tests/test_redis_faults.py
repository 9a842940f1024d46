"""A real Redis that fails under the whole real service, in every way that we know of.

For each way the same is asked: the service says so in all its places, takes no new orders meanwhile, has lost nothing
that it answered with 201, and goes on by itself when Redis can; or it ends with a clear reason where it cannot.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from websockets.sync.client import ClientConnection, connect

from tbx.core.state.server import find_binary

from .service_process import ServiceProcess

pytestmark = pytest.mark.connectivity

WAIT_S = 30.0
NODE = "tbx:main:"
AWAY_CODES = ("STORE_UNAVAILABLE", "OUTCOME_UNKNOWN", "IDEMPOTENCY_IN_PROGRESS")


class HurtRedis:
    """A redis-server of our own, which the service reaches by REDIS_URL."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.socket = folder / "r.sock"
        self.process: subprocess.Popen[bytes] | None = None
        self.client = redis.Redis(unix_socket_path=str(self.socket))
        folder.mkdir()

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    @property
    def aof(self) -> Path:
        return max(self.folder.rglob("appendonly.aof*"), key=lambda path: path.stat().st_size)

    def start(self) -> None:
        options = {"port": "0", "unixsocket": str(self.socket), "dir": str(self.folder), "save": ""}
        options |= {"appendonly": "yes", "appendfsync": "always", "logfile": str(self.folder / "log")}
        command = [str(find_binary())]
        for name, value in options.items():
            command += [f"--{name}", value]
        # Python ignores SIGXFSZ, and so does what it starts: a file at its limit is an error, as on a full disk.
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, restore_signals=False)
        soon(self.answers, "Redis answers")

    def answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except redis.RedisError:
            return False

    def send_signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def end(self, number: int = signal.SIGKILL) -> None:
        assert self.process is not None
        self.process.send_signal(number)
        self.process.wait(WAIT_S)

    def close(self) -> None:
        self.client.close()
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(WAIT_S)


class Clients:
    """Two that place orders all the time, each sent again under its own id until it is taken."""

    def __init__(self, service: ServiceProcess) -> None:
        self.service = service
        self.taken: dict[str, str] = {}  # clientOrderId -> orderId, as answered with 201, or 200 for a repeat
        self.over = threading.Event()
        self.pool = ThreadPoolExecutor(2)
        self.done = [self.pool.submit(self._place_all, number) for number in range(2)]

    def _place_all(self, number: int) -> None:
        with httpx.Client(base_url=self.service.http.base_url, timeout=30, trust_env=False) as http:
            count = 0
            while not self.over.is_set():
                count += 1
                self._persist(http, f"c{number}-{count}")
                self.over.wait(0.05)

    def _persist(self, http: httpx.Client, name: str) -> None:
        body = {"pair": "DOGE_USDT", "side": "buy", "type": "market", "quantity": 20, "clientOrderId": name}
        deadline = time.monotonic() + WAIT_S
        while True:
            answer = http.post("/api/orders", json=body)
            if answer.status_code in (200, 201):
                self.taken[name] = answer.json()["orderId"]
                return
            assert answer.json()["code"] in AWAY_CODES, answer.text
            assert time.monotonic() < deadline, "never taken"
            self.over.wait(0.05)  # as a client does that was told to come again

    def end(self) -> None:
        """Every order that was begun is taken."""
        self.over.set()
        for done in self.done:
            done.result()
        self.pool.shutdown()


class Bench:
    """A service on a Redis that can be hurt; `taken` are the ids of every order that was answered with 201."""

    def __init__(self, service: ServiceProcess, store: HurtRedis) -> None:
        self.service = service
        self.redis = store
        self.taken: list[str] = []

    def place(self) -> int:
        """One order; returns the status of the answer."""
        answer = self.service.order(quantity=100)
        if answer.status_code == 201:
            self.taken.append(answer.json()["orderId"])
        else:
            assert answer.status_code == 503, answer.text
            assert answer.json()["code"] in AWAY_CODES, answer.text
        return answer.status_code

    def health(self) -> dict[str, Any]:
        return dict(self.service.http.get("/api/health").json())

    def conditions(self) -> dict[str, str]:
        return {condition["name"]: condition["why"] for condition in self.health()["conditions"]}

    def metric(self, name: str) -> float:
        lines = self.service.http.get("/metrics").text.splitlines()
        return next(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))

    def log(self) -> str:
        path = self.service.folder / "logs" / "execution.log"
        return path.read_text() if path.exists() else ""

    # --- what is asked each time

    def is_said(self, reason: str) -> None:
        """The store is away, for this reason, everywhere."""
        soon(lambda: self.place() == 503, "an order is refused")
        soon(lambda: reason in self.conditions().get("store_away", ""), f"store_away: {reason}")
        health, answer = self.health(), self.service.order(quantity=100)
        assert (answer.status_code, answer.json()["code"]) == (503, "STORE_UNAVAILABLE")
        assert reason in answer.json()["detail"] and answer.headers["retry-after"]
        assert health["status"] == "unhealthy" and health["executionEngine"]["status"] == "reducing"
        ready = self.service.http.get("/readyz")
        assert ready.status_code == 503 and reason in ready.json()["reason"], ready.text
        assert ready.json()["checks"]["store"] is False
        assert self.metric('tbx_condition{name="store_away"') == 1
        assert self.metric("tbx_store_up") == 0 and self.metric('tbx_trading_state{state="REDUCING"}') == 1
        assert self.service.http.get("/livez").status_code == 200
        soon(lambda: "STORE_DOWN" in self.log(), "a line in the log")

    def goes_on(self) -> None:
        """Ready again by itself, and orders are taken and filled."""
        soon(lambda: self.service.http.get("/readyz").status_code == 200, "ready again")
        assert not {"store_away", "trading_limited"} & self.conditions().keys()
        assert self.metric("tbx_store_up") == 1
        assert self.place() == 201
        self.service.order_when(self.taken[-1], "filled")

    def nothing_is_lost(self) -> None:
        """Every order that was answered is known here, is in Redis, and comes back after a kill, as it was."""
        for order_id in self.taken:
            self.service.order_when(order_id, "filled")
        before = self.orders()
        rows = self.redis.client.hgetall(f"{NODE}orders")
        assert isinstance(rows, dict)
        stored = {key.decode(): json.loads(raw) for key, raw in rows.items()}
        for order_id in self.taken:
            assert before[order_id]["status"] == "filled" and stored[order_id]["state"] == "FILLED"
        self.service.kill()
        self.service.start()
        assert self.orders() == before

    def orders(self) -> dict[str, Any]:
        orders: dict[str, Any] = {}
        page: dict[str, Any] = {"pagination": {"hasMore": True}}
        while page["pagination"]["hasMore"]:
            cursor = page["pagination"].get("nextCursor")
            page = self.service.http.get(
                "/api/orders", params={"limit": 500, "cursor": cursor} if cursor else {}
            ).json()
            orders |= {order["orderId"]: order for order in page["orders"]}
        return orders


def soon(met: Callable[[], object], what: str) -> None:
    """Another process tells nobody when it is so far: look again, within a bound."""
    deadline = time.monotonic() + WAIT_S
    while not met():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.02)


@contextmanager
def a_bench(folder: Path) -> Iterator[Bench]:
    store = HurtRedis(folder / "redis")
    service = ServiceProcess(folder, REDIS_URL=store.url, MAX_POSITION_SIZE="1", RATE_LIMIT="0")
    try:
        store.start()
        service.start()
        bench = Bench(service, store)
        for _ in range(3):
            assert bench.place() == 201
        yield bench
    finally:
        service.close()
        store.close()


# --- it goes away and comes back

Fault = Callable[[HurtRedis], None]


def stopped(store: HurtRedis) -> None:
    store.end(signal.SIGTERM)


def killed(store: HurtRedis) -> None:
    store.end()


def paused(store: HurtRedis) -> None:
    store.send_signal(signal.SIGSTOP)


def resumed(store: HurtRedis) -> None:
    store.send_signal(signal.SIGCONT)


def full_memory(store: HurtRedis) -> None:
    store.client.config_set("maxmemory", 1)


def free_memory(store: HurtRedis) -> None:
    store.client.config_set("maxmemory", 0)


def full_disk(store: HurtRedis) -> None:
    """Under appendfsync always Redis ends when it cannot write; under everysec it refuses."""
    assert store.process is not None
    store.client.config_set("appendfsync", "everysec")
    size = store.aof.stat().st_size + 10
    resource.prlimit(store.process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def free_disk(store: HurtRedis) -> None:
    assert store.process is not None
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    resource.prlimit(store.process.pid, resource.RLIMIT_FSIZE, unlimited)


def replica(store: HurtRedis) -> None:
    """Of a master that is not there, which keeps its data."""
    store.client.replicaof("127.0.0.1", "1")


def master(store: HurtRedis) -> None:
    store.client.replicaof("NO", "ONE")


FAULTS: dict[str, tuple[Fault, Fault, str]] = {
    "stopped and started": (stopped, HurtRedis.start, "is it running?"),
    "killed and started": (killed, HurtRedis.start, "is it running?"),
    "paused": (paused, resumed, "has not answered a commit"),
    "out of memory": (full_memory, free_memory, "raise its maxmemory"),
    "disk full": (full_disk, free_disk, "make room"),
    "made a replica": (replica, master, "takes no writes"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_redis_that_fails_is_said_and_nothing_acknowledged_is_lost(tmp_path: Path, name: str) -> None:
    hurt, heal, reason = FAULTS[name]
    with a_bench(tmp_path) as bench:
        clients = Clients(bench.service)
        soon(lambda: len(clients.taken) > 4, "orders are on their way")
        hurt(bench.redis)
        bench.is_said(reason)
        heal(bench.redis)
        bench.goes_on()
        clients.end()
        bench.taken += clients.taken.values()
        bench.nothing_is_lost()
        ids = [order["clientOrderId"] for order in bench.orders().values()]
        assert len(set(ids)) == len(ids) and clients.taken.keys() <= set(ids), "each once"


def test_a_redis_that_is_silent_for_long_is_connected_to_again(tmp_path: Path) -> None:
    with a_bench(tmp_path) as bench:
        paused(bench.redis)
        bench.is_said("has not answered a commit")
        soon(lambda: "no answer for 10 s" in bench.conditions()["store_away"], "given up")
        resumed(bench.redis)
        bench.goes_on()
        soon(lambda: "REDIS_CONNECTED" in bench.log(), "a line in the log")
        bench.nothing_is_lost()


def test_the_feed_misses_nothing_while_redis_is_away(tmp_path: Path) -> None:
    """LEAN Alpaca 28: a fill was missed on the stream while heartbeats went on. Here a seq tells, resume brings it."""
    with a_bench(tmp_path) as bench, connect(f"ws://127.0.0.1:{bench.service.port}/ws") as socket:
        socket.send(json.dumps({"op": "subscribe", "channels": ["orders", "trades", "health"]}))
        subscribed = json.loads(socket.recv(timeout=WAIT_S))
        killed(bench.redis)
        seen = read_until(socket, lambda m: "store_away" in str(m.get("data")), "the feed tells of Redis at once")
        bench.redis.start()
        bench.goes_on()
        filled = bench.taken[-1]
        seen += read_until(socket, lambda m: told_filled(m, filled), "the fill")
        live = [m["seq"] for m in seen if m.get("channel") in ("orders", "trades")]
        assert live == sorted(set(live))
        with connect(f"ws://127.0.0.1:{bench.service.port}/ws") as again:
            resume = {"epoch": subscribed["epoch"], "seq": subscribed["seq"]}
            again.send(json.dumps({"op": "subscribe", "channels": ["orders", "trades"], "resume": resume}))
            resumed_at = read_until(again, lambda m: m.get("seq") == live[-1] and "channel" in m, "the same event")
            assert [m["seq"] for m in resumed_at if "channel" in m] == live, "the journal holds what was sent"
        beat = read_until(socket, lambda m: m.get("op") == "heartbeat", "a heartbeat")[-1]
        assert beat["seq"] >= live[-1], "it says how far the feed is, so that who missed something can tell"


def told_filled(message: dict[str, Any], order_id: str) -> bool:
    return message.get("type") == "OrderFilled" and message["data"]["orderId"] == order_id


def read_until(socket: ClientConnection, found: Callable[[dict[str, Any]], bool], what: str) -> list[dict[str, Any]]:
    """Every message up to the one that is looked for."""
    messages: list[dict[str, Any]] = []
    deadline = time.monotonic() + WAIT_S
    while not messages or not found(messages[-1]):
        assert time.monotonic() < deadline, f"never: {what}"
        messages.append(json.loads(socket.recv(timeout=WAIT_S)))
    return messages


# --- it comes back with less, or with something else


def test_an_append_only_file_cut_within_a_record_is_written_anew_while_the_service_runs(tmp_path: Path) -> None:
    with a_bench(tmp_path) as bench:
        killed(bench.redis)
        path = bench.redis.aof
        os.truncate(path, path.stat().st_size * 2 // 3)
        bench.redis.start()
        bench.goes_on()
        assert "older data" in bench.conditions()["store_rewritten"]
        assert bench.metric("tbx_store_rewrites_total") == 1
        bench.nothing_is_lost()


def test_an_append_only_file_cut_within_a_record_is_said_at_the_start(tmp_path: Path) -> None:
    """The embedded one. What stood behind the cut is gone with the disk; the rest is whole, and the service says so."""
    service = ServiceProcess(tmp_path, MAX_POSITION_SIZE="1")
    try:
        service.start()
        for _ in range(3):
            order = service.order(quantity=100).json()
            service.order_when(order["orderId"], "filled")
        assert service.stop() == 0
        path = max((tmp_path / "data").rglob("appendonly.aof*"), key=lambda path: path.stat().st_size)
        os.truncate(path, path.stat().st_size - 7)
        service.start()
        assert "runcat" in service.stderr()
        soon(lambda: "REDIS_REPAIRED" in (tmp_path / "logs" / "execution.log").read_text(), "a line in the log")
        page = service.http.get("/api/orders").json()["orders"]
        bought = sum(order["filledQuantity"] - order["feesByCurrency"].get("RVN", 0) for order in page)
        held = [b["total"] for b in service.http.get("/api/portfolio").json()["balances"] if b["currency"] == "RVN"]
        assert sum(held) == pytest.approx(bought), "orders and balances were committed as one"
        assert service.order(quantity=100).status_code == 201
    finally:
        service.close()


@pytest.mark.parametrize("table", ["orders", "trades", "balances", "journal"])
def test_a_key_of_a_wrong_type_is_written_anew_while_the_service_runs(tmp_path: Path, table: str) -> None:
    with a_bench(tmp_path) as bench:
        for order_id in bench.taken:
            bench.service.order_when(order_id, "filled")
        with bench.redis.client.pipeline() as pipe:
            pipe.delete(NODE + table).set(NODE + table, "something else").execute()
        bench.place()
        soon(lambda: "store_rewritten" in bench.conditions(), "it is said")
        assert "WRONGTYPE" in bench.conditions()["store_rewritten"]
        bench.goes_on()
        bench.nothing_is_lost()


@pytest.mark.parametrize("table", ["meta", "lease"])
def test_a_key_that_the_writer_lives_by_of_a_wrong_type_ends_the_service(tmp_path: Path, table: str) -> None:
    with a_bench(tmp_path) as bench:
        bench.redis.client.delete(NODE + table)
        bench.redis.client.rpush(NODE + table, "something else")
        bench.service.order(quantity=100)
        assert bench.service.process is not None and bench.service.process.wait(WAIT_S) == 3
        assert "WRONGTYPE" in bench.service.stderr() and "restart the service" in bench.service.stderr()
        assert bench.service.spawn().wait(WAIT_S) == 2
        assert f"{NODE}{table}" in bench.service.stderr() and "is a list" in bench.service.stderr()


def test_a_key_of_a_wrong_type_at_the_start_is_named(tmp_path: Path) -> None:
    with a_bench(tmp_path) as bench:
        bench.service.stop()
        bench.redis.client.delete(f"{NODE}positions")
        bench.redis.client.set(f"{NODE}positions", "something else")
        assert bench.service.spawn().wait(WAIT_S) == 2
        assert f"{NODE}positions" in bench.service.stderr() and "NODE_ID" in bench.service.stderr()


# --- the embedded one


def test_the_embedded_redis_is_paused_and_continued(tmp_path: Path) -> None:
    service = ServiceProcess(tmp_path, MAX_POSITION_SIZE="1")
    try:
        service.start()
        pid = int((tmp_path / "data" / "redis.pid").read_text())
        first = service.order(quantity=100).json()
        os.kill(pid, signal.SIGSTOP)
        try:
            soon(lambda: service.order(quantity=100).status_code == 503, "an order is refused")
            soon(lambda: service.http.get("/readyz").status_code == 503, "not ready")
        finally:
            os.kill(pid, signal.SIGCONT)
        soon(lambda: service.http.get("/readyz").status_code == 200, "ready again")
        service.order_when(first["orderId"], "filled")
        assert service.order(quantity=100).status_code == 201
    finally:
        service.close()


def test_an_embedded_redis_that_does_not_start_again_is_said_with_what_to_do(tmp_path: Path) -> None:
    """Its file is damaged in the middle, and then mended: the service goes on by itself."""
    service = ServiceProcess(tmp_path, MAX_POSITION_SIZE="1")
    try:
        service.start()
        order = service.order(quantity=100).json()
        service.order_when(order["orderId"], "filled")
        pid = int((tmp_path / "data" / "redis.pid").read_text())
        path = max((tmp_path / "data").rglob("appendonly.aof*"), key=lambda path: path.stat().st_size)
        os.kill(pid, signal.SIGSTOP)  # or it would be started again before its file is damaged
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2] + b"damage" + whole[len(whole) // 2 :])
        os.kill(pid, signal.SIGKILL)
        soon(lambda: "redis-check-aof" in service.http.get("/readyz").json()["reason"], "what to do is said")
        answer = service.order(quantity=100)
        assert answer.status_code == 503 and "redis-check-aof" in answer.json()["detail"]
        path.write_bytes(whole)
        soon(lambda: service.http.get("/readyz").status_code == 200, "ready again")
        assert service.order(quantity=100).status_code == 201
        assert service.http.get(f"/api/orders/{order['orderId']}").json()["status"] == "filled"
        log = (tmp_path / "logs" / "execution.log").read_text()
        assert log.count("REDIS_NOT_STARTED") == 1, "told once"
    finally:
        service.close()


def test_a_data_folder_whose_socket_has_to_be_elsewhere_is_not_taken_for_lost(tmp_path: Path) -> None:
    service = ServiceProcess(tmp_path, DATA_DIR=str(tmp_path / ("a" * 60) / ("b" * 60)))
    try:
        service.start()
        soon(lambda: service.http.get("/api/health").json()["uptime"] >= "00:00:02", "it was looked after")
        assert service.http.get("/readyz").status_code == 200, service.stderr()
    finally:
        service.close()
