"""Identifiers as the manual writes them, from counters that are part of the committed state.

A restart continues each counter where the last commit left it, so an id is never given twice.
"""

import datetime

import msgspec

from .instruments import Instrument

TAGS_MAX = 1_000  # processes that are remembered


class Counters(msgspec.Struct, kw_only=True):
    """Next numbers; kept in `tbx:{node}:meta` under `ids`."""

    day: int = 0  # yyyymmdd, never goes back even if the clock does
    order: int = 0  # of the day
    fill: int = 0
    position: int = 0
    signal: int = 0  # of the day
    tags: list[str] = []  # of the processes that have sent orders with this state, the last ones


class Ids:
    """Hands out ids; `dirty` tells that the counters must go into the next commit."""

    def __init__(self, node: str, counters: Counters | None = None, tag: str = "0") -> None:
        """`tag`: 1 to 3 of [0-9a-z] that differ from process to process. Counters that a lost disk or an old backup
        took back would else give a venue the client id of another order."""
        self.node = node
        self.tag = tag
        self._tags = {*(counters.tags if counters is not None else ()), tag}
        self.counters = counters or Counters()
        self.dirty = False
        self._day_ends_ns = 0

    def _roll(self, now_ns: int) -> None:
        if now_ns < self._day_ends_ns:
            return
        date = datetime.datetime.fromtimestamp(now_ns // 1_000_000_000, tz=datetime.UTC).date()
        day = date.year * 10_000 + date.month * 100 + date.day
        self._day_ends_ns = (now_ns // 86_400_000_000_000 + 1) * 86_400_000_000_000
        if day > self.counters.day:
            self.counters.day, self.counters.order, self.counters.signal = day, 0, 0

    def order(self, now_ns: int) -> str:
        self._roll(now_ns)
        self.counters.order += 1
        self.dirty = True
        return f"ORD_{self.counters.day}_{self.counters.order:06d}"

    def signal(self, now_ns: int) -> str:
        self._roll(now_ns)
        self.counters.signal += 1
        self.dirty = True
        return f"SIG_{self.counters.day}_{self.counters.signal:03d}"

    def fill(self) -> str:
        self.counters.fill += 1
        self.dirty = True
        return f"FILL_{self.counters.fill:06d}"

    def position(self) -> str:
        self.counters.position += 1
        self.dirty = True
        return f"POS_{self.counters.position:03d}"

    def venue_client_id(self, order_id: str, attempt: int) -> str:
        """At most 36 characters of [a-z0-9-], the shortest bound of a venue: a node of 12, a day of 6, and in 36 digits
        5 for the number, 3 for the attempt and 3 for the tag."""
        if self.tag not in self.counters.tags:
            self.counters.tags = [*self.counters.tags[1 - TAGS_MAX :], self.tag]
            self.dirty = True
        return f"tbx-{self.node}-{order_id[6:12]}{base36(int(order_id[13:]))}-{base36(attempt)}-{self.tag}"

    def order_of(self, venue_client_id: str) -> str | None:
        """The order that a venue client id was made for; None where it is not one of ours."""
        parts = venue_client_id.split("-")
        if len(parts) not in (4, 5) or parts[0] != "tbx" or parts[1] != self.node:
            return None
        day, number = parts[2][:6], parts[2][6:]
        if len(day) != 6 or not day.isdecimal() or not number.isalnum() or not number.isascii():
            return None
        if len(parts) == 4:  # as the version before this one made them
            return f"ORD_20{day}_{number}"
        # One of another process's is no order of ours, though it has the number of one: another service on the same
        # account, or this one before its data was lost.
        return f"ORD_20{day}_{int(number, 36):06d}" if parts[4] in self._tags else None


DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


def base36(number: int) -> str:
    """A number from 0 on in the digits of a client id; `int(text, 36)` reads it."""
    text = ""
    while True:
        number, digit = divmod(number, 36)
        text = DIGITS[digit] + text
        if not number:
            return text


def wallet_of(instrument: Instrument, paper: bool) -> str:
    """Paper and live money never meet: a paper wallet has a name of its own."""
    return f"paper.{instrument.exchange}" if paper else instrument.exchange


def id_key(text: str) -> tuple[int, int]:
    """The rank of an id of the manual's form: ORD_20250101_001247, FILL_000012; numbers may outgrow their padding.

    Raises ValueError for anything else.
    """
    _, _, numbers = text.partition("_")
    day, _, count = numbers.rpartition("_")
    return int(day or 0), int(count)
