"""Collecting from hostile folders; the cases are those of the list of hostile work, section Artifacts."""

from __future__ import annotations

import contextlib
import hashlib
import os
import resource
import shutil
import socket
import subprocess
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from devservices.ordinary_user import OrdinaryUser
from praxis_sdk.jobs.artifacts import ArtifactChanged, ArtifactLimits, Collection, Reason, collect
from praxis_sdk.jobs.artifacts.names import TakenNames, name_problem
from praxis_sdk.states import FailureCategory

MIB = 1 << 20


@pytest.fixture(params=["disk", "memory"])
def out(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """An output folder, on disk and in a tmpfs as sandboxes have it."""
    place = (
        tmp_path if request.param == "disk" else Path(tempfile.mkdtemp(prefix="praxis-test-", dir="/dev/shm"))
    )
    folder = place / "out"
    folder.mkdir()
    try:
        yield folder
    finally:
        # Ten thousand nested folders are too deep for shutil.
        subprocess.run(["rm", "-rf", folder], check=True)
        if request.param == "memory":
            place.rmdir()


def collected(folder: Path, exclude: frozenset[str] = frozenset(), **limits: int) -> Collection:
    """Collect, and check what must hold after every collection."""
    source_fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        before = os.listdir("/proc/self/fd")
        collection = collect(source_fd, ArtifactLimits(**limits), exclude=exclude)
        assert os.listdir("/proc/self/fd") == before
    finally:
        os.close(source_fd)
    return collection


def names(collection: Collection) -> list[str]:
    return [file.name for file in collection.files]


def reasons(collection: Collection) -> dict[str, Reason]:
    return {entry.name: entry.reason for entry in collection.rejected}


def test_honest_files_are_collected_in_order_with_digest_and_type(out: Path) -> None:
    (out / "b").mkdir()
    (out / "b" / "data.json").write_text('{"a": 1}')
    (out / "a.txt").write_text("words")
    (out / "empty").write_bytes(b"")
    collection = collected(out)
    assert (collection.rejected_count, collection.exceeded) == (0, None)
    assert [(file.name, file.size_bytes, file.sniffed.format) for file in collection.files] == [
        ("a.txt", 5, "txt"),
        ("b/data.json", 8, "json"),
        ("empty", 0, "bin"),
    ]
    assert collection.files[0].digest == f"sha256:{hashlib.sha256(b'words').hexdigest()}"


def test_an_empty_folder_is_no_failure(out: Path) -> None:
    assert collected(out) == Collection()


def test_a_symlink_to_a_host_file_is_rejected(out: Path) -> None:
    (out / "passwd").symlink_to("/etc/passwd")
    (out / "loop").symlink_to("loop")
    (out / "fine").write_text("x")
    collection = collected(out)
    assert names(collection) == ["fine"]
    assert reasons(collection) == {"passwd": Reason.SYMLINK, "loop": Reason.SYMLINK}


def test_a_symlink_to_the_root_is_not_walked(out: Path) -> None:
    (out / "everything").symlink_to("/")
    collection = collected(out)
    assert (names(collection), reasons(collection)) == ([], {"everything": Reason.SYMLINK})


def test_a_symlink_as_the_output_folder_is_not_followed(out: Path) -> None:
    (out / "link").symlink_to("/etc")
    source_fd = os.open(out / "link", os.O_PATH | os.O_NOFOLLOW)
    try:
        collection = collect(source_fd)
    finally:
        os.close(source_fd)
    assert (names(collection), reasons(collection)) == ([], {".": Reason.CHANGED})


def test_a_hard_link_is_rejected(out: Path) -> None:
    (out / "secret").write_text("another's")
    os.link(out / "secret", out / "mine")
    assert reasons(collected(out)) == {"mine": Reason.HARD_LINK, "secret": Reason.HARD_LINK}


def test_a_fifo_is_rejected_without_blocking(out: Path) -> None:
    os.mkfifo(out / "fifo")
    assert reasons(collected(out)) == {"fifo": Reason.FIFO}


def test_a_socket_is_rejected(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(out)  # a socket's path must be short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        assert reasons(collected(out)) == {"socket": Reason.SOCKET}


def test_devices_and_other_file_systems_are_rejected() -> None:
    others = frozenset(os.listdir("/dev")) - {"null", "shm"}
    found = reasons(collected(Path("/dev"), exclude=others))
    assert found == {"null": Reason.DEVICE, "shm": Reason.OTHER_FILE_SYSTEM}


@pytest.mark.parametrize("size_bytes", [1 << 40, 1 << 43])
def test_a_huge_hole_ends_as_resource_limit(out: Path, size_bytes: int) -> None:
    with (out / "hole").open("wb") as file:
        file.truncate(size_bytes)
    collection = collected(out, file_size_bytes=256 * MIB)
    assert collection.exceeded is not None
    assert (collection.exceeded.limit, collection.exceeded.found) == ("file_size_bytes", size_bytes)
    assert collection.exceeded.category is FailureCategory.RESOURCE_LIMIT
    assert collection.files == ()


def test_a_hole_of_2_to_the_60_ends_as_resource_limit() -> None:
    # Of the file systems of tests only tmpfs has files of that size.
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        with open(f"{folder}/hole", "wb") as file:
            file.truncate(1 << 60)
        collection = collected(Path(folder))
        assert collection.exceeded is not None
        assert collection.exceeded.found == 1 << 60
        assert str(1 << 60) in collection.exceeded.message


def test_many_sparse_files_end_as_resource_limit_by_their_sum(out: Path) -> None:
    for number in range(20):
        with (out / f"hole{number}").open("wb") as file:
            file.truncate(100 * MIB)
    exceeded = collected(out, artifact_total_bytes=1000 * MIB).exceeded
    assert exceeded is not None
    assert (exceeded.limit, exceeded.found) == ("artifact_total_bytes", 1100 * MIB)


def test_one_artifact_too_many_ends_as_resource_limit(out: Path) -> None:
    for number in range(11):
        (out / str(number)).write_text("x")
    assert len(collected(out, artifact_count=11).files) == 11
    exceeded = collected(out, artifact_count=10).exceeded
    assert exceeded is not None
    assert (exceeded.limit, exceeded.allowed, exceeded.found) == ("artifact_count", 10, 11)


def test_no_artifact_may_be_allowed_at_all(out: Path) -> None:
    assert collected(out, artifact_count=0).exceeded is None
    (out / "one").write_text("")
    assert collected(out, artifact_count=0).exceeded is not None


def test_endless_entries_end_as_resource_limit_in_bounded_memory(out: Path) -> None:
    for number in range(20_000):
        os.symlink("x", out / f"link-with-a-rather-long-name-{number:040}")
    tracemalloc.start()
    try:
        exceeded = collected(out, files=1000).exceeded
        assert tracemalloc.get_traced_memory()[1] < MIB
    finally:
        tracemalloc.stop()
    assert exceeded is not None
    assert (exceeded.limit, exceeded.found) == ("files", 1001)


def test_rejections_are_counted_but_not_all_kept(out: Path) -> None:
    for number in range(1000):
        os.symlink("x", out / f"link{number}")
    collection = collected(out)
    assert (len(collection.rejected), collection.rejected_count) == (100, 1000)


def test_ten_thousand_nested_folders_are_rejected(out: Path) -> None:
    fd = os.open(out, os.O_RDONLY)
    for _ in range(10_000):
        os.mkdir("d", dir_fd=fd)
        inner = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(fd)
    (out / "fine").write_text("x")
    with few_descriptors(48):
        collection = collected(out, max_depth=32)
    assert names(collection) == ["fine"]
    assert reasons(collection) == {"/".join("d" * 33): Reason.TOO_DEEP}


def test_many_files_take_few_descriptors(out: Path) -> None:
    for number in range(500):
        (out / f"{number:03}").write_text("x")
    with few_descriptors(8):
        assert len(collected(out, artifact_count=500).files) == 500


@contextlib.contextmanager
def few_descriptors(more: int) -> Iterator[None]:
    """Let this process open only so many more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(fd) for fd in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + more, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"two\nlines", "two\\nlines"),
        (b"\x1b[31mred", "\\x1b[31mred"),
        (b"\xff\xfe", "\\udcff\\udcfe"),
        ("evil‮gnp.exe".encode(), "evil\\u202egnp.exe"),
        (b"..\\..\\escape", "..\\..\\escape"),
        (b"x" * 200, "x" * 200),
    ],
)
def test_a_bad_name_is_rejected_and_shown_harmlessly(out: Path, name: bytes, shown: str) -> None:
    with open(bytes(out) + b"/" + name, "wb"):
        pass
    collection = collected(out, max_name_bytes=150)
    assert names(collection) == []
    assert reasons(collection) == {shown: Reason.NAME}


@pytest.mark.parametrize(
    "name", ["\u3164", "a\u115fb.txt", "a\ufe01.csv", "\u2800", " ", "a/ ", "x\u034f", "\U000e0101"]
)
def test_a_name_that_cannot_be_seen_is_rejected(out: Path, name: str) -> None:
    (out / name).parent.mkdir(exist_ok=True)
    (out / name).write_text("x")
    collection = collected(out)
    assert (names(collection), [one.reason for one in collection.rejected]) == ([], [Reason.NAME])


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("Data.csv", "data.csv"),
        ("caf\u00e9.txt", "cafe\u0301.txt"),
        ("stra\u00dfe", "strasse"),
        ("A/x", "a/X"),
        ("\u00c5", "\u212b"),
        ("\u2764", "\u2764\ufe0f"),
        ("A", "a/x"),
        ("A/x", "a"),
    ],
)
def test_of_two_names_that_are_one_elsewhere_the_first_is_kept(out: Path, first: str, second: str) -> None:
    for name in (first, second):
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text(name)
    collection = collected(out)
    kept, rejected = sorted((first, second))
    assert (names(collection), reasons(collection)) == ([kept], {rejected: Reason.COLLISION})


@pytest.mark.parametrize(
    "name",
    ["\u2764\ufe0f.png", "\u4e2d\u6587.csv", "na\u00efve caf\u00e9.txt", " a", "\u05e9\u05dc\u05d5\u05dd"],
)
def test_a_name_of_any_language_is_kept(out: Path, name: str) -> None:
    (out / name).write_text("x")
    assert names(collected(out)) == [name]


def test_folders_that_differ_in_case_may_hold_different_files(out: Path) -> None:
    for name in ("A/x", "a/y"):
        (out / name).parent.mkdir()
        (out / name).write_text("x")
    assert names(collected(out)) == ["A/x", "a/y"]


def test_more_than_was_written_ends_as_resource_limit_of_the_scratch_space(out: Path) -> None:
    """Nobody needs holes hashed that could never have been data."""
    for number in range(6):
        with (out / str(number)).open("wb") as file:
            file.truncate(20 << 30)
    limits = {"file_size_bytes": 1 << 40, "artifact_total_bytes": 1 << 40, "scratch_bytes": 512 * MIB}
    exceeded = collected(out, **limits).exceeded
    assert exceeded is None  # each is longer than an artifact can be
    for number in range(6):
        os.truncate(out / str(number), 200 * MIB)
    exceeded = collected(out, **limits).exceeded
    assert exceeded is not None
    assert (exceeded.limit, exceeded.found) == ("scratch_bytes", 600 * MIB)


def test_a_file_longer_than_an_artifact_can_be_is_rejected_and_the_others_kept(out: Path) -> None:
    with (out / "hole").open("wb") as file:
        file.truncate((16 << 30) + 1)
    (out / "fine").write_text("x")
    collection = collected(out, file_size_bytes=1 << 40, artifact_total_bytes=1 << 40)
    assert (names(collection), reasons(collection)) == (["fine"], {"hole": Reason.TOO_LONG})


def test_a_path_may_be_only_so_long(out: Path) -> None:
    (out / ("d" * 100)).mkdir()
    (out / ("d" * 100) / ("f" * 100)).write_text("x")
    assert len(collected(out, max_name_bytes=201).files) == 1
    assert "longer than 200 bytes" in collected(out, max_name_bytes=200).rejected[0].detail


def test_setuid_and_strange_modes_do_not_matter(out: Path) -> None:
    (out / "tool").write_bytes(b"#!/bin/sh\n")
    (out / "tool").chmod(0o6755)
    assert names(collected(out)) == ["tool"]


def test_what_is_excluded_is_not_even_looked_at(out: Path) -> None:
    (out / "inputs").mkdir()
    (out / "inputs" / "link").symlink_to("/")
    (out / "result.json").symlink_to("/etc/passwd")
    (out / "kept").mkdir()
    (out / "kept" / "result.json").write_text("{}")
    collection = collected(out, exclude=frozenset({"inputs", "result.json"}))
    assert (names(collection), collection.rejected_count) == (["kept/result.json"], 0)


def test_unreadable_entries_are_rejected_without_privileges(ordinary_user: OrdinaryUser) -> None:
    code = """
import os
from praxis_sdk.jobs.artifacts.collect import collect
os.makedirs("out/folder")
for name in ("out/file", "out/folder/inner"):
    open(name, "w").write("x")
    os.chmod(name, 0)
os.chmod("out/folder", 0)
fd = os.open("out", os.O_RDONLY)
print(sorted((entry.name, entry.reason.name) for entry in collect(fd).rejected))
os.chmod("out", 0)
print([(entry.name, entry.reason.name) for entry in collect(fd).rejected])
"""
    done = ordinary_user.run_python(code)
    assert done.stdout.splitlines() == [
        "[('file', 'UNREADABLE'), ('folder', 'UNREADABLE')]",
        "[('.', 'UNREADABLE')]",
    ], done.stderr


def swapped(monkeypatch: pytest.MonkeyPatch, function: str, act: Callable[[], object]) -> None:
    """Let something happen right before a step of the collection, once."""
    import sys

    module: Any = sys.modules["praxis_sdk.jobs.artifacts.collect"]
    real = getattr(module, function)

    def interposed(*arguments: Any) -> Any:
        monkeypatch.setattr(module, function, real)
        act()
        return real(*arguments)

    monkeypatch.setattr(module, function, interposed)


def test_a_file_that_becomes_a_symlink_is_rejected(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (out / "file").write_text("x")

    def swap() -> None:
        (out / "file").unlink()
        (out / "file").symlink_to("/etc/passwd")

    swapped(monkeypatch, "_open_below", swap)
    assert reasons(collected(out)) == {"file": Reason.CHANGED}


def test_a_folder_that_becomes_a_symlink_is_rejected(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (out / "folder").mkdir()
    (out / "folder" / "passwd").write_text("x")

    def swap() -> None:
        shutil.rmtree(out / "folder")
        (out / "folder").symlink_to("/etc")

    swapped(monkeypatch, "_open_below", swap)
    assert reasons(collected(out)) == {"folder/passwd": Reason.CHANGED}


@pytest.mark.parametrize("content", ["y", "", "longer"])
def test_a_file_that_changes_while_it_is_read_is_rejected(
    out: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    (out / "file").write_text("x")
    swapped(monkeypatch, "sniff", lambda: (out / "file").write_text(content))
    assert reasons(collected(out)) == {"file": Reason.CHANGED}


def test_a_collected_file_is_opened_again_only_if_it_is_the_same(out: Path) -> None:
    (out / "folder").mkdir()
    path = out / "folder" / "file"
    path.write_text("collected")
    source_fd = os.open(out, os.O_RDONLY)
    try:
        [file] = collect(source_fd).files
        with os.fdopen(file.open(source_fd)) as opened:
            assert opened.read() == "collected"
        before = os.listdir("/proc/self/fd")
        for change in (
            lambda: path.write_text("different"),
            path.unlink,
            lambda: path.symlink_to("/etc/passwd"),
            lambda: (path.unlink(), os.mkfifo(path)),
        ):
            change()
            with pytest.raises(ArtifactChanged):
                file.open(source_fd)
        assert os.listdir("/proc/self/fd") == before
    finally:
        os.close(source_fd)


def test_a_large_file_is_read_in_bounded_memory(out: Path) -> None:
    with (out / "large").open("wb") as file:
        file.truncate(200 * MIB)
    tracemalloc.start()
    try:
        [large] = collected(out).files
        assert tracemalloc.get_traced_memory()[1] < 4 * MIB
    finally:
        tracemalloc.stop()
    assert large.size_bytes == 200 * MIB


ENTRY_NAMES = st.text(
    st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=8
).filter(lambda name: name not in (".", "..") and len(name.encode()) <= 60)
TREES = st.recursive(
    st.one_of(st.binary(max_size=50), st.sampled_from(["symlink", "fifo"])),
    lambda inner: st.dictionaries(ENTRY_NAMES, inner, max_size=4),
    max_leaves=12,
)


def build(folder: Path, tree: dict[str, Any], below: str, expected: dict[str, bytes]) -> int:
    """Make a tree; note the files that must be collected and return how many entries must be rejected."""
    rejected = 0
    for name, entry in tree.items():
        path = f"{below}{name}"
        acceptable = name_problem(name) is None
        if isinstance(entry, dict):
            (folder / name).mkdir()
            inner: dict[str, bytes] = {}
            count = build(folder / name, entry, f"{path}/", inner)
            rejected += count if acceptable else 1
            expected.update(inner if acceptable else {})
        elif isinstance(entry, bytes):
            (folder / name).write_bytes(entry)
            if acceptable:
                expected[path] = entry
            rejected += not acceptable
        else:
            (folder / name).symlink_to("/etc/passwd") if entry == "symlink" else os.mkfifo(folder / name)
            rejected += 1
    return rejected


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(tree=st.dictionaries(ENTRY_NAMES, TREES, max_size=5))
def test_exactly_the_plain_files_of_any_tree_are_collected(tree: dict[str, Any]) -> None:
    """Feature: artifacts, collection."""
    with tempfile.TemporaryDirectory() as folder:
        expected: dict[str, bytes] = {}
        rejected = build(Path(folder), tree, "", expected)
        taken = TakenNames()
        assume(not any(map(taken.take, sorted(expected))))
        collection = collected(Path(folder))
        assert {file.name: file.digest for file in collection.files} == {
            name: f"sha256:{hashlib.sha256(content).hexdigest()}" for name, content in expected.items()
        }
        assert collection.rejected_count == rejected
        assert collection.exceeded is None
