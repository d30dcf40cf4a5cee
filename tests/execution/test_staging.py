"""Private copies of mounts, without any engine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from praxis_sdk.errors import PlatformError, ValidationError
from praxis_sdk.execution.engines.process_owner import ProcessOwner
from praxis_sdk.execution.engines.run_directory import make_run_directory
from praxis_sdk.execution.mounts.mounts import ToolMount
from praxis_sdk.execution.mounts.staging import StagedMount, StagingBudget, export_staged, remove_tree, stage


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Make a small tree."""
    place = tmp_path / "source"
    (place / "deep").mkdir(parents=True)
    (place / "a.txt").write_text("alpha")
    (place / "deep/b.txt").write_text("beta")
    return place


def staged(source: Path, *nested: ToolMount, budget: StagingBudget | None = None) -> StagedMount:
    mount = ToolMount("/data", source, writable=True)
    return stage(
        mount, source.parent / "copy", [mount, *nested], owner=None, budget=budget or StagingBudget()
    )


def test_a_copy_has_content_modes_and_times_of_its_source(source: Path) -> None:
    (source / "a.txt").chmod(0o640)
    (source / "tool").write_text("#!/bin/sh")
    (source / "tool").chmod(0o4755)
    os.utime(source / "a.txt", ns=(1, 2_000_000_000))
    copy = staged(source).path
    assert (copy / "a.txt").read_text() == "alpha"
    assert (copy / "deep/b.txt").read_text() == "beta"
    assert (copy / "a.txt").stat().st_mode & 0o7777 == 0o640
    assert (copy / "tool").stat().st_mode & 0o7777 == 0o755, "never setuid"
    assert (copy / "a.txt").stat().st_mtime_ns == 2_000_000_000
    assert (copy / "a.txt").stat().st_ino != (source / "a.txt").stat().st_ino


def test_symlinks_stay_symlinks_and_special_files_stay_behind(source: Path) -> None:
    (source / "link").symlink_to("/etc/passwd")
    (source / "up").symlink_to("..", target_is_directory=True)
    os.mkfifo(source / "fifo")
    copy = staged(source).path
    assert os.readlink(copy / "link") == "/etc/passwd"
    assert (copy / "up").is_symlink()
    assert not (copy / "fifo").exists()


@pytest.mark.parametrize("budget", [StagingBudget(left_bytes=8), StagingBudget(left_entries=2)])
def test_what_is_too_large_is_refused_with_a_remedy(source: Path, budget: StagingBudget) -> None:
    with pytest.raises(ValidationError, match=r"engineSpec\.mounts: .* is too large") as caught:
        staged(source, budget=budget)
    assert "/data:ro" in caught.value.remedy


def test_an_abandoned_copy_ends(source: Path) -> None:
    budget = StagingBudget()
    budget.abandoned.set()
    with pytest.raises(InterruptedError):
        staged(source, budget=budget)


def test_what_is_too_deep_is_refused(source: Path) -> None:
    folder = source
    for _ in range(70):
        folder = folder / "d"
        folder.mkdir()
    with pytest.raises(ValidationError, match="nested deeper than"):
        staged(source)


def test_only_what_changed_is_exported(source: Path) -> None:
    copy = staged(source)
    (copy.path / "deep/b.txt").write_text("BETA")
    (copy.path / "new.txt").write_text("new")
    exports = export_staged(copy, [copy.mount])
    assert {file.path for file in exports.files} == {"deep/b.txt", "new.txt"}
    assert (source / "deep/b.txt").read_text() == "BETA"


def test_mount_points_are_made_in_the_copy_and_not_exported(source: Path, tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("1")
    (tmp_path / "tools").mkdir()
    folder = ToolMount("/data/x/y", tmp_path / "tools", writable=False)
    file = ToolMount("/data/z/one.txt", tmp_path / "one.txt", writable=False)
    covered = ToolMount("/data/deep", tmp_path / "tools", writable=False)
    copy = staged(source, folder, file, covered)
    assert (copy.path / "x/y").is_dir()
    assert (copy.path / "z/one.txt").is_file()
    assert list((copy.path / "deep").iterdir()) == [], "what a mount covers is not copied"
    (copy.path / "z/kept.txt").write_text("kept")
    exports = export_staged(copy, [copy.mount, folder, file, covered])
    assert {each.path for each in exports.files} == {"z/kept.txt"}
    assert sorted(path.name for path in source.iterdir()) == ["a.txt", "deep", "z"]
    assert (source / "deep/b.txt").exists()


def test_a_mount_point_below_a_symlink_is_refused(source: Path, tmp_path: Path) -> None:
    (tmp_path / "tools").mkdir()
    (source / "link").symlink_to("/tmp")
    with pytest.raises(ValidationError, match="has no room for a mount at 'link/tools'"):
        staged(source, ToolMount("/data/link/tools", tmp_path / "tools", writable=False))


def test_trees_of_any_depth_mode_and_name_are_removed(tmp_path: Path) -> None:
    top = tmp_path / "top"
    top.mkdir()
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    for name in (".praxis-0~", ".praxis-2~"):
        (top / name).mkdir()
        (top / name / "inner").mkdir()
    (top / ".praxis-1~").write_text("in the way")
    (top / "link").symlink_to(outside, target_is_directory=True)
    os.mkfifo(top / "fifo")
    (top / "shut").mkdir()
    (top / "shut" / "in").mkdir()
    (top / "shut" / "in").chmod(0)
    (top / "shut").chmod(0)
    fd = os.open(top, os.O_RDONLY)
    for _ in range(1500):  # beyond Python's recursion limit
        os.mkdir("d", dir_fd=fd)
        inner = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(fd)
    remove_tree(top)
    assert not top.exists()
    assert (outside / "kept").read_text() == "kept"


def test_a_place_that_others_may_enter_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    base = tmp_path / f"praxis-{os.geteuid()}"
    base.mkdir(mode=0o777)
    base.chmod(0o777)
    with pytest.raises(PlatformError, match="only this user may enter"):
        make_run_directory(ProcessOwner.current())
    base.rmdir()
    base.symlink_to("/tmp")
    with pytest.raises(PlatformError, match="cannot be used"):
        make_run_directory(ProcessOwner.current())
