"""What an attempt lacked is what it gets more of, slots grow only for want of slots, and newer rows can be read."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from praxis_sdk.control.kinds.job import JobKind
from praxis_sdk.control.scheduling.scaling import load_of
from praxis_sdk.errors import ValidationError
from praxis_sdk.jobs.executor.executor import JobExecutor
from praxis_sdk.model import Usage, Worker
from praxis_sdk.resources import Resources
from praxis_sdk.store import ExecutionFilter
from praxis_sdk.store.sqlite import SqliteStore
from tests.store.conformance import execution


def test_slots_count_by_themselves_where_only_slots_can_be_added() -> None:
    whole = Resources(cpu_cores=2, memory_mb=1000)
    busy = Worker("w", whole, 8, frozenset(), Resources(cpu_cores=2, memory_mb=100), running=1)
    assert load_of([busy]).utilisation == 1.0
    assert load_of([busy], slots_only=True).utilisation == 1 / 8


def _no_executor() -> JobExecutor:
    raise AssertionError("nothing runs")


def test_a_runtime_that_nobody_offers_is_refused_when_it_is_submitted() -> None:
    request = {"schema_version": "1.0", "runtime": "cobol", "code": "1"}
    with pytest.raises(ValidationError, match=r"payload\.runtime: there is no runtime 'cobol' here"):
        JobKind(_no_executor).validate(request, None)


async def test_rows_of_a_newer_version_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "praxis.db"
    store = await SqliteStore.open(path)
    (kept,) = await store.submit([execution()])
    with sqlite3.connect(path) as other:
        other.execute(
            "UPDATE executions SET usage = ?, flags = ?, granted = ?",
            ('{"wall_s": 2.0, "joules": 7}', "frobnicated", "[1.0, 2, 3, 4, 5, 6]"),
        )
    other.close()
    (listed,) = await store.find(ExecutionFilter())
    shown = await store.get(kept.id)
    await store.close()
    for one in (listed, shown):
        assert one.usage == Usage(wall_s=2.0)
        assert one.flags == ()
        assert one.granted == Resources(1.0, 2, 3, 4, 5)
