"""Up to where the trades of each live wallet and pair are accounted for, by the venue's trade ids.

Always true here: every trade up to `upto` is in the ledger: as a fill of ours, as somebody else's trade, or in the
balances as they were found. Of the trades above it, those in `beyond` are booked as somebody else's, and those of our
orders are their fills. So each trade that a venue lists can be told from one that is missing, also after a restart.

Kept in `tbx:{node}:meta`, one field for each pair: `trades:{wallet}:{pair}`.
"""

from collections.abc import Iterator, Mapping
from typing import Final

import msgspec

from ..kernel.outbox import Outbox
from ..model.errors import StoreCorrupt
from ..model.records import Side

FIELD: Final = "trades:"
# Foreign trades remembered above a mark. At the bound the mark goes on to the highest of them: what was missing below
# it then shows as a difference of the balances, and is never booked twice.
BEYOND_MAX: Final = 1_000


class Mark(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Of one wallet and pair."""

    upto: int  # the venue's trade id; 0: none before it
    beyond: list[str] = []  # of trades that are booked as somebody else's: "123b" bought, "123s" sold
    compared_ns: int = 0  # when the venue's trades were last compared


class Marks:
    """The marks of all live wallets."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._marks: dict[tuple[str, str], Mark] = {}
        self._beyond: dict[tuple[str, str], set[str]] = {}

    def restore(self, meta: Mapping[str, bytes]) -> None:
        """Take the fields of `meta` that are marks. Raises StoreCorrupt with the first that cannot be read."""
        for field, raw in meta.items():
            wallet, _, pair = field.removeprefix(FIELD).partition(":")
            if not field.startswith(FIELD):
                continue
            try:
                mark = msgspec.json.decode(raw, type=Mark)
            except (msgspec.DecodeError, msgspec.ValidationError) as error:
                raise StoreCorrupt(f"meta {field}", str(error)) from error
            self._marks[wallet, pair] = mark
            self._beyond[wallet, pair] = set(mark.beyond)

    def records(self) -> Iterator[tuple[str, str, Mark]]:
        """As they are kept: table, field, record."""
        for (wallet, pair), mark in self._marks.items():
            yield "meta", f"{FIELD}{wallet}:{pair}", mark

    def get(self, wallet: str, pair: str) -> Mark | None:
        return self._marks.get((wallet, pair))

    def covers(self, wallet: str, pair: str, trade_id: str, side: Side | None) -> bool:
        """Whether the money of a trade that is no fill here is in the ledger already."""
        mark = self._marks.get((wallet, pair))
        if mark is None or not trade_id.isdecimal():
            return False
        return int(trade_id) <= mark.upto or _key(trade_id, side) in self._beyond[wallet, pair]

    def booked(self, wallet: str, pair: str, trade_id: str, side: Side) -> bool:
        """Whether a trade above the mark was booked as somebody else's."""
        return _key(trade_id, side) in self._beyond.get((wallet, pair), ())

    def begin(self, wallet: str, pair: str, upto: int, now_ns: int = 0) -> None:
        """The first mark of a pair: what was before is in the balances as they were found."""
        if (wallet, pair) not in self._marks:
            mark = self._marks[wallet, pair] = Mark(upto=max(0, upto), compared_ns=now_ns)
            self._beyond[wallet, pair] = set()
            self._put(wallet, pair, mark)

    def note_foreign(self, wallet: str, pair: str, trade_id: str, side: Side) -> None:
        """Somebody else's trade is booked now."""
        if not trade_id.isdecimal():
            return
        self.begin(wallet, pair, int(trade_id) - 1)
        mark, beyond = self._marks[wallet, pair], self._beyond[wallet, pair]
        key = _key(trade_id, side)
        if int(trade_id) <= mark.upto or key in beyond:
            return
        beyond.add(key)
        mark.beyond.append(key)
        if len(mark.beyond) > BEYOND_MAX:
            self.advance(wallet, pair, max(int(key[:-1]) for key in mark.beyond), mark.compared_ns)
        self._put(wallet, pair, mark)

    def advance(self, wallet: str, pair: str, upto: int, now_ns: int) -> None:
        """All trades up to here were compared, and what was missing is booked."""
        mark = self._marks[wallet, pair]
        mark.upto, mark.compared_ns = max(mark.upto, upto), now_ns
        mark.beyond = [key for key in mark.beyond if int(key[:-1]) > mark.upto]
        self._beyond[wallet, pair] = set(mark.beyond)
        self._put(wallet, pair, mark)

    def _put(self, wallet: str, pair: str, mark: Mark) -> None:
        self._outbox.put("meta", f"{FIELD}{wallet}:{pair}", mark)


def _key(trade_id: str, side: Side | None) -> str:
    return f"{trade_id}{side[0] if side else ''}"
