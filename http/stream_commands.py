"""Commands of the stream, carried out as their REST requests are: the same endpoints, rules, answers and refusals.

Always true here: the id of a command becomes the id of what it makes (clientOrderId, signalId), or stands in a mark
that is committed with it, so that a command that comes again is answered from what is on record and not done again,
and one whose id was another type's does nothing.
"""

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from decimal import Decimal
from typing import Any
from urllib.parse import urlencode

import msgspec

from ..core.kernel.outbox import encode_document
from ..core.model.messages import Refusal, Reply, Submitted
from ..core.model.order_views import order_detail, order_placed, order_view
from ..core.model.records import CommandMark, Order, State
from ..core.state.store import Store
from ..strategies_bridge.command_marks import CommandMarks
from ..strategies_bridge.signal_records import order_name
from ..strategies_bridge.streams import CommandStream, Delivery, Outcome
from .commands import FAULT, Commands
from .context import Api
from .orders import CancelResults, OrderEndpoints
from .portfolio import PortfolioEndpoints
from .problems import FieldError, Problem, invalid
from .schema import CLIENT_ORDER_ID, NS_PER_MS, TEXT_MAX, Document, OrderRules, document, named, nearest
from .signals import SignalEndpoints, SignalRules
from .wire import BODY_MAX, Answer, Call

TYPES = ("order", "cancel", "cancel_all", "amend", "signal", "close")
FIELDS = ("id", "type", "body", "source", "expires")
# After these nobody knows what came of a command, or it could not be tried: it is delivered again.
NOT_YET = frozenset(("STORE_UNAVAILABLE", "OUTCOME_UNKNOWN", "IDEMPOTENCY_IN_PROGRESS"))
CONTENT = {b"content-type": b"application/json"}
AWAY = "commands_away"
KEY = "Idempotency-Key"  # as the endpoints call the id of a command, which here is no header

# What is told when a command has entered the core; each command runs in a task of its own, with its own.
_entered: ContextVar[Callable[[Any], None]] = ContextVar("entered")
Endpoint = Callable[[Call, Any], Awaitable[Answer]]


class Command(msgspec.Struct, frozen=True):
    """A delivery that has an id, a known type and a body of a size that is taken."""

    id: str
    type: str
    body: bytes
    source: str | None
    expires_ms: int | None
    again: bool


class Entering(Commands):
    """Tells when a command has entered."""

    def send(self, build: Callable[[Reply], Any]) -> Any:
        future = super().send(build)
        _entered.get()(future)
        return future


class StreamCommands:
    """Takes deliveries; `carry_out` is what the stream calls."""

    def __init__(self, api: Api, marks: CommandMarks) -> None:
        self.api = api
        self.marks = marks
        commands = Entering(api.kernel, api.loop, api.queries.source.orders.get)
        self.orders = OrderEndpoints(api, commands, OrderRules(api.pairs(), api.exchanges()))
        self.portfolio = PortfolioEndpoints(api, commands)
        self.signals = SignalEndpoints(api, commands, SignalRules(api.pairs(), api.exchanges()))
        self._ways: dict[str, Callable[[Command, Callable[[], None]], Awaitable[Answer]]] = {
            "order": self._order,
            "cancel": self._cancel,
            "cancel_all": self._cancel_all,
            "amend": self._amend,
            "signal": self._signal,
            "close": self._close,
        }

    async def carry_out(self, delivery: Delivery, entered: Callable[[], None]) -> Outcome | None:
        """As `streams.CarryOut`."""
        where = f"/streams/commands/{delivery.entry_id}"
        _entered.set(lambda _: entered())
        try:
            command = read(delivery)
            await self._in_time(command)
            await self._not_of_another_type(command)
            answer = await self._ways[command.type](command, entered)
        except Problem as problem:
            return None if problem.code in NOT_YET else Outcome(problem.status, problem.encode(where))
        except Exception as error:  # a bug of ours must not keep back those behind it
            self.api.report(where, error)
            return Outcome(500, Problem(500, "INTERNAL", FAULT).encode(where))
        return Outcome(answer.status, answer.body)

    async def _in_time(self, command: Command) -> None:
        """Raises Problem 409 where it is too late for a command that has not been carried out before."""
        now_ms = self.api.kernel.clock.now_ns() // NS_PER_MS
        if command.expires_ms is not None and now_ms > command.expires_ms and not await self._on_record(command):
            detail = f"it was to be carried out until {command.expires_ms}, and it is {now_ms} now; nothing was done"
            raise Problem(409, "COMMAND_EXPIRED", detail)

    async def _on_record(self, command: Command) -> bool:
        """Whether it was carried out before, or waits for the risk service; of a cancel that comes again it may have
        been."""
        signals = self.signals.signals
        if command.type in ("order", "close"):
            known = await self.api.queries.order_by_client_id(command.id) is not None
            return known or signals.manager.advising.is_asked(command.id)
        if command.type == "signal":
            return signals.find(command.id) is not None or signals.under_way(command.id)
        return self.marks.get(command.id) is not None or (command.type == "cancel" and command.again)

    async def _not_of_another_type(self, command: Command) -> None:
        """Raises Problem 422 where the id is on record for a command of another type, and not for one of this."""
        ours = "order" if command.type == "close" else command.type  # its body tells a close from an order
        used = await self._used(command.id)
        if used and ours not in used:
            what = next(iter(used.values()))
            detail = f"{command.id!r} was used for {what}; use a new id for a new command"
            raise Problem(422, "IDEMPOTENCY_MISMATCH", detail)

    async def _used(self, command_id: str) -> dict[str, str]:
        """What is on record, or under way, with an id: the type of the command -> in words."""
        used: dict[str, str] = {}
        signals = self.signals.signals
        order = await self._order_known(command_id)
        if order is not None:
            used["order"] = f"an order ({order.order_id})"
        elif signals.manager.advising.is_asked(command_id):
            used["order"] = "an order, which is being checked"
        signal = signals.find(command_id)
        if signal is not None and signal.client_signal_id == command_id:
            used["signal"] = f"a signal ({signal.signal_id})"
        elif signals.under_way(command_id):
            used["signal"] = "a signal, which is being carried out"
        else:
            order = await self._order_known(order_name(command_id))
            if order is not None and order.signal_id is not None:
                used["signal"] = f"a signal ({order.signal_id})"
        mark = self.marks.get(command_id)
        if mark is not None:
            kind = msgspec.json.decode(mark.asked)[0]
            used[kind] = f"the command {kind}"
        return used

    async def _order_known(self, client_order_id: str) -> Order | None:
        """In memory, or in the archive, which is read only where it holds something."""
        queries = self.api.queries
        order = queries.source.by_client_id(client_order_id)
        if order is None and self.api.archive_used():
            found = await queries.order_by_client_id(client_order_id)
            order = None if found is None else found[0]
        return order

    # --- what carries the id by itself

    async def _order(self, command: Command, _: Callable[[], None]) -> Answer:
        body = _with_source(command, "signalData")
        try:
            return await _ask_as(command, "clientOrderId", self.orders.place, "/api/orders", body)
        except Problem as problem:
            if not command.again or problem.refusal is not None:
                raise
            placed = await self._placed_before(command.id, body)
            if placed is None:
                raise
            return placed

    async def _placed_before(self, command_id: str, body: bytes) -> Answer | None:
        """The order of a body that would be refused now, as its expireTime has passed; None where there is none."""
        found = await self.api.queries.order_by_client_id(command_id)
        request = self.orders.rules.submit_order(document(body), _nobody, 0, command_id)
        if found is None or found[0].fingerprint != request.fingerprint:
            return None
        return Answer(encode_document(order_placed(Submitted(found[0], True))))

    async def _signal(self, command: Command, _: Callable[[], None]) -> Answer:
        body = _with_source(command, None)
        return await _ask_as(command, "signalId", self.signals.execute, "/api/signals/execute", body)

    async def _close(self, command: Command, _: Callable[[], None]) -> Answer:
        doc, position_id = _taken_out(command, "positionId")
        path = f"/api/positions/{position_id}/close"
        return await _ask(self.portfolio.close, path, _encoded(doc), command.id, position_id=position_id)

    # --- what leaves a mark

    async def _cancel(self, command: Command, entered: Callable[[], None]) -> Answer:
        doc, order_id = _taken_out(command, "orderId")
        _nothing_else(doc)
        mark = self._mark(command, {"orderId": order_id}, (order_id,))
        again = self._was_taken(mark) or command.again
        if not again:
            self._enter_with(mark, entered)
        try:
            return await _ask(self.orders.cancel, f"/api/orders/{order_id}", order_id=order_id)
        except Problem as problem:  # done twice it is a cancel
            order = self.api.queries.source.orders.get(order_id)
            if again and problem.code == "ORDER_ENDED" and order and order.state is State.CANCELLED:
                return self._as_it_is(order)
            raise

    async def _amend(self, command: Command, entered: Callable[[], None]) -> Answer:
        doc, order_id = _taken_out(command, "orderId")
        mark = self._mark(command, doc | {"orderId": order_id}, (order_id,))
        if self._was_taken(mark):
            return self._amended_before(order_id, doc)
        self._enter_with(mark, entered)
        return await self._told(
            command, _ask(self.orders.amend, f"/api/orders/{order_id}", _encoded(doc), order_id=order_id)
        )

    def _amended_before(self, order_id: str, doc: Document) -> Answer:
        """What the order shows of an amendment that was taken before, and whose answer was lost."""
        order = self.api.queries.source.orders.get(order_id)
        if order is None:
            raise Problem(409, "ORDER_ENDED", f"the amendment was taken; {order_id} has ended since and is archived")
        view = order_view(order)
        shown = {"quantity": view.quantity, "price": view.price, "stopPrice": view.stop_price}
        if order.amend_requested is not None:
            return self._as_it_is(order, 202)
        if any(value is not None and shown[name] != Decimal(str(value)) for name, value in doc.items()):
            raise Problem(409, "AMEND_LOST", "the amendment was taken, and the order is not as it asked: look at it")
        return self._as_it_is(order)

    async def _cancel_all(self, command: Command, entered: Callable[[], None]) -> Answer:
        doc = document(command.body) if command.body else {}
        for name, value in doc.items():
            if value.__class__ is not str:
                raise invalid([FieldError(name[:TEXT_MAX], f"is {named(value)}, expected text", "WRONG_TYPE")])
        chosen = tuple(
            order.order_id
            for order in self.api.open_orders()
            if doc.get("pair") in (None, order.pair) and doc.get("exchange") in (None, order.exchange)
        )
        mark = self._mark(command, doc, chosen)
        if self._was_taken(mark):
            return self._cancelled_before(self.marks.get(command.id) or mark)
        self._enter_with(mark, entered)
        return await self._told(command, _ask(self.orders.cancel_many, "/api/orders", query=urlencode(doc)))

    def _cancelled_before(self, mark: CommandMark) -> Answer:
        source = self.api.queries.source
        orders = [order for order_id in mark.order_ids if (order := source.orders.get(order_id)) is not None]
        views = [order_view(order, source.fills_of(order.order_id)) for order in orders]
        cancelled = sum(order.state is State.CANCELLED for order in orders)
        now_ms = self.api.kernel.clock.now_ns() // NS_PER_MS
        status = 200 if all(order.ended for order in orders) else 202
        return Answer(encode_document(CancelResults(now_ms, cancelled, views)), status)

    def _mark(self, command: Command, doc: Document, order_ids: tuple[str, ...]) -> CommandMark:
        now_ns = self.api.kernel.clock.now_ns()
        asked = msgspec.json.encode([command.type, doc], order="sorted").decode()
        return CommandMark(command_id=command.id, asked=asked, order_ids=order_ids, entered_ns=now_ns)

    def _was_taken(self, mark: CommandMark) -> bool:
        """Raises the refusal that the first one ended with, or Problem 422 where that was another command."""
        known = self.marks.get(mark.command_id)
        if known is None:
            return False
        if known.asked != mark.asked:
            detail = f"{mark.command_id!r} was used for another command; use a new id for a new command"
            raise Problem(422, "IDEMPOTENCY_MISMATCH", detail)
        if known.code:
            raise Problem(known.status, known.code, known.detail)
        return True

    def _enter_with(self, mark: CommandMark, entered: Callable[[], None]) -> None:
        """Put the mark into the commit of the command. One that was refused on the spot has changed nothing."""

        def is_in(future: Any) -> None:
            if not (future.done() and future.result().__class__ is Refusal):
                self.marks.enter(mark)
            entered()

        _entered.set(is_in)

    async def _told(self, command: Command, asked: Awaitable[Answer]) -> Answer:
        try:
            return await asked
        except Problem as problem:
            if problem.code not in NOT_YET:
                self.marks.refused(command.id, problem.status, problem.code, problem.detail)
            raise

    def _as_it_is(self, order: Order, status: int = 200) -> Answer:
        return Answer(encode_document(order_detail(order, self.api.queries.source.fills_of(order.order_id))), status)


# --- reading -------------------------------------------------------------------------------------------------------


def read(delivery: Delivery) -> Command:
    """Raises Problem with everything that is wrong with the entry's fields."""
    fields = {name.decode(errors="replace"): value.decode(errors="replace") for name, value in delivery.fields.items()}
    wrong = [
        FieldError(name[:TEXT_MAX], f"there is no such field{nearest(name, FIELDS)}", "UNKNOWN_FIELD")
        for name in fields
        if name not in FIELDS
    ]
    wrong += [FieldError(name[:TEXT_MAX], "stands twice", "DUPLICATE_FIELD") for name in delivery.twice]
    if CLIENT_ORDER_ID.fullmatch(fields.get("id", "")) is None:
        wrong.append(_wrong("id", fields, "expected 1 to 64 letters, digits or . _ : -"))
    kind = fields.get("type", "")
    if kind not in TYPES:
        wrong.append(_wrong("type", fields, f"{kind[:40]!r} is none of {', '.join(TYPES)}{nearest(kind, TYPES)}"))
    source, expires = fields.get("source"), fields.get("expires")
    if source is not None and not (source.strip() and source.isprintable() and len(source) <= TEXT_MAX):
        wrong.append(_wrong("source", fields, f"expected 1 to {TEXT_MAX} printable characters, not blanks alone"))
    if expires is not None and not (expires.isascii() and expires.isdecimal() and len(expires) <= 15):
        wrong.append(_wrong("expires", fields, "expected a time in ms as a whole number"))
    if wrong:
        raise invalid(wrong)
    body = delivery.fields.get(b"body", b"")
    if len(body) > BODY_MAX:
        raise Problem(413, "BODY_TOO_LARGE", f"the body is over {BODY_MAX} bytes")
    return Command(fields["id"], kind, body, source, int(expires) if expires is not None else None, delivery.again)


def _wrong(field: str, fields: dict[str, str], detail: str) -> FieldError:
    return (
        FieldError(field, detail, "INVALID_VALUE") if field in fields else FieldError(field, "is required", "REQUIRED")
    )


def _with_source(command: Command, inside: str | None) -> bytes:
    """The body, with the entry's `source` where it names none of its own; all else stays as it is written."""
    if command.source is None:
        return command.body
    doc = document(command.body)
    place = doc if inside is None else doc.get(inside) or {}
    if place.__class__ is not dict or place.get("source") is not None:
        return command.body
    written = msgspec.json.decode(command.body, type=dict[str, msgspec.Raw])
    there = written if inside is None else _parts(written.get(inside))
    there["source"] = msgspec.Raw(msgspec.json.encode(command.source))
    if inside is not None:
        written[inside] = msgspec.Raw(msgspec.json.encode(there))
    return msgspec.json.encode(written)


def _parts(raw: msgspec.Raw | None) -> dict[str, msgspec.Raw]:
    """An object as written, which may be null or not there."""
    found: dict[str, msgspec.Raw] | None = None
    if raw is not None:
        found = msgspec.json.decode(raw, type=dict[str, msgspec.Raw] | None)
    return found or {}


def _taken_out(command: Command, name: str) -> tuple[Document, str]:
    """The rest of the body, and the id in it that stands in the path over HTTP."""
    doc = document(command.body)
    value = doc.pop(name, None)
    if value is None:
        raise invalid([FieldError(name, "is required", "REQUIRED")])
    if value.__class__ is not str or not 1 <= len(value) <= TEXT_MAX:
        raise invalid([FieldError(name, f"expected text of 1 to {TEXT_MAX} characters", "WRONG_TYPE")])
    return doc, value


def _nothing_else(doc: Document) -> None:
    if doc:
        raise invalid([FieldError(name[:TEXT_MAX], "there is no such field", "UNKNOWN_FIELD") for name in doc])


def _encoded(doc: Document) -> bytes:
    return msgspec.json.encode(doc)


async def _ask_as(command: Command, field: str, endpoint: Endpoint, path: str, body: bytes) -> Answer:
    """As `_ask`, with the command's id as that of what it makes; the body may name the same in this field."""
    try:
        return await _ask(endpoint, path, body, command.id)
    except Problem as problem:
        if problem.refusal is not None or not any(error.field == KEY for error in problem.errors):
            raise
        differs = f"differs from the command's id {command.id!r}; leave it out"
        raise invalid(
            [FieldError(field, differs, error.code) if error.field == KEY else error for error in problem.errors]
        ) from None


def _nobody(_: object) -> None:
    """The reply of a command that is only looked at."""


async def _ask(
    endpoint: Endpoint, path: str, body: bytes = b"", key: str | None = None, query: str = "", **params: str
) -> Answer:
    """What an endpoint answers a request that came over HTTP."""
    scope = {"path": path, "path_params": params, "query_string": query.encode()}
    call = Call(scope, CONTENT if key is None else CONTENT | {b"idempotency-key": key.encode()})

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    return await endpoint(call, receive)


def stream_of(api: Api, marks: CommandMarks, store: Store, log: Callable[..., None]) -> CommandStream | None:
    """The stream that this writer reads; None where STREAM_COMMANDS does not let it: `auto` does on paper only, as who
    reaches Redis can trade then. `log(level, word, **fields)` is told when it is read and when it cannot be."""
    settings = api.settings
    if settings.stream_commands is False or (settings.stream_commands is None and settings.live):
        return None
    commands = StreamCommands(api, marks)

    conditions = api.kernel.conditions

    def tell(up: bool, why: str) -> None:
        log("info" if up else "warn", "COMMANDS_READ" if up else "COMMANDS_AWAY", detail=why)
        if up and not conditions.holds(AWAY):
            return
        conditions.end(AWAY) if up else conditions.begin(AWAY, why)
        api.kernel.flush_soon()

    token = f"{store.journal_id}:{store.epoch}"
    return CommandStream(store.address, store.node, token, commands.carry_out, tell)
