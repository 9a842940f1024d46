"""The two examples and the one of the documentation, as they stand: on books by hand, and on the simulated market."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tbx.core.kernel.clock import MS_NS
from tbx.core.model.records import Order

from .desk import RVN, Desk
from .test_strategies_service import Process

EXAMPLES = "tbx.strategies_bridge.examples"
CROSS = f"{EXAMPLES}.ma_cross:MaCross?pairs=RVN_USDT&exchange=xeggex&fast=2&slow=4&every=1"
MAKER = f"{EXAMPLES}.market_maker:MarketMaker?pairs=RVN_USDT&exchange=xeggex&size=24.5&spread=0.002&interval=0"


def desk_with(folder: Path, spec: str, **settings: str) -> Desk:
    desk = Desk(folder, STRATEGIES=spec, **settings)
    desk.wait(100)
    return desk


def orders(desk: Desk, **fields: Any) -> list[Order]:
    return [o for o in desk.node.orders.orders.values() if all(getattr(o, k) == v for k, v in fields.items())]


def walk(desk: Desk, *mids: str) -> None:
    """A second at each price."""
    for mid in mids:
        half = Decimal("0.00001")
        desk.price(str(Decimal(mid) - half), str(Decimal(mid) + half), "4000000")
        desk.wait(1_000)


# --- moving-average cross


def test_the_cross_buys_when_the_fast_average_rises_above_the_slow_one_and_sells_below_it(tmp_path: Path) -> None:
    desk = desk_with(tmp_path, CROSS, MAX_RISK_PER_TRADE="0.02")
    walk(desk, *["0.0245"] * 3, "0.0244", "0.0243", "0.0246", "0.0247")
    [entry] = orders(desk, side="buy")
    assert entry.signal_id is not None
    assert entry.state.value == "FILLED"
    held = desk.node.subledgers.quantity("ma_cross", "paper.xeggex", RVN)
    at_the_stop = held * Decimal("0.0247") * Decimal("0.02")
    assert Decimal(150) < at_the_stop < Decimal(250)  # half a percent of 50,000, less the fees
    walk(desk, "0.0244", "0.0241")
    assert desk.node.subledgers.quantity("ma_cross", "paper.xeggex", RVN) == 0
    assert not desk.node.orders.open  # the stop went with the coins
    desk.check()


def test_the_cross_goes_on_after_a_restart_where_it_was(tmp_path: Path) -> None:
    desk = desk_with(tmp_path, CROSS, MAX_RISK_PER_TRADE="0.02")
    walk(desk, *["0.0245"] * 3, "0.0244", "0.0243")
    desk.restart()
    desk.wait(100)
    walk(desk, "0.0246", "0.0247")
    assert len(orders(desk, side="buy")) == 1


# --- market maker


def quotes(desk: Desk) -> dict[str, Decimal]:
    return {
        o.side: o.price_ticks * o.tick
        for o in desk.node.orders.open.values()
        if o.role == "entry" and o.price_ticks is not None
    }


def test_the_maker_begins_with_a_bid_and_offers_what_it_has_bought(tmp_path: Path) -> None:
    desk = desk_with(tmp_path, MAKER)
    walk(desk, "0.0245")
    assert quotes(desk) == {"buy": Decimal("0.024480")}  # half the spread below, and the skew of empty hands above
    desk.hand.trade("xeggex", RVN, "0.0240", "90000", buyer_is_maker=True)
    desk.wait(50)
    walk(desk, "0.0245", "0.0245")
    found = quotes(desk)
    assert found.keys() == {"buy", "sell"}
    assert found["buy"] < Decimal("0.0245") < found["sell"]
    desk.check()


def test_the_maker_moves_its_quotes_with_the_market_one_order_a_side(tmp_path: Path) -> None:
    desk = desk_with(tmp_path, MAKER)
    walk(desk, "0.0245", "0.0255", "0.0255", "0.0255")
    assert quotes(desk) == {"buy": Decimal("0.025479")}
    walk(desk, *["0.0255"] * 5)
    assert len(orders(desk)) == 2  # the first was cancelled, the second stays


def test_the_maker_never_holds_more_than_it_may(tmp_path: Path) -> None:
    desk = desk_with(tmp_path, f"{MAKER}&most=49")
    for _ in range(10):
        walk(desk, "0.0245")
        desk.hand.trade("xeggex", RVN, "0.0240", "90000", buyer_is_maker=True)
        desk.wait(50)
    assert desk.node.subledgers.quantity("market_maker", "paper.xeggex", RVN) == 2000
    assert quotes(desk).keys() == {"sell"}
    desk.check()


def test_a_refused_quote_is_not_repeated_at_every_book(tmp_path: Path) -> None:
    desk = desk_with(tmp_path, MAKER.replace("size=24.5", "size=22000"), MAX_POSITION_SIZE="0.01")
    for _ in range(100):
        desk.price("0.02449", "0.02451")
        desk.clock.advance(10 * MS_NS)
    assert len(orders(desk)) == 1


# --- the documentation's


def test_the_example_of_the_documentation_trades(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (root / "strategies_bridge" / "STRATEGIES.md").read_text()
    [code] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (tmp_path / "dip.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    desk = desk_with(tmp_path, "dip:Dip")
    walk(desk, "0.0245", "0.0240")
    assert desk.node.subledgers.quantity("dip", "paper.xeggex", RVN) == 2000
    walk(desk, "0.0244", "0.0244")
    assert desk.node.subledgers.quantity("dip", "paper.xeggex", RVN) == 0
    desk.check()


# --- as a process


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Process]:
    service = Process(tmp_path, PAPER_LATENCY_MS="5")
    yield service
    service.close()


def test_both_trade_on_the_simulated_market_and_verify_agrees(process: Process) -> None:
    process.arguments = (
        *("--strategy", f"{EXAMPLES}.ma_cross:MaCross?pairs=ETH_USDT,XMR_USDT&fast=2&slow=4&every=0.05"),
        *("--strategy", f"{EXAMPLES}.market_maker:MarketMaker?interval=0.05&spread=0.0001&size=120"),
    )
    process.start()

    def traded() -> bool:
        trades = process.http.get("/api/trades?limit=200").json()["trades"]
        pairs = [trade["pair"] for trade in trades]
        return pairs.count("BTC_USDT") >= 3 and len(pairs) - pairs.count("BTC_USDT") >= 3

    process.until(traded, "each has traded", seconds=30)
    assert [row["status"] for row in process.strategies().values()] == ["running", "running"]
    assert process.http.get("/readyz").status_code == 200
    assert process.stop() == 0
    command = [sys.executable, "-m", "tbx.http", "verify"]
    done = subprocess.run(
        command, cwd=process.folder, env=process.environment(), capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "all agrees"), done.stdout + done.stderr
