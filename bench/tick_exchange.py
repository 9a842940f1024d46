"""The exchange of tick to order: the local exchange with a book made by hand, which times its own ticks.

    python bench/tick_exchange.py KEY_FILE

It writes the account's private key to KEY_FILE. Its first line of output is a JSON object: settings for a service, and
where the echo connects to. Then each line of input is a `Plan`, answered by a line that holds a `Result`, or
`{"spoilt": why}`. It ends with its input.

Always true here: a tick is one depth frame of LEVELS levels, and the next one waits until the order of this one came
and a pause is over, so that nothing queues. Both times are taken here by one clock: right before the frame is handed to
picows, and first thing in the callback that brings the order. The echo is timed in the same way, in turn with it.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport, WSUpgradeRequest, ws_create_server

from tbx.core.kernel.clock import SystemClock
from tbx.venues.simulator.binance import server
from tbx.venues.simulator.binance.connection import ApiConnection, StreamConnection
from tbx.venues.simulator.exchange.records import UNIT

HOST = "127.0.0.1"
SYMBOL = "BTCUSDT"
LEVELS = 20  # changed a tick, half of them bids; the best prices among them
BOOK_LEVELS = 100  # a side
MIDDLE = 60_000  # USDT
PAUSE_S = (0.002, 0.005)  # between an order and the next tick
FIRST_PAUSE_S = 0.05  # while nobody has answered a tick yet
FIRST_TIMEOUT_S = 60.0
ORDER_TIMEOUT_S = 5.0
DEPTH_STREAM = b'{"stream":"btcusdt@depth'
ORDER = b'"method":"order.place"'

now_ns = time.perf_counter_ns


class Plan(msgspec.Struct):
    """What to do: `rounds` times `ticks` ticks and as many echoes."""

    rounds: int
    ticks: int
    seed: int = 1


class Result(msgspec.Struct):
    """Nanoseconds of each, in the order in which they happened, a list a round."""

    ticks_ns: list[list[int]]
    echoes_ns: list[list[int]]
    depth_bytes: int
    order_bytes: int


class Spoilt(RuntimeError):
    """A run whose figures would mean nothing."""


class Stopwatch:
    """Between a frame that leaves and the one that answers it."""

    def __init__(self) -> None:
        self.sent_ns = 0
        self.took_ns = 0
        self.frame_bytes = 0
        self.answer_bytes = 0
        self.answers = 0
        self.answered: asyncio.Event = asyncio.Event()

    def arrived(self, at_ns: int, answer_bytes: int) -> None:
        self.took_ns, self.answer_bytes = at_ns - self.sent_ns, answer_bytes
        self.answers += 1
        self.answered.set()


orders = Stopwatch()
echoes = Stopwatch()


class TimedStream(StreamConnection):
    """Market data; notes when a depth frame leaves."""

    def send(self, frame: bytes) -> None:
        if frame.startswith(DEPTH_STREAM):
            orders.frame_bytes = len(frame)
            orders.sent_ns = now_ns()
        super().send(frame)


class TimedApi(ApiConnection):
    """Orders; notes when one comes."""

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        at_ns = now_ns()
        super().on_ws_frame(transport, frame)
        if frame.msg_type == WSMsgType.TEXT and ORDER in (raw := frame.get_payload_as_bytes()):
            orders.arrived(at_ns, len(raw))


class EchoServer(WSListener):
    """The exchange's side of the echo."""

    client: WSTransport | None = None

    def on_ws_connected(self, transport: WSTransport) -> None:
        EchoServer.client = transport

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        at_ns = now_ns()
        if frame.msg_type == WSMsgType.TEXT:
            echoes.arrived(at_ns, frame.payload_size)


class Bench:
    """One exchange, its ticks and its echoes."""

    def __init__(self, exchange: server.LocalExchange) -> None:
        self.exchange = exchange
        self.house = exchange.houses[SYMBOL]
        self.tick_units = self.house.market.symbol.tick
        self.rng = random.Random(0)
        for level in range(BOOK_LEVELS):
            self.set_levels(level)

    def set_levels(self, level: int) -> None:
        """Another quantity at a level of each side."""
        for side, sign in (("BUY", -1), ("SELL", 1)):
            price = MIDDLE * UNIT + sign * (level + 1) * self.tick_units
            self.house.set_level(side, price, self.rng.randrange(UNIT, 5 * UNIT))

    def tick(self) -> None:
        for level in range(LEVELS // 2):
            self.set_levels(level)
        self.exchange.streams.publish(SYMBOL)

    async def until_followed(self) -> None:
        """Tick until somebody answers."""
        end = time.monotonic() + FIRST_TIMEOUT_S
        while not orders.answers:
            if time.monotonic() > end:
                raise Spoilt(f"no order came within {FIRST_TIMEOUT_S:.0f} s of ticks")
            self.tick()
            await asyncio.sleep(FIRST_PAUSE_S)

    async def run(self, plan: Plan) -> Result:
        self.rng = random.Random(plan.seed)
        await self.until_followed()
        client = EchoServer.client
        if client is None:
            raise Spoilt("the echo is not connected")
        client.send(WSMsgType.BINARY, str(orders.answer_bytes).encode())
        frame = b"y" * orders.frame_bytes

        def echo() -> None:
            echoes.sent_ns = now_ns()
            client.send(WSMsgType.TEXT, frame)

        ticks_ns, echoes_ns = [], []
        for _ in range(plan.rounds):
            echoes_ns.append(await self.round(plan.ticks, echo, echoes))
            ticks_ns.append(await self.round(plan.ticks, self.tick, orders))
        return Result(ticks_ns, echoes_ns, orders.frame_bytes, orders.answer_bytes)

    async def round(self, count: int, act: Any, stopwatch: Stopwatch) -> list[int]:
        took_ns = []
        before = stopwatch.answers
        for _ in range(count):
            await asyncio.sleep(self.rng.uniform(*PAUSE_S))
            stopwatch.answered.clear()
            act()
            try:
                await asyncio.wait_for(stopwatch.answered.wait(), ORDER_TIMEOUT_S)
            except TimeoutError:
                raise Spoilt(f"a frame was not answered within {ORDER_TIMEOUT_S:.0f} s") from None
            took_ns.append(stopwatch.took_ns)
        if stopwatch.answers - before != count:
            raise Spoilt(f"{count} frames were answered {stopwatch.answers - before} times")
        return took_ns


async def main(key_file: Path) -> None:
    loop = asyncio.get_running_loop()
    server.StreamConnection, server.ApiConnection = TimedStream, TimedApi  # type: ignore[attr-defined]
    exchange = server.LocalExchange(loop, SystemClock(loop, time.time_ns), market="none", limited=False)
    bench = Bench(exchange)
    await exchange.start(HOST)

    def upgrade(_: WSUpgradeRequest) -> WSListener:
        return EchoServer()

    echo_server = await ws_create_server(upgrade, HOST, 0)
    echo_port = echo_server.sockets[0].getsockname()[1]
    account = exchange.accounts[0]
    key_file.touch(0o600)
    key_file.write_text(account.ed25519_pem)
    facts = {
        "BINANCE_REST_URL": exchange.url_rest,
        "BINANCE_WS_API_URL": exchange.url_ws_api,
        "BINANCE_STREAM_URL": exchange.url_stream,
        "BINANCE_API_KEY": account.ed25519_api_key,
        "BINANCE_PRIVATE_KEY_FILE": str(key_file),
        "echo": f"ws://{HOST}:{echo_port}/",
    }
    say(facts)
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        try:
            say(msgspec.to_builtins(await bench.run(msgspec.json.decode(line, type=Plan))))
        except Spoilt as error:
            say({"spoilt": str(error)})
    echo_server.close()
    await exchange.stop()


def say(document: Any) -> None:
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    uvloop.run(main(Path(sys.argv[1])))
