"""The `dagger` command of the stand-in: `dagger session` prints where it is reached, and ends with its stdin.

Like the real one it needs a Docker daemon (DOCKER_HOST), or the engine that the runner variable names, and
says in the same words what keeps it from them. `STANDIN_UID` makes it another user first.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path
from urllib.parse import urlsplit

from tests.execution.dagger_standin.server import DaggerStandIn


def main(arguments: list[str]) -> int:
    """Serve one session."""
    if arguments[:1] != ["session"]:
        print(f"Error: unknown command {arguments[:1]}", file=sys.stderr)
        return 1
    if uid := os.environ.get("STANDIN_UID"):
        os.setuid(int(uid))
    print("Creating new Engine session...", *arguments, file=sys.stderr, flush=True)
    if problem := _unreachable_runner() or _unreachable_docker():
        print(f"Error: start engine: {problem}", file=sys.stderr)
        return 1
    with DaggerStandIn(os.environ["DOCKER_HOST"]) as standin:
        print(json.dumps({"port": standin.port, "session_token": standin.token}), flush=True)
        sys.stdin.read()
    return 0


def install(folder: Path) -> Path:
    """Write the command into a folder; returns its path."""
    checkout = Path(__file__).resolve().parents[3]
    command = folder / "dagger"
    command.write_text(
        f"#!{sys.executable}\n"
        "import sys\n"
        f"sys.path.insert(0, {str(checkout)!r})\n"
        "from tests.execution.dagger_standin.command import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    command.chmod(0o755)
    return command


def _unreachable_runner() -> str | None:
    host = urlsplit(os.environ.get("_EXPERIMENTAL_DAGGER_RUNNER_HOST", ""))
    if not host.hostname:
        return None
    try:
        socket.create_connection((host.hostname, host.port), timeout=10).close()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        return f"failed to connect to engine: dial tcp {host.netloc}: connect: {reason}"
    return None


def _unreachable_docker() -> str | None:
    path = urlsplit(os.environ["DOCKER_HOST"]).path
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(path)
        except PermissionError:
            return (
                f"permission denied while trying to connect to the Docker daemon socket at unix://{path}: "
                f'Get "http://%2Fdocker.sock/v1.24/version": dial unix {path}: connect: permission denied'
            )
        except OSError:
            return f"Cannot connect to the Docker daemon at unix://{path}. Is the docker daemon running?"
    return None
