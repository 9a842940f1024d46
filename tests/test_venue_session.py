"""Sessions on a network in memory, on virtual time: what they owe their owner whatever the network does."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tbx.core.kernel.clock import MS_NS, SECOND_NS
from tbx.venues.limits import ConnectBudget
from tbx.venues.session import DRAIN_NS, ConnectFailed, Link, Session

from .live_network import ProcessClock, Stepped
from .memory_network import Network

HOUR_NS = 3600 * SECOND_NS


class Owner:
    """Promotes each link as soon as it opens, unless told not to, and writes down what it hears."""

    def __init__(self) -> None:
        self.promotes = True
        self.session: Session | None = None
        self.log: list[tuple[str, int, Any]] = []
        self.broken = False

    def on_link_open(self, link: Link) -> None:
        self.log.append(("open", link.number, link.opened_ns))
        if self.promotes:
            assert self.session is not None
            self.session.promote(link)

    def on_link_frame(self, link: Link, raw: bytes) -> None:
        if self.broken:
            raise RuntimeError("a bug")
        self.log.append(("frame", link.number, raw))

    def on_link_down(self, link: Link, reason: str) -> None:
        self.log.append(("down", link.number, reason))

    def heard(self, what: str) -> list[tuple[int, Any]]:
        return [(number, more) for kind, number, more in self.log if kind == what]


class World:
    """A session, its owner, its network, its clock."""

    def __init__(self, jitter: float = 1.0, budget: ConnectBudget | None = None, **options: Any) -> None:
        self.time = Stepped()
        self.clock = ProcessClock(self.time)
        self.network = Network(self.time)
        self.owner = Owner()
        self.troubles: list[str] = []
        self.budget = budget if budget is not None else ConnectBudget()
        self.session = Session(
            self.clock,
            self.network.connect,
            self.owner,
            name="venue",
            url="ws://venue",
            jitter=lambda: jitter,
            budget=self.budget,
            on_trouble=self.troubles.append,
            **options,
        )
        self.owner.session = self.session

    def connected(self) -> World:
        self.session.start()
        self.advance(10 * MS_NS)
        assert self.session.link is not None
        return self

    def advance(self, delta_ns: int) -> None:
        self.time.advance(delta_ns)


def test_a_promoted_link_is_primary_and_carries_frames_both_ways() -> None:
    world = World().connected()
    link, connection = world.session.link, world.network.connections[0]
    assert link is not None and link.number == 1 and connection.url == "ws://venue"
    link.send(b"question")
    world.advance(MS_NS)
    assert connection.received == [b"question"]
    connection.send(b"first")
    connection.send(b"second")
    world.advance(MS_NS)
    assert world.owner.heard("frame") == [(1, b"first"), (1, b"second")]
    assert link.last_frame_ns == world.clock.now_ns()
    assert world.session.status().connected and world.session.status().reason == ""


def test_a_link_that_goes_down_is_told_once_and_cannot_be_sent_on() -> None:
    world = World().connected()
    link = world.session.link
    assert link is not None
    world.network.connections[0].cut()
    world.network.connections[0].cut()
    assert world.owner.heard("down") == [(1, "the connection was cut")]
    assert world.session.link is None and link.down
    with pytest.raises(ConnectionError, match="venue link 1 is down"):
        link.send(b"x")
    link.close("again")
    assert len(world.owner.heard("down")) == 1


def test_frames_after_a_close_reach_nobody() -> None:
    world = World().connected()
    connection = world.network.connections[0]
    connection.send(b"late")
    assert world.session.link is not None
    world.session.link.close("enough")
    world.advance(10 * MS_NS)
    assert world.owner.heard("frame") == []
    assert world.owner.heard("down") == [(1, "enough")]


def test_attempts_back_off_up_to_half_a_minute() -> None:
    world = World()
    world.network.refusal = ConnectFailed("connection refused")
    world.session.start()
    world.advance(200 * SECOND_NS)
    attempts = world.network.attempts_ns
    waits = [(b - a) / SECOND_NS for a, b in pairwise(attempts)]
    answered = 0.002
    assert [round(wait - answered, 6) for wait in waits[:9]] == [0.25, 0.5, 1, 2, 4, 8, 16, 30, 30]
    status = world.session.status()
    assert not status.connected and status.reason.startswith("connection refused; next attempt in ")
    assert world.owner.log == []  # nothing was opened, so nothing is told


def test_jitter_spreads_attempts_down_to_none() -> None:
    world = World(jitter=0.0)
    world.network.refusal = ConnectFailed("connection refused")
    world.session.start()
    world.advance(100 * MS_NS)
    assert 40 < len(world.network.attempts_ns) <= 60  # a round trip of the handshake each


def test_a_link_that_lived_a_minute_begins_a_new_series_of_failures() -> None:
    world = World()
    world.network.refusal = ConnectFailed("no")
    world.session.start()
    world.advance(20 * SECOND_NS)
    world.network.refusal = None
    world.advance(20 * SECOND_NS)
    for _ in range(6):
        world.network.live[-1].ping()
        world.advance(15 * SECOND_NS)
    lost_ns = world.clock.now_ns()
    world.network.live[-1].cut()
    world.advance(SECOND_NS)
    assert world.network.attempts_ns[-1] - lost_ns == SECOND_NS // 4


def test_links_that_die_young_back_off_too() -> None:
    world = World().connected()
    for _ in range(5):
        world.network.live[-1].cut()
        world.advance(40 * SECOND_NS)
    lost_ns = world.clock.now_ns()
    world.network.live[-1].cut()
    world.advance(40 * SECOND_NS)
    assert world.network.attempts_ns[-1] - lost_ns == 8 * SECOND_NS


@pytest.mark.parametrize(
    ("failure", "wait_s"),
    [
        pytest.param(ConnectFailed("HTTP 429", 429, 17 * SECOND_NS), 17, id="429 with Retry-After"),
        pytest.param(ConnectFailed("HTTP 418", 418, 300 * SECOND_NS), 300, id="418 with Retry-After"),
        pytest.param(ConnectFailed("HTTP 429", 429), 60, id="429 without"),
        pytest.param(ConnectFailed("HTTP 418", 418), 120, id="418 without"),
    ],
)
def test_a_venue_that_says_wait_is_left_alone_by_every_session(failure: ConnectFailed, wait_s: int) -> None:
    world = World()
    other = World(budget=world.budget)
    world.network.refusal = failure
    world.session.start()
    world.advance(2 * MS_NS)
    refused_ns = world.clock.now_ns()
    world.network.refusal = None
    other.advance(world.clock.now_ns() - other.clock.now_ns())
    other.session.start()
    other.advance((wait_s - 1) * SECOND_NS)
    world.advance((wait_s - 1) * SECOND_NS)
    assert len(world.network.attempts_ns) == 1 and other.network.attempts_ns == []
    world.advance(2 * SECOND_NS)
    other.advance(2 * SECOND_NS)
    assert 0 <= world.network.attempts_ns[1] - refused_ns - wait_s * SECOND_NS < MS_NS
    assert world.session.link is not None and other.session.link is not None


def test_no_more_than_the_allowed_connects_in_five_minutes() -> None:
    world = World(jitter=0.0, budget=ConnectBudget(limit=300))
    world.network.refusal = ConnectFailed("no")
    world.session.start()
    world.advance(299 * SECOND_NS)
    assert 250 <= len(world.network.attempts_ns) <= 300
    world.advance(2 * SECOND_NS)
    assert len(world.network.attempts_ns) > 300


def test_a_renewal_keeps_the_first_link_until_the_second_is_promoted_and_then_drains_it() -> None:
    world = World().connected()
    world.owner.promotes = False
    world.session.renew("serverShutdown")
    world.session.renew("serverShutdown")
    world.advance(10 * MS_NS)
    first, second = world.network.connections
    assert world.session.link is first.link and len(world.network.live) == 2
    world.session.promote(second.link)
    assert world.session.link is second.link and not first.link.down
    first.send(b"the answer to what was asked before")
    world.advance(DRAIN_NS - MS_NS)
    assert world.owner.heard("frame") == [(1, b"the answer to what was asked before")]
    assert world.owner.heard("down") == []
    world.advance(MS_NS)
    assert world.owner.heard("down") == [(1, "replaced")]
    assert world.session.status().reconnects == 0


def test_a_connection_is_renewed_before_the_venue_ends_it_at_24_hours() -> None:
    world = World(jitter=0.5, silent_ns=48 * HOUR_NS).connected()
    world.advance(23 * HOUR_NS)
    assert len(world.network.connections) == 1
    world.advance(HOUR_NS // 2)
    assert len(world.network.connections) == 2 and world.owner.heard("down") == [(1, "replaced")]
    assert world.session.link is world.network.connections[1].link
    world.advance(24 * HOUR_NS)
    assert len(world.network.connections) == 3


def test_a_renewal_that_fails_is_tried_again_and_leaves_the_primary_alone() -> None:
    world = World().connected()
    world.network.refusal = ConnectFailed("no")
    world.session.renew("old")
    world.advance(5 * SECOND_NS)
    assert len(world.network.connections) > 3 and world.session.link is world.network.connections[0].link
    world.network.refusal = None
    world.advance(20 * SECOND_NS)
    assert world.session.link is world.network.connections[-1].link
    assert world.owner.heard("down") == [(1, "replaced")]


def test_a_primary_lost_during_its_renewal_is_followed_by_the_candidate() -> None:
    world = World().connected()
    world.owner.promotes = False
    world.session.renew("old")
    world.advance(10 * MS_NS)
    first, second = world.network.connections
    first.cut()
    assert world.session.link is None
    world.advance(10 * SECOND_NS)
    assert len(world.network.connections) == 2  # the candidate is what it waits for
    world.session.promote(second.link)
    assert world.session.link is second.link


def test_silence_ends_a_link_and_a_ping_is_a_sign_of_life() -> None:
    world = World().connected()
    for _ in range(5):
        world.network.connections[0].ping()
        world.advance(20 * SECOND_NS)
    assert world.owner.heard("down") == []
    world.advance(60 * SECOND_NS)
    assert world.owner.heard("down") == [(1, "nothing received for 60 s")]
    assert world.session.link is world.network.connections[1].link


@pytest.mark.parametrize("jump_s", [-3_600, -30, 30, 3_600])
def test_silence_ends_a_link_also_when_the_clock_was_set_meanwhile(jump_s: int) -> None:
    world = World().connected()
    world.advance(5 * SECOND_NS)
    world.network.connections[0].ping()
    world.advance(5 * SECOND_NS)
    world.clock.skew_ns = jump_s * SECOND_NS
    world.advance(54 * SECOND_NS)
    assert world.owner.heard("down") == []
    world.advance(12 * SECOND_NS)
    assert world.owner.heard("down") == [(1, "nothing received for 60 s")]


def test_a_link_that_lives_is_kept_when_the_clock_is_set_and_its_signs_are_the_new_clocks() -> None:
    world = World().connected()
    for skew_s in (-3_600, 0, -86_400):
        world.clock.skew_ns = skew_s * SECOND_NS
        for _ in range(6):
            world.network.connections[0].ping()
            world.advance(20 * SECOND_NS)
        assert world.session.link is not None
        assert 0 < world.clock.now_ns() - world.session.link.last_sign_ns <= 20 * SECOND_NS
    assert world.owner.heard("down") == []


def test_a_hold_and_a_ban_outlast_a_clock_that_is_set_and_end_in_time() -> None:
    for jump_s in (-3_600, 3_600):
        world = World()
        world.network.refusal = ConnectFailed("HTTP 418", 418, 150 * SECOND_NS)
        world.session.start()
        world.advance(2 * MS_NS)
        world.network.refusal = None
        world.clock.skew_ns = jump_s * SECOND_NS
        world.advance(149 * SECOND_NS)
        assert len(world.network.attempts_ns) == 1
        world.advance(2 * SECOND_NS)
        assert world.session.link is not None


def test_a_link_that_is_not_promoted_in_time_is_ended() -> None:
    world = World(ready_timeout_ns=30 * SECOND_NS)
    world.owner.promotes = False
    world.session.start()
    world.advance(31 * SECOND_NS)
    assert world.owner.heard("down") == [(1, "not usable within 30 s")]
    assert len(world.network.connections) == 2


def test_a_handshake_without_an_answer_is_given_up() -> None:
    world = World()
    world.network.silent = True
    world.session.start()
    world.advance(10 * SECOND_NS)
    assert world.session.status().reason == "no handshake within 10 s"
    world.network.silent = False
    world.advance(SECOND_NS)
    assert world.session.link is not None and world.owner.heard("open")[0][0] == 2


def test_an_answer_to_a_handshake_that_was_given_up_is_closed() -> None:
    world = World(open_timeout_ns=MS_NS)
    world.network.connect = lambda url, link, real=world.network.connect: (real(url, link), lambda: None)[1]  # type: ignore[method-assign]
    world.session._connect = world.network.connect  # an attempt that cannot be called off
    world.session.start()
    world.advance(5 * MS_NS)
    assert world.owner.log == []
    assert world.network.connections[0].ended


def test_a_hold_keeps_a_session_from_connecting() -> None:
    world = World()
    world.session.hold_for(40 * SECOND_NS)
    world.session.start()
    world.advance(39 * SECOND_NS)
    assert world.network.attempts_ns == []
    world.advance(2 * SECOND_NS)
    assert world.session.link is not None


def test_stop_ends_every_link_and_nothing_begins_again() -> None:
    world = World().connected()
    world.session.renew("old")
    world.advance(10 * MS_NS)
    world.session.stop()
    assert sorted(world.owner.heard("down")) == [(1, "stopped"), (2, "stopped")]
    world.advance(HOUR_NS)
    assert len(world.network.connections) == 2 and world.session.status().reason == "stopped"


def test_a_bug_of_the_owner_is_told_and_the_link_begins_anew() -> None:
    world = World().connected()
    world.owner.broken = True
    world.network.connections[0].send(b"x")
    world.advance(MS_NS)
    assert any("RuntimeError('a bug')" in trouble for trouble in world.troubles)
    assert world.owner.heard("down") == [(1, "RuntimeError in the service")]
    world.owner.broken = False
    world.advance(SECOND_NS)
    assert world.session.link is not None and world.session.link.number == 2


STEPS = (
    "advance",
    "long",
    "cut",
    "close",
    "cut_last",
    "renew",
    "reconnect",
    "promote",
    "refuse",
    "mute",
    "send",
    "ping",
    "set_back",
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(STEPS), max_size=40), st.booleans())
def test_whatever_happens_each_link_opens_once_goes_down_once_and_one_is_primary(steps: list[str], eager: bool) -> None:
    world = World(jitter=0.3)
    world.owner.promotes = eager
    world.session.start()
    for step in steps:
        take(world, step)
        check(world)
    world.network.refusal, world.network.silent, world.owner.promotes = None, False, True
    world.advance(300 * SECOND_NS)
    assert world.session.link is not None  # it always comes back
    world.session.stop()
    check(world)
    assert len(world.owner.heard("open")) == len(world.owner.heard("down"))


def take(world: World, step: str) -> None:
    network, session = world.network, world.session
    if step in ("advance", "long"):
        world.advance(7 * MS_NS if step == "advance" else 13 * SECOND_NS)
    elif step == "refuse":
        network.refusal = None if network.refusal else ConnectFailed("no")
    elif step == "mute":
        network.silent = not network.silent
    elif step == "renew":
        session.renew("because")
    elif step == "reconnect":
        for link in (session._candidate, session.link):
            if link is not None:
                link.close("because")
    elif step == "set_back":
        world.clock.skew_ns -= HOUR_NS
    elif network.live:
        last = network.live[-1]
        if step == "promote":
            session.promote(last.link)
        elif step == "cut_last":
            last.cut()
        else:
            getattr(network.live[0], step)(*([b"x"] if step == "send" else []))


def check(world: World) -> None:
    opened, down = [n for n, _ in world.owner.heard("open")], [n for n, _ in world.owner.heard("down")]
    assert len(set(opened)) == len(opened) and len(set(down)) == len(down) and set(down) <= set(opened)
    link = world.session.link
    assert link is None or (link.is_open and link.number not in down)
    for number in down:
        kinds = [kind for kind, n, _ in world.owner.log if n == number]
        assert kinds[0] == "open" and kinds[-1] == "down" and kinds.count("down") == 1
    assert len(world.network.live) <= 5  # a primary, a candidate, and what drains
