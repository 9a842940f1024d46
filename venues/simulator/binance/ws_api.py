"""One connection of the WebSocket API: requests in, replies out, without the socket.

    {"id":1,"method":"order.place","params":{"symbol":"BTCUSDT","side":"BUY","type":"LIMIT","timeInForce":"GTC",
     "price":"60000.00","quantity":"0.01","timestamp":1790000000000}}
    -> {"id":1,"status":200,"result":{...},"rateLimits":[...]}

Always true here: each request has exactly one reply, in the order of the requests, with its id as it was sent (an
integer, a string or null); what is not a request is answered too, and ends nothing. A request is carried out by the key
it names and signs with, else by the one the connection logged on with.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl

import msgspec

from . import auth, errors
from .accounts_keys import Key
from .methods import (
    MICROSECOND,
    MILLISECOND,
    NONE,
    SIGNED_PARAMS,
    TRADE,
    USER_STREAM,
    Api,
    Call,
    Method,
    check_names,
    perform,
)
from .methods_table import BY_NAME
from .params import boolean, text_of

CONNECT_WEIGHT = 2
TIME_UNITS = {
    "MICROSECOND": MICROSECOND,
    "microsecond": MICROSECOND,
    "MILLISECOND": MILLISECOND,
    "millisecond": MILLISECOND,
}
UNSIGNED_GENERIC = frozenset({"returnRateLimits"})
SIGNED_GENERIC = SIGNED_PARAMS | UNSIGNED_GENERIC


class Request(msgspec.Struct):
    """A frame of a client. Unknown members are passed over."""

    method: str
    id: int | str | None = None
    params: dict[str, Any] | None = None


# Floats stay the text they were sent as: that is what was signed, and money is no float.
_decode = msgspec.json.Decoder(Request, float_hook=str).decode
_encode = msgspec.json.Encoder().encode


class WsApiSession:
    """A connection. `query` is that of its URL (`returnRateLimits=false&timeUnit=MICROSECOND`).

    ApiError from the constructor: the connection is refused (a time unit that is none).
    """

    def __init__(self, api: Api, query: str = "", ip: str = "127.0.0.1") -> None:
        self.api = api
        self.ip = ip
        options = dict(parse_qsl(query))
        scale = TIME_UNITS.get(options.get("timeUnit", "MILLISECOND"))
        if scale is None:
            raise errors.bad_time_unit()
        self.scale = scale
        self.return_rate_limits = options.get("returnRateLimits", "true").lower() != "false"
        self.connected_us = api.now_ns() // 1000
        self.authorized_us = 0
        self.key: Key | None = None  # that it logged on with
        self._address = api.limits.address(ip)
        api.limits.charge(self._address, CONNECT_WEIGHT, self.connected_us // 1000)

    def log_on(self, key: Key, now_us: int) -> None:
        """Requests without a key of their own are this key's from now on."""
        self.key = key
        self.authorized_us = now_us

    def log_out(self) -> None:
        self.key = None
        self.authorized_us = 0

    def receive(self, raw: bytes, came_us: int | None = None) -> list[bytes]:
        """Carry out one text frame; the frames to send back, in order. `came_us` is when it came, if not now."""
        try:
            request = _decode(raw)
            sent = request.params or {}
            params = {name: value if type(value) is str else text_of(value) for name, value in sent.items()}
        except errors.NOT_JSON:
            return [self._refuse_frame(raw)]
        now_us = self.api.now_ns() // 1000
        came_us = now_us if came_us is None else came_us
        return [self._answer(request.id, BY_NAME.get(request.method), params, now_us, came_us)]

    def _answer(
        self, request_id: int | str | None, method: Method | None, params: dict[str, str], now_us: int, came_us: int
    ) -> bytes:
        api, address, now_ms = self.api, self._address, now_us // 1000
        show, account, weight = self.return_rate_limits, None, 1
        head = b'{"id":' + _encode(request_id)
        try:
            if method is None:
                api.limits.admit(address, weight, now_ms)
                raise errors.not_supported()
            weight = method.weighs(params)
            api.limits.admit(address, weight, now_ms)
            if "returnRateLimits" in params:
                show = boolean(params, "returnRateLimits") is True
            signed = method.security not in (NONE, USER_STREAM)
            check_names(method, params, SIGNED_GENERIC if signed else UNSIGNED_GENERIC)
            key = self._sender(method, params, came_us) if signed else None
            call = Call(api, params, now_us, self.scale, self.ip, key, self)
            if method.orders:
                account = call.account
            result = perform(method, call)
            body = b',"status":200,"result":' + _encode(result)
            if method.free:
                weight = 0
        except errors.RateLimited as error:
            body, weight = _failed(error), 0
        except errors.SessionRevoked as error:
            head, body = b'{"id":null', _failed(error)
            self.log_out()
        except errors.ApiError as error:
            body = _failed(error)
        if weight:
            api.limits.charge(address, weight, now_ms)
        if show:
            return head + body + b',"rateLimits":' + api.limits.encoded(address, account, now_ms) + b"}"
        return head + body + b"}"

    def _sender(self, method: Method, params: dict[str, str], came_us: int) -> Key:
        """Whose request it is; ApiError unless it is signed, fresh and permitted."""
        own = self.key
        if own is not None and "signature" not in params and params.get("apiKey", own.api_key) == own.api_key:
            if not own.allows(self.ip):
                raise errors.SessionRevoked()
            auth.check_fresh(params, came_us)
            key = own
        else:
            key = signer(self.api, params, params.get("apiKey") or (own.api_key if own else ""), self.ip, came_us)
            if not auth.verify(key, auth.ws_payload(params), params["signature"]):
                raise errors.bad_signature()
        if method.security == TRADE and not key.trade:
            raise errors.bad_key()
        return key

    def _refuse_frame(self, raw: bytes) -> bytes:
        """The answer to what is no request."""
        now_ms = self.api.now_ns() // 1_000_000
        error: errors.ApiError = errors.bad_json()
        request_id: int | str | None = None
        try:
            found = msgspec.json.decode(raw)
            if isinstance(found, dict):
                said = found.get("id")
                request_id = said if isinstance(said, int | str) and not isinstance(said, bool) else None
                error = _what_is_wrong(found)
            self.api.limits.admit(self._address, 1, now_ms)
            self.api.limits.charge(self._address, 1, now_ms)
        except errors.RateLimited as limited:
            error = limited
        except errors.NOT_JSON:
            self.api.limits.charge(self._address, 1, now_ms)
        return b'{"id":' + _encode(request_id) + _failed(error) + b"}"


def signer(api: Api, params: dict[str, str], api_key: str, ip: str, now_us: int) -> Key:
    """The key that a request says it is signed with, after all that can be checked before the signature."""
    if not api_key:
        raise errors.missing("apiKey")
    auth.check_format(api_key)
    if not params.get("timestamp"):
        raise errors.missing("timestamp")
    if not params.get("signature"):
        raise errors.missing("signature")
    key = api.keys.find(api_key)
    if key is None or not key.allows(ip):
        raise errors.bad_key()
    auth.check_fresh(params, now_us)
    return key


def _what_is_wrong(found: dict[str, Any]) -> errors.ApiError:
    said = found.get("id")
    if isinstance(said, bool | float | list | dict):
        return errors.invalid("id")
    if not isinstance(found.get("method"), str):
        return errors.missing("method")
    return errors.invalid("params")


def _failed(error: errors.ApiError) -> bytes:
    return b',"status":' + str(error.status).encode() + b',"error":' + _encode(error.document())
