"""GET /api/strategies over a real socket: what each strategy holds, earned and has open."""

from __future__ import annotations

from pathlib import Path

from tbx.strategies_bridge.runner import RunningView

from .redis_fixtures import in_loop, until
from .service_fixtures import a_service

RVN = "RVN_USDT"
POSITION = {
    "pair", "exchange", "quantity", "averagePrice", "currentPrice", "marketValue", "unrealizedPnL", "realisedPnL",
    "fees",
}  # fmt: skip


@in_loop
async def test_each_strategy_is_shown_with_what_it_holds_and_how_its_trades_went(tmp_path: Path) -> None:
    async with a_service(tmp_path) as service:
        assert (await service.http.get("/api/strategies")).json()["strategies"] == []
        await service.order(quantity=1000, signalData={"strategy": "ma"})
        await service.order(quantity=300)
        await service.resting(signalData={"strategy": "grid"})
        await until(lambda: len(service.node.orders.fills) > 1, "both fills")
        answer = (await service.http.get("/api/strategies")).json()
        assert answer.keys() == {"timestamp", "strategies"}
        grid, ma = answer["strategies"]
        assert grid == {
            "name": "grid", "running": None, "openOrders": 1, "positions": [], "closed": 0, "won": 0, "winRate": None,
            "realisedPnL": 0,
        }  # fmt: skip
        [position] = ma["positions"]
        assert (ma["name"], ma["openOrders"], position.keys()) == ("ma", 0, POSITION)
        assert (position["pair"], position["exchange"], position["quantity"]) == ("RVN_USDT", "xeggex", 1000)
        await service.order(side="sell", quantity=1000, signalData={"strategy": "ma"})
        await until(lambda: service.node.subledgers.record("ma").closed == 1, "the sale")
        ma = (await service.http.get("/api/strategies")).json()["strategies"][1]
        assert (ma["positions"], ma["closed"]) == ([], 1) and ma["winRate"] in (0, 100)
        assert ma["realisedPnL"] != 0
        [rest] = (await service.http.get("/api/positions")).json()["positions"]
        assert rest["quantity"] == 300, "what is nobody's was left alone"


@in_loop
async def test_a_strategy_that_runs_here_is_shown_before_it_has_traded(tmp_path: Path) -> None:
    async with a_service(tmp_path) as service:
        counts = {"calls": 7, "p99_ms": 0.5, "worst_ms": 1.5, "orders_sent": 2, "refused": 0}
        running = RunningView(
            name="mm", status="stopped", error="KeyError('x')", since=9, pairs=[RVN], parameters={}, **counts
        )
        service.app.api.strategies = lambda: {"mm": running}
        [shown] = (await service.http.get("/api/strategies")).json()["strategies"]
        assert (shown["name"], shown["openOrders"], shown["positions"]) == ("mm", 0, [])
        there = shown["running"]
        assert (there["status"], there["error"], there["worstMs"], there["since"]) == (
            "stopped",
            "KeyError('x')",
            1.5,
            9,
        )


@in_loop
async def test_a_field_that_is_not_known_is_refused_by_name(tmp_path: Path) -> None:
    async with a_service(tmp_path) as service:
        answer = await service.http.get("/api/strategies?strategy=ma")
        assert answer.status_code == 422 and "strategy" in answer.text
