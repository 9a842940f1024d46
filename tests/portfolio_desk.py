"""A portfolio manager in virtual time, with prices that the test sets."""

import json
from decimal import Decimal

from tbx.core.kernel.clock import ManualClock
from tbx.core.kernel.kernel import Kernel
from tbx.core.model.ids import Ids
from tbx.core.model.instruments import Instrument
from tbx.core.model.messages import BookUpdated, OrderFilled
from tbx.core.model.records import Fill, Order, Position
from tbx.core.portfolio.manager import PortfolioManager
from tbx.core.state.memory import MemoryStore

D = Decimal
START = 1_704_067_200_000_000_000  # 2024-01-01 00:00 UTC


def instrument(exchange: str, pair: str, tick: str, lot: str) -> Instrument:
    base, _, quote = pair.partition("_")
    return Instrument(
        exchange=exchange, pair=pair, symbol=base + quote, base=base, quote=quote, tick=D(tick), lot=D(lot)
    )


LISTED = [
    instrument("xeggex", "XMR_USDT", "0.01", "0.0001"),
    instrument("xeggex", "XMR_BTC", "0.00000001", "0.0001"),
    instrument("xeggex", "RVN_BTC", "0.0000000001", "1"),
    instrument("xeggex", "WIDE_USDT", "0.000000000001", "0.000000000001"),  # does not fit the kernel's units
    instrument("binance", "BTC_USDT", "0.01", "0.00001"),
    instrument("binance", "BNB_USDT", "0.01", "0.001"),
    instrument("binance", "USDT_TRY", "0.01", "0.1"),
]
INSTRUMENTS = {(i.exchange, i.pair): i for i in LISTED}
PRICES = {
    ("xeggex", "XMR_USDT"): D("160"),
    ("xeggex", "XMR_BTC"): D("0.004"),
    ("xeggex", "RVN_BTC"): D("0.0000005"),
    ("xeggex", "WIDE_USDT"): D("1.000000000001"),
    ("binance", "BTC_USDT"): D("40000"),
    ("binance", "BNB_USDT"): D("300"),
    ("binance", "USDT_TRY"): D("30"),
}


class Desk:
    """A portfolio manager on a kernel in virtual time, with prices that the test sets."""

    def __init__(self, now_ns: int = START, *, paper: bool = True, prices: dict | None = None) -> None:
        self.clock = ManualClock(now_ns)
        self.store = MemoryStore(self.clock.call_soon)
        self.faults: list[Exception] = []
        self.kernel = Kernel(self.clock, self.store, on_fault=lambda _, error: self.faults.append(error))
        self.prices = dict(PRICES if prices is None else prices)
        self.manager = PortfolioManager(
            self.kernel, Ids("main"), INSTRUMENTS, lambda *market: self.prices.get(market), "USDT", paper=paper
        )
        self.ledger = self.manager.ledger
        self.kernel.add(self.manager)
        self.fills: list[Fill] = []

    def price(self, exchange: str, pair: str, price: str | None) -> None:
        self.prices[exchange, pair] = D(price) if price is not None else None
        self.kernel.input(BookUpdated(exchange, pair, 0))

    def fill(
        self,
        side: str,
        price: str,
        quantity: str,
        fee: str = "0",
        fee_currency: str = "USDT",
        *,
        market: tuple[str, str] = ("xeggex", "XMR_USDT"),
        wallet: str = "paper.xeggex",
        reserved_change: str = "0",
        strategy: str = "",
    ) -> Fill:
        listed = INSTRUMENTS[market]
        number = len(self.fills)
        one = Fill(
            fill_id=f"FILL_{number}",
            order_id="ORD",
            trade_id=f"{number}",
            exchange=market[0],
            pair=market[1],
            wallet=wallet,
            side=side,
            tick=listed.tick,
            lot=listed.lot,
            price_ticks=listed.price_ticks(D(price)),
            qty_lots=listed.qty_lots(D(quantity)),
            fee=D(fee),
            fee_currency=fee_currency,
            timestamp_ns=self.clock.now_ns(),
            strategy=strategy,
        )
        order = Order(
            order_id="ORD",
            client_order_id="ORD",
            exchange=market[0],
            pair=market[1],
            wallet=wallet,
            side=side,
            type="market",
            tick=listed.tick,
            lot=listed.lot,
            quote=listed.quote,
            base=listed.base,
            submit_ns=1,
            created_ns=1,
            qty_lots=one.qty_lots,
        )
        self.fills.append(one)
        self.kernel.input(OrderFilled(order, one, D(reserved_change)))
        if self.faults:
            raise self.faults[0]
        return one

    def position(self, pair: str = "XMR_USDT", wallet: str = "paper.xeggex") -> Position:
        found = self.manager.position(wallet, pair)
        assert found is not None
        return found

    def events(self) -> list[tuple[str, dict]]:
        self.clock.settle()
        return [(e["type"], e["data"]) for _, batch in self.store.journal for e in json.loads(batch)]

    def view(self, paper: bool = True):
        return self.manager.view(paper, self.clock.now_ns())


def funded(amount: str = "100000", **more: object) -> Desk:
    desk = Desk(**more)
    desk.manager.deposit("paper.xeggex", "USDT", D(amount))
    desk.manager.start()  # not the kernel, whose heart would beat through days of virtual time
    return desk
