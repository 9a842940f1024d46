"""The risk service (RISK_SERVICE_URL): the largest size that it recommends for an entry.

    POST /api/risk/position-size
    {"pair": "RVN_USDT", "signal": "BUY", "confidence": 0.5, "entryPrice": 0.0245, "stopLoss": 0.023}

    {"recommendations": {"recommended": {"positionSize": 5000, ...}}}
    {"approved": false, "reason": "..", "adjustedOrder": {"quantity": 300}}      as the manual says it

A no is a no: with `approved: false` no more than the smallest size that is given goes out, and nothing where there is
none; a size below zero is a no as well.

Always true here: whoever asks is called back exactly once, later, within TIMEOUT_S; an answer is a finite number from
0 to SIZE_MAX, or a failure in words. Fields that are not known (a price, an exit) are left out of the question.
"""

import asyncio
import re
from collections.abc import Callable
from decimal import Decimal
from typing import Final

import msgspec

from ...core.kernel.clock import Clock
from ...core.kernel.kernel import Kernel
from ...core.kernel.latency import Latency
from ...core.kernel.outbox import encode_document
from ...core.model.exact import ZERO
from ...core.risk.advice import RiskAnswer, RiskQuestion
from .client import ServiceClient, ServiceUnavailable

POSITION_SIZE: Final = "/api/risk/position-size"
TIMEOUT_S: Final = 0.5  # of the manual: an entry waits no longer
IN_FLIGHT_MAX: Final = 100
SIZE_MAX: Final = Decimal("1e18")
NUMBER: Final = re.compile(rb'"?-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?"?')  # what Decimal takes besides is no number
REASON_MAX: Final = 200  # characters of what it says
SHOWN_MAX: Final = 30  # characters of what is refused
UNSURE: Final = Decimal("0.5")  # where the signal has no confidence, or none above zero; as in the manual
AWAY: Final = "risk_service_away"


class Body(msgspec.Struct, omit_defaults=True, rename="camel"):
    """The question as it is sent."""

    pair: str
    signal: str  # BUY or SELL
    confidence: Decimal
    entry_price: Decimal | None = None
    stop_loss: Decimal | None = None
    take_profit: Decimal | None = None


class Recommended(msgspec.Struct, rename="camel"):
    """The part of the answer that is used; a number, or decimal text."""

    position_size: msgspec.Raw


class Recommendations(msgspec.Struct):
    """Around it."""

    recommended: Recommended


class Adjusted(msgspec.Struct):
    """An order that the service would let through."""

    quantity: msgspec.Raw


class Sized(msgspec.Struct, rename="camel"):
    """The whole answer."""

    recommendations: Recommendations | None = None
    approved: bool | None = None
    reason: str | None = None
    adjusted_order: Adjusted | None = None


_read_sized = msgspec.json.Decoder(Sized).decode
_read_number = msgspec.json.Decoder(Decimal).decode


def answer_of(body: bytes) -> RiskAnswer:
    """Of the body of an answer. Raises ValueError or msgspec's errors."""
    said = _read_sized(body)
    sizes = []
    if said.recommendations is not None:
        raw = said.recommendations.recommended.position_size
        sizes.append(_size("recommendations.recommended.positionSize", bytes(raw)))
    if said.adjusted_order is not None:
        sizes.append(_size("adjustedOrder.quantity", bytes(said.adjusted_order.quantity)))
    approved, reason = said.approved is not False, (said.reason or "")[:REASON_MAX]
    if not sizes and approved:
        raise ValueError("no recommendations.recommended.positionSize")
    least = min(sizes, default=None)
    if least is not None and least < 0:
        return RiskAnswer(approved=False, reason=f"a size below zero ({least:.6g})")
    return RiskAnswer(recommended=least, approved=approved, reason=reason)


def _size(name: str, raw: bytes) -> Decimal:
    if NUMBER.fullmatch(raw) is None:
        raise ValueError(f"{name} of {raw[:SHOWN_MAX].decode(errors='replace')}: expected a number from 0")
    size = _read_number(raw)
    if not size.is_finite():
        raise ValueError(f"{name} of {size:.30}: expected a number from 0")
    if size > SIZE_MAX:
        raise ValueError(f"{name} of {size:.3e}: expected {SIZE_MAX:.0e} at most")
    return size or ZERO


class RiskClient:
    """Asks the risk service. `relied_on`: whether orders are cut while it does not answer."""

    def __init__(self, url: str, clock: Clock, kernel: Kernel, *, relied_on: bool, tell: Callable[[str], None]) -> None:
        """`relied_on` False: it is once it has been seen. `tell` hears what breaks where nobody waits."""
        self.http = ServiceClient("risk", url, clock, timeout_s=TIMEOUT_S)
        self.relied_on = relied_on
        self.latency = Latency()  # of the questions, failures too
        self._clock = clock
        self._kernel = kernel
        self._tell = tell
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False
        self._gone = False  # the condition holds as there is no connection: that health answers is the end of it

    def ask(self, question: RiskQuestion, done: Callable[[RiskAnswer], None]) -> None:
        """`AskRisk` of the core. Costs the caller no waiting, whatever the service does."""
        busy = ""
        if self._closing:
            busy = "the service is stopping"
        elif len(self._tasks) >= IN_FLIGHT_MAX:
            busy = f"busy: {IN_FLIGHT_MAX} questions wait for answers already"
        if busy:
            self._clock.call_soon(done, RiskAnswer(failure=busy))
            return
        task = asyncio.get_running_loop().create_task(self._ask(question, done))
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    async def position_size(self, question: RiskQuestion) -> RiskAnswer:
        """Ask and wait for it."""
        begun_ns = self._clock.now_ns()
        answer = await self.http.post(POSITION_SIZE, body_of(question), answer_of)
        if isinstance(answer, ServiceUnavailable):
            if answer.kind != "not-asked":
                self.latency.add(self._clock.now_ns() - begun_ns)
                self._away(answer)
            return RiskAnswer(failure=answer.why)
        self.latency.add(self._clock.now_ns() - begun_ns)
        self.relied_on = True
        self._back()
        return answer

    def health_seen(self, failure: ServiceUnavailable | None) -> None:
        """What the last look at its health found; None: it answered."""
        if failure is None:
            self.relied_on = True
            if self._gone:
                self._back()
        elif not self._kernel.conditions.holds(AWAY):
            self._away(failure)
            self._gone = True

    async def stop(self) -> None:
        """Take no more questions, and wait until those on their way are answered, which their limit bounds."""
        self._closing = True
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _ask(self, question: RiskQuestion, done: Callable[[RiskAnswer], None]) -> None:
        try:
            answer = await self.position_size(question)
        except Exception as error:  # a bug here: the order must not wait for good
            self._tell(f"asking the risk service broke: {error!r}")
            answer = RiskAnswer(failure=f"{type(error).__name__} in the service")
        done(answer)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._tell(f"the answer of the risk service broke: {error!r}")

    def _away(self, failure: ServiceUnavailable) -> None:
        if self.relied_on:
            self._gone = failure.kind == "unreachable"
            self._kernel.conditions.begin(AWAY, failure.why)
            self._kernel.flush_soon()

    def _back(self) -> None:
        self._gone = False
        if self._kernel.conditions.holds(AWAY):
            self._kernel.conditions.end(AWAY)
            self._kernel.flush_soon()


def body_of(question: RiskQuestion) -> bytes:
    """The question as the manual sends it."""
    return encode_document(
        Body(
            question.pair,
            question.side.upper(),
            question.confidence or UNSURE,
            question.entry_price,
            question.stop_loss,
            question.take_profit,
        )
    )
