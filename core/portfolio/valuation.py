"""What all balances are worth in base currency.

Always true here, once `follow()` has run: equity of a side (paper or live) is the sum over its balances of total x
rate, each rounded to 18 decimals, so that adding the differences gives exactly what adding everything anew would
give. A balance without a price counts nothing and is listed by `unpriced()`.
"""

from collections.abc import Iterable, Iterator
from decimal import ROUND_HALF_EVEN, Decimal

from ..model.exact import ZERO
from .ledger import Account, Ledger
from .rates import Rate, Rates

EIGHTEEN = Decimal("1E-18")
PAPER = "paper."


def is_paper(wallet: str) -> bool:
    return wallet.startswith(PAPER)


def exchange_of(wallet: str) -> str:
    """The exchange whose prices value the wallet."""
    return wallet.removeprefix(PAPER)


def worth(amount: Decimal, rate: Decimal | None) -> Decimal:
    """amount x rate on the grid of 18 decimals; nothing without a rate."""
    return (amount * rate).quantize(EIGHTEEN, ROUND_HALF_EVEN) if rate is not None else ZERO


class Holding:
    """A balance as it was last valued."""

    __slots__ = ("account", "amount", "paper", "rate", "value")

    def __init__(self, account: Account, rate: Rate) -> None:
        self.account = account
        self.paper = is_paper(account[0])
        self.rate = rate
        self.amount = ZERO
        self.value = ZERO


class Valuation:
    """Equity, kept up to date balance by balance and rate by rate."""

    def __init__(self, ledger: Ledger, rates: Rates) -> None:
        self._ledger = ledger
        self._rates = rates
        self._holdings: dict[Account, Holding] = {}
        self._by_rate: dict[Rate, list[Holding]] = {}
        self.equity = {True: ZERO, False: ZERO}  # by paper
        self._unpriced: dict[bool, set[Holding]] = {True: set(), False: set()}  # by paper

    def follow(self) -> None:
        """Take over the balances that changed."""
        changed, holdings = self._ledger.changed, self._holdings
        for account, balance in changed.items():
            holding = holdings.get(account) or self._add(account)
            holding.amount = balance.total
            self._revalue(holding)
        changed.clear()

    def _add(self, account: Account) -> Holding:
        rate = self._rates.rate(exchange_of(account[0]), account[1])
        holding = self._holdings[account] = Holding(account, rate)
        self._by_rate.setdefault(rate, []).append(holding)
        return holding

    def revalue(self, rates: Iterable[Rate]) -> None:
        """Take over rates that changed."""
        for rate in rates:
            for holding in self._by_rate.get(rate, ()):
                self._revalue(holding)

    def _revalue(self, holding: Holding) -> None:
        rate = holding.rate.value
        value = (holding.amount * rate).quantize(EIGHTEEN, ROUND_HALF_EVEN) if rate is not None else ZERO
        if rate is None and holding.amount:
            self._unpriced[holding.paper].add(holding)
        elif self._unpriced[holding.paper]:
            self._unpriced[holding.paper].discard(holding)
        self.equity[holding.paper] += value - holding.value
        holding.value = value

    def recompute(self) -> None:
        """Add everything up from the ledger; the running sums must already be equal."""
        self.follow()
        equity = {True: ZERO, False: ZERO}
        for holding in self._holdings.values():
            equity[holding.paper] += worth(self._ledger.total(*holding.account), holding.rate.value)
        assert equity == self.equity, f"the running equity {self.equity} is not the sum of the balances {equity}"

    def unpriced(self, paper: bool) -> Iterator[Holding]:
        """The balances without a price, in the order in which they came."""
        unpriced = self._unpriced[paper]
        return (holding for holding in self._holdings.values() if holding in unpriced) if unpriced else iter(())

    def complete(self, paper: bool) -> bool:
        """Whether every balance that has a market is priced; right after a start the prices are still on their way."""
        return not any(holding.rate.paths for holding in self._unpriced[paper])
