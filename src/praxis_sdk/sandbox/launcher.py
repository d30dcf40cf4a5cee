"""The launcher process: makes sandboxes on request and watches over them until they are gone.

One per engine, started clean (no environment, no site packages, none of the client's memory), single-threaded, so that
it may fork. It answers the client's requests on one socket:

    start(id, limits, mounts, workdir) + command, stdin, stdout, stderr
        -> started(id, targets) + pidfd, one directory per target
        -> exited(id, status, usage, events)            exactly one of the last two ends every request
        -> failed(id, stage, errno, message)

The command (argv, environment, directory) is a memory file that goes from the client to the init; the launcher never
reads it. When the client's socket closes, the launcher kills what is left and exits; when it dies itself, the kernel
kills every init.
"""

from __future__ import annotations

import errno
import gc
import os
import select
import signal
import socket
import sys
import time
from collections import deque

from praxis_sdk.sandbox import baseroot, mounts, wire
from praxis_sdk.sandbox.nursery import Child, Nursery

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

MAX_SANDBOXES = 4096
CPU_CHECK_FLOOR_S = 0.05
_NEVER = float("inf")


class StartError(Exception):
    """A request cannot be carried out.

    Args:
        stage: what was being done.
        number: errno, or 0.
        message: one line.
        by_host: True when the host or Praxis is at fault, False when the request is.
    """

    def __init__(self, stage: str, number: int, message: str, *, by_host: bool = True) -> None:
        super().__init__(message)
        self.stage = stage
        self.number = number
        self.by_host = by_host


class Job:
    """One request that has a child: what the launcher knows of it."""

    __slots__ = (
        "check_at",
        "child",
        "cpu_exceeded",
        "failure",
        "heard_all",
        "key",
        "limits",
        "report",
        "started_at",
    )

    def __init__(self, key: int, limits: dict[str, Any], child: Child, started_at: float) -> None:
        self.key = key
        self.limits = limits
        self.child = child
        self.report: dict[str, Any] = {}
        self.failure: list[Any] | None = None
        self.cpu_exceeded = False
        self.heard_all = False
        self.started_at = started_at
        self.check_at = _NEVER


class Launcher:
    """The event loop and everything that it owns."""

    def __init__(self, client: socket.socket) -> None:
        self._client = client
        self._jobs: dict[int, Job] = {}
        self._by_fd: dict[int, Job] = {}
        self._outbox: deque[tuple[bytes, list[int]]] = deque()
        self._epoll = select.epoll()
        self._closing = False

    def greet(self) -> None:
        """Take the client's settings, prepare this process, and answer what it can enforce."""
        received = wire.receive(self._client)
        if received is None:
            raise SystemExit(0)
        (filter_fd,) = received[1]
        try:
            self._nursery = Nursery(wire.read_memory_file(filter_fd))
            self._nursery.prove()  # before anybody relies on it
        except OSError as problem:
            message = {
                "event": "failed",
                "stage": "start",
                "errno": problem.errno or 0,
                "message": str(problem),
            }
            wire.send(self._client, wire.encode(message))
            raise SystemExit(1) from problem
        ready = {
            "event": "ready",
            "privileged": self._nursery.privileged,
            "cgroup_version": self._nursery.place.version,
            "controllers": list(self._nursery.place.controllers),
            "path": baseroot.tool_path(),
        }
        wire.send(self._client, wire.encode(ready))
        self._client.setblocking(False)
        self._epoll.register(self._client.fileno(), select.EPOLLIN)

    def serve(self) -> None:
        """Serve until the client is gone and the last sandbox is, too."""
        while not (self._closing and not self._jobs):
            self._turn()
        self._nursery.close()

    def _turn(self) -> None:
        next_check = min((job.check_at for job in self._jobs.values()), default=_NEVER)
        timeout = -1.0 if next_check == _NEVER else max(0.0, next_check - time.monotonic())
        for fd, mask in self._epoll.poll(timeout):
            if fd == self._client.fileno():
                if mask & select.EPOLLOUT:
                    self._flush()
                if mask & ~select.EPOLLOUT:
                    self._read_request()
            elif (job := self._by_fd.get(fd)) is not None:
                if fd == job.child.pidfd:
                    self._finish(job)
                else:
                    self._hear(job)
        now = time.monotonic()
        for job in list(self._jobs.values()):
            if job.check_at <= now:
                self._check_cpu(job, now)
        self._nursery.tidy()

    # -- the client -------------------------------------------------------------------------------------------------

    def _read_request(self) -> None:
        if self._closing:
            return
        try:
            received = wire.receive(self._client)
        except BlockingIOError:
            return
        if received is None:
            self._hang_up()
            return
        request, descriptors = received
        try:
            self._start(request, descriptors)
        except StartError as problem:
            self._reply(
                {
                    "event": "failed",
                    "id": request["id"],
                    "stage": problem.stage,
                    "errno": problem.number,
                    "message": str(problem),
                    "by_host": problem.by_host,
                }
            )
        finally:
            wire.close_all(descriptors)

    def _hang_up(self) -> None:
        """The client is gone: end everything that it started."""
        self._closing = True
        self._epoll.unregister(self._client.fileno())
        for _, descriptors in self._outbox:
            wire.close_all(descriptors)
        self._outbox.clear()
        for job in self._jobs.values():
            job.child.kill()

    def _reply(self, message: dict[str, Any], descriptors: list[int] | None = None) -> None:
        """Queue a reply; `descriptors` are closed once they are on their way."""
        if self._closing:
            wire.close_all(descriptors or [])
            return
        self._outbox.append((wire.encode(message), descriptors or []))
        if len(self._outbox) == 1:
            self._flush()

    def _flush(self) -> None:
        while self._outbox:
            payload, descriptors = self._outbox[0]
            try:
                wire.send(self._client, payload, descriptors)
            except BlockingIOError:
                self._epoll.modify(self._client.fileno(), select.EPOLLIN | select.EPOLLOUT)
                return
            except OSError:
                return  # the client is gone; the read side will say so
            self._outbox.popleft()
            wire.close_all(descriptors)
        self._epoll.modify(self._client.fileno(), select.EPOLLIN)

    # -- one sandbox ------------------------------------------------------------------------------------------------

    def _start(self, request: dict[str, Any], descriptors: list[int]) -> None:
        """Give a waiting init its order, and have the next one made meanwhile."""
        started_at = time.monotonic()
        if len(self._jobs) >= MAX_SANDBOXES:
            raise StartError("start", errno.EAGAIN, f"{MAX_SANDBOXES} sandboxes are alive already")
        if len(descriptors) != 4:
            raise StartError(
                "start", 0, f"{len(descriptors)} descriptors instead of command and standard streams"
            )
        plan: mounts.Plan | None = None
        child: Child | None = None
        try:
            plan = mounts.lay_out(request["mounts"], request["workdir"])
            points = tuple(plan.root_points)
            child = self._nursery.take(points)
            mounts.clone_sources(plan, child.host_id, child.host_id, self._nursery.idmaps)
            if child.group is not None:
                child.group.limit(request["limits"], child.pid)
            records, trees = plan.describe()
            order = wire.encode({"limits": request["limits"], "mounts": records})
            try:
                wire.send(child.channel, order, [*descriptors, *trees])
            except BrokenPipeError:
                self._nursery.hear_of_birth(child)  # says why it is dead
                raise
        except (mounts.MountError, OSError) as problem:
            if child is not None:
                self._nursery.bury(child)
            if isinstance(problem, mounts.MountError):
                raise StartError("mounts", 0, str(problem), by_host=problem.by_host) from problem
            raise StartError("start", problem.errno or 0, str(problem)) from problem
        finally:
            if plan is not None:
                plan.close()
        self._watch(Job(request["id"], request["limits"], child, started_at))
        self._nursery.refill(points)

    def _watch(self, job: Job) -> None:
        self._jobs[job.key] = job
        for fd in (job.child.pidfd, job.child.channel.fileno()):
            self._by_fd[fd] = job
            self._epoll.register(fd, select.EPOLLIN)
        if job.child.group is not None and job.child.group.cpu_seconds() is not None:
            job.check_at = job.started_at + self._soonest_exhaustion(job, 0.0)

    def _hear(self, job: Job) -> None:
        """Take what the init has to say: ready (with directories), failed, or its report on the tool."""
        while not job.heard_all:
            try:
                received = wire.receive(job.child.channel)
            except (BlockingIOError, wire.WireError):
                return
            if received is None:
                self._forget(job.child.channel.fileno())
                job.heard_all = True
                return
            message, descriptors = received
            if "ready" in message:
                started = {
                    "event": "started",
                    "id": job.key,
                    "pid": job.child.pid,
                    "targets": message["ready"],
                }
                self._reply(started, [os.dup(job.child.pidfd), *descriptors])
            elif "failed" in message:
                job.failure = message["failed"]
            elif "settled" not in message:
                job.report = message

    def _finish(self, job: Job) -> None:
        """The init is dead, and with it every process of the sandbox: account for it and tell the client."""
        self._hear(job)
        if not job.heard_all:
            self._forget(job.child.channel.fileno())
        self._forget(job.child.pidfd)
        del self._jobs[job.key]
        wall_seconds = time.monotonic() - job.started_at
        group = job.child.group
        counted: dict[str, Any] = {"events": {}}
        if group is not None:
            counted = {
                "events": group.events(),
                "cpu_seconds": group.cpu_seconds(),
                "peak_memory_bytes": group.peak_memory_bytes(),
            }
        status, usage = self._nursery.bury(job.child)
        if job.failure is not None:
            stage, number, text = job.failure
            failed = {"event": "failed", "id": job.key, "stage": stage, "errno": number, "message": text}
            self._reply({**failed, "by_host": True})
            return
        measured = {
            "cpu_seconds": usage.ru_utime + usage.ru_stime,
            "peak_memory_bytes": usage.ru_maxrss * 1024,
        }
        self._reply(
            {
                "event": "exited",
                "id": job.key,
                "init_status": status,
                "wall_seconds": wall_seconds,
                "cpu_exceeded": job.cpu_exceeded,
                **measured,
                **{name: value for name, value in counted.items() if value is not None},
                **job.report,
            }
        )

    def _forget(self, fd: int) -> None:
        """Stop watching a descriptor, before it is closed: a fork may still hold a duplicate."""
        self._epoll.unregister(fd)
        del self._by_fd[fd]

    def _check_cpu(self, job: Job, now: float) -> None:
        """End a sandbox whose processes together have used up the processor time."""
        used = job.child.group.cpu_seconds() if job.child.group is not None else None
        if used is None:
            job.check_at = _NEVER
        elif used >= job.limits["cpu_seconds"]:
            job.cpu_exceeded = True
            job.check_at = _NEVER
            job.child.kill()
        else:
            job.check_at = now + self._soonest_exhaustion(job, used)

    def _soonest_exhaustion(self, job: Job, used: float) -> float:
        """Seconds until the budget can be used up at the earliest: no need to look before."""
        cores = min(job.limits["cpu_cores"] or 1e9, os.cpu_count() or 1)
        left: float = (job.limits["cpu_seconds"] - used) / cores
        return max(CPU_CHECK_FLOOR_S, left)


def main(fd: int) -> NoReturn:
    """Serve the client on the inherited socket `fd`; exits when it closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    client = socket.socket(fileno=fd)
    client.set_inheritable(False)
    gc.disable()
    launcher = Launcher(client)
    launcher.greet()
    gc.collect()
    gc.freeze()  # the children share these pages; a collection would copy them
    launcher.serve()
    sys.exit(0)
