"""A Docker daemon that does not answer while a tool shall end: nothing is claimed, and the end is pursued."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from praxis_sdk.execution.engines.docker.daemon import DockerDaemon
from tests.cli.conftest import AtHome, ContractWriter
from tests.cli.test_control_executions import start_worker, submitted
from tests.execution.conformance import processes_with

MARKER = f"frozen-{uuid.uuid4().hex}"
FOREVER = f"echo ready; sleep 600; : {MARKER}"


class Daemon:
    """The private daemon of this test process, which can be stopped for a while (SIGSTOP)."""

    def __init__(self, host: str) -> None:
        self.host = host
        folder = Path(host.removeprefix("unix://")).parent
        self._pids = [
            int(path.name)
            for path in Path("/proc").iterdir()
            if path.name.isdigit() and self._is_dockerd(path, folder)
        ]
        assert self._pids, "the daemon's process is not to be seen"

    @staticmethod
    def _is_dockerd(path: Path, folder: Path) -> bool:
        try:
            words = (path / "cmdline").read_bytes().split(b"\0")
        except OSError:
            return False
        return words[0].endswith(b"dockerd") and f"--host=unix://{folder}/docker.sock".encode() in words

    def freeze(self) -> None:
        """Have it answer nothing, without ending it."""
        for pid in self._pids:
            os.kill(pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        for pid in self._pids:
            os.kill(pid, signal.SIGCONT)

    def containers(self) -> list[str]:
        """Return the ids of the executions whose containers it has, running or not."""

        async def ask() -> list[str]:
            daemon = DockerDaemon(self.host)
            try:
                found = await daemon.containers("praxis.owner")
                return [one.labels["praxis.execution_id"] for one in found]
            finally:
                await daemon.close()

        return asyncio.run(ask())


@pytest.fixture
def daemon(docker_host: str) -> Iterator[Daemon]:
    """The daemon, which goes on after the test whatever happens."""
    made = Daemon(docker_host)
    yield made
    made.thaw()
    assert made.containers() == []
    assert processes_with(MARKER) == []


@pytest.fixture
def at_home(tmp_path: Path, docker_host: str) -> AtHome:
    """Run the command in a home of this test's own, beside the daemon."""
    cwd = tmp_path / "cwd"
    cwd.mkdir()
    made = AtHome(tmp_path / "home", cwd)
    made.variables |= {"DOCKER_HOST": docker_host, "TMPDIR": str(tmp_path)}
    return made


@pytest.fixture
def contract(write_contract: ContractWriter) -> Path:
    """A tool that never ends, on Docker."""
    spec = {"image": "python:3.11-slim"}
    return write_contract(FOREVER, engine="docker", trust="untrusted", spec=spec, params=[])


def run_until_ready(at_home: AtHome, daemon: Daemon, *words: str | Path) -> Any:
    """Run a tool until it has begun and the daemon has said so."""
    process = at_home.start("run", *words)
    assert process.stdout.readline() == b"ready\n", process.stderr.read()
    assert daemon.containers()  # an answer that comes after the one to whoever started it
    return process


def events(at_home: AtHome, execution_id: str, kind: str) -> list[dict[str, Any]]:
    """Return the events of one type."""
    lines = at_home("logs", execution_id, "--type", kind, "--json").stdout.splitlines()
    return [json.loads(line) for line in lines]


def status(at_home: AtHome, execution_id: str) -> str:
    """Return where an execution stands."""
    return str(at_home.json("show", execution_id)["execution"]["status"])


def the_execution(at_home: AtHome) -> str:
    """Return the only execution of the home."""
    (found,) = at_home.json("ps", "--all")["executions"]
    return str(found["id"])


@contextlib.contextmanager
def working(at_home: AtHome) -> Iterator[Any]:
    """Have a worker run meanwhile; at the end it is told to end twice, which it cannot refuse."""
    process = start_worker(at_home)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.send_signal(signal.SIGINT)
        process.communicate(timeout=90)


def until_final(at_home: AtHome, execution_id: str) -> None:
    """Wait until an execution has ended."""
    assert at_home("logs", "-f", execution_id, "--type", "status").returncode is not None


def assert_proven(at_home: AtHome, daemon: Daemon, execution_id: str) -> None:
    """Check that the end is proven by the daemon's word, that one alert was raised, and the container is gone."""
    (proof,) = events(at_home, execution_id, "proof")
    (alert,) = events(at_home, execution_id, "alert")
    container = alert["data"]["remains"]["name"]
    assert container in proof["data"]["evidence"]
    assert alert["data"]["alert"] == "termination_unconfirmed"
    assert daemon.containers() == []
    assert "is not confirmed" not in at_home.json("show", execution_id)["execution"]["reason"]
    assert at_home("audit", "verify").returncode == 0


def test_ctrl_c_claims_nothing_and_a_later_worker_proves_the_end(
    at_home: AtHome, daemon: Daemon, contract: Path
) -> None:
    process = run_until_ready(at_home, daemon, contract)
    daemon.freeze()
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=90)[1].decode()
    assert process.returncode == 130
    assert "nothing of it is left" not in said
    execution_id = the_execution(at_home)
    (alert,) = events(at_home, execution_id, "alert")
    container = alert["data"]["remains"]["name"]
    last = said.splitlines()[-1]
    assert last.startswith("praxis: cancelled by SIGINT; the Docker daemon at ")
    assert f"has not confirmed that container '{container}' is gone" in last
    assert status(at_home, execution_id) == "cancelling"
    assert events(at_home, execution_id, "proof") == []
    assert f"praxis-{execution_id}" in container

    assert processes_with(MARKER), "the container runs on"
    daemon.thaw()
    with working(at_home):
        until_final(at_home, execution_id)
    assert status(at_home, execution_id) == "cancelled"
    assert_proven(at_home, daemon, execution_id)


def test_a_timeout_is_told_in_time_and_proven_later(at_home: AtHome, daemon: Daemon, contract: Path) -> None:
    process = run_until_ready(at_home, daemon, contract, "--timeout", "6")
    daemon.freeze()
    said = process.communicate(timeout=90)[1].decode()
    assert process.returncode == 124
    (note,) = [line for line in said.splitlines() if "its end is not confirmed" in line]
    assert "container 'praxis-" in note
    assert processes_with(MARKER)
    execution_id = the_execution(at_home)
    assert status(at_home, execution_id) == "cancelling"
    assert events(at_home, execution_id, "proof") == []
    daemon.thaw()
    with working(at_home):
        until_final(at_home, execution_id)
    assert status(at_home, execution_id) == "timed_out"
    assert_proven(at_home, daemon, execution_id)


def test_a_worker_goes_on_pursuing_and_raises_one_alert(
    at_home: AtHome, daemon: Daemon, contract: Path
) -> None:
    execution_id = submitted(at_home, "--tool", str(contract))
    with working(at_home):
        follower = at_home.start("logs", "-f", execution_id)
        assert follower.stdout.readline() == b"ready\n"
        alerts = at_home.start("logs", "-f", execution_id, "--type", "alert")
        daemon.freeze()
        at_home("cancel", execution_id)
        assert b"is not confirmed to be gone" in alerts.stdout.readline()
        assert status(at_home, execution_id) == "cancelling"
        daemon.thaw()
        follower.communicate(timeout=90)
        alerts.communicate(timeout=90)
    assert status(at_home, execution_id) == "cancelled"
    assert_proven(at_home, daemon, execution_id)


def test_a_worker_that_is_killed_while_it_waits_leaves_the_pursuit_to_the_next(
    at_home: AtHome, daemon: Daemon, contract: Path
) -> None:
    execution_id = submitted(at_home, "--tool", str(contract))
    worker = start_worker(at_home)
    follower = at_home.start("logs", "-f", execution_id)
    assert follower.stdout.readline() == b"ready\n"
    statuses = at_home.start("logs", "-f", execution_id, "--type", "status")
    daemon.freeze()
    at_home("cancel", execution_id)
    while b"cancelling" not in statuses.stdout.readline():
        pass
    worker.kill()
    worker.communicate(timeout=90)
    for process in (follower, statuses):
        process.kill()
        process.communicate(timeout=90)
    assert status(at_home, execution_id) == "cancelling"
    assert events(at_home, execution_id, "proof") == []
    daemon.thaw()
    with working(at_home):
        until_final(at_home, execution_id)
    assert status(at_home, execution_id) == "cancelled"
    assert_proven(at_home, daemon, execution_id)
