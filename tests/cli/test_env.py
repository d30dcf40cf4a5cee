"""`praxis env`: build, list, show, verify, remove."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.cli.conftest import AtHome, only_line


@pytest.fixture
def alone(at_home: AtHome, tmp_path: Path) -> AtHome:
    """Give a test a home whose environments it may change; none is built."""
    at_home.home = tmp_path / "own"
    at_home.variables["PRAXIS_HOME"] = str(at_home.home)
    return at_home


def test_a_build_tells_its_steps_and_prints_the_version(alone: AtHome) -> None:
    done = alone("env", "build", "lab", "--requirements", "/dev/null", "--preload", "json")
    assert done.returncode == 0
    version = done.stdout.decode().strip()
    assert version.startswith("lab-")
    steps = done.stderr.decode().splitlines()
    assert steps[0] == "praxis: creating the environment"
    assert steps[-1] == f"praxis: {version} is ready"
    assert alone("exec", "-c", "1", "--env", "lab", "--quiet").returncode == 0
    pinned = alone.json("exec", "-c", "1", "--env", version, "--fresh")
    assert pinned["result"]["env_version"] == version
    assert alone("env", "build", "lab", "-r", "/dev/null", "--quiet").stderr == b""


def test_a_build_of_an_unknown_name_needs_requirements(alone: AtHome) -> None:
    done = alone("env", "build", "lab")
    assert done.returncode == 2
    assert "needs requirements" in only_line(done.stderr)


def test_what_comes_with_praxis_is_built_when_it_is_first_used(alone: AtHome) -> None:
    done = alone("exec", "-c", "print('ran')")
    assert (done.returncode, done.stdout) == (0, b"ran\n")
    assert b"praxis: creating the environment\n" in done.stderr


def test_list_and_show(at_home: AtHome) -> None:
    listed = at_home("env", "list").stdout.decode().splitlines()
    assert listed[0].split() == ["environment", "python", "packages", "built", "(UTC)"]
    assert listed[1].startswith("base-")
    assert "*" in listed[1]
    found = at_home.json("env", "list")["environments"]
    assert [(one["name"], one["newest"]) for one in found] == [("base", True)]
    shown = at_home("env", "show", "base").stdout.decode()
    assert shown.startswith(f"environment  {found[0]['env_version']}\n")
    details = at_home.json("env", "show", found[0]["env_version"])
    assert details["packages"] == {}
    assert details["preload"]


def test_an_empty_home_lists_nothing_and_is_not_made(alone: AtHome) -> None:
    assert alone("env", "list").returncode == 0
    assert alone.json("env", "list")["environments"] == []
    assert not alone.home.exists()


def test_verify_finds_what_was_changed_and_remove_deletes(alone: AtHome) -> None:
    version = alone.json("exec", "-c", "1")["result"]["env_version"]
    assert alone("env", "verify", "base").stdout.decode() == f"{version} is as it was built\n"
    config = alone.home / "environments" / version / "pyvenv.cfg"
    config.chmod(0o644)
    config.write_text("home = /elsewhere\n")
    damaged = alone("env", "verify", "base")
    assert damaged.returncode == 1
    assert b"pyvenv.cfg" in damaged.stdout
    assert alone.json("env", "verify", version)["intact"] is False
    assert alone("env", "remove", "base").stdout.decode() == f"removed {version}\n"
    assert alone.json("env", "list")["environments"] == []
    assert version not in os.listdir(alone.home / "environments")


@pytest.mark.parametrize("command", ["show", "verify", "remove"])
def test_an_unknown_environment_is_one_line(at_home: AtHome, command: str) -> None:
    done = at_home("env", command, "nowhere")
    assert (done.returncode, done.stdout) == (2, b"")
    assert only_line(done.stderr).startswith("praxis: no environment 'nowhere'; there are: base")
