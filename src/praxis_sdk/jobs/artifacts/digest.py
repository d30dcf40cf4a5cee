"""Digests of artifacts (`sha256:<64 hex digits>`) and the keys that objects have in a store."""

from __future__ import annotations

import re
from typing import Final

from praxis_sdk.errors import ValidationError

PATTERN: Final = r"^sha256:[0-9a-f]{64}$"  # as JSON Schema has it: to the very end
OBJECTS: Final = "sha256/"  # every object's key begins with it
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
_KEY: Final = re.compile(r"sha256/([0-9a-f]{2})/([0-9a-f]{62})")


def check_digest(digest: str) -> str:
    """Return the digest.

    Raises:
        ValidationError: it is not `sha256:` and 64 lower-case hexadecimal digits.
    """
    if not _DIGEST.fullmatch(digest):
        raise ValidationError(
            f"{digest[:100]!r} is not a digest", remedy="write 'sha256:' and 64 lower-case hexadecimal digits"
        )
    return digest


def key_of(digest: str) -> str:
    """Return the key of a digest's object: `sha256/ab/cdef...`, so that no folder grows without bound."""
    hexadecimal = check_digest(digest).removeprefix("sha256:")
    return f"{OBJECTS}{hexadecimal[:2]}/{hexadecimal[2:]}"


def digest_of(key: str) -> str | None:
    """Return the digest whose object has this key; None when it is nobody's."""
    match = _KEY.fullmatch(key)
    return f"sha256:{match[1]}{match[2]}" if match else None
