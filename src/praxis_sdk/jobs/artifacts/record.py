"""`Artifact`: what a result says of one immutable file that a job left behind (spec 3, section 7)."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from praxis_sdk.jobs.artifacts import digest as digests
from praxis_sdk.jobs.artifacts.names import name_problem
from praxis_sdk.jobs.artifacts.types.kind import ArtifactKind

_URI_SCHEMES: Final = ("artifact:", "s3://")


class Artifact(BaseModel):
    """One immutable file, described by metadata; its bytes are read from the store by `digest`.

    Args:
        name: its path below the job's output folder, with '/' between components; never a path of a host.
        kind: what it is for.
        format: what its bytes are, in short: "png", "svg", "csv"; "bin" when nobody knows.
        digest: "sha256:" and 64 hexadecimal digits.
        size_bytes: its length.
        content_type: the media type of its bytes, whatever its name says.
        active: a browser that opens it may run scripts or fetch from the network (HTML, XML, SVG), so it must not be
            shown on a page that holds a session.
        uri: where it is kept: "s3://bucket/prefix/sha256/..." or "artifact:sha256/..." for a local folder.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    kind: ArtifactKind
    format: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_+.-]{0,15}$")]
    digest: Annotated[str, Field(pattern=digests.PATTERN)]
    size_bytes: Annotated[int, Field(ge=0)]
    content_type: Annotated[str, Field(pattern=r"^[a-z]+/[a-z0-9.+-]{1,100}(; charset=[a-z0-9-]{1,20})?$")]
    active: bool = False
    uri: str

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        problem = name_problem(name)
        if problem:
            raise ValueError(problem)
        return name

    @model_validator(mode="after")
    def _check_uri(self) -> Artifact:
        if not self.uri.startswith(_URI_SCHEMES) or not self.uri.endswith(digests.key_of(self.digest)):
            raise ValueError("uri must be s3://... or artifact:... and end with the key of the digest")
        return self
