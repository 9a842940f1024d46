"""POST /api/orders/{id}/resolve: an operator's word over HTTP. What it does to orders: `test_live_doubt`."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Any

import pytest

from tbx.core.model.messages import VenueUnknown

from .redis_fixtures import in_loop
from .service_fixtures import Served, a_service
from .test_http_orders import problem

KEYS = ";".join(
    f"{name}:{hashlib.sha256(name.encode()).hexdigest()}:{scopes}"
    for name, scopes in (("ann", "read+trade+admin"), ("bot", "read+trade"))
)
SLOW = {"PAPER_LATENCY_MS": "60000"}


def key(name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {name}"}


async def in_doubt(service: Served, **headers: Any) -> str:
    """The id of an order that left, and whose answer was lost."""
    body = {"pair": "RVN_USDT", "side": "buy", "type": "limit", "quantity": 1000, "price": "0.02", "exchange": "xeggex"}
    order_id = str((await service.http.post("/api/orders", json=body, **headers)).json()["orderId"])
    order = service.node.orders.orders[order_id]
    for venue in service.node.paper_venues.values():
        venue.stop()  # it cannot be asked
    lost = VenueUnknown(
        venue="paper.xeggex",
        client_id=order.venue_client_id,
        request="place",
        reason="no reply came within 10 s",
        timestamp_ns=time.time_ns(),
    )
    service.node.kernel.input(lost)
    return order_id


@in_loop
async def test_an_order_in_doubt_shows_its_evidence_and_ends_by_the_word_of_a_named_operator(tmp_path: Path) -> None:
    async with a_service(tmp_path, {"API_KEYS": KEYS, **SLOW}) as service:
        order_id = await in_doubt(service, headers=key("ann"))
        path = f"/api/orders/{order_id}"
        shown = (await service.http.get(path, headers=key("bot"))).json()
        assert shown["status"] == "unknown" and shown["reserved"] > 20
        began, *others = shown["evidence"]
        assert began["answer"] == "no reply came within 10 s" and began["count"] == 1
        assert began["question"].startswith("place tbx-") and began["askedAt"] == began["lastAskedAt"]
        assert [line["answer"] for line in others] == ["no answer"]
        word = {"outcome": "not_taken", "reason": "support says so"}
        ended = await service.http.post(f"{path}/resolve", json=word, headers=key("ann"))
        assert ended.status_code == 200, ended.text
        order = ended.json()
        assert (order["status"], order["code"], order["reserved"]) == ("cancelled", "RESOLVED", 0)
        assert order["reason"] == "resolved as not_taken by ann: support says so"
        assert order["evidence"][-1]["question"] == "resolved as not_taken by ann"
        again = await service.http.post(f"{path}/resolve", json=word, headers=key("ann"))
        assert again.status_code == 200 and again.json() == order
        other = await service.http.post(f"{path}/resolve", json={**word, "outcome": "cancelled"}, headers=key("ann"))
        assert "resolved as not_taken by ann" in problem(other, 409, "ORDER_ENDED")["detail"]


@in_loop
async def test_only_an_admin_resolves(tmp_path: Path) -> None:
    async with a_service(tmp_path, {"API_KEYS": KEYS, **SLOW}) as service:
        order_id = await in_doubt(service, headers=key("ann"))
        path, word = f"/api/orders/{order_id}/resolve", {"outcome": "cancelled", "reason": "seen"}
        problem(await service.http.post(path, json=word, headers=key("bot")), 403, "FORBIDDEN")
        problem(await service.http.post(path, json=word), 401, "UNAUTHORIZED")
        assert service.node.orders.orders[order_id].state.value == "UNKNOWN"


@in_loop
async def test_asking_is_answered_with_the_order_as_it_then_is(tmp_path: Path) -> None:
    async with a_service(tmp_path, SLOW) as service:
        order_id = await in_doubt(service)
        answer = await service.http.post(f"/api/orders/{order_id}/resolve", json={"outcome": "ask"})
        assert answer.status_code == 200 and answer.json()["status"] == "unknown"
        assert answer.json()["evidence"][-1]["count"] == 2


WRONG: dict[str, tuple[Any, str, set[str]]] = {
    "nothing": ({}, "REQUIRED", {"outcome", "reason"}),
    "no reason": ({"outcome": "cancelled"}, "REQUIRED", {"reason"}),
    "another outcome": ({"outcome": "filled", "reason": "r"}, "INVALID_VALUE", {"outcome"}),
    "all of it": ({"outcome": 7, "reason": "", "why": 1}, "VALIDATION_FAILED", {"outcome", "reason", "why"}),
    "a blank reason": ({"outcome": "cancelled", "reason": "  "}, "INVALID_VALUE", {"reason"}),
    "too long": ({"outcome": "ask", "reason": "r" * 201}, "INVALID_VALUE", {"reason"}),
    "a list": ([], "WRONG_TYPE", set()),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_body_that_is_no_word_names_every_wrong_field(case: str, tmp_path: Path) -> None:
    @in_loop
    async def scenario() -> None:
        body, code, fields = WRONG[case]
        async with a_service(tmp_path) as service:
            order = await service.resting()
            answer = await service.http.post(f"/api/orders/{order['orderId']}/resolve", json=body)
            errors = problem(answer, 422, code).get("errors", [])
            assert {error["field"] for error in errors} == fields

    scenario()


@in_loop
async def test_orders_that_are_not_there_or_not_in_doubt_are_refused(tmp_path: Path) -> None:
    async with a_service(tmp_path) as service:
        word = {"outcome": "cancelled", "reason": "seen"}
        problem(await service.http.post("/api/orders/ORD_20240101_000001/resolve", json=word), 404, "ORDER_NOT_FOUND")
        order = await service.resting()
        refused = problem(
            await service.http.post(f"/api/orders/{order['orderId']}/resolve", json=word), 409, "NOT_IN_DOUBT"
        )
        assert f"DELETE /api/orders/{order['orderId']}" in refused["detail"]
        assert (await service.http.get(f"/api/orders/{order['orderId']}")).json()["evidence"] == []
