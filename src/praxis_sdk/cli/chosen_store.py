"""Which store a command works with: the embedded one of the home, or PostgreSQL by its address.

PRAXIS_STORE        postgresql://...; unless set, `praxis.db` in the home
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from praxis_sdk.cli.home import Home
from praxis_sdk.errors import PraxisError, ValidationError

if TYPE_CHECKING:
    from praxis_sdk.store import Store

STORE_VARIABLE: Final = "PRAXIS_STORE"
DATABASE: Final = "praxis.db"
PATIENCE_S: Final = 5.0  # of somebody who waits for an answer
_POSTGRES: Final = ("postgresql", "postgres")

StoreOption = Annotated[
    str | None,
    typer.Option(
        "--store", metavar="URL", help="postgresql://...; otherwise PRAXIS_STORE, or the home's own."
    ),
]


@dataclass(frozen=True)
class ChosenStore:
    """A store by its address.

    Args:
        home: where the embedded one is.
        url: of a PostgreSQL database; None: the embedded one.
    """

    home: Home
    url: str | None = None

    @classmethod
    def of_user(cls, given: str | None = None, home: Home | None = None) -> ChosenStore:
        """Return the store that the user names.

        Args:
            given: the option `--store`; None where it was not given.
            home: the home; unless given, the user's.

        Raises:
            ValidationError: it is no address of a store.
        """
        field, url = ("--store", given) if given is not None else (STORE_VARIABLE, None)
        url = os.environ.get(STORE_VARIABLE, "") if url is None else url
        home = home or Home.of_user()
        if not url:
            return cls(home)
        scheme, colon, _ = url.partition("://")
        if not colon or scheme.lower() not in _POSTGRES:
            # The address is not repeated: it may hold a password.
            wrong = (
                f"a store of the sort '{scheme[:20]}' is not known" if colon else "is no address of a store"
            )
            raise ValidationError(
                f"{field}: {wrong}", remedy="write postgresql://USER@HOST/DATABASE, or unset it"
            )
        return cls(home, url)

    @property
    def embedded(self) -> bool:
        """Whether it is the file in the home."""
        return self.url is None

    @property
    def path(self) -> Path:
        """The file of the embedded store."""
        return self.home.path / DATABASE

    @property
    def label(self) -> str:
        """What people call it, without a password."""
        if self.url is None:
            return str(self.path)
        from urllib.parse import urlsplit

        parts = urlsplit(self.url)
        host = parts.hostname or ""
        port = f":{parts.port}" if parts.port else ""
        return f"postgresql://{host}{port}{parts.path}"

    async def open(self, *, upgrade: bool = False, patience_s: float = PATIENCE_S) -> Store:
        """Open it, and create it where it is missing.

        Args:
            upgrade: whether an older schema is brought up to date.
            patience_s: for how long a server may be away, in seconds.

        Raises:
            MissingExtra: it is PostgreSQL, and the library for that is not installed.
            StoreUnavailable: it cannot be reached.
            StoreOutdated: its schema is another version's.
        """
        if self.url is not None:
            from praxis_sdk.store.postgres import PostgresStore

            with self._explained():
                return await PostgresStore.open(self.url, upgrade=upgrade, patience_s=patience_s)
        from praxis_sdk.store.sqlite import SqliteStore

        if not upgrade and self.path.exists() and not self.home.writable:
            return await SqliteStore.look(self.path)
        self.home.make_writable()
        return await SqliteStore.open(self.path, upgrade=upgrade)

    async def versions(self) -> tuple[int | None, int]:
        """Return the version of its schema, and the one that this Praxis works with; changes nothing.

        Returns:
            None for the first where there is no schema yet.

        Raises:
            StoreUnavailable: it cannot be reached.
        """
        if self.url is not None:
            from praxis_sdk.store.postgres import schema as postgres
            from praxis_sdk.store.postgres.connection import connect

            with self._explained():
                connection = await connect(self.url)
                try:
                    return await postgres.version_of(connection) or None, postgres.newest()
                finally:
                    connection.terminate()
        from praxis_sdk.store.sqlite import schema
        from praxis_sdk.store.sqlite.connection import connect as open_file
        from praxis_sdk.store.sqlite.connection import explained

        newest = max(schema.migrations())
        if not self.path.exists():
            return None, newest
        try:
            with contextlib.closing(open_file(str(self.path), read_only=True)) as file:
                return schema.version_of(file), newest
        except Exception as error:
            raise explained(error, str(self.path)) from error

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Say of an error of the driver which store it is about."""
        from praxis_sdk.store.protocol import StoreUnavailable

        try:
            yield
        except PraxisError:
            raise
        except Exception as error:
            reason = str(error) or type(error).__name__
            raise StoreUnavailable(
                f"the store {self.label} cannot be used: {reason}",
                remedy=f"check the address in {STORE_VARIABLE} or --store, and whether the server runs",
            ) from error
