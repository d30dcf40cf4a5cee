"""`Body`: the bytes of one object on their way into a store, checked against their digest as they pass.

The digest is known before the first byte is written, because it names the object. What is then
written is hashed again on its way, and a body whose bytes turn out to be others ends in an error before its
last chunk is out, so that no store ever completes an object under a digest that is not its own.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from praxis_sdk.errors import ValidationError
from praxis_sdk.jobs.artifacts.digest import check_digest
from praxis_sdk.jobs.artifacts.errors import ArtifactChanged

MAX_ARTIFACT_BYTES: Final = 16 << 30
_HASH_CHUNK_BYTES: Final = 1 << 20


class _Source(Protocol):
    def read_at(self, offset: int, size_bytes: int) -> bytes: ...


@dataclass(frozen=True, slots=True)
class _Memory:
    data: bytes

    def read_at(self, offset: int, size_bytes: int) -> bytes:
        return self.data[offset : offset + size_bytes]


@dataclass(frozen=True, slots=True)
class _File:
    fd: int

    def read_at(self, offset: int, size_bytes: int) -> bytes:
        return os.pread(self.fd, size_bytes, offset)


@dataclass(frozen=True, slots=True)
class Body:
    """Bytes with their digest; all methods block.

    Args:
        digest: "sha256:...".
        size_bytes: their number.
        source: where they come from.
    """

    digest: str
    size_bytes: int
    source: _Source

    @classmethod
    def of_bytes(cls, data: bytes, expected: str | None = None) -> Body:
        """Take bytes.

        Raises:
            ArtifactChanged: their digest is not the expected one.
        """
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        if expected is not None and check_digest(expected) != digest:
            raise ArtifactChanged(expected)
        return cls(digest, len(data), _Memory(data))

    @classmethod
    def of_file(cls, fd: int, expected: str | None = None) -> Body:
        """Take a regular file, from its beginning whatever its position is.

        Args:
            fd: stays the caller's, who keeps it open until the body has been stored.
            expected: its digest, where that is known; else it is read for it.

        Raises:
            ValidationError: it is no regular file.
        """
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise ValidationError("only a regular file can be stored as an artifact")
        source = _File(fd)
        digest = check_digest(expected) if expected is not None else _hash(source, status.st_size)
        return cls(digest, status.st_size, source)

    def chunks(self, chunk_bytes: int) -> Iterator[bytes]:
        """Yield the bytes, each chunk but the last of `chunk_bytes`.

        Raises:
            ArtifactChanged: instead of the last chunk, when they do not have the digest.
        """
        running = hashlib.sha256()
        offset = 0
        while offset < self.size_bytes:
            chunk = self._exactly(offset, min(chunk_bytes, self.size_bytes - offset))
            running.update(chunk)
            offset += len(chunk)
            if offset == self.size_bytes:
                self._check(running.hexdigest())
            yield chunk
        if self.size_bytes == 0:
            self._check(running.hexdigest())

    def _exactly(self, offset: int, size_bytes: int) -> bytes:
        pieces: list[bytes] = []
        while size_bytes:
            piece = self.source.read_at(offset, size_bytes)
            if not piece:
                raise ArtifactChanged(self.digest)
            pieces.append(piece)
            offset += len(piece)
            size_bytes -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _check(self, hexadecimal: str) -> None:
        # A source that grew has more to give than was announced.
        if self.source.read_at(self.size_bytes, 1) or f"sha256:{hexadecimal}" != self.digest:
            raise ArtifactChanged(self.digest)


def _hash(source: _Source, size_bytes: int) -> str:
    digest = hashlib.sha256()
    offset = 0
    while offset < size_bytes:
        chunk = source.read_at(offset, min(_HASH_CHUNK_BYTES, size_bytes - offset))
        if not chunk:
            break
        digest.update(chunk)
        offset += len(chunk)
    return f"sha256:{digest.hexdigest()}"
