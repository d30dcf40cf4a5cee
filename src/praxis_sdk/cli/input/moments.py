"""Times as people write and read them on the command line."""

from __future__ import annotations

import re
from datetime import UTC, datetime, time, timedelta
from typing import Final

from praxis_sdk.errors import ValidationError
from praxis_sdk.units import parse_seconds

_MINUTE_S: Final = 60
_HOUR_S: Final = 3600
_DAY_S: Final = 86_400
_END_OF_YEAR_9999_S: Final = 253_402_300_800
_REMEDY: Final = "write for example +2h, 22:00, or 2026-01-31T22:00"
_TIME_OF_DAY: Final = re.compile(r"[0-9]{1,2}:[0-9]{2}(:[0-9]{2})?")


def read_moment(text: str | float, field: str, now: float, *, after: float | None = None) -> float:
    """Read a time: `+2h` from now, `22:00` the next time that a clock here shows it, ISO 8601, or seconds since 1970.

    Args:
        text: what was given.
        field: the option or field that it was given to, for messages.
        now: seconds since 1970.
        after: what a time of day comes next after, seconds since 1970; now unless given.

    Returns:
        Seconds since 1970.

    Raises:
        ValidationError: it is none of these.
    """
    try:
        at = _seconds(text, now, now if after is None else after)
    except (ValueError, OverflowError) as error:
        raise ValidationError(f"{field}: {str(text)[:64]!r} is not a valid time", remedy=_REMEDY) from error
    if not 0 <= at < _END_OF_YEAR_9999_S:  # nothing later can be written as a date
        raise ValidationError(f"{field}: {str(text)[:64]!r} is out of reach", remedy=_REMEDY)
    return at


def _seconds(text: str | float, now: float, after: float) -> float:
    if isinstance(text, int | float) and not isinstance(text, bool):
        return float(text)
    words = str(text).strip()
    if words.startswith("+"):
        return now + parse_seconds(words[1:])
    if _TIME_OF_DAY.fullmatch(words):
        day = datetime.fromtimestamp(after)  # noqa: DTZ006 - of this machine's zone, as people mean it
        shown = time.fromisoformat(words.zfill(len(words) + (words[1] == ":")))
        at = datetime.combine(day, shown).timestamp()
        return at if at > after else datetime.combine(day + timedelta(days=1), shown).timestamp()
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
