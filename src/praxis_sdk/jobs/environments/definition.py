"""What an environment is made from: requirements and modules to preload; two definitions come with Praxis."""

from __future__ import annotations

import hashlib
import re
import tomllib
from dataclasses import dataclass
from importlib import resources
from typing import Final

from praxis_sdk.errors import ValidationError
from praxis_sdk.jobs.payload import strict_json

MAX_REQUIREMENTS_BYTES: Final = 4 << 20
MAX_PRELOAD: Final = 256

_DEFINITIONS: Final = "definitions"
_NAME: Final = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_VERSION: Final = re.compile(rf"({_NAME.pattern})-[0-9a-f]{{12}}")
_MODULE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*")
_CONSTRAINT: Final = r"(===|==|~=|!=|<=|>=|<|>)\s*[A-Za-z0-9][A-Za-z0-9.*+!_-]*"
_REQUIREMENT: Final = re.compile(
    r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?\s*"
    r"(\[[A-Za-z0-9._,\s-]*\]\s*)?"
    rf"({_CONSTRAINT}(\s*,\s*{_CONSTRAINT})*\s*)?"
    r"(;[A-Za-z0-9_.\s'\"<>=!~(),*+-]*)?"
)
_HASH: Final = re.compile(r"\s+--hash=sha(256|384|512):[0-9a-f]+")


@dataclass(frozen=True)
class EnvironmentDefinition:
    """A name, what to install and what to import ahead of every job.

    Args:
        name: lower-case words joined by '-'.
        requirements: lines of a requirements file; names, versions, markers and hashes only.
        preload: modules that a job finds imported.
        description: one line for people.

    Raises:
        ValidationError: one of them is not acceptable.
    """

    name: str
    requirements: str = ""
    preload: tuple[str, ...] = ()
    description: str = ""

    def __post_init__(self) -> None:
        check_name(self.name)
        if len(self.requirements.encode()) > MAX_REQUIREMENTS_BYTES:
            raise ValidationError(f"environment {self.name}: requirements are larger than 4 MiB")
        requirement_lines(self.requirements)
        if len(self.preload) > MAX_PRELOAD:
            raise ValidationError(f"environment {self.name}: more than {MAX_PRELOAD} modules to preload")
        for module in self.preload:
            if not _MODULE.fullmatch(module):
                raise ValidationError(f"environment {self.name}: {module[:80]!a} is not the name of a module")

    @property
    def hashed(self) -> bool:
        """Whether the requirements have hashes; then each of them must have one."""
        return "--hash=" in self.requirements

    def names_package(self, name: str) -> bool:
        """Tell whether a package of this name is among the requirements."""
        pattern = re.compile(rf"{re.escape(name)}\b(?![-._])", re.IGNORECASE)
        return any(pattern.match(line) for line in requirement_lines(self.requirements))

    def digest(self, python_version: str) -> str:
        """Return what tells whether an environment was made from this definition.

        Args:
            python_version: `sys.version` of its interpreter.
        """
        document = [1, requirement_lines(self.requirements), list(self.preload), python_version]
        return hashlib.sha256(strict_json.canonical(document)).hexdigest()


def shipped_definitions() -> dict[str, EnvironmentDefinition]:
    """Return the definitions that come with Praxis, by name."""
    root = resources.files("praxis_sdk.jobs.environments").joinpath(_DEFINITIONS)
    definitions = {}
    for folder in sorted(root.iterdir(), key=lambda entry: entry.name):
        about = tomllib.loads(folder.joinpath("environment.toml").read_text("utf-8"))
        definitions[folder.name] = EnvironmentDefinition(
            name=folder.name,
            requirements=folder.joinpath("requirements.txt").read_text("utf-8"),
            preload=tuple(about["preload"]),
            description=about["description"],
        )
    return definitions


def check_name(name: str) -> None:
    """Refuse what is no name of an environment.

    Raises:
        ValidationError: it is none, or reads like a version of one.
    """
    if not _NAME.fullmatch(name) or len(name) > 64:
        raise ValidationError(
            f"{name[:80]!a} is not a name for an environment", remedy="use lower-case words joined by '-'"
        )
    if _VERSION.fullmatch(name):
        raise ValidationError(f"{name!a} reads like a version of an environment", remedy="use another name")


def is_version(text: str) -> bool:
    """Tell whether a text has the form of an `env_version`: NAME-<12 hexadecimal digits>."""
    return _VERSION.fullmatch(text) is not None


def requirement_lines(text: str) -> list[str]:
    """Return the requirements of a file, one logical line each, without comments.

    Options, addresses and paths are refused: where packages come from is pip's configuration, what an environment
    holds is here; and a source tree would run its own code on this host.

    Raises:
        ValidationError: a line is no plain requirement; the message names the line.
    """
    requirements = []
    joined, first = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        first = first if joined else number
        content = re.sub(r"(^|\s)#.*$", "", line).rstrip()
        if content.endswith("\\"):
            joined += content[:-1] + " "
            continue
        requirement, joined = " ".join((joined + content).split()), ""
        if requirement:
            _check_requirement(requirement, first)
            requirements.append(requirement)
    if joined.strip():
        raise ValidationError(f"requirements, line {first}: ends with a backslash")
    return requirements


def _check_requirement(requirement: str, line: int) -> None:
    if not _REQUIREMENT.fullmatch(_HASH.sub("", " " + requirement).strip()):
        raise ValidationError(
            f"requirements, line {line}: only names, versions, markers and sha256 hashes can stand here",
            remedy="name indexes in pip's own configuration; build source trees into wheels first",
        )
