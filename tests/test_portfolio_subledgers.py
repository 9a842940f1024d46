"""Sub-ledgers: whose coins a fill moves, and that all of them together are the position, to the last digit."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tbx.core.kernel.outbox import encode_record
from tbx.core.model.messages import Submitted
from tbx.core.model.records import Fill, Position, SignalData, SubPosition
from tbx.core.portfolio.recompute import fold_by_strategy
from tbx.core.portfolio.subledgers import Record, SubLedgers
from tbx.core.portfolio.subpositions import NOBODY, STRATEGIES_MAX, adds_up, fees_of, given_to_nobody

from .desk import Desk as Node
from .portfolio_desk import INSTRUMENTS, Desk, funded

pytestmark = pytest.mark.portfolio

D = Decimal
WALLET, PAIR = "paper.xeggex", "XMR_USDT"


def with_ledgers() -> tuple[Desk, SubLedgers]:
    desk = funded()
    ledgers = SubLedgers(desk.kernel, desk.manager.rates)
    desk.kernel.add(ledgers)
    return desk, ledgers


def held(ledgers: SubLedgers, pair: str = PAIR) -> dict[str, Decimal]:
    """What is held by whom, where it is anything."""
    return {name: share.quantity for name, share in ledgers.of(WALLET, pair).items() if share.quantity}


# --- one fill after another


def test_what_a_strategy_buys_is_its_own_at_its_own_price():
    desk, ledgers = with_ledgers()
    desk.fill("buy", "100", "1", strategy="a")
    desk.fill("buy", "200", "1", strategy="b")
    desk.fill("buy", "300", "2")
    assert held(ledgers) == {"a": 1, "b": 1, NOBODY: 2}
    assert ledgers.quantity("a", WALLET, PAIR) == 1 and ledgers.quantity("c", WALLET, PAIR) == 0
    assert [share.cost for share in ledgers.of(WALLET, PAIR).values()] == [100, 200, 600]
    assert ledgers.names() == ["a", "b"]
    desk.fill("sell", "150", "1", strategy="a")
    [share] = ledgers.positions("a")
    assert (share.quantity, share.cost, share.realised) == (0, 0, 50), "at its own cost, not at the average of all"


def test_a_sale_takes_its_own_coins_then_those_of_nobody_then_the_others_largest_first():
    desk, ledgers = with_ledgers()
    for strategy, quantity in (("a", "2"), ("", "1"), ("b", "3"), ("c", "5"), ("d", "5")):
        desk.fill("buy", "100", quantity, strategy=strategy)
    desk.fill("sell", "100", "1", strategy="a")
    assert held(ledgers) == {"a": 1, NOBODY: 1, "b": 3, "c": 5, "d": 5}
    desk.fill("sell", "100", "1.5", strategy="a")
    assert held(ledgers) == {NOBODY: D("0.5"), "b": 3, "c": 5, "d": 5}
    desk.fill("sell", "100", "3", strategy="a")
    assert held(ledgers) == {"b": 3, "c": D("2.5"), "d": 5}, "of two that are as large the first by name"
    desk.fill("sell", "100", "6")
    assert held(ledgers) == {"b": 2, "c": D("2.5")}, "nobody's sale takes the largest first too"
    desk.fill("sell", "100", "4.5", strategy="e")
    assert held(ledgers) == {}
    assert "e" not in ledgers.of(WALLET, PAIR), "who never held anything has no sub-position"


def test_what_is_realised_goes_to_whose_coins_were_sold():
    desk, ledgers = with_ledgers()
    desk.fill("buy", "100", "1", strategy="a")
    desk.fill("buy", "140", "3", strategy="b")
    desk.fill("sell", "150", "4", "6", strategy="a")
    shares = ledgers.of(WALLET, PAIR)
    assert (shares["a"].realised, shares["b"].realised) == (50 - D("1.5"), 30 - D("4.5"))
    assert (shares["a"].fees, shares["b"].fees) == ({"USDT": D("1.5")}, {"USDT": D("4.5")})
    assert desk.position().realised == shares["a"].realised + shares["b"].realised


def test_a_fee_that_does_not_divide_is_shared_without_a_rest():
    desk, ledgers = with_ledgers()
    for strategy in ("a", "b", "c"):
        desk.fill("buy", "100", "1", strategy=strategy)
    desk.fill("sell", "110", "3", "0.1", "BNB")
    fees = [share.fees["BNB"] for share in ledgers.of(WALLET, PAIR).values()]
    assert sorted(fees) == [D("0.033333333333333333"), D("0.033333333333333333"), D("0.033333333333333334")]


def test_a_strategy_s_own_round_trips_are_its_record():
    desk, ledgers = with_ledgers()
    desk.fill("buy", "100", "1")  # somebody holds on, so that the position stays open
    for price in ("110", "90", "120"):
        desk.fill("buy", "100", "1", strategy="a")
        desk.fill("sell", price, "1", strategy="a")
    assert desk.position().closed_count == 0
    assert ledgers.record("a") == Record(3, 2) and ledgers.record("b") == Record()
    view = ledgers.view("a")
    assert (view.positions, view.win_rate, view.realised_pnl) == ([], D("66.6667"), 20)


def test_what_strategies_do_on_paper_and_live_is_told_apart():
    desk, ledgers = with_ledgers()
    desk.fill("buy", "100", "1", strategy="a", wallet="xeggex")
    assert ledgers.names() == [] and ledgers.positions("a") == []
    assert ledgers.quantity("a", "xeggex", PAIR) == 1


def test_names_that_callers_make_up_are_bounded():
    desk, ledgers = with_ledgers()
    for number in range(STRATEGIES_MAX + 5):
        desk.fill("buy", "1", "0.001", strategy=f"s{number}")
    shares = ledgers.of(WALLET, PAIR)
    assert len(shares) == STRATEGIES_MAX + 1 and shares[NOBODY].quantity == D("0.005")
    assert adds_up(desk.position(), shares)


# --- the law

NAMES = ["", "a", "b", "a:b"]
fill_steps = st.tuples(
    st.sampled_from(["buy", "buy", "sell"]),
    st.integers(1, 30_000),  # ticks
    st.integers(1, 9_999),  # lots
    st.sampled_from(["none", "base", "quote", "BNB", "rebate", "base rebate"]),
    st.sampled_from(NAMES),
)


def played(history: list[tuple]) -> tuple[Desk, SubLedgers]:
    desk, ledgers = with_ledgers()
    desk.manager.deposit(WALLET, "XMR", D(5))  # which a sale may take too
    listed = INSTRUMENTS["xeggex", PAIR]
    for side, ticks, lots, fee_in, strategy in history:
        quantity = lots * listed.lot
        fee = {"none": D(0), "base": quantity / 8192, "rebate": D("-0.01"), "base rebate": -quantity / 8192}
        currency = {"base": "XMR", "base rebate": "XMR", "BNB": "BNB"}.get(fee_in, "USDT")
        amount = str(fee.get(fee_in, D("0.142857142857142857")))
        desk.fill(side, str(ticks * listed.tick), str(quantity), amount, currency, strategy=strategy)
    return desk, ledgers


@settings(max_examples=100, deadline=None)
@given(st.lists(fill_steps, max_size=40))
def test_sub_positions_sum_to_the_position_whatever_was_traded(history):
    desk, ledgers = played(history)
    position, shares = desk.manager.position(WALLET, PAIR), ledgers.of(WALLET, PAIR)
    if position is None or not position.updated_ns:
        assert not any(share.quantity for share in shares.values())
        return
    assert sum(share.quantity for share in shares.values()) == position.quantity
    assert fees_of(shares.values()) == {currency: fee for currency, fee in position.fees.items() if fee}
    for price in (D(0), D("123.45")):
        earned = [share.quantity * price - share.cost + share.realised for share in shares.values()]
        assert sum(earned) == position.quantity * price - position.cost + position.realised
    assert adds_up(position, shares)
    assert all(share.quantity >= 0 for share in shares.values())
    if not position.quantity:
        assert all(share.cost == 0 for share in shares.values())


@settings(max_examples=40, deadline=None)
@given(st.lists(fill_steps, max_size=30))
def test_what_is_kept_step_by_step_equals_the_fold_of_the_fills_by_strategy(history):
    desk, ledgers = played(history)
    fills = msgspec.json.decode(encode_record(desk.fills), type=list[Fill])
    made = fold_by_strategy(fills).get((WALLET, PAIR), {})
    assert made == ledgers.of(WALLET, PAIR)
    desk.clock.settle()
    rows = desk.store.tables.get("strategies", {})
    kept = {field: msgspec.json.decode(raw, type=SubPosition) for field, raw in rows.items()}
    assert kept == dict(ledgers.records())


class SlowShare:
    """A strategy's coins with fractions: no rounding at all, written from the definitions."""

    def __init__(self) -> None:
        self.quantity = self.cost = self.realised = Fraction(0)


@settings(max_examples=40, deadline=None)
@given(st.lists(fill_steps.filter(lambda step: step[3] in ("none", "quote")), max_size=25))
def test_each_sub_position_is_that_of_a_model_in_fractions_but_for_the_last_digits(history):
    desk, ledgers = played(history)
    model: dict[str, SlowShare] = {}
    for fill in desk.fills:
        price, left = Fraction(fill.price), Fraction(fill.quantity)
        fee = Fraction(fill.fee) / left
        if fill.side == "buy":
            mine = model.setdefault(fill.strategy, SlowShare())
            mine.quantity, mine.cost = mine.quantity + left, mine.cost + price * left
            mine.realised -= fee * left
            continue
        turn = sorted(model, key=lambda name: (name != fill.strategy, name != "", -model[name].quantity, name))
        for name in turn:
            share = model[name]
            sold = min(left, share.quantity)
            if sold:
                cost = share.cost * sold / share.quantity
                share.realised += (price - fee) * sold - cost
                share.quantity, share.cost, left = share.quantity - sold, share.cost - cost, left - sold
    slack = Fraction(50 * (len(history) + 1), 10**18)
    for name, share in model.items():
        kept = ledgers.of(WALLET, PAIR)[name]
        assert Fraction(kept.quantity) == share.quantity
        assert abs(Fraction(kept.cost) - share.cost) <= slack
        assert abs(Fraction(kept.realised) - share.realised) <= slack * 300


# --- over a restart, and without them


def test_a_position_from_before_sub_ledgers_is_nobody_s_and_what_strategies_earned_stays_theirs():
    desk, ledgers = with_ledgers()
    desk.fill("buy", "100", "2", "0.1", strategy="a")
    desk.fill("sell", "110", "1", "0.1", strategy="a")
    position = desk.position()
    whole = given_to_nobody(position, {})
    assert whole.keys() == {NOBODY} and adds_up(position, whole)
    assert whole[NOBODY].fees == position.fees and whole[NOBODY].fees is not position.fees
    kept = dict(ledgers.of(WALLET, PAIR))
    kept["a"].quantity += 1  # explains the position no more
    assert not adds_up(position, kept)
    whole = given_to_nobody(position, kept)
    assert adds_up(position, whole)
    assert (whole["a"].quantity, whole["a"].realised, whole[NOBODY].quantity) == (0, D("9.8"), 1)


def signed(strategy: str) -> dict[str, SignalData]:
    return {"signal_data": SignalData(strategy=strategy)}


def test_a_restart_brings_back_whose_the_coins_are(tmp_path: Path):
    desk = Node(tmp_path)
    desk.order("buy", "1000", **signed("ma"))
    desk.order("buy", "500", stop_loss="0.02", **signed("x:y"))
    desk.order("buy", "200")
    before = dict(desk.node.subledgers.records())
    assert {share.strategy: share.quantity for share in before.values()} == {"ma": 1000, "x:y": 500, "": 200}
    desk.restart()
    assert dict(desk.node.subledgers.records()) == before
    records = {(table, key) for table, key, _ in desk.node.everything()}
    assert {("strategies", key) for key in before} <= records
    desk.check()


def test_an_exit_sells_the_coins_of_its_entry_s_strategy(tmp_path: Path):
    desk = Node(tmp_path)
    desk.order("buy", "1000", **signed("other"))
    entry = desk.order("buy", "300", stop_loss="0.0240", **signed("ma"))
    desk.price("0.02390", "0.02391")
    desk.wait(1_000)
    assert desk.get(entry.stop_loss_id).filled_lots
    ledgers = desk.node.subledgers
    assert ledgers.quantity("ma", WALLET, "RVN_USDT") == 0
    assert ledgers.quantity("other", WALLET, "RVN_USDT") == 1000
    assert ledgers.record("ma") == Record(1, 0)


def test_a_state_from_before_sub_ledgers_gets_them_at_its_start(tmp_path: Path):
    desk = Node(tmp_path)
    assert isinstance(desk.submit("buy", "1000", wait_ms=50), Submitted)
    del desk.store.tables["strategies"]
    desk.restart()
    desk.wait(50)
    [(key, raw)] = desk.store.tables["strategies"].items()
    share, kept = msgspec.json.decode(raw, type=SubPosition), desk.store.tables["positions"]["paper.xeggex:RVN_USDT"]
    position = msgspec.json.decode(kept, type=Position)
    assert key == "position::paper.xeggex:RVN_USDT" and share.quantity == position.quantity == 1000
