"""What jobs share is a quota: while one job takes all of it that it can get, honest jobs beside it do not notice."""

import asyncio
import os
import re
import resource
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from praxis_sdk.jobs.executor.result import JobResult
from praxis_sdk.jobs.payload.payload import parse_payload

from .case import CALL, MIB, number
from .laboratory import Laboratory, brief, children, descendants, own_descriptors

pytestmark = pytest.mark.asyncio(loop_scope="session")

# Says how much it got, on standard output, and holds it until it is ended.
HOLD = "\nos.write(1, f'held {held}\\n'.encode())\nsignal.pause()\n"
PROLOGUE = f"{CALL}\nimport array, fcntl, signal, socket, struct, threading\nheld = 0\n"


@dataclass(frozen=True)
class Attack:
    """A job that takes all it can get of what jobs share.

    Args:
        name: what is shared.
        code: counts in `held` how much it has got.
        most: what it may get, at most; None where only its neighbours matter.
        fields: of its payload.
    """

    name: str
    code: str
    most: int | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)


ATTACKS = (
    Attack(
        "descriptors in flight",
        """
kept = []
try:
    while held < 20_000:
        a, b = socket.socketpair(); kept.append((a, b)); a.setblocking(False)
        try:
            while held < 20_000:
                a.sendmsg([b'x'], [(1, 1, array.array('i', [0] * 250))]); held += 250
        except BlockingIOError: pass
except OSError: pass
""",
    ),
    Attack(
        "signals that wait",
        """
signal.pthread_sigmask(signal.SIG_BLOCK, {40})
info = struct.pack('iii', 40, 0, -1).ljust(128, b'\\0')
try:
    while True: call(QUEUE, os.getpid(), 40, info); held += 1
except OSError: pass
""".replace("QUEUE", str(number("rt_sigqueueinfo"))),
        most=256,
    ),
    Attack(
        "timers",
        """
try:
    while True: call(TIMER, 1, None, ctypes.byref(ctypes.c_int())); held += 1
except OSError: pass
""".replace("TIMER", str(number("timer_create"))),
        most=256,
    ),
    Attack(
        "message queues",
        """
try:
    while held < 100: call(OPEN, b'q%d' % held, 0o102, 0o666, None); held += 1
except OSError: pass
""".replace("OPEN", str(number("mq_open"))),
        most=9,
    ),
    Attack(
        "instances of inotify",
        """
try:
    while True: call(INIT, 0); held += 1
except OSError: pass
""".replace("INIT", str(number("inotify_init1"))),
        most=0,
    ),
    Attack(
        "leases on whatever can be opened",
        """
import sys
kept = []
for folder in ('/usr/bin', sys.prefix, os.path.dirname(os.__file__), '.'):
    for name in os.listdir(folder)[:200]:
        try: kept.append(os.open(os.path.join(folder, name), os.O_RDONLY | os.O_NONBLOCK))
        except OSError: continue
        try: call(FCNTL, kept[-1], 1024, 0); held += 1
        except OSError: pass
own = os.open('own', os.O_RDWR | os.O_CREAT)
try: call(FCNTL, own, 1024, 1); held += 1
except OSError: pass
""".replace("FCNTL", str(number("fcntl"))),
        most=0,
    ),
    Attack(
        "locks on whatever can be opened",
        """
import sys
kept = []
for folder in ('/usr/bin', sys.prefix, os.path.dirname(os.__file__)):
    for name in os.listdir(folder)[:200]:
        try:
            kept.append(os.open(os.path.join(folder, name), os.O_RDONLY | os.O_NONBLOCK))
            fcntl.flock(kept[-1], fcntl.LOCK_EX | fcntl.LOCK_NB); held += 1
        except OSError: pass
""",
    ),
    Attack(
        "watches of epoll",
        """
import select
pipes = [os.pipe() for _ in range(200)]
polls = [select.epoll() for _ in range(200)]
try:
    for poll in polls:
        for r, w in pipes: poll.register(r); poll.register(w); held += 2
except OSError: pass
""",
    ),
    Attack(
        "pages of pipes",
        """
kept = []
try:
    while held < 400:
        r, w = os.pipe(); kept.append((r, w)); os.set_blocking(w, False); held += 1
        try: fcntl.fcntl(w, fcntl.F_SETPIPE_SZ, 1 << 20)
        except OSError: pass
        try: os.write(w, bytes(1 << 16))
        except BlockingIOError: pass
except OSError: pass
""",
    ),
    Attack(
        "System V queues, semaphores and memory",
        """
try:
    for _ in range(2000):
        call(MSG, 0, 0o600); call(SEM, 0, 20, 0o600); call(SHM, 0, 4096, 0o600); held += 1
except OSError: pass
""".replace("MSG", str(number("msgget")))
        .replace("SEM", str(number("semget")))
        .replace("SHM", str(number("shmget"))),
    ),
    Attack(
        "processes",
        """
try:
    while True:
        if os.fork() == 0: signal.pause()
        held += 1
except OSError: pass
""",
        most=32,
    ),
    Attack(
        "compiled filters",
        """
program = ctypes.create_string_buffer(struct.pack('HBBI', 6, 0, 0, 0x7fff0000) * 4000)
header = struct.pack('HxxxxxxQ', 4000, ctypes.addressof(program))
try:
    while held < 100: call(SECCOMP, 1, 0, header); held += 1
except OSError: pass
""".replace("SECCOMP", str(number("seccomp"))),
        most=16,
    ),
    Attack(
        "disks and the page cache",
        """
import glob
def churn():
    paths = [path for path in glob.glob('/usr/bin/*') if os.path.isfile(path)][:100]
    while True:
        os.sync()
        for path in paths:
            fd = os.open(path, os.O_RDONLY); os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED); os.close(fd)
threading.Thread(target=churn, daemon=True).start()
""",
        fields={"limits": {"cpu_s": 60}},
    ),
    Attack(
        "buffers of TCP",
        """
listening = socket.create_server(('127.0.0.1', 0), backlog=128); kept = []
try:
    for _ in range(100):
        a = socket.create_connection(listening.getsockname(), timeout=5); b, _ = listening.accept(); kept += [a, b]
        for one in (a, b):
            one.setblocking(False)
            try:
                while True: held += one.send(bytes(1 << 16))
            except BlockingIOError: pass
except OSError: pass
held >>= 20
""",
        most=90,
        fields={"network": ["data.example.org"], "limits": {"memory_bytes": 64 * MIB}},
    ),
    Attack(
        "the door of the proxy",
        """
from urllib.parse import urlsplit
door = urlsplit(os.environ['HTTPS_PROXY']); kept = []
for _ in range(400):
    one = socket.socket(); one.setblocking(False); kept.append(one); held += 1
    one.connect_ex((door.hostname, door.port))
""",
        fields={"network": ["data.example.org"]},
    ),
)

# What they do needs a little of everything that the attacks are after.
PASSES_DESCRIPTORS = f"""{PROLOGUE}
import asyncio, subprocess
async def main():
    process = await asyncio.create_subprocess_exec('echo', 'child', stdout=asyncio.subprocess.PIPE)
    return (await process.communicate())[0].decode().strip()
call({number("timer_create")}, 1, None, ctypes.byref(ctypes.c_int()))
with open('mine', 'w') as mine:
    fcntl.flock(mine, fcntl.LOCK_EX | fcntl.LOCK_NB); mine.write('kept')
[asyncio.run(main()), open('mine').read(), len(open('/usr/bin/env', 'rb').read()) > 0]
"""
HONEST: tuple[tuple[dict[str, Any], Any], ...] = (
    ({"code": PASSES_DESCRIPTORS}, ["child", "kept", True]),
    ({"code": "sum(range(100_000))"}, 4_999_950_000),
    ({"runtime": "command", "command": ["sh", "-c", "seq 50 | sort -n | tail -1 > n; cat n"]}, None),
)


async def held_by(laboratory: Laboratory, attack: Attack) -> tuple[asyncio.Task[JobResult], str]:
    """Start an attack; returns when it has got all that it can."""
    said = asyncio.get_running_loop().create_future()

    def listen(_stream: str, piece: object) -> None:
        if not said.done():
            said.set_result(bytes(piece).decode() if isinstance(piece, bytes | bytearray) else str(piece))

    limits = {"wall_s": 100, "cpu_s": 100, "memory_bytes": 256 * MIB, "processes": 32}
    fields = {**attack.fields, "limits": {**limits, **attack.fields.get("limits", {})}}
    document = {
        "schema_version": "1.0",
        "job_id": laboratory.job_id(),
        "runtime": "python",
        "code": PROLOGUE + attack.code + HOLD,
        "fresh": True,
        **fields,
    }
    running = asyncio.create_task(
        laboratory.executor.run(parse_payload(document), on_output=listen, on_progress=lambda _: None)
    )
    await asyncio.wait({running, said}, return_when=asyncio.FIRST_COMPLETED)
    assert said.done(), brief(running.result())
    return running, said.result()


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
async def test_honest_jobs_do_not_notice_who_takes_all_of(laboratory: Laboratory, attack: Attack) -> None:
    before = sum(own_descriptors().values())
    hostile = [await held_by(laboratory, attack) for _ in range(2)]
    meanwhile = sum(own_descriptors().values())
    honest = await asyncio.gather(*(laboratory.run(**fields) for fields, _ in HONEST))
    for running, _ in hostile:
        running.cancel()
    ended = await asyncio.gather(*(running for running, _ in hostile), return_exceptions=True)
    assert [type(one) for one in ended] == [asyncio.CancelledError] * 2
    for result, (_, outputs) in zip(honest, HONEST, strict=True):
        assert (result.status, result.outputs) == ("completed", outputs), brief(result)
    assert meanwhile - before < 2 * 100
    for _, said in hostile:
        held = int(re.match(r"held (\d+)", said)[1])  # type: ignore[index]
        assert attack.most is None or held <= attack.most
    await laboratory.nothing_is_left()


async def test_who_has_more_in_flight_than_the_executor_may_keeps_it_from_nothing(
    laboratory: Laboratory,
) -> None:
    """The kernel holds what all of a user have in flight against the limit of each sender."""
    (attack,) = (one for one in ATTACKS if one.name == "descriptors in flight")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    running, _ = await held_by(laboratory, attack)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
    try:
        honest = [await laboratory.run(code=f"{index} + 1") for index in range(4)]
        assert not running.done()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert [result.outputs for result in honest] == [1, 2, 3, 4]
    await laboratory.nothing_is_left()


async def test_each_job_has_one_share_of_the_processors(laboratory: Laboratory) -> None:
    """However many processes it starts: the kernel says which group each of them shares with which others."""
    if not laboratory.cgroups:
        return  # the kernel's own groups of sessions are all there is then
    spin = (
        "for _ in range(20):\n    if os.fork() == 0:\n        os.setsid(); os.write(1, b'') ; signal.pause()"
    )
    before = set(descendants())
    hostile = [await held_by(laboratory, Attack("processors", spin)) for _ in range(2)]
    groups: dict[str, int] = {}
    for pid in set(descendants()) - before - children():
        for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if "cpu" in controllers.split(",") or (not controllers and not laboratory.version_1):
                groups[path] = groups.get(path, 0) + 1
    for running, _ in hostile:
        running.cancel()
    await asyncio.gather(*(running for running, _ in hostile), return_exceptions=True)
    crowded = sorted(count for count in groups.values() if count >= 20)
    assert crowded == [21, 21], groups
    await laboratory.nothing_is_left()


async def test_what_a_job_was_the_first_to_read_keeps_no_control_group(laboratory: Laboratory) -> None:
    """Its pages stay charged to the group, which could not go before they do; so groups are used again."""
    if os.geteuid() != 0 or not Path("/proc/cgroups").exists():
        return
    paths = [
        str(path) for path in Path("/usr/share").rglob("*") if path.is_file() and path.stat().st_size > 8192
    ]
    paths = paths[:120]
    os.sync()
    for path in paths:
        fd = os.open(path, os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)
    before = memory_groups()
    for path in paths:
        result = await laboratory.run(code=f"len(open({path!r}, 'rb').read()) > 8192")
        assert result.outputs is True
    assert memory_groups() - before < len(paths) // 2


def memory_groups() -> int:
    """How many memory groups the kernel has, with those that are gone but for what is charged to them."""
    lines = Path("/proc/cgroups").read_text().splitlines()
    return next(int(line.split()[2]) for line in lines if line.startswith("memory"))
