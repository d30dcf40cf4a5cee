"""What can go wrong with stored artifacts.

    PlatformError
    |-- ArtifactMissing     no object has this digest
    |-- ArtifactCorrupt     the stored bytes are not those that were stored
    |-- ArtifactChanged     the source changed while it was being stored; nothing was stored
    '-- StoreUnavailable    the folder or the object storage does not do what was asked

A limit that a job exceeds is no exception but a result: see `collect.LimitExceeded`.
"""

from __future__ import annotations

from praxis_sdk.errors import PlatformError


class ArtifactMissing(PlatformError):
    """The store holds no artifact of this digest."""

    def __init__(self, digest: str) -> None:
        super().__init__(f"artifact {digest} is not in the store")
        self.digest = digest


class ArtifactCorrupt(PlatformError):
    """The stored bytes do not match their digest: what was read of them must not be used."""

    def __init__(self, digest: str, problem: str) -> None:
        super().__init__(
            f"artifact {digest} is damaged: {problem}",
            remedy="restore the object from a backup, or remove it and run its job again",
        )
        self.digest = digest


class ArtifactChanged(PlatformError):
    """The bytes to be stored are not those that were announced; nothing was stored."""

    def __init__(self, digest: str) -> None:
        super().__init__(f"the source of artifact {digest} changed while it was being stored")
        self.digest = digest


class ArtifactStoreUnavailable(PlatformError):
    """The place where artifacts are kept cannot be read or written."""
