"""The JSON value of a program: what it leaves in the file that PRAXIS_RESULT_FILE names."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from praxis_sdk.jobs.executor.result import JobResult
from praxis_sdk.states import ExecutionStatus, FailureCategory

Run = Callable[..., Awaitable[JobResult]]


async def shell(run: Run, script: str, **fields: Any) -> JobResult:
    return await run(runtime="command", command=["sh", "-c", script], **fields)


@pytest.mark.parametrize(
    ("content", "value"),
    [
        ('{"a": [1, 2.5, null, true, "ü"]}', {"a": [1, 2.5, None, True, "ü"]}),
        ("[]", []),
        ("0", 0),
        ("null", None),
        ('  "text"\n', "text"),
    ],
)
async def test_the_value_in_the_file_is_the_output(run: Run, content: str, value: object) -> None:
    result = await shell(
        run, f"printf %s '{content}' > \"$PRAXIS_RESULT_FILE\"; echo said; echo x > left.txt"
    )
    assert result.succeeded, result.failure
    assert (result.outputs, result.stdout.text) == (value, "said\n")
    assert [one.name for one in result.artifacts] == ["left.txt"], "the result itself is no artifact"


async def test_without_the_file_there_is_no_output(run: Run) -> None:
    result = await shell(run, "echo fine")
    assert result.succeeded
    assert (result.outputs, result.usage.outputs_bytes) == (None, 0)


async def test_the_name_of_the_file_holds_anywhere_and_for_every_process(run: Run) -> None:
    result = await shell(run, "cd /tmp; (cd /; sh -c 'echo 7 > \"$PRAXIS_RESULT_FILE\"')")
    assert result.outputs == 7


async def test_the_value_is_read_when_the_last_process_is_gone(run: Run) -> None:
    script = """
        echo 1 > "$PRAXIS_RESULT_FILE"
        (while :; do echo 22222 > .praxis/new; mv .praxis/new "$PRAXIS_RESULT_FILE"; done) &
        exit 0
    """
    result = await shell(run, script)
    assert result.succeeded, result.failure
    assert result.outputs in (1, 22222)


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ('echo "not json" > "$PRAXIS_RESULT_FILE"', "not JSON"),
        (': > "$PRAXIS_RESULT_FILE"', "not JSON"),
        ('printf "1 2" > "$PRAXIS_RESULT_FILE"', "not JSON"),
        ('printf "NaN" > "$PRAXIS_RESULT_FILE"', "not a finite number"),
        ('printf \'{"a": 1, "a": 2}\' > "$PRAXIS_RESULT_FILE"', "key 'a' is given twice"),
        ('printf "\\377" > "$PRAXIS_RESULT_FILE"', "not UTF-8"),
        ('printf "\\357\\273\\2771" > "$PRAXIS_RESULT_FILE"', "byte order mark"),
        ('head -c 60000 /dev/zero | tr "\\0" "[" > "$PRAXIS_RESULT_FILE"', "nested deeper"),
        ('ln -s /etc/passwd "$PRAXIS_RESULT_FILE"', "not a regular file"),
        ('echo 1 > own; ln -s ../own "$PRAXIS_RESULT_FILE"', "not a regular file"),
        ('mkfifo "$PRAXIS_RESULT_FILE"', "not a regular file"),
        ('mkdir "$PRAXIS_RESULT_FILE"', "not a regular file"),
        ("rmdir .praxis; ln -s /tmp .praxis; echo 1 > /tmp/result.json", "not a regular file"),
        ("rmdir .praxis; echo 1 > .praxis", "not a regular file"),
    ],
)
async def test_what_is_no_json_data_is_told(run: Run, script: str, told: str) -> None:
    result = await shell(run, script)
    assert result.status is ExecutionStatus.FAILED
    assert result.failure is not None
    assert (result.failure.category, result.failure.code) == (
        FailureCategory.USER_CODE_ERROR,
        "invalid_result",
    )
    assert result.failure.message.startswith("the file that PRAXIS_RESULT_FILE names holds no JSON data: ")
    assert told in result.failure.message
    assert result.outputs is None


@pytest.mark.parametrize(
    "script",
    [
        "head -c 3000 /dev/zero | tr '\\0' 1 | sed 's/.*/\"&\"/' > \"$PRAXIS_RESULT_FILE\"",
        'truncate -s 100M "$PRAXIS_RESULT_FILE"',
    ],
)
async def test_a_value_that_is_too_long_is_a_limit(run: Run, script: str) -> None:
    result = await shell(run, script, limits={"outputs_bytes": 2048})
    assert result.failure is not None
    assert (result.limit, result.failure.code) == ("outputs_bytes", "outputs_exceeded")
    assert result.outputs is None


async def test_a_program_that_fails_has_no_output(run: Run) -> None:
    result = await shell(run, 'echo 1 > "$PRAXIS_RESULT_FILE"; exit 3')
    assert result.failure is not None
    assert (result.failure.code, result.exit_code, result.outputs) == ("exit_nonzero", 3, None)
    broken = await shell(run, 'echo x > "$PRAXIS_RESULT_FILE"; exit 3')
    assert broken.failure is not None
    assert broken.failure.code == "exit_nonzero", "its own end says more than what it left behind"


@pytest.mark.parametrize("path", [".praxis/result.json", ".praxis", ".praxis/deep/er"])
async def test_the_payload_cannot_bring_the_result_along(run: Run, path: str) -> None:
    result = await run(runtime="command", command=["true"], files={path: "5"})
    assert result.failure is not None
    assert result.failure.category is FailureCategory.VALIDATION_ERROR
    assert "'.praxis/' belongs to the result" in result.failure.message
