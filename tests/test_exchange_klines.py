"""Candles of the local exchange: where they begin, what they hold, and that gaps are flat."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tbx.venues.simulator.binance.klines import INTERVALS, begins, follows, klines
from tbx.venues.simulator.exchange.records import UNIT, Trade
from tbx.venues.simulator.exchange.tape import Tape

MINUTE_MS = 60_000


def ms(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


@pytest.mark.parametrize(
    ("interval", "begin", "next_begin"),
    [
        ("1s", "2026-02-28T13:47:09", "2026-02-28T13:47:10"),
        ("1m", "2026-02-28T13:47:00", "2026-02-28T13:48:00"),
        ("15m", "2026-02-28T13:45:00", "2026-02-28T14:00:00"),
        ("4h", "2026-02-28T12:00:00", "2026-02-28T16:00:00"),
        ("1d", "2026-02-28T00:00:00", "2026-03-01T00:00:00"),
        ("1w", "2026-02-23T00:00:00", "2026-03-02T00:00:00"),
        ("1M", "2026-02-01T00:00:00", "2026-03-01T00:00:00"),
    ],
)
def test_candles_begin_where_the_calendar_says(interval: str, begin: str, next_begin: str) -> None:
    moment = ms("2026-02-28T13:47:09.250")
    assert begins(moment, interval) == ms(begin)
    assert follows(ms(begin), interval) == ms(next_begin)


def test_december_is_followed_by_january() -> None:
    assert follows(ms("2026-12-01T00:00:00"), "1M") == ms("2027-01-01T00:00:00")


def test_a_day_begins_at_the_midnight_of_the_time_zone() -> None:
    offset_ms = 8 * 3_600_000
    assert begins(ms("2026-02-28T17:00:00"), "1d", offset_ms) == ms("2026-02-28T16:00:00")
    assert begins(ms("2026-02-28T17:00:00"), "1M", offset_ms) == ms("2026-02-28T16:00:00")


@given(st.sampled_from(sorted(INTERVALS)), st.integers(10**12, 2 * 10**12), st.integers(-12, 14))
def test_every_moment_lies_in_its_candle(interval: str, moment_ms: int, hours: int) -> None:
    offset_ms = hours * 3_600_000
    begin_ms = begins(moment_ms, interval, offset_ms)
    assert begin_ms <= moment_ms < follows(begin_ms, interval, offset_ms)
    assert begins(begin_ms, interval, offset_ms) == begin_ms


def tape_of(*trades: tuple[int, int, int]) -> Tape:
    """Trades as (time, price, whole quantity), buyers taking."""
    tape = Tape(5)
    for number, (time_ms, price, qty) in enumerate(trades):
        tape.add(Trade(number, "AB", price * UNIT, qty * UNIT, price * qty * UNIT, time_ms, False, 1, 2))
    return tape


START = ms("2026-02-28T13:45:00")


def test_a_candle_holds_its_trades_and_a_gap_is_flat() -> None:
    tape = tape_of((START + 1, 10, 1), (START + 2, 12, 2), (START + 3, 9, 1), (START + 3 * MINUTE_MS, 11, 5))
    first, second, third, fourth = klines(tape, "1m", START + 3 * MINUTE_MS + 1)
    assert [price // UNIT for price in (first.open, first.high, first.low, first.close)] == [10, 12, 9, 9]
    assert (first.volume, first.quote_volume, first.count) == (4 * UNIT, 43 * UNIT, 3)
    assert first.taker_buy_volume == first.volume
    for gap in (second, third):
        assert (gap.open, gap.high, gap.low, gap.close, gap.volume, gap.count) == (9 * UNIT,) * 4 + (0, 0)
    assert (fourth.open_ms, fourth.close_ms) == (START + 3 * MINUTE_MS, START + 4 * MINUTE_MS - 1)
    (all_in_one,) = klines(tape, "1h", START + 3 * MINUTE_MS + 1)
    assert [price // UNIT for price in (all_in_one.high, all_in_one.low, all_in_one.close)] == [12, 9, 11]
    assert (all_in_one.count, all_in_one.first_trade_id, all_in_one.last_trade_id) == (4, 0, 3)


def test_the_first_from_a_start_else_the_last() -> None:
    tape = tape_of(*[(START + n * MINUTE_MS, 10 + n, 1) for n in range(10)])
    now_ms = START + 9 * MINUTE_MS
    assert [row.open // UNIT for row in klines(tape, "1m", now_ms, limit=3)] == [17, 18, 19]
    from_start = klines(tape, "1m", now_ms, start_ms=START + 1, limit=3)
    assert [row.open // UNIT for row in from_start] == [11, 12, 13]
    until = klines(tape, "1m", now_ms, end_ms=START + 4 * MINUTE_MS, limit=2)
    assert [row.open // UNIT for row in until] == [13, 14]


def test_seconds_come_from_single_trades() -> None:
    tape = tape_of((START, 10, 1), (START + 900, 11, 1), (START + 2_000, 12, 1))
    rows = klines(tape, "1s", START + 2_500)
    assert [(row.close // UNIT, row.count) for row in rows] == [(11, 2), (11, 0), (12, 1)]


def test_there_is_no_candle_before_the_first_trade() -> None:
    assert klines(Tape(5), "1m", START) == []
