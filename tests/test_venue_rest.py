"""REST answers: whose fault a failure is, and what the headers tell the budgets."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Awaitable, Callable

import pytest
import uvloop

from tbx.core.kernel.clock import SECOND_NS, ManualClock
from tbx.core.model.errors import Nonsense, Refused, Unreachable, VenueError
from tbx.venues import rest as rest_module
from tbx.venues.binance.market import fetch_exchange_info
from tbx.venues.limits import binance_budgets
from tbx.venues.rest import WEIGHT, Rest

AHEAD_NS = 150 * SECOND_NS  # the venue's clock, of ours


class Host:
    """An HTTP server that gives one answer, raw, and keeps what it was asked."""

    def __init__(self, answer: bytes | None) -> None:
        self.answer = answer
        self.asked: list[str] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.asked.append(head.split(b" ")[1].decode())
        if self.answer is None:
            await reader.read()  # no answer until the client hangs up
        else:
            writer.write(self.answer)
        writer.close()


def answered(status: int, body: bytes = b"{}", **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(body)}", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def ask(
    host: Host, scenario: Callable[[Rest], Awaitable[object]], timeout_s: float = 5.0, troubles: list[str] | None = None
) -> tuple[object, Rest]:
    """What the scenario returns, and the client that it used."""
    used: list[Rest] = []
    troubles = [] if troubles is None else troubles

    async def body() -> object:
        server = await asyncio.start_server(host.serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        clock, base = ManualClock(), f"http://127.0.0.1:{port}/"
        used.append(
            Rest(
                clock,
                base,
                binance_budgets(),
                on_trouble=troubles.append,
                now_ns=lambda: clock.now_ns() + AHEAD_NS,
                timeout_s=timeout_s,
            )
        )
        try:
            return await scenario(used[0])
        finally:
            await used[0].aclose()
            server.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(body()), used[0]


def test_an_answer_is_its_bytes_and_its_headers_are_heard() -> None:
    host = Host(answered(200, b'{"serverTime":1}', X_MBX_USED_WEIGHT_1M="4711"))
    body, rest = ask(host, lambda rest: rest.fetch("/api/v3/time?x=1"))
    assert body == b'{"serverTime":1}' and host.asked == ["/api/v3/time?x=1"]
    assert rest.budgets.remaining(WEIGHT, rest.now_ns()) == 6_000 - 4_711


def test_the_weight_of_an_answer_counts_by_the_venues_clock() -> None:
    async def scenario(rest: Rest) -> None:
        rest.budgets.take(WEIGHT, 100, rest.clock.now_ns() + AHEAD_NS)  # as the order side does
        await rest.fetch("/x")

    _, rest = ask(Host(answered(200, X_MBX_USED_WEIGHT_1M="20")), scenario)
    assert rest.budgets.remaining(WEIGHT, rest.clock.now_ns() + AHEAD_NS) == 6_000 - 20 - 100


def test_a_compressed_answer_is_unpacked() -> None:
    host = Host(answered(200, gzip.compress(b"[1]"), Content_Encoding="gzip"))
    assert ask(host, lambda rest: rest.fetch("/x"))[0] == b"[1]"


@pytest.mark.parametrize(
    ("answer", "error", "said"),
    [
        pytest.param(
            answered(400, b'{"code":-1121,"msg":"Invalid symbol."}'),
            Refused,
            'HTTP 400 {"code":-1121,"msg":"Invalid symbol."}',
            id="400",
        ),
        pytest.param(answered(403, b"<html>WAF</html>"), Refused, "HTTP 403 <html>WAF</html>", id="403"),
        pytest.param(answered(502, b"<html>bad gateway</html>"), Unreachable, "HTTP 502", id="502"),
        pytest.param(answered(302, b"", Location="http://elsewhere"), Refused, "HTTP 302", id="no redirects"),
        pytest.param(b"", Unreachable, "disconnected", id="hangs up"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nshort", Unreachable, "peer", id="cut short"),
        pytest.param(b"\x00\x01 nonsense\r\n\r\n", Unreachable, "illegal", id="no HTTP"),
    ],
)
def test_a_failure_says_whose_it_is(answer: bytes, error: type[VenueError], said: str) -> None:
    with pytest.raises(error, match="/x: ") as caught:
        ask(Host(answer), lambda rest: rest.fetch("/x?secret=1"))
    assert said in str(caught.value) and "secret" not in str(caught.value)


def test_no_answer_in_time_is_unreachable() -> None:
    with pytest.raises(Unreachable, match="ReadTimeout"):
        ask(Host(None), lambda rest: rest.fetch("/x"), timeout_s=0.1)


@pytest.mark.parametrize(
    ("answer", "stop_s"),
    [
        pytest.param(answered(429, Retry_After="9"), 9, id="429"),
        pytest.param(answered(418, Retry_After="7200"), 7_200, id="418"),
        pytest.param(answered(418), 120, id="418 without a time"),
        pytest.param(answered(429, Retry_After="soon"), 60, id="429 with nonsense"),
        pytest.param(answered(418, Retry_After="9999999"), 120, id="418 with more than the longest ban"),
    ],
)
def test_a_host_that_says_wait_stops_the_budgets(answer: bytes, stop_s: int) -> None:
    async def scenario(rest: Rest) -> int:
        with pytest.raises(Unreachable, match=f"no requests for {stop_s} s"):
            await rest.fetch("/x")
        return rest.budgets.take(WEIGHT, 1, rest.clock.now_ns())

    assert ask(Host(answer), scenario)[0] == stop_s * SECOND_NS


def test_an_answer_without_end_is_nonsense(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rest_module, "ANSWER_BYTES_MAX", 1_000)
    with pytest.raises(Nonsense, match="more than 1000 bytes"):
        ask(Host(answered(200, b"x" * 2_000)), lambda rest: rest.fetch("/x"))


def test_get_answers_once_with_the_bytes_or_the_error_and_settles_the_weight() -> None:
    async def scenario(rest: Rest) -> list[bytes | VenueError]:
        answers: list[bytes | VenueError] = []
        assert rest.budgets.take(WEIGHT, 50, rest.now_ns()) == 0
        rest.get("/x", 50, answers.append)
        async with asyncio.timeout(5):
            while not answers:
                await asyncio.sleep(0.002)
        return answers

    answers, rest = ask(Host(answered(200, b"[]")), scenario)
    assert answers == [b"[]"] and rest.budgets.remaining(WEIGHT, rest.now_ns()) == 6_000
    answers, rest = ask(Host(answered(503)), scenario)
    assert isinstance(answers, list) and isinstance(answers[0], Unreachable)
    assert rest.budgets.remaining(WEIGHT, rest.now_ns()) == 6_000


def test_what_breaks_where_nobody_waits_is_told_and_the_asker_is_answered() -> None:
    troubles: list[str] = []
    answers: list[bytes | VenueError] = []

    async def scenario(rest: Rest) -> None:
        rest.get("/x", 1, breaks)
        async with asyncio.timeout(5):
            while not troubles:
                await asyncio.sleep(0.002)
        rest._request = None  # type: ignore[assignment, method-assign]  # a bug of ours
        rest.get("/y", 1, answers.append)
        async with asyncio.timeout(5):
            while not answers:
                await asyncio.sleep(0.002)

    def breaks(_: bytes | VenueError) -> None:
        raise RuntimeError("a bug")

    ask(Host(answered(200)), scenario, troubles=troubles)
    assert "/x broke: RuntimeError('a bug')" in troubles[0] and "/y broke: TypeError" in troubles[1]
    assert isinstance(answers[0], Unreachable) and len(troubles) == 2


def test_exchange_info_is_asked_for_whole_where_a_symbol_is_not_known() -> None:
    host = Host(answered(200, b'{"symbols":[]}'))
    assert ask(host, lambda rest: fetch_exchange_info(rest, ["ETHUSDT", "BTCUSDT"]))[0] == b'{"symbols":[]}'
    ask(host, lambda rest: fetch_exchange_info(rest, None))
    assert host.asked == [
        "/api/v3/exchangeInfo?symbols=%5B%22BTCUSDT%22%2C%22ETHUSDT%22%5D",
        "/api/v3/exchangeInfo",
    ]
    host.answer = answered(400, b'{"code":-1121,"msg":"Invalid symbol."}')
    with pytest.raises(Refused, match="Invalid symbol"):
        ask(host, lambda rest: fetch_exchange_info(rest, ["NOSUCH"]))
    assert host.asked[2:] == ["/api/v3/exchangeInfo?symbols=%5B%22NOSUCH%22%5D", "/api/v3/exchangeInfo"]
    host.answer = answered(503)
    with pytest.raises(Unreachable, match="the instruments of Binance cannot be read: .*HTTP 503"):
        ask(host, lambda rest: fetch_exchange_info(rest))


def test_closing_calls_off_what_is_on_its_way() -> None:
    async def scenario(rest: Rest) -> list[bytes | VenueError]:
        answers: list[bytes | VenueError] = []
        rest.get("/x", 1, answers.append)
        await asyncio.sleep(0)
        await rest.aclose()
        return answers

    assert ask(Host(None), scenario)[0] == []
