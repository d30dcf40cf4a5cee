"""An executor under attack, and the proof that nothing of a job is left.

`Laboratory.survives` runs a hostile job and then checks the after-conditions of every case: no process, mount,
control group, descriptor or temporary file is left, the executor has not grown, the very next job succeeds in
an untouched sandbox, and the result holds nothing of the host.

Processes are counted as descendants: the test process adopts orphans (PR_SET_CHILD_SUBREAPER), so whatever
escaped from a sandbox or its launcher would be found here. Its own children are the executor's helpers (launchers,
and what they keep ready).
"""

import asyncio
import contextlib
import ctypes
import itertools
import os
import secrets
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from praxis_sdk.jobs.artifacts import ArtifactStore
from praxis_sdk.jobs.environments.content import delete_tree
from praxis_sdk.jobs.environments.store import EnvironmentStore
from praxis_sdk.jobs.executor.executor import JobExecutor
from praxis_sdk.jobs.executor.result import JobResult
from praxis_sdk.jobs.executor.results import ResultStore
from praxis_sdk.jobs.payload.payload import parse_payload
from praxis_sdk.sandbox.host import features as host

from .case import BAD_ARTIFACT, LIMITS, MIB, Case, Verdict

CHECKOUT = Path(__file__).resolve().parents[2]
WARMING_JOBS = 8
# Of the groups of ended jobs some are kept for the next ones: a bounded number, however many jobs there were.
MAX_IDLE_GROUPS = 128
SETTLING_JOBS = 10
HELPER_GROWTH_KIB = 4096
NOTICED_WITHIN_S = 5.0
CPU_NOTICED_WITHIN_S = 1.0
_PR_SET_CHILD_SUBREAPER = 36
_HARMLESS = "\n\t"
_ACTING = {"Cc", "Cf", "Cs", "Zl", "Zp"}

# The job that must succeed after every other: it looks for what its predecessor may have left, and reports it.
NEXT_JOB = """
import os
left = [f"{folder}/{name}" for folder in (".", "/tmp", "/dev/shm") for name in os.listdir(folder)]
others = [pid for pid in os.listdir("/proc") if pid.isdigit() and int(pid) not in (1, os.getpid())]
[sorted(left), others, sorted(set(os.environ) & {"POISON", "LD_PRELOAD", "PYTHONPATH"})]
"""
CLEAN = [["./.praxis", "./job.py"], [], []]


@dataclass(frozen=True)
class Census:
    """What exists while no job runs."""

    processes: int
    helpers: int
    descriptors: Counter[str]
    helper_descriptors: int
    helper_mounts: int
    helper_kib: int
    host_mounts: int
    groups: int
    idle_groups: int
    temporary_files: int

    def highest(self, other: "Census") -> "Census":
        """The larger of each."""
        pairs = {name: (getattr(self, name), getattr(other, name)) for name in Census.__dataclass_fields__}
        return Census(
            **{name: a | b if name == "descriptors" else max(a, b) for name, (a, b) in pairs.items()}
        )

    def excess(self, baseline: "Census") -> dict[str, Any]:
        """What there is more of than before."""
        found: dict[str, Any] = {}
        for name in Census.__dataclass_fields__:
            before, now = getattr(baseline, name), getattr(self, name)
            if name == "descriptors":
                if now - before:
                    found[name] = dict(now - before)
            elif now > before + (HELPER_GROWTH_KIB if name == "helper_kib" else 0):
                found[name] = (before, now)
        return found


class Laboratory:
    """A Praxis home with the environment `base`, and an executor on it whose process holds secrets."""

    def __init__(self, home: Path, temporary: Path) -> None:
        self.home = home
        self.temporary = temporary
        self.environments = EnvironmentStore(home)
        self.artifacts = ArtifactStore.open(home / "artifacts")
        self.executor = JobExecutor(self.artifacts, self.environments, ResultStore(home))
        self.secret = f"planted-{secrets.token_hex(16)}"
        self._numbers = itertools.count(1)
        self._baseline: Census | None = None
        self._helpers: set[int] = set()
        self.cgroups = self.own_ids = self.process_1 = self.version_1 = False

    # -- life -------------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Plant the secrets, build the environment, and learn what an idle executor holds."""
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self.temporary.mkdir()
        tempfile.tempdir = str(self.temporary)
        os.environ["PRAXIS_PLANTED_SECRET"] = self.secret
        (self.home / "secret.txt").write_text(self.secret)
        (self.home / "secret.txt").chmod(0o644)
        await asyncio.to_thread(self.environments.ensure, "base")
        await self.next_job()
        seen = self.census()
        # What an executor keeps ready is complete after some jobs, not after the first.
        for _ in range(WARMING_JOBS):
            await self.next_job()
            seen = seen.highest(self.census())
        self._baseline = seen
        self._helpers = children()
        available = {feature.name for feature in await asyncio.to_thread(host.features) if feature.available}
        self.cgroups = {"cgroup-memory", "cgroup-pids"} <= available
        self.own_ids = "host-ids" in available
        self.version_1 = " cgroup " in Path("/proc/self/mountinfo").read_text()
        self.process_1 = (await self.run(code="import os; os.getpid()")).outputs == 1

    async def close(self) -> None:
        """End the executor: not one process, group, mount or temporary file may be left."""
        helpers = children()
        await self.executor.close()
        tempfile.tempdir = None
        os.environ.pop("PRAXIS_PLANTED_SECRET", None)
        assert list(descendants()) == []
        assert groups_of(helpers) == []
        assert sandbox_mounts(self.home) == 0
        assert list(self.temporary.iterdir()) == []
        environment = self.environments.get("base")
        assert self.environments.verify(environment) == ()
        delete_tree(self.environments.folder)  # read-only, so that pytest itself could not

    # -- jobs -------------------------------------------------------------------------------------------------------

    async def run(self, **fields: Any) -> JobResult:
        """Run a job by its payload's fields."""
        head = {"schema_version": "1.0", "job_id": self.job_id(), "runtime": "python", "fresh": True}
        payload = parse_payload({**head, "limits": dict(LIMITS), **fields})
        return await self.executor.run(payload, on_progress=lambda _: None)

    async def next_job(self, **limits: Any) -> None:
        """The very next job succeeds, and finds nothing of the one before it."""
        result = await self.run(code=NEXT_JOB, limits={**LIMITS, **limits})
        assert (result.status, result.outputs) == ("completed", CLEAN), brief(result)

    async def survives(self, case: Case) -> JobResult:
        """Run a hostile job; check the verdict and all after-conditions."""
        resident_before = reset_peak_kib()
        payload = parse_payload(case.payload(self.job_id()))
        result = await self.executor.run(payload, on_progress=lambda _: None)
        growth_kib = peak_kib() - resident_before
        self.check_verdict(case, result)
        self.check_nothing_of_the_host(result)
        await self.check_artifacts(result)
        assert growth_kib < case.growth_mib * 1024, f"the executor grew by {growth_kib} KiB"
        await self.nothing_is_left()
        return result

    def job_id(self) -> str:
        return f"job-{next(self._numbers)}"

    # -- what must hold ---------------------------------------------------------------------------------------------

    def check_verdict(self, case: Case, result: JobResult) -> None:
        expected = case.verdicts(cgroups=self.cgroups, own_ids=self.own_ids, process_1=self.process_1)
        shown = brief(result)
        failure = result.failure
        assert failure is None or failure.category != "INTERNAL_ERROR", shown
        found = Verdict(
            "",
            str(result.status),
            None if failure is None else str(failure.category),
            None if failure is None else failure.code,
            result.limit,
        )
        plain = [Verdict("", one.status, one.category, one.code, one.limit) for one in expected]
        assert found in plain, (found, shown)
        said = result.stdout.text + result.stderr.text + (failure.message if failure else "")
        assert case.says in said, shown
        for text in case.lacks:
            assert text not in result.model_dump_json(), shown
        if case.outputs is not None and found.status == "completed":
            assert result.outputs == case.outputs, shown
        if case.artifacts is not None and found.status == "completed" and expected[0] is not BAD_ARTIFACT:
            assert tuple(one.name for one in result.artifacts) == case.artifacts, shown
        reasons = [one.reason for one in result.rejected_artifacts]
        if case.rejected and expected[0] is BAD_ARTIFACT:
            assert any(case.rejected in reason for reason in reasons), shown
        refused = {use.host for use in result.network if not use.allowed}
        assert set(case.audited) <= refused, shown
        self.check_bounds(result, limits={**LIMITS, **case.limits})

    def check_bounds(self, result: JobResult, limits: dict[str, Any]) -> None:
        """No limit is overrun by more than the time that it takes to notice, on a busy machine."""
        # What is no UTF-8 takes three bytes when it has been replaced.
        assert len(result.stdout.text.encode()) <= 3 * limits["stdout_bytes"]
        assert len(result.stderr.text.encode()) <= 3 * limits["stderr_bytes"]
        assert len(result.rejected_artifacts) <= 100
        assert result.usage.wall_s <= limits["wall_s"] + NOTICED_WITHIN_S
        assert (result.usage.cpu_s or 0) <= limits["cpu_s"] + CPU_NOTICED_WITHIN_S or not self.cgroups
        assert result.usage.artifact_count <= limits["artifact_count"]
        assert result.usage.artifact_total_bytes <= limits["artifact_total_bytes"]
        if self.cgroups:
            assert (result.usage.peak_memory_bytes or 0) <= limits["memory_bytes"] + MIB
        if result.failure is not None:
            assert len(result.failure.message.encode()) <= 2000
            assert len((result.failure.traceback or "").encode()) <= 16_000

    def check_nothing_of_the_host(self, result: JobResult) -> None:
        """No secret, name or path of this host anywhere; no bytes that act in what Praxis itself says."""
        everything = result.model_dump_json()
        assert self.secret not in everything
        name = os.uname().nodename
        if len(name) > 4:
            assert name not in everything
        assert str(CHECKOUT) not in everything
        assert str(self.home) not in everything
        said = [one.name + one.reason for one in result.rejected_artifacts]
        if result.failure is not None:
            said += [result.failure.message, result.failure.traceback or ""]
        for text in said:
            acting = [c for c in text if c not in _HARMLESS and unicodedata.category(c) in _ACTING]
            assert acting == [], text

    async def check_artifacts(self, result: JobResult) -> None:
        """What was stored is what the result says."""
        for artifact in result.artifacts:
            assert await self.artifacts.verify(artifact.digest) == artifact.size_bytes

    async def nothing_is_left(self) -> None:
        """After the next job, the executor holds no more than before any hostile one."""
        assert self._baseline is not None
        excess = await self.settled(self._baseline)
        assert excess == {}, excess
        assert self._helpers <= children(), "a helper of the executor died"

    async def settled(self, baseline: Census) -> dict[str, Any]:
        """Run the next job, and some more where needed; returns what there is then more of than before."""
        excess: dict[str, Any] = {}
        # The kernel takes down the last of a dead sandbox in its own time; each turn is an honest job.
        for _ in range(SETTLING_JOBS):
            await self.next_job()
            excess = self.census().excess(baseline)
            if not excess:
                break
            # On a busy machine more sandboxes are kept ready. Two jobs of another shape make it start over.
            for scratch_bytes in (LIMITS["scratch_bytes"] // 2,) * 2 + (LIMITS["scratch_bytes"],) * 2:
                await self.next_job(scratch_bytes=scratch_bytes)
        return excess

    def census(self) -> Census:
        """Count what this executor and its launcher hold."""
        helpers = children()
        return Census(
            processes=len(list(descendants())),
            helpers=len(helpers),
            descriptors=own_descriptors(),
            helper_descriptors=sum(descriptors_of(pid) for pid in helpers),
            helper_mounts=sum(sandbox_mounts(self.home, pid) for pid in helpers),
            helper_kib=sum(private_kib(pid) for pid in helpers),
            host_mounts=sandbox_mounts(self.home),
            groups=len(populated(groups_of(helpers))),
            idle_groups=max(MAX_IDLE_GROUPS, len(groups_of(helpers))),
            temporary_files=sum(len(files) + len(folders) for _, folders, files in os.walk(self.temporary)),
        )


def brief(result: JobResult) -> dict[str, Any]:
    """What a person needs in order to see why a case failed."""
    return {
        "failure": result.failure and result.failure.message[:300],
        "exit_code": result.exit_code,
        "outputs": str(result.outputs)[:300],
        "artifacts": [one.name for one in result.artifacts],
        "rejected": [one.reason for one in result.rejected_artifacts[:3]],
        "stdout": result.stdout.text[:300],
        "stderr": result.stderr.text[-300:],
        "usage": result.usage.model_dump(include={"wall_s", "cpu_s", "files", "peak_memory_bytes"}),
    }


def children() -> set[int]:
    """The direct children of this process."""
    tasks = Path("/proc/self/task").iterdir()
    return {int(pid) for task in tasks for pid in (task / "children").read_text().split()}


def descendants() -> Iterator[int]:
    """Every process that descends from this one."""
    parents: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                stat = Path(f"/proc/{entry}/stat").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue
            parents.setdefault(int(stat.rsplit(")", 1)[1].split()[1]), []).append(int(entry))
    waiting = [os.getpid()]
    while waiting:
        for child in parents.get(waiting.pop(), []):
            yield child
            waiting.append(child)


def descriptors_of(pid: int) -> int:
    """How many files a helper holds open; none where the kernel does not say, as of one that is changing its ids."""
    with contextlib.suppress(PermissionError, FileNotFoundError):
        return len(os.listdir(f"/proc/{pid}/fd"))
    return 0


def own_descriptors() -> Counter[str]:
    """The kinds of what this process has open: files by name, the others by type."""
    found: Counter[str] = Counter()
    for fd in os.listdir("/proc/self/fd"):
        try:
            found[os.readlink(f"/proc/self/fd/{fd}").split(":[")[0]] += 1
        except FileNotFoundError:  # the descriptor of the listing itself
            continue
    return found - Counter([f"/proc/{os.getpid()}/fd"])


def groups_of(launchers: set[int]) -> list[str]:
    """The control groups that launchers made."""
    mounts = [
        line.split(" ")[4]
        for line in Path("/proc/self/mountinfo").read_text().splitlines()
        if " - cgroup" in line
    ]
    marks = tuple(f"-{pid}-" for pid in launchers)
    return [
        path
        for mount in mounts
        for path, _, _ in os.walk(mount)
        if any(part.startswith("praxis-") and any(mark in part for mark in marks) for part in path.split("/"))
    ]


def populated(groups: list[str]) -> list[str]:
    """Those of some control groups that hold processes."""
    found = []
    for group in groups:
        with contextlib.suppress(OSError):
            if Path(group, "cgroup.procs").read_text():
                found.append(group)
    return found


def sandbox_mounts(home: Path, pid: int | str = "self") -> int:
    """Mounts that a process sees and that only a sandbox could have made; others come and go on a host."""
    lines = Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
    return sum(
        any(name in line for name in (" praxis-root ", " scratch ", " zygote ", str(home))) for line in lines
    )


def private_kib(pid: int | str = "self") -> int:
    """Memory of a process that no file stands behind; what does comes and goes with the page cache."""
    return _status_kib(pid, "RssAnon")


def resident_kib(pid: int | str = "self") -> int:
    return _status_kib(pid, "VmRSS")


def peak_kib() -> int:
    return _status_kib("self", "VmHWM")


def reset_peak_kib() -> int:
    """Forget the highest memory use so far; returns the present one."""
    Path("/proc/self/clear_refs").write_text("5")
    return resident_kib()


def _status_kib(pid: int | str, name: str) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith(f"{name}:")))
