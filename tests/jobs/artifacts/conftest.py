"""A clock that tests move, and an S3 server in a process of its own that follows it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path

import obstore
import pytest
from obstore.store import S3Store

from praxis_sdk.jobs.artifacts.backends.s3 import S3Options
from praxis_sdk.jobs.artifacts.digest import key_of
from praxis_sdk.jobs.artifacts.store import ArtifactStore

BUCKET = "artifacts"


class Clock:
    """The real time, moved forward."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead_s

    def advance(self, seconds: float) -> None:
        self.ahead_s += seconds


class S3Server:
    """The server's process; `end` for certain ends it."""

    def __init__(self, log: Path) -> None:
        self.log = log
        with log.open("wb") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, Path(__file__).with_name("s3_server.py")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
            )
        assert self.process.stdout is not None
        port = self.process.stdout.readline().decode().strip()
        assert port, f"the S3 server did not start:\n{log.read_text()}"
        self.endpoint = f"http://127.0.0.1:{port}"
        self.clock = Clock()
        self.ask("PUT", f"/{BUCKET}")

    @property
    def options(self) -> S3Options:
        return S3Options(
            endpoint=self.endpoint,
            region="us-east-1",
            access_key_id="test",
            secret_access_key="test",
            allow_http=True,
        )

    def ask(self, method: str, path: str, body: bytes = b"") -> bytes:
        request = urllib.request.Request(self.endpoint + path, data=body or None, method=method)
        with urllib.request.urlopen(request, timeout=30) as response:
            answer: bytes = response.read()
        return answer

    def end(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        try:
            self.process.wait(10)
        finally:
            self.process.kill()
            self.process.wait()
            self.process.stdout.close()


class Place:
    """Where one store keeps its objects, and what somebody else does to them behind its back."""

    clock: Clock
    url: str

    def open(self, **options: object) -> ArtifactStore:
        raise NotImplementedError

    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)

    def overwrite(self, digest: str, data: bytes) -> None:
        raise NotImplementedError

    def keys(self) -> list[str]:
        raise NotImplementedError


class FolderPlace(Place):
    def __init__(self, root: Path) -> None:
        self.root = root
        self.url = str(root)
        self.clock = Clock()

    def open(self, **options: object) -> ArtifactStore:
        return ArtifactStore.open(self.url, clock=self.clock, **options)  # type: ignore[arg-type]

    def overwrite(self, digest: str, data: bytes) -> None:
        path = self.root / key_of(digest)
        path.chmod(0o644)
        path.write_bytes(data)

    def keys(self) -> list[str]:
        return sorted(str(path.relative_to(self.root)) for path in self.root.rglob("*") if path.is_file())


class S3Place(Place):
    def __init__(self, server: S3Server) -> None:
        self.server = server
        self.clock = server.clock
        self.prefix = f"tests/{uuid.uuid4().hex}"
        self.url = f"s3://{BUCKET}/{self.prefix}"
        self.raw = S3Store(
            BUCKET,
            prefix=self.prefix,
            endpoint=server.endpoint,
            region="us-east-1",
            access_key_id="test",
            secret_access_key="test",
            client_options={"allow_http": True},
        )

    def open(self, **options: object) -> ArtifactStore:
        return ArtifactStore.open(self.url, s3=self.server.options, clock=self.clock, **options)  # type: ignore[arg-type]

    def advance(self, seconds: float) -> None:
        self.server.ask("POST", "/praxis-test/clock", str(seconds).encode())
        super().advance(seconds)

    def overwrite(self, digest: str, data: bytes) -> None:
        obstore.put(self.raw, key_of(digest), data)

    def keys(self) -> list[str]:
        return sorted(meta["path"] for page in obstore.list(self.raw) for meta in page)


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """One S3 server for all tests that ask for it."""
    server = S3Server(tmp_path_factory.mktemp("s3") / "server.log")
    try:
        yield server
    finally:
        server.end()


@pytest.fixture
def s3_place(s3: S3Server) -> S3Place:
    """An empty prefix in a bucket."""
    return S3Place(s3)


@pytest.fixture
def folder_place(tmp_path: Path) -> FolderPlace:
    """A folder that does not exist yet."""
    return FolderPlace(tmp_path / "store")


async def no_sleep(_: float) -> None:
    """Stand for a wait that must not take long: only let others go on."""
    await asyncio.sleep(0)
