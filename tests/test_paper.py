"""The paper venue takes, refuses, amends and repeats orders as an exchange would."""

from decimal import Decimal
from typing import Any

import msgspec
import pytest

from tbx.core.kernel.clock import MS_NS, SECOND_NS
from tbx.core.model.messages import (
    AskAtVenue,
    CancelAtVenue,
    PlaceAtVenue,
    VenueEnded,
    VenueFilled,
)
from tbx.venues.client import VenueClient

from .paper_desk import ASKS, BIDS, COIN, Desk, kinds

pytestmark = pytest.mark.paper_trading

# --- market orders


def asked(client_id: str) -> AskAtVenue:
    return AskAtVenue(client_id=client_id, pair="RVN_USDT", side="buy", qty_lots=1)


def test_a_market_order_walks_the_book_and_each_level_is_one_fill() -> None:
    desk = Desk()
    answers = desk.place(lots=25)
    assert desk.fills() == [(102, 10), (103, 15)]
    assert kinds(answers) == ["VenueFilled", "VenueFilled"]
    assert len({a.trade_id for a in answers}) == 2
    assert not any(a.maker for a in answers)


def test_a_market_order_stops_at_its_guard_price_and_the_rest_expires() -> None:
    desk = Desk()
    answers = desk.place(lots=25, price=102, type="market")
    assert desk.fills() == [(102, 10)]
    assert kinds(answers) == ["VenueFilled", "VenueEnded"]
    assert answers[-1].kind == "expired"


def test_a_market_order_larger_than_the_book_takes_it_all_and_the_rest_expires() -> None:
    desk = Desk()
    answers = desk.place(side="sell", lots=1_000)
    assert desk.fills() == [(100, 10), (99, 20), (98, 30)]
    assert answers[-1].kind == "expired"


def test_a_deep_book_is_walked_to_its_end() -> None:
    desk = Desk()
    deep = {200 + i: 1 for i in range(300)}
    desk.snapshot(BIDS, deep)
    desk.place(lots=300)
    assert desk.fills() == list(deep.items())


def test_what_an_order_meets_is_the_book_at_its_arrival() -> None:
    desk = Desk(latency_ns=5 * MS_NS)
    desk.venue.place(
        PlaceAtVenue(
            client_id="c1", pair="RVN_USDT", side="buy", type="market", qty_lots=5, price_ticks=None, tif="IOC"
        )
    )
    desk.clock.advance(4 * MS_NS)
    desk.diff(asks={102: 0})
    desk.clock.advance(MS_NS - 1)
    assert desk.answers == []
    desk.clock.advance(1)
    assert desk.fills() == [(103, 5)]
    assert desk.answers[0].timestamp_ns == desk.clock.now_ns()


def test_a_cancel_never_overtakes_its_order_however_the_latency_varies() -> None:
    for seed in range(50):
        desk = Desk(seed=seed, latency_ns=MS_NS, jitter_ns=50 * MS_NS)
        request = PlaceAtVenue(
            client_id="c1", pair="RVN_USDT", side="buy", type="limit", qty_lots=5, price_ticks=90, tif="GTC"
        )
        desk.venue.place(request)
        desk.venue.cancel(CancelAtVenue(client_id="c1", pair="RVN_USDT"))
        desk.clock.advance(60 * MS_NS)
        assert kinds(desk.answers) == ["VenueAccepted", "VenueEnded"]


# --- limit orders


def test_a_limit_order_takes_what_its_price_allows_and_rests_with_the_remainder() -> None:
    desk = Desk()
    answers = desk.place(lots=15, price=102)
    assert kinds(answers) == ["VenueAccepted", "VenueFilled"]
    assert desk.fills() == [(102, 10)]
    assert desk.venue.open_count == 1


def test_ioc_leaves_nothing_behind() -> None:
    desk = Desk()
    answers = desk.place(lots=15, price=102, tif="IOC")
    assert kinds(answers) == ["VenueAccepted", "VenueFilled", "VenueEnded"]
    assert answers[-1].kind == "expired"
    assert desk.venue.open_count == 0


@pytest.mark.parametrize(("lots", "filled"), [(30, [(102, 10), (103, 20)]), (31, [])])
def test_fok_fills_whole_or_not_at_all(lots: int, filled: list[tuple[int, int]]) -> None:
    desk = Desk()
    answers = desk.place(lots=lots, price=103, tif="FOK")
    assert desk.fills() == filled
    assert isinstance(answers[-1], VenueFilled if filled else VenueEnded)
    assert desk.fills("c2") == []
    desk.place("c2", lots=1)
    assert desk.fills("c2") == [(104 if filled else 102, 1)], "a fill-or-kill that failed took nothing"


def test_post_only_that_would_take_is_refused_and_one_that_would_not_rests() -> None:
    desk = Desk()
    refused = desk.place("c1", price=102, post_only=True)
    assert [r.code for r in refused] == ["POST_ONLY_WOULD_TAKE"]
    assert kinds(desk.place("c2", price=101, post_only=True)) == ["VenueAccepted"]
    assert kinds(desk.place("c3", side="sell", price=100, post_only=True)) == ["VenueRejected"]


def test_gtd_rests_like_gtc() -> None:
    desk = Desk()
    assert kinds(desk.place(price=99, tif="GTD")) == ["VenueAccepted"]
    assert desk.venue.open_count == 1


# --- cancel and amend


def test_a_cancel_ends_the_order_once() -> None:
    desk = Desk()
    desk.place(price=99)
    assert [(a.kind) for a in desk.cancel()] == ["cancelled"]
    assert [(a.request, a.code) for a in desk.cancel()] == [("cancel", "UNKNOWN_ORDER")]
    desk.trade(90, 100, buyer_is_maker=True)
    assert desk.fills() == []


def test_less_quantity_keeps_the_place_in_the_queue() -> None:
    desk = Desk()
    desk.place(price=100, lots=5)
    desk.trade(100, 10, buyer_is_maker=True)
    assert kinds(desk.amend(lots=3)) == ["VenueAmended"]
    desk.trade(100, 10, buyer_is_maker=True)
    assert desk.fills() == [(100, 3)]


@pytest.mark.parametrize("change", [{"lots": 6}, {"lots": 5, "price": 99}])
def test_more_quantity_or_another_price_goes_to_the_back_of_the_queue(change: dict[str, int]) -> None:
    desk = Desk()
    desk.place(price=100, lots=5)
    desk.trade(100, 10, buyer_is_maker=True)
    assert kinds(desk.amend(**change)) == ["VenueAmended"]
    desk.trade(change.get("price", 100), 10, buyer_is_maker=True)
    assert desk.fills() == []


def test_an_amend_to_a_price_that_trades_takes_after_it_is_confirmed() -> None:
    desk = Desk()
    desk.place(price=100, lots=15)
    answers = desk.amend(price=102)
    assert kinds(answers) == ["VenueAmended", "VenueFilled"]
    assert (answers[1].price_ticks, answers[1].qty_lots, answers[1].maker) == (102, 10, False)
    assert desk.venue.open_count == 1
    assert kinds(desk.amend(price=103)) == ["VenueAmended", "VenueFilled"]
    assert desk.venue.open_count == 0


@pytest.mark.parametrize(
    ("change", "code"),
    [({"lots": 2}, "INVALID_AMEND"), ({"price": 0}, "INVALID_AMEND"), ({"price": 102}, "POST_ONLY_WOULD_TAKE")],
)
def test_an_amend_that_cannot_be_leaves_the_order_as_it_was(change: dict[str, int], code: str) -> None:
    desk = Desk()
    desk.place(price=100, lots=5, post_only=True)
    desk.trade(100, 12, buyer_is_maker=True)
    assert [a.code for a in desk.amend(**change)] == [code]
    desk.trade(100, 100, buyer_is_maker=True)
    assert desk.fills() == [(100, 2), (100, 3)]


def test_an_amend_of_an_order_that_is_gone_fails() -> None:
    assert [(a.request, a.code) for a in Desk().amend(lots=3)] == [("amend", "UNKNOWN_ORDER")]


# --- fees, refusals, repeats


def test_fees_are_in_what_is_received_and_rounded_half_up() -> None:
    desk = Desk()
    desk.place("c1", lots=5)
    desk.place("c2", side="sell", lots=5)
    desk.place("c3", price=101, lots=3)
    desk.trade(101, 3, buyer_is_maker=True)
    fees = [(m.fee, m.fee_currency) for m in desk.answers if isinstance(m, VenueFilled)]
    assert fees == [(Decimal("0.01"), "RVN"), (Decimal("0.01"), "USDT"), (Decimal("0.003"), "RVN")]


@pytest.mark.parametrize(("lots", "fee"), [(1, "0.0012"), (3, "0.0037")])
def test_a_fee_in_quote_is_rounded_half_up_to_its_decimals(lots: int, fee: str) -> None:
    desk = Desk(instrument=msgspec.structs.replace(COIN, fee_in="quote", taker_fee=Decimal("0.00122")))
    desk.place(lots=lots)  # at 1.02: 0.0012444 and 0.0037332
    assert desk.answers[-1].fee == Decimal(fee)


def test_a_fee_is_rounded_down_so_that_fees_never_exceed_what_was_reserved() -> None:
    desk = Desk(instrument=msgspec.structs.replace(COIN, fee_in="quote", taker_fee=Decimal("0.00125")))
    desk.place(side="sell", lots=1)  # 1.00 x 0.00125
    assert desk.answers[-1].fee == Decimal("0.0012")


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"pair": "XYZ_USDT"}, "INVALID_PAIR"),
        ({"lots": 0}, "INVALID_ORDER"),
        ({"lots": -5}, "INVALID_ORDER"),
        ({"type": "limit", "price": None}, "INVALID_ORDER"),
    ],
)
def test_what_cannot_be_taken_is_rejected_with_a_reason(change: dict[str, Any], code: str) -> None:
    answers = Desk().place(**change)
    assert [a.code for a in answers] == [code]
    assert answers[0].reason


def test_nothing_is_filled_against_a_book_that_is_out_of_date() -> None:
    desk = Desk()
    desk.clock.advance(3 * SECOND_NS)
    assert [a.code for a in desk.place("c1")] == ["MARKET_DATA_STALE"]
    desk.diff(bids={100: 11})
    assert kinds(desk.place("c2")) == ["VenueFilled"]
    desk.data.lost("xeggex")
    assert [a.code for a in desk.place("c3")] == ["MARKET_DATA_STALE"]


def test_a_pair_that_is_halted_takes_no_orders() -> None:
    desk = Desk(instrument=msgspec.structs.replace(COIN, trading=False))
    assert [a.code for a in desk.place()] == ["MARKET_CLOSED"]


def test_a_client_id_is_taken_once_and_answered_the_same_again() -> None:
    desk = Desk()
    first = desk.place(lots=12)
    assert desk.place(lots=12) == first
    desk.place("c2", lots=1)
    assert desk.fills("c2") == [(103, 1)], "the repeat took nothing"


def test_open_orders_and_requests_on_the_way_are_bounded() -> None:
    desk = Desk()
    desk.venue.OPEN_MAX = 2  # type: ignore[misc]
    desk.venue.INBOX_MAX = 3  # type: ignore[misc]
    for i in range(3):
        desk.place(f"o{i}", price=90)
    assert desk.answers[-1].code == "TOO_MANY_ORDERS"
    desk.venue.latency_ns = SECOND_NS
    for i in range(4):
        request = PlaceAtVenue(
            client_id=f"i{i}", pair="RVN_USDT", side="buy", type="market", qty_lots=1, price_ticks=None, tif="IOC"
        )
        desk.venue.place(request)
    assert [(a.client_id, a.code) for a in desk.answers[3:]] == [("i3", "RATE_LIMIT_EXCEEDED")]


def test_only_so_many_ended_orders_are_remembered() -> None:
    desk = Desk()
    desk.venue.ENDED_KEPT = 5  # type: ignore[misc]
    for i in range(20):
        desk.place(f"c{i}", lots=1)
    known = []
    for i in range(20):
        desk.ask(lambda i: desk.venue.query(asked(f"c{i}"), known.append), i)
    assert known == [False] * 15 + [True] * 5


# --- restarts and queries


def test_a_query_repeats_what_is_known_and_says_whether_the_order_was_taken() -> None:
    desk = Desk()
    first = desk.place(price=102, lots=15)
    known: list[bool | None] = []
    assert desk.ask(lambda _: desk.venue.query(asked("c1"), known.append), None) == first
    assert desk.ask(lambda _: desk.venue.query(asked("nobody"), known.append), None) == []
    assert known == [True, False]


def test_a_venue_that_is_not_running_takes_nothing_and_knows_nothing() -> None:
    desk = Desk(latency_ns=MS_NS)
    desk.venue.place(
        PlaceAtVenue(
            client_id="c1", pair="RVN_USDT", side="buy", type="market", qty_lots=1, price_ticks=None, tif="IOC"
        )
    )
    desk.venue.stop()
    known: list[bool | None] = []
    desk.venue.query(asked("c1"), known.append)
    assert desk.place("c2") == []
    assert known == [None]
    assert desk.venue.status().status == "disconnected"
    desk.venue.start()
    desk.ask(lambda _: desk.venue.query(asked("c1"), known.append), None)
    assert known == [None, False], "an order that was lost on the way is proven not taken"


def test_a_resting_order_is_taken_over_after_a_restart_behind_everybody() -> None:
    desk = Desk()
    request = PlaceAtVenue(
        client_id="old", pair="RVN_USDT", side="buy", type="limit", qty_lots=9, price_ticks=100, tif="GTC"
    )
    desk.venue.seed_order(request, "P6-O1", 4, desk.clock.now_ns())
    desk.trade(100, 10, buyer_is_maker=True)
    assert desk.fills("old") == []
    desk.trade(100, 9, buyer_is_maker=True)
    assert desk.fills("old") == [(100, 5)]
    assert desk.answers[-1].venue_order_id == "P6-O1"
    assert desk.answers[-1].trade_id.startswith("P7-"), "trade ids of another run"


def test_an_order_taken_over_before_there_is_a_book_joins_when_it_comes() -> None:
    desk = Desk()
    desk.data.book("xeggex", "RVN_USDT").set_levels([], [], 2)
    request = PlaceAtVenue(
        client_id="old", pair="RVN_USDT", side="buy", type="limit", qty_lots=5, price_ticks=100, tif="GTC"
    )
    desk.venue.seed_order(request, "P6-O1", 0, desk.clock.now_ns())
    desk.snapshot(BIDS, ASKS)
    desk.trade(100, 12, buyer_is_maker=True)
    assert desk.fills("old") == [(100, 2)]


def test_the_venue_is_a_client_and_says_how_it_is() -> None:
    desk = Desk()
    client: VenueClient = desk.venue
    status = client.status()
    assert (client.name, status.status) == ("xeggex", "connected")
    assert status.last_ping_ms == desk.clock.now_ns() // MS_NS
    assert status.rate_limit_reset_ms > status.last_ping_ms
    desk.clock.advance(3 * SECOND_NS)
    assert client.status().status == "stale"
    assert [i.pair for i in client.instruments()] == ["RVN_USDT"]
    assert desk.kernel.faults == []
