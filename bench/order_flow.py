"""The orders of the load benchmarks: small market orders over every simulated book, each sale bought before.

Always true here: at any moment a book has been bought more of than sold, since a stock is bought first that is larger
than all that connections can sell ahead of their buys and than all that fees in base currency take away.
"""

from __future__ import annotations

import math
from decimal import Decimal

import msgspec
from children import HOST, Server

from tbx.core.model.exact import plain
from tbx.core.model.instruments import Instrument
from tbx.venues.simulator.instruments import LISTINGS, simulated_instruments

# Enough over the least notional that the walk of the price does not matter, little enough that the books refill.
NOTIONAL_OVER_LEAST = Decimal("1.4")
STOCK_ORDERS = 300  # how many orders' worth is bought of each book before
PRICES = {listing.pair: Decimal(listing.price) for listing in LISTINGS}


def order_lots(instrument: Instrument) -> int:
    """Lots of one order."""
    notional = instrument.min_notional * NOTIONAL_OVER_LEAST
    return math.ceil(notional / PRICES[instrument.pair] / instrument.lot)


def order(instrument: Instrument, side: str, lots: int) -> bytes:
    quantity = plain(instrument.quantity(lots))
    return (
        f'{{"pair":"{instrument.pair}","side":"{side}","type":"market","quantity":{quantity},'
        f'"exchange":"{instrument.exchange}"}}'
    ).encode()


def request(port: int, method: str, path: str, body: bytes = b"") -> str:
    """A whole HTTP request."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {HOST}:{port}"]
    if body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", body.decode()])


def rounds_of(port: int, connections: int) -> list[list[str]]:
    """For each connection buys and sells in turn, going round all books; each begins at another book."""
    books = simulated_instruments()
    pairs = [
        [request(port, "POST", "/api/orders", order(book, side, order_lots(book))) for side in ("buy", "sell")]
        for book in books
    ]
    return [
        [text for place in range(len(books)) for text in pairs[(first + place) % len(books)]]
        for first in range(connections)
    ]


def buy_stock(server: Server) -> int:
    """Fill the stock of every book; returns the size of an answer. Raises RuntimeError where one is not filled."""
    size = 0
    for book in simulated_instruments():
        body = order(book, "buy", STOCK_ORDERS * order_lots(book))
        status, answer = server.ask("POST", "/api/orders", body, Prefer="wait=10")
        document = msgspec.json.decode(answer)
        if status != 201 or document["status"] != "filled":
            raise RuntimeError(f"the stock of {book.pair} at {book.exchange} was not bought: {status} {answer!r}")
        status, answer = server.ask("POST", "/api/orders", order(book, "buy", order_lots(book)))
        size = max(size, len(answer))
    return size


def ended_as(server: Server, limit: int = 500) -> dict[str, int]:
    """How many of the last orders have which status."""
    _, answer = server.get(f"/api/orders?limit={limit}")
    found: dict[str, int] = {}
    for row in msgspec.json.decode(answer)["orders"]:
        found[row["status"]] = found.get(row["status"], 0) + 1
    return found
