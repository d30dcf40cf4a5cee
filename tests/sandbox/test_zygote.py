"""Jobs are forked from a zygote: warm, and yet as alone as a command in a sandbox of its own."""

import asyncio
import contextlib
import dataclasses
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from praxis_sdk.errors import IsolationUnavailable, PlatformError
from praxis_sdk.sandbox import Bind, Launcher, Limits, Policy, PolicyError, SandboxExit, Zygote

from .conftest import (
    DEADLINE_S,
    MIB,
    children,
    children_of,
    contents,
    descriptors,
    ended,
    groups_of,
    read_all,
)

PROGRAM = Path(__file__).parent / "zygote_program.py"
ZYGOTE = Zygote(
    python=Path(os.path.realpath(sys.executable)),
    program=PROGRAM,
    preload=("json", "decimal"),
    variables={"PYTHONHASHSEED": "0", "COLOUR": "blue"},
)


@dataclasses.dataclass
class Done:
    end: SandboxExit
    output: str
    written: dict[str, bytes]


Fork = Callable[..., Awaitable[Done]]


@contextlib.asynccontextmanager
async def launched(zygote: Zygote) -> AsyncIterator[Launcher]:
    """A launcher of which nothing may be left."""
    before = descriptors(), children()
    launcher = await Launcher.start(zygote=zygote)
    pid = launcher.pid
    assert pid is not None
    try:
        yield launcher
    finally:
        await launcher.close()
    assert (descriptors(), children()) == before
    assert groups_of(pid) == []


@pytest.fixture
async def warm() -> AsyncIterator[Launcher]:
    async with launched(ZYGOTE) as launcher:
        yield launcher


async def fork(
    launcher: Launcher,
    code: str,
    policy: Policy | None = None,
    *,
    limits: Limits | None = None,
    variables: dict[str, str] | None = None,
) -> Done:
    order = os.memfd_create("order")
    os.write(order, code.encode())
    os.lseek(order, 0, os.SEEK_SET)
    reader, writer = os.pipe()
    try:
        try:
            policy = policy or Policy(limits=limits or Limits())
            sandbox = await launcher.fork(policy, order, stdout=writer, stderr=writer, variables=variables)
        finally:
            os.close(writer)
            os.close(order)
        with sandbox:
            async with asyncio.timeout(DEADLINE_S):
                output = await read_all(reader)
                end = await sandbox.wait()
            written = {name: data for item in sandbox.harvest for name, data in contents(item).items()}
        return Done(end, output.decode(), written)
    finally:
        os.close(reader)


async def test_a_job_is_told_by_descriptor_0_and_ends_with_what_main_returns(warm: Launcher) -> None:
    for status in (0, 1, 7, 255):
        done = await fork(warm, f"print({status}); sys.exit({status})")
        assert (done.end.exit_code, done.end.signal, done.output) == (status, None, f"{status}\n")


async def test_what_is_preloaded_is_there_and_the_platform_is_not(warm: Launcher) -> None:
    done = await fork(warm, "print([name in sys.modules for name in ('decimal', 'praxis_sdk', 'sqlite3')])")
    assert done.output == "[True, False, False]\n"


async def test_a_job_is_alone_and_powerless(warm: Launcher) -> None:
    code = """
status = dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\\t" in line)
print([name for name in os.listdir("/proc") if name.isdigit()], os.getpid(), os.getuid(), os.getgid())
print({status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")})
print(status["Seccomp"], status["NoNewPrivs"], sorted(os.listdir("/proc/self/fd")), os.uname().nodename)
print(os.getcwd(), os.listdir("/tmp"), os.listdir("/dev/shm"), os.getsid(0))
"""
    for _ in range(4):
        done = await fork(warm, code)
        assert done.output.splitlines() == [
            "['1'] 1 1000 1000",
            "{'0000000000000000'}",
            "2 1 ['0', '1', '2', '3'] sandbox",
            "/workspace [] [] 1",
        ]


async def test_variables_are_the_zygotes_and_the_jobs_own(warm: Launcher) -> None:
    os.environ["HOST_SECRET"] = "x"
    try:
        done = await fork(warm, "print(sorted(os.environ))", variables={"SHAPE": "round"})
    finally:
        del os.environ["HOST_SECRET"]
    names = ["COLOUR", "HOME", "LANG", "PATH", "PYTHONHASHSEED", "SHAPE", "TMPDIR"]
    assert done.output == f"{names}\n"
    assert "SHAPE" not in (await fork(warm, "print(sorted(os.environ))")).output


async def test_hashes_are_the_same_in_every_child_and_random_numbers_are_not(warm: Launcher) -> None:
    code = "import random, uuid; print(hash('x')); print(random.random(), uuid.uuid4(), os.urandom(4))"
    outputs = [(await fork(warm, code)).output.splitlines() for _ in range(4)]
    assert len({lines[0] for lines in outputs}) == 1
    assert len({lines[1] for lines in outputs}) == 4


async def test_a_change_of_the_interpreter_ends_with_the_job(warm: Launcher) -> None:
    for _ in range(4):
        done = await fork(warm, "import json; print(hasattr(json, 'x')); json.x = 1; open('/tmp/x', 'w')")
        assert done.output == "False\n"


async def test_what_a_job_writes_can_be_harvested(warm: Launcher) -> None:
    done = await fork(warm, "os.mkdir('d'); open('d/a', 'w').write('1'); open('/tmp/b', 'w')")
    assert done.written == {"d/a": b"1"}


async def test_a_job_can_start_programs(warm: Launcher) -> None:
    code = "import subprocess; print(subprocess.run(['sh', '-c', 'echo $COLOUR; exit 3'], stdout=subprocess.PIPE))"
    assert (await fork(warm, code)).output.endswith("returncode=3, stdout=b'blue\\n')\n")


@pytest.mark.parametrize(
    ("code", "limits", "killed_by", "ended_by"),
    [
        ("while True: pass", Limits(cpu_seconds=0.3), "cpu", 9),
        ("x = bytearray(200 << 20)", Limits(memory_bytes=96 * MIB), "memory", 9),
        ("import ctypes; ctypes.CDLL(None).ptrace(0, 0, 0, 0)", Limits(), "seccomp", 31),
        ("open('x', 'wb').write(bytes(2 << 20))", Limits(scratch_bytes=MIB), "scratch", None),
        ("import ctypes; ctypes.string_at(0)", Limits(), None, 11),
    ],
)
async def test_an_end_is_judged_from_what_the_kernel_saw(
    warm: Launcher, code: str, limits: Limits, killed_by: str | None, ended_by: int | None
) -> None:
    done = await fork(warm, code, limits=limits)
    if killed_by == "memory" and warm.enforcement.memory == "address_space":
        assert "MemoryError" in done.output
        return
    assert (done.end.killed_by, done.end.signal) == (killed_by, ended_by)
    assert not done.end.ok


@pytest.mark.parametrize(
    ("program", "exit_code", "ended_by", "output"),
    [
        ("sh -c 'echo $$ $PPID $COLOUR; exit 7'", 7, None, "2 1 blue\n"),
        ("sh -c 'kill -9 $$'", None, 9, ""),
        ("sh -c 'kill -TERM $$'", None, 15, ""),
        ("sh -c 'kill -TERM 1; kill -KILL 1; echo here'", 0, None, "here\n"),
        ("python3 -c 'import os; os.abort()'", None, 6, ""),
        ("no-such-program", 127, None, "no-such-program: command not found\n"),
        ("/etc/passwd", 126, None, "/etc/passwd: Permission denied\n"),
        # Orphans are buried as they die: else these would be more than there may be.
        (
            "sh -c 'i=0; while [ $i -lt 40 ]; do sh -c \"true &\"; i=$((i+1)); done; echo $i'",
            0,
            None,
            "40\n",
        ),
        (
            (
                'python3 -c \'import os\nfor n in ("mem", "fd", "environ"):\n'
                ' try: os.open(f"/proc/1/{n}", os.O_RDONLY); print(n)\n except OSError: pass\''
            ),
            0,
            None,
            "",
        ),
    ],
)
async def test_a_program_has_an_init_beside_it(
    warm: Launcher, program: str, exit_code: int | None, ended_by: int | None, output: str
) -> None:
    done = await fork(warm, f"#!{program}", limits=Limits(processes=16))
    assert (done.end.exit_code, done.end.signal, done.output) == (exit_code, ended_by, output)
    assert done.end.killed_by is None


async def test_a_program_can_be_asked_to_end(warm: Launcher) -> None:
    order = os.memfd_create("order")
    os.write(order, b"#!sh -c 'echo ready; while :; do sleep 1000; done'")
    os.lseek(order, 0, os.SEEK_SET)
    reader, writer = os.pipe()
    with await warm.fork(Policy(), order, stdout=writer) as sandbox:
        os.close(writer)
        os.close(order)
        assert await asyncio.to_thread(os.read, reader, 6) == b"ready\n"
        sandbox.terminate()
        assert (await sandbox.wait()).signal == signal.SIGTERM
    os.close(reader)


@pytest.mark.parametrize(
    "code",
    [
        "if os.fork() == 0:\n    while True: pass\nos.wait(); sys.exit(5)",
        """#!python3 -c 'import os\nif os.fork() == 0:\n while True: pass\nraise SystemExit(os.wait()[1])'""",
    ],
)
async def test_the_processor_time_of_a_child_is_the_jobs(warm: Launcher, code: str) -> None:
    done = await fork(warm, code, limits=Limits(cpu_seconds=1))
    assert not done.end.ok
    # Without a cgroup each process has a limit of its own, and the job lives to see its child end.
    assert done.end.killed_by == ("cpu" if warm.enforcement.cgroup_version else None)


async def test_the_most_processes_are_told(warm: Launcher) -> None:
    code = (
        "import signal\n"
        "for _ in range(4):\n"
        "    if os.fork() == 0: signal.pause()\n"
        "end = os.times().elapsed + 0.2\n"
        "while os.times().elapsed < end: pass\n"
    )
    done = await fork(warm, code, limits=Limits(cpu_seconds=3))
    program = await fork(warm, "#!sh -c 'sleep 0 & sleep 0 & wait'")
    if warm.enforcement.processes != "cgroup":
        assert done.end.usage.peak_processes is None
        return
    assert program.end.usage.peak_processes is not None
    assert 1 <= program.end.usage.peak_processes <= 3
    assert done.end.usage.peak_processes is not None
    assert 1 <= done.end.usage.peak_processes <= 5
    if any(Path("/sys/fs/cgroup").glob("**/pids.peak")):
        assert done.end.usage.peak_processes == 5


async def test_forks_are_limited(warm: Launcher) -> None:
    code = """
for number in range(100):
    if os.fork() == 0:
        import signal
        signal.pause()
"""
    done = await fork(warm, code, limits=Limits(processes=8))
    assert "BlockingIOError" in done.output
    assert done.end.exit_code == 1


async def test_a_job_can_be_asked_to_end_and_made_to(warm: Launcher) -> None:
    code = "print('ready', flush=True)\nimport time\nwhile True: time.sleep(1000)"
    for act, expected in (("terminate", (143, None)), ("kill", (None, 9))):
        order = os.memfd_create("order")
        os.write(order, code.encode())
        os.lseek(order, 0, os.SEEK_SET)
        reader, writer = os.pipe()
        with await warm.fork(Policy(), order, stdout=writer) as sandbox:
            os.close(writer)
            os.close(order)
            assert await asyncio.to_thread(os.read, reader, 6) == b"ready\n"
            getattr(sandbox, act)()
            end = await sandbox.wait()
        os.close(reader)
        assert (end.exit_code, end.signal) == expected


async def test_many_jobs_run_at_once(warm: Launcher) -> None:
    results = await asyncio.gather(*(fork(warm, f"print({number})") for number in range(60)))
    assert [done.output for done in results] == [f"{number}\n" for number in range(60)]


async def test_mounts_below_the_working_directory_are_seen(warm: Launcher, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    tmp_path.chmod(0o755)
    policy = Policy(mounts=(Bind(tmp_path, "/workspace/in"), Bind(tmp_path, "/workspace/out", writable=True)))
    if warm.enforcement.privileged and os.statvfs(tmp_path).f_flag < 0:
        return
    done = await fork(warm, "print(open('in/a').read()); open('out/b', 'w')", policy)
    assert done.output == "1\n"
    assert "b" in done.written


async def test_mounts_elsewhere_are_refused(warm: Launcher, tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="below /workspace"):
        await fork(warm, "pass", Policy(mounts=(Bind(tmp_path, "/data"),)))


async def test_without_a_zygote_nothing_can_be_forked(launcher: Launcher) -> None:
    with pytest.raises(PolicyError, match="without a zygote"):
        await launcher.fork(Policy(), None)


# -- the zygote itself ------------------------------------------------------------------------------------------------


def environment(tmp_path: Path, **modules: str) -> Zygote:
    """An environment with these modules, preloaded."""
    site = tmp_path / "site"
    site.mkdir(mode=0o755)
    for name, text in modules.items():
        (site / f"{name}.py").write_text(text)
    return dataclasses.replace(
        ZYGOTE,
        binds=(Bind(site, "/environment"),),
        search_paths=(Path("/environment"),),
        preload=("json", *modules),
    )


async def test_a_module_that_tries_semaphores_at_its_import_finds_them(tmp_path: Path) -> None:
    code = """
from _multiprocessing import SemLock
SemLock(0, 0, 1, name="/probe", unlink=True)
open("/dev/shm/left", "w").write("x" * 100)
"""
    async with launched(environment(tmp_path, prober=code)) as launcher:
        done = await fork(launcher, "import prober; print(os.listdir('/dev/shm'))")
        assert done.output == "[]\n", "a job has shared memory of its own"


async def test_preloaded_code_is_confined_before_it_runs(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    code = f"""
import os, socket
seen = [open("/proc/self/status").read()]
for path in ("{secret}", "/etc/shadow", "/root/.profile"):
    try: seen.append(open(path).read())
    except OSError: pass
for path in ("/usr/x", "/etc/x", "/x", "/environment/x"):
    try: seen.append(open(path, "w"))
    except OSError: pass
try: socket.create_connection(("127.0.0.1", 1), 1)
except OSError as problem: network = problem.errno
pids, environ, fds = [p for p in os.listdir("/proc") if p.isdigit()], dict(os.environ), os.listdir("/proc/self/fd")
ids = os.getuid(), os.getgid(), os.getgroups()
"""
    async with launched(environment(tmp_path, nosy=code)) as launcher:
        done = await fork(
            launcher,
            "import nosy as n; print(len(n.seen), n.network, sorted(n.pids), 'SECRET' in str(n.environ), n.ids)\n"
            "print(n.seen[0], len(n.fds))",
        )
        first, *rest = done.output.splitlines()
        assert first.startswith("1 101 ['1', '2'] False ")
        if launcher.enforcement.privileged:
            uid = int(first.split("(")[1].split(",")[0])
            assert uid >= 30_000
            assert first.endswith(f"({uid}, {uid}, [])")
        facts = dict(line.split(":\t", 1) for line in rest if ":\t" in line)
        assert {facts[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
        assert (facts["NoNewPrivs"], facts["Seccomp"]) == ("1", "2")
        assert rest[-1].split()[-1] == "5"  # standard streams, the channel, and the listing itself


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("raise RuntimeError('no ' + 'x' * 9999)", r"'broken': RuntimeError: no x{100}"),
        ("import nothing_of_the_kind", "'broken': ModuleNotFoundError: .*nothing_of_the_kind"),
        ("raise SystemExit(0)", "'broken': SystemExit"),
        ("import os; os._exit(3)", r"died while it loaded 'broken' \(exit code 3\)"),
        ("import ctypes; ctypes.string_at(0)", r"died while it loaded 'broken' \(signal 11\)"),
        ("import ctypes; ctypes.CDLL(None).ptrace(0, 0, 0, 0)", r"'broken' \(signal 31\)"),
        (
            "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()",
            "'broken': it left 1 threads running",
        ),
    ],
)
async def test_a_preload_that_fails_is_named(tmp_path: Path, code: str, reason: str) -> None:
    async with launched(environment(tmp_path, fine="", broken=code)) as launcher:
        for _ in range(2):
            with pytest.raises(PlatformError, match=reason) as caught:
                await fork(launcher, "pass")
            assert not isinstance(caught.value, IsolationUnavailable)
            assert len(str(caught.value)) < 4000


async def test_a_program_or_an_interpreter_that_is_missing_is_named(tmp_path: Path) -> None:
    async with launched(dataclasses.replace(ZYGOTE, python=Path("/usr/bin/no-python"))) as launcher:
        with pytest.raises(PlatformError, match="no-python"):
            await fork(launcher, "pass")
    async with launched(dataclasses.replace(ZYGOTE, program=tmp_path / "absent.py")) as launcher:
        with pytest.raises(PlatformError, match=r"absent\.py"):
            await fork(launcher, "pass")


@pytest.mark.parametrize(
    ("disarm", "reason"),
    [
        ("lockdown.STEPS = tuple(s for s in lockdown.STEPS if s.__name__ != 'drop_capabilities')", "CapEff"),
        ("kernel.empty_bounding_set = lambda last: None", "CapBnd"),
        (
            "lockdown.STEPS = tuple(s for s in lockdown.STEPS if s.__name__ != 'filter_system_calls')",
            "Seccomp_filters",
        ),
        (
            "mounts.place = lambda *a, real=mounts.place: (kernel.mount('x', '/mnt', 'tmpfs', 6), real(*a))[1]",
            "/mnt is writable",
        ),
        (
            "mounts.place = lambda *a, real=mounts.place: (kernel.mount('x', '/mnt', 'tmpfs', 5), real(*a))[1]",
            "/mnt honours set-user-id|/mnt honours device files",
        ),
        (
            "mounts.place = lambda *a, real=mounts.place: (os.open('/', os.O_RDONLY), real(*a))[1]",
            "descriptors are open",
        ),
    ],
)
async def test_a_preload_that_disarms_the_lock_down_is_caught_from_outside(
    tmp_path: Path, disarm: str, reason: str
) -> None:
    inner = "from praxis_sdk.sandbox.init import lockdown, mounts, verify\n"
    code = f"import os\nfrom praxis_sdk.sandbox import kernel\n{inner}{disarm}\n"
    async with launched(environment(tmp_path, evil=f"{code}verify.verify = lambda *_: None")) as launcher:
        for _ in range(2):
            with pytest.raises(IsolationUnavailable, match=reason):
                await fork(launcher, "print('ran')")


async def test_what_preloaded_code_writes_is_not_in_the_jobs_view(tmp_path: Path) -> None:
    write = "open('/tmp/note', 'w').write('x'); f = open('/tmp/note')"
    async with launched(environment(tmp_path, writer=write)) as launcher:
        look = "print(os.listdir('/tmp'), ' - tmpfs zygote ' in open('/proc/self/mountinfo').read())"
        assert (await fork(launcher, look)).output == "[] False\n"


async def test_a_zygote_that_dies_is_replaced_and_its_jobs_live_on(warm: Launcher) -> None:
    assert (await fork(warm, "pass")).end.ok
    for _ in range(3):
        for zygote in zygotes(warm):
            pidfd = os.pidfd_open(zygote)
            os.kill(zygote, signal.SIGKILL)
            await ended(pidfd)
            os.close(pidfd)
        assert (await fork(warm, "print(1)")).output == "1\n"


async def test_a_zygote_is_recycled_while_jobs_run() -> None:
    async with launched(dataclasses.replace(ZYGOTE, recycle_after=5)) as launcher:
        seen: set[int] = set()
        for _ in range(8):
            results = await asyncio.gather(*(fork(launcher, "print(1)") for _ in range(6)))
            assert all(done.output == "1\n" for done in results)
            seen.update(zygotes(launcher))
        assert len(seen) >= 3
        assert len(zygotes(launcher)) <= 4


async def test_forked_jobs_die_with_the_launcher(warm: Launcher) -> None:
    order = os.memfd_create("order")
    os.write(
        order,
        b"import ctypes, time; ctypes.CDLL(None).prctl(1, 0); print('ready', flush=True); time.sleep(1000)",
    )
    os.lseek(order, 0, os.SEEK_SET)
    reader, writer = os.pipe()
    sandbox = await warm.fork(Policy(), order, stdout=writer)
    os.close(writer)
    os.close(order)
    assert await asyncio.to_thread(os.read, reader, 6) == b"ready\n"
    assert warm.pid is not None
    os.kill(warm.pid, signal.SIGKILL)
    assert await read_all(reader) == b""  # end of file: it is dead, although it had renounced the signal
    os.close(reader)
    with pytest.raises(PlatformError):
        await sandbox.wait()
    sandbox.close()


@pytest.mark.parametrize("path", [Path("/tmp/x"), Path("/proc"), Path("/etc"), Path("/workspace/x")])
def test_an_environment_cannot_hide_what_is_the_sandboxs_own(path: Path) -> None:
    with pytest.raises(PolicyError, match="own"):
        dataclasses.replace(ZYGOTE, binds=(path,))


def zygotes(launcher: Launcher) -> list[int]:
    """The zygote processes of a launcher: number 2 of their process namespace."""
    assert launcher.pid is not None
    found = []
    for pid in children_of(launcher.pid):
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{pid}/status").read_text()
            (line,) = (line for line in status.splitlines() if line.startswith("NSpid:"))
            if line.split()[-1] == "2" and "State:\tZ" not in status:
                found.append(pid)
    return found
