"""The trading state: the strictest limit that applies decides, parts do not touch each other, kept limits last."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tbx.core.kernel.clock import ManualClock
from tbx.core.kernel.kernel import Kernel
from tbx.core.model.errors import StoreError
from tbx.core.model.messages import Faulted, LimitChanged, Refusal, SetTradingState, StoreStateChanged
from tbx.core.model.records import SignalData
from tbx.core.risk.guard import SCOPED_MAX, Guard, TradingState, scopes_of
from tbx.core.state.memory import MemoryStore

from .desk import Desk, refused
from .desk_events import events_of, limits_on_record, set_state

ACTIVE, REDUCING, HALTED, FLATTEN = TradingState
MARKETS = [("xeggex", "RVN_USDT"), ("binance", "RVN_USDT"), ("binance", "BTC_USDT")]


def a_guard() -> tuple[Guard, Kernel]:
    clock = ManualClock()
    store = MemoryStore(clock.call_soon)
    epoch = store.acquire()
    kernel = Kernel(clock, store.writer(epoch))
    guard = Guard(kernel, MARKETS)
    kernel.add(guard)
    return guard, kernel


def command(guard: Guard, state: Any, scope: str = "", reason: str = "a reason", by: str = "desk") -> Any:
    answers: list[Any] = []
    guard.kernel.input(SetTradingState(state=state, scope=scope, reason=reason, by=by, reply=answers.append))
    assert isinstance(guard.clock, ManualClock)
    guard.clock.settle()
    assert len(answers) == 1
    return answers[0]


# --- which limit decides

SCOPES = ("", "exchange:xeggex", "exchange:binance", "pair:RVN_USDT", "pair:BTC_USDT", "strategy:ma", "strategy:mm")
NAMES = ("operator", "dailyLoss", "drawdown", "fault")
STEPS = st.lists(
    st.tuples(
        st.sampled_from(SCOPES),
        st.sampled_from(NAMES),
        st.sampled_from((None, REDUCING, HALTED, FLATTEN)),  # None lifts
        st.booleans(),
    ),
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(STEPS)
def test_whatever_is_set_and_lifted_in_any_order_the_strictest_that_applies_decides(
    steps: list[tuple[str, str, TradingState | None, bool]],
) -> None:
    guard, _ = a_guard()
    held: dict[tuple[str, str], tuple[TradingState, bool]] = {}
    for scope, name, state, kept in steps:
        if state is None:
            lifted = guard.lift(scope, name)
            assert bool(lifted) is (held.pop((scope, name), None) is not None)
        else:
            assert guard.limit(name, state, f"{name} of {scope}", scope, kept=kept)
            held[scope, name] = (state, kept)
        assert guard.restricted is bool(held)
    order = list(TradingState)
    for exchange, pair in MARKETS:
        for strategy in (None, "ma", "mm", "other"):
            scopes = scopes_of(exchange, pair, strategy)
            apply = [state for (scope, _), (state, _) in held.items() if scope in scopes]
            assert guard.state_of(exchange, pair, strategy) is max(apply, key=order.index, default=ACTIVE)
            words = guard.why_of(exchange, pair, strategy)
            assert words == "ACTIVE" or all(f"{name} of {scope}" in words for scope, name in held if scope in scopes)
    assert guard.state is max((s for (scope, _), (s, _) in held.items() if not scope), key=order.index, default=ACTIVE)
    # A restart has exactly what is kept.
    rows = dict(guard.records())
    assert set(rows) == {f"limit:{scope}:{name}" for (scope, name), (_, kept) in held.items() if kept}
    again, _ = a_guard()
    again.restore(rows.values())
    assert dict(again.records()) == rows


def test_without_limits_nothing_is_restricted_and_nothing_is_said() -> None:
    guard, kernel = a_guard()
    assert not guard.restricted and guard.state is ACTIVE and guard.why == "ACTIVE"
    assert kernel.conditions.held == []


def test_a_store_that_is_away_reduces_and_a_fault_halts_until_the_end_of_the_process() -> None:
    guard, kernel = a_guard()
    kernel.input(StoreStateChanged(False, "gone"))
    assert guard.state is REDUCING and "the store is away: gone" in guard.why
    kernel.input(Faulted("somewhere", "ValueError()"))
    assert guard.state is HALTED and "a fault in somewhere" in guard.why
    kernel.input(StoreStateChanged(True, ""))
    assert guard.state is HALTED and list(guard.records()) == []


def test_a_limit_of_a_part_does_not_make_the_service_unready_and_one_of_everything_does() -> None:
    guard, kernel = a_guard()
    guard.limit("operator", HALTED, "looks odd", "pair:RVN_USDT")
    assert [(c.name, c.subject) for c in kernel.conditions.held] == [("part_limited", "pair:RVN_USDT")]
    assert kernel.conditions.refusing == [] and not kernel.conditions.well
    guard.limit("operator", REDUCING, "everything looks odd")
    assert [c.subject for c in kernel.conditions.refusing] == [""]
    guard.lift("pair:RVN_USDT", "operator")
    guard.lift("", "operator")
    assert kernel.conditions.held == []


def test_there_is_room_for_a_thousand_parts_and_then_a_refusal_while_everything_can_still_be_halted() -> None:
    guard, _ = a_guard()
    for number in range(SCOPED_MAX):
        assert guard.limit("operator", REDUCING, "test", f"strategy:s{number}")
    answer = command(guard, "HALTED", "strategy:one-more")
    assert isinstance(answer, Refusal) and answer.code == "TOO_MANY_LIMITS" and answer.status == 409
    assert guard.scope_state("strategy:one-more") is ACTIVE
    assert command(guard, "HALTED", "strategy:s7") is HALTED  # in place of an earlier one
    assert command(guard, "HALTED") is HALTED


# --- an operator's word


def test_active_lifts_what_a_person_and_what_losses_set_in_that_scope_only() -> None:
    guard, _ = a_guard()
    assert command(guard, "HALTED", "", "a look at it") is HALTED
    guard.limit("dailyLoss", REDUCING, "lost too much", kept=True)
    command(guard, "REDUCING", "exchange:binance")
    assert command(guard, "ACTIVE", "", "") is ACTIVE
    assert [limit.scope for limit in guard.limits()] == ["exchange:binance"]
    assert command(guard, "ACTIVE", "exchange:binance", "") is ACTIVE and not guard.restricted
    assert command(guard, "ACTIVE", "", "") is ACTIVE  # nothing to lift is no error


def test_active_while_a_fault_holds_is_refused_with_what_still_limits_and_lifts_nothing() -> None:
    guard, kernel = a_guard()
    command(guard, "HALTED", "", "a look at it")
    kernel.input(Faulted("somewhere", "ValueError()"))
    answer = command(guard, "ACTIVE", "", "")
    assert isinstance(answer, Refusal) and (answer.code, answer.status) == ("STILL_LIMITED", 409)
    assert "HALTED by fault: a fault in somewhere" in answer.detail
    assert guard.find("", "operator") is not None


@pytest.mark.parametrize(
    ("scope", "code", "words"),
    [
        ("pair:BTC_USDC", "INVALID_PAIR", "nearest: BTC_USDT"),
        ("exchange:binanse", "INVALID_EXCHANGE", "nearest: binance"),
        ("exchange:", "INVALID_SCOPE", "exchange:NAME"),
        ("BTC_USDT", "INVALID_SCOPE", "pair:BASE_QUOTE"),
        ("venue:binance", "INVALID_SCOPE", "no scope"),
        ("strategy: ", "INVALID_SCOPE", "strategy:NAME"),
    ],
)
def test_a_scope_that_is_none_is_refused_with_what_would_be_right(scope: str, code: str, words: str) -> None:
    guard, _ = a_guard()
    answer = command(guard, "HALTED", scope)
    assert isinstance(answer, Refusal) and answer.code == code and words in answer.detail
    assert not guard.restricted


def test_a_limit_needs_a_reason() -> None:
    guard, _ = a_guard()
    answer = command(guard, "HALTED", "", "  ")
    assert isinstance(answer, Refusal) and answer.code == "REQUIRED" and not guard.restricted


def test_the_time_since_which_a_limit_holds_stays_when_only_the_words_change() -> None:
    guard, _ = a_guard()
    heard: list[LimitChanged] = []
    guard.bus.subscribe(LimitChanged, heard.append)
    command(guard, "HALTED", "", "one")
    since = guard.find("", "operator")
    guard.clock.advance(5_000_000_000)  # type: ignore[attr-defined]
    command(guard, "HALTED", "", "two")
    command(guard, "HALTED", "", "two")  # a repeat: nobody hears of it
    now = guard.find("", "operator")
    assert since is not None and now is not None and now.since_ns == since.since_ns and now.why == "two"
    assert len(heard) == 2
    command(guard, "REDUCING", "", "two")
    after = guard.find("", "operator")
    assert after is not None and after.since_ns == since.since_ns + 5_000_000_000


# --- at the desk


def test_a_halted_pair_takes_no_order_and_the_others_take_theirs(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    set_state(desk, "HALTED", "exchange:xeggex", "the venue is odd")
    assert refused(desk.submit()) == "TRADING_LIMITED"
    assert refused(desk.submit("sell")) == "TRADING_LIMITED"
    assert desk.order(exchange="binance").filled_lots
    set_state(desk, "ACTIVE", "exchange:xeggex")
    assert desk.order().filled_lots
    desk.check()


def test_a_strategy_in_reducing_may_sell_and_not_buy_and_nobody_else_is_limited(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    ma = SignalData(strategy="ma")
    desk.order(signal_data=ma)
    set_state(desk, "REDUCING", "strategy:ma", "under review")
    answer = desk.submit(signal_data=ma)
    assert refused(answer) == "TRADING_LIMITED" and "REDUCING (strategy:ma): under review" in answer.detail
    assert desk.order("sell", "500", signal_data=ma).filled_lots and desk.order().filled_lots
    desk.check()


def test_each_change_of_a_scopes_state_is_an_event_and_a_second_reason_is_none(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    set_state(desk, "HALTED", "pair:RVN_USDT", "odd prices")
    guard = desk.node.guard
    guard.limit("other", REDUCING, "milder", "pair:RVN_USDT")
    guard.lift("pair:RVN_USDT", "operator", by="desk")
    guard.lift("pair:RVN_USDT", "other")
    desk.node.kernel.flush_soon()
    desk.clock.settle()
    told = [(e["scope"], e["before"], e["state"], e["name"], e["by"]) for e in events_of(desk, "TradingStateChanged")]
    assert told == [
        ("pair:RVN_USDT", "ACTIVE", "HALTED", "operator", "desk"),
        ("pair:RVN_USDT", "HALTED", "REDUCING", "operator", "desk"),
        ("pair:RVN_USDT", "REDUCING", "ACTIVE", "other", ""),
    ]


@pytest.mark.parametrize("state", ["REDUCING", "HALTED"])
def test_an_operators_limits_survive_a_restart_and_a_fault_does_not(tmp_path: Path, state: str) -> None:
    desk = Desk(tmp_path)
    set_state(desk, state, "", "a look at it")
    set_state(desk, "HALTED", "strategy:ma", "odd orders")
    desk.node.kernel.input(Faulted("somewhere", "ValueError()"))
    desk.clock.settle()
    desk.restart()
    guard = desk.node.guard
    assert guard.state.value == state and guard.why == f"{state}: a look at it"
    assert guard.state_of("xeggex", "RVN_USDT", "ma") is HALTED and guard.find("", "fault") is None
    assert {condition.subject for condition in desk.node.kernel.conditions.held} >= {"", "strategy:ma"}
    set_state(desk, "ACTIVE", "")
    set_state(desk, "ACTIVE", "strategy:ma")
    desk.restart()
    assert not desk.node.guard.restricted and limits_on_record(desk) == {}


def test_a_store_that_comes_back_empty_is_given_the_limits_again(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    set_state(desk, "HALTED", "pair:RVN_USDT", "odd prices")
    rows = {key: record for table, key, record in desk.node.everything() if table == "risk"}
    assert "limit:pair:RVN_USDT:operator" in rows


def test_a_fault_in_who_hears_of_limits_ends(tmp_path: Path) -> None:
    desk = Desk(tmp_path)

    def broken(_: LimitChanged) -> None:
        raise StoreError("broken")

    desk.node.kernel.bus.subscribe(LimitChanged, broken)
    set_state(desk, "REDUCING", "", "test")
    assert desk.node.guard.state is HALTED and len(desk.faults) < 5
