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
from praxis_sdk.jobs.adapters.base import Work, WorkFile
from praxis_sdk.jobs.artifacts import ArtifactMissing, ArtifactStore

IN_MEMORY_BYTES: Final = 4 << 20  # a larger order is a temporary file on disk
_PRIVATE, _EXECUTABLE = 0o644, 0o755


async def write_order(work: Work, *, seed: int, store: ArtifactStore, max_bytes: int) -> FileIO:
    """Write an order.

    Args:
        work: what the adapter wants.
        seed: for the generators of random numbers.
        store: where files by digest come from.
        max_bytes: most bytes of content; the scratch space of the job could not hold more.

    Returns:
        An open file, at its beginning; the caller closes it.

    Raises:
        ArtifactMissing, ArtifactCorrupt: a file by digest cannot be had.
        ValidationError: the content is too long.
    """
    sizes = [await _size(file, store) for file in work.files]
    if sum(sizes) > max_bytes:
        raise ValidationError(
            f"payload.inputs: {sum(sizes)} bytes do not fit into the limit scratch_bytes of {max_bytes}",
            remedy="raise limits.scratch_bytes",
        )
    header: dict[str, Any] = {
        "files": [
            [file.path, size, _EXECUTABLE if file.executable else _PRIVATE]
            for file, size in zip(work.files, sizes, strict=True)
        ]
    }
    if work.argv is not None:
        header["argv"] = list(work.argv)
    else:
        header["python"] = {**(work.python or {}), "seed": seed}
    encoded = json.dumps(header, separators=(",", ":")).encode()
    order = _anonymous(len(encoded) + sum(sizes))
    try:
        _write(order, len(encoded).to_bytes(8, "big") + encoded)
        for file in work.files:
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
