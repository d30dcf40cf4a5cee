"""What was acknowledged is there, once, whatever happens to the server, the connection or the client."""

from __future__ import annotations

import asyncio
import itertools
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from devservices.postgres import PostgresServer
from praxis_sdk.control.lifecycle import transitions
from praxis_sdk.model import EventType, Execution, NewEvent
from praxis_sdk.resources import ZERO
from praxis_sdk.states import ExecutionStatus
from praxis_sdk.store.changes import Change, verify_chain
from praxis_sdk.store.postgres import PostgresStore
from praxis_sdk.store.postgres.connection import ConnectionPool, PostgresConnection, connect
from praxis_sdk.store.protocol import ExecutionFilter, Round, RoundScope, StoreUnavailable
from tests.store.conformance import execution, worker
from tests.store.postgres_client import work

RESTARTS = 5
CALLERS = 12
LOCK = 4711


# -- the server


@pytest.mark.parametrize("lanes", [1, 2])
async def test_work_survives_a_server_that_crashes_again_and_again(
    own_postgres_server: PostgresServer, lanes: int
) -> None:
    url = own_postgres_server.url()
    stores = [await PostgresStore.open(url, lanes=lanes) for _ in range(2)]
    for name in ("w1", "w2"):
        await stores[0].put_worker(worker(name))
    flow = _Flow(stores)
    flowing = asyncio.create_task(flow.run())
    for _ in range(RESTARTS):
        await flow.more(60)
        await asyncio.to_thread(own_postgres_server.stop, "immediate")
        await asyncio.to_thread(own_postgres_server.start)
    await flow.more(60)
    flow.ending = True
    await flowing
    await _prove(stores[1], flow.submitted)
    for store in stores:
        await store.close()


async def test_a_server_that_stays_away_is_unavailable_and_comes_back(
    own_postgres_server: PostgresServer,
) -> None:
    store = await PostgresStore.open(own_postgres_server.url(), patience_s=0.1)
    one, other = execution(), execution()
    await store.submit([one])
    await asyncio.to_thread(own_postgres_server.stop)
    with pytest.raises(StoreUnavailable, match="PostgreSQL"):
        await store.get(one.id)
    with pytest.raises(StoreUnavailable, match="PostgreSQL"):
        await store.submit([other])
    with pytest.raises(StoreUnavailable, match="PostgreSQL"):
        await PostgresStore.open(own_postgres_server.url(), patience_s=0.1)
    await asyncio.to_thread(own_postgres_server.start)
    assert (await store.get(one.id)).id == one.id
    await store.submit([other])
    assert len(await store.find(ExecutionFilter())) == 2
    await store.close()


class _Flow:
    """Executions that are submitted, started and finished by callers and dispatchers, until told to end."""

    def __init__(self, stores: Sequence[PostgresStore]) -> None:
        self.stores = stores
        self.submitted: list[str] = []
        self.ending = False
        self._finished = 0
        self._progress = asyncio.Condition()
        self._running: dict[str, asyncio.Future[Execution]] = {}

    async def more(self, number: int) -> None:
        """Wait until so many more have been finished."""
        async with self._progress:
            goal = self._finished + number
            await self._progress.wait_for(lambda: self._finished >= goal)

    async def run(self) -> None:
        """Keep everything busy."""
        dispatchers = [asyncio.create_task(self._dispatch(store)) for store in self.stores]
        await asyncio.gather(*(self._call(store) for store in self.stores for _ in range(CALLERS)))
        for dispatcher in dispatchers:
            dispatcher.cancel()
        await asyncio.gather(*dispatchers, return_exceptions=True)

    async def _call(self, store: PostgresStore) -> None:
        while not self.ending:
            one = execution()
            running = self._running[one.id] = asyncio.get_running_loop().create_future()
            (kept,) = await store.submit([one])
            self.submitted.append(kept.id)
            await store.apply([transitions.release(kept, 2.0)])
            started = await running
            said = [NewEvent(EventType.LOG, "a line")]
            await store.apply([transitions.note(kept.id, said, token=started.token, progress=0.5)])
            ended = transitions.finish(started, 6.0, ExecutionStatus.COMPLETED, outputs=kept.id)
            await store.apply([ended])
            async with self._progress:
                self._finished += 1
                self._progress.notify_all()

    async def _dispatch(self, store: PostgresStore) -> None:
        def decide(shown: Round) -> Sequence[Change]:
            pairs = zip(shown.waiting, itertools.cycle(shown.workers), strict=False)
            return [transitions.start(one, some.id, 5.0) for one, some in pairs]

        seen = 0
        while True:
            seen = await store.changed("queue", seen)
            for settled in await store.schedule(RoundScope(), decide):
                self._running[settled.after.id].set_result(settled.after)


async def _prove(store: PostgresStore, submitted: Sequence[str]) -> None:
    """Check that all of it is there, finished by one attempt, with every event once and in order."""
    kept = await store.find(ExecutionFilter(), limit=10 * len(submitted))
    assert sorted(one.id for one in kept) == sorted(submitted)
    assert {(one.status, one.attempt, one.token) for one in kept} == {(ExecutionStatus.COMPLETED, 1, 1)}
    for one in kept:
        events = await store.events(one.id)
        assert [event.seq for event in events] == list(range(one.next_seq))
        told = [event.message for event in events]
        assert told == ["submitted", "queued", "running", "a line", "completed"]
        assert verify_chain(events, one.chain) == ""
        assert len(await store.attempts(one.id)) == 1
        assert (await store.get(one.id)).outputs == one.id
    assert {(one.reserved, one.running) for one in await store.workers()} == {(ZERO, 0)}


# -- the connection


@pytest.mark.parametrize("kept", [False, True])
async def test_a_connection_lost_during_commit_doubles_nothing(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch, kept: bool
) -> None:
    store = await PostgresStore.open(postgres_url)
    await store.put_worker(worker())
    one = execution()
    await store.submit([one])
    await store.apply([transitions.release(one, 2.0)])
    with _lost_commits(monkeypatch, kept=kept) as lost:
        (submitted,) = await store.submit([execution()])
        (settled,) = await store.schedule(RoundScope(), _start_all)
        (noted,) = await store.apply([transitions.note(one.id, [NewEvent(EventType.ACTION, "once")])])
        (late,) = await store.apply([transitions.finish(settled.after, 6.0, ExecutionStatus.COMPLETED)])
    assert len(lost) == 4
    assert noted is not None
    assert late is not None
    assert (await store.get(submitted.id)).id == submitted.id
    assert [event.message for event in await store.events(one.id)] == [
        *("submitted", "queued", "running", "once", "completed")
    ]
    assert len(await store.attempts(one.id)) == 1
    assert (await store.workers())[0].running == 0
    await store.close()


async def test_a_commit_still_under_way_is_waited_for(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection is lost while the server is committing; it is asked again before it has ended."""
    lent: list[PostgresConnection] = []
    monkeypatch.setattr(ConnectionPool, "connection", _recording(ConnectionPool.connection, lent))
    store = await PostgresStore.open(postgres_url)
    await store.submit([execution()])
    async with _stopped(postgres_url, "AFTER INSERT", deferred=True) as let_go:
        submitting = asyncio.create_task(store.submit([one := execution()]))
        await _waiting_for(postgres_url, "advisory")
        lent[-1].terminate()
        await _waiting_for(postgres_url, "transactionid")
        assert not submitting.done()
        await let_go()
        (kept,) = await submitting
    assert kept.id == one.id
    assert [event.seq for event in await store.events(one.id)] == [0]
    assert len(await store.find(ExecutionFilter())) == 2
    await store.close()


async def test_who_comes_with_a_key_that_is_being_taken_gets_what_took_it(postgres_url: str) -> None:
    store, peer = [await PostgresStore.open(postgres_url) for _ in range(2)]
    async with _stopped(postgres_url, "AFTER INSERT", deferred=True) as let_go:
        first = asyncio.create_task(store.submit([work("one", "key")]))
        await _waiting_for(postgres_url, "advisory")
        second = asyncio.create_task(peer.submit([work("two", "key")]))
        await _waiting_for(postgres_url, "transactionid")
        await let_go()
        assert [kept.id for kept in (*await first, *await second)] == ["one", "one"]
    await store.close()
    await peer.close()


@asynccontextmanager
async def _stopped(url: str, when: str, *, deferred: bool) -> AsyncIterator[Any]:
    """Have the server stop amid an INSERT of executions, or amid its COMMIT; yields what lets it go on."""
    connection = await connect(url)
    constraint, deferrable = ("CONSTRAINT", "DEFERRABLE INITIALLY DEFERRED") if deferred else ("", "")
    await connection.execute(f"SELECT pg_advisory_lock({LOCK})")
    await connection.execute(
        "CREATE FUNCTION stop_here() RETURNS trigger LANGUAGE plpgsql AS"
        f" 'BEGIN PERFORM pg_advisory_xact_lock_shared({LOCK}); RETURN NEW; END';"
        f"CREATE {constraint} TRIGGER stop_here {when} ON executions {deferrable}"
        " FOR EACH ROW EXECUTE FUNCTION stop_here()"
    )

    async def let_go() -> None:
        await connection.execute(f"SELECT pg_advisory_unlock({LOCK})")

    yield let_go
    connection.terminate()


def _recording(original: Any, lent: list[PostgresConnection]) -> Any:
    @asynccontextmanager
    async def connection(pool: ConnectionPool) -> AsyncIterator[PostgresConnection]:
        async with original(pool) as one:
            lent.append(one)
            yield one

    return connection


class _lost_commits:  # noqa: N801 used as a function
    """Have the connection end at each first COMMIT of a transaction, before or after the server kept it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, kept: bool) -> None:
        self._monkeypatch = monkeypatch
        self._kept = kept
        self.lost: list[bool] = []
        self._again = False

    def __enter__(self) -> list[bool]:
        from asyncpg.transaction import Transaction

        original = Transaction.commit

        async def commit(transaction: Any) -> None:
            self._again = not self._again
            if not self._again and not self._kept:
                await original(transaction)  # the second try
                return
            if self._kept:
                await original(transaction)
            self.lost.append(self._kept)
            transaction._connection.terminate()
            raise ConnectionResetError("lost")

        self._monkeypatch.setattr(Transaction, "commit", commit)
        return self.lost

    def __exit__(self, *_: object) -> None:
        self._monkeypatch.undo()


# -- the client


async def test_what_a_killed_client_was_told_is_there(postgres_url: str) -> None:
    client = await _client(postgres_url, "key")
    told = [await _line(client) for _ in range(50)]
    client.send_signal(signal.SIGKILL)
    rest: bytes = await client.stdout.read()
    told += rest.decode().split("\n")[:-1]  # what is behind the last line's end is no whole line
    await client.wait()
    store = await PostgresStore.open(postgres_url)
    kept = {one.id: one for one in await store.find(ExecutionFilter(), limit=100_000)}
    assert set(told) <= kept.keys()
    assert len(kept) <= len(told) + 1  # one that it was not told of any more
    for one in kept.values():
        events = await store.events(one.id)
        assert [event.seq for event in events] == [0]
        assert verify_chain(events, one.chain) == ""
    await store.close()


@pytest.mark.parametrize("during_commit", [False, True])
async def test_work_of_a_killed_client_is_submitted_once_when_it_comes_again(
    postgres_url: str, during_commit: bool
) -> None:
    """Killed amid its INSERT the server drops it, killed amid its COMMIT the server keeps it."""
    when = "AFTER INSERT" if during_commit else "BEFORE INSERT"
    async with _stopped(postgres_url, when, deferred=during_commit) as let_go:
        client = await _client(postgres_url, "key")
        await _waiting_for(postgres_url, "advisory")
        client.send_signal(signal.SIGKILL)
        await client.wait()
        await let_go()
    store = await PostgresStore.open(postgres_url)
    (again,) = await store.submit([work("again", "key")])
    assert again.id == ("key-000000" if during_commit else "again")
    assert [one.id for one in await store.find(ExecutionFilter())] == [again.id]
    await store.close()


async def _client(url: str, key: str) -> Any:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.store.postgres_client", "submit", url, key),
        stdout=asyncio.subprocess.PIPE,
    )


async def _line(client: Any) -> str:
    line: bytes = await client.stdout.readline()
    return line.decode().strip()


async def _waiting_for(url: str, lock: str) -> None:
    """Return when a session of this database waits for a lock of some type."""
    connection = await connect(url)
    query = (
        "SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid)"
        " WHERE locktype = $1 AND NOT granted AND datname = current_database()"
    )
    while not await connection.fetchval(query, lock):
        pass
    connection.terminate()


def _start_all(shown: Round) -> Sequence[Change]:
    return [transitions.start(one, shown.workers[0].id, 5.0) for one in shown.waiting]
