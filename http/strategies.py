"""What each strategy holds and how it does, over HTTP.

A strategy is a name: of `signalData.strategy` of orders and signals, or of code that runs in this process.
"""

from collections import Counter
from decimal import Decimal

import msgspec
from starlette.types import Receive

from ..core.kernel.outbox import encode_document
from ..core.model.records import strategy_of
from ..core.model.views import SubPositionView
from .commands import Commands
from .context import Api, RunningView
from .schema import query
from .wire import Answer, Call

NS_PER_MS = 1_000_000


class StrategyView(msgspec.Struct, frozen=True, rename="camel"):
    """One strategy: what it holds, and how its trades went."""

    name: str
    running: RunningView | None  # null: it does not run in this process
    open_orders: int
    positions: list[SubPositionView]  # those that it holds anything of
    closed: int  # round trips ended
    won: int  # of those, with a profit
    win_rate: Decimal | None  # in percent; null until one ended
    realised_pnl: Decimal | None = msgspec.field(name="realisedPnL")  # of all pairs in base currency; null: no price


class StrategyList(msgspec.Struct, frozen=True):
    """The answer to GET /api/strategies."""

    timestamp: int
    strategies: list[StrategyView]


class StrategyEndpoints:
    """Everything under /api/strategies."""

    def __init__(self, api: Api, commands: Commands) -> None:
        self.api = api
        self.commands = commands

    async def strategies(self, call: Call, _: Receive) -> Answer:
        """GET /api/strategies: those that run here, have open orders, or have ever held anything"""
        query(call.scope["query_string"]).done()
        body = encode_document(self.document())
        await self.commands.committed()
        return Answer(body)

    def document(self) -> StrategyList:
        api = self.api
        now_ns = api.kernel.clock.now_ns()
        if api.subledgers is None:
            return StrategyList(now_ns // NS_PER_MS, [])
        api.portfolio.view(api.paper, now_ns)  # takes the present prices
        orders = Counter(strategy_of(order) for order in api.open_orders() if order.paper == api.paper)
        running, held = api.strategies(), api.subledgers
        found = []
        for name in sorted({*held.names(), *running, *orders} - {""}):
            ledger = held.view(name)
            found.append(
                StrategyView(
                    name=name,
                    running=running.get(name),
                    open_orders=orders[name],
                    positions=ledger.positions,
                    closed=ledger.closed,
                    won=ledger.won,
                    win_rate=ledger.win_rate,
                    realised_pnl=ledger.realised_pnl,
                )
            )
        return StrategyList(now_ns // NS_PER_MS, found)
