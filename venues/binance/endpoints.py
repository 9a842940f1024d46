"""Where Binance spot is reached: live, testnet, demo, the keyless market data hosts, or any other server.

Always true here: a base address has no trailing slash, REST is http(s) and ends before `/api`, the WebSocket API's is
complete with its path, and the streams' ends before `/ws` and `/stream`. Source: "General API Information" of
rest-api.md, web-socket-api.md and web-socket-streams.md, and faqs/market_data_only.md, in binance-spot-api-docs.
"""

from urllib.parse import urlsplit

import msgspec

from ...core.model.errors import SettingsError
from ...core.settings import Settings


class Endpoints(msgspec.Struct, frozen=True, kw_only=True):
    """Base addresses. `ws_api` is empty where only public market data is offered."""

    rest: str  # + /api/v3/...
    ws_api: str
    stream: str  # + /ws/<name>, /stream?streams=a/b

    def public(self) -> "Endpoints":
        """Market data without a key: hosts of its own for the live exchange, the same ones elsewhere."""
        return PUBLIC if self == ENVIRONMENTS["live"] else self


ENVIRONMENTS = {
    "live": Endpoints(
        rest="https://api.binance.com",
        ws_api="wss://ws-api.binance.com:443/ws-api/v3",
        stream="wss://stream.binance.com:9443",
    ),
    "testnet": Endpoints(
        rest="https://testnet.binance.vision",
        ws_api="wss://ws-api.testnet.binance.vision/ws-api/v3",
        stream="wss://stream.testnet.binance.vision",
    ),
    "demo": Endpoints(
        rest="https://demo-api.binance.com",
        ws_api="wss://demo-ws-api.binance.com/ws-api/v3",
        stream="wss://demo-stream.binance.com",
    ),
}

PUBLIC = Endpoints(rest="https://data-api.binance.vision", ws_api="", stream="wss://data-stream.binance.vision")


def resolve(
    env: str,
    rest: str | None = None,
    ws_api: str | None = None,
    stream: str | None = None,
    public: bool = False,
) -> Endpoints:
    """The addresses of an environment, each of which may be replaced; raises SettingsError for what is no address.

    `public` asks for the keyless market data hosts where the environment has them.
    """
    if env not in ENVIRONMENTS:
        raise SettingsError(f"BINANCE_ENV is {env!r}: it must be one of {', '.join(ENVIRONMENTS)}")
    chosen = ENVIRONMENTS[env].public() if public else ENVIRONMENTS[env]
    problems: list[str] = []
    resolved = Endpoints(
        rest=_address("BINANCE_REST_URL", rest, chosen.rest, ("http", "https"), problems),
        ws_api=_address("BINANCE_WS_API_URL", ws_api, chosen.ws_api, ("ws", "wss"), problems),
        stream=_address("BINANCE_STREAM_URL", stream, chosen.stream, ("ws", "wss"), problems),
    )
    if problems:
        raise SettingsError(problems)
    return resolved


def of_settings(settings: Settings, *, public: bool) -> Endpoints:
    """Where the settings say that Binance is. Raises SettingsError."""
    return resolve(
        settings.binance_env,
        settings.binance_rest_url,
        settings.binance_ws_api_url,
        settings.binance_stream_url,
        public=public,
    )


def _address(name: str, given: str | None, usual: str, schemes: tuple[str, ...], problems: list[str]) -> str:
    """The given address where there is one, checked, without its trailing slash."""
    if not given:
        return usual
    example = f"such as {usual}" if usual else f"such as {schemes[0]}://127.0.0.1:9443"
    try:
        parts = urlsplit(given)
        good = parts.scheme in schemes and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is not one, a broken IPv6 address
        good = False
    if not good:
        problems.append(f"{name} is {given!r}: it must be {' or '.join(schemes)}:// and a host, {example}")
    elif parts.username or parts.password:
        problems.append(f"{name} must hold no user name and no password: keys have settings of their own")
    elif parts.query or parts.fragment:
        problems.append(f"{name} is {given!r}: it must end with its host or path, {example}")
    return given.rstrip("/")
