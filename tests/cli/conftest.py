"""The real command as a subprocess, and contracts for it."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

COMMAND = [sys.executable, "-m", "praxis_sdk.cli"]
_NOT_PASSED_ON = ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "TERM", "PYTHONUNBUFFERED")

# No test looks into the home of whoever runs the tests, or leaves anything there.
_HOME = tempfile.TemporaryDirectory(prefix="praxis-test-home-")

ContractWriter = Callable[..., Path]


def environment(**variables: str) -> dict[str, str]:
    """Return what the command finds in its environment, whatever the tests run in."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name not in _NOT_PASSED_ON and not name.startswith("PRAXIS_")
    }
    return {**inherited, "TERM": "xterm", "PRAXIS_HOME": _HOME.name, **variables}


def ready_for_signals() -> None:
    """Undo, in the child, that a test run in the background ignores SIGINT."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def start(*words: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None, **io: Any) -> Any:
    """Start the command; its three streams are pipes unless said otherwise."""
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(
        [*COMMAND, *words],
        cwd=cwd,
        env=environment(**(env or {})),
        preexec_fn=ready_for_signals,
        **{**pipes, **io},
    )


def praxis(
    *words: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None, stdin: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    """Run the command to its end."""
    return subprocess.run(
        [*COMMAND, *words],
        cwd=cwd,
        env=environment(**(env or {})),
        input=stdin,
        capture_output=True,
        timeout=100,
        check=False,
    )


def praxis_after(
    patch: str, *words: str | Path, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run the command in a process where some Python code ran before it."""
    code = f"import sys\n{patch}\nfrom praxis_sdk.cli.main import main\nsys.exit(main(sys.argv[1:]))"
    return subprocess.run(
        [sys.executable, "-c", code, *words],
        env=environment(**(env or {})),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=100,
        check=False,
    )


class Signpost:
    """A named pipe by which a tool on this host says how far it is: `echo > PATH`."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "signpost"
        os.mkfifo(self.path)
        self._fd = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK)

    def wait(self, process: Any) -> None:
        """Wait until the tool has spoken; fails when the command ends before."""
        pidfd = os.pidfd_open(process.pid)
        ready = select.select([self._fd, pidfd], [], [])[0]
        os.close(pidfd)
        assert self._fd in ready, "the command ended before its tool was ready"

    def close(self) -> None:
        """Take it down."""
        os.close(self._fd)


@pytest.fixture
def signpost(tmp_path: Path) -> Iterator[Signpost]:
    """Make a signpost for the tool of one test."""
    made = Signpost(tmp_path)
    yield made
    made.close()


def only_line(text: bytes) -> str:
    """Return the one line that a stream holds."""
    lines = text.decode().splitlines()
    assert len(lines) == 1, text
    return lines[0]


@pytest.fixture(scope="session")
def environments(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build `base` once, with the command; returns the folder of environments."""
    home = tmp_path_factory.mktemp("home")
    built = praxis("env", "build", "base", env={"PRAXIS_HOME": str(home)})
    assert built.returncode == 0, built.stderr
    return home / "environments"


@pytest.fixture
def home(environments: Path, tmp_path: Path) -> Path:
    """Make a Praxis home of this test's own, in which `base` is built already."""
    made = tmp_path / "home"
    made.mkdir()
    (made / "environments").symlink_to(environments)
    return made


class AtHome:
    """Runs the command in one Praxis home and one folder."""

    def __init__(self, home: Path, cwd: Path) -> None:
        self.home = home
        self.cwd = cwd
        self.variables = {"PRAXIS_HOME": str(home)}

    def __call__(self, *words: str | Path, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """Run the command to its end."""
        return praxis(*words, cwd=self.cwd, env=self.variables, stdin=stdin)

    def start(self, *words: str | Path) -> Any:
        """Start the command; see `start`."""
        return start(*words, cwd=self.cwd, env=self.variables)

    def json(self, *words: str | Path) -> dict[str, Any]:
        """Run the command with --json and return the document; nothing else may be said."""
        done = self(*words, "--json", "--quiet") if words[0] in _QUIETABLE else self(*words, "--json")
        assert done.stderr == b""
        found: dict[str, Any] = json.loads(done.stdout)
        assert found["schema_version"] == 1
        assert done.returncode == found.get("error", found).get("exit_status", done.returncode)
        return found


_QUIETABLE = ("exec", "replay")


@pytest.fixture
def at_home(home: Path, tmp_path: Path) -> AtHome:
    """Run the command in a home of this test's own."""
    cwd = tmp_path / "cwd"
    cwd.mkdir()
    return AtHome(home, cwd)


@pytest.fixture
def write_contract(tmp_path: Path) -> ContractWriter:
    """Write the contract of a shell script: a trusted local tool, unless said otherwise."""

    def write(script: str = "true", file: str = "contract.yaml", **fields: Any) -> Path:
        contract: dict[str, Any] = {
            "name": "tool",
            "engine": "local",
            "trust": "trusted",
            "params": [
                {"name": "text", "type": "string"},
                {"name": "count", "type": "integer", "default": 1},
                {"name": "loud", "type": "boolean", "default": False},
            ],
            "engineSpec": {"command": ["sh", "-c", script], **fields.pop("spec", {})},
            **fields,
        }
        path = tmp_path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(contract))  # JSON is YAML
        return path

    return write
