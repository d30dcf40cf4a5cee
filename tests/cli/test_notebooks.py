"""`praxis exec analysis.ipynb`: cells in order, in one interpreter, as a notebook runs them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import AtHome, only_line


def write(path: Path, *cells: str | dict[str, Any], **fields: Any) -> None:
    """Write a notebook as Jupyter does, with outputs, and text between the cells."""
    documents: list[dict[str, Any]] = []
    for cell in cells:
        own = {"source": cell} if isinstance(cell, str) else cell
        documents.append({"cell_type": "markdown", "metadata": {}, "source": ["# %title\n", "!text"]})
        shown = [{"output_type": "stream", "name": "stdout", "text": ["x" * 1000]}]
        documents.append({"cell_type": "code", "metadata": {}, "outputs": shown, "execution_count": 7, **own})
    path.write_text(
        json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": documents, **fields})
    )


def test_cells_run_in_order_and_show_what_they_end_with(at_home: AtHome) -> None:
    write(
        at_home.cwd / "a.ipynb",
        "import asyncio\nx = 2\nx",
        {"source": ["y = await asyncio.sleep(0, 5)\n", "y; \n"]},
        "None",
        "display('text')\nprint(x + y)",
        "a = (x\n % y)\n'''\n%no magic\n'''\na * 21",
    )
    done = at_home("exec", "a.ipynb", "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"2\n'text'\n7\n", b"")
    assert at_home.json("submit", "a.ipynb", "--wait")["execution"]["outputs"] == 42


def test_an_exception_names_the_cell(at_home: AtHome) -> None:
    write(at_home.cwd / "e.ipynb", "def f(n):\n    return 1 / n", "print('before')\nf(0)", "print('never')")
    done = at_home("exec", "e.ipynb", "--quiet")
    assert (done.returncode, done.stdout) == (1, b"before\n")
    assert done.stderr.decode().splitlines()[:5] == [
        "Traceback (most recent call last):",
        '  File "e.ipynb, cell 2", line 2, in <module>',
        "    f(0)",
        '  File "e.ipynb, cell 1", line 2, in f',
        "    return 1 / n",
    ]


def test_parameters_replace_those_of_the_cell_with_the_tag(at_home: AtHome) -> None:
    write(at_home.cwd / "p.ipynb", {"source": "n = 1", "metadata": {"tags": ["parameters"]}}, "n * 2")
    assert at_home.json("exec", "p.ipynb", "-p", "n=21")["result"]["outputs"] == 42
    write(at_home.cwd / "q.ipynb", "n = 1")
    failed = at_home.json("exec", "q.ipynb", "-p", "n=21")["result"]["failure"]
    assert (failed["category"], failed["message"]) == (
        "VALIDATION_ERROR",
        "payload.parameters.n: no cell has the tag 'parameters'; give one the tag, or read parameters['n']",
    )


def test_a_misspelt_parameter_is_refused_with_those_that_there_are(at_home: AtHome) -> None:
    tagged = {"source": "alpha = 0.1\nn, m = 3, 4", "metadata": {"tags": ["parameters"]}}
    write(at_home.cwd / "p.ipynb", tagged, "alpha * n")
    failed = at_home.json("exec", "p.ipynb", "-p", "alpa=2")["result"]["failure"]
    assert (failed["category"], failed["message"]) == (
        "VALIDATION_ERROR",
        "payload.parameters.alpa: no cell mentions it; the cell with the tag 'parameters' sets alpha, n, m",
    )
    write(
        at_home.cwd / "q.ipynb", tagged, "alpha * other"
    )  # papermill gives names that only later cells use, too
    assert at_home.json("exec", "q.ipynb", "-p", "other=20")["result"]["outputs"] == 2.0


def test_tags_of_cells_mean_what_they_mean_elsewhere(at_home: AtHome) -> None:
    write(
        at_home.cwd / "t.ipynb",
        {"source": "%%bash\nexit 1", "metadata": {"tags": ["skip-execution"]}},
        {"source": "1 / 0", "metadata": {"tags": ["raises-exception"]}},
        "5",
        "_ + 1",
    )
    done = at_home("exec", "t.ipynb", "--quiet")
    assert (done.returncode, done.stdout) == (0, b"5\n")
    assert done.stderr.startswith(b'Traceback (most recent call last):\n  File "t.ipynb, cell 2", line 1')
    assert done.stderr.endswith(b"ZeroDivisionError: division by zero\n")
    assert at_home.json("exec", "t.ipynb")["result"]["outputs"] == 6


def test_a_notebook_of_the_old_format_runs(at_home: AtHome) -> None:
    cells = [{"cell_type": "code", "language": "python", "input": ["x = 4\n", "x * 2"], "outputs": []}]
    document = {
        "nbformat": 3,
        "nbformat_minor": 0,
        "metadata": {"name": ""},
        "worksheets": [{"cells": cells}],
    }
    (at_home.cwd / "old.ipynb").write_text(json.dumps(document))
    assert at_home.json("exec", "old.ipynb")["result"]["outputs"] == 8


def test_what_a_notebook_has_shown_is_neither_handed_over_nor_counted(at_home: AtHome) -> None:
    shown = [{"output_type": "display_data", "data": {"image/png": "A" * (2 << 20)}, "metadata": {}}]
    write(at_home.cwd / "large.ipynb", {"source": "1 + 1", "outputs": shown})
    write(at_home.cwd / "small.ipynb", "1 + 1")
    first = at_home.json("exec", "large.ipynb")["result"]
    assert first["outputs"] == 2
    (at_home.cwd / "small.ipynb").replace(at_home.cwd / "large.ipynb")
    assert at_home.json("exec", "large.ipynb")["result"]["dedupe_key"] == first["dedupe_key"]


def test_a_notebook_in_a_folder_imports_its_neighbours(at_home: AtHome) -> None:
    folder = at_home.cwd / "project"
    folder.mkdir()
    (folder / "helper.py").write_text("VALUE = 3")
    write(folder / "n.ipynb", "import helper\nhelper.VALUE")
    assert at_home.json("exec", "project", "--entrypoint", "n.ipynb")["result"]["outputs"] == 3


@pytest.mark.parametrize(
    ("cell", "told"),
    [
        ("# plot\n%matplotlib inline", "cell 2, line 2: '%matplotlib inline' is IPython, not Python (remove the "),
        ("%%bash\nls 'x", "cell 2, line 1: '%%bash' is IPython, not Python (remove the cell, or write it in Python)"),
        ("if 1:\n    !ls -l", "cell 2, line 2: '!ls -l' is IPython, not Python"),
        ("x = !ls", "cell 2, line 1: 'x = !ls' is IPython, not Python"),
        ("x = %time f()", "cell 2, line 1: 'x = %time f()' is IPython, not Python"),
        ("print?", "cell 2, line 1: 'print?' is IPython, not Python (remove the line; help is of no use in a job)"),
        ("!pip install polars", "cell 2, line 1: '!pip install polars' is IPython, not Python (remove the line"),
    ],
)  # fmt: skip
def test_what_only_ipython_understands_is_refused_with_its_place(
    at_home: AtHome, cell: str, told: str
) -> None:
    write(at_home.cwd / "m.ipynb", "print('must not run')", cell)
    done = at_home("exec", "m.ipynb")
    assert (done.returncode, done.stdout) == (2, b"")
    assert only_line(done.stderr).startswith(f"praxis: m.ipynb: {told}")
    # A notebook that comes by another way is refused by the job itself, before anything of it has run.
    files = {"m.ipynb": (at_home.cwd / "m.ipynb").read_text()}
    payload = {"schema_version": "1.0", "runtime": "python", "files": files, "entrypoint": "m.ipynb"}
    (at_home.cwd / "payload.json").write_text(json.dumps(payload))
    found = at_home.json("submit", "payload.json", "--wait")["execution"]
    assert found["failure"]["category"] == "VALIDATION_ERROR"
    assert found["failure"]["message"].startswith("payload.files.m.ipynb: cell 2, line ")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "not a notebook: not valid JSON: "),
        ("[]", "not a notebook: 'nbformat' is missing (save it again with Jupyter)"),
        ('{"nbformat": 2, "worksheets": []}', "nbformat 2 is not supported (save it as nbformat 4)"),
        ('{"nbformat": 4, "cells": 7}', "not a notebook: 'cells' is not a list"),
        ('{"nbformat": 4, "cells": [7]}', "not a notebook: a cell has no type"),
        (
            '{"nbformat": 4, "cells": [{"cell_type": "code", "source": 7}]}',
            "not a notebook: the source of a cell",
        ),
        ('{"nbformat": 3, "worksheets": [{"cells": 7}]}', "not a notebook: 'cells' is not a list"),
        (
            '{"nbformat": 4, "metadata": {"kernelspec": {"language": "R"}}}',
            "a notebook for 'R' (only notebooks for",
        ),
    ],
)
def test_a_broken_notebook_is_one_line(at_home: AtHome, text: str, told: str) -> None:
    (at_home.cwd / "b.ipynb").write_text(text)
    done = at_home("exec", "b.ipynb")
    assert (done.returncode, done.stdout) == (2, b"")
    assert only_line(done.stderr).startswith(f"praxis: b.ipynb: {told}")
