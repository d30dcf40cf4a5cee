"""From what was collected to artifacts in the store (spec 3, section 7.2)."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from typing import Final

from praxis_sdk.jobs.artifacts.collect import CollectedFile, Collection
from praxis_sdk.jobs.artifacts.record import Artifact
from praxis_sdk.jobs.artifacts.store import ArtifactStore
from praxis_sdk.jobs.artifacts.types.kind import ArtifactKind

_UPLOADS_AT_ONCE: Final = 4


async def upload(
    collection: Collection,
    source_fd: int,
    store: ArtifactStore,
    *,
    kinds: Mapping[str, ArtifactKind] | None = None,
) -> tuple[Artifact, ...]:
    """Store every collected file and describe it.

    Args:
        collection: what `collect` returned.
        source_fd: the folder that it was collected from.
        store: where the bytes go.
        kinds: what an adapter knows better than the bytes, by name: which file is a preview, for one.

    Returns:
        An artifact for each file, in the same order; all of them are durable.

    Raises:
        ArtifactChanged: a file is not what was collected any more.
        ArtifactCorrupt: the store holds a damaged object of a file's digest.
        StoreUnavailable: the store cannot be written.
    """
    artifacts: list[Artifact | None] = [None] * len(collection.files)
    waiting = iter(enumerate(collection.files))

    async def work() -> None:
        for index, file in waiting:
            artifacts[index] = await one(file)
            await asyncio.sleep(0)  # an object that is there already may have taken no turn of the event loop

    async def one(file: CollectedFile) -> Artifact:
        fd = file.open(source_fd)
        try:
            stored = await store.put(fd, expected=file.digest)
        finally:
            os.close(fd)
        return Artifact(
            name=file.name,
            kind=(kinds or {}).get(file.name, file.sniffed.kind),
            format=file.sniffed.format,
            digest=stored.digest,
            size_bytes=stored.size_bytes,
            content_type=file.sniffed.content_type,
            active=file.sniffed.active,
            uri=stored.uri,
        )

    workers = (work() for _ in range(min(_UPLOADS_AT_ONCE, len(artifacts))))
    outcomes = await asyncio.gather(*workers, return_exceptions=True)
    # Only now that none of them is under way any more: they read below the caller's descriptor.
    for outcome in outcomes:
        if outcome is not None:
            raise outcome
    return tuple(artifact for artifact in artifacts if artifact is not None)
