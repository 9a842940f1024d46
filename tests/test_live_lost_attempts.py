"""An attempt whose commit was lost with its process, and that stands at the exchange: it is gone on with, and not sent
once more; in virtual time."""

from __future__ import annotations

import json
from decimal import Decimal
from functools import partial
from pathlib import Path

import pytest

from tbx.core.kernel.clock import SECOND_NS
from tbx.core.model.messages import VenueFilled

from . import live_desk
from .live_desk import BTC, LiveDesk
from .test_live_reconciliation import adopted, finish, lose_commits, ready

pytestmark = [pytest.mark.orders, pytest.mark.exchanges]


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("traded", ["0", "0.1", "0.3"])
def test_a_second_attempt_that_was_lost_with_its_process_is_not_sent_again_by_the_next(
    tmp_path: Path, traded: str, restarted: bool
) -> None:
    desk = LiveDesk(tmp_path, DURABILITY="behind")
    desk.local.switch("mute_before:n=1,on=order.place")
    order = desk.sent("buy", "0.3", price=59_990)
    if restarted:
        desk.restart()
    # It is proven that it was not taken, and sent again; nothing of that is committed.
    desk.until(lambda: desk.get(order).attempt == 2, "the second attempt", 60)
    lose_commits(desk, lambda: None)
    assert desk.theirs()
    if traded != "0":
        desk.local.deal("BTCUSDT", "SELL", 59_990, traded)
    desk._start()
    assert desk.get(order).attempt == 1
    ready(desk)
    desk.wait(30_000)
    assert len(desk.theirs()) == 1 and adopted(desk) == []
    assert desk.get(order).filled_lots * desk.get(order).lot == Decimal(traded)
    finish(desk)


@pytest.mark.parametrize("ahead_s", [-30, 30])
def test_a_stop_that_was_sent_and_waits_again_sells_once_whatever_our_clock_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead_s: int
) -> None:
    monkeypatch.setattr(live_desk, "ProcessClock", partial(live_desk.ProcessClock, skew_ns=ahead_s * SECOND_NS))
    desk = LiveDesk(tmp_path, DURABILITY="behind")
    stop = desk.order("sell", "0.3", type="stop_loss", stop_price=59_500)
    lose_commits(desk, lambda: desk.move(BTC, 59_400))
    assert len(desk.theirs()) == 1
    desk._start()
    ready(desk)
    desk.wait(5_000)
    assert adopted(desk) == [] and desk.attempts(stop) == [1] and desk.total("BTC") == Decimal("99.7")
    finish(desk)


def test_a_trade_of_an_order_that_is_in_the_archive_is_booked_and_its_other_fills_are_not_once_more(
    tmp_path: Path,
) -> None:
    desk = LiveDesk(tmp_path)
    order = desk.order("buy", "1.5", price=60_130, tif="IOC")
    desk.order("buy", "0.1")  # so that the pair is compared
    desk.wait(10)
    first, second = desk.node.orders.fills_of(order.order_id)
    desk.kill()
    tables = desk.store.tables
    desk.archived[order.order_id] = (order, [first])
    del tables["orders"][order.order_id]
    for fill in (first, second):
        del tables["trades"][fill.fill_id]
    for currency, change in (("BTC", -second.quantity), ("USDT", second.cost), (second.fee_currency, second.fee)):
        balance = json.loads(tables["balances"][f"binance:{currency}"])
        balance["total"] = str(Decimal(balance["total"]) + change)
        tables["balances"][f"binance:{currency}"] = json.dumps(balance).encode()
    assert json.loads(tables["meta"][f"trades:binance:{BTC}"])["upto"] == 0
    desk._start()
    ready(desk)
    assert desk.corrections() == [] and adopted(desk) == []
    for currency in ("BTC", "USDT"):
        assert desk.total(currency) == desk.held(currency)


def test_a_fill_of_a_lost_attempt_that_is_told_once_more_is_known_after_further_attempts(tmp_path: Path) -> None:
    desk = LiveDesk(tmp_path, DURABILITY="behind")
    stop = desk.order("sell", "3.5", type="stop_loss", stop_price=59_500)
    lose_commits(desk, lambda: desk.move(BTC, 59_400))
    (attempt,) = desk.theirs()
    assert attempt.executed and not attempt.open, "the book did not hold all of it"
    desk._start()
    ready(desk)
    desk.until(lambda: desk.get(stop).attempt > 1, "the rest is sold by another attempt")
    desk.until(lambda: desk.state(stop) != "SENT", "its answer")
    fills = desk.node.orders.fills_of(stop.order_id)
    told = VenueFilled(
        venue="binance",
        client_id=attempt.client_order_id,
        venue_order_id=str(attempt.order_id),
        trade_id=fills[0].trade_id,
        price_ticks=fills[0].price_ticks,
        qty_lots=fills[0].qty_lots,
        fee=fills[0].fee,
        fee_currency=fills[0].fee_currency,
        maker=False,
        timestamp_ns=fills[0].timestamp_ns,
        pair=BTC,
        side="sell",
    )
    desk.node.kernel.input(told)
    desk.wait(500)
    assert adopted(desk) == [] and desk.node.orders.fills_of(stop.order_id)[: len(fills)] == fills


def test_an_order_that_was_amended_before_its_next_attempt_was_lost_has_the_price_that_is_there(
    tmp_path: Path,
) -> None:
    desk = LiveDesk(tmp_path, DURABILITY="behind")
    desk.local.switch("mute_before:n=1,on=order.place")
    order = desk.sent("buy", "0.3", price=59_990)
    desk.until(lambda: desk.get(order).attempt == 2 and desk.state(order) == "LIVE", "the second attempt", 60)
    desk.wait(20)
    record = desk.store.tables["orders"][order.order_id]
    lost = json.loads(record)
    lost |= {"state": "SENT", "attempt": 1, "venue_client_id": attempt_before(lost["venue_client_id"])}
    del lost["venue_order_id"]
    lost["price_ticks"] = 5_998_000
    desk.kill()
    desk.store.tables["orders"][order.order_id] = json.dumps(lost).encode()
    desk._start()
    ready(desk)
    assert desk.state(order) == "LIVE" and desk.get(order).price_ticks == 5_999_000
    assert len(desk.theirs()) == 1 and adopted(desk) == [] and desk.faults == []
    finish(desk)


def attempt_before(client_id: str) -> str:
    """The id of the first attempt of the same order, by the same process."""
    head, tag = client_id.rsplit("-", 1)
    return f"{head.rsplit('-', 1)[0]}-1-{tag}"


@pytest.mark.parametrize("traded", ["0", "0.4", "0.5"])
def test_what_replaced_an_amended_order_is_managed_though_its_commit_was_lost(tmp_path: Path, traded: str) -> None:
    desk = LiveDesk(tmp_path, DURABILITY="behind")
    order = desk.order("buy", "0.3", price=59_990)
    lose_commits(desk, lambda: desk.ask_amend(order, quantity="0.5", price="59980"), 50)
    (there,) = [one for one in desk.theirs() if one.open]
    assert there.quantity == 50_000_000
    if traded != "0":
        desk.local.deal("BTCUSDT", "SELL", 59_980, traded)
    desk._start()
    ready(desk)
    desk.wait(5_000)
    managed = [o for o in desk.node.orders.orders.values() if o.venue_order_id == str(there.order_id)]
    assert [o.filled_lots * o.lot for o in managed] == [Decimal(traded)]
    assert managed[0].ended is (traded == "0.5") and there.open is (traded != "0.5")
    assert desk.faults == [] and desk.corrections() == []
    finish(desk)


def test_a_fill_whose_record_is_gone_is_put_on_record_again_and_moves_nothing(tmp_path: Path) -> None:
    """Its row was deleted, or set aside: the order has counted it, so have position and balances."""
    desk = LiveDesk(tmp_path)
    order = desk.order("buy", "0.01", stop_loss=59_000)
    desk.wait(2_000)
    [fill] = desk.node.orders.fills_of(order.order_id)
    del desk.store.tables["trades"][fill.fill_id]
    position = desk.node.portfolio.position("binance", BTC)
    assert position is not None
    before = position.quantity
    desk.restart()
    desk.heal()
    venue_fill = VenueFilled(
        venue="binance",
        client_id=order.venue_client_id,
        venue_order_id=order.venue_order_id or "",
        trade_id=fill.trade_id,
        price_ticks=fill.price_ticks,
        qty_lots=fill.qty_lots,
        fee=fill.fee,
        fee_currency=fill.fee_currency,
        maker=fill.maker,
        timestamp_ns=fill.timestamp_ns,
    )
    for _ in range(2):
        desk.node.kernel.input(venue_fill)
    after = desk.node.portfolio.position("binance", BTC)
    assert after is not None and after.quantity == before
    assert [f.trade_id for f in desk.node.orders.fills_of(order.order_id)] == [fill.trade_id]
    assert desk.get(order).filled_lots == fill.qty_lots and desk.node.guard.state.value == "ACTIVE"
    desk.check()
