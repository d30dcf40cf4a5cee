"""Whether what a job is given fits into its limits, asked before anything is placed; pure.

A limit that stops the placing would look like a fault of the job's own code, so it is never left to the kernel.
"""

from __future__ import annotations

from collections.abc import Mapping

from praxis_sdk.jobs.payload.limits import JobLimits
from praxis_sdk.units import format_bytes

_PAGE_BYTES = 4096  # scratch space is given out in pages
_OPTION = {
    "file_size_bytes": "--file-size",
    "scratch_bytes": "--scratch",
    "memory_bytes": "--memory",
    "files": "--files",
}


def shortage(limits: JobLimits, sizes: Mapping[str, int]) -> tuple[str, str] | None:
    """Say which limit is too low for what a job is given.

    Args:
        limits: the job's.
        sizes: bytes of each file that is placed, by field and name: 'inputs.data', 'files.lib/a.py', 'stdin'.

    Returns:
        What is wrong, in one line, and what to do about it; None where all of it fits.
    """
    if not sizes:
        return None
    for name, size in sizes.items():
        if size > limits.file_size_bytes:
            return _short(f"payload.{name}: {format_bytes(size)} is", limits, "file_size_bytes")
    total = sum(-(-size // _PAGE_BYTES) * _PAGE_BYTES for size in sizes.values())
    field = f"payload.{_field(sizes)}: {format_bytes(total)} in all is"
    for limit in ("scratch_bytes", "memory_bytes"):  # scratch space is memory
        if total > getattr(limits, limit):
            return _short(field, limits, limit)
    places = {name.partition(".")[2] for name in sizes}
    folders = {place[:i] for place in places for i, char in enumerate(place) if char == "/"}
    count = len(places) + len(folders) + any(name.startswith("inputs.") for name in sizes)
    if count > limits.files:
        return _short(f"payload.{_field(sizes)}: {count} files and folders is", limits, "files")
    return None


def _field(sizes: Mapping[str, int]) -> str:
    """Return the field that takes most of the room."""
    taken: dict[str, int] = {}
    for name, size in sizes.items():
        field = name.partition(".")[0]
        taken[field] = taken.get(field, 0) + size
    return max(taken, key=lambda field: taken[field])


def _short(what: str, limits: JobLimits, limit: str) -> tuple[str, str]:
    granted = getattr(limits, limit)
    shown = format_bytes(granted) if limit.endswith("_bytes") else str(granted)
    remedy = f"raise limits.{limit}, on the command line {_OPTION[limit]}"
    return f"{what} more than the limit {limit} of {shown}", remedy
