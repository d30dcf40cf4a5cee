"""`praxis run --output DIR`: what is collected, and what is said of the rest."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import ContractWriter, only_line, praxis

SCRIPT = "mkdir d; echo a > a.csv; echo b > d/b.txt; ln -s /etc/hostname d/link.txt"


def collecting(write_contract: ContractWriter, patterns: list[str], script: str = SCRIPT) -> Path:
    """Write a sandboxed tool that makes two files and a symlink."""
    spec = {"command": ["sh", "-c", script], "outputs": patterns}
    return write_contract(engine="sandbox", trust="untrusted", spec=spec)


def test_only_what_a_pattern_asks_for_is_told_as_left_out(
    write_contract: ContractWriter, tmp_path: Path
) -> None:
    done = praxis("run", collecting(write_contract, ["*.csv"]), "--output", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert b"link.txt" not in done.stderr
    done = praxis("run", collecting(write_contract, ["d/*"]), "--output", tmp_path / "out")
    assert b"/work/d/link.txt was not exported: it is a symlink" in done.stderr
    assert sorted(path.name for path in (tmp_path / "out").rglob("*.*")) == ["a.csv", "b.txt"]


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/nowhere"])
def test_a_folder_that_cannot_be_written_is_refused_before_the_tool_runs(
    write_contract: ContractWriter, tmp_path: Path, place: str
) -> None:
    (tmp_path / "file").write_text("mine")
    contract = collecting(write_contract, ["*.csv"], "echo ran")
    done = praxis("run", contract, "--output", place, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, b"")
    assert only_line(done.stderr).startswith(f"praxis: outputs: '{place}' cannot be written: ")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_for_a_tool_without_outputs_is_told(write_contract: ContractWriter, tmp_path: Path) -> None:
    done = praxis("run", write_contract("echo ran"), "--output", tmp_path / "out")
    assert done.stdout == b"ran\n"
    assert b"no output file was collected: the contract has no 'outputs'" in done.stderr
