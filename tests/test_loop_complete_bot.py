"""The manual's own JavaScript bot, unchanged, against a real process and real peers: it starts, trades, and what it
traded is in the books."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tbx.core.settings import load_settings

from .loop_bot import run_bot
from .risk_off import OLD_RISK_LIMITS
from .service_peers import Peers, peers
from .service_process import ServiceProcess

BUY = {"signal": "buy", "confidence": 0.9}
SELL = {"signal": "sell", "confidence": 0.9}
UP = {"prediction": "up", "confidence": 0.9}
DOWN = {"prediction": "down", "confidence": 0.9}
STRATEGY = "technical_ml_ensemble"


@pytest.fixture
def neighbours() -> Iterator[Peers]:
    with peers() as running:
        yield running


@pytest.fixture
def service(tmp_path: Path, neighbours: Peers) -> Iterator[ServiceProcess]:
    """With the risk limits that everybody has who sets none."""
    process = ServiceProcess(tmp_path, **neighbours.environment)
    for name in OLD_RISK_LIMITS:
        if name not in neighbours.environment:
            del process.settings[name]
    yield process.start()
    process.close()


def urls(service: ServiceProcess, neighbours: Peers) -> dict[str, str]:
    """The addresses in the manual's text -> where these are."""
    return {
        "http://localhost:3004": f"http://127.0.0.1:{service.port}",
        "http://localhost:3000": neighbours.core.url,
        "http://localhost:3003": neighbours.risk.url,
        "http://localhost:3001": neighbours.ml.url,
    }


def opine(neighbours: Peers, strategy: dict[str, Any], prediction: dict[str, Any], *pairs: str) -> None:
    neighbours.core.offer({pair: {"macd": strategy, "rsi": strategy} for pair in pairs})
    for pair in pairs:
        neighbours.ml.predict(pair, prediction)


def verified(service: ServiceProcess) -> str:
    """What `tbx verify` prints of the running service."""
    command = [sys.executable, "-m", "tbx.http", "verify"]
    environment = service.environment()
    done = subprocess.run(command, cwd=service.folder, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def all_orders(service: ServiceProcess) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = service.http.get("/api/orders?limit=100").json()["orders"]
    return found


def test_the_bot_of_the_manual_starts_buys_with_a_bracket_and_the_books_agree(
    service: ServiceProcess, neighbours: Peers
) -> None:
    opine(neighbours, BUY, UP, "RVN_USDT", "XMR_USDT")
    seen, printed = run_bot(service.folder, urls(service, neighbours))

    initialization = seen["initialization"]
    assert initialization["status"] == "initialized"
    assert initialization["services"] == ["healthy"] * 4
    assert {"timestamp", "summary", "positions", "balances", "performance"} <= initialization["portfolio"].keys()
    assert seen["active"] is True
    for pair in ("RVN_USDT", "XMR_USDT"):
        assert f"Trade executed for {pair}" in printed, printed

    signals = service.http.get("/api/signals").json()["signals"]
    assert sorted(signal["pair"] for signal in signals) == ["RVN_USDT", "XMR_USDT"]
    for signal in signals:
        assert signal["status"] == "executed" and signal["source"] == "automated_trading_bot"
        assert signal["strategy"] == STRATEGY and signal["metadata"]["combinedScore"] == pytest.approx(0.9)
        entry = service.order_when(signal["orders"][0]["orderId"], "filled")
        assert entry["linkedOrders"]["stopLoss"] is not None
        sizing = signal["positionSizing"]
        assert sizing["method"] == "kelly_criterion" and 0 < sizing["riskPercent"] <= 0.02
    assert {order["type"] for order in all_orders(service) if order["status"] == "pending"} >= {"stop_loss"}

    positions = service.http.get("/api/portfolio").json()["positions"]
    assert sorted(position["pair"] for position in positions) == ["RVN_USDT", "XMR_USDT"]
    status = seen["status"]
    assert status["portfolioValue"] > 0 and "unrealizedPnL" in status and "dayPnL" in status
    assert "all agrees" in verified(service)


def test_the_bot_sells_what_it_bought_when_the_services_turn(service: ServiceProcess, neighbours: Peers) -> None:
    opine(neighbours, BUY, UP, "RVN_USDT")
    run_bot(service.folder, urls(service, neighbours))
    bought = next(order for order in all_orders(service) if order["side"] == "buy")
    service.order_when(bought["orderId"], "filled")

    opine(neighbours, SELL, DOWN, "RVN_USDT")
    _, printed = run_bot(service.folder, urls(service, neighbours))
    assert "Trade executed for RVN_USDT" in printed, printed
    sold = next(order for order in all_orders(service) if order["side"] == "sell" and order["type"] == "market")
    service.order_when(sold["orderId"], "filled")
    assert service.http.get("/api/portfolio").json()["positions"] == []
    assert not [order for order in all_orders(service) if order["status"] in ("pending", "open", "submitted")]
    assert "all agrees" in verified(service)


def test_the_bot_goes_on_where_one_pair_cannot_be_predicted(service: ServiceProcess, neighbours: Peers) -> None:
    opine(neighbours, BUY, UP, "RVN_USDT", "XMR_USDT")
    neighbours.ml.fault("500", path="/api/predictions/RVN_USDT")
    _, printed = run_bot(service.folder, urls(service, neighbours))
    assert "Error processing RVN_USDT" in printed
    assert "Trade executed for XMR_USDT" in printed, printed


def test_a_bot_that_repeats_its_cycle_is_let_buy_only_what_the_limits_allow(
    service: ServiceProcess, neighbours: Peers
) -> None:
    opine(neighbours, BUY, UP, "RVN_USDT")
    run_bot(service.folder, urls(service, neighbours), cycles=8)
    limits = load_settings({}, service.folder)
    positions = service.http.get("/api/portfolio").json()["positions"]
    shares = [position["riskMetrics"]["positionSize"] for position in positions]
    assert shares and max(shares) <= float(limits.max_position_size) + 0.01
    assert sum(shares) <= float(limits.max_correlated_exposure) + 0.01
    assert len([order for order in all_orders(service) if order["side"] == "buy"]) < 8
    assert "all agrees" in verified(service)
