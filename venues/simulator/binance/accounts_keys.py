"""The test accounts and the keys that speak for them, all of them fixed by the generator that is handed in.

Always true here: a key belongs to one account; its kind (HMAC, Ed25519, RSA) decides how it signs; what it may do
(`trade`) and from where (`ips`) can be changed while clients use it, and takes effect with the next request.
"""

from __future__ import annotations

import string
from random import Random

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_public_key,
)
from msgspec import Struct

ACCOUNT_NAMES = ("first", "second")
KEY_LENGTH = 64
KEY_CHARACTERS = string.ascii_letters + string.digits

HMAC = "HMAC_SHA256"
ED25519 = "ED25519"
RSA = "RSA"


class Key(Struct):
    """An API key. What it signs with: `secret` for HMAC, `public` for the others."""

    api_key: str
    kind: str  # HMAC_SHA256, ED25519, RSA
    account: str
    secret: bytes = b""
    public: Ed25519PublicKey | RSAPublicKey | None = None
    trade: bool = True  # may place and cancel
    ips: frozenset[str] | None = None  # only from these addresses; None is from anywhere
    revoked: bool = False

    def allows(self, ip: str) -> bool:
        """Whether it may be used from there at all."""
        return not self.revoked and (self.ips is None or ip in self.ips)


class TestAccount(Struct, frozen=True):
    """An account with both of its key pairs, as they are handed to the clients that test against the exchange."""

    __test__ = False  # not a test, though its name begins like one

    name: str
    uid: int
    hmac_api_key: str
    hmac_secret_key: str
    ed25519_api_key: str
    ed25519_pem: str  # the private key, PKCS#8, unencrypted

    def document(self) -> dict[str, object]:
        """As the command prints it with --json."""
        return {
            "name": self.name,
            "hmac": {"apiKey": self.hmac_api_key, "secretKey": self.hmac_secret_key},
            "ed25519": {"apiKey": self.ed25519_api_key, "privateKeyPem": self.ed25519_pem},
        }


class KeyRing:
    """Every key the exchange knows."""

    def __init__(self, rng: Random, names: tuple[str, ...] = ACCOUNT_NAMES) -> None:
        self._rng = rng
        self._keys: dict[str, Key] = {}
        self.accounts: tuple[TestAccount, ...] = tuple(self._open(name, place) for place, name in enumerate(names))
        self._uids = {account.name: account.uid for account in self.accounts}

    def find(self, api_key: str) -> Key | None:
        """The key of that name; None where there is none."""
        return self._keys.get(api_key)

    def uid(self, account: str) -> int:
        """The number of an account; 0 for one that has no keys here."""
        return self._uids.get(account, 0)

    def register_hmac(self, account: str, api_key: str, secret: str) -> Key:
        """A key pair that a client brings."""
        return self._add(Key(api_key, HMAC, account, secret=secret.encode()))

    def register_ed25519(self, account: str, public_pem: str) -> Key:
        """A key that a client made itself; `api_key` of the answer is its name. ValueError for another PEM."""
        public = load_pem_public_key(public_pem.encode())
        if not isinstance(public, Ed25519PublicKey):
            raise ValueError("not an Ed25519 public key; expected a PEM with BEGIN PUBLIC KEY")
        return self._add(Key(self._new_name(), ED25519, account, public=public))

    def register_rsa(self, account: str, public_pem: str) -> Key:
        """An RSA key that a client made itself; `api_key` of the answer is its name. ValueError for another PEM."""
        public = load_pem_public_key(public_pem.encode())
        if not isinstance(public, RSAPublicKey):
            raise ValueError("not an RSA public key; expected a PEM with BEGIN PUBLIC KEY")
        return self._add(Key(self._new_name(), RSA, account, public=public))

    def _open(self, name: str, place: int) -> TestAccount:
        secret = self._new_name()
        private = Ed25519PrivateKey.from_private_bytes(self._rng.randbytes(32))
        hmac_key = self._add(Key(self._new_name(), HMAC, name, secret=secret.encode()))
        ed25519_key = self._add(Key(self._new_name(), ED25519, name, public=private.public_key()))
        pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return TestAccount(name, 1001 + place, hmac_key.api_key, secret, ed25519_key.api_key, pem.decode())

    def _add(self, key: Key) -> Key:
        self._keys[key.api_key] = key
        return key

    def _new_name(self) -> str:
        return "".join(self._rng.choices(KEY_CHARACTERS, k=KEY_LENGTH))
