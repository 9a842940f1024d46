"""`tbx serve` that notes how late its books are: the service of the 200 symbols.

    python bench/follow_service.py FILE      writes a `Noted` there when it ends

Always true here: everything but the notes is the service as it is. A note is taken when a depth frame is in its book:
by the machine's clock, which the exchange's event times come from too.
"""

from __future__ import annotations

import asyncio
import sys
import time
from array import array
from pathlib import Path

import msgspec
import uvloop

from tbx.core.kernel.clock import MS_NS
from tbx.core.market.data import MarketData
from tbx.core.settings import load_settings
from tbx.http.service import Service

EVENT_MS, EVENT_MS_DIGITS = b'"e":"depthUpdate","E":', 13
SNAPSHOT = b'{"lastUpdateId"'


class Noted(msgspec.Struct):
    """Of each depth frame: when it was in its book, and how late that and its arrival were."""

    applied_ns: list[int]
    lag_ns: list[int]  # from the event's time, which is in whole milliseconds, to the book
    arrival_lag_ns: list[int]  # the same to when the frame came
    snapshots_ns: list[int]  # when each snapshot came
    troubles: list[tuple[int, str]]  # when and what
    others_ns: list[int]  # frames of other kinds


class NotedMarket(MarketData):
    """The books, and notes of every frame."""

    noted = Noted([], [], [], [], [], [])
    applied, lags, arrival_lags, others = array("q"), array("q"), array("q"), array("q")

    def frame(self, exchange: str, pair: str, raw: bytes, local_ns: int) -> None:
        super().frame(exchange, pair, raw, local_ns)
        now_ns = time.time_ns()
        at = raw.find(EVENT_MS)
        if at >= 0:
            begin = at + len(EVENT_MS)
            event_ns = int(raw[begin : begin + EVENT_MS_DIGITS]) * MS_NS
            self.applied.append(now_ns)
            self.lags.append(now_ns - event_ns)
            self.arrival_lags.append(local_ns - event_ns)
        elif raw.startswith(SNAPSHOT):
            self.noted.snapshots_ns.append(now_ns)
        else:
            self.others.append(now_ns)


class NotedService(Service):
    def _trouble(self, text: str) -> None:
        NotedMarket.noted.troubles.append((time.time_ns(), text))
        super()._trouble(text)


def main(file: Path) -> int:
    from tbx.http import composition

    composition.MarketData = NotedMarket  # type: ignore[attr-defined]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        code = runner.run(NotedService(load_settings()).run())
    noted = NotedMarket.noted
    noted.applied_ns, noted.lag_ns = NotedMarket.applied.tolist(), NotedMarket.lags.tolist()
    noted.arrival_lag_ns, noted.others_ns = NotedMarket.arrival_lags.tolist(), NotedMarket.others.tolist()
    file.write_bytes(msgspec.json.encode(noted))
    return code


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
