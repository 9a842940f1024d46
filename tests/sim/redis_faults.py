"""What goes wrong with a Redis, by seed: `one()` begins the next fault, each ends by itself or with `heal`.

None of these loses what Redis has acknowledged but `power_cut`, which is not among them unless asked for: the process
that lives writes everything anew then, and a process that died with it cannot.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from tbx.core.kernel.clock import MS_NS

from .redis import FSYNC_NS, SimRedis

# What happens, and how often.
WEIGHTS = {
    "command_lost": 4,
    "reply_lost": 6,
    "cut": 3,
    "slow": 3,
    "pause": 3,
    "restart": 3,
    "unreachable": 1,
    "out_of_memory": 2,
    "disk_error": 2,
    "readonly": 1,
    "scripts_forgotten": 2,
}


class RedisFaults:
    """The faults of one server. `counts` says how often each was begun."""

    def __init__(self, redis: SimRedis, seed: int) -> None:
        self.redis = redis
        self.rng = random.Random(f"{seed}:redis")
        self.counts: dict[str, int] = {}

    def one(self) -> str:
        """Begin a fault; what it is."""
        name = self.rng.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        self.counts[name] = self.counts.get(name, 0) + 1
        act: Callable[[], object] = getattr(self, name)
        return f"{name} {act()}"

    def heal(self) -> None:
        self.redis.heal()

    def _for(self, *choices_ms: int) -> int:
        """Some time of up to one of these."""
        return self.rng.randrange(1, self.rng.choice(choices_ms) * MS_NS)

    def command_lost(self) -> int:
        """The connection breaks before the next commands arrive."""
        self.redis.commands_to_lose = self.rng.randrange(1, 4)
        return self.redis.commands_to_lose

    def reply_lost(self) -> int:
        """... or after they were carried out."""
        self.redis.replies_to_lose = self.rng.randrange(1, 4)
        return self.redis.replies_to_lose

    def cut(self) -> bool:
        lost = self.rng.random() < 0.5
        self.redis.cut(lost=lost)
        return lost

    def slow(self) -> int:
        self.redis.slow_ns = self._for(1, 30, 700)
        self._later(self._for(100, 3_000), "slow_ns", 0)
        return self.redis.slow_ns

    def pause(self) -> int:
        """Shorter and longer than what the connection waits for an answer."""
        for_ns = self._for(100, 3_000, 15_000)
        self.redis.pause(for_ns)
        return for_ns

    def restart(self) -> tuple[int, int]:
        away_ns, loading_ns = self._for(50, 3_000), self._for(5, 1_000)
        self.redis.kill(away_ns, loading_ns)
        return away_ns, loading_ns

    def power_cut(self) -> tuple[int, int]:
        """How many commands were lost, and for how long it is away."""
        away_ns = self._for(50, 3_000)
        return self.redis.power_cut(self.rng.randrange(FSYNC_NS), away_ns), away_ns

    def unreachable(self) -> int:
        """Connections break, and those that are tried hang."""
        for_ns = self._for(500, 12_000)
        self.redis.cut(lost=True)
        self.redis.unreachable = True
        self._later(for_ns, "unreachable", False)
        return for_ns

    def out_of_memory(self) -> int:
        return self._trouble("out_of_memory")

    def disk_error(self) -> int:
        return self._trouble("disk_error")

    def readonly(self) -> int:
        return self._trouble("readonly")

    def scripts_forgotten(self) -> str:
        self.redis.forget_scripts()
        return ""

    def _trouble(self, name: str) -> int:
        for_ns = self._for(50, 3_000)
        setattr(self.redis.database, name, True)
        self.redis.world.call_in(for_ns, lambda: setattr(self.redis.database, name, False))
        return for_ns

    def _later(self, after_ns: int, name: str, value: object) -> None:
        self.redis.world.call_in(after_ns, setattr, self.redis, name, value)
