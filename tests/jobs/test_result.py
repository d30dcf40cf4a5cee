import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, get_args

import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from praxis_sdk.errors import ValidationError
from praxis_sdk.execution.contract.json_schema import first_fault
from praxis_sdk.jobs.executor.result import (
    BoundedText,
    FailureCode,
    FinalStatus,
    JobFailure,
    JobResult,
    JobTimings,
    JobUsage,
    NetworkUse,
    RejectedArtifact,
    parse_result,
)
from praxis_sdk.jobs.payload import schemas
from praxis_sdk.states import ExecutionStatus, FailureCategory
from tests.jobs.test_payload import json_values

MOMENT = datetime(2026, 1, 31, 12, tzinfo=UTC)
FAILURE = JobFailure(
    category=FailureCategory.RESOURCE_LIMIT, code=FailureCode.MEMORY_EXCEEDED, message="used too much"
)
ARTIFACT = {
    "name": "plot.png",
    "kind": "plot",
    "format": "png",
    "digest": "sha256:" + "a" * 64,
    "size_bytes": 3,
    "content_type": "image/png",
    "uri": "artifact:sha256/aa/" + "a" * 62,
}

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
counts = st.integers(0, 2**53)
durations = st.floats(0, 1e6)
moments = st.datetimes(
    min_value=datetime(2000, 1, 1),  # noqa: DTZ001 - hypothesis adds the zone
    max_value=datetime(2100, 1, 1),  # noqa: DTZ001
    timezones=st.sampled_from([UTC, timezone(timedelta(hours=5))]),
)
failures = st.builds(
    JobFailure,
    category=st.sampled_from(FailureCategory),
    code=st.sampled_from(FailureCode),
    message=texts,
    traceback=st.none() | texts,
)


@st.composite
def results(draw: st.DrawFn) -> JobResult:
    status = draw(st.sampled_from(get_args(FinalStatus)))
    completed = status is ExecutionStatus.COMPLETED
    cancelled = status is ExecutionStatus.CANCELLED
    return JobResult(
        job_id="job-1",
        status=status,
        outputs=draw(json_values),
        stdout=BoundedText.of(draw(st.binary(max_size=40)), max_bytes=20),
        exit_code=draw(st.none() | st.integers(0, 255)),
        artifacts=draw(st.sampled_from([(), (ARTIFACT,)])),
        rejected_artifacts=draw(
            st.lists(st.builds(RejectedArtifact, name=texts, reason=texts), max_size=2).map(tuple)
        ),
        usage=draw(
            st.builds(JobUsage, wall_s=durations, cpu_s=st.none() | durations, files=st.none() | counts)
        ),
        limit=None if completed else draw(st.sampled_from([None, "memory_bytes"])),
        failure=None if completed else draw(failures | st.none() if cancelled else failures),
        env_version=draw(st.sampled_from([None, "base-0123456789ab"])),
        timings=draw(st.builds(JobTimings, queued_at=st.none() | moments, run_s=st.none() | durations)),
        dedupe_key=draw(st.sampled_from([None, "0" * 64])),
        network=draw(
            st.lists(
                st.builds(
                    NetworkUse, at=moments, host=texts, port=st.integers(0, 65_535), allowed=st.booleans()
                ),
                max_size=2,
            ).map(tuple)
        ),
    )


@settings(max_examples=200)
@given(results())
def test_every_result_satisfies_the_schema_and_survives_a_round_trip(result: JobResult) -> None:
    document = json.loads(json.dumps(result.to_json(), allow_nan=False))

    assert first_fault(schemas.result_schema(), document) is None
    assert parse_result(document) == result
    assert parse_result(json.dumps(document).encode()) == result


@settings(max_examples=300)
@given(results(), st.data())
def test_what_the_schema_refuses_the_model_refuses_too(result: JobResult, data: st.DataObject) -> None:
    document = result.to_json()
    field = data.draw(
        st.sampled_from([*JobResult.model_fields, "usage.wall_s", "usage.files", "timings.run_s"])
    )
    place, _, name = field.rpartition(".")
    target = document[place] if place else document
    target[name] = data.draw(json_values | st.sampled_from(["5", 5.0, True, {}, [{}], "completed", "1.4"]))

    try:
        parse_result(document)
    except ValidationError:
        return
    assert first_fault(schemas.result_schema(), document) is None


def test_failure_and_status_belong_together() -> None:
    with pytest.raises(pydantic.ValidationError, match="a completed job has no 'failure'"):
        JobResult(job_id="a", status=ExecutionStatus.COMPLETED, failure=FAILURE)
    for status in (ExecutionStatus.FAILED, ExecutionStatus.TIMED_OUT):
        with pytest.raises(pydantic.ValidationError, match="has a 'failure'"):
            JobResult(job_id="a", status=status)
        assert not JobResult(job_id="a", status=status, failure=FAILURE).succeeded
    assert JobResult(job_id="a", status=ExecutionStatus.CANCELLED).failure is None
    assert JobResult(job_id="a", status=ExecutionStatus.COMPLETED).succeeded


def test_outputs_are_plain_json() -> None:
    with pytest.raises(pydantic.ValidationError, match="not a finite number"):
        JobResult(job_id="a", status=ExecutionStatus.COMPLETED, outputs=[float("nan")])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": "2.0"}, "result: 'schema_version' 2.0 is not supported"),
        ({"status": "running"}, "result.status: "),
        ({"usage": {"files": -1}}, "result.usage.files: "),
        ({"stdout": "text"}, "result.stdout: must be a JSON object"),
    ],
)
def test_refusal_names_the_field(change: dict[str, Any], message: str) -> None:
    document = {"schema_version": "1.0", "job_id": "a", "status": "completed"}
    assert parse_result(document).succeeded

    with pytest.raises(ValidationError) as caught:
        parse_result(document | change)
    assert str(caught.value).startswith(message)


def test_result_of_a_later_minor_version_is_read() -> None:
    later = {"schema_version": "1.7", "job_id": "a", "status": "failed", "energy_j": 5}
    later |= {"failure": {"category": "USER_CODE_ERROR", "code": "a_new_word", "message": "", "hint": "x"}}
    later |= {"limit": "energy_j", "usage": {"energy_j": 5}}

    result = parse_result(later)

    assert result.failure is not None
    assert result.failure.code == "a_new_word"
    assert first_fault(schemas.result_schema(), later) is None


def test_document_without_a_version_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"result\.schema_version: is missing"):
        parse_result({"job_id": "a", "status": "completed"})
    assert first_fault(schemas.result_schema(), {"job_id": "a", "status": "completed"}) is not None


@settings(max_examples=300)
@given(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=40), st.integers(0, 60), st.integers(0, 100)
)
def test_kept_text_is_the_beginning_and_no_character_is_split(text: str, max_bytes: int, more: int) -> None:
    written = text.encode()
    bounded = BoundedText.of(written, max_bytes=max_bytes, total_bytes=len(written) + more)

    assert text.startswith(bounded.text)
    assert len(bounded.text.encode()) <= max_bytes
    assert bounded.total_bytes == len(written) + more
    assert bounded.truncated == (len(bounded.text.encode()) < bounded.total_bytes)
    if bounded.truncated and len(written) > max_bytes:
        assert len(bounded.text.encode()) > max_bytes - 4


@given(st.binary(max_size=60), st.integers(0, 80))
def test_bytes_that_are_no_text_are_replaced(data: bytes, max_bytes: int) -> None:
    bounded = BoundedText.of(data, max_bytes=max_bytes)

    assert data[:max_bytes].decode("utf-8", "replace").startswith(bounded.text)
    assert bounded.truncated == (len(data) > max_bytes)


def test_terminal_sequences_of_a_stream_are_kept() -> None:
    assert BoundedText.of(b"\x1b[31mred\0", max_bytes=99).text == "\x1b[31mred\0"


def test_moments_are_told_in_utc() -> None:
    east = MOMENT.astimezone(timezone(timedelta(hours=5)))

    assert JobTimings(queued_at=east).model_dump(mode="json")["queued_at"] == "2026-01-31T12:00:00Z"
    with pytest.raises(pydantic.ValidationError):
        JobTimings(queued_at=MOMENT.replace(tzinfo=None))


def test_result_served_from_cache_says_so_and_keeps_the_rest() -> None:
    first = JobResult(job_id="a", status=ExecutionStatus.COMPLETED, outputs=5, usage=JobUsage(cpu_s=1.0))

    second = first.served_from_cache("b", MOMENT)

    assert (second.job_id, second.from_cache, second.outputs, second.usage.cpu_s) == ("b", True, 5, 1.0)
    assert second.timings.finished_at == MOMENT
