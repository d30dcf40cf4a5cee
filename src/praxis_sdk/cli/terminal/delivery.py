"""Artifacts become files of the user's: below one folder, through no link, whole or not at all.

What a name says was decided by the job, so nothing is opened by a path: every component is opened or made
by itself, below the one before, following nothing. The bytes are verified while they are copied to a file
that has no meaning yet, which then takes its name in one step. What lies at that name is replaced and never
written through.

A component that begins with '.' gets a '_' in front: such names configure the tools of whoever works in that
folder (`.git/hooks/pre-commit`), and they do not see them.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from praxis_sdk.errors import PlatformError, ValidationError

if TYPE_CHECKING:
    from praxis_sdk.jobs.artifacts import Artifact, ArtifactStore

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_NEW_FILE: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True)
class Delivered:
    """One artifact that is a file now.

    Args:
        name: the artifact's name.
        path: the file.
        digest: of its bytes.
    """

    name: str
    path: Path
    digest: str

    def to_json(self) -> dict[str, str]:
        """Return it as JSON values."""
        return {"name": self.name, "path": str(self.path), "digest": self.digest}


async def deliver_all(
    store: ArtifactStore, artifacts: Sequence[Artifact], folder: Path
) -> tuple[Delivered, ...]:
    """Copy artifacts below a folder, which is made where it is missing.

    Raises:
        ValidationError: the folder cannot be made, or what lies in it is in the way.
        PlatformError: an artifact is missing or damaged, or a file cannot be written.
    """
    places = _places(artifacts)
    with _explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        top = os.open(folder, _FOLDER)  # the folder itself is the user's word, and may be a link
    try:
        delivered = []
        for artifact in artifacts:
            parts = places[artifact.name]
            await _copy(store, artifact.digest, top, parts, folder)
            delivered.append(Delivered(artifact.name, folder.joinpath(*parts), artifact.digest))
        return tuple(delivered)
    finally:
        os.close(top)


async def deliver_one(store: ArtifactStore, digest: str, file: Path) -> int:
    """Copy one artifact to a file, replacing what is there; returns its length in bytes.

    Raises:
        ValidationError: the folder of the file is not there, or the file is a folder.
        PlatformError: the artifact is missing or damaged, or the file cannot be written.
    """
    if file.name in ("", ".", ".."):
        raise ValidationError(f"-o: {str(file)[:200]!r} is not the name of a file")
    with _explained(file.parent):
        top = os.open(file.parent, _FOLDER)
    try:
        return await _copy(store, digest, top, (file.name,), file.parent)
    finally:
        os.close(top)


def _places(artifacts: Sequence[Artifact]) -> Mapping[str, tuple[str, ...]]:
    """Return for each name the components below the folder, no two the same."""
    places: dict[str, tuple[str, ...]] = {}
    for artifact in artifacts:
        parts = [part for part in artifact.name.split("/") if part not in ("", ".", "..")]
        safe = tuple(f"_{part}" if part.startswith(".") else part for part in parts)
        if not safe or safe in places.values():
            raise ValidationError(
                f"artifact '{artifact.name}': another one has its place",
                remedy="take it by its digest: praxis artifact get",
            )
        places[artifact.name] = safe
    return places


async def _copy(store: ArtifactStore, digest: str, top: int, parts: tuple[str, ...], folder: Path) -> int:
    with contextlib.ExitStack() as opened:
        place = folder.joinpath(*parts)
        parent = top
        for part in parts[:-1]:
            with _explained(place):
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, dir_fd=parent)
                parent = os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=parent)
            opened.callback(os.close, parent)
        temporary = f".praxis-{secrets.token_hex(8)}"
        with _explained(place):
            new = os.open(temporary, _NEW_FILE, 0o666, dir_fd=parent)
        opened.callback(os.close, new)
        try:
            size_bytes = await store.copy_to(digest, new)
            with _explained(place):
                os.rename(temporary, parts[-1], src_dir_fd=parent, dst_dir_fd=parent)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary, dir_fd=parent)
            raise
        return size_bytes


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except (
        FileNotFoundError,
        NotADirectoryError,
        IsADirectoryError,
        FileExistsError,
        PermissionError,
    ) as error:
        reason = "a link or a file is in the way" if isinstance(error, NotADirectoryError) else error.strerror
        raise ValidationError(f"{path}: {reason}", remedy="name another place for artifacts") from error
    except OSError as error:
        raise PlatformError(f"{path}: cannot be written: {error.strerror}") from error
