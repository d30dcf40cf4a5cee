"""Which system calls the work inside may make.

An allow-list: what is not named answers ENOSYS, as an older kernel would, so that libraries fall back instead
of dying (a killed unknown call breaks programs with every new libc). A short list kills the process: calls
that only an attack on the sandbox makes, worth a verdict of their own. A few answer EPERM, because programs
expect it there.

`compile_filter` turns the lists into BPF once, in the client; the launcher and its children only ever see the
bytes.
"""

from __future__ import annotations

import errno
import functools
import signal
import socket
from typing import TYPE_CHECKING

from praxis_sdk.errors import IsolationUnavailable
from praxis_sdk.sandbox import wire

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pyseccomp

# reason -> calls. The reasons are for the reader; the filter is their union.
ALLOWED: dict[str, str] = {
    "files by descriptor": """
        read write readv writev pread64 pwrite64 preadv pwritev preadv2 pwritev2 close close_range
        lseek dup dup2 dup3 flock fsync fdatasync sync_file_range ftruncate fallocate readahead
        copy_file_range sendfile splice tee vmsplice fstat fstatfs fchmod fchown fchdir getdents
        getdents64
    """,
    "files by path": """
        open openat openat2 creat access faccessat faccessat2 stat lstat newfstatat statx statfs
        readlink readlinkat truncate mkdir mkdirat rmdir unlink unlinkat rename renameat renameat2
        link linkat symlink symlinkat mknod mknodat chmod fchmodat fchmodat2 chown lchown fchownat
        utime utimes utimensat futimesat chdir getcwd umask
    """,
    "extended attributes": """
        getxattr lgetxattr fgetxattr listxattr llistxattr flistxattr setxattr lsetxattr fsetxattr
        removexattr lremovexattr fremovexattr
    """,
    "waiting and events": """
        poll ppoll select pselect6 epoll_create epoll_create1 epoll_ctl epoll_wait epoll_pwait
        epoll_pwait2 eventfd eventfd2 signalfd signalfd4 timerfd_create timerfd_settime
        timerfd_gettime pipe pipe2
    """,
    "memory": """
        brk mmap munmap mremap mprotect madvise mincore msync mlock mlock2 munlock mlockall
        munlockall memfd_create membarrier pkey_alloc pkey_free pkey_mprotect mbind set_mempolicy
        get_mempolicy map_shadow_stack mseal process_mrelease
    """,
    "processes and threads": """
        fork vfork execve execveat exit exit_group wait4 waitid pidfd_open getpid getppid gettid
        getpgid getpgrp setpgid getsid setsid set_tid_address set_robust_list get_robust_list futex
        futex_waitv futex_wait futex_wake futex_requeue rseq arch_prctl sched_yield
        sched_getaffinity sched_setaffinity
        sched_getparam sched_getscheduler sched_setparam sched_setscheduler sched_getattr
        sched_setattr sched_get_priority_max sched_get_priority_min sched_rr_get_interval
        getpriority setpriority ioprio_get ioprio_set getcpu restart_syscall
    """,
    "signals": """
        rt_sigaction rt_sigprocmask rt_sigpending rt_sigreturn rt_sigsuspend rt_sigtimedwait
        sigaltstack pause alarm getitimer setitimer
    """,
    "time": """
        clock_gettime clock_getres clock_nanosleep nanosleep gettimeofday time times timer_create
        timer_settime timer_gettime timer_getoverrun timer_delete
    """,
    "identity (one id is mapped; changing to it is all that can succeed)": """
        getuid geteuid getgid getegid getresuid getresgid getgroups setuid setgid setreuid setregid
        setresuid setresgid setfsuid setfsgid setgroups capget capset
    """,
    "limits and information": """
        getrlimit setrlimit prlimit64 getrusage uname sysinfo getrandom
    """,
    "sockets (the network namespace is empty)": """
        socketpair bind listen accept accept4 connect getsockname getpeername sendto recvfrom
        sendmsg recvmsg sendmmsg recvmmsg shutdown getsockopt
    """,
    "System V and POSIX queues (own IPC namespace)": """
        shmget shmat shmdt shmctl semget semop semtimedop semctl msgget msgsnd msgrcv msgctl mq_open
        mq_unlink mq_timedsend mq_timedreceive mq_getsetattr
    """,
    "sandboxes of its own (they only ever take away)": """
        seccomp landlock_create_ruleset landlock_add_rule landlock_restrict_self
    """,
}

# Nobody calls these by accident: they are attempts to reach out of the sandbox.
KILLED: dict[str, str] = {
    "look into or take over other processes": "ptrace process_vm_readv process_vm_writev kcmp pidfd_getfd",
    "change what is mounted": """
        mount umount2 pivot_root fsopen fsconfig fsmount fspick open_tree move_mount mount_setattr
    """,
    "new namespaces": "unshare setns",
    "run code in the kernel": """
        bpf init_module finit_module delete_module kexec_load kexec_file_load create_module
    """,
    "the machine itself": "reboot swapon swapoff acct quotactl quotactl_fd iopl ioperm",
    "open files by handle, past every mount": "open_by_handle_at",
}

# Programs try these and cope with a refusal.
REFUSED: dict[str, str] = {
    "keyrings are not namespaced": "add_key request_key keyctl",
    "the clock is the host's": "settimeofday clock_settime clock_settime64 clock_adjtime adjtimex stime",
    "kernel attack surface": """
        perf_event_open userfaultfd syslog lookup_dcookie name_to_handle_at fanotify_init modify_ldt
    """,
    "needs privileges that nobody inside has": """
        chroot sethostname setdomainname vhangup move_pages migrate_pages
    """,
}

_CLONE_NAMESPACES = (0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000)
_SOCKET_FAMILIES = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6)
# Whatever belongs to the type, TCP and UDP; the others are code of the kernel that nobody inside needs.
_PROTOCOLS: tuple[int, ...] = (0, int(socket.IPPROTO_TCP), int(socket.IPPROTO_UDP))
# Linux, Linux with UNAME26, and "which one am I"; the others change how memory is laid out or read.
_PERSONALITIES = (0x0, 0x20000, 0xFFFFFFFF)
# Both push characters into a terminal's input; only the low 32 bits count for the kernel.
_TERMINAL_INJECTION = (0x5412, 0x541C)
_LOW_32_BITS = 0xFFFFFFFF

# They act on file systems of the host, and for a job there is nothing to do: what it writes is kept in memory.
DONE_BY_DOING_NOTHING = "sync syncfs"

# What programs do with descriptors. The others reach whoever opens the same file (leases make them wait, directory
# notification tells of them) or raise signals; a kernel that lacks one of these answers EINVAL, and so does the filter.
_DESCRIPTOR_COMMANDS = (
    *range(8),  # duplicate, flags, record locks
    *(9, 11, 16),  # who gets signals: only to be read
    *range(36, 39),  # open file description locks
    *(1027, 1030),  # is it the same file; duplicate with close-on-exec
    *(1031, 1032),  # size of a pipe
    *(1033, 1034),  # seals of a memory file
    *range(1035, 1039),  # hints on the life time of what is written
)
_LEASES_NOTICES_OWNERS = (8, 10, 15, 17, *range(1024, 1027), 1028, 1029)
_DROP_FROM_CACHE = 4  # POSIX_FADV_DONTNEED: what others read, too, would have to come from the disk again
_SOCKET_LEVELS = (*map(int, (socket.SOL_SOCKET, socket.IPPROTO_IP, socket.IPPROTO_IPV6)), *_PROTOCOLS[1:])
# Programs of the kernel's own packet filter: their compiled form comes out of one budget of the whole machine.
_SOCKET_PROGRAMS = (26, 50, 51, 52)
# The kernel sends them to tell of a limit or of a forbidden call, and the verdict goes by them.
_SIGNALS_OF_THE_KERNEL = (int(signal.SIGXCPU), int(signal.SIGXFSZ), int(signal.SIGSYS))
_SENDING = {
    "kill": 1,
    "tkill": 1,
    "tgkill": 2,
    "pidfd_send_signal": 1,
    "rt_sigqueueinfo": 1,
    "rt_tgsigqueueinfo": 2,
}
_SIGNAL_AT_PARENTS_END, _SIGNAL_FOR_CALLS = 1, 59  # of prctl: PR_SET_PDEATHSIG, PR_SET_SYSCALL_USER_DISPATCH
_BEYOND_SIGNALS = 128
_SIGNAL_OF_CLONE = 0xFF


# What a zygote's children need until they are locked down; so their parent needs it, too.
FOR_BUILDING = "clone3 unshare mount umount2 move_mount mount_setattr sethostname setdomainname"


@functools.lru_cache(maxsize=2)
def compile_filter(*, building: bool = False) -> bytes:
    """Compile the lists into a BPF program for this machine's architecture.

    Args:
        building: allow also what it takes to build a sandbox (without capabilities: in a namespace of one's own).

    Returns:
        The instructions, 8 bytes each, as the kernel takes them. Calls of another architecture (32-bit, x32)
        kill.

    Raises:
        IsolationUnavailable: pyseccomp or the libseccomp library is not installed.
    """
    try:
        import pyseccomp
    except (ImportError, RuntimeError) as problem:
        raise IsolationUnavailable(
            f"the system-call filter cannot be built: {problem}",
            remedy="pip install pyseccomp, and install the library libseccomp (Debian: libseccomp2)",
        ) from problem

    rules = pyseccomp.SyscallFilter(defaction=pyseccomp.ERRNO(errno.ENOSYS))
    rules.set_attr(pyseccomp.Attr.ACT_BADARCH, pyseccomp.KILL_PROCESS)
    # A binary tree instead of a list: half the kernel's work of installing it, and of every first call.
    rules.set_attr(pyseccomp.Attr.CTL_OPTIMIZE, 2)
    exempt = frozenset(FOR_BUILDING.split()) if building else frozenset()
    for name in exempt:
        _add(rules, pyseccomp.ALLOW, name)
    for table, action in (
        (ALLOWED, pyseccomp.ALLOW),
        (KILLED, pyseccomp.KILL_PROCESS),
        (REFUSED, pyseccomp.ERRNO(errno.EPERM)),
    ):
        for names in table.values():
            for name in names.split():
                if name not in exempt:
                    _add(rules, action, name)
    _restrict_arguments(rules)
    return _export(rules)


@functools.lru_cache(maxsize=1)
def compile_closing_filter() -> bytes:
    """Compile what turns a filter that allows building into the one that does not, when installed on top of it.

    The kernel applies the stricter of the two. A dozen instructions, where the whole filter again would cost every
    child a tenth of a millisecond.
    """
    import pyseccomp

    rules = pyseccomp.SyscallFilter(defaction=pyseccomp.ALLOW)
    rules.set_attr(pyseccomp.Attr.ACT_BADARCH, pyseccomp.KILL_PROCESS)
    killed = " ".join(KILLED.values()).split()
    refused = " ".join(REFUSED.values()).split()
    for name in FOR_BUILDING.split():
        action = pyseccomp.ERRNO(errno.EPERM) if name in refused else pyseccomp.ERRNO(errno.ENOSYS)
        _add(rules, pyseccomp.KILL_PROCESS if name in killed else action, name)
    return _export(rules)


def _export(rules: pyseccomp.SyscallFilter) -> bytes:
    fd = wire.memory_file("praxis-seccomp", b"")
    with open(fd, "w+b") as file:
        rules.export_bpf(file)
        file.seek(0)
        return file.read()


def _add(rules: pyseccomp.SyscallFilter, action: int, name: str, *arguments: pyseccomp.Arg) -> None:
    """Add a rule, unless this architecture or libseccomp does not know the call (it then answers ENOSYS)."""
    import pyseccomp

    try:
        number = pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name)
    except (OSError, ValueError):
        return
    if number >= 0:
        rules.add_rule(action, number, *arguments)


def _restrict_arguments(rules: pyseccomp.SyscallFilter) -> None:
    import pyseccomp

    allow, refuse = pyseccomp.ALLOW, pyseccomp.ERRNO(errno.EPERM)
    every = sum(_CLONE_NAMESPACES)
    for number in (0, int(signal.SIGCHLD)):
        plain = pyseccomp.Arg(0, pyseccomp.MASKED_EQ, every | _SIGNAL_OF_CLONE, number)
        _add(rules, allow, "clone", plain)
    for flag in _CLONE_NAMESPACES:
        _add(rules, refuse, "clone", pyseccomp.Arg(0, pyseccomp.MASKED_EQ, flag, flag))
    # clone3 is on no list: its flags sit in memory, out of the filter's sight, and libc falls back to clone.

    for family in range(max(_SOCKET_FAMILIES) + 1):
        which = pyseccomp.Arg(0, pyseccomp.EQ, family)
        if family in (socket.AF_INET, socket.AF_INET6):
            _restrict_protocols(rules, which)
        else:
            known = family in _SOCKET_FAMILIES
            _add(rules, allow if known else pyseccomp.ERRNO(errno.EAFNOSUPPORT), "socket", which)
    beyond = pyseccomp.Arg(0, pyseccomp.GT, max(_SOCKET_FAMILIES))
    _add(rules, pyseccomp.ERRNO(errno.EAFNOSUPPORT), "socket", beyond)

    for persona in _PERSONALITIES:
        _add(rules, allow, "personality", pyseccomp.Arg(0, pyseccomp.EQ, persona))
    _allow_other_than(rules, "ioctl", 1, _TERMINAL_INJECTION, refuse)
    _restrict_what_is_shared(rules)
    _restrict_signals(rules)


def _restrict_signals(rules: pyseccomp.SyscallFilter) -> None:
    """Leave to the kernel the signals by which it tells of limits and forbidden calls."""
    import pyseccomp

    refuse, invalid = pyseccomp.ERRNO(errno.EPERM), pyseccomp.ERRNO(errno.EINVAL)
    for name, argument in _SENDING.items():
        _allow_other_than(rules, name, argument, _SIGNALS_OF_THE_KERNEL, refuse, below=_BEYOND_SIGNALS)
    special = (_SIGNAL_AT_PARENTS_END, _SIGNAL_FOR_CALLS)
    for option, size in _blocks_between(special):
        block = pyseccomp.Arg(0, pyseccomp.MASKED_EQ, _LOW_32_BITS & ~(size - 1), option)
        _add(rules, pyseccomp.ALLOW, "prctl", block)
    at_end, for_calls = (pyseccomp.Arg(0, pyseccomp.MASKED_EQ, _LOW_32_BITS, option) for option in special)
    _add(rules, invalid, "prctl", for_calls)
    _allow_other_than(rules, "prctl", 1, _SIGNALS_OF_THE_KERNEL, refuse, at_end, below=_BEYOND_SIGNALS)


def _restrict_what_is_shared(rules: pyseccomp.SyscallFilter) -> None:
    """Allow what stays within the sandbox of calls that can also act on files or budgets of the whole machine."""
    import pyseccomp

    allow, refuse = pyseccomp.ALLOW, pyseccomp.ERRNO(errno.EPERM)
    for name in DONE_BY_DOING_NOTHING.split():
        _add(rules, pyseccomp.ERRNO(0), name)
    _allow_other_than(rules, "fadvise64", 3, (_DROP_FROM_CACHE,), pyseccomp.ERRNO(0), below=8)

    for command in _DESCRIPTOR_COMMANDS:
        _add(rules, allow, "fcntl", pyseccomp.Arg(1, pyseccomp.EQ, command))
    for command in _LEASES_NOTICES_OWNERS:
        _add(rules, pyseccomp.ERRNO(errno.EINVAL), "fcntl", pyseccomp.Arg(1, pyseccomp.EQ, command))

    for level in _SOCKET_LEVELS:
        which = pyseccomp.Arg(1, pyseccomp.EQ, level)
        if level == socket.SOL_SOCKET:
            _allow_other_than(rules, "setsockopt", 2, _SOCKET_PROGRAMS, refuse, which, below=128)
        else:
            _add(rules, allow, "setsockopt", which)


def _allow_other_than(
    rules: pyseccomp.SyscallFilter,
    name: str,
    argument: int,
    excluded: Sequence[int],
    action: int,
    *others: pyseccomp.Arg,
    below: int = _LOW_32_BITS + 1,
) -> None:
    """Allow a call for every value of an argument but the excluded ones, for which `action` holds.

    What is not `below` a power of two stays unknown. Only the low half of an argument counts for the kernel. A rule
    holds one comparison per argument, so "none of these" is spelled as the blocks of numbers between them, each of
    which has its upper bits in common.
    """
    import pyseccomp

    for value in excluded:
        _add(rules, action, name, pyseccomp.Arg(argument, pyseccomp.MASKED_EQ, _LOW_32_BITS, value), *others)
    for value, size in _blocks_between(excluded, 0, below):
        mask = _LOW_32_BITS & ~(size - 1)
        _add(rules, pyseccomp.ALLOW, name, pyseccomp.Arg(argument, pyseccomp.MASKED_EQ, mask, value), *others)


def _blocks_between(
    excluded: Sequence[int], first: int = 0, size: int = _LOW_32_BITS + 1
) -> Iterator[tuple[int, int]]:
    """Yield (first number, size) of the largest aligned blocks that hold none of the excluded numbers."""
    inside = [value for value in excluded if first <= value < first + size]
    if not inside:
        yield first, size
    elif size > 1:
        yield from _blocks_between(inside, first, size // 2)
        yield from _blocks_between(inside, first + size // 2, size // 2)


def _restrict_protocols(rules: pyseccomp.SyscallFilter, family: pyseccomp.Arg) -> None:
    import pyseccomp

    refuse = pyseccomp.ERRNO(errno.EPERM)  # as of a kernel that wants a capability for it
    for protocol in range(max(_PROTOCOLS) + 1):
        action = pyseccomp.ALLOW if protocol in _PROTOCOLS else refuse
        _add(rules, action, "socket", family, pyseccomp.Arg(2, pyseccomp.EQ, protocol))
    _add(rules, refuse, "socket", family, pyseccomp.Arg(2, pyseccomp.GT, max(_PROTOCOLS)))
