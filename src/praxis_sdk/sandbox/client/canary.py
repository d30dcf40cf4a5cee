"""The self-attack: before the first job is taken, a sandbox is attacked from inside, as a job would.

`verify` asks the kernel whether every step was taken. The canary asks the same of the result: it plants what must not
be found (a file, a secret in the environment, listening sockets) and has `attack` look for it, and try what nobody
inside may do. Takes about 0.1 s.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import socket
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

from praxis_sdk.errors import IsolationUnavailable
from praxis_sdk.sandbox import wire
from praxis_sdk.sandbox.client.launcher_client import Launcher
from praxis_sdk.sandbox.client.run import Sandbox
from praxis_sdk.sandbox.init import attack
from praxis_sdk.sandbox.init.baseroot import interpreter_prefix
from praxis_sdk.sandbox.policy import Limits, Policy

TIMEOUT_S: Final = 10.0
MAX_REPORT_BYTES: Final = 65_536
MIN_ATTEMPTS: Final = 50
_POLICY: Final = Policy(limits=Limits(cpu_seconds=TIMEOUT_S, memory_bytes=256 << 20, processes=16))
_VARIABLE: Final = "PRAXIS_CANARY"

Start = Callable[[int, int], Awaitable[Sandbox]]


async def check(launcher: Launcher, *, zygote: bool = False, shown: Sequence[str] = ()) -> None:
    """Attack a fresh sandbox from inside.

    Args:
        launcher: where to start it.
        zygote: attack a child of the zygote instead of a command.
        shown: folders of the host that the sandbox has to show, besides that of this interpreter.

    Raises:
        IsolationUnavailable: something got through, and is named; or the attack could not be carried out.
        PlatformError: the launcher or the zygote failed.
    """
    source = Path(attack.__file__).read_text()

    async def spawned(order: int, report: int) -> Sandbox:
        command = ["python3", "-I", "-S", "-c", source]
        return await launcher.spawn(_POLICY, command, stdin=order, stdout=report)

    async def forked(order: int, report: int) -> Sandbox:
        return await launcher.fork(_POLICY, order, stdout=report, canary=True)

    async with _planted() as target:
        target["own_proc"] = zygote
        own = interpreter_prefix()
        target["shown"] = [*shown, *([own] if own else [])]
        found = await _attack(forked if zygote else spawned, target)
    if found["breaches"]:
        raise IsolationUnavailable(
            f"the sandbox leaks: {'; '.join(found['breaches'])}",
            remedy="do not run untrusted work on this host; `praxis doctor` says what it lacks",
        )
    if found["attempts"] < MIN_ATTEMPTS:
        raise IsolationUnavailable(f"the self-attack made only {found['attempts']} attempts")


async def _attack(start: Start, target: dict[str, Any]) -> dict[str, Any]:
    order = wire.memory_file("praxis-canary", json.dumps(target).encode())
    report = wire.memory_file("praxis-canary-report", b"")
    try:
        with await start(order, report) as sandbox:
            try:
                async with asyncio.timeout(TIMEOUT_S):
                    end = await sandbox.wait()
            except TimeoutError as problem:
                raise IsolationUnavailable("the self-attack did not come to an end") from problem
        if not end.ok:
            raise IsolationUnavailable(f"the self-attack could not be carried out: {end}")
        found: dict[str, Any] = json.loads(os.pread(report, MAX_REPORT_BYTES, 0))
        return found
    finally:
        os.close(order)
        os.close(report)


@asynccontextmanager
async def _planted() -> AsyncIterator[dict[str, Any]]:
    """Put out what must not be found; yields where it is."""
    secret = secrets.token_hex(16)
    with ExitStack() as stack:
        tcp = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        abstract = stack.enter_context(socket.socket(socket.AF_UNIX))
        abstract.bind(f"\0praxis-canary-{secret}")
        abstract.listen()
        files = [stack.enter_context(tempfile.NamedTemporaryFile(prefix="praxis-canary-")).name]
        os.environ[_VARIABLE] = secret
        stack.callback(os.environ.pop, _VARIABLE, None)
        yield {
            "secret": secret,
            "hostname": socket.gethostname(),
            "files": files,
            # Address, port, and whether even a refusal would be a breach.
            "addresses": [
                ["127.0.0.1", tcp.getsockname()[1], False],
                ["169.254.169.254", 80, True],
                ["1.1.1.1", 53, True],
                ["fe80::1", 80, True],
            ],
            "abstract": f"praxis-canary-{secret}",
        }
