"""What a strategy cannot do to others: sell their coins, stop the service with what it says, outstay its time, or open
something when it is stopped."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tbx.core.model.errors import SettingsError
from tbx.core.model.messages import ExecuteSignal
from tbx.strategies_bridge import loading
from tbx.strategies_bridge.loading import plan
from tbx.strategies_bridge.requests import exact
from tbx.strategies_bridge.runner import StartStrategy, StopStrategy

from .desk import Desk
from .strategy_samples import Told
from .test_strategies import TOLD, buy, desk_with, now, one, rest, status

SAMPLES = "tests.strategy_samples"


def sell(strategy: Told, quantity: int | str, **more: Any) -> str:
    return strategy.submit(**{"side": "sell", "type": "market", "quantity": quantity, **more})


def refusals(told: Told) -> list[tuple[str, str | None]]:
    return [(order.client_id, order.code) for order in told.told("order") if order.status == "refused"]


def held(desk: Desk, name: str) -> Decimal:
    return desk.node.subledgers.quantity(name, "paper.xeggex", "RVN_USDT")


def two(folder: Path) -> tuple[Desk, Told, Told]:
    """Two strategies that hold 1000 each, and 1000 that are nobody's."""
    desk = desk_with(folder, TOLD, f"{TOLD}?name=other")
    told, other = Told.instances[-2:]
    now(desk, told, buy)
    now(desk, other, buy)
    desk.order()
    return desk, told, other


# --- coins of others


def test_a_sale_of_more_than_the_strategy_holds_itself_is_refused(tmp_path: Path) -> None:
    desk, told, _ = two(tmp_path)
    client_id = now(desk, told, lambda s: sell(s, 1500))
    assert refusals(told) == [(client_id, "INSUFFICIENT_BALANCE")]
    [refused] = [order for order in told.told("order") if order.status == "refused"]
    assert refused.reason == (
        "sells 1500 RVN; strategy 'told' itself holds 1000 RVN at xeggex, and what others hold is not its to sell"
    )
    assert [held(desk, name) for name in ("told", "other", "")] == [1000] * 3
    now(desk, told, lambda s: sell(s, 1000))
    assert [held(desk, name) for name in ("told", "other", "")] == [0, 1000, 1000]
    desk.check()


def test_sales_of_one_call_share_what_is_held_and_those_that_rest_count(tmp_path: Path) -> None:
    desk, told, _ = two(tmp_path)
    resting = {"type": "limit", "price": "0.03", "timeout_s": 0}
    ids = now(desk, told, lambda s: [sell(s, 600, **resting), sell(s, 600), sell(s, 400)])
    assert refusals(told) == [(ids[1], "INSUFFICIENT_BALANCE")]
    again = now(desk, told, lambda s: sell(s, 1))
    assert refusals(told)[1:] == [(again, "INSUFFICIENT_BALANCE")]
    reason = told.told("order")[-1].reason
    assert "holds 600 RVN at xeggex, of which its open sells offer 600" in reason
    assert [held(desk, name) for name in ("told", "other", "")] == [600, 1000, 1000]
    desk.check()


def test_stops_of_its_own_count_as_sales_and_the_exits_of_an_entry_do_not(tmp_path: Path) -> None:
    desk, told, other = two(tmp_path)
    ids = now(desk, told, lambda s: [sell(s, n, type="stop_loss", stop_price="0.02") for n in (1500, 700, 400)])
    assert refusals(told) == [(ids[0], "INSUFFICIENT_BALANCE"), (ids[2], "INSUFFICIENT_BALANCE")]
    now(desk, other, lambda s: buy(s, stop_loss="0.02", take_profit="0.04"))
    now(desk, other, lambda s: sell(s, 2000))
    assert refusals(other) == []
    assert held(desk, "other") == 0
    desk.check()


def test_a_sale_without_an_exchange_goes_where_the_strategy_holds_the_coins(tmp_path: Path) -> None:
    desk = desk_with(tmp_path, f"{TOLD}?exchange=")
    told = Told.instances[-1]
    now(desk, told, lambda s: buy(s, exchange="xeggex"))
    desk.order(quantity="5000", exchange="binance")  # nobody's, where the fees are lower
    desk.book(exchange="binance")
    now(desk, told, lambda s: sell(s, 1000))
    assert [order.reason for order in told.told("order") if order.code] == []
    assert not told.position()
    assert held(desk, "told") == 0


# --- what it says


def test_no_text_of_a_strategy_stops_the_others_or_breaks_a_line(tmp_path: Path) -> None:
    desk, told = one(tmp_path)

    def fails(_: Told) -> None:
        raise ValueError("boom \ud800\nsecond line\x1b[31m")

    now(desk, told, fails)
    view = desk.node.strategies.views()["told"]
    assert (view.error or "").startswith(r"on_timer: ValueError: boom \ud800\nsecond line\x1b[31m (test_strategies_lim")
    msgspec.json.encode(desk.node.kernel.conditions.held)
    assert desk.faults == []
    assert desk.order().filled_lots


def test_parameters_log_lines_and_what_cannot_be_shown_are_cleaned_too(tmp_path: Path) -> None:
    desk, told = one(tmp_path)
    lines: list[str] = []
    desk.node.strategies.around.log.line = lambda _, text, __: lines.append(text)  # type: ignore[method-assign]
    desk.node.strategies._planned["told"].parameters["note\n"] = "\udcff"

    class Odd(Exception):
        def __str__(self) -> str:
            raise KeyboardInterrupt

    def fails(_: Told) -> None:
        raise Odd

    now(desk, told, lambda s: s.log("one\ntwo \udfff"))
    assert lines == [r"one\ntwo \udfff"]
    now(desk, told, fails)
    view = desk.node.strategies.views()["told"]
    assert (view.error or "").startswith("on_timer: Odd: its text cannot be shown: KeyboardInterrupt (")
    assert view.parameters["note\\n"] == r"\udcff"
    msgspec.json.encode(view)
    assert desk.faults == []


def test_an_error_without_words_names_the_line(tmp_path: Path) -> None:
    desk, told = one(tmp_path)

    def fails(_: Told) -> None:
        raise AssertionError

    now(desk, told, fails)
    error = desk.node.strategies.views()["told"].error or ""
    assert re.fullmatch(r"on_timer: AssertionError \(test_strategies_limits\.py:\d+\)", error)


# --- how long it takes, and what it raises


def with_watchdog(desk: Desk, milliseconds: int, action: Callable[[], None]) -> None:
    watchdog = desk.node.strategies.watchdog(milliseconds * 1_000_000)
    try:
        action()
    finally:
        watchdog.close()


def swallows(strategy: Told, catastrophe: Callable[[], object]) -> None:
    try:
        catastrophe()
    except:  # noqa: E722 - as an author may write it
        strategy.state["went_on"] = True
    rest(strategy)


@pytest.mark.parametrize(
    "catastrophe", [partial(time.sleep, 60), partial(re.match, r"(a+)+$", "a" * 40 + "b")], ids=["sleep", "expression"]
)
def test_a_hook_that_swallows_its_interruption_is_stopped_and_what_it_asked_for_is_dropped(
    tmp_path: Path, catastrophe: Callable[[], object]
) -> None:
    desk, told = one(tmp_path)
    with_watchdog(desk, 50, lambda: now(desk, told, partial(swallows, catastrophe=catastrophe)))
    view = desk.node.strategies.views()["told"]
    assert view.status == "stopped"
    assert "StrategyStuck: it took" in (view.error or "")
    assert "was interrupted and went on" in (view.error or "")
    assert told.state == {"went_on": True}
    assert not desk.node.orders.orders
    assert "state:told" not in desk.store.tables.get("strategies", {})


def test_a_hook_that_was_too_long_and_could_not_be_interrupted_is_stopped(tmp_path: Path) -> None:
    desk, told = one(tmp_path)

    def slow(strategy: Told) -> None:
        desk.node.strategies.call.began_ns -= 10**9  # as if compiled code had taken a second
        rest(strategy)

    now(desk, told, slow)
    assert status(desk) == "running"  # nobody looks
    with_watchdog(desk, 500, lambda: now(desk, told, slow))
    assert "could not be interrupted" in (desk.node.strategies.views()["told"].error or "")
    assert len(desk.node.orders.orders) == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit, BaseException])
def test_whatever_a_hook_raises_is_its_own_fault(tmp_path: Path, error: type[BaseException]) -> None:
    desk, told = one(tmp_path)

    def fails(_: Told) -> None:
        raise error

    now(desk, told, fails)
    assert status(desk) == "stopped"
    assert desk.order().filled_lots


def test_a_strategy_that_cannot_be_made_in_time_is_told_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "CONSTRUCTION_NS", 100_000_000)
    with pytest.raises(SettingsError, match=r"__init__ does not come back: it took longer than 100 ms"):
        plan([f"{SAMPLES}:Endless"])


def test_a_strategy_that_cannot_be_made_anew_in_time_is_not_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk, _ = one(tmp_path)
    answers: list[Any] = []
    desk.node.kernel.input(StopStrategy("told", answers.append))
    monkeypatch.setattr(Told, "__init__", lambda *_: time.sleep(60))
    with_watchdog(desk, 50, lambda: desk.node.kernel.input(StartStrategy("told", answers.append)))
    desk.wait(50)
    assert answers[1].code == "STRATEGY_NOT_STARTED"
    assert desk.order().filled_lots


# --- at the end


def test_what_on_stop_buys_is_left_out_and_what_it_sells_is_sold(tmp_path: Path) -> None:
    desk, told = one(tmp_path)
    lines: list[str] = []
    desk.node.strategies.around.log.line = lambda _, text, __: lines.append(text)  # type: ignore[method-assign]
    now(desk, told, buy)
    resting = now(desk, told, rest)

    def act(strategy: Told) -> None:
        buy(strategy)
        rest(strategy)
        strategy.signal("BUY", stop_loss="0.024")
        sell(strategy, 400)
        sell(strategy, 600, type="limit", price="0.03", timeout_s=0)

    told.act["stop"] = act
    desk.node.kernel.input(StopStrategy("told", lambda _: None))
    desk.wait(200)
    left = {order.client_order_id: order.side for order in desk.node.orders.orders.values()}
    assert left == {"told:1": "buy", resting: "buy", "told:6": "sell", "told:7": "sell"}
    assert held(desk, "told") == 600
    assert [order.client_order_id for order in desk.node.orders.open.values()] == ["told:7"]
    assert [line.split(" that")[0] for line in lines] == ["a buy", "a buy", "a BUY signal"]
    desk.check()


# --- words and numbers


@pytest.mark.parametrize("text", ["1_000", " 1000 ", "\u0661\u0660\u0660\u0660", "1000\n", "+1000", "Infinity", ""])
def test_a_number_is_plain_decimal_text_as_over_rest(text: str) -> None:
    with pytest.raises(ValueError, match="quantity is .*, expected a decimal number such as 0.0245"):
        exact("quantity", text, Decimal(10_000))
    assert exact("quantity", "1000.50", Decimal(10_000)) == Decimal("1000.5")


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ("kelly", "kelly_criterion"),
        ("kelly_criterion", "kelly_criterion"),
        ("fixed_fraction", "fixed_fraction"),
        ("volatility_adjusted", "volatility_adjusted"),
    ],
)
def test_the_methods_of_a_signal_are_those_of_rest(tmp_path: Path, given: Any, taken: str) -> None:
    desk, told = one(tmp_path)
    seen: list[ExecuteSignal] = []
    desk.node.kernel.bus.subscribe(ExecuteSignal, seen.append)
    now(desk, told, lambda s: s.signal("BUY", stop_loss="0.024", method=given, confidence=0))
    assert [(signal.method, signal.confidence) for signal in seen] == [(taken, Decimal(0))]


def test_a_method_that_does_not_exist_is_an_error_that_says_the_nearest(tmp_path: Path) -> None:
    desk, told = one(tmp_path)
    now(desk, told, lambda s: s.signal("BUY", method="kely"))  # type: ignore[arg-type]
    assert "method is 'kely'" in (desk.node.strategies.views()["told"].error or "")
    assert "did you mean kelly?" in (desk.node.strategies.views()["told"].error or "")
