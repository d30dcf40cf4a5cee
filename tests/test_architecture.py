"""The architecture as data: which room may import which, and which module alone knows a library."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import praxis_sdk

PACKAGE = Path(praxis_sdk.__file__).parent

# Each room with the rooms below it: imports point downwards only. `ground` is the modules beside the rooms.
ROOMS: dict[str, frozenset[str]] = {
    "ground": frozenset(),
    "sandbox": frozenset({"ground"}),
    "secrets": frozenset({"ground"}),
    "execution": frozenset({"ground", "sandbox", "secrets"}),
    "jobs": frozenset({"ground", "sandbox", "execution"}),
    "store": frozenset({"ground"}),
    "control": frozenset({"ground", "store", "secrets", "sandbox", "execution", "jobs"}),
    "cli": frozenset({"ground", "store", "secrets", "sandbox", "execution", "jobs", "control"}),
}

# Libraries that exactly one module may import.
KEEPER: dict[str, str] = {
    "aiodocker": "execution.engines.docker.daemon",
    "asyncpg": "store.postgres.connection",
    "cronsim": "control.lifecycle.schedules",
    "dagger": "execution.engines.dagger.sdk",
    "jsonschema_rs": "execution.contract.json_schema",
    "mcp": "execution.engines.mcp.client",
    "obstore": "jobs.artifacts.backends.s3",
    "opentelemetry": "control.observe.telemetry",
    "prometheus_client": "jobs.executor.metrics",
    "puremagic": "jobs.artifacts.types.signatures",
    "pyseccomp": "sandbox.init.seccomp",
    "uuid_utils": "ids",
    "yaml": "execution.contract.yaml_source",
}

# Libraries that may only be imported inside a function: they are optional or slow.
LAZY = frozenset(
    [
        "aiodocker",
        "asyncpg",
        "cronsim",
        "dagger",
        "jsonschema_rs",
        "mcp",
        "obstore",
        "opentelemetry",
        "prometheus_client",
        "puremagic",
        "pyseccomp",
        "rich",
    ]
)

MAX_LINES = 500


def modules() -> Iterator[tuple[str, ast.Module]]:
    """Go through the package's modules by dotted name, without the package's own."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        yield name, ast.parse(path.read_text(encoding="utf-8"))


MODULES = dict(modules())


def imports(tree: ast.Module, *, top_level_only: bool = False) -> Iterator[str]:
    """Go through the absolute names that a module imports."""
    typing_only: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            typing_only |= set(ast.walk(node))
    nodes = tree.body if top_level_only else list(ast.walk(tree))
    for node in nodes:
        if node in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield node.module or ""


def room_of(module: str) -> str:
    """Return the room that a module of the package lies in."""
    first = module.split(".")[0]
    return first if first in ROOMS else "ground"


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_point_downwards(module: str) -> None:
    room = room_of(module)
    for imported in imports(MODULES[module]):
        if imported.startswith("praxis_sdk."):
            other = room_of(imported.removeprefix("praxis_sdk."))
            assert other == room or other in ROOMS[room], f"{module} ({room}) imports {imported} ({other})"


def test_every_folder_is_a_room() -> None:
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders == set(ROOMS) - {"ground"}


@pytest.mark.parametrize("library", sorted(KEEPER))
def test_a_library_has_one_keeper(library: str) -> None:
    keepers = {
        module
        for module, tree in MODULES.items()
        if any(name.split(".")[0] == library for name in imports(tree))
    }
    assert keepers == {KEEPER[library]}


@pytest.mark.parametrize("module", sorted(MODULES))
def test_slow_and_optional_libraries_are_imported_when_used(module: str) -> None:
    """A keeper may import its library at once, if nobody imports the keeper before it is used."""
    at_import = set(imports(MODULES[module], top_level_only=True))
    early = {name.split(".")[0] for name in at_import} & LAZY
    assert early <= {library for library, keeper in KEEPER.items() if keeper == module}
    eager = {
        keeper
        for library, keeper in KEEPER.items()
        if library in LAZY
        and library in {n.split(".")[0] for n in imports(MODULES[keeper], top_level_only=True)}
    }
    assert not at_import & {f"praxis_sdk.{keeper}" for keeper in eager}


def test_no_module_is_too_long() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in PACKAGE.rglob("*.py")}
    assert {str(path.relative_to(PACKAGE)): n for path, n in lengths.items() if n > MAX_LINES} == {}


def test_names_that_hide_what_a_module_is_are_not_used() -> None:
    vague = {"utils", "util", "helpers", "helper", "manager", "common", "misc"}
    assert not {module for module in MODULES if set(module.split(".")) & vague}


def imported_modules(module: str) -> set[str]:
    """Return the modules of the package that one imports, for types alone included; a package counts as its own."""
    found: set[str] = set()
    for node in ast.walk(MODULES[module]):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("praxis_sdk"):
            base = (node.module or "").removeprefix("praxis_sdk").removeprefix(".")
            names = {f"{base}.{alias.name}".removeprefix(".") for alias in node.names}
            found |= (names & set(MODULES)) or ({base} & set(MODULES))
    return found - {module}


def test_no_imports_go_round_in_a_circle() -> None:
    TopologicalSorter({module: imported_modules(module) for module in MODULES}).prepare()


def test_no_two_classes_share_a_name() -> None:
    names = Counter(
        node.name for tree in MODULES.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)
    )
    assert [name for name, count in names.items() if count > 1] == []


MOST_MODULES = 15  # of a folder, its own `__init__` left out; one that lists the commands may have more


def test_a_folder_can_be_taken_in_at_a_glance() -> None:
    folders = Counter(path.parent for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")
    crowded = {str(folder.relative_to(PACKAGE)) for folder, count in folders.items() if count > MOST_MODULES}
    assert crowded <= {"cli/commands"}
