"""kill -9 and start: the same orders, positions, balances, linked orders and triggers; in virtual time."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from tbx.core.kernel.outbox import encode_record
from tbx.core.model.errors import StoreUnreadable
from tbx.core.model.records import State

from .desk import Desk

pytestmark = pytest.mark.orders


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def image(desk: Desk) -> dict[str, object]:
    """Everything that a restart must bring back, as bytes."""
    node = desk.node
    return {
        "orders": {o.order_id: encode_record(o) for o in node.orders.orders.values()},
        "fills": {f.fill_id: encode_record(f) for f in node.orders.fills.values()},
        "balances": {(b.wallet, b.currency): (b.total, b.locked) for b in node.ledger},
        "positions": [encode_record(p) for p in node.portfolio.open_positions(paper=True)],
        "armed": sorted(o.order_id for o in node.orders.open.values() if node.triggers.armed(o.order_id)),
    }


def test_a_restart_brings_back_everything_as_it_was(desk: Desk) -> None:
    desk.order("buy", "5000", stop_loss="0.0233", take_profit="0.0270")
    desk.order("buy", "2000", exchange="binance")
    desk.order("sell", "1000", exchange="binance")
    desk.order("buy", "1000", type="limit", price="0.024")
    desk.order("sell", "500", exchange="binance", type="stop_loss", stop_price="0.0240")
    desk.submit("sell", "999999")
    before = image(desk)
    desk.restart()
    assert image(desk) == before
    desk.check()


def test_a_resting_order_is_at_the_venue_again_and_fills_once(desk: Desk) -> None:
    order = desk.order("buy", "1000", type="limit", price="0.024")
    desk.restart()
    desk.price("0.0238", "0.0239")
    desk.wait()
    order = desk.get(order.order_id)
    assert order.state is State.FILLED and desk.total("RVN") == 1000
    assert len(desk.node.orders.fills_of(order.order_id)) == 1
    desk.check()


def test_a_stop_guards_after_a_restart(desk: Desk) -> None:
    entry = desk.order("buy", "5000", stop_loss="0.0233")
    desk.restart()
    desk.price("0.0232", "0.0233")
    desk.wait()
    assert desk.get(entry.stop_loss_id).state is State.FILLED and desk.total("RVN") == 0
    desk.check()


def test_a_market_order_that_had_not_reached_its_venue_expires_and_frees_its_funds(desk: Desk) -> None:
    order = desk.submit("buy", "1000").order
    desk.restart()
    desk.wait()
    order = desk.get(order.order_id)
    assert order.state is State.EXPIRED and order.code == "NOT_TAKEN"
    assert desk.locked("USDT") == 0
    desk.check()


def test_a_limit_order_that_had_not_reached_its_venue_is_sent_again_as_a_new_attempt(desk: Desk) -> None:
    order = desk.submit("buy", "1000", type="limit", price="0.024").order
    desk.restart()
    desk.wait()
    order = desk.get(order.order_id)
    assert order.state is State.LIVE and order.attempt == 2
    assert desk.locked("USDT") == 24 * Decimal("1.001")
    desk.check()


def test_a_stop_that_was_selling_when_the_process_died_goes_on(desk: Desk) -> None:
    entry = desk.order("buy", "5000", stop_loss="0.0233", take_profit="0.027")
    desk.price("0.0232", "0.0233")
    stop = desk.get(entry.stop_loss_id)
    assert stop.state is State.SENT
    desk.restart()
    desk.price("0.0230", "0.0231")
    desk.wait(2_000)
    stop = desk.get(entry.stop_loss_id)
    assert stop.state is State.FILLED and desk.get(entry.take_profit_id).state is State.CANCELLED
    assert desk.total("RVN") == 0
    desk.check()


def test_a_partly_sold_stop_goes_on_after_a_restart(desk: Desk) -> None:
    entry = desk.order("buy", "5000", stop_loss="0.0233", take_profit="0.027")
    desk.book([("0.0232", "1500")], [("0.0240", "1")])
    desk.wait()
    desk.restart()
    desk.price("0.0230", "0.0231")
    desk.wait(3_000)
    assert desk.get(entry.stop_loss_id).state is State.FILLED
    assert desk.total("RVN") == 0
    desk.check()


def test_what_was_not_committed_was_never_seen(desk: Desk) -> None:
    desk.order("buy", "1000")
    before = image(desk)
    desk.store.down = True
    desk.node.kernel.outbox.put("meta", "x", {"a": 1})
    answers: list[object] = []
    from tbx.core.model.messages import SubmitOrder

    desk.node.kernel.input(
        SubmitOrder(pair="RVN_USDT", side="buy", type="market", quantity=Decimal(1000), reply=answers.append)
    )
    desk.wait()
    assert answers == []
    desk.store.down = False
    desk.restart()
    after = image(desk)
    assert after["orders"] == before["orders"] and after["balances"] == before["balances"]


def test_ids_go_on_after_a_restart(desk: Desk) -> None:
    first = desk.order("buy", "1000")
    desk.restart()
    second = desk.order("buy", "1000")
    assert second.order_id > first.order_id
    assert len({f.fill_id for f in desk.node.orders.fills.values()}) == 2


def test_a_cancel_that_was_on_its_way_is_carried_out_after_the_restart(desk: Desk) -> None:
    order = desk.order("buy", "1000", type="limit", price="0.024")
    from tbx.core.model.messages import CancelOrder

    desk.node.kernel.input(CancelOrder(order_id=order.order_id, reply=lambda _: None))
    desk.clock.settle()
    assert order.state is State.LIVE and order.cancel_requested
    desk.restart()
    desk.wait()
    assert desk.get(order.order_id).state is State.CANCELLED and desk.locked("USDT") == 0
    desk.check()


def test_a_record_that_cannot_be_read_stops_the_start_and_names_the_key(desk: Desk) -> None:
    order = desk.order("buy", "1000")
    desk.store.tables["orders"][order.order_id] = b'{"order_id": 7}'
    with pytest.raises(StoreUnreadable, match=f"tbx:main:orders {order.order_id}"):
        desk.restart()


def test_old_ended_orders_leave_with_their_fills_and_open_ones_stay(tmp_path: Path) -> None:
    desk = Desk(tmp_path, MAX_ORDERS_KEPT="10")
    resting = desk.order("buy", "1000", type="limit", price="0.024")
    ended = [desk.order("buy", "100") for _ in range(11)]
    desk.wait(3_000)
    orders, trades = desk.archived[0]
    assert [o.order_id for o in orders] == [o.order_id for o in ended[:4]]
    assert {t.order_id for t in trades} == {o.order_id for o in orders}
    assert resting.order_id in desk.node.orders.orders and len(desk.node.orders.orders) == 8
    assert set(desk.store.tables["orders"]) == set(desk.node.orders.orders)
    assert set(desk.store.tables["trades"]) == set(desk.node.orders.fills)
    desk.restart()
    assert len(desk.node.orders.orders) == 8
    desk.check()


def test_a_store_that_comes_back_with_less_is_written_anew_from_memory(desk: Desk) -> None:
    desk.order("buy", "5000", stop_loss="0.0233")
    desk.order("buy", "1000", type="limit", price="0.024")
    before = image(desk)
    desk.store.tables.clear()
    desk.store.number -= 3
    desk.node.kernel.outbox.put("meta", "noted", {})
    desk.node.kernel.flush_soon()
    desk.wait(200)
    desk.order("buy", "100")
    desk.cancel_many()
    assert desk.node.kernel.rewrite_count == 1 and desk.node.kernel.store_up
    now = image(desk)
    desk.restart()
    assert image(desk) == now and now != before
    desk.check()


def test_what_leaves_goes_in_rounds_until_the_share_has_left(tmp_path: Path) -> None:
    desk = Desk(tmp_path, MAX_ORDERS_KEPT="20")
    desk.node.history.ROUND_MAX = 2  # type: ignore[misc]
    for _ in range(21):
        desk.order("buy", "100")
    desk.wait(3_000)
    assert [len(orders) for orders, _ in desk.archived] == [2, 2, 1]
    assert len(desk.node.orders.orders) == 16 == len(desk.store.tables["orders"])
    desk.check()


def test_an_order_on_a_slow_line_is_sent_once_more_at_most_after_a_restart(tmp_path: Path) -> None:
    desk = Desk(tmp_path, PAPER_LATENCY_MS="3000")
    order = desk.submit("buy", "1000", type="limit", price="0.02451").order
    desk.wait(1_000)
    desk.restart()
    for _ in range(20):
        desk.book()
        desk.wait(1_000)
    order = desk.get(order.order_id)
    assert order.state is State.FILLED and order.filled_lots * order.lot == 1000 == desk.total("RVN")
    desk.check()


def test_an_amend_that_was_lost_with_the_process_is_undone_and_does_not_block_the_order(desk: Desk) -> None:
    from tbx.core.model.messages import AmendOrder

    order = desk.order("buy", "1000", type="limit", price="0.024")
    desk.node.kernel.input(AmendOrder(order_id=order.order_id, quantity=Decimal(500_000), reply=lambda _: None))
    desk.clock.settle()
    assert desk.locked("USDT") > 12_000
    desk.restart()
    desk.wait(3_000)
    order = desk.get(order.order_id)
    assert order.amend_requested is None and desk.locked("USDT") == 24 * Decimal("1.001")
    assert desk.amend(order, quantity="2000") is order
    desk.check()


def test_a_market_order_that_waited_too_long_for_its_commit_is_not_sent(desk: Desk) -> None:
    from tbx.core.model.messages import SubmitOrder

    answers: list[object] = []
    desk.store.down = True
    desk.node.kernel.input(
        SubmitOrder(pair="RVN_USDT", side="buy", type="market", quantity=Decimal(1000), reply=answers.append)
    )
    desk.wait(60_000)
    assert answers == []
    desk.store.down = False
    desk.wait(1_000)
    (order,) = desk.node.orders.orders.values()
    assert order.state is State.EXPIRED and order.code == "NOT_SENT" and desk.locked("USDT") == 0
    desk.check()


def test_a_clock_that_was_set_back_does_not_change_the_order_of_orders(desk: Desk) -> None:
    first = desk.order("buy", "1000")
    desk.clock._now_ns -= 3_600_000_000_000
    for exchange in ("xeggex", "binance"):
        desk.book(exchange=exchange)
    second = desk.order("buy", "1000")
    desk.restart()
    assert list(desk.node.orders.orders) == [first.order_id, second.order_id]


@pytest.mark.parametrize("kind", ["limit", "IOC", "market", "bracket"])
def test_a_commit_that_takes_long_never_makes_two_orders_of_one(desk: Desk, kind: str) -> None:
    from tbx.core.model.messages import SubmitOrder

    more: dict[str, object] = {}
    if kind in ("limit", "IOC"):
        more = {"type": "limit", "price": Decimal("0.02451"), "tif": "IOC" if kind == "IOC" else "GTC"}
    if kind == "bracket":
        more = {"stop_loss": Decimal("0.0233"), "take_profit": Decimal("0.027")}
    fields = {"type": "market", "exchange": "xeggex", **more}
    desk.store.down = True
    desk.node.kernel.input(
        SubmitOrder(pair="RVN_USDT", side="buy", quantity=Decimal(1000), reply=lambda _: None, **fields)  # type: ignore[arg-type]
    )
    desk.wait(30_000)
    desk.store.down = False
    for _ in range(20):
        desk.book()
        desk.wait(1_000)
    order = next(iter(desk.node.orders.orders.values()))
    assert order.attempt == 1 and order.ended
    filled = order.filled_lots * order.lot
    assert filled == desk.total("RVN") == (1000 if kind in ("limit", "IOC") else 0)
    assert order.protected == (filled if kind == "bracket" else 0)
    desk.check()


def test_an_amend_that_comes_while_the_venue_is_asked_about_the_past_is_carried_out(tmp_path: Path) -> None:
    desk = Desk(tmp_path, PAPER_LATENCY_MS="1000")
    order = desk.order("buy", "1000", type="limit", price="0.024", wait_ms=3_000)
    desk.restart()
    order = desk.get(order.order_id)
    answer = desk.amend(order, wait_ms=4_000, quantity="2000")
    assert answer is order and order.qty_lots * order.lot == 2000
    desk.check()


def test_with_durability_behind_orders_leave_before_their_commit_and_everything_else_is_the_same(
    tmp_path: Path,
) -> None:
    desk = Desk(tmp_path, DURABILITY="behind")
    entry = desk.order("buy", "5000", stop_loss="0.0233", take_profit="0.027")
    desk.order("buy", "1000", type="limit", price="0.024")
    before = image(desk)
    desk.restart()
    assert image(desk) == before
    desk.price("0.0232", "0.0233")
    desk.wait(2_000)
    assert desk.get(entry.stop_loss_id).state is State.FILLED
    assert desk.get(entry.take_profit_id).state is State.CANCELLED
    desk.check()
