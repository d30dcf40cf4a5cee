"""The JSON Schemas of payloads and results, made from the models that read them.

They accept every document that the models accept. The models refuse a little more, which no schema can say:

    text in bytes out of bounds (code, files, inputs, parameters, command)      a size or duration out of bounds as text
    an entrypoint that is none of the files, a file that is also a folder       a host that is not public
    an environment version of another environment                               integers beyond 64 bits, deep nesting

Fields that nobody knows are allowed: they are optional fields of a later minor version (spec 3, section 10.2).
"""

from __future__ import annotations

import json
from functools import cache
from typing import Any, Final

from pydantic import BaseModel

from praxis_sdk.jobs.executor.result import JobResult
from praxis_sdk.jobs.payload.payload import SCHEMA_MAJOR, JobPayload

PAYLOAD_DOCUMENT: Final = "job-payload.schema.json"
RESULT_DOCUMENT: Final = "job-result.schema.json"


def payload_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of job payloads; shared, so not to be changed."""
    return _schema(JobPayload, "job-payload")


def result_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of job results; shared, so not to be changed."""
    return _schema(JobResult, "job-result")


def reference_documents() -> dict[str, str]:
    """Return the files of docs/reference that are made here: name to content."""
    return {
        name: json.dumps(schema, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        for name, schema in ((PAYLOAD_DOCUMENT, payload_schema()), (RESULT_DOCUMENT, result_schema()))
    }


@cache
def _schema(model: type[BaseModel], name: str) -> dict[str, Any]:
    schema = _plain(model.model_json_schema(mode="validation"))
    # Programs that make one in Python need not write it; in a document it must be there.
    schema["required"] = sorted({"schema_version", *schema["required"]})
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:praxis:{name}:{SCHEMA_MAJOR}",
        "title": f"Praxis {name.replace('-', ' ')}",
        **schema,
    }


def _plain(schema: Any) -> Any:
    """Drop the titles that pydantic makes of field names, and the line breaks of docstrings."""
    if isinstance(schema, list):
        return [_plain(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: {name: _plain(child) for name, child in value.items()}
        if key in ("properties", "$defs")
        else " ".join(value.split("\n\nArgs:")[0].split())
        if key == "description"
        else _plain(value)
        for key, value in schema.items()
        if not (key == "title" and isinstance(value, str))
    }
