"""Exact balances and reservations, by wallet and currency.

Always true here: `total` changes only by `flow` (or `deposit`) and `settle`, `locked` only by `reserve`; `flows` is the
sum of all flows, so `total - flows` is what fills and their fees have moved, however long ago. Nothing is ever rounded.
A balance that was touched is in the outbox.
"""

from collections.abc import Iterable, Iterator
from decimal import Decimal

from ..kernel.outbox import Outbox
from ..model.exact import ZERO, plain
from ..model.records import Balance, Order

Account = tuple[str, str]  # wallet, currency


class Overdrawn(RuntimeError):
    """More was asked of a balance than it holds: the caller did not look first. Nothing was changed."""


class Ledger:
    """All balances, paper and live side by side; the wallet's name keeps them apart."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._balances: dict[Account, Balance] = {}
        # Accounts whose total changed since the valuation last looked; it clears them.
        self.changed: dict[Account, Balance] = {}

    def __iter__(self) -> Iterator[Balance]:
        return iter(self._balances.values())

    def __len__(self) -> int:
        return len(self._balances)

    def find(self, wallet: str, currency: str) -> Balance | None:
        return self._balances.get((wallet, currency))

    def total(self, wallet: str, currency: str) -> Decimal:
        balance = self._balances.get((wallet, currency))
        return balance.total if balance is not None else ZERO

    def available(self, wallet: str, currency: str) -> Decimal:
        """What is neither spent nor set aside; negative only after a venue took more than was set aside."""
        balance = self._balances.get((wallet, currency))
        return balance.total - balance.locked if balance is not None else ZERO

    def deposit(self, wallet: str, currency: str, amount: Decimal) -> None:
        """Money that comes in from outside, or with a minus goes out; raises Overdrawn."""
        if amount < 0:
            self.check_withdrawal(wallet, currency, -amount)
        self.flow(wallet, currency, amount)

    def flow(self, wallet: str, currency: str, amount: Decimal) -> None:
        """Book money that came in from outside, or with a minus went out: it has happened, so it is never refused."""
        self.settle(wallet, currency, amount)
        if amount:
            self._balances[wallet, currency].flows += amount

    def check_withdrawal(self, wallet: str, currency: str, amount: Decimal) -> None:
        """Raises Overdrawn where less than the amount is available."""
        there = self.available(wallet, currency)
        if amount > there:
            raise Overdrawn(f"cannot withdraw {plain(amount)} {currency} from {wallet}: {plain(there)} is available")

    def reserve(self, wallet: str, currency: str, change: Decimal) -> None:
        """Set aside (positive) or free (negative); the caller has checked `available`. Raises Overdrawn."""
        if not change:
            return
        balance = self._balances.get((wallet, currency))
        if balance is None:
            balance = self._open(wallet, currency, change)
        locked = balance.locked + change
        if locked < 0:
            raise Overdrawn(f"cannot free {plain(-change)} {currency} of {wallet}: {plain(balance.locked)} is reserved")
        if change > 0 and locked > balance.total:
            raise Overdrawn(
                f"cannot reserve {plain(change)} {currency} of {wallet}: {plain(balance.available)} is available"
            )
        balance.locked = locked
        self._outbox.put("balances", f"{wallet}:{currency}", balance)

    def _open(self, wallet: str, currency: str, change: Decimal) -> Balance:
        if change > 0:
            raise Overdrawn(f"cannot reserve {plain(change)} {currency} of {wallet}: it holds none")
        raise Overdrawn(f"cannot free {plain(-change)} {currency} of {wallet}: nothing is reserved")

    def settle(self, wallet: str, currency: str, delta: Decimal) -> None:
        """Book what a trade or a fee moved.

        It has happened, so it is never refused: a venue that took more than was available leaves a negative
        balance, which is shown as it is.
        """
        if not delta:
            return
        account = (wallet, currency)
        balance = self._balances.get(account)
        if balance is None:
            balance = self._balances[account] = Balance(wallet=wallet, currency=currency)
        balance.total += delta
        self.changed[account] = balance
        self._outbox.put("balances", f"{wallet}:{currency}", balance)

    def restore(self, balances: Iterable[Balance], reserved: Iterable[tuple[str, str, Decimal]]) -> None:
        """Totals from the records, `locked` from `reservations()` of the open orders."""
        for balance in balances:
            balance.locked = ZERO
            self._balances[balance.wallet, balance.currency] = balance
            self.changed[balance.wallet, balance.currency] = balance
        for wallet, currency, amount in reserved:
            held = self._balances.get((wallet, currency))
            if held is None:
                held = self._balances[wallet, currency] = Balance(wallet=wallet, currency=currency)
            held.locked += amount


def reservations(orders: Iterable[Order]) -> Iterator[tuple[str, str, Decimal]]:
    """(wallet, currency, amount) of every order that has funds set aside: quote for a buy, base for a sell."""
    for order in orders:
        if order.reserved:
            yield order.wallet, order.quote if order.side == "buy" else order.base, order.reserved
