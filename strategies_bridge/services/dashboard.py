"""The dashboard (DASHBOARD_SERVICE_URL): gets every committed event pushed, where DASHBOARD_PUSH says so.

    POST /api/events   {"events": [{"seq": 7, "channel": "orders", "type": "OrderFilled", "data": {...}}, ...]}

Always true here: events leave in the order of `seq`, in the feed's own form, and only after their commit. A batch that
was not answered with 2xx is sent again, so an event may come twice: `seq` tells. At most QUEUE_MAX wait; beyond it the
oldest are dropped, which the condition dashboard_behind says until all that waited is through.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from itertools import islice
from typing import Final

from ...core.kernel.clock import Clock
from ...core.kernel.kernel import Kernel
from ...core.kernel.outbox import Event
from .client import ServiceClient, ServiceUnavailable

EVENTS: Final = "/api/events"
TIMEOUT_S: Final = 2.0
QUEUE_MAX: Final = 10_000
BATCH_MAX: Final = 500
BATCH_BYTES_MAX: Final = 1 << 20
GATHER_S: Final = 0.25  # how long a batch waits for more
BACKOFF_MAX_S: Final = 10.0
FLUSH_S: Final = 1.0  # at the end of the service
BEHIND: Final = "dashboard_behind"


class Dashboard:
    """Pushes events; `committed` is a listener of `kernel.feed`."""

    def __init__(self, url: str, clock: Clock, kernel: Kernel, *, push: bool) -> None:
        self.http = ServiceClient("dashboard", url, clock, timeout_s=TIMEOUT_S)
        self.pushing = push
        self.sent = 0
        self.dropped = 0
        self._kernel = kernel
        self._queue: deque[Event] = deque()
        self._some = asyncio.Event()
        self._closing = False
        if push:
            kernel.feed.append(self.committed)

    @property
    def waiting(self) -> int:
        return len(self._queue)

    def committed(self, events: Sequence[Event]) -> None:
        """A commit is acknowledged."""
        queue = self._queue
        queue.extend(events)
        if len(queue) > QUEUE_MAX:
            while len(queue) > QUEUE_MAX:
                queue.popleft()
                self.dropped += 1
            self._kernel.conditions.begin(BEHIND, f"{self.http.url} does not take events: the oldest are dropped")
        if queue:
            self._some.set()

    async def run(self) -> None:
        """Until cancelled."""
        wait_s = GATHER_S
        while True:
            await self._some.wait()
            await asyncio.sleep(wait_s)
            wait_s = GATHER_S if await self._send_all() else min(BACKOFF_MAX_S, wait_s * 2)

    async def aclose(self) -> None:
        """Send what waits, for FLUSH_S at most, and leave no records. Nothing else may be sending."""
        self._closing = True
        try:
            async with asyncio.timeout(FLUSH_S):
                await self._send_all()
        except TimeoutError:
            self.dropped += len(self._queue)
        self.http.close()

    async def _send_all(self) -> bool:
        """Until nothing waits; False where a batch was not taken."""
        queue = self._queue
        while queue:
            batch = self._batch()
            last = batch[-1].seq
            body = b'{"events":[%b]}' % b",".join([event.frame for event in batch])
            answer = await self.http.probe("POST", EVENTS, len, body=body)
            if isinstance(answer, ServiceUnavailable):
                return False
            # The oldest of them may have been dropped meanwhile.
            while queue and queue[0].seq <= last:
                queue.popleft()
                self.sent += 1
        self._some.clear()
        if self._kernel.conditions.holds(BEHIND) and not self._closing:
            self._kernel.conditions.end(BEHIND)
            self._kernel.flush_soon()
        return True

    def _batch(self) -> list[Event]:
        batch: list[Event] = []
        size = 0
        for event in islice(self._queue, BATCH_MAX):
            size += len(event.frame)
            if batch and size > BATCH_BYTES_MAX:
                break
            batch.append(event)
        return batch
