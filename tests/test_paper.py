"""The paper venue fills as an exchange would, and never better than the book that it was shown."""

import json
import random
from collections import Counter
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tbx.core.kernel.clock import MS_NS, SECOND_NS, ManualClock
from tbx.core.kernel.kernel import Kernel
from tbx.core.market.book import BUY, SELL
from tbx.core.market.data import MarketData
from tbx.core.model.instruments import Instrument
from tbx.core.model.messages import (
    AmendAtVenue,
    CancelAtVenue,
    PlaceAtVenue,
    VenueAccepted,
    VenueAmended,
    VenueEnded,
    VenueFilled,
    VenueRejected,
    VenueRequestFailed,
)
from tbx.core.model.records import Amend
from tbx.core.state.memory import MemoryStore
from tbx.venues.client import VenueClient
from tbx.venues.paper import PaperVenue
from tbx.venues.paper_liquidity import Liquidity

pytestmark = pytest.mark.paper_trading

COIN = Instrument(
    exchange="xeggex",
    pair="RVN_USDT",
    symbol="RVN/USDT",
    base="RVN",
    quote="USDT",
    tick=Decimal("0.01"),
    lot=Decimal(1),
    maker_fee=Decimal("0.001"),
    taker_fee=Decimal("0.002"),
    fee_in="received",
    quote_decimals=4,
)
ANSWERS = (VenueAccepted, VenueFilled, VenueEnded, VenueRejected, VenueAmended, VenueRequestFailed)
BIDS = {100: 10, 99: 20, 98: 30}
ASKS = {102: 10, 103: 20, 104: 30}


class Desk:
    """A paper venue in virtual time, on a book of one pair that the test moves by hand."""

    def __init__(self, seed: int = 1, latency_ns: int = 0, instrument: Instrument = COIN, **options: Any) -> None:
        self.clock = ManualClock()
        self.kernel = Kernel(self.clock, MemoryStore(self.clock.call_soon))
        self.data = MarketData(self.kernel, [instrument])
        self.rng = random.Random(seed)
        self.venue = PaperVenue(
            self.kernel, "xeggex", self.data, rng=self.rng, run="7", latency_ns=latency_ns, **options
        )
        self.kernel.add(self.data)
        self.kernel.add(self.venue)
        self.answers: list[Any] = []
        for kind in ANSWERS:
            self.kernel.bus.subscribe(kind, self.answers.append)
        self.kernel.start()
        self.update_id = 1
        self.snapshot(BIDS, ASKS)

    def snapshot(self, bids: dict[int, int], asks: dict[int, int]) -> None:
        self.update_id += 1
        frame = {"lastUpdateId": self.update_id, "bids": texts(bids), "asks": texts(asks)}
        self._frame(frame)

    def diff(self, bids: dict[int, int] = {}, asks: dict[int, int] = {}) -> None:  # noqa: B006
        self.update_id += 1
        self._frame(
            {
                "e": "depthUpdate",
                "E": 1,
                "s": "RVN",
                "U": self.update_id,
                "u": self.update_id,
                "b": texts(bids),
                "a": texts(asks),
            }
        )

    def trade(self, price: int, lots: int, buyer_is_maker: bool) -> None:
        p, q = texts({price: lots})[0]
        self._frame({"e": "trade", "E": 1, "s": "RVN", "t": 1, "p": p, "q": q, "T": 1, "m": buyer_is_maker, "M": True})

    def _frame(self, frame: dict[str, Any]) -> None:
        raw = json.dumps(frame, separators=(",", ":")).encode()
        self.data.frame("xeggex", "RVN_USDT", raw, self.clock.now_ns())
        assert not self.data.troubles

    def place(self, client_id: str = "c1", side: str = "buy", lots: int = 5, price: int | None = None, **more: Any) -> Any:
        kind = more.pop("type", "market" if price is None else "limit")
        tif = more.pop("tif", "IOC" if kind == "market" else "GTC")
        request = PlaceAtVenue(
            client_id=client_id,
            pair=more.pop("pair", "RVN_USDT"),
            side=side,  # type: ignore[arg-type]
            type=kind,
            qty_lots=lots,
            price_ticks=price,
            tif=tif,
            **more,
        )
        return self.ask(self.venue.place, request)

    def cancel(self, client_id: str = "c1") -> Any:
        return self.ask(self.venue.cancel, CancelAtVenue(client_id=client_id, pair="RVN_USDT"))

    def amend(self, client_id: str = "c1", lots: int | None = None, price: int | None = None) -> Any:
        amend = Amend(qty_lots=lots, price_ticks=price)
        return self.ask(self.venue.amend, AmendAtVenue(client_id=client_id, pair="RVN_USDT", amend=amend))

    def ask(self, action: Any, request: Any) -> list[Any]:
        """What the venue says to a request within its latency."""
        before = len(self.answers)
        action(request)
        self.clock.advance(self.venue.latency_ns)
        return self.answers[before:]

    def fills(self, client_id: str = "c1") -> list[tuple[int, int]]:
        return [(m.price_ticks, m.qty_lots) for m in self.answers if fill_of(m, client_id)]


def fill_of(message: Any, client_id: str) -> bool:
    return isinstance(message, VenueFilled) and message.client_id == client_id


def texts(levels: dict[int, int]) -> list[list[str]]:
    return [[f"{price // 100}.{price % 100:02d}", str(lots)] for price, lots in levels.items()]


def kinds(answers: list[Any]) -> list[str]:
    return [type(a).__name__ for a in answers]


# --- market orders


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
        PlaceAtVenue(client_id="c1", pair="RVN_USDT", side="buy", type="market", qty_lots=5, price_ticks=None, tif="IOC")
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


# --- consumption


def test_the_same_displayed_lot_never_fills_two_orders() -> None:
    desk = Desk()
    desk.place("c1", lots=8)
    desk.place("c2", lots=8)
    assert desk.fills("c1") == [(102, 8)]
    assert desk.fills("c2") == [(102, 2), (103, 6)]


def test_only_what_is_newly_displayed_can_be_taken_again() -> None:
    desk = Desk()
    desk.place("c1", lots=10)
    desk.diff(asks={104: 31})
    desk.place("c2", lots=1)
    assert desk.fills("c2") == [(103, 1)], "an update elsewhere refills nothing"
    desk.diff(asks={102: 13})
    desk.place("c3", lots=4)
    assert desk.fills("c3") == [(102, 3), (103, 1)], "three lots were added"


def test_a_level_that_goes_and_comes_back_is_new() -> None:
    desk = Desk()
    desk.place("c1", lots=10)
    desk.diff(asks={102: 0})
    desk.diff(asks={102: 7})
    desk.place("c2", lots=10)
    assert desk.fills("c2") == [(102, 7), (103, 3)]


@given(st.lists(st.tuples(st.integers(0, 30), st.lists(st.integers(1, 20), max_size=4)), min_size=1, max_size=20))
def test_lots_taken_at_a_price_never_exceed_what_was_displayed_there(steps: list[tuple[int, list[int]]]) -> None:
    """Against a model in which each displayed lot is a thing of its own."""
    shown = 0
    free, used = 0, 0  # of the lots that are displayed
    liquidity = Liquidity(lambda n: [(100, shown)] if shown else [], lambda prices: [shown for _ in prices], +1)
    ever, taken = 0, 0
    for lots, orders in steps:
        ever += max(0, lots - shown)
        for _ in range(lots, shown):
            if free:
                free -= 1
            else:
                used -= 1
        free += max(0, lots - shown)
        shown = lots
        liquidity.moved()
        for want in orders:
            assert liquidity.offers(want, None) == (free >= want)
            got = sum(n for _, n in liquidity.take(want, None))
            assert got == min(want, free)
            free, used, taken = free - got, used + got, taken + got
    assert taken <= ever
    assert free + used == shown


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


# --- the queue


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


def test_a_fee_of_half_a_unit_is_rounded_up() -> None:
    desk = Desk(instrument=msgspec.structs.replace(COIN, fee_in="quote", taker_fee=Decimal("0.00125")))
    desk.place(side="sell", lots=1)  # 1.00 x 0.00125
    assert desk.answers[-1].fee == Decimal("0.0013")


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
        desk.ask(lambda i: desk.venue.query(f"c{i}", known.append), i)
    assert known == [False] * 15 + [True] * 5


# --- restarts and queries


def test_a_query_repeats_what_is_known_and_says_whether_the_order_was_taken() -> None:
    desk = Desk()
    first = desk.place(price=102, lots=15)
    known: list[bool | None] = []
    assert desk.ask(lambda _: desk.venue.query("c1", known.append), None) == first
    assert desk.ask(lambda _: desk.venue.query("nobody", known.append), None) == []
    assert known == [True, False]


def test_a_venue_that_is_not_running_takes_nothing_and_knows_nothing() -> None:
    desk = Desk(latency_ns=MS_NS)
    desk.venue.place(
        PlaceAtVenue(client_id="c1", pair="RVN_USDT", side="buy", type="market", qty_lots=1, price_ticks=None, tif="IOC")
    )
    desk.venue.stop()
    known: list[bool | None] = []
    desk.venue.query("c1", known.append)
    assert desk.place("c2") == []
    assert known == [None]
    assert desk.venue.status().status == "disconnected"
    desk.venue.start()
    desk.ask(lambda _: desk.venue.query("c1", known.append), None)
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


# --- laws, over whatever happens

LEVELS = st.dictionaries(st.integers(0, 11), st.integers(0, 12), max_size=4)
STEPS = st.one_of(
    st.tuples(st.just("market moves"), st.integers(95, 105), LEVELS, LEVELS),
    st.tuples(st.just("trade"), st.integers(95, 106), st.integers(1, 30), st.booleans()),
    st.tuples(
        st.just("place"),
        st.sampled_from(["buy", "sell"]),
        st.integers(1, 40),
        st.one_of(st.none(), st.integers(94, 107)),
        st.sampled_from(["GTC", "IOC", "FOK"]),
        st.booleans(),
    ),
    st.tuples(st.just("cancel"), st.integers(0, 20)),
    st.tuples(st.just("amend"), st.integers(0, 20), st.integers(1, 40), st.one_of(st.none(), st.integers(94, 107))),
)


class Laws:
    """Plays steps on a desk and keeps its own account of what was displayed and what was wanted."""

    def __init__(self, seed: int) -> None:
        self.desk = Desk(seed)
        self.shown: dict[tuple[int, int], int] = {}
        self.ever: Counter[tuple[int, int]] = Counter()  # (side, price) -> lots ever displayed
        self.wanted: dict[str, tuple[str, int | None, int]] = {}
        self._see()

    def play(self, steps: list[tuple[Any, ...]]) -> list[Any]:
        for what, *values in steps:
            getattr(self, "_" + what.replace(" ", "_"))(*values)
            self._see()
        return self.desk.answers

    def _market_moves(self, mid: int, bids: dict[int, int], asks: dict[int, int]) -> None:
        book = self.desk.data.book("xeggex", "RVN_USDT")
        gone = {p: 0 for p, _ in book.levels(BUY, 99) if p >= mid}, {p: 0 for p, _ in book.levels(SELL, 99) if p <= mid}
        below = {mid - 1 - i: lots for i, lots in bids.items()}
        above = {mid + 1 + i: lots for i, lots in asks.items()}
        self.desk.diff(gone[0] | below, gone[1] | above)

    def _trade(self, price: int, lots: int, buyer_is_maker: bool) -> None:
        self.desk.trade(price, lots, buyer_is_maker)

    def _place(self, side: str, lots: int, price: int | None, tif: str, post_only: bool) -> None:
        client_id = f"c{len(self.wanted)}"
        self.wanted[client_id] = side, price, lots
        post_only = post_only and price is not None and tif == "GTC"
        self.desk.place(client_id, side, lots, price, tif=tif, post_only=post_only)

    def _cancel(self, i: int) -> None:
        self.desk.cancel(f"c{i}")

    def _amend(self, i: int, lots: int, price: int | None) -> None:
        for answer in self.desk.amend(f"c{i}", lots, price):
            if isinstance(answer, VenueAmended):
                self.wanted[f"c{i}"] = self.wanted[f"c{i}"][0], answer.price_ticks, answer.qty_lots

    def _see(self) -> None:
        book = self.desk.data.book("xeggex", "RVN_USDT")
        now = {(side, p): lots for side in (BUY, SELL) for p, lots in book.levels(side, 99)}
        for key, lots in now.items():
            self.ever[key] += max(0, lots - self.shown.get(key, 0))
        self.shown = now


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(STEPS, max_size=25), st.integers(0, 3))
def test_the_laws_of_fills_hold_whatever_happens(steps: list[tuple[Any, ...]], seed: int) -> None:
    laws = Laws(seed)
    answers = laws.play(steps)
    desk = laws.desk
    assert desk.kernel.faults == []
    fills = [a for a in answers if isinstance(a, VenueFilled)]
    assert len({f.trade_id for f in fills}) == len(fills)
    taken: Counter[tuple[int, int]] = Counter()
    for fill in fills:
        side, _, _ = laws.wanted[fill.client_id]
        assert fill.qty_lots > 0
        if not fill.maker:
            taken[SELL if side == "buy" else BUY, fill.price_ticks] += fill.qty_lots
    assert all(lots <= laws.ever[key] for key, lots in taken.items()), "a displayed lot was taken twice"
    ended = Counter(a.client_id for a in answers if isinstance(a, VenueEnded | VenueRejected))
    for client_id, (side, price, lots) in laws.wanted.items():
        mine = [a for a in answers if a.client_id == client_id and not isinstance(a, VenueRequestFailed)]
        filled = sum(a.qty_lots for a in mine if isinstance(a, VenueFilled))
        assert filled <= lots
        if price is not None and not any(isinstance(a, VenueAmended) for a in mine):
            sign = 1 if side == "buy" else -1
            assert all((price - a.price_ticks) * sign >= 0 for a in mine if isinstance(a, VenueFilled))
        resting = client_id in desk.venue._open
        assert [filled == lots, ended[client_id] == 1, resting].count(True) == 1, "one end, or still open"
        if ended[client_id]:
            assert isinstance(mine[-1], VenueEnded | VenueRejected), "nothing comes after the end"


@settings(max_examples=25, deadline=None)
@given(st.lists(STEPS, max_size=25))
def test_the_same_seed_gives_the_same_answers(steps: list[tuple[Any, ...]]) -> None:
    assert Laws(5).play(steps) == Laws(5).play(steps)
