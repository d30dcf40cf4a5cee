"""The forms in which authors of contracts write values, and what each form becomes.

Every type here has two sides that must agree: validators, which read a value, and the JSON Schema of
what can be written. The schema accepts everything that the validators accept; what it cannot say
(a mount target used twice, an unbalanced quote) is for the validators alone.
"""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import (
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    model_validator,
)

from praxis_sdk.units import parse_bytes, parse_seconds

MAX_TIMEOUT_S: Final = 7 * 24 * 3600
MAX_SIZE_BYTES: Final = 1 << 60
EXTENSION: Final = "x-"  # keys that begin like this are the author's own
_FLAGS: Final = {"true": 1, "yes": 1, "on": 1, "1": 1, "false": 0, "no": 0, "off": 0, "0": 0, "": 0}
_NUMBER: Final = r"[0-9]{1,15}(\.[0-9]{1,15})?"
_HEADER_NAME: Final = r"[A-Za-z0-9!#$%&'*+.^_`|~-]+"
_ONE_LINE: Final = r"[^\x00-\x08\x0a-\x1f\x7f]*"
_NO_NUL: Final = "^[^\\x00]*$"


class ContractPart(BaseModel):
    """What all parts of a contract share.

    A key may have several spellings, an empty value means 'not given', keys that begin with `x-` are the
    author's own, and any other key is refused: a limit that is misspelt must not be lost.
    """

    model_config = ConfigDict(extra="ignore", frozen=True, populate_by_name=True)
    further_keys: ClassVar[frozenset[str]] = frozenset()  # allowed beside the fields
    takes_any_key: ClassVar[bool] = False  # for what is not ours to know

    @model_validator(mode="before")
    @classmethod
    def _read_keys(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        spellings = cls.spellings()
        known = {key for keys in spellings.values() for key in keys}
        for key in () if cls.takes_any_key else data:
            if key not in known and key not in cls.further_keys and not str(key).startswith(EXTENSION):
                raise ValueError(
                    f"{str(key)[:80]!r} is not a field of {cls.__name__}; {_nearest(str(key), known, spellings)}"
                )
        for keys in spellings.values():
            given = [key for key in keys if data.get(key) is not None]
            if len(given) > 1:
                raise ValueError(f"{given[0]!r} and {given[1]!r} are the same field; keep one of them")
        return {key: value for key, value in data.items() if value is not None}

    @classmethod
    def spellings(cls) -> dict[str, tuple[str, ...]]:
        """Return the keys under which each field can be written, the one of the specs first."""
        keys: dict[str, tuple[str, ...]] = {}
        for name, field in cls.model_fields.items():
            alias = field.validation_alias
            others = [str(choice) for choice in alias.choices] if isinstance(alias, AliasChoices) else []
            keys[name] = (name, *(other for other in others if other != name))
        return keys


def _nearest(key: str, known: Iterable[str], names: Iterable[str]) -> str:
    """Say which of the known keys may have been meant, or else what all of them are called."""
    near = difflib.get_close_matches(key[:100], sorted(known), n=1)
    return f"did you mean {near[0]!r}?" if near else f"known are {', '.join(names)}"


def kind_of(value: object) -> str:
    """Name the kind of a value in the words of a contract's author."""
    if value is None:
        return "nothing"
    kinds = {bool: "true or false", str: "text", int: "a number", float: "a number"}
    if isinstance(value, Mapping):
        return "a mapping"
    return kinds.get(type(value), "a list" if isinstance(value, list | tuple) else type(value).__name__)


def read_flag(value: object) -> object:
    """Turn the booleans that YAML authors write as strings ('true', 'no') into booleans.

    Raises:
        ValueError: it is none.
    """
    flag = _FLAGS.get(value.strip().lower()) if isinstance(value, str) else value
    if flag in (0, 1):
        return bool(flag)
    raise ValueError(f"must be true or false, not {kind_of(value)}")


def _text(value: object) -> object:
    if isinstance(value, str) and "\0" in value:
        raise ValueError("holds a NUL character")
    return value


def _inside_path(value: object) -> object:
    if isinstance(value, str) and not value.startswith("/"):
        raise ValueError(f"{value!r} must be an absolute path inside; write for example '/data'")
    return _text(value)


def _output_pattern(value: object) -> object:
    if isinstance(value, str) and (not value or value.startswith("/") or ".." in value.split("/")):
        raise ValueError("must be a path below the working directory; write for example '*.csv'")
    return _text(value)


def _words(value: object) -> object:
    """Split a command given as one string; scalars inside a list become strings."""
    if isinstance(value, str):
        try:
            return shlex.split(value)
        except ValueError as error:
            raise ValueError(
                f"cannot be split into words: {str(error).lower()}; write it as a list"
            ) from error
    if isinstance(value, list):
        return [str(v) if isinstance(v, int | float) and not isinstance(v, bool) else v for v in value]
    return value


def _word(value: object) -> object:
    return value.strip().lower() if isinstance(value, str) else value


def _pairs(value: object, separator: str, form: str) -> object:
    """Read a list of lines 'key<separator>value' as a mapping."""
    if not isinstance(value, list):
        return value
    pairs: dict[str, str] = {}
    for line in value:
        key, found, rest = line.partition(separator) if isinstance(line, str) else ("", "", "")
        if not found:
            raise ValueError(f"must be a mapping, or a list of {form}; one entry is neither")
        if key in pairs:
            raise ValueError(f"{key!r} is given twice; keep one of them")
        pairs[key] = rest
    return pairs


def _texts(value: object) -> object:
    """Write the scalars in a mapping of text to text as text."""
    if not isinstance(value, Mapping):
        return value
    return {
        name: str(v).lower() if isinstance(v, bool) else str(v) if isinstance(v, int | float) else v
        for name, v in value.items()
    }


def _variables(value: object) -> object:
    """Read environment variables as a mapping, or as a list of 'NAME=value' lines."""
    return _texts(_pairs(value, "=", "'NAME=value' lines"))


def _headers(value: object) -> object:
    """Read HTTP headers as a mapping, or as a list of 'Name: value' lines."""
    headers = _texts(_pairs(value, ":", "'Name: value' lines"))
    if isinstance(value, list) and isinstance(headers, dict):
        return {name.strip(): text.strip() for name, text in headers.items()}
    return headers


def _mount_map(value: object) -> object:
    """Read mounts as a mapping source: target, or as a list of 'source:target[:ro]' lines."""
    return _pairs(value, ":", "'source:target', 'source:target:ro' or 'source:target:rw' lines")


def _size(value: object) -> object:
    wrong = "is not a size; write for example '512m'"
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"{kind_of(value)} {wrong}")
    if isinstance(value, str) and not value.isascii():
        raise ValueError(f"{value!r} {wrong}")
    if parse_bytes(value) > MAX_SIZE_BYTES:
        raise ValueError(f"{str(value)[:40]!r} is more than any host has; write for example '512m'")
    return str(value)


def _seconds(value: object) -> object:
    wrong = "is not a duration; write for example '90s'"
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"{kind_of(value)} {wrong}")
    if isinstance(value, str) and not value.isascii():
        raise ValueError(f"{value!r} {wrong}")
    seconds = parse_seconds(value) if isinstance(value, str) else value
    if not 0 < seconds <= MAX_TIMEOUT_S:
        raise ValueError(f"must be above 0 and at most {MAX_TIMEOUT_S} seconds (7 days)")
    return int(seconds) if seconds == int(seconds) else seconds


def _number(value: object) -> object:
    """Refuse what pydantic would take for a number: true, '1e3', 'inf'."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"must be a number, not {kind_of(value)}")
    if isinstance(value, str) and not re.fullmatch(_NUMBER, value):
        raise ValueError("must be a number")
    return value


def _variable_name(value: object) -> object:
    if not isinstance(value, str):
        return value
    if not value or "=" in value or "\0" in value:
        raise ValueError("is not the name of an environment variable; a name is not empty and has no '='")
    return value


def _header_name(value: object) -> object:
    if isinstance(value, str) and not re.fullmatch(_HEADER_NAME, value):
        raise ValueError("is not the name of an HTTP header; use letters, digits and '-'")
    return value


def _header_value(value: object) -> object:
    if isinstance(value, str) and not re.fullmatch(_ONE_LINE, value):
        raise ValueError("must be one line without control characters")
    return value


def any_case(*words: str) -> str:
    """Return a JSON Schema pattern that fits words in upper and lower case, spaces around them allowed."""
    choices = ["".join(f"[{c.lower()}{c.upper()}]" if c.isalpha() else c for c in word) for word in words]
    return rf"^\s*({'|'.join(choices)})\s*$"


def _as(**schema: Any) -> WithJsonSchema:
    """Say what an author can write; the validators beside it say what it becomes."""
    return WithJsonSchema(schema, mode="validation")


def _one_of(*schemas: dict[str, Any]) -> WithJsonSchema:
    return _as(anyOf=list(schemas))


_SCALAR: Final = {"type": ["string", "number", "boolean"], "pattern": _NO_NUL}

Flag = Annotated[
    bool,
    BeforeValidator(read_flag),
    _one_of({"enum": [True, False, 0, 1]}, {"type": "string", "pattern": any_case(*_FLAGS)}),
]
Text = Annotated[str, BeforeValidator(_text), _as(type="string", pattern=_NO_NUL)]
Command = Annotated[
    list[Text],
    BeforeValidator(_words),
    _one_of(
        {"type": "string", "pattern": _NO_NUL},
        {"type": "array", "items": {"type": ["string", "number"], "pattern": _NO_NUL}},
    ),
]
Delivery = Annotated[
    Literal["env", "argv", "both", "stdin"],
    BeforeValidator(_word),
    _as(type="string", pattern=any_case("env", "argv", "both", "stdin")),
]
OutputPattern = Annotated[
    str, BeforeValidator(_output_pattern), _as(type="string", pattern="^[^/\\x00][^\\x00]*$")
]
VariableName = Annotated[str, BeforeValidator(_variable_name), _as(type="string", pattern="^[^=\\x00]+$")]
Variables = Annotated[
    dict[VariableName, Text],
    BeforeValidator(_variables),
    _one_of(
        {"type": "object", "propertyNames": {"pattern": "^[^=\\x00]+$"}, "additionalProperties": _SCALAR},
        {"type": "array", "items": {"type": "string", "pattern": "^[^=\\x00]+=[^\\x00]*$"}},
    ),
]
Headers = Annotated[
    dict[Annotated[str, BeforeValidator(_header_name)], Annotated[str, BeforeValidator(_header_value)]],
    BeforeValidator(_headers),
    _one_of(
        {
            "type": "object",
            "propertyNames": {"pattern": f"^{_HEADER_NAME}$"},
            "additionalProperties": _SCALAR | {"pattern": f"^{_ONE_LINE}$"},
        },
        {"type": "array", "items": {"type": "string", "pattern": "^[^:]+:"}},
    ),
]
MountMap = Annotated[
    dict[str, str],
    BeforeValidator(_mount_map),
    _one_of(
        {
            "type": "object",
            "propertyNames": {"minLength": 1},
            "additionalProperties": {"type": "string", "pattern": "^/"},
        },
        {"type": "array", "items": {"type": "string", "pattern": "^[^:]+:/"}},
    ),
]
Size = Annotated[
    str,
    BeforeValidator(_size),
    _one_of(
        {"type": "integer", "minimum": 1},
        {"type": "string", "pattern": r"^\s*[0-9]+(\.[0-9]+)?\s*[kKmMgGtT]?[iI]?[bB]?\s*$"},
    ),
]
Seconds = Annotated[
    int | float,
    BeforeValidator(_seconds),
    _one_of(
        {"type": "number", "exclusiveMinimum": 0, "maximum": MAX_TIMEOUT_S},
        {
            "type": "string",
            "pattern": r"^\s*[0-9]+(\.[0-9]+)?\s*([mM][sS]|[sSmMhHdD])?\s*$",
        },
    ),
]
Cores = Annotated[
    float,
    Field(gt=0, le=1024),
    BeforeValidator(_number),
    _one_of(
        {"type": "number", "exclusiveMinimum": 0, "maximum": 1024},
        {"type": "string", "pattern": f"^{_NUMBER}$"},
    ),
]
Count = Annotated[
    int,
    Field(ge=1, le=4_000_000),
    BeforeValidator(_number),
    _one_of(
        {"type": "integer", "minimum": 1, "maximum": 4_000_000},
        {"type": "string", "pattern": f"^{_NUMBER}$"},
    ),
]
Image = Annotated[str, Field(pattern=r"^[^\s\x00-]\S*$")]
Url = Annotated[str, Field(pattern=r"^https?://[^\s/]\S*$")]
InsidePath = Annotated[str, BeforeValidator(_inside_path), _as(type="string", pattern="^/[^\\x00]*$")]
Secret = Annotated[str, BeforeValidator(_header_value), _as(type="string", pattern=f"^{_ONE_LINE}$")]
