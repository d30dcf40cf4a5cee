"""Jobs from payload to result, in real sandboxes."""

from __future__ import annotations

import asyncio
import ipaddress
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import structlog

from praxis_sdk.jobs.artifacts import ArtifactStore
from praxis_sdk.jobs.egress import EgressPolicy
from praxis_sdk.jobs.environments.store import EnvironmentStore
from praxis_sdk.jobs.executor.executor import JobExecutor
from praxis_sdk.jobs.executor.result import JobResult
from praxis_sdk.jobs.executor.results import ResultStore
from praxis_sdk.states import ExecutionStatus, FailureCategory
from tests.jobs.conftest import payload

Run = Callable[..., Awaitable[JobResult]]


# -- values


@pytest.mark.parametrize(
    ("code", "value"),
    [
        ("1 + 1; len(parameters)", 2),
        ("x = 3\n{'a': [x, None, True, 'ü']}", {"a": [3, None, True, "ü"]}),
        ("def main(): return 7", 7),
        ("def main(a=10, b=2): return a + b", 12),
        ("def main(**kw): return sorted(kw)", ["a", "c"]),
        ("parameters['a']", 10),
        ("x = 5", None),
        ("{1: {2, 1}, (lambda: 0).__name__: b'x'}", {"1": [1, 2], "<lambda>": "x"}),
        ("float('nan')", None),
        ("import sys; sys.exit(0)", None),
    ],
)
async def test_the_value_is_the_output(run: Run, code: str, value: object) -> None:
    asked = "parameters" in code or "def main(**" in code
    result = await run(code, parameters={"a": 10, "c": 0} if asked else {})
    assert result.succeeded, result.failure
    assert result.outputs == value


async def test_streams_are_kept_and_heard_live(executor: JobExecutor) -> None:
    heard: list[tuple[str, bytes]] = []
    job = payload(code="import sys; print('größe'); print('bad', file=sys.stderr)")
    result = await executor.run(job, on_output=lambda *piece: heard.append(piece), on_progress=lambda _: None)
    assert (result.stdout.text, result.stderr.text) == ("größe\n", "bad\n")
    assert result.usage.stdout_bytes == len("größe\n".encode())
    assert {stream for stream, _ in heard} == {"stdout", "stderr"}


async def test_files_and_inputs_are_there(run: Run, executor: JobExecutor) -> None:
    stored = await executor._artifacts.put(b"stored bytes")
    result = await run(
        runtime="python",
        files={
            "run.py": {"text": "import helper, json\nhelper.read(inputs)"},
            "helper.py": {
                "text": "def read(inputs):\n"
                "    return {n: v if n == 'j' else open(v).read() for n, v in sorted(inputs.items())}"
            },
        },
        entrypoint="run.py",
        inputs={"j": {"value": {"k": 1}}, "t": {"text": "text"}, "d": {"digest": stored.digest}},
    )
    assert result.outputs == {"d": "stored bytes", "j": {"k": 1}, "t": "text"}
    assert result.artifacts == (), "what came in is no output"


async def test_what_is_left_becomes_artifacts(run: Run, executor: JobExecutor) -> None:
    code = (
        "import os\n"
        "open('table.csv', 'w').write('a,b\\n1,2\\n')\n"
        "os.mkdir('deep')\n"
        "open('deep/x.json', 'w').write('{}')"
    )
    result = await run(code)
    assert [(one.name, one.format) for one in result.artifacts] == [
        ("deep/x.json", "json"),
        ("table.csv", "csv"),
    ]
    assert await executor._artifacts.read(result.artifacts[1].digest) == b"a,b\n1,2\n"


async def test_commands_run_with_parameters_and_a_script_of_their_own(run: Run) -> None:
    result = await run(
        runtime="command",
        command=["./tool.sh", "a b"],
        files={"tool.sh": {"text": '#!/bin/sh\necho "$1"; cat parameters.json > seen.json; exit 3\n'}},
        parameters={"p": 1},
    )
    assert result.stdout.text == "a b\n"
    assert result.exit_code == 3
    assert result.failure is not None
    assert result.failure.code == "exit_nonzero"


# -- failures


async def test_an_exception_is_told_with_its_place_and_nothing_of_the_host(run: Run, tmp_path: Path) -> None:
    result = await run("def f():\n    raise ValueError('broken')\nf()")
    assert result.status is ExecutionStatus.FAILED
    assert result.failure is not None
    assert result.failure.category is FailureCategory.USER_CODE_ERROR
    assert result.failure.code == "exception"
    assert result.failure.message == "ValueError: broken"
    assert "line 2, in f" in (result.failure.traceback or "")
    assert "harness" not in (result.failure.traceback or "")
    assert result.exit_code == 1


@pytest.mark.parametrize(
    ("code", "limits", "limit"),
    [
        ("while True: pass", {"wall_s": 0.5}, "wall_s"),
        ("while True: pass", {"cpu_s": 0.3, "wall_s": 20}, "cpu_s"),
        ("x = bytearray(1 << 30)", {"memory_bytes": "64M"}, "memory_bytes"),
        ("while True: print('x' * 1000)", {"stdout_bytes": "4K"}, "stdout_bytes"),
        (
            "def main(): return 'x' * 100_000_000",
            {"outputs_bytes": "4K", "memory_bytes": "2G"},
            "outputs_bytes",
        ),
        ("def main(): return 'x' * 5000", {"outputs_bytes": "4K"}, "outputs_bytes"),
        ("[open(f'f{i}', 'w').close() for i in range(9)]", {"artifact_count": 8}, "artifact_count"),
        ("open('f', 'w').write('x' * 5000)", {"artifact_total_bytes": 4096}, "artifact_total_bytes"),
    ],
)
async def test_limits_end_a_job_and_are_named(
    run: Run, code: str, limits: dict[str, object], limit: str
) -> None:
    result = await run(code, limits=limits)
    assert result.failure is not None, result
    assert result.failure.category is FailureCategory.RESOURCE_LIMIT
    assert result.limit == limit
    assert result.status is (ExecutionStatus.TIMED_OUT if limit == "wall_s" else ExecutionStatus.FAILED)
    assert result.artifacts == ()
    assert (await run("'next'")).outputs == "next"


@pytest.mark.parametrize(
    ("fields", "category", "code"),
    [
        ({"runtime": "cobol", "code": ""}, FailureCategory.DEPENDENCY_ERROR, "unknown_runtime"),
        ({"code": "1", "env": "nowhere"}, FailureCategory.DEPENDENCY_ERROR, "environment_missing"),
        (
            {"code": "1", "inputs": {"a": {"digest": "sha256:" + "0" * 64}}},
            FailureCategory.DEPENDENCY_ERROR,
            "input_missing",
        ),
        (
            {"runtime": "latex", "code": "x", "parameters": {"format": "bmp"}},
            FailureCategory.VALIDATION_ERROR,
            "invalid_payload",
        ),
    ],
)
async def test_what_cannot_begin_says_why(
    run: Run, fields: dict[str, object], category: FailureCategory, code: str
) -> None:
    result = await run(**fields)
    assert result.failure is not None
    assert (result.failure.category, result.failure.code) == (category, code)


async def test_missing_tex_is_a_missing_dependency(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("praxis_sdk.jobs.executor.executor.shutil.which", lambda *_, **__: None)
    result = await run("x", runtime="latex")
    assert result.failure is not None
    assert (result.failure.category, result.failure.code) == (
        FailureCategory.DEPENDENCY_ERROR,
        "program_missing",
    )


async def test_cancelling_a_job_destroys_its_sandbox(executor: JobExecutor) -> None:
    started = asyncio.Event()
    job = payload(code="import time; print('on', flush=True); time.sleep(60)")
    running = asyncio.ensure_future(
        executor.run(job, on_output=lambda *_: started.set(), on_progress=lambda _: None)
    )
    await asyncio.wait_for(started.wait(), 30)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert (await executor.run(payload(code="'next'"), on_progress=lambda _: None)).outputs == "next"


# -- LaTeX


@pytest.mark.parametrize(("kind", "magic"), [("svg", b"<?xml"), ("pdf", b"%PDF"), ("png", b"\x89PNG")])
async def test_formulas_become_pictures(run: Run, executor: JobExecutor, kind: str, magic: bytes) -> None:
    result = await run(
        r"\int_0^\infty e^{-x^2}\,dx = \frac{\sqrt{\pi}}{2}", runtime="latex", parameters={"format": kind}
    )
    assert result.succeeded, result.failure
    assert [one.name for one in result.artifacts] == [f"output.{kind}"]
    assert (await executor._artifacts.read(result.artifacts[0].digest)).startswith(magic)


@pytest.mark.parametrize(
    "source",
    [
        r"\undefinedmacro",
        r"\input{/etc/passwd}",
        r"\immediate\write18{touch owned}\input{owned}",
        r"\newwrite\f\immediate\openout\f=/tmp/owned \immediate\write\f{x}",
    ],
)
async def test_bad_tex_is_the_authors_error(run: Run, source: str) -> None:
    result = await run(source, runtime="latex")
    assert result.failure is not None
    assert result.failure.category is FailureCategory.USER_CODE_ERROR


async def test_endless_tex_is_ended(run: Run) -> None:
    result = await run(r"\loop\iftrue\repeat", runtime="latex", limits={"wall_s": 3})
    assert result.status is ExecutionStatus.TIMED_OUT


# -- the same job again


async def test_an_equal_job_is_answered_at_once(run: Run) -> None:
    code = "import os; os.urandom(8).hex()"
    first = await run(code)
    again = await run(code)
    fresh = await run(code, fresh=True)
    assert again.from_cache
    assert again.outputs == first.outputs
    assert again.dedupe_key == first.dedupe_key == fresh.dedupe_key
    assert not fresh.from_cache
    assert fresh.outputs != first.outputs


async def test_a_failed_job_is_no_answer(run: Run) -> None:
    assert (await run("1/0")).failure is not None
    assert not (await run("1/0")).from_cache


async def test_an_answer_whose_artifact_is_gone_is_none(
    environments: EnvironmentStore, tmp_path: Path
) -> None:
    executor = JobExecutor(ArtifactStore.open(tmp_path / "artifacts"), environments, ResultStore(tmp_path))
    try:
        job = {"code": "open('x.txt', 'w').write('content')"}
        first = await executor.run(payload(**job), on_progress=lambda _: None)
        key = first.artifacts[0].digest.removeprefix("sha256:")
        for path in (tmp_path / "artifacts").rglob(f"*{key[4:]}*"):
            path.unlink()
        again = await executor.run(payload(**job), on_progress=lambda _: None)
        assert not again.from_cache
        assert await executor._artifacts.read(again.artifacts[0].digest) == b"content"
    finally:
        await executor.close()


async def test_results_survive_the_executor(environments: EnvironmentStore, tmp_path: Path) -> None:
    executor = JobExecutor(ArtifactStore.open(tmp_path / "artifacts"), environments, ResultStore(tmp_path))
    job = payload(code="6 * 7", provenance={"document_revision": "r9"})
    result = await executor.run(job, on_progress=lambda _: None)
    await executor.close()
    record = ResultStore(tmp_path).get(job.job_id)
    assert record.result == result
    assert record.payload == job


async def test_the_same_job_leaves_the_same_bytes(run: Run) -> None:
    code = (
        "import random, json\n"
        "names = {'b', 'a', 'c', 'e', 'd'}\n"
        "open('order.json', 'w').write(json.dumps([list(names), hash('x'), random.random()]))"
    )
    digests = {(await run(code, fresh=True)).artifacts[0].digest for _ in range(8)}
    assert len(digests) == 1


async def test_many_jobs_at_once_do_not_meet(run: Run) -> None:
    code = "import os; open('/tmp/mine', 'x').write('x'); [len(os.listdir('/tmp')), parameters['n']]"
    results = await asyncio.gather(*(run(code, parameters={"n": n}) for n in range(20)))
    assert [result.outputs for result in results] == [[results[0].outputs[0], n] for n in range(20)]  # type: ignore[index]


@pytest.mark.parametrize("threads", [0, 1, 7])
async def test_the_most_processes_at_once_are_counted(run: Run, threads: int) -> None:
    code = f"""
import threading
barrier = threading.Barrier({threads} + 1)
crowd = [threading.Thread(target=barrier.wait) for _ in range({threads})]
for one in crowd: one.start()
barrier.wait()
"""
    result = await run(code)
    assert result.succeeded, result.failure
    peak = result.usage.peak_processes
    if any(Path("/sys/fs/cgroup").glob("**/pids.peak")):
        assert peak == threads + 1
    else:  # an older kernel: the launcher looks now and then, if there is a cgroup to look at
        assert peak is None or 1 <= peak <= threads + 1


async def test_a_job_that_is_asked_to_end_may_say_goodbye(executor: JobExecutor) -> None:
    code = """
import os, signal, sys
def goodbye(*_):
    os.write(1, b"goodbye\\n")  # print could be interrupted by itself
    sys.exit(5)
signal.signal(signal.SIGTERM, goodbye)
os.write(1, b"ready\\n")
while True: signal.pause()
"""
    terminating = asyncio.Event()

    def hear(stream: str, data: bytes) -> None:
        if b"ready" in data:
            terminating.set()

    result = await executor.execute(payload(code=code), on_output=hear, terminating=terminating)
    assert (result.exit_code, result.stdout.text) == (5, "ready\ngoodbye\n")
    assert result.timings.run_s is not None
    assert result.timings.run_s < 30


async def test_a_job_that_nobody_asks_to_end_is_not_disturbed(executor: JobExecutor) -> None:
    result = await executor.execute(payload(code="6 * 7"), terminating=asyncio.Event())
    assert result.outputs == 42


async def test_logs_tell_what_happened_without_the_code(run: Run) -> None:
    with structlog.testing.capture_logs() as logs:
        result = await run("'secret-in-code'; 1")
    mine = [line for line in logs if line.get("job_id") == result.job_id]
    assert [line["status"] for line in mine] == ["running", "completed"]
    assert mine[-1]["env_version"] == result.env_version
    assert mine[-1]["cpu_s"] > 0
    assert "secret-in-code" not in json.dumps(logs, default=str)


# -- network grants

FETCH = """
import urllib.error, urllib.request
def fetch(url):
    try:
        return urllib.request.urlopen(url, timeout=5).read().decode()
    except (OSError, urllib.error.URLError) as error:
        return type(error).__name__
[fetch(url) for url in parameters["urls"]]
"""


async def test_a_grant_reaches_what_it_names_and_nothing_else(
    environments: EnvironmentStore, tmp_path: Path
) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    policy = EgressPolicy(permitted_networks=(ipaddress.ip_network("127.0.0.1/32"),))
    # A grant names public hosts only; the operator's resolver may lead one of them to a mirror.
    executor = JobExecutor(
        ArtifactStore.open(tmp_path / "artifacts"),
        environments,
        ResultStore(tmp_path),
        egress=policy,
        resolve=loopback,
    )
    urls = [f"http://data.example.org:{port}/x", "http://other.example.org/", f"http://127.0.0.1:{port}/"]
    try:
        granted = await executor.run(
            payload(code=FETCH, parameters={"urls": urls}, network=[f"data.example.org:{port}"])
        )
        without = await executor.run(payload(code=FETCH, parameters={"urls": urls[:1]}))
    finally:
        await executor.close()
        server.close()
    assert granted.outputs == ["hello", "HTTPError", "HTTPError"]
    assert [(use.host, use.allowed) for use in granted.network] == [
        ("data.example.org", True), ("other.example.org", False), ("127.0.0.1", False),
    ]  # fmt: skip
    assert without.outputs == ["URLError"]
    assert without.network == ()


async def loopback(host: str) -> list[str]:
    """Resolve every name to this machine."""
    return ["127.0.0.1"]
