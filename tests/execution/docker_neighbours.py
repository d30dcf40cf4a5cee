"""What stands around a Docker daemon, for tests: a way to it over TCP or another socket, and a registry."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path


class Relay:
    """Passes connections on to a daemon's socket, until it is told to cut them."""

    def __init__(self, docker_host: str) -> None:
        self.target = docker_host.removeprefix("unix://")
        self.tasks: set[asyncio.Task[None]] = set()
        self.writers: set[asyncio.StreamWriter] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_unix_connection(self.target)
        self.writers |= {writer, inner_writer}
        try:
            await asyncio.gather(pump(reader, inner_writer), pump(inner_reader, writer))
        finally:
            for each in (writer, inner_writer):
                each.close()
                self.writers.discard(each)

    def cut(self) -> None:
        """End every connection at once."""
        for writer in list(self.writers):
            writer.transport.abort()


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    if writer.can_write_eof():
        with contextlib.suppress(OSError, RuntimeError):
            writer.write_eof()


@contextlib.asynccontextmanager
async def tcp_relay(docker_host: str) -> AsyncIterator[str]:
    """Make a daemon reachable over TCP; yields its address there."""
    relay = Relay(docker_host)
    server = await asyncio.start_server(relay.serve, "127.0.0.1", 0)
    try:
        host, port = server.sockets[0].getsockname()
        yield f"tcp://{host}:{port}"
    finally:
        server.close()
        relay.cut()
        await server.wait_closed()


@contextlib.asynccontextmanager
async def unix_relay(docker_host: str, path: Path) -> AsyncIterator[Relay]:
    """Make a daemon reachable for everybody by another socket."""
    relay = Relay(docker_host)
    server = await asyncio.start_unix_server(relay.serve, path)
    path.chmod(0o777)
    try:
        yield relay
    finally:
        server.close()
        relay.cut()
        await server.wait_closed()


@contextlib.asynccontextmanager
async def saying(path: Path, answer: bytes | None) -> AsyncIterator[str]:
    """Serve a socket that answers whatever it is told with the same words, or never."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            if answer is not None:
                await reader.read(1)
                writer.write(answer)
                await writer.drain()
                writer.write_eof()
            while await reader.read(1 << 16):
                pass
        writer.close()

    server = await asyncio.start_unix_server(serve, path)
    try:
        yield f"unix://{path}"
    finally:
        server.close()
        await server.wait_closed()


class Registry:
    """A registry with one image, `tools/empty:1`: one layer with one file, and no program."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        layer = io.BytesIO()
        with tarfile.open(fileobj=layer, mode="w") as archive:
            entry = tarfile.TarInfo("hello.txt")
            entry.size = 5
            archive.addfile(entry, io.BytesIO(b"hello"))
        config = {
            "architecture": "amd64",
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [digest_of(layer.getvalue())]},
        }
        compressed = gzip.compress(layer.getvalue(), mtime=0)
        self.media_type = "application/vnd.docker.distribution.manifest.v2+json"
        self.manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": self.media_type,
                "config": self.blob(
                    "application/vnd.docker.container.image.v1+json", json.dumps(config).encode()
                ),
                "layers": [self.blob("application/vnd.docker.image.rootfs.diff.tar.gzip", compressed)],
            }
        ).encode()

    def blob(self, media_type: str, content: bytes) -> dict[str, object]:
        digest = digest_of(content)
        self.blobs[digest] = content
        return {"mediaType": media_type, "size": len(content), "digest": digest}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            first = await reader.readexactly(1)
            if first == b"\x16":  # the daemon tries TLS before anything else
                writer.transport.abort()
                return
            request = (first + await reader.readuntil(b"\r\n\r\n")).decode()
            method, path, _ = request.split(" ", 2)
            status, media_type, content = self.answer(path)
            head = (
                f"HTTP/1.1 {status}\r\nContent-Type: {media_type}\r\nContent-Length: {len(content)}\r\n"
                f"Docker-Content-Digest: {digest_of(content)}\r\nConnection: close\r\n\r\n"
            )
            writer.write(head.encode() + (b"" if method == "HEAD" else content))
            await writer.drain()
        writer.close()

    def answer(self, path: str) -> tuple[str, str, bytes]:
        if path == "/v2/":
            return "200 OK", "application/json", b"{}"
        if path in ("/v2/tools/empty/manifests/1", f"/v2/tools/empty/manifests/{digest_of(self.manifest)}"):
            return "200 OK", self.media_type, self.manifest
        content = self.blobs.get(path.rpartition("/")[2])
        if content is not None:
            return "200 OK", "application/octet-stream", content
        absent = {"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}
        return "404 Not Found", "application/json", json.dumps(absent).encode()


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


@contextlib.asynccontextmanager
async def registry() -> AsyncIterator[str]:
    """Serve a registry on this machine; yields its name in image names."""
    server = await asyncio.start_server(Registry().serve, "127.0.0.1", 0)
    try:
        host, port = server.sockets[0].getsockname()
        yield f"{host}:{port}"
    finally:
        server.close()
        await server.wait_closed()
