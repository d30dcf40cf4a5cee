"""An operator caps what jobs may ask for: by a variable, by an option of the worker, for `praxis exec` too."""

from __future__ import annotations

import pytest

from tests.cli.conftest import AtHome, only_line, praxis
from tests.cli.test_control_executions import submitted

CAPS = "memory_bytes=64M, wall_s=30s, processes=16, artifact_count=1"


@pytest.mark.parametrize("command", ["exec", "submit"])
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--memory", "2G"), "payload.limits.memory_bytes: 2.0 GiB is more than the 64.0 MiB"),
        (("--timeout", "1m"), "payload.limits.wall_s: 60 s is more than the 30 s"),
        (("--processes", "17"), "payload.limits.processes: 17 is more than the 16"),
        (("--max-artifacts", "2"), "payload.limits.artifact_count: 2 is more than the 1"),
    ],
)
def test_a_job_that_asks_for_more_is_refused_in_one_line(
    at_home: AtHome, command: str, words: tuple[str, ...], told: str
) -> None:
    at_home.variables["PRAXIS_JOB_LIMITS"] = CAPS
    done = at_home(command, "-c", "1", *words)
    assert done.returncode == 2
    assert only_line(done.stderr).startswith(
        f"praxis: {told} that this executor grants (ask for less, or have the operator raise it)"
    )


def test_what_a_job_leaves_open_is_lowered_to_what_is_granted(at_home: AtHome) -> None:
    code = "open('a', 'w').write('x'); open('b', 'w').write('x')"
    at_home.variables["PRAXIS_JOB_LIMITS"] = CAPS
    found = at_home.json("exec", "-c", code)["result"]
    assert found["limit"] == "artifact_count"


def test_a_worker_looks_again(at_home: AtHome) -> None:
    large = submitted(at_home, "-c", "1", "--memory", "128M")
    small = submitted(at_home, "-c", "2")
    done = at_home("worker", "--drain", "--job-limit", "memory_bytes=64M", "--quiet")
    assert done.returncode == 0, done.stderr
    refused = at_home.json("show", large)["execution"]
    assert refused["failure"], (refused, at_home("logs", large, "--type", "all").stdout, done)
    assert (refused["status"], refused["failure"]["category"]) == ("failed", "VALIDATION_ERROR")
    assert refused["failure"]["message"].startswith(
        "payload.limits.memory_bytes: 128 MiB is more than the 64.0 MiB"
    )
    assert at_home.json("show", small)["execution"]["outputs"] == 2


def test_the_option_takes_precedence_over_the_variable(at_home: AtHome) -> None:
    large = submitted(at_home, "-c", "1", "--memory", "128M")
    at_home.variables["PRAXIS_JOB_LIMITS"] = "memory_bytes=64M"
    assert at_home("worker", "--drain", "--job-limit", "memory_bytes=1G", "-q").returncode == 0
    assert at_home.json("show", large)["execution"]["status"] == "completed"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("memory=64M", "'memory=64M' does not name a limit and a value"),
        ("memory_bytes", "'memory_bytes' does not name a limit and a value"),
        ("wall_s=soon", "wall_s: 'soon' is not a duration; write for example '90s' or a number of seconds"),
        ("files=1.5", "files: '1.5' must be a whole number"),
    ],
)
def test_a_wrong_cap_is_one_line(text: str, told: str) -> None:
    by_variable = praxis("exec", "-c", "1", env={"PRAXIS_JOB_LIMITS": text})
    by_option = praxis("worker", "--drain", "--job-limit", text)
    assert (by_variable.returncode, by_option.returncode) == (2, 2)
    assert only_line(by_variable.stderr).startswith(f"praxis: PRAXIS_JOB_LIMITS: {told}")
    assert only_line(by_option.stderr).startswith(f"praxis: --job-limit: {told}")
