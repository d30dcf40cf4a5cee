"""Jobs as a kind of work: what is learned of one source says nothing of another."""

from typing import Any

import pytest

from praxis_sdk.control.kinds.job import JobKind
from praxis_sdk.jobs.executor.executor import JobExecutor


def control_of(**fields: Any) -> str:
    def never() -> JobExecutor:
        raise AssertionError("a request is checked without an executor")

    request = {"schema_version": "1.0", "runtime": "python", "env": "base", **fields}
    return JobKind(never).validate(request, None).control


def test_equal_sources_are_one_control_whatever_they_are_given() -> None:
    first = control_of(code="f(x)", parameters={"x": 1})
    assert first == control_of(code="f(x)", parameters={"x": 2}, limits={"wall_s": 5}, fresh=True)
    assert first.startswith("python:base:")


@pytest.mark.parametrize(
    "fields",
    [
        {"code": "g(x)"},
        {"code": "f(x)", "env": "science"},
        {"runtime": "command", "command": ["f", "x"]},
        {"files": {"main.py": {"text": "f(x)"}}, "entrypoint": "main.py"},
    ],
)
def test_another_source_is_another_control(fields: dict[str, Any]) -> None:
    assert control_of(**fields) != control_of(code="f(x)")
