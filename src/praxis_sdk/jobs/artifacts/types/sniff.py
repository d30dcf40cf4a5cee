"""What a file is, decided from its bytes and never from its name.

Order matters: strict binary signatures, then text, then the library for what is neither. A picture with a page
behind it is a picture, since it is served as one; a page named `.png` is a page. Nothing here
unpacks, expands or runs anything, and no more than `WINDOW_BYTES` from either end (for JSON up to 1 MiB) is
looked at.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from praxis_sdk.jobs.artifacts.types import signatures, text
from praxis_sdk.jobs.artifacts.types.kind import ArtifactKind

ReadAt = Callable[[int, int], bytes]
WINDOW_BYTES: Final = 1 << 16

_TEXT_TYPES: Final = {
    "html": "text/html",
    "xhtml": "application/xhtml+xml",
    "svg": "image/svg+xml",
    "xml": "application/xml",
    "json": "application/json",
    "jsonl": "application/x-ndjson",
    "csv": "text/csv",
    "tsv": "text/tab-separated-values",
    "txt": "text/plain",
}
_ACTIVE: Final = frozenset({"html", "xhtml", "svg", "xml"})
_DATASETS: Final = frozenset(
    "json jsonl csv tsv xml parquet arrow hdf5 netcdf npy npz sqlite xlsx".split()  # noqa: SIM905
)


@dataclass(frozen=True, slots=True)
class Sniffed:
    """What a file's bytes are.

    Args:
        format: short name: "png", "csv"; "bin" when nobody knows.
        content_type: media type, with the character set where it is a text.
        kind: what such a file usually is for; never `preview`, which only an adapter can tell.
        active: as in `Artifact.active`.
    """

    format: str
    content_type: str
    kind: ArtifactKind
    active: bool = False


UNKNOWN: Final = Sniffed("bin", "application/octet-stream", ArtifactKind.EXPORT)


def sniff(read_at: ReadAt, size_bytes: int) -> Sniffed:
    """Return what a file is.

    Args:
        read_at: returns the bytes at an offset, at most so many.
        size_bytes: the file's length.

    Raises:
        MissingExtra: puremagic is not installed.
    """
    head = read_at(0, WINDOW_BYTES)
    whole = size_bytes <= WINDOW_BYTES
    tail = head if whole else read_at(size_bytes - WINDOW_BYTES, WINDOW_BYTES)
    if not head:
        return UNKNOWN
    known = signatures.identify(head, tail, size_bytes)
    if known:
        return _binary(known)
    decoded = text.decode(head, tail, whole=whole)
    if decoded:
        return _text(decoded, tail, read_at, size_bytes)
    guessed = signatures.consult(head)
    return _binary(guessed) if guessed else UNKNOWN


def sniff_bytes(data: bytes) -> Sniffed:
    """Return what a file with this content is; see `sniff`."""
    return sniff(lambda offset, size: data[offset : offset + size], len(data))


def _binary(signature: signatures.Signature) -> Sniffed:
    return Sniffed(signature.format, signature.content_type, _kind(signature.format, signature.content_type))


def _text(decoded: tuple[str, str], tail: bytes, read_at: ReadAt, size_bytes: int) -> Sniffed:
    head, charset = decoded
    short = size_bytes <= text.MAX_PARSED_BYTES and charset == "utf-8"
    name = text.identify(
        head, tail.decode(errors="replace"), (lambda: read_at(0, size_bytes)) if short else None
    )
    content_type = _TEXT_TYPES[name]
    kind = _kind(name, content_type)
    if content_type.startswith("text/"):
        content_type = f"{content_type}; charset={charset}"
    return Sniffed(name, content_type, kind, active=name in _ACTIVE)


def _kind(name: str, content_type: str) -> ArtifactKind:
    if content_type.startswith("image/"):
        return ArtifactKind.PLOT
    return ArtifactKind.DATASET if name in _DATASETS else ArtifactKind.EXPORT
