"""Tick to order on real sockets: the exchange sends a depth frame, the service's strategy answers with an order frame.

Always true here: the ratio is of this run, tick against echo in neighbouring rounds. The echo is a picows client on
uvloop that gets frames as large as the depth frames, and answers with frames as large as the orders. What it costs the
machine to wake a process that sleeps falls on both.
"""

from __future__ import annotations

import hashlib
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from children import BENCH, end, environment, scratch, service
from service_bench import Spoilt, compile_kernels, say
from table import Figure, Target, percentile

KEY = "tbx_of_the_benchmark"
STOP_TIMEOUT_S = 10.0
LIVE = {
    "MARKET": "binance",
    "PAPER_TRADING": "false",
    "LIVE_TRADING": "true",
    "BINANCE_PAIRS": "BTC_USDT",
    "API_KEYS": f"bench:{hashlib.sha256(KEY.encode()).hexdigest()}:read+trade",
}


class Child:
    """A process that is spoken to in lines of JSON."""

    def __init__(self, process: subprocess.Popen[str], said: Path) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.process = process
        self.input: IO[str] = process.stdin
        self.output: IO[str] = process.stdout
        self._said = said

    @property
    def pid(self) -> int:
        return self.process.pid

    def read(self) -> Any:
        line = self.output.readline()
        if not line:
            lines = self._said.read_text(errors="replace").strip().splitlines()
            raise Spoilt(f"the exchange ended: {' | '.join(lines[-3:])}")
        return json.loads(line)

    def ask(self, **plan: Any) -> Any:
        """Send a line, and read its answer."""
        self.input.write(json.dumps(plan) + "\n")
        self.input.flush()
        answer = self.read()
        if "spoilt" in answer:
            raise Spoilt(answer["spoilt"])
        return answer


@contextmanager
def child(folder: Path, program: str, *words: str) -> Iterator[Child]:
    """A script of this folder; ended with the `with`."""
    said = folder / f"{Path(program).stem}.err"
    with said.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, str(BENCH / program), *words],
            env=environment({}),
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
            text=True,
        )
        try:
            yield Child(process, said)
        finally:
            end(process, STOP_TIMEOUT_S)


def tick(*, quick: bool) -> list[Figure]:
    """Both durabilities, one after the other, each beside its own echo."""
    rounds, ticks = (5, 100) if quick else (12, 250)
    compile_kernels()
    behind, ahead = (figures_of(name, run(name, rounds, ticks)) for name in ("behind", "ahead"))
    return [*behind, *ahead]


def run(durability: str, rounds: int, ticks: int) -> dict[str, Any]:
    """What the exchange measured, and the first of its rounds left out: a fresh process is slower."""
    with scratch() as folder, child(folder, "tick_exchange.py", str(folder / "key.pem")) as exchange:
        facts = exchange.read()
        with child(folder, "picows_echo.py", facts.pop("echo")):
            settings = LIVE | facts | {"DURABILITY": durability}
            with service(folder, (str(BENCH / "tick_service.py"),), **settings) as ours:
                try:
                    result: dict[str, Any] = exchange.ask(rounds=rounds + 1, ticks=ticks)
                except Spoilt as error:
                    raise Spoilt(f"{error}; the service: {ours.said}") from None
    for key in ("ticks_ns", "echoes_ns"):
        del result[key][0]
    return result


def figures_of(durability: str, result: dict[str, Any]) -> list[Figure]:
    """The median and the tail, each beside the echo's."""
    ticks, echoes = result["ticks_ns"], result["echoes_ns"]
    tick_us, echo_us = [sorted(ns / 1e3 for ns in _all(rounds)) for rounds in (ticks, echoes)]
    pairs = list(zip(ticks, echoes, strict=True))
    ratio_p50 = statistics.median(statistics.median(tick) / statistics.median(echo) for tick, echo in pairs)
    p50, p99, echo_p99 = percentile(tick_us, 0.5), percentile(tick_us, 0.99), percentile(echo_us, 0.99)
    sizes = {"depth_bytes": result["depth_bytes"], "order_bytes": result["order_bytes"], "ticks": len(tick_us)}
    behind = durability == "behind"
    name = f"tick to order, DURABILITY={durability}"
    median = Figure(
        name,
        "us",
        p50=p50,
        p99=p99,
        max=tick_us[-1],
        floor=percentile(echo_us, 0.5),
        ratio=ratio_p50,
        target=Target("ratio", "<=", 3) if behind else Target("p50", "<=", 200),
        note=f"floor: an echo of {sizes['depth_bytes']} and {sizes['order_bytes']} bytes; {len(tick_us):,} ticks",
        extra=sizes | {"rounds_us": [round(statistics.median(one) / 1e3, 1) for one in ticks]},
    )
    tail = Figure(f"{name}, p99", "us", p50=p99, floor=echo_p99, target=Target("ratio", "<=", 4) if behind else None)
    tail.extra = {"echo_rounds_us": [round(statistics.median(one) / 1e3, 1) for one in echoes]}
    say(
        f"{name}: p50 {p50:,.0f} us, echo {median.floor:,.0f} us, ratio {ratio_p50:.2f}; "
        f"p99 {p99:,.0f} us, echo {echo_p99:,.0f} us, ratio {tail.ratio:.2f}"
    )
    return [median, tail]


def _all(rounds: list[list[int]]) -> list[int]:
    return [ns for one in rounds for ns in one]
