"""The same figures from the beginning: a pure fold over deposits and fills, without any running sum.

What the manager keeps incrementally must equal this at any time; a test says so, and so can a person with the journal.
"""

from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal

import msgspec

from ..model.exact import ZERO
from ..model.ids import id_key
from ..model.instruments import Instrument
from ..model.records import Fill, Position
from .ledger import Account
from .positions import apply_fill, is_open
from .rates import Market, Mid, Rates
from .subpositions import Shares, apply_by_strategy
from .valuation import exchange_of, is_paper, worth


class Recomputed(msgspec.Struct, frozen=True):
    """Portfolio figures of one side, in base currency where not said otherwise."""

    totals: dict[Account, Decimal]  # of balances, in their own currency
    positions: dict[tuple[str, str], Position]  # by wallet and pair
    equity: Decimal
    market_value: Decimal  # of open positions with a price
    cost: Decimal  # of those


def recompute(
    fills: Iterable[Fill],
    deposits: Iterable[tuple[str, str, Decimal]],
    instruments: Mapping[Market, Instrument],
    mid: Mid,
    base_currency: str,
    paper: bool,
) -> Recomputed:
    """From the records of all fills, as they are kept, and all deposits."""
    folded = fold(fills)
    totals, positions = folded.moves, folded.positions
    for wallet, currency, amount in deposits:
        totals[wallet, currency] = totals.get((wallet, currency), ZERO) + amount
    rates = Rates(instruments, mid, base_currency)
    equity, value, cost = ZERO, ZERO, ZERO
    for (wallet, currency), total in totals.items():
        if is_paper(wallet) == paper:
            equity += worth(total, rates.rate(exchange_of(wallet), currency).value)
    for (wallet, pair), position in positions.items():
        instrument = instruments[position.exchange, pair]
        mark, rate = rates.mark((position.exchange, pair)), rates.rate(position.exchange, instrument.quote).value
        if is_paper(wallet) == paper and is_open(position, instrument.lot) and mark is not None and rate is not None:
            value += position.quantity * mark * rate
            cost += position.cost * rate
    return Recomputed(totals, positions, equity, value, cost)


class Folded(msgspec.Struct, frozen=True):
    """What fills alone have done."""

    moves: dict[Account, Decimal]  # to balances, in their own currency
    positions: dict[tuple[str, str], Position]  # by wallet and pair, without ids; only those that were ever held


def booked(*some: Iterable[Fill]) -> list[Fill]:
    """Every fill once, in the order in which they were booked; of two with one id the later one counts."""
    found = {fill.fill_id: fill for fills in some for fill in fills}
    return sorted(found.values(), key=lambda fill: id_key(fill.fill_id))


def fold(fills: Iterable[Fill]) -> Folded:
    """From nothing but the records of all fills, in the order in which they were booked: that of their ids."""
    moves: dict[Account, Decimal] = {}
    positions: dict[tuple[str, str], Position] = {}
    for fill in fills:
        base, _, quote = fill.pair.rpartition("_")
        sign = 1 if fill.side == "buy" else -1
        for currency, change in (
            (base, sign * fill.quantity),
            (quote, -sign * fill.cost),
            (fill.fee_currency, -fill.fee),
        ):
            if change:
                moves[fill.wallet, currency] = moves.get((fill.wallet, currency), ZERO) + change
        position = positions.get((fill.wallet, fill.pair))
        if position is None:
            position = Position(position_id="", wallet=fill.wallet, exchange=fill.exchange, pair=fill.pair)
            positions[fill.wallet, fill.pair] = position
        # Ids are not recomputed: str() is empty.
        apply_fill(position, fill, base=base, quote=quote, lot=fill.lot, new_id=str)
    # Coins that were deposited and sold never made a position.
    return Folded(moves, {key: position for key, position in positions.items() if position.updated_ns})


def fold_by_strategy(
    fills: Iterable[Fill], strategy_of: Callable[[Fill], str] = lambda fill: fill.strategy
) -> dict[tuple[str, str], Shares]:
    """Whose the positions are, by wallet and pair, from the same fills in the same order as `fold`."""
    found: dict[tuple[str, str], Shares] = {}
    for fill in fills:
        base, _, quote = fill.pair.rpartition("_")
        shares = found.setdefault((fill.wallet, fill.pair), {})
        apply_by_strategy(shares, fill, strategy_of(fill), base=base, quote=quote)
    return {where: shares for where, shares in found.items() if shares}
