"""Files of the host, of the environment and of the platform: to be read, written, locked or flooded."""

from .case import BAD_ARTIFACT, EXITS, NO_RESULT, OK, RAISES, Case, exceeds, shell

_HOST_PLACES = (
    "/etc/shadow", "/etc/machine-id", "/etc/ssh", "/root/.ssh", "/root", "/home/ubuntu", "/var/run/docker.sock",
    "/run/systemd", "/var/lib/docker", "/var/log/syslog", "/proc/1/environ", "/proc/1/root/etc", "/proc/1/cwd",
    "/proc/1/fd", "/proc/1/maps", "/proc/1/mem", "/proc/1/exe", "/proc/kcore", "/proc/kmsg", "/proc/sysrq-trigger",
    "/dev/mem", "/dev/kmem", "/dev/kmsg", "/dev/sda", "/dev/vda", "/dev/loop0", "/dev/loop-control", "/dev/fuse",
    "/dev/kvm", "/dev/tty", "/dev/ptmx", "/dev/pts/0", "/dev/net/tun", "/dev/mapper/control", "/dev/vsock",
    "/sys/fs/cgroup", "/sys/kernel", "/sys/firmware", "/boot", "/lost+found",
)  # fmt: skip


def _writes(path: str) -> Case:
    return Case(f"writing {path} is refused", f"open({path!r}, 'w').write('x')", RAISES)


CASES = [
    *(
        _writes(path)
        for path in (
            "/proc/sys/kernel/core_pattern",
            "/proc/sys/kernel/modprobe",
            "/proc/sys/kernel/hostname",
            "/proc/sys/vm/drop_caches",
            "/proc/sysrq-trigger",
            "/proc/self/uid_map",
            "/proc/self/setgroups",
            "/proc/1/mem",
            "/sys/kernel/uevent_helper",
            "/usr/bin/planted",
            "/etc/passwd",
            "/etc/ld.so.preload",
            "/dev/planted",
            "/praxis/harness.py",
            "/run/praxis/planted",
            "/planted",
        )
    ),
    Case(
        "places of the host are not there, or closed",
        "import os\n"
        "found = []\n"
        f"for path in {_HOST_PLACES!r}:\n"
        "    if path.startswith('/proc/1/') and os.getpid() == 1: continue\n"
        "    try:\n"
        "        if os.path.isdir(path):\n"
        "            if os.listdir(path): found.append(path)\n"
        "        elif open(path, 'rb').read(1): found.append(path)\n"
        "    except OSError: pass\n"
        "found",
        OK,
        outputs=[],
    ),
    Case(
        "no file outside the scratch space can be written",
        "import os\n"
        "found = []\n"
        "for root, folders, _ in os.walk('/'):\n"
        "    if root == '/': folders.remove('proc')\n"
        "    large = ('/usr/share', '/usr/lib', '/usr/include')\n"
        "    folders[:] = [name for name in folders if f'{root}/{name}' not in large]\n"
        "    own = root.startswith(('/tmp', '/workspace', '/dev/shm'))\n"
        "    if not own and os.access(root, os.W_OK): found.append(root)\n"
        "found",
        OK,
        outputs=[],
    ),
    Case(
        "nothing that can be read holds the executor's secret",
        "import glob, os\n"
        "print(dict(os.environ))\n"
        "for pattern in ('/proc/*/environ', '/proc/*/cmdline', '/proc/*/task/*/environ', '/tmp/*', '/dev/shm/*',\n"
        "                '/run/**', '/home/**', '/opt/**', '/mnt/**', '/var/tmp/*', '/proc/keys', '/proc/key-users',\n"
        "                '/praxis/*.json', '/workspace/.praxis/*'):\n"
        "    for path in glob.glob(pattern, recursive=True):\n"
        "        try: print(path, open(path, 'rb').read(2000))\n"
        "        except OSError: pass\n"
        "print(os.listdir('/'))",
        OK,
        lacks=("planted-", "secret.txt"),
    ),
    Case(
        "the environment of the executor is not the job's",
        "import os\n"
        "sorted(set(os.environ) & {'PRAXIS_PLANTED_SECRET', 'PYTEST_CURRENT_TEST', 'USER', 'LOGNAME'})",
        OK,
        outputs=[],
    ),
    Case("writing to the environment is refused", "import sys; open(sys.prefix + '/evil.py', 'w')", RAISES),
    Case(
        "writing to the interpreter's library is refused",
        "import json; open(json.__file__, 'a').write('evil')",
        RAISES,
    ),
    Case(
        "changing modes or times of shared files is refused",
        "import os, sys\n"
        "for act in (lambda p: os.chmod(p, 0o777), lambda p: os.utime(p), lambda p: os.chown(p, 1000, 1000),\n"
        "            lambda p: os.setxattr(p, 'user.x', b'1'), lambda p: os.unlink(p), lambda p: os.truncate(p, 0),\n"
        "            lambda p: os.rename(p, p + '2')):\n"
        "    for path in (sys.prefix + '/pyvenv.cfg', '/praxis/harness.py', '/usr/bin/env', '/etc/passwd'):\n"
        "        try: act(path)\n"
        "        except OSError: continue\n"
        "        raise SystemExit('it worked on ' + path)\n"
        "9",
        OK,
        outputs=9,
    ),
    Case(
        "a read-only mount cannot be written through a link of /proc",
        "import os, sys\n"
        "fd = os.open(sys.prefix + '/pyvenv.cfg', os.O_RDONLY)\n"
        "open(f'/proc/self/fd/{fd}', 'a').write('evil')",
        RAISES,
    ),
    Case(
        "the harness cannot be patched through its memory file",
        "import ctypes, os\n"
        "target = ctypes.create_string_buffer(b'before')\n"
        "with open('/proc/self/mem', 'r+b', buffering=0) as memory:\n"
        "    memory.seek(ctypes.addressof(target)); memory.write(b'after!')\n"
        "target.value.decode()",
        (OK, RAISES),
        outputs="after!",
    ),
    Case(
        "the harness can be patched through its frames, and no trust is gained",
        "import sys\n"
        "frame = sys._getframe()\n"
        "while frame:\n"
        "    for name in ('outcome', 'failure', 'refusal', 'told', 'report'):\n"
        "        if name in frame.f_globals: frame.f_globals[name] = lambda *_: {'value': 'forged'}\n"
        "    frame = frame.f_back\n"
        "raise ValueError('x')",
        (NO_RESULT, EXITS),
    ),
    Case(
        "what the zygote's frames and objects hold is nothing of the host",
        "import gc, sys\n"
        "frame = sys._getframe()\n"
        "while frame:\n"
        "    for name, value in {**frame.f_globals, **frame.f_locals}.items():\n"
        "        if name != 'frame': print(frame.f_code.co_name, name, repr(value)[:200])\n"
        "    frame = frame.f_back\n"
        "for one in gc.get_objects():\n"
        "    for text in gc.get_referents(one):\n"
        "        if isinstance(text, (str, bytes)) and len(text) < 2000 and '/' in repr(text): print(repr(text))",
        OK,
        limits={"stdout_bytes": 16 << 20},
        lacks=("secret.txt", "PRAXIS_PLANTED_SECRET"),
    ),
    Case(
        "climbing out by .. leads to the sandbox's own root",
        "import os\nos.chdir('/'); os.chdir('../../../../../..'); sorted(os.listdir('.')) == sorted(os.listdir('/'))",
        OK,
        outputs=True,
    ),
    Case(
        "climbing out by a descriptor of the root leads nowhere",
        "import os\n"
        "fd = os.open('/', os.O_RDONLY); os.fchdir(fd); os.chdir('..')\n"
        "os.stat('.').st_ino == os.stat('/').st_ino",
        OK,
        outputs=True,
    ),
    Case(
        "set-user-id programs have no power",
        shell("su -c id root </dev/null; mount -t tmpfs x /tmp; grep NoNewPrivs /proc/self/status"),
        OK,
        says="NoNewPrivs:\t1",
    ),
    Case(
        "a chmod of a copied shell makes no root",
        shell("cp /bin/sh /tmp/sh && chmod 4755 /tmp/sh && /tmp/sh -p -c 'id -u'"),
        OK,
        says="1000",
    ),
    Case(
        "a path of eighty thousand characters is no artifact",
        "import os\nfor _ in range(400): os.mkdir('d' * 200); os.chdir('d' * 200)\nlen(os.getcwd())",
        (BAD_ARTIFACT, RAISES),
    ),
    Case(
        "a file over its size by a hole ends at the file size",
        "import os\nf = open('a', 'wb'); f.seek(2**40); f.write(b'x'); f.flush()",
        exceeds("file_size_bytes"),
        as_process_1=RAISES,
    ),
]
