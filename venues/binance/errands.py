"""Requests that change something at the venue: placing, cancelling, amending, replacing orders and order lists.

Always true here: of each part of a request (an order placed, an order cancelled) its errand tells once: its messages, a
refusal where that is proven, or VenueUnknown. What a report has told before the reply is not told again, and a reply
that stays away after it is no loss. Only what was turned away for our clock is sent a second time, once.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

from ...core.kernel.clock import Clock
from ...core.model.errors import Nonsense
from ...core.model.messages import VenueUnknown
from .codec import ExecutionReport, Reply
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
from .errors import ClockOff, KeyTrouble, Unknown, Verdict, classify_fault
from .inflight import Errand, Kind, Part, Request
from .outcomes import failed, not_changed, not_placed, rejected, replaced, unknown
from .scripts import AHEAD_MS

ENDED: Final = frozenset({"FILLED", "CANCELED", "REJECTED", "EXPIRED", "EXPIRED_IN_MATCH"})
T = TypeVar("T")
NEVER_MS: Final = 1 << 62  # no question is ever younger
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
    ) -> None:
        """`tell` gets each message; `on_blocked` that a key or, twice in a row, our clock was refused."""
        self.venue = venue
        self.clock = clock
        self.connection = connection
        self.tell = tell
        self.on_blocked = on_blocked
        self.unknown_count = 0
        # client id -> timestamp of the frame of an order whose outcome is not known
        self.lost_ms: dict[str, int] = {}
        self._forgotten_ms = 0  # the latest of those that were forgotten
        self._waiting: set[str] = set()  # orders that go out again when the clock is measured
        self._awaited: dict[Kind, dict[str, Request]] = {"place": {}, "cancel": {}, "amend": {}}
        self._places = self._awaited["place"]
        self._amendments: dict[tuple[str, int], None] = {}  # (symbol, execution id) of those that were told
        self._done = self._answered  # bound once

    # --- out

    def send(self, errand: Errand) -> None:
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
        if self.lost_ms:
            self.lost_ms.pop(client_id, None)
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
                    self._note_lost(request, message)
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
            self._lost(request, parts, verdict.reason)
            return
        now_ns = self.clock.now_ns()
        for kind, client_id in parts:
            if kind == "place":
                self.tell(not_placed(self.venue, client_id, verdict, now_ns))
            else:
                self.tell(not_changed(self.venue, client_id, kind, verdict, now_ns))

    def _again(self, errand: Errand) -> None:
        """Sends what was turned away for our clock once more, when that is measured."""
        errand.repeated = True
        ids = [client_id for kind, client_id in errand.parts if kind == "place"]
        self._waiting.update(ids)

        def measured() -> None:
            self._waiting.difference_update(ids)
            self.send(errand)

        self.connection.measure(measured)

    def _lost(self, request: Request, parts: Sequence[Part], reason: str) -> None:
        now_ns = self.clock.now_ns()
        for kind, client_id in parts:
            message = unknown(self.venue, client_id, kind, reason, now_ns)
            self._note_lost(request, message)
            self.tell(message)

    def _note_lost(self, request: Request, message: VenueUnknown) -> None:
        """Until when its frame may still be taken."""
        self.unknown_count += 1
        if message.request == "place":
            forgotten = remember(self.lost_ms, message.client_id, request.timestamp_ms)
            self._forgotten_ms = max(self._forgotten_ms, forgotten or 0)

    def sent_ms(self, client_id: str) -> int:
        """The latest timestamp that a frame which places this order may bear."""
        if client_id in self._waiting:
            return NEVER_MS
        request = self._places.get(client_id)
        if request is not None:
            return request.timestamp_ms
        lost_ms = self.lost_ms.get(client_id)
        if lost_ms is not None:
            return lost_ms
        # Sent by an earlier process: before this connection, by a clock that may have been ahead.
        return max(self.connection.opened_ms + AHEAD_MS, self._forgotten_ms)


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
