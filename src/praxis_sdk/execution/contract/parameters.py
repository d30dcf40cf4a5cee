"""The parameters a tool declares: their types, defaults and constraints (spec 1, `ToolParameter`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sized
from typing import Annotated, Any, Final

from pydantic import (
    AliasChoices,
    BeforeValidator,
    Field,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from praxis_sdk.execution.arguments.declared_secrets import declares_secret
from praxis_sdk.execution.arguments.values import explain, normalised, shown
from praxis_sdk.execution.contract.fields import ContractPart, Flag, any_case, kind_of
from praxis_sdk.execution.contract.json_schema import SchemaFault, first_fault

# What authors write -> the JSON Schema type it means. A path is a string: what it points to is not visible
# from outside the tool.
JSON_TYPES: Final = {
    "string": "string", "str": "string", "text": "string", "path": "string", "file": "string", "date": "string",
    "integer": "integer", "int": "integer",
    "number": "number", "float": "number",
    "boolean": "boolean", "bool": "boolean",
    "array": "array", "list": "array",
    "object": "object", "dict": "object", "json": "object",
    "any": "any",
}  # fmt: skip
MAX_PARAMETERS: Final = 500
OPTION: Final = r"^-[^\s\x00=]{1,127}$"
_MAX_NAME_LENGTH: Final = 128


def _type_name(value: object) -> object:
    """Read a type; a JSON Schema list of types is 'any' with the list kept as a constraint."""
    if isinstance(value, str):
        known = JSON_TYPES.get(value.strip().lower())
        if known is None:
            raise ValueError(f"{value[:40]!r} is not a type; known are {_KNOWN_TYPES}")
        return known
    return value


_KNOWN_TYPES: Final = ", ".join(sorted(set(JSON_TYPES.values())))
_TYPE_SCHEMA: Final = {
    "anyOf": [
        {"enum": sorted(JSON_TYPES)},
        {"type": "string", "pattern": any_case(*JSON_TYPES)},
        {"type": "array", "items": {"type": "string"}},
    ]
}


# The keywords of JSON Schema that constrain a value and can stand beside a parameter's name and type.
KEYWORDS: Final = (
    "enum", "const", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minLength",
    "maxLength", "pattern", "format", "items", "prefixItems", "contains", "minContains", "maxContains",
    "minItems", "maxItems", "uniqueItems", "properties", "patternProperties", "additionalProperties",
    "propertyNames", "minProperties", "maxProperties", "dependentRequired", "anyOf", "oneOf", "allOf", "not",
)  # fmt: skip
# Those that only describe.
ANNOTATIONS: Final = frozenset(
    {"title", "examples", "example", "deprecated", "readOnly", "writeOnly", "$comment"}
)


class ToolParameter(ContractPart):
    """One thing that a tool can be given.

    Args:
        name: the name callers use.
        type: string, integer, number, boolean, array, object or any (or a customary synonym).
        description: what it is for.
        required: whether a run without it is refused; also read from 'true' and 'false'.
        option: the option that announces it on a command line; `--NAME` unless given.
        positional: whether it stands on a command line by itself, behind the options.
        default: what the tool gets where the caller gives nothing.
        constraints: further JSON Schema keywords (`enum`, `minimum`, `pattern`, `items`, ...).
    """

    further_keys = ANNOTATIONS.union(KEYWORDS)

    name: str = Field(min_length=1, max_length=_MAX_NAME_LENGTH, pattern=r"^[^\x00-\x1f\x7f={}]+$")
    type: Annotated[str, BeforeValidator(_type_name), WithJsonSchema(_TYPE_SCHEMA, mode="validation")] = (
        "string"
    )
    description: str = ""
    required: Flag = False
    option: Annotated[str, Field(pattern=OPTION)] | None = None
    positional: Flag = False
    constraints: dict[str, Any] = Field(
        default_factory=dict,
        validation_alias=AliasChoices("constraints", "schema"),
        description="Further JSON Schema keywords, which can also stand beside the other fields.",
    )
    default: Any = None  # last, because it is checked against the others

    @model_validator(mode="before")
    @classmethod
    def _collect_constraints(cls, data: Any) -> Any:
        """Move JSON Schema keywords that stand beside name and type into `constraints`."""
        if not isinstance(data, Mapping):
            return data
        keywords = {
            key: data[key] for key in KEYWORDS if key in data and (data[key] is not None or key == "const")
        }
        data = dict(data)
        if isinstance(data.get("type"), list):
            keywords["type"], data["type"] = data["type"], "any"
        given = next((key for key in ("schema", "constraints") if data.get(key) is not None), "constraints")
        if keywords and isinstance(data.get(given) or {}, Mapping):
            data[given] = {**(data.get(given) or {}), **keywords}
        return data

    @field_validator("constraints")
    @classmethod
    def _constraints_are_sound(cls, constraints: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        first_fault(constraints, None)  # raises ValueError where it is not a JSON Schema
        choices = constraints.get("enum")
        if info.data.get("type") == "string" and isinstance(choices, list):
            odd = next((choice for choice in choices if isinstance(choice, bool | int | float)), None)
            if odd is not None:
                raise ValueError(f"'enum' holds {shown(odd)}, which is not text; put quotes around it")
        return constraints

    @field_validator("default")
    @classmethod
    def _default_is_sound(cls, default: Any, info: ValidationInfo) -> Any:
        if default is None or not {"type", "constraints"} <= info.data.keys():
            return default
        schema = _schema(info.data["type"], info.data["constraints"])
        value = normalised(schema, default)
        fault = first_fault(schema, value, formats=True)
        if fault is None:
            return value
        message, _ = explain(fault, hidden=declares_secret(schema))
        quotes = info.data["type"] == "string" and isinstance(default, bool | int | float)
        raise ValueError(
            f"does not satisfy the parameter's own type and constraints: {message}"
            + ("; put quotes around it" if quotes else "")
        )

    def json_schema(self) -> dict[str, Any]:
        """Return the JSON Schema that a value must satisfy."""
        return _schema(self.type, self.constraints)

    @property
    def secret(self) -> bool:
        """Whether its values, or parts of them, are secrets, which no message repeats."""
        return declares_secret(self.constraints)

    def fault_of(self, value: Any) -> SchemaFault | None:
        """Find what is wrong with a value; None where it satisfies type and constraints."""
        return first_fault(self.json_schema(), value, formats=True)


def _schema(type_name: str, constraints: Mapping[str, Any]) -> dict[str, Any]:
    return dict(constraints) if type_name == "any" else {**constraints, "type": type_name}


# What stands beside 'properties' in a JSON Schema of all parameters.
OBJECT_KEYS: Final = frozenset(
    {"type", "required", "additionalProperties", "title", "description", "$schema"}
)


def read_parameters(value: object) -> object:
    """Read parameters in any of the forms found in the wild.

    Accepted are a list of parameters, a JSON Schema object (`properties`, `required`) and a mapping
    of name to parameter, to JSON Schema or to type name.
    """
    if value is None:
        return []
    if isinstance(value, list):
        _no_doubles(str(item["name"]) for item in value if isinstance(item, Mapping) and "name" in item)
        _not_too_many(value)
        return value
    if not isinstance(value, Mapping):
        raise ValueError(f"must be a list, or a mapping of name to type or schema, not {kind_of(value)}")
    if value.get("type") == "object" and OBJECT_KEYS.issuperset(value):
        value = {"properties": {}, **value}
    if isinstance(value.get("properties"), Mapping):
        required = [] if value.get("required") is None else value["required"]
        if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
            raise ValueError("'required' must be a list of names")
        properties = value["properties"]
        _not_too_many(properties)
        missing = [name for name in required if name not in properties]
        if missing:
            raise ValueError(f"required parameter {missing[0]!r} is not among the properties")
        return [_from_schema(name, schema, name in required) for name, schema in properties.items()]
    _not_too_many(value)
    return [_from_schema(name, schema, False) for name, schema in value.items()]


def _from_schema(name: object, schema: object, required: bool) -> dict[str, Any]:
    if isinstance(schema, str):
        return {"name": name, "type": schema, "required": required}
    if schema is None:
        return {"name": name, "required": required}
    if not isinstance(schema, Mapping):
        raise ValueError(f"parameter {name!r} must be a type name or a mapping, not {kind_of(schema)}")
    # An object schema has a list under 'required': it speaks of the object's own properties.
    inner = {"required": schema["required"]} if isinstance(schema.get("required"), list) else {}
    flag = required if inner or "required" not in schema else schema["required"]
    fields = {**schema, "name": name, "required": flag}
    if "type" not in schema:
        fields["type"] = "any" if any(key in schema for key in KEYWORDS) else "string"
    given = schema.get("constraints") or {}
    if inner and isinstance(given, Mapping):  # otherwise the model says what is wrong with it
        fields["constraints"] = {**given, **inner}
    return fields


def _no_doubles(names: Iterable[str]) -> None:
    name, count = next(iter(Counter(names).most_common(1)), ("", 0))
    if count > 1:
        raise ValueError(f"parameter {name!r} is declared twice; keep one of them")


def _not_too_many(parameters: Sized) -> None:
    if len(parameters) > MAX_PARAMETERS:
        raise ValueError(f"more than {MAX_PARAMETERS} parameters; hand over a file with the data instead")
