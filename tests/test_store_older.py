"""A state that is not as the last start left it: of an older version, cut in the middle of a record, or put back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tbx.core.model.errors import StoreError, StoreUnreadable
from tbx.core.state.resp import Connection
from tbx.core.state.snapshot import take
from tbx.http.state.audit import Audit

from .kept_state import data, kept, opened, taking_over, tbx  # noqa: F401  # fixtures
from .redis_fixtures import in_loop
from .service_process import ServiceProcess


async def made_version_1(client: Connection) -> None:
    """As the first version wrote it: balances without flows, journal entries without their version."""
    for field in await client.call("HKEYS", "tbx:main:balances"):
        row = json.loads(await client.call("HGET", "tbx:main:balances", field))
        del row["flows"]
        await client.call("HSET", "tbx:main:balances", field, json.dumps(row))
    entries = await client.call("XRANGE", "tbx:main:journal", "-", "+")
    await client.call("DEL", "tbx:main:journal")
    for entry_id, flat in entries:
        await client.call("XADD", "tbx:main:journal", entry_id, *flat[:4])
    await client.call("HSET", "tbx:main:meta", "schema", 1)


@in_loop
async def test_a_state_of_version_1_is_brought_up_in_one_step_and_then_agrees(data: Path) -> None:  # noqa: F811
    async with opened(data) as (store, client, archive):
        await made_version_1(client)
        said: list[str] = []
        await taking_over(store, archive, said, quarantine=False).run()
        assert len(said) == 1 and "the state was brought from schema 1 to 2" in said[0]
        assert await client.call("HGET", "tbx:main:meta", "schema") == b"2"
        snapshot = await take(client, store.address, "main")
        assert snapshot is not None
        report = Audit(snapshot, archive, moving=False).run()
        assert report.agrees, [check for check in report.checks if check.differences]
        [flows] = [check for check in report.checks if check.name == "flows are as the journal told them"]
        assert flows.compared > 0, "what was computed is what the journal still knew"
        said.clear()
        await taking_over(store, archive, said, quarantine=False).run()
        assert said == []


@in_loop
async def test_a_state_of_version_1_is_compared_as_a_start_would_bring_it_up(data: Path) -> None:  # noqa: F811
    async with opened(data) as (store, client, archive):
        await made_version_1(client)
        snapshot = await take(client, store.address, "main")
        assert snapshot is not None
        report = Audit(snapshot, archive, moving=False).run()
        assert report.agrees, [check for check in report.checks if check.differences]
        assert report.notes == ["of schema 1: compared as a start would bring it up to 2"]


@in_loop
async def test_a_state_of_version_1_with_a_fill_that_cannot_be_is_refused_by_its_key(data: Path) -> None:  # noqa: F811
    async with opened(data) as (store, client, archive):
        await made_version_1(client)
        fill = max(await client.call("HKEYS", "tbx:main:trades")).decode()
        row = json.loads(await client.call("HGET", "tbx:main:trades", fill)) | {"lot": "0", "tick": "sNaN"}
        await client.call("HSET", "tbx:main:trades", fill, json.dumps(row))
        with pytest.raises(StoreUnreadable, match=f"{fill}: tick is sNaN and lot 0"):
            await taking_over(store, archive, [], quarantine=False).run()


@in_loop
async def test_a_standby_that_a_newer_version_has_overtaken_does_not_go_on_with_its_state(data: Path) -> None:  # noqa: F811
    async with opened(data) as (store, client, archive):
        await client.call("HSET", "tbx:main:meta", "schema", 9)  # after `open`: the writer was upgraded meanwhile
        with pytest.raises(StoreError, match="holds state of schema 9, this version knows up to 2: run the newer"):
            await taking_over(store, archive, [], quarantine=True).run()


@in_loop
async def test_a_state_of_version_1_with_a_bad_entry_is_refused_as_it_is(data: Path) -> None:  # noqa: F811
    async with opened(data) as (store, client, archive):
        await made_version_1(client)
        await client.call("HSET", "tbx:main:balances", "paper.binance:USDT", "{")
        with pytest.raises(StoreUnreadable, match="paper.binance:USDT: cannot be read"):
            await taking_over(store, archive, [], quarantine=False).run()
        assert await client.call("HGET", "tbx:main:meta", "schema") == b"1"


def test_a_file_cut_in_the_middle_of_a_record_is_repaired_and_what_is_missing_is_said(
    data: Path,  # noqa: F811
) -> None:
    service = ServiceProcess(data.parent)
    log = data / "appendonly.aof"
    try:
        service.start()
        size = log.stat().st_size
        ids = []
        for _ in range(5):
            ids.append(service.order(quantity=100).json()["orderId"])
            service.order_when(ids[-1], "filled")
        assert service.stop() == 0
        raw = log.read_bytes()
        log.write_bytes(raw[: size + (len(raw) - size) // 2])
        service.start()
        said = service.stderr()
        assert "redis: " in said and "runcat" in said, said
        assert "Redis came back with commit " in said and "are lost" in said
        conditions = {c["name"]: c["why"] for c in service.http.get("/api/health").json()["conditions"]}
        assert "Redis came back with commit " in conditions["store_behind"]
        given = service.order(quantity=100).json()["orderId"]
        assert given not in ids and int(given.split("_")[2]) > 100_000
        service.order_when(given, "filled")
        service.stop()
        agrees = tbx(data.parent, "verify")
        assert agrees.returncode == 0, agrees.stdout
    finally:
        service.close()
