"""The journal in a real Redis: what a feed that resumes is given, and what it is told instead."""

from __future__ import annotations

from pathlib import Path

import pytest

from tbx.core.model.errors import StoreCorrupt, StoreError

from .redis_fixtures import a_client, a_redis, a_store, batch, committed, in_loop, until


@in_loop
async def test_the_journal_gives_what_came_after_a_seq_or_says_that_it_no_longer_holds_it(tmp_path: Path) -> None:
    async with a_redis(tmp_path) as server, a_store(server.address) as store:
        assert await store.journal_since(0, 10) == []
        assert await committed(store, batch(1, 2, events=[b"1", b"2"])) is None
        assert await committed(store, batch(2, 2, puts=[("orders", "o", b"1")])) is None
        assert await committed(store, batch(3, 5, events=[b"3", b"4", b"5"])) is None
        # Events 6 and 7 were dropped at the outbox's bound.
        assert await committed(store, batch(4, 8, events=[b"8"])) is None
        assert await committed(store, batch(5, 9, events=[b"9"])) is None
        for seq, expected in (
            (0, None),
            (5, None),
            (6, None),
            (7, [(8, b"[8]"), (9, b"[9]")]),
            (8, [(9, b"[9]")]),
            (9, []),
            (10, None),
        ):
            assert await store.journal_since(seq, 10) == expected, seq
        assert await store.journal_since(0, 2) == [(2, b"[1,2]"), (5, b"[3,4,5]")]
        assert await store.journal_since(1, 1) == [(2, b"[1,2]")]
        assert await store.journal_since(3, 1) == [(5, b"[3,4,5]")]


@pytest.mark.parametrize("entry", [("seq", "1"), ("note", "hello"), ("seq", "1", "events", "[{")])
@in_loop
async def test_an_entry_that_somebody_else_wrote_into_the_journal_is_named(
    entry: tuple[str, ...], tmp_path: Path
) -> None:
    async with a_redis(tmp_path) as server, a_store(server.address) as store, a_client(server.address) as client:
        await client.call("XADD", "tbx:main:journal", "1-0", *entry)
        with pytest.raises(StoreCorrupt, match="tbx:main:journal.*entry 1-0 is not a JSON array"):
            await store.journal_since(0, 10)


@in_loop
async def test_the_journal_is_trimmed_at_its_bound(tmp_path: Path) -> None:
    async with a_redis(tmp_path) as server, a_store(server.address, journal_max=200, equity_max=200) as store:
        answers: list[StoreError | None] = []
        for number in range(1, 1_001):
            store.commit(batch(number, number, events=[b"{}"], appends=[("equity", b"{}")]), answers.append)
        await until(lambda: len(answers) == 1_000, "the answers")
        assert answers == [None] * 1_000
        assert await store.journal_since(100, 10) is None
        held = await store.journal_since(850, 1_000)
        assert held is not None
        assert [seq for seq, _ in held] == list(range(851, 1_001))
        assert 200 <= len((await store.load()).equity) <= 400
