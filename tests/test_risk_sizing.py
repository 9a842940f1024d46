"""Sizing: known values, laws that hold for any input, and the words and codes of what cannot be sized."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tbx.core.model.instruments import Instrument
from tbx.core.risk.sizing import (
    NoSize,
    Room,
    Sized,
    SizingInput,
    SizingSettings,
    kelly,
    record,
    risk_amount,
    round_trip_fees,
    size,
    unit_risk,
    wilson_lower,
    win_probability,
)

from .reference import kelly_by_search, wilson_by_hand

D = Decimal
SETTINGS = SizingSettings(
    kelly_fraction=D("0.5"), target_volatility=D("0.2"), volatility_floor=D("0.1"), volatility_cap=D(1)
)
METHODS = ("fixed_fraction", "volatility_adjusted", "kelly_criterion")


def asked(method: str = "fixed_fraction", **other: Any) -> SizingInput:
    """An entry at 100 with the stop at 95 and the target at 110, by 10,000 of equity; texts become Decimals."""
    fields: dict[str, Any] = {
        "equity": "10000",
        "entry": "100",
        "quote_rate": "1",
        "stop": "95",
        "target": "110",
        "max_risk": "0.02",
        "confidence": "0.55",
        "volatility": 0.8,
        "lot": "0.01",
        **other,
    }
    decimals = {name: D(value) if isinstance(value, str) else value for name, value in fields.items()}
    return SizingInput(method=method, settings=SETTINGS, **decimals)  # type: ignore[arg-type]


def sized(method: str = "fixed_fraction", **other: Any) -> Sized:
    found = size(asked(method, **other))
    assert isinstance(found, Sized), found
    return found


def refused(method: str = "fixed_fraction", **other: Any) -> NoSize:
    found = size(asked(method, **other))
    assert isinstance(found, NoSize), found
    return found


# --- known values --------------------------------------------------------------------------------------------------


def test_a_fixed_fraction_loses_that_share_of_the_equity_at_its_stop() -> None:
    found = sized()
    assert (found.raw, found.quantity, found.risk_amount, found.risk_percent) == (40, 40, 200, D("0.02"))
    assert found.cap is None


def test_fees_of_both_ways_are_part_of_the_risk() -> None:
    listed = Instrument(
        exchange="x", pair="A_USDT", symbol="A", base="A", quote="USDT", tick=D("0.01"), lot=D(1), taker_fee=D("0.001")
    )
    fees = round_trip_fees(listed, D(100), D(95))
    assert fees == D("0.195")
    found = sized(fees=fees)
    assert found.quantity == D("38.49")  # 200 / 5.195 is 38.498..
    assert found.risk_amount == D("38.49") * D("5.195")


def test_the_risk_is_in_base_currency_where_the_pair_is_quoted_in_another() -> None:
    found = sized(quote_rate="40000", equity="10000", entry="0.01", stop="0.0095", lot="0.001")
    assert found.quantity == 10  # 200 / (0.0005 x 40000)
    assert found.risk_amount == 200


def test_volatility_brings_a_position_to_the_target() -> None:
    found = sized("volatility_adjusted", stop=None)
    assert found.quantity == 25  # 10,000 x 0.2/0.8 / 100
    assert found.risk_amount == 2_500, "without a stop the whole cost is at risk"
    assert found.detail == "0.25 of equity at a volatility of 0.8 a year"


def test_a_volatility_under_the_floor_is_not_believed_and_the_share_has_a_cap() -> None:
    assert sized("volatility_adjusted", stop=None, volatility=0.0).quantity == 100  # 0.2/0.1, at most 1
    assert sized("volatility_adjusted", stop=None, volatility=0.25).quantity == 80


def test_the_kelly_fraction_of_055_at_2_to_1_is_0325_exactly() -> None:
    assert kelly(D("0.55"), D(100), D(95), D(110)) == D("0.325")
    found = sized("kelly_criterion", max_risk="1")
    assert (found.kelly_fraction, found.win_probability) == (D("0.325"), D("0.55"))
    assert found.raw == 325  # 10,000 x 0.325 x 0.5 / 5
    assert found.risk_percent == D("0.1625")


def test_the_signals_own_risk_binds_a_kelly_size_that_is_larger() -> None:
    found = sized("kelly_criterion")
    assert (found.raw, found.quantity, found.cap) == (325, 40, "maxRiskPercent")


def test_a_small_edge_is_sized_under_the_signals_own_risk() -> None:
    found = sized("kelly_criterion", confidence="0.34")
    assert (found.quantity, found.cap) == (10, None)  # f = 0.01, half of it lost at the stop


def test_the_record_counts_from_thirty_closed_trades_on() -> None:
    assert win_probability(D("0.9"), 3, 29) == D("0.9")
    assert win_probability(D("0.9"), 15, 30) == wilson_lower(15, 30)
    assert win_probability(D("0.2"), 30, 30) == D("0.2")
    assert win_probability(None, 15, 30) == wilson_lower(15, 30)
    assert win_probability(None, 0, 0) is None


@pytest.mark.parametrize(
    ("won", "closed", "table"),
    [(15, 30, 0.3315), (30, 30, 0.8865), (0, 30, 0.0), (50, 100, 0.4038), (8, 10, 0.4902), (81, 263, 0.2553)],
)
def test_the_wilson_bound_is_that_of_the_tables(won: int, closed: int, table: float) -> None:
    assert float(wilson_lower(won, closed)) == pytest.approx(table, abs=5e-5)


# --- limits --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("room", "quantity", "cap"),
    [
        (Room(), 40, None),
        (Room(risk_per_trade=D(100), daily_risk=D(150)), 20, "maxRiskPerTrade"),
        (Room(risk_per_trade=D(150), daily_risk=D(100)), 20, "maxDailyRisk"),
        (Room(position=D(2500), correlated=D(3000)), 25, "maxPositionSize"),
        (Room(position=D(2500), correlated=D(1000)), 10, "correlatedExposure"),
        (Room(balance=D("505")), D("5.05"), "balance"),
        (Room(quantity=D(7), balance=D(5000)), 7, "maxQuantity"),
        (Room(risk_per_trade=D(200)), 40, None),
    ],
)
def test_the_smallest_room_binds_and_is_named(room: Room, quantity: Decimal, cap: str | None) -> None:
    found = sized(room=room)
    assert (found.raw, found.quantity, found.cap) == (40, quantity, cap)


def test_the_balance_is_counted_as_it_would_be_reserved() -> None:
    assert sized(room=Room(balance=D(1010)), reserved="101").quantity == 10


def test_a_limit_that_leaves_nothing_is_told_by_name() -> None:
    for left in ("0", "-5"):
        found = refused(room=Room(daily_risk=D(left)))
        assert (found.code, found.cap) == ("NO_ROOM", "maxDailyRisk")
        assert "maxDailyRisk" in found.detail


def test_what_is_less_than_the_instrument_takes_is_refused_with_both_numbers() -> None:
    found = refused(equity="10", lot="0.1", min_lots=5)
    assert found.code == "BELOW_MIN_QUANTITY"
    assert "0.04 by fixed_fraction comes to 0" in found.detail
    assert "0.5" in found.detail
    found = refused(equity="10", min_notional="5")
    assert found.code == "BELOW_MIN_NOTIONAL"
    assert "worth 4" in found.detail
    assert "worth 5" in found.detail


def test_a_quantity_lies_on_the_steps_of_a_market_order() -> None:
    assert sized(lot="0.1", step_lots=30, equity="10001").quantity == 39


# --- what cannot be sized ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "other", "code"),
    [
        ("fixed_fraction", {"entry": "0"}, "NO_PRICE"),
        ("fixed_fraction", {"quote_rate": "0"}, "NO_PRICE"),
        ("volatility_adjusted", {"entry": "0"}, "NO_PRICE"),
        ("fixed_fraction", {"equity": "0"}, "NO_EQUITY"),
        ("kelly_criterion", {"equity": "-3"}, "NO_EQUITY"),
        ("fixed_fraction", {"stop": None}, "STOP_REQUIRED"),
        ("kelly_criterion", {"stop": None}, "STOP_REQUIRED"),
        ("fixed_fraction", {"stop": "100"}, "ZERO_STOP_DISTANCE"),
        ("volatility_adjusted", {"stop": "100"}, "ZERO_STOP_DISTANCE"),
        ("kelly_criterion", {"target": None}, "TARGET_REQUIRED"),
        ("kelly_criterion", {"confidence": None}, "CONFIDENCE_REQUIRED"),
        ("kelly_criterion", {"confidence": "0.2"}, "NO_EDGE"),
        ("kelly_criterion", {"target": "100", "confidence": "1"}, "NO_EDGE"),
        ("kelly_criterion", {"confidence": "0.9", "closed": 40, "won": 10}, "NO_EDGE"),
        ("volatility_adjusted", {"volatility": None}, "NO_VOLATILITY"),
        ("volatility_adjusted", {"volatility": math.nan}, "NO_VOLATILITY"),
        ("volatility_adjusted", {"volatility": math.inf}, "NO_VOLATILITY"),
        ("volatility_adjusted", {"volatility": -0.1}, "NO_VOLATILITY"),
    ],
)
def test_what_cannot_be_sized_is_refused_with_a_code_and_words(method: str, other: dict[str, Any], code: str) -> None:
    found = refused(method, **other)
    assert found.code == code
    assert found.detail


def test_no_edge_says_what_the_record_supports() -> None:
    detail = refused("kelly_criterion", confidence="0.9", closed=40, won=10).detail
    assert "10 of 40 trades won" in detail
    assert "gain 10 against loss 5" in detail


# --- what is kept --------------------------------------------------------------------------------------------------


def test_what_is_kept_tells_how_the_size_came_about_also_after_a_later_cut() -> None:
    entry = asked("kelly_criterion", room=Room(position=D(1000)))
    found = size(entry)
    assert isinstance(found, Sized)
    kept = record(entry, found)
    assert (kept.recommended_size, kept.cap, kept.raw_size) == (10, "maxPositionSize", 325)
    assert (kept.risk_amount, kept.risk_percent, kept.volatility) == (50, D("0.005"), None)
    cut = record(entry, found, D(4), "riskService")
    assert (cut.recommended_size, cut.cap, cut.risk_amount) == (4, "riskService", 20)


# --- laws ----------------------------------------------------------------------------------------------------------


def amounts(least: str, most: str, places: int = 4) -> st.SearchStrategy[Decimal]:
    return st.decimals(D(least), D(most), places=places, allow_nan=False, allow_infinity=False)


@st.composite
def entries(draw: st.DrawFn) -> SizingInput:
    entry = draw(amounts("0.01", "5000"))
    stop = entry * draw(amounts("0.5", "0.999"))
    with_stop = draw(st.booleans())
    method = draw(st.sampled_from(METHODS))
    room = Room(**{name: draw(st.none() | amounts("-100", "100000")) for name in Room.__struct_fields__})
    closed = draw(st.integers(0, 200))
    return SizingInput(
        method=method,
        settings=SETTINGS,
        equity=draw(amounts("-10", "1000000")),
        entry=entry,
        quote_rate=draw(st.sampled_from((D(1), D("40000"), D("0.0333"), D(1) / 3))),
        stop=stop if with_stop or method != "volatility_adjusted" else None,
        target=entry * draw(amounts("1.001", "2")),
        fees=entry * draw(amounts("0", "0.01")),
        max_risk=draw(amounts("0.0001", "1")),
        confidence=draw(amounts("0", "1")),
        closed=closed,
        won=draw(st.integers(0, closed)),
        volatility=draw(st.floats(0, 20)),
        room=room,
        reserved=draw(st.none() | st.just(entry * D("1.011"))),
        lot=draw(st.sampled_from((D(1), D("0.001"), D("0.00000001"), D("100")))),
        min_lots=draw(st.integers(1, 50)),
        step_lots=draw(st.sampled_from((1, 1, 10))),
        min_notional=draw(st.sampled_from((D(0), D(10)))),
    )


@settings(max_examples=300, deadline=None)
@given(entries())
def test_no_size_is_above_any_limit_or_off_the_grid_or_rounded_up(entry: SizingInput) -> None:
    found = size(entry)
    if isinstance(found, NoSize):
        return
    quantity, room = found.quantity, entry.room
    assert quantity <= found.raw
    assert quantity % (entry.lot * entry.step_lots) == 0
    assert quantity >= entry.min_lots * entry.lot
    assert quantity * entry.entry >= entry.min_notional
    cost = quantity * entry.entry * entry.quote_rate
    assert room.position is None or cost <= room.position
    assert room.correlated is None or cost <= room.correlated
    assert room.quantity is None or quantity <= room.quantity
    reserved = entry.entry + entry.fees if entry.reserved is None else entry.reserved
    assert room.balance is None or quantity * reserved <= room.balance
    if entry.stop is None:
        return
    risk = quantity * unit_risk(entry) * entry.quote_rate
    assert risk <= entry.equity * entry.max_risk
    assert room.risk_per_trade is None or risk <= room.risk_per_trade
    assert room.daily_risk is None or risk <= room.daily_risk
    assert 0 <= found.risk_amount - risk < D("1E-17")
    assert found.risk_amount == risk_amount(entry, quantity)


@settings(max_examples=200, deadline=None)
@given(entries(), amounts("0", "1000000"))
def test_more_equity_never_sizes_less(entry: SizingInput, more: Decimal) -> None:
    richer = msgspec.structs.replace(entry, equity=entry.equity + more)
    before, after = size(entry), size(richer)
    if isinstance(before, Sized):
        assert isinstance(after, Sized)
        assert after.raw >= before.raw
        assert after.quantity >= before.quantity


@settings(max_examples=200, deadline=None)
@given(entries())
def test_a_named_limit_is_the_one_that_bound_it(entry: SizingInput) -> None:
    found = size(entry)
    if isinstance(found, NoSize):
        return
    fields = dict.fromkeys(Room.__struct_fields__)
    free = size(msgspec.structs.replace(entry, room=Room(**fields), max_risk=D(1)))  # type: ignore[arg-type]
    assert isinstance(free, Sized)
    if found.cap is None:
        step = entry.lot * entry.step_lots
        assert found.raw - found.quantity < step
    else:
        assert found.quantity < found.raw


@settings(max_examples=150, deadline=None)
@given(st.decimals("0.02", "0.98", places=3), st.decimals("0.1", "20", places=2))
def test_the_kelly_fraction_is_the_stake_at_which_wealth_grows_fastest(p: Decimal, b: Decimal) -> None:
    f = kelly(p, D(100), D(99), D(100) + b)
    assert max(0.0, float(f)) == pytest.approx(kelly_by_search(float(p), float(b)), abs=1e-5)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 5_000), st.data())
def test_the_wilson_bound_is_the_textbooks_and_never_over_the_share(closed: int, data: st.DataObject) -> None:
    won = data.draw(st.integers(0, closed))
    bound = wilson_lower(won, closed)
    assert float(bound) == pytest.approx(wilson_by_hand(won, closed), abs=1e-9)
    assert 0 <= bound <= D(won) / closed
