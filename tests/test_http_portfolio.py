"""Portfolio, positions and books over a real socket."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from .redis_fixtures import in_loop, until
from .service_fixtures import a_service

pytestmark = pytest.mark.portfolio
SUMMARY = {
    "totalValue", "totalCash", "totalPositions", "unrealizedPnL", "unrealizedPnLPercent", "dayPnL", "dayPnLPercent",
}  # fmt: skip
POSITION = {
    "id", "pair", "side", "quantity", "averagePrice", "currentPrice", "marketValue", "unrealizedPnL",
    "unrealizedPnLPercent", "dayPnL", "dayPnLPercent", "openDate", "exchange", "riskMetrics", "realisedPnL",
}  # fmt: skip
PERFORMANCE = {"totalReturn", "dayReturn", "weekReturn", "monthReturn", "maxDrawdown", "sharpeRatio", "winRate"}


@in_loop
async def test_a_fill_becomes_a_position_that_can_be_closed_in_parts(tmp_path: Path) -> None:
    async with a_service(tmp_path) as service:
        await service.order(quantity=1000)
        await until(lambda: len(service.node.orders.fills) > 0, "a fill")
        portfolio = (await service.http.get("/api/portfolio")).json()
        assert portfolio.keys() == {"timestamp", "summary", "positions", "balances", "performance"}
        assert portfolio["summary"].keys() >= SUMMARY
        assert portfolio["performance"].keys() == PERFORMANCE
        assert portfolio["balances"][0].keys() == {"currency", "total", "available", "locked", "exchange"}
        (position,) = portfolio["positions"]
        assert position.keys() == POSITION
        assert (position["pair"], position["quantity"]) == ("RVN_USDT", 1000)
        assert (await service.http.get("/api/positions")).json()["positions"][0]["id"] == position["id"]

        path = f"/api/positions/{position['id']}/close"
        part = await service.http.post(path, json={"quantity": "400"})
        assert (part.status_code, part.json()["side"], part.json()["quantity"]) == (201, "sell", 400)
        await until(lambda: not service.node.orders.open, "the sale")
        assert (await service.http.get("/api/positions")).json()["positions"][0]["quantity"] == 600
        assert (await service.http.post(path)).json()["quantity"] == 600
        await until(lambda: not service.node.orders.open, "the sale")
        assert (await service.http.get("/api/positions")).json()["positions"] == []
        assert (await service.http.post(path)).status_code in (404, 409)


@in_loop
async def test_a_position_that_is_not_there_or_a_wrong_quantity_is_a_problem(tmp_path: Path) -> None:
    async with a_service(tmp_path) as service:
        assert (await service.http.post("/api/positions/POS_999/close")).status_code == 404
        for body, status in (({"quantity": 0}, 422), ({"quantity": "x"}, 422), ({"all": True}, 422), ([], 422)):
            assert (await service.http.post("/api/positions/POS_999/close", json=body)).status_code == status


@in_loop
async def test_a_refresh_answers_the_portfolio(tmp_path: Path) -> None:
    async with a_service(tmp_path) as service:
        refreshed = await service.http.post("/api/portfolio/refresh")
        assert refreshed.status_code == 200
        assert refreshed.json()["summary"]["totalValue"] == 50_000


@in_loop
async def test_the_book_is_one_of_all_venues_best_price_first(tmp_path: Path) -> None:
    async with a_service(tmp_path) as service:
        await until(lambda: service.node.market.fresh("binance", "RVN_USDT", time.time_ns()), "the other venue's book")
        book = (await service.http.get("/api/book/RVN_USDT", params={"depth": 30})).json()
        bids, asks = ([level["price"] for level in book[side]] for side in ("bids", "asks"))
        assert len(bids) == len(asks) == 30
        assert bids == sorted(bids, reverse=True)
        assert asks == sorted(asks)
        assert (book["bestBid"], book["bestAsk"]) == (bids[0], asks[0])
        assert {level["exchange"] for level in book["bids"]} == {"xeggex", "binance"}
        one = (await service.http.get("/api/book/RVN_USDT?exchange=binance")).json()
        assert {level["exchange"] for level in one["asks"]} == {"binance"}
        assert one["bestBid"] < one["bestAsk"]
        for path, status in (
            ("/api/book/FOO_BAR", 404),
            ("/api/book/rvn", 404),
            ("/api/book/RVN_USDT?depth=0", 422),
            ("/api/book/RVN_USDT?depth=501", 422),
            ("/api/book/RVN_USDT?exchange=kraken", 422),
            ("/api/book/RVN_USDT?level=2", 422),
        ):
            assert (await service.http.get(path)).status_code == status, path


@in_loop
async def test_a_book_that_stands_still_is_not_shown_as_a_price(tmp_path: Path) -> None:
    async with a_service(tmp_path) as service:
        service.node.source.stop()
        for exchange in ("xeggex", "binance"):
            service.node.market.book(exchange, "RVN_USDT").local_ns = time.time_ns() - 3_000_000_000
        book = (await service.http.get("/api/book/RVN_USDT")).json()
        assert (book["bids"], book["bestBid"]) == ([], None)
        assert not any(state["fresh"] for state in book["exchanges"].values())
