"""System calls that reach for the kernel or for others. Numbers are resolved for this machine."""

from .case import CALL, EXITS, KILLED, OK, RAISES, VIOLATES, X86_64, Case, calls, number, shell

# name -> arguments. Nobody makes these calls by accident: each ends the job.
_VIOLATIONS = {
    "ptrace": "16, 1, 0, 0",
    "process_vm_readv": "1, None, 0, None, 0, 0",
    "process_vm_writev": "1, None, 0, None, 0, 0",
    "kcmp": "1, os.getpid(), 0, 0, 0",
    "pidfd_getfd": "os.pidfd_open(1), 0, 0",
    "mount": "b'x', b'/tmp', b'tmpfs', 0, None",
    "umount2": "b'/proc', 2",
    "pivot_root": "b'/tmp', b'/tmp'",
    "fsopen": "b'tmpfs', 0",
    "fsconfig": "-1, 6, None, None, 0",
    "fsmount": "-1, 0, 0",
    "fspick": "-100, b'/', 0",
    "open_tree": "-100, b'/', 1",
    "move_mount": "-100, b'/tmp', -100, b'/usr', 0",
    "mount_setattr": "-100, b'/usr', 0x8000, b'\\0' * 32, 32",
    "unshare": "0x10000000",
    "setns": "os.open('/proc/self/ns/user', 0), 0",
    "bpf": "0, b'\\0' * 128, 128",
    "init_module": "b'', 0, b''",
    "finit_module": "0, b'', 0",
    "delete_module": "b'ext4', 0",
    "kexec_load": "0, 0, None, 0",
    "kexec_file_load": "-1, -1, 0, None, 0",
    "reboot": "0xfee1dead, 672274793, 0x1234567, None",
    "swapon": "b'/tmp/x', 0",
    "swapoff": "b'/tmp/x'",
    "acct": "b'/tmp/x'",
    "quotactl": "0, None, 0, None",
    "quotactl_fd": "-1, 0, 0, None",
    "open_by_handle_at": "-100, b'\\0' * 16, 0",
}
if X86_64:
    _VIOLATIONS |= {"iopl": "3", "ioperm": "0x378, 1, 1"}

# name -> arguments, answer. Programs try these and cope.
_REFUSALS = {
    "keyctl": ("0, -3, 1", "EPERM"),
    "add_key": ("b'user', b'x', b'y', 1, -3", "EPERM"),
    "request_key": ("b'user', b'x', None, -3", "EPERM"),
    "io_uring_setup": ("8, b'\\0' * 120", "ENOSYS"),
    "io_uring_enter": ("0, 0, 0, 0, None, 0", "ENOSYS"),
    "io_uring_register": ("0, 0, None, 0", "ENOSYS"),
    "userfaultfd": ("0", "EPERM"),
    "perf_event_open": ("b'\\0' * 128, 0, -1, -1, 0", "EPERM"),
    "syslog": ("3, ctypes.create_string_buffer(64), 64", "EPERM"),
    "name_to_handle_at": ("-100, b'/usr', b'\\x80' + b'\\0' * 200, ctypes.byref(ctypes.c_int()), 0", "EPERM"),
    "fanotify_init": ("0, 0", "EPERM"),
    "fanotify_mark": ("-1, 1, 1, -100, b'/'", "ENOSYS"),
    "clone3": ("b'\\0' * 88, 88", "ENOSYS"),
    "chroot": ("b'/tmp'", "EPERM"),
    "sethostname": ("b'evil', 4", "EPERM"),
    "setdomainname": ("b'evil', 4", "EPERM"),
    "vhangup": ("", "EPERM"),
    "move_pages": ("1, 0, None, None, None, 0", "EPERM"),
    "migrate_pages": ("1, 0, None, None", "EPERM"),
    "process_madvise": ("-1, None, 0, 0, 0", "ENOSYS"),
    "statmount": ("None, None, 0, 0", "ENOSYS"),
    "listmount": ("None, None, 0, 0", "ENOSYS"),
    "personality": ("0x0040000", "ENOSYS"),
    "inotify_init": ("", "ENOSYS"),
    "inotify_add_watch": ("-1, b'/usr', 0xFFF", "ENOSYS"),
    "mq_notify": ("0, None", "ENOSYS"),
    "cachestat": ("0, None, None, 0", "ENOSYS"),
}
if not X86_64:
    del _REFUSALS["inotify_init"]

# What is told of whoever opens the same file, or makes it wait; and what raises signals of any number.
_DESCRIPTOR_COMMANDS = {
    "a write lease": (1024, 1), "a read lease": (1024, 0), "a notice of what happens in a folder": (1026, 0x8000003F),
    "an owner of signals": (8, 1), "an owner of signals by kind": (15, 0), "a signal of its choice": (10, 31),
}  # fmt: skip
_OPENED = {
    "its own file": "os.open('own', os.O_CREAT | os.O_RDWR)",
    "a program of the host": "os.open('/usr/bin/env', os.O_RDONLY)",
    "a folder of the host": "os.open('/usr/bin', os.O_RDONLY)",
}
_FORGING = {
    "kill": "os.kill(os.getpid(), {number})",
    "kill of a child": "pid = os.fork() or signal.pause(); os.kill(pid, {number})",
    "raise": "signal.raise_signal({number})",
    "a thread": "signal.pthread_kill(threading.get_ident(), {number})",
    "a pidfd": "signal.pidfd_send_signal(os.pidfd_open(os.getpid()), {number})",
    "a queue": "call({queue}, os.getpid(), {number}, struct.pack('iii', {number}, 0, -1).ljust(128, b'\\0'))",
    "the end of a parent": "call({prctl}, 1, {number}, 0, 0, 0)",
    "high bits": "call({kill}, os.getpid(), ctypes.c_ulong(0x700000000 + {number}))",
}
_KERNELS_SIGNALS = {"SIGXCPU": 24, "SIGXFSZ": 25, "SIGSYS": 31}
_NUMBERS = {"queue": number("rt_sigqueueinfo"), "prctl": number("prctl"), "kill": number("kill")}

# flags of clone with SIGCHLD -> namespace
_NAMESPACES = {
    0x10000000: "user", 0x40000000: "network", 0x20000000: "process", 0x00020000: "mount", 0x08000000: "ipc",
    0x04000000: "host name", 0x02000000: "cgroup",
}  # fmt: skip

_MACHINE_CODE = """
import ctypes, mmap
def run(code):
    memory = mmap.mmap(-1, 4096, prot=7)
    memory.write(code)
    return ctypes.CFUNCTYPE(ctypes.c_long)(ctypes.addressof(ctypes.c_char.from_buffer(memory)))()
"""

CASES = [
    *(
        Case(f"{name} is a violation", calls(name, arguments), VIOLATES)
        for name, arguments in _VIOLATIONS.items()
    ),
    *(
        Case(f"{name} is refused", calls(name, arguments), RAISES, says=answer)
        for name, (arguments, answer) in _REFUSALS.items()
    ),
    *(
        Case(
            f"a new {space} namespace by clone is refused",
            calls("clone", f"{flag | 17}, 0, 0, 0, 0"),
            RAISES,
            says="EPERM",
        )
        for flag, space in _NAMESPACES.items()
    ),
    *(
        Case(
            f"a mount of {kind} is a violation", calls("mount", f"b'x', b'/tmp', b'{kind}', 0, b''"), VIOLATES
        )
        for kind in ("cgroup", "cgroup2", "overlay", "fuse", "proc", "sysfs", "devpts", "bpf", "nfs")
    ),
    # -- what reaches others through files ------------------------------------------------------------------------
    *(
        Case(
            f"{what} on {opened} is not to be had",
            f"{CALL}\ncall({number('fcntl')}, {opening}, {command}, {argument})",
            RAISES,
            says="EINVAL",
        )
        for what, (command, argument) in _DESCRIPTOR_COMMANDS.items()
        for opened, opening in _OPENED.items()
    ),
    Case(
        "a lease asked for with high bits is not to be had",
        f"{CALL}\ncall({number('fcntl')}, os.open('own', os.O_CREAT | os.O_RDWR), ctypes.c_ulong(1024 + 2**32), 1)",
        RAISES,
    ),
    Case(
        "locks, flags, copies and sizes of descriptors are to be had",
        "import fcntl, os\n"
        "fd = os.open('own', os.O_CREAT | os.O_RDWR)\n"
        "fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB); fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
        "os.set_blocking(fd, False); os.set_inheritable(fd, True)\n"
        "r, w = os.pipe()\n"
        "memory = os.memfd_create('x', os.MFD_ALLOW_SEALING); fcntl.fcntl(memory, fcntl.F_ADD_SEALS, 1)\n"
        "[fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 50) >= 50, fcntl.fcntl(r, fcntl.F_GETPIPE_SZ) > 0, "
        "fcntl.fcntl(fd, fcntl.F_GETOWN), fcntl.fcntl(memory, fcntl.F_GET_SEALS)]",
        OK,
        outputs=[True, True, 0, 1],
    ),
    Case(
        "the disks of the host are not written back, and its cache is not emptied, for a job",
        "import os\n"
        "usr = os.open('/usr/bin/env', os.O_RDONLY)\n"
        "os.sync(); os.posix_fadvise(usr, 0, 0, os.POSIX_FADV_DONTNEED)\n"
        "os.posix_fadvise(usr, 0, 0, os.POSIX_FADV_SEQUENTIAL); 3",
        OK,
        outputs=3,
    ),
    *(
        Case(
            f"a packet filter on a socket ({option}) is refused",
            f"import socket\nsocket.socketpair()[0].setsockopt(1, {option}, bytes(16))",
            RAISES,
            says="PermissionError",
        )
        for option in (26, 50, 51, 52)
    ),
    # -- signals of the kernel --------------------------------------------------------------------------------------
    *(
        Case(
            f"{name} by {way} forges no verdict",
            f"{CALL}\nimport signal, struct, threading\n" + act.format(number=value, **_NUMBERS),
            RAISES,
            says="EPERM" if "call" in act else "PermissionError",
        )
        for name, value in _KERNELS_SIGNALS.items()
        for way, act in _FORGING.items()
    ),
    *(
        Case(f"a program that sends itself {name} is no victim of a limit", shell(f"kill -{value} $$"), EXITS)
        for name, value in _KERNELS_SIGNALS.items()
    ),
    Case(
        "a signal at the end of a process of another sort than its own is not to be had",
        calls("clone", "31, 0, 0, 0, 0"),
        RAISES,
        says="ENOSYS",
    ),
    Case(
        "signals for calls of its choice are not to be had",
        calls("prctl", "59, 1, 0, 0, 0"),
        RAISES,
        says="EINVAL",
    ),
    # -- what else leads to a namespace -----------------------------------------------------------------------------
    *(
        Case(
            f"entering a {name} namespace is a violation",
            f"{CALL}\ncall({number('setns')}, os.open('/proc/self/ns/{name}', 0), 0)",
            VIOLATES,
        )
        for name in ("mnt", "pid", "net", "cgroup")
    ),
    Case(
        "the init's namespaces cannot be opened",
        "import os\n"
        "for name in os.listdir('/proc/self/ns') if os.getpid() != 1 else ():\n"
        "    try: os.open(f'/proc/1/ns/{name}', 0)\n"
        "    except OSError: continue\n"
        "    raise SystemExit(name)\n"
        "1",
        OK,
        outputs=1,
    ),
    Case(
        "release agents are out of reach",
        "import os; os.makedirs('/sys/fs/cgroup/rdma/x')",
        RAISES,
    ),
    # -- terminals and ioctls ---------------------------------------------------------------------------------------
    *(
        Case(
            f"pushing characters into a terminal ({name}) is refused",
            calls("ioctl", f"0, ctypes.c_ulong({request}), b'x'"),
            RAISES,
            says="EPERM",
        )
        for name, request in (
            ("TIOCSTI", 0x5412),
            ("TIOCSTI with high bits", 0xDEAD00005412),
            ("TIOCLINUX", 0x541C),
            ("TIOCLINUX with high bits", 0x10000541C),
        )
    ),
    Case("a terminal cannot be made", "import os; os.openpty()", RAISES),
    Case("a loop device cannot be made", "open('/dev/loop-control', 'rb')", RAISES),
    # -- filters ----------------------------------------------------------------------------------------------------
    Case(
        "a filter of its own that allows all takes nothing back",
        f"{CALL}\nimport struct\n"
        "program = ctypes.create_string_buffer(struct.pack('HBBI', 6, 0, 0, 0x7fff0000))\n"
        "header = struct.pack('HxxxxxxQ', 1, ctypes.addressof(program))\n"
        f"call({number('seccomp')}, 1, 0, header)\ncall({number('ptrace')}, 0, 0, 0, 0)",
        VIOLATES,
    ),
    Case(
        "a listener of its own cannot answer for the sandbox's filter",
        f"{CALL}\nimport struct\n"
        "program = ctypes.create_string_buffer(struct.pack('HBBI', 6, 0, 0, 0x7fff0000))\n"
        "header = struct.pack('HxxxxxxQ', 1, ctypes.addressof(program))\n"
        f"listener = call({number('seccomp')}, 1, 8, header)\ncall({number('unshare')}, 0x10000000)",
        VIOLATES,
    ),
    Case(
        "the sandbox's filter cannot be exchanged for the strict one",
        f"{CALL}\n[libc.prctl(22, 1, 0, 0, 0), libc.prctl(22, 0, 0, 0, 0), libc.prctl(21, 0, 0, 0, 0)]",
        OK,
        outputs=[-1, -1, 2],
    ),
    # -- programs without a name ------------------------------------------------------------------------------------
    Case(
        "a program in a memory file is a program like others",
        "import os\n"
        "fd = os.memfd_create('x'); os.write(fd, open('/usr/bin/id', 'rb').read())\n"
        "pid = os.fork()\n"
        "if pid == 0: os.execve(fd, ['id', '-u'], {})\n"
        "os.waitpid(pid, 0)[1]",
        OK,
        says="1000",
    ),
    Case(
        "a program that it wrote is a program like others",
        "import os, shutil, subprocess\n"
        "shutil.copy('/usr/bin/id', 'mine')\nsubprocess.check_output(['./mine', '-u'], text=True).strip()",
        OK,
        outputs="1000",
    ),
]

if X86_64:
    CASES += [
        Case("a call of x32 is a violation", f"{CALL}\ncall(0x40000000 + 39)", VIOLATES),
        Case(
            "a 32-bit call is a violation",
            # mov eax, 20 (getpid); int 0x80; ret
            f"{_MACHINE_CODE}\nprint('did it', run(bytes.fromhex('b814000000cd80c3')))",
            VIOLATES,
        ),
        Case(
            "the old call page is only a page",
            # mov rax, 0xffffffffff600400 (time); xor edi, edi; call rax; ret
            f"{_MACHINE_CODE}\nprint(run(bytes.fromhex('48b80004 60ffffffffff 31ff ffd0 c3'.replace(' ', ''))) > 0)",
            (OK, KILLED, VIOLATES),
        ),
        Case(
            "port input and output is a crash of its own",
            # mov dx, 0x80; in al, dx; ret
            f"{_MACHINE_CODE}\nrun(bytes.fromhex('66ba8000ecc3'))",
            KILLED,
        ),
        Case(
            "changing the layout of memory segments does no harm",
            calls("modify_ldt", "0, ctypes.create_string_buffer(64), 64"),
            (OK, RAISES),
        ),
    ]
