"""`ArtifactStore`: immutable bytes, kept and found by their digest.

What is stored under a digest has that digest: it is hashed as it is written, and hashed again as it is read. An
object that is there already is not written again, only vouched for (`_settle`), so that garbage
collection lets it be until its new reference is recorded. `garbage.py` says how the two keep clear of each other.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import tempfile
import time
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from praxis_sdk.errors import PlatformError, ValidationError
from praxis_sdk.jobs.artifacts.backends.backend import Backend
from praxis_sdk.jobs.artifacts.backends.folder import Folder
from praxis_sdk.jobs.artifacts.backends.s3 import Bucket, S3Options
from praxis_sdk.jobs.artifacts.body import MAX_ARTIFACT_BYTES, Body
from praxis_sdk.jobs.artifacts.digest import key_of
from praxis_sdk.jobs.artifacts.errors import ArtifactCorrupt, ArtifactMissing
from praxis_sdk.jobs.artifacts.threads import in_thread

MAX_READ_BYTES: Final = 64 << 20
RENEW_AFTER_S: Final = (
    3600.0  # an object younger than this needs no renewal; half of the shortest grace period
)
DOOMED: Final = "doomed/"  # a key below it says that the object of that digest is being removed right now
_WAITS_S: Final = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2)

Source = int | bytes | AsyncIterable[bytes]


@dataclass(frozen=True, slots=True)
class StoredArtifact:
    """One object of the store.

    Args:
        digest: "sha256:...".
        size_bytes: its length.
        uri: where it is, as in `Artifact.uri`.
        created: it was not there before; False for one that was found.
    """

    digest: str
    size_bytes: int
    uri: str
    created: bool = False


class ArtifactStore:
    """Keeps artifacts. Made by `ArtifactStore.open`; safe for concurrent use, also by several processes.

    Args:
        backend: where the bytes are.
        clock: the time in seconds since 1970.
        sleep: waits for so many seconds; only called while a garbage collection is removing the same object.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.backend = backend
        self.clock = clock
        self._sleep = sleep

    @classmethod
    def open(
        cls,
        url: str | os.PathLike[str],
        *,
        s3: S3Options | None = None,
        environment: Mapping[str, str] | None = None,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> ArtifactStore:
        """Open a store; nothing is read or written yet.

        Args:
            url: `s3://bucket/prefix`, `file:///folder`, or the path of a folder.
            s3: how to reach the bucket; None to read it from the environment.
            environment: stands for `os.environ`.
            clock: the time in seconds since 1970.
            sleep: see the class.

        Raises:
            ValidationError: the address is not acceptable.
            MissingExtra: an S3 address, and obstore is not installed.
        """
        backend = _backend(os.fspath(url), s3, os.environ if environment is None else environment, clock)
        return cls(backend, clock=clock, sleep=sleep)

    def uri(self, digest: str) -> str:
        """Return where the artifact of a digest is, or would be."""
        return self.backend.uri(key_of(digest))

    async def put(
        self, source: Source, *, expected: str | None = None, max_bytes: int = MAX_ARTIFACT_BYTES
    ) -> StoredArtifact:
        """Store bytes; when this returns they are durable and can be read by their digest.

        Args:
            source: bytes, the descriptor of a regular file (read from its beginning; it stays the
                caller's), or an asynchronous stream, which is first written to a temporary file.
            expected: the digest, where it is known; an object that is there already is then not even read.
            max_bytes: how long it may be.

        Raises:
            ValidationError: it is too long, or no regular file.
            ArtifactChanged: its bytes are not the expected ones, or changed meanwhile; nothing was stored.
            ArtifactCorrupt: an object of this digest is there, and has another length.
            StoreUnavailable: the store cannot be written.
        """
        if isinstance(source, bytes):
            _check_size(len(source), max_bytes)
            return await self._settle(await in_thread(Body.of_bytes, source, expected))
        if isinstance(source, int):
            _check_size(os.fstat(source).st_size, max_bytes)
            return await self._settle(await in_thread(Body.of_file, source, expected))
        return await self._put_stream(source, expected, max_bytes)

    async def stat(self, digest: str) -> StoredArtifact | None:
        """Return what is known of an artifact; None when it is not in the store."""
        found = await self.backend.stat(key_of(digest))
        return None if found is None else StoredArtifact(digest, found.size_bytes, self.uri(digest))

    async def read(self, digest: str, *, max_bytes: int = MAX_READ_BYTES) -> bytes:
        """Return an artifact's bytes, verified.

        Raises:
            ArtifactMissing: it is not in the store.
            ArtifactCorrupt: the bytes do not have the digest.
            ValidationError: it is longer than `max_bytes`; use `stream`.
        """
        pieces: list[bytes] = []
        size_bytes = 0
        async with contextlib.aclosing(self.stream(digest)) as chunks:
            async for chunk in chunks:
                size_bytes += len(chunk)
                _check_size(size_bytes, max_bytes)
                pieces.append(chunk)
        return b"".join(pieces)

    async def stream(self, digest: str) -> AsyncGenerator[bytes, None]:
        """Yield an artifact's bytes in chunks of about a MiB, verified before the last one is given out.

        Whoever gets an exception must throw away what came before it.

        Raises:
            ArtifactMissing: it is not in the store.
            ArtifactCorrupt: instead of the last chunk, when the bytes do not have the digest.
        """
        running = hashlib.sha256()
        held = b""
        try:
            async with contextlib.aclosing(self.backend.read(key_of(digest))) as chunks:
                async for chunk in chunks:
                    if held:
                        yield held
                    running.update(chunk)
                    held = chunk
        except FileNotFoundError as error:
            raise ArtifactMissing(digest) from error
        if f"sha256:{running.hexdigest()}" != digest:
            raise ArtifactCorrupt(digest, f"its bytes have the digest sha256:{running.hexdigest()}")
        if held:
            yield held

    async def read_range(self, digest: str, start: int, size_bytes: int) -> bytes:
        """Return a part of an artifact, verified: the whole is read for it, but not kept.

        Args:
            digest: which artifact.
            start: offset of the first byte.
            size_bytes: how many, at most 64 MiB; fewer come back at the end of the artifact.
        """
        if start < 0 or not 0 <= size_bytes <= MAX_READ_BYTES:
            raise ValidationError(f"a range must begin at 0 or later and have at most {MAX_READ_BYTES} bytes")
        pieces: list[bytes] = []
        offset = 0
        async with contextlib.aclosing(self.stream(digest)) as chunks:
            async for chunk in chunks:
                piece = chunk[max(0, start - offset) : max(0, start + size_bytes - offset)]
                if piece:
                    pieces.append(piece)
                offset += len(chunk)
        return b"".join(pieces)

    async def copy_to(self, digest: str, fd: int) -> int:
        """Write an artifact, verified, to an empty regular file; the file is empty again after a failure.

        Returns:
            The number of bytes.
        """
        offset = 0
        try:
            async with contextlib.aclosing(self.stream(digest)) as chunks:
                async for chunk in chunks:
                    await in_thread(_write_at, fd, chunk, offset)
                    offset += len(chunk)
        except BaseException:
            os.ftruncate(fd, 0)
            raise
        return offset

    async def verify(self, digest: str) -> int:
        """Read an artifact to check it, and return its length in bytes; raises as `stream` does."""
        size_bytes = 0
        async with contextlib.aclosing(self.stream(digest)) as chunks:
            async for chunk in chunks:
                size_bytes += len(chunk)
        return size_bytes

    async def renew(self, digest: str) -> StoredArtifact:
        """Vouch for an artifact that is stored already, before a new record refers to it.

        `put` does the same for what it finds; this is for a caller that has only the digest.

        Raises:
            ArtifactMissing: it is not in the store.
            ArtifactCorrupt: the bytes do not have the digest.
        """
        return await self._put_stream(self.stream(digest), digest, MAX_ARTIFACT_BYTES)

    async def _put_stream(
        self, stream: AsyncIterable[bytes], expected: str | None, max_bytes: int
    ) -> StoredArtifact:
        with tempfile.TemporaryFile(buffering=0) as spool:
            size_bytes = 0
            async for chunk in stream:
                size_bytes += len(chunk)
                _check_size(size_bytes, max_bytes)
                await in_thread(_write_at, spool.fileno(), chunk, size_bytes - len(chunk))
            return await self._settle(await in_thread(Body.of_file, spool.fileno(), expected))

    async def _settle(self, body: Body) -> StoredArtifact:
        """Make sure that the object is there and that no garbage collection under way removes it.

        The order of the questions is what makes it safe: see `garbage.py`.
        """
        key = key_of(body.digest)
        doomed = DOOMED + key
        for wait_s in (*_WAITS_S, 0.0):
            found = await self.backend.stat(key)
            created = False
            if found is None:
                if await self.backend.stat(doomed) is None:
                    created = await self.backend.create(key, body)
            elif found.size_bytes != body.size_bytes:
                raise ArtifactCorrupt(
                    body.digest, f"it has {found.size_bytes} bytes and should have {body.size_bytes}"
                )
            else:
                if self.clock() - found.modified_s > RENEW_AFTER_S:
                    await self.backend.renew(key, body)
                if await self.backend.stat(doomed) is None and await self.backend.stat(key) is not None:
                    return StoredArtifact(body.digest, body.size_bytes, self.backend.uri(key))
            if created:
                return StoredArtifact(body.digest, body.size_bytes, self.backend.uri(key), created=True)
            await self._sleep(wait_s)
        raise PlatformError(
            f"artifact {body.digest} cannot be stored: a garbage collection has been removing it for too long",
            remedy="store it again; a removal that was cut off is given up after an hour",
        )


def _backend(
    url: str, s3: S3Options | None, environment: Mapping[str, str], clock: Callable[[], float]
) -> Backend:
    parts = urlsplit(url)
    if parts.scheme == "s3":
        if not parts.netloc or parts.query or parts.fragment or parts.username:
            raise ValidationError(f"artifact store {url!r}: write s3://bucket/prefix")
        return Bucket(parts.netloc, unquote(parts.path), s3 or S3Options.from_environment(environment))
    if parts.scheme == "file":
        if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
            raise ValidationError(f"artifact store {url!r}: write file:///folder")
        return Folder(Path(unquote(parts.path)), clock)
    if "://" in url or not url:
        raise ValidationError(
            f"artifact store {url!r}: this kind of address is not known",
            remedy="write s3://bucket/prefix, file:///folder or the path of a folder",
        )
    return Folder(Path(url).absolute(), clock)


def _check_size(size_bytes: int, max_bytes: int) -> None:
    if size_bytes > max_bytes:
        raise ValidationError(f"the artifact is longer than {max_bytes} bytes")


def _write_at(fd: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view = view[written:]
        offset += written
