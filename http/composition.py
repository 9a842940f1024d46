"""Builds the core from what was loaded: actors in the order in which they must see a message, venues, and their market.

Always true here: nothing does I/O yet. `Node.start` begins timers and the market; the caller has committed nothing
before. The order of the actors matters: a fill reaches the order, then the portfolio, then the exits that depend on
the balance.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from decimal import ROUND_FLOOR, Decimal
from functools import partial

from ..core.execution.engine import ExecutionEngine, Limits
from ..core.kernel.clock import Clock
from ..core.kernel.kernel import CommitStore, Kernel, Record
from ..core.kernel.outbox import Outbox
from ..core.market.data import MarketData
from ..core.model.errors import SettingsError, StoreCorrupt, StoreError
from ..core.model.exact import ZERO
from ..core.model.ids import Ids, base36, wallet_of
from ..core.model.messages import AskAtVenue, Faulted, PlaceAtVenue
from ..core.model.records import Order, State
from ..core.orders.amending import Amending
from ..core.orders.brackets import Brackets
from ..core.orders.closing import Closing
from ..core.orders.history import ArchiveWrite, History, HistoryLimits
from ..core.orders.manager import OrderManager, OrderSettings
from ..core.orders.reconciliation import Reconciliation
from ..core.orders.recovery import Recovery
from ..core.orders.registry import Orders
from ..core.orders.reports import ArchivedTrades, Reports
from ..core.orders.resolving import Resolving
from ..core.orders.triggers import Triggers
from ..core.portfolio.accounts import Accounts
from ..core.portfolio.ledger import Ledger, reservations
from ..core.portfolio.manager import PortfolioManager
from ..core.portfolio.subledgers import SubLedgers
from ..core.portfolio.valuation import is_paper
from ..core.risk.advice import Advising
from ..core.risk.checks import Checks, Figures, RiskLimits
from ..core.risk.deadman import DeadManTimer
from ..core.risk.drill import Drill
from ..core.risk.exposure import Exposure
from ..core.risk.flatten import Flatten
from ..core.risk.groups import Groups
from ..core.risk.guard import Guard
from ..core.risk.loss_limits import LossLimits
from ..core.risk.open_risk import OpenRisk
from ..core.risk.order_rate import OrderRate
from ..core.risk.overview import Overview, Shares
from ..core.risk.sizing import SizingSettings
from ..core.risk.statistics import Statistics
from ..core.risk.withdrawing import Withdrawing
from ..core.settings import Settings
from ..core.state.lease import Lease
from ..core.state.store import Loaded
from ..strategies_bridge.command_marks import CommandMarks
from ..strategies_bridge.loading import Planned
from ..strategies_bridge.running import StrategyLog
from ..strategies_bridge.signal_entries import Entries, EntrySettings
from ..strategies_bridge.signals import Signals
from ..venues.client import VenueClient
from ..venues.paper import PaperVenue
from ..venues.simulator.instruments import paper_latency_ns
from .exchanges import Core, Exchanges, MarketSource, Shown, Simulated
from .state.loading import Held, checked_account
from .strategy_wiring import strategies_of
from .watching import Watched, Watching

PAPER_JITTER_SHARE = 5  # the paper venues' latency varies by up to a fifth of it


class Node:
    """The core of one process, wired."""

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        store: CommitStore,
        loaded: Loaded,
        archive_write: ArchiveWrite,
        archived_trades: ArchivedTrades,
        *,
        epoch: int,
        lease: Lease | None = None,
        run: str = "0",
        exchanges: Exchanges | None = None,
        held: Held | None = None,
        on_fatal: Callable[[StoreError], None] | None = None,
        on_fault: Callable[[Faulted, Exception], None] | None = None,
        on_trouble: Callable[[str], None] | None = None,
        market_source: Callable[[Clock, MarketData], MarketSource] | None = None,
        strategies: Sequence[Planned] | None = None,
        on_strategy: StrategyLog | None = None,
    ) -> None:
        """`exchanges` as `connected` found them; None where MARKET is not a live one. `market_source` feeds the
        books instead of what they would. `run` tells this process from every other one: hexadecimal digits. `held` is
        `loaded` where that was examined already."""
        self.settings = settings
        self.exchanges: Exchanges = exchanges if exchanges is not None else Simulated(settings)
        self.trouble = on_trouble or _untold
        self.held = held if held is not None else Held.of(loaded, settings.node_id)
        self.account, self.account_id = checked_account(self.held, self.exchanges.account, settings.node_id)
        outbox = Outbox(loaded.seq, loaded.number, release_at_once=settings.durability == "behind")
        self.kernel = Kernel(clock, store, outbox=outbox, lease=lease, on_fatal=on_fatal, on_fault=on_fault)
        self.ids = Ids(settings.node_id, self.held.counters, base36(int(run, 16) % 36**3))
        self.instruments = {(i.exchange, i.pair): i for i in self.exchanges.instruments}
        self.market = MarketData(
            self.kernel, self.instruments.values(), depth_max=self.exchanges.depth_max, on_trouble=on_trouble
        )
        self._wallets: dict[tuple[str, bool], tuple[str, ...]] = {}  # of a pair, paper or live
        self._build_core()
        history = HistoryLimits(settings.max_orders_kept, settings.max_trades_kept)
        self.history = History(self.kernel, self.orders, archive_write, history)
        rng = random.Random(f"{settings.market_seed}:{epoch}")
        self.paper_venues = self._paper_venues(epoch)
        self.live_venues = self.exchanges.live_venues(self._for_venues(rng.random))
        self.venues: dict[str, VenueClient] = {f"paper.{name}": venue for name, venue in self.paper_venues.items()}
        self.venues.update((venue.name, venue) for venue in self.live_venues)
        for wallet, client in self.venues.items():
            self.engine.attach(wallet, client)
        self.reports = Reports(self.kernel, self.manager, rng.random, archived_trades)
        self.recovery = Recovery(self.kernel, self.manager, self._ask)
        self.accounts = self._accounts()
        self.reconciliation = self._reconciliation(archived_trades)
        self.reconciliation.marks.restore(loaded.meta)
        self.source = self._market_source(clock, market_source)
        self.strategies = strategies_of(self, strategies, on_strategy)
        self._add_actors()
        self._restore()
        del self.held  # the actors have it now; what they drop must not be kept here
        self.kernel.everything = self.everything

    # --- building

    def _market_source(self, clock: Clock, given: Callable[[Clock, MarketData], MarketSource] | None) -> MarketSource:
        """What feeds the books, and is asked for a snapshot where one has a gap."""
        source = (
            given(clock, self.market)
            if given is not None
            else self.exchanges.source(clock, self.market, self.held.books, self.trouble)
        )
        for exchange in self.paper_venues:
            self.market.resync[exchange] = source.resync
        return source

    def _build_core(self) -> None:
        """Portfolio, risk, execution and orders."""
        settings = self.settings
        self.portfolio = PortfolioManager(
            self.kernel,
            self.ids,
            self.instruments,
            self.market.mid,
            settings.base_currency,
            paper=not settings.live,
        )
        self.ledger: Ledger = self.portfolio.ledger
        self.subledgers = SubLedgers(self.kernel, self.portfolio.rates, paper=not settings.live)
        self.guard = Guard(self.kernel, self.instruments)
        self.loss_limits = LossLimits(
            self.kernel,
            self.guard,
            self.portfolio,
            max_daily_loss=settings.max_daily_loss,
            max_drawdown=settings.max_drawdown,
            enabled=settings.enable_risk_checks,
        )
        self.orders = Orders(self.kernel, self.ids)
        self.triggers = Triggers(self.kernel, self.market)
        distance = settings.stop_loss_percent / 100 if settings.stop_loss_enabled else None
        limits = Limits(
            max_slippage=settings.max_slippage_percent / 100, paper=not settings.live, stop_distance=distance
        )
        self.engine = ExecutionEngine(self.kernel, self.market, self.instruments, limits)
        self.open_risk = OpenRisk(self.orders, self.instruments, self._to_base)
        self.advising = Advising(self.kernel, refuse_oversize=settings.risk_oversize == "refuse")
        groups = Groups(settings.base_currency)
        self.statistics = Statistics(self.kernel, self.market, groups, settings.base_currency)
        self.exposure = Exposure(self.kernel, self.portfolio, self.orders, groups)
        self.checks = self._checks()
        self.manager = OrderManager(
            self.kernel,
            self.orders,
            self.engine,
            self.checks,
            self.ledger,
            self.triggers,
            self.advising,
            OrderSettings(timeout_ns=settings.default_order_timeout_ns, default_tif=settings.default_time_in_force),
        )
        self.amending = Amending(self.kernel, self.manager)
        self.brackets = Brackets(self.kernel, self.manager)
        self.brackets.shares = self.subledgers.of
        self.command_marks = CommandMarks(self.kernel)
        self.signals = self._signals()
        self.closing = Closing(self.kernel, self.manager, self.portfolio.find)
        self.closing.owned = self.subledgers.quantity
        self.flatten = Flatten(self.kernel, self.guard, self.manager, self.portfolio, self.subledgers.quantity)
        self.dead_man = DeadManTimer(self.kernel, self.guard, self.manager)
        self.drill = Drill(self.kernel, self.guard, self.manager, self.flatten)
        self.overview = self._overview()

    def _checks(self) -> Checks:
        portfolio, settings = self.portfolio, self.settings
        limits = RiskLimits(
            enabled=settings.enable_risk_checks,
            max_position_size=settings.max_position_size,
            max_daily_loss=settings.max_daily_loss,
            max_risk_per_trade=settings.max_risk_per_trade,
            max_daily_risk=settings.max_daily_risk,
            max_correlated=settings.max_correlated_exposure,
            price_collar=settings.price_collar_percent / 100,
        )
        figures = Figures(
            available=self.ledger.available,
            equity=lambda wallet: portfolio.equity(is_paper(wallet)),
            position_value=lambda wallet, pair: self._of_all(portfolio.position_value, wallet, pair),
            buying=lambda wallet, pair: self._of_all(self.orders.buying, wallet, pair),
            day_pnl=self._day_pnl,
            to_base=self._to_base,
            lost_today=lambda wallet: portfolio.lost_today(is_paper(wallet)),
            open_risk=self.open_risk.of,
            entry_risk=self.open_risk.of_entry,
            exposure=self.exposure.room_actual,
            day_loss_base=self.loss_limits.day_loss_base,
            now_ns=self.kernel.clock.now_ns,
        )
        return Checks(limits, self.guard, figures, OrderRate(settings.order_rate_limit))

    def _signals(self) -> Signals:
        settings = self.settings
        sizing = SizingSettings(
            kelly_fraction=settings.kelly_fraction,
            target_volatility=settings.target_volatility,
            volatility_floor=settings.volatility_floor,
            volatility_cap=settings.volatility_cap,
        )
        entries = Entries(
            self.engine,
            self.checks,
            EntrySettings(sizing=sizing, max_risk=settings.max_risk_per_trade),
            volatility=self.statistics.volatility,
            track_record=self.subledgers.record,
        )
        return Signals(
            self.kernel,
            self.manager,
            self.portfolio,
            entries,
            owned=self.subledgers.quantity,
            max_age_ns=settings.signal_max_age_ns,
            rate_limit=settings.order_rate_limit,
        )

    def _overview(self) -> Overview:
        settings = self.settings
        return Overview(
            Shares(
                position_size=settings.max_position_size,
                risk_per_trade=settings.max_risk_per_trade,
                daily_risk=settings.max_daily_risk,
                daily_loss=settings.max_daily_loss,
                drawdown=settings.max_drawdown,
                correlated=settings.max_correlated_exposure,
                order_rate=settings.order_rate_limit,
            ),
            guard=self.guard,
            losses=self.loss_limits,
            flatten=self.flatten,
            dead_man=self.dead_man,
            drill=self.drill,
            portfolio=self.portfolio,
            open_risk=lambda paper: self.open_risk.of("paper." if paper else ""),
            exposure=self.exposure.view,
            busiest=self.checks.rate.busiest,
        )

    def _of_all(self, figure: Callable[[str, str], Decimal], wallet: str, pair: str) -> Decimal:
        """Of a pair at all exchanges, in wallets of one side: a position that is spread is no smaller for it."""
        wallets = self._wallets.get((pair, is_paper(wallet)))
        if wallets is None:
            paper = is_paper(wallet)
            wallets = tuple(wallet_of(instrument, paper) for instrument in self.engine.by_pair[pair])
            self._wallets[pair, paper] = wallets
        if len(wallets) == 1:
            return figure(wallets[0], pair)
        return sum([figure(each, pair) for each in wallets], ZERO)

    def _to_base(self, currency: str, exchange: str) -> Decimal | None:
        return self.portfolio.rates.rate(exchange, currency).value

    def _day_pnl(self, wallet: str) -> Decimal | None:
        """Nothing is known of the day right after a start, while balances wait for their first price."""
        portfolio = self.portfolio
        if is_paper(wallet) != portfolio.paper:
            return None
        return portfolio.day_pnl() if portfolio.complete(portfolio.paper) else ZERO

    def _paper_venues(self, epoch: int) -> dict[str, PaperVenue]:
        settings = self.settings
        venues = {}
        for exchange in dict.fromkeys(exchange for exchange, _ in self.instruments):
            venue = PaperVenue(
                self.kernel,
                exchange,
                self.market,
                rng=random.Random(f"{settings.market_seed}:{exchange}:{epoch}"),
                run=str(epoch),
                latency_ns=paper_latency_ns(exchange, settings.paper_latency_ns),
                jitter_ns=settings.paper_latency_ns // PAPER_JITTER_SHARE,
            )
            venues[exchange] = venue
        return venues

    def _for_venues(self, jitter: Callable[[], float]) -> Core:
        engine = self.engine
        return Core(
            self.kernel, self.ids, jitter, self.trouble, engine.set_fees, engine.set_trading, self._admit_account
        )

    def _accounts(self) -> Accounts:
        recovery = self.recovery
        accounts = Accounts(self.kernel, self.portfolio, self.instruments, recovery.settled_at, recovery.doubt_all)
        for venue in self.live_venues:
            accounts.attach(venue.name, venue)
        self.engine.pending = self._pending
        return accounts

    def _reconciliation(self, archived: ArchivedTrades) -> Reconciliation:
        found = Reconciliation(self.kernel, self.manager, self.accounts, self.instruments, archived)
        for venue in self.live_venues:
            found.attach(venue.name, venue.survey)
        self.portfolio.settled = not self.live_venues
        found.on_settled = self.portfolio.balances_known
        self.reports.adopt, self.reports.unknown_accepted = found.adopt, found.unknown_accepted
        self.triggers.not_yet = found.not_yet
        return found

    def _pending(self, wallet: str) -> str:
        """Why no order of a wallet is sent yet; empty where they are."""
        return self.accounts.pending(wallet) or self.reconciliation.pending(wallet)

    def _add_actors(self) -> None:
        for actor in (
            self.guard,
            self.manager,
            self.reports,
            self.portfolio,
            self.subledgers,
            self.signals,
            self.exposure,
            self.statistics,
            self.brackets,
            self.closing,
            self.loss_limits,
            self.flatten,
            Withdrawing(self.kernel, self.guard, self.manager),
            self.dead_man,
            self.drill,
            self.amending,
            self.triggers,
            *self.paper_venues.values(),
            self.market,
            self.history,
            self.recovery,
            Resolving(self.kernel, self.manager, self.recovery),
            self.accounts,
            self.reconciliation,
            Watching(self.kernel, self._watched()),
            self.strategies,  # the last: what a hook reads is settled by then
        ):
            self.kernel.add(actor)

    # --- state

    def _admit_account(self, account_id: str) -> str:
        """As `Core.account_id`: the host is known before, the account at it only when it is signed on to."""
        if not self.account_id:
            self.account_id = account_id
            self.kernel.outbox.put("meta", "accountId", account_id)
            self.kernel.flush_soon()
        elif account_id != self.account_id:
            return (
                f"the state of node {self.settings.node_id!r} belongs to account {self.account_id} of {self.account}, "
                f"and the API key to account {account_id}; set the right key, or another DATA_DIR"
            )
        return ""

    def everything(self) -> Iterator[Record]:
        """Every record that is kept, for a store that came back without them."""
        for order in self.orders.orders.values():
            yield "orders", order.order_id, order
        for fill in self.orders.fills.values():
            yield "trades", fill.fill_id, fill
        for balance in self.ledger:
            yield "balances", f"{balance.wallet}:{balance.currency}", balance
        for key, position in self.portfolio.records():
            yield "positions", key, position
        for key, share in self.subledgers.records():
            yield "strategies", key, share
        for key, kept in self.strategies.records():
            yield "strategies", key, kept
        yield from self.command_marks.records()
        for key, signal in self.signals.records():
            yield "signals", key, signal
        yield from self.statistics.records()
        for risk in (self.guard.records(), self.dead_man.records(), self.loss_limits.records()):
            for key, record in risk:
                yield "risk", key, record
        yield "meta", "ids", self.ids.counters
        yield "meta", "dayOpen", self.portfolio.day_open_record()
        yield "risk", "dayRisk", self.portfolio.day_realised_record()
        if self.kernel.fault_mark is not None:
            yield "meta", "fault", self.kernel.fault_mark
        yield "meta", "account", self.account
        yield "meta", "accountId", self.account_id
        yield from self.reconciliation.marks.records()

    def _restore(self) -> None:
        held = self.held
        self.orders.restore(held.orders, held.fills)
        self.portfolio.restore(
            held.balances,
            held.positions,
            held.samples,
            reservations(self.orders.open.values()),
            held.day_open,
            held.risk.get("dayRisk"),
        )
        self.subledgers.restore(held.positions, held.sub_positions)
        self.guard.restore(held.limits)
        self.dead_man.restore(held.dead_man)
        self.loss_limits.restore(held.rebase)
        self.open_risk.restore()
        self.exposure.restore()
        self.statistics.restore(held.statistics)
        self.command_marks.restore(held.command_marks)
        self.strategies.restore(held.strategy_states)
        self.signals.restore(held.signals)
        unknown = sorted({f"{o.exchange}:{o.pair}" for o in self.orders.open.values()} - self._listed())
        if unknown:
            key = f"tbx:{self.settings.node_id}:orders"
            raise StoreCorrupt(key, f"open orders of {', '.join(unknown)}, which MARKET does not list")

        away = [order for order in self.orders.open.values() if order.wallet not in self.venues]
        if away:
            raise SettingsError(
                f"{len(away)} live orders of {away[0].exchange} are open, {away[0].order_id} the first of them: on "
                "paper nobody would look after them; set LIVE_TRADING=true and PAPER_TRADING=false, or another DATA_DIR"
            )

    def _listed(self) -> set[str]:
        return {f"{exchange}:{pair}" for exchange, pair in self.instruments}

    def _fund(self) -> None:
        """The first start on paper: the initial balance, in equal parts at each exchange."""
        wallets = [f"paper.{exchange}" for exchange in self.paper_venues]
        if any(self.ledger.find(wallet, self.settings.base_currency) for wallet in wallets):
            return
        amount = self.settings.initial_balance
        share = (amount / len(wallets)).quantize(Decimal("0.01"), ROUND_FLOOR)
        for wallet in wallets[1:]:
            self.portfolio.deposit(wallet, self.settings.base_currency, share)
        self.portfolio.deposit(wallets[0], self.settings.base_currency, amount - share * (len(wallets) - 1))

    def start(self) -> None:
        """Begin: fund a new paper account, put resting orders back, ask about the rest, let the market run."""
        self._fund()
        if self.account:
            self.kernel.outbox.put("meta", "account", self.account)
        self._seed()
        self.kernel.start()
        self.source.start()
        for venue in self.live_venues:
            venue.start()

    def stop(self) -> None:
        """No new market data and no timers; what is pending still commits."""
        self.source.stop()
        for venue in self.live_venues:
            venue.stop()
        self.kernel.stop()

    def _seed(self) -> None:
        """The paper venues lived in the process that ended: hand them the orders that were resting."""
        now_ns = self.kernel.clock.now_ns()
        for order in self.orders.open.values():
            venue = self.paper_venues.get(order.exchange)
            resting = order.state in (State.LIVE, State.PART) and order.price_ticks is not None
            if venue is not None and order.paper and resting:
                filled = order.filled_lots - order.attempt_from
                venue.seed_order(_as_placed(order), order.venue_order_id or "", filled, now_ns)

    def shown_venues(self) -> list[Shown]:
        """Each exchange once, as health shows it: the live venue where there is one."""
        prices, pending = self.exchanges.market_status, self._pending
        return [
            Shown(name, client.status, prices, partial(pending, name), partial(self._any_book, name))
            for name, client in self._clients().items()
        ]

    def _clients(self) -> dict[str, VenueClient]:
        """Each exchange once: the live venue where there is one."""
        clients: dict[str, VenueClient] = dict(self.paper_venues)
        clients.update((venue.name, venue) for venue in self.live_venues)
        return clients

    def _watched(self) -> list[Watched]:
        return [
            Watched(name, partial(self._away, client), partial(self._stale, name))
            for name, client in self._clients().items()
        ]

    def _away(self, client: VenueClient) -> str:
        why = client.unavailable
        if why:
            return why
        status = client.status()
        if status.status == "disconnected":
            return status.reason or "not connected"
        return self._pending(client.name)

    def _stale(self, exchange: str) -> str:
        prices = self.exchanges.market_status().get(exchange)
        if prices is not None and prices.status != "connected":
            return prices.reason or f"market data is {prices.status}"
        return "" if self._any_book(exchange) else "no book was updated in time"

    def _any_book(self, exchange: str) -> bool:
        """Whether the book of any pair of an exchange may be traded on."""
        now_ns = self.kernel.clock.now_ns()
        return any(self.market.fresh(name, pair, now_ns) for name, pair in self.instruments if name == exchange)

    def _ask(self, order: Order, doubted: bool, answer: Callable[[bool | None], None]) -> None:
        venue = self.venues.get(order.wallet)
        if venue is None:
            answer(None)
        else:
            venue.query(_question(order, doubted), answer)


def _as_placed(order: Order) -> PlaceAtVenue:
    return PlaceAtVenue(
        client_id=order.venue_client_id,
        pair=order.pair,
        side=order.side,
        type="limit",
        qty_lots=order.qty_lots - order.attempt_from,
        price_ticks=order.price_ticks,
        tif=order.tif,
        post_only=order.post_only,
    )


def _question(order: Order, doubted: bool) -> AskAtVenue:
    """About the order's present attempt."""
    return AskAtVenue(
        client_id=order.venue_client_id,
        pair=order.pair,
        side=order.side,
        qty_lots=order.attempt_until - order.attempt_from,
        price_ticks=order.price_ticks if order.price_ticks is not None else order.guard_ticks,
        venue_order_id=order.venue_order_id,
        filled_lots=order.filled_lots - order.attempt_from,
        doubted=doubted,
    )


def _untold(_: str) -> None:
    """Nobody listens to what goes wrong with frames."""
