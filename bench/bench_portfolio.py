"""Portfolio: a fill, a frame, a question of the risk checks, 10,000 positions, GET /api/portfolio with 1,000.

Budgets: valuing 10,000 positions <= 1 ms with the call, a fill <= 15 us, equity() <= 2 us, the encoded view of 1,000
positions p99 <= 10 ms. The floor of the valuation is numpy's product of two columns; of the view, encoding alone.
"""

import gc
import itertools
from decimal import Decimal

import msgspec
import numpy as np
import pytest

from tbx.core.kernel.clock import ManualClock
from tbx.core.kernel.kernel import Kernel
from tbx.core.kernel.outbox import encode_document
from tbx.core.model.ids import Ids
from tbx.core.model.instruments import Instrument
from tbx.core.model.messages import BookUpdated, OrderFilled
from tbx.core.model.records import Fill, Order
from tbx.core.portfolio.manager import PortfolioManager
from tbx.core.portfolio.pnl import Columns
from tbx.core.state.memory import MemoryStore

D = Decimal
WALLET = "paper.xeggex"


class Desk:
    """A manager that holds `count` positions of as many pairs."""

    def __init__(self, count: int) -> None:
        clock = ManualClock()
        self.clock = clock
        self.kernel = Kernel(clock, MemoryStore(clock.call_soon))
        self.prices = {("xeggex", f"C{i}_USDT"): D(100 + i) / 8 for i in range(count)}
        instruments = {
            market: Instrument(
                exchange=market[0],
                pair=market[1],
                symbol=market[1],
                base=market[1].partition("_")[0],
                quote="USDT",
                tick=D("0.000001"),
                lot=D("0.0001"),
            )
            for market in self.prices
        }
        self.manager = PortfolioManager(
            self.kernel, Ids("bench"), instruments, lambda *market: self.prices.get(market), "USDT"
        )
        self.kernel.add(self.manager)
        self.manager.deposit(WALLET, "USDT", D(10**9))
        self.kernel.start()
        self.numbers = itertools.count()
        for market in self.prices:
            self.kernel.input(self.filled(market, "buy"))
        self.forget()
        gc.collect()
        gc.freeze()  # as a service does once it is up: what lives for good is not searched again

    def forget(self) -> None:
        """Let the outbox go, as a commit does."""
        self.kernel.outbox.take()

    def filled(self, market: tuple[str, str], side: str) -> OrderFilled:
        number = next(self.numbers)
        common = {"exchange": market[0], "pair": market[1], "wallet": WALLET, "side": side}
        grid = {"tick": D("0.000001"), "lot": D("0.0001")}
        fill = Fill(
            fill_id=f"FILL_{number}",
            order_id="O",
            trade_id=str(number),
            price_ticks=13_000_000 + number % 977,
            qty_lots=100_000 + number % 13,
            fee=D("0.12345678"),
            fee_currency="USDT",
            timestamp_ns=self.clock.now_ns(),
            **common,
            **grid,
        )
        order = Order(
            order_id="O",
            client_order_id="O",
            type="market",
            quote="USDT",
            base=market[1].partition("_")[0],
            submit_ns=1,
            created_ns=1,
            qty_lots=1,
            **common,
            **grid,
        )
        return OrderFilled(order, fill, D(0))

    def move_all(self) -> None:
        for market, price in self.prices.items():
            self.prices[market] = price + D("0.0000005")
            self.manager.on_book(BookUpdated(*market, 0))


def test_fill(benchmark: pytest.FixtureRequest) -> None:
    desk = Desk(16)
    markets = list(desk.prices)

    def setup() -> tuple[tuple[list[OrderFilled]], dict[str, object]]:
        desk.forget()
        return ([desk.filled(m, side) for _ in range(8) for m in markets for side in ("buy", "sell")],), {}

    def handle(messages: list[OrderFilled]) -> None:
        for message in messages:
            desk.manager.on_filled(message)

    benchmark.extra_info["units_a_round"] = 256
    benchmark.pedantic(handle, setup=setup, rounds=60, warmup_rounds=3)


def test_frame_marks_its_market(benchmark: pytest.FixtureRequest) -> None:
    desk = Desk(4)
    benchmark(desk.manager.on_book, BookUpdated("xeggex", "C1_USDT", 0))


def test_equity_asked_by_a_risk_check(benchmark: pytest.FixtureRequest) -> None:
    desk = Desk(16)
    desk.move_all()
    benchmark(desk.manager.equity, True)


def test_position_value_asked_by_a_risk_check(benchmark: pytest.FixtureRequest) -> None:
    desk = Desk(16)
    benchmark(desk.manager.position_value, WALLET, "C1_USDT")


def test_day_pnl_asked_by_a_risk_check(benchmark: pytest.FixtureRequest) -> None:
    desk = Desk(16)
    benchmark(desk.manager.day_pnl)


def ten_thousand() -> Columns:
    columns = Columns()
    for i in range(10_000):
        row = columns.take_row()
        columns.put(row, i % 4, D(i + 1) / 8, D(i + 1) * 3, D(i + 1) * 3)
        columns.put_mark(row, D(20 + i % 100))
    return columns


def test_value_10000_positions(benchmark: pytest.FixtureRequest) -> None:
    columns = ten_thousand()
    benchmark(columns.value, 4)


def test_value_10000_positions_floor(benchmark: pytest.FixtureRequest) -> None:
    """numpy's product, wrapping and without cost, sums or rounding."""
    columns = ten_thousand()
    benchmark(np.multiply, columns.quantity, columns.mark)


def test_reprice_10000_positions(benchmark: pytest.FixtureRequest) -> None:
    """Every book moved: new mids, rates, equity and the positions' totals (the manual's budget is 200 ms)."""
    desk = Desk(10_000)

    def value() -> None:
        desk.manager.summary(True, desk.clock.now_ns())

    benchmark.pedantic(value, setup=desk.move_all, rounds=10, warmup_rounds=1)


@pytest.mark.parametrize("moved", ["all_moved", "none_moved"])
def test_get_portfolio_of_1000_positions(benchmark: pytest.FixtureRequest, moved: str) -> None:
    desk = Desk(1000)

    def answer() -> bytes:
        return encode_document(desk.manager.view(True, desk.clock.now_ns()))

    setup = desk.move_all if moved == "all_moved" else desk.forget
    benchmark.pedantic(answer, setup=setup, rounds=100, warmup_rounds=3)
    assert len(msgspec.json.decode(answer())["positions"]) == 1000


def test_get_portfolio_of_1000_positions_floor(benchmark: pytest.FixtureRequest) -> None:
    desk = Desk(1000)
    benchmark(encode_document, desk.manager.view(True, desk.clock.now_ns()))
