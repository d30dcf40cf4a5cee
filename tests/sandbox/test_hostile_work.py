"""Attacks on the real sandbox: what each one is answered, and that nothing of it remains.

The `launcher` fixture proves after every test that no process, mount, cgroup or descriptor is left.
"""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from praxis_sdk.sandbox import Bind, Launcher, Limits, Policy

from .conftest import MIB, Run, read_all

# Calls a system call by number and prints the name of the error.
CALL = """
import ctypes, errno, os, sys
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    result = libc.syscall(ctypes.c_long(number), *arguments)
    print('ok' if result >= 0 else errno.errorcode[ctypes.get_errno()], flush=True)
"""
X86_64 = os.uname().machine == "x86_64"
x86_64_only = pytest.mark.skipif(not X86_64, reason="system call numbers of x86_64")


async def still_works(run: Run) -> None:
    assert (await run(["echo", "next"])).output == "next\n"


# -- processes ------------------------------------------------------------------------------------------------------


async def test_fork_bomb_is_held_by_the_process_limit(run: Run, launcher: Launcher) -> None:
    code = (
        "import os, sys\n"
        "n = 0\n"
        "try:\n"
        "    while True:\n"
        "        if os.fork() == 0:\n"
        "            import signal; signal.pause()\n"
        "        n += 1\n"
        "except BlockingIOError:\n"
        "    print(n); sys.exit(1)\n"
    )
    result = await run(code, limits=Limits(processes=20))
    assert result.output.strip() == "19"
    assert result.end.exit_code == 1
    if launcher.enforcement.processes == "cgroup":
        assert result.end.killed_by == "processes"
        assert result.end.events["processes"] == 1
    await still_works(run)


async def test_shell_fork_bomb_ends_when_killed(launcher: Launcher, run: Run) -> None:
    reader, writer = os.pipe()
    policy = Policy(limits=Limits(processes=30))
    script = ":(){ :|:& };:; while :; do :; done"
    with await launcher.spawn(policy, ["bash", "-c", script], stderr=writer) as sandbox:
        os.close(writer)
        await asyncio.to_thread(os.read, reader, 1)  # "fork: retry": it is in full swing
        sandbox.kill()
        assert (await sandbox.wait()).signal == signal.SIGKILL
    os.close(reader)
    await still_works(run)


async def test_thread_bomb_is_held_by_the_process_limit(run: Run) -> None:
    code = (
        "import threading\n"
        "n = 0\n"
        "try:\n"
        "    while True:\n"
        "        threading.Thread(target=threading.Event().wait, daemon=True).start(); n += 1\n"
        "except RuntimeError:\n"
        "    print(n)\n"
    )
    result = await run(code, limits=Limits(processes=20, memory_bytes=4096 * MIB))
    assert result.output.split() == ["19"]


async def test_a_double_forked_daemon_does_not_outlive_the_tool(run: Run) -> None:
    code = (
        "import os, time\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0:\n"
        "        for fd in range(3): os.close(fd)\n"
        "        time.sleep(1000)\n"
        "    os._exit(0)\n"
        "os.wait()\n"
    )
    result = await run(code)
    assert result.ok


async def test_kill_minus_one_reaches_only_the_own_sandbox(run: Run) -> None:
    result = await run(["sh", "-c", "sleep 1000 & kill -9 -1; echo alive"])
    assert (result.end.signal, result.output) in ((None, "alive\n"), (signal.SIGKILL, ""))
    result = await run(["sh", "-c", "kill -9 1; kill -TERM 1; kill -STOP 1; sleep 0.05; echo alive"])
    assert result.output == "alive\n"


async def test_realtime_scheduling_is_refused(run: Run) -> None:
    result = await run("import os; os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))")
    assert "PermissionError" in result.output


# -- memory ---------------------------------------------------------------------------------------------------------


async def test_memory_bomb_is_stopped(run: Run, launcher: Launcher) -> None:
    code = "x = []\nwhile True: x.append(bytearray(10_000_000))"
    result = await run(code, limits=Limits(memory_bytes=100 * MIB))
    if launcher.enforcement.memory == "cgroup":
        assert (result.end.signal, result.end.killed_by) == (signal.SIGKILL, "memory")
    else:
        assert "MemoryError" in result.output
    assert not result.ok
    await still_works(run)


async def test_many_processes_share_one_memory_limit(run: Run, launcher: Launcher) -> None:
    code = (
        "import os, select\n"
        "ready, go = os.pipe(), os.pipe()\n"
        "children = []\n"
        "for _ in range(8):\n"
        "    pid = os.fork()\n"
        "    if pid == 0:\n"
        "        x = bytearray(30_000_000); os.close(go[1]); os.write(ready[1], b'.'); os.read(go[0], 1); os._exit(0)\n"
        "    children.append(os.pidfd_open(pid))\n"
        "count = 0\n"
        "while count < 8:\n"
        "    seen = select.select([ready[0], *children], [], [])[0]\n"
        "    if seen != [ready[0]]: raise SystemExit(1)\n"
        "    count += len(os.read(ready[0], 8))\n"
        "print(count)\n"
    )
    result = await run(code, limits=Limits(memory_bytes=150 * MIB))
    if launcher.enforcement.memory == "cgroup":
        assert result.end.killed_by == "memory"
    else:  # the limit holds for the address space of each
        assert (result.output, result.end.exit_code) == ("8\n", 0)


@pytest.mark.parametrize("directory", ["/dev/shm", "/tmp", "/workspace"])
async def test_filling_the_scratch_space_ends_at_its_limit(run: Run, directory: str) -> None:
    limits = Limits(scratch_bytes=8 * MIB, memory_bytes=512 * MIB)
    result = await run(["sh", "-c", f"head -c 100m /dev/zero > {directory}/full"], limits=limits)
    assert "No space left" in result.output
    assert (result.end.exit_code, result.end.killed_by) == (1, "scratch")


async def test_scratch_directories_share_one_budget(run: Run) -> None:
    limits = Limits(scratch_bytes=8 * MIB)
    script = "head -c 5m /dev/zero > /tmp/a && head -c 5m /dev/zero > /dev/shm/b"
    result = await run(["sh", "-c", script], limits=limits)
    assert "No space left" in result.output


async def test_scratch_space_counts_as_memory(run: Run, launcher: Launcher) -> None:
    limits = Limits(scratch_bytes=512 * MIB, memory_bytes=64 * MIB)
    result = await run(["sh", "-c", "head -c 200m /dev/zero > /dev/shm/b"], limits=limits)
    if launcher.enforcement.memory == "cgroup":
        assert result.end.killed_by == "memory"
    else:  # it has a limit of its own, which was not reached
        assert result.ok


async def test_inode_flood_ends_at_its_limit(run: Run) -> None:
    code = "for i in range(10**6): open(f'f{i}', 'w').close()"
    result = await run(code, limits=Limits(scratch_inodes=500))
    assert "No space left" in result.output
    assert (result.end.exit_code, result.end.killed_by) == (1, "scratch")
    assert len(result.written["/workspace"]) >= 490


async def test_memfd_counts_as_memory(run: Run, launcher: Launcher) -> None:
    code = "import os\nfd = os.memfd_create('x')\nwhile True: os.write(fd, bytes(10**6))"
    if launcher.enforcement.memory == "cgroup":
        result = await run(code, limits=Limits(memory_bytes=100 * MIB, file_size_bytes=2**40))
        assert result.end.killed_by == "memory"
    else:  # of each the size is limited
        result = await run(code, limits=Limits(memory_bytes=100 * MIB, file_size_bytes=50 * MIB))
        assert "File too large" in result.output


async def test_locking_memory_is_limited(run: Run) -> None:
    result = await run(CALL + "b = ctypes.create_string_buffer(1 << 20); print(libc.mlock(b, 1 << 20))")
    assert result.output.strip() == "-1"


async def test_the_oom_score_cannot_be_lowered(run: Run) -> None:
    result = await run(["sh", "-c", "cat /proc/self/oom_score_adj; echo -1000 > /proc/self/oom_score_adj"])
    assert result.output.startswith("500\n")
    assert result.end.exit_code != 0


# -- time and files -------------------------------------------------------------------------------------------------


async def test_spinning_ends_at_the_cpu_limit(run: Run) -> None:
    result = await run("while True: pass", limits=Limits(cpu_seconds=1))
    assert result.end.killed_by == "cpu"
    assert result.end.usage.cpu_seconds < 3


async def test_many_short_cpu_burners_are_summed(run: Run, launcher: Launcher) -> None:
    burn = "sh -c 'i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done'"
    if launcher.enforcement.processes != "cgroup":  # the limit holds for each
        result = await run(
            ["sh", "-c", f"for i in $(seq 40); do {burn}; done"], limits=Limits(cpu_seconds=0.5)
        )
        assert result.ok
        assert result.end.usage.cpu_seconds > 0.5
        return
    result = await run(["sh", "-c", f"while :; do {burn}; done"], limits=Limits(cpu_seconds=0.5))
    assert (result.end.signal, result.end.killed_by) == (signal.SIGKILL, "cpu")
    assert result.end.usage.cpu_seconds < 2


async def test_cpu_quota_slows_down_or_is_refused(launcher: Launcher, run: Run) -> None:
    from praxis_sdk.errors import IsolationUnavailable

    code = "import time\nwhile time.process_time() < 0.2: pass"
    limits = Limits(cpu_cores=0.2)
    if not launcher.enforcement.cpu_quota:
        with pytest.raises(IsolationUnavailable, match="cpu_cores"):
            await run(code, limits=limits)
        return
    result = await run(code, limits=limits)
    assert result.ok
    assert result.end.usage.wall_seconds > 0.5


async def test_a_file_over_the_size_limit_ends_the_tool(run: Run) -> None:
    code = "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_DFL); open('f', 'wb').truncate(2**30)"
    result = await run(code, limits=Limits(file_size_bytes=MIB))
    assert (result.end.signal, result.end.killed_by) == (signal.SIGXFSZ, "file_size")


async def test_no_core_is_dumped(run: Run) -> None:
    result = await run(["sh", "-c", "ulimit -c; sh -c 'kill -ABRT $$'; ls"])
    assert "0" in result.output
    assert result.written["/workspace"] == {}


async def test_open_files_are_limited(run: Run) -> None:
    result = await run("f = [open('/dev/null') for _ in range(100)]", limits=Limits(open_files=50))
    assert "Too many open files" in result.output


async def test_deep_directories_and_odd_names_are_cleaned_up(launcher: Launcher) -> None:
    code = "import os\nfor _ in range(10000): os.mkdir('d'); os.chdir('d')\nopen('a\\nb', 'w')"
    with await launcher.spawn(Policy(), ["python", "-c", code]) as sandbox:
        assert (await sandbox.wait()).ok


# -- the host -------------------------------------------------------------------------------------------------------


async def test_nothing_of_the_host_is_visible_or_writable(run: Run) -> None:
    code = (
        "import os\n"
        "for root, dirs, files in os.walk('/'):\n"
        "    if root.startswith('/proc'): dirs.clear(); continue\n"
        "    if not root.startswith(('/tmp', '/workspace', '/dev/shm')) and os.access(root, os.W_OK): print(root)\n"
        "print(sorted(os.listdir('/')), os.listdir('/sys'), os.listdir('/home'), sorted(os.listdir('/run')))\n"
        "print(sorted(os.listdir('/etc')))\n"
    )
    result = await run(code)
    lines = result.output.splitlines()
    assert len(lines) == 2, lines[:10]
    assert "shadow" not in lines[1]
    assert "ssh" not in lines[1]
    assert "machine-id" not in lines[1]


async def test_identity_of_the_host_is_hidden(run: Run) -> None:
    result = await run(
        ["sh", "-c", "cat /etc/passwd /etc/hosts /etc/hostname /etc/resolv.conf; hostname; uname -n"]
    )
    assert os.uname().nodename not in result.output.split()
    assert result.output.splitlines()[-2:] == ["sandbox", "sandbox"]


@pytest.mark.parametrize(
    "path",
    [
        "/proc/sys/kernel/core_pattern",
        "/proc/sysrq-trigger",
        "/proc/sys/kernel/hostname",
        "/proc/1/mem",
        "/proc/1/oom_score_adj",
        "/sys/kernel/profiling",
        "/usr/bin/planted",
        "/etc/passwd",
        "/dev/planted",
        "/planted",
    ],
)
async def test_writing_outside_the_scratch_space_is_refused(run: Run, path: str) -> None:
    result = await run(["sh", "-c", f"echo x > {path}"])
    assert result.end.exit_code not in (0, None)


async def test_the_init_can_be_neither_read_nor_traced(run: Run) -> None:
    code = (
        "import os\n"
        "for name in ('mem', 'environ', 'maps', 'fd', 'root', 'cwd', 'exe', 'cmdline'):\n"
        "    try:\n"
        "        (os.listdir if name == 'fd' else lambda p: open(p, 'rb').read(10))(f'/proc/1/{name}')\n"
        "        print('readable', name)\n"
        "    except OSError: pass\n"
    )
    assert (await run(code)).output == ""


async def test_only_the_three_standard_descriptors_are_open(run: Run) -> None:
    result = await run(["sh", "-c", "ls /proc/self/fd"])
    assert result.output.split() == ["0", "1", "2", "3"]  # 3: the directory that ls reads


async def test_set_user_id_programs_have_no_power(run: Run) -> None:
    code = (
        "import os, subprocess, glob\n"
        "found = [p for p in glob.glob('/usr/bin/*') + glob.glob('/usr/sbin/*') if os.stat(p).st_mode & 0o4000]\n"
        "print(open('/proc/self/status').read().count('NoNewPrivs:\\t1'))\n"
        "for name in ('su', 'mount', 'passwd'):\n"
        "    for p in found:\n"
        "        if p.endswith('/' + name): print(subprocess.run([p, '--version'], capture_output=True).returncode)\n"
        "os.chmod(open('mine', 'w').name, 0o4755)\n"
    )
    result = await run(code)
    assert result.output.splitlines()[0] == "1"


async def test_a_users_copy_of_the_linker_tricks_is_harmless(run: Run) -> None:
    result = await run(
        ["cat", "/etc/hostname"],
        env={
            "LD_PRELOAD": "/workspace/evil.so",
            "GLIBC_TUNABLES": "glibc.malloc.mxfast=glibc.malloc.mxfast=A",
            "LD_LIBRARY_PATH": "/workspace",
            "PYTHONPATH": "/workspace",
        },
    )
    assert result.ok


async def test_symlinks_do_not_lead_the_host_astray(run: Run) -> None:
    result = await run(["sh", "-c", "ln -s /etc/passwd a; ln -s / b; mkfifo c; ln -s /etc d; echo x > e"])
    assert result.written["/workspace"] == {"e": b"x\n", "a": b"<other>", "c": b"<other>"}


# -- kernel ---------------------------------------------------------------------------------------------------------


@x86_64_only
@pytest.mark.parametrize(
    ("name", "expression"),
    [
        ("ptrace", "call(101, 16, 1, 0, 0)"),
        ("process_vm_readv", "call(310, 1, None, 0, None, 0, 0)"),
        ("mount", "call(165, b'x', b'/tmp', b'tmpfs', 0, None)"),
        ("mount a cgroup", "call(165, b'x', b'/tmp', b'cgroup2', 0, None)"),
        ("umount2", "call(166, b'/proc', 2)"),
        ("pivot_root", "call(155, b'/tmp', b'/tmp')"),
        ("fsopen", "call(430, b'tmpfs', 0)"),
        ("open_tree", "call(428, -100, b'/', 1)"),
        ("move_mount", "call(429, -1, b'', -1, b'', 0)"),
        ("mount_setattr", "call(442, -100, b'/', 0, b'', 0)"),
        ("unshare a user namespace", "call(272, 0x10000000)"),
        ("setns", "call(308, 0, 0)"),
        ("bpf", "call(321, 0, b'', 0)"),
        ("init_module", "call(175, b'', 0, b'')"),
        ("kexec_load", "call(246, 0, 0, None, 0)"),
        ("reboot", "call(169, 0, 0, 0, None)"),
        ("open_by_handle_at", "call(304, -100, b'', 0)"),
        ("a call of x32", "call(0x40000000 + 39)"),
    ],
)
async def test_an_attack_on_the_kernel_ends_the_tool(run: Run, name: str, expression: str) -> None:
    result = await run(CALL + expression)
    assert (result.end.signal, result.end.killed_by) == (signal.SIGSYS, "seccomp"), (name, result)


@x86_64_only
@pytest.mark.parametrize(
    ("name", "expression", "error"),
    [
        ("keyctl", "call(250, 0, -3, 1)", "EPERM"),
        ("add_key", "call(248, b'user', b'x', b'y', 1, -3)", "EPERM"),
        ("io_uring_setup", "call(425, 8, b'\\0' * 120)", "ENOSYS"),
        ("userfaultfd", "call(323, 0)", "EPERM"),
        ("perf_event_open", "call(298, b'\\0' * 128, 0, -1, -1, 0)", "EPERM"),
        ("clone3", "call(435, b'\\0' * 88, 88)", "ENOSYS"),
        ("clone with a user namespace", "call(56, 0x10000011, 0, 0, 0, 0)", "EPERM"),
        ("clone with a network namespace", "call(56, 0x40000011, 0, 0, 0, 0)", "EPERM"),
        ("clock_settime", "call(227, 0, b'\\0' * 16)", "EPERM"),
        ("chroot", "call(161, b'/tmp')", "EPERM"),
        ("TIOCSTI", "call(16, 0, ctypes.c_ulong(0x5412), b'x')", "EPERM"),
        ("TIOCSTI with high bits", "call(16, 0, ctypes.c_ulong(0xdead00005412), b'x')", "EPERM"),
        ("TIOCLINUX", "call(16, 0, ctypes.c_ulong(0x541c), b'x')", "EPERM"),
        ("personality", "call(135, 0x0040000)", "ENOSYS"),
        ("an unknown call", "call(999)", "ENOSYS"),
        ("a netlink socket", "call(41, 16, 3, 0)", "EAFNOSUPPORT"),
        ("a packet socket", "call(41, 17, 3, 0)", "EAFNOSUPPORT"),
        ("a vsock socket", "call(41, 40, 1, 0)", "EAFNOSUPPORT"),
        ("a crypto socket", "call(41, 38, 5, 0)", "EAFNOSUPPORT"),
        ("a bluetooth socket", "call(41, 31, 3, 1)", "EAFNOSUPPORT"),
        ("a raw socket", "call(41, 2, 3, 1)", "EPERM"),
        ("a ping socket", "call(41, 2, 2, 1)", "EPERM"),
        ("a UDP-Lite socket", "call(41, 10, 2, 136)", "EPERM"),
        ("an SCTP socket", "call(41, 2, 5, 132)", "EPERM"),
        ("an MPTCP socket", "call(41, 10, 1, 262)", "EPERM"),
        ("a local descriptor table", "call(154, 1, b'\\0' * 16, 16)", "EPERM"),
        ("setuid to root", "call(105, 0)", "EINVAL"),
        ("a device node", "call(133, b'/tmp/sda', 0o60600, 0x800)", "EPERM"),
        ("adding a capability", "call(126, b'\\x22\\x05\\x08\\x20\\0\\0\\0\\0', b'\\xff' * 24)", "EPERM"),
        ("raising a limit", "call(160, 7, b'\\0\\0\\0\\1\\0\\0\\0\\0' * 2)", "EPERM"),
    ],
)
async def test_a_forbidden_call_is_refused(run: Run, name: str, expression: str, error: str) -> None:
    result = await run(CALL + expression)
    assert result.output.split() == [error], (name, result)


@x86_64_only
async def test_ordinary_sockets_can_be_made(run: Run) -> None:
    calls = [
        (family, kind, protocol) for family in (2, 10) for kind, protocol in ((1, 0), (1, 6), (2, 0), (2, 17))
    ]
    result = await run(CALL + f"for call_ in {[*calls, (1, 1, 0), (1, 5, 0)]}: call(41, *call_)")
    assert result.output.split() == ["ok"] * 10


async def test_the_terminal_of_the_host_is_out_of_reach(run: Run) -> None:
    assert "No such" in (await run(["sh", "-c", "cat /dev/tty"])).output


# -- network --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["127.0.0.1", "169.254.169.254", "10.0.0.1", "1.1.1.1", "::1", "fe80::1"])
async def test_no_address_can_be_reached(run: Run, address: str) -> None:
    family = "AF_INET6" if ":" in address else "AF_INET"
    code = f"import socket; s = socket.socket(socket.{family}); s.settimeout(5); s.connect(('{address}', 80))"
    result = await run(code)
    assert (
        "Network is unreachable" in result.output
        or "Cannot assign requested address" in result.output
        or "Invalid argument" in result.output
    )


async def test_an_abstract_socket_of_the_host_is_out_of_reach(run: Run) -> None:
    import socket

    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"\0praxis-test-{os.getpid()}")
        server.listen()
        result = await run(
            f"import socket; socket.socket(socket.AF_UNIX).connect('\\0praxis-test-{os.getpid()}')"
        )
    assert "ConnectionRefusedError" in result.output


async def test_names_are_not_resolved(run: Run) -> None:
    assert "gaierror" in (await run("import socket; socket.getaddrinfo('example.org', 80)")).output


# -- neighbours -----------------------------------------------------------------------------------------------------


async def test_two_sandboxes_share_neither_files_nor_processes(launcher: Launcher, run: Run) -> None:
    reader, writer = os.pipe()
    script = "echo mine > /tmp/a; echo mine > /dev/shm/b; echo ready; sleep 1000"
    with await launcher.spawn(Policy(), ["sh", "-c", script], stdout=writer) as first:
        os.close(writer)
        assert await asyncio.to_thread(os.read, reader, 6) == b"ready\n"
        result = await run(["sh", "-c", "ls /tmp /dev/shm; ps ax -o args | grep -c '[s]leep 1000'"])
        assert result.output.split() == ["/dev/shm:", "/tmp:", "0"]
        if launcher.enforcement.privileged:
            uids = {os.stat(f"/proc/{first.pid}").st_uid}
            status = Path(f"/proc/{first.pid}/status").read_text()
            assert "Uid:\t0\t" not in status
            assert uids  # the init is not dumpable, so its /proc entry is root's
        first.kill()
        await first.wait()
    os.close(reader)


async def test_a_poisoned_cache_does_not_reach_the_next_job(run: Run, tmp_path) -> None:
    (tmp_path / "mod.py").write_text("print('clean')")
    policy = Policy(mounts=(Bind(tmp_path, "/code", writable=True),))
    poison = "import pathlib; pathlib.Path('/code/mod.py').write_text('print(\"poisoned\")'); import mod"
    assert (await run(poison, policy, env={"PYTHONPATH": "/code"})).output == "poisoned\n"
    assert (await run("import mod", policy, env={"PYTHONPATH": "/code"})).output == "clean\n"


async def test_endless_output_is_the_readers_to_end(launcher: Launcher) -> None:
    reader, writer = os.pipe()
    with await launcher.spawn(Policy(), ["yes"], stdout=writer) as sandbox:
        os.close(writer)
        os.read(reader, 65536)
        sandbox.kill()
        await sandbox.wait()
        await read_all(reader)
    os.close(reader)
