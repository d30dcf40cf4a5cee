"""What comes back to the host from a tool's side of a mount, and what does not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from praxis_sdk.errors import PlatformError
from praxis_sdk.execution.mounts import exports
from praxis_sdk.execution.mounts.exports import export_changes, fingerprint


@pytest.fixture
def inside(tmp_path: Path) -> Path:
    """Make the tool's side."""
    (tmp_path / "inside").mkdir()
    return tmp_path / "inside"


@pytest.fixture
def inside_fd(inside: Path) -> Iterator[int]:
    """Open the tool's side."""
    fd = os.open(inside, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """Make the host's side."""
    (tmp_path / "host").mkdir()
    return tmp_path / "host"


def test_a_sparse_file_stays_sparse(inside: Path, inside_fd: int, host: Path) -> None:
    with (inside / "sparse").open("wb") as file:
        file.write(b"begin")
        file.seek(512 << 20)
        file.write(b"end")
    done = export_changes(inside_fd, host, "/m")
    assert [(file.path, file.size_bytes) for file in done.files] == [("sparse", (512 << 20) + 3)]
    copy = (host / "sparse").stat()
    assert copy.st_size == (512 << 20) + 3
    assert copy.st_blocks * 512 < 1 << 20
    with (host / "sparse").open("rb") as file:
        assert file.read(8) == b"begin\0\0\0"
        file.seek(512 << 20)
        assert file.read() == b"end"


def test_the_sum_of_lengths_is_bounded(inside: Path, inside_fd: int, host: Path) -> None:
    for number in range(6):
        os.truncate(os.open(inside / f"f{number}", os.O_CREAT | os.O_WRONLY), 1 << 30)
    done = export_changes(inside_fd, host, "/m")
    assert [file.path for file in done.files] == ["f0", "f1", "f2", "f3"]
    assert [line.split(":")[0] for line in done.skipped] == [f"/m/f{n} was not exported" for n in (4, 5)]


def test_the_number_of_files_is_bounded(
    inside: Path, inside_fd: int, host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports, "MAX_FILES", 3)
    for number in range(5):
        (inside / f"f{number}").write_text("x")
    done = export_changes(inside_fd, host, "/m")
    assert len(done.files) == 3
    assert "more than 3 files" in done.skipped[0]


def test_deep_folders_end_at_the_bound(inside: Path, inside_fd: int, host: Path) -> None:
    deep = inside
    for _ in range(80):
        deep = deep / "d"
    deep.mkdir(parents=True)
    (deep / "treasure").write_text("x")
    done = export_changes(inside_fd, host, "/m")
    assert done.files == ()
    assert "nested deeper than 64" in done.skipped[0]


def test_a_link_on_the_host_is_not_followed(inside: Path, inside_fd: int, host: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/file").write_text("safe")
    (host / "folder").symlink_to(tmp_path / "elsewhere")
    (host / "file").symlink_to(tmp_path / "elsewhere/file")
    (inside / "folder").mkdir()
    (inside / "folder/file").write_text("evil")
    (inside / "file").write_text("evil")
    done = export_changes(inside_fd, host, "/m")
    assert done.files == ()
    assert len(done.skipped) == 2
    assert (tmp_path / "elsewhere/file").read_text() == "safe"


def test_modes_come_back_without_what_gives_rights(inside: Path, inside_fd: int, host: Path) -> None:
    (inside / "tool").write_text("#!/bin/sh\n")
    (inside / "tool").chmod(0o6755)
    export_changes(inside_fd, host, "/m")
    assert (host / "tool").stat().st_mode & 0o7777 == 0o755


def test_what_has_its_fingerprint_still_is_unchanged(inside: Path, inside_fd: int, host: Path) -> None:
    for name in ("kept", "touched"):
        (inside / name).write_text("old")
    baseline = {name: fingerprint((inside / name).stat()) for name in ("kept", "touched")}
    (inside / "touched").write_text("new")
    done = export_changes(inside_fd, host, "/m", baseline=baseline)
    assert [file.path for file in done.files] == ["touched"]


def test_a_host_that_cannot_be_written_is_named(inside: Path, inside_fd: int) -> None:
    (inside / "file").write_text("x")
    with pytest.raises(PlatformError, match=r"engineSpec\.mounts: what '/m' holds"):
        export_changes(inside_fd, Path("/proc/1"), "/m")


NAMES = st.text(
    st.characters(blacklist_characters="/\0", blacklist_categories=["Cs"]), min_size=1, max_size=8
)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    before=st.dictionaries(NAMES, st.binary(max_size=30), max_size=6),
    after=st.dictionaries(NAMES, st.binary(max_size=30), max_size=6),
)
def test_the_host_ends_with_old_and_new_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, before: dict[str, bytes], after: dict[str, bytes]
) -> None:
    root = tmp_path_factory.mktemp("exports")
    for folder, files in (("host", before), ("inside", after)):
        (root / folder).mkdir()
        for name, content in files.items():
            if name not in (".", ".."):
                (root / folder / name).write_bytes(content)
    fd = os.open(root / "inside", os.O_RDONLY | os.O_DIRECTORY)
    try:
        done = export_changes(fd, root / "host", "/m")
    finally:
        os.close(fd)
    acceptable = {
        name: content for name, content in after.items() if name.isprintable() and name not in (".", "..")
    }
    present = {path.name: path.read_bytes() for path in (root / "host").iterdir()}
    wanted = {name: content for name, content in before.items() if name not in (".", "..")}
    changed = {name for name, content in acceptable.items() if wanted.get(name) != content}
    assert present == wanted | acceptable
    assert {file.path for file in done.files} == changed
