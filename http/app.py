"""The application: which path goes where, with which scope, behind one gate.

Always true here: ROUTES is the whole surface of the service; the OpenAPI document is made from the same table.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.routing import Route, Router, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from ..core.model.comparisons import ExternalOrder
from ..core.model.order_views import OrderPlaced, OrderPreview, OrderView, fill_view, order_update
from ..core.model.views import PortfolioView
from ..core.risk.drill import DrillReport
from ..core.risk.overview import RiskView
from .commands import Commands
from .context import Api, Readiness, RunningView
from .feed import BOOK, MESSAGE_MAX, Feed
from .gate import Gate
from .health import Health, HealthEndpoints, Tally
from .metrics import Metrics
from .openapi import (
    DeadManRequest,
    DrillRequest,
    Operation,
    OrderAmendment,
    OrderBatch,
    OrderRequest,
    OrderResolution,
    PositionClosing,
    SignalRequest,
    TradingStateRequest,
    docs_page,
    openapi,
)
from .orders import BatchResults, CancelResults, OrderEndpoints, OrderList, TradeList
from .portfolio import ConsolidatedBook, PortfolioEndpoints, PositionList, consolidated_book
from .problems import Problem
from .reconciliation import ExternalOrders, ReconciliationEndpoints, RunList
from .risk import DeadManState, RiskEndpoints
from .schema import OrderRules
from .signals import SIGNAL_QUERY, SignalEndpoints, SignalList, SignalRules, SignalView
from .strategies import StrategyEndpoints, StrategyList
from .strategy_control import StrategyControl
from .wire import SECURITY, Answer, Call, respond

Endpoint = Callable[[Call, Receive], Awaitable[Answer]]
SNAPSHOT_TRADES_MAX = 100
SNAPSHOT_DEPTH = 20


class Handler:
    """One method of one path, as an ASGI application; `scope` None lets everybody in."""

    def __init__(self, endpoint: Endpoint, scope: str | None) -> None:
        self.endpoint = endpoint
        self.scope = scope

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        call: Call = scope["call"]
        if self.scope is not None and self.scope not in call.scopes:
            call.need(self.scope)
        await respond(send, call, await self.endpoint(call, receive))


class MethodRoute(Route):
    """A path with one method; another method of a known path is answered as a problem."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.methods and scope["method"] not in self.methods:
            allowed = sorted({m for r in scope["router"].routes if _same_path(r, scope) for m in r.methods})
            allow = ", ".join(allowed)
            detail = f"{scope['method'][:20]} is not possible here; {allow} are"
            raise Problem(405, "METHOD_NOT_ALLOWED", detail, headers=[(b"allow", allow.encode())])
        await self.app(scope, receive, send)


def _same_path(route: Any, scope: Scope) -> bool:
    return isinstance(route, Route) and route.path_regex.match(scope["path"]) is not None


async def _nothing_there(scope: Scope, _receive: Receive, _send: Send) -> None:
    if scope["type"] == "websocket":
        raise Problem(404, "NOT_FOUND", "the feed is at /ws")
    raise Problem(404, "NOT_FOUND", f"there is nothing at {scope['path'][:200]}; /docs shows what there is")


class App:
    """The service's surface. `asgi` is what a server runs; `close` says goodbye to the feed's clients."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self.commands = Commands(api.kernel, api.loop, api.queries.source.orders.get)
        self.tally = Tally(api.kernel.bus, api.queries.source.orders.values())
        self.orders = OrderEndpoints(api, self.commands, OrderRules(api.pairs(), api.exchanges()))
        self.portfolio = PortfolioEndpoints(api, self.commands)
        self.reconciliation = ReconciliationEndpoints(api, self.commands)
        self.strategies = StrategyEndpoints(api, self.commands)
        self.signals = SignalEndpoints(api, self.commands, SignalRules(api.pairs(), api.exchanges()))
        self.strategy_control = StrategyControl(self.commands)
        self.risk = RiskEndpoints(api, self.commands)
        self.health = HealthEndpoints(api, self.tally)
        self.feed = Feed(
            api.kernel,
            api.loop,
            api.journal,
            api.epoch,
            pairs=api.pairs(),
            snapshot=self.snapshot,
            api_keys=api.settings.api_keys,
            portfolio_every_s=api.settings.position_update_interval_ns / 1e9,
        )
        api.kernel.feed.append(self.feed.committed)
        self.metrics = Metrics(api, self.tally, self.feed)
        self.operations = self._operations()
        self._openapi = openapi(self.operations)
        self.asgi = self._gate()

    async def close(self) -> None:
        self.commands.let_go()
        await self.feed.close()

    # --- the table

    def _operations(self) -> list[Operation]:
        orders, portfolio, health, compared = self.orders, self.portfolio, self.health, self.reconciliation
        op = Operation
        # fmt: off
        return [
            # The hot path first: routes are tried in this order.
            op("POST", "/api/orders", orders.place, "trade", OrderRequest, OrderPlaced, 201),
            op("GET", "/api/orders", orders.list_orders, "read", None, OrderList, query=ORDER_QUERY),
            op("DELETE", "/api/orders", orders.cancel_many, "trade", None, CancelResults, query=("pair", "exchange")),
            op("POST", "/api/orders/batch", orders.batch, "trade", OrderBatch, BatchResults),
            op("POST", "/api/orders/preview", orders.preview, "read", OrderRequest, OrderPreview),
            op("GET", "/api/orders/client/{client_order_id}", orders.get_by_client_id, "read", None, OrderView),
            op("GET", "/api/orders/external", compared.external, "read", None, ExternalOrders),
            op("DELETE", "/api/orders/external/{exchange}/{pair}/{venue_order_id}", compared.cancel_external, "admin",
               None, ExternalOrder),
            op("GET", "/api/orders/{order_id}", orders.get, "read", None, OrderView),
            op("PATCH", "/api/orders/{order_id}", orders.amend, "trade", OrderAmendment, OrderView),
            op("DELETE", "/api/orders/{order_id}", orders.cancel, "trade", None, OrderView),
            op("POST", "/api/orders/{order_id}/resolve", orders.resolve, "admin", OrderResolution, OrderView),
            op("GET", "/api/trades", orders.list_trades, "read", None, TradeList, query=TRADE_QUERY),
            op("GET", "/api/portfolio", portfolio.portfolio, "read", None, PortfolioView),
            op("POST", "/api/portfolio/refresh", portfolio.refresh, "trade", None, PortfolioView),
            op("GET", "/api/reconciliation", compared.runs, "read", None, RunList),
            op("GET", "/api/positions", portfolio.positions, "read", None, PositionList),
            op("POST", "/api/positions/{position_id}/close", portfolio.close, "trade", PositionClosing, OrderPlaced,
               201),
            op("POST", "/api/signals/execute", self.signals.execute, "trade", SignalRequest, SignalView, 201),
            op("GET", "/api/signals", self.signals.list_signals, "read", None, SignalList, query=SIGNAL_QUERY),
            op("GET", "/api/signals/{signal_id}", self.signals.get, "read", None, SignalView),
            op("GET", "/api/strategies", self.strategies.strategies, "read", None, StrategyList),
            op("POST", "/api/strategies/{name}/stop", self.strategy_control.stop, "trade", None, RunningView),
            op("POST", "/api/strategies/{name}/start", self.strategy_control.start, "trade", None, RunningView),
            op("GET", "/api/book/{pair}", portfolio.book, "read", None, ConsolidatedBook, query=("depth", "exchange")),
            op("GET", "/api/risk", self.risk.risk, "read", None, RiskView),
            op("POST", "/api/risk/state", self.risk.set_state, "admin", TradingStateRequest, RiskView),
            op("POST", "/api/risk/deadman", self.risk.deadman, "trade", DeadManRequest, DeadManState),
            op("POST", "/api/risk/drill", self.risk.drill, "admin", DrillRequest, DrillReport),
            op("GET", "/api/health", health.health, "read", None, Health),
            op("GET", "/metrics", self.metrics.metrics, "read", None, str),
            op("GET", "/livez", health.live, None, None, None),
            op("GET", "/readyz", health.ready, None, None, Readiness),
            op("GET", "/openapi.json", self.openapi_document, None, None, None),
            op("GET", "/docs", self.docs, None, None, None),
        ]
        # fmt: on

    def _gate(self) -> Gate:
        routes: list[Any] = [
            MethodRoute(op.path, Handler(op.endpoint, op.scope), methods=[op.method]) for op in self.operations
        ]
        routes.append(WebSocketRoute("/ws", self.feed))
        router: ASGIApp = Router(routes, redirect_slashes=False, default=_nothing_there)
        settings = self.api.settings
        return Gate(
            router,
            allowed_hosts=settings.allowed_hosts,
            allowed_origins=settings.allowed_origins,
            api_keys=settings.api_keys,
            rate_limit_per_second=settings.rate_limit_per_second,
            now_s=self.api.loop.time,
            on_error=self.api.report,
        )

    # --- documents about the service itself

    async def openapi_document(self, _call: Call, _: Receive) -> Answer:
        """GET /openapi.json"""
        return Answer(self._openapi)

    async def docs(self, _call: Call, _: Receive) -> Answer:
        """GET /docs: a page without anything from elsewhere"""
        page, policy = docs_page(self.operations, self._openapi)
        headers = [(name, policy if name == b"content-security-policy" else value) for name, value in SECURITY]
        return Answer(page, 200, (), ((b"content-type", b"text/html; charset=utf-8"), *headers))

    # --- snapshots for the feed

    def snapshot(self, channel: str) -> Any:
        """The state of a channel now, as a document."""
        api, source = self.api, self.api.queries.source
        if channel == "orders":
            return [order_update(order) for order in source.orders.values() if not order.ended]
        if channel == "trades":
            newest = list(source.fills.values())[-SNAPSHOT_TRADES_MAX:]
            return [fill_view(fill) for fill in newest]
        if channel == "signals":
            return self.signals.newest(SNAPSHOT_TRADES_MAX)
        if channel == "health":
            return self.health.document()
        if channel == "risk":
            return self.risk.document()
        if channel.startswith(BOOK):
            return consolidated_book(api, channel.removeprefix(BOOK), SNAPSHOT_DEPTH)
        view = api.portfolio.view(api.paper, api.kernel.clock.now_ns())
        return view if channel == "portfolio" else view.positions


ORDER_QUERY = ("status", "pair", "exchange", "side", "since", "until", "limit", "page", "cursor", "nested")
TRADE_QUERY = ("orderId", "pair", "exchange", "side", "since", "until", "limit", "page", "cursor")


def server_options() -> dict[str, Any]:
    """What uvicorn must be told, so that the bounds here hold: no limits of its own above ours, no lines of its own."""
    return {
        "http": "httptools",
        "ws": "websockets-sansio",
        "ws_max_size": MESSAGE_MAX,
        "ws_per_message_deflate": False,
        "lifespan": "off",
        "access_log": False,
        "log_config": None,
        "server_header": False,
    }
