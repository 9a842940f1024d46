"""exchangeInfo as instruments: every filter of 2026, recorded answers, and what is left out with a warning."""

from __future__ import annotations

import gzip
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tbx.core.market import kernels_text
from tbx.core.market.book import Book
from tbx.core.market.grid import Grid
from tbx.core.model.errors import Nonsense
from tbx.core.model.instruments import Instrument
from tbx.venues.binance import instruments
from tbx.venues.binance.codec import RateLimit
from tbx.venues.binance.codec_replies import read_commission
from tbx.venues.binance.instruments import Listing, read_exchange_info, with_fees

PRICE_FILTER = {"filterType": "PRICE_FILTER", "minPrice": "0.01", "maxPrice": "1000000.00", "tickSize": "0.01"}
LOT_SIZE = {"filterType": "LOT_SIZE", "minQty": "0.00001", "maxQty": "9000.00", "stepSize": "0.00001"}
SYMBOL: dict[str, Any] = {
    "symbol": "BTCUSDT",
    "status": "TRADING",
    "baseAsset": "BTC",
    "baseAssetPrecision": 8,
    "quoteAsset": "USDT",
    "quotePrecision": 8,
    "quoteAssetPrecision": 8,
    "orderTypes": ["LIMIT", "MARKET"],
    "isSpotTradingAllowed": True,
    "filters": [PRICE_FILTER, LOT_SIZE],
}


def info(*symbols: dict[str, Any], **changes: Any) -> bytes:
    body = {"timezone": "UTC", "serverTime": 5, "rateLimits": [], "exchangeFilters": [], "symbols": list(symbols)}
    return json.dumps({**body, **changes}).encode()


def listed(*filters: dict[str, Any], **changes: Any) -> Listing:
    """A symbol with these filters in place of, or beside, the two that it must have."""
    by_name = {f["filterType"]: f for f in (PRICE_FILTER, LOT_SIZE, *filters)}
    return read_exchange_info(info({**SYMBOL, "filters": list(by_name.values()), **changes}))


def only(listing: Listing) -> Instrument:
    assert listing.warnings == []
    (instrument,) = listing.instruments
    return instrument


# --- recorded ------------------------------------------------------------------------------------------------------


def test_a_recorded_symbol_with_every_filter_of_2026_loads(fixtures: Path) -> None:
    raw = (fixtures / "binance" / "exchangeInfo_live_TSLABUSDT_2026-09-26_trimmed.json").read_bytes()
    listing = read_exchange_info(raw)
    assert only(listing) == Instrument(
        exchange="binance",
        pair="TSLAB_USDT",
        symbol="TSLABUSDT",
        base="TSLAB",
        quote="USDT",
        tick=Decimal("0.01"),
        lot=Decimal("0.001"),
        min_lots=1,
        max_lots=922_327_000,
        min_price_ticks=1,
        max_price_ticks=10_000_000,
        market_min_lots=0,
        market_max_lots=585_207,
        market_step_lots=1,
        buy_price_min=Decimal("0.8"),
        buy_price_max=Decimal("1.1"),
        sell_price_min=Decimal("0.9"),
        sell_price_max=Decimal("1.2"),
        min_notional=Decimal(5),
        min_notional_market=True,
        max_notional=Decimal(9_000_000),
        max_notional_market=False,
        max_open_orders=200,
        max_stop_orders=5,
        max_order_lists=20,
        max_amends=10,
        maker_fee=Decimal("0.001"),
        taker_fee=Decimal("0.001"),
        fee_in="received",
        linked_exits=True,
    )


def test_a_recorded_answer_with_the_older_filters_loads(fixtures: Path) -> None:
    raw = (fixtures / "binance" / "exchangeInfo_live_binanceus_BTCUSD_2026-09-04.json").read_bytes()
    listing = read_exchange_info(raw, exchange="binanceus")
    btc = only(listing)
    assert (btc.exchange, btc.pair, btc.min_notional, btc.min_notional_market) == ("binanceus", "BTC_USD", 1, True)
    assert (btc.buy_price_min, btc.buy_price_max) == (Decimal("0.2"), Decimal(5))
    assert listing.limits[1] == RateLimit("ORDERS", "SECOND", 10, 100)


def test_the_whole_exchange_of_2021_loads(fixtures: Path) -> None:
    with gzip.open(fixtures / "binance" / "cryptofeed_2021-10" / "BINANCE.0.gz") as recorded:
        raw = recorded.readline()
    listing = read_exchange_info(raw[raw.index(b"{") :])
    assert len(listing.instruments) > 1_000
    assert [w for w in listing.warnings if "unknown filter" in w] == []
    by_pair = {i.pair: i for i in listing.instruments}
    assert by_pair["ETH_BTC"].tick == Decimal("0.000001") and by_pair["ETH_BTC"].lot == Decimal("0.0001")
    assert {i.trading for i in listing.instruments} == {True, False}
    for instrument in listing.instruments:  # each can have a book
        price, qty = Grid.of(instrument.tick), Grid.of(instrument.lot)
        assert price.decimals <= 18 and qty.decimals <= 18


def test_the_documented_examples_load(fixtures: Path) -> None:
    examples = fixtures / "binance" / "docs_examples"
    rows = [json.loads(line) for line in (examples / "web-socket-api.jsonl").read_text().splitlines()]
    (payload,) = [row["payload"] for row in rows if row["line"] == 1530]
    listing = read_exchange_info(json.dumps(payload["result"]).encode())
    assert only(listing).pair == "BNB_BTC"
    assert [limit.rate_limit_type for limit in listing.limits] == ["REQUEST_WEIGHT", "ORDERS", "ORDERS", "CONNECTIONS"]
    rows = [json.loads(line) for line in (examples / "rest-api.jsonl").read_text().splitlines()]
    (payload,) = [row["payload"] for row in rows if row["line"] == 812]
    listing = read_exchange_info(json.dumps(payload).encode())  # its lists are left empty in the documents
    assert listing.instruments == []
    assert len(listing.warnings) == 2 and "ETHBTC is left out: it has no PRICE_FILTER" in listing.warnings[1]


# --- filters -------------------------------------------------------------------------------------------------------


def test_a_symbol_needs_a_price_and_a_quantity_grid_only() -> None:
    instrument = only(listed())
    assert (instrument.tick, instrument.lot) == (Decimal("0.01"), Decimal("0.00001"))
    assert (instrument.min_lots, instrument.max_lots) == (1, 900_000_000)
    assert (instrument.max_open_orders, instrument.max_amends, instrument.max_position) == (0, 0, None)
    assert instrument.buy_price_min is None and instrument.max_notional is None


def test_filters_that_are_switched_off_leave_the_precision_as_the_grid() -> None:
    off = {"filterType": "PRICE_FILTER", "minPrice": "0.00", "maxPrice": "0.00", "tickSize": "0.00000000"}
    no_step = {"filterType": "LOT_SIZE", "minQty": "0.0", "maxQty": "0.0", "stepSize": "0.0"}
    instrument = only(listed(off, no_step, quotePrecision=2, baseAssetPrecision=4))
    assert (instrument.tick, instrument.lot) == (Decimal("0.01"), Decimal("0.0001"))
    assert (instrument.min_price_ticks, instrument.max_price_ticks, instrument.min_lots) == (0, 0, 1)
    assert instrument.max_lots == instruments.GRID_UNITS_MAX


def test_limits_between_two_steps_are_rounded_inwards() -> None:
    price = {"filterType": "PRICE_FILTER", "minPrice": "0.015", "maxPrice": "99.999", "tickSize": "0.01"}
    lot = {"filterType": "LOT_SIZE", "minQty": "0.000015", "maxQty": "9.000019", "stepSize": "0.00001"}
    instrument = only(listed(price, lot))
    assert (instrument.min_price_ticks, instrument.max_price_ticks) == (2, 9_999)
    assert (instrument.min_lots, instrument.max_lots) == (2, 900_001)


@pytest.mark.parametrize(
    ("step", "lot", "expected"),
    [("0.001", "0.00001", 100), ("0.00003", "0.00002", 3), ("0.00001", "0.001", 1), ("0", "0.001", 1), ("10", "4", 5)],
)
def test_market_orders_keep_to_both_quantity_grids(step: str, lot: str, expected: int) -> None:
    market = {"filterType": "MARKET_LOT_SIZE", "minQty": "40", "maxQty": "4000", "stepSize": step}
    sizes = {"filterType": "LOT_SIZE", "minQty": lot, "maxQty": "100000", "stepSize": lot}
    instrument = only(listed(market, sizes))
    assert instrument.market_step_lots == expected
    assert instrument.market_min_lots == 40 / Decimal(lot) and instrument.market_max_lots == 4_000 / Decimal(lot)
    both = expected * Decimal(lot)
    assert both % Decimal(lot) == 0 and (step == "0" or both % Decimal(step) == 0)


def test_where_two_filters_say_the_same_the_stricter_holds() -> None:
    instrument = only(
        listed(
            {"filterType": "PERCENT_PRICE", "multiplierUp": "1.3", "multiplierDown": "0.7", "avgPriceMins": 5},
            {
                "filterType": "PERCENT_PRICE_BY_SIDE",
                "bidMultiplierUp": "1.2",
                "bidMultiplierDown": "0.2",
                "askMultiplierUp": "5",
                "askMultiplierDown": "0.8",
                "avgPriceMins": 1,
            },
            {"filterType": "MIN_NOTIONAL", "minNotional": "20", "applyToMarket": True, "avgPriceMins": 5},
            {
                "filterType": "NOTIONAL",
                "minNotional": "10",
                "applyMinToMarket": False,
                "maxNotional": "10000",
                "applyMaxToMarket": False,
                "avgPriceMins": 5,
            },
        )
    )
    assert (instrument.buy_price_min, instrument.buy_price_max) == (Decimal("0.7"), Decimal("1.2"))
    assert (instrument.sell_price_min, instrument.sell_price_max) == (Decimal("0.8"), Decimal("1.3"))
    assert (instrument.min_notional, instrument.min_notional_market) == (20, True)
    assert (instrument.max_notional, instrument.max_notional_market) == (10_000, False)


def test_the_number_of_orders_and_the_position_are_limited() -> None:
    instrument = only(
        listed(
            {"filterType": "MAX_NUM_ORDERS", "maxNumOrders": 25},
            {"filterType": "MAX_NUM_ALGO_ORDERS", "maxNumAlgoOrders": 5},
            {"filterType": "MAX_NUM_ORDER_AMENDS", "maxNumOrderAmends": 10},
            {"filterType": "MAX_POSITION", "maxPosition": "10.00000000"},
        )
    )
    assert (instrument.max_open_orders, instrument.max_stop_orders, instrument.max_amends) == (25, 5, 10)
    assert instrument.max_position == 10


def test_limits_of_the_whole_exchange_are_known_and_left_to_it() -> None:
    filters = [
        {"filterType": "EXCHANGE_MAX_NUM_ORDERS", "maxNumOrders": 1000},
        {"filterType": "EXCHANGE_MAX_NUM_ALGO_ORDERS", "maxNumAlgoOrders": 200},
        {"filterType": "EXCHANGE_MAX_NUM_ICEBERG_ORDERS", "maxNumIcebergOrders": 10000},
    ]
    only(read_exchange_info(info(SYMBOL, exchangeFilters=filters)))


def test_an_unknown_filter_is_a_warning_and_its_symbol_stays() -> None:
    listing = listed({"filterType": "MOON_PHASE", "full": True})
    assert [i.pair for i in listing.instruments] == ["BTC_USDT"]
    assert listing.warnings == ["BTCUSDT has an unknown filter MOON_PHASE: the exchange may refuse orders for it"]
    assert listing.notes == {"BTC_USDT": listing.warnings} and listing.left_out == {}


@pytest.mark.parametrize(
    "changes", [{"status": "BREAK"}, {"status": "CANCEL_ONLY"}, {"status": "NEW_WORD"}, {"isSpotTradingAllowed": False}]
)
def test_a_symbol_that_does_not_trade_is_listed_as_closed(changes: dict[str, Any]) -> None:
    assert not only(listed(**changes)).trading
    assert only(listed()).trading


LEFT_OUT: dict[str, tuple[dict[str, Any], str]] = {
    "no price filter": ({"filters": [LOT_SIZE]}, "no PRICE_FILTER"),
    "no lot size": ({"filters": [PRICE_FILTER]}, "no LOT_SIZE"),
    "a filter twice": ({"filters": [PRICE_FILTER, PRICE_FILTER, LOT_SIZE]}, "stands twice"),
    "a tick that is a number": ({"filters": [{**PRICE_FILTER, "tickSize": 0.01}, LOT_SIZE]}, "tickSize"),
    "a tick that is none": ({"filters": [{**PRICE_FILTER, "tickSize": "small"}, LOT_SIZE]}, "not a decimal"),
    "a negative tick": ({"filters": [{**PRICE_FILTER, "tickSize": "-1"}, LOT_SIZE]}, "not be negative"),
    "a grid finer than any book": (
        {"filters": [{**PRICE_FILTER, "tickSize": "0.0000000000000000001"}, LOT_SIZE]},
        "cannot hold",
    ),
    "a grid coarser than any book": (
        {"filters": [PRICE_FILTER, {**LOT_SIZE, "stepSize": "9" * 20, "maxQty": "9" * 21}]},
        "cannot hold",
    ),
    "quantities that do not meet": (
        {"filters": [PRICE_FILTER, {**LOT_SIZE, "minQty": "5", "maxQty": "4"}]},
        "no quantity pass",
    ),
    "a step over the greatest quantity": (
        {"filters": [PRICE_FILTER, {**LOT_SIZE, "maxQty": "0.000001"}]},
        "less than one step",
    ),
    "a precision that is none": (
        {"filters": [{**PRICE_FILTER, "tickSize": "0"}, LOT_SIZE], "quotePrecision": 40},
        "precision 40",
    ),
    "no status": ({"status": None}, "status"),
    "an asset with an underscore": ({"baseAsset": "B_C"}, "'B_C'"),
    "no asset": ({"baseAsset": ""}, "''"),
    "a negative number of orders": (
        {"filters": [PRICE_FILTER, LOT_SIZE, {"filterType": "MAX_NUM_ORDERS", "maxNumOrders": -1}]},
        "negative",
    ),
    "a filter without its name": ({"filters": [{}, PRICE_FILTER, LOT_SIZE]}, "filterType"),
}


@pytest.mark.parametrize("case", LEFT_OUT)
def test_a_symbol_that_cannot_be_held_is_left_out_and_the_others_stay(case: str) -> None:
    changes, reason = LEFT_OUT[case]
    other = {**SYMBOL, "symbol": "ETHUSDT", "baseAsset": "ETH"}
    listing = read_exchange_info(info({**SYMBOL, **changes}, other))
    assert [i.pair for i in listing.instruments] == ["ETH_USDT"]
    (warning,) = listing.warnings
    assert reason in warning and "left out" in warning
    base = changes.get("baseAsset", "BTC")
    assert listing.left_out == {f"{base}_USDT": warning.partition(" left out: ")[2]}


def test_two_symbols_of_one_pair_are_not_both_listed() -> None:
    listing = read_exchange_info(info(SYMBOL, {**SYMBOL, "symbol": "BTCUSDT2"}))
    assert [i.symbol for i in listing.instruments] == ["BTCUSDT"]
    assert listing.warnings == ["BTCUSDT2 is left out: another symbol is BTC_USDT already"]
    assert listing.left_out == {}


def test_names_in_other_scripts_are_taken() -> None:
    assert only(listed(symbol="币安人生USDT", baseAsset="币安人生")).pair == "币安人生_USDT"


@pytest.mark.parametrize("raw", [b"", b"[]", b"{}", b'{"symbols":5}', b"<html>", b'{"code":-1121,"msg":"x"}'])
def test_what_is_no_exchange_info_is_nonsense(raw: bytes) -> None:
    with pytest.raises(Nonsense, match="exchangeInfo"):
        read_exchange_info(raw)


def test_warnings_have_a_bound() -> None:
    rows = [{**SYMBOL, "symbol": f"S{n}", "baseAsset": f"B{n}", "filters": []} for n in range(1_200)]
    listing = read_exchange_info(info(*rows))
    assert (len(listing.warnings), listing.warnings_left_out) == (instruments.WARNINGS_MAX, 200)


def test_the_bounds_of_a_grid_are_those_of_the_books() -> None:
    assert instruments.GRID_UNITS_MAX == kernels_text.UNITS_MAX
    decimals, units = instruments.GRID_DECIMALS_MAX, instruments.GRID_UNITS_MAX
    Book("", "", price_decimals=decimals, tick_units=units, qty_decimals=0, depth_max=4)
    with pytest.raises(ValueError, match="units"):
        Book("", "", price_decimals=0, tick_units=units + 1, qty_decimals=0, depth_max=4)
    with pytest.raises(ValueError, match="decimals"):
        Book("", "", price_decimals=decimals + 1, qty_decimals=0, depth_max=4)


# --- fees ----------------------------------------------------------------------------------------------------------


def commission(**changes: Any) -> bytes:
    rates = {"maker": "0.00000010", "taker": "0.00000020", "buyer": "0.00000030", "seller": "0.00000040"}
    special = {"maker": "0.01000000", "taker": "0.02000000", "buyer": "0.03000000", "seller": "0.04000000"}
    tax = {"maker": "0.00000112", "taker": "0.00000114", "buyer": "0.00000118", "seller": "0.00000116"}
    body = {"symbol": "BTCUSDT", "standardCommission": rates, "specialCommission": special, "taxCommission": tax}
    return json.dumps({**body, **changes}).encode()


def test_fees_are_the_sum_of_all_commissions_with_the_dearer_side() -> None:
    instrument = with_fees(only(listed()), read_commission(commission()))
    assert instrument.maker_fee == Decimal("0.0000001") + Decimal("0.01") + Decimal("0.00000112") + (
        Decimal("0.0000004") + Decimal("0.04") + Decimal("0.00000118")
    )
    assert instrument.taker_fee - instrument.maker_fee == Decimal("0.01000012")
    assert instrument.fee_in == "received"


def test_a_commission_of_another_symbol_or_beyond_all_is_nonsense() -> None:
    with pytest.raises(Nonsense, match="ETHUSDT"):
        with_fees(only(listed()), read_commission(commission(symbol="ETHUSDT")))
    dear = {"maker": "1.5", "taker": "0.1"}
    with pytest.raises(Nonsense, match="fractions"):
        with_fees(only(listed()), read_commission(commission(standardCommission=dear)))
    with pytest.raises(Nonsense, match="not a decimal"):
        with_fees(only(listed()), read_commission(commission(taxCommission={"maker": "x", "taker": "0"})))
