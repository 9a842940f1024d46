"""The matching engine: the house's liquidity, what the book says of its changes, and the listed symbols."""

from __future__ import annotations

import random

import pytest

from tbx.core.kernel.clock import ManualClock
from tbx.venues.simulator.exchange import Exchange, House
from tbx.venues.simulator.exchange.house import to_units
from tbx.venues.simulator.exchange.listings import extra, symbols
from tbx.venues.simulator.exchange.records import BalancesChanged, Execution, PublicTrade
from tbx.venues.simulator.instruments import simulated_instruments
from tbx.venues.simulator.market import SimulatedMarket

from .exchange_engine import Pit, S, text


def test_more_joins_the_back_and_less_leaves_from_the_back() -> None:
    pit = Pit()
    show = pit.house.set_level
    show("SELL", to_units("60000"), to_units("1"))
    pit.limit("ann", "SELL", "1", "60000")
    show("SELL", to_units("60000"), to_units("3"))
    pit.limit("ann", "SELL", "1", "60000")
    show("SELL", to_units("60000"), to_units("2"))
    assert pit.depth()[1] == [("60000", "4")]
    trades = pit.place("bob", "BUY", "LIMIT", "4", "60000").trades
    assert [text(trade.trade.qty) for trade in trades] == ["1", "1", "1", "1"]
    mine = {order.order_id for order in pit.ex.all_orders("ann", S)}
    assert [trade.trade.seller_order_id in mine for trade in trades] == [False, True, False, True]


def test_a_house_level_that_reaches_an_order_trades_with_it_and_shows_the_rest() -> None:
    pit = Pit()
    mine = pit.limit("ann", "SELL", "1", "60000")
    pit.mark()
    pit.house.set_level("BUY", to_units("60001"), to_units("3"))
    assert pit.get("ann", mine.order_id).status == "FILLED"
    assert pit.depth() == ([("60001", "2")], [])
    assert [type(event) for event in pit.events] == [Execution, PublicTrade, BalancesChanged]


def test_what_a_house_level_triggers_meets_the_rest_of_that_level() -> None:
    pit = Pit()
    pit.limit("ann", "SELL", "1", "60000")
    stop = pit.place("bob", "SELL", "TAKE_PROFIT_LIMIT", "1", "59000", stop_price="60000").order
    pit.house.set_level("BUY", to_units("60001"), to_units("3"))
    assert pit.get("bob", stop.order_id).status == "FILLED"
    assert pit.depth() == ([("60001", "1")], [])


def test_a_house_level_that_reaches_the_house_makes_it_give_way_in_silence() -> None:
    pit = Pit()
    pit.house.set_level("SELL", to_units("60000"), to_units("1"))
    pit.house.set_level("SELL", to_units("60005"), to_units("1"))
    pit.house.set_level("BUY", to_units("60002"), to_units("2"))
    assert pit.depth() == ([("60002", "2")], [("60005", "1")])
    assert pit.events == [] and pit.ex.tape(S).last_price == 0


def test_a_house_trade_takes_in_turn_and_is_public() -> None:
    pit = Pit()
    pit.house.set_level("BUY", to_units("60000"), to_units("1"))
    mine = pit.limit("ann", "BUY", "1", "60000")
    pit.mark()
    assert pit.house.trade("SELL", to_units("60000"), to_units("1.5")) == to_units("1.5")
    assert text(pit.get("ann", mine.order_id).executed) == "0.5"
    assert sum(isinstance(event, PublicTrade) for event in pit.events) == 2
    assert pit.house.trade("SELL", to_units("60001"), to_units("1")) == 0


def test_off_grid_prices_are_refused_and_quantities_rounded_down() -> None:
    pit = Pit()
    with pytest.raises(ValueError, match="no multiple of the tick"):
        pit.house.set_level("BUY", 10**6 + 1, to_units("1"))
    pit.house.set_level("BUY", to_units("60000"), to_units("1.00000999"))
    assert pit.depth()[0] == [("60000", "1")]


def test_frames_set_levels_and_trade() -> None:
    pit = Pit()
    feed = pit.house.apply_frame
    feed(b'{"lastUpdateId":5,"bids":[["60000.00","1"],["59999.00","2"]],"asks":[["60001.00","1.5"]]}')
    assert pit.depth() == ([("60000", "1"), ("59999", "2")], [("60001", "1.5")])
    # The whole book moves up: the old asks go before the new bids come.
    feed(
        b'{"stream":"btcusdt@depth","data":{"e":"depthUpdate","E":1,"s":"BTCUSDT","U":6,"u":9,'
        b'"b":[["60002.00000000","1.00000000"]],"a":[["60001.00","0"],["60003.00","4"]]}}'
    )
    assert pit.depth() == ([("60002", "1"), ("60000", "1"), ("59999", "2")], [("60003", "4")])
    feed(b'{"e":"trade","E":1,"s":"BTCUSDT","t":1,"p":"60003.00","q":"1","b":7,"a":8,"T":1,"m":false,"M":true}')
    assert pit.depth()[1] == [("60003", "3")] and text(pit.ex.tape(S).last_price) == "60003"
    feed(b'{"u":4,"s":"BTCUSDT","b":"1.0","B":"1","a":"2.0","A":"1"}')
    feed(b'{"lastUpdateId":9,"bids":[["59999.00","3"]],"asks":[]}')
    assert pit.depth() == ([("59999", "3")], [])


@pytest.mark.parametrize(
    "frame",
    [
        b'{"e":"depthUpdate","s":"ETHUSDT","b":[],"a":[]}',
        b'{"e":"depthUpdate","s":"BTCUSDT","b":[["1e5","1"]],"a":[]}',
        b'{"e":"depthUpdate","s":"BTCUSDT","b":[["-1","1"]],"a":[]}',
        b'{"e":"depthUpdate","s":"BTCUSDT","b":[["1","0.000000001"]],"a":[]}',
        b'{"e":"depthUpdate","s":"BTCUSDT","b":"1","a":[]}',
        b"nonsense",
    ],
)
def test_frames_that_cannot_be_are_refused(frame: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        Pit().house.apply_frame(frame)


def test_changes_name_every_level_that_changed_since_they_were_taken() -> None:
    pit = Pit()
    book = pit.ex.book(S)
    assert book.take_changes() is None
    pit.limit("ann", "BUY", "1", "60000")
    pit.limit("ann", "BUY", "1", "60000")
    mine = pit.limit("ann", "BUY", "1", "59999")
    first = book.take_changes()
    assert first == (1, 3, {to_units("60000"): to_units("2"), to_units("59999"): to_units("1")}, {})
    pit.ex.cancel("ann", S, mine.order_id)
    pit.limit("bob", "SELL", "3", "60000")
    # A cancel, two trades, and what was left of the sell.
    gone = {to_units("59999"): 0, to_units("60000"): 0}
    assert book.take_changes() == (4, 7, gone, {to_units("60000"): to_units("1")})
    assert book.best_ask == (to_units("60000"), to_units("1")) and book.best_bid == (0, 0)


def test_the_simulated_markets_frames_lie_on_the_listed_symbols() -> None:
    clock = ManualClock()
    listed = {symbol.name: symbol for symbol in symbols()}
    instruments = [i for i in simulated_instruments() if i.exchange == "binance"]
    assert listed.keys() == {i.symbol for i in instruments}
    ex = Exchange(listed.values(), lambda: clock.now_ns() // 1_000_000, random.Random(1), lambda event: None)
    houses = {i.pair: House(ex, i.symbol) for i in instruments}

    def sink(exchange: str, pair: str, frame: bytes, local_ns: int) -> None:
        if exchange == "binance":
            houses[pair].apply_frame(frame)

    market = SimulatedMarket(clock, sink, seed=3)
    market.start()
    for house in houses.values():
        market.resync("binance", next(pair for pair, each in houses.items() if each is house))
    clock.advance(3_000_000_000)
    market.stop()
    for house in houses.values():
        bids, asks = house.market.book.best_bid, house.market.book.best_ask
        assert 0 < bids[0] < asks[0]
    assert any(house.market.tape.last_price for house in houses.values())


def test_extra_symbols_have_names_in_a_row_and_whole_filters() -> None:
    made = extra(12)
    assert [symbol.name for symbol in made[:2]] == ["SYM001USDT", "SYM002USDT"] and made[-1].base == "SYM012"
    assert made[0].filters.market_max_qty and made[0].filters.max_notional
