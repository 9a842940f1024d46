"""An actor: what it handles, its timers, its state to persist."""

from typing import TYPE_CHECKING

from .bus import Handler

if TYPE_CHECKING:
    from .kernel import Kernel


class Actor:
    """A part of the service that owns some state and reacts to messages.

    A subclass lists what it handles in `handles()`, restores itself in `restore()` before any message comes, and begins
    its timers in `start()`. It touches nothing but its own state, the bus and the outbox.
    """

    def __init__(self, kernel: "Kernel") -> None:
        self.kernel = kernel
        self.bus = kernel.bus
        self.clock = kernel.clock
        self.outbox = kernel.outbox

    def handles(self) -> dict[type, Handler]:
        """Message type -> method."""
        return {}

    def start(self) -> None:
        """Begin timers; everything is restored."""

    def stop(self) -> None:
        """End timers; the last commit is still to come."""
