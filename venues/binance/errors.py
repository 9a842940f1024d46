"""What an error of Binance means for the request that it answers.

Always true here: Refused, Retry, ClockOff and KeyTrouble are given only where the exchange has proven that it did not
carry the request out; all that is not known to be such a proof is Unknown, and the exchange has to be asked. Source:
errors.md and "Status codes" of web-socket-api.md and rest-api.md in binance-spot-api-docs.
"""

import re
from typing import Final, Literal

from msgspec import Struct

from .codec import ApiFault, one_line

Asked = Literal["place", "cancel", "amend", "replace", "list", "query", "account", "session"]


class Refused(Struct, frozen=True, gc=False):
    """It said no, and would say so again: not done."""

    code: str
    reason: str


class Retry(Struct, frozen=True, gc=False):
    """Not done, for a reason that passes."""

    code: str
    reason: str
    retry_after_ms: int | None = None  # UTC milliseconds; None: not said


class Unknown(Struct, frozen=True, gc=False):
    """It may or may not have been done."""

    reason: str


class ClockOff(Struct, frozen=True, gc=False):
    """Not done: our time is too far from the exchange's."""

    reason: str


class KeyTrouble(Struct, frozen=True, gc=False):
    """Not done: the key, its permissions, its IP list or its signature."""

    reason: str


class NotThere(Struct, frozen=True, gc=False):
    """The exchange holds no such order now: a query found none, or a cancel found none that is open."""

    reason: str


Verdict = Refused | Retry | Unknown | ClockOff | KeyTrouble | NotThere

CLOCK_OFF: Final = "CLOCK_OFF"
KEY_REFUSED: Final = "KEY_REFUSED"
RATE_LIMIT_EXCEEDED: Final = "RATE_LIMIT_EXCEEDED"
TEMPORARY_UNAVAILABLE: Final = "TEMPORARY_UNAVAILABLE"
UNKNOWN_ORDER: Final = "UNKNOWN_ORDER"
VENUE_REFUSED: Final = "VENUE_REFUSED"

# The outcome is not known: documented for -1006 and -1007; judged for the others, which come from behind the gateway.
UNKNOWN_CODES: Final = frozenset({-1000, -1001, -1006, -1007, -1008, -1016})
KEY_CODES: Final = frozenset({-1002, -1022, -2014, -2015})
# Statuses that say by themselves that the request was turned away at the door.
REFUSING_STATUSES: Final = frozenset({400, 401, 403, 404, 405})
# The documented families of codes: "general server or network issues", "request issues", and those of orders. What an
# error of another family proves, nobody has said.
FAMILIES: Final = (range(-1199, -999), range(-2099, -1999))

# Texts of -1010, -1013, -2010, -2011 and of reject reasons -> our code. Compared in lower case, as a beginning.
MESSAGES: Final = (
    ("account has insufficient balance", "INSUFFICIENT_BALANCE"),
    ("order would immediately match and take", "POST_ONLY_WOULD_TAKE"),
    ("order would trigger immediately", "STOP_WOULD_TRIGGER"),
    ("stop price would trigger immediately", "STOP_WOULD_TRIGGER"),
    ("market is closed", "MARKET_CLOSED"),
    ("this order type is not possible in this trading phase", "MARKET_CLOSED"),
    ("limit orders require gtc for this phase", "MARKET_CLOSED"),
    ("this action is disabled on this account", KEY_REFUSED),
    ("this account may not place or cancel orders", KEY_REFUSED),
    ("this symbol is not permitted for this account", KEY_REFUSED),
    ("this symbol is restricted for this account", KEY_REFUSED),
    ("invalid symbol", "INVALID_PAIR"),
)

# Words of an executionReport's `r` -> our code and the text for people.
REJECT_REASONS: Final = {
    "INSUFFICIENT_BALANCES": ("INSUFFICIENT_BALANCE", "the account has insufficient balance"),
    "STOP_PRICE_WOULD_TRIGGER_IMMEDIATELY": ("STOP_WOULD_TRIGGER", "the order would trigger immediately"),
    "WOULD_MATCH_IMMEDIATELY": ("POST_ONLY_WOULD_TAKE", "the order would immediately match and take"),
    "OCO_BAD_PRICES": (VENUE_REFUSED, "the relationship of the prices of the order list is not correct"),
}

_FILTER = re.compile(r"Filter failure: ([A-Z0-9_]{1,60})")


def classify_fault(status: int, fault: ApiFault, asked: Asked) -> Verdict:
    """`classify` of a reply's error, with the time after which to try again."""
    return classify(status, fault.code, fault.msg, asked, fault.retry_after_ms)


def classify(status: int, code: int, msg: str, asked: Asked, retry_after_ms: int | None = None) -> Verdict:
    """What became of a request that was answered with an error.

    `status` is that of the reply, or of HTTP; `code` 0 where there was no error object (a proxy's page).
    """
    said = f"Binance: {one_line(msg)} ({code})" if msg else f"Binance answered {status} with error {code}"
    if status >= 500 or code in UNKNOWN_CODES:
        return Unknown(f"{said}, status {status}" if msg and status >= 500 else said)
    if code in (-1003, -1015) or status in (418, 429):  # said at the door
        return Retry(RATE_LIMIT_EXCEEDED, said, retry_after_ms)
    if code == -1021:
        return ClockOff(said)
    if code in KEY_CODES:
        return KeyTrouble(said)
    if code in (-2021, -2022):  # the halves of a cancel-replace each have an error of their own
        return Unknown(said)
    if code == -2013:
        return NotThere(said)
    if code in (-1010, -1013, -2010, -2011):
        return _by_message(code, msg, said, asked)
    return _by_code(status, code, said)


def _by_message(code: int, msg: str, said: str, asked: Asked) -> Verdict:
    """Of the matching engine's refusals only the text tells one from the other."""
    found = _FILTER.search(msg)
    if found is not None:
        return Refused(f"FILTER_{found[1]}", said)
    text = msg.lower()
    if text.startswith("unknown order"):
        return NotThere(said)
    if text.startswith("duplicate order") and asked in ("place", "replace", "list"):
        # An open order has this client id: this very order, sent before, is the likeliest.
        return Unknown(said)
    for beginning, ours in MESSAGES:
        if text.startswith(beginning):
            return Refused(ours, said)
    return Refused("AMEND_REFUSED" if asked == "amend" and code == -2010 else VENUE_REFUSED, said)


def _by_code(status: int, code: int, said: str) -> Verdict:
    if code == -1121:
        return Refused("INVALID_PAIR", said)
    if code == -2026:  # it was there, and ended unfilled more than 90 days ago
        return Refused("ORDER_ARCHIVED", said)
    if code in (-2038, -2039):
        return Refused("AMEND_REFUSED", said)
    if status == 403:  # its firewall
        return Retry(TEMPORARY_UNAVAILABLE, said)
    if status == 401:
        return KeyTrouble(said)
    if status in REFUSING_STATUSES and (not code or any(code in family for family in FAMILIES)):
        return Refused(VENUE_REFUSED, said)
    return Unknown(said)
