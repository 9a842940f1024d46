"""The one layer that every request passes before it is routed: host, origin, key, rate; and the last word on errors.

Always true here: what is refused here has reached no endpoint; an exception that nobody expected is logged once and
answered with a bare 500.
"""

import math
from collections.abc import Callable, Sequence
from ipaddress import ip_address

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..core.setting_values import ApiKey
from .auth import ALL_SCOPES, RateLimit, find_key, presented_key
from .problems import Problem
from .wire import PROBLEM, Answer, Call, ClientGone, respond

# Headers that decide something must stand once; proxies and servers disagree about which one counts.
SINGLE = (b"host", b"origin", b"authorization", b"x-api-key", b"content-type", b"content-length", b"idempotency-key")
PREFLIGHT_ALLOWS = (
    (b"access-control-allow-methods", b"GET, POST, PATCH, DELETE"),
    (b"access-control-allow-headers", b"authorization, content-type, idempotency-key, prefer, x-api-key"),
    (b"access-control-max-age", b"600"),
)
EXPOSED = (b"access-control-expose-headers", b"location, preference-applied, ratelimit, ratelimit-policy, retry-after")
# Host headers that were found to be good, as they were written.
HOSTS_REMEMBERED_MAX = 64
POLICY_VIOLATION = 1008


class Gate:
    """Wraps the router. `now_s` is a clock that never goes back; `on_error(path, error)` logs what was not expected."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        allowed_hosts: Sequence[str],
        allowed_origins: Sequence[str],
        api_keys: Sequence[ApiKey],
        rate_limit_per_second: int,
        now_s: Callable[[], float],
        on_error: Callable[[str, Exception], None],
    ) -> None:
        self.app = app
        self.hosts = frozenset(host.strip("[]").lower() for host in allowed_hosts)
        self.origins = frozenset(origin.encode() for origin in allowed_origins)
        self.api_keys = tuple(api_keys)
        self.limit = RateLimit(rate_limit_per_second) if rate_limit_per_second > 0 else None
        self.now_s = now_s
        self.on_error = on_error
        self._good_hosts: set[bytes] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        raw = scope["headers"]
        headers = dict(raw)
        call = scope["call"] = Call(scope, headers)
        try:
            self._check(call, headers, raw)
            if scope["type"] == "http" and scope["method"] == "OPTIONS" and b"origin" in headers:
                await respond(send, call, Answer(b"", 204, PREFLIGHT_ALLOWS))
                return
            await self.app(scope, receive, send)
        except ClientGone:
            return
        except Problem as problem:
            await self._refuse(scope, send, call, problem)
        except Exception as error:  # the edge: whatever it is, it is logged once and answered
            self.on_error(scope["path"], error)
            fault = Problem(500, "INTERNAL", "a fault of the service; it has been logged")
            await self._refuse(scope, send, call, fault)

    def _check(self, call: Call, headers: dict[bytes, bytes], raw: list[tuple[bytes, bytes]]) -> None:
        if len(headers) != len(raw):
            names = [name for name, _ in raw]
            for name in SINGLE:
                if names.count(name) > 1:
                    raise Problem(400, "BAD_REQUEST", f"the header {name.decode()} stands more than once")
        host = headers.get(b"host", b"")
        if host not in self._good_hosts:
            self._check_host(host)
        origin = headers.get(b"origin")
        if origin is not None:
            self._check_origin(call, origin, host)
        if self.api_keys:
            self._authenticate(call, headers)
        else:
            call.scopes = ALL_SCOPES
        if self.limit is not None:
            self._take(self.limit, call)

    def _check_host(self, host: bytes) -> None:
        """A page whose name was rebound to this address sends its own name as Host."""
        name = host_name(host)
        if name is None or name not in self.hosts:
            shown = host.decode("latin-1")[:100]
            raise Problem(
                403, "HOST_NOT_ALLOWED", f"Host {shown!r} is none of ALLOWED_HOSTS; add it there if it is yours"
            )
        if len(self._good_hosts) < HOSTS_REMEMBERED_MAX:
            self._good_hosts.add(host)

    def _check_origin(self, call: Call, origin: bytes, host: bytes) -> None:
        origin = origin.lower()
        if origin in (b"http://" + host.lower(), b"https://" + host.lower()):
            return
        if origin not in self.origins:
            shown = origin.decode("latin-1")[:100]
            detail = f"Origin {shown!r} is none of ALLOWED_ORIGINS; add it there if it is yours"
            raise Problem(403, "ORIGIN_NOT_ALLOWED", detail)
        call.extra += ((b"access-control-allow-origin", origin), (b"vary", b"origin"), EXPOSED)

    def _authenticate(self, call: Call, headers: dict[bytes, bytes]) -> None:
        key = presented_key(headers.get(b"authorization", b""), headers.get(b"x-api-key", b""))
        known = find_key(self.api_keys, key) if key is not None else None
        if known is not None:
            call.key_name, call.scopes = known.name, known.scopes
            return
        detail = "send the API key as Authorization: Bearer KEY or X-API-Key: KEY"
        if key is not None:
            detail = "the API key is not known"
        call.refused = Problem(401, "UNAUTHORIZED", detail, headers=[(b"www-authenticate", b'Bearer realm="tbx"')])

    def _take(self, limit: RateLimit, call: Call) -> None:
        client = call.scope.get("client")
        caller = f"key {call.key_name}" if call.key_name else f"address {client[0] if client else ''}"
        allowed, left, wait_s = limit.take(caller, self.now_s())
        reset = math.ceil(wait_s)
        call.extra += ((b"ratelimit-policy", limit.policy), (b"ratelimit", b'"default";r=%d;t=%d' % (left, reset)))
        if not allowed:
            detail = f"more than {limit.per_second} requests a second; wait {wait_s:.3f} s"
            raise Problem(429, "RATE_LIMITED", detail, headers=[(b"retry-after", b"%d" % max(1, reset))])

    async def _refuse(self, scope: Scope, send: Send, call: Call, problem: Problem) -> None:
        if call.answered:
            return  # the answer is on its way already; nothing can be added to it
        if scope["type"] == "websocket":
            call.answered = True
            await send(_closing(problem))
            return
        body = problem.encode(scope["path"])
        await respond(send, call, Answer(body, problem.status, problem.headers, PROBLEM))


def _closing(problem: Problem) -> Message:
    """Before the handshake a close is answered by the server as 403; the reason stays on this side."""
    return {"type": "websocket.close", "code": POLICY_VIOLATION, "reason": problem.code}


def host_name(host: bytes) -> str | None:
    """The name in a Host header, without port and brackets, in lower case; None where it is not one."""
    text = host.decode("latin-1").lower()
    if text.startswith("["):
        name, closed, port = text[1:].partition("]")
        try:
            name = str(ip_address(name))
        except ValueError:
            return None
        port = port.removeprefix(":") if port.startswith(":") else port and "?"
        return name if closed and (not port or port.isdigit()) else None
    name, _, port = text.partition(":")
    return name if name and (not port or port.isdigit()) else None
