"""Which currencies move together: a table to start with, then what their prices have done.

Always true here: every currency is in exactly one group, and a group holds at least that currency; the base currency is
in none, nor are stable coins where the base currency is one of them: holding them is exposed to nothing.

The table is small on purpose. Nearly every coin follows Bitcoin on most days, so a table of everything that does would
be one group, and a limit on it a limit on the whole portfolio. It names what is the same thing in another wrapping, or
is bought and sold for the same reason; a currency that it does not name stands alone until its returns say otherwise.
"""

from collections.abc import Iterable, Mapping
from types import MappingProxyType

DOLLARS = frozenset(
    ("USD", "USDT", "USDC", "BUSD", "DAI", "TUSD", "USDP", "FDUSD", "PYUSD", "USDD", "GUSD", "FRAX", "USDE", "USD1")
)
TABLE: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "majors": frozenset(("BTC", "WBTC", "BTCB", "BCH", "LTC", "ETH", "WETH", "STETH", "WSTETH", "WBETH", "ETC")),
        "platforms": frozenset(("SOL", "AVAX", "ADA", "DOT", "NEAR", "ATOM", "SUI", "APT", "ALGO", "TIA", "SEI")),
        "layer2": frozenset(("ARB", "OP", "MATIC", "POL", "STRK", "ZK", "MNT", "IMX", "LRC")),
        "defi": frozenset(("UNI", "AAVE", "MKR", "COMP", "CRV", "SUSHI", "LDO", "SNX", "YFI", "1INCH", "CAKE")),
        "memes": frozenset(("DOGE", "SHIB", "PEPE", "FLOKI", "BONK", "WIF", "MEME", "BOME")),
        "mined": frozenset(("RVN", "ERG", "KAS", "FLUX", "XNA", "CLORE", "NEOX", "BEL", "FIRO", "DGB")),
        "private": frozenset(("XMR", "ZEC", "DASH", "ZEN", "SCRT", "ARRR", "PIVX")),
        "venues": frozenset(("BNB", "OKB", "CRO", "LEO", "KCS", "GT", "HT", "BGB")),
    }
)


class Groups:
    """The groups as they are now; `version` rises with every change of them."""

    def __init__(self, base_currency: str) -> None:
        self.version = 0
        self._without = DOLLARS | {base_currency} if base_currency in DOLLARS else frozenset((base_currency,))
        self._start: dict[str, str] = {}  # currency -> the group that it is in before its returns tell
        self._groups: dict[str, frozenset[str]] = {}
        table = TABLE if base_currency in DOLLARS else {"dollars": DOLLARS, **TABLE}
        for name, currencies in table.items():
            group = currencies - self._without
            self._start.update(dict.fromkeys(group, name))
            self._groups.update(dict.fromkeys(group, group))

    def exposed(self, currency: str) -> bool:
        """Whether holding it is exposed to anything."""
        return currency not in self._without

    def of(self, currency: str) -> frozenset[str]:
        """What moves together with a currency, itself included; empty where it is exposed to nothing."""
        group = self._groups.get(currency)
        if group is None and currency not in self._without:
            group = self._groups[currency] = frozenset((currency,))
        return group or frozenset()

    def start_of(self, currency: str) -> str:
        """Name of the group that it is in before its returns tell: two of the same name are taken to move together."""
        return self._start.get(currency, currency)

    def name(self, group: frozenset[str]) -> str:
        """For people: the table's name where all are of one of its groups, else the first currencies."""
        names = {self._start.get(currency) for currency in group}
        known = names.pop() if len(names) == 1 else None
        if known is not None and known in TABLE:
            return known
        first = sorted(group)
        return "+".join(first[:3]) + (f"+{len(first) - 3}" if len(first) > 3 else "")

    def update(self, groups: Iterable[frozenset[str]]) -> None:
        """Take groups that were found, disjoint; a currency in none of them stays where it is among those left."""
        found = {currency: group for group in groups for currency in group}
        rest = {}
        for currency, group in self._groups.items():
            if currency not in found:
                rest[currency] = frozenset(other for other in group if other not in found)
        found |= rest
        # As sets of groups: one by one a group of a thousand would be compared a thousand times.
        if set(found.values()) != set(self._groups.values()):
            self._groups = found
            self.version += 1

    def restore(self, groups: Iterable[Iterable[str]]) -> None:
        """Groups that an earlier process had found stand in place of the table until the returns tell again."""
        kept = [frozenset(currency for currency in group if self.exposed(currency)) for group in groups]
        for group in kept:
            self._start.update(dict.fromkeys(group, min(group, default="")))
        self.update(group for group in kept if group)
