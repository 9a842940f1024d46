"""The local exchange's one port: HTTP and WebSockets side by side, their limits, and the process around it."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import socket
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tbx.core.model.errors import SettingsError
from tbx.venues.simulator.binance import front
from tbx.venues.simulator.binance.command import main
from tbx.venues.simulator.binance.faults import FAULTS
from tbx.venues.simulator.binance.limits import Rates
from tbx.venues.simulator.binance.server import LocalExchange, units

from .exchange_fixtures import a_stream_client, an_api_client, an_exchange, fill_book, rest
from .exchange_process import ROOT, ExchangeProcess
from .redis_fixtures import in_loop, until

MS_NS = 1_000_000


class RawSocket:
    """A client that sends bytes and reads bytes: what well-behaved libraries do not let a test do."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, raw: bytes) -> None:
        self.writer.write(raw)

    async def head(self) -> bytes:
        return await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 5)

    async def upgrade(self, path: str) -> bytes:
        self.send(
            f"GET {path} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        return await self.head()

    async def frame(self) -> tuple[int, bytes]:
        """(opcode, payload) of the next frame."""
        first, length = await asyncio.wait_for(self.reader.readexactly(2), 5)
        if length == 126:
            length = int.from_bytes(await self.reader.readexactly(2), "big")
        return first & 15, await self.reader.readexactly(length)

    def send_frame(self, opcode: int, payload: bytes, *, fin: bool = True) -> None:
        """Masked with zeros, as RFC 6455 lets a client."""
        self.send(bytes([opcode | (128 if fin else 0), 128 | len(payload), 0, 0, 0, 0]) + payload)

    async def ended(self) -> bytes:
        """What comes until the other side closes."""
        return await asyncio.wait_for(self.reader.read(), 5)


@asynccontextmanager
async def a_raw_socket(exchange: LocalExchange) -> AsyncIterator[RawSocket]:
    reader, writer = await asyncio.open_connection("127.0.0.1", exchange.port)
    try:
        yield RawSocket(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


@in_loop
async def test_one_port_serves_rest_the_websocket_api_and_streams() -> None:
    async with an_exchange() as exchange:
        fill_book(exchange)
        async with rest(exchange) as http:
            depth = (await http.get("/api/v3/depth", params={"symbol": "BTCUSDT"})).json()
        async with an_api_client(exchange, log_on=False) as client:
            over_socket = await client.ask("depth", symbol="BTCUSDT")
        async with a_stream_client(exchange, "/ws/btcusdt@depth5@100ms") as stream:
            streamed = await stream.receive()
        assert depth["bids"][0] == ["59990.00000000", "1.00000000"]
        assert over_socket["result"]["bids"] == depth["bids"] == streamed["bids"]


@pytest.mark.parametrize("behind", [0, 3_000_000], ids=["a client that reads", "bytes that wait for the client"])
def test_frames_of_any_size_leave_whole_when_others_follow_at_once(behind: int) -> None:
    sizes = [1, 125, 126, 4_095, 4_096, 8_192, 8_193, 12_923, 65_535, 65_536, 200_000, 163]

    @in_loop
    async def attempt() -> None:
        async with an_exchange() as exchange, connect(exchange.url_ws_api, max_size=None) as socket:
            (connection,) = exchange.connections
            connection.send(b"w" * behind)
            for size in sizes:  # in one turn of the loop
                connection.send(b"a" * size)
                connection.send(b"b" * 163)
            sent = ["w" * behind, *(text for size in sizes for text in ("a" * size, "b" * 163))]
            for text in sent:
                assert await asyncio.wait_for(socket.recv(), 5) == text

    attempt()


@in_loop
async def test_an_offer_to_compress_is_declined_and_the_connection_works() -> None:
    async with an_exchange() as exchange, connect(exchange.url_ws_api, compression="deflate") as socket:
        assert socket.response is not None
        assert "Sec-WebSocket-Extensions" not in socket.response.headers
        await socket.send('{"id":"a","method":"ping"}')
        assert json.loads(await socket.recv())["status"] == 200


@in_loop
async def test_a_connection_answers_one_request_after_another_also_when_they_come_at_once() -> None:
    async with an_exchange() as exchange, a_raw_socket(exchange) as raw:
        request = b"GET /api/v3/%b HTTP/1.1\r\nHost: x\r\n\r\n"
        raw.send(request % b"ping" + request % b"time" + request % b"nothing")
        heads, bodies = [], []
        for _ in range(3):
            head = await raw.head()
            heads.append(head.split(b" ")[1])
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            bodies.append(await raw.reader.readexactly(length))
        assert heads == [b"200", b"200", b"404"]
        assert bodies[0] == b"{}" and b"serverTime" in bodies[1]
        raw.send(b"GET /api/v3/ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert (await raw.ended()).endswith(b"{}")


@in_loop
async def test_a_connection_that_served_http_can_become_a_websocket() -> None:
    async with an_exchange() as exchange, a_raw_socket(exchange) as raw:
        for _ in range(2):
            raw.send(b"GET /api/v3/ping HTTP/1.1\r\nHost: x\r\n\r\n")
            await raw.head()
            await raw.reader.readexactly(2)
        assert b"101 Switching Protocols" in await raw.upgrade("/ws-api/v3")
        raw.send_frame(1, b'{"id":1,"method":"ping"}')
        assert json.loads((await raw.frame())[1])["status"] == 200
        assert not exchange.fronts


@in_loop
async def test_a_request_that_comes_in_pieces_is_one_request() -> None:
    async with an_exchange() as exchange, a_raw_socket(exchange) as raw:
        for piece in (b"GE", b"T /api/v3/ping HT", b"TP/1.1\r", b"\nHost: x\r\n", b"\r\n"):
            raw.send(piece)
            await raw.writer.drain()
            await asyncio.sleep(0)
        assert (await raw.head()).startswith(b"HTTP/1.1 200 OK")


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        pytest.param(b"\x16\x03\x01\x02\x00 a TLS greeting\r\n\r\n", b"400", id="no HTTP"),
        pytest.param(b"GET /" + b"x" * 20_000, b"431", id="a first line without end"),
        pytest.param(b"GET /api/v3/ping HTTP/1.1\r\n" + b"A: b\r\n" * 101 + b"\r\n", b"431", id="too many headers"),
        pytest.param(b"GET /api/v3/ping HTTP/1.1\r\nA: " + b"b" * 40_000 + b"\r\n\r\n", b"431", id="a long header"),
        pytest.param(
            b"POST /api/v3/order HTTP/1.1\r\nContent-Length: 2000000\r\n\r\n" + b"b" * 1_100_000,
            b"413",
            id="a long body",
        ),
        pytest.param(b"GET /ws/btcusdt@trade HTTP/1.1\r\nHost: x\r\n\r\n", b"400", id="a stream without upgrade"),
        pytest.param(
            b"GET /ws/x HTTP/1.1\r\n" + b"A: b\r\n" * 6000 + b"\r\n", b"431", id="an upgrade with a long head"
        ),
    ],
)
def test_what_is_no_proper_request_is_refused_and_the_connection_ends(sent: bytes, status: bytes) -> None:
    @in_loop
    async def attempt() -> None:
        async with an_exchange() as exchange, a_raw_socket(exchange) as raw:
            raw.send(sent)
            with contextlib.suppress(ConnectionError):
                assert (await raw.ended()).split(b" ")[1] == status
            await until(lambda: not exchange.fronts and not exchange.connections, "the end of the connection")
            assert exchange.streams.count == 0

    attempt()


@pytest.mark.parametrize(
    ("head", "body", "status"),
    [
        pytest.param(b"A: b\r\n" * 5_000, b"", b"431", id="5,000 header lines"),
        pytest.param(b"A: " + b"b" * 40_000 + b"\r\n", b"", b"431", id="a long header"),
        pytest.param(b"Content-Length: 1100000\r\n", b"b" * 1_100_000, b"413", id="a long body"),
    ],
)
def test_a_refused_request_has_one_answer_and_is_not_carried_out(head: bytes, body: bytes, status: bytes) -> None:
    @in_loop
    async def attempt() -> None:
        async with an_exchange() as exchange, a_raw_socket(exchange) as raw:
            raw.send(b"POST /api/v3/order HTTP/1.1\r\n" + head + b"\r\n" + body)
            raw.send(b"GET /api/v3/ping HTTP/1.1\r\nHost: x\r\n\r\n")
            answers = b""
            with contextlib.suppress(ConnectionError):
                answers = await raw.ended()
            assert answers.count(b"HTTP/1.1") <= 1 and answers[9:12] in (status, b"")
            await until(lambda: not exchange.fronts, "the end of the connection")
            assert exchange.counts["requests"] == 0

    attempt()


@in_loop
async def test_a_client_that_does_not_read_its_answers_is_not_read_from() -> None:
    async with an_exchange(limited=False) as exchange, a_raw_socket(exchange) as raw:
        asked = 20_000
        raw.send(b"GET /api/v3/exchangeInfo HTTP/1.1\r\nHost: x\r\n\r\n" * asked)
        last = -1
        while exchange.counts["requests"] != last:
            last = exchange.counts["requests"]
            await asyncio.sleep(0.05)
        assert 0 < last < asked


@pytest.mark.parametrize("sent", [b"", b"GET /api/v", b"GET /api/v3/ping HTTP/1.1\r\nHost: x\r\n"])
def test_a_request_that_does_not_arrive_in_time_ends_the_connection(
    sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(front, "REQUEST_NS_MAX", 50 * MS_NS)

    @in_loop
    async def attempt() -> None:
        async with an_exchange() as exchange, a_raw_socket(exchange) as raw:
            raw.send(sent)
            answer = await raw.ended()
            assert answer.startswith(b"HTTP/1.1 408") if sent else answer == b""

    attempt()


@in_loop
async def test_paths_that_are_none_are_refused_with_404() -> None:
    async with an_exchange() as exchange:
        async with rest(exchange) as http:
            assert (await http.get("/api/v4/ping")).status_code == 404
        for path in ("/ws-api/v2", "/ws-api/v3/x", "/wss"):
            with pytest.raises(InvalidStatus) as refused:
                await connect(f"ws://{exchange.authority}{path}").__aenter__()
            assert refused.value.response.status_code == 404


@in_loop
async def test_a_ping_carries_a_payload_and_a_client_without_pong_is_closed() -> None:
    async with an_exchange(ping_ns=40 * MS_NS, pong_ns=160 * MS_NS) as exchange:
        async with a_raw_socket(exchange) as silent, a_raw_socket(exchange) as polite:
            await silent.upgrade("/ws-api/v3")
            await polite.upgrade("/ws-api/v3")
            opcodes = []
            while not opcodes or opcodes[-1] != 8:
                opcode, payload = await silent.frame()
                opcodes.append(opcode)
                if opcode == 9:
                    assert payload.isdigit()
                    polite.send_frame(10, (await polite.frame())[1])
            assert len(opcodes) >= 4 and set(opcodes[:-1]) == {9}
            assert [connection.kind for connection in exchange.connections if not connection._closing] == ["ws-api"]
            assert exchange.counts["pongs_missed"] == 1


@in_loop
async def test_a_pong_with_another_payload_answers_no_ping() -> None:
    async with an_exchange(ping_ns=20 * MS_NS, pong_ns=60 * MS_NS) as exchange, a_raw_socket(exchange) as raw:
        await raw.upgrade("/ws-api/v3")
        while (opcode := (await raw.frame())[0]) == 9:
            raw.send_frame(10, b"something else")
        assert opcode == 8 and exchange.counts["pongs_missed"] == 1


@in_loop
async def test_a_connection_ends_at_its_age_limit() -> None:
    async with an_exchange(age_ns=60 * MS_NS) as exchange, connect(exchange.url_ws_api) as socket:
        with pytest.raises(ConnectionClosed) as closed:
            await socket.recv()
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 1001


@in_loop
async def test_more_than_five_messages_a_second_end_a_stream_connection() -> None:
    async with an_exchange() as exchange:
        async with a_stream_client(exchange, "/ws") as stream:
            for number in range(13):  # two whole seconds' worth, wherever the second begins, and more
                await stream.socket.send(f'{{"method":"LIST_SUBSCRIPTIONS","id":{number}}}')
            with pytest.raises(ConnectionClosed) as closed:
                await stream.frame(lambda _: False)
            assert closed.value.rcvd is not None and closed.value.rcvd.code == 1008
            assert closed.value.rcvd.reason == "Too many requests"
        exchange.limited = False
        async with a_stream_client(exchange, "/ws") as stream:
            for _ in range(20):
                await stream.ask("LIST_SUBSCRIPTIONS")


@in_loop
async def test_an_address_may_open_so_many_connections_in_five_minutes() -> None:
    async with an_exchange(rates=Rates(connections=2)) as exchange:
        async with connect(exchange.url_ws_api), connect(f"{exchange.url_stream}/ws"):
            with pytest.raises(InvalidStatus) as refused:
                await connect(exchange.url_ws_api).__aenter__()
            answer = refused.value.response
            assert answer.status_code == 429 and 1 <= int(answer.headers["Retry-After"]) <= 300
            assert json.loads(answer.body or b"")["code"] == -1003


@in_loop
async def test_a_client_that_does_not_read_is_dropped_and_the_others_are_not() -> None:
    async with an_exchange() as exchange, a_raw_socket(exchange) as idle:
        await idle.upgrade("/ws-api/v3")
        (connection,) = exchange.connections
        async with connect(exchange.url_ws_api) as reader:
            for _ in range(20):
                connection.send(b'"' + b"x" * 1_000_000 + b'"')
            await until(lambda: connection not in exchange.connections, "the drop")
            assert exchange.counts["slow_readers"] == 1
            await reader.send('{"id":1,"method":"ping"}')
            assert json.loads(await reader.recv())["id"] == 1


@in_loop
async def test_a_message_in_fragments_is_one_message_and_binary_frames_end_the_connection() -> None:
    async with an_exchange() as exchange, a_raw_socket(exchange) as raw:
        await raw.upgrade("/ws-api/v3")
        raw.send_frame(1, b'{"id":1,"me', fin=False)
        raw.send_frame(9, b"between")
        raw.send_frame(0, b'thod":"ping"}')
        assert await raw.frame() == (10, b"between")
        assert json.loads((await raw.frame())[1])["id"] == 1
        raw.send_frame(2, b"\x00")
        assert (await raw.frame())[0] == 8


@in_loop
async def test_latency_delays_replies_and_events_and_keeps_their_order() -> None:
    async with an_exchange(latency_ms=40) as exchange, an_api_client(exchange) as client:
        began = time.monotonic()
        numbers = [await client.send("order.place", **client.an_order()) for _ in range(5)]
        for number in numbers:
            await client.reply(number)
        assert time.monotonic() - began >= 0.038
        assert [frame["id"] for frame in client.frames if frame.get("id") in numbers] == numbers
        async with rest(exchange) as http:
            began = time.monotonic()
            await http.get("/api/v3/ping")
            assert time.monotonic() - began >= 0.038


@in_loop
async def test_stopping_closes_every_connection() -> None:
    async with an_exchange() as exchange:
        async with connect(exchange.url_ws_api) as socket, rest(exchange) as http:
            await http.get("/api/v3/ping")
            await exchange.stop()
            assert not exchange.connections and not exchange.fronts
            with pytest.raises(ConnectionClosed):
                await socket.recv()


@in_loop
async def test_control_does_what_it_is_told_and_says_what_is_wrong() -> None:
    async with an_exchange() as exchange, rest(exchange) as http, an_api_client(exchange) as client:
        assert (await http.post("/control/price", json={"symbol": "BTCUSDT", "price": "60000"})).status_code == 200
        assert exchange.exchange.book("BTCUSDT").best_bid[0] == units("59994")
        for side, price in (("SELL", "60000"), ("BUY", "59995")):
            body = {"symbol": "BTCUSDT", "side": side, "price": price, "qty": "0.5"}
            assert (await http.post("/control/quote", json=body)).status_code == 200
        body = {"symbol": "BTCUSDT", "side": "BUY", "price": "60000", "qty": "0.1"}
        assert (await http.post("/control/deal", json=body)).status_code == 200
        assert exchange.exchange.tape("BTCUSDT").last_price == units("60000")
        await http.post("/control/deposit", json={"account": "first", "asset": "ETH", "amount": "5"})
        assert (await client.event("balanceUpdate"))["d"] == "5.00000000"
        state = (await http.get("/control")).json()
        assert state["connections"] == {"ws-api": 1, "stream": 0}
        assert (await http.post("/control/close", json={"kind": "stream"})).json() == {"closed": 0}
        assert (await http.post("/control/close", json={"kind": "ws-api"})).json() == {"closed": 1}
        for command, body, status in (
            ("price", {"symbol": "BTCUSDT", "price": "-1"}, 400),
            ("price", {"symbol": "NOSUCH", "price": "1"}, 400),
            ("quote", {"symbol": "BTCUSDT", "side": "UP", "price": "1", "qty": "1"}, 400),
            ("deposit", {"account": "nobody", "asset": "ETH", "amount": "5"}, 400),
            ("deposit", {"acount": "first"}, 400),
            ("faults", {"spec": "no_such"}, 400),
            ("nothing", {}, 404),
        ):
            answer = await http.post(f"/control/{command}", json=body)
            assert answer.status_code == status and answer.json()["error"], command
        assert (await http.get("/control", headers={"Origin": "http://evil.example"})).status_code == 404


@in_loop
async def test_keys_can_lose_their_permissions_while_the_exchange_runs() -> None:
    async with an_exchange() as exchange, rest(exchange) as http, an_api_client(exchange) as client:
        await http.post("/control/key", json={"account": "first", "trade": False})
        assert (await client.order())["error"]["code"] == -2015
        await http.post("/control/key", json={"account": "first", "trade": True, "ips": ["10.0.0.1"]})
        await client.send("account.status", timestamp=exchange.now_ms())
        refused = await client.receive()
        assert (refused["id"], refused["status"], refused["error"]["code"]) == (None, 401, -2015)


def test_amounts_with_more_than_eight_decimals_are_refused() -> None:
    assert units("0.00000001") == 1
    with pytest.raises(ValueError, match="eight decimals"):
        units("0.000000001")


@in_loop
async def test_the_simulated_market_moves_every_book_and_can_be_stopped_and_moved() -> None:
    async with an_exchange(market="simulated", extra_symbols=2) as exchange:
        books = [exchange.exchange.book(name) for name in exchange.exchange.symbols]
        assert len(books) == 10 and all(book.best_bid[0] < book.best_ask[0] for book in books)
        before = [book.update_id for book in books]
        await until(lambda: all(book.update_id > was for book, was in zip(books, before, strict=True)), "updates")
        exchange.move("ETHUSDT", "4000")
        bid = exchange.exchange.book("ETHUSDT").best_bid[0]
        assert abs(bid - units(4000)) < units(20)
        exchange.run_market(running=False)
        still = [book.update_id for book in books]
        await asyncio.sleep(0.05)
        assert [book.update_id for book in books] == still


@in_loop
async def test_a_market_that_is_none_is_refused() -> None:
    with pytest.raises(SettingsError, match="none, simulated or replay:FILE"):
        async with an_exchange(market="lunar"):
            pass


@in_loop
async def test_a_recording_becomes_a_market_with_its_own_symbols(tmp_path: Path) -> None:
    second = 1_000_000_000
    lines = [
        (0, '{"lastUpdateId":10,"bids":[["100.00","1.5"]],"asks":[["100.10","2"]]}'),
        (1, '{"e":"depthUpdate","E":1,"s":"SOLUSDT","U":11,"u":12,"b":[["100.01","3"]],"a":[]}'),
        (2, '{"e":"trade","E":1,"s":"SOLUSDT","t":1,"p":"100.10","q":"0.5","T":1,"m":false,"M":true}'),
    ]
    capture = tmp_path / "capture.txt"
    capture.write_text("".join(f"{second + at * 1_000_000} {frame}\n" for at, frame in lines))
    async with an_exchange(market=f"replay:{capture}") as exchange:
        assert list(exchange.exchange.symbols) == ["SOLUSDT"]
        book = exchange.exchange.book("SOLUSDT")
        await until(lambda: exchange.exchange.tape("SOLUSDT").last_price > 0, "the trade")
        assert book.best_bid == (units("100.01"), units(3)) and book.best_ask == (units("100.10"), units("1.5"))


@in_loop
async def test_a_recording_with_a_frame_that_cannot_be_used_says_so_once_and_goes_on(tmp_path: Path) -> None:
    bad = '{"e":"trade","E":1,"s":"SOLUSDT","t":1,"p":"x","q":"0.5","T":1,"m":false,"M":true}'
    frames = [
        '{"lastUpdateId":10,"bids":[["100.00","1.5"]],"asks":[["100.10","2"]]}',
        bad,
        bad,
        '{"e":"depthUpdate","E":1,"s":"SOLUSDT","U":11,"u":12,"b":[["100.01","3"]],"a":[]}',
    ]
    capture = tmp_path / "capture.txt"
    capture.write_text("".join(f"1000000000 {frame}\n" for frame in frames))
    said: list[str] = []
    async with an_exchange(market=f"replay:{capture}", say=said.append) as exchange:
        await until(lambda: exchange.exchange.book("SOLUSDT").best_bid[0] == units("100.01"), "the frame after")
    assert sum("cannot be used" in line for line in said) == 1


@in_loop
async def test_a_recording_on_a_grid_that_is_too_fine_is_refused(tmp_path: Path) -> None:
    capture = tmp_path / "capture.txt"
    frame = '{"e":"depthUpdate","E":1,"s":"SOLUSDT","U":11,"u":12,"b":[["100.00001","3.00001"]],"a":[]}'
    capture.write_text(f"1 {frame}\n")
    with pytest.raises(SettingsError, match="more than eight decimals"):
        async with an_exchange(market=f"replay:{capture}"):
            pass


# --- the process


def test_the_process_prints_what_a_client_needs_and_ends_cleanly() -> None:
    with ExchangeProcess("--symbols", "3", "--seed", "7") as exchange:
        assert exchange.http.get("/api/v3/ping").json() == {}
        symbols = [row["symbol"] for row in exchange.http.get("/api/v3/exchangeInfo").json()["symbols"]]
        assert "BTCUSDT" in symbols and "SYM003USDT" in symbols
        exchange.control("price", symbol="BTCUSDT", price="60000")
        assert exchange.http.get("/api/v3/ticker/bookTicker?symbol=BTCUSDT").json()["bidPrice"] == "59994.00000000"
        account = exchange.accounts[0]
        assert set(account) == {"name", "hmac", "ed25519"}
        assert exchange.stop() == 0
    with ExchangeProcess("--seed", "7") as again:
        assert again.accounts[0] == account


def test_a_port_that_is_taken_and_options_that_are_wrong_are_one_line_and_exit_code_2(tmp_path: Path) -> None:
    def attempt(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "tbx.venues.simulator.binance.command", *words],
            env={"PYTHONPATH": str(ROOT / ".src"), "PATH": ""},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = attempt("--port", str(port), "--market", "none")
        assert done.returncode == 2 and done.stdout == ""
        assert done.stderr == f"tbx exchange: cannot listen on 127.0.0.1:{port}: Address already in use\n"
    done = attempt("--port", "0", "--faults", "mute_sometimes")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and "mute_after" in done.stderr
    done = attempt("--port", "0", "--market", f"replay:{tmp_path / 'nothing.gz'}")
    assert done.returncode == 2 and "there is no such file" in done.stderr


def test_keys_are_written_for_their_owner_only(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    with ExchangeProcess("--keys-dir", str(folder)) as exchange:
        files = sorted(folder.iterdir())
        assert [file.name for file in files] == ["first-ed25519.pem", "second-ed25519.pem"]
        assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in files)
        assert files[0].read_text() == exchange.accounts[0]["ed25519"]["privateKeyPem"]


def test_the_help_explains_every_fault() -> None:
    with pytest.raises(SystemExit) as ended, contextlib.redirect_stdout(printed := io.StringIO()):
        main(["--help"])
    assert ended.value.code == 0
    assert all(name in printed.getvalue() and meaning in printed.getvalue() for name, meaning in FAULTS.items())


def test_httpx_keeps_one_connection_for_many_requests() -> None:
    with ExchangeProcess() as exchange:
        for _ in range(3):
            assert exchange.http.get("/api/v3/time").status_code == 200
        assert exchange.control()["counts"]["requests"] == 3
        with httpx.Client(base_url=exchange.url_rest, trust_env=False) as other:
            assert other.head("/api/v3/ping").status_code in (200, 405)
