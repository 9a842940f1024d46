"""`tbx exchange`: the local exchange as a process of its own.

Always true here: what a client needs (URLs, keys) is printed before the first request can be served wrongly, that is
once the port is open; with --json as one line of JSON, and nothing else on standard output. It ends with SIGINT or
SIGTERM, and then with exit code 0.
"""

from __future__ import annotations

import argparse
import asyncio
import errno
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import uvloop

from ....core.kernel.clock import SystemClock
from ....core.model.errors import SettingsError, TbxError
from .faults import FAULTS, SPEC_HELP
from .market_feed import MARKETS
from .server import LocalExchange

EXIT_ERROR = 2
PORT = 9443
PROTOCOLS = ("binance",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `tbx exchange`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = "\n".join(
        [
            f"faults: {SPEC_HELP}",
            *(f"  {name:<19}{meaning}" for name, meaning in FAULTS.items()),
            "",
            "At run time: POST /control/NAME with a JSON body, from this machine only. NAME: faults, deposit, price,",
            "quote, deal, close, market, clock, ban, limit, key, shutdown (README.md). GET /control tells the state.",
        ]
    )
    parser.add_argument("--protocol", choices=PROTOCOLS, default="binance", help="what it speaks")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on")
    parser.add_argument("--port", type=int, default=PORT, help=f"0 is any free one ({PORT})")
    parser.add_argument("--market", default="simulated", help=f"{MARKETS} (simulated)")
    parser.add_argument("--symbols", type=int, default=0, metavar="N", help="so many more symbols, SYM001USDT and on")
    parser.add_argument(
        "--latency", type=int, default=0, metavar="MS", help="each reply and event leaves so much later"
    )
    parser.add_argument("--faults", default="", metavar="SPEC", help="what to do wrong; see below")
    parser.add_argument("--seed", type=int, default=1, help="of keys, market and faults")
    parser.add_argument("--no-limits", action="store_true", help="lifts rate limits, for load runs")
    parser.add_argument(
        "--keys-dir",
        type=Path,
        metavar="DIR",
        help="writes the Ed25519 keys there, a PEM an account; never over other keys",
    )
    parser.add_argument("--json", action="store_true", help="one line of JSON with URLs and keys")


def run(arguments: argparse.Namespace) -> int:
    """Serves until it is stopped. Raises SettingsError for wrong options, CaptureError for a bad recording."""
    if not 0 <= arguments.port < 65_536:
        raise SettingsError(f"--port {arguments.port}: 0 to 65535")
    if not 0 <= arguments.latency <= 60_000:
        raise SettingsError(f"--latency {arguments.latency}: 0 to 60000 milliseconds")
    if not 0 <= arguments.symbols <= 5_000:
        raise SettingsError(f"--symbols {arguments.symbols}: 0 to 5000")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(arguments))


async def _serve(arguments: argparse.Namespace) -> int:
    loop = asyncio.get_running_loop()
    exchange = LocalExchange(
        loop,
        SystemClock(loop, time.time_ns),
        seed=arguments.seed,
        extra_symbols=arguments.symbols,
        market=arguments.market,
        latency_ms=arguments.latency,
        faults=arguments.faults,
        limited=not arguments.no_limits,
        say=_say,
    )
    if arguments.keys_dir is not None:
        _check_keys(arguments.keys_dir, exchange)
    stopping = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    try:
        await exchange.start(arguments.host, arguments.port)
    except (OSError, UnicodeError) as error:
        _say(f"tbx exchange: cannot listen on {arguments.host}:{arguments.port}: {_why(error)}")
        return EXIT_ERROR
    described = describe(exchange)
    if arguments.keys_dir is not None:
        _write_keys(arguments.keys_dir, exchange)
    text = json.dumps(described) if arguments.json else _told(described, arguments.keys_dir)
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
    await stopping.wait()
    await exchange.stop()
    return 0


def _why(error: OSError | UnicodeError) -> str:
    """Why there is no listening on an address."""
    if isinstance(error, socket.gaierror | UnicodeError):
        return "--host is no name or address that can be found; 127.0.0.1 is this machine, 0.0.0.0 all its addresses"
    if error.errno == errno.EADDRNOTAVAIL:
        return "--host is no address of this machine; 127.0.0.1 is, and 0.0.0.0 are all it has"
    return os.strerror(error.errno) if error.errno else str(error)


def describe(exchange: LocalExchange) -> dict[str, Any]:
    """What a client needs to know; the line that --json prints."""
    return {
        "protocol": "binance",
        "rest": exchange.url_rest,
        "wsApi": exchange.url_ws_api,
        "stream": exchange.url_stream,
        "control": f"{exchange.url_rest}/control",
        "symbols": list(exchange.exchange.symbols),
        "accounts": [account.document() for account in exchange.accounts],
    }


def _told(described: dict[str, Any], keys_dir: Path | None) -> str:
    """For a terminal."""
    lines = [
        "A local exchange that speaks the Binance spot protocol. Money is play money; stop it with Ctrl-C.",
        f"  REST           {described['rest']}",
        f"  WebSocket API  {described['wsApi']}",
        f"  streams        {described['stream']}",
        f"  control        {described['control']}",
        f"  symbols        {', '.join(described['symbols'][:12])}{', ...' if len(described['symbols']) > 12 else ''}",
    ]
    for account in described["accounts"]:
        ed25519 = account["ed25519"]
        lines += [
            f"Account {account['name']}",
            f"  HMAC     API key     {account['hmac']['apiKey']}",
            f"           secret key  {account['hmac']['secretKey']}",
            f"  Ed25519  API key     {ed25519['apiKey']}",
        ]
        if keys_dir is not None:
            lines.append(f"           private key {_key_file(keys_dir, account['name'])}")
        else:
            lines += ed25519["privateKeyPem"].strip().splitlines()
    return "\n".join(lines)


def _key_file(folder: Path, account: str) -> Path:
    return folder / f"{account}-ed25519.pem"


def _check_keys(folder: Path, exchange: LocalExchange) -> None:
    """Raises SettingsError where writing the keys would destroy others: nobody else may have those."""
    for account in exchange.accounts:
        path = _key_file(folder, account.name)
        try:
            there = path.read_bytes()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise SettingsError(f"--keys-dir {folder}: {path.name}: {error.strerror or error}") from error
        if there != account.ed25519_pem.encode():
            raise SettingsError(
                f"--keys-dir {folder}: {path.name} holds another key, of another seed perhaps, and is left as it is; "
                f"name a folder without it, such as {folder}-{exchange.seed}"
            )


def _write_keys(folder: Path, exchange: LocalExchange) -> None:
    """One file an account, readable by its owner only. Raises SettingsError where that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for account in exchange.accounts:
            path = _key_file(folder, account.name)
            path.unlink(missing_ok=True)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with open(descriptor, "w", encoding="ascii") as file:
                file.write(account.ed25519_pem)
    except OSError as error:
        raise SettingsError(f"--keys-dir {folder}: {error.strerror or error}") from error


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def main(words: Sequence[str] | None = None) -> int:
    """The command by itself: `python -m tbx.venues.simulator.binance.command`."""
    parser = argparse.ArgumentParser(prog="tbx exchange", description=__doc__.partition("\n")[0])
    add_arguments(parser)
    try:
        return run(parser.parse_args(words))
    except TbxError as error:
        _say(f"tbx exchange: {error}")
        return EXIT_ERROR


if __name__ == "__main__":
    sys.exit(main())
