"""Binance as the settings name it: what it lists, what feeds its books, and the account that takes live orders.

Always true here: what the exchange listed last is kept in the data folder, so that a start while it cannot be asked
goes on with it and says so. Where nothing was kept, there is nothing to trade, and the start ends with the reason.
"""

import asyncio
import difflib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from ..core.kernel.clock import Clock
from ..core.market.data import MarketData, StoredBook
from ..core.model.errors import Nonsense, SettingsError, VenueError
from ..core.model.instruments import Instrument
from ..core.settings import Settings
from ..venues.binance.client import BinanceVenue
from ..venues.binance.endpoints import Endpoints, resolve
from ..venues.binance.instruments import Listing, read_exchange_info
from ..venues.binance.market import BinanceMarket, fetch_exchange_info
from ..venues.binance.signing import Ed25519Signer, HmacSigner, Signer, load_ed25519
from ..venues.client import VenueStatus
from ..venues.limits import ConnectBudget, binance_budgets
from ..venues.picows_link import picows_connect
from ..venues.rest import Rest
from .exchanges import Core, Exchanges, LiveVenue, MarketSource, Simulated, Trouble

DEPTH_MAX_LIVE = 5_000  # levels held a side
KEPT_FILE = "binance-exchange-info.json"
NEAR_MAX = 3  # names offered for one that is not listed
FETCH_TIMEOUT_S = 15.0


async def find_exchanges(settings: Settings, clock: Clock, trouble: Trouble) -> Exchanges:
    """What MARKET names. Raises SettingsError where that is nothing that can be traded."""
    if not settings.market.live:
        return Simulated(settings)
    found = Binance(settings, clock)
    await found.load(trouble)
    return found


class Binance:
    """One exchange, its budgets, and the account where orders are live."""

    depth_max = DEPTH_MAX_LIVE

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self.settings = settings
        self.clock = clock
        self.endpoints = endpoints_of(settings)
        self.signer = signer_of(settings) if settings.live else None
        self.shown = f"binance at {urlsplit(self.endpoints.stream).hostname}"
        self.account = f"binance at {urlsplit(self.endpoints.ws_api).hostname}" if settings.live else ""
        self.budgets = binance_budgets()
        self.connects = ConnectBudget()
        self.rest = Rest(clock, self.endpoints.rest, self.budgets)
        self.connect = picows_connect(asyncio.get_running_loop())
        self.listing = Listing()
        self.instruments: Sequence[Instrument] = ()
        self.warnings: Sequence[str] = ()
        self.market: BinanceMarket | None = None

    async def load(self, trouble: Trouble) -> None:
        """Ask what is listed, and choose the pairs. Raises SettingsError."""
        kept = self.settings.data_dir / KEPT_FILE
        try:
            raw = await asyncio.wait_for(fetch_exchange_info(self.rest), FETCH_TIMEOUT_S)
            listing = read_exchange_info(raw)
        except (VenueError, TimeoutError) as error:
            raw, listing = kept_listing(kept, str(error) or "no answer in time")
            trouble(f"binance: {error}; starting with what it listed before ({kept.name})")
        else:
            keep(kept, raw)
        self.listing = listing
        self.instruments, self.warnings = choose(listing, self.settings)

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
        )
        return self.market

    def live_venues(self, core: Core, /) -> list[LiveVenue]:
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
            budgets=self.budgets,
            connects=self.connects,
        )
        return [venue]

    async def close(self) -> None:
        await self.rest.aclose()

    def market_status(self) -> Mapping[str, VenueStatus]:
        return {"binance": self.market.status()} if self.market is not None else {}


def os_jitter() -> float:
    """0..1, different in every process: many that lost the same exchange must not come back at one moment."""
    return int.from_bytes(os.urandom(4)) / 2**32


def endpoints_of(settings: Settings) -> Endpoints:
    """Where the settings say that Binance is; the hosts without keys where no order is live."""
    return resolve(
        settings.binance_env,
        settings.binance_rest_url,
        settings.binance_ws_api_url,
        settings.binance_stream_url,
        public=not settings.live,
    )


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
    unknown = [pair for pair in wanted if pair not in listed]
    warnings = [warning for warning in listing.warnings if any(i.symbol in warning for i in _of(listed, wanted))]
    if unknown and settings.was_given("BINANCE_PAIRS"):
        raise SettingsError([_not_listed(pair, listed) for pair in unknown])
    warnings += [_not_listed(pair, listed) for pair in unknown]
    chosen = _of(listed, wanted)
    if not chosen:
        raise SettingsError(f"Binance lists none of BINANCE_PAIRS; it lists: {_few(listed)}")
    return chosen, warnings


def _of(listed: Mapping[str, Instrument], wanted: Iterable[str]) -> list[Instrument]:
    return [listed[pair] for pair in wanted if pair in listed]


def _not_listed(pair: str, listed: Mapping[str, Instrument]) -> str:
    near = difflib.get_close_matches(pair, listed, n=NEAR_MAX)
    hint = f"did you mean {' or '.join(near)}?" if near else f"it lists: {_few(listed)}"
    return f"BINANCE_PAIRS: Binance does not list {pair}; {hint}"


def _few(listed: Iterable[str]) -> str:
    names = sorted(listed)
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def keep(file: Path, raw: bytes) -> None:
    """Replace what was kept, whole or not at all; without it only the next start is poorer."""
    new = file.with_suffix(".new")
    try:
        new.write_bytes(raw)
        os.replace(new, file)
    except OSError:
        new.unlink(missing_ok=True)


def kept_listing(file: Path, why: str) -> tuple[bytes, Listing]:
    """What was listed before. Raises SettingsError where that is not there either."""
    mend = "is the network there, and are BINANCE_ENV or BINANCE_REST_URL right?"
    try:
        raw = file.read_bytes()
        return raw, read_exchange_info(raw)
    except FileNotFoundError:
        raise SettingsError(f"MARKET=binance: {why}; {mend}") from None
    except (OSError, Nonsense, msgspec.DecodeError) as error:
        raise SettingsError(f"MARKET=binance: {why}; {mend} And {file} cannot be used: {error}") from None
