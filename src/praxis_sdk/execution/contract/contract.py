"""Tool contracts: a tool, its parameters and what it takes to run it (spec 1, "Tool Contract System")."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import (
    AliasChoices,
    BeforeValidator,
    Field,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from praxis_sdk.execution.contract.fields import ContractPart, Text, any_case
from praxis_sdk.execution.contract.parameters import ToolParameter, read_parameters
from praxis_sdk.execution.contract.specs import (
    SPEC_OF,
    EngineSpec,
    EngineType,
    infer_engine_type,
)


class Trust(StrEnum):
    """Whether a tool may run without isolation (DESIGN: trust is declared per executable)."""

    UNTRUSTED = "untrusted"
    TRUSTED = "trusted"

    @classmethod
    def _missing_(cls, value: object) -> Trust | None:
        """Accept any case: 'Trusted'."""
        word = value.strip().lower() if isinstance(value, str) else ""
        return next((member for member in cls if member.value == word), None)


def _spelled(members: type[StrEnum], *spellings: str) -> WithJsonSchema:
    """Offer the values of an enum to editors, and accept its other spellings."""
    pattern = {"type": "string", "pattern": any_case(*spellings)}
    return WithJsonSchema({"anyOf": [{"enum": [m.value for m in members]}, pattern]}, mode="validation")


def _version(value: object) -> object:
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


class ToolContract(ContractPart):
    """A tool: its parameters and what it takes to run it (spec 1, "Tool Contract System").

    Args:
        name: how people call the tool.
        engine: the kind of engine it is written for; inferred from the spec where it is missing.
        engine_spec: the fields of that engine's spec, also read as `engineSpec`.
        parameters: what the tool can be given, also read as `params`; a list, or a JSON Schema.
        description: what the tool does.
        version: the version of the contract.
        trust: 'trusted' lets the tool run without isolation; nothing else does.

    Raises:
        pydantic.ValidationError: a field is missing or unsound.
    """

    # How the tool takes and gives things is also read at the top level, beside its parameters.
    further_keys = frozenset({"arguments", "stdin", "outputs"})

    name: str = Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")
    engine: Annotated[
        EngineType,
        _spelled(
            EngineType, *(e.value for e in EngineType), EngineType.REMOTE_MCP.name, EngineType.MCP_STDIO.name
        ),
    ]
    engine_spec: dict[str, Any] = Field(
        default_factory=dict,
        validation_alias=AliasChoices("engine_spec", "engineSpec"),
        validate_default=True,
    )
    parameters: Annotated[list[ToolParameter], BeforeValidator(read_parameters)] = Field(
        default_factory=list, validation_alias=AliasChoices("parameters", "params")
    )
    description: str | None = None
    version: (
        Annotated[
            Text, BeforeValidator(_version), WithJsonSchema({"type": ["string", "number"]}, mode="validation")
        ]
        | None
    ) = None
    trust: Annotated[Trust, _spelled(Trust, *Trust)] = Trust.UNTRUSTED

    @model_validator(mode="before")
    @classmethod
    def _move_into_the_spec(cls, data: Any) -> Any:
        moved = {key: data[key] for key in cls.further_keys if key in data} if isinstance(data, dict) else {}
        if not moved:
            return data
        name = "engineSpec" if data.get("engine_spec") is None else "engine_spec"
        spec = {} if data.get(name) is None else data[name]
        if not isinstance(spec, dict):  # the field itself reports it
            return data
        both = next((key for key in moved if spec.get(key) is not None), None)
        if both is not None:
            raise ValueError(f"{both!r} is given at the top level and under {name!r}; keep one of them")
        return {**{key: value for key, value in data.items() if key not in moved}, name: {**spec, **moved}}

    @model_validator(mode="before")
    @classmethod
    def _infer_engine(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("engine") is None:
            spec = data.get("engineSpec") if data.get("engine_spec") is None else data["engine_spec"]
            if isinstance(spec, dict):
                return {**data, "engine": infer_engine_type(spec)}
        return data

    @field_validator("engine_spec")
    @classmethod
    def _spec_is_sound(cls, engine_spec: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        engine = info.data.get("engine")
        if engine is not None:  # None: the engine itself was refused, and that error is enough
            SPEC_OF[engine].model_validate(engine_spec)
        return engine_spec

    @property
    def trusted(self) -> bool:
        """Whether the tool may run without isolation."""
        return self.trust is Trust.TRUSTED

    def get_typed_spec(self) -> EngineSpec:
        """Read `engine_spec` as the spec class of the contract's engine.

        Returns:
            A `DaggerEngineSpec`, `LocalEngineSpec`, `RemoteMCPEngineSpec`, ... with defaults filled in.

        Raises:
            pydantic.ValidationError: a field is missing or unsound.
        """
        return SPEC_OF[self.engine].model_validate(self.engine_spec)

    @classmethod
    def create_dagger_tool(
        cls,
        name: str,
        image: str,
        command: list[str],
        mounts: dict[str, str] | None = None,
        env: dict[str, str] | None = None,
        parameters: list[ToolParameter] | None = None,
        description: str | None = None,
        **spec: Any,
    ) -> Self:
        """Make the contract of a tool that runs in a container.

        Args:
            name, image, command, mounts, env: as in `DaggerEngineSpec`.
            parameters, description: as in `ToolContract`.
            spec: further fields of `DaggerEngineSpec`.
        """
        engine_spec = {"image": image, "command": command, "mounts": mounts or {}, "env": env or {}, **spec}
        return cls(
            name=name,
            engine=EngineType.DAGGER,
            engine_spec=engine_spec,
            parameters=parameters or [],
            description=description,
        )

    @classmethod
    def create_local_tool(
        cls,
        name: str,
        command: list[str],
        shell: bool = False,
        cwd: str | None = None,
        env: dict[str, str] | None = None,
        parameters: list[ToolParameter] | None = None,
        description: str | None = None,
        **spec: Any,
    ) -> Self:
        """Make the contract of a trusted tool that runs as a plain process of the host.

        Args:
            name, command, shell, cwd, env: as in `LocalEngineSpec`.
            parameters, description: as in `ToolContract`.
            spec: further fields of `LocalEngineSpec`.
        """
        engine_spec = {"command": command, "shell": shell, "cwd": cwd, "env": env or {}, **spec}
        return cls(
            name=name,
            engine=EngineType.LOCAL,
            engine_spec=engine_spec,
            parameters=parameters or [],
            description=description,
            trust=Trust.TRUSTED,
        )
