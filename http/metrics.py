"""GET /metrics: what the service has counted, and how it is, in the text format of Prometheus.

Always true here: everything is read when it is asked for; nothing is counted for it in the path of an order. A counter
begins anew with the process, as Prometheus expects.
"""

import platform
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from starlette.types import Receive

from ..core.kernel.conditions import KINDS
from ..core.kernel.latency import Latency
from ..core.model.records import ENDED, State
from ..core.risk.guard import TradingState
from .context import Api
from .feed import Feed
from .health import Tally
from .openapi import VERSION
from .wire import API_SECURITY, Answer, Call, Header

TEXT: Final[tuple[Header, ...]] = ((b"content-type", CONTENT_TYPE_LATEST.encode()), *API_SECURITY)
OPEN: Final = tuple(state for state in State if state not in ENDED)
NS_PER_S = 1_000_000_000
CAPITAL: Final = re.compile(r"(?<=[a-z0-9])([A-Z])")


class Metrics(Collector):
    """Collects for one registry, which is not the library's own: two services in one process do not meet there."""

    def __init__(self, api: Api, tally: Tally, feed: Feed) -> None:
        self.api = api
        self.tally = tally
        self.feed = feed
        self.registry = CollectorRegistry(auto_describe=False)
        self.registry.register(self)
        ProcessCollector(registry=self.registry)

    async def metrics(self, _call: Call, _: Receive) -> Answer:
        """GET /metrics: everything that is counted, in the text format of Prometheus"""
        return Answer(generate_latest(self.registry), content=TEXT)

    def describe(self) -> Iterator[Metric]:
        return iter(())

    def collect(self) -> Iterator[Metric]:
        yield from self._conditions()
        yield from self._orders()
        yield from self._kernel()
        yield from self._venues()
        yield from self._services()
        yield from self._service()

    def _conditions(self) -> Iterator[Metric]:
        conditions = self.api.kernel.conditions
        now = GaugeMetricFamily("tbx_condition", "Whether a degraded mode holds now.", labels=("name", "subject"))
        begun = CounterMetricFamily("tbx_condition_begun", "How often a degraded mode has begun.", labels=("name",))
        held = conditions.held
        for condition in held:
            now.add_metric((condition.name, condition.subject), 1)
        holding = {condition.name for condition in held}
        for name in KINDS:
            if name not in holding:
                now.add_metric((name, ""), 0)
        for name, count in conditions.counts.items():
            begun.add_metric((name,), count)
        yield now
        yield begun

    def _orders(self) -> Iterator[Metric]:
        """Orders and fills that were held at the start are among those that were taken."""
        orders, tally, history = self.api.queries.source, self.tally, self.api.history
        states = Counter(order.state for order in self.api.open_orders())
        yield _by(
            GaugeMetricFamily("tbx_orders_open", "Orders that have not ended.", labels=("state",)),
            {state.value.lower(): states[state] for state in OPEN},
        )
        yield _by(
            CounterMetricFamily("tbx_orders_ended", "Orders that have ended.", labels=("state",)),
            {state.value.lower(): tally.ended[state] for state in State if state in ENDED},
        )
        archived, archived_fills = (history.archived, history.archived_fills) if history is not None else (0, 0)
        yield _counter("tbx_orders_taken", "Orders on record, rejected ones included.", len(orders.orders) + archived)
        yield _counter("tbx_fills", "Fills on record.", len(orders.fills) + archived_fills)
        yield _counter("tbx_archive_moved_orders", "Orders that have left memory for the archive.", archived)

    def _kernel(self) -> Iterator[Metric]:
        kernel = self.api.kernel
        yield _gauge("tbx_store_up", "Whether Redis takes commits.", kernel.store_up)
        yield _counter("tbx_commits", "Commits that Redis has acknowledged.", kernel.commit_count)
        yield _histogram("tbx_commit_seconds", "From sending a commit to its acknowledgement.", kernel.commit_latency)
        yield _counter("tbx_store_rewrites", "How often the whole state was written anew.", kernel.rewrite_count)
        yield _counter("tbx_events_dropped", "Events that were dropped unseen.", kernel.outbox.events_dropped)
        yield _counter("tbx_faults", "Exceptions in actors and effects: bugs.", kernel.fault_count)
        yield _gauge("tbx_event_seq", "Number of the last committed event.", kernel.committed_seq)

    def _venues(self) -> Iterator[Metric]:
        label = ("exchange",)
        up = GaugeMetricFamily("tbx_venue_up", "Whether the exchange is connected, its prices too.", labels=label)
        left = GaugeMetricFamily("tbx_venue_rate_limit_remaining", "What the exchange still allows us.", labels=label)
        late = GaugeMetricFamily("tbx_market_latency_seconds", "From an event there to its frame here.", labels=label)
        for venue in self.api.venues:
            status = venue.status()
            up.add_metric((venue.name,), status.status == "connected")
            left.add_metric((venue.name,), status.rate_limit_remaining)
            if status.latency_ms is not None:
                late.add_metric((venue.name,), status.latency_ms / 1_000)
        figures = GaugeMetricFamily(
            "tbx_venue_figure", "What the connection for orders has counted or measured.", labels=("exchange", "figure")
        )
        for exchange, counted in self.api.figures().items():
            for name, value in counted.items():
                figures.add_metric((exchange, CAPITAL.sub(r"_\1", name).lower()), value)
        yield from (up, left, late, figures)

    def _services(self) -> Iterator[Metric]:
        """The other services of the bot."""
        up = GaugeMetricFamily("tbx_service_up", "Whether another service answered the last look.", labels=("service",))
        for name, status in self.api.services().items():
            up.add_metric((name,), status.answers)
        yield up
        text = "From asking the risk service about an entry to its answer, or to none."
        if (latency := self.api.risk_latency) is not None:
            yield _histogram("tbx_risk_service_seconds", text, latency)

    def _service(self) -> Iterator[Metric]:
        api, feed = self.api, self.feed
        state = api.trading_state()
        yield _by(
            GaugeMetricFamily("tbx_trading_state", "1 at the trading state that holds.", labels=("state",)),
            {each.value: each.value == state for each in TradingState},
        )
        yield _gauge("tbx_ready", "Whether orders are taken.", api.readiness().ready)
        yield _gauge("tbx_feed_clients", "Clients of the feed.", len(feed.clients))
        yield _counter("tbx_feed_clients_dropped", "Clients of the feed that were too slow.", feed.dropped_count)
        uptime_ns = max(0, api.kernel.clock.now_ns() - api.started_ns)
        yield _gauge("tbx_uptime_seconds", "Since the service has started.", uptime_ns / NS_PER_S)
        build = GaugeMetricFamily("tbx_build_info", "Always 1.", labels=("version", "python", "mode"))
        build.add_metric((VERSION, platform.python_version(), "paper" if api.paper else "live"), 1)
        yield build


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value)


def _counter(name: str, text: str, value: int) -> Metric:
    """`_total` comes behind the name."""
    return CounterMetricFamily(name, text, value)


def _by(family: GaugeMetricFamily | CounterMetricFamily, values: Mapping[str, float]) -> Metric:
    """One sample for each value of the family's only label."""
    for label, value in values.items():
        family.add_metric((label,), value)
    return family


def _histogram(name: str, text: str, latency: Latency) -> Metric:
    below, buckets = 0, []
    for bound_ns, count in zip(latency.bounds_ns, latency.counts, strict=False):
        below += count
        buckets.append((str(bound_ns / NS_PER_S), float(below)))
    buckets.append(("+Inf", float(below + latency.counts[-1])))
    return HistogramMetricFamily(name, text, buckets=buckets, sum_value=latency.sum_ns / NS_PER_S)
