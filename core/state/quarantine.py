"""Entries of the store that cannot be taken over, and setting them aside.

    tbx:{node}:quarantine    HASH    table:field -> {"at": ms, "reason": .., "raw": ..}

Always true here: an entry is in its table or in the quarantine, never in neither; both change in one step. `raw` is
what stood there, as text, or as {"base64": ..} where it is no text; of an entry of a stream its fields and values.
Nothing is read back from the quarantine, and nothing is ever deleted from it by the service.
"""

import base64
from collections.abc import Iterable, Sequence
from typing import Protocol

import msgspec

from .resp import Argument

STREAMS = ("journal", "equity")
FIELDS_MAX = 500  # of one command

Raw = str | dict[str, str]


def field_bytes(field: str) -> bytes:
    """A field as it stands in Redis, where it need not be text."""
    return field.encode(errors="surrogateescape")


def shown(field: str) -> str:
    """A field for people: what is no text as \\xff."""
    return field_bytes(field).decode(errors="backslashreplace")


class Unreadable(msgspec.Struct, frozen=True):
    """An entry that cannot be taken over, and why."""

    table: str  # or the stream
    field: str  # of a stream the entry's id
    reason: str

    @property
    def name(self) -> str:
        """Its field in the quarantine."""
        return f"{self.table}:{self.field}"


class SetAside(msgspec.Struct, frozen=True):
    """What the quarantine keeps of an entry."""

    at: int  # ms
    reason: str
    raw: Raw | list[Raw]

    def bytes(self) -> bytes | None:
        """The value of a table's field as it stood there; None for an entry of a stream."""
        if isinstance(self.raw, list):
            return None
        return self.raw.encode() if isinstance(self.raw, str) else base64.b64decode(self.raw["base64"])


class Keeper(Protocol):
    """The store, between `load` and the first commit."""

    def key(self, name: str) -> str: ...
    async def rows(self, table: str, fields: Sequence[Argument]) -> list[bytes | None]: ...
    async def entry(self, stream: str, entry_id: str) -> Sequence[bytes]: ...
    async def mend(self, commands: Iterable[tuple[str, str, Sequence[Argument]]]) -> None: ...


async def set_aside(
    store: Keeper,
    entries: Iterable[Unreadable],
    at_ms: int,
    puts: Iterable[tuple[str, str, bytes]] = (),
    journal_seq: int | None = None,
) -> None:
    """Move the entries into the quarantine, and write what takes their place: (table, field, JSON). All or nothing.

    `journal_seq`: of the last committed event, where the journal goes on behind it."""
    moved: list[Argument] = []
    gone: dict[str, list[Argument]] = {}
    for entry in entries:
        raw = await _raw(store, entry)
        moved += (field_bytes(entry.name), msgspec.json.encode(SetAside(at_ms, entry.reason, raw)))
        gone.setdefault(entry.table, []).append(field_bytes(entry.field))
    commands: list[tuple[str, str, Sequence[Argument]]] = [
        ("HSET", store.key("quarantine"), some) for some in _parts(moved, 2 * FIELDS_MAX)
    ]
    for table, fields in gone.items():
        command = "XDEL" if table in STREAMS else "HDEL"
        commands += [(command, store.key(table), some) for some in _parts(fields, FIELDS_MAX)]
        if (
            table == "journal" and journal_seq is not None
        ):  # else a last entry that is gone would bar smaller ids for ever
            commands.append(("XSETID", store.key(table), (f"{journal_seq}-0",)))
    commands += [("HSET", store.key(table), (field, value)) for table, field, value in puts]
    await store.mend(commands)


async def _raw(store: Keeper, entry: Unreadable) -> Raw | list[Raw]:
    if entry.table in STREAMS:
        return [as_text(value) for value in await store.entry(entry.table, entry.field)]
    [value] = await store.rows(entry.table, [field_bytes(entry.field)])
    return as_text(value or b"")


def as_text(raw: bytes) -> Raw:
    """Bytes as JSON can hold them."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(raw).decode()}


def _parts(values: list[Argument], most: int) -> Iterable[list[Argument]]:
    return (values[start : start + most] for start in range(0, len(values), most))
