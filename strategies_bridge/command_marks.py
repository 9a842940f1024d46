"""Which commands of the stream have entered the core, where nothing else on record says so.

A new order, a signal and a closing order carry the id of their command. A cancel, an amendment and a cancel of all
leave a mark: the last two, done twice, could undo what came between, and no id may serve two commands.

Always true here: a mark is part of the commit that the command itself is part of. The newest KEPT_MAX are kept.
"""

from collections.abc import Iterable

import msgspec

from ..core.kernel.kernel import Kernel
from ..core.model.records import CommandMark

TABLE = "strategies"
PREFIX = "command:"
KEPT_MAX = 10_000


class CommandMarks:
    """The marks by the sender's id, oldest first."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self._marks: dict[str, CommandMark] = {}

    def restore(self, marks: Iterable[CommandMark]) -> None:
        self._marks = {mark.command_id: mark for mark in sorted(marks, key=lambda mark: mark.entered_ns)}

    def records(self) -> Iterable[tuple[str, str, CommandMark]]:
        """Every mark, for a store that came back without them."""
        return [(TABLE, PREFIX + command_id, mark) for command_id, mark in self._marks.items()]

    def get(self, command_id: str) -> CommandMark | None:
        return self._marks.get(command_id)

    def enter(self, mark: CommandMark) -> None:
        """Call it in the turn of the loop in which the command entered: then one commit holds both."""
        self._marks[mark.command_id] = mark
        self._put(mark)
        while len(self._marks) > KEPT_MAX:
            oldest = next(iter(self._marks))
            del self._marks[oldest]
            self.kernel.outbox.delete(TABLE, PREFIX + oldest)

    def refused(self, command_id: str, status: int, code: str, detail: str) -> None:
        """It had entered, and was refused later on; a repeat is told the same."""
        mark = self._marks.get(command_id)
        if mark is not None:
            mark = msgspec.structs.replace(mark, status=status, code=code, detail=detail)
            self._marks[command_id] = mark
            self._put(mark)

    def _put(self, mark: CommandMark) -> None:
        self.kernel.outbox.put(TABLE, PREFIX + mark.command_id, mark)
        self.kernel.flush_soon()
