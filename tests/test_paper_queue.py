"""Resting paper orders wait in the public queue."""

import pytest

from tbx.core.model.messages import (
    VenueFilled,
)

from .paper_desk import Desk, kinds

pytestmark = pytest.mark.paper_trading


def test_a_trade_at_the_price_fills_only_what_exceeds_the_queue_ahead() -> None:
    desk = Desk()
    desk.place(price=100, lots=5)
    desk.trade(100, 7, buyer_is_maker=True)
    assert desk.fills() == []
    desk.trade(100, 5, buyer_is_maker=True)
    assert desk.fills() == [(100, 2)], "10 were ahead, 12 traded"
    desk.trade(100, 50, buyer_is_maker=True)
    assert desk.fills() == [(100, 2), (100, 3)]
    assert all(m.maker for m in desk.answers if isinstance(m, VenueFilled))
    assert desk.venue.open_count == 0


def test_a_trade_on_the_other_side_moves_nothing() -> None:
    desk = Desk()
    desk.place(price=100, lots=5)
    desk.trade(100, 500, buyer_is_maker=False)
    assert desk.fills() == []


def test_a_trade_through_the_price_fills_it_whole_at_its_own_price() -> None:
    desk = Desk()
    desk.place("c1", price=100, lots=500)
    desk.place("c2", price=99, lots=500)
    desk.trade(99, 1, buyer_is_maker=True)
    assert desk.fills("c1") == [(100, 500)]
    assert desk.fills("c2") == []


def test_orders_at_one_price_share_a_trade_in_the_order_in_which_they_joined() -> None:
    desk = Desk()
    desk.place("c1", price=101, lots=5)
    desk.place("c2", price=101, lots=5)
    desk.trade(101, 7, buyer_is_maker=True)
    assert desk.fills("c1") == [(101, 5)]
    assert desk.fills("c2") == [(101, 2)]


def test_cancels_ahead_move_the_queue_by_their_share_and_trades_are_not_counted_twice() -> None:
    desk = Desk()
    desk.place(price=100, lots=5)  # 10 ahead
    desk.diff(bids={100: 20})  # 10 behind
    desk.diff(bids={100: 10})  # 10 cancelled: 5 of them ahead
    desk.trade(100, 5, buyer_is_maker=True)
    assert desk.fills() == []
    desk.diff(bids={100: 5})  # explained by the trade
    desk.trade(100, 1, buyer_is_maker=True)
    assert desk.fills() == [(100, 1)]


def test_displayed_lots_that_a_trade_took_are_not_taken_for_cancels() -> None:
    desk = Desk()
    desk.diff(bids={100: 100})
    desk.place(price=100, lots=5)
    desk.diff(bids={100: 300})
    desk.trade(100, 50, buyer_is_maker=True)
    desk.diff(bids={100: 250})  # explained: still 50 ahead
    desk.diff(bids={100: 200})  # 50 of 250 cancelled: 10 of them ahead
    desk.trade(100, 40, buyer_is_maker=True)
    assert desk.fills() == []
    desk.trade(100, 1, buyer_is_maker=True)
    assert desk.fills() == [(100, 1)]


def test_a_fraction_of_a_cancelled_lot_is_rounded_by_chance_so_that_the_mean_is_exact() -> None:
    ahead = []
    for seed in range(400):
        desk = Desk(seed)
        desk.place(price=100, lots=5)  # 10 ahead
        desk.diff(bids={100: 20})
        desk.diff(bids={100: 15})  # 5 of 20 cancelled: 2.5 of them ahead
        ahead.append(desk.venue._open["c1"].ahead_lots)
    assert set(ahead) == {7, 8}
    assert 7.4 < sum(ahead) / len(ahead) < 7.6


def test_without_a_share_of_cancels_only_trades_move_the_queue() -> None:
    desk = Desk(cancel_share=0.0)
    desk.place(price=100, lots=5)
    desk.diff(bids={100: 20})
    desk.diff(bids={100: 10})
    desk.trade(100, 10, buyer_is_maker=True)
    assert desk.fills() == []
    desk.trade(100, 1, buyer_is_maker=True)
    assert desk.fills() == [(100, 1)]


def test_the_queue_ahead_is_never_more_than_what_is_displayed() -> None:
    desk = Desk(cancel_share=0.0)
    desk.place(price=100, lots=5)
    desk.diff(bids={100: 0})
    desk.trade(100, 3, buyer_is_maker=True)
    assert desk.fills() == [(100, 3)]


def test_an_order_beyond_what_the_book_shows_joins_behind_everything_when_its_price_comes_into_sight() -> None:
    desk = Desk()
    desk.place(price=90, lots=5)
    desk.diff(bids={90: 40, 89: 1})
    desk.trade(90, 40, buyer_is_maker=True)
    assert desk.fills() == []
    desk.trade(90, 3, buyer_is_maker=True)
    assert desk.fills() == [(90, 3)]


def test_an_order_whose_price_falls_out_of_sight_keeps_its_place() -> None:
    desk = Desk()
    desk.place(price=98, lots=5)  # 30 ahead
    desk.diff(bids={98: 0})  # the book's window moved up: 99 is its last price now
    desk.diff(bids={98: 30, 97: 1})
    desk.trade(98, 30, buyer_is_maker=True)
    assert desk.fills() == []


def test_a_resting_order_that_the_other_side_reaches_fills_as_maker_with_what_came() -> None:
    desk = Desk()
    desk.place(price=101, lots=9)
    desk.diff(bids={100: 0}, asks={101: 4})
    assert desk.fills() == [(101, 4)]
    assert desk.answers[-1].maker
    desk.diff(asks={101: 4})
    assert desk.fills() == [(101, 4)], "the same lots again are not new"
    desk.diff(bids={99: 0}, asks={99: 3})
    assert desk.fills() == [(101, 4), (101, 3)], "at its own price, though they ask less"
    desk.place("c2", lots=1)
    assert desk.fills("c2") == [(102, 1)], "what filled a resting order is taken"


def test_own_orders_do_not_see_each_other() -> None:
    desk = Desk()
    desk.place("c1", price=101, lots=5)
    answers = desk.place("c2", side="sell", price=101, lots=5)
    assert kinds(answers) == ["VenueAccepted"]
    assert desk.venue.open_count == 2
