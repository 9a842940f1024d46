"""Requests of the WebSocket API as frames: encode, nothing else.

Always true here: an order's frame holds exactly the ticks and lots of its intent, in decimal text of the symbol's
grid; what a frame says depends on its arguments only. Source: web-socket-api.md in binance-spot-api-docs.

    {"id":7,"method":"order.place","params":{"symbol":"BTCUSDT","side":"BUY","type":"LIMIT","timeInForce":"GTC",
     "price":"52000.00","quantity":"0.01000","newClientOrderId":"tbx-...","newOrderRespType":"FULL",
     "recvWindow":5000,"timestamp":1645423376532}}

With a session (an Ed25519 key after session.logon) requests carry a timestamp and no signature; with an HMAC key each
carries the key and is signed.
"""

import string
from typing import Final, Literal

import msgspec
from msgspec import Struct

from ...core.market.grid import Grid
from ...core.model.instruments import Instrument
from ...core.model.messages import AmendAtVenue, CancelAtVenue, PlaceAtVenue
from ...core.model.records import Side
from .signing import Param, Signer, ws_payload

RECV_WINDOW_MS: Final = 5_000  # how old a request may be when it arrives; the exchange's default, and at most 60,000
TRADES_MAX: Final = 1_000  # of one answer to myTrades
NO_CLIENT_ID: Final = "cannot be a client id: 1 to 36 of A-Z, a-z, 0-9, - and _"
CLIENT_ID_MAX: Final = 36
_CLIENT_ID_BYTES: Final = (string.ascii_letters + string.digits + "-_").encode()
CANCEL_PREFIX: Final = "can"
LIST_PREFIX: Final = "oco"

LegType = Literal["LIMIT", "LIMIT_MAKER", "MARKET", "STOP_LOSS", "STOP_LOSS_LIMIT", "TAKE_PROFIT", "TAKE_PROFIT_LIMIT"]
LegTif = Literal["GTC", "IOC", "FOK"]
_SIDES: Final = {"buy": "BUY", "sell": "SELL"}
_encode = msgspec.json.Encoder().encode


class Leg(Struct, frozen=True, kw_only=True):
    """One order of an order list. `price_ticks` of the limit types, `stop_ticks` of those that wait for a price."""

    client_id: str
    side: Side
    type: LegType
    qty_lots: int
    price_ticks: int | None = None
    stop_ticks: int | None = None
    tif: LegTif | None = None  # of the types with a limit; None: GTC


class PlaceList(Struct, frozen=True, kw_only=True):
    """An order list.

    oco: `above` and `below`, one cancels the other, both of the same side and quantity.
    oto: `pending` goes live when `working` is filled whole.
    otoco: the same with `above` and `below` as the pending pair.
    """

    kind: Literal["oco", "oto", "otoco"]
    client_id: str  # of the list
    pair: str
    working: Leg | None = None
    pending: Leg | None = None
    above: Leg | None = None
    below: Leg | None = None

    @property
    def legs(self) -> tuple[Leg, ...]:
        return tuple(leg for leg in (self.working, self.pending, self.above, self.below) if leg is not None)


class ReplaceOrder(Struct, frozen=True, kw_only=True):
    """Cancel an order and place another one of the same pair; not one transaction."""

    cancel: CancelAtVenue
    order: PlaceAtVenue
    allow_failure: bool = False  # place even where there was nothing to cancel


class Terms:
    """What frames need of an instrument, worked out once."""

    __slots__ = (
        "forms",
        "instrument",
        "pair",
        "price_cell",
        "price_scale",
        "price_units",
        "prices",
        "quantities",
        "quantity_cell",
        "quantity_scale",
        "quantity_units",
        "symbol",
        "symbol_json",
    )

    def __init__(self, instrument: Instrument) -> None:
        self.instrument = instrument
        self.pair = instrument.pair
        self.symbol = instrument.symbol
        self.symbol_json = _encode(instrument.symbol).decode()
        self.prices = Grid.of(instrument.tick)
        self.quantities = Grid.of(instrument.lot)
        self.price_cell, self.price_scale = _cell(self.prices)
        self.quantity_cell, self.quantity_scale = _cell(self.quantities)
        self.price_units = self.prices.units
        self.quantity_units = self.quantities.units
        self.forms: dict[tuple[str, str, str, bool, bool], Form] = {}


class Form:
    """The frame of one kind of order, with holes for what differs from order to order."""

    __slots__ = ("frame", "payload", "priced")

    def __init__(self, frame: str, payload: str, priced: bool) -> None:
        self.frame = frame.encode()  # bytes are filled in faster than text
        self.payload = payload.encode()  # what is signed, with its own holes; empty where nothing is
        self.priced = priced


class Requests:
    """Encodes for one key."""

    def __init__(self, signer: Signer, recv_window_ms: int = RECV_WINDOW_MS) -> None:
        self.signer = signer
        self.session = signer.session
        self.recv_window_ms = recv_window_ms
        self._key_json = _encode(signer.api_key).decode()

    # --- orders

    def place(self, request_id: int, order: PlaceAtVenue, terms: Terms, timestamp_ms: int) -> bytes:
        """order.place, answered in FULL. A market order with a guard price is a limit order that does not rest."""
        key = (order.side, order.type, order.tif, order.post_only, order.price_ticks is None)
        form = terms.forms.get(key)
        if form is None:
            form = terms.forms[key] = self._form(order, terms)
        client_id = order.client_id.encode()
        if client_id.translate(None, _CLIENT_ID_BYTES) or not 0 < len(client_id) <= CLIENT_ID_MAX:
            raise ValueError(f"{order.client_id!r} {NO_CLIENT_ID}")
        lots, lot_part = divmod(order.qty_lots * terms.quantity_units, terms.quantity_scale)
        if not form.priced:
            return self._place_unpriced(request_id, form, lots, lot_part, client_id, timestamp_ms)
        ticks, tick_part = divmod(_there(order.price_ticks) * terms.price_units, terms.price_scale)
        if self.session:
            return form.frame % (request_id, ticks, tick_part, lots, lot_part, client_id, timestamp_ms)
        payload = form.payload % (client_id, ticks, tick_part, lots, lot_part, timestamp_ms)
        signature = self.signer.sign(payload).encode()
        return form.frame % (request_id, ticks, tick_part, lots, lot_part, client_id, timestamp_ms, signature)

    def _place_unpriced(
        self, request_id: int, form: Form, lots: int, lot_part: int, client_id: bytes, timestamp_ms: int
    ) -> bytes:
        if self.session:
            return form.frame % (request_id, lots, lot_part, client_id, timestamp_ms)
        signature = self.signer.sign(form.payload % (client_id, lots, lot_part, timestamp_ms)).encode()
        return form.frame % (request_id, lots, lot_part, client_id, timestamp_ms, signature)

    def _form(self, order: PlaceAtVenue, terms: Terms) -> Form:
        """The frame and the signed text of all orders like this one."""
        kind, tif = _venue_type(order)
        priced = kind != "MARKET"
        side = _SIDES[order.side]
        frame = '{"id":%d,"method":"order.place","params":{' + f'"symbol":{_literal(terms.symbol_json)},"side":"{side}"'
        frame += f',"type":"{kind}"' + (f',"timeInForce":"{tif}"' if tif else "")
        frame += f',"price":"{terms.price_cell}"' if priced else ""
        frame += f',"quantity":"{terms.quantity_cell}","newClientOrderId":"%s","newOrderRespType":"FULL"'
        frame += f',"recvWindow":{self.recv_window_ms},"timestamp":%d'
        if self.session:
            return Form(frame + "}}", "", priced)
        frame += f',"apiKey":{_literal(self._key_json)},"signature":"%s"' + "}}"
        payload = f"apiKey={_literal(self.signer.api_key)}&newClientOrderId=%s&newOrderRespType=FULL"
        payload += f"&price={terms.price_cell}" if priced else ""
        payload += f"&quantity={terms.quantity_cell}&recvWindow={self.recv_window_ms}&side={side}"
        payload += f"&symbol={_literal(terms.symbol)}" + (f"&timeInForce={tif}" if tif else "")
        return Form(frame, payload + f"&timestamp=%d&type={kind}", priced)

    def cancel(self, request_id: int, cancel: CancelAtVenue, terms: Terms, timestamp_ms: int) -> bytes:
        """order.cancel, by the venue's id where it is known (fastest), else by ours."""
        params: dict[str, Param] = {"symbol": terms.symbol, **_which(cancel, "orderId", "origClientOrderId")}
        params["newClientOrderId"] = cancel_id(cancel.client_id)
        return self._signed(request_id, "order.cancel", params, timestamp_ms)

    def amend(self, request_id: int, amend: AmendAtVenue, terms: Terms, timestamp_ms: int) -> bytes:
        """order.amend.keepPriority: to a smaller quantity, filled part included. The client id stays as it is."""
        lots = amend.amend.qty_lots
        if lots is None or amend.amend.price_ticks is not None:
            raise ValueError("an order is amended in place to another quantity, and to nothing else")
        params: dict[str, Param] = {"symbol": terms.symbol, **_which(amend, "orderId", "origClientOrderId")}
        params["newClientOrderId"] = _client_id(amend.client_id)  # else the exchange makes up a new one
        params["newQty"] = terms.quantities.text(lots)
        return self._signed(request_id, "order.amend.keepPriority", params, timestamp_ms)

    def replace(self, request_id: int, replace: ReplaceOrder, terms: Terms, timestamp_ms: int) -> bytes:
        """order.cancelReplace."""
        mode = "ALLOW_FAILURE" if replace.allow_failure else "STOP_ON_FAILURE"
        params: dict[str, Param] = {"symbol": terms.symbol, "cancelReplaceMode": mode}
        params |= _which(replace.cancel, "cancelOrderId", "cancelOrigClientOrderId")
        params["cancelNewClientOrderId"] = cancel_id(replace.cancel.client_id)
        params |= _order_params(replace.order, terms)
        return self._signed(request_id, "order.cancelReplace", params, timestamp_ms)

    # --- order lists

    def place_list(self, request_id: int, placed: PlaceList, terms: Terms, timestamp_ms: int) -> bytes:
        """orderList.place.oco, .oto or .otoco. Raises ValueError where the legs do not fit the kind."""
        params: dict[str, Param] = {"symbol": terms.symbol, "listClientOrderId": _client_id(placed.client_id)}
        params["newOrderRespType"] = "FULL"
        if placed.kind != "oco":
            params |= _leg("working", _leg_of(placed, "working"), terms)
        if placed.kind == "oto":
            params |= _leg("pending", _leg_of(placed, "pending"), terms)
        else:
            params |= _pair_of_legs("pending" if placed.kind == "otoco" else "", placed, terms)
        if len(placed.legs) != (3 if placed.kind == "otoco" else 2):
            raise ValueError(f"an {placed.kind} list has legs that it has no place for")
        return self._signed(request_id, f"orderList.place.{placed.kind}", params, timestamp_ms)

    def cancel_list(
        self, request_id: int, list_id: int | None, list_client_id: str, terms: Terms, timestamp_ms: int
    ) -> bytes:
        """orderList.cancel: all of the list, by the venue's id where it is known."""
        params: dict[str, Param] = {"symbol": terms.symbol}
        if list_id is not None:
            params["orderListId"] = list_id
        else:
            params["listClientOrderId"] = _client_id(list_client_id)
        params["newClientOrderId"] = cancel_id(list_client_id)
        return self._signed(request_id, "orderList.cancel", params, timestamp_ms)

    # --- questions

    def order_status(self, request_id: int, client_id: str, terms: Terms, timestamp_ms: int) -> bytes:
        """order.status of the latest order with our client id."""
        params: dict[str, Param] = {"symbol": terms.symbol, "origClientOrderId": _client_id(client_id)}
        return self._signed(request_id, "order.status", params, timestamp_ms)

    def order_status_by_id(self, request_id: int, order_id: int, terms: Terms, timestamp_ms: int) -> bytes:
        """order.status by the venue's own id."""
        params: dict[str, Param] = {"symbol": terms.symbol, "orderId": order_id}
        return self._signed(request_id, "order.status", params, timestamp_ms)

    def open_orders(self, request_id: int, timestamp_ms: int, terms: Terms | None = None) -> bytes:
        """openOrders.status of a symbol, or of all."""
        params: dict[str, Param] = {} if terms is None else {"symbol": terms.symbol}
        return self._signed(request_id, "openOrders.status", params, timestamp_ms)

    def my_trades(
        self,
        request_id: int,
        order_id: int | None,
        terms: Terms,
        timestamp_ms: int,
        from_id: int | None = None,
        limit: int = TRADES_MAX,
    ) -> bytes:
        """myTrades of one order, or of all, oldest first, `limit` at a time from the trade `from_id` on; without that
        the latest ones."""
        params: dict[str, Param] = {"symbol": terms.symbol}
        if order_id is not None:
            params["orderId"] = order_id
        params["limit"] = limit
        if from_id is not None:
            params["fromId"] = from_id
        return self._signed(request_id, "myTrades", params, timestamp_ms)

    def account(self, request_id: int, timestamp_ms: int, omit_zero: bool = False) -> bytes:
        """account.status: balances, and whether it may trade."""
        return self._signed(request_id, "account.status", {"omitZeroBalances": omit_zero}, timestamp_ms)

    def commission(self, request_id: int, terms: Terms, timestamp_ms: int) -> bytes:
        """account.commission: what trades of a symbol cost."""
        return self._signed(request_id, "account.commission", {"symbol": terms.symbol}, timestamp_ms)

    # --- the connection

    def time(self, request_id: int) -> bytes:
        return _frame(request_id, "time", {})

    def logon(self, request_id: int, timestamp_ms: int) -> bytes:
        """session.logon; signed over the key and the time alone. Raises ValueError with a key that has no sessions."""
        if not self.session:
            raise ValueError("session.logon takes Ed25519 keys only")
        params: dict[str, Param] = {"apiKey": self.signer.api_key, "timestamp": timestamp_ms}
        params["signature"] = self.signer.sign(ws_payload(params))
        return _frame(request_id, "session.logon", params)

    def subscribe(self, request_id: int, timestamp_ms: int) -> bytes:
        """userDataStream.subscribe on a connection that is logged on, else userDataStream.subscribe.signature."""
        if self.session:
            return _frame(request_id, "userDataStream.subscribe", {})
        params: dict[str, Param] = {"apiKey": self.signer.api_key, "timestamp": timestamp_ms}
        params["signature"] = self.signer.sign(ws_payload(params))
        return _frame(request_id, "userDataStream.subscribe.signature", params)

    def _signed(self, request_id: int, method: str, params: dict[str, Param], timestamp_ms: int) -> bytes:
        params["recvWindow"] = self.recv_window_ms
        params["timestamp"] = timestamp_ms
        if not self.session:
            params["apiKey"] = self.signer.api_key
            params["signature"] = self.signer.sign(ws_payload(params))
        return _frame(request_id, method, params)


def cancel_id(client_id: str) -> str:
    """The id of the cancel of an order: always the same for it, and never taken for an order of ours."""
    return CANCEL_PREFIX + _client_id(client_id)[3:] if len(client_id) > 3 else f"{CANCEL_PREFIX}-{client_id}"


def exits_id(client_id: str) -> str:
    """The id of the list of an exit: always the same for it, and never taken for an order of ours."""
    return LIST_PREFIX + _client_id(client_id)[3:] if len(client_id) > 3 else f"{LIST_PREFIX}-{client_id}"


def _frame(request_id: int, method: str, params: dict[str, Param]) -> bytes:
    if not params:
        return b'{"id":%d,"method":%b}' % (request_id, _encode(method))
    return b'{"id":%d,"method":%b,"params":%b}' % (request_id, _encode(method), _encode(params))


def _cell(grid: Grid) -> tuple[str, int]:
    """The %-format of a decimal on a grid, and by what its units are split into its two numbers."""
    if grid.decimals:
        return f"%d.%0{grid.decimals}d", 10**grid.decimals
    return "%d%.0a", 1  # the second number, always 0, is not shown


def _literal(text: str) -> str:
    return text.replace("%", "%%")


def _there(price_ticks: int | None) -> int:
    if price_ticks is None:
        raise ValueError("a limit order needs a price")
    return price_ticks


def _client_id(client_id: str) -> str:
    raw = client_id.encode()
    if raw.translate(None, _CLIENT_ID_BYTES) or not 0 < len(raw) <= CLIENT_ID_MAX:
        raise ValueError(f"{client_id!r} {NO_CLIENT_ID}")
    return client_id


def _venue_type(order: PlaceAtVenue) -> tuple[str, str]:
    """Type and time in force at Binance; "" where the type takes none."""
    if order.type == "market":
        if order.price_ticks is None:
            return "MARKET", ""
        return "LIMIT", "FOK" if order.tif == "FOK" else "IOC"
    if order.post_only:
        return "LIMIT_MAKER", ""
    return "LIMIT", "GTC" if order.tif == "GTD" else order.tif  # GTD rests here until the service takes it back


def _order_params(order: PlaceAtVenue, terms: Terms) -> dict[str, Param]:
    kind, tif = _venue_type(order)
    params: dict[str, Param] = {"side": _SIDES[order.side], "type": kind}
    if tif:
        params["timeInForce"] = tif
    if kind != "MARKET":
        params["price"] = terms.prices.text(_there(order.price_ticks))
    params["quantity"] = terms.quantities.text(order.qty_lots)
    params["newClientOrderId"] = _client_id(order.client_id)
    params["newOrderRespType"] = "FULL"
    return params


def _which(about: CancelAtVenue | AmendAtVenue, by_venue_id: str, by_client_id: str) -> dict[str, Param]:
    """How the order is named to the venue."""
    if about.venue_order_id is not None:
        return {by_venue_id: int(about.venue_order_id)}
    return {by_client_id: _client_id(about.client_id)}


def _leg_of(placed: PlaceList, name: Literal["working", "pending", "above", "below"]) -> Leg:
    leg: Leg | None = getattr(placed, name)
    if leg is None:
        raise ValueError(f"an {placed.kind} list needs a {name} leg")
    return leg


def _named(prefix: str, name: str) -> str:
    """`working`, `Type` -> workingType; no prefix, `Side` -> side."""
    return prefix + name if prefix else name[0].lower() + name[1:]


def _leg(prefix: str, leg: Leg, terms: Terms) -> dict[str, Param]:
    """A leg that stands for itself."""
    return {
        _named(prefix, "Side"): _SIDES[leg.side],
        _named(prefix, "Quantity"): terms.quantities.text(leg.qty_lots),
        **_leg_type(prefix, leg, terms),
    }


def _pair_of_legs(prefix: str, placed: PlaceList, terms: Terms) -> dict[str, Param]:
    """`above` and `below`, which share their side and quantity."""
    above, below = _leg_of(placed, "above"), _leg_of(placed, "below")
    if (above.side, above.qty_lots) != (below.side, below.qty_lots):
        raise ValueError("the two legs of which one cancels the other must have the same side and quantity")
    return {
        _named(prefix, "Side"): _SIDES[above.side],
        _named(prefix, "Quantity"): terms.quantities.text(above.qty_lots),
        **_leg_type(_named(prefix, "Above"), above, terms),
        **_leg_type(_named(prefix, "Below"), below, terms),
    }


def _leg_type(prefix: str, leg: Leg, terms: Terms) -> dict[str, Param]:
    """A leg's type, id and prices; raises ValueError where they do not fit together."""
    limited = leg.type in ("LIMIT", "LIMIT_MAKER", "STOP_LOSS_LIMIT", "TAKE_PROFIT_LIMIT")
    stopped = leg.type.startswith(("STOP_LOSS", "TAKE_PROFIT"))
    if limited != (leg.price_ticks is not None) or stopped != (leg.stop_ticks is not None):
        needs = " and ".join(name for name, asked in (("a price", limited), ("a stop price", stopped)) if asked)
        raise ValueError(f"a {leg.type} leg needs {needs or 'no price'}, and no other")
    params: dict[str, Param] = {prefix + "Type": leg.type, prefix + "ClientOrderId": _client_id(leg.client_id)}
    if leg.price_ticks is not None:
        params[prefix + "Price"] = terms.prices.text(leg.price_ticks)
    if leg.stop_ticks is not None:
        params[prefix + "StopPrice"] = terms.prices.text(leg.stop_ticks)
    if limited and leg.type != "LIMIT_MAKER":
        params[prefix + "TimeInForce"] = leg.tif or "GTC"
    return params
