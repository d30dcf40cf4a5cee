"""What jobs leave behind: collected safely, kept by digest, never changed (spec 3, section 7).

    collection = collect(harvest.fd, ArtifactLimits())  # in a process that can be killed: see `jobs.collector`
    artifacts = await upload(collection, harvest.fd, ArtifactStore.open("s3://bucket/prefix"))
    data = await store.read(artifacts[0].digest)  # verified

`docs/explanation/artifacts.md` tells why it is as it is.
"""

from praxis_sdk.jobs.artifacts.backends.s3 import S3Options
from praxis_sdk.jobs.artifacts.collect import (
    ArtifactLimits,
    CollectedFile,
    Collection,
    LimitExceeded,
    Reason,
    Rejected,
    collect,
)
from praxis_sdk.jobs.artifacts.errors import (
    ArtifactChanged,
    ArtifactCorrupt,
    ArtifactMissing,
    ArtifactStoreUnavailable,
)
from praxis_sdk.jobs.artifacts.garbage import References, Sweep, sweep
from praxis_sdk.jobs.artifacts.record import Artifact
from praxis_sdk.jobs.artifacts.store import ArtifactStore, StoredArtifact
from praxis_sdk.jobs.artifacts.types.kind import ArtifactKind
from praxis_sdk.jobs.artifacts.types.sniff import Sniffed, sniff_bytes
from praxis_sdk.jobs.artifacts.upload import upload

__all__ = [
    "Artifact",
    "ArtifactChanged",
    "ArtifactCorrupt",
    "ArtifactKind",
    "ArtifactLimits",
    "ArtifactMissing",
    "ArtifactStore",
    "ArtifactStoreUnavailable",
    "CollectedFile",
    "Collection",
    "LimitExceeded",
    "Reason",
    "References",
    "Rejected",
    "S3Options",
    "Sniffed",
    "StoredArtifact",
    "Sweep",
    "collect",
    "sniff_bytes",
    "sweep",
    "upload",
]
