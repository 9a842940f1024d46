"""What Binance lists when the service starts: kept for a start without it, of the right host, and with reasons."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop

from tbx.core.kernel.clock import MS_NS, SECOND_NS, ManualClock
from tbx.core.model.errors import SettingsError
from tbx.core.settings import Settings, load_settings
from tbx.http.live import Binance, choose, host_of, kept_name
from tbx.venues.binance.instruments import read_exchange_info
from tbx.venues.limits import MINUTE_NS
from tbx.venues.rest import WEIGHT


def symbol_of(base: str, **changes: Any) -> dict[str, Any]:
    symbol = {
        "symbol": f"{base}USDT",
        "status": "TRADING",
        "baseAsset": base,
        "quoteAsset": "USDT",
        "baseAssetPrecision": 8,
        "quoteAssetPrecision": 8,
        "filters": [
            {"filterType": "PRICE_FILTER", "minPrice": "0.01", "maxPrice": "100000", "tickSize": "0.01"},
            {"filterType": "LOT_SIZE", "minQty": "0.001", "maxQty": "100000", "stepSize": "0.001"},
        ],
    }
    return {**symbol, **changes}


def info(*symbols: dict[str, Any], **more: Any) -> bytes:
    return json.dumps({"symbols": list(symbols), **more}).encode()


BOTH = info(symbol_of("BTC"), symbol_of("ETH"))
NO_FILTERS = {"filters": []}


class World:
    """A REST host, and the settings that lead there."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.folder = folder
        self.given = {"MARKET": "binance", "API_KEYS": "desk:" + "0" * 64 + ":read", "BINANCE_PAIRS": "BTC_USDT"}
        self.given |= settings
        self.body: bytes | None = BOTH  # None: 503
        self.clock = ManualClock()
        self.troubles: list[str] = []

    def start(self, port: int | None = None) -> Binance:
        """One start of the service, at another port if none is given."""

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            status, body = (200, self.body) if self.body is not None else (503, b"{}")
            head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            writer.write(head.encode() + body)
            writer.close()

        async def body() -> Binance:
            server = await asyncio.start_server(serve, "127.0.0.1", port or 0)
            self.port = server.sockets[0].getsockname()[1]
            found = Binance(self.settings(f"http://127.0.0.1:{self.port}"), self.clock, self.troubles.append)
            try:
                await found.load()
            finally:
                await found.close()
                server.close()
            return found

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(body())

    def settings(self, rest: str) -> Settings:
        streams = rest.replace("http:", "ws:")
        urls = {"REST": rest, "WS_API": streams + "/ws-api/v3", "STREAM": streams}
        given = {f"BINANCE_{name}_URL": url for name, url in urls.items()}
        return load_settings({**given, **self.given, "DATA_DIR": str(self.folder)}, self.folder)

    @property
    def kept(self) -> list[str]:
        return sorted(file.name for file in self.folder.iterdir())


def test_what_was_listed_is_kept_for_a_start_without_the_exchange(tmp_path: Path) -> None:
    world = World(tmp_path)
    assert [i.pair for i in world.start().instruments] == ["BTC_USDT"]
    world.body = None
    assert [i.pair for i in world.start(world.port).instruments] == ["BTC_USDT"]
    assert "HTTP 503" in world.troubles[0] and "starting with what it listed before" in world.troubles[0]
    assert world.kept == [f"binance-exchange-info-127.0.0.1_{world.port}.json"]


def test_what_another_host_listed_is_not_used(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.start()
    world.body = None
    with pytest.raises(SettingsError, match="HTTP 503"):
        world.start()


@pytest.mark.parametrize("body", [info(), info(symbol_of("XRP")), info(symbol_of("BTC", **NO_FILTERS))])
def test_a_listing_that_cannot_be_traded_does_not_take_the_place_of_the_kept_one(tmp_path: Path, body: bytes) -> None:
    world = World(tmp_path)
    world.start()
    world.body = body
    with pytest.raises(SettingsError, match="BTC_USDT"):
        world.start(world.port)
    world.body = None
    assert [i.pair for i in world.start(world.port).instruments] == ["BTC_USDT"]


def test_limits_and_the_time_that_the_exchange_tells_are_used(tmp_path: Path) -> None:
    world = World(tmp_path)
    ahead_ms = world.clock.now_ns() // MS_NS + 150_000
    limit = {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": 1_200}
    world.body = info(symbol_of("BTC"), rateLimits=[limit], serverTime=ahead_ms)
    found = world.start()
    assert found.now_ns() - world.clock.now_ns() == 150 * SECOND_NS
    assert found.rest.now_ns() == found.now_ns()
    assert found.budgets.remaining(WEIGHT, found.now_ns() + MINUTE_NS) == 1_200


Chosen = Callable[..., tuple[list[str], list[str]]]


@pytest.fixture
def chosen(tmp_path: Path) -> Chosen:
    """The pairs and the warnings of a listing."""

    def choose_from(raw: bytes, **settings: str) -> tuple[list[str], list[str]]:
        given = World(tmp_path, **settings).settings("http://127.0.0.1:1")
        instruments, warnings = choose(read_exchange_info(raw), given)
        return [i.pair for i in instruments], warnings

    return choose_from


def test_a_wanted_pair_that_was_left_out_is_told_with_its_reason(chosen: Chosen) -> None:
    raw = info(symbol_of("BTC"), symbol_of("ETH", **NO_FILTERS), symbol_of("ETHW"))
    with pytest.raises(SettingsError, match="Binance lists ETH_USDT, but it cannot be traded here: it has no PRICE_"):
        chosen(raw, BINANCE_PAIRS="BTC_USDT,ETH_USDT")
    with pytest.raises(SettingsError, match="does not list ETV_USDT; did you mean ETH"):
        chosen(raw, BINANCE_PAIRS="ETV_USDT")
    broken = info(symbol_of("BTC"), {"symbol": 5, "baseAsset": "ETH", "quoteAsset": "USDT"})
    with pytest.raises(SettingsError, match="Binance lists ETH_USDT, but it cannot be traded here: .*symbol"):
        chosen(broken, BINANCE_PAIRS="ETH_USDT")


def test_warnings_are_those_of_the_chosen_pairs_and_of_the_exchange(chosen: Chosen) -> None:
    moon = {"filterType": "MOON_PHASE"}
    filters = symbol_of("X")["filters"]
    raw = info(
        symbol_of("BTC", filters=[*filters, moon]),
        symbol_of("TBTC", filters=[*filters, moon]),  # its name holds that of the other
        symbol_of("ETH", **NO_FILTERS),
        exchangeFilters=[{"filterType": "SUN_SPOTS"}],
    )
    pairs, warnings = chosen(raw, BINANCE_PAIRS="BTC_USDT")
    assert pairs == ["BTC_USDT"]
    assert [warning.partition(":")[0] for warning in warnings] == [
        "the exchange has an unknown filter SUN_SPOTS",
        "BTCUSDT has an unknown filter MOON_PHASE",
    ]
    pairs, warnings = chosen(raw, BINANCE_PAIRS="all")
    assert pairs == ["BTC_USDT", "TBTC_USDT"]
    assert warnings[-1] == "1 pairs of Binance cannot be traded here, such as ETH_USDT: it has no PRICE_FILTER"


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("ws://127.0.0.1:9001/ws-api/v3", "127.0.0.1:9001"),
        ("ws://127.0.0.1:9002/ws-api/v3", "127.0.0.1:9002"),
        ("wss://ws-api.binance.com:443/ws-api/v3", "ws-api.binance.com"),
        ("wss://ws-api.binance.com/ws-api/v3", "ws-api.binance.com"),
        ("https://api.binance.com", "api.binance.com"),
        ("http://[::1]:80", "::1"),
        ("http://[::1]:443", "::1:443"),
    ],
)
def test_a_host_is_named_with_its_port_where_that_is_not_the_usual_one(url: str, host: str) -> None:
    assert host_of(url) == host


def test_two_exchanges_on_two_ports_are_two_accounts(tmp_path: Path) -> None:
    async def account(port: int) -> str:
        keys = {"BINANCE_API_KEY": "k", "BINANCE_API_SECRET": "s", "LIVE_TRADING": "true", "PAPER_TRADING": "false"}
        keys["BINANCE_WS_API_URL"] = f"ws://127.0.0.1:{port}/ws-api/v3"
        return Binance(World(tmp_path, **keys).settings("http://127.0.0.1:1"), ManualClock(), [].append).account

    assert [asyncio.run(account(port)) for port in (9001, 9002)] == [
        "binance at 127.0.0.1:9001",
        "binance at 127.0.0.1:9002",
    ]
    assert kept_name("https://api.binance.com") == "binance-exchange-info-api.binance.com.json"
