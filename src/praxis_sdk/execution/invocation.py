"""The plan of one run: contract, arguments and context, checked and resolved, before anything starts."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from praxis_sdk.errors import ValidationError
from praxis_sdk.execution.arguments.arguments import (
    argument_variables,
    arguments_json,
    build_command,
    check_arguments,
    fill_stdin,
    placeholders,
)
from praxis_sdk.execution.context import RunContext
from praxis_sdk.execution.contract.contract import ToolContract
from praxis_sdk.execution.contract.portability import port_spec
from praxis_sdk.execution.contract.specs import (
    ContainerEngineSpec,
    EngineSpec,
    EngineType,
    IsolatedEngineSpec,
    ProcessEngineSpec,
)
from praxis_sdk.execution.mounts.mounts import ToolMount, parse_mounts, resolve_mounts
from praxis_sdk.execution.mounts.policy import MountPolicy
from praxis_sdk.units import parse_bytes

# Variables that say where the host's own things are. In a file system of its own a tool would look for its
# programs and libraries in places that are not there.
_NAMES_A_PLACE: Final = re.compile(r"PATH|HOME|PWD|OLDPWD|SHELL|TMPDIR|TMP|TEMP|LD_\w+|PYTHONHOME")


@dataclass(frozen=True)
class Invocation:
    """Everything an engine needs for one run.

    Args:
        contract, context: what this is the plan for.
        spec: the fields for this engine.
        arguments: the checked arguments with defaults.
        arguments_json: the content of the file that `PRAXIS_ARGS_FILE` must name.
        argv: the command with arguments in place; empty for a remote tool.
        env: the contract's variables, those passed on from the host, and the arguments'. What a
            program needs to find its way (PATH, HOME) and `PRAXIS_ARGS_FILE` are the engine's to add.
        mounts: existing sources, outer mounts before nested ones.
        timeout_s: wall-clock limit in seconds.
        output_limit_bytes: most bytes kept of each stream.
        memory_bytes: memory limit; None for the engine's default.
        stdin: what the tool reads on standard input: bytes, or a descriptor of the caller's; None for nothing.
        notes: what the caller should know about how the contract was understood.
    """

    contract: ToolContract
    context: RunContext
    spec: EngineSpec
    arguments: Mapping[str, Any]
    arguments_json: bytes
    argv: tuple[str, ...]
    env: Mapping[str, str]
    mounts: tuple[ToolMount, ...]
    timeout_s: float
    output_limit_bytes: int
    memory_bytes: int | None
    stdin: bytes | int | None = None
    notes: tuple[str, ...] = ()


def prepare(
    contract: ToolContract, args: Mapping[str, Any], context: RunContext, engine: EngineType
) -> Invocation:
    """Plan a run; nothing is started and nothing on the host is changed.

    Raises:
        ValidationError: contract, arguments or context do not fit together or with the engine.
    """
    ported = port_spec(contract, engine)
    spec = ported.spec
    values = check_arguments(contract.parameters, args)
    argv: list[str] = []
    env: dict[str, str] = {}
    stdin: bytes | int | None = None
    notes = list(ported.notes)
    if isinstance(spec, ProcessEngineSpec):
        argv = _argv(spec, contract, values)
        _refuse_own_variables(spec, contract)
        env = {**_environment(spec, values, notes), **context.identity}
        stdin = _stdin(spec, contract, values, context)
    elif context.stdin is not None:
        raise ValidationError("stdin: a remote tool has no standard input", remedy="leave it out")
    mounts: tuple[ToolMount, ...] = ()
    memory_bytes = None
    if isinstance(spec, IsolatedEngineSpec):
        mounts = _mounts(spec, contract, context)
        memory_bytes = parse_bytes(spec.memory_limit) if spec.memory_limit else None
        _refuse_host_access(spec, contract)
    return Invocation(
        contract=contract,
        context=context,
        spec=spec,
        arguments=values,
        arguments_json=arguments_json(values),
        argv=tuple(argv),
        env=env,
        mounts=mounts,
        timeout_s=context.timeout_s or float(spec.timeout),
        output_limit_bytes=parse_bytes(spec.output_limit),
        memory_bytes=memory_bytes,
        stdin=stdin,
        notes=tuple(notes),
    )


def _argv(spec: ProcessEngineSpec, contract: ToolContract, values: Mapping[str, Any]) -> list[str]:
    if not spec.command or not spec.command[0]:
        raise ValidationError(
            "engineSpec.command: missing", remedy="give the program and its arguments as a list"
        )
    return build_command(spec, contract.parameters, values)


def _environment(spec: ProcessEngineSpec, values: Mapping[str, Any], notes: list[str]) -> dict[str, str]:
    """Return the contract's variables, those of the host that it names, and the arguments'.

    An argument takes precedence over a variable of the host; neither changes what the contract fixes.
    """
    passed = {name: os.environ[name] for name in spec.env_passthrough if name in os.environ}
    if isinstance(spec, IsolatedEngineSpec):
        places = sorted(name for name in passed if _NAMES_A_PLACE.fullmatch(name) and name not in spec.env)
        if places:
            verb = "names" if len(places) == 1 else "name"
            notes.append(
                f"env_passthrough: not passed on: {', '.join(places)}, which {verb} places of the host; "
                "set them under 'env' if the tool needs them"
            )
        passed = {name: value for name, value in passed.items() if name not in places}
    return {**passed, **spec.env, **argument_variables(_as_variables(spec, values), fixed=spec.env)}


def _refuse_own_variables(spec: ProcessEngineSpec, contract: ToolContract) -> None:
    """Keep what Praxis is told by its environment, secrets and passwords of stores among it, from untrusted tools."""
    own = next((name for name in spec.env_passthrough if name.upper().startswith("PRAXIS_")), None)
    if own is not None and not contract.trusted:
        raise ValidationError(
            f"engineSpec.env_passthrough: '{own}' is meant for Praxis; an untrusted contract cannot have it",
            remedy="leave it out; a secret is named under 'env' as secret://NAME",
        )


def _as_variables(spec: ProcessEngineSpec, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that the environment must hold: all, or those that a script of the command refers to."""
    if spec.arguments in ("env", "both"):
        return dict(values)
    named = set(placeholders(spec.command))
    return {name: value for name, value in values.items() if name in named}


def _stdin(
    spec: ProcessEngineSpec, contract: ToolContract, values: Mapping[str, Any], context: RunContext
) -> bytes | int | None:
    own = fill_stdin(spec, contract.parameters, values)
    if own is not None and context.stdin is not None:
        raise ValidationError(
            f"stdin: '{contract.name}' fills its standard input itself",
            remedy="leave it out, or use --no-stdin",
        )
    return own if own is not None else context.stdin


def _mounts(spec: IsolatedEngineSpec, contract: ToolContract, context: RunContext) -> tuple[ToolMount, ...]:
    wanted = parse_mounts(spec.mounts)
    workspace = context.workspace.resolve()
    if not wanted or contract.trusted:
        return resolve_mounts(wanted, workspace)
    policy = MountPolicy.of_this_host((workspace, *context.allow_mounts))
    return resolve_mounts(wanted, workspace, policy)


def _refuse_host_access(spec: IsolatedEngineSpec, contract: ToolContract) -> None:
    if contract.trusted:
        return
    if isinstance(spec, ContainerEngineSpec) and spec.privileged:
        raise ValidationError(
            "engineSpec.privileged: only a trusted tool may have the host's privileges",
            remedy="add 'trust: trusted' to the contract if it is yours",
        )
    if spec.network == "host":
        raise ValidationError(
            "engineSpec.network: only a trusted tool may use the host's own network",
            remedy="add 'trust: trusted' to the contract if it is yours",
        )
