"""Frames become consistent books; gaps, nonsense and silence are noticed."""

import gzip
import json
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tbx.core.kernel.clock import MS_NS, SECOND_NS, ManualClock
from tbx.core.kernel.kernel import Kernel
from tbx.core.market.book import BUY, SELL
from tbx.core.market.data import MarketData, StoredBook, last_ticks, lots_at
from tbx.core.market.grid import Grid
from tbx.core.model.instruments import Instrument
from tbx.core.model.messages import BookUpdated, TradePrinted
from tbx.core.state.memory import MemoryStore

pytestmark = pytest.mark.exchanges

COIN = Instrument(
    exchange="binance",
    pair="RVN_USDT",
    symbol="RVNUSDT",
    base="RVN",
    quote="USDT",
    tick=Decimal("0.00001"),
    lot=Decimal("0.1"),
)
SNAPSHOT = b'{"lastUpdateId":10,"bids":[["0.02450","100.0"],["0.02449","50.0"]],"asks":[["0.02451","80.0"]]}'


class Desk:
    """A kernel in virtual time with market data of one pair, and what came of it."""

    def __init__(self, **options: object) -> None:
        self.clock = ManualClock()
        self.store = MemoryStore(self.clock.call_soon)
        self.kernel = Kernel(self.clock, self.store)
        self.lines: list[str] = []
        self.data = MarketData(self.kernel, [COIN], on_trouble=self.lines.append, **options)  # type: ignore[arg-type]
        self.asked: list[tuple[str, str]] = []
        self.data.resync["binance"] = lambda exchange, pair: self.asked.append((exchange, pair))
        self.updates: list[BookUpdated] = []
        self.trades: list[TradePrinted] = []
        self.kernel.add(self.data)
        self.kernel.bus.subscribe(BookUpdated, self.updates.append)
        self.kernel.bus.subscribe(TradePrinted, self.trades.append)
        self.kernel.start()

    def frame(self, raw: bytes) -> None:
        self.data.frame("binance", "RVN_USDT", raw, self.clock.now_ns())

    @property
    def quote(self) -> tuple[int, int] | None:
        return self.data.quote("binance", "RVN_USDT")

    @property
    def fresh(self) -> bool:
        return self.data.fresh("binance", "RVN_USDT", self.clock.now_ns())

    @property
    def bids(self) -> list[tuple[int, int]]:
        return self.data.book("binance", "RVN_USDT").levels(BUY, 10)


def diff(first: int, last: int, bids: list[tuple[str, str]] = [], asks: list[tuple[str, str]] = []) -> bytes:  # noqa: B006
    frame = {"e": "depthUpdate", "E": 1, "s": "RVNUSDT", "U": first, "u": last, "b": bids, "a": asks}
    return json.dumps(frame, separators=(",", ":")).encode()


def ticker(update_id: int, bid: str, ask: str) -> bytes:
    frame = {"u": update_id, "s": "RVNUSDT", "b": bid, "B": "1.0", "a": ask, "A": "80.0"}
    return json.dumps(frame, separators=(",", ":")).encode()


def test_a_snapshot_and_a_diff_make_a_book_with_prices() -> None:
    desk = Desk()
    desk.frame(SNAPSHOT)
    desk.frame(diff(11, 12, [("0.02450", "70.0")], [("0.02451", "0.0"), ("0.02453", "9.0")]))
    assert desk.data.quote("binance", "RVN_USDT") == (2450, 2453)
    assert desk.data.mid("binance", "RVN_USDT") == Decimal("0.024515")
    assert desk.bids == [(2450, 700), (2449, 500)]
    assert [u.pair for u in desk.updates] == ["RVN_USDT", "RVN_USDT"]


def test_a_pair_without_a_book_has_no_price() -> None:
    desk = Desk()
    assert desk.data.mid("binance", "RVN_USDT") is None
    assert desk.data.quote("binance", "XYZ_USDT") is None
    assert desk.data.last("binance", "RVN_USDT") is None
    assert not desk.data.fresh("binance", "RVN_USDT", desk.clock.now_ns())
    assert not desk.data.fresh("binance", "XYZ_USDT", desk.clock.now_ns())


def test_a_trade_is_printed_and_remembered_and_leaves_the_book_alone() -> None:
    desk = Desk()
    desk.frame(SNAPSHOT)
    desk.frame(b'{"e":"trade","E":1,"s":"RVNUSDT","t":5,"p":"0.02451","q":"3.5","T":1,"m":false,"M":true}')
    assert desk.trades == [TradePrinted("binance", "RVN_USDT", 2451, 35, False, desk.clock.now_ns())]
    assert desk.data.last("binance", "RVN_USDT") == 2451
    assert len(desk.updates) == 1


def test_combined_stream_frames_of_every_kind_are_taken() -> None:
    desk = Desk()
    desk.frame(b'{"stream":"rvnusdt@depthSnapshot","data":' + SNAPSHOT + b"}")
    desk.frame(b'{"stream":"rvnusdt@depth@100ms","data":' + diff(11, 11, [("0.02450", "1.0")]) + b"}")
    desk.frame(b'{"stream":"rvnusdt@bookTicker","data":' + ticker(12, "0.02449", "0.02451") + b"}")
    trade = b'{"e":"trade","E":1,"s":"RVNUSDT","t":5,"p":"0.02451","q":"3.5","T":1,"m":false,"M":true}'
    desk.frame(b'{"stream":"rvnusdt@trade","data":' + trade + b"}")
    assert desk.bids[0] == (2450, 10)
    assert desk.quote == (2449, 2451)
    assert desk.data.last("binance", "RVN_USDT") == 2451
    assert not desk.data.troubles


def test_a_sign_of_life_from_before_the_clock_was_set_back_proves_nothing() -> None:
    desk = Desk()
    desk.frame(SNAPSHOT)
    desk.data.alive("binance", desk.clock.now_ns())
    now_ns = desk.clock.now_ns()
    assert desk.data.fresh("binance", "RVN_USDT", now_ns - 50 * MS_NS)  # clocks of one machine differ a little
    assert not desk.data.fresh("binance", "RVN_USDT", now_ns - 3_600 * SECOND_NS)
    desk.data.alive("binance", now_ns - 3_600 * SECOND_NS)  # the connection lives by the new clock too
    assert desk.data.fresh("binance", "RVN_USDT", now_ns - 3_599 * SECOND_NS)


def test_a_snapshot_that_was_asked_for_before_the_clock_was_set_back_is_asked_for_again() -> None:
    desk = Desk()
    now_ns = desk.clock.now_ns()
    desk.frame(diff(11, 11, [("0.02450", "1.0")]))
    desk.data.frame("binance", "RVN_USDT", diff(12, 12, [("0.02450", "2.0")]), now_ns - 3_600 * SECOND_NS)
    assert len(desk.asked) == 2


# --- tickers


def test_a_ticker_ahead_of_the_book_gives_the_prices_and_leaves_the_levels_alone() -> None:
    desk = Desk()
    desk.frame(SNAPSHOT)
    desk.frame(ticker(11, "0.02449", "0.02450"))
    assert desk.quote == (2449, 2450)
    assert desk.data.mid("binance", "RVN_USDT") == Decimal("0.024495")
    assert desk.bids == [(2450, 1000), (2449, 500)]
    assert len(desk.updates) == 2


def test_the_depth_frame_with_the_tickers_update_takes_its_place() -> None:
    desk = Desk()
    desk.frame(SNAPSHOT)
    desk.frame(ticker(12, "0.02449", "0.02451"))
    desk.frame(diff(11, 11, [("0.02450", "1.0")]))
    assert desk.quote == (2449, 2451), "the diff ends before the ticker's update"
    desk.frame(diff(12, 13, [("0.02450", "0.0"), ("0.02448", "3.0")], [("0.02453", "1.0"), ("0.02451", "0.0")]))
    assert desk.quote == (2449, 2453)


@pytest.mark.parametrize("update_id", [9, 10])
def test_a_ticker_that_the_book_knows_already_changes_nothing(update_id: int) -> None:
    desk = Desk()
    desk.frame(SNAPSHOT)
    desk.frame(ticker(update_id, "0.02440", "0.02441"))
    assert desk.quote == (2450, 2451)
    assert len(desk.updates) == 1


def test_an_older_ticker_does_not_come_back_over_a_newer_one() -> None:
    desk = Desk()
    desk.frame(SNAPSHOT)
    desk.frame(ticker(15, "0.02449", "0.02451"))
    desk.frame(ticker(14, "0.02448", "0.02451"))
    assert desk.quote == (2449, 2451)


def test_a_ticker_with_the_same_prices_is_not_announced() -> None:
    desk = Desk()
    desk.frame(SNAPSHOT)
    desk.frame(ticker(11, "0.02450", "0.02451"))
    desk.frame(ticker(12, "0.02450", "0.02451"))
    assert len(desk.updates) == 1


@pytest.mark.parametrize("price", [b"0.00000", b"0.02451"])
def test_an_empty_side_in_a_ticker_is_an_empty_side(price: bytes) -> None:
    desk = Desk()
    desk.frame(SNAPSHOT)
    desk.frame(b'{"u":11,"s":"RVNUSDT","b":"0.02450","B":"100.0","a":"' + price + b'","A":"0.0"}')
    assert desk.quote is None
    assert desk.data.mid("binance", "RVN_USDT") is None
    desk.frame(ticker(12, "0.02450", "0.02451"))
    assert desk.quote == (2450, 2451)
    assert not desk.data.troubles


@pytest.mark.parametrize("raw", [b'"b":"0.02451","B":"1.0","a":"0.02451"', b'"b":"0.024505","B":"1.0","a":"0.02451"'])
def test_a_crossed_or_impossible_ticker_is_named_and_changes_nothing(raw: bytes) -> None:
    desk = Desk()
    desk.frame(SNAPSHOT)
    desk.frame(b'{"u":11,"s":"RVNUSDT",' + raw + b',"A":"1.0"}')
    assert desk.quote == (2450, 2451)
    assert len(desk.lines) == 1
    assert desk.lines[0].startswith("binance RVN_USDT: ticker: ")
    assert len(desk.updates) == 1


def test_a_ticker_without_a_synced_book_counts_for_nothing() -> None:
    desk = Desk()
    desk.frame(ticker(11, "0.02450", "0.02451"))
    assert desk.quote is None
    desk.frame(SNAPSHOT)
    desk.frame(diff(15, 15))
    desk.frame(ticker(16, "0.02440", "0.02441"))
    assert not desk.fresh
    assert len(desk.updates) == 1


def test_a_snapshot_of_a_book_whose_ids_began_anew_ends_the_old_ticker() -> None:
    desk = Desk()
    desk.frame(SNAPSHOT.replace(b":10,", b":1000,"))
    desk.frame(ticker(1001, "0.02440", "0.02441"))
    desk.data.lost("binance")
    desk.frame(SNAPSHOT)
    assert desk.quote == (2450, 2451)
    desk.frame(ticker(11, "0.02449", "0.02451"))
    assert desk.quote == (2449, 2451)


def test_tickers_keep_a_book_fresh_until_depth_frames_are_missing_among_them() -> None:
    desk = Desk()
    desk.frame(SNAPSHOT)
    for update_id in (9, 10, 11):  # the last one is ahead of the book
        desk.clock.advance(SECOND_NS)
        desk.frame(ticker(update_id, "0.02450", "0.02451"))
        assert desk.fresh
    desk.clock.advance(2 * SECOND_NS)
    desk.frame(ticker(12, "0.02449", "0.02451"))
    assert desk.fresh
    desk.clock.advance(1)
    desk.frame(ticker(13, "0.02449", "0.02451"))
    assert not desk.fresh
    assert desk.asked, "a snapshot is asked for"
    assert "tickers without the depth frames" in desk.lines[0]
    desk.frame(SNAPSHOT.replace(b":10,", b":13,"))
    assert desk.fresh


# --- signs of life


def test_a_book_that_does_not_change_is_fresh_on_a_living_connection() -> None:
    desk = Desk()
    desk.frame(SNAPSHOT)
    desk.clock.advance(10 * SECOND_NS)
    assert not desk.fresh
    desk.data.alive("binance", desk.clock.now_ns())
    assert desk.fresh
    desk.clock.advance(2 * SECOND_NS)
    assert desk.fresh
    desk.clock.advance(1)
    assert not desk.fresh
    desk.data.alive("binance", desk.clock.now_ns(), ["RVN_USDT"])
    assert desk.fresh


def test_a_living_connection_does_not_make_a_book_count_that_is_not_in_step() -> None:
    desk = Desk()
    desk.data.alive("binance", desk.clock.now_ns())
    assert not desk.fresh
    desk.frame(SNAPSHOT)
    desk.frame(diff(15, 15))
    desk.data.alive("binance", desk.clock.now_ns())
    assert not desk.fresh


def test_a_connection_of_several_that_breaks_takes_its_own_pairs_with_it() -> None:
    other = msgspec.structs.replace(COIN, pair="BTC_USDT", symbol="BTCUSDT")
    elsewhere = msgspec.structs.replace(COIN, exchange="xeggex")
    clock = ManualClock()
    kernel = Kernel(clock, MemoryStore(clock.call_soon))
    data = MarketData(kernel, [COIN, other, elsewhere])
    for exchange, pair in (("binance", "RVN_USDT"), ("binance", "BTC_USDT"), ("xeggex", "RVN_USDT")):
        data.frame(exchange, pair, SNAPSHOT, clock.now_ns())
    data.lost("binance", ["BTC_USDT"])
    assert data.fresh("binance", "RVN_USDT", clock.now_ns())
    assert not data.fresh("binance", "BTC_USDT", clock.now_ns())
    data.lost("binance")
    assert not data.fresh("binance", "RVN_USDT", clock.now_ns())
    assert data.fresh("xeggex", "RVN_USDT", clock.now_ns())
    with pytest.raises(KeyError):
        data.lost("binance", ["XYZ_USDT"])


def test_after_a_gap_the_book_does_not_count_until_a_snapshot_and_the_diffs_in_between_are_applied() -> None:
    desk = Desk()
    desk.frame(SNAPSHOT)
    desk.frame(diff(15, 15, [("0.02450", "1.0")]))
    assert not desk.data.fresh("binance", "RVN_USDT", desk.clock.now_ns())
    desk.frame(diff(16, 16, [("0.02448", "2.0")]))
    assert desk.asked == [("binance", "RVN_USDT")], "asked once, not for every diff"
    assert len(desk.updates) == 1
    desk.frame(SNAPSHOT.replace(b":10,", b":14,"))
    assert desk.data.fresh("binance", "RVN_USDT", desk.clock.now_ns())
    assert desk.bids == [(2450, 10), (2449, 500), (2448, 20)]
    assert len(desk.updates) == 2


def test_a_snapshot_older_than_the_waiting_diffs_is_asked_for_again() -> None:
    desk = Desk()
    desk.frame(diff(20, 20, [("0.02450", "1.0")]))
    desk.frame(SNAPSHOT)
    assert len(desk.asked) == 2
    desk.frame(SNAPSHOT.replace(b":10,", b":19,"))
    assert desk.bids[0] == (2450, 10)
    assert desk.data.fresh("binance", "RVN_USDT", desk.clock.now_ns())


def test_diffs_behind_a_second_gap_wait_for_the_next_snapshot() -> None:
    desk = Desk()
    desk.frame(diff(20, 20, [("0.02450", "1.0")]))
    desk.frame(diff(25, 25, [("0.02450", "2.0")]))
    desk.frame(diff(26, 26, [("0.02449", "3.0")]))
    desk.frame(SNAPSHOT.replace(b":10,", b":19,"))
    assert not desk.data.fresh("binance", "RVN_USDT", desk.clock.now_ns())
    desk.frame(SNAPSHOT.replace(b":10,", b":24,"))
    assert desk.bids == [(2450, 20), (2449, 30)]
    assert desk.data.fresh("binance", "RVN_USDT", desk.clock.now_ns())


def test_a_snapshot_whose_diffs_cross_it_is_not_announced() -> None:
    desk = Desk()
    desk.frame(diff(11, 11, [("0.02452", "1.0")]))
    desk.frame(SNAPSHOT)
    assert desk.updates == []
    assert len(desk.asked) == 2


def test_a_snapshot_that_never_comes_is_asked_for_again_after_a_while() -> None:
    desk = Desk()
    desk.frame(diff(20, 20))
    desk.clock.advance(6 * SECOND_NS)
    desk.frame(diff(21, 21))
    assert len(desk.asked) == 2


def test_diffs_that_wait_are_bounded() -> None:
    desk = Desk()
    desk.data.UNSYNCED_FRAMES_MAX = 10  # type: ignore[misc]
    for i in range(100, 140):
        desk.frame(diff(i, i, [("0.02450", "1.0")]))
    desk.frame(SNAPSHOT.replace(b":10,", b":99,"))
    assert not desk.data.fresh("binance", "RVN_USDT", desk.clock.now_ns()), "what was dropped is a gap"
    desk.frame(SNAPSHOT.replace(b":10,", b":139,"))
    assert desk.data.fresh("binance", "RVN_USDT", desk.clock.now_ns())


def test_a_book_without_updates_for_two_seconds_is_stale() -> None:
    desk = Desk()
    desk.frame(SNAPSHOT)
    desk.clock.advance(2 * SECOND_NS)
    assert desk.data.fresh("binance", "RVN_USDT", desk.clock.now_ns())
    desk.clock.advance(1)
    assert not desk.data.fresh("binance", "RVN_USDT", desk.clock.now_ns())


def test_a_lost_connection_makes_every_book_wait_for_a_snapshot() -> None:
    desk = Desk()
    desk.frame(SNAPSHOT)
    desk.data.lost("binance")
    desk.frame(diff(11, 11, [("0.02450", "1.0")]))
    assert not desk.data.fresh("binance", "RVN_USDT", desk.clock.now_ns())
    desk.frame(SNAPSHOT)
    assert desk.bids[0] == (2450, 10)


def test_a_crossed_book_is_not_announced_and_does_not_count() -> None:
    desk = Desk()
    desk.frame(SNAPSHOT)
    desk.frame(diff(11, 11, [("0.02452", "1.0")]))
    assert len(desk.updates) == 1
    assert not desk.data.fresh("binance", "RVN_USDT", desk.clock.now_ns())
    assert desk.asked


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\xff\xfe",
        b'{"e":"depthUpdate","E":1,"s":"RVNUSDT","U":11,"u":11,"b":[["0.02450","1.',
        b'{"e":"depthUpdate","E":1,"s":"RVNUSDT","U":11,"u":11,"b":[["0.024505","1.0"]],"a":[]}',
        b'{"e":"depthUpdate","E":1,"s":"RVNUSDT","U":11,"u":11,"b":[["x","1.0"]],"a":[]}',
        b'{"e":"trade","E":1,"s":"RVNUSDT","t":5,"p":"-1","q":"3.5","T":1,"m":false,"M":true}',
        b'{"lastUpdateId":11,"bids":[["0.02450"]],"asks":[]}',
        b'{"hello":"world"}',
    ],
)
def test_nonsense_changes_nothing_and_is_counted_and_named(raw: bytes) -> None:
    desk = Desk()
    desk.frame(SNAPSHOT)
    desk.frame(raw)
    assert desk.bids == [(2450, 1000), (2449, 500)]
    assert len(desk.updates) == 1
    assert desk.trades == []
    assert sum(desk.data.troubles.values()) == 1
    assert len(desk.lines) == 1
    assert desk.lines[0].startswith("binance RVN_USDT: ")
    assert desk.kernel.faults == []


def test_what_repeats_is_said_the_1st_10th_and_100th_time() -> None:
    desk = Desk()
    for _ in range(150):
        desk.frame(b"{")
    assert len(desk.lines) == 3
    assert desk.lines[-1].endswith("(100 times)")


def test_tops_of_changed_books_are_stored_a_few_times_a_second_and_only_those() -> None:
    desk = Desk(store_interval_ns=500 * MS_NS)
    desk.frame(SNAPSHOT)
    desk.clock.advance(600 * MS_NS)
    stored = msgspec.json.decode(desk.store.tables["books"]["binance:RVN_USDT"], type=StoredBook)
    assert stored.bids == [("0.02450", "100.0"), ("0.02449", "50.0")]
    assert stored.asks == [("0.02451", "80.0")]
    commits = desk.store.number
    desk.clock.advance(5 * SECOND_NS)
    assert desk.store.number == commits


@given(st.integers(0, 10**12), st.sampled_from(["0.00001", "0.1", "1", "10", "0.0005", "0.25", "1e-8", "2e3"]))
def test_a_grid_prints_what_decimal_computes(steps: int, step: str) -> None:
    assert Decimal(Grid.of(Decimal(step)).text(steps)) == steps * Decimal(step)


@pytest.mark.parametrize("step", ["0", "-1", "NaN", "Infinity"])
def test_a_grid_needs_a_positive_step(step: str) -> None:
    with pytest.raises(ValueError, match="positive"):
        Grid.of(Decimal(step))


@given(
    st.dictionaries(st.integers(1, 60), st.integers(1, 9), max_size=20),
    st.dictionaries(st.integers(61, 120), st.integers(1, 9), max_size=20),
    st.lists(st.integers(1, 130), max_size=10),
)
def test_lots_at_prices_are_those_of_the_book(bids: dict[int, int], asks: dict[int, int], prices: list[int]) -> None:
    book = Desk().data.book("binance", "RVN_USDT")
    book.set_levels(list(bids.items()), list(asks.items()), 1)
    for side, levels, last in ((BUY, bids, min), (SELL, asks, max)):
        assert lots_at(book, side, prices) == [levels.get(p, 0) for p in prices]
        assert last_ticks(book, side) == (last(levels) if levels else None)


def test_a_recorded_capture_gives_a_book_without_trouble(fixtures: Path) -> None:
    coin = msgspec.structs.replace(COIN, pair="BTC_USDT", tick=Decimal("0.01"), lot=Decimal("0.000001"))
    clock = ManualClock()
    kernel = Kernel(clock, MemoryStore(clock.call_soon))
    data = MarketData(kernel, [coin], depth_max=5_000)
    kernel.add(data)
    with gzip.open(fixtures / "binance" / "hftbacktest_spot_2024-08" / "btcusdt_20240808.gz") as lines:
        for _, line in zip(range(5_000), lines, strict=False):
            data.frame("binance", "BTC_USDT", line.split(b" ", 1)[1].rstrip(), clock.now_ns())
    assert not data.troubles
    assert data.fresh("binance", "BTC_USDT", clock.now_ns())
    bid, ask = data.quote("binance", "BTC_USDT") or (0, 0)
    assert 6_000_000 < bid < ask < 6_300_000
    assert data.last("binance", "BTC_USDT")
