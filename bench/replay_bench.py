"""Recorded Binance frames to books, as `tbx replay` does it: frames a second, and that the books agree."""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path

import msgspec
from children import ROOT
from table import Figure, Target

from tbx.venues.simulator.replay import frames
from tbx.venues.simulator.replay import replay as replay_capture

CAPTURE = Path("binance") / "hftbacktest_spot_2024-08"
RUNS = 3


def fixtures() -> Path:
    """The folder of recorded payloads: TBX_FIXTURES, else `../shared/fixtures` beside the checkout."""
    named = os.environ.get("TBX_FIXTURES")
    return Path(named) if named else ROOT.parent / "shared" / "fixtures"


def replay(*, quick: bool) -> list[Figure]:
    """Raises RuntimeError where a replay finds a gap or a disagreement: its speed would mean nothing."""
    files = sorted((fixtures() / CAPTURE).glob("*.gz"))
    if not files:
        reason = "no recorded capture; set TBX_FIXTURES to the folder that holds the recorded payloads"
        return [Figure("replay of a recorded capture", "1/s", skipped=reason)]
    figures = []
    for path in files:
        rates = []
        decoded = _decoding(path)
        for _ in range(1 if quick else RUNS):
            report = replay_capture(path)
            if not report.good:
                raise RuntimeError(f"the replay of {path.name} is not clean: {report.text()}")
            rates.append(report.frames_per_second)
        figures.append(
            Figure(
                f"replay of {path.name.partition('.')[0]}, frames",
                "1/s",
                p50=statistics.median(rates),
                max=max(rates),
                floor=decoded,
                target=Target("p50", ">=", 100_000),
                note="floor: msgspec decodes the same frames into Python objects, and keeps no book",
                extra={"frames": report.frames, "with_reading": round(report.frames_per_second_with_reading)},
            )
        )
    return figures


def _decoding(path: Path) -> float:
    """Frames a second that msgspec decodes."""
    recorded = [frame for _, frame in frames(path)]
    decode = msgspec.json.Decoder().decode
    begun = time.perf_counter()
    for frame in recorded:
        decode(frame)
    return len(recorded) / (time.perf_counter() - begun)
