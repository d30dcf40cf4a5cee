"""One hostile job as data: the work, what must become of it, and what may differ without control groups."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

KIB = 1 << 10
MIB = 1 << 20

# Small, so that whoever runs into one does so at once.
LIMITS: Mapping[str, Any] = {
    "wall_s": 30,
    "cpu_s": 4,
    "memory_bytes": 128 * MIB,
    "processes": 32,
    "file_size_bytes": 8 * MIB,
    "files": 2000,
    "scratch_bytes": 32 * MIB,
    "stdout_bytes": 64 * KIB,
    "stderr_bytes": 64 * KIB,
    "outputs_bytes": 64 * KIB,
    "artifact_count": 8,
    "artifact_total_bytes": 16 * MIB,
}


@dataclass(frozen=True)
class Verdict:
    """How a job ends.

    Args:
        letter: of the list of hostile cases: OK, U(ser error), R(esource limit), S(andbox violation), V (rejected
            at collection or validation).
        status: the result's.
        category: of the failure; None for OK.
        code: of the failure.
        limit: by its name in the payload, for R.
    """

    letter: str
    status: str
    category: str | None = None
    code: str | None = None
    limit: str | None = None


OK = Verdict("OK", "completed")
RAISES = Verdict("U", "failed", "USER_CODE_ERROR", "exception")
EXITS = Verdict("U", "failed", "USER_CODE_ERROR", "exit_nonzero")
NO_RESULT = Verdict("U", "failed", "USER_CODE_ERROR", "no_result")
KILLED = Verdict("U", "failed", "USER_CODE_ERROR", "killed_by_signal")
MISSING = Verdict("U", "failed", "DEPENDENCY_ERROR", "dependency_missing")
VIOLATES = Verdict("S", "failed", "SANDBOX_VIOLATION", "forbidden_system_call")
BAD_VALUE = Verdict("V", "failed", "USER_CODE_ERROR", "bad_value")
BAD_RESULT = Verdict("V", "failed", "USER_CODE_ERROR", "invalid_result")
BAD_ARTIFACT = Verdict(
    "V", "completed"
)  # the job did well; what cannot be an artifact is rejected with a note
TIMED_OUT = Verdict("R", "timed_out", "RESOURCE_LIMIT", "wall_clock_exceeded", "wall_s")


def exceeds(limit: str) -> Verdict:
    """The verdict on a job that a limit ended."""
    word = {"cpu_s": "cpu_time"}.get(limit, limit.removesuffix("_bytes"))
    return Verdict("R", "failed", "RESOURCE_LIMIT", f"{word}_exceeded", limit)


@dataclass(frozen=True)
class Case:
    """A hostile job.

    Args:
        name: the outcome in words.
        work: Python code; or fields of a payload.
        ends: the verdict; several where a race decides between them.
        limits: beside `LIMITS`.
        says: what the job's own output, or its failure's message, must hold.
        lacks: what no field of the result may hold.
        outputs: what it returns, for OK; not looked at when None.
        artifacts: their names; not looked at when None.
        rejected: part of the reason for which something was rejected.
        without_cgroups: the verdict where no control group counts all processes together.
        as_caller: the verdict where the sandbox has no host ids of its own, so that the executor is no more
            privileged than the job when it reads what the job left.
        as_process_1: the verdict where the job is process 1 of its sandbox (forked from a zygote): to that one, the
            kernel delivers no signal from inside whose action would be to end or to stop it.
        audited: hosts that the result must say were asked for and refused.
        growth_mib: most that the executor may grow meanwhile.
    """

    name: str
    work: str | Mapping[str, Any]
    ends: Verdict | tuple[Verdict, ...] = OK
    limits: Mapping[str, Any] = field(default_factory=dict)
    says: str = ""
    lacks: tuple[str, ...] = ()
    outputs: Any = None
    artifacts: tuple[str, ...] | None = None
    rejected: str = ""
    without_cgroups: Verdict | tuple[Verdict, ...] | None = None
    as_caller: Verdict | None = None
    as_process_1: Verdict | tuple[Verdict, ...] | None = None
    audited: tuple[str, ...] = ()
    growth_mib: int = 48

    def payload(self, job_id: str) -> dict[str, Any]:
        """The payload, as values of JSON."""
        work = {"code": self.work} if isinstance(self.work, str) else dict(self.work)
        limits = {**LIMITS, **self.limits}
        head = {"schema_version": "1.0", "job_id": job_id, "runtime": "python", "fresh": True}
        return {**head, "limits": limits, **work}

    def verdicts(self, *, cgroups: bool, own_ids: bool, process_1: bool) -> tuple[Verdict, ...]:
        """The acceptable verdicts on this host."""
        expected: Verdict | tuple[Verdict, ...] = self.ends
        if process_1 and self.as_process_1 is not None:
            expected = self.as_process_1
        if not cgroups and self.without_cgroups is not None:
            expected = self.without_cgroups
        if not own_ids and self.as_caller is not None:
            expected = self.as_caller
        return expected if isinstance(expected, tuple) else (expected,)


def shell(script: str) -> dict[str, Any]:
    """A job of the runtime `command`."""
    return {"runtime": "command", "command": ["sh", "-c", script]}


# What libseccomp may be too old to know; the numbers are the same on every architecture.
_YOUNG_CALLS = {
    "pidfd_send_signal": 424, "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427,
    "open_tree": 428, "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433,
    "pidfd_open": 434, "clone3": 435, "pidfd_getfd": 438, "process_madvise": 440, "mount_setattr": 442,
    "quotactl_fd": 443, "memfd_secret": 447, "statmount": 457, "listmount": 458, "lsm_get_self_attr": 459,
}  # fmt: skip


def number(name: str) -> int:
    """The number of a system call on this machine."""
    import pyseccomp

    known = int(pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name))
    return known if known >= 0 else _YOUNG_CALLS[name]


# What hostile code begins with: makes a system call by number; a refusal is an exception like any other.
CALL = """
import ctypes, errno, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
def call(number, *arguments):
    result = libc.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), errno.errorcode[ctypes.get_errno()])
    return result
"""


def calls(name: str, arguments: str = "") -> str:
    """Code that makes one system call."""
    return f"{CALL}\nprint('did it', call({number(name)}{', ' if arguments else ''}{arguments}))"


X86_64 = os.uname().machine == "x86_64"
