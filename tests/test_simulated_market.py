"""The simulated market is lively, consistent, the same for the same seed, and fit for the manual's examples."""

import hashlib
import itertools
import json
from collections import Counter
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tbx.core.kernel.clock import MS_NS, SECOND_NS, ManualClock
from tbx.core.kernel.kernel import Kernel
from tbx.core.market.book import BUY, SELL, Book
from tbx.core.market.data import MarketData
from tbx.core.model.instruments import Instrument
from tbx.core.model.messages import BookUpdated, TradePrinted
from tbx.core.state.memory import MemoryStore
from tbx.venues.simulator.instruments import LISTINGS, paper_latency_ns, simulated_instruments
from tbx.venues.simulator.market import LEVELS, SimulatedMarket

pytestmark = pytest.mark.exchanges

PAIRS = {"XMR_USDT", "RVN_USDT", "BEL_USDT", "DOGE_USDT", "KAS_USDT", "SAL_USDT", "BTC_USDT", "ETH_USDT"}
INSTRUMENTS = {(i.exchange, i.pair): i for i in simulated_instruments()}


class World:
    """The simulated market on real books, in virtual time."""

    def __init__(self, seed: int = 11, start_prices: dict[str, Decimal] | None = None) -> None:
        self.clock = ManualClock()
        self.kernel = Kernel(self.clock, MemoryStore(self.clock.call_soon))
        self.data = MarketData(self.kernel, INSTRUMENTS.values())
        self.market = SimulatedMarket(self.clock, self.data.frame, seed=seed, start_prices=start_prices)
        self.data.resync = dict.fromkeys(("xeggex", "binance"), self.market.resync)
        self.updates: list[BookUpdated] = []
        self.trades: list[TradePrinted] = []
        self.kernel.add(self.data)
        self.kernel.bus.subscribe(BookUpdated, self.updates.append)
        self.kernel.bus.subscribe(TradePrinted, self.trades.append)
        self.kernel.start()
        self.market.start()

    def books(self) -> list[tuple[Instrument, Book]]:
        return [(i, self.data.book(i.exchange, i.pair)) for i in INSTRUMENTS.values()]


def test_both_exchanges_list_the_eight_pairs_on_grids_that_hold_their_prices() -> None:
    assert set(INSTRUMENTS) == {(exchange, pair) for exchange in ("xeggex", "binance") for pair in PAIRS}
    for listing in LISTINGS:
        for exchange in ("xeggex", "binance"):
            INSTRUMENTS[exchange, listing.pair].price_ticks(Decimal(listing.price))


@pytest.mark.parametrize(
    ("pair", "quantity", "prices"),
    [
        ("RVN_USDT", "5000", ["0.0245", "0.0233", "0.0270"]),
        ("RVN_USDT", "1000", []),
        ("BEL_USDT", "2180", ["0.5640", "0.5358", "0.6204"]),
        ("XMR_USDT", "125.50", ["158.45", "162.30"]),
    ],
)
def test_every_quantity_and_price_of_the_manual_lies_on_the_grid(pair: str, quantity: str, prices: list[str]) -> None:
    for exchange in ("xeggex", "binance"):
        instrument = INSTRUMENTS[exchange, pair]
        assert instrument.min_lots <= instrument.qty_lots(Decimal(quantity)) <= instrument.max_lots
        for price in prices:
            instrument.price_ticks(Decimal(price))


def test_fees_are_as_the_manual_shows_them() -> None:
    xeggex, binance = INSTRUMENTS["xeggex", "RVN_USDT"], INSTRUMENTS["binance", "RVN_USDT"]
    assert (5000 * Decimal("0.02451") * xeggex.taker_fee).quantize(Decimal("0.01")) == Decimal("0.12")
    assert (xeggex.fee_currency("buy"), binance.fee_currency("buy")) == ("USDT", "RVN")


def test_each_exchange_has_a_latency_of_its_own() -> None:
    assert paper_latency_ns("binance", 5 * MS_NS) < 5 * MS_NS < paper_latency_ns("xeggex", 5 * MS_NS)
    assert paper_latency_ns("elsewhere", 5 * MS_NS) == 5 * MS_NS


def test_after_a_minute_every_book_is_fresh_deep_uncrossed_and_near_its_price() -> None:
    world = World()
    world.clock.advance(60 * SECOND_NS)
    assert not world.data.troubles
    assert world.kernel.faults == []
    for instrument, book in world.books():
        assert world.data.fresh(instrument.exchange, instrument.pair, world.clock.now_ns())
        assert len(book.levels(BUY, LEVELS)) == len(book.levels(SELL, LEVELS)) == LEVELS
        assert book.best_bid_ticks < book.best_ask_ticks
        listed = next(Decimal(listing.price) for listing in LISTINGS if listing.pair == instrument.pair)
        mid = world.data.mid(instrument.exchange, instrument.pair)
        assert mid is not None
        assert abs(mid / listed - 1) < Decimal("0.01")
        spread = (book.best_ask_ticks - book.best_bid_ticks) * instrument.tick / mid
        assert spread < Decimal("0.0015")


def test_the_book_built_from_diffs_is_the_snapshot() -> None:
    world = World()
    world.clock.advance(20 * SECOND_NS)
    for instrument, book in world.books():
        simulated = world.market.pairs[instrument.pair].books[instrument.exchange]
        again = Book(
            "",
            "",
            price_decimals=simulated.price_grid.decimals,
            qty_decimals=simulated.qty_grid.decimals,
        )
        again.load_snapshot(simulated.snapshot())
        for side in (BUY, SELL):
            assert again.levels(side, 1_000) == book.levels(side, 1_000)
        assert again.update_id == book.update_id


def test_every_book_is_updated_ten_times_a_second_and_trades_on_both_sides() -> None:
    world = World()
    world.clock.advance(10 * SECOND_NS)
    for key in INSTRUMENTS:
        assert 90 <= sum((u.exchange, u.pair) == key for u in world.updates) <= 110
        mine = [t for t in world.trades if (t.exchange, t.pair) == key]
        assert {t.buyer_is_maker for t in mine} == {True, False}
        assert 10 < len(mine) < 250


def test_updates_are_staggered() -> None:
    world = World()
    world.clock.advance(SECOND_NS)
    world.updates.clear()
    world.clock.advance(99 * MS_NS)
    assert max(Counter(u.timestamp_ns for u in world.updates).values()) == 2


def frames_of(seed: int, steps: int) -> list[tuple[str, str, bytes]]:
    frames: list[tuple[str, str, bytes]] = []
    market = SimulatedMarket(ManualClock(), lambda e, p, raw, _: frames.append((e, p, raw)), seed=seed)
    for _ in range(steps):
        market.step("RVN_USDT")
    return frames


def test_the_same_seed_gives_the_same_frames_and_another_seed_others() -> None:
    assert frames_of(3, 300) == frames_of(3, 300)
    assert frames_of(3, 300) != frames_of(4, 300)


def test_the_frames_of_a_pair_do_not_depend_on_how_often_others_step() -> None:
    frames: list[bytes] = []
    market = SimulatedMarket(
        ManualClock(), lambda _, p, raw, __: frames.append(raw) if p == "RVN_USDT" else None, seed=3
    )
    for _ in range(100):
        market.step("BTC_USDT")
        market.step("RVN_USDT")
    assert frames == [raw for _, _, raw in frames_of(3, 100)]


def test_the_frames_of_a_seed_stay_the_same_from_version_to_version() -> None:
    digest = hashlib.sha256(b"\n".join(raw for _, _, raw in frames_of(1, 200))).hexdigest()
    assert digest[:16] == "5c45eba191d5ab93", "stored seeds play other markets now: say so in the release notes"


def test_frames_are_those_of_binance() -> None:
    frames = [json.loads(raw) for _, _, raw in frames_of(3, 200)]
    depth = [f for f in frames if f["e"] == "depthUpdate"]
    trades = [f for f in frames if f["e"] == "trade"]
    assert all(set(f) == set("eEsUuba") for f in depth)
    assert all(set(f) == set("eEstpqTmM") for f in trades)
    assert len(depth) == 200
    for exchange in ("RVNUSDT", "RVN/USDT"):
        ids = [(f["U"], f["u"]) for f in depth if f["s"] == exchange]
        assert all(first == last + 1 for (_, last), (first, _) in itertools.pairwise(ids))


def test_a_market_goes_on_from_stored_prices() -> None:
    world = World(start_prices={"RVN_USDT": Decimal("0.0312")})
    world.clock.advance(SECOND_NS)
    for exchange in ("xeggex", "binance"):
        mid = world.data.mid(exchange, "RVN_USDT")
        assert mid is not None
        assert abs(mid / Decimal("0.0312") - 1) < Decimal("0.005")


def test_a_book_that_lost_its_way_gets_a_snapshot() -> None:
    world = World()
    world.data.book("xeggex", "RVN_USDT").unsync()
    world.clock.advance(SECOND_NS)
    assert world.data.fresh("xeggex", "RVN_USDT", world.clock.now_ns())


def test_a_market_that_is_stopped_is_silent() -> None:
    world = World()
    world.market.stop()
    world.updates.clear()
    world.clock.advance(SECOND_NS)
    assert world.updates == []


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(sorted(PAIRS)))
def test_no_seed_ever_crosses_a_book_or_leaves_it_thin(seed: int, pair: str) -> None:
    world = World(seed)
    world.market.stop()
    for _ in range(100):
        world.market.step(pair)
    assert not world.data.troubles
    for exchange in ("xeggex", "binance"):
        book = world.data.book(exchange, pair)
        assert 0 < book.best_bid_ticks < book.best_ask_ticks
        assert min(len(book.levels(BUY, LEVELS)), len(book.levels(SELL, LEVELS))) >= 20


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32))
def test_the_manuals_orders_fill_within_half_a_percent_of_the_mid(seed: int) -> None:
    world = World(seed)
    world.clock.advance(2 * SECOND_NS)
    for pair, quantity in (("RVN_USDT", "5000"), ("BEL_USDT", "2180"), ("XMR_USDT", "75")):
        for exchange in ("xeggex", "binance"):
            instrument = INSTRUMENTS[exchange, pair]
            left, cost = instrument.qty_lots(Decimal(quantity)), 0
            for ticks, lots in world.data.book(exchange, pair).levels(SELL, LEVELS):
                take = min(left, lots)
                left, cost = left - take, cost + take * ticks
            mid = world.data.mid(exchange, pair)
            assert mid is not None
            assert left == 0
            assert instrument.amount(cost) / Decimal(quantity) / mid - 1 < Decimal("0.005")
