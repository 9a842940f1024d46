"""`tbx verify`: takes a state (of a service that runs or not, or of a backup), audits it, and prints what differs."""

import tempfile
from pathlib import Path

import msgspec

from ...core.settings import Settings
from ...core.state import backup as file
from ...core.state.archive import Archive
from .audit import Audit, Report
from .backup import archive_of, check_there, redis_of, state_of

DIFFERENCES_SHOWN = 50  # of one check


async def verify(settings: Settings) -> Report:
    """The state of this moment. Raises SettingsError, StoreError where it cannot be had."""
    check_there(settings)
    async with redis_of(settings, alone=False) as (connection, address, running):
        snapshot = await state_of(connection, address, settings)
        path = archive_of(settings)
        archive = Archive(path) if path.is_file() else None
        try:
            return Audit(snapshot, archive, moving=running).run()
        finally:
            if archive is not None:
                archive.close()


def verify_file(path: Path) -> Report:
    """The state in a backup; all of the file is checked first."""
    with tempfile.TemporaryDirectory() as folder:
        unpacked = Path(folder) / file.ARCHIVE
        _, snapshot = file.read(path, unpacked)
        archive = Archive(unpacked) if unpacked.exists() else None
        try:
            return Audit(snapshot, archive, moving=False).run()
        finally:
            if archive is not None:
                archive.close()


def text_of(report: Report) -> str:
    """For a person."""
    lines = [f"node {report.node}, commit {report.number}, event {report.seq}"]
    for check in report.checks:
        count = len(check.differences)
        result = "ok" if not count else f"{count} {'difference' if count == 1 else 'differences'}"
        lines.append(f"{check.name}: {check.compared} compared, {result}")
        for found in check.differences[:DIFFERENCES_SHOWN]:
            lines.append(f"    {found.key}: expected {found.expected}, found {found.found}")
        if count > DIFFERENCES_SHOWN:
            lines.append(f"    and {count - DIFFERENCES_SHOWN} more")
    lines += [f"note: {note}" for note in report.notes]
    lines.append(f"set aside: {len(report.quarantined)}")
    lines += [f"    {name}: {reason}" for name, reason in report.quarantined.items()]
    lines.append("all agrees" if report.agrees else "there are differences")
    return "\n".join(lines)


def json_of(report: Report) -> str:
    """For programs."""
    document = {"agrees": report.agrees, **msgspec.to_builtins(report)}
    return msgspec.json.format(msgspec.json.encode(document)).decode()
