"""The other services of the trading bot, as health shows them: asked in the background, never waited for."""

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping

from .context import ServiceStatus

PROBE_INTERVAL_S = 10.0
PROBE_TIMEOUT_S = 1.0
ANSWER_BYTES_MAX = 65_536


class Neighbours:
    """Asks each configured service's /api/health every PROBE_INTERVAL_S, in a thread of its own."""

    def __init__(self, urls: Mapping[str, str | None], now_ms: Callable[[], int]) -> None:
        self.urls = {name: url for name, url in urls.items() if url}
        self.now_ms = now_ms
        self.statuses: dict[str, ServiceStatus] = {name: ServiceStatus("unknown") for name in self.urls}

    def read(self) -> Mapping[str, ServiceStatus]:
        return self.statuses

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.gather(*(self._look(name, url) for name, url in self.urls.items()))
            await asyncio.sleep(PROBE_INTERVAL_S)

    async def _look(self, name: str, url: str) -> None:
        status = await asyncio.to_thread(probe, url)
        self.statuses[name] = ServiceStatus(status, self.now_ms())


def probe(url: str) -> str:
    """What a service says of itself, "healthy" where it answers without saying, else why it does not."""
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/api/health", timeout=PROBE_TIMEOUT_S) as answer:
            body = answer.read(ANSWER_BYTES_MAX)
    except urllib.error.HTTPError as error:
        return f"answers {error.code}"
    except (OSError, ValueError):
        return "unreachable"
    try:
        said = json.loads(body)
    except ValueError:
        return "healthy"
    status = said.get("status") if isinstance(said, dict) else None
    return status[:40] if isinstance(status, str) else "healthy"
