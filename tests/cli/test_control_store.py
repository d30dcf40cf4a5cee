"""Which store a command uses, `praxis db` and `praxis audit`; the same commands on PostgreSQL."""

from __future__ import annotations

import os
import signal
import sqlite3
from pathlib import Path

import pytest

from tests.cli.conftest import AtHome, only_line, praxis_after
from tests.cli.test_control_executions import running, start_worker, submitted

# -- which store


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("mysql://root:secret@host/db", "PRAXIS_STORE: a store of the sort 'mysql' is not known"),
        ("somewhere", "PRAXIS_STORE: is no address of a store"),
    ],
)
def test_what_is_no_store_is_one_line_without_its_password(at_home: AtHome, url: str, told: str) -> None:
    at_home.variables["PRAXIS_STORE"] = url
    done = at_home("ps")
    assert done.returncode == 2
    line = only_line(done.stderr)
    assert told in line
    assert "secret" not in line
    assert "--store: " in only_line(at_home("ps", "--store", url).stderr)


def test_a_server_that_is_away_is_the_platforms_failure(at_home: AtHome) -> None:
    done = at_home("ps", "--store", f"postgresql://user:secret@/db?host={at_home.cwd}")
    assert (done.returncode, done.stdout) == (3, b"")
    assert "secret" not in only_line(done.stderr)


def test_a_missing_extra_is_named(at_home: AtHome) -> None:
    patch = "sys.modules['asyncpg'] = None"
    done = praxis_after(patch, "ps", "--store", "postgresql://host/db", env=at_home.variables)
    assert done.returncode == 3
    assert "pip install 'praxis-sdk[postgres]'" in only_line(done.stderr)


def test_a_home_that_cannot_be_written_is_one_line(at_home: AtHome, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    at_home.variables["PRAXIS_HOME"] = str(tmp_path / "file" / "home")
    done = at_home("ps")
    assert (done.returncode, done.stdout) == (3, b"")
    assert "Praxis home" in only_line(done.stderr)


def test_a_damaged_store_is_one_line(at_home: AtHome) -> None:
    (at_home.home / "praxis.db").write_bytes(os.urandom(8192))
    done = at_home("ps")
    assert (done.returncode, done.stdout) == (3, b"")
    assert "praxis.db is damaged or is no database" in only_line(done.stderr)


# -- db


def test_the_schema_is_told_and_brought_up_to_date(at_home: AtHome) -> None:
    assert at_home.json("db", "status")["schema"] is None
    assert not (at_home.home / "praxis.db").exists()
    needed = at_home.json("db", "upgrade")["needed"]
    assert at_home.json("db", "status") == {
        "schema_version": 1,
        "store": str(at_home.home / "praxis.db"),
        "sort": "sqlite",
        "schema": needed,
        "needed": needed,
        "usable": True,
        "exit_status": 0,
    }
    assert b"already" in at_home("db", "upgrade").stdout


def test_a_store_of_another_version_is_not_touched(at_home: AtHome) -> None:
    needed = at_home.json("db", "upgrade")["needed"]
    with sqlite3.connect(at_home.home / "praxis.db") as file:
        file.execute("UPDATE schema_version SET version = version + 1")
    file.close()
    assert at_home.json("db", "status")["usable"] is False
    for words in (("ps",), ("db", "upgrade")):
        done = at_home(*words)
        assert done.returncode == 3
        assert f"has schema {needed + 1}" in only_line(done.stderr)


# -- audit


def test_an_altered_entry_is_found(at_home: AtHome) -> None:
    ids = [at_home.json("submit", "-c", "1", "--wait")["execution"]["id"] for _ in range(2)]
    done = at_home("audit", "verify")
    assert (done.returncode, done.stdout) == (0, b"2 audit trails checked: all intact\n")
    with sqlite3.connect(at_home.home / "praxis.db") as file:
        file.execute("DELETE FROM events WHERE execution_id = ? AND seq = 1", (ids[0],))
    file.close()
    found = at_home.json("audit", "verify")
    assert (found["intact"], found["checked"], found["exit_status"]) == (False, 2, 1)
    assert [one["execution"] for one in found["findings"]] == [ids[0]]
    assert at_home("audit", "verify", ids[1]).returncode == 0
    assert at_home("audit", "verify", ids[0]).returncode == 1


@pytest.mark.parametrize(
    ("statement", "altered"),
    [
        ("UPDATE executions SET status = 'failed'", "status"),
        ("UPDATE executions SET control = 'other'", "control"),
        ("UPDATE documents SET request = replace(request, '5', '6')", "request"),
        ("UPDATE results SET outputs = '6'", "outputs"),
    ],
)
def test_an_altered_record_is_found(at_home: AtHome, statement: str, altered: str) -> None:
    execution_id = at_home.json("submit", "-c", "5", "--wait")["execution"]["id"]
    with sqlite3.connect(at_home.home / "praxis.db") as file:
        assert file.execute(statement).rowcount == 1
    file.close()
    (found,) = at_home.json("audit", "verify")["findings"]
    assert found["execution"] == execution_id
    assert found["problem"].startswith(f"{altered} of the record was altered")


def test_how_long_is_kept_what_happened_is_told_and_changed(at_home: AtHome) -> None:
    kept = at_home.json("db", "retention")
    assert (kept["days"], kept["log_days"]) == (90, 90)
    assert at_home("db", "retention", "--days", "365", "--log-days", "14").returncode == 0
    kept = at_home.json("db", "retention", "--days", "180")
    assert (kept["days"], kept["log_days"]) == (180, 14)
    refused = at_home("db", "retention", "--days", "30")
    assert refused.returncode == 2
    assert "retention.audit_days: 30 is not" in only_line(refused.stderr)
    assert at_home.json("db", "retention") == kept


# -- PostgreSQL


@pytest.fixture
def on_postgres(at_home: AtHome, postgres_url: str) -> AtHome:
    """Run the command with a database of this test's own."""
    at_home.variables["PRAXIS_STORE"] = postgres_url
    return at_home


def test_work_is_run_and_found_on_postgresql(on_postgres: AtHome) -> None:
    assert on_postgres.json("db", "status")["sort"] == "postgresql"
    done = on_postgres("submit", "-c", "print('here'); [1]", "--wait")
    assert (done.returncode, done.stdout) == (0, b"here\n")
    waiting = submitted(on_postgres, "-c", "2")
    assert on_postgres("worker", "--drain", "--quiet").returncode == 0
    found = on_postgres.json("ps", "--all")["executions"]
    assert [one["status"] for one in found] == ["completed", "completed"]
    assert found[0]["id"] == waiting
    assert on_postgres.json("audit", "verify")["intact"] is True
    assert on_postgres("db", "upgrade").returncode == 0
    assert not (on_postgres.home / "praxis.db").exists()


def test_processes_tell_each_other_through_postgresql(on_postgres: AtHome) -> None:
    worker = start_worker(on_postgres)
    execution_id, follower = running(on_postgres)
    assert on_postgres.json("cancel", execution_id, "--wait")["executions"][0]["status"] == "cancelled"
    follower.communicate(timeout=60)
    assert follower.returncode == 0
    worker.send_signal(signal.SIGTERM)
    worker.communicate(timeout=60)
    assert worker.returncode == 0


def test_a_database_that_is_not_there_is_one_line(on_postgres: AtHome, postgres_url: str) -> None:
    address, _, host = postgres_url.partition("?")
    done = on_postgres("ps", "--store", f"{address}_nowhere?{host}")
    assert (done.returncode, done.stdout) == (3, b"")
    assert "_nowhere" in only_line(done.stderr)
