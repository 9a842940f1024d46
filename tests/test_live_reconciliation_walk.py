"""Random walks of a live node that loses commits and is taken back to older states; each ends with the same books.

Peers: a warm restart that flattened a position, dropped working orders or booked one trade twice (nautilus 4736, 5000,
3176, 3046); a missed fill that was noticed and nothing done (3869, 4124); an inferred fill beside the real one (3493).
"""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

from .live_desk import LiveDesk
from .live_walk import ACTIONS, Walk, last_steps
from .test_live_reconciliation import finish, lose_commits

pytestmark = [pytest.mark.orders, pytest.mark.portfolio, pytest.mark.exchanges]

OTHERS = frozenset({"others_trade", "others_cancel", "money_moves", "others_rest"})
OFTEN = {"dies_uncommitted": 5, "others_rest": 2, "kept": 3, "taken_back": 2}
EACH = 5  # walks a test


class LossyWalk(Walk):
    """A walk whose process acts on what is lost with it."""

    def __init__(self, desk: LiveDesk, seed: int, without: frozenset[str]) -> None:
        super().__init__(desk, seed, without)
        actions = {name: weight for name, weight in (ACTIONS | OFTEN).items() if name not in without}
        self.names, self.weights = list(actions), list(actions.values())
        self.backup: tuple[object, ...] | None = None

    def dies_uncommitted(self) -> str:
        """Some commands leave before their commits, and those never come."""
        acts = [self.rng.choice((self.place, self.place, self.cancel, self.amend)) for _ in range(3)]
        lose_commits(self.desk, lambda: [act() for act in acts], self.rng.randrange(40))
        self.desk.restart(self.rng.choice((1, 500, 5_000)))
        return ", ".join(act.__name__ for act in acts)

    def others_rest(self) -> str:
        pair = self.rng.choice(list(self.mids))
        side = self.rng.choice(("BUY", "SELL"))
        price = self.mids[pair] * (97 if side == "BUY" else 103) // 100
        self.desk.foreign_order(pair, side, price, "0.1", tif="GTC")
        return f"{side} {pair} at {price}"

    def kept(self) -> None:
        store = self.desk.store
        if not store.down:
            self.backup = copy.deepcopy((store.tables, store.journal, store.streams, store.number, store.seq))

    def taken_back(self) -> str:
        """The store is what it was at the last backup."""
        if self.backup is None:
            return "no backup"
        store = self.desk.store
        self.desk.kill()
        store.down = False
        store.tables, store.journal, store.streams, store.number, store.seq = copy.deepcopy(self.backup)  # type: ignore[assignment]
        self.desk.restart(self.rng.choice((1, 5_000)))
        return f"to {store.number}"


def walk(folder: Path, seed: int, without: frozenset[str] = frozenset(), steps: int = 150) -> LiveDesk:
    desk = LiveDesk(folder, seed=seed, DURABILITY="behind")
    walked = LossyWalk(desk, seed, without)
    with last_steps(walked, seed):
        walked.go(steps)
        desk.store.down = False
        finish(desk)
        if without >= OTHERS:
            assert desk.corrections() == [], "corrected, and nobody else had moved anything"
    return desk


@pytest.mark.parametrize("first", range(0, 20, EACH))
def test_lost_commits_lose_no_order_and_no_fill(first: int, tmp_path: Path) -> None:
    adopted = 0
    for seed in range(first, first + EACH):
        desk = walk(tmp_path, seed, OTHERS | {"taken_back"})
        adopted += sum(order.adopted for order, _ in desk.every().values())
    assert adopted, "the case is there"


@pytest.mark.parametrize("first", range(100, 120, EACH))
def test_a_store_that_is_taken_back_again_and_again_ends_with_the_exchanges_books(first: int, tmp_path: Path) -> None:
    for seed in range(first, first + EACH):
        walk(tmp_path, seed)
