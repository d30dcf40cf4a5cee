"""A notebook as a script: its cells in order, each shown as a notebook shows it."""

from __future__ import annotations

import ast
import builtins
import linecache
import re
import sys
import traceback

from praxis_sdk.jobs.harness import figures, script, tracebacks
from praxis_sdk.jobs.harness.notebook import Cell, NotebookError, read_cells

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Notebook(script.Script):
    """Cells that are about to run, in one module and one event loop.

    The source is the notebook's file. Parameters are names after the cell with the tag `parameters`, as papermill has
    it, and all of them are in `parameters`.
    """

    def run(self) -> tuple[Any, bool]:
        """Run all cells; the value is that of the last one. See `Script.run`."""
        try:
            cells = read_cells(self.source.encode("utf-8", "surrogatepass"))
        except NotebookError as problem:
            raise script.BadParameter(f"files.{self.name}: {problem}") from None
        cells = [cell for cell in cells if "skip-execution" not in cell.tags]
        check_parameters(cells, self.parameters)
        sys.modules["__main__"] = self.module
        self.module.display = display
        if sys.excepthook is sys.__excepthook__:
            sys.excepthook = (
                traceback.print_exception
            )  # the interpreter's own looks for files of the cells' names
        value, flags = None, 0
        try:
            for cell in cells:
                if value is not None:
                    display(value)
                    builtins._ = value  # type: ignore[attr-defined]  # as at any prompt
                value, flags = self._run_cell(cell, flags)
                if cell is not cells[-1]:
                    figures.save_open()
        finally:
            if self._runner is not None:
                self._runner.close()
        return value, False

    def _run_cell(self, cell: Cell, flags: int) -> tuple[Any, int]:
        """Run a cell; returns the value that it shows, and the features of `__future__` from here on."""
        self.name = (
            f"{self.module.__file__.rpartition('/')[2]}, cell {cell.number}"  # what tracebacks call it
        )
        lines = cell.source.splitlines(keepends=True)
        linecache.cache[self.name] = (len(cell.source), None, lines, self.name)
        tree: Any = compile(cell.source, self.name, "exec", ast.PyCF_ONLY_AST | flags, dont_inherit=True)
        body = tree.body
        last = body.pop() if body and isinstance(body[-1], ast.Expr) else None
        code = self._compile(body, flags)
        flags = code.co_flags & script.FUTURES
        ending = None if last is None else self._compile(last.value, flags)
        value = None
        try:
            self._evaluate(code)
            value = None if ending is None else self._evaluate(ending)
        except Exception as error:
            if "raises-exception" not in cell.tags:
                raise
            tracebacks.report(error)
        if "parameters" in cell.tags:
            vars(self.module).update(self.parameters)
        return (None if cell.source.rstrip().endswith(";") else value), flags


def check_parameters(cells: list[Cell], parameters: dict[str, Any]) -> None:
    """Refuse parameters that no cell would see.

    Raises:
        BadParameter: the notebook takes none, or its code does not mention the name of one.
    """
    source = "\n".join(cell.source for cell in cells)
    if re.search(r"\bparameters\b", source):
        return
    tagged = [cell for cell in cells if "parameters" in cell.tags]
    for name in parameters:
        if not tagged:
            raise script.BadParameter(
                f"parameters.{name}: no cell has the tag 'parameters'; give one the tag, or read parameters[{name!r}]"
            )
        if not re.search(rf"\b{re.escape(name)}\b", source):
            choices = ", ".join(dict.fromkeys(_names_set(tagged))) or "nothing"
            raise script.BadParameter(
                f"parameters.{name}: no cell mentions it; the cell with the tag 'parameters' sets {choices}"
            )


def _names_set(cells: list[Cell]) -> list[str]:
    """Return the names that cells give a value, in the order of their text."""
    found: list[str] = []
    for cell in cells:
        try:
            tree = ast.parse(cell.source)
        except SyntaxError:  # told where the cell runs
            continue
        found += [
            node.id
            for node in ast.walk(tree)
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
        ]
    return found


def display(*values: Any) -> None:
    """Show values as a notebook does where it has nothing but text."""
    for value in values:
        if type(value).__name__ == "Figure" and hasattr(value, "savefig"):
            figures.save_one(value)
        else:
            print(repr(value))
