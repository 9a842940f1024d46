"""Links over real sockets: whole messages, signs of life, and every way in which a connection can fail."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvloop
from picows import WSCloseCode, WSFrame, WSListener, WSMsgType, WSTransport, WSUpgradeResponse, ws_create_server
from picows import WSUpgradeResponseWithListener as Answer

from tbx.core.kernel.clock import SECOND_NS, SystemClock
from tbx.venues import picows_link
from tbx.venues.limits import ConnectBudget
from tbx.venues.picows_link import MESSAGE_BYTES_MAX, picows_connect
from tbx.venues.session import Link, Session

WAIT_S = 5.0


class Server(WSListener):
    """One accepted connection: writes down what it gets, answers nothing by itself."""

    def __init__(self, world: World) -> None:
        self.world = world

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.world.transports.append(transport)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        self.world.got.append((frame.msg_type, frame.get_payload_as_bytes()))
        if frame.msg_type == WSMsgType.CLOSE:
            transport.disconnect()

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self.world.gone += 1


class World:
    """A server, and a session that connects to it and promotes at once."""

    def __init__(self) -> None:
        self.transports: list[WSTransport] = []
        self.got: list[tuple[WSMsgType, bytes]] = []
        self.gone = 0
        self.frames: list[bytes] = []
        self.down: list[str] = []
        self.troubles: list[str] = []
        self.answer: Callable[[], Any] | None = None

    def listen(self, _: object) -> Any:
        return self.answer() if self.answer is not None else Server(self)

    def on_link_open(self, link: Link) -> None:
        self.session.promote(link)

    def on_link_frame(self, link: Link, raw: bytes) -> None:
        self.frames.append(raw)

    def on_link_down(self, link: Link, reason: str) -> None:
        self.down.append(reason)

    def begin(self, url: str) -> None:
        loop = asyncio.get_running_loop()
        clock = SystemClock(loop, time.time_ns)
        self.session = Session(
            clock,
            picows_connect(loop, open_timeout_ns=SECOND_NS),
            self,
            name="venue",
            url=url,
            jitter=lambda: 0.9,
            budget=ConnectBudget(),
            on_trouble=self.troubles.append,
            open_timeout_ns=SECOND_NS,
        )
        self.session.start()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0.002)


def run(scenario: Callable[[World], Awaitable[None]], world: World | None = None) -> World:
    """The scenario with a connected world, on uvloop."""
    world = world or World()

    async def body() -> None:
        server = await ws_create_server(world.listen, "127.0.0.1", 0, enable_auto_pong=False)
        world.begin(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/ws")
        try:
            if world.answer is None:
                await until(lambda: world.session.link)
            await scenario(world)
        finally:
            world.session.stop()
            server.close()
            for transport in world.transports:
                transport.disconnect(False)
            await asyncio.sleep(0)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(body())
    return world


def test_text_goes_both_ways_and_each_frame_has_its_time() -> None:
    async def scenario(world: World) -> None:
        assert world.session.link is not None
        world.session.link.send(b'{"id":1}')
        await until(lambda: world.got)
        assert world.got == [(WSMsgType.TEXT, b'{"id":1}')]
        before_ns = time.time_ns()
        world.transports[0].send(WSMsgType.TEXT, b'{"id":1,"status":200}')
        await until(lambda: world.frames)
        assert world.frames == [b'{"id":1,"status":200}']
        assert before_ns <= world.session.link.last_frame_ns <= time.time_ns()

    run(scenario)


def test_fragments_are_put_together_and_pings_between_them_are_answered() -> None:
    async def scenario(world: World) -> None:
        server = world.transports[0]
        server.send(WSMsgType.TEXT, b"one ", fin=False)
        server.send_ping(b"20 s")
        server.send(WSMsgType.CONTINUATION, b"message ", fin=False)
        server.send(WSMsgType.CONTINUATION, b"in three", fin=True)
        server.send(WSMsgType.TEXT, b"another")
        await until(lambda: len(world.frames) == 2)
        assert world.frames == [b"one message in three", b"another"]
        await until(lambda: world.got)
        assert world.got == [(WSMsgType.PONG, b"20 s")]

    run(scenario)


def test_a_ping_is_a_sign_of_life_and_so_is_the_pong_to_ours() -> None:
    async def scenario(world: World) -> None:
        link = world.session.link
        assert link is not None
        opened_ns = link.last_sign_ns
        world.transports[0].send_ping(b"x")
        await until(lambda: link.last_sign_ns > opened_ns)
        pinged_ns = link.last_sign_ns
        link.ping()
        await until(lambda: any(kind == WSMsgType.PING for kind, _ in world.got))
        world.transports[0].send_pong(b"")
        await until(lambda: link.last_sign_ns > pinged_ns)
        assert link.last_frame_ns == opened_ns and world.frames == []

    run(scenario)


def test_binary_messages_are_left_out_and_told() -> None:
    async def scenario(world: World) -> None:
        server = world.transports[0]
        server.send(WSMsgType.BINARY, b"12345")
        server.send(WSMsgType.BINARY, b"12345", fin=False)
        server.send(WSMsgType.CONTINUATION, b"678")
        server.send(WSMsgType.TEXT, b"text")
        await until(lambda: world.frames)
        assert world.frames == [b"text"]
        assert [t.partition(": ")[2] for t in world.troubles] == [
            "link 1: a binary message of 5 bytes left out",
            "link 1: a binary message of 8 bytes left out",
        ]

    run(scenario)


def test_a_continuation_without_a_beginning_is_told_and_is_no_message() -> None:
    async def scenario(world: World) -> None:
        server = world.transports[0]
        server.send(WSMsgType.CONTINUATION, b'{"id":1,"status":200}')
        server.send(WSMsgType.TEXT, b"one ", fin=False)
        server.send(WSMsgType.CONTINUATION, b"message")
        server.send(WSMsgType.CONTINUATION, b"its end again")
        server.send(WSMsgType.TEXT, b"lost", fin=False)
        server.send(WSMsgType.TEXT, b"second ", fin=False)
        server.send(WSMsgType.CONTINUATION, b"message")
        await until(lambda: len(world.frames) == 2)
        assert world.frames == [b"one message", b"second message"]
        assert [t.partition(": ")[2] for t in world.troubles] == [
            "link 1: a continuation of 21 bytes without a beginning left out",
            "link 1: a continuation of 13 bytes without a beginning left out",
            "link 1: a message of 4 bytes without its end left out",
        ]

    run(scenario)


def test_an_attempt_that_breaks_is_told_and_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def breaks(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    world = World()

    async def body() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(picows_link, "ws_connect", breaks)
            world.begin("ws://127.0.0.1:1/ws")
            assert world.session is not None
            await until(lambda: world.session.connects >= 2)
        world.session.stop()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(body())
    assert world.troubles[:2] == [
        "venue: link 1: connecting broke: RuntimeError('a bug')",
        "venue: link 1 not opened: connecting broke: RuntimeError('a bug'), in the service",
    ]


def test_a_close_of_the_venue_is_answered_and_told_with_its_code() -> None:
    async def scenario(world: World) -> None:
        world.transports[0].send_close(WSCloseCode.POLICY_VIOLATION, b"Too many requests")
        await until(lambda: world.down)
        assert world.down == ["closed by the venue with code 1008 (Too many requests)"]
        await until(lambda: (WSMsgType.CLOSE, b"\x03\xf0") in world.got)

    run(scenario)


def test_our_close_says_goodbye() -> None:
    async def scenario(world: World) -> None:
        assert world.session.link is not None
        world.session.link.close("enough")
        assert world.down == ["enough"]
        await until(lambda: world.gone)
        assert world.got == [(WSMsgType.CLOSE, b"\x03\xe8")]

    run(scenario)


def test_a_cut_is_told_and_the_session_comes_back() -> None:
    async def scenario(world: World) -> None:
        world.transports[0].disconnect(False)
        await until(lambda: len(world.transports) == 2 and world.session.link)
        assert world.down == ["the connection was cut"]

    run(scenario)


def test_a_frame_that_is_too_large_ends_the_link_and_is_told() -> None:
    async def scenario(world: World) -> None:
        world.transports[0].send(WSMsgType.TEXT, b"x" * (MESSAGE_BYTES_MAX + 1))
        said = f"payload size exceeding max allowed size, {MESSAGE_BYTES_MAX + 1}"
        await until(lambda: world.down and any(said in trouble for trouble in world.troubles))
        await until(lambda: len(world.transports) == 2 and world.session.link)

    run(scenario)


def test_a_message_without_end_ends_the_link() -> None:
    async def scenario(world: World) -> None:
        server, part = world.transports[0], b"x" * (MESSAGE_BYTES_MAX // 4)
        server.send(WSMsgType.TEXT, part, fin=False)
        for _ in range(4):
            server.send(WSMsgType.CONTINUATION, part, fin=False)
        await until(lambda: world.down)
        assert world.down == [f"a message of more than {MESSAGE_BYTES_MAX} bytes"]

    run(scenario)


def test_a_venue_that_does_not_read_ends_the_link_within_a_bound() -> None:
    async def scenario(world: World) -> None:
        world.transports[0].underlying_transport.pause_reading()
        link, frame = world.session.link, b"x" * 65_536
        assert link is not None
        for _ in range(1_000):
            if not link.is_open:
                break
            link.send(frame)
        assert world.down == ["the venue does not read: 1048576 bytes wait to be sent"]

    run(scenario)


def refusal(status: int, **headers: str) -> Callable[[], Answer]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda: Answer(WSUpgradeResponse.create_error_response(status, b"no, thank you", named), None)


@pytest.mark.parametrize(
    ("answer", "reason", "hold_s"),
    [
        pytest.param(
            refusal(429, Retry_After="33"), "HTTP 429 instead of a WebSocket: no, thank you", 33, id="429 with a time"
        ),
        pytest.param(refusal(418), "HTTP 418 instead of a WebSocket: no, thank you", 120, id="418 without"),
        pytest.param(refusal(503), "HTTP 503 instead of a WebSocket: no, thank you", 0, id="503"),
        pytest.param(lambda: None, "HTTP 404 instead of a WebSocket", 0, id="404"),
    ],
)
def test_a_refused_handshake_is_told_with_its_status(answer: Callable[[], Any], reason: str, hold_s: int) -> None:
    world = World()
    world.answer = answer

    async def scenario(world: World) -> None:
        await until(lambda: world.troubles)
        assert reason in world.troubles[0]
        status = world.session.status()
        assert not status.connected and status.reason.startswith(reason)
        if hold_s:
            assert f"next attempt in {hold_s - 1} s" in status.reason

    run(scenario, world)


def tcp(behaviour: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]] | None) -> World:
    """A session against a plain TCP server that behaves so, or against a port that nobody listens on."""
    world = World()

    async def body() -> None:
        server = await asyncio.start_server(behaviour or silent, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        if behaviour is None:
            server.close()
            await server.wait_closed()
        world.begin(f"ws://127.0.0.1:{port}/ws")
        await until(lambda: world.troubles)
        world.session.stop()
        server.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(body())
    return world


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    writer.close()


async def hangs_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.close()


async def babbles(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"\x00\xff hello\r\n\r\n")
    writer.close()


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        pytest.param(None, "refused", id="nobody listens"),
        pytest.param(silent, "no ", id="no answer"),
        pytest.param(hangs_up, "closed before the handshake was answered", id="hangs up"),
        pytest.param(babbles, "the handshake failed", id="no HTTP"),
    ],
)
def test_a_handshake_that_fails_is_told_in_words(behaviour: Any, reason: str) -> None:
    world = tcp(behaviour)
    assert reason in world.troubles[0].lower() and "link 1 not opened" in world.troubles[0]
    assert world.down == []


@pytest.mark.parametrize("url", ["ws://", "http://127.0.0.1:1/ws", "ws://no such host/ws", "ws://host.invalid/ws"])
def test_a_url_that_leads_nowhere_is_told(url: str) -> None:
    world = World()

    async def body() -> None:
        world.begin(url)
        await until(lambda: world.troubles)
        world.session.stop()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(body())
    assert world.troubles[0].startswith("venue: link 1 not opened: ")
