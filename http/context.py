"""Everything the endpoints may use, handed in as one object, so that nothing here is global.

The protocols name what this side needs of the others and nothing more; `service.py` fills them in.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from ..core.kernel.conditions import Condition
from ..core.kernel.kernel import Kernel
from ..core.kernel.latency import Latency
from ..core.model.comparisons import ExternalOrder, Reconciled
from ..core.model.instruments import Instrument
from ..core.model.messages import Refusal, SubmitOrder
from ..core.model.order_views import OrderPreview
from ..core.model.records import Order
from ..core.orders.queries import OrderQueries
from ..core.portfolio.subledgers import SubLedgers
from ..core.risk.overview import Overview
from ..core.settings import Settings
from ..strategies_bridge.runner import RunningView as RunningView  # http/strategies.py shows it
from ..strategies_bridge.services.health import ServiceStatus
from ..strategies_bridge.signals import Signals
from ..strategies_bridge.trading_loop import LoopView
from ..venues.client import VenueStatus


class Readiness(msgspec.Struct, frozen=True, rename="camel"):
    """Whether orders can be taken, and what is missing if not."""

    ready: bool
    checks: dict[str, bool]  # store, trading, recovered, reconciled, venue
    reason: str = ""
    conditions: list[Condition] = []  # those that keep orders out


def readiness_of(kernel: Kernel, *, reconciled: bool, venue: bool, recovered: bool = True) -> Readiness:
    """Orders are taken where the store takes commits, the outcome of every order is known, an exchange can be reached,
    and none of `REFUSE_ORDERS` holds."""
    refusing = kernel.conditions.refusing
    checks = {
        "store": kernel.store_up and not kernel.conditions.holds("folder_lost"),
        "trading": not refusing,
        "recovered": recovered,
        "reconciled": reconciled,
        "venue": venue,
    }
    missing = [name for name, passed in checks.items() if not passed]
    whys = [f"{condition.name}: {condition.why}" for condition in refusing]
    return Readiness(not missing, checks, "; ".join([", ".join(missing), *whys]) if missing else "", refusing)


class VenueStatusSource(Protocol):
    """The part of a venue that health asks; never blocks."""

    @property
    def name(self) -> str: ...

    def status(self) -> VenueStatus: ...


class PortfolioSource(Protocol):
    """The part of PortfolioManager that the API reads."""

    def view(self, paper: bool, now_ns: int) -> Any:
        """A `PortfolioView`."""
        ...


class BookOf(Protocol):
    """One order book; `levels` are (ticks, lots), best first."""

    def levels(self, side: int, n: int) -> list[tuple[int, int]]: ...


class BookSource(Protocol):
    """The part of MarketData that the API reads."""

    def book(self, exchange: str, pair: str) -> BookOf: ...

    def updated_ns(self, exchange: str, pair: str) -> int: ...

    def fresh(self, exchange: str, pair: str, now_ns: int) -> bool: ...


class JournalSource(Protocol):
    """The part of the store that a resumed feed reads."""

    async def journal_since(self, seq: int, limit: int) -> list[tuple[int, bytes]] | None: ...


class ErrorLog(Protocol):
    """Where faults go; `LogFiles` is one."""

    def execution(self, level: str, text: str, **fields: object) -> None: ...

    def error(self, word: str, fields: Mapping[str, object]) -> None: ...


class HistorySource(Protocol):
    """The part of History that metrics read."""

    archived: int
    archived_fills: int


class ComparisonSource(Protocol):
    """The part of Reconciliation that the API reads."""

    @property
    def runs(self) -> Iterable[Reconciled]:
        """The last ones, the newest first."""
        ...

    @property
    def external(self) -> list[ExternalOrder]: ...


def no_figures() -> Mapping[str, Mapping[str, int]]:
    return {}


def no_strategies() -> Mapping[str, RunningView]:
    return {}


def no_loop() -> LoopView | None:
    return None


def no_services() -> Mapping[str, ServiceStatus]:
    return {}


@dataclass(slots=True, kw_only=True)
class Api:
    """The service as the endpoints see it."""

    # for the life of the process
    kernel: Kernel
    settings: Settings
    loop: asyncio.AbstractEventLoop
    queries: OrderQueries
    portfolio: PortfolioSource
    market: BookSource
    journal: JournalSource
    epoch: str  # the journal's id: a feed is resumed only within one
    instruments: Mapping[tuple[str, str], Instrument]  # (exchange, pair), all that are traded
    venues: Iterable[VenueStatusSource]
    readiness: Callable[[], Readiness]
    trading_state: Callable[[], str]  # ACTIVE, REDUCING or HALTED
    trading_why: Callable[[], str]  # in words
    preview: Callable[[SubmitOrder], Awaitable[OrderPreview | Refusal]]
    refresh: Callable[[], Awaitable[None]]  # reconcile with the venues; returns when done
    log: ErrorLog
    started_ns: int
    services: Callable[[], Mapping[str, ServiceStatus]] = no_services
    risk_latency: Latency | None = None  # of the risk service
    archive_used: Callable[[], bool] = bool  # whether any order has left memory for the archive
    open_orders: Callable[[], Iterable[Order]] = tuple
    history: HistorySource | None = None  # what has left memory for the archive since the start
    figures: Callable[[], Mapping[str, Mapping[str, int]]] = no_figures  # exchange -> what it counts, by name
    comparisons: ComparisonSource | None = None  # with live exchanges
    subledgers: SubLedgers | None = None
    signals: Signals | None = None
    risk: Overview | None = None
    trading_loop: Callable[[], LoopView | None] = no_loop  # None where it is off
    strategies: Callable[[], Mapping[str, RunningView]] = no_strategies  # in this process, by name

    @property
    def paper(self) -> bool:
        """Whether the portfolio that is shown is the paper one."""
        return not self.settings.live

    def exchanges_of(self, pair: str) -> list[str]:
        return [exchange for exchange, name in self.instruments if name == pair]

    def pairs(self) -> set[str]:
        return {pair for _, pair in self.instruments}

    def exchanges(self) -> set[str]:
        return {exchange for exchange, _ in self.instruments}

    def report(self, path: str, error: Exception) -> None:
        """Log a fault of ours, once."""
        self.log.execution("error", "REQUEST_FAILED", path=path, error=repr(error))
