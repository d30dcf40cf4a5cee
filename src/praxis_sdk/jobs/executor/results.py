"""Where results are kept: by job, and by dedupe key for equal jobs to come.

One file per job, written in one step and synced before it counts, below PRAXIS_HOME. Artifacts that a kept
result names are referenced, so garbage collection leaves them alone. Results that are kept at the same time share
their syncs (`commit`).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from praxis_sdk.errors import PlatformError, ValidationError
from praxis_sdk.jobs.artifacts import ArtifactStoreUnavailable
from praxis_sdk.jobs.executor.commit import FileGroupCommit, PendingFile, commit
from praxis_sdk.jobs.executor.result import JobResult, parse_result
from praxis_sdk.jobs.payload.payload import JobPayload, parse_payload
from praxis_sdk.json_text import JsonText

_FORMAT: Final = 1
_BEFORE_OUTPUTS: Final = b',\n"outputs":'  # JSON text that others wrote holds no line break
_END: Final = b"}}"
_ARTIFACT_BYTES: Final = 512
_AT_ONCE_BYTES: Final = 256 << 10  # a document that is written sooner than a thread is called


@dataclass(frozen=True)
class Record:
    """A job and how it ended."""

    payload: JobPayload
    result: JobResult


class ResultStore:
    """The results of one Praxis home.

    Args:
        home: PRAXIS_HOME; results are in its folder `results`: `jobs` has a file for each job, `keys` the same files
            by dedupe key.
    """

    def __init__(self, home: Path) -> None:
        self._jobs = home / "results" / "jobs"
        self._keys = home / "results" / "keys"
        self._commits = FileGroupCommit()

    async def keep(self, payload: JobPayload, result: JobResult) -> None:
        """Keep a result; durable when this returns. A later result of the same job replaces it.

        A completed job also answers for equal jobs from now on, until a power cut at worst: then it runs again.

        Raises:
            StoreUnavailable: it cannot be written.
        """
        if _size_bytes(payload, result) > _AT_ONCE_BYTES:
            entry = await asyncio.to_thread(self._entry, payload, result)
        else:
            entry = self._entry(payload, result)
        with self._told():
            await self._commits.keep(entry)

    def put(self, payload: JobPayload, result: JobResult) -> None:
        """Do as `keep` does, where there is no event loop.

        Raises:
            StoreUnavailable: it cannot be written.
        """
        with self._told():
            for problem in commit([self._entry(payload, result)]):
                if problem is not None:
                    raise problem

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

    def may_have_equal(self, dedupe_key: str) -> bool:
        """Tell whether it is worth asking `equal`, which reads files, in microseconds."""
        return os.path.exists(f"{self._keys}/{dedupe_key}")

    def equal(self, dedupe_key: str) -> JobResult | None:
        """Return the result of an equal, completed job, or None."""
        try:
            key_file = self._keys / dedupe_key
            record = _parse(key_file.read_bytes(), dedupe_key)
            # The job's own file is what counts, and what is referenced; it may be gone, or be another by now.
            job_file = self._job_file(record.payload.job_id)
            if not key_file.samefile(job_file):
                record = _parse(job_file.read_bytes(), record.payload.job_id)
        except (OSError, PlatformError):
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
            for digest in record.payload.digests():
                yield digest

    def _entry(self, payload: JobPayload, result: JobResult) -> PendingFile:
        answers = result.succeeded and result.dedupe_key is not None and not result.from_cache
        return PendingFile(
            f"{self._jobs}/{_file_name(payload.job_id)}",
            _document(payload, result),
            link=f"{self._keys}/{result.dedupe_key}" if answers else None,
        )

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ArtifactStoreUnavailable(
                f"a result cannot be kept in {self._jobs}: {error.strerror}"
            ) from error

    def _job_file(self, job_id: str) -> Path:
        return self._jobs / _file_name(job_id)


def _file_name(job_id: str) -> str:
    """Return the name of a job's file: a hash, since ids may hold ':' and differ only in case."""
    return f"{hashlib.sha256(job_id.encode()).hexdigest()[:40]}.json"


def _parse(data: bytes, name: str) -> Record:
    try:
        head, separator, returned = data.partition(_BEFORE_OUTPUTS)
        document = json.loads(head + _END if separator else data)
        if document["format"] != _FORMAT:
            raise PlatformError(f"result of '{name}': written by a newer version")
        result = parse_result(document["result"])
        if separator:  # written as text that had been checked, and read by whoever asks for it
            text = JsonText(returned.removesuffix(_END).decode("ascii"), result.usage.outputs_bytes)
            result = result.model_copy(update={"returned": text})
        return Record(parse_payload(document["payload"]), result)
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        raise PlatformError(f"result of '{name}' is damaged: {type(error).__name__}") from error


def _size_bytes(payload: JobPayload, result: JobResult) -> int:
    """Estimate how long a document will be, from what can be long and is cheap to ask."""
    inputs = [one.text or one.base64 or "" for one in payload.inputs.values()]
    if payload.stdin is not None:
        inputs.append(payload.stdin.text or payload.stdin.base64 or "")
    files = [one.text or one.base64 or "" for one in (payload.files or {}).values()]
    return (
        sum(len(stream.base64 or stream.text) for stream in (result.stdout, result.stderr))
        + result.usage.outputs_bytes
        + _ARTIFACT_BYTES * len(result.artifacts)
        + len(payload.code or "")
        + sum(map(len, [*inputs, *files]))
    )


def _document(payload: JobPayload, result: JobResult) -> bytes:
    """Return what `_parse` reads; the parts are written by pydantic, in a tenth of the time that `json` takes."""
    return b'{"format":%d,"payload":%b,"result":%b%b%b%b' % (
        _FORMAT,
        payload.model_dump_json(exclude_unset=True).encode(),
        result.model_dump_json(exclude={"returned"}).encode().removesuffix(b"}"),
        _BEFORE_OUTPUTS,
        result.returned.text.encode(),
        _END,
    )
