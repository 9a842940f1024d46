"""What every test may use: the checkout, the recorded payloads, and the markers that `make test-...` selects by."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# A word in a test file's name -> the selections it is part of. A file may say more with `pytestmark`.
MARKERS = {
    "api": ("connectivity", "orders", "paper_trading"),
    "archive": ("connectivity",),
    "auth": ("connectivity",),
    "bench": ("connectivity",),
    "binance": ("exchanges",),
    "book": ("exchanges",),
    "bus": ("connectivity",),
    "checks": ("orders",),
    "clock": ("connectivity",),
    "codec": ("exchanges",),
    "command": ("connectivity",),
    "connector": ("exchanges",),
    "engine": ("orders", "paper_trading"),
    "exact": ("orders", "portfolio"),
    "exchange": ("exchanges",),
    "exits": ("orders",),
    "execution": ("orders", "paper_trading"),
    "feed": ("connectivity",),
    "filters": ("exchanges", "orders"),
    "guard": ("orders",),
    "health": ("connectivity",),
    "ids": ("orders",),
    "instruments": ("exchanges", "orders"),
    "kernel": ("connectivity",),
    "ledger": ("portfolio",),
    "lifecycle": ("orders",),
    "live": ("exchanges", "orders"),
    "logfiles": ("connectivity",),
    "loop": ("connectivity", "paper_trading"),
    "manager": ("orders", "portfolio"),
    "market": ("exchanges", "paper_trading"),
    "matching": ("exchanges", "paper_trading"),
    "messages": ("orders",),
    "metrics": ("connectivity",),
    "model": ("orders", "portfolio"),
    "openapi": ("connectivity",),
    "order": ("orders",),
    "orders": ("orders",),
    "outbox": ("connectivity",),
    "paper": ("paper_trading",),
    "performance": ("portfolio",),
    "pnl": ("portfolio",),
    "portfolio": ("portfolio",),
    "positions": ("portfolio",),
    "project": ("connectivity",),
    "redis": ("connectivity",),
    "reconciliation": ("exchanges", "orders"),
    "recovery": ("connectivity", "paper_trading"),
    "replay": ("exchanges",),
    "restart": ("connectivity", "paper_trading"),
    "risk": ("orders",),
    "routing": ("orders", "exchanges"),
    "schema": ("connectivity", "orders"),
    "server": ("connectivity",),
    "service": ("connectivity", "paper_trading"),
    "services": ("connectivity",),
    "settings": ("connectivity",),
    "signals": ("orders", "portfolio"),
    "sim": ("connectivity",),
    "simulator": ("exchanges", "paper_trading"),
    "slippage": ("exchanges", "orders"),
    "store": ("connectivity",),
    "strategies": ("orders", "portfolio"),
    "streams": ("connectivity", "orders"),
    "subledgers": ("portfolio",),
    "tidy": ("connectivity",),
    "triggers": ("orders",),
    "venue": ("exchanges",),
    "venues": ("exchanges",),
    "ws": ("connectivity",),
}


def markers_of(stem: str) -> set[str]:
    """The selections that a test file belongs to by its name."""
    return {marker for word in stem.split("_")[1:] for marker in MARKERS.get(word, ())}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for marker in markers_of(item.path.stem):
            item.add_marker(marker)


@pytest.fixture(scope="session")
def root() -> Path:
    """The folder of the checkout."""
    return ROOT


@pytest.fixture(scope="session")
def fixtures() -> Path:
    """The folder of recorded venue payloads: TBX_FIXTURES, else `../shared/fixtures` beside the checkout."""
    named = os.environ.get("TBX_FIXTURES")
    folder = Path(named) if named else ROOT.parent / "shared" / "fixtures"
    if not folder.is_dir():
        pytest.skip(f"no recorded payloads at {folder}; set TBX_FIXTURES to the folder that holds them")
    return folder
