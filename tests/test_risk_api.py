"""/api/risk: what is shown, who may change it, every wrong body; and FLATTEN through a kill -9."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
import websockets

from tbx.core.model.messages import Faulted

from .redis_fixtures import in_loop, until
from .service_fixtures import Served, a_service
from .service_process import ServiceProcess
from .test_http_orders import problem

KEYS = ";".join(
    f"{name}:{hashlib.sha256(name.encode()).hexdigest()}:{scopes}"
    for name, scopes in (("ann", "read+trade+admin"), ("bot", "read+trade"), ("eye", "read"))
)


def key(name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {name}"}


async def risk(service: Served) -> dict[str, Any]:
    answer = await service.http.get("/api/risk")
    assert answer.status_code == 200, answer.text
    return answer.json()


async def put(service: Served, **body: Any) -> Any:
    return await service.http.post("/api/risk/state", json=body)


@in_loop
async def test_it_shows_every_limit_with_its_use(tmp_path: Path) -> None:
    limits = {
        "MAX_POSITION_SIZE": "0.25",
        "MAX_RISK_PER_TRADE": "0.02",
        "MAX_DAILY_RISK": "0.06",
        "MAX_DRAWDOWN": "0.2",
    }
    async with a_service(tmp_path, {**limits, "ORDER_RATE_LIMIT": "50"}) as service:
        assert (await service.order(stopLoss="0.02")).status_code == 201
        await until(lambda: service.node.portfolio.open_positions(True), "a position")
        shown = await risk(service)
        assert (shown["state"], shown["limits"], shown["deadMan"], shown["drill"]) == ("ACTIVE", [], None, None)
        use = {row["name"]: row for row in shown["use"]}
        assert list(use) == [
            *("positionSize", "riskPerTrade", "riskPerDay", "dailyLoss", "drawdown", "correlatedExposure", "orderRate")
        ]
        assert use["positionSize"]["limit"] == pytest.approx(12_500, rel=0.01)
        assert use["positionSize"]["setting"] == "MAX_POSITION_SIZE" and use["positionSize"]["share"] == 0.25
        assert 15 < use["positionSize"]["actual"] < 40 and use["positionSize"]["detail"] == "xeggex RVN_USDT"
        assert 0 < use["riskPerDay"]["actual"] < 20 and 0 <= use["drawdown"]["actual"] < 0.01
        assert use["orderRate"]["limit"] == 50 and shown["exposure"][0]["exposure"] > 15
        assert (await service.http.get("/api/risk?x=1")).status_code == 422


@in_loop
async def test_a_pair_is_halted_and_lifted_and_the_service_stays_ready(tmp_path: Path) -> None:
    async with a_service(tmp_path) as service:
        answer = await put(service, state="halted", scope="pair:RVN_USDT", reason="odd prices")
        assert answer.status_code == 200, answer.text
        (limit,) = answer.json()["limits"]
        by = "an operator without a key"
        assert limit | {"since": 0} == {
            "scope": "pair:RVN_USDT",
            "name": "operator",
            "state": "HALTED",
            "why": "odd prices",
            "by": by,
            "since": 0,
            "kept": True,
        }
        assert answer.json()["state"] == "ACTIVE" and "limit:pair:RVN_USDT:operator" in service.store.tables["risk"]
        refused = await service.order()
        assert problem(refused, 422, "TRADING_LIMITED")["detail"] == "HALTED (pair:RVN_USDT): odd prices"
        assert (await service.http.get("/readyz")).status_code == 200
        health = (await service.http.get("/api/health")).json()
        assert health["status"] == "degraded" and health["conditions"][0]["subject"] == "pair:RVN_USDT"
        assert (await put(service, state="ACTIVE", scope="pair:RVN_USDT")).json()["limits"] == []
        assert (await service.order()).status_code == 201
        await put(service, state="HALTED", reason="enough")
        assert (await service.http.get("/readyz")).status_code == 503


@in_loop
async def test_flatten_sells_everything_and_ends_halted(tmp_path: Path) -> None:
    async with a_service(tmp_path) as service:
        await service.order(stopLoss="0.02")
        await service.resting()
        answer = await put(service, state="FLATTEN", reason="enough")
        assert answer.json()["state"] == "FLATTEN"
        await until(lambda: service.node.guard.state.value == "HALTED", "everything is sold")
        shown = await risk(service)
        assert shown["why"] == "HALTED: flattened: enough" and shown["flattening"] == []
        assert (await service.http.get("/api/positions")).json()["positions"] == []
        assert not service.node.orders.open


WRONG = {
    "no state": ({"reason": "x"}, "REQUIRED", "ACTIVE or REDUCING or HALTED or FLATTEN"),
    "a state that is none": ({"state": "STOPPED", "reason": "x"}, "INVALID_VALUE", "none of ACTIVE"),
    "no reason": ({"state": "HALTED"}, "REQUIRED", "why trading is to be HALTED"),
    "blanks for a reason": ({"state": "HALTED", "reason": "  "}, "INVALID_VALUE", "not blanks"),
    "an unknown pair": ({"state": "HALTED", "reason": "x", "scope": "pair:RVN_USDC"}, "INVALID_PAIR", "RVN_USDT"),
    "an unknown kind": ({"state": "HALTED", "reason": "x", "scope": "desk:7"}, "INVALID_SCOPE", "strategy:NAME"),
    "a number for a scope": ({"state": "HALTED", "reason": "x", "scope": 7}, "WRONG_TYPE", "expected text"),
    "an unknown field": ({"state": "ACTIVE", "until": 7}, "UNKNOWN_FIELD", "no such field"),
}


@in_loop
async def test_every_wrong_state_is_refused_with_what_would_be_right_and_nothing_changes(tmp_path: Path) -> None:
    async with a_service(tmp_path) as service:
        for name, (body, code, words) in WRONG.items():
            answer = await service.http.post("/api/risk/state", json=body)
            assert words in problem(answer, 422, code)["detail"], name
        for body in ({}, {"timeout": -1}, {"timeout": 86_401}, {"timeout": "soon"}, {"timeout": 1.5}, {"time": 5}):
            assert (await service.http.post("/api/risk/deadman", json=body)).status_code == 422, body
        for body in ({"pair": "RVN"}, {"pair": 7}, {"pairs": []}):
            assert (await service.http.post("/api/risk/drill", json=body)).status_code == 422, body
        shown = await risk(service)
        assert shown["limits"] == [] and shown["deadMan"] is None and shown["drill"] is None


@in_loop
async def test_a_fault_cannot_be_lifted_and_that_is_said(tmp_path: Path) -> None:
    async with a_service(tmp_path) as service:
        service.node.kernel.input(Faulted("somewhere", "ValueError()"))
        answer = await put(service, state="ACTIVE")
        assert "a fault in somewhere" in problem(answer, 409, "STILL_LIMITED")["detail"]


@in_loop
async def test_the_dead_man_timer_is_armed_renewed_and_disarmed(tmp_path: Path) -> None:
    async with a_service(tmp_path) as service:
        now_ms = time.time_ns() // 1_000_000
        armed = (await service.http.post("/api/risk/deadman", json={"timeout": 30})).json()
        assert armed["armed"] is True and armed["timeout"] == 30 and 29_000 < armed["deadline"] - now_ms < 35_000
        assert (await risk(service))["deadMan"]["deadline"] == armed["deadline"]
        again = (await service.http.post("/api/risk/deadman", json={"timeout": 30})).json()
        assert again["deadline"] >= armed["deadline"]
        off = (await service.http.post("/api/risk/deadman", json={"timeout": 0})).json()
        assert off["armed"] is False and off["deadline"] is None and (await risk(service))["deadMan"] is None


@in_loop
async def test_a_timer_that_is_not_renewed_reduces_and_cancels(tmp_path: Path) -> None:
    async with a_service(tmp_path) as service:
        order = await service.resting()
        await service.http.post("/api/risk/deadman", json={"timeout": 1})
        await until(lambda: service.node.guard.state.value == "REDUCING", "it fires")
        await until(lambda: service.node.orders.orders[order["orderId"]].ended, "the entry is cancelled")
        assert (await risk(service))["limits"][0]["name"] == "deadman"


@in_loop
async def test_the_drill_answers_what_it_proved_and_how_long_it_took(tmp_path: Path) -> None:
    async with a_service(tmp_path) as service:
        answer = await service.http.post("/api/risk/drill", json={"pair": "RVN_USDT"})
        assert answer.status_code == 200, answer.text
        report = answer.json()
        assert report["passed"] is True, report
        assert {step["name"] for step in report["steps"]} >= {"cancelled", "sold", "flat", "refused"}
        assert 0 < report["milliseconds"] < 10_000 and report["by"] == "an operator without a key"
        assert (await risk(service))["drill"] == report
        both = await asyncio.gather(*(service.http.post("/api/risk/drill") for _ in range(2)))
        assert sorted(answer.status_code for answer in both) == [200, 409]


@in_loop
async def test_each_change_needs_its_scope_and_names_who_made_it(tmp_path: Path) -> None:
    async with a_service(tmp_path, {"API_KEYS": KEYS}) as service:
        post = service.http.post
        for path, body in (("state", {"state": "HALTED", "reason": "x"}), ("drill", {})):
            assert (await post(f"/api/risk/{path}", json=body, headers=key("bot"))).status_code == 403
        assert (await post("/api/risk/deadman", json={"timeout": 30}, headers=key("eye"))).status_code == 403
        assert (await service.http.get("/api/risk")).status_code == 401
        halted = await post("/api/risk/state", json={"state": "HALTED", "reason": "x"}, headers=key("ann"))
        assert halted.json()["limits"][0]["by"] == "ann"
        await post("/api/risk/deadman", json={"timeout": 30}, headers=key("bot"))
        shown = (await service.http.get("/api/risk", headers=key("eye"))).json()
        assert shown["deadMan"]["by"] == "bot"


@in_loop
async def test_the_feed_tells_each_change_and_after_a_gap_how_everything_stands(tmp_path: Path) -> None:
    async with a_service(tmp_path) as service, websockets.connect(service.ws) as socket:

        async def frame(kind: str) -> dict[str, Any]:
            while True:
                found: dict[str, Any] = json.loads(await asyncio.wait_for(socket.recv(), 5))
                if found.get("type") == kind or found.get("op") == kind:
                    return found

        await socket.send(json.dumps({"op": "subscribe", "channels": ["risk"]}))
        await frame("subscribed")
        await put(service, state="REDUCING", scope="strategy:ma", reason="under review")
        told = (await frame("TradingStateChanged"))["data"]
        assert (told["scope"], told["before"], told["state"]) == ("strategy:ma", "ACTIVE", "REDUCING")
        resume = {"epoch": "another", "seq": 1}
        await socket.send(json.dumps({"op": "subscribe", "channels": ["risk"], "resume": resume}))
        snapshot = (await frame("Snapshot"))["data"]
        assert [limit["scope"] for limit in snapshot["limits"]] == ["strategy:ma"] and snapshot["state"] == "ACTIVE"


def test_a_process_that_is_killed_while_it_flattens_goes_on_when_it_starts_again(tmp_path: Path) -> None:
    process = ServiceProcess(tmp_path, PAPER_LATENCY_MS="300")
    try:
        process.start()
        bought = process.order(quantity=5000, exchange="xeggex", stopLoss=0.02).json()
        process.order_when(bought["orderId"], "filled")
        buy = process.order(quantity=1000, type="limit", price="0.02", exchange="xeggex", timeout=0).json()
        process.order_when(buy["orderId"], "open")
        body = {"state": "FLATTEN", "reason": "enough"}
        answer = process.http.post("/api/risk/state", json=body)
        assert answer.status_code == 200 and answer.json()["state"] == "FLATTEN", answer.text
        process.kill()  # the sale is on its way for 300 ms
        process.spawn()
        shown = wait_for_risk(process, "HALTED")
        assert shown["why"] == "HALTED: flattened: enough"
        assert process.http.get("/api/positions").json()["positions"] == []
        assert process.http.get(f"/api/orders/{buy['orderId']}").json()["status"] == "cancelled"
        answer = process.http.post("/api/risk/state", json={"state": "ACTIVE"})
        assert answer.json()["state"] == "ACTIVE"
        assert process.order(quantity=1000, exchange="xeggex").status_code == 201
    finally:
        process.close()


def wait_for_risk(process: ServiceProcess, state: str) -> dict[str, Any]:
    """The answer to GET /api/risk, once the state is this."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            shown: dict[str, Any] = process.http.get("/api/risk").json()
            if shown.get("state") == state:
                return shown
        except httpx.TransportError:
            pass  # it is starting
        time.sleep(0.05)
    raise AssertionError(f"never {state}: {process.stderr()}")
