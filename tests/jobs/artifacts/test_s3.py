"""Artifacts in S3: the conformance suite against a real server, and what is its own."""

from __future__ import annotations

import builtins
import os
from dataclasses import replace
from pathlib import Path

import obstore
import pytest

from praxis_sdk.errors import MissingExtra, ValidationError
from praxis_sdk.jobs.artifacts import ArtifactChanged, ArtifactStore, ArtifactStoreUnavailable, S3Options
from praxis_sdk.jobs.artifacts.backends.s3 import Bucket
from praxis_sdk.jobs.artifacts.digest import key_of
from tests.jobs.artifacts.conformance import MIB, NOBODY, StoreConformance, digest_of
from tests.jobs.artifacts.conftest import BUCKET, S3Place, S3Server


class TestS3(StoreConformance):
    """The shared promises."""

    @pytest.fixture
    def place(self, s3_place: S3Place) -> S3Place:
        return s3_place


async def test_an_upload_that_breaks_off_leaves_no_parts(s3_place: S3Place, tmp_path: Path) -> None:
    with (tmp_path / "file").open("w+b") as file:
        file.write(os.urandom(20 * MIB))
        file.flush()
        with pytest.raises(ArtifactChanged):
            await s3_place.open().put(file.fileno(), expected=digest_of(b"other"))
    uploads = s3_place.server.ask("GET", f"/{BUCKET}?uploads")
    assert s3_place.prefix.encode() not in uploads
    assert s3_place.keys() == []


@pytest.mark.parametrize("size_bytes", [10, 9 * MIB])
async def test_a_browser_downloads_and_opens_nothing(s3_place: S3Place, size_bytes: int) -> None:
    stored = await s3_place.open().put(b"<script>" + bytes(size_bytes))
    attributes = obstore.get(s3_place.raw, key_of(stored.digest)).attributes
    assert attributes["Content-Type"] == "application/octet-stream"
    assert attributes["Content-Disposition"] == "attachment"


async def test_the_uri_is_the_objects(s3_place: S3Place) -> None:
    store = s3_place.open()
    stored = await store.put(b"x")
    assert stored.uri == f"s3://{BUCKET}/{s3_place.prefix}/{key_of(stored.digest)}"
    assert ArtifactStore.open(f"s3://{BUCKET}", s3=s3_place.server.options).uri(NOBODY) == (
        f"s3://{BUCKET}/{key_of(NOBODY)}"
    )


async def test_a_missing_bucket_is_no_missing_artifact(s3: S3Server) -> None:
    store = ArtifactStore.open("s3://nowhere/x", s3=s3.options)
    for call in (store.put(b"x"), store.put(bytes(9 * MIB)), store.read(NOBODY)):
        with pytest.raises(ArtifactStoreUnavailable, match="'nowhere' cannot be used"):
            await call


async def test_a_server_that_is_not_there_is_told(s3: S3Server) -> None:
    options = replace(s3.options, endpoint="http://127.0.0.1:9")
    with pytest.raises(ArtifactStoreUnavailable, match="cannot be used") as caught:
        await ArtifactStore.open("s3://bucket", s3=options).stat(NOBODY)
    assert len(str(caught.value)) < 600


async def test_an_unencrypted_connection_must_be_allowed(s3: S3Server) -> None:
    store = ArtifactStore.open(f"s3://{BUCKET}", s3=replace(s3.options, allow_http=False))
    with pytest.raises(ArtifactStoreUnavailable):
        await store.stat(NOBODY)


def test_options_come_from_the_environment_and_hide_secrets() -> None:
    options = S3Options.from_environment(
        {"AWS_ENDPOINT_URL": "http://a", "AWS_REGION": "eu-west-1", "AWS_ALLOW_HTTP": "true"}
    )
    assert options == S3Options(endpoint="http://a", region="eu-west-1", allow_http=True)
    assert S3Options.from_environment({}) == S3Options()
    assert "hush" not in repr(S3Options(secret_access_key="hush", session_token="hush"))


def test_options_that_obstore_refuses_are_the_users_mistake() -> None:
    with pytest.raises(ValidationError, match="artifact store s3://bucket"):
        Bucket("bucket", "a//b", S3Options())


def test_a_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *arguments: object, **options: object) -> object:
        if name.partition(".")[0] == "obstore":
            raise ImportError(name)
        return real(name, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtra, match=r"praxis-sdk\[jobs\]"):
        ArtifactStore.open("s3://bucket/prefix")
