"""Formats that are told by their first bytes.

What jobs usually leave behind is recognised by rules of our own, strict enough that a text which happens to
begin with the same letters is not mistaken for it; for the rest puremagic is asked. This is the only module that
imports it. Its answer counts only where one media type has the longest signature, of at least four bytes at
the beginning, and never where it names something that a browser would run.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Final, NamedTuple

from praxis_sdk.errors import MissingExtra

_MIN_SIGNATURE_BYTES: Final = 4
_MEDIA_TYPE: Final = re.compile(r"(application|audio|font|image|video)/[a-z0-9.+-]{1,80}")
_ACTIVE_WORDS: Final = re.compile(r"html|xml|svg|script|flash")
_EXTENSION: Final = re.compile(r"\.([a-z0-9]{1,10})")


class Signature(NamedTuple):
    """What the first bytes say.

    Args:
        format: short name, as in `Artifact.format`.
        content_type: media type.
    """

    format: str
    content_type: str


_PREFIXES: Final = (
    (b"\x93NUMPY", Signature("npy", "application/x-npy")),
    (b"\x89HDF\r\n\x1a\n", Signature("hdf5", "application/x-hdf5")),
    (b"CDF\x01", Signature("netcdf", "application/x-netcdf")),
    (b"CDF\x02", Signature("netcdf", "application/x-netcdf")),
    (b"SQLite format 3\0", Signature("sqlite", "application/vnd.sqlite3")),
    (b"\xff\xd8\xff", Signature("jpg", "image/jpeg")),
    (b"\x1f\x8b\x08", Signature("gz", "application/gzip")),
    (b"%PDF-1.", Signature("pdf", "application/pdf")),
    (b"%PDF-2.", Signature("pdf", "application/pdf")),
    (b"II*\0", Signature("tiff", "image/tiff")),
    (b"MM\0*", Signature("tiff", "image/tiff")),
)
_ARCHIVE_PARTS: Final = (
    (b"xl/", Signature("xlsx", "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet")),
    (b"word/", Signature("docx", "application/vnd.openxmlformats-officedocument.wordprocessingml.document")),
    (b"ppt/", Signature("pptx", "application/vnd.openxmlformats-officedocument.presentationml.presentation")),
)


def identify(head: bytes, tail: bytes, size_bytes: int) -> Signature | None:
    """Return what a file is by our own rules; None when they do not know it.

    Args:
        head: its beginning, 64 bytes at least unless it is shorter.
        tail: its end.
        size_bytes: its length.
    """
    for prefix, signature in _PREFIXES:
        if head.startswith(prefix):
            return signature
    if head.startswith(b"\x89PNG\r\n\x1a\n") and head[12:16] == b"IHDR":
        return Signature("png", "image/png")
    if head[:6] in (b"GIF87a", b"GIF89a") and size_bytes >= 14:
        return Signature("gif", "image/gif")
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return Signature("webp", "image/webp")
    if head[:2] == b"BM" and int.from_bytes(head[2:6], "little") == size_bytes > 26:
        return Signature("bmp", "image/bmp")
    if head[:4] == b"PAR1" == tail[-4:] and size_bytes >= 12:
        return Signature("parquet", "application/vnd.apache.parquet")
    if head[:6] == b"ARROW1" == tail[-6:] and size_bytes >= 16:
        return Signature("arrow", "application/vnd.apache.arrow.file")
    if head[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        return _archive(head, tail)
    return None


def _archive(head: bytes, tail: bytes) -> Signature:
    """Tell zip files apart by names in their directory, which is at the end; nothing is unpacked."""
    first_name = head[30 : 30 + int.from_bytes(head[26:28], "little")]
    if first_name.endswith(b".npy"):
        return Signature("npz", "application/x-npz")
    if first_name == b"[Content_Types].xml" or b"[Content_Types].xml" in tail:
        for part, signature in _ARCHIVE_PARTS:
            if b"PK\x01\x02" in tail and part in tail:
                return signature
    return Signature("zip", "application/zip")


def consult(head: bytes) -> Signature | None:
    """Return what puremagic takes a file for that is no text; None when it is not sure.

    Raises:
        MissingExtra: puremagic is not installed.
    """
    library = _library()
    try:
        matches = library.magic_string(head)
    except LookupError:  # its "could not identify"
        return None
    firm = [
        match
        for match in matches
        if match.offset >= 0 and len(match.byte_match) >= _MIN_SIGNATURE_BYTES and match.mime_type
    ]
    longest = max((len(match.byte_match) for match in firm), default=0)
    best = [match for match in firm if len(match.byte_match) == longest]
    if len({match.mime_type for match in best}) != 1:
        return None
    content_type = best[0].mime_type.lower()
    extension = _EXTENSION.fullmatch(best[0].extension)
    if not extension or not _MEDIA_TYPE.fullmatch(content_type) or _ACTIVE_WORDS.search(content_type):
        return None
    return Signature(extension[1], content_type)


def library_folder() -> str:
    """Return the folder from which puremagic is imported, without importing it; "" where it is not installed."""
    found = find_spec("puremagic")
    return "" if found is None or found.origin is None else str(Path(found.origin).parent.parent)


@cache
def _library() -> ModuleType:
    try:
        import puremagic
    except ImportError as error:
        raise MissingExtra("puremagic", "jobs") from error
    return puremagic
