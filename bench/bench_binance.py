"""Binance: a report of a trade until the feed has its events, a depth frame until an order leaves, an order as a frame.

The floor of the report is the decoding of its JSON alone; of the order's frame, msgspec's encoding of the same dict.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

sys.path.insert(0, str(Path(__file__).parent))  # this folder is no package

from live_node import FILL_QUANTITY, PAIR, SYMBOL, LiveNode
from tick_service import Strategy

from tbx.core.model.messages import PlaceAtVenue
from tbx.venues.binance.codec import decode
from tbx.venues.binance.codec_requests import Requests, Terms
from tbx.venues.binance.signing import HmacSigner, Signer

REPORTS, TICKS, CALLS = 2_000, 2_000, 1_000
CLIENT_ID = "tbx-main-0000019000000001-1"


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> LiveNode:
    return LiveNode(tmp_path_factory.mktemp("live"))


def test_execution_report_to_feed(benchmark: Any, live: LiveNode) -> None:
    """Each round is one report of a trade that nobody was told before."""
    ledger, client = live.node.ledger, live.client

    def setup() -> tuple[tuple[bytes], dict[str, object]]:
        live.client.queue.clear()
        if not live.reports:
            live.buy()
            live.client.queue.clear()
        return (live.reports.popleft(),), {}

    before = ledger.available("binance", "BTC")
    benchmark.pedantic(live.take, setup=setup, rounds=REPORTS, warmup_rounds=100)
    bought = ledger.available("binance", "BTC") - before
    assert {channel for channel, _ in client.queue} == {"orders", "trades", "positions"}
    assert bought > REPORTS * FILL_QUANTITY * 9 / 10, "a report left the balance as it was"  # the fee is paid in BTC
    live.check()


def test_execution_report_to_feed_floor(benchmark: Any, live: LiveNode) -> None:
    if not live.reports:
        live.buy()
    benchmark(msgspec.json.decode, live.reports[0])


def test_execution_report_decode(benchmark: Any, live: LiveNode) -> None:
    if not live.reports:
        live.buy()
    benchmark(decode, live.reports[0])


@pytest.fixture(scope="module")
def trading(tmp_path_factory: pytest.TempPathFactory) -> LiveNode:
    """A node that lets frames leave at once, with a strategy that answers each change of its book with an order."""
    live = LiveNode(tmp_path_factory.mktemp("trading"), DURABILITY="behind")
    live.node.kernel.add(Strategy(live.node.kernel, live.node.market))
    return live


def test_tick_to_order_in_process(benchmark: Any, trading: LiveNode) -> None:
    """What tick to order costs the service, without sockets and with everything in the processor's caches."""
    quantities = itertools.cycle(range(1, 10))

    def setup() -> tuple[tuple[bytes], dict[str, object]]:
        trading.settle()
        trading.client.queue.clear()
        trading.quote(next(quantities))
        return (trading.frames.pop(),), {}

    sent = trading.wire.sent
    benchmark.pedantic(trading.tick, setup=setup, rounds=TICKS, warmup_rounds=100)
    assert trading.wire.sent - sent >= TICKS, "a tick was not answered"
    trading.settle()
    trading.check()


ORDER = PlaceAtVenue(
    client_id=CLIENT_ID, pair=PAIR, side="buy", type="limit", qty_lots=1_234, price_ticks=5_999_995, tif="GTC"
)
AS_A_DICT = {
    "id": 1_234,
    "method": "order.place",
    "params": {
        "symbol": SYMBOL,
        "side": "BUY",
        "type": "LIMIT",
        "timeInForce": "GTC",
        "price": "59999.95",
        "quantity": "0.01234",
        "newClientOrderId": CLIENT_ID,
        "newOrderRespType": "FULL",
        "recvWindow": 5000,
        "timestamp": 1_790_000_000_000,
    },
}


def measured(benchmark: Any, encode: Callable[[], bytes]) -> None:
    calls = range(CALLS)

    def encode_many() -> None:
        for _ in calls:
            encode()

    benchmark.extra_info["units_a_round"] = CALLS
    benchmark.pedantic(encode_many, rounds=200, warmup_rounds=5)


@pytest.mark.parametrize("key", ["session", "hmac"])
def test_order_frame_encode(benchmark: Any, live: LiveNode, key: str) -> None:
    signer: Signer = live.exchanges.signer if key == "session" else HmacSigner("k" * 64, "s" * 64)
    requests, terms = Requests(signer), Terms(live.exchanges.instruments[0])

    def encode() -> bytes:
        return requests.place(1_234, ORDER, terms, 1_790_000_000_000)

    if key == "session":
        assert msgspec.json.decode(encode()) == AS_A_DICT
    measured(benchmark, encode)


def test_order_frame_encode_floor(benchmark: Any) -> None:
    encoder = msgspec.json.Encoder()
    measured(benchmark, lambda: encoder.encode(AS_A_DICT))
