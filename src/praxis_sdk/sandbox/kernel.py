"""The system calls that the sandbox needs and the standard library lacks.

Thin bindings over libc: one function per call, an `OSError` that names the call when it fails, no policy.
Runs inside the launcher, so it imports nothing heavy and nothing of Praxis.

Source of the constants: the kernel's uapi headers (sched.h, mount.h, openat2.h, capability.h, prctl.h).
System calls from number 424 up have one number on every architecture; older ones go through libc or a table.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import signal
import struct
from itertools import repeat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import NoReturn

CLONE_NEWTIME = 0x00000080
CLONE_PIDFD = 0x00001000
CLONE_PARENT = 0x00008000
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
CLONE_INTO_CGROUP = 0x200000000

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x40000
MS_SLAVE = 0x80000
MNT_DETACH = 2

MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_NOSUID = 0x2
MOUNT_ATTR_NODEV = 0x4
MOUNT_ATTR_NOEXEC = 0x8
MOUNT_ATTR_IDMAP = 0x100000

OPEN_TREE_CLONE = 0x1
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000
MOVE_MOUNT_F_EMPTY_PATH = 0x4

RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08

AT_FDCWD = -100

# One instruction, BPF_RET | SECCOMP_RET_ALLOW: asks whether filters work, and filters nothing.
SECCOMP_ALLOW_ALL = struct.pack("=HBBI", 0x06, 0, 0, 0x7FFF0000)

_CLONE_CHILD_CLEARTID = 0x00200000
_CLONE_CHILD_SETTID = 0x01000000
_PR_GET_TID_ADDRESS = 40
_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_SECCOMP = 22
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_SECCOMP_MODE_FILTER = 2
_CAPABILITY_HEADER = struct.pack("=Ii", 0x20080522, 0)
_NO_CAPABILITIES = bytes(24)
_SIGCHLD = int(signal.SIGCHLD)

_SYS_OPEN_TREE = 428
_SYS_MOVE_MOUNT = 429
_SYS_CLONE3 = 435
_SYS_CLOSE_RANGE = 436
_SYS_OPENAT2 = 437
_SYS_MOUNT_SETATTR = 442
_SYS_LANDLOCK_CREATE_RULESET = 444
_LANDLOCK_CREATE_RULESET_VERSION = 1
_SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41, "riscv64": 41, "ppc64le": 203, "s390x": 217}
_SYS_KEYCTL = {"x86_64": 250, "aarch64": 219, "riscv64": 219, "ppc64le": 271, "s390x": 280}
_KEYCTL_JOIN_SESSION_KEYRING = 1

# Below the enumerations of `signal`, which cost a fresh child fifty page faults.
_signal = importlib.import_module("_signal")
_libc = ctypes.CDLL(None, use_errno=True)
# clone3 must not drop the interpreter lock: the child would come back without a thread that owns it.
_libc_locked = ctypes.PyDLL(None, use_errno=True)
# Looked up here, once, and not in every child: a fork forgets what it resolves.
for _name in ("syscall", "unshare", "setns", "mount", "umount2", "capset", "sethostname", "setdomainname"):
    getattr(_libc, _name)
_libc.mount.argtypes = (
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_ulong,
    ctypes.c_char_p,
)
_libc.prctl.argtypes = (ctypes.c_int, *[ctypes.c_ulong] * 4)
_machine = os.uname().machine


def _find_tid_address() -> int:
    """Return where the C library keeps the number of this thread; 0 when the kernel does not say."""
    address = ctypes.c_ulong(0)
    found = _libc.prctl(_PR_GET_TID_ADDRESS, ctypes.addressof(address), 0, 0, 0) == 0
    return address.value if found else 0


_tid_address = _find_tid_address()


def _check(result: int, what: str) -> int:
    if result < 0:
        _fail(what)
    return result


def _fail(what: str) -> NoReturn:
    code = ctypes.get_errno()
    raise OSError(code, f"{what}: {os.strerror(code)}")


def _syscall(name: str, number: int, *arguments: object) -> int:
    return _check(_libc.syscall(ctypes.c_long(number), *arguments), name)


class _CloneArgs(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_uint64)
        for name in (
            "flags",
            "pidfd",
            "child_tid",
            "parent_tid",
            "exit_signal",
            "stack",
            "stack_size",
            "tls",
            "set_tid",
            "set_tid_size",
            "cgroup",
        )
    ]


# Made once and used again: there is one thread, and whoever forks often pays for every object that it makes.
_clone_pidfd = ctypes.c_int(-1)
_clone_arguments = _CloneArgs(pidfd=ctypes.addressof(_clone_pidfd), child_tid=_tid_address)
_clone_address = ctypes.c_void_p(ctypes.addressof(_clone_arguments))
_CLONE_SIZE = ctypes.c_size_t(ctypes.sizeof(_clone_arguments))
_CLONE_ALWAYS = CLONE_PIDFD | (_CLONE_CHILD_SETTID | _CLONE_CHILD_CLEARTID if _tid_address else 0)
_clone3 = _libc_locked.syscall
_clone3.argtypes = (ctypes.c_long, ctypes.c_void_p, ctypes.c_size_t)
_clone3.restype = ctypes.c_long


def clone3(flags: int, cgroup_fd: int | None = None) -> tuple[int, int]:
    """Fork this single-threaded process into new namespaces.

    What the interpreter does around a fork is for the sake of other threads, which the caller says there are none of:
    their locks, their states. Left out, a child costs half a millisecond and two hundred page faults less. Handlers of
    `os.register_at_fork` do not run.

    Args:
        flags: CLONE_NEW* bits; CLONE_PARENT makes a sibling: its parent is ours, which also reaps it.
        cgroup_fd: directory of the cgroup v2 group in which the child starts; None for the caller's own.

    Returns:
        (0, -1) in the child; (pid, pidfd) in the parent. The pidfd is close-on-exec.

    Raises:
        OSError: the kernel refused.
    """
    arguments = _clone_arguments
    # A sibling's exit signal is that of its creator; the kernel insists that none is named.
    arguments.exit_signal = 0 if flags & CLONE_PARENT else _SIGCHLD
    if cgroup_fd is not None:
        flags |= CLONE_INTO_CGROUP
        arguments.cgroup = cgroup_fd
    # The C library remembers the thread's number, for locks and for raise(3); its own fork does the same.
    arguments.flags = flags | _CLONE_ALWAYS
    result = _clone3(_SYS_CLONE3, _clone_address, _CLONE_SIZE)
    if result == 0:
        return 0, -1
    return _check(result, "clone3"), _clone_pidfd.value


def unshare(flags: int) -> None:
    """Move this process into new namespaces (CLONE_NEW* bits)."""
    _check(_libc.unshare(flags), "unshare")


def setns(fd: int, kind: int) -> None:
    """Enter the namespace behind `fd`; `kind` is its CLONE_NEW* bit."""
    _check(_libc.setns(fd, kind), "setns")


def mount(source: str, target: str, kind: str | None, flags: int, options: str = "") -> None:
    """Mount something, as mount(2); raises OSError that names the target."""
    path = target.encode("utf-8", "surrogateescape")
    if _libc.mount(source.encode(), path, kind and kind.encode(), flags, options.encode() or None):
        _fail(f"mount {kind or 'bind'} on {target}")


def umount_detached(target: str) -> None:
    """Detach the mount at `target` now; the kernel frees it when its last user is gone."""
    _check(_libc.umount2(os.fsencode(target), MNT_DETACH), f"umount {target}")


def pivot_root_here() -> None:
    """Make the current directory the root and detach the old root (pivot_root(2), the "." "." way)."""
    _syscall("pivot_root", _SYS_PIVOT_ROOT[_machine], b".", b".")
    umount_detached(".")
    os.chdir("/")


def open_tree(path_fd: int, *, recursive: bool) -> int:
    """Clone the mount behind `path_fd` into a detached mount; returns its descriptor."""
    flags = OPEN_TREE_CLONE | AT_EMPTY_PATH | os.O_CLOEXEC | (AT_RECURSIVE if recursive else 0)
    return _syscall("open_tree", _SYS_OPEN_TREE, path_fd, b"", ctypes.c_uint(flags))


def move_mount(tree_fd: int, target: str) -> None:
    """Attach the detached mount behind `tree_fd` at `target`."""
    _syscall(
        f"move_mount to {target}",
        _SYS_MOVE_MOUNT,
        tree_fd,
        b"",
        AT_FDCWD,
        os.fsencode(target),
        ctypes.c_uint(MOVE_MOUNT_F_EMPTY_PATH),
    )


def mount_setattr(
    where: int | str, attributes: int, *, recursive: bool, user_namespace_fd: int | None = None
) -> None:
    """Add MOUNT_ATTR_* to a mount.

    Args:
        where: descriptor of a detached mount, or a path.
        attributes: MOUNT_ATTR_* bits to set.
        recursive: also for every mount below.
        user_namespace_fd: the namespace whose id map a MOUNT_ATTR_IDMAP uses.
    """
    record = struct.pack("=QQQQ", attributes, 0, 0, user_namespace_fd or 0)
    fd, path = (where, b"") if isinstance(where, int) else (AT_FDCWD, os.fsencode(where))
    flags = (AT_RECURSIVE if recursive else 0) | (AT_EMPTY_PATH if isinstance(where, int) else 0)
    size = ctypes.c_size_t(len(record))
    _syscall("mount_setattr", _SYS_MOUNT_SETATTR, fd, path, ctypes.c_uint(flags), record, size)


def openat2(directory_fd: int, path: str, flags: int, resolve: int) -> int:
    """Open `path` by RESOLVE_* rules, as openat2(2); the descriptor is close-on-exec."""
    how = struct.pack("=QQQ", flags | os.O_CLOEXEC, 0, resolve)
    size = ctypes.c_size_t(len(how))
    return _syscall(f"openat2 {path}", _SYS_OPENAT2, directory_fd, os.fsencode(path), how, size)


def close_range(first: int, last: int = 0xFFFFFFFF) -> None:
    """Close every descriptor from `first` to `last`, both included."""
    _syscall("close_range", _SYS_CLOSE_RANGE, ctypes.c_uint(first), ctypes.c_uint(last), 0)


def _prctl(name: str, option: int, second: int = 0, third: int = 0) -> int:
    return _check(_libc.prctl(option, second, third, 0, 0), name)


def block_signals(numbers: tuple[int, ...]) -> None:
    """Block exactly these signals, none others."""
    _signal.pthread_sigmask(int(signal.SIG_SETMASK), numbers)


def handle_signal(number: int, handler: Callable[[int, FrameType | None], object] | int) -> None:
    """Set a handler, as signal.signal."""
    _signal.signal(number, handler)


def die_with_parent() -> None:
    """Have the kernel SIGKILL this process when its parent dies (cleared by a later change of ids)."""
    _prctl("PR_SET_PDEATHSIG", _PR_SET_PDEATHSIG, 9)


def set_dumpable(value: bool) -> None:
    """Say whether others of the same user may look into this process through ptrace and /proc."""
    _prctl("PR_SET_DUMPABLE", _PR_SET_DUMPABLE, int(value))


def no_new_privileges() -> None:
    """Make set-user-id bits and file capabilities powerless for this process and its descendants."""
    _prctl("PR_SET_NO_NEW_PRIVS", _PR_SET_NO_NEW_PRIVS, 1)


def drop_capabilities(last: int) -> None:
    """Empty the bounding, ambient, inheritable, permitted and effective sets.

    Args:
        last: the highest capability the kernel knows (/proc/sys/kernel/cap_last_cap).
    """
    empty_bounding_set(last)
    empty_capability_sets()


def empty_bounding_set(last: int) -> None:
    """Make every capability up to `last` unobtainable; needs CAP_SETPCAP."""
    # One loop below the interpreter: two score of calls in every sandbox.
    calls = map(_libc.prctl, repeat(_PR_CAPBSET_DROP), range(last + 1), repeat(0), repeat(0), repeat(0))
    if any(calls):
        _fail("PR_CAPBSET_DROP")


def empty_capability_sets() -> None:
    """Empty the ambient, inheritable, permitted and effective sets."""
    _prctl("PR_CAP_AMBIENT", _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    _check(_libc.capset(_CAPABILITY_HEADER, _NO_CAPABILITIES), "capset")


class _FilterProgram(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p)]


def install_seccomp(program: bytes) -> None:
    """Install a compiled BPF filter for this process and everything it starts (no_new_privs must be set)."""
    _prctl("PR_SET_SECCOMP", _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, prepare_seccomp(program))


def prepare_seccomp(program: bytes) -> int:
    """Return the address of a filter in the form that the kernel takes, made once for all that inherit this memory."""
    if program not in _programs:
        buffer = ctypes.create_string_buffer(program, len(program))
        record = _FilterProgram(len(program) // 8, ctypes.addressof(buffer))
        _programs[program] = (ctypes.addressof(record), record, buffer)
    return _programs[program][0]


_programs: dict[bytes, tuple[int, object, object]] = {}


def join_new_session_keyring() -> None:
    """Leave the login session's keyring, so that no child can possess a key of the host."""
    number = _SYS_KEYCTL.get(_machine)
    if number is not None:
        _syscall("keyctl", number, _KEYCTL_JOIN_SESSION_KEYRING, None)


def set_hostname(name: str) -> None:
    """Name this UTS namespace; its domain becomes "(none)"."""
    encoded = name.encode()
    _check(_libc.sethostname(encoded, ctypes.c_size_t(len(encoded))), "sethostname")
    _check(_libc.setdomainname(b"(none)", ctypes.c_size_t(6)), "setdomainname")


def landlock_version() -> int | None:
    """Return the kernel's Landlock ABI version; None when it has none."""
    try:
        return _syscall(
            "landlock",
            _SYS_LANDLOCK_CREATE_RULESET,
            None,
            ctypes.c_size_t(0),
            ctypes.c_uint(_LANDLOCK_CREATE_RULESET_VERSION),
        )
    except OSError:
        return None
