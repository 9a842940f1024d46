"""The risk service's word on an entry: asked when and about what, and what its answer, or none, makes of the order."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tbx.core.model.messages import SubmitOrder, Submitted
from tbx.core.model.records import State
from tbx.core.risk.advice import RiskAnswer, RiskQuestion
from tbx.core.risk.guard import TradingState

from .desk import RVN, Desk, refused


class Service:
    """Keeps what it is asked, until the test answers."""

    def __init__(self, desk: Desk, relied_on: bool = True) -> None:
        self.desk = desk
        self.asked: list[tuple[RiskQuestion, Callable[[RiskAnswer], None]]] = []
        desk.node.advising.ask = lambda question, done: self.asked.append((question, done))
        desk.node.advising.relied_on = lambda: relied_on

    def answer(self, recommended: str | None = None, failure: str = "") -> None:
        _, done = self.asked.pop(0)
        done(RiskAnswer(recommended=None if recommended is None else Decimal(recommended), failure=failure))
        self.desk.clock.settle()


def send(desk: Desk, answers: list[Any], **more: Any) -> None:
    fields = {"pair": RVN, "type": "market", "exchange": "xeggex", "side": "buy", "quantity": Decimal(1000)}
    desk.node.kernel.input(SubmitOrder(**fields | {"reply": answers.append} | more))
    desk.clock.settle()


def decided(desk: Desk, recommended: str | None = None, failure: str = "", **more: Any) -> Any:
    """What is answered once the service has answered."""
    service, answers = Service(desk), []
    send(desk, answers, **more)
    assert answers == [] and len(service.asked) == 1 and not desk.node.orders.open
    service.answer(recommended, failure)
    assert len(answers) == 1
    return answers[0]


def test_an_entry_within_the_recommendation_goes_out_as_it_is(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    answer = decided(desk, "1000")
    assert isinstance(answer, Submitted) and answer.order.qty_lots * answer.order.lot == 1000
    risk = answer.order.risk
    assert risk.passed and not risk.fallback and risk.adjusted_order is None
    assert (risk.checks[-1].name, risk.checks[-1].limit, risk.checks[-1].actual) == ("riskService", 1000, 1000)
    desk.check()


def test_a_recommendation_of_hundreds_of_digits_is_shown_shortly(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    tiny = decided(desk, "1e-300")
    assert "recommends 1e-300 RVN at most; that is under" in tiny.detail
    adjusted = decided(desk, "400." + "3" * 400).order.risk.adjusted_order
    assert "recommends 400.333 RVN at most" in adjusted.reason


def test_a_larger_one_is_cut_to_the_recommendation_and_says_so(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    answer = decided(desk, "400.7")
    order = answer.order
    quantity = order.qty_lots * order.lot
    assert Decimal(400) <= quantity <= Decimal("400.7")
    adjusted = order.risk.adjusted_order
    assert (adjusted.quantity, adjusted.requested_quantity) == (quantity, 1000)
    assert order.risk.position_size_check == "adjusted" and "recommends 400.7 RVN at most" in adjusted.reason
    desk.check()


def test_with_refuse_it_is_not_cut_but_refused_and_on_record(tmp_path: Path) -> None:
    desk = Desk(tmp_path, RISK_OVERSIZE="refuse")
    answer = decided(desk, "400")
    assert refused(answer) == "RISK_SERVICE_REFUSED" and answer.order.state is State.REJECTED
    assert answer.order.qty_lots * answer.order.lot == 1000 and not desk.node.orders.open
    assert answer.order.risk.checks[-1].limit == 400


@pytest.mark.parametrize("recommended", ["0", "0.000001"])
def test_a_recommendation_that_cannot_be_ordered_refuses(tmp_path: Path, recommended: str) -> None:
    desk = Desk(tmp_path)
    answer = decided(desk, recommended)
    assert refused(answer) == "RISK_SERVICE_REFUSED" and "under the least quantity" in answer.detail
    desk.check()


@pytest.mark.parametrize("recommended", [None, "1000", "5000"])
def test_a_no_of_the_service_refuses_whatever_size_it_names_beside_it(tmp_path: Path, recommended: str | None) -> None:
    desk = Desk(tmp_path)
    service, answers = Service(desk), []
    send(desk, answers)
    _, done = service.asked.pop()
    size = None if recommended is None else Decimal(recommended)
    done(RiskAnswer(recommended=size, approved=False, reason="not today"))
    desk.clock.settle()
    assert refused(answers[0]) == "RISK_SERVICE_REFUSED" and "refuses the order: not today" in answers[0].detail
    assert not desk.node.orders.open


def test_with_a_no_a_smaller_size_goes_out(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    service, answers = Service(desk), []
    send(desk, answers)
    _, done = service.asked.pop()
    done(RiskAnswer(recommended=Decimal(300), approved=False, reason="too large"))
    desk.clock.settle()
    assert answers[0].order.qty_lots * answers[0].order.lot == 300


def test_without_an_answer_half_of_it_goes_out_marked_as_fallback(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    answer = decided(desk, failure="no answer in 500 ms")
    order = answer.order
    assert order.qty_lots * order.lot == 500 and order.risk.fallback
    assert "no answer in 500 ms" in order.risk.adjusted_order.reason
    desk.wait()
    assert desk.total("RVN") == 500
    desk.check()


def test_what_reduces_or_protects_is_never_asked_about(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    order = desk.order("buy", "5000", stop_loss="0.0240")
    service = Service(desk)
    desk.order("sell", "1000")
    desk.close(desk.node.portfolio.open_positions(True)[0].position_id, "1000")
    desk.price("0.02390", "0.02395")
    desk.wait(200)
    assert desk.get(order.stop_loss_id).state is State.FILLED and desk.total("RVN") == 0
    assert service.asked == []


def test_a_stop_sells_while_an_entry_waits_for_its_answer(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    order = desk.order("buy", "5000", stop_loss="0.0240")
    service, answers = Service(desk), []
    send(desk, answers)
    desk.price("0.02390", "0.02395")
    desk.wait(200)
    assert desk.get(order.stop_loss_id).state is State.FILLED and answers == []
    service.answer("1000")
    assert isinstance(answers[0], Submitted)


def test_a_service_that_nobody_relies_on_and_risk_check_false_are_not_asked(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    service = Service(desk, relied_on=False)
    assert isinstance(desk.submit("buy"), Submitted)
    desk.node.advising.relied_on = lambda: True
    assert isinstance(desk.submit("buy", risk_check=False), Submitted)
    assert service.asked == []


def test_an_order_that_local_checks_refuse_is_not_asked_about(tmp_path: Path) -> None:
    desk = Desk(tmp_path, MAX_POSITION_SIZE="0.0001")
    service = Service(desk)
    assert refused(desk.submit("buy")) == "RISK_POSITION_SIZE" and service.asked == []


def test_the_same_request_again_while_the_first_waits_makes_no_second_order(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    service, answers = Service(desk), []
    same = {"client_order_id": "C1", "fingerprint": "f"}
    send(desk, answers, **same)
    send(desk, answers, **same)
    send(desk, answers, client_order_id="C1", fingerprint="other")
    assert [refused(answer) for answer in answers] == ["IDEMPOTENCY_IN_PROGRESS", "IDEMPOTENCY_MISMATCH"]
    assert answers[0].status == 409 and len(service.asked) == 1
    service.answer("1000")
    assert isinstance(answers[2], Submitted)
    send(desk, answers, **same)
    assert answers[3].repeated and answers[3].order.order_id == answers[2].order.order_id
    assert len(desk.node.orders.orders) == 1
    desk.check()


def test_what_counts_is_the_market_when_the_answer_is_there_not_when_it_was_asked_for(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    service, answers = Service(desk), []
    send(desk, answers, stop_loss=Decimal("0.0240"))
    desk.price("0.0238", "0.0239")
    service.answer("1000")
    assert refused(answers[0]) == "INVALID_STOP"


def test_the_question_holds_what_the_manual_asks(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    service, answers = Service(desk), []
    send(desk, answers, stop_loss=Decimal("0.0240"), take_profit=Decimal("0.0260"))
    question, _ = service.asked[0]
    assert (question.pair, question.side, question.quantity) == (RVN, "buy", 1000)
    assert (question.entry_price, question.stop_loss, question.take_profit) == (
        Decimal("0.02451"),
        Decimal("0.0240"),
        Decimal("0.0260"),
    )


def test_what_is_recommended_instead_of_a_refused_order_is_no_more_than_the_service_says(tmp_path: Path) -> None:
    desk = Desk(tmp_path, RISK_OVERSIZE="refuse")
    answer = decided(desk, "400.007")
    assert refused(answer) == "RISK_SERVICE_REFUSED" and answer.order.risk.recommended_size == 400


def test_a_fault_after_the_answer_halts_trading_as_any_other_does(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    service = Service(desk)

    def broken() -> Decimal:
        raise RuntimeError("a bug")

    send(desk, [], refit=broken)
    service.answer("400")
    assert desk.node.guard.state is TradingState.HALTED and "a bug" in desk.faults[0]
