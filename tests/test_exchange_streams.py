"""Market streams of the local exchange: subscriptions, payloads, cadences, and books that can be rebuilt from them."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tbx.venues.simulator.binance.server import LocalExchange, units
from tbx.venues.simulator.binance.stream_events import LevelTexts
from tbx.venues.simulator.binance.stream_klines import candle, kline_stream, running
from tbx.venues.simulator.binance.streams import STREAMS_MAX
from tbx.venues.simulator.exchange.records import Trade
from tbx.venues.simulator.exchange.tape import Tape

from .exchange_fixtures import a_stream_client, an_api_client, an_exchange, fill_book
from .redis_fixtures import in_loop

MINUTE_MS = 60_000


def without_id(reply: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in reply.items() if name != "id"}


def stopped(exchange: LocalExchange) -> LocalExchange:
    """Timed streams only come when the test publishes them."""
    exchange.streams.stop()
    return exchange


# --- subscriptions


@in_loop
async def test_streams_in_the_path_are_raw_and_those_in_the_query_combined() -> None:
    async with an_exchange() as exchange:
        fill_book(exchange)
        async with (
            a_stream_client(exchange, "/ws/btcusdt@trade/btcusdt@aggTrade") as raw,
            a_stream_client(exchange, "/stream?streams=btcusdt@trade/ethusdt@trade") as combined,
        ):
            exchange.deal("BTCUSDT", "BUY", 60_010, "0.25")
            assert [(await raw.receive())["e"] for _ in range(2)] == ["trade", "aggTrade"]
            frame = await combined.receive()
            assert frame["stream"] == "btcusdt@trade" and frame["data"] == raw.frames[0]


@in_loop
async def test_subscribing_listing_and_unsubscribing_over_the_connection() -> None:
    async with an_exchange() as exchange:
        fill_book(exchange)
        async with a_stream_client(exchange, "/stream") as stream:
            assert await stream.ask("SUBSCRIBE", "btcusdt@trade", "btcusdt@depth") == {"result": None, "id": 1}
            assert await stream.ask("SUBSCRIBE", "btcusdt@trade") == {"result": None, "id": 2}  # once more is no harm
            assert (await stream.ask("LIST_SUBSCRIPTIONS"))["result"] == ["btcusdt@trade", "btcusdt@depth"]
            exchange.deal("BTCUSDT", "BUY", 60_010, "0.1")
            assert (await stream.receive())["stream"] == "btcusdt@trade"
            assert await stream.ask("UNSUBSCRIBE", "btcusdt@trade", "btcusdt@depth") == {"result": None, "id": 4}
            exchange.deal("BTCUSDT", "BUY", 60_010, "0.1")
            assert (await stream.ask("LIST_SUBSCRIPTIONS")) == {"result": [], "id": 5}  # and no trade before it
        assert exchange.streams.count == 0


@in_loop
async def test_the_envelope_is_a_property_of_the_connection() -> None:
    async with an_exchange() as exchange:
        fill_book(exchange)
        exchange.limited = False
        async with a_stream_client(exchange, "/ws/btcusdt@trade") as stream:
            assert (await stream.ask("GET_PROPERTY", "combined"))["result"] is False
            assert (await stream.ask("SET_PROPERTY", "combined", True))["result"] is None
            assert (await stream.ask("GET_PROPERTY", "combined"))["result"] is True
            exchange.deal("BTCUSDT", "BUY", 60_010, "0.1")
            assert (await stream.receive())["data"]["e"] == "trade"


@pytest.mark.parametrize(
    ("sent", "reply"),
    [
        pytest.param(
            b'{"method":"LIST_SUBSCRIPTIONS","id":"6f2b-x_1"}', {"result": [], "id": "6f2b-x_1"}, id="text id"
        ),
        pytest.param(b'{"method":"LIST_SUBSCRIPTIONS","id":-3}', {"result": [], "id": -3}, id="negative id"),
        pytest.param(b'{"method":"LIST_SUBSCRIPTIONS","id":null}', {"result": [], "id": None}, id="null id"),
        pytest.param(
            b'{"method":"LIST_SUBSCRIPTIONS","id":1.5}', (2, "request ID must be an unsigned integer"), id="fraction"
        ),
        pytest.param(b'{"method":"LIST_SUBSCRIPTIONS"}', (2, "request ID must be an unsigned integer"), id="no id"),
        pytest.param(
            b'{"method":"LIST_SUBSCRIPTIONS","id":"%b"}' % (b"x" * 37),
            (2, "request ID must be an unsigned integer"),
            id="long id",
        ),
        pytest.param(b'{"id":1}', (2, "missing field `method` at line 1 column 8"), id="no method"),
        pytest.param(
            b'{"method":"SUB","id":1}', (2, "unknown variant `SUB`, expected one of `SUBSCRIBE`"), id="method"
        ),
        pytest.param(b'{"method":"GET_PROPERTY","id":1}', (2, "property name must be a string"), id="no property"),
        pytest.param(
            b'{"method":"GET_PROPERTY","params":["combined",1],"id":1}', (2, "too many parameters"), id="too many"
        ),
        pytest.param(b'{"method":"GET_PROPERTY","params":["x"],"id":1}', (0, "Unknown property"), id="property"),
        pytest.param(
            b'{"method":"SET_PROPERTY","params":["combined","yes"],"id":1}',
            (1, "Invalid value type: expected Boolean"),
            id="value",
        ),
        pytest.param(b'{"method":"SUBSCRIBE","params":[7],"id":1}', (2, "stream names must be strings"), id="names"),
        pytest.param(b'{"method":"SUBSCRIBE","params":"x","id":1}', (2, "invalid type"), id="no list"),
        pytest.param(b"[]", (2, "invalid type"), id="no object"),
        pytest.param(b'{"method":', (3, "Invalid JSON: expected value at line 1 column 11"), id="cut"),
        pytest.param(b"hello", (3, "Invalid JSON: expected value at line 1 column 1"), id="no JSON"),
        pytest.param(b"[" * 20_000, (3, "Invalid JSON"), id="nested beyond all reason"),
        pytest.param(b'{"method":"SUBSCRIBE","params":' + b"[" * 20_000, (3, "Invalid JSON"), id="nested parameters"),
        pytest.param(b'{"id":1,"method":%b}' % (b"[" * 900 + b"]" * 900), (2, "expected a string"), id="nested method"),
    ],
)
def test_requests_and_their_replies(sent: bytes, reply: Any) -> None:
    @in_loop
    async def attempt() -> None:
        async with an_exchange() as exchange, a_stream_client(exchange, "/ws") as stream:
            await stream.socket.send(sent.decode())
            answer = await stream.receive()
            if isinstance(reply, dict):
                assert answer == reply
            else:
                assert answer["error"]["code"] == reply[0] and reply[1] in answer["error"]["msg"]

    attempt()


@in_loop
async def test_a_connection_has_at_most_1024_streams() -> None:
    async with an_exchange() as exchange, a_stream_client(exchange, "/ws") as stream:
        names = [f"sym{number}usdt@trade" for number in range(STREAMS_MAX)]
        assert (await stream.ask("SUBSCRIBE", *names))["result"] is None
        refused = await stream.ask("SUBSCRIBE", names[0], "btcusdt@trade")
        assert refused["error"] == {"code": 4, "msg": "Too many subscriptions"}
        assert len((await stream.ask("LIST_SUBSCRIPTIONS"))["result"]) == STREAMS_MAX


@in_loop
async def test_unknown_streams_are_accepted_and_silent_and_a_number_in_the_path_is_none() -> None:
    async with an_exchange() as exchange:
        fill_book(exchange)
        async with a_stream_client(exchange, "/ws/0") as stream:
            assert (await stream.ask("LIST_SUBSCRIPTIONS"))["result"] == []
            assert (await stream.ask("SUBSCRIBE", "nosuch@trade", "btcusdt@nonsense", "BTCUSDT@trade"))["id"] == 2
            exchange.deal("BTCUSDT", "BUY", 60_010, "0.1")
            for _ in range(10):
                exchange.streams.publish("BTCUSDT")
            assert (await stream.ask("LIST_SUBSCRIPTIONS"))["id"] == 3


@in_loop
async def test_a_connection_that_ends_leaves_no_stream_behind() -> None:
    async with an_exchange() as exchange:
        async with a_stream_client(exchange, "/ws/btcusdt@depth@100ms/ethusdt@trade"):
            assert exchange.streams.count == 2
        assert exchange.streams.count == 0


# --- payloads


def documented(fixtures: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(section, example payload) of the official documentation of market streams."""
    for line in (fixtures / "binance" / "docs_examples" / "web-socket-streams.jsonl").read_text().splitlines():
        row = json.loads(line)
        yield row["section"][-1], row["payload"]


PAYLOADS = {
    "Aggregate Trade Streams": "aggTrade",
    "Trade Streams": "trade",
    "Kline/Candlestick Streams for UTC": "kline_1m",
    "Kline/Candlestick Streams with timezone offset": "kline_1d@+08:00",
    "Individual Symbol Mini Ticker Stream": "miniTicker",
    "Individual Symbol Ticker Streams": "ticker",
    "Individual Symbol Rolling Window Statistics Streams": "ticker_1h",
    "Individual Symbol Book Ticker Streams": "bookTicker",
    "Average Price": "avgPrice",
    "Partial Book Depth Streams": "depth5",
    "Diff. Depth Stream": "depth@100ms",
}


def shape(value: Any) -> Any:
    """The types of a document, so that two can be compared without their values."""
    if isinstance(value, dict):
        return {name: shape(part) for name, part in value.items()}
    return [shape(part) for part in value[:1]] if isinstance(value, list) else type(value).__name__


def test_every_payload_has_the_fields_and_types_of_the_documentation(fixtures: Path) -> None:
    examples = {section: payload for section, payload in documented(fixtures) if section in PAYLOADS}
    assert set(examples) == set(PAYLOADS)

    @in_loop
    async def attempt() -> None:
        async with an_exchange() as exchange:
            stopped(exchange)
            fill_book(exchange)
            names = "/".join(f"btcusdt@{kind}" for kind in PAYLOADS.values())
            async with a_stream_client(exchange, f"/stream?streams={names.replace('+', '%2B')}") as stream:
                exchange.deal("BTCUSDT", "BUY", 60_010, "0.1")
                exchange.deal("BTCUSDT", "SELL", 59_990, "0.1")
                for _ in range(10):
                    exchange.streams.publish("BTCUSDT")
                seen: dict[str, Any] = {}
                while len(seen) < len(PAYLOADS):
                    frame = await stream.receive()
                    seen[frame["stream"].partition("@")[2]] = frame["data"]
            for section, kind in PAYLOADS.items():
                assert shape(seen[kind]) == shape(examples[section]), section

    attempt()


@in_loop
async def test_all_market_streams_tell_of_symbols_that_traded() -> None:
    async with an_exchange() as exchange:
        fill_book(exchange)
        async with a_stream_client(exchange, "/ws/!miniTicker@arr") as stream:
            exchange.deal("BTCUSDT", "BUY", 60_010, "0.1")
            (row,) = await stream.receive()
            assert (row["e"], row["s"], row["c"]) == ("24hrMiniTicker", "BTCUSDT", "60010.00000000")


@in_loop
async def test_times_are_in_microseconds_for_who_asks() -> None:
    async with an_exchange() as exchange:
        fill_book(exchange)
        async with (
            a_stream_client(exchange, "/ws/btcusdt@trade?timeUnit=MICROSECOND") as micro,
            a_stream_client(exchange, "/ws/btcusdt@trade") as milli,
        ):
            exchange.deal("BTCUSDT", "BUY", 60_010, "0.1")
            fine, coarse = await micro.receive(), await milli.receive()
            assert fine["T"] == coarse["T"] * 1000


@in_loop
async def test_trades_of_one_order_at_one_price_are_one_aggregate() -> None:
    async with an_exchange() as exchange:
        fill_book(exchange)
        async with an_api_client(exchange, 0) as first, an_api_client(exchange, 1) as second:
            for client in (first, second):
                await client.order(side="SELL", price="60010.00", quantity="0.5")
            async with a_stream_client(exchange, "/ws/btcusdt@aggTrade") as stream:
                exchange.deal("BTCUSDT", "BUY", 60_020, "2.5")
                at_first_price, at_next = await stream.receive(), await stream.receive()
                assert at_first_price["q"] == "2.00000000" and at_first_price["l"] == at_first_price["f"] + 2
                assert at_first_price["a"] == at_first_price["f"] and at_first_price["m"] is False
                assert (at_next["q"], at_next["p"]) == ("0.50000000", "60020.00000000")


@in_loop
async def test_the_top_of_the_book_is_told_when_it_changes_and_only_then() -> None:
    async with an_exchange() as exchange:
        stopped(exchange)
        fill_book(exchange)
        async with a_stream_client(exchange, "/ws/btcusdt@bookTicker") as stream:
            first = await stream.receive()  # what is there when one begins to listen
            assert (first["b"], first["a"]) == ("59990.00000000", "60010.00000000")
            exchange.quote("BTCUSDT", "BUY", 59_000, 1)  # far from the top
            async with an_api_client(exchange) as client:
                await client.order(price="59995.00", quantity="0.3")
            assert (await stream.receive())["B"] == "0.30000000"
            exchange.quote("BTCUSDT", "SELL", 60_010, "0.5")
            assert (await stream.receive())["A"] == "0.50000000"


# --- books


class Rebuilt:
    """A client's book: snapshot, then diffs as documented."""

    def __init__(self, update_id: int, bids: Any, asks: Any) -> None:
        self.update_id = update_id
        self.sides = {"b": dict(bids), "a": dict(asks)}
        self.applied = 0

    def apply(self, frame: dict[str, Any]) -> None:
        if frame["u"] <= self.update_id:
            return
        assert frame["U"] <= self.update_id + 1, f"a gap: {frame['U']} after {self.update_id}"
        for side, levels in self.sides.items():
            for price, qty in frame[side]:
                if units(qty):
                    levels[price] = qty
                else:
                    levels.pop(price, None)
        self.update_id = frame["u"]
        self.applied += 1


def levels_of(exchange: LocalExchange) -> dict[str, dict[str, str]]:
    _, bids, asks = exchange.exchange.book("BTCUSDT").depth()
    text = LevelTexts().text
    return {"b": dict(json.loads(f"[{text(bids)}]")), "a": dict(json.loads(f"[{text(asks)}]"))}


@pytest.mark.parametrize("kind", ["depth@100ms", "depth"])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_snapshot_and_the_diffs_after_it_are_the_book(kind: str, seed: int) -> None:
    rng = random.Random(seed)

    @in_loop
    async def attempt() -> None:
        async with an_exchange() as exchange:
            stopped(exchange)
            exchange.limited = False
            async with a_stream_client(exchange, f"/ws/btcusdt@{kind}") as stream:
                rebuilt = None
                for step in range(60):
                    for _ in range(rng.randrange(4)):
                        side, price = rng.choice(["BUY", "SELL"]), 60_000 + rng.randrange(-8, 8)
                        exchange.quote("BTCUSDT", side, price, rng.choice(["0", "0.5", "2"]))
                        if rng.random() < 0.3:
                            exchange.deal("BTCUSDT", side, price, "0.7")
                    exchange.streams.publish("BTCUSDT")
                    if step == 25:
                        await stream.ask("LIST_SUBSCRIPTIONS")
                        update_id, _, _ = exchange.exchange.book("BTCUSDT").depth()
                        now = levels_of(exchange)
                        rebuilt = Rebuilt(update_id, now["b"], now["a"])
                await stream.ask("LIST_SUBSCRIPTIONS")
                assert rebuilt is not None
                for frame in stream.frames:
                    if "u" in frame:
                        rebuilt.apply(frame)
                assert rebuilt.applied >= (3 if kind == "depth" else 20)
                assert rebuilt.sides == levels_of(exchange)

    attempt()


@in_loop
async def test_fast_and_slow_diffs_of_a_symbol_share_one_history() -> None:
    async with an_exchange() as exchange:
        stopped(exchange)
        async with (
            a_stream_client(exchange, "/ws/btcusdt@depth@100ms") as fast,
            a_stream_client(exchange, "/ws/btcusdt@depth") as slow,
        ):
            for step in range(10):
                exchange.quote("BTCUSDT", "BUY", 59_000 + step, 1)
                exchange.streams.publish("BTCUSDT")
            frames = [await fast.receive() for _ in range(10)]
            merged = await slow.receive()
            assert all(later["U"] == earlier["u"] + 1 for earlier, later in pairwise(frames))
            assert (merged["U"], merged["u"]) == (frames[0]["U"], frames[-1]["u"])
            assert merged["b"] == [[f"{59_009 - step}.00000000", "1.00000000"] for step in range(10)]


@in_loop
async def test_a_listener_that_comes_later_gets_no_changes_of_before() -> None:
    async with an_exchange() as exchange:
        stopped(exchange)
        fill_book(exchange)
        async with a_stream_client(exchange, "/ws/btcusdt@depth@100ms") as stream:
            exchange.quote("BTCUSDT", "BUY", 59_500, 1)
            exchange.streams.publish("BTCUSDT")
            assert (await stream.receive())["b"] == [["59500.00000000", "1.00000000"]]


@in_loop
async def test_partial_books_come_when_the_book_changed() -> None:
    async with an_exchange() as exchange:
        stopped(exchange)
        fill_book(exchange)
        async with a_stream_client(exchange, "/ws/btcusdt@depth5@100ms") as stream:
            for _ in range(3):
                exchange.streams.publish("BTCUSDT")
            exchange.quote("BTCUSDT", "SELL", 60_001, "0.2")
            exchange.streams.publish("BTCUSDT")
            first, second = await stream.receive(), await stream.receive()
            assert len(first["bids"]) == 3 and second["asks"][0] == ["60001.00000000", "0.20000000"]
            assert second["lastUpdateId"] == first["lastUpdateId"] + 1


@in_loop
async def test_timed_streams_come_by_themselves() -> None:
    async with an_exchange() as exchange, a_stream_client(exchange, "/ws/btcusdt@depth@100ms") as stream:
        for step in range(3):
            exchange.quote("BTCUSDT", "BUY", 59_000 + step, 1)
            assert (await stream.receive())["b"] == [[f"{59_000 + step}.00000000", "1.00000000"]]


# --- candles


def traded(*trades: tuple[int, int, bool]) -> Tape:
    """A tape of (time in ms, price, whether the buyer is the maker), one unit each."""
    tape = Tape(5)
    for number, (time_ms, price, maker) in enumerate(trades, 1):
        tape.trade_id = number
        tape.add(Trade(number, "BTCUSDT", price, 100_000_000, price, time_ms, maker, 1, 2))
    return tape


def test_a_candle_is_its_own_trades() -> None:
    tape = traded((0, 10, True), (59_999, 14, False), (MINUTE_MS, 9, False), (MINUTE_MS + 5, 11, True))
    for interval, open_ms in (("1m", MINUTE_MS), ("1s", MINUTE_MS)):
        found = candle(tape, interval, open_ms)
        assert found is not None
        assert (found.open, found.high, found.low, found.close) == (9, 11, 9, 11)
        assert (found.count, found.first_trade_id, found.last_trade_id) == (2, 3, 4)
        assert found.taker_buy_quote_volume == 9
    first = candle(tape, "1m", 0)
    assert first is not None and (first.open, first.close, first.count) == (10, 14, 2)


def test_a_candle_without_trades_is_flat_and_there_is_none_before_any_trade() -> None:
    assert candle(Tape(5), "1m", 0) is None
    found = candle(traded((0, 10, True)), "1m", 5 * MINUTE_MS)
    assert found is not None and (found.open, found.high, found.low, found.close, found.count) == (10, 10, 10, 10, 0)


def test_candles_of_other_time_zones_begin_there() -> None:
    assert kline_stream("kline_1d@+08:00") == ("1d", 8 * 3600_000)
    assert kline_stream("kline_1h@-03:30") == ("1h", -int(3.5 * 3600_000))
    assert kline_stream("kline_7m") is None and kline_stream("depth") is None
    day_ms = 86_400_000
    assert running("1d", 10 * day_ms + 17 * 3600_000, 8 * 3600_000) == 10 * day_ms + 16 * 3600_000
