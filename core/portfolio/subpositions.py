"""Whose coins a position's are: what a fill does to the parts that strategies have of it. Pure.

Always true here, for the sub-positions of a wallet and pair that one history of fills has made, and its position:

    quantity, fees, realised - cost     sum to the position's, exactly; so does what is earned at any price

A strategy's cost is that of what it bought itself, so costs, and with them what is realised, sum to the position's only
until strategies that paid different prices sell. A buy is its strategy's. A sale takes its own strategy's coins first,
then those of no strategy, then the others', the largest part first; each whose coins were sold has its share of the
proceeds and of the fee by their number, rounded to 18 decimals, the last one what is left.
"""

from collections.abc import Iterable, Iterator, Mapping
from decimal import ROUND_HALF_EVEN, Decimal

from ..model.exact import ZERO
from ..model.records import Fill, Position, SubPosition
from .positions import EIGHTEEN, Sale, apply_fill, apply_sale, sale_of

NOBODY = ""  # the strategy of coins that are no strategy's
# Names in one wallet and pair; what a further one buys is nobody's. Names come from callers, who may make up new ones.
STRATEGIES_MAX = 1_000

Shares = dict[str, SubPosition]  # of one wallet and pair, by strategy


def apply_by_strategy(shares: Shares, fill: Fill, strategy: str, *, base: str, quote: str) -> list[SubPosition]:
    """Book a fill; returns what has changed. One that is not there yet is made."""
    if fill.side == "buy":
        mine = shares.get(strategy)
        if mine is None:
            mine = _new(shares, fill, strategy)
        apply_fill(mine, fill, base=base, quote=quote, lot=fill.lot, new_id=str)
        return [mine]
    held = sum([share.quantity for share in shares.values()], ZERO)
    sale = sale_of(held, fill, base, quote)
    if sale is None:
        return []  # deposited coins
    changed = []
    for share, part, fee in _parts(sale, fill.fee, list(_takers(shares, strategy, sale.gone))):
        apply_sale(share, fill, part, fee, fill.lot)
        changed.append(share)
    return changed


def _new(shares: Shares, fill: Fill, strategy: str) -> SubPosition:
    if len(shares) >= STRATEGIES_MAX:
        strategy = NOBODY
    share = shares.get(strategy)
    if share is None:
        share = SubPosition(strategy=strategy, wallet=fill.wallet, exchange=fill.exchange, pair=fill.pair)
        shares[strategy] = share
    return share


def _takers(shares: Shares, strategy: str, gone: Decimal) -> Iterator[tuple[SubPosition, Decimal]]:
    """Whose coins go, and how many."""
    for share in _in_turn(shares, strategy):
        taken = min(gone, share.quantity)
        yield share, taken
        gone -= taken
        if not gone:
            return


def _in_turn(shares: Shares, strategy: str) -> Iterator[SubPosition]:
    first = dict.fromkeys((strategy, NOBODY))
    for name in first:
        share = shares.get(name)
        if share is not None and share.quantity > 0:
            yield share
    others = [share for name, share in shares.items() if name not in first and share.quantity > 0]
    yield from sorted(others, key=lambda share: (-share.quantity, share.strategy))


def _parts(
    sale: Sale, fee: Decimal, takers: list[tuple[SubPosition, Decimal]]
) -> Iterator[tuple[SubPosition, Sale, Decimal]]:
    """The sale in parts, each with its share of the fee; their sums are the whole."""
    sold, paid, fee_left = sale.sold, sale.paid, fee
    for share, gone in takers[:-1]:
        part = Sale(_share(sale.sold, gone, sale.gone), gone, _share(sale.paid, gone, sale.gone))
        part_fee = _share(fee, gone, sale.gone) if fee else ZERO
        sold, paid, fee_left = sold - part.sold, paid - part.paid, fee_left - part_fee
        yield share, part, part_fee
    share, gone = takers[-1]
    yield share, Sale(sold, gone, paid), fee_left


def _share(amount: Decimal, part: Decimal, whole: Decimal) -> Decimal:
    if amount == whole:
        return part
    return (amount * part / whole).quantize(EIGHTEEN, ROUND_HALF_EVEN)


# --- against the position


def adds_up(position: Position, shares: Mapping[str, SubPosition]) -> bool:
    """Whether they are all of the position, and no more."""
    quantity, earned = position.quantity, position.realised - position.cost
    for share in shares.values():
        quantity -= share.quantity
        earned -= share.realised - share.cost
    return not quantity and not earned and fees_of(shares.values()) == _paid(position)


def fees_of(positions: Iterable[Position]) -> dict[str, Decimal]:
    """All that was paid, by currency."""
    fees: dict[str, Decimal] = {}
    for position in positions:
        for currency, fee in position.fees.items():
            fees[currency] = fees.get(currency, ZERO) + fee
    return {currency: fee for currency, fee in fees.items() if fee}


def _paid(position: Position) -> dict[str, Decimal]:
    return {currency: fee for currency, fee in position.fees.items() if fee}


def given_to_nobody(position: Position, shares: Mapping[str, SubPosition]) -> Shares:
    """The position with all its coins nobody's: what strategies have earned and paid before stays theirs.

    For a position that its sub-ledgers do not explain, such as one from before there were any.
    """
    made: Shares = {}
    rest = SubPosition(
        wallet=position.wallet,
        exchange=position.exchange,
        pair=position.pair,
        quantity=position.quantity,
        cost=position.cost,
        realised=position.realised,
        fees=dict(position.fees),
        open_ns=position.open_ns,
        updated_ns=position.updated_ns,
        closed_count=position.closed_count,
        won_count=position.won_count,
        trip_realised=position.trip_realised,
    )
    for name, share in shares.items():
        if name == NOBODY:
            continue
        share.quantity = share.cost = ZERO
        made[name] = share
        rest.realised -= share.realised
        for currency, fee in share.fees.items():
            rest.fees[currency] = rest.fees.get(currency, ZERO) - fee
    made[NOBODY] = rest
    return made
