"""Which limits an engine really enforces on this host, and for what: a tool's whole tree, or each process alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from praxis_sdk.errors import ValidationError
from praxis_sdk.execution.contract.specs import EngineSpec, IsolatedEngineSpec


class Scope(StrEnum):
    """What a limit counts."""

    TREE = "tree"  # all processes of the tool together
    PROCESS = "process"  # each process by itself: several may use more together
    NONE = "none"  # it is not enforced


@dataclass(frozen=True, slots=True)
class LimitSupport:
    """How one limit is enforced.

    Args:
        scope: what it counts.
        how: by which means, such as 'cgroup v2' or 'RLIMIT_AS'; empty where it is not enforced.
    """

    scope: Scope = Scope.NONE
    how: str = ""

    def to_json(self) -> dict[str, str | None]:
        """Return it as JSON values."""
        return {"scope": str(self.scope), "how": self.how or None}


LimitSupports = Mapping[str, LimitSupport]

NAMES: Final = ("memory", "cpu", "processes", "open_files", "file_size", "disk", "network")
NO_LIMITS: Final[LimitSupports] = dict.fromkeys(NAMES, LimitSupport())
_FIELDS: Final = {
    "memory_limit": "memory",
    "cpu_limit": "cpu",
    "pids_limit": "processes",
    "file_size_limit": "file_size",
    "scratch_size": "disk",
    "tmpfs_size": "disk",
}


def tree(how: str) -> LimitSupport:
    """Return the support of a limit that holds for all processes of a tool together."""
    return LimitSupport(Scope.TREE, how)


def limits_to_json(supports: LimitSupports) -> dict[str, Any]:
    """Return what is enforced as JSON, and the short answers that selection asks for."""

    def holds(*names: str) -> bool:
        return all(supports[name].scope is Scope.TREE for name in names)

    return {
        "limits": {name: supports[name].to_json() for name in NAMES},
        "supports_resource_limits": holds("memory", "cpu", "processes"),
        "supports_memory_limit": supports["memory"].scope is not Scope.NONE,
        "supports_cpu_limit": supports["cpu"].scope is not Scope.NONE,
        "supports_pids_limit": supports["processes"].scope is not Scope.NONE,
    }


def limits_of(capabilities: Mapping[str, Any]) -> LimitSupports:
    """Read what `limits_to_json` wrote; an engine that says nothing enforces nothing."""
    said = capabilities.get("limits")
    found = dict(NO_LIMITS)
    for name in NAMES:
        one = said.get(name) if isinstance(said, Mapping) else None
        if isinstance(one, Mapping) and one.get("scope") in tuple(Scope):
            found[name] = LimitSupport(Scope(one["scope"]), str(one.get("how") or ""))
    return found


def weaknesses(spec: EngineSpec, supports: LimitSupports) -> tuple[str, ...]:
    """Say which limits that a contract names do not hold for its tool's whole tree, a line each.

    Args:
        spec: the contract's fields for the engine.
        supports: what the engine enforces here.
    """
    if not isinstance(spec, IsolatedEngineSpec):
        return ()
    lines = []
    for field, name in _FIELDS.items():
        if field not in spec.model_fields_set or getattr(spec, field, None) is None:
            continue
        if supports[name].scope is Scope.PROCESS:
            how = f" ({supports[name].how})" if supports[name].how else ""
            lines.append(
                f"engineSpec.{field}: holds for each process by itself here{how}, not for all together"
            )
        elif supports[name].scope is Scope.NONE:
            lines.append(f"engineSpec.{field}: is not enforced here")
    return tuple(lines)


def check_strict(spec: EngineSpec, supports: LimitSupports) -> None:
    """Refuse a contract that demands its limits (`limits: strict`) where one would hold less than it says.

    Raises:
        ValidationError: names the first such limit.
    """
    lines = weaknesses(spec, supports)
    if lines and isinstance(spec, IsolatedEngineSpec) and spec.limits == "strict":
        raise ValidationError(
            f"{lines[0]}, and the contract demands 'limits: strict'",
            remedy="run it where cgroups can be written (see 'praxis doctor'), on docker, or without 'limits: strict'",
        )
