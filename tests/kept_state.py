"""A state as the real service leaves it, to be changed by hand: filled orders, an open bracket, an archive."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tbx.core.state.archive import Archive
from tbx.core.state.resp import Connection
from tbx.core.state.store import Store
from tbx.http.state.takeover import TakeOver
from tbx.http.state.watermark import Watermark
from tbx.venues.simulator.instruments import simulated_instruments

from .redis_fixtures import a_client, a_redis, a_store
from .service_process import ServiceProcess

NOW_MS = 1_704_067_200_000
LISTED = {f"{i.exchange}:{i.pair}" for i in simulated_instruments()}
BRACKET = {"stopLoss": 0.02, "takeProfit": 0.04}


def left_by_a_service(folder: Path) -> Path:
    """The data folder of a service that has traded and was stopped: orders 1 to 14, the oldest archived, 12 (filled)
    with its exits 13 and 14 (held), 15 resting."""
    service = ServiceProcess(folder, MAX_ORDERS_KEPT="10")
    try:
        service.start()
        for _ in range(11):
            service.order_when(service.order(quantity=100).json()["orderId"], "filled")
        entry = service.order(quantity=1000, **BRACKET).json()
        service.order_when(entry["orderId"], "filled")
        service.http.post(
            "/api/orders",
            json={"pair": "RVN_USDT", "side": "buy", "type": "limit", "quantity": 500, "price": 0.02},
        )
        deadline = time.monotonic() + 20
        while len(service.http.get("/api/orders?limit=100").json()["orders"]) < 13 or not archived(folder / "data"):
            assert time.monotonic() < deadline, "nothing was archived"
            time.sleep(0.05)
        assert service.stop() == 0, service.stderr()
    finally:
        service.close()
    return folder / "data"


def archived(data: Path) -> int:
    archive = Archive(data / "archive.sqlite3")
    try:
        return archive.count()
    finally:
        archive.close()


@pytest.fixture(scope="session")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be changed: see `copied`."""
    return left_by_a_service(tmp_path_factory.mktemp("kept"))


@pytest.fixture
def data(kept: Path, tmp_path: Path) -> Path:
    """A copy of it, of this test's own."""
    return Path(shutil.copytree(kept, tmp_path / "data", ignore=shutil.ignore_patterns("*.sock", "lock")))


@asynccontextmanager
async def opened(data: Path) -> AsyncIterator[tuple[Store, Connection, Archive]]:
    """Its Redis, with a store and a connection, and its archive."""
    archive = Archive(data / "archive.sqlite3")
    try:
        async with a_redis(data) as server, a_store(server.address) as store, a_client(server.address) as client:
            yield store, client, archive
    finally:
        archive.close()


def taking_over(store: Store, archive: Archive, said: list[str], *, quarantine: bool, account: str = "") -> TakeOver:
    async def in_thread(work):  # type: ignore[no-untyped-def]
        return work()

    mark = Watermark(archive.path.parent, store)
    return TakeOver(
        store,
        archive,
        in_thread,
        said.append,
        listed=LISTED,
        account=account,
        quarantine=quarantine,
        now_ms=NOW_MS,
        mark=mark,
    )


def tbx(folder: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """The command, in a process of its own."""
    service = ServiceProcess(folder, **settings)
    service.http.close()
    return subprocess.run(
        [sys.executable, "-m", "tbx.http", *arguments],
        cwd=folder,
        env=service.environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
