"""The start's way from the committed state to what the core begins with: examined, set aside or refused, brought up.

    load -> bring up (in memory) -> examine, journal too -> refuse, or set aside and load again -> commit what changed

Always true here: a start that is refused has changed nothing; what is set aside and what takes its place is one commit.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable
from functools import partial
from typing import Any

import msgspec

from ...core.kernel.clock import MS_NS
from ...core.kernel.kernel import Kernel
from ...core.kernel.outbox import encode_record
from ...core.model.errors import StoreUnavailable
from ...core.model.exact import ZERO
from ...core.model.ids import Counters, Ids, id_key
from ...core.model.record_checks import limit_key
from ...core.model.records import Balance, Fill, TradingLimit
from ...core.portfolio.recompute import booked, fold
from ...core.state.archive import Archive
from ...core.state.journal import Scan
from ...core.state.migrations import Put, migrate, readable_fills
from ...core.state.quarantine import SetAside, Unreadable, field_bytes, set_aside, shown
from ...core.state.store import SCHEMA, Loaded, Store
from .after_fault import mend
from .loading import LIMIT, Held, checked_account, examine, named, refusal
from .subledgers import Settled, fills_aside, settle, strategies_of, unexplained
from .watermark import Watermark

ROUNDS_MAX = 3  # what is set aside takes what depends on it with it, so one round finds all; the next one proves it
# Events of the journal that a start looks at, the newest; the rest is looked at while the service runs.
JOURNAL_EVENTS = 20_000
JOURNAL_PAGE = 200  # entries
# Ids that may have been given in commits that Redis has lost: so many are passed over.
IDS_PASSED = 100_000
JOURNAL_PAUSE_S = 0.01  # between pages, for those who trade meanwhile
AWAY_PAUSE_S = 1.0  # until Redis is asked again

SCOPES = ("exchange:", "pair:", "strategy:")  # what the scope of a limit begins with; empty: everything

InThread = Callable[[Callable[[], Any]], Awaitable[Any]]


class Taken(msgspec.Struct):
    """What the core begins with."""

    loaded: Loaded
    held: Held
    behind: str  # where Redis came back with less than the archive knows of; empty where it did not
    wrong: str = ""  # what a fault of a process before has left, and nothing here can mend


class TakeOver:
    """One start. `in_thread(work)` does the work in the archive's thread; `say(line)` tells a person and the log."""

    def __init__(
        self,
        store: Store,
        archive: Archive,
        in_thread: InThread,
        say: Callable[[str], None],
        *,
        listed: Collection[str],
        account: str,
        quarantine: bool,
        now_ms: int,
        mark: Watermark,
    ) -> None:
        """`listed`: exchange:pair of every instrument; `account`: where live orders go, empty on paper. `quarantine`:
        set aside instead of refusing."""
        self.store = store
        self.archive = archive
        self.in_thread = in_thread
        self.say = say
        self.listed = listed
        self.account = account
        self.quarantine = quarantine
        self.now_ms = now_ms
        self.mark = mark
        self._scan: Scan | None = None  # of the journal, until its oldest entry was seen

    async def run(self) -> Taken:
        """Raises StoreUnreadable where entries cannot be taken over and are not to be set aside; SettingsError where
        the state is another account's: its orders are as they should be, and must not be set aside."""
        for _ in range(ROUNDS_MAX):
            loaded = await self.store.load()
            self.mark.check_there(loaded)
            held, unreadable, puts = await self.in_thread(partial(self._examined, loaded))
            checked_account(held, self.account, self.store.node, unreadable)
            scan = Scan(loaded.seq)
            whole = await self._read_journal(scan, None if self.quarantine else JOURNAL_EVENTS)
            unreadable += [Unreadable("journal", entry_id, fault) for entry_id, fault in scan.faults.items()]
            if not unreadable:
                break
            if not self.quarantine:
                raise refusal(unreadable, self.store.node)
            await self._set_aside(unreadable, held, loaded.seq)
        else:
            raise refusal(unreadable, self.store.node)
        if puts:
            await self.store.mend([("HSET", self.store.key(table), (field, value)) for table, field, value in puts])
            self.say(f"the state was brought from schema {loaded.schema} to {SCHEMA}: {len(puts)} values written")
        behind = self.mark.lost(loaded)
        if behind:
            held.counters.order += IDS_PASSED
            held.counters.fill += IDS_PASSED
            held.counters.signal += IDS_PASSED
        known = await self.in_thread(lambda: self._behind(held))
        behind = "; ".join(filter(None, (behind, known)))
        self._scan = None if whole else scan
        wrong = await self._after_fault(held) if held.fault is not None else ""
        await self._explain_positions(loaded, held)
        return Taken(loaded, held, behind, wrong)

    async def _after_fault(self, held: Held) -> str:
        """The books are made to agree with the fills; what cannot be is returned."""
        assert held.fault is not None
        changed, wrong = await self.in_thread(lambda: mend(held, readable_fills({}, self.archive.every("trades"))))
        said = f"a fault in {held.fault.where} ended trading before ({held.fault.error})"
        for line in changed or ["the books agree with the fills"]:
            self.say(f"{said}: {line}")
        rows = [("positions", f"{p.wallet}:{p.pair}", encode_record(p)) for p in held.positions]
        rows += [("balances", f"{b.wallet}:{b.currency}", encode_record(b)) for b in held.balances]
        rows.append(("meta", "ids", encode_record(held.counters)))
        commands: list[tuple[str, str, tuple[str | bytes, ...]]] = []
        if changed:
            commands += [("HSET", self.store.key(table), (field, raw)) for table, field, raw in rows]
        if not wrong:
            commands.append(("HDEL", self.store.key("meta"), ("fault",)))
        if commands:
            await self.store.mend(commands)
        return f"{said}: {'; '.join(wrong)}; see `tbx verify`, and restore a backup" if wrong else ""

    async def _explain_positions(self, loaded: Loaded, held: Held) -> None:
        """Whose the coins are, where what is kept of it does not make the positions."""
        wrong = unexplained(held)
        if not wrong:
            return

        def work() -> Settled:
            archived = readable_fills({}, self.archive.every("trades"))
            fills = booked(fills_aside(loaded.quarantine), archived, held.fills)
            return settle(held, wrong, fills, strategies_of(held.orders, self.archive.every("orders")))

        settled = await self.in_thread(work)
        commands: list[tuple[str, str, tuple[str | bytes, ...]]] = [
            ("HSET", self.store.key(table), (field, value)) for table, field, value in settled.puts
        ]
        commands += [("HDEL", self.store.key("strategies"), (field,)) for field in settled.gone]
        await self.store.mend(commands)
        self.say(settled.said)

    @staticmethod
    def trades_aside(taken: Taken) -> dict[str, set[str]]:
        """Order id -> the venue's ids of its fills that are set aside: their money is in the books."""
        found: dict[str, set[str]] = {}
        for name, raw in taken.loaded.quarantine.items():
            if not name.startswith("trades:"):
                continue
            try:
                value = msgspec.json.decode(raw, type=SetAside).bytes()
            except (msgspec.DecodeError, UnicodeDecodeError):
                continue  # `tbx verify` names it
            for fill in readable_fills({name: value} if value is not None else {}, ()):
                found.setdefault(fill.order_id, set()).add(fill.trade_id)
        return found

    def tell(self, taken: Taken, kernel: Kernel) -> None:
        """Begin the conditions that this start has found."""
        aside = len(taken.loaded.quarantine)
        if aside:
            key = self.store.key("quarantine")
            kernel.conditions.begin("quarantined", f"{aside} in {key}; `tbx verify` lists them")
        if taken.behind:
            kernel.conditions.begin("store_behind", taken.behind)
            self.say(taken.behind)

    def _examined(self, loaded: Loaded) -> tuple[Held, list[Unreadable], list[Put]]:
        puts = migrate(loaded.schema, loaded.tables, lambda: self.archive.every("trades"))
        return *examine(loaded, self.listed, self.archive.held), puts

    # --- the journal

    async def _read_journal(self, scan: Scan, events_max: int | None) -> bool:
        """Look at entries from where the scan is, newest first; whether the oldest was reached."""
        before = scan.before
        while events_max is None or scan.events < events_max:
            entries = await self.store.journal_before(before, JOURNAL_PAGE)
            scan.add(entries)
            if len(entries) < JOURNAL_PAGE:
                return True
            before = scan.before
        return False

    async def rest_of_journal(self, kernel: Kernel) -> None:
        """Look at what the start has not, a page at a time; what cannot be read is a condition from then on."""
        scan, known, whole = self._scan, 0, self._scan is None
        while scan is not None and not whole:
            await asyncio.sleep(JOURNAL_PAUSE_S)
            try:
                whole = await self._read_journal(scan, scan.events + 1)
            except StoreUnavailable:
                await asyncio.sleep(AWAY_PAUSE_S)  # health tells of it
            if len(scan.faults) > known:
                known = len(scan.faults)
                entry_id, fault = next(reversed(scan.faults.items()))
                line = named(Unreadable("journal", entry_id, fault), self.store.node)
                kernel.conditions.begin("journal_damaged", f"{known} entries cannot be read, the last found: {line}")
                kernel.flush_soon()
                self.say(f"{line}; `tbx serve --quarantine` sets it aside")

    # --- setting aside

    async def _set_aside(self, unreadable: list[Unreadable], held: Held, seq: int) -> None:
        trades = [entry.field for entry in unreadable if entry.table == "trades"]
        raws = dict(zip(trades, await self.store.rows("trades", [*map(field_bytes, trades)]), strict=True))
        kept = {field: raw for field, raw in raws.items() if raw is not None}
        puts = await self.in_thread(lambda: self._instead(unreadable, held, kept))
        await set_aside(self.store, unreadable, self.now_ms, puts, seq)
        for entry in unreadable:
            self.say(f"set aside: {named(entry, self.store.node)}")
        for table, field, value in puts:
            self.say(f"in its place: tbx:{self.store.node}:{table} {field}: {value.decode()}")

    def _instead(self, unreadable: list[Unreadable], held: Held, trades: dict[str, bytes]) -> list[Put]:
        """What takes the place of balances (nothing left), positions (as the fills make them) and counters."""
        halted = [self._halted(entry) for entry in unreadable if _may_have_limited(entry)]
        wanted = {entry.name for entry in unreadable if entry.table in ("balances", "positions", "meta")}
        if not wanted:
            return halted
        known = {**trades, **{fill.fill_id: encode_record(fill) for fill in held.fills}}
        fills = readable_fills(known, self.archive.every("trades"))
        folded = fold(fills)
        puts: list[Put] = []
        counters = held.counters
        if "meta:ids" in wanted:
            counters = self._counters(held, fills, unreadable)
        for entry in unreadable:
            wallet, _, rest = entry.field.rpartition(":")
            if entry.table == "balances" and wallet and rest:
                balance = Balance(wallet=wallet, currency=rest, flows=-folded.moves.get((wallet, rest), ZERO))
                puts.append(("balances", entry.field, encode_record(balance)))
            elif entry.table == "positions" and (wallet, rest) in folded.positions:
                position = folded.positions[wallet, rest]
                position.position_id = Ids("", counters).position()
                puts.append(("positions", entry.field, encode_record(position)))
        if wanted & {"meta:ids"} or any(table == "positions" for table, _, _ in puts):
            puts.append(("meta", "ids", encode_record(counters)))
        return puts + halted

    def _halted(self, entry: Unreadable) -> Put:
        """In place of a limit that nobody can read: the strictest, until a person lifts it."""
        scope, _, name = shown(entry.field).removeprefix(LIMIT).rpartition(":")
        if not scope.startswith(SCOPES):
            scope = ""
        limit = TradingLimit(
            name=name or "unreadable",
            scope=scope,
            state="HALTED",
            why=f"{shown(entry.field)} could not be read and was set aside: look at it, then lift this",
            since_ns=self.now_ms * MS_NS,
        )
        return "risk", limit_key(limit.scope, limit.name), encode_record(limit)

    def _counters(self, held: Held, fills: Iterable[Fill], unreadable: Iterable[Unreadable]) -> Counters:
        """From everything that has ever been given a number and is still known."""
        orders = {order.order_id for order in held.orders} | {e.field for e in unreadable if e.table == "orders"}
        orders |= {fill.order_id for fill in fills} | {self.archive.newest("orders") or ""}
        day, number = max((_rank(order_id) for order_id in orders), default=(0, 0))
        signals = [signal.signal_id for signal in held.signals]
        signals += [entry.field for entry in unreadable if entry.table == "signals"]
        signal_day, signal = max(map(_rank, signals), default=(0, 0))
        if signal_day > day:  # none of its signals has become an order yet
            day, number = signal_day, 0
        sent = (order.venue_client_id for order in held.orders if order.venue_client_id)
        tags = dict.fromkeys((*held.counters.tags, *(client_id.rpartition("-")[2] for client_id in sent)))
        return Counters(
            day=day,
            order=number,
            fill=max((_rank(fill.fill_id)[1] for fill in fills), default=0),
            position=max((_rank(position.position_id)[1] for position in held.positions), default=0),
            signal=max(number, signal if signal_day == day else 0),
            tags=list(tags),
        )

    # --- what the archive knows

    def _behind(self, held: Held) -> str:
        """The archive is on disk before Redis lets go: ids in it that Redis has not given yet were lost there."""
        counters, lost = held.counters, []
        for kind, given in (("orders", (counters.day, counters.order)), ("trades", (0, counters.fill))):
            newest = self.archive.newest("orders" if kind == "orders" else "trades")
            if newest is None or id_key(newest) <= given:
                continue
            lost.append(newest)
            if kind == "orders":
                counters.day, counters.order = id_key(newest)
            else:
                counters.fill = id_key(newest)[1]
        return f"the archive holds {' and '.join(lost)}, which Redis does not know of any more" if lost else ""


def _may_have_limited(entry: Unreadable) -> bool:
    return entry.table == "risk" and (entry.field.startswith(LIMIT) or entry.field == "deadman")


def _rank(text: str) -> tuple[int, int]:
    try:
        return id_key(text)
    except ValueError:
        return 0, 0
