"""Every exception of the service, drawn as a tree; each says who is at fault and what to do.

    TbxError
    |-- SettingsError          the operator: a setting is wrong
    |-- StoreError             Redis, or what is in it
    |   |-- StoreUnavailable   cannot be reached now; try again
    |   |-- StoreFenced        another process is the writer; stop
    |   |-- StoreCorrupt       a key holds what no version of this service wrote
    |   `-- StoreUnreadable    entries of the state cannot be taken over; all of them are named
    |-- VenueError             an exchange
    |   |-- Unreachable        no answer; the outcome is not known
    |   |-- Refused            it said no
    |   `-- Nonsense           it said what cannot be understood
    `-- CommandRefused         the caller: the command cannot be carried out

Expected refusals travel as values (`Refusal`); an exception crosses an actor only when it is a bug.
"""

from collections.abc import Sequence


class TbxError(Exception):
    """Base of every error that this service raises on purpose; `str()` is one line for a person."""


class SettingsError(TbxError):
    """One or more settings are wrong; `problems` holds a line for each."""

    def __init__(self, problems: Sequence[str] | str) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("; ".join(self.problems))


class StoreError(TbxError):
    """Redis refused, or holds something unexpected."""


class StoreUnavailable(StoreError):
    """Redis cannot be reached at the moment."""


class StoreFenced(StoreError):
    """A newer process holds the writer's epoch; this one must write and send nothing more."""


class StoreCorrupt(StoreError):
    """A key holds a value that cannot be read."""

    def __init__(self, key: str, reason: str) -> None:
        self.key = key
        self.reason = reason
        super().__init__(f"{key}: {reason}")


class StoreBehind(StoreCorrupt):
    """Redis came back with less than it had acknowledged; who has it all in memory can write it anew."""


class StoreUnreadable(StoreError):
    """Entries of the state cannot be taken over; `problems` holds a line for each that is named, and what to do."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        super().__init__("; ".join(self.problems))


class VenueError(TbxError):
    """An exchange failed us."""


class Unreachable(VenueError):
    """No answer came; whatever was sent may or may not have been taken."""


class Refused(VenueError):
    """The exchange understood and said no."""


class Nonsense(VenueError):
    """The exchange said something that its protocol does not allow."""


class CommandRefused(TbxError):
    """A command that cannot be carried out, with the stable code that the API shows."""

    def __init__(self, code: str, detail: str) -> None:
        self.code = code
        self.detail = detail
        super().__init__(f"{code}: {detail}")
