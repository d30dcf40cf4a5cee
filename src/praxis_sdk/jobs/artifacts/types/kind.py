"""What an artifact is for (spec 3, section 7.3)."""

from __future__ import annotations

from enum import StrEnum


class ArtifactKind(StrEnum):
    """What an artifact is for (spec 3, section 7.3)."""

    PLOT = "plot"  # an image for people: png, svg, jpg
    EXPORT = "export"  # a document to take away: pdf, html, an archive, plain text
    PREVIEW = "preview"  # a small stand-in for another artifact; only an adapter can say so
    DATASET = "dataset"  # data for programs: json, csv, parquet, npy
