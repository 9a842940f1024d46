"""Who may talk to the service, and how often.

Always true here: keys are known by their SHA-256 only; a presented key is compared with every known one, in a time that
does not depend on how alike they are. A bucket refills steadily; an empty one costs its owner nothing but the wait.
"""

import hashlib
import hmac
from collections.abc import Sequence

from ..core.setting_values import SCOPES, ApiKey

ALL_SCOPES = frozenset(SCOPES)
# Callers whose buckets are kept; beyond it the one that was idle longest starts afresh.
BUCKETS_MAX = 10_000
# Requests that may come at once: what one second allows.
BURST_S = 1.0


def presented_key(authorization: bytes, x_api_key: bytes) -> bytes | None:
    """The key in `Authorization: Bearer KEY` or `X-API-Key: KEY`; None where there is none or they contradict."""
    scheme, _, bearer = authorization.partition(b" ")
    key = bearer.strip() if scheme.lower() == b"bearer" else b""
    other = x_api_key.strip()
    if key and other and key != other:
        return None
    return key or other or None


def find_key(known: Sequence[ApiKey], key: bytes) -> ApiKey | None:
    """The known key whose digest this one has."""
    digest = hashlib.sha256(key).digest()
    found = None
    for candidate in known:
        if hmac.compare_digest(candidate.digest, digest):
            found = candidate
    return found


class Allowance:
    """What a caller has left."""

    __slots__ = ("at_s", "tokens")

    def __init__(self, tokens: float, at_s: float) -> None:
        self.tokens = tokens
        self.at_s = at_s


class RateLimit:
    """A token bucket for each caller. `per_second` is above 0."""

    def __init__(self, per_second: int) -> None:
        self.per_second = per_second
        self.capacity = max(1.0, per_second * BURST_S)
        self.policy = b'"default";q=%d;w=1' % per_second
        self._buckets: dict[str, Allowance] = {}

    def take(self, caller: str, now_s: float) -> tuple[bool, int, float]:
        """Take one request: allowed, what is left, and seconds until the bucket is full (or, if refused, has one)."""
        buckets = self._buckets
        bucket = buckets.pop(caller, None)
        if bucket is None:
            bucket = Allowance(self.capacity, now_s)
            if len(buckets) >= BUCKETS_MAX:
                del buckets[next(iter(buckets))]
        buckets[caller] = bucket  # the last one in the dict is the one used last
        tokens = min(self.capacity, bucket.tokens + (now_s - bucket.at_s) * self.per_second)
        bucket.at_s = now_s
        if tokens < 1:
            bucket.tokens = tokens
            return False, 0, (1 - tokens) / self.per_second
        bucket.tokens = tokens - 1
        return True, int(bucket.tokens), (self.capacity - bucket.tokens) / self.per_second
