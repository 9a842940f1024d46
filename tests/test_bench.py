"""The benchmark harness: what its table and history say, how floors are found, and that its load generator counts."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest

MODULES = (
    "table",
    "targets",
    "micro",
    "store_rows",
    "children",
    "load",
    "order_flow",
    "preload",
    "service_bench",
    "tick_bench",
    "tick_service",
    "follow_service",
    "follow_bench",
    "live_node",
)


class Harness(NamedTuple):
    table: ModuleType
    micro: ModuleType
    store_rows: ModuleType
    order_flow: ModuleType
    preload: ModuleType
    service_bench: ModuleType
    tick_bench: ModuleType
    tick_service: ModuleType
    follow_bench: ModuleType
    live_node: ModuleType


@pytest.fixture
def harness(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Harness]:
    """The modules of bench/, which is a folder of scripts and no package; gone from sys.modules afterwards."""
    import importlib

    monkeypatch.syspath_prepend(root / "bench")
    loaded = {name: importlib.import_module(name) for name in MODULES}
    yield Harness(**{name: loaded[name] for name in Harness._fields})
    for name in MODULES:
        del sys.modules[name]


# --- the table and the history


@pytest.mark.parametrize(
    ("measure", "sense", "limit", "verdict"),
    [
        ("p50", "<=", 200, "met"),
        ("p50", "<=", 150, "met"),
        ("p50", "<=", 149, "MISSED"),
        ("p99", "<=", 899, "MISSED"),
        ("ratio", ">=", 1.5, "met"),
        ("ratio", ">=", 1.6, "MISSED"),
    ],
)
def test_a_target_is_judged_by_the_measure_that_it_names(
    harness: Harness, measure: str, sense: str, limit: float, verdict: str
) -> None:
    target = harness.table.Target(measure, sense, limit)
    figure = harness.table.Figure("a", "ns", p50=150.0, p99=900.0, max=901.0, floor=100.0, target=target)

    assert figure.verdict == verdict
    assert verdict in harness.table.render([figure])


def test_a_figure_without_numbers_is_neither_met_nor_missed_and_says_why(harness: Harness) -> None:
    target = harness.table.Target("p50", "<=", 1)
    skipped = harness.table.Figure("a", "s", skipped="no capture", target=target)
    failed = harness.table.Figure("b", "s", skipped="it broke", failed=True, target=target)

    text = harness.table.render([skipped, failed])

    assert skipped.met is None
    assert "no capture" in text
    assert "FAILED" in text
    assert harness.table.summary([skipped, failed]) == "0 of 0 targets met; could not run: b"


def test_the_summary_names_what_was_missed(harness: Harness) -> None:
    figures = [
        harness.table.Figure(name, "s", p50=value, target=harness.table.Target("p50", "<=", 2))
        for name, value in (("fast", 1.0), ("slow", 3.0))
    ]

    assert harness.table.summary(figures) == "1 of 2 targets met; MISSED: slow"


@pytest.mark.parametrize(
    ("share", "value"), [(0.5, 50), (0.99, 99), (1.0, 100), (0.001, 1)], ids=["half", "p99", "all", "least"]
)
def test_a_percentile_is_the_least_value_that_covers_its_share(harness: Harness, share: float, value: int) -> None:
    assert harness.table.percentile(list(range(1, 101)), share) == value


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "-"), (31_400.4, "31,400"), (112.0, "112"), (35.25, "35.2"), (4.754, "4.75"), (0.351, "0.351")],
)
def test_numbers_show_the_digits_that_matter(harness: Harness, value: float | None, shown: str) -> None:
    assert harness.table.number(value) == shown


def test_each_figure_becomes_one_line_of_the_history(harness: Harness, tmp_path: Path) -> None:
    target = harness.table.Target("ratio", "<=", 2)
    figures = [
        harness.table.Figure("publish", "ns", p50=150.0, floor=100.0, target=target, extra={"rounds": 7}),
        harness.table.Figure("absent", "ns", skipped="not there"),
    ]
    path = tmp_path / "history.jsonl"

    for _ in range(2):
        assert harness.table.append_history(path, figures, {"commit": "abc"}) == 1

    first, second = (json.loads(line) for line in path.read_text().splitlines())
    assert first == second
    assert first == {
        "commit": "abc",
        "figure": "publish",
        "unit": "ns",
        "p50": 150.0,
        "p99": None,
        "max": None,
        "floor": 100.0,
        "ratio": 1.5,
        "target": "ratio <= 2",
        "met": True,
        "extra": {"rounds": 7},
    }


def test_the_history_tells_the_kind_of_machine_but_not_which(harness: Harness, root: Path) -> None:
    import getpass
    import socket

    found = harness.table.circumstances(root, quick=True)

    assert set(found) == {"date", "commit", "quick", "machine"}
    assert set(found["machine"]) == {"cores", "cpu", "python", "kernel"}
    text = json.dumps(found["machine"])
    assert socket.gethostname() not in text
    assert not re.search(rf"\b{re.escape(getpass.getuser())}\b", text)


# --- reading other benchmarks back


def entry(name: str, *seconds: float, **extra: Any) -> dict[str, Any]:
    """A benchmark as pytest-benchmark reports it."""
    ordered = sorted(seconds)
    return {
        "name": name,
        "extra_info": extra,
        "stats": {"data": list(seconds), "median": ordered[len(ordered) // 2]},
    }


def test_a_benchmark_stands_beside_its_floor_and_floors_have_no_row(harness: Harness) -> None:
    report = [
        entry("test_bus_publish[1]", 3e-4, 3e-4, units_a_round=2_000),
        entry("test_bus_publish_floor[1]", 2e-4, units_a_round=2_000),
        entry("test_bus_publish_floor[10]", 9e-4, units_a_round=2_000),
    ]

    (figure,) = harness.micro.of_report(report)

    assert (figure.name, figure.unit) == ("bus publish to 1 handler", "ns")
    assert figure.p50 == pytest.approx(150)
    assert figure.floor == pytest.approx(100)
    assert figure.verdict == "met"


def test_a_benchmark_without_an_entry_in_the_targets_is_shown_with_the_bound_that_it_states(harness: Harness) -> None:
    (figure,) = harness.micro.of_report([entry("test_some_work", 4e-3, 5e-3, 6e-3, bound_us=4_500)])

    assert (figure.name, figure.unit, figure.max) == ("some work", "ms", pytest.approx(6))
    assert str(figure.target) == "p50 <= 4.50"
    assert figure.verdict == "MISSED"


def test_rows_of_the_store_become_figures(harness: Harness) -> None:
    (timed,) = harness.store_rows.of_row(
        {"name": "commit", "p50_us": 90.0, "p99_us": 120.0, "max_us": 200.0, "floor_us": 30.0}
    )
    (rate,) = harness.store_rows.of_row({"name": "pipelined", "orders_per_s": 22_000, "commits_per_s": 700})

    assert (timed.unit, timed.ratio) == ("us", 3.0)
    assert (rate.unit, rate.p50, rate.extra) == ("1/s", 22_000, {"commits_per_s": 700})


# --- load


SERVER = """
import asyncio
async def serve(reader, writer):
    number = 0
    try:
        while True:
            await reader.readuntil(b"\\r\\n\\r\\n")
            number += 1
            status = b"503 no" if number % 4 == 0 else b"201 yes"
            writer.write(b"HTTP/1.1 " + status + b"\\r\\ncontent-length: 3\\r\\n\\r\\n")
            await asyncio.sleep(0)  # the body in a packet of its own
            writer.write(b"abc")
    except asyncio.IncompleteReadError:
        writer.close()
async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()
asyncio.run(main())
"""


def test_the_load_generator_counts_every_status(harness: Harness) -> None:
    load = sys.modules["load"]
    with subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            port = int(server.stdout.readline())
            text = harness.order_flow.request(port, "GET", "/x")
            result = load.run(load.Plan(port=port, connections=[[text]] * 3, seconds=0.2, warm_up_s=0.05))
        finally:
            server.kill()

    assert set(result.statuses) == {201, 503}
    assert result.share_of(201) == pytest.approx(0.75, abs=0.02)
    assert 0 < result.p50_us <= result.p99_us <= result.max_us


def test_what_is_sold_was_bought_before(harness: Harness) -> None:
    for requests in harness.order_flow.rounds_of(1, 5):
        held: dict[tuple[str, str], float] = {}
        for text in requests:
            order = json.loads(text.partition("\r\n\r\n")[2])
            key = (order["exchange"], order["pair"])
            held[key] = held.get(key, 0) + order["quantity"] * (1 if order["side"] == "buy" else -1)
            assert held[key] >= 0
        assert len(held) == 16


def test_preloaded_records_agree_with_each_other(harness: Harness) -> None:
    size = harness.preload.Size(orders=200, positions=40, resting=10)
    records = harness.preload.Records(size, 1_700_000_000_000_000_000)

    records.build()

    assert (len(records.orders), len(records.fills), len(records.positions)) == (200, size.trades, 40)
    by_order: dict[str, list[Any]] = {}
    for fill in records.fills:
        by_order.setdefault(fill.order_id, []).append(fill)
    for order in records.orders:
        fills = by_order.get(order.order_id, [])
        assert order.filled_lots == sum(fill.qty_lots for fill in fills)
        assert order.cost == sum(fill.price_ticks * fill.qty_lots for fill in fills)
    for (wallet, pair), position in records.positions.items():
        balance = records.balances.get((wallet, pair.partition("_")[0]))
        assert balance is None or balance.total == position.quantity


# --- tick to order, and 200 symbols


def ticks_of(*rounds: tuple[list[int], list[int]]) -> dict[str, Any]:
    """What the exchange says: rounds of (ticks, echoes) in microseconds."""
    return {
        "ticks_ns": [[us * 1_000 for us in ticks] for ticks, _ in rounds],
        "echoes_ns": [[us * 1_000 for us in echoes] for _, echoes in rounds],
        "depth_bytes": 763,
        "order_bytes": 266,
    }


def test_the_ratio_to_the_echo_is_the_median_of_neighbouring_rounds(harness: Harness) -> None:
    result = ticks_of(([200, 210, 220], [100] * 3), ([900, 900, 900], [300] * 3), ([300, 300, 300], [100] * 3))

    median, tail = harness.tick_bench.figures_of("behind", result)

    assert (median.p50, median.floor, median.ratio) == (300, 100, 3)
    assert (tail.p50, tail.floor, tail.ratio) == (900, 300, 3)
    assert (median.verdict, tail.verdict) == ("met", "met")


def test_with_commits_ahead_the_time_itself_has_the_target(harness: Harness) -> None:
    median, tail = harness.tick_bench.figures_of("ahead", ticks_of(([199, 200, 201], [10] * 3)))

    assert (str(median.target), median.verdict) == ("p50 <= 200", "met")
    assert tail.target is None


SECOND_NS = 1_000_000_000


def noted(harness: Harness, frames: int = 2_000, **more: Any) -> Any:
    """Notes of one second: that many frames, 1 to 5 ms late in turn, each 1 ms after its arrival."""
    lags_ns = [(1 + i % 5) * 1_000_000 for i in range(frames)]
    fields = {
        "applied_ns": [i * SECOND_NS // frames for i in range(frames)],
        "lag_ns": lags_ns,
        "arrival_lag_ns": [lag_ns - 1_000_000 for lag_ns in lags_ns],
        "snapshots_ns": [],
        "troubles": [],
        "others_ns": [],
    }
    return harness.follow_bench.Noted(**(fields | more))


CORES = {"service": 0.2, "redis": 0.0, "exchange": 0.5}


def test_the_lag_is_of_the_frames_of_the_measured_time(harness: Harness) -> None:
    before = [-1, *(i * SECOND_NS // 2_000 for i in range(2_000)), 2 * SECOND_NS]
    late = [9 * SECOND_NS, *(1_000_000 for _ in range(2_000)), 9 * SECOND_NS]
    notes = noted(harness, applied_ns=before, lag_ns=late, arrival_lag_ns=late, snapshots_ns=[-1, 2 * SECOND_NS])

    lag, cost = harness.follow_bench.figures_of(notes, 0, SECOND_NS, 200, CORES, [0.25] * 9)

    assert (lag.p50, lag.p99, lag.max, lag.verdict) == (1, 1, 1, "met")
    assert (lag.floor, lag.ratio) == (0.25, 4)
    assert (cost.p50, cost.verdict) == (0.2, "met")


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"snapshots_ns": [5]}, "1 books were out of step"),
        ({"troubles": [(5, "BTC_USDT: gap")]}, "BTC_USDT: gap"),
        ({"frames": 1_700}, "1,700 depth frames a second"),
    ],
    ids=["snapshot", "gap", "slow exchange"],
)
def test_a_run_in_which_books_were_out_of_step_or_frames_missing_is_spoilt(
    harness: Harness, more: dict[str, Any], why: str
) -> None:
    with pytest.raises(harness.service_bench.Spoilt, match=why):
        harness.follow_bench.figures_of(noted(harness, **more), 0, SECOND_NS, 200, CORES, [1.0])


def test_the_node_without_sockets_tells_a_fill_and_answers_a_tick_at_once(harness: Harness, tmp_path: Path) -> None:
    live = harness.live_node.LiveNode(tmp_path, DURABILITY="behind")
    before = live.node.ledger.available("binance", "BTC")
    live.buy()
    live.client.queue.clear()

    live.take(live.reports.popleft())

    assert [channel for channel, _ in live.client.queue] == ["trades", "orders", "positions"]
    assert live.node.ledger.available("binance", "BTC") > before

    kernel, sent = live.node.kernel, live.wire.sent
    kernel.add(harness.tick_service.Strategy(kernel, live.node.market))
    live.quote(2)
    live.tick(live.frames.pop())

    assert live.wire.sent == sent + 1
    live.settle()
    live.check()
