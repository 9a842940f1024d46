"""The client of the risk service: the manual's question and answer, and what an entry is told when there is none."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import MsgspecError, json

from tbx.core.kernel.clock import SystemClock
from tbx.core.kernel.kernel import Kernel
from tbx.core.risk.advice import RiskAnswer, RiskQuestion
from tbx.core.state.memory import MemoryStore
from tbx.strategies_bridge.services.breaker import FAILURES
from tbx.strategies_bridge.services.risk import IN_FLIGHT_MAX, SIZE_MAX, TIMEOUT_S, RiskClient, answer_of

from .redis_fixtures import in_loop, until
from .service_peers import POSITION_SIZE, Peers, peers

AWAY = "risk_service_away"
ENTRY = RiskQuestion(
    pair="RVN_USDT",
    side="buy",
    quantity=Decimal(1000),
    entry_price=Decimal("0.0245"),
    stop_loss=Decimal("0.023"),
    take_profit=Decimal("0.03"),
    confidence=Decimal("0.85"),
)


class Asking:
    """A risk client with its kernel, and what it told."""

    def __init__(self, url: str, *, relied_on: bool = True) -> None:
        loop = asyncio.get_running_loop()
        clock = SystemClock(loop, time.time_ns)
        store = MemoryStore(loop.call_soon)
        self.kernel = Kernel(clock, store.writer(store.acquire()))
        self.told: list[str] = []
        self.client = RiskClient(url, clock, self.kernel, relied_on=relied_on, tell=self.told.append)
        self.answers: list[RiskAnswer] = []

    async def ask(self, question: RiskQuestion = ENTRY) -> RiskAnswer:
        before = len(self.answers)
        self.client.ask(question, self.answers.append)
        assert len(self.answers) == before, "answered inside of ask"
        await until(lambda: len(self.answers) > before, "an answer")
        return self.answers[-1]

    @property
    def away(self) -> bool:
        return self.kernel.conditions.holds(AWAY)


@asynccontextmanager
async def asking(p: Peers, *, relied_on: bool = True) -> AsyncIterator[Asking]:
    found = Asking(p.risk.url, relied_on=relied_on)
    try:
        yield found
    finally:
        await found.client.stop()
        found.client.http.close()
        assert not found.told


@in_loop
async def test_the_question_is_the_manuals_and_the_answer_exact() -> None:
    with peers() as p:
        async with asking(p) as risk:
            p.risk.recommend("750.000000000000000001", riskAmount=3, method="kelly")
            assert await risk.ask() == RiskAnswer(recommended=Decimal("750.000000000000000001"))
            p.risk.recommend(750.5)
            assert await risk.ask() == RiskAnswer(recommended=Decimal("750.5"))
        (first, _) = p.risk.asked(POSITION_SIZE)
        assert first.method == "POST"
        assert first.headers["content-type"] == "application/json"
        exits = {"stopLoss": 0.023, "takeProfit": 0.03}
        assert first.body == {
            "pair": "RVN_USDT", "signal": "BUY", "confidence": 0.85, "entryPrice": 0.0245, **exits
        }  # fmt: skip


@pytest.mark.parametrize("confidence", [None, Decimal(0)])
@in_loop
async def test_what_is_not_known_is_left_out_and_confidence_is_a_half(confidence: Decimal | None) -> None:
    with peers() as p:
        async with asking(p) as risk:
            bare = RiskQuestion(
                pair="RVN_USDT", side="buy", quantity=Decimal(1), entry_price=None, confidence=confidence
            )
            await risk.ask(bare)
        assert p.risk.requests[-1].body == {"pair": "RVN_USDT", "signal": "BUY", "confidence": 0.5}


SIZE_OF_1000 = {"recommended": {"positionSize": 1000}}
# fault -> what the failure says
FAILURE = {
    "garbage": "JSON",
    "wrong": "Expected `object`",
    "nan": "JSON",
    "text": "recommended.positionSize",
    "huge": "more than",
    "500": "HTTP 500",
    "404": "HTTP 404",
    "redirect": "redirects",
    "slow": "no answer within 500 ms",
    "drip": "no answer within 500 ms",
    "hang": "no answer within 500 ms",
    "close": "broke off",
}


@pytest.mark.parametrize("fault", FAILURE)
@in_loop
async def test_a_fault_is_a_failure_in_words_once_and_within_the_limit_of_the_manual(fault: str) -> None:
    with peers() as p:
        async with asking(p) as risk:
            p.risk.recommend(500)
            await risk.ask()
            p.risk.fault(fault)
            begun = time.monotonic()
            answer = await risk.ask()
            assert time.monotonic() - begun < TIMEOUT_S + 0.5
            assert answer.recommended is None
            assert FAILURE[fault] in answer.failure
            assert risk.away
            p.risk.fault("")
            assert await risk.ask() == RiskAnswer(recommended=Decimal(500))
            assert not risk.away
        assert len(risk.answers) == 3


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "recommendations"),
        ({"recommendations": {}}, "recommended"),
        ({"recommendations": {"recommended": {"size": 1}}}, "positionSize"),
        ({"recommendations": {"recommended": {"positionSize": None}}}, "positionSize"),
        ({"recommendations": {"recommended": {"positionSize": True}}}, "positionSize"),
        ({"recommendations": {"recommended": {"positionSize": "Infinity"}}}, 'positionSize of "Infinity"'),
        ({"recommendations": {"recommended": {"positionSize": "NaN"}}}, 'positionSize of "NaN"'),
        ({"recommendations": {"recommended": {"positionSize": " 50"}}}, 'positionSize of " 50"'),
        ({"recommendations": {"recommended": {"positionSize": "1_000"}}}, 'positionSize of "1_000"'),
        ({"recommendations": {"recommended": {"positionSize": "1e30"}}}, "1e+18 at most"),
    ],
)
def test_an_answer_of_another_shape_is_refused_by_name(body: Any, words: str) -> None:
    with pytest.raises((ValueError, MsgspecError)) as refused:
        answer_of(json.encode(body))
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"approved": False, "reason": "no way"}, RiskAnswer(approved=False, reason="no way")),
        ({"approved": False}, RiskAnswer(approved=False)),
        (
            {"approved": False, "adjustedOrder": {"quantity": 300, "pair": "RVN_USDT"}, "reason": "too large"},
            RiskAnswer(recommended=Decimal(300), approved=False, reason="too large"),
        ),
        (
            {"approved": False, "adjustedOrder": {"quantity": 300}, "recommendations": SIZE_OF_1000},
            RiskAnswer(recommended=Decimal(300), approved=False),
        ),
        ({"approved": True, "recommendations": SIZE_OF_1000}, RiskAnswer(recommended=Decimal(1000))),
        ({"recommendations": SIZE_OF_1000, "adjustedOrder": {"quantity": 2000}}, RiskAnswer(recommended=Decimal(1000))),
        (
            {"recommendations": {"recommended": {"positionSize": -5}}},
            RiskAnswer(approved=False, reason="a size below zero (-5)"),
        ),
    ],
)
def test_a_no_is_a_no_and_of_two_sizes_the_smaller_counts(body: Any, expected: RiskAnswer) -> None:
    assert answer_of(json.encode(body)) == expected


@given(st.binary(max_size=40) | st.text(max_size=20).map(str.encode) | st.floats().map(lambda n: str(n).encode()))
def test_whatever_stands_for_the_size_it_is_a_size_or_refused(size: bytes) -> None:
    for value in (size, b'"%b"' % size):
        try:
            found = answer_of(b'{"recommendations":{"recommended":{"positionSize":%b}}}' % value)
        except (ValueError, MsgspecError):
            continue
        if not found.approved:
            assert found.recommended is None
            assert "below zero" in found.reason
            continue
        assert found.recommended is not None
        assert found.recommended.is_finite()
        assert 0 <= found.recommended <= SIZE_MAX


@in_loop
async def test_after_three_failures_in_a_row_entries_do_not_wait_any_more() -> None:
    with peers() as p:
        async with asking(p) as risk:
            p.risk.fault("hang")
            await asyncio.gather(*(ask_and_wait(risk) for _ in range(FAILURES)))
            begun = time.monotonic()
            answer = await risk.ask()
            assert time.monotonic() - begun < TIMEOUT_S / 2
            assert answer.failure == "3 failures in a row, the last: no answer within 500 ms"
            assert risk.away


async def ask_and_wait(risk: Asking) -> RiskAnswer:
    done: asyncio.Future[RiskAnswer] = asyncio.get_running_loop().create_future()
    risk.client.ask(ENTRY, done.set_result)
    return await done


@in_loop
async def test_more_than_a_hundred_questions_at_once_are_told_that_it_is_busy() -> None:
    with peers() as p:
        async with asking(p) as risk:
            p.risk.fault("hang")
            answers = await asyncio.gather(*(ask_and_wait(risk) for _ in range(IN_FLIGHT_MAX + 20)))
            busy = [answer for answer in answers if answer.failure.startswith("busy: 100 questions")]
            assert len(busy) == 20
            assert all(answer.recommended is None for answer in answers)


@in_loop
async def test_questions_on_their_way_are_answered_before_it_stops_and_later_ones_are_refused() -> None:
    with peers() as p:
        async with asking(p) as risk:
            p.risk.answer(POSITION_SIZE, {"recommendations": {"recommended": {"positionSize": 5}}}, delay_s=0.1)
            risk.client.ask(ENTRY, risk.answers.append)
            await risk.client.stop()
            assert risk.answers == [RiskAnswer(recommended=Decimal(5))]
            assert (await risk.ask()).failure == "the service is stopping"


@in_loop
async def test_one_that_was_never_seen_is_not_relied_on_and_nothing_is_wrong_then() -> None:
    with peers() as p:
        p.risk.away()
        async with asking(p, relied_on=False) as risk:
            assert (await risk.ask()).recommended is None
            assert not risk.client.relied_on
            assert not risk.away
            p.risk.back()
            risk.client.health_seen(None)
            assert risk.client.relied_on
            p.risk.away()
            await risk.ask()
            assert risk.away


@in_loop
async def test_health_ends_the_condition_only_where_there_was_no_connection_at_all() -> None:
    with peers() as p:
        async with asking(p) as risk:
            p.risk.away()
            await risk.ask()
            assert risk.away
            risk.client.health_seen(None)
            assert not risk.away
            p.risk.back()
            p.risk.fault("garbage", path=POSITION_SIZE)
            await risk.ask()
            risk.client.health_seen(None)
            assert risk.away, "it answers health, and still no question"


@in_loop
async def test_a_caller_that_breaks_is_heard() -> None:
    with peers() as p:
        risk = Asking(p.risk.url)

        def broken(_: RiskAnswer) -> None:
            raise RuntimeError("a bug")

        risk.client.ask(ENTRY, broken)
        await until(lambda: bool(risk.told), "the fault to be told")
        assert risk.told == ["the answer of the risk service broke: RuntimeError('a bug')"]
        await risk.client.stop()
        risk.client.http.close()
