"""What a venue's filters refuse is refused here first, and what is named as the nearest valid value is taken.

The book: xeggex lists RVN at 0.02449 to 0.02451 in steps of 0.000001, in lots of 0.01.
"""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tbx.core.execution.filters import Terms, Wrong
from tbx.core.market.data import Feed
from tbx.core.model.instruments import Instrument
from tbx.core.model.messages import Refusal, Submitted, VenueAmended
from tbx.core.model.records import Order, State

from .desk import RVN, Desk, refused

pytestmark = pytest.mark.orders

D = Decimal


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def list_with(desk: Desk, **filters: Any) -> Terms:
    """The pair is listed with these filters from now on."""
    engine, key = desk.node.engine, ("xeggex", RVN)
    instrument = msgspec.structs.replace(engine.instruments[key], **filters)
    engine.instruments[key] = instrument  # type: ignore[index]
    known = engine.terms[key]
    engine.terms[key] = Terms(instrument, known.feed, known.wallet, known.paper_wallet)
    return engine.terms[key]


def wrong_fields(answer: Any) -> list[tuple[str, str]]:
    assert isinstance(answer, Refusal), answer
    return [(error["field"], error["code"]) for error in answer.errors]


RANGE = {"min_price_ticks": 20_000, "max_price_ticks": 30_000}
BAND = {
    "buy_price_min": D("0.9"),
    "buy_price_max": D("1.01"),
    "sell_price_min": D("0.99"),
    "sell_price_max": D("1.1"),
}
MARKET = {"market_min_lots": 10_000, "market_max_lots": 500_000, "market_step_lots": 300}
LIMIT = {"type": "limit", "price": "0.02400"}
HELD = {"type": "stop_loss", "side": "sell", "stop_price": "0.02400"}

# name: filters, request, wrong field, code, the nearest valid value that is named
ROWS: dict[str, tuple[dict[str, Any], dict[str, str], str, str, str]] = {
    "a price under the range": (RANGE, LIMIT | {"price": "0.01"}, "price", "PRICE_RANGE", "0.02"),
    "a price over the range": (RANGE, LIMIT | {"price": "0.04", "side": "sell"}, "price", "PRICE_RANGE", "0.03"),
    "a stop under the range": (RANGE, HELD | {"stop_price": "0.01"}, "stop_price", "PRICE_RANGE", "0.02"),
    "an exit over the range": (RANGE, LIMIT | {"take_profit": "0.05"}, "take_profit", "PRICE_RANGE", "0.03"),
    "an exit under the range": (RANGE, LIMIT | {"stop_loss": "0.01"}, "stop_loss", "PRICE_RANGE", "0.02"),
    "a price between two steps": (RANGE, LIMIT | {"price": "0.0240005"}, "price", "PRICE_STEP", "0.024001"),
    "a price between steps under the range": (RANGE, LIMIT | {"price": "0.0100005"}, "price", "PRICE_STEP", "0.02"),
    "a quantity between two steps": ({}, LIMIT | {"quantity": "1000.001"}, "quantity", "QUANTITY_STEP", "1000.01"),
    "a quantity under the range": (
        {"min_lots": 5_000},
        LIMIT | {"quantity": "49"},
        "quantity",
        "BELOW_MIN_QUANTITY",
        "50",
    ),
    "a quantity over the range": (
        {"max_lots": 5_000},
        LIMIT | {"quantity": "51"},
        "quantity",
        "ABOVE_MAX_QUANTITY",
        "50",
    ),
    "a quantity between steps over the range": (
        {"max_lots": 5_000},
        LIMIT | {"quantity": "51.001"},
        "quantity",
        "QUANTITY_STEP",
        "50",
    ),
    "a buy too far under the market": (BAND, LIMIT | {"price": "0.022"}, "price", "PRICE_BAND", "0.02205"),
    "a buy too far over the market": (BAND, LIMIT | {"price": "0.0248"}, "price", "PRICE_BAND", "0.024745"),
    "a sale too far under the market": (BAND, LIMIT | {"side": "sell"}, "price", "PRICE_BAND", "0.024255"),
    "a sale too far over the market": (
        BAND,
        LIMIT | {"side": "sell", "price": "0.03"},
        "price",
        "PRICE_BAND",
        "0.02695",
    ),
    "the limit of a stop too far from the stop": (
        BAND,
        HELD | {"stop_price": "0.02", "price": "0.0197"},
        "price",
        "PRICE_BAND",
        "0.0198",
    ),
    "a held sale too small for the market": (MARKET, HELD | {"quantity": "99"}, "quantity", "MARKET_QUANTITY", "102"),
    "a held sale too large for the market": (
        MARKET,
        HELD | {"quantity": "5001"},
        "quantity",
        "MARKET_QUANTITY",
        "4998",
    ),
    "a held sale between steps": (MARKET, HELD | {"quantity": "1000"}, "quantity", "MARKET_QUANTITY", "999"),
    "an entry that its exits could not sell": (
        MARKET,
        LIMIT | {"quantity": "5001", "stop_loss": "0.02"},
        "quantity",
        "MARKET_QUANTITY",
        "4998",
    ),
    "a value under the least": (
        {"min_notional": D(5)},
        LIMIT | {"quantity": "208.33"},
        "quantity",
        "BELOW_MIN_NOTIONAL",
        "208.34",
    ),
    "a value over the greatest": (
        {"max_notional": D(50)},
        LIMIT | {"quantity": "2083.34"},
        "quantity",
        "ABOVE_MAX_NOTIONAL",
        "2083.33",
    ),
    "a market sale, seen at its guard price": (
        {"min_notional": D(5)},
        {"side": "sell", "quantity": "205"},
        "quantity",
        "BELOW_MIN_NOTIONAL",
        "205.11",
    ),
    "a held sale whose value is under the least at its stop": (
        {"min_notional": D(5)},
        HELD | {"stop_price": "0.02", "quantity": "249.99"},
        "quantity",
        "BELOW_MIN_NOTIONAL",
        "250",
    ),
    "more than the position that the venue allows": (
        {"max_position": D(6_000)},
        LIMIT | {"quantity": "1000.01"},
        "quantity",
        "ABOVE_MAX_POSITION",
        "1000",
    ),
}


@pytest.mark.parametrize("name", ROWS)
def test_what_a_filter_refuses_is_named_with_a_value_that_is_taken(desk: Desk, name: str) -> None:
    filters, request, field, code, nearest = ROWS[name]
    desk.order("buy", "5000")
    list_with(desk, **filters)
    fields = {"side": "buy", "quantity": "1000", **request}
    if "quantity" not in request and filters is MARKET:
        fields["quantity"] = "999"
    answer = desk.submit(**fields)
    shown = {"stop_price": "stopPrice", "take_profit": "takeProfit", "stop_loss": "stopLoss"}.get(field, field)
    assert wrong_fields(answer) == [(shown, code)]
    assert nearest in answer.detail.replace(";", " ").split(), answer.detail
    taken = desk.submit(**fields | {field: nearest})
    assert isinstance(taken, Submitted), taken
    desk.check()


def test_a_pair_whose_trading_stops_is_refused_at_once_until_it_goes_on(desk: Desk) -> None:
    desk.node.engine.set_trading("xeggex", RVN, False)
    answer = desk.submit(**LIMIT)
    assert wrong_fields(answer) == [("pair", "MARKET_CLOSED")]
    desk.node.engine.set_trading("xeggex", RVN, True)
    desk.node.engine.set_trading("xeggex", "NO_SUCH", False)
    assert isinstance(desk.submit(**LIMIT), Submitted)


def test_every_wrong_field_is_named_at_once(desk: Desk) -> None:
    list_with(desk, **RANGE, **BAND, max_lots=5_000)
    answer = desk.submit("buy", "60", type="limit", price="0.03", stop_loss="0.01", take_profit="0.0300005")
    assert wrong_fields(answer) == [
        ("quantity", "ABOVE_MAX_QUANTITY"),
        ("stopLoss", "PRICE_RANGE"),
        ("takeProfit", "PRICE_STEP"),
        ("price", "PRICE_BAND"),
    ]


def test_a_market_order_never_leaves_at_a_price_that_the_venue_would_not_take(desk: Desk) -> None:
    list_with(desk, buy_price_max=D("1.001"), sell_price_min=D("0.999"))
    order = desk.order("buy", "1000")
    assert order.guard_ticks == 24_524, "0.1 % over the mid, and not the 0.5 % of the slippage guard"
    assert order.state is State.FILLED
    sale = desk.order("sell", "1000")
    assert sale.guard_ticks == 24_476


def test_a_market_order_that_would_need_a_price_beyond_the_band_says_so(desk: Desk) -> None:
    list_with(desk, buy_price_max=D("1.0005"))
    answer = desk.submit("buy", "50000")
    assert refused(answer) == "SLIPPAGE_TOO_HIGH"
    assert "need a price beyond 0.024512, which xeggex does not take now" in answer.detail
    assert "40000 fits now" in answer.detail


def test_the_least_value_holds_at_the_market_only_where_the_venue_says_so(desk: Desk) -> None:
    desk.order("buy", "5000")
    list_with(desk, min_notional=D(5), min_notional_market=False)
    assert isinstance(desk.submit(**HELD | {"stop_price": "0.02", "quantity": "200"}), Submitted)
    assert refused(desk.submit("buy", "200", type="limit", price="0.02")) == "BELOW_MIN_NOTIONAL"


def test_exits_whose_value_the_venue_would_not_take_are_refused_with_their_entry(desk: Desk) -> None:
    list_with(desk, min_notional=D(5), max_notional=D(50))
    answer = desk.submit("buy", "210", type="limit", price="0.024", stop_loss="0.02", take_profit="0.3")
    assert wrong_fields(answer) == [("stopLoss", "BELOW_MIN_NOTIONAL"), ("takeProfit", "ABOVE_MAX_NOTIONAL")]
    assert "at 0.02 the least quantity is 250" in answer.errors[0]["detail"]
    assert "at 0.3 the greatest quantity is 166.66" in answer.errors[1]["detail"]


def test_a_one_sided_book_is_compared_with_the_last_trade(desk: Desk) -> None:
    list_with(desk, **BAND)
    desk.hand.trade("xeggex", RVN, "0.02", "10", buyer_is_maker=False)
    desk.book([], [("0.0245", "10")])
    assert refused(desk.submit("buy", "1000", type="limit", price="0.0245")) == "PRICE_BAND"
    assert isinstance(desk.submit("buy", "1000", type="limit", price="0.02"), Submitted)


# --- filters that count


def test_orders_that_are_open_at_the_venue_are_counted_and_held_ones_are_not(desk: Desk) -> None:
    list_with(desk, max_open_orders=2)
    desk.order("buy", "5000")
    assert desk.node.orders.open_count("paper.xeggex", RVN) == 0
    first = desk.order("buy", type="limit", price="0.02400")
    desk.order("buy", type="limit", price="0.02401")
    for _ in range(3):
        assert isinstance(desk.submit(**HELD), Submitted)
    answer = desk.submit("buy", type="limit", price="0.02402")
    assert wrong_fields(answer) == [("pair", "TOO_MANY_OPEN_ORDERS")]
    assert "2 orders of RVN_USDT are open at xeggex, which takes 2 at once" in answer.detail
    assert isinstance(desk.submit("buy", type="limit", price="0.024", exchange="binance"), Submitted)
    desk.cancel(first)
    assert isinstance(desk.submit("buy", type="limit", price="0.02402"), Submitted)
    desk.check()


def test_the_count_of_open_orders_is_the_same_after_a_restart(desk: Desk) -> None:
    desk.order("buy", type="limit", price="0.02400")
    desk.order("buy", type="limit", price="0.02401")
    desk.submit("buy", type="stop_loss", stop_price="0.03")
    desk.restart()
    assert desk.node.orders.open_count("paper.xeggex", RVN) == 2
    desk.cancel_many()
    assert desk.node.orders.open_count("paper.xeggex", RVN) == 0


def test_what_is_being_bought_counts_for_the_position_that_the_venue_allows(desk: Desk) -> None:
    list_with(desk, max_position=D(3_000))
    desk.order("buy", "1000")
    desk.order("buy", "1500", type="limit", price="0.024")
    answer = desk.submit("buy", "501", type="limit", price="0.024")
    assert refused(answer) == "ABOVE_MAX_POSITION"
    assert "2500 is held or being bought; 500 more can be bought" in answer.detail
    assert isinstance(desk.submit("buy", "500", type="limit", price="0.024"), Submitted)
    assert isinstance(desk.submit("sell", "1000"), Submitted), "sales are no matter of it"


# --- amends


def test_an_amend_is_checked_as_a_new_order_is(desk: Desk) -> None:
    order = desk.order("buy", type="limit", price="0.02400")
    list_with(desk, **RANGE, **BAND, min_lots=5_000, min_notional=D(5), max_notional=D(50), max_position=D(2_000))
    assert wrong_fields(desk.amend(order, price="0.01", quantity="49")) == [
        ("quantity", "BELOW_MIN_QUANTITY"),
        ("price", "PRICE_RANGE"),
    ]
    assert wrong_fields(desk.amend(order, price="0.025")) == [("price", "PRICE_BAND")]
    assert wrong_fields(desk.amend(order, quantity="2000.01")) == [("quantity", "ABOVE_MAX_POSITION")]
    assert wrong_fields(desk.amend(order, quantity="208.33")) == [("quantity", "BELOW_MIN_NOTIONAL")]
    assert isinstance(desk.amend(order, quantity="2000", price="0.0241"), Order)
    list_with(desk, max_position=None)
    answer = desk.amend(order, quantity="3000")
    assert refused(answer) == "ABOVE_MAX_NOTIONAL"
    assert "at 0.0241 the greatest quantity is 2074.68" in answer.detail
    desk.check()


def test_an_amend_of_a_held_sale_is_checked_for_the_market(desk: Desk) -> None:
    desk.order("buy", "5000")
    held = desk.submit(**HELD | {"quantity": "999"}).order
    list_with(desk, **MARKET, **RANGE)
    assert wrong_fields(desk.amend(held, quantity="1000", stop_price="0.01")) == [
        ("stopPrice", "PRICE_RANGE"),
        ("quantity", "MARKET_QUANTITY"),
    ]
    assert isinstance(desk.amend(held, quantity="1002", stop_price="0.02"), Order)


def test_the_rest_of_a_partly_filled_order_must_be_worth_enough(desk: Desk) -> None:
    order = desk.order("buy", "50000", type="limit", price="0.02451")
    assert order.filled_lots == 4_000_000
    list_with(desk, min_notional=D(5))
    answer = desk.amend(order, quantity="40100")
    assert refused(answer) == "BELOW_MIN_NOTIONAL"
    assert "the least quantity is 40204" in answer.detail
    assert isinstance(desk.amend(order, quantity="40204"), Order)


def test_an_order_is_amended_in_place_no_more_often_than_the_venue_takes(desk: Desk) -> None:
    list_with(desk, max_amends=2)
    order = desk.order("buy", type="limit", price="0.02400")
    assert isinstance(desk.amend(order, quantity="900"), Order)
    told = VenueAmended(
        venue="xeggex", client_id=order.venue_client_id, qty_lots=90_000, price_ticks=24_000, timestamp_ns=1
    )
    desk.node.kernel.input(told)  # once as the answer, once as a report: one amend
    assert isinstance(desk.amend(order, quantity="800"), Order)
    answer = desk.amend(order, quantity="700")
    assert wrong_fields(answer) == [("quantity", "TOO_MANY_AMENDS")]
    desk.cancel(order)
    other = desk.order("buy", type="limit", price="0.02400")
    assert isinstance(desk.amend(other, quantity="900"), Order)


# --- tickers


def test_a_stop_is_reached_by_a_ticker_before_the_depth_frame_comes(desk: Desk) -> None:
    desk.order("buy", "1000")
    held = desk.submit(**HELD).order
    book = desk.node.market.book("xeggex", RVN)
    raw = b'{"u":%d,"s":"RVN/USDT","b":"0.024000","B":"10.00","a":"0.024100","A":"10.00"}' % (book.update_id + 1)
    desk.node.market.frame("xeggex", RVN, raw, desk.clock.now_ns())
    desk.clock.settle()
    assert desk.get(held.order_id).triggered_ns is not None


def test_a_market_order_is_guarded_around_the_prices_of_the_ticker(desk: Desk) -> None:
    book = desk.node.market.book("xeggex", RVN)
    raw = b'{"u":%d,"s":"RVN/USDT","b":"0.024600","B":"10.00","a":"0.024700","A":"10.00"}' % (book.update_id + 1)
    desk.node.market.frame("xeggex", RVN, raw, desk.clock.now_ns())
    order = desk.submit("buy", "1000").order
    assert order.arrival_mid == D("0.02465")
    assert order.guard_ticks == 24_773


# --- laws


RVN_LIKE = Instrument(
    exchange="binance", pair=RVN, symbol="RVNUSDT", base="RVN", quote="USDT", tick=D("0.00001"), lot=D("0.1")
)  # fmt: skip
FEED = Feed(RVN_LIKE, 1)


@given(
    st.integers(1, 500), st.integers(1, 1_000), st.integers(0, 500), st.integers(0, 1_000), st.integers(1, 70),
    st.integers(0, 2_000),
)  # fmt: skip
def test_what_fits_one_order_at_the_market_is_the_most_that_it_can_take(
    least: int, span: int, market_least: int, market_most: int, step: int, lots: int
) -> None:
    instrument = msgspec.structs.replace(
        RVN_LIKE,
        min_lots=least,
        max_lots=least + span,
        market_min_lots=market_least,
        market_max_lots=market_most,
        market_step_lots=step,
    )
    valid = [
        n
        for n in range(1, lots + 1)
        if max(least, market_least) <= n <= min(least + span, market_most or least + span) and n % step == 0
    ]
    assert instrument.market_lots(lots) == max(valid, default=0)


@given(st.integers(1, 10**7), st.decimals("0.01", "20", places=4), st.decimals("0.01", "20", places=4), st.booleans())
def test_a_band_holds_exactly_the_ticks_between_its_multiples(mid: int, low: D, high: D, buy: bool) -> None:
    side = "buy" if buy else "sell"
    limits = {f"{side}_price_min": low, f"{side}_price_max": high}
    terms = Terms(msgspec.structs.replace(RVN_LIKE, **limits), FEED, "binance", "paper.binance")
    least, most = terms.band(side, mid)
    average = D(mid) / 2
    assert least >= average * low and (least == 1 or least - 1 < average * low)
    assert most <= average * high < most + 1


@given(st.integers(1, 10**7), st.integers(1, 10**9), st.integers(-3, 3), st.integers(-3, 3), st.booleans())
def test_a_value_is_refused_exactly_where_it_is_out_of_range(
    ticks: int, lots: int, under: int, over: int, at_market: bool
) -> None:
    value = RVN_LIKE.amount(ticks * lots)
    least, most = value + under * D("4E-7"), value + over * D("4E-7")  # steps of less than a tick x lot
    instrument = msgspec.structs.replace(RVN_LIKE, min_notional=max(D(0), least), max_notional=max(D(0), most))
    wrong = Wrong()
    terms = Terms(instrument, FEED, "binance", "paper.binance")
    terms.check_cost("quantity", ticks, lots, wrong, at_market=at_market)
    assert bool(wrong) == (not least <= value <= most)
