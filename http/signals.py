"""Signals over HTTP: execute one, list them, look at one.

Always true here: a signal is answered after the commit that holds it and its orders; the same one twice (signalId or
Idempotency-Key) is carried out once; metadata is kept as the very text that came.
"""

from collections.abc import Callable, Collection, Sequence
from decimal import Decimal
from itertools import islice
from typing import Any

import msgspec
from starlette.types import Receive

from ..core.kernel.outbox import encode_document
from ..core.model.exact import PRICE_MAX, tidy
from ..core.model.messages import ExecuteSignal, Reply, Signalled, Submitted
from ..core.model.order_views import STATUS, Status, number
from ..core.model.records import Order, OrderType, RiskValidation, Side, Signal, SignalAction, SignalStatus, Sizing
from ..core.orders.queries import Cursor, OrderFilter, page_of
from ..strategies_bridge.requests import METHODS
from ..strategies_bridge.signal_records import SignalUpdate, order_name, signal_of_order, signal_update
from .commands import Commands
from .context import Api
from .orders import Pagination, archived_repeat, idempotency_key, page_wanted
from .problems import Problem, not_found
from .schema import (
    NS_PER_MS,
    TIME_MS_MAX,
    Fields,
    client_id,
    document,
    fingerprint,
    named,
    pair_error,
    query,
)
from .wire import Answer, Call, read_body

METADATA_BYTES_MAX = 4096

ACTIONS = ("BUY", "SELL", "HOLD", "CLOSE")
# As callers write a method -> as it is.
SIGNAL_STATUSES = ("executed", "held", "rejected")
EXECUTE_FIELDS = frozenset((
    "pair", "signal", "confidence", "source", "strategy", "entryPrice", "stopLoss", "takeProfit", "riskParameters",
    "metadata", "signalId", "exchange", "paperTrade", "timestamp", "expiresAt",
))  # fmt: skip
RISK_FIELDS = frozenset(("maxRiskPercent", "positionSizeMethod"))
SIGNAL_QUERY = ("status", "pair", "strategy", "source", "since", "until", "limit", "page", "cursor")


class SignalOrder(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """An order of a signal; without type and the rest where it has left memory."""

    order_id: str
    type: OrderType | msgspec.UnsetType = msgspec.UNSET
    side: Side | msgspec.UnsetType = msgspec.UNSET
    quantity: Decimal | msgspec.UnsetType = msgspec.UNSET
    price: Decimal | msgspec.UnsetType = msgspec.UNSET  # of an exit: where it is triggered
    status: Status | msgspec.UnsetType = msgspec.UNSET
    exchange: str | msgspec.UnsetType = msgspec.UNSET


class RiskParameters(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """As they were given, the method by its long name."""

    max_risk_percent: Decimal | None = None  # a share of equity: 0.02 is 2 %
    position_size_method: str | None = None


class SignalView(msgspec.Struct, frozen=True, rename="camel"):
    """A signal, what became of it, and its orders as they are now."""

    signal_id: str
    status: SignalStatus
    orders: tuple[SignalOrder, ...]  # the entry first
    position_sizing: Sizing | None
    timestamp: int  # ms, when it came
    client_signal_id: str | None
    pair: str
    signal: SignalAction
    exchange: str | None
    confidence: Decimal | None
    source: str | None
    strategy: str | None
    entry_price: Decimal | None
    stop_loss: Decimal | None
    take_profit: Decimal | None
    risk_parameters: RiskParameters
    metadata: msgspec.Raw
    code: str | None  # why it was rejected
    reason: str | None
    warnings: tuple[str, ...]
    # of a single signal only: of its entry
    risk_validation: RiskValidation | msgspec.UnsetType | None = msgspec.UNSET


class SignalList(msgspec.Struct, frozen=True):
    """The answer to GET /api/signals."""

    timestamp: int
    signals: list[SignalView]
    pagination: Pagination


# --- in ------------------------------------------------------------------------------------------------------------


class SignalRules:
    """Turns bodies into ExecuteSignal; knows which pairs and exchanges there are."""

    def __init__(self, pairs: Collection[str], exchanges: Collection[str]) -> None:
        self.pairs = frozenset(pairs)
        self.exchanges = frozenset(exchanges)

    def execute_signal(self, body: bytes, reply: Reply, key: str | None = None) -> ExecuteSignal:
        """The command, or Problem 422 with everything that is wrong. `key` is the Idempotency-Key header."""
        fields = Fields(document(body), EXECUTE_FIELDS)
        doc = fields.doc
        if doc.get("pair") is None:
            fields.missing("pair")
        elif (error := pair_error(doc["pair"], self.pairs)) is not None:
            fields.wrong("pair", "INVALID_PAIR", error)
        action = fields.choice("signal", ACTIONS, str.upper)
        if doc.get("signal") is None:
            fields.missing("signal", f"is required, {', '.join(ACTIONS)}")
        method, max_risk = _risk_parameters(fields)
        name = client_id(fields, key, "signalId")
        command = {
            "confidence": fields.share("confidence"),
            "source": fields.text("source"),
            "strategy": fields.text("strategy"),
            "entry_price": fields.positive("entryPrice", PRICE_MAX),
            "stop_loss": fields.positive("stopLoss", PRICE_MAX),
            "take_profit": fields.positive("takeProfit", PRICE_MAX),
            "exchange": self._exchange(fields),
            "paper": fields.flag("paperTrade"),
            "timestamp_ns": _time_ns(fields, "timestamp"),
            "expires_ns": _time_ns(fields, "expiresAt"),
            "metadata": _metadata(fields, body),
        }
        fields.done()
        made = ExecuteSignal(
            pair=doc["pair"],
            action=action,
            reply=reply,
            method=method,
            max_risk=max_risk,
            client_signal_id=name,
            **command,  # type: ignore[arg-type]
        )
        return made if name is None else msgspec.structs.replace(made, fingerprint=fingerprint(made))

    def _exchange(self, fields: Fields) -> str | None:
        name = fields.text("exchange")
        if name is None or name.lower() in self.exchanges:
            return None if name is None else name.lower()
        fields.wrong("exchange", "INVALID_EXCHANGE", f"{name[:40]!r} is none of {', '.join(sorted(self.exchanges))}")
        return None


def _risk_parameters(fields: Fields) -> tuple[Any, Decimal | None]:
    """Method and share of equity."""
    doc = fields.doc.get("riskParameters")
    if doc is None:
        return None, None
    if doc.__class__ is not dict:
        fields.wrong("riskParameters", "WRONG_TYPE", f"is {named(doc)}, expected an object")
        return None, None
    inside = Fields(doc, RISK_FIELDS, "riskParameters.")
    method = inside.choice("positionSizeMethod", tuple(METHODS), str.lower)
    max_risk = inside.share("maxRiskPercent", above_zero=True)
    fields.errors += inside.errors
    return METHODS.get(method), max_risk


def _time_ns(fields: Fields, name: str) -> int | None:
    value = fields.whole(name, 1, TIME_MS_MAX, "a time in ms")
    return None if value is None else value * NS_PER_MS


class _WithMetadata(msgspec.Struct):
    metadata: msgspec.Raw = msgspec.Raw(b"null")


def _metadata(fields: Fields, body: bytes) -> str:
    """The JSON text of the object, as it stands in the body; empty where there is none."""
    doc = fields.doc.get("metadata")
    if doc is None:
        return ""
    if doc.__class__ is not dict:
        fields.wrong("metadata", "WRONG_TYPE", f"is {named(doc)}, expected an object")
        return ""
    raw = bytes(msgspec.json.decode(body, type=_WithMetadata).metadata)
    if len(raw) > METADATA_BYTES_MAX:
        fields.wrong("metadata", "OUT_OF_RANGE", f"is {len(raw)} bytes of JSON, at most {METADATA_BYTES_MAX} are kept")
        return ""
    return raw.decode()


# --- out -----------------------------------------------------------------------------------------------------------


def signal_order(order: Order) -> SignalOrder:
    price = order.stop_ticks if order.price_ticks is None else order.price_ticks
    return SignalOrder(
        order.order_id,
        order.type,
        order.side,
        number(order.qty_lots, order.lot),
        msgspec.UNSET if price is None else number(price, order.tick),
        STATUS[order.state],
        order.exchange,
    )


def signal_detail(signal: Signal, orders: Sequence[Order]) -> SignalView:
    """The signal with the risk report of its entry."""
    entry = next((order for order in orders if order.order_id == signal.order_ids[0]), None)
    return msgspec.structs.replace(signal_view(signal, orders), risk_validation=entry.risk if entry else None)


def signal_view(signal: Signal, orders: Sequence[Order]) -> SignalView:
    """`orders`: those of its orders that are known."""
    known = {order.order_id: order for order in orders}
    shown = (signal_order(known[name]) if name in known else SignalOrder(name) for name in signal.order_ids)
    entry = known.get(signal.order_ids[0]) if signal.order_ids else None
    return SignalView(
        signal.signal_id,
        signal.status,
        tuple(shown),
        signal.sizing,
        signal.created_ns // NS_PER_MS,
        signal.client_signal_id,
        signal.pair,
        signal.action,
        signal.exchange,
        signal.confidence,
        signal.source,
        signal.strategy,
        _tidy(signal.entry_price),
        _tidy(signal.stop_loss),
        _tidy(signal.take_profit),
        RiskParameters(_tidy(signal.max_risk), signal.method),
        msgspec.Raw(signal.metadata.encode() or b"null"),
        signal.code,
        signal.reason,
        (*signal.warnings, *(entry.warnings if entry is not None else ())),
    )


def _tidy(value: Decimal | None) -> Decimal | None:
    return None if value is None else tidy(value)


class SignalEndpoints:
    """Everything under /api/signals."""

    def __init__(self, api: Api, commands: Commands, rules: SignalRules) -> None:
        assert api.signals is not None, "the node has them"
        self.api = api
        self.signals = api.signals
        self.commands = commands
        self.rules = rules

    async def execute(self, call: Call, receive: Receive) -> Answer:
        """POST /api/signals/execute: size, check and carry out a trading decision"""
        body = await read_body(receive, call)
        headers, rules = call.headers, self.rules
        pair: object = None
        try:
            key = idempotency_key(headers[b"idempotency-key"]) if b"idempotency-key" in headers else None
            asked = rules.execute_signal(body, _nobody, key)
            pair = asked.pair
            done = await self._archived_repeat(asked)
            if done is None:
                done = await self.commands.carry_out(lambda reply: msgspec.structs.replace(asked, reply=reply))
        except Problem as problem:
            if problem.refusal is None or problem.refusal.signal_id is None:  # else the log has it from its event
                facts = {"code": problem.code, "detail": problem.detail, "pair": pair}
                self.api.log.error("SIGNAL_FAILED", facts)
            raise
        signal, orders = done.signal, done.orders
        extra = [(b"location", b"/api/signals/" + signal.signal_id.encode())]
        if b"prefer" in headers and orders:
            extra += await self.commands.wait_as_preferred(headers[b"prefer"], orders[0])
            orders = self._orders_of(signal)
        new = signal.status == "executed" and not done.repeated
        return Answer(encode_document(signal_detail(signal, orders)), 201 if new else 200, extra)

    async def _archived_repeat(self, asked: ExecuteSignal) -> Signalled | None:
        """What a signal is answered that has left memory, as has its order; None where there is none such."""
        name = asked.client_signal_id
        if name is None or not self.api.archive_used() or self.signals.find(name) is not None:
            return None
        repeat: Submitted | None = await archived_repeat(self.api, order_name(name), asked.fingerprint)
        if repeat is None:
            return None
        signal = signal_of_order(asked, repeat.order)
        return Signalled(signal, tuple(await self._found(signal)), True)

    def _orders_of(self, signal: Signal) -> tuple[Order, ...]:
        held = self.api.queries.source.orders
        return tuple(held[name] for name in signal.order_ids if name in held)

    async def _found(self, signal: Signal) -> list[Order]:
        """Its orders, wherever they are kept."""
        found = [await self.api.queries.order(name) for name in signal.order_ids]
        return [entry[0] for entry in found if entry is not None]

    def newest(self, count: int) -> list[SignalUpdate]:
        """The last signals as the feed tells of them, oldest first."""
        newest = [signal_update(signal) for signal in islice(reversed(self.signals.signals.values()), count)]
        return newest[::-1]

    async def get(self, call: Call, _: Receive) -> Answer:
        """GET /api/signals/{signal_id}: by our id or the caller's"""
        query(call.scope["query_string"]).done()
        name = call.params["signal_id"]
        signal = self.signals.find(name)
        if signal is None:
            raise not_found("SIGNAL_NOT_FOUND", f"there is no signal {name[:64]!r}")
        body = encode_document(signal_detail(signal, await self._found(signal)))
        await self.commands.committed()
        return Answer(body)

    async def list_signals(self, call: Call, _: Receive) -> Answer:
        """GET /api/signals"""
        fields = query(call.scope["query_string"], frozenset(SIGNAL_QUERY))
        tests = self._tests(fields)
        wanted = page_wanted(fields)
        fields.done()
        found = [signal for signal in self.signals.signals.values() if all(test(signal) for test in tests)]
        found.reverse()
        chosen = OrderFilter(limit=wanted.limit, offset=wanted.offset, before=wanted.before)
        page = page_of(found, len(found), chosen, _cursor_of)
        more = page.next_cursor is not None
        pagination = Pagination(page.total, wanted.number, wanted.limit, more, str(page.next_cursor) if more else None)
        views = [signal_view(signal, await self._found(signal)) for signal in page.items]
        body = encode_document(SignalList(self.api.kernel.clock.now_ns() // NS_PER_MS, views, pagination))
        await self.commands.committed()
        return Answer(body)

    def _tests(self, fields: Fields) -> list[Callable[[Signal], bool]]:
        """What a signal must be to be listed."""
        doc, tests = fields.doc, list[Callable[[Signal], bool]]()
        status = fields.choice("status", SIGNAL_STATUSES, str.lower)
        if status is not None:
            tests.append(lambda signal: signal.status == status)
        pair = doc.get("pair")
        if pair is not None and (error := pair_error(pair, self.rules.pairs)) is not None:
            fields.wrong("pair", "INVALID_PAIR", error)
        since_ms = fields.whole("since", 0, TIME_MS_MAX, "a time in ms")
        until_ms = fields.whole("until", 0, TIME_MS_MAX, "a time in ms")
        for name in ("pair", "strategy", "source"):
            if name in doc:
                tests.append(lambda signal, name=name: getattr(signal, name) == doc[name])  # type: ignore[misc]
        if since_ms is not None:
            tests.append(lambda signal: signal.created_ns >= since_ms * NS_PER_MS)
        if until_ms is not None:
            tests.append(lambda signal: signal.created_ns < until_ms * NS_PER_MS)
        return tests


def _cursor_of(signal: Signal) -> Cursor:
    return Cursor(signal.signal_id, signal.created_ns // NS_PER_MS)


def _nobody(_: object) -> None:
    """The reply of a command that is only looked at."""
