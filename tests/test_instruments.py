"""Decimal text to ticks and lots: exact, or refused with the neighbours named."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tbx.core.model.exact import plain, tidy
from tbx.core.model.ids import Counters, Ids
from tbx.core.model.instruments import Instrument, OffGrid, decimal_of, round_ticks, steps

RVN = Instrument(
    exchange="xeggex",
    pair="RVN_USDT",
    symbol="RVN/USDT",
    base="RVN",
    quote="USDT",
    tick=Decimal("0.000005"),
    lot=Decimal("0.1"),
)
STEPS = st.sampled_from([Decimal(t) for t in ("0.01", "0.000005", "1", "0.5", "0.00000001", "25")])


@given(count=st.integers(0, 10**12), step=STEPS)
def test_a_whole_number_of_steps_converts_there_and_back(count: int, step: Decimal) -> None:
    assert steps("price", count * step, step) == count


@given(value=st.decimals("0.000000001", "1000000", places=9), step=STEPS)
def test_what_is_off_the_grid_is_refused_with_its_valid_neighbours(value: Decimal, step: Decimal) -> None:
    if value % step == 0:
        return
    with pytest.raises(OffGrid) as refused:
        steps("price", value, step)
    assert all(near % step == 0 and near > 0 and abs(near - value) < step for near in refused.value.nearest)


def test_the_refusal_names_the_step_and_the_nearest_values() -> None:
    with pytest.raises(
        OffGrid, match=r"price 0\.0245013 is not a multiple of 0\.000005; nearest valid: 0\.0245 or 0\.024505"
    ):
        RVN.price_ticks(Decimal("0.0245013"))


def test_amounts_are_exact() -> None:
    ticks, lots = RVN.price_ticks(Decimal("0.0245")), RVN.qty_lots(Decimal(5000))
    assert RVN.amount(ticks * lots) == Decimal("122.5")
    assert RVN.price(ticks) == Decimal("0.0245") and RVN.quantity(lots) == 5000


def test_rounding_to_ticks_goes_where_it_is_told() -> None:
    assert round_ticks(Decimal("0.0245013"), RVN.tick, up=False) == 4900
    assert round_ticks(Decimal("0.0245013"), RVN.tick, up=True) == 4901


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "abc", "", "1e", "0x10"])
def test_text_that_is_no_finite_number_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="number"):
        decimal_of(text)


@pytest.mark.parametrize(
    ("value", "text"), [("5E+3", "5000"), ("0.02450", "0.0245"), ("0E-8", "0"), ("-0.0", "0"), ("1E-7", "0.0000001")]
)
def test_decimals_print_plainly(value: str, text: str) -> None:
    assert plain(Decimal(value)) == text
    assert tidy(Decimal(value)) == Decimal(value)


DAY_NS = 86_400_000_000_000
NOON = 20_089 * DAY_NS + DAY_NS // 2  # 2025-01-01


def test_ids_look_like_the_manuals_and_the_day_begins_anew() -> None:
    ids = Ids("main")
    assert ids.order(NOON) == "ORD_20250101_000001"
    assert ids.order(NOON) == "ORD_20250101_000002"
    assert ids.signal(NOON) == "SIG_20250101_001"
    assert ids.order(NOON + DAY_NS) == "ORD_20250102_000001"
    assert ids.fill() == "FILL_000001" and ids.position() == "POS_001"


def test_ids_never_repeat_when_the_clock_goes_back_over_midnight() -> None:
    ids = Ids("main")
    given_out = [ids.order(NOON), ids.order(NOON + DAY_NS)]
    again = Ids("main", ids.counters)
    given_out += [again.order(NOON), again.order(NOON + DAY_NS)]
    assert len(set(given_out)) == 4


@given(number=st.integers(1, 10**8 - 1), attempt=st.integers(1, 10**4 - 1))
def test_a_venue_client_id_fits_and_leads_back_to_its_order(number: int, attempt: int) -> None:
    ids = Ids("n23456789012", Counters(day=20250101, order=number - 1))
    order_id = ids.order(NOON)
    client_id = ids.venue_client_id(order_id, attempt)
    assert len(client_id) <= 36 and ids.order_of(client_id) == order_id
    assert Ids("other").order_of(client_id) is None


@pytest.mark.parametrize("stranger", ["", "web_abc", "tbx-main-1", "x-y-z-1-2", "tbx-other-250101000001-1"])
def test_a_strangers_client_id_is_no_order_of_ours(stranger: str) -> None:
    assert Ids("main").order_of(stranger) is None
