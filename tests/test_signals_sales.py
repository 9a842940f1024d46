"""SELL and CLOSE signals on a whole node in virtual time: what is sold, whose it is, and what is taken back first."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

from tbx.core.model.messages import ExecuteSignal, Signalled
from tbx.core.model.records import SignalData, State
from tbx.core.risk.advice import RiskAnswer

from .desk import RVN, Desk, refused
from .test_signals import DEEP, a_desk, bought, kept, send


def held(desk: Desk, exchange: str = "xeggex") -> Decimal:
    position = desk.node.portfolio.position(f"paper.{exchange}", RVN)
    return Decimal(0) if position is None else position.quantity


def test_a_sale_sells_all_that_is_held_and_its_exits_end(tmp_path: Path) -> None:
    desk = a_desk(tmp_path)
    first = bought(desk)
    quantity = held(desk)
    answer = send(desk, "SELL", wait_ms=50)
    assert isinstance(answer, Signalled)
    (order,) = answer.orders
    assert (order.side, order.role, order.signal_id) == ("sell", "close", answer.signal.signal_id)
    assert order.qty_lots * order.lot == quantity
    sizing = answer.signal.sizing
    assert sizing is not None and (sizing.method, sizing.recommended_size) == ("position", quantity)
    assert (answer.signal.exchange, answer.signal.status) == ("xeggex", "executed")
    assert held(desk) == 0
    assert all(desk.get(order.order_id).ended for order in first.orders)
    desk.check()


def test_a_strategy_sells_its_own_coins_only(tmp_path: Path) -> None:
    desk = a_desk(tmp_path)
    desk.order(quantity="1000", signal_data=SignalData(strategy="one"))
    desk.order(quantity="300", signal_data=SignalData(strategy="two"))
    desk.order(quantity="50")
    answer = send(desk, "CLOSE", strategy="two", wait_ms=50)
    assert answer.signal.sizing.recommended_size == 300
    ledgers = desk.node.subledgers
    shares = [ledgers.quantity(name, "paper.xeggex", RVN) for name in ("one", "two", "")]
    assert shares == [1000, 0, 50]
    assert refused(send(desk, "CLOSE", strategy="two")) == "NOTHING_TO_SELL"
    assert refused(send(desk, "SELL", strategy="three")) == "NOTHING_TO_SELL"
    assert send(desk, "SELL", wait_ms=50).signal.sizing.recommended_size == 1050
    desk.check()


def test_open_buys_are_taken_back_first(tmp_path: Path) -> None:
    desk = a_desk(tmp_path)
    own = desk.order(type="limit", price="0.02", signal_data=SignalData(strategy="one"))
    other = desk.order(type="limit", price="0.02", signal_data=SignalData(strategy="two"))
    answer = send(desk, "CLOSE", strategy="one", wait_ms=50)
    assert (answer.signal.status, answer.orders) == ("executed", ())
    assert answer.signal.warnings == (f"open buys were cancelled: {own.order_id}",)
    assert (desk.get(own.order_id).state, desk.get(other.order_id).state) == (State.CANCELLED, State.LIVE)
    assert kept(desk)[answer.signal.signal_id]["status"] == "executed"


def test_a_buy_that_waits_for_the_risk_service_is_taken_back_by_a_sale(tmp_path: Path) -> None:
    desk = a_desk(tmp_path)
    waiting: list[Callable[[RiskAnswer], None]] = []
    desk.node.advising.ask, desk.node.advising.relied_on = (lambda _, done: waiting.append(done)), lambda: True
    answers: dict[str, list[Any]] = {"one": [], "two": []}
    for name, answered in answers.items():
        fields: dict[str, Any] = {"strategy": name, "client_signal_id": f"buy-{name}", "fingerprint": "f"}
        fields |= {"exchange": "xeggex", "stop_loss": Decimal("0.0233"), "max_risk": Decimal("0.001")}
        desk.node.kernel.input(ExecuteSignal(pair=RVN, action="BUY", reply=answered.append, **fields))
    desk.clock.settle()
    sale = send(desk, "CLOSE", strategy="one")
    assert (sale.signal.status, sale.orders) == ("executed", ())
    assert "were taken back: SIG_" in sale.signal.warnings[0]
    waiting[0](RiskAnswer(failure="no answer"))
    waiting[1](RiskAnswer(recommended=Decimal(10**9)))
    desk.wait(50)
    assert refused(answers["one"][0]) == "SIGNAL_WITHDRAWN"
    assert isinstance(answers["two"][0], Signalled)
    assert [desk.node.subledgers.quantity(name, "paper.xeggex", RVN) > 0 for name in answers] == [False, True]
    fields |= {"strategy": "one", "client_signal_id": "buy-one"}
    again = desk._ask(lambda reply: ExecuteSignal(pair=RVN, action="BUY", reply=reply, **fields), 0)
    assert refused(again) == "SIGNAL_WITHDRAWN"
    assert refused(send(desk, "CLOSE", strategy="one")) == "NOTHING_TO_SELL"
    desk.check()


def test_a_position_at_several_exchanges_is_sold_at_each(tmp_path: Path) -> None:
    desk = a_desk(tmp_path)
    desk.order(quantity="1000")
    desk.order(quantity="500", exchange="binance")
    answer = send(desk, "SELL", exchange=None, client_signal_id="s", wait_ms=50)
    sold = [(o.exchange, o.client_order_id, o.qty_lots * o.lot) for o in answer.orders]
    assert sold == [
        ("binance", "signal:s", Decimal("499.5")),
        ("xeggex", "signal:s:xeggex", 1000),
    ]  # its fee is in coins
    assert answer.signal.order_ids == tuple(o.order_id for o in answer.orders)
    assert answer.signal.sizing.recommended_size == Decimal("1499.5")
    assert (held(desk), held(desk, "binance")) == (0, 0)
    again = send(desk, "SELL", exchange=None, client_signal_id="s")
    assert again.repeated and [o.state for o in again.orders] == [State.FILLED, State.FILLED]


def test_a_sale_at_one_exchange_leaves_the_other_alone(tmp_path: Path) -> None:
    desk = a_desk(tmp_path)
    desk.order(quantity="1000")
    desk.order(quantity="500", exchange="binance")
    send(desk, "SELL", exchange="binance", wait_ms=50)
    assert (held(desk), held(desk, "binance")) == (1000, 0)


def test_coins_of_an_exchange_that_is_not_connected_any_more_are_left_and_halt_nothing(tmp_path: Path) -> None:
    desk = a_desk(tmp_path)
    for exchange in ("xeggex", "binance"):
        desk.order(exchange=exchange, signal_data=SignalData(strategy="one"))
    desk.restart()  # with a market that lists it at one of them
    engine = desk.node.engine
    engine.instruments = {key: i for key, i in engine.instruments.items() if key != ("xeggex", RVN)}
    desk.book(*DEEP, exchange="binance")
    position = desk.node.portfolio.position("paper.xeggex", RVN)
    assert position is not None
    assert refused(desk.close(position.position_id)) == "MARKET_CLOSED"
    answer = send(desk, "SELL", exchange=None, wait_ms=50)
    assert [order.exchange for order in answer.orders] == ["binance"]
    assert refused(send(desk, "SELL", exchange=None, strategy="one")) == "NOTHING_TO_SELL"
    assert held(desk, "xeggex") > 0
    assert desk.faults == []


def test_stop_and_target_of_a_sale_are_looked_at_and_not_used(tmp_path: Path) -> None:
    desk = a_desk(tmp_path)
    desk.order(quantity="1000")
    assert refused(send(desk, "SELL", stop_loss="0.02", take_profit="0.03")) == "CONTRADICTORY_SIGNAL"
    assert refused(send(desk, "SELL", entry_price="0.0245", stop_loss="0.024")) == "CONTRADICTORY_SIGNAL"
    answer = send(desk, "SELL", stop_loss="0.03", take_profit="0.02", wait_ms=50)
    assert answer.signal.warnings == (
        "stopLoss and takeProfit were not used: a spot sale opens no position to protect",
    )
    assert held(desk) == 0


def test_dust_is_left_and_said_to_be(tmp_path: Path) -> None:
    desk = a_desk(tmp_path)
    lot = desk.node.instruments["binance", RVN].lot
    desk.order(quantity=str(3001 * lot), exchange="binance", signal_data=SignalData(strategy="one"))
    answer = send(desk, "SELL", exchange="binance", strategy="one", wait_ms=50)
    assert answer.signal.sizing.recommended_size == 2997 * lot
    assert 0 < held(desk, "binance") < lot
    assert refused(send(desk, "SELL", exchange="binance", strategy="one")) == "NOTHING_TO_SELL"
    assert refused(send(desk, "SELL", exchange="binance")) == "NOTHING_TO_SELL"


def test_a_second_sale_while_one_is_under_way_may_come_again(tmp_path: Path) -> None:
    desk = a_desk(tmp_path)
    desk.order(quantity="1000")
    send(desk, "SELL")
    answer = send(desk, "SELL", client_signal_id="s")
    assert (refused(answer), answer.status) == ("ORDER_IN_FLIGHT", 409)
    assert len(kept(desk)) == 1
    desk.wait()
    assert refused(send(desk, "SELL", client_signal_id="s")) == "NOTHING_TO_SELL"


def test_what_a_strategy_offers_elsewhere_is_not_sold_once_more_out_of_others_coins(tmp_path: Path) -> None:
    desk = a_desk(tmp_path)
    one = SignalData(strategy="one")
    desk.order(quantity="2000", signal_data=one)
    desk.order(quantity="2000", signal_data=SignalData(strategy="two"))
    desk.order("sell", "1500", type="limit", price="0.0300", signal_data=one)
    answer = send(desk, "CLOSE", strategy="one", wait_ms=50)
    assert [order.qty_lots * order.lot for order in answer.orders] == [500]
    assert desk.node.subledgers.quantity("one", "paper.xeggex", RVN) == 1500
    assert desk.node.subledgers.quantity("two", "paper.xeggex", RVN) == 2000
    assert refused(send(desk, "CLOSE", strategy="one")) == "BELOW_MIN_QUANTITY"
    desk.check()
