"""What a contract becomes on an engine other than the one it names.

dagger, docker, kubernetes   one another's specs, field by field: all run an image
sandbox                      takes those too, with the host's programs in place of the image
local                        takes any process, without mounts and limits; trusted tools only
remote-mcp                   stands alone
"""

from __future__ import annotations

from dataclasses import dataclass

import pydantic

from praxis_sdk.errors import ValidationError
from praxis_sdk.execution.contract.contract import ToolContract
from praxis_sdk.execution.contract.specs import (
    SPEC_OF,
    ContainerEngineSpec,
    DockerEngineSpec,
    EngineSpec,
    EngineType,
    IsolatedEngineSpec,
    LocalEngineSpec,
)


@dataclass(frozen=True)
class PortedSpec:
    """The spec by which an engine runs a contract, and what the caller should know about it."""

    spec: EngineSpec
    notes: tuple[str, ...] = ()


def port_spec(contract: ToolContract, target: EngineType) -> PortedSpec:
    """Say by which spec an engine of another type can run a contract.

    Raises:
        ValidationError: it cannot; the message says which field stands in the way.
    """
    own = contract.get_typed_spec()
    if contract.engine is target:
        return PortedSpec(own)
    if {EngineType.REMOTE_MCP, EngineType.MCP_STDIO} & {contract.engine, target}:
        raise _unfit(
            contract, target, "a remote MCP tool is called, not started, so no other engine can stand in"
        )
    notes: list[str] = []
    known = {key for keys in SPEC_OF[target].spellings().values() for key in keys}
    fields = {key: value for key, value in contract.engine_spec.items() if key in known}
    if isinstance(own, LocalEngineSpec) and own.cwd is not None:
        raise _unfit(contract, target, "engineSpec.cwd is a directory of the host")
    if target is EngineType.LOCAL:
        _refuse_lost_fields(contract, own)
    if isinstance(own, DockerEngineSpec):
        _refuse_lost_docker_fields(contract, own, target)
    if isinstance(own, ContainerEngineSpec) and target in (EngineType.SANDBOX, EngineType.LOCAL):
        if own.privileged:
            raise _unfit(contract, target, "engineSpec.privileged is set")
        fields.pop("image", None)
        notes.append(f"image '{own.image}' is not used: the tool runs the host's own programs")
    try:
        return PortedSpec(SPEC_OF[target].model_validate(fields), tuple(notes))
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise _unfit(contract, target, f"engineSpec.{field}: {first['msg'].lower()}") from error


def _refuse_lost_fields(contract: ToolContract, own: EngineSpec) -> None:
    if not isinstance(own, IsolatedEngineSpec):
        return
    for field in ("mounts", "memory_limit", "cpu_limit", "working_dir"):
        if getattr(own, field):
            raise _unfit(
                contract, EngineType.LOCAL, f"engineSpec.{field} needs a file system or limits of its own"
            )


def _refuse_lost_docker_fields(contract: ToolContract, own: DockerEngineSpec, target: EngineType) -> None:
    """A runtime such as gVisor's is isolation that was asked for; no other engine has it."""
    for field in ("runtime", "user", "entrypoint", "gpus", "ports"):
        if getattr(own, field):
            raise _unfit(contract, target, f"engineSpec.{field} is known to Docker alone")


def _unfit(contract: ToolContract, target: EngineType, reason: str) -> ValidationError:
    return ValidationError(
        f"engine: '{contract.name}' is written for '{contract.engine}' and cannot run on '{target}': {reason}",
        remedy=f"run it with --engine {contract.engine}",
    )
