"""Which workers of this machine are alive, by the locks that the kernel holds for them."""

import os
import subprocess
import sys
from pathlib import Path

from praxis_sdk.control.workers import liveness
from praxis_sdk.control.workers.liveness import Liveness
from praxis_sdk.model import Worker
from praxis_sdk.resources import ZERO

HOLD = "import sys; from pathlib import Path; from praxis_sdk.control.workers.liveness import Liveness; \
Liveness(Path(sys.argv[1])).hold(sys.argv[2]); print('held', flush=True); sys.stdin.read()"


def workers(*names: str) -> list[Worker]:
    return [Worker(name, ZERO, 1, frozenset()) for name in names]


async def test_a_worker_is_dead_when_its_process_is(tmp_path: Path) -> None:
    process = subprocess.Popen(  # noqa: ASYNC220 - nothing else runs here
        [sys.executable, "-c", HOLD, tmp_path, "theirs"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        here = Liveness(tmp_path)
        here.hold("ours")
        known = workers("ours", "theirs", "of another machine")
        assert await here.dead(known) == []
    finally:
        process.kill()
        process.communicate()
    assert [one.id for one in await here.dead(known)] == ["theirs"]
    assert [one.id for one in await Liveness(tmp_path).dead(known)] == ["theirs"], "until it is on record"
    here.release("ours")
    here.release("ours")
    assert await Liveness(tmp_path).dead(workers("ours")) == []


async def test_locks_of_the_long_dead_are_swept(tmp_path: Path) -> None:
    old = tmp_path / "old.lock"
    old.touch()
    os.utime(old, (0, 0))
    assert liveness.SWEEP_AFTER_S > 0
    Liveness(tmp_path).hold("new")
    assert not old.exists()
