"""`praxis tools`: a table of contracts, with the broken ones below it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import ContractWriter, only_line, praxis


@pytest.fixture
def directory(write_contract: ContractWriter, tmp_path: Path) -> Path:
    """A directory with two tools and a broken contract."""
    write_contract(file="upper/contract.yaml", name="upper", description="Writes\nin capitals")
    parameters = [{"name": "input", "required": "true"}, {"name": "depth", "type": "integer"}]
    write_contract(file="deep/er/scan.contract.yaml", name="scan", params=parameters, engine="sandbox")
    (tmp_path / "broken.contract.yaml").write_text("name: broken\nengine: warp\n")
    (tmp_path / "other.yaml").write_text("no: contract\n")
    return tmp_path


def test_the_table_shows_tools_and_broken_contracts(directory: Path) -> None:
    done = praxis("tools", directory)
    assert (done.returncode, done.stderr) == (0, b"")
    table, broken = done.stdout.decode().split("\n\n")
    heading, *rows = [line.split(maxsplit=2) for line in table.splitlines()]
    assert heading[:2] == ["name", "engine"]
    assert sorted(row[:2] for row in rows) == [["scan", "sandbox"], ["upper", "local"]]
    assert "input*, depth" in table
    assert "deep/er/scan.contract.yaml" in table
    assert "Writes in capitals" in table
    title, line = broken.splitlines()
    assert title == "broken:"
    assert "broken.contract.yaml:2: engine" in line


def test_json_has_parameters_and_problems(directory: Path) -> None:
    done = praxis("tools", directory, "--json")
    result = json.loads(done.stdout)
    assert (done.returncode, done.stderr, result["schema_version"]) == (0, b"", 1)
    tools = {tool["name"]: tool for tool in result["tools"]}
    assert set(tools) == {"scan", "upper"}
    assert tools["scan"]["parameters"][0] == {
        "name": "input",
        "type": "string",
        "description": "",
        "required": True,
        "default": None,
    }
    assert tools["scan"]["trust"] == "trusted"
    assert result["broken"][0]["path"].endswith("broken.contract.yaml")
    assert result["broken"][0]["problems"][0]["line"] == 2


def test_a_bad_directory_is_the_users_mistake(tmp_path: Path) -> None:
    done = praxis("tools", tmp_path / "missing")
    assert (done.returncode, done.stdout) == (2, b"")
    assert "missing" in only_line(done.stderr)


def test_a_directory_without_tools_says_so(tmp_path: Path) -> None:
    done = praxis("tools", tmp_path)
    assert done.returncode == 0
    assert only_line(done.stdout) == f"no contract that can be used in {tmp_path}"
