"""How large a BUY signal becomes on a whole node: its method, what limits leave, and what it would lose at its stop.

The laws hold for any signal: at most one entry for an id, and never more at risk than was allowed.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tbx.core.model.messages import ExecuteSignal, Refusal, Signalled
from tbx.core.model.records import Order, Sizing, State
from tbx.core.risk.advice import RiskAnswer, RiskQuestion

from .desk import Desk, refused
from .test_signals import a_desk, bought, send

DEAR = "0.02451"  # the ask


def sizing_of(answer: Signalled) -> Sizing:
    assert answer.signal.sizing is not None
    return answer.signal.sizing


def lost_at_stop(desk: Desk, entry: Order, stop: Decimal) -> Decimal:
    """Of an entry that has traded: what it paid, less what its stop would bring, with the fees of both."""
    quantity = entry.filled_lots * entry.lot
    fee = desk.node.instruments[entry.exchange, entry.pair].taker_fee
    left = quantity * stop
    return entry.total_cost - left + (entry.total_cost + left) * fee


def test_kelly_follows_the_confidence_and_is_bound_by_the_signals_own_risk(tmp_path: Path) -> None:
    desk = a_desk(tmp_path, KELLY_FRACTION="0.5", INITIAL_BALANCE="5000")
    ask = Decimal(DEAR)
    stop, target = ask - Decimal("0.001"), ask + Decimal("0.002")  # b = 2
    fields = {"method": "kelly_criterion", "stop_loss": stop, "take_profit": target}
    free = sizing_of(bought(desk, confidence="0.35", max_risk="1", **fields))
    assert free.kelly_fraction == Decimal("0.025")  # 0.35 - 0.65/2
    assert Decimal("0.0124") < free.risk_percent <= Decimal("0.0125")
    assert free.cap is None
    bound = sizing_of(bought(desk, confidence="0.55", max_risk="0.001", **fields))
    assert bound.kelly_fraction == Decimal("0.325")
    assert (bound.cap, bound.win_probability) == ("maxRiskPercent", Decimal("0.55"))
    assert Decimal("0.00099") < bound.risk_percent <= Decimal("0.001")
    assert bound.raw_size > 100 * bound.recommended_size


def test_kelly_without_a_target_takes_a_gain_as_large_as_the_loss(tmp_path: Path) -> None:
    desk = a_desk(tmp_path)
    answer = bought(desk, method="kelly_criterion", confidence="0.6", take_profit=None, max_risk="0.01")
    assert sizing_of(answer).kelly_fraction == Decimal("0.2")  # 0.6 - 0.4
    assert sizing_of(answer).target_price is None
    assert any("takeProfit" in warning for warning in answer.signal.warnings)
    assert [order.role for order in answer.orders] == ["entry", "stop_loss"]
    assert refused(send(desk, method="kelly_criterion", confidence="0.5", stop_loss="0.0233")) == "NO_EDGE"


def test_volatility_gives_a_share_of_equity_once_the_book_was_watched(tmp_path: Path) -> None:
    desk = a_desk(tmp_path, TARGET_VOLATILITY="0.2", VOLATILITY_CAP="1", MAX_POSITION_SIZE="1")
    assert refused(send(desk, method="volatility_adjusted")) == "NO_VOLATILITY"
    for step in range(30):
        price = Decimal("0.0245") + (step % 2) * Decimal("0.0001")
        desk.book([(str(price - Decimal("0.00001")), "4000000")], [(str(price + Decimal("0.00001")), "4000000")])
        desk.wait(5_000)
    volatility = desk.node.statistics.volatility("xeggex", "RVN_USDT")
    assert volatility is not None and volatility > 1
    found = sizing_of(bought(desk, method="volatility_adjusted", stop_loss=None, take_profit=None, max_risk="1"))
    assert found.volatility == volatility
    share = found.recommended_size * found.entry_price / found.equity
    assert abs(float(share) - 0.2 / volatility) < 0.001


def test_without_a_stop_the_one_that_is_attached_is_sized_with(tmp_path: Path) -> None:
    desk = a_desk(tmp_path, STOP_LOSS_ENABLED="true", STOP_LOSS_PERCENT="5")
    answer = bought(desk, stop_loss=None, take_profit=None, max_risk="0.001")
    entry, stop = answer.orders
    assert stop.stop_ticks is not None
    price = stop.stop_ticks * stop.tick
    assert price == sizing_of(answer).stop_price == Decimal("0.023284")  # 5 % below the ask, on the grid
    assert any("was attached" in warning for warning in answer.signal.warnings)
    assert lost_at_stop(desk, desk.get(entry.order_id), price) <= 50


LIMITS: dict[str, tuple[dict[str, str], dict[str, Any]]] = {
    "maxRiskPerTrade": ({"MAX_RISK_PER_TRADE": "0.001"}, {"max_risk": "0.02"}),
    "maxDailyRisk": ({"MAX_DAILY_RISK": "0.001"}, {"max_risk": "0.02"}),
    "maxPositionSize": ({"MAX_POSITION_SIZE": "0.01"}, {"max_risk": "0.02"}),
    "correlatedExposure": ({"MAX_CORRELATED_EXPOSURE": "0.01"}, {"max_risk": "0.02"}),
    "balance": ({}, {"max_risk": "0.9", "exchange": "binance"}),
}


@pytest.mark.parametrize("cap", LIMITS)
def test_each_limit_that_binds_is_named_and_the_order_passes_the_checks(tmp_path: Path, cap: str) -> None:
    environment, fields = LIMITS[cap]
    desk = a_desk(tmp_path, **environment)
    answer = bought(desk, **fields)
    found = sizing_of(answer)
    assert found.cap == cap
    assert found.raw_size > found.recommended_size > 0
    assert answer.orders[0].risk is not None and answer.orders[0].risk.passed
    assert desk.get(answer.orders[0].order_id).state is State.FILLED
    desk.check()


def test_a_limit_that_leaves_nothing_is_named(tmp_path: Path) -> None:
    desk = a_desk(tmp_path, MAX_POSITION_SIZE="0.01")
    desk.order(quantity=str(int(Decimal(500) / Decimal(DEAR))))
    answer = send(desk, stop_loss="0.0233")
    assert refused(answer) in ("NO_ROOM", "BELOW_MIN_NOTIONAL", "BELOW_MIN_QUANTITY")
    assert "maxPositionSize" in answer.detail


def test_an_entry_is_sized_at_what_the_book_costs_not_at_the_best_ask(tmp_path: Path) -> None:
    desk = a_desk(tmp_path, MAX_SLIPPAGE_PERCENT="5")
    desk.book([("0.02449", "4000000")], [(DEAR, "100000"), ("0.02500", "4000000")])
    answer = bought(desk, stop_loss="0.0243", max_risk="0.01")
    found, entry = sizing_of(answer), desk.get(answer.orders[0].order_id)
    assert found.entry_price > Decimal(DEAR)
    assert entry.average_price is not None and entry.average_price <= found.entry_price
    assert lost_at_stop(desk, entry, Decimal("0.0243")) <= 500
    assert found.risk_amount <= 500


def test_what_the_book_does_not_hold_is_cut_and_said_to_be(tmp_path: Path) -> None:
    desk = a_desk(tmp_path, MAX_SLIPPAGE_PERCENT="0.5")
    desk.book([("0.02449", "4000000")], [(DEAR, "10000"), ("0.03", "4000000")])
    found = sizing_of(bought(desk))
    assert (found.recommended_size, found.cap) == (10_000, "maxSlippage")


def asked_of(desk: Desk, answer: Callable[[RiskQuestion], RiskAnswer]) -> list[RiskQuestion]:
    """A risk service that answers when the loop turns next."""
    questions: list[RiskQuestion] = []

    def ask(question: RiskQuestion, then: Callable[[RiskAnswer], None]) -> None:
        questions.append(question)
        desk.clock.call_in(1_000_000, then, answer(question))

    desk.node.advising.ask, desk.node.advising.relied_on = ask, lambda: True
    return questions


def test_what_the_risk_service_makes_of_it_shows_in_the_sizing(tmp_path: Path) -> None:
    desk = a_desk(tmp_path)
    whole = sizing_of(bought(desk)).recommended_size
    questions = asked_of(desk, lambda question: RiskAnswer(recommended=Decimal(1234)))
    answers: list[Any] = []
    answer = waited(desk, answers, client_signal_id="s")
    found = sizing_of(answer)
    assert (found.recommended_size, found.cap) == (1234, "riskService")
    assert questions[0].quantity > 1234
    assert found.risk_percent < Decimal("0.001")
    asked_of(desk, lambda question: RiskAnswer(failure="no answer"))
    fallback = sizing_of(waited(desk, answers))
    assert fallback.cap == "riskServiceFallback"
    assert fallback.recommended_size <= whole / 2


def waited(desk: Desk, answers: list[Any], **fields: Any) -> Any:
    """The answer to a signal whose order waits for the risk service; meanwhile the same one again is in progress."""
    given: dict[str, Any] = {"pair": "RVN_USDT", "exchange": "xeggex", "fingerprint": "f", **fields}
    given |= {"stop_loss": Decimal("0.0233"), "take_profit": Decimal("0.027")}
    answers.clear()
    desk.node.kernel.input(ExecuteSignal(action="BUY", reply=answers.append, **given))
    desk.clock.settle()
    assert answers == []
    if "client_signal_id" in fields:
        desk.node.kernel.input(ExecuteSignal(action="BUY", reply=answers.append, **given))
        assert refused(answers.pop()) == "IDEMPOTENCY_IN_PROGRESS"
    desk.wait(50)
    assert len(answers) == 1
    assert isinstance(answers[0], Signalled), answers
    return answers[0]


def test_a_market_that_moves_while_the_risk_service_is_asked_makes_the_order_smaller(tmp_path: Path) -> None:
    desk = a_desk(tmp_path, MAX_RISK_PER_TRADE="0.02")
    first = sizing_of(bought(desk))
    assert first.risk_percent > Decimal("0.0199")
    answers: list[Any] = []
    for outcome in (RiskAnswer(recommended=Decimal(10**9)), RiskAnswer(failure="no answer")):
        desk.book([("0.02449", "4000000")], [(DEAR, "4000000")])
        asked_of(desk, lambda question, outcome=outcome: outcome)  # type: ignore[misc]
        fields: dict[str, Any] = {"stop_loss": Decimal("0.0233"), "take_profit": Decimal("0.027")}
        answers.clear()
        desk.node.kernel.input(ExecuteSignal(pair="RVN_USDT", action="BUY", reply=answers.append, **fields))
        for exchange in ("xeggex", "binance"):
            desk.book([("0.02459", "4000000")], [("0.02461", "4000000")], exchange=exchange)
        desk.wait(50)
        assert isinstance(answers[0], Signalled), answers
        found = sizing_of(answers[0])
        assert (found.entry_price, found.stop_price) == (Decimal("0.02461"), Decimal("0.0233"))
        assert found.risk_percent <= Decimal("0.02") and found.recommended_size < first.recommended_size
    assert found.cap == "riskServiceFallback"


def test_a_crash_while_the_risk_service_is_asked_leaves_nothing(tmp_path: Path) -> None:
    desk = a_desk(tmp_path)
    asked_of(desk, lambda question: RiskAnswer(recommended=Decimal(10**9)))
    fields: dict[str, Any] = {"stop_loss": Decimal("0.0233"), "client_signal_id": "s", "fingerprint": "f"}
    desk.node.kernel.input(ExecuteSignal(pair="RVN_USDT", action="BUY", reply=print, exchange="xeggex", **fields))
    desk.clock.settle()
    desk.restart()
    assert not desk.node.signals.signals and not desk.node.orders.orders
    desk.book([("0.02449", "4000000")], [(DEAR, "4000000")])
    answer = send(desk, stop_loss="0.0233", client_signal_id="s")
    assert isinstance(answer, Signalled) and not answer.repeated


def test_without_an_exchange_it_goes_where_routing_would_send_it(tmp_path: Path) -> None:
    desk = a_desk(tmp_path)
    desk.book([], [], exchange="xeggex")
    assert bought(desk, exchange=None, max_risk="0.001").signal.exchange == "binance"
    desk.book([("0.02449", "4000000")], [(DEAR, "4000000")])
    desk.book([("0.02449", "4000000")], [(DEAR, "500")], exchange="binance")
    assert bought(desk, exchange=None, max_risk="0.001").signal.exchange == "xeggex"


prices = st.sampled_from([f"0.0{n}" for n in range(230, 262)])
signals = st.fixed_dictionaries(
    {
        "action": st.sampled_from(["BUY", "BUY", "BUY", "SELL", "HOLD", "CLOSE"]),
        "stop_loss": st.none() | prices,
        "take_profit": st.none() | prices,
        "entry_price": st.none() | prices,
        "confidence": st.none() | st.sampled_from(["0", "0.3", "0.7", "1"]),
        "max_risk": st.none() | st.sampled_from(["0.0001", "0.001", "0.01", "0.02", "0.5"]),
        "method": st.sampled_from([None, "fixed_fraction", "kelly_criterion", "volatility_adjusted"]),
        "strategy": st.sampled_from([None, "one", "two"]),
        "exchange": st.sampled_from([None, "xeggex", "binance"]),
        "client_signal_id": st.sampled_from(["a", "b", "c"]),
    }
)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(signals, st.integers(0, 3)), max_size=8), st.booleans())
def test_whatever_comes_an_id_is_one_entry_and_no_stop_loses_more_than_was_allowed(
    steps: list[tuple[dict[str, Any], int]], attached: bool
) -> None:
    limits = {"MAX_RISK_PER_TRADE": "0.015", "MAX_DAILY_RISK": "0.05", "MAX_POSITION_SIZE": "0.25"}
    with TemporaryDirectory() as folder:
        desk = a_desk(Path(folder), **limits, STOP_LOSS_ENABLED=str(attached).lower(), SIGNAL_MAX_AGE="0")
        for fields, what in steps:
            equity = desk.node.portfolio.equity(True)
            given = {name: value for name, value in fields.items() if name != "action"}
            answer = send(
                desk, fields["action"], **given, fingerprint=repr(sorted(fields.items(), key=str)), wait_ms=50
            )
            assert isinstance(answer, Signalled | Refusal)
            if isinstance(answer, Signalled) and not answer.repeated and fields["action"] == "BUY":
                entry = desk.get(answer.orders[0].order_id)
                sizing = sizing_of(answer)
                allowed = min(Decimal(fields["max_risk"] or "0.015"), Decimal("0.015")) * equity
                if sizing.stop_price is not None:
                    assert sizing.risk_amount <= allowed
                    assert lost_at_stop(desk, entry, sizing.stop_price) <= allowed
                assert entry.total_cost <= equity / 4
            if what == 3:
                desk.restart()
                for exchange in ("xeggex", "binance"):
                    desk.book([("0.02449", "4000000")], [(DEAR, "4000000")], exchange=exchange)
            desk.check()
        entries = [o for o in desk.node.orders.orders.values() if o.role == "entry" and o.signal_id is not None]
        assert len(entries) == len({o.client_order_id for o in entries}) <= 3
        assert {o.signal_id for o in entries} <= desk.node.signals.signals.keys()
