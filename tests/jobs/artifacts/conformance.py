"""What every place for artifacts promises; a test module per backend derives from it.

A deriving class supplies the fixture `place`.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from praxis_sdk.errors import ValidationError
from praxis_sdk.jobs.artifacts import (
    ArtifactChanged,
    ArtifactCorrupt,
    ArtifactLimits,
    ArtifactMissing,
    ArtifactStore,
    collect,
    sweep,
    upload,
)
from praxis_sdk.jobs.artifacts.body import Body
from praxis_sdk.jobs.artifacts.digest import key_of
from praxis_sdk.jobs.artifacts.store import RENEW_AFTER_S
from tests.jobs.artifacts.conftest import Place

MIB = 1 << 20
DAY_S = 24 * 3600.0
GRACE_S = 2 * 3600.0
NOBODY = "sha256:" + "0" * 64

properties = settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
)


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


class Referred:
    """References that a test decides on."""

    def __init__(self, digests: Iterable[str] = ()) -> None:
        self.known = list(digests)

    async def digests(self) -> AsyncIterator[str]:
        for digest in self.known:
            yield digest


class Growth:
    """How much more memory this process held at most than at the beginning."""

    def __init__(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins anew
        self.before = self._read("VmRSS")

    def peak_bytes(self) -> int:
        return self._read("VmHWM") - self.before

    @staticmethod
    def _read(name: str) -> int:
        match = re.search(rf"^{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
        assert match
        return int(match[1]) * 1024


class StoreConformance:
    """The shared promises."""

    @pytest.fixture
    def store(self, place: Place) -> ArtifactStore:
        return place.open()

    async def test_what_is_put_is_read_by_its_digest(self, store: ArtifactStore) -> None:
        stored = await store.put(b"hello")
        assert (stored.digest, stored.size_bytes, stored.created) == (digest_of(b"hello"), 5, True)
        assert stored.uri == store.uri(stored.digest)
        assert stored.uri.endswith(key_of(stored.digest))
        assert await store.read(stored.digest) == b"hello"

    @properties
    @given(data=st.binary(max_size=5000))
    async def test_every_content_comes_back_as_it_went(self, place: Place, data: bytes) -> None:
        """Feature: artifacts, round trip."""
        store = place.open()
        stored = await store.put(data)
        assert stored.digest == digest_of(data)
        assert await store.read(stored.digest) == data
        assert [chunk async for chunk in store.stream(stored.digest)] == ([data] if data else [])

    async def test_an_empty_artifact_is_one(self, store: ArtifactStore) -> None:
        stored = await store.put(b"")
        assert (stored.size_bytes, await store.read(stored.digest)) == (0, b"")

    async def test_a_file_is_read_from_its_beginning(self, store: ArtifactStore, tmp_path: Path) -> None:
        path = tmp_path / "file"
        path.write_bytes(b"from the beginning")
        with path.open("rb") as file:
            file.seek(5)
            stored = await store.put(file.fileno())
            assert file.tell() == 5
        assert await store.read(stored.digest) == b"from the beginning"

    async def test_a_stream_is_stored(self, store: ArtifactStore) -> None:
        async def stream() -> AsyncIterator[bytes]:
            for piece in (b"one ", b"", b"two"):
                yield piece

        stored = await store.put(stream())
        assert await store.read(stored.digest) == b"one two"

    async def test_the_same_bytes_are_stored_once(self, place: Place, store: ArtifactStore) -> None:
        first = await store.put(b"same")
        second = await store.put(b"same")
        assert (first.created, second.created) == (True, False)
        assert place.keys() == [key_of(first.digest)]

    async def test_an_artifact_that_is_there_is_not_read_again(
        self, store: ArtifactStore, tmp_path: Path
    ) -> None:
        stored = await store.put(b"known")
        other = tmp_path / "other"
        other.write_bytes(b"KNOWN")  # as long, so nothing but reading tells them apart
        with other.open("rb") as file:
            again = await store.put(file.fileno(), expected=stored.digest)
        assert not again.created
        assert await store.read(stored.digest) == b"known"

    async def test_bytes_that_are_not_the_expected_ones_are_not_stored(
        self, place: Place, store: ArtifactStore, tmp_path: Path
    ) -> None:
        path = tmp_path / "file"
        path.write_bytes(b"x" * 100)
        with path.open("rb") as file, pytest.raises(ArtifactChanged):
            await store.put(file.fileno(), expected=digest_of(b"y" * 100))
        with pytest.raises(ArtifactChanged):
            await store.put(b"x", expected=digest_of(b"y"))
        assert place.keys() == []

    async def test_a_large_source_that_changes_meanwhile_is_not_stored(
        self, place: Place, store: ArtifactStore, tmp_path: Path
    ) -> None:
        path = tmp_path / "file"
        path.write_bytes(bytes(20 * MIB))
        digest = digest_of(bytes(20 * MIB))
        with path.open("r+b") as file:
            os.pwrite(file.fileno(), b"1", 20 * MIB - 1)
            with pytest.raises(ArtifactChanged):
                await store.put(file.fileno(), expected=digest)
            os.pwrite(file.fileno(), b"\0\0", 20 * MIB - 1)  # right, but for one more at the end
            with pytest.raises(ArtifactChanged):
                await store.put(file.fileno(), expected=digest)
            os.ftruncate(file.fileno(), 20 * MIB - 1)
            with pytest.raises(ArtifactChanged):
                await store.put(file.fileno(), expected=digest)
        assert place.keys() == []
        assert await store.stat(digest) is None

    async def test_what_is_no_regular_file_is_refused(self, store: ArtifactStore) -> None:
        read_fd, write_fd = os.pipe()
        try:
            with pytest.raises(ValidationError, match="regular file"):
                await store.put(read_fd)
        finally:
            os.close(read_fd)
            os.close(write_fd)

    async def test_a_longer_artifact_than_allowed_is_refused(
        self, place: Place, store: ArtifactStore
    ) -> None:
        async def endless() -> AsyncIterator[bytes]:
            while True:
                yield bytes(1000)

        with pytest.raises(ValidationError, match="longer than 4096 bytes"):
            await store.put(endless(), max_bytes=4096)
        with pytest.raises(ValidationError, match="longer than 2 bytes"):
            await store.put(b"123", max_bytes=2)
        assert place.keys() == []

    async def test_a_missing_artifact_is_told(self, store: ArtifactStore) -> None:
        assert await store.stat(NOBODY) is None
        for call in (
            store.read(NOBODY),
            store.read_range(NOBODY, 0, 1),
            store.verify(NOBODY),
            store.renew(NOBODY),
        ):
            with pytest.raises(ArtifactMissing):
                await call

    @pytest.mark.parametrize(
        "text", ["", "sha256:", "sha256:" + "A" * 64, "md5:" + "0" * 64, "../../etc/passwd", NOBODY + "\n"]
    )
    async def test_what_is_no_digest_is_refused(self, store: ArtifactStore, text: str) -> None:
        with pytest.raises(ValidationError, match="is not a digest"):
            await store.read(text)

    @properties
    @given(data=st.data())
    async def test_any_flipped_bit_is_detected(self, place: Place, data: st.DataObject) -> None:
        """Feature: artifacts, a stored byte that changes fails every way of reading."""
        content = data.draw(st.binary(min_size=1, max_size=2000))
        store = place.open()
        stored = await store.put(content)
        damaged = bytearray(content)
        damaged[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        place.overwrite(stored.digest, bytes(damaged))
        try:
            with pytest.raises(ArtifactCorrupt):
                await store.read(stored.digest)
            with pytest.raises(ArtifactCorrupt):
                await store.read_range(stored.digest, 0, 1)
        finally:
            place.overwrite(stored.digest, content)

    async def test_a_flip_in_a_large_artifact_fails_before_its_end(
        self, place: Place, store: ArtifactStore
    ) -> None:
        content = os.urandom(3 * MIB)
        stored = await store.put(content)
        place.overwrite(stored.digest, content[:MIB] + bytes([content[MIB] ^ 1]) + content[MIB + 1 :])
        received = bytearray()

        async def receive() -> None:
            async for chunk in store.stream(stored.digest):
                received.extend(chunk)

        with pytest.raises(ArtifactCorrupt):
            await receive()
        assert len(received) < len(content)

    @pytest.mark.parametrize("kept_bytes", [0, 1, 999])
    async def test_a_truncated_artifact_is_detected(
        self, place: Place, store: ArtifactStore, kept_bytes: int
    ) -> None:
        content = bytes(range(250)) * 4
        stored = await store.put(content)
        place.overwrite(stored.digest, content[:kept_bytes])
        with pytest.raises(ArtifactCorrupt):
            await store.read(stored.digest)
        with pytest.raises(ArtifactCorrupt, match=f"has {kept_bytes} bytes and should have 1000"):
            await store.put(content)

    async def test_a_damaged_artifact_leaves_an_empty_copy(
        self, place: Place, store: ArtifactStore, tmp_path: Path
    ) -> None:
        content = os.urandom(3 * MIB)
        stored = await store.put(content)
        with (tmp_path / "copy").open("wb") as copy:
            assert await store.copy_to(stored.digest, copy.fileno()) == len(content)
        assert (tmp_path / "copy").read_bytes() == content
        place.overwrite(stored.digest, content[:-1] + b"?")
        with (tmp_path / "bad").open("wb") as copy, pytest.raises(ArtifactCorrupt):
            await store.copy_to(stored.digest, copy.fileno())
        assert (tmp_path / "bad").read_bytes() == b""

    async def test_the_same_artifact_is_put_by_many_at_once(self, place: Place) -> None:
        content = os.urandom(100_000)
        stores = [place.open() for _ in range(12)]
        outcomes = await asyncio.gather(*(store.put(content) for store in stores))
        assert {outcome.digest for outcome in outcomes} == {digest_of(content)}
        assert sum(outcome.created for outcome in outcomes) == 1
        assert await stores[0].read(digest_of(content)) == content
        assert place.keys() == [key_of(digest_of(content))]

    async def test_a_large_artifact_is_put_by_many_at_once(self, place: Place) -> None:
        content = os.urandom(9 * MIB)
        await asyncio.gather(*(place.open().put(content) for _ in range(3)))
        assert await place.open().verify(digest_of(content)) == len(content)

    @properties
    @given(start=st.integers(0, 3000), size_bytes=st.integers(0, 3000))
    async def test_a_range_is_that_part(self, place: Place, start: int, size_bytes: int) -> None:
        """Feature: artifacts, ranges."""
        content = bytes(range(256)) * 8
        store = place.open()
        await store.put(content)
        part = await store.read_range(digest_of(content), start, size_bytes)
        assert part == content[start : start + size_bytes]

    async def test_64_mib_pass_through_little_memory(self, store: ArtifactStore, tmp_path: Path) -> None:
        path = tmp_path / "large"
        block = os.urandom(MIB)
        with path.open("wb") as file:
            for number in range(64):
                file.write(number.to_bytes(4, "big") + block[4:])
        await store.put(os.urandom(9 * MIB))  # what the libraries keep for themselves
        growth = Growth()
        with path.open("rb") as file:
            stored = await store.put(file.fileno())
            assert await store.verify(stored.digest) == 64 * MIB
            with (tmp_path / "copy").open("wb") as copy:
                await store.copy_to(stored.digest, copy.fileno())
            assert await store.read_range(stored.digest, 63 * MIB, 4) == b"\0\0\0\x3f"
        assert growth.peak_bytes() < 48 * MIB

    async def test_collected_files_become_artifacts(self, store: ArtifactStore, tmp_path: Path) -> None:
        (tmp_path / "out" / "deep").mkdir(parents=True)
        (tmp_path / "out" / "table.txt").write_text("a,b\n1,2\n")
        (tmp_path / "out" / "deep" / "note").write_text("text")
        source_fd = os.open(tmp_path / "out", os.O_RDONLY)
        try:
            collection = collect(source_fd, ArtifactLimits())
            artifacts = await upload(collection, source_fd, store)
        finally:
            os.close(source_fd)
        assert [(a.name, a.format, a.kind, a.size_bytes) for a in artifacts] == [
            ("deep/note", "txt", "export", 4),
            ("table.txt", "csv", "dataset", 8),
        ]
        assert await store.read(artifacts[1].digest) == b"a,b\n1,2\n"
        assert str(tmp_path) not in "".join(artifact.model_dump_json() for artifact in artifacts)

    async def test_garbage_is_removed_and_nothing_else(self, place: Place, store: ArtifactStore) -> None:
        kept, dropped = await store.put(b"kept"), await store.put(b"dropped")
        place.advance(DAY_S)
        young = await store.put(b"young")
        would = await sweep(store, Referred([kept.digest]), grace_s=GRACE_S, dry_run=True)
        assert len(place.keys()) == 3
        done = await sweep(store, Referred([kept.digest, kept.digest, NOBODY]), grace_s=GRACE_S)
        assert (
            (done.removed, done.removed_bytes)
            == (would.removed, would.removed_bytes)
            == ((dropped.digest,), 7)
        )
        assert (done.kept_young, done.kept_referenced, done.dry_run, would.dry_run) == (1, 1, False, True)
        assert place.keys() == sorted([key_of(kept.digest), key_of(young.digest)])

    @properties
    @given(
        objects=st.dictionaries(
            st.binary(min_size=1, max_size=8),
            st.tuples(st.sampled_from(["old", "renewed", "young"]), st.booleans()),
            max_size=4,
        )
    )
    async def test_only_old_unreferenced_artifacts_go(
        self, place: Place, objects: dict[bytes, tuple[str, bool]]
    ) -> None:
        """Feature: artifacts, garbage collection."""
        store = place.open()
        for content, (age, _) in objects.items():
            if age != "young":
                await store.put(content)
        place.advance(DAY_S)
        for content, (age, _) in objects.items():
            if age != "old":
                await store.put(content)
        referenced = Referred(digest_of(content) for content, (_, wanted) in objects.items() if wanted)
        before = len(place.keys())
        done = await sweep(store, referenced, grace_s=GRACE_S)
        gone = {
            digest_of(content) for content, (age, wanted) in objects.items() if age == "old" and not wanted
        }
        assert gone <= set(done.removed)
        assert len(place.keys()) == before - len(done.removed)
        for content in objects:
            assert (await store.stat(digest_of(content)) is None) == (digest_of(content) in gone)

    async def test_an_artifact_put_again_while_a_sweep_reads_references_stays(
        self, place: Place, store: ArtifactStore
    ) -> None:
        stored = await store.put(b"needed again")
        place.advance(DAY_S)

        class Late:
            async def digests(self) -> AsyncIterator[str]:
                assert not (await place.open().put(b"needed again")).created
                for digest in ():
                    yield digest

        done = await sweep(store, Late(), grace_s=GRACE_S)
        assert (done.removed, done.kept_young) == ((), 1)
        assert await store.read(stored.digest) == b"needed again"

    async def test_renewal_protects_what_a_new_record_will_refer_to(
        self, place: Place, store: ArtifactStore
    ) -> None:
        small, large = await store.put(b"old"), await store.put(bytes(9 * MIB))
        place.advance(DAY_S)
        await store.renew(small.digest)
        await store.renew(large.digest)
        assert (await sweep(store, Referred(), grace_s=GRACE_S)).removed == ()
        place.overwrite(small.digest, b"odd")
        with pytest.raises(ArtifactCorrupt):
            await store.renew(small.digest)

    async def test_references_that_make_no_sense_remove_nothing(
        self, place: Place, store: ArtifactStore
    ) -> None:
        await store.put(b"safe")
        place.advance(DAY_S)
        with pytest.raises(ValidationError, match="is not a digest"):
            await sweep(store, Referred(["no digest"]), grace_s=GRACE_S)
        assert len(place.keys()) == 1

    async def test_what_a_dead_sweep_announced_is_withdrawn(self, place: Place, store: ArtifactStore) -> None:
        stored = await store.put(b"doomed")
        place.advance(DAY_S)
        assert await store.backend.create("doomed/" + key_of(stored.digest), Body.of_bytes(b""))
        assert (await sweep(store, Referred(), grace_s=GRACE_S)).removed == ()
        place.advance(RENEW_AFTER_S + 60)
        assert (await sweep(store, Referred(), grace_s=GRACE_S)).removed == (stored.digest,)
        assert place.keys() == []
