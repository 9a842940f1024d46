"""Binance as the settings name it: what it lists, what feeds its books, and the account that takes live orders.

Always true here: what the exchange listed last is kept in the data folder, so that a start while it cannot be asked
goes on with it and says so. Where nothing was kept, there is nothing to trade, and the start ends with the reason. All
that is counted against the exchange's limits is counted by one estimate of its clock.
"""

import asyncio
import difflib
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from ..core.kernel.clock import MS_NS, Clock
from ..core.market.data import MarketData, StoredBook
from ..core.model.errors import Nonsense, SettingsError, VenueError
from ..core.model.instruments import Instrument
from ..core.settings import Settings
from ..venues.binance.client import BinanceVenue
from ..venues.binance.endpoints import of_settings
from ..venues.binance.instruments import Listing, read_exchange_info
from ..venues.binance.market import BinanceMarket, fetch_exchange_info
from ..venues.binance.scripts import ServerClock
from ..venues.binance.signing import Ed25519Signer, HmacSigner, Signer, load_ed25519
from ..venues.client import VenueStatus
from ..venues.limits import ConnectBudget, binance_budgets
from ..venues.picows_link import picows_connect
from ..venues.rest import Rest
from .exchanges import Core, Exchanges, LiveVenue, MarketSource, Trouble

DEPTH_MAX_LIVE = 5_000  # levels held a side
KEPT_FILE = "binance-exchange-info-{host}.json"  # of one REST host: what another one lists is another market
NEAR_MAX = 3  # names offered for one that is not listed
FETCH_TIMEOUT_S = 15.0
DEFAULT_PORTS = {"ws": 80, "http": 80, "wss": 443, "https": 443}


async def connected(settings: Settings, clock: Clock, trouble: Trouble) -> Exchanges:
    """The exchange that MARKET names. Raises SettingsError where that is nothing that can be traded."""
    found = Binance(settings, clock, trouble)
    await found.load()
    return found


class Binance:
    """One exchange, its budgets, and the account where orders are live."""

    depth_max = DEPTH_MAX_LIVE

    def __init__(self, settings: Settings, clock: Clock, trouble: Trouble) -> None:
        self.settings = settings
        self.clock = clock
        self.trouble = trouble
        self.endpoints = of_settings(settings, public=not settings.live)
        self.signer = signer_of(settings) if settings.live else None
        self.shown = f"binance at {urlsplit(self.endpoints.stream).hostname}"
        self.account = f"binance at {host_of(self.endpoints.ws_api)}" if settings.live else ""
        self.budgets = binance_budgets()
        self.connects = ConnectBudget()
        self.server = ServerClock(clock)  # the order side's once there is one
        self.rest = Rest(clock, self.endpoints.rest, self.budgets, on_trouble=trouble, now_ns=self.now_ns)
        self.connect = picows_connect(asyncio.get_running_loop())
        self.instruments: Sequence[Instrument] = ()
        self.warnings: Sequence[str] = ()
        self.market: BinanceMarket | None = None
        self.set_trading: Callable[[str, str, bool], None] | None = None  # the core's

    def now_ns(self) -> int:
        """The exchange's time."""
        return self.server.now_ns()

    async def load(self) -> None:
        """Ask what is listed, and choose the pairs. Raises SettingsError."""
        kept = self.settings.data_dir / kept_name(self.endpoints.rest)
        raw = None
        asked_ns = self.clock.now_ns()
        try:
            raw = await asyncio.wait_for(fetch_exchange_info(self.rest), FETCH_TIMEOUT_S)
            answered_ns = self.clock.now_ns()
            listing = read_exchange_info(raw)
        except (VenueError, TimeoutError) as error:
            raw, listing = None, kept_listing(kept, str(error) or "no answer in time")
            self.trouble(f"binance: {error}; starting with what it listed before ({kept.name})")
        else:
            if listing.server_time_ms:  # the order side will measure it better
                self.server.offset_ns = listing.server_time_ms * MS_NS - (asked_ns + answered_ns) // 2
        for limit in listing.limits:
            self.budgets.allow(limit.rate_limit_type, limit.interval_ns, limit.limit)
        self.instruments, self.warnings = choose(listing, self.settings)
        if raw is not None:
            keep(kept, raw)

    def source(self, clock: Clock, market: MarketData, _: Iterable[StoredBook], trouble: Trouble) -> MarketSource:
        self.market = BinanceMarket(
            clock,
            market,
            self.instruments,
            self.endpoints,
            connect=self.connect,
            get=self.rest.get,
            jitter=os_jitter,
            on_trouble=trouble,
            budgets=self.budgets,
            connects=self.connects,
            now_ns=self.now_ns,
            on_trading=self._traded,
        )
        return self.market

    def _traded(self, pair: str, trading: bool) -> None:
        if self.set_trading is not None:
            self.set_trading("binance", pair, trading)

    def live_venues(self, core: Core, /) -> list[LiveVenue]:
        self.set_trading = core.set_trading
        if self.signer is None:
            return []
        venue = BinanceVenue(
            core.kernel,
            self.clock,
            self.connect,
            self.endpoints.ws_api,
            self.signer,
            self.instruments,
            ours=lambda client_id: core.ids.order_of(client_id) is not None,
            jitter=core.jitter,
            on_trouble=core.trouble,
            on_fees=lambda pair, fees: core.set_fees("binance", pair, fees.maker, fees.taker),
            account_id=core.account_id,
            budgets=self.budgets,
            connects=self.connects,
        )
        server = venue.connection.server
        server.offset_ns, self.server = self.server.offset_ns, server
        return [venue]

    async def close(self) -> None:
        await self.rest.aclose()

    def market_status(self) -> Mapping[str, VenueStatus]:
        return {"binance": self.market.status()} if self.market is not None else {}


def os_jitter() -> float:
    """0..1, different in every process: many that lost the same exchange must not come back at one moment."""
    return int.from_bytes(os.urandom(4)) / 2**32


def signer_of(settings: Settings) -> Signer:
    """How requests of the account are signed. Raises SettingsError for a key file that cannot be used."""
    keys = settings.venue_keys("binance")
    if keys is None:
        raise SettingsError("live orders at Binance need BINANCE_API_KEY and what signs with it")
    if keys.private_key_file is not None:
        return Ed25519Signer(keys.api_key.reveal(), load_ed25519(keys.private_key_file))
    assert keys.api_secret is not None, "settings have one or the other"
    return HmacSigner(keys.api_key.reveal(), keys.api_secret.reveal())


def choose(listing: Listing, settings: Settings) -> tuple[list[Instrument], list[str]]:
    """The instruments that are traded here, and what was left out. Raises SettingsError."""
    listed = {instrument.pair: instrument for instrument in listing.instruments}
    wanted = settings.binance_pairs or tuple(listed)
    chosen = [listed[pair] for pair in wanted if pair in listed]
    missing = [_not_there(pair, listed, listing.left_out) for pair in wanted if pair not in listed]
    if missing and settings.was_given("BINANCE_PAIRS"):
        raise SettingsError(missing)
    if not chosen:
        raise SettingsError(f"Binance lists none of BINANCE_PAIRS; it lists: {_few(listed) or 'nothing'}")
    noted = [note for pair in ("", *(i.pair for i in chosen)) for note in listing.notes.get(pair, ())]
    if not settings.binance_pairs and listing.left_out:
        pair, why = next(iter(listing.left_out.items()))
        missing.append(f"{len(listing.left_out)} pairs of Binance cannot be traded here, such as {pair}: {why}")
    return chosen, [*noted, *missing]


def _not_there(pair: str, listed: Mapping[str, Instrument], left_out: Mapping[str, str]) -> str:
    if pair in left_out:
        return f"BINANCE_PAIRS: Binance lists {pair}, but it cannot be traded here: {left_out[pair]}"
    near = difflib.get_close_matches(pair, listed, n=NEAR_MAX)
    hint = f"did you mean {' or '.join(near)}?" if near else f"it lists: {_few(listed) or 'nothing'}"
    return f"BINANCE_PAIRS: Binance does not list {pair}; {hint}"


def _few(listed: Iterable[str]) -> str:
    names = sorted(listed)
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def host_of(url: str) -> str:
    """host:port of an address, without the port that its scheme means anyway."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    usual = parts.port is None or parts.port == DEFAULT_PORTS.get(parts.scheme)
    return host if usual else f"{host}:{parts.port}"


def kept_name(rest: str) -> str:
    """The file name for what a REST host lists."""
    return KEPT_FILE.format(host=re.sub(r"[^A-Za-z0-9.-]", "_", host_of(rest)))


def keep(file: Path, raw: bytes) -> None:
    """Replace what was kept, whole or not at all; without it only the next start is poorer."""
    new = file.with_suffix(".new")
    try:
        new.write_bytes(raw)
        os.replace(new, file)
    except OSError:
        new.unlink(missing_ok=True)


def kept_listing(file: Path, why: str) -> Listing:
    """What was listed before. Raises SettingsError where that is not there either."""
    mend = "is the network there, and are BINANCE_ENV or BINANCE_REST_URL right?"
    try:
        return read_exchange_info(file.read_bytes())
    except FileNotFoundError:
        raise SettingsError(f"MARKET=binance: {why}; {mend}") from None
    except (OSError, Nonsense, msgspec.DecodeError) as error:
        raise SettingsError(f"MARKET=binance: {why}; {mend} And {file} cannot be used: {error}") from None
