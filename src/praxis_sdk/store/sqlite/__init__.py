"""The store in one SQLite file, for one machine."""

from praxis_sdk.store.sqlite.store import SqliteStore

__all__ = ["SqliteStore"]
