"""The store of a desk on a simulated Redis: for each process a real `Store` over a connection of its own.

Always true here: what a process has written to its connection arrives, whatever becomes of the process, unless a fault
took it; what comes back reaches only a process that lives.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from tbx.core.kernel.clock import MS_NS
from tbx.core.model.errors import StoreError, StoreUnavailable
from tbx.core.state.address import Address
from tbx.core.state.batch import Batch
from tbx.core.state.resp import pause
from tbx.core.state.store import COMMIT, Loaded, Store

from ..live_desk import LiveDesk
from ..live_network import ProcessClock, Stepped
from .loop import VirtualLoop, run
from .redis import COMMIT_NS, SimRedis
from .redis_data import Stream
from .redis_faults import RedisFaults

if TYPE_CHECKING:
    from tbx.core.kernel.kernel import CommitStore

NODE = "main"
AGAIN_S = 0.5  # between tries of a process that starts while Redis is away
APPLIED, KNOWN = b":1\r\n", b":0\r\n"  # what the commit script answers

Done = Callable[[StoreError | None], None]


class Started(NamedTuple):
    """What a process has of the store when it begins."""

    store: Writer
    loaded: Loaded
    epoch: int


class Writer:
    """One process' way to the store: the real one, and a note of what was sent."""

    def __init__(self, sim: SimStore, store: Store) -> None:
        self.sim = sim
        self.store = store
        self.beat = store.beat

    def commit(self, batch: Batch, done: Done) -> None:
        self.sim.sent[self.store.epoch, batch.number, False] = batch
        self.store.commit(batch, done)

    def commit_whole(self, batch: Batch, done: Done) -> None:
        self.sim.sent[self.store.epoch, batch.number, True] = msgspec.structs.replace(batch)
        self.store.commit_whole(batch, done)


class SimStore:
    """One Redis for all processes of a world. Attributes may be changed at any time.

    `on_written(batch, epoch, whole)` hears of each batch when Redis has applied it.
    """

    def __init__(self, world: Stepped, *, seed: int = 1, commit_ns: int = COMMIT_NS) -> None:
        self.world = world
        self.redis = SimRedis(world, commit_ns=commit_ns)
        self.redis.on_script = self._ran
        self.faults = RedisFaults(self.redis, seed)
        self.commits = 0
        self.sent: dict[tuple[int, int, bool], Batch] = {}  # by epoch, number and whether whole; not applied yet
        self.on_written: Callable[[Batch, int, bool], object] | None = None
        self._told: dict[int, bytes] = {}  # every journal entry that there ever was, by its seq
        self._number = 0  # of the last commit that was ever applied
        self._starts = 0

    # --- processes

    def start(self, clock: ProcessClock) -> Started:
        """A process connects, becomes the writer and loads; the world goes on meanwhile. Tries until Redis is there."""
        loop = VirtualLoop(clock, self.redis)
        return run(self.world, loop, self._begin(loop))

    async def _begin(self, loop: VirtualLoop) -> Started:
        while True:
            self._starts += 1
            store = Store(loop, Address(path="memory"), NODE, journal_id=f"sim{self._starts}")
            try:
                await store.open()
                epoch = await store.acquire(self.world.now_ns() // MS_NS)
                return Started(Writer(self, store), await store.load(), epoch)
            except StoreUnavailable:
                await store.close()
                await pause(loop, AGAIN_S)

    # --- faults, as the store in memory has them

    @property
    def down(self) -> bool:
        """Whether Redis is away; set it to let it be so until it is set again."""
        return self.redis.away

    @down.setter
    def down(self, down: bool) -> None:
        if down:
            self.redis.kill(10**18)
        else:
            self.redis.heal()

    @property
    def slow_ns(self) -> int:
        """Added to each commit."""
        return 2 * self.redis.slow_ns

    @slow_ns.setter
    def slow_ns(self, slow_ns: int) -> None:
        self.redis.slow_ns = slow_ns // 2

    @property
    def lose_replies(self) -> int:
        """So many more commands are carried out, and their connection breaks before the answer."""
        return self.redis.replies_to_lose

    @lose_replies.setter
    def lose_replies(self, count: int) -> None:
        self.redis.replies_to_lose = count

    @property
    def behind(self) -> bool:
        """It came back older, and has not been written anew yet."""
        return self.number < self._number

    def power_cut(self, lost_ns: int, away_ns: int = 0) -> int:
        """Redis loses what was written in the last `lost_ns`; how many commits that were."""
        before = self.number
        self.redis.power_cut(lost_ns, away_ns)
        return before - self.number

    # --- what is committed

    def value(self, name: str) -> Any:
        return self.redis.database.data.get(f"tbx:{NODE}:{name}".encode())

    def _meta(self, field: bytes) -> int:
        return int((self.value("meta") or {}).get(field, b"0"))

    @property
    def number(self) -> int:
        return self._meta(b"number")

    @property
    def seq(self) -> int:
        return self._meta(b"seq")

    @property
    def epoch(self) -> int:
        return self._meta(b"epoch")

    @property
    def tables(self) -> dict[str, dict[str, bytes]]:
        found = {}
        for key, value in self.redis.database.data.items():
            if isinstance(value, dict):
                found[key.decode().rpartition(":")[2]] = {field.decode(): row for field, row in value.items()}
        return found

    @property
    def streams(self) -> dict[str, list[bytes]]:
        equity = self.value("equity")
        return {"equity": [fields[1] for _, fields in equity.entries] if isinstance(equity, Stream) else []}

    @property
    def journal(self) -> list[tuple[int, bytes]]:
        """Every entry that was ever committed; Redis itself begins anew when it is written whole."""
        return list(self._told.items())

    def _ran(self, script: bytes, arguments: list[bytes], reply: bytes) -> None:
        if script != COMMIT or reply not in (APPLIED, KNOWN):
            return
        number, whole = int(arguments[1]), arguments[3] == b"-1"
        epoch = int(arguments[0].rpartition(b":")[2])
        batch = self.sent.pop((epoch, number, whole), None)
        if reply == KNOWN or batch is None:
            return
        self.commits += 1
        self._number = max(self._number, number)
        if batch.events:
            self._told[batch.seq] = b"[%b]" % b",".join(batch.events)
        if self.on_written is not None:
            self.on_written(batch, epoch, whole)


class RedisDesk(LiveDesk):
    """A live desk whose processes commit to a simulated Redis."""

    store: SimStore  # type: ignore[assignment]

    def _new_store(self) -> Any:
        return SimStore(self.world, seed=self.rng.randrange(2**32))

    def _open_store(self) -> tuple[CommitStore, Loaded, int]:
        # Nobody shows books to a process that has not begun.
        clock, self.clock = self.clock, ProcessClock(self.world)
        self.clock.alive = False
        try:
            return self.store.start(clock)
        finally:
            self.clock = clock
