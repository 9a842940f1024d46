"""Steps from the schema of an older version to the present one, each carried out in one commit with the new number.

Always true here: a step reads what it finds and says what to write; it never deletes what it does not understand. Rows
that cannot be read are passed over: the start names them right after, before anything is written.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping

import msgspec

from ..kernel.outbox import encode_record
from ..model.exact import ZERO
from ..model.ids import id_key
from ..model.record_checks import fill_fault
from ..model.records import Balance, Fill
from ..portfolio.recompute import fold
from .store import SCHEMA

Tables = Mapping[str, Mapping[str, bytes]]
Put = tuple[str, str, bytes]  # table, field, JSON
# From the tables, and every archived trade (id, JSON).
Step = Callable[[Tables, Iterable[tuple[str, bytes]]], list[Put]]


def readable_fills(trades: Mapping[str, bytes], archived: Iterable[tuple[str, bytes]]) -> list[Fill]:
    """Every fill once, in the order in which they were booked; what cannot be read, or cannot be, is passed over."""
    raws = {**dict(archived), **trades}
    return sorted(_decoded(raws.values()), key=lambda fill: id_key(fill.fill_id))


def _decoded(raws: Iterable[bytes]) -> Iterator[Fill]:
    decode = msgspec.json.Decoder(Fill).decode
    for raw in raws:
        try:
            fill = decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue  # named by whoever examines the tables
        if not fill_fault(fill.fill_id, fill):
            yield fill


def give_balances_flows(tables: Tables, archived: Iterable[tuple[str, bytes]]) -> list[Put]:
    """1 to 2: what of a balance is not of fills came from outside. The journal, which knew it, is trimmed."""
    moves = fold(readable_fills(tables.get("trades", {}), archived)).moves
    puts: list[Put] = []
    for field, raw in tables.get("balances", {}).items():
        try:
            balance = msgspec.json.decode(raw, type=Balance)
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue  # as above
        balance.flows = balance.total - moves.get((balance.wallet, balance.currency), ZERO)
        puts.append(("balances", field, encode_record(balance)))
    return puts


STEPS: dict[int, Step] = {1: give_balances_flows}


def migrate(
    schema: int, tables: dict[str, dict[str, bytes]], archived: Callable[[], Iterable[tuple[str, bytes]]]
) -> list[Put]:
    """Bring the tables up to the present schema, in memory; returns what is to be written for it, the number last."""
    puts: list[Put] = []
    for step in range(schema, SCHEMA):
        changed = STEPS[step](tables, archived())
        for table, field, value in changed:
            tables.setdefault(table, {})[field] = value
        puts += changed
    return [*puts, ("meta", "schema", b"%d" % SCHEMA)] if puts or schema < SCHEMA else []
