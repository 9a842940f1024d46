"""Binance's market data from subscription to books, on virtual time against simulated books that are the truth."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest

from tbx.core.kernel.clock import MS_NS, SECOND_NS, ManualClock
from tbx.core.kernel.kernel import Kernel
from tbx.core.market.book import BUY, SELL
from tbx.core.market.data import MarketData
from tbx.core.model.errors import Refused, Unreachable
from tbx.core.model.instruments import Instrument
from tbx.core.model.messages import TradePrinted
from tbx.core.state.memory import MemoryStore
from tbx.venues.binance.endpoints import resolve
from tbx.venues.binance.market import BinanceMarket
from tbx.venues.binance.snapshots import DEPTH_WEIGHTS, Snapshots, snapshot_levels
from tbx.venues.limits import binance_budgets
from tbx.venues.session import ConnectFailed

from .binance_feed import INSTRUMENTS, BinanceFeed
from .live_network import ProcessClock, Stepped

ENDPOINTS = resolve("live", public=True)
PAIRS = [i.pair for i in INSTRUMENTS]


class World:
    """The venue, the market source, and the books that it feeds."""

    def __init__(self, jitter: float = 0.5, **options: Any) -> None:
        self.time = Stepped()
        self.clock = ProcessClock(self.time)
        self.feed = BinanceFeed(self.time)
        self.kernel = Kernel(self.clock, MemoryStore(self.clock.call_soon))
        self.troubles: list[str] = []
        self.data = MarketData(self.kernel, INSTRUMENTS, on_trouble=self.troubles.append)
        self.trades: list[TradePrinted] = []
        self.kernel.add(self.data)
        self.kernel.bus.subscribe(TradePrinted, self.trades.append)
        self.market = BinanceMarket(
            self.clock,
            self.data,
            INSTRUMENTS,
            ENDPOINTS,
            connect=self.feed.network.connect,
            get=self.feed.get,
            jitter=lambda: jitter,
            on_trouble=self.troubles.append,
            **options,
        )
        self.data.resync["binance"] = self.market.resync
        self.kernel.start()

    def started(self) -> World:
        self.market.start()
        self.advance(2 * SECOND_NS)
        return self

    def advance(self, delta_ns: int) -> None:
        self.time.advance(delta_ns)

    @property
    def session(self) -> Any:
        return self.market.shards[0].session

    @property
    def connection(self) -> Any:
        """The one in use."""
        return next(c for c in self.feed.network.connections if c.link is self.session.link)

    def settle(self) -> None:
        """Let what is on its way arrive; nothing new is sent meanwhile."""
        timer = self.feed.market._timer
        assert timer is not None
        timer.cancel()
        self.advance(50 * MS_NS)

    def fresh(self) -> list[bool]:
        return [self.data.fresh("binance", pair, self.clock.now_ns()) for pair in PAIRS]

    def check_books(self) -> None:
        """Each book is the venue's, level by level."""
        self.settle()
        for instrument in INSTRUMENTS:
            truth, book = self.feed.book(instrument.pair), self.data.book("binance", instrument.pair)
            assert book.synced and book.update_id == truth.update_id
            for side, lots in ((BUY, truth.lots[0]), (SELL, truth.lots[1])):
                shown = {slot * truth.gap: n for slot, n in lots.items() if n}
                assert dict(book.levels(side, len(shown))) == shown

    def check_trades(self) -> None:
        """Each trade that was sent to anybody came once."""
        assert Counter(trade.pair for trade in self.trades) == self.feed.trades


def test_every_book_becomes_the_venues_and_trades_come_once() -> None:
    world = World().started()
    assert world.feed.network.connections[0].url == "wss://data-stream.binance.vision/stream"
    assert len(world.feed.requests) == len(PAIRS)
    world.advance(20 * SECOND_NS)
    assert all(world.fresh())
    world.check_books()
    world.check_trades()
    assert len(world.feed.requests) == len(PAIRS) and world.troubles == []
    assert world.market.status().status == "connected"


def test_a_lost_frame_costs_one_snapshot() -> None:
    world = World().started()
    lost: list[bytes] = []

    def once(stream: str, frame: bytes) -> bool:
        if stream == "btcusdt@depth@100ms" and not lost:
            lost.append(frame)
            return True
        return False

    world.feed.lose = once
    world.advance(5 * SECOND_NS)
    assert lost and len(world.feed.requests) == len(PAIRS) + 1
    assert "symbol=BTCUSDT&" in world.feed.requests[-1][1]
    assert world.data.troubles["binance", "BTC_USDT", "gap"] == 1
    world.check_books()


def test_a_lost_connection_loses_the_books_until_new_snapshots_came() -> None:
    world = World().started()
    world.connection.cut()
    assert not any(world.fresh())
    assert world.market.status().status == "disconnected"
    assert world.market.status().reason.startswith("the connection was cut")
    world.advance(5 * SECOND_NS)
    assert all(world.fresh()) and world.market.status().reason == ""
    world.check_books()
    assert len(world.feed.requests) == 2 * len(PAIRS)


def test_a_snapshot_asked_for_before_the_connection_broke_does_not_count() -> None:
    world = World()
    world.market.start()
    world.feed.snapshot_delay_ns = SECOND_NS
    world.advance(500 * MS_NS)
    assert world.feed.requests
    world.feed.network.refusal = ConnectFailed("no")
    world.feed.network.live[0].cut()
    world.advance(10 * SECOND_NS)
    assert not any(world.data.book("binance", pair).synced for pair in PAIRS)
    assert not any(world.fresh())


def test_a_renewal_leaves_no_gap_and_repeats_no_trade() -> None:
    world = World(max_age_ns=30 * SECOND_NS).started()
    for _ in range(8):
        world.advance(15 * SECOND_NS)
        assert all(world.fresh())
    assert len(world.feed.network.connections) == 5
    assert len(world.feed.requests) == len(PAIRS)  # no book was ever without its venue
    assert world.market.repeated_trades > 0  # the connections did overlap
    assert not any(what == "gap" for _, _, what in world.data.troubles)
    world.check_books()
    world.check_trades()


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(b'{"stream":"!serverShutdown","data":{"e":"serverShutdown","E":1770123456789}}', id="combined"),
        pytest.param(b'{"e":"serverShutdown","E":1770123456789}', id="raw"),
    ],
)
def test_a_server_that_shuts_down_is_left_before_it_does(frame: bytes) -> None:
    world = World().started()
    first = world.connection
    first.send(frame)
    world.advance(100 * MS_NS)
    assert world.connection is not first and not first.ended
    world.advance(10 * SECOND_NS)
    assert first.ended and all(world.fresh()) and len(world.feed.requests) == len(PAIRS)
    world.check_books()


def test_what_cannot_be_understood_is_counted_told_and_harmless() -> None:
    world = World().started()
    depth = b'{"stream":"btcusdt@depth@100ms","data":{"e":"depthUpdate","E":1,"s":"BTCUSDT","U":9,"u":8,"b":[],"a":[]}'
    nonsense = [
        b"",
        b"}",
        b"hello",
        b"[]",
        b"\xff\xfe",
        b'{"stream":"btcusdt@depth@100ms","data":',
        b'{"stream":"nobody@depth","data":{"e":"depthUpdate"}}',
        b'{"result":null,"id":77}',
        b'{"id":{}}',
        depth,
        depth + b"]",
        b'{"stream":"btcusdt@trade","data":{"e":"trade","s":"BTCUSDT","t":"x","p":"1","q":"1","T":1,"m":true}}',
        b'{"stream":"btcusdt@trade","data":{"e":"trade"}}',
        b"{" * 5_000,
    ]
    for _ in range(10):
        for frame in nonsense:
            world.connection.send(frame)
    world.advance(5 * SECOND_NS)
    assert all(world.fresh()) and len(world.feed.network.connections) == 1
    assert sum(world.market.troubles.values()) + sum(world.data.troubles.values()) == 10 * len(nonsense)
    assert any("nobody subscribed to: nobody@depth (10 times)" in trouble for trouble in world.troubles)
    assert len(world.troubles) < 3 * len(nonsense)
    world.check_books()


def test_frames_in_another_spelling_still_count() -> None:
    world = World().started()
    world.settle()
    book = world.data.book("binance", "BTC_USDT")
    first = book.update_id + 1
    bid = world.feed.book("BTC_USDT")
    price = bid.price_grid.text(book.best_bid_ticks)
    world.connection.send(
        b'{"data": {"s":"BTCUSDT","e":"depthUpdate","E":1,"U":%d,"u":%d,"b":[["%s","9.00"]],"a":[]}, '
        b'"stream": "btcusdt@depth@100ms"}' % (first, first, price.encode())
    )
    world.advance(10 * MS_NS)
    assert book.update_id == first and world.market.troubles == {}


def test_subscriptions_are_sent_in_batches_no_faster_than_the_venue_allows() -> None:
    clock = ManualClock()
    feed = BinanceFeed(clock, [])
    instruments = [coin(i) for i in range(700)]
    books = RecordedBooks()
    market = BinanceMarket(
        clock,
        books,
        instruments,
        ENDPOINTS,
        connect=feed.network.connect,
        get=feed.get,
        jitter=lambda: 0.5,
        on_trouble=books.troubles.append,
    )
    feed.failure = Unreachable("not asked here")
    assert [len(shard.pairs) for shard in market.shards] == [234, 233, 233]
    market.start()
    clock.advance(SECOND_NS)
    assert all(shard.session.link is None for shard in market.shards)  # not all is subscribed yet
    clock.advance(2 * SECOND_NS)
    assert all(shard.session.link is not None for shard in market.shards)
    for connection in feed.network.connections:
        times = [at for at, where, _ in feed.messages if where is connection]
        assert all(b - a >= SECOND_NS // 4 for a, b in pairwise(times)) and len(times) in (7, 8)
        assert len(feed.subscribed[connection]) <= 1_024
    named = [name for streams in feed.subscribed.values() for name in streams]
    assert len(named) == len(set(named)) == 2_100
    feed.network.connections[1].cut()
    assert books.lost_pairs == [market.shards[1].pairs]  # the others have theirs


def coin(i: int) -> Instrument:
    return Instrument(
        exchange="binance",
        pair=f"C{i}_USDT",
        symbol=f"C{i}USDT",
        base=f"C{i}",
        quote="USDT",
        tick=Decimal("0.01"),
        lot=Decimal("0.01"),
    )


class RecordedBooks:
    """What a market source told, for tests without prices."""

    def __init__(self) -> None:
        self.troubles: list[str] = []
        self.lost_pairs: list[tuple[str, ...] | None] = []
        self.alive_calls = 0

    def frame(self, exchange: str, pair: str, raw: bytes, local_ns: int) -> None:
        raise AssertionError("no frames here")

    def lost(self, exchange: str, pairs: Iterable[str] | None = None) -> None:
        self.lost_pairs.append(tuple(pairs) if pairs is not None else None)

    def alive(self, exchange: str, local_ns: int, pairs: Iterable[str] | None = None) -> None:
        self.alive_calls += 1


def test_a_refused_subscription_is_told_and_tried_again() -> None:
    world = World()
    world.feed.refusal = {"error": {"code": 2, "msg": "Invalid request: unknown"}}
    world.market.start()
    world.advance(2 * SECOND_NS)
    assert "subscription refused: 2 Invalid request: unknown" in world.market.status().reason
    world.feed.refusal = None
    world.advance(10 * SECOND_NS)
    assert all(world.fresh())


def test_a_quiet_market_on_a_live_connection_stays_fresh() -> None:
    world = World().started()
    world.settle()
    for _ in range(60):
        world.advance(SECOND_NS)
        assert all(world.fresh())
    assert 30 <= world.connection.pings <= 130  # about one a second
    world.connection.ended = True  # its end says nothing: no pong comes back
    world.advance(3 * SECOND_NS)
    assert not any(world.fresh())


@pytest.mark.parametrize("jump_s", [-3_600, 3_600])
def test_a_quiet_market_is_fresh_again_soon_after_the_clock_was_set(jump_s: int) -> None:
    world = World().started()
    world.settle()
    world.advance(5 * SECOND_NS)
    world.clock.skew_ns = jump_s * SECOND_NS
    assert not any(world.fresh())
    world.advance(2 * SECOND_NS)
    for _ in range(10):
        world.advance(SECOND_NS)
        assert all(world.fresh())
    world.connection.ended = True
    world.advance(3 * SECOND_NS)
    assert not any(world.fresh())


def test_books_come_back_soon_when_a_connection_breaks_after_the_clock_was_set_back() -> None:
    world = World().started()
    world.advance(20 * SECOND_NS)
    world.clock.skew_ns = -3_600 * SECOND_NS
    world.connection.cut()
    world.settle()
    world.advance(5 * SECOND_NS)
    assert all(world.fresh())
    world.check_books()


def test_the_weight_of_snapshots_counts_by_the_venues_clock_and_so_does_the_latency() -> None:
    ahead_ns = 150 * SECOND_NS
    budgets, clocks = binance_budgets(), list[ProcessClock]()
    world = World(budgets=budgets, now_ns=lambda: clocks[0].now_ns() + ahead_ns)
    clocks.append(world.clock)
    budgets.take("REQUEST_WEIGHT", 100, world.market.now_ns())  # as the order side does
    world.started()
    used = 100 + len(world.feed.requests) * world.feed.requests[0][2]
    assert budgets.remaining("REQUEST_WEIGHT", world.market.now_ns()) == 6_000 - used
    latency_ns = world.market.latency_ns
    assert latency_ns is not None and ahead_ns <= latency_ns < ahead_ns + 2 * MS_NS
    assert world.market.status().latency_ms == latency_ns / MS_NS


def test_a_book_that_breaks_keeps_no_other_waiting() -> None:
    clock, asked, delivered = ManualClock(), list[Any](), list[str]()

    def deliver(pair: str, _: bytes) -> None:
        delivered.append(pair)
        raise RuntimeError("a bug")

    snapshots = Snapshots(
        clock,
        lambda path, weight, answer: asked.append(answer),
        binance_budgets(),
        {f"P{n}": f"S{n}" for n in range(20)},
        levels=100,
        deliver=deliver,
        jitter=lambda: 0.5,
        on_trouble=[].append,
        now_ns=clock.now_ns,
    )
    for n in range(20):
        snapshots.want(f"P{n}")
    for n in range(20):
        with pytest.raises(RuntimeError, match="a bug"):
            asked[n](b"{}")
    assert delivered == [f"P{n}" for n in range(20)]


def test_the_latency_is_the_time_from_the_venues_event_to_our_frame() -> None:
    world = World()
    assert world.market.latency_ns is None
    world.feed.network.delay_ns = 7 * MS_NS
    world.started()
    latency_ns = world.market.latency_ns
    assert latency_ns is not None and 7 * MS_NS <= latency_ns < 8 * MS_NS


@pytest.mark.parametrize(
    ("pairs", "levels_max", "levels"),
    [
        (1, 5000, 5000),
        (12, 5000, 5000),
        (13, 5000, 1000),
        (60, 5000, 1000),
        (61, 5000, 500),
        (120, 1000, 500),
        (121, 1000, 100),
        (3_000, 1000, 100),
        (5, 1000, 1000),
        (5, 50, 100),
    ],
)
def test_snapshots_are_as_deep_as_a_resync_of_all_pairs_allows(pairs: int, levels_max: int, levels: int) -> None:
    assert snapshot_levels(pairs, levels_max) == levels


def test_snapshots_stay_within_the_budget() -> None:
    world = World()
    weight = DEPTH_WEIGHTS[world.market.snapshots.levels]
    now_ns = world.clock.now_ns()
    world.market.budgets.observe("REQUEST_WEIGHT", 60 * SECOND_NS, 5_880 - 3 * weight, 6_000, now_ns)
    world.market.start()
    world.advance(30 * SECOND_NS)
    assert len(world.feed.requests) == 3 and sum(world.fresh()) == 3
    world.advance(31 * SECOND_NS)
    assert len(world.feed.requests) == len(PAIRS) and all(world.fresh())


def test_snapshots_that_fail_are_tried_again_with_longer_pauses() -> None:
    world = World()
    world.feed.failure = Unreachable("HTTP 503")
    world.market.start()
    world.advance(60 * SECOND_NS)
    times = [at for at, path, _ in world.feed.requests if "symbol=BTCUSDT&" in path]
    waits = [(b - a) / SECOND_NS for a, b in pairwise(times)]
    assert len(times) < 12 and waits == sorted(waits) and waits[-1] > 10
    assert any("no snapshot of BTC_USDT" in trouble and "HTTP 503" in trouble for trouble in world.troubles)
    world.feed.failure = None
    world.advance(45 * SECOND_NS)
    assert all(world.fresh())


def test_a_symbol_that_the_venue_refuses_is_not_asked_for_again_and_again() -> None:
    world = World()
    world.feed.failure = Refused('HTTP 400 {"code":-1121,"msg":"Invalid symbol."}')
    world.market.start()
    world.advance(100 * SECOND_NS)
    assert len(world.feed.requests) == len(PAIRS)


def test_stop_ends_everything_and_nobody_is_asked_any_more() -> None:
    world = World().started()
    world.market.stop()
    asked, attempts = len(world.feed.requests), len(world.feed.network.connections)
    world.advance(100 * SECOND_NS)
    assert world.feed.network.live == [] and not any(world.fresh())
    assert (len(world.feed.requests), len(world.feed.network.connections)) == (asked, attempts)
    world.market.resync("binance", "BTC_USDT")
    world.market.resync("binance", "NO_SUCH")
    world.advance(SECOND_NS)
    assert len(world.feed.requests) == asked


def test_a_venue_that_counts_trades_anew_after_a_break_is_heard() -> None:
    world = World().started()
    world.advance(60 * SECOND_NS)
    world.connection.cut()
    world.feed.network.delay_ns = 0
    world.advance(SECOND_NS)
    for pair in PAIRS:
        world.feed.book(pair).trade_id = 0
    world.connection.cut()
    world.advance(SECOND_NS)
    world.trades.clear()
    world.feed.trades.clear()
    world.advance(5 * SECOND_NS)
    world.settle()
    world.check_trades()
    assert world.trades


def test_mutated_frames_break_nothing() -> None:
    world = World().started()
    rng = random.Random(7)
    sent: list[bytes] = []
    world.feed.lose = lambda stream, frame: (
        sent.append(b'{"stream":"%s","data":%s}' % (stream.encode(), frame)) or False
    )
    world.advance(SECOND_NS)
    world.feed.lose = lambda stream, frame: False
    link = world.session.link
    for _ in range(3_000):
        link.take(mutated(rng, rng.choice(sent)))
    assert not link.down and world.session.reconnects == 0
    assert not any("own code" in trouble for trouble in world.troubles)
    assert world.market.troubles and world.data.troubles


def mutated(rng: random.Random, frame: bytes) -> bytes:
    """Cut short, or with some bytes changed, dropped or doubled."""
    data = bytearray(frame)
    kind = rng.randrange(4)
    if kind == 0:
        return bytes(data[: rng.randrange(len(data))])
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(len(data))
        if kind == 1:
            data[at] = rng.randrange(256)
        elif kind == 2:
            del data[at]
        else:
            data[at:at] = data[at : at + rng.randrange(1, 20)]
    return bytes(data)
