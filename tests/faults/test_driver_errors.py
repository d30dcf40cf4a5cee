"""Errors of databases and drivers one by one, for real: the worker serves again, and loses and doubles nothing."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import asyncpg

from devservices.postgres import PostgresServer
from praxis_sdk.control.plane import ControlPlane
from praxis_sdk.states import ExecutionStatus
from tests.faults.conftest import Survive, Survivor
from tests.faults.ledger import drained, prove
from tests.faults.load import work
from tests.faults.processes import worker_child
from tests.faults.proxy import proxied
from tests.faults.worker import Config

SOON_S = 60.0
LOAD = 60
OF_PRAXIS = "FROM pg_stat_activity WHERE application_name = 'praxis' AND datname = current_database()"
CUTS = 20


@contextlib.asynccontextmanager
async def administrator(url: str) -> AsyncIterator[Any]:
    """A connection of an administrator."""
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        connection.terminate()


async def serves(survivor: Survivor, value: Any) -> None:
    """Work is done once, and the worker's lease is renewed."""
    async with asyncio.timeout(SOON_S):
        done = await survivor.plane.coordinator.run(work(value=value))
        assert (done.status, done.outputs, done.attempt) == (ExecutionStatus.COMPLETED, value, 1)
        worker = survivor.plane.worker
        assert worker is not None
        while not worker._heartbeat.age_s < 1.0:
            await worker._heartbeat.once()
            await asyncio.sleep(0.05)  # a heartbeat that failed rings no bell
    failures = {**survivor.plane.tasks.failures, **worker.tasks.failures}
    assert failures == {}, "errors of a database are foreseen"


async def load(plane: ControlPlane) -> list[str]:
    """Have some work done, each with its own value; returns its ids."""
    async with asyncio.timeout(SOON_S):
        done = await asyncio.gather(*(plane.coordinator.run(work(value=number)) for number in range(LOAD)))
    assert [one.outputs for one in done] == list(range(LOAD))
    return [one.id for one in done]


async def during(troubles: Callable[[], Awaitable[Any]], meanwhile: Awaitable[Any]) -> Any:
    """Make trouble again and again until something is done."""
    doing = asyncio.ensure_future(meanwhile)
    while not doing.done():
        await troubles()
        await asyncio.wait([doing], timeout=0.02)
    return await doing


async def until(holds: Callable[[], Awaitable[Any]]) -> None:
    """Wait until something holds that rings no bell."""
    async with asyncio.timeout(SOON_S):
        while True:
            if await holds():
                return
            await asyncio.sleep(0.05)


async def answer(value: bool) -> bool:
    """Return what is known already."""
    return value


async def refused(server: PostgresServer, words: bytes) -> None:
    """Wait until a server has refused something with these words."""
    await until(lambda: answer(words in server.log.read_bytes()))


# -- PostgreSQL


async def test_whichever_connection_the_server_ends_the_worker_goes_on(
    postgres_url: str, survive: Survive
) -> None:
    async with survive(postgres_url) as survivor, administrator(postgres_url) as admin:
        await serves(survivor, "first")
        pids = [row[0] for row in await admin.fetch(f"SELECT pid {OF_PRAXIS}")]
        assert len(pids) >= 4, "one that listens, one for heartbeats, one that writes, some that read"
        for pid in pids:
            await admin.execute("SELECT pg_terminate_backend($1)", pid)
            await serves(survivor, pid)
        await admin.execute(f"SELECT pg_terminate_backend(pid) {OF_PRAXIS}")
        await serves(survivor, "all at once")


async def test_connections_that_end_under_load_lose_and_double_nothing(
    postgres_url: str, survive: Survive
) -> None:
    async with survive(postgres_url) as survivor, administrator(postgres_url) as admin:
        one = f"SELECT pg_terminate_backend(pid) {OF_PRAXIS} ORDER BY random() LIMIT 1"
        ids = await during(lambda: admin.execute(one), load(survivor.plane))
        await serves(survivor, "last")
        await drained(survivor.plane, survivor.store)
        account = await prove(survivor.store, ids)
        assert account.attempts == account.completed == LOAD + 1


async def test_a_pooler_that_closes_connections_between_statements_is_no_trouble(
    postgres_url: str, survive: Survive
) -> None:
    async with proxied(postgres_url) as (network, address), survive(address) as survivor:
        cuts = 0

        async def cut() -> None:
            nonlocal cuts
            if cuts < CUTS:
                cuts += 1
                network.break_down("cuts")
                network.mend()

        ids = await during(cut, load(survivor.plane))
        assert cuts > 1
        await serves(survivor, "last")
        await drained(survivor.plane, survivor.store)
        account = await prove(survivor.store, ids)
        assert account.attempts == account.completed == LOAD + 1


async def test_a_server_that_takes_no_writes_for_a_while_is_waited_for(
    own_postgres_server: PostgresServer, survive: Survive
) -> None:
    """As a standby does until it is promoted."""
    url = own_postgres_server.url()
    async with survive(url) as survivor, administrator(url) as admin:
        await serves(survivor, "first")
        await admin.execute("ALTER SYSTEM SET default_transaction_read_only = on")
        await admin.execute("SELECT pg_reload_conf()")
        waiting = asyncio.ensure_future(serves(survivor, "waits"))
        await refused(own_postgres_server, b"read-only transaction")
        await admin.execute("SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE")
        await admin.execute("ALTER SYSTEM RESET default_transaction_read_only")
        await admin.execute("SELECT pg_reload_conf()")
        await waiting


async def test_a_server_without_free_connections_is_waited_for(
    own_postgres_server: PostgresServer, survive: Survive
) -> None:
    url = own_postgres_server.url()
    async with survive(url) as survivor, administrator(url) as admin, contextlib.AsyncExitStack() as held:
        await serves(survivor, "first")
        with contextlib.suppress(asyncpg.TooManyConnectionsError):
            while True:
                await held.enter_async_context(administrator(url))
        await admin.execute(f"SELECT pg_terminate_backend(pid) {OF_PRAXIS}")
        with contextlib.suppress(asyncpg.TooManyConnectionsError):
            while True:
                await held.enter_async_context(administrator(url))
        waiting = asyncio.ensure_future(serves(survivor, "waits"))
        await refused(own_postgres_server, b"too many clients")
        await held.aclose()
        await waiting


async def test_a_server_that_restarts_in_the_middle_of_a_commit_keeps_it_once(
    own_postgres_server: PostgresServer, survive: Survive
) -> None:
    url = own_postgres_server.url()
    async with survive(url) as survivor:
        await serves(survivor, "first")
        async with administrator(url) as admin:
            # A commit then waits for a standby that there is not, and is there all the same once the server is back.
            await admin.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
            await admin.execute("SELECT pg_reload_conf()")
            waiting = asyncio.ensure_future(load(survivor.plane))
            commits = f"SELECT count(*) {OF_PRAXIS} AND wait_event = 'SyncRep' AND query LIKE 'COMMIT%'"
            await until(lambda: admin.fetchval(commits))
            await admin.execute("ALTER SYSTEM RESET synchronous_standby_names")
        await asyncio.to_thread(own_postgres_server.stop, "fast")
        await asyncio.to_thread(own_postgres_server.start)
        ids = await waiting
        await serves(survivor, "last")
        await drained(survivor.plane, survivor.store)
        account = await prove(survivor.store, ids)
        assert account.attempts == account.completed == LOAD + 2


async def test_a_worker_that_is_stopped_amid_a_transaction_harms_nobody_and_comes_back(
    postgres_url: str, survive: Survive
) -> None:
    """The server ends its session and lets its locks go; its lease has gone when it goes on."""
    idle = f"SELECT pid {OF_PRAXIS} AND state = 'idle in transaction' AND clock_timestamp() - state_change > '0.5s'"
    async with contextlib.AsyncExitStack() as stack:
        admin = await stack.enter_async_context(administrator(postgres_url))
        child = await stack.enter_async_context(worker_child(Config(postgres_url, lease_s=2.0)))
        await child.hear("ready")
        survivor = await stack.enter_async_context(survive(postgres_url, lease_s=2.0))
        reader = asyncio.create_task(child.ended())
        ids: list[str] = []
        submit = survivor.plane.coordinator.submit_execution
        async with asyncio.timeout(SOON_S):
            while True:
                ids += [await submit(work(value=number)) for number in range(10)]
                child.send(signal.SIGSTOP)
                await asyncio.sleep(0.6)  # a session that stands still for so long is the stopped worker's
                found = await admin.fetch(idle)
                if found:
                    break
                child.send(signal.SIGCONT)
        gone = f"SELECT count(*) = 0 {OF_PRAXIS} AND pid = $1"
        await until(lambda: admin.fetchval(gone, found[0][0]))
        async with asyncio.timeout(SOON_S):
            for one in ids:
                assert (await survivor.plane.coordinator.wait(one)).status is ExecutionStatus.COMPLETED
        child.send(signal.SIGCONT)
        assert survivor.plane.worker is not None
        await survivor.plane.worker.resize(0)
        async with asyncio.timeout(SOON_S):
            done = await survivor.plane.coordinator.run(work(value="back"))
        assert done.outputs == "back"
        child.end()
        assert await reader == 0
        await drained(survivor.plane, survivor.store)
        await prove(survivor.store, [*ids, done.id])


# -- SQLite


async def test_a_database_that_another_process_locks_for_a_while_is_waited_for(
    tmp_path: Path, survive: Survive
) -> None:
    address = tmp_path / "praxis.db"
    async with survive(str(address), lease_s=2.0) as survivor:
        await serves(survivor, "first")
        worker = survivor.plane.worker
        assert worker is not None
        name = worker.id
        other = sqlite3.connect(address, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        waiting = asyncio.ensure_future(survivor.plane.coordinator.run(work(value="waits")))
        await until(lambda: answer(not worker._heartbeat.trusted))
        other.execute("ROLLBACK")
        other.close()
        async with asyncio.timeout(SOON_S):
            assert (await waiting).outputs == "waits"
        await serves(survivor, "last")
        assert worker.id == name, "nobody took over"
