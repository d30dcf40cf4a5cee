import base64
import random
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from praxis_sdk.errors import ValidationError
from praxis_sdk.jobs.executor.dedupe import dedupe_key
from praxis_sdk.jobs.payload import strict_json
from praxis_sdk.jobs.payload.content import sha256_of
from praxis_sdk.jobs.payload.payload import parse_payload
from tests.jobs.test_payload import BASE, COMMAND, FILES, json_values, payloads

ENVIRONMENT = "base-0123456789ab"


def key(document: dict[str, Any], env_version: str = ENVIRONMENT, adapter_version: str = "1") -> str:
    payload = parse_payload(document)
    return dedupe_key(payload, payload.input_digests(), env_version, adapter_version)


def shuffled(value: Any, order: random.Random) -> Any:
    """The same JSON value with the keys of every object in another order."""
    if isinstance(value, dict):
        items = [(name, shuffled(child, order)) for name, child in value.items()]
        order.shuffle(items)
        return dict(items)
    return [shuffled(child, order) for child in value] if isinstance(value, list) else value


@settings(max_examples=200)
@given(payloads(), st.randoms(use_true_random=False))
def test_order_of_keys_does_not_matter(document: dict[str, Any], order: random.Random) -> None:
    assert key(shuffled(document, order)) == key(document)


@settings(max_examples=200)
@given(
    payloads(),
    st.fixed_dictionaries(
        {
            "job_id": st.sampled_from(["other", "x-1"]),
            "schema_version": st.sampled_from(["1.0", "1.5"]),
            "fresh": st.booleans(),
            "provenance": st.just({"document_revision": "r7", "object_id": "o", "labels": {"a": "b"}}),
            "unknown": json_values,
        }
    ),
)
def test_who_asked_and_why_does_not_matter(document: dict[str, Any], change: dict[str, Any]) -> None:
    assert key(document | change) == key(document)


@settings(max_examples=200)
@given(payloads(), st.binary(max_size=50), st.booleans())
def test_input_by_value_and_by_digest_is_one(document: dict[str, Any], content: bytes, as_text: bool) -> None:
    by_value: dict[str, Any] = {"base64": base64.b64encode(content).decode()}
    if as_text:
        try:
            by_value = {"text": content.decode()}
        except UnicodeDecodeError:
            assume(False)
    keys = {key(document | {"inputs": {"a": form}}) for form in (by_value, {"digest": sha256_of(content)})}

    assert len(keys) == 1


@settings(max_examples=200)
@given(payloads(), payloads())
def test_different_work_has_different_keys(one: dict[str, Any], other: dict[str, Any]) -> None:
    first, second = parse_payload(one), parse_payload(other)
    same = [
        getattr(first, name) == getattr(second, name)
        for name in ("runtime", "code", "entrypoint", "command", "limits", "network")
    ]
    same.append(strict_json.canonical(first.parameters) == strict_json.canonical(second.parameters))
    same.append(first.input_digests() == second.input_digests())
    same.append([one.kind for one in first.inputs.values()] == [one.kind for one in second.inputs.values()])
    same.append(
        {path: file.content() for path, file in (first.files or {}).items()}
        == {path: file.content() for path, file in (second.files or {}).items()}
    )

    assert (key(one) == key(other)) == all(same)


@pytest.mark.parametrize(
    ("document", "change"),
    [
        (BASE, {"code": "1 + 2"}),
        (BASE, {"runtime": "latex"}),
        (BASE, {"parameters": {"a": 1}}),
        (BASE, {"inputs": {"a": {"text": ""}}}),
        (BASE, {"limits": {"wall_s": 61}}),
        (BASE, {"limits": {"artifact_count": 63}}),
        (BASE, {"network": ["data.example.org"]}),
        (FILES, {"files": {"main.py": "2"}}),
        (FILES, {"files": {"main.py": "1", "other.py": ""}}),
        (FILES, {"files": {"main.py": "1", "other.py": ""}, "entrypoint": "other.py"}),
        (COMMAND, {"command": ["ls", "-la"]}),
        (COMMAND, {"command": ["ls -l"]}),
        (COMMAND, {"files": {"a": ""}}),
    ],
)
def test_any_change_of_the_work_changes_the_key(document: dict[str, Any], change: dict[str, Any]) -> None:
    assert key(document | change) != key(document)


def test_environment_and_adapter_change_the_key() -> None:
    assert len({key(BASE), key(BASE, "base-ba9876543210"), key(BASE, adapter_version="2")}) == 3


def test_pinning_the_environment_that_runs_it_anyway_changes_nothing() -> None:
    assert key(BASE | {"env_version": ENVIRONMENT}) == key(BASE)


def test_what_is_written_in_two_ways_and_means_one_thing_has_one_key() -> None:
    assert key(BASE | {"limits": {"memory_bytes": "512M"}}) == key(
        BASE | {"limits": {"memory_bytes": 512 << 20}}
    )
    assert key(BASE | {"limits": {"wall_s": 60}}) == key(BASE)
    assert key(BASE | {"network": ["Data.example.org", "b.org"]}) == key(
        BASE | {"network": ["b.org:443", "data.example.org:443"]}
    )
    assert key(FILES | {"files": {"main.py": {"base64": "MQ=="}}}) == key(FILES)


def test_values_that_differ_for_the_work_have_different_keys() -> None:
    values = [
        1,
        1.0,
        True,
        "1",
        [1],
        {"1": 1},
        0,
        0.0,
        -0.0,
        None,
        "",
        "é",
        "e\u0301",
        2**53,
        2**53 + 1,
        float(2**53),
    ]
    keys = {key(BASE | {"parameters": {"x": value}}) for value in values}

    assert len(keys) == len(values)
    json_input, bytes_input = ({"inputs": {"a": form}} for form in ({"value": 1}, {"text": "1"}))
    assert key(BASE | json_input) != key(BASE | bytes_input)


def test_digests_of_other_inputs_are_refused() -> None:
    payload = parse_payload(BASE | {"inputs": {"a": {"text": "x"}}})
    for digests in ({}, {"a": sha256_of(b"y")}, {**payload.input_digests(), "b": sha256_of(b"")}):
        with pytest.raises(ValidationError, match=r"payload\.inputs\.[ab]: the content is not"):
            dedupe_key(payload, digests, ENVIRONMENT)


def test_key_is_the_same_for_ever() -> None:
    assert key(BASE) == "7fa07dc92f6bcc2b0337b4016a05d5cc60654c96298d4fa7ffbd8025632badf7"


@settings(max_examples=300)
@given(json_values)
def test_canonical_form_is_read_back_as_the_same_value(value: Any) -> None:
    written = strict_json.canonical(value)

    read = strict_json.parse(written, max_bytes=1 << 20)
    assert repr(read) == repr(value) or read == value
    assert strict_json.canonical(read) == written
