"""What `praxis submit` was given: a job, a tool, or a document, recognised by what it is."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from praxis_sdk.errors import ValidationError

_RUNTIMES: Final[Mapping[str, str]] = {".py": "python", ".ipynb": "python", ".tex": "latex"}
_OF_CONTRACTS: Final = frozenset(("engine", "engineSpec", "engine_spec", "parameters"))


@dataclass(frozen=True)
class Named:
    """What the words of the command line name.

    Args:
        words: FILE and what follows it.
        job: the source that --job names.
        code: the source itself.
        tool: a contract.
        runtime: of a job; None where it is not said.
    """

    words: tuple[str, ...]
    job: str | None = None
    code: str | None = None
    tool: Path | None = None
    runtime: str | None = None

    def recognised(self) -> Named:
        """Return it with `tool` for a tool, with `runtime` and all its words for a job, with neither for a document.

        Raises:
            ValidationError: it names nothing, or more than one thing.
        """
        if self.job is not None:
            self._refuse_others("--job", code=self.code is not None, tool=self.tool is not None)
            return replace(self, words=(self.job, *self.words), runtime=self.runtime or "python")
        if self.tool is not None:
            self._refuse_others("--tool", code=self.code is not None, file=bool(self.words))
            return self
        if self.code is not None or self.runtime == "command":
            return replace(self, runtime=self.runtime or "python")
        if not self.words:
            raise ValidationError(
                "nothing to submit", remedy="name a FILE, or give --job FILE, -c CODE, or --tool CONTRACT"
            )
        file = self.words[0]
        runtime = self.runtime or _runtime_of(file)
        if runtime is not None:
            return replace(self, runtime=runtime)
        if len(self.words) > 1:
            raise ValidationError(
                "FILE: more than one thing to submit",
                remedy="submit one at a time, or many with 'praxis batch submit'",
            )
        return replace(self, tool=Path(file)) if _is_contract(file) else self

    def _refuse_others(self, option: str, **others: bool) -> None:
        names = {"code": "--code", "tool": "--tool", "file": "FILE"}
        for name, given in others.items():
            if given:
                raise ValidationError(
                    f"{names[name]} and {option}: more than one thing to submit",
                    remedy="submit one at a time, or many with 'praxis batch submit'",
                )


def _runtime_of(file: str) -> str | None:
    """Return the runtime of a file that is a job's source, or a folder of them."""
    if file != "-" and os.path.isdir(file):
        return "python"
    return _RUNTIMES.get(os.path.splitext(file)[1].lower())


def _is_contract(file: str) -> bool:
    """Tell whether a document is the contract of a tool; what cannot be read is told elsewhere."""
    from praxis_sdk.cli.input.documents import read_document

    if file == "-":
        return False
    try:
        document = read_document(file)
    except ValidationError:
        return False
    return isinstance(document, Mapping) and "kind" not in document and not _OF_CONTRACTS.isdisjoint(document)


def is_payload(document: Mapping[str, Any]) -> bool:
    """Tell whether a document is the payload of a job, rather than a submission that holds one."""
    return "kind" not in document and "runtime" in document
