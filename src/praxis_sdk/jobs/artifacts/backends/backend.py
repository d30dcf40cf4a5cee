"""`Backend`: the few operations that a place for artifacts must offer; a file each for folder and S3.

An object is never changed. Its time of modification tells when somebody last vouched that it is
needed, so `renew` may set it; only garbage collection asks for it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import Protocol

from praxis_sdk.jobs.artifacts.body import Body


@dataclass(frozen=True, slots=True)
class ObjectStat:
    """One object.

    Args:
        key: its name in the store.
        size_bytes: its length.
        modified_s: when it was written or renewed, in seconds since 1970.
    """

    key: str
    size_bytes: int
    modified_s: float


class Backend(Protocol):
    """A place for objects. Every method raises `StoreUnavailable` when the place fails."""

    def uri(self, key: str) -> str:
        """Return the key's URI, as it stands in `Artifact.uri`."""

    async def create(self, key: str, body: Body) -> bool:
        """Write an object that is not there yet; False when it is. What returns is durable, and whole.

        Raises:
            ArtifactChanged: the body's bytes are not those of its digest; nothing was written.
        """

    async def renew(self, key: str, body: Body) -> None:
        """Make an object as young as a new one. May write the same bytes again; never others."""

    async def stat(self, key: str) -> ObjectStat | None:
        """Return what is known of an object; None when there is none."""

    def read(self, key: str) -> AsyncGenerator[bytes, None]:
        """Yield an object's bytes in chunks of a few MiB.

        Raises:
            FileNotFoundError: there is none.
        """

    def objects(self, prefix: str) -> AsyncIterator[ObjectStat]:
        """Yield all objects whose key begins with a prefix that ends in '/'."""

    async def remove(self, key: str) -> None:
        """Remove an object; harmless when there is none."""

    async def tidy(self, before_s: float) -> None:
        """Remove what interrupted writes left behind before a time, in seconds since 1970."""
