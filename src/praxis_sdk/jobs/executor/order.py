"""The order for the harness: what to place in the working directory and what to do then, as one file.

The form is the harness's (see `harness`): eight bytes with the length of the header, the header as JSON, and
the files' content behind it. It is an anonymous file, so that it never has a name on the host.
"""

from __future__ import annotations

import json
import os
import tempfile
from io import FileIO
from typing import Any, Final

from praxis_sdk.errors import ValidationError
from praxis_sdk.jobs import harness
from praxis_sdk.jobs.adapters.base import PreparedJob, WorkFile
from praxis_sdk.jobs.adapters.inputs import INPUTS_FOLDER
from praxis_sdk.jobs.artifacts import ArtifactMissing, ArtifactStore
from praxis_sdk.jobs.payload.limits import JobLimits
from praxis_sdk.jobs.payload.room import shortage

IN_MEMORY_BYTES: Final = 4 << 20  # a larger order is a temporary file on disk
_PRIVATE, _EXECUTABLE = 0o644, 0o755


async def write_order(work: PreparedJob, *, seed: int, store: ArtifactStore, limits: JobLimits) -> FileIO:
    """Write an order.

    Args:
        work: what the adapter wants.
        seed: for the generators of random numbers.
        store: where files by digest come from.
        limits: of the job, into which everything that is placed must fit.

    Returns:
        An open file, at its beginning; the caller closes it.

    Raises:
        ArtifactMissing, ArtifactCorrupt: a file by digest cannot be had.
        ValidationError: the content is more than a limit of the job allows.
    """
    files = work.files
    if work.stdin is not None:
        files = (*files, WorkFile(harness.STDIN_FILE, work.stdin))
    sizes = [await _size(file, store) for file in files]
    short = shortage(limits, {_field(file): size for file, size in zip(files, sizes, strict=True)})
    if short is not None:
        raise ValidationError(short[0], remedy=short[1])
    header: dict[str, Any] = {
        "files": [
            [file.path, size, _EXECUTABLE if file.executable else _PRIVATE]
            for file, size in zip(files, sizes, strict=True)
        ]
    }
    if work.stdin is not None:
        header["stdin"] = True
    if work.argv is not None:
        header["argv"] = list(work.argv)
    else:
        header["python"] = {**(work.python or {}), "seed": seed, "outputs_bytes": limits.outputs_bytes}
    encoded = json.dumps(header, separators=(",", ":")).encode()
    order = _anonymous(len(encoded) + sum(sizes))
    try:
        _write(order, len(encoded).to_bytes(8, "big") + encoded)
        for file in files:
            if isinstance(file.content, bytes):
                _write(order, file.content)
            else:
                async for chunk in store.stream(file.content):
                    _write(order, chunk)
        order.seek(0)
    except BaseException:
        order.close()
        raise
    return order


def _field(file: WorkFile) -> str:
    """Return the field of the payload that a file comes from, and its name there."""
    if file.path == harness.STDIN_FILE:
        return "stdin"
    name = file.path.removeprefix(f"{INPUTS_FOLDER}/")
    return f"files.{name}" if name == file.path else f"inputs.{name}"


async def _size(file: WorkFile, store: ArtifactStore) -> int:
    if isinstance(file.content, bytes):
        return len(file.content)
    found = await store.stat(file.content)
    if found is None:
        raise ArtifactMissing(file.content)
    return found.size_bytes


def _anonymous(size_bytes: int) -> FileIO:
    """Make a file without a name; written in large pieces, so it needs no buffer."""
    if size_bytes <= IN_MEMORY_BYTES:
        return FileIO(os.memfd_create("praxis-order", os.MFD_CLOEXEC), "r+")
    descriptor, path = tempfile.mkstemp(prefix="praxis-order-")
    os.unlink(path)
    return FileIO(descriptor, "r+")


def _write(file: FileIO, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[file.write(view) :]
