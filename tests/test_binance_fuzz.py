"""Mutated and truncated frames of Binance, some of what `python tests/fuzz_binance.py` looks at."""

from __future__ import annotations

import pytest

from . import fuzz_binance

COUNT = 6_000


@pytest.mark.parametrize("seed", [11, 12, 13])
def test_a_mutated_frame_is_a_message_nothing_or_nonsense(seed: int) -> None:
    outcomes = fuzz_binance.run(COUNT, seed, fuzz_binance.all_seeds())
    assert outcomes.total() == COUNT
    # The mutations must reach what they are meant for: neither all nonsense nor all harmless.
    assert outcomes["Nonsense"] > COUNT // 4
    assert outcomes["ExecutionReport"] > COUNT // 50 and outcomes["Reply"] > COUNT // 50


def test_the_fuzz_target_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(raw: bytes) -> str:
        return str(raw[0])  # IndexError where a frame is empty

    monkeypatch.setattr(fuzz_binance, "look", careless)
    with pytest.raises(AssertionError, match=r"frame \d+ of seed 11: IndexError"):
        fuzz_binance.run(COUNT, 11, fuzz_binance.SEEDS)
