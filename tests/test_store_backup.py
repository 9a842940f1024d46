"""`tbx backup`, `tbx restore` and `tbx verify`: real files, real Redis, real processes."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tbx.core.model.errors import StoreFenced
from tbx.core.settings import load_settings
from tbx.core.state import backup as file
from tbx.core.state.archive import Archive
from tbx.core.state.resp import Argument, Connection
from tbx.core.state.server import find_binary
from tbx.core.state.snapshot import take
from tbx.http.state.audit import Audit, Report
from tbx.http.state.backup import replace_state

from .kept_state import NOW_MS, data, kept, opened, taking_over, tbx  # noqa: F401  # fixtures
from .redis_fixtures import a_redis, a_store, in_loop
from .service_process import ServiceProcess
from .test_store_takeover import a_negative_balance, add_entry, changed, ids, truncated

# --- while the service trades


def test_a_backup_made_while_orders_flow_restores_to_a_state_that_agrees(tmp_path: Path) -> None:
    folder, other = tmp_path / "one", tmp_path / "two"
    folder.mkdir()
    other.mkdir()
    service = ServiceProcess(folder, MAX_ORDERS_KEPT="50")
    over = threading.Event()
    placed = 0

    def trade() -> None:
        nonlocal placed
        while not over.is_set():
            body = {"stopLoss": 0.02, "takeProfit": 0.04} if placed % 5 == 0 else {}
            assert service.order(quantity=100, **body).status_code == 201
            placed += 1

    try:
        service.start()
        thread = threading.Thread(target=trade)
        thread.start()
        try:
            for number in range(3):
                done = tbx(folder, "backup", f"{number}.zip")
                assert done.returncode == 0, done.stderr
                running = tbx(folder, "verify")
                assert running.returncode == 0, running.stdout + running.stderr
        finally:
            over.set()
            thread.join()
        assert placed > 20
        refused = tbx(folder, "restore", "0.zip", "--replace")
        assert refused.returncode == 2 and "uses DATA_DIR" in refused.stderr
    finally:
        service.close()
    for number in range(3):
        of_file = tbx(folder, "verify", "--file", f"{number}.zip")
        assert of_file.returncode == 0, of_file.stdout + of_file.stderr
    assert tbx(other, "restore", str(folder / "2.zip")).returncode == 0
    agrees = tbx(other, "verify", "--json")
    assert agrees.returncode == 0, agrees.stdout + agrees.stderr
    assert json.loads(agrees.stdout)["agrees"] is True


def test_what_is_restored_goes_on_with_a_journal_of_its_own_and_ids_that_were_never_given(
    data: Path,  # noqa: F811
) -> None:
    folder = data.parent
    assert tbx(folder, "backup", "b.zip").returncode == 0
    service = ServiceProcess(folder)
    try:
        before = service.start().http.get("/api/orders?limit=1").json()["orders"][0]["orderId"]
        lost = service.order(quantity=100).json()["orderId"]
        service.order_when(lost, "filled")
        service.stop()
        assert tbx(folder, "restore", "b.zip").returncode == 2, "there is a state"
        done = tbx(folder, "restore", "b.zip", "--replace")
        assert done.returncode == 0, done.stderr
        [kept_file] = (folder / "data").glob("replaced-*.zip")
        assert tbx(folder, "verify", "--file", str(kept_file)).returncode == 0
        service.start()
        assert service.http.get(f"/api/orders/{lost}").status_code == 404
        assert service.http.get("/api/orders?limit=1").json()["orders"][0]["orderId"] == before
        given = service.order(quantity=100).json()["orderId"]
        assert int(given.split("_")[2]) > 1_000_000 and given > lost
        service.order_when(given, "filled")
        service.stop()
        agrees = tbx(folder, "verify")
        assert agrees.returncode == 0, agrees.stdout
    finally:
        service.close()


def test_with_a_redis_elsewhere_a_restore_waits_for_the_service_to_be_gone(backed_up: Path, tmp_path: Path) -> None:
    folder, redis = tmp_path / "service", tmp_path / "redis"
    folder.mkdir()
    redis.mkdir()
    command = [str(find_binary()), "--port", "0", "--unixsocket", str(redis / "r.sock"), "--dir", str(redis)]
    server = subprocess.Popen([*command, "--appendonly", "yes"], stdout=subprocess.DEVNULL)
    url = f"unix://{redis / 'r.sock'}"
    service = ServiceProcess(folder, REDIS_URL=url)
    try:
        service.start()
        refused = tbx(folder, "restore", str(backed_up), "--replace", REDIS_URL=url)
        assert refused.returncode == 2 and "is running on that Redis: stop it first" in refused.stderr
        service.kill()
        done = tbx(folder, "restore", str(backed_up), "--replace", REDIS_URL=url)
        assert done.returncode == 0, done.stderr
        agrees = tbx(folder, "verify", REDIS_URL=url)
        assert agrees.returncode == 0, agrees.stdout
        assert service.start().http.get("/api/orders?limit=100").json()["orders"]
    finally:
        service.close()
        server.terminate()
        server.wait(10)


# --- files


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def with_part(path: Path, name: str, change: Callable[[bytes], bytes]) -> None:
    """The same zip with another content of one part."""
    whole = path.with_name("whole.zip")
    path.rename(whole)
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(path, "w") as new:
        for part in old.namelist():
            raw = old.read(part)
            new.writestr(part, change(raw) if part == name else raw)


def damaged_inside(path: Path) -> None:
    """The first part begins with a block of a kind that does not exist: not a wrong checksum, nothing to unpack."""
    raw = bytearray(path.read_bytes())
    begin = 30 + int.from_bytes(raw[26:28], "little") + int.from_bytes(raw[28:30], "little")
    raw[begin] = 0xFF
    path.write_bytes(raw)


def of_another_method(path: Path) -> None:
    """The list at the end says that a part is packed in a way that nobody knows."""
    raw = bytearray(path.read_bytes())
    raw[raw.rindex(b"PK\x01\x02") + 10] = 77
    path.write_bytes(raw)


def another_amount(path: Path) -> None:
    with_part(path, "balances.jsonl", lambda raw: raw.replace(b"0", b"1", 1))


def another_node(path: Path) -> None:
    with_part(path, "manifest.json", lambda raw: raw.replace(b'"main"', b'"other"'))


def a_later_schema(path: Path) -> None:
    with_part(path, "manifest.json", lambda raw: raw.replace(b'"schema": 2', b'"schema": 9'))


def no_zip(path: Path) -> None:
    path.write_text("hello")


BAD_FILES: dict[str, tuple[Callable[[Path], None], str]] = {
    "cut short": (cut_short, "is no whole backup"),
    "damaged inside": (damaged_inside, "is no whole backup"),
    "of another method": (of_another_method, "is no whole backup"),
    "changed": (another_amount, "balances.jsonl is not as it was written: its checksum differs"),
    "of another node": (another_node, "is of node 'other', not 'main'"),
    "of a later schema": (a_later_schema, "schema 9); this version reads up to"),
    "no backup at all": (no_zip, "is no whole backup"),
}


@pytest.fixture(scope="module")
def backed_up(kept: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    folder = tmp_path_factory.mktemp("backed")
    shutil.copytree(kept, folder / "data", ignore=shutil.ignore_patterns("*.sock", "lock"))
    assert tbx(folder, "backup", "b.zip").returncode == 0
    return folder / "b.zip"


@pytest.mark.parametrize("row", BAD_FILES.values(), ids=BAD_FILES)
def test_a_file_that_is_not_whole_or_not_ours_changes_nothing(
    backed_up: Path, tmp_path: Path, row: tuple[Callable[[Path], None], str]
) -> None:
    spoil, reason = row
    mine = Path(shutil.copy(backed_up, tmp_path / "b.zip"))
    spoil(mine)
    done = tbx(tmp_path, "restore", "b.zip")
    assert done.returncode == 2 and reason in done.stderr, done.stderr
    assert not (tmp_path / "data/appendonly.aof").exists()
    assert [path.name for path in (tmp_path / "data").iterdir()] == []


def test_a_backup_replaces_a_file_only_when_told_so(backed_up: Path) -> None:
    folder = backed_up.parent
    (folder / "there.zip").write_text("mine")
    refused = tbx(folder, "backup", "there.zip")
    assert refused.returncode == 2 and "--force" in refused.stderr
    assert (folder / "there.zip").read_text() == "mine"
    assert tbx(folder, "backup", "there.zip", "--force").returncode == 0
    assert not list(folder.glob("*.part"))


def test_a_backup_of_no_state_says_so(tmp_path: Path) -> None:
    done = tbx(tmp_path, "backup", "b.zip")
    assert done.returncode == 2 and "there is no state in DATA_DIR" in done.stderr


def test_a_restore_that_died_half_way_is_refused_at_start_and_can_be_repeated(
    backed_up: Path,
    data: Path,  # noqa: F811
) -> None:
    async def die() -> None:
        async with opened(data) as (_, client, _archive):
            await client.call("SET", "tbx:main:restoring", "b.zip")

    in_loop(die)()
    refused = tbx(data.parent, "serve")
    assert refused.returncode == 2 and "a restore of b.zip was not finished" in refused.stderr
    assert tbx(data.parent, "restore", str(backed_up), "--replace").returncode == 0
    assert tbx(data.parent, "verify").returncode == 0


class StartsMeanwhile(Connection):
    """A connection on which a service becomes the writer right before the keys are exchanged."""

    async def pipeline(self, commands: list[tuple[Argument, ...]]) -> list[Any]:
        if commands[0] == ("MULTI",):
            async with a_store(self._address, acquire=False) as service:
                await service.acquire(NOW_MS)
        return await super().pipeline(commands)


@in_loop
async def test_a_service_that_starts_during_a_restore_keeps_its_state_and_its_archive(
    backed_up: Path,
    data: Path,  # noqa: F811
) -> None:
    manifest, snapshot = file.read(backed_up, data / "unpacked")
    archive = (data / "archive.sqlite3").read_bytes()
    settings = load_settings({"DATA_DIR": str(data)})
    async with a_redis(data) as server:
        connection = StartsMeanwhile(asyncio.get_running_loop(), server.address)
        await connection.open()
        await connection.call("WATCH", "tbx:main:lease")
        orders = await connection.call("HGETALL", "tbx:main:orders")
        with pytest.raises(StoreFenced, match="has started meanwhile: nothing was replaced"):
            await replace_state(connection, settings, snapshot, data / "unpacked", "b.zip")
        assert manifest.node == "main" and await connection.call("HGETALL", "tbx:main:orders") == orders
        assert not await connection.call("KEYS", "tbx:main:restoring*")
        connection.close()
    assert (data / "archive.sqlite3").read_bytes() == archive and (data / "unpacked").exists()


def test_a_state_that_redis_cannot_load_is_renamed_and_replaced(backed_up: Path, data: Path) -> None:  # noqa: F811
    log = data / "appendonly.aof"
    raw = bytearray(log.read_bytes())
    command = raw.index(b"\r\n*", len(raw) // 2) + 2
    raw[command : command + 1] = b"x"
    log.write_bytes(raw)
    started = tbx(data.parent, "serve")
    assert started.returncode == 2 and "redis-check-aof" in started.stderr, started.stderr
    refused = tbx(data.parent, "restore", str(backed_up))
    assert refused.returncode == 2 and "--replace" in refused.stderr
    assert tbx(data.parent, "restore", str(backed_up), "--replace").returncode == 0
    assert list(data.glob("appendonly.aof.damaged-*"))
    assert tbx(data.parent, "verify").returncode == 0


# --- verify: each difference is found


async def audited(store: Any, client: Connection, archive: Archive) -> Report:
    snapshot = await take(client, store.address, "main")
    assert snapshot is not None
    return Audit(snapshot, archive, moving=False).run()


async def more_money(c: Connection) -> None:
    await changed(c, "balances", "paper.binance:USDT", total="77")


async def other_flows(c: Connection) -> None:
    row = json.loads(await c.call("HGET", "tbx:main:balances", "paper.binance:USDT"))
    await changed(c, "balances", "paper.binance:USDT", flows="7", total=str(float(row["total"])))


async def a_fill_less(c: Connection) -> None:
    await c.call("HDEL", "tbx:main:trades", (await ids(c, "trades"))[-1])


async def more_filled(c: Connection) -> None:
    field = json.loads(await c.call("HGET", "tbx:main:trades", (await ids(c, "trades"))[-1]))["order_id"]
    row = json.loads(await c.call("HGET", "tbx:main:orders", field))
    await changed(c, "orders", field, filled_lots=row["filled_lots"] + 1)


async def another_position(c: Connection) -> None:
    await changed(c, "positions", (await ids(c, "positions"))[0], quantity="1")


async def no_position(c: Connection) -> None:
    await c.call("DEL", "tbx:main:positions")


async def nothing_locked(c: Connection) -> None:
    for field in await ids(c, "balances"):
        await changed(c, "balances", field, locked="0")


async def a_trade_twice(c: Connection) -> None:
    last = (await ids(c, "trades"))[-1]
    row = json.loads(await c.call("HGET", "tbx:main:trades", last)) | {"fill_id": "FILL_000900"}
    await c.call("HSET", "tbx:main:trades", "FILL_000900", json.dumps(row))


async def counters_set_back(c: Connection) -> None:
    await c.call("HSET", "tbx:main:meta", "ids", '{"day":20200101,"order":1,"fill":1}')


async def an_ended_order_open_again(c: Connection) -> None:
    field = json.loads(await c.call("HGET", "tbx:main:trades", (await ids(c, "trades"))[-1]))["order_id"]
    await changed(c, "orders", field, state="LIVE")


async def an_order_gone(c: Connection) -> None:
    await c.call("HDEL", "tbx:main:orders", (await ids(c, "orders"))[-1])


async def a_hole_in_the_journal(c: Connection) -> None:
    entries = await c.call("XRANGE", "tbx:main:journal", "-", "+")
    await c.call("XDEL", "tbx:main:journal", entries[len(entries) // 2][0])


async def the_end_of_the_journal_gone(c: Connection) -> None:
    [[last, _]] = await c.call("XREVRANGE", "tbx:main:journal", "+", "-", "COUNT", 1)
    await c.call("XDEL", "tbx:main:journal", last)


async def an_order_that_cannot_be_read(c: Connection) -> None:
    await truncated(c, "orders", (await ids(c, "orders"))[0])


async def below_zero(c: Connection) -> None:
    await a_negative_balance(c)


PLANTED: dict[str, tuple[Callable[[Connection], Any], str]] = {
    "more money": (more_money, "balances are what flowed and what fills moved"),
    "other flows": (other_flows, "flows are as the journal told them"),
    "a fill less": (a_fill_less, "every trade that was told is kept"),
    "a fill less, its order": (a_fill_less, "orders are the sum of their fills"),
    "a fill less, the money": (a_fill_less, "balances are what flowed and what fills moved"),
    "more filled": (more_filled, "orders are the sum of their fills"),
    "another position": (another_position, "positions are what fills made them"),
    "no position": (no_position, "positions are what fills made them"),
    "nothing locked": (nothing_locked, "what is reserved is what open orders need"),
    "a trade twice": (a_trade_twice, "entries can be read"),
    "counters set back": (counters_set_back, "ids are unique, and below their counters"),
    "an ended order open again": (an_ended_order_open_again, "orders are as the journal told them last"),
    "an order gone": (an_order_gone, "orders are as the journal told them last"),
    "a hole in the journal": (a_hole_in_the_journal, "the journal has no hole and ends with the last commit"),
    "the end of the journal gone": (
        the_end_of_the_journal_gone,
        "the journal has no hole and ends with the last commit",
    ),
    "an order that cannot be read": (an_order_that_cannot_be_read, "entries can be read"),
    "below zero": (below_zero, "entries can be read"),
}


@pytest.mark.parametrize("row", PLANTED.values(), ids=PLANTED)
@in_loop
async def test_verify_finds_what_was_changed(
    data: Path,  # noqa: F811
    row: tuple[Callable[[Connection], Any], str],
) -> None:
    plant, name = row
    async with opened(data) as (store, client, archive):
        before = await audited(store, client, archive)
        assert before.agrees, [check for check in before.checks if check.differences]
        await plant(client)
        after = await audited(store, client, archive)
        assert not after.agrees
        found = [check.name for check in after.checks if check.differences]
        assert name in found, found


@in_loop
async def test_a_hole_of_events_that_were_dropped_is_a_note_and_no_difference(data: Path) -> None:  # noqa: F811
    async with opened(data) as (store, client, archive):
        await a_hole_in_the_journal(client)
        seq = int(await client.call("HGET", "tbx:main:meta", "seq")) + 1
        told = {"seq": seq, "channel": "health", "type": "ConditionEnded", "data": {"name": "events_dropped"}}
        await add_entry(client, "events", json.dumps([told], separators=(",", ":")))
        report = await audited(store, client, archive)
        assert report.agrees, [check for check in report.checks if check.differences]
        assert any("were dropped while the store was away" in note for note in report.notes)


@in_loop
async def test_what_only_an_entry_that_is_set_aside_had_told_is_no_difference(data: Path) -> None:  # noqa: F811
    async with opened(data) as (store, client, archive):
        entries = await client.call("XRANGE", "tbx:main:journal", "-", "+")
        await client.call("DEL", "tbx:main:journal")
        last = max(n for n, (_, flat) in enumerate(entries) if b'"OrderFilled"' in flat[3])
        for number, (entry_id, flat) in enumerate(entries):
            spoilt = [*flat[:3], b"[{]", *flat[4:]] if number == last else flat
            await client.call("XADD", "tbx:main:journal", entry_id, *spoilt)
        await taking_over(store, archive, [], quarantine=True).run()
        report = await audited(store, client, archive)
        assert report.agrees, [check for check in report.checks if check.differences]
        assert any("were set aside" in note for note in report.notes)


@in_loop
async def test_verify_finds_an_archive_that_differs_from_redis(data: Path) -> None:  # noqa: F811
    async with opened(data) as (store, client, archive):
        field = (await ids(client, "trades"))[0]
        raw = await client.call("HGET", "tbx:main:trades", field)
        kept_order = next(iter(archive.every("orders")))
        archive._database.execute(
            "INSERT INTO trades SELECT ?, order_id, pair, exchange, side, at_ms, ? FROM trades LIMIT 1",
            (field, raw.replace(b'"price_ticks":', b'"price_ticks":1')),
        )
        report = await audited(store, client, archive)
        assert kept_order and not report.agrees
        [check] = [c for c in report.checks if c.name == "what is archived and in Redis is the same"]
        assert [found.key for found in check.differences] == [f"tbx:main:trades {field}"]


def test_verify_ends_with_1_and_names_key_expected_and_found(data: Path) -> None:  # noqa: F811
    async def plant() -> None:
        async with opened(data) as (_, client, _archive):
            await more_money(client)

    in_loop(plant)()
    done = tbx(data.parent, "verify")
    assert done.returncode == 1
    assert "tbx:main:balances paper.binance:USDT: expected " in done.stdout and "found 77" in done.stdout
    assert tbx(data.parent, "verify", "--file", "none.zip").returncode == 2
