"""Exits of an entry: armed and sized by its fills, one cancels the other, never more than the wallet holds."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tbx.core.model.messages import VenueAccepted, VenueEnded
from tbx.core.model.records import Order, SignalData, State

from .desk import RVN, Desk, refused

pytestmark = pytest.mark.orders


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def bracket(desk: Desk, quantity: str = "5000", exchange: str = "xeggex", **more: object) -> tuple[Order, Order, Order]:
    """Entry, stop-loss and take-profit."""
    entry = desk.order("buy", quantity, stop_loss="0.0233", take_profit="0.0270", exchange=exchange, **more)
    return entry, desk.get(entry.stop_loss_id), desk.get(entry.take_profit_id)


def test_exits_exist_from_the_start_and_are_not_armed_before_a_fill(desk: Desk) -> None:
    entry, stop, target = bracket(desk, type="limit", price="0.024")
    assert entry.state is State.LIVE and stop.state is target.state is State.HELD
    assert entry.protected == 0
    desk.book([("0.0300", "10")], [("0.0301", "10")])
    desk.wait()
    assert stop.state is target.state is State.HELD and target.triggered_ns is None


def test_a_filled_entry_is_protected_in_the_same_commit(desk: Desk) -> None:
    entry, stop, target = bracket(desk)
    assert entry.protected == 5000 == stop.qty_lots * stop.lot == target.qty_lots * target.lot
    numbers = {kind: at for at, kind in enumerate(kind for kind, _ in desk.events())}
    assert numbers["OrderFilled"] < numbers["OrderSized"]
    entries = [raw for _, raw in desk.store.journal if b'"OrderFilled"' in raw]
    assert len(entries) == 1 and b'"OrderSized"' in entries[0]


def test_exits_cover_each_partial_fill_net_of_a_fee_in_the_base_asset(desk: Desk) -> None:
    entry, stop, target = bracket(desk, "50000", exchange="binance", type="limit", price="0.02451")
    assert entry.state is State.PART and entry.fees == {"RVN": Decimal(40)}
    assert entry.protected == Decimal("39960") == stop.qty_lots * stop.lot
    desk.book([("0.0244", "1")], [("0.02450", "40000")], exchange="binance")
    desk.wait()
    assert entry.state is State.FILLED
    net = Decimal(50_000) - entry.fees["RVN"]
    assert 0 <= net - entry.protected < stop.lot
    assert stop.qty_lots == target.qty_lots
    desk.check()


def test_the_stop_sells_what_was_bought_and_cancels_the_target(desk: Desk) -> None:
    entry, stop, target = bracket(desk)
    desk.price("0.0232", "0.0233")
    desk.wait()
    assert stop.state is State.FILLED and stop.average_price == Decimal("0.0232")
    assert target.state is State.CANCELLED and stop.order_id in (target.reason or "")
    assert desk.total("RVN") == 0 and entry.protected == 0
    desk.check()


def test_the_target_sells_what_was_bought_and_cancels_the_stop(desk: Desk) -> None:
    _, stop, target = bracket(desk)
    desk.price("0.0271", "0.0272")
    desk.wait()
    assert target.state is State.FILLED and stop.state is State.CANCELLED
    assert desk.total("RVN") == 0
    desk.check()


def test_when_price_jumps_through_both_only_one_exit_sells(desk: Desk) -> None:
    _, stop, target = bracket(desk)
    desk.price("0.0232", "0.0233")
    desk.price("0.0280", "0.0281")
    desk.price("0.0232", "0.0233")
    desk.wait()
    assert {stop.state, target.state} == {State.FILLED, State.CANCELLED}
    assert desk.total("RVN") == 0
    desk.check()


def test_a_stop_goes_on_until_all_is_sold_however_thin_the_book(desk: Desk) -> None:
    _, stop, target = bracket(desk)
    desk.book([("0.0232", "1500")], [("0.0240", "1")])
    desk.wait()
    assert stop.state is State.PART and stop.filled_lots * stop.lot == 1500
    assert target.state is State.HELD
    for bid in ("0.0231", "0.0230", "0.0229"):
        desk.book([(bid, "1500")], [("0.0240", "1")])
        desk.wait(2_000)
    assert stop.state is State.FILLED and stop.attempt >= 3
    assert target.state is State.CANCELLED and desk.total("RVN") == 0
    desk.check()


def test_an_entry_that_never_traded_takes_its_exits_along(desk: Desk) -> None:
    entry, stop, target = bracket(desk, type="limit", price="0.024")
    desk.cancel(entry)
    assert stop.state is target.state is State.CANCELLED
    desk.check()


def test_an_entry_that_was_cancelled_after_a_partial_fill_keeps_exits_for_what_it_got(desk: Desk) -> None:
    entry, stop, _ = bracket(desk, "50000", type="limit", price="0.02451")
    desk.cancel(entry)
    assert entry.state is State.CANCELLED
    assert stop.state is State.HELD and stop.qty_lots * stop.lot == 40_000 == entry.protected
    desk.price("0.0232", "0.0233", "50000")
    desk.wait()
    assert stop.state is State.FILLED and desk.total("RVN") == 0
    desk.check()


def test_cancelling_one_exit_leaves_the_other_and_cancelling_both_ends_the_protection(desk: Desk) -> None:
    entry, stop, target = bracket(desk)
    desk.cancel(target)
    assert stop.state is State.HELD and entry.protected == 5000
    desk.cancel(stop)
    assert entry.protected == 0
    desk.check()


def test_an_exits_stop_price_can_be_moved_and_is_watched_at_once(desk: Desk) -> None:
    _, stop, _ = bracket(desk)
    desk.amend(stop, stop_price="0.0243")
    desk.price("0.0242", "0.0243")
    desk.wait()
    assert stop.state is State.FILLED
    desk.check()


def test_an_exits_quantity_follows_its_entry_and_cannot_be_amended(desk: Desk) -> None:
    _, stop, _ = bracket(desk)
    assert refused(desk.amend(stop, quantity="100")) == "EXIT_QUANTITY"


def test_selling_by_hand_shrinks_the_exits_and_selling_all_ends_them(desk: Desk) -> None:
    entry, stop, target = bracket(desk)
    desk.order("sell", "2000")
    assert stop.qty_lots * stop.lot == 3000 == target.qty_lots * target.lot == entry.protected
    desk.order("sell", "3000")
    assert stop.state is target.state is State.CANCELLED and entry.protected == 0
    desk.check()


def test_two_brackets_share_what_is_left_the_oldest_first(desk: Desk) -> None:
    first, first_stop, _ = bracket(desk, "1000")
    second, second_stop, _ = bracket(desk, "1000")
    desk.order("sell", "1500")
    assert first_stop.qty_lots * first_stop.lot == 500 == first.protected
    assert second_stop.state is State.CANCELLED and second.protected == 0
    desk.check()


def test_closing_a_position_sells_it_and_ends_its_exits(desk: Desk) -> None:
    _, stop, target = bracket(desk)
    position = desk.node.portfolio.position("paper.xeggex", "RVN_USDT")
    assert position is not None
    answer = desk.close(position.position_id)
    desk.wait()
    assert answer.order.role == "close" and desk.now(answer).state is State.FILLED
    assert stop.state is target.state is State.CANCELLED
    assert desk.total("RVN") == 0 and position.quantity == 0 and position.cost == 0
    assert refused(desk.close(position.position_id)) == "POSITION_NOT_FOUND"
    desk.check()


def test_fees_in_base_never_make_a_position_impossible_to_close(desk: Desk) -> None:
    desk.order("buy", "1000.3", exchange="binance")
    position = desk.node.portfolio.position("paper.binance", "RVN_USDT")
    assert position is not None and position.quantity == Decimal("999.2997")
    desk.close(position.position_id)
    desk.wait()
    assert desk.total("RVN", "binance") == Decimal("0.0997"), "under one lot: dust"
    assert desk.node.portfolio.open_positions(paper=True) == []
    desk.check()


def test_a_stop_order_of_its_own_waits_and_becomes_a_limit_order_when_it_has_a_price(desk: Desk) -> None:
    desk.order("buy", "5000")
    stop = desk.order("sell", "5000", type="stop_loss", stop_price="0.0240", price="0.0239")
    assert stop.state is State.HELD
    desk.price("0.0238", "0.0245")
    desk.wait()
    assert stop.state is State.LIVE and stop.price_ticks is not None
    desk.price("0.0240", "0.0241")
    desk.wait()
    assert stop.state is State.FILLED
    desk.check()


def test_a_stop_buy_is_checked_again_when_it_is_triggered(desk: Desk) -> None:
    stop = desk.order("buy", "950000", type="stop_loss", stop_price="0.0250")
    desk.order("buy", "80000")
    desk.price("0.0251", "0.0252", "2000000")
    desk.wait()
    assert stop.state is State.REJECTED and stop.code == "INSUFFICIENT_BALANCE"
    desk.check()


def test_the_trigger_source_last_ignores_the_quotes(desk: Desk) -> None:
    desk.order("buy", "5000")
    stop = desk.order("sell", "5000", type="stop_loss", stop_price="0.0240", trigger="last")
    desk.price("0.0238", "0.0239")
    desk.wait()
    assert stop.state is State.HELD
    desk.hand.trade("xeggex", "RVN_USDT", "0.0239", "10", buyer_is_maker=True)
    desk.wait()
    assert stop.state is State.FILLED
    desk.check()


PRICES = st.integers(2300, 2750)


def is_dust(desk: Desk, exchange: str, held: Decimal, bid: Decimal) -> bool:
    """Whether no venue would take it, or would not have a moment ago, at the lowest price that these tests know."""
    return held * bid < desk.node.instruments[exchange, "RVN_USDT"].min_notional * Decimal("1.2")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    moves=st.lists(st.tuples(PRICES, st.integers(100, 9000), st.booleans()), min_size=1, max_size=12), data=st.data()
)
def test_whatever_the_market_does_nothing_is_sold_twice_or_left_unprotected(
    tmp_path: Path, moves: list[tuple[int, int, bool]], data: st.DataObject
) -> None:
    desk = Desk(tmp_path)
    exchange = data.draw(st.sampled_from(["xeggex", "binance"]))
    entry, stop, target = bracket(desk, exchange=exchange)
    for price, quantity, restart in moves:
        if restart:
            desk.restart()
        bid = Decimal(price) / 100_000
        desk.book([(str(bid), str(quantity))], [(str(bid + Decimal("0.0001")), str(quantity))], exchange=exchange)
        desk.wait(data.draw(st.sampled_from([1, 50, 1500])))
        desk.check()
        entry, stop, target = (desk.get(o.order_id) for o in (entry, stop, target))
        held = desk.total("RVN", exchange)
        assert held >= 0
        going = [o for o in (stop, target) if not o.ended]
        if entry.ended and entry.filled_lots and not is_dust(desk, exchange, held, bid):
            assert any(o.triggered_ns is not None or desk.node.triggers.armed(o.order_id) for o in going)
        assert stop.filled_lots + target.filled_lots <= entry.filled_lots


# --- what used to leave a position naked, or sell it twice


def test_an_exit_that_is_cancelled_between_two_attempts_ends_at_once_and_the_other_guards_again(desk: Desk) -> None:
    entry, stop, target = bracket(desk)
    desk.book([("0.0232", "1500")], [("0.0240", "1")])
    desk.wait()
    assert stop.state is State.PART and stop.waiting
    assert desk.cancel(stop, wait_ms=0) is stop and stop.state is State.CANCELLED
    assert desk.node.triggers.armed(target.order_id) and target.qty_lots * target.lot == 3500 == entry.protected
    desk.price("0.0271", "0.0272")
    desk.wait()
    assert target.state is State.FILLED and desk.total("RVN") == 0
    desk.check()


def test_a_reached_stop_takes_its_coins_back_from_a_sale_that_rests(desk: Desk) -> None:
    entry, stop, _ = bracket(desk, "1000")
    resting = desk.order("sell", "1000", type="limit", price="0.0300")
    desk.price("0.0232", "0.0233")
    desk.wait(2_000)
    assert resting.state is State.CANCELLED and stop.order_id in (resting.reason or "")
    assert stop.state is State.FILLED and desk.total("RVN") == 0 and entry.protected == 0
    desk.check()


def test_a_stop_of_ones_own_sells_all_that_it_was_given_too(desk: Desk) -> None:
    desk.order("buy", "1000")
    stop = desk.order("sell", "1000", type="stop_loss", stop_price="0.0240")
    desk.order("sell", "900", type="limit", price="0.0300")
    desk.price("0.0232", "0.0233")
    desk.wait(2_000)
    assert stop.state is State.FILLED and stop.filled_lots * stop.lot == 1000
    desk.check()


def test_a_reached_exit_takes_back_what_is_still_open_of_its_entry(desk: Desk) -> None:
    entry, stop, target = bracket(desk, "50000", type="limit", price="0.02451")
    assert entry.state is State.PART
    desk.book([("0.0271", "90000")], [("0.0272", "90000")])
    desk.wait(2_000)
    assert target.state is State.FILLED and entry.state is State.CANCELLED
    desk.price("0.0240", "0.0241")
    desk.wait()
    assert desk.total("RVN") == 0 and stop.state is State.CANCELLED
    desk.check()


def test_a_fill_that_overtook_the_cancel_of_its_entry_gets_exits(desk: Desk) -> None:
    entry, stop, _ = bracket(desk, type="limit", price="0.0240")
    desk.cancel(entry)
    assert stop.state is State.CANCELLED
    desk.node.kernel.input(desk.fill(entry, "late", "700"))
    desk.clock.settle()
    again = desk.get(entry.stop_loss_id)
    assert again is not stop and again.state is State.HELD and again.qty_lots * again.lot == 700 == entry.protected
    desk.price("0.0232", "0.0233")
    desk.wait()
    assert again.state is State.FILLED and desk.get(entry.take_profit_id).state is State.CANCELLED
    assert desk.total("RVN") == 0
    desk.check()


def test_the_end_of_an_attempt_told_twice_starts_one_new_attempt(desk: Desk) -> None:
    entry, stop, _ = bracket(desk, "1000")
    desk.order("buy", "5000")
    desk.book([("0.0232", "100")], [("0.0240", "1")])
    desk.wait()
    ended = VenueEnded(
        venue="xeggex", client_id=stop.venue_client_id, kind="expired", reason="thin", timestamp_ns=entry.created_ns
    )
    desk.node.kernel.input(ended)
    desk.node.kernel.input(ended)
    desk.price("0.0231", "0.0232")
    desk.wait(5_000)
    assert stop.state is State.FILLED and stop.filled_lots * stop.lot == 1000
    assert desk.total("RVN") == 5000
    desk.check()


def test_exits_do_not_grow_over_coins_that_were_sold_by_hand(desk: Desk) -> None:
    entry, stop, _ = bracket(desk, "50000", type="limit", price="0.02451")
    desk.order("sell", "39000")
    assert stop.qty_lots * stop.lot == 1000 == entry.protected
    desk.book([("0.0244", "1")], [("0.02450", "40000")])
    desk.wait()
    assert entry.state is State.FILLED and stop.qty_lots * stop.lot == 11_000 == entry.protected == desk.total("RVN")
    desk.check()


def test_a_pending_stop_cannot_be_moved_to_where_it_would_sell_at_once(desk: Desk) -> None:
    _, stop, _ = bracket(desk)
    assert refused(desk.amend(stop, stop_price="0.0250")) == "STOP_WOULD_TRIGGER"
    own = desk.order("sell", "1000", type="stop_loss", stop_price="0.0240")
    assert refused(desk.amend(own, quantity="9000000")) == "INSUFFICIENT_BALANCE"


ACTIONS = st.sampled_from(
    ["price", "price", "price", "hand sale", "resting sale", "cancel exit", "cancel entry", "restart"]
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_people_and_markets_do_exits_cover_what_is_held_and_never_more(
    tmp_path: Path, data: st.DataObject
) -> None:
    desk = Desk(tmp_path)
    exchange = data.draw(st.sampled_from(["xeggex", "binance"]))
    limit = data.draw(st.booleans())
    more: dict[str, object] = {"type": "limit", "price": "0.02451"} if limit else {}
    entry = bracket(
        desk, data.draw(st.sampled_from(["3000", "39000", "50000"])) if limit else "5000", exchange, **more
    )[0]
    by_hand = False
    for _ in range(data.draw(st.integers(1, 8))):
        action = data.draw(ACTIONS)
        entry = desk.get(entry.order_id)
        exits = [o for i in (entry.stop_loss_id, entry.take_profit_id) if not (o := desk.get(i)).ended]
        held = desk.total("RVN", exchange)
        if action == "restart":
            desk.restart()
        elif action == "cancel entry" and not entry.ended:
            desk.cancel(entry)
        elif action == "cancel exit" and exits:
            desk.cancel(exits[0])
            by_hand = True
        elif action == "hand sale" and held >= 1000:
            desk.submit("sell", "500", exchange=exchange, wait_ms=50)
            by_hand = True
        elif action == "resting sale" and held >= 1000:
            desk.submit("sell", "900", exchange=exchange, type="limit", price="0.0300", wait_ms=50)
        bid = Decimal(data.draw(PRICES)) / 100_000
        size = str(data.draw(st.integers(100, 60_000)))
        desk.book([(str(bid), size)], [(str(bid + Decimal("0.0001")), size)], exchange=exchange)
        desk.wait(data.draw(st.sampled_from([1, 50, 1500, 4000])))
        desk.check()
        entry = desk.get(entry.order_id)
        exits = [o for i in (entry.stop_loss_id, entry.take_profit_id) if not (o := desk.get(i)).ended]
        held = desk.total("RVN", exchange)
        assert all(o.left_lots * o.lot <= held for o in exits if entry.filled_lots), "an exit covers more than is held"
        if entry.filled_lots and held >= entry.lot and not by_hand:
            guarding = [o for o in exits if o.triggered_ns is not None or desk.node.triggers.armed(o.order_id)]
            covered = max((o.left_lots for o in guarding), default=0)
            dust = is_dust(desk, exchange, held, bid)
            assert dust or covered * entry.lot > held - entry.lot, f"{held} held, {covered * entry.lot} covered"


# --- an exit that is selling while its entry still fills


def selling_while_the_entry_fills(tmp_path: Path) -> tuple[Desk, Order]:
    """A stop of 1,000 on its way, and 500 more that the entry buys before its cancel arrives."""
    desk = Desk(tmp_path, PAPER_LATENCY_MS="1000")
    entry = desk.order(
        "buy", "5000", type="limit", price="0.0245", stop_loss="0.0233", take_profit="0.027", wait_ms=3000
    )
    desk.hand.trade("xeggex", "RVN_USDT", "0.0245", "1000", buyer_is_maker=True)
    desk.clock.settle()
    desk.price("0.0232", "0.0260")
    desk.hand.trade("xeggex", "RVN_USDT", "0.0245", "500", buyer_is_maker=True)
    desk.clock.settle()
    assert entry.filled_lots * entry.lot == 1500 == entry.protected
    return desk, entry


@pytest.mark.parametrize("restart", [False, True])
def test_what_comes_in_while_a_stop_sells_is_sold_too(tmp_path: Path, restart: bool) -> None:
    desk, entry = selling_while_the_entry_fills(tmp_path)
    if restart:
        desk.restart()
    for _ in range(20):
        desk.price("0.0232", "0.0260")
        desk.wait(1_000)
    entry = desk.get(entry.order_id)
    assert desk.get(entry.stop_loss_id).state is State.FILLED
    assert desk.total("RVN") == 0 and entry.protected == 0 and not desk.node.orders.open
    desk.check()


def test_a_fill_after_the_exits_left_for_the_archive_gets_exits_again(tmp_path: Path) -> None:
    desk = Desk(tmp_path, MAX_ORDERS_KEPT="10")
    entry, stop, _ = bracket(desk, "41000", type="limit", price="0.02451")
    desk.order("sell", "40000")
    assert stop.state is State.CANCELLED
    for _ in range(12):
        desk.order("buy", "500", exchange="binance")
    desk.wait(6_000)
    assert desk.archived, "others have left"
    desk.book([("0.0244", "1")], [("0.02450", "40000")])
    desk.wait()
    assert entry.state is State.FILLED and desk.total("RVN") == 1000 == entry.protected
    assert desk.get(entry.stop_loss_id).state is State.HELD
    desk.check()


def test_a_stop_takes_its_coins_back_from_a_triggered_sale_that_rests(desk: Desk) -> None:
    _, stop, _ = bracket(desk)
    desk.order("sell", "5000", type="stop_loss", stop_price="0.0240", price="0.0239")
    desk.price("0.0238", "0.0245")
    desk.wait()
    desk.price("0.0232", "0.0233")
    desk.wait(2_000)
    assert stop.state is State.FILLED and desk.total("RVN") == 0
    desk.check()


def test_a_late_acceptance_of_an_attempt_that_is_over_changes_nothing(desk: Desk) -> None:
    _, stop, _ = bracket(desk)
    desk.book([], [("0.0240", "1")])
    desk.book([("0.0232", "1")], [("0.0240", "1")])
    desk.wait()
    assert stop.waiting
    desk.node.kernel.input(
        VenueAccepted(venue="xeggex", client_id=stop.venue_client_id, venue_order_id="V", timestamp_ns=1)
    )
    desk.price("0.0231", "0.0232")
    desk.wait(3_000)
    assert stop.state is State.FILLED and desk.faults == []
    desk.check()


def test_the_stops_of_each_strategy_cover_its_own_coins_whoever_sells(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    old = desk.order("buy", "2000", stop_loss="0.0230", signal_data=SignalData(strategy="old"))
    new = desk.order("buy", "1000", stop_loss="0.0230", signal_data=SignalData(strategy="new"))
    desk.order("sell", "800")  # nobody's: the largest part pays
    assert desk.node.subledgers.quantity("old", "paper.xeggex", RVN) == 1200
    assert (desk.get(old.order_id).protected, desk.get(new.order_id).protected) == (1200, 1000)
    desk.order("sell", "1200", signal_data=SignalData(strategy="old"))
    assert desk.get(old.stop_loss_id).ended
    assert desk.get(new.order_id).protected == 1000 and desk.get(new.stop_loss_id).left_lots * new.lot == 1000
    desk.price("0.02290", "0.02295")
    desk.wait(200)
    assert desk.total("RVN") == 0
    desk.check()


def test_a_sale_goes_from_positions_first_and_exits_follow_though_deposited_coins_are_there(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.node.portfolio.deposit("paper.xeggex", "RVN", Decimal(500))
    entry = desk.order("buy", "1000", stop_loss="0.0230", signal_data=SignalData(strategy="one"))
    bare = desk.order("buy", "300", stop_loss="0.0230")
    desk.order("sell", "500")
    assert desk.node.subledgers.quantity("one", "paper.xeggex", RVN) == 800
    assert desk.get(entry.order_id).protected == 800
    assert desk.get(bare.order_id).protected == 300  # the deposited coins are nobody's as well
    desk.check()
