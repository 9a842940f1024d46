"""Requests that change something at the venue: placing, cancelling, amending, replacing orders and order lists.

Always true here: of each part of a request (an order placed, an order cancelled) its errand tells once: its messages, a
refusal where that is proven, or VenueUnknown. What a report has told before the reply is not told again, and a reply
that stays away after it is no loss. Only what was turned away for our clock is sent a second time, once.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

from ...core.kernel.clock import MS_NS, SECOND_NS, Clock
from ...core.model.errors import Nonsense
from ...core.model.messages import VenueUnknown
from .codec import ENDED, ExecutionReport, Reply
from .codec_replies import (
    read_amended,
    read_cancelled,
    read_cancelled_list,
    read_placed,
    read_placed_list,
    read_replaced,
)
from .codec_reports import amended, cancelled, placed, placed_list
from .codec_requests import ReplaceOrder
from .connection import Connection, NotSent
from .errors import TEMPORARY_UNAVAILABLE, ClockOff, KeyTrouble, Unknown, Verdict, classify_fault
from .inflight import Errand, Kind, Part, Request
from .outcomes import failed, not_changed, not_placed, rejected, replaced, unknown
from .scripts import AHEAD_MS

T = TypeVar("T")
NEVER_MS: Final = 1 << 62  # no question is ever younger
# "The API has a timeout of 10 seconds for processing requests": longer than that it answers -1007, and may still do it.
# Source: "General information" of web-socket-api.md in binance-spot-api-docs.
ENGINE_MAX_MS: Final = 10_000
AGAIN_MAX_NS: Final = 2 * SECOND_NS  # what waits longer for our clock to be measured was meant for another market
MEMORY_MAX: Final = 10_000  # of each thing that is remembered for a while; the oldest is forgotten


class Errands:
    """Sends errands and tells what became of them."""

    def __init__(
        self,
        venue: str,
        clock: Clock,
        connection: Connection,
        tell: Callable[[Any], None],
        *,
        on_blocked: Callable[[Verdict], None],
        sure: Callable[[], bool] = lambda: True,
    ) -> None:
        """`tell` gets each message; `on_blocked` that a key or, twice in a row, our clock was refused. `sure` tells
        whether this process is the one that may send."""
        self.venue = venue
        self.clock = clock
        self.connection = connection
        self.tell = tell
        self.on_blocked = on_blocked
        self.sure = sure
        self.unknown_count = 0
        # client id of an order whose outcome is not known -> when its frame is dealt with at the latest
        self._lost_ms: dict[str, int] = {}
        self._forgotten_ms = 0  # the latest of those that were forgotten
        self._waiting: set[str] = set()  # orders that go out again when the clock is measured
        self._awaited: dict[Kind, dict[str, Request]] = {"place": {}, "cancel": {}, "amend": {}}
        self._places = self._awaited["place"]
        self._amendments: dict[tuple[str, int], None] = {}  # (symbol, execution id) of those that were told
        self._done = self._answered  # bound once

    # --- out

    def send(self, errand: Errand) -> None:
        if not self.sure():
            reason = "not sent: another process may have taken over from this one"
            self.not_sent(errand.parts, TEMPORARY_UNAVAILABLE, reason)
            return
        try:
            request = self.connection.post(errand, self._done)
        except NotSent as error:
            self.not_sent(errand.parts, error.code, error.reason)
            return
        if self.connection.inflight.holds(request.number):  # else the link broke as it was sent
            for kind, client_id in errand.parts:
                self._awaited[kind][client_id] = request

    def not_sent(self, parts: Sequence[Part], code: str, reason: str) -> None:
        now_ns = self.clock.now_ns()
        for kind, client_id in parts:
            if kind == "place":
                self.tell(rejected(self.venue, client_id, code, reason, now_ns))
            else:
                self.tell(failed(self.venue, client_id, kind, code, reason, now_ns))

    # --- back

    def settle(self, report: ExecutionReport, client_id: str) -> None:
        """A report has told what became of requests about this order."""
        if client_id in self._places:
            self._settle("place", client_id)
        if self._lost_ms:
            self._lost_ms.pop(client_id, None)
        kind, ended = report.kind, report.status in ENDED
        if ended or kind == "CANCELED":
            self._settle("cancel", client_id)
        if ended or kind == "REPLACED":
            self._settle("amend", client_id)

    def _settle(self, kind: Kind, client_id: str) -> None:
        request = self._awaited[kind].get(client_id)
        if request is None:
            return
        if request.settled is None:
            request.settled = {client_id}
        else:
            request.settled.add(client_id)

    def first_amendment(self, symbol: str, execution_id: int) -> bool:
        """Whether this amendment has not been told yet: its reply and its report both tell it."""
        key = symbol, execution_id
        if key in self._amendments:
            return False
        remember(self._amendments, key, None)
        return True

    def _answered(self, request: Request, reply: Reply | None, reason: str) -> None:
        errand = request.errand
        assert errand is not None
        for kind, client_id in errand.parts:
            if self._awaited[kind].get(client_id) is request:
                del self._awaited[kind][client_id]
        parts: Sequence[Part] = errand.parts
        if request.settled is not None:
            parts = [part for part in parts if part[1] not in request.settled]
            if not parts:
                return
        if reply is None:
            self._lost(request, parts, reason)
            return
        try:
            messages = errand.read(errand, reply)
        except Nonsense as error:
            self.connection.note_nonsense(f"the reply to request {request.number} cannot be understood: {error}")
            self._lost(request, parts, f"the reply cannot be understood: {error}")
            return
        if messages is None:
            self._refused(request, parts, reply)
        else:
            for message in messages:
                if type(message) is VenueUnknown:
                    self._note_lost(request, message, told=True)
                self.tell(message)

    def _refused(self, request: Request, parts: Sequence[Part], reply: Reply) -> None:
        errand = request.errand
        assert errand is not None
        assert reply.error is not None
        verdict = classify_fault(reply.status, reply.error, errand.asked)
        if isinstance(verdict, ClockOff) and not errand.repeated:
            self._again(errand)
            return
        if isinstance(verdict, KeyTrouble | ClockOff):
            self.on_blocked(verdict)
        if isinstance(verdict, Unknown):
            self._lost(request, parts, verdict.reason, told=True)
            return
        now_ns = self.clock.now_ns()
        for kind, client_id in parts:
            if kind == "place":
                self.tell(not_placed(self.venue, client_id, verdict, now_ns))
            else:
                self.tell(not_changed(self.venue, client_id, kind, verdict, now_ns))

    def _again(self, errand: Errand) -> None:
        """Sends what was turned away for our clock once more, when that is measured; not when it takes too long."""
        errand.repeated = True
        ids = [client_id for kind, client_id in errand.parts if kind == "place"]
        self._waiting.update(ids)

        over = False

        def too_long() -> None:
            nonlocal over
            over = True
            self._waiting.difference_update(ids)
            reason = f"not sent: the venue's clock could not be measured within {AGAIN_MAX_NS // SECOND_NS} s"
            self.not_sent(errand.parts, TEMPORARY_UNAVAILABLE, reason)

        def measured() -> None:
            if not over:
                timer.cancel()
                self._waiting.difference_update(ids)
                self.send(errand)

        timer = self.clock.call_in(AGAIN_MAX_NS, too_long)
        self.connection.measure(measured)

    def _lost(self, request: Request, parts: Sequence[Part], reason: str, *, told: bool = False) -> None:
        """`told`: the venue itself said that it does not know."""
        now_ns = self.clock.now_ns()
        for kind, client_id in parts:
            message = unknown(self.venue, client_id, kind, reason, now_ns)
            self._note_lost(request, message, told=told)
            self.tell(message)

    def _note_lost(self, request: Request, message: VenueUnknown, *, told: bool) -> None:
        """Until when its frame may still be carried out."""
        self.unknown_count += 1
        if message.request != "place":
            return
        done_ms = self._taken_ms(request) + ENGINE_MAX_MS
        if told:  # so long it was at work on it, at least
            done_ms = max(done_ms, self.connection.server.now_ns() // MS_NS + ENGINE_MAX_MS)
        forgotten = remember(self._lost_ms, message.client_id, done_ms)
        self._forgotten_ms = max(self._forgotten_ms, forgotten or 0)

    def _taken_ms(self, request: Request) -> int:
        """When the venue takes its frame at the latest, by the venue's clock."""
        return request.timestamp_ms + self.connection.requests.recv_window_ms

    def known(self, client_id: str) -> None:
        """What became of this order has been told, or proven."""
        self._lost_ms.pop(client_id, None)

    def done_ms(self, client_id: str) -> int:
        """When the venue is done, at the latest and by its clock, with each frame that was to place this order."""
        if client_id in self._waiting:
            return NEVER_MS
        request = self._places.get(client_id)
        if request is not None:
            return self._taken_ms(request) + ENGINE_MAX_MS
        lost_ms = self._lost_ms.get(client_id)
        if lost_ms is not None:
            return lost_ms
        # Sent by an earlier process: before this connection, by a clock that may have been ahead.
        opened_ms, window_ms = self.connection.opened_ms, self.connection.requests.recv_window_ms
        return max(opened_ms + AHEAD_MS + window_ms + ENGINE_MAX_MS, self._forgotten_ms)


# --- readers of replies --------------------------------------------------------------------------------------------


class Readers:
    """What the replies to errands say, as messages."""

    def __init__(self, errands: Errands, ours: Callable[[str], bool]) -> None:
        self.venue = errands.venue
        self.errands = errands
        self.ours = ours

    def placed(self, errand: Errand, reply: Reply) -> Sequence[Any] | None:
        if reply.error is not None:
            return None
        return placed(read_placed(reply.result), errand.terms.instrument, self.venue)

    def cancelled(self, errand: Errand, reply: Reply) -> Sequence[Any] | None:
        if reply.error is not None:
            return None
        return self._of_ours(cancelled(read_cancelled(reply.result), errand.terms.instrument, self.venue))

    def cancelled_list(self, errand: Errand, reply: Reply) -> Sequence[Any] | None:
        if reply.error is not None:
            return None
        return self._of_ours(cancelled(read_cancelled_list(reply.result), errand.terms.instrument, self.venue))

    def amended(self, errand: Errand, reply: Reply) -> Sequence[Any] | None:
        if reply.error is not None:
            return None
        answer = read_amended(reply.result)
        messages = amended(answer, errand.terms.instrument, self.venue)
        return messages if self.errands.first_amendment(errand.terms.symbol, answer.execution_id) else ()

    def placed_list(self, errand: Errand, reply: Reply) -> Sequence[Any] | None:
        if reply.error is not None:
            return None
        return placed_list(read_placed_list(reply.result), errand.terms.instrument, self.venue)

    def replaced(self, errand: Errand, reply: Reply) -> Sequence[Any] | None:
        """Its errors tell of both halves."""
        asked: ReplaceOrder = errand.about
        halves = read_replaced(reply.result, reply.error)
        if halves is None:
            return None
        now_ns = self.errands.clock.now_ns()
        return replaced(self.venue, asked, halves, errand.terms.instrument, now_ns)

    def _of_ours(self, messages: Sequence[Any]) -> list[Any]:
        """A list that was cancelled may hold orders of somebody else."""
        return [message for message in messages if self.ours(message.client_id)]


def remember(memory: dict[Any, T], key: Any, value: T) -> T | None:
    """Keeps the last MEMORY_MAX entries; returns the one that was forgotten for it."""
    memory.pop(key, None)
    memory[key] = value
    return memory.pop(next(iter(memory))) if len(memory) > MEMORY_MAX else None
