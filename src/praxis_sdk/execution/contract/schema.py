"""The JSON Schema of contracts, made from the models that read them.

Editors use it (docs/reference/contract.schema.json), and `praxis validate`. It accepts every contract
that the models accept. The models refuse a little more, which no schema can say:

    a mount target used twice or reserved      a parameter, variable, header or mount given twice
    a command with an unbalanced quote         a default that its own parameter refuses
    a size or duration out of bounds as text   constraints that are themselves no JSON Schema

Unknown keys are allowed here; loading warns about them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from typing import Any, Final

from pydantic.fields import FieldInfo

from praxis_sdk.execution.contract.contract import ToolContract
from praxis_sdk.execution.contract.fields import ContractPart, any_case
from praxis_sdk.execution.contract.parameters import JSON_TYPES, MAX_PARAMETERS, OBJECT_KEYS, ToolParameter
from praxis_sdk.execution.contract.specs import SPEC_OF, EngineType

SCHEMA_ID: Final = "urn:praxis:contract:1"

_Schema = dict[str, Any]
_NULL: Final[_Schema] = {"type": "null"}
_NOT_NULL: Final[_Schema] = {"not": {"type": "null"}}


@cache
def contract_schema() -> _Schema:
    """Return the JSON Schema (draft 2020-12) of contracts; shared, so not to be changed."""
    schema = _part_schema(ToolContract, inferred=("engine",))
    spec_keys = ToolContract.spellings()["engine_spec"]
    for key in spec_keys:
        schema["properties"][key] = {
            "type": ["object", "null"],
            "description": _described(ToolContract)["engine_spec"],
        }
    for key in ToolContract.spellings()["parameters"]:
        schema["properties"][key] = {"$ref": "#/$defs/parameters"}
    schema["allOf"] += [_when_engine_is(engine, spec_keys) for engine in EngineType]
    schema["allOf"].append(_when_engine_is_missing(spec_keys))
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": SCHEMA_ID,
        "title": "Praxis tool contract",
        **schema,
        "$defs": {
            "parameters": _parameters_schema(),
            "parameter": _part_schema(ToolParameter),
            "parameterByName": _parameter_by_name_schema(),
            **{engine.value: _part_schema(model) for engine, model in SPEC_OF.items()},
        },
    }


def describe_fields(model: type[ContractPart]) -> dict[str, str]:
    """Return what each field of a model is for: its description, or its line in the docstring."""
    return dict(_described(model))


@cache
def _described(model: type[ContractPart]) -> dict[str, str]:
    lines = dict(re.findall(r"^ {8}(\w+): (.+)$", model.__doc__ or "", re.MULTILINE))
    return {name: field.description or lines.get(name, "") for name, field in model.model_fields.items()}


def _part_schema(model: type[ContractPart], *, inferred: Iterable[str] = ()) -> _Schema:
    """Make the schema of one mapping of a contract.

    Args:
        model: the model that reads it.
        inferred: fields that have other forms than the model's own, because their value comes from
            elsewhere where they are missing.
    """
    own = model.model_json_schema(by_alias=False, mode="validation")["properties"]
    properties: _Schema = {}
    required: list[str] = []
    rules: list[_Schema] = []
    for name, keys in model.spellings().items():
        field = model.model_fields[name]
        form: _Schema = (
            {} if name == "parameters" or _reads_itself(model, name, inferred) else dict(own[name])
        )
        if name == "required" and name in inferred:
            form = {"anyOf": [own[name], {"type": "array"}]}
        form.pop("title", None)
        form["description"] = _described(model)[name]
        if field.is_required() and name not in inferred:
            required.append(name)
        else:
            form = _nullable(form, field)
        properties |= dict.fromkeys(keys, form)
        rules += [
            {"not": {"required": [a, b], "properties": {a: _NOT_NULL, b: _NOT_NULL}}}
            for index, a in enumerate(keys)
            for b in keys[index + 1 :]
        ]
    schema: _Schema = {"type": "object", "description": _summary(model), "properties": properties}
    return schema | ({"required": required} if required else {}) | ({"allOf": rules} if rules else {})


def _reads_itself(model: type[ContractPart], name: str, inferred: Iterable[str]) -> bool:
    """Tell whether a field takes anything: a parameter's name where it is the key already."""
    return model is ToolParameter and name == "name" and name in inferred


def _nullable(form: _Schema, field: FieldInfo) -> _Schema:
    """Allow an empty value, which means 'not given'."""
    texts: _Schema = {key: form.pop(key) for key in ("description", "default") if key in form}
    if texts.get("default", ...) is None:
        del texts["default"]
    if not form:
        return texts
    choices = form["anyOf"] if set(form) == {"anyOf"} else [form]
    return {**texts, "anyOf": [*choices, *([] if _NULL in choices else [_NULL])]}


def _parameters_schema() -> _Schema:
    name: _Schema = ToolParameter.model_json_schema()["properties"]["name"]
    named: _Schema = {
        "maxProperties": MAX_PARAMETERS,
        "propertyNames": {key: name[key] for key in ("minLength", "maxLength", "pattern")},
        "additionalProperties": {"$ref": "#/$defs/parameterByName"},
    }
    names = {"type": ["array", "null"], "items": {"type": "string"}}
    nothing = {
        "required": ["type"],
        "properties": {"type": {"const": "object"}},
        "propertyNames": {"enum": sorted(OBJECT_KEYS)},
    }
    mapping = {
        "if": {"required": ["properties"], "properties": {"properties": {"type": "object"}}},
        "then": {"properties": {"properties": named, "required": names}},
        "else": {"if": nothing, "then": {"properties": {"required": names}}, "else": named},
    }
    listed = {"maxItems": MAX_PARAMETERS, "items": {"$ref": "#/$defs/parameter"}}
    return {
        "description": "A list of parameters, a JSON Schema of an object, or a mapping of name to type or schema.",
        "type": ["array", "object", "null"],
        "allOf": [_when("array", listed), _when("object", mapping)],
    }


def _parameter_by_name_schema() -> _Schema:
    type_name = {"pattern": any_case(*JSON_TYPES)}
    parameter = _part_schema(ToolParameter, inferred=("name", "required"))
    return {
        "type": ["string", "object", "null"],
        "allOf": [_when("string", type_name), _when("object", parameter)],
    }


def _when(kind: str, schema: _Schema) -> _Schema:
    """Apply a schema to one kind of value only; unlike `anyOf`, this keeps the places of faults."""
    return {"if": {"type": kind}, "then": schema}


def _when_engine_is(engine: EngineType, spec_keys: Iterable[str]) -> _Schema:
    name = {"type": "string", "pattern": any_case(engine.value, engine.name)}
    return {
        "if": {"required": ["engine"], "properties": {"engine": name}},
        "then": _spec_is({"$ref": f"#/$defs/{engine.value}"}, spec_keys, needed=_needs_fields(engine)),
    }


def _when_engine_is_missing(spec_keys: Iterable[str]) -> _Schema:
    """Say which spec it is by its fields, as `infer_engine_type` does."""
    inferred: _Schema = {"$ref": f"#/$defs/{EngineType.SANDBOX}"}
    for field, engine in (("image", EngineType.DOCKER), ("address", EngineType.REMOTE_MCP)):
        inferred = {
            "if": {"required": [field], "properties": {field: _NOT_NULL}},
            "then": {"$ref": f"#/$defs/{engine}"},
            "else": inferred,
        }
    return {
        "if": {"properties": {"engine": _NULL}},
        "then": _spec_is(inferred, spec_keys, needed=True),
    }


def _spec_is(spec: _Schema, spec_keys: Iterable[str], *, needed: bool) -> _Schema:
    keys = tuple(spec_keys)
    schema: _Schema = {"properties": {key: _when("object", spec) for key in keys}}
    if needed:
        schema["anyOf"] = [{"required": [key], "properties": {key: {"type": "object"}}} for key in keys]
    return schema


def _needs_fields(engine: EngineType) -> bool:
    return any(field.is_required() for field in SPEC_OF[engine].model_fields.values())


def _summary(model: type[ContractPart]) -> str:
    return (model.__doc__ or "").strip().split("\n", 1)[0]
