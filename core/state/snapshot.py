"""The whole state of a node as it was at one moment, taken from a Redis that goes on being written to.

Always true here: all tables and the moment itself (number and seq of the last commit) come from one transaction.
Streams only grow at their end and are trimmed at their beginning, so that they are read after it, from that moment
backwards: what is here of them is without a hole, and ends at the moment.
"""

import msgspec

from ..model.errors import StoreCorrupt
from .address import Address
from .journal import Entry
from .resp import Connection, ReplyError, refusal
from .store import TABLES

PAGE = 1_000  # entries of a stream asked for at a time
HASHES = ("meta", *TABLES, "quarantine")


class Snapshot(msgspec.Struct):
    """Keys are without `tbx:{node}:`; values are as they stand in Redis."""

    node: str
    tables: dict[str, dict[str, bytes]]  # each of HASHES
    journal: list[Entry]  # oldest first
    equity: list[Entry]

    @property
    def meta(self) -> dict[str, bytes]:
        return self.tables["meta"]

    @property
    def seq(self) -> int:
        return self.number_of("seq")

    def number_of(self, field: str) -> int:
        """A number of `meta`. Raises StoreCorrupt."""
        text = self.meta.get(field, b"")
        if not text.isdigit():
            raise StoreCorrupt(f"tbx:{self.node}:meta", f"field {field} is {text!r}, must be a number")
        return int(text)


async def take(connection: Connection, address: Address, node: str) -> Snapshot | None:
    """The state of a node; None where there is none. Raises StoreError."""
    try:
        return await _take(connection, node)
    except ReplyError as error:
        raise refusal(address, error) from error


async def _take(connection: Connection, node: str) -> Snapshot | None:
    def key(name: str) -> str:
        return f"tbx:{node}:{name}"

    asked = [("HGETALL", key(name)) for name in HASHES]
    last_sample = ("XREVRANGE", key("equity"), "+", "-", "COUNT", 1)
    *_, replies = await connection.pipeline([("MULTI",), *asked, last_sample, ("EXEC",)])
    for name, reply in zip((*HASHES, "equity"), replies, strict=True):
        if isinstance(reply, ReplyError):
            raise StoreCorrupt(key(name), f"cannot be read: {reply}")
    tables = {
        name: dict(zip((field.decode(errors="surrogateescape") for field in flat[::2]), flat[1::2], strict=True))
        for name, flat in zip(HASHES, replies[:-1], strict=True)
    }
    if not tables["meta"]:
        return None
    snapshot = Snapshot(node, tables, [], [])
    snapshot.journal = await _backwards(connection, key("journal"), f"{snapshot.seq}-0")
    if replies[-1]:
        snapshot.equity = await _backwards(connection, key("equity"), replies[-1][0][0].decode())
    return snapshot


async def _backwards(connection: Connection, key: str, last: str) -> list[Entry]:
    """Entries up to `last`, oldest first."""
    found: list[Entry] = []
    end = last
    while True:
        page = await connection.call("XREVRANGE", key, end, "-", "COUNT", PAGE)
        found += [(entry_id, fields) for entry_id, fields in page]
        if len(page) < PAGE:
            found.reverse()
            return found
        end = f"({page[-1][0].decode()}"
