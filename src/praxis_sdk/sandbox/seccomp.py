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
import socket
from typing import TYPE_CHECKING

from praxis_sdk.errors import IsolationUnavailable
from praxis_sdk.sandbox import wire

if TYPE_CHECKING:
    import pyseccomp

# reason -> calls. The reasons are for the reader; the filter is their union.
ALLOWED: dict[str, str] = {
    "files by descriptor": """
        read write readv writev pread64 pwrite64 preadv pwritev preadv2 pwritev2 close close_range
        lseek dup dup2 dup3 fcntl flock fsync fdatasync sync_file_range syncfs sync ftruncate
        fallocate fadvise64 readahead copy_file_range sendfile splice tee vmsplice fstat fstatfs
        fchmod fchown fchdir getdents getdents64 cachestat
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
        timerfd_gettime inotify_init inotify_init1 inotify_add_watch inotify_rm_watch pipe pipe2
    """,
    "memory": """
        brk mmap munmap mremap mprotect madvise mincore msync mlock mlock2 munlock mlockall
        munlockall memfd_create membarrier pkey_alloc pkey_free pkey_mprotect mbind set_mempolicy
        get_mempolicy map_shadow_stack mseal process_mrelease
    """,
    "processes and threads": """
        fork vfork execve execveat exit exit_group wait4 waitid kill tkill tgkill pidfd_open
        pidfd_send_signal getpid getppid gettid getpgid getpgrp setpgid getsid setsid
        set_tid_address set_robust_list get_robust_list futex futex_waitv futex_wait futex_wake
        futex_requeue rseq arch_prctl prctl sched_yield sched_getaffinity sched_setaffinity
        sched_getparam sched_getscheduler sched_setparam sched_setscheduler sched_getattr
        sched_setattr sched_get_priority_max sched_get_priority_min sched_rr_get_interval
        getpriority setpriority ioprio_get ioprio_set getcpu restart_syscall
    """,
    "signals": """
        rt_sigaction rt_sigprocmask rt_sigpending rt_sigreturn rt_sigsuspend rt_sigtimedwait
        rt_sigqueueinfo rt_tgsigqueueinfo sigaltstack pause alarm getitimer setitimer
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
        sendmsg recvmsg sendmmsg recvmmsg shutdown setsockopt getsockopt
    """,
    "System V and POSIX queues (own IPC namespace)": """
        shmget shmat shmdt shmctl semget semop semtimedop semctl msgget msgsnd msgrcv msgctl mq_open
        mq_unlink mq_timedsend mq_timedreceive mq_notify mq_getsetattr
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
_PROTOCOLS = (0, int(socket.IPPROTO_TCP), int(socket.IPPROTO_UDP))
# Linux, Linux with UNAME26, and "which one am I"; the others change how memory is laid out or read.
_PERSONALITIES = (0x0, 0x20000, 0xFFFFFFFF)
# Both push characters into a terminal's input; only the low 32 bits count for the kernel.
_TERMINAL_INJECTION = (0x5412, 0x541C)
_LOW_32_BITS = 0xFFFFFFFF


# What a zygote's children need until they are locked down; so their parent needs it, too.
FOR_BUILDING = "clone3 mount umount2 move_mount mount_setattr sethostname setdomainname"


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
    _add(rules, allow, "clone", pyseccomp.Arg(0, pyseccomp.MASKED_EQ, every, 0))
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
    for request in _TERMINAL_INJECTION:
        _add(rules, refuse, "ioctl", pyseccomp.Arg(1, pyseccomp.MASKED_EQ, _LOW_32_BITS, request))
    _allow_other_ioctls(rules)


def _restrict_protocols(rules: pyseccomp.SyscallFilter, family: pyseccomp.Arg) -> None:
    import pyseccomp

    refuse = pyseccomp.ERRNO(errno.EPERM)  # as of a kernel that wants a capability for it
    for protocol in range(max(_PROTOCOLS) + 1):
        action = pyseccomp.ALLOW if protocol in _PROTOCOLS else refuse
        _add(rules, action, "socket", family, pyseccomp.Arg(2, pyseccomp.EQ, protocol))
    _add(rules, refuse, "socket", family, pyseccomp.Arg(2, pyseccomp.GT, max(_PROTOCOLS)))


def _allow_other_ioctls(rules: pyseccomp.SyscallFilter) -> None:
    """Allow ioctl for every request but the injecting ones.

    One comparison per argument is all that a rule may hold, so "not one of these" is spelled as: any 32-bit
    request that differs from them in at least one bit.
    """
    import pyseccomp

    first, second = _TERMINAL_INJECTION
    common = ~(first ^ second) & _LOW_32_BITS
    for bit in range(32):
        mask = 1 << bit
        if common & mask:
            # Differs from both in a bit that they share.
            _add(rules, pyseccomp.ALLOW, "ioctl", pyseccomp.Arg(1, pyseccomp.MASKED_EQ, mask, ~first & mask))
    differing = [1 << bit for bit in range(32) if not common & (1 << bit)]
    mask = sum(differing)
    for choice in range(1 << len(differing)):
        value = sum(flag for index, flag in enumerate(differing) if choice & (1 << index))
        if value not in (first & mask, second & mask):
            _add(rules, pyseccomp.ALLOW, "ioctl", pyseccomp.Arg(1, pyseccomp.MASKED_EQ, mask, value))
