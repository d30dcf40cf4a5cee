"""A private Docker daemon: real, used by one process, gone with it.

``docker_daemon()`` starts a dockerd that shares nothing with the machine's own: its data, state, log and
socket are its own, it has no bridge and no firewall rules. How it is ended for certain is told in
``docker_init``. Several may run at once (parallel test processes, several checkouts): each takes the first
free *slot*, a directory under ``.cache/dockerd`` that is held by a file lock and so is free again as soon
as its holder is dead.

The socket and the daemon's state are in a short temporary directory, since a socket's path has at most 107
bytes.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from devservices import CACHE, CHECKOUT, ServiceError
from devservices.docker_api import DockerApi
from devservices.docker_image import PYTHON_IMAGE, Image, image_tarball

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0
SLOTS_MAX = 64
LOG_TAIL_LINES = 15

Say = Callable[[str], None]


def as_root() -> list[str]:
    """Return the words that make a command run as root.

    Raises:
        ServiceError: This process is not root, and sudo wants a password.
    """
    if os.geteuid() == 0:
        return []
    if shutil.which("sudo") and subprocess.run(["sudo", "-n", "true"], capture_output=True).returncode == 0:
        return ["sudo", "-n"]
    raise ServiceError("a Docker daemon needs root: run this as root, or allow sudo without a password")


def require(*programs: str) -> None:
    """Raise ServiceError unless every one of some programs is installed."""
    path = os.environ.get("PATH", os.defpath) + ":/usr/local/sbin:/usr/sbin:/sbin"
    missing = [program for program in programs if not shutil.which(program, path=path)]
    if missing:
        raise ServiceError(f"{', '.join(missing)} not found: run scripts/system-packages test")


@contextlib.contextmanager
def slot() -> Iterator[Path]:
    """Hold the first free slot; yields its directory, which may have remains of a dead holder in it."""
    parent = CACHE / "dockerd"
    parent.mkdir(parents=True, exist_ok=True)
    for number in range(SLOTS_MAX):
        with (parent / f"{number}.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            directory = parent / str(number)
            directory.mkdir(exist_ok=True)
            yield directory
            return
    raise ServiceError(f"{SLOTS_MAX} Docker daemons of this checkout are running already")


@contextlib.contextmanager
def run_directory(slot_directory: Path) -> Iterator[Path]:
    """Make the short temporary directory of a daemon, after removing one that a killed holder left."""
    link = slot_directory / "run"
    if link.is_symlink():
        shutil.rmtree(link.readlink(), ignore_errors=True)
        link.unlink()
    run = Path(tempfile.mkdtemp(prefix="praxis-docker-", dir="/tmp"))
    try:
        link.symlink_to(run)
        yield run
    finally:
        link.unlink(missing_ok=True)
        shutil.rmtree(run, ignore_errors=True)


@contextlib.contextmanager
def docker_daemon(*images: Image, say: Say = print) -> Iterator[str]:
    """Run a private Docker daemon for as long as the context lasts.

    Args:
        images: What the daemon holds when it is handed out; by default ``python:3.11-slim``.
        say: Takes lines about the progress.

    Yields:
        The daemon's address, ``unix:///...``.

    Raises:
        ServiceError: A program or a right is missing, or the daemon does not start; the message has
            the end of its log.
    """
    require("dockerd", "containerd", "runc", "unshare")
    root = as_root()
    tarballs = [(image, image_tarball(image, root, say)) for image in images or (PYTHON_IMAGE,)]

    with slot() as directory, run_directory(directory) as run, running(directory, run, root) as socket:
        api = DockerApi(socket)
        for image, tarball in tarballs:
            api.import_image(tarball, image.name, image.tag, image.changes)
        say(f"docker: dockerd {api.version()} is ready (log: {directory.relative_to(CHECKOUT)}/dockerd.log)")
        yield f"unix://{socket}"


@contextlib.contextmanager
def running(directory: Path, run: Path, root: list[str]) -> Iterator[Path]:
    """Run dockerd under its init; yields the path of its socket once the API answers."""
    pidfd = (
        -1 if root else os.pidfd_open(os.getpid())
    )  # sudo passes nothing on but the three standard streams
    config = {
        "directory": str(directory),
        "run": str(run),
        "cgroup": f"praxis-docker-{hashlib.sha256(bytes(directory)).hexdigest()[:8]}",
        "group": str(os.getgid()),
        "pidfd": str(pidfd),
    }
    init = Path(__file__).with_name("docker_init.py")
    namespaces = [
        "unshare",
        "--mount",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
        "--propagation=slave",
    ]
    with (directory / "init.log").open("wb") as init_log:
        process = subprocess.Popen(
            [*root, *namespaces, sys.executable, "-I", str(init), json.dumps(config)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=init_log,
            pass_fds=[pidfd] if pidfd >= 0 else [],
            start_new_session=True,
        )
    assert process.stdin
    assert process.stdout
    try:
        if not says_ready(process.stdout):
            logs = tail(directory / "dockerd.log", directory / "init.log")
            raise ServiceError(f"dockerd did not start:\n{logs}")
        yield run / "docker.sock"
    finally:
        end(process, process.stdin)
        process.stdout.close()
        if pidfd >= 0:
            os.close(pidfd)


def says_ready(stdout: IO[bytes]) -> bool:
    """Wait until the init says that the API answers (true), or ends or is too slow (false)."""
    readable, _, _ = select.select([stdout], [], [], START_TIMEOUT_S)
    return bool(readable) and stdout.readline() == b"ready\n"


def end(process: subprocess.Popen[bytes], stdin: IO[bytes]) -> None:
    """Ask the init to end everything, and see to it that it does."""
    with contextlib.suppress(BrokenPipeError):  # it has ended by itself
        stdin.write(b"stop\n")
        stdin.close()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()  # and with it, by the kernel, the whole PID namespace
        process.wait()


def tail(*logs: Path) -> str:
    """Return the last lines of some logs."""
    lines = [line for log in logs if log.exists() for line in log.read_text(errors="replace").splitlines()]
    return "\n".join(lines[-LOG_TAIL_LINES:])
