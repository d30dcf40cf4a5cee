"""Times as people write and read them on the command line."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from praxis_sdk.errors import ValidationError
from praxis_sdk.units import parse_seconds

_MINUTE_S: Final = 60
_HOUR_S: Final = 3600
_DAY_S: Final = 86_400
_END_OF_YEAR_9999_S: Final = 253_402_300_800
_REMEDY: Final = "write for example +2h, or 2026-01-31T22:00"


def read_moment(text: str | float, field: str, now: float) -> float:
    """Read a time: `+2h` from now, ISO 8601, or seconds since 1970.

    Args:
        text: what was given.
        field: the option or field that it was given to, for messages.
        now: seconds since 1970.

    Returns:
        Seconds since 1970.

    Raises:
        ValidationError: it is none of these.
    """
    try:
        at = _seconds(text, now)
    except (ValueError, OverflowError) as error:
        raise ValidationError(f"{field}: {str(text)[:64]!r} is no time", remedy=_REMEDY) from error
    if not 0 <= at < _END_OF_YEAR_9999_S:  # nothing later can be written as a date
        raise ValidationError(f"{field}: {str(text)[:64]!r} is out of reach", remedy=_REMEDY)
    return at


def _seconds(text: str | float, now: float) -> float:
    if isinstance(text, int | float) and not isinstance(text, bool):
        return float(text)
    words = str(text).strip()
    if words.startswith("+"):
        return now + parse_seconds(words[1:])
    return datetime.fromisoformat(words).timestamp()


def read_duration(text: str | float, field: str) -> float:
    """Read a duration, in seconds.

    Raises:
        ValidationError: it is none.
    """
    try:
        return parse_seconds(text)
    except ValueError as error:
        raise ValidationError(f"{field}: {error}") from error


def write_moment(at: float | None) -> str:
    """Write a time in UTC, to the second; '-' for none."""
    return "-" if at is None else f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S}"


def write_span(seconds: float | None) -> str:
    """Write how long something took or is ago, in few characters: '0.34s', '12s', '5m', '3h12m', '4d'."""
    if seconds is None:
        return "-"
    if seconds < 10:
        return f"{max(0.0, seconds):.2f}s"
    whole = round(seconds)
    if whole < _MINUTE_S:
        return f"{whole}s"
    if whole < _HOUR_S:
        return f"{whole // _MINUTE_S}m{whole % _MINUTE_S:02d}s"
    if whole < _DAY_S:
        return f"{whole // _HOUR_S}h{whole % _HOUR_S // _MINUTE_S:02d}m"
    return f"{whole // _DAY_S}d{whole % _DAY_S // _HOUR_S:02d}h"
