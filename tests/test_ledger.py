"""The ledger: exact, conserving, never reserving what is not there."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tbx.core.kernel.outbox import Outbox
from tbx.core.model.records import Balance, Order, State
from tbx.core.portfolio.ledger import Ledger, Overdrawn, reservations

pytestmark = pytest.mark.portfolio

D = Decimal
WALLET = "paper.binance"


def ledger(**totals: str) -> Ledger:
    made = Ledger(Outbox())
    for currency, total in totals.items():
        made.deposit(WALLET, currency, D(total))
    return made


def order(order_id: str, side: str, reserved: str) -> Order:
    return Order(
        order_id=order_id,
        client_order_id=order_id,
        exchange="binance",
        pair="XMR_USDT",
        wallet=WALLET,
        side=side,
        type="limit",
        tick=D("0.01"),
        lot=D("0.001"),
        quote="USDT",
        base="XMR",
        submit_ns=1,
        created_ns=1,
        qty_lots=1,
        state=State.LIVE,
        reserved=D(reserved),
    )


def test_a_deposit_is_available_and_a_withdrawal_takes_it_back():
    books = ledger(USDT="100.10")
    books.deposit(WALLET, "USDT", D("-0.10"))
    assert books.available(WALLET, "USDT") == D(100)
    assert books.available(WALLET, "BTC") == 0
    assert books.available("binance", "USDT") == 0, "live money is another wallet"


def test_reserving_moves_money_from_available_to_locked_and_freeing_moves_it_back():
    books = ledger(USDT="100")
    books.reserve(WALLET, "USDT", D("60.5"))
    balance = books.find(WALLET, "USDT")
    assert (balance.total, balance.locked, balance.available) == (D(100), D("60.5"), D("39.5"))
    books.reserve(WALLET, "USDT", D("-60.5"))
    assert (balance.total, balance.locked) == (D(100), 0)


@pytest.mark.parametrize(
    ("what", "currency", "change", "says"),
    [
        ("more than there is", "USDT", "100.00000001", "100 is available"),
        ("of nothing", "BTC", "1", "holds none"),
        ("freeing more than is reserved", "USDT", "-0.01", "0 is reserved"),
        ("freeing of nothing", "BTC", "-1", "nothing is reserved"),
    ],
)
def test_a_reservation_that_does_not_fit_is_refused_and_changes_nothing(what, currency, change, says):
    books = ledger(USDT="100")
    with pytest.raises(Overdrawn, match=says):
        books.reserve(WALLET, currency, D(change))
    assert [(b.currency, b.total, b.locked) for b in books] == [("USDT", D(100), D(0))]


def test_a_withdrawal_cannot_take_what_is_reserved():
    books = ledger(USDT="100")
    books.reserve(WALLET, "USDT", D(60))
    with pytest.raises(Overdrawn, match="40 is available"):
        books.deposit(WALLET, "USDT", D("-40.01"))
    assert books.total(WALLET, "USDT") == 100


def test_a_settlement_has_happened_and_is_booked_even_below_zero():
    books = ledger()
    books.settle(WALLET, "BNB", D("-0.0001"))
    assert books.total(WALLET, "BNB") == D("-0.0001")


def test_every_touched_balance_is_in_the_next_commit_as_it_then_is():
    outbox = Outbox()
    books = Ledger(outbox)
    books.deposit(WALLET, "USDT", D(5))
    books.reserve(WALLET, "USDT", D(2))
    [(table, key, record)] = outbox.take().batch.puts
    assert (table, key) == ("balances", "paper.binance:USDT")
    assert record == b'{"wallet":"paper.binance","currency":"USDT","total":"5","locked":"2","flows":"5"}'


def test_a_restart_takes_totals_from_the_records_and_locks_what_open_orders_reserve():
    books = Ledger(Outbox())
    books.restore(
        [
            Balance(wallet=WALLET, currency="USDT", total=D(100), locked=D(77)),  # as it was, and not believed
            Balance(wallet=WALLET, currency="XMR", total=D(3)),
        ],
        reservations(
            [order("A", "buy", "10.5"), order("B", "buy", "4.5"), order("C", "sell", "2"), order("D", "buy", "0")]
        ),
    )
    assert {b.currency: (b.total, b.locked) for b in books} == {"USDT": (D(100), D(15)), "XMR": (D(3), D(2))}


amounts = st.decimals(min_value=-1000, max_value=1000, places=18, allow_nan=False, allow_infinity=False)
steps = st.lists(
    st.tuples(st.sampled_from(["deposit", "reserve", "settle"]), st.sampled_from(["USDT", "BTC"]), amounts), max_size=40
)


@given(steps)
def test_nothing_is_lost_or_made_whatever_is_done(done):
    books = Ledger(Outbox())
    totals = {"USDT": D(0), "BTC": D(0)}
    locked = {"USDT": D(0), "BTC": D(0)}
    for action, currency, amount in done:
        try:
            getattr(books, action)(WALLET, currency, amount)
        except Overdrawn:
            continue
        if action == "reserve":
            locked[currency] += amount
        else:
            totals[currency] += amount
    for currency in totals:
        assert books.total(WALLET, currency) == totals[currency]
        assert books.available(WALLET, currency) == totals[currency] - locked[currency]
        assert locked[currency] >= 0
