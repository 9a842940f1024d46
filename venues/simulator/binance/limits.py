"""How much an address and an account may ask for, counted in windows that are aligned to the clock.

Always true here: a window begins at a multiple of its length (a minute at :00); weight, raw requests and connections
are counted for an address, orders for an account; who goes on after a 429 is banned, longer each time.

Numbers as Binance publishes them: 6,000 weight a minute, 300,000 requests and 300 connections in 5 minutes, 100 orders
in 10 seconds and 200,000 a day. Orders count when they reach the engine and stay counted when they fill, which is
stricter than Binance (there a fill gives its order back).
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from . import errors

MINUTE_MS = 60_000
DAY_MS = 86_400_000
TEN_SECONDS_MS = 10_000
FIVE_MINUTES_MS = 300_000

# A ban follows this many 429s in one minute, lasts two minutes, and doubles for each further one.
VIOLATIONS_BEFORE_BAN = 10
BAN_FIRST_MS = 2 * MINUTE_MS
BAN_LONGEST_MS = 3 * DAY_MS


class Rates(Struct, frozen=True):
    """What is allowed; tests and load runs hand in others."""

    weight: int = 6_000
    raw_requests: int = 300_000
    connections: int = 300
    orders_10s: int = 100
    orders_day: int = 200_000


class Window(Struct):
    """A count that starts anew with each window."""

    length_ms: int
    started: int = -1  # which window it counts
    count: int = 0

    def at(self, now_ms: int) -> int:
        """The count of the window that `now_ms` lies in."""
        number = now_ms // self.length_ms
        if number != self.started:
            self.started = number
            self.count = 0
        return self.count

    def ends_ms(self, now_ms: int) -> int:
        return (now_ms // self.length_ms + 1) * self.length_ms


class Address:
    """What one IP address used."""

    __slots__ = ("banned_until_ms", "bans", "connections", "raw", "violations", "weight")

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """As if it had never asked for anything. Connections hold on to this object, so it is emptied, not replaced."""
        self.weight = Window(MINUTE_MS)
        self.raw = Window(FIVE_MINUTES_MS)
        self.connections = Window(FIVE_MINUTES_MS)
        self.violations = Window(MINUTE_MS)
        self.banned_until_ms = 0
        self.bans = 0


class Orders:
    """What one account placed."""

    __slots__ = ("day", "ten_seconds")

    def __init__(self) -> None:
        self.ten_seconds = Window(TEN_SECONDS_MS)
        self.day = Window(DAY_MS)


class Limits:
    """Counts, and refuses what is too much. Times are handed in, milliseconds since 1970."""

    def __init__(self, rates: Rates | None = None) -> None:
        self.rates = rates or Rates()
        self._addresses: dict[str, Address] = {}
        self._orders: dict[str, Orders] = {}

    def address(self, ip: str) -> Address:
        found = self._addresses.get(ip)
        if found is None:
            found = self._addresses[ip] = Address()
        return found

    def orders(self, account: str) -> Orders:
        found = self._orders.get(account)
        if found is None:
            found = self._orders[account] = Orders()
        return found

    def ban(self, ip: str, until_ms: int) -> None:
        """Answer 418 to the address until then."""
        self.address(ip).banned_until_ms = until_ms

    def lift(self, ip: str) -> None:
        """Take a ban back, and what was counted."""
        self.address(ip).forget()

    def admit(self, address: Address, weight: int, now_ms: int) -> None:
        """RateLimited unless a request of `weight` may be carried out now; counts it as a raw request.

        The weight itself is charged afterwards, because what it costs depends on how it ends.
        """
        if address.banned_until_ms > now_ms:
            raise errors.banned(now_ms, address.banned_until_ms)
        rates = self.rates
        if address.raw.at(now_ms) >= rates.raw_requests:
            retry_ms = address.raw.ends_ms(now_ms)
            raise self._violated(address, now_ms, errors.too_many_requests(now_ms, retry_ms))
        address.raw.count += 1
        if address.weight.at(now_ms) + weight > rates.weight:
            retry_ms = address.weight.ends_ms(now_ms)
            raise self._violated(address, now_ms, errors.too_much_weight(rates.weight, now_ms, retry_ms))

    def charge(self, address: Address, weight: int, now_ms: int) -> None:
        """Count the weight of a request."""
        address.weight.at(now_ms)
        address.weight.count += weight

    def connect(self, ip: str, now_ms: int, weight: int = 0) -> None:
        """RateLimited unless the address may open one more connection, which costs `weight`."""
        address = self.address(ip)
        if address.banned_until_ms > now_ms:
            raise errors.banned(now_ms, address.banned_until_ms)
        if address.connections.at(now_ms) >= self.rates.connections:
            raise errors.too_many_requests(now_ms, address.connections.ends_ms(now_ms))
        address.connections.count += 1
        self.charge(address, weight, now_ms)

    def check_orders(self, account: str, count: int, now_ms: int) -> None:
        """RateLimited (-1015) unless the account may place `count` more orders now."""
        orders, rates = self.orders(account), self.rates
        if orders.ten_seconds.at(now_ms) + count > rates.orders_10s:
            retry_ms = orders.ten_seconds.ends_ms(now_ms)
            raise errors.too_many_orders(rates.orders_10s, "10 SECOND", now_ms, retry_ms)
        if orders.day.at(now_ms) + count > rates.orders_day:
            raise errors.too_many_orders(rates.orders_day, "1 DAY", now_ms, orders.day.ends_ms(now_ms))

    def count_orders(self, account: str, count: int, now_ms: int) -> None:
        """Count orders that reached the engine."""
        orders = self.orders(account)
        orders.ten_seconds.at(now_ms)
        orders.ten_seconds.count += count
        orders.day.at(now_ms)
        orders.day.count += count

    def order_counts(self, account: str, now_ms: int) -> list[dict[str, Any]]:
        """What account.rateLimits.orders answers."""
        orders, rates = self.orders(account), self.rates
        return [
            _rate("ORDERS", "SECOND", 10, rates.orders_10s, orders.ten_seconds.at(now_ms)),
            _rate("ORDERS", "DAY", 1, rates.orders_day, orders.day.at(now_ms)),
        ]

    def document(self, websocket: bool) -> list[dict[str, Any]]:
        """`rateLimits` of exchangeInfo: REST names the raw requests, the WebSocket API the connections."""
        rates = self.rates
        last = (
            _rate("CONNECTIONS", "MINUTE", 5, rates.connections)
            if websocket
            else _rate("RAW_REQUESTS", "MINUTE", 5, rates.raw_requests)
        )
        return [
            _rate("REQUEST_WEIGHT", "MINUTE", 1, rates.weight),
            _rate("ORDERS", "SECOND", 10, rates.orders_10s),
            _rate("ORDERS", "DAY", 1, rates.orders_day),
            last,
        ]

    def encoded(self, address: Address, account: str | None, now_ms: int) -> bytes:
        """`rateLimits` of a WebSocket API answer as JSON; with the orders of `account` unless None."""
        rates = self.rates
        weight = (
            '{"rateLimitType":"REQUEST_WEIGHT","interval":"MINUTE","intervalNum":1,'
            f'"limit":{rates.weight},"count":{address.weight.at(now_ms)}}}]'
        )
        if account is None:
            return f"[{weight}".encode()
        orders = self.orders(account)
        return (
            '[{"rateLimitType":"ORDERS","interval":"SECOND","intervalNum":10,'
            f'"limit":{rates.orders_10s},"count":{orders.ten_seconds.at(now_ms)}}},'
            '{"rateLimitType":"ORDERS","interval":"DAY","intervalNum":1,'
            f'"limit":{rates.orders_day},"count":{orders.day.at(now_ms)}}},{weight}'
        ).encode()

    def _violated(self, address: Address, now_ms: int, error: errors.RateLimited) -> errors.RateLimited:
        """The error to raise for a request that is too much: a ban, once there were too many of them."""
        if address.violations.at(now_ms) < VIOLATIONS_BEFORE_BAN:
            address.violations.count += 1
            return error
        address.violations.count = 0
        address.banned_until_ms = now_ms + min(BAN_FIRST_MS << min(address.bans, 16), BAN_LONGEST_MS)
        address.bans += 1
        return errors.banned(now_ms, address.banned_until_ms)


def _rate(kind: str, interval: str, number: int, limit: int, count: int | None = None) -> dict[str, Any]:
    """One entry of a rateLimits array."""
    row: dict[str, Any] = {"rateLimitType": kind, "interval": interval, "intervalNum": number, "limit": limit}
    if count is not None:
        row["count"] = count
    return row
