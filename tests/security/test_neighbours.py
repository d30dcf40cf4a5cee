"""What one job leaves, or does meanwhile, reaches no other job and not the executor."""

import asyncio
import os
import socket
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from praxis_sdk.errors import PlatformError

from .case import CALL, MIB, number
from .laboratory import Laboratory, descendants

pytestmark = pytest.mark.asyncio(loop_scope="session")

# Poisons everything that a job can write to, and everything of its own process that a fork could have inherited.
POISON = f"""{CALL}
import builtins, json, random, sys, time, uuid
json.dumps = json.loads = builtins.repr = lambda *a, **k: 'poisoned'
random.seed(1); random.random = lambda: 0.5; os.urandom = lambda n: bytes(n); uuid.uuid4 = lambda: 'poisoned'
time.time = lambda: 0; sys.path.insert(0, '/tmp'); sys.meta_path.insert(0, None); sys.modules['wave'] = sys
os.environ['POISON'] = '1'; os.environ['PYTHONPATH'] = '/tmp'
for folder in ('/tmp', '/dev/shm', '.'):
    os.makedirs(f'{{folder}}/__pycache__', exist_ok=True)
    for name in ('sitecustomize.py', '__pycache__/json.cpython-311.pyc', '.matplotlib', 'x'):
        open(f'{{folder}}/{{name}}', 'wb').write(b'print("poisoned")')
libc.shmget(0x50524158, 4096, 0o1666); libc.msgget(0x50524158, 0o1666); libc.semget(0x50524158, 1, 0o1666)
try: call({number("mq_open")}, b'poison', 0o102, 0o666, None)
except OSError: pass
os.umask(0o777)
import socket
keep = socket.socket(socket.AF_UNIX); keep.bind('\\0praxis-poison'); keep.listen()
if os.fork() == 0:
    os.setsid(); time.sleep(1000)
os._exit(0)
"""
LOOK = f"""{CALL}
import json, random, socket, sys, time, uuid
found = []
def look(name, test):
    if test: found.append(name)
look('json', json.dumps([1]) != '[1]' or repr(1) != '1')
look('random', random.random() == 0.5 or os.urandom(4) == bytes(4) or uuid.uuid4() == 'poisoned')
look('time', time.time() < 1e9)
look('path', '/tmp' in sys.path or None in sys.meta_path or sys.modules.get('wave') is sys)
look('environment', 'POISON' in os.environ or 'PYTHONPATH' in os.environ)
look('umask', os.umask(0o22) != 0o22)
own = '.praxis', 'job.py'
look('files', os.listdir('/tmp') + os.listdir('/dev/shm') + [n for n in os.listdir('.') if n not in own])
look('shared memory', libc.shmget(0x50524158, 4096, 0o666) >= 0)
look('messages', libc.msgget(0x50524158, 0o666) >= 0)
look('semaphores', libc.semget(0x50524158, 1, 0o666) >= 0)
try: call({number("mq_open")}, b'poison', 0, 0, None); found.append('queue')
except OSError: pass
try: socket.socket(socket.AF_UNIX).connect('\\0praxis-poison'); found.append('socket')
except OSError: pass
look('processes', [pid for pid in os.listdir('/proc') if pid.isdigit() and int(pid) not in (1, os.getpid())])
found
"""
RANDOM = """
import os, random, secrets, ssl, uuid
[str(uuid.uuid4()), str(uuid.uuid1()), os.urandom(8).hex(), secrets.token_hex(8), ssl.RAND_bytes(8).hex(),
 random.SystemRandom().random()]
"""


async def test_a_job_that_poisons_all_it_can_does_not_reach_the_next(laboratory: Laboratory) -> None:
    clean = await laboratory.run(code=LOOK)
    assert clean.outputs == [], clean.stderr.text
    poisoned = await laboratory.run(code=POISON)
    assert poisoned.failure is not None
    assert poisoned.failure.code == "no_result", poisoned.stderr.text
    after = await laboratory.run(code=LOOK)
    assert after.outputs == [], after.stderr.text
    await laboratory.nothing_is_left()


async def test_a_job_that_poisons_all_it_can_does_not_reach_one_beside_it(laboratory: Laboratory) -> None:
    """The first stays alive, and says so, until the second has looked."""
    ready = asyncio.Event()
    sleeper = POISON.replace("os._exit(0)", "os.write(1, b'ready'); time.sleep(1000)")
    running = asyncio.create_task(start(laboratory, sleeper, ready.set))
    await ready.wait()
    beside = await laboratory.run(code=LOOK)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert beside.outputs == [], beside.stderr.text
    await laboratory.nothing_is_left()


async def test_equal_jobs_see_other_random_bytes(laboratory: Laboratory) -> None:
    """What must be secret differs; what must be reproducible does not."""
    one, two = [await laboratory.run(code=RANDOM) for _ in range(2)]
    assert one.succeeded
    assert all(a != b for a, b in zip(one.outputs, two.outputs, strict=True)), (one.outputs, two.outputs)  # type: ignore[arg-type]
    repeatable = "import random\n[random.random(), hash('x'), list({'a', 'b', 'c'})]"
    one, two = [await laboratory.run(code=repeatable) for _ in range(2)]
    assert one.outputs == two.outputs


async def test_jobs_at_once_get_other_random_bytes(laboratory: Laboratory) -> None:
    results = await asyncio.gather(*(laboratory.run(code=RANDOM) for _ in range(8)))
    seen = [value for result in results for value in result.outputs]  # type: ignore[union-attr]
    assert len(set(seen)) == len(seen)


async def test_hostile_jobs_at_once_do_not_disturb_honest_ones(laboratory: Laboratory) -> None:
    bombs = (
        "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
        "x = []\nwhile True: x.append(bytearray(1 << 20))",
        "while True: print('x' * 1000)",
        "import os\nos.kill(-1, 9)\nwhile True: pass",
    )
    limits = {"cpu_s": 1, "wall_s": 20, "memory_bytes": 64 * MIB, "processes": 16, "stdout_bytes": 65536}
    hostile = [laboratory.run(code=code, limits=limits) for code in bombs]
    honest = [laboratory.run(code=f"{index} + 1", limits={"wall_s": 60}) for index in range(8)]
    results = await asyncio.gather(*hostile, *honest)
    assert [result.succeeded for result in results[:4]] == [False] * 4
    assert [result.outputs for result in results[4:]] == [index + 1 for index in range(8)]
    await laboratory.nothing_is_left()


async def test_a_cancelled_job_is_gone(laboratory: Laboratory) -> None:
    ready = asyncio.Event()
    code = "import os, time\nif os.fork() == 0: os.setsid()\nos.write(1, b'ready')\nwhile True: pass"
    running = asyncio.create_task(start(laboratory, code, ready.set))
    await ready.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await laboratory.nothing_is_left()


async def test_an_abstract_socket_of_the_host_is_out_of_reach(laboratory: Laboratory) -> None:
    name = f"praxis-host-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"\0{name}")
        server.listen()
        result = await laboratory.run(
            code=f"import socket; socket.socket(socket.AF_UNIX).connect('\\0{name}')"
        )
    assert result.failure is not None
    assert "ConnectionRefusedError" in result.failure.message


async def test_a_service_of_the_host_is_out_of_reach(laboratory: Laboratory) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        result = await laboratory.run(
            code=f"import socket; socket.create_connection(('127.0.0.1', {port}), timeout=3)"
        )
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()
    assert not result.succeeded


async def test_a_file_of_the_executor_is_out_of_reach_by_every_name(laboratory: Laboratory) -> None:
    """Also through descriptors: the executor holds the secret open while the job runs."""
    secret = laboratory.home / "secret.txt"
    with secret.open() as held:
        names = [str(secret), f"/proc/{os.getpid()}/fd/{held.fileno()}", f"/proc/{os.getpid()}/root{secret}"]
        names += [
            f"/proc/{os.getppid()}/root{secret}",
            f"/proc/1/root{secret}",
            f"/environment/../..{secret}",
        ]
        code = (
            f"found = []\nfor name in {names!r}:\n    try: found.append(open(name).read())\n"
            "    except OSError: pass\nlen(found)"
        )
        result = await laboratory.run(code=code)
    assert result.outputs == 0


async def test_a_lock_on_shared_files_holds_nobody_up(laboratory: Laboratory) -> None:
    """A job locks all that it can open; the executor and the next job go on as if it had not."""
    ready = asyncio.Event()
    code = (
        "import fcntl, os, sys, time\n"
        "held = []\n"
        "for path in (sys.prefix, sys.prefix + '/pyvenv.cfg', sys.prefix + '/bin', '/usr', '/usr/bin/env',\n"
        "             '/environment', os.path.dirname(os.__file__)):\n"
        "    try:\n"
        "        held.append(os.open(path, os.O_RDONLY)); fcntl.flock(held[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
        "    except OSError: pass\n"
        "os.write(1, b'ready'); time.sleep(1000)"
    )
    running = asyncio.create_task(start(laboratory, code, ready.set))
    await ready.wait()
    environment = laboratory.environments.get("base")

    def hold() -> None:
        with laboratory.environments.hold(environment):
            pass

    try:
        await asyncio.wait_for(asyncio.to_thread(hold), 20)
        await laboratory.next_job()
    finally:
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    await laboratory.nothing_is_left()


async def test_what_tells_this_machine_from_others_is_not_shown(laboratory: Laboratory) -> None:
    names = ("cmdline", "diskstats", "locks", "partitions", "sys/kernel/random/boot_id", "self/cgroup")
    code = f"{{name: open('/proc/' + name).read() for name in {names!r}}}"
    result = await laboratory.run(code=code)
    shown = result.outputs
    assert isinstance(shown, dict), result.stderr.text
    assert {shown[name] for name in ("cmdline", "diskstats", "locks", "partitions")} == {""}
    assert uuid.UUID(str(shown["sys/kernel/random/boot_id"]).strip()).version == 4
    assert shown["sys/kernel/random/boot_id"] != Path("/proc/sys/kernel/random/boot_id").read_text()
    assert {line.split(":")[2] for line in str(shown["self/cgroup"]).splitlines()} <= {"/"}


async def test_the_environment_is_what_it_was(laboratory: Laboratory) -> None:
    attack = (
        "import os, sys\n"
        "for root, folders, names in os.walk(sys.prefix):\n"
        "    for name in names + folders:\n"
        "        path = os.path.join(root, name)\n"
        "        for act in (os.unlink, os.rmdir, lambda p: open(p, 'w'), lambda p: os.chmod(p, 0o777), os.utime):\n"
        "            try: act(path)\n"
        "            except OSError: continue\n"
        "            raise SystemExit(path)\n"
        "1"
    )
    result = await laboratory.run(code=attack)
    assert result.outputs == 1, result.stderr.text
    assert laboratory.environments.verify(laboratory.environments.get("base")) == ()


async def test_the_output_of_a_job_is_never_held_whole(laboratory: Laboratory) -> None:
    """A listener hears no more than the limit and one read, however much is written."""
    heard = 0

    def count(_stream: str, piece: object) -> None:
        nonlocal heard
        heard += len(piece)  # type: ignore[arg-type]

    from praxis_sdk.jobs.payload.payload import parse_payload

    document = {
        "schema_version": "1.0",
        "job_id": laboratory.job_id(),
        "runtime": "python",
        "code": "import os\nwhile True: os.write(1, bytes(1 << 20))",
        "limits": {"stdout_bytes": 65536},
        "fresh": True,
    }
    await laboratory.executor.run(parse_payload(document), on_output=count, on_progress=lambda _: None)
    assert heard <= 65536
    await laboratory.nothing_is_left()


async def start(laboratory: Laboratory, code: str, ready: Callable[[], None]) -> None:
    """Run a job for ever; say when it has written its first bytes."""
    from praxis_sdk.jobs.payload.payload import parse_payload

    document = {
        "schema_version": "1.0",
        "job_id": laboratory.job_id(),
        "runtime": "python",
        "code": code,
        "limits": {"wall_s": 100, "processes": 16},
        "fresh": True,
    }
    result = await laboratory.executor.run(
        parse_payload(document), on_output=lambda *_: ready(), on_progress=lambda _: None
    )
    raise PlatformError(f"it should not have ended: {result.to_json()} {list(descendants())}")
