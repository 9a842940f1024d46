"""What every venue offers to the service, whether it is paper, a local exchange or a real one.

Always true here: requests return nothing and answer later, with Venue* messages through `Kernel.input`. A venue never
says that an order was not taken unless that is proven. Quantities are those of the order as it was placed: where the
core sends the rest of an order as a new attempt, the venue knows nothing of the attempts before it.
"""

from collections.abc import Callable, Sequence
from typing import Literal, Protocol

import msgspec

from ..core.model.instruments import Instrument
from ..core.model.messages import AmendAtVenue, AskAtVenue, CancelAtVenue, PlaceAtVenue, PlaceExitsAtVenue
from ..core.model.records import TimeInForce

ConnectionStatus = Literal["connected", "stale", "disconnected"]

# Told whether the venue ever took the order: True after it repeated all that it knows about it, False when it is proven
# that it did not take it, None when it could not be asked.
QueryAnswer = Callable[[bool | None], None]


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What a venue can do by itself; the service does the rest."""

    tifs: frozenset[TimeInForce]
    post_only: bool
    amend: bool  # the quantity down, in place
    amend_up: bool  # the quantity up, in place
    amend_price: bool  # the price, in place; what is not in place is a cancel and a new order
    amend_keeps_queue: bool  # when the quantity goes down
    linked_orders: bool  # one-cancels-other at the venue
    market_guard: bool  # takes a worst price for a market order


class VenueStatus(msgspec.Struct, frozen=True, kw_only=True):
    """For GET /api/health."""

    status: ConnectionStatus
    last_ping_ms: int | None  # UTC milliseconds of the last sign of life
    rate_limit_remaining: int
    rate_limit_reset_ms: int  # UTC milliseconds
    reason: str = ""  # why it is not connected
    latency_ms: float | None = None  # from an event there to its frame here; None where nobody measures it


class VenueClient(Protocol):
    """One venue. `name` is the exchange whose instruments it trades."""

    @property
    def name(self) -> str: ...

    @property
    def capabilities(self) -> Capabilities: ...

    def instruments(self) -> Sequence[Instrument]: ...

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def place(self, request: PlaceAtVenue) -> None:
        """Answers VenueAccepted, VenueFilled, VenueEnded or VenueRejected."""
        ...

    def place_exits(self, request: PlaceExitsAtVenue) -> None:
        """Answers as `place`, for each of the two; what sold or was reached ends the other as expired. VenueRejected
        where `linked_orders` is not among the capabilities."""
        ...

    def cancel(self, request: CancelAtVenue) -> None:
        """Answers VenueEnded, or VenueRequestFailed when the order is not there."""
        ...

    def amend(self, request: AmendAtVenue) -> None:
        """Answers VenueAmended or VenueRequestFailed; the quantity is all that was placed, its filled part included."""
        ...

    def query(self, asked: AskAtVenue, answer: QueryAnswer) -> None:
        """Asks what became of an order: its messages come once more, in order, and then `answer` is called. VenueAsked
        may come before that, with what was asked and answered in the venue's words.

        Where another order stands under its client id, VenueContradicted comes, and `answer` gets None.
        """
        ...

    @property
    def unavailable(self) -> str:
        """Why no order can be sent now; empty where one can."""
        ...

    def status(self) -> VenueStatus: ...
