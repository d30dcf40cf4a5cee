"""`praxis validate`: every problem with its place, for people and for programs."""

from __future__ import annotations

import json
import os
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


GOOD = "name: good\nengine: sandbox\nengineSpec: {command: [x]}\n"
BOMB = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{this}: &{this} [{','.join([f'*{last}'] * 10)}]\n"
    for last, this in zip("abcdefgh", "bcdefghi", strict=True)
)
BAD: dict[str, tuple[bytes, str]] = {
    "tab.yaml": (b"name: a\nengineSpec:\n\tcommand: [x]\n", "3: a tab cannot be used here"),
    "bytes.yml": (b"name: a\xff\nengine: sandbox\n", "1: is not UTF-8"),
    "wide.yaml": ("name: a\n".encode("utf-16"), "1: is UTF-16"),
    "nameless.yaml": (b"engine: sandbox\nengineSpec: {command: [x]}\n", "1: name: missing (give the tool a name"),
    "bomb.yaml": (BOMB.encode(), "holds more than 20000 values"),
    "empty.yaml": (b"", "1: is empty"),
    "remark.yaml": (b"# nothing here\n", "1: is empty"),
    "twice.yaml": (f"{GOOD}name: b\n".encode(), "4: name: given twice, first in line 1"),
    "norway.yaml": (GOOD.replace("good", "no").encode(), "1: name: must be text, not true or false (put quotes"),
    "choices.yaml": (f"{GOOD}params: [{{name: m, enum: [on, off]}}]\n".encode(),
                     "4: params[0].constraints: 'enum' holds true"),
    "octal.yaml": (f"{GOOD}params:\n- name: m\n  type: int\n  default: 0755\n".encode(), "7: params[0].default: "),
    "sexagesimal.yaml": (f"{GOOD}params:\n- {{name: m, type: int, default: 1:30}}\n".encode(),
                         "5: params[0].default: "),
    "engineless.yaml": (b"name: a\ncommand: [ls]\n", "1: engine: missing"),
    "misspelt.yaml": (GOOD.replace("sandbox", "sandbx").encode(), "2: engine: 'sandbx' is not known"),
    "unknown.yaml": (b"{ not yaml", "1: a quote or a bracket is not closed"),
    "several.yaml": (f"{GOOD}---\n{GOOD}".encode(), "4: holds several documents"),
    "loop.yaml": (b"engineSpec: &a {b: *a}\nname: x\n", "1: engineSpec.b: an alias in it refers to itself"),
}  # fmt: skip
GOOD_ONES = {
    "bom.yaml": b"\xef\xbb\xbf" + GOOD.encode(),
    "anchors.yaml": b"x-base: &base {command: [x]}\nname: a\nengine: sandbox\nengineSpec: {<<: *base}\n",
    "json.yaml": json.dumps({"name": "a", "engineSpec": {"command": ["x"]}}).encode(),
}
OTHERS = {
    "compose.yaml": b"name: shop\nservices: {web: {image: x}}\n",
    "manifests.yaml": b"kind: A\n---\nkind: B\n",
    "workflow.yml": b"name: ci\non: [push]\njobs: {}\n",
    "template.yaml": b"Resources: !Sub '${A}'\n",
}


def test_nothing_that_looks_like_a_contract_or_cannot_be_read_is_passed_over(tmp_path: Path) -> None:
    contents = {name: data for name, (data, _) in BAD.items()} | GOOD_ONES | OTHERS
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data)
    os.mkfifo(tmp_path / "pipe.yaml")
    done = praxis("validate", tmp_path)
    lines = done.stdout.decode().splitlines()
    assert done.returncode == 2
    for name, (_, told) in BAD.items():
        assert any(line.startswith(f"{tmp_path / name}:") and told in line for line in lines), (name, lines)
    assert any("pipe.yaml: is not a regular file" in line for line in lines)
    assert not [line for line in lines if any(name in line for name in (*GOOD_ONES, *OTHERS))]
    assert lines[-1].startswith(f"{len(BAD) + 4} contracts checked: 3 valid, {len(BAD) + 1} not, ")


def test_mounts_that_a_run_would_refuse_are_told(tmp_path: Path) -> None:
    path = tmp_path / "tool.yaml"
    path.write_text(GOOD.replace("command: [x]", "command: [ls, /x], mounts: {/etc: '/x:ro'}"))
    done = praxis("validate", path)
    assert done.returncode == 0
    assert b"engineSpec.mounts: '/etc' holds the host's configuration" in done.stdout
    assert praxis("validate", "--strict", path).returncode == 2
    run = praxis("run", path, "--allow-mount", "/etc")
    assert (run.returncode, run.stdout) == (2, b"")
    assert "holds the host's configuration" in only_line(run.stderr)


def test_a_mount_elsewhere_is_allowed_by_name(tmp_path: Path) -> None:
    for name in ("tools", "data", "here"):
        (tmp_path / name).mkdir()
    path = tmp_path / "tools" / "tool.yaml"
    mounts = json.dumps({str(tmp_path / "data"): "/x:ro"})
    path.write_text(GOOD.replace("command: [x]", f"command: [ls, /x], mounts: {mounts}"))
    refused = praxis("run", path, cwd=tmp_path / "here")
    assert refused.returncode == 2
    assert f"allow it with --allow-mount {tmp_path / 'data'}" in only_line(refused.stderr)
    assert praxis("run", path, "--allow-mount", tmp_path / "data", cwd=tmp_path / "here").returncode == 0
