"""Strategies in process: what their hooks see, what becomes of what they ask for, and what their faults leave alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tbx.core.kernel.clock import MS_NS
from tbx.core.model.errors import SettingsError
from tbx.core.model.messages import Refusal
from tbx.core.model.records import SignalData
from tbx.core.risk.advice import RiskAnswer
from tbx.strategies_bridge.loading import plan
from tbx.strategies_bridge.parameters import Parameters, ParameterWrong
from tbx.strategies_bridge.runner import StartStrategy, StopStrategy, WindDown
from tbx.strategies_bridge.running import Running
from tbx.strategies_bridge.strategy import OwnOrder

from .desk import RVN, Desk
from .strategy_samples import Told

TOLD = "tests.strategy_samples:Told"


def desk_with(folder: Path, *specs: str, **settings: str) -> Desk:
    desk = Desk(folder, STRATEGIES=";".join(specs), **settings)
    desk.wait(100)
    return desk


def one(folder: Path, **settings: str) -> tuple[Desk, Told]:
    """A desk with one strategy, `told`, that has started."""
    desk = desk_with(folder, TOLD, **settings)
    return desk, Told.instances[-1]


def now(desk: Desk, told: Told, action: Callable[[Told], Any], wait_ms: int = 50) -> Any:
    """What an action in a hook returned, after the exchange had time for what it asked for."""
    found: list[Any] = []
    told.act["timer"] = lambda strategy, _name: found.append(action(strategy))
    told.timer("now", after=0)
    desk.clock.settle()
    del told.act["timer"]
    if wait_ms:
        desk.wait(wait_ms)
    return found[0] if found else None


def buy(strategy: Told, **more: Any) -> str:
    return strategy.submit(**{"side": "buy", "type": "market", "quantity": 1000, **more})


def rest(strategy: Told, **more: Any) -> str:
    return buy(strategy, type="limit", price="0.02", **more)


def status(desk: Desk, name: str = "told") -> str:
    return desk.node.strategies.views()[name].status


# --- what it sees


def test_a_book_reaches_the_strategies_of_its_pair_in_decimals_and_ticks(tmp_path: Path) -> None:
    desk, told = one(tmp_path)
    seen = []
    told.act["book"] = lambda _, book: seen.append(
        (book.bid, book.ask, book.mid, book.bid_ticks, book.levels("asks", 1))
    )
    desk.price("0.0245", "0.0247")
    assert seen == [
        (Decimal("0.0245"), Decimal("0.0247"), Decimal("0.0246"), 24500, [(Decimal("0.0247"), Decimal(40000))])
    ]


def test_books_of_other_markets_and_those_that_cannot_be_traded_on_are_not_delivered(tmp_path: Path) -> None:
    desk, told = one(tmp_path)
    desk.book(exchange="binance")
    desk.book([], None)
    desk.clock.settle()
    assert told.told("book") == []
    assert now(desk, told, lambda s: s.book()) is None


def test_trades_fills_and_ends_are_told_and_the_position_has_them_already(tmp_path: Path) -> None:
    desk, told = one(tmp_path)
    held: list[tuple[str, Decimal]] = []
    told.act["fill"] = lambda s, fill, order: held.append((order.status, s.position().quantity))
    client_id = now(desk, told, buy)
    desk.hand.trade("xeggex", RVN, "0.0245", "7", buyer_is_maker=True)
    desk.clock.settle()
    assert held == [("filled", Decimal(1000))]
    [order] = told.told("order")
    assert (order.client_id, order.status, order.filled, order.average_price) == (
        *(client_id, "filled"),
        *(Decimal(1000), Decimal("0.02451")),
    )
    [trade] = told.told("trade")
    assert (trade.price, trade.quantity, trade.taker) == (Decimal("0.0245"), Decimal(7), "sell")
    assert told.position().average_price == Decimal("0.02451")
    assert told.position("RVN_USDT", "xeggex").sellable == 1000
    desk.check()


def test_coins_and_orders_of_others_are_not_its_own(tmp_path: Path) -> None:
    desk = desk_with(tmp_path, TOLD, f"{TOLD}?name=other")
    told, other = Told.instances[-2:]
    now(desk, told, buy)
    desk.order(quantity="500")  # nobody's
    assert (told.position().quantity, other.position().quantity) == (1000, 0)
    assert other.told("fill") == other.told("order") == []
    with pytest.raises(ValueError, match=r"there is no order 'told:1' of other"):
        other.cancel("told:1")


def test_what_is_less_than_an_order_takes_is_dust_and_counts_as_nothing_held(tmp_path: Path) -> None:
    desk, told = one(tmp_path)
    now(desk, told, lambda s: buy(s, quantity=41))  # 1.004 USDT; the least is 1
    assert bool(told.position()) is True
    desk.price("0.0200", "0.0201")  # worth 0.82
    assert told.position().quantity == 41
    assert bool(told.position()) is False


# --- what it asks for


def test_an_order_is_submitted_when_the_hook_has_returned_and_carries_the_strategys_name(tmp_path: Path) -> None:
    desk, told = one(tmp_path)
    inside: list[Any] = []

    def act(strategy: Told) -> str:
        client_id = rest(strategy, stop_loss="0.015", timeout_s=0)
        inside.append((strategy.open_orders[0].status, desk.node.orders.by_client_id(client_id)))
        return client_id

    client_id = now(desk, told, act)
    assert inside == [("waiting", None)]
    order = desk.node.orders.by_client_id(client_id)
    assert order is not None
    assert order.signal_data == SignalData(source="strategy", strategy="told")
    [shown] = told.open_orders
    assert (shown.status, shown.order_id, shown.price) == ("open", order.order_id, Decimal("0.02"))


def test_cancel_takes_an_order_back_by_id_or_view_and_also_one_of_the_same_call(tmp_path: Path) -> None:
    desk, told = one(tmp_path)
    client_id = now(desk, told, rest)
    now(desk, told, lambda s: s.cancel(s.open_orders[0]))
    now(desk, told, lambda s: s.cancel(rest(s)))
    ended = [(order.client_id, order.status) for order in told.told("order")]
    assert ended == [(client_id, "cancelled"), ("told:2", "cancelled")]
    now(desk, told, lambda s: s.cancel(client_id))  # has ended: nothing happens
    assert status(desk) == "running"
    assert told.open_orders == []


def test_cancel_all_leaves_what_protects_and_what_is_submitted_after_it(tmp_path: Path) -> None:
    desk, told = one(tmp_path)
    now(desk, told, lambda s: buy(s, stop_loss="0.02"))
    now(desk, told, rest)

    def act(strategy: Told) -> str:
        strategy.cancel_all()
        return rest(strategy)

    last = now(desk, told, act)
    left = {order.role: order.client_order_id for order in desk.node.orders.open.values()}
    assert left.keys() == {"stop_loss", "entry"}
    assert left["entry"] == last


def test_an_order_that_the_risk_service_is_asked_about_can_be_taken_back_before_its_answer(tmp_path: Path) -> None:
    desk, told = one(tmp_path)
    asked: list[Callable[[RiskAnswer], None]] = []
    desk.node.advising.ask = lambda _, then: asked.append(then)
    desk.node.advising.relied_on = lambda: True
    client_id = now(desk, told, rest)
    assert [(order.client_id, order.status) for order in told.open_orders] == [(client_id, "waiting")]
    now(desk, told, lambda s: s.cancel_all())
    asked[0](RiskAnswer(recommended=Decimal(1000)))
    desk.wait(100)
    assert [(order.client_id, order.status) for order in told.told("order")] == [(client_id, "cancelled")]
    assert told.open_orders == []
    desk.check()


def test_a_refusal_comes_to_on_order_once_whether_it_is_on_record_or_not(tmp_path: Path) -> None:
    desk, told = one(tmp_path)
    now(desk, told, lambda s: buy(s, quantity=Decimal("0.001")))  # off the grid: never on record
    now(desk, told, lambda s: buy(s, quantity=9_000_000, type="limit", price="0.02451"))  # too much money
    told_of = [(order.status, order.code) for order in told.told("order")]
    assert told_of == [("refused", "QUANTITY_STEP"), ("rejected", "INSUFFICIENT_BALANCE")]
    assert told.open_orders == []
    assert desk.node.strategies.views()["told"].refused == 1


@pytest.mark.parametrize(
    ("order", "said"),
    [
        ({"price": 0.02, "type": "limit"}, "price is the float 0.02, which is not exact"),
        ({"quantity": Decimal("NaN")}, "quantity is NaN, expected more than 0"),
        ({"quantity": 0}, "quantity is 0, expected more than 0"),
        ({"quantity": 10**9}, "at most 10000000"),
        ({"quantity": True}, "quantity is bool"),
        ({"side": "long"}, "side is 'long', expected buy or sell"),
        ({"type": "limit"}, "price is missing"),
        ({"type": "stop_loss", "side": "sell"}, "a stop_loss order needs a stop_price"),
        ({"stop_price": 1}, "a market order has no stop_price"),
        ({"side": "sell", "stop_loss": 1}, "a sell has none"),
        ({"stop_loss": 2, "take_profit": 1}, "stop_loss < take_profit"),
        ({"post_only": True}, "only a limit order"),
        ({"tif": "GTD"}, "tif is 'GTD'"),
        ({"pair": "BTC_USDT"}, "pair 'BTC_USDT' is none of those of told: RVN_USDT"),
        ({"exchange": "binance"}, "told trades RVN_USDT at xeggex"),
        ({"timeout_s": -1}, "timeout_s is -1"),
    ],
)
def test_what_could_never_be_an_order_is_an_error_in_the_hook(tmp_path: Path, order: dict[str, Any], said: str) -> None:
    desk, told = one(tmp_path)
    now(desk, told, lambda s: buy(s, **order))
    view = desk.node.strategies.views()["told"]
    assert view.status == "stopped"
    assert view.error is not None
    assert said in view.error
    assert not desk.node.orders.orders
    assert desk.faults == []


def test_prices_and_quantities_of_any_kind_are_rounded_to_what_the_exchange_takes(tmp_path: Path) -> None:
    _, told = one(tmp_path)
    assert told.round_price(0.024512345) == Decimal("0.024512")
    assert told.round_price(Decimal("0.024512345"), up=True) == Decimal("0.024513")
    assert told.round_quantity("12.349") == Decimal("12.34")


# --- timers and state


def test_timers_repeat_or_fire_once_and_can_be_called_off(tmp_path: Path) -> None:
    desk, told = one(tmp_path)
    now(desk, told, lambda s: (s.timer("tick", every=0.1), s.timer("once", after=0.25), s.timer("never", after=0.3)), 0)
    told.calls.clear()
    desk.clock.advance(280 * MS_NS)
    told.cancel_timer("never")
    desk.clock.advance(100 * MS_NS)
    assert told.told("timer") == ["tick", "tick", "once", "tick"]


def test_state_is_kept_with_the_commit_of_the_call_and_restored_before_on_start(tmp_path: Path) -> None:
    desk, told = one(tmp_path)
    now(desk, told, lambda s: s.state.update(price=Decimal("0.1"), seen=[1, 2]))
    told.act["book"] = lambda s, _: s.state.update(books=1)
    desk.price("0.0245", "0.0247")  # a book alone keeps nothing
    desk.restart()
    desk.wait(100)
    told = Told.instances[-1]
    assert told.state == {"price": "0.1", "seen": [1, 2]}
    told.act["book"] = lambda s, _: (s.state.update(books=2), s.keep())
    desk.price("0.0245", "0.0248")
    desk.restart()
    desk.wait(100)
    assert Told.instances[-1].state["books"] == 2


@pytest.mark.parametrize(
    ("state", "said"),
    [({"x": object()}, "state cannot be kept"), ({"x": "y" * 70_000}, "state takes 70,"), ({1.5: "x"}, "")],
)
def test_a_state_that_cannot_be_kept_stops_the_strategy_and_the_one_before_stays(
    tmp_path: Path, state: dict[Any, Any], said: str
) -> None:
    desk, told = one(tmp_path)
    now(desk, told, lambda s: s.state.update(good=1))
    if said:
        now(desk, told, lambda s: s.state.update(state))
        assert said in (desk.node.strategies.views()["told"].error or "")
    kept = json.loads(desk.store.tables["strategies"]["state:told"])
    assert kept["state"] == {"good": 1}
    assert desk.faults == []


def test_a_state_is_kept_only_where_the_hook_that_asked_for_it_returns(tmp_path: Path) -> None:
    desk, told = one(tmp_path)
    now(desk, told, lambda s: s.state.update(bought=False))
    # What it asked for is dropped, so the state must not say that it was done.
    told.act["book"] = lambda s, _: (s.state.update(bought=True), s.keep(), buy(s), s.position("BTC_USDT"))
    desk.price("0.0245", "0.0247")
    assert status(desk) == "stopped" and not desk.node.orders.orders
    assert json.loads(desk.store.tables["strategies"]["state:told"])["state"] == {"bought": False}


def test_a_clock_that_is_set_back_keeps_no_timer_waiting(tmp_path: Path) -> None:
    desk, told = one(tmp_path)
    now(desk, told, lambda s: s.timer("tick", every=0.1), 0)
    told.calls.clear()
    clock, hour_ns = desk.clock, 3_600_000 * MS_NS
    before = clock.now_ns
    clock.now_ns = lambda: before() - hour_ns  # type: ignore[method-assign]
    clock.advance(450 * MS_NS)
    assert told.told("timer") == ["tick"] * 4


def test_client_ids_are_never_given_twice_over_restarts(tmp_path: Path) -> None:
    desk, told = one(tmp_path)
    given = [now(desk, told, rest)]
    for _ in range(3):
        desk.restart()
        desk.wait(100)
        given += [now(desk, Told.instances[-1], rest) for _ in range(2)]
    assert len(set(given)) == len(given) == 7


def test_what_an_earlier_process_left_resting_is_taken_back_before_it_starts(tmp_path: Path) -> None:
    desk, told = one(tmp_path)
    client_id = now(desk, told, rest)
    desk.restart()
    desk.wait(200)
    order = desk.node.orders.by_client_id(client_id)
    assert order is not None
    assert order.ended
    assert [o.client_id for o in Told.instances[-1].told("order")] == [client_id]


# --- faults


def test_a_hook_that_raises_stops_its_strategy_alone(tmp_path: Path) -> None:
    desk = desk_with(tmp_path, TOLD, f"{TOLD}?name=other")
    told, other = Told.instances[-2:]
    now(desk, told, lambda s: buy(s, stop_loss="0.02"))
    resting = now(desk, told, rest)
    others = now(desk, other, rest)

    def fails(strategy: Told, _: object) -> None:
        buy(strategy)
        raise KeyError("a mistake")

    told.act["book"] = fails
    desk.price("0.0245", "0.0247")
    desk.wait(100)
    view = desk.node.strategies.views()["told"]
    assert view.status == "stopped"
    assert (view.error or "").startswith("on_book: KeyError: 'a mistake' (test_strategies.py:")
    orders = {order.client_order_id: order for order in desk.node.orders.orders.values()}
    assert orders[resting].ended
    assert not orders[others].ended
    assert "told:3" not in orders  # what the failing call asked for
    assert [
        o.role for o in desk.node.orders.open.values() if o.signal_data == SignalData("strategy", None, "told")
    ] == ["stop_loss"]
    books = len(told.told("book"))
    desk.price("0.0245", "0.0248")
    assert len(told.told("book")) == books
    assert len(other.told("book")) == 2
    assert desk.node.guard.state.value == "ACTIVE"
    assert desk.node.kernel.conditions.holds("strategy_stopped", "told")
    assert ("StrategyStopped", "") in desk.events("signals")
    desk.check()


def test_a_stopped_strategy_may_only_reduce_until_it_is_started_again(tmp_path: Path) -> None:
    desk, told = one(tmp_path)
    now(desk, told, lambda s: (buy(s), 1 / 0))
    answer = desk.submit(signal_data=SignalData(strategy="told"))
    assert isinstance(answer, Refusal)
    assert answer.code == "TRADING_LIMITED"
    answers: list[Any] = []
    desk.node.kernel.input(StartStrategy("told", answers.append))
    desk.clock.settle()
    assert answers[0].status == "running"
    assert Told.instances[-1] is not told
    assert not desk.node.kernel.conditions.holds("strategy_stopped", "told")
    assert Told.instances[-1].open_orders == []  # what the failing call asked for is forgotten
    assert now(desk, Told.instances[-1], buy) == "told:2"
    assert Told.instances[-1].position().quantity == 1000


def test_more_commands_in_a_call_than_allowed_are_all_dropped(tmp_path: Path) -> None:
    desk, told = one(tmp_path)
    now(desk, told, lambda s: [rest(s) for _ in range(Running.COMMANDS_MAX + 1)])
    assert "TooManyCommands" in (desk.node.strategies.views()["told"].error or "")
    assert not desk.node.orders.orders


def test_a_flood_of_orders_is_refused_without_records_and_stops_the_strategy(tmp_path: Path) -> None:
    spec = "tests.strategy_samples:Flooding?each=100"  # 10,000 a second
    desk = desk_with(tmp_path, spec, TOLD, ORDER_RATE_LIMIT="50")
    told = Told.instances[-1]
    desk.clock.advance(500 * MS_NS)
    view = desk.node.strategies.views()["flooding"]
    assert view.status == "stopped"
    assert "refusals in a second" in (view.error or "")
    assert len(desk.node.orders.orders) <= 100
    assert status(desk) == "running"
    assert now(desk, told, buy)
    assert told.position().quantity == 1000
    desk.check()


@pytest.mark.parametrize("quantity", ["9000000", "0.001"])
def test_a_strategy_that_repeats_what_is_refused_is_stopped_before_it_stops_the_service(
    tmp_path: Path, quantity: str
) -> None:
    desk, told = one(tmp_path, ORDER_RATE_LIMIT="0")
    told.act["order"] = lambda s, _: buy(s, type="limit", quantity=quantity, price="0.02451")
    now(desk, told, lambda s: buy(s, type="limit", quantity=quantity, price="0.02451"))
    desk.wait(1_000)
    view = desk.node.strategies.views()["told"]
    assert (view.status, view.orders_sent) == ("stopped", 1_001)
    assert desk.faults == []
    assert desk.node.guard.state.value == "ACTIVE"


def test_a_signal_that_is_repeated_when_it_is_refused_stops_the_strategy(tmp_path: Path) -> None:
    desk, told = one(tmp_path)
    told.act["signal"] = lambda s, _: s.signal("CLOSE")
    now(desk, told, lambda s: s.signal("CLOSE"))  # holds nothing
    desk.wait(1_000)
    assert status(desk) == "stopped"
    assert desk.faults == []


def test_many_strategies_that_ask_for_much_at_one_book_all_get_it(tmp_path: Path) -> None:
    desk = desk_with(tmp_path, *(f"{TOLD}?name=s{i}" for i in range(20)))
    for told in Told.instances[-20:]:
        told.act["book"] = lambda s, _: [rest(s, quantity=Decimal("0.001")) for _ in range(900)]
    desk.price("0.0245", "0.0247")
    desk.wait(100)
    views = desk.node.strategies.views().values()
    assert [(view.orders_sent, view.refused) for view in views] == [(900, 900)] * 20
    assert desk.faults == []


# --- stop


def test_a_strategy_whose_init_exits_is_not_started_and_the_service_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk, _ = one(tmp_path)
    answers: list[Any] = []
    desk.node.kernel.input(StopStrategy("told", answers.append))

    def leave(_: object, __: object) -> None:
        raise SystemExit("enough")

    monkeypatch.setattr(Told, "__init__", leave)
    desk.node.kernel.input(StartStrategy("told", answers.append))
    desk.wait(50)
    assert isinstance(answers[1], Refusal)
    assert (answers[1].code, "enough" in answers[1].detail) == ("STRATEGY_NOT_STARTED", True)
    assert desk.order().filled_lots


def test_stop_calls_on_stop_keeps_its_state_and_cancels_its_entries(tmp_path: Path) -> None:
    desk, told = one(tmp_path)
    client_id = now(desk, told, rest)
    told.act["stop"] = lambda s: s.state.update(stopped=True)
    answers: list[Any] = []
    desk.node.kernel.input(StopStrategy("told", answers.append))
    desk.wait(100)
    assert (answers[0].status, answers[0].error) == ("stopped", None)
    order = desk.node.orders.by_client_id(client_id)
    assert order is not None
    assert order.ended
    assert not desk.node.kernel.conditions.holds("strategy_stopped", "told")
    desk.node.kernel.input(StopStrategy("told", answers.append))
    desk.clock.settle()
    assert answers[1].code == "STRATEGY_STATE"
    desk.node.kernel.input(StartStrategy("told", answers.append))
    desk.clock.settle()
    assert Told.instances[-1].state == {"stopped": True}


def test_the_service_ends_only_when_the_exchange_has_taken_the_orders_back(tmp_path: Path) -> None:
    desk, told = one(tmp_path)
    now(desk, told, rest)
    done: list[bool] = []
    desk.node.kernel.input(WindDown(lambda: done.append(not desk.node.orders.open)))
    desk.clock.settle()
    assert done == []
    desk.wait(100)
    assert done == [True]
    assert told.told("stop") == [None]


# --- loading


def test_everything_wrong_with_all_strategies_is_told_at_once() -> None:
    specs = (f"{TOLD}?name=Big", f"{TOLD}?pairs=", "tests.strategy_samples:Looping?hwo=x", f"{TOLD}?x", TOLD, TOLD)
    with pytest.raises(SettingsError) as wrong:
        plan(specs)
    assert len(wrong.value.problems) == 5


@pytest.mark.parametrize("name", ["drill", "technical_ml_ensemble"])
def test_a_name_that_the_service_trades_under_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match=f"name '{name}'"):
        plan([f"{TOLD}?name={name}"])


@pytest.mark.parametrize(
    ("read", "said"),
    [
        (lambda p: p.decimal("n"), "n=x: expected a number"),
        (lambda p: p.whole("n", least=1, most=5), "n=x: expected a whole number from 1 to 5"),
        (lambda p: p.whole("seven", most=5), "seven=7: expected a number of at most 5"),
        (lambda p: p.flag("n"), "n=x: expected true or false"),
        (lambda p: p.text("missing"), "parameter missing is missing"),
        (lambda p: p.decimal("nan"), "nan=nan: expected a number"),
    ],
)
def test_a_parameter_says_what_is_wrong_with_it(read: Callable[[Parameters], Any], said: str) -> None:
    with pytest.raises(ParameterWrong, match=said):
        read(Parameters({"n": "x", "seven": "7", "nan": "nan"}))


def test_a_strategy_without_hooks_costs_a_book_nothing(tmp_path: Path) -> None:
    desk = desk_with(tmp_path, "tests.strategy_samples:Quiet")
    desk.price("0.0245", "0.0247")
    assert desk.node.strategies.views()["quiet"].calls == 1  # on_start


def test_orders_in_a_strategys_name_from_elsewhere_are_told_to_it(tmp_path: Path) -> None:
    desk, told = one(tmp_path)
    desk.order(signal_data=SignalData(strategy="told"))
    [order] = told.told("order")
    assert isinstance(order, OwnOrder)
    assert told.position().quantity == 1000


def test_a_signal_is_sized_by_the_service_and_answered(tmp_path: Path) -> None:
    desk, told = one(tmp_path, MAX_RISK_PER_TRADE="0.02")
    client_id = now(desk, told, lambda s: s.signal("BUY", stop_loss="0.024", max_risk="0.001"))
    [answer] = told.told("signal")
    assert (answer.client_id, answer.status, answer.code) == (client_id, "executed", None)
    assert told.position()
    now(desk, told, lambda s: s.signal("CLOSE"))
    assert not told.position()
    assert [a.status for a in told.told("signal")] == ["executed", "executed"]
    desk.check()
