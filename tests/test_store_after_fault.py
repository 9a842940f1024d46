"""A fault in the middle of a fill: what it left half changed is found by the next start, and made to agree."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest

from tbx.core.model.records import FaultMark, Position, State
from tbx.http.state.after_fault import mend
from tbx.http.state.loading import Held

from .desk import Desk, loaded_from
from .kept_state import *  # noqa: F403 - its fixtures
from .kept_state import opened, taking_over, tbx
from .redis_fixtures import in_loop

MARK = msgspec.json.encode(FaultMark("PortfolioManager.on_filled(OrderFilled)", "KeyError('x')", 1))


def raises(*_: object, **__: object) -> None:
    raise KeyError("a bug")


def test_what_a_fault_in_the_middle_of_a_fill_has_left_is_made_anew_from_the_fills(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = Desk(tmp_path)
    desk.order("buy", "1000")
    with monkeypatch.context() as planted:
        planted.setattr("tbx.core.portfolio.manager.apply_fill", raises)
        order = desk.order("buy", "2000")
    assert order.state is State.FILLED and desk.faults and desk.node.guard.state.value == "HALTED"
    held = Held.of(loaded_from(desk.store), "main")
    assert held.fault is not None and "on_filled" in held.fault.where
    [position] = held.positions
    assert position.quantity == 1000, "the second fill is not in it"
    changed, wrong = mend(held, ())
    [position] = held.positions
    assert position.quantity == 3000 and wrong == []
    assert any("position paper.xeggex:RVN_USDT" in line and "1000 was held, now 3000" in line for line in changed)
    totals = {balance.currency: balance.total for balance in held.balances if balance.wallet == "paper.xeggex"}
    assert totals["RVN"] == 3000 and totals["USDT"] < Decimal(25_000) - 3000 * Decimal("0.0245")
    assert mend(held, ()) == ([], []), "the second time there is nothing to do"


@in_loop
async def test_a_start_after_a_fault_mends_the_books_says_so_and_forgets_the_fault(data: Path) -> None:
    said: list[str] = []
    async with opened(data) as (store, client, archive):
        await client.call("HSET", "tbx:main:meta", "fault", MARK)
        rows = await client.call("HGETALL", "tbx:main:positions")
        field, raw = rows[0], rows[1]
        position = msgspec.json.decode(raw, type=Position)
        before, position.quantity = position.quantity, Decimal(1)
        await client.call("HSET", "tbx:main:positions", field, msgspec.json.encode(position))
        taken = await taking_over(store, archive, said, quarantine=False).run()
        now = {p.pair: p.quantity for p in taken.held.positions if p.wallet == position.wallet}
        assert taken.wrong == "" and now[position.pair] == before
        assert any("a fault in PortfolioManager.on_filled" in line and "made anew" in line for line in said)
        assert await client.call("HGET", "tbx:main:meta", "fault") is None
    verified = tbx(data.parent, "verify", "--json")
    assert verified.returncode == 0 and json.loads(verified.stdout)["agrees"], verified.stdout


@in_loop
async def test_an_order_that_its_fills_contradict_after_a_fault_keeps_trading_halted(data: Path) -> None:
    said: list[str] = []
    async with opened(data) as (store, client, archive):
        await client.call("HSET", "tbx:main:meta", "fault", MARK)
        rows = await client.call("HGETALL", "tbx:main:orders")
        orders = {field.decode(): json.loads(raw) for field, raw in zip(rows[::2], rows[1::2], strict=True)}
        name = next(name for name, order in orders.items() if order.get("state") == "FILLED")
        orders[name]["filled_lots"] -= 1
        await client.call("HSET", "tbx:main:orders", name, json.dumps(orders[name]))
        taken = await taking_over(store, archive, said, quarantine=False).run()
        assert f"order {name} says filled" in taken.wrong and "tbx verify" in taken.wrong
        assert await client.call("HGET", "tbx:main:meta", "fault") == MARK
