"""Seeds that have found something, each with what it was: they are walked again with every run of the tests."""

from __future__ import annotations

from typing import Any, NamedTuple


class Found(NamedTuple):
    """One seed, the options of its world, and what was wrong when it was found."""

    name: str
    seed: int
    options: dict[str, Any]
    what: str


FOUND = (
    Found(
        "the exit that is left at the venue reserves its coins",
        17,
        {},
        "when one exit of a listed pair ended with the reservation of both, the other one's was in memory only: a "
        "process that died then came back with the coins free",
    ),
    Found(
        "an order leaves for the archive when its end is committed",
        15,
        {},
        "orders left for the archive before their end and their fills were committed: the next process gave the ids of "
        "those fills to others, and a process that was no longer the writer overwrote what the new one had archived",
    ),
    Found(
        "an answer about an order that has left for the archive",
        35,
        {},
        "what the venue had answered was noted on an order that had left: it came back without its fills, and after "
        "the next start they were booked once more",
    ),
    Found(
        "an amendment that was lost, of an order that has left for the archive",
        1055,
        {},
        "the answer settled it, and put the order on record again",
    ),
    Found(
        "a commit that was applied, taken back by a power cut, and applied again",
        319,
        {},
        "the observer counted its deposits twice",
    ),
    Found(
        "a store that came back older while a commit waited for the lease",
        791,
        {},
        "the commit was lost again before its effects left: beats were refused, the lease was never sure, and nothing "
        "was committed any more",
    ),
)
