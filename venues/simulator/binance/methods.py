"""What a method is, and what it is called with, over REST or the WebSocket API alike.

Always true here: a method reads its parameters, asks the exchange, and gives back a document; it knows neither
transport. Its security, weight and parameters stand in its `Method`, in one table (methods_table.py).

    request -> admit (limits) -> names of parameters -> key, freshness, signature -> run -> charge
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from msgspec import Struct

from ..exchange.records import ExchangeError
from . import errors
from .accounts_keys import Key, KeyRing
from .limits import Limits
from .params import Params

if TYPE_CHECKING:
    from ..exchange.exchange import Exchange
    from ..exchange.records import Symbol

# Security types of the official documents.
NONE = "NONE"
USER_STREAM = "USER_STREAM"
USER_DATA = "USER_DATA"
TRADE = "TRADE"

SIGNED_PARAMS = frozenset({"apiKey", "signature", "timestamp", "recvWindow"})
MICROSECOND = 1000
MILLISECOND = 1


class UserStreams(Protocol):
    """Who sends an account's events over a connection of the WebSocket API.

    `session` is the `WsApiSession` that asks; ids are unique on it, and rise from 0.
    """

    def subscribe(self, account: str, session: Any) -> int:
        """Send the account's events over the session's connection from now on; gives the subscription's id."""
        ...

    def unsubscribe(self, session: Any, subscription_id: int | None) -> bool:
        """End one subscription of the session, or with None all; False where there was none of that id."""
        ...

    def subscriptions(self, session: Any) -> list[int]:
        """The ids of the session's subscriptions."""
        ...


class Api:
    """What the requests of all connections share.

    `now_ns` is the clock of the exchange in nanoseconds since 1970; `streams` may be set after construction.
    """

    def __init__(
        self,
        exchange: Exchange,
        keys: KeyRing,
        limits: Limits,
        now_ns: Callable[[], int],
        streams: UserStreams | None = None,
    ) -> None:
        self.exchange = exchange
        self.keys = keys
        self.limits = limits
        self.now_ns = now_ns
        self.streams = streams


class Call:
    """One request, after it was admitted and its sender is known."""

    __slots__ = ("account", "api", "ip", "key", "now_us", "params", "scale", "session")

    def __init__(
        self,
        api: Api,
        params: Params,
        now_us: int,
        scale: int,
        ip: str,
        key: Key | None,
        session: Any = None,
    ) -> None:
        self.api = api
        self.params = params
        self.now_us = now_us
        self.scale = scale  # of times in answers: 1 for milliseconds, 1000 for microseconds
        self.ip = ip
        self.key = key
        self.account = key.account if key is not None else ""
        self.session = session  # the WsApiSession; None over REST

    @property
    def now_ms(self) -> int:
        return self.now_us // 1000

    @property
    def server_time(self) -> int:
        """Now, in the client's unit."""
        return self.now_us if self.scale == MICROSECOND else self.now_us // 1000

    def listed(self, name: str) -> Symbol:
        """A symbol of the exchange; ApiError -1121 for another."""
        found = self.api.exchange.symbols.get(name)
        if found is None:
            raise errors.bad_symbol()
        return found


class Method(Struct, frozen=True, kw_only=True):
    """A method of the API.

    `weight` may depend on the parameters. `free`: a success costs no weight (orders, since 2026-04-02).
    """

    name: str  # of the WebSocket API
    http: tuple[tuple[str, str], ...] = ()  # verb and path, without /api/v3
    run: Callable[[Call], Any]
    weight: int | Callable[[Params], int] = 1
    security: str = NONE
    params: frozenset[str] = frozenset()
    orders: bool = False  # whether its answers tell the counts of placed orders
    free: bool = False

    def weighs(self, params: Params) -> int:
        return self.weight if isinstance(self.weight, int) else self.weight(params)


def named(*names: str) -> frozenset[str]:
    return frozenset(names)


def check_names(method: Method, params: Params, generic: frozenset[str]) -> None:
    """ApiError for a parameter that the method does not know; `generic` are those of the transport."""
    unknown = params.keys() - method.params - generic
    if not unknown:
        return
    sent = len(params.keys() - generic)
    if sent > len(method.params):
        raise errors.too_many_parameters(len(method.params), sent)
    raise errors.unread(sent - len(unknown), sent)


def perform(method: Method, call: Call) -> Any:
    """Run a method; the engine's refusals become the API's."""
    try:
        return method.run(call)
    except ExchangeError as error:
        raise errors.refused(error) from None
