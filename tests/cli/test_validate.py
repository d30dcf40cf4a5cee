"""`praxis validate`: every problem with its place, for people and for programs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import ContractWriter, only_line, praxis

TROUBLED = """\
name: tool
engine: docker
descripton: typo
params:
  - name: text
    type: strnig
engineSpec:
  command: [echo]
"""


@pytest.fixture
def troubled(tmp_path: Path) -> Path:
    """A contract with two errors and a doubtful key."""
    path = tmp_path / "troubled.contract.yaml"
    path.write_text(TROUBLED)
    return path


def test_every_problem_is_a_line_with_its_place(troubled: Path) -> None:
    done = praxis("validate", troubled)
    assert (done.returncode, done.stderr) == (2, b"")
    *problems, summary = done.stdout.decode().splitlines()
    starts = {line.split(": ", 2)[0] + ": " + line.split(": ", 2)[1] for line in problems}
    assert f"{troubled}:6: params[0].type" in starts
    assert any("image" in line for line in problems)
    assert all(line.startswith(f"{troubled}:") for line in problems)
    assert summary == "1 contract checked: 0 valid, 1 not, 1 warning"


def test_warnings_are_marked_and_strict_makes_errors_of_them(write_contract: ContractWriter) -> None:
    path = write_contract(descripton="typo")
    done = praxis("validate", path)
    warning, summary = done.stdout.decode().splitlines()
    assert done.returncode == 0
    assert "descripton: unknown key [warning]" in warning
    assert "description" in warning
    assert summary == "1 contract checked: 1 valid, 0 not, 1 warning"
    strict = praxis("validate", "--strict", path)
    assert strict.returncode == 2
    assert b"[warning]" not in strict.stdout


def test_files_and_directories_can_be_mixed(
    write_contract: ContractWriter, troubled: Path, tmp_path: Path
) -> None:
    write_contract(file="tools/one/contract.yaml")
    write_contract(file="tools/two/contract.yaml")
    done = praxis("validate", tmp_path / "tools", troubled, tmp_path / "missing.yaml")
    *problems, summary = done.stdout.decode().splitlines()
    assert done.returncode == 2
    assert any("missing.yaml: no such file" in line for line in problems)
    assert summary == "4 contracts checked: 2 valid, 2 not, 1 warning"


def test_a_directory_without_contracts_is_a_mistake(tmp_path: Path) -> None:
    done = praxis("validate", tmp_path)
    assert done.returncode == 2
    assert b"holds no contract" in done.stdout


def test_json_lists_files_with_their_problems(write_contract: ContractWriter, troubled: Path) -> None:
    done = praxis("validate", "--json", troubled, write_contract())
    result = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (2, b"")
    assert (result["schema_version"], result["valid"]) == (1, False)
    bad, good = result["contracts"]
    assert (bad["valid"], bad["name"], good["valid"], good["name"]) == (False, None, True, "tool")
    assert {"file", "line", "field", "message", "remedy"} == set(bad["errors"][0])
    assert [warning["field"] for warning in bad["warnings"]] == ["descripton"]
    assert (good["errors"], good["warnings"]) == ([], [])


def test_nothing_to_check_is_a_usage_error() -> None:
    done = praxis("validate")
    assert done.returncode == 2
    assert "missing argument" in only_line(done.stderr)
