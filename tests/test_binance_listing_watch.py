"""What becomes of the traded pairs while the service runs: halts, goings on, other filters, pairs that are gone."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest

from tbx.core.kernel.clock import MS_NS, SECOND_NS, ManualClock
from tbx.core.model.errors import Refused, Unreachable, VenueError
from tbx.venues.binance.instruments import read_exchange_info
from tbx.venues.binance.listing_watch import EVERY_NS, RETRY_NS, SYMBOLS_AT_ONCE, ListingWatch
from tbx.venues.limits import binance_budgets
from tbx.venues.rest import WEIGHT

HOUR_NS = EVERY_NS
COINS = [f"C{n:02}" for n in range(2 * SYMBOLS_AT_ONCE + 5)]


def symbol_of(coin: str) -> dict[str, Any]:
    return {
        "symbol": f"{coin}USDT",
        "status": "TRADING",
        "baseAsset": coin,
        "quoteAsset": "USDT",
        "baseAssetPrecision": 8,
        "quoteAssetPrecision": 8,
        "filters": [
            {"filterType": "PRICE_FILTER", "minPrice": "0.01", "maxPrice": "100000", "tickSize": "0.01"},
            {"filterType": "LOT_SIZE", "minQty": "0.001", "maxQty": "100000", "stepSize": "0.001"},
        ],
    }


class World:
    """An exchange that lists what `symbols` says, and a watch on it."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.symbols = {f"{coin}USDT": symbol_of(coin) for coin in COINS}
        self.failure: VenueError | None = None
        self.asked: list[tuple[int, list[str]]] = []  # (when, symbols)
        self.trading: list[tuple[str, bool]] = []
        self.troubles: list[str] = []
        self.budgets = binance_budgets()
        instruments = read_exchange_info(self.info(list(self.symbols))).instruments
        # What the account pays is not in exchangeInfo, and so is no change.
        self.instruments = [msgspec.structs.replace(i, taker_fee=Decimal("0.0004")) for i in instruments]
        self.watch = ListingWatch(
            self.clock,
            self.get,
            self.budgets,
            self.instruments,
            on_trading=lambda pair, trading: self.trading.append((pair, trading)),
            on_trouble=self.troubles.append,
            now_ns=self.clock.now_ns,
        )
        self.watch.start()

    def info(self, names: list[str]) -> bytes:
        return json.dumps({"symbols": [self.symbols[name] for name in names]}).encode()

    def get(self, path: str, weight: int, answer: Any) -> None:
        names = json.loads(parse_qs(urlsplit(path).query)["symbols"][0])
        self.asked.append((self.clock.now_ns(), names))
        assert self.budgets.remaining(WEIGHT, self.clock.now_ns()) <= 6_000 - weight
        self.budgets.settle(WEIGHT, weight)
        if self.failure is not None:
            found: bytes | VenueError = self.failure
        elif all(name in self.symbols for name in names):
            found = self.info(names)
        else:
            found = Refused('HTTP 400 {"code":-1121,"msg":"Invalid symbol."}')
        self.clock.call_in(50 * MS_NS, answer, found)

    def round(self) -> None:
        self.asked.clear()
        rounds = self.watch.rounds
        while self.watch.rounds == rounds:
            self.clock.advance(SECOND_NS)
        self.clock.advance(100 * SECOND_NS)


def test_every_pair_is_asked_about_once_an_hour_a_few_at_a_time() -> None:
    world = World()
    world.round()
    assert [len(names) for _, names in world.asked] == [SYMBOLS_AT_ONCE, SYMBOLS_AT_ONCE, 5]
    assert sorted(name for _, names in world.asked for name in names) == sorted(world.symbols)
    first_ns = world.asked[0][0]
    world.round()
    assert HOUR_NS <= world.asked[0][0] - first_ns < HOUR_NS + 10 * SECOND_NS
    assert world.trading == [] and world.troubles == []


def test_a_pair_that_halts_is_closed_and_open_again_when_it_trades() -> None:
    world = World()
    world.symbols["C03USDT"]["status"] = "HALT"
    world.round()
    world.round()
    assert world.trading == [("C03_USDT", False)]
    world.symbols["C03USDT"]["status"] = "TRADING"
    world.round()
    assert world.trading == [("C03_USDT", False), ("C03_USDT", True)]
    assert world.troubles == ["C03_USDT is not open for trading: orders are refused", "C03_USDT trades again"]


def test_other_filters_are_told_once_and_apply_from_the_next_start() -> None:
    world = World()
    world.symbols["C07USDT"]["filters"][1]["minQty"] = "0.005"
    for _ in range(3):
        world.round()
    assert world.trading == []
    assert world.troubles == [
        "C07_USDT has other filters at the exchange, which apply here from the next start: min_lots 1 -> 5"
    ]
    world.symbols["C07USDT"]["filters"][1]["minQty"] = "0.007"
    world.round()
    assert world.troubles[1:] == [world.troubles[0].replace("5", "7")]


def test_a_pair_that_is_not_listed_any_more_is_closed_and_its_neighbours_stay() -> None:
    world = World()
    del world.symbols["C11USDT"]
    world.round()
    assert world.trading == [("C11_USDT", False)]
    assert world.troubles == ["C11_USDT is not listed any more: orders are refused"]
    assert len(world.asked) == 3 + SYMBOLS_AT_ONCE


def test_what_cannot_be_understood_closes_nothing() -> None:
    world = World()
    world.symbols["C02USDT"]["filters"] = []
    world.round()
    world.round()
    assert world.trading == []
    assert world.troubles == [
        "C02_USDT goes on as it was, though its listing cannot be understood any more: it has no PRICE_FILTER"
    ]
    world.info = lambda names: b"<html>"  # type: ignore[method-assign]
    world.round()
    assert world.trading == [] and "cannot be understood: exchangeInfo" in world.troubles[-1]


@pytest.mark.parametrize("failure", [Unreachable("HTTP 503"), Refused("HTTP 403")])
def test_an_exchange_that_does_not_answer_is_asked_again_later(failure: VenueError) -> None:
    world = World()
    world.failure = failure
    world.symbols["C00USDT"]["status"] = "BREAK"
    world.round()
    assert len(world.asked) == 1 and "could not be asked for: HTTP" in world.troubles[0]
    world.failure = None
    world.clock.advance(RETRY_NS)
    assert world.trading == [("C00_USDT", False)] and len(world.asked) == 4


def test_a_budget_that_is_used_up_is_waited_for() -> None:
    world = World()
    world.clock.advance(RETRY_NS - 1)
    world.budgets.stop(world.clock, 500 * SECOND_NS)
    world.clock.advance(499 * SECOND_NS)
    assert world.asked == []
    world.clock.advance(10 * SECOND_NS)
    assert len(world.asked) == 3


def test_nothing_is_asked_or_changed_after_the_stop() -> None:
    world = World()
    world.symbols["C00USDT"]["status"] = "BREAK"
    world.clock.advance(RETRY_NS)
    assert len(world.asked) == 1
    world.watch.stop()
    world.clock.advance(3 * HOUR_NS)
    assert len(world.asked) == 1 and world.trading == []
