"""What a `Desk` has committed about risk, and the commands that change it."""

from __future__ import annotations

import json
from typing import Any

from tbx.core.model.messages import RunDrill, SetDeadMan, SetTradingState

from .desk import Desk


def ask(desk: Desk, make: Any, wait_ms: int = 0) -> Any:
    """The answer to a command."""
    answers: list[Any] = []
    desk.node.kernel.input(make(answers.append))
    desk.clock.settle()
    if wait_ms:
        desk.wait(wait_ms)
    assert len(answers) == 1, f"answered {len(answers)} times"
    return answers[0]


def set_state(desk: Desk, state: Any, scope: str = "", reason: str = "") -> Any:
    """The state of the scope, or a Refusal."""
    return ask(desk, lambda reply: SetTradingState(state=state, scope=scope, reason=reason, by="desk", reply=reply))


def dead_man(desk: Desk, seconds: float) -> Any:
    return ask(desk, lambda reply: SetDeadMan(timeout_ns=int(seconds * 1e9), by="desk", reply=reply))


def drill(desk: Desk, pair: str | None = None, wait_ms: int = 3_000) -> Any:
    return ask(desk, lambda reply: RunDrill(pair=pair, by="desk", reply=reply), wait_ms)


def events_of(desk: Desk, kind: str) -> list[dict[str, Any]]:
    """The data of every committed event of a kind."""
    entries = [json.loads(raw) for _, raw in desk.store.journal]
    return [event["data"] for entry in entries for event in entry if event["type"] == kind]


def limits_on_record(desk: Desk) -> dict[str, Any]:
    rows = desk.store.tables.get("risk", {})
    return {key: json.loads(raw) for key, raw in rows.items() if key.startswith("limit:")}


def set_clock(desk: Desk, seconds: int) -> None:
    """Set the machine's clock forward, or with a minus back; timers come due as they would have."""
    change_ns = seconds * 1_000_000_000
    desk.clock._now_ns += change_ns
    for timer in desk.clock._heap:
        timer.due_ns += change_ns
