"""One Docker daemon, as the docker engine needs it: every call bounded, every failure in our own words.

This is the only module that imports aiodocker (and aiohttp, on which that stands), and only when a
daemon is first spoken to. A `DockerDaemon` belongs to the event loop that it was made in.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import errno
import json
import os
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from praxis_sdk.errors import EngineUnavailable, MissingExtra, PlatformError
from praxis_sdk.execution.arguments.standard_input import Source, pieces
from praxis_sdk.execution.context import ProgressListener
from praxis_sdk.execution.engines.docker.facts import ContainerSummary, DaemonFacts, ImageFacts
from praxis_sdk.execution.output import OutputCapture

if TYPE_CHECKING:
    import aiodocker
    import aiohttp
    from aiodocker.stream import Stream

HELLO_BOUND_S: Final = 10.0
CALL_BOUND_S: Final = 60.0  # creating and starting take this long only on a machine that is on its knees
KILL_BOUND_S: Final = 20.0
GONE_POLL_S: Final = 0.1  # between two looks at a container that somebody else is removing
PULL_BOUND_S: Final = 600.0
IMAGE_KNOWN_S: Final = 60.0  # an image's configuration is asked for again after this time
_STARTS_AT_ONCE: Final = 8  # more of them only get into each other's way
_ANY_HOST: Final = "unix://localhost"  # what HTTP wants to hear where the connector knows the way
_UNREACHABLE: Final = 900  # aiodocker's own status for "no connection"
_TOLD_STEPS: Final = ("Pulling from", "Pull complete", "Status")
_ASKS_FOR_TLS: Final = "HTTP request to an HTTPS server"


_MOST_WORDS_CHARS: Final = 300


class DaemonRefusal(PlatformError):
    """The daemon answered a request with an error.

    Args:
        status: the HTTP status; 0 for an error in the middle of an answer.
        message: the daemon's own words.
    """

    def __init__(self, status: int, message: str) -> None:
        words = " ".join(message.split())
        self.words = words if len(words) <= _MOST_WORDS_CHARS else f"{words[: _MOST_WORDS_CHARS - 1]}…"
        self.status = status
        super().__init__(f"the Docker daemon refused: {self.words}")


def find_docker_host(docker_host: str | None) -> str:
    """Say where the daemon is: what is given, DOCKER_HOST, or the first of the usual sockets."""
    if docker_host or os.environ.get("DOCKER_HOST"):
        return docker_host or os.environ["DOCKER_HOST"]
    runtime_dir = os.environ.get("XDG_RUNTIME_DIR")
    usual = [Path("/run/docker.sock"), Path("/var/run/docker.sock"), Path.home() / ".docker/run/docker.sock"]
    usual += [Path(runtime_dir) / "docker.sock"] if runtime_dir else []
    found = next((path for path in usual if _is_socket(path)), usual[1])
    return f"unix://{found}"


def _is_socket(path: Path) -> bool:
    try:
        return path.is_socket()
    except OSError:  # below a folder that is another user's
        return False


class OutputStream:
    """What a container writes, from before it starts until the daemon has handed over the last byte."""

    def __init__(self, stream: Stream, speaking: AbstractAsyncContextManager[object]) -> None:
        self._stream = stream
        self._speaking = speaking

    async def read_into(self, capture: OutputCapture) -> None:
        """Feed a capture until there is no more; once."""
        async with self._speaking:
            while (message := await self._stream.read_out()) is not None:
                capture.feed("stderr" if message.stream == 2 else "stdout", message.data)
                await capture.has_room()

    async def close(self) -> None:
        """Stop listening; repeatable."""
        await self._stream.close()


class InputStream:
    """A container's standard input, on its own connection, since the daemon ends a shared one with the input only."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    async def write_from(self, source: Source) -> None:
        """Write a source, and then its end."""
        try:
            async for piece in pieces(source):
                await self._stream.write_in(piece)
        except (ConnectionError, RuntimeError):
            pass  # the tool reads no more, or has ended
        finally:
            await self.close()

    async def close(self) -> None:
        """Close it, which ends the input; repeatable."""
        await self._stream.close()


class DockerDaemon:
    """A connection to a daemon.

    Args:
        host: its address: `unix://`, `tcp://`, `http://`, `https://` or `ssh://`.
    """

    def __init__(self, host: str) -> None:
        self.host = host
        self.starting = asyncio.Semaphore(_STARTS_AT_ONCE)
        self._client, self._connector = _connect(host)
        self._facts: DaemonFacts | None = None
        self._asking = asyncio.Lock()
        self._images: dict[str, tuple[float, ImageFacts]] = {}

    @property
    def shares_files(self) -> bool:
        """Whether the daemon sees this host's files."""
        return self.host.startswith("unix://")

    async def facts(self, *, fresh: bool = False) -> DaemonFacts:
        """Ask the daemon what it is, once unless told otherwise.

        Raises:
            EngineUnavailable: nothing answers, or it is no Docker daemon.
        """
        async with self._asking:
            if self._facts is None or fresh:
                async with self._speaking("answer", HELLO_BOUND_S) as client:
                    version, info = await client.version(), await client.system.info()
                    self._facts = DaemonFacts.read(version, info)
            return self._facts

    async def image(self, name: str) -> ImageFacts:
        """Say what an image brings along; remembered for a minute.

        Raises:
            DaemonRefusal: with status 404 where there is no such image.
        """
        now = asyncio.get_running_loop().time()
        if name not in self._images or self._images[name][0] < now:
            async with self._speaking("describe an image") as client:
                config = (await client.images.inspect(name)).get("Config") or {}
            facts = ImageFacts(
                volumes=tuple(sorted(config.get("Volumes") or ())),
                env=dict(line.split("=", 1) for line in config.get("Env") or () if "=" in line),
                working_dir=config.get("WorkingDir") or "/",
            )
            self._images[name] = (now + IMAGE_KNOWN_S, facts)
        return self._images[name][1]

    def forget_image(self, name: str) -> None:
        """Ask again next time."""
        self._images.pop(name, None)

    async def pull(self, name: str, progress: ProgressListener) -> None:
        """Fetch an image from its registry, telling each new step.

        Raises:
            DaemonRefusal: the registry does not have it, or cannot be reached.
            EngineUnavailable: it took too long.
        """
        progress(f"docker: pulling image '{name}'")
        async with self._speaking(f"pull '{name}'", PULL_BOUND_S) as client:
            async for step in client.images.pull(name, stream=True):
                status = str(step.get("status", ""))
                if status.startswith(_TOLD_STEPS):
                    progress(f"docker: {step['id']}: {status}" if step.get("id") else f"docker: {status}")

    async def create(self, name: str, config: Mapping[str, Any]) -> str:
        """Create a container; returns its id."""
        async with self._speaking("create a container") as client:
            return (await client.containers.create(dict(config), name=name)).id

    async def attach(self, container: str) -> OutputStream:
        """Listen to a container that has not started yet."""
        return OutputStream(
            await self._attach(container, stdout=1, stderr=1), self._speaking("hand over output", None)
        )

    async def attach_input(self, container: str) -> InputStream:
        """Connect to the standard input of a container that has not started yet."""
        return InputStream(await self._attach(container, stdin=1))

    async def _attach(self, container: str, **streams: int) -> Stream:
        from aiodocker.stream import Stream
        from yarl import URL

        async def request() -> tuple[URL, None, bool]:  # without the inspection that `attach` would make
            query = {"stream": 1, "stdin": 0, "stdout": 0, "stderr": 0, **streams}
            return URL(f"containers/{container}/attach").with_query(query), None, False

        async with self._speaking("attach to a container") as client:
            return await Stream(client, request).__aenter__()

    async def start(self, container: str) -> None:
        """Start a container."""
        async with self._speaking("start a container") as client:
            await client.containers.container(container).start()

    async def wait(self, container: str) -> int:
        """Wait without bound until a container has stopped; returns its exit code."""
        async with self._speaking("wait", None) as client:
            return int((await client.containers.container(container).wait())["StatusCode"])

    async def state(self, container: str) -> Mapping[str, Any]:
        """Return what the daemon knows about a container's end."""
        async with self._speaking("inspect a container") as client:
            return dict((await client.containers.container(container).show())["State"])

    async def terminate(self, container: str) -> None:
        """Send SIGTERM to a container's process 1; it may have ended before."""
        with _ignoring(404, 409):
            async with self._speaking("end a container", KILL_BOUND_S) as client:
                await client.containers.container(container).kill(signal="SIGTERM")

    async def kill(self, container: str, bound_s: float = KILL_BOUND_S) -> None:
        """Send SIGKILL to all of a container; it may have ended before."""
        with _ignoring(404, 409):
            async with self._speaking("kill a container", bound_s) as client:
                await client.containers.container(container).kill(signal="SIGKILL")

    async def remove(self, container: str, bound_s: float = CALL_BOUND_S) -> str:
        """Kill and remove a container and its volumes; it may be gone already.

        Returns:
            The daemon's word that nothing of it is left; there is no other way to return.

        Raises:
            DaemonRefusal, EngineUnavailable: the daemon did not say so within the bound.
        """
        now = asyncio.get_running_loop().time
        until = now() + bound_s
        while True:
            try:
                async with self._speaking("remove a container", bound_s) as client:
                    await client.containers.container(container).delete(force=True, v=True)
            except DaemonRefusal as refusal:
                words = refusal.words.lower()
                if refusal.status == 404 and "no such container" in words and container.lower() in words:
                    return f"the daemon has no container '{container}'"
                if (
                    refusal.status != 409 or now() >= until
                ):  # 409: somebody is removing it, and it is there still
                    raise
                await asyncio.sleep(GONE_POLL_S)
            else:
                return f"the daemon confirmed the removal of container '{container}'"

    async def containers(self, label: str) -> Sequence[ContainerSummary]:
        """List all containers that carry a label."""
        async with self._speaking("list containers") as client:
            filters = json.dumps({"label": [label]})
            found = await client.containers.list(all=1, filters=filters)
        # An item's own mapping is not public; its entries are.
        return [ContainerSummary(item.id, item["Labels"] or {}, item["State"]) for item in found]

    async def put_archive(self, container: str, folder: str, archive: bytes) -> None:
        """Unpack a tar archive into a folder of a container."""
        async with (
            self._speaking("copy into a container") as client,
            client._query(  # noqa: SLF001 - aiodocker's own method cannot read the empty answer
                f"containers/{container}/archive",
                "PUT",
                params={"path": folder},
                data=archive,
                headers={"Content-Type": "application/x-tar"},
            ),
        ):
            pass

    async def file_mode(self, container: str, path: str) -> int | None:
        """Return the mode of a file in a container as Go writes it; None where there is no such file."""
        async with self._speaking("look into a container") as client:
            # aiodocker has no method for it, and its general one cannot read an error without a body
            url = client._canonicalize_url(f"containers/{container}/archive")  # noqa: SLF001
            async with client.session.head(url, params={"path": path}) as answer:
                described = answer.headers.get("X-Docker-Container-Path-Stat")
        return int(json.loads(base64.b64decode(described))["mode"]) if described else None

    async def close(self) -> None:
        """End all connections; repeatable."""
        await self._client.close()
        await self._connector.close()

    @contextlib.asynccontextmanager
    async def _speaking(
        self, deed: str, bound_s: float | None = CALL_BOUND_S
    ) -> AsyncIterator[aiodocker.Docker]:
        import aiodocker
        import aiohttp

        try:
            async with asyncio.timeout(bound_s):
                yield self._client
        except TimeoutError as error:
            raise EngineUnavailable(
                f"the Docker daemon at {self.host} did not {deed} within {bound_s:g} s",
                remedy="look at its log ('journalctl -u docker'), or restart it",
            ) from error
        except aiodocker.DockerError as error:
            if error.status == _UNREACHABLE:
                raise self._unreachable(error.__context__) from error
            if str(error.message).lstrip().startswith("<"):  # a page: a daemon answers in JSON
                raise self._foreign(error.status) from error
            if _ASKS_FOR_TLS in str(error.message):
                raise EngineUnavailable(
                    f"the Docker daemon at {self.host} speaks TLS only", remedy="set DOCKER_TLS_VERIFY=1"
                ) from error
            raise DaemonRefusal(error.status, str(error.message)) from error
        except (aiohttp.ClientResponseError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise self._foreign() from error
        except (aiohttp.ClientError, OSError) as error:
            raise self._unreachable(error) from error
        except Exception as error:
            if not self.host.startswith("ssh://"):  # whose library has errors of its own
                raise
            raise self._unreachable(error) from error

    def _unreachable(self, error: BaseException | None) -> EngineUnavailable:
        number = error.errno if isinstance(error, OSError) else None
        if number == errno.ENOENT:
            return EngineUnavailable(
                f"there is no Docker daemon at {self.host}: no such socket",
                remedy="start Docker ('systemctl start docker'), or name its address in DOCKER_HOST",
            )
        if number in (errno.EACCES, errno.EPERM):
            return EngineUnavailable(
                f"this user may not use the Docker daemon at {self.host}",
                remedy="add the user to the group of the socket ('usermod -aG docker USER'), or run a rootless daemon",
            )
        if number == errno.ECONNREFUSED:
            return EngineUnavailable(
                f"nothing answers at {self.host}: connection refused",
                remedy="start Docker ('systemctl start docker'), or name its address in DOCKER_HOST",
            )
        if number == errno.ENOTSOCK:
            return self._foreign()
        if fault := _tls_fault(error):
            return EngineUnavailable(
                f"no connection to the Docker daemon at {self.host}: TLS: {fault}",
                remedy="check that it speaks TLS there, and ca.pem, cert.pem and key.pem in DOCKER_CERT_PATH",
            )
        return EngineUnavailable(
            f"no connection to the Docker daemon at {self.host}: {_reason(error)}",
            remedy="see whether it runs ('docker info'), or name its address in DOCKER_HOST",
        )

    def _foreign(self, status: int = 0) -> EngineUnavailable:
        told = f" (HTTP {status})" if status else ""
        return EngineUnavailable(
            f"what answers at {self.host} is not a Docker daemon{told}",
            remedy="name the address of a Docker daemon in DOCKER_HOST",
        )


@contextlib.contextmanager
def _ignoring(*statuses: int) -> Iterator[None]:
    try:
        yield
    except DaemonRefusal as refusal:
        if refusal.status not in statuses:
            raise


def _connect(host: str) -> tuple[aiodocker.Docker, aiohttp.BaseConnector]:
    """Make a client without a bound on connections: a kill must never queue behind other tools' output."""
    try:
        import aiodocker
        import aiohttp
    except ImportError as error:
        raise MissingExtra("aiodocker", "docker") from error
    scheme, _, rest = host.partition("://")
    if scheme != "unix" and not _names_a_host(host):
        rest = ""
    connector: aiohttp.BaseConnector
    if scheme == "unix" and rest:
        connector = aiohttp.UnixConnector(rest, limit=0)
        host = _ANY_HOST
    elif scheme in ("tcp", "http", "https") and rest:
        secret = _tls_context() if scheme == "https" or os.environ.get("DOCKER_TLS_VERIFY") else None
        host = f"https://{rest}" if secret else f"http://{rest}"
        connector = aiohttp.TCPConnector(limit=0, ssl=secret or False)
    elif scheme == "ssh" and rest:
        connector = _ssh_connector(host)
        host = _ANY_HOST
    else:
        raise EngineUnavailable(
            f"'{host}' is not the address of a Docker daemon",
            remedy="write for example DOCKER_HOST=unix:///var/run/docker.sock or tcp://HOST:2376",
        )
    return aiodocker.Docker(url=host, connector=connector), connector


def _tls_context() -> ssl.SSLContext:
    folder = Path(os.environ.get("DOCKER_CERT_PATH") or Path.home() / ".docker")
    try:
        context = ssl.create_default_context(cafile=folder / "ca.pem")
        context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    except OSError as error:
        raise EngineUnavailable(
            f"the certificates for the Docker daemon in '{folder}' cannot be used: {error.strerror or error}",
            remedy="put ca.pem, cert.pem and key.pem there, or name their folder in DOCKER_CERT_PATH",
        ) from error
    return context


def _ssh_connector(host: str) -> aiohttp.BaseConnector:
    import aiodocker

    try:
        from aiodocker.ssh import SSHConnector

        return SSHConnector(host)
    except (ImportError, ValueError, aiodocker.DockerError) as error:
        # The library says in words which package it misses, and raises the same for what it cannot read.
        missing = "asyncssh" in str(error)
        reason = "the Python package 'asyncssh' is not installed" if missing else _reason(error)
        raise EngineUnavailable(
            f"the Docker daemon at {host} cannot be reached by SSH: {reason}",
            remedy="pip install asyncssh; or 'ssh -nNT -L /tmp/docker.sock:/var/run/docker.sock HOST' "
            "and DOCKER_HOST=unix:///tmp/docker.sock",
        ) from error


def _names_a_host(address: str) -> bool:
    try:
        parts = urlsplit(address)
        return bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return False


def _tls_fault(error: BaseException | None) -> str:
    """Find what TLS complains about below an error of the HTTP client; empty where it does not."""
    while error is not None:
        inner = getattr(error, "certificate_error", None) or getattr(error, "os_error", None)
        for fault in (error, inner):
            if isinstance(fault, ssl.SSLCertVerificationError):
                return fault.verify_message
            if isinstance(fault, ssl.SSLError):
                return "the handshake failed"
        error = error.__cause__ or error.__context__
    return ""


def _reason(error: BaseException | None) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__
