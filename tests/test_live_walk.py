"""Random walks of a live node over everything that `live_walk` can do to it; each ends healed and checked."""

from __future__ import annotations

from pathlib import Path

import pytest

from .live_walk import walk

pytestmark = [pytest.mark.orders, pytest.mark.portfolio, pytest.mark.exchanges]

OTHERS = frozenset({"others_trade", "others_cancel", "money_moves"})
EACH = 5  # walks a test


@pytest.mark.parametrize("first", range(100, 140, EACH))
def test_a_walk_ends_with_the_same_books_here_and_there(first: int, tmp_path: Path) -> None:
    for seed in range(first, first + EACH):
        walk(tmp_path, seed)


@pytest.mark.parametrize("first", range(200, 220, EACH))
def test_without_others_no_balance_is_ever_corrected(first: int, tmp_path: Path) -> None:
    for seed in range(first, first + EACH):
        walk(tmp_path, seed, without=OTHERS)


def test_with_the_exchanges_limits_on_nothing_is_lost_either(tmp_path: Path) -> None:
    for seed in range(300, 305):
        walk(tmp_path, seed, limited=True)


def test_orders_that_have_left_for_the_archive_stay_as_they_ended(tmp_path: Path) -> None:
    for seed in range(400, 405):
        walk(tmp_path, seed, MAX_ORDERS_KEPT="10", MAX_TRADES_KEPT="10")


def test_frames_that_leave_before_their_commit_agree_too_while_no_process_dies(tmp_path: Path) -> None:
    for seed in range(500, 505):
        walk(tmp_path, seed, without=frozenset({"process_dies"}), DURABILITY="behind")


def test_the_same_seed_gives_the_same_walk(tmp_path: Path) -> None:
    first, second = walk(tmp_path, 7), walk(tmp_path, 7)
    assert first.told == second.told
    assert first.desk.store.journal == second.desk.store.journal
