"""Orders and trades over a real socket, from a whole node."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tbx.core.model.messages import CancelOrder

from .redis_fixtures import in_loop, until
from .service_fixtures import a_service

pytestmark = pytest.mark.orders
JSON = {"content-type": "application/json"}
MANUAL = b"""{"pair": "RVN_USDT", "side": "buy", "type": "market", "quantity": 5000, "price": 0.0245,
  "stopLoss": 0.0233, "takeProfit": 0.0270, "timeInForce": "GTC", "exchange": "xeggex",
  "paperTrade": false, "riskCheck": true,
  "signalData": {"source": "technical_analysis", "confidence": 0.78, "strategy": "macd_crossover"}}"""
PLACED = {
    "orderId", "clientOrderId", "status", "pair", "side", "type", "quantity", "price", "filledQuantity", "averagePrice",
    "exchange", "timestamp", "timeInForce", "riskValidation", "estimatedCost", "estimatedFees", "linkedOrders",
}  # fmt: skip
LISTED = {
    "orderId", "clientOrderId", "status", "pair", "side", "type", "quantity", "filledQuantity", "averagePrice",
    "totalCost", "fees", "exchange", "submitTime", "fillTime", "executionTime", "fills",
}  # fmt: skip


def problem(answer: Any, status: int, code: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = answer.json()
    assert (document["status"], document["code"]) == (status, code)
    assert document["type"] == f"/docs#{code}"
    assert document["instance"] == answer.request.url.path
    return document


@in_loop
async def test_the_manuals_order_is_taken_with_the_manuals_answer(tmp_path: Path) -> None:
    async with a_service(tmp_path) as service:
        answer = await service.http.post("/api/orders", content=MANUAL, headers=JSON | {"prefer": "wait=5"})
        assert answer.status_code == 201
        placed = answer.json()
        assert placed.keys() >= PLACED
        assert answer.headers["location"] == f"/api/orders/{placed['orderId']}"
        assert answer.headers["preference-applied"] == "wait=5"
        assert (placed["status"], placed["filledQuantity"], placed["price"]) == ("filled", 5000, None)
        assert placed["paperTrade"] is True
        assert placed["warnings"], "paperTrade: false was asked for and not given"
        assert placed["riskValidation"]["passed"] is True
        listed = (await service.http.get("/api/orders")).json()
        assert listed["pagination"] == {"total": 3, "page": 1, "limit": 50, "hasMore": False, "nextCursor": None}
        by_id = {order["orderId"]: order for order in listed["orders"]}
        entry = by_id[placed["orderId"]]
        assert entry.keys() >= LISTED
        assert sum(Decimal(str(fill["quantity"])) for fill in entry["fills"]) == 5000
        assert entry["fills"][0].keys() >= {"fillId", "quantity", "price", "timestamp", "fee", "feeCurrency"}
        exits = [by_id[placed["linkedOrders"][name]] for name in ("stopLoss", "takeProfit")]
        assert [(leg["status"], leg["stopPrice"]) for leg in exits] == [("pending", 0.0233), ("pending", 0.027)]
        assert all(leg["linkedOrders"] == {"stopLoss": None, "takeProfit": None} for leg in exits)


@in_loop
async def test_orders_are_found_by_both_ids_alone_nested_and_filtered(tmp_path: Path) -> None:
    async with a_service(tmp_path) as service:
        await service.order(stopLoss="0.0233", takeProfit="0.027", clientOrderId="mine")
        await service.resting()
        await until(lambda: len(service.node.orders.fills) > 0, "a fill")
        get = service.http.get
        mine = (await get("/api/orders/client/mine")).json()
        assert (await get(f"/api/orders/{mine['orderId']}")).json() == mine
        nested = (await get("/api/orders", params={"nested": "true"})).json()["orders"]
        assert [order["type"] for order in nested] == ["limit", "market"]
        assert {leg["type"] for leg in nested[1]["legs"]} == {"stop_loss", "take_profit"}
        for query, count in (
            ("status=open", 1),
            ("status=filled", 1),
            ("status=pending,open", 3),
            ("status=active", 3),
            ("status=ended", 1),
            ("side=sell", 2),
            ("pair=XMR_USDT", 0),
            ("exchange=binance", 0),
            (f"since={mine['submitTime']}", 4),
            ("since=4000000000000", 0),
            (f"until={mine['submitTime']}", 0),
        ):
            assert (await get(f"/api/orders?{query}")).json()["pagination"]["total"] == count, query
        trades = (await get("/api/trades", params={"orderId": mine["orderId"]})).json()
        assert [trade["fillId"] for trade in trades["trades"]] == [fill["fillId"] for fill in mine["fills"]][::-1]


@in_loop
async def test_pages_and_cursors_show_every_order_once(tmp_path: Path) -> None:
    async with a_service(tmp_path) as service:
        made = [(await service.resting())["orderId"] for _ in range(7)]
        for by in ("page", "cursor"):
            found: list[str] = []
            params: dict[str, Any] = {"limit": 3}
            while True:
                answer = (await service.http.get("/api/orders", params=params)).json()
                found += [order["orderId"] for order in answer["orders"]]
                pagination = answer["pagination"]
                if not pagination["hasMore"]:
                    break
                params[by] = pagination["nextCursor"] if by == "cursor" else (pagination["page"] or 1) + 1
            assert found == made[::-1], by


@in_loop
async def test_wrong_queries_name_every_wrong_parameter(tmp_path: Path) -> None:
    async with a_service(tmp_path) as service:
        answer = await service.http.get(
            "/api/orders?status=opne&pair=x&exchange=y&side=z&limit=501&page=0&since=a&nested=1&foo=1"
        )
        names = {error["field"] for error in problem(answer, 422, "VALIDATION_FAILED")["errors"]}
        assert names == {"status", "pair", "exchange", "side", "limit", "page", "since", "nested", "foo"}
        problem(await service.http.get("/api/orders?cursor=zzz"), 422, "INVALID_VALUE")
        problem(await service.http.get("/api/orders?cursor=ORD_1_1.5&page=2"), 422, "INVALID_VALUE")
        problem(await service.http.get("/api/orders?page=9999&limit=500"), 422, "OUT_OF_RANGE")
        problem(await service.http.get("/api/orders?pair=FOO_BAR"), 422, "INVALID_PAIR")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "NOT_JSON"),
        (b"{", 400, "NOT_JSON"),
        (b"[]", 422, "WRONG_TYPE"),
        (b"[" * 60_000, 400, "NOT_JSON"),
        (b'{"pair":"INVALID_PAIR","side":"buy","type":"market","quantity":1000}', 422, "INVALID_PAIR"),
        (b'{"pair":"RVN_USDT","side":"buy","type":"market","quantity":1e400}', 422, "INVALID_NUMBER"),
        (b'{"pair":"RVN_USDT","side":"buy","type":"market","quantity":0.001}', 422, "QUANTITY_STEP"),
        (b'{"pair":"RVN_USDT","side":"buy","type":"market","quantity":9999999}', 422, "SLIPPAGE_TOO_HIGH"),
        (b'{"pair":"RVN_USDT","side":"sell","type":"market","quantity":1000}', 422, "INSUFFICIENT_BALANCE"),
    ],
)
def test_a_body_that_cannot_become_an_order_is_a_problem(tmp_path: Path, body: bytes, status: int, code: str) -> None:
    @in_loop
    async def run() -> None:
        async with a_service(tmp_path) as service:
            answer = await service.http.post("/api/orders", content=body, headers=JSON)
            document = problem(answer, status, code)
            if code == "INSUFFICIENT_BALANCE":  # a risk refusal is on record, with every check
                assert document["order"]["status"] == "rejected"
                assert document["riskValidation"]["passed"] is False
                assert (await service.http.get(f"/api/orders/{document['orderId']}")).json()["status"] == "rejected"
            else:
                assert not service.node.orders.orders
            assert (await service.order()).status_code == 201

    run()


@in_loop
async def test_the_same_request_twice_is_one_order(tmp_path: Path) -> None:
    async with a_service(tmp_path) as service:
        first = await service.order(clientOrderId="once")
        again = await service.order(clientOrderId="once", quantity="1000.0")
        assert (first.status_code, again.status_code) == (201, 200)
        assert first.json()["orderId"] == again.json()["orderId"]
        problem(await service.order(clientOrderId="once", quantity=1001), 422, "IDEMPOTENCY_MISMATCH")
        body = {"pair": "RVN_USDT", "side": "buy", "type": "market", "quantity": 1000}
        for _ in range(2):
            answer = await service.http.post("/api/orders", json=body, headers={"Idempotency-Key": '"key-1"'})
            assert answer.json()["clientOrderId"] == "key-1"
        assert len(service.node.orders.orders) == 2


@in_loop
async def test_one_order_in_progress_is_not_taken_twice(tmp_path: Path) -> None:
    async with a_service(tmp_path) as service:
        answers = await asyncio.gather(*(service.order(clientOrderId="same") for _ in range(8)))
        assert sorted({answer.status_code for answer in answers} - {200, 409}) == [201]
        assert len(service.node.orders.orders) == 1


@in_loop
async def test_an_order_is_amended_and_cancelled_until_it_has_ended(tmp_path: Path) -> None:
    async with a_service(tmp_path) as service:
        path = f"/api/orders/{(await service.resting())['orderId']}"
        amended = await service.http.patch(path, json={"quantity": "2000", "price": 0.0201})
        assert (amended.status_code, amended.json()["quantity"], amended.json()["price"]) == (200, 2000, 0.0201)
        problem(await service.http.patch(path, json={}), 422, "REQUIRED")
        problem(await service.http.patch(path, json={"side": "sell"}), 422, "UNKNOWN_FIELD")
        problem(await service.http.patch(path, json={"price": -1}), 422, "OUT_OF_RANGE")
        cancelled = await service.http.delete(path)
        assert (cancelled.status_code, cancelled.json()["status"]) == (200, "cancelled")
        problem(await service.http.delete(path), 409, "ORDER_ENDED")
        problem(await service.http.patch(path, json={"price": 1}), 409, "ORDER_ENDED")
        for method in ("GET", "PATCH", "DELETE"):
            content = b'{"price":1}' if method == "PATCH" else None
            answer = await service.http.request(method, "/api/orders/nope", content=content, headers=JSON)
            problem(answer, 404, "ORDER_NOT_FOUND")
        problem(await service.http.get("/api/orders/client/nope"), 404, "ORDER_NOT_FOUND")


@in_loop
async def test_many_orders_are_cancelled_at_once_by_pair(tmp_path: Path) -> None:
    async with a_service(tmp_path) as service:
        for _ in range(3):
            await service.resting()
        other = await service.resting(pair="XMR_USDT", price="100", quantity="0.1")
        answer = (await service.http.delete("/api/orders", params={"pair": "RVN_USDT"})).json()
        assert answer["cancelled"] == 3
        assert {order["status"] for order in answer["orders"]} == {"cancelled"}
        assert (await service.http.get(f"/api/orders/{other['orderId']}")).json()["status"] == "open"
        assert (await service.http.delete("/api/orders")).json()["cancelled"] == 1
        assert (await service.http.delete("/api/orders")).json()["cancelled"] == 0
        problem(await service.http.delete("/api/orders?side=buy"), 422, "UNKNOWN_FIELD")


@in_loop
async def test_a_batch_answers_each_order_in_its_place(tmp_path: Path) -> None:
    async with a_service(tmp_path) as service:
        good = {"pair": "RVN_USDT", "side": "buy", "type": "market", "quantity": 1000}
        orders = [good, good | {"pair": "x"}, 5, good | {"side": "sell", "quantity": 100000}, good]
        answer = await service.http.post("/api/orders/batch", json={"orders": orders})
        assert answer.status_code == 200
        results = answer.json()["results"]
        assert [result["status"] for result in results] == [201, 422, 422, 422, 201]
        assert results[1]["problem"]["code"] == "INVALID_PAIR"
        assert results[4]["order"]["pair"] == "RVN_USDT"
        for wrong, code in (
            ({"orders": []}, "OUT_OF_RANGE"),
            ({"orders": [good] * 51}, "OUT_OF_RANGE"),
            ({"orders": 1}, "WRONG_TYPE"),
            ({}, "REQUIRED"),
            ([], "WRONG_TYPE"),
        ):
            problem(await service.http.post("/api/orders/batch", json=wrong), 422, code)


@in_loop
async def test_a_preview_shows_everything_and_changes_nothing(tmp_path: Path) -> None:
    async with a_service(tmp_path) as service:
        body = {"pair": "RVN_USDT", "side": "buy", "type": "market", "quantity": 5000}
        seq = service.node.kernel.outbox.seq
        preview = (await service.http.post("/api/orders/preview", json=body)).json()
        assert preview["accepted"] is True
        assert {"limit", "actual"} <= preview["riskValidation"]["checks"][0].keys()
        assert preview["expectedFill"]["quantity"] == 5000
        assert {venue["exchange"] for venue in preview["venues"]} == {"xeggex", "binance"}
        refused = (await service.http.post("/api/orders/preview", json=body | {"side": "sell"})).json()
        assert (refused["accepted"], refused["code"]) == (False, "INSUFFICIENT_BALANCE")
        problem(await service.http.post("/api/orders/preview", json=body | {"quantity": 0.001}), 422, "QUANTITY_STEP")
        assert not service.node.orders.orders
        assert service.node.kernel.outbox.seq == seq


@in_loop
async def test_waiting_ends_with_the_order_or_with_the_time(tmp_path: Path) -> None:
    async with a_service(tmp_path) as service:
        loop = asyncio.get_running_loop()
        waiting = loop.create_task(
            service.http.post(
                "/api/orders",
                json={"pair": "RVN_USDT", "side": "buy", "type": "limit", "price": 0.02, "quantity": 1000},
                headers={"prefer": "respond-async, wait=20"},
            )
        )
        await until(lambda: bool(service.app.commands._ends), "a request that waits")
        order_id = next(iter(service.node.orders.open))
        assert (await service.http.delete(f"/api/orders/{order_id}")).status_code == 200
        answer = await waiting
        assert (answer.json()["status"], answer.headers["preference-applied"]) == ("cancelled", "wait=20")
        body = {"pair": "RVN_USDT", "side": "buy", "type": "limit", "price": 0.02, "quantity": 1000}
        for prefer in ("wait=0", "wait", "wait=x", "return=minimal"):
            answer = await service.http.post("/api/orders", json=body, headers={"prefer": prefer})
            assert answer.json()["status"] in ("submitted", "open")
        assert not service.app.commands._ends


@in_loop
async def test_while_the_store_is_away_orders_are_refused_and_the_past_can_be_read(tmp_path: Path) -> None:
    async with a_service(tmp_path) as service:
        await service.resting()
        service.store.down = True
        lost = await service.order(clientOrderId="lost")
        problem(lost, 503, "OUTCOME_UNKNOWN")
        answer = await service.order()
        problem(answer, 503, "STORE_UNAVAILABLE")
        assert answer.headers["retry-after"] == "1"
        problem(await service.http.delete("/api/orders"), 503, "STORE_UNAVAILABLE")
        assert (await service.http.get("/api/orders")).status_code == 200
        assert (await service.http.get("/readyz")).status_code == 503
        service.store.down = False
        await until(lambda: service.node.kernel.store_up, "the store")
        found = await service.http.get("/api/orders/client/lost")
        assert found.status_code == 200, "it was taken, and is committed now"
        assert (await service.order(clientOrderId="lost")).status_code == 200


@in_loop
async def test_nobody_sees_what_is_not_committed(tmp_path: Path) -> None:
    async with a_service(tmp_path) as service:
        loop = asyncio.get_running_loop()
        service.commits.hold()
        placing = loop.create_task(service.order(type="limit", price="0.02"))
        await until(lambda: bool(service.node.orders.orders), "the order")
        paths = ("/api/orders", "/api/trades", "/api/portfolio", "/api/positions")
        order_id = next(iter(service.node.orders.orders))
        waiting = [placing, *(loop.create_task(service.http.get(path)) for path in (*paths, f"/api/orders/{order_id}"))]
        for _ in range(5):
            assert (await service.http.get("/livez")).status_code == 200
        assert not any(task.done() for task in waiting)
        service.commits.release()
        assert [(await task).status_code for task in waiting] == [201, *[200] * 5]


@in_loop
async def test_a_fault_while_a_command_runs_is_answered_and_the_service_goes_on(
    tmp_path: Path, monkeypatch: Any
) -> None:
    async with a_service(tmp_path) as service:
        monkeypatch.setattr("tbx.http.commands.FAULT_WAIT_S", 0.0)

        def broken(_: object) -> None:
            raise ZeroDivisionError("broken on purpose")

        service.node.kernel.bus._handlers[CancelOrder] = (broken,)
        path = f"/api/orders/{(await service.resting())['orderId']}"
        problem(await service.http.delete(path), 500, "INTERNAL")
        assert (await service.http.get(path)).status_code == 200


@in_loop
async def test_an_order_that_ended_is_encoded_once_and_its_late_fill_is_seen(tmp_path: Path) -> None:
    async with a_service(tmp_path) as service:
        await service.order()
        await until(lambda: len(service.node.orders.fills) > 0, "a fill")
        first = (await service.http.get("/api/orders")).json()["orders"]
        assert (await service.http.get("/api/orders")).json()["orders"] == first
        encoded = service.app.orders._encoded
        assert list(encoded) == [first[0]["orderId"]]
        order = service.node.orders.orders[first[0]["orderId"]]
        order.filled_lots += 1
        assert (await service.http.get("/api/orders")).json()["orders"] != first


@in_loop
async def test_money_is_written_as_json_numbers_with_every_digit(tmp_path: Path) -> None:
    async with a_service(tmp_path) as service:
        answer = await service.order(type="limit", price="0.020002", quantity="1000.01", timeout=0)
        numbers = msgspec.json.decode(answer.content, type=dict[str, msgspec.Raw])
        assert (bytes(numbers["price"]), bytes(numbers["quantity"])) == (b"0.020002", b"1000.01")
        assert bytes(numbers["estimatedCost"]) == b"20.00220002"
