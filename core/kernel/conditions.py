"""What is not as it should be, now and so far: each degraded mode by its name, for health, the feed and the metrics.

Always true here: a condition holds from `begin` to `end`, once for each subject; beginning one that holds changes only
why. Names are those of `KINDS` and nothing else, so that whoever watches knows them all beforehand.
"""

from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from .clock import MS_NS, Clock
from .outbox import Outbox

# Name -> what it means for the one who reads it. `begin` and `count` take no other.
KINDS: Final[Mapping[str, str]] = {
    "store_away": "Redis does not take commits: no orders are taken, and nothing leaves until it is back",
    "store_rewritten": "Redis came back with less than it had acknowledged, and was written anew from memory",
    "venue_away": "an exchange has no connection for orders, or takes none",
    "orders_unknown": "orders whose outcome the exchange has not proven yet; their funds stay reserved",
    "reconciliation_differs": "the last comparison with an exchange found something that is not repaired yet",
    "venue_contradicts": "an exchange does not know an order which it had accepted",
    "external_orders": "open orders on our account that are not of this service; they are left alone",
    "trading_limited": "the trading state is not ACTIVE",
    "part_limited": "the trading state of an exchange, a pair or a strategy is not ACTIVE",
    "journal_damaged": "old entries of the journal cannot be read; a client that resumes there is told of a gap",
    "store_behind": "Redis came back at the start with less than had been acknowledged",
    "quarantined": "entries of the store that could not be read are set aside",
    "fault": "an actor raised: a bug of ours; trading is HALTED",
    "archive_failing": "old orders cannot be moved to the archive",
    "events_dropped": "the feed's events outgrew their bound while the store was away",
    "folder_lost": "DATA_DIR was removed while the service runs",
    "lease_unsure": "whether this process is still the writer was not confirmed for too long: nothing is sent",
    "market_stale": "no book of an exchange is up to date",
    "risk_service_away": "the risk service does not answer: entries are halved",
    "strategy_stopped": "a strategy was stopped by its own fault; its orders were cancelled, what it holds is left",
    "dashboard_behind": "the dashboard does not take events: some were dropped",
    "commands_away": "commands of the stream are not read: cancels that were sent there wait too",
    "loop_failing": "the trading loop cannot decide as a service, or this one, gives it nothing to decide with",
}

# While one of these holds, no new orders are taken: the service is not ready. With the others it is degraded, no more;
# without any exchange that can be reached it is not ready either (`venue` in http/context.py).
REFUSE_ORDERS: Final = frozenset(("store_away", "trading_limited", "fault", "folder_lost", "lease_unsure"))
# These are good to know, and nothing is wrong with the service: orders placed by hand on the same account are usual.
NOTICES: Final = frozenset(("external_orders",))


class Condition(msgspec.Struct, frozen=True, rename="camel"):
    """One degraded mode that holds; also the data of its events."""

    name: str
    subject: str  # an exchange, a wallet, an order, a scope of trading; empty where there is only one
    why: str
    since: int  # ms


class Conditions:
    """The conditions of one process; `held` are those that hold, the oldest first."""

    def __init__(self, clock: Clock, outbox: Outbox) -> None:
        self._clock = clock
        self._outbox = outbox
        self._held: dict[tuple[str, str], Condition] = {}
        self.counts: dict[str, int] = dict.fromkeys(KINDS, 0)  # how often each has begun
        # Called at once when something changed: the events wait for a commit, and the store may be what is away.
        self.on_change: list[Callable[[], object]] = []

    @property
    def held(self) -> list[Condition]:
        return list(self._held.values())

    @property
    def refusing(self) -> list[Condition]:
        """Those that keep new orders out."""
        return [condition for condition in self._held.values() if condition.name in REFUSE_ORDERS]

    @property
    def well(self) -> bool:
        """Whether nothing holds but notices."""
        return NOTICES.issuperset(condition.name for condition in self._held.values())

    def holds(self, name: str, subject: str = "") -> bool:
        return (name, subject) in self._held

    def begin(self, name: str, why: str, subject: str = "") -> None:
        """It holds from now on; told on the health channel where it did not before, or for another reason."""
        before = self._held.get((name, subject))
        if before is not None and before.why == why:
            return
        if before is None:
            self.counts[name] += 1
            since = self._clock.now_ns() // MS_NS
        else:
            since = before.since
        condition = self._held[name, subject] = Condition(name, subject, why, since)
        self._tell("ConditionBegan" if before is None else "ConditionChanged", condition)

    def end(self, name: str, subject: str = "") -> None:
        """It holds no more; nothing where it did not."""
        condition = self._held.pop((name, subject), None)
        if condition is not None:
            self._tell("ConditionEnded", condition)

    def _tell(self, kind: str, condition: Condition) -> None:
        self._outbox.event("health", kind, condition)
        for listener in self.on_change:
            listener()

    def count(self, name: str) -> None:
        """Something that happened and was over at once."""
        self.counts[name] += 1
