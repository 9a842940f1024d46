"""Identifiers as the manual writes them, from counters that are part of the committed state.

A restart continues each counter where the last commit left it, so an id is never given twice.
"""

import datetime

import msgspec

from .instruments import Instrument

TAGS_MAX = 1_000  # processes that are remembered
TAGS_OF_ORDER_MAX = 16  # of those, the last that sent one and the same order


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
        self._own = (tag,)
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
        """The order that a venue client id of this node was made for, by whichever process; None for others' ids.

        An order that is held here under this id need not be the one that was sent: see `made`.
        """
        parts = venue_client_id.split("-")
        if len(parts) not in (4, 5) or parts[0] != "tbx" or parts[1] != self.node or not parts[3].isalnum():
            return None
        day, number = parts[2][:6], parts[2][6:]
        if len(day) != 6 or not day.isdecimal() or not number.isalnum() or not (number + parts[3]).isascii():
            return None
        if len(parts) == 4:  # as the version before this one made them
            return f"ORD_20{day}_{number}"
        return f"ORD_20{day}_{int(number, 36):06d}"

    def attempt_of(self, venue_client_id: str) -> int:
        """Which attempt of its order a client id of this node was made for."""
        return int(venue_client_id.split("-")[3], 36)

    def made(self, venue_client_id: str, tags: tuple[str, ...]) -> bool:
        """Whether a client id with the number of an order is an attempt of it: `tags` are those that have sent it.

        A process whose last commits were lost, or whose state was replaced by an older one, has used numbers that are
        given once more; the tag tells the two orders apart.
        """
        tag = venue_client_id.split("-")[4:]
        return not tag or tag[0] in (tags or self._tags)

    def tagged(self, tags: tuple[str, ...], venue_client_id: str = "") -> tuple[str, ...]:
        """The tags of an order that this process sends now, or whose attempt under that id some process has sent."""
        tag = self.tag
        if venue_client_id:
            tag = "".join(venue_client_id.split("-")[4:])
        if tag in tags or not tag:
            return tags
        if tags:
            return (*tags[1 - TAGS_OF_ORDER_MAX :], tag)
        return self._own if tag == self.tag else (tag,)


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
