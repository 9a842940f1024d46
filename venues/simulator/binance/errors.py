"""What the exchange answers to a request it does not carry out: a status, Binance's code, Binance's text.

Always true here: texts are those of the official list of error codes, with the names of parameters filled in; nothing
of a request is carried out once an `ApiError` left a method, except where its `data` says so (cancelReplace).

    ApiError(status 4xx/5xx as in HTTP, code, msg, data)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from ..exchange.records import ExchangeError

# What decoding says of text that is no JSON, or JSON nested deeper than anything that means something.
NOT_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

UNAUTHORIZED = 401
CONFLICT = 409
BANNED = 418
TOO_MANY = 429


class ApiError(Exception):
    """A refused request. `data` is what the WebSocket API sends as `error.data`, and REST as `data`."""

    def __init__(self, status: int, code: int, msg: str, data: Mapping[str, Any] | None = None) -> None:
        super().__init__(f"{status} {code}: {msg}")
        self.status = status
        self.code = code
        self.msg = msg
        self.data = data

    def document(self) -> dict[str, Any]:
        """The body of REST's answer, and `error` of the WebSocket API's."""
        if self.data is None:
            return {"code": self.code, "msg": self.msg}
        return {"code": self.code, "msg": self.msg, "data": self.data}


class RateLimited(ApiError):
    """Too much was asked: 429, or 418 while the address is banned. Nothing was carried out."""

    def __init__(self, status: int, code: int, msg: str, now_ms: int, retry_after_ms: int) -> None:
        super().__init__(status, code, msg, {"serverTime": now_ms, "retryAfter": retry_after_ms})
        self.retry_after_s = max(1, -(-(retry_after_ms - now_ms) // 1000))  # what REST says in Retry-After


class SessionRevoked(ApiError):
    """The key a connection logged on with is no longer valid: answered with id null, and the session ends."""

    def __init__(self) -> None:
        super().__init__(UNAUTHORIZED, -2015, "Invalid API-key, IP, or permissions for action.")


def refused(error: ExchangeError) -> ApiError:
    """A refusal of the matching engine or its filters."""
    return ApiError(400, error.code, error.msg)


# --- 10xx: the request as a whole


def not_authorized() -> ApiError:
    return ApiError(UNAUTHORIZED, -1002, "You are not authorized to execute this request.")


def too_many_orders(limit: int, interval: str, now_ms: int, retry_after_ms: int) -> RateLimited:
    msg = f"Too many new orders; current limit is {limit} orders per {interval}."
    return RateLimited(TOO_MANY, -1015, msg, now_ms, retry_after_ms)


def too_much_weight(limit: int, now_ms: int, retry_after_ms: int) -> RateLimited:
    msg = (
        f"Too much request weight used; current limit is {limit} request weight per 1 MINUTE. "
        "Please use WebSocket Streams for live updates to avoid polling the API."
    )
    return RateLimited(TOO_MANY, -1003, msg, now_ms, retry_after_ms)


def too_many_requests(now_ms: int, retry_after_ms: int) -> RateLimited:
    return RateLimited(TOO_MANY, -1003, "Too many requests queued.", now_ms, retry_after_ms)


def banned(now_ms: int, until_ms: int) -> RateLimited:
    msg = (
        f"Way too much request weight used; IP banned until {until_ms}. "
        "Please use WebSocket Streams for live updates to avoid bans."
    )
    return RateLimited(BANNED, -1003, msg, now_ms, until_ms)


def not_supported() -> ApiError:
    return ApiError(400, -1020, "This operation is not supported.")


def gone() -> ApiError:
    return ApiError(410, -1016, "This service is no longer available.")


def too_late() -> ApiError:
    return ApiError(400, -1021, "Timestamp for this request is outside of the recvWindow.")


def too_early() -> ApiError:
    return ApiError(400, -1021, "Timestamp for this request was 1000ms ahead of the server's time.")


def bad_signature() -> ApiError:
    return ApiError(400, -1022, "Signature for this request is not valid.")


def bad_key_format() -> ApiError:
    return ApiError(UNAUTHORIZED, -2014, "API-key format invalid.")


def bad_key() -> ApiError:
    return ApiError(UNAUTHORIZED, -2015, "Invalid API-key, IP, or permissions for action.")


def key_kind_not_supported(kind: str) -> ApiError:
    return ApiError(400, -4056, f"{kind} API key is not supported.")


# --- 11xx: a parameter


def illegal(name: str, legal: str) -> ApiError:
    return ApiError(400, -1100, f"Illegal characters found in parameter '{name}'; legal range is '{legal}'.")


def too_many_parameters(expected: int, received: int) -> ApiError:
    return ApiError(400, -1101, f"Too many parameters; expected '{expected}' and received '{received}'.")


def duplicate() -> ApiError:
    return ApiError(400, -1101, "Duplicate values for a parameter detected.")


def missing(name: str) -> ApiError:
    return ApiError(400, -1102, f"Mandatory parameter '{name}' was not sent, was empty/null, or malformed.")


def either(one: str, other: str) -> ApiError:
    return ApiError(400, -1102, f"Param '{one}' or '{other}' must be sent, but both were empty/null!")


def too_great(name: str, most: int) -> ApiError:
    return ApiError(400, -1102, f"'{name}' contains unexpected value. Cannot be greater than {most}.")


def unread(read: int, sent: int) -> ApiError:
    return ApiError(400, -1104, f"Not all sent parameters were read; read '{read}' parameter(s) but was sent '{sent}'.")


def empty(name: str) -> ApiError:
    return ApiError(400, -1105, f"Parameter '{name}' was empty.")


def not_required(name: str) -> ApiError:
    return ApiError(400, -1106, f"Parameter '{name}' sent when not required.")


def overflowed(name: str) -> ApiError:
    return ApiError(400, -1108, f"Parameter '{name}' overflowed.")


def too_precise(name: str) -> ApiError:
    return ApiError(400, -1111, f"Parameter '{name}' has too much precision.")


def bad_symbol() -> ApiError:
    return ApiError(400, -1121, "Invalid symbol.")


def bad_interval() -> ApiError:
    return ApiError(400, -1120, "Invalid interval.")


def too_long(hours: int) -> ApiError:
    return ApiError(400, -1127, f"More than {hours} hours between startTime and endTime.")


def bad_combination() -> ApiError:
    return ApiError(400, -1128, "Combination of optional parameters invalid.")


def invalid(name: str) -> ApiError:
    return ApiError(400, -1130, f"Data sent for parameter '{name}' is not valid.")


def bad_ticker_type() -> ApiError:
    return ApiError(400, -1139, "Invalid ticker type.")


def other_status() -> ApiError:
    return ApiError(400, -1220, "The symbol's status does not match the requested symbolStatus.")


def bad_json() -> ApiError:
    return ApiError(400, -1135, "Invalid JSON Request")


def bad_json_parameter(name: str) -> ApiError:
    return ApiError(400, -1135, f"JSON sent for parameter '{name}' is not valid")


def duplicate_symbols() -> ApiError:
    return ApiError(400, -1151, "Symbol is present multiple times in the list.")


def bad_time_unit() -> ApiError:
    return ApiError(400, -1194, "Invalid value for time unit; expected either MICROSECOND or MILLISECOND.")


# An enumeration's own code, where it has one; else -1130.
ENUM_ERRORS = {
    "timeInForce": (-1115, "Invalid timeInForce."),
    "type": (-1116, "Invalid orderType."),
    "side": (-1117, "Invalid side."),
    "symbolStatus": (-1122, "Invalid symbolStatus."),
    "newOrderRespType": (-1136, "Invalid newOrderRespType."),
    "cancelRestrictions": (-1145, "Invalid cancelRestrictions"),
}


def bad_choice(name: str) -> ApiError:
    """A value that is none of an enumeration's. Prefixed names (workingSide, aboveTimeInForce) have its code too."""
    if name in ENUM_ERRORS:
        return ApiError(400, *ENUM_ERRORS[name])
    for ending, (code, msg) in ENUM_ERRORS.items():
        if name.endswith(ending[0].upper() + ending[1:]):
            return ApiError(400, code, msg)
    return invalid(name)
