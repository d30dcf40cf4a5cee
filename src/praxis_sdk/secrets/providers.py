"""Where secrets are: in files, in the worker's environment, behind a command, or in the memory of a command.

The operator of a worker decides; a tenant never names a file or a command.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import stat
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Protocol

from praxis_sdk.errors import PlatformError, ValidationError
from praxis_sdk.secrets.reference import GIVEN_PREFIX, SCHEME, check_name, is_given

FOLDER_VARIABLE: Final = "PRAXIS_SECRETS"
COMMAND_VARIABLE: Final = "PRAXIS_SECRET_COMMAND"
VARIABLE_PREFIX: Final = "PRAXIS_SECRET_"
MAX_BYTES: Final = 64 << 10
COMMAND_TIMEOUT_S: Final = 10.0


class SecretUnavailable(PlatformError):
    """A secret that an attempt needs cannot be had on this worker."""


@dataclass(frozen=True)
class Secret:
    """A secret.

    Args:
        name: what references call it.
        value: never shown, logged or stored.
        source: where it came from, for the audit.
        version: which version of it, for the audit; empty where the source knows none.
    """

    name: str
    value: str = field(repr=False)
    source: str
    version: str = ""


class SecretProvider(Protocol):
    """A place where secrets are."""

    def get(self, name: str) -> Secret | None:
        """Return a secret, or None where this place does not hold it.

        Raises:
            SecretUnavailable: the place cannot be asked, or what it holds must not be used.
        """


class FileSecrets:
    """A file per secret in a folder that only its owner can read.

    Args:
        folder: the folder, such as `secrets` in the home or what an orchestrator mounts.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, name: str) -> Secret | None:
        """Return a secret; one line end after it is not part of it."""
        try:
            fd = os.open(self.folder / check_name(name), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise SecretUnavailable(
                f"{SCHEME}{name}: cannot be read: {os.strerror(error.errno or 0)}"
            ) from error
        try:
            about = os.fstat(fd)
            if not stat.S_ISREG(about.st_mode):
                raise SecretUnavailable(f"{SCHEME}{name}: not a regular file")
            if about.st_mode & 0o007:
                raise SecretUnavailable(
                    f"{SCHEME}{name}: every user of this host can use its file",
                    remedy=f"chmod 600 {self.folder / name}",
                )
            content = os.read(fd, MAX_BYTES + 1)
        finally:
            os.close(fd)
        changed = datetime.fromtimestamp(about.st_mtime, UTC).isoformat(timespec="seconds")
        return Secret(name, _text(name, content), "file", changed)

    def put(self, name: str, value: str) -> None:
        """Keep a secret, in place of one of the same name; durable when this returns.

        Raises:
            ValidationError: name or value is not acceptable.
            PlatformError: it cannot be written.
        """
        path = self.folder / check_name(name)
        if is_given(name):
            raise ValidationError(
                f"{name!r}: names that begin with '{GIVEN_PREFIX}' are reserved", remedy="choose another"
            )
        content = value.encode()
        if not content or len(content) > MAX_BYTES or b"\0" in content:
            raise ValidationError(
                f"secret '{name}': a value has 1 to {MAX_BYTES} bytes and no NUL",
                remedy="keep larger data in a file",
            )
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd, made = tempfile.mkstemp(prefix=".new-", dir=self.folder)  # readable by its owner only
            try:
                with os.fdopen(fd, "wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(fd)
                os.replace(made, path)
            except BaseException:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(made)
                raise
            self._sync()
        except OSError as error:
            raise PlatformError(
                f"secret '{name}' cannot be written to {self.folder}: {os.strerror(error.errno or 0)}",
                remedy=f"set {FOLDER_VARIABLE} to a folder of yours",
            ) from error

    def remove(self, name: str) -> bool:
        """Remove a secret; returns whether there was one."""
        try:
            os.unlink(self.folder / check_name(name))
        except FileNotFoundError:
            return False
        except OSError as error:
            raise PlatformError(
                f"secret '{name}' cannot be removed: {os.strerror(error.errno or 0)}"
            ) from error
        self._sync()
        return True

    def names(self) -> list[tuple[str, datetime]]:
        """Return the names of all secrets, sorted, each with the time of its last change."""
        try:
            entries = [entry for entry in os.scandir(self.folder) if not entry.name.startswith(".")]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise PlatformError(f"{self.folder} cannot be read: {os.strerror(error.errno or 0)}") from error
        return sorted((one.name, datetime.fromtimestamp(one.stat().st_mtime, UTC)) for one in entries)

    def _sync(self) -> None:
        fd = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


class EnvironmentSecrets:
    """Secrets in variables of the worker: `PRAXIS_SECRET_<NAME>`.

    Args:
        environment: the variables.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment

    def get(self, name: str) -> Secret | None:
        """Return a secret; `db.password` is in `PRAXIS_SECRET_DB_PASSWORD`."""
        variable = VARIABLE_PREFIX + check_name(name).upper().replace(".", "_").replace("-", "_")
        value = self._environment.get(variable)
        return None if value is None or variable == COMMAND_VARIABLE else Secret(name, value, "environment")


class CommandSecrets:
    """Secrets that a command of the operator prints, such as `pass show praxis/{name}`.

    Args:
        argv: the command; `{name}` stands for the secret's name. Exit status 0 and the value on stdout, anything else
            means that there is no such secret.
    """

    def __init__(self, argv: Sequence[str]) -> None:
        self._argv = tuple(argv)

    @classmethod
    def of(cls, line: str) -> CommandSecrets:
        """Read the command as a shell would split it.

        Raises:
            ValidationError: it cannot be split, or it does not say where the name goes.
        """
        try:
            argv = shlex.split(line)
        except ValueError as error:
            raise ValidationError(f"{COMMAND_VARIABLE}: {error}", remedy="quote it as in a shell") from error
        if not any("{name}" in word for word in argv[1:]):
            raise ValidationError(
                f"{COMMAND_VARIABLE}: does not say where the name goes", remedy="write {name}"
            )
        return cls(argv)

    def get(self, name: str) -> Secret | None:
        """Ask the command; it has 10 seconds."""
        argv = [word.replace("{name}", check_name(name)) for word in self._argv]
        try:
            # A session of its own: at the bound all that it started is killed.
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as error:
            raise SecretUnavailable(
                f"{COMMAND_VARIABLE}: '{argv[0]}' cannot be started: {os.strerror(error.errno or 0)}"
            ) from error
        try:
            content, _ = process.communicate(timeout=COMMAND_TIMEOUT_S)
        except subprocess.TimeoutExpired as error:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, 9)
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
            raise SecretUnavailable(
                f"{COMMAND_VARIABLE}: '{argv[0]}' did not answer within {COMMAND_TIMEOUT_S:g} s"
            ) from error
        return None if process.returncode else Secret(name, _text(name, content), "command")


class GivenSecrets:
    """Values that this process was given; they are in its memory and nowhere else."""

    def __init__(self) -> None:
        self._values: dict[str, str] = {}

    def add(self, name: str, value: str) -> None:
        """Keep a value."""
        self._values[name] = value

    def get(self, name: str) -> Secret | None:
        """Return a value that was given."""
        value = self._values.get(name)
        return None if value is None else Secret(name, value, "given")


class SecretSources:
    """The places where a worker looks for secrets, one after the other.

    Args:
        providers: the places.
    """

    def __init__(self, *providers: SecretProvider) -> None:
        self._providers = providers

    @classmethod
    def of(cls, folder: Path, environment: Mapping[str, str], *first: SecretProvider) -> SecretSources:
        """Return those of this host.

        Args:
            folder: where files are unless `PRAXIS_SECRETS` names another.
            environment: the variables of this process.
            first: asked before the others.

        Raises:
            ValidationError: a setting is not acceptable.
        """
        named = environment.get(FOLDER_VARIABLE, "")
        command = environment.get(COMMAND_VARIABLE, "")
        return cls(
            *first,
            EnvironmentSecrets(environment),
            FileSecrets(Path(named) if named else folder),
            *([CommandSecrets.of(command)] if command else ()),
        )

    def get(self, name: str) -> Secret:
        """Return a secret.

        Raises:
            SecretUnavailable: no place has it.
        """
        for provider in self._providers:
            found = provider.get(name)
            if found is not None:
                return found
        if is_given(name):
            raise SecretUnavailable(
                "a secret that this execution was given has gone with the command that was given it",
                remedy="keep it with 'praxis secret set NAME' and give secret://NAME",
            )
        raise SecretUnavailable(
            f"{SCHEME}{name}: this worker has no such secret", remedy=f"praxis secret set {name}"
        )


def _text(name: str, content: bytes) -> str:
    if len(content) > MAX_BYTES:
        raise SecretUnavailable(f"{SCHEME}{name}: longer than {MAX_BYTES} bytes")
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise SecretUnavailable(f"{SCHEME}{name}: not UTF-8 text") from error
    text = text.removesuffix("\n").removesuffix("\r")
    if not text or "\0" in text:
        raise SecretUnavailable(f"{SCHEME}{name}: is empty or holds a NUL")
    return text
