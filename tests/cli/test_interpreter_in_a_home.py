"""An interpreter in a home, as pyenv and uv install them: shown in the sandbox, and nothing else of that home."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pip
import pytest

from tests.cli.conftest import environment


@pytest.fixture
def interpreter() -> Iterator[Path]:
    """Put an interpreter below this user's home (/root, for root), its library linked to the real one."""
    home = Path("/root") if os.geteuid() == 0 else Path.home()
    folder = Path(tempfile.mkdtemp(prefix=".praxis-test-", dir=home))
    try:
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        prefix = folder / "versions" / "3"
        (prefix / "bin").mkdir(parents=True)
        library = prefix / "lib" / version
        library.mkdir(parents=True)
        shutil.copy(os.path.realpath(sys.executable), prefix / "bin" / version)
        for name in ("python3", "python"):
            (prefix / "bin" / name).symlink_to(version)
        for entry in Path(sysconfig.get_path("stdlib")).iterdir():
            if entry.name not in ("site-packages", "dist-packages"):
                (library / entry.name).symlink_to(entry)
        for name in ("site-packages", "dist-packages"):  # the one or the other, by who built the interpreter
            (library / name).mkdir()
            (library / name / "pip").symlink_to(Path(pip.__file__).parent)
        (folder / "secret").write_text("secret")
        yield prefix / "bin" / version
    finally:
        shutil.rmtree(folder)


def run(interpreter: Path, home: Path, *words: str) -> subprocess.CompletedProcess[bytes]:
    """Run the command by an interpreter that finds the packages of this one."""
    return subprocess.run(
        [interpreter, "-m", "praxis_sdk.cli", *words],
        env=environment(PRAXIS_HOME=str(home), PYTHONPATH=os.pathsep.join(filter(None, sys.path))),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=100,
        check=False,
    )


def test_jobs_run_with_an_interpreter_in_a_home_and_see_nothing_else_of_it(
    interpreter: Path, tmp_path: Path
) -> None:
    top = interpreter.parents[3]
    code = (
        f"import os, sys\nprint(os.listdir({str(top.parent)!r}), os.listdir({str(top)!r}))\nsys.base_prefix"
    )
    done = run(interpreter, tmp_path / "home", "exec", "-c", code, "--json")
    assert done.returncode == 0, done.stdout
    result = json.loads(done.stdout)["result"]
    assert result["outputs"] == str(interpreter.parents[1])
    assert result["stdout"]["text"] == f"['{top.name}'] ['versions']\n"
    examined = run(interpreter, tmp_path / "home", "doctor", "--json")
    assert json.loads(examined.stdout)["sandbox_works"] is True
