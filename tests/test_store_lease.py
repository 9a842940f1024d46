"""The lease against a real redis-server: who takes it, who keeps it, and what a beat says to the one who lost it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tbx.core.model.errors import StoreBehind, StoreCorrupt, StoreError, StoreFenced, StoreUnavailable
from tbx.core.state.lease import LOADING, RELEASED, Seen
from tbx.core.state.store import Store

from .redis_fixtures import STARTED_MS, a_client, a_redis, a_store, batch, committed, in_loop


async def beaten(store: Store) -> StoreError | None:
    """What the writer hears of its beat."""
    answer: asyncio.Future[StoreError | None] = asyncio.get_running_loop().create_future()
    store.beat(answer.set_result)
    return await answer


@in_loop
async def test_what_a_standby_sees_of_a_writer(tmp_path: Path) -> None:
    async with a_redis(tmp_path) as server, a_store(server.address, acquire=False) as standby:
        assert await standby.look() == Seen(b"", b"", b"", b"")
        async with a_store(server.address, acquire=False) as writer:
            await writer.acquire(STARTED_MS, holder=b"me")
            assert await standby.look() == Seen(b"j1:1", LOADING, b"0", b"me")
            assert await beaten(writer) is None
            assert await committed(writer, batch(1, 1, events=[b"{}"])) is None
            assert await standby.look() == Seen(b"j1:1", b"1", b"1", b"me")
            await writer.release()
            assert await standby.look() == Seen(b"j1:1", RELEASED, b"1", b"me")


@in_loop
async def test_of_two_standbys_one_takes_over(tmp_path: Path) -> None:
    async with a_redis(tmp_path) as server, a_store(server.address) as writer:
        assert await beaten(writer) is None
        async with a_store(server.address, acquire=False) as one, a_store(server.address, acquire=False) as other:
            saw = await one.look(), await other.look()
            epochs = await asyncio.gather(one.acquire(STARTED_MS, seen=saw[0]), other.acquire(STARTED_MS, seen=saw[1]))
            assert sorted(epochs) == [0, 2]
            winner = one if epochs[0] else other
            assert await beaten(winner) is None
            assert isinstance(await beaten(writer), StoreFenced)


@in_loop
@pytest.mark.parametrize("moved", ["beat", "commit", "release", "acquire"])
async def test_nobody_takes_over_from_a_writer_that_has_moved_since(tmp_path: Path, moved: str) -> None:
    async with a_redis(tmp_path) as server, a_store(server.address) as writer:
        async with a_store(server.address, acquire=False) as standby:
            saw = await standby.look()
            if moved == "beat":
                assert await beaten(writer) is None
            elif moved == "commit":
                assert await committed(writer, batch(1, 0)) is None
            elif moved == "release":
                await writer.release()
            else:
                assert await writer.acquire(STARTED_MS) == 2
            before = await standby.look()
            assert await standby.acquire(STARTED_MS, seen=saw) == 0
            assert await standby.look() == before


@in_loop
async def test_a_beat_tells_who_lost_the_lease_and_why(tmp_path: Path) -> None:
    async with a_redis(tmp_path) as server, a_store(server.address) as writer:
        async with a_store(server.address) as other:
            error = await beaten(writer)
            assert isinstance(error, StoreFenced) and "epoch 2, ours is 1" in str(error)
            async with a_client(server.address) as client:
                await client.call("SET", "tbx:main:lease", "k:1")
                assert isinstance(await beaten(other), StoreCorrupt)
                await client.call("FLUSHALL")
                error = await beaten(other)
                assert isinstance(error, StoreCorrupt) and "is gone" in str(error)
                assert await client.call("KEYS", "*") == [], "a beat begins nothing anew"
                with pytest.raises(StoreError):
                    await other.release()


@in_loop
async def test_a_beat_that_redis_cannot_take_is_no_beat(tmp_path: Path) -> None:
    async with a_redis(tmp_path) as server, a_store(server.address) as writer:
        async with a_client(server.address) as client:
            await client.call("CONFIG", "SET", "maxmemory", "1")
            error = await beaten(writer)
            assert isinstance(error, StoreUnavailable) and "memory" in str(error)
            await client.call("CONFIG", "SET", "maxmemory", "0")
        assert await beaten(writer) is None
        await writer.close()
        assert isinstance(await beaten(writer), StoreUnavailable)


@in_loop
async def test_a_beat_tells_of_a_redis_that_came_back_with_less_than_it_had_acknowledged(tmp_path: Path) -> None:
    async with a_redis(tmp_path) as server, a_store(server.address) as writer, a_client(server.address) as client:
        for number in range(1, 4):
            assert await committed(writer, batch(number, 0)) is None
        assert await beaten(writer) is None
        await client.call("HSET", "tbx:main:meta", "number", "2")
        error = await beaten(writer)
        assert isinstance(error, StoreBehind) and "at commit 2 and had acknowledged 3" in str(error)
