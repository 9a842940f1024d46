"""What a live venue has and this node does not know: orders adopted, others' listed, trades found; in virtual time."""

from __future__ import annotations

import copy
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tbx.core.kernel.outbox import encode_record
from tbx.core.model.comparisons import Difference, Reconciled
from tbx.core.model.messages import CancelExternal
from tbx.core.model.records import Order
from tbx.core.orders.adoption import Adoption
from tbx.core.orders.reconciliation import DIFFERENCES_MAX, RUNS_KEPT, Reconciliation
from tbx.core.portfolio.marks import BEYOND_MAX

from .live_desk import BTC, ETH, LiveDesk, refused

pytestmark = [pytest.mark.orders, pytest.mark.portfolio, pytest.mark.exchanges]


@pytest.fixture
def desk(tmp_path: Path) -> LiveDesk:
    return LiveDesk(tmp_path)


@pytest.fixture
def behind(tmp_path: Path) -> LiveDesk:
    return LiveDesk(tmp_path, DURABILITY="behind")


def image(desk: LiveDesk) -> dict[str, object]:
    """What a comparison that finds nothing must leave as it is."""
    node = desk.node
    return {
        "orders": {o.order_id: encode_record(o) for o in node.orders.orders.values()},
        "fills": {f.fill_id: encode_record(f) for f in node.orders.fills.values()},
        "balances": {(b.wallet, b.currency): (b.total, b.locked) for b in node.ledger},
        "external": [(o.pair, o.venue_order_id) for o in node.reconciliation.external],
        "held": [c.name for c in node.kernel.conditions.held],
    }


def refresh(desk: LiveDesk) -> Reconciled:
    """What POST /api/portfolio/refresh does; the report of the run."""
    done: list[bool] = []
    desk.node.kernel.run(desk.node.reconciliation.refresh, lambda: done.append(True))
    desk.until(lambda: done, "the comparison is through")
    return desk.node.reconciliation.runs[0]


def finish(desk: LiveDesk) -> None:
    """All is settled and the same on both sides, and comparing it once more changes nothing."""
    desk.heal()
    desk.check()
    refresh(desk)  # what others have left there since the last time is listed now
    before = image(desk)
    report = refresh(desk)
    assert report.differences == [] and report.settled and report.open == [], report
    assert image(desk) == before
    desk.check()


def found(desk: LiveDesk) -> list[Difference]:
    """All differences of all runs of this process, the oldest first."""
    return [difference for run in reversed(desk.node.reconciliation.runs) for difference in run.differences]


def kinds(desk: LiveDesk) -> list[str]:
    return [difference.kind for difference in found(desk)]


def ready(desk: LiveDesk) -> None:
    desk.until(lambda: not desk.node.engine.unavailable("binance"), "orders can be sent")


def adopted(desk: LiveDesk) -> list[Order]:
    return [order for order in desk.node.orders.orders.values() if order.adopted]


def lose_commits(desk: LiveDesk, act: Callable[[], object], milliseconds: int = 20) -> None:
    """The process acts while its store takes nothing, and dies with what it had not committed."""
    desk.store.down = True
    act()
    desk.wait(milliseconds)
    desk.kill()
    desk.store.down = False


def rewound(desk: LiveDesk) -> Callable[[], None]:
    """A backup of the store as it is now; the result brings it back, under a process that begins anew."""
    desk.wait(10)
    store = desk.store
    kept = copy.deepcopy((store.tables, store.journal, store.streams, store.number, store.seq))

    def restore() -> None:
        desk.kill()
        store.tables, store.journal, store.streams, store.number, store.seq = copy.deepcopy(kept)

    return restore


def send_behind(desk: LiveDesk, side: str, quantity: str, **more: Any) -> None:
    """With DURABILITY=behind an order leaves before its commit."""
    desk.command(desk.submission(side, quantity, **more))


# --- orders of ours that nobody here knows of


def test_a_resting_order_whose_commit_was_lost_is_adopted_and_is_as_any_other(behind: LiveDesk) -> None:
    desk = behind
    lose_commits(desk, lambda: send_behind(desk, "buy", "0.3", price=59_990))
    assert len(desk.theirs()) == 1
    desk._start()
    ready(desk)
    (order,) = adopted(desk)
    assert (desk.state(order), order.qty_lots * order.lot, order.price_ticks) == ("LIVE", Decimal("0.3"), 5_999_000)
    assert order.client_order_id == order.venue_client_id == desk.one(order).client_order_id
    assert desk.locked("USDT") >= Decimal("0.3") * 59_990
    assert "adopted" in kinds(desk) and ("OrderAdopted", order.order_id) in [
        (kind, data["orderId"]) for kind, data in desk.events()
    ]
    desk.amend(order, quantity="0.2")
    desk.deal(BTC, "SELL", 59_990, "0.05")
    desk.wait()
    assert desk.state(order) == "PART" and desk.get(order).filled_lots * order.lot == Decimal("0.05")
    desk.cancel(desk.get(order))
    assert desk.state(order) == "CANCELLED" and desk.locked("USDT") == 0
    assert desk.corrections() == []
    finish(desk)


def test_an_order_that_traded_whole_before_its_commit_was_lost_is_adopted_with_its_fills_and_fees(
    behind: LiveDesk,
) -> None:
    desk = behind
    lose_commits(desk, lambda: send_behind(desk, "buy", "2.5"))  # through three levels
    desk._start()
    ready(desk)
    (order,) = adopted(desk)
    assert desk.state(order) == "FILLED" and len(desk.node.orders.fills_of(order.order_id)) == 3
    assert desk.get(order).fees and desk.corrections() == []
    assert desk.node.portfolio.open_positions(paper=False)[0].quantity == Decimal("2.4975")
    finish(desk)


def test_an_adopted_order_is_known_after_the_next_restart(behind: LiveDesk) -> None:
    desk = behind
    lose_commits(desk, lambda: send_behind(desk, "sell", "0.3", price=60_010))
    desk._start()
    ready(desk)
    desk.wait(10)
    desk.kill()
    desk.deal(BTC, "BUY", 60_010, "0.1")
    desk.restart()
    ready(desk)
    (order,) = adopted(desk)
    assert desk.state(order) == "PART" and len(desk.node.orders.orders) == 1
    desk.amend(order, price="60020")  # a cancel and a new attempt, under an id of its own
    assert desk.state(order) == "PART" and len(desk.theirs(order)) == 2
    finish(desk)


def test_the_number_of_a_lost_order_given_once_more_is_another_order(behind: LiveDesk) -> None:
    desk = behind
    desk.order("buy", "0.01", price=59_000)  # so this process is known to have sent orders
    desk.network.more_ns["up"] = 4_000_000_000
    lose_commits(desk, lambda: send_behind(desk, "buy", "0.3", price=59_990))
    desk.network.more_ns["up"] = 0
    desk._start()
    ready(desk)
    again = desk.order("buy", "0.2", price=59_980)
    desk.wait(5_000)  # the lost one arrives
    numbers = [desk.named(one).split("-")[2] for one in desk.theirs()]
    assert len(numbers) == 3 and len(set(numbers)) == 2, "the case is there"
    (lost,) = adopted(desk)
    desk.deal(BTC, "SELL", 59_980, "0.4")
    desk.wait()
    assert desk.state(lost) == "FILLED" and desk.get(again).filled_lots * again.lot == Decimal("0.1")
    finish(desk)


def test_a_frame_that_arrives_after_the_list_was_asked_for_is_adopted_by_its_report(behind: LiveDesk) -> None:
    desk = behind
    desk.network.more_ns["up"] = 4_000_000_000
    lose_commits(desk, lambda: send_behind(desk, "buy", "0.3", price=59_990))
    desk.network.more_ns["up"] = 0
    desk._start()
    ready(desk)
    assert adopted(desk) == [] and desk.theirs() == []
    desk.wait(5_000)
    (order,) = adopted(desk)
    assert desk.state(order) == "LIVE"
    finish(desk)


def test_a_fill_of_an_order_that_nobody_knows_is_asked_about_and_booked_once(behind: LiveDesk) -> None:
    desk = behind
    desk.network.more_ns["up"] = 4_000_000_000
    lose_commits(desk, lambda: send_behind(desk, "buy", "2.5"))
    desk.network.more_ns["up"] = 0
    desk._start()
    desk.wait(6_000)
    (order,) = adopted(desk)
    assert desk.state(order) == "FILLED" and len(desk.node.orders.fills_of(order.order_id)) == 3
    assert desk.faults == [] and desk.node.guard.state.value == "ACTIVE"
    finish(desk)


def test_a_store_that_was_taken_back_to_an_older_state_finds_all_that_happened_since(desk: LiveDesk) -> None:
    kept = desk.order("buy", "0.3", price=59_990)
    restore = rewound(desk)
    rests = desk.order("sell", "0.4", price=60_500)
    traded = desk.order("buy", "0.5")
    desk.deal(BTC, "SELL", 59_990, "0.1")
    part = desk.order("buy", "0.2", price=59_980)
    desk.deal(BTC, "SELL", 59_980, "0.3")  # the rest of the first one, and half of this one
    desk.foreign_order(ETH, "SELL", 2_990, "2")
    desk.wait()
    assert [desk.state(o) for o in (kept, rests, traded, part)] == ["FILLED", "LIVE", "FILLED", "PART"]
    restore()
    desk.restart()
    ready(desk)
    assert desk.state(kept) == "FILLED"
    states = sorted((order.side, order.state.value) for order in adopted(desk))
    assert states == [("buy", "FILLED"), ("buy", "PART"), ("sell", "LIVE")]
    assert desk.corrections() == [], "all of it is told by the venue's trades"
    finish(desk)


def test_a_store_that_is_empty_adopts_what_rests_and_takes_the_balances_as_they_are(desk: LiveDesk) -> None:
    order = desk.order("buy", "0.3", price=59_990)
    desk.order("buy", "0.5")
    desk.deal(BTC, "SELL", 59_990, "0.1")
    desk.wait()
    assert desk.state(order) == "PART"
    desk.kill()
    desk.store.tables.clear()
    desk.store.journal.clear()
    desk.store.streams.clear()
    desk.store.number = desk.store.seq = 0
    desk._start()
    ready(desk)
    desk.wait(10)  # for the commit
    (rests,) = adopted(desk)
    assert desk.state(rests) == "PART" and desk.get(rests).filled_lots * rests.lot == Decimal("0.1")
    assert desk.corrections() == [], "what it had traded is in the balances as they were found"
    desk.wait(1_500)
    assert list(desk.node.guard.limits()) == [], "balances that came in one by one are no loss"
    assert desk.node.portfolio.growth() == (1.0, 1.0)
    desk.deal(BTC, "SELL", 59_990, "0.2")
    desk.wait()
    assert desk.state(rests) == "FILLED" and desk.total("USDT") == desk.held("USDT")


@pytest.mark.parametrize("price", [None, 60_500])
def test_a_stop_that_was_sent_and_waits_again_after_the_crash_sells_once(behind: LiveDesk, price: int | None) -> None:
    desk = behind
    more = {} if price is None else {"price": price}
    stop = desk.order("sell", "0.3", type="stop_loss", stop_price=59_500, **more)
    lose_commits(desk, lambda: desk.move(BTC, 59_400))
    assert len(desk.theirs()) == 1
    desk.move(BTC, 60_000)  # the market is back: nothing triggers it once more by chance
    desk._start()
    ready(desk)
    assert desk.attempts(stop) == [1] and adopted(desk) == []
    assert desk.state(stop) == ("FILLED" if price is None else "LIVE")
    assert desk.get(stop).triggered_ns is not None
    finish(desk)


def test_a_stop_that_is_reached_again_before_it_is_known_to_have_sold_sells_once(behind: LiveDesk) -> None:
    desk = behind
    stop = desk.order("sell", "0.3", type="stop_loss", stop_price=59_500)
    lose_commits(desk, lambda: desk.move(BTC, 59_400))
    desk._start()
    ready(desk)
    desk.wait(5_000)
    assert desk.attempts(stop) == [1] and desk.total("BTC") == Decimal("99.7")
    finish(desk)


# --- somebody else's orders


def external(desk: LiveDesk) -> list[tuple[str, str, Decimal]]:
    return [(o.pair, o.side, o.quantity) for o in desk.node.reconciliation.external]


def test_somebody_elses_open_order_is_listed_and_left_alone(desk: LiveDesk) -> None:
    theirs = desk.foreign_order(BTC, "BUY", 59_000, "0.5", tif="GTC")
    report = refresh(desk)
    assert [d.kind for d in report.differences] == ["external"] and report.settled
    assert external(desk) == [(BTC, "buy", Decimal("0.5"))]
    assert desk.node.kernel.conditions.holds("external_orders", "binance")
    desk.cut()
    desk.restart()
    ready(desk)
    assert external(desk) == [(BTC, "buy", Decimal("0.5"))]
    assert desk.exchange.order(desk.me, "BTCUSDT", order_id=theirs.order_id).open
    finish(desk)


def test_somebody_elses_order_is_cancelled_when_that_is_asked_for(desk: LiveDesk) -> None:
    theirs = desk.foreign_order(BTC, "BUY", 59_000, "0.5", tif="GTC")
    refresh(desk)
    answer = desk.command(
        lambda reply: CancelExternal(exchange="binance", pair=BTC, venue_order_id=str(theirs.order_id), reply=reply)
    )
    desk.until(lambda: answer.values, "an answer")
    assert answer.values[0].venue_order_id == str(theirs.order_id)
    assert not desk.exchange.order(desk.me, "BTCUSDT", order_id=theirs.order_id).open
    assert external(desk) == [] and not desk.node.kernel.conditions.holds("external_orders", "binance")
    finish(desk)


def test_an_order_that_is_not_listed_as_external_is_not_touched(desk: LiveDesk) -> None:
    order = desk.order("buy", "0.3", price=59_000)
    for pair, number in ((BTC, str(desk.one(order).order_id)), (ETH, "1"), (BTC, "nonsense")):
        answer = desk.command(
            lambda reply, p=pair, n=number: CancelExternal(exchange="binance", pair=p, venue_order_id=n, reply=reply)
        )
        assert refused(answer.values[0]) == "ORDER_NOT_FOUND"
    assert desk.state(order) == "LIVE"
    finish(desk)


def test_an_external_order_that_is_over_is_refused_by_the_exchange_and_listed_no_more(desk: LiveDesk) -> None:
    theirs = desk.foreign_order(BTC, "BUY", 59_000, "0.5", tif="GTC")
    refresh(desk)
    desk.exchange.cancel(desk.me, "BTCUSDT", theirs.order_id)
    answer = desk.command(
        lambda reply: CancelExternal(exchange="binance", pair=BTC, venue_order_id=str(theirs.order_id), reply=reply)
    )
    desk.until(lambda: answer.values, "an answer")
    assert refused(answer.values[0]) == "CANCEL_REFUSED"
    desk.wait(1_000)
    assert external(desk) == []
    finish(desk)


# --- trades


def test_a_fill_whose_report_and_reply_were_lost_is_found_without_a_correction(desk: LiveDesk) -> None:
    desk.wait(3_000)  # the next look at the balances is a minute away
    order = desk.order("buy", "0.3", price=59_990)
    desk.local.switch("late_reports:ms=3600000")
    desk.deal(BTC, "SELL", 59_990, "0.3")
    desk.wait(3_000)
    assert desk.state(order) == "LIVE"
    report = refresh(desk)
    assert desk.state(order) == "FILLED" and desk.corrections() == []
    assert [(d.kind, d.subject) for d in report.differences] == [("missing_fill", order.order_id)]
    finish(desk)


def test_a_fill_that_an_ended_order_had_not_been_told_is_booked_from_the_venues_trades(desk: LiveDesk) -> None:
    """As a store has it that lost the fill and kept the end: what the venue lists decides."""
    order = desk.order("buy", "0.3")
    assert desk.state(order) == "FILLED"
    restore = rewound(desk)
    second = desk.order("buy", "0.2", tif="IOC", price=60_100)
    record = encode_record(desk.get(second))
    desk.wait(10)
    ids = desk.store.tables["meta"]["ids"]
    restore()
    tables = desk.store.tables
    tables["meta"]["ids"] = ids
    lost = desk.get(second)
    lost.filled_lots, lost.cost, lost.fees, lost.state = 0, 0, {}, type(lost.state).CANCELLED
    tables["orders"][second.order_id] = encode_record(lost)
    assert record != tables["orders"][second.order_id]
    desk.restart()
    ready(desk)
    desk.wait(3_000)
    assert desk.state(second) == "FILLED" and desk.get(second).filled_lots * second.lot == Decimal("0.2")
    assert "missing_fill" in kinds(desk) and desk.corrections() == []
    finish(desk)


def test_foreign_trades_while_the_process_was_away_are_booked_from_the_list_and_once(desk: LiveDesk) -> None:
    desk.foreign_order(BTC, "BUY", 60_120, "0.2")  # told by its report
    desk.wait()
    desk.kill()
    desk.foreign_order(BTC, "BUY", 60_120, "0.5")
    desk.foreign_order(ETH, "SELL", 2_990, "1")
    desk.restart(10_000)
    ready(desk)
    assert desk.corrections() == [] and kinds(desk).count("missing_fill") == 2
    assert all(desk.total(currency) == desk.held(currency) for currency in ("BTC", "ETH", "USDT"))
    assert desk.node.portfolio.open_positions(paper=False) == []
    desk.restart()
    ready(desk)
    finish(desk)
    assert kinds(desk) == []


def test_trades_that_cancel_each_other_out_in_one_currency_are_not_booked_twice(desk: LiveDesk) -> None:
    desk.kill()
    desk.foreign_order(BTC, "BUY", 60_120, "0.5")
    desk.foreign_order(BTC, "SELL", 59_880, "0.4995")
    desk.restart(10_000)
    ready(desk)
    desk.wait(10)
    assert desk.corrections() == []
    desk.order("buy", "0.1")
    refresh(desk)
    finish(desk)


def test_thousands_of_trades_come_in_pages(desk: LiveDesk) -> None:
    desk.quote(BTC, "SELL", 60_050, "100")
    desk.kill()
    theirs = desk.foreign_order(BTC, "BUY", 60_050, "1.2", tif="GTC")
    assert theirs.executed
    resting = desk.foreign_order(BTC, "BUY", 59_990, "12", tif="GTC")
    for _ in range(1_150):
        desk.local.deal("BTCUSDT", "SELL", 59_990, "0.01")
    desk.restart()
    ready(desk)
    assert desk.corrections() == []
    assert desk.node.reconciliation.runs[0].compared.trades == 1_151
    assert desk.exchange.order(desk.me, "BTCUSDT", order_id=resting.order_id).open
    finish(desk)


def test_a_trade_between_one_of_ours_and_one_of_theirs_counts_on_both_sides(desk: LiveDesk) -> None:
    marks = desk.node.accounts.marks
    marks.note_foreign("binance", BTC, "900", "sell")
    assert marks.booked("binance", BTC, "900", "sell") and not marks.booked("binance", BTC, "900", "buy")


def test_what_is_remembered_above_a_mark_is_bounded(desk: LiveDesk) -> None:
    marks = desk.node.accounts.marks
    for number in range(2_000, 2_000 + 3 * BEYOND_MAX):
        marks.note_foreign("binance", BTC, str(number), "buy")
        mark = marks.get("binance", BTC)
        assert mark is not None and len(mark.beyond) <= BEYOND_MAX
        assert marks.covers("binance", BTC, str(number), "buy")


# --- contradictions


def test_an_order_that_ended_here_and_is_open_there_is_told_until_it_is_cancelled(desk: LiveDesk) -> None:
    order = desk.order("buy", "0.3", price=59_000)
    desk.wait(10)
    desk.kill()
    record = desk.get(order)
    record.state, record.reserved, record.reason = type(record.state).CANCELLED, Decimal(0), "made up"
    desk.store.tables["orders"][order.order_id] = encode_record(record)
    desk._start()
    ready(desk)
    report = desk.node.reconciliation.runs[0]
    assert [(d.kind, d.settled) for d in report.differences] == [("contradiction", False)] and not report.settled
    assert desk.node.kernel.conditions.holds("reconciliation_differs", "binance")
    (listed,) = desk.node.reconciliation.external
    assert listed.client_order_id == order.venue_client_id
    answer = desk.command(
        lambda reply: CancelExternal(exchange="binance", pair=BTC, venue_order_id=listed.venue_order_id, reply=reply)
    )
    desk.until(lambda: answer.values, "an answer")
    assert not desk.node.kernel.conditions.holds("reconciliation_differs", "binance")
    finish(desk)


def test_an_order_that_is_open_here_and_not_in_the_list_is_asked_about(desk: LiveDesk) -> None:
    order = desk.order("buy", "0.3", price=59_000)
    desk.local.switch("late_reports:ms=3600000")
    desk.exchange.cancel(desk.me, "BTCUSDT", desk.one(order).order_id)
    desk.wait(1_000)
    assert desk.state(order) == "LIVE"
    desk.wait(Reconciliation.EVERY_NS // 1_000_000)
    assert desk.state(order) == "CANCELLED" and ("missing_order", order.order_id) in [
        (d.kind, d.subject) for d in found(desk)
    ]
    finish(desk)


# --- when, and how much


def test_a_venue_is_ready_only_after_its_open_orders_and_balances_were_compared(desk: LiveDesk) -> None:
    desk.local.switch("mute_before:n=3,on=openOrders.status")
    desk.restart()
    desk.until(lambda: desk.node.accounts.agrees("binance"), "balances agree")
    assert "open orders" in desk.node.engine.unavailable("binance")
    assert refused(desk.submit("buy", "0.1", price=59_000)) == "VENUE_UNAVAILABLE"
    ready(desk)
    finish(desk)


@pytest.mark.parametrize("method", ["openOrders.status", "myTrades", "order.status", "account.status"])
@pytest.mark.parametrize("fault", ["mute_before:n=2", "unknown1006_before:n=2", "http5xx_after:n=2"])
def test_a_question_that_fails_is_asked_again(behind: LiveDesk, method: str, fault: str) -> None:
    desk = behind
    lose_commits(desk, lambda: send_behind(desk, "buy", "0.3", price=59_990))
    desk.deal(BTC, "SELL", 59_990, "0.1")
    desk.foreign_order(BTC, "BUY", 60_120, "0.5")
    desk.local.switch(f"{fault},on={method}")
    desk._start()
    ready(desk)
    assert [desk.state(order) for order in adopted(desk)] == ["PART"] and desk.corrections() == []
    finish(desk)


@pytest.mark.parametrize("steps", range(0, 120, 8))
def test_dying_in_the_middle_of_a_comparison_books_nothing_twice(behind: LiveDesk, steps: int) -> None:
    desk = behind
    lose_commits(desk, lambda: send_behind(desk, "buy", "2.5", price=60_100))
    desk.foreign_order(ETH, "BUY", 3_010, "1")
    desk._start()
    desk.wait(5)
    for _ in range(steps):
        desk.world.step()
    desk.restart(10)
    ready(desk)
    assert len(adopted(desk)) == 1 and desk.corrections() == []
    finish(desk)


def test_it_runs_by_itself_now_and_then(desk: LiveDesk) -> None:
    before = len(desk.node.reconciliation.runs)
    desk.wait(2 * Reconciliation.EVERY_NS // 1_000_000 + 5_000)
    runs = list(desk.node.reconciliation.runs)[: len(desk.node.reconciliation.runs) - before]
    assert [run.reason for run in runs] == ["timer", "timer"] and all(run.settled for run in runs)
    told = [data for kind, data in desk.events("health") if kind == "Reconciled"]
    assert [data["reason"] for data in told][-2:] == ["timer", "timer"]


def test_what_waits_for_its_share_of_the_weight_is_left_for_the_next_run(tmp_path: Path) -> None:
    desk = LiveDesk(tmp_path, limited=True)
    desk.order("buy", "0.1")
    desk.venue.survey._roll()
    reconciliation = desk.node.reconciliation
    wallet = reconciliation._wallets["binance"]
    desk.venue.survey._used = 590  # of the 600 that a minute has for this
    desk.node.kernel.run(reconciliation.begin, wallet, "timer")
    desk.until(lambda: reconciliation.runs[0].reason == "timer", "the run")
    assert reconciliation.runs[0].left == ["open orders", BTC]
    desk.wait(60_000)
    desk.node.kernel.run(reconciliation.begin, wallet, "timer")
    desk.wait(3_000)
    assert reconciliation.runs[0].left == [] and reconciliation.runs[0].compared.trades == 1


def test_only_so_many_runs_and_differences_are_kept(desk: LiveDesk) -> None:
    reconciliation = desk.node.reconciliation
    for _ in range(RUNS_KEPT + 3):
        refresh(desk)
    assert len(reconciliation.runs) == RUNS_KEPT
    wallet = reconciliation._wallets["binance"]
    reconciliation.begin(wallet, "asked")
    for number in range(DIFFERENCES_MAX + 7):
        reconciliation._differs("binance", Difference("external", str(number), "", "", ""))
    desk.wait(3_000)
    assert len(reconciliation.runs[0].differences) == DIFFERENCES_MAX and reconciliation.runs[0].more == 7


def test_with_the_guard_off_the_lost_order_would_stay_unknown(
    behind: LiveDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That the check of these tests can fail."""
    desk = behind
    monkeypatch.setattr(Adoption, "inspect", lambda *_: None)
    lose_commits(desk, lambda: send_behind(desk, "buy", "0.3", price=59_990))
    desk._start()
    desk.heal()
    with pytest.raises(AssertionError, match="nobody here knows"):
        desk.check()
