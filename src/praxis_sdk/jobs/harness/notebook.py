"""Notebooks: from the bytes of an `.ipynb` file to its cells of Python.

The command line reads a notebook with it before the job is made, so that a mistake is told at once. The job reads it
again: a notebook that came by another way is a stranger's data, and is parsed inside the sandbox alone.
"""

from __future__ import annotations

import io
import json
import re
import tokenize
from dataclasses import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_INSTALLS = re.compile(r"[%!]\s*(?:pip|pip3|conda|mamba|uv pip|python\d? -m pip)\s+install\s+(.*)")
_BETWEEN = {
    tokenize.NEWLINE,
    tokenize.NL,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.COMMENT,
    tokenize.ENCODING,
}
_FSTRINGS = {getattr(tokenize, "FSTRING_START", -1): 1, getattr(tokenize, "FSTRING_END", -2): -1}


class NotebookError(Exception):
    """It is not a notebook that can be run; the message is one line, with the remedy behind '; '."""


@dataclass(frozen=True)
class Cell:
    """A cell of code.

    Args:
        number: among the cells of code, from 1.
        source: its text.
        tags: `parameters` says where the notebook's parameters are, `raises-exception` that an exception of this cell
            does not end the notebook, and `skip-execution` that it does not run.
    """

    number: int
    source: str
    tags: tuple[str, ...] = ()


def read_cells(data: bytes) -> list[Cell]:
    """Return the cells of code.

    Args:
        data: the file; nbformat 3 or 4, for Python.

    Raises:
        NotebookError: it is no such notebook, or a cell holds what only IPython understands.
    """
    found: list[Cell] = []
    for cell in _cells(_document(data)):
        if not isinstance(cell, dict) or cell.get("cell_type") not in (
            "code",
            "markdown",
            "raw",
            "heading",
            "html",
        ):
            raise NotebookError("not a notebook: a cell has no type; save it again with Jupyter")
        if cell["cell_type"] == "code":
            source = _source(cell)
            number = len(found) + 1
            tags = tuple(_tags(cell))
            if "skip-execution" not in tags:
                _refuse_magics(source, number)
            found.append(Cell(number, source, tags))
    return found


def without_outputs(data: bytes) -> str:
    """Return the same notebook with nothing but its cells of code, as nbformat 4."""
    cells = [cell for cell in _cells(_document(data)) if cell.get("cell_type") == "code"]
    kept = [
        {"cell_type": "code", "metadata": {"tags": _tags(cell)}, "source": _source(cell)} for cell in cells
    ]
    return json.dumps({"nbformat": 4, "nbformat_minor": 4, "metadata": {}, "cells": kept}, ensure_ascii=False)


def _document(data: bytes) -> dict[str, Any]:
    try:
        document: Any = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200] or "nested too deeply"
        raise NotebookError(
            f"not a notebook: not valid JSON: {reason}; save it again with Jupyter"
        ) from error
    major = document.get("nbformat") if isinstance(document, dict) else None
    if isinstance(major, bool) or not isinstance(major, int):
        raise NotebookError("not a notebook: 'nbformat' is missing; save it again with Jupyter")
    if major not in (3, 4):
        raise NotebookError(f"nbformat {major} is not supported; save it as nbformat 4")
    metadata = document.get("metadata")
    if isinstance(metadata, dict):
        for part, field in (("kernelspec", "language"), ("language_info", "name")):
            about = metadata.get(part)
            language = about.get(field) if isinstance(about, dict) else None
            if isinstance(language, str) and not language.lower().startswith(("python", "ipython")):
                raise NotebookError(f"a notebook for {language[:40]!a}; only notebooks for Python can be run")
    return dict(document)


def _cells(document: dict[str, Any]) -> list[Any]:
    if document["nbformat"] == 4:
        cells = document.get("cells")
    else:
        sheets = document.get("worksheets")
        if not isinstance(sheets, list) or not all(isinstance(sheet, dict) for sheet in sheets):
            raise NotebookError("not a notebook: 'worksheets' is not a list; save it again with Jupyter")
        parts = [sheet.get("cells", []) for sheet in sheets]
        cells = (
            [cell for part in parts for cell in part]
            if all(isinstance(part, list) for part in parts)
            else None
        )
    if not isinstance(cells, list):
        raise NotebookError("not a notebook: 'cells' is not a list; save it again with Jupyter")
    return cells


def _source(cell: dict[str, Any]) -> str:
    source = cell.get("source", cell.get("input", ""))
    if isinstance(source, list) and all(isinstance(line, str) for line in source):
        source = "".join(source)
    if not isinstance(source, str):
        raise NotebookError("not a notebook: the source of a cell is not text; save it again with Jupyter")
    return source


def _tags(cell: dict[str, Any]) -> list[str]:
    metadata = cell.get("metadata")
    tags = metadata.get("tags") if isinstance(metadata, dict) else None
    return [tag for tag in tags if isinstance(tag, str)] if isinstance(tags, list) else []


def _refuse_magics(source: str, number: int) -> None:
    """Refuse what is IPython and not Python: `%magic`, `%%magic`, `!command`, `name?`."""
    line = _magic_line(source)
    if line is None:
        return
    text = source.splitlines()[line - 1].strip()
    installs = _INSTALLS.match(text)
    if installs:
        remedy = (
            "remove the line, and build an environment that has it: praxis env build NAME -r requirements.txt"
        )
    elif "?" in text and not text.startswith(("%", "!")):
        remedy = "remove the line; help is of no use in a job"
    elif text.startswith("%%"):
        remedy = "remove the cell, or write it in Python"
    else:
        remedy = "remove the line, or write it in Python"
    raise NotebookError(f"cell {number}, line {line}: {text[:80]!r} is IPython, not Python; {remedy}")


def _magic_line(source: str) -> int | None:
    """Return the number of the first line that only IPython understands."""
    begins, after_equals, in_fstring, depth = True, False, 0, 0
    try:
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            in_fstring += _FSTRINGS.get(token.type, 0)
            text = token.string
            if not in_fstring and (text == "?" or (text.startswith("!") and text != "!=")):
                return token.start[0]
            if text.startswith("%") and (begins or after_equals):
                return token.start[0]
            depth += (text in "([{") - (text in ")]}") if token.type == tokenize.OP else 0
            begins = token.type in _BETWEEN and depth == 0
            after_equals = text == "="
    except (tokenize.TokenError, SyntaxError, IndexError):
        return None  # a mistake in Python, which Python tells better
    return None
