"""The command `tbx`: serve, config, backup, restore, verify, exchange, record, replay, key, version.

Every error that the service raises on purpose ends as one line on standard error and exit code 2. What a command does
is imported when that command runs: `tbx config` answers without loading numba or a server.
"""

import argparse
import json
import os
import re
import secrets
import sys
from collections.abc import Callable, Coroutine, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

from ..core.model.errors import SettingsError, StoreUnreadable, TbxError
from ..core.setting_values import SCOPES, key_digest
from ..core.settings import TABLE, Settings, load_settings

T = TypeVar("T")

EXIT_DIFFERENCES = 1
EXIT_ERROR = 2
EXIT_INTERRUPTED = 130


def serve(arguments: argparse.Namespace) -> int:
    settings = load_settings()
    if arguments.strategy:
        import msgspec

        settings = msgspec.structs.replace(settings, strategies=(*settings.strategies, *arguments.strategy))
    _warn(settings)
    from .service import serve as serve_until_stopped

    return serve_until_stopped(settings, quarantine=arguments.quarantine)


def config(arguments: argparse.Namespace) -> int:
    settings = load_settings()
    _warn(settings)
    given = {row.name: row for row in settings.given}
    if arguments.json:
        rows = [
            {"name": row.name, "value": given[row.name].shown, "source": given[row.name].source, "doc": row.doc}
            for _, group in TABLE
            for row in group
        ]
        print(json.dumps(rows, indent=2))
        return 0
    for title, group in TABLE:
        print(f"# {title}")
        for row in group:
            print(f"{row.name}={given[row.name].shown}  ({given[row.name].source})\n    {row.doc}")
        print()
    return 0


def backup(arguments: argparse.Namespace) -> int:
    from .state.backup import backup as write

    manifest = _wait(write(load_settings(), arguments.file, force=arguments.force, version=own_version()))
    counts = manifest.counts
    _say(
        f"{arguments.file}: node {manifest.node}, commit {manifest.number}, {counts['orders.jsonl']} orders, "
        f"{counts['trades.jsonl']} trades, {counts['journal.jsonl']} journal entries"
    )
    return 0


def restore(arguments: argparse.Namespace) -> int:
    from .state.backup import restore as bring_back

    settings, replace, node = load_settings(), arguments.replace, arguments.node
    manifest = _wait(bring_back(settings, arguments.file, replace=replace, node=node, version=own_version(), say=_say))
    _say(f"{arguments.file} is restored: node {settings.node_id}, commit {manifest.number}; `tbx verify` compares it")
    return 0


def verify(arguments: argparse.Namespace) -> int:
    from .state.verify import json_of, text_of, verify_file
    from .state.verify import verify as compare

    report = verify_file(arguments.of) if arguments.of else _wait(compare(load_settings()))
    print(json_of(report) if arguments.json else text_of(report))
    return 0 if report.agrees else EXIT_DIFFERENCES


def replay(arguments: argparse.Namespace) -> int:
    from ..venues.simulator.replay import replay as replay_capture

    report = replay_capture(arguments.file, speed=arguments.speed, say=_say)
    if arguments.json:
        import msgspec

        print(msgspec.json.format(msgspec.json.encode(report)).decode())
    else:
        print(report.text())
    return 0


def exchange(arguments: argparse.Namespace) -> int:
    from ..venues.simulator.binance.command import run

    return run(arguments)


def record(arguments: argparse.Namespace) -> int:
    from ..venues.binance.record import run

    return run(arguments)


def key(arguments: argparse.Namespace) -> int:
    scopes = sorted(set(arguments.scopes), key=SCOPES.index)
    if re.fullmatch(r"[a-z0-9_-]{1,32}", arguments.name) is None:
        raise SettingsError(f"key {arguments.name!r}: expected 1 to 32 lower-case letters, digits, - or _ as its name")
    text = f"tbx_{secrets.token_urlsafe(32)}"
    print("The key, shown this once; who calls the API sends it:\n")
    print(f"    {text}\n")
    print("What the service keeps of it; add it to API_KEYS in .env, after a ; where there are others:\n")
    print(f"    API_KEYS={arguments.name}:{key_digest(text).hex()}:{'+'.join(scopes)}")
    return 0


def version(_: argparse.Namespace) -> int:
    print(f"tbx {own_version()} (Python {sys.version.split()[0]})")
    return 0


def own_version() -> str:
    """The installed version; a checkout that was never installed has none."""
    try:
        return metadata.version("tbx")
    except metadata.PackageNotFoundError:
        return "0+checkout"


def _wait(work: Coroutine[Any, Any, T]) -> T:
    """Only some commands need an event loop."""
    import asyncio

    return asyncio.run(work)


def _say(line: str) -> None:
    print(f"tbx: {line}", file=sys.stderr)


def _warn(settings: Settings) -> None:
    for line in settings.warnings:
        print(f"tbx: warning: {line}", file=sys.stderr)


def _scopes(text: str) -> list[str]:
    scopes = re.split(r"[+,]", text)
    if not set(scopes) <= set(SCOPES):
        raise argparse.ArgumentTypeError(f"expected some of {'+'.join(SCOPES)}")
    return scopes


def _parser(name: str) -> argparse.ArgumentParser:
    """The whole command, with the options of the one that is named."""
    parser = argparse.ArgumentParser(prog="tbx", description="Trading bot execution.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(run: Callable[[argparse.Namespace], int], doc: str) -> argparse.ArgumentParser:
        subparser = commands.add_parser(run.__name__, help=doc, description=doc)
        subparser.set_defaults(run=run)
        return subparser

    of_serve = command(serve, "serve the API until SIGINT or SIGTERM")
    of_serve.add_argument(
        "--quarantine", action="store_true", help="set aside entries of the state that cannot be taken over, and go on"
    )
    of_serve.add_argument(
        "--strategy",
        action="append",
        metavar="MODULE:CLASS?KEY=VALUE",
        help="run this strategy beside those of STRATEGIES; may be repeated",
    )
    command(config, "print every setting, its value, where it comes from and what it means").add_argument(
        "--json", action="store_true", help="as JSON"
    )
    of_backup = command(backup, "write the state to a file, while the service runs or not")
    of_backup.add_argument("file", type=Path, metavar="FILE")
    of_backup.add_argument("--force", action="store_true", help="replace the file where it exists")
    of_restore = command(restore, "bring the state of a backup back; the service must not run")
    of_restore.add_argument("file", type=Path, metavar="FILE")
    of_restore.add_argument("--replace", action="store_true", help="back up the state that is there, and replace it")
    of_restore.add_argument("--node", help="take the backup of another node")
    of_verify = command(verify, "compute everything anew from fills and journal, and compare; 1 with differences")
    of_verify.add_argument("--file", type=Path, dest="of", metavar="FILE", help="of a backup")
    of_verify.add_argument("--json", action="store_true", help="as JSON")
    of_replay = command(replay, "replay a capture of Binance frames through the books and report on it")
    of_replay.add_argument("file", type=Path, metavar="FILE", help="lines of `<local_ns> <raw json>`, gzipped or not")
    of_replay.add_argument("--speed", choices=("max", "1x"), default="max", help="as fast as it goes, or as recorded")
    of_replay.add_argument("--json", action="store_true", help="as JSON")
    of_exchange = command(exchange, "run a local exchange that speaks the Binance spot protocol: no money, no network")
    of_record = command(record, "record market data of Binance into a capture that `tbx replay` reads")
    if name == "exchange":
        from ..venues.simulator.binance.command import add_arguments

        add_arguments(of_exchange)
    elif name == "record":
        from ..venues.binance.record import add_arguments as add_record_arguments

        add_record_arguments(of_record)
    of_key = command(key, "make a new API key")
    of_key.add_argument("name", metavar="NAME", help="whose key it is; stands in logs")
    of_key.add_argument(
        "--scopes", type=_scopes, default=["read", "trade"], help="read+trade+admin, default read+trade"
    )
    command(version, "print the version")
    return parser


def exit_code(run: Callable[[], int]) -> int:
    """What `run` returns, or the code and the lines on standard error for the exception that it raises."""
    try:
        code = run()
        sys.stdout.flush()
        return code
    except SettingsError as error:
        for line in error.problems:
            print(f"tbx: {line}", file=sys.stderr)
        return EXIT_ERROR
    except StoreUnreadable as error:
        for line in error.problems:
            print(f"tbx: {' '.join(line.split())}", file=sys.stderr)
        return EXIT_ERROR
    except TbxError as error:
        print(f"tbx: {' '.join(str(error).split())}", file=sys.stderr)
        return EXIT_ERROR
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # `tbx config | head`: the reader has what it wanted. What is still buffered must have somewhere to go, else the
        # interpreter complains about it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def main(argv: Sequence[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    arguments = _parser(next((word for word in argv if not word.startswith("-")), "")).parse_args(argv)
    return exit_code(lambda: int(arguments.run(arguments)))


if __name__ == "__main__":
    sys.exit(main())
