"""Exits that wait at the exchange: one pair for the same coins, sold once whatever fails; in virtual time."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from tbx.core.model.messages import ClosePosition, Submitted, VenueFilled
from tbx.core.model.order_views import order_view
from tbx.core.model.records import SignalData, State

from .live_desk import BTC, refused
from .native_desk import NativeDesk, done, is_at_exchange, is_here

pytestmark = [pytest.mark.orders, pytest.mark.exchanges]


@pytest.fixture
def desk(tmp_path: Path) -> NativeDesk:
    return NativeDesk(tmp_path)


def test_exits_wait_at_the_exchange_once_their_entry_is_filled(desk: NativeDesk) -> None:
    entry, stop, target = desk.bracket()
    assert is_at_exchange(desk, stop, target)
    below, above = desk.at_exchange(stop), desk.at_exchange(target)
    assert below is not None and above is not None and below.order_list_id == above.order_list_id >= 0
    assert entry.protected == Decimal("0.00999") == stop.reserved + target.reserved
    assert desk.free() == desk.total("BTC") - entry.protected
    assert not desk.node.triggers.armed(stop.order_id)
    done(desk)


def test_the_stop_sells_at_the_exchange_and_the_target_ends(desk: NativeDesk) -> None:
    entry, stop, target = desk.bracket()
    desk.go_to(58_900)
    desk.wait(50)
    assert (stop.state, target.state) == (State.FILLED, State.CANCELLED)
    assert stop.order_id in (target.reason or "") and entry.protected == 0
    assert desk.cancels() == 0
    done(desk)


def test_the_target_sells_at_the_exchange_and_the_stop_ends(desk: NativeDesk) -> None:
    entry, stop, target = desk.bracket()
    desk.go_to(62_200)
    desk.wait(50)
    assert (stop.state, target.state) == (State.CANCELLED, State.FILLED)
    assert entry.protected == 0
    done(desk)


# --- when a pair leaves, and when it stays


def test_while_the_entry_is_open_its_exits_are_watched_here(desk: NativeDesk) -> None:
    entry, stop, target = desk.bracket("1.5", type="limit", price=60_060)
    assert entry.state is State.PART and is_here(desk, stop, target)
    assert entry.protected == Decimal("0.999") and stop.reserved == 0
    desk.cancel(entry)
    assert entry.state is State.CANCELLED and is_at_exchange(desk, stop, target)
    assert entry.protected == Decimal("0.999") == desk.locked("BTC")
    done(desk)


def test_an_exit_that_is_reached_while_the_entry_is_open_sells_here(desk: NativeDesk) -> None:
    """The node hears of a trade at 58,900."""
    entry, stop, target = desk.bracket("1.5", type="limit", price=60_060)
    desk.hand.trade("binance", BTC, "58900", "0.001", buyer_is_maker=True)
    desk.wait(100)
    assert entry.ended and stop.state is State.FILLED and target.state is State.CANCELLED
    assert desk.kinds(stop) == ["MARKET"]
    done(desk)


def test_exits_that_look_at_bid_and_ask_stay_here(desk: NativeDesk) -> None:
    _, stop, target = desk.bracket(trigger="bid_ask")
    desk.wait(3_000)
    assert is_here(desk, stop, target) and desk.locked("BTC") == 0
    done(desk)


def test_a_single_exit_stays_here(desk: NativeDesk) -> None:
    entry = desk.order("buy", "0.01", stop_loss=59_000, trigger="last")
    desk.wait(3_000)
    assert is_here(desk, desk.get(entry.stop_loss_id))
    done(desk)


def test_exits_on_paper_stay_here(desk: NativeDesk) -> None:
    desk.node.portfolio.deposit("paper.binance", "USDT", Decimal(10_000))
    entry, stop, target = desk.bracket(paper=True)
    desk.wait(3_000)
    assert entry.state is State.FILLED and is_here(desk, stop, target)


def test_what_the_exchange_would_refuse_for_its_value_stays_here(desk: NativeDesk) -> None:
    """The least value is 5 USDT, and of a part of the entry there is less."""
    entry, stop, target = desk.bracket("0.001", type="limit", price=59_950)
    desk.deal(BTC, "SELL", 59_950, "0.00007")
    desk.wait(50)
    desk.cancel(entry)
    desk.wait(3_000)
    assert entry.filled_lots == 7 and is_here(desk, stop, target) and entry.protected == Decimal("0.00006")
    done(desk)


def test_a_pair_for_which_the_exchange_has_no_room_waits_here_until_there_is(desk: NativeDesk) -> None:
    """Five stops of a symbol at once: two pairs."""
    first = [desk.bracket() for _ in range(3)]
    assert is_at_exchange(desk, *first[0][1:], *first[1][1:]) and is_here(desk, *first[2][1:])
    desk.cancel(first[0][1])
    desk.wait(1_500)
    assert is_at_exchange(desk, *first[2][1:])
    done(desk)


def test_the_pair_leaves_when_the_connection_is_back(desk: NativeDesk) -> None:
    entry, stop, target = desk.bracket("1.5", type="limit", price=60_060)
    desk.network.silent = True
    desk.cut()
    desk.exchange.cancel(desk.me, "BTCUSDT", client_id=entry.venue_client_id)
    desk.wait(3_000)
    assert is_here(desk, stop, target)
    desk.network.silent = False
    done(desk)
    assert entry.ended and is_at_exchange(desk, stop, target)


# --- the exchange says no, or nothing


def test_a_pair_that_the_exchange_refuses_waits_here_and_stays_here(tmp_path: Path) -> None:
    """Somebody else's stops on the account have taken all the room."""
    desk = NativeDesk(tmp_path, coins=True)
    for at in (50_000, 51_000, 52_000, 53_000):
        desk.foreign_stop(at)
    entry, stop, target = desk.bracket()
    assert is_here(desk, stop, target) and stop.held_here and target.held_here
    assert entry.protected == Decimal("0.00999") and desk.locked("BTC") == 0
    desk.wait(5_000)
    assert stop.attempt == 1
    desk.go_to(58_900)
    desk.wait(50)
    assert stop.state is State.FILLED and target.state is State.CANCELLED
    done(desk)


def test_a_price_that_the_market_has_passed_meanwhile_sells_here(desk: NativeDesk) -> None:
    """The exchange refuses a stop above the last price; the pair comes back, and its stop is reached already."""
    desk.network.more_ns["up"] = 200_000_000
    _, stop, target = desk.bracket(wait_ms=230)
    assert desk.get(stop).state is State.SENT
    desk.go_to(58_900)
    desk.wait(1_000)
    assert stop.state is State.FILLED and target.state is State.CANCELLED
    done(desk)


@pytest.mark.parametrize("taken", [True, False], ids=["taken", "not taken"])
@pytest.mark.parametrize("ending", ["drop", "mute", "unknown1007", "http5xx"])
def test_a_pair_whose_outcome_is_not_known_is_asked_about_and_never_doubled(
    desk: NativeDesk, ending: str, taken: bool
) -> None:
    desk.local.switch(f"{ending}_{'after' if taken else 'before'}:on=orderList.place.oco,n=1")
    entry, stop, target = desk.bracket()
    assert not desk.node.triggers.armed(stop.order_id) and desk.locked("BTC") == entry.protected
    desk.heal()
    assert is_at_exchange(desk, stop, target) and stop.attempt == (1 if taken else 2)
    done(desk)


def test_a_pair_that_never_arrives_stays_here_in_the_end(desk: NativeDesk) -> None:
    desk.local.switch("unknown1007_before:on=orderList.place.oco")
    _, stop, target = desk.bracket()
    desk.wait(120_000)
    assert is_here(desk, stop, target) and stop.held_here and stop.attempt == 3
    done(desk)


def test_a_pair_that_is_turned_away_at_the_door_is_offered_until_it_is_let_in(desk: NativeDesk) -> None:
    entry, stop, target = desk.bracket("1.5", type="limit", price=60_060)
    desk.local.switch("limit429:s=8")
    desk.exchange.cancel(desk.me, "BTCUSDT", client_id=entry.venue_client_id)
    desk.wait(5_000)
    assert entry.ended and is_here(desk, stop, target)
    desk.wait(60_000)
    assert is_at_exchange(desk, stop, target)
    done(desk)


def test_a_pair_that_sells_while_its_outcome_is_not_known_is_sold_once(desk: NativeDesk) -> None:
    desk.local.switch("mute_after:on=orderList.place.oco,n=1;late_reports:ms=20000,n=20")
    _, stop, target = desk.bracket()
    desk.go_to(58_900)
    done(desk)
    assert stop.state is State.FILLED and target.state is State.CANCELLED


# --- by hand


@pytest.mark.parametrize("which", [1, 2], ids=["stop", "target"])
def test_cancelling_one_cancels_both(desk: NativeDesk, which: int) -> None:
    bracket = desk.bracket()
    answer = desk.cancel(bracket[which])
    assert answer is bracket[which] and {leg.state for leg in bracket[1:]} == {State.CANCELLED}
    assert bracket[0].protected == 0 and desk.locked("BTC") == 0
    done(desk)


def test_cancelling_everything_answers_for_each(desk: NativeDesk) -> None:
    _, stop, target = desk.bracket()
    assert len(desk.cancel_many()) == 2
    assert stop.state is target.state is State.CANCELLED
    done(desk)


def test_somebody_who_cancels_it_at_the_exchange_has_cancelled_it(desk: NativeDesk) -> None:
    entry, stop, target = desk.bracket()
    desk.exchange.cancel(desk.me, "BTCUSDT", client_id=target.venue_client_id)
    desk.wait(50)
    assert stop.state is target.state is State.CANCELLED and entry.protected == 0
    done(desk)


def test_amending_takes_the_pair_back_and_sends_it_with_the_new_price(desk: NativeDesk) -> None:
    entry, stop, target = desk.bracket()
    answer = desk.amend(stop, stop_price=59_200)
    assert answer is stop and is_here(desk, stop, target) and entry.protected == Decimal("0.00999")
    desk.wait(1_500)
    assert is_at_exchange(desk, stop, target) and stop.stop_ticks == 5_920_000
    done(desk)


def test_an_amendment_that_makes_no_sense_takes_nothing_back(desk: NativeDesk) -> None:
    _, stop, target = desk.bracket()
    assert refused(desk.amend(stop, stop_price=60_500)) == "STOP_WOULD_TRIGGER"
    assert refused(desk.amend(stop, quantity="0.005")) == "EXIT_QUANTITY"
    assert is_at_exchange(desk, stop, target) and stop.attempt == 1


def test_an_amendment_that_comes_too_late_changes_nothing(desk: NativeDesk) -> None:
    _, stop, target = desk.bracket()
    desk.network.more_ns["up"] = 50_000_000
    desk.ask_amend(stop, stop_price=59_200)
    desk.go_to(62_200)
    desk.wait(200)
    assert target.state is State.FILLED and stop.state is State.CANCELLED
    done(desk)


def test_an_amendment_is_refused_when_the_pair_does_not_come_back(desk: NativeDesk) -> None:
    _, stop, target = desk.bracket()
    desk.local.switch("mute_before:on=order.cancel")
    answer = desk.ask_amend(stop, stop_price=59_200)
    desk.wait(6_000)
    assert refused(answer.values[0]) == "ORDER_IN_FLIGHT"
    done(desk)
    assert is_at_exchange(desk, stop, target) and stop.stop_ticks == 5_900_000


def test_closing_the_position_takes_the_pair_back_first(desk: NativeDesk) -> None:
    entry, stop, target = desk.bracket()
    answer = desk.close()
    assert isinstance(answer, Submitted), answer
    desk.wait(100)
    assert desk.get(answer.order).state is State.FILLED and stop.ended and target.ended and entry.protected == 0
    done(desk)


def test_closing_a_part_leaves_exits_for_the_rest(desk: NativeDesk) -> None:
    entry, stop, target = desk.bracket()
    assert isinstance(desk.close("0.004"), Submitted)
    desk.wait(2_000)
    assert entry.protected == Decimal("0.00599") == stop.qty_lots * stop.lot
    assert is_at_exchange(desk, stop, target)
    done(desk)


def test_a_sale_by_hand_is_told_that_exits_hold_the_coins(desk: NativeDesk) -> None:
    desk.bracket()
    answer = desk.submit("sell", "0.005")
    assert refused(answer) == "INSUFFICIENT_BALANCE" and "held by exits" in answer.detail, answer
    done(desk)


def test_a_view_says_who_watches(desk: NativeDesk) -> None:
    entry, stop, target = desk.bracket()
    assert order_view(stop).held_by == order_view(target).held_by == "venue"
    assert order_view(entry).held_by is None
    _, stop, _ = desk.bracket(trigger="bid_ask")
    assert order_view(stop).held_by == "service"


def test_a_fill_that_comes_after_the_end_of_its_entry_is_covered_too(desk: NativeDesk) -> None:
    """The cancel's answer comes before the report of a trade that the exchange made first."""
    entry, stop, target = desk.bracket("1.5", type="limit", price=60_060)
    desk.local.switch("late_reports:ms=3000,n=4")
    desk.deal(BTC, "SELL", 60_060, "0.2")
    desk.cancel(entry)
    done(desk)
    net = entry.filled_lots * entry.lot - entry.fees["BTC"]
    assert 0 <= net - entry.protected < entry.lot and is_at_exchange(desk, stop, target)


def test_a_fill_that_nobody_expected_any_more_is_covered_with_the_rest(desk: NativeDesk) -> None:
    """The entry has ended, its pair is at the exchange, and the exchange tells of one more trade."""
    entry, stop, target = desk.bracket("1.5", type="limit", price=60_060)
    desk.cancel(entry)
    fill = VenueFilled(
        venue="binance",
        client_id=entry.venue_client_id,
        venue_order_id=entry.venue_order_id or "",
        trade_id="999999",
        price_ticks=6_006_000,
        qty_lots=10_000,
        fee=Decimal(0),
        fee_currency="BTC",
        maker=True,
        timestamp_ns=desk.world.now_ns(),
    )
    desk.node.kernel.input(fill)
    assert entry.protected == Decimal("0.999")
    desk.wait(100)
    assert entry.protected == Decimal("1.099") and is_here(desk, stop, target)
    desk.check_now()


def test_an_end_by_hand_while_the_other_sells_leaves_its_coins_reserved(desk: NativeDesk) -> None:
    _, stop, target = desk.bracket("0.5")
    desk.network.more_ns["up"] = 50_000_000
    desk.local.switch("late_reports:ms=300,p=0.5")
    desk.ask_cancel(stop)
    desk.go_to(62_200)
    for _ in range(40):
        desk.wait(10)
        desk.check_now()
    done(desk)
    assert stop.ended and target.state is State.FILLED


@pytest.mark.parametrize("which", [1, 2], ids=["stop", "target"])
def test_one_that_is_cancelled_while_the_pair_comes_back_leaves_the_other_here(desk: NativeDesk, which: int) -> None:
    entry, *pair = desk.bracket()
    cancelled, amended = pair[which - 1], pair[2 - which]
    desk.ask_amend(amended, stop_price=59_100 if amended.role == "stop_loss" else 61_900)
    desk.ask_cancel(cancelled)
    desk.wait(50)
    assert cancelled.state is State.CANCELLED and is_here(desk, amended) and entry.protected == Decimal("0.00999")
    done(desk)


def test_a_recall_overtakes_the_acceptance(desk: NativeDesk) -> None:
    _, stop, target = desk.bracket(wait_ms=0)
    desk.until(lambda: stop.state is State.SENT, "the pair leaves")
    desk.local.switch("late_reports:ms=30,n=8")
    assert isinstance(desk.close(), Submitted)
    desk.wait(200)
    assert stop.ended and target.ended
    done(desk)


def test_a_recall_that_is_turned_away_is_tried_again(desk: NativeDesk) -> None:
    _, stop, target = desk.bracket()
    desk.local.switch("limit429:s=2")
    answer = desk.ask_amend(stop, stop_price=59_200)
    desk.wait(4_500)
    assert answer.values == [stop] and stop.stop_ticks == 5_920_000
    done(desk)
    assert is_at_exchange(desk, stop, target)


def test_what_is_here_again_does_not_count_as_open_at_the_exchange(desk: NativeDesk) -> None:
    _, stop, _ = desk.bracket()
    assert desk.node.orders.open_count("binance", BTC) == 2
    desk.amend(stop, stop_price=59_200, wait_ms=0)
    assert desk.node.orders.open_count("binance", BTC) == 0


def test_coins_of_a_pair_do_not_cover_the_exits_of_another_entry(desk: NativeDesk) -> None:
    first, *_ = desk.bracket()
    second, stop, _ = desk.bracket(trigger="bid_ask")
    desk.order("sell", "0.004")
    assert (first.protected, second.protected) == (Decimal("0.00999"), Decimal("0.00599"))
    assert stop.qty_lots == 599
    done(desk)


def test_a_reached_exit_that_lacks_coins_takes_them_back_from_a_pair(desk: NativeDesk) -> None:
    """Somebody has sold coins that exits here covered."""
    first, *pair = desk.bracket()
    second, stop, _ = desk.bracket(trigger="bid_ask", stop_loss=59_800)
    desk.foreign_order(BTC, "SELL", 59_000, "0.005")
    desk.wait(50)
    desk.move(BTC, 59_700)
    desk.wait(500)
    assert stop.state is State.FILLED and second.protected == 0
    assert first.protected == Decimal("0.00499") == pair[0].qty_lots * first.lot
    done(desk)
    assert is_at_exchange(desk, *pair)


def test_a_pair_waits_until_the_last_price_is_between_its_prices(desk: NativeDesk) -> None:
    """The node has not heard yet of the trade that filled the entry."""
    desk.hand.trade("binance", BTC, "58950", "0.001", buyer_is_maker=True)
    desk.local.on_trade = None
    _, stop, target = desk.bracket(wait_ms=20)
    assert is_here(desk, stop, target)
    desk.hand.trade("binance", BTC, "60060", "0.01", buyer_is_maker=False)
    desk.wait(2_000)
    assert is_at_exchange(desk, stop, target) and stop.attempt == 1


def test_a_pair_waits_until_a_sale_by_hand_lets_go_of_its_coins(desk: NativeDesk) -> None:
    _, stop, target = desk.bracket()
    desk.amend(stop, stop_price=59_200)
    sale = desk.order("sell", "0.00999", price=63_000)
    desk.wait(3_000)
    assert is_here(desk, stop, target)
    desk.cancel(sale)
    desk.wait(1_500)
    assert is_at_exchange(desk, stop, target)
    done(desk)


def test_an_end_that_is_not_told_is_asked_for_and_never_caused(desk: NativeDesk) -> None:
    """The target's report is lost, the stop's are not."""
    _, stop, target = desk.bracket()
    desk.local.switch("late_reports:ms=60000,n=1")
    desk.go_to(58_900)
    desk.wait(50)
    assert stop.state is State.FILLED and target.at_venue
    desk.wait(2_500)
    assert target.state is State.CANCELLED and desk.cancels() == 0
    done(desk)


def test_reached_exits_that_lack_coins_do_not_wait_for_each_other(desk: NativeDesk) -> None:
    """Coins leave the account; the exits that wanted them share what is there, and end."""
    brackets = [desk.bracket(trigger="bid_ask") for _ in range(3)]
    desk.local.deposit(desk.me, "BTC", "-0.025")
    desk.foreign += 1
    desk.move(BTC, 58_900)
    desk.wait(5_000)
    assert all(stop.ended and target.ended for _, stop, target in brackets)
    assert desk.total("BTC") < brackets[0][0].lot and desk.locked("BTC") == 0
    done(desk)


def test_a_cancel_of_an_exit_whose_pair_is_refused_is_answered(tmp_path: Path) -> None:
    """It was asked for while the pair was on its way; the other exit stays, here."""
    desk = NativeDesk(tmp_path, coins=True)
    for at in (50_000, 51_000, 52_000, 53_000):
        desk.foreign_stop(at)
    entry, stop, target = desk.bracket(wait_ms=0)
    desk.until(lambda: stop.state is State.SENT, "the pair leaves")
    assert desk.cancel(stop) is stop and stop.state is State.CANCELLED
    assert is_here(desk, target) and entry.protected == Decimal("0.00999")
    done(desk)


def test_the_exits_of_a_strategy_that_sells_come_back_and_leave_those_of_the_other_one(desk: NativeDesk) -> None:
    mine, yours = SignalData(strategy="mine"), SignalData(strategy="yours")
    _, stop, target = desk.bracket("0.01", signal_data=mine)
    other, other_stop, _ = desk.bracket("0.02", signal_data=yours)
    desk.order("buy", "0.05")  # coins of nobody, which are free
    assert desk.at_exchange(stop) is not None and desk.at_exchange(other_stop) is not None
    position = desk.node.portfolio.open_positions(paper=False)[0]
    answer = desk._ask(
        lambda reply: ClosePosition(
            position_id=position.position_id, quantity=Decimal("0.00999"), signal_data=mine, reply=reply
        ),
        200,
    )
    assert isinstance(answer, Submitted), answer
    desk.wait(500)
    assert desk.node.subledgers.quantity("mine", "binance", BTC) == 0
    assert desk.get(stop).ended and desk.get(target).ended
    assert desk.at_exchange(other_stop) is not None and desk.get(other).protected == Decimal("0.01998")
    desk.go_to(58_000)
    desk.wait(2_000)
    assert desk.node.subledgers.quantity("yours", "binance", BTC) == 0
    assert desk.node.subledgers.quantity("", "binance", BTC) == Decimal("0.04995")
