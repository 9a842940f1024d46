"""The backtest service (BACKTEST_SERVICE_URL): whether it is there. The manual names no call to it."""

from typing import Final

from ...core.kernel.clock import Clock
from .client import ServiceClient

TIMEOUT_S: Final = 2.0


class BacktestClient:
    """Its health is asked, nothing else."""

    def __init__(self, url: str, clock: Clock) -> None:
        self.http = ServiceClient("backtest", url, clock, timeout_s=TIMEOUT_S)
