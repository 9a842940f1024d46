"""Identifiers: client ids of orders at a venue, and whose they are."""

import msgspec
import pytest

from tbx.core.model.ids import Counters, Ids, base36

NOW_NS = 1_735_689_600_000_000_000  # 2025-01-01


def test_a_client_id_leads_back_to_its_order_and_is_short_enough_for_every_venue() -> None:
    ids = Ids("abcdefghijkl", Counters(), "zzz")
    for number in (1, 35, 36, 999_999, 36**5 - 1):
        order_id = f"ORD_20250101_{number:06d}"
        client_id = ids.venue_client_id(order_id, 46_655)
        assert len(client_id) <= 36
        assert ids.order_of(client_id) == order_id


def test_another_process_on_the_same_counters_makes_other_client_ids() -> None:
    first, second = Ids("main", Counters(), "a1"), Ids("main", Counters(), "b2")
    ids = [each.venue_client_id(each.order(NOW_NS), 1) for each in (first, second)]
    assert ids[0] != ids[1]
    assert second.order_of(ids[0]) == second.order_of(ids[1]) == "ORD_20250101_000001"
    assert second.made(ids[1], second.tagged(()))
    assert not second.made(ids[0], second.tagged(())), "another order with the number of this one"


def test_an_order_is_known_by_all_the_processes_that_have_sent_it() -> None:
    before, after = Ids("main", Counters(), "a1"), Ids("main", Counters(), "b2")
    tags = after.tagged(before.tagged(()))
    assert tags == ("a1", "b2") and after.tagged(tags) is tags
    for ids in (before, after):
        assert Ids("main", Counters(), "c3").made(ids.venue_client_id("ORD_20250101_000001", 1), tags)


def test_an_order_whose_processes_were_not_kept_is_known_by_all_those_that_had_the_state() -> None:
    before = Ids("main", Counters(), "a1")
    client_id = before.venue_client_id(before.order(NOW_NS), 1)
    assert before.dirty
    kept = msgspec.json.decode(msgspec.json.encode(before.counters), type=Counters)
    assert Ids("main", kept, "b2").made(client_id, ())
    assert not Ids("main", Counters(), "b2").made(client_id, ())


@pytest.mark.parametrize(
    "client_id",
    [
        "",
        "web_1234",
        "tbx-main-250101-1-a1",
        "tbx-other-2501011-1-a1",
        "tbx-main-25010é1-1-a1",
        "tbx-main-250101!-1-a1",
    ],
)
def test_what_we_did_not_make_is_nobodys(client_id: str) -> None:
    assert Ids("main", Counters(), "a1").order_of(client_id) is None


def test_client_ids_of_the_version_before_are_still_ours() -> None:
    assert Ids("main", Counters(), "a1").order_of("tbx-main-250101000012-2") == "ORD_20250101_000012"


@pytest.mark.parametrize(("number", "text"), [(0, "0"), (35, "z"), (36, "10"), (46_655, "zzz")])
def test_base_36(number: int, text: str) -> None:
    assert base36(number) == text
    assert int(text, 36) == number
