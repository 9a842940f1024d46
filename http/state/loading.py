"""What a start takes over from the store: every record decoded and looked at, each that cannot be taken over named.

Always true here: nothing is dropped silently. An entry is taken over, or it is one of `Unreadable`; then the start is
refused, or the entry is set aside and with it what cannot be without it: the fills of an order, the exits of an entry.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import msgspec

from ...core.market.data import StoredBook
from ...core.model.errors import SettingsError, StoreUnreadable
from ...core.model.ids import Counters, id_key
from ...core.model.record_checks import (
    balance_fault,
    book_fault,
    command_fault,
    fill_fault,
    limit_fault,
    order_fault,
    position_fault,
    signal_fault,
    sub_position_fault,
)
from ...core.model.records import (
    Balance,
    CommandMark,
    DeadMan,
    EquitySample,
    FaultMark,
    Fill,
    Order,
    Position,
    Rebase,
    Signal,
    SubPosition,
    TradingLimit,
)
from ...core.portfolio.manager import DayOpen, DayRealised
from ...core.portfolio.marks import FIELD as MARK
from ...core.portfolio.marks import Mark
from ...core.risk.statistics import FIELD as STATISTICS
from ...core.risk.statistics import KeptStatistics
from ...core.state.quarantine import Unreadable, shown
from ...core.state.store import Loaded

NAMED_MAX = 20  # entries that a refusal names; the rest are counted

R = TypeVar("R", bound=msgspec.Struct)
UNLISTED = "which is not listed"
# Which of some order ids the archive has.
InArchive = Callable[[Iterable[str]], set[str]]
# What fields of `risk` and of `strategies` begin with.
LIMIT, POSITION, STATE, COMMAND = "limit:", "position:", "state:", "command:"
# The other fields of table `risk`: each stands once, under its own name. Raw: whoever owns it decodes it.
RISK_RECORDS: dict[str, Any] = {
    "deadman": DeadMan,
    "rebase": Rebase,
    "statistics": KeptStatistics,
    "dayRisk": DayRealised,
}


class Held(msgspec.Struct):
    """The committed state, decoded."""

    orders: list[Order]
    fills: list[Fill]
    balances: list[Balance]
    positions: list[Position]
    books: list[StoredBook]
    samples: list[EquitySample]
    counters: Counters
    day_open: DayOpen | None
    account: str  # where live orders went
    account_id: str  # what that exchange calls the account; empty before it said so
    fault: FaultMark | None  # of a process before, whose books nobody has looked at since
    signals: list[Signal] = []
    limits: list[TradingLimit] = []  # that survive a restart
    risk: dict[str, Any] = {}  # the other records of table `risk`, by field: see RISK_RECORDS
    sub_positions: list[SubPosition] = []
    strategy_states: dict[str, bytes] = {}  # strategy -> the JSON that it keeps
    command_marks: list[CommandMark] = []

    @property
    def dead_man(self) -> DeadMan | None:
        return self.risk.get("deadman")

    @property
    def rebase(self) -> Rebase | None:
        return self.risk.get("rebase")

    @property
    def statistics(self) -> KeptStatistics | None:
        return self.risk.get(STATISTICS)

    @classmethod
    def of(cls, loaded: Loaded, node: str) -> "Held":
        """Raises StoreUnreadable with the key of every entry that cannot be taken over."""
        held, unreadable = examine(loaded)
        if unreadable:
            raise refusal(unreadable, node)
        return held


def examine(
    loaded: Loaded, listed: Collection[str] | None = None, in_archive: InArchive | None = None
) -> tuple[Held, list[Unreadable]]:
    """Decode everything, and look at it; what is in the second is not in the first. Empties `loaded.tables`.

    `listed`: exchange:pair of every instrument; `in_archive`: for orders that have left. None: nobody knows, and what
    depends on it is not looked at.
    """
    look = _Look(loaded)
    signals = look.table("signals", Signal, signal_fault)
    risk, strategies = look.split("risk", (LIMIT,)), look.split("strategies", (POSITION, STATE, COMMAND))
    orders = look.table("orders", Order, order_fault)
    fills = look.table("trades", Fill, fill_fault)
    held = Held(
        orders=[],
        fills=[],
        balances=list(look.table("balances", Balance, balance_fault).values()),
        positions=list(look.table("positions", Position, position_fault).values()),
        books=list(look.table("books", StoredBook, _book_fault).values()),
        samples=look.samples(),
        counters=look.counters(orders, fills, signals),
        day_open=look.meta("dayOpen", DayOpen),
        account=look.meta("account", str) or "",
        account_id=look.meta("accountId", str) or "",
        fault=look.meta("fault", FaultMark),
        signals=sorted(signals.values(), key=lambda signal: id_key(signal.signal_id)),
        limits=list(look.rows("risk", risk[LIMIT], TradingLimit, limit_fault).values()),
        risk=look.single("risk", risk[""]),
        sub_positions=list(look.rows("strategies", strategies[POSITION], SubPosition, sub_position_fault).values()),
        strategy_states=look.documents("strategies", strategies[STATE], STATE),
        command_marks=list(look.rows("strategies", strategies[COMMAND], CommandMark, command_fault).values()),
    )
    look.documents("strategies", strategies[""], "")
    for field in loaded.meta:
        if field.startswith(MARK):
            look.meta(field, Mark)
    look.others()
    look.orders(orders, listed)
    look.fills(fills, orders, in_archive)
    held.orders, held.fills = list(orders.values()), list(fills.values())
    return held, sorted(look.unreadable, key=lambda entry: (entry.table, len(entry.field), entry.field))


def checked_account(held: Held, now: str, node: str, unreadable: Iterable[Unreadable] = ()) -> tuple[str, str]:
    """The host and the account that the state belongs to; `now`: the host of the settings, empty on paper.

    Orders and balances of one exchange must never be taken for those of another, such as a test network's. Raises
    SettingsError.
    """
    before = held.account
    if before and now and before != now:
        raise SettingsError(
            f"the state of node {node!r} belongs to {before}, and now {now} is set; "
            "use another DATA_DIR, or another NODE_ID on that Redis, for each account"
        )
    unlisted = [entry.field for entry in unreadable if entry.table == "orders" and UNLISTED in entry.reason]
    if before and not now and unlisted:
        raise SettingsError(
            f"the state of node {node!r} belongs to {before} and has open orders of pairs that MARKET does not list, "
            f"{unlisted[0]} the first of {len(unlisted)}; set MARKET, LIVE_TRADING=true and PAPER_TRADING=false, or "
            "another DATA_DIR"
        )
    return now or before, held.account_id


class _Look:
    """One examination; `unreadable` grows."""

    def __init__(self, loaded: Loaded) -> None:
        self.loaded = loaded
        self.unreadable: list[Unreadable] = []
        self._gone: set[str] = set()  # orders that are not taken over

    def note(self, table: str, field: str, reason: str) -> None:
        self.unreadable.append(Unreadable(table, field, reason))
        if table == "orders":
            self._gone.add(field)

    # --- each by itself

    def table(self, table: str, kind: type[R], fault_of: Callable[[str, R], str]) -> dict[str, R]:
        """Every record of a table that has one kind of them."""
        return self.rows(table, self.loaded.tables.pop(table, {}), kind, fault_of)

    def split(self, table: str, prefixes: Iterable[str]) -> dict[str, dict[str, bytes]]:
        """The rows of a table by what their fields begin with; under "" those that begin otherwise."""
        found: dict[str, dict[str, bytes]] = {prefix: {} for prefix in (*prefixes, "")}
        for field, raw in self.loaded.tables.pop(table, {}).items():
            found[next(prefix for prefix in found if field.startswith(prefix))][field] = raw
        return found

    def rows(
        self, table: str, rows: dict[str, bytes], kind: type[R], fault_of: Callable[[str, R], str]
    ) -> dict[str, R]:
        """Decoded; empties `rows`: the two together would be the peak of the memory."""
        decode = msgspec.json.Decoder(kind).decode
        found: dict[str, R] = {}
        while rows:
            field, raw = rows.popitem()
            try:
                record = decode(raw)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                self.note(table, field, f"cannot be read: {error}")
                continue
            fault = fault_of(field, record)
            if fault:
                self.note(table, field, fault)
            else:
                found[field] = record
        return found

    def single(self, table: str, rows: Mapping[str, bytes]) -> dict[str, Any]:
        """Records that stand once, each under a field of its own; of an unknown field, which a newer version may have
        written, any JSON."""
        found: dict[str, Any] = {}
        for field, raw in rows.items():
            try:
                found[field] = msgspec.json.decode(raw, type=RISK_RECORDS.get(field, msgspec.Raw))
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                self.note(table, field, f"cannot be read: {error}")
        return found

    def documents(self, table: str, rows: Mapping[str, bytes], prefix: str) -> dict[str, bytes]:
        """Fields without their prefix -> JSON as it stands."""
        decode = msgspec.json.Decoder(msgspec.Raw).decode
        found: dict[str, bytes] = {}
        for field, raw in rows.items():
            try:
                decode(raw)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                self.note(table, field, f"cannot be read: {error}")
                continue
            found[field.removeprefix(prefix)] = raw
        return found

    def meta(self, field: str, kind: Any) -> Any:
        raw = self.loaded.meta.get(field)
        if raw is None:
            return None
        try:
            return msgspec.json.decode(raw, type=kind | None)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            self.note("meta", field, f"cannot be read: {error}")
            return None

    def counters(self, orders: Iterable[str], fills: Iterable[str], signals: Iterable[str]) -> Counters:
        """Without them, or with lower ones, ids that were given would be given again."""
        known = len(self.unreadable)
        counters: Counters = self.meta("ids", Counters) or Counters()
        if len(self.unreadable) > known:
            return counters
        last_order, last_signal = (max(map(id_key, ids), default=(0, 0)) for ids in (orders, signals))
        last_fill = max((id_key(fill_id)[1] for fill_id in fills), default=0)
        if (counters.day, counters.order) < last_order or counters.fill < last_fill:
            given = f"order {counters.order} of day {counters.day} and fill {counters.fill}"
            last = f"order {last_order[1]} of day {last_order[0]} and fill {last_fill}"
            self.note("meta", "ids", f"stands at {given}, and there are {last}")
        elif (counters.day, counters.signal) < last_signal:
            given = f"signal {counters.signal} of day {counters.day}"
            self.note("meta", "ids", f"stands at {given}, and there is signal {last_signal[1]} of day {last_signal[0]}")
        return counters

    def samples(self) -> list[EquitySample]:
        decode = msgspec.json.Decoder(EquitySample).decode
        found = []
        for number, raw in enumerate(self.loaded.equity):
            try:
                sample = decode(raw)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                self.note("equity", self._entry_id(number), f"cannot be read: {error}")
                continue
            if sample.equity.is_finite() and sample.flow.is_finite():
                found.append(sample)
            else:
                self.note("equity", self._entry_id(number), "is no number")
        return found

    def _entry_id(self, number: int) -> str:
        ids = self.loaded.equity_ids
        return ids[number] if ids else str(number)

    def others(self) -> None:
        """Tables that nothing is taken from yet: JSON all the same."""
        decode = msgspec.json.Decoder(msgspec.Raw).decode
        for table, rows in self.loaded.tables.items():
            if table == "meta":
                continue
            for field, raw in rows.items():
                try:
                    decode(raw)
                except (msgspec.DecodeError, UnicodeDecodeError) as error:
                    self.note(table, field, f"cannot be read: {error}")

    # --- one against the other

    def orders(self, orders: dict[str, Order], listed: Collection[str] | None) -> None:
        """Take out orders that cannot be looked after, and then the exits of those that are out."""
        names: dict[str, Order] = {}
        for order in orders.values():
            if not order.ended and listed is not None and f"{order.exchange}:{order.pair}" not in listed:
                self.note("orders", order.order_id, f"is open on {order.exchange}:{order.pair}, {UNLISTED}")
            elif order.venue_client_id and (other := names.setdefault(order.venue_client_id, order)) is not order:
                first, second = sorted((other, order), key=_order_rank)
                self.note("orders", second.order_id, f"has the venue client id of {first.order_id}")
        for order in orders.values():
            if order.parent_id is None or order.ended or order.order_id in self._gone:
                continue
            if order.parent_id in self._gone:
                self.note("orders", order.order_id, f"is an exit of {order.parent_id}, which cannot be taken over")
            elif order.parent_id not in orders:
                self.note("orders", order.order_id, f"is an open exit of {order.parent_id}, which is not there")
        for order_id in self._gone:
            orders.pop(order_id, None)

    def fills(self, fills: dict[str, Fill], orders: Mapping[str, Order], in_archive: InArchive | None) -> None:
        """Take out fills without their order, and second ones of the same trade."""
        away = {fill.order_id for fill in fills.values()} - orders.keys()
        archived = away if in_archive is None else in_archive(away - self._gone) if away else set()
        trades: dict[tuple[str, str, str, str], Fill] = {}
        for fill in tuple(fills.values()):
            trade = (fill.wallet, fill.pair, fill.side, fill.trade_id)
            if fill.order_id in self._gone:
                reason = f"is a fill of {fill.order_id}, which cannot be taken over"
            elif fill.order_id not in orders and fill.order_id not in archived:
                reason = f"is a fill of {fill.order_id}, which is neither here nor in the archive"
            elif (order := orders.get(fill.order_id)) is not None and _market(order) != _market(fill):
                theirs, its = ":".join(_market(fill)), ":".join(_market(order))
                reason = f"is a fill of {theirs}, and its order {order.order_id} is of {its}"
            elif (other := trades.setdefault(trade, fill)) is not fill:
                first, fill = sorted((other, fill), key=_fill_rank)
                trades[trade] = first
                reason = f"is trade {fill.trade_id} of {fill.wallet} {fill.pair} a second time, after {first.fill_id}"
            else:
                continue
            self.note("trades", fill.fill_id, reason)
            del fills[fill.fill_id]


def _market(record: Order | Fill) -> tuple[str, str, str]:
    return record.wallet, record.pair, record.side


def _order_rank(order: Order) -> tuple[int, int]:
    return id_key(order.order_id)


def _fill_rank(fill: Fill) -> tuple[int, int]:
    return id_key(fill.fill_id)


def _book_fault(field: str, book: StoredBook) -> str:
    return book_fault(field, book.exchange, book.pair, [*book.bids, *book.asks])


def refusal(unreadable: Iterable[Unreadable], node: str) -> StoreUnreadable:
    """The error of a start that is refused, with a line for each of the first entries, and what to do."""
    return StoreUnreadable(list(_lines(list(unreadable), node)))


def _lines(unreadable: list[Unreadable], node: str) -> Iterator[str]:
    count = len(unreadable)
    yield f"{count} {'entry' if count == 1 else 'entries'} of the state cannot be taken over, so nothing was started:"
    yield from (named(entry, node) for entry in unreadable[:NAMED_MAX])
    if count > NAMED_MAX:
        yield f"and {count - NAMED_MAX} more"
    yield (
        "`tbx serve --quarantine` sets them aside, unchanged, in "
        f"tbx:{node}:quarantine and starts without them; `tbx restore FILE --replace` goes back to a backup"
    )


def named(entry: Unreadable, node: str) -> str:
    """An entry by its key and field, and what is wrong with it."""
    return f"tbx:{node}:{entry.table} {shown(entry.field)}: {entry.reason}"
