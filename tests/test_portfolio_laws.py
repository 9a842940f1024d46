"""Any history of fills, prices, deposits and days: running figures equal a recomputation and a model in fractions."""

from decimal import Decimal
from fractions import Fraction

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tbx.core.kernel.clock import SECOND_NS
from tbx.core.kernel.outbox import encode_record
from tbx.core.model.records import Fill
from tbx.core.portfolio.rates import Rates
from tbx.core.portfolio.recompute import recompute

from .portfolio_desk import INSTRUMENTS, funded

pytestmark = pytest.mark.portfolio

D = Decimal

MARKETS = [market for market in INSTRUMENTS if market[1] != "USDT_TRY"]
fill_steps = st.tuples(
    st.just("fill"),
    st.integers(0, len(MARKETS) - 1),
    st.sampled_from(["buy", "buy", "sell"]),
    st.integers(50, 150),  # percent of the present price
    st.integers(1, 9_999),  # lots, or thousands of them where a lot is tiny
    st.sampled_from(["none", "base", "quote", "BNB", "XMR"]),
)
price_steps = st.tuples(st.just("price"), st.integers(0, len(MARKETS) - 1), st.integers(50, 150))
other_steps = st.one_of(
    st.tuples(st.just("wait"), st.sampled_from([1, 30, 86_400])),
    st.tuples(st.just("deposit"), st.sampled_from(["USDT", "XMR", "BTC", "DOGE"]), st.integers(1, 1000)),
    st.tuples(st.just("view")),
)
histories = st.lists(st.one_of(fill_steps, fill_steps, price_steps, other_steps), max_size=40)


class Played:
    """A history, played into a manager, with what an outside observer would note down."""

    def __init__(self, history: list[tuple]) -> None:
        self.desk = funded()
        self.deposits = [("paper.xeggex", "USDT", D(100_000))]
        self.fee_values: dict[str, Decimal] = {}
        for kind, *details in history:
            getattr(self, kind)(*details)

    def fill(self, market_number: int, side: str, percent: int, lots: int, fee_in: str) -> None:
        market = MARKETS[market_number]
        listed = INSTRUMENTS[market]
        ticks = max(1, int(self.desk.prices[market] / listed.tick) * percent // 100)
        lots = lots * 10**8 if listed.lot < D("0.0000001") else lots
        wallet = f"paper.{market[0]}"
        currency = {"base": listed.base, "quote": listed.quote, "none": listed.quote}.get(fee_in, fee_in)
        fee = D(0) if fee_in == "none" else D(1) / 8192 * (lots * listed.lot if fee_in == "base" else 1)
        third = currency not in (listed.base, listed.quote)
        if third:
            rate = Rates(INSTRUMENTS, lambda *m: self.desk.prices.get(m), listed.quote).rate(market[0], currency).value
            self.fee_values[f"FILL_{len(self.desk.fills)}"] = (fee * rate).quantize(D("1E-18"))
        self.desk.fill(
            side,
            str(ticks * listed.tick),
            str(lots * listed.lot),
            str(fee),
            currency,
            market=market,
            wallet=wallet,
        )

    def price(self, market_number: int, percent: int) -> None:
        market = MARKETS[market_number]
        tick = INSTRUMENTS[market].tick
        ticks = max(1, int(self.desk.prices[market] / tick) * percent // 100)
        self.desk.price(*market, str(ticks * tick + tick / 2))

    def wait(self, seconds: int) -> None:
        self.desk.clock.advance(seconds * SECOND_NS)

    def deposit(self, currency: str, amount: int) -> None:
        self.deposits.append(("paper.xeggex", currency, D(amount)))
        self.desk.manager.deposit("paper.xeggex", currency, D(amount))

    def view(self) -> None:
        self.desk.view()


@settings(max_examples=80, deadline=None)
@given(histories)
def test_what_is_kept_step_by_step_equals_a_recomputation_from_the_beginning(history):
    played = Played(history)
    desk, manager = played.desk, played.desk.manager
    view = desk.view()
    kept_fills = msgspec.json.decode(encode_record(desk.fills), type=list[Fill])
    assert {fill.fill_id: fill.fee_value for fill in kept_fills if fill.fee_value is not None} == played.fee_values
    whole = recompute(
        kept_fills,
        played.deposits,
        INSTRUMENTS,
        lambda *market: desk.prices.get(market),
        "USDT",
        True,
    )
    assert manager.equity(True) == whole.equity
    assert {(b.wallet, b.currency): b.total for b in desk.ledger} == whole.totals
    for key, position in whole.positions.items():
        kept = desk.manager.position(*key)
        assert msgspec.structs.replace(kept, position_id="") == position
    value, cost = manager.statement.totals(True)
    assert abs(value - whole.market_value) < D("1E-40")
    assert abs(cost - whole.cost) < D("1E-40")
    for shown in view.positions:
        held = desk.manager._held[f"paper.{shown.exchange}", shown.pair]
        figures = (shown.market_value, shown.unrealized_pnl, shown.day_pnl)
        percents = (shown.unrealized_pnl_percent, shown.day_pnl_percent)
        assert (*figures, *percents) == held.exact_figures(held.mark)
    manager.revalue()
    assert desk.view() == view
    assert desk.faults == []


class SlowPosition:
    """Average cost with fractions: no rounding at all, written from the definitions."""

    def __init__(self) -> None:
        self.quantity = self.cost = self.realised = Fraction(0)

    def take(self, fill: Fill, base: str, quote: str, fee_value: Decimal) -> None:
        price, quantity, fee = Fraction(fill.price), Fraction(fill.quantity), Fraction(fill.fee)
        in_quote = (
            fee if fill.fee_currency == quote else Fraction(0) if fill.fee_currency == base else Fraction(fee_value)
        )
        in_base = fee if fill.fee_currency == base else Fraction(0)
        if fill.side == "buy":
            self.quantity += quantity - in_base
            self.cost += price * (quantity - in_base)
            self.realised -= in_base * price + in_quote
        elif self.quantity:
            average = self.cost / self.quantity
            sold = min(quantity, self.quantity)
            lost = min(in_base, self.quantity - sold)
            self.quantity -= sold + lost
            self.cost -= average * (sold + lost)
            self.realised += (price - average) * sold - average * lost - in_quote * sold / quantity


@settings(max_examples=80, deadline=None)
@given(st.lists(fill_steps, max_size=30))
def test_positions_are_those_of_a_model_in_fractions_but_for_the_last_of_18_decimals(history):
    played = Played(history)
    slow: dict[tuple[str, str], SlowPosition] = {}
    for fill in played.desk.fills:
        listed = INSTRUMENTS[fill.exchange, fill.pair]
        model = slow.setdefault((fill.wallet, fill.pair), SlowPosition())
        model.take(fill, listed.base, listed.quote, played.fee_values.get(fill.fill_id, D(0)))
    for key, model in slow.items():
        kept = played.desk.manager.position(*key)
        assert Fraction(kept.quantity) == model.quantity
        slack = Fraction(len(history) + 1, 10**18)
        assert abs(Fraction(kept.cost) - model.cost) <= slack
        assert abs(Fraction(kept.realised) - model.realised) <= 2 * slack
        if not kept.quantity:
            assert kept.cost == 0
