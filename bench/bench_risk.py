"""Pre-trade checks of an order beside 1,000 positions with as many open stops.

Budget: all local checks of an entry <= 30 us p50. Prices move and fills come in between, so nothing is asked twice of
the same moment. Always true here: every order that is checked passes, with all ten checks reported.
"""

from __future__ import annotations

import itertools
import sys
from decimal import Decimal
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # this folder is no package

from many_pairs import EXCHANGE, ManyPairs, pair

from tbx.core.model.messages import Refusal, SubmitOrder, Submitted
from tbx.core.model.records import SignalData

POSITIONS = 1_000
ORDERS = 64  # of a round


def request(number: int, quantity: str = "0.1", side: str = "buy") -> SubmitOrder:
    return SubmitOrder(
        pair=pair(number),
        side=side,  # type: ignore[arg-type]
        type="limit",
        quantity=Decimal(quantity),
        price=Decimal(100 + number),
        exchange=EXCHANGE,
        signal_data=SignalData(strategy=f"s{number % 50}"),
        reply=_nobody,
    )


def _nobody(_: object) -> None:
    """The reply of a request that is only looked at."""


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> ManyPairs:
    found = ManyPairs(Path(tmp_path_factory.mktemp("risk")), POSITIONS)
    for number in range(POSITIONS):
        answers: list[object] = []
        order = SubmitOrder(
            pair=pair(number), side="buy", type="market", quantity=Decimal("1"), exchange=EXCHANGE, reply=answers.append
        )
        found.node.kernel.input(order)
        found.clock.settle()
        assert isinstance(answers[0], Submitted), answers
        if number % 100 == 99:
            found.clock.advance(50_000_000)
            for again in range(POSITIONS):
                found.market.book(again)
    found.clock.advance(50_000_000)
    assert len(found.node.portfolio.open_positions(True)) == POSITIONS
    return found


def test_local_checks_of_an_entry(benchmark: pytest.FixtureRequest, desk: ManyPairs) -> None:
    engine, checks, turn = desk.node.engine, desk.node.checks, itertools.count()

    def setup() -> tuple[tuple[list[tuple[SubmitOrder, object, Decimal]]], dict[str, object]]:
        start = next(turn) * ORDERS
        desk.clock.advance(120_000_000)  # prices may be looked at anew
        for number in range(start, start + 20):
            desk.market.book(number % POSITIONS, shift=start % 7)
        planned = []
        for number in range(start, start + ORDERS):
            wanted = request(number % POSITIONS)
            desk.market.book(number % POSITIONS)
            plan = engine.plan(wanted, desk.clock.now_ns())
            assert not isinstance(plan, Refusal), plan
            planned.append((wanted, plan, plan.need("buy")))
        filled = request(start % POSITIONS)
        desk.node.kernel.input(filled)  # one more open entry with its stop
        desk.clock.settle()
        return (planned,), {}

    def check(planned: list[tuple[SubmitOrder, object, Decimal]]) -> None:
        for wanted, plan, need in planned:
            report, code = checks.run(wanted, plan, need)  # type: ignore[arg-type]
            assert code is None, report
            assert len(report.checks) == 10, report

    benchmark.extra_info["units_a_round"] = ORDERS
    benchmark.pedantic(check, setup=setup, rounds=200, warmup_rounds=3)
