"""What an artifact's record accepts."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from praxis_sdk.jobs.artifacts import Artifact, ArtifactKind
from praxis_sdk.jobs.artifacts.digest import digest_of, key_of

DIGEST = "sha256:" + "ab" * 32


def artifact(**changes: Any) -> Artifact:
    fields = {
        "name": "plots/figure 1.png",
        "kind": "plot",
        "format": "png",
        "digest": DIGEST,
        "size_bytes": 3,
        "content_type": "image/png",
        "uri": f"s3://bucket/prefix/{key_of(DIGEST)}",
    }
    return Artifact.model_validate({**fields, **changes})


def test_a_record_goes_through_json_unchanged() -> None:
    made = artifact()
    assert made.kind is ArtifactKind.PLOT
    assert Artifact.model_validate_json(made.model_dump_json()) == made


def test_a_record_never_changes_and_ignores_what_it_does_not_know() -> None:
    made = artifact(later_field=1)
    with pytest.raises(ValidationError, match="frozen"):
        made.name = "other"  # type: ignore[misc]


@pytest.mark.parametrize(
    "changes",
    [
        {"name": name}
        for name in (
            "",
            "/etc/passwd",
            "../up",
            "a/../b",
            "a//b",
            "./a",
            "a/",
            "a\nb",
            "a\\b",
            "x" * 1025,
            "\udcff",
        )
    ]
    + [
        {"uri": f"file:///var/lib/{key_of(DIGEST)}"},
        {"uri": "s3://bucket/other"},
        {"uri": f"artifact:{key_of('sha256:' + '0' * 64)}"},
        {"digest": "sha256:short"},
        {"digest": DIGEST + "\n"},
        {"format": "PNG"},
        {"format": "png\n"},
        {"content_type": "image/png\r\nSet-Cookie: x"},
        {"content_type": "image/png\n"},
        {"content_type": "nothing"},
        {"size_bytes": -1},
        {"kind": "virus"},
    ],
)
def test_a_field_that_makes_no_sense_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        artifact(**changes)


def test_keys_and_digests_belong_together() -> None:
    assert key_of(DIGEST) == "sha256/ab/" + "ab" * 31
    assert digest_of(key_of(DIGEST)) == DIGEST
    assert digest_of("sha256/ab/short") is None
