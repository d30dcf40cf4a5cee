"""Single values as SQL keeps them: JSON, text, enums, and the small records that are one column each.

What comes back equals what was kept, also where it holds NUL or half a surrogate pair: the hashes of the audit
trail are over the original.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields
from enum import StrEnum
from functools import lru_cache
from typing import Any, Final, TypeVar

from praxis_sdk.json_text import text_of
from praxis_sdk.model import AttemptEnd, EventType, Failure, Flag, Level, Options, RetryPolicy, Stop, Usage
from praxis_sdk.resources import Resources
from praxis_sdk.states import ErrorType, ExecutionStatus, FailureCategory, Priority, ServiceClass
from praxis_sdk.store.changes import failure_to_json, usage_to_json
from praxis_sdk.store.json_text import encoder

_Member = TypeVar("_Member", bound=StrEnum)


def _members(kind: type[_Member]) -> dict[str, _Member]:
    return {str(member): member for member in kind}


# The members by their values: looking up costs a tenth of calling the class.
STATUS: Final = _members(ExecutionStatus)
PRIORITY: Final = _members(Priority)
SERVICE_CLASS: Final = _members(ServiceClass)
STOP: Final = _members(Stop)
FLAG: Final = _members(Flag)
EVENT_TYPE: Final = _members(EventType)
LEVEL: Final = _members(Level)
ENDING: Final = _members(AttemptEnd)
CATEGORY: Final = _members(FailureCategory)
ERROR_TYPE: Final = _members(ErrorType)

_encode: Final = encoder()
_decode: Final = json.JSONDecoder().decode
_ESCAPED: Final = "\x01"


def to_json(value: Any) -> str:
    """Return a value as compact JSON; plain ASCII, so that every store takes it."""
    return _encode(value)


def from_json(text: str) -> Any:
    """Return the value that `to_json` wrote."""
    return _decode(text)


def optional_json(value: Any) -> str | None:
    """Return a value as JSON; None stays None."""
    return None if value is None else text_of(value, _encode)


def canonical_json(value: Any) -> str:
    """Return JSON that is equal for equal values, whatever the order of their names."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def to_text(text: str) -> str:
    """Return text that every store takes: what holds NUL or is no Unicode is escaped."""
    if text.isascii():
        plain = "\0" not in text and not text.startswith(_ESCAPED)
    else:
        plain = text.isprintable() or (
            "\0" not in text
            and not text.startswith(_ESCAPED)
            and not any("\ud800" <= character <= "\udfff" for character in text)
        )
    return text if plain else _ESCAPED + to_json(text)


def from_text(text: str) -> str:
    """Return the text that `to_text` was given."""
    if text[:1] != _ESCAPED:
        return text
    original: str = from_json(text[1:])
    return original


# -- resources, terms, failures, usages


_AMOUNTS: Final = len(fields(Resources))
_USAGE: Final = tuple(field.name for field in fields(Usage))


def _resources(amounts: Sequence[Any]) -> Resources:
    """Return amounts in the order of the fields; a newer version's may be more."""
    return Resources(*amounts[:_AMOUNTS])


@lru_cache(maxsize=1024)
def resources_to_text(resources: Resources) -> str:
    """Return amounts as a JSON array in the order of the fields."""
    return to_json(resources.amounts())


@lru_cache(maxsize=1024)
def resources_from_text(text: str) -> Resources:
    """Return the amounts that `resources_to_text` wrote."""
    return _resources(from_json(text))


@lru_cache(maxsize=1024)
def terms_to_text(terms: Options) -> str:
    """Return terms as JSON."""
    retry = terms.retry
    return to_json(
        {
            "requirements": terms.requirements.amounts(),
            "priority": terms.priority,
            "service_class": terms.service_class,
            "opens_at": terms.opens_at,
            "closes_at": terms.closes_at,
            "timeout_s": terms.timeout_s,
            "expected_s": terms.expected_s,
            "retry": {
                "max_retries": retry.max_retries,
                "first_pause_s": retry.first_pause_s,
                "retry_on": sorted(retry.retry_on),
                "resource_factor": retry.resource_factor,
                "resource_cap": retry.resource_cap,
                "retry_timeouts": retry.retry_timeouts,
                **({"exit_codes": sorted(retry.exit_codes)} if retry.exit_codes else {}),
            },
        }
    )


@lru_cache(maxsize=1024)
def terms_from_text(text: str) -> Options:
    """Return the terms that `terms_to_text` wrote."""
    document = from_json(text)
    retry = document["retry"]
    return Options(
        requirements=_resources(document["requirements"]),
        priority=PRIORITY[document["priority"]],
        service_class=SERVICE_CLASS[document["service_class"]],
        opens_at=document["opens_at"],
        closes_at=document["closes_at"],
        timeout_s=document["timeout_s"],
        expected_s=document["expected_s"],
        retry=RetryPolicy(
            max_retries=retry["max_retries"],
            first_pause_s=retry["first_pause_s"],
            retry_on=frozenset(map(ERROR_TYPE.__getitem__, retry["retry_on"])),
            resource_factor=retry["resource_factor"],
            resource_cap=retry["resource_cap"],
            retry_timeouts=retry["retry_timeouts"],
            exit_codes=frozenset(retry.get("exit_codes", ())),
        ),
    )


def failure_to_text(failure: Failure | None) -> str | None:
    """Return a failure as JSON; None stays None."""
    return None if failure is None else to_json(failure_to_json(failure))


def failure_from_text(text: str | None) -> Failure | None:
    """Return the failure that `failure_to_text` wrote."""
    if text is None:
        return None
    document = from_json(text)
    return Failure(
        CATEGORY[document["category"]],
        ERROR_TYPE[document["error_type"]],
        document["code"],
        document["message"],
        document["detail"],
    )


def usage_to_text(usage: Usage | None) -> str | None:
    """Return a usage as JSON; None stays None."""
    return None if usage is None else to_json(usage_to_json(usage))


def usage_from_text(text: str | None) -> Usage | None:
    """Return the usage that `usage_to_text` wrote."""
    if text is None:
        return None
    document = from_json(text)  # a newer version's may say more
    return Usage(**{name: document[name] for name in _USAGE if name in document})


def flags_from_text(text: str) -> tuple[Flag, ...]:
    """Return flags that were joined by commas."""
    return tuple(FLAG[name] for name in text.split(",") if name in FLAG) if text else ()
