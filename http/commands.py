"""From an endpoint to the kernel and back: commands, their replies, and waiting for what comes after.

Always true here: every command that entered the kernel gets one outcome for its caller, also where an actor fails or
the store goes away while it waits. What an outcome says is committed.
"""

import asyncio
import re
from collections.abc import Callable
from functools import partial
from typing import Any

from ..core.kernel.kernel import Kernel
from ..core.model.messages import OrderEnded, Refusal, Reply, StoreStateChanged
from ..core.model.records import Order
from .problems import refused, store_unavailable

# How long a reply may take after an actor raised while the command ran: it may never come.
FAULT_WAIT_S = 2.0
# How long a read waits for what it saw to be committed before it is answered all the same.
READ_WAIT_S = 2.0
# Requests that may wait for the end of an order at one time (Prefer: wait); more are answered at once.
WAITING_MAX = 1_000

WAIT = re.compile(rb"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,6})\"?(?:$|[,;\s])", re.IGNORECASE)
WAIT_MAX_S = 30

LOST = "the request was taken, but Redis did not confirm it; ask by clientOrderId before a repeat"

FAULT = "a fault of the service while the request ran; it has been logged, and trading is halted until it is looked at"


class Commands:
    """Sends commands into one kernel."""

    def __init__(self, kernel: Kernel, loop: asyncio.AbstractEventLoop, held: Callable[[str], Order | None]) -> None:
        """`held` finds an order in memory by its id."""
        self.kernel = kernel
        self.loop = loop
        self.held = held
        self._asked: set[asyncio.Future[Any]] = set()
        self._ends: dict[str, list[asyncio.Future[None]]] = {}
        self._waiting = 0
        kernel.bus.subscribe(StoreStateChanged, self._store_changed)
        kernel.bus.subscribe(OrderEnded, self._order_ended)

    def send(self, build: Callable[[Reply], Any]) -> "asyncio.Future[Any]":
        """Run a command; the reply comes later. Raises Problem 503 while the store is away."""
        kernel = self.kernel
        if not kernel.store_up:
            raise store_unavailable(f"nothing can be made durable now, so nothing was changed: {kernel.store_why}")
        future: asyncio.Future[Any] = self.loop.create_future()
        command = build(partial(_resolve, future))
        faults = kernel.fault_count
        self._asked.add(future)
        kernel.input(command)
        if kernel.fault_count != faults:
            self.loop.call_later(FAULT_WAIT_S, _resolve, future, Refusal(code="INTERNAL", detail=FAULT, status=500))
        return future

    async def wait_for(self, future: "asyncio.Future[Any]", seconds: float | None = None) -> Any:
        """The reply, which may be a Refusal; None where it takes longer than `seconds`."""
        try:
            if seconds is not None:
                await asyncio.wait([future], timeout=seconds)
                return future.result() if future.done() else None
            return await future
        finally:
            self._asked.discard(future)

    async def carry_out(self, build: Callable[[Reply], Any], seconds: float | None = None) -> Any:
        """Run a command and return its reply; a refusal is raised as the problem that it is."""
        outcome = await self.wait_for(self.send(build), seconds)
        if outcome.__class__ is Refusal:
            raise refused(outcome)
        return outcome

    async def committed(self) -> None:
        """Return when everything that can be seen now is committed; at once while the store is away."""
        kernel = self.kernel
        if kernel.committed_seq >= kernel.outbox.seq or not kernel.store_up:
            return
        future: asyncio.Future[Any] = self.loop.create_future()
        kernel.outbox.effect(_resolve, future, None)
        kernel.flush_soon()
        await asyncio.wait([future], timeout=READ_WAIT_S)

    async def end_of(self, order: Order, seconds: float) -> bool:
        """Wait until the order has ended and that is committed; False where no more requests may wait. `order` may be
        as it was."""
        now = self.held(order.order_id)
        if order.ended or now is None or now.ended:
            await self.committed()
            return True
        if self._waiting >= WAITING_MAX:
            return False
        future: asyncio.Future[None] = self.loop.create_future()
        self._ends.setdefault(order.order_id, []).append(future)
        self._waiting += 1
        try:
            await asyncio.wait([future], timeout=seconds)
        finally:
            self._waiting -= 1
            self._forget(order.order_id, future)
        await self.committed()
        return True

    async def wait_as_preferred(self, prefer: bytes, order: Order) -> list[tuple[bytes, bytes]]:
        """Prefer: wait=N, at most WAIT_MAX_S: wait for the order's end; returns headers of the answer.

        What cannot be read is not a preference.
        """
        found = WAIT.search(prefer)
        if found is None:
            return []
        seconds = min(int(found[1]), WAIT_MAX_S)
        if not await self.end_of(order, seconds):
            return []
        return [(b"preference-applied", b"wait=%d" % seconds)]

    def let_go(self) -> None:
        """The service stops: answer now who waits for the end of an order, or for a store that is away."""
        for futures in self._ends.values():
            for future in futures:
                _resolve(future, None)
        if not self.kernel.store_up:
            self._lose()

    def _lose(self) -> None:
        lost = Refusal(code="OUTCOME_UNKNOWN", detail=LOST, status=503, retry_after_s=1)
        for future in list(self._asked):
            _resolve(future, lost)

    def _forget(self, order_id: str, future: "asyncio.Future[None]") -> None:
        waiting = self._ends.get(order_id, [])
        if future in waiting:
            waiting.remove(future)
            if not waiting:
                del self._ends[order_id]

    def _order_ended(self, message: OrderEnded) -> None:
        if self._ends:
            for future in self._ends.pop(message.order.order_id, ()):
                self.kernel.outbox.effect(_resolve, future, None)

    def _store_changed(self, change: StoreStateChanged) -> None:
        """Whoever waits for a commit would wait as long as Redis is away: tell them what is known instead."""
        if change.up:
            return
        self._lose()


def _resolve(future: "asyncio.Future[Any]", value: object) -> None:
    if not future.done():
        future.set_result(value)
