"""Tasks that nobody waits for, and whose failure must be heard all the same."""

import asyncio
from collections.abc import Callable
from typing import Any


def watch(task: asyncio.Task[Any], what: str, tell: Callable[[str], None]) -> None:
    """Tells the exception that ends a task, if one does: `what` names the task. To be called off is no failure."""

    def ended(task: asyncio.Task[Any]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            tell(f"{what} broke: {error!r}")

    task.add_done_callback(ended)
