"""Asking a local risk service about an entry: from `ask` to the answer's callback, beside the bytes on a bare socket.

The risk service is a process of its own that only answers (`risk_peer.py`). The client is ours as it is: its circuit
breaker, its time limit, the reading of the answer and the call back on the loop are part of the time. One
question at a time, a few milliseconds apart, as entries come; back to back would show it with warm caches.

Always true here: an answer that is not the one that was prepared makes the run fail.
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path

import uvloop
from table import Figure, Target, of_seconds

from tbx.core.kernel.clock import SystemClock
from tbx.core.kernel.kernel import Kernel
from tbx.core.risk.advice import RiskAnswer, RiskQuestion
from tbx.core.state.memory import MemoryStore
from tbx.strategies_bridge.services.risk import POSITION_SIZE, RiskClient, body_of

PEER = Path(__file__).resolve().with_name("risk_peer.py")
QUESTIONS = 2_000
PAUSE_S = 0.002
WARM_UP = 50
NAME = "risk check with a local risk service"
ENTRY = RiskQuestion(
    pair="BTC_USDT",
    side="buy",
    quantity=Decimal("0.015"),
    entry_price=Decimal("60000.01"),
    stop_loss=Decimal("58800"),
    take_profit=Decimal("63000"),
    confidence=Decimal("0.85"),
)


@contextmanager
def peer() -> Iterator[int]:
    """The port of a risk service that answers."""
    process = subprocess.Popen([sys.executable, str(PEER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline())
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


async def _timed(one: Callable[[], Awaitable[None]], count: int) -> list[float]:
    """Seconds of each, without those of the warm-up."""
    seconds = []
    for number in range(WARM_UP + count):
        begun = time.perf_counter()
        await one()
        if number >= WARM_UP:
            seconds.append(time.perf_counter() - begun)
        await asyncio.sleep(PAUSE_S)
    return seconds


async def _measure(port: int, count: int) -> tuple[list[float], list[float]]:
    """Of the client, and of the floor."""
    loop = asyncio.get_running_loop()
    clock = SystemClock(loop, time.time_ns)
    store = MemoryStore(loop.call_soon)
    kernel = Kernel(clock, store.writer(store.acquire()))
    told: list[str] = []
    client = RiskClient(f"http://127.0.0.1:{port}", clock, kernel, relied_on=True, tell=told.append)

    async def ask() -> None:
        done: asyncio.Future[RiskAnswer] = loop.create_future()
        client.ask(ENTRY, done.set_result)
        answer = await done
        assert answer.recommended == 1_000_000, answer

    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = body_of(ENTRY)
    request = b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (POSITION_SIZE.encode(), len(body), body)

    async def bare() -> None:
        writer.write(request)
        await reader.readuntil(b"}}}")

    found = await _timed(ask, count), await _timed(bare, count)
    await client.stop()
    client.http.close()
    writer.close()
    assert not told, told
    return found


def risk_service(*, quick: bool) -> list[Figure]:
    """One figure."""
    with peer() as port:
        seconds, bare = uvloop.run(_measure(port, QUESTIONS // (4 if quick else 1)))
    floor_ms = statistics.median(bare) * 1e3
    return [of_seconds(NAME, seconds, "ms", floor=floor_ms, target=Target("p99", "<=", 5))]
