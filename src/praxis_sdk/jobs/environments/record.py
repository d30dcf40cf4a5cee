"""`Environment`: what is known of one environment, and what a job in it is given."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any, Final

from praxis_sdk.errors import PlatformError
from praxis_sdk.jobs.environments.content import ENVIRONMENT_FILE
from praxis_sdk.sandbox.init.baseroot import SYSTEM_DIRECTORIES

TOOL_PATH: Final = "/usr/local/bin:/usr/bin:/bin"
# The first moment that a zip archive can hold; files that tell when they were made tell this.
SOURCE_DATE_EPOCH: Final = 315_532_800
MATPLOTLIB_FOLDER: Final = "share/praxis/matplotlib"


@dataclass(frozen=True)
class Package:
    """One installed package: its normalised name and its version."""

    name: str
    version: str


@dataclass(frozen=True)
class Environment:
    """One environment; nothing of it ever changes.

    Args:
        name: its name.
        env_version: NAME-<12 hexadecimal digits>, made of its content.
        prefix: its folder, readable by everybody.
        site_packages: its folder of packages.
        base_prefix: the interpreter's own installation, which a sandbox must show as well.
        interpreter: what identifies the interpreter: version, implementation, abi, platform, digests.
        preload: modules that every job finds imported.
        packages: what is installed, by name.
        created_at: when it was built.
        definition_digest: of what it was built from.
        manifest_digest: of its whole content.
    """

    name: str
    env_version: str
    prefix: Path
    site_packages: Path
    base_prefix: Path
    interpreter: Mapping[str, Any]
    preload: tuple[str, ...]
    packages: tuple[Package, ...]
    created_at: datetime
    definition_digest: str
    manifest_digest: str

    @classmethod
    def load(cls, prefix: Path) -> Environment:
        """Read the description of an environment.

        Args:
            prefix: its folder.

        Raises:
            PlatformError: the description is missing or damaged.
        """
        try:
            said = json.loads((prefix / ENVIRONMENT_FILE).read_bytes())
            return cls(
                name=said["name"],
                env_version=said["env_version"],
                prefix=prefix,
                site_packages=prefix / said["site_packages"],
                base_prefix=Path(said["base_prefix"]),
                interpreter=said["interpreter"],
                preload=tuple(said["preload"]),
                packages=tuple(Package(name, number) for name, number in said["packages"].items()),
                created_at=datetime.fromisoformat(said["created_at"]),
                definition_digest=said["definition_digest"],
                manifest_digest=said["manifest_digest"],
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise PlatformError(
                f"environment {prefix.name}: its description is damaged", remedy="build it again"
            ) from error

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.prefix / "bin/python"

    @property
    def command(self) -> tuple[str, ...]:
        """The interpreter as jobs start it.

        It trusts neither the user's packages (-s) nor the working folder (-P). It is not `-I`, which ignores
        PYTHONHASHSEED and so would make sets and dictionaries of text come in another order each time.
        """
        return (str(self.python), "-s", "-P")

    @property
    def python_version(self) -> str:
        """The interpreter's version, such as '3.11.2'."""
        return str(self.interpreter["version"]).split()[0]

    @property
    def variables(self) -> dict[str, str]:
        """The environment variables of every job: nothing of the host, the same result every time."""
        return variables_at(str(self.prefix))

    @property
    def bind_paths(self) -> tuple[Path, ...]:
        """The folders that a sandbox must show, read-only and at the same paths, besides the system's own."""
        paths = (self.prefix, self.base_prefix)
        return tuple(path for path in paths if not is_system_path(path))

    def has_module(self, name: str) -> bool:
        """Tell whether its interpreter would find a module of this name, by looking at its folders alone.

        Args:
            name: of a module or package at the top, without dots.
        """
        version = ".".join(self.python_version.split(".")[:2])
        own = [f"{self.base_prefix}/{library}/python{version}" for library in ("lib", "lib64")]
        places = [*own, *(f"{folder}/lib-dynload" for folder in own), str(self.site_packages)]
        PathFinder.invalidate_caches()
        return name in sys.builtin_module_names or PathFinder.find_spec(name, places) is not None

    def freeze(self) -> str:
        """Return the exact packages as lines of a requirements file."""
        return "".join(f"{package.name}=={package.version}\n" for package in self.packages)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values, as its file says it; no path is among them but that of the interpreter."""
        return {
            "format": 1,
            "name": self.name,
            "env_version": self.env_version,
            "created_at": self.created_at.isoformat(),
            "interpreter": dict(self.interpreter),
            "base_prefix": str(self.base_prefix),
            "site_packages": str(self.site_packages.relative_to(self.prefix)),
            "packages": {package.name: package.version for package in self.packages},
            "preload": list(self.preload),
            "definition_digest": self.definition_digest,
            "manifest_digest": self.manifest_digest,
        }


def variables_at(prefix: str) -> dict[str, str]:
    """Return the environment variables of every job of an environment.

    Args:
        prefix: where the environment is seen.
    """
    return {
        **{f"{library}_NUM_THREADS": "1" for library in ("BLIS", "MKL", "NUMEXPR", "OMP", "OPENBLAS")},
        "HOME": "/tmp",
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
        "MATPLOTLIBRC": f"{prefix}/{MATPLOTLIB_FOLDER}/matplotlibrc",
        "MPLBACKEND": "Agg",
        "MPLCONFIGDIR": "/tmp/.matplotlib",
        "PATH": f"{prefix}/bin:{TOOL_PATH}",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "0",
        "PYTHONNOUSERSITE": "1",
        "PYTHONUTF8": "1",
        "SOURCE_DATE_EPOCH": str(SOURCE_DATE_EPOCH),
        "TMPDIR": "/tmp",
        "TZ": "UTC",
    }


def is_system_path(path: Path) -> bool:
    """Tell whether every sandbox shows a path of the host anyway."""
    return any(path.is_relative_to(top) for top in SYSTEM_DIRECTORIES)
