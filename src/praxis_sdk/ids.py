"""Ids: ordered by the time when they were made, so that what is new lies together in every index."""

from __future__ import annotations

import uuid_utils


def new_id() -> str:
    """Return an id that no other process makes, a UUID of version 7."""
    return str(uuid_utils.uuid7())
