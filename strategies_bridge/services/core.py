"""The core service (CORE_SERVICE_URL): which pairs there are, and what its strategies say of each.

    GET /api/data          {"pairs": ["RVN_USDT", ...]}
    GET /api/pair/{pair}   {"strategies": {name: opinion, ...}} or {"strategies": [{"name": ..., ...}, ...]};
                           an opinion is one of the forms in opinions.py, null: none at the moment

Always true here: an answer with one opinion that cannot be read is refused as a whole: which of the others can be
believed is not for us to guess.
"""

from typing import Annotated, Any, Final
from urllib.parse import quote

import msgspec

from ...core.kernel.clock import Clock
from .client import ServiceClient, ServiceUnavailable
from .opinions import Score, score_of

TIMEOUT_S: Final = 2.0
STRATEGIES_MAX: Final = 1_000

PairName = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
PairNames = Annotated[list[PairName], msgspec.Meta(max_length=10_000)]


class Data(msgspec.Struct):
    """The part of GET /api/data that is used."""

    pairs: PairNames


class PairData(msgspec.Struct):
    """The part of GET /api/pair/{pair} that is used."""

    strategies: dict[str, Any] | list[Any]


_read_data = msgspec.json.Decoder(Data).decode
_read_pair = msgspec.json.Decoder(PairData).decode


class CoreClient:
    """Asks the core service."""

    def __init__(self, url: str, clock: Clock) -> None:
        self.http = ServiceClient("core", url, clock, timeout_s=TIMEOUT_S)

    async def pairs(self) -> list[str] | ServiceUnavailable:
        """As it lists them, each once; whether we trade them is for the caller to see."""
        return await self.http.get("/api/data", lambda body: list(dict.fromkeys(_read_data(body).pairs)))

    async def pair(self, pair: str) -> list[Score] | ServiceUnavailable:
        """What each strategy says, under its name."""
        return await self.http.get(f"/api/pair/{quote(pair, safe='')}", opinions)


def opinions(body: bytes) -> list[Score]:
    """Of the body of GET /api/pair/{pair}. Raises ValueError or msgspec's errors."""
    said = _read_pair(body).strategies
    if len(said) > STRATEGIES_MAX:
        raise ValueError(f"strategies: {len(said)} of them, at most {STRATEGIES_MAX}")
    if isinstance(said, dict):
        return [score_of(one, f"strategies.{name}", name) for name, one in said.items() if one is not None]
    found = []
    for number, one in enumerate(said):
        if one is not None:
            name = one.get("name") if isinstance(one, dict) else None
            if not isinstance(name, str):
                raise ValueError(f"strategies[{number}]: expected an object with a name")
            found.append(score_of(one, f"strategies[{number}]", name))
    return found
