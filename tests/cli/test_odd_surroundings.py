"""Engines in odd surroundings: addresses of daemons, helper programs that hang, hosts that enforce little."""

from __future__ import annotations

import http.server
import json
import os
import select
import signal
import socket
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from devservices.ordinary_user import OrdinaryUser
from tests.cli.conftest import ContractWriter, only_line, praxis, start
from tests.execution.conformance import processes_with

PAGE = "<html><body>" + "Welcome to the proxy, please log in. " * 300 + "</body></html>"


@pytest.fixture
def dockerless(write_contract: ContractWriter) -> Path:
    """A tool for Docker, in surroundings where there is none."""
    return write_contract(engine="docker", trust="untrusted", spec={"image": "python:3.11-slim"}, params=[])


class _Proxy(http.server.BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(PAGE)))
        self.end_headers()
        self.wfile.write(PAGE.encode())

    def log_message(self, *_: Any) -> None:
        return


def serving(status: int) -> http.server.ThreadingHTTPServer:
    """Serve a page for people under every path, from now on."""
    handler = type("Handler", (_Proxy,), {"status": status})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


# -- addresses of Docker daemons


@pytest.mark.parametrize(
    ("address", "words", "remedy"),
    [
        ("ssh://someone@host.invalid", "asyncssh", "ssh -nNT -L"),
        ("unix:///nowhere/docker.sock", "no such socket", "systemctl start docker"),
        ("unix:///etc/passwd", "connection refused", "DOCKER_HOST"),
        ("tcp://127.0.0.1:99999", "is not the address of a Docker daemon", "tcp://HOST:2376"),
        ("tcp://[::1", "is not the address of a Docker daemon", "tcp://HOST:2376"),
        ("ftp://host", "is not the address of a Docker daemon", "tcp://HOST:2376"),
    ],
)
def test_an_address_that_cannot_work_is_told_in_one_line(
    dockerless: Path, address: str, words: str, remedy: str
) -> None:
    done = praxis("run", dockerless, env={"DOCKER_HOST": address})
    line = only_line(done.stderr)
    assert done.returncode == 3
    assert words in line
    assert remedy in line
    assert "internal error" not in line


@pytest.mark.parametrize("status", [200, 403, 502])
def test_a_page_of_a_proxy_is_not_quoted(dockerless: Path, status: int) -> None:
    server = serving(status)
    try:
        address = f"tcp://127.0.0.1:{server.server_address[1]}"
        done = praxis("run", dockerless, env={"DOCKER_HOST": address})
    finally:
        server.shutdown()
        server.server_close()
    line = only_line(done.stderr)
    assert done.returncode == 3
    assert f"what answers at {address} is not a Docker daemon" in line
    assert "Welcome" not in line


def test_a_server_that_speaks_no_tls_is_told(dockerless: Path, tmp_path: Path) -> None:
    server = serving(200)
    try:
        address = f"https://127.0.0.1:{server.server_address[1]}"
        done = praxis("run", dockerless, env={"DOCKER_HOST": address, "DOCKER_CERT_PATH": str(tmp_path)})
    finally:
        server.shutdown()
        server.server_close()
    line = only_line(done.stderr)
    assert done.returncode == 3
    assert f"the certificates for the Docker daemon in '{tmp_path}' cannot be used" in line


def test_a_daemon_that_hangs_after_it_accepted_is_given_up(dockerless: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        done = praxis("run", dockerless, env={"DOCKER_HOST": address})
    assert f"the Docker daemon at {address} did not answer within" in only_line(done.stderr)
    assert done.returncode == 3


def test_a_home_of_somebody_else_is_no_internal_error(ordinary_user: OrdinaryUser) -> None:
    command = [str(ordinary_user.python), "-m", "praxis_sdk.cli", "engines", "--json"]
    done = ordinary_user.run(["env", "HOME=/root", f"PRAXIS_HOME={ordinary_user.home}/praxis", *command])
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["engines"]) >= 5


# -- helper programs


@pytest.fixture
def dagger(tmp_path: Path) -> Iterator[Path]:
    """A place for a program that is taken for `dagger`; nothing of it may be left after the test."""
    path = tmp_path / f"dagger-{uuid.uuid4().hex}"
    path.touch(mode=0o755)
    yield path
    assert processes_with(path.name) == []


def engines_with(dagger: Path, script: str) -> dict[str, Any]:
    """Ask the engines with this script as the `dagger` command; returns what is said of Dagger."""
    dagger.write_text(f"#!/bin/sh\n{script}\n")
    done = praxis("engines", "--json", env={"_EXPERIMENTAL_DAGGER_CLI_BIN": str(dagger)})
    assert done.returncode == 0, done.stderr
    (found,) = [one for one in json.loads(done.stdout)["engines"] if one["name"] == "dagger"]
    assert not found["available"]
    assert "\n" not in found["reason"]
    assert len(found["reason"]) < 1000
    return dict(found)


@pytest.mark.parametrize(
    "script",
    [
        "sh -c 'sleep 600; : {name}' & exit 1",
        "sh -c 'sleep 600; : {name}' & echo broken >&2; exit 1",
        "(trap '' TERM INT HUP; sh -c 'sleep 600; : {name}') & sh -c 'sleep 600; : {name}'",
        "head -c 300000 /dev/zero; exec sleep 600.{name}",
        "head -c 3000000 /dev/zero >&2; exit 1",
        "echo '[]'; sh -c 'sleep 600; : {name}' & exit 0",
    ],
    ids=[
        "child-holds-the-pipe",
        "child-holds-both",
        "hangs-and-ignores",
        "floods-stdout",
        "floods-stderr",
        "no-json",
    ],
)
def test_a_helper_program_that_misbehaves_is_ended_with_all_it_started(dagger: Path, script: str) -> None:
    engines_with(dagger, script.replace("{name}", dagger.name))


def test_a_signal_ends_the_question_to_a_helper_program_at_once(dagger: Path, tmp_path: Path) -> None:
    signpost = tmp_path / "asked"
    os.mkfifo(signpost)
    reader = os.open(signpost, os.O_RDONLY | os.O_NONBLOCK)
    dagger.write_text(
        f"#!/bin/sh\nsh -c 'sleep 600; : {dagger.name}' &\necho > {signpost}\nsleep 600; : {dagger.name}\n"
    )
    process = start("engines", env={"_EXPERIMENTAL_DAGGER_CLI_BIN": str(dagger)})
    select.select([reader], [], [])
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=60)[1]
    os.close(reader)
    assert process.returncode == 143
    assert b"cancelled by SIGTERM" in said


# -- limits that a host cannot enforce for a tool as a whole


def as_user(user: OrdinaryUser, *words: str) -> Any:
    """Run the command as a user without control groups."""
    command = [str(user.python), "-m", "praxis_sdk.cli", *words]
    return user.run(["env", f"PRAXIS_HOME={user.home}/praxis", *command])


def contract_of(user: OrdinaryUser, **spec: Any) -> str:
    """Write a sandboxed tool where a user can read it."""
    contract = {
        "name": "tool",
        "engine": "sandbox",
        "engineSpec": {"command": ["true"], "memory_limit": "64m", **spec},
    }
    path = user.home / f"{uuid.uuid4().hex}.yaml"
    path.write_text(json.dumps(contract))
    path.chmod(0o644)
    return str(path)


def test_engines_say_for_each_limit_what_it_counts(ordinary_user: OrdinaryUser) -> None:
    found = json.loads(as_user(ordinary_user, "engines", "--json").stdout)["engines"]
    by_name = {one["name"]: one["capabilities"] for one in found}
    limits = by_name["sandbox"]["limits"]
    assert limits["memory"] == {"scope": "process", "how": "RLIMIT_AS"}
    assert limits["cpu"] == {"scope": "none", "how": None}
    assert limits["processes"]["scope"] == "tree"
    assert limits["disk"]["scope"] == "tree"
    assert limits["network"]["scope"] == "none"
    assert by_name["sandbox"]["supports_resource_limits"] is False
    assert {one["scope"] for one in by_name["local"]["limits"].values()} == {"none"}
    shown = as_user(ordinary_user, "engines").stdout
    assert "for each process by itself: memory (RLIMIT_AS)" in shown
    assert "partly" in next(line for line in shown.splitlines() if line.startswith("sandbox"))


def test_a_limit_that_counts_each_process_is_noted_with_the_outcome(ordinary_user: OrdinaryUser) -> None:
    done = as_user(ordinary_user, "run", contract_of(ordinary_user), "--json")
    outcome = json.loads(done.stdout)
    assert outcome["status"] == "completed"
    assert outcome["notes"] == [
        "engineSpec.memory_limit: holds for each process by itself here (RLIMIT_AS), not for all together"
    ]


def test_a_contract_that_demands_its_limits_is_refused_where_they_are_weaker(
    ordinary_user: OrdinaryUser,
) -> None:
    done = as_user(ordinary_user, "run", contract_of(ordinary_user, limits="strict"))
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("praxis: engineSpec.memory_limit: holds for each process by itself here")
    assert "limits: strict" in line


def test_a_contract_that_demands_what_holds_runs(ordinary_user: OrdinaryUser) -> None:
    spec = {"memory_limit": None, "pids_limit": 20, "limits": "strict"}
    done = as_user(ordinary_user, "run", contract_of(ordinary_user, **spec))
    assert done.returncode == 0, done.stderr
