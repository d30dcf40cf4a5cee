"""The whole way, with a real sandbox: hostile work, its harvest, the collection, the store."""

from __future__ import annotations

import asyncio
from pathlib import Path

from praxis_sdk.jobs.artifacts import ArtifactLimits, ArtifactStore, Collection, Reason, collect, upload
from praxis_sdk.sandbox import Launcher, Limits, Policy

HOSTILE = """
set -e
ln -s /etc/passwd link
ln -s / root
mkfifo fifo
echo x > "$(printf 'two\\nlines')"
printf '<svg xmlns="http://www.w3.org/2000/svg"><script/></svg>' > drawing.png
printf 'a,b\\n1,2\\n' > table
for number in $(seq 200); do mkdir d; cd -P d; done
"""


async def harvest(
    launcher: Launcher, script: str, limits: ArtifactLimits, store: ArtifactStore
) -> Collection:
    policy = Policy(limits=Limits(file_size_bytes=1 << 61))
    with await launcher.spawn(policy, ["sh", "-c", script]) as sandbox:
        assert (await sandbox.wait()).ok
        [scratch] = [item for item in sandbox.harvest if item.target == policy.workdir]
        collection = await asyncio.to_thread(collect, scratch.fd, limits)
        artifacts = await upload(collection, scratch.fd, store)
    # The sandbox and its tmpfs are gone; what was stored is not.
    for artifact in artifacts:
        assert len(await store.read(artifact.digest)) == artifact.size_bytes
    return collection


async def test_the_harvest_of_hostile_work_is_collected_safely(tmp_path: Path) -> None:
    store = ArtifactStore.open(tmp_path / "store")
    async with await Launcher.start() as launcher:
        collection = await harvest(launcher, HOSTILE, ArtifactLimits(), store)
        huge = await harvest(launcher, "truncate -s 1P hole", ArtifactLimits(), store)
        honest = await harvest(launcher, "echo words > note", ArtifactLimits(), store)
    assert [(file.name, file.sniffed.format, file.sniffed.active) for file in collection.files] == [
        ("drawing.png", "svg", True),
        ("table", "csv", False),
    ]
    assert {entry.reason for entry in collection.rejected} == {
        Reason.SYMLINK,
        Reason.FIFO,
        Reason.NAME,
        Reason.TOO_DEEP,
    }
    assert huge.exceeded is not None
    assert huge.exceeded.found == 1 << 50
    assert [file.name for file in honest.files] == ["note"]
