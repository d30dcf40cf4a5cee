"""The docker engine: the conformance suite, and what is its own, tested on a real daemon."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import praxis_sdk
from devservices.ordinary_user import OrdinaryUser
from praxis_sdk.errors import EngineUnavailable, IsolationUnavailable, PraxisError, ValidationError
from praxis_sdk.execution.context import RunContext
from praxis_sdk.execution.contract.specs import EngineType
from praxis_sdk.execution.contracts import ToolContract
from praxis_sdk.execution.engines.docker import daemon as docker_daemon
from praxis_sdk.execution.engines.docker import run as docker_run
from praxis_sdk.execution.engines.docker.container import (
    DockerBind,
    check_demands,
    choose_user,
    create_request,
    submounts,
)
from praxis_sdk.execution.engines.docker.daemon import DockerDaemon
from praxis_sdk.execution.engines.docker.engine import DockerSDKExecutionEngine
from praxis_sdk.execution.engines.docker.facts import ContainerSummary, DaemonFacts, ImageFacts
from praxis_sdk.execution.engines.process_owner import ProcessOwner
from praxis_sdk.execution.invocation import prepare
from praxis_sdk.execution.mounts.mounts import ToolMount
from praxis_sdk.execution.outcome import Limit, ToolOutcome
from praxis_sdk.installation import installation_id
from praxis_sdk.states import ExecutionStatus, FailureCategory
from tests.execution.conformance import IsolatedConformance, Listener, processes_with
from tests.execution.docker_neighbours import registry, saying, tcp_relay, unix_relay

IMAGE = "python:3.11-slim"
OWNER = "praxis.owner"


@pytest.fixture
def run_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have the files of runs kept in a directory of the test; returns where they would be."""
    place = tmp_path / "files-of-runs"
    place.mkdir(mode=0o755)
    monkeypatch.setenv("TMPDIR", str(place))
    return place / f"praxis-{os.geteuid()}"


@pytest.fixture
async def engine(docker_host: str, run_files: Path) -> AsyncIterator[DockerSDKExecutionEngine]:
    """Make an engine for one test, which may leave neither containers nor files."""
    made = DockerSDKExecutionEngine(docker_host)
    yield made
    await made.cleanup()
    assert await labelled(docker_host) == []
    assert not run_files.exists() or list(run_files.iterdir()) == []


async def labelled(docker_host: str) -> list[ContainerSummary]:
    """List the containers of all Praxis processes, running or not."""
    daemon = DockerDaemon(docker_host)
    try:
        return list(await daemon.containers(OWNER))
    finally:
        await daemon.close()


class TestDockerConformance(IsolatedConformance):
    """The shared promises."""

    engine_type = EngineType.DOCKER
    base_spec = {"image": IMAGE}
    claims_usage = False  # the daemon forgets a container's usage when it ends


def tool(script: str = "", *, trust: str = "untrusted", **spec: Any) -> ToolContract:
    """Make a tool that is a Python script."""
    fields = {"image": IMAGE, "command": ["python3", "-c", script], **spec}
    return ToolContract(name="probe", engine=EngineType.DOCKER, engine_spec=fields, trust=trust)


async def run(
    engine: DockerSDKExecutionEngine, script: str = "", *, workspace: Path | None = None, **spec: Any
) -> ToolOutcome:
    """Run a Python script as a tool."""
    return await engine.run(tool(script, **spec), {}, RunContext(workspace=workspace or Path.cwd()))


# -- what the tool is given, seen from inside

LOOK_AROUND = """
import json, os, resource
status = dict(line.split(':\\t', 1) for line in open('/proc/self/status').read().splitlines() if ':\\t' in line)
mounts = {}
for line in open('/proc/self/mountinfo'):
    fields = line.split()
    mounts[fields[4]] = [fields[5], fields[fields.index('-') + 1], fields[-1]]
def first(*paths):
    return next((open(path).read().strip() for path in paths if os.path.exists(path)), None)
print(json.dumps({
    'status': status, 'mounts': mounts, 'ids': [os.getuid(), os.getgid(), os.getgroups()],
    'hostname': os.uname().nodename, 'cgroup': open('/proc/self/cgroup').read(),
    'fds': sorted(os.listdir('/proc/self/fd')),
    'interfaces': sorted(line.split(':')[0].strip() for line in open('/proc/net/dev') if ':' in line),
    'routes': open('/proc/net/route').read().splitlines()[1:],
    'memory': first('/sys/fs/cgroup/memory.max', '/sys/fs/cgroup/memory/memory.limit_in_bytes'),
    'swap': first('/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes', '/sys/fs/cgroup/memory.swap.max'),
    'pids': first('/sys/fs/cgroup/pids.max', '/sys/fs/cgroup/pids/pids.max'),
    'cpu': first('/sys/fs/cgroup/cpu.max', '/sys/fs/cgroup/cpu/cpu.cfs_quota_us'),
    'core': resource.getrlimit(resource.RLIMIT_CORE), 'files': resource.getrlimit(resource.RLIMIT_NOFILE),
    'ipc': os.readlink('/proc/self/ns/ipc'), 'net': os.readlink('/proc/self/ns/net'),
}))
"""


async def look_around(engine: DockerSDKExecutionEngine, **spec: Any) -> dict[str, Any]:
    outcome = await run(engine, LOOK_AROUND, **spec)
    assert outcome.succeeded, outcome
    seen: dict[str, Any] = json.loads(outcome.stdout)
    return seen


async def test_the_tool_has_no_capability_of_any_kind(engine: DockerSDKExecutionEngine) -> None:
    status = (await look_around(engine))["status"]
    for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[kind], 16) == 0, kind
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")


async def test_the_tool_is_nobody_and_in_no_other_group(engine: DockerSDKExecutionEngine) -> None:
    uid, gid, groups = (await look_around(engine))["ids"]
    expected = os.geteuid() or 65532
    assert uid == expected
    assert gid != 0
    assert set(groups) <= {gid}


async def test_only_tmp_is_writable_and_bounded(engine: DockerSDKExecutionEngine) -> None:
    mounts = (await look_around(engine, tmpfs_size="8m"))["mounts"]
    assert "ro" in mounts["/"][0].split(",")
    options, kind, limits = mounts["/tmp"]
    assert {"rw", "nosuid", "nodev"} <= set(options.split(","))
    assert kind == "tmpfs"
    assert {"size=8192k", "nr_inodes=65536"} <= set(limits.split(","))
    assert "ro" in mounts["/praxis/args.json"][0].split(",")
    filling = "open('/tmp/x', 'wb').write(bytes(9 << 20))"
    assert "No space left" in (await run(engine, filling, tmpfs_size="8m")).stderr


async def test_the_network_is_loopback_in_a_namespace_of_its_own(engine: DockerSDKExecutionEngine) -> None:
    seen = await look_around(engine)
    assert seen["interfaces"] == ["lo"]
    assert seen["routes"] == []
    assert seen["net"] != os.readlink("/proc/self/ns/net")
    assert seen["ipc"] != os.readlink("/proc/self/ns/ipc")
    serving = (
        "import socket\n"
        "with socket.create_server(('localhost', 0)) as s: socket.create_connection(s.getsockname()); print('ok')\n"
    )
    assert (await run(engine, serving)).stdout == "ok\n"


async def test_limits_are_what_the_contract_says(engine: DockerSDKExecutionEngine) -> None:
    seen = await look_around(engine, memory_limit="96m", cpu_limit=0.5, pids_limit=40)
    assert seen["memory"] == str(96 << 20)
    assert seen["swap"] in (str(96 << 20), "0", None)
    assert seen["pids"] == "41", "40 and the container's init"
    assert seen["cpu"] in ("50000", "50000 100000")
    assert seen["core"] == [0, 0]
    assert seen["files"] == [1024, 1024]


async def test_memory_is_bounded_without_a_limit_in_the_contract(engine: DockerSDKExecutionEngine) -> None:
    assert (await look_around(engine))["memory"] == str(2 << 30)


async def test_host_and_daemon_do_not_show_through(engine: DockerSDKExecutionEngine) -> None:
    seen = await look_around(engine)
    assert seen["hostname"] == "praxis"
    assert "docker" not in seen["cgroup"]
    assert seen["fds"] == ["0", "1", "2", "3"], "the fourth is the listing itself"


async def test_tmp_can_hold_programs(engine: DockerSDKExecutionEngine) -> None:
    script = (
        "import os, subprocess\n"
        "open('/tmp/p', 'w').write('#!/bin/sh\\necho ran in $HOME'); os.chmod('/tmp/p', 0o755)\n"
        "subprocess.run(['/tmp/p'], check=True)"
    )
    assert (await run(engine, script)).stdout == "ran in /tmp\n"


async def test_the_arguments_file_cannot_be_changed(engine: DockerSDKExecutionEngine) -> None:
    script = (
        "import os\n"
        "file = '/praxis/args.json'\n"
        "for deed in (lambda: open(file, 'w'), lambda: os.remove(file), lambda: open('/praxis/x', 'w')):\n"
        "    try: deed(); print('done')\n"
        "    except OSError: print('refused')\n"
    )
    assert (await run(engine, script)).stdout == "refused\n" * 3


async def test_both_streams_arrive_whole_and_apart(engine: DockerSDKExecutionEngine) -> None:
    script = (
        "import os\n"
        "for i in range(200): os.write(1, bytes([i % 256]) * 5000); os.write(2, bytes([255 - i]) * 3000)\n"
    )
    listener = Listener()
    outcome = await engine.run(tool(script), {}, RunContext(on_output=listener))
    assert listener.received["stdout"] == b"".join(bytes([i]) * 5000 for i in range(200))
    assert listener.received["stderr"] == b"".join(bytes([255 - i]) * 3000 for i in range(200))
    assert (outcome.stdout_bytes, outcome.stderr_bytes) == (1_000_000, 600_000)


def test_a_trusted_tool_may_be_privileged() -> None:
    # Asked of the request: a daemon that is itself in a container may lack privileges to pass on.
    invocation = prepare(tool(trust="trusted", privileged=True), {}, RunContext(), EngineType.DOCKER)
    user = choose_user(invocation, FACTS)
    request = create_request(invocation, facts=FACTS, image=ImageFacts(), user=user, owner="", binds=[])
    assert request["HostConfig"]["Privileged"] is True
    assert "CapDrop" not in request["HostConfig"]
    assert request["User"] == "0:0"
    assert request["HostConfig"]["Memory"] == 2 << 30
    with pytest.raises(ValidationError, match=r"engineSpec\.privileged"):
        prepare(tool(privileged=True), {}, RunContext(), EngineType.DOCKER)


@pytest.mark.parametrize("user", ["0", "0:1000", "root", "1000:x", "-1", "99999999999", "1000:0:0"])
async def test_root_and_names_are_no_users_for_an_untrusted_tool(
    engine: DockerSDKExecutionEngine, user: str
) -> None:
    with pytest.raises(ValidationError, match=r"engineSpec\.user"):
        await run(engine, user=user)


async def test_the_contract_can_name_a_user(engine: DockerSDKExecutionEngine, tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir(mode=0o700)
    script = "import os; print(os.getuid(), os.getgid()); open('/shared/mine', 'w').write('x')"
    outcome = await run(engine, script, workspace=tmp_path, user="1234", mounts={"shared": "/shared"})
    assert outcome.stdout == "1234 1234\n", outcome
    status = (tmp_path / "shared/mine").stat()
    assert (status.st_uid, status.st_gid) == (tmp_path.stat().st_uid, tmp_path.stat().st_gid)


# -- how it ended


async def test_out_of_memory_is_told_from_every_other_end(engine: DockerSDKExecutionEngine) -> None:
    eat = "data = bytearray(400 << 20)"
    outcome = await run(engine, eat, memory_limit="64m")
    assert (outcome.limit, outcome.exit_code, outcome.signal) == (Limit.MEMORY, None, signal.SIGKILL)
    assert outcome.failure is not None
    assert outcome.failure.category is FailureCategory.RESOURCE_LIMIT
    child = (
        "import subprocess, sys\n"
        f"done = subprocess.run([sys.executable, '-c', {eat!r}])\n"
        "sys.exit(done.returncode and %d)\n"
    )
    gave_up = await run(engine, child % 7, memory_limit="64m")
    assert (gave_up.limit, gave_up.exit_code) == (Limit.MEMORY, 7)
    coped = await run(engine, child % 0, memory_limit="64m")
    assert coped.succeeded, coped


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("import os; os._exit(137)", 137),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", 137),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", 139),
        (
            "import sys\nprint('[FATAL tini (7)] exec x failed: No such file', file=sys.stderr); sys.exit(127)",
            127,
        ),
        ("import sys; sys.exit(126)", 126),
    ],
)
async def test_an_exit_code_is_the_tools_own(
    engine: DockerSDKExecutionEngine, script: str, code: int
) -> None:
    outcome = await run(engine, script)
    assert outcome.failure is not None
    assert (outcome.exit_code, outcome.failure.category) == (code, FailureCategory.USER_CODE_ERROR)


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        (["no-such-program"], "command 'no-such-program' not found in image"),
        (["/no/such/program"], "command '/no/such/program' not found in image"),
        (["./program"], "command './program' not found in image"),
        (["/etc/passwd"], "command '/etc/passwd' cannot be executed in image"),
        (["/usr"], "command '/usr' cannot be executed in image"),
    ],
)
@pytest.mark.parametrize("init", [True, False])
async def test_a_missing_program_is_a_missing_dependency(
    engine: DockerSDKExecutionEngine,
    command: list[str],
    problem: str,
    *,
    init: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await have_facts(engine, monkeypatch, init=init)
    outcome = await run(engine, command=command)
    assert outcome.failure is not None, outcome
    assert outcome.failure.category is FailureCategory.DEPENDENCY_ERROR
    assert problem in outcome.failure.message
    assert outcome.exit_code is None


async def test_a_tool_works_without_an_init(
    engine: DockerSDKExecutionEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    await have_facts(engine, monkeypatch, init=False)
    assert (await run(engine, "import os; print(os.getpid())")).stdout == "1\n"


async def have_facts(
    engine: DockerSDKExecutionEngine, monkeypatch: pytest.MonkeyPatch, **changes: Any
) -> None:
    """Have the daemon say something else of itself."""
    facts = replace(await engine._daemon().facts(), **changes)

    async def told(_: DockerDaemon, *, fresh: bool = False) -> DaemonFacts:
        return facts

    monkeypatch.setattr(DockerDaemon, "facts", told)


async def test_closed_streams_are_no_end(engine: DockerSDKExecutionEngine) -> None:
    script = "import os, time; os.close(1); os.close(2); time.sleep(60)"
    assert (await run(engine, script, timeout=1)).status is ExecutionStatus.TIMED_OUT


async def test_what_a_shell_left_in_the_background_ends_with_it(engine: DockerSDKExecutionEngine) -> None:
    marker = f"docker-{uuid.uuid4().hex}"
    outcome = await run(engine, command=["sh", "-c", f"(sleep 60; : {marker}) & echo gone"])
    assert outcome.stdout == "gone\n"
    assert processes_with(marker) == []


# -- nothing is left behind


@pytest.mark.parametrize("call", ["facts", "containers", "image", "create", "attach", "start", "wait"])
@pytest.mark.parametrize("moment", ["before", "after"])
async def test_cancellation_at_any_call_leaves_nothing(
    engine: DockerSDKExecutionEngine,
    docker_host: str,
    run_files: Path,
    tmp_path: Path,
    call: str,
    moment: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "shared").mkdir()
    original = getattr(DockerDaemon, call)
    running: list[asyncio.Task[ToolOutcome]] = []

    async def interrupted(*args: Any, **kwargs: Any) -> Any:
        if moment == "before":
            running[0].cancel()  # it arrives while the daemon is busy with the call
        result = await original(*args, **kwargs)
        running[0].cancel()
        return result

    monkeypatch.setattr(DockerDaemon, call, interrupted)
    script = "import time; time.sleep(60)" if call != "wait" or moment == "before" else ""
    spec: dict[str, Any] = {"mounts": {"shared": "/shared"}}
    running.append(asyncio.create_task(run(engine, script, workspace=tmp_path, **spec)))
    with pytest.raises(asyncio.CancelledError):
        await running[0]
    monkeypatch.undo()
    assert await labelled(docker_host) == []
    assert not run_files.exists() or list(run_files.iterdir()) == []


async def test_cancellation_of_the_cancellation_leaves_nothing(
    engine: DockerSDKExecutionEngine, docker_host: str
) -> None:
    listener = Listener("ready")
    context = RunContext(on_output=listener)
    task = asyncio.create_task(
        engine.run(tool("import time; print('ready', flush=True); time.sleep(60)"), {}, context)
    )
    await listener.seen.wait()
    task.cancel()
    while not task.done():
        await asyncio.sleep(0)
        task.cancel()
    await engine.cleanup()
    assert await labelled(docker_host) == []


@pytest.mark.parametrize("end", ["timeout", "overflow"])
async def test_nothing_is_left_of_a_killed_tool(
    engine: DockerSDKExecutionEngine, docker_host: str, run_files: Path, tmp_path: Path, end: str
) -> None:
    (tmp_path / "shared").mkdir()
    script = "import time; time.sleep(60)" if end == "timeout" else "while True: print('x' * 999)"
    spec = {"timeout": 1} if end == "timeout" else {"output_limit": "64k"}
    outcome = await run(engine, script, workspace=tmp_path, mounts={"shared": "/shared"}, **spec)
    assert outcome.limit is (Limit.TIMEOUT if end == "timeout" else Limit.OUTPUT)
    assert await labelled(docker_host) == []
    assert list(run_files.iterdir()) == []


async def test_cleanup_ends_what_still_runs(engine: DockerSDKExecutionEngine, docker_host: str) -> None:
    listener = Listener("ready")
    script = "import time; print('ready', flush=True); time.sleep(60)"
    task = asyncio.create_task(engine.run(tool(script), {}, RunContext(on_output=listener)))
    await listener.seen.wait()
    await engine.cleanup()
    assert await labelled(docker_host) == []
    with pytest.raises((PraxisError, asyncio.CancelledError)):
        await task


async def test_a_container_behind_a_broken_connection_is_removed_by_the_next_run(
    docker_host: str, run_files: Path, tmp_path: Path
) -> None:
    listener = Listener("ready")
    script = "import time; print('ready', flush=True); time.sleep(60)"
    path = tmp_path / "relay.sock"
    engine = DockerSDKExecutionEngine(f"unix://{path}")
    async with unix_relay(docker_host, path) as relay:
        task = asyncio.create_task(engine.run(tool(script), {}, RunContext(on_output=listener)))
        await listener.seen.wait()
        path.unlink()
        relay.cut()
        with pytest.raises(EngineUnavailable):
            await task
        assert [container.state for container in await labelled(docker_host)] == ["running"]
    async with unix_relay(docker_host, path):
        assert (await run(engine, "print('next')")).stdout == "next\n"
        assert await labelled(docker_host) == []
        await engine.cleanup()
    assert list(run_files.iterdir()) == []


LONG_RUN = """
import asyncio, sys
from pathlib import Path
from praxis_sdk.execution.context import RunContext
from praxis_sdk.execution.contracts import ToolContract
from praxis_sdk.execution.engines.docker.engine import DockerSDKExecutionEngine

contract = ToolContract(name="long", engine="docker", engine_spec={
    "image": "python:3.11-slim", "command": ["sh", "-c", "echo running; sleep 60"], "mounts": {sys.argv[2]: "/shared"}})
context = RunContext(execution_id=sys.argv[3], workspace=Path(sys.argv[2]),
    on_output=lambda *_: print("running", flush=True))
asyncio.run(DockerSDKExecutionEngine(sys.argv[1]).run(contract, {}, context))
"""


async def test_orphans_of_a_dead_process_are_removed_and_those_of_a_living_one_are_not(
    engine: DockerSDKExecutionEngine, docker_host: str, run_files: Path, tmp_path: Path
) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "file").write_text("x")
    environment = {**os.environ, "PYTHONPATH": str(Path(praxis_sdk.__file__).parents[1])}
    processes = {}
    for name in ("doomed", "living"):
        arguments = [docker_host, str(tmp_path / "shared"), name]
        processes[name] = await asyncio.create_subprocess_exec(
            sys.executable, "-c", LONG_RUN, *arguments, env=environment, stdout=asyncio.subprocess.PIPE
        )
    try:
        for process in processes.values():
            assert process.stdout is not None
            while (line := (await process.stdout.readline()).strip()) != b"running":
                assert line, "it ended early"
        assert len(await labelled(docker_host)) == 2
        assert len(list(run_files.iterdir())) == 2
        processes["doomed"].kill()
        await processes["doomed"].wait()
        assert (await run(engine, "print('next')")).stdout == "next\n"
        left = await labelled(docker_host)
        assert [(c.labels["praxis.execution_id"], c.state) for c in left] == [("living", "running")]
        assert len(list(run_files.iterdir())) == 1
    finally:
        for process in processes.values():
            if process.returncode is None:
                process.kill()
                await process.wait()
    assert await engine.remove_orphans() == 1
    assert await labelled(docker_host) == []


# -- mounts


@pytest.mark.parametrize("outer", ["ro", "rw"])
@pytest.mark.parametrize("inner", ["ro", "rw"])
@pytest.mark.parametrize("place", ["present", "missing", "missing deeply"])
async def test_nested_mounts_in_every_combination(
    engine: DockerSDKExecutionEngine, tmp_path: Path, outer: str, inner: str, place: str
) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared/a.txt").write_text("a")
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools/t.txt").write_text("t")
    inside = "/shared/x/y/tools" if place == "missing deeply" else "/shared/tools"
    if place == "present":
        (tmp_path / "shared/tools").mkdir()
        (tmp_path / "shared/tools/covered.txt").write_text("covered")
    script = (
        "import os\n"
        f"print(sorted(os.listdir('/shared')), os.listdir({inside!r}))\n"
        f"for path in ('/shared/outer.txt', {inside + '/inner.txt'!r}):\n"
        "    try: open(path, 'w').write('new'); print('rw')\n"
        "    except OSError: print('ro')\n"
    )
    mounts = {"shared": f"/shared:{outer}", "tools": f"{inside}:{inner}"}
    outcome = await run(engine, script, workspace=tmp_path, mounts=mounts)
    first = inside.split("/")[2]
    assert outcome.stdout == f"['a.txt', '{first}'] ['t.txt']\n{outer}\n{inner}\n", outcome
    here = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    expected = {"shared/a.txt", "tools/t.txt"}
    expected |= {"shared/tools/covered.txt"} if place == "present" else set()
    expected |= {"shared/outer.txt"} if outer == "rw" else set()
    expected |= {"tools/inner.txt"} if inner == "rw" else set()
    assert here == expected
    assert not (tmp_path / "shared/x").exists(), "mount points are not part of what changed"


async def test_a_single_file_can_lie_in_a_read_only_folder(
    engine: DockerSDKExecutionEngine, tmp_path: Path
) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "one.txt").write_text("one")
    mounts = {"shared": "/shared:ro", "one.txt": "/shared/sub/one.txt:ro"}
    outcome = await run(
        engine, "print(open('/shared/sub/one.txt').read())", workspace=tmp_path, mounts=mounts
    )
    assert outcome.stdout == "one\n", outcome


async def test_a_tool_cannot_turn_mount_points_against_the_host(
    engine: DockerSDKExecutionEngine, tmp_path: Path
) -> None:
    for folder in ("shared", "tools", "victim/y/tools"):
        (tmp_path / folder).mkdir(parents=True)
    script = f"import os; os.rename('/shared/x', '/shared/z'); os.symlink({str(tmp_path / 'victim')!r}, '/shared/x')"
    mounts = {"shared": "/shared", "tools": "/shared/x/y/tools"}
    await run(engine, script, workspace=tmp_path, mounts=mounts)
    assert (tmp_path / "victim/y/tools").is_dir()
    assert not (tmp_path / "shared/x").is_symlink()


async def test_folders_of_any_depth_and_mode_are_cleared_away(
    engine: DockerSDKExecutionEngine, run_files: Path, tmp_path: Path
) -> None:
    (tmp_path / "shared").mkdir()
    script = (
        "import os\n"
        "os.chdir('/shared')\n"
        "for _ in range(1200): os.mkdir('d'); os.chdir('d')\n"
        "open('deep', 'w'); os.mkdir('/shared/shut'); open('/shared/shut/in', 'w'); os.chmod('/shared/shut', 0)\n"
    )
    outcome = await run(engine, script, workspace=tmp_path, mounts={"shared": "/shared"})
    assert outcome.succeeded, outcome
    assert any("nested deeper than" in line for line in outcome.exports.skipped)
    assert list(run_files.iterdir()) == []


async def test_the_host_never_sees_a_write_of_a_running_tool(
    engine: DockerSDKExecutionEngine, tmp_path: Path
) -> None:
    (tmp_path / "shared").mkdir()
    listener = Listener("written")
    script = (
        "import sys, time; open('/shared/x', 'w').write('x'); print('written', flush=True); time.sleep(60)"
    )
    context = RunContext(workspace=tmp_path, on_output=listener)
    task = asyncio.create_task(engine.run(tool(script, mounts={"shared": "/shared"}), {}, context))
    await listener.seen.wait()
    assert list((tmp_path / "shared").iterdir()) == []
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert list((tmp_path / "shared").iterdir()) == []


def test_file_systems_below_a_mount_are_bound_one_by_one() -> None:
    mountinfo = (
        "22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw\n"
        "30 22 0:25 / /data rw - tmpfs tmpfs rw\n"
        "31 30 0:26 / /data/in\\040side rw - tmpfs tmpfs rw\n"
        "32 22 0:27 / /database rw - tmpfs tmpfs rw\n"
    )
    mount = ToolMount("/inside", Path("/data"), writable=False)
    assert submounts(mount, [mount], mountinfo) == [DockerBind(Path("/data/in side"), "/inside/in side")]
    covering = ToolMount("/inside/in side", Path("/elsewhere"), writable=False)
    assert submounts(mount, [mount, covering], mountinfo) == []


async def test_mounts_can_lie_in_tmp_and_over_the_hosts_file(
    engine: DockerSDKExecutionEngine, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/x").write_text("x")
    (tmp_path / "hosts").write_text("127.0.0.1 elsewhere\n")
    script = (
        "import os; print(os.listdir('/tmp/data'), open('/etc/hosts').read().split()); open('/tmp/y', 'w')"
    )
    mounts = {"data": "/tmp/data:ro", "hosts": "/etc/hosts:ro"}
    assert (
        await run(engine, script, workspace=tmp_path, mounts=mounts)
    ).stdout == "['x'] ['127.0.0.1', 'elsewhere']\n"


async def test_a_daemon_that_does_not_see_the_files_says_so(
    engine: DockerSDKExecutionEngine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(docker_run, "submounts", lambda *_: [DockerBind(tmp_path / "unseen", "/unseen")])
    with pytest.raises(EngineUnavailable, match="does not see the files of this process") as caught:
        await run(engine, workspace=tmp_path, mounts={".": "/data:ro"})
    assert "TMPDIR" in caught.value.remedy


async def test_an_ordinary_user_runs_tools_as_itself(
    docker_host: str, ordinary_user: OrdinaryUser, tmp_path: Path
) -> None:
    shared = ordinary_user.make_directory(f"shared-{uuid.uuid4().hex}")
    path = shared.parent / "docker.sock"
    code = (
        "import asyncio, sys\n"
        "from praxis_sdk.execution.contracts import ToolContract\n"
        "from praxis_sdk.execution.engines.docker.engine import DockerSDKExecutionEngine\n"
        "async def main():\n"
        "    engine = DockerSDKExecutionEngine(sys.argv[1])\n"
        "    command = ['sh', '-c', 'id -u; id -g; echo new > /shared/new; mkdir -m 0 /shared/shut']\n"
        "    spec = {'image': 'python:3.11-slim', 'command': command, 'mounts': {sys.argv[2]: '/shared'}}\n"
        "    contract = ToolContract(name='probe', engine='docker', engine_spec=spec)\n"
        "    print((await engine.run(contract, {}, {'workspace': sys.argv[2]})).stdout, end='')\n"
        "    await engine.cleanup()\n"
        "asyncio.run(main())\n"
    )
    async with unix_relay(docker_host, path):
        done = await asyncio.to_thread(ordinary_user.run_python, code, f"unix://{path}", str(shared))
    path.unlink(missing_ok=True)
    assert done.stdout.splitlines()[-2:] == [str(ordinary_user.uid)] * 2, done
    assert (shared / "new").read_text() == "new\n"
    assert (shared / "new").stat().st_uid == ordinary_user.uid
    assert await labelled(docker_host) == []
    assert list((ordinary_user.home / f"praxis-{ordinary_user.uid}").iterdir()) == []


# -- images


async def test_an_image_is_pulled_with_progress(engine: DockerSDKExecutionEngine) -> None:
    lines: list[str] = []
    async with registry() as name:
        contract = tool(image=f"{name}/tools/empty:1")
        outcome = await engine.run(contract, {}, RunContext(on_progress=lines.append))
    assert outcome.failure is not None
    assert f"not found in image '{name}/tools/empty:1'" in outcome.failure.message
    assert lines[0] == f"docker: pulling image '{name}/tools/empty:1'"
    assert any("Pulling from tools/empty" in line for line in lines), lines
    assert any("Downloaded newer image" in line for line in lines), lines


async def test_an_image_that_no_registry_has_is_the_callers_mistake(engine: DockerSDKExecutionEngine) -> None:
    async with registry() as name:
        with pytest.raises(
            ValidationError, match=r"engineSpec\.image: .*neither on this Docker daemon nor in"
        ) as caught:
            await run(engine, image=f"{name}/tools/absent:9")
    assert "docker login" in caught.value.remedy


async def test_an_unreachable_registry_is_not(engine: DockerSDKExecutionEngine) -> None:
    with pytest.raises(EngineUnavailable, match=r"engineSpec\.image: .*could not be pulled") as caught:
        await run(engine, image="127.0.0.1:1/tools/absent:9")
    assert "docker load" in caught.value.remedy


@pytest.mark.parametrize("image", ["Not/Lower:1", "a/../b", "a?b=c", "x#y", "a:b:c", "../containers"])
async def test_what_is_no_image_name_is_refused(engine: DockerSDKExecutionEngine, image: str) -> None:
    with pytest.raises(ValidationError, match=r"engineSpec\.image"):
        await run(engine, image=image)


async def test_what_an_image_brings_along_is_not_obeyed(
    engine: DockerSDKExecutionEngine, docker_host: str
) -> None:
    import aiodocker

    async with aiodocker.Docker(url=docker_host) as client:
        made = await client.containers.create({"Image": IMAGE, "Cmd": ["true"]})
        changes = [
            "VOLUME /data",
            'ENTRYPOINT ["false"]',
            'CMD ["more"]',
            "USER root",
            "HEALTHCHECK CMD touch /data/x",
        ]
        await made.commit(repository="obedient", tag="1", changes=changes)
        await made.delete()
        try:
            script = (
                "import os, sys\n"
                "kind = {l.split()[4]: l.split(' - ')[1].split()[0] for l in open('/proc/self/mountinfo')}['/data']\n"
                "open('/data/w', 'w'); print(kind, sys.argv[1:], os.getuid() != 0)\n"
            )
            assert (await run(engine, script, image="obedient:1")).stdout == "tmpfs [] True\n"
        finally:
            await client.images.delete("obedient:1", force=True)


# -- what cannot be had is refused


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"memory_limit": "1m"}, "memory_limit"),
        ({"cpu_limit": 0.001}, "cpu_limit"),
        ({"network": "no-such-network"}, "network"),
        ({"network": "container:other"}, "network"),
        ({"working_dir": "/etc/passwd"}, "working_dir"),
    ],
)
async def test_what_docker_refuses_names_the_field(
    engine: DockerSDKExecutionEngine, spec: dict[str, Any], field: str
) -> None:
    with pytest.raises(ValidationError, match=rf"^engineSpec\.{field}: "):
        await run(engine, **spec)


async def test_more_processors_than_the_host_has_are_no_mistake(engine: DockerSDKExecutionEngine) -> None:
    assert (await run(engine, "print('ok')", cpu_limit=1000)).stdout == "ok\n"


async def test_a_missing_runtime_is_named_with_those_there_are(engine: DockerSDKExecutionEngine) -> None:
    with pytest.raises(EngineUnavailable, match=r"engineSpec\.runtime: .* no runtime 'runsc', only .*runc"):
        await run(engine, runtime="runsc")


FACTS = DaemonFacts(
    id="a-daemon",
    version="1",
    api=(1, 41),
    runtimes=("runc",),
    cpus=2,
    memory_limit=True,
    swap_limit=True,
    cpu_limit=True,
    pids_limit=True,
    seccomp=True,
    init=True,
    rootless=False,
    remaps_users=False,
    cgroup_version="2",
    os_type="linux",
)


@pytest.mark.parametrize(
    ("spec", "lacking", "error"),
    [
        ({"memory_limit": "64m"}, "memory_limit", ValidationError),
        ({"cpu_limit": 1}, "cpu_limit", ValidationError),
        ({"pids_limit": 9}, "pids_limit", ValidationError),
        ({}, "memory_limit", IsolationUnavailable),
        ({}, "pids_limit", IsolationUnavailable),
        ({}, "seccomp", IsolationUnavailable),
    ],
)
def test_a_limit_that_the_daemon_cannot_enforce_is_refused(
    spec: dict[str, Any], lacking: str, error: type[PraxisError]
) -> None:
    invocation = prepare(tool(**spec), {}, RunContext(), EngineType.DOCKER)
    check_demands(invocation, FACTS, shares_files=True)
    with pytest.raises(error, match=lacking):
        check_demands(invocation, replace(FACTS, **{lacking: False}), shares_files=True)


def test_a_daemon_that_renumbers_users_gets_no_writable_mounts(tmp_path: Path) -> None:
    contract = tool(mounts={str(tmp_path): "/data"})
    invocation = prepare(contract, {}, RunContext(workspace=tmp_path), EngineType.DOCKER)
    with pytest.raises(EngineUnavailable, match="userns-remap"):
        choose_user(invocation, replace(FACTS, remaps_users=True))


async def test_a_daemon_elsewhere_gets_arguments_but_no_mounts(
    docker_host: str, run_files: Path, tmp_path: Path
) -> None:
    async with tcp_relay(docker_host) as address:
        engine = DockerSDKExecutionEngine(address)
        try:
            script = (
                "import os\n"
                "print(open(os.environ['PRAXIS_ARGS_FILE']).read())\n"
                "try: open('/praxis/args.json', 'w')\n"
                "except OSError: print('refused')\n"
            )
            assert (await run(engine, script)).stdout == "{}\nrefused\n"
            with pytest.raises(ValidationError, match=r"engineSpec\.mounts: .*another machine"):
                await run(engine, workspace=tmp_path, mounts={".": "/data:ro"})
            assert (await engine.get_capabilities())["supports_mounts"] is False
        finally:
            await engine.cleanup()
    assert await labelled(docker_host) == []
    assert not run_files.exists() or list(run_files.iterdir()) == []


# -- no daemon


async def unavailable(docker_host: str) -> tuple[str, str]:
    """Return what an engine says of a daemon that is none, by capabilities and by run alike."""
    engine = DockerSDKExecutionEngine(docker_host)
    try:
        capabilities = await engine.get_capabilities()
        assert capabilities["available"] is False
        with pytest.raises(EngineUnavailable) as caught:
            await run(engine)
        assert (caught.value.message, caught.value.remedy) == (
            capabilities["unavailable_reason"],
            capabilities["remedy"],
        )
        assert "\n" not in str(caught.value)
        return caught.value.message, caught.value.remedy
    finally:
        await engine.cleanup()


async def test_no_socket_says_so(tmp_path: Path) -> None:
    message, remedy = await unavailable(f"unix://{tmp_path}/none.sock")
    assert "there is no Docker daemon at" in message
    assert "DOCKER_HOST" in remedy


async def test_a_socket_without_a_listener_says_so(tmp_path: Path) -> None:
    async with saying(tmp_path / "s", None):
        os.link(tmp_path / "s", tmp_path / "dead")
    message, remedy = await unavailable(f"unix://{tmp_path}/dead")
    assert "nothing answers at" in message
    assert "systemctl start docker" in remedy


@pytest.mark.parametrize(
    "answer",
    [
        b"\x00\xff garbage \r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Type: text/html\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Type: application/json\r\n\r\n[]",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Type: application/json\r\n\r\n{x",
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\nContent-Type: application/json\r\n\r\n{}",
    ],
)
async def test_another_server_says_so(tmp_path: Path, answer: bytes) -> None:
    async with saying(tmp_path / "s", answer) as address:
        message, remedy = await unavailable(address)
    assert "is not a Docker daemon" in message
    assert "DOCKER_HOST" in remedy


async def test_a_server_that_says_nothing_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docker_daemon, "HELLO_BOUND_S", 0.2)
    async with saying(tmp_path / "s", None) as address:
        message, _ = await unavailable(address)
    assert "did not answer within 0.2 s" in message


@pytest.mark.parametrize("address", ["ftp://x", "/var/run/docker.sock", "unix://"])
async def test_what_is_no_address_says_so(address: str) -> None:
    message, _ = await unavailable(address)
    assert "is not the address of a Docker daemon" in message


async def test_a_socket_that_the_user_may_not_use_says_so(
    docker_host: str, ordinary_user: OrdinaryUser
) -> None:
    code = (
        "import asyncio, sys\n"
        "from praxis_sdk.execution.engines.docker.engine import DockerSDKExecutionEngine\n"
        "seen = asyncio.run(DockerSDKExecutionEngine(sys.argv[1]).get_capabilities())\n"
        "print(seen['unavailable_reason'], '|', seen['remedy'])\n"
    )
    done = await asyncio.to_thread(ordinary_user.run_python, code, docker_host)
    assert "may not use the Docker daemon" in done.stdout, done
    assert "usermod -aG docker" in done.stdout


def test_the_daemon_is_found_by_environment_or_at_its_usual_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://there:2375")
    assert docker_daemon.find_docker_host(None) == "tcp://there:2375"
    assert docker_daemon.find_docker_host("unix:///mine") == "unix:///mine"
    monkeypatch.delenv("DOCKER_HOST")
    assert docker_daemon.find_docker_host(None).startswith("unix:///")


# -- the engine itself


async def test_capabilities_are_the_daemons(engine: DockerSDKExecutionEngine) -> None:
    seen = await engine.get_capabilities()
    assert seen["server_version"]
    assert "runc" in seen["runtimes"]
    assert seen["supports_resource_limits"] is True
    assert seen["supports_pids_limit"] is True


def test_an_engine_serves_one_event_loop_after_another(docker_host: str, run_files: Path) -> None:
    engine = DockerSDKExecutionEngine(docker_host)

    async def once() -> str:
        try:
            return (await run(engine, "print('ran')")).stdout
        finally:
            await engine.cleanup()

    assert [asyncio.run(once()) for _ in range(2)] == ["ran\n", "ran\n"]


async def test_an_id_can_be_run_twice_at_once(engine: DockerSDKExecutionEngine) -> None:
    runs = (engine.run(tool("print('ran')"), {}, RunContext(execution_id="same")) for _ in range(2))
    assert [outcome.stdout for outcome in await asyncio.gather(*runs)] == ["ran\n"] * 2


async def test_output_that_the_daemon_keeps_back_is_an_error(
    engine: DockerSDKExecutionEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(*_: Any) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(docker_run, "DRAIN_BOUND_S", 0.05)
    monkeypatch.setattr(docker_daemon.OutputStream, "read_into", never)
    with pytest.raises(EngineUnavailable, match="did not hand over all output"):
        await run(engine)


def test_an_owner_is_dead_only_beyond_doubt() -> None:
    mine = ProcessOwner.current()
    assert ProcessOwner.parse(str(mine)) == mine
    assert not mine.is_dead()
    assert replace(mine, start_ticks=mine.start_ticks + 1).is_dead(), "the pid was used again"
    assert replace(mine, pid=(1 << 22) + 1).is_dead(), "there is no such pid"
    assert not replace(mine, pid=(1 << 22) + 1, pid_namespace=1).is_dead(), "its pids are not ours"
    assert not replace(mine, boot_id=str(uuid.uuid4())).is_dead(), "it may be another machine"
    assert replace(mine, boot_id=str(uuid.uuid4())).is_of_another_boot()
    for text in ("", "x", "1.2.3.4", f"{mine}x", "praxis"):
        assert ProcessOwner.parse(text) is None


# -- entrypoints, GPUs and ports


async def test_an_entrypoint_is_given_the_command(engine: DockerSDKExecutionEngine) -> None:
    given = await run(engine, command=["print('given')"], entrypoint=["python3", "-c"])
    assert given.stdout == "given\n"
    own = await run(engine, "print('the image has none of its own')", entrypoint="image")
    assert own.stdout == "the image has none of its own\n"


async def test_a_missing_entrypoint_is_named(engine: DockerSDKExecutionEngine) -> None:
    outcome = await run(engine, command=["a"], entrypoint=["no-such-program"])
    assert outcome.failure is not None
    assert outcome.failure.category is FailureCategory.DEPENDENCY_ERROR
    assert "command 'no-such-program' not found" in outcome.failure.message


async def test_gpus_are_refused_where_the_daemon_has_none(engine: DockerSDKExecutionEngine) -> None:
    for gpus in ("all", 1):
        with pytest.raises(EngineUnavailable, match=r"engineSpec\.gpus: this Docker daemon has no GPUs"):
            await run(engine, gpus=gpus)


async def test_ports_are_published_for_trusted_tools_alone(engine: DockerSDKExecutionEngine) -> None:
    with pytest.raises(ValidationError, match=r"engineSpec\.ports: only a trusted tool"):
        await run(engine, ports=["8080:80"], network="bridge")
    with pytest.raises(ValidationError, match=r"engineSpec\.ports: .* a network of its own"):
        await run(engine, ports=["8080:80"], trust="trusted")


def test_ports_are_published_on_loopback_alone() -> None:
    contract = tool(ports=["8080:80", "53:5353/udp"], network="bridge", trust="trusted", gpus=2)
    invocation = prepare(contract, {}, RunContext(), EngineType.DOCKER)
    user = choose_user(invocation, FACTS)
    request = create_request(
        invocation,
        facts=FACTS,
        image=ImageFacts(),
        user=user,
        owner="owner",
        binds=[DockerBind(Path("/a"), "/b")],
    )
    assert request["HostConfig"]["PortBindings"] == {
        "80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8080"}],
        "5353/udp": [{"HostIp": "127.0.0.1", "HostPort": "53"}],
    }
    assert request["ExposedPorts"].keys() == {"80/tcp", "5353/udp"}
    assert request["HostConfig"]["DeviceRequests"] == [{"Count": 2, "Capabilities": [["gpu"]]}]


async def test_containers_of_another_installation_are_left_alone(
    engine: DockerSDKExecutionEngine, docker_host: str
) -> None:
    dead = "00000000-0000-0000-0000-000000000000.1.1.1"
    daemon = DockerDaemon(docker_host)
    try:
        for name, installation in (("praxis-other", "another"), ("praxis-same", installation_id())):
            labels = {OWNER: dead, "praxis.installation": installation}
            await daemon.create(name, {"Image": IMAGE, "Cmd": ["true"], "Labels": labels})
        await engine.remove_orphans()
        assert [one.labels["praxis.installation"] for one in await daemon.containers(OWNER)] == ["another"]
    finally:
        await daemon.remove("praxis-other")
        await daemon.remove("praxis-same")
        await daemon.close()
