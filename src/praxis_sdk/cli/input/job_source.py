"""What a job runs, from the words of the command line: code, a script, a notebook, a folder, or a program."""

from __future__ import annotations

import base64
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from praxis_sdk.errors import ValidationError

STDIN: Final = "-"
NOTEBOOK: Final = ".ipynb"
_MAX_NOTEBOOK_BYTES: Final = 64 << 20  # most of it is what its cells have shown, and stays here
_MAIN_FILES: Final = ("__main__.py", "main.py", "main.tex")


@dataclass(frozen=True)
class JobSource:
    """What a job runs.

    Args:
        document: the fields of a payload that say it.
        from_stdin: the source itself came through standard input, which is used up.
        note: what people are told about it; empty for nothing.
    """

    document: Mapping[str, Any]
    from_stdin: bool = False
    note: str = ""


def read_source(
    words: Sequence[str],
    code: str | None,
    runtime: str,
    *,
    entrypoint: str | None = None,
    module: str | None = None,
) -> JobSource:
    """Read what a job runs.

    Args:
        words: the source and its arguments, or for the runtime 'command' the program and its arguments.
        code: the source itself, in place of a file.
        runtime: name of the adapter.
        entrypoint, module: which file of a folder is run, by its path or as `python -m` names it.

    Raises:
        ValidationError: it cannot be understood or read; the message names the word or the option.
    """
    if runtime == "command":
        if code is not None:
            raise ValidationError(
                "-c: the runtime 'command' runs a program", remedy="write -- PROGRAM ARGUMENTS..."
            )
        if not words:
            raise ValidationError("the program is missing", remedy="write -- PROGRAM ARGUMENTS...")
        _refuse_choice(entrypoint, module)
        return JobSource({"command": list(words)})
    if code is None and not words:
        raise ValidationError("nothing to run", remedy="name one FILE or folder, or give -c CODE")
    arguments = {"argv": list(words[code is None :])} if len(words) > (code is None) else {}
    if arguments and runtime != "python":
        raise ValidationError(
            f"more than one thing to run: {words[-1][:80]!r}",
            remedy=f"the runtime '{runtime}' takes no arguments; give --param NAME=VALUE",
        )
    if code is not None:
        _refuse_choice(entrypoint, module)
        return JobSource({"code": code, **arguments})
    name = words[0]
    if name != STDIN and os.path.isdir(name):
        source = _folder(Path(name), runtime, entrypoint, module)
        return JobSource({**source.document, **arguments}, note=source.note)
    _refuse_choice(entrypoint, module)
    if runtime == "python" and name.endswith(NOTEBOOK):
        return JobSource({**_notebook(name), **arguments})
    text = _text(name)
    if runtime == "python" and name != STDIN:
        file = Path(name).name  # so that a traceback names the file
        return JobSource({"files": {file: {"text": text}}, "entrypoint": file, **arguments})
    return JobSource({"code": text, **arguments}, from_stdin=name == STDIN)


def _refuse_choice(entrypoint: str | None, module: str | None) -> None:
    for option, given in (("--entrypoint", entrypoint), ("--module", module)):
        if given is not None:
            raise ValidationError(f"{option}: chooses a file of a folder", remedy="name a folder to run")


def _folder(folder: Path, runtime: str, entrypoint: str | None, module: str | None) -> JobSource:
    from praxis_sdk.cli.input.project_folder import read_project

    if entrypoint is not None and module is not None:
        raise ValidationError("--module: cannot be combined with --entrypoint", remedy="keep one of them")
    project = read_project(folder)
    files = {path: _content(data) for path, data in project.files.items()}
    note = project.note(str(folder))
    if module is not None:
        path = module.replace(".", "/")
        if f"{path}.py" not in files and f"{path}/__main__.py" not in files:
            raise ValidationError(
                f"--module: {module[:80]!r}: {folder} holds neither {path}.py nor {path}/__main__.py",
                remedy=_candidates(files),
            )
        return JobSource({"files": files, "module": module}, note=note)
    chosen = _entrypoint(folder, files, entrypoint, runtime)
    if runtime == "python" and chosen.endswith(NOTEBOOK):
        files[chosen] = {"text": _slim(project.files[chosen], chosen)}
    return JobSource({"files": files, "entrypoint": chosen}, note=note)


def _entrypoint(folder: Path, files: Iterable[str], wanted: str | None, runtime: str) -> str:
    files = list(files)
    if wanted is None:
        suffix = ".tex" if runtime == "latex" else ".py"
        alone = [path for path in files if path.endswith((suffix, NOTEBOOK)) and "/" not in path]
        found = [name for name in _MAIN_FILES if name in files and name.endswith(suffix)]
        if found or len(alone) == 1:
            return (found or alone)[0]
        raise ValidationError(
            f"{str(folder)[:200]}: it is not said which file to run",
            remedy=f"give --entrypoint FILE, or -m MODULE; {_candidates(files)}",
        )
    for name in (
        os.path.normpath(wanted),
        os.path.relpath(wanted, folder),
    ):  # below it, or as a shell completes it
        if name in files:
            return name
    raise ValidationError(
        f"--entrypoint: {wanted[:120]!r} is not among the files of {str(folder)[:200]}",
        remedy=_candidates(files),
    )


def _candidates(files: Iterable[str]) -> str:
    scripts = [path for path in files if path.endswith((".py", NOTEBOOK, ".tex"))]
    return f"it holds {', '.join(scripts[:5])}" if scripts else "it holds no scripts"


def _content(data: bytes) -> dict[str, str]:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        text = "\0"
    return {"base64": base64.b64encode(data).decode()} if "\0" in text else {"text": text}


def _notebook(name: str) -> dict[str, Any]:
    file = Path(name).name
    return {"files": {file: {"text": _slim(_bytes(name, _MAX_NOTEBOOK_BYTES), name)}}, "entrypoint": file}


def _slim(data: bytes, name: str) -> str:
    """Return a notebook without what its cells have shown, checked as the job will check it."""
    from praxis_sdk.jobs.harness.notebook import NotebookError, read_cells, without_outputs

    try:
        read_cells(data)
        return without_outputs(data)
    except NotebookError as error:
        message, _, remedy = str(error).partition("; ")
        raise ValidationError(f"{name[:200]}: {message}", remedy=remedy) from error


def _text(name: str) -> str:
    from praxis_sdk.jobs.payload.payload import MAX_CODE_BYTES

    data = _bytes(name, MAX_CODE_BYTES)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValidationError(f"{name[:200]}: not UTF-8", remedy="save it as UTF-8") from error


def _bytes(name: str, most: int) -> bytes:
    try:
        if name == STDIN:
            data = sys.stdin.buffer.read(most + 1)
        else:
            with open(name, "rb") as file:
                data = file.read(most + 1)
    except OSError as error:
        raise ValidationError(
            f"{name[:200]}: {os.strerror(error.errno or 0)}", remedy="name a source file, or give -c CODE"
        ) from error
    except ValueError as error:  # a NUL in the name
        raise ValidationError(f"{name[:200]!r} is not a file name") from error
    if len(data) > most:
        raise ValidationError(
            f"{name[:200]}: larger than {most >> 20} MiB", remedy="hand data over with --input"
        )
    return data
