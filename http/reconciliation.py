"""Over HTTP: what comparisons with the exchanges found, and the orders on our accounts that are not of this service."""

import msgspec
from starlette.types import Receive

from ..core.kernel.outbox import encode_document
from ..core.model.comparisons import ExternalOrder, Reconciled
from ..core.model.messages import CancelExternal
from .commands import Commands
from .context import Api
from .schema import query
from .wire import Answer, Call, read_body

NS_PER_MS = 1_000_000
VENUE_WAIT_S = 10.0  # for the exchange's word on a cancel; then the answer is 202


class RunList(msgspec.Struct, frozen=True):
    """The answer to GET /api/reconciliation, the newest first."""

    timestamp: int
    runs: list[Reconciled]


class ExternalOrders(msgspec.Struct, frozen=True):
    """The answer to GET /api/orders/external: as the exchanges last listed them."""

    timestamp: int
    orders: list[ExternalOrder]


class ReconciliationEndpoints:
    """/api/reconciliation and /api/orders/external."""

    def __init__(self, api: Api, commands: Commands) -> None:
        self.api = api
        self.commands = commands

    async def runs(self, call: Call, _: Receive) -> Answer:
        """GET /api/reconciliation: the last comparisons with the exchanges"""
        query(call.scope["query_string"]).done()
        source = self.api.comparisons
        answer = RunList(self._now_ms(), list(source.runs) if source is not None else [])
        await self.commands.committed()
        return Answer(encode_document(answer))

    async def external(self, call: Call, _: Receive) -> Answer:
        """GET /api/orders/external: open orders on our accounts that are not of this service"""
        query(call.scope["query_string"]).done()
        source = self.api.comparisons
        answer = ExternalOrders(self._now_ms(), source.external if source is not None else [])
        await self.commands.committed()
        return Answer(encode_document(answer))

    async def cancel_external(self, call: Call, receive: Receive) -> Answer:
        """DELETE /api/orders/external/{exchange}/{pair}/{venue_order_id}: cancel one of them"""
        await read_body(receive, call)
        exchange, pair, number = (call.params[name] for name in ("exchange", "pair", "venue_order_id"))
        outcome = await self.commands.carry_out(
            lambda reply: CancelExternal(exchange=exchange, pair=pair, venue_order_id=number, reply=reply),
            VENUE_WAIT_S,
        )
        if outcome is not None:
            return Answer(encode_document(outcome))
        listed = self.api.comparisons.external if self.api.comparisons is not None else []
        wanted = (exchange, pair, number)
        still = [order for order in listed if (order.exchange, order.pair, order.venue_order_id) == wanted]
        return Answer(encode_document(ExternalOrders(self._now_ms(), still)), 202)

    def _now_ms(self) -> int:
        return self.api.kernel.clock.now_ns() // NS_PER_MS
