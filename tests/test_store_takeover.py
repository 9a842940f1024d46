"""What a start does with a state that it cannot take over: refused with every key and reason, or set aside and said."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tbx.core.kernel.clock import ManualClock
from tbx.core.kernel.kernel import Kernel
from tbx.core.kernel.outbox import encode_record
from tbx.core.model.errors import SettingsError, StoreUnreadable
from tbx.core.model.records import Signal
from tbx.core.state.memory import MemoryStore
from tbx.core.state.quarantine import SetAside
from tbx.core.state.resp import Connection
from tbx.core.state.snapshot import take
from tbx.http.state import takeover
from tbx.http.state.audit import Audit
from tbx.http.state.verify import json_of

from .kept_state import *  # noqa: F403
from .kept_state import NOW_MS, opened, taking_over, tbx
from .redis_fixtures import in_loop
from .service_process import ServiceProcess

DAY = "20"  # of this century, as ids begin
Planted = tuple[str, str]  # table and field of what is set aside


async def ids(client: Connection, table: str) -> list[str]:
    """Fields of a table in the order of their numbers."""
    fields = [field.decode() for field in await client.call("HKEYS", f"tbx:main:{table}")]
    return sorted(fields, key=lambda field: (len(field), field))


async def changed(client: Connection, table: str, field: str, **values: Any) -> Planted:
    key = f"tbx:main:{table}"
    row = json.loads(await client.call("HGET", key, field))
    await client.call("HSET", key, field, json.dumps(row | values))
    return table, field


async def truncated(client: Connection, table: str, field: str) -> Planted:
    key = f"tbx:main:{table}"
    raw = await client.call("HGET", key, field)
    await client.call("HSET", key, field, raw[: len(raw) // 2])
    return table, field


async def an_order_cut_short(c: Connection) -> Planted:
    return await truncated(c, "orders", (await ids(c, "orders"))[0])


async def an_order_in_no_known_state(c: Connection) -> Planted:
    return await changed(c, "orders", (await ids(c, "orders"))[0], state="MAYBE")


async def an_order_of_a_wrong_type(c: Connection) -> Planted:
    return await changed(c, "orders", (await ids(c, "orders"))[0], qty_lots="many")


async def an_order_that_is_no_text(c: Connection) -> Planted:
    field = (await ids(c, "orders"))[0]
    await c.call("HSET", "tbx:main:orders", field, b"\xff\xfe{")
    return "orders", field


async def an_open_order_of_an_unknown_pair(c: Connection) -> Planted:
    return await changed(c, "orders", (await ids(c, "orders"))[-1], pair="GONE_USDT")


async def an_order_under_the_key_of_another(c: Connection) -> Planted:
    first = (await ids(c, "orders"))[0]
    return await changed(c, "orders", first, order_id="ORD_20250101_000099")


async def a_second_order_with_the_same_venue_id(c: Connection) -> Planted:
    first, second = (await ids(c, "orders"))[:2]
    row = json.loads(await c.call("HGET", "tbx:main:orders", first))
    return await changed(c, "orders", second, venue_client_id=row["venue_client_id"])


async def a_fill_cut_short(c: Connection) -> Planted:
    return await truncated(c, "trades", (await ids(c, "trades"))[0])


async def a_fill_without_its_order(c: Connection) -> Planted:
    return await changed(c, "trades", (await ids(c, "trades"))[-1], order_id="ORD_20250101_000077")


async def a_trade_twice(c: Connection) -> Planted:
    last = (await ids(c, "trades"))[-1]
    row = json.loads(await c.call("HGET", "tbx:main:trades", last)) | {"fill_id": "FILL_000900"}
    await c.call("HSET", "tbx:main:trades", "FILL_000900", json.dumps(row))
    return "trades", "FILL_000900"


async def a_negative_balance(c: Connection) -> Planted:
    return await changed(c, "balances", "paper.binance:USDT", total="-12.5")


async def a_balance_that_is_no_number(c: Connection) -> Planted:
    return await changed(c, "balances", "paper.binance:USDT", total="NaN")


async def a_position_cut_short(c: Connection) -> Planted:
    return await truncated(c, "positions", (await ids(c, "positions"))[0])


async def a_book_without_numbers(c: Connection) -> Planted:
    return await changed(c, "books", (await ids(c, "books"))[0], bids=[["x", "1"]])


async def a_sample_cut_short(c: Connection) -> Planted:
    entry = await c.call("XADD", "tbx:main:equity", "*", "sample", b'{"timestamp_ns":')
    return "equity", entry.decode()


async def a_fill_of_another_pair(c: Connection) -> Planted:
    return await changed(c, "trades", (await ids(c, "trades"))[-1], pair="ETH_USDT")


async def no_counters(c: Connection) -> Planted:
    await c.call("HDEL", "tbx:main:meta", "ids")
    return "meta", "ids"


async def no_counters_and_a_signal_of_a_day_without_orders(c: Connection) -> Planted:
    signal = Signal(signal_id="SIG_20990101_007", pair="RVN_USDT", action="HOLD", created_ns=1)
    await c.call("HSET", "tbx:main:signals", signal.signal_id, encode_record(signal))
    return await no_counters(c)


async def counters_below_what_was_given(c: Connection) -> Planted:
    return await changed(c, "meta", "ids", order=3)


async def counters_that_cannot_be_read(c: Connection) -> Planted:
    await c.call("HSET", "tbx:main:meta", "ids", "{}}")
    return "meta", "ids"


async def add_entry(c: Connection, *fields: str | bytes) -> Planted:
    """An entry at the end of the journal, counted as committed."""
    seq = int(await c.call("HGET", "tbx:main:meta", "seq")) + 1
    entry = await c.call("XADD", "tbx:main:journal", f"{seq}-0", "seq", seq, *fields)
    await c.call("HSET", "tbx:main:meta", "seq", seq)
    return "journal", entry.decode()


async def event(c: Connection, **values: Any) -> bytes:
    seq = int(await c.call("HGET", "tbx:main:meta", "seq")) + 1
    return json.dumps([{"seq": seq, "channel": "orders", "type": "OrderFilled", "data": {}, **values}]).encode()


async def a_journal_entry_cut_short(c: Connection) -> Planted:
    return await add_entry(c, "events", b'[{"seq":')


async def a_journal_entry_of_a_later_version(c: Connection) -> Planted:
    return await add_entry(c, "events", await event(c), "v", "9")


async def a_journal_entry_of_an_unknown_type(c: Connection) -> Planted:
    return await add_entry(c, "events", await event(c, type="OrderDreamt"))


async def a_journal_entry_without_events(c: Connection) -> Planted:
    return await add_entry(c, "kind", "snapshot")


async def a_journal_entry_out_of_order(c: Connection) -> Planted:
    return await add_entry(c, "events", await event(c, seq=3))


ROWS: dict[str, tuple[Callable[[Connection], Any], str]] = {
    "an order cut short": (an_order_cut_short, "cannot be read: Input data was truncated"),
    "an order in no known state": (an_order_in_no_known_state, "Invalid enum value 'MAYBE'"),
    "an order of a wrong type": (an_order_of_a_wrong_type, "Expected `int`, got `str`"),
    "an order that is no text": (an_order_that_is_no_text, "cannot be read"),
    "an open order of an unknown pair": (an_open_order_of_an_unknown_pair, "GONE_USDT, which is not listed"),
    "an order under another's key": (an_order_under_the_key_of_another, "holds the order 'ORD_20250101_000099'"),
    "two orders with one venue id": (a_second_order_with_the_same_venue_id, "has the venue client id of ORD_"),
    "a fill cut short": (a_fill_cut_short, "cannot be read: Input data was truncated"),
    "a fill without its order": (a_fill_without_its_order, "ORD_20250101_000077, which is neither here nor in"),
    "a fill of another pair": (a_fill_of_another_pair, "ETH_USDT:buy, and its order ORD_"),
    "a trade twice": (a_trade_twice, "a second time, after FILL_"),
    "a negative balance": (a_negative_balance, "total is -12.5, must not be below zero"),
    "a balance that is no number": (a_balance_that_is_no_number, "total is NaN, must be a number"),
    "a position cut short": (a_position_cut_short, "cannot be read: Input data was truncated"),
    "a book without numbers": (a_book_without_numbers, "a level cannot be read: 'x' is not a number"),
    "a sample cut short": (a_sample_cut_short, "cannot be read: Input data was truncated"),
    "no counters": (no_counters, "stands at order 0 of day 0 and fill 0, and there are order 15"),
    "no counters, and a signal of a day without orders": (
        no_counters_and_a_signal_of_a_day_without_orders,
        "stands at order 0 of day 0",
    ),
    "counters below what was given": (counters_below_what_was_given, "stands at order 3 of day"),
    "counters that cannot be read": (counters_that_cannot_be_read, "cannot be read: JSON is malformed"),
    "a journal entry cut short": (a_journal_entry_cut_short, "its events cannot be read: Input data was truncated"),
    "a journal entry of a later version": (a_journal_entry_of_a_later_version, "is of version '9'"),
    "a journal entry of an unknown type": (a_journal_entry_of_an_unknown_type, "of the unknown type 'OrderDreamt'"),
    "a journal entry without events": (a_journal_entry_without_events, "is of an unknown form: fields 'seq', 'kind'"),
    "a journal entry out of order": (a_journal_entry_out_of_order, "its last event is 3"),
}


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
@in_loop
async def test_a_bad_entry_is_refused_with_its_key_and_set_aside_when_told_so(
    data: Path, row: tuple[Callable[[Connection], Any], str]
) -> None:
    plant, reason = row
    async with opened(data) as (store, client, archive):
        table, field = await plant(client)
        command = ("XRANGE", f"tbx:main:{table}", field, field) if table in ("journal", "equity") else ("HGET",)
        command = command if len(command) > 1 else ("HGET", f"tbx:main:{table}", field)
        stood = await client.call(*command)
        said: list[str] = []
        with pytest.raises(StoreUnreadable) as refused:
            await taking_over(store, archive, said, quarantine=False).run()
        lines = refused.value.problems
        assert any(f"tbx:main:{table} {field}: " in line and reason in line for line in lines), lines
        assert lines[0].startswith(f"{len(lines) - 2} entr")
        assert "tbx serve --quarantine" in lines[-1] and "tbx restore FILE" in lines[-1]
        assert await client.call("EXISTS", "tbx:main:quarantine") == 0 and await client.call(*command) == stood

        taken = await taking_over(store, archive, said, quarantine=True).run()
        kept = msgspec.json.decode(taken.loaded.quarantine[f"{table}:{field}"], type=SetAside)
        assert reason in kept.reason and kept.at == NOW_MS
        assert (kept.bytes() or stood) == stood
        assert any(line.startswith(f"set aside: tbx:main:{table} {field}: ") for line in said), said
        assert len(taken.loaded.quarantine) == len(lines) - 2, "what was named is what was set aside"

        said.clear()
        await taking_over(store, archive, said, quarantine=False).run()
        assert said == [], "the next start has nothing to say"


@in_loop
async def test_a_field_that_is_no_text_is_named_and_set_aside_as_it_is(data: Path) -> None:
    field = b"ORD_\xff\xfe"
    async with opened(data) as (store, client, archive):
        await client.call("HSET", "tbx:main:orders", field, b"{}")
        with pytest.raises(StoreUnreadable) as refused:
            await taking_over(store, archive, [], quarantine=False).run()
        assert [line for line in refused.value.problems if line.startswith(r"tbx:main:orders ORD_\xff\xfe: ")]
        snapshot = await take(client, store.address, "main")
        assert snapshot is not None
        report = msgspec.json.decode(json_of(Audit(snapshot, archive, moving=False).run()))
        assert report["checks"][0]["differences"][0]["key"] == r"tbx:main:orders ORD_\xff\xfe"
        said: list[str] = []
        await taking_over(store, archive, said, quarantine=True).run()
        assert len(said) == 1 and said[0].startswith(r"set aside: tbx:main:orders ORD_\xff\xfe: cannot be read")
        assert await client.call("HEXISTS", "tbx:main:orders", field) == 0
        assert await client.call("HEXISTS", "tbx:main:quarantine", b"orders:" + field) == 1
        await taking_over(store, archive, said, quarantine=False).run()


@in_loop
async def test_a_fill_that_cannot_be_is_set_aside_beside_a_balance_and_counts_as_nothing(data: Path) -> None:
    async with opened(data) as (store, client, archive):
        fill = (await ids(client, "trades"))[-1]
        await changed(client, "trades", fill, lot="0", tick="sNaN")
        await truncated(client, "balances", "paper.binance:USDT")
        taken = await taking_over(store, archive, [], quarantine=True).run()
        assert set(taken.loaded.quarantine) == {f"trades:{fill}", "balances:paper.binance:USDT"}
        snapshot = await take(client, store.address, "main")
        assert snapshot is not None
        report = Audit(snapshot, archive, moving=False).run()
        assert set(report.quarantined) == {f"trades:{fill}", "balances:paper.binance:USDT"}


@in_loop
async def test_the_state_of_another_account_is_refused_before_anything_is_set_aside(data: Path) -> None:
    async with opened(data) as (store, client, archive):
        await client.call("HSET", "tbx:main:meta", "account", '"api.binance.com"')
        await an_open_order_of_an_unknown_pair(client)
        with pytest.raises(SettingsError, match=r"belongs to api\.binance\.com, and now testnet is set"):
            await taking_over(store, archive, [], quarantine=True, account="testnet").run()
        assert await client.call("EXISTS", "tbx:main:quarantine") == 0


@in_loop
async def test_live_orders_are_not_set_aside_by_a_start_on_paper(data: Path) -> None:
    """Its pairs are not those of the exchange: it is the settings that are wrong."""
    async with opened(data) as (store, client, archive):
        await client.call("HSET", "tbx:main:meta", "account", '"api.binance.com"')
        await an_open_order_of_an_unknown_pair(client)
        with pytest.raises(
            SettingsError, match=r"belongs to api\.binance\.com and has open orders of pairs that MARKET"
        ):
            await taking_over(store, archive, [], quarantine=True).run()
        assert await client.call("EXISTS", "tbx:main:quarantine") == 0


@in_loop
async def test_fills_and_exits_are_set_aside_with_what_they_need(data: Path) -> None:
    async with opened(data) as (store, client, archive):
        orders = {
            field: json.loads(await client.call("HGET", "tbx:main:orders", field))
            for field in await ids(client, "orders")
        }
        [entry] = {row["parent_id"] for row in orders.values() if "parent_id" in row}
        trades = [json.loads(await client.call("HGET", "tbx:main:trades", f)) for f in await ids(client, "trades")]
        await truncated(client, "orders", entry)
        taken = await taking_over(store, archive, [], quarantine=True).run()
        exits = {f"orders:{i}" for i, row in orders.items() if row.get("parent_id") == entry}
        fills = {f"trades:{row['fill_id']}" for row in trades if row["order_id"] == entry}
        assert len(exits) == 2 and fills
        assert set(taken.loaded.quarantine) == {f"orders:{entry}"} | exits | fills


@in_loop
async def test_a_balance_that_is_set_aside_counts_as_zero_and_is_not_funded_again(data: Path) -> None:
    async with opened(data) as (store, client, archive):
        await a_negative_balance(client)
        said: list[str] = []
        taken = await taking_over(store, archive, said, quarantine=True).run()
        [balance] = [b for b in taken.held.balances if (b.wallet, b.currency) == ("paper.binance", "USDT")]
        assert balance.total == 0
        assert any("in its place: tbx:main:balances paper.binance:USDT" in line for line in said)


@in_loop
async def test_counters_and_positions_that_are_set_aside_come_back_from_what_is_kept(data: Path) -> None:
    async with opened(data) as (store, client, archive):
        before = (await taking_over(store, archive, [], quarantine=False).run()).held
        await counters_that_cannot_be_read(client)
        field = f"{before.positions[0].wallet}:{before.positions[0].pair}"
        await truncated(client, "positions", field)
        held = (await taking_over(store, archive, [], quarantine=True).run()).held
        assert (held.counters.day, held.counters.order) == (before.counters.day, before.counters.order)
        assert held.counters.fill == before.counters.fill and set(held.counters.tags) == set(before.counters.tags)
        [found] = [p for p in held.positions if f"{p.wallet}:{p.pair}" == field]
        assert msgspec.structs.replace(found, position_id="", open_ns=0) == msgspec.structs.replace(
            before.positions[0], position_id="", open_ns=0
        )


@in_loop
async def test_counters_that_were_set_back_keep_the_tags_of_every_process_that_has_sent_orders(data: Path) -> None:
    async with opened(data) as (store, client, archive):
        tags = ["old", "new"]
        await changed(client, "meta", "ids", order=3, tags=tags)
        held = (await taking_over(store, archive, [], quarantine=True).run()).held
        assert held.counters.order == 15 and held.counters.tags[:2] == tags


@in_loop
async def test_what_is_wrong_with_old_journal_entries_is_found_while_running_and_set_aside_at_a_start(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(takeover, "JOURNAL_EVENTS", 3)
    monkeypatch.setattr(takeover, "JOURNAL_PAGE", 2)
    async with opened(data) as (store, client, archive):
        entries = await client.call("XRANGE", "tbx:main:journal", "-", "+")
        await client.call("DEL", "tbx:main:journal")
        for number, (entry_id, flat) in enumerate(entries):
            spoilt = [flat[0], flat[1], b"events", b"[{]", *flat[4:]] if number == 1 else flat
            await client.call("XADD", "tbx:main:journal", entry_id, *spoilt)
        bad = entries[1][0].decode()
        said: list[str] = []
        start = taking_over(store, archive, said, quarantine=False)
        await start.run()
        clock = ManualClock()
        kernel = Kernel(clock, MemoryStore(clock.call_soon).writer(0))
        await start.rest_of_journal(kernel)
        [condition] = kernel.conditions.held
        assert condition.name == "journal_damaged" and f"tbx:main:journal {bad}" in condition.why
        assert [line for line in said if f"tbx:main:journal {bad}" in line]
        taken = await taking_over(store, archive, said, quarantine=True).run()
        assert list(taken.loaded.quarantine) == [f"journal:{bad}"]


def test_the_service_refuses_with_exit_code_2_and_goes_on_with_quarantine(data: Path) -> None:
    folder = data.parent

    async def plant() -> None:
        async with opened(data) as (_, client, _archive):
            await an_order_cut_short(client)
            await a_negative_balance(client)

    in_loop(plant)()
    refused = tbx(folder, "serve")
    assert refused.returncode == 2, refused.stderr
    assert "entries of the state cannot be" in refused.stderr
    assert "tbx:main:balances paper.binance:USDT: total is -12.5" in refused.stderr
    service = ServiceProcess(folder)
    service.arguments = ("--quarantine",)
    try:
        service.start()
        assert "set aside: tbx:main:balances paper.binance:USDT" in service.stderr()
        conditions = service.http.get("/api/health").json()["conditions"]
        assert any(condition["name"] == "quarantined" for condition in conditions), conditions
        assert service.stop() == 0  # by then everything is in the log
        assert "set aside: tbx:main:balances" in (folder / "logs/execution.log").read_text()
    finally:
        service.close()


@in_loop
async def test_a_redis_that_lost_everything_is_not_taken_for_a_new_one(data: Path) -> None:
    async with opened(data) as (_store, client, _archive):
        await client.call("FLUSHALL")
    refused = tbx(data.parent, "serve")
    assert refused.returncode == 2 and "had acknowledged" in refused.stderr and "tbx restore" in refused.stderr
    assert "committed to begin anew" in refused.stderr


def test_the_journal_goes_on_after_its_last_entry_was_set_aside(data: Path) -> None:
    async def plant() -> None:
        async with opened(data) as (_store, client, _archive):
            await client.call("XADD", "tbx:main:journal", "*", "a", "b")

    in_loop(plant)()
    assert tbx(data.parent, "serve").returncode == 2
    service = ServiceProcess(data.parent)
    service.arguments = ("--quarantine",)
    try:
        service.start()
        service.order_when(service.order(quantity=100).json()["orderId"], "filled")
        assert service.stop() == 0
    finally:
        service.close()


@in_loop
async def test_an_entry_of_the_quarantine_that_cannot_be_read_stops_no_start(data: Path) -> None:
    async with opened(data) as (store, client, archive):
        await client.call("HSET", "tbx:main:quarantine", "trades:FILL_000001", "{")
        start = taking_over(store, archive, [], quarantine=False)
        assert start.trades_aside(await start.run()) == {}
