"""What became of an order: what the exchange's answers prove, and that nobody else's order is taken for ours."""

from __future__ import annotations

import pytest

from tbx.core.model.messages import (
    ForeignFilled,
    VenueAccepted,
    VenueAmended,
    VenueContradicted,
    VenueEnded,
    VenueFilled,
)
from tbx.venues.simulator.binance.limits import Rates
from tbx.venues.simulator.binance.server import units
from tbx.venues.simulator.exchange.records import NewOrder, Order

from .binance_desk import TICKS
from .binance_virtual import VirtualDesk
from .exchange_fixtures import fill_book


def stranger(
    desk: VirtualDesk, client_id: str, side: str = "BUY", quantity: str = "0.01", price: int = 50_000
) -> Order:
    """Somebody else's limit order with our account, under whatever client id."""
    new = NewOrder("BTCUSDT", side, "LIMIT", "GTC", units(quantity), price=units(str(price)), client_order_id=client_id)
    return desk.exchange.exchange.place(desk.exchange.accounts[0].name, new).order


def is_not_taken(answer: bool | None) -> bool:
    return answer is False


# --- somebody else's order under our client id

OURS = {"side": "buy", "qty_lots": 1_000, "price_ticks": 50_000 * TICKS}
NOT_OURS = {
    "another side": ({"side": "SELL", "price": 61_000}, "it is a sell, ours is a buy"),
    "more than ours": ({"quantity": "0.01001"}, "its quantity is 0.01001000, ours 0.01"),
    "another price": ({"price": 50_001}, "its price is 50001.00000000, ours 50000"),
}


@pytest.mark.parametrize("case", NOT_OURS)
def test_another_order_under_our_id_is_not_ours_and_that_is_told_once(case: str) -> None:
    changes, how = NOT_OURS[case]
    desk = VirtualDesk()
    desk.venue.stop()  # its reports are not heard
    stranger(desk, "tbx-1", **changes)  # type: ignore[arg-type]
    desk.pass_ms(1_000)
    desk.venue.start()
    desk.pass_ms(1_000)
    assert desk.ask("tbx-1", **OURS) == [None]
    assert desk.ask("tbx-1", **OURS) == [None]
    (told,) = desk.of("tbx-1")  # nothing else is told of it
    assert isinstance(told, VenueContradicted)
    assert (told.venue, told.client_id, told.reason) == ("binance", "tbx-1", how)
    assert sum(how in trouble for trouble in desk.troubles) == 1


def test_an_order_that_is_what_was_sent_or_was_amended_down_is_ours() -> None:
    desk = VirtualDesk()
    stranger(desk, "tbx-1")
    stranger(desk, "tbx-2", quantity="0.006")
    stranger(desk, "tbx-3", price=49_000)
    assert desk.ask("tbx-1", **OURS) == [True]
    assert desk.ask("tbx-2", **OURS) == [True]
    assert desk.ask("tbx-3", **{**OURS, "price_ticks": None}) == [True]
    assert not any(isinstance(m, VenueContradicted) for m in desk.said)


def test_reports_and_replies_say_which_side_the_order_has() -> None:
    desk = VirtualDesk()
    stranger(desk, "tbx-1", side="SELL", price=61_000)
    desk.place("tbx-2", lots=1_000, price=60_015)
    desk.pass_ms(100)
    assert [m.side for m in desk.of("tbx-1", VenueAccepted)] == ["sell"]
    assert {m.side for m in desk.of("tbx-2", VenueAccepted, VenueFilled)} == {"buy"}
    desk.said.clear()
    assert desk.ask("tbx-2") == [True]
    assert {m.side for m in desk.of("tbx-2", VenueAccepted, VenueFilled)} == {"buy"}


def test_a_listed_order_under_our_id_is_compared_too() -> None:
    desk = VirtualDesk()
    for number in range(12):
        stranger(desk, f"tbx-{number}", price=50_000 if number else 50_001)
    answers: dict[int, bool | None] = {}
    for number in range(12):
        question = desk.question(f"tbx-{number}", **OURS)
        desk.venue.query(question, lambda taken, n=number: answers.update({n: taken}))  # type: ignore[misc]
    desk.pass_ms(500)
    assert answers == {0: None, **dict.fromkeys(range(1, 12), True)}
    assert [m.client_id for m in desk.said if isinstance(m, VenueContradicted)] == ["tbx-0"]


# --- proof

# A frame bears its timestamp, arrives within 5 s, is worked on for up to 10 s, and 5 s are added to that; then it must
# be missed twice, 2 s apart. The core asks every 2 s.
PROOF_MS = 20_000


def test_an_order_whose_frame_was_lost_is_proven_untaken_when_the_exchange_cannot_work_on_it_any_more() -> None:
    desk = VirtualDesk()
    desk.pass_ms(60_000)
    desk.faults("mute_before")
    desk.place("tbx-1")
    took_ms = desk.when("tbx-1", is_not_taken)
    assert PROOF_MS + 2_000 <= took_ms <= PROOF_MS + 6_000


def test_an_exchange_that_says_it_does_not_know_was_still_at_work_then() -> None:
    desk = VirtualDesk()
    desk.pass_ms(60_000)
    desk.network.more_ns["down"] = 8_000_000_000  # -1007 comes late
    desk.faults("unknown1007_before:on=order.place")
    desk.place("tbx-1")
    desk.pass_ms(8_100)
    desk.network.more_ns["down"] = 0
    took_ms = desk.when("tbx-1", is_not_taken)
    assert 15_000 + 2_000 <= took_ms <= 15_000 + 6_000  # from then: 10 s, 5 s, and twice


def test_an_order_of_an_earlier_process_is_proven_untaken_only_after_this_one_was_signed_on_so_long() -> None:
    desk = VirtualDesk()
    took_ms = desk.when("tbx-1", is_not_taken)
    assert PROOF_MS + 2_000 <= took_ms <= PROOF_MS + 7_000


def test_one_miss_proves_nothing_and_two_at_a_time_do_not_either() -> None:
    desk = VirtualDesk()
    desk.pass_ms(60_000)
    assert desk.ask("tbx-1", 100) == [None]
    assert desk.ask("tbx-1", 100) == [None]
    desk.pass_ms(1_500)
    assert desk.ask("tbx-1", 100) == [None]  # 1.7 s after the first
    desk.pass_ms(300)
    assert desk.ask("tbx-1", 100) == [False]


def test_a_miss_counts_no_more_when_its_frame_may_be_newer_after_all() -> None:
    desk = VirtualDesk()
    desk.pass_ms(60_000)
    assert desk.ask("tbx-1") == [None]
    desk.network.cut()
    desk.pass_ms(5_000)
    assert desk.ask("tbx-1") == [None]  # signed on a moment ago
    desk.pass_ms(25_000)
    assert desk.ask("tbx-1") == [None]
    desk.pass_ms(2_000)
    assert desk.ask("tbx-1") == [False]


def test_an_order_that_shows_up_between_two_misses_is_taken() -> None:
    desk = VirtualDesk()
    desk.pass_ms(60_000)
    assert desk.ask("tbx-1") == [None]
    stranger(desk, "tbx-1")
    desk.pass_ms(2_000)
    assert desk.ask("tbx-1") == [True]


def test_an_order_that_the_exchange_carries_out_ten_seconds_late_is_found() -> None:
    """As where it answers -1007, and its engine takes the order all the same."""
    desk = VirtualDesk()
    desk.pass_ms(60_000)
    desk.faults("unknown1007_before:n=1,on=order.place")
    desk.place("tbx-1", lots=1_000)
    for _ in range(5):
        assert desk.ask("tbx-1") == [None]
        desk.pass_ms(2_000)
    stranger(desk, "tbx-1")
    assert desk.ask("tbx-1", **OURS) == [True]


# --- orders that others have amended


def test_an_order_is_asked_for_by_the_venues_id_where_that_is_known() -> None:
    desk = VirtualDesk()
    order = stranger(desk, "tbx-1")
    desk.exchange.exchange.amend(desk.exchange.accounts[0].name, "BTCUSDT", units("0.005"), order_id=order.order_id)
    fresh = VirtualDeskOn(desk)  # a process that has heard none of it
    assert fresh.ask("tbx-1", venue_order_id=str(order.order_id), **OURS) == [True]
    assert fresh.asked("order.status")[-1]["orderId"] == order.order_id
    assert fresh.of("tbx-1", VenueAmended)[-1].qty_lots == 500
    fresh.exchange.deal("BTCUSDT", "SELL", 50_000, 4)
    fresh.pass_ms(100)
    assert fresh.filled("tbx-1") == 500
    assert not any(isinstance(m, ForeignFilled) for m in fresh.said)


def test_an_order_whose_acceptance_was_heard_is_ours_whatever_others_call_it() -> None:
    desk = VirtualDesk()
    order = stranger(desk, "tbx-1")
    desk.pass_ms(100)
    for quantity in ("0.009", "0.008"):
        desk.exchange.exchange.amend(
            desk.exchange.accounts[0].name, "BTCUSDT", units(quantity), order_id=order.order_id
        )
    desk.pass_ms(100)
    desk.said.clear()
    assert desk.ask("tbx-1") == [True]
    assert desk.of("tbx-1", VenueAmended)[0].qty_lots == 800
    desk.cancel("tbx-1", str(order.order_id))
    desk.pass_ms(100)
    assert desk.of("tbx-1", VenueEnded)


def test_a_garbled_report_of_an_order_that_others_renamed_is_asked_about() -> None:
    desk = VirtualDesk()
    order = stranger(desk, "tbx-1")
    desk.pass_ms(100)
    desk.exchange.exchange.amend(desk.exchange.accounts[0].name, "BTCUSDT", units("0.005"), order_id=order.order_id)
    desk.pass_ms(100)
    desk.said.clear()
    link = desk.venue.connection.link
    assert link is not None
    event = b'{"e":"executionReport","s":"BTCUSDT","c":"by-hand","C":"","i":%d,"l":5}' % order.order_id
    link.take(b'{"subscriptionId":0,"event":%b}' % event)
    desk.pass_ms(100)
    assert desk.of("tbx-1", VenueAccepted)


class VirtualDeskOn(VirtualDesk):
    """Another process on the same exchange."""

    def __init__(self, before: VirtualDesk) -> None:
        before.venue.stop()
        before.pass_ms(100)
        self.world, self.network, self.listing = before.world, before.network, before.listing
        self.options, self.clock = before.options, before.clock
        self.exchange = before.exchange
        self.troubles, self.said, self.answers = before.troubles, before.said, before.answers
        self.said.clear()
        self.kernel = before.kernel
        self.venue = self._venue(before.kernel, before.troubles)
        self.venue.start()
        self.pass_ms(100)


# --- many at a moment


def ask_all(desk: VirtualDesk, names: list[str], wait_ms: int = 1_000, **what: object) -> dict[str, bool | None]:
    answers: dict[str, bool | None] = {}
    for name in names:
        desk.venue.query(desk.question(name, **what), lambda taken, n=name: answers.update({n: taken}))  # type: ignore[misc]
    desk.pass_ms(wait_ms)
    return answers


def test_many_orders_asked_about_at_one_moment_are_answered_from_a_list() -> None:
    desk = VirtualDesk()
    names = [f"tbx-{number}" for number in range(60)]
    for name in names:
        stranger(desk, name)
    stranger(desk, "tbx-traded", quantity="0.02", price=50_001)
    desk.exchange.deal("BTCUSDT", "SELL", 50_001, "3.01")  # three are the house's own, above
    desk.pass_ms(1_000)
    desk.said.clear()
    began = len(desk.sent)
    answers = ask_all(desk, [*names, "tbx-traded"])
    assert answers == dict.fromkeys([*names, "tbx-traded"], True)
    assert len(desk.asked("openOrders.status", began)) == 1
    assert [p["origClientOrderId"] for p in desk.asked("order.status", began) if "orderId" not in p] == []
    assert len(desk.asked("order.status", began)) == 1  # a list names no trades
    assert len(desk.asked("myTrades", began)) == 1
    assert desk.filled("tbx-traded") == 1_000
    assert all([type(m) for m in desk.of(name)] == [VenueAccepted, VenueAmended] for name in names)


def test_what_a_list_does_not_hold_is_asked_about_singly() -> None:
    desk = VirtualDesk()
    names = [f"tbx-{number}" for number in range(20)]
    for name in names[:15]:
        stranger(desk, name)
    desk.pass_ms(100)
    desk.cancel("tbx-3")
    desk.pass_ms(60_000)
    desk.said.clear()
    began = len(desk.sent)
    answers = ask_all(desk, names)
    assert answers == {**dict.fromkeys(names[:15], True), **dict.fromkeys(names[15:])}
    assert len(desk.asked("order.status", began)) == 6
    assert desk.of("tbx-3", VenueEnded)


def test_a_few_orders_are_asked_about_singly() -> None:
    desk = VirtualDesk()
    names = [f"tbx-{number}" for number in range(10)]
    for name in names:
        stranger(desk, name)
    desk.pass_ms(100)
    began = len(desk.sent)
    assert ask_all(desk, names) == dict.fromkeys(names, True)
    assert desk.asked("openOrders.status", began) == []


def test_orders_of_many_symbols_are_listed_at_once_and_of_a_few_symbol_by_symbol() -> None:
    desk = VirtualDesk({"extra_symbols": 30})
    pairs = [i for i in desk.listing.instruments if i.quote == "USDT"]
    for count, expected in ((3, 3), (20, 1)):
        began = len(desk.sent)
        answers: list[bool | None] = []
        for instrument in pairs[:count]:
            for number in range(4):
                desk.venue.query(desk.question(f"tbx-{number}", pair=instrument.pair), answers.append)
        desk.pass_ms(5_000)
        lists = desk.asked("openOrders.status", began)
        assert len(lists) == expected and ("symbol" in lists[0]) == (expected > 1)
        assert len(answers) == 4 * count


def test_questions_that_are_not_asked_yet_when_the_venue_stops_are_answered() -> None:
    desk = VirtualDesk()
    answers: list[bool | None] = []
    desk.venue.query(desk.question("tbx-1"), answers.append)
    desk.venue.stop()
    assert answers == [None]


def test_questions_leave_weight_for_cancels() -> None:
    desk = VirtualDesk({"limited": True, "rates": Rates(weight=400)})
    desk.pass_ms(60_000)
    fill_book(desk.exchange)
    desk.place("tbx-0")
    desk.pass_ms(100)
    ask_all(desk, [f"tbx-none-{number}" for number in range(5)], 0)
    for number in range(200):
        desk.venue.query(desk.question(f"tbx-many-{number}"), lambda _: None)
        desk.pass_ms(10)
    budgets, now_ns = desk.venue.connection.budgets, desk.venue.connection.server.now_ns()
    assert len(desk.venue.connection.talks) > 100  # they wait
    assert 90 <= budgets.remaining("REQUEST_WEIGHT", now_ns) <= 110
    for number in range(20):
        desk.cancel(f"tbx-unknown-{number}")  # refused by the exchange: these pay
    desk.cancel("tbx-0")
    desk.pass_ms(100)
    assert desk.of("tbx-0", VenueEnded)
