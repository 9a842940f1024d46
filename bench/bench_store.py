"""What a commit costs, how many fit in a second, and how long loading takes; each beside its floor in the same run.

    python bench/bench_store.py            (PYTHONPATH=.src from the checkout, or with tbx installed)

The unit is one market order that fills at once: two rows of the order, one of the fill, one position, two balances and
three events, about 3 kB. Floors: PING on the same connection; the same payload as one bare SET. Peer: redis-py's
asyncio client with the same script.

Orders per second depend on what else the machine does (on two shared cores, several times apart), so each such row
gives the median and the extremes of several rounds. Beside them, per order: the CPU time of this process, and the wall
time that Redis spent in the script, which rises when others take its core.
Rewrites of the append-only file are off except in the row of their own: one that falls on some rows and not on others
would make them incomparable.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import redis.asyncio
import uvloop

from tbx.core.model.errors import StoreError
from tbx.core.state.archive import Archive, ArchivedOrder, ArchivedTrade
from tbx.core.state.batch import Batch
from tbx.core.state.resp import Connection
from tbx.core.state.server import EmbeddedRedis, Fsync
from tbx.core.state.store import COMMIT_SHA, Store, _Commit

LATENCY_ROUNDS = 2_000
PIPELINED_ORDERS = 4_000
PIPELINED_ROUNDS = 7
IN_FLIGHT_MAX = 256
GROUPS = (1, 8, 32)
ORDERS, TRADES = 10_000, 50_000

ORDER = json.dumps(
    {
        "orderId": "order_1704067200000_000001",
        "clientOrderId": "tbx-main-000001",
        "pair": "RVN_USDT",
        "exchange": "binance",
        "side": "buy",
        "type": "market",
        "state": "FILLED",
        "qtyLots": 1_000_000,
        "filledLots": 1_000_000,
        "priceTicks": 23_450,
        "tick": "0.000001",
        "lot": "0.1",
        "timeInForce": "IOC",
        "cost": "2345.000000",
        "fees": {"USDT": "2.345000"},
        "submitNs": 1_704_067_200_000_000_000,
        "routing": {"binance": 0.93, "xeggex": 0.71},
        "risk": {"passed": True, "checks": [{"name": f"check_{n}", "passed": True} for n in range(8)]},
    }
).encode()
FILL = ORDER[:420]
POSITION = ORDER[:300]
BALANCE = b'{"currency":"USDT","free":"47652.655000","reserved":"0"}'
EVENT = b'{"channel":"orders","seq":1,"type":"OrderFilled","data":%b}' % ORDER[:350]

Row = dict[str, Any]


def order_batch(number: int, seq: int, orders: int) -> Batch:
    """The commit that `orders` market orders share."""
    batch = Batch(number, seq, [], [], [], [])
    for place in range(orders):
        name = f"{number}-{place}"
        batch.events += (EVENT, EVENT, EVENT)
        batch.puts.append(("orders", f"order_{name}", ORDER))
        batch.puts.append(("trades", f"fill_{name}", FILL))
    batch.puts.append(("positions", "binance:RVN_USDT", POSITION))
    batch.puts += (("balances", "binance:USDT", BALANCE), ("balances", "binance:RVN", BALANCE))
    return batch


def summary(name: str, seconds: list[float], floor_us: float) -> Row:
    ordered = sorted(seconds)
    p50, p99 = ordered[len(ordered) // 2] * 1e6, ordered[int(len(ordered) * 0.99)] * 1e6
    row = {"name": name, "p50_us": round(p50, 1), "p99_us": round(p99, 1), "max_us": round(ordered[-1] * 1e6, 1)}
    return row | {"floor_us": round(floor_us, 1), "ratio": round(p50 / floor_us, 2)}


async def timed(rounds: int, once: Callable[[], Awaitable[object]]) -> list[float]:
    seconds: list[float] = []
    for _ in range(rounds):
        begun = time.perf_counter()
        await once()
        seconds.append(time.perf_counter() - begun)
    return seconds


class Writer:
    """A store that commits orders, one batch after another."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.number = 0
        self.seq = 0

    def next(self, orders: int) -> Batch:
        self.number += 1
        self.seq += 3 * orders
        return order_batch(self.number, self.seq, orders)

    async def commit(self, orders: int) -> None:
        answer: asyncio.Future[StoreError | None] = asyncio.get_running_loop().create_future()
        self.store.commit(self.next(orders), answer.set_result)
        error = await answer
        if error is not None:
            raise error


async def latency(writer: Writer, connection: Connection, label: str) -> list[Row]:
    """One commit after the other, of one order and of several."""
    floor = sorted(await timed(LATENCY_ROUNDS, lambda: connection.call("PING")))[LATENCY_ROUNDS // 2] * 1e6
    size = len(b"".join(value for _, _, value in order_batch(1, 3, 1).puts)) + 3 * len(EVENT)
    payload = bytes(size)
    rows = [
        summary(
            f"floor: SET of {size} bytes, {label}",
            await timed(500, lambda: connection.call("SET", "x", payload)),
            floor,
        )
    ]
    for group in GROUPS:
        rounds = max(200, LATENCY_ROUNDS // group)
        rows.append(
            summary(
                f"commit of {group} order(s), {label}", await timed(rounds, lambda g=group: writer.commit(g)), floor
            )
        )
    return rows


async def throughput(writer: Writer, connection: Connection, label: str, grouped: int) -> Row:
    """Rounds of pipelined commits: how many orders a second, and what one costs in CPU time."""
    await connection.call("CONFIG", "RESETSTAT")
    begun = time.process_time()
    rates = sorted([await pipelined(writer, PIPELINED_ORDERS, grouped) for _ in range(PIPELINED_ROUNDS)])
    orders = PIPELINED_ORDERS * PIPELINED_ROUNDS
    stats = (await connection.call("INFO", "commandstats")).decode()
    script_us = int(stats.split("cmdstat_evalsha:")[1].split("usec=")[1].split(",")[0])
    row: Row = {"name": f"pipelined, {grouped} order(s) a commit, {label}"}
    row |= {"orders_per_s": round(rates[len(rates) // 2]), "min": round(rates[0]), "max": round(rates[-1])}
    row["client_cpu_us_per_order"] = round((time.process_time() - begun) / orders * 1e6, 1)
    row["script_us_per_order"] = round(script_us / orders, 1)
    return row


async def pipelined(writer: Writer, orders: int, grouped: int) -> float:
    """Orders per second with commits in flight up to a bound, sent as fast as they are answered."""
    loop = asyncio.get_running_loop()
    ended = loop.create_future()
    commits = orders // grouped
    sent = answered = 0

    def send() -> None:
        nonlocal sent
        while sent < commits and sent - answered < IN_FLIGHT_MAX // grouped:
            sent += 1
            writer.store.commit(writer.next(grouped), done)

    def done(error: StoreError | None) -> None:
        nonlocal answered
        answered += 1
        if error is not None or answered == commits:
            ended.done() or ended.set_result(error)
        else:
            send()

    begun = time.perf_counter()
    send()
    error = await ended
    if error is not None:
        raise error
    return orders / (time.perf_counter() - begun)


async def peer(path: str, writer: Writer, floor_us: float) -> Row:
    """The same command through redis-py's asyncio client; the batch's arguments are built outside of the time."""
    client = redis.asyncio.Redis(unix_socket_path=path)
    seconds: list[float] = []
    for _ in range(LATENCY_ROUNDS):
        arguments = _Commit(writer.store, writer.next(1), print, whole=False).arguments
        begun = time.perf_counter()
        await client.evalsha(COMMIT_SHA, *arguments)
        seconds.append(time.perf_counter() - begun)
    await client.aclose()
    return summary("peer: the same script through redis-py", seconds, floor_us)


async def rewriting(writer: Writer, connection: Connection, floor_us: float) -> Row:
    """Commits while Redis rewrites its append-only file, which it does whenever that has doubled."""
    await connection.call("BGREWRITEAOF")
    seconds: list[float] = []
    while b"aof_rewrite_in_progress:1" in await connection.call("INFO", "persistence"):
        seconds += await timed(100, lambda: writer.commit(1))
    return summary(f"commit of 1 order(s) during a rewrite ({len(seconds):,})", seconds, floor_us)


async def fsync_run(appendfsync: Fsync) -> list[Row]:
    loop = asyncio.get_running_loop()
    with tempfile.TemporaryDirectory() as folder:
        server = EmbeddedRedis(loop, Path(folder), appendfsync=appendfsync)
        await server.start()
        label = f"fsync {appendfsync}, Redis {server.version}"
        connection = Connection(loop, server.address)
        await connection.open()
        store = Store(loop, server.address, "bench", journal_id="bench")
        await store.open()
        await store.acquire(0)
        writer = Writer(store)
        await connection.call("CONFIG", "SET", "auto-aof-rewrite-percentage", 0)
        rows = await latency(writer, connection, label)
        if appendfsync == "everysec":
            rows.append(await peer(server.address.path, writer, rows[0]["floor_us"]))
        for grouped in GROUPS:
            rows.append(await throughput(writer, connection, label, grouped))
        rows.append(await rewriting(writer, connection, rows[0]["floor_us"]))
        await store.close()
        connection.close()
        await server.stop()
    return rows


async def loading() -> list[Row]:
    """A start with as much as is ever kept: 10,000 orders, 50,000 trades."""
    loop = asyncio.get_running_loop()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        server = EmbeddedRedis(loop, Path(folder))
        await server.start()
        store = Store(loop, server.address, "bench", journal_id="bench")
        await store.open()
        await store.acquire(0)
        batch = Batch(1, 0, [], [], [], [])
        batch.puts += [("orders", f"order_1704067200000_{n:06}", ORDER) for n in range(ORDERS)]
        batch.puts += [("trades", f"fill_1704067200000_{n:06}", FILL) for n in range(TRADES)]
        answer: asyncio.Future[StoreError | None] = loop.create_future()
        begun = time.perf_counter()
        store.commit(batch, answer.set_result)
        assert await answer is None
        rows.append({"name": f"one commit of {ORDERS + TRADES:,} rows", "s": round(time.perf_counter() - begun, 3)})
        connection = Connection(loop, server.address)
        await connection.open()
        begun = time.perf_counter()
        await connection.pipeline([("HGETALL", store.key("orders")), ("HGETALL", store.key("trades"))])
        floor = time.perf_counter() - begun
        connection.close()
        begun = time.perf_counter()
        loaded = await store.load()
        seconds = time.perf_counter() - begun
        assert len(loaded.tables["trades"]) == TRADES
        rows.append({"name": "load it", "s": round(seconds, 3), "floor_s": round(floor, 3)})
        await store.close()
        await server.stop()
        begun = time.perf_counter()
        await server.start()
        rows.append({"name": "start the server with it", "s": round(time.perf_counter() - begun, 3)})
        await server.stop()
        size = (Path(folder) / "appendonly.aof").stat().st_size if server.version < "7" else 0
        rows[-1]["file_mb"] = round(size / 1e6, 1)
    return rows


def packing() -> Row:
    """What the client does for one order's commit before the bytes leave."""
    store = Store(asyncio.get_running_loop(), "unix:///none", "bench", journal_id="bench")
    store._head = (2, store.key("lease"), store.key("meta"), "bench:1")
    batch = order_batch(1, 3, 1)
    turns = []
    for _ in range(5):
        begun = time.perf_counter()
        for _ in range(2_000):
            _Commit(store, batch, print, whole=False).packed()
        turns.append((time.perf_counter() - begun) / 2_000 * 1e6)
    return {"name": "packing one order's commit", "best_us": round(min(turns), 2)}


def archiving() -> Row:
    """What leaves at once: a fifth of 10,000 orders, with five trades each."""
    with tempfile.TemporaryDirectory() as folder:
        archive = Archive(Path(folder) / "archive.sqlite3")
        orders = [
            ArchivedOrder(f"o{n}", f"c{n}", "RVN_USDT", "binance", "buy", "filled", n, ORDER) for n in range(2_000)
        ]
        trades = [ArchivedTrade(f"t{n}", f"o{n // 5}", "RVN_USDT", "binance", "buy", n, FILL) for n in range(10_000)]
        begun = time.perf_counter()
        archive.add(orders, trades)
        seconds = time.perf_counter() - begun
        archive.close()
    return {"name": "archive 2,000 orders and 10,000 trades", "s": round(seconds, 3)}


async def measure() -> list[Row]:
    """Every row of this benchmark."""
    rows = [packing()]
    for appendfsync in ("everysec", "always"):
        rows += await fsync_run(appendfsync)
    rows += await loading()
    rows.append(archiving())
    return rows


def main() -> None:
    for row in uvloop.run(measure()):
        print(f"{row['name']:58}", "  ".join(f"{key} {value:,}" for key, value in row.items() if key != "name"))


if __name__ == "__main__":
    main()
