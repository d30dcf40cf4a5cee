"""`praxis tools`: the contracts of a directory as a table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from praxis_sdk.cli.terminal.streams import Streams

if TYPE_CHECKING:
    from praxis_sdk.execution.contract.contract import ToolContract


def tools(
    context: typer.Context,
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Where to look, also below it.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> int:
    """List the tools that a directory holds, and what is wrong with the broken ones.

    A parameter that must be given has a '*'.
    """
    from praxis_sdk.cli.terminal import logging as logs
    from praxis_sdk.cli.terminal.failures import problem_document
    from praxis_sdk.cli.terminal.tables import render
    from praxis_sdk.execution.contract.loading import find_contracts

    streams: Streams = context.obj
    logs.configure()
    found = list(find_contracts(directory))
    whole = [(tool.path, tool.loaded.contract) for tool in found if tool.loaded is not None]
    broken = [(tool.path, tool.error) for tool in found if tool.error is not None]
    if as_json:
        document = {
            "tools": [_document(path, contract) for path, contract in whole],
            "broken": [
                {"path": str(path), "problems": [problem_document(problem) for problem in error.problems]}
                for path, error in broken
            ],
        }
        streams.emit_json(document)
        return 0
    if whole:
        columns = ("name", "engine", "parameters", "description", "path")
        streams.emit(render(streams, columns, [_row(path, contract, directory) for path, contract in whole]))
    else:
        streams.emit_lines([f"no contract that can be used in {directory}"])
    if broken:
        streams.emit_lines(["", "broken:", *(f"  {error}" for _, error in broken)])
    return 0


def _row(path: Path, contract: ToolContract, directory: Path) -> tuple[str, ...]:
    parameters = ", ".join(f"{p.name}{'*' if p.required else ''}" for p in contract.parameters)
    description = (contract.description or "").strip()
    return contract.name, str(contract.engine), parameters, description, str(path.relative_to(directory))


def _document(path: Path, contract: ToolContract) -> dict[str, Any]:
    return {
        "name": contract.name,
        "engine": str(contract.engine),
        "description": contract.description,
        "version": contract.version,
        "trust": str(contract.trust),
        "path": str(path),
        "parameters": [
            {
                "name": parameter.name,
                "type": parameter.type,
                "description": parameter.description,
                "required": parameter.required,
                "default": parameter.default,
            }
            for parameter in contract.parameters
        ],
    }
