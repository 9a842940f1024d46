"""Frames of the WebSocket API, and the control frames of market streams, as typed structs.

Always true here: bytes in, a struct out, or Nonsense that names what was wrong; no other exception, no guess. Types
are those that the protocol documents: a number where text is documented is Nonsense, for text is how Binance keeps
money exact. Fields that nobody here reads are skipped, so that new ones do no harm. Source: web-socket-api.md and
user-data-stream.md in binance-spot-api-docs.

    {"id":7,"status":200,"result":{...},"rateLimits":[{"rateLimitType":"ORDERS","interval":"SECOND",...}]}
    {"id":7,"status":400,"error":{"code":-2010,"msg":"Account has insufficient balance for requested action."}}
    {"subscriptionId":0,"event":{"e":"executionReport","s":"ETHBTC","c":"mUvoqJxFIILMdfAW5iGSOW","x":"NEW",...}}
"""

import re
from collections.abc import Callable
from typing import Any, Final, Literal, TypeVar

import msgspec
from msgspec import Raw, Struct, field

from ...core.kernel.clock import SECOND_NS
from ...core.model.errors import Nonsense

FRAME_BYTES_MAX: Final = 32 << 20  # the whole exchangeInfo takes about 15 MB; nothing else comes near
NONSENSE_SHOWN: Final = 200  # characters of an explanation; frames may be large, and logs are read by people
# Keys and HMAC signatures have 64 characters, Ed25519 signatures 88, our longest id 36. One that begins where the
# explanation ends has to be seen as one, so more is looked at than is shown.
KEY_LENGTH_MIN: Final = 40
KEY_SHOWN: Final = 4
NONSENSE_LOOKED_AT: Final = NONSENSE_SHOWN + 2 * KEY_LENGTH_MIN
_KEY_LIKE: Final = re.compile(rf"[A-Za-z0-9+/]{{{KEY_LENGTH_MIN},}}={{0,2}}")

Side = Literal["BUY", "SELL"]
OrderStatus = Literal[
    "NEW",
    "PENDING_NEW",
    "PARTIALLY_FILLED",
    "FILLED",
    "CANCELED",
    "PENDING_CANCEL",
    "REJECTED",
    "EXPIRED",
    "EXPIRED_IN_MATCH",
]
# Of an order that will not trade any more.
ENDED: Final = frozenset({"FILLED", "CANCELED", "REJECTED", "EXPIRED", "EXPIRED_IN_MATCH"})
ExecutionKind = Literal["NEW", "CANCELED", "REPLACED", "REJECTED", "TRADE", "EXPIRED", "TRADE_PREVENTION"]

_INTERVAL_NS: Final = {
    "SECOND": SECOND_NS,
    "MINUTE": 60 * SECOND_NS,
    "HOUR": 3600 * SECOND_NS,
    "DAY": 86400 * SECOND_NS,
}


ABSENT: Final = Raw()  # in place of raw JSON that is not there: no JSON text is empty


class RateLimit(Struct, frozen=True, rename="camel", gc=False):
    """One budget: `count` of it is used up in the present interval. exchangeInfo gives the same without a count."""

    rate_limit_type: str  # REQUEST_WEIGHT, ORDERS, RAW_REQUESTS, CONNECTIONS
    interval: Literal["SECOND", "MINUTE", "HOUR", "DAY"]
    interval_num: int
    limit: int
    count: int = 0

    @property
    def interval_ns(self) -> int:
        return _INTERVAL_NS[self.interval] * self.interval_num


class ApiFault(Struct, frozen=True, gc=False):
    """Binance's error: of a reply's `error`, a REST answer, or one half of a cancel-replace."""

    code: int
    msg: str
    data: Raw = ABSENT

    @property
    def retry_after_ms(self) -> int | None:
        """UTC milliseconds before which nothing should be sent (429 and 418), where the error says so."""
        try:
            return msgspec.json.decode(self.data, type=_RetryAfter).retry_after
        except msgspec.MsgspecError:
            return None  # none, or other data: those of a cancel-replace


class _RetryAfter(Struct, rename="camel"):
    retry_after: int | None = None


class Reply(Struct, frozen=True, gc=False):
    """The answer to a request. `id` is None where the request's could not be read, or nobody asked (a revoked key)."""

    id: int | str | None
    status: int
    result: Raw = ABSENT
    error: ApiFault | None = None
    limits: tuple[RateLimit, ...] = ()


class ExecutionReport(Struct, frozen=True, kw_only=True, gc=False, tag_field="e", tag="executionReport"):
    """Something happened to an order of the account. Amounts are decimal text as sent."""

    symbol: str = field(name="s")
    client_id: str = field(name="c")  # on CANCELED that of the cancel, where it had one
    original_client_id: str = field(name="C")  # of the order that was cancelled or amended; else ""
    side: Side = field(name="S")
    order_type: str = field(name="o")
    tif: str = field(name="f")
    quantity: str = field(name="q")
    price: str = field(name="p")
    list_id: int = field(name="g")  # -1: part of no list
    kind: ExecutionKind = field(name="x")
    status: OrderStatus = field(name="X")
    reject_reason: str = field(name="r")  # NONE, or a word
    order_id: int = field(name="i")
    last_quantity: str = field(name="l")
    filled: str = field(name="z")
    last_price: str = field(name="L")
    fee: str = field(name="n")
    fee_currency: str | None = field(name="N")
    time_ms: int = field(name="T")
    trade_id: int = field(name="t")  # -1: no trade
    execution_id: int = field(name="I")
    maker: bool = field(name="m")
    allocation_id: int | None = field(name="a", default=None)  # instead of a trade id, for orders routed by SOR
    prevented: str | None = field(name="A", default=None)  # quantity lost to self-trade prevention in all
    expiry_reason: str | int | None = field(name="eR", default=None)


class AssetBalance(Struct, frozen=True, gc=False):
    """What the account holds of an asset."""

    asset: str = field(name="a")
    free: str = field(name="f")
    locked: str = field(name="l")


class AccountPosition(Struct, frozen=True, kw_only=True, gc=False, tag_field="e", tag="outboundAccountPosition"):
    """The balances that an event may have changed, as they are now."""

    time_ms: int = field(name="E")
    updated_ms: int = field(name="u")
    balances: tuple[AssetBalance, ...] = field(name="B")


class BalanceUpdate(Struct, frozen=True, kw_only=True, gc=False, tag_field="e", tag="balanceUpdate"):
    """A deposit, a withdrawal or a transfer: `change` came (positive) or went."""

    asset: str = field(name="a")
    change: str = field(name="d")
    time_ms: int = field(name="T")


class ListedOrder(Struct, frozen=True, gc=False):
    """One order of a list."""

    symbol: str = field(name="s")
    order_id: int = field(name="i")
    client_id: str = field(name="c")


class ListStatus(Struct, frozen=True, kw_only=True, gc=False, tag_field="e", tag="listStatus"):
    """An order list changed."""

    symbol: str = field(name="s")
    list_id: int = field(name="g")
    contingency: str = field(name="c")
    status_type: str = field(name="l")
    order_status: str = field(name="L")
    reject_reason: str = field(name="r")
    list_client_id: str = field(name="C")
    time_ms: int = field(name="T")
    orders: tuple[ListedOrder, ...] = field(name="O")


class ServerShutdown(Struct, frozen=True, gc=False, tag_field="e", tag="serverShutdown"):
    """This connection ends soon: connect anew at once."""

    time_ms: int = field(name="E")


class StreamTerminated(Struct, frozen=True, gc=False, tag_field="e", tag="eventStreamTerminated"):
    """No more account events on this connection: logged out, unsubscribed, or the key was revoked."""

    time_ms: int = field(name="E")


class ExternalLock(Struct, frozen=True, kw_only=True, gc=False, tag_field="e", tag="externalLockUpdate"):
    """Part of the spot balance is locked (positive) or set free by another Binance system, such as collateral."""

    asset: str = field(name="a")
    change: str = field(name="d")
    time_ms: int = field(name="T")


class NotOurs(Struct, frozen=True, gc=False):
    """A documented frame that nobody here uses."""

    name: str


AccountEvent = (
    ExecutionReport | AccountPosition | BalanceUpdate | ListStatus | ServerShutdown | StreamTerminated | ExternalLock
)
Message = Reply | AccountEvent | NotOurs


class _Frame(Struct, gc=False):
    """Both kinds of frame at once, so that a frame is read in one pass."""

    event: AccountEvent | None = None
    id: int | str | None = None
    status: int | None = None
    result: Raw = ABSENT
    error: ApiFault | None = None
    rate_limits: tuple[RateLimit, ...] = field(name="rateLimits", default=())
    subscription_id: int | None = field(name="subscriptionId", default=None)


class _Named(Struct, gc=False):
    """Only what an event calls itself."""

    e: str


class _NamedFrame(Struct, gc=False):
    event: _Named


# Events that binance-spot-api-docs lists or listed for user data, and that say nothing about orders or money here.
NOT_OURS: Final = frozenset({"listenKeyExpired"})

_decode_frame: Callable[[bytes], _Frame] = msgspec.json.Decoder(_Frame).decode
_decode_name: Callable[[bytes], _NamedFrame] = msgspec.json.Decoder(_NamedFrame).decode

# All that msgspec raises on bytes from outside: its own errors, text that is not UTF-8, and nesting without end.
_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


def decode(raw: bytes) -> Message:
    """One text frame of a WebSocket API connection. Raises Nonsense."""
    if len(raw) > FRAME_BYTES_MAX:
        raise Nonsense(f"a frame of {len(raw)} bytes: at most {FRAME_BYTES_MAX} are read")
    try:
        frame = _decode_frame(raw)
    except _UNREADABLE as error:
        return _unused(raw, error)
    event = frame.event
    if event is not None:
        return event
    status = frame.status
    if status is None:
        raise Nonsense("neither a reply (status) nor an event: " + _start_of(raw))
    if not 100 <= status <= 599:
        raise Nonsense(f"a reply with status {status}: " + _start_of(raw))
    if frame.error is None and not 200 <= status <= 299:
        raise Nonsense(f"a reply with status {status} and no error: " + _start_of(raw))
    if frame.error is not None and frame.result is not ABSENT:
        raise Nonsense("a reply with both a result and an error: " + _start_of(raw))
    return Reply(frame.id, status, frame.result, frame.error, frame.rate_limits)


def _unused(raw: bytes, error: Exception) -> NotOurs:
    """A frame that did not decode is either an event that nobody uses, or Nonsense."""
    try:
        name = _decode_name(raw).event.e
    except _UNREADABLE:
        raise nonsense("a frame", error, raw) from None
    if name in NOT_OURS:
        return NotOurs(name)
    if name not in _EVENT_NAMES:
        raise Nonsense(f"an event of unknown kind {one_line(name)!r}: " + _start_of(raw)) from None
    raise nonsense(name, error, raw) from None


_EVENT_NAMES: Final = frozenset(
    {
        "executionReport",
        "outboundAccountPosition",
        "balanceUpdate",
        "listStatus",
        "serverShutdown",
        "eventStreamTerminated",
        "externalLockUpdate",
    }
)


# --- market streams: what is not market data -----------------------------------------------------------------------


class StreamReply(Struct, frozen=True, gc=False):
    """The answer to SUBSCRIBE, UNSUBSCRIBE and their like. `result` is raw JSON, `null` where all went well."""

    id: int | str | None
    result: Raw = ABSENT
    error: ApiFault | None = None


class _StreamFrame(Struct, gc=False):
    e: str | None = None
    time_ms: int | None = field(name="E", default=None)
    stream: str | None = None
    data: Raw = ABSENT
    id: int | str | None = None
    result: Raw = ABSENT
    error: ApiFault | None = None
    code: int | None = None
    msg: str | None = None


_decode_stream: Callable[[bytes], _StreamFrame] = msgspec.json.Decoder(_StreamFrame).decode
_decode_shutdown: Callable[[Raw], ServerShutdown] = msgspec.json.Decoder(ServerShutdown).decode


def decode_stream_control(raw: bytes) -> StreamReply | ServerShutdown | NotOurs:
    """A frame of a market stream connection that may not be market data; NotOurs names one that is. Raises Nonsense.

    {"result":null,"id":1}
    {"error":{"code":2,"msg":"Invalid request: ..."},"id":1}  or, as it was once,  {"code":2,"msg":"..."}
    {"e":"serverShutdown","E":1770123456789}  or combined  {"stream":"!serverShutdown","data":{...}}
    """
    try:
        frame = _decode_stream(raw)
        if frame.stream == "!serverShutdown":
            return _decode_shutdown(frame.data)
    except _UNREADABLE as error:
        raise nonsense("a stream's frame", error, raw) from None
    if frame.e == "serverShutdown":
        if frame.time_ms is None:
            raise Nonsense("a serverShutdown without its time: " + _start_of(raw))
        return ServerShutdown(frame.time_ms)
    if frame.stream is not None or frame.e is not None:
        return NotOurs(frame.stream or frame.e or "")
    if frame.error is not None:
        return StreamReply(frame.id, ABSENT, frame.error)
    if frame.code is not None:
        return StreamReply(frame.id, ABSENT, ApiFault(frame.code, frame.msg or ""))
    if frame.result is not ABSENT:
        return StreamReply(frame.id, frame.result)
    raise Nonsense("neither an answer nor an event of a stream: " + _start_of(raw))


# --- explanations --------------------------------------------------------------------------------------------------

_T = TypeVar("_T")
Read = Callable[[Raw | bytes | None], _T]


def reader(what: str, shape: Any) -> Read[Any]:
    """A function that reads raw JSON as `shape`; what does not fit is Nonsense about `what`."""
    read = msgspec.json.Decoder(shape).decode

    def decode_as(raw: Raw | bytes | None) -> Any:
        if raw is None or raw is ABSENT:
            raise Nonsense(f"{what}: the reply has no result")
        try:
            return read(raw)
        except _UNREADABLE as error:
            raise nonsense(what, error, bytes(raw)) from None

    return decode_as


def nonsense(what: str, error: Exception, raw: bytes) -> Nonsense:
    """What was wrong with some bytes, for the log."""
    if isinstance(error, RecursionError):
        detail = "it is nested too deeply"
    elif isinstance(error, UnicodeDecodeError):
        detail = "it is not UTF-8"
    else:
        detail = str(error).replace("`$.event.", "`").replace("`$.", "`")
    return Nonsense(f"{what}: {one_line(detail)}: {_start_of(raw)}")


def _start_of(raw: bytes) -> str:
    return one_line(bytes(raw[:NONSENSE_LOOKED_AT]).decode("utf-8", "backslashreplace"))


def one_line(text: str) -> str:
    """One printable line of bounded length, whatever the exchange wrote: fit for a log, an answer, an error."""
    line = masked("".join(c if c.isprintable() else "?" for c in text[:NONSENSE_LOOKED_AT]))
    return line if len(line) <= NONSENSE_SHOWN else line[:NONSENSE_SHOWN] + "..."


def masked(text: str) -> str:
    """A text without API keys, secrets and signatures: of what is as long as one, only the beginning is left."""
    return _KEY_LIKE.sub(lambda found: found[0][:KEY_SHOWN] + "...", text)
