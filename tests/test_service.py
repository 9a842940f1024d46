"""The whole service in paper mode: the manual's calls, kill -9, start-up errors; real processes, Redis and sockets."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from websockets.sync.client import connect

from .service_process import ServiceProcess

pytestmark = [pytest.mark.paper_trading, pytest.mark.connectivity]

MANUAL_ORDER = {
    "pair": "RVN_USDT",
    "side": "buy",
    "type": "market",
    "quantity": 5000,
    "price": 0.0245,
    "stopLoss": 0.0233,
    "takeProfit": 0.0270,
    "timeInForce": "GTC",
    "exchange": "xeggex",
    "paperTrade": False,
    "riskCheck": True,
    "signalData": {"source": "technical_analysis", "confidence": 0.78, "strategy": "macd_crossover"},
}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    process = ServiceProcess(tmp_path_factory.mktemp("service"))
    try:
        yield process.start()
    finally:
        process.close()


@pytest.fixture
def own(tmp_path: Path) -> Iterator[ServiceProcess]:
    """A service that a test may kill."""
    process = ServiceProcess(tmp_path)
    try:
        yield process
    finally:
        process.close()


def shape(value: Any) -> Any:
    """The keys of a document, down to its leaves."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return None


def has_shape(value: Any, wanted: Any, path: str = "") -> None:
    """Every key of the manual's example is there, at its place."""
    if isinstance(wanted, dict):
        assert isinstance(value, dict), f"{path} is {value!r}"
        for key, inner in wanted.items():
            assert key in value, f"{path}.{key} is missing"
            has_shape(value[key], inner, f"{path}.{key}")
    elif isinstance(wanted, list) and wanted and isinstance(value, list) and value:
        has_shape(value[0], wanted[0], f"{path}[0]")


# --- the manual's calls


def test_health_has_the_manuals_shape(service: ServiceProcess) -> None:
    health = service.http.get("/api/health").json()
    venue = {"status": 0, "lastPing": 0, "rateLimit": {"remaining": 0, "resetTime": 0}}
    engine = {"status": 0, "ordersProcessed": 0, "successRate": 0, "averageExecutionTime": 0}
    wanted = {"exchanges": {"xeggex": venue, "binance": venue}, "services": {}, "executionEngine": engine}
    has_shape(health, {"status": 0, "service": 0, "timestamp": 0, "uptime": 0, **wanted})
    assert health["status"] == "healthy" and health["service"] == "trading-bot-execution"
    assert re.fullmatch(r"\d\d:\d\d:\d\d", health["uptime"])


def test_the_manuals_order_is_taken_filled_and_protected(service: ServiceProcess) -> None:
    answer = service.http.post("/api/orders", json=MANUAL_ORDER)
    placed = answer.json()
    assert answer.status_code == 201, placed
    risk = ("passed", "positionSizeCheck", "portfolioRiskCheck", "recommendedSize", "maxRisk")
    wanted = dict.fromkeys(("orderId", "clientOrderId", "status", "pair", "side", "type", "quantity", "price"))
    wanted |= dict.fromkeys(("filledQuantity", "averagePrice", "exchange", "timestamp", "timeInForce"))
    wanted |= {"riskValidation": dict.fromkeys(risk), "estimatedCost": 0, "estimatedFees": 0}
    has_shape(placed, {**wanted, "linkedOrders": {"stopLoss": 0, "takeProfit": 0}})
    assert placed["status"] == "submitted" and placed["price"] is None and placed["filledQuantity"] == 0
    assert placed["timeInForce"] == "GTC" and placed["quantity"] == 5000
    assert placed["paperTrade"] is True and "paperTrade" in placed["warnings"][0]
    order = service.order_when(placed["orderId"], "filled")
    fields = ("orderId", "clientOrderId", "status", "pair", "side", "type", "quantity", "filledQuantity")
    more = ("averagePrice", "totalCost", "fees", "exchange", "submitTime", "fillTime", "executionTime")
    fill = ("fillId", "quantity", "price", "timestamp", "fee", "feeCurrency")
    has_shape(order, {**dict.fromkeys(fields + more), "fills": [dict.fromkeys(fill)]})
    assert order["protectedQuantity"] == 5000
    assert sum(f["quantity"] for f in order["fills"]) == order["filledQuantity"] == 5000
    for leg in placed["linkedOrders"].values():
        assert service.http.get(f"/api/orders/{leg}").json()["status"] == "pending"


def test_the_portfolio_has_the_manuals_shape_and_adds_up(service: ServiceProcess) -> None:
    placed = service.order(quantity=1000, paperTrade=True).json()
    service.order_when(placed["orderId"], "filled")
    portfolio = service.http.get("/api/portfolio").json()
    summary = (
        "totalValue",
        "totalCash",
        "totalPositions",
        "unrealizedPnL",
        "unrealizedPnLPercent",
        "dayPnL",
        "dayPnLPercent",
    )
    position = ("id", "pair", "side", "quantity", "averagePrice", "currentPrice", "marketValue", "unrealizedPnL")
    position += ("unrealizedPnLPercent", "dayPnL", "dayPnLPercent", "openDate", "exchange")
    metrics = dict.fromkeys(("positionSize", "leverage", "marginUsed", "liquidationPrice"))
    performance = ("totalReturn", "dayReturn", "weekReturn", "monthReturn", "maxDrawdown", "sharpeRatio", "winRate")
    has_shape(
        portfolio,
        {
            "timestamp": 0,
            "summary": dict.fromkeys(summary),
            "positions": [{**dict.fromkeys(position), "riskMetrics": metrics}],
            "balances": [dict.fromkeys(("currency", "total", "available", "locked", "exchange"))],
            "performance": dict.fromkeys(performance),
        },
    )
    total = portfolio["summary"]
    assert total["totalValue"] == pytest.approx(total["totalCash"] + total["totalPositions"])
    assert 49_000 < total["totalValue"] < 51_000
    assert service.http.post("/api/portfolio/refresh").json()["summary"]["totalValue"] == pytest.approx(
        total["totalValue"], rel=0.01
    )


def test_the_list_of_orders_has_the_manuals_shape_and_pages(service: ServiceProcess) -> None:
    for _ in range(3):
        assert service.order(quantity=100).status_code == 201
    page = service.http.get("/api/orders", params={"pair": "RVN_USDT", "limit": 2}).json()
    has_shape(page, {"timestamp": 0, "orders": [], "pagination": {"total": 0, "page": 0, "limit": 0, "hasMore": 0}})
    assert len(page["orders"]) == 2 and page["pagination"]["hasMore"] is True
    more = service.http.get("/api/orders", params={"limit": 2, "cursor": page["pagination"]["nextCursor"]}).json()
    assert more["orders"][0]["orderId"] < page["orders"][1]["orderId"]


def test_the_manuals_invalid_pair_gets_its_code_and_the_service_goes_on(service: ServiceProcess) -> None:
    body = {"pair": "INVALID_PAIR", "side": "buy", "type": "market", "quantity": 1000}
    answer = service.http.post("/api/orders", json=body)
    assert answer.status_code == 422 and answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == "INVALID_PAIR"
    assert service.http.get("/livez").status_code == 200


def test_prefer_wait_answers_when_the_order_has_ended(service: ServiceProcess) -> None:
    answer = service.http.post(
        "/api/orders",
        json={"pair": "RVN_USDT", "side": "buy", "type": "market", "quantity": 100},
        headers={"Prefer": "wait=10"},
    )
    assert answer.json()["status"] == "filled"


def test_a_position_is_closed_by_its_id(service: ServiceProcess) -> None:
    placed = service.order(quantity=100, pair="DOGE_USDT", exchange="xeggex").json()
    service.order_when(placed["orderId"], "filled")
    positions = service.http.get("/api/positions").json()["positions"]
    doge = next(p for p in positions if p["pair"] == "DOGE_USDT")
    closing = service.http.post(f"/api/positions/{doge['id']}/close", headers={"Prefer": "wait=10"})
    assert closing.json()["status"] == "filled" and closing.headers["preference-applied"] == "wait=10"
    positions = service.http.get("/api/positions").json()["positions"]
    assert all(p["pair"] != "DOGE_USDT" for p in positions)


def test_the_book_of_every_pair_is_there_and_not_crossed(service: ServiceProcess) -> None:
    for pair in ("XMR_USDT", "RVN_USDT", "BEL_USDT", "DOGE_USDT", "KAS_USDT", "SAL_USDT", "BTC_USDT", "ETH_USDT"):
        answer = service.http.get(f"/api/book/{pair}")
        assert answer.status_code == 200, answer.text
        text = answer.json()
        assert text["bids"] and text["asks"], text


def test_the_feed_tells_of_an_order_and_resumes_where_a_client_left(service: ServiceProcess) -> None:
    url = f"ws://127.0.0.1:{service.port}/ws"

    def until(socket: Any, kind: str, order_id: str) -> dict[str, Any]:
        while True:
            message: dict[str, Any] = json.loads(socket.recv(timeout=10))
            if message.get("type") == kind and message["data"]["orderId"] == order_id:
                return message

    with connect(url) as first:
        first.send(json.dumps({"op": "subscribe", "channels": ["orders", "trades", "positions"]}))
        subscribed = json.loads(first.recv(timeout=10))
        assert subscribed["op"] == "subscribed"
        placed = service.order(quantity=100).json()
        seen = until(first, "OrderSubmitted", placed["orderId"])
    service.order_when(placed["orderId"], "filled")
    with connect(url) as second:
        resume = {"epoch": subscribed["epoch"], "seq": seen["seq"]}
        second.send(json.dumps({"op": "subscribe", "channels": ["orders"], "resume": resume}))
        filled = until(second, "OrderFilled", placed["orderId"])
        assert filled["seq"] > seen["seq"]


def test_the_log_files_have_the_manuals_words(service: ServiceProcess) -> None:
    placed = service.order(quantity=100).json()
    service.order_when(placed["orderId"], "filled")
    service.http.post(
        "/api/orders", json={**MANUAL_ORDER, "side": "sell", "stopLoss": None, "takeProfit": None, "quantity": 9e6}
    )
    logs = service.folder / "logs"
    wanted = {"orders.log": "SUBMITTED|FILLED", "trades.log": "EXECUTED", "execution-error.log": "ORDER_FAILED"}
    for name, words in wanted.items():
        for _ in range(200):
            text = (logs / name).read_text() if (logs / name).exists() else ""
            if all(word in text for word in words.split("|")):
                break
            service.http.get("/livez")
        assert all(word in text for word in words.split("|")), f"{name}: {text[-500:]}"


# --- it ends and begins again


def image(service: ServiceProcess) -> dict[str, Any]:
    """What must be the same after a restart: everything but the clock and the market."""
    orders = service.http.get("/api/orders", params={"limit": 500}).json()["orders"]
    portfolio = service.http.get("/api/portfolio").json()
    held = [(p["id"], p["pair"], p["quantity"], p["averagePrice"], p["exchange"]) for p in portfolio["positions"]]
    return {"orders": orders, "positions": held, "balances": portfolio["balances"]}


def settled(service: ServiceProcess) -> None:
    for order in service.http.get("/api/orders", params={"limit": 500}).json()["orders"]:
        if order["status"] == "submitted":
            service.order_when(order["orderId"], "filled", "cancelled", "expired", "rejected", "open", "partial")


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_a_stop_and_a_kill_bring_back_orders_positions_balances_and_links(own: ServiceProcess, how: str) -> None:
    own.start()
    bracket = own.http.post("/api/orders", json=MANUAL_ORDER).json()
    resting = own.order(type="limit", quantity=1000, price=0.02, exchange="xeggex").json()
    own.order(quantity=500, exchange="binance")
    own.order_when(bracket["orderId"], "filled")
    own.order_when(resting["orderId"], "open")
    settled(own)
    before = image(own)
    if how == "kill":
        own.kill()
    else:
        assert own.stop() == 0, own.stderr()
    own.start()
    assert image(own) == before
    assert own.http.delete(f"/api/orders/{resting['orderId']}").json()["status"] == "cancelled"
    assert own.http.get("/api/health").json()["status"] == "healthy"


def test_what_was_answered_survives_a_kill_under_load(own: ServiceProcess) -> None:
    """Eight clients place orders until the process dies; every order that got its 201 is there afterwards, once."""
    own.settings |= {"MAX_POSITION_SIZE": "1"}
    own.start()
    answered: list[str] = []
    enough = threading.Event()

    def place(number: int) -> None:
        import httpx

        with httpx.Client(base_url=own.http.base_url, timeout=10, trust_env=False) as http:
            for count in range(10_000):
                body = {"pair": "DOGE_USDT", "side": "buy", "type": "market", "quantity": 20}
                try:
                    answer = http.post("/api/orders", json={**body, "clientOrderId": f"c{number}-{count}"})
                except httpx.TransportError:
                    return
                if answer.status_code == 201:
                    answered.append(answer.json()["orderId"])
                if len(answered) > 200:
                    enough.set()

    threads = [threading.Thread(target=place, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    assert enough.wait(30)
    own.kill()
    for thread in threads:
        thread.join()
    own.start()
    settled(own)
    known: dict[str, Any] = {}
    cursor: dict[str, str] = {}
    while True:
        page = own.http.get("/api/orders", params={"limit": 500, **cursor}).json()
        known |= {order["orderId"]: order for order in page["orders"]}
        if not page["pagination"]["hasMore"]:
            break
        cursor = {"cursor": page["pagination"]["nextCursor"]}
    assert set(answered) <= set(known), "an answered order is gone"
    assert all(order["status"] in ("filled", "expired") for order in known.values())
    assert len({order["clientOrderId"] for order in known.values()}) == len(known)
    bought: dict[str, float] = {}
    for order in known.values():
        fees = order["feesByCurrency"].get("DOGE", 0)
        bought[order["exchange"]] = bought.get(order["exchange"], 0) + order["filledQuantity"] - fees
    for balance in own.http.get("/api/portfolio").json()["balances"]:
        if balance["currency"] == "DOGE":
            assert balance["total"] == pytest.approx(bought[balance["exchange"]], abs=1e-6)
        assert balance["locked"] == 0


def test_when_redis_is_killed_it_is_started_again_and_nothing_acknowledged_is_lost(own: ServiceProcess) -> None:
    own.start()
    first = own.order(quantity=1000).json()
    own.order_when(first["orderId"], "filled")
    os.kill(int((own.folder / "data" / "redis.pid").read_text()), 9)
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        answer = own.order(quantity=1000)
        if answer.status_code == 201:
            break
        time.sleep(0.01)
        assert answer.status_code == 503 and answer.json()["code"] in ("STORE_UNAVAILABLE", "OUTCOME_UNKNOWN")
    assert answer.status_code == 201, "Redis did not come back"
    own.order_when(answer.json()["orderId"], "filled")
    before = image(own)
    own.kill()
    own.start()
    assert image(own) == before


# --- it cannot start


def ended(own: ServiceProcess) -> tuple[int, str]:
    process = own.spawn()
    code = process.wait(60)
    return code, own.stderr()


def one_line(text: str) -> str:
    lines = [line for line in text.splitlines() if not line.startswith(("tbx: first start", "tbx: warning"))]
    assert len(lines) == 1, text
    return lines[0]


def test_a_port_that_is_taken_is_told_in_one_line(own: ServiceProcess) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", own.port))
        other.listen()
        code, text = ended(own)
    assert code == 2 and f"127.0.0.1:{own.port}" in one_line(text) and "PORT" in text


def test_a_data_folder_that_cannot_be_used_is_told_in_one_line(own: ServiceProcess) -> None:
    (own.folder / "file").write_text("not a folder")
    own.settings |= {"DATA_DIR": str(own.folder / "file" / "data")}
    code, text = ended(own)
    assert code == 2 and "DATA_DIR" in one_line(text)


def test_a_redis_that_does_not_start_is_told_in_one_line(own: ServiceProcess) -> None:
    fake = own.folder / "bin" / "redis-server"
    fake.parent.mkdir()
    fake.write_text('#!/bin/sh\nif [ "$1" = --version ]; then echo "Redis server v=7.0.0 sha=0:0"; else exit 1; fi\n')
    fake.chmod(0o755)
    own.settings |= {"PATH": f"{fake.parent}:{os.environ['PATH']}"}
    code, text = ended(own)
    assert code == 2 and "edis" in one_line(text)


def test_a_redis_that_cannot_be_reached_is_told_in_one_line(own: ServiceProcess) -> None:
    own.settings |= {"REDIS_URL": "redis://127.0.0.1:1/0"}
    code, text = ended(own)
    assert code == 2 and "127.0.0.1:1" in one_line(text)


def test_a_wrong_setting_is_told_with_what_would_be_right(own: ServiceProcess) -> None:
    own.settings |= {"MAX_POSITION_SIZE": "lots", "DURABILITY": "sometimes"}
    code, text = ended(own)
    assert code == 2
    assert "MAX_POSITION_SIZE" in text and "DURABILITY" in text and len(text.splitlines()) == 2


def test_two_services_do_not_share_a_data_folder(own: ServiceProcess, tmp_path: Path) -> None:
    own.start()
    other = ServiceProcess(tmp_path, STANDBY="false")
    process = subprocess.Popen(
        [*own.process.args],  # type: ignore[union-attr, misc]
        cwd=tmp_path,
        env=other.environment(),
        stderr=subprocess.PIPE,
    )
    _, stderr = process.communicate(timeout=60)
    other.http.close()
    assert process.returncode == 2 and b"another tbx service" in stderr, stderr
    assert own.http.get("/readyz").status_code == 200


def test_an_id_is_known_when_its_order_has_left_for_the_archive(own: ServiceProcess) -> None:
    own.settings |= {"MAX_ORDERS_KEPT": "10"}
    own.start()
    body = {"quantity": 500, "clientOrderId": "first-of-all"}
    first = own.order(**body).json()
    own.order_when(first["orderId"], "filled")
    for number in range(12):
        last = own.order(quantity=100, clientOrderId=f"later-{number}").json()
    own.order_when(last["orderId"], "filled")
    with redis.Redis(unix_socket_path=str(own.folder / "data" / "redis.sock")) as store:
        deadline = time.monotonic() + 15
        while store.hexists("tbx:main:orders", first["orderId"]):
            assert time.monotonic() < deadline, "the oldest order stays in Redis"
            time.sleep(0.05)
    repeat = own.order(**body)
    assert repeat.status_code == 200 and repeat.json()["orderId"] == first["orderId"], repeat.text
    page = own.http.get("/api/orders", params={"limit": 500}).json()
    assert page["pagination"]["total"] == 13 == len(page["orders"])
    batch = own.http.post(
        "/api/orders/batch", json={"orders": [{"pair": "RVN_USDT", "side": "buy", "type": "market", **body}]}
    )
    assert batch.json()["results"][0]["status"] == 200
    assert batch.json()["results"][0]["order"]["orderId"] == first["orderId"]
    other = own.order(quantity=501, clientOrderId="first-of-all")
    assert other.status_code == 422 and other.json()["code"] == "IDEMPOTENCY_MISMATCH"
    assert own.http.get(f"/api/orders/{first['orderId']}").json()["fills"], "with its fills"


def test_closing_twice_with_one_key_sells_once(own: ServiceProcess) -> None:
    own.start()
    placed = own.order(quantity=1000, exchange="xeggex").json()
    own.order_when(placed["orderId"], "filled")
    (position,) = own.http.get("/api/positions").json()["positions"]
    answers = []
    for _ in range(2):
        headers = {"Idempotency-Key": "k1"}
        answers.append(own.http.post(f"/api/positions/{position['id']}/close", json={"quantity": 200}, headers=headers))
        own.order_when(answers[0].json()["orderId"], "filled")
    assert [a.status_code for a in answers] == [201, 200]
    assert answers[0].json()["orderId"] == answers[1].json()["orderId"]
    assert own.http.get("/api/positions").json()["positions"][0]["quantity"] == 800


def test_a_redis_that_was_emptied_ends_the_service_instead_of_pretending(own: ServiceProcess) -> None:
    own.start()
    with redis.Redis(unix_socket_path=str(own.folder / "data" / "redis.sock")) as store:
        store.flushall()
    assert own.process is not None and own.process.wait(20) == 3
    assert "Redis" in own.stderr()


def test_a_data_folder_that_is_removed_halts_trading(own: ServiceProcess) -> None:
    own.start()
    shutil.rmtree(own.folder / "data")
    deadline = time.monotonic() + 10
    while own.http.get("/readyz").status_code == 200:
        assert time.monotonic() < deadline, "still ready"
        time.sleep(0.05)
    assert own.order(quantity=1000).json()["code"] == "TRADING_LIMITED"
    assert "DATA_DIR" in own.stderr()


def test_who_waits_for_an_order_is_answered_when_the_service_stops(own: ServiceProcess) -> None:
    own.start()
    body = {"pair": "RVN_USDT", "side": "buy", "type": "limit", "quantity": 1000, "price": 0.02, "exchange": "xeggex"}
    answers: list[Any] = []

    def place() -> None:
        answers.append(own.http.post("/api/orders", json=body, headers={"Prefer": "wait=20"}))

    waiting = threading.Thread(target=place)
    waiting.start()
    deadline = time.monotonic() + 10
    while "OPEN" not in (
        (own.folder / "logs" / "orders.log").read_text() if (own.folder / "logs" / "orders.log").exists() else ""
    ):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert own.stop() == 0
    waiting.join()
    assert answers[0].status_code == 201 and answers[0].json()["status"] == "open"
