"""Rounds: a service under load is struck, goes on, and three books are compared.

Always true here: what a round does is drawn from its seed alone (what strikes, after how many orders, what the exchange
does wrong); the timing of processes is not. A round with less than IN_FLIGHT_LEAST orders in flight when it was struck
does not count and is made again, and its books must agree all the same.
"""

from __future__ import annotations

import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import httpx
import msgspec

from ..exchange_process import ExchangeProcess
from ..live_processes import Live, live, wait_for
from ..standby_processes import a_redis_process, twin
from .books import Finding, There, compare, exchange_book, redis_client
from .faults import CANNOT_FREEZE, KINDS, SPOILED, WITH_STANDBY, Faults, StandbyFaults, Struck
from .load import Load, Market

IN_FLIGHT_LEAST = 20
TRIES = 6  # of a round, until enough is in flight
LATENCY_MS = 400  # of the exchange, so that some 50 orders are always unanswered
WARM = (30, 120)  # orders of a round before it may be struck
AFTER = 20  # orders that are taken after it, until the load ends
# What the exchange does meanwhile; what it loses takes half a minute to prove, so that is rarer.
WAYS = ("well", "well", "frozen", "frozen", "spoiled", "spoiled", "deaf")
GO_ON_S = 90.0  # an exchange whose frames were lost takes no orders until each is proven
SETTLE_S = 90.0  # an order whose frame was lost is proven not taken after 22 s, a lost answer is missed after 10
FINDINGS_SHOWN = 40
OPEN_MOST = 60  # orders that rest; above it all are cancelled


class RoundFailed(Exception):
    """The service did not go on, or the books never settled."""


class Result(msgspec.Struct):
    """One round. Times in seconds."""

    number: int
    seed: str
    kind: str
    exchange: str  # what the exchange did meanwhile
    tries: int = 1
    in_flight: int = 0
    in_flight_later: list[int] = []  # at the other kills of the round
    taken: int = 0  # of those in flight, the exchange had
    orders: int = 0
    fills: int = 0
    recovery_s: float = 0.0  # until orders are taken again
    settle_s: float = 0.0  # from the end of the load until the books agree
    findings: list[Finding] = []
    kept: str = ""  # the folder of a round that found something

    def line(self) -> str:
        later = "".join(f"+{count}" for count in self.in_flight_later)
        verdict = "ok" if not self.findings else f"{len(self.findings)} FINDINGS"
        return (
            f"SEED={self.seed} FIRST={self.number:<3} {self.kind:<9} exchange {self.exchange:<14.14} in flight"
            f" {self.in_flight:>3}{later:<8} ({self.taken:>3} taken)  orders {self.orders:>4}  fills {self.fills:>4}"
            f"  recovery {self.recovery_s:>5.1f} s  settled {self.settle_s:>5.1f} s  {verdict}"
            f"{f'  try {self.tries}' if self.tries > 1 else ''}"
        )


class Arena:
    """A service and its exchange, for several rounds."""

    def __init__(self, faults: Faults) -> None:
        self.live = faults.live
        self.faults = faults
        self.acknowledged: dict[str, str] = {}
        self.refused: dict[str, str] = {}
        self._fills = 0

    def round(self, seed: str, number: int, kind: str, ways: Sequence[str] = WAYS) -> Result:
        """One that counts."""
        for attempt in range(1, TRIES + 1):
            result = self._try(seed, number, kind, ways, attempt)
            if result.findings or result.in_flight >= IN_FLIGHT_LEAST:
                return result
        result.findings = [Finding("differs", f"never {IN_FLIGHT_LEAST} orders in flight, {result.in_flight} at last")]
        return result

    def _try(self, seed: str, number: int, kind: str, ways: Sequence[str], attempt: int) -> Result:
        name = f"{seed}-{number}.{attempt}"
        rng = random.Random(name)
        way = rng.choice([way for way in ways if way != "frozen" or kind not in CANNOT_FREEZE])
        spec = rng.choice(SPOILED) if way == "spoiled" else ""
        result = Result(number, seed, kind, spec or way, attempt)
        market = Market(self.live.exchange.url_rest, random.Random(f"{name}/market"))
        load = Load(name, [str(service.http.base_url) for service in self.faults.services], market)
        market.start()
        load.start()
        try:
            struck = self._strike(load, rng, kind, way, spec)
            self._go_on(load, struck, result)
        except (RoundFailed, AssertionError) as error:
            result.findings = [Finding("differs", f"{error}; health: {self._health()}")]
        finally:
            load.finish(hopeless=bool(result.findings))
            market.stop()
        if result.findings:
            return result
        self.acknowledged |= load.acknowledged
        self.refused |= load.refused
        result.orders = len(load.acknowledged)
        result.in_flight, result.in_flight_later = len(struck.in_flight), struck.later
        result.findings = [Finding("doubled", text) for text in load.wrong] or self._settle(result)
        self._count(struck, result)
        return result

    def _strike(self, load: Load, rng: random.Random, kind: str, way: str, spec: str) -> Struck:
        with ExitStack() as stack:
            if spec:
                stack.enter_context(self.faults.spoiled(spec))
            orders = rng.randint(*WARM)
            wait_for(lambda: load.taken_since(0) >= orders, f"{orders} orders")
            if way == "frozen":
                stack.enter_context(self.faults.frozen(rng))
            elif way == "deaf":
                stack.enter_context(self.faults.deaf(rng))
            return KINDS[kind](self.faults, rng)

    def _go_on(self, load: Load, struck: Struck, result: Result) -> None:
        """Wait until orders are taken again."""
        deadline = struck.since + GO_ON_S
        while load.taken_since(struck.since) < AFTER:
            process = self.live.service.process
            assert process is not None
            if process.poll() is not None:
                raise RoundFailed(f"the service ended with {process.returncode}: {self.live.service.stderr()[-2000:]}")
            if time.monotonic() > deadline:
                raise RoundFailed(f"no orders are taken {GO_ON_S:g} s after it")
            time.sleep(0.02)
        result.recovery_s = sorted(at for at in load.taken_at if at > struck.since)[0] - struck.since

    def _health(self) -> str:
        try:
            return self.live.http.get("/api/health").text
        except httpx.TransportError as error:
            return str(error)

    def compare(self, there: There | None = None) -> list[Finding]:
        """The three books, and what clients were told, now; `there` is the exchange's where that was read before."""
        there = there or exchange_book(self.live)
        with redis_client(self.faults.socket) as client:
            return compare(self.live, client, self.acknowledged, self.refused, there)

    def _settle(self, result: Result) -> list[Finding]:
        """What differs when nothing is under way any more, or still after SETTLE_S."""
        begun = time.monotonic()
        findings: list[Finding] = []
        while time.monotonic() - begun < SETTLE_S:
            if not self._under_way():
                findings = self.compare()
                if not findings:
                    break
            time.sleep(0.3)
        else:
            findings = findings or [Finding("differs", f"not settled {SETTLE_S:g} s after: {self._under_way()}")]
        result.settle_s = time.monotonic() - begun
        return findings

    def _under_way(self) -> list[str]:
        """Orders that wait for the exchange's word."""
        waiting = [o["orderId"] for o in self.live.get("/api/orders?status=submitted,unknown&limit=500")["orders"]]
        active = self.live.get("/api/orders?status=active&limit=500")["orders"]
        return waiting + [o["orderId"] for o in active if o["cancelRequested"]]

    def _count(self, struck: Struck, result: Result) -> None:
        """How many of the orders in flight the exchange had; and make room for the next round."""
        book, attempts = exchange_book(self.live)
        there = {a.client_id for made in attempts.values() for a in made}
        result.taken = sum(order.venue_client_id in there for order in struck.in_flight)
        result.fills, self._fills = len(book.trades) - self._fills, len(book.trades)
        if sum(line.is_open for line in book.orders.values()) > OPEN_MOST:
            self.live.http.delete("/api/orders")


def say(line: str) -> None:
    """For a terminal, from whichever process."""
    print(line, flush=True)


@contextmanager
def arena(folder: Path) -> Iterator[Arena]:
    """One service with its own Redis."""
    with an_exchange() as exchange, live(exchange, folder) as both:
        yield Arena(Faults(both))


@contextmanager
def arena_with_standby(folder: Path) -> Iterator[Arena]:
    """A service, its standby, and a Redis that is neither's."""
    (folder / "first").mkdir()
    with a_redis_process(folder / "redis") as shared, an_exchange() as exchange:
        both = Live(exchange, folder / "first")
        first = both.service
        first.settings["REDIS_URL"] = shared.url
        second = twin(first, folder / "second")
        try:
            first.start()
            second.spawn()
            yield Arena(StandbyFaults(both, second, shared.socket))
        finally:
            for service in (first, second):
                service.close()
            for sdk in (both.first, both.second):
                sdk._session.close()


def an_exchange() -> ExchangeProcess:
    return ExchangeProcess("--no-limits", "--latency", str(LATENCY_MS))


def run_rounds(seed: str, numbers: Sequence[int], kinds: Sequence[str], say: Callable[[str], object]) -> list[Result]:
    """Rounds on one service, and on one with a standby, each up to the first that finds something."""
    results: list[Result] = []
    for place in (arena, arena_with_standby):
        wanted = {number: kinds[number % len(kinds)] for number in numbers}
        here = {n: kind for n, kind in wanted.items() if (kind in WITH_STANDBY) is (place is arena_with_standby)}
        if here:
            results += _rounds(place, seed, here, say)
    return results


def _rounds(
    place: Callable[[Path], AbstractContextManager[Arena]],
    seed: str,
    kinds: Mapping[int, str],
    say: Callable[[str], object],
) -> list[Result]:
    """In one folder, which is kept where something was found."""
    folder = Path(tempfile.mkdtemp(prefix="tbx-crash-"))
    results: list[Result] = []
    with place(folder) as there:
        for number, kind in kinds.items():
            result = there.round(seed, number, kind)
            results.append(result)
            say(result.line())
            if result.findings:
                result.kept = str(folder)
                say("\n".join(f"  {finding.kind}: {finding.text}" for finding in result.findings[:FINDINGS_SHOWN]))
                say(f"  data and logs: {folder}")
                return results
    shutil.rmtree(folder)
    return results
