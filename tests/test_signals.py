"""Signals on a whole node in virtual time: what each becomes, how large, and why not."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tbx.core.kernel.clock import MS_NS
from tbx.core.model.messages import ExecuteSignal, Signalled
from tbx.core.model.records import State
from tbx.core.risk.advice import RiskAnswer

from .desk import RVN, Desk, refused

DEEP = ([("0.02449", "4000000")], [("0.02451", "4000000")])
NUMBERS = ("confidence", "entry_price", "stop_loss", "take_profit", "max_risk")


def a_desk(folder: Path, **settings: str) -> Desk:
    """Deep books, no fees in the way of round figures unless a test looks at them."""
    desk = Desk(folder, **settings)
    for exchange in ("xeggex", "binance"):
        desk.book(*DEEP, exchange=exchange)
    desk.clock.settle()
    return desk


def send(desk: Desk, action: str = "BUY", *, wait_ms: int = 0, **fields: Any) -> Any:
    """Signalled or Refusal; RVN at xeggex unless told otherwise."""
    given: dict[str, Any] = {"pair": RVN, "exchange": "xeggex", "fingerprint": "f", **fields}
    for name in NUMBERS:
        if isinstance(given.get(name), str):
            given[name] = Decimal(given[name])
    return desk._ask(lambda reply: ExecuteSignal(action=action, reply=reply, **given), wait_ms)  # type: ignore[arg-type]


def bought(desk: Desk, *, wait_ms: int = 50, **fields: Any) -> Signalled:
    answer = send(desk, wait_ms=wait_ms, **({"stop_loss": "0.0233", "take_profit": "0.027"} | fields))
    assert isinstance(answer, Signalled), answer
    return answer


def kept(desk: Desk) -> dict[str, Any]:
    """What is committed of signals, by our id."""
    return {key: json.loads(raw) for key, raw in desk.store.tables.get("signals", {}).items()}


def committed_together(desk: Desk, *kinds: str) -> bool:
    """Whether one commit holds events of all these kinds."""
    return any(set(kinds) <= {event["type"] for event in json.loads(raw)} for _, raw in desk.store.journal)


def test_a_buy_becomes_one_bracket_sized_by_its_stop(tmp_path: Path) -> None:
    desk = a_desk(tmp_path)
    answer = bought(desk, confidence="0.82", source="ml", strategy="ensemble", max_risk="0.02")
    entry, stop, target = answer.orders
    signal = answer.signal
    assert (entry.side, entry.type, entry.state, entry.role) == ("buy", "market", State.SENT, "entry")
    assert (stop.type, stop.state, target.type, target.state) == ("stop_loss", State.HELD, "take_profit", State.HELD)
    assert [order.signal_id for order in answer.orders] == [signal.signal_id] * 3
    assert entry.signal_data is not None and entry.signal_data.strategy == "ensemble"
    assert signal.order_ids == (entry.order_id, entry.stop_loss_id, entry.take_profit_id)
    sizing = signal.sizing
    assert sizing is not None
    assert (sizing.method, sizing.cap, sizing.entry_price) == ("fixed_fraction", None, Decimal("0.02451"))
    fee = desk.node.instruments["xeggex", RVN].taker_fee
    unit = Decimal("0.02451") - Decimal("0.0233") + fee * (Decimal("0.02451") + Decimal("0.0233"))
    assert sizing.recommended_size == entry.qty_lots * entry.lot
    assert sizing.risk_amount == sizing.recommended_size * unit
    assert Decimal(1000) - unit * entry.lot < sizing.risk_amount <= 1000  # 2 % of 50,000
    assert desk.get(entry.order_id).state is State.FILLED
    assert committed_together(desk, "OrderSubmitted", "OrderPending", "SignalExecuted")
    assert kept(desk)[signal.signal_id]["status"] == "executed"
    desk.check()


def test_hold_is_noted_and_orders_nothing(tmp_path: Path) -> None:
    desk = a_desk(tmp_path)
    answer = send(desk, "HOLD", confidence="0.4")
    assert isinstance(answer, Signalled)
    assert (answer.signal.status, answer.orders, len(desk.node.orders.orders)) == ("held", (), 0)
    assert [kind for kind, _ in desk.events("signals")] == ["SignalHeld"]


BAD = {
    "stop above entry": ({"entry_price": "0.0245", "stop_loss": "0.025"}, "CONTRADICTORY_SIGNAL"),
    "target below entry": ({"entry_price": "0.0245", "take_profit": "0.024"}, "CONTRADICTORY_SIGNAL"),
    "stop above target": ({"stop_loss": "0.026", "take_profit": "0.0255"}, "CONTRADICTORY_SIGNAL"),
    "stop above the market": ({"stop_loss": "0.0246", "take_profit": "0.027"}, "CONTRADICTORY_SIGNAL"),
    "target under the market": ({"stop_loss": "0.02", "take_profit": "0.0245"}, "CONTRADICTORY_SIGNAL"),
    "stop at the entry": ({"entry_price": "0.0245", "stop_loss": "0.0245"}, "ZERO_STOP_DISTANCE"),
    "stop at the market": ({"stop_loss": "0.02451"}, "ZERO_STOP_DISTANCE"),
    "no stop to size by": ({"stop_loss": None}, "STOP_REQUIRED"),
    "no confidence for kelly": ({"method": "kelly_criterion"}, "CONFIDENCE_REQUIRED"),
    "nothing to be won": ({"method": "kelly_criterion", "confidence": "0.1"}, "NO_EDGE"),
    "volatility not known": ({"method": "volatility_adjusted"}, "NO_VOLATILITY"),
    "an unknown pair": ({"pair": "ABC_USDT"}, "INVALID_PAIR"),
    "not at this exchange": ({"exchange": "nowhere"}, "INVALID_EXCHANGE"),
    "a stop off the grid": ({"stop_loss": "0.02330000000001"}, "PRICE_STEP"),
    "too little": ({"max_risk": "0.0000000001"}, "BELOW_MIN_QUANTITY"),
}


@pytest.mark.parametrize("row", BAD)
def test_a_signal_that_makes_no_sense_is_refused_and_on_record(tmp_path: Path, row: str) -> None:
    desk = a_desk(tmp_path)
    fields, code = BAD[row]
    answer = send(desk, **({"stop_loss": "0.0233"} | fields), client_signal_id="s")
    assert refused(answer) == code
    assert answer.status == 422
    record = kept(desk)[answer.signal_id]
    assert (record["status"], record["code"], record["reason"]) == ("rejected", code, answer.detail)
    assert [kind for kind, _ in desk.events("signals")] == ["SignalRejected"]
    assert not desk.node.orders.orders
    again = send(desk, **({"stop_loss": "0.0233"} | fields), client_signal_id="s")
    assert (again.code, again.detail, again.signal_id) == (code, answer.detail, answer.signal_id)
    assert len(kept(desk)) == 1


def test_a_signal_from_another_time_is_refused(tmp_path: Path) -> None:
    desk = a_desk(tmp_path, SIGNAL_MAX_AGE="1000")
    now_ns = desk.clock.now_ns()
    rows = (
        ({"timestamp_ns": now_ns - 1001 * MS_NS}, "SIGNAL_EXPIRED"),
        ({"expires_ns": now_ns}, "SIGNAL_EXPIRED"),
        ({"timestamp_ns": now_ns + 5001 * MS_NS}, "SIGNAL_FROM_FUTURE"),
    )
    for fields, code in rows:
        assert refused(send(desk, stop_loss="0.0233", **fields)) == code
    answer = send(desk, stop_loss="0.0233", timestamp_ns=now_ns - 1000 * MS_NS, expires_ns=now_ns + MS_NS)
    assert isinstance(answer, Signalled)


def test_an_entry_price_of_another_market_is_refused(tmp_path: Path) -> None:
    desk = a_desk(tmp_path, PRICE_COLLAR_PERCENT="10")
    assert refused(send(desk, entry_price="0.03", stop_loss="0.0233")) == "ENTRY_PRICE_AWAY"
    assert isinstance(send(desk, entry_price="0.025", stop_loss="0.0233"), Signalled)


def test_without_a_book_nothing_is_kept_and_the_same_signal_may_come_again(tmp_path: Path) -> None:
    desk = a_desk(tmp_path)
    desk.clock.advance(3_000 * MS_NS)
    answer = send(desk, stop_loss="0.0233", client_signal_id="s")
    assert (refused(answer), answer.status) == ("NO_MARKET_DATA", 503)
    assert not kept(desk)
    desk.book(*DEEP)
    assert isinstance(send(desk, stop_loss="0.0233", client_signal_id="s"), Signalled)


def test_without_equity_nothing_is_bought(tmp_path: Path) -> None:
    desk = a_desk(tmp_path)
    for balance in list(desk.node.ledger):
        desk.node.portfolio.deposit(balance.wallet, balance.currency, -balance.total)
    assert refused(send(desk, stop_loss="0.0233")) == "NO_EQUITY"


def test_a_flood_is_refused_without_a_trace_and_others_are_not_harmed(tmp_path: Path) -> None:
    desk = a_desk(tmp_path, ORDER_RATE_LIMIT="5")
    answers = [send(desk, "HOLD", strategy="mad") for _ in range(20)]
    refusals = [answer for answer in answers if not isinstance(answer, Signalled)]
    assert [(refused(answer), answer.status) for answer in refusals] == [("ORDER_RATE", 429)] * 15
    assert len(kept(desk)) == 5 == len(desk.events("signals"))
    assert isinstance(send(desk, stop_loss="0.0233", strategy="calm"), Signalled)
    desk.wait(1_000)
    assert isinstance(send(desk, "HOLD", strategy="mad"), Signalled)


def test_while_the_store_is_away_nothing_is_taken(tmp_path: Path) -> None:
    desk = a_desk(tmp_path)
    desk.store.down = True
    desk.node.kernel.outbox.put("meta", "x", {"a": 1})
    desk.node.kernel.flush_soon()
    desk.wait()
    answer = send(desk, stop_loss="0.0233", client_signal_id="s")
    assert (refused(answer), answer.status) == ("STORE_UNAVAILABLE", 503)
    desk.store.down = False
    desk.wait(1_000)
    assert isinstance(send(desk, stop_loss="0.0233", client_signal_id="s"), Signalled)


def test_the_same_signal_twice_is_one_order(tmp_path: Path) -> None:
    desk = a_desk(tmp_path)
    first = bought(desk, client_signal_id="s-1")
    again = bought(desk, client_signal_id="s-1")
    assert again.repeated and not first.repeated
    assert again.signal.signal_id == first.signal.signal_id
    assert again.orders[0].state is State.FILLED
    assert first.orders[0].client_order_id == "signal:s-1"
    assert sum(order.role == "entry" for order in desk.node.orders.orders.values()) == 1
    assert refused(send(desk, stop_loss="0.0233", client_signal_id="s-1", fingerprint="g")) == "IDEMPOTENCY_MISMATCH"


def test_a_signal_whose_commit_is_under_way_is_in_progress(tmp_path: Path) -> None:
    desk = a_desk(tmp_path)
    answers: list[Any] = []

    def make() -> ExecuteSignal:
        fields = {"stop_loss": Decimal("0.0233"), "client_signal_id": "s", "fingerprint": "f"}
        return ExecuteSignal(pair=RVN, action="BUY", reply=answers.append, exchange="xeggex", **fields)  # type: ignore[arg-type]

    desk.node.kernel.input(make())
    desk.node.kernel.input(make())
    assert [answer.code for answer in answers] == ["IDEMPOTENCY_IN_PROGRESS"]
    desk.clock.settle()
    assert isinstance(answers[1], Signalled)


def test_a_signal_survives_a_restart(tmp_path: Path) -> None:
    desk = a_desk(tmp_path)
    first = bought(desk, client_signal_id="s-1")
    desk.restart()
    again = bought(desk, client_signal_id="s-1")
    assert again.repeated
    assert (again.signal.signal_id, again.signal.sizing) == (first.signal.signal_id, first.signal.sizing)
    assert [o.order_id for o in again.orders] == [o.order_id for o in first.orders]
    second = send(desk, "HOLD")
    assert second.signal.signal_id > first.signal.signal_id


def test_a_signal_that_waited_is_kept_in_the_order_of_ids_and_leaves_before_younger_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = a_desk(tmp_path)
    waiting: list[Any] = []
    desk.node.advising.ask, desk.node.advising.relied_on = (lambda _, done: waiting.append(done)), lambda: True
    for _ in range(2):
        desk.node.kernel.input(ExecuteSignal(pair=RVN, action="BUY", reply=print, stop_loss=Decimal("0.0233")))
        send(desk, "HOLD")
    waiting[1](RiskAnswer(recommended=Decimal(10**9)))
    desk.clock.settle()
    assert [name[-3:] for name in desk.node.signals.signals] == ["002", "003", "004"]
    monkeypatch.setattr("tbx.strategies_bridge.signals.KEPT_MAX", 3)
    send(desk, "HOLD")
    waiting[0](RiskAnswer(recommended=Decimal(10**9)))
    desk.clock.settle()
    assert [name[-3:] for name in desk.node.signals.signals] == ["003", "004", "005"]
    assert kept(desk).keys() == set(desk.node.signals.signals)
    desk.restart()
    assert [name[-3:] for name in desk.node.signals.signals] == ["003", "004", "005"]


def test_a_signal_that_has_left_memory_is_still_known_by_its_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tbx.strategies_bridge.signals.KEPT_MAX", 2)
    desk = a_desk(tmp_path)
    first = bought(desk, client_signal_id="s-1")
    for _ in range(3):
        send(desk, "HOLD")
    assert len(kept(desk)) == 2 and first.signal.signal_id not in kept(desk)
    again = bought(desk, client_signal_id="s-1")
    assert again.repeated
    assert again.signal.signal_id == first.signal.signal_id
    assert [o.order_id for o in again.orders] == [o.order_id for o in first.orders]
    assert refused(send(desk, stop_loss="0.02", client_signal_id="s-1", fingerprint="g")) == "IDEMPOTENCY_MISMATCH"
