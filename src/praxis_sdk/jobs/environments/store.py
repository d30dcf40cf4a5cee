"""Environments: immutable, pinned interpreters and package sets that jobs run in (spec 3, section 9).

    PRAXIS_HOME/environments/
        science -> science-0a1b2c3d4e5f     a name points to the version that was built last
        science-0a1b2c3d4e5f/               one environment: a virtual environment, read-only
            environment.json                what it is
            manifest.json                   every file of it with its digest
        .building-1f2e3d4c/                 a build that is going on, or that crashed; never listed

A version is made of the content (`environment_content`), so the same version is the same behaviour, and a newer
one never changes an older one: a result can always be traced to exactly what made it, and run again with it.
A build happens beside the others and is published by one rename; what crashed is cleared by the next build.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from praxis_sdk.errors import PlatformError, ValidationError
from praxis_sdk.jobs.environments import build as steps
from praxis_sdk.jobs.environments import content, inspection
from praxis_sdk.jobs.environments.build import Interpreter, Say
from praxis_sdk.jobs.environments.definition import (
    EnvironmentDefinition,
    check_name,
    is_version,
    shipped_definitions,
)
from praxis_sdk.jobs.environments.record import Environment, Package, is_system_path, variables_at
from praxis_sdk.log import get_logger

__all__ = ["Environment", "EnvironmentInUse", "EnvironmentMissing", "EnvironmentStore", "Package"]

log: Final = get_logger("praxis.environments")

_STAGING: Final = ".building-"
_REMOVED: Final = ".removed-"
_LOCK: Final = ".lock"


class EnvironmentMissing(PlatformError):
    """No environment has this name or version."""


class EnvironmentInUse(PlatformError):
    """Somebody runs jobs in the environment, so it stays."""


class EnvironmentStore:
    """The environments of one Praxis home.

    Args:
        home: PRAXIS_HOME; environments are in its folder `environments`.
        now: the time, for tests.
    """

    def __init__(self, home: Path, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self.folder = Path(os.path.realpath(home)) / "environments"
        self._now = now

    def build(
        self,
        name: str,
        requirements: str | Path | None = None,
        *,
        python: str | Path | None = None,
        preload: Sequence[str] | None = None,
        say: Say = lambda line: None,
        find_links: Path | None = None,
    ) -> Environment:
        """Build an environment, or find that this content exists already; then the name points to it.

        Blocks, for seconds to minutes: call it from a thread where an event loop runs.

        Args:
            name: its name.
            requirements: text or file of requirements; unless given, those of the shipped definition.
            python: the interpreter; unless given, the one that runs this.
            preload: modules that jobs find imported; unless given, the shipped definition's, or none.
            say: called with one line of progress now and then.
            find_links: a folder of wheels, used instead of pip's indexes.

        Raises:
            ValidationError: name, requirements, interpreter or preload are not acceptable.
            IsolationUnavailable: this host cannot build the sandbox in which packages are first imported.
            PlatformError: packages could not be installed.
        """
        definition = _definition(name, requirements, preload)
        interpreter_path = Path(python) if python is not None else _own_interpreter()
        with self._staging() as staging:
            tree = staging / "tree"
            built = self._build_into(tree, definition, interpreter_path, say, find_links)
            environment = self._publish(tree, built)
        say(f"{environment.env_version} is ready")
        return environment

    def ensure(self, name: str, *, say: Say = lambda line: None) -> Environment:
        """Return an environment; a shipped one is built first where it is missing or its definition is newer.

        Raises:
            EnvironmentMissing: nothing has this name, and Praxis ships none such.
            PlatformError: as for `build`.
        """
        definition = None if is_version(name) else shipped_definitions().get(name)
        if definition is None:
            return self.get(name)
        with contextlib.suppress(PlatformError):  # missing or damaged
            environment = self.get(name)
            if environment.definition_digest == definition.digest(sys.version):
                return environment
        return self.build(name, say=say)

    def list(self) -> tuple[Environment, ...]:
        """Return every environment, by name, the oldest of each first; damaged ones are left out and logged."""
        if not self.folder.is_dir():
            return ()
        found = []
        for entry in os.scandir(self.folder):
            if is_version(entry.name) and entry.is_dir(follow_symlinks=False):
                try:
                    found.append(Environment.load(self.folder / entry.name))
                except PlatformError as error:
                    log.warning("environment_damaged", env_version=entry.name, problem=error.message)
        return tuple(sorted(found, key=lambda one: (one.name, one.created_at, one.env_version)))

    def get(self, name_or_version: str) -> Environment:
        """Return the environment of a version, or the newest of a name.

        Raises:
            EnvironmentMissing: there is none.
            PlatformError: its description is damaged.
        """
        version = name_or_version if is_version(name_or_version) else self._newest(name_or_version)
        if version is None or not is_version(version) or not (self.folder / version).is_dir():
            known = ", ".join(sorted({one.name for one in self.list()})) or "none"
            raise EnvironmentMissing(
                f"no environment {name_or_version[:80]!a}; there are: {known}",
                remedy="praxis env build NAME --requirements FILE",
            )
        return Environment.load(self.folder / version)

    @contextlib.contextmanager
    def hold(self, environment: Environment) -> Iterator[None]:
        """Keep an environment from being removed, as long as jobs may run in it; also across processes.

        Raises:
            EnvironmentMissing: it has been removed.
        """
        with self._shared_lock(environment):
            yield

    def remove(self, environment: Environment) -> None:
        """Delete an environment; its name then points to the newest of those that are left.

        Raises:
            EnvironmentInUse: somebody holds it.
            EnvironmentMissing: it is not here.
        """
        with self._locked(), self._shared_lock(environment) as descriptor:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise EnvironmentInUse(
                    f"{environment.env_version} is in use", remedy="stop the workers that run jobs in it"
                ) from error
            self._set_aside(environment.env_version)
            left = [one.env_version for one in self.list() if one.name == environment.name]
            if self._newest(environment.name) == environment.env_version:
                self._point(environment.name, left[-1] if left else None)
        self._clear()

    def verify(self, environment: Environment) -> tuple[str, ...]:
        """Compare an environment with what it was when it was built.

        Returns:
            What is wrong, one line each and the path first; nothing when all is as it was.
        """
        try:
            stored = Environment.load(environment.prefix)
            manifest = json.loads((environment.prefix / content.MANIFEST_FILE).read_bytes())
        except (OSError, ValueError, PlatformError) as error:
            return (f"{content.ENVIRONMENT_FILE}: {type(error).__name__}",)
        problems = []
        if content.manifest_digest(manifest) != stored.manifest_digest:
            problems.append(f"{content.MANIFEST_FILE}: has changed")
        found = content.manifest_of(environment.prefix)
        problems += content.differences(manifest, found)
        try:
            interpreter = Interpreter.ask(environment.python).identity()
        except ValidationError:
            return (*problems, "bin/python: does not start")
        if interpreter != dict(stored.interpreter):
            problems.append("bin/python: the interpreter of this host is another one now")
        version = content.version_of(stored.name, found, interpreter, stored.preload)
        if version != stored.env_version and not problems:
            problems.append(f"{content.ENVIRONMENT_FILE}: does not belong to this content")
        return tuple(problems)

    def _build_into(
        self,
        prefix: Path,
        definition: EnvironmentDefinition,
        python: Path,
        say: Say,
        find_links: Path | None,
    ) -> Environment:
        """Make the files of an environment; returns its description as it will be at its final path."""
        say("creating the environment")
        interpreter = steps.create(prefix, python)
        steps.install(prefix, interpreter, definition, say, find_links=find_links)
        steps.settle(prefix, interpreter)
        content.make_readable(prefix)
        packages = steps.installed_packages(prefix, interpreter)
        has_matplotlib = any(name == "matplotlib" for name, _ in packages)
        if definition.preload or has_matplotlib:
            say("importing what jobs will find imported")
            fonts = inspection.inspect(
                prefix,
                binds=[] if _is_shown(interpreter.base_prefix) else [interpreter.base_prefix],
                variables=variables_at(inspection.INSIDE),
                preload=definition.preload,
                has_matplotlib=has_matplotlib,
            )
            if fonts is not None:
                steps.add_fonts(prefix, interpreter, fonts)
                content.make_readable(prefix)
        versioned = content.manifest_of(prefix)
        version = content.version_of(definition.name, versioned, interpreter.identity(), definition.preload)
        final = self.folder / version
        if packages:
            say("compiling")
            steps.compile_all(prefix, interpreter, final)
        content.make_read_only(prefix)
        manifest = content.manifest_of(prefix)
        environment = Environment(
            name=definition.name,
            env_version=version,
            prefix=final,
            site_packages=final / interpreter.packages,
            base_prefix=interpreter.base_prefix,
            interpreter=interpreter.identity(),
            preload=definition.preload,
            packages=tuple(Package(*package) for package in packages),
            created_at=self._now(),
            definition_digest=definition.digest(interpreter.version),
            manifest_digest=content.manifest_digest(manifest),
        )
        prefix.chmod(0o755)
        _write_json(prefix / content.MANIFEST_FILE, manifest)
        _write_json(prefix / content.ENVIRONMENT_FILE, environment.to_json())
        return environment

    @contextlib.contextmanager
    def _staging(self) -> Iterator[Path]:
        """Give a build a folder of its own; if it dies, the next build deletes what it left there."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._locked():
            staging = self.folder / f"{_STAGING}{secrets.token_hex(4)}"
            staging.mkdir(mode=0o755)
            descriptor = os.open(staging, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(descriptor, fcntl.LOCK_EX)  # whoever can lock it knows that its build is gone
        try:
            self._clear()
            yield staging
        finally:
            content.delete_tree(staging)
            os.close(descriptor)

    def _clear(self) -> None:
        """Delete what was removed, and what builds left behind that died, unless somebody still uses it."""
        with self._locked():
            for path in (*self.folder.glob(f"{_STAGING}*"), *self.folder.glob(f"{_REMOVED}*")):
                descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    content.delete_tree(path)
                except BlockingIOError:
                    continue
                finally:
                    os.close(descriptor)

    def _publish(self, tree: Path, built: Environment) -> Environment:
        """Make a finished build visible under its version, and let its name point to it."""
        with self._locked():
            if built.prefix.exists():
                existing = self._intact(built)
                if existing is not None:
                    self._point(built.name, built.env_version)
                    return existing
                self._set_aside(built.env_version)
            # The whole environment appears at once, or not at all.
            os.rename(tree, built.prefix)
            built.prefix.chmod(0o555)
            self._point(built.name, built.env_version)
        self._clear()
        return built

    def _intact(self, built: Environment) -> Environment | None:
        """Return the environment that has this version already; None where it is damaged."""
        if self.verify(built):
            return None
        existing = Environment.load(built.prefix)
        if existing.definition_digest == built.definition_digest:
            return existing
        # The same content from other requirements: remember those, so that `ensure` need not build again.
        described = replace(existing, definition_digest=built.definition_digest)
        existing.prefix.chmod(0o755)
        _write_json(existing.prefix / content.ENVIRONMENT_FILE, described.to_json())
        existing.prefix.chmod(0o555)
        return described

    def _set_aside(self, version: str) -> None:
        """Rename an environment to where nobody finds it, to be deleted; with the lock held."""
        os.rename(self.folder / version, self.folder / f"{_REMOVED}{secrets.token_hex(4)}")

    def _newest(self, name: str) -> str | None:
        """Return the version that a name points to."""
        try:
            check_name(name)
            return os.path.basename(os.readlink(self.folder / name))
        except (OSError, ValidationError):
            return None

    def _point(self, name: str, version: str | None) -> None:
        """Let a name point to a version, or to none; with the lock held."""
        if version is None:
            (self.folder / name).unlink(missing_ok=True)
            return
        link = self.folder / f".{name}.new"
        link.unlink(missing_ok=True)
        link.symlink_to(version)
        os.replace(link, self.folder / name)

    @contextlib.contextmanager
    def _shared_lock(self, environment: Environment) -> Iterator[int]:
        try:
            descriptor = os.open(environment.prefix, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise EnvironmentMissing(f"{environment.env_version} is not here") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            if not environment.prefix.exists():  # removed between the two steps
                raise EnvironmentMissing(f"{environment.env_version} is not here")
            yield descriptor
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Be the only one that changes what is listed; never held while packages are installed."""
        descriptor = os.open(self.folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _definition(
    name: str, requirements: str | Path | None, preload: Sequence[str] | None
) -> EnvironmentDefinition:
    check_name(name)
    shipped = shipped_definitions().get(name)
    if requirements is None and shipped is None:
        raise ValidationError(
            f"environment '{name}': needs requirements; Praxis ships no definition of that name"
        )
    if isinstance(requirements, Path):
        try:
            requirements = requirements.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ValidationError(f"environment '{name}': cannot read its requirements: {error}") from error
    if requirements is None and shipped is not None:
        return shipped if preload is None else replace(shipped, preload=tuple(preload))
    return EnvironmentDefinition(name, requirements or "", tuple(preload or ()))


def _own_interpreter() -> Path:
    """Return the interpreter behind this one, which may itself be that of a virtual environment."""
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    candidates = (Path(sys.base_prefix) / "bin" / version, Path(os.path.realpath(sys.executable)))
    return next((path for path in candidates if os.access(path, os.X_OK)), Path(sys.executable))


def _is_shown(base_prefix: Path) -> bool:
    """Tell whether every sandbox shows a folder already."""
    return is_system_path(base_prefix) or base_prefix == Path(os.path.realpath(sys.base_prefix))


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a file in one step: a reader sees the old or the new one, whole."""
    new = path.with_name(f".{path.name}.new")
    with new.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=1, ensure_ascii=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    new.chmod(0o444)
    os.replace(new, path)
