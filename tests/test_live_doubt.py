"""Orders whose outcome is in doubt, on the real local exchange in virtual time: what is kept, shown, asked and ended.

freqtrade 13332, 11461; hummingbot 493; nautilus 4215: an ambiguous submit was sent again. nautilus 4152, 3870: a
timeout became an invented end. nautilus 3869, 4124: something missing was noticed and not asked about.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tbx.core.kernel.clock import MS_NS
from tbx.core.model.messages import Refusal, ReportMissing, ResolveOrder
from tbx.core.model.order_views import order_detail
from tbx.core.model.records import Order, State
from tbx.core.orders.recovery import Recovery
from tbx.core.orders.turns import PER_SECOND_MAX
from tbx.venues.binance.questions import LEFT_MAX

from .live_desk import BTC, ETH, LiveDesk, refused
from .native_desk import NativeDesk

PROOF_MIN_MS = 17_000  # a -1007 said at once: 15 s from then, and two questions
PROOF_MS = 26_000  # from a lost frame to the proof that it was not taken: 20 s, two questions, and their turns


@pytest.fixture
def desk(tmp_path: Path) -> LiveDesk:
    return LiveDesk(tmp_path)


def evidence(desk: LiveDesk, order: Order) -> list[tuple[str, str, int]]:
    """As the API shows it."""
    lines = order_detail(desk.get(order)).evidence
    assert isinstance(lines, list)
    return [(line.question, line.answer, line.count) for line in lines]


def conditions(desk: LiveDesk) -> dict[tuple[str, str], str]:
    return {(held.name, held.subject): held.why for held in desk.node.kernel.conditions.held}


def asked(desk: LiveDesk, method: str = "order.status") -> list[dict[str, Any]]:
    """The parameters of each such question, by their time."""
    frames = [json.loads(raw) for socket in desk.network.sockets for raw in socket.sent]
    found = [frame["params"] for frame in frames if frame["method"] == method]
    return sorted(found, key=lambda params: params["timestamp"])


def resolve(desk: LiveDesk, order: Order, outcome: str, by: str = "ann", wait_ms: int = 1_000) -> Any:
    """What an operator is answered."""
    answers: list[Any] = []
    word = ResolveOrder(order_id=order.order_id, outcome=outcome, by=by, reason="seen there", reply=answers.append)  # type: ignore[arg-type]
    desk.node.kernel.input(word)
    desk.wait(wait_ms)
    (answer,) = answers
    return answer


def away(desk: LiveDesk) -> None:
    """The exchange cannot be reached until `desk.heal`."""
    desk.network.silent = True
    desk.cut()


def garbled(desk: LiveDesk) -> None:
    """The reply to the last request comes as something else."""
    connection = desk.venue.connection
    assert connection.link is not None
    connection.link.take(
        b'{"id":%d,"status":200,"result":{"symbol":"BTCUSDT","orderId":"seven"}}' % connection._numbers
    )


# --- each outcome that cannot be told

# What happens, what the first line of the evidence says, and whether the exchange has taken the order.
OUTCOMES = {
    "a timeout, not taken": ("mute_before:n=1,on=order.place", "no reply came within 10 s", False),
    "a timeout, taken": ("mute_after:n=1,on=order.place", "no reply came within 10 s", True),
    "a 5xx, not taken": ("http5xx_before:n=1,on=order.place", ", status 50", False),
    "a 5xx, taken": ("http5xx_after:n=1,on=order.place", ", status 50", True),
    "a lost socket, not taken": ("drop_before:n=1,on=order.place", "the connection was reset", False),
    "a lost socket, taken": ("drop_after:n=1,on=order.place", "the connection was reset", True),
    "-1006, not taken": ("unknown1006_before:n=1,on=order.place", "(-1006)", False),
    "-1006, taken": ("unknown1006_after:n=1,on=order.place", "(-1006)", True),
    "-1007, not taken": ("unknown1007_before:n=1,on=order.place", "(-1007)", False),
    "-1007, taken": ("unknown1007_after:n=1,on=order.place", "(-1007)", True),
    "a reply that cannot be read, not taken": ("mute_before:n=1,on=order.place", "cannot be understood", False),
    "a reply that cannot be read, taken": ("mute_after:n=1,on=order.place", "cannot be understood", True),
}


@pytest.mark.parametrize("case", OUTCOMES)
def test_an_ambiguous_outcome_is_unknown_with_its_funds_reserved_until_it_is_proven(case: str, desk: LiveDesk) -> None:
    spec, reason, taken = OUTCOMES[case]
    desk.wait(60_000)
    desk.local.switch(f"{spec};late_reports:ms=120000")  # no report tells what the reply should have told
    order = desk.sent("buy", "0.5", price=59_900)
    if "cannot be read" in case:
        desk.wait(10)
        garbled(desk)
    lost_ns = desk.world.now_ns()
    desk.until(lambda: desk.state(order) == "UNKNOWN", "its outcome is not known", 12)
    assert desk.locked("USDT") >= Decimal("0.5") * 59_900
    question, answer, _ = evidence(desk, order)[0]
    assert question == f"place {desk.get(order).venue_client_id}" and reason in answer
    assert conditions(desk)["orders_unknown", "binance"].startswith(f"1, the oldest of them {order.order_id}")
    while desk.state(order) == "UNKNOWN":  # nothing is sent and nothing ends before the proof
        assert len(desk.theirs(order)) == int(taken) and desk.locked("USDT") >= Decimal("0.5") * 59_900
        desk.world.step()
    took_ms = (desk.world.now_ns() - lost_ns) // MS_NS
    name, last = evidence(desk, order)[0][0].removeprefix("place "), evidence(desk, order)[-1]
    assert last[0] == f"order.status origClientOrderId={name}"
    if taken:
        assert last[1].startswith("NEW executed 0 of 0.5 BTC, orderId ") and took_ms < 15_000
    else:
        assert last[1].startswith("-2013 Order does not exist") and PROOF_MIN_MS <= took_ms <= PROOF_MS
    desk.local.faults.clear()
    desk.heal()
    assert desk.attempts(order) == [1 if taken else 2] and desk.state(order) == "LIVE"
    assert ("orders_unknown", "binance") not in conditions(desk)
    desk.check()


def test_an_order_that_meant_the_market_of_its_moment_expires_only_when_it_is_proven_untaken(desk: LiveDesk) -> None:
    desk.local.switch("drop_before:n=1,on=order.place")
    order = desk.sent("buy", "0.5")
    desk.wait(15_000)
    assert desk.state(order) == "UNKNOWN" and desk.locked("USDT") > 0
    desk.heal()
    assert (desk.state(order), desk.get(order).code) == ("EXPIRED", "NOT_TAKEN") and desk.theirs(order) == []
    desk.check()


# --- evidence


def test_nothing_is_kept_of_open_orders_that_are_asked_about_as_a_matter_of_routine(desk: LiveDesk) -> None:
    orders = [desk.order("buy", "0.01", price=59_000 + number) for number in range(30)]
    traded = desk.order("buy", "0.3", price=59_990)
    desk.deal(BTC, "SELL", 59_990, "0.1")
    desk.cut()
    desk.heal()
    desk.restart()
    desk.heal()
    assert all(desk.get(order).evidence == () for order in [*orders, traded])
    assert desk.state(traded) == "PART"
    desk.check()


def test_an_order_that_has_traded_no_more_than_is_known_is_answered_from_a_list(desk: LiveDesk) -> None:
    orders = [desk.order("buy", "0.03", price=59_990 - number) for number in range(20)]
    desk.deal(BTC, "SELL", 59_990, "0.01")
    desk.wait(1_000)
    desk.cut()
    desk.heal()
    assert desk.state(orders[0]) == "PART" and asked(desk) == trades_asked(desk) == []
    desk.cut()
    desk.deal(BTC, "SELL", 59_990, "0.01")  # while nobody hears
    desk.heal()
    assert 1 <= len(asked(desk)) <= 2 and 1 <= len(trades_asked(desk)) <= 2
    assert desk.get(orders[0]).filled_lots * orders[0].lot == Decimal("0.02")
    desk.check()


def trades_asked(desk: LiveDesk) -> list[dict[str, Any]]:
    """Questions for the trades of one order."""
    return [params for params in asked(desk, "myTrades") if "orderId" in params]


def test_evidence_is_counted_bounded_and_survives_a_restart(desk: LiveDesk) -> None:
    desk.local.switch("drop_before:n=1,on=order.place;unknown1006_before:on=order.status")
    order = desk.sent("buy", price=59_000)
    desk.wait(400_000)
    before = evidence(desk, order)
    assert len(before) <= 21 and max(count for _, _, count in before) > 5
    desk.restart()
    desk.wait(1_000)
    assert evidence(desk, order)[: len(before) - 1] == before[:-1]
    assert ("orders_unknown", "binance") in conditions(desk)
    desk.heal()
    assert desk.state(order) == "LIVE" and evidence(desk, order)[0] == before[0]
    desk.check()


def test_a_lost_cancel_leaves_evidence_on_the_order(desk: LiveDesk) -> None:
    order = desk.order("buy", price=59_000)
    desk.local.switch("mute_before:n=1,on=order.cancel")
    desk.ask_cancel(order)
    desk.wait(12_000)
    lines = evidence(desk, order)
    assert lines[0] == (f"cancel {order.venue_client_id}", "no reply came within 10 s", 1)
    assert lines[1][1].startswith("NEW executed 0 of 0.01 BTC")
    desk.heal()
    desk.check()


# --- how often is asked


def test_an_order_is_asked_about_at_longer_and_longer_intervals_up_to_a_bound(desk: LiveDesk) -> None:
    desk.local.switch("drop_before:n=1,on=order.place;http5xx_before:on=order.status")
    desk.sent("buy", price=59_000)
    desk.wait(300_000)
    times = [params["timestamp"] for params in asked(desk)]
    gaps = [later - earlier for earlier, later in pairwise(times)]
    most = Recovery.AGAIN_MAX_NS // MS_NS + 1_000
    assert gaps[1] > gaps[0] and all(gap <= most for gap in gaps), gaps
    assert 10 <= len(times) <= 18, gaps
    desk.cut()  # when the venue is back, it is asked at once
    began_ms = desk.world.now_ns() // MS_NS
    desk.wait(5_000)
    assert len([t for t in times_of(desk) if t > began_ms]) >= 2


def times_of(desk: LiveDesk) -> list[int]:
    return [params["timestamp"] for params in asked(desk)]


def test_many_orders_in_doubt_are_each_asked_about_again_and_never_too_many_in_a_second(desk: LiveDesk) -> None:
    count = 270
    desk.local.switch("unknown1007_before:on=order.place;http5xx_before:on=openOrders.status")
    for number in range(count):
        pair, price = (BTC, 58_000) if number % 2 else (ETH, 2_000)
        desk.command(desk.submission("buy", "0.01", pair=pair, price=price + number))
        if number % 90 == 89:  # as many as the exchange takes in ten seconds
            desk.wait(11_000)
    names = {order.venue_client_id for order in desk.node.orders.open.values()}
    assert len(names) == count
    desk.local.switch("unknown1007_before:on=order.place;http5xx_before:on=order.status+openOrders.status")
    desk.wait(180_000)
    times = times_of(desk)
    for at, first in enumerate(times):
        within = bisect_left(times, first + 1_000) - at
        assert within <= LEFT_MAX + PER_SECOND_MAX, f"{within} questions in the second from {first}"
    a_minute = [bisect_left(times, first + 60_000) - at for at, first in enumerate(times)]
    assert max(a_minute) <= 6 * LEFT_MAX + 660  # a pass every ten seconds, and ten a second
    for name in names:
        mine = [p["timestamp"] for p in asked(desk) if p.get("origClientOrderId") == name]
        gaps = [later - earlier for earlier, later in pairwise([times[0], *mine, times[-1]])]
        assert len(mine) >= 3 and max(gaps) < 80_000, (name, gaps)
    desk.heal()
    assert len(desk.theirs()) == count
    desk.check()


def test_many_orders_in_doubt_that_the_exchange_has_are_found_from_lists(desk: LiveDesk) -> None:
    desk.local.switch("unknown1007_after:on=order.place;late_reports:ms=60000")
    for number in range(200):
        desk.command(desk.submission("buy", "0.001", price=58_000 + number))
    desk.wait(100)
    desk.until(lambda: not any(o.state.value == "UNKNOWN" for o in desk.node.orders.open.values()), "all are found", 12)
    assert len(asked(desk, "openOrders.status")) >= 1 and len(asked(desk)) < 100
    desk.heal()
    desk.check()


# --- an operator's word


def test_an_order_that_cannot_be_asked_about_ends_by_an_operators_word(desk: LiveDesk) -> None:
    desk.local.switch("drop_before:n=1,on=order.place")
    order = desk.sent("buy", "0.5", price=59_000)
    away(desk)
    desk.wait(5_000)
    assert desk.state(order) == "UNKNOWN" and desk.locked("USDT") > 0
    answer = resolve(desk, order, "not_taken")
    assert answer is desk.get(order)
    assert (desk.state(order), answer.code, answer.reason) == (
        "CANCELLED",
        "RESOLVED",
        "resolved as not_taken by ann: seen there",
    )
    assert desk.locked("USDT") == 0
    assert evidence(desk, order)[-1] == ("resolved as not_taken by ann", "seen there", 1)
    assert [data["orderId"] for kind, data in desk.events() if kind == "OrderResolved"] == [order.order_id]
    assert ("orders_unknown", "binance") not in conditions(desk)
    assert resolve(desk, order, "not_taken", by="bob") is answer  # said once more
    assert refused(resolve(desk, order, "cancelled")) == "ORDER_ENDED"
    desk.restart()
    assert resolve(desk, order, "not_taken").code == "RESOLVED"
    desk.heal()
    assert desk.theirs(order) == []
    desk.check()


@pytest.mark.parametrize("outcome", ["not_taken", "cancelled"])
def test_a_word_against_what_the_exchange_has_changes_nothing_and_says_so(outcome: str, desk: LiveDesk) -> None:
    desk.local.switch("unknown1007_after:n=1,on=order.place;late_reports:ms=60000;http5xx_before:n=1,on=order.status")
    order = desk.sent("buy", "0.5", price=59_000)
    desk.wait(10)
    assert desk.state(order) == "UNKNOWN"
    answer = resolve(desk, order, outcome)
    assert refused(answer) == "VENUE_HAS_IT" and answer.status == 409
    assert "it is open, 0 of 0.5 filled" in answer.detail and "DELETE" in answer.detail
    assert desk.state(order) == "LIVE" and desk.get(order).code is None
    assert refused(resolve(desk, order, outcome)) == "NOT_IN_DOUBT"
    desk.heal()
    desk.check()


def test_asking_now_does_not_wait_for_the_orders_turn(desk: LiveDesk) -> None:
    desk.local.switch("unknown1007_after:n=1,on=order.place;late_reports:ms=600000;http5xx_before:on=order.status")
    order = desk.sent("buy", "0.5", price=59_000)
    desk.wait(200_000)
    assert desk.state(order) == "UNKNOWN"
    desk.local.faults.clear()
    desk.local.switch("late_reports:ms=600000")
    answer = resolve(desk, order, "ask", wait_ms=100)
    assert answer is desk.get(order) and desk.state(order) == "LIVE"
    desk.heal()
    desk.check()


def test_an_order_that_is_taken_after_it_was_resolved_is_cancelled_there_and_told(desk: LiveDesk) -> None:
    desk.local.switch("late_taken:ms=8000,n=1,on=order.place")
    order = desk.sent("buy", "0.5", price=59_000)
    desk.wait(100)
    assert resolve(desk, order, "not_taken").code == "RESOLVED"
    desk.wait(10_000)
    assert not desk.one(order).open
    (moved,) = [data for kind, data in desk.events("health") if kind == "ResolvedOrderMoved"]
    assert "accepted it" in moved["detail"] and moved["orderId"] == order.order_id
    desk.heal()
    desk.check()


def test_what_a_resolved_order_trades_all_the_same_is_booked_and_told(desk: LiveDesk) -> None:
    desk.local.switch("late_taken:ms=8000,n=1,on=order.place")
    order = desk.sent("buy", "0.5", price=61_000)  # trades as soon as it is taken
    desk.wait(100)
    assert resolve(desk, order, "cancelled").code == "RESOLVED"
    desk.wait(10_000)
    assert desk.state(order) == "FILLED" and desk.get(order).filled_lots * order.lot == Decimal("0.5")
    told = [data["detail"] for kind, data in desk.events("health") if kind == "ResolvedOrderMoved"]
    assert any("traded 0.5" in detail for detail in told)
    assert any(question == "heard unasked" for question, _, _ in evidence(desk, order))
    desk.heal()
    assert desk.corrections() == []
    desk.check()


def test_a_cancel_that_is_stuck_can_be_resolved_and_not_as_never_taken(desk: LiveDesk) -> None:
    order = desk.order("buy", "0.5", price=59_000)
    desk.local.switch("mute_before:on=order.cancel+order.status+openOrders.status")
    desk.ask_cancel(order)
    desk.wait(1_000)
    assert refused(resolve(desk, order, "cancelled")) == "NOT_IN_DOUBT"
    desk.wait(25_000)
    assert refused(resolve(desk, order, "not_taken")) == "WAS_TAKEN"
    away(desk)
    desk.exchange.cancel_all(desk.me, "BTCUSDT")  # by hand, and nobody hears of it
    assert resolve(desk, order, "cancelled").code == "RESOLVED"
    desk.heal()
    assert desk.state(order) == "CANCELLED"
    desk.check()


def test_a_contradiction_is_a_condition_until_the_order_ends(desk: LiveDesk) -> None:
    order = desk.order("buy", "0.5", price=59_000)
    away(desk)
    desk.exchange.cancel_all(desk.me, "BTCUSDT")
    seat = desk.exchange.seat(desk.me, "BTCUSDT")
    seat.orders.clear()  # and it knows nothing of it
    desk.network.silent = False
    desk.until(lambda: ("venue_contradicts", order.order_id) in conditions(desk), "it is told", 120)
    assert desk.state(order) == "LIVE" and desk.locked("USDT") > 0
    assert evidence(desk, order)[-1][1].startswith("-2013")
    answer = resolve(desk, order, "cancelled")
    assert not isinstance(answer, Refusal) and answer.code == "RESOLVED"
    assert ("venue_contradicts", order.order_id) not in conditions(desk)
    assert desk.locked("USDT") == 0


def test_an_order_that_is_not_in_doubt_cannot_be_resolved(desk: LiveDesk) -> None:
    order, held = desk.order("buy", price=59_000), desk.order("sell", "1", type="stop_loss", stop_price=50_000)
    for outcome in ("not_taken", "cancelled", "ask"):
        assert refused(resolve(desk, order, outcome)) == "NOT_IN_DOUBT"
        assert refused(resolve(desk, held, outcome)) == "NOT_IN_DOUBT"
    desk.cancel(order)
    assert refused(resolve(desk, order, "cancelled")) == "ORDER_ENDED"


def test_exits_that_went_to_the_venue_as_a_pair_are_resolved_one_by_one(tmp_path: Path) -> None:
    desk = NativeDesk(tmp_path)
    desk.local.switch("drop_before:n=1,on=orderList.place.oco")
    entry, stop, target = desk.bracket()
    away(desk)
    desk.wait(5_000)
    assert [desk.state(leg) for leg in (stop, target)] == ["UNKNOWN", "UNKNOWN"] and desk.locked("BTC") > 0
    assert resolve(desk, stop, "not_taken").code == "RESOLVED"
    assert desk.state(target) == "UNKNOWN" and desk.locked("BTC") > 0
    desk.check_now()
    assert resolve(desk, target, "not_taken").code == "RESOLVED"
    assert desk.locked("BTC") == 0 and desk.get(entry).protected == 0
    desk.check_now()
    desk.heal()
    desk.check()


def test_an_exit_that_waits_to_be_sent_again_is_in_nobodys_way_when_it_is_doubted(desk: LiveDesk) -> None:
    """Nothing of it is at the exchange; asked about in vain it would keep the account from ever being compared."""
    stop = desk.order("sell", "0.5", type="stop_loss", stop_price=Decimal(59_000))
    for price in (59_940, 59_880, 59_820):
        desk.quote(BTC, "BUY", price, 0)
    desk.quote(BTC, "BUY", 58_990, "0.1")
    desk.until(lambda: stop.filled_lots and stop.waiting, "a part is sold, and the rest waits for its next attempt")
    desk.node.kernel.bus.publish(ReportMissing(stop, "a report of it is missing"))
    desk.until(lambda: desk.node.recovery.settled, "it is not waited for", 30)
    assert not stop.ended
    desk.quote(BTC, "BUY", 58_990, "1")
    desk.until(lambda: stop.state is State.FILLED, "the rest is sold")
    desk.heal()
    desk.check()
