"""The launcher process: makes sandboxes on request and watches over them until they are gone.

One per engine, started clean (no environment, no site packages, none of the client's memory), single-threaded, so that
it may fork. It answers the client's requests on one socket:

    start(id, limits, mounts, workdir, forked) + command, stdin (or order), stdout, stderr
        -> started(id, targets) + pidfd, one directory per target
        -> exited(id, status, usage, events)            exactly one of the last two ends every request
        -> failed(id, stage, errno, message)
    end(id): the client could not take what `started` brought; the sandbox is killed

The command (argv, environment, directory) is a memory file that goes from the client to the init; the launcher never
reads it. A `forked` request is for a child of the zygote; any other, for one of the launcher itself. When the client's
socket closes, the launcher kills what is left and exits; when it dies itself, the kernel kills every init.
"""

from __future__ import annotations

import errno
import functools
import gc
import os
import signal
import socket
import sys
import time
from collections import deque

from praxis_sdk.sandbox import wire
from praxis_sdk.sandbox.init import baseroot, loopback, mounts
from praxis_sdk.sandbox.launcher.child import Child, StartError
from praxis_sdk.sandbox.launcher.events import Events
from praxis_sdk.sandbox.launcher.handshake import Handshake, count_again
from praxis_sdk.sandbox.launcher.job import Job, Request, plain_order
from praxis_sdk.sandbox.launcher.pool import SandboxPool
from praxis_sdk.sandbox.launcher.spawner import Spawner
from praxis_sdk.sandbox.launcher.zygote_process import check_points
from praxis_sdk.sandbox.launcher.zygotes import Zygotes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, NoReturn

MAX_SANDBOXES = 8192
CPU_CHECK_FLOOR_S = 0.05
MAX_ATTEMPTS = 2
SEND_AGAIN_S = 0.02
SOCKETS_PART = 8  # of its memory is what a sandbox with a network may have in TCP's buffers beside it


class LauncherProcess:
    """Everything that happens in the launcher process."""

    def __init__(self, client: socket.socket) -> None:
        self._client = client
        self._jobs: dict[int, Job] = {}
        self._requests: dict[int, Request] = {}
        self._outbox: deque[tuple[bytes, list[int]]] = deque()
        self._events = Events()
        self._pools = {False: SandboxPool(), True: SandboxPool()}
        self._waiting: deque[Request] = deque()
        self._zygotes: Zygotes | None = None
        self._closing = False

    def greet(self) -> None:
        """Take the client's settings, prepare this process, and answer what it can enforce."""
        received = wire.receive(self._client)
        if received is None:
            raise SystemExit(0)
        settings, descriptors = received
        try:
            self._nursery = Spawner(*map(wire.read_memory_file, descriptors))
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
        self._cradle = Handshake(self._events, self._nursery)
        if settings["zygote"] is not None:
            self._zygotes = Zygotes(settings["zygote"], self._nursery, self._events)
        ready = {
            "event": "ready",
            "privileged": self._nursery.privileged,
            "cgroup_version": self._nursery.place.version,
            "controllers": list(self._nursery.place.controllers),
            "path": baseroot.tool_path(),
        }
        wire.send(self._client, wire.encode(ready))
        self._client.setblocking(False)
        self._events.watch(self._client.fileno(), self._read_request)

    def serve(self) -> None:
        """Serve until the client is gone and the last sandbox is, too."""
        while not (self._closing and not self._jobs):
            # Only when there is nothing else to do are children made ahead of need, one at a time.
            idle = not self._events.turn(wait=not self._wants_more())
            if idle and not self._outbox:
                self._make_more()
            self._nursery.tidy()
        self._cradle.close()
        for pool in self._pools.values():
            for child in pool.drain():
                self._nursery.bury(child)
        if self._zygotes is not None:
            self._zygotes.close()
        self._nursery.close()

    # -- the client -------------------------------------------------------------------------------------------------

    def _read_request(self) -> None:
        try:
            received = wire.receive(self._client)
        except BlockingIOError:
            return
        except wire.DescriptorsLost as problem:
            self._fail(problem.message["id"], StartError("start", errno.EMFILE, str(problem)))
            return
        except OSError as problem:
            if wire.is_scarcity(problem):
                return  # what could not be read is still there
            raise
        if received is None:
            self._hang_up()
            return
        message, descriptors = received
        if "end" in message:
            if (job := self._jobs.get(message["id"])) is not None:
                job.child.kill()
            return
        request = Request(message, descriptors)
        try:
            self._accept(request)
            self._start(request)
        except StartError as problem:
            self._refuse(request, problem)

    def _accept(self, request: Request) -> None:
        if len(self._jobs) + len(self._requests) >= MAX_SANDBOXES:
            raise StartError("start", errno.EAGAIN, f"{MAX_SANDBOXES} sandboxes are alive already")
        if len(request.descriptors) != 4:
            raise StartError("start", 0, f"{len(request.descriptors)} descriptors instead of four")
        self._requests[request.key] = request

    def _hang_up(self) -> None:
        """The client is gone: end everything that it started."""
        self._closing = True
        self._events.forget(self._client.fileno())
        for _, descriptors in self._outbox:
            wire.close_all(descriptors)
        self._outbox.clear()
        for request in self._requests.values():
            request.close()
        for job in self._jobs.values():
            job.child.kill()

    def _refuse(self, request: Request, problem: StartError) -> None:
        request.close()
        self._requests.pop(request.key, None)
        self._fail(request.key, problem)

    def _fail(self, key: int, problem: StartError) -> None:
        self._reply(
            {
                "event": "failed",
                "id": key,
                "stage": problem.stage,
                "errno": problem.number,
                "message": str(problem),
                "by_host": problem.by_host,
            }
        )

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
                self._events.when_writable(self._client.fileno(), self._flush)
                return
            except OSError as problem:
                if wire.is_scarcity(problem):
                    self._events.at(time.monotonic() + SEND_AGAIN_S, self._flush)
                return  # else the client is gone; the read side will say so
            self._outbox.popleft()
            wire.close_all(descriptors)
        self._events.when_writable(self._client.fileno(), None)

    # -- from request to job ----------------------------------------------------------------------------------------

    def _start(self, request: Request) -> None:
        """Give the request to a locked child, if there is one that fits; else have one made."""
        if request.forked and self._zygotes is None:
            raise StartError("start", 0, "this launcher was started without a zygote", by_host=False)
        if request.plain:
            pool = self._pools[request.forked]
            before = pool.template
            child = pool.take(request.template, request.limits)
            if pool.template != before:
                for stale in pool.drain():
                    self._discard(stale)
            if child is not None:
                self._events.forget(child.channel.fileno())
                if child.waits:
                    self._assign(request, child)
                    return
                self._nursery.bury(child)
        if request.forked:
            self._have_forked(request)
        else:
            self._make(request)

    def _make(self, request: Request) -> None:
        """Give a waiting init both its orders, and have the next one made meanwhile."""
        child: Child | None = None
        try:
            with request.lay_out() as plan:
                points = tuple(plan.root_points)
                child = self._nursery.take(points)
                mounts.clone_sources(plan, child.host_id, child.host_id, self._nursery.idmaps)
                try:
                    order, trees = request.order(plan)
                    wire.send(child.channel, order.message, trees)
                except BrokenPipeError:
                    self._nursery.hear_of_birth(child)  # says why it is dead
                    raise
        except (mounts.MountError, OSError) as problem:
            if child is not None:
                self._nursery.bury(child)
            raise _start_error(problem) from problem
        self._assign(request, child)
        if not request.plain:
            self._nursery.refill(points)

    def _have_forked(self, request: Request) -> None:
        """Have the zygote fork a child for this request alone."""
        assert self._zygotes is not None
        request.attempts += 1

        def born(child: Child | StartError) -> None:
            if isinstance(child, StartError):
                failed(child)
            elif request.key not in self._requests:
                self._nursery.bury(child)
            else:
                rear(child)

        def rear(child: Child) -> None:
            try:
                with request.lay_out() as plan:
                    check_points(plan)
                    mounts.clone_sources(plan, child.host_id, child.host_id, self._nursery.idmaps)
                    self._limit(child, request.limits)
                    self._cradle.rear(child, *request.order(plan), locked, failed)
            except (mounts.MountError, OSError) as problem:
                self._nursery.bury(child)
                failed(_start_error(problem))
            except StartError as problem:
                self._nursery.bury(child)
                failed(problem)

        def locked(child: Child) -> None:
            if self._closing:
                self._nursery.bury(child)
            else:
                self._try_to_assign(request, child)

        def failed(problem: StartError) -> None:
            if problem.stage == "zygote" and problem.number == 0 and request.attempts < MAX_ATTEMPTS:
                self._have_forked(request)  # it died with the request in its hands; the next one may not
            elif request.key in self._requests:
                self._refuse(request, problem)

        self._zygotes.ask(born)

    def _try_to_assign(self, request: Request, child: Child) -> None:
        try:
            self._assign(request, child)
        except StartError as problem:
            self._refuse(request, problem)

    def _assign(self, request: Request, child: Child) -> None:
        """Hand a locked child its work, and watch it from now on; buries the child when that fails."""
        try:
            self._limit(child, request.limits)
            if request.loopback_port is not None:
                self._limit_network(child, request.limits)
            if child.forked:
                count_again(child)
            wire.send(child.channel, request.work, request.descriptors)
        except StartError:
            self._nursery.bury(child)
            raise
        except OSError as problem:
            if problem.errno != errno.EPIPE:
                self._nursery.bury(child)
                raise _start_error(problem) from problem
        request.close()
        del self._requests[request.key]
        job = Job(request, child)
        self._jobs[job.key] = job
        self._events.watch(child.channel.fileno(), functools.partial(self._hear, job))
        self._events.watch(child.pidfd, functools.partial(self._finish, job))
        if child.group is not None and child.group.counts_cpu:
            self._events.at(
                job.started_at + job.soonest_exhaustion(0.0), functools.partial(self._check_cpu, job)
            )

    def _limit(self, child: Child, limits: Mapping[str, Any]) -> None:
        if child.group is not None:
            child.group.limit(limits)

    def _limit_network(self, child: Child, limits: Mapping[str, Any]) -> None:
        loopback.bound_buffers(child.pid)
        if child.group is not None:
            child.group.limit_socket_buffers(int(limits["memory_bytes"]) // SOCKETS_PART)

    # -- ahead of need ----------------------------------------------------------------------------------------------

    def _wants_more(self) -> bool:
        return not self._closing and any(pool.wanting for pool in self._pools.values())

    def _make_more(self) -> None:
        """Start making one locked child. What fails here will fail, with a reason, when somebody asks."""
        for forked, pool in self._pools.items():
            if not pool.wanting:
                continue
            pool.making += 1
            if forked:
                assert self._zygotes is not None
                self._zygotes.ask(functools.partial(self._rear_ahead, pool))
                continue
            assert pool.template is not None
            plan = mounts.lay_out([], pool.template.workdir)
            try:
                self._rear_ahead(pool, self._nursery.take(tuple(plan.root_points)))
            except OSError as problem:
                self._rear_ahead(pool, _start_error(problem))

    def _rear_ahead(self, pool: SandboxPool, child: Child | StartError) -> None:
        template = pool.template

        def failed(_: StartError) -> None:
            pool.making -= 1
            pool.pause()

        def locked(locked: Child) -> None:
            pool.making -= 1
            if self._closing or template != pool.template:
                self._nursery.bury(locked)
                return
            pool.ready.append(locked)
            self._events.watch(locked.channel.fileno(), functools.partial(self._lose, pool, locked))

        if isinstance(child, StartError):
            failed(child)
            return
        try:
            assert template is not None
            self._limit(child, pool.limits)
        except OSError as problem:
            self._nursery.bury(child)
            failed(_start_error(problem))
            return
        self._cradle.rear(child, plain_order(template), (), locked, failed)

    def _lose(self, pool: SandboxPool, child: Child) -> None:
        """A waiting child has said something, or died: neither is what it was made for."""
        pool.ready.remove(child)
        self._discard(child)

    def _discard(self, child: Child) -> None:
        self._events.forget(child.channel.fileno())
        self._nursery.bury(child)

    # -- one sandbox at work ----------------------------------------------------------------------------------------

    def _hear(self, job: Job) -> None:
        """Take what the init has to say: ready (with directories), failed, or its report on the tool."""
        while not job.heard_all:
            try:
                received = wire.receive(job.child.channel)
            except BlockingIOError:
                return
            except wire.DescriptorsLost as problem:
                job.failure = ["start", errno.EMFILE, str(problem)]
                job.child.kill()
                continue
            except wire.WireError:
                continue
            if received is None:
                self._events.forget(job.child.channel.fileno())
                job.child.channel.close()
                job.heard_all = True
                return
            message, descriptors = received
            if "ready" in message:
                try:
                    self._hand_over(job, message, descriptors)
                except OSError as problem:  # no descriptor left
                    wire.close_all(descriptors)
                    job.failure = ["start", problem.errno or 0, str(problem)]
                    job.child.kill()
                continue
            wire.close_all(descriptors)
            if "failed" in message:
                job.failure = message["failed"]
            elif "status" in message or "spawn_error" in message:
                job.report = message

    def _hand_over(self, job: Job, message: Mapping[str, Any], descriptors: list[int]) -> None:
        job.count_processes()
        if job.forked:
            job.budget_fd = os.dup(descriptors[0])
        pidfd = os.dup(job.child.pidfd)
        started = {
            "event": "started",
            "id": job.key,
            "pid": job.child.pid,
            "targets": message["ready"],
            "door": message["door"],
        }
        self._reply(started, [pidfd, *descriptors])

    def _finish(self, job: Job) -> None:
        """The init is dead, and with it every process of the sandbox: account for it and tell the client."""
        self._hear(job)
        if not job.heard_all:
            self._events.forget(job.child.channel.fileno())
        self._events.forget(job.child.pidfd)
        del self._jobs[job.key]
        counted: dict[str, Any] = {}
        try:
            counted = job.account()
        except OSError as problem:  # no descriptor left; without the kernel's account there is no verdict
            job.failure = ["account", problem.errno or 0, str(problem)]
        status, usage = self._nursery.bury(job.child)
        failure, report = job.conclude(status, usage, counted)
        if failure is not None:
            self._fail(job.key, failure)
        else:
            self._reply(report)

    def _check_cpu(self, job: Job) -> None:
        """End a sandbox whose processes together have used up the processor time."""
        if job.key not in self._jobs:
            return
        try:
            used = job.cpu_seconds()
            job.count_processes()
        except OSError:  # no descriptor left
            used = 0.0
        if used is None:
            return
        if used >= job.limits["cpu_seconds"]:
            job.cpu_exceeded = True
            job.child.kill()
            return
        moment = time.monotonic() + max(CPU_CHECK_FLOOR_S, job.soonest_exhaustion(used))
        self._events.at(moment, functools.partial(self._check_cpu, job))


def _start_error(problem: Exception) -> StartError:
    if isinstance(problem, mounts.MountError):
        return StartError("mounts", 0, str(problem), by_host=problem.by_host)
    return StartError("start", getattr(problem, "errno", None) or 0, str(problem))


def main(fd: int) -> NoReturn:
    """Serve the client on the inherited socket `fd`; exits when it closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    client = socket.socket(fileno=fd)
    client.set_inheritable(False)
    gc.disable()
    launcher = LauncherProcess(client)
    launcher.greet()
    gc.collect()
    gc.freeze()  # the children share these pages; a collection would copy them

    launcher.serve()
    sys.exit(0)
