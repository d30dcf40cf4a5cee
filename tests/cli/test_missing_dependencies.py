"""What an environment lacks is told with the remedy, and looked for before it is believed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.cli.conftest import AtHome


@pytest.mark.parametrize(
    ("code", "category", "told"),
    [
        (
            "import no_such_module.part",
            "DEPENDENCY_ERROR",
            "has no module 'no_such_module' (build one: praxis env build NAME -r requirements.txt with its package,",
        ),
        ("import pandas", "DEPENDENCY_ERROR", "has no module 'pandas' (run with --env science)"),
        (
            "import neighbour",
            "DEPENDENCY_ERROR",
            "if it is your own file, run its folder: praxis exec FOLDER --entrypoint FILE)",
        ),
        (
            "import json.no_such_part",
            "USER_CODE_ERROR",
            "ModuleNotFoundError: No module named 'json.no_such_part'",
        ),
        (
            "raise ModuleNotFoundError(\"No module named 'json'\")",
            "USER_CODE_ERROR",
            "ModuleNotFoundError: No module named 'json'",
        ),
    ],
)
def test_a_module_that_the_environment_lacks_is_named(
    at_home: AtHome, code: str, category: str, told: str
) -> None:
    failed = at_home.json("exec", "-c", code)["result"]["failure"]
    assert failed["category"] == category
    assert told in failed["message"]


def test_a_module_that_came_with_the_job_is_the_jobs_own_affair(at_home: AtHome) -> None:
    folder = at_home.cwd / "folder/lib"
    folder.mkdir(parents=True)
    (folder / "mine.py").write_text("")
    (folder.parent / "main.py").write_text("import mine")
    failed = at_home.json("exec", "folder")["result"]["failure"]
    assert (failed["category"], failed["message"]) == (
        "USER_CODE_ERROR",
        "ModuleNotFoundError: No module named 'mine'",
    )


def test_a_program_that_this_host_lacks_is_named(at_home: AtHome) -> None:
    def run(*program: str) -> dict[str, Any]:
        done = at_home("exec", "--json", "-r", "command", "--", *program)
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    document = run("no-such-program")
    failed = document["result"]["failure"]
    assert document["exit_status"] == 127
    assert failed["category"] == "DEPENDENCY_ERROR"
    assert "has a program 'no-such-program' (install it, or hand it over" in failed["message"]
    said = run("sh", "-c", "no-such-program")["result"]["failure"]
    assert said["category"] == "USER_CODE_ERROR"
