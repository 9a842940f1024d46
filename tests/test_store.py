"""The store against a real redis-server: atomic, once, in order, by one writer, and what it says when Redis fails."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import ssl
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tbx.core.model.errors import SettingsError, StoreCorrupt, StoreError, StoreFenced, StoreUnavailable
from tbx.core.state import resp
from tbx.core.state.address import Address, parse_address
from tbx.core.state.batch import Batch
from tbx.core.state.resp import pack
from tbx.core.state.store import COMMIT, TABLES, Store

from .redis_fixtures import a_client, a_redis, a_store, batch, committed, in_loop, state_of, until

# --- what a commit does


@in_loop
async def test_a_commit_is_found_again_by_the_next_start(tmp_path: Path) -> None:
    async with a_redis(tmp_path) as server:
        async with a_store(server.address) as store:
            first = batch(
                1,
                2,
                events=[b'{"seq":1}', b'{"seq":2}'],
                puts=[("orders", "o1", b'{"a":1}'), ("trades", "f1", b"{}"), ("meta", "mode", b"paper")],
                appends=[("equity", b'{"e":1}'), ("equity", b'{"e":2}')],
            )
            assert await committed(store, first) is None
            assert await committed(store, batch(2, 2, deletes=[("trades", "f1")], puts=[("risk", "r", b"1")])) is None
        loaded = await state_of(server.address)
    assert loaded.tables == {table: {} for table in TABLES} | {"orders": {"o1": b'{"a":1}'}, "risk": {"r": b"1"}}
    assert (loaded.number, loaded.seq, loaded.equity) == (2, 2, [b'{"e":1}', b'{"e":2}'])
    assert loaded.meta["mode"] == b"paper"
    assert loaded.meta["schema"] == b"2"
    assert loaded.meta["epoch"] == b"2"


@in_loop
async def test_a_commit_sent_twice_is_applied_once(tmp_path: Path) -> None:
    async with a_redis(tmp_path) as server, a_store(server.address) as store:
        same = batch(1, 1, events=[b"{}"], puts=[("orders", "o", b"1")], appends=[("equity", b"{}")])
        assert await committed(store, same) is None
        assert await committed(store, same) is None
        loaded = await store.load()
        assert loaded.equity == [b"{}"]
        assert await store.journal_since(0, 10) == [(1, b"[{}]")]


@in_loop
async def test_pipelined_commits_are_answered_in_order_and_applied_in_order(tmp_path: Path) -> None:
    async with a_redis(tmp_path) as server, a_store(server.address) as store:
        answered: list[int] = []
        for number in range(1, 201):
            one = batch(number, number, events=[b"%d" % number], puts=[("orders", "same", b"%d" % number)])
            store.commit(one, lambda error, number=number: answered.append(number if error is None else -number))
        await until(lambda: len(answered) == 200, "200 answers")
        assert answered == list(range(1, 201))
        assert (await store.load()).tables["orders"] == {"same": b"200"}


@in_loop
async def test_a_commit_that_skips_a_number_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    async with a_redis(tmp_path) as server, a_store(server.address) as store:
        error = await committed(store, batch(2, 1, events=[b"{}"], puts=[("orders", "o", b"1")]))
        assert isinstance(error, StoreUnavailable)
        assert "commit 2 must wait: Redis is at 0" in str(error)
        assert (await store.load()).tables["orders"] == {}


@in_loop
async def test_a_commit_that_reuses_event_numbers_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    async with a_redis(tmp_path) as server, a_store(server.address) as store:
        assert await committed(store, batch(1, 5, events=[b"{}"])) is None
        error = await committed(store, batch(2, 6, events=[b"{}", b"{}"], puts=[("orders", "o", b"1")]))
        assert type(error) is StoreError
        assert "reuses event numbers" in str(error)
        assert (await store.load()).tables["orders"] == {}


@in_loop
async def test_a_batch_larger_than_luas_stack_is_applied_whole(tmp_path: Path) -> None:
    async with a_redis(tmp_path) as server, a_store(server.address) as store:
        rows = {f"o{i}": b"%d" % i for i in range(10_001)}
        assert await committed(store, batch(1, 0, puts=[("orders", k, v) for k, v in rows.items()])) is None
        assert (await store.load()).tables["orders"] == rows
        assert await committed(store, batch(2, 0, deletes=[("orders", k) for k in rows])) is None
        assert (await store.load()).tables["orders"] == {}


@in_loop
async def test_the_caller_may_reuse_a_batch_as_soon_as_commit_has_returned(tmp_path: Path) -> None:
    async with a_redis(tmp_path) as server, a_store(server.address) as store:
        mutable = batch(1, 0, puts=[("orders", "o", b"1")])
        answer: asyncio.Future[StoreError | None] = asyncio.get_running_loop().create_future()
        store.commit(mutable, answer.set_result)
        mutable.puts.clear()
        assert await answer is None
        assert (await store.load()).tables["orders"] == {"o": b"1"}


TEXTS = st.text(max_size=8)
BLOBS = st.binary(max_size=40)
FIELDS = st.tuples(st.sampled_from(TABLES), TEXTS)
STEPS = st.lists(
    st.tuples(st.dictionaries(FIELDS, st.none() | BLOBS, max_size=12), st.lists(BLOBS, max_size=3)), max_size=8
)


@settings(max_examples=25, deadline=None)
@given(steps=STEPS)
def test_any_sequence_of_batches_leaves_what_a_dictionary_would_hold(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[dict[tuple[str, str], bytes | None], list[bytes]]]
) -> None:
    @in_loop
    async def check() -> None:
        model: dict[str, dict[str, bytes]] = {table: {} for table in TABLES}
        journal: list[bytes] = []
        async with a_redis(tmp_path_factory.mktemp("any")) as server, a_store(server.address) as store:
            for number, (rows, events) in enumerate(steps, 1):
                journal += events
                puts = [(table, field, value) for (table, field), value in rows.items() if value is not None]
                deletes = [place for place, value in rows.items() if value is None]
                one = batch(number, len(journal), events=events, puts=puts, deletes=deletes)
                assert await committed(store, one) is None
                for table, field, value in puts:
                    model[table][field] = value
                for table, field in deletes:
                    model[table].pop(field, None)
            loaded = await store.load()
            assert loaded.tables == model
            assert (loaded.number, loaded.seq) == (len(steps), len(journal))

    check()


# --- one writer


@in_loop
async def test_a_second_writer_fences_the_first(tmp_path: Path) -> None:
    async with a_redis(tmp_path) as server, a_store(server.address) as old:
        assert await committed(old, batch(1, 0, puts=[("orders", "o", b"old")])) is None
        async with a_store(server.address, journal_id="ignored") as new:
            assert (old.epoch, new.epoch) == (1, 2)
            assert new.journal_id == "j1"
            error = await committed(old, batch(2, 0, puts=[("orders", "o", b"late")]))
            assert isinstance(error, StoreFenced)
            assert "epoch 2, ours is 1" in str(error)
            # Fenced also where its number was applied by the other one.
            assert await committed(new, batch(2, 0, puts=[("orders", "o", b"new")])) is None
            assert isinstance(await committed(old, batch(2, 0)), StoreFenced)
            assert isinstance(await committed(old, batch(9, 0), whole=True), StoreFenced)
            assert (await new.load()).tables["orders"] == {"o": b"new"}


@in_loop
async def test_data_deleted_under_us_is_said_and_never_written_over(tmp_path: Path) -> None:
    async with a_redis(tmp_path) as server, a_store(server.address) as store, a_client(server.address) as client:
        assert await committed(store, batch(1, 0, puts=[("orders", "o", b"1")])) is None
        await client.call("FLUSHALL")
        error = await committed(store, batch(2, 0, puts=[("orders", "p", b"1")]))
        assert isinstance(error, StoreCorrupt)
        assert "is gone" in str(error)
        assert await client.call("DBSIZE") == 0
        await client.call("SET", "tbx:main:lease", "other:1")
        error = await committed(store, batch(2, 0))
        assert isinstance(error, StoreCorrupt)
        assert "is of another state" in str(error)


@in_loop
async def test_redis_back_with_older_data_is_noticed_and_can_be_written_anew(tmp_path: Path) -> None:
    async with a_redis(tmp_path) as server, a_store(server.address) as store, a_client(server.address) as client:
        for number in range(1, 6):
            one = batch(number, number, events=[b"{}"], puts=[("orders", f"o{number}", b"1")])
            assert await committed(store, one) is None
        # As after a power cut: commits 3, 4 and 5 are lost.
        await client.call("HSET", "tbx:main:meta", "number", "2", "seq", "2")
        error = await committed(store, batch(6, 6, events=[b"{}"]))
        assert isinstance(error, StoreCorrupt)
        assert "Redis is at commit 2 and had acknowledged 5" in str(error)
        everything = batch(6, 6, events=[b'{"seq":6}'], puts=[("orders", "o6", b"1"), ("risk", "r", b"1")])
        assert await committed(store, everything, whole=True) is None
        assert await committed(store, batch(7, 7, events=[b"{}"], puts=[("orders", "o7", b"1")])) is None
        # A copy of it that comes late, from a connection that was given up, changes nothing.
        assert await committed(store, everything, whole=True) is None
        loaded = await store.load()
        assert loaded.tables["orders"] == {"o6": b"1", "o7": b"1"}
        assert (loaded.number, loaded.seq) == (7, 7)
        assert await store.journal_since(5, 10) == [(6, b'[{"seq":6}]'), (7, b"[{}]")]
        assert await store.journal_since(4, 10) is None


# --- Redis away


@in_loop
async def test_a_killed_redis_fails_what_is_in_flight_and_what_it_had_acknowledged_is_there_after(
    tmp_path: Path,
) -> None:
    states: list[bool] = []
    async with (
        a_redis(tmp_path) as server,
        a_store(server.address, on_state=lambda up, _: states.append(up)) as store,
    ):
        answers: list[tuple[int, StoreError | None]] = []
        number = 0
        while number < 300:
            number += 1
            one = batch(number, number, events=[b"{}"], puts=[("orders", f"o{number}", b"1")])
            store.commit(one, lambda error, number=number: answers.append((number, error)))
            if number == 150:
                await until(lambda: len(answers) > 100, "a hundred commits")
                assert server.pid is not None
                os.kill(server.pid, signal.SIGKILL)
        await until(lambda: False in states, "the loss")
        await until(lambda: len(answers) == 300, "an answer for every commit")
        good = [n for n, error in answers if error is None]
        assert good == list(range(1, len(good) + 1))
        assert all(isinstance(error, StoreUnavailable) for n, error in answers if n > len(good))
        assert not store.up
        assert isinstance(await committed(store, batch(999, 999)), StoreUnavailable)

        await until(lambda: not server.alive(), "the end of the process")
        await server.start()
        await until(lambda: store.up, "the connection")
        assert states[-1] is True
        # The same numbers again: what Redis had taken without telling us is not applied twice.
        for number in range(len(good) + 1, 301):
            one = batch(number, number, events=[b"{}"], puts=[("orders", f"o{number}", b"1")])
            assert await committed(store, one) is None
        loaded = await store.load()
        assert len(loaded.tables["orders"]) == 300
        entries = await store.journal_since(0, 1_000)
        assert entries is not None
        assert [seq for seq, _ in entries] == list(range(1, 301))


@in_loop
async def test_a_redis_that_hangs_is_given_up_and_connected_to_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resp, "ANSWER_TIMEOUT_S", 0.05)
    monkeypatch.setattr(resp, "WATCH_PERIOD_S", 0.01)
    async with a_redis(tmp_path) as server, a_store(server.address) as store:
        assert server.pid is not None
        os.kill(server.pid, signal.SIGSTOP)
        one = batch(1, 1, events=[b"{}"], puts=[("orders", "o", b"1")])
        error = await committed(store, one)
        os.kill(server.pid, signal.SIGCONT)
        assert isinstance(error, StoreUnavailable)
        assert "no answer for 0.05 s" in str(error)
        await until(lambda: store.up, "the connection")
        assert await committed(store, one) is None
        assert await store.journal_since(0, 10) == [(1, b"[{}]")]


@in_loop
async def test_commits_beyond_the_bound_are_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_redis(tmp_path) as server, a_store(server.address) as store:
        monkeypatch.setattr(resp, "PENDING_MAX", 10)
        answers: list[StoreError | None] = []
        for number in range(1, 16):
            store.commit(batch(number, 0), answers.append)
        assert store.pending == 10
        assert answers == []  # never from inside commit
        await until(lambda: len(answers) == 15, "the answers")
        assert sum(isinstance(answer, StoreUnavailable) for answer in answers) == 5
        assert (await store.load()).number == 10


@in_loop
async def test_a_forgotten_script_is_told_again_without_anybody_noticing(tmp_path: Path) -> None:
    async with a_redis(tmp_path) as server, a_store(server.address) as store, a_client(server.address) as client:
        await client.call("SCRIPT", "FLUSH")
        answers: list[StoreError | None] = []
        for number in range(1, 51):
            store.commit(batch(number, number, events=[b"{}"]), answers.append)
        await until(lambda: len(answers) == 50, "the answers")
        assert answers == [None] * 50


@in_loop
async def test_a_commit_that_overtakes_one_whose_script_was_forgotten_is_applied_after_it(tmp_path: Path) -> None:
    async with a_redis(tmp_path) as server, a_store(server.address) as store, a_client(server.address) as client:
        await client.call("SCRIPT", "FLUSH")
        answers: list[StoreError | None] = []
        connection = store._connection
        assert connection is not None
        # Commit 3 leaves between the two answers that 1 and 2 are sent again for, and so reaches Redis before 2.
        store.commit(batch(1, 1, events=[b"1"]), answers.append)
        connection.send(pack("PING"), lambda _: store.commit(batch(3, 3, events=[b"3"]), answers.append))
        store.commit(batch(2, 2, events=[b"2"]), answers.append)
        await until(lambda: len(answers) == 3, "the answers")
        assert answers == [None] * 3
        assert await store.journal_since(0, 10) == [(1, b"[1]"), (2, b"[2]"), (3, b"[3]")]


@in_loop
async def test_a_receiver_that_fails_does_not_keep_the_others_from_their_answer(tmp_path: Path) -> None:
    faults: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context["exception"]))
    async with a_redis(tmp_path) as server, a_store(server.address) as store:
        store.commit(batch(1, 0), lambda _: 1 // 0)  # type: ignore[arg-type,return-value]
        assert await committed(store, batch(2, 0)) is None
    assert [type(fault) for fault in faults] == [ZeroDivisionError]


@in_loop
async def test_commits_in_flight_are_answered_before_close_returns(tmp_path: Path) -> None:
    async with a_redis(tmp_path) as server:
        answers: list[StoreError | None] = []
        async with a_store(server.address) as store:
            for number in range(1, 101):
                store.commit(batch(number, 0), answers.append)
        assert answers == [None] * 100
        assert (await state_of(server.address)).number == 100


# --- all or nothing


@in_loop
async def test_a_redis_out_of_memory_refuses_the_whole_commit(tmp_path: Path) -> None:
    async with a_redis(tmp_path) as server, a_store(server.address) as store, a_client(server.address) as client:
        assert await committed(store, batch(1, 0, puts=[("orders", "o", b"1")])) is None
        await client.call("CONFIG", "SET", "maxmemory", 1)
        before = await store.load()
        for refused in (
            batch(2, 1, events=[b"{}"], puts=[("orders", "o", b"2"), ("risk", "r", b"1")]),
            batch(2, 0, appends=[("equity", b"{}")], puts=[("orders", "p", b"1")]),
        ):
            error = await committed(store, refused)
            assert isinstance(error, StoreUnavailable)
            assert "raise its maxmemory" in str(error)
            assert await store.load() == before
        # Redis decides at the first write; a deletion is let in and then the rest of its commit is too.
        freeing = batch(2, 1, events=[b"{}"], deletes=[("orders", "o")])
        assert await committed(store, freeing) is None
        assert (await store.load()).tables["orders"] == {}
        await client.call("CONFIG", "SET", "maxmemory", 0)
        assert await committed(store, batch(3, 2, events=[b"{}"])) is None


@in_loop
async def test_a_replica_refuses_the_whole_commit(tmp_path: Path) -> None:
    async with a_redis(tmp_path) as server, a_store(server.address) as store, a_client(server.address) as client:
        assert await committed(store, batch(1, 0, puts=[("orders", "o", b"1")])) is None
        await client.call("REPLICAOF", "127.0.0.1", 1)
        error = await committed(store, batch(2, 0, deletes=[("orders", "o")]))
        assert isinstance(error, StoreUnavailable)
        assert "is a replica" in str(error)
        await client.call("REPLICAOF", "NO", "ONE")
        assert (await store.load()).tables["orders"] == {"o": b"1"}


# --- what open finds

WRONG = (
    (("SET", "tbx:main:orders", "x"), "tbx:main:orders: is a string, must be a hash"),
    (("HSET", "tbx:main:journal", "x", "y"), "tbx:main:journal: is a hash, must be a stream"),
    (("LPUSH", "tbx:main:lease", "x"), "tbx:main:lease: is a list, must be a string"),
    (("HSET", "tbx:main:orders", "o", "{}"), "tbx:main:meta: is missing, yet tbx:main:orders exists"),
    (("HSET", "tbx:main:meta", "schema", "3"), "holds state of schema 3, this version knows up to 2"),
    (("HSET", "tbx:main:meta", "schema", "x"), "field schema is b'x', must be a number"),
    (("HSET", "tbx:main:meta", "mode", "x"), "field schema is None, must be a number"),
)


@pytest.mark.parametrize(("command", "said"), WRONG, ids=lambda value: str(value)[:40])
@in_loop
async def test_open_says_what_is_wrong_in_redis(tmp_path: Path, command: tuple[str, ...], said: str) -> None:
    async with a_redis(tmp_path) as server, a_client(server.address) as client:
        await client.call(*command)
        store = Store(asyncio.get_running_loop(), server.address, "main", journal_id="j")
        with pytest.raises(StoreError, match=re.escape(said)):
            await store.open()
        assert not store.up


@in_loop
async def test_open_refuses_a_redis_that_may_evict_orders(tmp_path: Path) -> None:
    async with a_redis(tmp_path) as server, a_client(server.address) as client:
        await client.call("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        store = Store(asyncio.get_running_loop(), server.address, "main", journal_id="j")
        with pytest.raises(StoreError, match=r"may throw orders away.*set it to noeviction"):
            await store.open()


@in_loop
async def test_loading_a_damaged_number_names_the_field(tmp_path: Path) -> None:
    async with a_redis(tmp_path) as server, a_store(server.address) as store, a_client(server.address) as client:
        await client.call("HSET", "tbx:main:meta", "seq", "many")
        with pytest.raises(StoreCorrupt, match="tbx:main:meta: field seq is b'many'"):
            await store.load()


@in_loop
async def test_an_unreachable_redis_is_said_in_one_line(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    for url in (f"unix://{tmp_path}/none.sock", "redis://user:hunter2@127.0.0.1:1/0"):
        with pytest.raises(StoreUnavailable, match=r"cannot be reached .* is it running\?") as caught:
            await Store(loop, url, "main", journal_id="j").open()
        assert "hunter2" not in str(caught.value)
        assert "\n" not in str(caught.value)


async def _listen(client_speaks_to: bytes) -> tuple[asyncio.Server, int]:
    """A server that is not Redis: it answers everything with the same bytes."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(client_speaks_to)
        await writer.drain()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    return server, server.sockets[0].getsockname()[1]


@in_loop
async def test_what_is_not_a_redis_is_told_apart() -> None:
    server, port = await _listen(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    with pytest.raises(StoreUnavailable, match="what answers is not Redis"):
        await Store(asyncio.get_running_loop(), f"redis://127.0.0.1:{port}", "main", journal_id="j").open()
    server.close()


# --- passwords, databases, TLS


@in_loop
async def test_a_password_is_used_missed_and_refused(tmp_path: Path) -> None:
    async with a_redis(tmp_path) as server, a_client(server.address) as client:
        socket = server.address.path
        await client.call("CONFIG", "SET", "requirepass", "hunter2")
        async with a_store(f"unix://:hunter2@{socket}") as store:
            assert await committed(store, batch(1, 0)) is None
            assert "hunter2" not in repr(store.address) + str(store.address)
        loop = asyncio.get_running_loop()
        with pytest.raises(StoreError, match="asks for a password: write it into REDIS_URL"):
            await Store(loop, f"unix://{socket}", "main", journal_id="j").open()
        with pytest.raises(StoreError, match="refused the user name or password") as caught:
            await Store(loop, f"unix://:hunter3@{socket}", "main", journal_id="j").open()
        assert "hunter3" not in str(caught.value)
        await client.call("ACL", "SETUSER", "bot", "on", ">secret", "~tbx:*", "+@all", "-@dangerous")
        with pytest.raises(StoreError, match="does not let this user run the command"):
            await Store(loop, f"unix://bot:secret@{socket}", "main", journal_id="j").open()
        await client.call("ACL", "SETUSER", "bot", "+info")
        async with a_store(f"unix://bot:secret@{socket}") as store:
            assert await committed(store, batch(2, 0)) is None
        await client.call("CONFIG", "SET", "requirepass", "")
        with pytest.raises(StoreError, match="take it out of REDIS_URL"):
            await Store(loop, f"unix://:hunter2@{socket}", "main", journal_id="j").open()


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A self-signed certificate for localhost and its key, in one file."""
    path = tmp_path / "localhost.pem"
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *names]
    try:
        subprocess.run([*command, "-keyout", f"{path}.key", "-out", path], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("no openssl on PATH to make a certificate with")
    return path


@in_loop
async def test_tls_is_spoken_and_its_certificate_checked(tmp_path: Path, certificate: Path) -> None:
    async with a_redis(tmp_path) as server:

        async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            there, back = await asyncio.open_unix_connection(server.address.path)

            async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
                while data := await source.read(65_536):
                    sink.write(data)
                sink.close()

            await asyncio.gather(pump(reader, back), pump(there, writer), return_exceptions=True)

        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate, f"{certificate}.key")
        front = await asyncio.start_server(forward, "localhost", 0, ssl=context)
        port = front.sockets[0].getsockname()[1]
        async with a_store(f"rediss://localhost:{port}/0?ssl_ca_certs={certificate}") as store:
            assert await committed(store, batch(1, 0, puts=[("orders", "o", b"1" * 100_000)])) is None
        async with a_store(f"rediss://localhost:{port}?ssl_cert_reqs=none") as store:
            assert (await store.load()).number == 1
        with pytest.raises(StoreError, match=r"TLS failed.*ssl_ca_certs"):
            await Store(asyncio.get_running_loop(), f"rediss://localhost:{port}", "main", journal_id="j").open()
        front.close()


def test_a_url_is_taken_apart() -> None:
    assert parse_address("redis://[::1]:7000/3") == Address(host="::1", port=7000, database=3)
    assert str(parse_address("redis://[::1]:7000/3")) == "redis://[::1]:7000/3"
    assert parse_address("redis://u:p%40ss@h") == Address(host="h", username="u", password="p@ss")
    assert parse_address("unix:///run/redis.sock?db=2") == Address(path="/run/redis.sock", database=2)
    assert parse_address("rediss://h").tls is not None


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://localhost", "must start with redis://"),
        ("localhost:6379", "must start with redis://"),
        ("redis://h:99999", "port"),
        ("redis://h:x", "port"),
        ("redis://h/zero", "database 'zero'"),
        ("redis://h/-1", "database '-1'"),
        ("redis://h/0?color=red", "unknown option 'color'"),
        ("unix://", "names no socket"),
        ("rediss://h?ssl_ca_certs=/none.pem", "not a file"),
    ],
)
def test_a_wrong_url_is_refused_without_repeating_it(url: str, said: str) -> None:
    with pytest.raises(SettingsError, match="REDIS_URL") as caught:
        parse_address(url)
    assert said in str(caught.value)


# --- the script


def test_the_commit_script_reads_no_clock_and_no_key_by_pattern() -> None:
    assert not any(word in COMMIT for word in (b"TIME", b"KEYS *", b"SCAN", b"random"))


@in_loop
async def test_an_unknown_table_is_a_fault_of_the_caller(tmp_path: Path) -> None:
    async with a_redis(tmp_path) as server, a_store(server.address) as store:
        with pytest.raises(KeyError, match="orderz"):
            store.commit(Batch(1, 0, [], [("orderz", "o", b"1")], [], []), print)
        assert await committed(store, batch(1, 0)) is None
