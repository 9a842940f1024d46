"""HTTP to another service: an answer, or words for why there is none, in time, whatever the service does."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import msgspec
import pytest

from tbx.core.kernel.clock import SystemClock
from tbx.strategies_bridge.services.breaker import FAILURES
from tbx.strategies_bridge.services.client import ServiceClient, ServiceUnavailable
from tbx.strategies_bridge.services.connections import ANSWER_BYTES_MAX

from .redis_fixtures import in_loop
from .service_peers import FAULTS, Asked, Peer, peers

LIMIT_S = 0.3
SLACK_S = 0.5  # a busy machine
SAID = {"recommendations": {"recommended": {"positionSize": 12}}}


def read(body: bytes) -> Any:
    return msgspec.json.decode(body)


def client_of(url: str, *, timeout_s: float = LIMIT_S) -> ServiceClient:
    clock = SystemClock(asyncio.get_running_loop(), time.time_ns)
    return ServiceClient("risk", url, clock, timeout_s=timeout_s)


# fault -> what the reason says; those that are not named give an answer that is JSON
WORDS = {
    "garbage": ("nonsense", "JSON"),
    "empty": ("nonsense", "truncated"),
    "nan": ("nonsense", "JSON"),
    "huge": ("nonsense", f"more than {ANSWER_BYTES_MAX} bytes"),
    "500": ("answers", "HTTP 500"),
    "404": ("answers", "HTTP 404"),
    "redirect": ("answers", "redirects (HTTP 302)"),
    "slow": ("broken", "no answer within 300 ms"),
    "drip": ("broken", "no answer within 300 ms"),
    "drip-head": ("broken", "no answer within 300 ms"),
    "hang": ("broken", "no answer within 300 ms"),
    "close": ("broken", "broke off"),
    "half": ("broken", "broke off"),
    "not-http": ("broken", "broke off"),
}


@pytest.mark.parametrize("fault", FAULTS)
@in_loop
async def test_each_fault_is_told_in_words_and_within_the_limit(fault: str) -> None:
    with peers() as p:
        p.risk.answer("/say", SAID)
        client = client_of(p.risk.url)
        assert await client.get("/say", read) == SAID
        p.risk.fault(fault)
        begun = time.monotonic()
        outcome = await client.get("/say", read)
        assert time.monotonic() - begun < LIMIT_S + SLACK_S
        if fault in WORDS:
            kind, words = WORDS[fault]
            assert isinstance(outcome, ServiceUnavailable)
            assert (outcome.kind, outcome.service) == (kind, "risk")
            assert words in outcome.why
            assert client.last_error == outcome.why
        p.risk.fault("")
        assert await client.get("/say", read) == SAID
        client.close()


@in_loop
async def test_a_service_that_is_not_there_is_unreachable_and_heard_again_when_it_is_back() -> None:
    with peers() as p:
        p.risk.away()
        client = client_of(p.risk.url)
        outcome = await client.get("/api/health", read)
        assert isinstance(outcome, ServiceUnavailable)
        assert outcome.kind == "unreachable"
        assert p.risk.url in outcome.why
        p.risk.back()
        assert await client.get("/api/health", read)
        assert (client.answered, client.failed) == (1, 1)
        client.close()


@in_loop
async def test_connections_are_kept_and_one_that_was_closed_meanwhile_costs_no_answer() -> None:
    with peers() as p:
        client = client_of(p.risk.url)
        for _ in range(5):
            assert await client.get("/api/health", read)
        assert p.risk.connections == 1
        p.risk.away()  # ends the idle connection; the client may not have noticed yet
        p.risk.back()
        assert await client.get("/api/health", read)
        assert client.failed == 0
        client.close()


@in_loop
async def test_after_three_failures_the_service_is_left_alone_and_why_is_said() -> None:
    with peers() as p:
        client = client_of(p.risk.url)
        p.risk.fault("500")
        for _ in range(FAILURES):
            await client.get("/api/health", read)
        asked = len(p.risk.requests)
        outcome = await client.get("/api/health", read)
        assert isinstance(outcome, ServiceUnavailable)
        assert (outcome.kind, outcome.why) == ("not-asked", "3 failures in a row, the last: HTTP 500")
        assert len(p.risk.requests) == asked
        assert client.not_asked == 1
        client.close()


@in_loop
async def test_a_service_that_says_no_is_there() -> None:
    """An unknown pair must not keep the known ones from being asked about."""
    with peers() as p:
        client = client_of(p.core.url)
        for _ in range(2 * FAILURES):
            outcome = await client.get("/api/pair/NOT_THERE", read)
            assert isinstance(outcome, ServiceUnavailable)
            assert outcome.refused
        assert await client.get("/api/health", read)
        client.close()


@in_loop
async def test_an_answer_nested_too_deep_or_compressed_is_refused() -> None:
    with peers() as p:
        client = client_of(p.risk.url)
        p.risk.answer("/deep", b"[" * 100_000 + b"]" * 100_000)
        outcome = await client.get("/deep", read)
        assert isinstance(outcome, ServiceUnavailable)
        assert outcome.kind == "nonsense"
        client.close()

    async def compressed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 3\r\n\r\n\x1f\x8b\x08")
        writer.close()

    async with await asyncio.start_server(compressed, "127.0.0.1", 0) as server:
        client = client_of(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        outcome = await client.get("/say", read)
        assert isinstance(outcome, ServiceUnavailable)
        assert "compressed (gzip)" in outcome.why
        client.close()


def test_a_name_that_never_resolves_ends_at_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(*_: Any, **__: Any) -> Any:
        await asyncio.Event().wait()

    async def ask() -> None:
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(loop, "getaddrinfo", never)
        client = client_of("http://risk.example:3003")
        begun = time.monotonic()
        outcome = await client.get("/api/health", read)
        assert isinstance(outcome, ServiceUnavailable)
        assert "no answer within" in outcome.why
        assert time.monotonic() - begun < LIMIT_S + SLACK_S
        client.close()

    asyncio.run(ask())  # not uvloop, whose resolver cannot be replaced


@in_loop
async def test_many_at_once_to_a_service_that_hangs_all_end_at_the_limit() -> None:
    with peers() as p:
        p.risk.fault("hang")
        client = client_of(p.risk.url)
        begun = time.monotonic()
        outcomes = await asyncio.gather(*(client.get("/api/health", read) for _ in range(200)))
        assert time.monotonic() - begun < LIMIT_S + 2 * SLACK_S
        assert all(isinstance(outcome, ServiceUnavailable) for outcome in outcomes)
        p.risk.fault("")
        assert await client.probe("GET", "/api/health", read)
        client.close()


@in_loop
async def test_a_call_that_is_called_off_counts_as_nothing() -> None:
    with peers() as p:
        p.risk.fault("hang")
        client = client_of(p.risk.url)
        for _ in range(FAILURES):
            task = asyncio.ensure_future(client.get("/api/health", read))
            await asked_again(p.risk, len(p.risk.requests))
            task.cancel()
            await asyncio.wait([task])
        p.risk.fault("")
        assert client.breaker.state == "closed"
        assert await client.get("/api/health", read)
        client.close()


async def asked_again(peer: Peer, before: int) -> Asked:
    while len(peer.requests) <= before:
        await asyncio.sleep(0.001)
    return peer.requests[-1]
