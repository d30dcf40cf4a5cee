"""`praxis run` that is killed (SIGKILL): what it left on the disk is gone after the next run."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import ContractWriter, praxis, start


def left(folder: Path) -> list[Path]:
    """Return the files below a folder, without the home's."""
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("engine", "trust", "size"), [("local", "trusted", 10), ("sandbox", "untrusted", 300_000)]
)
def test_arguments_of_a_killed_run_are_swept(
    write_contract: ContractWriter, tmp_path: Path, engine: str, trust: str, size: int
) -> None:
    place = tmp_path / "temporary"
    place.mkdir()
    variables = {"TMPDIR": str(place), "PRAXIS_HOME": str(tmp_path / "home")}
    arguments = tmp_path / "args.json"
    arguments.write_text(json.dumps({"text": "x" * size}))
    contract = write_contract("echo ready; sleep 600", engine=engine, trust=trust)
    process: Any = start("run", contract, "--args-file", arguments, env=variables)
    assert process.stdout.readline() == b"ready\n", process.stderr.read()
    assert [path.stat().st_mode & 0o077 for path in left(place)] == [0] or engine == "sandbox"
    assert left(place), "else this test shows nothing"
    process.kill()
    process.communicate(timeout=60)
    assert left(place)
    done = praxis("run", write_contract("true"), "--arg", "text=a", env=variables)
    assert done.returncode == 0, done.stderr
    assert left(place) == []
    assert [path for path in os.scandir(place) if path.name != f"praxis-{os.geteuid()}"] == []
