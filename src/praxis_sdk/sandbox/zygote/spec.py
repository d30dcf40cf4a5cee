"""What a zygote is to be, as data: an interpreter, what it sees and has imported, and the program that jobs run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from praxis_sdk.sandbox.init.baseroot import INLINE_DIRECTORY, SYSTEM_DIRECTORIES, TMP, WORKDIR, tool_path
from praxis_sdk.sandbox.policy import Bind, PolicyError, is_within

MAX_PRELOADED = 256
RECYCLE_AFTER = 10_000
_RESERVED = ("/proc", "/dev", "/sys", "/etc", "/run/praxis", INLINE_DIRECTORY, TMP, WORKDIR)
_DEFAULTS = {"HOME": TMP, "TMPDIR": TMP, "LANG": "C.UTF-8"}


@dataclass(frozen=True)
class Zygote:
    """One environment, ready to be forked from.

    Args:
        python: the interpreter, as a path inside.
        program: a Python file of the host, or the folder of a package, with `main(fd) -> int`, called in every child;
            loaded last. Instead of `main` it may have `begin(fd)`, which returns what is to be called, or the command
            line of a program to be started with an init of its own; `rehearse()`, called in the zygote before it
            forks; and `SEEDED`, the modules whose random numbers it seeds in every child. A package imports all of its
            own modules when it is imported itself.
        search_paths: further directories to import from, as paths inside.
        binds: directories shown read-only: a path of the host (at the same path), or a `Bind` to another place.
            Their files must be readable for everybody.
        preload: modules to import, in this order.
        variables: the whole environment, besides defaults for PATH, HOME, TMPDIR and LANG. What an interpreter reads at
            its start belongs here, such as PYTHONHASHSEED: children cannot change it any more.
        recycle_after: a fresh zygote takes over after so many children.

    Raises:
        PolicyError: a path is not acceptable.
    """

    python: Path
    program: Path
    search_paths: tuple[Path, ...] = ()
    binds: tuple[Path | Bind, ...] = ()
    preload: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)
    recycle_after: int = RECYCLE_AFTER

    def __post_init__(self) -> None:
        if len(self.preload) > MAX_PRELOADED or self.recycle_after < 1:
            raise PolicyError(f"zygote: at most {MAX_PRELOADED} modules, and recycle_after of at least 1")
        for path in (self.python, self.program, *self.search_paths):
            if not path.is_absolute():
                raise PolicyError(f"zygote: {path} is not an absolute path")
        for _, target in self._shown():
            if not target.startswith("/") or any(
                is_within(target, taken) or is_within(taken, target) for taken in _RESERVED
            ):
                raise PolicyError(f"zygote: {target} is the sandbox's own; bind it to another place")

    def settings(self) -> dict[str, Any]:
        """Return what the launcher needs to know."""
        return {
            "python": str(self.python),
            "program": str(self.program),
            "search_paths": [str(path) for path in self.search_paths],
            "binds": [
                (source, target)
                for source, target in self._shown()
                if not any(is_within(target, system) for system in SYSTEM_DIRECTORIES)
            ],
            "preload": list(self.preload),
            "variables": {"PATH": tool_path(), **_DEFAULTS, **self.variables},
            "recycle_after": self.recycle_after,
        }

    def _shown(self) -> list[tuple[str, str]]:
        return [
            (str(bind.source), bind.target) if isinstance(bind, Bind) else (str(bind), str(bind))
            for bind in self.binds
        ]
