"""A recorded capture plays as a live market, at its own pace, and says when it is over."""

import gzip
import random
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from tbx.core.kernel.clock import MS_NS, SECOND_NS, ManualClock
from tbx.core.kernel.kernel import Kernel
from tbx.core.market.data import MarketData
from tbx.core.model.errors import SettingsError
from tbx.core.model.messages import PlaceAtVenue, VenueFilled
from tbx.core.state.memory import MemoryStore
from tbx.venues.paper import PaperVenue
from tbx.venues.simulator.replay_market import ReplayMarket, pair_of, survey

pytestmark = pytest.mark.exchanges

SNAPSHOT = b'{"lastUpdateId":10,"bids":[["61837.63000000","3.78826000"]],"asks":[["61837.64000000","1.54698000"]]}'
DIFF = b'{"stream":"btcusdt@depth@100ms","data":{"e":"depthUpdate","E":1,"s":"BTCUSDT","U":11,"u":11,"b":[],"a":[]}}'


def test_frames_come_when_they_are_due_and_not_before() -> None:
    clock = ManualClock()
    seen: list[tuple[str, str, bytes, int]] = []
    ends: list[str] = []
    frames = [(1_000, DIFF), (1_000 + 40 * MS_NS, SNAPSHOT), (1_000 + 90 * MS_NS, DIFF)]
    market = ReplayMarket(clock, lambda *frame: seen.append(frame), frames, survey(frames), on_end=ends.append)
    began_ns = clock.now_ns()
    market.start()
    clock.advance(89 * MS_NS)
    assert seen == [("binance", "BTC_USDT", DIFF, began_ns), ("binance", "BTC_USDT", SNAPSHOT, began_ns + 40 * MS_NS)]
    assert ends == []
    clock.advance(MS_NS)
    assert len(seen) == 3
    assert market.ended
    assert len(ends) == 1


def test_a_replay_that_is_stopped_is_silent() -> None:
    clock = ManualClock()
    seen: list[object] = []
    frames = [(0, DIFF), (SECOND_NS, SNAPSHOT)]
    market = ReplayMarket(clock, lambda *frame: seen.append(frame), frames, survey(frames), on_end=seen.append)
    market.start()
    clock.settle()
    market.stop()
    clock.advance(5 * SECOND_NS)
    assert len(seen) == 1


def test_a_survey_finds_the_coarsest_grid_that_holds_the_data() -> None:
    (instrument,) = survey([(0, SNAPSHOT), (1, DIFF)])
    assert (instrument.pair, instrument.symbol) == ("BTC_USDT", "BTCUSDT")
    assert (instrument.tick, instrument.lot) == (Decimal("0.01"), Decimal("0.00001"))


@pytest.mark.parametrize(
    ("symbol", "pair"), [("BTCUSDT", "BTC_USDT"), ("BTCFDUSD", "BTC_FDUSD"), ("ETHBTC", "ETH_BTC")]
)
def test_a_symbol_becomes_a_pair(symbol: str, pair: str) -> None:
    assert pair_of(symbol) == pair


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        ([], "name no symbol"),
        ([(0, b"{}"), (1, b"nonsense")], "name no symbol"),
        ([(0, DIFF.replace(b"BTCUSDT", b"BTCXXX"))], "BTCXXX"),
        ([(0, DIFF), (1, DIFF.replace(b"BTCUSDT", b"ETHUSDT")), (2, SNAPSHOT)], "without a symbol"),
    ],
)
def test_a_capture_that_cannot_be_a_market_is_refused_with_a_reason(
    frames: list[tuple[int, bytes]], reason: str
) -> None:
    with pytest.raises(SettingsError, match=reason):
        survey(frames)


def capture(path: Path) -> Iterator[tuple[int, bytes]]:
    with gzip.open(path) as lines:
        for line in lines:
            local_ns, raw = line.rstrip().split(b" ", 1)
            yield int(local_ns), raw


def test_paper_orders_fill_against_a_recorded_book_until_it_ends(fixtures: Path) -> None:
    path = fixtures / "binance" / "hftbacktest_spot_2024-08" / "ethusdt_20240808.gz"
    instruments = survey(capture(path))
    clock = ManualClock()
    kernel = Kernel(clock, MemoryStore(clock.call_soon))
    data = MarketData(kernel, instruments, depth_max=5_000)
    venue = PaperVenue(kernel, "binance", data, rng=random.Random(1), run="1")
    market = ReplayMarket(clock, data.frame, capture(path), instruments, on_end=lambda _: None)
    fills: list[VenueFilled] = []
    kernel.add(data)
    kernel.add(venue)
    kernel.bus.subscribe(VenueFilled, fills.append)
    kernel.start()
    market.start()
    clock.advance(5 * SECOND_NS)
    bid, ask = data.quote("binance", "ETH_USDT") or (0, 0)
    lots = instruments[0].qty_lots(Decimal("0.5"))
    for client_id, price in (("now", None), ("later", bid)):
        kind, tif = ("market", "IOC") if price is None else ("limit", "GTC")
        venue.place(
            PlaceAtVenue(
                client_id=client_id,
                pair="ETH_USDT",
                side="buy",
                type=kind,  # type: ignore[arg-type]
                qty_lots=lots,
                price_ticks=price,
                tif=tif,  # type: ignore[arg-type]
            )
        )
    clock.advance(30 * SECOND_NS)
    assert sum(f.qty_lots for f in fills if f.client_id == "now") == lots
    assert fills[0].price_ticks in range(ask - 100, ask + 100)
    assert [f.price_ticks for f in fills if f.client_id == "later"], "the recorded trades reached the bid"
    clock.advance(600 * SECOND_NS)
    assert market.ended
    assert not data.troubles
    assert not data.fresh("binance", "ETH_USDT", clock.now_ns())
