"""Where results are kept: by job, and by dedupe key for equal jobs to come.

One file per job, written in one step and synced before it counts, below PRAXIS_HOME. Artifacts that a kept
result names are referenced, so garbage collection leaves them alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from praxis_sdk.errors import PlatformError, ValidationError
from praxis_sdk.jobs.artifacts import StoreUnavailable
from praxis_sdk.jobs.payload import JobPayload, parse_payload
from praxis_sdk.jobs.result import JobResult, parse_result

_FORMAT: Final = 1


@dataclass(frozen=True)
class Record:
    """A job and how it ended."""

    payload: JobPayload
    result: JobResult


class ResultStore:
    """The results of one Praxis home.

    Args:
        home: PRAXIS_HOME; results are in its folder `results`.
    """

    def __init__(self, home: Path) -> None:
        self._jobs = home / "results" / "jobs"
        self._keys = home / "results" / "keys"

    def put(self, payload: JobPayload, result: JobResult) -> None:
        """Keep a result; durable when this returns. A later result of the same job replaces it.

        A completed job also answers for equal jobs from now on.

        Raises:
            StoreUnavailable: it cannot be written.
        """
        document = {"format": _FORMAT, "payload": payload.to_json(), "result": result.to_json()}
        _write(self._job_file(payload.job_id), json.dumps(document, ensure_ascii=False).encode())
        if result.succeeded and result.dedupe_key is not None and not result.from_cache:
            _write(self._keys / result.dedupe_key, payload.job_id.encode())

    def get(self, job_id: str) -> Record:
        """Return a job and its result.

        Raises:
            ValidationError: no such job is known.
            PlatformError: what is kept of it is damaged.
        """
        try:
            data = self._job_file(job_id).read_bytes()
        except FileNotFoundError as error:
            raise ValidationError(
                f"job '{job_id[:128]}' is not known here", remedy="'praxis jobs' lists those that are"
            ) from error
        return _parse(data, job_id)

    def equal(self, dedupe_key: str) -> JobResult | None:
        """Return the result of an equal, completed job, or None."""
        try:
            job_id = (self._keys / dedupe_key).read_text()
            record = _parse(self._job_file(job_id).read_bytes(), job_id)
        except (FileNotFoundError, PlatformError):
            return None  # removed or damaged: then the job runs again, which is always right
        result = record.result
        return result if result.dedupe_key == dedupe_key and result.succeeded else None

    def list(self) -> list[Record]:
        """Return every record, the youngest first.

        Raises:
            PlatformError: one is damaged.
        """
        found: list[tuple[int, Record]] = []
        for path in self._jobs.glob("*.json"):
            with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                found.append((path.stat().st_mtime_ns, _parse(path.read_bytes(), path.name)))
        return [record for _, record in sorted(found, key=lambda one: one[0], reverse=True)]

    async def digests(self) -> AsyncIterator[str]:
        """Go through the digests that kept results and their payloads name (`artifacts.References`)."""
        for record in self.list():
            for artifact in record.result.artifacts:
                yield artifact.digest
            for one in record.payload.inputs.values():
                if one.digest is not None:
                    yield one.digest

    def _job_file(self, job_id: str) -> Path:
        # Ids may hold ':' and differ only in case: the name of the file is a hash of it.
        return self._jobs / f"{hashlib.sha256(job_id.encode()).hexdigest()[:40]}.json"


def _parse(data: bytes, name: str) -> Record:
    try:
        document = json.loads(data)
        if document["format"] != _FORMAT:
            raise PlatformError(f"result of '{name}': written by a newer version")
        return Record(parse_payload(document["payload"]), parse_result(document["result"]))
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        raise PlatformError(f"result of '{name}' is damaged: {type(error).__name__}") from error


def _write(path: Path, content: bytes) -> None:
    new = path.with_name(f"{path.name}.{os.getpid()}.{id(content):x}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with new.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        with contextlib.suppress(OSError):
            new.unlink(missing_ok=True)
        raise StoreUnavailable(f"a result cannot be kept in {path.parent}: {error.strerror}") from error
