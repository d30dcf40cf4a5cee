"""How the files of an environment come to be. No code of a package runs on this host.

    create    an empty virtual environment, with links to the interpreter
    install   wheels only, with pip; `--require-hashes` where the requirements have hashes
    settle    remove what names this host: paths in scripts, records of where a wheel came from
    inspect   in a sandbox: can it import what it is to preload?
    compile   byte code that is trusted without a look at its source, so that nothing writes later

Every step leaves a tree that does not know where it stands; so the version, which is part of the final path,
can be made of its content.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import importlib.util
import io
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from praxis_sdk.errors import PlatformError, ValidationError
from praxis_sdk.jobs.environments.content import file_digest
from praxis_sdk.jobs.environments.definition import EnvironmentDefinition
from praxis_sdk.jobs.environments.inspection import FontList
from praxis_sdk.jobs.environments.record import MATPLOTLIB_FOLDER
from praxis_sdk.jobs.executor.sanitize import Sanitizer

Say = Callable[[str], object]

INSTALL_TIMEOUT_S: Final = 1800.0
STEP_TIMEOUT_S: Final = 600.0

_MAX_KEPT_LINES: Final = 50
_MAX_SCRIPT_BYTES: Final = 1 << 20
_UNWANTED_PROGRAMS: Final = ("activate", "activate.csh", "activate.fish", "Activate.ps1")

_ASK_INTERPRETER: Final = """
import json, os, sys, sysconfig
names = sysconfig.get_config_vars()
shared = names.get("Py_ENABLE_SHARED") and os.path.join(names["LIBDIR"], names["LDLIBRARY"])
print(json.dumps({
    "version": sys.version,
    "implementation": sys.implementation.name,
    "abi": names.get("SOABI") or sys.implementation.cache_tag,
    "platform": sysconfig.get_platform(),
    "packages": sysconfig.get_path("purelib", "venv", {"base": "/", "platbase": "/"}).strip("/"),
    "base_prefix": os.path.realpath(sys.base_prefix),
    "files": sorted({os.path.realpath(f) for f in (sys.executable, shared) if f and os.path.exists(f)}),
}))
"""
# Starts the interpreter that lies beside the script, wherever the environment is.
_RELATIVE_START: Final = (
    b'#!/bin/sh\n\'\'\'exec\' "$(dirname -- "$(realpath -- "$0")")/python" "$0" "$@"\n\' \'\'\'\n'
)
_PYTHON_START: Final = re.compile(rb"#![^\n]*python[^\n]*\n|#!/bin/sh\n'''exec' [^\n]*\n' '''\n")

_MATPLOTLIB_HOOK: Final = '''"""Gives matplotlib this environment's list of fonts.

It looks for the list in a folder that it can write to (MPLCONFIGDIR), so a link to it is put there.
"""

import os
import sys


def _link():
    folder = os.environ.get("MPLCONFIGDIR")
    source = os.path.join(sys.prefix, "FOLDER", "FILE")
    if folder and not os.path.lexists(folder):
        os.makedirs(folder, 0o700)
        os.symlink(source, os.path.join(folder, "FILE"))


try:
    _link()
except OSError:
    pass
'''
_MATPLOTLIB_SETTINGS: Final = """# The same code draws the same file.
backend: Agg
svg.hashsalt: praxis
"""


@dataclass(frozen=True)
class Interpreter:
    """What an interpreter says of itself, and what its files are.

    Args:
        version: `sys.version`.
        implementation: 'cpython'.
        abi: for which compiled modules are made.
        platform: such as 'linux-x86_64'.
        packages: the folder of packages in an environment, below its prefix.
        base_prefix: the folder of the installation that the environment stands on.
        digests: sha256 of its program and its shared library, by file name.
    """

    version: str
    implementation: str
    abi: str
    platform: str
    packages: str
    base_prefix: Path
    digests: tuple[tuple[str, str], ...]

    @classmethod
    def ask(cls, python: Path) -> Interpreter:
        """Start an interpreter and ask; no code of a package is loaded.

        Raises:
            ValidationError: it is no working Python of 3.11 or later (jobs are started with its `-P`).
        """
        try:
            answer = subprocess.run(
                [python, "-I", "-S", "-c", _ASK_INTERPRETER],
                capture_output=True,
                check=True,
                timeout=STEP_TIMEOUT_S,
            )
            said: dict[str, Any] = json.loads(answer.stdout)
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            raise ValidationError(
                f"'{python.name}' is not a Python of 3.11 or later that can be started", remedy="name another"
            ) from error
        return cls(
            version=said["version"],
            implementation=said["implementation"],
            abi=said["abi"],
            platform=said["platform"],
            packages=said["packages"],
            base_prefix=Path(said["base_prefix"]),
            digests=tuple((os.path.basename(path), file_digest(Path(path))) for path in said["files"]),
        )

    def identity(self) -> dict[str, Any]:
        """Return what is part of an environment's version; nothing of it is a path."""
        return {
            "version": self.version,
            "implementation": self.implementation,
            "abi": self.abi,
            "platform": self.platform,
            "digests": dict(self.digests),
        }


def create(prefix: Path, python: Path) -> Interpreter:
    """Make an empty environment.

    Raises:
        ValidationError: `python` is no working Python.
        PlatformError: it cannot make a virtual environment.
    """
    Interpreter.ask(python)
    _step([str(python), "-I", "-m", "venv", "--without-pip", "--symlinks", str(prefix)], "creating it")
    for name in _UNWANTED_PROGRAMS:
        (prefix / "bin" / name).unlink(missing_ok=True)
    kept = re.findall(
        r"(?m)^(?:home|include-system-site-packages|version) = .*$", _settings(prefix).read_text()
    )
    _settings(prefix).write_text("\n".join(kept) + "\n")
    return Interpreter.ask(prefix / "bin/python")


def install(
    prefix: Path,
    interpreter: Interpreter,
    definition: EnvironmentDefinition,
    say: Say,
    *,
    find_links: Path | None = None,
) -> None:
    """Install the requirements of a definition.

    Args:
        prefix: the environment; the folder around it is the build's own.
        interpreter: its interpreter.
        definition: what to install.
        say: called with one line for each package.
        find_links: a folder of wheels to use instead of pip's configured indexes.

    Raises:
        PlatformError: pip is not here, or could not install them; the message is its own.
    """
    if not definition.requirements.strip():
        return
    scratch = prefix.parent / "pip"
    requirements = prefix.parent / "requirements.txt"
    requirements.write_text(definition.requirements, "utf-8")
    command = [*_pip(prefix, interpreter, scratch), "--python", str(prefix / "bin/python"), "install"]
    command += ["--requirement", str(requirements), "--only-binary", ":all:", "--no-compile", "--no-input"]
    command += ["--disable-pip-version-check", "--no-warn-script-location", "--progress-bar", "off"]
    command += ["--require-hashes"] if definition.hashed else []
    command += ["--no-index", "--find-links", str(find_links)] if find_links else []
    _run_pip(command, say)


def settle(prefix: Path, interpreter: Interpreter) -> None:
    """Remove from installed packages what says where or how they were installed."""
    packages = prefix / interpreter.packages
    for script in sorted((prefix / "bin").iterdir()):
        if script.is_file() and not script.is_symlink():
            _make_relative(script)
    for record in sorted(packages.glob("*.dist-info/RECORD")):
        (record.parent / "direct_url.json").unlink(missing_ok=True)
        _rewrite_record(record, packages)


def add_fonts(prefix: Path, interpreter: Interpreter, fonts: FontList) -> None:
    """Put matplotlib's list of fonts and its settings into an environment."""
    folder = prefix / MATPLOTLIB_FOLDER
    folder.mkdir(parents=True)
    (folder / fonts.file).write_bytes(fonts.content)
    families = ", ".join(("sans-serif", *fonts.families))
    (folder / "matplotlibrc").write_text(f"{_MATPLOTLIB_SETTINGS}font.family: {families}\n")
    hook = _MATPLOTLIB_HOOK.replace("FOLDER", MATPLOTLIB_FOLDER).replace("FILE", fonts.file)
    packages = prefix / interpreter.packages
    (packages / "_praxis_matplotlib.py").write_text(hook)
    (packages / "_praxis_matplotlib.pth").write_text("import _praxis_matplotlib\n")


def compile_all(prefix: Path, interpreter: Interpreter, final: Path) -> None:
    """Compile every module of an environment; one that cannot be compiled is left to whoever imports it.

    Args:
        prefix: the environment.
        interpreter: its interpreter.
        final: where it will stand; tracebacks name this path.
    """
    command = [str(prefix / "bin/python"), "-I", "-S", "-m", "compileall", "-q", "-j", "0"]
    command += ["--invalidation-mode", "unchecked-hash", "-s", str(prefix), "-p", str(final)]
    _step([*command, str(prefix / interpreter.packages)], "compiling it", may_fail=True)


def installed_packages(prefix: Path, interpreter: Interpreter) -> tuple[tuple[str, str], ...]:
    """Return name and version of every installed package, by name."""
    found = metadata.distributions(path=[str(prefix / interpreter.packages)])
    return tuple(sorted((re.sub(r"[-_.]+", "-", one.name).lower(), one.version) for one in found))


def _settings(prefix: Path) -> Path:
    return prefix / "pyvenv.cfg"


def _step(command: Sequence[str], doing: str, *, may_fail: bool = False) -> None:
    try:
        done = subprocess.run(
            command, capture_output=True, check=False, timeout=STEP_TIMEOUT_S, env=_host_variables(), cwd="/"
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PlatformError(f"the environment failed while {doing}: {type(error).__name__}") from error
    if done.returncode != 0 and not may_fail:
        lines = (done.stdout + done.stderr).decode("utf-8", "replace").strip().splitlines() or [""]
        raise PlatformError(f"the environment failed while {doing}: {Sanitizer().message(lines[-1])}")


def _host_variables() -> dict[str, str]:
    """Return the caller's environment, which holds pip's configuration, without what steers an interpreter."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("PYTHON") and name not in ("VIRTUAL_ENV", "__PYVENV_LAUNCHER__")
    }


def _pip(prefix: Path, interpreter: Interpreter, scratch: Path) -> list[str]:
    """Return a command that is pip: the caller's own, or one of the other interpreter's age, made for this build."""
    if interpreter.version == sys.version and importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-P", "-m", "pip"]
    base = os.path.realpath(prefix / "bin/python")
    _step([base, "-I", "-m", "venv", str(scratch)], "getting pip (is ensurepip, 'python3-venv', installed?)")
    return [str(scratch / "bin/python"), "-P", "-m", "pip"]


def _run_pip(command: Sequence[str], say: Say) -> None:
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=_host_variables(),
        cwd="/",
        text=True,
        errors="replace",
    )
    # Reading ends when pip does, and pip ends when its time is up, whatever it is waiting for.
    alarm = threading.Timer(INSTALL_TIMEOUT_S, process.kill)
    alarm.start()
    kept: list[str] = []
    try:
        with process:
            assert process.stdout is not None
            for line in process.stdout:
                kept = [*kept, line.strip()][-_MAX_KEPT_LINES:]
                _tell(line, say)
    except BaseException:
        process.kill()
        raise
    finally:
        alarm.cancel()
    if process.returncode != 0:
        wrong = [line.removeprefix("ERROR: ") for line in kept if line.startswith("ERROR: ")] or kept[-1:]
        sanitizer = Sanitizer()
        raise PlatformError(
            f"pip could not install the requirements: {sanitizer.message(' '.join(wrong[-3:]), max_bytes=600)}",
            remedy="check names, versions and hashes, and that pip's index can be reached",
        )


def _tell(line: str, say: Say) -> None:
    words = line.split()
    if line.startswith(("Collecting ", "Processing ")) and len(words) > 1:
        say(f"fetching {os.path.basename(words[1])}")
    elif line.startswith("Installing collected packages:"):
        say(f"unpacking {len(words) - 3} packages")


def _make_relative(script: Path) -> None:
    """Let a script start the interpreter beside it and not the one at the path where it was installed."""
    if script.stat().st_size > _MAX_SCRIPT_BYTES:
        return
    content = script.read_bytes()
    start = _PYTHON_START.match(content)
    if start:
        script.write_bytes(_RELATIVE_START + content[start.end() :])
        script.chmod(0o755)


def _rewrite_record(record: Path, packages: Path) -> None:
    """Bring a package's list of files up to date with what was changed."""
    rows = []
    for path, digest, size in csv.reader(io.StringIO(record.read_text("utf-8"))):
        if path.endswith("/direct_url.json"):
            continue
        file = packages / path
        if path.startswith("../") and digest and file.is_file():
            content = file.read_bytes()
            sha256 = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
            digest, size = f"sha256={sha256}", str(len(content))
        rows.append((path, digest, size))
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(sorted(rows))
    record.write_text(text.getvalue(), "utf-8")
