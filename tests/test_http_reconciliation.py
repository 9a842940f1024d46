"""What comparisons with the exchanges found, over HTTP, and cancelling an order that is not of this service."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

from tbx.core.model.comparisons import Compared, Difference, ExternalOrder, Reconciled

from .redis_fixtures import in_loop
from .service_fixtures import a_service

EXTERNAL = ExternalOrder(
    exchange="binance",
    pair="BTC_USDT",
    venue_order_id="57",
    client_order_id="web_1",
    side="sell",
    type="limit",
    quantity=Decimal("0.1"),
    filled=Decimal(0),
    price=Decimal(62_000),
    seen_at=1_735_689_600_000,
)
RUN = Reconciled(
    venue="binance",
    reason="start",
    started=1_735_689_600_000,
    ended=1_735_689_600_010,
    compared=Compared(1, 0, 2),
    differences=[Difference("external", "57", "not ours", str(EXTERNAL), "none: it is left alone")],
    more=0,
    left=[],
    open=[],
    settled=True,
)


class Listed:
    """Comparisons that have found one thing."""

    def __init__(self) -> None:
        self.runs = [RUN]
        self.external = [EXTERNAL]


@in_loop
async def test_runs_and_external_orders_are_shown_as_they_were_found(tmp_path: Path) -> None:
    async with a_service(tmp_path) as service:
        service.app.api.comparisons = Listed()
        (run,) = (await service.http.get("/api/reconciliation")).json()["runs"]
        assert run["compared"] == {"openOrders": 1, "trades": 0, "currencies": 2} and run["settled"] is True
        assert run["differences"][0]["there"] == "sell 0.1 BTC_USDT at 62000 (web_1)"
        (order,) = (await service.http.get("/api/orders/external")).json()["orders"]
        assert order["venueOrderId"] == "57" and order["price"] == 62_000 and order["clientOrderId"] == "web_1"


@in_loop
async def test_on_paper_there_is_nothing_to_compare_with(tmp_path: Path) -> None:
    async with a_service(tmp_path) as service:
        assert (await service.http.get("/api/reconciliation")).json()["runs"] == []
        assert (await service.http.get("/api/orders/external")).json()["orders"] == []
        assert (await service.http.get("/api/orders/external?x=1")).status_code == 422


@in_loop
async def test_only_what_is_listed_can_be_cancelled(tmp_path: Path) -> None:
    async with a_service(tmp_path) as service:
        answer = await service.http.delete("/api/orders/external/binance/BTC_USDT/57")
        assert answer.status_code == 404 and answer.json()["code"] == "ORDER_NOT_FOUND"
        assert "GET /api/orders/external" in answer.json()["detail"]


@in_loop
async def test_cancelling_somebody_elses_order_needs_the_admin_scope(tmp_path: Path) -> None:
    async with a_service(tmp_path) as service:
        scopes = {(op.method, op.path): op.scope for op in service.app.operations}
        assert scopes["DELETE", "/api/orders/external/{exchange}/{pair}/{venue_order_id}"] == "admin"
        assert scopes["GET", "/api/orders/external"] == scopes["GET", "/api/reconciliation"] == "read"
