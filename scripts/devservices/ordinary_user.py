"""Runs programs as an unprivileged user, for tests that run as root.

What must also work without privileges (the sandbox above all) has to be tested without them. As root, that
takes a user, and a place where this user can read the program: the checkout, its virtual environment and
even the interpreter may be below a home directory that nobody else may enter. So ``ordinary_user()``
copies, once, the checkout's code and the installed packages to a temporary directory that everybody can
read, and runs the first interpreter of the same version that the user can start (the system's own, or else
a copy).

The user needs no account: a uid without one is taken, so nothing on the machine belongs to it.

Where the tests do not run as root, nothing is copied and "the ordinary user" is who runs them.
"""

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from devservices import CHECKOUT, ServiceError

UIDS = range(60600, 61000)  # used neither by Debian for accounts nor by systemd
VERSION = f"python{sys.version_info.major}.{sys.version_info.minor}"
CODE = ("src", "tests", "scripts", "examples", "benchmarks", "pyproject.toml")
NOT_NEEDED = (
    "ruff*",
    "mypy",
    "mypyc",
    "mypy-*",
    "pip",
    "pip-*",
    "setuptools*",
    "hatchling*",
    "trove_classifiers*",
)
NOT_NEEDED_OF_PYTHON = ("site-packages", "test", "idlelib", "tkinter", "ensurepip", "config-*")


@dataclass(frozen=True)
class OrdinaryUser:
    """A user without privileges, and how to run something as this user.

    Attributes:
        uid: The user's number, and that of its only group.
        python: An interpreter that the user can start, of the version that runs the tests.
        checkout: The code of this checkout, readable for the user (``src``, ``tests``, ``examples``...).
        home: A directory that belongs to the user.
        environment: What the user's programs find in their environment, and nothing else. With it they
            import ``praxis_sdk`` and the installed packages.
    """

    uid: int
    python: Path
    checkout: Path
    home: Path
    environment: Mapping[str, str]

    def run(
        self,
        arguments: Sequence[str | Path],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        stdin: str = "",
        timeout_s: float = 60.0,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program as the user and return its status and both streams.

        Args:
            arguments: The program and its arguments.
            env: Added to `environment`.
            cwd: Where it runs; by default the user's home.
            stdin: What it reads.
            timeout_s: After this time its process group is killed.

        Raises:
            subprocess.TimeoutExpired: It took too long.
        """
        switch = {"user": self.uid, "group": self.uid, "extra_groups": []} if os.geteuid() == 0 else {}
        process = subprocess.Popen(
            list(arguments),
            env={**self.environment, **(env or {})},
            cwd=cwd or self.home,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            umask=0o022,
            start_new_session=True,
            **switch,  # type: ignore[call-overload]
        )
        try:
            stdout, stderr = process.communicate(stdin, timeout_s)
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
        return subprocess.CompletedProcess(list(arguments), process.returncode, stdout, stderr)

    def run_python(
        self, code: str, *arguments: str, timeout_s: float = 60.0
    ) -> subprocess.CompletedProcess[str]:
        """Run Python code as the user; `arguments` are its ``sys.argv[1:]``."""
        return self.run([self.python, "-c", code, *arguments], timeout_s=timeout_s)

    def run_praxis(self, *arguments: str | Path, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run the ``praxis`` command as the user."""
        start = "import sys; from praxis_sdk.cli.main import main; sys.argv[0] = 'praxis'; sys.exit(main())"
        return self.run([self.python, "-c", start, *arguments], timeout_s=timeout_s)

    def run_pytest(self, *arguments: str, timeout_s: float = 120.0) -> subprocess.CompletedProcess[str]:
        """Run tests of this checkout as the user: ``run_pytest("tests/sandbox/test_limits.py::test_x")``."""
        options = ["-m", "pytest", "-p", "no:cacheprovider", f"--basetemp={self.home}/pytest"]
        return self.run([self.python, *options, *arguments], cwd=self.checkout, timeout_s=timeout_s)

    def make_directory(self, name: str) -> Path:
        """Make an empty directory that belongs to the user, to whom pytest's ``tmp_path`` is closed."""
        directory = self.home / name
        directory.mkdir(parents=True)
        os.chown(directory, self.uid, self.uid)
        return directory


@contextlib.contextmanager
def ordinary_user() -> Iterator[OrdinaryUser]:
    """Make an ordinary user for as long as the context lasts."""
    place = Path(tempfile.mkdtemp(prefix="praxis-user-", dir="/tmp"))
    try:
        home = place / "home"
        home.mkdir(mode=0o700)
        if os.geteuid() == 0:
            place.chmod(0o755)
            uid = free_uid()
            os.chown(home, uid, uid)
            checkout, packages = copy_code(place)
            python = find_interpreter(place, uid)
            search_path = f"{checkout / 'src'}:{packages}"
        else:
            uid, python, checkout = os.geteuid(), Path(sys.executable), CHECKOUT
            search_path = ""
        yield OrdinaryUser(uid, python, checkout, home, environment_of(home, search_path))
    finally:
        shutil.rmtree(place)


def environment_of(home: Path, search_path: str) -> dict[str, str]:
    """Return the environment of the user's programs."""
    environment = {
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONNOUSERSITE": "1",
        "TMPDIR": str(home),
    }
    return environment | ({"PYTHONPATH": search_path} if search_path else {})


def free_uid() -> int:
    """Return a uid that no account has."""
    taken = {account.pw_uid for account in pwd.getpwall()}
    return next(uid for uid in UIDS if uid not in taken)


def copy_code(place: Path) -> tuple[Path, Path]:
    """Copy the checkout's code and the installed packages; return where the two are."""
    checkout = place / "checkout"
    checkout.mkdir(mode=0o755)
    for source in (CHECKOUT / name for name in CODE):
        if source.is_dir():
            shutil.copytree(source, checkout / source.name, symlinks=True)
        elif source.exists():
            shutil.copy2(source, checkout)
    packages = place / "site-packages"
    installed = Path(sys.prefix, "lib", VERSION, "site-packages")
    shutil.copytree(installed, packages, symlinks=True, ignore=shutil.ignore_patterns(*NOT_NEEDED))
    make_readable(checkout, packages)
    return checkout, packages


def make_readable(*places: Path) -> None:
    """Let everybody read some directories and all that is in them."""
    subprocess.run(["chmod", "--recursive", "u+rwX,go+rX", "--", *places], check=True)


def find_interpreter(place: Path, uid: int) -> Path:
    """Return an interpreter of this version that the user can start."""
    own = Path(sys.base_prefix, "bin", VERSION)
    for candidate in (own, Path("/usr/bin", VERSION), Path("/usr/local/bin", VERSION)):
        if starts(candidate, uid):
            return candidate
    copy = copy_interpreter(own, place / "python")
    if not starts(copy, uid):
        raise ServiceError(f"no {VERSION} that an ordinary user can start; install Debian's {VERSION}")
    return copy


def starts(python: Path, uid: int) -> bool:
    """Tell whether an interpreter, with its library, works for a user."""
    try:
        answer = subprocess.run(
            [python, "-I", "-c", "import ctypes, sqlite3, ssl"],
            check=False,
            capture_output=True,
            cwd="/",
            user=uid,
            group=uid,
            extra_groups=[],
        )
    except (FileNotFoundError, PermissionError):
        return False
    return answer.returncode == 0


def copy_interpreter(python: Path, target: Path) -> Path:
    """Copy an interpreter and its library, without what tests do not need; return the copy."""
    library = Path(sys.base_prefix, "lib", VERSION)
    ignore = shutil.ignore_patterns(*NOT_NEEDED_OF_PYTHON)
    shutil.copytree(library, target / "lib" / VERSION, symlinks=True, ignore=ignore)
    for shared in library.parent.glob("libpython*.so*"):
        shutil.copy2(shared, target / "lib")
    (target / "bin").mkdir()
    shutil.copy2(python.resolve(), target / "bin" / VERSION)
    make_readable(target)
    return target / "bin" / VERSION
