"""Who gets in: hosts, origins, keys, rates, content types, sizes; and what everybody else is told."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tbx.core.setting_values import ApiKey
from tbx.http.auth import BUCKETS_MAX, RateLimit, find_key, presented_key
from tbx.http.gate import host_name
from tbx.http.problems import CODES
from tbx.http.wire import BODY_MAX

from .redis_fixtures import in_loop
from .service_fixtures import Served, a_service

pytestmark = pytest.mark.connectivity
BODY = b'{"pair":"RVN_USDT","side":"buy","type":"market","quantity":1000}'


def keys(**scopes: str) -> dict[str, str]:
    """API_KEYS of keys that are called as they are written."""
    rows = (f"{name}:{hashlib.sha256(name.encode()).hexdigest()}:{scope}" for name, scope in scopes.items())
    return {"API_KEYS": ";".join(rows), "RATE_LIMIT": "0"}


def code(answer: Any) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.status_code, answer.json()["code"]


async def raw(service: Served, request: bytes) -> bytes:
    """What a client gets that writes its own HTTP."""
    reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
    writer.write(request)
    answer = await reader.read(65_536)
    writer.close()
    return answer


@in_loop
async def test_only_configured_host_names_are_answered(tmp_path: Path) -> None:
    async with a_service(tmp_path) as service:
        for host in ("localhost", "LOCALHOST:3004", "127.0.0.1:1", "[::1]:3004", "[0:0:0:0:0:0:0:1]"):
            assert (await service.http.get("/livez", headers={"host": host})).status_code == 200, host
        for host in ("evil.example", "localhost.evil.example", "127.0.0.1.nip.io", "localhost:x", "[::1", "", "::1"):
            answer = await service.http.get("/livez", headers={"host": host})
            assert code(answer) == (403, "HOST_NOT_ALLOWED"), host
        twice = await raw(service, b"GET /livez HTTP/1.1\r\nHost: evil\r\nHost: localhost\r\n\r\n")
        assert twice.startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize(
    ("host", "name"),
    [
        (b"a", "a"),
        (b"A.b:80", "a.b"),
        (b"[::1]", "::1"),
        (b"[::1]:80", "::1"),
        (b"[::1]x", None),
        (b"[x]", None),
        (b":80", None),
        (b"a:b", None),
        (b"\xff", "ÿ"),
    ],
)
def test_a_host_header_is_a_name_with_or_without_port(host: bytes, name: str | None) -> None:
    assert host_name(host) == name


@in_loop
async def test_web_pages_from_elsewhere_are_kept_out_and_the_dashboard_is_let_in(tmp_path: Path) -> None:
    async with a_service(tmp_path) as service:
        for origin in ("https://evil.example", "null", "http://localhost:3005.evil.example"):
            answer = await service.http.post("/api/portfolio/refresh", headers={"origin": origin})
            assert code(answer) == (403, "ORIGIN_NOT_ALLOWED")
        dashboard = {"origin": "http://localhost:3005"}
        answer = await service.http.get("/api/health", headers=dashboard)
        assert answer.headers["access-control-allow-origin"] == "http://localhost:3005"
        assert answer.headers["vary"] == "origin"
        asking = dashboard | {"access-control-request-method": "POST"}
        preflight = await service.http.options("/api/orders", headers=asking)
        assert preflight.status_code == 204
        assert "POST" in preflight.headers["access-control-allow-methods"]
        own = {"origin": f"http://127.0.0.1:{service.port}"}
        assert (await service.http.get("/api/health", headers=own)).status_code == 200


@in_loop
async def test_a_body_must_be_declared_as_json(tmp_path: Path) -> None:
    async with a_service(tmp_path) as service:
        latin = "application/json; charset=latin-1"
        for kind in ("text/plain", "application/x-www-form-urlencoded", latin, "json", None):
            headers = {"content-type": kind} if kind else {}
            answer = await service.http.post("/api/orders", content=BODY, headers=headers)
            assert code(answer) == (415, "NOT_JSON_CONTENT"), kind
        for kind in ("application/json", "Application/JSON; Charset=UTF-8", "application/vnd.x+json"):
            answer = await service.http.post("/api/orders", content=BODY, headers={"content-type": kind})
            assert answer.status_code == 201, kind


@in_loop
async def test_a_body_beyond_the_bound_is_refused_however_it_comes(tmp_path: Path) -> None:
    async with a_service(tmp_path) as service:
        headers = {"content-type": "application/json"}

        async def pieces(count: int) -> AsyncIterator[bytes]:
            for _ in range(count):
                yield b" " * 1024

        for content in (b" " * (BODY_MAX + 1), pieces(65), b" " * 5_000_000):
            answer = await service.http.post("/api/orders", content=content, headers=headers)
            assert code(answer) == (413, "BODY_TOO_LARGE")
        padded = BODY + b" " * (BODY_MAX - len(BODY))
        assert (await service.http.post("/api/orders", content=padded, headers=headers)).status_code == 201

        async def slowly() -> AsyncIterator[bytes]:
            for byte in BODY:
                yield bytes([byte])

        assert (await service.http.post("/api/orders", content=slowly(), headers=headers)).status_code == 201


@in_loop
async def test_a_caller_that_hangs_up_in_the_middle_changes_nothing(tmp_path: Path) -> None:
    async with a_service(tmp_path) as service:
        _, writer = await asyncio.open_connection("127.0.0.1", service.port)
        writer.write(b"POST /api/orders HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        assert (await service.http.get("/api/orders")).json()["orders"] == []
        assert service.log.lines == []


@in_loop
async def test_garbage_on_the_socket_leaves_the_service_serving(tmp_path: Path) -> None:
    async with a_service(tmp_path) as service:
        odd_path = b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n"
        for request in (b"\x00" * 100 + b"\r\n\r\n", b"GET / HTTP/9\r\n\r\n", odd_path):
            assert not (await raw(service, request)).startswith(b"HTTP/1.1 5")
        assert (await service.http.get("/livez")).status_code == 200


@in_loop
async def test_paths_and_methods_that_are_not_there_are_problems_too(tmp_path: Path) -> None:
    async with a_service(tmp_path) as service:
        for path in ("/", "/api", "/api/orders/", "/api/orders/a/b", "/API/orders", "/ws", "/%00", "/api/book/"):
            assert code(await service.http.get(path)) == (404, "NOT_FOUND"), path
        answer = await service.http.put("/api/orders")
        assert code(answer) == (405, "METHOD_NOT_ALLOWED")
        assert answer.headers["allow"] == "DELETE, GET, HEAD, POST"
        assert (await service.http.head("/api/orders")).status_code == 200
        assert (await service.http.request("BREW", "/api/orders")).status_code == 400  # by the server, before us


@in_loop
async def test_every_answer_carries_the_security_headers(tmp_path: Path) -> None:
    async with a_service(tmp_path) as service:
        for path in ("/livez", "/nope", "/docs", "/openapi.json"):
            headers = (await service.http.get(path)).headers
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["content-security-policy"].startswith("default-src 'none'")
            assert headers["cache-control"] == "no-store"
            assert "server" not in headers


@in_loop
async def test_keys_open_what_their_scopes_say(tmp_path: Path) -> None:
    async with a_service(tmp_path, keys(looker="read", trader="read+trade")) as service:
        http = service.http
        json = {"content-type": "application/json"}
        for path in ("/livez", "/readyz", "/docs", "/openapi.json"):
            assert (await http.get(path)).status_code == 200
        for headers in ({}, {"x-api-key": "wrong"}, {"authorization": "Basic looker"}, {"authorization": "Bearer"}):
            answer = await http.get("/api/orders", headers=headers)
            assert code(answer) == (401, "UNAUTHORIZED")
            assert answer.headers["www-authenticate"].startswith("Bearer")
            assert "wrong" not in answer.text
        both = {"x-api-key": "looker", "authorization": "Bearer trader"}
        assert code(await http.get("/api/orders", headers=both)) == (401, "UNAUTHORIZED")
        for headers in ({"x-api-key": "looker"}, {"authorization": "bearer looker"}):
            assert (await http.get("/api/orders", headers=headers)).status_code == 200
            answer = await http.post("/api/orders", content=BODY, headers=headers | json)
            assert code(answer) == (403, "FORBIDDEN")
        answer = await http.post("/api/orders", content=BODY, headers={"x-api-key": "trader"} | json)
        assert answer.status_code == 201


@in_loop
async def test_a_caller_over_its_rate_is_told_when_to_come_back(tmp_path: Path) -> None:
    async with a_service(tmp_path, keys(a="read", b="read") | {"RATE_LIMIT": "5"}) as service:
        answers = [await service.http.get("/api/orders", headers={"x-api-key": "a"}) for _ in range(20)]
        first, last = answers[0], answers[-1]
        assert first.status_code == 200
        assert first.headers["ratelimit-policy"] == '"default";q=5;w=1'
        assert first.headers["ratelimit"] == '"default";r=4;t=1'
        assert code(last) == (429, "RATE_LIMITED")
        assert last.headers["retry-after"] == "1"
        assert (await service.http.get("/api/orders", headers={"x-api-key": "b"})).status_code == 200


def test_a_bucket_refills_steadily_and_callers_are_bounded() -> None:
    limit = RateLimit(10)
    assert [limit.take("a", 0.0)[0] for _ in range(11)] == [True] * 10 + [False]
    allowed, left, wait_s = limit.take("a", 0.05)
    assert (allowed, left) == (False, 0)
    assert wait_s == pytest.approx(0.05)
    assert limit.take("a", 0.1001)[0]
    assert limit.take("a", 100.0)[1] == 9
    for number in range(BUCKETS_MAX + 10):
        limit.take(f"caller {number}", 100.0)
    assert len(limit._buckets) == BUCKETS_MAX


def test_keys_are_known_by_their_digest() -> None:
    known = [ApiKey(name, hashlib.sha256(name.encode()).digest(), frozenset({"read"})) for name in ("a", "b")]
    found = find_key(known, b"b")
    assert found is not None
    assert found.name == "b"
    assert find_key(known, b"c") is None
    assert find_key([], b"a") is None


@pytest.mark.parametrize(
    ("authorization", "x_api_key", "key"),
    [
        (b"Bearer k", b"", b"k"),
        (b"", b" k ", b"k"),
        (b"Bearer k", b"k", b"k"),
        (b"Bearer k", b"j", None),
        (b"Basic k", b"", None),
        (b"", b"", None),
    ],
)
def test_a_key_comes_in_either_header(authorization: bytes, x_api_key: bytes, key: bytes | None) -> None:
    assert presented_key(authorization, x_api_key) == key


@in_loop
async def test_a_fault_is_a_bare_500_and_one_line_in_the_log(tmp_path: Path, monkeypatch: Any) -> None:
    async with a_service(tmp_path) as service:

        def broken(*_: object) -> None:
            raise ZeroDivisionError("secret detail")

        monkeypatch.setattr(service.app.api.portfolio, "view", broken)
        answer = await service.http.get("/api/portfolio")
        assert code(answer) == (500, "INTERNAL")
        assert "secret detail" not in answer.text
        assert [line[1] for line in service.log.lines] == ["REQUEST_FAILED"]


def test_every_code_that_is_raised_here_is_explained(root: Path) -> None:
    text = "".join(path.read_text() for path in (root / "http").glob("*.py"))
    raised = set(re.findall(r'(?:Problem\(\s*\d+,|\.wrong\([^,]+,|say_error\([^,]+,|code=)\s*"([A-Z_]+)"', text))
    assert "INVALID_PAIR" in raised
    assert raised <= CODES.keys(), "explain these in problems.CODES"
