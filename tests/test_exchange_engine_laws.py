"""The matching engine's laws, whatever accounts and the house do: exact funds, fair queues, sound books and lists."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tbx.venues.simulator.exchange import CancelReplaceError, ExchangeError
from tbx.venues.simulator.exchange.lists import need
from tbx.venues.simulator.exchange.records import UNIT, NewList, NewOrder, PublicTrade

from .exchange_engine import FUNDS, Pit, S, to_units
from .exchange_twin import Twin

TICK = to_units("100")  # a coarse grid within the symbol's, so that orders meet
CENTRE = to_units("60000")
LOT = to_units("0.1")
MODES = ("NONE", "EXPIRE_MAKER", "EXPIRE_TAKER", "EXPIRE_BOTH", "DECREMENT")

accounts = st.sampled_from(("ann", "bob", "ann", "bob", "eve"))
sides = st.sampled_from(("BUY", "SELL"))
ticks = st.integers(-4, 4)
lots = st.integers(1, 12)
modes = st.sampled_from(MODES)
picks = st.integers(0, 30)

limits = st.tuples(
    st.just("limit"),
    accounts,
    sides,
    ticks,
    lots,
    st.sampled_from((0, 0, 1, 3)),
    st.sampled_from(("GTC", "GTC", "IOC", "FOK")),
    modes,
)
markets = st.tuples(st.just("market"), accounts, sides, lots, modes)
cancels = st.tuples(st.just("cancel"), picks)
amends = st.tuples(st.just("amend"), picks, lots)
levels = st.tuples(st.just("level"), sides, ticks, st.integers(0, 12))
house_trades = st.tuples(st.just("trade"), sides, ticks, lots)
plain = st.one_of(limits, limits, markets, cancels, amends, levels, house_trades)

makers = st.tuples(st.just("maker"), accounts, sides, ticks, lots)
quotes = st.tuples(st.just("quote"), accounts, sides, st.integers(1_000, 90_000), modes)
stops = st.tuples(
    st.just("stop"),
    accounts,
    sides,
    st.sampled_from(("STOP_LOSS", "STOP_LOSS_LIMIT", "TAKE_PROFIT", "TAKE_PROFIT_LIMIT")),
    ticks,
    ticks,
    lots,
    st.sampled_from((None, None, 20, 60)),
)
ocos = st.tuples(st.just("oco"), accounts, sides, st.integers(1, 4), st.integers(1, 4), lots, st.booleans())
otos = st.tuples(st.just("oto"), accounts, sides, ticks, st.integers(1, 4), lots, st.booleans(), modes)
replaces = st.tuples(st.just("replace"), picks, ticks, lots, st.sampled_from(("STOP_ON_FAILURE", "ALLOW_FAILURE")))
cancel_alls = st.tuples(st.just("cancel all"), accounts)
everything = st.one_of(plain, plain, makers, quotes, stops, ocos, otos, replaces, cancel_alls)


def price_of(tick: int) -> int:
    return CENTRE + tick * TICK


def new(side: str, kind: str, qty: int = 0, price: int = 0, tif: str | None = None, **more: Any) -> NewOrder:
    return NewOrder(S, side, kind, tif, qty * LOT or None, price=price or None, **more)


class Desk:
    """Carries out operations; what the exchange refuses is refused without a trace."""

    def __init__(self) -> None:
        self.pit = Pit(max_orders=40)
        self.pit.ex.add_account("eve", {"BTC": to_units("3"), "USDT": to_units("200000")})
        self.placed: list[tuple[str, int]] = []  # account, order id
        self.copies: tuple[dict[int, int], dict[int, int]] = ({}, {})

    def do(self, operation: tuple[Any, ...]) -> bool:
        """False where the exchange refused."""
        name, *args = operation
        before = self.pit.state()
        self.pit.mark()
        self.pit.now += 7
        try:
            getattr(self, "do_" + name.replace(" ", "_"))(*args)
        except CancelReplaceError as error:
            if isinstance(error.cancelled, ExchangeError) and error.code == -2022:
                assert self.pit.state() == before
            return False
        except ExchangeError:
            assert self.pit.state() == before
            return False
        return True

    def place(self, account: str, order: NewOrder) -> None:
        self.placed.append((account, self.pit.ex.place(account, order).order.order_id))

    def picked(self, pick: int) -> tuple[str, int]:
        """One of the orders so far, open or not."""
        return self.placed[pick % len(self.placed)] if self.placed else ("ann", 999)

    def do_limit(self, account: str, side: str, tick: int, qty: int, part: int, tif: str, mode: str) -> None:
        part = part if tif == "GTC" and part < qty else 0
        order = new(side, "LIMIT", qty, price_of(tick), tif, iceberg_qty=part * LOT or None, stp_mode=mode)
        self.place(account, order)

    def do_market(self, account: str, side: str, qty: int, mode: str) -> None:
        self.place(account, new(side, "MARKET", qty, stp_mode=mode))

    def do_quote(self, account: str, side: str, quote: int, mode: str) -> None:
        self.place(account, new(side, "MARKET", quote_order_qty=quote * UNIT, stp_mode=mode))

    def do_maker(self, account: str, side: str, tick: int, qty: int) -> None:
        self.place(account, new(side, "LIMIT_MAKER", qty, price_of(tick)))

    def do_stop(self, account: str, side: str, kind: str, stop: int, limit: int, qty: int, delta: int | None) -> None:
        limited = kind.endswith("LIMIT")
        order = new(side, kind, qty, price_of(limit) if limited else 0, "GTC" if limited else None)
        order.trailing_delta = delta
        if delta is None or stop > 0:
            order.stop_price = price_of(stop)
        self.place(account, order)

    def pair(self, side: str, up: int, down: int, qty: int, contingent: bool) -> tuple[NewOrder, NewOrder]:
        last = self.pit.ex.tape(S).last_price or CENTRE
        high, low = last + up * TICK, last - down * TICK
        if side == "SELL":
            first = (
                new(side, "TAKE_PROFIT", qty, stop_price=high) if contingent else new(side, "LIMIT_MAKER", qty, high)
            )
            return first, new(side, "STOP_LOSS_LIMIT", qty, low - TICK, "GTC", stop_price=low)
        second = new(side, "TAKE_PROFIT", qty, stop_price=low) if contingent else new(side, "LIMIT_MAKER", qty, low)
        return new(side, "STOP_LOSS", qty, stop_price=high), second

    def do_oco(self, account: str, side: str, up: int, down: int, qty: int, contingent: bool) -> None:
        pending = self.pair(side, up, down, qty, contingent)
        self.listed(account, NewList(kind="OCO", symbol=S, pending=pending))

    def do_oto(self, account: str, side: str, tick: int, gap: int, qty: int, paired: bool, mode: str) -> None:
        working = new(side, "LIMIT", qty, price_of(tick), "GTC", stp_mode=mode)
        other = "SELL" if side == "BUY" else "BUY"
        if paired:
            pending = self.pair(other, gap, gap, qty, False)
            self.listed(account, NewList(kind="OTOCO", symbol=S, working=working, pending=pending))
        else:
            exit_order = new(other, "LIMIT", qty, price_of(tick + (gap if side == "BUY" else -gap)), "GTC")
            self.listed(account, NewList(kind="OTO", symbol=S, working=working, pending=(exit_order,)))

    def listed(self, account: str, new_list: NewList) -> None:
        report = self.pit.ex.place_list(account, new_list)
        self.placed += [(account, order.order_id) for order in report.orders]

    def do_cancel(self, pick: int) -> None:
        account, order_id = self.picked(pick)
        self.pit.ex.cancel(account, S, order_id)

    def do_cancel_all(self, account: str) -> None:
        self.pit.ex.cancel_all(account, S)

    def do_replace(self, pick: int, tick: int, qty: int, mode: str) -> None:
        account, order_id = self.picked(pick)
        done = self.pit.ex.cancel_replace(account, new("BUY", "LIMIT", qty, price_of(tick), "GTC"), mode, order_id)
        self.placed.append((account, done.placed.order.order_id))

    def do_amend(self, pick: int, qty: int) -> None:
        account, order_id = self.picked(pick)
        self.pit.ex.amend(account, S, qty * LOT, order_id)

    def do_level(self, side: str, tick: int, qty: int) -> None:
        self.pit.house.set_level(side, price_of(tick), qty * LOT)

    def do_trade(self, side: str, tick: int, qty: int) -> None:
        self.pit.house.trade(side, price_of(tick), qty * LOT)

    # --- the laws

    def check(self) -> None:
        self.check_funds()
        self.check_book()
        self.check_orders()
        self.check_lists()

    def check_funds(self) -> None:
        ex = self.pit.ex
        owned = {asset: ex.house.free.get(asset, 0) + ex.fees.get(asset, 0) for asset in ("BTC", "USDT")}
        for name in ex.accounts:
            for asset, (free, locked) in ex.balances(name).items():
                assert free >= 0 and locked >= 0, (name, asset, free, locked)
                owned[asset] += free + locked
        deposited = {asset: 2 * to_units(units) for asset, units in FUNDS.items()}
        assert owned["BTC"] == deposited["BTC"] + to_units("3")
        assert owned["USDT"] == deposited["USDT"] + to_units("200000")
        for name in ex.accounts:
            needs = {"BTC": 0, "USDT": 0}
            groups = {live.group for live in ex.seat(name, S).open.values() if live.group is not None}
            for live in ex.seat(name, S).open.values():
                paired = live.group is not None and live.group.pair is not None and live in live.group.pair
                if live.order.status != "PENDING_NEW" and not paired:
                    needs[live.lock_asset] += need(live)
                    assert live.locked == need(live)
            for group in groups:
                if group.pair is not None:
                    needs[group.pair[0].lock_asset] += max(need(live) for live in group.pair)
            assert {asset: ex.balances(name).get(asset, (0, 0))[1] for asset in needs} == needs

    def check_book(self) -> None:
        book = self.pit.ex.book(S)
        bid, ask = book.best_bid[0], book.best_ask[0]
        assert not (bid and ask) or bid < ask
        for side in (book.bids, book.asks):
            assert side.ranks == sorted(p if side.is_buy else -p for p in side.levels)
            for price, level in side.levels.items():
                entries = list(level)
                assert entries and level.price == price
                assert level.qty == sum(entry.shown for entry in entries)
                assert level.house == sum(entry.shown for entry in entries if entry.house)
                assert all(0 < entry.shown <= entry.left and entry.level is level for entry in entries)
        known = self.pit.ex.book(S).update_id
        changes = book.take_changes()
        if changes is not None:
            assert changes[1] == known
            for mine, changed in zip(self.copies, changes[2:], strict=True):
                mine.update(changed)
                for price in [price for price, qty in mine.items() if not qty]:
                    del mine[price]
        _, bids, asks = book.depth()
        assert (dict(bids), dict(asks)) == self.copies
        assert [price for price, _ in bids] == sorted(self.copies[0], reverse=True)
        assert [price for price, _ in asks] == sorted(self.copies[1])

    def check_orders(self) -> None:
        ex = self.pit.ex
        for name in ex.accounts:
            trades = ex.trades(name, S, limit=1000)
            for order in ex.all_orders(name, S, limit=1000):
                mine = [trade.trade for trade in trades if trade.order_id == order.order_id]
                assert order.executed == sum(trade.qty for trade in mine)
                assert order.executed_quote == sum(trade.quote_qty for trade in mine)
                assert order.trades == [trade.trade_id for trade in mine]
                assert order.executed + order.prevented_quantity <= order.quantity
                whole = order.executed == order.quantity
                assert order.status != "FILLED" or whole
                assert not order.open or order.executed + order.prevented_quantity < order.quantity
                live = ex.seat(name, S).orders[order.order_id]
                assert (order.order_id in ex.seat(name, S).open) is order.open
                assert (live.level is not None) is (order.open and order.is_working)
                if order.open:
                    assert live.left == order.quantity - order.executed - order.prevented_quantity
        public = [event.trade.trade_id for event in self.pit.all_events if isinstance(event, PublicTrade)]
        assert public == list(range(1, len(public) + 1))

    def check_lists(self) -> None:
        ex = self.pit.ex
        for name in ex.accounts:
            for record in ex.all_lists(name):
                orders = [ex.order(name, S, each.order_id) for each in record.orders]
                pair = orders if record.contingency == "OCO" else orders[1:] if len(orders) == 3 else []
                assert sum(order.executed > 0 for order in pair) <= 1
                assert (record.status == "ALL_DONE") is (not any(order.open for order in orders))
                if record.contingency == "OTO":
                    working, *pending = orders
                    assert working.status == "FILLED" or all(order.executed == 0 for order in pending)
            assert ex.seat(name, S).lists == len(ex.open_lists(name))


@settings(max_examples=150, deadline=None)
@given(st.lists(everything, max_size=40))
def test_funds_books_orders_and_lists_are_sound_whatever_happens(operations: list[tuple[Any, ...]]) -> None:
    desk = Desk()
    for operation in operations:
        desk.do(operation)
        desk.check()
    for name in desk.pit.ex.accounts:
        if desk.pit.ex.open_orders(name):
            desk.pit.ex.cancel_all(name, S)
        assert all(locked == 0 for _, locked in desk.pit.ex.balances(name).values())


@settings(max_examples=150, deadline=None)
@given(st.lists(plain, max_size=40))
def test_who_trades_with_whom_is_what_a_plain_list_says(operations: list[tuple[Any, ...]]) -> None:
    desk, twin = Desk(), Twin()
    for operation in operations:
        name, *args = operation
        open_before = {(a, o.order_id): o for a in desk.pit.ex.accounts for o in desk.pit.ex.open_orders(a)}
        picked = desk.picked(args[0]) if name in ("cancel", "amend") else None
        if not desk.do(operation):
            continue
        if name == "limit":
            account, side, tick, qty, part, tif, mode = args
            part = part * LOT if tif == "GTC" and part < qty else 0
            twin.place(account, desk.placed[-1], side == "BUY", price_of(tick), qty * LOT, part, tif, mode)
        elif name == "market":
            account, side, qty, mode = args
            twin.place(account, desk.placed[-1], side == "BUY", 0, qty * LOT, 0, "IOC", mode)
        elif name == "cancel":
            twin.cancel(picked)
        elif name == "amend":
            assert picked is not None
            was = open_before[picked]
            twin.shrink(picked, args[1] * LOT - was.executed - was.prevented_quantity)
        elif name == "level":
            twin.set_house(args[0] == "BUY", price_of(args[1]), args[2] * LOT)
        else:
            twin.house_trade(args[0] == "BUY", price_of(args[1]), args[2] * LOT)
        _, bids, asks = desk.pit.ex.book(S).depth()
        assert (dict(bids), dict(asks)) == twin.depth()
        assert traded(desk) == twin.trades


def traded(desk: Desk) -> list[tuple[int, int, object, object]]:
    owners: dict[int, object] = {order_id: (account, order_id) for account, order_id in desk.placed}
    found = []
    for event in desk.pit.all_events:
        if isinstance(event, PublicTrade):
            trade = event.trade
            maker, taker = trade.buyer_order_id, trade.seller_order_id
            if not trade.buyer_is_maker:
                maker, taker = taker, maker
            found.append((trade.price, trade.qty, owners.get(maker), owners.get(taker)))
    return found


@settings(max_examples=30, deadline=None)
@given(st.lists(everything, max_size=30))
def test_the_same_operations_make_the_same_events(operations: list[tuple[Any, ...]]) -> None:
    first, second = Desk(), Desk()
    for operation in operations:
        first.do(operation)
        second.do(operation)
    assert first.pit.all_events == second.pit.all_events
