"""What the local exchange's control endpoint refuses: nothing has changed, and the answer says what would be right."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from tbx.core.model.errors import SettingsError
from tbx.venues.simulator.binance.server import LocalExchange, units

from .exchange_fixtures import an_exchange, fill_book, rest
from .redis_fixtures import in_loop

FUNDS = {"account": "first", "asset": "BTC"}
QUOTE = {"symbol": "BTCUSDT", "side": "BUY", "price": "50000", "qty": "1"}


def held(exchange: LocalExchange) -> dict[str, Any]:
    """All that a command could have changed."""
    book = exchange.exchange.book("BTCUSDT")
    return {
        "balances": [exchange.exchange.balances(account.name) for account in exchange.accounts],
        "book": book.depth(5_000),
        "last": exchange.exchange.tape("BTCUSDT").last_price,
        "faults": sorted(fault.name for fault in exchange.faults),
        "skew": exchange.faults.skew_ms,
        "keys": [(key.trade, key.ips, key.revoked) for key in exchange.keys._keys.values()],
        "connections": list(exchange.connections),
    }


async def post(http: httpx.AsyncClient, command: str, body: bytes | dict[str, Any]) -> tuple[int, str]:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = await http.post(f"/control/{command}", content=content)
    return answer.status_code, str(answer.json().get("error", ""))


@pytest.mark.parametrize(
    ("command", "body", "said"),
    [
        ("deposit", FUNDS | {"amount": "1e400"}, "at most 92233720368"),
        ("deposit", FUNDS | {"amount": "1e999999"}, "at most 92233720368"),
        ("deposit", FUNDS | {"amount": "-1e400"}, "either way"),
        ("deposit", FUNDS | {"amount": "NaN"}, "NaN is no amount"),
        ("deposit", FUNDS | {"amount": "sNaN"}, "is no amount"),
        ("deposit", FUNDS | {"amount": "Infinity"}, "is no amount"),
        ("deposit", FUNDS | {"amount": "1e-9"}, "more than eight decimals"),
        ("deposit", FUNDS | {"amount": "1e-999999"}, "more than eight decimals"),
        ("deposit", FUNDS | {"amount": "1.0000000000000000000000000000000000001"}, "more than eight decimals"),
        ("deposit", FUNDS | {"amount": "92233720300"}, "more BTC than an account holds, 92233720368.54775807"),
        ("deposit", FUNDS | {"amount": "-100.5"}, "more than the 100 BTC that are free"),
        ("deposit", FUNDS | {"amount": 0}, "amount is 0"),
        ("deposit", FUNDS | {"account": "firts", "amount": 1}, "account 'firts' is unknown: did you mean first?"),
        ("deposit", FUNDS | {"account": "", "amount": 1}, "account '' is unknown: there are first, second"),
        ("deposit", FUNDS | {"asset": "BTX", "amount": 1}, "asset 'BTX' is unknown: did you mean BTC"),
        ("price", {"symbol": "BTCUSD", "price": 1}, "symbol 'BTCUSD' is unknown: did you mean BTCUSDT"),
        ("price", {"symbol": "BTCUSDT", "price": "NaN"}, "price NaN is out of bounds"),
        ("price", {"symbol": "BTCUSDT", "price": "0.000001"}, "prices of BTCUSDT are 0.01 to 1000000"),
        ("price", {"symbol": "BTCUSDT", "price": "1e400"}, "prices of BTCUSDT are 0.01 to 1000000"),
        ("price", {"symbol": "BTCUSDT", "price": "60000.001"}, "multiples of 0.01, such as 60000"),
        ("quote", QUOTE | {"symbol": "ZZ"}, "symbol 'ZZ' is unknown: there are BTCUSDT, ETHUSDT"),
        ("quote", QUOTE | {"side": "buy"}, "side 'buy' is unknown: there are BUY, SELL"),
        ("quote", QUOTE | {"price": "50000.019"}, "price 50000.019 is off the grid: prices of BTCUSDT are multiples"),
        ("quote", QUOTE | {"price": "50000.0100000000000000000000000000001"}, "is off the grid"),
        ("quote", QUOTE | {"qty": "-1"}, "qty -1 is out of bounds: quantities of BTCUSDT are 0 to"),
        ("quote", QUOTE | {"qty": "NaN"}, "qty NaN is out of bounds"),
        ("quote", QUOTE | {"qty": "1e400"}, "is out of bounds"),
        ("quote", QUOTE | {"qty": "0.000000015"}, "qty 1.5E-8 is off the grid: quantities of BTCUSDT are multiples"),
        ("deal", QUOTE | {"price": "61000", "qty": 0}, "qty 0 is out of bounds: quantities of BTCUSDT are 0.0"),
        ("deal", QUOTE | {"price": "NaN"}, "price NaN is out of bounds"),
        ("deal", QUOTE | {"price": "61000.005", "qty": 1}, "off the grid"),
        ("deal", QUOTE | {"symbol": "", "qty": 1}, "symbol '' is unknown"),
        ("clock", {"skew_ms": 10**17}, "skew_ms 100000000000000000 is out of bounds: -31536000000 to 31536000000"),
        ("clock", {"skew_ms": -(10**17)}, "skew_ms -100000000000000000 is out of bounds"),
        ("ban", {"seconds": -1}, "seconds -1.0 is out of bounds: 0 to 259200"),
        ("limit", {"seconds": 1e308}, "seconds 1e+308 is out of bounds: 0 to 259200"),
        ("shutdown", {"grace_ms": -1}, "grace_ms -1 is out of bounds: 0 to 86400000"),
        ("close", {"kind": "stram"}, "kind 'stram' is none of connections: ws-api, stream"),
        ("key", {"account": "third", "trade": False}, "account 'third' is unknown: there are first, second"),
        (
            "key",
            {"account": "first", "trade": False, "ips": ["x"]},
            "'x' does not appear to be an IPv4 or IPv6 address",
        ),
        ("faults", {"clear": True, "spec": "mute_before; nosuch"}, "unknown fault 'nosuch'"),
        ("faults", {"names": ["skew", "bann418"]}, "fault 'bann418' is unknown: did you mean ban418?"),
        ("faults", {"clear": True, "spec": "drop_before:on=order.bogus"}, "no method 'order.bogus'"),
        ("deposit", {"acount": "first"}, "unknown field `acount`; known are spec, clear, names, account"),
        ("deposit", b"[" * 20_000, "is no JSON object"),
        ("deposit", b'{"names":' + b"[" * 20_000, "is no JSON object"),
        ("deposit", b"\xff", "is no JSON object"),
        ("deposit", b'{"account":"\xff"}', "is no JSON object"),
    ],
)
def test_a_command_that_cannot_be_meant_says_what_was_wrong_and_changes_nothing(
    command: str, body: bytes | dict[str, Any], said: str
) -> None:
    @in_loop
    async def attempt() -> None:
        async with an_exchange(faults="skew:ms=20") as exchange, rest(exchange) as http:
            fill_book(exchange)
            before = held(exchange)
            status, error = await post(http, command, body)
            assert status == 400 and said in error
            assert held(exchange) == before
            assert (await http.get("/api/v3/ping")).status_code == 200

    attempt()


@in_loop
async def test_commands_at_the_edge_of_what_is_allowed_are_carried_out() -> None:
    async with an_exchange() as exchange, rest(exchange) as http:
        book = exchange.exchange.book("BTCUSDT")
        for command, body in (
            ("quote", QUOTE | {"price": "0.01"}),
            ("quote", QUOTE | {"side": "SELL", "price": "1000000"}),
            ("deposit", FUNDS | {"amount": "0.00000001"}),
            ("deposit", FUNDS | {"amount": "-100.00000001"}),
            ("clock", {"skew_ms": 31_536_000_000}),
            ("clock", {"skew_ms": 0}),
            ("limit", {"seconds": 0}),
            ("key", {"account": "first", "ips": ["127.0.0.1", "::1"]}),
        ):
            assert await post(http, command, body) == (200, "")
        assert (book.best_bid[0], book.best_ask[0]) == (units("0.01"), units(1_000_000))
        assert exchange.exchange.balances("first")["BTC"] == (0, 0)
        assert await post(http, "quote", QUOTE | {"price": "0.01", "qty": 0}) == (200, "")
        assert book.best_bid == (0, 0)


@pytest.mark.parametrize("price", ["0.01", "1000000"])
def test_the_simulated_market_survives_the_least_and_the_greatest_price(price: str) -> None:
    @in_loop
    async def attempt() -> None:
        async with an_exchange(market="simulated") as exchange, rest(exchange) as http:
            assert await post(http, "price", {"symbol": "BTCUSDT", "price": price}) == (200, "")
            for _ in range(50):
                exchange.market.step("BTCUSDT")  # type: ignore[attr-defined]
            assert await post(http, "price", {"symbol": "BTCUSDT", "price": "60000"}) == (200, "")
            bid, ask = exchange.exchange.book("BTCUSDT").best_bid[0], exchange.exchange.book("BTCUSDT").best_ask[0]
            assert 0 < bid < ask

    attempt()


@in_loop
async def test_an_unknown_fault_cannot_be_switched_off() -> None:
    async with an_exchange(faults="skew:ms=5") as exchange:
        with pytest.raises(SettingsError, match="did you mean skew"):
            exchange.faults.clear("skev")
        assert exchange.faults.skew_ms == 5
