"""Signals that trade live, in virtual time on the real local exchange: exits that wait there come back for a sale."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tbx.core.model.messages import ClosePosition, ExecuteSignal, Signalled, Submitted
from tbx.core.model.records import SignalData, State

from .live_desk import BTC
from .native_desk import STOP, TARGET, NativeDesk


def signal(desk: NativeDesk, action: str, *, wait_ms: int = 100, **fields: Any) -> Any:
    given = {"pair": BTC, "fingerprint": "f", **fields}
    return desk._ask(lambda reply: ExecuteSignal(action=action, reply=reply, **given), wait_ms)  # type: ignore[arg-type]


def test_a_signal_is_bought_and_sold_live(tmp_path: Path) -> None:
    desk = NativeDesk(tmp_path)
    exits = {"stop_loss": Decimal(STOP), "take_profit": Decimal(TARGET)}
    bought = signal(desk, "BUY", max_risk=Decimal("0.0001"), client_signal_id="in", strategy="one", **exits)
    assert isinstance(bought, Signalled), bought
    desk.wait(1_000)
    assert desk.get(bought.orders[0]).state is State.FILLED
    sold = signal(desk, "SELL", strategy="one")
    assert isinstance(sold, Signalled), sold
    desk.wait(1_000)
    assert all(desk.get(order).ended for order in bought.orders)
    assert not desk.node.portfolio.open_positions(paper=False)
    desk.heal()
    desk.check_now()


@pytest.mark.parametrize("strategy", ["one", None])
def test_exits_that_wait_at_the_exchange_come_back_for_a_sale(tmp_path: Path, strategy: str | None) -> None:
    desk = NativeDesk(tmp_path)
    _, stop, target = desk.bracket(signal_data=SignalData(strategy="one"))
    desk.wait(500)
    assert desk.get(stop).at_venue and desk.get(target).at_venue
    answers: list[Any] = []
    fields: dict[str, Any] = {"pair": BTC, "client_signal_id": "out", "fingerprint": "f", "strategy": strategy}
    desk.node.kernel.input(ExecuteSignal(action="SELL", reply=answers.append, **fields))
    assert not desk.node.signals.signals, "the exchange is asked first"
    desk.node.kernel.input(ExecuteSignal(action="SELL", reply=answers.append, **fields))
    assert answers.pop().code == "IDEMPOTENCY_IN_PROGRESS"
    desk.wait(1_000)
    (sold,) = answers
    assert isinstance(sold, Signalled), sold
    assert sold.orders[0].client_order_id == "signal:out"
    assert desk.get(sold.orders[0]).state is State.FILLED
    assert desk.get(stop).ended and desk.get(target).ended
    assert not desk.node.portfolio.open_positions(paper=False)
    again = signal(desk, "SELL", client_signal_id="out", strategy=strategy)
    assert again.repeated and again.signal.signal_id == sold.signal.signal_id
    desk.heal()
    desk.check_now()


def test_a_paper_position_beside_a_live_one_is_sold_on_paper(tmp_path: Path) -> None:
    desk = NativeDesk(tmp_path)
    desk.node.portfolio.deposit("paper.binance", "USDT", Decimal(10_000))
    desk.order("buy", "0.01")
    desk.order("buy", "0.02", paper=True)
    (paper,) = desk.node.portfolio.open_positions(paper=True)
    (live,) = desk.node.portfolio.open_positions(paper=False)
    before = live.quantity
    answer = desk._ask(lambda reply: ClosePosition(position_id=paper.position_id, reply=reply), 100)
    assert isinstance(answer, Submitted) and answer.order.paper
    desk.order("buy", "0.02", paper=True)
    assert isinstance(signal(desk, "SELL", paper=True), Signalled)
    desk.wait(100)
    assert not desk.node.portfolio.open_positions(paper=True)
    assert live.quantity == before > 0
