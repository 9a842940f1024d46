"""The trading loop over a whole node in virtual time, with core and ML services on real sockets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tbx.core.kernel.clock import MS_NS, SECOND_NS
from tbx.core.model.messages import CancelOrder
from tbx.core.model.records import Order, SignalData, State
from tbx.core.risk.guard import TradingState
from tbx.strategies_bridge import trading_loop
from tbx.strategies_bridge.holdings import Holdings
from tbx.strategies_bridge.services.client import ServiceUnavailable
from tbx.strategies_bridge.services.core import CoreClient
from tbx.strategies_bridge.services.ml import MlClient
from tbx.strategies_bridge.services.opinions import Score
from tbx.strategies_bridge.trading_loop import STRATEGY, CoreSource, MlSource, TradingLoop

from .desk import RVN, Desk
from .redis_fixtures import in_loop
from .service_fixtures import Lines
from .service_peers import Peers, peers

BUY = {"signal": "buy", "confidence": 0.9}
SELL = {"signal": "sell", "confidence": 0.9}
UP = {"prediction": "up", "confidence": 0.9}
DOWN = {"prediction": "down", "confidence": 0.9}
XMR = "XMR_USDT"
SLOT = 1


class Rig:
    """A desk, a loop on it, and the services that the loop asks."""

    def __init__(self, folder: Path, services: Peers, **settings: str) -> None:
        self.desk = Desk(folder, INITIAL_BALANCE="2000", **settings)
        self.desk.book([("150.1", "100")], [("150.2", "100")], pair=XMR)
        self.services = services
        self.core = CoreClient(services.core.url, self.desk.clock)
        self.ml = MlClient(services.ml.url, self.desk.clock)
        self.log = Lines()
        self.ready = ""
        self.loop = self.a_loop(self.core, self.ml)

    def a_loop(self, core: CoreSource, ml: MlSource | None, **more: Any) -> TradingLoop:
        node, settings = self.desk.node, self.desk.settings
        holdings = Holdings(
            node.kernel,
            node.orders,
            node.market,
            node.subledgers.quantity,
            STRATEGY,
            paper=True,
            stop_loss_percent=settings.stop_loss_percent,
        )
        return TradingLoop(
            node.kernel,
            settings,
            core,
            ml,
            holdings,
            node.portfolio,
            node.guard,
            self.log,
            ready=lambda: self.ready,
            **more,
        )

    def opine(self, strategy: Any, prediction: Any, *pairs: str) -> None:
        self.services.core.offer({pair: {"macd": strategy} for pair in pairs})
        for pair in pairs:
            self.services.ml.predict(pair, prediction)

    async def cycle(self, slot: int = SLOT) -> bool:
        """One cycle, while the node turns beside it; then what was sent has time to trade."""
        running = asyncio.ensure_future(self.loop.cycle(slot))
        while not running.done():
            self.desk.clock.settle()
            await asyncio.sleep(0)
        self.desk.wait(100)
        return running.result()

    def decided(self) -> list[dict[str, Any]]:
        """The data of every DecisionMade on record."""
        events = [event for _, raw in self.desk.store.journal for event in json.loads(raw)]
        return [event["data"] for event in events if event["type"] == "DecisionMade"]

    def words(self, word: str) -> list[dict[str, object]]:
        return [fields for _, text, fields in self.log.lines if text == word]

    def entries(self) -> list[Order]:
        return [order for order in self.desk.node.orders.orders.values() if order.side == "buy"]

    @property
    def held(self) -> bool:
        return self.loop.holdings.holds(RVN)


@asynccontextmanager
async def a_rig(folder: Path, **settings: str) -> AsyncIterator[Rig]:
    with peers() as services:
        rig = Rig(folder, services, **settings)
        yield rig
        rig.core.http.close()
        rig.ml.http.close()
    rig.desk.check()


@in_loop
async def test_what_strategies_and_prediction_want_is_bought_with_a_bracket_and_explained(tmp_path: Path) -> None:
    async with a_rig(tmp_path) as rig:
        rig.opine(BUY, UP, RVN)
        assert await rig.cycle()
        (entry,) = rig.entries()
        assert entry.state is State.FILLED and rig.held
        assert entry.signal_data is not None and entry.signal_data.strategy == STRATEGY
        stop, target = rig.desk.get(entry.stop_loss_id), rig.desk.get(entry.take_profit_id)
        assert stop.stop_ticks is not None and target.stop_ticks is not None
        # Mid 0.0245: 5 % below, and twice as far above.
        exits = (stop.stop_ticks * stop.tick, target.stop_ticks * target.tick)
        assert exits == tuple(rig.loop.holdings.on_grid(RVN, Decimal(p)) for p in ("0.023275", "0.02695"))
        (decision,) = rig.decided()
        assert decision["pair"] == RVN and decision["action"] == "buy" and decision["missing"] == []
        assert (decision["technicalScore"], decision["mlScore"], decision["combinedScore"]) == (0.9, 0.9, 0.9)
        assert (decision["technicalWeight"], decision["mlWeight"], decision["confidence"]) == (0.6, 0.4, 0.9)
        assert decision["signalId"].startswith(f"loop.{RVN}.")
        signal = rig.desk.node.signals.find(decision["signalId"])
        assert signal is not None and signal.status == "executed" and entry.order_id in signal.order_ids
        assert json.loads(signal.metadata) == {"technicalScore": 0.9, "mlScore": 0.9, "combinedScore": 0.9}
        assert rig.loop.view().last_signals == 1


@in_loop
async def test_a_position_that_is_open_is_not_added_to_and_is_sold_when_the_scores_turn(tmp_path: Path) -> None:
    async with a_rig(tmp_path) as rig:
        rig.opine(BUY, UP, RVN)
        await rig.cycle(1)
        await rig.cycle(2)
        assert len(rig.entries()) == 1
        assert "open already" in rig.decided()[-1]["reason"] and rig.decided()[-1]["signalId"] is None
        rig.opine(SELL, DOWN, RVN)
        await rig.cycle(3)
        assert not rig.held and rig.desk.total("RVN") == 0
        assert not rig.desk.node.orders.open
        await rig.cycle(4)
        assert "nothing to sell" in rig.decided()[-1]["reason"]


@in_loop
async def test_the_same_cycle_after_a_restart_trades_nothing_twice(tmp_path: Path) -> None:
    async with a_rig(tmp_path) as rig:
        rig.opine(BUY, UP, RVN)
        await rig.cycle()
        entry = rig.entries()[0]
        instrument = rig.desk.node.instruments[entry.exchange, RVN]
        all_of_it = instrument.quantity(rig.loop.holdings.lots(instrument))
        rig.desk.order("sell", str(all_of_it), exchange=entry.exchange, signal_data=entry.signal_data)
        assert not rig.held
        rig.desk.restart()
        rig.loop = rig.a_loop(rig.core, rig.ml)
        rig.opine({"signal": "buy", "confidence": 1}, UP, RVN)  # what is said has changed, the cycle has not
        await rig.cycle()
        assert len(rig.entries()) == 1
        assert rig.words("SIGNAL_DONE")[-1]["repeated"] is True
        await rig.cycle(SLOT + 1)
        assert len(rig.entries()) == 2


@in_loop
async def test_a_core_service_that_is_away_ends_the_cycle_and_is_said_once(tmp_path: Path) -> None:
    async with a_rig(tmp_path) as rig:
        rig.opine(BUY, UP, RVN)
        rig.services.core.away()
        assert not await rig.cycle(1)
        assert not await rig.cycle(2)
        view = rig.loop.view()
        assert view.failed == 2 and view.cycles == 0
        assert view.last_error is not None and view.last_error.startswith("core: ")
        rig.services.core.back()
        rig.desk.wait(10_000)  # the circuit breaker's pause
        assert await rig.cycle(3)
        assert rig.loop.view().last_error is None and len(rig.entries()) == 1


@in_loop
async def test_without_a_prediction_the_strategies_have_to_carry_the_decision_alone(tmp_path: Path) -> None:
    async with a_rig(tmp_path) as rig:
        rig.opine({"signal": "buy", "confidence": 0.45}, UP, RVN)
        rig.services.ml.away()
        assert await rig.cycle(1)
        (decision,) = rig.decided()
        assert decision["action"] == "hold" and decision["mlScore"] is None
        assert abs(decision["combinedScore"] - 0.27) < 1e-9 and decision["missing"][0].startswith("ml: ")
        rig.services.ml.back()
        rig.desk.wait(10_000)
        await rig.cycle(2)
        assert rig.decided()[-1]["action"] == "buy"


@in_loop
async def test_garbage_about_one_pair_leaves_the_others_alone_and_unknown_pairs_are_named_once(tmp_path: Path) -> None:
    async with a_rig(tmp_path) as rig:
        rig.opine(BUY, UP, "WOW_USDT", RVN, XMR)
        rig.services.core.fault("garbage", path=f"/api/pair/{RVN}")
        rig.services.ml.fault("nan", path=f"/api/predictions/{RVN}")
        await rig.cycle(1)
        await rig.cycle(2)
        first = {decision["pair"]: decision for decision in rig.decided()[:2]}
        assert first[RVN]["action"] == "hold" and "neither" in first[RVN]["reason"] and len(first[RVN]["missing"]) == 2
        assert first[XMR]["action"] == "buy"
        assert [fields["pair"] for fields in rig.words("PAIR_UNKNOWN")] == ["WOW_USDT"]


@in_loop
async def test_while_trading_is_limited_nothing_is_bought_and_that_is_said_once_but_what_is_held_is_sold(
    tmp_path: Path,
) -> None:
    async with a_rig(tmp_path) as rig:
        rig.opine(BUY, UP, RVN)
        await rig.cycle(1)
        rig.desk.node.guard.limit("test", TradingState.REDUCING, "a bad day")
        rig.opine(BUY, UP, XMR)
        await rig.cycle(2)
        await rig.cycle(3)
        assert "a bad day" in rig.decided()[-1]["reason"] and rig.decided()[-1]["signalId"] is None
        assert len(rig.words("LOOP_BUYS_NOTHING")) == 1
        rig.opine(SELL, DOWN, RVN)
        await rig.cycle(4)
        assert not rig.held
        rig.desk.node.guard.lift("", "test")
        rig.opine(BUY, UP, XMR)
        await rig.cycle(5)
        assert len(rig.words("LOOP_BUYS_AGAIN")) == 1 and len(rig.entries()) == 2


@in_loop
async def test_a_position_whose_stop_is_gone_gets_one_again_in_the_next_review(tmp_path: Path) -> None:
    async with a_rig(tmp_path) as rig:
        rig.opine(BUY, UP, RVN)
        await rig.cycle(1)
        (entry,) = rig.entries()
        for exit_id in (entry.stop_loss_id, entry.take_profit_id):
            rig.desk.node.kernel.input(CancelOrder(order_id=exit_id or "", reply=lambda _: None))
        rig.services.core.away()  # protection does not depend on it
        await rig.cycle(2)
        (stop,) = [order for order in rig.desk.node.orders.open.values() if order.role == "stop_loss"]
        held = rig.desk.node.subledgers.quantity(STRATEGY, stop.wallet, RVN)
        assert 0 <= held - stop.qty_lots * stop.lot < stop.lot
        assert len(rig.words("PROTECTED_AGAIN")) == 1
        rig.services.core.back()
        rig.desk.wait(10_000)
        await rig.cycle(3)
        assert len(rig.words("PROTECTED_AGAIN")) == 1


@in_loop
async def test_a_stop_that_ended_within_its_interval_is_not_said_to_protect(tmp_path: Path) -> None:
    async with a_rig(tmp_path) as rig:
        rig.opine(BUY, UP, RVN)
        await rig.cycle(1)
        rig.services.core.away()
        for number in (2, 2, 3):  # a cycle that failed is tried again in the same interval
            for order in list(rig.desk.node.orders.open.values()):
                rig.desk.node.kernel.input(CancelOrder(order_id=order.order_id, reply=lambda _: None))
            await rig.cycle(number)
        assert len(rig.words("PROTECTED_AGAIN")) == 2 and len(rig.words("UNPROTECTED")) == 1
        assert [order.role for order in rig.desk.node.orders.open.values()] == ["stop_loss"]


@in_loop
async def test_a_signal_that_is_refused_is_told_and_the_next_pair_goes_on(tmp_path: Path) -> None:
    async with a_rig(tmp_path, TRADING_LOOP_THRESHOLD="0.1") as rig:
        rig.opine({"signal": "buy", "confidence": 0.2}, {"prediction": "up", "confidence": 0.2}, RVN)
        rig.services.core.offer({RVN: {"macd": {"signal": "buy", "confidence": 0.2}}, XMR: {"macd": BUY}})
        rig.services.ml.predict(XMR, UP)
        await rig.cycle()
        (refused,) = rig.words("SIGNAL_REFUSED")
        assert refused["pair"] == RVN and refused["code"] == "NO_EDGE"
        assert [order.pair for order in rig.entries()] == [XMR]


@in_loop
async def test_a_loop_that_cannot_trade_says_why_and_asks_nobody(tmp_path: Path) -> None:
    async with a_rig(tmp_path) as rig:
        rig.ready = "the store is away"
        assert not await rig.cycle()
        assert rig.loop.view().last_error == "the store is away" and rig.services.core.requests == []


class Counting:
    """An ML service that notes how many are asked about at the same time; the first pair takes longest."""

    def __init__(self) -> None:
        self.now = self.most = 0

    async def prediction(self, pair: str) -> Score | ServiceUnavailable:
        self.now += 1
        self.most = max(self.most, self.now)
        for _ in range(50 if pair == RVN else 5):
            await asyncio.sleep(0)
        self.now -= 1
        return Score(1, 0.9)


class Listing:
    """A core service with these pairs."""

    def __init__(self, pairs: list[str]) -> None:
        self.listed = pairs

    async def pairs(self) -> list[str] | ServiceUnavailable:
        return self.listed

    async def pair(self, _: str) -> list[Score] | ServiceUnavailable:
        return [Score(0, 1)]


@in_loop
async def test_few_pairs_are_asked_about_at_a_time_and_decided_in_the_order_in_which_they_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trading_loop, "AT_ONCE", 3)
    async with a_rig(tmp_path) as rig:
        ml = Counting()
        pairs = [RVN, *(pair for pair in rig.loop.holdings.by_pair if pair != RVN)]
        rig.loop = rig.a_loop(Listing(pairs), ml)
        await rig.cycle()
        assert [decision["pair"] for decision in rig.decided()] == pairs
        assert len(pairs) > 3 and ml.most == 3


@in_loop
async def test_a_signal_whose_outcome_does_not_come_is_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trading_loop, "ANSWER_S", 0.01)
    async with a_rig(tmp_path) as rig:
        rig.opine(BUY, UP, RVN)
        assert await rig.loop.cycle(SLOT)  # the store acknowledges nothing meanwhile: no time passes
        assert len(rig.words("SIGNAL_UNANSWERED")) == 1
        rig.desk.clock.settle()
        rig.desk.wait(100)


@in_loop
async def test_what_the_loop_sells_leaves_nothing_that_would_sell_somebody_elses_coins(tmp_path: Path) -> None:
    async with a_rig(tmp_path) as rig:
        rig.opine(BUY, UP, RVN)
        await rig.cycle(1)
        (entry,) = rig.entries()
        theirs = SignalData(source="somebody", strategy="theirs")
        rig.desk.order("buy", "5000", exchange=entry.exchange, signal_data=theirs)
        rig.opine(SELL, DOWN, RVN)
        await rig.cycle(2)
        assert not rig.held
        left = [o.order_id for o in rig.desk.node.orders.open.values() if o.signal_data == entry.signal_data]
        assert left == []


class Slow:
    """A core service without pairs, in virtual time: each answer takes as long as the next of `takes_s` says."""

    def __init__(self, desk: Desk, takes_s: Sequence[float], fails: Sequence[bool] = ()) -> None:
        self.desk = desk
        self.takes_s = list(takes_s)
        self.fails = list(fails)
        self.begun_ms: list[int] = []

    async def pairs(self) -> list[str] | ServiceUnavailable:
        self.begun_ms.append(self.desk.clock.now_ns() // MS_NS)
        self.desk.clock.advance(int(self.takes_s.pop(0) * SECOND_NS))
        failed = self.fails.pop(0) if self.fails else False
        return ServiceUnavailable("core", "HTTP 500") if failed else []

    async def pair(self, pair: str) -> list[Score] | ServiceUnavailable:
        raise AssertionError(f"nobody lists {pair}")


async def begun(rig: Rig, core: Slow, early_s: float = 0) -> list[float]:
    """Runs the loop until the core service has no more answers; when each cycle began, in seconds.

    Each timer is early by `early_s`.
    """
    start_ns = rig.desk.clock.now_ns()

    async def sleep(seconds: float) -> None:
        if not core.takes_s:
            raise asyncio.CancelledError
        rig.desk.clock.advance(round(max(0, seconds - early_s) * SECOND_NS))

    rig.loop = rig.a_loop(core, None, sleep=sleep)
    task: Awaitable[None] = asyncio.ensure_future(rig.loop.run())
    await asyncio.wait([task])  # type: ignore[type-var]
    return [(ms - start_ns // MS_NS) / 1000 for ms in core.begun_ms]


@in_loop
async def test_cycles_begin_on_the_grid_of_the_interval_never_overlap_and_late_ones_are_skipped_and_counted(
    tmp_path: Path,
) -> None:
    async with a_rig(tmp_path, TRADING_LOOP_INTERVAL="30000") as rig:
        core = Slow(rig.desk, [1, 31, 1, 95, 1])
        assert await begun(rig, core) == [0, 30, 90, 120, 240]
        assert rig.loop.skipped == 1 + 3 and rig.loop.cycles == 5
        assert rig.loop.running is False


@in_loop
async def test_a_cycle_that_failed_is_tried_again_sooner_and_never_later_than_the_next_one(tmp_path: Path) -> None:
    async with a_rig(tmp_path, TRADING_LOOP_INTERVAL="10000") as rig:
        core = Slow(rig.desk, [0] * 8, [True] * 6)
        assert await begun(rig, core) == [0, 1, 3, 7, 10, 20, 30, 40]
        assert (rig.loop.failed, rig.loop.cycles) == (6, 2)


@in_loop
async def test_a_timer_that_is_early_by_a_hair_repeats_no_cycle(tmp_path: Path) -> None:
    async with a_rig(tmp_path, TRADING_LOOP_INTERVAL="10000") as rig:
        core = Slow(rig.desk, [0] * 4)
        assert await begun(rig, core, early_s=0.002) == [0, 9.998, 19.998, 29.998]
        cycles = [fields["cycle"] for fields in rig.words("CYCLE")]
        assert len(set(cycles)) == 4 and rig.loop.skipped == 0


@in_loop
async def test_a_retry_that_would_come_with_the_next_interval_waits_for_it_and_each_moment_has_one_try(
    tmp_path: Path,
) -> None:
    async with a_rig(tmp_path, TRADING_LOOP_INTERVAL="10000") as rig:
        core = Slow(rig.desk, [0, 0, 0, 0, 0, 0, 12, 0], [True] * 8)
        assert await begun(rig, core, early_s=0.001) == [0, 0.999, 2.998, 6.997, 9.999, 19.999, 29.999, 49.999]
        first = rig.words("CYCLE")[0]["cycle"]
        assert isinstance(first, int)
        cycles = [(int(str(fields["cycle"])) - first) // 10_000 for fields in rig.words("CYCLE")]
        assert cycles == [0, 0, 0, 0, 1, 2, 3, 5]


def failing(rig: Rig) -> dict[str, str]:
    return {c.subject: c.why for c in rig.desk.node.kernel.conditions.held if c.name == "loop_failing"}


FAULTS = {
    "core lists nothing": ("core", "500", "/api/data", "core", "core: HTTP 500"),
    "core is not there": ("core", "", "", "core", "core: cannot be reached"),
    "core says garbage": ("core", "garbage", "/api/pair", "core", "core: an answer that cannot be used"),
    "core knows no pair": ("core", "404", "/api/pair", "core", "core: HTTP 404"),
    "ml says garbage": ("ml", "garbage", "/api/predictions", "ml", "ml: an answer that cannot be used"),
    "ml fails for one pair": ("ml", "500", f"/api/predictions/{RVN}", "ml", "ml: HTTP 500"),
}


@pytest.mark.parametrize(("peer", "fault", "path", "subject", "why"), FAULTS.values(), ids=FAULTS)
@in_loop
async def test_what_a_cycle_lacked_to_decide_with_holds_as_a_condition_until_the_next_good_one(
    tmp_path: Path, peer: str, fault: str, path: str, subject: str, why: str
) -> None:
    async with a_rig(tmp_path) as rig:
        rig.opine({"signal": "hold"}, {"prediction": "hold"}, RVN, XMR)
        service = getattr(rig.services, peer)
        await rig.cycle(1)
        assert failing(rig) == {}
        service.fault(fault, path=path) if fault else service.away()
        for number in (2, 3, 4):  # more than it takes to leave the service alone
            await rig.cycle(number)
            assert failing(rig).keys() == {subject} and failing(rig)[subject].startswith(why), failing(rig)
        kinds = [e["type"] for _, raw in rig.desk.store.journal for e in json.loads(raw) if e["channel"] == "health"]
        assert kinds == ["ConditionBegan"]
        service.fault("") if fault else service.back()
        rig.desk.wait(10_000)
        assert await rig.cycle(5)
        assert failing(rig) == {}


@in_loop
async def test_a_pair_that_a_service_says_it_does_not_know_is_no_fault_of_the_loop(tmp_path: Path) -> None:
    async with a_rig(tmp_path) as rig:
        rig.opine({"signal": "hold"}, {"prediction": "hold"}, RVN, XMR)
        rig.services.ml.fault("404", path=f"/api/predictions/{RVN}")
        assert await rig.cycle(1)
        assert failing(rig) == {} and len(rig.decided()[0]["missing"]) == 1
        rig.ready = "the store is away"
        await rig.cycle(2)
        assert failing(rig) == {"": "the store is away"}
        rig.ready = ""
        await rig.cycle(3)
        assert failing(rig) == {}
