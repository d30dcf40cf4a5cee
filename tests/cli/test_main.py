"""The entry: help, version, and errors that end as one line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from praxis_sdk import __version__
from tests.cli.conftest import ContractWriter, only_line, praxis, praxis_after

COMMANDS = [
    "run",
    "validate",
    "tools",
    "exec",
    "jobs",
    "job",
    "replay",
    "env",
    "artifact",
    "engines",
    "doctor",
]
INNER_COMMANDS = [
    *(["env", word] for word in ("build", "list", "show", "verify", "remove")),
    *(["artifact", word] for word in ("get", "gc")),
]

CROSSED_WIRES = """
import praxis_sdk.execution.contract.loading as loading
def boom(*args, **kwargs):
    raise RuntimeError("wires\\x1b[2J crossed")
loading.load_contract = boom
"""


def test_the_installed_command_tells_its_version() -> None:
    command = Path(sys.executable).with_name("praxis")
    done = subprocess.run([command, "--version"], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"praxis {__version__}\n", "")


def test_help_names_every_command() -> None:
    done = praxis("--help")
    assert (done.returncode, done.stderr) == (0, b"")
    assert all(f"\n  {command} " in done.stdout.decode() for command in COMMANDS)


def test_help_groups_the_commands() -> None:
    lines = praxis("--help").stdout.decode().splitlines()
    headings = [line for line in lines if line.endswith(":") and not line.startswith(" ")]
    assert headings == ["Options:", "Tools:", "Jobs:", "Queue:", "This host:"]


@pytest.mark.parametrize("command", [*([word] for word in COMMANDS), *INNER_COMMANDS], ids=" ".join)
def test_help_of_a_command_fits_80_columns(command: list[str]) -> None:
    done = praxis(*command, "--help")
    assert done.returncode == 0
    assert max(len(line) for line in done.stdout.decode().splitlines()) <= 80


def test_no_command_shows_help_and_is_a_mistake() -> None:
    done = praxis()
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"Usage: praxis" in done.stderr


def test_an_unknown_command_is_one_line_with_the_nearest_name() -> None:
    done = praxis("validat")
    assert done.returncode == 2
    assert (
        only_line(done.stderr)
        == "praxis: no such command 'validat'. Did you mean 'validate'? (see 'praxis --help')"
    )


@pytest.mark.parametrize("words", [["--version"], ["--help"], ["run", "--help"], ["exec", "--help"]])
def test_starting_costs_nothing_but_typer(words: list[str]) -> None:
    tell = "import atexit; atexit.register(lambda: print(*sys.modules, file=sys.stderr))"
    loaded = set(praxis_after(tell, *words).stderr.decode().split())
    assert not loaded & {
        "asyncio",
        "rich",
        "structlog",
        "yaml",
        "praxis_sdk.execution",
        "praxis_sdk.jobs",
    }
    assert "typer" in loaded


def test_an_internal_error_is_one_line_without_a_traceback(write_contract: ContractWriter) -> None:
    done = praxis_after(CROSSED_WIRES, "run", write_contract())
    assert (done.returncode, done.stdout) == (3, b"")
    assert only_line(done.stderr) == (
        "praxis: internal error: RuntimeError: wires\\x1b[2J crossed"
        " (set PRAXIS_DEBUG=1 and run again for the traceback)"
    )


def test_an_internal_error_as_json(write_contract: ContractWriter) -> None:
    done = praxis_after(CROSSED_WIRES, "run", write_contract(), "--json")
    error = json.loads(done.stdout)["error"]
    assert (done.returncode, done.stderr) == (3, b"")
    assert (error["type"], error["exit_status"]) == ("InternalError", 3)


@pytest.mark.parametrize(("words", "env"), [(["--verbose"], {}), ([], {"PRAXIS_DEBUG": "1"})])
def test_the_traceback_is_there_for_who_asks(
    write_contract: ContractWriter, words: list[str], env: dict[str, str]
) -> None:
    done = praxis_after(CROSSED_WIRES, "run", write_contract(), *words, env=env)
    assert b"Traceback (most recent call last)" in done.stderr
    assert b"\x1b" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith(b"praxis: internal error: RuntimeError")
