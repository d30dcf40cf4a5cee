"""Ordinary scripts do as jobs what they do under a plain interpreter: streams, exit code and files, byte for byte."""

from __future__ import annotations

import asyncio
import functools
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from praxis_sdk.jobs.artifacts import ArtifactStore
from praxis_sdk.jobs.environments.store import Environment, EnvironmentStore
from praxis_sdk.jobs.executor.executor import JobExecutor
from praxis_sdk.jobs.executor.results import ResultStore
from tests.jobs.conftest import payload

SCRIPTS = Path(__file__).parent / "scripts"
NAMES = sorted(path.stem for path in SCRIPTS.glob("*.py"))
AT_ONCE = 4
# Made anew each time by what the script uses: they are there in both, and differ in both.
# How deep a recursion gets is counted from the bottom of the stack, where a job has a few frames more.
_UNEQUAL = re.compile(rb"0x[0-9a-f]+|Thread-\d+|line repeated \d+ more")


@dataclass(frozen=True)
class Seen:
    """What a script did, as far as others can see it."""

    stdout: bytes
    stderr: bytes
    exit_code: int | None
    files: dict[str, bytes]


def plainly(name: str, environment: Environment) -> Seen:
    """Run a script as `python job.py` does, in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder, "job.py")
        script.write_bytes((SCRIPTS / f"{name}.py").read_bytes())
        done = subprocess.run(
            [environment.python, "-B", "job.py"],
            cwd=folder,
            env={"LANG": "C.UTF-8", **environment.variables},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=60,
            check=False,
        )
        script.unlink()
        files = {
            str(path.relative_to(folder)): path.read_bytes()
            for path in Path(folder).rglob("*")
            if path.is_file()
        }
        place = re.compile(re.escape(folder.encode()) + rb"/?")
    return Seen(place.sub(b"", done.stdout), place.sub(b"", done.stderr), done.returncode, files)


async def as_job(name: str, executor: JobExecutor) -> Seen:
    """Run a script as a job."""
    code = (SCRIPTS / f"{name}.py").read_text(encoding="utf-8")
    result = await executor.run(payload(code=code, fresh=True))
    if result.exit_code != 0:  # whose files are not kept
        files = {}
    else:
        files = {one.name: await executor._artifacts.read(one.digest) for one in result.artifacts}
    out, err = (text.text.encode("utf-8", "surrogatepass") for text in (result.stdout, result.stderr))
    return Seen(out.replace(b"/workspace/", b""), err.replace(b"/workspace/", b""), result.exit_code, files)


@pytest.fixture(scope="module")
def both(
    environments: EnvironmentStore, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Seen, Seen]]:
    """Run each script both ways: one executor for all of them, a few at a time."""
    home = tmp_path_factory.mktemp("scripts")
    environment = environments.get("base")

    async def run() -> dict[str, tuple[Seen, Seen]]:
        executor = JobExecutor(ArtifactStore.open(home / "artifacts"), environments, ResultStore(home))
        places = asyncio.Semaphore(AT_ONCE)

        async def one(name: str) -> tuple[str, tuple[Seen, Seen]]:
            async with places:
                plain = await asyncio.to_thread(functools.partial(plainly, name, environment))
                return name, (plain, await as_job(name, executor))

        try:
            return dict(await asyncio.gather(*map(one, NAMES)))
        finally:
            await executor.close()

    return asyncio.run(run())


@pytest.mark.timeout(300)
@pytest.mark.xdist_group("scripts")
@pytest.mark.parametrize("name", NAMES)
def test_a_script_does_the_same_as_a_job(both: dict[str, tuple[Seen, Seen]], name: str) -> None:
    plain, job = both[name]
    assert _UNEQUAL.sub(b"*", job.stdout) == _UNEQUAL.sub(
        b"*", plain.stdout.decode("utf-8", "replace").encode()
    )
    assert _UNEQUAL.sub(b"*", job.stderr) == _UNEQUAL.sub(b"*", plain.stderr)
    assert job.exit_code == plain.exit_code % 256 if plain.exit_code is not None else None
    if plain.exit_code == 0:
        assert {name: len(content) for name, content in job.files.items()} == {
            name: len(content) for name, content in plain.files.items()
        }
        assert job.files == plain.files
