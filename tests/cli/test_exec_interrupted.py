"""Ctrl-C and SIGTERM during jobs and builds: everything is ended, and nothing is left."""

from __future__ import annotations

import json
import os
import signal
import uuid
from pathlib import Path

import pytest

from tests.cli.conftest import AtHome, only_line
from tests.execution.conformance import processes_with

STUBBORN = "trap '' INT TERM HUP; (trap '' INT TERM HUP; sleep 60; : {0}) & echo ready; wait; sleep 60; : {0}"


@pytest.fixture
def marker() -> str:
    """A word that the job's processes have in their command lines."""
    return f"exec-{uuid.uuid4().hex}"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_job_and_all_it_started(
    at_home: AtHome, marker: str, number: signal.Signals
) -> None:
    process = at_home.start("exec", "-r", "command", "--", "sh", "-c", STUBBORN.format(marker))
    assert process.stdout.readline() == b"ready\n"
    assert processes_with(marker)
    process.send_signal(number)
    rest, told = process.communicate(timeout=60)
    assert processes_with(marker) == []
    assert (process.returncode, rest) == (128 + number, b"")
    assert told.decode().splitlines() == [
        f"praxis: {number.name}: ending what runs",
        f"praxis: cancelled by {number.name}; nothing of it is left running",
    ]
    assert at_home.json("jobs")["jobs"] == []


def test_ctrl_c_ends_endless_python(at_home: AtHome) -> None:
    process = at_home.start("exec", "-c", "print('ready')\nwhile True: pass", "--quiet")
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGINT)
    told = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert only_line(told) == "praxis: cancelled by SIGINT; nothing of it is left running"


def test_a_reader_that_leaves_ends_the_job(at_home: AtHome, marker: str) -> None:
    process = at_home.start("exec", "-r", "command", "--", "sh", "-c", f"yes; : {marker}")
    assert process.stdout.read(2) == b"y\n"
    process.stdout.close()
    process.stdout = None
    process.communicate(timeout=60)
    assert process.returncode == 141
    assert processes_with(marker) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_build_without_a_trace(
    at_home: AtHome, tmp_path: Path, number: signal.Signals
) -> None:
    home = tmp_path / "empty"
    at_home.variables["PRAXIS_HOME"] = str(home)
    process = at_home.start("env", "build", "base", "--json")
    assert process.stderr.readline() == b"praxis: creating the environment\n"
    process.send_signal(number)
    error = json.loads(process.communicate(timeout=60)[0])["error"]
    assert (process.returncode, error["type"]) == (128 + number, "Cancelled")
    assert os.listdir(home / "environments") == [".lock"]
