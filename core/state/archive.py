"""What has left Redis: ended orders and old trades, in one SQLite file, still found by the API.

Always true here: `add` returns after its rows are on disk, all of them or none, and adding a row again changes nothing.
So an order is archived first and deleted from Redis by a later commit; a crash between leaves it in both, and `held`
tells which. Every call blocks: one thread at a time, never the event loop's.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import msgspec

from ..model.errors import SettingsError, StoreCorrupt, StoreError, StoreUnavailable
from ..model.ids import id_key

SCHEMA = 1
PAGE_MAX = 500  # rows of one answer; a larger limit is a fault of the caller
ROWS_A_STATEMENT = 250
VARIABLES_MAX = 500  # placeholders of one statement
BUSY_TIMEOUT_S = 5.0  # for somebody who reads the file with sqlite3

TABLES = """
CREATE TABLE orders (
    order_id TEXT PRIMARY KEY, client_id TEXT, pair TEXT NOT NULL, exchange TEXT NOT NULL, side TEXT NOT NULL,
    status TEXT NOT NULL, at_ms INTEGER NOT NULL, json BLOB NOT NULL
) WITHOUT ROWID;
CREATE INDEX orders_newest ON orders (at_ms, order_id);
CREATE INDEX orders_pair ON orders (pair, at_ms, order_id);
CREATE INDEX orders_client ON orders (client_id) WHERE client_id IS NOT NULL;
CREATE TABLE trades (
    trade_id TEXT PRIMARY KEY, order_id TEXT NOT NULL, pair TEXT NOT NULL, exchange TEXT NOT NULL, side TEXT NOT NULL,
    at_ms INTEGER NOT NULL, json BLOB NOT NULL
) WITHOUT ROWID;
CREATE INDEX trades_newest ON trades (at_ms, trade_id);
CREATE INDEX trades_pair ON trades (pair, at_ms, trade_id);
CREATE INDEX trades_order ON trades (order_id);
"""

Kind = Literal["orders", "trades"]
KEY = {"orders": "order_id", "trades": "trade_id"}
# Ids have a number that may outgrow its padding; those of orders have the day before it.
RANK = {
    "orders": "substr(order_id, 5, 8), length(order_id), order_id",
    "trades": "length(trade_id), trade_id",
}


class ArchivedOrder(msgspec.Struct, frozen=True):
    """An ended order: what is searched for, and its JSON as it was in Redis."""

    order_id: str
    client_id: str | None
    pair: str
    exchange: str
    side: str
    status: str
    submit_ms: int
    json: bytes


class ArchivedTrade(msgspec.Struct, frozen=True):
    """A fill: what is searched for, and its JSON as it was in Redis."""

    trade_id: str
    order_id: str
    pair: str
    exchange: str
    side: str
    time_ms: int
    json: bytes


class Filters(msgspec.Struct, frozen=True):
    """What rows must match; None matches all. Times: `since_ms` included, `until_ms` not."""

    status: str | None = None  # orders only
    order_id: str | None = None  # trades only
    pair: str | None = None
    exchange: str | None = None
    side: str | None = None
    since_ms: int | None = None
    until_ms: int | None = None


ALL = Filters()
Before = tuple[int, str]  # (milliseconds, id) of the last row that the caller has; older ones follow


class Archive:
    """The archive file; made when it is missing."""

    def __init__(self, path: Path) -> None:
        """Open it; raises SettingsError (cannot be written), StoreCorrupt, StoreError (schema newer than ours)."""
        self.path = path
        try:
            # Used from the one thread that the owner keeps for it, which need not be the one that opens it.
            self._database = sqlite3.connect(
                path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
            )
        except sqlite3.OperationalError as error:
            raise SettingsError(f"{path} cannot be written ({error}): make it writable, or set DATA_DIR") from error
        try:
            with self._explained():
                self._prepare()
        except StoreError:
            self._database.close()
            raise

    def _prepare(self) -> None:
        # FULL: a transaction is on disk when COMMIT returns, in WAL mode as well.
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = FULL")
        schema = self._database.execute("PRAGMA user_version").fetchone()[0]
        if schema > SCHEMA:
            raise StoreError(f"{self.path} is of schema {schema}, this version knows up to {SCHEMA}: run the newer one")
        if schema == 0:
            self._database.executescript(f"BEGIN IMMEDIATE; {TABLES} PRAGMA user_version = {SCHEMA}; COMMIT;")

    def add(self, orders: Sequence[ArchivedOrder], trades: Sequence[ArchivedTrade]) -> None:
        """Keep these, on disk before it returns; one that is here already is replaced.

        Raises StoreUnavailable (disk full, locked) and then none of them was kept.
        """
        with self._explained(), self._transaction():
            self._insert("orders", [msgspec.structs.astuple(order) for order in orders])
            self._insert("trades", [msgspec.structs.astuple(trade) for trade in trades])

    def order(self, order_id: str) -> bytes | None:
        """The JSON of an order."""
        return self._one("SELECT json FROM orders WHERE order_id = ?", order_id)

    def order_by_client_id(self, client_id: str) -> bytes | None:
        """The JSON of the newest order with that client id."""
        return self._one("SELECT json FROM orders WHERE client_id = ? ORDER BY at_ms DESC LIMIT 1", client_id)

    def orders(
        self, filters: Filters = ALL, before: Before | None = None, limit: int = 50, offset: int = 0
    ) -> list[bytes]:
        """JSON of orders, newest submitted first."""
        return self._page("orders", filters, before, limit, offset)

    def trades(
        self, filters: Filters = ALL, before: Before | None = None, limit: int = 50, offset: int = 0
    ) -> list[bytes]:
        """JSON of trades, newest first."""
        return self._page("trades", filters, before, limit, offset)

    def count(self, filters: Filters = ALL, kind: Kind = "orders") -> int:
        """How many match."""
        where, values = _where(kind, filters, None)
        with self._explained():
            count: int = self._database.execute(f"SELECT count(*) FROM {kind}{where}", values).fetchone()[0]
        return count

    def held(self, ids: Iterable[str], kind: Kind = "orders") -> set[str]:
        """Which of these ids are here: what a crash left in Redis too."""
        wanted, found = list(ids), set[str]()
        with self._explained():
            for start in range(0, len(wanted), VARIABLES_MAX):
                some = wanted[start : start + VARIABLES_MAX]
                marks = ",".join("?" * len(some))
                rows = self._database.execute(f"SELECT {KEY[kind]} FROM {kind} WHERE {KEY[kind]} IN ({marks})", some)
                found.update(row[0] for row in rows)
        return found

    def every(self, kind: Kind) -> Iterator[tuple[str, bytes]]:
        """(id, JSON) of all there are, in the order of their numbers, however many digits those have."""
        with self._explained():
            yield from self._database.execute(f"SELECT {KEY[kind]}, json FROM {kind} ORDER BY {RANK[kind]}")

    def newest(self, kind: Kind) -> str | None:
        """The highest id among the newest rows; None where there are none."""
        with self._explained():
            query = f"SELECT {KEY[kind]} FROM {kind} ORDER BY at_ms DESC LIMIT {PAGE_MAX}"
            ids = [row[0] for row in self._database.execute(query)]
        return max(ids, key=id_key, default=None)

    def close(self) -> None:
        self._database.close()

    # Inside.

    def _insert(self, kind: Kind, rows: list[tuple[Any, ...]]) -> None:
        """Many rows a statement: with `executemany` this thread would wait for the interpreter, which the event loop
        holds for milliseconds when it is busy, once for each row instead of once for each statement."""
        if not rows:
            return
        columns = len(rows[0])
        step = min(ROWS_A_STATEMENT, self._database.getlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER) // columns)
        row = f"({','.join('?' * columns)})"
        for start in range(0, len(rows), step):
            some = rows[start : start + step]
            values = [value for one in some for value in one]
            self._database.execute(f"INSERT OR REPLACE INTO {kind} VALUES {','.join([row] * len(some))}", values)

    def _one(self, query: str, value: str) -> bytes | None:
        with self._explained():
            row = self._database.execute(query, (value,)).fetchone()
        return row[0] if row else None

    def _page(self, kind: Kind, filters: Filters, before: Before | None, limit: int, offset: int) -> list[bytes]:
        assert 0 <= limit <= PAGE_MAX, f"limit {limit} is not in 0..{PAGE_MAX}"
        where, values = _where(kind, filters, before)
        order = f" ORDER BY at_ms DESC, {KEY[kind]} DESC LIMIT ? OFFSET ?"
        with self._explained():
            rows = self._database.execute(f"SELECT json FROM {kind}{where}{order}", [*values, limit, offset])
            return [row[0] for row in rows]

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._database.execute("COMMIT")
        except BaseException:
            # Where the disk is full SQLite may have rolled back by itself.
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            raise

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """SQLite's errors as ours."""
        try:
            yield
        except (sqlite3.OperationalError, sqlite3.IntegrityError) as error:
            raise StoreUnavailable(f"the archive {self.path} cannot be used now: {error}") from error
        except sqlite3.DatabaseError as error:
            reason = f"{error}; move it away, an empty one is made at the next start"
            raise StoreCorrupt(str(self.path), reason) from error


def _where(kind: Kind, filters: Filters, before: Before | None) -> tuple[str, list[str | int]]:
    """The WHERE clause and its values; an equality for each filter that is set."""
    same = {"pair": filters.pair, "exchange": filters.exchange, "side": filters.side}
    same |= {"status": filters.status} if kind == "orders" else {"order_id": filters.order_id}
    terms = [f"{column} = ?" for column, value in same.items() if value is not None]
    values: list[str | int] = [value for value in same.values() if value is not None]
    for term, bound in (("at_ms >= ?", filters.since_ms), ("at_ms < ?", filters.until_ms)):
        if bound is not None:
            terms.append(term)
            values.append(bound)
    if before is not None:
        terms.append(f"(at_ms, {KEY[kind]}) < (?, ?)")
        values += before
    return (" WHERE " + " AND ".join(terms) if terms else ""), values
