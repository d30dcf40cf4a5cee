"""The keys of a contract: which are known, where they belong, and what an unknown one may have meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from praxis_sdk.execution.contract.contract import ToolContract
from praxis_sdk.execution.contract.fields import EXTENSION, ContractPart
from praxis_sdk.execution.contract.parameters import OBJECT_KEYS, ToolParameter
from praxis_sdk.execution.contract.problems import DocumentPath
from praxis_sdk.execution.contract.specs import SPEC_OF, EngineType, infer_engine_type

SPEC_KEYS: Final = ToolContract.spellings()["engine_spec"]
PARAMETER_KEYS: Final = ToolContract.spellings()["parameters"]

# What other systems call a field -> its name here.
_ELSEWHERE_CALLED: Final = {
    "cmd": "command", "entrypoint": "command", "run": "command", "script": "command",
    "cwd": "working_dir", "environment": "env", "volumes": "mounts", "binds": "mounts",
    "memory": "memory_limit", "mem_limit": "memory_limit", "cpus": "cpu_limit", "cpu": "cpu_limit",
    "pids": "pids_limit", "network_mode": "network", "url": "address", "endpoint": "address", "uri": "address",
    "token": "auth_token", "api_key": "auth_token", "inputs": "parameters", "arguments": "parameters",
    "args": "parameters", "spec": "engineSpec", "title": "name", "optional": "required", "desc": "description",
    "help": "description", "timeout_s": "timeout", "timeout_seconds": "timeout",
}  # fmt: skip


@dataclass(frozen=True)
class KeyFinding:
    """A key that is not as it should be; `path` ends in it."""

    path: DocumentPath
    message: str
    remedy: str


def engine_of(contract: Mapping[str, Any]) -> EngineType | None:
    """Name the engine that a contract as written asks for, or None where that cannot be said."""
    engine = contract.get("engine")
    spec = next((contract[key] for key in SPEC_KEYS if isinstance(contract.get(key), Mapping)), None)
    if engine is None:
        return None if spec is None else infer_engine_type(spec)
    try:
        return EngineType(engine)
    except ValueError:
        return None


def doubled_keys(contract: Mapping[str, Any]) -> Iterator[KeyFinding]:
    """Go through the keys that say again, in another spelling, what a key before them said."""
    for path, part, models in _parts(contract):
        for model in models[:1]:
            for keys in model.spellings().values():
                first, *others = [key for key in part if key in keys and part[key] is not None] or [""]
                for other in others:
                    yield KeyFinding((*path, other), f"the same field as '{first}'", "keep one of them")


def unknown_keys(contract: Mapping[str, Any]) -> Iterator[KeyFinding]:
    """Go through the keys that mean nothing where they stand."""
    for path, part, models in _parts(contract):
        known = dict.fromkeys(key for model in models for key in _keys(model))
        for key in part:
            if key not in known and not key.startswith(EXTENSION):
                yield KeyFinding((*path, key), "unknown key", _hint(key, path, known))


def _parts(
    contract: Mapping[str, Any],
) -> Iterator[tuple[DocumentPath, Mapping[str, Any], tuple[type[ContractPart], ...]]]:
    """Go through the mappings of a contract whose keys are ours, each with the models that may read it."""
    yield (), contract, (ToolContract,)
    engine = engine_of(contract)
    models = tuple(SPEC_OF.values()) if engine is None else (SPEC_OF[engine],)
    for key in SPEC_KEYS:
        if isinstance(contract.get(key), Mapping) and not all(model.takes_any_key for model in models):
            yield (key,), contract[key], models
    for key in PARAMETER_KEYS:
        for path, parameter in _parameters((key,), contract.get(key)):
            if isinstance(parameter, Mapping):
                yield path, parameter, (ToolParameter,)


def _parameters(path: DocumentPath, written: object) -> Iterator[tuple[DocumentPath, object]]:
    """Go through the parameters of a contract in any of the forms that `read_parameters` reads."""
    if isinstance(written, list):
        yield from (((*path, index), parameter) for index, parameter in enumerate(written))
    elif isinstance(written, Mapping):
        if isinstance(written.get("properties"), Mapping):
            yield from _parameters((*path, "properties"), dict(written["properties"]) | {"properties": None})
        elif not (written.get("type") == "object" and OBJECT_KEYS.issuperset(written)):
            yield from (((*path, name), parameter) for name, parameter in written.items())


def _keys(model: type[ContractPart]) -> Iterator[str]:
    for keys in model.spellings().values():
        yield from keys
    yield from model.further_keys


def _hint(key: str, path: DocumentPath, known: Iterable[str]) -> str:
    candidates = list(known)
    same = next((name for name in candidates if _bare(name) == _bare(key)), None)
    if same is not None:
        return f"did you mean '{same}'?"
    if not path and any(key in _keys(model) for model in SPEC_OF.values()):
        return "it belongs under 'engineSpec'"
    if path and path[0] in SPEC_KEYS:
        if key in _keys(ToolContract):
            return "it belongs at the top level, beside 'name'"
        others = [engine.value for engine, model in SPEC_OF.items() if key in _keys(model)]
        if others:
            known_there = f"only {_listed(others)} know{'s' if len(others) == 1 else ''} it"
            meant = _ELSEWHERE_CALLED.get(key.lower())
            return f"{known_there}; did you mean '{meant}'?" if meant in candidates else known_there
    meant = _ELSEWHERE_CALLED.get(key.lower())
    near = [meant] if meant in candidates else difflib.get_close_matches(key[:100], candidates, n=1)
    return f"did you mean '{near[0]}'?" if near else f"remove it, or name it '{EXTENSION}...' if it is yours"


def _bare(name: str) -> str:
    return name.replace("_", "").replace("-", "").lower()


def _listed(names: list[str]) -> str:
    quoted = [f"'{name}'" for name in names]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} and {quoted[-1]}"
