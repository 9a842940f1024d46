"""SubLedgers: whose the coins of each position are, kept fill by fill beside the positions.

Always true here, after each input: the sub-positions of a wallet and pair sum to its position (see `subpositions.py`),
and are what the fills on record make them.

    OrderFilled -> PortfolioManager (position; what the fee was worth) -> here -> table `strategies`
"""

from collections.abc import Iterable, Iterator
from decimal import Decimal

import msgspec

from ..kernel.actor import Actor
from ..kernel.bus import Handler
from ..kernel.kernel import Kernel
from ..model.exact import ZERO
from ..model.messages import OrderFilled
from ..model.record_checks import sub_position_key
from ..model.records import Position, SubPosition
from ..model.views import PRICE, SubLedgerView, SubPositionView, percent, shown
from .rates import Rates
from .subpositions import NOBODY, Shares, adds_up, apply_by_strategy, given_to_nobody
from .valuation import is_paper


class Record(msgspec.Struct, frozen=True):
    """How a strategy's own round trips ended."""

    closed: int = 0
    won: int = 0  # of those, with a profit


NO_RECORD = Record()


class SubLedgers(Actor):
    """Sub-positions by wallet, pair and strategy; what is told of a strategy is of one side: paper's if `paper`."""

    def __init__(self, kernel: Kernel, rates: Rates, *, paper: bool = True) -> None:
        super().__init__(kernel)
        self.rates = rates
        self.paper = paper
        self._shares: dict[tuple[str, str], Shares] = {}  # by wallet and pair
        self._of: dict[str, dict[tuple[str, str], SubPosition]] = {}  # by strategy
        # Round trips, ended and won, by strategy in wallets of this side, and of each share as they are counted there.
        self._records: dict[str, Record] = {}
        self._counted: dict[tuple[str, str, str], tuple[int, int]] = {}
        self._made: list[SubPosition] = []  # at the restore, to be put on record
        self._gone: list[SubPosition] = []  # as above, to be taken off it

    def handles(self) -> dict[type, Handler]:
        return {OrderFilled: self.on_filled}

    def restore(self, positions: Iterable[Position], kept: Iterable[SubPosition]) -> None:
        """Take back what was committed; coins that it does not explain are nobody's."""
        found: dict[tuple[str, str], Shares] = {}
        for share in kept:
            found.setdefault((share.wallet, share.pair), {})[share.strategy] = share
        for position in positions:
            where = (position.wallet, position.pair)
            self._shares[where] = shares = found.pop(where, {})
            if not adds_up(position, shares):
                self._shares[where] = shares = given_to_nobody(position, shares)
                self._made += shares.values()
        self._gone += (share for shares in found.values() for share in shares.values())
        for where, shares in self._shares.items():
            for name, share in shares.items():
                self._of.setdefault(name, {})[where] = share
                self._count(share)

    def start(self) -> None:
        for share in self._made:
            self.outbox.put("strategies", sub_position_key(share), share)
        for share in self._gone:
            self.outbox.delete("strategies", sub_position_key(share))
        self._made.clear()
        self._gone.clear()

    def on_filled(self, message: OrderFilled) -> None:
        fill = message.fill
        where = (fill.wallet, fill.pair)
        shares = self._shares.get(where)
        if shares is None:
            shares = self._shares[where] = {}
        base, _, quote = fill.pair.rpartition("_")
        for share in apply_by_strategy(shares, fill, fill.strategy, base=base, quote=quote):
            self._of.setdefault(share.strategy, {})[where] = share
            self._count(share)
            self.outbox.put("strategies", sub_position_key(share), share)

    def _count(self, share: SubPosition) -> None:
        """Signals are sized by the record: it is not to be added up anew over every pair."""
        key, now = (share.strategy, share.wallet, share.pair), (share.closed_count, share.won_count)
        before = self._counted.get(key, (0, 0))
        if now != before and is_paper(share.wallet) == self.paper:
            known = self._records.get(share.strategy, NO_RECORD)
            closed, won = known.closed + now[0] - before[0], known.won + now[1] - before[1]
            self._records[share.strategy], self._counted[key] = Record(closed, won), now

    # --- what others ask

    def quantity(self, strategy: str, wallet: str, pair: str) -> Decimal:
        """The coins that a strategy holds; those of nobody for an empty name."""
        share = self._shares.get((wallet, pair), {}).get(strategy)
        return ZERO if share is None else share.quantity

    def record(self, strategy: str) -> Record:
        """Of all its pairs."""
        return self._records.get(strategy, NO_RECORD)

    def positions(self, strategy: str) -> list[SubPosition]:
        """All that it has ever held, in wallets of this side, by exchange and pair."""
        found = [s for s in self._of.get(strategy, {}).values() if is_paper(s.wallet) == self.paper]
        return sorted(found, key=lambda share: (share.exchange, share.pair))

    def names(self) -> list[str]:
        """Strategies that have ever held anything, in wallets of this side."""
        return sorted(name for name in self._of if name != NOBODY and self.positions(name))

    def view(self, strategy: str) -> SubLedgerView:
        """Of a strategy that need not have traded; at the prices that the portfolio knows."""
        shares, record = self.positions(strategy), self.record(strategy)
        return SubLedgerView(
            positions=[self._view(share) for share in shares if share.quantity > 0],
            closed=record.closed,
            won=record.won,
            win_rate=percent(Decimal(record.won), Decimal(record.closed)) if record.closed else None,
            realised_pnl=self._realised(shares),
        )

    def _view(self, share: SubPosition) -> SubPositionView:
        mark = self.rates.mark((share.exchange, share.pair))
        value = None if mark is None else share.quantity * mark
        return SubPositionView(
            pair=share.pair,
            exchange=share.exchange,
            quantity=shown(share.quantity, PRICE),
            average_price=shown(share.cost / share.quantity, PRICE),
            current_price=None if mark is None else shown(mark, PRICE),
            market_value=None if value is None else shown(value),
            unrealized_pnl=None if value is None else shown(value - share.cost),
            realised_pnl=shown(share.realised),
            fees={currency: shown(fee) for currency, fee in share.fees.items()},
        )

    def _realised(self, shares: Iterable[SubPosition]) -> Decimal | None:
        """At present rates; None where one that counts has none."""
        total = ZERO
        for share in shares:
            if share.realised:
                rate = self.rates.rate(share.exchange, share.pair.rpartition("_")[2]).value
                if rate is None:
                    return None
                total += share.realised * rate
        return shown(total)

    def of(self, wallet: str, pair: str) -> Shares:
        """All of a position, by strategy; not to be changed."""
        return self._shares.get((wallet, pair), {})

    def records(self) -> Iterator[tuple[str, SubPosition]]:
        """Every one on record, with its key in the table."""
        for shares in self._shares.values():
            for share in shares.values():
                yield sub_position_key(share), share
