"""An event loop in virtual time: what the store needs of one, on the clock of one process.

Always true here: callbacks run in the order of the world's heap, none while the process is paused, and none once it is
dead. There is no selector and no thread; a connection leads to the `Server` that the loop was made with.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context
from typing import Any, Protocol, TypeVar

from tbx.core.kernel.clock import SECOND_NS

from ..live_network import ProcessClock, ProcessTimer, Stepped

T = TypeVar("T")
RUN_WITHIN_NS = 300 * SECOND_NS


class Server(Protocol):
    """Where the loop's connections lead to."""

    def connect(self, loop: VirtualLoop, protocol: Any) -> asyncio.Future[Any]:
        """Done with the client's transport, or OSError."""
        ...


class Work(Coroutine[Any, Any, T]):
    """A coroutine that may never begin, because its process has died, without anybody being warned of it."""

    def __init__(self, coro: Coroutine[Any, Any, T]) -> None:
        self._coro = coro

    def __await__(self) -> Generator[Any, None, T]:
        return self._coro.__await__()

    def __del__(self) -> None:
        self._coro.close()

    def send(self, value: Any, /) -> Any:
        return self._coro.send(value)

    def throw(self, *error: Any) -> Any:
        return self._coro.throw(*error)

    def close(self) -> None:
        self._coro.close()


class VirtualLoop:
    """The event loop of one process in the world; `faults` are what was told to its exception handler.

    No `AbstractEventLoop`: what the store does not need of one is not here, and is missed at once.
    """

    def __init__(self, clock: ProcessClock, server: Server) -> None:
        self.clock = clock
        self.world = clock.world
        self.server = server
        self.faults: list[dict[str, Any]] = []
        self._begun_ns = self.world.now_ns()  # keeps `time` small, where a float is exact to the nanosecond

    @property
    def alive(self) -> bool:
        return self.clock.alive

    def time(self) -> float:
        return (self.world.now_ns() - self._begun_ns) / SECOND_NS

    def call_soon(self, callback: Callable[..., object], *args: Any, context: Context | None = None) -> ProcessTimer:
        return self._call_in(0, callback, args, context)

    def call_later(
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> ProcessTimer:
        return self._call_in(round(delay * SECOND_NS), callback, args, context)

    def _call_in(
        self, delay_ns: int, callback: Callable[..., object], args: tuple[Any, ...], context: Context | None
    ) -> ProcessTimer:
        clock = self.clock
        if not clock.alive:  # also what coroutines of a dead process still do when they are collected
            return ProcessTimer(clock, callback, args)
        if context is not None:
            return clock.call_in(delay_ns, context.run, callback, *args)
        return clock.call_in(delay_ns, callback, *args)

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)  # type: ignore[arg-type]

    def create_task(self, coro: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        return asyncio.Task(Work(coro), loop=self)  # type: ignore[arg-type]

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        # A dead process' tasks are pending for ever.
        if self.clock.alive:
            self.faults.append(context)

    def get_debug(self) -> bool:
        return False

    async def create_connection(self, protocol_factory: Any, *_: Any, **__: Any) -> Any:
        return await self._connect(protocol_factory)

    async def create_unix_connection(self, protocol_factory: Any, *_: Any, **__: Any) -> Any:
        return await self._connect(protocol_factory)

    async def _connect(self, protocol_factory: Any) -> Any:
        protocol = protocol_factory()
        return await self.server.connect(self, protocol), protocol


def run(world: Stepped, loop: VirtualLoop, coro: Coroutine[Any, Any, T], within_ns: int = RUN_WITHIN_NS) -> T:
    """The result of a coroutine of the loop's process, while the whole world goes on."""
    task = loop.create_task(coro)
    late: list[bool] = []
    deadline = world.call_in(within_ns, late.append, True)
    while not task.done():
        world.step()
        assert not late, f"{coro} has not ended within {within_ns / SECOND_NS:g} s"
        assert loop.alive, f"the process died in {coro}"
    deadline.cancel()
    return task.result()
