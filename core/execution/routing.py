"""Which venue takes an order: the manual's score, from the books, the fees and how the venue has behaved.

score = 0.4 liquidity + 0.3 fee + 0.2 reliability + 0.1 speed          each 0..1
"""

from decimal import Decimal

import msgspec

from ..kernel.clock import MS_NS

WEIGHT_LIQUIDITY, WEIGHT_FEE, WEIGHT_RELIABILITY, WEIGHT_SPEED = 0.4, 0.3, 0.2, 0.1


class VenueStats:
    """How one venue has answered lately: exponentially weighted, so that the last twenty calls count most."""

    ALPHA = 0.05

    __slots__ = ("answered", "failure_rate", "latency_ms")

    def __init__(self) -> None:
        self.failure_rate = 0.0
        self.latency_ms = 0.0  # a running median: moves a little towards each new value
        self.answered = 0

    def success(self, latency_ns: int) -> None:
        self.answered += 1
        self.failure_rate *= 1 - self.ALPHA
        latency_ms = latency_ns / MS_NS
        if self.answered == 1:
            self.latency_ms = latency_ms
        step = max(self.latency_ms, 0.1) * self.ALPHA
        self.latency_ms += step if latency_ms > self.latency_ms else -step

    def failure(self) -> None:
        self.failure_rate += self.ALPHA * (1 - self.failure_rate)

    @property
    def reliability(self) -> float:
        return 1 - self.failure_rate

    @property
    def speed(self) -> float:
        return 1 / (1 + self.latency_ms / 100)


class VenueScore(msgspec.Struct, frozen=True, rename="camel"):
    """A venue's score for one order, with its parts."""

    exchange: str
    score: float
    liquidity: float
    fee: float
    reliability: float
    speed: float


def score(exchange: str, liquidity: float, fee: Decimal, worst_fee: Decimal, stats: VenueStats) -> VenueScore:
    """The manual's score; `liquidity` is the share of the order that fills within the slippage guard."""
    fee_part = 1.0 if worst_fee <= 0 else 1 - float(fee / worst_fee)
    reliability, speed = stats.reliability, stats.speed
    total = (
        WEIGHT_LIQUIDITY * liquidity + WEIGHT_FEE * fee_part + WEIGHT_RELIABILITY * reliability + WEIGHT_SPEED * speed
    )
    return VenueScore(
        exchange, round(total, 4), round(liquidity, 4), round(fee_part, 4), round(reliability, 4), round(speed, 4)
    )
