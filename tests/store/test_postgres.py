"""The store in PostgreSQL: the conformance suite, and what only several connections can show."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from devservices.postgres import PostgresServer
from praxis_sdk.control.lifecycle import transitions
from praxis_sdk.errors import MissingExtra, ValidationError
from praxis_sdk.states import ExecutionStatus
from praxis_sdk.store.changes import Change
from praxis_sdk.store.postgres import PostgresStore
from praxis_sdk.store.postgres.connection import SESSION, connect
from praxis_sdk.store.postgres.statements import statement
from praxis_sdk.store.postgres.transactions import packed, unpacked
from praxis_sdk.store.protocol import ExecutionFilter, Round, RoundScope, StoreConflict, StoreUnavailable
from tests.store.conformance import StoreConformance, execution, queued, worker

WAKE_S = 30.0


class TestPostgresStore(StoreConformance):
    @pytest.fixture
    async def store(self, postgres_url: str) -> AsyncIterator[PostgresStore]:
        store = await PostgresStore.open(postgres_url)
        yield store
        await store.close()

    @pytest.fixture
    async def peer(self, store: PostgresStore, postgres_url: str) -> AsyncIterator[PostgresStore]:
        peer = await PostgresStore.open(postgres_url)
        yield peer
        await peer.close()


@pytest.fixture
async def store(postgres_url: str) -> AsyncIterator[PostgresStore]:
    store = await PostgresStore.open(postgres_url)
    yield store
    await store.close()


async def test_an_address_that_is_none_is_refused() -> None:
    with pytest.raises(ValidationError, match="PostgreSQL URL"):
        await PostgresStore.open("mysql://somewhere/praxis")


async def test_a_database_that_is_not_there_is_unavailable_at_once(postgres_server: PostgresServer) -> None:
    with pytest.raises(StoreUnavailable, match="nowhere"):
        await PostgresStore.open(postgres_server.url("nowhere"))


async def test_without_asyncpg_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    with pytest.raises(MissingExtra, match=r"praxis-sdk\[postgres\]"):
        await PostgresStore.open("postgresql://somewhere/praxis")


# -- several in one transaction


async def test_what_arrives_at_once_shares_transactions(store: PostgresStore, postgres_url: str) -> None:
    before = await _transactions(postgres_url)
    await asyncio.gather(*(store.submit([execution()]) for _ in range(200)))
    assert await _transactions(postgres_url) - before < 20


async def test_an_operation_that_fails_leaves_the_others_alone(store: PostgresStore) -> None:
    taken = execution()
    await store.submit([taken])
    good = [execution() for _ in range(20)]
    bad = [execution(kind="\0"), execution(id=taken.id)]
    results = await asyncio.gather(
        *(store.submit([one]) for one in (*good[:10], *bad, *good[10:])), return_exceptions=True
    )
    assert [type(result) for result in results[10:12]] == [ValidationError, StoreConflict]
    assert {one.id for one in await store.find(ExecutionFilter())} == {taken.id, *(one.id for one in good)}


async def test_stores_that_take_the_same_keys_in_any_order_agree(
    store: PostgresStore, postgres_url: str
) -> None:
    peer = await PostgresStore.open(postgres_url, lanes=3)
    keys = [f"key {number}" for number in range(40)]
    both = [(store, keys), (peer, keys[::-1]), (peer, keys)]
    kept = await asyncio.gather(
        *(
            one.submit([execution(idempotency_key=key) for key in some])
            for one, some in both
            for _ in range(3)
        )
    )
    await peer.close()
    by_key = {(each.idempotency_key, each.id) for result in kept for each in result}
    assert len(by_key) == len(keys) == len(await store.find(ExecutionFilter(), limit=1000))


# -- several processes


async def test_processes_that_schedule_at_once_never_start_the_same(
    store: PostgresStore, postgres_url: str
) -> None:
    for name in ("w1", "w2", "w3"):
        await store.put_worker(worker(name))
    waiting = await queued(store, *(execution() for _ in range(150)))
    dispatchers = [await _client("dispatch", postgres_url) for _ in range(3)]
    started = [json.loads((await one.communicate())[0]) for one in dispatchers]
    ids = [execution_id for some in started for execution_id in some]
    assert sorted(ids) == sorted(one.id for one in waiting)
    running = await store.find(ExecutionFilter(), limit=1000)
    assert {(one.status, one.attempt, one.token) for one in running} == {(ExecutionStatus.RUNNING, 1, 1)}
    assert sum(one.running for one in await store.workers()) == len(waiting)


async def test_a_round_waits_for_workers_that_another_holds(store: PostgresStore, postgres_url: str) -> None:
    await store.put_worker(worker())
    (one,) = await queued(store, execution())
    other = await connect(postgres_url)
    held = other.transaction()
    await held.start()
    await other.execute("SELECT 1 FROM workers FOR NO KEY UPDATE")
    round_ = asyncio.create_task(store.schedule(RoundScope(), _start_all))
    await _until(postgres_url, "SELECT count(*) FROM pg_locks WHERE NOT granted")
    await held.commit()
    assert [settled.after.id for settled in await round_] == [one.id]
    other.terminate()


async def test_a_round_that_missed_a_worker_asks_for_another(store: PostgresStore, postgres_url: str) -> None:
    await store.put_worker(worker("w1"))
    await store.put_worker(worker("w2"))
    other = await connect(postgres_url)
    held = other.transaction()
    await held.start()
    await other.execute("SELECT 1 FROM workers WHERE id = 'w1' FOR NO KEY UPDATE")
    seen = await store.changed("queue", 0)
    shown: list[Round] = []
    await store.schedule(RoundScope(), lambda round_: shown.append(round_) or [])  # type: ignore[func-returns-value]
    assert [one.id for one in shown[0].workers] == ["w2"]
    await asyncio.wait_for(store.changed("queue", seen), WAKE_S)
    await held.rollback()
    other.terminate()


# -- news


async def test_news_of_many_executions_reaches_other_processes(
    store: PostgresStore, postgres_url: str
) -> None:
    peer = await PostgresStore.open(postgres_url)
    executions = [execution() for _ in range(600)]
    topics = [f"execution:{one.id}" for one in executions]
    seen = await asyncio.gather(*(peer.changed(topic, 0) for topic in topics))
    waiting = [asyncio.create_task(peer.changed(topic, at)) for topic, at in zip(topics, seen, strict=True)]
    await store.submit(executions)
    await asyncio.wait_for(asyncio.gather(*waiting), WAKE_S)
    await peer.close()


async def test_everyone_wakes_when_the_listening_connection_was_lost(
    store: PostgresStore, postgres_url: str
) -> None:
    peer = await PostgresStore.open(postgres_url)
    seen = await store.changed("queue", 0)
    connection = await connect(postgres_url)
    await connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'"
        " AND datname = current_database()"
    )
    connection.terminate()
    seen = await asyncio.wait_for(store.changed("queue", seen), WAKE_S)
    await peer.submit([execution()])
    await asyncio.wait_for(store.changed("queue", seen), WAKE_S)
    await peer.close()


def test_notifications_are_bounded_and_lose_nothing() -> None:
    topics = [f"execution:{'x' * 36}{number}" for number in range(1000)] + ["worker:" + "ü" * 6000]
    payloads = list(packed("me", topics))
    assert max(len(payload.encode()) for payload in payloads[:-1]) < 8000
    assert [topic for payload in payloads for topic in unpacked(payload)[1]] == topics
    assert {unpacked(payload)[0] for payload in payloads} == {"me"}
    assert list(packed("me", [])) == []


# -- plans


@pytest.mark.parametrize(
    ("name", "arguments", "index"),
    [
        ("round_look", "1.0, NULL, 256", "executions_queued"),
        ("round_look", "1.0, NULL, 256", "executions_due"),
        ("round_due", "1.0, NULL, 256", "executions_due"),
        ("round_running", "NULL, 256", "executions_batch_running"),
        ("next_due", "", "executions_due"),
        ("held", "'w'", "executions_worker"),
        ("lock_executions", "ARRAY['x']", "executions_pkey"),
    ],
)
async def test_what_is_asked_all_the_time_reads_one_index_in_its_order(
    store: PostgresStore, postgres_url: str, name: str, arguments: str, index: str
) -> None:
    """Also without statistics, as in a table that fills up faster than they are gathered."""
    connection = await connect(postgres_url)
    for plans in ("force_custom_plan", "force_generic_plan"):
        await connection.execute(f"SET plan_cache_mode = {plans}")
        await connection.execute(f"PREPARE {plans} AS {statement(name)}")
        execute = f"{plans}({arguments})" if arguments else plans
        plan = "\n".join(row[0] for row in await connection.fetch(f"EXPLAIN EXECUTE {execute}"))
        assert f" {index} " in plan, plan
        assert "Seq Scan" not in plan, plan
        # The few workers may be sorted; executions never.
        sorted_by = [line for line in plan.splitlines() if "Sort Key" in line and "started_at" not in line]
        assert sorted_by == [] or "LIMIT" not in statement(name), plan
    connection.terminate()


async def test_progress_and_events_touch_no_index_of_executions(
    store: PostgresStore, postgres_url: str
) -> None:
    await store.submit([execution()])
    connection = await connect(postgres_url)
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute("UPDATE executions SET progress = 0.5, next_seq = next_seq + 1, chain = 'x'")
    hot = "SELECT n_tup_hot_upd FROM pg_stat_xact_user_tables WHERE relname = 'executions'"
    assert await connection.fetchval(hot) == 1
    await transaction.rollback()
    connection.terminate()


def test_sessions_end_when_their_client_hangs_amid_a_transaction() -> None:
    assert SESSION["idle_in_transaction_session_timeout"] != "0"


def _start_all(shown: Round) -> Sequence[Change]:
    return [transitions.start(one, shown.workers[0].id, 5.0) for one in shown.waiting]


async def _transactions(url: str) -> int:
    """Return how many transactions the store's writer has made: its row counts them."""
    connection = await connect(url)
    number = await connection.fetchval("SELECT coalesce(sum(commits), 0)::int FROM writers")
    connection.terminate()
    return int(number)


async def _until(url: str, query: str) -> None:
    """Ask until the answer is not 0."""
    connection = await connect(url)
    while not await connection.fetchval(query):
        pass
    connection.terminate()


async def _client(*arguments: str) -> Any:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.store.postgres_client", *arguments, stdout=asyncio.subprocess.PIPE
    )


async def test_heartbeats_at_the_same_time_disturb_nobody(store: PostgresStore) -> None:
    assert not await store.beat("nobody", 0.0)
    submitting = asyncio.gather(*(store.submit([execution()]) for _ in range(20)))
    assert await asyncio.gather(*(store.beat("nobody", 0.0) for _ in range(20))) == [False] * 20
    assert len(await submitting) == 20
