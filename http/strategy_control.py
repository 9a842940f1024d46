"""Strategies of this process over HTTP: stop and start; and where their lines go."""

from collections.abc import Callable
from functools import partial
from typing import Any

from msgspec import Raw
from starlette.types import Receive

from ..core.kernel.outbox import encode_document
from ..core.model.messages import Reply
from ..strategies_bridge.runner import StartStrategy, StopStrategy
from ..strategies_bridge.running import StrategyLog
from .commands import Commands
from .context import ErrorLog
from .wire import Answer, Call


class StrategyControl:
    """POST /api/strategies/{name}/..."""

    def __init__(self, commands: Commands) -> None:
        self.commands = commands

    async def stop(self, call: Call, _: Receive) -> Answer:
        """POST /api/strategies/{name}/stop: it is called no more, and its entries are cancelled"""
        return await self._answer(call, StopStrategy)

    async def start(self, call: Call, _: Receive) -> Answer:
        """POST /api/strategies/{name}/start: a new instance, with the state that was kept"""
        return await self._answer(call, StartStrategy)

    async def _answer(self, call: Call, command: type[StartStrategy] | type[StopStrategy]) -> Answer:
        view = await self.commands.carry_out(partial(_built, command, call.params["name"]))
        return Answer(encode_document(view))


def _built(command: type[StartStrategy] | type[StopStrategy], name: str, reply: Reply) -> Any:
    return command(name, reply)


class StrategyLines(StrategyLog):
    """Lines of strategies in the execution log."""

    def __init__(self, log: ErrorLog, say: Callable[[str], None]) -> None:
        self.log = log
        self.say = say

    def line(self, strategy: str, text: str, facts: Raw) -> None:
        self.log.execution("info", "STRATEGY", strategy=strategy, detail=text, facts=facts)

    def failed(self, strategy: str, error: str, trace: str) -> None:
        self.log.execution("error", "STRATEGY_FAILED", strategy=strategy, error=error, traceback=trace)
        self.say(f"strategy {strategy} is stopped by a fault of its own: {error}")
