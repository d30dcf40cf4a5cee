"""Which host paths an untrusted contract may mount, tried with real runs in the sandbox."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from praxis_sdk.errors import PlatformError, ValidationError
from praxis_sdk.execution.context import RunContext
from praxis_sdk.execution.contracts import ToolContract
from praxis_sdk.execution.engine import SandboxExecutionEngine


@pytest.fixture
async def engine() -> AsyncIterator[SandboxExecutionEngine]:
    """Make an engine for one test."""
    made = SandboxExecutionEngine()
    yield made
    await made.cleanup()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a home with keys, a project in it, and folders outside; returns the project, the workspace."""
    home = tmp_path / "home"
    project = home / "project"
    for folder in (home / ".ssh", project / "data", project / ".cache", tmp_path / "outside" / "shared"):
        folder.mkdir(parents=True)
    for file in (home / ".ssh" / "key", home / ".netrc", project / "data" / "a", tmp_path / "outside" / "a"):
        file.write_text("content")
    (project / "to-keys").symlink_to(home / ".ssh")
    (project / "to-etc").symlink_to("/etc")
    (project / "to-outside").symlink_to(tmp_path / "outside")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("PRAXIS_ALLOW_MOUNTS", raising=False)
    return project


def mounting(
    source: str, *, trust: str = "untrusted", script: str = "ls /x | wc -l", suffix: str = ":ro"
) -> ToolContract:
    """Make a tool that mounts a path of the host."""
    spec: dict[str, Any] = {"command": script, "shell": True, "mounts": {source: f"/x{suffix}"}}
    return ToolContract(name="mounting", engine="sandbox", engine_spec=spec, trust=trust)


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("/etc", "holds the host's configuration"),
        ("/etc/ssl", "holds the host's configuration"),
        ("to-etc", "holds the host's configuration"),
        ("to-etc/ssl", "holds the host's configuration"),
        ("/", "holds "),
        ("/proc/self/root/etc", "holds the host's configuration"),
        ("/proc/self", "holds the host's processes"),
        ("/sys/kernel", "holds the host's devices"),
        ("/dev/shm", "holds the host's devices"),
        ("/run", "holds the sockets of the host's services"),
        ("../.ssh", "is among the hidden files of a home directory"),
        ("~/.ssh", "is among the hidden files of a home directory"),
        ("../.netrc", "is among the hidden files of a home directory"),
        ("to-keys", "is among the hidden files of a home directory"),
        ("data/../../.ssh/key", "is among the hidden files of a home directory"),
        ("..", "holds the hidden files of a home directory"),
        ("../..", "holds the hidden files of a home directory"),
        ("../../outside", "is outside the contract's folder and the workspace"),
        ("to-outside", "is outside the contract's folder and the workspace"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("suffix", [":ro", ""])
async def test_a_mount_from_elsewhere_is_refused(
    engine: SandboxExecutionEngine, place: Path, source: str, told: str, suffix: str
) -> None:
    with pytest.raises(ValidationError, match=r"^engineSpec\.mounts: ") as caught:
        await engine.execute(mounting(source, suffix=suffix), {}, {"workspace": place})
    assert told in str(caught.value)
    assert "--allow-mount" in str(caught.value) or "--trust" in str(caught.value)


@pytest.mark.parametrize("source", ["data", ".", ".cache", "data/../data"])
async def test_what_lies_in_the_workspace_is_mounted(
    engine: SandboxExecutionEngine, place: Path, source: str
) -> None:
    assert (await engine.run(mounting(source), {}, {"workspace": place})).succeeded


def by_the_caller(outside: Path, _: pytest.MonkeyPatch) -> tuple[Path, ...]:
    return (outside,)


def by_the_operator(outside: Path, patch: pytest.MonkeyPatch) -> tuple[Path, ...]:
    patch.setenv("PRAXIS_ALLOW_MOUNTS", f"/nowhere:{outside}")
    return ()


@pytest.mark.parametrize("allow", [by_the_caller, by_the_operator])
async def test_caller_and_operator_can_allow_more_but_no_keys(
    engine: SandboxExecutionEngine,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    allow: Callable[[Path, pytest.MonkeyPatch], tuple[Path, ...]],
) -> None:
    outside = place.parent.parent / "outside"
    context = RunContext(workspace=place, allow_mounts=allow(outside, monkeypatch))
    assert (await engine.run(mounting("to-outside"), {}, context)).stdout == "2\n"
    assert (await engine.run(mounting(str(outside / "shared")), {}, context)).succeeded
    with pytest.raises(ValidationError, match="hidden files"):
        await engine.run(mounting("~/.ssh"), {}, RunContext(workspace=place, allow_mounts=(place.parent,)))


async def test_a_trusted_contract_mounts_what_it_says(engine: SandboxExecutionEngine, place: Path) -> None:
    assert (
        await engine.run(mounting("to-outside", trust="trusted"), {}, {"workspace": place})
    ).stdout == "2\n"


async def test_a_folder_with_a_socket_is_refused(engine: SandboxExecutionEngine, place: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(place / "data" / "d.sock"))
        with pytest.raises(ValidationError, match=r"holds the socket .*d\.sock"):
            await engine.run(mounting("."), {}, {"workspace": place})
        with pytest.raises(ValidationError, match="neither a file nor a directory"):
            await engine.run(mounting("data/d.sock", trust="trusted"), {}, {"workspace": place})


async def test_what_changed_is_not_written_through_a_folder_that_became_a_symlink(
    engine: SandboxExecutionEngine, place: Path
) -> None:
    def swap(stream: str, data: bytes) -> None:
        (place / "data").rename(place / "moved")
        (place / "data").symlink_to(place.parent / ".ssh")

    contract = mounting("data", script="echo evil > /x/key; echo ready", suffix="")
    with pytest.raises(PlatformError, match="cannot be written"):
        await engine.run(contract, {}, RunContext(workspace=place, on_output=swap))
    assert (place.parent / ".ssh" / "key").read_text() == "content"


@pytest.mark.parametrize("source", ["records", "records/secrets", ".", "keys", "keys/team"])
async def test_what_praxis_keeps_is_mounted_by_no_untrusted_contract(
    engine: SandboxExecutionEngine, place: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    for folder in ("records/secrets", "keys/team"):
        (place / folder).mkdir(parents=True)
    monkeypatch.setenv("PRAXIS_HOME", str(place / "records"))
    monkeypatch.setenv("PRAXIS_SECRETS", str(place / "keys"))
    context = RunContext(workspace=place, allow_mounts=(place,))
    with pytest.raises(ValidationError, match=r"holds records or secrets of Praxis"):
        await engine.run(mounting(source), {}, context)
    assert (await engine.run(mounting("data"), {}, context)).stdout == "1\n"


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("/etc/no-such-file", "'/etc/no-such-file' holds the host's configuration"),
        ("~/.no-such-folder", "'~/.no-such-folder' is among the hidden files of a home directory"),
        ("/no-such-folder", "'/no-such-folder' is outside the contract's folder"),
        ("no-such-folder", "'no-such-folder' does not exist below "),
    ],
)
async def test_a_forbidden_place_is_refused_whether_or_not_it_is_there(
    engine: SandboxExecutionEngine, place: Path, source: str, told: str
) -> None:
    with pytest.raises(ValidationError, match=told):
        await engine.run(mounting(source), {}, RunContext(workspace=place))


async def test_an_absolute_path_that_is_not_there_is_told_as_it_stands(
    engine: SandboxExecutionEngine, place: Path
) -> None:
    with pytest.raises(ValidationError, match=r"'/no-such-folder' does not exist \(create it\)"):
        await engine.run(mounting("/no-such-folder", trust="trusted"), {}, RunContext(workspace=place))


@pytest.mark.parametrize("name", ["PRAXIS_SECRET_DB_PASSWORD", "PRAXIS_STORE", "praxis_home"])
async def test_variables_of_praxis_are_passed_on_to_trusted_contracts_only(
    engine: SandboxExecutionEngine, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "correct-horse-battery")

    def reading(trust: str) -> ToolContract:
        spec = {"command": ["printenv", name], "env_passthrough": [name]}
        return ToolContract(name="reading", engine="sandbox", engine_spec=spec, trust=trust)

    with pytest.raises(ValidationError, match=f"'{name}' is meant for Praxis"):
        await engine.run(reading("untrusted"), {})
    assert (await engine.run(reading("trusted"), {})).stdout == "correct-horse-battery\n"
