"""How a payload's inputs and files reach the working directory, the same for every runtime."""

from __future__ import annotations

from typing import Any, Final

from praxis_sdk.errors import ValidationError
from praxis_sdk.jobs.adapters.base import WorkFile
from praxis_sdk.jobs.harness import RESULT_FOLDER
from praxis_sdk.jobs.payload.payload import JobPayload

INPUTS_FOLDER: Final = "inputs"


def placed_files(payload: JobPayload) -> tuple[WorkFile, ...]:
    """Return the payload's own files and its inputs, which stand in the folder `inputs` by their names.

    Raises:
        ValidationError: a file claims a place that is an input's or the result's.
    """
    if any(path.split("/")[0] == RESULT_FOLDER for path in payload.files or ()):
        raise ValidationError(
            f"payload.files: '{RESULT_FOLDER}/' belongs to the result", remedy="give the files another folder"
        )
    files = [WorkFile(path, content.content()) for path, content in (payload.files or {}).items()]
    taken = {file.path for file in files}
    if (
        any(path == INPUTS_FOLDER or path.startswith(INPUTS_FOLDER + "/") for path in taken)
        and payload.inputs
    ):
        raise ValidationError(
            f"payload.files: '{INPUTS_FOLDER}/' belongs to the inputs", remedy="give the files another folder"
        )
    for name, one in payload.inputs.items():
        content = one.content()
        files.append(
            WorkFile(f"{INPUTS_FOLDER}/{name}", one.content_digest() if content is None else content)
        )
    return tuple(files)


def input_values(payload: JobPayload) -> dict[str, Any]:
    """Return what the code finds under an input's name: a JSON value, or the path of the bytes."""
    return {
        name: one.value if one.kind == "json" else f"{INPUTS_FOLDER}/{name}"
        for name, one in payload.inputs.items()
    }


def given_stdin(payload: JobPayload) -> bytes | str | None:
    """Return what standard input holds: bytes, or the digest of them; None for nothing."""
    if payload.stdin is None:
        return None
    content = payload.stdin.content()
    return payload.stdin.content_digest() if content is None else content


def came_in(files: tuple[WorkFile, ...]) -> frozenset[str]:
    """Return the paths that are no output, because they were there before."""
    return frozenset(file.path for file in files)
