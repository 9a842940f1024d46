"""Figures of the whole service: real processes, real sockets, real Redis.

Always true here: the service and its floor run in the same minutes and are measured in turn (A B A B), and a ratio is
the median of the ratios of neighbouring rounds, so that what else the machine does falls on both.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import load
import msgspec
import preload
from children import Server, cpu_seconds, floor, resident_mb, scratch, service
from order_flow import buy_stock, ended_as, request, rounds_of
from table import Figure, Target, of_seconds

CONNECTIONS = 32
REFUSED_SHARE_MAX = 0.01
FILLED_SHARE_MIN = 0.9  # of the last orders; fewer means that the books ran dry, and rejections are cheap
REST_S = 0.5  # between rounds, for what a round left behind
STARTS = 3


class Spoilt(RuntimeError):
    """A run whose figures would mean nothing; the text says why."""


def say(text: str) -> None:
    print(f"  {text}", file=sys.stderr, flush=True)


def loaded(
    server: Server, connections: list[list[str]], seconds: float, expected: int, warm_up_s: float
) -> load.Result:
    """One round; raises Spoilt where more than REFUSED_SHARE_MAX of the answers have another status."""
    plan = load.Plan(port=server.port, connections=connections, seconds=seconds, warm_up_s=warm_up_s)
    result = load.run(plan)
    if result.share_of(expected) < 1 - REFUSED_SHARE_MAX:
        raise Spoilt(f"answers other than {expected}: {result.statuses}; {_one_refusal(server, connections)}")
    return result


def _one_refusal(server: Server, connections: list[list[str]]) -> str:
    head, _, body = connections[0][0].partition("\r\n\r\n")
    method, path, _ = head.split(" ", 2)
    status, answer = server.ask(method, path, body.encode() or None)
    return f"such a request is answered with {status} {answer[:300]!r}"


def compile_kernels() -> None:
    """A start that only compiles what is not compiled yet, so that the starts that are measured are warm."""
    with scratch() as folder, service(folder) as server:
        if server.compiled:
            say(f"a first start, which compiled kernels: {server.ready_s:.1f} s")


@contextmanager
def warm_service(size: preload.Size | None = None) -> Iterator[Server]:
    """A service that compiled nothing, with `size` in its Redis; raises Spoilt where it did."""
    with scratch() as folder:
        if size is not None:
            preload.write(folder / "data", size)
        with service(folder) as server:
            if server.compiled:
                raise Spoilt("kernels were compiled in a start that should be warm; did their source change meanwhile?")
            yield server


# --- orders ------------------------------------------------------------------------------------------------------


class OrderRounds:
    """The same orders to the service and to the floor, in turn."""

    def __init__(self, ours: Server, bare: Server, connections: int, seconds: float, rounds: int) -> None:
        self.ours: list[load.Result] = []
        self.bare: list[load.Result] = []
        self.ours_cores: list[tuple[float, float]] = []  # of the service and of its Redis
        self.ours_cpu_us: list[float] = []  # a request
        self.bare_cpu_us: list[float] = []
        for number in range(rounds):
            least, cores = self._round(bare, connections, seconds)
            self.bare.append(least)
            self.bare_cpu_us.append(cores[0] * 1e6 / least.per_second)
            result, cores = self._round(ours, connections, seconds)
            self.ours.append(result)
            self.ours_cores.append(cores)
            self.ours_cpu_us.append(cores[0] * 1e6 / result.per_second)
            time.sleep(REST_S)
            say(
                f"{connections} connection(s), round {number + 1}: service {result.per_second:,.0f}/s, "
                f"floor {least.per_second:,.0f}/s, ratio {result.per_second / least.per_second:.3f}; "
                f"p50 {result.p50_us:,.0f} and {least.p50_us:,.0f} us; "
                f"CPU {self.ours_cpu_us[-1]:,.0f} and {self.bare_cpu_us[-1]:,.0f} us a request"
            )

    @staticmethod
    def _round(server: Server, connections: int, seconds: float) -> tuple[load.Result, tuple[float, float]]:
        """The result, and how many cores the server and its Redis used on average while requests came."""
        before = _cpu(server)
        result = loaded(server, rounds_of(server.port, connections), seconds, 201, warm_up_s=min(1.0, seconds / 2))
        used = [later - sooner for sooner, later in zip(before, _cpu(server), strict=True)]
        return result, (used[0] / result.asked_s, used[1] / result.asked_s)

    def rate(self, name: str, target: Target | None) -> Figure:
        ours, bare = [r.per_second for r in self.ours], [r.per_second for r in self.bare]
        figure = Figure(name, "1/s", p50=statistics.median(ours), max=max(ours), floor=statistics.median(bare))
        figure.ratio = statistics.median(a / b for a, b in zip(ours, bare, strict=True))
        figure.target = target
        figure.extra = {
            "rounds": [round(value) for value in ours],
            "floor_rounds": [round(value) for value in bare],
            "service_cores": round(statistics.median(cores[0] for cores in self.ours_cores), 2),
            "redis_cores": round(statistics.median(cores[1] for cores in self.ours_cores), 2),
            "load_cores": round(statistics.median(r.cpu_s / r.seconds for r in self.ours), 2),
            "floor_load_cores": round(statistics.median(r.cpu_s / r.seconds for r in self.bare), 2),
            "service_cpu_us": round(statistics.median(self.ours_cpu_us)),
            "floor_cpu_us": round(statistics.median(self.bare_cpu_us)),
        }
        figure.note = (
            f"CPU a request: service {figure.extra['service_cpu_us']} us, floor {figure.extra['floor_cpu_us']} us; "
            f"cores used: service {figure.extra['service_cores']}, redis {figure.extra['redis_cores']}, "
            f"load generator {figure.extra['load_cores']} (at the floor {figure.extra['floor_load_cores']})"
        )
        return figure

    def latency(self, name: str, target: Target | None) -> Figure:
        """Medians over the rounds of p50 and p99, the worst of all rounds."""
        figure = Figure(
            name,
            "us",
            p50=statistics.median(r.p50_us for r in self.ours),
            p99=statistics.median(r.p99_us for r in self.ours),
            max=max(r.max_us for r in self.ours),
            floor=statistics.median(r.p50_us for r in self.bare),
            target=target,
        )
        pairs = zip(self.ours, self.bare, strict=True)
        figure.ratio = statistics.median(ours.p50_us / bare.p50_us for ours, bare in pairs)
        return figure


def _cpu(server: Server) -> tuple[float, float]:
    return cpu_seconds(server.pid) or 0.0, cpu_seconds(server.redis_pid) or 0.0


def orders(*, quick: bool) -> list[Figure]:
    """POST /api/orders: requests a second at 32 connections, latency at one."""
    seconds, rounds = (1.0, 3) if quick else (3.0, 5)
    compile_kernels()
    with warm_service() as ours:
        idle_cores = _idle_cores(ours)
        answer_bytes = buy_stock(ours)
        with floor(answer_bytes) as bare:
            one = OrderRounds(ours, bare, 1, seconds * 2 / 3, 3)
            many = OrderRounds(ours, bare, CONNECTIONS, seconds, rounds)
        statuses = ended_as(ours)
        if statuses.get("filled", 0) < FILLED_SHARE_MIN * sum(statuses.values()):
            raise Spoilt(f"the books ran dry, the last orders ended as {statuses}")
        figures = [
            many.rate(f"POST /api/orders, {CONNECTIONS} connections", Target("ratio", ">=", 0.35)),
            many.latency(f"POST /api/orders, {CONNECTIONS} connections, latency", None),
            one.latency("POST /api/orders, 1 connection, latency", Target("p50", "<=", 250)),
            *_memory(ours, "after the orders of this run", None),
        ]
    figures[0].extra |= {"idle_cores": idle_cores, "answer_bytes": answer_bytes, "last_orders": statuses}
    figures[0].note += f"; the service alone, with its simulated market: {idle_cores}"
    return figures


def _idle_cores(server: Server) -> float:
    """What the service costs while nobody asks anything: the simulated market and its books."""
    before, begun = _cpu(server), time.perf_counter()
    time.sleep(2.0)
    used = sum(_cpu(server)) - sum(before)
    return round(used / (time.perf_counter() - begun), 3)


def _memory(server: Server, when: str, target: Target | None) -> list[Figure]:
    """Of the service, and of its Redis."""
    figures = []
    for name, pid in (("service", server.pid), ("redis", server.redis_pid)):
        size = resident_mb(pid)
        figure = Figure(f"resident memory of the {name}, {when}", "MB", p50=size)
        if size is None:
            figure.skipped = "this machine has no /proc"
        if name == "service":
            figure.target = target
        figures.append(figure)
    return figures


# --- start -------------------------------------------------------------------------------------------------------


def start(*, quick: bool) -> list[Figure]:
    """From the start of the process to the first 200 of /readyz, with kernels compiled before."""
    compile_kernels()
    ours, bare = [], []
    for _ in range(1 if quick else STARTS):
        with warm_service() as server:
            ours.append(server.ready_s)
        with floor(100) as server:
            bare.append(server.ready_s)
    figure = of_seconds("start to ready, warm, empty", ours, "s", floor=statistics.median(bare))
    figure.p99, figure.target = None, Target("p50", "<=", 3)
    return [figure]


# --- with as much as is kept -------------------------------------------------------------------------------------


def held(*, quick: bool) -> list[Figure]:
    """Start, reading and memory with 10,000 orders, 50,000 trades and 1,000 positions."""
    compile_kernels()
    size = preload.Size()
    seconds = 1.0 if quick else 3.0
    ready_s = []
    if not quick:
        for _ in range(STARTS - 1):
            with warm_service(size) as server:
                ready_s.append(server.ready_s)
    with warm_service(size) as server:
        ready_s.append(server.ready_s)
        _check_size(server, size)
        ready = of_seconds(f"start to ready, warm, with {size.orders:,} orders", ready_s, "s")
        ready.p99, ready.target = None, Target("p50", "<=", 3)
        figures = [ready]
        with floor(100) as bare:
            for name, path in (
                (f"GET /api/portfolio, {size.positions:,} positions", "/api/portfolio"),
                (f"GET /api/orders?limit=50, {size.orders:,} held", "/api/orders?limit=50"),
                (f"GET /api/orders?limit=500, {size.orders:,} held", "/api/orders?limit=500"),
            ):
                figures.append(_reading(server, bare, name, path, seconds))
        figures += _memory(server, f"{size.orders:,} orders and {size.trades:,} trades kept", Target("p50", "<=", 280))
    return figures


def _reading(server: Server, bare: Server, name: str, path: str, seconds: float) -> Figure:
    """One connection that asks again and again; the floor answers `{}`."""
    ours = loaded(server, [[request(server.port, "GET", path)]], seconds, 200, 0.5)
    least = loaded(bare, [[request(bare.port, "GET", "/readyz")]], seconds / 3, 200, 0.2)
    say(f"{name}: p50 {ours.p50_us:,.0f} us, p99 {ours.p99_us:,.0f} us, {ours.requests:,} requests")
    figure = Figure(name, "ms", p50=ours.p50_us / 1e3, p99=ours.p99_us / 1e3, max=ours.max_us / 1e3)
    figure.floor = least.p50_us / 1e3
    figure.ratio = ours.p50_us / least.p50_us
    figure.target = Target("p99", "<=", 10)
    return figure


def _check_size(server: Server, size: preload.Size) -> None:
    """That the service holds what was written, so that nobody measures an empty one."""
    orders = msgspec.json.decode(server.get("/api/orders?limit=1")[1])["pagination"]["total"]
    trades = msgspec.json.decode(server.get("/api/trades?limit=1")[1])["pagination"]["total"]
    positions = len(msgspec.json.decode(server.get("/api/portfolio")[1])["positions"])
    found, wanted = (orders, trades, positions), (size.orders, size.trades, size.positions)
    if found != wanted:
        raise Spoilt(f"orders, trades, positions: {wanted} were written, the service shows {found}")
