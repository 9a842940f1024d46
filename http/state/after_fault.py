"""What a fault of a process before may have left half changed: compared with the fills, and made to agree with them.

Fills are what exchanges have proven, each on record once; positions and balances follow from them. A handler that
raised between two of these steps leaves the later ones as they were, and nobody would see it in the figures.

Always true here: fills and orders are never changed. An order that its fills contradict is told, and nothing is done.
"""

from collections.abc import Iterable

from ...core.model.exact import ZERO, plain
from ...core.model.ids import Ids
from ...core.model.records import Balance, Fill
from ...core.portfolio.recompute import Folded, booked, fold
from .loading import Held

FIGURES = ("quantity", "cost", "realised", "fees", "closed_count", "won_count", "trip_realised")


def mend(held: Held, archived: Iterable[Fill]) -> tuple[list[str], list[str]]:
    """Make positions and balances what the fills make them; what was changed, and what cannot be, in words.

    `held` is changed in place: `archived` are the fills that have left for the archive.
    """
    folded = fold(booked(archived, held.fills))
    return [*_positions(held, folded), *_balances(held, folded)], list(_orders(held))


def _positions(held: Held, folded: Folded) -> Iterable[str]:
    kept = {(position.wallet, position.pair): position for position in held.positions}
    for where in sorted(folded.positions.keys() | kept.keys()):
        made, found = folded.positions.get(where), kept.get(where)
        if made is None or (found is not None and all(getattr(made, f) == getattr(found, f) for f in FIGURES)):
            continue  # one without fills is of a backup or a quarantine, not of a fault
        if found is not None:
            made.position_id, made.open_ns = found.position_id, found.open_ns or made.open_ns
            held.positions.remove(found)
        if not made.position_id:
            made.position_id = Ids("", held.counters).position()
        held.positions.append(made)
        before = plain(found.quantity) if found is not None else "nothing"
        yield f"position {':'.join(where)} is made anew from its fills: {before} was held, now {plain(made.quantity)}"


def _balances(held: Held, folded: Folded) -> Iterable[str]:
    """On paper what came in by itself is the truth; live the total, which was compared with the exchange."""
    kept = {(balance.wallet, balance.currency): balance for balance in held.balances}
    for where in sorted(kept.keys() | folded.moves.keys()):
        balance = kept.get(where)
        if balance is None:
            balance = Balance(wallet=where[0], currency=where[1])
            held.balances.append(balance)
        moved = folded.moves.get(where, ZERO)
        if balance.total == balance.flows + moved:
            continue
        name = ":".join(where)
        if balance.wallet.startswith("paper."):
            before, balance.total = balance.total, balance.flows + moved
            yield f"balance {name} is made anew from its fills: {plain(before)} was held, now {plain(balance.total)}"
        else:
            balance.flows = balance.total - moved
            yield f"balance {name}: what came and went but by fills is {plain(balance.flows)} now"


def _orders(held: Held) -> Iterable[str]:
    filled: dict[str, int] = {}
    for fill in held.fills:
        filled[fill.order_id] = filled.get(fill.order_id, 0) + fill.qty_lots
    for order in held.orders:
        lots = filled.get(order.order_id, 0)
        if lots != order.filled_lots:
            there, here = plain(lots * order.lot), plain(order.filled_lots * order.lot)
            yield f"order {order.order_id} says filled {here}, its fills make {there}"
