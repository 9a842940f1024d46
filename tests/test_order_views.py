"""Orders and fills as the API shows them."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tbx.core.kernel.outbox import encode_document
from tbx.core.model.exact import tidy
from tbx.core.model.messages import Submitted
from tbx.core.model.order_views import (
    STATUS,
    average_price,
    fill_view,
    number,
    order_detail,
    order_placed,
    order_update,
    order_view,
)
from tbx.core.model.records import Fill, Order, RiskValidation, State

from .test_queries import a_fill, an_order

pytestmark = pytest.mark.orders
RISK = RiskValidation(True, "approved", "approved", Decimal(5000), Decimal("122.5"))


def shown(document: object) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode(encode_document(document))
    return found


def fill(order: Order, ticks: int, lots: int, fee: str, currency: str) -> Fill:
    return msgspec.structs.replace(
        a_fill(order, 1), price_ticks=ticks, qty_lots=lots, fee=Decimal(fee), fee_currency=currency
    )


def test_every_state_has_a_status_of_the_api() -> None:
    assert STATUS.keys() == set(State)
    before_the_end = (State.HELD, State.SENT, State.LIVE, State.PART)
    assert [STATUS[state] for state in before_the_end] == ["pending", "submitted", "open", "partial"]


@given(st.integers(0, 10**15), st.sampled_from(["1", "0.1", "0.00000001", "0.5", "0.25", "10", "100", "0.020"]))
def test_a_number_is_exact_and_plain(steps: int, step: str) -> None:
    value = number(steps, Decimal(step))
    assert value == steps * Decimal(step)
    text = str(value)
    assert float(msgspec.json.decode(encode_document(value))) == float(value)
    assert "E+" not in text


@pytest.mark.parametrize(("value", "text"), [("5000.00", "5000"), ("5E+3", "5000"), ("0.0250", "0.025"), ("0E-8", "0")])
def test_neat_takes_off_zeros_and_exponents(value: str, text: str) -> None:
    assert str(tidy(Decimal(value))) == text


def test_an_average_is_exact_where_it_ends_and_rounded_where_it_does_not() -> None:
    assert average_price(an_order(1, cost=245 * 10)) == Decimal("0.0245")
    assert average_price(an_order(1, cost=1, filled_lots=3)) == Decimal("0.000033333333")
    assert average_price(an_order(1, filled_lots=0)) is None


def test_an_update_is_compact_and_does_not_follow_the_order() -> None:
    order = an_order(1, state=State.PART, qty_lots=20, cost=2450, updated_ns=5_000_000, price_ticks=250)
    update = order_update(order)
    order.state = State.FILLED
    said = {"status": "partial", "filledQuantity": 1, "averagePrice": 0.0245, "timestamp": 5}
    assert shown(update) | said == shown(update)


def test_the_answer_to_a_market_order_shows_no_price() -> None:
    order = an_order(1, state=State.SENT, filled_lots=0, price_ticks=245, risk=RISK)
    placed = shown(order_placed(Submitted(order, False, Decimal("122.50"), Decimal("0.1200"))))
    assert (placed["status"], placed["price"], placed["averagePrice"]) == ("submitted", None, None)
    assert (placed["estimatedCost"], placed["estimatedFees"]) == (122.5, 0.12)
    assert placed["riskValidation"]["recommendedSize"] == 5000
    order.type = "limit"
    assert shown(order_placed(Submitted(order)))["price"] == 0.0245


def test_fees_are_one_figure_in_quote_and_a_table_by_currency() -> None:
    order = an_order(1, cost=2450, fees={"USDT": Decimal("0.1"), "RVN": Decimal(2), "BNB": Decimal(1)})
    fills = [fill(order, 200, 5, "1", "RVN"), fill(order, 290, 5, "1", "RVN")]
    view = shown(order_view(order, fills))
    assert view["fees"] == 0.149
    assert view["feesByCurrency"] == {"USDT": 0.1, "RVN": 2, "BNB": 1}
    assert shown(order_view(order))["fees"] == 0.149
    assert shown(order_view(an_order(1)))["fees"] == 0


def test_only_a_single_order_shows_its_risk_report_and_its_slippage() -> None:
    order = an_order(1, cost=2450, arrival_mid=Decimal("0.0244"), risk=RISK, fill_ns=9_000_000)
    assert not shown(order_view(order)).keys() & {"riskValidation", "arrivalSlippageBps"}
    detail = shown(order_detail(order, [a_fill(order, 1)]))
    assert detail["arrivalSlippageBps"] == pytest.approx(40.9836)
    assert detail["riskValidation"]["passed"] is True
    assert (detail["submitTime"], detail["fillTime"], detail["executionTime"]) == (1, 9, 8)
    assert detail["fills"][0]["fillId"] == "FILL_000001"


def test_an_exit_is_linked_to_its_entry_and_has_no_exits_itself() -> None:
    entry = an_order(1, stop_loss_id="S", take_profit_id="T")
    leg = an_order(2, parent_id=entry.order_id, stop_loss_id="S")
    view = shown(order_view(entry, (), [order_view(leg)]))
    assert view["linkedOrders"] == {"stopLoss": "S", "takeProfit": "T"}
    assert view["legs"][0]["parentOrderId"] == entry.order_id
    assert view["legs"][0]["linkedOrders"] == {"stopLoss": None, "takeProfit": None}


def test_a_fill_stands_alone() -> None:
    order = an_order(1)
    assert shown(fill_view(fill(order, 245, 100, "0.1200", "USDT"))) == {
        "fillId": "FILL_000001",
        "orderId": order.order_id,
        "tradeId": "T1",
        "pair": "RVN_USDT",
        "side": "buy",
        "quantity": 10,
        "price": 0.0245,
        "cost": 0.245,
        "fee": 0.12,
        "feeCurrency": "USDT",
        "maker": False,
        "exchange": "xeggex",
        "paperTrade": True,
        "timestamp": 1,
    }
