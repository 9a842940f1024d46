"""Everything that can be computed a second time, computed a second time, and compared with what is kept.

Always true here: figures come from nothing but fills, flows and events; a running sum is only ever the thing compared.
A fill that was set aside has moved money all the same, and counts where it can be read.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import Any

import msgspec

from ...core.model.exact import ZERO, plain
from ...core.model.ids import id_key
from ...core.model.order_views import order_update
from ...core.model.record_checks import fill_fault, order_fault
from ...core.model.records import Balance, Fill, Order, Position, State
from ...core.portfolio.ledger import reservations
from ...core.portfolio.recompute import booked, fold, fold_by_strategy
from ...core.portfolio.subpositions import NOBODY, Shares, adds_up
from ...core.state.archive import Archive
from ...core.state.journal import Scan, fields_of, read
from ...core.state.migrations import migrate
from ...core.state.quarantine import SetAside, shown
from ...core.state.snapshot import Snapshot
from ...core.state.store import SCHEMA, TABLES, Loaded
from .loading import Held, examine
from .subledgers import SECOND, Where, shares_of, strategies_of

Account = tuple[str, str]  # wallet, currency
DROPPED = b'"name":"events_dropped"'  # of the condition, as it is told


class Difference(msgspec.Struct, frozen=True):
    """Something that is not as it should be."""

    key: str
    expected: str
    found: str


class Check(msgspec.Struct):
    """One comparison: of how many, and what differs."""

    name: str
    compared: int = 0
    differences: list[Difference] = []

    def differs(self, key: str, expected: object, found: object) -> None:
        self.differences.append(Difference(key, _text(expected), _text(found)))

    def same(self, key: str, expected: object, found: object) -> None:
        self.compared += 1
        if expected != found:
            self.differs(key, expected, found)


class Report(msgspec.Struct):
    """What was compared, in order; `notes` are what could not be, and why."""

    node: str
    seq: int
    number: int
    checks: list[Check]
    notes: list[str]
    quarantined: dict[str, str]  # table:field -> reason

    @property
    def agrees(self) -> bool:
        return not any(check.differences for check in self.checks)


class Event(msgspec.Struct, frozen=True, gc=False):
    """An event of the journal; `data` is read where it is needed."""

    seq: int
    channel: str
    type: str
    data: msgspec.Raw


class Told(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """What the event of an order says of it."""

    order_id: str
    status: str
    quantity: Decimal
    filled_quantity: Decimal


class Flow(msgspec.Struct, frozen=True, gc=False):
    """The event `Deposited`."""

    wallet: str
    currency: str
    amount: Decimal


class TradeTold(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """The event `TradeExecuted`."""

    fill_id: str
    order_id: str
    quantity: Decimal
    price: Decimal


_events = msgspec.json.Decoder(list[Event]).decode


class Audit:
    """One comparison of a whole state: a snapshot and the archive of the same moment."""

    def __init__(self, snapshot: Snapshot, archive: Archive | None, *, moving: bool) -> None:
        """`moving`: a service goes on writing, so the archive may hold what came after the moment."""
        self.snapshot = snapshot
        self.archive = archive
        self.moving = moving
        self.checks: list[Check] = []
        self.notes: list[str] = []
        self.quarantined: dict[str, str] = {}
        self._aside: list[Fill] = []
        self._missing_until = 0  # the last event that is missing in the journal and may be
        self.held = self._read()

    def run(self) -> Report:
        self._archived()
        self._ids()
        self._orders_by_fills()
        self._money()
        self._sub_ledgers()
        self._signals()
        self._states()
        self._journal()
        snapshot = self.snapshot
        number = snapshot.number_of("number")
        return Report(snapshot.node, snapshot.seq, number, self.checks, self.notes, self.quarantined)

    def _check(self, name: str) -> Check:
        check = Check(name, differences=[])
        self.checks.append(check)
        return check

    def _key(self, table: str, field: str) -> str:
        return f"tbx:{self.snapshot.node}:{table} {shown(field)}"

    # --- reading

    def _read(self) -> Held:
        check, snapshot = self._check("entries can be read"), self.snapshot
        tables = {table: dict(snapshot.tables[table]) for table in TABLES}
        check.compared = sum(map(len, tables.values())) + len(snapshot.equity) + len(snapshot.meta)
        samples = [flat[1] if len(flat) == 2 else b"" for _, flat in snapshot.equity]
        sample_ids = [entry_id.decode() for entry_id, _ in snapshot.equity]
        schema = snapshot.number_of("schema")
        if schema < SCHEMA:
            migrate(schema, tables, lambda: self.archive.every("trades") if self.archive is not None else ())
            self.notes.append(f"of schema {schema}: compared as a start would bring it up to {SCHEMA}")
        loaded = Loaded(snapshot.meta, tables, snapshot.seq, 0, samples, sample_ids)
        held, unreadable = examine(loaded, None, self.archive.held if self.archive is not None else None)
        for entry in unreadable:
            check.differs(self._key(entry.table, entry.field), "an entry that can be taken over", entry.reason)
        for name, raw in snapshot.tables["quarantine"].items():
            try:
                aside = msgspec.json.decode(raw, type=SetAside)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                check.differs(self._key("quarantine", name), "an entry that was set aside", error)
                continue
            self.quarantined[shown(name)] = aside.reason
            value = aside.bytes()
            if name.startswith("trades:") and value is not None and SECOND not in aside.reason:
                self._aside += _readable(value)
        held.fills.sort(key=lambda fill: id_key(fill.fill_id))
        return held

    def _archived(self) -> None:
        """Read the archive; what is in Redis too must be as new there."""
        check = self._check("what is archived and in Redis is the same")
        orders = {order.order_id: order for order in self.held.orders}
        fills = {fill.fill_id: fill for fill in self.held.fills}
        self.old_orders: list[Order] = []
        self.old_fills: list[Fill] = []
        counters, later = self.held.counters, 0
        for order in self._rows("orders", Order, check):
            here = orders.get(order.order_id)
            if here is not None:
                check.compared += 1
                if order.updated_ns > here.updated_ns and not self.moving:
                    check.differs(self._key("orders", order.order_id), f"at least {order.updated_ns}", here.updated_ns)
            elif self.moving and id_key(order.order_id) > (counters.day, counters.order):
                later += 1
            else:
                self.old_orders.append(order)
        for fill in self._rows("trades", Fill, check):
            if fill.fill_id in fills:
                check.same(self._key("trades", fill.fill_id), fill, fills[fill.fill_id])
            elif not (self.moving and id_key(fill.fill_id)[1] > counters.fill):
                self.old_fills.append(fill)
        if later:
            self.notes.append(f"{later} archived orders came after the moment that is compared: left out")

    def _rows(self, kind: Any, record: type[Any], check: Check) -> Iterator[Any]:
        decode = msgspec.json.Decoder(record).decode
        for row_id, raw in self.archive.every(kind) if self.archive is not None else ():
            try:
                found = decode(raw)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                check.differs(f"archive.sqlite3 {kind} {row_id}", "a record", error)
                continue
            fault = order_fault(row_id, found) if kind == "orders" else fill_fault(row_id, found)
            if fault:
                check.differs(f"archive.sqlite3 {kind} {row_id}", "a record that can be", fault)
            else:
                yield found

    def _every_order(self) -> Iterator[Order]:
        yield from self.old_orders
        yield from self.held.orders

    def _every_fill(self) -> list[Fill]:
        """In the order in which they were booked."""
        return booked(self._aside, self.old_fills, self.held.fills)

    # --- ids

    def _ids(self) -> None:
        trades = self._check("no trade stands twice")
        seen: dict[tuple[str, str, str, str], str] = {}
        for fill in self._every_fill():
            trade = (fill.wallet, fill.pair, fill.side, fill.trade_id)
            trades.same(self._key("trades", fill.fill_id), fill.fill_id, seen.setdefault(trade, fill.fill_id))
        ids = self._check("ids are unique, and below their counters")
        names = Counter(order.venue_client_id for order in self._every_order() if order.venue_client_id)
        clients = Counter(order.client_order_id for order in self._every_order() if order.fingerprint)
        for name, count in (*names.items(), *clients.items()):
            ids.compared += 1
            if count > 1:
                ids.differs(name, "one order", f"{count} orders")
        counters = self.held.counters
        last = max((id_key(order.order_id) for order in self._every_order()), default=(0, 0))
        given = (counters.day, counters.order)
        ids.compared += 2
        if last > given:
            ids.differs(self._key("meta", "ids"), f"order {last} or later", f"order {given}")
        fill_last = max((id_key(fill.fill_id)[1] for fill in self._every_fill()), default=0)
        if fill_last > counters.fill:
            ids.differs(self._key("meta", "ids"), f"fill {fill_last} or later", f"fill {counters.fill}")

    # --- sums

    def _orders_by_fills(self) -> None:
        check = self._check("orders are the sum of their fills")
        sums: dict[str, tuple[int, int, dict[str, Decimal]]] = {}
        for fill in (*self.old_fills, *self.held.fills):
            lots, cost, fees = sums.get(fill.order_id, (0, 0, {}))
            fees[fill.fee_currency] = fees.get(fill.fee_currency, ZERO) + fill.fee
            sums[fill.order_id] = (lots + fill.qty_lots, cost + fill.price_ticks * fill.qty_lots, fees)
        known = set()
        for order in self._every_order():
            known.add(order.order_id)
            lots, cost, fees = sums.get(order.order_id, (0, 0, {}))
            key = self._key("orders", order.order_id)
            check.compared += 1
            for name, expected, found in (
                ("filled_lots", lots, order.filled_lots),
                ("cost", cost, order.cost),
                ("fees", _nonzero(fees), _nonzero(order.fees)),
            ):
                if expected != found:
                    check.differs(f"{key} {name}", expected, found)
        for order_id in sums.keys() - known:
            check.differs(self._key("orders", order_id), "the order of its fills", "none")

    def _money(self) -> None:
        folded = fold(self._every_fill())
        balances = {(balance.wallet, balance.currency): balance for balance in self.held.balances}
        totals = self._check("balances are what flowed and what fills moved")
        for account in sorted(balances.keys() | folded.moves.keys()):
            balance = balances.get(account, Balance(wallet=account[0], currency=account[1]))
            expected = balance.flows + folded.moves.get(account, ZERO)
            totals.same(self._key("balances", ":".join(account)), expected, balance.total)
        locked = self._check("what is reserved is what open orders need")
        needed: dict[Account, Decimal] = {}
        for wallet, currency, amount in reservations(o for o in self.held.orders if not o.ended):
            needed[wallet, currency] = needed.get((wallet, currency), ZERO) + amount
        for account in sorted(balances.keys() | needed.keys()):
            found = balances[account].locked if account in balances else ZERO
            locked.same(self._key("balances", ":".join(account)) + " locked", needed.get(account, ZERO), found)
        positions = self._check("positions are what fills made them")
        kept = {(position.wallet, position.pair): position for position in self.held.positions}
        for where in sorted(kept.keys() | folded.positions.keys()):
            made, found_position = folded.positions.get(where), kept.get(where)
            positions.compared += 1
            key = self._key("positions", ":".join(where))
            if made is None or found_position is None:
                positions.differs(key, "none" if made is None else "a position", "none" if made else "a position")
                continue
            _compare(positions, key, made, found_position)

    def _sub_ledgers(self) -> None:
        """Each by the fills of its strategy; where the fills do not make the position, only their sum."""
        check = self._check("sub-ledgers are what fills made them, and sum to the positions")
        kept = shares_of(self.held)
        positions = {(position.wallet, position.pair): position for position in self.held.positions}
        if positions and not kept:
            self.notes.append("there are no sub-ledgers: the next start makes them from the fills")
            return
        strategies = strategies_of(self._every_order())
        made = fold_by_strategy(self._every_fill(), lambda fill: fill.strategy or strategies.get(fill.order_id, NOBODY))
        for where in sorted(positions.keys() | kept.keys()):
            position, shares = positions.get(where), kept.get(where, {})
            key = self._key("positions", ":".join(where))
            check.compared += 1
            if position is None:
                check.differs(key, "the position of its sub-positions", "none")
            elif not adds_up(position, shares):
                held = plain(sum((share.quantity for share in shares.values()), ZERO))
                check.differs(
                    key, f"sub-positions that sum to {plain(position.quantity)}", f"{held}, or other earnings"
                )
            elif adds_up(position, made.get(where, {})):
                self._by_strategy(check, where, made.get(where, {}), shares)

    def _by_strategy(self, check: Check, where: Where, made: Shares, kept: Shares) -> None:
        for strategy in sorted(made.keys() | kept.keys()):
            key = self._key("strategies", f"position:{strategy}:{':'.join(where)}")
            check.compared += 1
            expected, found = made.get(strategy), kept.get(strategy)
            if expected is None or found is None:
                check.differs(key, "none" if expected is None else "a sub-position", "none" if expected else "one")
            else:
                _compare(check, key, expected, found)

    # --- signals

    def _signals(self) -> None:
        """Only the last signals are kept: an order may name one that was before them."""
        check = self._check("signals and their orders name each other")
        orders = {order.order_id for order in self._every_order()}
        signals = {signal.signal_id for signal in self.held.signals}
        for signal in self.held.signals:
            for order_id in signal.order_ids:
                check.compared += 1
                if order_id not in orders and f"orders:{order_id}" not in self.quarantined:
                    check.differs(self._key("signals", signal.signal_id), f"its order {order_id}", "none")
        oldest = min(map(id_key, signals), default=(0, 0))
        for order in self._every_order():
            named = order.signal_id
            if named is None:
                continue
            check.compared += 1
            if named not in signals and f"signals:{named}" not in self.quarantined and _rank(named) >= oldest:
                check.differs(self._key("orders", order.order_id), f"its signal {named}", "none")

    # --- states

    def _states(self) -> None:
        check = self._check("orders are in a state that can be")
        for order in self.held.orders:
            check.compared += 1
            for expected, found in _state_faults(order):
                check.differs(self._key("orders", order.order_id), expected, found)

    # --- journal

    def _journal(self) -> None:
        snapshot = self.snapshot
        whole = self._check("the journal has no hole and ends with the last commit")
        scan = Scan(snapshot.seq)
        scan.add(reversed(snapshot.journal))
        whole.compared = scan.count
        for entry_id, fault in scan.faults.items():
            whole.differs(self._key("journal", entry_id), "an entry that can be read", fault)
        dropped = self._told_of_drops()
        for first, last in scan.gaps:
            if last < dropped or f"journal:{last}-0" in self.quarantined:
                self._missing_until = max(self._missing_until, last)
                why = "set aside" if f"journal:{last}-0" in self.quarantined else "dropped while the store was away"
                self.notes.append(f"events {first} to {last} were {why}: nothing before them is told last")
            else:
                whole.differs(self._key("journal", f"{first}-0"), f"events {first} to {last}", "none")
        if snapshot.journal and not scan.faults:
            newest = scan.newest
            if newest != snapshot.seq and f"journal:{snapshot.seq}-0" not in self.quarantined:
                whole.differs(self._key("journal", f"{newest}-0"), f"event {snapshot.seq} as its last", newest)
        self._told(scan)

    def _told_of_drops(self) -> int:
        """The last event of the newest entry in which a service told that it had dropped some; 0 where none did."""
        for entry in reversed(self.snapshot.journal):
            if DROPPED in fields_of(entry).get(b"events", b""):
                return read(entry).last
        return 0

    def _told(self, scan: Scan) -> None:
        """Orders, trades and flows against what the journal said of them, as far as it reaches."""
        last: dict[str, Told] = {}
        flows: dict[Account, Decimal] = {}
        trades = self._check("every trade that was told is kept")
        kept = {fill.fill_id: fill for fill in self._every_fill()}
        aside = {name.removeprefix("trades:") for name in self.quarantined if name.startswith("trades:")}
        for event in self._events_of(scan):
            if event.channel == "orders" and event.seq > self._missing_until:
                told = msgspec.json.decode(event.data, type=Told)
                last[told.order_id] = told
            elif event.type == "TradeExecuted":
                trade = msgspec.json.decode(event.data, type=TradeTold)
                fill = kept.get(trade.fill_id)
                if trade.fill_id in aside:
                    continue
                found = None if fill is None else (fill.order_id, fill.quantity, fill.price)
                trades.same(self._key("trades", trade.fill_id), (trade.order_id, trade.quantity, trade.price), found)
            elif event.type == "Deposited":
                flow = msgspec.json.decode(event.data, type=Flow)
                flows[flow.wallet, flow.currency] = flows.get((flow.wallet, flow.currency), ZERO) + flow.amount
        self._orders_told(last)
        self._flows_told(scan, flows)

    def _events_of(self, scan: Scan) -> Iterator[Event]:
        for entry in self.snapshot.journal:
            if entry[0].decode() not in scan.faults:
                yield from _events(fields_of(entry)[b"events"])

    def _orders_told(self, last: dict[str, Told]) -> None:
        check = self._check("orders are as the journal told them last")
        for order in self.held.orders:
            told = last.get(order.order_id)
            if told is not None:
                now = order_update(order)
                expected = (told.status, told.quantity, told.filled_quantity)
                check.same(
                    self._key("orders", order.order_id), expected, (now.status, now.quantity, now.filled_quantity)
                )
        known = {order.order_id for order in self._every_order()}
        for order_id in last.keys() - known:
            if f"orders:{order_id}" not in self.quarantined:
                check.differs(self._key("orders", order_id), "the order that the journal told of", "none")

    def _flows_told(self, scan: Scan, flows: dict[Account, Decimal]) -> None:
        check = self._check("flows are as the journal told them")
        if scan.first > 1 or scan.faults:
            self.notes.append(f"the journal begins at event {scan.first}: what flowed before is not compared with it")
            return
        if self._missing_until:
            self.notes.append("events are missing in the journal: what flowed is not compared with it")
            return
        for balance in self.held.balances:
            if f"balances:{balance.wallet}:{balance.currency}" in self.quarantined:
                continue
            account = (balance.wallet, balance.currency)
            check.same(self._key("balances", ":".join(account)) + " flows", flows.get(account, ZERO), balance.flows)


def _state_faults(order: Order) -> Iterator[tuple[str, str]]:
    """What should be, and what is."""
    state, filled = order.state, order.filled_lots
    if order.ended and order.reserved:
        yield "nothing reserved, since it has ended", plain(order.reserved)
    if order.ended and order.end_ns is None:
        yield "a time at which it ended", "none"
    if filled > order.qty_lots:
        yield f"at most {order.qty_lots} lots filled", str(filled)
    if state is State.FILLED and filled < order.qty_lots:
        yield f"all {order.qty_lots} lots filled, since it is FILLED", str(filled)
    if state is State.PART and not 0 < filled < order.qty_lots:
        yield f"some of {order.qty_lots} lots filled, since it is PART", str(filled)
    if state in (State.HELD, State.REJECTED) and filled:
        yield f"nothing filled, since it is {state.value}", str(filled)
    if state in (State.SENT, State.UNKNOWN, State.LIVE, State.PART) and not order.venue_client_id:
        yield f"a venue client id, since it is {state.value}", "none"


def _readable(raw: bytes) -> Iterable[Fill]:
    try:
        fill = msgspec.json.decode(raw, type=Fill)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return []  # nothing can be computed from it; it is listed as it is
    return [] if fill_fault(fill.fill_id, fill) else [fill]


def _compare(check: Check, key: str, made: Position, found: Position) -> None:
    for name in ("quantity", "cost", "realised", "closed_count", "won_count"):
        if getattr(made, name) != getattr(found, name):
            check.differs(f"{key} {name}", getattr(made, name), getattr(found, name))
    if _nonzero(made.fees) != _nonzero(found.fees):
        check.differs(f"{key} fees", _nonzero(made.fees), _nonzero(found.fees))


def _rank(signal_id: str) -> tuple[int, int]:
    """Zero for a name that no signal has."""
    try:
        return id_key(signal_id)
    except ValueError:
        return 0, 0


def _nonzero(fees: dict[str, Decimal]) -> dict[str, Decimal]:
    return {currency: fee for currency, fee in sorted(fees.items()) if fee}


def _text(value: object) -> str:
    if isinstance(value, Decimal):
        return plain(value)
    if isinstance(value, dict):
        return ", ".join(f"{key} {_text(item)}" for key, item in value.items()) or "none"
    if isinstance(value, tuple):
        return ", ".join(map(_text, value))
    return str(value)
