"""The REST API, without the socket: verb, path, query, body and headers in, status, headers and body out.

Always true here: parameters may stand in the query or in a form body; what is signed is the query followed by the body,
as they were sent. Every answer of a method tells the weight that the address used in this minute, answers to orders
also the counts of placed orders.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import unquote_plus

import msgspec

from . import auth, errors
from .accounts_keys import Key
from .methods import NONE, SIGNED_PARAMS, TRADE, USER_STREAM, Api, Call, Method, check_names, perform
from .methods_table import BY_PATH, REST_PREFIX
from .ws_api import TIME_UNITS, signer

Answer = tuple[int, list[tuple[str, str]], bytes]

JSON_TYPE = ("content-type", "application/json;charset=UTF-8")
HTML_TYPE = ("content-type", "text/html")
NOT_FOUND = b"<html><body><h2>404 Not found</h2></body></html>"
GONE_PATHS = frozenset({f"{REST_PREFIX}/userDataStream"})
GENERIC = SIGNED_PARAMS - {"apiKey"}
NO_NAMES: frozenset[str] = frozenset()

_encode = msgspec.json.Encoder().encode


class RestApi:
    """The paths below /api/v3."""

    def __init__(self, api: Api) -> None:
        self.api = api

    def handle(
        self,
        method: str,
        path: str,
        query: bytes,
        body: bytes,
        headers: Mapping[str, str],
        ip: str = "127.0.0.1",
        came_us: int | None = None,
    ) -> Answer:
        """Carry out one request. Names of `headers` are in lower case. `came_us` is when it came, if not now."""
        now_us = self.api.now_ns() // 1000
        came_us = now_us if came_us is None else came_us
        limits, address, now_ms = self.api.limits, self.api.limits.address(ip), now_us // 1000
        methods = BY_PATH.get(path)
        found = methods.get(method) if methods is not None else None
        weight, key = 1, None
        extra: list[tuple[str, str]] = []
        try:
            if found is None:
                limits.admit(address, weight, now_ms)
                limits.charge(address, weight, now_ms)
                return _no_such(method, path)
            params = parameters(query, body)
            weight = found.weighs(params)
            limits.admit(address, weight, now_ms)
            signed = found.security not in (NONE, USER_STREAM)
            check_names(found, params, GENERIC if signed else NO_NAMES)
            key = self._sender(found, params, query, body, headers, ip, came_us) if signed else None
            call = Call(self.api, params, now_us, _scale(headers), ip, key)
            status, document = 200, perform(found, call)
            if found.free:
                weight = 0
        except errors.RateLimited as error:
            status, document, weight = error.status, {"code": error.code, "msg": error.msg}, 0
            extra.append(("retry-after", str(error.retry_after_s)))
        except errors.ApiError as error:
            status, document = error.status, error.document()
        if weight:
            limits.charge(address, weight, now_ms)
        return status, [JSON_TYPE, *self._counts(found, key, ip, now_ms), *extra], _encode(document)

    def _sender(
        self,
        method: Method,
        params: dict[str, str],
        query: bytes,
        body: bytes,
        headers: Mapping[str, str],
        ip: str,
        came_us: int,
    ) -> Key:
        """Whose request it is; ApiError unless it is signed, fresh and permitted."""
        api_key = headers.get("x-mbx-apikey", "")
        auth.check_format(api_key)
        key = signer(self.api, params, api_key, ip, came_us)
        payload, signature = auth.rest_payload(query, body)
        if not auth.verify(key, payload, signature or ""):
            raise errors.bad_signature()
        if method.security == TRADE and not key.trade:
            raise errors.bad_key()
        return key

    def _counts(self, method: Method | None, key: Key | None, ip: str, now_ms: int) -> list[tuple[str, str]]:
        limits = self.api.limits
        used = str(limits.address(ip).weight.at(now_ms))
        headers = [("x-mbx-used-weight", used), ("x-mbx-used-weight-1m", used)]
        if method is not None and method.orders and key is not None:
            ten_seconds, day = limits.order_counts(key.account, now_ms)
            headers.append(("x-mbx-order-count-10s", str(ten_seconds["count"])))
            headers.append(("x-mbx-order-count-1d", str(day["count"])))
        return headers


def _no_such(method: str, path: str) -> Answer:
    """A path that is not there (any more), or not with that verb."""
    if path in GONE_PATHS:
        return 410, [JSON_TYPE], _encode(errors.gone().document())
    allowed = BY_PATH.get(path)
    if allowed is None:
        return 404, [HTML_TYPE], NOT_FOUND
    document = {"code": -1020, "msg": f"Request method '{method}' is not supported."}
    return 405, [JSON_TYPE, ("allow", ", ".join(sorted(allowed)))], _encode(document)


def parameters(query: bytes, body: bytes) -> dict[str, str]:
    """The parameters of query and body; ApiError for one that is sent twice in the same place.

    One that stands in both counts as in the query.
    """
    params: dict[str, str] = {}
    for part in (body, query):
        seen: dict[str, str] = {}
        for pair in part.split(b"&"):
            if pair:
                name, _, value = pair.partition(b"=")
                text = unquote_plus(name.decode("latin-1"))
                if text in seen:
                    raise errors.duplicate()
                # A signature in base64 has plus signs; a client that left them as they are means them.
                seen[text] = unquote_plus(value.decode("latin-1"))
        params.update(seen)
    return params


def _scale(headers: Mapping[str, str]) -> int:
    scale = TIME_UNITS.get(headers.get("x-mbx-time-unit", "MILLISECOND"))
    if scale is None:
        raise errors.bad_time_unit()
    return scale
