"""Binance's official SDK follows the local exchange's market streams: parsed by its own models, complete, in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import binance_common.websocket
import pytest
from binance_common.configuration import ConfigurationWebSocketStreams
from binance_common.constants import TimeUnit
from binance_sdk_spot.websocket_streams import SpotWebSocketStreams

from .exchange_clients import Heard, Venue, a_venue, agreeing, within
from .redis_fixtures import in_loop

pytestmark = pytest.mark.exchanges


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK waits half a second before each SUBSCRIBE; the tests stay below the five a second that it is for."""
    monkeypatch.setattr(binance_common.websocket, "SUBSCRIBE_MESSAGE_DELAY_SECONDS", 0)


@pytest.fixture
def venue() -> Iterator[Venue]:
    with a_venue() as venue, agreeing():
        yield venue


@asynccontextmanager
async def connected(venue: Venue, **settings: Any) -> AsyncIterator[SpotWebSocketStreams]:
    streams = SpotWebSocketStreams(ConfigurationWebSocketStreams(stream_url=venue.url_stream, **settings))
    await streams.create_connection()
    try:
        yield streams
    finally:
        await streams.close_connection()


async def follow(streams: SpotWebSocketStreams, subscribe: Any) -> Heard:
    """What comes on a stream from when the exchange has taken the subscription."""
    heard = Heard()
    handle = await within(subscribe)
    handle.on("message", heard)
    await taken(streams)
    return heard


async def taken(streams: SpotWebSocketStreams) -> None:
    """Wait for the answers to every SUBSCRIBE that is under way."""
    pending = [answer for connection in streams.connections for answer in connection.pending_request.values()]
    await within(asyncio.gather(*pending))


@in_loop
async def test_each_trade_is_told_once_as_trade_and_once_as_aggregate(venue: Venue) -> None:
    async with connected(venue) as streams:
        trades = await follow(streams, streams.trade(symbol="btcusdt"))
        aggregates = await follow(streams, streams.agg_trade(symbol="btcusdt"))
        venue.trade("BUY", "60020", "1.5")
        first, second = await trades.until(), await trades.until()
        assert [(trade.s, trade.p, trade.q, trade.m) for trade in (first, second)] == [
            ("BTCUSDT", "60010.00000000", "1.00000000", False),
            ("BTCUSDT", "60020.00000000", "0.50000000", False),
        ]
        assert second.t == first.t + 1
        # One taker at one price is one aggregate.
        one, other = await aggregates.until(), await aggregates.until()
        assert [(one.p, one.q, one.f, one.l), (other.p, other.q, other.f, other.l)] == [
            ("60010.00000000", "1.00000000", first.t, first.t),
            ("60020.00000000", "0.50000000", second.t, second.t),
        ]
        assert other.a == one.a + 1


@in_loop
async def test_depth_differences_continue_one_another(venue: Venue) -> None:
    async with connected(venue) as streams:
        depth = await follow(streams, streams.diff_book_depth(symbol="btcusdt", update_speed="100ms"))
        venue.level("BUY", "59000", "1")
        first = await depth.until()
        assert first.b == [["59000.00000000", "1.00000000"]]
        venue.level("BUY", "59000", "0")
        venue.level("SELL", "61000", "2")
        book: dict[str, str] = {}
        last = first.u
        while len(book) < 2:
            frame = await depth.until()
            assert (frame.s, frame.U) == ("BTCUSDT", last + 1)
            last = frame.u
            book |= dict(frame.b) | dict(frame.a)
        assert book == {"59000.00000000": "0.00000000", "61000.00000000": "2.00000000"}


@in_loop
async def test_the_top_of_the_book_in_two_forms(venue: Venue) -> None:
    async with connected(venue) as streams:
        top = await follow(streams, streams.book_ticker(symbol="btcusdt"))
        five = await follow(streams, streams.partial_book_depth(symbol="btcusdt", levels="5", update_speed="100ms"))
        venue.level("BUY", "60000", "0.125")
        ticker = await top.until(lambda ticker: ticker.b == "60000.00000000")
        assert (ticker.s, ticker.B, ticker.a, ticker.A) == ("BTCUSDT", "0.12500000", "60010.00000000", "1.00000000")
        book = await five.until(lambda book: book.bids[0][0] == "60000.00000000")
        assert (len(book.asks), book.last_update_id) == (3, ticker.u)


@in_loop
async def test_candles_and_tickers(venue: Venue) -> None:
    async with connected(venue) as streams:
        candles = await follow(streams, streams.kline(symbol="btcusdt", interval="1m"))
        day = await follow(streams, streams.ticker(symbol="btcusdt"))
        short = await follow(streams, streams.mini_ticker(symbol="btcusdt"))
        every = await follow(streams, streams.all_mini_ticker())
        venue.trade("BUY", "60010", "0.25")
        candle = await candles.until(lambda candle: candle.k.c == "60010.00000000")
        assert (candle.s, candle.k.i, candle.k.x) == ("BTCUSDT", "1m", False)
        ticker = await day.until(lambda ticker: ticker.c == "60010.00000000")
        assert (ticker.s, ticker.b, ticker.a, ticker.A) == (
            "BTCUSDT",
            "59990.00000000",
            "60010.00000000",
            "0.75000000",
        )
        assert (await short.until(lambda ticker: ticker.c == "60010.00000000")).s == "BTCUSDT"
        everything = await every.until()
        assert "BTCUSDT" in {entry.s for entry in everything}


@in_loop
async def test_rolling_windows_and_the_average_price(venue: Venue) -> None:
    async with connected(venue) as streams:
        hour = await follow(streams, streams.rolling_window_ticker(symbol="btcusdt", window_size="1h"))
        average = await follow(streams, streams.avg_price(symbol="btcusdt"))
        shifted = await follow(streams, streams.kline_offset(symbol="btcusdt", interval="1d"))
        venue.trade("BUY", "60010", "0.25")
        assert (await hour.until(lambda ticker: ticker.c == "60010.00000000")).s == "BTCUSDT"
        price = await average.until()
        assert (price.s, price.i) == ("BTCUSDT", "5m")
        assert Decimal(price.w) > 0
        day = (await shifted.until()).k
        assert (day.t + 8 * 3_600_000) % 86_400_000 == 0


@in_loop
async def test_subscriptions_are_listed_and_ended(venue: Venue) -> None:
    async with connected(venue) as streams:
        heard = Heard()
        names = ["btcusdt@trade", "ethusdt@trade", "btcusdt@bookTicker"]
        await within(streams.subscribe(names))
        for name in names:
            streams.on("message", heard, name)
        assert set((await within(streams.list_subscribe()))["result"]) == set(names)
        await within(streams.unsubscribe(["btcusdt@trade"]))
        assert set((await within(streams.list_subscribe()))["result"]) == set(names[1:])
        venue.trade("BUY", "60010", "0.25")
        ended = await heard.until()
        assert ended["stream"] == "btcusdt@bookTicker"  # the trade itself is no longer told


@in_loop
async def test_a_request_nobody_understands_is_an_error_and_not_the_end(venue: Venue) -> None:
    async with connected(venue) as streams:
        (connection,) = streams.connections
        answer = await streams.send_message({"method": "SHOUT", "params": [], "id": "loud"}, connection)
        with pytest.raises(ValueError, match="Invalid request"):
            await within(answer)
        trades = await follow(streams, streams.trade(symbol="btcusdt"))
        venue.trade("BUY", "60010", "0.25")
        assert (await trades.until()).q == "0.25000000"


@in_loop
async def test_microseconds_on_request(venue: Venue) -> None:
    async with connected(venue, time_unit=TimeUnit.MICROSECOND) as streams:
        trades = await follow(streams, streams.trade(symbol="btcusdt"))
        venue.trade("BUY", "60010", "0.25")
        assert (await trades.until()).T > 1_700_000_000_000_000


@in_loop
async def test_the_server_is_asked_for_a_sign_of_life_and_asks_for_one(venue: Venue) -> None:
    async with connected(venue) as streams:
        (connection,) = streams.connections
        pongs = Heard()
        streams.on_connection("pong", pongs)
        await streams.ping_server(connection)
        await pongs.until()


@in_loop
async def test_a_connection_that_the_exchange_drops_is_told(venue: Venue) -> None:
    async with connected(venue) as streams:
        ends = Heard()
        streams.on_connection("close", lambda: ends(None))
        venue.drop_connections()
        await ends.until()
        assert streams.connections == []
