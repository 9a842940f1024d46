"""How far commits had been acknowledged, kept beside Redis: the file `committed` in DATA_DIR.

Always true here: it never says more than Redis had acknowledged. It is written every second, not forced to disk: it
survives the process, and tells when Redis lost the end of its file (cut, or put back from a copy). A power cut may take
the last second of both.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path

import msgspec

from ...core.model.errors import StoreError
from ...core.state.store import Loaded, Store

WRITE_EVERY_S = 1.0


class Mark(msgspec.Struct, frozen=True):
    """The last acknowledged commit of one journal."""

    journal_id: str
    number: int
    seq: int


class Watermark:
    """The mark of one process."""

    def __init__(self, folder: Path, store: Store) -> None:
        self.path = folder / "committed"
        self.store = store
        self._written: Mark | None = None

    def lost(self, loaded: Loaded) -> str:
        """What Redis had acknowledged and no longer has, in words; empty where nothing is missing."""
        mark = self._read()
        if mark is None or mark.journal_id != self.store.journal_id or mark.number <= loaded.number:
            return ""
        return (
            f"Redis came back with commit {loaded.number}, and had acknowledged {mark.number}: the last "
            f"{mark.number - loaded.number} commits, up to event {mark.seq}, are lost"
        )

    def check_there(self, loaded: Loaded) -> None:
        """Raises StoreError where Redis holds nothing and had acknowledged commits: a start would begin anew, and leave
        positions and live orders to nobody."""
        mark = self._read()
        if mark is not None and loaded.number == 0 and mark.number > 0:
            raise StoreError(
                f"Redis holds no state of node {self.store.node!r}, and had acknowledged {mark.number} commits of it: "
                f"its data was deleted or replaced. Restore a backup (tbx restore), or delete {self.path} to begin anew"
            )

    def _read(self) -> Mark | None:
        """None at the first start, or where it was cut short: nothing can be told from it."""
        try:
            return msgspec.json.decode(self.path.read_bytes(), type=Mark)
        except (OSError, msgspec.DecodeError):
            return None

    def write(self, seq: int) -> None:
        """Keep how far it is now; `seq` of the last committed event."""
        mark = Mark(self.store.journal_id, self.store.acknowledged, seq)
        if mark == self._written:
            return
        new = self.path.with_name("committed.new")
        try:
            new.write_bytes(msgspec.json.encode(mark))
            new.replace(self.path)
        except OSError:
            return  # DATA_DIR is full or gone, which whoever watches it tells; the next second tries again
        self._written = mark

    async def keep(self, seq: Callable[[], int]) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(WRITE_EVERY_S)
            self.write(seq())
