"""Binance's market data over real sockets, from the local exchange: connections are renewed, cut and shut down."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any

import pytest
import uvloop

from tbx.core.kernel.clock import SECOND_NS, SystemClock
from tbx.core.kernel.kernel import Kernel
from tbx.core.market.book import BUY, SELL
from tbx.core.market.data import MarketData
from tbx.core.model.instruments import Instrument
from tbx.core.state.memory import MemoryStore
from tbx.venues.binance.endpoints import Endpoints
from tbx.venues.binance.instruments import read_exchange_info
from tbx.venues.binance.market import BinanceMarket, fetch_exchange_info
from tbx.venues.limits import binance_budgets
from tbx.venues.picows_link import picows_connect
from tbx.venues.rest import Rest
from tbx.venues.simulator.binance.server import LocalExchange

from .exchange_fixtures import an_exchange

SYMBOLS = ["BTCUSDT", "ETHUSDT", "RVNUSDT"]
UNIT = Decimal("0.00000001")
WAIT_S = 20.0


class Follower:
    """Books that follow an exchange."""

    def __init__(self, exchange: LocalExchange, instruments: list[Instrument], rest: Rest, **options: Any) -> None:
        loop = asyncio.get_running_loop()
        clock = SystemClock(loop, time.time_ns)
        urls = Endpoints(rest=exchange.url_rest, ws_api=exchange.url_ws_api, stream=exchange.url_stream)
        kernel = Kernel(clock, MemoryStore(loop.call_soon))
        self.exchange = exchange
        self.instruments = instruments
        self.troubles: list[str] = []
        self.clock = clock
        self.data = MarketData(kernel, instruments, on_trouble=self.troubles.append)
        self.market = BinanceMarket(
            clock,
            self.data,
            instruments,
            urls,
            connect=picows_connect(loop),
            get=rest.get,
            jitter=lambda: 0.5,
            on_trouble=self.troubles.append,
            budgets=rest.budgets,
            **options,
        )
        self.data.resync["binance"] = self.market.resync
        kernel.add(self.data)
        kernel.start()
        self.market.start()

    def fresh(self) -> bool:
        return all(self.data.fresh("binance", i.pair, self.clock.now_ns()) for i in self.instruments)

    def in_step(self) -> bool:
        """Whether each book is at the exchange's last update."""
        books = self.exchange.exchange
        return all(
            self.data.book("binance", i.pair).synced
            and self.data.book("binance", i.pair).update_id == books.book(i.symbol).update_id
            for i in self.instruments
        )

    def check(self) -> None:
        """The best levels are the exchange's."""
        for instrument in self.instruments:
            _, bids, asks = self.exchange.exchange.book(instrument.symbol).depth(20)
            book = self.data.book("binance", instrument.pair)
            for side, truth in ((BUY, bids), (SELL, asks)):
                ours = [(instrument.price(p), instrument.quantity(q)) for p, q in book.levels(side, 20)]
                assert ours == [(price * UNIT, qty * UNIT) for price, qty in truth]

    @property
    def gaps(self) -> int:
        return sum(count for (_, _, what), count in self.data.troubles.items() if what == "gap")


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0.005)


def follow(scenario: Callable[[Follower], Awaitable[None]], **options: Any) -> None:
    """Runs the scenario once all books are fresh; then the market stops, and the books have to be the exchange's."""

    async def body() -> None:
        async with an_exchange(market="simulated") as exchange:
            clock = SystemClock(asyncio.get_running_loop(), time.time_ns)
            rest = Rest(clock, exchange.url_rest, binance_budgets(), on_trouble=pytest.fail)
            listing = read_exchange_info(await fetch_exchange_info(rest, SYMBOLS))
            follower = Follower(exchange, listing.instruments, rest, **options)
            try:
                await until(follower.fresh)
                await scenario(follower)
                exchange.run_market(running=False)
                await until(follower.in_step)
                follower.check()
            finally:
                follower.market.stop()
                await rest.aclose()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(body())


def test_books_follow_the_exchange_and_its_clock() -> None:
    async def scenario(follower: Follower) -> None:
        await until(lambda: follower.market.latency_ns is not None)
        latency_ns = follower.market.latency_ns
        assert latency_ns is not None and -5_000_000 < latency_ns < 500_000_000
        status = follower.market.status()
        assert status.status == "connected" and status.reason == ""
        assert 0 < status.rate_limit_remaining < 6_000 and follower.troubles == []

    follow(scenario)


def test_renewed_connections_leave_no_gap() -> None:
    async def scenario(follower: Follower) -> None:
        session = follower.market.shards[0].session
        await until(lambda: session.connects >= 4)
        assert follower.fresh() and follower.gaps == 0 and session.reconnects == 0
        assert follower.market.snapshots.requests == len(SYMBOLS)  # only those at the beginning

    follow(scenario, max_age_ns=SECOND_NS // 2)


def test_a_cut_connection_is_resynchronised() -> None:
    async def scenario(follower: Follower) -> None:
        for connection in list(follower.exchange.connections):
            connection.abort()
        await until(lambda: not follower.fresh())
        await until(follower.fresh)
        assert follower.market.shards[0].session.reconnects == 1

    follow(scenario)


def test_a_server_that_shuts_down_is_left_without_a_gap() -> None:
    async def scenario(follower: Follower) -> None:
        session = follower.market.shards[0].session
        follower.exchange.switch("shutdown")
        await until(lambda: session.connects == 2 and session.link is not None and session.link.number == 2)
        assert follower.gaps == 0 and follower.fresh()

    follow(scenario)
