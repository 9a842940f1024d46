"""What exchanges and books tell only when they are asked, turned into conditions.

Always true here: nothing is asked that could block; `venue_away` and `market_stale` hold for an exchange exactly while
it said so at the last look, at most LOOK_NS ago.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from ..core.kernel.actor import Actor
from ..core.kernel.bus import Handler
from ..core.kernel.clock import SECOND_NS, Timer
from ..core.kernel.kernel import Kernel
from ..core.model.messages import VenueStateChanged


class Watched(NamedTuple):
    """One exchange; both answer why, or nothing where all is well."""

    name: str
    away: Callable[[], str]  # why it takes no orders
    stale: Callable[[], str]  # why no book of it may be traded on


class Watching(Actor):
    """Looks every second, and when the connection of a venue comes or goes."""

    LOOK_NS = SECOND_NS

    def __init__(self, kernel: Kernel, exchanges: Iterable[Watched]) -> None:
        super().__init__(kernel)
        self.exchanges = list(exchanges)
        self._timer: Timer | None = None

    def handles(self) -> dict[type, Handler]:
        return {VenueStateChanged: self.on_venue}

    def start(self) -> None:
        self._timer = self.clock.call_in(self.LOOK_NS, self.kernel.run, self._look)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def on_venue(self, _: VenueStateChanged) -> None:
        self.look()

    def _look(self) -> None:
        self._timer = self.clock.call_in(self.LOOK_NS, self.kernel.run, self._look)
        self.look()

    def look(self) -> None:
        for exchange in self.exchanges:
            self._note("venue_away", exchange.away(), exchange.name)
            self._note("market_stale", exchange.stale(), exchange.name)

    def _note(self, name: str, why: str, subject: str) -> None:
        if why:
            self.kernel.conditions.begin(name, why, subject)
        else:
            self.kernel.conditions.end(name, subject)
