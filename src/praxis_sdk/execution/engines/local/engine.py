"""The local engine: a plain process of the host, for trusted tools only (spec 1, "Local Execution Engine").

There is no isolation here: the tool has the caller's rights. What Praxis still promises: nothing of the
host's environment unless it is named, bounded output, and the end of the whole process tree (`spawner`
says how).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import pwd
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from praxis_sdk.errors import PlatformError, ValidationError
from praxis_sdk.execution.arguments.arguments import ARGS_FILE_VARIABLE
from praxis_sdk.execution.arguments.standard_input import InputPipe
from praxis_sdk.execution.contract.specs import EngineType, LocalEngineSpec
from praxis_sdk.execution.enforcement import NO_LIMITS, limits_to_json
from praxis_sdk.execution.engines.local import spawner
from praxis_sdk.execution.engines.process_owner import ProcessOwner
from praxis_sdk.execution.engines.run_directory import any_leftovers, make_run_file, remove_leftovers
from praxis_sdk.execution.engines.supervised import SupervisedEngine
from praxis_sdk.execution.invocation import Invocation
from praxis_sdk.execution.outcome import Exit, Exports, Isolation, ResourceUsage, ToolFailure
from praxis_sdk.execution.output import OutputCapture, PipeReader
from praxis_sdk.states import FailureCategory
from praxis_sdk.termination import Termination

SAFE_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class LocalExecutionEngine(SupervisedEngine):
    """Runs tools as processes of the host.

    Whoever calls this engine vouches for the tool: `ToolRunner` and the command line refuse a contract
    that is not declared trusted.
    """

    engine_type = EngineType.LOCAL
    isolation = Isolation.NONE

    def __init__(self) -> None:
        self._spawner: _Spawner | None = None
        self._swept = False

    async def get_capabilities(self) -> dict[str, Any]:
        """Say what this engine can do: start processes, and nothing to hold them."""
        return {
            "engine_type": str(self.engine_type),
            "available": True,
            "isolation": self.isolation.label,
            "trusted_only": True,
            "supports_containers": False,
            "supports_mounts": False,
            "supports_environment": True,
            **limits_to_json(NO_LIMITS),
            "supports_network_isolation": False,
        }

    async def sweep(self) -> None:
        """Remove the arguments and directories of runs whose process is dead."""
        if any_leftovers():
            await asyncio.to_thread(remove_leftovers)

    async def cleanup(self) -> None:
        """End the process that starts tools; repeatable, and a later run starts it anew."""
        if self._spawner is not None:
            self._spawner.close()
            self._spawner = None

    async def launch(self, invocation: Invocation, capture: OutputCapture) -> _LocalTool:
        """Start a tool; see `SupervisedEngine.launch`."""
        spec = invocation.spec
        if not isinstance(spec, LocalEngineSpec):
            raise ValidationError(f"engine: a {type(spec).__name__} is not for the local engine")
        cwd = (invocation.context.workspace / Path(spec.cwd or ".").expanduser()).resolve()
        if not cwd.is_dir():
            raise ValidationError(
                f"engineSpec.cwd: '{cwd}' is not a directory", remedy="name an existing one, or leave it out"
            )
        if not self._swept:
            self._swept = True
            await self.sweep()
        if self._spawner is None or not self._spawner.alive:
            self._spawner = _Spawner()
        return _LocalTool(self._spawner, invocation, capture, cwd, keep_output=spec.capture_output)


class _Spawner:
    """The client's side of the spawner process."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", spawner.__file__, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env={},
                cwd="/",
                start_new_session=True,
            )
        self._channel = ours

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def start(
        self,
        argv: tuple[str, ...],
        env: dict[str, str],
        cwd: Path,
        args_file: str,
        stdin: int,
        stdout: int,
        stderr: int,
    ) -> tuple[int, int]:
        """Have a tool started; returns the reading end of its status and the writing end of its control pipe."""
        status_reader, status_writer = os.pipe2(os.O_CLOEXEC)
        control_reader, control_writer = os.pipe2(os.O_CLOEXEC)
        request = json.dumps({"argv": argv, "env": env, "cwd": str(cwd), "args_file": args_file}).encode()
        descriptors = [stdin, stdout, stderr, status_writer, control_reader]
        try:
            self._send(request, descriptors)
        except OSError as error:
            os.close(status_reader)
            os.close(control_writer)
            raise PlatformError(f"the process that starts local tools is gone: {error.strerror}") from error
        finally:
            os.close(status_writer)
            os.close(control_reader)
        return status_reader, control_writer

    def _send(self, request: bytes, descriptors: list[int]) -> None:
        if len(request) <= spawner.MAX_INLINE_BYTES:
            socket.send_fds(self._channel, [request], descriptors)
            return
        with tempfile.TemporaryFile() as file:
            file.write(request)
            file.flush()
            socket.send_fds(self._channel, [b"@"], [*descriptors, file.fileno()])

    def close(self) -> None:
        self._channel.close()
        self._process.wait()  # it ends at once: it has nothing left to do


class _LocalTool:
    """One tool started by the spawner."""

    def __init__(
        self,
        spawner_: _Spawner,
        invocation: Invocation,
        capture: OutputCapture,
        cwd: Path,
        *,
        keep_output: bool,
    ) -> None:
        self._command = invocation.argv[0]
        self._cwd = cwd
        self._args_file = str(make_run_file(ProcessOwner.current(), invocation.arguments_json))
        self._readers: list[PipeReader] = []
        self._status = bytearray()
        self._input = InputPipe(invocation.stdin)
        writers = []
        try:
            for stream in ("stdout", "stderr"):
                if keep_output:
                    reader, writer = PipeReader.open_pipe(stream, capture)
                    self._readers.append(reader)
                else:
                    writer = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
                writers.append(writer)
            env = {
                "PATH": SAFE_PATH,
                "HOME": pwd.getpwuid(os.getuid()).pw_dir,
                "LANG": "C.UTF-8",
                **invocation.env,
                ARGS_FILE_VARIABLE: self._args_file,
            }
            status, self._control = spawner_.start(
                invocation.argv, env, cwd, self._args_file, self._input.reading_fd, *writers
            )
        except BaseException:
            self._free()
            raise
        finally:
            self._input.release()
            for writer in writers:
                os.close(writer)
        try:
            self._status_reader = PipeReader(status, self._read_status)
        except PlatformError:
            self._release_control()  # and with it the warden ends the tool
            self._free()
            raise

    async def wait(self) -> Exit:
        await self._status_reader.wait()
        for reader in self._readers:
            await reader.wait()
        if not self._status:
            raise PlatformError(f"the warden of '{self._command}' was killed before it could report")
        return self._exit(json.loads(bytes(self._status)))

    async def terminate(self) -> None:
        if self._control >= 0:
            with contextlib.suppress(BrokenPipeError):  # the warden has ended
                os.write(self._control, b"T")

    async def kill(self) -> None:
        self._release_control()

    @property
    def termination(self) -> Termination:
        if self._status:
            return Termination("its warden waited for every process that the tool started, and none is left")
        return Termination(known="its warden was killed; what the tool started may run on")

    async def export(self) -> Exports:
        return Exports()  # a process of the host writes where it writes

    async def close(self) -> None:
        self._release_control()
        await self._input.close()
        await self._status_reader.wait()  # the warden reports when nothing is left
        self._free()

    def _read_status(self, data: bytes) -> None:
        self._status += data
        if data.endswith(b"\n"):  # the report is whole; the warden's own exit is not worth waiting for
            self._status_reader.close()

    def _free(self) -> None:
        for reader in self._readers:
            reader.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._args_file)

    def _release_control(self) -> None:
        if self._control >= 0:
            os.close(self._control)
            self._control = -1

    def _exit(self, report: dict[str, Any]) -> Exit:
        if "errno" in report:
            return Exit(refusal=self._refusal(report["errno"], report["what"]))
        usage = ResourceUsage(cpu_s=report["cpu_s"], peak_memory_bytes=report["peak_memory_bytes"])
        status = report["status"]
        if os.WIFSIGNALED(status):
            return Exit(signal=os.WTERMSIG(status), usage=usage)
        return Exit(exit_code=os.WEXITSTATUS(status), usage=usage)

    def _refusal(self, number: int, what: str) -> ToolFailure:
        if what == "cwd":
            return ToolFailure(
                FailureCategory.VALIDATION_ERROR, f"cannot enter '{self._cwd}': {os.strerror(number)}"
            )
        if number == errno.ENOENT:
            return ToolFailure(FailureCategory.DEPENDENCY_ERROR, f"command '{self._command}' not found")
        if number in (errno.EACCES, errno.ENOEXEC):
            return ToolFailure(
                FailureCategory.DEPENDENCY_ERROR, f"command '{self._command}' cannot be executed"
            )
        if number == errno.E2BIG:
            return ToolFailure(
                FailureCategory.VALIDATION_ERROR, "command and environment together are too long"
            )
        raise PlatformError(f"cannot start '{self._command}': {os.strerror(number)}")
