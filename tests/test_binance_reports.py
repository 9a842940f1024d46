"""Reports and replies about orders, as the core hears them: exact, about the right order, never a guess."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from msgspec import Raw

from tbx.core.model.errors import Nonsense
from tbx.core.model.messages import (
    ForeignFilled,
    VenueAccepted,
    VenueAmended,
    VenueEnded,
    VenueFilled,
    VenueRejected,
)
from tbx.venues.binance import codec, codec_replies, codec_reports, errands
from tbx.venues.binance.codec import decode
from tbx.venues.binance.codec_requests import cancel_id
from tbx.venues.binance.names import Names

from .binance_examples import AT_NS, BTC, ID, REPORT, TRADE, event_frame, ours, report_of


def told(**changes: Any) -> list[Any]:
    report = report_of(**changes)
    return list(codec_reports.translate(report, BTC, "binance", Names(ours).of_report(report)))


# --- reports -------------------------------------------------------------------------------------------------------


def test_a_new_order_is_accepted() -> None:
    assert told() == [accepted()]


def accepted(**changes: Any) -> VenueAccepted:
    fields: dict[str, Any] = {"venue": "binance", "client_id": ID, "venue_order_id": "4293153", "timestamp_ns": AT_NS}
    return VenueAccepted(**{**fields, "side": "buy", **changes})


def filled(**changes: Any) -> VenueFilled:
    fields: dict[str, Any] = {
        "venue": "binance",
        "client_id": ID,
        "venue_order_id": "4293153",
        "trade_id": "77",
        "price_ticks": 5_199_999,
        "qty_lots": 34,
        "fee": Decimal("0.00000034"),
        "fee_currency": "BTC",
        "maker": True,
        "timestamp_ns": AT_NS,
        "side": "buy",
        "pair": "BTC_USDT",
    }
    return VenueFilled(**{**fields, **changes})


def ended(kind: Any, reason: str, **changes: Any) -> VenueEnded:
    fields: dict[str, Any] = {"venue": "binance", "client_id": ID, "kind": kind, "reason": reason}
    return VenueEnded(**{**fields, "timestamp_ns": AT_NS, "filled_lots": 0, **changes})


def test_a_trade_is_a_fill_with_its_price_fee_and_id() -> None:
    assert told(**TRADE) == [filled()]
    assert told(**{**TRADE, "X": "FILLED", "z": "0.01234000"}) == [filled()]


def test_a_fee_without_a_currency_is_none_and_only_if_it_is_zero() -> None:
    assert told(**{**TRADE, "n": "0", "N": None}) == [filled(fee=Decimal(0), fee_currency="USDT")]
    with pytest.raises(Nonsense, match="in no currency"):
        told(**{**TRADE, "N": None})


def test_a_fee_in_a_third_asset_is_told_as_paid() -> None:
    assert told(**{**TRADE, "n": "0.0001", "N": "BNB"}) == [filled(fee=Decimal("0.0001"), fee_currency="BNB")]


def test_a_cancel_is_told_for_the_order_and_not_for_the_cancel() -> None:
    gone = ended("cancelled", "cancelled")
    assert told(x="CANCELED", X="CANCELED", c=cancel_id(ID), C=ID) == [gone]
    assert told(x="CANCELED", X="CANCELED", c="web_by_hand", C=ID) == [gone]
    assert told(x="CANCELED", X="CANCELED") == [gone]


def test_an_amended_order_has_its_new_quantity() -> None:
    amended = VenueAmended(venue="binance", client_id=ID, qty_lots=1_000, price_ticks=5_200_000, timestamp_ns=AT_NS)
    assert told(x="REPLACED", q="0.01000000", C=ID) == [amended]
    assert told(x="REPLACED", q="0.01000000") == [amended]
    assert told(x="REPLACED", q="0.01000000", c="by-hand", C=ID) == [amended]


def test_an_order_that_somebody_renamed_is_still_ours() -> None:
    names = Names(ours)
    assert names.of_report(report_of(x="REPLACED", c="by-hand", C=ID)) == ID
    assert names.of_report(report_of(x="REPLACED", c="twice", C="by-hand")) == ID
    assert names.of_report(report_of(**{**TRADE, "c": "twice"})) == ID
    assert names.id_of(ID) == REPORT["i"]
    assert names.of_report(report_of(x="EXPIRED", X="EXPIRED", c="twice")) == ID
    assert names.id_of(ID) is None  # it has ended
    assert names.of_report(report_of(**{**TRADE, "c": "twice"})) == ID  # this fill was late


def test_the_venues_id_says_which_order_it_is_from_the_first_time_that_it_is_told() -> None:
    names = Names(ours)
    names.note_asked("BTCUSDT", REPORT["i"], ID)  # of a process before this one
    assert names.of_report(report_of(**{**TRADE, "c": "by-hand"})) == ID
    assert names.of_report(report_of(**{**TRADE, "c": "by-hand", "s": "ETHUSDT"})) is None
    assert names.of_report(report_of(**{**TRADE, "c": "by-hand", "i": 1})) is None


def test_an_id_that_the_venue_gives_out_once_more_is_another_order() -> None:
    names = Names(ours)
    names.of_report(report_of())
    assert names.of_report(report_of(c="web_1")) is None


def test_ended_orders_are_forgotten_and_open_ones_are_not() -> None:
    names = Names(ours)
    names.of_report(report_of())
    for number in range(errands.MEMORY_MAX + 10):
        names.of_report(report_of(x="EXPIRED", X="EXPIRED", i=number, c=f"tbx-node1-{number}"))
    assert names.find("BTCUSDT", 5) is None
    assert names.find("BTCUSDT", errands.MEMORY_MAX) is not None
    assert names.id_of(ID) == REPORT["i"]


EXPIRIES: dict[str, tuple[dict[str, Any], str]] = {
    "immediate or cancel": ({"f": "IOC", "eR": "UNFILLED_IOC_QUANTITY_EXPIRED"}, "no liquidity left at its price"),
    "fill or kill": ({"f": "FOK", "eR": "UNFILLED_FOK_ORDER_EXPIRED"}, "could not be filled whole"),
    "its list's other order": ({"eR": "OCO_TRIGGER"}, "the other order of its list"),
    "no reason": ({"f": "IOC"}, "expired at Binance (IOC)"),
    "a new reason": ({"eR": "SOLAR_FLARE"}, "reason SOLAR_FLARE"),
    "a numbered reason": ({"eR": 9}, "reason 9"),
    "self-trade prevention": ({"X": "EXPIRED_IN_MATCH"}, "self-trade prevention"),
    "self-trade prevention, as it is told": (
        {"x": "TRADE_PREVENTION", "X": "EXPIRED_IN_MATCH", "A": "0.01234", "U": 7},
        "self-trade prevention",
    ),
}


@pytest.mark.parametrize("case", EXPIRIES)
def test_an_expired_order_ends_with_the_reason_in_words(case: str) -> None:
    changes, words = EXPIRIES[case]
    (message,) = told(**{"x": "EXPIRED", "X": "EXPIRED", **changes})
    assert isinstance(message, VenueEnded)
    assert message.kind == "expired" and message.client_id == ID and words in message.reason


def test_a_prevented_match_that_leaves_something_ends_nothing() -> None:
    assert told(x="TRADE_PREVENTION", X="NEW", A="0.00100000") == []


def test_an_order_filled_but_for_what_was_prevented_ends() -> None:
    first, last = told(**{**TRADE, "X": "FILLED", "z": "0.00034000", "A": "0.01200000"})
    assert first == filled()
    assert isinstance(last, VenueEnded) and "self-trade prevention" in last.reason


REJECTS = {
    "INSUFFICIENT_BALANCES": "INSUFFICIENT_BALANCE",
    "WOULD_MATCH_IMMEDIATELY": "POST_ONLY_WOULD_TAKE",
    "STOP_PRICE_WOULD_TRIGGER_IMMEDIATELY": "STOP_WOULD_TRIGGER",
    "OCO_BAD_PRICES": "VENUE_REFUSED",
    "SOMETHING_NEW": "VENUE_REFUSED",
    "NONE": "VENUE_REFUSED",
}


@pytest.mark.parametrize("reason", REJECTS)
def test_a_rejected_order_says_why(reason: str) -> None:
    (message,) = told(x="REJECTED", X="REJECTED", r=reason)
    assert isinstance(message, VenueRejected)
    assert (message.client_id, message.code) == (ID, REJECTS[reason])
    assert message.reason.startswith("Binance")


def test_of_other_peoples_orders_only_fills_are_told() -> None:
    assert told(**{**TRADE, "c": "web_1234"}) == [
        ForeignFilled(
            venue="binance",
            pair="BTC_USDT",
            client_id="web_1234",
            trade_id="77",
            side="buy",
            price_ticks=5_199_999,
            qty_lots=34,
            fee=Decimal("0.00000034"),
            fee_currency="BTC",
            timestamp_ns=AT_NS,
        )
    ]
    for kind in ("NEW", "CANCELED", "REPLACED", "REJECTED", "EXPIRED", "TRADE_PREVENTION"):
        assert told(x=kind, c="web_1234") == []


def test_a_fill_routed_elsewhere_is_known_by_its_allocation() -> None:
    (message,) = told(**{**TRADE, "t": -1, "a": 12, "b": "ONE_PARTY_TRADE_REPORT"})
    assert isinstance(message, VenueFilled) and message.trade_id == "A12"


BAD_TRADES: dict[str, tuple[dict[str, Any], str]] = {
    "a price between two ticks": ({"L": "51999.99500000"}, "not on its grid"),
    "a quantity between two lots": ({"l": "0.000345"}, "not on its grid"),
    "no quantity": ({"l": "0.00000000"}, "above zero"),
    "a negative quantity": ({"l": "-0.00034"}, "not be negative"),
    "no price": ({"L": "0.00000000"}, "above zero"),
    "an exponent": ({"l": "34e-5"}, "not a decimal"),
    "not a number": ({"L": "NaN"}, "not a decimal"),
    "without end": ({"L": "Infinity"}, "not a decimal"),
    "digits of another script": ({"L": "５１９９９.99"}, "not a decimal"),
    "spaces": ({"L": " 51999.99"}, "not a decimal"),
    "underscores": ({"L": "51_999.99"}, "not a decimal"),
    "an empty price": ({"L": ""}, "not a decimal"),
    "a bare point": ({"L": "51999."}, "not a decimal"),
    "more than any kernel holds": ({"l": "9" * 30}, "small enough"),
    "more digits than any price": ({"L": "9" * 4_000}, "not a decimal"),
    "a fee that is none": ({"n": "free"}, "a fee"),
    "a fee that is paid to us": ({"n": "-0.00000034"}, "pays none"),
    "a fee of more than was bought": ({"n": "0.00034001"}, "for a trade of 0.00034"),
    "a fee of more than was paid": ({"n": "18", "N": "USDT"}, "for a trade of 17.6799966"),
    "another symbol": ({"s": "ETHUSDT"}, "where BTCUSDT was expected"),
    "no trade id": ({"t": -1}, "the id -1"),
    "microseconds": ({"T": 1_499_405_658_657_000}, "not a time"),
    "no time": ({"T": 0}, "not a time"),
}


@pytest.mark.parametrize("case", BAD_TRADES)
@pytest.mark.parametrize("client_id", [ID, "web_1234"])
def test_money_is_never_guessed(case: str, client_id: str) -> None:
    changes, reason = BAD_TRADES[case]
    with pytest.raises(Nonsense, match=reason):
        told(**{**TRADE, "c": client_id, **changes})


# --- replies about orders ------------------------------------------------------------------------------------------

PLACED_REPLY: dict[str, Any] = {
    "symbol": "BTCUSDT",
    "orderId": 4_293_153,
    "orderListId": -1,
    "clientOrderId": ID,
    "transactTime": 1_499_405_658_657,
    "price": "52000.00000000",
    "origQty": "0.01234000",
    "executedQty": "0.00034000",
    "status": "EXPIRED",
    "timeInForce": "IOC",
    "type": "LIMIT",
    "side": "BUY",
    "fills": [
        {
            "price": "51999.99000000",
            "qty": "0.00034000",
            "commission": "0.00000034",
            "commissionAsset": "BTC",
            "tradeId": 77,
        }
    ],
}
ACCEPTED = accepted()


def placed_told(**changes: Any) -> list[Any]:
    answer = codec_replies.read_placed(json.dumps({**PLACED_REPLY, **changes}).encode())
    return list(codec_reports.placed(answer, BTC, "binance"))


def test_the_answer_to_an_order_tells_all_that_happened_at_once() -> None:
    assert placed_told() == [
        ACCEPTED,
        filled(maker=False),
        ended("expired", "expired at Binance (IOC)", filled_lots=34),
    ]
    assert "no liquidity left in the book" in placed_told(expiryReason="INSUFFICIENT_LIQUIDITY")[-1].reason


def test_an_order_that_rests_was_accepted() -> None:
    assert placed_told(status="NEW", executedQty="0.00000000", fills=[]) == [ACCEPTED]
    assert placed_told(status="PARTIALLY_FILLED") == [ACCEPTED, filled(maker=False)]


def test_an_order_filled_whole_needs_no_end() -> None:
    assert placed_told(status="FILLED", origQty="0.00034") == [ACCEPTED, filled(maker=False)]
    assert placed_told(status="FILLED")[2:] == [ended("expired", codec_reports.SELF_TRADE, filled_lots=34)]


def test_an_acknowledgement_only_says_that_it_was_taken() -> None:
    fields = ("symbol", "orderId", "orderListId", "clientOrderId", "transactTime")
    answer = codec_replies.read_placed(json.dumps({name: PLACED_REPLY[name] for name in fields}).encode())
    assert codec_reports.placed(answer, BTC, "binance") == [accepted(side=None)]


def test_a_fee_in_an_answer_has_a_currency_too() -> None:
    (fill,) = PLACED_REPLY["fills"]
    with pytest.raises(Nonsense, match="in no currency"):
        placed_told(fills=[{**fill, "commissionAsset": ""}])
    assert placed_told(fills=[{**fill, "commissionAsset": "", "commission": "0.0"}])[1].fee_currency == "USDT"
    with pytest.raises(Nonsense, match="in no currency"):
        known_told([{**KNOWN_TRADE, "commissionAsset": ""}], executedQty="0.00034")


def test_fills_that_are_not_told_are_never_guessed() -> None:
    for changes in ({"executedQty": "0.00035"}, {"fills": []}, {"fills": None}, {"executedQty": "0.000345"}):
        with pytest.raises(Nonsense, match=r"executed"):
            placed_told(**changes)
    with pytest.raises(Nonsense, match="ETHUSDT"):
        placed_told(symbol="ETHUSDT")


CANCELLED_REPLY = {
    "symbol": "BTCUSDT",
    "origClientOrderId": ID,
    "orderId": 4_293_153,
    "orderListId": -1,
    "clientOrderId": cancel_id(ID),
    "transactTime": 1_499_405_658_657,
    "origQty": "0.01234000",
    "executedQty": "0.00034000",
    "status": "CANCELED",
}


def test_the_answer_to_a_cancel_ends_the_order() -> None:
    answer = codec_replies.read_cancelled(Raw(json.dumps(CANCELLED_REPLY).encode()))
    assert codec_reports.cancelled(answer, BTC, "binance") == [ended("cancelled", "cancelled", filled_lots=34)]
    still = codec_replies.read_cancelled(Raw(json.dumps({**CANCELLED_REPLY, "status": "NEW"}).encode()))
    with pytest.raises(Nonsense, match="is NEW after it was cancelled"):
        codec_reports.cancelled(still, BTC, "binance")


def test_the_cancel_of_one_order_of_a_list_ends_them_all() -> None:
    answer = {
        "orderListId": 5,
        "contingencyType": "OCO",
        "listStatusType": "ALL_DONE",
        "listOrderStatus": "ALL_DONE",
        "listClientOrderId": "list-1",
        "transactionTime": 1,
        "symbol": "BTCUSDT",
        "orders": [],
        "orderReports": [CANCELLED_REPLY, {**CANCELLED_REPLY, "origClientOrderId": f"{ID}2"}],
    }
    read = codec_replies.read_cancelled(Raw(json.dumps(answer).encode()))
    assert codec_reports.cancelled(read, BTC, "binance") == [
        ended("cancelled", "cancelled", filled_lots=34),
        ended("cancelled", "cancelled", filled_lots=34, client_id=f"{ID}2"),
    ]


def test_the_answer_to_an_amendment_has_the_new_quantity() -> None:
    answer = {
        "transactTime": 1_499_405_658_657,
        "executionId": 16,
        "amendedOrder": {
            "symbol": "BTCUSDT",
            "orderId": 12,
            "orderListId": -1,
            "origClientOrderId": ID,
            "clientOrderId": ID,
            "price": "52000.00",
            "qty": "0.01000000",
            "executedQty": "0.00000000",
            "status": "NEW",
        },
    }
    assert codec_reports.amended(codec_replies.read_amended(json.dumps(answer).encode()), BTC, "binance") == [
        VenueAmended(venue="binance", client_id=ID, qty_lots=1_000, price_ticks=5_200_000, timestamp_ns=AT_NS)
    ]


KNOWN: dict[str, Any] = {
    "symbol": "BTCUSDT",
    "orderId": 4_293_153,
    "orderListId": -1,
    "clientOrderId": ID,
    "price": "52000.00000000",
    "origQty": "0.01234000",
    "executedQty": "0.00068000",
    "status": "CANCELED",
    "timeInForce": "GTC",
    "type": "LIMIT",
    "side": "BUY",
    "time": 1_499_405_658_657,
    "updateTime": 1_499_405_658_657,
}
KNOWN_TRADE: dict[str, Any] = {
    "symbol": "BTCUSDT",
    "id": 77,
    "orderId": 4_293_153,
    "price": "51999.99000000",
    "qty": "0.00034000",
    "commission": "0.00000034",
    "commissionAsset": "BTC",
    "time": 1_499_405_658_657,
    "isBuyer": True,
    "isMaker": True,
}


IS_NOW = VenueAmended(venue="binance", client_id=ID, qty_lots=1_234, price_ticks=None, timestamp_ns=AT_NS)


def known_told(trades: list[dict[str, Any]], **changes: Any) -> list[Any]:
    order_known = codec_replies.read_order(json.dumps({**KNOWN, **changes}).encode())
    read = codec_replies.read_trades(json.dumps(trades).encode())
    return list(codec_reports.known(order_known, read, BTC, "binance", ID))


def test_a_query_tells_everything_in_order() -> None:
    trades = [{**KNOWN_TRADE, "id": 78}, KNOWN_TRADE]
    ending = ended("cancelled", "cancelled", filled_lots=68)
    assert known_told(trades) == [ACCEPTED, IS_NOW, filled(), filled(trade_id="78"), ending]
    assert known_told([], status="NEW", executedQty="0.00000000") == [ACCEPTED, IS_NOW]


def test_a_query_whose_trades_lag_behind_has_to_be_asked_again() -> None:
    with pytest.raises(Nonsense, match=r"executed 68 lots, and trades of 34 lots"):
        known_told([KNOWN_TRADE])
    with pytest.raises(Nonsense, match="among those of"):
        known_told([{**KNOWN_TRADE, "orderId": 1}, KNOWN_TRADE])


def test_a_rejected_order_was_not_taken() -> None:
    (message,) = known_told([], status="REJECTED", executedQty="0")
    assert isinstance(message, VenueRejected)


def test_a_query_answers_for_the_id_that_was_asked_about() -> None:
    told_of = known_told([], status="CANCELED", executedQty="0", clientOrderId=cancel_id(ID))
    assert [message.client_id for message in told_of] == [ID, ID, ID]


def test_an_end_says_how_much_had_traded() -> None:
    traded = {"z": "0.00034000"}
    for kind, status in (("CANCELED", "CANCELED"), ("EXPIRED", "EXPIRED"), ("TRADE_PREVENTION", "EXPIRED_IN_MATCH")):
        (message,) = told(x=kind, X=status, **traded)
        assert message.filled_lots == 34
        with pytest.raises(Nonsense, match="not be negative"):
            told(x=kind, X=status, z="-0.00034")
        with pytest.raises(Nonsense, match="not on its grid"):
            told(x=kind, X=status, z="0.000345")


def test_both_halves_of_a_replacement_are_read() -> None:
    read = codec_replies.read_replaced
    done = {"cancelResult": "SUCCESS", "newOrderResult": "SUCCESS"}
    both = read(Raw(json.dumps({**done, "cancelResponse": CANCELLED_REPLY, "newOrderResponse": PLACED_REPLY}).encode()))
    assert both is not None
    assert isinstance(both.cancel, codec_replies.CancelledOrder) and isinstance(both.order, codec_replies.PlacedOrder)
    data = {"cancelResult": "FAILURE", "newOrderResult": "NOT_ATTEMPTED", "newOrderResponse": None}
    data["cancelResponse"] = {"code": -2011, "msg": "Unknown order sent."}  # type: ignore[assignment]
    neither = read(codec.ABSENT, codec.ApiFault(-2022, "failed", Raw(json.dumps(data).encode())))
    assert neither == codec_replies.Replaced(cancel=codec.ApiFault(-2011, "Unknown order sent."), order=None)
    assert read(codec.ABSENT, codec.ApiFault(-1015, "Too many new orders.")) is None
    with pytest.raises(Nonsense, match="PERHAPS"):
        read(Raw(b'{"cancelResult":"PERHAPS","newOrderResult":"NOT_ATTEMPTED"}'))
    with pytest.raises(Nonsense, match="no result"):
        read(codec.ABSENT, codec.ApiFault(-2021, "half"))


def test_balances_are_exact() -> None:
    answer = {"canTrade": True, "updateTime": 1, "balances": [{"asset": "BTC", "free": "1.3447112", "locked": "0.086"}]}
    report = codec_reports.balances(codec_replies.read_account(json.dumps(answer).encode()), "binance", AT_NS)
    assert report.balances == {"BTC": (Decimal("1.3447112"), Decimal("0.086"))}
    moved = decode(event_frame({"e": "balanceUpdate", "E": 1, "a": "BTC", "d": "-100.00", "T": 1_573_200_697_068}))
    assert isinstance(moved, codec.BalanceUpdate)
    assert codec_reports.balance_moved(moved, "binance").change == -100
    held = {"e": "outboundAccountPosition", "E": 1, "u": 1, "B": [{"a": "ETH", "f": "10000.0", "l": "0.5"}]}
    position = decode(event_frame(held))
    assert isinstance(position, codec.AccountPosition)
    assert codec_reports.position(position) == {"ETH": (10_000, Decimal("0.5"))}
