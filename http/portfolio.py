"""Portfolio, positions and the consolidated book over HTTP."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import msgspec
from starlette.types import Receive

from ..core.kernel.outbox import encode_document
from ..core.model.exact import QUANTITY_MAX
from ..core.model.messages import ClosePosition, Submitted
from ..core.model.order_views import number, order_placed
from ..core.model.views import PositionView
from .commands import Commands
from .context import Api
from .orders import archived_repeat, as_it_is_now, idempotency_key
from .problems import Problem
from .schema import CLOSE_FIELDS, Fields, checked_key, document, pair_error, query
from .wire import Answer, Call, read_body

BUY, SELL = 1, -1
DEPTH_DEFAULT, DEPTH_MAX = 20, 500
NS_PER_MS = 1_000_000
BOOK_FIELDS = frozenset(("depth", "exchange"))


class PositionList(msgspec.Struct, frozen=True):
    """The answer to GET /api/positions."""

    timestamp: int
    positions: list[PositionView]


class BookLevel(msgspec.Struct, frozen=True, gc=False):
    """One price at one exchange."""

    price: Decimal
    quantity: Decimal
    exchange: str


class BookState(msgspec.Struct, frozen=True, rename="camel"):
    """Whether a venue's book counts."""

    fresh: bool  # in step with the venue and updated within two seconds; else it is not in the levels
    last_update: int | None  # ms


class ConsolidatedBook(msgspec.Struct, frozen=True, rename="camel"):
    """The answer to GET /api/book/{pair}: the books of all venues as one, best price first."""

    timestamp: int
    pair: str
    bids: list[BookLevel]
    asks: list[BookLevel]
    best_bid: Decimal | None
    best_ask: Decimal | None
    exchanges: dict[str, BookState]


def consolidated_book(api: Api, pair: str, depth: int, exchange: str | None = None) -> ConsolidatedBook:
    """The best `depth` levels of each side over all venues whose book is fresh."""
    now_ns = api.kernel.clock.now_ns()
    bids: list[BookLevel] = []
    asks: list[BookLevel] = []
    states: dict[str, BookState] = {}
    for name in api.exchanges_of(pair):
        if exchange not in (None, name):
            continue
        fresh, updated_ns = api.market.fresh(name, pair, now_ns), api.market.updated_ns(name, pair)
        states[name] = BookState(fresh, updated_ns // NS_PER_MS if updated_ns else None)
        if fresh:
            instrument, book = api.instruments[name, pair], api.market.book(name, pair)
            for side, levels in ((BUY, bids), (SELL, asks)):
                for ticks, lots in book.levels(side, depth):
                    price, quantity = number(ticks, instrument.tick), number(lots, instrument.lot)
                    levels.append(BookLevel(price, quantity, name))
    bids.sort(key=lambda level: level.price, reverse=True)
    asks.sort(key=lambda level: level.price)
    return ConsolidatedBook(
        timestamp=now_ns // NS_PER_MS,
        pair=pair,
        bids=bids[:depth],
        asks=asks[:depth],
        best_bid=bids[0].price if bids else None,
        best_ask=asks[0].price if asks else None,
        exchanges=states,
    )


class PortfolioEndpoints:
    """Everything under /api/portfolio, /api/positions and /api/book."""

    def __init__(self, api: Api, commands: Commands) -> None:
        self.api = api
        self.commands = commands

    def _view(self) -> Any:
        return self.api.portfolio.view(self.api.paper, self.api.kernel.clock.now_ns())

    async def portfolio(self, call: Call, _: Receive) -> Answer:
        """GET /api/portfolio"""
        query(call.scope["query_string"]).done()
        body = encode_document(self._view())
        await self.commands.committed()
        return Answer(body)

    async def refresh(self, call: Call, receive: Receive) -> Answer:
        """POST /api/portfolio/refresh: reconcile with the venues, then answer"""
        await read_body(receive, call)
        await self.api.refresh()
        return await self.portfolio(call, receive)

    async def positions(self, call: Call, _: Receive) -> Answer:
        """GET /api/positions"""
        query(call.scope["query_string"]).done()
        view = self._view()
        body = encode_document(PositionList(view.timestamp, view.positions))
        await self.commands.committed()
        return Answer(body)

    async def close(self, call: Call, receive: Receive) -> Answer:
        """POST /api/positions/{position_id}/close: all of it, or {"quantity": ...}"""
        body = await read_body(receive, call)
        quantity = None
        if body:
            fields = Fields(document(body), CLOSE_FIELDS)
            quantity = fields.positive("quantity", QUANTITY_MAX)
            fields.done()
        position_id = call.params["position_id"]
        key, mark = None, ""
        if b"idempotency-key" in call.headers:
            key = checked_key(idempotency_key(call.headers[b"idempotency-key"]))
            mark = f"close {position_id} {quantity}"
            repeat = await archived_repeat(self.api, key, mark)
            if repeat is not None:
                return _placed(repeat)
        submitted = await self.commands.carry_out(
            lambda reply: ClosePosition(
                position_id=position_id, reply=reply, quantity=quantity, client_order_id=key, fingerprint=mark
            )
        )
        extra: list[tuple[bytes, bytes]] = []
        if b"prefer" in call.headers:
            extra = await self.commands.wait_as_preferred(call.headers[b"prefer"], submitted.order)
            submitted = as_it_is_now(self.api, submitted)
        return _placed(submitted, extra)

    async def book(self, call: Call, _: Receive) -> Answer:
        """GET /api/book/{pair}"""
        pair = call.params["pair"]
        error = pair_error(pair, self.api.pairs())
        if error is not None:
            raise Problem(404, "INVALID_PAIR", error)
        fields = query(call.scope["query_string"], BOOK_FIELDS)
        depth = fields.whole("depth", 1, DEPTH_MAX, "a number of levels") or DEPTH_DEFAULT
        exchange = fields.doc.get("exchange")
        if exchange is not None and exchange not in self.api.exchanges_of(pair):
            known = ", ".join(self.api.exchanges_of(pair))
            fields.wrong("exchange", "INVALID_EXCHANGE", f"{pair} is traded at {known}")
        fields.done()
        return Answer(encode_document(consolidated_book(self.api, pair, depth, exchange)))


def _placed(submitted: Submitted, extra: Sequence[tuple[bytes, bytes]] = ()) -> Answer:
    location = b"/api/orders/" + submitted.order.order_id.encode()
    status = 200 if submitted.repeated else 201
    return Answer(encode_document(order_placed(submitted)), status, [(b"location", location), *extra])
