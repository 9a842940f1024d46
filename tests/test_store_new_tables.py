"""Signals, limits and sub-ledgers in the store: taken over, set aside, made anew, compared, backed up."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tbx.core.kernel.outbox import encode_record
from tbx.core.model.record_checks import limit_key, sub_position_key
from tbx.core.model.records import DeadMan, Order, Position, Signal, SignalData, SubPosition, TradingLimit
from tbx.core.state.archive import Archive
from tbx.core.state.backup import read
from tbx.core.state.resp import Connection
from tbx.core.state.snapshot import take
from tbx.core.state.store import Loaded
from tbx.http.state.audit import Audit, Report
from tbx.http.state.loading import examine

from .kept_state import *  # noqa: F403 - its fixtures
from .kept_state import opened, taking_over, tbx
from .redis_fixtures import in_loop

D = Decimal
SIGNAL = Signal(signal_id="SIG_20250101_001", pair="RVN_USDT", action="BUY", created_ns=1)
LIMIT = TradingLimit(name="operator", scope="pair:BTC_USDT", state="HALTED", why="news", since_ns=1)
SHARE = SubPosition(strategy="a:b", wallet="paper.xeggex", exchange="xeggex", pair="RVN_USDT", quantity=D(5))
STRATEGIES = "tbx:main:strategies"


def loaded(**tables: dict[str, Any]) -> Loaded:
    rows = {
        table: {field: raw if isinstance(raw, bytes) else encode_record(raw) for field, raw in some.items()}
        for table, some in tables.items()
    }
    ids = b'{"day":20260101,"order":9,"fill":9,"position":9,"signal":9}'
    return Loaded(meta={"ids": ids}, tables=rows, seq=0, number=0, equity=[])


# --- examined


def test_records_of_the_new_tables_are_decoded_by_what_their_fields_begin_with() -> None:
    held, unreadable = examine(
        loaded(
            signals={SIGNAL.signal_id: SIGNAL},
            risk={
                limit_key(LIMIT.scope, LIMIT.name): LIMIT,
                "deadman": DeadMan(deadline_ns=5, timeout_ns=1),
                "later": b'{"of":"a newer version"}',
            },
            strategies={sub_position_key(SHARE): SHARE, "state:my:name": b'{"seen":3}'},
        )
    )
    assert unreadable == []
    assert (held.signals, held.limits, held.sub_positions) == ([SIGNAL], [LIMIT], [SHARE])
    assert held.dead_man == DeadMan(deadline_ns=5, timeout_ns=1) and held.rebase is None
    assert held.strategy_states == {"my:name": b'{"seen":3}'}
    assert bytes(held.risk["later"]) == b'{"of":"a newer version"}'


@pytest.mark.parametrize(
    ("table", "field", "raw", "reason"),
    [
        ("signals", "SIG_20250101_001", b"{", "cannot be read"),
        ("signals", "SIG_20250101_002", SIGNAL, "holds the signal 'SIG_20250101_001'"),
        ("signals", "SIG_1", msgspec.structs.replace(SIGNAL, signal_id="SIG_1"), "not of the form SIG_20250101_001"),
        ("risk", "limit::operator", LIMIT, "holds the limit limit:pair:BTC_USDT:operator"),
        ("risk", "limit::x", b'{"name":"x","state":"MAYBE","why":"","since_ns":1}', "cannot be read"),
        ("risk", "deadman", b"[]", "cannot be read"),
        ("risk", "anything", b"\xff", "cannot be read"),
        ("strategies", "position:a:paper.xeggex:RVN_USDT", SHARE, "holds the sub-position position:a:b:paper.xeggex:"),
        ("strategies", "state:ma", b"{half", "cannot be read"),
        ("strategies", "other", b"{half", "cannot be read"),
        (
            "strategies",
            sub_position_key(SHARE),
            msgspec.structs.replace(SHARE, quantity=D("NaN")),
            "quantity is NaN, must be a number",
        ),
    ],
)
def test_what_cannot_be_taken_over_is_named(table: str, field: str, raw: Any, reason: str) -> None:
    _, [entry] = examine(loaded(**{table: {field: raw}}))
    assert (entry.table, entry.field) == (table, field)
    assert reason in entry.reason, entry.reason


def test_a_signal_above_its_counter_is_a_counter_that_cannot_be_taken_over() -> None:
    later = msgspec.structs.replace(SIGNAL, signal_id="SIG_20260101_010")
    _, [entry] = examine(loaded(signals={later.signal_id: later}))
    assert (entry.table, entry.field) == ("meta", "ids")
    assert "stands at signal 9 of day 20260101, and there is signal 10 of day 20260101" in entry.reason


# --- at a start


async def shares(client: Connection) -> dict[str, SubPosition]:
    rows = await client.call("HGETALL", STRATEGIES)
    found = zip(rows[::2], rows[1::2], strict=True)
    names = {field.decode(): raw for field, raw in found}
    return {n: msgspec.json.decode(raw, type=SubPosition) for n, raw in names.items() if n.startswith("position:")}


async def positions(client: Connection) -> dict[str, Position]:
    rows = await client.call("HVALS", "tbx:main:positions")
    found = [msgspec.json.decode(raw, type=Position) for raw in rows]
    return {f"{position.wallet}:{position.pair}": position for position in found}


async def a_share(client: Connection) -> tuple[str, SubPosition]:
    return min((await shares(client)).items())


async def label(client: Connection, archive: Archive, strategy: str) -> None:
    """As a version before sub-ledgers left it: orders name their strategy, fills do not, nothing is kept of it."""
    await client.call("DEL", STRATEGIES)
    rows = await client.call("HGETALL", "tbx:main:orders")
    for field, raw in zip(rows[::2], rows[1::2], strict=True):
        order = msgspec.json.decode(raw, type=Order)
        order.signal_data = SignalData(strategy=strategy)
        await client.call("HSET", "tbx:main:orders", field, encode_record(order))
    old = [msgspec.json.decode(raw, type=Order) for _, raw in list(archive.every("orders"))]
    assert any(order.filled_lots for order in old), "what is archived must matter"
    for order in old:
        order.signal_data = SignalData(strategy=strategy)
        row = (encode_record(order), order.order_id)
        archive._database.execute("UPDATE orders SET json = ? WHERE order_id = ?", row)


async def audited(store: Any, client: Connection, archive: Archive) -> Report:
    snapshot = await take(client, store.address, "main")
    assert snapshot is not None
    return Audit(snapshot, archive, moving=False).run()


def differing(report: Report) -> dict[str, list[str]]:
    return {
        c.name: [f"{d.key}: {d.expected}, {d.found}" for d in c.differences] for c in report.checks if c.differences
    }


@in_loop
async def test_a_state_from_before_sub_ledgers_gets_them_from_its_fills_and_the_orders_that_name_a_strategy(
    data: Path,
) -> None:
    async with opened(data) as (store, client, archive):
        await label(client, archive, "ma")
        assert (await audited(store, client, archive)).notes == [
            "there are no sub-ledgers: the next start makes them from the fills"
        ]
        said: list[str] = []
        taken = await taking_over(store, archive, said, quarantine=False).run()
        found = await positions(client)
        assert said == [f"whose the coins of {len(found)} positions are was worked out from the fills"]
        assert {sub_position_key(share) for share in taken.held.sub_positions} == {
            f"position:ma:{key}" for key in found
        }
        for key, share in (await shares(client)).items():
            position = found[key.removeprefix("position:ma:")]
            assert (share.quantity, share.cost, share.fees) == (position.quantity, position.cost, position.fees)
        assert differing(await audited(store, client, archive)) == {}
        said.clear()
        await taking_over(store, archive, said, quarantine=False).run()
        assert said == []


@in_loop
async def test_sub_ledgers_that_do_not_make_the_position_are_made_anew(data: Path) -> None:
    async with opened(data) as (store, client, archive):
        before = await shares(client)
        share = next(iter(before.values()))
        share.quantity -= 1
        await client.call("HSET", STRATEGIES, sub_position_key(share), encode_record(share))
        await client.call("HSET", STRATEGIES, sub_position_key(SHARE), encode_record(SHARE))
        other = msgspec.structs.replace(SHARE, pair="NONE_USDT")
        await client.call("HSET", STRATEGIES, sub_position_key(other), encode_record(other))
        found = differing(await audited(store, client, archive))
        assert "sub-positions that sum to" in str(found) and "the position of its sub-positions" in str(found)
        await taking_over(store, archive, [], quarantine=False).run()
        share.quantity += 1
        assert await shares(client) == before
        assert differing(await audited(store, client, archive)) == {}


@in_loop
async def test_coins_that_the_fills_do_not_explain_are_nobody_s(data: Path) -> None:
    async with opened(data) as (store, client, archive):
        position = min((await positions(client)).items())[1]
        position.quantity += 7
        await client.call("HSET", "tbx:main:positions", f"{position.wallet}:{position.pair}", encode_record(position))
        said: list[str] = []
        await taking_over(store, archive, said, quarantine=False).run()
        assert "of 1 the fills do not tell: they are no strategy's" in said[0]
        share = (await shares(client))[f"position::{position.wallet}:{position.pair}"]
        assert share.quantity == position.quantity


@in_loop
async def test_a_sub_position_that_is_set_aside_is_made_anew_from_the_fills(data: Path) -> None:
    async with opened(data) as (store, client, archive):
        await label(client, archive, "ma")
        await taking_over(store, archive, [], quarantine=False).run()
        before = await shares(client)
        key = min(before)
        await client.call("HSET", STRATEGIES, key, b"{half")
        await taking_over(store, archive, [], quarantine=True).run()
        assert await client.call("HEXISTS", "tbx:main:quarantine", f"strategies:{key}")
        assert await shares(client) == before
        assert differing(await audited(store, client, archive)) == {}


LIMITS = {
    "a limit of a pair": ("limit:pair:BTC_USDT:operator", "pair:BTC_USDT", "operator"),
    "a limit of everything": ("limit::dailyLoss", "", "dailyLoss"),
    "a limit of nothing that is known": ("limit:what:is:this", "", "this"),
    "the dead-man timer": ("deadman", "", "deadman"),
}


@pytest.mark.parametrize("row", LIMITS.values(), ids=LIMITS)
@in_loop
async def test_in_place_of_a_limit_that_cannot_be_read_trading_is_halted_there(
    data: Path, row: tuple[str, str, str]
) -> None:
    field, scope, name = row
    async with opened(data) as (store, client, archive):
        await client.call("HSET", "tbx:main:risk", field, b"\xff")
        taken = await taking_over(store, archive, [], quarantine=True).run()
        [limit] = taken.held.limits
        assert (limit.scope, limit.name, limit.state) == (scope, name, "HALTED")
        assert f"{field} could not be read and was set aside" in limit.why
        assert await client.call("HEXISTS", "tbx:main:risk", limit_key(scope, name))
        assert field.startswith("limit:") or not await client.call("HEXISTS", "tbx:main:risk", field)


# --- compared


async def another_share(c: Connection) -> None:
    """Coins of nobody are given to a strategy: the sum is right, the fills say otherwise."""
    key, share = await a_share(c)
    await c.call("HDEL", STRATEGIES, key)
    share.strategy = "thief"
    await c.call("HSET", STRATEGIES, sub_position_key(share), encode_record(share))


async def another_record(c: Connection) -> None:
    key, share = await a_share(c)
    await c.call("HSET", STRATEGIES, key, encode_record(msgspec.structs.replace(share, won_count=99)))


async def put_signal(c: Connection, signal: Signal) -> None:
    ids = json.loads(await c.call("HGET", "tbx:main:meta", "ids")) | {"signal": 500}
    await c.call("HSET", "tbx:main:meta", "ids", json.dumps(ids))
    await c.call("HSET", "tbx:main:signals", signal.signal_id, encode_record(signal))


async def a_signal_of_no_order(c: Connection) -> None:
    await put_signal(c, msgspec.structs.replace(SIGNAL, order_ids=("ORD_20250101_000777",)))


async def an_order_of_no_signal(c: Connection) -> None:
    field = min(await c.call("HKEYS", "tbx:main:orders"))
    row = json.loads(await c.call("HGET", "tbx:main:orders", field)) | {"signal_id": "SIG_20250101_077"}
    await c.call("HSET", "tbx:main:orders", field, json.dumps(row))
    await put_signal(c, SIGNAL)


PLANTED: dict[str, tuple[Callable[[Connection], Any], str, str]] = {
    "another's coins": (another_share, "sub-ledgers are", "position:thief:paper."),
    "another record": (another_record, "sub-ledgers are", "won_count: 0, 99"),
    "a signal of no order": (a_signal_of_no_order, "signals and their orders", "its order ORD_20250101_000777"),
    "an order of no signal": (an_order_of_no_signal, "signals and their orders", "its signal SIG_20250101_077"),
}


@pytest.mark.parametrize("row", PLANTED.values(), ids=PLANTED)
@in_loop
async def test_verify_finds_what_was_changed_in_the_new_tables(
    data: Path, row: tuple[Callable[[Connection], Any], str, str]
) -> None:
    plant, name, line = row
    async with opened(data) as (store, client, archive):
        assert differing(await audited(store, client, archive)) == {}
        await plant(client)
        [(check, lines)] = differing(await audited(store, client, archive)).items()
        assert check.startswith(name) and any(line in one for one in lines), lines


@in_loop
async def test_an_order_of_a_signal_from_before_those_that_are_kept_is_no_difference(data: Path) -> None:
    async with opened(data) as (store, client, archive):
        await an_order_of_no_signal(client)
        await client.call("DEL", "tbx:main:signals")
        await put_signal(client, msgspec.structs.replace(SIGNAL, signal_id="SIG_20250102_001"))
        assert differing(await audited(store, client, archive)) == {}


# --- backed up


@in_loop
async def plant_all(data: Path) -> None:
    async with opened(data) as (_, client, _archive):
        await put_signal(client, SIGNAL)
        await client.call("HSET", "tbx:main:risk", limit_key(LIMIT.scope, LIMIT.name), encode_record(LIMIT))
        await client.call("HSET", STRATEGIES, "state:ma", b'{"seen":3}')


def test_a_backup_has_the_new_tables_and_a_restore_brings_them_back(data: Path, tmp_path: Path) -> None:
    plant_all(data)
    assert tbx(data.parent, "backup", "b.zip").returncode == 0
    _, snapshot = read(data.parent / "b.zip", tmp_path / "unpacked")
    assert snapshot.tables["signals"].keys() == {SIGNAL.signal_id}
    assert "limit:pair:BTC_USDT:operator" in snapshot.tables["risk"]
    fields = snapshot.tables["strategies"].keys()
    assert "state:ma" in fields and any(field.startswith("position::paper.") for field in fields)
    other = tmp_path / "other"
    other.mkdir()
    restored = tbx(other, "restore", str(data.parent / "b.zip"))
    assert restored.returncode == 0, restored.stderr
    agrees = tbx(other, "verify", "--json")
    assert agrees.returncode == 0 and json.loads(agrees.stdout)["agrees"], agrees.stdout
    assert tbx(other, "backup", "again.zip").returncode == 0
    _, again = read(other / "again.zip", tmp_path / "unpacked")
    for table in ("signals", "risk", "strategies"):
        assert again.tables[table] == snapshot.tables[table]


def test_a_restore_brings_the_limits_of_the_backup_and_names_those_that_hold_no_more(data: Path) -> None:
    assert tbx(data.parent, "backup", "active.zip").returncode == 0
    plant_all(data)
    restored = tbx(data.parent, "restore", "active.zip", "--replace")
    assert restored.returncode == 0, restored.stderr
    said = restored.stdout + restored.stderr
    assert "not in the backup, and hold no more: limit:pair:BTC_USDT:operator" in said, said
    again = tbx(data.parent, "restore", "active.zip", "--replace")
    assert again.returncode == 0 and "hold no more" not in again.stdout + again.stderr


def test_a_backup_from_before_the_table_of_strategies_is_read(data: Path, tmp_path: Path) -> None:
    assert tbx(data.parent, "backup", "new.zip").returncode == 0
    old = tmp_path / "old.zip"
    with zipfile.ZipFile(data.parent / "new.zip") as whole, zipfile.ZipFile(old, "w") as made:
        for part in whole.namelist():
            if part == "manifest.json":
                manifest = json.loads(whole.read(part)) | {"format": 1}
                for section in ("counts", "sha256"):
                    del manifest[section]["strategies.jsonl"]
                made.writestr(part, json.dumps(manifest))
            elif part != "strategies.jsonl":
                made.writestr(part, whole.read(part))
    manifest, snapshot = read(old, tmp_path / "unpacked")
    assert manifest.format == 1 and snapshot.tables["strategies"] == {} and snapshot.tables["orders"]
    verified = tbx(data.parent, "verify", "--file", str(old))
    assert verified.returncode == 0 and "there are no sub-ledgers" in verified.stdout, verified.stdout
