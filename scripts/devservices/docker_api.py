"""As much of the Docker Engine API as it takes to fill a daemon."""

import http.client
import json
import socket
from pathlib import Path
from typing import IO
from urllib.parse import urlencode

from devservices import ServiceError

TIMEOUT_S = 120.0


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=TIMEOUT_S)
        self.path = path

    def connect(self) -> None:
        """Connect to the socket instead of to a host."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self.path))


class DockerApi:
    """A daemon, as seen through its socket."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def request(self, method: str, target: str, body: IO[bytes] | None = None) -> bytes:
        """Send one request; return the body of the answer.

        Raises:
            ServiceError: The daemon refused; the message has its own words.
        """
        connection = UnixConnection(self.path)
        try:
            headers = {"Content-Type": "application/x-tar"} if body else {}
            connection.request(method, target, body, headers, encode_chunked=body is not None)
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        if answer.status >= 400:
            words = content.decode(errors="replace").strip()
            raise ServiceError(f"dockerd refused {method} {target} with {answer.status}: {words}")
        return content

    def version(self) -> str:
        """Return the daemon's version, such as ``20.10.24``."""
        return str(json.loads(self.request("GET", "/version"))["Version"])

    def import_image(self, tarball: Path, name: str, tag: str, changes: tuple[str, ...]) -> None:
        """Make an image from a root file system."""
        query = [("fromSrc", "-"), ("repo", name), ("tag", tag), *(("changes", change) for change in changes)]
        with tarball.open("rb") as body:
            progress = self.request("POST", f"/images/create?{urlencode(query)}", body)
        for line in progress.splitlines():  # errors of the import itself come with status 200
            if "error" in (report := json.loads(line)):
                raise ServiceError(f"dockerd cannot import {name}:{tag}: {report['error']}")
