"""Ctrl-C and SIGTERM during `praxis run`: the tool is ended, cleaned up after, and nothing is left."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import subprocess
import termios
import uuid
from collections.abc import Callable

import pytest

from tests.cli.conftest import (
    COMMAND,
    ContractWriter,
    Signpost,
    environment,
    only_line,
    ready_for_signals,
    start,
)
from tests.execution.conformance import processes_with

STUBBORN = "trap '' INT TERM HUP; (trap '' INT TERM HUP; sleep 60; : {0}) & echo ready; wait; sleep 60; : {0}"
ENGINES = [("local", "trusted"), ("sandbox", "untrusted")]


@pytest.fixture
def marker() -> str:
    """A word that the tool's processes have in their command lines, and nobody else."""
    return f"cli-{uuid.uuid4().hex}"


@pytest.mark.parametrize(("engine", "trust"), ENGINES)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_tool_and_all_it_started(
    write_contract: ContractWriter, marker: str, engine: str, trust: str, number: signal.Signals
) -> None:
    process = start("run", write_contract(STUBBORN.format(marker), engine=engine, trust=trust))
    assert process.stdout.readline() == b"ready\n"
    assert processes_with(marker)
    process.send_signal(number)
    rest, said = process.communicate(timeout=60)
    assert processes_with(marker) == []
    assert (process.returncode, rest) == (128 + number, b"")
    assert said.decode().splitlines() == [
        f"praxis: {number.name}: ending what runs",
        f"praxis: cancelled by {number.name}; nothing of it is left running",
    ]


@pytest.mark.parametrize(("engine", "trust"), ENGINES)
def test_a_second_ctrl_c_leaves_nothing_either(
    write_contract: ContractWriter, marker: str, engine: str, trust: str
) -> None:
    process = start("run", write_contract(STUBBORN.format(marker), engine=engine, trust=trust), "--quiet")
    assert process.stdout.readline() == b"ready\n"
    for _ in range(3):
        process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert processes_with(marker) == []
    assert process.returncode == 130
    assert only_line(said) == "praxis: cancelled by SIGINT; nothing of it is left running"


def test_json_tells_of_the_cancellation(
    write_contract: ContractWriter, signpost: Signpost, marker: str
) -> None:
    process = start("run", write_contract(f"echo > {signpost.path}; sleep 60; : {marker}"), "--json")
    signpost.wait(process)
    process.send_signal(signal.SIGINT)
    result = json.loads(process.communicate(timeout=60)[0])
    assert result["error"]["type"] == "Cancelled"
    assert result["error"]["exit_status"] == process.returncode == 130
    assert processes_with(marker) == []


def test_ctrl_c_at_a_terminal_ends_the_tool(write_contract: ContractWriter, marker: str) -> None:
    ours, theirs = pty.openpty()

    def at_the_terminal() -> None:
        ready_for_signals()
        fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)

    process = subprocess.Popen(
        [*COMMAND, "run", write_contract(STUBBORN.format(marker), engine="sandbox", trust="untrusted")],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment(),
        start_new_session=True,
        preexec_fn=at_the_terminal,
    )
    os.close(theirs)
    shown = read_until(ours, lambda text: b"ready" in text)
    os.write(ours, b"\x03")
    shown += read_until(ours, lambda _: False)
    assert process.wait(60) == 130
    os.close(ours)
    assert b"cancelled by SIGINT" in shown
    assert processes_with(marker) == []


def test_a_reader_that_does_not_read_cannot_delay_the_end(
    write_contract: ContractWriter, signpost: Signpost, marker: str
) -> None:
    script = f"head -c 1000000 /dev/zero; echo > {signpost.path}; sleep 60; : {marker}"
    process = start("run", write_contract(script))
    signpost.wait(process)  # much more than a pipe holds was written, and nobody reads it
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143
    assert processes_with(marker) == []
    process.communicate()


def test_a_reader_that_leaves_ends_an_endless_tool(write_contract: ContractWriter, marker: str) -> None:
    process = start("run", write_contract(f"yes; : {marker}"))
    assert process.stdout.read(2) == b"y\n"
    process.stdout.close()
    process.stdout = None
    assert process.communicate(timeout=60)[1] == b""
    assert process.returncode == 141
    assert processes_with(marker) == []


def read_until(terminal: int, enough: Callable[[bytes], bool]) -> bytes:
    """Read what appears on a terminal until it is enough, or nobody is left who could write."""
    shown = b""
    while not enough(shown):
        try:
            shown += os.read(terminal, 4096)
        except OSError:  # EIO: the last one has closed it
            break
    return shown
