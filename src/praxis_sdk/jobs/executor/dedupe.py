"""The dedupe key: two jobs with the same key are the same work, so one result serves both (spec 3, 9.2).

The key is the sha256 of a canonical JSON document (`strict_json.canonical`: sorted keys, exact strings without
Unicode normalisation, integers and floats kept apart) that holds:

    format        of this document; another one never meets keys made by this
    schema        canonical schema version: the major number, because minor versions only add optional fields
    adapter       the runtime and its version
    env_version   the exact environment
    work          code, or files by path with the sha256 of their bytes and the entrypoint, and the command
    module, argv, stdin    the module, the arguments, the sha256 of what standard input holds; only where given
    inputs        by name: how they reach the work (JSON or bytes) and the sha256 of their bytes
    parameters    as they are
    limits        all that bound the work itself, defaults filled in, as numbers: '512M' and 536870912 are one limit
    network       the granted hosts with their ports

It does not hold who asked, why and how often: job_id, provenance, `fresh`, unknown fields. An input given by
value and the same bytes given by digest are one input; so are text and base64 of the same bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Final

from praxis_sdk.errors import ValidationError
from praxis_sdk.jobs.payload import strict_json
from praxis_sdk.jobs.payload.content import sha256_of
from praxis_sdk.jobs.payload.payload import SCHEMA_MAJOR, JobPayload

KEY_FORMAT: Final = "praxis-job-1"


def dedupe_key(
    payload: JobPayload, input_digests: Mapping[str, str] | None, env_version: str, adapter_version: str = ""
) -> str:
    """Return the key of a job: 64 hexadecimal digits.

    Args:
        payload: the job.
        input_digests: 'sha256:...' of every input by name, as staged; None where the payload's own count.
        env_version: the environment that will run it, whether or not the payload pins one.
        adapter_version: version of the runtime adapter.

    Raises:
        ValidationError: the digests are not those of this payload's inputs.
    """
    expected = payload.input_digests()
    staged = expected if input_digests is None else input_digests
    for name in sorted(expected.keys() | staged.keys()):
        if expected.get(name) != staged.get(name):
            raise ValidationError(f"payload.inputs.{name}: the content is not what the payload declares")
    document = _identity(payload, expected, env_version, adapter_version)
    # Every part of it is either made here or was checked when the payload was read.
    return hashlib.sha256(strict_json.canonical(document, checked=True)).hexdigest()


def _identity(
    payload: JobPayload, input_digests: Mapping[str, str], env_version: str, adapter_version: str
) -> dict[str, Any]:
    files = payload.files or {}
    given: dict[
        str, Any
    ] = {}  # left out where not given, so that such a job keeps the key that it always had
    if payload.module is not None:
        given["module"] = payload.module
    if payload.argv:
        given["argv"] = payload.argv
    if payload.stdin is not None:
        given["stdin"] = payload.stdin.content_digest()
    return {
        **given,
        "format": KEY_FORMAT,
        "schema": SCHEMA_MAJOR,
        "adapter": {"name": payload.runtime, "version": adapter_version},
        "env_version": env_version,
        "work": {
            "code": payload.code,
            "files": {path: sha256_of(file.content()) for path, file in files.items()},
            "entrypoint": payload.entrypoint,
            "command": payload.command,
        },
        "inputs": {
            name: {"kind": one.kind, "digest": input_digests[name]} for name, one in payload.inputs.items()
        },
        "parameters": payload.parameters,
        "limits": payload.limits.model_dump(exclude={"collect_s"}),
        "network": payload.network,
    }
