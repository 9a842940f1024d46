"""Orders and trades over HTTP.

Always true here: an order is answered after its commit; the same request twice (clientOrderId or Idempotency-Key) is
one order; what is listed is committed.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
from starlette.types import Receive

from ..core.kernel.outbox import encode_document
from ..core.model.exact import PRICE_MAX, QUANTITY_MAX
from ..core.model.messages import (
    AmendOrder,
    CancelOrder,
    CancelOrders,
    Refusal,
    Reply,
    ResolveOrder,
    SubmitOrder,
    Submitted,
)
from ..core.model.order_views import (
    STATUS,
    FillView,
    OrderPlaced,
    OrderView,
    fill_view,
    order_detail,
    order_placed,
    order_view,
)
from ..core.model.records import Fill, Order, State
from ..core.orders.queries import ACTIVE_STATES, ENDED_STATES, Cursor, OrderFilter, OrderWithFills, Page
from .commands import Commands
from .context import Api
from .problems import Problem, ProblemDocument, invalid, not_found, refused
from .schema import (
    AMEND_FIELDS,
    OUTCOMES,
    RESOLVE_FIELDS,
    SIDES,
    TEXT_MAX,
    TIME_MS_MAX,
    Document,
    Fields,
    OrderRules,
    any_document,
    document,
    nearest,
    one_of,
    pair_error,
    query,
)
from .wire import Answer, Call, read_body

BATCH_MAX = 50
# How long a cancel or an amend is held for the venue's word; then the answer is 202.
VENUE_WAIT_S = 10.0
NO_KEY = "an operator without a key"  # who resolves an order where no API keys are set
LIMIT_DEFAULT, LIMIT_MAX = 50, 500
# Items that a page number may skip; further back goes with `cursor`, which costs the same everywhere.
OFFSET_MAX = 20_000
# Ended orders do not change: the documents of those that were listed last are kept as they were encoded, 1 KB each.
ENCODED_MAX = 10_000
NS_PER_MS = 1_000_000

LIST_FIELDS = frozenset(("pair", "exchange", "side", "since", "until", "limit", "page", "cursor"))
ORDER_LIST_FIELDS = LIST_FIELDS | {"status", "nested"}
TRADE_LIST_FIELDS = LIST_FIELDS | {"orderId"}
BATCH_FIELDS = frozenset(("orders",))
CANCEL_FIELDS = frozenset(("pair", "exchange"))
STATES_OF: dict[str, tuple[State, ...]] = {
    **{status: (state,) for state, status in STATUS.items()},
    "active": ACTIVE_STATES,
    "ended": ENDED_STATES,
}


class Pagination(msgspec.Struct, frozen=True, rename="camel"):
    """Where in a list a page lies."""

    total: int
    page: int | None  # null where a cursor was given
    limit: int
    has_more: bool
    next_cursor: str | None


class OrderList(msgspec.Struct, frozen=True):
    """The answer to GET /api/orders."""

    timestamp: int
    orders: list[OrderView]
    pagination: Pagination


class TradeList(msgspec.Struct, frozen=True):
    """The answer to GET /api/trades."""

    timestamp: int
    trades: list[FillView]
    pagination: Pagination


class BatchResult(msgspec.Struct, frozen=True, omit_defaults=True):
    """One answer of a batch: an order or a problem."""

    status: int
    order: OrderPlaced | None = None
    problem: ProblemDocument | None = None


class BatchResults(msgspec.Struct, frozen=True):
    """The answer to POST /api/orders/batch, in the order of the requests."""

    timestamp: int
    results: list[BatchResult]


class CancelResults(msgspec.Struct, frozen=True):
    """The answer to DELETE /api/orders: every order that was open, as it is now."""

    timestamp: int
    cancelled: int
    orders: list[OrderView]


class Placed(msgspec.Struct, frozen=True, gc=False):
    """A new order and its document, made at the moment of its commit: what came later is not in it."""

    submitted: Submitted
    view: OrderPlaced


def _placed(outcome: Any) -> Any:
    return Placed(outcome, order_placed(outcome)) if outcome.__class__ is Submitted else outcome


class OrderEndpoints:
    """Everything under /api/orders, and /api/trades."""

    def __init__(self, api: Api, commands: Commands, rules: OrderRules) -> None:
        self.api = api
        self.commands = commands
        self.rules = rules
        self._encoded: dict[str, tuple[int, int, bytes]] = {}

    def _now_ms(self) -> int:
        return self.api.kernel.clock.now_ns() // NS_PER_MS

    # --- placing

    async def place(self, call: Call, receive: Receive) -> Answer:
        """POST /api/orders"""
        doc = document(await read_body(receive, call))
        headers, rules, now_ms = call.headers, self.rules, self._now_ms()
        try:
            key = idempotency_key(headers[b"idempotency-key"]) if b"idempotency-key" in headers else None
            repeat = await self._archived_repeat(doc, key, now_ms)
            if repeat is not None:
                location = (b"location", b"/api/orders/" + repeat.order.order_id.encode())
                return Answer(encode_document(order_placed(repeat)), 200, [location])
            placed = await self.commands.carry_out(
                lambda reply: rules.submit_order(doc, lambda outcome: reply(_placed(outcome)), now_ms, key)
            )
        except Problem as problem:
            if problem.refusal is None or problem.refusal.order is None:  # else the log has it from the order's event
                facts = {"code": problem.code, "detail": problem.detail, "pair": doc.get("pair")}
                self.api.log.error("ORDER_FAILED", facts)
            raise
        extra = [(b"location", b"/api/orders/" + placed.view.order_id.encode())]
        if b"prefer" in headers:
            extra += await self.commands.wait_as_preferred(headers[b"prefer"], placed.submitted.order)
            placed = _placed(as_it_is_now(self.api, placed.submitted))
        return Answer(encode_document(placed.view), 200 if placed.submitted.repeated else 201, extra)

    async def _archived_repeat(self, doc: Document, key: str | None, now_ms: int) -> Submitted | None:
        """What a request is answered whose order has left memory; None where there is no such order."""
        if (key is None and "clientOrderId" not in doc) or not self.api.archive_used():
            return None
        request = self.rules.submit_order(doc, _nobody, now_ms, key)
        assert request.client_order_id is not None
        return await archived_repeat(self.api, request.client_order_id, request.fingerprint)

    async def batch(self, call: Call, receive: Receive) -> Answer:
        """POST /api/orders/batch: {"orders": [...]}, each taken or refused by itself."""
        docs = batch_of(any_document(await read_body(receive, call)))
        if b"idempotency-key" in call.headers:
            raise Problem(422, "INVALID_VALUE", "an Idempotency-Key names one order; give each a clientOrderId")
        now_ms = self._now_ms()
        pending = [await self._send_one(doc, now_ms) for doc in docs]
        results = []
        for number, item in enumerate(pending):
            outcome = item if isinstance(item, Problem | Submitted) else await self.commands.wait_for(item)
            results.append(batch_result(outcome, f"{call.scope['path']}#{number}"))
        return Answer(encode_document(BatchResults(now_ms, results)))

    async def _send_one(self, doc: object, now_ms: int) -> Any:
        """A future of the outcome, or the outcome where it is known."""
        if not isinstance(doc, dict):
            return Problem(422, "WRONG_TYPE", "an order is an object")
        rules = self.rules
        try:
            repeat = await self._archived_repeat(doc, None, now_ms)
            if repeat is not None:
                return repeat
            return self.commands.send(lambda reply: rules.submit_order(doc, reply, now_ms))
        except Problem as problem:
            return problem

    async def preview(self, call: Call, receive: Receive) -> Answer:
        """POST /api/orders/preview: checks and expectations; nothing is sent or put on record."""
        doc = document(await read_body(receive, call))
        command: SubmitOrder = self.rules.submit_order(doc, _nobody, self._now_ms())
        outcome = await self.api.preview(command)
        if isinstance(outcome, Refusal):
            raise refused(outcome)
        return Answer(encode_document(outcome))

    # --- one order

    async def get(self, call: Call, _: Receive) -> Answer:
        """GET /api/orders/{order_id}"""
        query(call.scope["query_string"]).done()
        order_id = call.params["order_id"]
        found = await self.api.queries.order(order_id)
        if found is None:
            raise not_found("ORDER_NOT_FOUND", f"there is no order {order_id[:64]!r}")
        return await self._one(found)

    async def get_by_client_id(self, call: Call, _: Receive) -> Answer:
        """GET /api/orders/client/{client_order_id}"""
        query(call.scope["query_string"]).done()
        client_order_id = call.params["client_order_id"]
        found = await self.api.queries.order_by_client_id(client_order_id)
        if found is None:
            raise not_found("ORDER_NOT_FOUND", f"there is no order with clientOrderId {client_order_id[:64]!r}")
        return await self._one(found)

    async def _one(self, found: OrderWithFills) -> Answer:
        body = encode_document(order_detail(*found))
        await self.commands.committed()
        return Answer(body)

    async def amend(self, call: Call, receive: Receive) -> Answer:
        """PATCH /api/orders/{order_id}: quantity, price, stopPrice"""
        fields = Fields(document(await read_body(receive, call)), AMEND_FIELDS)
        quantity = fields.positive("quantity", QUANTITY_MAX)
        price, stop_price = fields.positive("price", PRICE_MAX), fields.positive("stopPrice", PRICE_MAX)
        if not fields.errors and quantity is None and price is None and stop_price is None:
            raise Problem(422, "REQUIRED", "nothing to amend: give quantity, price or stopPrice")
        fields.done()
        order_id = await self._held(call)
        return await self._change(
            call,
            order_id,
            lambda reply: AmendOrder(
                order_id=order_id, reply=reply, quantity=quantity, price=price, stop_price=stop_price
            ),
        )

    async def cancel(self, call: Call, receive: Receive) -> Answer:
        """DELETE /api/orders/{order_id}"""
        await read_body(receive, call)
        order_id = await self._held(call)
        return await self._change(call, order_id, lambda reply: CancelOrder(order_id=order_id, reply=reply))

    async def resolve(self, call: Call, receive: Receive) -> Answer:
        """POST /api/orders/{order_id}/resolve: an operator's word on an order whose outcome is in doubt"""
        fields = Fields(document(await read_body(receive, call)), RESOLVE_FIELDS)
        outcome = fields.choice("outcome", OUTCOMES, str.lower)
        if fields.doc.get("outcome") is None:
            fields.missing("outcome", f"is required, {one_of(OUTCOMES)}")
        reason = fields.text("reason")
        if fields.doc.get("reason") is None and outcome != "ask":
            fields.missing("reason", "is required: how the outcome is known")
        fields.done()
        order_id, by = await self._held(call), call.key_name or NO_KEY
        return await self._change(
            call,
            order_id,
            lambda reply: ResolveOrder(order_id=order_id, outcome=outcome, by=by, reason=reason or "", reply=reply),
        )

    async def _held(self, call: Call) -> str:
        """The id in the path; an order in the archive ended long ago and takes no change."""
        order_id = call.params["order_id"]
        if order_id in self.api.queries.source.orders:
            return order_id
        found = await self.api.queries.order(order_id)
        if found is None:
            raise not_found("ORDER_NOT_FOUND", f"there is no order {order_id[:64]!r}")
        detail = f"order {order_id} is {STATUS[found[0].state]} and takes no change"
        raise refused(Refusal(code="ORDER_ENDED", detail=detail, status=409))

    async def _change(self, call: Call, order_id: str, build: Callable[[Reply], Any]) -> Answer:
        """200 with the changed order; 202 with the order as it is where the venue has not answered in time."""
        order = await self.commands.carry_out(build, VENUE_WAIT_S)
        status = 200 if order is not None else 202
        order = order if order is not None else self.api.queries.source.orders[order_id]
        extra = (
            await self.commands.wait_as_preferred(call.headers[b"prefer"], order) if b"prefer" in call.headers else []
        )
        body = encode_document(order_detail(order, self.api.queries.source.fills_of(order_id)))
        return Answer(body, status, extra)

    async def cancel_many(self, call: Call, receive: Receive) -> Answer:
        """DELETE /api/orders?pair=&exchange="""
        await read_body(receive, call)
        fields = query(call.scope["query_string"], CANCEL_FIELDS)
        pair, exchange = self._place(fields)
        fields.done()
        orders: list[Order] | None = await self.commands.carry_out(
            lambda reply: CancelOrders(reply=reply, pair=pair, exchange=exchange), VENUE_WAIT_S
        )
        status = 200 if orders is not None else 202
        if orders is None:
            orders = [o for o in self.api.queries.source.orders.values() if o.cancel_requested and not o.ended]
        fills_of = self.api.queries.source.fills_of
        views = [order_view(order, fills_of(order.order_id)) for order in orders]
        cancelled = sum(order.state is State.CANCELLED for order in orders)
        return Answer(encode_document(CancelResults(self._now_ms(), cancelled, views)), status)

    # --- lists

    async def list_orders(self, call: Call, _: Receive) -> Answer:
        """GET /api/orders"""
        fields = query(call.scope["query_string"], ORDER_LIST_FIELDS)
        states = self._states(fields)
        nested = _query_flag(fields, "nested")
        wanted, page_number = self._filter(fields, states=states, top_level=nested)
        page = await self.api.queries.select(wanted)
        if nested:
            chunks = [encode_document(await self._with_legs(order, fills)) for order, fills in page.items]
        else:
            chunks = [self._encode(order, fills) for order, fills in page.items]
        return await self._page(b"orders", chunks, page, wanted, page_number)

    async def list_trades(self, call: Call, _: Receive) -> Answer:
        """GET /api/trades"""
        fields = query(call.scope["query_string"], TRADE_LIST_FIELDS)
        wanted, page_number = self._filter(fields, order_id=fields.text("orderId"))
        page: Page[Fill] = await self.api.queries.select_fills(wanted)
        chunks = [encode_document(fill_view(fill)) for fill in page.items]
        return await self._page(b"trades", chunks, page, wanted, page_number)

    async def _page(
        self, name: bytes, chunks: list[bytes], page: Page[Any], wanted: OrderFilter, page_number: int | None
    ) -> Answer:
        more = page.next_cursor is not None
        cursor = str(page.next_cursor) if page.next_cursor is not None else None
        pagination = encode_document(Pagination(page.total, page_number, wanted.limit, more, cursor))
        body = b'{"timestamp":%d,"%b":[%b],"pagination":%b}' % (self._now_ms(), name, b",".join(chunks), pagination)
        await self.commands.committed()
        return Answer(body)

    def _encode(self, order: Order, fills: Any) -> bytes:
        known = self._encoded.get(order.order_id)
        if known is not None and known[0] == order.updated_ns and known[1] == order.filled_lots:
            return known[2]
        body = encode_document(order_view(order, fills))
        if order.ended:
            if len(self._encoded) >= ENCODED_MAX:
                del self._encoded[next(iter(self._encoded))]
            self._encoded[order.order_id] = (order.updated_ns, order.filled_lots, body)
        return body

    async def _with_legs(self, order: Order, fills: Any) -> OrderView:
        legs = []
        for leg_id in (order.stop_loss_id, order.take_profit_id):
            leg = await self.api.queries.order(leg_id) if leg_id is not None else None
            if leg is not None:
                legs.append(order_view(*leg))
        return order_view(order, fills, legs)

    # --- parameters

    def _filter(self, fields: Fields, **more: Any) -> tuple[OrderFilter, int | None]:
        """The filter, and the number of the page; raises Problem 422."""
        pair, exchange = self._place(fields)
        page = page_wanted(fields)
        since_ms = fields.whole("since", 0, TIME_MS_MAX, "a time in ms")
        until_ms = fields.whole("until", 0, TIME_MS_MAX, "a time in ms")
        side = fields.choice("side", SIDES, str.lower)
        fields.done()
        wanted = OrderFilter(
            pair=pair,
            exchange=exchange,
            side=side,
            since_ns=None if since_ms is None else since_ms * NS_PER_MS,
            until_ns=None if until_ms is None else until_ms * NS_PER_MS,
            limit=page.limit,
            offset=page.offset,
            before=page.before,
            **more,
        )
        return wanted, page.number

    def _place(self, fields: Fields) -> tuple[str | None, str | None]:
        pair, exchange = fields.doc.get("pair"), fields.doc.get("exchange")
        if pair is not None:
            error = pair_error(pair, self.rules.pairs)
            if error is not None:
                fields.wrong("pair", "INVALID_PAIR", error)
        if exchange is not None and exchange not in self.rules.exchanges:
            known = ", ".join(sorted(self.rules.exchanges))
            fields.wrong("exchange", "INVALID_EXCHANGE", f"{exchange[:40]!r} is none of {known}")
        return pair, exchange

    def _states(self, fields: Fields) -> tuple[State, ...] | None:
        """One status or several with commas; `active` and `ended` stand for all of their kind."""
        text = fields.doc.get("status")
        if text is None:
            return None
        states: list[State] = []
        for word in text.lower().split(","):
            if word in STATES_OF:
                states += STATES_OF[word]
            else:
                detail = f"{word[:40]!r} is none of {', '.join(STATES_OF)}{nearest(word, STATES_OF)}"
                fields.wrong("status", "INVALID_VALUE", detail)
                break
        return tuple(states)


def as_it_is_now(api: Api, submitted: Submitted) -> Submitted:
    """An answer that has waited: with the order as it has become since."""
    order = api.queries.source.orders.get(submitted.order.order_id)
    return submitted if order is None else msgspec.structs.replace(submitted, order=order)


async def archived_repeat(api: Api, client_order_id: str, fingerprint: str) -> Submitted | None:
    """The answer to a repeat of a request whose order is archived; raises Problem where it was another request."""
    queries = api.queries
    if not api.archive_used() or queries.source.by_client_id(client_order_id) is not None:
        return None
    found = await queries.order_by_client_id(client_order_id)
    if found is None:
        return None
    order = found[0]
    if order.fingerprint != fingerprint:
        detail = f"{client_order_id!r} was used for another order ({order.order_id}); use a new id for a new order"
        raise Problem(422, "IDEMPOTENCY_MISMATCH", detail)
    if order.state is State.REJECTED and order.risk is not None and not order.risk.passed:
        raise refused(Refusal(code=order.code or "REJECTED", detail=order.reason or "", order=order))
    return Submitted(order, True)


def idempotency_key(header: bytes) -> str:
    """The header as the draft writes it, a quoted string, or bare."""
    text = header.decode("latin-1").strip()
    return text[1:-1] if len(text) >= 2 and text[0] == text[-1] == '"' else text


def batch_of(doc: object) -> list[object]:
    """The orders of a batch; raises Problem 422."""
    if not isinstance(doc, dict):
        raise Problem(422, "WRONG_TYPE", 'expected {"orders": [...]}')
    fields = Fields(doc, BATCH_FIELDS)
    orders = doc.get("orders")
    if orders is None:
        fields.missing("orders")
    elif not isinstance(orders, list):
        fields.wrong("orders", "WRONG_TYPE", "expected an array of orders")
    elif not 1 <= len(orders) <= BATCH_MAX:
        fields.wrong("orders", "OUT_OF_RANGE", f"{len(orders)} orders; expected 1 to {BATCH_MAX}")
    else:
        fields.done()
        return orders
    raise invalid(fields.errors)


def batch_result(outcome: object, instance: str) -> BatchResult:
    if isinstance(outcome, Submitted):
        return BatchResult(200 if outcome.repeated else 201, order=order_placed(outcome))
    problem = refused(outcome) if isinstance(outcome, Refusal) else outcome
    assert isinstance(problem, Problem)
    return BatchResult(problem.status, problem=problem.document(instance))


def _query_flag(fields: Fields, name: str) -> bool:
    text = fields.doc.get(name)
    if text in (None, "false", "true"):
        return text == "true"
    fields.wrong(name, "INVALID_VALUE", "expected true or false")
    return False


class PageWanted(NamedTuple):
    """Which page of a list a query asks for."""

    limit: int
    number: int | None  # None where a cursor was given
    before: Cursor | None

    @property
    def offset(self) -> int:
        return 0 if self.number is None else (self.number - 1) * self.limit


def page_wanted(fields: Fields) -> PageWanted:
    """`limit`, `page` and `cursor` of a list; what is wrong is noted in `fields`."""
    limit = fields.whole("limit", 1, LIMIT_MAX, "a number of items") or LIMIT_DEFAULT
    page = fields.whole("page", 1, 10**9, "a page") or 1
    if (page - 1) * limit > OFFSET_MAX:
        fields.wrong("page", "OUT_OF_RANGE", f"skips more than {OFFSET_MAX} items; go on with cursor=nextCursor")
    cursor = _cursor(fields)
    if cursor is not None and "page" in fields.doc:
        fields.wrong("page", "INVALID_VALUE", "page and cursor exclude each other")
    return PageWanted(limit, None if cursor is not None else page, cursor)


def _cursor(fields: Fields) -> Cursor | None:
    text = fields.doc.get("cursor")
    if text is None:
        return None
    try:
        return Cursor.parse(text[:TEXT_MAX])
    except ValueError:
        fields.wrong("cursor", "INVALID_VALUE", "expected the nextCursor of an earlier answer")
        return None


def _nobody(_: object) -> None:
    """The reply of a command that is only looked at."""
