"""The proof that the simulation can fail: each planted bug is found, and the same seeds pass without it."""

from __future__ import annotations

from pathlib import Path

import pytest

from .sim.planted import PLANTED, planted
from .sim.walk import simulate

pytestmark = [pytest.mark.orders, pytest.mark.portfolio]

SEEDS = 200  # within so many; the first that finds a bug ends the search


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_bug_is_found(name: str, tmp_path: Path) -> None:
    bug = PLANTED[name]
    with planted(name):
        found = next((s for s in range(bug.first, bug.first + SEEDS) if simulate(tmp_path, s).failure), None)
    assert found is not None, f"{bug.what}, and {SEEDS} seeds have not found it"
    assert not simulate(tmp_path, found).failure, "the seed fails without the bug too: that proves nothing"
