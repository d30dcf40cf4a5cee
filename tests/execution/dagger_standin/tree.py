"""Immutable directory trees, as they travel to and from Docker and the host: in tar archives."""

from __future__ import annotations

import copy
import io
import os
import posixpath
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath


@dataclass(frozen=True)
class Entry:
    """A file, folder, symlink or other thing in a tree."""

    info: tarfile.TarInfo
    data: bytes = b""

    def same_as(self, other: Entry | None) -> bool:
        """Tell whether nothing but times differs."""
        return other is not None and self._content == other._content

    @property
    def _content(self) -> tuple[object, ...]:
        info = self.info
        return (info.type, info.mode, info.uid, info.gid, info.linkname, self.data)

    def owned_by(self, owner: str) -> Entry:
        """Return it with another owner, 'uid:gid'; an empty one changes nothing."""
        if not owner:
            return self
        info = copy.copy(self.info)
        info.uid, info.gid = (int(part) for part in owner.split(":"))
        info.uname = info.gname = ""
        return Entry(info, self.data)


Tree = Mapping[str, Entry]  # by path below the root; the root itself is '.'


def file_entry(data: bytes, mode: int, owner: str = "") -> Entry:
    """Make a regular file."""
    info = tarfile.TarInfo()
    info.mode, info.size = mode, len(data)
    return Entry(info, data).owned_by(owner)


def empty_tree() -> Tree:
    """Make an empty directory."""
    info = tarfile.TarInfo(".")
    info.type, info.mode = tarfile.DIRTYPE, 0o755
    return {".": Entry(info)}


def read_host(path: str) -> Tree:
    """Take a snapshot of a directory or file of this machine; a file is the tree's root."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        archive.add(path, arcname="root", filter=_as_root)
    packed.seek(0)
    return read_archive(tarfile.open(fileobj=packed))


def read_archive(archive: tarfile.TarFile) -> Tree:
    """Read an archive whose members lie below one folder, or are one file."""
    tree: dict[str, Entry] = {}
    for info in archive.getmembers():
        path = "/".join(PurePosixPath(info.name).parts[1:]) or "."
        stream = archive.extractfile(info) if info.isreg() or info.islnk() else None
        data = stream.read() if stream else b""
        if info.islnk():
            info = copy.copy(info)
            info.type, info.linkname, info.size = tarfile.REGTYPE, "", len(data)
        tree[path] = Entry(info, data)
    return tree


def write_archive(tree: Tree, root: str = ".") -> bytes:
    """Write an archive whose members lie below `root`."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path in sorted(tree, key=lambda p: (p != ".", p)):
            info = copy.copy(tree[path].info)
            info.name = posixpath.normpath(posixpath.join(root, path))
            archive.addfile(info, io.BytesIO(tree[path].data) if info.isreg() else None)
    return packed.getvalue()


def write_host(tree: Tree, place: Path) -> None:
    """Write a tree into a directory of this machine, as this user; what is there stays."""
    place.mkdir(parents=True, exist_ok=True)
    mine = {path: entry.owned_by(f"{os.getuid()}:{os.getgid()}") for path, entry in tree.items()}
    with tarfile.open(fileobj=io.BytesIO(write_archive(mine))) as archive:
        members = [info for info in archive.getmembers() if info.name != "."]
        archive.extraction_filter = lambda member, _: member  # hostile trees travel as they are
        archive.extractall(place, members)


def changes(before: Tree, after: Tree) -> Tree:
    """Return what was made or changed, with the folders that lead there; what was removed is not told."""
    changed = {path for path, entry in after.items() if not entry.same_as(before.get(path))}
    for path in tuple(changed):
        changed.update(str(folder) for folder in PurePosixPath(path).parents)
    return {path: entry for path, entry in after.items() if path in changed or path == "."}


def _as_root(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.uid = info.gid = 0  # an engine does not take over the owners of the host
    info.uname = info.gname = ""
    return info
