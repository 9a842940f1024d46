"""Settings: what each variable may be, where it comes from, and that every mistake is told at once and masked."""

from __future__ import annotations

import pickle
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tbx.core.envfile import BYTES_MAX, parse_env
from tbx.core.model.errors import SettingsError
from tbx.core.setting_values import MASK, Secret, key_digest
from tbx.core.settings import SETTINGS, Settings, field_of, load_settings

KEY = f"desk:{key_digest('tbx_k').hex()}:read+trade"
VENUE = {"XEGGEX_API_KEY": "xk-1234567", "XEGGEX_API_SECRET": "xs-7654321"}


def problems(environ: dict[str, str], folder: Path) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load_settings(environ, folder)
    return caught.value.problems


def env_file(folder: Path, text: str, mode: int = 0o600) -> None:
    path = folder / ".env"
    path.write_text(text)
    path.chmod(mode)


# --- the table -------------------------------------------------------------------------------------------------


def test_the_table_fills_exactly_the_fields_of_settings() -> None:
    own = {field_of(setting) for setting in SETTINGS.values()}
    assert own == set(Settings.__struct_fields__) - {"given", "warnings"}


def test_the_example_file_holds_every_variable_with_its_default_and_its_doc(root: Path) -> None:
    text = (root / ".env.example").read_text()
    values, wrong = parse_env(text)
    assert wrong == []
    assert list(values) == list(SETTINGS)
    flowed = " ".join(line.removeprefix("# ") for line in text.splitlines())
    for setting in SETTINGS.values():
        placeholder = f"your_{setting.name.lower()}"
        assert values[setting.name] in (setting.default, placeholder)
        assert setting.doc in flowed


def test_the_example_file_copied_as_it_stands_sets_what_the_defaults_set(root: Path, tmp_path: Path) -> None:
    env_file(tmp_path, (root / ".env.example").read_text(), mode=0o644)
    copied, default = load_settings({}, tmp_path), load_settings({}, tmp_path / "elsewhere")
    for name in Settings.__struct_fields__:
        if name not in ("given", "data_dir", "log_dir", "execution_log_file", "trade_log_file"):
            assert getattr(copied, name) == getattr(default, name), name
    assert copied.trade_log_file == tmp_path / "logs/trades.log"


def test_defaults_have_the_manuals_meaning_and_units(tmp_path: Path) -> None:
    settings = load_settings({}, tmp_path)
    assert (settings.host, settings.port, settings.node_id) == ("127.0.0.1", 3004, "main")
    assert settings.paper_trading and not settings.live_trading and not settings.live
    assert settings.default_order_timeout_ns == 300 * 10**9
    assert settings.position_update_interval_ns == 5 * 10**9
    assert settings.paper_latency_ns == 5 * 10**6
    assert (settings.max_slippage_percent, settings.max_position_size) == (Decimal("0.5"), Decimal("0.25"))
    assert (settings.max_daily_loss, settings.initial_balance) == (Decimal("0.05"), Decimal("50000"))
    assert settings.data_dir == tmp_path / "data"
    assert settings.execution_log_file == tmp_path / "logs/execution.log"
    assert settings.redis_url is None
    assert settings.rate_limit_per_second == 0
    assert settings.venue_keys("xeggex") is None
    assert settings.warnings == ()


def test_log_files_follow_the_log_folder_unless_they_are_named(tmp_path: Path) -> None:
    settings = load_settings({"LOG_DIR": "/var/log/tbx", "TRADE_LOG_FILE": "t.log"}, tmp_path)
    assert settings.execution_log_file == Path("/var/log/tbx/execution.log")
    assert settings.trade_log_file == tmp_path / "t.log"


def test_the_environment_wins_over_the_file_and_the_file_over_the_default(tmp_path: Path) -> None:
    env_file(tmp_path, "PORT=4000\nNODE_ID=alpha\n")
    settings = load_settings({"PORT": "5000", "NODE_ID": ""}, tmp_path)
    assert (settings.port, settings.node_id) == (5000, "alpha")
    sources = {row.name: row.source for row in settings.given}
    assert (sources["PORT"], sources["NODE_ID"], sources["HOST"]) == ("environment", ".env", "default")


# --- values ----------------------------------------------------------------------------------------------------

WRONG = [
    ("PORT", "99999"),
    ("PORT", "-1"),
    ("PORT", "3004.0"),
    ("PORT", "\u0663"),
    ("HOST", "not a host"),
    ("HOST", "999.1.1.1"),
    ("NODE_ENV", "Production!"),
    ("NODE_ID", "Main"),
    ("NODE_ID", "abcdefghijklm"),
    ("NODE_ID", "a:b"),
    ("PAPER_TRADING", "maybe"),
    ("MARKET", "kraken"),
    ("MARKET", "replay:"),
    ("MARKET_SEED", "1e3"),
    ("PAPER_LATENCY_MS", "0.0000001"),
    ("PAPER_LATENCY_MS", "60001"),
    ("MAX_SLIPPAGE_PERCENT", "0"),
    ("MAX_SLIPPAGE_PERCENT", "NaN"),
    ("MAX_SLIPPAGE_PERCENT", "1e1"),
    ("MAX_POSITION_SIZE", "25"),
    ("MAX_DAILY_LOSS", "-0.05"),
    ("INITIAL_BALANCE", "Infinity"),
    ("INITIAL_BALANCE", "1_000"),
    ("BASE_CURRENCY", "usdt"),
    ("DEFAULT_TIME_IN_FORCE", "GTD"),
    ("DEFAULT_ORDER_TIMEOUT", "-5"),
    ("POSITION_UPDATE_INTERVAL", "0"),
    ("CORE_SERVICE_URL", "localhost:3000"),
    ("CORE_SERVICE_URL", "http://user:hunter2@localhost"),
    ("CORE_SERVICE_URL", "http://localhost:99999"),
    ("DURABILITY", "always"),
    ("APPENDFSYNC", "ahead"),
    ("REDIS_URL", "http://localhost"),
    ("REDIS_URL", "redis:///0"),
    ("ALLOWED_ORIGINS", "*"),
    ("ALLOWED_HOSTS", "a b"),
    ("API_KEYS", "desk"),
    ("API_KEYS", f"{KEY};{KEY}"),
    ("API_KEYS", KEY.replace("trade", "root")),
    ("RATE_LIMIT", "-1"),
    ("LOG_LEVEL", "loud"),
    ("LOG_FORMAT", "xml"),
    ("XEGGEX_API_KEY", "two words"),
    ("MAX_ORDERS_KEPT", "0"),
]


@pytest.mark.parametrize(("name", "text"), WRONG)
def test_a_wrong_value_is_told_with_its_name_and_what_is_right(name: str, text: str, tmp_path: Path) -> None:
    (line,) = [line for line in problems({name: text}, tmp_path) if line.startswith(f"{name}=")]
    assert "expected" in line
    assert "(environment)" in line
    if SETTINGS[name].secret:
        assert text not in line
        assert MASK in line


def test_a_market_that_is_not_spoken_to_is_refused_with_the_names_of_those_that_are(tmp_path: Path) -> None:
    (line,) = problems({"MARKET": "kraken"}, tmp_path)
    assert "simulated, binance" in line
    assert load_settings({"MARKET": "binance"}, tmp_path).market.live


def test_every_problem_is_told_at_once(tmp_path: Path) -> None:
    env_file(tmp_path, "PORT=x\nnonsense\n")
    lines = problems({"MAX_DAILY_LOSS": "5", "HOST": "0.0.0.0"}, tmp_path)
    for start in (".env line 2", "PORT=x (.env)", "MAX_DAILY_LOSS=5", "HOST=0.0.0.0"):
        assert any(line.startswith(start) for line in lines), start


def test_a_value_cannot_forge_a_line_of_the_error(tmp_path: Path) -> None:
    lines = problems({"NODE_ID": "x\nPORT=1 is fine"}, tmp_path)
    assert all("\n" not in line for line in lines)


def test_flags_and_levels_are_read_in_any_case(tmp_path: Path) -> None:
    settings = load_settings({"STOP_LOSS_ENABLED": "OFF", "LOG_LEVEL": "Warning"}, tmp_path)
    assert settings.stop_loss_enabled is False
    assert settings.log_level == "warn"


def test_a_capture_to_replay_has_to_be_there(tmp_path: Path) -> None:
    (line,) = problems({"MARKET": "replay:frames.gz"}, tmp_path)
    assert "no such file" in line
    (tmp_path / "frames.gz").touch()
    market = load_settings({"MARKET": "replay:frames.gz"}, tmp_path).market
    assert (market.kind, market.file) == ("replay", tmp_path / "frames.gz")


def test_a_service_can_be_declared_absent(tmp_path: Path) -> None:
    settings = load_settings({"RISK_SERVICE_URL": "none", "ML_SERVICE_URL": "https://ml.example/"}, tmp_path)
    assert settings.risk_service_url is None
    assert settings.ml_service_url == "https://ml.example"


def test_keys_turn_on_the_rate_limit_unless_it_is_set(tmp_path: Path) -> None:
    assert load_settings({"API_KEYS": KEY}, tmp_path).rate_limit_per_second == 100
    assert load_settings({"API_KEYS": KEY, "RATE_LIMIT": "0"}, tmp_path).rate_limit_per_second == 0


def test_api_keys_are_kept_as_digests_with_their_scopes(tmp_path: Path) -> None:
    (key,) = load_settings({"API_KEYS": KEY}, tmp_path).api_keys
    assert (key.name, key.digest, key.scopes) == ("desk", key_digest("tbx_k"), {"read", "trade"})
    assert key.digest.hex() not in repr(key)


def test_the_own_address_is_an_allowed_host_and_a_wildcard_is_not(tmp_path: Path) -> None:
    assert "10.0.0.7" in load_settings({"HOST": "10.0.0.7", "API_KEYS": KEY}, tmp_path).allowed_hosts
    assert "0.0.0.0" not in load_settings({"HOST": "0.0.0.0", "API_KEYS": KEY}, tmp_path).allowed_hosts


# --- combinations ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "trade.example"])
def test_an_address_that_others_reach_needs_keys(host: str, tmp_path: Path) -> None:
    (line,) = problems({"HOST": host}, tmp_path)
    assert "API_KEYS" in line
    assert load_settings({"HOST": host, "API_KEYS": KEY}, tmp_path).loopback is False


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost"])
def test_this_machines_own_addresses_need_no_keys(host: str, tmp_path: Path) -> None:
    assert load_settings({"HOST": host}, tmp_path).loopback


def test_neither_paper_nor_live_is_refused(tmp_path: Path) -> None:
    (line,) = problems({"PAPER_TRADING": "false"}, tmp_path)
    assert line.startswith("PAPER_TRADING=false needs LIVE_TRADING=true")


def test_live_says_everything_that_is_missing(tmp_path: Path) -> None:
    text = "\n".join(problems({"PAPER_TRADING": "false", "LIVE_TRADING": "true"}, tmp_path))
    assert "set BINANCE_API_KEY and BINANCE_API_SECRET" in text
    assert "API_KEYS" in text
    assert "set MARKET=binance" in text


def test_live_with_everything_it_needs_is_live(tmp_path: Path) -> None:
    given = {"BINANCE_API_KEY": "k", "BINANCE_API_SECRET": "s", "API_KEYS": KEY, "MARKET": "binance"}
    settings = load_settings({**given, "PAPER_TRADING": "false", "LIVE_TRADING": "true"}, tmp_path)
    assert settings.live
    assert settings.market.live


def test_a_private_key_file_stands_in_for_the_secret_and_is_closed_to_others(tmp_path: Path) -> None:
    given = {"BINANCE_API_KEY": "k", "BINANCE_PRIVATE_KEY_FILE": "key.pem"}
    (line,) = problems(given, tmp_path)
    assert "No such file" in line
    (tmp_path / "key.pem").write_text("x")
    (tmp_path / "key.pem").chmod(0o644)
    (line,) = problems(given, tmp_path)
    assert "chmod 600" in line
    (tmp_path / "key.pem").chmod(0o600)
    keys = load_settings(given, tmp_path).venue_keys("binance")
    assert keys is not None
    assert keys.private_key_file == tmp_path / "key.pem"
    (line,) = problems({**given, "BINANCE_API_SECRET": "s"}, tmp_path)
    assert "both set" in line


@pytest.mark.parametrize("url", ["ws://exchange.example/ws", "http://127.0.0.1:9443", "wss://me@host", "wss://", "x"])
def test_an_endpoint_without_tls_is_only_on_this_machine(url: str, tmp_path: Path) -> None:
    (line,) = problems({"BINANCE_STREAM_URL": url}, tmp_path)
    assert "wss://host[:port]" in line


def test_the_endpoints_of_binance_are_all_set_or_none(tmp_path: Path) -> None:
    here = {"BINANCE_REST_URL": "http://127.0.0.1:9443", "BINANCE_STREAM_URL": "ws://127.0.0.1:9443/"}
    (line,) = problems(here, tmp_path)
    assert line.startswith("BINANCE_WS_API_URL: not set")
    settings = load_settings({**here, "BINANCE_WS_API_URL": "ws://127.0.0.1:9443/ws-api/v3"}, tmp_path)
    assert settings.binance_stream_url == "ws://127.0.0.1:9443"


def test_live_beside_paper_stays_paper_and_warns(tmp_path: Path) -> None:
    settings = load_settings({"LIVE_TRADING": "true"}, tmp_path)
    assert not settings.live
    assert "every order is paper" in settings.warnings[0]


def test_half_a_pair_of_credentials_is_refused(tmp_path: Path) -> None:
    (line,) = problems({"BINANCE_API_KEY": "abc"}, tmp_path)
    assert line.startswith("BINANCE_API_SECRET or BINANCE_PRIVATE_KEY_FILE is not set")


# --- secrets ---------------------------------------------------------------------------------------------------


def test_the_manuals_placeholders_count_as_not_set(tmp_path: Path) -> None:
    env_file(tmp_path, "XEGGEX_API_KEY=your_xeggex_api_key\nXEGGEX_API_SECRET=your_xeggex_api_secret\n", 0o644)
    settings = load_settings({}, tmp_path)
    assert settings.xeggex_api_key is None
    assert settings.venue_keys("xeggex") is None


def test_no_secret_is_in_the_text_of_settings(tmp_path: Path) -> None:
    settings = load_settings({**VENUE, "REDIS_URL": "rediss://me:hunter2@db:6380/1", "API_KEYS": KEY}, tmp_path)
    text = f"{settings!r} {settings} {settings.given} {settings.redis_url} {settings.venue_keys('xeggex')}"
    for secret in ("xk-1234567", "xs-7654321", "hunter2", key_digest("tbx_k").hex()):
        assert secret not in text
    assert "rediss://********@db:6380/1" in text
    keys = settings.venue_keys("xeggex")
    assert keys is not None
    assert keys.api_secret.reveal() == "xs-7654321"


def test_a_secret_is_neither_pickled_nor_encoded() -> None:
    with pytest.raises(TypeError):
        pickle.dumps(Secret("s3cret"))
    with pytest.raises(TypeError):
        msgspec.json.encode({"key": Secret("s3cret")})
    assert f"{Secret('s3cret')} {Secret('s3cret')!r} {Secret('s3cret')!s}".count(MASK) == 3


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
def test_a_file_with_secrets_that_others_can_read_is_refused(mode: int, tmp_path: Path) -> None:
    env_file(tmp_path, "".join(f"{name}={value}\n" for name, value in VENUE.items()), mode)
    (line,) = problems({}, tmp_path)
    assert "chmod 600 .env" in line
    (tmp_path / ".env").chmod(0o600)
    assert load_settings({}, tmp_path).venue_keys("xeggex") is not None


def test_a_file_without_secrets_may_be_read_by_anybody(tmp_path: Path) -> None:
    env_file(tmp_path, f"PORT=3005\nREDIS_URL=redis://db:6379/0\nAPI_KEYS={KEY}\n", 0o644)
    assert load_settings({}, tmp_path).port == 3005


# --- .env ------------------------------------------------------------------------------------------------------

ENV_LINES = [
    ("A=1", "1"),
    ("  export A = 1  ", "1"),
    ("A=", ""),
    ("A= # nothing", ""),
    ("A=1 # one", "1"),
    ("A=a#b", "a#b"),
    ("A=$HOME/x", "$HOME/x"),
    ("A='a # b \\n'", "a # b \\n"),
    ('A="a # \\"b\\"\\n\\\\"  # c', 'a # "b"\n\\'),
    ("A=x=y", "x=y"),
    ("A=tbx:x;y:z", "tbx:x;y:z"),
    ("A=it's", "it's"),
    ("\ufeffA=1", "1"),
    ("A=1\r", "1"),
]


@pytest.mark.parametrize(("line", "value"), ENV_LINES)
def test_a_line_of_the_file_is_read_as_documented(line: str, value: str) -> None:
    assert parse_env(line) == ({"A": value}, [])


@pytest.mark.parametrize("line", ["A", "=1", "A B=1", "1A=1", "A='x", 'A="x', "A='x' y", 'A="\\q"', "A=1\nA=2"])
def test_a_line_that_means_nothing_is_told_by_its_number_and_without_its_value(line: str) -> None:
    _, (problem,) = parse_env(f"# top\n{line}")
    assert problem.startswith(".env line ")
    assert "'x" not in problem


@given(st.text())
def test_any_text_is_read_or_told(text: str) -> None:
    values, wrong = parse_env(text)
    assert isinstance(values, dict)
    assert all("\n" not in line for line in wrong)


@given(st.text(st.characters(blacklist_categories=("Cs", "Cc"), blacklist_characters="\u2028\u2029")))
def test_a_quoted_value_comes_back_as_it_went_in(value: str) -> None:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    assert parse_env(f'A="{escaped}"') == ({"A": value}, [])


@pytest.mark.parametrize(
    ("name", "near"), [("PROT", "PORT"), ("port", "PORT"), ("XEGEX_API_KEY", "XEGGEX_API_KEY"), ("ZZZZZZ", None)]
)
def test_an_unknown_variable_of_the_file_is_warned_about_with_the_nearest_one(
    name: str, near: str | None, tmp_path: Path
) -> None:
    env_file(tmp_path, f"{name}=secret-value\n")
    (warning,) = load_settings({}, tmp_path).warnings
    assert warning == f".env: {name} is no setting of this service" + (f"; did you mean {near}?" if near else "")


def test_a_file_that_cannot_be_read_is_a_problem_of_its_own(tmp_path: Path) -> None:
    (tmp_path / ".env").mkdir()
    (line,) = problems({}, tmp_path)
    assert line.startswith(".env cannot be read")


def test_a_file_that_is_no_text_or_too_long_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"A=\xff\n")
    assert problems({}, tmp_path) == [".env is not UTF-8 text"]
    (tmp_path / ".env").write_bytes(b"#" * (BYTES_MAX + 1))
    assert problems({}, tmp_path) == [f".env is larger than {BYTES_MAX} bytes"]
