"""What waits for the venue: requests without a reply, talks of several questions, and what a question proves."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from tbx.core.kernel.clock import SECOND_NS, ManualClock
from tbx.core.model.errors import Nonsense, Unreachable, VenueError
from tbx.core.model.instruments import Instrument
from tbx.core.model.messages import VenueEnded, VenueFilled
from tbx.venues.binance.codec import ApiFault, Reply
from tbx.venues.binance.codec_requests import Requests, Terms
from tbx.venues.binance.inflight import InFlight, Request, RoundTrips
from tbx.venues.binance.scripts import Found, ServerClock, Wanted, measure_clock, query_order
from tbx.venues.binance.signing import HmacSigner
from tbx.venues.binance.talks import AT_ONCE, QUEUED_MAX, Ask, Declined, Script, Talks

BTC = Instrument(
    exchange="binance",
    pair="BTC_USDT",
    symbol="BTCUSDT",
    base="BTC",
    quote="USDT",
    tick=Decimal("0.01"),
    lot=Decimal("0.00001"),
)
OK = Reply(1, 200)

# --- in flight


class Waiting:
    """Requests of a test and what became of them."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.inflight = InFlight(self.clock)
        self.ends: list[tuple[int, str]] = []

    def send(self, number: int, link: int = 1) -> Request:
        def done(request: Request, reply: Reply | None, reason: str) -> None:
            self.ends.append((request.number, reason or "answered"))

        request = Request(number, link, self.clock.now_ns(), 0, 1, 0, done)
        self.inflight.add(request)
        return request


def test_a_request_without_a_reply_is_overdue_after_ten_seconds_and_told_once() -> None:
    waiting = Waiting()
    waiting.send(1)
    waiting.clock.advance(5 * SECOND_NS)
    waiting.send(2)
    waiting.clock.advance(5 * SECOND_NS)
    assert waiting.ends == []
    waiting.clock.advance(SECOND_NS)
    assert waiting.ends == [(1, "no reply came within 10 s")]
    waiting.clock.advance(60 * SECOND_NS)
    assert [number for number, _ in waiting.ends] == [1, 2]
    assert waiting.inflight.overdue_count == 2
    assert waiting.inflight.take(1) is None  # its reply came after all
    assert waiting.inflight.late_count == 1


def test_a_link_that_goes_down_takes_its_own_requests_with_it() -> None:
    waiting = Waiting()
    waiting.send(1, link=1)
    waiting.send(2, link=2)
    waiting.inflight.link_down(1, "cut")
    assert waiting.ends == [(1, "cut")]
    assert waiting.inflight.take(2) is not None


def test_who_hears_of_a_loss_may_send_again_at_once() -> None:
    waiting = Waiting()

    def again(request: Request, reply: Reply | None, reason: str) -> None:
        waiting.ends.append((request.number, reason))
        waiting.send(2, link=1)

    waiting.inflight.add(Request(1, 1, waiting.clock.now_ns(), 0, 1, 0, again))
    waiting.inflight.link_down(1, "cut")
    assert waiting.ends == [(1, "cut")]
    assert len(waiting.inflight) == 1


class SetClock(ManualClock):
    """A machine's clock that is set by hand."""

    jump_ns = 0

    def now_ns(self) -> int:
        return super().now_ns() + self.jump_ns


@pytest.mark.parametrize("jump_s", [-3_600, 3_600])
def test_a_clock_that_is_set_neither_ends_a_wait_nor_makes_it_last(jump_s: int) -> None:
    waiting = Waiting()
    waiting.clock = clock = SetClock()
    waiting.inflight = InFlight(clock)
    waiting.send(1)
    clock.jump_ns = jump_s * SECOND_NS
    clock.advance(9 * SECOND_NS)
    assert waiting.ends == []
    clock.advance(2 * SECOND_NS)
    assert [number for number, _ in waiting.ends] == [1]


def test_the_median_round_trip_is_exact_over_its_window() -> None:
    trips = RoundTrips()
    assert trips.p50_ns() is None
    for took in range(10_000):
        trips.add(took)
    assert trips.p50_ns() == 10_000 - RoundTrips.WINDOW // 2


# --- talks


class HandLine:
    """A line whose replies the test gives by hand."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.asked: list[Callable[[Reply | None, str], None]] = []
        self.frames: list[bytes] = []
        self.wait_ns = 0
        self.down = ""

    def ask(self, ask: Ask, done: Callable[[Reply | None, str], None]) -> int:
        if self.down:
            done(None, self.down)
        elif self.wait_ns:
            return self.wait_ns
        else:
            self.frames.append(ask.encode(len(self.frames) + 1, self.clock.now_ns() // 1_000_000))
            self.asked.append(done)
        return 0

    def later(self, delay_ns: int, action: Callable[[], None]) -> object:
        return self.clock.call_in(delay_ns, action)


def two_questions() -> Script[int]:
    yield Ask(lambda number, _: b"one", 1)
    reply = yield Ask(lambda number, _: b"two", 1)
    return reply.status


def test_a_talk_asks_one_thing_after_another_and_returns_what_it_found() -> None:
    line, ends = HandLine(), list[Any]()
    Talks(line).begin(two_questions(), lambda value, error: ends.append((value, error)))
    assert len(line.asked) == 1
    line.asked[0](OK, "")
    assert line.frames == [b"one", b"two"] and ends == []
    line.asked[1](Reply(2, 201), "")
    assert ends == [(201, None)]


def test_a_talk_that_gets_no_reply_ends_as_unreachable() -> None:
    line, ends = HandLine(), list[VenueError | None]()
    Talks(line).begin(two_questions(), lambda value, error: ends.append(error))
    line.asked[0](None, "cut")
    assert isinstance(ends[0], Unreachable) and str(ends[0]) == "cut"


def test_a_few_talk_at_a_time_and_the_rest_wait_their_turn_within_a_bound() -> None:
    line, ends = HandLine(), list[int]()
    talks = Talks(line)
    over: list[VenueError | None] = []
    for number in range(AT_ONCE + QUEUED_MAX + 1):
        talks.begin(two_questions(), lambda value, error, n=number: (ends.append(n), over.append(error)))  # type: ignore[misc]
    assert len(line.asked) == AT_ONCE
    assert ends == [AT_ONCE + QUEUED_MAX] and isinstance(over[0], Unreachable)  # one too many
    line.asked[0](OK, "")
    line.asked[AT_ONCE](OK, "")
    assert ends[1:] == [0]
    assert len(line.asked) == AT_ONCE + 2  # the next one began


def test_thousands_of_talks_end_at_once_when_the_line_is_down() -> None:
    line, ends = HandLine(), list[VenueError | None]()
    talks = Talks(line)
    for _ in range(QUEUED_MAX):
        talks.begin(two_questions(), lambda value, error: ends.append(error))
    line.down = "cut"
    for done in tuple(line.asked):
        done(None, "cut")
    assert len(ends) == QUEUED_MAX and len(talks) == 0


def test_a_talk_waits_for_its_budget() -> None:
    line, ends = HandLine(), list[Any]()
    line.wait_ns = 3 * SECOND_NS
    Talks(line).begin(two_questions(), lambda value, error: ends.append(value))
    assert line.frames == []
    line.wait_ns = 0
    line.clock.advance(3 * SECOND_NS)
    assert line.frames == [b"one"]


def test_a_talk_whose_budget_always_needs_a_moment_does_not_spin() -> None:
    line = HandLine()
    tries = 0

    def ask(ask: Ask, done: Callable[[Reply | None, str], None]) -> int:
        nonlocal tries
        tries += 1
        return 1

    line.ask = ask  # type: ignore[method-assign]
    Talks(line).begin(two_questions(), lambda value, error: None)
    line.clock.advance(SECOND_NS)
    assert tries <= 21


# --- scripts

REQUESTS = Requests(HmacSigner("k" * 64, "s" * 64))
NOT_THERE = Reply(1, 400, error=ApiFault(-2013, "Order does not exist."))


def run(script: Script[Any], replies: list[Reply], timestamp_ms: int = 0) -> Any:
    """The script's end, with these replies."""
    ask = next(script)
    for number, reply in enumerate(replies):
        ask.encode(number, timestamp_ms)
        try:
            ask = script.send(reply)
        except StopIteration as end:
            return end.value
    raise AssertionError("it asks for more")


def ask_about() -> Script[Found]:
    return query_order(REQUESTS, Wanted("tbx-1", Terms(BTC), None), "binance")


def test_that_there_is_no_such_order_comes_with_the_time_of_the_question() -> None:
    said = (("order.status origClientOrderId=tbx-1", "-2013 Order does not exist."),)
    assert run(ask_about(), [NOT_THERE], 1_000_000) == Found(None, missed_ms=1_000_000, said=said)


def test_an_order_that_the_venue_has_put_away_has_ended() -> None:
    archived = Reply(1, 400, error=ApiFault(-2026, "Order was canceled or expired with no executed qty over 90 days"))
    found = run(ask_about(), [archived], 1_000)
    assert found.taken is True
    assert isinstance(found.messages[0], VenueEnded)


def test_an_error_about_a_question_says_nothing_about_the_order() -> None:
    for fault in (ApiFault(-1000, "unknown"), ApiFault(-1003, "too many"), ApiFault(-2015, "key")):
        script = ask_about()
        next(script)
        with pytest.raises(Declined):
            script.send(Reply(1, 400, error=fault))


def order_reply(executed: str, status: str) -> Reply:
    order = {
        "symbol": "BTCUSDT",
        "orderId": 7,
        "orderListId": -1,
        "clientOrderId": "tbx-1",
        "price": "50000.00000000",
        "origQty": "0.01000000",
        "executedQty": executed,
        "status": status,
        "timeInForce": "GTC",
        "type": "LIMIT",
        "side": "BUY",
        "time": 1_700_000_000_000,
        "updateTime": 1_700_000_000_000,
    }
    return Reply(1, 200, msgspec.Raw(msgspec.json.encode(order)))


def trades_reply(*quantities: str) -> Reply:
    trades = [
        {
            "symbol": "BTCUSDT",
            "id": 100 + number,
            "orderId": 7,
            "price": "50000.00000000",
            "qty": quantity,
            "commission": "0.00000100",
            "commissionAsset": "BTC",
            "time": 1_700_000_000_000,
            "isBuyer": True,
            "isMaker": True,
        }
        for number, quantity in enumerate(quantities)
    ]
    return Reply(1, 200, msgspec.Raw(msgspec.json.encode(trades)))


def test_an_order_that_trades_while_it_is_looked_at_is_looked_at_again() -> None:
    replies = [
        order_reply("0.00400000", "PARTIALLY_FILLED"),
        trades_reply("0.00400000", "0.00100000"),
        order_reply("0.00500000", "PARTIALLY_FILLED"),
        trades_reply("0.00400000", "0.00100000"),
    ]
    found = run(ask_about(), replies)
    assert found.taken is True
    assert [m.qty_lots for m in found.messages if isinstance(m, VenueFilled)] == [400, 100]


def test_an_end_is_not_told_before_all_of_its_trades_are() -> None:
    with pytest.raises(Unreachable, match="does not list all trades"):
        run(ask_about(), [order_reply("0.01000000", "FILLED"), trades_reply("0.00400000")] * 3)


def test_the_quickest_of_the_round_trips_sets_the_clock() -> None:
    clock = ManualClock(1_700_000_000 * SECOND_NS)
    server = ServerClock(clock)
    script = measure_clock(REQUESTS, server)
    next(script)
    for round_trip_ms, one_way_ms in ((900, 700), (20, 10), (300, 20)):
        clock.advance(one_way_ms * 1_000_000)
        venue_ms = clock.now_ns() // 1_000_000 + 5_000
        clock.advance((round_trip_ms - one_way_ms) * 1_000_000)
        try:
            script.send(Reply(1, 200, msgspec.Raw(b'{"serverTime":%d}' % venue_ms)))
        except StopIteration:
            break
    assert abs(server.offset_ns - 5 * SECOND_NS) <= 1_000_000
    assert server.round_trip_ns == 20_000_000


def test_a_time_that_is_none_is_nonsense() -> None:
    script = measure_clock(REQUESTS, ServerClock(ManualClock()))
    next(script)
    with pytest.raises(Nonsense):
        script.send(Reply(1, 200, msgspec.Raw(b'{"serverTime":"soon"}')))
