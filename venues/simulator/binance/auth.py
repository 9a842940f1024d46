"""Who sent a request, and whether it is fresh: signatures, timestamps, recvWindow.

Always true here: what is verified are the bytes as sent. REST signs query then body, percent-encoded, without the
signature wherever that stands; the WebSocket API signs `name=value` of every parameter but the signature, sorted by
name, joined with &, raw UTF-8, numbers as they were written and booleans in lower case.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Mapping
from urllib.parse import unquote

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256

from . import errors
from .accounts_keys import HMAC, KEY_LENGTH, Key

AHEAD_MOST_US = 1_000_000
RECV_WINDOW_US = 5_000_000  # where none is sent
RECV_WINDOW_MOST_MS = 60_000
# Numbers from here on are microseconds: as milliseconds they would lie in the year 5138.
MICROSECONDS_FROM = 100_000_000_000_000

INTEGER = re.compile(r"[0-9]{1,20}")
WINDOW = re.compile(r"([0-9]{1,20})(?:\.([0-9]{1,3}))?")
SIGNATURE = b"signature="


def ws_payload(params: Mapping[str, str]) -> bytes:
    """What a WebSocket API request signs."""
    return "&".join([f"{name}={params[name]}" for name in sorted(params) if name != "signature"]).encode()


def rest_payload(query: bytes, body: bytes) -> tuple[bytes, str | None]:
    """What a REST request signs, and its signature, percent-decoded; None where none was sent.

    Query and body follow each other without a separator: so the official examples sign.
    """
    signature = None
    kept = []
    for part in (query, body):
        pairs = part.split(b"&")
        for pair in pairs:
            if pair.startswith(SIGNATURE):
                signature = unquote(pair[len(SIGNATURE) :].decode("latin-1"))
        kept.append(
            part if signature is None else b"&".join([pair for pair in pairs if not pair.startswith(SIGNATURE)])
        )
    return b"".join(kept), signature


def verify(key: Key, payload: bytes, signature: str) -> bool:
    """Whether `signature` is the key's own over `payload`: hex for HMAC, base64 for the others."""
    if key.kind == HMAC:
        expected = hmac.new(key.secret, payload, hashlib.sha256).hexdigest()
        return hmac.compare_digest(expected.encode(), signature.lower().encode())
    try:
        # A plus that was not percent-encoded in a query arrives as it was sent; a space is one that was decoded.
        raw = base64.b64decode(signature.replace(" ", "+"), validate=True)
        if isinstance(key.public, Ed25519PublicKey):
            key.public.verify(raw, payload)
        elif isinstance(key.public, RSAPublicKey):
            key.public.verify(raw, payload, PKCS1v15(), SHA256())
        else:
            return False
    except (InvalidSignature, binascii.Error, ValueError):
        return False
    return True


def check_format(api_key: str) -> None:
    """ApiError -2014 for what cannot be the name of a key."""
    if len(api_key) != KEY_LENGTH or not (api_key.isascii() and api_key.isalnum()):
        raise errors.bad_key_format()


def check_fresh(params: Mapping[str, str], now_us: int) -> None:
    """ApiError unless `timestamp` is at most recvWindow old and less than a second ahead.

    Timestamps are in milliseconds or microseconds, recvWindow is in milliseconds with up to three decimals.
    """
    text = params.get("timestamp", "")
    if not INTEGER.fullmatch(text):
        if not text:
            raise errors.missing("timestamp")
        raise errors.illegal("timestamp", "^[0-9]{1,20}$")
    sent_us = int(text)
    if sent_us < MICROSECONDS_FROM:
        sent_us *= 1000
    window_us = RECV_WINDOW_US
    window = params.get("recvWindow")
    if window is not None:
        window_us = recv_window_us(window)
    if sent_us >= now_us + AHEAD_MOST_US:
        raise errors.too_early()
    if now_us - sent_us > window_us:
        raise errors.too_late()


def recv_window_us(text: str) -> int:
    """recvWindow in microseconds."""
    match = WINDOW.fullmatch(text)
    if match is None:
        if not text:
            raise errors.empty("recvWindow")
        raise errors.illegal("recvWindow", r"^([0-9]{1,20})(\.[0-9]{1,3})?$")
    window_us = int(match[1]) * 1000 + int((match[2] or "").ljust(3, "0"))
    if window_us > RECV_WINDOW_MOST_MS * 1000:
        raise errors.too_great("recvWindow", RECV_WINDOW_MOST_MS)
    return window_us
