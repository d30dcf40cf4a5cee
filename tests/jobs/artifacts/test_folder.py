"""Artifacts in a folder: the conformance suite, and what is its own."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from praxis_sdk.errors import ValidationError
from praxis_sdk.jobs.artifacts import ArtifactStore, ArtifactStoreUnavailable, sweep
from praxis_sdk.jobs.artifacts.digest import key_of
from tests.jobs.artifacts.conformance import DAY_S, Referred, StoreConformance
from tests.jobs.artifacts.conftest import FolderPlace


class TestFolder(StoreConformance):
    """The shared promises."""

    @pytest.fixture
    def place(self, folder_place: FolderPlace) -> FolderPlace:
        return folder_place


async def test_objects_are_read_only_and_nothing_else_is_left(folder_place: FolderPlace) -> None:
    stored = await folder_place.open().put(b"fixed")
    status = (folder_place.root / key_of(stored.digest)).stat()
    assert (stat.S_IMODE(status.st_mode), status.st_nlink) == (0o444, 1)
    assert list((folder_place.root / "tmp").iterdir()) == []
    assert stat.S_IMODE(folder_place.root.stat().st_mode) == 0o700


async def test_an_object_is_synced_before_its_name_and_its_name_before_the_answer(
    folder_place: FolderPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    sync, link = os.fsync, os.link

    def seen_sync(fd: int) -> None:
        target = os.readlink(f"/proc/self/fd/{fd}").removeprefix(str(folder_place.root.parent))
        calls.append("file" if "/tmp/" in target else target)
        sync(fd)

    def seen_link(source: Path, target: Path, **options: bool) -> None:
        calls.append("link")
        link(source, target, **options)

    monkeypatch.setattr(os, "fsync", seen_sync)
    monkeypatch.setattr(os, "link", seen_link)
    stored = await folder_place.open().put(b"durable")
    shard = stored.digest[7:9]
    assert calls == ["", "/store", "/store/sha256", "file", "link", f"/store/sha256/{shard}"]


async def test_a_write_that_fails_leaves_nothing(
    folder_place: FolderPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(fd: int, _: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(ArtifactStoreUnavailable, match="No space left on device"):
        await folder_place.open().put(b"too much")
    monkeypatch.undo()
    assert folder_place.keys() == []


async def test_what_a_dead_writer_left_is_swept_after_a_day(folder_place: FolderPlace) -> None:
    store = folder_place.open()
    await store.put(b"x")
    left = folder_place.root / "tmp" / "left"
    left.write_bytes(b"half")
    await sweep(store, Referred([(await store.put(b"x")).digest]))
    assert left.exists()
    folder_place.advance(DAY_S + 60)
    await sweep(store, Referred([(await store.put(b"x")).digest]))
    assert not left.exists()


async def test_a_link_in_place_of_an_object_is_not_followed(folder_place: FolderPlace) -> None:
    store = folder_place.open()
    stored = await store.put(b"root:x:0:0")
    path = folder_place.root / key_of(stored.digest)
    path.unlink()
    path.symlink_to("/etc/passwd")
    with pytest.raises(ArtifactStoreUnavailable, match="symbolic link"):
        await store.read(stored.digest)
    with pytest.raises(ArtifactStoreUnavailable):
        await store.put(b"root:x:0:0")


async def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactStoreUnavailable, match="cannot be used"):
        await ArtifactStore.open(tmp_path / "file" / "store").put(b"x")


@pytest.mark.parametrize("form", ["{}", "file://{}", "file://localhost{}"])
async def test_a_folder_is_named_by_path_or_address(tmp_path: Path, form: str) -> None:
    folder = tmp_path / "with space"
    stored = await ArtifactStore.open(
        form.format(str(folder).replace(" ", "%20" if "://" in form else " "))
    ).put(b"x")
    assert (folder / key_of(stored.digest)).read_bytes() == b"x"
    assert stored.uri == f"artifact:{key_of(stored.digest)}"


@pytest.mark.parametrize(
    "url", ["", "gs://bucket", "http://host/path", "file://host/path", "file:relative", "s3://"]
)
def test_an_address_of_another_kind_is_refused(url: str) -> None:
    with pytest.raises(ValidationError, match="artifact store"):
        ArtifactStore.open(url)
