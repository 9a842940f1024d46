"""Whether the service is well: for people (/api/health), for who restarts it (/livez), for who sends traffic (/readyz).

Always true here: nothing is asked while a request waits; every answer is what was known already.
"""

from collections import Counter
from collections.abc import Iterable

import msgspec
from starlette.types import Receive

from ..core.kernel.bus import Bus
from ..core.kernel.conditions import Condition
from ..core.kernel.outbox import encode_document
from ..core.model.messages import OrderEnded
from ..core.model.records import Order, State
from ..strategies_bridge.services.health import ServiceStatus
from ..strategies_bridge.trading_loop import LoopView
from .context import Api, Readiness
from .wire import Answer, Call

NS_PER_MS = 1_000_000
SERVICE = "trading-bot-execution"


class RateLimitView(msgspec.Struct, frozen=True, rename="camel"):
    """What the venue still allows us."""

    remaining: int
    reset_time: int  # ms


class ExchangeHealth(msgspec.Struct, frozen=True, rename="camel"):
    """One venue."""

    status: str
    last_ping: int | None  # ms
    rate_limit: RateLimitView
    reason: str | msgspec.UnsetType = msgspec.UNSET
    latency_ms: float | msgspec.UnsetType = msgspec.UNSET  # of market data: from an event there to its frame here


class EngineHealth(msgspec.Struct, frozen=True, rename="camel"):
    """The execution engine since its orders in memory began."""

    status: str  # operational, reducing or halted
    orders_processed: int
    success_rate: float  # percent of ended orders that were not rejected
    average_execution_time: str  # from submission to the last fill
    reason: str | msgspec.UnsetType = msgspec.UNSET  # why it is not operational


class Health(msgspec.Struct, frozen=True, rename="camel"):
    """The answer to GET /api/health."""

    status: str  # healthy, degraded, unhealthy or standby
    service: str
    timestamp: int
    uptime: str  # HH:MM:SS; hours go on counting
    mode: str  # paper or live
    exchanges: dict[str, ExchangeHealth]
    services: dict[str, ServiceStatus]
    execution_engine: EngineHealth
    readiness: Readiness
    conditions: list[Condition]  # every degraded mode that holds, the oldest first
    role: str = "writer"  # or standby: another process of the node is the writer, this one waits
    trading_loop: LoopView | msgspec.UnsetType = msgspec.UNSET  # where TRADING_LOOP is true


class Tally:
    """Counts how orders end, from the bus."""

    def __init__(self, bus: Bus, orders: Iterable[Order] = ()) -> None:
        self.ended: Counter[State] = Counter()
        self.timed = 0  # filled ones that have a time of their last fill
        self.execution_ns = 0  # of those
        for order in orders:
            if order.ended:
                self.count(order)
        bus.subscribe(OrderEnded, self._changed)

    def _changed(self, change: OrderEnded) -> None:
        # The event's name, not the state: an ended order that changes once more is not another order.
        if change.type in ENDINGS:
            self.count(change.order)

    def count(self, order: Order) -> None:
        self.ended[order.state] += 1
        if order.state is State.FILLED and order.fill_ns is not None:
            self.timed += 1
            self.execution_ns += max(0, order.fill_ns - order.submit_ns)

    @property
    def processed(self) -> int:
        return self.ended.total()

    @property
    def success_rate(self) -> float:
        processed = self.processed
        return round(100 * (1 - self.ended[State.REJECTED] / processed), 2) if processed else 100.0

    @property
    def average_execution(self) -> str:
        return duration(self.execution_ns // self.timed) if self.timed else "0ms"


ENDINGS = frozenset(("OrderFilled", "OrderCancelled", "OrderRejected", "OrderExpired"))


def duration(ns: int) -> str:
    """1.2s as in the manual; milliseconds below a second."""
    return f"{ns / 1e9:.1f}s" if ns >= 1_000_000_000 else f"{ns / 1e6:.1f}ms"


def uptime(ns: int) -> str:
    seconds = max(0, ns) // 1_000_000_000
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


class HealthEndpoints:
    """/api/health, /livez and /readyz."""

    def __init__(self, api: Api, tally: Tally) -> None:
        self.api = api
        self.tally = tally

    def document(self) -> Health:
        api, tally = self.api, self.tally
        now_ns = api.kernel.clock.now_ns()
        exchanges = {}
        for venue in api.venues:
            status = venue.status()
            exchanges[venue.name] = ExchangeHealth(
                status.status,
                status.last_ping_ms,
                RateLimitView(status.rate_limit_remaining, status.rate_limit_reset_ms),
                status.reason or msgspec.UNSET,
                msgspec.UNSET if status.latency_ms is None else round(status.latency_ms, 1),
            )
        state = api.trading_state()
        engine = {"ACTIVE": "operational", "REDUCING": "reducing"}.get(state, "halted")
        readiness = api.readiness()
        conditions = api.kernel.conditions.held
        well = api.kernel.conditions.well and all(exchange.status == "connected" for exchange in exchanges.values())
        return Health(
            status="unhealthy" if not readiness.ready else "healthy" if well else "degraded",
            service=SERVICE,
            timestamp=now_ns // NS_PER_MS,
            uptime=uptime(now_ns - api.started_ns),
            mode="paper" if api.paper else "live",
            exchanges=exchanges,
            services=dict(api.services()),
            execution_engine=EngineHealth(
                engine,
                tally.processed,
                tally.success_rate,
                tally.average_execution,
                msgspec.UNSET if state == "ACTIVE" else api.trading_why(),
            ),
            readiness=readiness,
            conditions=conditions,
            trading_loop=api.trading_loop() or msgspec.UNSET,
        )

    async def health(self, _call: Call, _: Receive) -> Answer:
        """GET /api/health; 200 whatever it says, /readyz is for machines"""
        return Answer(encode_document(self.document()))

    async def live(self, _call: Call, _: Receive) -> Answer:
        """GET /livez: the process runs and its loop turns"""
        return Answer(b'{"status":"ok"}')

    async def ready(self, _call: Call, _: Receive) -> Answer:
        """GET /readyz: 200 where orders can be taken, else 503; both say why"""
        readiness = self.api.readiness()
        return Answer(encode_document(readiness), 200 if readiness.ready else 503)
