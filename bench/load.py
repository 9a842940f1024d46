"""A load generator of one process: keep-alive connections that each send prepared bytes, one request at a time.

    python bench/load.py < plan.json > result.json

Always true here: a connection sends its next request when the answer to the last one is whole; only answers that came
inside the measured window are counted; what is sent was built before the first request.
"""

from __future__ import annotations

import asyncio
import resource
import subprocess
import sys
import time
from array import array
from pathlib import Path
from typing import cast

import msgspec
import uvloop

HEAD_END = b"\r\n\r\n"
LENGTH = b"content-length: "
CONNECT_TIMEOUT_S = 10.0
LAST_ANSWERS_TIMEOUT_S = 10.0


class Plan(msgspec.Struct, kw_only=True):
    """What to send: each connection goes round in its own list of requests."""

    port: int
    connections: list[list[str]]  # whole HTTP requests
    seconds: float
    warm_up_s: float = 0.5
    host: str = "127.0.0.1"


class Result(msgspec.Struct, kw_only=True):
    """What came back inside the window. Latencies are from the write of a request to the last byte of its answer."""

    seconds: float
    statuses: dict[int, int]
    p50_us: float
    p99_us: float
    max_us: float
    cpu_s: float  # of this process, inside the window
    asked_s: float  # from the first request to the last answer, warm-up included

    @property
    def requests(self) -> int:
        return sum(self.statuses.values())

    @property
    def per_second(self) -> float:
        return self.requests / self.seconds

    def share_of(self, status: int) -> float:
        return self.statuses.get(status, 0) / max(1, self.requests)


def run(plan: Plan) -> Result:
    """Carry the plan out in a process of its own. Raises RuntimeError with what that process said."""
    limit_s = plan.warm_up_s + plan.seconds + CONNECT_TIMEOUT_S + LAST_ANSWERS_TIMEOUT_S + 20
    done = subprocess.run(
        [sys.executable, str(Path(__file__).resolve())],
        input=msgspec.json.encode(plan),
        capture_output=True,
        timeout=limit_s,
        check=False,
        start_new_session=True,
    )
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise RuntimeError(f"the load generator ended with code {done.returncode}: {said[-1] if said else 'no word'}")
    return msgspec.json.decode(done.stdout, type=Result)


class Window:
    """What all connections share: whether to go on, and what was counted."""

    def __init__(self) -> None:
        self.open = False  # answers count
        self.over = False  # nothing more is sent
        self.statuses: dict[int, int] = {}
        self.latencies_ns = array("q")
        self.waiting = 0
        self.error: str | None = None


class Connection(asyncio.Protocol):
    """One client: sends, waits, counts, sends."""

    def __init__(self, window: Window, requests: list[bytes]) -> None:
        self.window = window
        self.requests = requests
        self.next = 0
        self.begun_ns = 0
        self.buffer = b""
        self.transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.WriteTransport, transport)  # uvloop's is none by inheritance

    def send(self) -> None:
        assert self.transport is not None
        request = self.requests[self.next]
        self.next = (self.next + 1) % len(self.requests)
        self.window.waiting += 1
        self.begun_ns = time.perf_counter_ns()
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        if self.buffer:
            data = self.buffer + data
        head = data.find(HEAD_END)
        if head < 0:
            self.buffer = data
            return
        at = data.find(LENGTH, 0, head)
        if at < 0:
            self._fail("an answer has no content-length")
            return
        if len(data) < head + 4 + int(data[at + len(LENGTH) : data.find(b"\r", at, head + 2)]):
            self.buffer = data
            return
        self.buffer = b""
        window = self.window
        window.waiting -= 1
        if window.open:
            window.latencies_ns.append(time.perf_counter_ns() - self.begun_ns)
            status = int(data[9:12])
            window.statuses[status] = window.statuses.get(status, 0) + 1
        if not window.over:
            self.send()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.window.over:
            self._fail(f"the server closed a connection ({error or 'without an error'})")

    def _fail(self, why: str) -> None:
        self.window.error = why
        self.window.over = True


def cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def carry_out(plan: Plan) -> Result:
    """Connect, warm up, measure, wait for the last answers."""
    loop = asyncio.get_running_loop()
    window = Window()
    clients: list[Connection] = []
    for requests in plan.connections:
        client = Connection(window, [request.encode() for request in requests])
        connecting = loop.create_connection(lambda client=client: client, plan.host, plan.port)  # type: ignore[misc]
        await asyncio.wait_for(connecting, CONNECT_TIMEOUT_S)
        clients.append(client)
    first = loop.time()
    for client in clients:
        client.send()
    await asyncio.sleep(plan.warm_up_s)
    cpu_s, begun = cpu_seconds(), loop.time()
    window.open = True
    await asyncio.sleep(plan.seconds)
    window.open = False
    seconds, cpu_s = loop.time() - begun, cpu_seconds() - cpu_s
    window.over = True
    end = loop.time() + LAST_ANSWERS_TIMEOUT_S
    while window.waiting and loop.time() < end and window.error is None:
        await asyncio.sleep(0.005)
    for client in clients:
        if client.transport is not None:
            client.transport.close()
    if window.error is not None:
        raise RuntimeError(window.error)
    return _result(window, seconds, cpu_s, loop.time() - first)


def _result(window: Window, seconds: float, cpu_s: float, asked_s: float) -> Result:
    ordered = sorted(window.latencies_ns)
    if not ordered:
        raise RuntimeError("no answer came inside the measured window")
    return Result(
        seconds=seconds,
        statuses=window.statuses,
        p50_us=ordered[len(ordered) // 2] / 1e3,
        p99_us=ordered[int(len(ordered) * 0.99)] / 1e3,
        max_us=ordered[-1] / 1e3,
        cpu_s=cpu_s,
        asked_s=asked_s,
    )


def main() -> int:
    plan = msgspec.json.decode(sys.stdin.buffer.read(), type=Plan)
    try:
        result = uvloop.run(carry_out(plan))
    except (RuntimeError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    sys.stdout.buffer.write(msgspec.json.encode(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
