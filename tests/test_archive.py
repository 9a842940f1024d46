"""The archive: kept for good, found again by every filter, the same when told twice."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tbx.core.model.errors import SettingsError, StoreCorrupt, StoreError, StoreUnavailable
from tbx.core.state import archive as archive_module
from tbx.core.state.archive import Archive, ArchivedOrder, ArchivedTrade, Filters


def an_order(number: int, **changes: object) -> ArchivedOrder:
    fields: dict[str, object] = {
        "order_id": f"o{number}",
        "client_id": None,
        "pair": "RVN_USDT",
        "exchange": "binance",
        "side": "buy",
        "status": "filled",
        "submit_ms": 1_000 + number,
        "json": b'{"n":%d}' % number,
    }
    return ArchivedOrder(**fields | changes)  # type: ignore[arg-type]


def a_trade(number: int, **changes: object) -> ArchivedTrade:
    fields: dict[str, object] = {
        "trade_id": f"t{number}",
        "order_id": f"o{number // 2}",
        "pair": "RVN_USDT",
        "exchange": "binance",
        "side": "buy",
        "time_ms": 1_000 + number,
        "json": b'{"t":%d}' % number,
    }
    return ArchivedTrade(**fields | changes)  # type: ignore[arg-type]


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return Archive(tmp_path / "archive.sqlite3")


def test_what_was_added_is_found_by_either_id_after_a_new_start(tmp_path: Path) -> None:
    path = tmp_path / "archive.sqlite3"
    first = Archive(path)
    first.add([an_order(1, client_id="c1"), an_order(2)], [a_trade(1)])
    first.close()
    again = Archive(path)
    assert again.order("o1") == again.order_by_client_id("c1") == b'{"n":1}'
    assert again.order("o3") is None
    assert again.order_by_client_id("c2") is None
    assert (again.count(), again.count(kind="trades")) == (2, 1)
    assert again.trades(Filters(order_id="o0")) == [b'{"t":1}']
    assert again.held(["o1", "o2", "o9"]) == {"o1", "o2"}
    assert again.held(["t1", "t2"], "trades") == {"t1"}
    again.close()


def test_adding_again_changes_nothing_but_to_the_newest_version(archive: Archive) -> None:
    archive.add([an_order(1)], [a_trade(1)])
    archive.add([an_order(1, json=b"{}", status="cancelled")], [a_trade(1)])
    assert (archive.count(), archive.count(kind="trades")) == (1, 1)
    assert archive.order("o1") == b"{}"
    assert archive.count(Filters(status="filled")) == 0


def test_a_client_id_used_again_finds_the_newest(archive: Archive) -> None:
    archive.add([an_order(2, client_id="c"), an_order(1, client_id="c")], [])
    assert archive.order_by_client_id("c") == b'{"n":2}'


def test_pages_follow_each_other_without_loss_where_times_are_equal(archive: Archive) -> None:
    orders = [an_order(n, submit_ms=1_000 + n // 4) for n in range(23)]
    archive.add(orders, [])
    expected = [o.json for o in sorted(orders, key=lambda o: (o.submit_ms, o.order_id), reverse=True)]
    by_json = {o.json: (o.submit_ms, o.order_id) for o in orders}
    found: list[bytes] = []
    while page := archive.orders(before=by_json[found[-1]] if found else None, limit=5):
        found += page
    assert found == expected
    assert archive.orders(limit=5, offset=20) == expected[20:]


def test_more_ids_than_a_statement_takes_are_looked_up(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive_module, "VARIABLES_MAX", 3)
    archive.add([an_order(n) for n in range(10)], [])
    assert archive.held(f"o{n}" for n in range(5, 15)) == {f"o{n}" for n in range(5, 10)}


CHOICES = st.none() | st.sampled_from(["a", "b"])
TIMES = st.none() | st.integers(0, 12)
ROWS = st.lists(st.tuples(*[st.sampled_from(["a", "b"])] * 4, st.integers(0, 10)), max_size=20)


@settings(max_examples=60, deadline=None)
@given(rows=ROWS, pair=CHOICES, exchange=CHOICES, side=CHOICES, other=CHOICES, since=TIMES, until=TIMES)
def test_filters_find_what_a_plain_loop_finds(
    rows: list[tuple[str, str, str, str, int]],
    pair: str | None,
    exchange: str | None,
    side: str | None,
    other: str | None,
    since: int | None,
    until: int | None,
) -> None:
    archive = Archive(Path(":memory:"))
    orders = [
        an_order(n, pair=p, exchange=e, side=s, status=o, submit_ms=at) for n, (p, e, s, o, at) in enumerate(rows)
    ]
    trades = [a_trade(n, pair=p, exchange=e, side=s, order_id=o, time_ms=at) for n, (p, e, s, o, at) in enumerate(rows)]
    archive.add(orders, trades)

    def wanted(row: tuple[str, str, str, str, int]) -> bool:
        same = all(want in (None, has) for want, has in zip((pair, exchange, side, other), row, strict=False))
        return same and (since is None or row[4] >= since) and (until is None or row[4] < until)

    matching = [n for n, row in enumerate(rows) if wanted(row)]
    common = Filters(pair=pair, exchange=exchange, side=side, since_ms=since, until_ms=until, status=other)
    newest = sorted((orders[n] for n in matching), key=lambda o: (o.submit_ms, o.order_id), reverse=True)
    assert archive.orders(common) == [o.json for o in newest]
    assert archive.count(common) == len(matching)
    common = Filters(pair=pair, exchange=exchange, side=side, since_ms=since, until_ms=until, order_id=other)
    latest = sorted((trades[n] for n in matching), key=lambda t: (t.time_ms, t.trade_id), reverse=True)
    assert archive.trades(common) == [t.json for t in latest]
    assert archive.count(common, "trades") == len(matching)
    archive.close()


def test_it_works_from_a_thread_that_did_not_open_it(archive: Archive) -> None:
    found: list[bytes | None] = []

    def work() -> None:
        archive.add([an_order(1)], [])
        found.append(archive.order("o1"))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [b'{"n":1}']


def test_what_add_has_returned_for_survives_a_kill(tmp_path: Path) -> None:
    program = """
import os, signal, sys
from pathlib import Path
from tbx.core.state.archive import Archive, ArchivedOrder
archive = Archive(Path(sys.argv[1]))
archive.add([ArchivedOrder(f"o{n}", None, "p", "e", "buy", "filled", n, b"{}") for n in range(1000)], [])
os.kill(os.getpid(), signal.SIGKILL)
"""
    path = tmp_path / "archive.sqlite3"
    source = Path(archive_module.__file__).parents[3]
    subprocess.run([sys.executable, "-c", program, path], env={"PYTHONPATH": str(source)}, check=False)
    assert Archive(path).count() == 1_000


def test_a_failed_add_keeps_nothing_and_the_next_one_works(archive: Archive) -> None:
    with pytest.raises(StoreUnavailable, match="cannot be used now: .*NOT NULL"):
        archive.add([an_order(1)], [a_trade(1), a_trade(2, pair=None)])
    assert (archive.count(), archive.count(kind="trades")) == (0, 0)
    archive.add([an_order(1)], [])
    assert archive.count() == 1


def test_a_full_disk_keeps_nothing_and_the_next_one_works(archive: Archive) -> None:
    archive.add([an_order(0)], [])
    pages = archive._database.execute("PRAGMA page_count").fetchone()[0]
    archive._database.execute(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(StoreUnavailable, match="database or disk is full"):
        archive.add([an_order(n, json=bytes(2_000)) for n in range(1, 50)], [])
    assert archive.count() == 1
    archive._database.execute("PRAGMA max_page_count = 100000")
    archive.add([an_order(n, json=bytes(2_000)) for n in range(1, 50)], [])
    assert archive.count() == 50


def test_a_file_that_somebody_keeps_locked_is_said(archive: Archive, tmp_path: Path) -> None:
    archive._database.execute("PRAGMA busy_timeout = 0")
    other = sqlite3.connect(tmp_path / "archive.sqlite3", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable, match="database is locked"):
        archive.add([an_order(1)], [])
    other.execute("ROLLBACK")
    archive.add([an_order(1)], [])
    assert archive.count() == 1


def test_what_is_no_archive_is_said(tmp_path: Path) -> None:
    path = tmp_path / "archive.sqlite3"
    path.write_bytes(b"something else" * 100)
    with pytest.raises(StoreCorrupt, match="archive.sqlite3: file is not a database; move it away"):
        Archive(path)


def test_an_archive_of_a_newer_version_is_said(tmp_path: Path) -> None:
    path = tmp_path / "archive.sqlite3"
    Archive(path).close()
    database = sqlite3.connect(path)
    database.execute("PRAGMA user_version = 2")
    database.close()
    with pytest.raises(StoreError, match="is of schema 2, this version knows up to 1"):
        Archive(path)


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"archive.sqlite3 cannot be written .*or set DATA_DIR"):
        Archive(tmp_path / "none" / "archive.sqlite3")
