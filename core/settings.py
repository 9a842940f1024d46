"""Every setting of the service: one table of environment variables, read once at start, all problems told at once.

A value comes from the environment, else from the file `.env` in the working directory, else from the table below; an
empty value counts as not set. The result is typed and frozen, money and ratios are `Decimal`, times are integer
nanoseconds, paths are absolute. No secret is ever part of a `str`, a `repr`, a warning or an error.
"""

import difflib
import os
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Literal, cast

from msgspec import Struct

from .envfile import NAME as ENV_FILE
from .envfile import read_env_file
from .model.errors import SettingsError
from .setting_values import (
    AUTO,
    AUTO_RISK_URL,
    LIVE_MARKETS,
    LIVE_VENUES,
    MASK,
    ApiKey,
    Market,
    Parser,
    Secret,
    VenueKeys,
    api_keys,
    balance,
    choice,
    factor,
    flag,
    host,
    hosts,
    is_loopback,
    level,
    market,
    matching,
    milliseconds,
    origins,
    pairs,
    path,
    percent,
    rate_limit,
    ratio,
    redis_url,
    risk_url,
    secret,
    service_url,
    strategies,
    three_way,
    venue_url,
    whole,
)

RATE_LIMIT_WITH_KEYS = 100  # requests a second for each key, where RATE_LIMIT=auto and API_KEYS are set

SourceName = Literal["default", ".env", "environment"]


class Given(Struct, frozen=True):
    """What one setting was given, as `tbx config` shows it."""

    name: str
    shown: str  # masked if secret
    source: SourceName


class Settings(Struct, frozen=True, kw_only=True):
    """The settings of one process. The comment of each field is in TABLE."""

    host: str
    port: int
    node_env: Literal["development", "production", "test"]
    node_id: str
    data_dir: Path
    allowed_hosts: tuple[str, ...]
    allowed_origins: tuple[str, ...]
    api_keys: tuple[ApiKey, ...]
    rate_limit_per_second: int
    paper_trading: bool
    live_trading: bool
    market: Market
    market_seed: int
    paper_latency_ns: int
    xeggex_api_key: Secret | None
    xeggex_api_secret: Secret | None
    binance_api_key: Secret | None
    binance_api_secret: Secret | None
    binance_private_key_file: Path | None
    binance_env: Literal["live", "testnet", "demo"]
    binance_rest_url: str | None
    binance_ws_api_url: str | None
    binance_stream_url: str | None
    binance_pairs: tuple[str, ...]  # () for all
    core_service_url: str | None
    risk_service_url: str | None  # or "auto": `risk_url` is what is asked, `risk_relied_on` whether from the start
    ml_service_url: str | None
    backtest_service_url: str | None
    dashboard_service_url: str | None
    dashboard_push: bool
    risk_oversize: Literal["cut", "refuse"]
    default_order_timeout_ns: int
    max_slippage_percent: Decimal
    default_time_in_force: Literal["GTC", "IOC", "FOK"]
    max_orders_kept: int
    max_trades_kept: int
    enable_risk_checks: bool
    max_position_size: Decimal
    max_daily_loss: Decimal
    max_drawdown: Decimal
    max_risk_per_trade: Decimal
    max_daily_risk: Decimal
    max_correlated_exposure: Decimal
    order_rate_limit: int  # orders a second of one strategy; 0: none
    price_collar_percent: Decimal
    stop_loss_enabled: bool
    stop_loss_percent: Decimal
    kelly_fraction: Decimal
    target_volatility: Decimal
    volatility_floor: Decimal
    volatility_cap: Decimal
    signal_max_age_ns: int
    strategies: tuple[str, ...]
    strategy_time_limit_ns: int
    stream_commands: bool | None  # None: on paper only
    trading_loop: bool
    trading_loop_interval_ns: int
    trading_loop_threshold: Decimal
    trading_loop_technical_weight: Decimal
    initial_balance: Decimal
    base_currency: str
    position_update_interval_ns: int
    durability: Literal["ahead", "behind"]
    appendfsync: Literal["everysec", "always", "no"]
    redis_url: Secret | None
    standby: bool
    log_level: Literal["debug", "info", "warn", "error"]
    log_format: Literal["text", "json"]
    log_dir: Path
    execution_log_file: Path
    trade_log_file: Path
    given: tuple[Given, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def live(self) -> bool:
        """Whether orders may reach a real account."""
        return self.live_trading and not self.paper_trading

    @property
    def risk_url(self) -> str | None:
        """Where the risk service is asked; None: nowhere."""
        return AUTO_RISK_URL if self.risk_service_url == AUTO else self.risk_service_url

    @property
    def risk_relied_on(self) -> bool:
        """Whether orders are cut by half while the risk service does not answer, though it never has."""
        return self.risk_service_url not in (None, AUTO)

    @property
    def streams(self) -> bool:
        """Whether commands are read from Redis Streams."""
        return not self.live if self.stream_commands is None else self.stream_commands

    @property
    def loopback(self) -> bool:
        """Whether only this machine can connect."""
        return is_loopback(self.host)

    def venue_keys(self, exchange: str) -> VenueKeys | None:
        """The credentials for an exchange of LIVE_VENUES, None where they are not set."""
        key, secret = getattr(self, f"{exchange}_api_key"), getattr(self, f"{exchange}_api_secret")
        file = getattr(self, f"{exchange}_private_key_file", None)
        return VenueKeys(key, secret, file) if key is not None and (secret or file) is not None else None

    def was_given(self, name: str) -> bool:
        """Whether a setting stands in the environment or in .env."""
        return any(row.name == name and row.source != "default" for row in self.given)


# --- the table --------------------------------------------------------------------------------------------------


class Setting(Struct, frozen=True):
    """A row: the variable, the text it has when it is not set, how it is read, and what it means."""

    name: str
    default: str  # read like any other value; "" where there is none
    parse: Parser
    doc: str
    secret: bool = False
    field: str = ""  # the attribute of Settings; the name in lower case, unless it needs a unit


# fmt: off
TABLE: tuple[tuple[str, tuple[Setting, ...]], ...] = (
    ("Service", (
        Setting("HOST", "127.0.0.1", host,
                "Address to listen on; any other than this machine's own needs API_KEYS."),
        Setting("PORT", "3004", whole(0, 65_535, "a port"),
                "Port to listen on; 0 takes any free one."),
        Setting("NODE_ENV", "development", choice("development", "production", "test"),
                "development, production or test; stands in the log at every start."),
        Setting("NODE_ID", "main", matching(r"[a-z0-9]{1,12}", "1 to 12 lower-case letters or digits"),
                "Name of this node in Redis keys and venue order ids; two services on one Redis need two."),
        Setting("DATA_DIR", "./data", path,
                "Folder of the embedded Redis and of the archive."),
        Setting("ALLOWED_HOSTS", "localhost,127.0.0.1,[::1]", hosts,
                "Host headers that are answered (HOST always is), separated by commas; stops DNS rebinding."),
        Setting("ALLOWED_ORIGINS", "http://localhost:3005,http://127.0.0.1:3005", origins,
                "Web pages that may call the API (here: the dashboard), separated by commas, or none."),
        Setting("API_KEYS", "", api_keys,
                "Who may call: name:sha256:scopes for each, separated by ; - `tbx key NAME` makes one. "
                "Empty: no authentication.", secret=True),
        Setting("RATE_LIMIT", "auto", rate_limit,
                "Requests a second for each key, 0 for no limit; "
                f"auto is {RATE_LIMIT_WITH_KEYS} with API_KEYS and 0 without.", field="rate_limit_per_second"),
    )),
    ("Trading mode", (
        Setting("PAPER_TRADING", "true", flag,
                "Every order is paper; nothing reaches an exchange."),
        Setting("LIVE_TRADING", "false", flag,
                "Live orders, where PAPER_TRADING=false too; needs venue keys and API_KEYS."),
        Setting("MARKET", "simulated", market,
                "Where prices come from: simulated, binance (live, without a key), or replay:FILE (a capture)."),
        Setting("MARKET_SEED", "1", whole(0, 2**63 - 1, "a seed"),
                "Seed of the simulated market; same seed, same market."),
        Setting("PAPER_LATENCY_MS", "5", milliseconds(0, 60_000),
                "Milliseconds from sending a paper order to its arrival at the book.", field="paper_latency_ns"),
    )),
    ("Exchange credentials", (
        Setting("XEGGEX_API_KEY", "", secret, "API key of the Xeggex account.", secret=True),
        Setting("XEGGEX_API_SECRET", "", secret, "API secret of the Xeggex account.", secret=True),
        Setting("BINANCE_API_KEY", "", secret, "API key of the Binance account.", secret=True),
        Setting("BINANCE_API_SECRET", "", secret, "API secret of the Binance account, for an HMAC key.", secret=True),
        Setting("BINANCE_PRIVATE_KEY_FILE", "", path,
                "PEM file of the Ed25519 key of the account, instead of a secret; faster: no signature an order."),
    )),
    ("Binance", (
        Setting("BINANCE_ENV", "live", choice("live", "testnet", "demo"),
                "Which Binance: live, testnet or demo; each needs keys of its own."),
        Setting("BINANCE_PAIRS", "BTC_USDT,ETH_USDT,BNB_USDT,SOL_USDT,XRP_USDT,DOGE_USDT,RVN_USDT", pairs,
                "Pairs that are followed and traded, separated by commas, or all."),
        Setting("BINANCE_REST_URL", "", venue_url("https", "http"),
                "REST endpoint instead of BINANCE_ENV's, such as a local exchange's http://127.0.0.1:9443."),
        Setting("BINANCE_WS_API_URL", "", venue_url("wss", "ws"),
                "WebSocket API endpoint, such as ws://127.0.0.1:9443/ws-api/v3."),
        Setting("BINANCE_STREAM_URL", "", venue_url("wss", "ws"),
                "Market stream endpoint, such as ws://127.0.0.1:9443."),
    )),
    ("Service URLs", (
        Setting("CORE_SERVICE_URL", "http://localhost:3000", service_url, "The core service, or none."),
        Setting("RISK_SERVICE_URL", "auto", risk_url,
                "The risk service, or none. While it does not answer, entries are halved; auto is "
                f"{AUTO_RISK_URL}, and halves nothing before a risk service has answered there."),
        Setting("ML_SERVICE_URL", "http://localhost:3001", service_url, "The prediction service, or none."),
        Setting("BACKTEST_SERVICE_URL", "http://localhost:3002", service_url, "The backtest service, or none."),
        Setting("DASHBOARD_SERVICE_URL", "http://localhost:3005", service_url, "The dashboard, or none."),
        Setting("DASHBOARD_PUSH", "false", flag,
                "Send events to the dashboard (POST /api/events); it may as well read /ws."),
        Setting("RISK_OVERSIZE", "cut", choice("cut", "refuse"),
                "An entry larger than the risk service recommends is cut to that, or refused."),
    )),
    ("Order management", (
        Setting("DEFAULT_ORDER_TIMEOUT", "300000", milliseconds(0, 30 * 24 * 3_600_000),
                "Milliseconds after which an order that is still open is cancelled; 0 for never.",
                field="default_order_timeout_ns"),
        Setting("MAX_SLIPPAGE_PERCENT", "0.5", percent,
                "Worst slippage of a market order against the mid at its arrival, in percent."),
        Setting("DEFAULT_TIME_IN_FORCE", "GTC", choice("GTC", "IOC", "FOK"),
                "GTC, IOC or FOK, where an order says none."),
        Setting("MAX_ORDERS_KEPT", "10000", whole(10, 10_000_000, "a count"),
                "Orders kept in memory and in Redis; older ones that ended move to the archive."),
        Setting("MAX_TRADES_KEPT", "50000", whole(10, 10_000_000, "a count"),
                "Trades kept in memory and in Redis; older ones move to the archive."),
    )),
    ("Risk management", (
        Setting("ENABLE_RISK_CHECKS", "true", flag,
                "Check orders before they are sent; hard limits hold in any case."),
        Setting("MAX_POSITION_SIZE", "0.25", ratio("0.25 for a quarter"),
                "Largest position, as a share of equity."),
        Setting("MAX_DAILY_LOSS", "0.05", ratio("0.05 for 5 %"),
                "Loss of a day, as a share of equity, from which on only reducing orders are taken."),
        Setting("MAX_DRAWDOWN", "0.2", ratio("0.2 for 20 %"),
                "Drawdown from the peak of equity at which trading is HALTED, until a person lifts that."),
        Setting("MAX_RISK_PER_TRADE", "0.02", ratio("0.02 for 2 %"),
                "Most that an entry may lose at its stop, fees included, as a share of equity."),
        Setting("MAX_DAILY_RISK", "0.06", ratio("0.06 for 6 %"),
                "Most that today's realised loss and open entries at their stops may come to, as a share of equity."),
        Setting("MAX_CORRELATED_EXPOSURE", "0.4", ratio("0.4 for 40 %"),
                "Largest exposure to currencies that move together, as a share of equity."),
        Setting("ORDER_RATE_LIMIT", "100", whole(0, 1_000_000, "orders a second"),
                "Orders a second of one strategy, and of all without one together; 50 times that in all. 0: no limit."),
        Setting("PRICE_COLLAR_PERCENT", "10", percent,
                "How far beyond the mid price an order may be priced, in percent; stops a slip of the finger."),
        Setting("STOP_LOSS_ENABLED", "true", flag,
                "Entries need a stop: one without gets it, STOP_LOSS_PERCENT away."),
        Setting("STOP_LOSS_PERCENT", "5", percent,
                "Distance of a stop that is attached to an entry without one, in percent of its price."),
    )),
    ("Signals and sizing", (
        Setting("KELLY_FRACTION", "0.5", ratio("0.5 for half Kelly"),
                "Share of the Kelly fraction that is used."),
        Setting("TARGET_VOLATILITY", "0.2", factor("0.001", "10", "0.2 for 20 % a year"),
                "Volatility a year that volatility_adjusted sizes a position for."),
        Setting("VOLATILITY_FLOOR", "0.1", factor("0.001", "10", "0.1 for 10 % a year"),
                "Volatility a year below which none is believed."),
        Setting("VOLATILITY_CAP", "1", factor("0.01", "10", "1 for all of the equity"),
                "Most that volatility_adjusted gives a position before the other limits, as a share of equity."),
        Setting("SIGNAL_MAX_AGE", "60000", milliseconds(0, 86_400_000),
                "Milliseconds after its timestamp from which on a signal has expired; 0 for never.",
                field="signal_max_age_ns"),
    )),
    ("Strategies", (
        Setting("STRATEGIES", "", strategies,
                "Strategies to run in this process, separated by ; - each module:Class or the name of an entry point "
                "(group tbx.strategies), with ?key=value&key=value for its parameters."),
        Setting("STRATEGY_TIME_LIMIT", "1000", milliseconds(10, 60_000),
                "Milliseconds that one call of a strategy may take before the strategy is stopped.",
                field="strategy_time_limit_ns"),
        Setting("STREAM_COMMANDS", "auto", three_way,
                "Whether commands are read from Redis Streams; auto: on paper only. Who reaches Redis can trade then."),
        Setting("TRADING_LOOP", "false", flag,
                "Run the automated loop: pairs and strategies from the core service, predictions from the ML service."),
        Setting("TRADING_LOOP_INTERVAL", "30000", milliseconds(1_000, 3_600_000),
                "Milliseconds between two cycles of the loop.", field="trading_loop_interval_ns"),
        Setting("TRADING_LOOP_THRESHOLD", "0.3", ratio("0.3"),
                "Least combined score, from 0 to 1, that the loop trades on."),
        Setting("TRADING_LOOP_TECHNICAL_WEIGHT", "0.6", factor("0", "1", "0.6 for 60 %"),
                "Weight of the technical score; the rest is the prediction's."),
    )),
    ("Portfolio management", (
        Setting("INITIAL_BALANCE", "50000", balance,
                "Paper money in BASE_CURRENCY at the first start."),
        Setting("BASE_CURRENCY", "USDT", matching(r"[A-Z0-9]{2,10}", "a currency such as USDT"),
                "Currency that the portfolio is valued in."),
        Setting("POSITION_UPDATE_INTERVAL", "5000", milliseconds(100, 3_600_000),
                "Milliseconds between the pictures of the portfolio on the feed.",
                field="position_update_interval_ns"),
    )),
    ("State", (
        Setting("DURABILITY", "ahead", choice("ahead", "behind"),
                "ahead: nothing leaves before it is committed; behind: venue frames leave at once, and after a crash "
                "the exchange may hold an order that nobody here knows of."),
        Setting("APPENDFSYNC", "everysec", choice("everysec", "always", "no"),
                "When the embedded Redis forces its file to disk: everysec, always or no."),
        Setting("REDIS_URL", "embedded", redis_url,
                "embedded, or redis://, rediss:// or unix:// of another Redis.", secret=True),
        Setting("STANDBY", "true", flag,
                "Where another process of this node is the writer: wait for its end and take over; false: refuse."),
    )),
    ("Logging", (
        Setting("LOG_LEVEL", "info", level, "debug, info, warn or error."),
        Setting("LOG_FORMAT", "text", choice("text", "json"), "text, or json: one object a line."),
        Setting("LOG_DIR", "./logs", path, "Folder of the log files."),
        Setting("EXECUTION_LOG_FILE", "logs/execution.log", path,
                "General operations; in LOG_DIR where it is not set."),
        Setting("TRADE_LOG_FILE", "logs/trades.log", path,
                "Every trade; in LOG_DIR where it is not set."),
    )),
)
# fmt: on

SETTINGS: dict[str, Setting] = {setting.name: setting for _, rows in TABLE for setting in rows}


def field_of(setting: Setting) -> str:
    """The attribute of Settings that a row fills."""
    return setting.field or setting.name.lower()


# --- loading ----------------------------------------------------------------------------------------------------


def _opens_something(name: str, text: str) -> bool:
    """Whether who reads this value can do something with it: not with a hash, nor with an address alone."""
    setting = SETTINGS.get(name)
    if setting is None or not setting.secret or not text or is_placeholder(setting, text):
        return False
    return name != "API_KEYS" and not (name == "REDIS_URL" and "@" not in text and "?" not in text)


def is_placeholder(setting: Setting, text: str) -> bool:
    """The manual's example `XEGGEX_API_KEY=your_xeggex_api_key`, copied as it stands, sets nothing."""
    return setting.secret and text == f"your_{setting.name.lower()}"


def load_settings(environ: Mapping[str, str] | None = None, folder: Path | None = None) -> Settings:
    """Read the environment and `folder`/.env (the working directory's by default).

    Raises SettingsError with a line for every problem that was found.
    """
    environ = os.environ if environ is None else environ
    folder = (folder or Path()).absolute()
    in_file, problems, mode = read_env_file(folder / ENV_FILE)
    if mode & 0o077 and any(_opens_something(name, text) for name, text in in_file.items()):
        problems.append(f"{ENV_FILE} holds secrets and others may read it (mode {mode:o}); run: chmod 600 {ENV_FILE}")
    values: dict[str, object] = {}
    given: list[Given] = []
    for setting in SETTINGS.values():
        text, source = _text_of(setting, environ, in_file)
        try:
            value = setting.parse(text) if text else _unset(setting)
        except ValueError as right:
            problems.append(f"{setting.name}={_shown(setting, text)} ({source}): {right}")
            continue
        values[field_of(setting)] = value
        given.append(Given(setting.name, _shown(setting, text, value), source))
    warnings = [_unknown(name) for name in in_file if name not in SETTINGS]
    if problems:
        # What does parse is still checked together, so that one start tells everything there is to mend.
        raise SettingsError([*problems, *_inconsistencies(values)])
    _finish(values, given, folder)
    problems = _inconsistencies(values)
    if problems:
        raise SettingsError(problems)
    if values["live_trading"] and values["paper_trading"]:
        warnings.append("LIVE_TRADING=true does nothing while PAPER_TRADING=true: every order is paper")
    return Settings(**values, given=tuple(given), warnings=tuple(warnings))  # type: ignore[arg-type]


def _text_of(setting: Setting, environ: Mapping[str, str], in_file: Mapping[str, str]) -> tuple[str, SourceName]:
    places: Iterable[tuple[Mapping[str, str], Literal[".env", "environment"]]] = (
        (environ, "environment"),
        (in_file, ".env"),
    )
    for values, source in places:
        text = values.get(setting.name, "").strip()
        if text and not is_placeholder(setting, text):
            return text, source
    return setting.default, "default"


def _unset(setting: Setting) -> object:
    return () if setting.name in ("API_KEYS", "STRATEGIES") else None


def _shown(setting: Setting, text: str, value: object = None) -> str:
    if not setting.secret:
        return text if len(text) <= 200 and text.isprintable() else ascii(text[:200])
    if isinstance(value, tuple):
        return "; ".join(map(repr, value))
    if value is None:  # not set, or not understood: then nothing of it is shown
        return text if text == setting.default else MASK
    return repr(value)


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name.upper(), SETTINGS, n=1, cutoff=0.6)
    return f"{ENV_FILE}: {name} is no setting of this service" + (f"; did you mean {near[0]}?" if near else "")


def _finish(values: dict[str, object], given: list[Given], folder: Path) -> None:
    """Fill in what depends on more than one setting: folders, log files, the rate limit, the host names."""
    source = {row.name: row.source for row in given}
    shown = {row.name: row.shown for row in given}
    for field in ("data_dir", "log_dir", "execution_log_file", "trade_log_file"):
        values[field] = folder / cast(Path, values[field])
    for name, field in (("EXECUTION_LOG_FILE", "execution_log_file"), ("TRADE_LOG_FILE", "trade_log_file")):
        if source[name] == "default" or shown[name] == SETTINGS[name].default:
            values[field] = cast(Path, values["log_dir"]) / Path(SETTINGS[name].default).name
    if values["binance_private_key_file"] is not None:
        values["binance_private_key_file"] = folder / cast(Path, values["binance_private_key_file"])
    source_of_prices = cast(Market, values["market"])
    if source_of_prices.file is not None:
        values["market"] = Market("replay", folder / source_of_prices.file)
    if values["rate_limit_per_second"] is None:
        values["rate_limit_per_second"] = RATE_LIMIT_WITH_KEYS if values["api_keys"] else 0
    own_name, allowed = cast(str, values["host"]), cast(tuple[str, ...], values["allowed_hosts"])
    if own_name not in (*allowed, "0.0.0.0", "::"):
        values["allowed_hosts"] = (*allowed, own_name)


def _inconsistencies(values: Mapping[str, object]) -> list[str]:
    """What is wrong only in combination. Settings that did not parse are left out of it: they were told already."""
    problems = []

    def is_set(field: str) -> bool:
        return bool(values.get(field))

    file = getattr(values.get("market"), "file", None)
    if file is not None and file.is_absolute() and not file.is_file():
        problems.append(f"MARKET=replay:{file}: expected a recorded capture; there is no such file")
    if "host" in values and "api_keys" in values and not is_loopback(str(values["host"])) and not is_set("api_keys"):
        problems.append(f"HOST={values['host']}: others can connect, so API_KEYS must be set; `tbx key NAME` makes one")
    for venue in LIVE_VENUES:
        problems.extend(_key_problems(venue, values))
    urls = ("binance_rest_url", "binance_ws_api_url", "binance_stream_url")
    if all(url in values for url in urls) and 0 < sum(map(is_set, urls)) < len(urls):
        missing = " and ".join(url.upper() for url in urls if not is_set(url))
        problems.append(f"{missing}: not set, while other endpoints of Binance are; set all three, or none of them")
    if values.get("paper_trading") is False and "live_trading" in values:
        problems.extend(_live_problems(values, is_set))
    return problems


def _key_problems(venue: str, values: Mapping[str, object]) -> list[str]:
    """A key and what signs with it go together, and nobody else may read it."""
    key, secret, pem = (f"{venue}_{part}" for part in ("api_key", "api_secret", "private_key_file"))
    if key not in values or secret not in values:
        return []
    problems = []
    file = values.get(pem)
    if values[key] is None and (values[secret] or file):
        problems.append(f"{key.upper()} is not set; a key and its secret go together")
    if values[key] is not None and not values[secret] and not file:
        alternative = f" or {pem.upper()}" if pem in values else ""
        problems.append(f"{secret.upper()}{alternative} is not set; a key and its secret go together")
    if values[secret] and file:
        problems.append(f"{secret.upper()} and {pem.upper()} are both set; an API key has one of them")
    if isinstance(file, Path) and file.is_absolute():
        problems.extend(_file_problems(pem.upper(), file))
    return problems


def _file_problems(name: str, file: Path) -> list[str]:
    try:
        mode = file.stat().st_mode
    except OSError as error:
        return [f"{name}={file}: {error.strerror}; expected the PEM file of a private key"]
    if mode & 0o077:
        return [f"{name}={file}: others may read it (mode {mode & 0o777:o}); run: chmod 600 {file}"]
    return []


def _live_problems(values: Mapping[str, object], is_set: Callable[[str], bool]) -> list[str]:
    if not values["live_trading"]:
        return ["PAPER_TRADING=false needs LIVE_TRADING=true too; set PAPER_TRADING=true to trade on paper"]
    problems = []
    if not any(is_set(f"{venue}_api_key") for venue in LIVE_MARKETS):
        names = " or ".join(f"{v.upper()}_API_KEY and {v.upper()}_API_SECRET" for v in LIVE_MARKETS)
        problems.append(f"LIVE_TRADING=true needs the credentials of an exchange: set {names}")
    if "api_keys" in values and not is_set("api_keys"):
        problems.append("LIVE_TRADING=true needs API_KEYS; `tbx key NAME` makes one")
    source = values.get("market")
    if source is not None and getattr(source, "kind", "") not in LIVE_MARKETS:
        problems.append(f"LIVE_TRADING=true needs the prices of the exchange; set MARKET={' or '.join(LIVE_MARKETS)}")
    return problems
