"""`praxis run` that is killed (SIGKILL): what it left on the disk goes with its tool, or with the next run."""

from __future__ import annotations

import json
import os
import select
from pathlib import Path
from typing import Any

from tests.cli.conftest import ContractWriter, praxis, start


def left(folder: Path) -> list[Path]:
    """Return the files below a folder, without the home's."""
    return [path for path in folder.rglob("*") if path.is_file()]


def test_arguments_of_a_killed_sandbox_run_are_swept(write_contract: ContractWriter, tmp_path: Path) -> None:
    place = tmp_path / "temporary"
    place.mkdir()
    variables = {"TMPDIR": str(place), "PRAXIS_HOME": str(tmp_path / "home")}
    arguments = tmp_path / "args.json"
    arguments.write_text(json.dumps({"text": "x" * 300_000}))
    contract = write_contract("echo ready; sleep 600", engine="sandbox", trust="untrusted")
    process: Any = start("run", contract, "--args-file", arguments, env=variables)
    assert process.stdout.readline() == b"ready\n", process.stderr.read()
    assert left(place), "else this test shows nothing"
    process.kill()
    process.communicate(timeout=60)
    assert left(place)
    done = praxis("run", write_contract("true"), "--arg", "text=a", env=variables)
    assert done.returncode == 0, done.stderr
    assert left(place) == []
    assert [path for path in os.scandir(place) if path.name != f"praxis-{os.geteuid()}"] == []


def test_arguments_of_a_killed_local_run_go_with_its_tool(
    write_contract: ContractWriter, tmp_path: Path
) -> None:
    place = tmp_path / "temporary"
    place.mkdir()
    variables = {"TMPDIR": str(place), "PRAXIS_HOME": str(tmp_path / "home")}
    contract = write_contract("echo $PPID; sleep 600")
    process: Any = start("run", contract, "--arg", "text=correct-horse-battery", env=variables)
    parent = os.pidfd_open(int(process.stdout.readline()))  # it ends the tool, and itself last
    (arguments,) = left(place)
    assert arguments.stat().st_mode & 0o077 == 0
    process.kill()
    process.communicate(timeout=60)
    assert select.select([parent], [], [], 60)[0]
    os.close(parent)
    assert left(place) == []
