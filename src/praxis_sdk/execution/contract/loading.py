"""Contracts from YAML files: read, checked, and every problem named by file, line and field.

file --yaml_source--> YAML with lines --contract_check--> ToolContract and warnings
            |                                |
            '---------- problems ------------'----------> ContractError
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from praxis_sdk.errors import ValidationError
from praxis_sdk.execution.contract.check import check_contract
from praxis_sdk.execution.contract.contract import ToolContract
from praxis_sdk.execution.contract.keys import PARAMETER_KEYS, SPEC_KEYS
from praxis_sdk.execution.contract.problems import ContractError, DocumentPath, Problem
from praxis_sdk.execution.contract.specs import EngineType, IsolatedEngineSpec
from praxis_sdk.execution.contract.yaml_source import SEVERAL_DOCUMENTS, YamlDocument, read_text, read_yaml
from praxis_sdk.execution.mounts.mounts import parse_mounts
from praxis_sdk.execution.mounts.policy import MountPolicy

__all__ = [
    "ContractError",
    "FoundContract",
    "LoadedContract",
    "Problem",
    "find_contracts",
    "load_contract",
    "mount_problems",
    "parse_contract",
]

MAX_DEPTH: Final = 8  # directories below the one that is searched
MAX_FILES: Final = 2_000  # YAML files looked at in one search
MAX_ENTRIES: Final = 50_000  # names looked at in one search

# Keys that a tool has, and hardly anything else that has a name.
_OF_A_TOOL: Final = ("engine", "command", *PARAMETER_KEYS)
# How a contract shows in a file that holds several documents.
_SIGN: Final = re.compile(rf"^(?:{'|'.join(SPEC_KEYS)})[ \t]*:", re.MULTILINE)

# Where unquoted numbers and booleans are text, so that `VERSION: 1.10` stays '1.10'.
_TEXT_FIELDS: Final = frozenset({"command", "env", "headers"})


@dataclass(frozen=True)
class LoadedContract:
    """A contract that can be used.

    Args:
        contract: the contract.
        path: the file it is from; None for a text.
        warnings: what its author may have meant differently.
    """

    contract: ToolContract
    path: Path | None
    warnings: tuple[Problem, ...] = ()


@dataclass(frozen=True)
class FoundContract:
    """A file that looks like a contract: either one that can be used, or why not.

    Args:
        path: the file.
        loaded: the contract; None where there is an error.
        error: why it cannot be used; None where it can.
    """

    path: Path
    loaded: LoadedContract | None = None
    error: ContractError | None = None


def load_contract(path: Path | str, *, strict: bool = False) -> LoadedContract:
    """Read a contract from a YAML file.

    Args:
        path: the file.
        strict: treat warnings as errors (unknown keys, for example).

    Raises:
        ContractError: the file or the contract in it cannot be used; a `ValidationError` that lists
            every problem as file, line and field.
    """
    path = Path(path)
    return _accept(_document(read_text(path), str(path)), path, strict=strict)


def parse_contract(text: str, *, source: str = "<string>", strict: bool = False) -> LoadedContract:
    """Read a contract from a YAML text.

    Args:
        text: the text.
        source: what to call it in messages.
        strict: treat warnings as errors (unknown keys, for example).

    Raises:
        ContractError: as in `load_contract`.
    """
    return _accept(_document(text, source), None, strict=strict)


def find_contracts(directory: Path | str) -> Iterator[FoundContract]:
    """Search a directory and those below it for contracts, in the order of their names.

    A contract is a file named contract.yaml or *.contract.yaml, and any other YAML file that looks like
    one (an engineSpec, an engine, or a name with a command or parameters) or that cannot be read and so may be
    one. Hidden directories are not searched.

    Raises:
        ContractError: it is not a directory that can be read.
    """
    root = Path(directory)
    try:
        os.scandir(root).close()
    except (OSError, ValueError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        problem = Problem(
            str(root), None, "", f"cannot be searched: {reason}", "name a directory with contracts"
        )
        raise ContractError([problem]) from error
    for count, path in enumerate(_yaml_files(root)):
        if path is None or count >= MAX_FILES:
            message = "holds too many files; the rest was not looked at"
            problem = Problem(str(root), None, "", message, "search a part of it")
            yield FoundContract(root, error=ContractError([problem]))
            return
        found = _look_at(path)
        if found is not None:
            yield found


def mount_problems(loaded: LoadedContract, roots: Iterable[Path]) -> list[Problem]:
    """Find the mounts that a run would refuse, going by where their sources lead on this host.

    Args:
        loaded: the contract.
        roots: the folders below which it may mount; relative sources count from the first.
    """
    spec = loaded.contract.get_typed_spec()
    if loaded.contract.trusted or not isinstance(spec, IsolatedEngineSpec):
        return []
    roots = tuple(roots)
    policy = MountPolicy.of_this_host(roots)
    problems = []
    for mount in parse_mounts(spec.mounts):
        try:
            policy.check(str(mount.source), (roots[0] / mount.source.expanduser()).resolve())
        except ValidationError as error:
            field, _, message = error.message.partition(": ")
            problems.append(Problem(str(loaded.path), None, field, message, error.remedy))
    return problems


def _document(text: str, source: str) -> YamlDocument:
    return read_yaml(text, source, text_at=_is_text)


def _is_text(path: DocumentPath) -> bool:
    return path == ("version",) or (len(path) == 3 and path[0] in SPEC_KEYS and path[1] in _TEXT_FIELDS)


def _accept(document: YamlDocument, path: Path | None, *, strict: bool) -> LoadedContract:
    verdict = check_contract(document)
    if strict and verdict.warnings:
        raise ContractError(
            sorted((*verdict.problems, *verdict.warnings), key=lambda problem: problem.line or 0)
        )
    if verdict.contract is None:
        raise ContractError(verdict.problems, verdict.warnings)
    return LoadedContract(verdict.contract, path, verdict.warnings)


def _look_at(path: Path) -> FoundContract | None:
    """Say what a YAML file is; None where it is readable and something else than a contract.

    What cannot be read may be a contract, so it is never passed over. Several documents in one file are
    passed over as long as nothing in them looks like one.
    """
    named = path.stem == "contract" or path.stem.endswith(".contract")
    text = ""
    try:
        text = read_text(path)
        document = _document(text, str(path))
        if not (named or looks_like_contract(document.value)):
            return None
        return FoundContract(path, loaded=_accept(document, path, strict=False))
    except ContractError as error:
        other = (
            not named and error.problems[0].message.startswith(SEVERAL_DOCUMENTS) and not _SIGN.search(text)
        )
        return None if other else FoundContract(path, error=error)


def looks_like_contract(written: Any) -> bool:
    """Tell whether a document is meant as a contract, whatever may be missing or misspelt in it."""
    if not isinstance(written, Mapping):
        return False
    if any(key in written for key in SPEC_KEYS):
        return True
    engine = written.get("engine")
    if isinstance(engine, str) and engine.strip().lower().replace("_", "-") in set(EngineType):
        return True
    return "name" in written and any(key in written for key in _OF_A_TOOL)


def _yaml_files(root: Path) -> Iterator[Path | None]:
    """Go through the YAML files below a directory; None comes last where there is too much to go through."""
    waiting: list[tuple[Path, int]] = [(root, 0)]
    entered: set[tuple[int, int]] = set()  # a directory that links lead back to is entered once
    entries = 0
    while waiting:
        directory, depth = waiting.pop()
        try:
            status = directory.stat()
            names = sorted(os.listdir(directory))
        except OSError:
            yield directory  # it is reported as a file that cannot be read
            continue
        if (status.st_dev, status.st_ino) in entered:
            continue
        entered.add((status.st_dev, status.st_ino))
        entries += len(names)
        if entries > MAX_ENTRIES:
            yield None
            return
        below: list[tuple[Path, int]] = []
        for path in (directory / name for name in names):
            if os.path.isdir(path):  # Path.is_dir raises where permission is missing
                if depth < MAX_DEPTH and not path.name.startswith("."):
                    below.append((path, depth + 1))
            elif path.suffix in (".yaml", ".yml"):
                yield path
        waiting += reversed(below)
