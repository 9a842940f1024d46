"""What a refused request means for the order that it was about, in the messages of the core. Pure.

Always true here: VenueRejected and VenueRequestFailed are given only where the venue has proven that it did nothing;
all else is VenueUnknown, and the venue has to be asked.
"""

from typing import Final, Literal

from ...core.model.instruments import Instrument
from ...core.model.messages import VenueRejected, VenueRequestFailed, VenueUnknown
from .codec import ApiFault
from .codec_replies import Replaced
from .codec_reports import VenueMessage, cancelled, placed
from .codec_requests import ReplaceOrder
from .errors import (
    CLOCK_OFF,
    KEY_REFUSED,
    TEMPORARY_UNAVAILABLE,
    UNKNOWN_ORDER,
    ClockOff,
    KeyTrouble,
    NotThere,
    Unknown,
    Verdict,
    classify_fault,
)
from .inflight import Kind

Outcome = VenueMessage | VenueRequestFailed | VenueUnknown
Changed = Literal["cancel", "amend"]

HALF_STATUS: Final = 400  # the halves of a cancel-replace have codes and no status of their own


def unknown(venue: str, client_id: str, request: Kind, reason: str, now_ns: int) -> VenueUnknown:
    return VenueUnknown(venue=venue, client_id=client_id, request=request, reason=reason, timestamp_ns=now_ns)


def rejected(venue: str, client_id: str, code: str, reason: str, now_ns: int) -> Outcome:
    return VenueRejected(venue=venue, client_id=client_id, code=code, reason=reason, timestamp_ns=now_ns)


def failed(venue: str, client_id: str, request: Changed, code: str, reason: str, now_ns: int) -> Outcome:
    return VenueRequestFailed(
        venue=venue, client_id=client_id, request=request, code=code, reason=reason, timestamp_ns=now_ns
    )


def not_placed(venue: str, client_id: str, verdict: Verdict, now_ns: int) -> Outcome:
    """An order that was answered with an error."""
    if isinstance(verdict, Unknown | NotThere):
        return unknown(venue, client_id, "place", verdict.reason, now_ns)
    code = code_of(verdict)
    if code == CLOCK_OFF:  # it passes: the clock has been measured meanwhile
        code = TEMPORARY_UNAVAILABLE
    return rejected(venue, client_id, code, verdict.reason, now_ns)


def not_changed(venue: str, client_id: str, request: Changed, verdict: Verdict, now_ns: int) -> Outcome:
    """A cancel or an amend that was answered with an error."""
    if isinstance(verdict, Unknown):
        return unknown(venue, client_id, request, verdict.reason, now_ns)
    return failed(venue, client_id, request, code_of(verdict), verdict.reason, now_ns)


def code_of(verdict: Verdict) -> str:
    """Our code of a request that was proven not done."""
    if isinstance(verdict, ClockOff):
        return CLOCK_OFF
    if isinstance(verdict, KeyTrouble):
        return KEY_REFUSED
    if isinstance(verdict, NotThere):
        return UNKNOWN_ORDER
    assert not isinstance(verdict, Unknown)
    return verdict.code


def replaced(venue: str, replace: ReplaceOrder, halves: Replaced, instrument: Instrument, now_ns: int) -> list[Outcome]:
    """Both halves of a cancel-replace: the old order's messages, then the new one's. Raises Nonsense."""
    old, new = replace.cancel.client_id, replace.order.client_id
    messages: list[Outcome] = []
    if isinstance(halves.cancel, ApiFault):
        verdict = classify_fault(HALF_STATUS, halves.cancel, "cancel")
        messages.append(not_changed(venue, old, "cancel", verdict, now_ns))
    elif halves.cancel is not None:
        messages += cancelled(halves.cancel, instrument, venue)
    if isinstance(halves.order, ApiFault):
        verdict = classify_fault(HALF_STATUS, halves.order, "place")
        messages.append(not_placed(venue, new, verdict, now_ns))
    elif halves.order is not None:
        messages += placed(halves.order, instrument, venue)
    else:
        reason = "not tried: the order that it was to replace could not be cancelled"
        messages.append(rejected(venue, new, "REPLACE_FAILED", reason, now_ns))
    return messages
