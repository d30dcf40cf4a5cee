"""Connections to the database file, and what their errors mean."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import tempfile
import time
from pathlib import Path
from typing import Final
from urllib.parse import quote

from praxis_sdk.errors import PraxisError, ValidationError
from praxis_sdk.store.protocol import StoreGone, StoreUnavailable

MEMORY: Final = ":memory:"
BUSY_S: Final = 30.0  # how long another process may hold the lock for a transaction of its own
_GLANCE_S: Final = 0.05
_COPIES: Final = 5  # how often a database is copied that is written to meanwhile
_CACHE_KIB: Final = 64 * 1024
_JOURNAL_LIMIT_BYTES: Final = 64 * 1024 * 1024
_DAMAGED: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})

_REPAIR: Final = (
    "move it away and put a backup in its place; `sqlite3 FILE .recover` may rescue what it holds"
)


def create_file(path: str) -> None:
    """Create the database's file where it is missing, for its owner alone: requests may hold secrets.

    Raises:
        StoreUnavailable: it cannot be created.
    """
    if path == MEMORY:
        return
    try:
        if os.path.exists(path):
            return
        # It gets its name when it is closed: whoever closes a database file lets go of all locks that this
        # process has on it (POSIX), and another of its connections may be open by then.
        folder = Path(path).parent
        folder.mkdir(parents=True, exist_ok=True)
        descriptor, new = tempfile.mkstemp(prefix=".praxis-", dir=folder)
        os.close(descriptor)
        with contextlib.suppress(FileExistsError):  # somebody else was faster
            os.link(new, path)
        os.unlink(new)
    except OSError as error:
        raise StoreUnavailable(f"the store {path} cannot be opened: {error.strerror}") from error


def connect(path: str, *, read_only: bool = False) -> sqlite3.Connection:
    """Return a connection in autocommit mode; transactions are opened by name.

    Args:
        path: the database's file, or `MEMORY`.
        read_only: it refuses to write.

    Raises:
        sqlite3.Error: the file is no database, or cannot be opened.
    """
    connection = sqlite3.connect(
        path, timeout=BUSY_S, isolation_level=None, check_same_thread=False, cached_statements=256
    )
    try:
        # FULL: a commit is on the disk when it returns. Journals of savepoints are small and stay in memory.
        for pragma in (
            "journal_mode = WAL",
            "synchronous = FULL",
            "temp_store = MEMORY",
            f"cache_size = -{_CACHE_KIB}",
            f"journal_size_limit = {_JOURNAL_LIMIT_BYTES}",
            "trusted_schema = OFF",
        ):
            connection.execute(f"PRAGMA {pragma}").fetchall()
        if read_only:
            connection.execute("PRAGMA query_only = ON")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def connect_to_look(path: str) -> sqlite3.Connection:
    """Return a connection to a database whose folder cannot be written to.

    SQLite needs to write beside a database with a log, even to read it. So what is in the log is read from a copy of
    both; without a log, nobody has the database open, and the file itself is read.

    Raises:
        StoreUnavailable: it is being written to all the time.
        sqlite3.Error: the file is no database, or cannot be opened.
        OSError: the file cannot be read, or there is no room for a copy.
    """
    log = f"{path}-wal"
    if not (os.path.exists(log) and os.path.getsize(log)):
        return sqlite3.connect(
            f"file:{quote(path)}?mode=ro&immutable=1", uri=True, isolation_level=None, check_same_thread=False
        )
    for _ in range(_COPIES):
        before = _versions(path, log)
        with tempfile.TemporaryDirectory(prefix="praxis-look-") as folder:
            copy = os.path.join(folder, "praxis.db")
            shutil.copyfile(path, copy)
            shutil.copyfile(log, f"{copy}-wal")
            if _versions(path, log) != before:
                continue  # somebody wrote meanwhile
            connection = sqlite3.connect(copy, isolation_level=None, check_same_thread=False)
            connection.execute(
                "PRAGMA schema_version"
            ).fetchall()  # opens the log; the files' names may go now
            return connection
    raise StoreUnavailable(
        f"the store {path} is written to all the time, and its folder may only be read",
        remedy="look at it as the user who runs it",
    )


def _versions(*paths: str) -> list[tuple[int, int]]:
    return [(found.st_mtime_ns, found.st_size) for found in map(os.stat, paths)]


class FileWatch:
    """Notices that a database is not the file any more that was opened, or is damaged: SQLite would go on with it.

    Args:
        path: the database's file, which is there.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._database = _identity(path)
        self._log_path = f"{path}-wal"
        self._log: tuple[int, int] | None = None
        self._gone_for: StoreGone | None = None
        self._checked_at = float("-inf")

    def begin(self) -> None:
        """Go on only where nothing was found to be wrong before.

        Raises:
            StoreGone: the store is gone or damaged.
        """
        if self._gone_for is not None:
            raise self._gone_for

    def glance(self) -> None:
        """Check where nobody has for a moment: whoever only reads loses nothing meanwhile.

        Raises:
            StoreGone, StoreUnavailable: as `check`.
        """
        if time.monotonic() - self._checked_at >= _GLANCE_S:
            self.check()

    def check(self) -> None:
        """Look at the names of the database and, once it is in use, of its write-ahead log.

        Raises:
            StoreGone: one of them names another file by now, or none.
            StoreUnavailable: nobody can look at them now.
        """
        if self._path == MEMORY:
            return
        try:
            self._compare()
            self._checked_at = time.monotonic()
        except OSError as error:
            raise StoreUnavailable(f"the store {self._path} cannot be looked at: {error.strerror}") from error

    def _compare(self) -> None:
        if _identity(self._path) != self._database:
            raise self._gone("deleted or replaced")
        if self._log is not None and _identity(self._log_path) != self._log:
            raise self._gone("separated from its write-ahead log (-wal)")

    def used(self) -> None:
        """Take note that a transaction was done: from now on the log must stay the same, too."""
        if self._log is None and self._path != MEMORY:
            self._log = _identity(self._log_path)

    def reason(self, error: Exception) -> Exception:
        """Return why something failed: that the store is gone or damaged, where it is; else the error itself."""
        try:
            self.check()
        except StoreGone as gone:
            return gone
        except StoreUnavailable:
            return error
        if isinstance(error, sqlite3.Error) and error_code(error) & 0xFF in _DAMAGED:
            self._gone_for = StoreGone(
                f"{_damaged(self._path, error)}: nothing more is written", remedy=_REPAIR
            )
            return self._gone_for
        return error

    def closed(self) -> None:
        """Take note that a connection was closed: SQLite removes the log with the last one."""
        self._log = None

    def _gone(self, what: str) -> StoreGone:
        self._gone_for = StoreGone(
            f"the store {self._path} was {what} while it was in use: nothing more is written",
            remedy="put it back as it was, or start anew on what is there now",
        )
        return self._gone_for


def _identity(path: str) -> tuple[int, int] | None:
    """Return which file a name leads to; None where it leads to none."""
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_dev, found.st_ino


def explained(error: BaseException, path: str) -> BaseException:
    """Return what an error of a statement means for the caller, chained to it; Praxis' own stay as they are."""
    if isinstance(error, PraxisError) or not isinstance(error, sqlite3.Error | UnicodeError):
        return error
    meaning: PraxisError
    if isinstance(error, UnicodeError):
        meaning = ValidationError(f"text that is no Unicode cannot be kept: {error}")
    elif (error_code(error) & 0xFF) in _DAMAGED:
        meaning = StoreUnavailable(_damaged(path, error), remedy=_REPAIR)
    elif (error_code(error) & 0xFF) == sqlite3.SQLITE_READONLY:
        meaning = StoreUnavailable(
            f"the store {path} may only be read: {error}",
            remedy="give its file, and those beside it, to the user who runs this",
        )
    else:
        meaning = StoreUnavailable(f"the store {path} cannot be used now: {error}")
    meaning.__cause__ = error
    return meaning


def _damaged(path: str, error: Exception) -> str:
    return f"the store {path} is damaged or is no database: {error}"


def error_code(error: sqlite3.Error) -> int:
    """Return SQLite's code of an error; 0 where it has none."""
    code = getattr(error, "sqlite_errorcode", 0)
    return code if isinstance(code, int) else 0
