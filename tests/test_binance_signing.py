"""Signatures of requests to Binance: the documented vectors, key files, and that secrets stay secret."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from tbx.core.model.errors import SettingsError
from tbx.venues.binance.signing import (
    Ed25519Signer,
    HmacSigner,
    load_ed25519,
    shown,
    ws_payload,
)

SECRET = "not-a-real-secret-0123456789"


@pytest.fixture(scope="module")
def vectors(fixtures: Path) -> Any:
    return json.loads((fixtures / "binance" / "signing_vectors_hmac.json").read_text())


def test_every_documented_vector_is_signed_as_documented(vectors: Any) -> None:
    signer = HmacSigner(vectors["apiKey"], vectors["secretKey"])
    signed = []
    for vector in vectors["vectors"]:
        payload = ws_payload(vector["params"]) if vector["api"] == "ws" else vector["payload"].encode()
        signed.append((vector["note"], signer.sign(payload)))
    assert signed == [(vector["note"], vector["signature"]) for vector in vectors["vectors"]]
    assert len(signed) == 5


def test_the_websocket_payload_is_sorted_raw_and_has_booleans_in_lower_case() -> None:
    params = {"b": True, "a": False, "timestamp": 7, "symbol": "币安"}
    assert ws_payload(params) == "a=false&b=true&symbol=币安&timestamp=7".encode()
    assert ws_payload({}) == b""


def test_an_ed25519_signature_is_base64_and_verifies() -> None:
    key = Ed25519PrivateKey.generate()
    signature = Ed25519Signer("key", key).sign(b"apiKey=key&timestamp=1")
    key.public_key().verify(base64.b64decode(signature), b"apiKey=key&timestamp=1")


def test_only_an_ed25519_key_has_sessions() -> None:
    assert Ed25519Signer("key", Ed25519PrivateKey.generate()).session
    assert not HmacSigner("key", SECRET).session


def test_no_repr_shows_a_secret() -> None:
    key = Ed25519PrivateKey.generate()
    api_key = "vmPUZE6mv9SD5VNHk4HlWFsOr6aKE2zvsw0MuIgwCIPy6utIco14y7Ju91duEh8A"
    for signer in (HmacSigner(api_key, SECRET), Ed25519Signer(api_key, key)):
        for text in (repr(signer), str(signer), f"{signer!s} {signer!r}"):
            assert SECRET not in text and api_key not in text
            assert "vmPU...8A" in text
    assert shown("short") == "..."


# --- key files -----------------------------------------------------------------------------------------------------


def pem_of(key: Any, encryption: KeySerializationEncryption | None = None) -> bytes:
    made: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption())
    return made


@pytest.fixture
def key_file(tmp_path: Path) -> Callable[..., Path]:
    def write(content: bytes, mode: int = 0o600) -> Path:
        path = tmp_path / "key.pem"
        path.write_bytes(content)
        path.chmod(mode)
        return path

    return write


def test_a_key_is_read_from_its_file(key_file: Callable[..., Path]) -> None:
    key = Ed25519PrivateKey.generate()
    loaded = load_ed25519(key_file(pem_of(key)))
    raw = (Encoding.Raw, PublicFormat.Raw)
    assert loaded.public_key().public_bytes(*raw) == key.public_key().public_bytes(*raw)
    assert load_ed25519(str(key_file(pem_of(key), 0o400)))


REFUSED_FILES: dict[str, tuple[Callable[[], bytes], int, str]] = {
    "readable by the group": (lambda: pem_of(Ed25519PrivateKey.generate()), 0o640, "chmod 600"),
    "readable by all": (lambda: pem_of(Ed25519PrivateKey.generate()), 0o644, "mode 644"),
    "not PEM": (lambda: b"hello", 0o600, "does not hold a private key in PEM form"),
    "empty": (lambda: b"", 0o600, "does not hold a private key in PEM form"),
    "not even text": (lambda: bytes(range(256)), 0o600, "does not hold a private key in PEM form"),
    "PEM with nothing in it": (
        lambda: b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        0o600,
        "does not hold a private key in PEM form",
    ),
    "a public key": (
        lambda: Ed25519PrivateKey.generate().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        0o600,
        "does not hold a private key in PEM form",
    ),
    "an RSA key": (lambda: pem_of(rsa.generate_private_key(65537, 2048)), 0o600, "of another kind (RSA)"),
    "an elliptic curve key": (lambda: pem_of(ec.generate_private_key(ec.SECP256R1())), 0o600, "an Ed25519 private key"),
    "encrypted": (
        lambda: pem_of(Ed25519PrivateKey.generate(), BestAvailableEncryption(b"pass")),
        0o600,
        "is encrypted",
    ),
}


@pytest.mark.parametrize("case", REFUSED_FILES)
def test_a_key_file_that_will_not_do_is_refused_with_the_reason(case: str, key_file: Callable[..., Path]) -> None:
    make, mode, reason = REFUSED_FILES[case]
    content = make()
    path = key_file(content, mode)
    with pytest.raises(SettingsError) as caught:
        load_ed25519(path)
    text = str(caught.value)
    assert reason in text and str(path) in text
    body = content.split(b"\n")[1] if content.count(b"\n") > 1 else b"?nothing?"
    assert body.decode(errors="replace") not in text


def test_a_key_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read: No such file"):
        load_ed25519(tmp_path / "none.pem")
    with pytest.raises(SettingsError, match=r"is not a file|cannot be read"):
        load_ed25519(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_in_place_of_a_key_file_does_not_stop_the_start(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(SettingsError, match="is not a file"):
        load_ed25519(tmp_path / "pipe")
