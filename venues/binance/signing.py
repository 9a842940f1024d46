"""Signatures of requests: HMAC-SHA256 in hex, or Ed25519 in base64.

Always true here: a secret is never part of a repr, an error or a log line. Source: "Request security" of
web-socket-api.md in binance-spot-api-docs.

WebSocket payload: every parameter but `signature`, sorted by name, `name=value` joined by `&`, raw UTF-8, nothing
percent-encoded, booleans in lower case:

    apiKey=vmPU...&price=52000.00&quantity=0.01000000&recvWindow=100&side=SELL&symbol=BTCUSDT&timestamp=1645423376532&...
"""

import base64
import hmac
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from ...core.model.errors import SettingsError

Param = str | int | bool

KEY_BYTES_MAX = 64 * 1024  # a PEM file of an Ed25519 key has about 120


class Signer(Protocol):
    """An API key and how it signs."""

    api_key: str
    session: bool  # session.logon takes it, and requests after that need no signature

    def sign(self, payload: bytes) -> str:
        """The signature as it is sent."""
        ...


class HmacSigner:
    """A key with a shared secret: signs each request."""

    session = False

    def __init__(self, api_key: str, secret: str) -> None:
        self.api_key = api_key
        self._secret = secret.encode()

    def sign(self, payload: bytes) -> str:
        return hmac.digest(self._secret, payload, "sha256").hex()

    def __repr__(self) -> str:
        return f"HmacSigner({shown(self.api_key)})"


class Ed25519Signer:
    """A key of which the exchange holds the public half: signs the logon, then the session stands for it."""

    session = True

    def __init__(self, api_key: str, private_key: Ed25519PrivateKey) -> None:
        self.api_key = api_key
        self._key = private_key

    def sign(self, payload: bytes) -> str:
        return base64.b64encode(self._key.sign(payload)).decode()

    def __repr__(self) -> str:
        return f"Ed25519Signer({shown(self.api_key)})"


def shown(api_key: str) -> str:
    """An API key for people: enough of it to tell which one it is."""
    return f"{api_key[:4]}...{api_key[-2:]}" if len(api_key) >= 16 else "..."


def ws_payload(params: Mapping[str, Param]) -> bytes:
    """What is signed of a WebSocket API request; `signature` must not be among the parameters."""
    return "&".join(f"{name}={_text(params[name])}" for name in sorted(params)).encode()


def _text(value: Param) -> str:
    if value is True:
        return "true"
    return "false" if value is False else str(value)


def load_ed25519(path: str | Path) -> Ed25519PrivateKey:
    """An Ed25519 private key from an unencrypted PEM file (PKCS#8).

    Raises SettingsError that says what is wrong with the file, and nothing of what is in it.
    """
    where = Path(path)
    try:
        descriptor = os.open(where, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))  # a pipe must not stop the start
    except OSError as error:
        raise SettingsError(f"the key file {where} cannot be read: {error.strerror}") from None
    try:
        # Asked of the open file, so that what is checked is what is read.
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise SettingsError(f"the key file {where} is not a file")
        if os.name == "posix" and mode & 0o077:
            raise SettingsError(f"the key file {where} can be read by others (mode {mode & 0o777:o}): chmod 600 it")
        pem = os.read(descriptor, KEY_BYTES_MAX)
    finally:
        os.close(descriptor)
    if b"ENCRYPTED" in pem:
        raise SettingsError(f"the key file {where} is encrypted: an unencrypted PKCS#8 PEM file is needed")
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise SettingsError(f"the key file {where} does not hold a private key in PEM form") from None
    if not isinstance(key, Ed25519PrivateKey):
        kind = type(key).__name__.removeprefix("_").removesuffix("PrivateKey")
        raise SettingsError(
            f"the key file {where} holds a key of another kind ({kind}): an Ed25519 private key is needed"
        )
    return key
