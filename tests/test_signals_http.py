"""POST /api/signals/execute and the lists, over real HTTP: the manual's names and nesting, and every wrong field."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tbx.core.kernel.outbox import encode_record
from tbx.core.risk.advice import RiskAnswer
from tbx.core.state.archive import Archive, ArchivedOrder
from tbx.http.archive import ArchivedHistory
from tbx.http.eventlog import SIGNAL_WORDS
from tbx.http.openapi import RiskParametersRequest, SignalRequest
from tbx.http.signals import EXECUTE_FIELDS, RISK_FIELDS

from .redis_fixtures import in_loop, until
from .service_fixtures import Served, a_service

# As in the manual, at the price of the simulated market.
REQUEST = {
    "pair": "RVN_USDT",
    "signal": "BUY",
    "confidence": 0.82,
    "source": "ml_prediction",
    "strategy": "ensemble_model",
    "exchange": "xeggex",
    "riskParameters": {"maxRiskPercent": 0.002, "positionSizeMethod": "kelly"},
}


async def prices(service: Served) -> dict[str, Any]:
    """Entry, stop and target around the market, on the grid."""
    book = (await service.http.get("/api/book/RVN_USDT?exchange=xeggex")).json()
    ask = book["bestAsk"]
    return {"entryPrice": ask, "stopLoss": round(ask * 0.95, 5), "takeProfit": round(ask * 1.1, 5)}


async def execute(service: Served, **fields: Any) -> Any:
    body = {k: v for k, v in (REQUEST | fields).items() if v is not None}
    return await service.http.post("/api/signals/execute", json=body)


def test_the_described_request_has_exactly_the_fields_that_are_read() -> None:
    def fields(struct: type[msgspec.Struct]) -> set[str]:
        return {field.encode_name for field in msgspec.structs.fields(struct)}

    assert fields(SignalRequest) == EXECUTE_FIELDS
    assert fields(RiskParametersRequest) == RISK_FIELDS


@in_loop
async def test_the_manuals_request_becomes_the_manuals_answer(tmp_path: Path) -> None:
    async with a_service(tmp_path) as service:
        at = await prices(service)
        answer = await execute(service, **at, metadata={"score": 0.5, "of": ["a", 1e3]})
        assert answer.status_code == 201, answer.text
        doc = answer.json()
        assert doc["status"] == "executed" and doc["signalId"].startswith("SIG_")
        assert answer.headers["location"] == f"/api/signals/{doc['signalId']}"
        entry, stop, target = doc["orders"]
        assert (entry["type"], entry["side"], entry["status"], "price" in entry) == (
            "market",
            "buy",
            "submitted",
            False,
        )
        assert (stop["type"], stop["price"], stop["status"]) == ("stop_loss", at["stopLoss"], "pending")
        assert (target["type"], target["price"], target["status"]) == ("take_profit", at["takeProfit"], "pending")
        sizing = doc["positionSizing"]
        assert sizing["recommendedSize"] == entry["quantity"] > 0
        assert (sizing["method"], sizing["cap"]) == ("kelly_criterion", "maxRiskPercent")
        assert 0 < sizing["riskPercent"] <= 0.002 and 0 < sizing["riskAmount"] <= 100
        assert doc["riskValidation"]["passed"] is True
        assert '"metadata":{"score":0.5,"of":["a",1000.0]}' in answer.text.replace(" ", "")
        order = (await service.http.get(f"/api/orders/{entry['orderId']}")).json()
        assert order["signalId"] == doc["signalId"]
        assert order["signalData"] == {"source": "ml_prediction", "confidence": 0.82, "strategy": "ensemble_model"}


WRONG = {
    "confidence above 1": ({"confidence": 1.01}, "confidence", "OUT_OF_RANGE"),
    "confidence below 0": ({"confidence": -0.1}, "confidence", "OUT_OF_RANGE"),
    "confidence not a number": ({"confidence": "NaN"}, "confidence", "INVALID_NUMBER"),
    "confidence infinite": ({"confidence": "inf"}, "confidence", "INVALID_NUMBER"),
    "confidence a boolean": ({"confidence": True}, "confidence", "WRONG_TYPE"),
    "confidence negative zero": ({"confidence": "-0"}, "confidence", "INVALID_NUMBER"),
    "an unknown signal": ({"signal": "BYU"}, "signal", "INVALID_VALUE"),
    "no signal": ({"signal": None}, "signal", "REQUIRED"),
    "no pair": ({"pair": None}, "pair", "REQUIRED"),
    "an unknown pair": ({"pair": "RVM_USDT"}, "pair", "INVALID_PAIR"),
    "an unknown method": (
        {"riskParameters": {"positionSizeMethod": "kely"}},
        "riskParameters.positionSizeMethod",
        "INVALID_VALUE",
    ),
    "percent instead of a share": (
        {"riskParameters": {"maxRiskPercent": 2}},
        "riskParameters.maxRiskPercent",
        "OUT_OF_RANGE",
    ),
    "no risk at all": ({"riskParameters": {"maxRiskPercent": 0}}, "riskParameters.maxRiskPercent", "OUT_OF_RANGE"),
    "risk parameters that are none": ({"riskParameters": []}, "riskParameters", "WRONG_TYPE"),
    "an unknown risk parameter": ({"riskParameters": {"maxRisk": 1}}, "riskParameters.maxRisk", "UNKNOWN_FIELD"),
    "an unknown field": ({"stoploss": 1}, "stoploss", "UNKNOWN_FIELD"),
    "a stop of zero": ({"stopLoss": 0}, "stopLoss", "OUT_OF_RANGE"),
    "a target below zero": ({"takeProfit": -1}, "takeProfit", "OUT_OF_RANGE"),
    "an entry price beyond all": ({"entryPrice": 1e7}, "entryPrice", "OUT_OF_RANGE"),
    "metadata that is no object": ({"metadata": [1]}, "metadata", "WRONG_TYPE"),
    "too much metadata": ({"metadata": {"x": "y" * 4096}}, "metadata", "OUT_OF_RANGE"),
    "a bad signal id": ({"signalId": "a b"}, "signalId", "INVALID_VALUE"),
    "an unknown exchange": ({"exchange": "nowhere"}, "exchange", "INVALID_EXCHANGE"),
    "seconds for a time": ({"timestamp": 1.5}, "timestamp", "WRONG_TYPE"),
}


@in_loop
async def test_every_wrong_field_is_named_and_nothing_is_kept(tmp_path: Path) -> None:
    async with a_service(tmp_path) as service:
        for row, (fields, name, code) in WRONG.items():
            answer = await execute(service, **fields)
            assert answer.status_code == 422, (row, answer.text)
            errors = answer.json()["errors"]
            assert [(error["field"], error["code"]) for error in errors] == [(name, code)], (row, errors)
        both = (await execute(service, confidence=2, signal="BYU", stopLoss="x")).json()
        assert {error["field"] for error in both["errors"]} == {"confidence", "signal", "stopLoss"}
        assert "did you mean BUY?" in next(e["detail"] for e in both["errors"] if e["field"] == "signal")
        nearest = (await execute(service, riskParameters={"positionSizeMethod": "kely"})).json()["detail"]
        assert "did you mean kelly?" in nearest
        assert not service.node.signals.signals and not service.node.orders.orders
        raw = await service.http.post("/api/signals/execute", content=b'{"pair": "RVN_USDT", "confidence": NaN}',
                                      headers={"content-type": "application/json"})  # fmt: skip
        assert raw.status_code == 400


@in_loop
async def test_a_signal_id_is_carried_out_once(tmp_path: Path) -> None:
    async with a_service(tmp_path) as service:
        at = await prices(service)
        first = await execute(service, **at, signalId="s-1")
        again = await execute(service, **at, signalId="s-1")
        assert (first.status_code, again.status_code) == (201, 200)
        assert again.json()["signalId"] == first.json()["signalId"]
        headers = {"idempotency-key": "s-1"}
        body = REQUEST | at
        by_header = await service.http.post("/api/signals/execute", json=body, headers=headers)
        assert by_header.status_code == 200
        other = await execute(service, **(at | {"confidence": 0.83}), signalId="s-1")
        assert (other.status_code, other.json()["code"]) == (422, "IDEMPOTENCY_MISMATCH")
        differs = await service.http.post("/api/signals/execute", json=body | {"signalId": "s-2"}, headers=headers)
        assert differs.json()["code"] == "IDEMPOTENCY_MISMATCH"
        held = await execute(service, signal="hold", signalId="s-3")
        assert (held.status_code, held.json()["status"], held.json()["orders"]) == (200, "held", [])
        entries = [o for o in service.node.orders.orders.values() if o.role == "entry"]
        assert [o.client_order_id for o in entries] == ["signal:s-1"]


@in_loop
async def test_a_refused_signal_is_found_by_the_id_that_its_problem_names(tmp_path: Path) -> None:
    async with a_service(tmp_path) as service:
        at = await prices(service)
        answer = await execute(service, **(at | {"stopLoss": at["takeProfit"]}), signalId="bad")
        doc = answer.json()
        assert (answer.status_code, doc["code"]) == (422, "CONTRADICTORY_SIGNAL")
        found = (await service.http.get(f"/api/signals/{doc['signalId']}")).json()
        assert (found["status"], found["code"], found["reason"]) == ("rejected", doc["code"], doc["detail"])
        assert (await service.http.get("/api/signals/bad")).json() == found
        missing = await service.http.get("/api/signals/none")
        assert (missing.status_code, missing.json()["code"]) == (404, "SIGNAL_NOT_FOUND")


@in_loop
async def test_what_the_risk_checks_refuse_comes_back_with_their_report(tmp_path: Path) -> None:
    async with a_service(tmp_path) as service:
        at = await prices(service)
        service.node.guard.limit("test", type(service.node.guard.state)("HALTED"), "a test")
        doc = (await execute(service, **at)).json()
        assert (doc["code"], doc["riskValidation"]["passed"]) == ("TRADING_LIMITED", False)
        found = (await service.http.get(f"/api/signals/{doc['signalId']}")).json()
        assert found["orders"][0]["status"] == "rejected"


@in_loop
async def test_signals_are_listed_newest_first_in_pages_and_by_what_they_are(tmp_path: Path) -> None:
    async with a_service(tmp_path) as service:
        for number in range(5):
            await execute(service, signal="HOLD", signalId=f"s-{number}", strategy=f"of {number % 2}")
        await execute(service, signal="SELL", signalId="nothing", strategy=None)
        whole = (await service.http.get("/api/signals")).json()
        names = [signal["clientSignalId"] for signal in whole["signals"]]
        assert names == ["nothing", "s-4", "s-3", "s-2", "s-1", "s-0"]
        assert whole["pagination"] == {"total": 6, "page": 1, "limit": 50, "hasMore": False, "nextCursor": None}
        first = (await service.http.get("/api/signals?limit=4")).json()
        rest = (await service.http.get(f"/api/signals?limit=4&cursor={first['pagination']['nextCursor']}")).json()
        assert [s["clientSignalId"] for s in first["signals"] + rest["signals"]] == names
        second = (await service.http.get("/api/signals?limit=4&page=2")).json()
        assert [s["clientSignalId"] for s in second["signals"]] == names[4:]
        for wanted, count in (("status=held", 5), ("status=rejected", 1), ("strategy=of 1", 2), ("source=nobody", 0),
                              ("pair=BTC_USDT", 0), ("since=4000000000000", 0), ("until=1", 0)):  # fmt: skip
            assert len((await service.http.get(f"/api/signals?{wanted}")).json()["signals"]) == count, wanted
        for wrong in ("status=open", "limit=0", "page=x", "cursor=x", "pair=x", "since=-1", "more=1"):
            assert (await service.http.get(f"/api/signals?{wrong}")).status_code == 422, wrong


@in_loop
async def test_pages_miss_no_signal_that_was_decided_after_younger_ones(tmp_path: Path) -> None:
    async with a_service(tmp_path, {"STOP_LOSS_ENABLED": "true"}) as service:
        waiting: list[Callable[[RiskAnswer], None]] = []
        advising = service.node.advising
        advising.ask, advising.relied_on = (lambda _, done: waiting.append(done)), lambda: True
        buy = asyncio.ensure_future(execute(service, confidence=None, signalId="s-0", riskParameters=None))
        await until(lambda: bool(waiting), "the question")
        for number in range(1, 6):
            await execute(service, signal="HOLD", signalId=f"s-{number}")
        waiting[0](RiskAnswer(recommended=Decimal(10**9)))
        assert (await buy).status_code == 201
        names, cursor = [], ""
        for _ in range(3):
            page = (await service.http.get(f"/api/signals?limit=2{cursor}")).json()
            names += [signal["clientSignalId"] for signal in page["signals"]]
            cursor = f"&cursor={page['pagination']['nextCursor']}"
        assert names == ["s-5", "s-4", "s-3", "s-2", "s-1", "s-0"]


@in_loop
async def test_what_became_of_signals_is_told_on_the_feed_and_has_a_word_in_the_log(tmp_path: Path) -> None:
    async with a_service(tmp_path) as service:
        at = await prices(service)
        await execute(service, **at)
        await execute(service, signal="HOLD")
        await execute(service, signal="SELL", strategy="another")
        events = [e for _, raw in service.store.journal for e in json.loads(raw) if e["channel"] == "signals"]
        kinds = [event["type"] for event in events]
        assert kinds == ["SignalExecuted", "SignalHeld", "SignalRejected"]
        assert all(SIGNAL_WORDS[kind][0].startswith("SIGNAL_") for kind in kinds)
        bought = events[0]["data"]
        assert bought["positionSizing"]["recommendedSize"] > 0 and len(bought["orderIds"]) == 3
        assert events[2]["data"]["code"] == "NOTHING_TO_SELL"
        shown = json.loads(msgspec.json.encode(service.app.snapshot("signals")))
        assert [signal["signalId"] for signal in shown] == [event["data"]["signalId"] for event in events]


@in_loop
async def test_a_signal_whose_order_is_archived_is_answered_from_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tbx.strategies_bridge.signals.KEPT_MAX", 1)
    async with a_service(tmp_path) as service:
        at = await prices(service)
        first = (await execute(service, **at, signalId="s-1")).json()
        entry_id = first["orders"][0]["orderId"]
        orders, archive = service.node.orders, Archive(tmp_path / "archive.sqlite3")
        await until(lambda: orders.orders[entry_id].ended, "the fill")
        row = {name: getattr(orders.orders[entry_id], name) for name in ("order_id", "pair", "exchange", "side")}
        raw = encode_record(orders.orders[entry_id])
        archive.add([ArchivedOrder(**row, client_id="signal:s-1", status="filled", submit_ms=1, json=raw)], [])
        orders.forget([entry_id])
        await execute(service, signal="HOLD")
        api = service.app.api

        async def run(work: Any) -> Any:
            return work()

        api.queries.archive, api.archive_used = ArchivedHistory(archive, run), lambda: True
        again = await execute(service, **at, signalId="s-1")
        doc = again.json()
        assert (again.status_code, doc["signalId"], doc["status"]) == (200, first["signalId"], "executed")
        assert [order["orderId"] for order in doc["orders"]] == [order["orderId"] for order in first["orders"]]
        assert doc["orders"][0]["status"] == "filled"
        other = await execute(service, **(at | {"confidence": 0.9}), signalId="s-1")
        assert other.json()["code"] == "IDEMPOTENCY_MISMATCH"
        archive.close()
