"""Events to the dashboard: every one in order, again when it is back, the oldest dropped when it stays away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tbx.core.kernel.clock import SystemClock
from tbx.core.kernel.kernel import Kernel
from tbx.core.state.memory import MemoryStore
from tbx.strategies_bridge.services.dashboard import BATCH_MAX, BEHIND, FLUSH_S, QUEUE_MAX, Dashboard

from .redis_fixtures import in_loop, until
from .service_peers import Peers, peers


class Pushing:
    """A dashboard's client behind a kernel that commits to memory."""

    def __init__(self, url: str) -> None:
        loop = asyncio.get_running_loop()
        clock = SystemClock(loop, time.time_ns)
        self.store = MemoryStore(loop.call_soon)
        self.kernel = Kernel(clock, self.store.writer(self.store.acquire()))
        self.client = Dashboard(url, clock, self.kernel, push=True)
        self.task: asyncio.Task[None] | None = None

    def happen(self, count: int) -> None:
        """Events of one commit."""
        for number in range(count):
            self.kernel.outbox.event("orders", "OrderFilled", {"number": number})
        self.kernel.flush_soon()

    async def committed(self, seq: int) -> None:
        await until(lambda: self.kernel.committed_seq >= seq, "the commit")

    async def stop(self) -> None:
        if self.task is not None:
            self.task.cancel()
            await asyncio.wait([self.task])
            self.task = None


@asynccontextmanager
async def pushing(p: Peers, *, running: bool = True) -> AsyncIterator[Pushing]:
    found = Pushing(p.dashboard.url)
    if running:
        found.task = asyncio.ensure_future(found.client.run())
    try:
        yield found
    finally:
        await found.stop()
        found.client.http.close()


def seqs(p: Peers) -> list[int]:
    return [event["seq"] for event in p.dashboard.events]


@in_loop
async def test_committed_events_arrive_in_order_as_the_feed_has_them() -> None:
    with peers() as p:
        async with pushing(p) as dashboard:
            dashboard.happen(3)
            await until(lambda: len(p.dashboard.events) == 3, "the events")
            assert seqs(p) == [1, 2, 3]
            assert p.dashboard.events[1] == {
                "seq": 2,
                "channel": "orders",
                "type": "OrderFilled",
                "data": {"number": 1},
            }
            assert len(p.dashboard.asked("/api/events")) == 1


@in_loop
async def test_nothing_is_pushed_before_it_is_committed() -> None:
    with peers() as p:
        async with pushing(p) as dashboard:
            dashboard.store.down = True
            dashboard.happen(2)
            await until(lambda: not dashboard.kernel.store_up, "the failed commit")
            assert dashboard.client.waiting == 0


@in_loop
async def test_what_is_not_taken_is_sent_again_and_in_batches_of_a_bound() -> None:
    with peers() as p:
        async with pushing(p) as dashboard:
            p.dashboard.fault("500")
            dashboard.happen(BATCH_MAX + 1)
            await until(lambda: len(p.dashboard.requests) == 1, "a try")
            assert len(p.dashboard.events) == BATCH_MAX
            p.dashboard.requests.clear()
            p.dashboard.fault("")
            await until(lambda: dashboard.client.waiting == 0, "the rest")
            assert seqs(p) == list(range(1, BATCH_MAX + 2))
            assert dashboard.client.dropped == 0


@in_loop
async def test_beyond_the_bound_the_oldest_are_dropped_and_said_until_it_has_caught_up() -> None:
    with peers() as p:
        p.dashboard.away()
        async with pushing(p) as dashboard:
            dashboard.happen(QUEUE_MAX)
            await dashboard.committed(QUEUE_MAX)
            assert not dashboard.kernel.conditions.holds(BEHIND)
            dashboard.happen(10)
            await dashboard.committed(QUEUE_MAX + 10)
            assert dashboard.kernel.conditions.holds(BEHIND)
            assert dashboard.client.waiting == QUEUE_MAX
            p.dashboard.back()
            await until(lambda: dashboard.client.waiting == 0, "that it has caught up")
            await until(lambda: not dashboard.kernel.conditions.holds(BEHIND), "the end of the condition")
            found = seqs(p)
            assert found == sorted(found)
            assert found[0] > 10
            assert QUEUE_MAX + 10 in found


@in_loop
async def test_what_waits_at_the_end_is_sent() -> None:
    with peers() as p:
        async with pushing(p, running=False) as dashboard:
            dashboard.happen(BATCH_MAX * 2)
            await dashboard.committed(BATCH_MAX * 2)
            await dashboard.client.aclose()
            assert seqs(p) == list(range(1, BATCH_MAX * 2 + 1))


@in_loop
async def test_a_dashboard_that_hangs_holds_the_end_up_for_a_second_at_most() -> None:
    with peers() as p:
        p.dashboard.fault("hang")
        async with pushing(p, running=False) as dashboard:
            dashboard.happen(3)
            await dashboard.committed(3)
            begun = time.monotonic()
            await dashboard.client.aclose()
            assert time.monotonic() - begun < FLUSH_S + 0.5
            assert dashboard.client.dropped == 3
