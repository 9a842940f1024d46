"""What happens to an order once it is accepted: funds, the book, trades, triggers, its end; and the events of it all.

Always true here:
- Everything runs inside one call of the exchange, between `begin` and `end`, at one time; the events of the call leave
  in the order in which they were made, balances last.
- Checks that can refuse an order (`admit`) come before anything is changed; what follows cannot fail.
- An order ends exactly once, through `finish`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from .accounts import Account
from .market import Market
from .matching import Entry
from .orders import Live
from .prevention import Prevention, prevent
from .records import (
    EXPIRY_FOK,
    EXPIRY_IOC,
    EXPIRY_LIQUIDITY,
    EXPIRY_REJECTED,
    UNIT,
    AccountTrade,
    BalancesChanged,
    Event,
    ExchangeError,
    Execution,
    PreventedMatch,
    PublicTrade,
    Trade,
    snapshot,
)
from .stops import is_met
from .walk import walk

INSUFFICIENT = "Account has insufficient balance for requested action."
WOULD_TAKE = "Order would immediately match and take."
WOULD_TRIGGER = "Stop price would trigger immediately."


class Floor:
    """Executes orders. `house` is the account of the house's orders."""

    def __init__(self, now_ms: Callable[[], int], sink: Callable[[Event], object], house: Account) -> None:
        self.house = house
        self.now = 0  # of the call
        self.fees: dict[str, int] = {}  # taken from accounts, by asset
        self._now_ms = now_ms
        self._sink = sink
        self._events: list[Event] = []
        self._touched: dict[str, Account] = {}
        self._todo: deque[tuple[Callable[[Floor, Live], object], Live]] = deque()  # after the current order

    # --- a call

    def begin(self) -> int:
        self.now = now = self._now_ms()
        return now

    def end(self) -> None:
        """Say what balances changed, and let the events go."""
        for account in self._touched.values():
            free, locked = account.free, account.locked
            changed = {asset: (free[asset], locked[asset]) for asset in account.touched}
            account.touched.clear()
            self._events.append(BalancesChanged(account.name, changed, self.now))
        self._touched.clear()
        events, self._events = self._events, []
        sink = self._sink
        for event in events:
            sink(event)

    def emit(self, event: Event) -> None:
        self._events.append(event)

    def touch(self, account: Account) -> None:
        """The account's balances changed in this call."""
        self._touched[account.name] = account

    def later(self, action: Callable[[Floor, Live], object], live: Live) -> None:
        """Do something after the order at hand; before the call ends."""
        self._todo.append((action, live))

    # --- before an order is accepted

    def admit(self, live: Live, *, funds: bool = True) -> None:
        """Raises ExchangeError -2010 where the book, the last price or the balance do not allow the order.

        Sets the quantity of a market order that came with a quote quantity.
        """
        market, order = live.market, live.order
        if order.type == "LIMIT_MAKER":
            if market.book.crosses(live.is_buy, live.price):
                raise ExchangeError(-2010, WOULD_TAKE)
        elif live.algo:
            last = market.tape.last_price
            if last and not order.trailing_delta and is_met(live, last):
                raise ExchangeError(-2010, WOULD_TRIGGER)
        elif order.type == "MARKET":
            self._admit_market(live)
            return
        if funds:
            need = live.lock_price * live.left // UNIT
            if live.account.free[live.lock_asset] < need:
                raise ExchangeError(-2010, INSUFFICIENT)

    def _admit_market(self, live: Live) -> None:
        order, filters = live.order, live.market.symbol.filters
        step = filters.market_step or filters.step
        if order.quote_order_qty:
            way = walk(live, quote=order.quote_order_qty, step=step)
            if way.qty < filters.min_qty:
                least = "LOT_SIZE filter" if way.qty else "symbol"
                raise ExchangeError(-2010, f"Order book liquidity is less than {least} minimum quantity.")
            if filters.market_max_qty and way.qty > filters.market_max_qty:
                raise ExchangeError(-1013, "Filter failure: MARKET_LOT_SIZE")
            order.quantity = live.left = way.qty
            live.exhausted = way.exhausted
        else:
            way = walk(live, qty=live.left)
        # A buy is paid for what the book really asks; a sell must be covered whole, as its price does not matter.
        need = way.cost if live.is_buy else live.left
        if live.account.free[live.lock_asset] < need:
            raise ExchangeError(-2010, INSUFFICIENT)

    # --- an accepted order

    def enter(self, live: Live) -> None:
        """Give the order its id and make it known."""
        order = live.order
        order.order_id = live.order_id = live.market.order_id()
        order.created_ms = order.updated_ms = self.now
        live.seat.enter(live)

    def start(self, live: Live) -> None:
        """Lock the funds, say NEW, and go to the book, or wait for the stop price."""
        if live.lock_price:
            self.lock(live)
        self.announce(live)
        self.proceed(live)

    def announce(self, live: Live) -> None:
        """Say NEW."""
        order = live.order
        order.status = "NEW"
        order.updated_ms = self.now
        if not live.stopped:
            order.is_working = True
            order.working_ms = self.now
        else:
            market = live.market
            market.stops.add(live, market.tape.last_price, self.now)
        self.report(live, "NEW")

    def proceed(self, live: Live) -> None:
        """After NEW: match, unless the order waits for its stop price."""
        if not live.stopped:
            self.execute(live)

    def lock(self, live: Live) -> None:
        need = live.lock_price * live.left // UNIT
        live.account.lock(live.lock_asset, need)
        self.touch(live.account)
        live.locked += need

    def unlock(self, live: Live, units: int) -> None:
        live.account.lock(live.lock_asset, -units)
        self.touch(live.account)
        live.locked -= units

    def execute(self, live: Live) -> None:
        """Match, then rest or end."""
        market, order = live.market, live.order
        book, price = market.book, live.price
        if book.crosses(live.is_buy, price):
            if order.time_in_force == "FOK" and walk(live, qty=live.left, whole=True).exhausted:
                self.finish(live, "EXPIRED", "EXPIRED", EXPIRY_FOK)
                return
            self.match(live)
            if not live.order.open:
                return
        if price == 0:
            self.finish(live, "EXPIRED", "EXPIRED", EXPIRY_LIQUIDITY)
        elif order.time_in_force == "GTC":
            book.add(live)
        else:
            self.finish(live, "EXPIRED", "EXPIRED", EXPIRY_IOC if order.time_in_force == "IOC" else EXPIRY_FOK)

    def match(self, taker: Live) -> None:
        """Trade with the other side, best price and first come first, until the price or the quantity ends it."""
        market = taker.market
        book = market.book
        is_buy, limit = taker.is_buy, taker.price
        opposite = book.asks if is_buy else book.bids
        account, mode = taker.account, taker.order.stp_mode
        while taker.left:
            level = opposite.best()
            if level is None:
                return
            price = level.price
            if limit and (price > limit if is_buy else price < limit):
                return
            maker = level.first
            assert maker is not None
            if isinstance(maker, Live) and maker.account is account:
                prevention = prevent(mode, taker.left, maker.left)
                if prevention is not None:
                    self._prevent(taker, maker, price, prevention)
                    continue
            qty = maker.shown
            if qty > taker.left:
                qty = taker.left
            if taker.budgeted:
                affordable = account.free[market.quote] * UNIT // price
                affordable -= affordable % market.symbol.filters.step
                if affordable < qty:
                    if not affordable:
                        return
                    qty = affordable
            self.trade(market, taker, maker, price, qty)

    def trade(self, market: Market, taker: Entry, maker: Entry, price: int, qty: int) -> None:
        """One trade: the maker's price, both accounts settled, everybody told."""
        tape, now = market.tape, self.now
        tape.trade_id = trade_id = tape.trade_id + 1
        quote = price * qty // UNIT
        if taker.is_buy:
            trade = Trade(trade_id, market.name, price, qty, quote, now, False, taker.order_id, maker.order_id)
        else:
            trade = Trade(trade_id, market.name, price, qty, quote, now, True, maker.order_id, taker.order_id)
        tape.add(trade)
        if market.stops:
            market.prices.append(price)
        if isinstance(maker, Live) and maker.group is not None:
            maker.group.activated(self, maker)
        taker.left -= qty
        market.book.take(maker, qty)
        if isinstance(taker, Live):
            self._settle(taker, trade, False)
        else:
            self._settle_house(market, taker.is_buy, qty, quote)
        if isinstance(maker, Live):
            self._settle(maker, trade, True)
        else:
            self._settle_house(market, maker.is_buy, qty, quote)
        self._events.append(PublicTrade(trade))

    def _settle(self, live: Live, trade: Trade, is_maker: bool) -> None:
        """The account pays, is paid and is charged in what it receives; the order says TRADE."""
        market, order, account = live.market, live.order, live.account
        qty, quote = trade.qty, trade.quote_qty
        free, rate = account.free, market.maker_rate if is_maker else market.taker_rate
        base_asset, quote_asset = market.base, market.quote
        if live.is_buy:
            commission, commission_asset, received = qty * rate // UNIT, base_asset, qty
            paid_asset, paid = quote_asset, quote
        else:
            commission, commission_asset, received = quote * rate // UNIT, quote_asset, quote
            paid_asset, paid = base_asset, qty
        if live.lock_price:
            released = live.lock_price * qty // UNIT
            live.locked -= released
            account.locked[paid_asset] -= released
            free[paid_asset] += released - paid
        else:
            free[paid_asset] -= paid
        free[commission_asset] += received - commission
        self.fees[commission_asset] = self.fees.get(commission_asset, 0) + commission
        touched = account.touched
        touched[base_asset] = touched[quote_asset] = None
        self._touched[account.name] = account
        order.executed += qty
        order.executed_quote += quote
        order.trades.append(trade.trade_id)
        order.updated_ms = self.now
        whole = order.executed == order.quantity and not live.exhausted
        order.status = "FILLED" if whole else "PARTIALLY_FILLED"
        mine = AccountTrade(
            trade,
            order.order_id,
            order.order_list_id,
            account.name,
            live.is_buy,
            is_maker,
            commission,
            commission_asset,
        )
        live.seat.trades.append(mine)
        if live.fills is not None:
            live.fills.append(mine)
        self.report(live, "TRADE", trade=mine)
        if whole:
            self._ended(live)
        elif not live.left:
            self._used_up(live)

    def _settle_house(self, market: Market, is_buy: bool, qty: int, quote: int) -> None:
        free = self.house.free
        sign = 1 if is_buy else -1
        free[market.base] = free.get(market.base, 0) + sign * qty
        free[market.quote] = free.get(market.quote, 0) - sign * quote

    def _used_up(self, live: Live) -> None:
        """Nothing is left of an order that is not FILLED: some was prevented, or the book was exhausted."""
        if live.exhausted:
            self.finish(live, "EXPIRED", "EXPIRED", EXPIRY_LIQUIDITY)
        else:
            self.finish(live, "EXPIRED_IN_MATCH", "EXPIRED", None)

    # --- prevention

    def _prevent(self, taker: Live, maker: Live, price: int, prevention: Prevention) -> None:
        market = taker.market
        market.prevented_match_id = match_id = market.prevented_match_id + 1
        match = PreventedMatch(
            market.name,
            match_id,
            taker.order_id,
            market.name,
            maker.order_id,
            -1,
            taker.order.stp_mode,
            price,
            prevention.taker,
            prevention.maker,
            self.now,
            taker.account.name,
        )
        taker.seat.prevented.append(match)
        taker.prevented.append(match)
        would = min(taker.left, maker.left)
        if prevention.maker and maker.group is not None:
            maker.group.activated(self, maker)
        if prevention.taker:
            taker.left -= prevention.taker
            self._prevented(taker, maker, match_id, price, prevention.taker, would)
        if prevention.maker:
            market.book.take(maker, prevention.maker)
            self._prevented(maker, taker, match_id, price, prevention.maker, would)
        for live in (taker, maker):
            if not live.left:
                self._ended(live)

    def _prevented(self, live: Live, counter: Live, match_id: int, price: int, qty: int, would: int) -> None:
        order = live.order
        order.prevented_quantity += qty
        order.prevented_match_id = match_id
        order.updated_ms = self.now
        if live.lock_price and live.locked:
            self.unlock(live, live.lock_price * qty // UNIT)
        if not live.left:
            order.status = "EXPIRED_IN_MATCH"
        self._events.append(
            Execution(
                account=live.account.name,
                kind="TRADE_PREVENTION",
                order=snapshot(order),
                execution_id=self.next_execution_id(live.market),
                time_ms=self.now,
                prevented_quantity=qty,
                prevented_price=price,
                prevented_trade_qty=would,
                counter_order_id=counter.order_id,
                counter_symbol=counter.market.name,
            )
        )

    # --- ends

    def finish(self, live: Live, status: str, kind: str, reason: int | None, cancel_client_id: str = "") -> None:
        """End an order: off the book and the waiting orders, funds freed, and said so."""
        order = live.order
        if live.level is not None:
            live.market.book.remove(live)
        if live.stopped:
            live.market.stops.remove(live)
        if live.locked:
            self.unlock(live, live.locked)
        order.status = status
        order.expiry_reason = reason
        order.updated_ms = self.now
        self.report(live, kind, cancel_client_id=cancel_client_id)
        self._ended(live)

    def _ended(self, live: Live) -> None:
        live.seat.leave(live)
        if live.group is not None:
            live.group.ended(self, live)

    # --- triggers

    def drain(self, market: Market) -> None:
        """Everything that the order at hand set off: triggers, orders that waited in lists, and what these set off."""
        todo, prices = self._todo, market.prices
        while prices or todo:
            if prices:
                traded, market.prices = prices, []
                for price in traded:
                    for live in market.stops.feed(price, self.now):
                        if live.order.open:  # not expired by one that the same price triggered
                            self._trigger(live)
                prices = market.prices
                continue
            action, live = todo.popleft()
            action(self, live)
            prices = market.prices

    def _trigger(self, live: Live) -> None:
        live.stopped = False
        if live.group is not None:
            live.group.activated(self, live)
        self.later(Floor._triggered, live)

    def _triggered(self, live: Live) -> None:
        """A stop order goes to the book; it says NEW again, now working."""
        order = live.order
        order.is_working = True
        order.working_ms = order.updated_ms = self.now
        if live.price == 0 and live.is_buy:
            # It locked funds for its stop price; what it pays now is the book's price.
            if live.locked:
                self.unlock(live, live.locked)
            live.lock_price = 0
            live.budgeted = True
        self.report(live, "NEW")
        self.execute(live)

    def refuse_pending(self, live: Live) -> None:
        """An order whose time has come in a list cannot be placed."""
        self.finish(live, "EXPIRED", "EXPIRED", EXPIRY_REJECTED)

    # --- reports

    def next_execution_id(self, market: Market) -> int:
        market.execution_id = execution_id = market.execution_id + 1
        return execution_id

    def report(
        self,
        live: Live,
        kind: str,
        *,
        trade: AccountTrade | None = None,
        cancel_client_id: str = "",
        amended_from: str = "",
    ) -> int:
        """An Execution event with the order as it is now; returns its id."""
        market = live.market
        market.execution_id = execution_id = market.execution_id + 1
        self._events.append(
            Execution(
                account=live.account.name,
                kind=kind,
                order=snapshot(live.order),
                execution_id=execution_id,
                time_ms=self.now,
                trade=trade,
                cancel_client_id=cancel_client_id,
                amended_from=amended_from,
            )
        )
        return execution_id
