"""The check of a contract as written: the models' and the schema's verdict in the author's own words and places."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import pydantic
from pydantic_core import ErrorDetails

from praxis_sdk.errors import ValidationError
from praxis_sdk.execution.arguments.arguments import build_command, fill_stdin
from praxis_sdk.execution.contract.contract import ToolContract
from praxis_sdk.execution.contract.fields import kind_of
from praxis_sdk.execution.contract.json_schema import faults
from praxis_sdk.execution.contract.keys import PARAMETER_KEYS, SPEC_KEYS, doubled_keys, unknown_keys
from praxis_sdk.execution.contract.problems import DocumentPath, Problem, field_name, is_secret
from praxis_sdk.execution.contract.schema import contract_schema
from praxis_sdk.execution.contract.specs import EngineType, ProcessEngineSpec
from praxis_sdk.execution.contract.yaml_source import YamlDocument

_Finding = tuple[DocumentPath, str, str]  # place, what is wrong, what to do


@dataclass(frozen=True)
class CheckResult:
    """What a check found.

    Args:
        contract: the contract; None where there are problems.
        problems: why it cannot be used.
        warnings: what its author may have meant differently.
    """

    contract: ToolContract | None
    problems: tuple[Problem, ...]
    warnings: tuple[Problem, ...]


def check_contract(document: YamlDocument) -> CheckResult:
    """Check a document, and find all that is wrong with it rather than the first thing."""
    written = document.value
    if not isinstance(written, Mapping):
        message = f"a contract is a mapping, not {kind_of(written)}"
        remedy = "begin with 'name: ...' and 'engine: ...'"
        return CheckResult(None, (*document.problems, Problem(document.source, 1, "", message, remedy)), ())
    doubled = [(found.path, found.message, found.remedy) for found in doubled_keys(written)]
    unknown = [(found.path, found.message, found.remedy) for found in unknown_keys(written)]
    contract, model_findings = _read(_without(written, (path for path, _, _ in (*doubled, *unknown))))
    findings = [*doubled, *model_findings]
    if findings:
        findings += _schema_findings(written, [path for path, _, _ in findings])
    if contract is not None:
        findings += _command_findings(contract, _spec_key(written))
    problems = {(problem.line, problem.field): problem for problem in document.problems}
    for problem in (_problem(document, found) for found in findings):
        problems.setdefault((problem.line, problem.field), problem)
    warnings = [_problem(document, found) for found in unknown]
    warnings += [_problem(document, found) for found in _doubts(contract, _spec_key(written))]
    return CheckResult(
        contract=None if problems else contract,
        problems=tuple(sorted(problems.values(), key=_line)),
        warnings=tuple(sorted(warnings, key=_line)),
    )


def _line(problem: Problem) -> int:
    return problem.line or 0


def _problem(document: YamlDocument, finding: _Finding) -> Problem:
    path, message, remedy = finding
    return Problem(document.source, document.line_of(path), field_name(path), message, remedy)


def _spec_key(written: Mapping[str, Any]) -> str:
    return next((key for key in SPEC_KEYS if key in written), "engineSpec")


def _without(written: Mapping[str, Any], paths: Iterable[DocumentPath]) -> dict[str, Any]:
    """Copy a contract without the keys at some paths."""
    dropped = set(paths)
    inner = {path[:depth] for path in dropped for depth in range(1, len(path))}

    def copy(part: Any, path: DocumentPath) -> Any:
        def keep(key: str | int, value: Any) -> Any:
            return copy(value, (*path, key)) if (*path, key) in inner else value

        if isinstance(part, Mapping):
            return {key: keep(key, value) for key, value in part.items() if (*path, key) not in dropped}
        return [keep(index, value) for index, value in enumerate(part)]

    result: dict[str, Any] = copy(written, ())
    return result


def _read(written: Mapping[str, Any]) -> tuple[ToolContract | None, list[_Finding]]:
    try:
        return ToolContract.model_validate(written), []
    except pydantic.ValidationError as error:
        details = error.errors(include_url=False)
        return None, [(_place(written, detail["loc"]), *_in_words(detail)) for detail in details]


def _place(written: Mapping[str, Any], location: DocumentPath) -> DocumentPath:
    """Find where the author wrote what a model complains about."""
    path = tuple(part for part in location if part != "[key]")
    if path[:1] in {(key,) for key in SPEC_KEYS}:
        return (_spec_key(written), *path[1:])
    if path[:1] in {(key,) for key in PARAMETER_KEYS}:
        key = next((key for key in PARAMETER_KEYS if key in written), str(path[0]))
        value = written.get(key)
        if isinstance(value, Mapping) and len(path) > 1 and isinstance(path[1], int):
            inner = value.get("properties")
            names, steps = (inner, (key, "properties")) if isinstance(inner, Mapping) else (value, (key,))
            return (*steps, list(names)[path[1]], *path[2:])
        return (key, *path[1:])
    return path


def _in_words(detail: ErrorDetails) -> tuple[str, str]:
    """Say in plain English what a model found, and what to do about it."""
    kind, context, value = detail["type"], detail.get("ctx", {}), detail["input"]
    field = next((str(part) for part in reversed(detail["loc"]) if isinstance(part, str)), "")
    if kind == "missing":
        return "missing", _REMEDIES.get(_kind_of_place(detail["loc"]), f"add '{field}: ...'")
    if kind == "value_error":
        message, _, remedy = str(context["error"]).partition("; ")
        return message, remedy
    if kind in ("enum", "literal_error"):
        known = str(context.get("expected", "")).replace(" or ", ", ")
        shown = (
            f"'{value[:40]}'" if isinstance(value, str) and not is_secret(detail["loc"]) else kind_of(value)
        )
        near = difflib.get_close_matches(str(value)[:40].lower(), re.findall(r"'([^']+)'", known), n=1)
        remedy = f"did you mean '{near[0]}'?" if near else f"known: {known}"
        return f"{shown} is not known here", remedy
    if kind == "string_pattern_mismatch":
        return "does not have the right form", _REMEDIES.get(
            field, "remove control characters, '=', '{' and '}'"
        )
    if kind in _WANTED:
        hint = (
            "put quotes around it" if kind == "string_type" and isinstance(value, bool | int | float) else ""
        )
        return f"must be {_WANTED[kind]}, not {kind_of(value)}", hint
    if kind in _BOUNDS:
        return _BOUNDS[kind].format(**context), ""
    return str(detail["msg"]).removeprefix("Input should be ").removeprefix("Value error, "), ""


def _kind_of_place(location: DocumentPath) -> str:
    """Name a field for its remedy: a parameter's name is another thing than the tool's."""
    return "parameter" if location[:1] in {(key,) for key in PARAMETER_KEYS} else str(location[-1])


_OPERATORS: Final = frozenset({"|", "||", "&&", ";", "&", ">", ">>", "<", "2>", "2>&1", "|&", "<<<"})
_REMEDIES: Final = {
    "parameter": "give each parameter a name of up to 128 characters without '=', '{' and '}'",
    "option": "write it as a command line does, for example '--input-file' or '-i'",
    "name": "give the tool a name of up to 200 characters in one line",
    "engine": f"name one of {', '.join(engine.value for engine in EngineType)}",
    "image": "name a container image, for example 'python:3.11-slim'",
    "address": "give the server's URL, for example 'https://tools.example.org/mcp'",
}
_WANTED: Final = {
    "string_type": "text",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
}
_BOUNDS: Final = {
    "greater_than": "must be above {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be below {lt}",
    "less_than_equal": "must be at most {le}",
    "string_too_short": "is empty",
    "string_too_long": "is longer than {max_length} characters",
}


def _schema_findings(written: Mapping[str, Any], known: list[DocumentPath]) -> Iterator[_Finding]:
    """Go through what the schema finds beside what the models found already.

    The schema accepts all that the models accept, so it is only asked about contracts that they
    refuse: there it sees places that they did not reach.
    """
    for fault in faults(contract_schema(), dict(written)):
        path: DocumentPath = fault.path
        if not any(_overlap(path, other) for other in known):
            yield (
                path,
                f"does not fit the schema of contracts ('{fault.keyword}')",
                "see docs/reference/contract.md",
            )


def _overlap(one: DocumentPath, other: DocumentPath) -> bool:
    shorter = min(len(one), len(other))
    return one[:shorter] == other[:shorter]


def _command_findings(contract: ToolContract, spec_key: str) -> Iterator[_Finding]:
    spec = contract.get_typed_spec()
    if not isinstance(spec, ProcessEngineSpec):
        return
    try:
        build_command(spec, contract.parameters, {})
        fill_stdin(spec, contract.parameters, {})
    except ValidationError as error:
        field = error.message.partition(":")[0].rpartition(".")[2]
        yield (spec_key, field), error.message.partition(": ")[2], error.remedy


def _doubts(contract: ToolContract | None, spec_key: str) -> Iterator[_Finding]:
    """Go through what is allowed and cannot be meant."""
    if contract is None:
        return
    spec = contract.get_typed_spec()
    if isinstance(spec, ProcessEngineSpec) and not spec.command:
        remedy = "give the program and its arguments as a list; without it, the tool does not run"
        yield (spec_key, "command"), "missing", remedy
    if isinstance(spec, ProcessEngineSpec) and not spec.shell:
        operator = next((word for word in spec.command if word in _OPERATORS), None)
        if operator is not None:
            message = f"'{operator}' is an ordinary word here, which the program gets as an argument"
            yield (spec_key, "command"), message, "add 'shell: true' and write the command as one line"
