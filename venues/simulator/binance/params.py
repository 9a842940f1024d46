"""Parameters as text, and what methods read out of them.

Always true here: a request's parameters are `dict[str, str]`, the text as it was sent (numbers of JSON as written,
booleans in lower case, arrays as JSON text), whether they came over REST or the WebSocket API. Reading one gives its
value, None where it was not sent, or an `ApiError` that names it. Money is `int` in units of 1e-8.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from ..exchange.records import ORDER_TYPES, STP_MODES, TIMES_IN_FORCE, UNIT, UNITS_MOST
from . import errors

Params = Mapping[str, str]

DECIMALS = 8
DECIMAL_RANGE = r"^([0-9]{1,20})(\.[0-9]{1,20})?$"
INTEGER_RANGE = "^[0-9]{1,20}$"
SYMBOL_RANGE = r"^[\w\-._&&[^a-z]]{1,50}$"
CLIENT_ID_RANGE = "^[a-zA-Z0-9-_]{1,36}$"
INTEGER_MOST = 2**63 - 1

SYMBOL = re.compile(r"[^a-z\s/&=%'\"\[\]{},]{1,50}")
CLIENT_ID = re.compile(r"[a-zA-Z0-9\-_]{1,36}")

SIDES = ("BUY", "SELL")
RESPONSE_TYPES = ("ACK", "RESULT", "FULL")
CANCEL_RESTRICTIONS = ("ONLY_NEW", "ONLY_PARTIALLY_FILLED")
STRATEGY_TYPE_LEAST = 1_000_000
LIMIT_MOST = 1000
LIMIT_DEFAULT = 500

CHOICES: dict[str, tuple[str, ...]] = {
    "side": SIDES,
    "type": ORDER_TYPES,
    "timeInForce": TIMES_IN_FORCE,
    "newOrderRespType": RESPONSE_TYPES,
    "selfTradePreventionMode": STP_MODES,
    "cancelRestrictions": CANCEL_RESTRICTIONS,
}


def text_of(value: Any) -> str:
    """A decoded JSON value as the text it was (floats have to be decoded as their text)."""
    if isinstance(value, str):
        return value
    if value is True:
        return "true"
    if value is False:
        return "false"
    if value is None:
        return ""
    if isinstance(value, int):
        return str(value)
    return msgspec.json.encode(value).decode()


def units(text: str, name: str) -> int:
    """A decimal number in units of 1e-8."""
    whole, dot, part = text.partition(".")
    if not (
        text.isascii() and whole.isdigit() and len(whole) <= 20 and (not dot or (part.isdigit() and len(part) <= 20))
    ):
        if not text:
            raise errors.empty(name)
        raise errors.illegal(name, DECIMAL_RANGE)
    if len(part) > DECIMALS:
        raise errors.too_precise(name)
    value = int(whole) * UNIT if not dot else int(whole + part.ljust(DECIMALS, "0"))
    if value > UNITS_MOST:
        raise errors.overflowed(name)
    return value


def decimal(params: Params, name: str) -> int | None:
    """A price or quantity, if it was sent."""
    text = params.get(name)
    return None if text is None else units(text, name)


def must_decimal(params: Params, name: str) -> int:
    text = params.get(name)
    if not text:
        raise errors.missing(name)
    return units(text, name)


def integer(params: Params, name: str) -> int | None:
    """A whole number, if it was sent."""
    text = params.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 20):
        if not text:
            raise errors.empty(name)
        raise errors.illegal(name, INTEGER_RANGE)
    value = int(text)
    if value > INTEGER_MOST:
        raise errors.overflowed(name)
    return value


def must_integer(params: Params, name: str) -> int:
    value = integer(params, name) if params.get(name) else None
    if value is None:
        raise errors.missing(name)
    return value


def boolean(params: Params, name: str) -> bool | None:
    """true or false, if it was sent."""
    text = params.get(name)
    if text is None:
        return None
    if text in ("true", "TRUE", "True"):
        return True
    if text in ("false", "FALSE", "False"):
        return False
    raise errors.empty(name) if not text else errors.invalid(name)


def choice(params: Params, name: str, allowed: tuple[str, ...]) -> str | None:
    """One of a few words, if it was sent."""
    text = params.get(name)
    if text is None or text in allowed:
        return text
    raise errors.empty(name) if not text else errors.bad_choice(name)


def must_choice(params: Params, name: str, allowed: tuple[str, ...]) -> str:
    text = params.get(name)
    if text in allowed:
        return text
    raise errors.missing(name) if not text else errors.bad_choice(name)


def symbol(params: Params, name: str = "symbol") -> str:
    """The symbol that has to be named; whether it is listed is not looked at."""
    text = params.get(name)
    if not text:
        raise errors.missing(name)
    if SYMBOL.fullmatch(text) is None:
        raise errors.illegal(name, SYMBOL_RANGE)
    return text


def client_id(params: Params, name: str) -> str | None:
    """A client's own name for an order or list, if it was sent."""
    text = params.get(name)
    if text is None:
        return None
    if CLIENT_ID.fullmatch(text) is None:
        raise errors.empty(name) if not text else errors.illegal(name, CLIENT_ID_RANGE)
    return text


def words(params: Params, name: str) -> list[str] | None:
    """An array of words, as JSON text (or a single bare word), if it was sent."""
    text = params.get(name)
    if text is None:
        return None
    if not text.startswith("["):
        if not text:
            raise errors.empty(name)
        return [text]
    try:
        return msgspec.json.decode(text, type=list[str])
    except errors.NOT_JSON:
        raise errors.bad_json_parameter(name) from None


def strategy_type(params: Params, name: str) -> int | None:
    value = integer(params, name)
    if value is not None and value < STRATEGY_TYPE_LEAST:
        raise errors.ApiError(400, -1134, "strategyType was less than 1000000.")
    return value


def limit(params: Params, default: int = LIMIT_DEFAULT, most: int = LIMIT_MOST) -> int:
    """How many rows are asked for, 1 to `most`."""
    value = integer(params, "limit")
    if value is None:
        return default
    if not 1 <= value <= most:
        raise errors.invalid("limit")
    return value


def time_ms(params: Params, name: str) -> int | None:
    """A time, sent in milliseconds or microseconds."""
    value = integer(params, name)
    if value is not None and value >= 100_000_000_000_000:
        return value // 1000
    return value


def span_ms(params: Params, most_hours: int) -> tuple[int | None, int | None]:
    """startTime and endTime, at most that far apart."""
    start, end = time_ms(params, "startTime"), time_ms(params, "endTime")
    if start is not None and end is not None:
        if start > end:
            raise errors.bad_combination()
        if end - start > most_hours * 3_600_000:
            raise errors.too_long(most_hours)
    return start, end
