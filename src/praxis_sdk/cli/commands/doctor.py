"""`praxis doctor`: whether untrusted tools can be isolated on this host, and what to do where they cannot."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from praxis_sdk.cli.commands.engines import COLUMNS, engine_rows, objections, yes_no
from praxis_sdk.cli.terminal.streams import Streams
from praxis_sdk.errors import PlatformError

if TYPE_CHECKING:
    from praxis_sdk.cli.terminal.capabilities import EngineReport
    from praxis_sdk.sandbox.host.features import Feature


@dataclass(frozen=True)
class Examination:
    """What was found.

    Args:
        features: what the sandbox uses, each tried.
        engines: what the engines say of themselves.
        fault: why a tool could not be run in the sandbox; empty where it ran.
        remedy: what to do about it.
    """

    features: tuple[Feature, ...]
    engines: tuple[EngineReport, ...]
    fault: str = ""
    remedy: str = ""


def doctor(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> int:
    """Examine this host: what it has for isolation, and what to do about what is missing.

    A trial run decides: exit status 0 if the sandbox works, 3 if it does not.
    """
    from praxis_sdk.cli.terminal import logging as logs
    from praxis_sdk.cli.terminal.interrupts import run_interruptibly

    streams: Streams = context.obj
    logs.configure()
    streams.reserve_stdout()
    found = run_interruptibly(_examine(), on_signal=streams.say)
    system = _system(found)
    if as_json:
        document = {
            "sandbox_works": not found.fault,
            "verdict": _verdict(found),
            "system": system,
            "features": [asdict(feature) for feature in found.features],
            "engines": [report.to_json() for report in found.engines],
        }
        streams.emit_json(document)
    else:
        _show(streams, found, system)
    return PlatformError.exit_status if found.fault else 0


async def _examine() -> Examination:
    import asyncio

    from praxis_sdk.cli.terminal.capabilities import survey
    from praxis_sdk.execution.engine import builtin_engines
    from praxis_sdk.sandbox.host.features import features

    found, engines = await asyncio.gather(asyncio.to_thread(features), survey(builtin_engines()))
    fault, remedy = await _try_sandbox()
    return Examination(found, tuple(engines), fault, remedy)


async def _try_sandbox() -> tuple[str, str]:
    """Run a tool in the sandbox, and attack one from inside; returns what went wrong and what to do about it."""
    from praxis_sdk.cli.terminal.interrupts import uninterrupted
    from praxis_sdk.execution.context import RunContext
    from praxis_sdk.execution.contract.contract import ToolContract
    from praxis_sdk.execution.contract.specs import EngineType
    from praxis_sdk.execution.engine import SandboxExecutionEngine
    from praxis_sdk.sandbox import Launcher
    from praxis_sdk.sandbox.client import canary

    trial = ToolContract(name="doctor", engine=EngineType.SANDBOX, engine_spec={"command": ["true"]})
    engine = SandboxExecutionEngine()
    try:
        outcome = await engine.run(trial, {}, RunContext(timeout_s=30))
        if outcome.failure is None:  # what a job's sandbox has to withstand before the first job is let in
            async with await Launcher.start() as launcher:
                await canary.check(launcher)
    except PlatformError as error:
        return error.message, error.remedy
    finally:
        await uninterrupted(engine.cleanup())
    return (outcome.failure.message if outcome.failure else ""), ""


def _system(found: Examination) -> dict[str, Any]:
    import os
    import platform

    sandbox = next((report.capabilities for report in found.engines if report.name == "sandbox"), {})
    return {
        "python": platform.python_version(),
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "uid": os.geteuid(),
        "root": os.geteuid() == 0,
        "cgroup_version": sandbox.get("cgroup_version"),
        "memory_enforcement": sandbox.get("memory_enforcement"),
    }


def _show(streams: Streams, found: Examination, system: dict[str, Any]) -> None:
    from praxis_sdk.cli.terminal.tables import render

    version = system["cgroup_version"]
    streams.emit_lines(
        [
            f"Python   {system['python']}",
            f"kernel   {system['kernel']}",
            f"user     {_user()}",
            f"cgroups  {f'version {version}' if version else 'none that can be used'}",
            "",
        ]
    )
    rows = [(feature.name, _state(feature), feature.detail) for feature in found.features]
    streams.emit(render(streams, ("isolation feature", "found", "detail"), rows))
    streams.emit_lines(_advice(found.features))
    streams.emit("\n" + render(streams, COLUMNS, engine_rows(found.engines)))
    streams.emit_lines(["", *objections(found.engines), "", _verdict(found)])


def _user() -> str:
    import os

    return "root" if os.geteuid() == 0 else f"an ordinary user (uid {os.geteuid()})"


def _state(feature: Feature) -> str:
    return yes_no(feature.available) if feature.available or feature.required else "no (optional)"


def _advice(features: Sequence[Feature]) -> Iterator[str]:
    missing = [feature for feature in features if not feature.available and feature.remedy]
    if missing:
        yield ""
    for feature in missing:
        yield f"{feature.name}: {feature.remedy}"


def _verdict(found: Examination) -> str:
    if not found.fault:
        return f"the sandbox works as {_user()}"
    return f"the sandbox does not work as {_user()}: {found.fault}" + (
        f" ({found.remedy})" if found.remedy else ""
    )
