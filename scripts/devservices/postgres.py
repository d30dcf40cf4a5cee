"""A private PostgreSQL server: real, used by one process, gone with it.

The server's processes are children of the user's: when that process ends, be it in order or killed, the
kernel sends the postmaster SIGQUIT, upon which it ends its own. Data and socket are in a short temporary
directory, since a socket's path has at most 107 bytes; one that a killed user left behind is removed by the
next. There is no TCP port, and nobody but the owner of the directory and root can connect.

PostgreSQL refuses to run as root, so for root it runs as the user `postgres` that Debian's package makes.
"""

import contextlib
import fcntl
import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from devservices import ServiceError

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 60.0
LOG_TAIL_LINES = 15
PREFIX = "praxis-postgres-"
READY = b"database system is ready to accept connections"

# Small, since a test needs little and many servers may run; the rest is PostgreSQL's own default.
SETTINGS = {
    "listen_addresses": "",
    "max_connections": "100",
    "lc_messages": "C",
    "autovacuum_naptime": "10s",
    "recovery_init_sync_method": "syncfs",  # after a crash: one call instead of one per file
}


def programs() -> Path:
    """Return the directory of the newest PostgreSQL server's programs.

    Raises:
        ServiceError: There is none.
    """
    found = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"),
        key=lambda path: [int(number) for number in re.findall(r"\d+", path.parts[-3])],
    )
    if found:
        return found[-1].parent
    if on_path := shutil.which("initdb"):
        return Path(on_path).resolve().parent
    raise ServiceError("initdb not found: run scripts/system-packages test")


class PostgresServer:
    """A server, which can be stopped and started again.

    Args:
        directory: Where its data and socket are.
        durable: Whether what is committed survives a power cut; otherwise only the server's own end.
        settings: Further settings, such as ``{"shared_buffers": "1GB"}``.
    """

    def __init__(self, directory: Path, *, durable: bool, settings: dict[str, str]) -> None:
        self.directory = directory
        self.data = directory / "data"
        self.log = directory / "log"
        self.programs = programs()
        self.owner = _owner()
        durability = {} if durable else {"fsync": "off", "full_page_writes": "off"}
        self._settings = SETTINGS | durability | settings | {"unix_socket_directories": str(directory)}
        self._process: subprocess.Popen[bytes] | None = None
        self._ready = threading.Event()
        self._reader: threading.Thread | None = None

    def url(self, database: str = "postgres") -> str:
        """Return the address of a database."""
        return f"postgresql://{self.owner}@/{database}?host={self.directory}"

    def create(self) -> None:
        """Make the data directory."""
        command = [*self._as_owner(), str(self.programs / "initdb"), "--no-sync", "-A", "trust", "-E", "UTF8"]
        command += ["--locale=C.UTF-8", "-U", self.owner, "-D", str(self.data)]
        ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
        if ended.returncode != 0:
            raise ServiceError(f"initdb failed:\n{ended.stdout}{ended.stderr}")

    def start(self) -> None:
        """Start it and return when it takes connections.

        Raises:
            ServiceError: It does not start; the message has the end of its log.
        """
        self._ready.clear()
        options = [word for name, value in self._settings.items() for word in ("-c", f"{name}={value}")]
        process = subprocess.Popen(
            [*self._as_owner(), str(self.programs / "postgres"), "-D", str(self.data), *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            cwd="/",
            start_new_session=True,
        )
        self._process = process
        self._reader = threading.Thread(target=self._read_log, args=(process,), daemon=True)
        self._reader.start()
        if not self._ready.wait(START_TIMEOUT_S) or process.poll() is not None:
            self.stop("immediate")
            lines = self.log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
            raise ServiceError("PostgreSQL did not start:\n" + "\n".join(lines))

    def stop(self, mode: str = "fast") -> None:
        """End it and return when no process of it is left; repeatable.

        Args:
            mode: ``fast`` ends connections in order; ``immediate`` is what a crash looks like.
        """
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGINT if mode == "fast" else signal.SIGQUIT)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        assert self._reader
        self._reader.join()  # its pipe closes when the last process that holds it has ended

    def sql(self, statement: str, database: str = "postgres") -> str:
        """Run a statement through psql; return what it prints, without decoration."""
        return self.run("psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-c", statement, database)

    def run(self, program: str, *arguments: str) -> str:
        """Run one of PostgreSQL's programs against this server; return what it prints.

        Raises:
            ServiceError: It failed; the message has its own words.
        """
        connection = ["-h", str(self.directory), "-U", self.owner]
        command = [str(self.programs / program), *connection, *arguments]
        ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
        if ended.returncode != 0:
            raise ServiceError(f"{program} failed: {ended.stderr.strip()}")
        return ended.stdout.strip()

    def _as_owner(self) -> Sequence[str]:
        """Return the words that run a command as the owner, and end it when this process is dead."""
        words = ["setpriv", "--pdeathsig", "QUIT"]
        if os.geteuid() != 0:
            return words
        user = pwd.getpwnam(self.owner)
        return [*words, f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]

    def _read_log(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stderr
        with self.log.open("ab") as log, process.stderr as lines:
            for line in lines:
                log.write(line)
                log.flush()
                if READY in line:
                    self._ready.set()
        self._ready.set()  # it has ended: nobody needs to wait any longer


@contextlib.contextmanager
def postgres_server(
    *, durable: bool = False, settings: dict[str, str] | None = None
) -> Iterator[PostgresServer]:
    """Run a private PostgreSQL server for as long as the context lasts.

    Args:
        durable: Whether it waits for the disk.
        settings: Further settings of the server.

    Raises:
        ServiceError: PostgreSQL is missing or does not start.
    """
    with _directory() as directory:
        server = PostgresServer(directory, durable=durable, settings=settings or {})
        server.create()
        server.start()
        try:
            yield server
        finally:
            server.stop("immediate")


def _owner() -> str:
    if os.geteuid() != 0:
        return pwd.getpwuid(os.geteuid()).pw_name
    try:
        return pwd.getpwnam("postgres").pw_name
    except KeyError:
        raise ServiceError("there is no user 'postgres': run scripts/system-packages test") from None


@contextlib.contextmanager
def _directory() -> Iterator[Path]:
    """Make a temporary directory that its lock marks as in use, after removing those of dead users."""
    parent = Path("/tmp")
    for path in parent.glob(f"{PREFIX}*.lock"):
        _remove_if_left(path)
    lock_fd, lock_name = tempfile.mkstemp(prefix=PREFIX, suffix=".lock", dir=parent)
    fcntl.flock(lock_fd, fcntl.LOCK_EX)
    directory = Path(lock_name.removesuffix(".lock"))
    directory.mkdir(mode=0o700)
    if os.geteuid() == 0:
        user = pwd.getpwnam(_owner())
        os.chown(directory, user.pw_uid, user.pw_gid)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        Path(lock_name).unlink()
        os.close(lock_fd)


def _remove_if_left(lock: Path) -> None:
    """Remove a directory whose user is dead; an empty lock file may be one that is just being made."""
    with contextlib.suppress(OSError), lock.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        directory = Path(str(lock).removesuffix(".lock"))
        if directory.is_dir():
            shutil.rmtree(directory, ignore_errors=True)
            lock.unlink()
