"""Two hundred symbols: the service follows the diff depth of a local exchange at 100 ms, all of them moving.

Always true here: the exchange is `tbx exchange` with its simulated market, as people run it; service and exchange have
a core each where the machine has two. Both read one clock, so that an event's time can be taken from the book's; the
event's time is in whole milliseconds, rounded down, so that the lag is half of one too large on average.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from children import BENCH, Server, cpu_seconds, end, environment, scratch, service
from follow_service import Noted
from service_bench import Spoilt, compile_kernels, say
from table import Figure, Target, percentile

SYMBOLS = 200  # beside the simulated market's own
UPDATES_PER_SECOND = 10  # of each symbol
SETTLE_S = 5.0  # from ready to the first second that counts: snapshots of all symbols
FRAMES_SHARE_MIN = 0.9  # of what the exchange should send; with less it has not kept up itself
STREAMS = ("depth@100ms", "trade", "bookTicker")  # what the service takes of each symbol
STOP_TIMEOUT_S = 15.0
FLOOR_TIMEOUT_S = 30.0


@contextmanager
def local_exchange(folder: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """`tbx exchange` as a child: its process id, and what it says of itself."""
    command = [sys.executable, "-m", "tbx.http", "exchange", "--port", "0", "--symbols", str(SYMBOLS), "--json"]
    with (folder / "exchange.err").open("wb") as errors:
        process = subprocess.Popen(
            command, env=environment({}), cwd=folder, stdout=subprocess.PIPE, stderr=errors, start_new_session=True
        )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise Spoilt(f"the exchange did not start: {(folder / 'exchange.err').read_text()[-300:]}")
        yield process.pid, json.loads(line)
    finally:
        end(process, STOP_TIMEOUT_S)


def follow(*, quick: bool) -> list[Figure]:
    """How late the books are, what following costs, and that nothing was missed."""
    seconds = 10.0 if quick else 60.0
    compile_kernels()
    with scratch() as folder, local_exchange(folder) as (exchange_pid, described):
        file = folder / "noted.json"
        settings = {
            "MARKET": "binance",
            "BINANCE_PAIRS": "all",
            "BINANCE_REST_URL": described["rest"],
            "BINANCE_WS_API_URL": described["wsApi"],
            "BINANCE_STREAM_URL": described["stream"],
        }
        with service(folder, (str(BENCH / "follow_service.py"), str(file)), **settings) as ours:
            keep_apart(ours.pid, exchange_pid)
            time.sleep(SETTLE_S)
            before, begun_ns = used(ours, exchange_pid), time.time_ns()
            time.sleep(seconds)
            after, ended_ns = used(ours, exchange_pid), time.time_ns()
        floor_ms = floor(folder, described, seconds / 3)
        noted = msgspec.json.decode(file.read_bytes(), type=Noted)
    took_s = (ended_ns - begun_ns) / 1e9
    cores = {name: round((after[name] - before[name]) / took_s, 3) for name in before}
    return figures_of(noted, begun_ns, ended_ns, len(described["symbols"]), cores, floor_ms)


def floor(folder: Path, described: dict[str, Any], seconds: float) -> list[float]:
    """How late a client that keeps nothing gets the same frames on the service's core: ms, rising."""
    streams = [f"{symbol.lower()}@{stream}" for symbol in described["symbols"] for stream in STREAMS]
    command = [sys.executable, str(BENCH / "follow_floor.py"), described["stream"], str(seconds), *streams]
    with subprocess.Popen(command, env=environment({}), cwd=folder, stdout=subprocess.PIPE) as process:
        keep_apart(process.pid, None)
        try:
            output, _ = process.communicate(timeout=seconds + FLOOR_TIMEOUT_S)
        except BaseException:
            process.kill()
            raise
    return sorted(lag_ns / 1e6 for lag_ns in json.loads(output))


def keep_apart(service_pid: int, exchange_pid: int | None) -> None:
    """A core for the service, another for the exchange, where that can be."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else []
    if len(cores) > 1:
        os.sched_setaffinity(service_pid, {cores[1]})
        if exchange_pid is not None:
            os.sched_setaffinity(exchange_pid, {cores[0]})


def used(ours: Server, exchange_pid: int) -> dict[str, float]:
    """CPU seconds of each process until now."""
    pids = {"service": ours.pid, "redis": ours.redis_pid, "exchange": exchange_pid}
    return {name: cpu_seconds(pid) or 0.0 for name, pid in pids.items()}


def figures_of(
    noted: Noted, begun_ns: int, ended_ns: int, symbols: int, cores: dict[str, float], floor_ms: list[float]
) -> list[Figure]:
    """Raises Spoilt where frames are missing, or a book was out of step after the start."""

    def within(at_ns: int) -> bool:
        return begun_ns <= at_ns < ended_ns

    at = [i for i, at_ns in enumerate(noted.applied_ns) if within(at_ns)]
    seconds = (ended_ns - begun_ns) / 1e9
    a_second = len(at) / seconds
    snapshots = sum(map(within, noted.snapshots_ns))
    troubles = [what for at_ns, what in noted.troubles if within(at_ns)]
    if snapshots or troubles:
        raise Spoilt(f"{snapshots} books were out of step after the start: {troubles[:3]}")
    if a_second < FRAMES_SHARE_MIN * symbols * UPDATES_PER_SECOND:
        share = cores["exchange"]
        raise Spoilt(f"{a_second:,.0f} depth frames a second of {symbols} symbols; the exchange used {share} of a core")
    lags_ms = sorted(noted.lag_ns[i] / 1e6 for i in at)
    arrival_ms = statistics.median(noted.arrival_lag_ns[i] for i in at) / 1e6
    floor_p99_ms = percentile(floor_ms, 0.99)
    others = sum(map(within, noted.others_ns)) / seconds
    lag = Figure(
        f"{symbols} symbols at 100 ms: from the event's time to the book",
        "ms",
        p50=percentile(lags_ms, 0.5),
        p99=percentile(lags_ms, 0.99),
        max=lags_ms[-1],
        floor=percentile(floor_ms, 0.5),
        target=Target("p99", "<=", 5),
        note=f"{a_second:,.0f} depth frames and {others:,.0f} others a second for {seconds:.0f} s, no gap, no snapshot;"
        f" frames arrived {arrival_ms:.2f} ms after their event (median); p99 of the floor {floor_p99_ms:.2f} ms",
        extra={"floor_p99_ms": round(floor_p99_ms, 3), "floor_max_ms": round(floor_ms[-1], 3)},
    )
    cost = Figure(f"{symbols} symbols at 100 ms: share of a core of the service", "share", p50=cores["service"])
    cost.target = Target("p50", "<=", 1)
    cost.note = f"the exchange {cores['exchange']}, redis {cores['redis']}"
    cost.extra = {"cores": cores, "frames_per_s": round(a_second), "others_per_s": round(others)}
    say(f"{lag.name}: p50 {lag.p50:.2f} ms, p99 {lag.p99:.2f} ms, max {lag.max:.1f} ms; cores {cores}; {lag.note}")
    return [lag, cost]
