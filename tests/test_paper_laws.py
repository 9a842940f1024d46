"""The laws of paper fills, over whatever happens."""

from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tbx.core.market.book import BUY, SELL
from tbx.core.model.messages import (
    VenueAmended,
    VenueEnded,
    VenueFilled,
    VenueRejected,
    VenueRequestFailed,
)

from .paper_desk import Desk

pytestmark = pytest.mark.paper_trading

LEVELS = st.dictionaries(st.integers(0, 11), st.integers(0, 12), max_size=4)
STEPS = st.one_of(
    st.tuples(st.just("market moves"), st.integers(95, 105), LEVELS, LEVELS),
    st.tuples(st.just("trade"), st.integers(95, 106), st.integers(1, 30), st.booleans()),
    st.tuples(
        st.just("place"),
        st.sampled_from(["buy", "sell"]),
        st.integers(1, 40),
        st.one_of(st.none(), st.integers(94, 107)),
        st.sampled_from(["GTC", "IOC", "FOK"]),
        st.booleans(),
    ),
    st.tuples(st.just("cancel"), st.integers(0, 20)),
    st.tuples(st.just("amend"), st.integers(0, 20), st.integers(1, 40), st.one_of(st.none(), st.integers(94, 107))),
)


class Laws:
    """Plays steps on a desk and keeps its own account of what was displayed and what was wanted."""

    def __init__(self, seed: int) -> None:
        self.desk = Desk(seed)
        self.shown: dict[tuple[int, int], int] = {}
        self.ever: Counter[tuple[int, int]] = Counter()  # (side, price) -> lots ever displayed
        self.wanted: dict[str, tuple[str, int | None, int]] = {}
        self._see()

    def play(self, steps: list[tuple[Any, ...]]) -> list[Any]:
        for what, *values in steps:
            getattr(self, "_" + what.replace(" ", "_"))(*values)
            self._see()
        return self.desk.answers

    def _market_moves(self, mid: int, bids: dict[int, int], asks: dict[int, int]) -> None:
        book = self.desk.data.book("xeggex", "RVN_USDT")
        gone = {p: 0 for p, _ in book.levels(BUY, 99) if p >= mid}, {p: 0 for p, _ in book.levels(SELL, 99) if p <= mid}
        below = {mid - 1 - i: lots for i, lots in bids.items()}
        above = {mid + 1 + i: lots for i, lots in asks.items()}
        self.desk.diff(gone[0] | below, gone[1] | above)

    def _trade(self, price: int, lots: int, buyer_is_maker: bool) -> None:
        self.desk.trade(price, lots, buyer_is_maker)

    def _place(self, side: str, lots: int, price: int | None, tif: str, post_only: bool) -> None:
        client_id = f"c{len(self.wanted)}"
        self.wanted[client_id] = side, price, lots
        post_only = post_only and price is not None and tif == "GTC"
        self.desk.place(client_id, side, lots, price, tif=tif, post_only=post_only)

    def _cancel(self, i: int) -> None:
        self.desk.cancel(f"c{i}")

    def _amend(self, i: int, lots: int, price: int | None) -> None:
        for answer in self.desk.amend(f"c{i}", lots, price):
            if isinstance(answer, VenueAmended):
                self.wanted[f"c{i}"] = self.wanted[f"c{i}"][0], answer.price_ticks, answer.qty_lots

    def _see(self) -> None:
        book = self.desk.data.book("xeggex", "RVN_USDT")
        now = {(side, p): lots for side in (BUY, SELL) for p, lots in book.levels(side, 99)}
        for key, lots in now.items():
            self.ever[key] += max(0, lots - self.shown.get(key, 0))
        self.shown = now


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(STEPS, max_size=25), st.integers(0, 3))
def test_the_laws_of_fills_hold_whatever_happens(steps: list[tuple[Any, ...]], seed: int) -> None:
    laws = Laws(seed)
    answers = laws.play(steps)
    desk = laws.desk
    assert desk.kernel.faults == []
    fills = [a for a in answers if isinstance(a, VenueFilled)]
    assert len({f.trade_id for f in fills}) == len(fills)
    taken: Counter[tuple[int, int]] = Counter()
    for fill in fills:
        side, _, _ = laws.wanted[fill.client_id]
        assert fill.qty_lots > 0
        if not fill.maker:
            taken[SELL if side == "buy" else BUY, fill.price_ticks] += fill.qty_lots
    assert all(lots <= laws.ever[key] for key, lots in taken.items()), "a displayed lot was taken twice"
    ended = Counter(a.client_id for a in answers if isinstance(a, VenueEnded | VenueRejected))
    for client_id, (side, price, lots) in laws.wanted.items():
        mine = [a for a in answers if a.client_id == client_id and not isinstance(a, VenueRequestFailed)]
        filled = sum(a.qty_lots for a in mine if isinstance(a, VenueFilled))
        assert filled <= lots
        if price is not None and not any(isinstance(a, VenueAmended) for a in mine):
            sign = 1 if side == "buy" else -1
            assert all((price - a.price_ticks) * sign >= 0 for a in mine if isinstance(a, VenueFilled))
        resting = client_id in desk.venue._open
        assert [filled == lots, ended[client_id] == 1, resting].count(True) == 1, "one end, or still open"
        if ended[client_id]:
            assert isinstance(mine[-1], VenueEnded | VenueRejected), "nothing comes after the end"


@settings(max_examples=25, deadline=None)
@given(st.lists(STEPS, max_size=25))
def test_the_same_seed_gives_the_same_answers(steps: list[tuple[Any, ...]]) -> None:
    assert Laws(5).play(steps) == Laws(5).play(steps)
