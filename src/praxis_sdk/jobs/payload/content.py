"""Contents that a payload holds: a file, an input, standard input; by value, or by the digest of their bytes."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    StrictStr,
    WithJsonSchema,
    model_serializer,
    model_validator,
)

from praxis_sdk.jobs.payload import strict_json
from praxis_sdk.jobs.payload.limits import JobPart
from praxis_sdk.jobs.payload.wording import DIGEST_PATTERN

_BASE64_PATTERN: Final = r"^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"


def _check_base64(value: object) -> object:
    if isinstance(value, str):
        try:
            base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError) as error:
            raise ValueError("is not base64: letters, digits, '+', '/', padded with '='") from error
    return value


def text_schema(**schema: Any) -> WithJsonSchema:
    """Return the JSON Schema of a text with further conditions."""
    return WithJsonSchema({"type": "string", **schema})


Digest = Annotated[StrictStr, Field(pattern=DIGEST_PATTERN)]
# The forms of a content; null is none of them.
OneText = Annotated[StrictStr, text_schema()]
OneBase64 = Annotated[
    StrictStr,
    BeforeValidator(_check_base64),
    text_schema(contentEncoding="base64", pattern=_BASE64_PATTERN),
]
OneDigest = Annotated[Digest, text_schema(pattern=DIGEST_PATTERN)]


def _exactly_one(*names: str) -> ConfigDict:
    return ConfigDict(json_schema_extra={"oneOf": [{"required": [name]} for name in names]})


def _content_schema(schema: dict[str, Any]) -> None:
    """Add the short form of a file, plain text, to the schema of the long one."""
    description = schema.pop("description")
    long = {**schema, "oneOf": [{"required": ["text"]}, {"required": ["base64"]}]}
    schema.clear()
    schema.update(description=description, anyOf=[{"type": "string"}, long])


class FileContent(JobPart):
    """The content of one file: text (UTF-8) or base64 bytes, exactly one of them; plain text will do too."""

    model_config = ConfigDict(json_schema_extra=_content_schema)

    text: OneText | None = None
    base64: OneBase64 | None = None

    @model_validator(mode="before")
    @classmethod
    def _read(cls, data: Any) -> Any:
        if not isinstance(data, str | Mapping | cls):
            raise ValueError("must be text, or an object with one of 'text' and 'base64'")
        return {"text": data} if isinstance(data, str) else data

    @model_validator(mode="after")
    def _has_one(self) -> Self:
        if len(self.model_fields_set) != 1 or (self.text is None and self.base64 is None):
            raise ValueError("must have exactly one of 'text' and 'base64'")
        return self

    @model_serializer
    def _write(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.model_fields_set}

    def content(self) -> bytes:
        """Return the bytes of the file."""
        return _decode(self.text, self.base64)


class JobInput(JobPart):
    """One named input, by value or by digest: exactly one of the four fields.

    `value` reaches the work as a JSON value. The other three are three ways to say the same bytes (text as
    UTF-8), and reach it as those bytes; so they are one and the same for the dedupe key.
    """

    model_config = _exactly_one("value", "text", "base64", "digest")

    value: JsonValue = None
    text: OneText | None = None
    base64: OneBase64 | None = None
    digest: OneDigest | None = None

    @model_validator(mode="before")
    @classmethod
    def _read(cls, data: Any) -> Any:
        if not isinstance(data, Mapping | cls):
            raise ValueError('must be an object with one of its fields, such as {"value": 1}')
        return data

    @model_validator(mode="after")
    def _has_one(self) -> Self:
        name = next(iter(self.model_fields_set), "")
        if len(self.model_fields_set) != 1 or (name != "value" and getattr(self, name) is None):
            raise ValueError("must have exactly one of 'value', 'text', 'base64' and 'digest'")
        return self

    @model_serializer
    def _write(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.model_fields_set}

    @property
    def kind(self) -> Literal["json", "bytes"]:
        """Whether the work receives a JSON value or bytes."""
        return "json" if "value" in self.model_fields_set else "bytes"

    def content(self) -> bytes | None:
        """Return the bytes (of a JSON value: its canonical form); None for an input by digest."""
        if self.kind == "json":
            return strict_json.canonical(self.value)
        return None if self.digest is not None else _decode(self.text, self.base64)

    def content_digest(self) -> str:
        """Return 'sha256:...' of the bytes, whether or not they are here."""
        content = self.content()
        return self.digest or "" if content is None else sha256_of(content)


def _stdin_schema(schema: dict[str, Any]) -> None:
    """Add the short form of standard input, plain text, to the schema of the long one."""
    _content_schema(schema)
    schema["anyOf"][1]["oneOf"].append({"required": ["digest"]})


class StandardInput(JobPart):
    """What standard input holds: text (UTF-8), base64 or a digest, exactly one of them; plain text will do too."""

    model_config = ConfigDict(json_schema_extra=_stdin_schema)

    text: OneText | None = None
    base64: OneBase64 | None = None
    digest: OneDigest | None = None

    @model_validator(mode="before")
    @classmethod
    def _read(cls, data: Any) -> Any:
        if not isinstance(data, str | Mapping | cls):
            raise ValueError("must be text, or an object with one of 'text', 'base64' and 'digest'")
        return {"text": data} if isinstance(data, str) else data

    @model_validator(mode="after")
    def _has_one(self) -> Self:
        if len(self.model_fields_set) != 1 or getattr(self, next(iter(self.model_fields_set))) is None:
            raise ValueError("must have exactly one of 'text', 'base64' and 'digest'")
        return self

    @model_serializer
    def _write(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.model_fields_set}

    def content(self) -> bytes | None:
        """Return the bytes; None where only their digest is here."""
        return None if self.digest is not None else _decode(self.text, self.base64)

    def content_digest(self) -> str:
        """Return 'sha256:...' of the bytes, whether or not they are here."""
        content = self.content()
        return self.digest or "" if content is None else sha256_of(content)


def sha256_of(content: bytes) -> str:
    """Return the digest of some bytes as payloads write it: 'sha256:<64 hex digits>'."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _decode(text: str | None, encoded: str | None) -> bytes:
    return (text or "").encode() if encoded is None else base64.b64decode(encoded)


def size_of(text: str | None, encoded: str | None) -> int:
    """Return the size of a content in bytes, without decoding it."""
    if encoded is not None:
        return len(encoded) // 4 * 3 - encoded[-2:].count("=")
    return len((text or "").encode())
