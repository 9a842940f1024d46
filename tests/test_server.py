"""The embedded redis-server: real processes, killed, torn, left over, misplaced."""

from __future__ import annotations

import asyncio
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tbx.core.model.errors import SettingsError, StoreCorrupt, StoreError
from tbx.core.state import server as server_module
from tbx.core.state.server import EmbeddedRedis, find_binary, find_conf, read_version, socket_path

from .redis_fixtures import a_client, a_redis, a_store, batch, committed, in_loop, state_of, until


def embedded(folder: Path, **options: object) -> EmbeddedRedis:
    return EmbeddedRedis(asyncio.get_running_loop(), folder, **options)  # type: ignore[arg-type]


def gone(pid: int) -> bool:
    """Whether the process has ended (also where nobody has collected it yet)."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    shown = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return shown.strip().startswith("Z") or not shown.strip()


async def filled(folder: Path, commits: int) -> None:
    """Leave a data folder that holds that many commits, each of one order and one event."""
    async with a_redis(folder) as server, a_store(server.address) as store:
        for number in range(1, commits + 1):
            one = batch(number, number, events=[b"{}"], puts=[("orders", f"o{number}", b'{"n":%d}' % number)])
            assert await committed(store, one) is None


def append_only_file(folder: Path) -> Path:
    """The file that grows with each commit: one before Redis 7, the newest of several since."""
    single = folder / "appendonly.aof"
    return single if single.exists() else max((folder / "appendonlydir").glob("*.incr.aof"))


# --- starting and stopping


@in_loop
async def test_a_stop_and_a_start_bring_back_the_same_state(tmp_path: Path) -> None:
    await filled(tmp_path, 20)
    async with a_redis(tmp_path) as server:
        assert server.warnings == []
        assert server.version == read_version(find_binary())
        loaded = await state_of(server.address)
    assert (len(loaded.tables["orders"]), loaded.number, loaded.seq) == (20, 20, 20)


@in_loop
async def test_a_killed_server_comes_back_with_every_acknowledged_commit(tmp_path: Path) -> None:
    async with a_redis(tmp_path, appendfsync="always") as server, a_store(server.address) as store:
        for number in range(1, 51):
            assert await committed(store, batch(number, 0, puts=[("orders", f"o{number}", b"1")])) is None
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        await until(lambda: not server.alive(), "its end")
        await server.start()
        assert server.alive()
        loaded = await state_of(server.address)
        assert (len(loaded.tables["orders"]), loaded.number) == (50, 50)


@in_loop
async def test_the_redis_conf_of_the_repo_is_used_and_the_settings_win_over_it(tmp_path: Path) -> None:
    conf = find_conf()
    assert conf is not None
    assert conf.name == "redis.conf"
    async with a_redis(tmp_path, appendfsync="always") as server, a_client(server.address) as client:
        expected = {"appendfsync": "always", "appendonly": "yes", "maxclients": "128", "port": "0", "save": ""}
        for name, value in expected.items():
            assert (await client.call("CONFIG", "GET", name))[1].decode() == value, name


@in_loop
async def test_without_a_redis_conf_the_promises_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "find_conf", lambda: None)
    async with a_redis(tmp_path) as server, a_client(server.address) as client:
        expected = {"appendonly": "yes", "appendfsync": "everysec", "port": "0", "save": "", "dir": str(tmp_path)}
        expected |= {"maxmemory-policy": "noeviction", "aof-load-truncated": "yes"}
        for name, value in expected.items():
            assert (await client.call("CONFIG", "GET", name))[1].decode() == value, name


@in_loop
async def test_start_and_stop_may_be_called_again(tmp_path: Path) -> None:
    async with a_redis(tmp_path) as server:
        pid = server.pid
        await server.start()
        assert server.pid == pid
        await server.stop()
        await server.stop()
        assert not server.alive()
        assert pid is not None
        assert gone(pid)
        await server.start()
        assert server.alive()


@in_loop
async def test_a_long_log_is_put_aside_at_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "LOG_BYTES_MAX", 10)
    (tmp_path / "redis.log").write_text("old and longer than ten bytes\n")
    async with a_redis(tmp_path) as server:
        assert (tmp_path / "redis.log.1").read_text().startswith("old")
        assert "ready to accept connections" in server.log_path.read_text()


@in_loop
async def test_a_data_folder_too_deep_for_a_socket_gets_one_elsewhere(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    async with a_redis(deep) as server:
        socket = Path(server.address.path)
        assert len(os.fsencode(socket)) <= server_module.SOCKET_PATH_BYTES_MAX
        assert socket.parent.stat().st_mode & 0o077 == 0
        assert (await state_of(server.address)).number == 0
    shutil.rmtree(socket.parent)


def test_a_folder_that_others_can_enter_is_not_used_for_the_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory() as short:  # the folders of pytest may be too long for a socket themselves
        monkeypatch.setattr("tempfile.tempdir", short)
        deep = Path(short) / ("d" * 120)
        folder = socket_path(deep).parent
        folder.chmod(0o777)
        with pytest.raises(SettingsError, match="is not a private folder of this user"):
            socket_path(deep)
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    with pytest.raises(SettingsError, match="is too long for a socket: set a shorter DATA_DIR or TMPDIR"):
        socket_path(deep)


# --- a service that dies

SERVICE = """
import asyncio, os, sys, uvloop
from pathlib import Path
from tbx.core.state.server import EmbeddedRedis
from tbx.core.state import server as module
from tbx.core.state.store import Batch, Store

async def main():
    loop = asyncio.get_running_loop()
    module.LINUX = module.LINUX and sys.argv[2] == "with-death-signal"
    server = EmbeddedRedis(loop, Path(sys.argv[1]))
    await server.start()
    store = Store(loop, server.address, "main", journal_id="j")
    await store.open()
    await store.acquire(1)
    answer = loop.create_future()
    store.commit(Batch(1, 1, [b"{}"], [("orders", "o", b"1")], [], []), answer.set_result)
    print(server.pid, await answer, flush=True)
    await asyncio.Event().wait()

uvloop.run(main())
"""


async def a_service(folder: Path, death_signal: str) -> tuple[asyncio.subprocess.Process, int]:
    """A process that runs an embedded Redis and has committed once; with the process id of its Redis."""
    source = Path(server_module.__file__).parents[3]
    service = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", SERVICE, str(folder), death_signal),
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(source)},
    )
    assert service.stdout is not None
    said = (await service.stdout.readline()).decode().split()
    assert said[1] == "None"
    return service, int(said[0])


@pytest.mark.skipif(platform.system() != "Linux", reason="only Linux has a signal for the death of a parent")
@in_loop
async def test_the_server_of_a_killed_service_ends_by_itself(tmp_path: Path) -> None:
    service, pid = await a_service(tmp_path, "with-death-signal")
    service.kill()
    await service.wait()
    await until(lambda: gone(pid), "the end of its redis-server")
    async with a_redis(tmp_path) as server:
        assert (await state_of(server.address)).tables["orders"] == {"o": b"1"}


@pytest.mark.parametrize("trace", ["as left", "no pid file", "no socket"])
@in_loop
async def test_a_server_left_over_is_ended_before_another_starts(tmp_path: Path, trace: str) -> None:
    service, pid = await a_service(tmp_path, "without")
    service.kill()
    await service.wait()
    assert not gone(pid)
    if trace == "no pid file":
        (tmp_path / "redis.pid").unlink()
    if trace == "no socket":
        (tmp_path / "redis.sock").unlink()
    async with a_redis(tmp_path) as server:
        assert gone(pid)
        assert server.pid != pid
        assert (await state_of(server.address)).tables["orders"] == {"o": b"1"}


@in_loop
async def test_a_server_left_over_that_does_not_end_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "STOP_TIMEOUT_S", 0.05)
    monkeypatch.setattr("tbx.core.state.resp.ANSWER_TIMEOUT_S", 0.05)
    monkeypatch.setattr("tbx.core.state.resp.WATCH_PERIOD_S", 0.01)
    service, pid = await a_service(tmp_path, "without")
    service.kill()
    await service.wait()
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(StoreError, match=rf"redis-server {pid} of an earlier run still uses .* \(kill {pid}\)"):
            await embedded(tmp_path).start()
    finally:
        os.kill(pid, signal.SIGKILL)


@in_loop
async def test_two_services_cannot_share_a_data_folder(tmp_path: Path) -> None:
    async with a_redis(tmp_path) as first:
        with pytest.raises(SettingsError, match=rf"another tbx service \(process {os.getpid()}\) uses DATA_DIR"):
            await embedded(tmp_path).start()
        assert first.alive()
        assert (await state_of(first.address)).number == 0
    async with a_redis(tmp_path):
        pass


# --- files that are torn, damaged or from elsewhere


@pytest.mark.parametrize("cut", [1, 7, 40, 120])
@in_loop
async def test_a_torn_end_of_the_file_loses_whole_commits_only_and_is_said(tmp_path: Path, cut: int) -> None:
    await filled(tmp_path, 20)
    path = append_only_file(tmp_path)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - cut)
    async with a_redis(tmp_path) as server:
        loaded = await state_of(server.address)
        assert loaded.number == 19
        assert set(loaded.tables["orders"]) == {f"o{n}" for n in range(1, 20)}
        async with a_store(server.address) as store:
            entries = await store.journal_since(0, 100)
            assert entries is not None
            assert [seq for seq, _ in entries] == list(range(1, 20))
        assert any("Truncating the AOF" in warning for warning in server.warnings), server.warnings
    async with a_redis(tmp_path) as server:
        assert server.warnings == []


@in_loop
async def test_a_file_damaged_in_the_middle_is_named_with_what_to_do(tmp_path: Path) -> None:
    await filled(tmp_path, 20)
    path = append_only_file(tmp_path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 200] = b"#" * 200
    path.write_bytes(content)
    with pytest.raises(StoreCorrupt, match="damaged in the middle; save a copy, then run redis-check-aof --fix"):
        await embedded(tmp_path).start()
    assert path.read_bytes() == content


@in_loop
async def test_files_of_a_newer_redis_are_not_taken_for_none(tmp_path: Path) -> None:
    old = tmp_path / "redis-server"
    real = find_binary()
    # The same binary under the version of an older one.
    old.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo "Redis server v=6.2.99" && exit\nexec {real} "$@"\n')
    old.chmod(0o755)
    data = tmp_path / "data"
    (data / "appendonlydir").mkdir(parents=True)
    (data / "appendonlydir" / "appendonly.aof.manifest").write_text("file appendonly.aof.1.base.rdb seq 1 type b\n")
    with pytest.raises(StoreError, match="was written by Redis 7 or newer, .* is 6.2.99: put the newer one on PATH"):
        await embedded(data, binary=old).start()


@in_loop
async def test_a_file_of_a_newer_format_is_named_with_what_to_do(tmp_path: Path) -> None:
    await filled(tmp_path, 1)
    append_only_file(tmp_path).write_bytes(b"REDIS0099" + bytes(64))
    with pytest.raises(StoreCorrupt, match="newer Redis; put that redis-server on PATH"):
        await embedded(tmp_path).start()


# --- what the operator can get wrong


@in_loop
async def test_a_folder_that_is_a_file_is_said(tmp_path: Path) -> None:
    place = tmp_path / "data"
    place.write_text("")
    with pytest.raises(SettingsError, match="DATA_DIR .*/data cannot be written"):
        await embedded(place).start()


@in_loop
async def test_a_missing_binary_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(SettingsError, match=r"no redis-server found: install Redis .*, or set REDIS_URL"):
        await embedded(tmp_path).start()


@pytest.mark.parametrize("script", ["#!/bin/sh\nexit 1\n", "not a program", "#!/bin/sh\necho v=9\n"])
@in_loop
async def test_a_binary_that_cannot_run_here_is_said(tmp_path: Path, script: str) -> None:
    broken = tmp_path / "redis-server"
    broken.write_text(script)
    broken.chmod(0o755)
    with pytest.raises(SettingsError, match=r"redis-server cannot run .*or set REDIS_URL"):
        await embedded(tmp_path / "data", binary=broken).start()


@in_loop
async def test_a_redis_conf_with_a_mistake_is_said_and_the_folder_is_free_again(tmp_path: Path) -> None:
    conf = tmp_path / "redis.conf"
    conf.write_text("apendonly yes\n")
    with pytest.raises(SettingsError, match=r"redis.conf holds an option this redis-server does not know") as caught:
        await embedded(tmp_path / "data", conf_path=conf).start()
    assert "\n" not in str(caught.value)
    async with a_redis(tmp_path / "data"):
        pass


@in_loop
async def test_any_other_failure_tells_the_last_thing_redis_said(tmp_path: Path) -> None:
    odd = tmp_path / "redis-server"
    odd.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Redis server v=7.0.0" && exit\necho "no luck"\nexit 3\n')
    odd.chmod(0o755)
    with pytest.raises(StoreError, match=r"ended at start with code 3: no luck \(see .*redis.log\)"):
        await embedded(tmp_path / "data", binary=odd).start()


@in_loop
async def test_a_server_that_ignores_shutdown_is_ended_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "STOP_TIMEOUT_S", 0.02)
    monkeypatch.setattr("tbx.core.state.resp.CONNECT_TIMEOUT_S", 0.02)
    monkeypatch.setattr("tbx.core.state.resp.ANSWER_TIMEOUT_S", 0.02)
    monkeypatch.setattr("tbx.core.state.resp.WATCH_PERIOD_S", 0.01)
    server = embedded(tmp_path)
    await server.start()
    pid = server.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    await server.stop()
    await until(lambda: gone(pid), "its end")
    assert [warning.rsplit(" ", 1)[1] for warning in server.warnings] == ["SIGTERM", "SIGKILL"]
