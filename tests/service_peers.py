"""The other services of the bot as small HTTP servers on loopback, whose answers and faults a test switches.

    with peers() as p:
        load_settings({**p.environment, ...})  # where each of them is, as settings
        p.risk.recommend("500")                # the largest quantity; by default more than anyone asks for
        p.core.offer({"RVN_USDT": {"ma": {"signal": "buy", "confidence": 0.8}}})  # pairs and their strategies
        p.ml.predict("RVN_USDT", {"prediction": "up", "confidence": 0.7})
        p.risk.answer(POSITION_SIZE, {...}, status=200, delay_s=0.2)  # anything, or a function of the request
        p.risk.fault("hang")                   # one of FAULTS, "" for none; path="/api/risk": only below it
        p.risk.away(); p.risk.back()           # connections are refused; the same port again
        p.risk.requests, p.risk.asked("/api/risk")  # what came in: method, path, body (decoded), headers, time
        p.dashboard.events                     # every event that was pushed, in order

They run in one thread with a loop of its own: they answer while the test's loop is busy, and may hang without stopping
it. Everything may be called from the test's thread. Connections are kept alive. `/api/health` answers 200
{"status": "healthy"} unless a fault says otherwise.
"""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

POSITION_SIZE: Final = "/api/risk/position-size"
HUGE_BYTES: Final = 3 << 20
SLOW_S: Final = 2.0
DRIP_S: Final = 0.05  # a byte at a time
FAULTS: Final = {
    "garbage": "200 and a body that is no JSON",
    "empty": "200 and no body",
    "wrong": "200 and JSON of another shape",
    "nan": "the usual answer with NaN in place of each number",
    "negative": "the usual answer with each number below zero",
    "text": "the usual answer with words in place of each number",
    "huge": "200 and a body of HUGE_BYTES",
    "500": "500",
    "404": "404",
    "redirect": "302 to the same path of another host",
    "slow": "the usual answer after SLOW_S",
    "drip": "the usual answer, a byte each DRIP_S",
    "drip-head": "no end of headers, a byte each DRIP_S",
    "hang": "the request is read and never answered",
    "close": "the request is read and the connection closed",
    "half": "the connection is closed in the middle of the body",
    "not-http": "bytes that are no HTTP",
}


@dataclass(frozen=True)
class Asked:
    """One request as it came in."""

    method: str
    path: str  # with the query
    body: Any  # decoded JSON, None where there was none
    headers: Mapping[str, str]  # names in lower case
    at_ns: int


@dataclass(frozen=True)
class Reply:
    """What a route answers: a document, or bytes as they are."""

    body: Any
    status: int = 200
    delay_s: float = 0.0


@dataclass
class Peer:
    """One server."""

    name: str
    loop: asyncio.AbstractEventLoop
    routes: dict[str, Callable[[Asked], Reply]] = field(default_factory=dict)
    requests: list[Asked] = field(default_factory=list)
    connections: int = 0  # that were ever taken
    port: int = 0
    _fault: tuple[str, str] = ("", "")
    _server: asyncio.Server | None = None
    _open: set[asyncio.StreamWriter] = field(default_factory=set)

    # --- from the test

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def answer(self, path: str, body: Any, *, status: int = 200, delay_s: float = 0.0) -> None:
        """From now on, requests of this path get this; `body`: a document, bytes, or a function of `Asked`."""
        make = body if callable(body) else lambda _: body
        self.routes[path] = lambda asked: (
            made if isinstance(made := make(asked), Reply) else Reply(made, status, delay_s)
        )

    def fault(self, kind: str, *, path: str = "/") -> None:
        """One of FAULTS for requests whose path begins so, "" for none."""
        assert not kind or kind in FAULTS, f"{kind}: one of {', '.join(FAULTS)}"
        self._fault = (kind, path)

    def asked(self, path: str = "/") -> list[Asked]:
        """The requests whose path begins so, in order."""
        return [asked for asked in list(self.requests) if asked.path.startswith(path)]

    def away(self) -> None:
        """Take no more connections and end those that are open."""
        self._in_loop(self._close())

    def back(self) -> None:
        """Listen again, on the same port."""
        self._in_loop(self._listen())

    def _in_loop(self, coroutine: Any) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(5)

    # --- in the thread

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)
            self.port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in list(self._open):
            writer.transport.abort()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._open.add(writer)
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            while await self._turn(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            return  # the client has gone, as it may
        finally:
            self._open.discard(writer)
            writer.transport.abort() if writer.transport.is_closing() else writer.close()

    async def _turn(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request and its answer; False when the connection is to end."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, path, _ = head[0].split(" ", 2)
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        sent = await reader.readexactly(int(headers.get("content-length", 0)))
        asked = Asked(method, path, json.loads(sent) if sent else None, headers, time.time_ns())
        self.requests.append(asked)
        kind, of = self._fault
        kind = kind if path.startswith(of) else ""
        reply = self.reply(asked)
        if reply.delay_s or kind == "slow":
            await asyncio.sleep(reply.delay_s or SLOW_S)
        if kind == "hang":
            await reader.read()
            return False
        if kind == "close":
            return False
        return await self._send(writer, kind, reply)

    def reply(self, asked: Asked) -> Reply:
        """Routes by their whole path; one that ends in / takes everything below it."""
        path = asked.path.partition("?")[0]
        for route in (path, path[: path.rfind("/") + 1]):
            if route in self.routes:
                return self.routes[route](asked)
        return Reply({"error": f"{self.name} has no {path}"}, 404)

    async def _send(self, writer: asyncio.StreamWriter, kind: str, reply: Reply) -> bool:
        """Answer, in the way of the fault; False when the connection is to end."""
        if kind == "not-http":
            writer.write(b"220 mail ready\r\n")
            await writer.drain()
            return False
        head, body = answered(kind, reply)
        if kind == "drip-head":
            await self._drip(writer, b"HTTP/1.1 200 OK\r\nx-slow: " + b"a" * 4096)
            return False
        if kind == "half":
            writer.write(head + body[: len(body) // 2])
            await writer.drain()
            return False
        if kind == "drip":
            writer.write(head)
            await self._drip(writer, body)
        else:
            writer.write(head + body)
        await writer.drain()
        return True

    async def _drip(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        for byte in data:
            writer.write(bytes((byte,)))
            await writer.drain()
            await asyncio.sleep(DRIP_S)


def answered(kind: str, reply: Reply) -> tuple[bytes, bytes]:
    """The head and the body of an answer, as a fault changes them."""
    status, extra = reply.status, ""
    document = reply.body
    numbers: dict[str, Callable[[Any], Any]] = {
        "nan": lambda _: float("nan"),
        "negative": lambda number: -abs(float(number)) - 1,
        "text": lambda _: "plenty",
    }
    if kind in numbers:
        document = changed(document, numbers[kind])
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    if kind == "garbage":
        body = b"{'recommendations': <undefined>"
    elif kind == "empty":
        body = b""
    elif kind == "wrong":
        body = b'[[1, "two", null]]'
    elif kind == "huge":
        body = b'{"filler": "' + b"x" * HUGE_BYTES + b'"}'
    elif kind in ("500", "404"):
        status, body = int(kind), b'{"error": "switched to fail"}'
    elif kind == "redirect":
        status, extra = 302, "location: http://127.0.0.1:1/elsewhere\r\n"
    head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n{extra}\r\n"
    return head.encode(), body


def changed(document: Any, number: Callable[[Any], Any]) -> Any:
    """The same document with each of its numbers (text of digits too) replaced."""
    if isinstance(document, dict):
        return {key: changed(value, number) for key, value in document.items()}
    if isinstance(document, list):
        return [changed(value, number) for value in document]
    is_number = isinstance(document, int | float) and not isinstance(document, bool)
    is_digits = isinstance(document, str) and document.replace(".", "", 1).isdigit()
    return number(document) if is_number or is_digits else document


class RiskPeer(Peer):
    """The risk service: recommends a position size."""

    def recommend(self, quantity: Any, **more: Any) -> None:
        """At most this much, as a number or as text; `more`: other fields beside `positionSize`."""
        self.answer(POSITION_SIZE, {"recommendations": {"recommended": {"positionSize": quantity, **more}}})


class CorePeer(Peer):
    """The core service: pairs, and what its strategies say of each."""

    def offer(self, strategies: Mapping[str, Any]) -> None:
        """Pair -> its `strategies` as GET /api/pair/{pair} shows them; the pairs are those of GET /api/data."""
        for path in [path for path in self.routes if path.startswith("/api/pair/")]:
            del self.routes[path]
        self.answer("/api/data", {"pairs": list(strategies)})
        for pair, of_pair in strategies.items():
            self.answer(f"/api/pair/{pair}", {"pair": pair, "strategies": of_pair})


class MlPeer(Peer):
    """The prediction service."""

    def predict(self, pair: str, prediction: Any) -> None:
        """The whole answer to GET /api/predictions/{pair}."""
        self.answer(f"/api/predictions/{pair}", prediction)


class DashboardPeer(Peer):
    """The dashboard: takes events."""

    @property
    def events(self) -> list[dict[str, Any]]:
        """Those that were pushed, in order; what came while it had a fault is among them."""
        return [event for asked in self.asked("/api/events") for event in asked.body["events"]]


@dataclass
class Peers:
    """All of them, and where they are."""

    core: CorePeer
    risk: RiskPeer
    ml: MlPeer
    backtest: Peer
    dashboard: DashboardPeer

    @property
    def all(self) -> tuple[Peer, ...]:
        return self.core, self.risk, self.ml, self.backtest, self.dashboard

    @property
    def environment(self) -> dict[str, str]:
        """Settings that name them; a risk service that is named is relied upon from the start."""
        return {f"{peer.name.upper()}_SERVICE_URL": peer.url for peer in self.all}


@contextmanager
def peers() -> Iterator[Peers]:
    """All five, on free ports, until the block ends."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="service peers", daemon=True)
    thread.start()
    found = Peers(
        CorePeer("core", loop),
        RiskPeer("risk", loop),
        MlPeer("ml", loop),
        Peer("backtest", loop),
        DashboardPeer("dashboard", loop),
    )
    for peer in found.all:
        peer.answer("/api/health", {"status": "healthy", "service": f"trading-bot-{peer.name}"})
        peer.back()
    found.risk.recommend(1_000_000_000_000)
    found.core.offer({})
    found.dashboard.answer("/api/events", {"ok": True})
    try:
        yield found
    finally:
        for peer in found.all:
            peer.away()
        asyncio.run_coroutine_threadsafe(_cancel_all(), loop).result(5)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)
        loop.close()


async def _cancel_all() -> None:
    """What hangs or drips ends with the block."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
