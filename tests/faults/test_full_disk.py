"""A disk that is full under load: submitters are told, nothing that runs is lost, and it goes on when there is room."""

import json
import subprocess
import sys
from pathlib import Path

from tests.faults.full_disk import ACCEPTED, REFUSALS, RUNNING
from tests.faults.processes import ROOT


def test_a_full_disk_refuses_work_and_loses_none(tmp_path: Path) -> None:
    folder = tmp_path / "disk"
    folder.mkdir()
    # The file system is in a namespace of its own: whatever happens, nothing stays mounted.
    mount = f'mount -t tmpfs -o size=16m none "{folder}" && exec "$@"'
    alone = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, "sh"]
    program = [sys.executable, "-m", "tests.faults.full_disk", str(folder)]
    ran = subprocess.run(
        [*alone, *program], cwd=ROOT, text=True, capture_output=True, check=False, timeout=100
    )
    assert ran.returncode == 0, ran.stderr
    counted = json.loads(ran.stdout.splitlines()[-1])
    assert counted["refused"] >= 2 * REFUSALS
    assert counted["completed"] >= RUNNING + 2 * ACCEPTED
