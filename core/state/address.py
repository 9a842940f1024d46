"""Where Redis is: `REDIS_URL` taken apart. `str(address)` never shows a password."""

import ssl
from pathlib import Path
from urllib.parse import ParseResult, parse_qs, unquote, urlparse

import msgspec

from ..model.errors import SettingsError

PORT_DEFAULT = 6379
OPTIONS = ("db", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs", "ssl_check_hostname")
NO = ("no", "none", "false", "0", "off")


class Address(msgspec.Struct, frozen=True):
    """One Redis server and how to enter it."""

    host: str = ""
    port: int = PORT_DEFAULT
    path: str = ""  # a unix socket, instead of host and port
    username: str = ""
    password: str = ""
    database: int = 0
    tls: ssl.SSLContext | None = None

    def __str__(self) -> str:
        if self.path:
            return f"unix://{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'rediss' if self.tls else 'redis'}://{host}:{self.port}/{self.database}"

    def __repr__(self) -> str:
        return f"Address({self})"


def parse_address(url: str) -> Address:
    """Read `redis://[user:password@]host[:port][/db]`, `rediss://...` (TLS) or `unix:///path/redis.sock[?db=0]`.

    TLS takes the options that redis-py takes in a URL: ssl_ca_certs, ssl_certfile, ssl_keyfile, ssl_cert_reqs=none,
    ssl_check_hostname=false. Raises SettingsError; the text never holds the password.
    """
    parts = urlparse(url)
    if parts.scheme not in ("redis", "rediss", "unix"):
        raise SettingsError("REDIS_URL must start with redis://, rediss:// (TLS) or unix://")
    options = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    unknown = sorted(set(options) - set(OPTIONS))
    if unknown:
        raise SettingsError(f"REDIS_URL has the unknown option {unknown[0]!r}; known are {', '.join(OPTIONS)}")
    username, password = unquote(parts.username or ""), unquote(parts.password or "")
    if parts.scheme == "unix":
        if not parts.path:
            raise SettingsError("REDIS_URL names no socket: write unix:///path/to/redis.sock")
        database = _database(options.get("db", "0"))
        return Address(path=unquote(parts.path), username=username, password=password, database=database)
    return Address(
        host=parts.hostname or "localhost",
        port=_port(parts),
        username=username,
        password=password,
        database=_database(options.get("db") or parts.path.strip("/") or "0"),
        tls=_tls(options) if parts.scheme == "rediss" else None,
    )


def _port(parts: ParseResult) -> int:
    try:
        return parts.port or PORT_DEFAULT
    except ValueError:
        raise SettingsError("REDIS_URL has a port that is not a number from 1 to 65535") from None


def _database(text: str) -> int:
    if not text.isdecimal():
        raise SettingsError(f"REDIS_URL names the database {text!r}; it must be a number, as in redis://host:6379/0")
    return int(text)


def _tls(options: dict[str, str]) -> ssl.SSLContext:
    for name in ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile"):
        if name in options and not Path(options[name]).is_file():
            raise SettingsError(f"REDIS_URL: {name} names {options[name]}, which is not a file")
    try:
        context = ssl.create_default_context(cafile=options.get("ssl_ca_certs"))
        if "ssl_certfile" in options:
            context.load_cert_chain(options["ssl_certfile"], options.get("ssl_keyfile"))
    except ssl.SSLError as error:
        raise SettingsError(f"REDIS_URL: a certificate cannot be read ({error.reason or error})") from error
    trusting = options.get("ssl_cert_reqs", "required").lower() in NO
    if trusting or options.get("ssl_check_hostname", "true").lower() in NO:
        context.check_hostname = False
    if trusting:
        context.verify_mode = ssl.CERT_NONE
    return context
