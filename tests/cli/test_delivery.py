"""Artifacts become files below one folder, whatever their names say."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from praxis_sdk.cli.terminal.delivery import deliver_all, deliver_one
from praxis_sdk.errors import PlatformError, ValidationError
from praxis_sdk.jobs.artifacts import Artifact, ArtifactKind, ArtifactStore


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    """Make a store."""
    return ArtifactStore.open(tmp_path / "store")


async def artifact(store: ArtifactStore, name: str, content: bytes = b"content") -> Artifact:
    """Store an artifact under a name that nobody has checked."""
    stored = await store.put(content)
    return Artifact.model_construct(
        name=name,
        kind=ArtifactKind.EXPORT,
        format="bin",
        digest=stored.digest,
        size_bytes=len(content),
        content_type="application/octet-stream",
        uri=stored.uri,
    )


def files_below(folder: Path) -> list[str]:
    """Return every file below a folder, by relative path."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("a.txt", "a.txt"),
        ("sub/deep/a.txt", "sub/deep/a.txt"),
        ("-rf", "-rf"),
        ("../../evil", "evil"),
        ("/etc/evil", "etc/evil"),
        ("a/../../evil", "a/evil"),
        ("./a//b", "a/b"),
        (".bashrc", "_.bashrc"),
        ("a/.git/config", "a/_.git/config"),
        ("...", "_..."),
    ],
)
async def test_a_name_stays_below_the_folder(
    store: ArtifactStore, tmp_path: Path, name: str, place: str
) -> None:
    folder = tmp_path / "top/out"
    delivered = await deliver_all(store, [await artifact(store, name)], folder)
    assert files_below(tmp_path / "top") == [f"out/{place}"]
    assert delivered[0].path == folder / place
    assert (folder / place).read_bytes() == b"content"


@pytest.mark.parametrize("name", ["", ".", "../..", "//"])
async def test_a_name_that_says_nothing_is_refused(store: ArtifactStore, tmp_path: Path, name: str) -> None:
    with pytest.raises(ValidationError):
        await deliver_all(store, [await artifact(store, name)], tmp_path / "out")


async def test_two_names_never_become_one_file(store: ArtifactStore, tmp_path: Path) -> None:
    both = [await artifact(store, ".a"), await artifact(store, "_.a", b"other")]
    with pytest.raises(ValidationError, match="another one has its place"):
        await deliver_all(store, both, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("target", ["outside", "nowhere"])
async def test_no_link_is_followed_on_the_way(store: ArtifactStore, tmp_path: Path, target: str) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out/sub").symlink_to(tmp_path / target)
    with pytest.raises(ValidationError, match="a link or a file is in the way"):
        await deliver_all(store, [await artifact(store, "sub/a")], tmp_path / "out")
    assert files_below(tmp_path / "outside") == []
    assert not (tmp_path / "nowhere").exists()


async def test_the_folder_itself_may_be_a_link(store: ArtifactStore, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "real")
    await deliver_all(store, [await artifact(store, "a")], tmp_path / "out")
    assert files_below(tmp_path / "real") == ["a"]


async def test_a_file_takes_its_name_in_one_step(store: ArtifactStore, tmp_path: Path) -> None:
    place = tmp_path / "file"
    place.write_bytes(b"old")
    with place.open("rb") as before:
        assert await deliver_one(store, (await artifact(store, "x")).digest, place) == 7
        assert before.read() == b"old"  # whoever reads the old one is not disturbed
    assert place.read_bytes() == b"content"


async def test_what_is_missing_leaves_the_old_file_and_nothing_else(
    store: ArtifactStore, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "file").write_bytes(b"old")
    with pytest.raises(PlatformError):
        await deliver_one(store, f"sha256:{'0' * 64}", folder / "file")
    assert os.listdir(folder) == ["file"]
    assert (folder / "file").read_bytes() == b"old"


@pytest.mark.parametrize("place", ["", "..", "folder", "nowhere/file", "file/file"])
async def test_a_place_that_is_no_file_is_a_mistake(store: ArtifactStore, tmp_path: Path, place: str) -> None:
    (tmp_path / "out/folder").mkdir(parents=True)
    (tmp_path / "out/file").touch()
    with pytest.raises(ValidationError):
        await deliver_one(store, (await artifact(store, "x")).digest, Path(f"{tmp_path}/out", place, ""))
    assert files_below(tmp_path / "out") == ["file"]
