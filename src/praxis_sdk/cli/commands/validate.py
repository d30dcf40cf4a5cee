"""`praxis validate`: everything that is wrong with contracts, by file, line and field."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from praxis_sdk.cli.terminal.streams import Streams
from praxis_sdk.errors import ValidationError

if TYPE_CHECKING:
    from praxis_sdk.execution.contract.loading import FoundContract
    from praxis_sdk.execution.contract.problems import Problem


def validate(
    context: typer.Context,
    contracts: Annotated[
        list[Path], typer.Argument(metavar="CONTRACT...", help="Contracts, or directories that hold them.")
    ],
    strict: Annotated[bool, typer.Option("--strict", help="Treat warnings as errors.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> int:
    """Check contracts without running anything.

    Prints a line per problem: FILE:LINE: field: what is wrong (what to do). Exit status 2 if there are
    errors.
    """
    from praxis_sdk.cli.terminal import logging as logs
    from praxis_sdk.cli.terminal.failures import problem_document

    streams: Streams = context.obj
    logs.configure()
    lines: list[str] = []
    documents = []
    bad = doubtful = 0
    for found in _look_at(contracts, strict=strict):
        errors, warnings = _problems(found)
        bad += bool(errors)
        doubtful += len(warnings)
        lines += [f"{problem}" for problem in errors]
        lines += [f"{problem.summary} [warning]{_remedy(problem)}" for problem in warnings]
        documents.append(
            {
                "file": str(found.path),
                "name": found.loaded.contract.name if found.loaded else None,
                "valid": not errors,
                "errors": [problem_document(problem) for problem in errors],
                "warnings": [problem_document(problem) for problem in warnings],
            }
        )
    if as_json:
        streams.emit_json({"valid": not bad, "contracts": documents})
    else:
        count = len(documents)
        summary = f"{count} contract{_s(count)} checked: {count - bad} valid, {bad} not"
        streams.emit_lines([*lines, f"{summary}, {doubtful} warning{_s(doubtful)}"])
    return ValidationError.exit_status if bad else 0


def _look_at(paths: list[Path], *, strict: bool) -> Iterator[FoundContract]:
    from praxis_sdk.execution.contract.loading import FoundContract, find_contracts
    from praxis_sdk.execution.contract.problems import ContractError, Problem

    for path in paths:
        if not path.is_dir():
            yield _check(path, strict=strict)
            continue
        empty = True
        for found in find_contracts(path):
            empty = False
            yield found if found.path == path else _check(found.path, strict=strict)
        if empty:
            problem = Problem(str(path), None, "", "holds no contract", "name a file, or another directory")
            yield FoundContract(path, error=ContractError([problem]))


def _check(path: Path, *, strict: bool) -> FoundContract:
    from praxis_sdk.execution.contract.loading import FoundContract, load_contract, mount_problems
    from praxis_sdk.execution.contract.problems import ContractError

    try:
        loaded = load_contract(path, strict=strict)
    except ContractError as error:
        return FoundContract(path, error=error)
    refused = mount_problems(loaded, (Path.cwd(), path.resolve().parent))
    if refused and strict:
        return FoundContract(path, error=ContractError(refused))
    return FoundContract(path, loaded=replace(loaded, warnings=(*loaded.warnings, *refused)))


def _problems(found: FoundContract) -> tuple[tuple[Problem, ...], tuple[Problem, ...]]:
    if found.error is not None:
        return found.error.problems, found.error.warnings
    return (), found.loaded.warnings if found.loaded else ()


def _remedy(problem: Problem) -> str:
    return f" ({problem.remedy})" if problem.remedy else ""


def _s(count: int) -> str:
    return "" if count == 1 else "s"
