"""Where this user's Praxis keeps things: environments, artifacts, results.

PRAXIS_HOME         the folder; unless set, $XDG_DATA_HOME/praxis, or ~/.local/share/praxis
PRAXIS_ARTIFACTS    where artifacts are: s3://bucket/prefix or a folder; unless set, `artifacts` in the home
PRAXIS_SECRETS      the folder of secrets; unless set, `secrets` in the home
PRAXIS_JOB_LIMITS   the most that jobs may ask for: memory_bytes=4G,wall_s=1h
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from praxis_sdk.errors import PlatformError, ValidationError
from praxis_sdk.installation import HOME_VARIABLE, home_path

if TYPE_CHECKING:
    from praxis_sdk.jobs.artifacts import ArtifactStore
    from praxis_sdk.jobs.environments.store import Environment, EnvironmentStore
    from praxis_sdk.jobs.executor.executor import JobExecutor
    from praxis_sdk.jobs.executor.results import ResultStore
    from praxis_sdk.jobs.payload.limits import JobLimits
    from praxis_sdk.secrets import SecretProvider, SecretSources

JOB_LIMITS_VARIABLE: Final = "PRAXIS_JOB_LIMITS"
ARTIFACTS_VARIABLE: Final = "PRAXIS_ARTIFACTS"


@dataclass(frozen=True)
class Home:
    """A Praxis home; nothing is read or written before a store is asked for something.

    Args:
        path: its folder, absolute.
    """

    path: Path

    @classmethod
    def of_user(cls) -> Home:
        """Return the home that the environment names.

        Raises:
            ValidationError: it names none.
        """
        path = home_path()
        if path is None:
            raise ValidationError(
                f"{HOME_VARIABLE}: not set, and this user has no home", remedy="set it to a folder"
            )
        return cls(path)

    def make_writable(self) -> None:
        """Make the folder, for its owner only, where it is missing.

        Raises:
            PlatformError: it cannot be made or written to.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.mkdir(mode=0o700, exist_ok=True)
            writable = os.access(self.path, os.W_OK | os.X_OK)
            reason = "no right to write there"
        except OSError as error:
            writable, reason = False, os.strerror(error.errno or 0)
        if not writable:
            raise PlatformError(
                f"the Praxis home {self.path} cannot be written to: {reason}",
                remedy=f"set {HOME_VARIABLE} to a folder of yours",
            )

    @property
    def secrets_folder(self) -> Path:
        """Where secrets are kept, a file each."""
        return self.path / "secrets"

    def secret_sources(self, *first: SecretProvider) -> SecretSources:
        """Return where this host's workers look for secrets.

        Args:
            first: asked before the others.

        Raises:
            ValidationError: a setting is not acceptable.
        """
        from praxis_sdk.secrets import SecretSources

        return SecretSources.of(self.secrets_folder, os.environ, *first)

    @property
    def writable(self) -> bool:
        """Whether files can be made in it."""
        return os.access(self.path, os.W_OK | os.X_OK)

    def environments(self) -> EnvironmentStore:
        """Open the environments."""
        from praxis_sdk.jobs.environments.store import EnvironmentStore

        return EnvironmentStore(self.path)

    def artifacts(self) -> ArtifactStore:
        """Open the artifact store.

        Raises:
            ValidationError: `PRAXIS_ARTIFACTS` is no address of a store.
            MissingExtra: it is one in S3, and the library for that is not installed.
        """
        from praxis_sdk.jobs.artifacts import ArtifactStore

        url = os.environ.get(ARTIFACTS_VARIABLE, "")
        try:
            return ArtifactStore.open(url or self.path / "artifacts")
        except ValidationError as error:
            raise ValidationError(f"{ARTIFACTS_VARIABLE}: {error.message}", remedy=error.remedy) from error

    def results(self) -> ResultStore:
        """Open the results."""
        from praxis_sdk.jobs.executor.results import ResultStore

        return ResultStore(self.path)

    def job_limits(self, more: Iterable[str] = ()) -> JobLimits:
        """Return the most that jobs may ask for here.

        Args:
            more: `NAME=VALUE` each, which take precedence over the variable.

        Raises:
            ValidationError: `PRAXIS_JOB_LIMITS` or one of them is not acceptable.
        """
        from praxis_sdk.jobs.payload.limits import read_ceiling

        given = filter(str.strip, os.environ.get(JOB_LIMITS_VARIABLE, "").split(","))
        return read_ceiling(more, "--job-limit", read_ceiling(given, JOB_LIMITS_VARIABLE))

    def executor(self, *, for_one: bool = False) -> JobExecutor:
        """Make an executor of jobs, or of one job; the caller closes it."""
        from praxis_sdk.jobs.executor.executor import JobExecutor

        return JobExecutor(self.artifacts(), self.environments(), self.results(), for_one=for_one)


def named_environment(store: EnvironmentStore, name: str) -> Environment:
    """Return the environment that the user names.

    Raises:
        ValidationError: there is none.
        PlatformError: it is damaged.
    """
    return _known(lambda: store.get(name))


def ready_environment(store: EnvironmentStore, name: str, say: Callable[[str], None]) -> Environment:
    """Return the environment that the user names; one that comes with Praxis is built where it is missing.

    Raises:
        ValidationError: there is none.
        PlatformError: it is damaged or cannot be built.
    """
    return _known(lambda: store.ensure(name, say=say))


def _known(find: Callable[[], Environment]) -> Environment:
    from praxis_sdk.jobs.environments.store import EnvironmentMissing

    try:
        return find()
    except EnvironmentMissing as error:  # a word of the command line is wrong, not the platform
        raise ValidationError(error.message, remedy=error.remedy) from error
