"""One tool in its container, from the first file to the last.

    directory (arguments, copies of mounts) -> create -> attach -> start -> wait -> export -> remove

Nothing is left behind: a container that was asked for is removed by its name, whether or not the daemon's
answer was heard, and a request that makes something is seen through even when its caller gives up, so
that the removal comes after it. A daemon that does not answer holds up nobody for long: then the run is over
without evidence that its container is gone, and whoever keeps the record of it pursues that by its name.

How it ended is the daemon's word, never the tool's. Docker tells an exit code, and 128 + n for a signal n,
which a program can also return by itself: so code 137 is taken for a killing only where Praxis killed or
the kernel ran out of the container's memory, and is otherwise the tool's own exit code.
"""

from __future__ import annotations

import asyncio
import io
import os
import posixpath
import secrets
import signal as signals
import tarfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar

from praxis_sdk.errors import EngineUnavailable, PlatformError, PraxisError, ValidationError
from praxis_sdk.execution.contract.specs import DockerEngineSpec
from praxis_sdk.execution.engines.docker.container import (
    ARGS_FILE,
    HOSTS_FILE,
    IMAGE_ENTRYPOINT,
    DockerBind,
    choose_user,
    create_request,
    docker_spec,
    program_paths,
    submounts,
)
from praxis_sdk.execution.engines.docker.daemon import DaemonRefusal, DockerDaemon, InputStream, OutputStream
from praxis_sdk.execution.engines.docker.facts import DaemonFacts, ImageFacts
from praxis_sdk.execution.engines.process_owner import ProcessOwner
from praxis_sdk.execution.engines.run_directory import make_run_directory
from praxis_sdk.execution.invocation import Invocation
from praxis_sdk.execution.mounts.staging import (
    StagedMount,
    StagingBudget,
    export_staged,
    lacks_mount_point,
    remove_tree,
    stage,
)
from praxis_sdk.execution.outcome import Exit, Exports, Limit, ToolFailure
from praxis_sdk.execution.output import OutputCapture
from praxis_sdk.log import get_logger
from praxis_sdk.states import FailureCategory
from praxis_sdk.termination import Remains, Termination

log = get_logger("praxis.execution.docker")

END_BOUND_S: Final = 4.0  # how long the daemon may take to confirm a kill, and then a removal
UNHEARD_BOUND_S: Final = 1.5  # and a removal after it has not answered
TIDY_BOUND_S: Final = 10.0  # and the removal of what has ended
LAUNCH_SLACK_S: Final = 5.0  # by how much a step of the launch may last longer than the tool may
DRAIN_BOUND_S: Final = 20.0  # how long the daemon may take to hand over the output of an ended container
_NOT_EXECUTABLE: Final = 126
_NOT_FOUND: Final = 127
_KILLED: Final = 128 + signals.SIGKILL
_GO_SYMLINK: Final = 1 << 27  # of Go's os.FileMode
_GO_DIRECTORY: Final = 1 << 31
_PLATFORM_WORDS: Final = ("cannot allocate memory", "no space left", "too many open files")
_BLAMED_FIELDS: Final = (
    ("argument list too long", "command"),
    ("memory limit", "memory_limit"),
    ("oom-killed", "memory_limit"),
    ("range of cpus", "cpu_limit"),
    ("reference format", "image"),
    ("network", "network"),
    ("invalid mount config", "mounts"),
    ("error mounting", "mounts"),
)

P = ParamSpec("P")
T = TypeVar("T")


class DockerRun:
    """One tool in its container; a `RunningTool` once `start` has returned.

    Args:
        daemon, facts: where it runs.
        invocation: what runs.
        capture: where its output goes.
        on_close: told when the run is over, with the container's name where it could not be removed.
    """

    def __init__(
        self,
        daemon: DockerDaemon,
        facts: DaemonFacts,
        invocation: Invocation,
        capture: OutputCapture,
        on_close: Callable[[DockerRun, str | None], None],
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self._daemon = daemon
        self._facts = facts
        self._invocation = invocation
        self._capture = capture
        self._on_close = on_close
        self._image = ImageFacts()
        self._owner = ProcessOwner.current()
        # With a random part, so that an id can be run again while its last container is being removed.
        self._name = f"praxis-{invocation.context.execution_id}-{secrets.token_hex(4)}"
        self.remains = Remains("docker", self._name, facts.id, daemon.host)
        self._directory: Path | None = None
        self._staged: list[StagedMount] = []
        self._asked_for = False
        self._stream: OutputStream | None = None
        self._reading: asyncio.Task[None] | None = None
        self._input: InputStream | None = None
        self._feeding: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[int] | None = None
        self._refusal: ToolFailure | None = None
        self._killed = False
        self._unheard = False  # the daemon did not answer when the end was wanted
        self._evidence = ""
        self._closing: asyncio.Task[None] | None = None

    # -- start

    async def start(self) -> None:
        """Bring the container to life; whoever sees this fail calls `close`."""
        user = choose_user(self._invocation, self._facts)
        self._image = await self._find_image()
        binds: list[DockerBind] = []
        if self._daemon.shares_files:
            self._directory = make_run_directory(self._owner)
            binds = self._write_files(self._directory)
            if self._invocation.mounts:
                budget = StagingBudget()
                laying = asyncio.to_thread(
                    self._lay_out_mounts, self._directory, (user.uid, user.gid), budget
                )
                binds += await to_the_end(laying, abandon=budget.abandoned.set)
        request = create_request(
            self._invocation,
            facts=self._facts,
            image=self._image,
            user=user,
            owner=str(self._owner),
            binds=binds,
        )
        self._invocation.context.outside(self.remains)
        async with self._daemon.starting:
            await self._create(request)
            if not self._daemon.shares_files:
                await self._daemon.put_archive(
                    self._name, posixpath.dirname(ARGS_FILE), _archive(self._invocation.arguments_json)
                )
            self._stream = await self._promptly(self._daemon.attach(self._name), "attach to a container")
            self._reading = asyncio.create_task(self._stream.read_into(self._capture))
            if self._invocation.stdin is not None:
                attaching = self._daemon.attach_input(self._name)
                self._input = await self._promptly(attaching, "attach to a container")
                self._feeding = asyncio.create_task(self._input.write_from(self._invocation.stdin))
            try:
                await self._promptly(self._daemon.start(self._name), "start a container")
            except DaemonRefusal as refusal:
                self._refusal = await self._explain_start(refusal)
                return
        self._ending = asyncio.create_task(self._daemon.wait(self._name))

    async def _find_image(self) -> ImageFacts:
        name = docker_spec(self._invocation).image
        try:
            return await self._promptly(self._daemon.image(name), "describe an image")
        except DaemonRefusal as refusal:
            if refusal.status == 400:
                raise _bad_image(name, refusal) from refusal
            if refusal.status != 404:
                raise
        try:
            await self._daemon.pull(name, self._invocation.context.progress)
            return await self._daemon.image(name)
        except DaemonRefusal as refusal:
            raise _bad_image(name, refusal) from refusal
        except EngineUnavailable as error:
            raise EngineUnavailable(
                f"engineSpec.image: '{name}' is not on this Docker daemon, and {error.message}",
                remedy=error.remedy,
            ) from error

    def _write_files(self, directory: Path) -> list[DockerBind]:
        files = {ARGS_FILE: self._invocation.arguments_json}
        # Where there is a network the daemon writes the hosts file.
        own_hosts = any(mount.target in ("/etc", "/etc/hosts") for mount in self._invocation.mounts)
        if docker_spec(self._invocation).network in (None, "none") and not own_hosts:
            files["/etc/hosts"] = HOSTS_FILE.encode()
        binds = []
        for target, content in files.items():
            path = directory / posixpath.basename(target)
            path.write_bytes(content)
            path.chmod(0o444)  # nobody else comes as far as here
            binds.append(DockerBind(path, target))
        return binds

    def _lay_out_mounts(
        self, directory: Path, user: tuple[int, int], budget: StagingBudget
    ) -> list[DockerBind]:
        mounts = self._invocation.mounts
        owner = user if os.geteuid() == 0 else None
        binds: list[DockerBind] = []
        mountinfo = Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
        for number, mount in enumerate(mounts):
            if not (mount.writable or lacks_mount_point(mount, mounts)):
                binds.append(DockerBind(mount.source, mount.target))
                binds += submounts(mount, mounts, mountinfo)
                continue
            staged = stage(mount, directory / f"mount-{number}", mounts, owner=owner, budget=budget)
            binds.append(DockerBind(staged.path, mount.target, writable=mount.writable))
            if mount.writable:
                self._staged.append(staged)
        return binds

    async def _create(self, request: dict[str, Any]) -> None:
        self._asked_for = True
        try:
            # Once sent, the request is seen through: only then does removing the container remove it for good.
            creating = to_the_end(self._daemon.create(self._name, request), patience_s=END_BOUND_S)
            await self._promptly(creating, "create a container")
        except DaemonRefusal as refusal:
            if refusal.status == 404:  # the image was removed a moment ago
                self._daemon.forget_image(request["Image"])
                raise EngineUnavailable(
                    f"engineSpec.image: '{request['Image']}' is not there any more", remedy="run it again"
                ) from refusal
            raise _refused(refusal, docker_spec(self._invocation)) from refusal

    async def _promptly(self, deed: Awaitable[T], words: str) -> T:
        """Do a step of the launch within the time that the tool itself may take, and a little more."""
        bound_s = self._invocation.timeout_s + LAUNCH_SLACK_S
        try:
            async with asyncio.timeout(bound_s):
                return await deed
        except TimeoutError as error:
            self._unheard = True
            raise EngineUnavailable(
                f"the Docker daemon at {self._daemon.host} did not {words} within {bound_s:g} s",
                remedy="look at its log ('journalctl -u docker'), or restart it",
            ) from error

    async def _explain_start(self, refusal: DaemonRefusal) -> ToolFailure:
        """Say which program could not be started, going by what the daemon recorded.

        Raises:
            ValidationError, EngineUnavailable: it was not for the program.
        """
        code = (await self._daemon.state(self._name)).get("ExitCode")
        if code in (_NOT_FOUND, _NOT_EXECUTABLE):
            return self._program_failure(int(code))
        raise _refused(refusal, docker_spec(self._invocation)) from refusal

    # -- end

    async def wait(self) -> Exit:
        """Wait for the end; see `RunningTool.wait`."""
        if self._refusal is not None:
            return Exit(refusal=self._refusal)
        assert self._ending is not None
        code = await asyncio.shield(self._ending)
        self._evidence = f"the daemon reported the end of container '{self._name}' (exit code {code})"
        await self._drain()
        if self._killed and code == _KILLED:
            return Exit(signal=int(signals.SIGKILL))
        if code == 0 or self._killed:
            return Exit(exit_code=code)
        if (await self._daemon.state(self._name)).get("OOMKilled"):
            by_signal = code == _KILLED  # else a child was killed, and the tool gave up
            return Exit(
                exit_code=None if by_signal else code,
                signal=int(signals.SIGKILL) if by_signal else None,
                limit=Limit.MEMORY,
            )
        if code in (_NOT_FOUND, _NOT_EXECUTABLE) and await self._never_started(code):
            return Exit(refusal=self._program_failure(code))
        return Exit(exit_code=code)

    async def terminate(self) -> None:
        """Send SIGTERM to the container's process 1; see `RunningTool.terminate`."""
        if self._refusal is None:
            await self._daemon.terminate(self._name)

    async def kill(self) -> None:
        """End everything in the container; see `RunningTool.kill`."""
        self._killed = True
        if self._refusal is not None:
            return
        try:
            await self._daemon.kill(self._name, END_BOUND_S)
        except PlatformError:
            self._unheard = True
            raise

    @property
    def termination(self) -> Termination:
        """What the daemon said of the container's end; see `RunningTool.termination`."""
        if self._evidence or not self._asked_for:
            return Termination(self._evidence or "no container was made")
        known = f"the Docker daemon at {self._daemon.host} has not confirmed that container '{self._name}' is gone"
        return Termination(known=known, remains=self.remains)

    async def export(self) -> Exports:
        """Copy back what changed; see `RunningTool.export`."""
        exports = Exports()
        for staged in self._staged:
            found = await in_thread(export_staged, staged, self._invocation.mounts)
            exports = Exports(exports.files + found.files, exports.skipped + found.skipped)
        return exports

    async def close(self) -> None:
        """Leave nothing behind; see `RunningTool.close`. Repeatable."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        left: str | None = self._name if self._asked_for else None
        try:
            for stream in (self._stream, self._input):
                if stream is not None:
                    await stream.close()
            for task in (self._feeding, self._reading, self._ending):
                if task is not None:
                    task.cancel()
                    await asyncio.wait({task})
                    if not task.cancelled():
                        task.exception()  # whoever waited has heard of it
            if self._asked_for:
                bound_s = TIDY_BOUND_S if self._evidence else END_BOUND_S
                removed = await self._daemon.remove(self._name, UNHEARD_BOUND_S if self._unheard else bound_s)
                self._evidence = self._evidence or removed
                left = None
        except PlatformError as error:
            # The outcome stands, and the engine tries again; at the latest the next process does.
            log.warning("docker.container_left", container=self._name, reason=error.message)
        finally:
            if self._directory is not None:
                await in_thread(remove_tree, self._directory)
            self._on_close(self, left)

    async def _drain(self) -> None:
        assert self._reading is not None
        self._capture.release()
        try:
            await asyncio.wait_for(asyncio.shield(self._reading), DRAIN_BOUND_S)
        except TimeoutError as error:
            if not self._killed:
                raise EngineUnavailable(
                    f"the Docker daemon did not hand over all output within {DRAIN_BOUND_S:g} s"
                ) from error

    async def _never_started(self, code: int) -> bool:
        """Tell whether the container's init, and not the tool, ended with this code: is there such a program?

        The tool cannot make its program appear or vanish, since the root is read-only; of programs
        elsewhere nothing is concluded.
        """
        if not self._facts.init:
            return False
        writable = ["/tmp", *self._image.volumes, *(m.target for m in self._invocation.mounts if m.writable)]
        seen = False
        if docker_spec(self._invocation).entrypoint == IMAGE_ENTRYPOINT:
            return False
        for path in program_paths(self._invocation, self._image):
            if any(path.startswith(place.rstrip("/") + "/") for place in writable):
                return False
            mode = await self._daemon.file_mode(self._name, path)
            if mode is None:
                continue
            if mode & _GO_SYMLINK or (mode & 0o111 and not mode & _GO_DIRECTORY):
                return False
            seen = True
        return seen == (code == _NOT_EXECUTABLE)

    @property
    def _program(self) -> str:
        entrypoint = docker_spec(self._invocation).entrypoint
        if entrypoint == IMAGE_ENTRYPOINT:
            return "(the image's entrypoint)"
        return (entrypoint or self._invocation.argv)[0]

    def _program_failure(self, code: int) -> ToolFailure:
        problem = "not found" if code == _NOT_FOUND else "cannot be executed"
        image = docker_spec(self._invocation).image
        return ToolFailure(
            FailureCategory.DEPENDENCY_ERROR,
            f"command '{self._program}' {problem} in image '{image}'",
        )


async def to_the_end(
    deed: Awaitable[T], abandon: Callable[[], object] | None = None, patience_s: float | None = None
) -> T:
    """Await what must not be left half done: a cancellation is passed on once it is over.

    Args:
        deed: what is bounded in time by itself.
        abandon: called at a cancellation, to make it end sooner.
        patience_s: how long it is waited for after a cancellation, in seconds; None: to its end.
    """
    task = asyncio.ensure_future(deed)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if abandon is not None:
            abandon()
        loop = asyncio.get_running_loop()
        until = None if patience_s is None else loop.time() + patience_s
        while not task.done():
            if until is not None and loop.time() >= until:
                task.cancel()
                until = None
            try:
                await asyncio.wait({task}, timeout=None if until is None else until - loop.time())
            except asyncio.CancelledError:
                continue  # once is enough to be told
        if not task.cancelled():
            task.exception()  # the cancellation takes its place
        raise


async def in_thread(deed: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call what blocks in a thread, and wait for it whatever happens."""
    return await to_the_end(asyncio.to_thread(deed, *args, **kwargs))


def _archive(content: bytes) -> bytes:
    """Pack the arguments file for a daemon that does not see this host's files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        entry = tarfile.TarInfo(posixpath.basename(ARGS_FILE))
        entry.size, entry.mode = len(content), 0o444
        archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def _refused(refusal: DaemonRefusal, spec: DockerEngineSpec) -> PraxisError:
    """Tell a field of the contract that Docker cannot satisfy from a daemon that is in trouble itself."""
    words = refusal.words.lower()
    field = next((field for word, field in _BLAMED_FIELDS if word in words), "")
    if (
        spec.working_dir is not None
        and spec.working_dir.lower() in words
        and ("mkdir" in words or "chdir" in words)
    ):
        field = "working_dir"
    if "bind source path does not exist" in words:
        return EngineUnavailable(
            f"the Docker daemon does not see the files of this process: {refusal.words}",
            remedy="run Praxis beside the daemon, or share the mounts and TMPDIR with it under the same paths",
        )
    if "could not select device driver" in words:
        return EngineUnavailable(
            "engineSpec.gpus: this Docker daemon has no GPUs to give",
            remedy="install the NVIDIA Container Toolkit beside it, or leave 'gpus' out",
        )
    if any(word in words for word in _PLATFORM_WORDS) or not (field or refusal.status == 400):
        return EngineUnavailable(
            f"Docker could not start the container: {refusal.words}",
            remedy="look at the daemon's log ('journalctl -u docker')",
        )
    return ValidationError(
        f"{f'engineSpec.{field}' if field else 'engineSpec'}: Docker refuses it: {refusal.words}",
        remedy="change it in the contract",
    )


def _bad_image(name: str, refusal: DaemonRefusal) -> PraxisError:
    """Tell a mistake in the image's name from a registry that cannot be reached."""
    if refusal.status == 400:
        return ValidationError(
            f"engineSpec.image: {name!r} is not the name of an image: {refusal.words}",
            remedy="write for example 'python:3.11-slim'",
        )
    words = refusal.words.lower()
    absent = ("not found", "manifest unknown", "does not exist", "denied", "unauthorized")
    if refusal.status in (401, 403, 404) or any(word in words for word in absent):
        return ValidationError(
            f"engineSpec.image: '{name}' is neither on this Docker daemon nor in its registry: {refusal.words}",
            remedy="check its name and tag, build or load it, or 'docker login' if it is private",
        )
    return EngineUnavailable(
        f"engineSpec.image: '{name}' is not on this Docker daemon and could not be pulled: {refusal.words}",
        remedy="connect the daemon to the registry, or bring the image with 'docker load'",
    )
