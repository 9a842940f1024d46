"""Orders from the command to the end, on the paper venue, in virtual time."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import msgspec
import pytest

from tbx.core.kernel.clock import MS_NS
from tbx.core.model.messages import CancelOrder, Refusal, SubmitOrder, Submitted, VenueRejected
from tbx.core.model.records import Order, State

from .desk import RVN, Desk, refused

pytestmark = pytest.mark.orders


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


# --- market orders


def test_a_market_buy_is_submitted_then_filled_and_paid(desk: Desk) -> None:
    answer = desk.submit("buy", "5000")
    assert isinstance(answer, Submitted) and answer.order.state is State.SENT
    assert answer.estimated_cost == Decimal("122.55") and answer.estimated_fees == Decimal("0.12255")
    assert desk.locked("USDT") > 122
    desk.wait()
    order = desk.now(answer)
    assert order.state is State.FILLED and order.average_price == Decimal("0.02451")
    assert desk.total("RVN") == 5000
    assert desk.total("USDT") == 25_000 - Decimal("122.55") - Decimal("0.12255")
    assert desk.locked("USDT") == 0
    assert [kind for kind, _ in desk.events()] == ["OrderSubmitted", "OrderFilled"]
    desk.check()


def test_a_sell_beyond_what_is_held_is_refused_and_on_record_as_rejected(desk: Desk) -> None:
    answer = desk.submit("sell", "1000")
    assert refused(answer) == "INSUFFICIENT_BALANCE"
    assert answer.order.state is State.REJECTED and not answer.order.risk.passed
    assert "needs 1000 RVN, available are 0 RVN" in answer.detail
    desk.check()


def test_a_market_order_that_would_slip_too_far_is_refused_and_changes_nothing(desk: Desk) -> None:
    answer = desk.submit("buy", "90000")
    assert refused(answer) == "SLIPPAGE_TOO_HIGH" and "80000 fits now" in answer.detail
    assert not desk.node.orders.orders and desk.total("USDT") == 25_000


def test_on_slippage_reduce_takes_what_fits_and_says_so(desk: Desk) -> None:
    order = desk.order("buy", "90000", on_slippage="reduce")
    assert order.state is State.FILLED and order.filled_lots * order.lot == 80_000
    assert "reduced from 90000 to 80000" in order.warnings[0]
    desk.check()


def test_the_guard_price_bounds_a_fill_when_the_market_runs_away_on_the_wire(desk: Desk) -> None:
    answer = desk.submit("buy", "5000")
    desk.book([("0.03", "100")], [("0.0301", "40000")])
    desk.wait()
    assert desk.now(answer).state is State.EXPIRED and desk.now(answer).filled_lots == 0
    assert desk.locked("USDT") == 0 and desk.total("USDT") == 25_000
    desk.check()


def test_without_a_fresh_book_no_order_is_taken(desk: Desk) -> None:
    desk.clock.advance(3_000_000_000)
    answer = desk.submit("buy", "1000")
    assert refused(answer) == "NO_MARKET_DATA" and answer.status == 503


# --- limit orders


def test_a_limit_order_rests_reserves_and_is_cancelled(desk: Desk) -> None:
    order = desk.order("buy", "1000", type="limit", price="0.02400")
    assert order.state is State.LIVE and desk.locked("USDT") == 24 + Decimal("0.024")
    answer = desk.cancel(order)
    assert answer is order and order.state is State.CANCELLED
    assert desk.locked("USDT") == 0
    assert refused(desk.cancel(order)) == "ORDER_ENDED"
    desk.check()


def test_a_marketable_limit_order_takes_and_rests_with_what_is_left(desk: Desk) -> None:
    order = desk.order("buy", "50000", type="limit", price="0.02451")
    assert order.state is State.PART and order.filled_lots * order.lot == 40_000
    rest = Decimal("10000") * Decimal("0.02451")
    assert desk.locked("USDT") == rest + rest * Decimal("0.001")
    desk.check()


def test_an_ioc_order_takes_what_is_there_and_the_rest_expires(desk: Desk) -> None:
    order = desk.order("buy", "50000", type="limit", price="0.02451", tif="IOC")
    assert order.state is State.EXPIRED and order.filled_lots * order.lot == 40_000
    assert desk.locked("USDT") == 0
    desk.check()


def test_a_fok_order_that_cannot_be_filled_whole_is_not_sent(desk: Desk) -> None:
    order = desk.order("buy", "50000", type="limit", price="0.02451", tif="FOK")
    assert order.state is State.EXPIRED and order.filled_lots == 0 and order.attempt == 0
    assert "the book holds 40000" in (order.reason or "")
    desk.check()


def test_a_fok_order_that_fits_is_filled_whole(desk: Desk) -> None:
    assert desk.order("buy", "40000", type="limit", price="0.02451", tif="FOK").state is State.FILLED


def test_a_post_only_order_that_would_take_is_rejected_by_the_venue(desk: Desk) -> None:
    order = desk.order("buy", "1000", type="limit", price="0.02451", post_only=True)
    assert order.state is State.REJECTED and order.code == "POST_ONLY_WOULD_TAKE"
    assert desk.locked("USDT") == 0
    desk.check()


def test_an_order_open_longer_than_its_timeout_is_cancelled(desk: Desk) -> None:
    order = desk.order("buy", "1000", type="limit", price="0.024", timeout_ns=2_000_000_000)
    desk.wait(1_000)
    assert order.state is State.LIVE
    desk.wait(3_000)
    assert order.state is State.CANCELLED and "timeout" in (order.reason or "")
    desk.check()


def test_an_order_with_timeout_zero_stays_open(desk: Desk) -> None:
    order = desk.order("buy", "1000", type="limit", price="0.024", timeout_ns=0)
    desk.wait(400_000)
    assert order.state is State.LIVE


def test_a_gtd_order_expires_at_its_time(desk: Desk) -> None:
    at = desk.clock.now_ns() + 3_000_000_000
    order = desk.order("buy", "1000", type="limit", price="0.024", tif="GTD", expires_ns=at)
    desk.wait(5_000)
    assert order.state is State.EXPIRED and order.end_ns is not None and order.end_ns >= at
    desk.check()


# --- amend


def test_amending_down_frees_funds_and_amending_up_reserves_more(desk: Desk) -> None:
    order = desk.order("buy", "1000", type="limit", price="0.024")
    assert desk.amend(order, quantity="400") is order
    assert desk.locked("USDT") == Decimal("9.6") * Decimal("1.001")
    assert desk.amend(order, quantity="2000", price="0.0242") is order
    assert order.qty_lots * order.lot == 2000 and order.price_ticks is not None
    assert desk.locked("USDT") == Decimal("48.4") * Decimal("1.001")
    desk.check()


def test_amending_beyond_the_balance_is_refused_and_changes_nothing(desk: Desk) -> None:
    order = desk.order("buy", "1000", type="limit", price="0.024")
    before = desk.locked("USDT")
    assert refused(desk.amend(order, quantity="90000000")) == "INSUFFICIENT_BALANCE"
    assert desk.locked("USDT") == before and order.amend_requested is None
    desk.check()


def test_every_wrong_field_of_an_amend_is_named(desk: Desk) -> None:
    order = desk.order("buy", "1000", type="limit", price="0.024")
    answer = desk.amend(order, quantity="10.0001", price="0.0240000001", stop_price="0.02")
    assert [e["field"] for e in answer.errors] == ["quantity", "price", "stopPrice"]
    assert "nearest valid" in answer.detail


def test_an_ended_order_cannot_be_amended(desk: Desk) -> None:
    assert refused(desk.amend(desk.order("buy", "1000"), quantity="500")) == "ORDER_ENDED"


def test_an_amend_that_loses_the_race_against_a_fill_is_answered_and_nothing_stays_reserved(desk: Desk) -> None:
    order = desk.order("buy", "1000", type="limit", price="0.024")
    answers: list[object] = []
    from tbx.core.model.messages import AmendOrder

    desk.node.kernel.input(AmendOrder(order_id=order.order_id, quantity=Decimal(3000), reply=answers.append))
    desk.price("0.0239", "0.024")
    desk.wait()
    assert len(answers) == 1
    assert order.state in (State.FILLED, State.PART)
    desk.check()


# --- rules and refusals


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"pair": "NOPE_USDT"}, "INVALID_PAIR"),
        ({"exchange": "kraken"}, "INVALID_EXCHANGE"),
        ({"quantity": "0.001"}, "QUANTITY_STEP"),
        ({"quantity": "10"}, "BELOW_MIN_NOTIONAL"),
        ({"type": "limit", "price": "0.02450000001"}, "PRICE_STEP"),
        ({"stop_loss": "0.03"}, "INVALID_STOP"),
        ({"take_profit": "0.02"}, "INVALID_TAKE_PROFIT"),
        ({"type": "stop_loss", "side": "sell", "stop_price": "0.03"}, "STOP_WOULD_TRIGGER"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_what_the_instrument_does_not_allow_is_refused_and_not_on_record(
    desk: Desk, more: dict[str, str], code: str
) -> None:
    fields: dict[str, str] = {"side": "buy", "quantity": "1000", **more}
    answer = desk.submit(**fields)
    assert refused(answer) == code
    assert not desk.node.orders.orders
    desk.check()


def test_a_position_over_its_limit_is_refused_with_the_size_that_would_pass(tmp_path: Path) -> None:
    desk = Desk(tmp_path, MAX_POSITION_SIZE="0.01")
    answer = desk.submit("buy", "30000")
    assert refused(answer) == "RISK_POSITION_SIZE"
    recommended = answer.order.risk.recommended_size
    assert 0 < recommended < 30_000
    assert isinstance(desk.submit("buy", str(recommended)), Submitted)
    desk.check()


def test_an_order_without_an_exchange_goes_to_the_venue_with_the_best_score(desk: Desk) -> None:
    desk.book([("0.02449", "10")], [("0.02451", "10")], exchange="xeggex")
    order = desk.order("buy", "20000", exchange=None)
    assert order.exchange == "binance" and order.state is State.FILLED
    desk.check()


def test_fees_in_the_received_asset_are_taken_from_it(desk: Desk) -> None:
    order = desk.order("buy", "10000", exchange="binance")
    assert order.fees == {"RVN": Decimal(10)}
    assert desk.total("RVN", "binance") == 9990
    desk.check()


# --- the same request twice


def test_the_same_request_twice_is_one_order(desk: Desk) -> None:
    first = desk.submit("buy", "1000", client_order_id="a1", fingerprint="f")
    again = desk.submit("buy", "1000", client_order_id="a1", fingerprint="f")
    assert again.repeated and again.order.order_id == first.order.order_id and len(desk.node.orders.orders) == 1


def test_the_same_id_with_another_body_is_refused(desk: Desk) -> None:
    desk.submit("buy", "1000", client_order_id="a1", fingerprint="f")
    assert refused(desk.submit("buy", "2000", client_order_id="a1", fingerprint="g")) == "IDEMPOTENCY_MISMATCH"


def test_a_repeat_before_the_first_is_committed_is_told_to_wait(desk: Desk) -> None:
    from tbx.core.model.messages import SubmitOrder

    answers: list[object] = []
    for _ in range(2):
        desk.node.kernel.input(
            SubmitOrder(
                pair="RVN_USDT",
                side="buy",
                type="market",
                quantity=Decimal(1000),
                client_order_id="a1",
                fingerprint="f",
                reply=answers.append,
            )
        )
    assert len(answers) == 1 and isinstance(answers[0], Refusal) and answers[0].code == "IDEMPOTENCY_IN_PROGRESS"
    desk.clock.settle()
    assert isinstance(answers[1], Submitted)


def test_a_risk_refusal_that_is_repeated_is_the_same_refusal(desk: Desk) -> None:
    first = desk.submit("sell", "1000", client_order_id="a1", fingerprint="f")
    again = desk.submit("sell", "1000", client_order_id="a1", fingerprint="f")
    assert again.code == first.code and again.order is first.order


# --- many


def test_cancel_many_answers_once_with_every_order(desk: Desk) -> None:
    orders = [desk.order("buy", "1000", type="limit", price=f"0.0{240 + i}") for i in range(3)]
    bracket = desk.order("buy", "1000", type="limit", price="0.024", stop_loss="0.023", take_profit="0.03")
    answer = desk.cancel_many(pair="RVN_USDT")
    assert {o.order_id for o in answer} >= {o.order_id for o in (*orders, bracket)}
    assert all(o.state is State.CANCELLED for o in answer)
    assert not desk.node.orders.open
    assert desk.cancel_many() == []
    desk.check()


def test_while_the_store_is_away_orders_are_refused_and_fills_wait(desk: Desk) -> None:
    order = desk.order("buy", "1000", type="limit", price="0.024")
    desk.store.down = True
    desk.node.kernel.outbox.put("meta", "x", {"a": 1})
    desk.node.kernel.flush_soon()
    desk.wait()
    answer = desk.submit("buy", "1000")
    assert refused(answer) == "STORE_UNAVAILABLE" and answer.status == 503
    desk.price("0.0238", "0.0239")
    desk.wait()
    assert order.state is State.FILLED and "OrderFilled" not in dict(desk.events()), "known here, not yet told"
    desk.store.down = False
    desk.wait(1_000)
    assert ("OrderFilled", order.order_id) in desk.events()
    desk.check()


def test_open_buys_count_for_the_position_limit(tmp_path: Path) -> None:
    desk = Desk(tmp_path, MAX_POSITION_SIZE="0.01")
    desk.order("buy", "19000", type="limit", price="0.024")
    assert refused(desk.submit("buy", "19000", type="limit", price="0.024")) == "RISK_POSITION_SIZE"
    desk.cancel_many()
    assert isinstance(desk.submit("buy", "19000", type="limit", price="0.024"), Submitted)


def test_a_fill_while_an_amend_is_on_its_way_leaves_its_funds_reserved(desk: Desk) -> None:
    from tbx.core.model.messages import AmendOrder, VenueAmended

    order = desk.order("buy", "1000", type="limit", price="0.024")
    desk.node.kernel.input(AmendOrder(order_id=order.order_id, quantity=Decimal(900_000), reply=lambda _: None))
    base = {"venue": "xeggex", "client_id": order.venue_client_id, "timestamp_ns": desk.clock.now_ns()}
    desk.node.kernel.input(desk.fill(order, "t1", "100"))
    assert refused(desk.submit("buy", "800000", type="limit", price="0.024")) == "INSUFFICIENT_BALANCE"
    whole = int(900_000 / order.lot)
    desk.node.kernel.input(VenueAmended(qty_lots=whole, price_ticks=None, **base))
    desk.clock.settle()
    assert desk.locked("USDT") == (900_000 - 100) * Decimal("0.024") * Decimal("1.001")
    desk.check()


def lose(desk: Desk, order: Order, code: str) -> None:
    """The order never reaches its venue, which proves that with this code."""
    venue = desk.node.paper_venues["xeggex"]
    venue.stop()
    desk.node.kernel.input(
        VenueRejected(venue="xeggex", client_id=order.venue_client_id, code=code, reason="not taken", timestamp_ns=1)
    )
    venue.start()


def test_a_cancel_while_a_retry_waits_ends_the_order_and_nothing_is_sent(desk: Desk) -> None:
    order = desk.now(desk.submit("buy", "1000", type="limit", price="0.024"))
    lose(desk, order, "NETWORK_ERROR")
    assert desk.cancel(order, wait_ms=0) is order and order.state is State.CANCELLED
    desk.wait(5_000)
    assert order.attempt == 1 and desk.total("RVN") == 0 and desk.locked("USDT") == 0
    desk.check()


def test_an_order_that_the_venue_proved_not_to_have_taken_is_tried_again(desk: Desk) -> None:
    order = desk.now(desk.submit("buy", "1000", type="limit", price="0.024"))
    lose(desk, order, "TIMEOUT")
    desk.wait(3_000)
    assert order.state is State.LIVE and order.attempt == 2
    desk.check()


def test_a_fill_beyond_the_quantity_is_accounted_for_and_halts_trading(desk: Desk) -> None:
    order = desk.order("buy", "1000")
    desk.node.kernel.input(desk.fill(order, "twice", str(order.lot)))
    desk.clock.settle()
    assert desk.total("RVN") == 1000 + order.lot
    assert desk.faults and refused(desk.submit("buy", "1000")) == "TRADING_LIMITED"


def test_an_amend_cannot_go_round_the_position_limit(tmp_path: Path) -> None:
    desk = Desk(tmp_path, MAX_POSITION_SIZE="0.01")
    order = desk.order("buy", "1000", type="limit", price="0.024")
    assert refused(desk.amend(order, quantity="30000")) == "RISK_POSITION_SIZE"
    assert desk.amend(order, quantity="10000") is order
    desk.check()


def test_a_position_is_closed_by_one_order_at_a_time(desk: Desk) -> None:
    desk.order("buy", "1000")
    position = desk.node.portfolio.position("paper.xeggex", "RVN_USDT")
    assert position is not None
    first = desk.close(position.position_id, "600")
    assert isinstance(first, Submitted)
    assert refused(desk.close(position.position_id, "600")) == "ORDER_IN_FLIGHT"
    desk.wait()
    assert desk.total("RVN") == 400


def test_held_buys_keep_the_position_limit_when_they_are_triggered_and_when_they_are_amended(tmp_path: Path) -> None:
    desk = Desk(tmp_path, MAX_POSITION_SIZE="0.05")
    stops = [desk.order("buy", "60000", type="stop_loss", stop_price="0.0250") for _ in range(3)]
    assert refused(desk.amend(stops[0], quantity="200000")) == "RISK_POSITION_SIZE"
    desk.price("0.0251", "0.0252", "2000000")
    desk.wait()
    assert [stop.state for stop in stops] == [State.FILLED, State.REJECTED, State.REJECTED]
    assert {stop.code for stop in stops[1:]} == {"RISK_POSITION_SIZE"}
    desk.check()


def test_a_fill_of_another_pair_is_never_booked_whatever_its_client_id(desk: Desk) -> None:
    order = desk.order("buy", "1000", type="limit", price="0.024")
    for _ in range(2):
        desk.node.kernel.input(desk.fill(order, "T1", "1000", pair="XMR_USDT"))
        desk.wait(100)
    assert order.filled_lots == 0
    assert ("OddReport", "") in desk.events("health")
    desk.check()


@pytest.mark.parametrize(
    ("quantity", "change"),
    [("2000", {}), ("1000", {"price_ticks": 24_001})],
    ids=["more than was sent", "a worse price"],
)
def test_a_fill_that_cannot_be_is_asked_about_and_booked_only_when_it_is_told_again(
    desk: Desk, quantity: str, change: dict[str, int]
) -> None:
    order = desk.order("buy", "1000", type="limit", price="0.024")
    desk.node.kernel.input(desk.fill(order, "T1", quantity, **change))
    desk.wait(100)
    assert (order.filled_lots, desk.faults) == (0, [])
    desk.node.kernel.input(desk.fill(order, "T1", quantity, **change))
    assert order.filled_lots * order.lot == Decimal(quantity)
    assert desk.faults, "what cannot be has happened: trading is halted"


def test_an_amend_that_nobody_here_asked_for_is_believed_and_told(desk: Desk) -> None:
    from tbx.core.model.messages import VenueAmended

    live = desk.order("buy", "1000", type="limit", price="0.024")
    ended = desk.order("buy", "1000")
    for order in (live, ended):
        desk.node.kernel.input(
            VenueAmended(
                venue="xeggex", client_id=order.venue_client_id, qty_lots=100, price_ticks=None, timestamp_ns=1
            )
        )
    desk.clock.settle()
    assert (live.qty_lots, ended.qty_lots * ended.lot) == (100, 1000)
    assert live.reserved == desk.locked("USDT") == Decimal("0.024024")  # of 1 RVN at 0.024 and its fee
    assert ("OddReport", "") in desk.events("health")
    desk.check()


def test_a_cancel_during_an_amend_gets_its_own_answer(tmp_path: Path) -> None:
    from tbx.core.model.messages import AmendOrder, CancelOrder

    desk = Desk(tmp_path, PAPER_LATENCY_MS="1000")
    order = desk.order("buy", "1000", type="limit", price="0.024", wait_ms=3_000)
    answers: dict[str, object] = {}

    def amended(value: object) -> None:
        answers["amend"] = value.state  # type: ignore[attr-defined]

    def cancelled(value: object) -> None:
        answers["cancel"] = value.state  # type: ignore[attr-defined]

    desk.node.kernel.input(AmendOrder(order_id=order.order_id, quantity=Decimal(2000), reply=amended))
    desk.node.kernel.input(CancelOrder(order_id=order.order_id, reply=cancelled))
    desk.wait(4_000)
    assert answers == {"amend": State.LIVE, "cancel": State.CANCELLED}
    desk.check()


def test_a_fill_of_an_order_that_left_long_ago_halts_trading_and_a_strangers_does_not(tmp_path: Path) -> None:
    desk = Desk(tmp_path, MAX_ORDERS_KEPT="10")
    first = desk.order("buy", "500")
    (known,) = desk.node.orders.fills_of(first.order_id)
    for _ in range(12):
        desk.order("buy", "500")
    desk.wait(6_000)
    assert first.order_id not in desk.node.orders.orders
    fill = desk.fill(first, "late", str(first.lot), client_id="somebody-else")
    desk.node.kernel.input(fill)
    again = msgspec.structs.replace(fill, client_id=first.venue_client_id, trade_id=known.trade_id)
    desk.node.kernel.input(again)
    desk.clock.settle()
    assert desk.faults == [], "a stranger's fill, and one of ours that was told before"
    desk.node.kernel.input(msgspec.structs.replace(fill, client_id=first.venue_client_id))
    desk.clock.settle()
    assert "ended long ago" in desk.faults[0]


def test_an_answer_says_no_more_than_what_its_commit_has_made_durable(desk: Desk) -> None:
    """While the commit is under way the order is cancelled; a crash at the answer would bring it back as it was."""
    kernel, told = desk.node.kernel, []
    desk.store._call_soon = lambda done, *args: desk.clock.call_in(MS_NS, done, *args)

    def reply(answer: Submitted) -> None:
        stored = msgspec.json.decode(desk.store.tables["orders"][answer.order.order_id], type=Order)
        told.append((answer.order.state, stored.state))

    kernel.input(
        SubmitOrder(
            pair=RVN,
            exchange="xeggex",
            side="buy",
            type="stop_loss",
            quantity=Decimal(1000),
            stop_price=Decimal("0.03"),
            reply=reply,
        )
    )
    desk.clock.settle()
    [order] = desk.node.orders.open.values()
    kernel.input(CancelOrder(order_id=order.order_id, reply=lambda _: None))
    assert order.state is State.CANCELLED and not told
    desk.clock.advance(MS_NS)
    assert told == [(State.HELD, State.HELD)]
