"""Engine specs: what a contract asks of each kind of engine (spec 1, "Contract Structure"; spec 2)."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import AliasChoices, ConfigDict, Field, field_validator, model_validator

from praxis_sdk.execution import plugins
from praxis_sdk.execution.contract.fields import (
    Command,
    ContractPart,
    Cores,
    Count,
    Delivery,
    Flag,
    Headers,
    Image,
    InsidePath,
    MountMap,
    OutputPattern,
    Seconds,
    Secret,
    Size,
    Text,
    Url,
    VariableName,
    Variables,
    read_flag,
)
from praxis_sdk.execution.mounts.mounts import parse_mounts

_PORT: Final = "(6553[0-5]|655[0-2][0-9]|65[0-4][0-9]{2}|6[0-4][0-9]{3}|[1-5][0-9]{4}|[1-9][0-9]{0,3})"
Port = Annotated[str, Field(pattern=f"^{_PORT}:{_PORT}(/(tcp|udp))?$")]


class EngineType(StrEnum):
    """The kinds of engines that a contract can name."""

    DAGGER = "dagger"
    LOCAL = "local"
    REMOTE_MCP = "remote-mcp"
    MCP_STDIO = "mcp-stdio"
    SANDBOX = "sandbox"
    DOCKER = "docker"
    KUBERNETES = "kubernetes"

    @classmethod
    def _missing_(cls, value: object) -> EngineType | None:
        """Accept the spellings found in the wild: 'Dagger', 'remote_mcp', 'REMOTE-MCP'."""
        name = value.strip().lower().replace("_", "-") if isinstance(value, str) else ""
        found = next((member for member in cls if member.value == name), None)
        return found if found is not None or not isinstance(value, str) else cls._custom(value.strip())

    @classmethod
    def _custom(cls, name: str) -> EngineType | None:
        """Make the member for an engine of others, which is no kind of its own to iterate over; None: unknown."""
        if not plugins.is_custom(name):
            return None
        made = str.__new__(cls, name)
        made._name_, made._value_ = name, name
        return cls._value2member_map_.setdefault(name, made)  # type: ignore[return-value]

    @property
    def builtin(self) -> bool:
        """Whether it is an engine of Praxis itself."""
        return self.name in EngineType.__members__


class EngineSpec(ContractPart):
    """What every engine spec has: a time limit."""

    timeout: Seconds = Field(300, description="Wall-clock limit of a run, in seconds.")
    output_limit: Size = Field(
        "16m",
        validation_alias=AliasChoices("output_limit", "outputLimit"),
        description="Most bytes kept of stdout and of stderr; a tool that writes more is ended.",
    )


class ProcessEngineSpec(EngineSpec):
    """What every engine that starts a process needs to know."""

    command: Command = Field(
        default_factory=list,
        description="Program and its arguments; {{name}} stands for an argument. One line is split into words, "
        "unless 'shell' is set: then it is a script.",
    )
    shell: Flag = Field(False, description="Run the command as a script for /bin/sh.")
    arguments: Delivery = Field(
        "env",
        description="How arguments reach the tool: as environment variables ('env'), as options on the command line "
        "('argv'), as both, or as a JSON object on standard input ('stdin').",
    )
    stdin: Text | None = Field(
        None,
        description="Text for standard input, with {{name}} for arguments; else it is the caller's to give.",
    )
    outputs: list[OutputPattern] = Field(
        default_factory=list,
        description="Files to collect from the working directory, which is then fresh and writable: '*.csv', "
        "'plots/**/*.png'.",
    )
    env: Variables = Field(default_factory=dict, description="Environment variables to set.")
    env_passthrough: list[VariableName] = Field(
        default_factory=list,
        validation_alias=AliasChoices("env_passthrough", "envPassthrough"),
        description="Names of host variables to pass on.",
    )

    @model_validator(mode="before")
    @classmethod
    def _script_is_one_word(cls, data: Any) -> Any:
        """Keep a script whole: only without a shell is one line split into words."""
        if isinstance(data, Mapping) and isinstance(data.get("command"), str) and _is_set(data.get("shell")):
            return {**data, "command": [data["command"]]}
        return data


class IsolatedEngineSpec(ProcessEngineSpec):
    """A process with a file system of its own: mounts, limits, network."""

    mounts: MountMap = Field(
        default_factory=dict,
        description="Host path to path inside, with ':ro' or ':rw' (default) behind the latter.",
    )
    working_dir: InsidePath | None = Field(
        None,
        validation_alias=AliasChoices("working_dir", "workingDir", "workdir"),
        description="Working directory inside.",
    )
    memory_limit: Size | None = Field(
        None, validation_alias=AliasChoices("memory_limit", "memoryLimit"), description="For example '512m'."
    )
    cpu_limit: Cores | None = Field(
        None,
        validation_alias=AliasChoices("cpu_limit", "cpuLimit"),
        description="Processor cores, for example 1.5.",
    )
    pids_limit: Count = Field(
        256,
        validation_alias=AliasChoices("pids_limit", "pidsLimit"),
        description="Most processes and threads at once.",
    )
    limits: Literal["best-effort", "strict"] = Field(
        "best-effort",
        description="'strict' refuses to run where a limit named here would not hold for all processes together.",
    )
    network: Text | None = Field(
        None, description="Network to join; 'none' unless given. What names exist depends on the engine."
    )

    @field_validator("mounts")
    @classmethod
    def _mounts_are_sound(cls, mounts: dict[str, str]) -> dict[str, str]:
        parse_mounts(mounts)
        return mounts


class ContainerEngineSpec(IsolatedEngineSpec):
    """A process in a container made from an image."""

    image: Image = Field(description="Container image, for example 'python:3.11-slim'.")
    privileged: Flag = Field(False, description="Run with the host's privileges; trusted tools only.")


class DaggerEngineSpec(ContainerEngineSpec):
    """A container run by a Dagger engine (spec 2)."""

    pip_cache: Flag = Field(
        False,
        validation_alias=AliasChoices("pip_cache", "pipCache"),
        description="Keep pip's cache in a Dagger cache volume between runs; trusted tools only.",
    )


class DockerEngineSpec(ContainerEngineSpec):
    """A container run by a Docker daemon: the Dagger spec and what only Docker knows."""

    runtime: Text | None = Field(None, description="OCI runtime, for example 'runsc' for gVisor.")
    user: Text | None = Field(
        None, description="User inside as 'uid' or 'uid:gid'; never root unless trusted."
    )
    entrypoint: Command | None = Field(
        None,
        description="Program that is given the command as its arguments; 'image' for the image's own entrypoint, "
        "which is not used otherwise.",
    )
    gpus: Literal["all"] | Count | None = Field(
        None, description="GPUs to give to the tool: a number, or 'all'."
    )
    ports: list[Port] = Field(
        default_factory=list,
        description="Ports to publish on 127.0.0.1 as 'HOST:CONTAINER'; trusted tools with a network only.",
    )
    tmpfs_size: Size = Field(
        "64m",
        validation_alias=AliasChoices("tmpfs_size", "tmpfsSize"),
        description="Size of the writable /tmp.",
    )


class SandboxEngineSpec(IsolatedEngineSpec):
    """A process of the host's own programs in fresh namespaces."""

    image: Text | None = Field(None, description="Ignored: the sandbox runs the host's programs.")
    scratch_size: Size = Field(
        "256m",
        validation_alias=AliasChoices("scratch_size", "scratchSize"),
        description="Most bytes the tool may have written at any time, in /tmp and all its mounts together.",
    )
    file_size_limit: Size | None = Field(
        None,
        validation_alias=AliasChoices("file_size_limit", "fileSizeLimit"),
        description="Most bytes in one file.",
    )


class KubernetesEngineSpec(ContainerEngineSpec):
    """A container in a pod of a Kubernetes cluster."""

    namespace: Text = Field("default", description="Namespace of the pod.")
    service_account: Text | None = Field(
        None,
        validation_alias=AliasChoices("service_account", "serviceAccount"),
        description="Account of the pod.",
    )


class LocalEngineSpec(ProcessEngineSpec):
    """A plain process of the host; trusted tools only."""

    cwd: Text | None = Field(None, description="Working directory on the host; the workspace unless given.")
    capture_output: Flag = Field(
        True,
        validation_alias=AliasChoices("capture_output", "captureOutput"),
        description="Collect stdout and stderr; otherwise they are discarded.",
    )


class RemoteMCPEngineSpec(EngineSpec):
    """A tool of a remote MCP server."""

    timeout: Seconds = Field(30, description="Wall-clock limit of a call, in seconds.")
    address: Url = Field(description="URL of the server's streamable HTTP endpoint.")
    headers: Headers = Field(default_factory=dict, description="HTTP headers to send.")
    auth_token: Secret | None = Field(
        None, validation_alias=AliasChoices("auth_token", "authToken"), description="Bearer token."
    )
    tool: Text | None = Field(
        None, description="Name of the tool on the server; the contract's unless given."
    )
    transport: Literal["streamable-http"] = Field("streamable-http", description="How MCP is spoken.")


class McpStdioEngineSpec(SandboxEngineSpec):
    """A tool of an MCP server that the command starts, and that speaks MCP on its stdin and stdout."""

    tool: Text | None = Field(
        None, description="Name of the tool on the server; the contract's unless given."
    )


class CustomEngineSpec(EngineSpec):
    """What an engine of others needs to know: its own to check."""

    model_config = ConfigDict(extra="allow")
    takes_any_key: ClassVar[bool] = True


class _Specs(dict[EngineType, type[EngineSpec]]):
    """The spec of each engine; an engine of others has one that takes any field."""

    def __missing__(self, engine: EngineType) -> type[EngineSpec]:
        return CustomEngineSpec


SPEC_OF: Final = _Specs(
    {
        EngineType.DAGGER: DaggerEngineSpec,
        EngineType.LOCAL: LocalEngineSpec,
        EngineType.REMOTE_MCP: RemoteMCPEngineSpec,
        EngineType.MCP_STDIO: McpStdioEngineSpec,
        EngineType.SANDBOX: SandboxEngineSpec,
        EngineType.DOCKER: DockerEngineSpec,
        EngineType.KUBERNETES: KubernetesEngineSpec,
    }
)


def _is_set(flag: object) -> bool:
    try:
        return bool(read_flag(flag))
    except ValueError:  # the field itself reports it
        return False


def infer_engine_type(engine_spec: Mapping[str, Any]) -> EngineType:
    """Name the engine that a spec without one asks for: an address, an image, or neither."""
    if engine_spec.get("address") is not None:
        return EngineType.REMOTE_MCP
    return EngineType.DOCKER if engine_spec.get("image") is not None else EngineType.SANDBOX
