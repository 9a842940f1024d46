"""Values of settings: the types that are more than text and numbers, and the parsers from text.

A parser returns the value, or raises ValueError whose message says what would have been right and never shows the text
that was given: it may be a secret.
"""

import hashlib
import re
from collections.abc import Callable
from decimal import Decimal
from ipaddress import ip_address
from pathlib import Path
from typing import Literal, NoReturn, cast
from urllib.parse import urlsplit

from msgspec import Struct

MASK = "********"
SCOPES = ("read", "trade", "admin")
LIVE_VENUES = ("xeggex", "binance")
LIVE_MARKETS = ("binance",)  # those of them that this version speaks to
NS_PER_MS = 1_000_000

Parser = Callable[[str], object]


class Secret:
    """A value that is only seen by who calls `reveal()`; everything that prints it prints a mask."""

    __slots__ = ("_shown", "_value")

    def __init__(self, value: str, shown: str = MASK) -> None:
        self._value = value
        self._shown = shown

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return self._shown

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not copied out of the process")


class ApiKey(Struct, frozen=True):
    """Who may call the API; of the key itself only its SHA-256 is kept."""

    name: str
    digest: bytes  # key_digest() of the key, 32 bytes
    scopes: frozenset[str]  # of SCOPES

    def __repr__(self) -> str:
        return f"{self.name}:{MASK}:{'+'.join(scope for scope in SCOPES if scope in self.scopes)}"


class Market(Struct, frozen=True):
    """Where prices come from."""

    kind: Literal["simulated", "replay", "binance"]
    file: Path | None = None  # the capture that is replayed

    @property
    def live(self) -> bool:
        """Whether prices come from an exchange."""
        return self.kind in LIVE_MARKETS


class VenueKeys(Struct, frozen=True):
    """The credentials of an account at an exchange: a key, and what signs with it, one of the two."""

    api_key: Secret
    api_secret: Secret | None
    private_key_file: Path | None = None  # PEM


def key_digest(key: str) -> bytes:
    """What is kept of an API key. A fast hash is right: keys are 256 random bits, there is nothing to guess."""
    return hashlib.sha256(key.encode()).digest()


def is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def flag(text: str) -> bool:
    word = text.lower()
    if word in ("true", "1", "yes", "on"):
        return True
    if word in ("false", "0", "no", "off"):
        return False
    raise ValueError("expected true or false")


def choice(*words: str) -> Parser:
    def parse(text: str) -> str:
        if text not in words:
            raise ValueError(f"expected {', '.join(words[:-1])} or {words[-1]}")
        return text

    return parse


def whole(least: int, most: int, meaning: str) -> Parser:
    def parse(text: str) -> int:
        if re.fullmatch(r"[0-9]{1,20}", text) and least <= int(text) <= most:
            return int(text)
        raise ValueError(f"expected {meaning}: a whole number from {least} to {most}")

    return parse


def decimal(text: str) -> Decimal:
    if re.fullmatch(r"[0-9]{1,20}(\.[0-9]{1,18})?", text) is None:
        raise ValueError("expected a plain decimal number such as 0.25")
    return Decimal(text)


def ratio(example: str) -> Parser:
    def parse(text: str) -> Decimal:
        value = decimal(text)
        if not 0 < value <= 1:
            raise ValueError(f"expected a share above 0 and at most 1, {example}")
        return value

    return parse


def percent(text: str) -> Decimal:
    value = decimal(text)
    if not 0 < value <= 100:
        raise ValueError("expected a percentage above 0 and at most 100, 0.5 for half a percent")
    return value


def balance(text: str) -> Decimal:
    value = decimal(text)
    if value > 10**15:
        raise ValueError("expected an amount from 0 to 10^15")
    return value


def milliseconds(least: int, most: int) -> Parser:
    def parse(text: str) -> int:
        ns = decimal(text) * NS_PER_MS
        if not least * NS_PER_MS <= ns <= most * NS_PER_MS or ns != int(ns):
            raise ValueError(f"expected milliseconds from {least} to {most}")
        return int(ns)

    return parse


def matching(pattern: str, meaning: str) -> Parser:
    def parse(text: str) -> str:
        if re.fullmatch(pattern, text) is None:
            raise ValueError(f"expected {meaning}")
        return text

    return parse


def host(text: str) -> str:
    name = text.strip("[]")
    try:
        return str(ip_address(name))
    except ValueError:
        if re.fullmatch(r"(?!-)[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63})*", name) and not re.fullmatch(r"[0-9.]+", name):
            return name.lower()
    raise ValueError("expected an IP address or a host name, 127.0.0.1 for this machine only")


def hosts(text: str) -> tuple[str, ...]:
    try:
        return tuple(host(part.strip()) for part in text.split(",") if part.strip())
    except ValueError:
        raise ValueError("expected host names or addresses without port, separated by commas") from None


def origins(text: str) -> tuple[str, ...]:
    if text == "none":
        return ()
    origins = tuple(part.strip().lower() for part in text.split(",") if part.strip())
    if not all(re.fullmatch(r"https?://[a-z0-9.\-\[\]:]+", origin) for origin in origins):
        raise ValueError("expected none, or origins such as http://localhost:3005, separated by commas")
    return origins


def service_url(text: str) -> str | None:
    if text == "none":
        return None
    right = "expected http://host:port or https://host:port without user name, or none for a service that is not there"
    try:
        url = urlsplit(text)
        port_is_valid = url.port is None or url.port > 0
    except ValueError:
        raise ValueError(right) from None
    if url.scheme not in ("http", "https") or not url.hostname or "@" in url.netloc or not port_is_valid:
        raise ValueError(right)
    if re.search(r"\s", text) or url.query or url.fragment:
        raise ValueError(right)
    return text.rstrip("/")


AUTO = "auto"
AUTO_RISK_URL = "http://localhost:3003"


def risk_url(text: str) -> str | None:
    """As `service_url`, or `auto`."""
    return AUTO if text.lower() == AUTO else service_url(text)


def three_way(text: str) -> bool | None:
    """true, false, or auto (None)."""
    return None if text.lower() == AUTO else flag(text)


def strategies(text: str) -> tuple[str, ...]:
    """Names of strategies, each `module:Class` or an entry point's name, with `?key=value&...` behind it or not."""
    found = tuple(part for part in (piece.strip() for piece in text.split(";")) if part)
    if len(set(found)) != len(found):
        raise ValueError("expected each strategy once")
    return found


def factor(least: str, most: str, example: str) -> Parser:
    """A decimal from `least` to `most`."""
    low, high = Decimal(least), Decimal(most)

    def parse(text: str) -> Decimal:
        value = decimal(text)
        if not low <= value <= high:
            raise ValueError(f"expected a number from {least} to {most}, {example}")
        return value

    return parse


def venue_url(*schemes: str) -> Parser:
    """An endpoint of an exchange. Without TLS only on this machine: orders and keys would be readable on the way."""
    tls, plain = schemes
    right = f"expected {tls}://host[:port], or {plain}://127.0.0.1:port of an exchange on this machine"

    def parse(text: str) -> str:
        try:
            url = urlsplit(text)
            port_is_valid = url.port is None or url.port > 0
        except ValueError:
            raise ValueError(right) from None
        if url.scheme not in schemes or not url.hostname or "@" in url.netloc or not port_is_valid:
            raise ValueError(right)
        if re.search(r"\s", text) or url.query or url.fragment:
            raise ValueError(right)
        if url.scheme == plain and not is_loopback(url.hostname):
            raise ValueError(right)
        return text.rstrip("/")

    return parse


def pairs(text: str) -> tuple[str, ...]:
    """Pairs in the order given; () for all."""
    if text == "all":
        return ()
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not names or not all(re.fullmatch(r"[A-Z0-9]{1,20}_[A-Z0-9]{1,20}", name) for name in names):
        raise ValueError("expected pairs such as BTC_USDT,ETH_USDT, or all")
    return names


def redis_url(text: str) -> Secret | None:
    if text == "embedded":
        return None
    right = "expected embedded, redis://[user:password@]host:port/0, rediss://... (TLS) or unix:///path/to/redis.sock"
    try:
        url = urlsplit(text)
        place = f"{url.hostname or ''}{f':{url.port}' if url.port else ''}{url.path}"
    except ValueError:
        raise ValueError(right) from None
    if url.scheme not in ("redis", "rediss", "unix") or not (url.path if url.scheme == "unix" else url.hostname):
        raise ValueError(right)
    return Secret(text, f"{url.scheme}://{MASK + '@' if '@' in url.netloc else ''}{place}")


def api_keys(text: str) -> tuple[ApiKey, ...]:
    keys: dict[str, ApiKey] = {}
    for part in filter(None, (part.strip() for part in text.split(";"))):
        match = re.fullmatch(r"([a-z0-9_-]{1,32}):([0-9a-f]{64}):([a-z+]+)", part)
        if match is None or not set(match[3].split("+")) <= set(SCOPES):
            raise ValueError(
                "expected name:sha256:read+trade+admin for each key, separated by ; - `tbx key NAME` makes one"
            )
        if match[1] in keys:
            raise ValueError(f"expected each name once; {match[1]} stands twice")
        keys[match[1]] = ApiKey(match[1], bytes.fromhex(match[2]), frozenset(match[3].split("+")))
    return tuple(keys.values())


def rate_limit(text: str) -> int | None:
    if text == "auto":
        return None
    return cast(int, whole(0, 1_000_000, "auto, 0 for no limit, or requests a second for each key")(text))


def market(text: str) -> Market:
    if text == "simulated":
        return Market("simulated")
    kind, _, name = text.partition(":")
    if kind == "replay" and name:
        return Market("replay", Path(name))
    if text == "binance":
        return Market("binance")
    raise ValueError("expected simulated, binance (live prices), or replay:FILE (a recorded capture)")


def path(text: str) -> Path:
    if "\0" in text:
        raise ValueError("expected a path")
    return Path(text).expanduser()


def level(text: str) -> str:
    word = "warn" if text.lower() == "warning" else text.lower()
    return cast(str, choice("debug", "info", "warn", "error")(word))


def secret(text: str) -> Secret:
    if not text.isprintable() or " " in text:
        raise ValueError("expected the text that the exchange shows, without blanks")
    return Secret(text)
