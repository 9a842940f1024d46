"""A sender of commands as a stranger would write one: redis-py, the two streams, and nothing of ours."""

from __future__ import annotations

import json
import time
from typing import Any

import redis

WAIT_S = 20.0


class Answered:
    """One answer."""

    def __init__(self, fields: dict[str, str]) -> None:
        self.id, self.entry = fields["id"], fields["entry"]
        self.status = int(fields["status"])
        self.body: dict[str, Any] = json.loads(fields["body"])

    def __repr__(self) -> str:
        return f"{self.id} {self.status} {self.body}"


class StreamClient:
    """Sends commands and collects answers, from the moment on at which it was made."""

    def __init__(self, client: redis.Redis, node: str = "main") -> None:
        self.redis = client
        self.commands, self.answers = f"tbx:{node}:commands", f"tbx:{node}:answers"
        newest: Any = client.xrevrange(self.answers, count=1) if client.type(self.answers) == "stream" else []
        self.seen: str = newest[0][0] if newest else "0-0"

    def send(self, command_id: str, kind: str, body: object = None, **more: Any) -> str:
        """Returns the id of the entry. A body that is text goes as it is."""
        text = body if isinstance(body, str) else json.dumps({} if body is None else body)
        entry: Any = self.redis.xadd(self.commands, {"id": command_id, "type": kind, "body": text, **more})
        return str(entry)

    def next(self, count: int = 1) -> list[Answered]:
        """The next answers, at least so many."""
        found: list[Answered] = []
        deadline = time.monotonic() + WAIT_S
        while len(found) < count:
            assert time.monotonic() < deadline, f"{len(found)} of {count} answers came: {found}"
            streams: Any = self.redis.xread({self.answers: self.seen}, block=1_000)
            for _, entries in streams:
                for self.seen, fields in entries:
                    found.append(Answered(fields))
        return found

    def ask(self, command_id: str, kind: str, body: object = None, **more: Any) -> Answered:
        """Send one command and return its answer, which is the next one."""
        entry = self.send(command_id, kind, body, **more)
        answer = self.next()[0]
        assert (answer.id, answer.entry) == (command_id, entry), answer
        return answer

    def waiting(self) -> int:
        """Commands that are not answered yet."""
        return int(self.redis.xlen(self.commands))  # type: ignore[arg-type]


def buy(quantity: int = 1000, **more: Any) -> dict[str, Any]:
    return {"pair": "RVN_USDT", "side": "buy", "type": "market", "quantity": quantity, **more}


def resting(price: str = "0.02", **more: Any) -> dict[str, Any]:
    """A limit buy far below the market."""
    return buy(1000, **{"type": "limit", "price": price, "timeout": 0, "exchange": "xeggex", **more})
