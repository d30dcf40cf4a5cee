"""The example of a kind of one's own does what its page says."""

import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "own_kind.py"


def test_a_kind_of_ones_own_greets(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, EXAMPLE, tmp_path / "praxis.db"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    greetings = [line for line in done.stdout.splitlines() if line.startswith("completed")]
    assert greetings == [f"completed Hello, {whom}!" for whom in ("Ada", "Grace", "Barbara")]
    assert "about to speak" in done.stdout
    assert done.stdout.endswith("audit: intact\n")
