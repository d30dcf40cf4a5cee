"""Quantities that people write: byte sizes ('512m') and durations ('90s'), as numbers."""

from __future__ import annotations

import re
from typing import Final

_SIZE: Final = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?b?)\s*$", re.IGNORECASE)
_SIZE_FACTOR: Final = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_DURATION: Final = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?\s*$", re.IGNORECASE)
_DURATION_FACTOR: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_bytes(text: str | int) -> int:
    """Read a byte size as Docker writes it: '512m', '1g', '64Mi', '2GB' or a number of bytes.

    Returns:
        The size in bytes, at least 1. All prefixes are powers of 1024, as in `docker run --memory`.

    Raises:
        ValueError: the text is not a positive size.
    """
    if isinstance(text, bool):
        raise ValueError(f"{text!r} is not a size; write for example '512m'")
    match = _SIZE.match(str(text))
    size = int(float(match[1]) * _SIZE_FACTOR[match[2].lower()]) if match else 0
    if size < 1:
        raise ValueError(f"{text!r} is not a size; write for example '512m'")
    return size


def parse_seconds(text: str | float) -> float:
    """Read a duration: '90', '90s', '5m', '250ms', '1h' or a number of seconds.

    Returns:
        The duration in seconds, above 0.

    Raises:
        ValueError: the text is not a positive duration.
    """
    if isinstance(text, bool):
        raise ValueError(f"{text!r} is not a duration; write for example '90s'")
    match = _DURATION.match(str(text))
    seconds = float(match[1]) * _DURATION_FACTOR[(match[2] or "s").lower()] if match else 0.0
    if seconds <= 0:
        raise ValueError(f"{text!r} is not a duration above zero; write for example '90s'")
    return seconds


def format_bytes(size_bytes: int) -> str:
    """Write a byte size for people: '512 B', '1.5 KiB', '64 MiB'."""
    size = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
