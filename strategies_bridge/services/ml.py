"""The prediction service (ML_SERVICE_URL).

GET /api/predictions/{pair}   an opinion, in one of the forms in opinions.py
"""

from typing import Final
from urllib.parse import quote

import msgspec

from ...core.kernel.clock import Clock
from .client import ServiceClient, ServiceUnavailable
from .opinions import Score, score_of

TIMEOUT_S: Final = 2.0


class MlClient:
    """Asks the prediction service."""

    def __init__(self, url: str, clock: Clock) -> None:
        self.http = ServiceClient("ml", url, clock, timeout_s=TIMEOUT_S)

    async def prediction(self, pair: str) -> Score | ServiceUnavailable:
        return await self.http.get(f"/api/predictions/{quote(pair, safe='')}", opinion)


def opinion(body: bytes) -> Score:
    """Of the body of GET /api/predictions/{pair}. Raises ValueError or msgspec's errors."""
    return score_of(msgspec.json.decode(body), "the prediction", "ml")
