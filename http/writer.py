"""How a process becomes the writer of its node's state: at once where nobody is, else when the one before it is dead.

Always true here: the lease is taken only in the very state of Redis that was judged. With the embedded Redis the lock
on DATA_DIR decides, which goes with the process that holds it; with REDIS_URL what Redis shows of the writer does.
"""

import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

from ..core.kernel.clock import MS_NS
from ..core.model.errors import SettingsError, StoreError
from ..core.settings import Settings
from ..core.state.lease import POLL_S, Finding, Lease, Seen, Watch, proven_dead, shown, this_process
from ..core.state.server import EmbeddedRedis, FolderBusy
from ..core.state.store import Store
from .exchanges import Exchanges
from .standby import Standby

LOCK_POLL_S: Final = 0.1
AGAIN_S: Final = 2.0  # after what is needed to take over was not to be had
ENDS: Final = {Finding.FREE: "has stopped", Finding.DEAD: "is dead"}

# Counts while the machine sleeps, where the system has such a clock.
now_ns: Callable[[], int] = (
    partial(time.clock_gettime_ns, time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic_ns
)


async def start_redis(redis: EmbeddedRedis, settings: Settings, standby: Standby, prepare: Callable[[], None]) -> bool:
    """Start the embedded server as soon as no other process uses DATA_DIR; False when told to stop before that.

    Raises as `EmbeddedRedis.start`.
    """
    while True:
        try:
            await redis.start()
        except FolderBusy as error:
            if not settings.standby:
                raise
            if not standby.waited:
                prepare()
            if not await standby.wait(error.why, LOCK_POLL_S):
                return False
        else:
            return True


class Succession:
    """The way to the lease. `exchanges` are made before it is taken: they take long, may fail, and change nothing,
    while who holds the lease must show soon that it works.
    """

    def __init__(
        self,
        store: Store,
        settings: Settings,
        standby: Standby,
        exchanges: Callable[[], Awaitable[Exchanges]],
        say: Callable[[str], None],
    ) -> None:
        self.store = store
        self.settings = settings
        self.standby = standby
        self.exchanges = exchanges
        self.say = say
        self._mine = this_process()
        self._watch = Watch(self._dead)

    async def take(self) -> tuple[Lease, Exchanges] | None:
        """Become the writer when nobody is; None when told to stop before that.

        Raises SettingsError where another process is the writer and this one is not to wait; and where this process
        never had to wait, what keeps it from starting: SettingsError, StoreError.
        """
        while True:
            why, seconds = "", POLL_S
            seen = None
            if self.settings.redis_url is not None:
                seen, why = await self._look()
            if not why:
                try:
                    taken = await self._take(seen)
                except (SettingsError, StoreError) as error:
                    if not self.standby.waited:
                        raise
                    self._watch.unanswered()
                    why, seconds = f"this process cannot take over yet ({error})", AGAIN_S
                else:
                    if taken is not None:
                        return taken
                    why = "another process was faster"
            if not self.settings.standby and self._watch.moved:
                raise SettingsError(f"{why}: stop it, set another NODE_ID, or STANDBY=true to wait for its end")
            if not await self.standby.wait(why, seconds):
                return None

    # Inside.

    def _dead(self, holder: bytes) -> bool:
        # Our own: Redis took the lease for us, and its answer was lost.
        return bool(holder) and (holder == self._mine or proven_dead(holder))

    async def _look(self) -> tuple[Seen | None, str]:
        """What Redis says, and why this process must wait; empty where it need not."""
        try:
            seen = await self.store.look()
        except StoreError as error:
            self._watch.unanswered()
            return None, f"Redis cannot be asked who the writer is ({error})"
        finding = self._watch.answered(seen)
        if finding is Finding.GONE:
            return seen, (
                f"the state tbx:{self.settings.node_id}:* that this process watched was deleted or replaced in Redis: "
                "nothing is taken over; bring it back, or start this process anew to go on with what is there"
            )
        if finding is Finding.ALIVE:
            return seen, f"another process is the writer ({shown(seen.holder)})"
        if self.standby.waited:
            self.say(f"taking over: the writer ({shown(seen.holder)}) {ENDS[finding]}")
        return seen, ""

    async def _take(self, seen: Seen | None) -> tuple[Lease, Exchanges] | None:
        """None where something has moved since that was seen."""
        found = await self.exchanges()
        lease = Lease(now_ns)  # sure from before it is asked for
        try:
            epoch = await self.store.acquire(time.time_ns() // MS_NS, holder=self._mine, seen=seen)
        except StoreError:
            await found.close()
            raise
        if epoch:
            return lease, found
        await found.close()
        return None
