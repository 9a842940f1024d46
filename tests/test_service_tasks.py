"""Tasks that nobody waits for: one that breaks is heard."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace

import pytest

from tbx.core.kernel.clock import ManualClock
from tbx.core.model.ids import Ids
from tbx.core.settings import load_settings
from tbx.http.logfiles import LogFiles
from tbx.http.service import Service
from tbx.venues.background import watch

from .redis_fixtures import in_loop


async def breaks() -> None:
    raise RuntimeError("a bug")


async def ends() -> None:
    """Nothing to say."""


@in_loop
async def test_a_task_that_breaks_is_told_and_one_that_ends_or_is_called_off_is_not() -> None:
    told: list[str] = []
    tasks = [asyncio.ensure_future(work) for work in (breaks(), ends(), asyncio.sleep(100))]
    for task in tasks:
        watch(task, "the work", told.append)
    tasks[2].cancel()
    await asyncio.wait(tasks)
    await asyncio.sleep(0)
    assert told == ["the work broke: RuntimeError('a bug')"]


class BrokenArchive:
    """Reads nothing."""

    async def order(self, order_id: str) -> None:
        raise RuntimeError(f"a bug about {order_id}")


@in_loop
async def test_a_read_of_the_archive_that_breaks_is_in_the_log_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = load_settings({"DATA_DIR": str(tmp_path), "LOG_DIR": str(tmp_path)}, tmp_path)
    service = Service(settings)
    service.loop = asyncio.get_running_loop()
    service.logs = LogFiles.open(settings, ManualClock())
    service.archived = BrokenArchive()  # type: ignore[assignment]
    service.trades_aside = {}
    service.node = SimpleNamespace(orders=SimpleNamespace(ids=Ids("main")))  # type: ignore[assignment]
    service._archived_trades("tbx-main-2601011-1-1", lambda _: None)
    await asyncio.wait(set(service.readers))
    await asyncio.sleep(0)
    service.logs.close()
    said = "reading tbx-main-2601011-1-1 from the archive broke: RuntimeError('a bug about ORD_20260101_000001')"
    assert said in capsys.readouterr().err
    logged = "".join(file.read_text() for file in tmp_path.rglob("*.log"))
    assert "TASK_BROKEN" in logged and "reading tbx-main-2601011-1-1 from the archive broke" in logged
