"""A live node whose account somebody else uses too: their trades, deposits and withdrawals, and balances that differ;
in virtual time."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from .live_desk import BTC, ETH, LiveDesk, refused

pytestmark = [pytest.mark.portfolio, pytest.mark.exchanges]


@pytest.fixture
def desk(tmp_path: Path) -> LiveDesk:
    return LiveDesk(tmp_path)


def done(desk: LiveDesk) -> None:
    desk.heal()
    desk.check()


def agree(desk: LiveDesk) -> bool:
    return all(desk.total(currency) == desk.held(currency) for currency in ("BTC", "ETH", "USDT"))


def test_the_account_is_taken_as_it_is_found(desk: LiveDesk) -> None:
    desk.wait(10)  # for the commit
    kinds = [kind for kind, _ in desk.events("portfolio")]
    assert agree(desk) and kinds.count("BalanceCorrected") > 0 and desk.corrections() == []
    assert desk.node.portfolio.open_positions(paper=False) == []
    done(desk)


def test_other_peoples_trades_on_the_account_move_balances_at_once_and_no_order_of_ours(desk: LiveDesk) -> None:
    mine = desk.order("buy", "0.1", price=59_990)
    theirs = desk.foreign_order(BTC, "BUY", 60_120, "1.5")
    desk.foreign_order(ETH, "SELL", 2_990, "2")
    desk.wait()
    assert theirs.executed and agree(desk)
    assert len(desk.node.orders.orders) == 1 and desk.state(mine) == "LIVE"
    assert desk.node.portfolio.open_positions(paper=False) == []
    done(desk)
    assert desk.corrections() == []


def test_their_resting_order_that_trades_with_the_market_is_theirs(desk: LiveDesk) -> None:
    desk.foreign_order(BTC, "SELL", 60_010, "1", tif="GTC")
    desk.deal(BTC, "BUY", 60_010, "0.4")
    desk.wait()
    assert agree(desk)
    done(desk)
    assert desk.corrections() == []


def test_coins_that_their_order_locks_are_refused_by_the_exchange_and_that_is_said(desk: LiveDesk) -> None:
    desk.foreign_order(BTC, "SELL", 61_000, "99.9", tif="GTC")
    order = desk.order("sell", "1", price=61_000)
    assert (desk.state(order), desk.get(order).code) == ("REJECTED", "INSUFFICIENT_BALANCE")
    assert desk.theirs(order) == []
    done(desk)


@pytest.mark.parametrize("amount", ["250.5", "-250.5"])
def test_deposits_and_withdrawals_are_flows_and_no_profit(desk: LiveDesk, amount: str) -> None:
    before = desk.node.portfolio.equity(False)
    desk.deposit("USDT", amount)
    desk.wait()
    assert desk.total("USDT") == 1_000_000 + Decimal(amount) == desk.held("USDT")
    assert desk.node.portfolio.equity(False) - before == Decimal(amount)
    assert desk.node.portfolio.day_pnl() == 0
    done(desk)
    assert desk.corrections() == []


def test_a_deposit_that_two_connections_tell_counts_once(desk: LiveDesk) -> None:
    desk.local.shut_down(3_000)
    desk.until(lambda: len(desk.network.open_sockets) == 2, "a second connection")
    desk.wait(50)
    desk.deposit("USDT", "10")
    desk.foreign_order(BTC, "BUY", 60_120, "0.5")
    desk.wait(50)
    assert agree(desk)
    done(desk)
    assert desk.corrections() == []


def test_what_others_did_while_there_was_no_connection_is_corrected_once_and_told(desk: LiveDesk) -> None:
    desk.network.silent = True
    desk.cut()
    desk.foreign_order(BTC, "BUY", 60_120, "1")
    desk.deposit("USDT", "7")
    desk.wait(10_000)
    desk.network.silent = False
    desk.until(lambda: not desk.node.engine.unavailable("binance"), "it is back")
    assert agree(desk)
    desk.wait(10)  # for the commit
    changes = {str(data["currency"]): data["change"] for data in desk.corrections()}
    assert changes == {"USDT": 7}, "their trade is told by the list of trades, and the deposit by nothing"
    assert desk.node.portfolio.day_pnl() == 100 * 30  # what the coins gained that had been there: no part of the flow
    done(desk)
    assert len(desk.corrections()) == 1


def test_a_difference_is_corrected_only_after_open_orders_were_asked_about(desk: LiveDesk) -> None:
    """What is missing is a fill of ours whose report was lost: that is no correction."""
    order = desk.order("buy", "0.3", price=59_990)
    desk.local.switch("late_reports:ms=3600000")
    desk.deal(BTC, "SELL", 59_990, "0.2")
    desk.wait(500)
    assert desk.state(order) == "LIVE" and not agree(desk)
    desk.wait(70_000)  # the balances are looked at every minute
    assert desk.state(order) == "PART" and agree(desk) and desk.corrections() == []
    assert desk.node.portfolio.open_positions(paper=False)[0].quantity == Decimal("0.1998")
    done(desk)


def test_a_difference_while_fills_go_on_is_not_corrected_away(desk: LiveDesk) -> None:
    order = desk.order("buy", "3", price=59_990)
    desk.local.switch("late_reports:ms=2500,p=0.5")
    for _ in range(100):
        desk.deal(BTC, "SELL", 59_990, "0.01")
        desk.wait(1_000)
    assert desk.corrections() == []
    done(desk)
    assert desk.get(order).filled_lots * order.lot == 1


def test_somebody_cancels_our_order_and_it_ends(desk: LiveDesk) -> None:
    order = desk.order("buy", "0.3", price=59_990)
    desk.exchange.cancel(desk.me, "BTCUSDT", desk.one(order).order_id)
    desk.wait()
    assert desk.state(order) == "CANCELLED" and desk.locked("USDT") == 0
    done(desk)


def test_somebody_amends_our_order_and_its_fills_are_ours(desk: LiveDesk) -> None:
    order = desk.order("buy", "0.3", price=59_990)
    desk.exchange.amend(desk.me, "BTCUSDT", 20_000_000, order_id=desk.one(order).order_id)
    desk.wait()
    desk.deal(BTC, "SELL", 59_990, "0.2")
    desk.wait()
    assert desk.state(order) == "FILLED" and desk.locked("USDT") == 0
    done(desk)


def test_our_order_meets_theirs_and_the_exchange_keeps_them_apart(desk: LiveDesk) -> None:
    order = desk.order("buy", "0.3", price=60_000)
    desk.foreign_order(BTC, "SELL", 60_000, "0.1")
    desk.wait()
    assert desk.state(order) == "EXPIRED" and "self-trade" in (desk.get(order).reason or "")
    done(desk)


def test_more_is_not_ordered_than_what_a_withdrawal_left(desk: LiveDesk) -> None:
    desk.deposit("USDT", "-999000")
    desk.wait()
    assert refused(desk.submit("buy", "0.1", price=59_000)) == "INSUFFICIENT_BALANCE"
    done(desk)
