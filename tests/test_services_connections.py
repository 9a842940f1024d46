"""HTTP/1.1 over kept connections: every form of an answer, anything else named, and no connection in doubt used."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import random
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tbx.strategies_bridge.services.connections import Broken, Connections, Unconnected, Unusable

from .redis_fixtures import in_loop, until

PLAIN = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"


class Raw:
    """A server that answers each request with given bytes."""

    def __init__(self, answer: bytes, *, then_close: bool) -> None:
        self.answer = answer
        self.then_close = then_close
        self.requests: list[bytes] = []
        self.connections = 0
        self.url = ""
        self.writers: list[asyncio.StreamWriter] = []

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.append(writer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.requests.append(head)
                writer.write(self.answer)
                await writer.drain()
                if self.then_close:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()


@asynccontextmanager
async def raw(
    answer: bytes, *, then_close: bool = False, tls: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[Raw, Connections]]:
    found = Raw(answer, then_close=then_close)
    server = await asyncio.start_server(found.connected, "127.0.0.1", 0, ssl=tls)
    port = server.sockets[0].getsockname()[1]
    found.url = f"{'https' if tls else 'http'}://127.0.0.1:{port}/base/"
    connections = Connections(found.url)
    try:
        yield found, connections
    finally:
        connections.close()
        server.close()


WHOLE: dict[str, tuple[bytes, bool, bytes]] = {
    # what the server sends, whether it closes then, the body
    "with its length": (PLAIN, False, b"{}"),
    "in chunks": (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\n{\r\n1\r\n}\r\n0\r\n\r\n", False, b"{}"),
    "as long as the connection": (b"HTTP/1.1 200 OK\r\n\r\n{}", True, b"{}"),
    "of the old version": (b"HTTP/1.0 200 OK\r\n\r\n{}", True, b"{}"),
    "after a continue": (b"HTTP/1.1 100 Continue\r\n\r\n" + PLAIN, False, b"{}"),
    "that is the last": (b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}", True, b"{}"),
    "without a body": (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", False, b""),
}


@pytest.mark.parametrize("form", WHOLE)
@in_loop
async def test_each_form_of_an_answer_is_read_twice_in_a_row(form: str) -> None:
    answer, then_close, body = WHOLE[form]
    async with raw(answer, then_close=then_close) as (server, connections):
        for _ in range(2):
            assert await connections.request("GET", "/say") == (200, body)
        assert server.requests[0].startswith(b"GET /base/say HTTP/1.1\r\nhost: 127.0.0.1:")
        assert server.connections == (2 if then_close else 1)


NOT_WHOLE: dict[str, tuple[bytes, type[Exception], str]] = {
    "no bytes": (b"", Broken, "before the answer began"),
    "no HTTP": (b"220 mail ready\r\n", Broken, "no HTTP"),
    "half a head": (b"HTTP/1.1 200 OK\r\ncont", Broken, "before the answer did"),
    "half a body": (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{}", Broken, "before the answer did"),
    "half a chunk": (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n9\r\n{}", Broken, "before the answer did"),
    "two lengths": (b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n{}", Broken, "no HTTP"),
    "compressed": (b"HTTP/1.1 200 OK\r\ncontent-encoding: br\r\ncontent-length: 2\r\n\r\n{}", Unusable, "(br)"),
    "a head without end": (b"HTTP/1.1 200 OK\r\nx: " + b"a" * (2 << 20), Unusable, "more than"),
    "a body too long": (
        b"HTTP/1.1 200 OK\r\ncontent-length: 3000000\r\n\r\n" + b"x" * 3_000_000,
        Unusable,
        "more than",
    ),
}


@pytest.mark.parametrize("form", NOT_WHOLE)
@in_loop
async def test_what_is_no_whole_answer_is_named_and_the_connection_not_used_again(form: str) -> None:
    answer, error, words = NOT_WHOLE[form]
    async with raw(answer, then_close=True) as (server, connections):
        with pytest.raises(error, match=words.replace("(", r"\(").replace(")", r"\)")):
            await connections.request("GET", "/say")
        assert len(server.requests) == 1, "a new connection that breaks is no reason to ask again"
        server.answer, server.then_close = PLAIN, False
        assert await connections.request("GET", "/say") == (200, b"{}")
        assert server.connections == 2


@in_loop
async def test_bytes_that_nobody_asked_for_end_the_connection() -> None:
    async with raw(PLAIN + b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nother") as (server, connections):
        for _ in range(3):
            assert await connections.request("GET", "/say") == (200, b"{}")
        assert server.connections == 3


@in_loop
async def test_bytes_that_come_while_nothing_is_asked_end_the_connection_too() -> None:
    async with raw(PLAIN) as (server, connections):
        assert await connections.request("GET", "/say") == (200, b"{}")
        (kept,) = connections._idle
        server.writers[0].write(PLAIN)
        await until(lambda: not kept.open, "the connection to end")
        assert await connections.request("GET", "/say") == (200, b"{}")
        assert server.connections == 2


@in_loop
async def test_a_kept_connection_that_was_given_up_is_replaced_and_the_question_asked_again() -> None:
    async with raw(PLAIN) as (server, connections):
        assert await connections.request("POST", "/say", b"{}") == (200, b"{}")
        server.answer, server.then_close = b"", True  # the next request on it gets no byte
        with pytest.raises(Broken, match="began"):
            await connections.request("POST", "/say", b"{}")
        assert len(server.requests) == 3, "once on the kept one, once on a new one"


@in_loop
async def test_whatever_bytes_come_it_is_an_answer_or_an_error_of_its_own() -> None:
    rng = random.Random(7)
    seeds = [answer for answer, _, _ in WHOLE.values()]
    async with raw(b"", then_close=True) as (server, connections):
        for _ in range(300):
            noise = bytearray(rng.choice(seeds))
            for _ in range(rng.randrange(1, 6)):
                noise[rng.randrange(len(noise))] = rng.randrange(256)
            server.answer = bytes(noise)
            try:
                status, body = await connections.request("GET", "/say")
            except (Broken, Unusable):
                continue
            assert isinstance(status, int) and isinstance(body, bytes)


@in_loop
async def test_a_name_that_is_none_is_no_connection() -> None:
    for host in ("not-a-host.invalid", "a" * 64 + ".invalid", "127.0.0.1:1"):
        with pytest.raises(Unconnected):
            await Connections(f"http://{host}").request("GET", "/say")


def certificate(folder: Path) -> tuple[Path, ssl.SSLContext]:
    """One for 127.0.0.1, signed by itself: the file to trust, and the server's side."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a service")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    trusted, private = folder / "trusted.pem", folder / "key.pem"
    trusted.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    private.write_bytes(key.private_bytes(pem, form, serialization.NoEncryption()))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(trusted, private)
    return trusted, context


@in_loop
async def test_tls_is_spoken_with_who_is_trusted_and_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trusted, context = certificate(tmp_path)
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # the server's side of a refusal
    async with raw(PLAIN, tls=context) as (server, connections):
        with pytest.raises(Unconnected, match="certificate verify failed"):
            await connections.request("GET", "/say")
        monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
        trusting = Connections(server.url)
        assert await trusting.request("GET", "/say") == (200, b"{}")
        trusting.close()
        assert len(server.requests) == 1
