"""Between ASGI and the endpoints: what a request brings, how a body is read, how an answer leaves.

Always true here: an answer leaves through `respond`, once, with the security headers; a body is never held beyond
BODY_MAX.
"""

from collections.abc import Sequence
from typing import Any

from starlette.types import Receive, Scope, Send

from .problems import Problem

Header = tuple[bytes, bytes]

BODY_MAX = 64 * 1024
# What is still read of a body that is too long, so that the sender sees the answer; beyond it the connection is closed.
DRAIN_MAX = 1024 * 1024

# Of a page; an answer in JSON, which no browser renders, needs only the first three.
SECURITY: tuple[Header, ...] = (
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
)
API_SECURITY = SECURITY[:3]
JSON: tuple[Header, ...] = ((b"content-type", b"application/json"), *API_SECURITY)
PROBLEM: tuple[Header, ...] = ((b"content-type", b"application/problem+json"), *API_SECURITY)


class ClientGone(Exception):
    """The caller hung up before its request was whole."""


class Call:
    """One request as the endpoints see it; the gate makes it."""

    __slots__ = ("answered", "extra", "headers", "key_name", "refused", "scope", "scopes")

    def __init__(self, scope: Scope, headers: dict[bytes, bytes]) -> None:
        self.scope = scope
        self.headers = headers
        self.extra: list[Header] = []  # of the answer
        self.key_name = ""
        self.scopes: frozenset[str] = frozenset()
        self.refused: Problem | None = None  # why there are no scopes
        self.answered = False

    def need(self, scope: str) -> None:
        """Raises 401 or 403 where the caller lacks the scope."""
        if scope in self.scopes:
            return
        if self.refused is not None:
            raise self.refused
        raise Problem(403, "FORBIDDEN", f"the key {self.key_name!r} has no scope {scope!r}; use one that has it")

    @property
    def params(self) -> dict[str, str]:
        """Parts of the path."""
        return self.scope["path_params"]  # type: ignore[no-any-return]


class Answer:
    """What an endpoint answers."""

    __slots__ = ("body", "content", "headers", "status")

    def __init__(
        self, body: bytes, status: int = 200, headers: Sequence[Header] = (), content: tuple[Header, ...] = JSON
    ) -> None:
        self.body = body
        self.status = status
        self.headers = headers
        self.content = content


async def respond(send: Send, call: Call, answer: Answer) -> None:
    """Send the answer with its fixed headers and those that the gate added."""
    call.answered = True
    body = answer.body
    headers = [(b"content-length", b"%d" % len(body)), *answer.content, *call.extra, *answer.headers]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def read_body(receive: Receive, call: Call) -> bytes:
    """The whole body; raises Problem 413 beyond BODY_MAX, 415 for a body that is not declared as JSON."""
    message: Any = await receive()
    body: bytes = message.get("body", b"")
    if message.get("more_body", False) or len(body) > BODY_MAX:
        body = await _read_on(receive, message, body)
    elif message["type"] == "http.disconnect":
        raise ClientGone
    if body:
        check_content(call.headers.get(b"content-type", b""))
    return body


async def _read_on(receive: Receive, message: Any, body: bytes) -> bytes:
    parts, size = [body], len(body)
    while message.get("more_body", False) and size <= DRAIN_MAX:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        part = message.get("body", b"")
        size += len(part)
        if size <= BODY_MAX:
            parts.append(part)
    if size > BODY_MAX:
        detail = f"the body is over {BODY_MAX} bytes"
        raise Problem(413, "BODY_TOO_LARGE", detail, headers=[(b"connection", b"close")])
    return b"".join(parts)


def check_content(content_type: bytes) -> None:
    """A web page can post forms and text across sites, but not JSON: so JSON has to be declared."""
    if content_type == b"application/json":
        return
    kind, _, parameters = content_type.lower().partition(b";")
    kind = kind.strip()
    charset = parameters.replace(b" ", b"").replace(b'"', b"")
    if (kind == b"application/json" or (kind.startswith(b"application/") and kind.endswith(b"+json"))) and (
        not charset.startswith(b"charset=") or charset == b"charset=utf-8"
    ):
        return
    shown = kind.decode("latin-1")[:60] or "none"
    raise Problem(415, "NOT_JSON_CONTENT", f"Content-Type is {shown!r}; send application/json in UTF-8")
