"""Every other service of the bot: its client, and whether it is well, asked in the background and never waited for.

Always true here: a service whose URL is `none` has no client; each look has its own time limit, and one that hangs does
not delay the others.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from ...core.kernel.kernel import Kernel
from ...core.risk.advice import Advising
from ...core.settings import Settings
from .backtest import BacktestClient
from .client import ServiceClient, ServiceUnavailable
from .core import CoreClient
from .dashboard import Dashboard
from .ml import MlClient
from .risk import RiskClient

HEALTH: Final = "/api/health"
PROBE_EVERY_S: Final = 10.0
PROBE_TIMEOUT_S: Final = 1.0
STATUS_MAX: Final = 40  # characters


class ServiceStatus(msgspec.Struct, frozen=True, rename="camel"):
    """What is known of another service, from the last time it was asked."""

    status: str  # what it says of itself; healthy where it answers without saying; unreachable, answers 503, nonsense
    last_check: int | None = None  # ms
    latency_ms: float | msgspec.UnsetType = msgspec.UNSET  # of the last look; none where it was not answered
    detail: str | msgspec.UnsetType = msgspec.UNSET  # what is wrong
    breaker: str | msgspec.UnsetType = msgspec.UNSET  # open or half-open: calls fail again and again

    @property
    def answers(self) -> bool:
        return self.latency_ms is not msgspec.UNSET


class Services:
    """The clients of one process; None where a service is not configured."""

    def __init__(
        self, settings: Settings, kernel: Kernel, *, tell: Callable[[str], None], probe_every_s: float = PROBE_EVERY_S
    ) -> None:
        """On the running loop. `tell` hears of bugs where nobody waits."""
        clock = kernel.clock
        risk_url = settings.risk_url
        self.core = CoreClient(url, clock) if (url := settings.core_service_url) else None
        self.risk = (
            RiskClient(risk_url, clock, kernel, relied_on=settings.risk_relied_on, tell=tell) if risk_url else None
        )
        self.ml = MlClient(url, clock) if (url := settings.ml_service_url) else None
        self.backtest = BacktestClient(url, clock) if (url := settings.backtest_service_url) else None
        url = settings.dashboard_service_url
        self.dashboard = Dashboard(url, clock, kernel, push=settings.dashboard_push) if url else None
        clients = (self.core, self.risk, self.ml, self.backtest, self.dashboard)
        self.http: dict[str, ServiceClient] = {client.http.name: client.http for client in clients if client}
        self._probe_every_s = probe_every_s
        self._seen: dict[str, ServiceStatus] = {name: ServiceStatus("unknown") for name in self.http}

    def statuses(self) -> Mapping[str, ServiceStatus]:
        """By name, as they were last seen."""
        found = {}
        for name, seen in self._seen.items():
            http = self.http[name]
            if (
                http.call_error and seen.detail is msgspec.UNSET
            ):  # its health answers, and what it is there for does not
                seen = msgspec.structs.replace(seen, detail=f"its last call failed: {http.call_error}")
            state = http.breaker.state
            found[name] = seen if state == "closed" else msgspec.structs.replace(seen, breaker=state)
        return found

    def advise(self, advising: Advising) -> None:
        """Let entries be asked about, where there is a risk service."""
        if (risk := self.risk) is not None:
            advising.ask = risk.ask
            advising.relied_on = lambda: risk.relied_on

    async def run(self) -> None:
        """Look after them and push events, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._look_again_and_again())
            if self.dashboard is not None and self.dashboard.pushing:
                group.create_task(self.dashboard.run())

    async def stop(self) -> None:
        """Before the last commit: no more questions, and the last ones answered. `run` has ended before."""
        if self.risk is not None:
            await self.risk.stop()

    async def aclose(self) -> None:
        """After the last commit: push what waits, close the connections."""
        if self.dashboard is not None:
            await self.dashboard.aclose()
        for http in self.http.values():
            http.close()

    async def look(self) -> None:
        """Ask each for its health, all at once."""
        await asyncio.gather(*(self._look(name, http) for name, http in self.http.items()))

    async def _look_again_and_again(self) -> None:
        while True:
            await self.look()
            await asyncio.sleep(self._probe_every_s)

    async def _look(self, name: str, http: ServiceClient) -> None:
        begun = asyncio.get_running_loop().time()
        said = await http.probe("GET", HEALTH, status_of, timeout_s=PROBE_TIMEOUT_S)
        failure = said if isinstance(said, ServiceUnavailable) else None
        if isinstance(said, ServiceUnavailable):
            status = {"answers": f"answers {said.http_status}", "nonsense": "nonsense"}.get(said.kind, "unreachable")
            self._seen[name] = ServiceStatus(status, http.last_check_ms, detail=said.why)
        else:
            latency_ms = (asyncio.get_running_loop().time() - begun) * 1_000
            self._seen[name] = ServiceStatus(said, http.last_check_ms, round(latency_ms, 2))
        if self.risk is not None and http is self.risk.http:
            self.risk.health_seen(failure)


def status_of(body: bytes) -> str:
    """What a service says of itself; healthy where its answer does not say."""
    try:
        said = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return "healthy"
    status = said.get("status") if isinstance(said, dict) else None
    return status[:STATUS_MAX] if isinstance(status, str) else "healthy"
