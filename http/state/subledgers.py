"""Sub-positions that do not explain their positions, at a start: made anew from the fills.

So it is for a state from before there were any, after a fault in the middle of a fill, and where something was set
aside. A fill names its strategy; one from before fills did belongs to the strategy that its order names.

Always true here: positions and fills are never changed. Where the fills do not make the position either, its coins are
nobody's; without a position there are no sub-positions.
"""

from collections.abc import Iterable, Mapping

import msgspec

from ...core.kernel.outbox import encode_record
from ...core.model.record_checks import sub_position_key
from ...core.model.records import Fill, Order, SignalData, SubPosition, strategy_of
from ...core.portfolio.recompute import fold_by_strategy
from ...core.portfolio.subpositions import NOBODY, Shares, adds_up, given_to_nobody
from ...core.state.migrations import Put, readable_fills
from ...core.state.quarantine import SetAside
from .loading import Held

Where = tuple[str, str]  # wallet, pair
SECOND = "a second time"  # of a fill that was set aside for that: its money was moved once, by the first


class Settled(msgspec.Struct, frozen=True):
    """What is to be written; `held` was changed alike."""

    puts: list[Put]
    gone: list[str]  # fields of table `strategies`
    said: str


def unexplained(held: Held) -> set[Where]:
    """Positions that their sub-positions do not sum to, and sub-positions without one."""
    shares = shares_of(held)
    positions = {(position.wallet, position.pair): position for position in held.positions}
    wrong = {where for where, position in positions.items() if not adds_up(position, shares.get(where, {}))}
    return wrong | (shares.keys() - positions.keys())


def shares_of(held: Held) -> dict[Where, Shares]:
    found: dict[Where, Shares] = {}
    for share in held.sub_positions:
        found.setdefault((share.wallet, share.pair), {})[share.strategy] = share
    return found


def settle(held: Held, wrong: set[Where], fills: Iterable[Fill], strategies: Mapping[str, str]) -> Settled:
    """Make those that are wrong anew. `fills`: all, as booked, those set aside too; `strategies`: of order ids."""
    made = fold_by_strategy(fills, lambda fill: fill.strategy or strategies.get(fill.order_id, NOBODY))
    shares = shares_of(held)
    positions = {(position.wallet, position.pair): position for position in held.positions}
    before = {sub_position_key(share) for where in wrong for share in shares.get(where, {}).values()}
    unknown = 0
    for where in wrong:
        position, kept = positions.get(where), shares.pop(where, {})
        if position is None:
            continue
        by_fills = made.get(where, {})
        if not adds_up(position, by_fills):
            by_fills, unknown = given_to_nobody(position, kept), unknown + 1
        shares[where] = by_fills
    held.sub_positions = [share for of_one in shares.values() for share in of_one.values()]
    new = [share for where in wrong for share in shares.get(where, {}).values()]
    said = f"whose the coins of {len(wrong)} positions are was worked out from the fills"
    if unknown:
        said += f"; of {unknown} the fills do not tell: they are no strategy's"
    return Settled([_put(share) for share in new], sorted(before - {sub_position_key(share) for share in new}), said)


def _put(share: SubPosition) -> Put:
    return "strategies", sub_position_key(share), encode_record(share)


class _Label(msgspec.Struct):
    """The part of an order that says whose it is."""

    order_id: str
    signal_data: SignalData | None = None


def strategies_of(orders: Iterable[Order], archived: Iterable[tuple[str, bytes]] = ()) -> dict[str, str]:
    """Order id -> its strategy, of those that have one; rows of the archive that cannot be read are passed over."""
    decode = msgspec.json.Decoder(_Label).decode
    found: dict[str, str] = {}
    for _, raw in archived:
        if b'"strategy"' not in raw:
            continue
        try:
            label = decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue  # `tbx verify` names it
        if label.signal_data is not None and label.signal_data.strategy:
            found[label.order_id] = label.signal_data.strategy
    found.update((order.order_id, strategy_of(order)) for order in orders if strategy_of(order))
    return found


def fills_aside(quarantine: Mapping[str, bytes]) -> list[Fill]:
    """Those that were set aside and can be read: their money was moved all the same."""
    raws: dict[str, bytes] = {}
    for name, raw in quarantine.items():
        if not name.startswith("trades:"):
            continue
        try:
            aside = msgspec.json.decode(raw, type=SetAside)
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue  # as above
        value = aside.bytes()
        if value is not None and SECOND not in aside.reason:
            raws[name] = value
    return readable_fills(raws, ())
