"""What must be true at every step of a world, looked at as it happens.

    a frame leaves        of the writer of the present epoch only, and its client id is committed
    an execution          no client id twice, no two attempts of an order open at once
    a commit              of the present epoch; orders move along the grid; fills, reservations, balances and positions
                          agree to the last digit, and each fill is a trade that the exchange has made; nothing ends
                          that is still open at the exchange
    an answer, an event   what it says is committed
    every so often        no order's coins stand unprotected, sums in memory agree

`wrong` raises Violation: where it happens inside of the product's own calls, which turn exceptions into faults, the
first one is kept and raised again by the next look.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import msgspec

from tbx.core.kernel.clock import SECOND_NS
from tbx.core.kernel.outbox import Event
from tbx.core.model.exact import ZERO
from tbx.core.model.ids import id_key
from tbx.core.model.messages import CancelOrder, Submitted
from tbx.core.model.records import ENDED, Balance, Fill, Order, Position, State
from tbx.core.orders.lifecycle import GRID
from tbx.core.portfolio.positions import apply_fill
from tbx.core.state.batch import Batch
from tbx.venues.simulator.exchange.records import UNIT, Execution

if TYPE_CHECKING:
    from ..live_network import ProcessClock
    from .world import World

UNPROTECTED_NS_MAX = 30 * SECOND_NS  # of a venue that takes orders all that time
GIVEN_UP = ("NOTHING_TO_PROTECT", "CANCELLED")  # codes of exits that ended because nothing is left, or somebody asked
NAMED = re.compile(rb'"(?:newC|aboveC|belowC)lientOrderId":"(tbx-[^"]+)"')
ORDER_METHOD = re.compile(rb'"method":"(order\.(?!status|amendments)[^"]+|orderList\.(?!status)[^"]+)"')


def _reachable() -> dict[State, frozenset[State]]:
    """Where an order can get to in any number of steps, its own state included."""
    found: dict[State, frozenset[State]] = {}
    for state in State:
        seen, todo = {state}, [state]
        while todo:
            for after in GRID[todo.pop()]:
                if after is not None and after not in seen:
                    seen.add(after)
                    todo.append(after)
        found[state] = frozenset(seen)
    return found


REACHABLE = _reachable()


class Violation(AssertionError):
    """Something that must never be true is."""


class Kept(msgspec.Struct, kw_only=True):
    """What is looked at of an order as it was committed."""

    order_id: str
    wallet: str
    side: str
    quote: str
    base: str
    state: State = State.HELD
    venue_client_id: str = ""
    qty_lots: int
    filled_lots: int = 0
    reserved: Decimal = ZERO

    @property
    def account(self) -> tuple[str, str]:
        return self.wallet, self.quote if self.side == "buy" else self.base


class Moved(msgspec.Struct):
    """Data of the event `Deposited`."""

    wallet: str
    currency: str
    amount: Decimal


class Frame(msgspec.Struct):
    """An event of the journal."""

    data: Moved


read_order = msgspec.json.Decoder(Kept).decode
read_fill = msgspec.json.Decoder(Fill).decode
read_balance = msgspec.json.Decoder(Balance).decode
read_position = msgspec.json.Decoder(Position).decode
read_deposit = msgspec.json.Decoder(Frame).decode


class Safety:
    """The books that a strict observer keeps of one world."""

    def __init__(self, world: World, *, ahead: bool) -> None:
        self.world = world
        self.ahead = ahead
        self.first: Violation | None = None
        self.orders: dict[str, Kept] = {}  # as committed
        self.named: dict[str, str] = {}  # client ids that are committed -> the order that was sent under it
        self.names: dict[str, list[str]] = defaultdict(list)  # of each order
        self.trades: dict[tuple[str, str], Fill] = {}  # by order id and trade id
        self.fill_ids: set[str] = set()
        self.filled: dict[str, int] = defaultdict(int)
        self.reserved: dict[tuple[str, str], Decimal] = defaultdict(Decimal)
        self.totals: dict[tuple[str, str], Decimal] = defaultdict(Decimal)
        self.positions: dict[tuple[str, str], Position] = {}
        self.taken: dict[tuple[str, int], str] = {}  # the exchange's order -> the client id that it came with
        self.names_taken: set[str] = set()
        self.open: set[str] = set()  # client ids of what is open at the exchange
        self.made: dict[tuple[str, str], Execution] = {}  # trades of ours at the exchange, by symbol and trade id
        self.unprotected_ns: dict[str, int] = {}  # since when
        self.fills_made = 0

    def wrong(self, what: str) -> None:
        if self.first is None:
            self.first = Violation(what)
        raise self.first

    # --- frames

    def sent(self, owner: ProcessClock, raw: bytes) -> None:
        method = ORDER_METHOD.search(raw)
        if method is None:
            return
        if owner.epoch != self.world.store.epoch:
            self.wrong(f"epoch {owner.epoch} is over, and it has sent {raw[:200]!r}")
        if self.ahead and not method[1].startswith((b"order.cancel", b"orderList.cancel", b"order.amend")):
            for name in NAMED.findall(raw):
                if name.decode() not in self.named:
                    self.wrong(f"{name.decode()} was sent before its intent was committed")

    # --- the exchange

    def executed(self, event: Execution) -> None:
        theirs = event.order
        key = (theirs.symbol, theirs.order_id)
        name = self.taken.get(key)
        if name is None:
            name = theirs.client_order_id
            if event.account != self.world.me or not name.startswith("tbx-"):
                return
            if name in self.names_taken:
                self.wrong(f"{name} was taken twice")
            self.names_taken.add(name)
            self.taken[key] = name
        if event.kind == "TRADE" and event.trade is not None:
            self.made[theirs.symbol, str(event.trade.trade.trade_id)] = event
            self.fills_made += 1
        if not theirs.open:
            self.open.discard(name)
        elif name not in self.open:
            self.open.add(name)
            self._alone(self.named.get(name))

    def open_there(self, order_id: str | None) -> list[str]:
        """Under which client ids an order is open at the exchange."""
        return [name for name in self.names.get(order_id or "", ()) if name in self.open]

    def _alone(self, order_id: str | None) -> None:
        there = self.open_there(order_id)
        if len(there) > 1:
            self.wrong(f"{order_id} has {len(there)} attempts open at the exchange: {there}")

    # --- commits

    def written(self, batch: Batch, events: Iterable[bytes], epoch: int, whole: bool) -> None:
        if epoch != self.world.store.epoch:
            self.wrong(f"epoch {epoch} is over, and it has written commit {batch.number}")
        for raw in events:
            if b'"type":"Deposited"' in raw:
                moved = read_deposit(raw).data
                self.totals[moved.wallet, moved.currency] += moved.amount
        touched: list[str] = []
        fills: list[Fill] = []
        balances: list[Balance] = []
        positions: list[Position] = []
        for table, key, raw in batch.puts:
            if table == "orders":
                touched.append(key)
                self._order(read_order(raw))
            elif table == "trades":
                fills.append(read_fill(raw))
            elif table == "balances":
                balances.append(read_balance(raw))
            elif table == "positions":
                positions.append(read_position(raw))
        for table, key in batch.deletes:
            if table == "orders" and self.orders[key].state not in ENDED:
                self.wrong(f"{key} was dropped, and has not ended")
        if len(fills) > 1:
            fills.sort(key=lambda fill: id_key(fill.fill_id))
        for fill in fills:
            self._fill(fill)
        self._agree(touched, balances, positions)
        if whole:
            self._is_whole(batch)

    def _order(self, now: Kept) -> None:
        order_id = now.order_id
        before = self.orders.get(order_id)
        if before is not None:
            if now.state not in REACHABLE[before.state]:
                self.wrong(f"{order_id} went from {before.state.value} to {now.state.value}")
            if now.filled_lots < before.filled_lots:
                self.wrong(f"{order_id} had {before.filled_lots} lots filled, and now {now.filled_lots}")
            self.reserved[before.account] -= before.reserved
        if now.reserved < 0:
            self.wrong(f"{order_id} reserves {now.reserved}")
        if now.state in ENDED:
            if now.reserved:
                self.wrong(f"{order_id} has ended and reserves {now.reserved}")
            if self.open_there(order_id) and (before is None or before.state not in ENDED):
                self.wrong(f"{order_id} has ended here ({now.state.value}), and is open at the exchange")
        elif self.ahead and not now.reserved and now.filled_lots < now.qty_lots and self.open_there(order_id):
            self._unreserved(now)
        self.reserved[now.account] += now.reserved
        self.orders[order_id] = now
        name = now.venue_client_id
        if name and name not in self.named:
            self.named[name] = order_id
            self.names[order_id].append(name)
            self._alone(order_id)

    def archived(self, orders: Iterable[Order], fills: Iterable[Fill]) -> None:
        """The archive gets nothing but what is committed: a fill's id may become another one's."""
        for order in orders:
            kept = self.orders.get(order.order_id)
            if kept is None or kept.state is not order.state or kept.filled_lots != order.filled_lots:
                self.wrong(f"{order.order_id} is archived as {order.state.value}, committed is {kept}")
        for fill in fills:
            known = self.trades.get((fill.order_id, fill.trade_id))
            if known is None or known.fill_id != fill.fill_id:
                self.wrong(f"{fill} is archived, committed is {known}")

    def _unreserved(self, order: Kept) -> None:
        """Nothing is set aside for an order that is open at the exchange; one leg of a pair reserves for both."""
        live = self.world.node.orders.get(order.order_id)
        if live is None or not live.listed:
            self.wrong(f"{order.order_id} is open at the exchange, and nothing is reserved for it")

    def _fill(self, fill: Fill) -> None:
        key = (fill.order_id, fill.trade_id)
        if key in self.trades:
            if self.trades[key].fill_id != fill.fill_id:
                self.wrong(f"trade {fill.trade_id} of {fill.order_id} was booked twice")
            return
        if fill.fill_id in self.fill_ids:
            self.wrong(f"{fill.fill_id} was given to two fills")
        made = self.made.get((fill.pair.replace("_", ""), fill.trade_id))
        name = self.taken.get((made.order.symbol, made.order.order_id), "") if made is not None else ""
        if made is None or self.named.get(name, fill.order_id) != fill.order_id:
            self.wrong(f"a fill of {fill.order_id} that never happened: trade {fill.trade_id}")
        else:
            trade = made.trade
            assert trade is not None
            if fill.quantity * UNIT != trade.trade.qty or fill.price * UNIT != trade.trade.price:
                self.wrong(f"{fill} is not as it happened: {trade}")
        self.trades[key] = fill
        self.fill_ids.add(fill.fill_id)
        self.filled[fill.order_id] += fill.qty_lots
        sign = 1 if fill.side == "buy" else -1
        base, _, quote = fill.pair.partition("_")
        self.totals[fill.wallet, base] += sign * fill.quantity
        self.totals[fill.wallet, quote] -= sign * fill.cost
        self.totals[fill.wallet, fill.fee_currency] -= fill.fee
        held = self.positions.get((fill.wallet, fill.pair))
        if held is None:
            held = Position(position_id="", wallet=fill.wallet, exchange=fill.exchange, pair=fill.pair)
            self.positions[fill.wallet, fill.pair] = held
        apply_fill(held, fill, base=base, quote=quote, lot=fill.lot, new_id=str)

    def _agree(self, touched: Iterable[str], balances: Iterable[Balance], positions: Iterable[Position]) -> None:
        for order_id in touched:
            if self.orders[order_id].filled_lots != self.filled[order_id]:
                self.wrong(
                    f"{order_id} says {self.orders[order_id].filled_lots} lots are filled, "
                    f"its fills say {self.filled[order_id]}"
                )
        for balance in balances:
            account = (balance.wallet, balance.currency)
            if self.ahead and balance.total != self.totals[account]:
                self.wrong(f"{account} holds {balance.total}, its fills and deposits say {self.totals[account]}")
            if balance.locked != self.reserved[account]:
                self.wrong(f"{account} has {balance.locked} set aside, its orders reserve {self.reserved[account]}")
        for position in positions:
            mine = self.positions.get((position.wallet, position.pair))
            if mine is None or (mine.quantity, mine.cost, mine.realised) != (
                position.quantity,
                position.cost,
                position.realised,
            ):
                self.wrong(f"{position} does not follow from its fills: {mine}")

    def _is_whole(self, batch: Batch) -> None:
        """The store was written anew: with everything that it had ever acknowledged."""
        there = {(table, key) for table, key, _ in batch.puts}
        for order_id, order in self.orders.items():
            if order.state not in ENDED and ("orders", order_id) not in there:
                self.wrong(f"{order_id} was lost when the store was written anew")

    # --- what the world is told

    def answered(self, message: Any, value: Any) -> None:
        order = value.order if isinstance(value, Submitted) else value
        if not isinstance(order, Order):
            return
        kept = self.orders.get(order.order_id)
        if kept is None:
            self.wrong(f"{order.order_id} was answered, and is not committed")
        elif isinstance(message, CancelOrder) and kept.state not in ENDED:
            self.wrong(f"{order.order_id} was answered as {order.state.value}, committed is {kept.state.value}")

    def told(self, events: list[Event]) -> None:
        store = self.world.store
        if events[-1].seq > store.seq and not store.behind:
            self.wrong(f"event {events[-1].seq} was told, committed is {store.seq}")

    # --- every so often

    def look(self) -> None:
        """Raises what was found, also where the product has swallowed it."""
        if self.first is not None:
            raise self.first
        world = self.world
        if world.faults:
            self.wrong(f"a fault: {world.faults[0]}")
        if world.clock.alive and not world.clock.paused:
            self._protected()

    def _protected(self) -> None:
        world, node, since = self.world, self.world.node, self.unprotected_ns
        if node.engine.unavailable("binance") or not node.kernel.store_up:
            since.clear()
            return
        now_ns = world.world.now_ns
        for entry in node.orders.orders.values():
            if (entry.stop_loss_id is None and entry.take_profit_id is None) or not entry.filled_lots:
                continue
            order_id = entry.order_id
            if self._is_protected(entry):
                since.pop(order_id, None)
            elif now_ns() - since.setdefault(order_id, now_ns()) > UNPROTECTED_NS_MAX:
                self.wrong(f"{order_id} has {entry.filled_lots} lots and nothing protects them")

    def _is_protected(self, entry: Order) -> bool:
        """Whether an exit works, is armed, is about to; or there is nothing to protect any more."""
        node = self.world.node
        exits = [node.orders.get(i) for i in (entry.stop_loss_id, entry.take_profit_id) if i is not None]
        for leg in exits:
            if leg is None or leg.state is State.FILLED or leg.cancel_requested or leg.code in GIVEN_UP:
                return True  # sold, or somebody wanted it so
            if leg.ended:
                continue
            if leg.state is not State.HELD or leg.waiting or node.triggers.armed(leg.order_id):
                return True
        return False
