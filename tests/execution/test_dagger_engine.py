"""The Dagger engine: the conformance suite, and what is its own.

Where the `dagger` command answers, the conformance suite runs on a real engine; elsewhere on the
stand-in, which runs the chains in real Docker. The ids of the tests tell which.
"""

from __future__ import annotations

import asyncio
import inspect
import io
import json
import logging
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import dagger
import httpx
import pytest
from graphql import GraphQLObjectType

from praxis_sdk.errors import EngineUnavailable, MissingExtra, PlatformError, ValidationError
from praxis_sdk.execution.base import ExecutionEngine
from praxis_sdk.execution.context import RunContext
from praxis_sdk.execution.contract.specs import EngineType
from praxis_sdk.execution.contracts import ToolContract, ToolParameter
from praxis_sdk.execution.engines.dagger import sdk as dagger_sdk
from praxis_sdk.execution.engines.dagger import session as dagger_session
from praxis_sdk.execution.engines.dagger.engine import NETWORK_NOTE, DaggerExecutionEngine
from praxis_sdk.execution.engines.dagger.session import SessionCommand, diagnose
from praxis_sdk.execution.outcome import Limit, ToolOutcome
from praxis_sdk.states import ExecutionStatus, FailureCategory
from tests.execution.conformance import LONG_S, IsolatedConformance, Listener, processes_with
from tests.execution.dagger_standin import DaggerStandIn, evaluator
from tests.execution.dagger_standin.command import install
from tests.execution.dagger_standin.schema import make_schema

IMAGE = "python:3.11-slim"
SESSION_VARIABLES = (
    "DAGGER_SESSION_PORT",
    "DAGGER_SESSION_TOKEN",
    "_EXPERIMENTAL_DAGGER_CLI_BIN",
    "_EXPERIMENTAL_DAGGER_RUNNER_HOST",
)


def find_backend() -> str:
    """Say what the conformance suite runs on: a real engine where one answers."""
    if not (shutil.which("dagger") or os.environ.get("_EXPERIMENTAL_DAGGER_CLI_BIN")):
        return "stand-in"
    command = os.environ.get("_EXPERIMENTAL_DAGGER_CLI_BIN") or "dagger"
    try:
        asked = subprocess.run([command, "core", "version"], capture_output=True, timeout=100, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "stand-in"
    return "dagger" if asked.returncode == 0 else "stand-in"


BACKEND = find_backend()


class WatchedEngine(DaggerExecutionEngine):
    """An engine that knows how many runs are under way."""

    running = 0

    async def run(self, *args: Any, **kwargs: Any) -> ToolOutcome:
        self.running += 1
        try:
            return await super().run(*args, **kwargs)
        finally:
            self.running -= 1


@pytest.fixture
def no_session(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Take away whatever this machine has of Dagger."""
    for name in SESSION_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", os.defpath)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "no-cache"))


@pytest.fixture
def standin(docker_host: str, no_session: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[DaggerStandIn]:
    """Start a stand-in that this process finds, and see that nothing is left of it."""
    with DaggerStandIn(docker_host) as made:
        for name, value in made.environment.items():
            monkeypatch.setenv(name, value)
        yield made
        if made.alive:
            made.settle()
    assert asyncio.run(made.leftovers()) == []


@pytest.fixture
def command(docker_host: str, no_session: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Install the stand-in's `dagger` command."""
    (tmp_path / "bin").mkdir()
    path = install(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{path.parent}{os.pathsep}{os.defpath}")
    monkeypatch.setenv("DOCKER_HOST", docker_host)
    return path


@pytest.fixture
async def engine(standin: DaggerStandIn) -> AsyncIterator[WatchedEngine]:
    """Make an engine for one test, on the stand-in."""
    made = WatchedEngine()
    yield made
    await made.cleanup()


@pytest.fixture
async def bare_engine() -> AsyncIterator[DaggerExecutionEngine]:
    """Make an engine for one test, on whatever that test provides."""
    made = DaggerExecutionEngine()
    yield made
    await made.cleanup()


def tool(script: str, *args: str, trust: str = "untrusted", **spec: Any) -> ToolContract:
    """Make a contract whose tool is a Python script."""
    return ToolContract(
        name="probe",
        engine=EngineType.DAGGER,
        engine_spec={"image": IMAGE, "command": ["python3", "-c", script, *args], **spec},
        parameters=[ToolParameter(name="text")],
        trust=trust,
    )


HANGING = f"import time; print('ready', flush=True); time.sleep({LONG_S})"


def wait_for_process(marker: str) -> None:
    """Wait for a process of a real engine on this machine, which tells nobody that an exec has begun."""
    deadline = time.monotonic() + LONG_S
    while not processes_with(marker):
        assert time.monotonic() < deadline, f"no process with {marker}"
        time.sleep(0.05)


# -- the shared promises


class TestDaggerConformance(IsolatedConformance):
    """The shared promises, and the refusal of those that a Dagger engine cannot keep."""

    engine_type = EngineType.DAGGER
    base_spec = {"image": IMAGE}
    claims_usage = False
    confirms_ends = False

    @pytest.fixture(params=[BACKEND])
    async def engine(self, request: pytest.FixtureRequest) -> AsyncIterator[WatchedEngine]:
        self.standin = request.getfixturevalue("standin") if request.param == "stand-in" else None
        self.watched = WatchedEngine()
        yield self.watched
        await self.watched.cleanup()

    def flooding(self) -> ToolContract:
        # The engine hands output out when the tool has ended: a tool that never ends is the timeout's.
        return self.contract("for _ in range(1000): print('x' * 1000)", output_limit="64k")

    def leftovers(self, marker: str) -> list[str]:
        if self.standin is not None and not self.watched.running:
            self.standin.settle()
        return processes_with(marker)

    async def started(self, marker: str, listener: Listener) -> None:
        if self.standin is not None:
            await asyncio.to_thread(self.standin.wait_started, marker)
        else:
            await asyncio.to_thread(wait_for_process, marker)

    async def test_undecodable_output_is_replaced(self, engine: ExecutionEngine) -> None:
        outcome = await self.run(engine, "import os; os.write(1, b'a\\xff\\x00b')")
        assert outcome.stdout == "a\ufffd\x00b"
        assert outcome.stdout_bytes == len(outcome.stdout.encode()), "the engine's text, not the tool's bytes"

    async def test_fork_bomb_is_contained(self, engine: ExecutionEngine) -> None:
        assert (await engine.get_capabilities())["supports_pids_limit"] is False
        with pytest.raises(ValidationError, match=r"engineSpec\.pids_limit"):
            await self.run(engine, "", pids_limit=40)

    async def test_network_is_off_unless_asked_for(self, engine: ExecutionEngine) -> None:
        assert (await engine.get_capabilities())["supports_network_isolation"] is False
        with pytest.raises(ValidationError, match=r"engineSpec\.network: .* cannot switch the network off"):
            await self.run(engine, "", network="none")
        assert NETWORK_NOTE in (await self.run(engine, "")).notes
        assert NETWORK_NOTE not in (await self.run(engine, "", network="bridge")).notes

    async def test_the_tool_has_no_privileges(self, engine: ExecutionEngine) -> None:
        script = (
            "import os\n"
            "lines = open('/proc/self/status').read().splitlines()\n"
            "status = dict(line.split(':\\t', 1) for line in lines if ':\\t' in line)\n"
            "print(int(status['CapEff'], 16), status['Seccomp'], os.getuid() != 0)\n"
            "for path in ('/usr/x', '/etc/x', '/x'):\n"
            "    try: open(path, 'w'); print('wrote', path)\n"
            "    except OSError: pass\n"
        )
        outcome = await self.run(engine, script)
        assert outcome.stdout == "0 2 True\n", outcome


# -- what a Dagger engine cannot keep is refused, whoever asks


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"memory_limit": "96m"}, "memory_limit"),
        ({"cpu_limit": 0.5}, "cpu_limit"),
        ({"pids_limit": 40}, "pids_limit"),
        ({"network": "none"}, "network"),
        ({"network": "backend"}, "network"),
        ({"pip_cache": True}, "pip_cache"),
    ],
)
async def test_what_cannot_be_kept_is_refused_before_anything_starts(
    bare_engine: DaggerExecutionEngine, spec: dict[str, Any], field: str
) -> None:
    contract = tool("", **spec)
    assert await bare_engine.validate_contract(contract) is False
    with pytest.raises(ValidationError, match=rf"engineSpec\.{field}: ") as caught:
        await bare_engine.run(contract, {})
    assert caught.value.remedy


# -- caching


async def test_equal_runs_really_run_again(engine: WatchedEngine, standin: DaggerStandIn) -> None:
    script = "import uuid; print(uuid.uuid4())"
    context = RunContext(execution_id="twice")
    outputs = [(await engine.run(tool(script), {}, context)).stdout for _ in range(2)]
    assert outputs[0] != outputs[1]
    assert len(standin.executions) == 2


async def test_the_stand_in_answers_equal_chains_from_its_cache(standin: DaggerStandIn) -> None:
    chain = f'container {{ from(address: "{IMAGE}") {{ withExec(args: ["true"]) {{ exitCode }} }} }}'
    async with httpx.AsyncClient(auth=(standin.token, ""), trust_env=False) as client:
        for _ in range(2):
            answer = await client.post(
                f"http://127.0.0.1:{standin.port}/query", json={"query": f"{{ {chain} }}"}
            )
            assert answer.json()["data"]["container"]["from"]["withExec"]["exitCode"] == 0
    assert standin.executions == [["true"]]


async def test_a_mount_is_read_anew_for_every_run(engine: WatchedEngine, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    contract = tool(
        "print(open('/in/file').read(), open('/one').read())", mounts={"in": "/in:ro", "in/file": "/one:ro"}
    )
    for text in ("first", "second"):
        (tmp_path / "in" / "file").write_text(text)
        assert (await engine.run(contract, {}, RunContext(workspace=tmp_path))).stdout == f"{text} {text}\n"


async def test_pip_cache_outlives_trusted_runs(engine: WatchedEngine) -> None:
    script = (
        "import os, pathlib\n"
        "wheel = pathlib.Path(os.environ['PIP_CACHE_DIR'], 'wheel')\n"
        "print(wheel.exists()); wheel.touch()\n"
    )
    contract = tool(script, trust="trusted", pip_cache=True)
    assert [(await engine.run(contract, {})).stdout for _ in range(2)] == ["False\n", "True\n"]


# -- ends


async def test_codes_that_dagger_takes_for_errors_are_kept(engine: WatchedEngine, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    script = "import sys; print('said'); print('why', file=sys.stderr); open('/out/x', 'w'); sys.exit(137)"
    outcome = await engine.run(tool(script, mounts={"out": "/out"}), {}, RunContext(workspace=tmp_path))
    assert (outcome.status, outcome.exit_code) == (ExecutionStatus.FAILED, 137)
    assert (outcome.stdout, outcome.stderr) == ("said\n", "why\n")
    assert outcome.failure is not None
    assert outcome.failure.category is FailureCategory.USER_CODE_ERROR
    assert any("/out was not exported" in note for note in outcome.notes)


@pytest.mark.parametrize("code", [0, 1, 127, 128, 191, 192, 255])
async def test_no_exit_code_is_lost(engine: WatchedEngine, code: int) -> None:
    assert (await engine.run(tool(f"print('x'); raise SystemExit({code})"), {})).exit_code == code


async def test_missing_image_is_the_users_mistake(engine: WatchedEngine) -> None:
    contract = tool("").model_copy(update={"engine_spec": {"image": "no/such:image", "command": ["true"]}})
    with pytest.raises(ValidationError, match=r"engineSpec\.image: .*'no/such:image'"):
        await engine.run(contract, {})


async def test_more_output_than_the_engine_hands_out_is_over_the_limit(
    engine: WatchedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluator, "MAX_CONTENTS_BYTES", 1000)
    outcome = await engine.run(tool("import sys; print('x' * 2000); print('kept', file=sys.stderr)"), {})
    assert (outcome.limit, outcome.stdout, outcome.stderr) == (Limit.OUTPUT, "", "kept\n")


async def test_a_timeout_leaves_other_runs_and_later_ones_alone(
    engine: WatchedEngine, standin: DaggerStandIn
) -> None:
    other = asyncio.ensure_future(engine.run(tool("import time; time.sleep(3); print('done')"), {}))
    late = await engine.run(tool(HANGING), {}, RunContext(timeout_s=1))
    assert late.status is ExecutionStatus.TIMED_OUT
    assert (await engine.run(tool("print('next')"), {})).stdout == "next\n"
    assert (await other).stdout == "done\n"


async def test_the_engine_dying_under_a_tool_is_the_platforms_failure(
    engine: WatchedEngine, standin: DaggerStandIn, docker_host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker = uuid.uuid4().hex
    run = asyncio.ensure_future(engine.run(tool(HANGING, marker), {}))
    await asyncio.to_thread(standin.wait_started, marker)
    await asyncio.to_thread(standin.stop)
    with pytest.raises(PlatformError, match="connection to the Dagger engine broke") as caught:
        await run
    assert caught.value.remedy
    assert processes_with(marker) == []
    with pytest.raises(EngineUnavailable, match="no Dagger engine answers"):
        await engine.run(tool(""), {})
    with DaggerStandIn(docker_host) as another:
        for name, value in another.environment.items():
            monkeypatch.setenv(name, value)
        assert (await engine.run(tool("print('again')"), {})).stdout == "again\n"


async def test_cancellation_leaves_no_container(engine: WatchedEngine, standin: DaggerStandIn) -> None:
    marker = uuid.uuid4().hex
    run = asyncio.ensure_future(engine.run(tool(HANGING, marker), {}))
    await asyncio.to_thread(standin.wait_started, marker)
    assert await standin.leftovers() != []
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    await asyncio.to_thread(standin.settle)
    assert await standin.leftovers() == []


# -- exports and privileges


async def test_an_export_to_another_machine_is_told(
    docker_host: str,
    no_session: None,
    tmp_path: Path,
    bare_engine: DaggerExecutionEngine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "out").mkdir()
    with DaggerStandIn(docker_host, file_system=tmp_path / "elsewhere") as far:
        for name, value in far.environment.items():
            monkeypatch.setenv(name, value)
        contract = tool("open('/out/x', 'w').write('x')", mounts={"out": "/out"})
        with pytest.raises(PlatformError, match="runs on another machine"):
            await bare_engine.run(contract, {}, RunContext(workspace=tmp_path))
        await bare_engine.cleanup()
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("nested", ["/out/deep/inner", "/out/inner"])
async def test_nested_exports_keep_apart(engine: WatchedEngine, tmp_path: Path, nested: str) -> None:
    for name in ("outer", "inner"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "same.txt").write_text(name)
    script = (
        f"for folder in ('/out', '{nested}'):\n"
        "    path = folder + '/same.txt'; text = open(path).read(); open(path, 'w').write(text + ' changed')\n"
    )
    outcome = await engine.run(
        tool(script, mounts={"inner": nested, "outer": "/out"}), {}, RunContext(workspace=tmp_path)
    )
    assert outcome.succeeded, outcome
    assert {(file.mount, file.path) for file in outcome.exports.files} == {
        ("/out", "same.txt"),
        (nested, "same.txt"),
    }
    assert (tmp_path / "outer/same.txt").read_text() == "outer changed"
    assert (tmp_path / "inner/same.txt").read_text() == "inner changed"
    assert not (tmp_path / "outer" / nested.removeprefix("/out/")).exists(), "a mount point is no change"


async def test_only_trusted_tools_are_root_and_only_privileged_ones_own_the_machine(
    engine: WatchedEngine,
) -> None:
    script = "import os; print(os.getuid(), open('/proc/self/status').read().split('CapEff:')[1].split()[0])"
    plain = (await engine.run(tool(script, trust="trusted"), {})).stdout.split()
    mighty = (await engine.run(tool(script, trust="trusted", privileged=True), {})).stdout.split()
    assert plain[0] == mighty[0] == "0"
    assert int(mighty[1], 16) > int(plain[1], 16)
    with pytest.raises(ValidationError, match=r"engineSpec\.privileged"):
        await engine.run(tool(script, privileged=True), {})


# -- connections


async def test_connection_options_reach_the_session(
    command: Path, bare_engine: DaggerExecutionEngine, tmp_path: Path
) -> None:
    log = io.StringIO()
    bare_engine.configure_connection(
        workdir=tmp_path,
        config_path=tmp_path / "dagger.json",
        load_workspace_modules=True,
        log_output=log,
        timeout=30,
    )
    assert (await bare_engine.run(tool("print('hello')"), {})).stdout == "hello\n"
    assert f"--workdir {tmp_path} --project {tmp_path}/dagger.json --load-workspace-modules" in log.getvalue()


async def test_execute_timeout_bounds_a_request(engine: WatchedEngine, standin: DaggerStandIn) -> None:
    engine.configure_connection(execute_timeout=2.5)
    with pytest.raises(PlatformError, match="timed out"):
        await engine.run(tool(HANGING), {})
    engine.configure_connection()
    assert (await engine.run(tool("print('next')"), {})).stdout == "next\n"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"log_ouput": sys.stderr}, r"there is no option 'log_ouput' \(did you mean 'log_output'"),
        ({"console": None}, "there is no option 'console'"),
        ({"timeout": "soon"}, "soon"),
        ({"execute_timeout": object()}, "execute_timeout"),
    ],
)
def test_unsound_connection_options_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        DaggerExecutionEngine().configure_connection(**options)


async def test_workdir_is_refused_for_a_session_that_runs_already(
    engine: WatchedEngine, tmp_path: Path
) -> None:
    engine.configure_connection(workdir=tmp_path)
    with pytest.raises(ValidationError, match="workdir"):
        await engine.run(tool(""), {})


async def test_one_session_serves_all_runs_and_ends_with_cleanup(
    command: Path, bare_engine: DaggerExecutionEngine
) -> None:
    await asyncio.gather(*(bare_engine.run(tool("pass"), {}) for _ in range(5)))
    assert len(processes_with(f"{command} session")) == 1
    await bare_engine.cleanup()
    assert processes_with(f"{command} session") == []


async def test_a_dead_session_is_made_anew(command: Path, bare_engine: DaggerExecutionEngine) -> None:
    await bare_engine.run(tool("pass"), {})
    session = bare_engine._slots[asyncio.get_running_loop()].connection._session
    session._process.kill()
    session._process.wait()
    assert (await bare_engine.run(tool("print('again')"), {})).stdout == "again\n"
    assert len(processes_with(f"{command} session")) == 1


async def test_a_session_ends_with_the_run_that_timed_out(
    command: Path, bare_engine: DaggerExecutionEngine
) -> None:
    marker = uuid.uuid4().hex
    outcome = await bare_engine.run(tool(HANGING, marker), {}, RunContext(timeout_s=2))
    assert outcome.status is ExecutionStatus.TIMED_OUT
    assert processes_with(f"{command} session") == []
    assert processes_with(marker) == [], "with the session ends what it ran"


def test_an_engine_serves_one_event_loop_after_another(command: Path) -> None:
    made = DaggerExecutionEngine()

    async def use() -> str:
        return (await made.run(tool("print('served')"), {})).stdout

    assert [asyncio.run(use()) for _ in range(2)] == ["served\n"] * 2
    assert len(processes_with(f"{command} session")) == 1
    asyncio.run(made.cleanup())
    assert processes_with(f"{command} session") == []


async def test_neither_output_nor_logs_tell_what_a_tool_was_given(
    command: Path,
    bare_engine: DaggerExecutionEngine,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    await bare_engine.run(tool("pass", env={"TOKEN": "hush-env"}), {"text": "hush-argument"})
    written = capfd.readouterr()
    for place in (written.out, written.err, caplog.text):
        assert "hush" not in place
    assert "Engine" not in written.out + written.err, "the SDK's and the engine's noise"


# -- no engine


async def unavailable(made: DaggerExecutionEngine) -> EngineUnavailable:
    """Run something and return why it cannot be; the capabilities must say the same."""
    with pytest.raises(EngineUnavailable) as caught:
        await asyncio.wait_for(made.run(tool(""), {}), 30)
    capabilities = await made.get_capabilities()
    assert (
        capabilities["available"]
        is capabilities["dagger_available"]
        is capabilities["real_dagger_engine"]
        is False
    )
    assert (capabilities["unavailable_reason"], capabilities["remedy"]) == (
        caught.value.message,
        caught.value.remedy,
    )
    assert caught.value.remedy
    assert "\n" not in str(caught.value)
    return caught.value


async def test_missing_command_says_how_to_get_it(
    no_session: None, bare_engine: DaggerExecutionEngine
) -> None:
    problem = await unavailable(bare_engine)
    assert problem.message == "there is no Dagger CLI here: 'dagger' is not on PATH"
    assert "https://docs.dagger.io/install" in problem.remedy


async def test_named_command_that_is_missing_is_told_by_name(
    no_session: None, bare_engine: DaggerExecutionEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("_EXPERIMENTAL_DAGGER_CLI_BIN", "/nowhere/dagger")
    assert "'/nowhere/dagger'" in (await unavailable(bare_engine)).message


async def test_no_docker_daemon_is_told(
    command: Path, bare_engine: DaggerExecutionEngine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/absent.sock")
    problem = await unavailable(bare_engine)
    assert problem.message.startswith("no Docker daemon is running")
    assert "start Docker" in problem.remedy


async def test_no_permission_on_the_docker_socket_is_told(
    command: Path, bare_engine: DaggerExecutionEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as server:
        path = Path(folder, "docker.sock")
        server.bind(str(path))
        server.listen()
        path.chmod(0)
        monkeypatch.setenv("DOCKER_HOST", f"unix://{path}")
        if os.getuid() == 0:
            monkeypatch.setenv("STANDIN_UID", "65534")
        problem = await unavailable(bare_engine)
    assert problem.message.startswith("no permission on the Docker socket")
    assert "group 'docker'" in problem.remedy


async def test_unreachable_network_is_told(
    command: Path, bare_engine: DaggerExecutionEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
    monkeypatch.setenv("_EXPERIMENTAL_DAGGER_RUNNER_HOST", address)
    problem = await unavailable(bare_engine)
    assert problem.message.startswith(f"the Dagger CLI cannot reach the network at {address}")
    assert "connection refused" in problem.message
    assert "proxy" in problem.remedy


NO_DAEMON = """\
Error: new client: failed to run container: docker: Cannot connect to the Docker daemon at unix:///var/run/docker.sock.
Is the docker daemon running?.
"""
NO_DOCKER = (
    'Error: start engine: driver "image" not available: exec: "docker": executable file not found in $PATH'
)
NO_PERMISSION = """\
Error: start engine: Got permission denied while trying to connect to the Docker daemon socket at unix:///var/run/docker.sock
See 'docker run --help'.
"""
NO_NAME = "docker: Get https://registry.dagger.io/v2/: dial tcp: lookup registry.dagger.io on 10.0.0.2:53: no such host"


@pytest.mark.parametrize(
    ("log", "words"),
    [
        (NO_DAEMON, "no Docker daemon is running"),
        (NO_DOCKER, "no Docker daemon is running"),
        (NO_PERMISSION, "no permission on the Docker socket"),
        (NO_NAME, "cannot reach the network"),
        ("net/http: TLS handshake timeout", "cannot reach the network"),
        ("panic: something else\n\ngoroutine 1 [running]:", "gave no session: goroutine 1"),
        ("", "it ended without a word"),
    ],
)
def test_what_the_command_complains_about_is_understood(log: str, words: str) -> None:
    assert words in diagnose(log, SessionCommand(Path("/usr/bin/dagger"))).message


async def test_a_command_that_hangs_is_ended(command: Path, bare_engine: DaggerExecutionEngine) -> None:
    command.write_text(f"#!/bin/sh\necho 'pulling the engine image' >&2\nexec sleep {LONG_S}\n")
    bare_engine.configure_connection(timeout=1)
    began = time.monotonic()
    problem = await unavailable(bare_engine)
    assert time.monotonic() - began < LONG_S / 2
    assert "within 1 s: pulling the engine image" in problem.message


async def test_giving_up_while_a_command_hangs_ends_it(
    command: Path, bare_engine: DaggerExecutionEngine
) -> None:
    fifo = command.parent / "started"
    os.mkfifo(fifo)
    command.write_text(f"#!/bin/sh\necho started > {fifo}\nexec sleep {LONG_S}.0{os.getpid()}\n")
    run = asyncio.ensure_future(bare_engine.run(tool(""), {}))
    assert await asyncio.to_thread(fifo.read_text) == "started\n"
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert processes_with(f"{LONG_S}.0{os.getpid()}") == []


async def test_a_session_that_never_answers_is_given_up(
    no_session: None, bare_engine: DaggerExecutionEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("DAGGER_SESSION_PORT", str(silent.getsockname()[1]))
        monkeypatch.setenv("DAGGER_SESSION_TOKEN", "token")
        bare_engine.configure_connection(timeout=0.5)
        problem = await unavailable(bare_engine)
    assert "did not answer within 0.5 s" in problem.message


async def test_a_session_that_is_gone_is_told(
    no_session: None, bare_engine: DaggerExecutionEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.setenv("DAGGER_SESSION_PORT", str(port))
    monkeypatch.setenv("DAGGER_SESSION_TOKEN", "token")
    assert f"no Dagger engine answers at port {port}" in (await unavailable(bare_engine)).message


async def test_a_wrong_token_is_told_and_not_shown(
    standin: DaggerStandIn, bare_engine: DaggerExecutionEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGGER_SESSION_TOKEN", "wrong-token")
    problem = await unavailable(bare_engine)
    assert "refuses the session token" in problem.message
    assert "wrong-token" not in str(problem)


@pytest.mark.parametrize(
    ("port", "token", "words"),
    [("80", "", "DAGGER_SESSION_TOKEN is not"), ("eighty", "t", "'eighty' is not a port")],
)
async def test_unsound_session_variables_are_told(
    no_session: None,
    bare_engine: DaggerExecutionEngine,
    monkeypatch: pytest.MonkeyPatch,
    port: str,
    token: str,
    words: str,
) -> None:
    monkeypatch.setenv("DAGGER_SESSION_PORT", port)
    monkeypatch.setenv("DAGGER_SESSION_TOKEN", token)
    assert words in (await unavailable(bare_engine)).message


async def test_a_missing_sdk_names_the_extra(
    bare_engine: DaggerExecutionEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "dagger", None)
    with pytest.raises(MissingExtra, match=r"pip install 'praxis-sdk\[dagger\]'"):
        await bare_engine.run(tool(""), {})
    capabilities = await bare_engine.get_capabilities()
    assert capabilities["available"] is False
    assert "praxis-sdk[dagger]" in capabilities["remedy"]


def test_the_downloaded_command_of_the_sdk_is_found(no_session: None, tmp_path: Path) -> None:
    fetched = tmp_path / "dagger" / f"dagger-{dagger_sdk.importlib.metadata.version('dagger-io')}"
    fetched.parent.mkdir()
    fetched.touch(0o755)
    found = dagger_session.locate_session({"XDG_CACHE_HOME": str(tmp_path), "PATH": ""})
    assert found == SessionCommand(fetched)


# -- the stand-in is held against the SDK


def sdk_name(name: str) -> str:
    """Return the SDK's name for a field or argument of the API."""
    snake = re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
    return {"from": "from_"}.get(snake, snake)


SCHEMA = make_schema()
FIELDS = [
    (kind.name, name)
    for kind in SCHEMA.type_map.values()
    if isinstance(kind, GraphQLObjectType) and not kind.name.startswith("__")
    for name in kind.fields
]


@pytest.mark.parametrize(("kind", "name"), FIELDS)
def test_the_stand_in_offers_nothing_that_the_sdk_does_not_know(kind: str, name: str) -> None:
    method = getattr(getattr(dagger, "Client" if kind == "Query" else kind), sdk_name(name))
    known = inspect.signature(method).parameters
    kind_of_schema = SCHEMA.get_type(kind)
    assert isinstance(kind_of_schema, GraphQLObjectType)
    for argument, definition in kind_of_schema.fields[name].args.items():
        parameter = known[sdk_name(argument)]
        assert (parameter.default is inspect.Parameter.empty) == str(definition.type).endswith("!")


def test_capabilities_can_be_stored(no_session: None) -> None:
    made = DaggerExecutionEngine()
    assert json.loads(json.dumps(asyncio.run(made.get_capabilities())))["engine_type"] == "dagger"
